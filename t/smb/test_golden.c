/* SPDX-License-Identifier: Apache-2.0 */
/* The worked example of the SMB specification, section 11, byte by byte. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "fake.h"

static const struct arbiter_cfg div2_cfg = {.layout = SMB_LAYOUT_DIV2, .batch_ms = 1000};

/* The example's writer is number 7. */
static struct writer *seventh(struct fake *f, struct writer *others[6])
{
    for (int i = 0; i < 6; i++)
        others[i] = writer_new(f->arb, 1, ARBITER_DROP);
    struct writer *w = writer_new(f->arb, 5, ARBITER_DROP);
    cr_assert_eq(writer_id(w), 7);
    return w;
}

static void free_all(struct writer *w, struct writer *others[6])
{
    writer_free(w);
    for (int i = 0; i < 6; i++)
        writer_free(others[i]);
}

static void small_packet(struct writer *w, uint64_t ts)
{
    struct pbw *p = writer_begin(w);
    pbw_varint(p, 8, ts);
    writer_end(w);
}

static void big_packet_open(struct writer *w)
{
    char xs[2100];
    memset(xs, 'x', sizeof(xs));
    struct pbw *p = writer_begin(w);
    pbw_varint(p, 8, 101);
    pbw_begin(p, 900);
    pbw_bytes(p, 1, xs, sizeof(xs));
}

static uint16_t packets_of(const struct fake *f, size_t offset)
{
    uint16_t v;
    memcpy(&v, f->shm.base + offset + 6, sizeof(v));
    return v;
}

#define CHUNK0 8
#define CHUNK1 2052

static void check_bytes(const uint8_t *at, const char *hex)
{
    for (size_t i = 0; *hex; i++) {
        unsigned b;
        cr_assert_eq(sscanf(hex, "%2x", &b), 1);
        cr_assert_eq(at[i], b, "byte %zu is %02x, not %02x", i, at[i], b);
        hex += 2;
        hex += *hex == ' ';
    }
}

Test(golden, section_11_bytes_and_words)
{
    struct fake f;
    struct writer *others[6];
    fake_init(&f, 8192, 4096, div2_cfg);
    f.hold = true;
    struct writer *w = seventh(&f, others);
    cr_assert_eq(page_word(&f.shm, 0), 0);

    struct pbw *p = writer_begin(w);
    cr_assert_eq(page_word(&f.shm, 0), 0x20000001);
    cr_assert_eq(packets_of(&f, CHUNK0), 1);
    pbw_varint(p, 8, 100);
    writer_end(w);
    cr_assert_eq(packets_of(&f, CHUNK0), 2); /* inflated, R43 */

    big_packet_open(w);
    cr_assert_eq(page_word(&f.shm, 0), 0x20000007);
    cr_assert_eq(packets_of(&f, CHUNK0), 0x1802);
    cr_assert_eq(packets_of(&f, CHUNK1), 0x0401);
    writer_end(w);
    cr_assert_eq(packets_of(&f, CHUNK1), 0x0402);
    p = writer_begin(w);
    cr_assert_eq(packets_of(&f, CHUNK1), 0x0402);
    pbw_varint(p, 8, 102);
    writer_end(w);
    cr_assert_eq(packets_of(&f, CHUNK1), 0x0403);
    writer_flush(w, NULL, NULL);

    const uint8_t *base = f.shm.base;
    check_bytes(base, "0F 00 00 20 00 00 00 00");
    check_bytes(base + 0x08, "00 00 00 00 07 00 02 18 05 B8 05 01 40 64 EA 8F 80 00 40 65 A2 38");
    check_bytes(base + 0x22, "0A B4 10");
    for (size_t i = 0x25; i < 0x804; i++)
        cr_assert_eq(base[i], 0x78);
    check_bytes(base + 0x804, "01 00 00 00 07 00 03 04 D5 80 80 00");
    for (size_t i = 0x810; i < 0x865; i++)
        cr_assert_eq(base[i], 0x78);
    check_bytes(base + 0x865, "02 40 66 00");

    /* P1 ended before the request left: one request with both moves and the patch. */
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(f.requests[0].len, 8 + 18 + 8);
    check_bytes(f.requests[0].bytes, "0A 06 08 00 10 00 18 05 0A 06 08 00 10 01 18 05 "
                                     "12 10 08 05 10 07 18 00 22 08 08 0E 12 04 B7 90 80 00");

    /* The service's half of the life of the page word. */
    struct scan_chunk c;
    cr_assert_eq(scan_acquire(&f.shm, 0, 0, &c), 0);
    cr_assert_eq(page_word(&f.shm, 0), 0x2000000E);
    cr_assert_eq(c.count, 2);
    cr_assert_eq(c.flags, SMB_LAST_CONTINUES | SMB_NEEDS_PATCHING);
    cr_assert_eq(scan_release(&f.shm, &c), 0);
    cr_assert_eq(page_word(&f.shm, 0), 0x2000000C);
    cr_assert_eq(scan_acquire(&f.shm, 0, 1, &c), 0);
    cr_assert_eq(page_word(&f.shm, 0), 0x20000008);
    cr_assert_eq(scan_release(&f.shm, &c), 0);
    cr_assert_eq(page_word(&f.shm, 0), 0);
    free_all(w, others);
    fake_fini(&f);
}

