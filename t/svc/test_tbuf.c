/* SPDX-License-Identifier: Apache-2.0 */
/* The trace buffer: the procedures of spec/trace_buffer.md section 19 (by id), its memory, its
 * bounds under hostile input, and what the interface adds to the document. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"

static uint64_t state = 1;

static uint32_t rnd(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static struct tbuf *make(uint64_t size, enum tbuf_policy policy)
{
    struct tbuf *b = NULL;
    cr_assert_eq(tbuf_new(size, policy, 0, &b), 0);
    return b;
}

/* Copies a chunk of one fragment of n bytes of `letter`. */
static enum tbuf_outcome put(struct tbuf *b, uint16_t producer, uint16_t writer, uint32_t chunk,
                             unsigned flags, char letter, uint32_t n)
{
    static uint8_t payload[65600];
    payload[0] = (uint8_t)(n | 0x80);
    payload[1] = (uint8_t)(n >> 7 | 0x80);
    payload[2] = (uint8_t)(n >> 14 | 0x80);
    payload[3] = 0;
    memset(payload + 4, letter, n);
    struct tbuf_chunk_in in = {.producer_id = producer,
                               .writer_id = writer,
                               .chunk_id = chunk,
                               .num_fragments = 1,
                               .flags = (uint8_t)flags,
                               .complete = true,
                               .payload = payload,
                               .payload_size = n + 4,
                               .client = {1000, 99, 0, producer}};
    return tbuf_copy_chunk(b, &in);
}

static bool next(struct tbuf *b, struct tbuf_packet *k)
{
    enum tbuf_read_result rc;
    do {
        rc = tbuf_read_next(b, k);
    } while (rc == TBUF_READ_AGAIN);
    return rc == TBUF_READ_PACKET;
}

static uint64_t drain(struct tbuf *b)
{
    struct tbuf_packet k;
    uint64_t n = 0;
    tbuf_read_begin(b);
    while (next(b, &k))
        n++;
    return n;
}

#define TOTAL(n) ((n)-4u) /* payload of a record of n bytes less its header, with a 4-byte size */

/* ---- procedures of section 19 ---- */

Test(tbuf, A03_one_chunk_per_writer)
{
    for (uint16_t n = 1; n <= 10; n++) {
        struct tbuf *b = make(4096, TBUF_RING);
        struct tbuf_packet k;
        for (uint16_t i = 1; i <= n; i++)
            put(b, i, i, i, 0, 'a', 12);
        tbuf_read_begin(b);
        for (uint16_t i = 1; i <= n; i++) {
            cr_assert(next(b, &k));
            cr_assert_eq(k.writer_id, i);
        }
        cr_assert_not(next(b, &k));
        tbuf_free(b);
    }
}

Test(tbuf, A07_random_chunks_without_wrapping)
{
    for (uint64_t seed = 1; seed <= 32; seed++) {
        state = seed;
        uint64_t size = 4096 * (uint64_t)(1 + rnd(32));
        struct tbuf *b = make(size, TBUF_RING);
        struct {
            uint16_t producer, writer;
            uint32_t bytes;
        } put_in[8192];
        uint32_t n = 0;
        for (;; n++) {
            uint32_t record = 32 + rnd(4096 - 32);
            if (tbuf_room_to_end(b) <= ((record + 15) & ~15u))
                break;
            put_in[n].producer = (uint16_t)(1 + rnd(65535));
            put_in[n].writer = (uint16_t)(1 + rnd(32767));
            put_in[n].bytes = record - 16 - 4;
            put(b, put_in[n].producer, put_in[n].writer, n, 0, 'z', record - 16 - 4);
        }
        struct tbuf_packet k;
        tbuf_read_begin(b);
        for (uint32_t i = 0; i < n; i++) {
            cr_assert(next(b, &k));
            cr_assert_eq(k.producer_id, put_in[i].producer);
            cr_assert_eq(k.writer_id, put_in[i].writer);
            cr_assert_eq(k.size, put_in[i].bytes);
        }
        cr_assert_not(next(b, &k));
        tbuf_free(b);
    }
}

