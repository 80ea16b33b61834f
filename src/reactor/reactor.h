/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_REACTOR_H
#define REACTOR_REACTOR_H

/*
 * The loop. One tick, in this order:
 *
 *   1. wait     in libevent, once; watches fire
 *   2. signals  that arrived (reactor/sig.h)
 *   3. deadlines that expired, and slices of timed tasks (reactor/deadline.h, reactor/task.h)
 *   4. deferred calls made before this step began (reactor_defer)
 *   5. mailboxes, each actor up to its message budget (reactor/actor.h)
 *   6. writes   hooks of channels that got something to send (reactor_write_later)
 *   7. reap     of everything that died (reactor_reap_later)
 *
 * What a step starts for itself (a watch added, a deadline of zero, a deferred call, a write asked
 * for while writing) happens in the next tick, which then does not wait. Everything here belongs
 * to one thread; several reactors in one program are fine, each on its own thread.
 */

#include "reactor/list.h"
#include "reactor/mailbox.h"
#include "reactor/slices.h"

#include <stdbool.h>
#include <stdint.h>

struct reactor;

struct reactor_opts {
    struct mailbox_table table; /* kinds of messages; kinds NULL: any, they own nothing */
    uint32_t actor_budget;      /* messages of one actor per tick; 0: DEFAULTS_ACTOR_BUDGET */
    uint64_t slice_limit_ns;    /* slices above are counted; 0: DEFAULTS_SLICE_LIMIT_NS */
    size_t task_budget;         /* bytes of one slice; 0: DEFAULTS_TASK_BUDGET_SIZE */
};

/* New loop; opts NULL: all defaults. NULL with errno set when the kernel has no descriptors or
 * memory for it. */
struct reactor *reactor_new(const struct reactor_opts *opts);

/* Writes and reaps a last time, then frees. The owner has killed its actors and ended its watches,
 * deadlines and signals before; actors still alive are named in an error line and forgotten. NULL
 * is allowed. */
void reactor_free(struct reactor *r);

/* Ticks until reactor_stop. 0, or the -errno of a wait that failed. */
int reactor_run(struct reactor *r);

/* Ends reactor_run after the tick that is going on (or, when called before, after one tick that
 * does not wait). */
void reactor_stop(struct reactor *r);

/* One tick. timeout_ns bounds the wait: 0 polls, REACTOR_FOREVER waits for the next deadline or
 * event. Does not wait at all when there is something to do. With a virtual clock (chrono.h)
 * deadlines to come do not shorten the wait, because only the test moves them closer.
 * 0, or -errno. */
#define REACTOR_FOREVER UINT64_MAX
int reactor_tick(struct reactor *r, uint64_t timeout_ns);

/* True when the next tick would not wait: messages, deferred calls, hooks or deadlines are due. */
bool reactor_pending(const struct reactor *r);

/* For tests with a virtual clock: moves it on by ns in total, stopping at each deadline on the
 * way, and ticks at each stop until nothing is pending (but at most 10000 ticks per stop). */
void reactor_advance(struct reactor *r, uint64_t ns);

/* For tests: polls until nothing is pending, at most 10000 ticks. */
void reactor_settle(struct reactor *r);

/* Calls cb(arg) once in step 4 of the next tick whose step 4 has not begun yet; first in, first
 * out. What arg points to must outlive the call, or call reactor_undefer. */
typedef void reactor_cb(void *arg);
void reactor_defer(struct reactor *r, reactor_cb *cb, void *arg);

/* Forgets all deferred calls with this arg (any cb); for destructors. */
void reactor_undefer(struct reactor *r, const void *arg);

/* A call that is embedded in the thing it is about: asked for twice, it is made once. */
struct reactor_hook {
    struct list node;
    reactor_cb *cb;
    void *arg;        /* borrow */
    const char *name; /* borrow, for the slice metrics */
};

void reactor_hook_init(struct reactor_hook *hook, const char *name, reactor_cb *cb, void *arg);

/* Takes it back; harmless when it was not asked for. */
void reactor_hook_cancel(struct reactor_hook *hook);

/* Step 6: for channels with something to send. A second call before the step does nothing. */
void reactor_write_later(struct reactor *r, struct reactor_hook *hook);

/* Step 7: the hook's callback may free the thing that holds the hook. Reaping may make more things
 * die; they are reaped in the same step. */
void reactor_reap_later(struct reactor *r, struct reactor_hook *hook);

/* Figures about the loop; slices as reactor/slices.h has them. X(constant, name) */
#define REACTOR_METRIC_TABLE(X)                                                                    \
    X(REACTOR_TICKS, "ticks")                                                                      \
    X(REACTOR_MESSAGES, "messages delivered")                                                      \
    X(REACTOR_DROPPED_DEAD, "messages to the dead")                                                \
    X(REACTOR_DROPPED_FULL, "messages to full mailboxes")                                          \
    X(REACTOR_DROPPED_REAPED, "messages left in dead mailboxes")                                   \
    X(REACTOR_DEADLINES, "deadlines fired")                                                        \
    X(REACTOR_DEFERRED, "deferred calls")                                                          \
    X(REACTOR_SLICES, "slices")                                                                    \
    X(REACTOR_SLICES_OVER, "slices over the limit")                                                \
    X(REACTOR_SLICES_OVER_WALL, "slices over the limit with waits")                                \
    X(REACTOR_LONGEST_SLICE_NS, "longest slice")                                                   \
    X(REACTOR_LONGEST_WALL_NS, "longest slice with waits")                                         \
    X(REACTOR_LONGEST_TICK_NS, "longest tick without its wait")                                    \
    X(REACTOR_LATEST_DEADLINE_NS, "latest deadline")                                               \
    X(REACTOR_ACTORS, "actors alive")

enum reactor_metric {
#define REACTOR_X(constant, name) constant,
    REACTOR_METRIC_TABLE(REACTOR_X)
#undef REACTOR_X
        REACTOR_METRICS
};

uint64_t reactor_metric(const struct reactor *r, enum reactor_metric which);
const char *reactor_metric_name(enum reactor_metric which);

/* Who ran the longest slices, longest first: at most max. Returns how many. */
unsigned reactor_sources(const struct reactor *r, struct slices_source *out, unsigned max);

/* Called from within a callback: what it does, in a word or two, for the names above. The text is
 * static. */
void reactor_slice_is(struct reactor *r, const char *what);

/* All figures but REACTOR_ACTORS back to zero, and no sources. */
void reactor_metrics_reset(struct reactor *r);

#endif
