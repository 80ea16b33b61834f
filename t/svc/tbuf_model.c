/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference model. The ring is an array of records, oldest first; a sequence is an array of
 * chunks sorted by id, those that were evicted but not yet passed by the reader among them.
 */
#include "tbuf_model_int.h"

#include <stdlib.h>
#include <string.h>

static uint64_t rec_size(uint64_t room)
{
    return (16 + room + 15) / 16 * 16;
}

/* ---- parsing ---- */

/* Size header at p: its length, or 0. */
static uint32_t header(const uint8_t *p, uint32_t avail, uint64_t *size)
{
    *size = 0;
    for (uint32_t i = 0; i < avail && i < 10; i++) {
        *size |= (uint64_t)(p[i] % 128) << (7 * i);
        if (p[i] < 128)
            return i + 1;
    }
    return 0;
}

struct parsed {
    uint32_t valid, bytes;
    bool aborted, corrupt;
};

static struct parsed parse(const uint8_t *p, uint32_t len, uint32_t declared)
{
    struct parsed r = {0};
    while (r.valid < declared) {
        uint64_t size;
        uint32_t h = header(p + r.bytes, len - r.bytes, &size);
        if (h != 0 && size == 0x0FFFFFFF) {
            r.aborted = true;
            return r;
        }
        if (h == 0 || r.bytes + h + size > len || size > len) {
            r.corrupt = true;
            return r;
        }
        r.bytes += h + (uint32_t)size;
        r.valid++;
    }
    return r;
}

struct piece model_piece(const struct chunk *c, uint32_t at)
{
    struct piece f = {0};
    uint64_t size;
    uint32_t h = header(c->bytes + at, c->len - at, &size);
    if (h == 0 || size > c->len || at + h + size > c->len)
        return f;
    f.ok = true;
    f.start = at + h;
    f.size = (uint32_t)size;
    f.end = f.start + f.size;
    f.last = f.end == c->len;
    f.from_prev = at == 0 && (c->flags & FIRST);
    f.to_next = f.last && (c->flags & LAST);
    return f;
}

/* Is something unread that a reader would miss? */
static bool has_unread(const struct chunk *c)
{
    struct piece f;
    for (uint32_t at = c->consumed; at < c->len; at = f.end) {
        f = model_piece(c, at);
        if (!f.ok || f.size > 0 || f.from_prev || f.to_next)
            return true;
    }
    return false;
}

/* ---- sequences ---- */

static struct seq *find(struct model *m, uint16_t producer, uint16_t writer)
{
    for (size_t i = 0; i < m->num_seqs; i++) {
        struct seq *s = m->seqs[i];
        if (s->producer == producer && s->writer == writer && !s->closed)
            return s;
    }
    return NULL;
}

static struct seq *make(struct model *m, const struct tbuf_chunk_in *in)
{
    struct seq *s = find(m, in->producer_id, in->writer_id);
    if (s != NULL)
        return s;
    s = calloc(1, sizeof(*s));
    s->producer = in->producer_id;
    s->writer = in->writer_id;
    s->client = in->client;
    m->seqs = realloc(m->seqs, (m->num_seqs + 1) * sizeof(*m->seqs));
    return m->seqs[m->num_seqs++] = s;
}

static void wake(struct model *m, struct seq *s)
{
    if (s->stalled)
        m->rewalk = true;
    s->stalled = false;
}

static void list_insert(struct seq *s, size_t pos, struct chunk *c)
{
    s->list = realloc(s->list, (s->n + 1) * sizeof(*s->list));
    memmove(s->list + pos + 1, s->list + pos, (s->n - pos) * sizeof(*s->list));
    s->list[pos] = c;
    s->n++;
}

struct chunk *model_shift(struct seq *s)
{
    struct chunk *c = s->list[0];
    memmove(s->list, s->list + 1, --s->n * sizeof(*s->list));
    return c;
}

void model_drop(struct chunk *c)
{
    free(c->bytes);
    free(c);
}

/* What was lost before chunk `id` is certain now. */
void model_settle(struct seq *s, uint32_t id)
{
    s->pending |= s->last_loss;
    if (s->has_last && id != s->last_id + 1)
        s->pending |= TBUF_LOSS_READ_GAP;
    if (!s->has_last || id != s->last_id + 1)
        s->passed[0].known = s->passed[1].known = false;
    if (s->last_incomplete)
        s->passed[0].known = false;
    s->has_last = true;
    s->last_evicted = s->last_incomplete = false;
}

