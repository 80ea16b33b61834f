/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task: sliced work on top of one deadline. A task that wants another slice arms its deadline for
 * now, which by the deadline rules means the next tick, behind every other task that did so
 * before: round robin comes for free, and between two slices the loop polls everything else.
 * The task must not be freed inside its own run, as nothing may (reap does that); it may be
 * stopped, woken or re-budgeted there.
 */
#include "reactor/task.h"

#include "reactor/chrono.h"
#include "reactor/core.h"
#include "reactor/defaults.h"

enum { CALLS_PER_LOOK = 16, BYTES_PER_LOOK = 64 * 1024 };

static void run_slice(void *arg)
{
    struct task *t = arg;
    uint64_t start = chrono_mono_ns();
    struct task_budget budget = {t->budget_bytes, start + t->budget_ns, 0, 0};
    t->running = true;
    t->woken = false;
    t->stopped = false;
    enum task_result result = t->run(t->arg, &budget);
    t->running = false;
    if (t->woken || (result == TASK_AGAIN && !t->stopped))
        deadline_arm(&t->deadline, 0);
}

void task_init(struct task *t, struct reactor *r, const char *name, task_run *run, void *arg)
{
    *t = (struct task){.run = run,
                       .arg = arg,
                       .budget_bytes = r->task_budget,
                       .budget_ns = DEFAULTS_TASK_BUDGET_NS};
    deadline_init(&t->deadline, r, name, run_slice, t);
}

void task_set_budget(struct task *t, size_t bytes, uint64_t ns)
{
    t->budget_bytes = bytes;
    t->budget_ns = ns;
}

void task_wake(struct task *t)
{
    if (t->running) {
        t->woken = true;
        t->stopped = false;
    } else if (deadline_left(&t->deadline) != 0) {
        deadline_arm(&t->deadline, 0);
    }
}

void task_wake_in(struct task *t, uint64_t delay_ns)
{
    if (deadline_left(&t->deadline) > delay_ns)
        deadline_arm(&t->deadline, delay_ns);
}

void task_stop(struct task *t)
{
    deadline_cancel(&t->deadline);
    t->woken = false;
    t->stopped = true;
}

bool task_scheduled(const struct task *t)
{
    return t->woken || deadline_armed(&t->deadline);
}

struct task_budget task_at_once(const struct reactor *r)
{
    return (struct task_budget){.bytes_left = r->task_budget,
                                .end_ns = chrono_mono_ns() + DEFAULTS_AT_ONCE_NS};
}

struct task_budget task_unbounded(void)
{
    return (struct task_budget){.bytes_left = SIZE_MAX, .end_ns = UINT64_MAX};
}

static bool look_at_clock(struct task_budget *b)
{
    b->unchecked = 0;
    b->uncounted = 0;
    if (chrono_mono_ns() < b->end_ns)
        return true;
    b->bytes_left = 0;
    return false;
}

static bool take_bytes(struct task_budget *b, size_t bytes)
{
    b->bytes_left = bytes < b->bytes_left ? b->bytes_left - bytes : 0;
    return b->bytes_left != 0;
}

bool task_spend(struct task_budget *b, size_t bytes)
{
    if (!take_bytes(b, bytes))
        return false;
    b->uncounted += bytes;
    if (++b->unchecked < CALLS_PER_LOOK && b->uncounted < BYTES_PER_LOOK)
        return true;
    return look_at_clock(b);
}

bool task_spend_slow(struct task_budget *b, size_t bytes)
{
    return take_bytes(b, bytes) && look_at_clock(b);
}
