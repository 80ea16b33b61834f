/* SPDX-License-Identifier: Apache-2.0 */
/* The trace writer: T8-T23, with a service that takes what is committed. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"
#include "reactor/bytes.h"

static const uint32_t page_sizes[] = {4096, 65536};
#define EACH_SIZE(i) for (size_t i = 0; i < 2; i++)

static const struct arbiter_cfg div4 = {.layout = SMB_LAYOUT_DIV4};
static const struct arbiter_cfg div4_batch = {.layout = SMB_LAYOUT_DIV4, .batch_ms = 10000};
static const struct arbiter_cfg div4_direct = {
    .layout = SMB_LAYOUT_DIV4, .batch_ms = 10000, .direct_patching = true};

static uint32_t payload_size(const struct fake *f)
{
    return abi_chunk_size(f->shm.page_size, SMB_LAYOUT_DIV4) - 8;
}

/* Raw bytes that count themselves. */
static void raw(struct pbw *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t b = (uint8_t)i;
        pbw_raw(p, &b, 1);
    }
}

/* R39, R40: only the first packet of a writer says that it is that. R61: its end sends the rest. */
Test(writer, T8_small_packets)
{
    EACH_SIZE(i)
    {
        struct fake f;
        struct fake_packet *got;
        fake_init(&f, 16 * page_sizes[i], page_sizes[i], div4);
        struct writer *w = writer_new(f.arb, 3, ARBITER_DROP);
        for (uint64_t n = 0; n < 32; n++) {
            char text[40];
            struct pbw *p = writer_begin(w);
            pbw_begin(p, 900);
            snprintf(text, sizeof(text), "foobar %u", (unsigned)n);
            pbw_str(p, 1, text);
            writer_end(w);
        }
        cr_assert_eq(page_word(&f.shm, 0) & 3, SMB_BEING_WRITTEN);
        writer_free(w);
        fake_run(&f);
        cr_assert_eq(fake_packets(&f, 1, &got), 32);
        for (size_t n = 0; n < 32; n++) {
            struct bytes_view v = bytes_view(got[n].data, got[n].len);
            struct bytes_field field;
            char text[40];
            size_t len = (size_t)snprintf(text, sizeof(text), "foobar %u", (unsigned)n);
            cr_assert_eq(bytes_find(v, 87, BYTES_VARINT, &field), n == 0);
            cr_assert(bytes_find(v, 900, BYTES_LEN, &field));
            cr_assert(bytes_find(field.data, 1, BYTES_LEN, &field));
            cr_assert(bytes_equal(field.data, bytes_view(text, len)));
        }
        cr_assert_eq(f.chunks[0].target, 3);
        fake_packets_free(got, 32);
        fake_fini(&f);
    }
}

/* ---- random trees of nested messages, written and then walked ---- */

