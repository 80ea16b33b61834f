/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace buffer, read side.
 *
 * A walk goes over the records from the oldest to the newest. At each one that is not GONE it reads
 * the sequence of that record from the front of its list up to that record (R62). A sequence that
 * has to wait is passed over for the rest of the walk; when something happens to it the next begin
 * starts the walk over (tbuf_ring_wake). Otherwise a begin resumes where the last batch stopped, so
 * that what is GONE or waits is not visited once per batch. Runs of GONE records are crossed in one
 * hop the second time: the first record of a run keeps its length.
 *
 * Loss is settled step by step between consecutive chunks (tbuf_ring_pass), so each loss is
 * reported once, on the first packet after it.
 *
 * The bytes of a stored chunk were checked when it was copied, but a patch may have broken a size
 * header since: every fragment is checked again against the end of its chunk before it is used.
 *
 * Nothing here copies packet bytes or allocates per packet; only the slice array of a fragmented
 * packet grows, up to TBUF_PACKET_SLICES_MAX.
 */
#include "svc/tbuf_read.h"

#include <stdlib.h>
#include <string.h>

#include "svc/tbuf_ring.h"
#include "svc/tbuf_seqcopy.h"
#include "svc/tbuf_tok.h"

#define AHEAD 8192u /* bytes that the walk asks for ahead */
#define LINE  64u
#define STEPS 4096u /* records and fragments that one call may pass without returning a packet */

/* A fragment of a stored chunk. */
struct frag {
    uint8_t *data;
    uint32_t size;
    uint32_t end; /* offset behind it */
    bool from_prev;
    bool to_next;
    bool last;
};

/* The fragment at r->consumed. False: what stands there is no fragment. */
static inline bool frag_at(struct tbuf_rec *r, struct frag *f)
{
    uint8_t *p = tbuf_rec_bytes(r) + r->consumed;
    uint32_t left = (uint32_t)(r->payload - r->consumed);
    uint64_t size = 0;
    uint32_t hdr = tbuf_tok_header(p, left, &size);
    if (hdr == 0 || size > left - hdr)
        return false;
    f->data = p + hdr;
    f->size = (uint32_t)size;
    f->end = r->consumed + hdr + f->size;
    f->last = f->end == r->payload;
    f->from_prev = r->consumed == 0 && (r->flags & TBUF_CHUNK_FIRST_CONTINUES) != 0;
    f->to_next = f->last && (r->flags & TBUF_CHUNK_LAST_CONTINUES) != 0;
    return true;
}

static inline bool must_wait_for_patch(const struct tbuf_rec *r, const struct frag *f)
{
    return f->last && (r->flags & TBUF_CHUNK_NEEDS_PATCHING) != 0;
}

/* More bytes may still come for this chunk. */
static inline bool may_grow(const struct tbuf *b, const struct tbuf_seq *s,
                            const struct tbuf_rec *r)
{
    return (r->flags & TBUF_REC_INCOMPLETE) != 0 && !tbuf_seq_closed(&b->seqs, s);
}

/* The front chunk, about to change. */
static struct tbuf_rec *front(struct tbuf *b, struct tbuf_seq *s)
{
    struct tbuf_rec *r = tbuf_rec_of(b, tbuf_seq_ent(s, 0)->ref);
    tbuf_keep_header(b, r);
    return r;
}

/* The rest of the front chunk is no sequence of fragments any more (X35). */
static void give_up_rest(struct tbuf_rec *r)
{
    r->consumed = r->payload;
    r->flags |= TBUF_REC_CORRUPT;
    r->flags &= (uint16_t)~TBUF_CHUNK_LAST_CONTINUES;
}

/* After a whole packet: steps over the empty ones behind it, and ends the chunk's life if that was
 * all. So a chunk with something unread starts with something that would be missed. */
static void consume_whole(struct tbuf *b, struct tbuf_seq *s, struct tbuf_rec *r, uint32_t end)
{
    struct frag f;
    r->consumed = (uint16_t)end;
    while (r->consumed < r->payload && frag_at(r, &f) && f.size == 0 && !f.to_next &&
           !must_wait_for_patch(r, &f)) {
        r->consumed = (uint16_t)f.end;
    }
    if (r->consumed == r->payload && !may_grow(b, s, r))
        tbuf_ring_retire(b, s);
}

