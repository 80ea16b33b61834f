/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets that are too large for one batch of the read path. The trace buffer gives them in parts;
 * the parts are copied into memory of the session, one part a batch, since the buffer goes on being
 * written. When the packet is whole it is checked, some fields a batch, and then handed on in
 * pieces, as fast as the reader takes them. So a packet of any size neither holds up the loop nor
 * waits in a queue; what it costs is its own size in memory, once per session, and a session's
 * packet is no larger than its buffer. Filter and compression take it in one go.
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

#define PIECE  (256u << 10) /* bytes handed on per batch */
#define FIELDS 16384u       /* checked per batch */

void session_large_drop(struct session *s)
{
    free(s->large.bytes);
    s->large = (struct session_large){0};
}

void session_large_rewind(struct session *s)
{
    if (s->large.state == LARGE_SEND)
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
        l->state = LARGE_SEND;
        break;
    }
}

static int send_piece(struct session *s, bool whole, int (*put)(void *, const struct packet *),
                      void *arg)
{
    struct session_large *l = &s->large;
    size_t left = l->n - l->at;
    struct iovec part = {l->bytes + l->at, whole || left < PIECE ? left : PIECE};
    const struct packet pkt = {.parts = &part,
                               .nparts = 1,
                               .size = part.iov_len,
                               .buffer = (int)l->buffer,
                               .continues = l->at != 0,
                               .follows = left - part.iov_len};
    int err = put(arg, &pkt);
    l->at += part.iov_len;
    return err;
}

int session_large_step(struct session *s, bool whole, int (*put)(void *, const struct packet *),
                       void *arg)
{
    switch (s->large.state) {
    case LARGE_NONE:
        break;
    case LARGE_GATHER:
        return gather(s);
    case LARGE_CHECK:
        check(s);
        break;
    case LARGE_SEND:
        if (s->large.at < s->large.n)
            return send_piece(s, whole, put, arg);
        session_large_drop(s); /* the last batch has left, nothing points to it any more */
        break;
    }
    return 0;
}
