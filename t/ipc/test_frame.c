/* SPDX-License-Identifier: Apache-2.0 */
/* Frames as bytes: the examples of the specification (section 17), the stream rules R27-R35 and the
 * decoder cases T-F1 .. T-F9. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/frame.h"
#include "t/ipc/loop.h"
#include "ipc/port_producer.h"
#include "reactor/err.h"

/* ---- a reader that is fed by hand ---- */

static struct frame_reader reader;
static uint8_t big[FRAME_MAX * 2];

static void setup(void)
{
    frame_reader_init(&reader);
}

static void teardown(void)
{
    frame_reader_fini(&reader);
}

TestSuite(frame, .init = setup, .fini = teardown);

/* One read of n bytes; the reader may take it in several pieces. */
static void feed(const void *data, size_t n)
{
    const uint8_t *p = data;
    while (n != 0) {
        uint8_t *to = NULL;
        size_t room = 0;
        cr_assert_eq(frame_reader_space(&reader, &to, &room), 0);
        cr_assert_gt(room, 0u);
        size_t take = n < room ? n : room;
        memcpy(to, p, take);
        frame_reader_filled(&reader, take);
        p += take;
        n -= take;
        if (n != 0) { /* the rest follows: nothing may be complete yet in these tests */
            struct bytes_view v;
            cr_assert_eq(frame_reader_next(&reader, &v), -EAGAIN);
        }
    }
}

static bool next_is(const void *payload, size_t n)
{
    struct bytes_view v;
    if (frame_reader_next(&reader, &v) != 0)
        return false;
    return bytes_equal(v, bytes_view(payload, n));
}

static bool nothing(void)
{
    struct bytes_view v;
    return frame_reader_next(&reader, &v) == -EAGAIN;
}

/* Writes a frame with n bytes of payload, all of value fill; returns its whole size. */
static size_t make(uint8_t *out, size_t n, uint8_t fill)
{
    bytes_store32(out, (uint32_t)n);
    memset(out + FRAME_HEADER, fill, n);
    return FRAME_HEADER + n;
}

Test(frame, tf1_one_frame_per_read)
{
    for (size_t i = 0; i < 50; i++) {
        size_t n = make(big, 10 + i * 10, (uint8_t)i);
        feed(big, n);
        cr_assert(next_is(big + FRAME_HEADER, n - FRAME_HEADER));
        cr_assert(nothing());
        cr_assert_eq(frame_reader_pending(&reader), 0u);
    }
}

Test(frame, tf2_head_of_the_next_frame_in_the_same_read)
{
    uint8_t a[64];
    uint8_t b[64];
    size_t an = make(a, 30, 1);
    size_t bn = make(b, 40, 2);
    memcpy(big, a, an);
    memcpy(big + an, b, 5);
    feed(big, an + 5);
    cr_assert(next_is(a + 4, 30));
    cr_assert(nothing());
    feed(b + 5, 10);
    cr_assert(nothing());
    feed(b + 15, bn - 15);
    cr_assert(next_is(b + 4, 40));
    cr_assert_eq(frame_reader_pending(&reader), 0u);
}

Test(frame, tf3_read_of_zero_bytes_in_mid_frame)
{
    size_t n = make(big, 100, 7);
    feed(big, 50);
    cr_assert(nothing());
    frame_reader_filled(&reader, 0);
    cr_assert(nothing());
    feed(big + 50, n - 50);
    cr_assert(next_is(big + 4, 100));
}

Test(frame, tf4_empty_frame_is_passed_over)
{
    size_t n = make(big, 0, 0);
    n += make(big + n, 20, 9);
    feed(big, n);
    cr_assert(next_is(big + 8, 20));
    cr_assert(nothing());
    cr_assert_eq(frame_reader_pending(&reader), 0u);
}