/* ---- fragmented packets ---- */

enum link {
    LINK_MIDDLE,      /* goes on behind it */
    LINK_TRANSPARENT, /* nothing in it, goes on behind it */
    LINK_END,
    LINK_WAIT,
    LINK_BROKEN,
};

/* What the entry at `pos` is for a packet that begins at the front. *loss: cause when broken, 0 if
 * the chunk in the way reports it itself when it is passed. */
static enum link link_at(struct tbuf *b, struct tbuf_seq *s, uint32_t pos, uint16_t *loss)
{
    bool closed = tbuf_seq_closed(&b->seqs, s);
    *loss = TBUF_LOSS_REASSEMBLY_GAP;
    if (pos >= s->count)
        return closed ? LINK_BROKEN : LINK_WAIT;
    struct tbuf_ent e = *tbuf_seq_ent(s, pos);
    if (e.id != tbuf_seq_ent(s, pos - 1)->id + 1)
        return LINK_BROKEN;
    *loss = TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN;
    if (tbuf_ent_is_tomb(e)) {
        if ((e.ref & TBUF_TOMB_EMPTY) != 0)
            return LINK_TRANSPARENT;
        if ((e.ref >> TBUF_TOMB_LOSS_SHIFT & 0xFFu) != 0)
            *loss = 0;
        return LINK_BROKEN;
    }
    struct tbuf_rec *r = tbuf_rec_of(b, e.ref);
    struct frag f;
    if (r->payload == 0) {
        if ((r->flags & TBUF_REC_INCOMPLETE) != 0)
            return closed ? LINK_BROKEN : LINK_WAIT;
        if ((r->flags & (TBUF_REC_ABORTED | TBUF_REC_CORRUPT)) == 0)
            return LINK_TRANSPARENT;
        *loss = 0;
        return LINK_BROKEN;
    }
    if ((r->flags & TBUF_CHUNK_FIRST_CONTINUES) == 0)
        return LINK_BROKEN;
    if (!frag_at(r, &f)) {
        *loss = TBUF_LOSS_CHUNK_CORRUPTED;
        return LINK_BROKEN;
    }
    if (must_wait_for_patch(r, &f))
        return closed ? LINK_BROKEN : LINK_WAIT;
    return f.to_next ? LINK_MIDDLE : LINK_END;
}

static bool add_slice(struct tbuf *b, size_t n, const struct frag *f)
{
    if (n == b->slices_cap) {
        size_t cap = n == 0 ? 16 : n * 2;
        struct iovec *p = realloc(b->slices, cap * sizeof(*p));
        if (p == NULL)
            return false;
        b->slices = p;
        b->slices_cap = cap;
    }
    b->slices[n] = (struct iovec){f->data, f->size};
    return true;
}

/* Drops the fragments of the packet that begins at the front and reaches up to chunk `last_id`, or
 * as many as the step budget allows; the rest then explains itself as orphans. */
static void drop_chain(struct tbuf *b, struct tbuf_seq *s, uint32_t last_id)
{
    while (s->count > 0 && tbuf_id_diff(s->ids.front, last_id) <= 0) {
        struct tbuf_rec *r = front(b, s);
        (void)tbuf_ring_pass(s, r->id);
        r->consumed = r->payload;
        tbuf_ring_retire(b, s);
        if (b->steps == 0) {
            s->last_loss |= TBUF_SEQ_CHAIN_LOST;
            return;
        }
        b->steps--;
    }
}

/* What was lost before the packet whose begin is at the front and was passed. What is found to be
 * lost behind it, when its last chunk is retired, is for the next one. */
static uint32_t take_loss(struct tbuf_seq *s)
{
    uint32_t loss = s->pending != 0 ? s->pending | (uint32_t)TBUF_LOSS_PRESENT : 0;
    s->pending = 0;
    return loss;
}

/* A chunk of the packet is the next one, wherever `id` was expected: only chunks with nothing in
 * them may be missing, and those that are were evicted. */
