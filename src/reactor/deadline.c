/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deadline: one ordered queue per clock, ours rather than libevent's, because order at equal times
 * and virtual time are promises and libevent makes neither. The queue is a binary heap by (due,
 * order of arming) that borrows the deadlines; each deadline knows its slot, so moving and
 * cancelling are O(log n) without a search.
 *
 * A deadline's memory is not touched after its callback began, so a callback may disarm it and its
 * owner may reap it. Deadlines armed while step 3 runs have a higher order number than the step's
 * limit and are never earlier than its time, so the step ends.
 */
#include "reactor/deadline.h"

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/core.h"

uint64_t deadline_now(enum deadline_clock clock)
{
    return clock == DEADLINE_BOOT ? chrono_boot_ns() : chrono_mono_ns();
}

void deadline_init(struct deadline *d, struct reactor *r, const char *name, reactor_cb *cb,
                   void *arg)
{
    *d = (struct deadline){.reactor = r, .cb = cb, .arg = arg, .name = name};
}

static bool before(const struct core_due *a, const struct core_due *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void place(struct core_queue *q, uint32_t i, struct core_due entry)
{
    q->heap[i] = entry;
    entry.deadline->slot = i + 1;
}

static void sift_up(struct core_queue *q, uint32_t i)
{
    struct core_due entry = q->heap[i];
    while (i > 0) {
        uint32_t parent = (i - 1) / 2;
        if (!before(&entry, &q->heap[parent]))
            break;
        place(q, i, q->heap[parent]);
        i = parent;
    }
    place(q, i, entry);
}

static void sift_down(struct core_queue *q, uint32_t i)
{
    struct core_due entry = q->heap[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= q->n)
            break;
        if (child + 1 < q->n && before(&q->heap[child + 1], &q->heap[child]))
            child++;
        if (!before(&q->heap[child], &entry))
            break;
        place(q, i, q->heap[child]);
        i = child;
    }
    place(q, i, entry);
}

static void enqueue(struct deadline *d)
{
    struct core_queue *q = &d->reactor->due[d->clock];
    if (q->n == q->cap) {
        q->cap = q->cap != 0 ? q->cap * 2 : 16;
        q->heap = alloc_resize(q->heap, q->cap, sizeof(*q->heap));
    }
    d->order = ++d->reactor->order;
    q->heap[q->n] = (struct core_due){d->due, d->order, d};
    sift_up(q, q->n++);
}

static void dequeue(struct deadline *d)
{
    struct core_queue *q = &d->reactor->due[d->clock];
    uint32_t i = d->slot - 1;
    d->slot = 0;
    q->n--;
    if (i == q->n)
        return;
    q->heap[i] = q->heap[q->n];
    sift_up(q, i);
    sift_down(q, q->heap[i].deadline->slot - 1);
}

static void arm(struct deadline *d, enum deadline_clock clock, uint64_t due, uint64_t period)
{
    deadline_cancel(d);
    d->clock = clock;
    d->due = due;
    d->period = period;
    enqueue(d);
}

static uint64_t add_or_never(uint64_t now, uint64_t delay)
{
    uint64_t due = 0;
    return __builtin_add_overflow(now, delay, &due) ? UINT64_MAX : due;
}

void deadline_arm(struct deadline *d, uint64_t delay_ns)
{
    deadline_arm_on(d, DEADLINE_MONO, delay_ns);
}

void deadline_arm_ms(struct deadline *d, uint64_t delay_ms)
{
    uint64_t ns = 0;
    bool never = __builtin_mul_overflow(delay_ms, CHRONO_MS, &ns);
    deadline_arm_on(d, DEADLINE_MONO, never ? UINT64_MAX : ns);
}

void deadline_arm_on(struct deadline *d, enum deadline_clock clock, uint64_t delay_ns)
{
    arm(d, clock, add_or_never(deadline_now(clock), delay_ns), 0);
}

void deadline_arm_at(struct deadline *d, enum deadline_clock clock, uint64_t at_ns)
{
    uint64_t now = deadline_now(clock);
    arm(d, clock, at_ns > now ? at_ns : now, 0);
}

void deadline_every(struct deadline *d, enum deadline_clock clock, uint64_t period_ns)
{
    uint64_t period = period_ns != 0 ? period_ns : 1;
    arm(d, clock, add_or_never(deadline_now(clock), period), period);
}

void deadline_every_aligned(struct deadline *d, enum deadline_clock clock, uint64_t period_ns)
{
    uint64_t period = period_ns != 0 ? period_ns : 1;
    uint64_t now = deadline_now(clock);
    arm(d, clock, add_or_never(now - now % period, period), period);
}

void deadline_cancel(struct deadline *d)
{
    if (d->slot != 0)
        dequeue(d);
}

uint64_t deadline_left(const struct deadline *d)
{
    if (d->slot == 0)
        return UINT64_MAX;
    uint64_t now = deadline_now(d->clock);
    return d->due > now ? d->due - now : 0;
}

uint64_t core_next_due(const struct reactor *r, enum deadline_clock clock)
{
    const struct core_queue *q = &r->due[clock];
    return q->n != 0 ? q->heap[0].due : UINT64_MAX;
}

uint64_t core_deadlines_left(const struct reactor *r)
{
    uint64_t left = UINT64_MAX;
    for (int clock = 0; clock < CORE_CLOCKS; clock++) {
        uint64_t due = core_next_due(r, (enum deadline_clock)clock);
        if (due == UINT64_MAX)
            continue;
        uint64_t now = deadline_now((enum deadline_clock)clock);
        uint64_t this_one = due > now ? due - now : 0;
        if (this_one < left)
            left = this_one;
    }
    return left;
}

/* The deadline at the head of the queue comes due: disarmed, or moved to its next time. */
static void fire(struct reactor *r, struct deadline *d, uint64_t now)
{
    const char *name = d->name;
    uint64_t late = now - d->due;
    dequeue(d);
    if (d->period != 0) {
        d->due = add_or_never(d->due + late / d->period * d->period, d->period);
        enqueue(d);
    }
    r->metrics[REACTOR_DEADLINES]++;
    if (late > r->metrics[REACTOR_LATEST_DEADLINE_NS])
        r->metrics[REACTOR_LATEST_DEADLINE_NS] = late;
    d->cb(d->arg);
    core_slice_end(r, name);
}

void core_deadlines_run(struct reactor *r)
{
    uint64_t limit = r->order;
    uint64_t now[CORE_CLOCKS] = {0};
    for (int clock = 0; clock < CORE_CLOCKS; clock++)
        if (r->due[clock].n != 0)
            now[clock] = deadline_now((enum deadline_clock)clock);
    core_slice_begin(r);
    for (int clock = 0; clock < CORE_CLOCKS; clock++) {
        const struct core_queue *q = &r->due[clock];
        while (q->n != 0 && q->heap[0].due <= now[clock] && q->heap[0].order <= limit)
            fire(r, q->heap[0].deadline, now[clock]);
    }
}

void core_deadlines_fini(struct reactor *r)
{
    for (int clock = 0; clock < CORE_CLOCKS; clock++) {
        struct core_queue *q = &r->due[clock];
        for (uint32_t i = 0; i < q->n; i++)
            q->heap[i].deadline->slot = 0;
        free(q->heap);
        *q = (struct core_queue){NULL, 0, 0};
    }
}