void model_passed(struct seq *s, const struct chunk *c)
{
    s->passed[1] = s->passed[0];
    s->passed[0] = (struct passed){true, c->id, c->len};
}

/* The front of the list is over by eviction; so are the evicted ones right behind it. */
void model_shift_evicted(struct seq *s)
{
    while (s->n > 0 && s->list[0]->evicted) {
        struct chunk *c = model_shift(s);
        model_settle(s, c->id);
        model_passed(s, c);
        s->last_evicted = true;
        s->last_incomplete = c->incomplete;
        s->last_id = c->id;
        s->last_len = c->len;
        s->last_consumed = c->consumed;
        s->last_loss = c->loss;
        s->lost_chain = false;
        model_drop(c);
    }
}

/* ---- ring ---- */

struct rec *model_rec_of(struct model *m, const struct chunk *c)
{
    for (size_t i = 0; i < m->n; i++) {
        if (m->recs[i].chunk == c)
            return &m->recs[i];
    }
    return NULL;
}

static void evict(struct model *m, struct rec *r)
{
    struct chunk *c = r->chunk;
    bool unread = c->consumed < c->len && c->filled;
    if (c->consumed < c->len) {
        m->st.chunks_overwritten++;
        m->st.bytes_overwritten += r->size;
    } else {
        m->st.chunks_read++;
        m->st.bytes_read += r->size;
    }
    c->evicted = true;
    c->loss = (unread || c->incomplete ? TBUF_LOSS_OVERWRITE : 0) |
              (c->aborted ? TBUF_LOSS_WRITER_ABORT : 0) |
              (c->corrupt ? TBUF_LOSS_CHUNK_CORRUPTED : 0);
    r->gone = true;
    r->chunk = NULL;
    model_shift_evicted(r->seq);
    wake(m, r->seq);
}

/* Clears and removes the oldest record. */
static void clear_oldest(struct model *m)
{
    struct rec *r = &m->recs[0];
    if (!r->gone)
        evict(m, r);
    if (r->moved) {
        m->st.padding_bytes_cleared += r->size;
        m->padding -= r->size;
    }
    m->cleared = r->place + r->size;
    memmove(m->recs, m->recs + 1, --m->n * sizeof(*m->recs));
}

static bool old_left(const struct model *m)
{
    return m->n > 0 && m->recs[0].old_lap;
}

static uint64_t room(const struct model *m)
{
    return old_left(m) ? m->cleared - m->wr : m->size - m->wr;
}

/* Padding behind the cursor is about to be overwritten or cut off. `left` is how much there was. */
static void clear_padding(struct model *m, uint64_t left)
{
    m->st.padding_bytes_cleared += left;
    m->padding -= left;
}

/* Where a record of `bytes` goes. */
static void wrap_if_needed(struct model *m, uint64_t bytes)
{
    if (bytes <= m->size - m->wr)
        return;
    uint64_t left = m->cleared > m->wr ? m->cleared - m->wr : 0;
    while (old_left(m))
        clear_oldest(m);
    clear_padding(m, left);
    for (size_t i = 0; i < m->n; i++)
        m->recs[i].old_lap = true;
    m->wr = m->cleared = 0;
    m->st.write_wrap_count++;
}

static void put(struct model *m, struct seq *s, struct chunk *c)
{
    uint64_t bytes = rec_size(c->room);
    uint64_t left = m->cleared > m->wr ? m->cleared - m->wr : 0;
    while (room(m) < bytes)
        clear_oldest(m);
    clear_padding(m, left);
    m->recs = realloc(m->recs, (m->n + 1) * sizeof(*m->recs));
    m->recs[m->n++] = (struct rec){.place = m->wr, .size = bytes, .seq = s, .chunk = c};
    m->wr += bytes;
    if (m->cleared > m->wr) {
        m->st.padding_bytes_written += m->cleared - m->wr;
        m->padding += m->cleared - m->wr;
    } else {
        m->cleared = m->wr;
    }
    if (m->used < m->wr)
        m->used = m->wr;
    m->st.chunks_written++;
    m->st.bytes_written += bytes;
    m->drained = false;
}