Test(tbuf, B11_long_packets)
{
    for (uint32_t len = 1; len <= 10; len++) {
        struct tbuf *b = make(4096, TBUF_RING);
        struct tbuf_packet k;
        put(b, 1, 1, 0, TBUF_CHUNK_LAST_CONTINUES, 'b', 16);
        for (uint32_t i = 0; i < len; i++)
            put(b, 1, 1, i + 1, TBUF_CHUNK_FIRST_CONTINUES | TBUF_CHUNK_LAST_CONTINUES,
                (char)('c' + i), 16 + i);
        put(b, 1, 1, len + 1, TBUF_CHUNK_FIRST_CONTINUES, 'y', 26);
        tbuf_read_begin(b);
        cr_assert(next(b, &k));
        cr_assert_eq(k.num_slices, len + 2);
        cr_assert_eq(k.loss, 0);
        for (uint32_t i = 0; i < len; i++) {
            cr_assert_eq(k.slices[i + 1].iov_len, 16 + i);
            cr_assert_eq(*(const char *)k.slices[i + 1].iov_base, (char)('c' + i));
        }
        cr_assert_not(next(b, &k));
        tbuf_free(b);
    }
}

static void permute(uint32_t *order, uint32_t n, void (*each)(const uint32_t *order))
{
    if (n == 1) {
        each(order);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        permute(order, n - 1, each);
        uint32_t other = n % 2 == 0 ? i : 0;
        uint32_t t = order[other];
        order[other] = order[n - 1];
        order[n - 1] = t;
    }
}

static unsigned orders;

static void commit_in_order(const uint32_t *order)
{
    struct tbuf *b = make(4096, TBUF_RING);
    struct tbuf_packet k;
    for (int i = 0; i < 5; i++) {
        uint32_t n = order[i];
        put(b, 1, 1, UINT32_MAX - 1 + n,
            (n > 0 ? TBUF_CHUNK_FIRST_CONTINUES : 0) | (n < 4 ? TBUF_CHUNK_LAST_CONTINUES : 0),
            (char)('a' + n), 9);
    }
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(k.num_slices, 5);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(*(const char *)k.slices[i].iov_base, 'a' + i);
    cr_assert_not(next(b, &k));
    tbuf_free(b);
    orders++;
}

Test(tbuf, B12_packet_over_the_id_wrap_in_any_commit_order)
{
    uint32_t order[5] = {0, 1, 2, 3, 4};
    permute(order, 5, commit_in_order);
    cr_assert_eq(orders, 120);
}

static size_t resident(const struct tbuf *b)
{
    unsigned char in[4096];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t pages = (size_t)tbuf_size(b) / page;
    size_t n = 0;
    cr_assert_leq(pages, sizeof(in));
    cr_assert_eq(mincore(b->mem, (size_t)tbuf_size(b), in), 0);
    for (size_t i = 0; i < pages; i++)
        n += in[i] & 1u;
    return n;
}

Test(tbuf, I09_only_used_memory_is_resident)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct tbuf *b = make(32 * page, TBUF_RING);
    struct tbuf *c = NULL;
    cr_assert_eq(resident(b), 0);
    put(b, 1, 1, 0, 0, 'a', 1020);
    cr_assert_eq(resident(b), 1);
    cr_assert_eq(tbuf_clone_read_only(b, &c), 0);
    cr_assert_eq(resident(c), 1);
    cr_assert_eq(tbuf_used_size(c), tbuf_used_size(b));
    tbuf_free(b);
    cr_assert_eq(drain(c), 1);
    tbuf_free(c);
}

/* ---- creation ---- */

Test(tbuf, sizes)
{
    struct tbuf *b = NULL;
    cr_assert_eq(tbuf_new(0, TBUF_RING, 0, &b), -EINVAL);
    cr_assert_eq(tbuf_new(TBUF_SIZE_MAX + 1, TBUF_RING, 0, &b), -EINVAL);
    cr_assert_null(b);
    b = make(1, TBUF_RING);
    cr_assert_eq(tbuf_size(b), 4096);
    cr_assert_eq(tbuf_stats(b)->buffer_size, 4096);
    tbuf_free(b);
    b = make(4097, TBUF_DISCARD);
    cr_assert_eq(tbuf_size(b), 8192);
    cr_assert_eq(tbuf_policy(b), TBUF_DISCARD);
    tbuf_free(b);
    tbuf_free(NULL);
}

