/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_TASK_H
#define REACTOR_TASK_H

/*
 * A timed task: work that may be long and is therefore done in slices with a budget, one slice per
 * tick, so that a flooding producer or a slow disk delays nobody.
 *
 *     static enum task_result drain_run(void *arg, struct task_budget *budget)
 *     {
 *         struct chunk *c;
 *         while ((c = next_chunk(arg)) != NULL) {
 *             copy(c);
 *             if (!task_spend(budget, c->size))
 *                 return TASK_AGAIN;
 *         }
 *         return TASK_DONE;
 *     }
 */

#include "reactor/deadline.h"

#include <stddef.h>
#include <stdint.h>

enum task_result {
    TASK_DONE, /* nothing left: sleep until woken */
    TASK_AGAIN /* more to do: another slice in the next tick */
};

struct task_budget {
    size_t bytes_left;
    uint64_t end_ns;    /* monotonic */
    uint32_t unchecked; /* calls since the clock was read */
    size_t uncounted;   /* bytes since the clock was read */
};

typedef enum task_result task_run(void *arg, struct task_budget *budget);

struct task {
    struct deadline deadline;
    task_run *run;
    void *arg; /* borrow */
    size_t budget_bytes;
    uint64_t budget_ns;
    bool running;
    bool woken;   /* task_wake was called while it ran */
    bool stopped; /* task_stop was called while it ran */
};

/* Asleep, with the reactor's task_budget and DEFAULTS_TASK_BUDGET_NS as budget. */
void task_init(struct task *t, struct reactor *r, const char *name, task_run *run, void *arg);

/* Budget of one slice in bytes and nanoseconds; whichever ends first. */
void task_set_budget(struct task *t, size_t bytes, uint64_t ns);

/* Runs a slice at the next step 3. Keeps its place when it is due already; moves an appointment
 * made with task_wake_in forward. */
void task_wake(struct task *t);

/* Runs a slice in delay_ns (monotonic) unless it is woken earlier or has an earlier appointment. */
void task_wake_in(struct task *t, uint64_t delay_ns);

/* Asleep again; a slice that is going on ends as usual and its TASK_AGAIN is ignored. */
void task_stop(struct task *t);

/* True while a slice is to come. */
bool task_scheduled(const struct task *t);

/* The budget of what is tried at once, in the message that asks for it: DEFAULTS_AT_ONCE_NS. The
 * rest is for a task. */
struct task_budget task_at_once(const struct reactor *r);

/* A budget without end, for what has to be over when the call returns. */
struct task_budget task_unbounded(void);

/* Counts bytes of work; false when the budget is spent. Looks at the clock every 16th call or 64
 * KiB, so it may be called per chunk. */
bool task_spend(struct task_budget *b, size_t bytes);

/* Same, and looks at the clock every time: for pieces of work that contain a system call. */
bool task_spend_slow(struct task_budget *b, size_t bytes);

#endif
