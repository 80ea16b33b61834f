/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of sequence tables in the making.
 *
 * The source says before it changes a sequence (tbuf_seqcopy_before), which is copied then if it is
 * not yet. Order lists are made again from the records, whose walk belongs to svc/tbuf_clone, but
 * records do not tell of evicted chunks. A list with tombs keeps its places in memory: the copy has
 * the same head and room, and takes piece by piece what the source has there, in the sweep or
 * before the source writes there (tbuf_seqcopy_before_ents).
 *
 * Invariant: a sequence that is not kept, and a piece of a list that is not kept, has in the source
 * what it had at the begin, except for entries that belonged to no list then.
 */
#include "svc/tbuf_seqcopy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int tbuf_seqcopy_begin(struct tbuf_seqcopy *c, struct tbuf_seqtab *to, struct tbuf_seqtab *from)
{
    uint64_t *kept = calloc(from->top / 64 + 1, sizeof(*kept));
    if (kept == NULL || tbuf_seqtab_like(to, from) != 0) {
        free(kept);
        return -ENOMEM;
    }
    *c = (struct tbuf_seqcopy){
        .next = from->copies, .from = from, .to = to, .kept = kept, .top = from->top};
    from->copies = c;
    return 0;
}

/* ---- lists with tombs, in pieces ---- */

/* Of a list that is being copied: a bit for each piece that is there, behind the entries. */
static uint64_t *piece_bits(const struct tbuf_seq *s)
{
    return (uint64_t *)(void *)(s->list.heap + ((size_t)1 << s->log2cap));
}

static size_t piece_bytes(const struct tbuf_seqcopy *c, const struct tbuf_seq *s)
{
    return ((((size_t)1 << (s->log2cap - c->from->piece_log2)) + 63) / 64) * sizeof(uint64_t);
}

/* Copies the piece where this place of the list's memory lies; returns its bytes, 0 when it is
 * there. */
static size_t keep_piece(struct tbuf_seqcopy *c, uint32_t slot, uint32_t place)
{
    const struct tbuf_seq *from = &c->from->slots[slot];
    const struct tbuf_seq *s = &c->to->slots[slot];
    uint32_t piece = place >> c->from->piece_log2;
    size_t first = (size_t)piece << c->from->piece_log2;
    size_t bytes = sizeof(struct tbuf_ent) << c->from->piece_log2;
    uint64_t *bits = &piece_bits(s)[piece / 64];
    uint64_t bit = UINT64_C(1) << piece % 64;
    if ((*bits & bit) != 0)
        return 0;
    *bits |= bit;
    memcpy(s->list.heap + first, from->list.heap + first, bytes);
    return bytes;
}

/* Copies the pieces of the entries from *at on until `max` bytes are copied; *at is moved on. */
static size_t keep_pieces(struct tbuf_seqcopy *c, uint32_t slot, uint32_t *at, size_t max)
{
    const struct tbuf_seq *s = &c->to->slots[slot];
    uint32_t mask = (1u << s->log2cap) - 1;
    uint32_t entries = 1u << c->from->piece_log2;
    size_t bytes = 0;
    while (*at < s->count && bytes < max) {
        uint32_t place = (s->head + *at) & mask;
        bytes += keep_piece(c, slot, place);
        *at += entries - (place & (entries - 1));
    }
    return bytes;
}

/* While this holds the list of the source stands where it stood at the begin. */
static bool is_copying(const struct tbuf_seqcopy *c, uint32_t slot)
{
    return slot <= c->top && (c->to->slots[slot].state & TBUF_SEQ_COPYING) != 0;
}

void tbuf_seqcopy_keep_ents(struct tbuf_seqcopy *first, uint32_t slot, uint32_t place, uint32_t n)
{
    for (struct tbuf_seqcopy *c = first; c != NULL; c = c->next) {
        if (!is_copying(c, slot))
            continue;
        uint32_t mask = (1u << c->to->slots[slot].log2cap) - 1;
        uint32_t entries = 1u << c->from->piece_log2;
        uint32_t at = place & mask;
        for (uint32_t i = at & ~(entries - 1); i < at + n; i += entries)
            keep_piece(c, slot, i & mask);
    }
}

