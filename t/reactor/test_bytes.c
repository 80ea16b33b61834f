/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile input for the cursor: every reader stays inside, moves only on success, and says so. */
#include "reactor/bytes.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define CUR(...)                                                                                   \
    bytes_cur(bytes_view((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})))

Test(bytes, little_endian_at_any_alignment)
{
    uint8_t raw[16] = {0};
    for (size_t at = 0; at < 8; at++) {
        bytes_store64(raw + at, 0x0123456789ABCDEF);
        cr_assert_eq(raw[at], 0xEF);
        cr_assert_eq(bytes_load64(raw + at), 0x0123456789ABCDEF);
        cr_assert_eq(bytes_load32(raw + at), 0x89ABCDEF);
        cr_assert_eq(bytes_load16(raw + at), 0xCDEF);
    }
}

Test(bytes, words_need_all_their_bytes)
{
    struct bytes_cur c = CUR(1, 2, 3, 4, 5, 6, 7);
    const uint8_t *start = c.p;
    uint64_t u64 = 42;
    uint32_t u32 = 0;
    uint16_t u16 = 0;
    uint8_t u8 = 0;
    cr_assert_not(bytes_get_u64(&c, &u64));
    cr_assert_eq(u64, 42);
    cr_assert_eq(c.p, start);
    cr_assert(bytes_get_u32(&c, &u32));
    cr_assert_eq(u32, 0x04030201);
    cr_assert_not(bytes_get_u32(&c, &u32));
    cr_assert(bytes_get_u16(&c, &u16));
    cr_assert_eq(u16, 0x0605);
    cr_assert_not(bytes_get_u16(&c, &u16));
    cr_assert(bytes_get_u8(&c, &u8));
    cr_assert_not(bytes_get_u8(&c, &u8));
    cr_assert(bytes_done(&c));
}

Test(bytes, varints_may_be_redundant)
{
    /* smb.md R27, R28; ipc.md R35 */
    uint64_t v = 0;
    struct bytes_cur c = CUR(0x81, 0x80, 0x80, 0x00, 0x80, 0x80, 0x80, 0x00, 0x7F);
    cr_assert(bytes_get_varint(&c, &v));
    cr_assert_eq(v, 1);
    cr_assert(bytes_get_varint_max(&c, 4, &v));
    cr_assert_eq(v, 0);
    cr_assert(bytes_get_varint(&c, &v));
    cr_assert_eq(v, 127);
    cr_assert(bytes_done(&c));
}

Test(bytes, varints_of_ten_bytes_and_no_more)
{
    uint64_t v = 5;
    struct bytes_cur c = CUR(0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01);
    cr_assert(bytes_get_varint(&c, &v));
    cr_assert_eq(v, UINT64_MAX);
    c = CUR(0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F);
    cr_assert(bytes_get_varint(&c, &v), "bits above 64 are dropped");
    cr_assert_eq(v, UINT64_MAX);
    v = 5;
    c = CUR(0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x80, 0x00);
    const uint8_t *start = c.p;
    cr_assert_not(bytes_get_varint(&c, &v), "service.md R123: continuation bit on the 10th byte");
    cr_assert_eq(v, 5);
    cr_assert_eq(c.p, start);
}

Test(bytes, varints_written_are_read_and_have_their_size)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int near = -1; near <= 1; near++) {
            uint8_t raw[BYTES_VARINT_MAX];
            uint64_t v = (UINT64_C(1) << bit) + (uint64_t)(int64_t)near, back = 0;
            size_t n = (size_t)(bytes_put_varint(raw, v) - raw);
            cr_expect_eq(n, bytes_varint_size(v), "%u %d", bit, near);
            struct bytes_cur cur = bytes_cur(bytes_view(raw, n));
            cr_expect(bytes_get_varint(&cur, &back) && bytes_done(&cur) && back == v);
        }
    }
    uint8_t raw[BYTES_VARINT_MAX];
    cr_expect_eq(bytes_put_tag(raw, 16, BYTES_LEN) - raw, 2);
    cr_expect_arr_eq(raw, ((uint8_t[]){0x82, 0x01}), 2);
}

