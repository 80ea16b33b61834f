/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace buffer, write side: copying chunks in, re-commits, patches.
 *
 * The usual chunk is complete and newer than everything of its sequence. It is copied straight from
 * the shared memory to its place in the ring and its fragments are walked there, in private memory,
 * while they are hot; the copy runs ahead of the walk in pieces, and older records are evicted only
 * as far as a fragment that is known to be valid needs the room. So each byte of the producer is
 * read once, nothing is copied twice, and no more is evicted than if the length had been known.
 * The copy begins before it is known what the chunk is, in room that is free anyway: with many
 * writers the way to a sequence leads through two lines that no cache holds, and the copy goes on
 * while they come.
 *
 * Everything else (scraped chunks, copies of a chunk that is known, ids out of order, the end of
 * the lap) goes through a private scratch copy, where all is known before anything is changed.
 *
 * This file decides what a chunk is; places belong to tbuf_ring, order to tbuf_seq. It must never
 * look at in->payload except to copy it once.
 */
#include "svc/tbuf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"
#include "svc/tbuf_seqcopy.h"
#include "svc/tbuf_tok.h"
#include "svc/tbuf_vm.h"

#define ALIGN_SIZE 4096u
#define PIECE      1024u /* bytes copied ahead of the walk */
#define EARLY      1024u /* bytes copied while the hash is waited for, and again for the sequence */
#define AHEAD      6144u
#define LINE       64u

_Static_assert(TBUF_CHUNK_FIRST_CONTINUES == 1 && TBUF_CHUNK_LAST_CONTINUES == 2 &&
                   TBUF_CHUNK_NEEDS_PATCHING == 4,
               "R8");

/* ---- life ---- */

int tbuf_new(uint64_t size, enum tbuf_policy policy, unsigned flags, struct tbuf **out)
{
    if (size == 0 || size > TBUF_SIZE_MAX)
        return -EINVAL;
    struct tbuf *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return -ENOMEM;
    size = (size + ALIGN_SIZE - 1) & ~(uint64_t)(ALIGN_SIZE - 1);
    b->policy = policy;
    b->flags = flags;
    b->stats.buffer_size = size;
    if (tbuf_ring_init(b, size) != 0 || tbuf_seqtab_init(&b->seqs, size) != 0) {
        tbuf_free(b);
        return -ENOMEM;
    }
    *out = b;
    return 0;
}

void tbuf_free(struct tbuf *b)
{
    if (b == NULL)
        return;
    if (b->clones != NULL) {
        b->freed = true;
        return;
    }
    if (b->seqs.slots != NULL)
        tbuf_seqtab_fini(&b->seqs);
    tbuf_vm_free_all(b);
    tbuf_ring_fini(b);
    free(b->slices);
    free(b->scratch);
    free(b);
}

bool tbuf_free_some(void *buffer)
{
    struct tbuf *b = buffer;
    if (b->clones == NULL && (tbuf_ring_release(b) || tbuf_seqtab_release(&b->seqs)))
        return true;
    tbuf_free(b);
    return false;
}

void tbuf_set_read_only(struct tbuf *b)
{
    b->read_only = true;
}

void tbuf_producer_gone(struct tbuf *b, uint16_t producer_id)
{
    tbuf_seq_producer_gone(&b->seqs, producer_id);
    b->rewalk = true;
}

/* ---- what a copy is made of ---- */

struct copy {
    const struct tbuf_chunk_in *in;
    uint32_t key;
    uint32_t declared; /* fragments, after R13 */
    unsigned flags;    /* wire flags, after R13 */
    struct tbuf_tok tok;
};

/* R13: what a scrape saw last may still be in the making. */
static void apply_incomplete(struct copy *c)
{
    c->declared = c->in->num_fragments;
    c->flags = c->in->flags & TBUF_REC_WIRE;
    if (!c->in->complete && c->declared > 0) {
        c->declared--;
        c->flags &= TBUF_CHUNK_FIRST_CONTINUES;
    }
}

