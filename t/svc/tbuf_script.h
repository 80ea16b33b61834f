/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small interpreter for the script language of spec/trace_buffer.md section 19.1. Used by tests:
 * a step that does not hold fails the running Criterion case and names the case, the step and what
 * was seen.
 */
#ifndef T_SVC_TBUF_SCRIPT_H
#define T_SVC_TBUF_SCRIPT_H

/* Runs a script whose expectations are in its steps. */
void tbuf_script_run(const char *id, const char *script);

/* Runs a script with recorded walks (section 20). `walks`: what the RD steps must give, such as
 * "a9(0) b9(65) / -"; "(n*)" means: all bits of n, others allowed. `stats`: "name=value ..." of the
 * original buffer at the end. Without a `new` step the buffer has 4096 bytes. */
void tbuf_script_record(const char *id, const char *script, const char *walks, const char *stats);

#endif
