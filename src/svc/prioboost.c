/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scheduling of the service's thread on behalf of sessions. The wishes stand in service.boosts; the
 * kernel is asked only when the highest of them changes. A wish that was lower when it came may
 * turn out to be refused when it becomes the highest: it is dropped then, with a line in the log.
 * Never touches another thread or process.
 */
#include "svc/prioboost.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/service_int.h"

enum { POLICY_OTHER = 1, POLICY_FIFO = 2 };

#define MAX_OTHER 20
#define MAX_FIFO  99

/* The settings before the first boost; one thread, one service per process that boosts. */
static struct {
    int policy, priority, nice;
} before;

/* FIFO above OTHER, then by priority. */
static uint32_t rank(const struct prioboost *b)
{
    return b->policy * 1000 + b->priority;
}

static struct prioboost *highest(struct service *svc)
{
    struct prioboost *best = NULL;
    list_for_each (it, &svc->boosts) {
        struct prioboost *b = list_entry(it, struct prioboost, node);
        if (!best || rank(b) > rank(best))
            best = b;
    }
    return best;
}

static int set_scheduling(int policy, int priority, int nice_level)
{
    struct sched_param param = {.sched_priority = priority};
    if (sched_setscheduler(0, policy, &param) != 0)
        return -errno;
    if (policy != SCHED_FIFO && policy != SCHED_RR && setpriority(PRIO_PROCESS, 0, nice_level) != 0)
        return -errno;
    return 0;
}

static int apply(const struct prioboost *b)
{
    if (b->policy == POLICY_FIFO)
        return set_scheduling(SCHED_FIFO, (int)b->priority, 0);
    return set_scheduling(SCHED_OTHER, 0, -(int)b->priority);
}

static void remember(void)
{
    struct sched_param param = {0};
    before.policy = sched_getscheduler(0);
    sched_getparam(0, &param);
    before.priority = param.sched_priority;
    before.nice = getpriority(PRIO_PROCESS, 0);
}

int prioboost_take(struct service *svc, struct prioboost *b, uint32_t policy, uint32_t priority,
                   char *why, size_t whylen)
{
    bool ok = (policy == POLICY_OTHER && priority <= MAX_OTHER) ||
              (policy == POLICY_FIFO && priority >= 1 && priority <= MAX_FIFO);
    if (!ok) {
        snprintf(why, whylen,
                 "priority_boost policy %u priority %u is out of range: SCHED_OTHER takes 0 to %d, "
                 "SCHED_FIFO 1 to %d",
                 policy, priority, MAX_OTHER, MAX_FIFO);
        return ERR_BAD_CONFIG;
    }
    struct prioboost *top = highest(svc);
    if (!top)
        remember();
    b->policy = policy;
    b->priority = priority;
    if (!top || rank(b) > rank(top)) {
        int err = apply(b);
        if (err) {
            snprintf(
                why, whylen,
                "priority_boost is refused by the kernel: %s; traced needs CAP_SYS_NICE for it",
                strerror(-err));
            return ERR_BAD_CONFIG;
        }
    }
    list_push_back(&svc->boosts, &b->node);
    b->held = true;
    return 0;
}

void prioboost_release(struct service *svc, struct prioboost *b)
{
    if (!b->held)
        return;
    bool was_top = highest(svc) == b;
    list_remove(&b->node);
    b->held = false;
    while (was_top) {
        struct prioboost *top = highest(svc);
        if (!top) {
            set_scheduling(before.policy, before.priority, before.nice);
            return;
        }
        if (apply(top) == 0)
            return;
        log_warn("a priority boost (policy %u, priority %u) is no longer allowed and is dropped",
                 top->policy, top->priority);
        list_remove(&top->node);
        top->held = false;
    }
}

void prioboost_move(struct service *svc, struct prioboost *to, struct prioboost *from)
{
    *to = *from;
    if (!from->held)
        return;
    list_remove(&from->node);
    list_push_back(&svc->boosts, &to->node);
    from->held = false;
}