/* What this process has really taken. Not from statm, whose figures the kernel keeps per CPU and
 * adds up 256 KB late, nor with pages of our own program, which come as its code is first run. */
static long anon_kb(void)
{
    char line[128];
    long kb = -1;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    cr_assert_not_null(f);
    while (kb < 0 && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "Anonymous: %ld kB", &kb) != 1)
            kb = -1;
    }
    fclose(f);
    cr_assert_geq(kb, 0);
    return kb;
}

/* R22: what size_kb 4194303 rounds up to; memory is only taken as it is used. */
#ifdef WITH_ASAN
#define NOTHING_KB 4096 /* the sanitizer's shadow of what is looked at */
#else
#define NOTHING_KB 256
#endif

Test(tbuf, the_largest_buffer_takes_no_memory_before_data)
{
    long before = anon_kb();
    struct tbuf *b = make(TBUF_SIZE_MAX, TBUF_RING);
    cr_assert_lt(anon_kb() - before, NOTHING_KB);
    cr_assert_eq(tbuf_side_memory(b), 0);
    cr_assert_not(tbuf_has_data(b));
    put(b, 1, 1, 0, 0, 'a', 100);
    cr_assert(tbuf_has_data(b));
    cr_assert_eq(drain(b), 1);
    cr_assert_lt(anon_kb() - before, 8192);
    /* Offsets stay right beyond 2^31 and at the very end: place the cursor there by hand. */
    b->wr = b->end = TBUF_SIZE_MAX - 8192;
    b->used = b->wr;
    b->rd = b->walk_at = b->lap + b->wr;
    b->drained = false;
    for (uint32_t i = 1; i < 10; i++)
        cr_assert_eq(put(b, 1, 1, i, 0, 'a', TOTAL(2032)), TBUF_STORED);
    cr_assert_eq(tbuf_stats(b)->write_wrap_count, 1);
    cr_assert_eq(drain(b), 9);
    tbuf_free(b);
}

/* ---- memory beside the ring ---- */

/* At most 5 % for records of 512 bytes. */
Test(tbuf, side_memory_is_small)
{
    struct tbuf *b = make(16u << 20, TBUF_RING);
    for (uint32_t i = 0; i < 100000; i++)
        put(b, 1, 1, i, 0, 'a', TOTAL(496));
    cr_assert_lt(tbuf_side_memory(b), tbuf_size(b) / 20);
    tbuf_free(b);
}

/* A writer that had the whole ring gives its order list back when others take its place. */
Test(tbuf, order_lists_shrink)
{
    struct tbuf *b = make(1u << 20, TBUF_RING);
    uint64_t most = 0;
    for (uint16_t w = 1; w <= 64; w++) {
        for (uint32_t i = 0; i < 40000; i++) {
            struct tbuf_chunk_in in = {.producer_id = 1,
                                       .writer_id = w,
                                       .chunk_id = i,
                                       .complete = true,
                                       .payload = "",
                                       .payload_size = 0};
            tbuf_copy_chunk(b, &in);
        }
        if (tbuf_side_memory(b) > most)
            most = tbuf_side_memory(b);
    }
    cr_assert_lt(most, 4 * 65536 * sizeof(struct tbuf_ent));
    tbuf_free(b);
}

/* A million sequences: the table stays within what the ring justifies, the newest data survives. */
Test(tbuf, a_million_sequences)
{
    struct tbuf *b = make(1u << 20, TBUF_RING);
    struct tbuf_packet k;
    for (uint32_t i = 0; i < 1000000; i++)
        cr_assert_eq(put(b, (uint16_t)(1 + i / 50000), (uint16_t)(1 + i % 50000), 7, 0, 'a', 20),
                     TBUF_STORED);
    cr_assert_lt(tbuf_side_memory(b), 4u << 20);
    cr_assert_gt(tbuf_stats(b)->sequences_forgotten, 900000);
    tbuf_read_begin(b);
    uint32_t n = 0;
    while (next(b, &k))
        n++;
    cr_assert_eq(n, b->seqs.max_live, "%u came out", n);
    cr_assert_eq(k.writer_id, 50000);
    cr_assert_eq(tbuf_stats(b)->chunks_overwritten, 1000000 - n);
    tbuf_free(b);
}

