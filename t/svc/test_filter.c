/* SPDX-License-Identifier: Apache-2.0 */
/* svc/filter, svc/filter_code, svc/filter_strings: service.md R136 to R152. */
#include <criterion/criterion.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/bytesbuf.h"
#include "reactor/err.h"
#include "svc/filter.h"

enum { END, SIMPLE, RANGE, NESTED, STRING, STRING_TYPE };
#define OP(field, op) ((uint32_t)(field) << 3 | (op))

static struct filter *f;
static struct filter *cut; /* the same, but it gets its work in pieces */
static uint32_t seed = 1;
static struct bytesbuf config;
static char why[200];

static void setup(void)
{
    bytesbuf_init(&config, 1 << 20);
}

static void teardown(void)
{
    filter_free(f);
    filter_free(cut);
    bytesbuf_fini(&config);
}

TestSuite(filter, .init = setup, .fini = teardown);

/* Adds the words and their checksum as a field of the TraceFilter. */
static void add_code(uint32_t field, const uint32_t *w, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    size_t mark = bytesbuf_pb_begin(&config, field);
    for (size_t i = 0; i < n; i++) {
        bytesbuf_put_varint(&config, w[i]);
        for (int b = 0; b < 4; b++)
            hash = (hash ^ (w[i] >> 8 * b & 0xFF)) * 0x100000001b3u;
    }
    bytesbuf_put_varint(&config, (uint32_t)hash);
    bytesbuf_pb_end(&config, mark);
}

#define CODE(field, ...)                                                                           \
    add_code(field, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

static int build(void)
{
    filter_free(f);
    filter_free(cut);
    f = cut = NULL;
    why[0] = '\0';
    int rc = filter_new(bytesbuf_view(&config), &f, why, sizeof(why));
    if (rc == 0)
        cr_assert_eq(filter_new(bytesbuf_view(&config), &cut, why, sizeof(why)), 0);
    cr_expect_eq(rc != 0, why[0] != '\0', "a refusal says why");
    bytesbuf_clear(&config);
    return rc;
}

/* Program whose message 1 (TracePacket) has the given instructions. */
#define PACKET_CODE(...) CODE(2, OP(1, NESTED), 1, END, __VA_ARGS__, END)

static struct packet out;

static uint32_t below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* The same packet in steps of random size, some of them tiny: it comes out the same. */
static void run_in_steps(const struct packet *in, bool want_failed)
{
    struct packet got;
    bool failed = false;
    uint64_t steps = 0, most = below(4) == 0 ? 20 : 20000, work;
    filter_begin(cut);
    if (below(2)) {
        cr_assert_eq(filter_take(cut, in), 0);
    } else {
        static uint8_t *place;
        free(place);
        place = malloc(in->size + 1); /* so that what is read past it is seen */
        memcpy(place, in->parts[0].iov_base, in->parts[0].iov_len);
        memcpy(place + in->parts[0].iov_len, in->parts[1].iov_base, in->parts[1].iov_len);
        filter_take_place(cut, place, in->size, in->buffer);
    }
    do
        work = 1 + below((uint32_t)most), steps++;
    while (!filter_step(cut, &work, &got, &failed));
    cr_assert_eq(failed, want_failed, "in %lu steps", (unsigned long)steps);
    cr_assert_eq(got.size, out.size);
    cr_assert_eq(got.nparts, out.nparts);
    if (got.size > 0)
        cr_assert_arr_eq(got.parts[0].iov_base, out.parts[0].iov_base, got.size);
    struct filter_stats a, b;
    filter_get_stats(f, &a);
    filter_get_stats(cut, &b);
    cr_expect_eq(a.errors, b.errors);
    cr_expect_eq(a.output_bytes, b.output_bytes);
    cr_expect_eq(a.buffers, b.buffers);
}

/* Filters the bytes, cut in two at `cut`. */
static bool run(const void *p, size_t n, int buffer)
{
    uint8_t *at = (uint8_t *)(uintptr_t)p;
    struct iovec parts[2] = {{at, n / 3}, {at + n / 3, n - n / 3}};
    struct packet in = {.parts = parts, .nparts = 2, .size = n, .buffer = buffer};
    bool failed = false;
    uint64_t work = UINT64_MAX;
    filter_begin(f);
    cr_assert_eq(filter_take(f, &in), 0);
    cr_assert(filter_step(f, &work, &out, &failed));
    cr_expect_leq(out.size, n, "R145: never longer than the input");
    cr_expect_eq(out.nparts, (size_t)(out.size > 0));
    run_in_steps(&in, failed);
    return !failed;
}

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
#define B(...)     BYTES(__VA_ARGS__)

static void expect_out(const uint8_t *want, size_t n)
{
    cr_assert_eq(out.size, n, "got %zu bytes, want %zu", out.size, n);
    if (n > 0)
        cr_expect_arr_eq(out.parts[0].iov_base, want, n);
}

Test(filter, R140_R142_R144_T146_invalid_bytecode_is_refused)
{
    cr_expect_eq(build(), ERR_BAD_CONFIG, "no bytecode at all");
    CODE(1, END);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "R144: field 1 is not nested");
    add_code(1, NULL, 0);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "only a checksum: valid bytecode, but R144");
    bytesbuf_pb_bytes(&config, 1, "\x0B\x01\x00\x00\x05", 5);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "checksum");
    CODE(1, OP(1, NESTED), 1, END, OP(0, SIMPLE), END);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "field 0");
    CODE(1, OP(1, NESTED), 1, END, OP(5, 6), END);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "opcode 6");
    CODE(1, OP(1, NESTED), 1, END, OP(5, 7), END);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "opcode 7");
    CODE(1, OP(1, NESTED), 1, END, OP(5, RANGE));
    cr_expect_eq(build(), ERR_BAD_CONFIG, "missing word");
    CODE(1, OP(1, NESTED), 1, END, OP(5, SIMPLE));
    cr_expect_eq(build(), ERR_BAD_CONFIG, "no end of message");
    CODE(1, OP(1, NESTED), 1, END, OP(5, NESTED));
    cr_expect_eq(build(), ERR_BAD_CONFIG, "missing message index");
    CODE(1, OP(1, NESTED), 1, END, OP(5, STRING_TYPE));
    cr_expect_eq(build(), ERR_BAD_CONFIG, "missing semantic type");
    CODE(1, OP(1, NESTED), 2, END, END);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "message 2 of 2");
    CODE(1, OP(1, NESTED), 1, END, OP(200, SIMPLE), OP(150, RANGE), 51, END);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "overlap above 127");
}

