/* SPDX-License-Identifier: Apache-2.0 */
/* svc/compress: service.md R153 to R159. What comes out is decompressed with the libraries' own
 * one-shot functions and compared with the framed packets. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "reactor/bytesbuf.h"
#include "svc/compress.h"

#define SLICE 130560

static struct bytesbuf want; /* the Trace message that the batch must decompress to */
static struct bytesbuf got;

static void setup(void)
{
    bytesbuf_init(&want, 64u << 20);
    bytesbuf_init(&got, 64u << 20);
}

static void teardown(void)
{
    bytesbuf_fini(&want);
    bytesbuf_fini(&got);
}

TestSuite(compress, .init = setup, .fini = teardown);

/* Feeds the bytes as one packet in two pieces. */
static void put(struct compress *c, const void *p, size_t n)
{
    uint8_t *at = (uint8_t *)(uintptr_t)p;
    struct iovec parts[2] = {{at, n / 2}, {at + n / 2, n - n / 2}};
    cr_assert_eq(compress_begin_packet(c, n), 0);
    for (size_t i = 0; i < 2; i++) {
        struct bytes_view v = bytes_view(parts[i].iov_base, parts[i].iov_len);
        while (v.n > 0) {
            ssize_t took = compress_feed(c, v);
            cr_assert(took > 0 && (size_t)took <= compress_lump(c), "%zd", took);
            v = bytes_view(v.p + took, v.n - (size_t)took);
        }
    }
    bytesbuf_pb_bytes(&want, 1, p, n);
}

/* Takes what is handed out, at most so many times. */
static void give(struct compress *c, size_t times)
{
    struct packet out = {.follows = SIZE_MAX};
    for (size_t k = 0; compress_giving(c) && k < times; k++) {
        size_t size = 0, before = out.follows;
        compress_give(c, 300000, &out);
        cr_expect_leq(out.size, 300000);
        cr_expect_eq(out.continues, k > 0);
        cr_expect_eq(out.buffer, PACKET_SERVICE);
        cr_expect(k == 0 || out.follows + out.size == before);
        for (size_t i = 0; i < out.nparts; i++) {
            cr_expect_leq(out.parts[i].iov_len, SLICE, "R157: no slice above 130560 bytes");
            bytesbuf_put(&got, out.parts[i].iov_base, out.parts[i].iov_len);
            size += out.parts[i].iov_len;
        }
        cr_expect_eq(size, out.size);
    }
    cr_expect(times != SIZE_MAX || !compress_giving(c));
}

static void finish(struct compress *c, uint32_t field, struct bytes_view *payload)
{
    cr_assert_not(compress_empty(c));
    cr_assert_eq(compress_end(c), 0);
    cr_assert(compress_empty(c));
    bytesbuf_clear(&got);
    give(c, 1);
    if (compress_giving(c)) { /* a reader that went away in the middle */
        compress_rewind(c);
        bytesbuf_clear(&got);
    }
    give(c, SIZE_MAX);
    cr_assert_not(compress_giving(c));
    struct bytes_cur cur = bytes_cur(bytesbuf_view(&got));
    struct bytes_field f;
    cr_assert(bytes_next(&cur, &f));
    cr_expect_eq(f.id, field);
    cr_expect_eq(f.type, BYTES_LEN);
    cr_expect(bytes_done(&cur), "R154: the only field");
    *payload = f.data;
}

static void expect_batch(struct compress *c, enum compress_codec codec)
{
    struct bytes_view payload;
    finish(c, codec == COMPRESS_ZSTD ? 133 : 50, &payload);
    uint8_t *plain = malloc(want.n + 1);
    size_t n = want.n + 1;
    if (codec == COMPRESS_DEFLATE) {
        uLongf len = n;
        cr_assert_eq(uncompress(plain, &len, payload.p, payload.n), Z_OK);
        n = len;
    } else {
        n = ZSTD_decompress(plain, n, payload.p, payload.n);
        cr_assert_not(ZSTD_isError(n));
    }
    cr_assert_eq(n, want.n);
    cr_expect_arr_eq(plain, want.p, n);
    free(plain);
    bytesbuf_clear(&want);
}

static void fill_noise(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        p[i] = (uint8_t)(seed >> 24);
    }
}

static void batches(enum compress_codec codec)
{
    struct compress *c;
    cr_assert_eq(compress_new(codec, 0, &c), 0);
    cr_expect(compress_empty(c), "R154: an empty batch stays empty");
    cr_expect_not(compress_giving(c));

    put(c, "hello", 5);
    put(c, "", 0);
    put(c, "world", 5);
    expect_batch(c, codec);
    cr_expect(compress_empty(c), "nothing was put since the last batch");
    put(c, "gone", 4);
    compress_abandon(c);
    cr_expect(compress_empty(c));
    bytesbuf_clear(&want);

    enum { BIG = 1 << 20 };
    uint8_t *noise = malloc(BIG);
    for (uint32_t round = 0; round < 3; round++) { /* each batch is a stream of its own */
        fill_noise(noise, BIG, round);
        put(c, noise, BIG);
        put(c, "tail", 4);
        expect_batch(c, codec);
    }
    free(noise);
    cr_expect_not(compress_trim(c), "a megabyte is kept");
    cr_expect_geq(compress_held(c), BIG);
    compress_free(c);
}

Test(compress, R154_R155_R157_T81_deflate_batches_are_independent_zlib_streams)
{
    batches(COMPRESS_DEFLATE);
}

Test(compress, R154_R156_R157_T81_zstd_batches_are_independent_frames)
{
    batches(COMPRESS_ZSTD);
}

Test(compress, R153_T77_choice_of_codec)
{
    cr_expect_eq(compress_choose(true, true), COMPRESS_ZSTD, "zstd wins");
    cr_expect_eq(compress_choose(false, true), COMPRESS_DEFLATE);
    cr_expect_eq(compress_choose(false, false), COMPRESS_NONE);
}

Test(compress, R156_T80_levels_out_of_range_are_clamped)
{
    static const int levels[] = {-5, 1, 4, 7, 10, 13, 19, 1000, INT32_MAX, INT32_MIN};
    uint8_t noise[20000];
    fill_noise(noise, sizeof(noise), 3);
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        struct compress *c;
        cr_assert_eq(compress_new(COMPRESS_ZSTD, levels[i], &c), 0);
        put(c, "level", 5);
        for (size_t k = 0; k < 5; k++)
            put(c, noise + k * 100, sizeof(noise) - k * 1000);
        expect_batch(c, COMPRESS_ZSTD);
        compress_free(c);
    }
}

Test(compress, what_does_not_compress_does_not_explode)
{
    struct compress *c;
    cr_assert_eq(compress_new(COMPRESS_DEFLATE, 0, &c), 0);
    uint8_t noise[4096];
    fill_noise(noise, sizeof(noise), 7);
    put(c, noise, sizeof(noise));
    struct bytes_view payload;
    finish(c, 50, &payload);
    cr_expect_lt(payload.n, sizeof(noise) + 64);
    compress_free(c);
}
