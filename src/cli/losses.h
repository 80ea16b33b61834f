/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_LOSSES_H
#define CLI_LOSSES_H

/* What is missing from a trace, why, and what would have kept it. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "reactor/bytes.h"

struct losses;

/* Never NULL. */
struct losses *losses_new(void);

/* NULL is fine. */
void losses_free(struct losses *l);

/* Looks at one packet (without framing, not compressed). Costs a walk over its top-level fields. */
void losses_packet(struct losses *l, struct bytes_view packet);

/* Looks at a whole trace file, which others may still append to. Errors are silent: a report about
 * losses is an extra. */
void losses_file(struct losses *l, const char *path);

/* Number of causes found; 0 means that nothing is known to be missing. Data that a ring buffer
 * overwrote on purpose counts. */
unsigned losses_count(struct losses *l);

/* One line per cause: what was lost, where, and the setting that would have kept it. Each line
 * begins with `prefix`. */
void losses_report(struct losses *l, FILE *f, const char *prefix);

/* One line per buffer: size, what went through, what was overwritten. Nothing without statistics.
 */
void losses_buffers(const struct losses *l, FILE *f);

/* Name of a process as the trace has it, or "". */
const char *losses_process(const struct losses *l, int32_t pid);

/* True once a packet with service statistics was seen: without one nothing can be said. */
bool losses_has_stats(const struct losses *l);

#endif
