/* SPDX-License-Identifier: Apache-2.0 */
/* svc/prioboost: what sessions may ask of the scheduler (service.md R254, V22, T154, T155). Each
 * case runs in a process of its own, so nothing has to be put back. */
#include <criterion/criterion.h>

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "t/svc/world.h"

enum { OTHER = 1, FIFO = 2 };

static struct world *w;

static void setup(void)
{
    if (setpriority(PRIO_PROCESS, 0, 1) != 0 || setpriority(PRIO_PROCESS, 0, -1) != 0 ||
        setpriority(PRIO_PROCESS, 0, 0) != 0)
        cr_skip("needs CAP_SYS_NICE");
    w = world_new();
}

static void teardown(void)
{
    if (w)
        world_free(w);
}

TestSuite(prioboost, .init = setup, .fini = teardown);

static bool boost(struct cons *c, uint32_t policy, uint32_t priority)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 4);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_priority_boost);
    bytesbuf_pb_varint(&w->cfg, PBF_PriorityBoostConfig_policy, policy);
    bytesbuf_pb_varint(&w->cfg, PBF_PriorityBoostConfig_priority, priority);
    bytesbuf_pb_end(&w->cfg, m);
    return cons_enable(c, &w->cfg);
}

/* 0 to 20: SCHED_OTHER with this nice level below 0; 100 and more: SCHED_FIFO; -1: anything else.
 */
static int rank(void)
{
    struct sched_param param = {0};
    sched_getparam(0, &param);
    if (sched_getscheduler(0) == SCHED_FIFO)
        return 100 + param.sched_priority;
    return sched_getscheduler(0) == SCHED_OTHER ? -getpriority(PRIO_PROCESS, 0) : -1;
}

Test(prioboost, T154_the_highest_is_in_force)
{
    static const struct {
        uint32_t policy, priority;
        int rank;  /* with those before it */
        int after; /* when those behind it have ended, the third one, and then it, too */
    } rising[] = {{OTHER, 0, 0, 0},
                  {OTHER, 1, 1, 0},
                  {OTHER, 10, 10, 1},
                  {FIFO, 1, 101, 1},
                  {FIFO, 99, 199, 101}};
    enum { N = sizeof(rising) / sizeof(rising[0]) };
    struct cons *c[N];
    for (uint32_t i = 0; i < N; i++) {
        c[i] = cons_new(w, i);
        if (!boost(c[i], rising[i].policy, rising[i].priority))
            cr_skip("needs real-time scheduling");
        cr_expect_eq(rank(), rising[i].rank, "boost %u: %d", i, rank());
    }
    cons_ask(c[2], MSG_C_FREE);
    cr_expect_eq(rank(), 199, "the end of a lower one changes nothing");
    for (int i = N - 1; i >= 0; i--) {
        cons_ask(c[i], MSG_C_FREE);
        cr_expect_eq(rank(), rising[i].after, "after %d: %d", i, rank());
    }
    for (int i = N - 1; i >= 0; i--) /* falling: the first one stays in force */
        cr_assert(boost(c[i], rising[i].policy, rising[i].priority));
    cr_expect_eq(rank(), 199);
}

Test(prioboost, T155_for_as_long_as_the_session_exists)
{
    struct cons *c = cons_new(w, 1);
    cr_assert_eq(setpriority(PRIO_PROCESS, 0, 3), 0);
    cr_assert(boost(c, OTHER, 13), "%s", c->error);
    cr_expect_eq(getpriority(PRIO_PROCESS, 0), -13);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_eq(getpriority(PRIO_PROCESS, 0), -13, "an ended session exists still");
    cons_ask(c, MSG_C_FREE);
    cr_expect_eq(getpriority(PRIO_PROCESS, 0), 3, "as it was found");
    cr_assert(boost(c, OTHER, 5));
    cons_bye(c);
    cr_expect_eq(getpriority(PRIO_PROCESS, 0), 3);
}

/* A service that was started with SCHED_BATCH got its policy back, but kept the nice level of the
 * boost. */
Test(prioboost, R254_other_policies_get_their_nice_level_back)
{
    struct cons *c = cons_new(w, 1);
    cr_assert_eq(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}), 0);
    cr_assert(boost(c, OTHER, 13), "%s", c->error);
    cr_expect_eq(rank(), 13);
    cons_ask(c, MSG_C_FREE);
    cr_expect_eq(sched_getscheduler(0), SCHED_BATCH);
    cr_expect_eq(getpriority(PRIO_PROCESS, 0), 0);
}

Test(prioboost, V22_R254_a_refused_session_boosts_nothing)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 2);
    cr_expect_not(boost(c, OTHER, 21));
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 0); /* V25 comes after it */
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_priority_boost);
    bytesbuf_pb_varint(&w->cfg, PBF_PriorityBoostConfig_policy, OTHER);
    bytesbuf_pb_varint(&w->cfg, PBF_PriorityBoostConfig_priority, 7);
    bytesbuf_pb_end(&w->cfg, m);
    cr_expect_not(cons_enable(c, &w->cfg));
    cr_expect_eq(rank(), 0);
    cr_assert(boost(d, OTHER, 2), "%s", d->error);
    cr_expect_eq(rank(), 2, "the first one left nothing behind");
}

Test(prioboost, R254_without_the_capability)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 1), *c = cons_new(w, 1);
    if (!boost(a, FIFO, 1))
        cr_skip("needs real-time scheduling");
    cr_assert(boost(b, OTHER, 5), "not the highest: the kernel is not asked");
    cr_assert_eq(seteuid(65534), 0);
    cr_expect_not(boost(c, FIFO, 2));
    cr_expect(strstr(c->error, "CAP_SYS_NICE"), "%s", c->error);
    cr_expect_eq(rank(), 101, "the one in force is not touched");
    cons_ask(a, MSG_C_FREE);
    cr_expect_eq(rank(), 0, "the next one is refused now, and dropped");
    cr_assert_eq(seteuid(0), 0);
    cr_assert(boost(c, OTHER, 3));
    cr_expect_eq(rank(), 3, "a dropped one stands in nobody's way");
    cons_ask(b, MSG_C_FREE);
    cr_expect_eq(rank(), 3);
}
