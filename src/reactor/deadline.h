/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_DEADLINE_H
#define REACTOR_DEADLINE_H

/*
 * Something to do at a time. Deadlines are embedded in what they are about and fire in step 3 of a
 * tick, ordered by due time; equal times fire in the order in which they were armed. Those of the
 * monotonic clock come before those of the boot clock.
 *
 * A callback may arm, move or cancel any deadline, itself included. What it arms for now fires in
 * the next tick. A one-shot deadline is no longer armed when its callback runs, a periodic one is
 * armed for its next time already.
 */

#include "reactor/reactor.h"

#include <stdbool.h>
#include <stdint.h>

enum deadline_clock {
    DEADLINE_MONO, /* stands still while the machine sleeps */
    DEADLINE_BOOT  /* goes on; what came due in the sleep fires at wake-up */
};

struct deadline {
    struct reactor *reactor; /* borrow */
    reactor_cb *cb;
    void *arg;        /* borrow */
    const char *name; /* borrow, for the slice metrics; usually a literal */
    uint64_t due;     /* of its clock, while armed */
    uint64_t period;  /* 0: one-shot */
    uint64_t order;   /* counts armings: settles equal times */
    uint32_t slot;    /* place in the queue + 1; 0: not armed */
    enum deadline_clock clock;
};

/* Not armed. Nothing to finish: deadline_cancel before the memory goes away is enough. */
void deadline_init(struct deadline *d, struct reactor *r, const char *name, reactor_cb *cb,
                   void *arg);

/* Once, delay_ns from now on the monotonic clock. Arming an armed deadline moves it. */
void deadline_arm(struct deadline *d, uint64_t delay_ns);
void deadline_arm_ms(struct deadline *d, uint64_t delay_ms);

/* Once, delay_ns from now on that clock. A time past the end of the clock means never. */
void deadline_arm_on(struct deadline *d, enum deadline_clock clock, uint64_t delay_ns);

/* Once, at an absolute time; a past time means now. */
void deadline_arm_at(struct deadline *d, enum deadline_clock clock, uint64_t at_ns);

/* Every period_ns (> 0), first after one period. It does not drift: each time is the one before
 * plus the period, however late the callback ran; times that were missed altogether (the machine
 * was asleep, the loop busy) are skipped, not made up for. */
void deadline_every(struct deadline *d, enum deadline_clock clock, uint64_t period_ns);

/* Same, with all times multiples of period_ns on that clock, so that equal periods of different
 * owners fire together (service.md R37). First at the next multiple after now. */
void deadline_every_aligned(struct deadline *d, enum deadline_clock clock, uint64_t period_ns);

/* Disarms; harmless when it is not armed. */
void deadline_cancel(struct deadline *d);

static inline bool deadline_armed(const struct deadline *d)
{
    return d->slot != 0;
}

/* Nanoseconds until it fires, 0 when due, UINT64_MAX when not armed. */
uint64_t deadline_left(const struct deadline *d);

/* Now on one of these clocks. */
uint64_t deadline_now(enum deadline_clock clock);

#endif
