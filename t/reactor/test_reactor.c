/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/reactor.h"

#include "reactor/actor.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/log.h"
#include "reactor/sig.h"
#include "reactor/watch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

static struct reactor *r;
static char story[128];

static void tell(void *arg)
{
    strncat(story, arg, sizeof(story) - strlen(story) - 1);
}

static void setup(void)
{
    r = reactor_new(NULL);
}

static void teardown(void)
{
    reactor_free(r);
}

TestSuite(reactor, .init = setup, .fini = teardown, .timeout = 20);

/* One thing of each step; each also asks for the step before it, which must wait for a tick. */
struct all {
    struct watch watch;
    struct sig sig;
    struct deadline deadline;
    struct actor actor;
    struct reactor_hook write;
    struct reactor_hook reap;
    int fd;
    bool once;
};

static void on_watch(void *arg, unsigned event)
{
    struct all *a = arg;
    (void)event;
    tell("1");
    watch_set(&a->watch, 0);
}

static void on_reap(void *arg)
{
    struct all *a = arg;
    tell("7");
    if (a->once)
        return;
    a->once = true;
    reactor_write_later(r, &a->write);
    ACTOR_POST(r, a->actor.id, 0, 0, "x");
    reactor_defer(r, tell, "4");
    deadline_arm(&a->deadline, 0);
    kill(getpid(), SIGUSR1);
    watch_set(&a->watch, WATCH_READ);
}

static void on_message(struct actor *a, struct mailbox_msg *m)
{
    (void)a;
    (void)m;
    tell("5");
}

static const struct actor_ops ops = {on_message, NULL};

Test(reactor, steps_come_in_their_order)
{
    static struct all a; /* outlives the reap in teardown */
    a.fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    watch_init(&a.watch, r, "1", a.fd, on_watch, &a);
    sig_init(&a.sig, r, SIGUSR1, tell, "2");
    deadline_init(&a.deadline, r, "3", tell, "3");
    actor_init(&a.actor, r, "5", &ops, NULL);
    reactor_hook_init(&a.write, "6", tell, "6");
    reactor_hook_init(&a.reap, "7", on_reap, &a);
    reactor_reap_later(r, &a.reap);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "7", "what the reap step asked for waits for the next tick");
    cr_assert(reactor_pending(r));
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "7123456");
    reactor_reap_later(r, &a.reap);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "71234567");
    watch_fini(&a.watch);
    sig_fini(&a.sig);
    actor_kill(&a.actor);
    close(a.fd);
}

static void defer_again(void *arg)
{
    tell("a");
    reactor_defer(r, tell, arg);
}

Test(reactor, deferred_calls_are_fifo_and_later)
{
    reactor_defer(r, defer_again, "z");
    reactor_defer(r, tell, "b");
    reactor_defer(r, tell, "c");
    cr_assert_str_eq(story, "");
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_str_eq(story, "abc");
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_str_eq(story, "abcz");
    cr_assert_eq(reactor_metric(r, REACTOR_DEFERRED), 4);
}

static uint64_t next_number;

static void expect_number(void *arg)
{
    cr_assert_eq((uint64_t)(uintptr_t)arg, next_number);
    next_number++;
}

Test(reactor, deferred_calls_keep_their_order_across_growth)
{
    uintptr_t in = 0;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 7 * round; i++)
            reactor_defer(r, expect_number, (void *)in++);
        reactor_tick(r, 0);
    }
    cr_assert_eq(next_number, in);
}

Test(reactor, undefer_forgets_by_argument)
{
    static char a[] = "a";
    static char b[] = "b";
    reactor_defer(r, tell, a);
    reactor_defer(r, tell, b);
    reactor_defer(r, tell, a);
    reactor_undefer(r, a);
    reactor_settle(r);
    cr_assert_str_eq(story, "b");
}

static struct reactor_hook other;

static void ask_again(void *arg)
{
    tell("w");
    reactor_write_later(r, arg);
    reactor_hook_cancel(&other);
}

Test(reactor, write_hooks_run_once_per_tick)
{
    struct reactor_hook hook;
    reactor_hook_init(&hook, "hook", ask_again, &hook);
    reactor_hook_init(&other, "other", tell, "never");
    reactor_write_later(r, &hook);
    reactor_write_later(r, &hook);
    reactor_write_later(r, &other);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "w", "asked twice, called once; the other was taken back in time");
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "ww");
    reactor_hook_cancel(&hook);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "ww");
}

