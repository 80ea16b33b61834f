/* SPDX-License-Identifier: Apache-2.0 */
/* compact: scheduling events as columns instead of messages (probes.md 4.22). */
#ifndef PROBES_FTRACE_COMPACT_H
#define PROBES_FTRACE_COMPACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/events.h"
#include "smb/pbw.h"

#define COMPACT_NAMES_SOFT_MAX 64 /* R147: beyond it a new packet is due at the next page */

enum compact_column {
    COMPACT_SW_TS,
    COMPACT_SW_STATE,
    COMPACT_SW_PID,
    COMPACT_SW_PRIO,
    COMPACT_SW_COMM,
    COMPACT_WK_TS,
    COMPACT_WK_PID,
    COMPACT_WK_CPU,
    COMPACT_WK_PRIO,
    COMPACT_WK_COMM,
    COMPACT_WK_FLAGS,
    COMPACT_COLUMNS
};

struct compact_col {
    uint8_t *p; /* own; n bytes of packed varints */
    uint32_t n, cap;
};

/* All zero is empty. */
struct compact {
    struct compact_col col[COMPACT_COLUMNS];
    char (*names)[16]; /* own; NUL-padded, in order of their index */
    uint32_t *slots;   /* own; hash of names, index + 1 */
    uint32_t n_names, n_slots;
    uint64_t last_switch, last_waking; /* what the next time stamp is a difference to */
};

void compact_fini(struct compact *c);

/* Forgets everything and keeps the memory. */
void compact_reset(struct compact *c);

/* Add one record. False if it is shorter than its format. */
bool compact_switch(struct compact *c, const struct events_sched *s, const uint8_t *rec,
                    uint32_t len, uint64_t ts);
bool compact_waking(struct compact *c, const struct events_sched *s, const uint8_t *rec,
                    uint32_t len, uint64_t ts);

/* Writes the compact_sched message if there is any event (R151). */
void compact_write(const struct compact *c, struct pbw *p);

#endif