/* R73: at least 1024 emptied sequences are remembered, so a gap in them is seen. */
Test(tbuf, emptied_sequences_are_remembered)
{
    struct tbuf *b = make(65536, TBUF_RING);
    struct tbuf_packet k;
    for (uint16_t w = 1; w <= 1024; w++) {
        put(b, 1, w, 5, 0, 'a', 20);
        cr_assert_eq(drain(b), 1);
    }
    for (uint16_t w = 1; w <= 1024; w++) {
        put(b, 1, w, w % 2 == 0 ? 6 : 7, 0, 'a', 20);
        tbuf_read_begin(b);
        cr_assert(next(b, &k));
        cr_assert_eq(k.loss, w % 2 == 0 ? 0 : 3);
    }
    for (uint16_t w = 2000; w < 4000; w++) {
        put(b, 1, w, 5, 0, 'a', 20);
        cr_assert_eq(drain(b), 1);
    }
    put(b, 1, 1, 1, 0, 'a', 20); /* forgotten: a first chunk again */
    cr_assert_eq(drain(b), 1);
    tbuf_free(b);
}

/* ---- hostile chunks ---- */

Test(tbuf, payload_sizes_at_the_limit)
{
    static uint8_t payload[70000];
    struct tbuf *b = make(1u << 20, TBUF_RING);
    struct tbuf_chunk_in in = {
        .producer_id = 1, .writer_id = 1, .complete = true, .num_fragments = 1, .payload = payload};
    in.payload_size = 65536;
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_REFUSED);
    in.complete = false;
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_REFUSED);
    in.payload_size = UINT32_MAX;
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_REFUSED);
    cr_assert_eq(tbuf_stats(b)->abi_violations, 3);
    in.payload_size = 65535;
    in.num_fragments = 3;
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_STORED); /* reserved as a whole (R19) */
    cr_assert_eq(tbuf_stats(b)->bytes_written, 65552);
    cr_assert_eq(put(b, 1, 1, 1, 0, 'a', 65531), TBUF_STORED);
    cr_assert_eq(tbuf_stats(b)->bytes_written, 2 * 65552);
    tbuf_free(b);
}

/* Ids that jump by half of the id space cannot be put in order: refused, and nothing breaks. */
Test(tbuf, ids_too_far_apart)
{
    struct tbuf *b = make(4096, TBUF_RING);
    put(b, 1, 1, 0, 0, 'a', 20);
    put(b, 1, 1, 0x7FFFFFFF, 0, 'b', 20);
    cr_assert_eq(put(b, 1, 1, 0x80000005, 0, 'c', 20), TBUF_REFUSED);
    cr_assert_eq(tbuf_stats(b)->abi_violations, 1);
    cr_assert_eq(drain(b), 2);
    for (uint32_t i = 0; i < 100000; i++) {
        put(b, 1, 1, (uint32_t)state, 0, 'd', rnd(60));
        if (rnd(50) == 0)
            drain(b);
    }
    tbuf_free(b);
}

/* A chunk may change while it is copied. What is stored was looked at after it was copied: a size
 * header that grows in between cannot make the reader leave the chunk. Here the change is made by
 * a patch, which takes the same way. */
Test(tbuf, a_broken_size_header_stays_in_its_chunk)
{
    struct tbuf *b = make(4096, TBUF_RING);
    struct tbuf_packet k;
    put(b, 1, 1, 0, 0, 'a', 50);
    put(b, 1, 2, 0, 0, 'b', 50);
    const struct tbuf_patch p = {0, {0xFF, 0xFF, 0xFF, 0x70}};
    cr_assert(tbuf_patch(b, 1, 1, 0, &p, 1, false));
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(k.writer_id, 2);
    cr_assert_not(next(b, &k));
    put(b, 1, 1, 1, 0, 'c', 50);
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(k.loss, TBUF_LOSS_PRESENT | TBUF_LOSS_CHUNK_CORRUPTED);
    tbuf_free(b);
}