Test(frame, tf5_batches)
{
    static const int batch[] = {1, 3, 1, 2};
    uint8_t fill = 1;
    for (size_t i = 0; i < 4; i++) {
        size_t n = 0;
        for (int k = 0; k < batch[i]; k++)
            n += make(big + n, 25, (uint8_t)(fill + k));
        feed(big, n);
        for (int k = 0; k < batch[i]; k++)
            cr_assert(next_is(big + 4 + k * 29, 25));
        cr_assert(nothing());
        fill = (uint8_t)(fill + batch[i]);
    }
}

Test(frame, tf6_impossible_sizes_fail_at_their_header)
{
    static const uint32_t sizes[] = {0xFFFFFFFDu, 0xFFFFFFFFu, 0x80000000u, FRAME_PAYLOAD_MAX + 1};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct bytes_view v;
        uint8_t head[4];
        frame_reader_fini(&reader);
        bytes_store32(head, sizes[i]);
        feed(head, 3);
        cr_assert(nothing());
        feed(head + 3, 1);
        cr_assert_eq(frame_reader_next(&reader, &v), ERR_FRAME_SIZE);
        cr_assert_eq(frame_reader_next(&reader, &v), ERR_FRAME_SIZE, "it stays refused");
    }
}

Test(frame, tf7_byte_at_a_time)
{
    size_t n = make(big, 300, 5);
    for (size_t i = 0; i < n; i++) {
        cr_assert(nothing());
        feed(big + i, 1);
    }
    cr_assert(next_is(big + 4, 300));
    cr_assert(nothing());
}

Test(frame, tf8_unparsable_payloads_between_good_ones)
{
    uint8_t good[FRAME_OVERHEAD];
    size_t gn = frame_put_bind(good, 1, bytes_str("x"));
    for (int i = 0; i < 20; i++) {
        struct frame f;
        struct bytes_view v;
        size_t n = make(big, (size_t)(1 + i * 7), 0xFF);
        memcpy(big + n, good, gn);
        feed(big, n + gn);
        cr_assert_eq(frame_reader_next(&reader, &v), 0);
        cr_assert_eq(frame_decode(&f, v), ERR_BAD_FRAME);
        cr_assert_eq(frame_reader_next(&reader, &v), 0);
        cr_assert_eq(frame_decode(&f, v), 0);
        cr_assert_eq(f.kind, FRAME_BIND);
        cr_assert(nothing());
        cr_assert_eq(frame_reader_pending(&reader), 0u);
    }
}

Test(frame, tf9_a_frame_that_fills_the_limit)
{
    size_t n = make(big, FRAME_PAYLOAD_MAX, 3);
    cr_assert_eq(n, FRAME_MAX);
    feed(big, n);
    cr_assert(next_is(big + 4, FRAME_PAYLOAD_MAX));
    cr_assert(nothing());

    /* Its head in the same read as a frame before. */
    uint8_t first[64];
    size_t fn = make(first, 40, 1);
    memcpy(first + fn, big, 7);
    feed(first, fn + 7);
    cr_assert(next_is(first + 4, 40));
    cr_assert(nothing());
    feed(big + 7, n - 7);
    cr_assert(next_is(big + 4, FRAME_PAYLOAD_MAX));
    cr_assert_leq(reader.cap, FRAME_MAX);
}

/* R30 and its memory: the announced size makes nobody allocate. */
Test(frame, buffer_grows_with_bytes_not_with_promises)
{
    uint8_t head[4];
    bytes_store32(head, FRAME_PAYLOAD_MAX);
    feed(head, 4);
    cr_assert(nothing());
    cr_assert_leq(reader.cap, 4096u);
}

Test(frame, trim_shrinks_and_frees)
{
    size_t n = make(big, 100000, 3);
    feed(big, n);
    cr_assert(next_is(big + 4, 100000));
    cr_assert_eq(reader.cap, FRAME_MAX);
    cr_assert(frame_reader_trim(&reader), "it was used");
    cr_assert_eq(reader.cap, FRAME_MAX, "and used well");
    n = make(big, 10, 3);
    feed(big, n);
    cr_assert(next_is(big + 4, 10));
    feed(big, 6);
    cr_assert(nothing());
    cr_assert(frame_reader_trim(&reader));
    cr_assert_eq(reader.cap, 4096u);
    cr_assert_not(frame_reader_trim(&reader), "nothing was read since");
    cr_assert_eq(reader.cap, 4096u, "half a frame waits in it");
    feed(big + 6, n - 6);
    cr_assert(next_is(big + 4, 10));
    cr_assert(frame_reader_trim(&reader));
    cr_assert_not(frame_reader_trim(&reader));
    cr_assert_eq(reader.cap, 0u);
    cr_assert_null(reader.buf);
}

