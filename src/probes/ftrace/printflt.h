/* SPDX-License-Identifier: Apache-2.0 */
/* printflt: which ftrace/print texts are recorded (FtraceConfig.print_filter). */
#ifndef PROBES_FTRACE_PRINTFLT_H
#define PROBES_FTRACE_PRINTFLT_H

#include <stdbool.h>
#include <stddef.h>

#include "probes/ptext.h"

struct printflt_rule {
    char *type;   /* own; NULL for a plain prefix rule (R104), else an atrace rule (R105) */
    char *prefix; /* own */
    bool allow;
};

struct printflt {
    struct printflt_rule *rules; /* own */
    size_t n;
};

/* Copies its arguments. */
void printflt_add(struct printflt *f, struct ptext prefix, const struct ptext *atrace_type,
                  bool allow);
void printflt_fini(struct printflt *f);

/* The first matching rule decides; without one the text is allowed (R103). */
bool printflt_allows(const struct printflt *f, struct ptext text);

#endif
