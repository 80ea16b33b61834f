/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places of records in the ring, and the end of their lives.
 *
 * Eviction costs constant time per record and looks at no payload: a record knows whether something
 * but empty packets is unread in it, and the ring leaves the loss with the sequence, between the
 * chunks where it happened. It goes strictly by place: what is not in the way stays, also when
 * something newer of its sequence is evicted (X12, X52).
 *
 * Between two calls the following holds: the bytes from 0 to wr and from wr + gap to end are whole
 * records; every record that is not GONE stands in exactly one order list and every entry that is
 * not a tomb names one; the front of a list is never a tomb; everything older than `rd` is GONE.
 *
 * Padding needs no record: what is left of an overwritten record lies always right behind the
 * cursor, and the tail of a lap is cut off by lowering `end`.
 */
#include "svc/tbuf_ring.h"
#include "svc/tbuf_seqcopy.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "svc/tbuf_read.h"
#include "svc/tbuf_vm.h"

#define RELEASE_STEP (UINT64_C(2) << 20) /* bytes given back in one go: one huge page */

#define HUGE_MIN (UINT64_C(16) << 20) /* buffers from here on ask for huge pages */

#define LOSS_BITS 0x00FEu /* of tbuf_seq.last_loss: those that a packet reports */
#define LOSS_EXPLAINS                                                                              \
    (TBUF_LOSS_OVERWRITE | TBUF_LOSS_WRITER_ABORT | TBUF_LOSS_CHUNK_CORRUPTED | TBUF_SEQ_CHAIN_LOST)

/* ---- memory ---- */

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

