/* SPDX-License-Identifier: Apache-2.0 */
/* svc/validate: service.md R123 to R126. Every case is also run with the packet cut into pieces at
 * each position, since fragmentation must not matter. */
#include <criterion/criterion.h>

#include "svc/validate.h"

static struct iovec piece(const void *p, size_t n)
{
    return (struct iovec){(void *)(uintptr_t)p, n};
}

/* Whole, then cut in two at every place with an empty piece between, then byte by byte: the
 * answers must agree. */
static bool valid(const uint8_t *p, size_t n)
{
    struct iovec whole = piece(p, n);
    bool answer = validate_packet(&whole, 1);
    for (size_t cut = 0; cut <= n; cut++) {
        struct iovec parts[3] = {piece(p, cut), piece(NULL, 0), piece(p + cut, n - cut)};
        cr_expect_eq(validate_packet(parts, 3), answer, "cut at %zu changes the answer", cut);
    }
    struct iovec bytes[64];
    cr_assert_leq(n, 64);
    for (size_t i = 0; i < n; i++)
        bytes[i] = piece(p + i, 1);
    cr_expect_eq(validate_packet(bytes, n), answer, "byte by byte changes the answer");
    size_t at = 0;
    enum validate_result some;
    while ((some = validate_some(p, n, &at, 1)) == VALIDATE_MORE)
        continue;
    cr_expect_eq(some == VALIDATE_GOOD, answer, "field by field changes the answer");
    return answer;
}

#define VALID(...)                                                                                 \
    cr_expect(valid((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})))
#define INVALID(...)                                                                               \
    cr_expect(!valid((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})))

Test(validate, R123_well_formed_packets_pass)
{
    cr_expect(validate_packet(NULL, 0), "a packet with no bytes is valid");
    VALID(0x40, 0x64);                               /* timestamp: 100 */
    VALID(0xB8, 0x05, 0x01, 0x40, 0x64);             /* first_packet_on_sequence, timestamp */
    VALID(0xA2, 0x38, 0x03, 0x0A, 0x01, 'x');        /* for_testing { str: "x" } */
    VALID(0xA2, 0x38, 0x81, 0x80, 0x80, 0x00, 0xFF); /* redundant length, inside not looked at */
    VALID(0x09, 1, 2, 3, 4, 5, 6, 7, 8);             /* fixed64, field 1 */
    VALID(0x0D, 1, 2, 3, 4);                         /* fixed32, field 1 */
    VALID(0x40, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01); /* 10-byte varint */
    VALID(0xC0, 0x00, 0x05); /* redundant tag of field 8 */
}

/* One packet { field: varint value }. */
static bool field_passes(uint32_t field, uint64_t value)
{
    uint8_t buf[20];
    size_t n = 0;
    for (uint64_t v = (uint64_t)field << 3;; v >>= 7) {
        buf[n++] = (uint8_t)(v >= 0x80 ? (v & 0x7F) | 0x80 : v);
        if (v < 0x80)
            break;
    }
    for (uint64_t v = value;; v >>= 7) {
        buf[n++] = (uint8_t)(v >= 0x80 ? (v & 0x7F) | 0x80 : v);
        if (v < 0x80)
            break;
    }
    return valid(buf, n);
}

Test(validate, R123_T88_fields_of_the_service_are_refused)
{
    static const uint32_t reserved[] = {3, 10, 33, 35, 36, 50, 69, 79, 98, 124, 125, 133};
    for (uint32_t field = 1, i = 0; field < 1100; field++) {
        bool is_reserved = i < sizeof(reserved) / sizeof(reserved[0]) && reserved[i] == field;
        i += is_reserved;
        cr_expect_eq(field_passes(field, 0), !is_reserved, "field %u with value 0", field);
        cr_expect_eq(field_passes(field, UINT64_MAX), !is_reserved, "field %u with -1", field);
    }
    INVALID(0x1A, 0x01, 0x00);             /* trusted_uid as bytes: the wire type does not help */
    INVALID(0x40, 0x64, 0x18, 0x00);       /* after an honest field */
    INVALID(0x98, 0x80, 0x80, 0x00, 0x00); /* redundant tag of field 3 */
}

