/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor: the loop that everything else hangs on. It owns the event base, the queues of the steps
 * and the figures; it borrows actors, deadlines, watches and hooks, which live in what they are
 * about. The order of a tick is written once, in reactor_tick.
 *
 * Invariants: nobody is called back from within a function of this folder that they called, other
 * than the tick itself (and the mark callbacks of mailboxes); no step runs what it started itself,
 * except reaping; nothing is freed before the reap step.
 */
#include "reactor/reactor.h"

#include "reactor/actor.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/core.h"
#include "reactor/defaults.h"
#include "reactor/log.h"
#include "reactor/str.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { SETTLE_TICKS = 10000 };

/* The wait has nothing to do at the deadline: step 3 looks at the queues itself. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
}

static void on_boot_timer(evutil_socket_t fd, short what, void *arg)
{
    struct reactor *r = arg;
    uint64_t expirations = 0;
    (void)what;
    ssize_t ignored = read(fd, &expirations, sizeof(expirations));
    (void)ignored;
    r->boot_set = 0;
}

static bool make_base(struct reactor *r)
{
    struct event_config *config = event_config_new();
    if (config == NULL)
        return false;
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    event_config_set_flag(config, EVENT_BASE_FLAG_IGNORE_ENV);
    r->base = event_base_new_with_config(config);
    event_config_free(config);
    if (r->base == NULL)
        return false;
    r->timer = evtimer_new(r->base, on_timer, NULL);
    return r->timer != NULL;
}

struct reactor *reactor_new(const struct reactor_opts *opts)
{
    static const struct reactor_opts none = {{NULL, 0}, 0, 0, 0};
    if (opts == NULL)
        opts = &none;
    struct reactor *r = alloc_new(struct reactor);
    r->boot_fd = -1;
    r->table = opts->table;
    r->actor_budget = opts->actor_budget != 0 ? opts->actor_budget : DEFAULTS_ACTOR_BUDGET;
    r->task_budget = opts->task_budget != 0 ? opts->task_budget : DEFAULTS_TASK_BUDGET_SIZE;
    slices_init(&r->slices,
                opts->slice_limit_ns != 0 ? opts->slice_limit_ns : DEFAULTS_SLICE_LIMIT_NS);
    idmap_init(&r->actors);
    list_init(&r->fired);
    list_init(&r->signals);
    list_init(&r->writes);
    list_init(&r->reaps);
    list_init(&r->ready);
    list_init(&r->spent);
    errno = 0;
    if (!make_base(r)) {
        int err = errno != 0 ? errno : ENOMEM;
        reactor_free(r);
        errno = err;
        return NULL;
    }
    return r;
}

/* ---- slices and figures ---- */

void core_slice_begin(struct reactor *r)
{
    slices_begin(&r->slices);
    if (r->busy_start == 0)
        r->busy_start = r->slices.start;
}

void core_slice_end(struct reactor *r, const char *name)
{
    r->metrics[REACTOR_SLICES]++;
    slices_end(&r->slices, name);
}

void reactor_slice_is(struct reactor *r, const char *what)
{
    r->slices.detail = what;
}

unsigned reactor_sources(const struct reactor *r, struct slices_source *out, unsigned max)
{
    return slices_sources(&r->slices, out, max);
}

static const char *const metric_names[REACTOR_METRICS] = {
#define REACTOR_X(constant, name) name,
    REACTOR_METRIC_TABLE(REACTOR_X)
#undef REACTOR_X
};

uint64_t reactor_metric(const struct reactor *r, enum reactor_metric which)
{
    switch (which) {
    case REACTOR_ACTORS:
        return idmap_count(&r->actors);
    case REACTOR_SLICES_OVER:
        return r->slices.total.over;
    case REACTOR_SLICES_OVER_WALL:
        return r->slices.total.over_wall;
    case REACTOR_LONGEST_SLICE_NS:
        return r->slices.total.longest_ns;
    case REACTOR_LONGEST_WALL_NS:
        return r->slices.total.longest_wall_ns;
    default:
        return (unsigned)which < REACTOR_METRICS ? r->metrics[which] : 0;
    }
}

const char *reactor_metric_name(enum reactor_metric which)
{
    return (unsigned)which < REACTOR_METRICS ? metric_names[which] : "?";
}

void reactor_metrics_reset(struct reactor *r)
{
    memset(r->metrics, 0, sizeof(r->metrics));
    slices_init(&r->slices, r->slices.limit_ns);
}

/* ---- hooks ---- */