int tbuf_ring_init(struct tbuf *b, uint64_t size)
{
    size_t page = page_size();
    size_t mapped = ((size_t)size + page - 1) / page * page;
    uint8_t *p = mmap(NULL, mapped + 2 * page, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    if (mprotect(p + page, mapped, PROT_READ | PROT_WRITE) != 0) {
        munmap(p, mapped + 2 * page);
        return -ENOMEM;
    }
    if (size >= HUGE_MIN)
        (void)madvise(p + page, mapped, MADV_HUGEPAGE); /* only faster if the kernel agrees */
    (void)madvise(p + page, mapped,
                  MADV_DONTFORK); /* a fork (svc/filehost) need not copy its tables */
    b->mem = p + page;
    b->size = size;
    b->lap = size;
    b->rd = size;
    b->walk_at = size;
    b->walk = 1;
    b->restart_min = TBUF_RESTART_MIN;
    b->part_max = TBUF_PART_MAX;
    return 0;
}

bool tbuf_ring_release(struct tbuf *b)
{
    uint64_t touched = b->used > b->populated ? b->used : b->populated;
    if (touched > b->size)
        touched = b->size;
    if (b->released >= touched)
        return false;
    uint64_t n = touched - b->released < RELEASE_STEP ? touched - b->released : RELEASE_STEP;
    uint64_t page = page_size();
    (void)madvise(b->mem + b->released, (n + page - 1) / page * page, MADV_DONTNEED);
    b->released += n;
    return true;
}

void tbuf_ring_fini(struct tbuf *b)
{
    size_t page = page_size();
    if (b->mem != NULL)
        munmap(b->mem - page, ((size_t)b->size + page - 1) / page * page + 2 * page);
    b->mem = NULL;
}

/* ---- what a sequence remembers ---- */

/* The newest passed chunk is about to be `id`: what was lost up to it can no longer be undone. */
static void settle(struct tbuf_seq *s, uint32_t id)
{
    bool has_last = (s->state & TBUF_SEQ_HAS_LAST) != 0;
    s->pending |= (uint8_t)(s->last_loss & LOSS_BITS);
    if (has_last && id != s->last_id + 1)
        s->pending |= TBUF_LOSS_READ_GAP;
    if (!has_last || id != s->last_id + 1)
        s->last_payload = s->prev_payload = TBUF_SEQ_UNKNOWN;
    if ((s->state & TBUF_SEQ_LAST_INCOMPLETE) != 0)
        s->last_payload = TBUF_SEQ_UNKNOWN;
    s->state &= (uint8_t) ~(TBUF_SEQ_LAST_EVICTED | TBUF_SEQ_LAST_INCOMPLETE);
    s->state |= TBUF_SEQ_HAS_LAST;
}

bool tbuf_ring_pass(struct tbuf_seq *s, uint32_t id)
{
    bool explained = (s->state & TBUF_SEQ_HAS_LAST) != 0 && id == s->last_id + 1 &&
                     (s->last_loss & LOSS_EXPLAINS) != 0;
    settle(s, id);
    s->last_id = id - 1;
    s->last_loss = 0;
    return explained;
}

static void pass_evicted(struct tbuf_seq *s, uint32_t id, uint16_t payload, uint16_t consumed,
                         bool incomplete, uint16_t loss)
{
    settle(s, id);
    s->state |= TBUF_SEQ_LAST_EVICTED;
    if (incomplete)
        s->state |= TBUF_SEQ_LAST_INCOMPLETE;
    s->last_id = id;
    s->prev_payload = s->last_payload;
    s->last_payload = payload;
    s->last_consumed = consumed;
    s->last_loss = (uint8_t)loss;
}

/* Entries of evicted chunks that came to the front become the last passed chunk, one by one. */
static void absorb(struct tbuf *b, struct tbuf_seq *s)
{
    if ((s->state & TBUF_SEQ_TOMBS) == 0)
        return;
    while (s->count > 0 && tbuf_ent_is_tomb(*tbuf_seq_ent(s, 0))) {
        struct tbuf_ent e = *tbuf_seq_ent(s, 0);
        pass_evicted(s, e.id, (uint16_t)e.ref, 0, (e.ref & TBUF_TOMB_INCOMPLETE) != 0,
                     (uint16_t)(e.ref >> TBUF_TOMB_LOSS_SHIFT & LOSS_BITS));
        tbuf_seq_pop(&b->seqs, s);
    }
}

/* ---- ends of lives ---- */

static void count_out(struct tbuf *b, const struct tbuf_rec *r)
{
    b->live_bytes -= tbuf_rec_size(r->room);
    b->live_chunks--;
}

static void count_read(struct tbuf *b, const struct tbuf_rec *r)
{
    b->stats.chunks_read++;
    b->stats.bytes_read += tbuf_rec_size(r->room);
}

void tbuf_ring_retire(struct tbuf *b, struct tbuf_seq *s)
{
    struct tbuf_rec *r = tbuf_rec_of(b, tbuf_seq_ent(s, 0)->ref);
    count_out(b, r);
    count_read(b, r);
    s->last_id = r->id;
    s->prev_payload = s->last_payload;
    s->last_payload = r->payload;
    s->last_consumed = r->payload;
    s->last_loss = (uint8_t)(((r->flags & TBUF_REC_ABORTED) != 0 ? TBUF_LOSS_WRITER_ABORT : 0) |
                             ((r->flags & TBUF_REC_CORRUPT) != 0 ? TBUF_LOSS_CHUNK_CORRUPTED : 0) |
                             ((r->flags & TBUF_REC_INCOMPLETE) != 0 ? TBUF_LOSS_OVERWRITE : 0));
    s->chain = 0;
    r->flags = TBUF_REC_GONE;
    r->id = 0;
    tbuf_seq_pop(&b->seqs, s);
    absorb(b, s);
}

void tbuf_ring_vacate(struct tbuf *b, struct tbuf_rec *r)
{
    tbuf_keep_header(b, r);
    count_out(b, r);
    b->moved_bytes += tbuf_rec_size(r->room);
    r->flags = TBUF_REC_GONE | TBUF_REC_MOVED;
    r->id = 0;
}

/* What the reader misses when this record is dropped now. */
static uint16_t loss_of(const struct tbuf_rec *r)
{
    unsigned loss = 0;
    if (r->consumed < r->payload && (r->flags & TBUF_REC_FILLED) != 0)
        loss |= TBUF_LOSS_OVERWRITE;
    if ((r->flags & TBUF_REC_INCOMPLETE) != 0)
        loss |= TBUF_LOSS_OVERWRITE; /* a packet is still hidden; undone if it comes back (E25) */
    if ((r->flags & TBUF_REC_ABORTED) != 0)
        loss |= TBUF_LOSS_WRITER_ABORT;
    if ((r->flags & TBUF_REC_CORRUPT) != 0)
        loss |= TBUF_LOSS_CHUNK_CORRUPTED;
    return (uint16_t)loss;
}

static void evict(struct tbuf *b, struct tbuf_rec *r)
{
    if (__builtin_expect(b->vms != NULL, 0))
        tbuf_vm_evict(b, r);
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, r->seq);
    uint16_t loss = loss_of(r);
    bool incomplete = (r->flags & TBUF_REC_INCOMPLETE) != 0;
    uint32_t pos = 0;
    tbuf_keep_header(b, r);
    tbuf_seqcopy_before(&b->seqs, r->seq);
    count_out(b, r);
    if (r->consumed < r->payload) {
        b->stats.chunks_overwritten++;
        b->stats.bytes_overwritten += tbuf_rec_size(r->room);
    } else {
        count_read(b, r);
    }
    if (s->ids.front != r->id)
        (void)tbuf_seq_locate(s, r->id, &pos);
    s->chain = 0;
    if (pos == 0) {
        pass_evicted(s, r->id, r->payload, r->consumed, incomplete, loss);
        tbuf_seq_pop(&b->seqs, s);
        absorb(b, s);
    } else {
        s->state |= TBUF_SEQ_TOMBS;
        bool empty = r->payload == 0 && !incomplete && loss == 0;
        tbuf_seq_ent(s, pos)->ref = TBUF_TOMB | (incomplete ? TBUF_TOMB_INCOMPLETE : 0) |
                                    (empty ? TBUF_TOMB_EMPTY : 0) |
                                    (uint32_t)loss << TBUF_TOMB_LOSS_SHIFT | r->payload;
    }
    tbuf_ring_wake(b, s);
    r->flags = TBUF_REC_GONE;
    r->id = 0;
}

