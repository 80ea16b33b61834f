/* rbpage: one page of the kernel's per-CPU ring buffer, as read from trace_pipe_raw
 * (probes.md 4.9).
 *
 * Bytes, little-endian: u64 time, commit word (4 or 8 bytes), then `size` bytes of records.
 * commit bits 0..26 = size of the records, bit 31 = events were lost before this page (R65). */
#ifndef PROBES_FTRACE_RBPAGE_H
#define PROBES_FTRACE_RBPAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* FtraceParseStatus of the trace (R69): one value per way in which a page or a record is broken. */
enum rbpage_status {
    RBPAGE_OK = 1,
    RBPAGE_UNEXPECTED_READ_ERROR = 2,
    RBPAGE_PARTIAL_PAGE_READ = 3,
    RBPAGE_INVALID_PAGE_HEADER = 4,
    RBPAGE_SHORT_EVENT_HEADER = 5,
    RBPAGE_NULL_PADDING = 6,
    RBPAGE_SHORT_PADDING_LENGTH = 7,
    RBPAGE_INVALID_PADDING_LENGTH = 8,
    RBPAGE_SHORT_TIME_EXTEND = 9,
    RBPAGE_SHORT_TIME_STAMP = 10,
    RBPAGE_SHORT_DATA_LENGTH = 11,
    RBPAGE_ZERO_DATA_LENGTH = 12,
    RBPAGE_INVALID_DATA_LENGTH = 13,
    RBPAGE_SHORT_EVENT_ID = 14,
    RBPAGE_END_OVERFLOW = 15,
    RBPAGE_SHORT_COMPACT_EVENT = 16,
    RBPAGE_INVALID_EVENT = 17,
};
#define RBPAGE_STATUS_MAX 17

struct rbpage {
    uint64_t ts;        /* trace clock: of the page, then of the record last returned */
    const uint8_t *p;   /* borrow: next record header */
    const uint8_t *end; /* borrow: end of the records */
    uint32_t size;      /* of the records */
    bool lost;          /* events were lost before this page */
};

/* Opens a page of `len` bytes. RBPAGE_OK, or RBPAGE_INVALID_PAGE_HEADER (R66); pg->ts and pg->lost
 * are valid in either case when len >= 12. */
enum rbpage_status rbpage_open(struct rbpage *pg, const uint8_t *page, size_t len,
                               unsigned commit_width);

/* Advances to the next data record: *rec is its payload, which starts with the 16-bit event id,
 * *len its length (>= 2). 1 = there is one, 0 = end of the page, negative = minus the status that
 * makes the rest of this page unreadable (R69). */
int rbpage_next(struct rbpage *pg, const uint8_t **rec, uint32_t *len);

static inline uint16_t rbpage_u16(const uint8_t *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t rbpage_u32(const uint8_t *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t rbpage_u64(const uint8_t *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

#endif