/* The flags of a record. Those that speak of the last fragment mean nothing when the last declared
 * fragment is not there (R11, R14, X08). `known` bytes were read before. */
static uint16_t record_flags(const struct copy *c, uint32_t known)
{
    unsigned f = c->flags;
    if (c->tok.dropped)
        f |= TBUF_REC_ABORTED;
    if (c->tok.malformed)
        f |= TBUF_REC_CORRUPT;
    if (c->tok.dropped || c->tok.malformed || c->tok.valid == 0)
        f &= ~(TBUF_CHUNK_LAST_CONTINUES | TBUF_CHUNK_NEEDS_PATCHING);
    if (!c->in->complete)
        f |= TBUF_REC_INCOMPLETE;
    /* A piece of a packet counts as filled even without bytes: its packet is lost with it. */
    if (c->tok.filled > known || (c->tok.bytes > known && (f & TBUF_CHUNK_LAST_CONTINUES) != 0) ||
        (c->tok.bytes > 0 && known == 0 && (f & TBUF_CHUNK_FIRST_CONTINUES) != 0))
        f |= TBUF_REC_FILLED;
    return (uint16_t)f;
}

static void count_tok(struct tbuf *b, const struct copy *c, bool marker_known)
{
    if (c->tok.malformed)
        b->stats.abi_violations++;
    if (c->tok.dropped && !marker_known)
        b->stats.trace_writer_packet_loss++;
}

static void sample(struct tbuf *b, uint32_t slot, const struct copy *c)
{
    if (slot != 0 && (b->flags & TBUF_NO_HISTOGRAMS) == 0)
        tbuf_seq_sample(&b->seqs, slot, c->tok.bytes);
}

/* Slot of the chunk's sequence, made if need be; a full table is emptied as a full ring is, from
 * the oldest record on. 0: no memory. */
static uint32_t get_sequence(struct tbuf *b, const struct copy *c)
{
    uint32_t slot = tbuf_seq_make(&b->seqs, c->key, &c->in->client);
    while (slot == 0 && b->policy == TBUF_RING && tbuf_seqtab_full(&b->seqs) &&
           tbuf_ring_evict_oldest(b))
        slot = tbuf_seq_make(&b->seqs, c->key, &c->in->client);
    b->stats.sequences_forgotten = b->seqs.forgotten;
    return slot;
}

static enum tbuf_outcome discard(struct tbuf *b)
{
    b->sealed = true;
    b->stats.chunks_discarded++;
    return TBUF_DISCARDED;
}

static enum tbuf_outcome no_memory(struct tbuf *b)
{
    b->stats.chunks_no_memory++;
    return TBUF_NO_MEMORY;
}

/* ---- the usual chunk ---- */

/* A copy that runs ahead of the walk over it. */
struct run {
    struct tbuf *b;
    const uint8_t *src;
    uint8_t *dst;
    uint32_t len;
    uint32_t copied;
    uint8_t peek[TBUF_TOK_HDR_MAX]; /* a size header that straddles the end of the cleared room */
};

static uint32_t run_room(const struct run *r)
{
    uint64_t room = tbuf_ring_room(r->b) - TBUF_REC_HDR;
    return room < r->len ? (uint32_t)room : r->len;
}

typedef long long lane __attribute__((vector_size(16)));

/* memcpy for a ring that is colder than the caches: asks for the lines that the copies after this
 * one will write while it writes its own. A loop of its own, because libc's cannot be told; by
 * measurement a third faster than libc's in a cold ring (t/bench/README.md). */
static void copy_ahead(uint8_t *dst, const uint8_t *src, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LINE <= n; i += LINE) {
        lane v[LINE / sizeof(lane)];
        __builtin_prefetch(dst + i + AHEAD, 1);
        memcpy(v, src + i, LINE);
        memcpy(dst + i, v, LINE);
    }
    for (; i + sizeof(lane) <= n; i += (uint32_t)sizeof(lane)) {
        lane v;
        memcpy(&v, src + i, sizeof(v));
        memcpy(dst + i, &v, sizeof(v));
    }
    if (i < n)
        memcpy(dst + i, src + i, n - i);
}

