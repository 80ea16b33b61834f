/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The read path: one batch of a session's packets, in the order of service.md R107, through filter
 * and compression (svc/session_pipe) into a sink. Our own packets are built into a buffer (one for
 * each of the three places where they come) before the first of them is handed on, since that
 * memory moves while it grows; those of producers are handed on as pieces of the trace buffer with
 * their trusted fields behind them. Whatever a packet points to stays where it is until the next
 * call begins, so a sink may gather a whole batch without copying.
 *
 * A call does a bounded amount of work. When filter or compression need more for a batch, the stage
 * that it was in is kept, and the next call goes on there.
 *
 * Per packet there is no allocation but the first of a new sequence, and no system call.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_vm.h"
#include "svc/validate.h"

/* Hands on packets of a buffer from own_at on, which must not grow any more in this batch. */
static int put_buffered(struct session_batch *b, const struct bytesbuf *own)
{
    size_t *at = &b->s->own_at;
    if (own->failed)
        return -ENOMEM;
    while (*at < own->n) {
        uint32_t size = bytes_load32(own->p + *at);
        struct iovec part = {own->p + *at + sizeof(size), size};
        const struct packet pkt = {
            .parts = &part, .nparts = size ? 1 : 0, .size = size, .buffer = PACKET_SERVICE};
        *at += sizeof(size) + size;
        int err = session_pipe_put(b, &pkt);
        if (err || b->later)
            return err;
    }
    return 0;
}

/* ---- packets of producers (R107.16) ---- */

static int ensure_parts(struct session *s, size_t n)
{
    if (n <= s->nparts)
        return 0;
    struct iovec *parts = alloc_try_resize(s->parts, n + 64, sizeof(*parts));
    if (!parts)
        return -ENOMEM;
    s->parts = parts;
    s->nparts = n + 64;
    return 0;
}

size_t session_read_trailer(struct session *s, const struct tbuf_packet *p, uint8_t *trailer)
{
    const struct validate_origin origin = {
        .uid = p->client.uid,
        .pid = p->client.pid,
        .sequence = session_ids_get(&s->ids, p->client.machine_id, p->producer_id, p->writer_id),
        .machine_id = p->client.machine_id,
        .loss = p->loss,
    };
    return validate_trailer(trailer, &origin);
}

/* Hands on one packet with its trusted fields (R125). */
static int put_packet(struct session_batch *b, int buffer, const struct tbuf_packet *p)
{
    struct session *s = b->s;
    if (ensure_parts(s, p->num_slices + 1))
        return -ENOMEM;
    uint8_t *trailer = s->trailers + b->trailers;
    size_t len = session_read_trailer(s, p, trailer);
    b->trailers += len;
    memcpy(s->parts, p->slices, p->num_slices * sizeof(*s->parts));
    s->parts[p->num_slices] = (struct iovec){trailer, len};
    const struct packet pkt = {
        .parts = s->parts, .nparts = p->num_slices + 1, .size = p->size + len, .buffer = buffer};
    return session_pipe_put(b, &pkt);
}

/* Reads one buffer until it is empty or the batch is full. *more: there is more in it. */
static int put_buffer(struct session_batch *b, size_t index, bool *more)
{
    struct session *s = b->s;
    struct tbuf *tb = s->buffers[index].tb;
    struct tbuf_packet p;
    tbuf_read_begin(tb);
    while (b->size < b->threshold) {
        enum tbuf_read_result r = tbuf_read_next(tb, &p);
        if (r != TBUF_READ_PACKET) {
            *more = r == TBUF_READ_AGAIN;
            return 0;
        }
        if (p.more) {
            *more = true;
            return session_large_begin(s, index, &p);
        }
        if (!validate_packet(p.slices, p.num_slices)) {
            s->invalid_packets++;
            tbuf_read_refuse(tb, &p);
            continue;
        }
        int err = put_packet(b, (int)index, &p);
        if (err)
            return err;
        if (b->later || session_pipe_spent(b))
            break;
    }
    *more = true;
    return 0;
}

/* *more: there is more to come, but not now. */
static int put_buffers(struct session_batch *b, bool *more)
{
    struct session *s = b->s;
    if (s->large.state != LARGE_NONE) {
        *more = true;
        return session_large_step(b);
    }
    *more = false;
    for (size_t i = 0; i < s->nbuffers; i++) {
        int err = put_buffer(b, i, more);
        if (err || *more)
            return err;
    }
    return 0;
}

