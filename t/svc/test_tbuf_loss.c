/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loss is flagged exactly: honest writers number their packets; whatever the ring does to them, a
 * packet that comes out right after its predecessor carries no loss, and one that does not carries
 * some; nothing comes out twice, out of order, damaged or made up. This knows nothing of how the
 * buffer works, only what was written.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"

#define WRITERS 8
#define CHUNK   508
#define HELD    4 /* chunks of a writer that are in its SMB at a time */

static uint64_t state;

static uint32_t rnd(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

struct smb_chunk {
    uint32_t id;
    uint8_t payload[CHUNK];
    uint32_t used;
    uint32_t count;
    uint32_t patch_at; /* offset of a hole in the last fragment, 0: none */
    uint8_t patch[4];
    unsigned flags;
    bool closed; /* the writer is done with it */
    bool valid;
};

struct writer {
    uint16_t id;
    uint32_t next_chunk;
    uint32_t next_packet;
    struct smb_chunk held[HELD];
    unsigned open; /* index in held */
    /* the packet in the making */
    uint32_t left;
    uint32_t at;
    /* what came out */
    bool got_any;
    uint32_t got;
    uint64_t packets;
    uint64_t losses;
};

static struct writer writers[WRITERS];

/* Byte i of packet n: its number first, then a pattern. */
static uint8_t byte_of(const struct writer *w, uint32_t n, uint32_t i)
{
    if (i < 4)
        return (uint8_t)(n >> (8 * i));
    return (uint8_t)(n * 7 + i * 13 + w->id);
}

static void open_chunk(struct writer *w)
{
    w->open = (w->open + 1) % HELD;
    struct smb_chunk *c = &w->held[w->open];
    memset(c, 0, sizeof(*c));
    c->id = w->next_chunk++;
    c->valid = true;
}

/* Starts or goes on with a fragment; true if the chunk is full afterwards. */
static bool write_fragment(struct writer *w, bool first)
{
    struct smb_chunk *c = &w->held[w->open];
    uint32_t room = CHUNK - c->used - 4;
    uint32_t n = w->left < room ? w->left : room;
    uint8_t *p = c->payload + c->used;
    if (!first)
        c->flags |= TBUF_CHUNK_FIRST_CONTINUES;
    p[0] = (uint8_t)(n | 0x80);
    p[1] = (uint8_t)(n >> 7 | 0x80);
    p[2] = 0x80;
    p[3] = 0;
    for (uint32_t i = 0; i < n; i++)
        p[4 + i] = byte_of(w, w->next_packet, w->at + i);
    if (n < w->left && n >= 12 && rnd(2) == 0) {
        c->patch_at = c->used + 4 + 6;
        memcpy(c->patch, c->payload + c->patch_at, 4);
        memset(c->payload + c->patch_at, 0, 4);
    }
    c->used += 4 + n;
    c->count++;
    w->at += n;
    w->left -= n;
    if (w->left > 0)
        c->flags |= TBUF_CHUNK_LAST_CONTINUES | (c->patch_at != 0 ? TBUF_CHUNK_NEEDS_PATCHING : 0);
    return w->left > 0 || CHUNK - c->used < 5;
}

static void copy(struct tbuf *b, const struct writer *w, const struct smb_chunk *c, bool complete)
{
    if (!complete && c->count < 2)
        return; /* scraping leaves such a chunk alone */
    struct tbuf_chunk_in in = {.producer_id = 3,
                               .writer_id = w->id,
                               .chunk_id = c->id,
                               .num_fragments = (uint16_t)c->count,
                               .flags = (uint8_t)c->flags,
                               .complete = complete,
                               .payload = c->payload,
                               .payload_size = CHUNK};
    tbuf_copy_chunk(b, &in);
}

static void late_patch(struct tbuf *b, const struct writer *w, const struct smb_chunk *c)
{
    struct tbuf_patch p = {.offset = c->patch_at};
    memcpy(p.data, c->patch, 4);
    if (c->patch_at != 0)
        tbuf_patch(b, 3, w->id, c->id, &p, 1, false);
}

static void step_write(struct tbuf *b, struct writer *w)
{
    if (!w->held[w->open].valid || w->held[w->open].closed)
        open_chunk(w);
    struct smb_chunk *c = &w->held[w->open];
    bool first = w->left == 0;
    if (first) {
        w->at = 0;
        w->left = 4 + rnd(rnd(8) == 0 ? 1500 : 60);
    }
    bool full = write_fragment(w, first);
    bool done = w->left == 0;
    if (done)
        w->next_packet++;
    if (full || rnd(20) == 0) {
        c->closed = true;
        if (rnd(30) != 0) /* else it is lost on the way */
            copy(b, w, c, true);
        if (rnd(8) != 0)
            late_patch(b, w, c); /* else the patch never comes */
    }
}

/* All open chunks of all writers, as a flush does. */
static void scrape(struct tbuf *b)
{
    for (int i = 0; i < WRITERS; i++) {
        struct writer *w = &writers[i];
        if (w->held[w->open].valid && !w->held[w->open].closed)
            copy(b, w, &w->held[w->open], false);
    }
}

static void check(const struct tbuf_packet *k)
{
    struct writer *w = &writers[k->writer_id - 1];
    uint32_t n = 0;
    uint32_t at = 0;
    cr_assert_geq(k->size, 4);
    for (size_t s = 0; s < k->num_slices; s++) {
        const uint8_t *p = k->slices[s].iov_base;
        for (size_t i = 0; i < k->slices[s].iov_len; i++, at++) {
            if (at < 4)
                n |= (uint32_t)p[i] << (8 * at);
            else
                cr_assert_eq(p[i], byte_of(w, n, at), "writer %u packet %u byte %u", w->id, n, at);
        }
    }
    if (w->got_any) {
        cr_assert_gt(n, w->got, "writer %u: packet %u after %u", w->id, n, w->got);
        if (n == w->got + 1)
            cr_assert_eq(k->loss, 0, "writer %u: packet %u flagged %u, nothing is missing", w->id,
                         n, k->loss);
        else
            cr_assert_neq(k->loss, 0, "writer %u: %u to %u is missing without a flag", w->id,
                          w->got + 1, n - 1);
    }
    w->losses += k->loss != 0;
    w->got_any = true;
    w->got = n;
    w->packets++;
}

static void read_some(struct tbuf *b, uint32_t max)
{
    struct tbuf_packet k;
    tbuf_read_begin(b);
    for (uint32_t i = 0; i < max; i++) {
        enum tbuf_read_result rc = tbuf_read_next(b, &k);
        if (rc == TBUF_READ_EMPTY)
            break;
        if (rc == TBUF_READ_PACKET)
            check(&k);
    }
}

/* `reads`: one step in so many is a read. */
static void run(uint64_t seed, uint64_t size, uint32_t reads, uint64_t restart_min)
{
    struct tbuf *b = NULL;
    state = seed;
    memset(writers, 0, sizeof(writers));
    for (int i = 0; i < WRITERS; i++) {
        writers[i].id = (uint16_t)(i + 1);
        writers[i].next_chunk = rnd(2) == 0 ? 0 : (uint32_t)-20;
    }
    cr_assert_eq(tbuf_new(size, TBUF_RING, 0, &b), 0);
    b->restart_min = restart_min;
    for (int i = 0; i < 20000; i++) {
        if (rnd(reads) == 0)
            read_some(b, rnd(2) == 0 ? rnd(10) : UINT32_MAX);
        else if (rnd(15) == 0)
            scrape(b);
        else
            step_write(b, &writers[rnd(WRITERS)]);
    }
    uint64_t packets = 0;
    for (int i = 0; i < WRITERS; i++)
        packets += writers[i].packets;
    cr_assert_gt(packets, 100, "hardly anything came out");
    tbuf_free(b);
}

Test(tbuf_loss, a_fast_reader)
{
    for (uint64_t seed = 1; seed < 20; seed++)
        run(seed, 65536, 4, 0);
}

Test(tbuf_loss, a_slow_reader)
{
    for (uint64_t seed = 100; seed < 120; seed++)
        run(seed, 16384, 60, 4096);
}

Test(tbuf_loss, a_reader_that_is_often_overrun)
{
    for (uint64_t seed = 200; seed < 220; seed++)
        run(seed, 4096, 15, UINT64_MAX);
}