static void run_copy(struct run *r, uint32_t upto)
{
    copy_ahead(r->dst + r->copied, r->src + r->copied, upto - r->copied);
    r->copied = upto;
}

/* How far to copy when at least `need` bytes are wanted: a piece more, in whole lines, but not
 * farther than there is room. */
static uint32_t run_upto(const struct run *r, uint32_t need)
{
    uint32_t room = run_room(r);
    uint32_t upto = r->copied + ((need + PIECE - r->copied) & ~(LINE - 1));
    return upto < room ? upto : room;
}

/* Copies at least up to `need`, which a valid fragment ends at. */
static void run_need(struct run *r, uint32_t need)
{
    if (need <= r->copied)
        return;
    tbuf_ring_clear(r->b, TBUF_REC_HDR + (uint64_t)need);
    run_copy(r, run_upto(r, need));
}

/* The size header at `pos`, whose bytes may not be copied yet and may not have room yet. Returns
 * its length, 0 if malformed; *peeked is the number of its bytes that wait in r->peek. */
static uint32_t run_header(struct run *r, uint32_t pos, uint64_t *size, uint32_t *peeked)
{
    *peeked = 0;
    uint32_t left = r->len - pos;
    uint32_t want = left < TBUF_TOK_HDR_MAX ? left : TBUF_TOK_HDR_MAX;
    if (pos + want > r->copied) {
        if (run_room(r) > r->copied)
            run_copy(r, run_upto(r, pos + want));
        if (pos + want > r->copied) {
            uint8_t hdr[TBUF_TOK_HDR_MAX];
            uint32_t have = r->copied - pos;
            memcpy(hdr, r->dst + pos, have);
            memcpy(hdr + have, r->src + r->copied, want - have);
            memcpy(r->peek, hdr + have, want - have);
            *peeked = want - have;
            return tbuf_tok_header(hdr, want, size);
        }
    }
    return tbuf_tok_header(r->dst + pos, want, size);
}

/* The peeked header belongs to a valid fragment that ends at `next`: there is room for it now. */
static void run_unpeek(struct run *r, uint32_t next, uint32_t peeked)
{
    tbuf_ring_clear(r->b, TBUF_REC_HDR + (uint64_t)next);
    uint32_t room = run_room(r) - r->copied;
    uint32_t n = peeked < room ? peeked : room;
    memcpy(r->dst + r->copied, r->peek, n);
    r->copied += n;
}

/* Copies up to `upto` into room that is cleared already, while the caller waits for the memory that
 * tells what the chunk is. Nothing is looked at yet. */
static void run_early(struct run *r, uint32_t upto)
{
    uint64_t room = tbuf_ring_room(r->b);
    uint32_t n = room <= TBUF_REC_HDR ? 0 : run_room(r);
    n = n < upto ? n : upto;
    if (n < r->len)
        n &= ~(LINE - 1);
    if (n > r->copied)
        run_copy(r, n);
}

/* Walks and copies; afterwards tok->bytes are in the ring and cleared. The body of the loop is
 * tbuf_tok_walk() with the copy woven in. */
static void run_walk(struct run *r, uint32_t declared, struct tbuf_tok *tok)
{
    struct tbuf_tok t = {0};
    while (t.valid < declared) {
        uint64_t size = 0;
        uint32_t peeked = 0;
        uint32_t hdr;
        if (t.bytes + 2 <= r->copied && (r->dst[t.bytes] & r->dst[t.bytes + 1] & 0x80) == 0)
            hdr = tbuf_tok_header(r->dst + t.bytes, 2, &size);
        else
            hdr = run_header(r, t.bytes, &size, &peeked);
        if (hdr != 0 && size == TBUF_TOK_DROP) {
            t.dropped = true;
            break;
        }
        if (hdr == 0 || size > r->len - t.bytes - hdr) {
            t.malformed = true;
            break;
        }
        uint32_t next = t.bytes + hdr + (uint32_t)size;
        if (peeked != 0)
            run_unpeek(r, next, peeked);
        if (next > r->copied)
            run_need(r, next);
        t.bytes = next;
        t.valid++;
        if (size != 0)
            t.filled = t.bytes;
    }
    *tok = t;
}