/* ---- stats (section 13) ---- */

static int put_stats(struct session_batch *b)
{
    struct session *s = b->s;
    struct bytesbuf *out = &s->stats;
    if (out->failed)
        return -ENOMEM;
    struct iovec part = {out->p, out->n};
    const struct packet pkt = {
        .parts = &part, .nparts = 1, .size = part.iov_len, .buffer = PACKET_SERVICE};
    b->size += pkt.size;
    if (s->filter)
        filter_count_stats_packet(s->filter, pkt.size);
    return session_pipe_put_raw(b, &pkt);
}

/* ---- the batch ---- */

/* Room for the trusted fields of all packets of a call. */
static int reserve_trailers(struct session *s, size_t threshold)
{
    size_t room = threshold + VALIDATE_TRAILER_MAX;
    if (s->trailers_size >= room)
        return 0;
    uint8_t *p = alloc_try_resize(s->trailers, room, 1);
    if (!p)
        return -ENOMEM;
    s->trailers = p;
    s->trailers_size = room;
    return 0;
}

/* Does what is due in the stage that the read is in, and enters the next. */
static int do_stage(struct session_batch *b)
{
    struct session *s = b->s;
    bool more;
    int err;
    switch (s->stage) {
    case READ_BEGIN:
        session_own_begin(s);
        /* Nothing comes between the pieces of a packet. */
        s->stage = session_large_begun(s) ? READ_BUFFERS : READ_BUILD;
        return 0;
    case READ_BUILD:
        b->later = session_own_build(s);
        s->stage = b->later ? READ_BUILD : READ_OWN;
        return 0;
    case READ_OWN:
        err = put_buffered(b, &s->scratch);
        s->stage = b->later ? READ_OWN : READ_BUFFERS;
        return err;
    case READ_BUFFERS:
        err = put_buffers(b, &more);
        s->stage = more ? READ_BEGIN : READ_ENDING;
        if (err || more)
            return err;
        session_own_end(s);
        return 0;
    case READ_ENDING:
        err = put_buffered(b, &s->ending);
        s->stage = b->later ? READ_ENDING : s->emit_stats ? READ_STATS : READ_END;
        return err;
    default:
        b->later = session_own_stats(s);
        s->stage = b->later ? READ_STATS : READ_END;
        return b->later ? 0 : put_stats(b);
    }
}

/* Goes on with the batch, until there is enough of it or the call's time is up. */
static int go_on(struct session_batch *b)
{
    struct session *s = b->s;
    int err = session_pipe_resume(b);
    while (!err && !b->later && s->stage != READ_END) {
        err = do_stage(b);
        if (s->stage == READ_BEGIN || session_pipe_spent(b))
            break;
    }
    if (err < 0)
        return err;
    int last = session_pipe_end(b, s->stage == READ_END);
    return err ? err : last;
}

int session_read_batch(struct session *s, size_t threshold, struct packet_sink *sink, bool *more)
{
    struct session_batch b = {.s = s, .sink = sink, .threshold = threshold};
    session_pipe_begin(&b);
    session_ids_step(s);
    int err = reserve_trailers(s, threshold);
    if (!err)
        err = session_pipe_giving(s) ? session_pipe_give(&b) : go_on(&b);
    if (err)
        session_pipe_abandon(s);
    *more = s->stage != READ_END || session_pipe_busy(s) || session_pipe_giving(s);
    if (err || !*more)
        s->stage = READ_BEGIN;
    return err;
}

void session_read_rewind(struct session *s)
{
    session_large_rewind(s);
    session_pipe_rewind(s);
}

bool session_read_is_long(const struct session *s)
{
    return s->filter || s->compress || s->large.state != LARGE_NONE || session_pipe_busy(s) ||
           s->stage == READ_BUILD || s->stage == READ_STATS;
}

bool session_read_empty(const struct session *s)
{
    return s->file || session_trigger_waiting(s);
}

void session_read_free(struct session *s)
{
    session_large_drop(s);
    session_pipe_free(s);
    free(s->trailers);
    free(s->parts);
    s->trailers = NULL;
    s->parts = NULL;
    session_ids_fini(&s->ids);
    bytesbuf_fini(&s->scratch);
    bytesbuf_fini(&s->ending);
    bytesbuf_fini(&s->stats);
}
