/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILTER_CODE_H
#define SVC_FILTER_CODE_H

/*
 * The bytecode of a trace filter: which fields of which message may pass (service.md R139-R144). A
 * program is a list of messages that refer to each other by index; message 0 is Trace.
 */

#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"

struct filter_code;

/* What happens to a field. RULE_NESTED: `arg` is the index of the message that filters it;
 * RULE_STRING: `arg` is the semantic type that picks the string rules. */
enum filter_action { FILTER_DROP = 0, FILTER_SIMPLE, FILTER_NESTED, FILTER_STRING };

struct filter_rule {
    enum filter_action action;
    uint32_t arg;
};

/* Builds a program from the bytecode and an overlay (empty: none). *out: own, filter_code_free.
 * ERR_BAD_CONFIG with a static text in *why when either is invalid; -ENOMEM. Memory is bounded by
 * the number of instructions, not by the numbers in them. */
int filter_code_new(struct bytes_view bytecode, struct bytes_view overlay, struct filter_code **out,
                    const char **why);
void filter_code_free(struct filter_code *code); /* NULL allowed */

/* The rule for a field of message `msg` (an index that came out of this program, or 0). */
struct filter_rule filter_code_find(const struct filter_code *code, uint32_t msg, uint32_t field);

#endif
