/* SPDX-License-Identifier: Apache-2.0 */
/* svc/tbuf_clone: clones that are made piece by piece while their source goes on. The model test
 * does this at random in small buffers; here are the cases that need a large or a special one. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"

static enum tbuf_outcome copy(struct tbuf *b, uint16_t writer, uint32_t chunk, char letter,
                              uint32_t n)
{
    static uint8_t payload[4096];
    payload[0] = (uint8_t)(n | 0x80);
    payload[1] = (uint8_t)(n >> 7);
    memset(payload + 2, letter, n);
    struct tbuf_chunk_in in = {.producer_id = 1,
                               .writer_id = writer,
                               .chunk_id = chunk,
                               .num_fragments = 1,
                               .complete = true,
                               .payload = payload,
                               .payload_size = n + 2,
                               .client = {1000, 99, 0, 1}};
    return tbuf_copy_chunk(b, &in);
}

static void put(struct tbuf *b, uint16_t writer, uint32_t chunk, char letter, uint32_t n)
{
    cr_assert_eq(copy(b, writer, chunk, letter, n), TBUF_STORED);
}

/* Reads all: the packets, and whether all their bytes are `letter`. */
static uint32_t drain(struct tbuf *b, char letter, bool *all)
{
    struct tbuf_packet k;
    enum tbuf_read_result rc;
    uint32_t n = 0;
    tbuf_read_begin(b);
    while ((rc = tbuf_read_next(b, &k)) != TBUF_READ_EMPTY) {
        if (rc == TBUF_READ_AGAIN)
            continue;
        const char *p = k.slices[0].iov_base;
        for (size_t i = 0; i < k.slices[0].iov_len; i++)
            *all = *all && p[i] == letter;
        n++;
    }
    return n;
}

static struct tbuf *filled(uint64_t size, uint32_t chunks)
{
    struct tbuf *b = NULL;
    cr_assert_eq(tbuf_new(size, TBUF_RING, 0, &b), 0);
    for (uint32_t i = 0; i < chunks; i++)
        put(b, 1, i, 'a', 1000);
    return b;
}

Test(tbuf_clone, the_source_is_overwritten_twice_meanwhile)
{
    struct tbuf *b = filled(1 << 20, 900);
    struct tbuf *c = NULL;
    struct tbuf_clone *k = NULL;
    bool all = true;
    size_t bytes = 0;
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    for (uint32_t i = 0; i < 2100; i++) {
        put(b, 1, 900 + i, 'b', 1000);
        if (i % 100 == 0)
            tbuf_clone_step(k, 4096, &bytes);
    }
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    cr_expect_eq(drain(c, 'a', &all), 900);
    cr_expect(all, "a packet of the clone has bytes written after the begin");
    all = true;
    drain(b, 'b', &all);
    cr_expect(all);
    tbuf_free(b);
    tbuf_free(c);
}

Test(tbuf_clone, the_source_is_drained_and_reused_meanwhile)
{
    struct tbuf *b = filled(1 << 20, 900);
    struct tbuf *c = NULL;
    struct tbuf_clone *k = NULL;
    bool all = true;
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    cr_expect_eq(drain(b, 'a', &all), 900);
    for (uint32_t i = 0; i < 900; i++) /* would start at the begin of the memory again */
        put(b, 1, 900 + i, 'b', 1000);
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    cr_expect_eq(drain(c, 'a', &all), 900);
    cr_expect(all);
    tbuf_free(b);
    tbuf_free(c);
}

Test(tbuf_clone, a_step_is_as_long_as_it_was_asked_to_be)
{
    struct tbuf *b = filled(8 << 20, 8000);
    struct tbuf *c = NULL;
    struct tbuf_clone *k = NULL;
    size_t bytes = 0;
    size_t sum = 0;
    unsigned steps = 0;
    bool all = true;
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    while (tbuf_clone_step(k, 65536, &bytes)) {
        cr_assert_leq(bytes, 65536 + 65536, "a step of %zu bytes", bytes);
        cr_assert_geq(bytes, 65536);
        sum += bytes;
        steps++;
    }
    cr_expect_gt(steps, 100);
    cr_expect_lt(sum, 10u << 20, "nothing is copied twice");
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    cr_expect_eq(drain(c, 'a', &all), 8000);
    tbuf_free(b);
    tbuf_free(c);
}

