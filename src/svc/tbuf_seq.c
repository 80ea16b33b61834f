/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sequence table of a trace buffer.
 *
 * A sequence costs one cache line that every copy touches, one line of histogram, and a circular
 * list of {chunk id, offset} sorted by id. Ids of a healthy writer have no gaps, so the distance of
 * an id from the front id is its position: patches, re-commits and evictions find their chunk in
 * constant time; only a list with gaps needs a binary search.
 *
 * Memory is tied to what the ring holds. Lists double and halve with their number of entries; the
 * slot arrays are reserved in one piece and become resident page by page; a sequence without chunks
 * is kept to remember the last id that was seen (R73) until max_empty newer ones are empty too. A
 * sequence with chunks is never dropped here: the ring evicts its oldest records until the table
 * has room again.
 *
 * This file knows nothing of records: it must never look at ring memory.
 */
#include "svc/tbuf_seq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

_Static_assert(sizeof(struct tbuf_seq) == 64, "one cache line");

const uint32_t tbuf_hist_bounds[TBUF_HIST_BUCKETS - 1] = {8,    32,   128,  512,   1024,
                                                          2048, 4096, 8192, 12288, 16384};

#define HASH_MIN 64u

static uint32_t clamp(uint64_t v, uint32_t lo, uint32_t hi)
{
    return v < lo ? lo : v > hi ? hi : (uint32_t)v;
}

/* Reserved, zero, nothing resident. */
static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static size_t slots_bytes(const struct tbuf_seqtab *t)
{
    return (size_t)(t->max + 1) * sizeof(struct tbuf_seq);
}

static size_t info_bytes(const struct tbuf_seqtab *t)
{
    return (size_t)(t->max + 1) * sizeof(struct tbuf_seq_info);
}

int tbuf_seqtab_init(struct tbuf_seqtab *t, uint64_t ring_size)
{
    memset(t, 0, sizeof(*t));
    t->max_live = clamp(ring_size / 256, 2048, 1u << 20);
    t->max_empty = clamp(ring_size / 16384, 1024, 1u << 16);
    t->max = t->max_live + t->max_empty + 1;
    t->slots = reserve(slots_bytes(t));
    t->info = reserve(info_bytes(t));
    if (t->slots != NULL && t->info != NULL)
        return 0;
    tbuf_seqtab_fini(t);
    return -ENOMEM;
}

void tbuf_seqtab_fini(struct tbuf_seqtab *t)
{
    for (uint32_t i = 1; i <= t->top; i++) {
        if (t->slots[i].key != 0 && t->slots[i].log2cap > 1)
            free(t->slots[i].list.heap);
    }
    free(t->hash);
    if (t->slots != NULL)
        munmap(t->slots, slots_bytes(t));
    if (t->info != NULL)
        munmap(t->info, info_bytes(t));
    memset(t, 0, sizeof(*t));
}

uint64_t tbuf_seqtab_memory(const struct tbuf_seqtab *t)
{
    uint64_t hash = t->hash == NULL ? 0 : ((uint64_t)t->hash_mask + 1) * sizeof(*t->hash);
    return t->top * (uint64_t)(sizeof(struct tbuf_seq) + sizeof(struct tbuf_seq_info)) + hash +
           t->heap_bytes;
}

/* ---- hash: open addressing, linear probing, at most half full ---- */

