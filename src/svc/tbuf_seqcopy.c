/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of sequence tables in the making.
 *
 * The source says before it changes a sequence (tbuf_seqcopy_before), which is copied then if it is
 * not yet. Order lists are made again from the records, whose walk belongs to svc/tbuf_clone.
 *
 * Invariant: a sequence that is not kept has in the source what it had at the begin.
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

/* Room for the list; its entries only where the records do not tell all. */
static bool keep_list(struct tbuf_seqcopy *c, const struct tbuf_seq *from, struct tbuf_seq *s)
{
    size_t bytes = ((size_t)1 << s->log2cap) * sizeof(struct tbuf_ent);
    bool tombs = (s->state & TBUF_SEQ_TOMBS) != 0;
    if (s->log2cap > 1) {
        s->list.heap = malloc(bytes);
        if (s->list.heap == NULL)
            return false;
        c->to->heap_bytes += bytes;
        if (tombs)
            memcpy(s->list.heap, from->list.heap, bytes);
    }
    if (!tombs) {
        s->head = 0;
        s->count = 0;
    }
    return true;
}

static void keep_one(struct tbuf_seqcopy *c, uint32_t slot)
{
    if (slot > c->top || (c->kept[slot / 64] >> slot % 64 & 1) != 0)
        return;
    c->kept[slot / 64] |= UINT64_C(1) << slot % 64;
    const struct tbuf_seq *from = &c->from->slots[slot];
    struct tbuf_seq *s = &c->to->slots[slot];
    if (from->key == 0)
        return;
    *s = *from;
    c->to->info[slot] = c->from->info[slot];
    if (!keep_list(c, from, s)) {
        s->key = 0;
        c->failed = true;
    }
}

void tbuf_seqcopy_keep(struct tbuf_seqcopy *first, uint32_t slot)
{
    for (struct tbuf_seqcopy *c = first; c != NULL; c = c->next)
        keep_one(c, slot);
}

size_t tbuf_seqcopy_add(struct tbuf_seqcopy *c, uint32_t slot, struct tbuf_ent e)
{
    struct tbuf_seq *s = &c->to->slots[slot];
    keep_one(c, slot);
    if ((s->state & TBUF_SEQ_TOMBS) != 0 || c->failed)
        return 0;
    uint32_t pos = s->count;
    if (pos > 0 && tbuf_id_diff(e.id, s->ids.back) < 0)
        (void)tbuf_seq_locate(s, e.id, &pos);
    size_t moved = pos < s->count / 2 ? pos : s->count - pos;
    tbuf_seq_put(s, pos, e);
    return (moved + 1) * sizeof(e);
}

bool tbuf_seqcopy_sweep(struct tbuf_seqcopy *c, uint32_t max)
{
    for (; max > 0 && c->swept < c->top; max--)
        keep_one(c, ++c->swept);
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