Test(bytes, varints_cut_off_at_every_length)
{
    uint8_t raw[10];
    uint64_t v = 5;
    memset(raw, 0x80, sizeof(raw));
    for (size_t n = 0; n <= sizeof(raw); n++) {
        struct bytes_cur c = bytes_cur(bytes_view(raw, n));
        cr_assert_not(bytes_get_varint(&c, &v));
        cr_assert_eq(bytes_left(&c), n);
    }
    struct bytes_cur c = CUR(0x80, 0x80, 0x80, 0x80, 0x00);
    cr_assert_not(bytes_get_varint_max(&c, 4, &v), "smb.md R96: at most 4 bytes");
    cr_assert(bytes_get_varint_max(&c, 5, &v));
    cr_assert_eq(v, 0);
}

Test(bytes, lengths_beyond_the_end)
{
    struct bytes_view v = {NULL, 99};
    struct bytes_cur c = CUR(3, 'a', 'b');
    cr_assert_not(bytes_get_len(&c, &v));
    cr_assert_eq(bytes_left(&c), 3);
    c = CUR(0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 'a');
    cr_assert_not(bytes_get_len(&c, &v), "a length of 2^64 - 1 must not wrap");
    cr_assert_eq(v.n, 99);
    cr_assert_not(bytes_skip(&c, UINT64_MAX));
    c = CUR(2, 'a', 'b');
    cr_assert(bytes_get_len(&c, &v));
    cr_assert(bytes_equal(v, bytes_str("ab")));
    c = CUR(0);
    cr_assert(bytes_get_len(&c, &v));
    cr_assert_eq(v.n, 0);
}

Test(bytes, tags_are_checked)
{
    uint32_t id = 0;
    uint8_t type = 0;
    struct bytes_cur c = CUR(0xFA, 0xFF, 0xFF, 0xFF, 0x0F);
    cr_assert(bytes_get_tag(&c, &id, &type));
    cr_assert_eq(id, BYTES_MAX_FIELD);
    cr_assert_eq(type, BYTES_LEN);
    c = CUR(0xFA, 0xFF, 0xFF, 0xFF, 0x1F);
    cr_assert_not(bytes_get_tag(&c, &id, &type), "more than 32 bits");
    c = CUR(0x02);
    cr_assert_not(bytes_get_tag(&c, &id, &type), "field 0");
    c = CUR(0x0E);
    cr_assert_not(bytes_get_tag(&c, &id, &type), "wire type 6");
    c = CUR(0x0F);
    cr_assert_not(bytes_get_tag(&c, &id, &type), "wire type 7");
}

Test(bytes, walks_all_wire_types)
{
    struct bytes_cur c = CUR(0x08, 0x96, 0x01,                /* 1: 150 */
                             0x11, 1, 0, 0, 0, 0, 0, 0, 0x80, /* 2: fixed64 */
                             0x1A, 2, 'h', 'i',               /* 3: "hi" */
                             0x25, 0xFF, 0xFF, 0xFF, 0xFF,    /* 4: fixed32 */
                             0x2B, 0x08, 0x01, 0x2C,          /* 5: group { 1: 1 } */
                             0x30, 0x00);                     /* 6: 0 */
    struct bytes_field f;
    cr_assert(bytes_next(&c, &f));
    cr_assert(f.id == 1 && f.type == BYTES_VARINT && f.num == 150 && f.raw.n == 3);
    cr_assert(bytes_next(&c, &f));
    cr_assert(f.id == 2 && f.num == 0x8000000000000001u && f.raw.n == 9);
    cr_assert(bytes_next(&c, &f));
    cr_assert(f.id == 3 && bytes_equal(f.data, bytes_str("hi")) && f.raw.n == 4);
    cr_assert(bytes_next(&c, &f));
    cr_assert(f.id == 4 && f.num == UINT32_MAX && f.raw.n == 5);
    cr_assert(bytes_next(&c, &f));
    cr_assert(f.id == 5 && f.type == BYTES_GROUP && f.data.n == 2 && f.raw.n == 4);
    cr_assert(bytes_next(&c, &f));
    cr_assert(f.id == 6 && f.num == 0);
    cr_assert_not(bytes_next(&c, &f));
    cr_assert(bytes_done(&c));
}

