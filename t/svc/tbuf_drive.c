/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The differential driver. Its writers are half honest: most chunks are made as a writer makes
 * them, fragments chained from chunk to chunk, scraped early and committed later; the rest is
 * noise.
 */
#include "tbuf_drive.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"
#include "tbuf_model.h"

#define WRITERS 6
#define RECENT  32
#define CHUNK   700

/* A chunk as its writer would have it in the end. */
struct made {
    uint16_t producer, writer;
    uint32_t id;
    uint8_t payload[CHUNK];
    uint32_t size;  /* of the whole chunk */
    uint32_t count; /* fragments */
    uint32_t ends[64];
    unsigned flags;
    bool valid;
};

struct writer {
    uint16_t producer, writer;
    uint32_t next_id;
    bool open; /* the packet goes on in the next chunk */
};

struct drive {
    struct drive_source src;
    struct tbuf *buf;
    struct model *model;
    struct tbuf *clone;
    struct model *clone_model;
    struct tbuf_clone *making; /* a clone that is being copied while the rest goes on */
    struct model *making_model;
    struct writer writers[WRITERS];
    unsigned num_writers;
    struct made recent[RECENT];
    unsigned at;
    uint32_t max_chunk;
    bool closed_any;
    uint64_t steps, packets, parts;
    char text[512];
};

static uint32_t rnd(struct drive *d, uint32_t n)
{
    return d->src.next(d->src.arg) % n;
}

static bool one_in(struct drive *d, uint32_t n)
{
    return rnd(d, n) == 0;
}

static const char *differ(struct drive *d, const char *fmt, ...)
{
    int n = snprintf(d->text, sizeof(d->text), "step %llu: ", (unsigned long long)d->steps);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->text + n, sizeof(d->text) - (size_t)n, fmt, ap);
    va_end(ap);
    return d->text;
}

struct drive *drive_new(struct drive_source src)
{
    struct drive *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return NULL;
    d->src = src;
    uint64_t size = 4096 * (uint64_t)(1 + rnd(d, 6));
    enum tbuf_policy policy = one_in(d, 6) ? TBUF_DISCARD : TBUF_RING;
    uint64_t restart_min = one_in(d, 3) ? 0 : 1 + rnd(d, 4096);
    d->num_writers = 1 + rnd(d, WRITERS);
    d->max_chunk = one_in(d, 3) ? 64 : CHUNK;
    if (tbuf_new(size, policy, 0, &d->buf) != 0) {
        free(d);
        return NULL;
    }
    d->buf->restart_min = restart_min;
    if (one_in(d, 3))
        d->buf->part_max = 1 + rnd(d, 600); /* large packets come in parts */
    d->model = model_new(size, policy, restart_min);
    for (unsigned i = 0; i < WRITERS; i++) {
        struct writer *w = &d->writers[i];
        w->producer = (uint16_t)(1 + i % 3);
        w->writer = (uint16_t)(1 + i);
        w->next_id = one_in(d, 2) ? 0 : (uint32_t)-3 + rnd(d, 6);
    }
    return d;
}

void drive_free(struct drive *d)
{
    tbuf_free(d->buf); /* before the clone of it is given up */
    tbuf_clone_cancel(d->making);
    tbuf_free(d->clone);
    model_free(d->model);
    model_free(d->clone_model);
    model_free(d->making_model);
    free(d);
}

uint64_t drive_packets(const struct drive *d)
{
    return d->packets;
}

/* ---- comparison ---- */

static const char *same_state(struct drive *d, const struct tbuf *b, const struct model *m)
{
    const struct tbuf_stats *x = tbuf_stats(b);
    const struct tbuf_stats *y = model_stats(m);
    struct {
        const char *name;
        size_t off;
    } const fields[] = {
#define F(name) {#name, offsetof(struct tbuf_stats, name)}
        F(buffer_size),
        F(bytes_written),
        F(bytes_overwritten),
        F(bytes_read),
        F(padding_bytes_written),
        F(padding_bytes_cleared),
        F(chunks_written),
        F(chunks_rewritten),
        F(chunks_relocated),
        F(chunks_overwritten),
        F(chunks_discarded),
        F(chunks_read),
        F(chunks_committed_out_of_order),
        F(write_wrap_count),
        F(patches_succeeded),
        F(patches_failed),
        F(readaheads_succeeded),
        F(readaheads_failed),
        F(abi_violations),
        F(trace_writer_packet_loss),
        F(chunks_stale),
        F(chunks_no_memory),
#undef F
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        uint64_t a;
        uint64_t z;
        memcpy(&a, (const char *)x + fields[i].off, sizeof(a));
        memcpy(&z, (const char *)y + fields[i].off, sizeof(z));
        if (a != z)
            return differ(d, "%s is %llu, the model has %llu", fields[i].name,
                          (unsigned long long)a, (unsigned long long)z);
    }
    if (tbuf_used_size(b) != model_used(m))
        return differ(d, "used size");
    if (tbuf_room_to_end(b) != model_room_to_end(m))
        return differ(d, "room to end");
    if (!tbuf_is_read_only(b) && x->bytes_written - x->bytes_read - x->bytes_overwritten +
                                         x->padding_bytes_written - x->padding_bytes_cleared !=
                                     model_in_use(m))
        return differ(d, "R86 does not give the bytes in use");
    return NULL;
}