Test(tbuf_clone, the_source_is_freed_meanwhile)
{
    struct tbuf *b = filled(1 << 20, 900);
    struct tbuf_clone *k[2];
    struct tbuf *c = NULL;
    size_t bytes = 0;
    bool all = true;
    cr_assert_eq(tbuf_clone_begin(b, &k[0]), 0);
    cr_assert_eq(tbuf_clone_begin(b, &k[1]), 0);
    tbuf_clone_step(k[0], 65536, &bytes);
    tbuf_free(b);
    tbuf_clone_cancel(k[1]);
    cr_assert_eq(tbuf_clone_finish(k[0], &c), 0);
    cr_expect_eq(drain(c, 'a', &all), 900);
    tbuf_free(c);
}

/* A clone remembers the writers of the begin, also those that the source forgets meanwhile: their
 * histograms were empty before sequences were kept when they are forgotten. */
Test(tbuf_clone, writers_that_are_forgotten_meanwhile)
{
    struct tbuf *b = NULL;
    struct tbuf *c = NULL;
    struct tbuf_clone *k = NULL;
    struct tbuf_writer w;
    uint64_t samples = 0;
    uint32_t writers = 0;
    bool all = true;
    cr_assert_eq(tbuf_new(4096, TBUF_RING, 0, &b), 0);
    for (uint16_t i = 1; i <= 1000; i++)
        put(b, i, 0, 'a', 100);
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    for (uint16_t i = 1001; i <= 5000; i++)
        put(b, i, 0, 'b', 100);
    cr_assert_gt(tbuf_stats(b)->sequences_forgotten, 1000);
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    for (uint32_t at = 0; tbuf_next_writer(c, &at, &w); writers++) {
        cr_expect_leq(w.writer_id, 1000);
        samples += w.counts[2];
    }
    cr_expect_eq(writers, 1000);
    cr_expect_eq(samples, 1000);
    cr_expect_gt(drain(c, 'a', &all), 30);
    cr_expect(all);
    tbuf_free(b);
    tbuf_free(c);
}

/* A producer that leaves while its data are being cloned: the clone knows it as it was. */
Test(tbuf_clone, a_producer_leaves_meanwhile)
{
    struct tbuf *b = filled(1 << 20, 900);
    struct tbuf *c = NULL;
    struct tbuf_clone *k = NULL;
    bool all = true;
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    tbuf_producer_gone(b, 1);
    tbuf_producer_gone(tbuf_clone_target(k), 1);
    put(b, 1, 0, 'b', 1000); /* its successor */
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    tbuf_producer_gone(c, 1);
    cr_expect_eq(drain(c, 'a', &all), 900);
    cr_expect(all);
    tbuf_free(b);
    tbuf_free(c);
}

#define TINY 8u     /* bytes of a packet whose record takes 32 */
#define HALF 49152u /* such records in half of a ring of 3 MiB */

/* A writer's oldest chunk came late, so that it is still there after `evicted` newer ones are not:
 * they stand in the order list until it goes. */
static struct tbuf *with_tombs(uint32_t evicted)
{
    struct tbuf *b = NULL;
    cr_assert_eq(tbuf_new(3 << 20, TBUF_RING, 0, &b), 0);
    for (uint32_t i = 1; i <= HALF; i++)
        put(b, 1, i, 'a', TINY);
    put(b, 1, 0, 'a', TINY);
    for (uint32_t i = HALF + 1; i < 2 * HALF + evicted; i++)
        put(b, 1, i, 'a', TINY);
    cr_assert_eq(tbuf_stats(b)->chunks_overwritten, evicted);
    cr_assert_eq(tbuf_seq_at(&b->seqs, 1)->count, 2 * HALF + evicted);
    return b;
}