Test(reactor, a_hook_that_waits_keeps_its_place)
{
    struct reactor_hook a;
    struct reactor_hook b;
    struct reactor_hook c;
    reactor_hook_init(&a, "a", tell, "a");
    reactor_hook_init(&b, "b", tell, "b");
    reactor_hook_init(&c, "c", tell, "c");
    reactor_write_later(r, &a);
    reactor_write_later(r, &b);
    reactor_write_later(r, &a);
    reactor_write_later(r, &c);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "abc");
    reactor_reap_later(r, &b);
    reactor_reap_later(r, &a);
    reactor_reap_later(r, &b);
    reactor_reap_later(r, &c);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "abcbac");
}

struct mortal {
    struct reactor_hook reap;
    struct mortal *child;
};

static void reap_mortal(void *arg)
{
    struct mortal *m = arg;
    tell("x");
    if (m->child != NULL)
        reactor_reap_later(r, &m->child->reap);
    free(m);
}

Test(reactor, reaping_goes_on_until_nobody_is_left)
{
    struct mortal *m = NULL;
    for (int i = 0; i < 4; i++) {
        struct mortal *parent = malloc(sizeof(*parent));
        reactor_hook_init(&parent->reap, "mortal", reap_mortal, parent);
        parent->child = m;
        m = parent;
    }
    reactor_reap_later(r, &m->reap);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "xxxx");
}

static void stop(void *arg)
{
    (void)arg;
    tell("s");
    reactor_stop(r);
}

Test(reactor, runs_on_real_time_until_stopped)
{
    struct deadline d[3];
    deadline_init(&d[0], r, "a", tell, "a");
    deadline_init(&d[1], r, "b", tell, "b");
    deadline_init(&d[2], r, "stop", stop, NULL);
    deadline_arm(&d[1], 2 * CHRONO_MS);
    deadline_arm(&d[0], CHRONO_MS);
    deadline_arm(&d[2], 3 * CHRONO_MS);
    uint64_t start = chrono_mono_ns();
    cr_assert_eq(reactor_run(r), 0);
    cr_assert_geq(chrono_mono_ns() - start, 3 * CHRONO_MS);
    cr_assert_str_eq(story, "abs");
    cr_assert_lt(reactor_metric(r, REACTOR_TICKS), 100, "it waits, it does not spin");
}

Test(reactor, the_boot_clock_alone_ends_a_wait)
{
    struct deadline d;
    deadline_init(&d, r, "boot", tell, "b");
    for (int i = 0; i < 3; i++) {
        deadline_arm_on(&d, DEADLINE_BOOT, CHRONO_MS);
        while (deadline_armed(&d))
            cr_assert_eq(reactor_tick(r, REACTOR_FOREVER), 0);
    }
    cr_assert_str_eq(story, "bbb");
    deadline_arm(&d, CHRONO_MS);
    while (deadline_armed(&d))
        cr_assert_eq(reactor_tick(r, REACTOR_FOREVER), 0);
    cr_assert_lt(reactor_metric(r, REACTOR_TICKS), 100, "no timer is left to spin on");
}

Test(reactor, the_rest_of_a_stopped_tick_is_done)
{
    struct reactor_hook hook;
    reactor_hook_init(&hook, "hook", tell, "w");
    reactor_write_later(r, &hook);
    reactor_defer(r, stop, NULL);
    cr_assert_eq(reactor_run(r), 0);
    cr_assert_str_eq(story, "sw");
    reactor_stop(r);
    cr_assert_eq(reactor_run(r), 0, "stopped before it ran: one tick");
}

static void stay_ready(void *arg, unsigned event)
{
    (void)event;
    ++*(int *)arg;
}

Test(reactor, one_look_at_the_world_per_tick)
{
    /* A descriptor that stays ready must not keep the loop inside libevent, polling or waiting. */
    int fired = 0;
    int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    struct watch w;
    watch_init(&w, r, "ready", fd, stay_ready, &fired);
    watch_set(&w, WATCH_READ);
    reactor_tick(r, 0);
    reactor_tick(r, CHRONO_MS);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(fired, 3);
    watch_fini(&w);
    close(fd);
}

/* A descriptor that becomes ready in ms of real time. */
static int ready_in(long ms)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct itimerspec at = {.it_value = {.tv_nsec = ms * 1000000}};
    cr_assert_eq(timerfd_settime(fd, 0, &at, NULL), 0);
    return fd;
}

