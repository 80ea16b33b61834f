/* SPDX-License-Identifier: Apache-2.0 */
/* The reference model, read side: the oldest record whose sequence need not wait is read, a piece
 * at a time. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tbuf_model_int.h"

/* True: the chunk right before `id` is known to be lost. */
static bool pass(struct seq *s, uint32_t id)
{
    bool explained = s->has_last && id == s->last_id + 1 &&
                     ((s->last_loss & (TBUF_LOSS_OVERWRITE | TBUF_LOSS_WRITER_ABORT |
                                       TBUF_LOSS_CHUNK_CORRUPTED)) != 0 ||
                      s->lost_chain);
    model_settle(s, id);
    s->last_id = id - 1;
    s->last_loss = 0;
    s->lost_chain = false;
    return explained;
}

static void finish_front(struct model *m, struct seq *s)
{
    struct rec *r = model_rec_of(m, s->list[0]);
    struct chunk *c = model_shift(s);
    m->st.chunks_read++;
    m->st.bytes_read += r->size;
    s->last_id = c->id;
    model_passed(s, c);
    s->last_len = s->last_consumed = c->len;
    s->last_loss = (c->aborted ? TBUF_LOSS_WRITER_ABORT : 0) |
                   (c->corrupt ? TBUF_LOSS_CHUNK_CORRUPTED : 0) |
                   (c->incomplete ? TBUF_LOSS_OVERWRITE : 0);
    s->lost_chain = false;
    r->gone = true;
    r->chunk = NULL;
    model_drop(c);
    model_shift_evicted(s);
}

static bool may_grow(const struct seq *s, const struct chunk *c)
{
    return c->incomplete && !s->closed;
}

static bool blocked(const struct chunk *c, const struct piece *f)
{
    return f->last && (c->flags & HOLES);
}

static void consume(struct model *m, struct seq *s, uint32_t end)
{
    struct chunk *c = s->list[0];
    c->consumed = end;
    while (c->consumed < c->len) {
        struct piece f = model_piece(c, c->consumed);
        if (!f.ok || f.size > 0 || f.to_next || blocked(c, &f))
            break;
        c->consumed = f.end;
    }
    if (c->consumed == c->len && !may_grow(s, c))
        finish_front(m, s);
}

static void emit(struct model *m, struct model_packet *out, const struct chunk *c,
                 const struct piece *f)
{
    if (f->size == 0)
        return;
    m->packet = realloc(m->packet, out->size + f->size);
    memcpy(m->packet + out->size, c->bytes + f->start, f->size);
    out->bytes = m->packet;
    out->size += f->size;
    if (out->num_slices < 4096)
        out->lens[out->num_slices] = f->size;
    out->num_slices++;
}

enum did { GOT, WAIT, ON };

/* What was lost before the packet that begins at the front. */
static void tell_loss(struct seq *s, struct model_packet *out)
{
    out->loss = s->pending != 0 ? s->pending | TBUF_LOSS_PRESENT : 0;
    s->pending = 0;
}

