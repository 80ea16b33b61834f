/* SPDX-License-Identifier: Apache-2.0 */
/* svc/tbuf_read: large packets come in parts while the buffer goes on being written. */
#include <criterion/criterion.h>

#include <string.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"

#define PIECE 1000u

static void put(struct tbuf *b, uint16_t writer, uint32_t chunk, unsigned flags, char letter)
{
    uint8_t payload[PIECE + 2] = {(uint8_t)(PIECE | 0x80), PIECE >> 7};
    memset(payload + 2, letter, PIECE);
    struct tbuf_chunk_in in = {.producer_id = 1,
                               .writer_id = writer,
                               .chunk_id = chunk,
                               .num_fragments = 1,
                               .flags = (uint8_t)flags,
                               .complete = true,
                               .payload = payload,
                               .payload_size = sizeof(payload),
                               .client = {1000, 99, 0, 1}};
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_STORED);
}

/* A packet of `n` fragments, all full of its letter. */
static void put_large(struct tbuf *b, uint16_t writer, uint32_t chunk, uint32_t n, char letter)
{
    for (uint32_t i = 0; i < n; i++)
        put(b, writer, chunk + i,
            (i > 0 ? TBUF_CHUNK_FIRST_CONTINUES : 0) | (i < n - 1 ? TBUF_CHUNK_LAST_CONTINUES : 0),
            letter);
}

static enum tbuf_read_result next(struct tbuf *b, struct tbuf_packet *k)
{
    enum tbuf_read_result rc;
    while ((rc = tbuf_read_next(b, k)) == TBUF_READ_AGAIN)
        continue;
    return rc;
}

static struct tbuf *make(uint64_t size)
{
    struct tbuf *b = NULL;
    cr_assert_eq(tbuf_new(size, TBUF_RING, 0, &b), 0);
    return b;
}

static bool all(const struct tbuf_packet *k, char letter)
{
    for (size_t i = 0; i < k->num_slices; i++) {
        const char *p = k->slices[i].iov_base;
        for (size_t j = 0; j < k->slices[i].iov_len; j++) {
            if (p[j] != letter)
                return false;
        }
    }
    return true;
}

/* All parts, with `between` run after each but the last. Returns the bytes. */
static uint64_t take(struct tbuf *b, char letter, void (*between)(struct tbuf *b))
{
    struct tbuf_packet k;
    uint64_t size = 0;
    unsigned parts = 0;
    tbuf_read_begin(b);
    do {
        cr_assert_eq(next(b, &k), TBUF_READ_PACKET);
        cr_expect(all(&k, letter));
        cr_expect_leq(k.size, TBUF_PART_MAX + PIECE);
        cr_expect_eq(k.writer_id, 1);
        cr_expect_eq(k.client.uid, 1000);
        size += k.size;
        parts++;
        if (k.more && between != NULL)
            between(b);
    } while (k.more);
    cr_expect_eq(parts, (size + 256 * PIECE - 1) / (256 * PIECE));
    return size;
}

Test(tbuf_parts, all_of_it)
{
    struct tbuf *b = make(4 << 20);
    put_large(b, 1, 0, 2000, 'a');
    cr_expect_eq(take(b, 'a', NULL), 2000 * PIECE);
    cr_expect_eq(tbuf_stats(b)->readaheads_succeeded, 1);
    cr_expect_eq(tbuf_stats(b)->chunks_read, 2000);
    tbuf_free(b);
}

static uint32_t written;

static void write_some(struct tbuf *b)
{
    for (int i = 0; i < 100; i++)
        put(b, 2, written++, 0, 'x');
}

Test(tbuf_parts, while_others_write)
{
    struct tbuf *b = make(4 << 20);
    struct tbuf_packet k;
    written = 0;
    put_large(b, 1, 0, 2000, 'a');
    put(b, 1, 2000, 0, 'b');
    cr_expect_eq(take(b, 'a', write_some), 2000 * PIECE);
    cr_expect_eq(next(b, &k), TBUF_READ_PACKET);
    cr_expect(all(&k, 'b') && k.loss == 0 && k.writer_id == 1);
    tbuf_free(b);
}

