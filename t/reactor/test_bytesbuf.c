/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/bytesbuf.h"

#include <criterion/criterion.h>
#include <stdlib.h>

Test(bytesbuf, writes_what_the_cursor_reads)
{
    struct bytesbuf b;
    struct bytes_field f;
    bytesbuf_init(&b, 4096);
    bytesbuf_pb_varint(&b, 1, UINT64_MAX);
    bytesbuf_pb_fixed32(&b, 2, 7);
    bytesbuf_pb_fixed64(&b, 3, 8);
    bytesbuf_pb_str(&b, BYTES_MAX_FIELD, "name");
    bytesbuf_pb_bytes(&b, 5, NULL, 0);
    struct bytes_cur c = bytes_cur(bytesbuf_view(&b));
    cr_assert(bytes_next(&c, &f) && f.id == 1 && f.num == UINT64_MAX);
    cr_assert(bytes_next(&c, &f) && f.id == 2 && f.type == BYTES_FIXED32 && f.num == 7);
    cr_assert(bytes_next(&c, &f) && f.id == 3 && f.type == BYTES_FIXED64 && f.num == 8);
    cr_assert(bytes_next(&c, &f) && f.id == BYTES_MAX_FIELD &&
              bytes_equal(f.data, bytes_str("name")));
    cr_assert(bytes_next(&c, &f) && f.id == 5 && f.data.n == 0);
    cr_assert(bytes_done(&c) && !b.failed);
    bytesbuf_fini(&b);
}

/* Nested messages of `body` payload bytes at two levels: lengths come out minimal. */
static void check_nested(size_t body)
{
    struct bytesbuf b;
    struct bytes_field f;
    char *payload = calloc(1, body + 1);
    bytesbuf_init(&b, SIZE_MAX);
    size_t outer = bytesbuf_pb_begin(&b, 1);
    size_t inner = bytesbuf_pb_begin(&b, 2);
    bytesbuf_put(&b, payload, body);
    bytesbuf_pb_end(&b, inner);
    bytesbuf_pb_varint(&b, 3, 9);
    bytesbuf_pb_end(&b, outer);
    struct bytes_cur c = bytes_cur(bytesbuf_view(&b));
    cr_assert(bytes_next(&c, &f) && f.id == 1 && bytes_done(&c));
    struct bytes_cur in = bytes_cur(f.data);
    cr_assert(bytes_next(&in, &f) && f.id == 2 && f.data.n == body);
    size_t len_bytes = body < 128 ? 1 : body < 16384 ? 2 : 3;
    cr_assert_eq(f.raw.n, 1 + len_bytes + body);
    cr_assert(bytes_next(&in, &f) && f.id == 3 && f.num == 9 && bytes_done(&in));
    bytesbuf_fini(&b);
    free(payload);
}

Test(bytesbuf, nested_lengths_are_minimal)
{
    static const size_t sizes[] = {0,   1,   123,   124,   125,   126,  127,
                                   128, 129, 16381, 16383, 16384, 70000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        check_nested(sizes[i]);
}

Test(bytesbuf, the_length_of_a_large_message_takes_four_bytes)
{
    static const size_t sizes[] = {0, 1, 127, 128, 16384, 70000, 3000000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct bytesbuf b;
        struct bytes_field f;
        uint8_t *payload = calloc(1, sizes[i] + 1);
        bytesbuf_init(&b, SIZE_MAX);
        size_t m = bytesbuf_pb_begin_large(&b, 1);
        bytesbuf_put(&b, payload, sizes[i]);
        bytesbuf_pb_end_large(&b, m);
        bytesbuf_pb_varint(&b, 3, 9);
        struct bytes_cur c = bytes_cur(bytesbuf_view(&b));
        cr_assert(bytes_next(&c, &f) && f.id == 1);
        cr_expect_eq(f.data.n, sizes[i]);
        cr_expect_eq(f.raw.n, 1 + 4 + sizes[i]);
        cr_expect(bytes_next(&c, &f) && f.id == 3 && f.num == 9 && bytes_done(&c));
        bytesbuf_fini(&b);
        free(payload);
    }
}

Test(bytesbuf, stops_at_its_cap_and_stays_stopped)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 10);
    bytesbuf_put(&b, "12345678", 8);
    cr_assert_not(b.failed);
    bytesbuf_put_u32(&b, 1);
    cr_assert(b.failed);
    bytesbuf_put_u8(&b, 'x');
    cr_assert_eq(b.n, 8, "nothing follows what is missing");
    cr_assert_null(bytesbuf_reserve(&b, 0));
    bytesbuf_clear(&b);
    bytesbuf_put(&b, "1234567890", 10);
    cr_assert(!b.failed && b.n == 10 && b.cap <= 10);
    cr_assert_null(bytesbuf_reserve(&b, SIZE_MAX));
    bytesbuf_fini(&b);
}

Test(bytesbuf, nested_end_at_the_cap_fails_whole)
{
    struct bytesbuf b;
    char body[200] = {0};
    bytesbuf_init(&b, 202); /* tag, one byte of length, the body: one byte too few */
    size_t mark = bytesbuf_pb_begin(&b, 1);
    bytesbuf_put(&b, body, sizeof(body));
    cr_assert_not(b.failed);
    bytesbuf_pb_end(&b, mark);
    cr_assert(b.failed);
    bytesbuf_fini(&b);
}

Test(bytesbuf, reserve_commit_drop_take)
{
    struct bytesbuf b;
    size_t n = 0;
    bytesbuf_init(&b, 1000);
    memcpy(bytesbuf_reserve(&b, 100), "abcdef", 6);
    bytesbuf_commit(&b, 6);
    bytesbuf_drop_front(&b, 2);
    cr_assert(bytes_equal(bytesbuf_view(&b), bytes_str("cdef")));
    bytesbuf_commit(&b, 100000);
    cr_assert_leq(b.n, b.cap);
    bytesbuf_drop_front(&b, b.n - 1);
    uint8_t *p = bytesbuf_take(&b, &n);
    cr_assert_eq(n, 1);
    cr_assert(b.p == NULL && b.n == 0);
    free(p);
    bytesbuf_drop_front(&b, 5);
    cr_assert_eq(b.n, 0);
}