/* ---- the byte examples of section 17 ---- */

static uint8_t want[1024];
static uint8_t got[4096];

#define SAME(len, hex) cr_assert_arr_eq(got, want, (same_size((len), (hex))))

static size_t same_size(size_t len, const char *hex)
{
    size_t n = loop_hex(hex, want, sizeof(want));
    cr_assert_eq(len, n, "%zu bytes where %zu are expected", len, n);
    return n;
}

static struct frame decode(const char *hex)
{
    struct frame f;
    static uint8_t raw[1024];
    size_t n = loop_hex(hex, raw, sizeof(raw));
    cr_assert_eq(bytes_load32(raw), n - 4);
    cr_assert_eq(frame_decode(&f, bytes_view(raw + 4, n - 4)), 0);
    return f;
}

static bool is(struct bytes_view v, const char *text)
{
    return bytes_equal(v, bytes_str(text));
}

#define EX_BIND       "12000000 1001 1A0E0A0C50726F6475636572506F7274"
#define EX_UNKNOWN    "04000000 1001 2200"
#define EX_SYNC       "0C000000 1002 2A08 0801 100B 1A00 2000"
#define EX_SYNC_REPLY "0A000000 1002 3206 0801 1000 1A00"
#define EX_REJECTED   "06000000 1002 3202 1000"
#define EX_FAILED     "06000000 1002 3202 0800"
#define EX_ERROR      "15000000 1009 3A110A0F756E6B6E6F776E2072657175657374"
#define EX_IDENTITY   "18000000 1000 421408D20910E8071A07626F6F742D69642203766D31"
#define EX_BOUND_START                                                                             \
    "1E010000 1001 229902 0801 1001 1A180801 1214496E697469616C697A65436F6E6E65"                   \
    "6374696F6E 1A"

Test(frame, example_bind)
{
    SAME(frame_put_bind(got, 1, bytes_str("ProducerPort")), EX_BIND);
    struct frame f = decode(EX_BIND);
    cr_assert_eq(f.kind, FRAME_BIND);
    cr_assert_eq(f.request_id, 1u);
    cr_assert(is(f.u.bind.service, "ProducerPort"));
}

Test(frame, example_bind_of_unknown_service)
{
    SAME(frame_put_bind_unknown(got, 1), EX_UNKNOWN);
    struct frame f = decode(EX_UNKNOWN);
    cr_assert_eq(f.kind, FRAME_BIND_REPLY);
    cr_assert_not(f.u.bind_reply.success);
}

Test(frame, example_bind_reply)
{
    struct frame_method m[PORT_PRODUCER_METHODS];
    for (uint32_t i = 0; i < PORT_PRODUCER_METHODS; i++)
        m[i] = (struct frame_method){i + 1, bytes_str(port_producer.methods[i].name)};
    size_t n = frame_put_bind_ok(got, 1, 1, m, PORT_PRODUCER_METHODS);
    cr_assert_eq(n, 290u);
    cr_assert_leq(n, frame_bind_ok_room(m, PORT_PRODUCER_METHODS));
    size_t start = loop_hex(EX_BOUND_START, want, sizeof(want));
    cr_assert_arr_eq(got, want, start);

    struct frame f;
    cr_assert_eq(frame_decode(&f, bytes_view(got + 4, n - 4)), 0);
    cr_assert(f.u.bind_reply.success);
    cr_assert_eq(f.u.bind_reply.service_id, 1u);
    struct bytes_cur cur = bytes_cur(f.u.bind_reply.methods);
    struct frame_method one;
    uint32_t count = 0;
    while (frame_next_method(&cur, &one)) {
        count++;
        cr_assert_eq(one.id, count);
        cr_assert(is(one.name, port_producer.methods[count - 1].name));
    }
    cr_assert_eq(count, (uint32_t)PORT_PRODUCER_METHODS);
}

