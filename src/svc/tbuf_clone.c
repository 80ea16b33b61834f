/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-only clones of a trace buffer, made piece by piece.
 *
 * A clone shows the buffer at one moment, while copying takes many slices of the loop. So the
 * source keeps a list of the clones in the making and calls tbuf_clone_keep() before it changes
 * anything that was there at that moment: the blocks of 4 KiB that are touched are copied then, out
 * of turn, if they are not copied yet; sequences likewise (tbuf_seqcopy_before). The walk over the
 * records reads each header where the moment is preserved: in the clone if its block is there, in
 * the source otherwise. Nothing is copied twice, and a source that nobody clones pays one test.
 * States of ProtoVMs are copied in the same way, each as a whole.
 *
 * A clone keeps the places of the records, so that positions and ages are copied as they are; order
 * lists are made again from the records. Of a run of GONE records only the first header is copied,
 * and says how far to hop, so a clone of a buffer that is read regularly takes little memory and
 * time. When it is complete nothing is shared between the two.
 *
 * Invariant: a block that is not kept has in the source what it had at the begin, except for bytes
 * that belonged to no record then.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/log.h"
#include "svc/tbuf_ring.h"
#include "svc/tbuf_seqcopy.h"
#include "svc/tbuf_vm.h"

#define BLOCK  4096u
#define SLOTS  256u /* sequences kept per step of the sweep */
#define NO_RUN UINT64_MAX

struct tbuf_clone {
    struct tbuf_clone *next; /* ref: in from->clones */
    struct tbuf *from;       /* ref: not freed before this */
    struct tbuf *to;         /* own */
    struct tbuf_seqcopy seqs;
    uint64_t *kept; /* own: a bit for each block */
    uint64_t at;    /* place: where the walk stands */
    uint64_t end;   /* of this lap's records */
    bool next_lap;  /* the newest lap is still to come */
    bool walked;    /* all records are copied */
    uint64_t run;   /* place of the first GONE record of a run, or NO_RUN */
    bool swept;     /* all sequences are copied */
    uint32_t vm;    /* number of the next ProtoVM */
};

/* ---- blocks ---- */

static bool is_kept(const struct tbuf_clone *k, uint64_t block)
{
    return (k->kept[block / 64] >> block % 64 & 1) != 0;
}

/* Copies the blocks of this range that are not there yet; returns their bytes. */
static size_t keep(struct tbuf_clone *k, uint64_t place, uint64_t bytes)
{
    uint64_t used = k->to->used;
    size_t copied = 0;
    for (uint64_t i = place / BLOCK; i * BLOCK < place + bytes && i * BLOCK < used; i++) {
        if (is_kept(k, i))
            continue;
        k->kept[i / 64] |= UINT64_C(1) << i % 64;
        uint64_t left = used - i * BLOCK;
        uint64_t n = left < BLOCK ? left : BLOCK;
        memcpy(k->to->mem + i * BLOCK, k->from->mem + i * BLOCK, n);
        copied += n;
    }
    return copied;
}

void tbuf_clone_keep(struct tbuf *b, const void *p, uint64_t bytes)
{
    uint64_t place = (uint64_t)((const uint8_t *)p - b->mem);
    for (struct tbuf_clone *k = b->clones; k != NULL; k = k->next)
        keep(k, place, bytes);
}

size_t tbuf_clone_keep_vm(struct tbuf *b, uint32_t vm)
{
    size_t work = 0;
    for (struct tbuf_clone *k = b->clones; k != NULL; k = k->next)
        work += tbuf_vm_copy_state(k->to, b, vm);
    return work;
}

/* ---- the walk over the records ---- */

static void end_run(struct tbuf_clone *k, uint64_t at)
{
    if (k->run != NO_RUN)
        tbuf_rec_at(k->to, k->run)->id = (uint32_t)((at - k->run) >> 4);
    k->run = NO_RUN;
}