static uint32_t hash_cell(const struct tbuf_seqtab *t, uint32_t key)
{
    return (uint32_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & t->hash_mask;
}

static void hash_put(struct tbuf_seqtab *t, uint32_t key, uint32_t slot)
{
    uint32_t c = hash_cell(t, key);
    while (t->hash[c].slot != 0)
        c = (c + 1) & t->hash_mask;
    t->hash[c] = (struct tbuf_cell){key, slot};
}

static int hash_grow(struct tbuf_seqtab *t)
{
    struct tbuf_cell *old = t->hash;
    uint32_t old_cells = old == NULL ? 0 : t->hash_mask + 1;
    uint32_t cells = old == NULL ? HASH_MIN : old_cells * 2;
    struct tbuf_cell *fresh = calloc(cells, sizeof(*fresh));
    if (fresh == NULL)
        return -ENOMEM;
    t->hash = fresh;
    t->hash_mask = cells - 1;
    for (uint32_t i = 0; i < old_cells; i++) {
        if (old[i].slot != 0)
            hash_put(t, old[i].key, old[i].slot);
    }
    free(old);
    return 0;
}

/* Takes a slot out and moves back those that were pushed behind it. */
static void hash_remove(struct tbuf_seqtab *t, uint32_t slot)
{
    uint32_t c = hash_cell(t, t->slots[slot].key);
    while (t->hash[c].slot != slot)
        c = (c + 1) & t->hash_mask;
    for (uint32_t n = (c + 1) & t->hash_mask; t->hash[n].slot != 0; n = (n + 1) & t->hash_mask) {
        uint32_t home = hash_cell(t, t->hash[n].key);
        if (((n - home) & t->hash_mask) >= ((n - c) & t->hash_mask)) {
            t->hash[c] = t->hash[n];
            c = n;
        }
    }
    t->hash[c].slot = 0;
    t->hashed--;
}

uint32_t tbuf_seq_find(struct tbuf_seqtab *t, uint32_t key)
{
    if (t->hash == NULL)
        return 0;
    for (uint32_t c = hash_cell(t, key); t->hash[c].slot != 0; c = (c + 1) & t->hash_mask) {
        if (t->hash[c].key == key)
            return t->hash[c].slot;
    }
    return 0;
}

/* ---- the ring of empty sequences ---- */

static void empty_add(struct tbuf_seqtab *t, struct tbuf_seq *s)
{
    uint32_t slot = tbuf_seq_slot(t, s);
    s->empty.older = t->newest_empty;
    s->empty.newer = 0;
    if (t->newest_empty != 0)
        t->slots[t->newest_empty].empty.newer = slot;
    else
        t->oldest_empty = slot;
    t->newest_empty = slot;
    t->empty++;
}

static void empty_remove(struct tbuf_seqtab *t, struct tbuf_seq *s)
{
    if (s->empty.older != 0)
        t->slots[s->empty.older].empty.newer = s->empty.newer;
    else
        t->oldest_empty = s->empty.newer;
    if (s->empty.newer != 0)
        t->slots[s->empty.newer].empty.older = s->empty.older;
    else
        t->newest_empty = s->empty.older;
    t->empty--;
}

static void forget_oldest(struct tbuf_seqtab *t)
{
    uint32_t slot = t->oldest_empty;
    struct tbuf_seq *s = &t->slots[slot];
    /* When one has to go, so has the next one soon: ask for its lines. */
    const struct tbuf_seq *next = &t->slots[s->empty.newer];
    __builtin_prefetch(&t->hash[hash_cell(t, next->key)], 1);
    __builtin_prefetch(&t->slots[next->empty.newer], 1);
    __builtin_prefetch(&t->info[s->empty.newer], 1);
    __builtin_prefetch(&t->info[s->empty.newer].hist[3], 1);
    tbuf_seq_keep(t, slot);
    empty_remove(t, s);
    if ((s->state & TBUF_SEQ_CLOSED) == 0)
        hash_remove(t, slot);
    memset(s, 0, sizeof(*s));
    s->head = t->free_head;
    t->free_head = slot;
    t->forgotten++;
}

uint32_t tbuf_seq_get(struct tbuf_seqtab *t, uint32_t key, const struct tbuf_client *client)
{
    uint32_t slot = tbuf_seq_find(t, key);
    if (slot != 0)
        return slot;
    if (tbuf_seqtab_full(t))
        return 0;
    while (t->empty >= t->max_empty)
        forget_oldest(t);
    if ((t->hash == NULL || t->hashed >= t->hash_mask / 2) && hash_grow(t) != 0)
        return 0;
    if (t->free_head != 0) {
        slot = t->free_head;
        tbuf_seq_keep(t, slot);
        t->free_head = t->slots[slot].head;
    } else {
        slot = ++t->top;
    }
    struct tbuf_seq *s = &t->slots[slot];
    memset(s, 0, sizeof(*s));
    s->key = key;
    s->log2cap = 1;
    t->info[slot].client = *client;
    hash_put(t, key, slot);
    t->hashed++;
    empty_add(t, s);
    return slot;
}

void tbuf_seq_close_producer(struct tbuf_seqtab *t, uint16_t producer_id)
{
    for (uint32_t i = 1; i <= t->top; i++) {
        struct tbuf_seq *s = &t->slots[i];
        if (s->key >> 16 != producer_id || s->key == 0 || (s->state & TBUF_SEQ_CLOSED) != 0)
            continue;
        tbuf_seq_keep(t, i);
        if (t->hash != NULL)
            hash_remove(t, i);
        s->state |= TBUF_SEQ_CLOSED;
        s->stalled = 0;
    }
}

/* ---- order lists ---- */

enum tbuf_place tbuf_seq_locate(struct tbuf_seq *s, uint32_t id, uint32_t *pos)
{
    *pos = 0;
    if (s->count == 0)
        return TBUF_PLACE_NEW;
    uint32_t front = s->ids.front;
    uint32_t back = s->ids.back;
    uint32_t off = id - front;
    if (off > back - front) {
        bool newer = tbuf_id_diff(id, back) > 0;
        *pos = newer ? s->count : 0;
        return (newer ? off : back - id) <= TBUF_SEQ_SPAN ? TBUF_PLACE_NEW : TBUF_PLACE_TOO_FAR;
    }
    if (back - front == s->count - 1 || (off < s->count && tbuf_seq_ent(s, off)->id == id)) {
        *pos = off;
        return TBUF_PLACE_FOUND;
    }
    uint32_t lo = 0;
    uint32_t hi = s->count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        uint32_t at = tbuf_seq_ent(s, mid)->id - front;
        if (at == off) {
            *pos = mid;
            return TBUF_PLACE_FOUND;
        }
        if (at < off)
            lo = mid + 1;
        else
            hi = mid;
    }
    *pos = lo;
    return TBUF_PLACE_NEW;
}