/* ---- the write cursor ---- */

void tbuf_ring_clear_next(struct tbuf *b)
{
    struct tbuf_rec *r = tbuf_rec_at(b, b->wr + b->gap);
    uint64_t size = tbuf_rec_size(r->room);
    uint64_t next = b->wr + b->gap + size;
    tbuf_keep_record(b, r);
    if (next < b->end)
        tbuf_seq_warm_slot(&b->seqs, tbuf_rec_at(b, next)->seq);
    if ((r->flags & TBUF_REC_GONE) == 0) {
        evict(b, r);
    } else if ((r->flags & TBUF_REC_MOVED) != 0) {
        b->moved_bytes -= size;
        b->stats.padding_bytes_cleared += size;
    }
    b->gap += size;
}

static void clear_padding(struct tbuf *b)
{
    b->stats.padding_bytes_cleared += b->pad;
    b->pad = 0;
}

void tbuf_ring_wrap(struct tbuf *b)
{
    while (b->wr + b->gap < b->end)
        tbuf_ring_clear_next(b);
    clear_padding(b);
    b->end = b->wr;
    b->wr = 0;
    b->gap = 0;
    b->look = 0;
    b->lap += b->size;
    b->stats.write_wrap_count++;
}

struct tbuf_rec *tbuf_ring_commit(struct tbuf *b, const struct tbuf_rec *header)
{
    uint64_t bytes = tbuf_rec_size(header->room);
    struct tbuf_rec *r = tbuf_rec_at(b, b->wr);
    *r = *header;
    clear_padding(b);
    b->wr += bytes;
    if (b->gap > bytes) {
        b->gap -= bytes;
        b->pad = b->gap;
        b->stats.padding_bytes_written += b->gap;
    } else {
        b->gap = 0;
    }
    if (b->end < b->wr)
        b->end = b->wr;
    if (b->used < b->wr)
        b->used = b->wr;
    b->live_bytes += bytes;
    b->live_chunks++;
    b->stats.chunks_written++;
    b->stats.bytes_written += bytes;
    b->drained = false;
    return r;
}

/* ---- out of the ordinary ---- */

/* The oldest record that is not GONE; brings rd there. NULL: there is none. */
static struct tbuf_rec *oldest(struct tbuf *b)
{
    uint64_t at = b->rd > tbuf_oldest_age(b) ? b->rd : tbuf_oldest_age(b);
    while (at < tbuf_newest_age(b)) {
        uint64_t place = at < b->lap ? at + b->size - b->lap : at - b->lap;
        if (at < b->lap && place >= b->end) {
            at = b->lap;
            continue;
        }
        struct tbuf_rec *r = tbuf_rec_at(b, place);
        b->rd = at;
        if ((r->flags & TBUF_REC_GONE) == 0)
            return r;
        at += r->id != 0 ? (uint64_t)r->id << 4 : tbuf_rec_size(r->room);
    }
    return NULL;
}

