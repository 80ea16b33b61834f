/* SPDX-License-Identifier: Apache-2.0 */
/* wmark: being woken by the kernel when its buffers fill up, in place of frequent ticks (R60). */
#ifndef PROBES_FTRACE_WMARK_H
#define PROBES_FTRACE_WMARK_H

#include <stdbool.h>

#include "probes/ftrace/cpuread.h"
#include "probes/ftrace/tracefs.h"
#include "reactor/reactor.h"
#include "reactor/watch.h"

/* All zero is off. */
struct wmark {
    struct watch *watches; /* own; one per pipe */
    unsigned n;
    reactor_cb *cb;
    void *arg; /* borrow */
};

/* Watches the pipes of `reader`, calling cb(arg) in every tick in which one is filled beyond
 * buffer_percent. False, and off, where the kernel cannot do it reliably. */
bool wmark_open(struct wmark *w, struct reactor *r, const struct tracefs *fs,
                const struct cpuread *reader, reactor_cb *cb, void *arg);
void wmark_close(struct wmark *w);

static inline bool wmark_is_on(const struct wmark *w)
{
    return w->watches != NULL;
}

/* Whether a kernel of this release (uname -r) wakes pollers of trace_pipe_raw at buffer_percent:
 * 6.9 and later, and two lines of Android kernels with the fix. */
bool wmark_kernel_ok(const char *release);

#endif