/* R35: the same reply with upstream's redundant four-byte length. */
Test(frame, redundant_length_is_accepted)
{
    struct frame f;
    uint8_t raw[] = {0x10, 0x01, 0x22, 0x84, 0x80, 0x80, 0x00, 0x08, 0x01, 0x10, 0x81, 0x00};
    cr_assert_eq(frame_decode(&f, bytes_view(raw, 10)), ERR_BAD_FRAME,
                 "the length reaches further");
    raw[3] = 0x85;
    cr_assert_eq(frame_decode(&f, bytes_view(raw, sizeof(raw))), 0);
    cr_assert(f.u.bind_reply.success);
    cr_assert_eq(f.u.bind_reply.service_id, 1u, "a varint of two bytes for 1");
}

Test(frame, example_invoke_and_replies)
{
    size_t tail = 0;
    size_t n = frame_invoke_head(got, 2, 1, 11, 0, false, got + 512, &tail);
    memcpy(got + n, got + 512, tail);
    SAME(n + tail, EX_SYNC);
    struct frame f = decode(EX_SYNC);
    cr_assert_eq(f.kind, FRAME_INVOKE);
    cr_assert_eq(f.u.invoke.service_id, 1u);
    cr_assert_eq(f.u.invoke.method_id, 11u);
    cr_assert_eq(f.u.invoke.args.n, 0u);
    cr_assert_not(f.u.invoke.drop_reply);

    SAME(frame_reply_head(got, 2, false, 0), EX_SYNC_REPLY);
    f = decode(EX_SYNC_REPLY);
    cr_assert_eq(f.kind, FRAME_INVOKE_REPLY);
    cr_assert(f.u.invoke_reply.success);
    cr_assert_not(f.u.invoke_reply.has_more);

    SAME(frame_put_rejected(got, 2), EX_REJECTED);
    cr_assert_not(decode(EX_REJECTED).u.invoke_reply.success);
    SAME(frame_put_failed(got, 2), EX_FAILED);
    cr_assert_not(decode(EX_FAILED).u.invoke_reply.success);
}

Test(frame, example_error_and_identity)
{
    SAME(frame_put_error(got, 9, bytes_str("unknown request")), EX_ERROR);
    struct frame f = decode(EX_ERROR);
    cr_assert_eq(f.request_id, 9u);
    cr_assert(is(f.u.error.text, "unknown request"));

    SAME(frame_put_identity(got, 1234, 1000, bytes_str("boot-id"), bytes_str("vm1")), EX_IDENTITY);
    f = decode(EX_IDENTITY);
    cr_assert_eq(f.kind, FRAME_IDENTITY);
    cr_assert_eq(f.u.identity.pid, 1234);
    cr_assert_eq(f.u.identity.uid, 1000);
    cr_assert(is(f.u.identity.hint, "boot-id"));
    cr_assert(is(f.u.identity.name, "vm1"));
}

/* ---- hostile and odd messages ---- */

Test(frame, several_kinds_read_as_the_first_by_priority)
{
    /* identity, invoke, bind, in this order on the wire: bind wins (R36). */
    struct frame f = decode("11000000 1005 42020801 2A0408011002 1A030A0141");
    cr_assert_eq(f.kind, FRAME_BIND);
    cr_assert(is(f.u.bind.service, "A"));
    f = decode("0C000000 1005 42020801 2A0408011002");
    cr_assert_eq(f.kind, FRAME_INVOKE);
    f = decode("0A000000 1005 42020801 22020801");
    cr_assert_eq(f.kind, FRAME_IDENTITY);
}