/* Symptom: a packet came out without its middle, and without a loss: the middle had been seen to be
 * sound while the packet waited for its end, then a patch (of a batch that failed later on) broke
 * it. */
Test(tbuf, a_patch_that_breaks_the_middle_of_a_waiting_packet)
{
    struct tbuf *b = make(4096, TBUF_RING);
    struct tbuf_packet k;
    put(b, 1, 1, 0, TBUF_CHUNK_LAST_CONTINUES, 'a', 20);
    put(b, 1, 1, 1, TBUF_CHUNK_FIRST_CONTINUES | TBUF_CHUNK_LAST_CONTINUES, 'b', 20);
    cr_assert_eq(drain(b), 0);
    const struct tbuf_patch p[] = {{0, {0xFF, 0xFF, 0xFF, 0x70}}, {UINT32_MAX, {0}}};
    cr_assert_not(tbuf_patch(b, 1, 1, 1, p, 2, false));
    put(b, 1, 1, 2, TBUF_CHUNK_FIRST_CONTINUES, 'c', 20);
    put(b, 1, 1, 3, 0, 'd', 20);
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(*(const char *)k.slices[0].iov_base, 'd');
    cr_assert_neq(k.loss & TBUF_LOSS_CHUNK_CORRUPTED, 0);
    cr_assert_not(next(b, &k));
    tbuf_free(b);
}

struct changing {
    uint8_t bytes[4080];
    bool stop;
};

static void *change(void *arg)
{
    struct changing *c = arg;
    uint32_t x = 1;
    while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
        x = x * 1664525 + 1013904223;
        uint32_t at = (x >> 8) % sizeof(c->bytes);
        __atomic_store_n(&c->bytes[at], (uint8_t)(x >> 24), __ATOMIC_RELAXED);
    }
    return NULL;
}

/* The same with a producer that really writes while we copy: whatever comes out lies inside one
 * record, and what others wrote comes out whole. */