Test(filter, R142_what_is_valid)
{
    CODE(1, OP(1, NESTED), 1, END, OP(200, SIMPLE), OP(150, RANGE), 50, END);
    cr_expect_eq(build(), 0, "%s", why);
    CODE(1, OP(1, NESTED), 1, END, OP(5, SIMPLE), OP(5, SIMPLE), END);
    cr_expect_eq(build(), 0, "overlap below 128: %s", why);
    CODE(1, OP(1, NESTED), 0, END);
    cr_expect_eq(build(), 0, "a cycle: %s", why);
    CODE(1, OP(1, NESTED), 1, END, OP(3, RANGE), 0, END);
    cr_expect_eq(build(), 0, "an empty range: %s", why);
    CODE(1, OP(1, NESTED), 1, END, OP(0x1FFFFFFF, RANGE), 0xFFFFFFFF, END);
    cr_expect_eq(build(), 0, "a huge range costs nothing: %s", why);
}

/* One number in each of a few fields: which of them pass. The text has one digit for each. */
static const char *passing(const uint32_t *fields, size_t n)
{
    static char text[32];
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    for (size_t i = 0; i < n; i++)
        bytesbuf_pb_varint(&b, fields[i], 7);
    cr_expect(run(b.p, b.n, 0));
    struct bytes_cur cur = bytes_cur(bytes_view(out.size ? out.parts[0].iov_base : NULL, out.size));
    memset(text, '0', n);
    text[n] = '\0';
    for (struct bytes_field one; bytes_next(&cur, &one);) {
        for (size_t i = 0; i < n; i++) {
            if (fields[i] == one.id)
                text[i] = '1';
        }
    }
    bytesbuf_fini(&b);
    return text;
}