bool tbuf_ring_evict_oldest(struct tbuf *b)
{
    struct tbuf_rec *r = oldest(b);
    if (r != NULL)
        evict(b, r);
    return r != NULL;
}

void tbuf_ring_evict_front(struct tbuf *b, struct tbuf_seq *s)
{
    evict(b, tbuf_rec_of(b, tbuf_seq_ent(s, 0)->ref));
}

void tbuf_ring_restart(struct tbuf *b)
{
    if (b->wr < b->restart_min || b->live_bytes > TBUF_RESTART_BYTES ||
        b->live_chunks > TBUF_RESTART_CHUNKS || b->policy != TBUF_RING || b->clones != NULL)
        return; /* a clone in the making finds everything in its place */
    struct tbuf_rec *moved[TBUF_RESTART_CHUNKS];
    uint8_t keep[TBUF_RESTART_BYTES];
    uint64_t kept = 0;
    uint32_t n = 0;
    for (struct tbuf_rec *r; n < b->live_chunks && (r = oldest(b)) != NULL; n++) {
        uint64_t bytes = tbuf_rec_size(r->room);
        memcpy(keep + kept, r, bytes);
        moved[n] = (struct tbuf_rec *)(void *)(b->mem + kept);
        kept += bytes;
        r->flags |= TBUF_REC_GONE; /* only so that oldest() goes on */
        r->id = 0;
    }
    memcpy(b->mem, keep, kept);
    for (uint32_t i = 0; i < n; i++) {
        struct tbuf_seq *s = tbuf_seq_at(&b->seqs, moved[i]->seq);
        uint32_t pos = 0;
        (void)tbuf_seq_locate(s, moved[i]->id, &pos);
        tbuf_seq_ent(s, pos)->ref = (uint32_t)((uint64_t)((uint8_t *)moved[i] - b->mem) >> 4);
    }
    clear_padding(b);
    b->stats.padding_bytes_cleared += b->moved_bytes;
    b->moved_bytes = 0;
    b->wr = kept;
    b->end = kept;
    b->gap = 0;
    b->look = 0;
    b->lap += b->size;
    b->rd = b->lap;
    b->rewalk = true;
    b->drained = false;
}

/* First-lap memory that is to be taken ahead: [*from, *to) of the ring. False: none. */
static bool prefault_range(const struct tbuf *b, uint64_t *from, uint64_t *to)
{
    const uint64_t ahead_max = UINT64_C(4) << 20;
    uint64_t page = page_size();
    if (b->used == 0 || b->read_only || b->populated >= b->size)
        return false;
    *to = (b->used + (b->used < ahead_max ? b->used : ahead_max)) / page * page;
    if (*to > b->size)
        *to = b->size;
    *from = b->populated > b->used ? b->populated : (b->used + page - 1) / page * page;
    return *from < *to;
}

bool tbuf_prefault_due(const struct tbuf *b)
{
    uint64_t from, to;
    return prefault_range(b, &from, &to);
}

size_t tbuf_prefault(struct tbuf *b, size_t max_bytes)
{
    uint64_t from, to, page = page_size();
    if (!prefault_range(b, &from, &to))
        return 0;
    uint64_t n = to - from < max_bytes ? to - from : max_bytes / page * page;
    if (n == 0)
        return 0;
    if (madvise(b->mem + from, (size_t)n, MADV_POPULATE_WRITE) != 0) {
        for (uint64_t at = from; at < from + n; at += page) /* a kernel before 5.14 */
            *(volatile uint8_t *)(b->mem + at) = 0;
    }
    b->populated = from + n;
    if (b->populated == b->size && b->small_pages) /* the kernel may join them in its own time */
        (void)madvise(b->mem, (size_t)b->size, MADV_HUGEPAGE);
    return (size_t)n;
}

void tbuf_small_pages(struct tbuf *b)
{
    if (b->size < HUGE_MIN || b->small_pages)
        return;
    b->small_pages = true;
    (void)madvise(b->mem, (size_t)b->size, MADV_NOHUGEPAGE);
}