static void restart(struct model *m)
{
    uint64_t live = 0;
    size_t k = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (!m->recs[i].gone) {
            live += m->recs[i].size;
            k++;
        }
    }
    if (!m->drained || m->held || m->policy != TBUF_RING || m->wr < m->restart_min ||
        live > 65536 || k > 512)
        return;
    m->st.padding_bytes_cleared += m->padding;
    m->padding = 0;
    m->wr = 0;
    k = 0;
    for (size_t i = 0; i < m->n; i++) {
        struct rec r = m->recs[i];
        if (r.gone)
            continue;
        r.place = m->wr;
        r.old_lap = false;
        m->wr += r.size;
        m->recs[k++] = r;
    }
    m->n = k;
    m->cleared = m->wr;
    m->rewalk = true;
    m->drained = false;
}

/* ---- copy ---- */

struct model *model_new(uint64_t size, enum tbuf_policy policy, uint64_t restart_min)
{
    struct model *m = calloc(1, sizeof(*m));
    m->size = (size + 4095) / 4096 * 4096;
    m->policy = policy;
    m->restart_min = restart_min;
    m->st.buffer_size = m->size;
    return m;
}

static void set_content(struct chunk *c, const struct tbuf_chunk_in *in, const struct parsed *p,
                        unsigned flags)
{
    memcpy(c->bytes, in->payload, p->bytes);
    c->len = p->bytes;
    c->incomplete = !in->complete;
    c->aborted = p->aborted;
    c->corrupt = p->corrupt;
    if (p->aborted || p->corrupt || p->valid == 0)
        flags &= ~(unsigned)(LAST | HOLES);
    c->flags |= flags;
    c->filled = has_unread(c);
}

static struct chunk *chunk_new(const struct tbuf_chunk_in *in, const struct parsed *p,
                               unsigned flags, uint32_t consumed)
{
    struct chunk *c = calloc(1, sizeof(*c));
    c->id = in->chunk_id;
    c->bytes = malloc(65536);
    c->room = in->complete ? p->bytes : in->payload_size;
    c->consumed = consumed;
    set_content(c, in, p, flags);
    return c;
}

static void count(struct model *m, const struct parsed *p, bool abort_known)
{
    m->st.abi_violations += p->corrupt;
    m->st.trace_writer_packet_loss += p->aborted && !abort_known;
}

static enum tbuf_outcome recommit(struct model *m, struct seq *s, size_t pos,
                                  const struct tbuf_chunk_in *in, const struct parsed *p,
                                  unsigned flags)
{
    struct chunk *c = s->list[pos];
    count(m, p, c->aborted);
    if (p->bytes < c->len || p->bytes > c->room || (c->flags & ~flags) != 0) {
        m->st.abi_violations++;
        return TBUF_REFUSED;
    }
    if (p->bytes == c->len) {
        if (!c->incomplete)
            return TBUF_DUPLICATE;
        c->aborted |= p->aborted;
        c->corrupt |= p->corrupt;
        if (!in->complete)
            return TBUF_DUPLICATE;
        c->incomplete = false;
        wake(m, s);
        return TBUF_REWRITTEN;
    }
    if (in->complete && c->consumed == c->len && pos == 0 && m->policy == TBUF_RING) {
        struct rec *r = model_rec_of(m, c);
        r->gone = r->moved = true;
        r->chunk = NULL;
        m->padding += r->size;
        c->room = p->bytes;
        set_content(c, in, p, flags);
        wake(m, s);
        wrap_if_needed(m, rec_size(c->room));
        put(m, s, c);
        m->st.chunks_relocated++;
        return TBUF_RELOCATED;
    }
    set_content(c, in, p, flags);
    m->drained = false;
    m->st.chunks_rewritten++;
    wake(m, s);
    return TBUF_REWRITTEN;
}

static enum tbuf_outcome stale(struct model *m)
{
    m->st.chunks_stale++;
    return TBUF_STALE;
}

