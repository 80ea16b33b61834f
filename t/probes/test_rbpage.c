/* SPDX-License-Identifier: Apache-2.0 */
/* Raw pages: header, record walk, every way to be broken. probes.md 4.9, T42, T48, T49, 13.1. */
#include <criterion/criterion.h>
#include <string.h>

#include "probes/ftrace/rbpage.h"

struct page {
    uint8_t b[4096];
    size_t n;
};

static void put32(struct page *p, uint32_t v)
{
    memcpy(p->b + p->n, &v, 4);
    p->n += 4;
}

/* Header of a 64-bit kernel; the size is settled by done(). */
static void start(struct page *p, uint64_t ts)
{
    memset(p, 0, sizeof *p);
    memcpy(p->b, &ts, 8);
    p->n = 16;
}

static void set_size(struct page *p, uint32_t size)
{
    memcpy(p->b + 8, &size, 4);
}

static void done(struct page *p)
{
    set_size(p, (uint32_t)p->n - 16);
}

static void head(struct page *p, uint32_t type, uint32_t delta)
{
    put32(p, type | delta << 5);
}

/* Walks the page; the status that ends it, 0 for a clean end. */
static int walk(const struct page *p, unsigned *records, uint64_t *last_ts)
{
    struct rbpage pg;
    const uint8_t *rec;
    uint32_t len;
    int rc;
    *records = 0;
    rc = (int)rbpage_open(&pg, p->b, sizeof p->b, 8);
    if (rc != RBPAGE_OK)
        return rc;
    while ((rc = rbpage_next(&pg, &rec, &len)) > 0) {
        ++*records;
        *last_ts = pg.ts;
    }
    return -rc;
}

static int status_of(const struct page *p)
{
    unsigned n;
    uint64_t ts;
    return walk(p, &n, &ts);
}

Test(rbpage, t42_header)
{
    static const uint8_t bytes[] = {0x3e, 0xf3, 0xdb, 0x77, 0x67, 0xa2, 0x01, 0,
                                    0xf0, 0x0f, 0x00, 0x80, 0xff, 0xff, 0xff, 0xff};
    uint8_t page[4096] = {0};
    struct rbpage pg;
    memcpy(page, bytes, sizeof bytes);
    cr_assert_eq(rbpage_open(&pg, page, sizeof page, 8), RBPAGE_OK);
    cr_assert_eq(pg.ts, 0x0001A26777DBF33EULL);
    cr_assert_eq(pg.size, 4080);
    cr_assert(pg.lost);
    cr_assert_eq(pg.p - page, 16);
    cr_assert_eq(rbpage_open(&pg, page, sizeof page, 4), RBPAGE_OK);
    cr_assert_eq(pg.p - page, 12, "a 32-bit kernel's header has 12 bytes");
}

Test(rbpage, r66_impossible_sizes)
{
    struct page p;
    start(&p, 1);
    cr_assert_eq(status_of(&p), RBPAGE_INVALID_PAGE_HEADER, "size 0");
    set_size(&p, 4081);
    cr_assert_eq(status_of(&p), RBPAGE_INVALID_PAGE_HEADER, "past the page");
    struct rbpage pg;
    cr_assert_eq(rbpage_open(&pg, p.b, 11, 8), RBPAGE_INVALID_PAGE_HEADER);
    cr_assert_eq(rbpage_open(&pg, p.b, 13, 8), RBPAGE_INVALID_PAGE_HEADER);
}

Test(rbpage, t48_zeros)
{
    struct page p;
    start(&p, 1);
    set_size(&p, 64);
    cr_assert_eq(status_of(&p), RBPAGE_ZERO_DATA_LENGTH);
    set_size(&p, 4);
    cr_assert_eq(status_of(&p), RBPAGE_SHORT_DATA_LENGTH);
}

Test(rbpage, t49_r67_absolute_time)
{
    struct page p;
    unsigned n;
    uint64_t ts = 0;
    start(&p, 5);
    put32(&p, 0xb66f9dffU);
    put32(&p, (uint32_t)(0x4e438f8000000ULL >> 27));
    head(&p, 2, 0);
    put32(&p, 5);
    put32(&p, 0);
    done(&p);
    cr_assert_eq(walk(&p, &n, &ts), 0);
    cr_assert_eq(n, 1);
    cr_assert_eq(ts, 1376833332542703ULL);
}

Test(rbpage, r67_time_extend_adds)
{
    struct page p;
    unsigned n;
    uint64_t ts = 0;
    start(&p, 1000);
    head(&p, 30, 7);
    put32(&p, 2);
    head(&p, 1, 1);
    put32(&p, 5);
    done(&p);
    cr_assert_eq(walk(&p, &n, &ts), 0);
    cr_assert_eq(ts, 1000 + 7 + (2ULL << 27) + 1);
}

/* One case per row of the table of R69. */
Test(rbpage, r69_each_broken_record)
{
    struct page p;
    start(&p, 1);
    put32(&p, 0);
    p.n -= 1;
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_SHORT_EVENT_HEADER);

    start(&p, 1);
    head(&p, 29, 0);
    put32(&p, 8);
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_NULL_PADDING);

    start(&p, 1);
    head(&p, 29, 1);
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_SHORT_PADDING_LENGTH);

    start(&p, 1);
    head(&p, 29, 1);
    put32(&p, 3);
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_INVALID_PADDING_LENGTH);

    start(&p, 1);
    head(&p, 30, 1);
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_SHORT_TIME_EXTEND);

    start(&p, 1);
    head(&p, 31, 1);
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_SHORT_TIME_STAMP);

    start(&p, 1);
    head(&p, 0, 1);
    put32(&p, 2);
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_INVALID_DATA_LENGTH);

    start(&p, 1);
    head(&p, 3, 1);
    put32(&p, 5);
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_END_OVERFLOW);

    start(&p, 1);
    head(&p, 0, 1);
    put32(&p, 5);
    p.n += 1;
    done(&p);
    cr_expect_eq(status_of(&p), RBPAGE_SHORT_EVENT_ID, "one byte cannot hold an id");
}

Test(rbpage, r70_padding_past_the_end_ends_quietly)
{
    struct page p;
    start(&p, 1);
    head(&p, 29, 1);
    put32(&p, 0xffffffffU);
    done(&p);
    cr_assert_eq(status_of(&p), 0);
}

Test(rbpage, random_bytes_never_leave_the_page)
{
    uint32_t seed = 99;
    for (unsigned round = 0; round < 20000; round++) {
        struct page p;
        for (size_t i = 0; i < sizeof p.b; i += 4) {
            seed = seed * 1664525 + 1013904223;
            uint32_t v = seed >> (seed & 15);
            memcpy(p.b + i, &v, 4);
        }
        uint32_t size = (seed >> 4) % 4090;
        set_size(&p, size);
        struct rbpage pg;
        const uint8_t *rec;
        uint32_t len;
        if (rbpage_open(&pg, p.b, sizeof p.b, 8) != RBPAGE_OK)
            continue;
        while (rbpage_next(&pg, &rec, &len) > 0) {
            cr_assert(rec >= p.b + 16 && rec + len <= p.b + 16 + size && len >= 2);
        }
    }
}