Test(validate, R123_2_bad_wire_types_are_refused)
{
    INVALID(0x43);       /* start group */
    INVALID(0x43, 0x44); /* a whole group */
    INVALID(0x44);       /* end group */
    INVALID(0x46, 0x00); /* type 6 */
    INVALID(0x47, 0x00); /* type 7 */
}

Test(validate, R123_3_endless_varints_are_refused)
{
    INVALID(0x40, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01);
    INVALID(0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01);
}

Test(validate, R123_4_lengths_above_28_bits_are_refused)
{
    INVALID(0xA2, 0x38, 0x80, 0x80, 0x80, 0x80, 0x01);
    INVALID(0xA2, 0x38, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01);
    /* The limit itself is well formed when the bytes are there: one page, named many times. */
    static uint8_t page[65536];
    enum { FULL = 268435455 / sizeof(page), REST = 268435455 % sizeof(page) };
    static struct iovec parts[FULL + 2];
    static const uint8_t head[] = {0xA2, 0x38, 0xFF, 0xFF, 0xFF, 0x7F};
    parts[0] = piece(head, sizeof(head));
    for (size_t i = 1; i <= FULL; i++)
        parts[i] = piece(page, sizeof(page));
    parts[FULL + 1] = piece(page, REST);
    cr_expect(validate_packet(parts, FULL + 2));
    parts[FULL + 1].iov_len--;
    cr_expect(!validate_packet(parts, FULL + 2), "one byte is missing");
}

Test(validate, R123_T88_truncated_packets_are_refused)
{
    INVALID(0x40);                         /* tag only */
    INVALID(0xB8);                         /* half a tag */
    INVALID(0x40, 0x80);                   /* half a varint */
    INVALID(0x09, 1, 2, 3, 4, 5, 6, 7);    /* seven of eight bytes */
    INVALID(0x0D, 1, 2, 3);                /* three of four */
    INVALID(0xA2, 0x38, 0x03, 0x0A, 0x01); /* two of three */
    INVALID(0x40, 0x64, 0xA2);             /* trailing bytes */
}

Test(validate, R123_tags_that_readers_misread_are_refused)
{
    INVALID(0x00, 0x01);                               /* field number 0 */
    INVALID(0xD0, 0x80, 0x80, 0x80, 0x10, 0x01);       /* field 2^29 + 10 */
    INVALID(0xC0, 0x80, 0x80, 0x80, 0x80, 0x01, 0x01); /* above 32 bits */
    VALID(0xF8, 0xFF, 0xFF, 0xFF, 0x0F, 0x01);         /* 2^29 - 1, the last one */
}

static void expect_trailer(struct validate_origin o, const uint8_t *want, size_t n)
{
    uint8_t out[VALIDATE_TRAILER_MAX];
    size_t got = validate_trailer(out, &o);
    cr_assert_eq(got, n);
    cr_expect_arr_eq(out, want, n);
}

Test(validate, R125_trailer_in_the_order_of_the_rule)
{
    static const uint8_t all[] = {0x18, 0xE8, 0x07, 0x50, 0x02, 0xF8, 0x04, 0xD2,
                                  0x09, 0x90, 0x06, 0x07, 0xD0, 0x02, 0x03};
    expect_trailer((struct validate_origin){1000, 1234, 2, 7, 3}, all, sizeof(all));
    static const uint8_t bare[] = {0x18, 0x00, 0x50, 0x03};
    expect_trailer((struct validate_origin){0, -1, 3, 0, 0}, bare, sizeof(bare));
}

Test(validate, R125_longest_trailer_fits)
{
    uint8_t out[VALIDATE_TRAILER_MAX];
    struct validate_origin o = {-1, -2, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    cr_expect_leq(validate_trailer(out, &o), sizeof(out));
    cr_expect_eq(out[0], 0x18);
    cr_expect_eq(out[10], 0x01, "a negative int32 takes ten bytes");
}
