/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of trace files: framing, damage of all kinds, compressed packets (R530..R534). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "cli/tracerd.h"
#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"

struct seen {
    char log[4096]; /* lengths of the packets, and damage */
    unsigned stop_after;
    unsigned n;
};

static bool on_packet(void *arg, struct bytes_view p, uint64_t offset)
{
    struct seen *s = arg;
    size_t n = strlen(s->log);

    snprintf(s->log + n, sizeof(s->log) - n, "%zu@%d ", p.n, (int)offset);
    return ++s->n != s->stop_after;
}

static void on_damage(void *arg, uint64_t offset, const char *what)
{
    struct seen *s = arg;
    size_t n = strlen(s->log);

    snprintf(s->log + n, sizeof(s->log) - n, "[%d: %s] ", (int)offset, what);
}

static const struct tracerd_ops ops = {.packet = on_packet, .damage = on_damage};

static struct tracerd_totals read_all(const struct bytesbuf *b, struct seen *s)
{
    struct tracerd_totals t;
    FILE *f = tmpfile();

    if (b->n > 0)
        cr_assert_eq(fwrite(b->p, 1, b->n, f), b->n);
    fflush(f);
    lseek(fileno(f), 0, SEEK_SET);
    memset(s->log, 0, sizeof(s->log));
    s->n = 0;
    cr_expect_eq(tracerd_read(fileno(f), &ops, s, &t), 0);
    fclose(f);
    return t;
}

static struct bytesbuf b;
static struct seen s;

static void setup(void)
{
    bytesbuf_init(&b, 64 << 20);
    memset(&s, 0, sizeof(s));
}

static void teardown(void)
{
    bytesbuf_fini(&b);
}

TestSuite(tracerd, .init = setup, .fini = teardown);

static void put(size_t n)
{
    char *p = calloc(1, n + 1);

    bytesbuf_pb_bytes(&b, 1, p, n);
    free(p);
}

Test(tracerd, packets_in_order)
{
    struct tracerd_totals t;

    put(3);
    put(0);
    put(200);
    t = read_all(&b, &s);
    cr_expect_str_eq(s.log, "3@0 0@5 200@7 ");
    cr_expect_eq(t.packets, 3);
    cr_expect_eq(t.bytes, b.n);
    cr_expect(t.whole);
}

Test(tracerd, empty_file)
{
    struct tracerd_totals t = read_all(&b, &s);

    cr_expect(t.whole);
    cr_expect_eq(t.packets, 0);
    cr_expect_eq(t.damages, 0);
}

Test(tracerd, a_file_cut_anywhere_keeps_what_is_before)
{
    size_t ends[] = {0, 5, 7, 210};
    struct tracerd_totals t;
    size_t all;

    put(3);
    put(0);
    put(200);
    all = b.n;
    cr_assert_eq(all, 210);
    for (size_t n = 0; n <= all; n++) {
        unsigned whole = 0;
        bool at_end = false;
        for (int i = 0; i < 4; i++) {
            whole += i > 0 && ends[i] <= n;
            at_end |= ends[i] == n;
        }
        b.n = n;
        t = read_all(&b, &s);
        cr_expect_eq(t.packets, whole, "%zu bytes: %s", n, s.log);
        cr_expect_eq(t.whole, at_end, "%zu bytes: %s", n, s.log);
        cr_expect_eq(t.damages, at_end ? 0 : 1, "%zu bytes: %s", n, s.log);
    }
    b.n = all;
}

Test(tracerd, garbage_is_damage_and_not_memory)
{
    static const char *const junk[] = {"hello, world, this is no trace",
                                       "\x0a\xff\xff\xff\xff\xff\xff", "\x08\x01",
                                       "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"};

    for (size_t i = 0; i < sizeof(junk) / sizeof(*junk); i++) {
        struct tracerd_totals t;
        bytesbuf_clear(&b);
        put(4);
        bytesbuf_put(&b, junk[i], strlen(junk[i]));
        t = read_all(&b, &s);
        cr_expect_eq(t.packets, 1, "%zu: %s", i, s.log);
        cr_expect_eq(t.damages, 1, "%zu: %s", i, s.log);
        cr_expect(!t.whole);
    }
}

Test(tracerd, large_packets_and_many_reads)
{
    struct tracerd_totals t;

    put(5 << 20);
    for (int i = 0; i < 3000; i++)
        put(1000);
    t = read_all(&b, &s);
    cr_expect_eq(t.packets, 3001);
    cr_expect(t.whole);
}

Test(tracerd, stops_when_told)
{
    put(1);
    put(2);
    put(3);
    s.stop_after = 2;
    read_all(&b, &s);
    cr_expect_str_eq(s.log, "1@0 2@3 ");
}

/* Puts what is in b, compressed, into one packet. */
static void compress_all(bool zstd)
{
    struct bytesbuf inner = b;
    size_t cap = ZSTD_compressBound(inner.n) + 1000, n;
    char *out = malloc(cap);
    size_t mark;

    if (zstd) {
        n = ZSTD_compress(out, cap, inner.p, inner.n, 3);
    } else {
        uLongf len = cap;
        compress2((Bytef *)out, &len, inner.p, inner.n, 6);
        n = len;
    }
    bytesbuf_init(&b, 64 << 20);
    put(2);
    mark = bytesbuf_pb_begin(&b, 1);
    bytesbuf_pb_bytes(
        &b, zstd ? PBF_TracePacket_zstd_compressed_packets : PBF_TracePacket_compressed_packets,
        out, n);
    bytesbuf_pb_end(&b, mark);
    bytesbuf_fini(&inner);
    free(out);
}

Test(tracerd, compressed_packets_come_out_in_their_place) /* R532 */
{
    for (int zstd = 0; zstd < 2; zstd++) {
        struct tracerd_totals t;
        bytesbuf_clear(&b);
        put(10);
        put(300000);
        compress_all(zstd);
        put(7);
        t = read_all(&b, &s);
        cr_expect(strncmp(s.log, "2@0 10@4 300000@4 7@", 20) == 0, "%s", s.log);
        cr_expect_eq(t.compressed, 1);
        cr_expect_eq(t.packets, 4);
        cr_expect_eq(t.damages, 0, "%s", s.log);
        cr_expect_gt(t.inflated_bytes, 300000);
    }
}

Test(tracerd, damaged_compressed_packets_are_stepped_over)
{
    for (int zstd = 0; zstd < 2; zstd++) {
        struct tracerd_totals t;
        bytesbuf_clear(&b);
        put(1000);
        compress_all(zstd);
        b.p[b.n - 3] ^= 0x5a;
        put(7);
        t = read_all(&b, &s);
        cr_expect_eq(t.damages, 1, "%s", s.log);
        cr_expect(strstr(s.log, "damaged") || strstr(s.log, "whole packets"), "%s", s.log);
        cr_expect(strstr(s.log, " 7@"), "%s", s.log);
    }
    bytesbuf_clear(&b);
    bytesbuf_put(&b, "\x0a\x05", 2);
    bytesbuf_put(&b, "\x92\x03\x02\x78\x9c", 5); /* a stream that ends at once */
    cr_expect_eq(read_all(&b, &s).damages, 1, "%s", s.log);
}

Test(tracerd, compressed_rubbish_inside)
{
    bytesbuf_put(&b, "\x0a\x02zz\x0a\x55", 6);
    compress_all(false);
    read_all(&b, &s);
    cr_expect(strstr(s.log, "2@4"), "%s", s.log);
    cr_expect(strstr(s.log, "whole packets"), "%s", s.log);
}
