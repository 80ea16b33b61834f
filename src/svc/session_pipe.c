/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What packets go through on their way from their source to the sink: the trace filter, and
 * compression (service.md sections 8 and 9). Both may take longer for one packet than the loop has
 * time, so either can be left in the middle of one: the call ends with session_batch.later set, and
 * the next call of session_read_batch goes on where it was left before anything else. Without
 * filter and compression nothing here takes time, and packets go to the sink as they are.
 *
 * What one call may do is counted in units of work, whatever the clock says: WORK of them, some
 * nanoseconds each; and it ends when its time is up, which is looked at after each LOOK of them.
 * So one call is bounded in bytes and, unless the machine is very slow, in time.
 *
 * Invariant: at most one packet is at work, and its bytes are where nobody else writes: in the
 * filter, in the session's own packets, or copied here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define WORK  (UINT64_C(1) << 18) /* of one call */
#define LOOK  (UINT64_C(1) << 15) /* between two looks at the clock; a lump of compression */
#define PIECE (256u << 10)        /* bytes of one packet handed on per call */

void session_pipe_begin(struct session_batch *b)
{
    struct session *s = b->s;
    b->limited = s->filter || s->compress;
    b->work = WORK;
    if (b->limited)
        b->end_ns = chrono_mono_ns() + DEFAULTS_TASK_BUDGET_NS;
    if (s->filter && !session_pipe_busy(s))
        filter_begin(s->filter);
    if (s->compress) {
        b->size = s->pipe.batch;
        (void)compress_trim(s->compress);
    }
}

bool session_pipe_spent(const struct session_batch *b)
{
    return b->limited && (b->work == 0 || chrono_mono_ns() >= b->end_ns);
}

bool session_pipe_busy(const struct session *s)
{
    return s->pipe.filtering || s->pipe.rest.n > 0;
}

/* ---- compression ---- */

/* Feeds some of v and moves it forward. 0 or -errno. */
static int feed(struct session_batch *b, struct bytes_view *v)
{
    ssize_t took = compress_feed(b->s->compress, *v);
    if (took < 0)
        return (int)took;
    uint64_t cost = 1 + (uint64_t)took * LOOK / compress_lump(b->s->compress);
    b->work -= cost < b->work ? cost : b->work;
    v->p += took;
    v->n -= (size_t)took;
    return 0;
}

int session_pipe_feed(struct session_batch *b, struct bytes_view *v)
{
    int err = 0;
    while (!err && v->n > 0) {
        err = feed(b, v);
        if (!err && v->n > 0 && session_pipe_spent(b))
            break;
    }
    return err;
}

static int feed_rest(struct session_batch *b)
{
    int err = session_pipe_feed(b, &b->s->pipe.rest);
    b->later = b->s->pipe.rest.n > 0;
    return err;
}

/* What is left of a packet that cannot be fed in this call: from v, in part i, on. */
static int put_aside(struct session_batch *b, const struct packet *pkt, size_t i,
                     struct bytes_view v, bool stays)
{
    struct session_pipe *p = &b->s->pipe;
    b->later = true;
    if (stays && i + 1 == pkt->nparts) {
        p->rest = v;
        return 0;
    }
    size_t n = v.n;
    for (size_t k = i + 1; k < pkt->nparts; k++)
        n += pkt->parts[k].iov_len;
    if (n > p->copy_size) {
        uint8_t *copy = alloc_try(n);
        if (!copy)
            return -ENOMEM;
        free(p->copy);
        p->copy = copy;
        p->copy_size = n;
    }
    uint8_t *to = p->copy;
    memcpy(to, v.p, v.n);
    to += v.n;
    for (size_t k = i + 1; k < pkt->nparts; k++) {
        if (pkt->parts[k].iov_len > 0)
            memcpy(to, pkt->parts[k].iov_base, pkt->parts[k].iov_len);
        to += pkt->parts[k].iov_len;
    }
    p->rest = bytes_view(p->copy, n);
    return 0;
}

/* stays: its bytes are there until it is done, not only until the call is over. */
static int compress_packet(struct session_batch *b, const struct packet *pkt, bool stays)
{
    int err = compress_begin_packet(b->s->compress, pkt->size);
    for (size_t i = 0; !err && i < pkt->nparts; i++) {
        struct bytes_view v = bytes_view(pkt->parts[i].iov_base, pkt->parts[i].iov_len);
        err = session_pipe_feed(b, &v);
        bool ends = v.n == 0 && i + 1 == pkt->nparts;
        if (!err && !ends && session_pipe_spent(b))
            return put_aside(b, pkt, i, v, stays);
    }
    return err;
}