static uint64_t rng(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void write_tree(struct pbw *p, uint64_t *s, int depth, size_t scale)
{
    unsigned n = 1 + (unsigned)(rng(s) % 5);
    for (unsigned i = 0; i < n; i++) {
        uint64_t r = rng(s);
        if (depth < 6 && r % 3 == 0) {
            pbw_begin(p, 2);
            write_tree(p, s, depth + 1, scale);
            pbw_end(p);
        } else if (r % 3 == 1) {
            size_t len = (size_t)(r >> 8) % scale;
            uint8_t *data = malloc(len + 1);
            memset(data, (int)(r >> 40) & 0xFF, len);
            pbw_bytes(p, 3, data, len);
            free(data);
        } else {
            pbw_varint(p, 1, r);
        }
    }
}

/* Draws the same numbers and expects the same fields. */
static void check_tree(struct bytes_cur *c, uint64_t *s, int depth, size_t scale)
{
    struct bytes_field f;
    unsigned n = 1 + (unsigned)(rng(s) % 5);
    for (unsigned i = 0; i < n; i++) {
        uint64_t r = rng(s);
        cr_assert(bytes_next(c, &f));
        if (depth < 6 && r % 3 == 0) {
            struct bytes_cur in = bytes_cur(f.data);
            cr_assert_eq(f.id, 2);
            check_tree(&in, s, depth + 1, scale);
            cr_assert(bytes_done(&in));
        } else if (r % 3 == 1) {
            cr_assert_eq(f.id, 3);
            cr_assert_eq(f.data.n, (size_t)(r >> 8) % scale);
            size_t same = 0;
            while (same < f.data.n && f.data.p[same] == (uint8_t)(r >> 40))
                same++;
            cr_assert_eq(same, f.data.n);
        } else {
            cr_assert_eq(f.id, 1);
            cr_assert_eq(f.num, r);
        }
    }
}

/* T9: the continue flags of neighbours agree, and the patching flag is there iff patches came. */
static void check_chain(const struct fake *f, uint16_t id)
{
    const struct fake_chunk *before = fake_chunk(f, id, 0);
    cr_assert_eq(before->head.flags & SMB_FIRST_CONTINUES, 0);
    const struct fake_chunk *c;
    for (uint32_t n = 1; (c = fake_chunk(f, id, n)); n++) {
        cr_assert_eq(!!(c->head.flags & SMB_FIRST_CONTINUES),
                     !!(before->head.flags & SMB_LAST_CONTINUES));
        cr_assert_eq(c->head.flags & SMB_NEEDS_PATCHING, 0, "chunk %u was never patched", n);
        before = c;
    }
}

static void tree_run(size_t page, struct arbiter_cfg cfg, uint64_t seed, size_t scale, bool hold)
{
    struct fake f;
    struct fake_packet *got;
    enum { N = 60 };
    fake_init(&f, 512 * page, (uint32_t)page, cfg);
    f.hold = hold;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    uint64_t s = seed;
    for (int i = 0; i < N; i++) {
        write_tree(writer_begin(w), &s, 0, scale);
        writer_end(w);
        if (i % 7 == 0)
            fake_run(&f);
    }
    cr_assert_eq(writer_drops(w), 0);
    writer_free(w);
    fake_run(&f);
    fake_apply(&f);
    cr_assert_eq(f.patch_misses, 0);
    cr_assert_eq(fake_packets(&f, 1, &got), N);
    check_chain(&f, 1);
    s = seed;
    for (int i = 0; i < N; i++) {
        struct bytes_cur c = bytes_cur(bytes_view(got[i].data, got[i].len));
        struct bytes_field first;
        if (i == 0)
            cr_assert(bytes_next(&c, &first));
        check_tree(&c, &s, 0, scale);
        cr_assert(bytes_done(&c));
    }
    fake_packets_free(got, N);
    fake_fini(&f);
}

/* R31, R32, R48, R50. */
Test(writer, T9_fragments_and_patches_round_trip)
{
    for (uint64_t seed = 1; seed < 10; seed++) {
        tree_run(4096, div4, seed, 40, false);
        tree_run(4096, div4, seed, 3000, false);
        tree_run(4096, div4_batch, seed, 3000, true);
        tree_run(4096, div4_direct, seed, 3000, true);
        tree_run(4096, div4_direct, seed, 700, false);
        struct arbiter_cfg emulated = {.layout = SMB_LAYOUT_DIV14, .emulated = true};
        tree_run(4096, emulated, seed, 3000, false);
        struct arbiter_cfg div1 = {.layout = SMB_LAYOUT_NONE};
        tree_run(4096, div1, seed, 20000, false);
    }
    tree_run(65536, div4, 99, 60000, false);
}

Test(writer, T10_raw_bytes_are_verbatim)
{
    struct fake f;
    struct fake_packet *got;
    fake_init(&f, 65536, 4096, div4);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), 5000);
    writer_end(w);
    writer_free(w);
    fake_run(&f);
    cr_assert_eq(fake_packets(&f, 1, &got), 1);
    cr_assert_eq(got[0].len, 5003);
    cr_assert_arr_eq(got[0].data, ((uint8_t[]){0xB8, 0x05, 0x01}), 3);
    for (size_t i = 0; i < 5000; i++)
        cr_assert_eq(got[0].data[3 + i], (uint8_t)i);
    fake_packets_free(got, 1);
    fake_fini(&f);
}

/* R49, R51, R53: three places annotated in the first chunk, filled in after the packet grew over
 * two more. */