/* Copies the record where the walk stands and goes on to the next; returns the bytes of work. */
static size_t visit(struct tbuf_clone *k)
{
    struct tbuf_rec r = *tbuf_rec_at(is_kept(k, k->at / BLOCK) ? k->to : k->from, k->at);
    size_t work = sizeof(r);
    if ((r.flags & TBUF_REC_GONE) == 0) {
        struct tbuf_ent e = {r.id, (uint32_t)(k->at >> 4)};
        end_run(k, k->at);
        work += keep(k, k->at, TBUF_REC_HDR + (uint64_t)r.payload);
        work += tbuf_seqcopy_add(&k->seqs, r.seq, e);
        k->at += tbuf_rec_size(r.room);
        return work;
    }
    if (k->run == NO_RUN) {
        work += keep(k, k->at, TBUF_REC_HDR);
        k->run = k->at;
    }
    k->at += r.id != 0 ? (uint64_t)r.id << 4 : tbuf_rec_size(r.room);
    return work;
}

/* The end of a lap. */
static void turn(struct tbuf_clone *k)
{
    end_run(k, k->end);
    k->walked = !k->next_lap;
    k->next_lap = false;
    k->at = 0;
    k->end = k->to->wr;
}

bool tbuf_clone_step(struct tbuf_clone *k, size_t max_bytes, size_t *bytes)
{
    size_t done = 0;
    while (!k->walked && done < max_bytes) {
        if (k->at < k->end)
            done += visit(k);
        else
            turn(k);
    }
    while (k->walked && !k->swept && done < max_bytes) {
        k->swept = !tbuf_seqcopy_sweep(&k->seqs, SLOTS);
        done += SLOTS * sizeof(struct tbuf_seq_info);
    }
    while (k->swept && k->vm < tbuf_vm_count(k->to) && done < max_bytes)
        done += tbuf_vm_copy_state(k->to, k->from, k->vm++);
    *bytes = done;
    return !k->seqs.failed && (!k->swept || k->vm < tbuf_vm_count(k->to));
}

/* ---- begin and end ---- */

static void take_moment(struct tbuf *c, const struct tbuf *b)
{
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
}

int tbuf_clone_begin(struct tbuf *b, struct tbuf_clone **out)
{
    struct tbuf_clone *k = calloc(1, sizeof(*k));
    struct tbuf *c = calloc(1, sizeof(*c));
    uint64_t *kept = calloc(b->used / BLOCK / 64 + 1, sizeof(*kept));
    if (k == NULL || c == NULL || kept == NULL || tbuf_ring_init(c, b->size) != 0)
        goto fail;
    if (tbuf_seqcopy_begin(&k->seqs, &c->seqs, &b->seqs) != 0)
        goto fail;
    take_moment(c, b);
    if (tbuf_vm_copy(c, b) != 0)
        log_warn("a clone of a buffer goes without its ProtoVMs: no memory for them");
    k->from = b;
    k->to = c;
    k->kept = kept;
    k->run = NO_RUN;
    k->next_lap = c->rd < c->lap;
    k->at = k->next_lap ? c->rd + c->size - c->lap : c->rd - c->lap;
    k->end = k->next_lap ? c->end : c->wr;
    k->next = b->clones;
    b->clones = k;
    *out = k;
    return 0;
fail:
    tbuf_free(c);
    free(kept);
    free(k);
    return -ENOMEM;
}

/* Leaves the source, and frees it if it waits for that; k and the copy are still there. */
static void leave(struct tbuf_clone *k)
{
    struct tbuf *b = k->from;
    struct tbuf_clone **at = &b->clones;
    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    tbuf_seqcopy_end(&k->seqs);
    if (b->clones == NULL && b->freed)
        tbuf_free(b);
}

struct tbuf *tbuf_clone_target(const struct tbuf_clone *k)
{
    return k->to;
}

int tbuf_clone_finish(struct tbuf_clone *k, struct tbuf **out)
{
    size_t bytes;
    while (tbuf_clone_step(k, SIZE_MAX, &bytes))
        continue;
    if (k->seqs.failed) {
        tbuf_clone_cancel(k);
        return -ENOMEM;
    }
    leave(k);
    *out = k->to;
    free(k->kept);
    free(k);
    return 0;
}

void tbuf_clone_cancel(struct tbuf_clone *k)
{
    if (k == NULL)
        return;
    leave(k);
    tbuf_free(k->to);
    free(k->kept);
    free(k);
}

int tbuf_clone_read_only(struct tbuf *b, struct tbuf **out)
{
    struct tbuf_clone *k;
    int err = tbuf_clone_begin(b, &k);
    return err != 0 ? err : tbuf_clone_finish(k, out);
}