/* Hands on the next piece. */
static int send_rest(struct session_batch *b)
{
    struct session_pipe *p = &b->s->pipe;
    struct iovec part = {(uint8_t *)(uintptr_t)p->rest.p, p->rest.n < PIECE ? p->rest.n : PIECE};
    const struct packet pkt = {.parts = &part,
                               .nparts = 1,
                               .size = part.iov_len,
                               .buffer = p->buffer,
                               .continues = p->rest.p != p->whole.p,
                               .follows = p->rest.n - part.iov_len};
    p->rest = bytes_view(p->rest.p + part.iov_len, pkt.follows);
    b->later = pkt.follows > 0;
    return packet_put(b->sink, &pkt);
}

static int put_on(struct session_batch *b, const struct packet *pkt, bool stays)
{
    struct session_pipe *p = &b->s->pipe;
    if (b->s->compress)
        return compress_packet(b, pkt, stays);
    if (!stays || pkt->nparts != 1 || pkt->size <= PIECE)
        return packet_put(b->sink, pkt);
    p->rest = p->whole = bytes_view(pkt->parts[0].iov_base, pkt->size);
    p->buffer = pkt->buffer;
    return send_rest(b);
}

/* ---- filter ---- */

bool session_pipe_filter(struct session_batch *b, struct packet *out, bool *failed)
{
    bool done = false;
    do {
        uint64_t look = b->work < LOOK ? b->work : LOOK, left = look;
        done = filter_step(b->s->filter, &left, out, failed);
        b->work -= look - left;
    } while (!done && !session_pipe_spent(b));
    b->later = !done;
    return done;
}

bool session_pipe_vanishes(const struct session_batch *b, bool failed)
{
    /* R137: an empty packet in a file and in a compressed batch, nothing for a reader. */
    return failed && !b->s->file && !b->s->compress;
}

static int filter_on(struct session_batch *b)
{
    struct packet out;
    bool failed;
    b->s->pipe.filtering = !session_pipe_filter(b, &out, &failed);
    if (b->s->pipe.filtering || session_pipe_vanishes(b, failed))
        return 0;
    return put_on(b, &out, true);
}

/* ---- a packet ---- */

int session_pipe_put(struct session_batch *b, const struct packet *pkt)
{
    b->size += pkt->size;
    if (!b->s->filter)
        return put_on(b, pkt, pkt->buffer == PACKET_SERVICE);
    int err = filter_take(b->s->filter, pkt);
    return err ? err : filter_on(b);
}

int session_pipe_put_raw(struct session_batch *b, const struct packet *pkt)
{
    return put_on(b, pkt, pkt->buffer == PACKET_SERVICE);
}

int session_pipe_resume(struct session_batch *b)
{
    struct session_pipe *p = &b->s->pipe;
    int err = p->rest.n == 0 ? 0 : b->s->compress ? feed_rest(b) : send_rest(b);
    return !err && p->filtering ? filter_on(b) : err;
}

/* ---- the end of a compressed batch ---- */

int session_pipe_give(struct session_batch *b)
{
    struct packet pkt;
    compress_give(b->s->compress, PIECE, &pkt);
    return packet_put(b->sink, &pkt);
}

bool session_pipe_giving(const struct session *s)
{
    return s->compress && compress_giving(s->compress);
}

int session_pipe_end(struct session_batch *b, bool all)
{
    struct session *s = b->s;
    s->pipe.batch = b->size;
    if (!s->compress || b->later || session_large_begun(s) || (!all && b->size < b->threshold) ||
        compress_empty(s->compress))
        return 0;
    s->pipe.batch = 0;
    int err = compress_end(s->compress);
    return err ? err : session_pipe_give(b);
}

/* ---- when it cannot go on ---- */

void session_pipe_rewind(struct session *s)
{
    if (s->compress)
        compress_rewind(s->compress);
    else if (s->pipe.rest.n > 0)
        s->pipe.rest = s->pipe.whole;
}

void session_pipe_abandon(struct session *s)
{
    if (s->large.taken) /* half of it is in what is forgotten now */
        session_large_drop(s);
    s->pipe.filtering = false;
    s->pipe.rest = bytes_view(NULL, 0);
    s->pipe.batch = 0;
    if (s->compress)
        compress_abandon(s->compress);
}

void session_pipe_free(struct session *s)
{
    free(s->pipe.copy);
    s->pipe = (struct session_pipe){0};
}