Test(writer, T11_annotated_patches)
{
    struct fake f;
    struct fake_packet *got;
    uint8_t *at[3];
    fake_init(&f, 65536, 4096, div4);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    struct pbw *p = writer_begin(w);
    for (int i = 0; i < 3; i++) {
        raw(p, 5);
        uint8_t *place = p->cur;
        raw(p, 4);
        at[i] = writer_annotate(w, place);
        cr_assert_not_null(at[i]);
        cr_assert(at[i] < f.shm.base || at[i] >= f.shm.base + f.shm.size);
        cr_assert_eq(place[0] | place[1] | place[2] | place[3], 0);
    }
    raw(p, 2 * payload_size(&f));
    for (int i = 0; i < 3; i++)
        memcpy(at[i], ((uint8_t[]){(uint8_t)(0x81 + i), 2, 3, 4}), 4);
    writer_end(w);
    writer_free(w);
    fake_run(&f);
    cr_assert_eq(f.patched, 3);
    cr_assert_eq(fake_packets(&f, 1, &got), 1);
    for (int i = 0; i < 3; i++)
        cr_assert_arr_eq(got[0].data + 3 + 9 * i + 5, ((uint8_t[]){(uint8_t)(0x81 + i), 2, 3, 4}),
                         4);
    fake_packets_free(got, 1);
    fake_fini(&f);
}

/* R41. T12 is fatal upstream; here the open packet is ended, which loses nothing. */
Test(writer, T12_begin_ends_an_open_packet)
{
    struct fake f;
    struct fake_packet *got;
    fake_init(&f, 65536, 4096, div4);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), 3);
    struct pbw *p = writer_begin(w);
    raw(p, 4);
    writer_end(w);
    pbw_varint(p, 1, 1); /* a write out of turn ends in the garbage */
    raw(p, 3000);
    pbw_begin(p, 3);
    pbw_end(p);
    raw(writer_begin(w), 5);
    writer_free(w);
    fake_run(&f);
    cr_assert_eq(fake_packets(&f, 1, &got), 3);
    cr_assert_eq(got[0].len, 6);
    cr_assert_eq(got[1].len, 4);
    cr_assert_eq(got[2].len, 5);
    fake_packets_free(got, 3);
    fake_fini(&f);
}

static uint32_t count_of(const struct fake *f, uint32_t page, uint32_t chunk)
{
    struct page_chunk at;
    page_locate(&f->shm, page, chunk, abi_word_layout(page_word(&f->shm, page)), &at);
    return abi_packets_count(page_packets(&at));
}

/* R23, R43, R44. */
Test(writer, T13_inflation)
{
    struct fake f;
    fake_init(&f, 65536, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), 10);
    cr_assert_eq(count_of(&f, 0, 0), 1);
    writer_end(w);
    cr_assert_eq(count_of(&f, 0, 0), 2);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_BEING_WRITTEN);
    writer_end(w);
    cr_assert_eq(count_of(&f, 0, 0), 2);
    writer_free(w);
    cr_assert_eq(count_of(&f, 0, 0), 2);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_COMPLETE);
    struct page_chunk at;
    page_locate(&f.shm, 0, 0, SMB_LAYOUT_DIV4, &at);
    cr_assert_eq(at.payload[0], 13);
    cr_assert_eq(at.payload[14], 0, "the second record is empty");
    fake_fini(&f);
}

Test(writer, T14_filled_to_the_last_byte)
{
    struct fake f;
    fake_init(&f, 65536, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), payload_size(&f) - 4 - 3);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_BEING_WRITTEN);
    writer_end(w);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_COMPLETE);
    cr_assert_eq(count_of(&f, 0, 0), 1);
    cr_assert_eq(page_word(&f.shm, 0) & ~0x30000003u, 0, "no second chunk was taken");
    writer_free(w);
    fake_fini(&f);
}

/* R42: 126 bytes compact, 127 do not. */
Test(writer, R42_limit_is_126)
{
    struct fake f;
    struct page_chunk at;
    fake_init(&f, 65536, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), 123); /* + 3 bytes of first_packet */
    writer_end(w);
    raw(writer_begin(w), 127);
    writer_end(w);
    page_locate(&f.shm, 0, 0, SMB_LAYOUT_DIV4, &at);
    cr_assert_eq(at.payload[0], 126);
    cr_assert_arr_eq(at.payload + 127, ((uint8_t[]){0xFF, 0x80, 0x80, 0x00}), 4);
    writer_free(w);
    fake_fini(&f);
}

/* R38.2: a chunk is given back once 1022 packets are in it, and when fewer than 12 bytes are free.
 */
