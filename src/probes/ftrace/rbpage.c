/* rbpage: walks the records of a raw ring buffer page.
 *
 * Each record starts with one word: bits 0..4 type_len, bits 5..31 time_delta. Time runs from the
 * page's own stamp; the delta of every kind of record is added first, and an absolute time stamp
 * then overrides (R67). The invariant is p <= end, with both inside the page: every length is
 * checked against what is left before it is used. A broken record ends the page with a status, it
 * never ends the trace. Hosts are little-endian, as the kernels we read are our own. */
#include "probes/ftrace/rbpage.h"

#include <endian.h>

_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "raw pages are read as little-endian words");

enum {
    TYPE_DATA_LONG = 0, /* length in the next word */
    TYPE_DATA_MAX = 28, /* 1..28: length is 4 * type_len */
    TYPE_PADDING = 29,
    TYPE_TIME_EXTEND = 30,
    TYPE_TIME_STAMP = 31,
};

#define SIZE_MASK 0x07ffffffU
#define LOST_FLAG 0x80000000U

enum rbpage_status rbpage_open(struct rbpage *pg, const uint8_t *page, size_t len,
                               unsigned commit_width)
{
    size_t header = 8 + (size_t)commit_width;
    *pg = (struct rbpage){.p = page, .end = page};
    if (len < 12)
        return RBPAGE_INVALID_PAGE_HEADER;
    uint32_t commit = rbpage_u32(page + 8);
    pg->ts = rbpage_u64(page);
    pg->size = commit & SIZE_MASK;
    pg->lost = commit & LOST_FLAG;
    if (pg->size == 0 || len < header || pg->size > len - header)
        return RBPAGE_INVALID_PAGE_HEADER;
    pg->p = page + header;
    pg->end = pg->p + pg->size;
    return RBPAGE_OK;
}

/* A padding record: skipped; one that runs past the end ends the page quietly (R70). */
static int skip_padding(struct rbpage *pg, uint32_t delta)
{
    if (delta == 0)
        return -RBPAGE_NULL_PADDING;
    if (pg->end - pg->p < 4)
        return -RBPAGE_SHORT_PADDING_LENGTH;
    uint32_t len = rbpage_u32(pg->p);
    if (len < 4)
        return -RBPAGE_INVALID_PADDING_LENGTH;
    if (len > (size_t)(pg->end - pg->p))
        pg->p = pg->end;
    else
        pg->p += len;
    return 0;
}

static int take_data(struct rbpage *pg, uint32_t type, const uint8_t **rec, uint32_t *len)
{
    uint32_t n = type * 4;
    if (type == TYPE_DATA_LONG) {
        if (pg->end - pg->p < 4)
            return -RBPAGE_SHORT_DATA_LENGTH;
        n = rbpage_u32(pg->p);
        if (n == 0)
            return -RBPAGE_ZERO_DATA_LENGTH;
        if (n < 4)
            return -RBPAGE_INVALID_DATA_LENGTH;
        n -= 4;
        pg->p += 4;
    }
    if (n > (size_t)(pg->end - pg->p))
        return -RBPAGE_END_OVERFLOW;
    if (n < 2)
        return -RBPAGE_SHORT_EVENT_ID;
    *rec = pg->p;
    *len = n;
    pg->p += n;
    return 1;
}

int rbpage_next(struct rbpage *pg, const uint8_t **rec, uint32_t *len)
{
    while (pg->p < pg->end) {
        if (pg->end - pg->p < 4)
            return -RBPAGE_SHORT_EVENT_HEADER;
        uint32_t head = rbpage_u32(pg->p), type = head & 31, delta = head >> 5;
        pg->p += 4;
        pg->ts += delta;
        if (type <= TYPE_DATA_MAX)
            return take_data(pg, type, rec, len);
        if (type == TYPE_PADDING) {
            int rc = skip_padding(pg, delta);
            if (rc)
                return rc;
            continue;
        }
        if (pg->end - pg->p < 4)
            return type == TYPE_TIME_EXTEND ? -RBPAGE_SHORT_TIME_EXTEND : -RBPAGE_SHORT_TIME_STAMP;
        uint64_t ext = (uint64_t)rbpage_u32(pg->p) << 27;
        pg->p += 4;
        if (type == TYPE_TIME_EXTEND)
            pg->ts += ext;
        else
            pg->ts = delta + ext; /* 59 bits: the kernel's wire keeps no more (R68) */
    }
    return 0;
}