Test(bytes, malformed_fields_are_not_a_clean_end)
{
    static const struct {
        uint8_t raw[8];
        size_t n;
    } cases[] = {
        {{0x08}, 1},                   /* no value */
        {{0x08, 0x80}, 2},             /* half a varint */
        {{0x11, 1, 2, 3, 4, 5, 6}, 7}, /* 6 of 8 bytes */
        {{0x1A, 5, 'a'}, 3},           /* 1 of 5 bytes */
        {{0x25, 1, 2, 3}, 4},          /* 3 of 4 bytes */
        {{0x2B, 0x08, 0x01}, 3},       /* group not closed */
        {{0x2B, 0x34}, 2},             /* group closed by another field's end */
        {{0x2C}, 1},                   /* end of no group */
        {{0x80}, 1},                   /* half a tag */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct bytes_cur c = bytes_cur(bytes_view(cases[i].raw, cases[i].n));
        struct bytes_field f = {.id = 77};
        cr_assert_not(bytes_next(&c, &f), "case %zu", i);
        cr_assert_eq(f.id, 77);
        cr_assert_eq(bytes_left(&c), cases[i].n);
    }
}

Test(bytes, groups_nest_to_a_bound)
{
    uint8_t raw[2 * BYTES_MAX_GROUPS + 2];
    struct bytes_field f;
    for (size_t depth = 1; depth <= BYTES_MAX_GROUPS + 1; depth++) {
        memset(raw, 0x0B, depth);
        memset(raw + depth, 0x0C, depth);
        struct bytes_cur c = bytes_cur(bytes_view(raw, 2 * depth));
        cr_assert_eq(bytes_next(&c, &f), depth <= BYTES_MAX_GROUPS);
    }
}

Test(bytes, finds_the_last_of_a_field)
{
    struct bytes_cur c = CUR(0x08, 1, 0x08, 2, 0x0A, 1, 'x');
    struct bytes_view msg = bytes_view(c.p, bytes_left(&c));
    struct bytes_field f = {.num = 9};
    cr_assert(bytes_find(msg, 1, BYTES_VARINT, &f));
    cr_assert_eq(f.num, 2);
    cr_assert(bytes_find(msg, 1, BYTES_LEN, &f));
    cr_assert_eq(f.data.n, 1);
    cr_assert_not(bytes_find(msg, 2, BYTES_LEN, &f));
    msg.n--;
    cr_assert_not(bytes_find(msg, 1, BYTES_VARINT, &f), "malformed further on");
}

Test(bytes, random_bytes_never_leave_the_view)
{
    /* Exactly sized heap blocks, so that a sanitizer or valgrind sees any step outside. */
    uint64_t state = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        size_t n = state % 40;
        uint8_t *raw = malloc(n != 0 ? n : 1);
        for (size_t i = 0; i < n; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            raw[i] = (uint8_t)(state >> 24) & (state & 1 ? 0xFF : 0x3F);
        }
        struct bytes_cur c = bytes_cur(bytes_view(raw, n));
        struct bytes_field f;
        size_t used = 0;
        while (bytes_next(&c, &f)) {
            used += f.raw.n;
            cr_assert(f.raw.p >= raw && f.raw.p + f.raw.n <= raw + n);
            cr_assert(f.data.n == 0 || (f.data.p >= raw && f.data.p + f.data.n <= raw + n));
        }
        cr_assert_eq(used + bytes_left(&c), n);
        free(raw);
    }
}
