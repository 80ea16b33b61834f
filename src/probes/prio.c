/* SPDX-License-Identifier: Apache-2.0 */
/* prio: keeps the wishes of all live instances and applies the strongest: FIFO before OTHER, then
 * the larger priority (R13). Scheduling belongs to the whole process, so the state is one static
 * list; the wishes are embedded in their instances. */
#include "probes/prio.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>

#include "protos/fieldnum.h"
#include "reactor/log.h"

enum { POLICY_OTHER = 1, POLICY_FIFO = 2 };

static struct list wishes = LIST_INIT(wishes);
static struct {
    int policy, nice;
    struct sched_param param;
} before;

void prio_parse(struct prio *b, struct bytes_view config)
{
    struct bytes_field f, v;
    *b = (struct prio){.policy = 0};
    if (!bytes_find(config, PBF_DataSourceConfig_priority_boost, BYTES_LEN, &f))
        return;
    if (bytes_find(f.data, PBF_PriorityBoostConfig_policy, BYTES_VARINT, &v))
        b->policy = (uint32_t)v.num;
    if (bytes_find(f.data, PBF_PriorityBoostConfig_priority, BYTES_VARINT, &v))
        b->priority = v.num > UINT32_MAX ? UINT32_MAX : (uint32_t)v.num;
    if ((b->policy == POLICY_OTHER && b->priority <= 20) ||
        (b->policy == POLICY_FIFO && b->priority >= 1 && b->priority <= 99))
        return;
    log_warn("priority_boost: policy %u with priority %u is out of range (SCHED_OTHER 0 to 20, "
             "SCHED_FIFO 1 to 99); "
             "ignored",
             b->policy, b->priority);
    *b = (struct prio){.policy = 0};
}

static void apply(const struct prio *b)
{
    struct sched_param param = {.sched_priority = b->policy == POLICY_FIFO ? (int)b->priority : 0};
    int rc = sched_setscheduler(0, b->policy == POLICY_FIFO ? SCHED_FIFO : SCHED_OTHER, &param);
    if (rc == 0 && b->policy == POLICY_OTHER)
        rc = setpriority(PRIO_PROCESS, 0, -(int)b->priority);
    if (rc)
        log_warn("priority_boost: the kernel refuses it: %s; give the daemon CAP_SYS_NICE",
                 strerror(errno));
}

static void strongest(void)
{
    const struct prio *best = NULL;
    list_for_each (pos, &wishes) {
        const struct prio *b = list_entry(pos, struct prio, node);
        if (!best || b->policy > best->policy ||
            (b->policy == best->policy && b->priority > best->priority))
            best = b;
    }
    if (best)
        apply(best);
}

void prio_add(struct prio *b)
{
    if (!b->policy)
        return;
    if (list_empty(&wishes)) {
        before.policy = sched_getscheduler(0);
        before.nice = getpriority(PRIO_PROCESS, 0);
        sched_getparam(0, &before.param);
    }
    list_push_back(&wishes, &b->node);
    strongest();
}

void prio_remove(struct prio *b)
{
    if (!b->policy)
        return;
    b->policy = 0;
    list_remove(&b->node);
    if (!list_empty(&wishes)) {
        strongest();
        return;
    }
    if (sched_setscheduler(0, before.policy, &before.param) ||
        setpriority(PRIO_PROCESS, 0, before.nice))
        log_warn("priority_boost: cannot go back to the priority before: %s", strerror(errno));
}