static bool goes_on(const struct tbuf_seq *s, uint32_t id)
{
    return s->ids.front == id || (s->ids.front == s->last_id + 1 && s->last_payload == 0 &&
                                  s->last_loss == 0 && s->pending == 0);
}

/* Consumes the fragments from the front up to chunk `last_id`, the packet's end, and fills the
 * slices; a large packet stops after a part (b->part). `first`: its begin is at the front and the
 * chain was found complete. False, for a later part: something of it is lost. */
static bool take_chain(struct tbuf *b, struct tbuf_seq *s, uint32_t last_id, bool first,
                       struct tbuf_packet *out)
{
    size_t n = 0;
    uint64_t bytes = 0;
    bool fits = true;
    bool begin = first;
    uint32_t id = first ? s->ids.front : b->part.next_id;
    out->more = false;
    for (;; begin = false, id++) {
        struct frag f = {0};
        if (s->count == 0 || (!first && !goes_on(s, id)) || tbuf_id_diff(s->ids.front, last_id) > 0)
            return false;
        id = s->ids.front;
        struct tbuf_rec *r = front(b, s);
        bool any = frag_at(r, &f);
        if (any ? f.from_prev == begin || f.to_next != (id != last_id) : r->payload != 0)
            return false;
        (void)tbuf_ring_pass(s, id);
        if (begin)
            out->loss = take_loss(s);
        if (any && f.size != 0 && fits) {
            fits = add_slice(b, n, &f);
            n++;
            bytes += f.size;
        }
        if (id == last_id) {
            consume_whole(b, s, r, f.end);
            break;
        }
        r->consumed = r->payload;
        tbuf_ring_retire(b, s);
        if (n >= TBUF_PART_SLICES || bytes >= b->part_max) {
            out->more = fits;
            break;
        }
    }
    b->part.slot = out->more ? tbuf_seq_slot(&b->seqs, s) : 0;
    b->part.key = s->key;
    b->part.next_id = id + 1;
    b->part.last_id = last_id;
    if (!fits) {
        b->stats.chunks_no_memory++;
        s->pending |= TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN;
    }
    out->slices = b->slices;
    out->num_slices = fits ? n : 0;
    out->size = bytes;
    return true;
}

enum served {
    SERVED_PACKET,
    SERVED_WAIT,
    SERVED_ON,    /* go on with this sequence */
    SERVED_STEPS, /* step budget spent */
};

/* The last fragment of the front chunk begins a packet. */
static enum served serve_begin(struct tbuf *b, struct tbuf_seq *s, struct tbuf_packet *out)
{
    uint16_t loss = 0;
    enum link l;
    for (;;) {
        l = link_at(b, s, s->chain + 1, &loss);
        if (l != LINK_MIDDLE && l != LINK_TRANSPARENT)
            break;
        s->chain++;
        if (s->chain >= TBUF_PACKET_SLICES_MAX) {
            loss = TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN;
            l = LINK_BROKEN;
            break;
        }
        if (b->steps == 0)
            return SERVED_STEPS;
        b->steps--;
    }
    uint32_t chain = s->chain;
    if (l == LINK_WAIT) {
        b->stats.readaheads_failed++;
        return SERVED_WAIT;
    }
    if (l == LINK_BROKEN) {
        b->stats.readaheads_failed++;
        drop_chain(b, s, tbuf_seq_ent(s, chain)->id);
        s->pending |= (uint8_t)loss;
        return SERVED_ON;
    }
    if (!take_chain(b, s, tbuf_seq_ent(s, chain + 1)->id, true, out) || out->num_slices == 0) {
        s->pending |= (uint8_t)out->loss;
        return SERVED_ON;
    }
    b->stats.readaheads_succeeded++;
    return SERVED_PACKET;
}

/* ---- one sequence ---- */

/* A continuation whose begin was not seen. */
static void drop_orphan(struct tbuf *b, struct tbuf_seq *s, struct tbuf_rec *r,
                        const struct frag *f, bool explained)
{
    if (!explained)
        s->pending |= TBUF_LOSS_ORPHAN_CONTINUATION;
    bool middle = f->to_next;
    consume_whole(b, s, r, f->end);
    if (middle && explained)
        s->last_loss |= TBUF_SEQ_CHAIN_LOST;
}

