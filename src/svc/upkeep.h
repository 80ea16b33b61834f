/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_UPKEEP_H
#define SVC_UPKEEP_H

/*
 * What a daemon does by the clock for whoever started it: it feeds the manager's watchdog, says in
 * one line how things stand, and ends the loop when nobody has needed it for a while.
 */

#include <stdbool.h>
#include <stdint.h>

#include "reactor/deadline.h"

struct reactor;
struct rpc_host;
struct service;

/* Embedded by value. */
struct upkeep {
    struct reactor *reactor;   /* borrow */
    struct service *svc;       /* borrow */
    struct rpc_host *hosts[2]; /* borrow: of producers, of consumers */
    struct deadline watchdog, status, idle;
    uint64_t idle_ns;
    bool manager;  /* somebody listens to notifications */
    bool was_busy; /* at the last look for idleness */
};

/* Starts all that is wanted: the environment says whether there is a manager, idle_ns 0 means never
 * to end. To be called before activate_ready, which forgets nothing of it. */
void upkeep_init(struct upkeep *u, struct reactor *r, struct service *svc,
                 struct rpc_host *producers, struct rpc_host *consumers, uint64_t idle_ns);

/* Somebody came or left. Cheap; harmless before upkeep_init on zeroed memory. */
void upkeep_changed(struct upkeep *u);

void upkeep_fini(struct upkeep *u);

#endif