Test(frame, frames_without_a_kind)
{
    struct frame f;
    cr_assert_eq(frame_decode(&f, bytes_view("", 0)), 0);
    cr_assert_eq(f.kind, FRAME_NONE);
    f = decode("02000000 1007");
    cr_assert_eq(f.kind, FRAME_NONE);
    cr_assert_eq(f.request_id, 7u);
    f = decode("05000000 1007 0A0141"); /* data_for_testing */
    cr_assert_eq(f.kind, FRAME_NONE);
    f = decode("06000000 1007 2801 0801"); /* fields 5 and 1 as numbers are not those */
    cr_assert_eq(f.kind, FRAME_NONE);
}

/* R34: what a broken nested message said before it broke is used. */
Test(frame, nested_garbage_keeps_the_fields_before_it)
{
    struct frame f = decode("09000000 1007 2A05 0803 100B FF");
    cr_assert_eq(f.kind, FRAME_INVOKE);
    cr_assert_eq(f.u.invoke.service_id, 3u);
    cr_assert_eq(f.u.invoke.method_id, 11u);
}

Test(frame, unknown_fields_and_methods_without_name_are_skipped)
{
    struct frame f = decode("15000000 1007 B80605 220E 0801 1002 1A020801 1A0408001200");
    cr_assert_eq(f.kind, FRAME_BIND_REPLY);
    struct bytes_cur cur = bytes_cur(f.u.bind_reply.methods);
    struct frame_method m;
    cr_assert_not(frame_next_method(&cur, &m), "R46");
}

Test(frame, unparsable_at_the_top)
{
    static const char *const bad[] = {
        "10",                        /* tag without value */
        "1080808080808080808080 01", /* varint of eleven bytes */
        "1A05 41",                   /* length beyond the end */
        "02",                        /* field 0 */
        "1E",                        /* wire type 6 */
        "1001 0C",                   /* end of a group that never began */
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct frame f = {.kind = FRAME_ERROR};
        size_t n = loop_hex(bad[i], want, sizeof(want));
        cr_assert_eq(frame_decode(&f, bytes_view(want, n)), ERR_BAD_FRAME, "%s", bad[i]);
        cr_assert_eq(f.kind, FRAME_ERROR, "untouched");
    }
}

Test(frame, largest_blob_fits)
{
    uint8_t head[FRAME_OVERHEAD];
    uint8_t tail[FRAME_OVERHEAD];
    size_t tn = 0;
    size_t n = frame_invoke_head(head, UINT64_MAX, UINT32_MAX, UINT32_MAX, FRAME_BLOB_MAX, true,
                                 tail, &tn);
    cr_assert_leq(n + tn, FRAME_OVERHEAD);
    cr_assert_leq(bytes_load32(head), FRAME_PAYLOAD_MAX);
    cr_assert_eq(bytes_load32(head) + 4u, n + tn + FRAME_BLOB_MAX);
    n = frame_reply_head(head, UINT64_MAX, true, FRAME_BLOB_MAX);
    cr_assert_leq(n, FRAME_OVERHEAD);
    cr_assert_eq(bytes_load32(head) + 4u, n + FRAME_BLOB_MAX);
}

/* An identity that somebody sends under another id than 0 keeps it. */
Test(frame, put_keeps_the_request_id)
{
    size_t n = 0;
    struct frame f = decode("06000000 1003 4202 0807");
    cr_assert_eq(frame_put(&f, got, sizeof(got), &n), 0);
    cr_assert_eq(frame_decode(&f, bytes_view(got + 4, n - 4)), 0);
    cr_assert_eq(f.request_id, 3u);
    cr_assert_eq(f.u.identity.pid, 7);
}

/* frame_put needs the room it claims, no more. */
Test(frame, put_checks_its_room)
{
    struct frame f = decode(EX_BIND);
    size_t n = 0;
    cr_assert_eq(frame_put(&f, got, frame_room(12), &n), 0);
    cr_assert_eq(n, 22u);
    cr_assert_eq(frame_put(&f, got, frame_room(11), &n), -ENOSPC);
}
