/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILTER_STRINGS_H
#define SVC_FILTER_STRINGS_H

/*
 * The string rules of a trace filter: they redact parts of strings that match (service.md
 * R146-R152). Lengths never change, so a string is rewritten where it stands.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"

struct filter_strings;

/* Empty set of rules. *out: own, filter_strings_free. 0 or -ENOMEM. */
int filter_strings_new(struct filter_strings **out);
void filter_strings_free(struct filter_strings *s); /* NULL allowed */

/* Loads the rules of an encoded StringFilterChain behind those that are there; a rule with the name
 * of a loaded one takes its place (R146). ERR_BAD_CONFIG with one line in why; -ENOMEM. */
int filter_strings_load(struct filter_strings *s, struct bytes_view chain, char *why,
                        size_t whylen);

/* Begins a packet: the work on all its strings together has a limit. */
void filter_strings_begin(struct filter_strings *s);

/* Rewrites the n bytes at text by the rules for this semantic type. Any bytes are allowed (R151).
 * False when that would take more work than the packet may have: the string is not to be passed on.
 */
bool filter_strings_apply(struct filter_strings *s, uint32_t semantic_type, char *text, size_t n);

#endif
