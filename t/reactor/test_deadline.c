/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/deadline.h"

#include "reactor/chrono.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct reactor *r;
static char story[256];

struct timer {
    struct deadline d;
    char mark;
    int fired;
    void (*then)(struct timer *t);
    struct timer *other;
};

static void fire(void *arg)
{
    struct timer *t = arg;
    t->fired++;
    size_t n = strlen(story);
    if (n + 1 < sizeof(story))
        story[n] = t->mark;
    if (t->then != NULL)
        t->then(t);
}

static void make(struct timer *t, char mark)
{
    *t = (struct timer){.mark = mark};
    deadline_init(&t->d, r, "test timer", fire, t);
}

static void setup(void)
{
    chrono_virtual_start(1000 * CHRONO_SEC);
    r = reactor_new(NULL);
}

static void teardown(void)
{
    reactor_free(r);
}

TestSuite(deadline, .init = setup, .fini = teardown, .timeout = 20);

Test(deadline, fires_by_due_time_equal_times_in_order_of_arming)
{
    static const int delays[] = {5, 3, 5, 1, 3, 5, 0, 0};
    struct timer t[8];
    for (int i = 0; i < 8; i++) {
        make(&t[i], (char)('a' + i));
        deadline_arm_ms(&t[i].d, (uint64_t)delays[i]);
    }
    chrono_virtual_advance(10 * CHRONO_MS);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "ghdbeacf");
    cr_assert_eq(reactor_metric(r, REACTOR_DEADLINES), 8);
    cr_assert_eq(reactor_metric(r, REACTOR_LATEST_DEADLINE_NS), 10 * CHRONO_MS);
}

Test(deadline, virtual_time_moves_by_hand_only)
{
    struct timer t;
    make(&t, 'a');
    deadline_arm_ms(&t.d, 10);
    cr_assert_eq(deadline_left(&t.d), 10 * CHRONO_MS);
    reactor_tick(r, 0);
    reactor_tick(r, 1);
    cr_assert_eq(t.fired, 0);
    chrono_virtual_advance(10 * CHRONO_MS - 1);
    reactor_tick(r, 0);
    cr_assert_eq(t.fired, 0);
    cr_assert_not(reactor_pending(r));
    chrono_virtual_advance(1);
    cr_assert(reactor_pending(r));
    cr_assert_eq(deadline_left(&t.d), 0);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(t.fired, 1);
    cr_assert_not(deadline_armed(&t.d));
    cr_assert_eq(deadline_left(&t.d), UINT64_MAX);
}

Test(deadline, a_random_heap_stays_sorted)
{
    enum { N = 500 };
    static struct timer t[N];
    static uint64_t due[N];
    uint64_t state = 7;
    for (int i = 0; i < N; i++)
        make(&t[i], 'x');
    for (int i = 0; i < 5 * N; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t k = (size_t)(state >> 33) % N;
        due[k] = (state >> 45) % 100 + 1;
        if (state >> 63)
            deadline_arm(&t[k].d, due[k]);
        else
            deadline_cancel(&t[k].d);
        if (!(state >> 63))
            due[k] = 0;
    }
    for (uint64_t now = 1; now <= 101; now++) {
        chrono_virtual_advance(1);
        reactor_tick(r, 0);
        for (int k = 0; k < N; k++)
            cr_assert_eq(t[k].fired, due[k] != 0 && due[k] <= now);
    }
}

static void cancel_other(struct timer *t)
{
    deadline_cancel(&t->other->d);
}

Test(deadline, cancel_inside_a_callback_holds_at_once)
{
    struct timer a;
    struct timer b;
    make(&a, 'a');
    make(&b, 'b');
    a.then = cancel_other;
    a.other = &b;
    deadline_arm(&a.d, 1);
    deadline_arm(&b.d, 1);
    chrono_virtual_advance(1);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "a");
    cr_assert_not(deadline_armed(&b.d));
}

static void cancel_self(struct timer *t)
{
    if (t->fired == 3)
        deadline_cancel(&t->d);
}

Test(deadline, periodic_ends_from_within)
{
    struct timer t;
    make(&t, 't');
    t.then = cancel_self;
    deadline_every(&t.d, DEADLINE_MONO, CHRONO_MS);
    reactor_advance(r, 100 * CHRONO_MS);
    cr_assert_eq(t.fired, 3);
}

static void rearm_now(struct timer *t)
{
    if (t->fired < 100)
        deadline_arm(&t->d, 0);
}

Test(deadline, what_is_armed_for_now_waits_for_the_next_tick)
{
    struct timer t;
    struct timer old;
    make(&t, 't');
    make(&old, 'o');
    t.then = rearm_now;
    deadline_arm(&t.d, 0);
    deadline_arm(&old.d, 0);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "to");
    cr_assert(reactor_pending(r));
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_str_eq(story, "tot");
}