/* Reads the other parts of a large packet into *k, as one. */
static bool whole_packet(struct drive *d, struct tbuf *b, struct tbuf_packet *k)
{
    static struct iovec slices[4096];
    static uint8_t bytes[1 << 20];
    size_t used = 0;
    size_t n = 0;
    uint64_t size = 0;
    struct tbuf_packet p = *k;
    for (;;) {
        for (size_t i = 0; i < p.num_slices; i++) {
            /* Copied, as the interface demands. */
            memcpy(bytes + used, p.slices[i].iov_base, p.slices[i].iov_len);
            slices[n++] = (struct iovec){bytes + used, p.slices[i].iov_len};
            used += p.slices[i].iov_len;
        }
        size += p.size;
        if (!p.more)
            break;
        if (tbuf_read_next(b, &p) != TBUF_READ_PACKET || p.sequence != k->sequence ||
            p.loss != k->loss)
            return false;
        d->parts++;
    }
    k->slices = slices;
    k->num_slices = n;
    k->size = size;
    return true;
}

static const char *same_packet(struct drive *d, const struct tbuf_packet *k,
                               const struct model_packet *w)
{
    size_t at = 0;
    if (k->producer_id != w->producer_id || k->writer_id != w->writer_id)
        return differ(d, "packet of %u/%u, the model has one of %u/%u", k->producer_id,
                      k->writer_id, w->producer_id, w->writer_id);
    if (k->loss != w->loss)
        return differ(d, "loss %u, the model has %u", k->loss, w->loss);
    if (k->size != w->size || k->num_slices != w->num_slices)
        return differ(d, "%zu slices, %zu bytes; the model has %zu, %zu", k->num_slices,
                      (size_t)k->size, w->num_slices, w->size);
    if (k->first_on_sequence != w->first || memcmp(&k->client, &w->client, sizeof(k->client)) != 0)
        return differ(d, "sequence properties");
    for (size_t i = 0; i < k->num_slices; i++) {
        if (k->slices[i].iov_len == 0)
            return differ(d, "an empty slice");
        if (i < 4096 && k->slices[i].iov_len != w->lens[i])
            return differ(d, "length of slice %zu", i);
        if (memcmp(k->slices[i].iov_base, w->bytes + at, k->slices[i].iov_len) != 0)
            return differ(d, "content of slice %zu", i);
        at += k->slices[i].iov_len;
    }
    return NULL;
}

/* ---- operations ---- */

static const char *copy(struct drive *d, const struct tbuf_chunk_in *in)
{
    struct tbuf_chunk_in mine = *in;
    /* Exactly as large as it says, so that a read behind it is noticed. */
    uint8_t *exact = malloc(in->payload_size != 0 ? in->payload_size : 1);
    if (exact == NULL)
        return NULL;
    memcpy(exact, in->payload, in->payload_size);
    mine.payload = exact;
    enum tbuf_outcome got = tbuf_copy_chunk(d->buf, &mine);
    enum tbuf_outcome want = model_copy(d->model, in);
    free(exact);
    if (got != want)
        return differ(d, "copy of %u/%u/%u: outcome %d, the model has %d", in->producer_id,
                      in->writer_id, in->chunk_id, (int)got, (int)want);
    return NULL;
}

static uint32_t put_size(struct drive *d, uint8_t *p, uint32_t size)
{
    if (size < 128 && !one_in(d, 4)) {
        p[0] = (uint8_t)size;
        return 1;
    }
    p[0] = (uint8_t)(size | 0x80);
    p[1] = (uint8_t)((size >> 7) | 0x80);
    p[2] = 0x80;
    p[3] = 0;
    return 4;
}