/* Bytes that were copied behind `bytes` of record and belong to nobody become zero again if they
 * lie where nothing was ever written (R29). */
static void clean_behind(struct tbuf *b, const struct run *r, uint64_t bytes)
{
    uint64_t from = b->wr + bytes;
    uint64_t to = b->wr + TBUF_REC_HDR + r->copied;
    if (from < b->used)
        from = b->used;
    if (r->copied != 0 && from < to)
        memset(b->mem + from, 0, to - from);
}

/* A complete chunk, newer than all of its sequence, that fits before the end of the memory even
 * with its unused tail. The sequence is touched behind the copy, which hides the way to it. */
static enum tbuf_outcome copy_new(struct run *r, struct copy *c, uint32_t slot)
{
    struct tbuf *b = r->b;
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    if (tbuf_seq_reserve(&b->seqs, s) != 0) {
        clean_behind(b, r, 0);
        return no_memory(b);
    }
    tbuf_ring_wake(b, s);
    tbuf_ring_clear(b, TBUF_REC_HDR);
    run_walk(r, c->declared, &c->tok);
    clean_behind(b, r, tbuf_rec_size(c->tok.bytes));
    count_tok(b, c, false);
    sample(b, slot, c);
    tbuf_seq_append(&b->seqs, s, (struct tbuf_ent){c->in->chunk_id, (uint32_t)(b->wr >> 4)});
    struct tbuf_rec rec = {
        .id = c->in->chunk_id,
        .seq = slot,
        .room = (uint16_t)c->tok.bytes,
        .payload = (uint16_t)c->tok.bytes,
        .flags = record_flags(c, 0),
    };
    tbuf_ring_commit(b, &rec);
    return TBUF_STORED;
}

/* ---- the unusual ones ---- */

static const uint8_t *private_copy(struct tbuf *b, struct copy *c)
{
    if (b->scratch == NULL && (b->scratch = malloc(TBUF_PAYLOAD_MAX)) == NULL)
        return NULL;
    memcpy(b->scratch, c->in->payload, c->in->payload_size);
    tbuf_tok_walk(b->scratch, c->in->payload_size, c->declared, &c->tok);
    return b->scratch;
}

/* Payload bytes that the record of this chunk reserves (R19). */
static uint32_t room_of(const struct copy *c)
{
    return c->in->complete ? c->tok.bytes : c->in->payload_size;
}

/* Writes the private copy as a new record at the cursor; its entry stands in the list already and
 * names the place. The first `consumed` bytes were read before. */
static void place(struct tbuf *b, const struct copy *c, uint32_t slot, const uint8_t *bytes,
                  uint32_t consumed)
{
    struct tbuf_rec rec = {
        .id = c->in->chunk_id,
        .seq = slot,
        .room = (uint16_t)room_of(c),
        .payload = (uint16_t)c->tok.bytes,
        .consumed = (uint16_t)consumed,
        .flags = record_flags(c, consumed),
    };
    tbuf_ring_clear(b, tbuf_rec_size(rec.room));
    memcpy(b->mem + b->wr + TBUF_REC_HDR, bytes, c->tok.bytes);
    tbuf_ring_commit(b, &rec);
}

/* Where a record of this chunk will stand; wraps if it has to. The caller knows that it fits. */
static uint32_t next_ref(struct tbuf *b, const struct copy *c)
{
    if (tbuf_rec_size(room_of(c)) > b->size - b->wr)
        tbuf_ring_wrap(b);
    return (uint32_t)(b->wr >> 4);
}

