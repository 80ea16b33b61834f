/* SPDX-License-Identifier: Apache-2.0 */
/* prio: DataSourceConfig.priority_boost, a better scheduling priority for the life of an instance.
 */
#ifndef PROBES_PRIO_H
#define PROBES_PRIO_H

#include <stdint.h>

#include "reactor/bytes.h"
#include "reactor/list.h"

/* One wish. All zero = none. */
struct prio {
    struct list node;
    uint32_t policy; /* 0 none, 1 SCHED_OTHER with nice = -priority, 2 SCHED_FIFO */
    uint32_t priority;
};

/* Reads priority_boost from an encoded DataSourceConfig. One that is out of range is logged and
 * ignored (R13). */
void prio_parse(struct prio *b, struct bytes_view config);

/* The strongest wish of all that were added counts; the first priority comes back with the last
 * removal. A refusal by the kernel is logged. */
void prio_add(struct prio *b);
void prio_remove(struct prio *b);

#endif