static void make_chunk(struct drive *d, struct writer *w, struct made *c)
{
    memset(c, 0, sizeof(*c));
    c->producer = w->producer;
    c->writer = w->writer;
    c->id = w->next_id;
    c->valid = true;
    c->flags = w->open ? TBUF_CHUNK_FIRST_CONTINUES : 0;
    w->open = false;
    uint32_t limit = 8 + rnd(d, d->max_chunk - 8);
    uint32_t used = 0;
    uint32_t want = rnd(d, 12);
    while (c->count < want && used + 5 <= limit) {
        uint32_t size = one_in(d, 6) ? 0 : rnd(d, one_in(d, 4) ? limit : 40);
        if (size > limit - used - 4)
            size = limit - used - 4;
        used += put_size(d, c->payload + used, size);
        for (uint32_t i = 0; i < size; i++)
            c->payload[used + i] = (uint8_t)(c->id * 31 + c->count * 7 + i);
        used += size;
        c->ends[c->count++] = used;
    }
    if (one_in(d, 12) && used + 4 <= limit) {
        memcpy(c->payload + used, "\xff\xff\xff\x7f", 4);
        used += 4;
        c->ends[c->count++] = used;
    } else if (c->count > 0 && one_in(d, 3)) {
        c->flags |= TBUF_CHUNK_LAST_CONTINUES;
        w->open = true;
        if (one_in(d, 3))
            c->flags |= TBUF_CHUNK_NEEDS_PATCHING;
    } else if (used < limit && one_in(d, 2)) {
        c->payload[used++] = 0;
        c->ends[c->count++] = used;
    }
    c->size = one_in(d, 2) ? used : limit;
}

/* A made chunk as it would be seen now: whole, or scraped with fewer fragments. */
static const char *commit(struct drive *d, const struct made *c, bool complete)
{
    struct tbuf_chunk_in in = {.producer_id = c->producer,
                               .writer_id = c->writer,
                               .chunk_id = c->id,
                               .num_fragments = (uint16_t)c->count,
                               .flags = (uint8_t)c->flags,
                               .complete = complete,
                               .payload = c->payload,
                               .payload_size = c->size,
                               .client = {c->producer * 10, c->writer, 0, c->producer}};
    if (!complete && c->count > 0 && !one_in(d, 3))
        in.num_fragments = (uint16_t)(1 + rnd(d, c->count));
    if (one_in(d, 40))
        in.num_fragments = (uint16_t)(in.num_fragments + rnd(d, 4));
    if (one_in(d, 60))
        in.flags = (uint8_t)rnd(d, 256);
    return copy(d, &in);
}

static const char *op_write(struct drive *d)
{
    struct writer *w = &d->writers[rnd(d, d->num_writers)];
    struct made *c = &d->recent[d->at++ % RECENT];
    make_chunk(d, w, c);
    w->next_id++;
    if (one_in(d, 30))
        w->next_id += rnd(d, 4);
    if (one_in(d, 15))
        return NULL; /* lost, or only late */
    return commit(d, c, !one_in(d, 4));
}

static const char *op_recommit(struct drive *d)
{
    const struct made *c = &d->recent[rnd(d, RECENT)];
    return c->valid ? commit(d, c, !one_in(d, 3)) : NULL;
}

static const char *op_noise(struct drive *d)
{
    uint8_t payload[CHUNK];
    struct writer *w = &d->writers[rnd(d, d->num_writers)];
    struct tbuf_chunk_in in = {.producer_id = w->producer,
                               .writer_id = w->writer,
                               .chunk_id = w->next_id + rnd(d, 12) - 8,
                               .num_fragments = (uint16_t)rnd(d, one_in(d, 4) ? 1024 : 8),
                               .flags = (uint8_t)rnd(d, 8),
                               .complete = !one_in(d, 3),
                               .payload = payload,
                               .payload_size = rnd(d, one_in(d, 4) ? CHUNK : 40),
                               .client = {1, 2, 3, 4}};
    if (one_in(d, 8))
        in.chunk_id = one_in(d, 2) ? rnd(d, UINT32_MAX) : in.chunk_id + 0x80000000u - rnd(d, 3);
    uint32_t mode = rnd(d, 4);
    for (uint32_t i = 0; i < in.payload_size; i++)
        payload[i] = mode == 0 ? (uint8_t)rnd(d, 256) : (uint8_t)(rnd(d, mode * 6));
    return copy(d, &in);
}

