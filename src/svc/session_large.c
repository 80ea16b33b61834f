/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets that are too large for one batch of the read path. The trace buffer gives them in parts;
 * the parts are copied into memory of the session, one part a call, since the buffer goes on being
 * written. When the packet is whole it is checked, some fields a call, filtered where it lies, some
 * work a call, and then handed on in pieces, as fast as the reader takes them, or fed to
 * compression in lumps. So a packet of any size neither holds up the loop nor waits in a queue.
 *
 * What it costs is its own size in memory, once per session, and a session's packet is no larger
 * than its buffer. While it is compressed, what was taken of it is given back, so that both forms
 * together are no larger than the packet either, but for a megabyte.
 *
 * A session has one such packet at a time, and no other packet of a producer leaves before it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_read.h"
#include "svc/validate.h"

#define PIECE   (256u << 10) /* bytes handed on per call */
#define FIELDS  16384u       /* checked per call */
#define RELEASE (1u << 20)   /* memory given back at a time, while it is compressed */

void session_large_drop(struct session *s)
{
    giveback_memory(&s->svc->giveback, s->large.bytes, s->large.n);
    s->large = (struct session_large){0};
}

bool session_large_begun(const struct session *s)
{
    const struct session_large *l = &s->large;
    if (l->state == LARGE_FILTER)
        return l->taken;
    return l->state == LARGE_SEND && (s->compress ? l->taken : l->at > 0) && l->at < l->n;
}

void session_large_rewind(struct session *s)
{
    if (s->large.state == LARGE_SEND && !s->compress)
        s->large.at = 0;
}

static bool reserve(struct session_large *l, size_t n)
{
    size_t cap = l->cap ? l->cap : 4 * PIECE;
    if (n <= l->cap)
        return true;
    while (cap < n)
        cap *= 2;
    uint8_t *p = alloc_try_resize(l->bytes, cap, 1);
    if (!p)
        return false;
    l->bytes = p;
    l->cap = cap;
    return true;
}

static int append(struct session_large *l, const struct tbuf_packet *p)
{
    if (!reserve(l, l->n + p->size + VALIDATE_TRAILER_MAX))
        return -ENOMEM;
    for (size_t i = 0; i < p->num_slices; i++) {
        memcpy(l->bytes + l->n, p->slices[i].iov_base, p->slices[i].iov_len);
        l->n += p->slices[i].iov_len;
    }
    return 0;
}

int session_large_begin(struct session *s, size_t buffer, const struct tbuf_packet *p)
{
    struct session_large *l = &s->large;
    l->state = LARGE_GATHER;
    l->buffer = buffer;
    l->info = *p;
    int err = append(l, p);
    if (err)
        session_large_drop(s);
    return err;
}

static int gather(struct session *s)
{
    struct session_large *l = &s->large;
    struct tbuf_packet p;
    int err = 0;
    switch (tbuf_read_next(s->buffers[l->buffer].tb, &p)) {
    case TBUF_READ_PACKET:
        err = append(l, &p);
        if (!p.more)
            l->state = LARGE_CHECK;
        break;
    case TBUF_READ_AGAIN:
        break;
    case TBUF_READ_BROKEN:
    case TBUF_READ_EMPTY:
        session_large_drop(s);
        break;
    }
    if (err)
        session_large_drop(s);
    return err;
}

static void check(struct session *s)
{
    struct session_large *l = &s->large;
    switch (validate_some(l->bytes, l->n, &l->at, FIELDS)) {
    case VALIDATE_MORE:
        break;
    case VALIDATE_BAD:
        s->invalid_packets++;
        tbuf_read_refuse(s->buffers[l->buffer].tb, &l->info);
        session_large_drop(s);
        break;
    case VALIDATE_GOOD:
        l->n += session_read_trailer(s, &l->info, l->bytes + l->n);
        l->at = 0;
        l->state = s->filter ? LARGE_FILTER : LARGE_SEND;
        break;
    }
}

static int send_piece(struct session_batch *b)
{
    struct session_large *l = &b->s->large;
    size_t left = l->n - l->at;
    struct iovec part = {l->bytes + l->at, left < PIECE ? left : PIECE};
    const struct packet pkt = {.parts = &part,
                               .nparts = left > 0,
                               .size = part.iov_len,
                               .buffer = (int)l->buffer,
                               .continues = l->at != 0,
                               .follows = left - part.iov_len};
    b->size += pkt.size;
    int err = packet_put(b->sink, &pkt);
    l->at += part.iov_len;
    return err;
}

/* What the compressed batch has taken is not needed any more. */
static void release(struct session_large *l)
{
    if (l->at - l->released < RELEASE)
        return;
    giveback_pages(l->bytes + l->released, l->at - l->released);
    l->released = l->at;
}

static int compress(struct session_batch *b)
{
    struct session_large *l = &b->s->large;
    struct bytes_view v = bytes_view(l->bytes + l->at, l->n - l->at);
    int err = 0;
    if (!l->taken)
        err = compress_begin_packet(b->s->compress, l->n);
    l->taken = true;
    if (!err)
        err = session_pipe_feed(b, &v);
    l->at = l->n - v.n;
    release(l);
    return err;
}

static int filter(struct session_batch *b)
{
    struct session *s = b->s;
    struct session_large *l = &s->large;
    struct packet out;
    bool failed;
    if (!l->taken)
        filter_take_place(s->filter, l->bytes, l->n, (int)l->buffer);
    l->taken = true;
    bool done = session_pipe_filter(b, &out, &failed);
    b->later = false; /* it waits here, not in the pipe */
    if (!done)
        return 0;
    if (session_pipe_vanishes(b, failed)) {
        session_large_drop(s);
        return 0;
    }
    b->size += l->n - out.size; /* R103: what it had before */
    l->n = out.size;
    l->taken = false;
    l->state = LARGE_SEND;
    if (l->n > 0)
        return 0;
    session_large_drop(s);
    return session_pipe_put_raw(b, &out);
}

static int send(struct session_batch *b)
{
    struct session *s = b->s;
    struct session_large *l = &s->large;
    if (l->at == l->n) { /* the last call is over, nothing points to it any more */
        session_large_drop(s);
        return 0;
    }
    if (!s->compress)
        return send_piece(b);
    if (!l->taken)
        b->size += l->n;
    int err = compress(b);
    if (l->at == l->n)
        session_large_drop(s);
    return err;
}

int session_large_step(struct session_batch *b)
{
    switch (b->s->large.state) {
    case LARGE_NONE:
        break;
    case LARGE_GATHER:
        return gather(b->s);
    case LARGE_CHECK:
        check(b->s);
        break;
    case LARGE_FILTER:
        return filter(b);
    case LARGE_SEND:
        return send(b);
    }
    return 0;
}