/* One step at the front of a sequence: a packet into *out, or something consumed, or a wait. */
static enum served serve_front(struct tbuf *b, struct tbuf_seq *s, struct tbuf_packet *out)
{
    struct tbuf_rec *r = front(b, s);
    struct frag f;
    if (r->consumed == r->payload) {
        if (may_grow(b, s, r))
            return SERVED_WAIT;
        (void)tbuf_ring_pass(s, r->id);
        tbuf_ring_retire(b, s);
        return SERVED_ON;
    }
    if (!frag_at(r, &f)) {
        (void)tbuf_ring_pass(s, r->id);
        give_up_rest(r);
        return SERVED_ON;
    }
    if (f.from_prev) {
        bool explained = tbuf_ring_pass(s, r->id);
        drop_orphan(b, s, r, &f, explained);
        return SERVED_ON;
    }
    if (must_wait_for_patch(r, &f)) {
        if (!tbuf_seq_closed(&b->seqs, s)) {
            b->stats.readaheads_failed++;
            return SERVED_WAIT;
        }
        (void)tbuf_ring_pass(s, r->id); /* the patch will never come */
        s->pending |= TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN;
        consume_whole(b, s, r, f.end);
        return SERVED_ON;
    }
    if (f.to_next)
        return serve_begin(b, s, out);
    (void)tbuf_ring_pass(s, r->id);
    b->one = (struct iovec){f.data, f.size};
    if (f.size != 0)
        out->loss = take_loss(s);
    consume_whole(b, s, r, f.end);
    if (f.size == 0)
        return SERVED_ON;
    out->more = false;
    out->slices = &b->one;
    out->num_slices = 1;
    out->size = f.size;
    return SERVED_PACKET;
}

/* Reads the sequence up to and including chunk `id`. */
static enum served serve(struct tbuf *b, struct tbuf_seq *s, uint32_t id, struct tbuf_packet *out)
{
    for (;;) {
        enum served r = serve_front(b, s, out);
        if (r != SERVED_ON)
            return r;
        if (s->count == 0 || tbuf_id_diff(s->ids.front, id) > 0)
            return SERVED_ON;
        if (b->steps == 0)
            return SERVED_STEPS;
        b->steps--;
    }
}

/* ---- the walk ---- */

static uint64_t place_of(const struct tbuf *b, uint64_t age)
{
    return age < b->lap ? age + b->size - b->lap : age - b->lap;
}

/* Notes that all from age `from` up to `to` is GONE. */
static void close_run(struct tbuf *b, uint64_t from, uint64_t to)
{
    struct tbuf_rec *r = tbuf_rec_at(b, place_of(b, from));
    if (from <= b->rd) {
        b->rd = to;
        return;
    }
    tbuf_keep_header(b, r);
    r->id = (uint32_t)((to - from) >> 4);
}

/* The walk comes to a record: asks for the bytes of the next ones. They are about to be looked at
 * here and then to be sent, and the processor cannot guess where the size headers are. */
static void warm_ahead(struct tbuf *b)
{
    uint64_t to = b->walk_at + AHEAD;
    if (to <= b->warm || to - b->warm > AHEAD)
        b->warm = b->walk_at;
    const uint8_t *p = b->mem + place_of(b, b->warm);
    uint64_t n = to - b->warm;
    for (uint64_t i = 0; i < n; i += LINE)
        __builtin_prefetch(p + i);
    b->warm = to;
}

/* Goes to the next record that is not GONE. NULL: there is none, or the step budget is spent. */
static struct tbuf_rec *walk_on(struct tbuf *b)
{
    uint64_t run = b->walk_at;
    struct tbuf_rec *found = NULL;
    while (b->walk_at < tbuf_newest_age(b)) {
        uint64_t place = place_of(b, b->walk_at);
        if (b->walk_at < b->lap && place >= b->end) {
            if (run < b->walk_at)
                close_run(b, run, b->walk_at);
            if (b->rd == b->walk_at)
                b->rd = b->lap;
            b->walk_at = b->lap;
            run = b->lap;
            continue;
        }
        struct tbuf_rec *r = tbuf_rec_at(b, place);
        if ((r->flags & TBUF_REC_GONE) == 0) {
            if (b->warm < b->walk_at + AHEAD)
                warm_ahead(b);
            found = r;
            break;
        }
        if (b->steps == 0)
            break;
        b->steps--;
        b->walk_at += r->id != 0 ? (uint64_t)r->id << 4 : tbuf_rec_size(r->room);
    }
    if (run < b->walk_at)
        close_run(b, run, b->walk_at);
    return found;
}

