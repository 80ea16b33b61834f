/* SPDX-License-Identifier: Apache-2.0 */
/* The streaming protobuf writer on flat memory: encodings, nesting, limits (R45-R49). */
#include <criterion/criterion.h>
#include <string.h>

#include "reactor/bytes.h"
#include "smb/pbw.h"

#define EXPECT(f, ...)                                                                             \
    do {                                                                                           \
        const uint8_t expect_[] = {__VA_ARGS__};                                                   \
        ptrdiff_t n_ = pbw_flat_end(&(f));                                                         \
        cr_assert_eq(n_, (ptrdiff_t)sizeof(expect_), "%td bytes", n_);                             \
        cr_assert_arr_eq((f).buf, expect_, sizeof(expect_));                                       \
    } while (0)

Test(pbw, scalars)
{
    uint8_t buf[256];
    struct pbw_flat f;
    struct pbw *p = &f.pbw;
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_varint(p, 8, 100);
    EXPECT(f, 0x40, 0x64);
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_varint(p, 1, UINT64_MAX);
    EXPECT(f, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01);
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_int(p, 1, -1);
    EXPECT(f, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01);
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_sint(p, 1, -1);
    pbw_sint(p, 1, INT64_MIN);
    pbw_bool(p, 2, true);
    EXPECT(f, 0x08, 0x01, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0x10,
           0x01);
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_fixed32(p, 3, 0x01020304);
    pbw_fixed64(p, 4, 0x0102030405060708);
    pbw_float(p, 5, 1.0f);
    pbw_double(p, 6, -2.0);
    EXPECT(f, 0x1D, 4, 3, 2, 1, 0x21, 8, 7, 6, 5, 4, 3, 2, 1, 0x2D, 0, 0, 0x80, 0x3F, 0x31, 0, 0, 0,
           0, 0, 0, 0, 0xC0);
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_str(p, 900, "hi");
    pbw_bytes(p, 1, NULL, 0);
    EXPECT(f, 0xA2, 0x38, 2, 'h', 'i', 0x0A, 0);
    pbw_flat_init(&f, buf, sizeof(buf));
    const uint64_t v[] = {1, 300};
    pbw_packed(p, 2, v, 2);
    pbw_packed(p, 2, v, 0);
    EXPECT(f, 0x12, 3, 1, 0xAC, 0x02);
}

/* The largest tag and the largest value fit in PBW_MAX_FIELD. */
Test(pbw, largest_field)
{
    uint8_t buf[PBW_MAX_FIELD];
    struct pbw_flat f;
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_varint(&f.pbw, (1u << 29) - 1, UINT64_MAX);
    cr_assert_eq(pbw_flat_end(&f), PBW_MAX_FIELD);
}

/* The client specification's test vector for nested sizes, compacted as R46 has it. */
Test(pbw, R46_small_nested_messages_are_compacted)
{
    uint8_t buf[64];
    struct pbw_flat f;
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_raw(&f.pbw, "foo", 3);
    pbw_begin(&f.pbw, 3);
    pbw_str(&f.pbw, 10, "bar");
    pbw_end(&f.pbw);
    EXPECT(f, 102, 111, 111, 26, 5, 82, 3, 98, 97, 114);
}

Test(pbw, R46_R47_limit_is_127)
{
    uint8_t buf[512];
    uint8_t xs[128] = {0};
    struct pbw_flat f;
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_begin(&f.pbw, 1);
    pbw_raw(&f.pbw, xs, 127);
    pbw_end(&f.pbw);
    cr_assert_eq(buf[1], 127);
    cr_assert_eq(pbw_flat_end(&f), 129);
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_begin(&f.pbw, 1);
    pbw_raw(&f.pbw, xs, 128);
    pbw_end(&f.pbw);
    cr_assert_arr_eq(buf + 1, ((uint8_t[]){0x80, 0x81, 0x80, 0x00}), 4);
    cr_assert_eq(pbw_flat_end(&f), 133);
}

/* The outer size counts the compacted inner one. */
Test(pbw, nested_sizes_add_up)
{
    uint8_t buf[64];
    struct pbw_flat f;
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_begin(&f.pbw, 1);
    pbw_begin(&f.pbw, 2);
    pbw_begin(&f.pbw, 3); /* stays empty */
    pbw_end(&f.pbw);
    pbw_varint(&f.pbw, 4, 5);
    /* The rest is closed by the end, innermost first. */
    EXPECT(f, 0x0A, 6, 0x12, 4, 0x1A, 0, 0x20, 5);
}

Test(pbw, ends_without_begins_do_nothing)
{
    uint8_t buf[64];
    struct pbw_flat f;
    pbw_flat_init(&f, buf, sizeof(buf));
    pbw_end(&f.pbw);
    pbw_varint(&f.pbw, 1, 1);
    pbw_end(&f.pbw);
    EXPECT(f, 8, 1);
}

/* Beyond PBW_DEPTH the structure is flattened, but what comes out is still well formed. */
Test(pbw, too_deep_is_flattened)
{
    uint8_t buf[4096];
    struct pbw_flat f;
    pbw_flat_init(&f, buf, sizeof(buf));
    for (int i = 0; i < PBW_DEPTH + 10; i++)
        pbw_begin(&f.pbw, 1);
    pbw_varint(&f.pbw, 2, 7);
    for (int i = 0; i < PBW_DEPTH + 10; i++)
        pbw_end(&f.pbw);
    pbw_varint(&f.pbw, 3, 8);
    cr_assert_eq(f.pbw.too_deep, 10);
    struct bytes_view v = bytes_view(buf, (size_t)pbw_flat_end(&f));
    struct bytes_field last;
    cr_assert(bytes_find(v, 3, BYTES_VARINT, &last));
    cr_assert_eq(last.num, 8);
    int depth = 0;
    while (v.n && v.p[0] == 0x0A) {
        struct bytes_cur c = bytes_cur(v);
        struct bytes_field f1;
        cr_assert(bytes_next(&c, &f1));
        v = f1.data;
        depth++;
    }
    cr_assert_eq(depth, PBW_DEPTH);
    cr_assert_eq(v.n, 2);
}

/* A buffer that is too small never overruns, at any size and any place. */
Test(pbw, overflow_is_reported_and_contained)
{
    uint8_t buf[96];
    for (size_t cap = 1; cap < 64; cap++) {
        struct pbw_flat f;
        memset(buf, 0xEE, sizeof(buf));
        pbw_flat_init(&f, buf, cap);
        for (int i = 0; i < 5; i++) {
            pbw_begin(&f.pbw, 1000);
            pbw_varint(&f.pbw, 1, UINT64_MAX);
            pbw_begin(&f.pbw, 2);
            pbw_str(&f.pbw, 1, "0123456789");
            pbw_end(&f.pbw);
        }
        cr_assert_eq(pbw_flat_end(&f), -1);
        for (size_t i = cap; i < sizeof(buf); i++)
            cr_assert_eq(buf[i], 0xEE, "cap %zu: byte %zu written", cap, i);
    }
}
