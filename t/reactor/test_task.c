/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/task.h"

#include "reactor/chrono.h"

#include <criterion/criterion.h>
#include <string.h>

static struct reactor *r;
static char story[256];

struct job {
    struct task task;
    char mark;
    int pieces;        /* left to do */
    size_t piece;      /* bytes of one */
    uint64_t takes_ns; /* time of one */
    bool slow;         /* looks at the clock after each piece */
    int wake_in_run;   /* times it wakes itself */
    bool stop_in_run;
    int slices;
};

static void tell(char c)
{
    size_t n = strlen(story);
    if (n + 1 < sizeof(story))
        story[n] = c;
}

static enum task_result run(void *arg, struct task_budget *budget)
{
    struct job *j = arg;
    j->slices++;
    tell(j->mark);
    if (j->wake_in_run-- > 0)
        task_wake(&j->task);
    if (j->stop_in_run)
        task_stop(&j->task);
    while (j->pieces > 0) {
        j->pieces--;
        chrono_virtual_advance(j->takes_ns);
        bool more = j->slow ? task_spend_slow(budget, j->piece) : task_spend(budget, j->piece);
        if (!more && j->pieces > 0)
            return TASK_AGAIN;
    }
    return TASK_DONE;
}

static void make(struct job *j, char mark, int pieces)
{
    memset(j, 0, sizeof(*j));
    j->mark = mark;
    j->pieces = pieces;
    task_init(&j->task, r, "job", run, j);
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

TestSuite(task, .init = setup, .fini = teardown, .timeout = 20);

Test(task, byte_budget_cuts_slices_one_per_tick)
{
    struct job j;
    make(&j, 'j', 10);
    j.piece = 1000;
    task_set_budget(&j.task, 3000, CHRONO_SEC);
    task_wake(&j.task);
    cr_assert(task_scheduled(&j.task));
    int left[] = {7, 4, 1, 0, 0};
    for (int i = 0; i < 5; i++) {
        reactor_tick(r, 0);
        cr_assert_eq(j.pieces, left[i]);
    }
    cr_assert_eq(j.slices, 4);
    cr_assert_not(task_scheduled(&j.task));
}

Test(task, time_budget_cuts_slices)
{
    struct job j;
    make(&j, 'j', 100);
    j.takes_ns = 100 * CHRONO_US;
    j.slow = true;
    task_set_budget(&j.task, SIZE_MAX, CHRONO_MS);
    task_wake(&j.task);
    reactor_tick(r, 0);
    cr_assert_eq(j.pieces, 90);
    cr_assert_eq(reactor_metric(r, REACTOR_LONGEST_SLICE_NS), CHRONO_MS);
    cr_assert_eq(reactor_metric(r, REACTOR_SLICES_OVER), 0);
    task_stop(&j.task);
    cr_assert_not(reactor_pending(r));
}

Test(task, quick_spending_looks_at_the_clock_now_and_then)
{
    struct job j;
    make(&j, 'j', 1000);
    j.takes_ns = 10 * CHRONO_US;
    j.piece = 1;
    task_set_budget(&j.task, SIZE_MAX, CHRONO_MS);
    task_wake(&j.task);
    reactor_tick(r, 0);
    int done = 1000 - j.pieces;
    cr_assert(done >= 100 && done < 100 + 16, "%d", done);
    struct job k;
    make(&k, 'k', 1000);
    k.takes_ns = CHRONO_MS;
    k.piece = 64 * 1024;
    task_set_budget(&k.task, SIZE_MAX, CHRONO_MS);
    task_wake(&k.task);
    reactor_tick(r, 0);
    cr_assert_eq(k.pieces, 999, "large pieces make it look at once");
    task_stop(&j.task);
    task_stop(&k.task);
}

Test(task, overlong_slices_are_counted_by_name)
{
    struct job j;
    make(&j, 'j', 1);
    j.takes_ns = 3 * CHRONO_MS;
    task_wake(&j.task);
    reactor_tick(r, 0);
    struct slices_source top;
    cr_assert_eq(reactor_sources(r, &top, 1), 1);
    cr_assert_str_eq(top.name, "job");
    cr_assert_eq(top.over, 1);
    cr_assert_eq(top.longest_ns, 3 * CHRONO_MS);
    cr_assert_eq(reactor_metric(r, REACTOR_SLICES_OVER), 1);
    cr_assert_eq(reactor_metric(r, REACTOR_LONGEST_SLICE_NS), 3 * CHRONO_MS);
}

Test(task, long_tasks_take_turns)
{
    struct job a;
    struct job b;
    make(&a, 'a', 3);
    make(&b, 'b', 3);
    a.piece = b.piece = 10;
    task_set_budget(&a.task, 10, CHRONO_SEC);
    task_set_budget(&b.task, 10, CHRONO_SEC);
    task_wake(&a.task);
    task_wake(&b.task);
    reactor_settle(r);
    cr_assert_str_eq(story, "ababab");
}

Test(task, waking_keeps_its_place_and_moves_appointments)
{
    struct job a;
    struct job b;
    make(&a, 'a', 0);
    make(&b, 'b', 0);
    task_wake(&a.task);
    task_wake(&b.task);
    task_wake(&a.task);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "ab");
    task_wake_in(&a.task, 10);
    task_wake_in(&a.task, 20);
    cr_assert_eq(deadline_left(&a.task.deadline), 10, "the earlier appointment stands");
    task_wake_in(&a.task, 5);
    cr_assert_eq(deadline_left(&a.task.deadline), 5);
    task_wake(&a.task);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "aba");
    reactor_advance(r, 100);
    cr_assert_str_eq(story, "aba", "a wake-up uses up the appointment");
}

Test(task, wakes_and_stops_from_within)
{
    struct job j;
    make(&j, 'j', 0);
    j.wake_in_run = 2;
    task_wake(&j.task);
    reactor_settle(r);
    cr_assert_eq(j.slices, 3);
    struct job k;
    make(&k, 'k', 5);
    k.piece = 10;
    k.stop_in_run = true;
    task_set_budget(&k.task, 10, CHRONO_SEC);
    task_wake(&k.task);
    reactor_settle(r);
    cr_assert_eq(k.slices, 1, "TASK_AGAIN after task_stop is ignored");
    cr_assert_eq(k.pieces, 4);
}
