/* SPDX-License-Identifier: Apache-2.0 */
/* compact: collects sched_switch and sched_waking of one bundle column by column.
 *
 * Each column is a growing run of packed varints, ready to be copied into the packet; names are
 * interned once per packet. Growth is amortised and the memory is kept from bundle to bundle, so a
 * steady trace allocates nothing; its bound is what one batch of pages can hold. Invariant: the
 * columns of one kind always have the same number of elements. */
#include "probes/ftrace/compact.h"

#include <stdlib.h>
#include <string.h>

#include "probes/ftrace/rbpage.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"

#define COL_FIRST  1024
#define NAME_SLOTS 256

void compact_fini(struct compact *c)
{
    for (unsigned i = 0; i < COMPACT_COLUMNS; i++)
        free(c->col[i].p);
    free(c->names);
    free(c->slots);
    *c = (struct compact){0};
}

void compact_reset(struct compact *c)
{
    for (unsigned i = 0; i < COMPACT_COLUMNS; i++)
        c->col[i].n = 0;
    if (c->n_names)
        memset(c->slots, 0, c->n_slots * sizeof *c->slots);
    c->n_names = 0;
    c->last_switch = c->last_waking = 0;
}

static void put(struct compact *c, enum compact_column i, uint64_t v)
{
    struct compact_col *col = &c->col[i];
    if (col->cap - col->n < 10) {
        col->cap = col->cap ? col->cap * 2 : COL_FIRST;
        col->p = alloc_resize(col->p, col->cap, 1);
    }
    col->n = (uint32_t)(bytes_put_varint(col->p + col->n, v) - col->p);
}

static void put_signed(struct compact *c, enum compact_column i, int64_t v)
{
    put(c, i, (uint64_t)v);
}

static int32_t i32(const uint8_t *p)
{
    return (int32_t)rbpage_u32(p);
}

static uint32_t name_slot(const struct compact *c, const char name[16])
{
    uint64_t h = (rbpage_u64((const uint8_t *)name) ^ rbpage_u64((const uint8_t *)name + 8) * 31) *
                 0x9e3779b97f4a7c15ULL;
    uint32_t mask = c->n_slots - 1, i = (uint32_t)(h >> 32) & mask;
    while (c->slots[i] && memcmp(c->names[c->slots[i] - 1], name, 16) != 0)
        i = (i + 1) & mask;
    return i;
}

static void grow_names(struct compact *c)
{
    c->n_slots = c->n_slots ? c->n_slots * 2 : NAME_SLOTS;
    c->names = alloc_resize(c->names, c->n_slots / 2, sizeof *c->names);
    c->slots = alloc_resize(c->slots, c->n_slots, sizeof *c->slots);
    memset(c->slots, 0, c->n_slots * sizeof *c->slots);
    for (uint32_t i = 0; i < c->n_names; i++)
        c->slots[name_slot(c, c->names[i])] = i + 1;
}

/* Index of a comm field, which need not be terminated. */
static uint32_t intern(struct compact *c, const uint8_t *comm)
{
    char name[16] = {0};
    memcpy(name, comm, strnlen((const char *)comm, sizeof name));
    if (c->n_names >= c->n_slots / 2)
        grow_names(c);
    uint32_t slot = name_slot(c, name);
    if (!c->slots[slot]) {
        memcpy(c->names[c->n_names++], name, sizeof name);
        c->slots[slot] = c->n_names;
    }
    return c->slots[slot] - 1;
}

bool compact_switch(struct compact *c, const struct events_sched *s, const uint8_t *rec,
                    uint32_t len, uint64_t ts)
{
    if (len < s->switch_size)
        return false;
    put(c, COMPACT_SW_TS, ts - c->last_switch);
    c->last_switch = ts;
    put_signed(c, COMPACT_SW_STATE,
               s->prev_state_width == 8 ? (int64_t)rbpage_u64(rec + s->prev_state)
                                        : i32(rec + s->prev_state));
    put_signed(c, COMPACT_SW_PID, i32(rec + s->next_pid));
    put_signed(c, COMPACT_SW_PRIO, i32(rec + s->next_prio));
    put(c, COMPACT_SW_COMM, intern(c, rec + s->next_comm));
    return true;
}

bool compact_waking(struct compact *c, const struct events_sched *s, const uint8_t *rec,
                    uint32_t len, uint64_t ts)
{
    if (len < s->waking_size)
        return false;
    put(c, COMPACT_WK_TS, ts - c->last_waking);
    c->last_waking = ts;
    put_signed(c, COMPACT_WK_PID, i32(rec + s->pid));
    put_signed(c, COMPACT_WK_CPU, i32(rec + s->target_cpu));
    put_signed(c, COMPACT_WK_PRIO, i32(rec + s->prio));
    put(c, COMPACT_WK_COMM, intern(c, rec + s->comm));
    put(c, COMPACT_WK_FLAGS, rec[s->flags]);
    return true;
}

void compact_write(const struct compact *c, struct pbw *p)
{
    static const uint8_t number[COMPACT_COLUMNS] = {
        [COMPACT_SW_TS] = PBF_FtraceEventBundle_CompactSched_switch_timestamp,
        [COMPACT_SW_STATE] = PBF_FtraceEventBundle_CompactSched_switch_prev_state,
        [COMPACT_SW_PID] = PBF_FtraceEventBundle_CompactSched_switch_next_pid,
        [COMPACT_SW_PRIO] = PBF_FtraceEventBundle_CompactSched_switch_next_prio,
        [COMPACT_SW_COMM] = PBF_FtraceEventBundle_CompactSched_switch_next_comm_index,
        [COMPACT_WK_TS] = PBF_FtraceEventBundle_CompactSched_waking_timestamp,
        [COMPACT_WK_PID] = PBF_FtraceEventBundle_CompactSched_waking_pid,
        [COMPACT_WK_CPU] = PBF_FtraceEventBundle_CompactSched_waking_target_cpu,
        [COMPACT_WK_PRIO] = PBF_FtraceEventBundle_CompactSched_waking_prio,
        [COMPACT_WK_COMM] = PBF_FtraceEventBundle_CompactSched_waking_comm_index,
        [COMPACT_WK_FLAGS] = PBF_FtraceEventBundle_CompactSched_waking_common_flags,
    };
    if (!c->col[COMPACT_SW_TS].n && !c->col[COMPACT_WK_TS].n)
        return;
    pbw_begin(p, PBF_FtraceEventBundle_compact_sched);
    for (uint32_t i = 0; i < c->n_names; i++)
        pbw_bytes(p, PBF_FtraceEventBundle_CompactSched_intern_table, c->names[i],
                  strnlen(c->names[i], 16));
    for (unsigned i = 0; i < COMPACT_COLUMNS; i++)
        if (c->col[i].n)
            pbw_bytes(p, number[i], c->col[i].p, c->col[i].n);
    pbw_end(p);
}