Test(tbuf, a_producer_that_writes_while_we_copy)
{
    static struct changing c;
    pthread_t thread;
    struct tbuf *b = make(65536, TBUF_RING);
    struct tbuf_packet k;
    uint64_t honest = 0;
    cr_assert_eq(pthread_create(&thread, NULL, change, &c), 0);
    for (uint32_t i = 0; i < 20000; i++) {
        struct tbuf_chunk_in in = {.producer_id = 1,
                                   .writer_id = 1,
                                   .chunk_id = i,
                                   .num_fragments = (uint16_t)(1 + i % 200),
                                   .flags = (uint8_t)(i % 8),
                                   .complete = i % 3 != 0,
                                   .payload = c.bytes,
                                   .payload_size = 1 + i % sizeof(c.bytes)};
        tbuf_copy_chunk(b, &in);
        put(b, 2, 1, i, 0, 'h', 100);
        tbuf_read_begin(b);
        while (next(b, &k)) {
            for (size_t s = 0; s < k.num_slices; s++) {
                const uint8_t *p = k.slices[s].iov_base;
                cr_assert(p >= b->mem && p + k.slices[s].iov_len <= b->mem + b->size);
                cr_assert_leq(k.slices[s].iov_len, sizeof(c.bytes));
            }
            honest += k.producer_id == 2 && k.size == 100 && k.loss == 0;
        }
    }
    __atomic_store_n(&c.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    cr_assert_eq(honest, 20000);
    tbuf_free(b);
}

/* A packet without end is given up; what follows it comes out. */
Test(tbuf, endless_fragments)
{
    struct tbuf *b = make(64u << 20, TBUF_RING);
    struct tbuf_packet k;
    uint32_t id = 0;
    put(b, 1, 1, id++, TBUF_CHUNK_LAST_CONTINUES, 'a', 4);
    for (uint32_t i = 0; i < TBUF_PACKET_SLICES_MAX + 10; i++)
        put(b, 1, 1, id++, TBUF_CHUNK_FIRST_CONTINUES | TBUF_CHUNK_LAST_CONTINUES, 'b', 4);
    put(b, 1, 1, id++, TBUF_CHUNK_FIRST_CONTINUES, 'c', 4);
    put(b, 1, 1, id++, 0, 'd', 4);
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(*(const char *)k.slices[0].iov_base, 'd');
    cr_assert_neq(k.loss & TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN, 0);
    cr_assert_not(next(b, &k));
    tbuf_free(b);
}

/* A packet of many fragments that is still being written is not walked from its begin on each read;
 * and one call never visits more than its budget. */
Test(tbuf, one_call_does_bounded_work)
{
    struct tbuf *b = make(16u << 20, TBUF_RING);
    struct tbuf_packet k;
    unsigned again = 0;
    for (uint32_t i = 0; i < 50000; i++) { /* empty packets only */
        struct tbuf_chunk_in in = {.producer_id = 1,
                                   .writer_id = 1,
                                   .chunk_id = i,
                                   .complete = true,
                                   .num_fragments = 2,
                                   .payload = "\0\0",
                                   .payload_size = 2};
        tbuf_copy_chunk(b, &in);
    }
    put(b, 1, 1, 50000, 0, 'z', 20);
    tbuf_read_begin(b);
    enum tbuf_read_result rc;
    while ((rc = tbuf_read_next(b, &k)) == TBUF_READ_AGAIN)
        again++;
    cr_assert_eq(rc, TBUF_READ_PACKET);
    cr_assert_gt(again, 10);
    put(b, 1, 2, 0, TBUF_CHUNK_LAST_CONTINUES, 'a', 20);
    for (uint32_t i = 1; i < 50000; i++)
        put(b, 1, 2, i, TBUF_CHUNK_FIRST_CONTINUES | TBUF_CHUNK_LAST_CONTINUES, 'b', 20);
    cr_assert_eq(drain(b), 0);
    put(b, 1, 2, 50000, TBUF_CHUNK_FIRST_CONTINUES, 'c', 20);
    again = 0;
    tbuf_read_begin(b);
    while ((rc = tbuf_read_next(b, &k)) == TBUF_READ_AGAIN)
        again++;
    cr_assert_eq(rc, TBUF_READ_PACKET);
    cr_assert_eq(again, 0, "the part already seen was walked again");
    uint64_t slices = k.num_slices;
    for (; k.more; slices += k.num_slices) { /* in parts: no call hands out many */
        cr_assert_leq(k.num_slices, TBUF_PART_SLICES);
        cr_assert_eq(tbuf_read_next(b, &k), TBUF_READ_PACKET);
    }
    cr_assert_eq(slices, 50001);
    tbuf_free(b);
}

/* ---- streaming ---- */

/* Write, drain, write: the session stays at the low end of a large buffer, also with a chunk that
 * has to wait. */
Test(tbuf, streaming_stays_in_a_small_part)
{
    struct tbuf *b = make(64u << 20, TBUF_RING);
    uint32_t id = 0;
    struct tbuf_packet k;
    put(b, 9, 9, 0, TBUF_CHUNK_LAST_CONTINUES, 'w', 1000); /* waits for its end */
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 256; i++)
            put(b, 1, 1, id++, 0, 'a', TOTAL(4080));
        cr_assert_eq(drain(b), 256);
    }
    cr_assert_lt(tbuf_used_size(b), 2u << 20);
    put(b, 9, 9, 1, TBUF_CHUNK_FIRST_CONTINUES, 'x', 10);
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(k.num_slices, 2);
    cr_assert_eq(k.slices[0].iov_len, 1000);
    cr_assert_eq(*(const char *)k.slices[0].iov_base, 'w');
    cr_assert_eq(k.loss, 0);
    cr_assert_eq(tbuf_stats(b)->write_wrap_count, 0);
    cr_assert_eq(tbuf_stats(b)->bytes_read, tbuf_stats(b)->bytes_written);
    tbuf_free(b);
}

Test(tbuf, prefault_stays_ahead_of_the_cursor_only)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct tbuf *b = make(1024 * page, TBUF_RING);
    cr_assert_eq(tbuf_prefault(b, 1u << 20), 0);
    cr_assert_eq(resident(b), 0);
    for (uint32_t i = 0; i < 64; i++)
        put(b, 1, 1, i, 0, 'a', TOTAL(4080));
    size_t before = resident(b);
    cr_assert_eq(tbuf_prefault(b, 4 * page), 4 * page);
    cr_assert_eq(resident(b), before + 4);
    while (tbuf_prefault(b, 1u << 20) != 0)
        ;
    cr_assert_leq(resident(b), 2 * before);
    for (uint64_t i = tbuf_used_size(b); i < tbuf_size(b); i++)
        cr_assert_eq(b->mem[i], 0);
    tbuf_free(b);
}