static bool fits_lap(const struct tbuf *b, const struct copy *c)
{
    return tbuf_rec_size(room_of(c)) <= b->size - b->wr;
}

/* The stored copy was drained while it was incomplete: its place may be right in front of the
 * cursor, so the rest goes to the cursor (R46). */
static void relocate(struct tbuf *b, const struct copy *c, uint32_t slot, struct tbuf_rec *old,
                     const uint8_t *bytes)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    uint16_t consumed = old->consumed;
    tbuf_ring_vacate(b, old);
    /* Until the new record stands, the entry must not be taken for one in the way: wrapping evicts
     * only what is not GONE, and the old record is GONE. */
    tbuf_seq_ent(s, 0)->ref = next_ref(b, c);
    tbuf_ring_wake(b, s);
    place(b, c, slot, bytes, consumed);
    b->stats.chunks_relocated++;
}

/* A copy of a chunk that is stored (R40-R46). */
static enum tbuf_outcome recommit(struct tbuf *b, const struct copy *c, uint32_t slot, uint32_t pos,
                                  const uint8_t *bytes)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    struct tbuf_rec *r = tbuf_rec_of(b, tbuf_seq_ent(s, pos)->ref);
    tbuf_keep_record(b, r);
    bool was_incomplete = (r->flags & TBUF_REC_INCOMPLETE) != 0;
    uint32_t now = c->tok.bytes;
    count_tok(b, c, (r->flags & TBUF_REC_ABORTED) != 0);
    if (now < r->payload || now > r->room || (r->flags & TBUF_REC_WIRE & ~c->flags) != 0) {
        b->stats.abi_violations++;
        return TBUF_REFUSED;
    }
    uint16_t flags = record_flags(c, r->consumed);
    if (now == r->payload) {
        if (!was_incomplete)
            return TBUF_DUPLICATE;
        r->flags |= flags & (TBUF_REC_ABORTED | TBUF_REC_CORRUPT);
        if (!c->in->complete)
            return TBUF_DUPLICATE;
        r->flags &= (uint16_t)~TBUF_REC_INCOMPLETE;
        tbuf_ring_wake(b, s);
        return TBUF_REWRITTEN;
    }
    if (c->in->complete && r->consumed == r->payload && pos == 0 && b->policy == TBUF_RING) {
        relocate(b, c, slot, r, bytes);
        return TBUF_RELOCATED;
    }
    memcpy(tbuf_rec_bytes(r), bytes, now);
    r->payload = (uint16_t)now;
    r->flags = (uint16_t)((r->flags & TBUF_REC_WIRE) | flags);
    s->chain = 0;
    tbuf_ring_wake(b, s);
    b->drained = false;
    b->stats.chunks_rewritten++;
    return TBUF_REWRITTEN;
}

/* A copy of a chunk that was evicted, before the reader came past it: what was read of it is not
 * stored again as unread, what was only evicted is (R43, X16). A chunk that was complete cannot
 * have grown. */
static bool may_return(const struct copy *c, bool was_incomplete, uint32_t payload,
                       uint32_t consumed)
{
    return c->tok.bytes > consumed && (was_incomplete || c->tok.bytes == payload);
}

static enum tbuf_outcome come_back(struct tbuf *b, const struct copy *c, uint32_t slot,
                                   const uint8_t *bytes)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    uint32_t consumed = s->last_consumed;
    struct tbuf_ent e = {c->in->chunk_id, 0};
    if (tbuf_seq_insert(&b->seqs, s, 0, e) != 0)
        return no_memory(b);
    count_tok(b, c, (s->last_loss & TBUF_LOSS_WRITER_ABORT) != 0);
    s->last_id = c->in->chunk_id - 1;
    s->last_payload = s->prev_payload;
    s->prev_payload = TBUF_SEQ_UNKNOWN;
    s->last_loss = 0;
    s->state &= (uint8_t) ~(TBUF_SEQ_LAST_EVICTED | TBUF_SEQ_LAST_INCOMPLETE);
    tbuf_seq_ent(s, 0)->ref = next_ref(b, c);
    tbuf_ring_wake(b, s);
    place(b, c, slot, bytes, consumed);
    return TBUF_READMITTED;
}