void reactor_hook_init(struct reactor_hook *hook, const char *name, reactor_cb *cb, void *arg)
{
    *hook = (struct reactor_hook){.cb = cb, .arg = arg, .name = name};
    list_init(&hook->node);
}

void reactor_hook_cancel(struct reactor_hook *hook)
{
    list_remove(&hook->node);
}

void reactor_write_later(struct reactor *r, struct reactor_hook *hook)
{
    if (list_empty(&hook->node))
        list_push_back(&r->writes, &hook->node);
}

void reactor_reap_later(struct reactor *r, struct reactor_hook *hook)
{
    if (list_empty(&hook->node))
        list_push_back(&r->reaps, &hook->node);
}

/* Calls the hooks of a list, first to last. What they add to the list is left there. */
static void run_hooks(struct reactor *r, struct list *hooks)
{
    struct list now;
    struct list *node = NULL;
    if (list_empty(hooks))
        return;
    list_init(&now);
    list_splice(&now, hooks);
    core_slice_begin(r);
    while ((node = list_pop_front(&now)) != NULL) {
        struct reactor_hook *hook = list_entry(node, struct reactor_hook, node);
        const char *name = hook->name;
        hook->cb(hook->arg); /* may free the hook */
        core_slice_end(r, name);
    }
}

/* ---- deferred calls ---- */

void reactor_defer(struct reactor *r, reactor_cb *cb, void *arg)
{
    struct core_fifo *f = &r->deferred;
    if (f->tail - f->head == f->cap) {
        uint32_t cap = f->cap != 0 ? f->cap * 2 : 16;
        struct core_deferred *ring = alloc_array(cap, sizeof(*ring));
        for (uint32_t i = 0; i < f->cap; i++)
            ring[i] = f->ring[(f->head + i) & (f->cap - 1)];
        free(f->ring);
        *f = (struct core_fifo){ring, 0, f->cap, cap};
    }
    f->ring[f->tail++ & (f->cap - 1)] = (struct core_deferred){cb, arg};
}

void reactor_undefer(struct reactor *r, const void *arg)
{
    struct core_fifo *f = &r->deferred;
    for (uint32_t i = f->head; i != f->tail; i++) {
        struct core_deferred *d = &f->ring[i & (f->cap - 1)];
        if (d->arg == arg)
            d->cb = NULL;
    }
}

static void run_deferred(struct reactor *r)
{
    struct core_fifo *f = &r->deferred;
    uint32_t n = f->tail - f->head; /* those that are added meanwhile stay for the next tick */
    if (n == 0)
        return;
    core_slice_begin(r);
    for (; n > 0; n--) {
        struct core_deferred d = f->ring[f->head++ & (f->cap - 1)];
        if (d.cb == NULL)
            continue;
        d.cb(d.arg);
        r->metrics[REACTOR_DEFERRED]++;
        core_slice_end(r, "deferred call");
    }
}

/* ---- the tick ---- */

/* Something is queued, deadlines apart. */
static bool has_work(const struct reactor *r)
{
    return r->deferred.head != r->deferred.tail || !list_empty(&r->ready) ||
           !list_empty(&r->spent) || !list_empty(&r->signals) || !list_empty(&r->writes) ||
           !list_empty(&r->reaps);
}

bool reactor_pending(const struct reactor *r)
{
    return has_work(r) || core_deadlines_left(r) == 0;
}

/* libevent's timer and epoll stop in a suspend, the boot clock does not: a timerfd on that clock
 * ends the wait when the machine wakes up. Without descriptors for it, deadlines of the boot clock
 * come late after a suspend and on time otherwise. */
static void set_boot_timer(struct reactor *r)
{
    uint64_t due = core_next_due(r, DEADLINE_BOOT);
    if (due == UINT64_MAX || due == r->boot_set)
        return;
    if (r->boot_fd < 0) {
        r->boot_fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
        if (r->boot_fd < 0)
            return;
        r->boot_ev = event_new(r->base, r->boot_fd, EV_READ | EV_PERSIST, on_boot_timer, r);
        if (r->boot_ev != NULL)
            event_add(r->boot_ev, NULL);
    }
    struct itimerspec at = {
        .it_value = {.tv_sec = (time_t)(due / CHRONO_SEC), .tv_nsec = (long)(due % CHRONO_SEC)}};
    if (timerfd_settime(r->boot_fd, TFD_TIMER_ABSTIME, &at, NULL) == 0)
        r->boot_set = due;
}

