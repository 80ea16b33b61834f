/* SPDX-License-Identifier: Apache-2.0 */
/* boost: DataSourceConfig.priority_boost, a better scheduling priority for the life of an instance.
 */
#ifndef PROBES_BOOST_H
#define PROBES_BOOST_H

#include <stdint.h>

#include "reactor/bytes.h"
#include "reactor/list.h"

/* One wish. All zero = none. */
struct boost {
    struct list node;
    uint32_t policy; /* 0 none, 1 SCHED_OTHER with nice = -priority, 2 SCHED_FIFO */
    uint32_t priority;
};

/* Reads priority_boost from an encoded DataSourceConfig. One that is out of range is logged and
 * ignored (R13). */
void boost_parse(struct boost *b, struct bytes_view config);

/* The strongest wish of all that were added counts; the first priority comes back with the last
 * removal. A refusal by the kernel is logged. */
void boost_add(struct boost *b);
void boost_remove(struct boost *b);

#endif