Test(deadline, past_means_now_and_never_means_never)
{
    struct timer due;
    struct timer past;
    struct timer never;
    make(&due, 'd');
    make(&past, 'p');
    make(&never, 'n');
    deadline_arm(&due.d, 0);
    deadline_arm_at(&past.d, DEADLINE_MONO, 5);
    deadline_arm(&never.d, UINT64_MAX);
    cr_assert_eq(never.d.due, UINT64_MAX);
    deadline_arm_ms(&never.d, UINT64_MAX / CHRONO_MS + 1);
    cr_assert_eq(never.d.due, UINT64_MAX, "as nanoseconds this would wrap to next to nothing");
    cr_assert(deadline_armed(&never.d));
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "dp");
    cr_assert_not(reactor_pending(r));
    deadline_cancel(&never.d);
}

Test(deadline, periodic_does_not_drift_and_skips_what_it_missed)
{
    struct timer t;
    make(&t, 't');
    deadline_every(&t.d, DEADLINE_MONO, 10 * CHRONO_MS);
    chrono_virtual_advance(13 * CHRONO_MS); /* 3 ms late */
    reactor_tick(r, 0);
    cr_assert_eq(t.fired, 1);
    cr_assert_eq(deadline_left(&t.d), 7 * CHRONO_MS, "the phase is kept");
    chrono_virtual_advance(48 * CHRONO_MS); /* at 61: 20, 30, 40, 50 and 60 have passed */
    reactor_tick(r, 0);
    reactor_tick(r, 0);
    cr_assert_eq(t.fired, 2, "once for all that was missed");
    cr_assert_eq(deadline_left(&t.d), 9 * CHRONO_MS);
    deadline_cancel(&t.d);
}

Test(deadline, aligned_periods_coincide)
{
    /* service.md R37 */
    struct timer a;
    struct timer b;
    make(&a, 'a');
    make(&b, 'b');
    chrono_virtual_advance(123 * CHRONO_MS + 456);
    deadline_every_aligned(&a.d, DEADLINE_MONO, 100 * CHRONO_MS);
    chrono_virtual_advance(31 * CHRONO_MS);
    deadline_every_aligned(&b.d, DEADLINE_MONO, 100 * CHRONO_MS);
    cr_assert_eq(a.d.due, b.d.due);
    cr_assert_eq(a.d.due % (100 * CHRONO_MS), 0);
    reactor_advance(r, 300 * CHRONO_MS);
    cr_assert_str_eq(story, "ababab");
    cr_assert_eq(a.d.due % (100 * CHRONO_MS), 0);
    uint64_t now = chrono_mono_ns();
    chrono_virtual_advance(a.d.due - now);
    deadline_every_aligned(&b.d, DEADLINE_MONO, 100 * CHRONO_MS);
    cr_assert_eq(deadline_left(&b.d), 100 * CHRONO_MS, "strictly after now");
    deadline_cancel(&a.d);
    deadline_cancel(&b.d);
}

Test(deadline, boot_clock_goes_on_in_a_suspend)
{
    struct timer mono;
    struct timer boot;
    make(&mono, 'm');
    make(&boot, 'b');
    deadline_arm_on(&boot.d, DEADLINE_BOOT, CHRONO_SEC);
    deadline_arm_on(&mono.d, DEADLINE_MONO, CHRONO_SEC);
    chrono_virtual_suspend(5 * CHRONO_SEC);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "b");
    reactor_advance(r, CHRONO_SEC);
    cr_assert_str_eq(story, "bm");
}

Test(deadline, moving_takes_a_new_place_in_line)
{
    struct timer a;
    struct timer b;
    make(&a, 'a');
    make(&b, 'b');
    deadline_arm(&a.d, 5);
    deadline_arm(&b.d, 5);
    deadline_arm(&a.d, 5);
    chrono_virtual_advance(5);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "ba");
}

static void free_self(struct timer *t)
{
    free(t);
}

Test(deadline, memory_is_not_touched_after_the_callback_began)
{
    /* The rule is to free at reap; a sanitizer build shows that we would survive it here. */
    struct timer *t = malloc(sizeof(*t));
    make(t, 'f');
    t->then = free_self;
    deadline_arm(&t->d, 0);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "f");
}

Test(deadline, advance_stops_at_every_deadline)
{
    struct timer a;
    struct timer b;
    make(&a, 'a');
    make(&b, 'b');
    deadline_every(&a.d, DEADLINE_MONO, 10);
    deadline_every(&b.d, DEADLINE_BOOT, 15);
    uint64_t start = chrono_mono_ns();
    reactor_advance(r, 60);
    cr_assert_str_eq(story, "abaababaab");
    cr_assert_eq(chrono_mono_ns(), start + 60);
    deadline_cancel(&a.d);
    deadline_cancel(&b.d);
}

Test(deadline_end, armed_ones_are_disarmed)
{
    setup();
    struct timer a;
    make(&a, 'a');
    deadline_arm(&a.d, 5);
    reactor_free(r);
    cr_assert_not(deadline_armed(&a.d));
}
