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
#include "svc/tbuf_seqcopy.h"

_Static_assert(sizeof(struct tbuf_seq) == 64, "one cache line");

const uint32_t tbuf_hist_bounds[TBUF_HIST_BUCKETS - 1] = {8,    32,   128,  512,   1024,
                                                          2048, 4096, 8192, 12288, 16384};

#define RELEASE_STEP 1024u               /* slots that are given back in one go */
#define SLACK        64u                 /* empty sequences above max_empty that do no harm */
#define GONE_BYTES   ((size_t)65536 / 8) /* a bit for each producer id */

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
int tbuf_seqtab_like(struct tbuf_seqtab *to, const struct tbuf_seqtab *from)
{
    struct tbuf_seqtab t = {
        .max = from->max,
        .max_live = from->max_live,
        .max_empty = from->max_empty,
        .live = from->live,
        .empty = from->empty,
        .top = from->top,
        .forgotten = from->forgotten,
        .ngone = from->ngone,
    };
    t.slots = reserve(slots_bytes(from));
    t.info = reserve(info_bytes(from));
    t.gone = from->ngone != 0 ? malloc(GONE_BYTES) : NULL;
    if (t.slots == NULL || t.info == NULL || (t.ngone != 0 && t.gone == NULL)) {
        t.top = 0;
        tbuf_seqtab_fini(&t);
        return -ENOMEM;
    }
    if (t.ngone != 0)
        memcpy(t.gone, from->gone, GONE_BYTES);
    *to = t;
    return 0;
}

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
    free(t->gone);
    if (t->slots != NULL)
        munmap(t->slots, slots_bytes(t));
    if (t->info != NULL)
        munmap(t->info, info_bytes(t));
    memset(t, 0, sizeof(*t));
}

uint64_t tbuf_seqtab_memory(const struct tbuf_seqtab *t)
{
    return t->top * (uint64_t)(sizeof(struct tbuf_seq) + sizeof(struct tbuf_seq_info)) +
           tbuf_hash_memory(&t->hash) + t->heap_bytes + (t->gone != NULL ? GONE_BYTES : 0);
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
    tbuf_seqcopy_before(t, slot);
    empty_remove(t, s);
    if ((s->state & TBUF_SEQ_CLOSED) == 0)
        tbuf_hash_remove(&t->hash, s->key);
    t->forgotten++;
    return slot;
}

/* A slot for a new sequence. Many may have become empty at once: two are forgotten for each new one
 * until there are no longer too many, so that nobody waits for all of them; but a few too many are
 * no hurry, since only the lines of the first were asked for in time. */
static uint32_t take_slot(struct tbuf_seqtab *t)
{
    if (t->empty > t->max_empty + SLACK) {
        uint32_t spare = forget_oldest(t);
        t->slots[spare] = (struct tbuf_seq){.head = t->free_head};
        t->free_head = spare;
    }
    if (t->empty >= t->max_empty)
        return forget_oldest(t);
    uint32_t slot = t->free_head;
    if (slot == 0)
        return ++t->top;
    tbuf_seqcopy_before(t, slot);
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

/* ---- producers that are gone ---- */

static void close_marked(struct tbuf_seqtab *t, const uint64_t *gone)
{
    for (uint32_t i = 1; i <= t->top; i++) {
        struct tbuf_seq *s = &t->slots[i];
        uint32_t producer = s->key >> 16;
        if (s->key == 0 || (s->state & TBUF_SEQ_CLOSED) != 0 ||
            (gone[producer / 64] >> producer % 64 & 1) == 0)
            continue;
        tbuf_seqcopy_before(t, i);
        if (t->hash.buckets != NULL) /* a clone has none */
            tbuf_hash_remove(&t->hash, s->key);
        s->state |= TBUF_SEQ_CLOSED;
    }
}

void tbuf_seq_producer_gone(struct tbuf_seqtab *t, uint16_t producer_id)
{
    uint64_t bit = UINT64_C(1) << producer_id % 64;
    if (t->top == 0 || tbuf_seq_is_gone(t, producer_id))
        return;
    if (t->gone == NULL && (t->gone = calloc(1, GONE_BYTES)) == NULL) {
        uint64_t one[GONE_BYTES / sizeof(uint64_t)] = {0};
        one[producer_id / 64] = bit;
        close_marked(t, one);
        return;
    }
    t->gone[producer_id / 64] |= bit;
    t->ngone++;
}

void tbuf_seq_close_gone(struct tbuf_seqtab *t)
{
    close_marked(t, t->gone);
    memset(t->gone, 0, GONE_BYTES);
    t->ngone = 0;
}

/* ---- order lists ---- */

#define PROBES 3  /* guesses before the search halves what is left */
#define NARROW 8u /* what is not worth a guess */

/* How many entries lie on `ids` ids, rounded. */
static uint32_t entries(uint32_t ids, uint64_t per_id)
{
    return (uint32_t)((ids * per_id + (UINT64_C(1) << 31)) >> 32);
}

/* Where an id `off` ahead of the first stands or belongs in a list with gaps, which begins before
 * and ends behind it. Ids are whole numbers that grow: between a known entry and the one looked for
 * there are at most as many entries as ids, and just as many where nothing was lost. So each entry
 * that is looked at gives a bound, which is tried, and of the average gap a guess where to look
 * next. What is left is halved without a branch. */
static uint32_t search(struct tbuf_seq *s, uint32_t off)
{
    uint32_t front = s->ids.front;
    uint32_t span = s->ids.back - front;
    uint32_t missing = span - (s->count - 1);
    uint32_t lo = off > missing ? off - missing : 0; /* lo <= place <= hi */
    uint32_t hi = off < s->count - 1 ? off : s->count - 1;
    if (tbuf_seq_ent(s, hi)->id - front == off)
        return hi;
    if (tbuf_seq_ent(s, lo)->id - front == off)
        return lo;
    uint64_t per_id = ((uint64_t)(s->count - 1) << 32) / span;
    uint32_t at = entries(off, per_id);
    for (int i = 0; i < PROBES && hi - lo > NARROW; i++) {
        at = at < lo ? lo : at < hi ? at : hi - 1;
        uint32_t there = tbuf_seq_ent(s, at)->id - front;
        if (there < off) {
            uint32_t most = at + (off - there);
            lo = at + 1;
            hi = hi < most ? hi : most;
            at += entries(off - there, per_id);
            if (tbuf_seq_ent(s, hi)->id - front == off)
                return hi;
        } else {
            uint32_t least = there - off < at ? at - (there - off) : 0;
            uint32_t back = entries(there - off, per_id);
            hi = at;
            lo = lo > least ? lo : least;
            at -= back < at ? back : at;
            if (tbuf_seq_ent(s, lo)->id - front == off)
                return lo;
        }
    }
    for (uint32_t n = hi - lo; n > 0;) {
        uint32_t half = (n + 1) / 2; /* of which the last is looked at */
        lo += half & -(uint32_t)(tbuf_seq_ent(s, lo + half - 1)->id - front < off);
        n -= half;
    }
    return lo;
}

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
    if (back - front == s->count - 1) {
        *pos = off;
        return TBUF_PLACE_FOUND;
    }
    *pos = search(s, off);
    return tbuf_seq_ent(s, *pos)->id == id ? TBUF_PLACE_FOUND : TBUF_PLACE_NEW;
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

void tbuf_seq_put(struct tbuf_seq *s, uint32_t pos, struct tbuf_ent e)
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
    tbuf_seq_put(s, pos, e);
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