static enum tbuf_outcome copy_last(struct model *m, struct seq *s, const struct tbuf_chunk_in *in,
                                   const struct parsed *p, unsigned flags)
{
    if (in->chunk_id == s->passed[1].id && s->passed[1].known && p->bytes > s->passed[1].len) {
        m->st.abi_violations++;
        return TBUF_REFUSED;
    }
    if (in->chunk_id != s->last_id || !s->last_evicted)
        return stale(m);
    bool abort_known = (s->last_loss & TBUF_LOSS_WRITER_ABORT) != 0;
    if (p->bytes > s->last_consumed && (s->last_incomplete || p->bytes == s->last_len)) {
        count(m, p, abort_known);
        struct chunk *c = chunk_new(in, p, flags, s->last_consumed);
        s->last_id--;
        s->passed[0] = s->passed[1];
        s->passed[1].known = false;
        s->last_loss = 0;
        s->last_evicted = s->last_incomplete = false;
        list_insert(s, 0, c);
        wake(m, s);
        wrap_if_needed(m, rec_size(c->room));
        put(m, s, c);
        return TBUF_READMITTED;
    }
    if (s->last_incomplete && in->complete && p->bytes == s->last_consumed) {
        count(m, p, abort_known);
        s->last_loss = p->aborted   ? TBUF_LOSS_WRITER_ABORT
                       : p->corrupt ? TBUF_LOSS_CHUNK_CORRUPTED
                                    : 0;
        s->last_incomplete = false;
        return TBUF_DUPLICATE;
    }
    return stale(m);
}

static enum tbuf_outcome copy_evicted(struct model *m, struct seq *s, size_t pos,
                                      const struct tbuf_chunk_in *in, const struct parsed *p,
                                      unsigned flags)
{
    struct chunk *c = s->list[pos];
    if (p->bytes == 0 || !(c->incomplete || p->bytes == c->len))
        return stale(m);
    bool abort_known = c->aborted;
    wrap_if_needed(m, rec_size(in->complete ? p->bytes : in->payload_size));
    for (pos = 0; pos < s->n && s->list[pos]->id != in->chunk_id; pos++)
        ;
    if (pos == s->n)
        return copy_last(m, s, in, p, flags);
    count(m, p, abort_known);
    model_drop(s->list[pos]);
    c = s->list[pos] = chunk_new(in, p, flags, 0);
    wake(m, s);
    put(m, s, c);
    return TBUF_READMITTED;
}

static enum tbuf_outcome discard(struct model *m)
{
    m->sealed = true;
    m->st.chunks_discarded++;
    return TBUF_DISCARDED;
}

enum tbuf_outcome model_copy(struct model *m, const struct tbuf_chunk_in *in)
{
    if (m->read_only)
        return TBUF_IS_READ_ONLY;
    if (in->payload_size > 65535 || (in->producer_id == 0 && in->writer_id == 0)) {
        m->st.abi_violations++;
        return TBUF_REFUSED;
    }
    restart(m);
    uint32_t declared = in->num_fragments;
    unsigned flags = in->flags & 7u;
    if (!in->complete && declared > 0) {
        declared--;
        flags &= FIRST;
    }
    struct parsed p = parse(in->payload, in->payload_size, declared);
    struct seq *s = find(m, in->producer_id, in->writer_id);
    if (s == NULL && m->sealed)
        return discard(m);
    uint64_t bytes = rec_size(in->complete ? p.bytes : in->payload_size);
    if (bytes > m->size) {
        m->st.abi_violations++;
        return TBUF_REFUSED;
    }
    s = make(m, in);
    size_t pos = 0;
    if (s->n > 0) {
        uint32_t front = s->list[0]->id;
        uint32_t back = s->list[s->n - 1]->id;
        uint32_t off = in->chunk_id - front;
        for (size_t i = 0; i < s->n; i++) {
            if (s->list[i]->id == in->chunk_id)
                return s->list[i]->evicted ? copy_evicted(m, s, i, in, &p, flags)
                                           : recommit(m, s, i, in, &p, flags);
        }
        if (off > back - front) { /* outside */
            bool newer = ahead(in->chunk_id, back) > 0;
            if ((newer ? off : back - in->chunk_id) > 0x80000000u) {
                m->st.abi_violations++;
                return TBUF_REFUSED;
            }
            pos = newer ? s->n : 0;
        } else {
            while (pos < s->n && s->list[pos]->id - front < off)
                pos++;
        }
    }
    bool newest = s->n > 0 && pos == s->n;
    if (s->has_last && !newest && ahead(in->chunk_id, s->last_id) <= 0)
        return pos == 0 ? copy_last(m, s, in, &p, flags) : stale(m);
    if (m->sealed)
        return discard(m);
    count(m, &p, false);
    if (m->policy == TBUF_DISCARD && bytes > m->size - m->wr)
        return discard(m);
    if (pos != s->n)
        m->st.chunks_committed_out_of_order++;
    struct chunk *c = chunk_new(in, &p, flags, 0);
    list_insert(s, pos, c);
    wake(m, s);
    wrap_if_needed(m, bytes);
    put(m, s, c);
    return TBUF_STORED;
}

