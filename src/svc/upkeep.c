/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three deadlines. The watchdog ticks at half of what the manager allows, from the loop, so a loop
 * that hangs is found out. The status line follows changes, at most one a second. Idleness is
 * looked at after a full period without change; a session that nobody is connected to (detached)
 * ends without a sign, so after a busy look one more full period has to pass. The process is thus
 * never ended early, and late by one period at most.
 */
#include "svc/upkeep.h"

#include <stdlib.h>

#include "ipc/activate.h"
#include "ipc/rpc_host.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "svc/service.h"

static void feed(void *arg)
{
    (void)arg;
    activate_notify("WATCHDOG=1");
}

static void tell(void *arg)
{
    const struct upkeep *u = arg;
    activate_notify_status("%zu producer and %zu consumer connections, %zu sessions",
                           rpc_host_count(u->hosts[0]), rpc_host_count(u->hosts[1]),
                           service_sessions(u->svc));
}

static void look(void *arg)
{
    struct upkeep *u = arg;
    bool busy =
        rpc_host_count(u->hosts[0]) > 0 || rpc_host_count(u->hosts[1]) > 0 || !service_idle(u->svc);
    if (!busy && !u->was_busy) {
        log_info("nobody has needed the service for %llu s: it ends (--exit-on-idle)",
                 (unsigned long long)(u->idle_ns / CHRONO_SEC));
        reactor_stop(u->reactor);
        return;
    }
    u->was_busy = busy;
    deadline_arm(&u->idle, u->idle_ns);
}

void upkeep_init(struct upkeep *u, struct reactor *r, struct service *svc,
                 struct rpc_host *producers, struct rpc_host *consumers, uint64_t idle_ns)
{
    uint64_t watchdog_ns = activate_watchdog_ns();
    *u = (struct upkeep){.reactor = r,
                         .svc = svc,
                         .hosts = {producers, consumers},
                         .idle_ns = idle_ns,
                         .manager = getenv("NOTIFY_SOCKET") != NULL};
    deadline_init(&u->watchdog, r, "watchdog", feed, u);
    deadline_init(&u->status, r, "status", tell, u);
    deadline_init(&u->idle, r, "idle", look, u);
    if (watchdog_ns)
        deadline_every(&u->watchdog, DEADLINE_MONO, watchdog_ns);
    if (idle_ns)
        deadline_arm(&u->idle, idle_ns);
}

void upkeep_changed(struct upkeep *u)
{
    if (!u->reactor)
        return;
    if (u->manager && !deadline_armed(&u->status))
        deadline_arm(&u->status, CHRONO_SEC);
    if (u->idle_ns) {
        u->was_busy = false;
        deadline_arm(&u->idle, u->idle_ns);
    }
}

void upkeep_fini(struct upkeep *u)
{
    if (!u->reactor)
        return;
    deadline_cancel(&u->watchdog);
    deadline_cancel(&u->status);
    deadline_cancel(&u->idle);
    u->reactor = NULL;
}