static const char *op_patch(struct drive *d)
{
    const struct made *c = &d->recent[rnd(d, RECENT)];
    struct tbuf_patch p[3];
    size_t n = rnd(d, 4);
    for (size_t i = 0; i < n; i++) {
        p[i].offset = one_in(d, 20) ? rnd(d, UINT32_MAX) : rnd(d, c->size + 1);
        for (int k = 0; k < 4; k++)
            p[i].data[k] = (uint8_t)(one_in(d, 10) ? rnd(d, 256) : 0x20);
    }
    if (one_in(d, 2))
        n = 0;
    bool more = one_in(d, 4);
    bool got = tbuf_patch(d->buf, c->producer, c->writer, c->id, p, n, more);
    bool want = model_patch(d->model, c->producer, c->writer, c->id, p, n, more);
    return got == want ? NULL : differ(d, "patch %d, the model has %d", got, want);
}

static const char *read_some(struct drive *d, struct tbuf *b, struct model *m, uint32_t max)
{
    static struct model_packet w;
    struct tbuf_packet k;
    const char *bad = NULL;
    tbuf_read_begin(b);
    model_begin(m);
    for (uint32_t i = 0; i < max && bad == NULL; i++) {
        enum tbuf_read_result rc;
        do {
            rc = tbuf_read_next(b, &k);
        } while (rc == TBUF_READ_AGAIN);
        bool have = model_next(m, &w);
        if (have != (rc == TBUF_READ_PACKET))
            return differ(d, "%s to read, not so in the model", have ? "nothing" : "something");
        if (!have)
            break;
        d->packets++;
        if (k.more && !whole_packet(d, b, &k))
            return differ(d, "a part is missing");
        bad = same_packet(d, &k, &w);
        if (bad == NULL && !d->closed_any && one_in(d, 50)) {
            tbuf_read_refuse(b, &k);
            model_refuse(m, k.producer_id, k.writer_id, k.loss);
        }
    }
    return bad != NULL ? bad : same_state(d, b, m);
}

/* The clone is complete: from now on reads compare it. */
static const char *take_clone(struct drive *d, struct tbuf *clone, struct model *model)
{
    tbuf_free(d->clone);
    model_free(d->clone_model);
    d->clone = clone;
    d->clone_model = model;
    return same_state(d, clone, model);
}

static const char *op_clone(struct drive *d)
{
    struct tbuf *clone;
    if (tbuf_clone_read_only(d->buf, &clone) != 0)
        return differ(d, "no clone");
    return take_clone(d, clone, model_clone(d->model));
}

/* Begins a clone, goes on with it a little, or ends it; the other operations come in between. */
static const char *op_clone_slowly(struct drive *d)
{
    size_t bytes;
    struct tbuf *clone;
    struct model *model = d->making_model;
    if (d->making == NULL) {
        if (tbuf_clone_begin(d->buf, &d->making) != 0)
            return differ(d, "no clone");
        d->making_model = model_clone(d->model);
        model_hold(d->model, true);
        return same_state(d, tbuf_clone_target(d->making), d->making_model);
    }
    bool more = tbuf_clone_step(d->making, 1 + rnd(d, 3000), &bytes);
    if (more && !one_in(d, 8))
        return NULL;
    struct tbuf_clone *k = d->making;
    d->making = NULL;
    d->making_model = NULL;
    model_hold(d->model, false);
    if (one_in(d, 12)) {
        tbuf_clone_cancel(k);
        model_free(model);
        return NULL;
    }
    if (tbuf_clone_finish(k, &clone) != 0)
        return differ(d, "no clone");
    return take_clone(d, clone, model);
}

const char *drive_step(struct drive *d)
{
    const char *bad = NULL;
    d->steps++;
    uint32_t op = rnd(d, 100);
    if (op < 41) {
        bad = op_write(d);
    } else if (op < 45) {
        bad = op_clone_slowly(d);
    } else if (op < 60) {
        bad = op_recommit(d);
    } else if (op < 64) {
        bad = op_noise(d);
    } else if (op < 74) {
        bad = op_patch(d);
    } else if (op < 95) {
        bad = read_some(d, d->buf, d->model, one_in(d, 3) ? UINT32_MAX : rnd(d, 6));
    } else if (op < 97) {
        bad = op_clone(d);
    } else if (op < 99) {
        if (d->clone != NULL)
            bad = read_some(d, d->clone, d->clone_model, one_in(d, 3) ? UINT32_MAX : rnd(d, 20));
    } else if (one_in(d, 10)) {
        uint16_t producer = (uint16_t)(1 + rnd(d, 3));
        tbuf_producer_gone(d->buf, producer);
        model_producer_gone(d->model, producer);
        d->closed_any = true;
    } else {
        tbuf_prefault(d->buf, 1u << 16);
    }
    return bad != NULL ? bad : same_state(d, d->buf, d->model);
}