bool model_patch(struct model *m, uint16_t producer, uint16_t writer, uint32_t chunk,
                 const struct tbuf_patch *patches, size_t n, bool more)
{
    if (m->read_only)
        return false;
    struct seq *s = find(m, producer, writer);
    struct chunk *c = NULL;
    for (size_t i = 0; s != NULL && i < s->n; i++) {
        if (s->list[i]->id == chunk && !s->list[i]->evicted)
            c = s->list[i];
    }
    bool ok = c != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        ok = (uint64_t)patches[i].offset + 4 <= c->len;
        if (ok)
            memcpy(c->bytes + patches[i].offset, patches[i].data, 4);
    }
    if (!ok) {
        m->st.patches_failed++;
        return false;
    }
    m->st.patches_succeeded += n;
    if (!more)
        c->flags &= ~(unsigned)HOLES;
    wake(m, s);
    return true;
}

void model_producer_gone(struct model *m, uint16_t producer)
{
    for (size_t i = 0; i < m->num_seqs; i++) {
        if (m->seqs[i]->producer == producer) {
            m->seqs[i]->closed = true;
            m->seqs[i]->stalled = false;
        }
    }
    m->rewalk = true;
}

/* ---- clone, queries ---- */

struct model *model_clone(const struct model *m)
{
    struct model *c = malloc(sizeof(*c));
    *c = *m;
    c->packet = NULL;
    c->read_only = true;
    c->rewalk = true;
    c->st.bytes_read = c->st.chunks_read = 0;
    c->st.readaheads_succeeded = c->st.readaheads_failed = 0;
    c->recs = malloc((m->n + 1) * sizeof(*c->recs));
    if (m->n > 0)
        memcpy(c->recs, m->recs, m->n * sizeof(*c->recs));
    c->seqs = malloc((m->num_seqs + 1) * sizeof(*c->seqs));
    for (size_t i = 0; i < m->num_seqs; i++) {
        struct seq *s = c->seqs[i] = malloc(sizeof(*s));
        *s = *m->seqs[i];
        s->list = malloc((s->n + 1) * sizeof(*s->list));
        for (size_t j = 0; j < s->n; j++) {
            struct chunk *k = s->list[j] = malloc(sizeof(*k));
            *k = *m->seqs[i]->list[j];
            k->bytes = malloc(65536);
            memcpy(k->bytes, m->seqs[i]->list[j]->bytes, k->len);
            struct rec *r = model_rec_of(c, m->seqs[i]->list[j]);
            if (r != NULL)
                r->chunk = k;
        }
        for (size_t j = 0; j < c->n; j++) {
            if (c->recs[j].seq == m->seqs[i])
                c->recs[j].seq = s;
        }
    }
    return c;
}

void model_hold(struct model *m, bool held)
{
    m->held = held;
}

void model_free(struct model *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->num_seqs; i++) {
        for (size_t j = 0; j < m->seqs[i]->n; j++)
            model_drop(m->seqs[i]->list[j]);
        free(m->seqs[i]->list);
        free(m->seqs[i]);
    }
    free(m->seqs);
    free(m->recs);
    free(m->packet);
    free(m);
}

const struct tbuf_stats *model_stats(const struct model *m)
{
    return &m->st;
}

uint64_t model_used(const struct model *m)
{
    return m->used;
}

uint64_t model_room_to_end(const struct model *m)
{
    return m->size - m->wr;
}

uint64_t model_in_use(const struct model *m)
{
    uint64_t bytes = m->padding;
    for (size_t i = 0; i < m->n; i++)
        bytes += m->recs[i].gone ? 0 : m->recs[i].size;
    return bytes;
}