/* The id of the newest passed chunk, or an older one. */
static enum tbuf_outcome copy_passed(struct tbuf *b, const struct copy *c, uint32_t slot,
                                     const uint8_t *bytes, uint32_t pos)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    if (c->in->chunk_id == s->last_id && (s->state & TBUF_SEQ_LAST_EVICTED) != 0 && pos == 0) {
        bool was_incomplete = (s->state & TBUF_SEQ_LAST_INCOMPLETE) != 0;
        if (may_return(c, was_incomplete, s->last_payload, s->last_consumed))
            return come_back(b, c, slot, bytes);
        if (was_incomplete && c->in->complete && c->tok.bytes == s->last_consumed) {
            /* Nothing was hidden after all. */
            count_tok(b, c, (s->last_loss & TBUF_LOSS_WRITER_ABORT) != 0);
            s->last_loss = c->tok.dropped     ? TBUF_LOSS_WRITER_ABORT
                           : c->tok.malformed ? TBUF_LOSS_CHUNK_CORRUPTED
                                              : 0;
            s->state &= (uint8_t)~TBUF_SEQ_LAST_INCOMPLETE;
            return TBUF_DUPLICATE;
        }
    }
    /* A chunk that was passed and so was its successor: it has no business to be larger now. */
    if (c->in->chunk_id == s->last_id - 1 && s->prev_payload != TBUF_SEQ_UNKNOWN &&
        c->tok.bytes > s->prev_payload) {
        b->stats.abi_violations++;
        return TBUF_REFUSED;
    }
    b->stats.chunks_stale++;
    return TBUF_STALE;
}

/* The entry of a chunk evicted while an older one is still stored. */
static enum tbuf_outcome copy_tomb(struct tbuf *b, const struct copy *c, uint32_t slot,
                                   const uint8_t *bytes, uint32_t pos)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    uint32_t ref = tbuf_seq_ent(s, pos)->ref;
    if (!may_return(c, (ref & TBUF_TOMB_INCOMPLETE) != 0, ref & 0xFFFFu, 0)) {
        b->stats.chunks_stale++;
        return TBUF_STALE;
    }
    /* Wrapping may evict entries in front of this one, which moves it, even to the last passed. */
    uint32_t new_ref = next_ref(b, c);
    if (tbuf_seq_locate(s, c->in->chunk_id, &pos) != TBUF_PLACE_FOUND)
        return copy_passed(b, c, slot, bytes, pos);
    count_tok(b, c, (ref >> TBUF_TOMB_LOSS_SHIFT & TBUF_LOSS_WRITER_ABORT) != 0);
    tbuf_seq_ent(s, pos)->ref = new_ref;
    s->chain = 0;
    tbuf_ring_wake(b, s);
    place(b, c, slot, bytes, 0);
    return TBUF_READMITTED;
}

/* A chunk not seen before. */
static enum tbuf_outcome copy_unseen(struct tbuf *b, const struct copy *c, uint32_t slot,
                                     const uint8_t *bytes, uint32_t pos)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    bool in_order = pos == s->count;
    if (b->sealed)
        return discard(b);
    sample(b, slot, c);
    count_tok(b, c, false);
    if (b->policy == TBUF_DISCARD && !fits_lap(b, c))
        return discard(b);
    /* The entry goes in first: what is evicted for it then keeps its order with it. */
    struct tbuf_ent e = {c->in->chunk_id, fits_lap(b, c) ? (uint32_t)(b->wr >> 4) : 0};
    if (tbuf_seq_insert(&b->seqs, s, pos, e) != 0)
        return no_memory(b);
    if (!in_order)
        b->stats.chunks_committed_out_of_order++;
    (void)next_ref(b, c);
    s->chain = 0;
    tbuf_ring_wake(b, s);
    place(b, c, slot, bytes, 0);
    return TBUF_STORED;
}