static void begin(struct tbuf *b, struct tbuf_packet *k)
{
    put_large(b, 1, 0, 600, 'a');
    put(b, 1, 600, 0, 'b');
    tbuf_read_begin(b);
    cr_assert_eq(next(b, k), TBUF_READ_PACKET);
    cr_assert(k->more);
}

Test(tbuf_parts, overwritten_before_its_end)
{
    struct tbuf *b = make(1 << 20);
    struct tbuf_packet k;
    begin(b, &k);
    for (uint32_t i = 0; i < 850; i++) /* over the second part, not over all */
        put(b, 2, i, 0, 'x');
    cr_expect_eq(next(b, &k), TBUF_READ_BROKEN);
    cr_assert_eq(next(b, &k), TBUF_READ_PACKET);
    cr_expect(all(&k, 'b'));
    cr_expect((k.loss & TBUF_LOSS_PRESENT) != 0 &&
              (k.loss & TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN) != 0);
    cr_expect(!k.more);
    cr_assert_eq(next(b, &k), TBUF_READ_PACKET);
    cr_expect(all(&k, 'x') && k.loss == 0);
    tbuf_free(b);
}

Test(tbuf_parts, its_sequence_is_forgotten_before_its_end)
{
    struct tbuf *b = make(1 << 20);
    struct tbuf_packet k;
    begin(b, &k);
    for (uint32_t i = 0; i < 4000; i++)
        put(b, (uint16_t)(2 + i), 0, 0, 'x');
    cr_assert_gt(tbuf_stats(b)->sequences_forgotten, 100);
    cr_expect_eq(next(b, &k), TBUF_READ_BROKEN);
    cr_assert_eq(next(b, &k), TBUF_READ_PACKET);
    cr_expect(all(&k, 'x'));
    tbuf_free(b);
}

Test(tbuf_parts, a_size_is_patched_away_before_its_end)
{
    struct tbuf *b = make(1 << 20);
    struct tbuf_packet k;
    const struct tbuf_patch p = {0, {0xFF, 0xFF, 0xFF, 0x03}};
    begin(b, &k);
    cr_assert(tbuf_patch(b, 1, 1, 300, &p, 1, false));
    cr_expect_eq(next(b, &k), TBUF_READ_BROKEN);
    cr_assert_eq(next(b, &k), TBUF_READ_PACKET);
    cr_expect(all(&k, 'b'));
    cr_expect((k.loss & TBUF_LOSS_PRESENT) != 0);
    tbuf_free(b);
}

/* Its end is in the buffer, so it does not matter that the producer is gone. */
Test(tbuf_parts, its_producer_leaves_before_its_end)
{
    struct tbuf *b = make(1 << 20);
    struct tbuf_packet k;
    begin(b, &k);
    tbuf_producer_gone(b, 1);
    for (uint64_t size = k.size; k.more || size != 600 * PIECE; size += k.size)
        cr_assert_eq(next(b, &k), TBUF_READ_PACKET);
    tbuf_free(b);
}

/* A clone of the buffer in the middle of a packet has lost it, and says so. */
Test(tbuf_parts, cloned_before_its_end)
{
    struct tbuf *b = make(1 << 20);
    struct tbuf *c = NULL;
    struct tbuf_packet k;
    begin(b, &k);
    cr_assert_eq(tbuf_clone_read_only(b, &c), 0);
    tbuf_read_begin(c);
    cr_assert_eq(next(c, &k), TBUF_READ_PACKET);
    cr_expect(all(&k, 'b'));
    cr_expect((k.loss & TBUF_LOSS_PRESENT) != 0);
    uint64_t size = 256 * PIECE;
    do {
        cr_assert_eq(next(b, &k), TBUF_READ_PACKET);
        size += k.size;
    } while (k.more);
    cr_expect_eq(size, 600 * PIECE);
    tbuf_free(b);
    tbuf_free(c);
}