static uint64_t wait_length(struct reactor *r, uint64_t timeout_ns)
{
    if (has_work(r))
        return 0;
    uint64_t left = core_deadlines_left(r);
    if (chrono_is_virtual())
        return left == 0 ? 0 : timeout_ns;
    if (r->due[DEADLINE_BOOT].n != 0 && left != 0 && timeout_ns != 0)
        set_boot_timer(r);
    return left < timeout_ns ? left : timeout_ns;
}

/* Step 1. A wait that is cut short by nothing but a signal handler's return is taken up again by
 * libevent itself. */
static int wait_once(struct reactor *r, uint64_t timeout_ns)
{
    uint64_t left = wait_length(r, timeout_ns);
    int flags = EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY;
    bool timed = left != 0 && left / CHRONO_SEC < 86400;
    if (left == 0)
        flags |= EVLOOP_NONBLOCK; /* with ONCE, or libevent polls on while anything is ready */
    if (timed) {
        uint64_t us = (left + CHRONO_US - 1) / CHRONO_US;
        struct timeval tv = {.tv_sec = (time_t)(us / 1000000),
                             .tv_usec = (suseconds_t)(us % 1000000)};
        event_add(r->timer, &tv);
    }
    errno = 0;
    int rc = event_base_loop(r->base, flags);
    int err = rc < 0 ? (errno != 0 ? -errno : -EIO) : 0;
    if (timed)
        event_del(r->timer);
    return err;
}

int reactor_tick(struct reactor *r, uint64_t timeout_ns)
{
    r->tick++;
    r->busy_start = 0;
    r->metrics[REACTOR_TICKS]++;

    /* 1. One look at the world per tick, so that no descriptor can keep the others waiting. */
    int err = wait_once(r, timeout_ns);
    if (!list_empty(&r->fired))
        core_watches_run(r);
    /* 2. Signals first: whoever asks us to stop is heard before more work is begun. */
    run_hooks(r, &r->signals);
    /* 3. Deadlines before messages: a timeout that is due is not overtaken by a flood. */
    core_deadlines_run(r);
    /* 4. Deferred calls were promised to come before whatever arrives next. */
    run_deferred(r);
    /* 5. Messages, fed by all of the above. */
    core_mailboxes_run(r);
    /* 6. Writes after all who may have something to say: one system call per channel and tick. */
    run_hooks(r, &r->writes);
    /* 7. Reaping last: until here every pointer that somebody got in this tick is good. */
    while (!list_empty(&r->reaps))
        run_hooks(r, &r->reaps);

    if (r->busy_start != 0 && r->slices.start - r->busy_start > r->metrics[REACTOR_LONGEST_TICK_NS])
        r->metrics[REACTOR_LONGEST_TICK_NS] = r->slices.start - r->busy_start;
    return err;
}

int reactor_run(struct reactor *r)
{
    int err = 0;
    do
        err = reactor_tick(r, r->stop ? 0 : REACTOR_FOREVER);
    while (err == 0 && !r->stop);
    r->stop = false;
    return err;
}

void reactor_stop(struct reactor *r)
{
    r->stop = true;
}

void reactor_settle(struct reactor *r)
{
    for (int i = 0; i < SETTLE_TICKS; i++) {
        uint64_t slices = r->metrics[REACTOR_SLICES];
        if (reactor_tick(r, 0) != 0)
            return;
        if (r->metrics[REACTOR_SLICES] == slices && !reactor_pending(r))
            return;
    }
}

void reactor_advance(struct reactor *r, uint64_t ns)
{
    for (;;) {
        reactor_settle(r);
        uint64_t left = core_deadlines_left(r);
        if (left > ns || left == 0)
            break;
        chrono_virtual_advance(left);
        ns -= left;
    }
    chrono_virtual_advance(ns);
    reactor_settle(r);
}

void reactor_free(struct reactor *r)
{
    if (r == NULL)
        return;
    run_hooks(r, &r->writes);
    while (!list_empty(&r->reaps))
        run_hooks(r, &r->reaps);
    void *a = NULL;
    for (size_t pos = 0; idmap_next(&r->actors, &pos, NULL, &a);)
        log_error("%s is still alive when its loop ends", ((struct actor *)a)->name);
    core_deadlines_fini(r);
    idmap_fini(&r->actors);
    free(r->deferred.ring);
    if (r->timer != NULL)
        event_free(r->timer);
    if (r->boot_ev != NULL)
        event_free(r->boot_ev);
    if (r->boot_fd >= 0)
        close(r->boot_fd);
    if (r->base != NULL)
        event_base_free(r->base);
    free(r);
}