/* Moves the list to one of 1 << log2cap entries, front first. 0 or -ENOMEM. */
static int resize(struct tbuf_seqtab *t, struct tbuf_seq *s, uint8_t log2cap)
{
    struct tbuf_ent *old = s->log2cap > 1 ? s->list.heap : NULL;
    struct tbuf_ent inl[TBUF_SEQ_INLINE];
    struct tbuf_ent *fresh = inl;
    if (log2cap > 1) {
        fresh = malloc(((size_t)1 << log2cap) * sizeof(*fresh));
        if (fresh == NULL)
            return -ENOMEM;
        t->heap_bytes += ((uint64_t)1 << log2cap) * sizeof(*fresh);
    }
    for (uint32_t i = 0; i < s->count; i++)
        fresh[i] = *tbuf_seq_ent(s, i);
    if (old != NULL) {
        t->heap_bytes -= ((uint64_t)1 << s->log2cap) * sizeof(*old);
        free(old);
    }
    s->head = 0;
    s->log2cap = log2cap;
    if (log2cap > 1)
        s->list.heap = fresh;
    else
        memcpy(s->list.inl, inl, sizeof(inl));
    return 0;
}

/* The list has room. */
static void put_ent(struct tbuf_seq *s, uint32_t pos, struct tbuf_ent e)
{
    if (s->count == 0) {
        s->ids.front = s->ids.back = e.id;
    } else if (pos == 0) {
        s->ids.front = e.id;
    } else if (pos == s->count) {
        s->ids.back = e.id;
    }
    if (pos < s->count / 2) { /* the shorter side moves */
        s->head = (s->head - 1) & ((1u << s->log2cap) - 1);
        for (uint32_t i = 0; i < pos; i++)
            *tbuf_seq_ent(s, i) = *tbuf_seq_ent(s, i + 1);
    } else {
        for (uint32_t i = s->count; i > pos; i--)
            *tbuf_seq_ent(s, i) = *tbuf_seq_ent(s, i - 1);
    }
    s->count++;
    *tbuf_seq_ent(s, pos) = e;
}

int tbuf_seq_insert(struct tbuf_seqtab *t, struct tbuf_seq *s, uint32_t pos, struct tbuf_ent e)
{
    if (s->count == 1u << s->log2cap && resize(t, s, (uint8_t)(s->log2cap + 1)) != 0)
        return -ENOMEM;
    if (s->count == 0) {
        empty_remove(t, s);
        t->live++;
    }
    put_ent(s, pos, e);
    return 0;
}

void tbuf_seq_pop(struct tbuf_seqtab *t, struct tbuf_seq *s)
{
    bool no_gaps = s->ids.back - s->ids.front == s->count - 1;
    s->head = (s->head + 1) & ((1u << s->log2cap) - 1);
    s->count--;
    if (s->count > 0)
        s->ids.front = no_gaps ? s->ids.front + 1 : tbuf_seq_ent(s, 0)->id;
    if (s->log2cap > 3 && s->count <= 1u << (s->log2cap - 2))
        (void)resize(t, s, (uint8_t)(s->log2cap - 1)); /* no memory: stays as it is */
    if (s->count == 0) {
        if (s->log2cap > 1)
            (void)resize(t, s, 1);
        s->state &= (uint8_t)~TBUF_SEQ_TOMBS;
        t->live--;
        empty_add(t, s);
    }
}

void tbuf_seq_sample(struct tbuf_seqtab *t, uint32_t slot, uint32_t bytes)
{
    uint32_t b = 0;
    while (b < TBUF_HIST_BUCKETS - 1 && bytes > tbuf_hist_bounds[b])
        b++;
    struct tbuf_seq *s = &t->slots[slot];
    if ((s->sampled & 1u << b) == 0) {
        s->sampled |= (uint16_t)(1u << b);
        t->info[slot].hist[b].count = 0;
        t->info[slot].hist[b].sum = 0;
    }
    t->info[slot].hist[b].count++;
    t->info[slot].hist[b].sum += bytes;
}

/* ---- copies in the making ---- */

int tbuf_seqcopy_begin(struct tbuf_seqcopy *c, struct tbuf_seqtab *to, struct tbuf_seqtab *from)
{
    struct tbuf_seqtab t = {
        .max = from->max,
        .max_live = from->max_live,
        .max_empty = from->max_empty,
        .live = from->live,
        .empty = from->empty,
        .top = from->top,
        .forgotten = from->forgotten,
    };
    uint64_t *kept = calloc(from->top / 64 + 1, sizeof(*kept));
    t.slots = reserve(slots_bytes(from));
    t.info = reserve(info_bytes(from));
    if (t.slots == NULL || t.info == NULL || kept == NULL) {
        t.top = 0;
        tbuf_seqtab_fini(&t);
        free(kept);
        return -ENOMEM;
    }
    *to = t;
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
    put_ent(s, pos, e);
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