static void expect_same_list(struct tbuf *a, struct tbuf *b)
{
    struct tbuf_seq *s = tbuf_seq_at(&a->seqs, 1);
    struct tbuf_seq *t = tbuf_seq_at(&b->seqs, 1);
    uint32_t differ = 0;
    cr_assert_eq(s->count, t->count);
    cr_expect_eq(s->state, t->state);
    for (uint32_t i = 0; i < s->count; i++) {
        struct tbuf_ent e = *tbuf_seq_ent(s, i);
        struct tbuf_ent f = *tbuf_seq_ent(t, i);
        differ += e.id != f.id || e.ref != f.ref;
    }
    cr_expect_eq(differ, 0, "%u entries differ", differ);
}

/* Bytes of work of a clone of this: each record with its header, the list. */
static size_t whole(uint32_t evicted)
{
    return 2 * HALF * (32 + sizeof(struct tbuf_rec)) +
           (2 * HALF + evicted) * sizeof(struct tbuf_ent);
}

Test(tbuf_clone, a_list_with_evicted_chunks_goes_in_steps)
{
    const uint32_t evicted = 45000;
    const size_t budget = 16384;
    struct tbuf *b = with_tombs(evicted);
    struct tbuf *c = NULL;
    struct tbuf_clone *k = NULL;
    size_t bytes = 0;
    size_t sum = 0;
    size_t longest = 0;
    bool all = true;
    bool more = true;
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    while (more) {
        more = tbuf_clone_step(k, budget, &bytes);
        longest = bytes > longest ? bytes : longest;
        sum += bytes;
    }
    cr_expect_lt(longest, budget + 3 * 4096, "a step of %zu bytes", longest);
    cr_expect_geq(sum, whole(evicted), "%zu bytes: the list was not counted", sum);
    cr_expect_lt(sum, whole(evicted) + 65536, "%zu bytes: something is copied twice", sum);
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    expect_same_list(b, c);
    cr_expect_eq(drain(c, 'a', &all), 2 * HALF);
    cr_expect(all);
    tbuf_free(b);
    tbuf_free(c);
}

/* A clone is begun and goes on by `ahead` bytes; then new chunks come, evicted ones come back, and
 * all is read. Its list must be that of the begin. */
static void try_change(size_t ahead, uint32_t evicted, uint32_t chunks, uint32_t back, bool read)
{
    struct tbuf *b = with_tombs(evicted);
    struct tbuf *want = NULL;
    struct tbuf *c = NULL;
    struct tbuf_clone *k = NULL;
    size_t bytes = 0;
    bool all = true;
    cr_assert_eq(tbuf_clone_read_only(b, &want), 0);
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    if (ahead > 0)
        cr_assert(tbuf_clone_step(k, ahead, &bytes), "nothing is left to do");
    for (uint32_t i = 0; i < chunks; i++) {
        put(b, 1, 2 * HALF + evicted + i, 'b', TINY);
        if (i % 512 == 0)
            tbuf_clone_step(k, 4096, &bytes);
    }
    for (uint32_t i = 1; i <= back; i++) {
        cr_assert_eq(copy(b, 1, i * 16, 'b', TINY), TBUF_READMITTED);
        if (i % 64 == 0)
            tbuf_clone_step(k, 4096, &bytes);
    }
    if (read)
        drain(b, 'a', &all);
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    expect_same_list(want, c);
    tbuf_free(b);
    tbuf_free(c);
    tbuf_free(want);
}

static void try_changes(size_t less)
{
    size_t ahead = less == 0 ? 0 : whole(0) - less;
    try_change(ahead, 20000, 3000, 1200, false);
    try_change(ahead, 30000, 3000, 0, false);     /* the list moves to more memory */
    try_change(ahead, 45000, 3000, 0, true);      /* and to less, and away */
    try_change(ahead, 45000, 2 * HALF, 0, false); /* the late chunk goes, and all before it */
}

Test(tbuf_clone, a_list_with_evicted_chunks_changes_meanwhile)
{
    try_changes(0);
    try_changes(200000); /* some of the list is there */
}