static void start_over(struct tbuf *b)
{
    b->rewalk = false;
    b->warm = 0;
    b->walk_at = b->rd;
    if (++b->walk == 0)
        b->walk = 1;
}

void tbuf_read_begin(struct tbuf *b)
{
    if (b->rewalk)
        start_over(b);
}

static void name_it(const struct tbuf *b, const struct tbuf_seq *s, struct tbuf_packet *out)
{
    uint32_t slot = tbuf_seq_slot(&b->seqs, s);
    out->producer_id = (uint16_t)(s->key >> 16);
    out->writer_id = (uint16_t)s->key;
    out->client = b->seqs.info[slot].client;
    out->sequence = slot;
}

static void fill(struct tbuf *b, struct tbuf_seq *s, struct tbuf_packet *out)
{
    name_it(b, s, out);
    out->first_on_sequence = (s->state & TBUF_SEQ_RETURNED) == 0;
    b->part.loss = out->loss;
    s->state |= TBUF_SEQ_RETURNED;
}

/* The next part of the packet that is being given. */
static enum tbuf_read_result next_part(struct tbuf *b, struct tbuf_packet *out)
{
    struct tbuf_packet got = {.loss = b->part.loss};
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, b->part.slot);
    bool same = s->key == b->part.key;
    tbuf_seqcopy_before(&b->seqs, b->part.slot);
    b->part.slot = 0;
    if (same && take_chain(b, s, b->part.last_id, false, &got) &&
        (got.num_slices != 0 || !got.more)) {
        name_it(b, s, &got);
        *out = got;
        return TBUF_READ_PACKET;
    }
    b->part.slot = 0;
    b->stats.readaheads_failed++;
    if (same)
        s->pending |= (uint8_t)(b->part.loss | TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN);
    return TBUF_READ_BROKEN;
}

enum tbuf_read_result tbuf_read_next(struct tbuf *b, struct tbuf_packet *out)
{
    struct tbuf_packet got;
    b->steps = STEPS;
    uint64_t oldest = tbuf_oldest_age(b);
    if (b->rd < oldest)
        b->rd = oldest;
    if (b->walk_at < b->rd)
        b->walk_at = b->rd;
    if (b->part.slot != 0)
        return next_part(b, out);
    for (;;) {
        struct tbuf_rec *r = walk_on(b);
        if (r == NULL) {
            if (b->walk_at < tbuf_newest_age(b))
                return TBUF_READ_AGAIN;
            b->rewalk = true;
            b->drained = true;
            return TBUF_READ_EMPTY;
        }
        struct tbuf_seq *s = tbuf_seq_at(&b->seqs, r->seq);
        if (s->stalled != b->walk) {
            tbuf_seqcopy_before(&b->seqs, r->seq);
            switch (serve(b, s, r->id, &got)) {
            case SERVED_PACKET:
                fill(b, s, &got);
                *out = got;
                return TBUF_READ_PACKET;
            case SERVED_STEPS:
                return TBUF_READ_AGAIN;
            case SERVED_ON:
                continue;
            case SERVED_WAIT:
                s->stalled = b->walk;
                break;
            }
        }
        if (b->steps == 0)
            return TBUF_READ_AGAIN;
        b->steps--;
        b->walk_at += tbuf_rec_size(r->room);
    }
}

void tbuf_read_refuse(struct tbuf *b, const struct tbuf_packet *packet)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, packet->sequence);
    if (packet->sequence != 0 && packet->sequence <= b->seqs.top &&
        s->key == ((uint32_t)packet->producer_id << 16 | packet->writer_id)) {
        tbuf_seqcopy_before(&b->seqs, packet->sequence);
        s->pending |= (uint8_t)(packet->loss | TBUF_LOSS_PRESENT);
    }
}
