/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-only clones of a trace buffer.
 *
 * A clone keeps the places of the records, so that positions, order lists and ages are copied as
 * they are; only what is not GONE is copied, and of a run of GONE records only a header that says
 * how far to hop. So a clone of a buffer that is read regularly takes little memory and time.
 * Nothing is shared between the two: each may be read or freed before the other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "svc/tbuf_ring.h"

/* Copies the records of one lap between two places. */
static void copy_records(struct tbuf *to, const struct tbuf *from, uint64_t at, uint64_t end)
{
    struct tbuf_rec *run = NULL; /* in `to`: first GONE record of a run */
    uint64_t run_at = 0;
    while (at < end) {
        const struct tbuf_rec *r = tbuf_rec_at(from, at);
        uint64_t size = tbuf_rec_size(r->room);
        if ((r->flags & TBUF_REC_GONE) == 0) {
            memcpy(to->mem + at, r, TBUF_REC_HDR + r->payload);
            if (run != NULL)
                run->id = (uint32_t)((at - run_at) >> 4);
            run = NULL;
        } else if (run == NULL) {
            run = tbuf_rec_at(to, at);
            run_at = at;
            run->flags = TBUF_REC_GONE;
        }
        at += (r->flags & TBUF_REC_GONE) != 0 && r->id != 0 ? (uint64_t)r->id << 4 : size;
    }
    if (run != NULL)
        run->id = (uint32_t)((end - run_at) >> 4);
}

int tbuf_clone_read_only(const struct tbuf *b, struct tbuf **out)
{
    struct tbuf *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    if (tbuf_ring_init(c, b->size) != 0) {
        free(c);
        return -ENOMEM;
    }
    if (tbuf_seqtab_copy(&c->seqs, &b->seqs) != 0) {
        tbuf_free(c);
        return -ENOMEM;
    }
    c->policy = b->policy;
    c->flags = b->flags;
    c->wr = b->wr;
    c->gap = b->gap;
    c->pad = b->pad;
    c->end = b->end;
    c->used = b->used;
    c->lap = b->lap;
    c->moved_bytes = b->moved_bytes;
    c->live_bytes = b->live_bytes;
    c->live_chunks = b->live_chunks;
    c->sealed = b->sealed;
    c->read_only = true;
    c->stats = b->stats;
    c->stats.bytes_read = 0;
    c->stats.chunks_read = 0;
    c->stats.readaheads_succeeded = 0;
    c->stats.readaheads_failed = 0;
    c->rd = b->rd > tbuf_oldest_age(b) ? b->rd : tbuf_oldest_age(b);
    c->walk = b->walk;
    c->rewalk = true;
    if (c->rd < c->lap) {
        copy_records(c, b, c->rd + b->size - b->lap, b->end);
        copy_records(c, b, 0, b->wr);
    } else {
        copy_records(c, b, c->rd - b->lap, b->wr);
    }
    *out = c;
    return 0;
}