Test(writer, R38_full_chunks)
{
    struct fake f;
    struct fake_packet *got;
    struct arbiter_cfg div1 = {.layout = SMB_LAYOUT_DIV1};
    fake_init(&f, 65536, 32768, div1);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    for (int i = 0; i < 1500; i++) {
        raw(writer_begin(w), 1);
        writer_end(w);
    }
    writer_free(w);
    fake_apply(&f);
    cr_assert_eq(fake_chunk(&f, 1, 0)->head.count, 1022);
    cr_assert_eq(fake_packets(&f, 1, &got), 1500);
    fake_packets_free(got, 1500);
    fake_fini(&f);

    fake_init(&f, 65536, 4096, div4);
    w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), payload_size(&f) - 4 - 3 - 11);
    writer_end(w);
    writer_begin(w);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 1), SMB_BEING_WRITTEN);
    writer_end(w);
    writer_free(w);
    fake_run(&f);
    fake_fini(&f);
}

/* Leaves a nested message open over the end of the chunk, then closes it. */
static void spanning_packet(const struct fake *f, struct writer *w)
{
    struct pbw *p = writer_begin(w);
    pbw_begin(p, 900);
    raw(p, payload_size(f));
    writer_end(w);
}

/* R74, R75. */
Test(writer, T15_direct_patching)
{
    struct fake f;
    fake_init(&f, 65536, 4096, div4_direct);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    struct pbw *p = writer_begin(w);
    pbw_begin(p, 900);
    raw(p, payload_size(&f));
    arbiter_flush(f.arb, NULL, NULL); /* chunk 0 leaves while its size is unknown */
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(f.requests[0].moves, 1);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_COMPLETE); /* R76 */
    writer_end(w);
    f.now = 0;
    fake_run(&f);
    cr_assert_eq(f.request_count, 2, "a patch for the service is urgent (R69)");
    cr_assert_eq(f.requests[1].moves, 0);
    cr_assert_eq(f.requests[1].entries, 1);

    spanning_packet(&f, w); /* over chunks 1 and 2, all while batching */
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 1), SMB_COMPLETE);
    struct page_chunk at;
    page_locate(&f.shm, 0, 1, SMB_LAYOUT_DIV4, &at);
    cr_assert_eq(abi_packets_flags(page_packets(&at)), SMB_FIRST_CONTINUES | SMB_LAST_CONTINUES);
    cr_assert_eq(abi_packets_count(page_packets(&at)), 2);
    fake_run(&f);
    cr_assert_eq(f.request_count, 2);
    writer_free(w);
    cr_assert_eq(f.requests[2].entries, 0);
    fake_apply(&f);
    cr_assert_eq(f.patched, 1);
    fake_fini(&f);
}

/* R68. */
Test(writer, T16_patch_goes_with_the_move)
{
    struct fake f;
    fake_init(&f, 65536, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    spanning_packet(&f, w);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_COMPLETE);
    struct page_chunk at;
    page_locate(&f.shm, 0, 0, SMB_LAYOUT_DIV4, &at);
    cr_assert(abi_packets_flags(page_packets(&at)) & SMB_NEEDS_PATCHING);
    fake_run(&f);
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(f.requests[0].moves, 1);
    cr_assert_eq(f.requests[0].entries, 1);
    writer_free(w);
    fake_apply(&f);
    fake_fini(&f);
}

static void fill_others(struct fake *f, struct writer **others, int n)
{
    for (int i = 0; i < n; i++) {
        others[i] = writer_new(f->arb, 2, ARBITER_DROP);
        raw(writer_begin(others[i]), 4);
        writer_end(others[i]);
    }
}