Test(reactor, virtual_deadlines_do_not_shorten_a_wait)
{
    int fired = 0;
    int fd = ready_in(5);
    struct watch w;
    struct deadline d;
    chrono_virtual_start(CHRONO_SEC);
    deadline_init(&d, r, "soon", tell, "d");
    deadline_arm(&d, 1);
    watch_init(&w, r, "real", fd, stay_ready, &fired);
    watch_set(&w, WATCH_READ);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(fired, 1, "the wait went on until something real happened");
    cr_assert_str_eq(story, "");
    watch_fini(&w);
    deadline_cancel(&d);
    close(fd);
}

Test(reactor, a_timeout_that_was_not_used_up_leaves_no_trace)
{
    int early = 0;
    int late = 0;
    int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    struct watch w[2];
    watch_init(&w[0], r, "early", fd, stay_ready, &early);
    watch_set(&w[0], WATCH_READ);
    reactor_tick(r, CHRONO_MS);
    cr_assert_eq(early, 1);
    watch_fini(&w[0]);
    int timer = ready_in(20);
    watch_init(&w[1], r, "late", timer, stay_ready, &late);
    watch_set(&w[1], WATCH_READ);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(late, 1, "the old timeout must not end this wait");
    watch_fini(&w[1]);
    close(fd);
    close(timer);
}

Test(reactor, a_timeout_bounds_the_wait)
{
    uint64_t start = chrono_mono_ns();
    cr_assert_eq(reactor_tick(r, 2 * CHRONO_MS), 0);
    cr_assert_geq(chrono_mono_ns() - start, 2 * CHRONO_MS);
}

Test(reactor, metrics_have_names_and_reset)
{
    for (int i = 0; i < REACTOR_METRICS; i++)
        cr_assert_gt(strlen(reactor_metric_name((enum reactor_metric)i)), 3);
    cr_assert_str_eq(reactor_metric_name(REACTOR_METRICS), "?");
    cr_assert_eq(reactor_metric(r, REACTOR_METRICS), 0);
    reactor_tick(r, 0);
    cr_assert_eq(reactor_metric(r, REACTOR_TICKS), 1);
    reactor_metrics_reset(r);
    cr_assert_eq(reactor_metric(r, REACTOR_TICKS), 0);
}

static void spend(void *arg)
{
    reactor_slice_is(r, "spend");
    chrono_virtual_advance(*(const uint64_t *)arg);
}

Test(reactor, slices_and_ticks_are_measured)
{
    static uint64_t one = CHRONO_MS;
    static uint64_t three = 3 * CHRONO_MS;
    struct reactor_hook hook;
    chrono_virtual_start(CHRONO_SEC);
    reactor_hook_init(&hook, "slow writer", spend, &three);
    reactor_defer(r, spend, &one);
    reactor_write_later(r, &hook);
    reactor_tick(r, 0);
    cr_assert_eq(reactor_metric(r, REACTOR_SLICES), 2);
    cr_assert_eq(reactor_metric(r, REACTOR_SLICES_OVER), 1);
    cr_assert_eq(reactor_metric(r, REACTOR_LONGEST_SLICE_NS), three);
    cr_assert_eq(reactor_metric(r, REACTOR_LONGEST_TICK_NS), one + three);
    struct slices_source top[4];
    cr_assert_eq(reactor_sources(r, top, 4), 2);
    cr_assert_str_eq(top[0].name, "slow writer: spend");
    cr_assert_str_eq(top[1].name, "deferred call: spend");
    reactor_metrics_reset(r);
    cr_assert_eq(reactor_sources(r, top, 4), 0);
    cr_assert_eq(reactor_metric(r, REACTOR_LONGEST_SLICE_NS), 0);
}

static void count_lines(void *arg, enum log_level level, const char *text)
{
    (void)level;
    (void)text;
    ++*(int *)arg;
}

static int open_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) != -1;
    return n;
}

Test(reactor_end, gives_all_back_and_names_whom_it_leaves)
{
    int lines = 0;
    int before = open_descriptors();
    struct actor dead;
    struct actor alive;
    struct deadline d;
    setup();
    log_set_sink(count_lines, &lines);
    actor_init(&dead, r, "dead", &ops, NULL);
    actor_init(&alive, r, "alive", &ops, NULL);
    deadline_init(&d, r, "boot", tell, "");
    deadline_arm_on(&d, DEADLINE_BOOT, CHRONO_SEC);
    reactor_tick(r, CHRONO_MS);
    actor_kill(&dead);
    reactor_free(r);
    cr_assert_eq(lines, 1);
    cr_assert_eq(open_descriptors(), before);
    reactor_free(NULL);
}