/* The front chunk's last piece begins a packet. */
static enum did read_begin(struct model *m, struct seq *s, struct model_packet *out)
{
    size_t i = 1;
    unsigned loss = 0;
    enum { END, STALL, BROKEN } how = BROKEN;
    for (;; i++) {
        loss = TBUF_LOSS_REASSEMBLY_GAP;
        if (i == s->n) {
            how = s->closed ? BROKEN : STALL;
            break;
        }
        struct chunk *c = s->list[i];
        if (c->id != s->list[i - 1]->id + 1)
            break;
        loss = TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN;
        if (c->evicted) {
            if (c->len == 0 && !c->incomplete && c->loss == 0)
                continue;
            if (c->loss != 0)
                loss = 0;
            break;
        }
        if (c->len == 0 && c->incomplete) {
            how = s->closed ? BROKEN : STALL;
            break;
        }
        if (c->len == 0) {
            if (!c->aborted && !c->corrupt)
                continue;
            loss = 0;
            break;
        }
        if (!(c->flags & FIRST))
            break;
        struct piece f = model_piece(c, c->consumed);
        if (!f.ok) {
            loss = TBUF_LOSS_CHUNK_CORRUPTED;
            break;
        }
        if (blocked(c, &f)) {
            how = s->closed ? BROKEN : STALL;
            break;
        }
        if (!f.to_next) {
            how = END;
            break;
        }
    }
    if (how != END)
        m->st.readaheads_failed++;
    if (how == STALL)
        return WAIT;
    uint32_t stop = s->list[how == END ? i : i - 1]->id;
    bool begin = true;
    for (;;) {
        if (s->n == 0 || ahead(s->list[0]->id, stop) > 0)
            break;
        struct chunk *c = s->list[0];
        struct piece f = model_piece(c, c->consumed);
        bool is_end = how == END && c->id == stop;
        pass(s, c->id);
        if (how == END && begin)
            tell_loss(s, out);
        begin = false;
        if (how == END && f.ok)
            emit(m, out, c, &f);
        if (is_end) {
            consume(m, s, f.end);
            break;
        }
        c->consumed = c->len;
        finish_front(m, s);
    }
    if (how == BROKEN) {
        s->pending |= loss;
        return ON;
    }
    if (out->num_slices == 0) {
        s->pending |= out->loss;
        return ON;
    }
    m->st.readaheads_succeeded++;
    return GOT;
}

static enum did read_front(struct model *m, struct seq *s, struct model_packet *out)
{
    struct chunk *c = s->list[0];
    if (c->consumed == c->len) {
        if (may_grow(s, c))
            return WAIT;
        pass(s, c->id);
        finish_front(m, s);
        return ON;
    }
    struct piece f = model_piece(c, c->consumed);
    if (!f.ok) {
        pass(s, c->id);
        c->consumed = c->len;
        c->corrupt = true;
        c->flags &= ~(unsigned)LAST;
        return ON;
    }
    if (f.from_prev) {
        bool explained = pass(s, c->id);
        if (!explained)
            s->pending |= TBUF_LOSS_ORPHAN_CONTINUATION;
        consume(m, s, f.end);
        if (explained && f.to_next)
            s->lost_chain = true;
        return ON;
    }
    if (blocked(c, &f)) {
        if (!s->closed) {
            m->st.readaheads_failed++;
            return WAIT;
        }
        pass(s, c->id);
        s->pending |= TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN;
        consume(m, s, f.end);
        return ON;
    }
    if (f.to_next)
        return read_begin(m, s, out);
    pass(s, c->id);
    emit(m, out, c, &f);
    if (f.size > 0)
        tell_loss(s, out);
    consume(m, s, f.end);
    return f.size > 0 ? GOT : ON;
}

void model_begin(struct model *m)
{
    if (!m->rewalk)
        return;
    m->rewalk = false;
    for (size_t i = 0; i < m->num_seqs; i++)
        m->seqs[i]->stalled = false;
}

bool model_next(struct model *m, struct model_packet *out)
{
    for (;;) {
        struct rec *r = NULL;
        for (size_t i = 0; i < m->n && r == NULL; i++) {
            if (!m->recs[i].gone && !m->recs[i].seq->stalled)
                r = &m->recs[i];
        }
        if (r == NULL) {
            m->rewalk = true;
            m->drained = true;
            return false;
        }
        struct seq *s = r->seq;
        memset(out, 0, offsetof(struct model_packet, lens));
        out->num_slices = 0;
        enum did d = read_front(m, s, out);
        if (d == WAIT)
            s->stalled = true;
        if (d != GOT)
            continue;
        out->producer_id = s->producer;
        out->writer_id = s->writer;
        out->client = s->client;
        out->first = !s->returned;
        s->returned = true;
        return true;
    }
}

void model_refuse(struct model *m, uint16_t producer, uint16_t writer, uint32_t loss)
{
    /* The one that returned the packet; a closed one of the same name may be read as well. */
    for (size_t i = m->num_seqs; i-- > 0;) {
        struct seq *s = m->seqs[i];
        if (s->producer == producer && s->writer == writer) {
            s->pending |= loss | TBUF_LOSS_PRESENT;
            return;
        }
    }
}