/* ---- clones, histograms, the rest of the interface ---- */

Test(tbuf, clone_has_histograms_and_fresh_read_counters)
{
    struct tbuf *b = make(16384, TBUF_RING);
    struct tbuf *c = NULL;
    struct tbuf_writer w;
    uint32_t at = 0;
    put(b, 1, 7, 0, 0, 'a', 100);
    put(b, 1, 7, 1, 0, 'a', 600);
    drain(b);
    put(b, 1, 7, 2, 0, 'b', 100);
    cr_assert_eq(tbuf_clone_read_only(b, &c), 0);
    cr_assert(tbuf_next_writer(c, &at, &w));
    cr_assert_eq(w.writer_id, 7);
    cr_assert_eq(w.client.uid, 1000);
    cr_assert_eq(w.counts[2], 2); /* 104 bytes */
    cr_assert_eq(w.sums[2], 208);
    cr_assert_eq(w.counts[4], 1);
    cr_assert_not(tbuf_next_writer(c, &at, &w));
    cr_assert_eq(tbuf_stats(c)->chunks_read, 0);
    cr_assert_eq(tbuf_stats(c)->chunks_written, 3);
    cr_assert_eq(drain(c), 1);
    cr_assert_eq(tbuf_stats(c)->chunks_read, 1);
    cr_assert_eq(drain(b), 1);
    cr_assert_eq(put(c, 1, 1, 0, 0, 'a', 10), TBUF_IS_READ_ONLY);
    cr_assert_not(tbuf_patch(c, 1, 7, 2, NULL, 0, false));
    cr_assert_eq(tbuf_stats(c)->patches_failed, 0);
    cr_assert(tbuf_is_read_only(c));
    tbuf_free(c);
    tbuf_set_read_only(b);
    cr_assert_eq(put(b, 1, 1, 0, 0, 'a', 10), TBUF_IS_READ_ONLY);
    tbuf_free(b);
}

/* 12.2: the bounds belong to their bucket. */
Test(tbuf, histogram_buckets)
{
    static const uint32_t payload[] = {4, 8, 9, 32, 33, 16384, 16385};
    static const int bucket[] = {0, 0, 1, 1, 2, 9, 10};
    for (size_t i = 0; i < sizeof(payload) / sizeof(payload[0]); i++) {
        struct tbuf *b = make(1u << 20, TBUF_RING);
        struct tbuf_writer w;
        uint32_t at = 0;
        put(b, 1, 1, 0, 0, 'a', payload[i] - 4);
        cr_assert(tbuf_next_writer(b, &at, &w));
        cr_assert_eq(w.counts[bucket[i]], 1, "%u bytes", payload[i]);
        cr_assert_eq(w.sums[bucket[i]], payload[i]);
        tbuf_free(b);
    }
    struct tbuf *b = NULL;
    struct tbuf_writer w;
    uint32_t at = 0;
    cr_assert_eq(tbuf_new(4096, TBUF_RING, TBUF_NO_HISTOGRAMS, &b), 0);
    put(b, 1, 1, 0, 0, 'a', 10);
    cr_assert(tbuf_next_writer(b, &at, &w));
    for (int i = 0; i < TBUF_HIST_BUCKETS; i++)
        cr_assert_eq(w.counts[i], 0);
    tbuf_free(b);
}

/* 22.1 point 6: the loss of a refused packet goes to the next one. */
Test(tbuf, refused_packet_passes_its_loss_on)
{
    struct tbuf *b = make(4096, TBUF_RING);
    struct tbuf_packet k;
    put(b, 1, 1, 0, 0, 'a', 10);
    drain(b);
    put(b, 1, 1, 2, 0, 'b', 10);
    put(b, 1, 1, 3, 0, 'c', 10);
    put(b, 1, 1, 4, 0, 'd', 10);
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(k.loss, 3);
    tbuf_read_refuse(b, &k);
    cr_assert(next(b, &k));
    cr_assert_eq(k.loss, 3);
    cr_assert(next(b, &k));
    cr_assert_eq(k.loss, 0);
    tbuf_read_refuse(b, &k);
    put(b, 1, 1, 5, 0, 'e', 10);
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(k.loss, 1);
    tbuf_free(b);
}

