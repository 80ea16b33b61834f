/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages per second through the reactor, and what a tick, a deadline and an fd cost. Reports
 * figures, asserts nothing.
 */
#include "reactor/actor.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/watch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct ping {
    uint64_t n;
    uint64_t rest[3];
};

struct party {
    struct actor actor;
    uint64_t peer;
    uint64_t got;
};

static uint64_t goal;

static void count_handle(struct actor *a, struct mailbox_msg *m)
{
    struct party *p = list_entry(a, struct party, actor);
    (void)m;
    p->got++;
}

static void bounce_handle(struct actor *a, struct mailbox_msg *m)
{
    struct party *p = list_entry(a, struct party, actor);
    const struct ping *in = (const void *)m->data;
    struct ping out = *in;
    p->got++;
    out.n++;
    if (out.n < goal)
        ACTOR_POST(a->reactor, p->peer, a->id, 0, &out);
}

static const struct actor_ops count_ops = {count_handle, NULL};
static const struct actor_ops bounce_ops = {bounce_handle, NULL};

static void report(const char *what, uint64_t n, uint64_t ns)
{
    printf("%-44s %8.1f ns each, %8.2f M/s\n", what, (double)ns / (double)n,
           (double)n * 1e3 / (double)ns);
}

static void bench_batches(struct reactor *r, unsigned actors, unsigned batch, uint64_t n)
{
    struct party *p = calloc(actors, sizeof(*p));
    struct ping ping = {0, {0}};
    char what[64];
    for (unsigned i = 0; i < actors; i++)
        actor_init(&p[i].actor, r, "receiver", &count_ops, NULL);
    uint64_t start = chrono_mono_ns();
    for (uint64_t sent = 0; sent < n; sent += (uint64_t)actors * batch) {
        for (unsigned b = 0; b < batch; b++)
            for (unsigned i = 0; i < actors; i++)
                ACTOR_POST(r, p[i].actor.id, 0, 0, &ping);
        reactor_tick(r, 0);
    }
    uint64_t ns = chrono_mono_ns() - start;
    snprintf(what, sizeof(what), "post + dispatch, %u actors, %u per tick each", actors, batch);
    report(what, n, ns);
    for (unsigned i = 0; i < actors; i++)
        actor_kill(&p[i].actor);
    reactor_tick(r, 0);
    free(p);
}

static void bench_bounce(struct reactor *r, uint64_t n)
{
    struct party p[2] = {0};
    struct ping ping = {0, {0}};
    goal = n;
    for (int i = 0; i < 2; i++)
        actor_init(&p[i].actor, r, "bouncer", &bounce_ops, NULL);
    p[0].peer = p[1].actor.id;
    p[1].peer = p[0].actor.id;
    uint64_t start = chrono_mono_ns();
    ACTOR_POST(r, p[0].actor.id, 0, 0, &ping);
    while (p[0].got + p[1].got < n)
        reactor_tick(r, 0);
    report("request and answer, one at a time", n, chrono_mono_ns() - start);
    actor_kill(&p[0].actor);
    actor_kill(&p[1].actor);
    reactor_tick(r, 0);
}

static void bench_empty_ticks(struct reactor *r, uint64_t n)
{
    uint64_t start = chrono_mono_ns();
    for (uint64_t i = 0; i < n; i++)
        reactor_tick(r, 0);
    report("tick with nothing to do", n, chrono_mono_ns() - start);
}

static void no_op(void *arg)
{
    (void)arg;
}

static void bench_deadlines(struct reactor *r, unsigned n)
{
    struct deadline *d = calloc(n, sizeof(*d));
    uint64_t start = chrono_mono_ns();
    for (unsigned i = 0; i < n; i++) {
        deadline_init(&d[i], r, "bench", no_op, NULL);
        deadline_arm_at(&d[i], DEADLINE_MONO, start + (i * 7919u) % n);
    }
    reactor_tick(r, 0);
    report("deadline armed and fired", n, chrono_mono_ns() - start);
    free(d);
}

static void on_event(void *arg, unsigned event)
{
    (void)event;
    ++*(uint64_t *)arg;
}

static void bench_watch(struct reactor *r, uint64_t n)
{
    uint64_t fired = 0;
    int fd = eventfd(1, EFD_CLOEXEC);
    struct watch w;
    watch_init(&w, r, "bench", fd, on_event, &fired);
    watch_set(&w, WATCH_READ);
    uint64_t start = chrono_mono_ns();
    while (fired < n)
        reactor_tick(r, REACTOR_FOREVER);
    report("tick with one ready descriptor", n, chrono_mono_ns() - start);
    watch_fini(&w);
    close(fd);
}

int main(void)
{
    struct reactor *r = reactor_new(NULL);
    if (r == NULL) {
        perror("reactor_new");
        return 1;
    }
    bench_batches(r, 1, 64, 8000000);
    bench_batches(r, 100, 64, 8000000);
    bench_batches(r, 100, 1, 2000000);
    bench_bounce(r, 2000000);
    bench_empty_ticks(r, 1000000);
    bench_deadlines(r, 100000);
    bench_watch(r, 500000);
    reactor_free(r);
    return 0;
}
