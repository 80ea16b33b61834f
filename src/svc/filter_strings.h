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

/* Rewrites the n bytes at text by the rules for this semantic type, in steps. Any bytes are allowed
 * (R151). They stay where they are until a step says that it is done. */
void filter_strings_start(struct filter_strings *s, uint32_t semantic_type, char *text, size_t n);

enum filter_strings_result {
    FILTER_STRINGS_DONE,
    FILTER_STRINGS_MORE,    /* all of *work is spent: call again */
    FILTER_STRINGS_REFUSED, /* it takes more than the packet may have: not to be passed on */
};

/* Takes of *work what it needs, in instructions of svc/rex, of some 5 ns, or this many bytes. */
#define FILTER_STRINGS_UNIT 32
enum filter_strings_result filter_strings_step(struct filter_strings *s, uint64_t *work);

#endif