static enum tbuf_outcome copy_unusual(struct tbuf *b, struct copy *c, uint32_t slot)
{
    if (b->sealed && slot == 0)
        return discard(b);
    const uint8_t *bytes = private_copy(b, c);
    if (bytes == NULL)
        return no_memory(b);
    if (tbuf_rec_size(room_of(c)) > b->size) {
        b->stats.abi_violations++;
        return TBUF_REFUSED;
    }
    if (slot == 0 && (slot = get_sequence(b, c)) == 0)
        return no_memory(b);
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    uint32_t pos = 0;
    switch (tbuf_seq_locate(s, c->in->chunk_id, &pos)) {
    case TBUF_PLACE_FOUND:
        sample(b, slot, c);
        if (tbuf_ent_is_tomb(*tbuf_seq_ent(s, pos)))
            return copy_tomb(b, c, slot, bytes, pos);
        return recommit(b, c, slot, pos, bytes);
    case TBUF_PLACE_TOO_FAR:
        b->stats.abi_violations++;
        return TBUF_REFUSED;
    case TBUF_PLACE_NEW:
        break;
    }
    bool newest = s->count > 0 && pos == s->count;
    if (!newest && (s->state & TBUF_SEQ_HAS_LAST) != 0 &&
        tbuf_id_diff(c->in->chunk_id, s->last_id) <= 0) {
        sample(b, slot, c);
        return copy_passed(b, c, slot, bytes, pos);
    }
    return copy_unseen(b, c, slot, bytes, pos);
}

/* Newer than everything that is or was in the sequence? */
static bool is_newest(struct tbuf_seq *s, uint32_t id)
{
    if (s->count > 0) {
        return tbuf_id_diff(id, s->ids.back) > 0 && id - s->ids.front <= TBUF_SEQ_SPAN;
    }
    return (s->state & TBUF_SEQ_HAS_LAST) == 0 || tbuf_id_diff(id, s->last_id) > 0;
}

enum tbuf_outcome tbuf_copy_chunk(struct tbuf *b, const struct tbuf_chunk_in *in)
{
    struct copy c = {.in = in, .key = (uint32_t)in->producer_id << 16 | in->writer_id};
    if (b->read_only)
        return TBUF_IS_READ_ONLY;
    if (in->payload_size > TBUF_PAYLOAD_MAX || c.key == 0) {
        b->stats.abi_violations++;
        return TBUF_REFUSED;
    }
    apply_incomplete(&c);
    if (b->drained)
        tbuf_ring_restart(b);
    tbuf_seq_welcome(&b->seqs, in->producer_id);
    tbuf_hash_warm(&b->seqs.hash, c.key);
    bool usual = in->complete && tbuf_rec_size(in->payload_size) <= b->size - b->wr && !b->sealed;
    struct run r = {.b = b,
                    .src = in->payload,
                    .dst = b->mem + b->wr + TBUF_REC_HDR,
                    .len = usual ? in->payload_size : 0};
    run_early(&r, EARLY);
    uint32_t slot = tbuf_seq_find(&b->seqs, c.key);
    tbuf_seq_warm_slot(&b->seqs, slot);
    run_early(&r, 2 * EARLY);
    tbuf_seqcopy_before(&b->seqs, slot);
    if (!usual || (slot != 0 && !is_newest(tbuf_seq_at(&b->seqs, slot), in->chunk_id))) {
        clean_behind(b, &r, 0);
        return copy_unusual(b, &c, slot);
    }
    if (slot == 0)
        slot = get_sequence(b, &c);
    if (slot == 0) {
        clean_behind(b, &r, 0);
        return no_memory(b);
    }
    return copy_new(&r, &c, slot);
}

/* ---- patches ---- */

