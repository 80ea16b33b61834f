/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PRIOBOOST_H
#define SVC_PRIOBOOST_H

/*
 * TraceConfig.priority_boost: sessions may ask for a faster service thread; the highest wish is in
 * force, and the settings found at the first wish come back with the last (service.md R254).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/list.h"

struct service;

/* Embedded in its session; zero-initialised it asks for nothing. */
struct prioboost {
    struct list node; /* in service.boosts */
    uint32_t policy;  /* PriorityBoostConfig.BoostPolicy */
    uint32_t priority;
    bool held;
};

/* Checks a wish and puts it in force if it is the highest (V22). 0; ERR_BAD_CONFIG with a line in
 * why when it is out of range or the kernel refuses it: nothing has changed then. */
int prioboost_take(struct service *svc, struct prioboost *b, uint32_t policy, uint32_t priority,
                   char *why, size_t whylen);

/* Gives it back; harmless when it holds nothing. */
void prioboost_release(struct service *svc, struct prioboost *b);

/* Moves a wish to its final place. */
void prioboost_move(struct service *svc, struct prioboost *to, struct prioboost *from);

#endif