Test(golden, section_11_packets_come_back)
{
    struct fake f;
    struct writer *others[6];
    struct fake_packet *got;
    fake_init(&f, 8192, 4096, div2_cfg);
    struct writer *w = seventh(&f, others);
    small_packet(w, 100);
    big_packet_open(w);
    writer_end(w);
    small_packet(w, 102);
    free_all(w, others);
    fake_run(&f);

    cr_assert_eq(fake_packets(&f, 7, &got), 3);
    cr_assert_eq(got[0].len, 5);
    check_bytes(got[0].data, "B8 05 01 40 64");
    cr_assert_eq(got[1].len, 2111);
    check_bytes(got[1].data, "40 65 A2 38 B7 90 80 00 0A B4 10 78");
    cr_assert_eq(got[2].len, 2);
    check_bytes(got[2].data, "40 66");
    fake_packets_free(got, 3);
    fake_fini(&f);
}

/* "If the SMB had been full when P1 needed chunk 1". */
Test(golden, section_11_full)
{
    struct fake f;
    struct writer *others[6];
    struct fake_packet *got;
    fake_init(&f, 4096, 4096, div2_cfg);
    f.hold = true;
    struct writer *w = seventh(&f, others);
    small_packet(w, 100);
    struct pbw *p = writer_begin(others[0]); /* takes the other chunk */
    pbw_varint(p, 8, 1);
    big_packet_open(w);
    check_bytes(f.shm.base + 0x16, "FF FF FF 7F");
    cr_assert_eq(packets_of(&f, CHUNK0), 2);
    writer_end(w);
    cr_assert_eq(writer_drops(w), 1);
    writer_flush(others[0], NULL, NULL);
    fake_apply(&f);
    writer_flush(w, NULL, NULL); /* new chunk at the next packet */
    p = writer_begin(w);
    pbw_varint(p, 8, 103);
    writer_end(w);
    free_all(w, others);
    fake_apply(&f);
    cr_assert_eq(fake_packets(&f, 7, &got), 2);
    check_bytes(got[0].data, "B8 05 01 40 64");
    check_bytes(got[1].data, "D0 02 81 02 40 67");
    const struct fake_chunk *c = fake_chunk(&f, 7, 1);
    cr_assert_not_null(c);
    cr_assert_eq(c->head.flags, 0);
    cr_assert_eq(f.patched, 0);
    fake_packets_free(got, 2);
    fake_fini(&f);
}

/* "If scraped at the moment chunk 1 holds P2 finished". */
Test(golden, section_11_scraped)
{
    struct fake f;
    struct writer *others[6];
    struct scan_iter it;
    struct scan_chunk c;
    uint32_t budget = 100;
    fake_init(&f, 8192, 4096, div2_cfg);
    f.hold = true;
    struct writer *w = seventh(&f, others);
    small_packet(w, 100);
    big_packet_open(w);
    writer_end(w);
    small_packet(w, 102);
    scan_begin(&it, &f.shm);
    cr_assert_eq(scan_next(&it, &budget, &c), SCAN_FOUND);
    cr_assert_not(c.incomplete);
    cr_assert_eq(scan_count(&c), 2);
    cr_assert_eq(scan_next(&it, &budget, &c), SCAN_FOUND);
    cr_assert(c.incomplete);
    cr_assert_eq(scan_count(&c), 2);
    cr_assert_eq(scan_flags(&c), SMB_FIRST_CONTINUES);
    cr_assert_eq(scan_next(&it, &budget, &c), SCAN_END);
    free_all(w, others);
    fake_apply(&f);
    fake_fini(&f);
}