bool tbuf_patch(struct tbuf *b, uint16_t producer_id, uint16_t writer_id, uint32_t chunk_id,
                const struct tbuf_patch *patches, size_t n, bool more)
{
    uint32_t pos = 0;
    if (b->read_only)
        return false;
    tbuf_seq_welcome(&b->seqs, producer_id);
    uint32_t slot = tbuf_seq_find(&b->seqs, (uint32_t)producer_id << 16 | writer_id);
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
    if (slot == 0 || tbuf_seq_locate(s, chunk_id, &pos) != TBUF_PLACE_FOUND ||
        tbuf_ent_is_tomb(*tbuf_seq_ent(s, pos))) {
        b->stats.patches_failed++;
        return false;
    }
    struct tbuf_rec *r = tbuf_rec_of(b, tbuf_seq_ent(s, pos)->ref);
    tbuf_keep_record(b, r);
    tbuf_seqcopy_before(&b->seqs, slot);
    if (pos > 0 && pos <= s->chain)
        s->chain = pos - 1; /* what was seen of it may not hold any more */
    for (size_t i = 0; i < n; i++) {
        if (r->payload < 4 || patches[i].offset > r->payload - 4u) {
            b->stats.patches_failed++;
            return false;
        }
        memcpy(tbuf_rec_bytes(r) + patches[i].offset, patches[i].data, 4);
    }
    b->stats.patches_succeeded += n;
    if (!more)
        r->flags &= (uint16_t)~TBUF_CHUNK_NEEDS_PATCHING;
    tbuf_ring_wake(b, s);
    return true;
}

/* ---- queries ---- */

const struct tbuf_stats *tbuf_stats(const struct tbuf *b)
{
    return &b->stats;
}

bool tbuf_next_writer(const struct tbuf *b, uint32_t *cursor, struct tbuf_writer *out)
{
    while (*cursor < b->seqs.top) {
        uint32_t slot = ++*cursor;
        const struct tbuf_seq *s = tbuf_seq_at(&b->seqs, slot);
        struct tbuf_seq_info *info = &b->seqs.info[slot];
        if (s->key == 0)
            continue;
        out->producer_id = (uint16_t)(s->key >> 16);
        out->writer_id = (uint16_t)s->key;
        out->client = info->client;
        for (uint32_t i = 0; i < TBUF_HIST_BUCKETS; i++) {
            bool any = (s->sampled & 1u << i) != 0;
            out->counts[i] = any ? tbuf_seq_bucket(info, i)->count : 0;
            out->sums[i] = any ? tbuf_seq_bucket(info, i)->sum : 0;
        }
        return true;
    }
    return false;
}

bool tbuf_next_sequence(const struct tbuf *b, uint32_t *cursor, struct tbuf_sequence *out)
{
    while (*cursor < b->seqs.top) {
        uint32_t slot = ++*cursor;
        uint32_t key = tbuf_seq_at(&b->seqs, slot)->key;
        if (key == 0)
            continue;
        out->producer_id = (uint16_t)(key >> 16);
        out->writer_id = (uint16_t)key;
        out->machine_id = b->seqs.info[slot].client.machine_id;
        return true;
    }
    return false;
}

uint64_t tbuf_size(const struct tbuf *b)
{
    return b->size;
}

uint64_t tbuf_used_size(const struct tbuf *b)
{
    return b->used;
}

uint64_t tbuf_room_to_end(const struct tbuf *b)
{
    return b->size - b->wr;
}

uint64_t tbuf_side_memory(const struct tbuf *b)
{
    return tbuf_seqtab_memory(&b->seqs) + b->slices_cap * sizeof(*b->slices) +
           (b->scratch != NULL ? TBUF_PAYLOAD_MAX : 0) + tbuf_vm_memory(b);
}

enum tbuf_policy tbuf_policy(const struct tbuf *b)
{
    return b->policy;
}

bool tbuf_has_data(const struct tbuf *b)
{
    return b->used != 0;
}

bool tbuf_is_sealed(const struct tbuf *b)
{
    return b->sealed;
}

bool tbuf_is_read_only(const struct tbuf *b)
{
    return b->read_only;
}
