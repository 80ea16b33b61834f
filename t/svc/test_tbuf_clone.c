/* SPDX-License-Identifier: Apache-2.0 */
/* svc/tbuf_clone: clones that are made piece by piece while their source goes on. The model test
 * does this at random in small buffers; here are the cases that need a large or a special one. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"

static void put(struct tbuf *b, uint16_t writer, uint32_t chunk, char letter, uint32_t n)
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
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_STORED);
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