/* R54, R56, R58. */
Test(writer, T17_exhausted_while_fragmenting)
{
    struct fake f;
    struct writer *others[3];
    struct fake_packet *got;
    fake_init(&f, 4096, 4096, div4_batch);
    f.hold = true;
    fill_others(&f, others, 3);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    uint16_t id = writer_id(w);
    raw(writer_begin(w), 8);
    writer_end(w);
    struct pbw *p = writer_begin(w);
    pbw_begin(p, 900);
    raw(p, payload_size(&f));
    cr_assert_eq(writer_drops(w), 1);
    writer_end(w);
    cr_assert_eq(writer_drops(w), 1);
    struct page_chunk at;
    page_locate(&f.shm, 0, 3, SMB_LAYOUT_DIV4, &at);
    cr_assert_eq(page_packets(&at), 2, "two packets, no flags");
    /* The open message's size, behind 12 bytes of the first packet, 4 of size and 2 of tag, is
     * given up: the chunk is no longer ours when the message ends. */
    cr_assert_arr_eq(at.payload + 18, ((uint8_t[]){0, 0, 0, 0}), 4);
    for (int i = 0; i < 3; i++)
        writer_free(others[i]); /* flushes: everything is committed */
    fake_apply(&f);
    cr_assert_eq(f.patched, 0);

    raw(writer_begin(w), 1100); /* goes round the garbage */
    writer_end(w);
    raw(writer_begin(w), 7);
    writer_end(w);
    writer_free(w);
    fake_apply(&f);
    cr_assert_eq(fake_packets(&f, id, &got), 2);
    cr_assert_eq(got[0].len, 11);
    cr_assert_eq(got[1].len, 4 + 7);
    cr_assert_arr_eq(got[1].data, ((uint8_t[]){0xD0, 0x02, 0x81, 0x02}), 4);
    const struct fake_chunk *c = fake_chunk(&f, id, 1);
    cr_assert_eq(c->head.flags, 0);
    cr_assert_eq(c->head.count, 2); /* the packet and the announced empty one */
    fake_packets_free(got, 2);
    fake_fini(&f);
}

/* R55, R56, R60. */
Test(writer, T18_flush_exhaustion_recovery)
{
    struct fake f;
    struct writer *others[4];
    struct fake_packet *got;
    fake_init(&f, 4096, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), 8);
    writer_flush(w, NULL, NULL);
    fill_others(&f, others, 3); /* the fourth chunk is complete, not free */
    others[3] = NULL;
    raw(writer_begin(w), 8);
    writer_end(w);
    cr_assert_eq(writer_drops(w), 1);
    fake_apply(&f); /* frees w's first chunk */
    writer_flush(w, NULL, NULL);
    raw(writer_begin(w), 9);
    writer_end(w);
    writer_free(w);
    for (int i = 0; i < 3; i++)
        writer_free(others[i]);
    fake_apply(&f);
    cr_assert_eq(fake_packets(&f, 1, &got), 2);
    cr_assert_eq(got[1].len, 4 + 9);
    cr_assert_arr_eq(got[1].data, ((uint8_t[]){0xD0, 0x02, 0x81, 0x02}), 4);
    cr_assert_eq(fake_chunk(&f, 1, 1)->head.count, 2);
    fake_packets_free(got, 2);
    fake_fini(&f);
}

static void note(void *ctx, bool acked)
{
    *(int *)ctx += acked ? 1 : 100;
}

/* R58, R59, T19, T20, T23: a flush with a dropped packet's patches unsent; the garbage goes round;
 * one episode. */
Test(writer, T19_T20_T23_dropping)
{
    struct fake f;
    struct writer *others[2];
    int acks = 0;
    fake_init(&f, 4096, 4096, div4_batch);
    f.hold = true;
    fill_others(&f, others, 2);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    struct pbw *p = writer_begin(w);
    pbw_begin(p, 900);
    raw(p, 3 * payload_size(&f)); /* chunk 0 leaves with a patch owed, chunk 1 is cut off */
    cr_assert_eq(writer_drops(w), 1);
    uint8_t *at = p->cur;
    raw(p, 4);
    cr_assert_null(writer_annotate(w, at));
    for (int i = 0; i < 50; i++) {
        pbw_begin(p, 5);
        raw(p, 300);
        pbw_end(p);
    }
    writer_end(w);
    for (int i = 0; i < 20; i++) {
        raw(writer_begin(w), 400);
        writer_end(w);
    }
    cr_assert_eq(writer_drops(w), 1);
    writer_flush(w, note, &acks);
    fake_apply(&f);
    cr_assert_eq(acks, 1);
    cr_assert_eq(f.patch_misses, 0);
    writer_free(w);
    for (int i = 0; i < 2; i++)
        writer_free(others[i]);
    fake_apply(&f);
    fake_fini(&f);
}

