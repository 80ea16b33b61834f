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

#include "svc/giveback.h"

_Static_assert(sizeof(struct tbuf_seq) == 64, "one cache line");

const uint32_t tbuf_hist_bounds[TBUF_HIST_BUCKETS - 1] = {8,    32,   128,  512,   1024,
                                                          2048, 4096, 8192, 12288, 16384};

#define RELEASE_STEP 1024u /* slots that are given back in one go */

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

/* Frees what the slots (from, to] own. */
static void free_lists(struct tbuf_seqtab *t, uint32_t from, uint32_t to)
{
    for (uint32_t i = from + 1; i <= to; i++) {
        if (t->slots[i].key != 0 && t->slots[i].log2cap > 1)
            free(t->slots[i].list.heap);
    }
}

bool tbuf_seqtab_release(struct tbuf_seqtab *t)
{
    uint32_t n = t->top < RELEASE_STEP ? t->top : RELEASE_STEP;
    t->top -= n;
    free_lists(t, t->top, t->top + n);
    giveback_pages(t->slots + t->top + 1, n * sizeof(*t->slots));
    giveback_pages(t->info + t->top + 1, n * sizeof(*t->info));
    return n > 0;
}

void tbuf_seqtab_fini(struct tbuf_seqtab *t)
{
    free_lists(t, 0, t->top);
    tbuf_hash_fini(&t->hash);
    if (t->slots != NULL)
        munmap(t->slots, slots_bytes(t));
    if (t->info != NULL)
        munmap(t->info, info_bytes(t));
    memset(t, 0, sizeof(*t));
}

uint64_t tbuf_seqtab_memory(const struct tbuf_seqtab *t)
{
    return t->top * (uint64_t)(sizeof(struct tbuf_seq) + sizeof(struct tbuf_seq_info)) +
           tbuf_hash_memory(&t->hash) + t->heap_bytes;
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

/* Returns its slot, which is neither empty nor free now: the caller's. */
static uint32_t forget_oldest(struct tbuf_seqtab *t)
{
    uint32_t slot = t->oldest_empty;
    struct tbuf_seq *s = &t->slots[slot];
    /* When one has to go, so has the next one soon: ask for its lines. */
    uint32_t newer = s->empty.newer;
    const struct tbuf_seq *next = &t->slots[newer];
    tbuf_hash_warm(&t->hash, next->key);
    __builtin_prefetch(&t->slots[next->empty.newer], 1);
    __builtin_prefetch(&t->info[newer], 1);
    tbuf_seq_keep(t, slot);
    empty_remove(t, s);
    if ((s->state & TBUF_SEQ_CLOSED) == 0)
        tbuf_hash_remove(&t->hash, s->key);
    t->forgotten++;
    return slot;
}

/* A slot for a new sequence. Many may have become empty at once: two are forgotten for each new one
 * until there are no longer too many, so that nobody waits for all of them. */
static uint32_t take_slot(struct tbuf_seqtab *t)
{
    if (t->empty > t->max_empty) {
        uint32_t spare = forget_oldest(t);
        t->slots[spare] = (struct tbuf_seq){.head = t->free_head};
        t->free_head = spare;
    }
    if (t->empty >= t->max_empty)
        return forget_oldest(t);
    uint32_t slot = t->free_head;
    if (slot == 0)
        return ++t->top;
    tbuf_seq_keep(t, slot);
    t->free_head = t->slots[slot].head;
    return slot;
}

uint32_t tbuf_seq_make(struct tbuf_seqtab *t, uint32_t key, const struct tbuf_client *client)
{
    if (tbuf_seqtab_full(t) || tbuf_hash_reserve(&t->hash) != 0)
        return 0;
    uint32_t slot = take_slot(t);
    struct tbuf_seq *s = &t->slots[slot];
    *s = (struct tbuf_seq){.key = key, .log2cap = 1};
    t->info[slot].client = *client;
    tbuf_hash_put(&t->hash, key, slot);
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
        if (t->hash.buckets != NULL) /* a clone has none */
            tbuf_hash_remove(&t->hash, s->key);
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

int tbuf_seq_reserve(struct tbuf_seqtab *t, struct tbuf_seq *s)
{
    if (s->count == 1u << s->log2cap && resize(t, s, (uint8_t)(s->log2cap + 1)) != 0)
        return -ENOMEM;
    __builtin_prefetch(tbuf_seq_ent(s, s->count), 1);
    return 0;
}

void tbuf_seq_append(struct tbuf_seqtab *t, struct tbuf_seq *s, struct tbuf_ent e)
{
    if (s->count == 0) {
        empty_remove(t, s);
        t->live++;
        s->ids.front = e.id;
    }
    s->ids.back = e.id;
    *tbuf_seq_ent(s, s->count) = e;
    s->count++;
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
    /* By the bits of the size less one; only 8,193 to 16,384 are two buckets. */
    static const uint8_t of_bits[17] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 10, 10};
    uint32_t b = bytes < 2 ? 0 : of_bits[32 - __builtin_clz(bytes - 1)];
    b += b == 8 && bytes > tbuf_hist_bounds[8];
    struct tbuf_seq *s = &t->slots[slot];
    struct tbuf_seq_bucket *h = tbuf_seq_bucket(&t->info[slot], b);
    bool any = (s->sampled & 1u << b) != 0;
    s->sampled |= (uint16_t)(1u << b);
    h->count = (any ? h->count : 0) + 1;
    h->sum = (any ? h->sum : 0) + bytes;
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