void tbuf_seqcopy_keep_lists(struct tbuf_seqcopy *first, uint32_t slot)
{
    for (struct tbuf_seqcopy *c = first; c != NULL; c = c->next) {
        uint32_t at = 0;
        if (!is_copying(c, slot))
            continue;
        keep_pieces(c, slot, &at, SIZE_MAX);
        c->to->slots[slot].state &= (uint8_t)~TBUF_SEQ_COPYING;
    }
}

/* ---- sequences ---- */

/* Room for the list; its entries only where the records do not tell all, and of a long one none
 * yet. The bytes of work. */
static size_t keep_list(struct tbuf_seqcopy *c, const struct tbuf_seq *from, struct tbuf_seq *s)
{
    size_t bytes = ((size_t)1 << s->log2cap) * sizeof(struct tbuf_ent);
    bool tombs = (s->state & TBUF_SEQ_TOMBS) != 0;
    bool pieces = tombs && s->log2cap > c->from->piece_log2;
    if (!tombs) {
        s->head = 0;
        s->count = 0;
    }
    if (s->log2cap <= 1)
        return 0;
    size_t extra = pieces ? piece_bytes(c, s) : 0;
    s->list.heap = malloc(bytes + extra);
    if (s->list.heap == NULL) {
        s->key = 0;
        c->failed = true;
        return 0;
    }
    c->to->heap_bytes += bytes;
    if (pieces) {
        memset(piece_bits(s), 0, extra);
        s->state |= TBUF_SEQ_COPYING;
        return extra;
    }
    if (tombs)
        memcpy(s->list.heap, from->list.heap, bytes);
    return tombs ? bytes : 0;
}

/* Returns the bytes of work. */
static size_t keep_one(struct tbuf_seqcopy *c, uint32_t slot)
{
    if (slot > c->top || (c->kept[slot / 64] >> slot % 64 & 1) != 0)
        return 0;
    c->kept[slot / 64] |= UINT64_C(1) << slot % 64;
    const struct tbuf_seq *from = &c->from->slots[slot];
    struct tbuf_seq *s = &c->to->slots[slot];
    if (from->key == 0)
        return 0;
    *s = *from;
    c->to->info[slot] = c->from->info[slot];
    return keep_list(c, from, s);
}

void tbuf_seqcopy_keep(struct tbuf_seqcopy *first, uint32_t slot)
{
    for (struct tbuf_seqcopy *c = first; c != NULL; c = c->next)
        keep_one(c, slot);
}

size_t tbuf_seqcopy_add(struct tbuf_seqcopy *c, uint32_t slot, struct tbuf_ent e)
{
    struct tbuf_seq *s = &c->to->slots[slot];
    size_t work = keep_one(c, slot);
    if ((s->state & TBUF_SEQ_TOMBS) != 0 || c->failed)
        return work;
    uint32_t pos = s->count;
    if (pos > 0 && tbuf_id_diff(e.id, s->ids.back) < 0)
        (void)tbuf_seq_locate(s, e.id, &pos);
    size_t moved = pos < s->count / 2 ? pos : s->count - pos;
    tbuf_seq_put(s, pos, e);
    return work + (moved + 1) * sizeof(e);
}

bool tbuf_seqcopy_sweep(struct tbuf_seqcopy *c, size_t max_bytes, size_t *bytes)
{
    size_t done = 0;
    while (c->swept < c->top && done < max_bytes) {
        uint32_t slot = c->swept + 1;
        done += sizeof(struct tbuf_seq_info) + keep_one(c, slot);
        if (is_copying(c, slot)) {
            if (done < max_bytes)
                done += keep_pieces(c, slot, &c->at, max_bytes - done);
            if (c->at < c->to->slots[slot].count)
                break;
            c->to->slots[slot].state &= (uint8_t)~TBUF_SEQ_COPYING;
        }
        c->at = 0;
        c->swept++;
    }
    *bytes = done;
    return c->swept < c->top;
}

void tbuf_seqcopy_end(struct tbuf_seqcopy *c)
{
    struct tbuf_seqcopy **at = &c->from->copies;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    free(c->kept);
}
