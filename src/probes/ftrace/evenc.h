/* SPDX-License-Identifier: Apache-2.0 */
/* evenc: one kernel record to one FtraceEvent. */
#ifndef PROBES_FTRACE_EVENC_H
#define PROBES_FTRACE_EVENC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/events.h"
#include "probes/ftrace/ftmeta.h"

#define EVENC_HEAD 64          /* room before the payload for timestamp, pid, tag and length */
#define EVENC_CAP  (64U << 10) /* payload bytes of one event; a record has at most a page */

struct evenc {
    const struct events *ev; /* borrow */
    struct ftmeta *meta;     /* borrow */
    bool legacy_generic;     /* R96 instead of R94 */
    uint8_t buf[EVENC_HEAD + EVENC_CAP];
};

/* Encodes the record of event `e` (`len` bytes). Returns the length of the FtraceEvent at *out,
 * which stays valid until the next call, or minus an enum rbpage_status. */
int evenc_event(struct evenc *enc, const struct events_event *e, const uint8_t *rec, uint32_t len,
                uint64_t ts, const uint8_t **out);

/* Userspace st_dev of a kernel device id (R89). */
uint64_t evenc_dev(uint64_t kernel_dev);

#endif