Test(writer, T21_flush_callback_after_the_ack)
{
    struct fake f;
    int acks = 0;
    fake_init(&f, 65536, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    raw(writer_begin(w), 8);
    writer_end(w);
    writer_flush(w, note, &acks);
    cr_assert_eq(f.request_count, 1);
    cr_assert_neq(f.requests[0].cookie, 0);
    cr_assert_eq(acks, 0);
    fake_apply(&f);
    cr_assert_eq(acks, 1);
    writer_flush(w, note, &acks); /* nothing pending: an empty fence (R79) */
    cr_assert_eq(f.request_count, 2);
    cr_assert_eq(f.requests[1].len, 0);
    fake_apply(&f);
    cr_assert_eq(acks, 2);
    writer_free(w);
    fake_fini(&f);
}

Test(writer, T22_three_levels_one_entry)
{
    struct fake f;
    fake_init(&f, 65536, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    struct pbw *p = writer_begin(w);
    pbw_begin(p, 900);
    pbw_begin(p, 2);
    pbw_begin(p, 3);
    raw(p, payload_size(&f));
    writer_end(w);
    writer_flush(w, NULL, NULL);
    struct commit_view v;
    struct commit_pos pos = {0};
    struct commit_entry_view e;
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(commit_open(&v, f.requests[0].bytes, f.requests[0].len), 0);
    cr_assert_eq(v.entry_count, 1);
    cr_assert(commit_next_entry(&v, &pos, &e));
    cr_assert_eq(e.patch_count, 3);
    cr_assert_not(e.has_more);
    fake_apply(&f);
    writer_free(w);
    fake_fini(&f);
}

/* R67: closing only the outermost-but-one sizes later leaves has_more on the first entry. */
Test(writer, R67_has_more_patches)
{
    struct fake f;
    struct commit_view v;
    struct commit_pos pos = {0};
    struct commit_entry_view e;
    fake_init(&f, 65536, 4096, div4_batch);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    struct pbw *p = writer_begin(w);
    uint8_t *places[2];
    for (int i = 0; i < 2; i++) {
        uint8_t *at = p->cur;
        raw(p, 4);
        places[i] = writer_annotate(w, at);
    }
    memcpy(places[0], "\x81\x80\x80", 4);
    raw(p, payload_size(&f)); /* crossing hands over the first */
    writer_flush(w, NULL, NULL);
    cr_assert_eq(commit_open(&v, f.requests[0].bytes, f.requests[0].len), 0);
    cr_assert(commit_next_entry(&v, &pos, &e));
    cr_assert_eq(e.patch_count, 1);
    cr_assert(e.has_more);
    memcpy(places[1], "\x82\x80\x80", 4);
    writer_end(w); /* once more hands over the rest */
    writer_flush(w, NULL, NULL);
    pos.at = 0;
    cr_assert_eq(commit_open(&v, f.requests[1].bytes, f.requests[1].len), 0);
    cr_assert(commit_next_entry(&v, &pos, &e));
    cr_assert_not(e.has_more);
    fake_apply(&f);
    cr_assert_eq(f.patched, 2);
    writer_free(w);
    fake_fini(&f);
}

/* R45: a size field is never split; the 1-3 bytes before it stay unused. */
Test(writer, R45_size_fields_are_contiguous)
{
    for (uint32_t left = 0; left < 10; left++) {
        struct fake f;
        struct fake_packet *got;
        fake_init(&f, 65536, 4096, div4);
        struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
        struct pbw *p = writer_begin(w);
        raw(p, payload_size(&f) - 4 - 3 - left);
        pbw_begin(p, 2);
        pbw_str(p, 1, "hello");
        writer_end(w);
        writer_free(w);
        fake_run(&f);
        cr_assert_eq(fake_packets(&f, 1, &got), 1);
        struct bytes_cur c = bytes_cur(bytes_view(got[0].data, got[0].len));
        cr_assert(bytes_skip(&c, payload_size(&f) - 4 - left));
        struct bytes_field field;
        cr_assert(bytes_next(&c, &field), "%u bytes left", left);
        cr_assert_eq(field.id, 2);
        cr_assert_eq(field.data.n, 7);
        cr_assert(bytes_done(&c));
        fake_packets_free(got, 1);
        fake_fini(&f);
    }
}

Test(writer, counts_what_it_wrote)
{
    struct fake f;
    fake_init(&f, 65536, 4096, div4);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    cr_assert_eq(writer_written(w), 0);
    raw(writer_begin(w), 10);
    writer_end(w);
    cr_assert_eq(writer_written(w), 1 + 3 + 10);
    writer_flush(w, NULL, NULL);
    cr_assert_eq(writer_written(w), 15); /* and the empty packet */
    writer_free(w);
    fake_fini(&f);
}