#define PASSING(...)                                                                               \
    passing((const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

Test(filter, T143_T144_T145_exactly_these_fields)
{
    PACKET_CODE(OP(2, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect_str_eq(PASSING(1, 2, 3), "010", "T143");
    PACKET_CODE(OP(1, SIMPLE), OP(7, SIMPLE), OP(8, SIMPLE), OP(127, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect_str_eq(PASSING(1, 2, 6, 7, 8, 9, 126, 127, 128, 1000), "1001100100", "T144");
    PACKET_CODE(OP(1000, SIMPLE), OP(1001, SIMPLE), OP(2000, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect_str_eq(PASSING(1, 104, 999, 1000, 1001, 1002, 1999, 2000, 2001), "000110010", "T144");
    PACKET_CODE(OP(126, RANGE), 4);
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect_str_eq(PASSING(125, 126, 127, 128, 129, 130), "011110", "T145");
    PACKET_CODE(OP(5, RANGE), 0, OP(500, RANGE), 0);
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect_str_eq(PASSING(4, 5, 6, 499, 500, 501), "000000", "T145: ranges of length 0");
}

Test(filter, T147_messages_that_hold_themselves)
{
    PACKET_CODE(OP(1, NESTED), 1, OP(2, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect(run(B(0x0A, 6, 0x0A, 2, 0x10, 5, 0x18, 5, 0x10, 5), 0));
    expect_out(B(0x0A, 4, 0x0A, 2, 0x10, 5, 0x10, 5));
    /* 2 holds 3 holds 2; only message 3 allows field 4. */
    PACKET_CODE(OP(2, NESTED), 2, END, OP(3, NESTED), 3, END, OP(2, NESTED), 2, OP(4, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect(run(B(0x12, 10, 0x1A, 6, 0x12, 4, 0x1A, 2, 0x20, 5, 0x20, 5), 0));
    expect_out(B(0x12, 8, 0x1A, 6, 0x12, 4, 0x1A, 2, 0x20, 5));
}

Test(filter, R139_v2_wins_over_v1)
{
    CODE(1, OP(1, NESTED), 1, END, OP(8, SIMPLE), END);
    CODE(2, OP(1, NESTED), 1, END, OP(9, SIMPLE), END);
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect(run(B(0x40, 0x01, 0x48, 0x02), 0));
    expect_out(B(0x48, 0x02));
}

Test(filter, R141_R145_fields_pass_or_not)
{
    PACKET_CODE(OP(1, SIMPLE), OP(2, NESTED), 2, OP(3, STRING), OP(126, RANGE), 4, END,
                OP(1, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect(run(B(0x08, 0x05), 0));
    expect_out(B(0x08, 0x05));
    cr_expect(run(B(0x0D, 1, 2, 3, 4, 0x09, 1, 2, 3, 4, 5, 6, 7, 8), 0));
    expect_out(B(0x0D, 1, 2, 3, 4, 0x09, 1, 2, 3, 4, 5, 6, 7, 8));
    cr_expect(run(B(0x0A, 0x02, 0xFF, 0xFF), 0), "a simple submessage is not looked into");
    expect_out(B(0x0A, 0x02, 0xFF, 0xFF));
    cr_expect(run(B(0x20, 0x05, 0x25, 1, 2, 3, 4, 0x22, 0x01, 'x'), 0), "field 4 is not allowed");
    expect_out(NULL, 0);
    cr_expect(run(B(0x10, 0x05, 0x18, 0x05), 0), "numbers where messages or strings are allowed");
    expect_out(NULL, 0);
    cr_expect(run(B(0x12, 0x04, 0x08, 0x01, 0x10, 0x02), 0));
    expect_out(B(0x12, 0x02, 0x08, 0x01));
    cr_expect(run(B(0x12, 0x00), 0), "a nested field of length 0 stays");
    expect_out(B(0x12, 0x00));
    cr_expect(run(B(0x12, 0x02, 0x10, 0x02), 0), "all of a submessage removed");
    expect_out(B(0x12, 0x00));
    /* 126..129: the range crosses the end of the direct table. */
    cr_expect(run(
        B(0xE8, 0x07, 1, 0xF0, 0x07, 1, 0xF8, 0x07, 1, 0x80, 0x08, 1, 0x88, 0x08, 1, 0x90, 0x08, 1),
        0));
    expect_out(B(0xF0, 0x07, 1, 0xF8, 0x07, 1, 0x80, 0x08, 1, 0x88, 0x08, 1));
}

Test(filter, R145_widths)
{
    PACKET_CODE(OP(2, NESTED), 2, OP(8, SIMPLE), END, OP(1, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect(run(B(0xC0, 0x80, 0x00, 0x85, 0x80, 0x00), 0), "redundant varints are shortened");
    expect_out(B(0x40, 0x05));
    /* 130 bytes of payload need two length bytes; what is left needs one and keeps two. */
    uint8_t big[3 + 130] = {0x12, 0x82, 0x01, 0x08, 0x07, 0x12, 0x7D};
    big[5 + 2 + 125 - 0] = 0x00;
    big[3 + 129] = 0x00;
    cr_expect(!run(big, sizeof(big), 0), "payload ends in the middle of a field");
    uint8_t fits[3 + 130] = {0x12, 0x82, 0x01, 0x08, 0x07, 0x12, 0x7E};
    cr_expect(run(fits, sizeof(fits), 0));
    expect_out(B(0x12, 0x82, 0x00, 0x08, 0x07));
}

Test(filter, R137_R145_T150_packets_that_do_not_parse_become_empty)
{
    PACKET_CODE(OP(8, SIMPLE), OP(2, NESTED), 1);
    cr_assert_eq(build(), 0, "%s", why);
    static const struct {
        uint8_t bytes[16];
        size_t n;
        const char *what;
    } bad[] = {
        {{0x40}, 1, "tag only"},
        {{0x40, 0x80}, 2, "half a varint"},
        {{0x42, 0x05, 1}, 3, "length beyond the end"},
        {{0x12, 0x02, 0x40, 0x80}, 4, "unfinished in a submessage"},
        {{0x12, 0x02, 0x42, 0x01, 0x00}, 5, "longer than the enclosing message"},
        {{0x43, 0x44}, 2, "groups"},
        {{0x46, 0x00}, 2, "wire type 6"},
        {{0x40, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 12, "varint"},
        {{0x41, 1, 2, 3}, 4, "half a fixed64"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint8_t packet[32] = {0x40, 0x07}; /* what came before must not leave either */
        memcpy(packet + 2, bad[i].bytes, bad[i].n);
        cr_expect(!run(packet, bad[i].n + 2, 0), "%s", bad[i].what);
        expect_out(NULL, 0);
    }
    struct filter_stats stats;
    filter_get_stats(f, &stats);
    cr_expect_eq(stats.errors, sizeof(bad) / sizeof(bad[0]));
    cr_expect_eq(stats.buffers, 0, "R138: failed packets are not attributed");
    cr_expect(run(B(0x40, 0x07), 0), "the following packet is unaffected");
    expect_out(B(0x40, 0x07));
}

Test(filter, nesting_without_end_is_bounded)
{
    PACKET_CODE(OP(2, NESTED), 1);
    cr_assert_eq(build(), 0, "%s", why);
    static uint8_t deep[4096];
    size_t n = 0;
    for (size_t left = 3000; n < 2000; left -= 3) { /* each level: tag, two length bytes */
        deep[n++] = 0x12;
        deep[n++] = (uint8_t)((left & 0x7F) | 0x80);
        deep[n++] = (uint8_t)(left >> 7);
    }
    cr_expect(!run(deep, 3003, 0));
    expect_out(NULL, 0);
}

Test(filter, R143_T148_T149_overlay)
{
    PACKET_CODE(OP(8, SIMPLE), OP(200, RANGE), 10);
    CODE(4, 1, OP(9, SIMPLE), 0, 1, OP(204, STRING), 0, 1, OP(300, SIMPLE), 0);
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect(
        run(B(0x40, 1, 0x48, 2, 0xD8, 0x0C, 3, 0xE0, 0x0C, 4, 0xE8, 0x0C, 5, 0xE0, 0x12, 6), 0));
    expect_out(B(0x40, 1, 0x48, 2, 0xD8, 0x0C, 3, 0xE8, 0x0C, 5, 0xE0, 0x12, 6));

    /* Before, between and behind, in two messages: 1 allows 20 and 30, 2 allows 200. */
    PACKET_CODE(OP(20, SIMPLE), OP(30, NESTED), 2, END, OP(200, SIMPLE));
    CODE(4, 1, OP(10, SIMPLE), 0, 1, OP(25, SIMPLE), 0, 1, OP(40, SIMPLE), 0, 2, OP(3, SIMPLE), 0,
         2, OP(150, SIMPLE), 0, 2, OP(201, SIMPLE), 0);
    cr_assert_eq(build(), 0, "%s", why);
    cr_expect_str_eq(PASSING(9, 10, 20, 25, 26, 40, 41, 150, 200), "011101000", "T148");
    cr_expect(run(
        B(0xF2, 0x01, 13, 0x18, 1, 0x20, 2, 0xB0, 0x09, 3, 0xC0, 0x0C, 4, 0xC8, 0x0C, 5, 0x50, 6),
        0));
    expect_out(B(0xF2, 0x01, 11, 0x18, 1, 0xB0, 0x09, 3, 0xC0, 0x0C, 4, 0xC8, 0x0C, 5, 0x50, 6));

    PACKET_CODE(OP(8, SIMPLE));
    add_code(4, NULL, 0);
    cr_expect_eq(build(), 0, "an overlay with only a checksum: %s", why);
    PACKET_CODE(OP(8, SIMPLE));
    CODE(4, 1, END, 0);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "T149: an end of message");
    PACKET_CODE(OP(8, SIMPLE), END, OP(9, SIMPLE));
    CODE(4, 2, OP(5, SIMPLE), 0, 1, OP(6, SIMPLE), 0);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "T149: messages out of order");
    PACKET_CODE(OP(8, SIMPLE));
    CODE(4, 1, OP(9, SIMPLE));
    cr_expect_eq(build(), ERR_BAD_CONFIG, "not a multiple of three");
    PACKET_CODE(OP(8, SIMPLE));
    CODE(4, 2, OP(9, SIMPLE), 0);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "message beyond the base");
    PACKET_CODE(OP(8, SIMPLE));
    CODE(4, 1, OP(9, SIMPLE), 0, 1, OP(9, STRING), 0);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "not strictly ascending");
    PACKET_CODE(OP(8, SIMPLE));
    CODE(4, 1, OP(9, NESTED), 0);
    cr_expect_eq(build(), ERR_BAD_CONFIG, "nested in an overlay");
}

Test(filter, R138_statistics)
{
    PACKET_CODE(OP(8, SIMPLE));
    cr_assert_eq(build(), 0, "%s", why);
    run(B(0x40, 1, 0x48, 2), 2);
    run(B(0x40, 1, 0x48, 2), 0);
    run(B(0x48, 2), PACKET_SERVICE);
    filter_count_stats_packet(f, 100);
    struct filter_stats s;
    filter_get_stats(f, &s);
    cr_expect_eq(s.input_packets, 4);
    cr_expect_eq(s.input_bytes, 110);
    cr_expect_eq(s.output_bytes, 104);
    cr_expect_eq(s.errors, 0);
    cr_assert_eq(s.buffers, 3);
    cr_expect_arr_eq(s.discarded_per_buffer, ((uint64_t[]){2, 0, 2}), 3 * sizeof(uint64_t));
}

/* ---- random messages against a filter that is obviously right ---- */

enum { DROPS, PASSES, REDACTS, NESTS };

/* The program of the test: message 1 is TracePacket, message 2 nests in itself. */
static int rule_of(uint32_t msg, uint32_t field)
{
    if (msg == 1)
        return field == 4 ? NESTS : field == 2 || (field >= 200 && field < 300) ? PASSES : DROPS;
    return field == 3 ? NESTS : field == 1 ? PASSES : field == 5 ? REDACTS : DROPS;
}

/* A length in as many bytes as `was` takes, where lengths shrink (R145). */
static void put_length(struct bytesbuf *b, size_t n, size_t was)
{
    for (size_t bytes = bytes_varint_size(was); bytes > 1; bytes--, n >>= 7)
        bytesbuf_put_u8(b, (uint8_t)(n | 0x80));
    bytesbuf_put_u8(b, (uint8_t)n);
}

/* Filters msg by message `which` of the program, by the words of R145. False: it does not parse. */
static bool reference(struct bytes_view msg, uint32_t which, struct bytesbuf *to)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field v;
    while (bytes_next(&cur, &v)) {
        int rule = rule_of(which, v.id);
        struct bytesbuf inner;
        if (rule == DROPS || (rule != PASSES && v.type != BYTES_LEN))
            continue;
        bytesbuf_put_varint(to, (uint64_t)v.id << 3 | (unsigned)v.type);
        if (v.type == BYTES_VARINT) {
            bytesbuf_put_varint(to, v.num);
        } else if (v.type == BYTES_FIXED32) {
            bytesbuf_put_u32(to, (uint32_t)v.num);
        } else if (v.type == BYTES_FIXED64) {
            bytesbuf_put_u64(to, v.num);
        } else {
            bytesbuf_init(&inner, 1u << 24);
            bool ok = true;
            if (rule == NESTS)
                ok = reference(v.data, 2, &inner);
            else if (v.data.n > 0)
                bytesbuf_put(&inner, v.data.p, v.data.n);
            if (rule == REDACTS && inner.n > 1 && inner.p[0] == 's') { /* s(.*) */
                for (size_t i = 1; i < inner.n; i++)
                    inner.p[i] = i <= 11 ? (uint8_t) "P60REDACTED"[i - 1] : '-';
            }
            put_length(to, inner.n, v.data.n);
            if (inner.n > 0)
                bytesbuf_put(to, inner.p, inner.n);
            bytesbuf_fini(&inner);
            if (!ok)
                return false;
        }
    }
    return bytes_done(&cur);
}

static void put_random(struct bytesbuf *b, int depth)
{
    static const uint32_t fields[] = {1, 2, 3, 4, 5, 7, 201, 299, 300, 5000};
    static uint8_t text[100000];
    for (uint32_t n = below(8); n > 0; n--) {
        uint32_t field = fields[below(10)];
        switch (below(depth > 0 ? 6 : 4)) {
        case 0:
            bytesbuf_pb_varint(b, field, (uint64_t)seed << below(32));
            break;
        case 1:
            bytesbuf_put_varint(b, (uint64_t)field << 3 | BYTES_FIXED32);
            bytesbuf_put_u32(b, seed);
            break;
        case 2:
            bytesbuf_put_varint(b, (uint64_t)field << 3 | BYTES_FIXED64);
            bytesbuf_put_u64(b, seed);
            break;
        case 3: {
            size_t len = below(3) ? below(200) : below(sizeof(text));
            memset(text, below(2) ? 's' : 'a', len);
            bytesbuf_pb_bytes(b, field, text, len);
            break;
        }
        default: {
            struct bytesbuf inner;
            bytesbuf_init(&inner, 1u << 24);
            put_random(&inner, depth - 1);
            bytesbuf_pb_bytes(b, field, inner.p, inner.n);
            bytesbuf_fini(&inner);
        }
        }
    }
}

static int build_rules_for_reference(void);

Test(filter, R145_random_messages_as_the_reference_has_them)
{
    struct bytesbuf in, want;
    size_t passed = 0, failed = 0;
    cr_assert_eq(build_rules_for_reference(), 0, "%s", why);
    bytesbuf_init(&in, 1u << 24);
    bytesbuf_init(&want, 1u << 24);
    for (int round = 0; round < 3000; round++) {
        bytesbuf_clear(&in);
        bytesbuf_clear(&want);
        put_random(&in, 4);
        for (uint32_t spoils = below(3) == 0 ? below(3) : 0; in.n > 0 && spoils > 0; spoils--)
            in.p[below((uint32_t)in.n)] ^= (uint8_t)(1u << below(8));
        if (in.n > 0 && below(10) == 0)
            in.n = below((uint32_t)in.n);
        bool ok = reference(bytesbuf_view(&in), 1, &want);
        cr_assert_eq(run(in.p, in.n, 0), ok, "round %d", round);
        if (ok)
            expect_out(want.p, want.n);
        *(ok ? &passed : &failed) += 1;
    }
    cr_expect(passed > 1500 && failed > 100, "%zu good ones, %zu bad ones", passed, failed);
    bytesbuf_fini(&in);
    bytesbuf_fini(&want);
}

/* Steps that the packet in b takes when each may do STEP of work. */
#define STEP (1u << 12)

static uint64_t steps_of(struct bytesbuf *b)
{
    uint64_t steps = 0, work;
    bool failed = true;
    filter_take_place(f, b->p, b->n, 0);
    do
        work = STEP, steps++;
    while (!filter_step(f, &work, &out, &failed));
    cr_expect_not(failed);
    return steps;
}

/* One step takes no more than it was given, be it bytes, fields or a string that are many. */
Test(filter, a_step_is_bounded)
{
    enum { MB = 1 << 20, FIELDS = 100000 };
    static uint8_t packet[20 * MB];
    struct bytesbuf b;
    cr_assert_eq(build_rules_for_reference(), 0, "%s", why);
    memset(packet, 's', sizeof(packet));
    bytesbuf_init(&b, 64u << 20);
    bytesbuf_pb_varint(&b, 7, 1); /* left out, so that what is behind it moves */
    bytesbuf_pb_bytes(&b, 201, packet, sizeof(packet));
    cr_expect_gt(steps_of(&b), sizeof(packet) / FILTER_UNIT / STEP);
    bytesbuf_clear(&b);
    for (int i = 0; i < FIELDS; i++)
        bytesbuf_pb_varint(&b, 2, 5);
    cr_expect_gt(steps_of(&b), FIELDS / STEP);
    bytesbuf_clear(&b);
    size_t nested = bytesbuf_pb_begin(&b, 4);
    bytesbuf_pb_bytes(&b, 5, packet, MB / 2);
    bytesbuf_pb_end(&b, nested);
    cr_expect_gt(steps_of(&b), MB / 2 / STEP);
    bytesbuf_fini(&b);
}

/* ---- string rules ---- */

struct rule {
    int policy;
    const char *regex, *starts, *name;
    int type; /* -1: none listed */
};

static void add_rules(uint32_t field, const struct rule *rules, size_t n)
{
    size_t chain = bytesbuf_pb_begin(&config, field);
    for (size_t i = 0; i < n; i++) {
        size_t one = bytesbuf_pb_begin(&config, 1);
        bytesbuf_pb_varint(&config, 1, (uint64_t)rules[i].policy);
        bytesbuf_pb_str(&config, 2, rules[i].regex);
        if (rules[i].starts != NULL)
            bytesbuf_pb_str(&config, 3, rules[i].starts);
        if (rules[i].name != NULL)
            bytesbuf_pb_str(&config, 4, rules[i].name);
        if (rules[i].type >= 0)
            bytesbuf_pb_varint(&config, 5, (uint64_t)rules[i].type);
        bytesbuf_pb_end(&config, one);
    }
    bytesbuf_pb_end(&config, chain);
}

/* Field 3 is a string of type 0, field 4 one of type 2, field 5 one of type 200. */
static int build_rules(const struct rule *rules, size_t n)
{
    PACKET_CODE(OP(3, STRING), OP(4, STRING_TYPE), 2, OP(5, STRING_TYPE), 200);
    add_rules(3, rules, n);
    return build();
}

static void expect_string(uint8_t field, const char *text, const char *want)
{
    uint8_t packet[256] = {(uint8_t)(field << 3 | 2), (uint8_t)strlen(text)};
    memcpy(packet + 2, text, strlen(text));
    cr_expect(run(packet, strlen(text) + 2, 0));
    cr_assert_eq(out.size, strlen(text) + 2);
    cr_expect_arr_eq((const uint8_t *)out.parts[0].iov_base + 2, want, strlen(text),
                     "'%s' became '%.*s', not '%s'", text, (int)strlen(text),
                     (const char *)out.parts[0].iov_base + 2, want);
}

#define RULES(...)                                                                                 \
    cr_assert_eq(build_rules((const struct rule[]){__VA_ARGS__},                                   \
                             sizeof((const struct rule[]){__VA_ARGS__}) / sizeof(struct rule)),    \
                 0, "%s", why)

static int build_rules_for_reference(void)
{
    static const struct rule rule = {1, "s(.*)", NULL, NULL, -1};
    CODE(2, OP(1, NESTED), 1, END, OP(2, SIMPLE), OP(4, NESTED), 2, OP(200, RANGE), 100, END,
         OP(1, SIMPLE), OP(3, NESTED), 2, OP(5, STRING), END);
    add_rules(3, &rule, 1);
    return build();
}

Test(filter, R148_R150_T82_the_table)
{
    RULES({1, "B\\|\\d+\\|foo (.*)", NULL, NULL, -1});
    expect_string(3, "B|1234|foo 1234 bar baz", "B|1234|foo P60REDACTED-");
    expect_string(3, "B|1234|foo 1234", "B|1234|foo P60R");
    expect_string(3, "B|1234|fooo", "B|1234|fooo");
    RULES({2, "B\\|\\d+\\|foo (.*)", "foo 2", NULL, -1});
    expect_string(3, "B|1234|foo 1234 bar baz", "B|1234|foo 1234 bar baz");
    RULES({2, "B\\|\\d+\\|(.*)", NULL, NULL, -1}, {1, "(.*)", NULL, NULL, -1});
    expect_string(3, "B|1234|", "B|1234|");
    RULES({2, "E\\|\\d+", NULL, NULL, -1});
    expect_string(3, "E|1234", "E|1234");
    RULES({3, "B\\|\\d+", NULL, NULL, -1}, {1, "B\\|(\\d+)", NULL, NULL, -1});
    expect_string(3, "B|1234", "B|1234");
    RULES({5, "x:(\\d+)", "foo", NULL, -1});
    expect_string(3, "B|1234|foo x:1234 x:494 y:4904 x:dfja x:239039",
                  "B|1234|foo x:P60R x:P60 y:4904 x:dfja x:P60RED");
    RULES({5, "x:(\\d+)|y:(\\d+)", "foo", NULL, -1});
    expect_string(3, "B|1234|foo x:1234 x:494 y:4904 x:dfja x:239039",
                  "B|1234|foo x:P60R x:P60 y:P60R x:dfja x:P60RED");
    RULES({2, "B\\|\\d+\\|pay(lo)ad1(\\d*)", "payload1", NULL, -1});
    expect_string(3, "B|1023|payload1", "B|1023|payP6ad1");
    expect_string(3, "B|1023|payload12", "B|1023|payP6ad1P");
}

Test(filter, R148_first_rule_that_ends_the_search)
{
    RULES({4, "B\\|1\\|keep", "keep", NULL, -1}, {1, "B\\|1\\|(.*)", NULL, NULL, -1});
    expect_string(3, "B|1|keep", "B|1|keep");
    expect_string(3, "B|1|lose", "B|1|P60R");
    RULES({5, "()", NULL, NULL, -1}); /* matches of length 0 come to an end */
    expect_string(3, "B|1|aaa", "B|1|aaa");
}

Test(filter, R149_atrace_precondition)
{
    RULES({2, "(.)(.*)", NULL, NULL, -1});
    expect_string(3, "B|", "B|");
    expect_string(3, "||x", "||x");
    expect_string(3, "E|1", "E|1");
    expect_string(3, "ab|", "PP6");
}

/* Whether a rule for these types (UINT32_MAX: no more) redacts field 3, 4 and 5 of types 0, 1, none
 * and then 1 by the overlay. */
static const char *redacts(uint32_t first, uint32_t second)
{
    static char text[4];
    PACKET_CODE(OP(3, STRING_TYPE), 0, OP(4, STRING_TYPE), 1, OP(5, STRING));
    CODE(4, 1, OP(6, STRING_TYPE), 1);
    size_t chain = bytesbuf_pb_begin(&config, 3), one = bytesbuf_pb_begin(&config, 1);
    bytesbuf_pb_varint(&config, 1, 1);
    bytesbuf_pb_str(&config, 2, "(.*)");
    if (first != UINT32_MAX)
        bytesbuf_pb_varint(&config, 5, first);
    if (second != UINT32_MAX)
        bytesbuf_pb_varint(&config, 5, second);
    bytesbuf_pb_end(&config, one);
    bytesbuf_pb_end(&config, chain);
    cr_assert_eq(build(), 0, "%s", why);
    for (uint8_t field = 3; field <= 6; field++) {
        cr_expect(run(B((uint8_t)(field << 3 | 2), 1, 'x'), 0));
        cr_assert_eq(out.size, 3);
        text[field - 3] = ((const char *)out.parts[0].iov_base)[2] == 'P' ? '1' : '0';
    }
    return text;
}

Test(filter, T83_T84_T85_types_of_fields_and_rules)
{
    const uint32_t none = UINT32_MAX;
    cr_expect_arr_eq(redacts(none, none), "1010", 4);
    cr_expect_arr_eq(redacts(0, none), "1010", 4);
    cr_expect_arr_eq(redacts(0, 1), "1111", 4);
    cr_expect_arr_eq(redacts(1, none), "0101", 4, "T84: the type of field 6 is the overlay's");
}

Test(filter, R141_R147_semantic_types)
{
    RULES({1, "(.*)", NULL, NULL, -1});
    expect_string(3, "abc", "P60");
    expect_string(4, "abc", "abc");
    expect_string(5, "abc", "P60"); /* a field's type of 128 or more matches every rule */
    RULES({1, "(.*)", NULL, NULL, 2});
    expect_string(3, "abc", "abc");
    expect_string(4, "abc", "P60");
    expect_string(5, "abc", "P60");
    struct rule too_high = {1, "(.*)", NULL, NULL, 128};
    cr_expect_eq(build_rules(&too_high, 1), ERR_BAD_CONFIG);
}

Test(filter, R146_named_rules_replace)
{
    PACKET_CODE(OP(3, STRING));
    add_rules(3, (const struct rule[]){{1, "(a).*", NULL, "one", -1}, {3, "ab", NULL, "two", -1}},
              2);
    add_rules(5, (const struct rule[]){{1, "a(b)", NULL, "one", -1}, {1, "(c)", NULL, "three", -1}},
              2);
    cr_assert_eq(build(), 0, "%s", why);
    expect_string(3, "ab", "aP"); /* the replaced rule kept its place before "two" */
    expect_string(3, "ax", "ax");
    expect_string(3, "c", "P");
}

Test(filter, R152_bad_rules_are_refused_with_a_reason)
{
    struct rule bad_regex = {1, "(", NULL, NULL, -1};
    cr_expect_eq(build_rules(&bad_regex, 1), ERR_BAD_CONFIG);
    cr_expect_not_null(strstr(why, "regex"));
    struct rule no_policy = {0, "x", NULL, NULL, -1};
    cr_expect_eq(build_rules(&no_policy, 1), ERR_BAD_CONFIG);
    struct rule bad_policy = {6, "x", NULL, NULL, -1};
    cr_expect_eq(build_rules(&bad_policy, 1), ERR_BAD_CONFIG);
}

Test(filter, R151_T151_strings_of_any_bytes)
{
    RULES({1, "x(.*)", NULL, NULL, -1});
    cr_expect(run(B(0x1A, 0x04, 'a', 0x00, 0xFF, 0xC3), 0));
    expect_out(B(0x1A, 0x04, 'a', 0x00, 0xFF, 0xC3));
    cr_expect(run(B(0x1A, 0x04, 'x', 0x00, 0xFF, 0xC3), 0));
    expect_out(B(0x1A, 0x04, 'x', 'P', '6', '0'));
    cr_expect(run(B(0x1A, 0x00), 0));
    expect_out(B(0x1A, 0x00));
    cr_expect(run(B(0x1A, 0x01, 0xFF), 0));
    expect_out(B(0x1A, 0x01, 0xFF));
    cr_expect(run(B(0x1A, 0x05, 0x08, 0x96, 0x01, 0x12, 0x00), 0), "a message");
    expect_out(B(0x1A, 0x05, 0x08, 0x96, 0x01, 0x12, 0x00));
}

/* Linear time is long when a pattern is large and a string long: a producer and a consumer together
 * could hold the service for minutes with one packet. */
Test(filter, work_on_strings_is_limited, .timeout = 5)
{
    static uint8_t packet[60000];
    struct bytesbuf b;
    memset(packet, 'a', sizeof(packet));
    RULES({5, "(a|ab|abc|abcd|a.*b){1,100}c", NULL, NULL, -1},
          {1, "(a*)*(a|aa)+(a?){1000}b", NULL, NULL, -1});
    bytesbuf_init(&b, 1u << 20);
    bytesbuf_pb_bytes(&b, 3, packet, 40);
    cr_expect(run(b.p, b.n, 0), "a short one is done");
    cr_expect_eq(out.size, b.n);
    bytesbuf_clear(&b);
    bytesbuf_pb_bytes(&b, 3, packet, sizeof(packet));
    cr_expect_not(run(b.p, b.n, 0), "a long one does not pass");
    cr_expect_eq(out.size, 0);
    bytesbuf_fini(&b);
}

/* POLICY_ATRACE_SEARCH goes on behind each match; where each looks at all the rest, that is
 * quadratic. */
Test(filter, searching_on_is_limited, .timeout = 5)
{
    static char text[60000];
    struct bytesbuf b;
    memset(text, 'a', sizeof(text));
    memcpy(text, "B|1|", 4);
    RULES({5, "a.*b|(a)", NULL, NULL, -1});
    bytesbuf_init(&b, 1u << 20);
    bytesbuf_pb_bytes(&b, 3, text, sizeof(text));
    cr_expect_not(run(b.p, b.n, 0));
    cr_expect_eq(out.size, 0);
    bytesbuf_fini(&b);
}

Test(filter, patterns_have_a_limit_together)
{
    static struct rule rules[24];
    for (size_t i = 0; i < 24; i++)
        rules[i] =
            (struct rule){1, "((((((((((((((((((((((((((((((a))))))))))))))))))))))))))))))b{4000}",
                          NULL, NULL, -1};
    cr_expect_eq(build_rules(rules, 4), 0, "%s", why);
    bytesbuf_clear(&config);
    cr_expect_eq(build_rules(rules, 24), ERR_BAD_CONFIG);
    cr_expect(strstr(why, "16 MB"), "%s", why);
}
