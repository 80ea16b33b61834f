/* SPDX-License-Identifier: Apache-2.0 */
/* cpuread: raw pages from the per-CPU pipes of one tracefs instance (probes.md 4.8). */
#ifndef PROBES_FTRACE_CPUREAD_H
#define PROBES_FTRACE_CPUREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/tracefs.h"

#define CPUREAD_BATCH 32 /* R54: pages that are read before they are parsed */

struct cpuread {
    int *fds; /* own; one per configured CPU, -1 = could not be opened; NULL = closed */
    unsigned n;
    unsigned page_size;
};

enum cpuread_end {
    CPUREAD_MORE,      /* the batch is full, there may be more */
    CPUREAD_CAUGHT_UP, /* the kernel has nothing more for now */
    CPUREAD_ERROR,     /* an error that should not happen (R55) */
    CPUREAD_PARTIAL,   /* a page came short */
};

/* Opens the pipes. A CPU whose pipe cannot be opened is left out with a warning. -errno when none
 * can be. */
int cpuread_open(struct cpuread *r, const struct tracefs *fs, unsigned page_size);
void cpuread_close(struct cpuread *r);

static inline bool cpuread_is_open(const struct cpuread *r)
{
    return r->fds != NULL;
}

/* Reads up to max_pages (<= CPUREAD_BATCH) pages of a CPU into buf. *pages tells how many came;
 * `first` that this is the first batch of a read cycle. */
enum cpuread_end cpuread_batch(const struct cpuread *r, unsigned cpu, uint8_t *buf,
                               unsigned max_pages, bool first, unsigned *pages);

#endif