/* R100: after the producer went nothing waits for it, and its id can be used again. */
Test(tbuf, producer_gone)
{
    struct tbuf *b = make(16384, TBUF_RING);
    struct tbuf_packet k;
    uint8_t two[] = {2, 'a', 'a', 2, 'b', 'b'};
    struct tbuf_chunk_in in = {.producer_id = 5,
                               .writer_id = 1,
                               .chunk_id = 0,
                               .num_fragments = 2,
                               .payload = two,
                               .payload_size = sizeof(two)};
    tbuf_copy_chunk(b, &in);                             /* open */
    put(b, 5, 2, 0, TBUF_CHUNK_LAST_CONTINUES, 'c', 10); /* no end */
    put(b, 5, 3, 0, TBUF_CHUNK_NEEDS_PATCHING, 'd', 10); /* no patch */
    put(b, 5, 4, 0, TBUF_CHUNK_LAST_CONTINUES | TBUF_CHUNK_NEEDS_PATCHING, 'd', 10);
    put(b, 6, 1, 0, TBUF_CHUNK_LAST_CONTINUES, 'e', 10); /* of another one */
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(*(const char *)k.slices[0].iov_base, 'a');
    cr_assert_not(next(b, &k));
    cr_assert_eq(b->live_chunks, 5);
    tbuf_producer_gone(b, 5);
    cr_assert_eq(drain(b), 0);
    cr_assert_eq(b->live_chunks, 1);
    put(b, 5, 1, 0, 0, 'n', 10);
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(*(const char *)k.slices[0].iov_base, 'n');
    cr_assert_eq(k.loss, 0);
    cr_assert(k.first_on_sequence);
    tbuf_free(b);
}

/* A stalled sequence costs others nothing, and comes out once it can, in whatever batch that is. */
Test(tbuf, resumed_walks_come_back_to_what_waited)
{
    struct tbuf *b = make(65536, TBUF_RING);
    struct tbuf_packet k;
    put(b, 1, 1, 0, TBUF_CHUNK_NEEDS_PATCHING, 'p', 10);
    for (uint32_t i = 0; i < 10; i++)
        put(b, 1, 2, i, 0, 'q', 10);
    for (int i = 0; i < 5; i++) {
        tbuf_read_begin(b);
        cr_assert(next(b, &k));
        cr_assert_eq(k.writer_id, 2);
    }
    cr_assert_eq(tbuf_stats(b)->readaheads_failed, 1, "passed over once, not once per batch");
    cr_assert(tbuf_patch(b, 1, 1, 0, NULL, 0, false));
    tbuf_read_begin(b);
    cr_assert(next(b, &k));
    cr_assert_eq(k.writer_id, 1);
    cr_assert_eq(drain(b), 5);
    tbuf_free(b);
}

Test(tbuf, sealed)
{
    struct tbuf *b = make(4096, TBUF_DISCARD);
    for (uint32_t i = 0; i < 4; i++)
        put(b, 1, 1, i, 0, 'a', TOTAL(1008));
    cr_assert_not(tbuf_is_sealed(b));
    cr_assert_eq(put(b, 1, 1, 4, 0, 'a', 10), TBUF_DISCARDED);
    cr_assert(tbuf_is_sealed(b));
    cr_assert_eq(drain(b), 4);
    cr_assert_eq(put(b, 1, 1, 5, 0, 'a', 10), TBUF_DISCARDED);
    cr_assert_eq(put(b, 1, 2, 0, 0, 'a', 10), TBUF_DISCARDED);
    cr_assert_eq(tbuf_stats(b)->chunks_discarded, 3);
    struct tbuf *c = NULL;
    cr_assert_eq(tbuf_clone_read_only(b, &c), 0);
    cr_assert(tbuf_is_sealed(c));
    tbuf_free(c);
    tbuf_free(b);
}
