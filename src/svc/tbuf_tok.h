/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc/tbuf_tok: fragments inside a chunk's payload: base-128 size, then that many bytes (R10).
 */
#ifndef SVC_TBUF_TOK_H
#define SVC_TBUF_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TBUF_TOK_HDR_MAX 10u         /* bytes of a size header that are accepted (X20) */
#define TBUF_TOK_DROP    0x0FFFFFFFu /* size value of the drop marker (R11) */

/* The size header at p, of which `avail` bytes may be looked at, for headers of three bytes and
 * more. Returns its length, 0 if it does not end within min(avail, TBUF_TOK_HDR_MAX) bytes. */
uint32_t tbuf_tok_long_header(const uint8_t *p, size_t avail, uint64_t *size);

/* The same for any header. Packets of less than 16 KiB take the two short ways. */
static inline uint32_t tbuf_tok_header(const uint8_t *p, size_t avail, uint64_t *size)
{
    if (avail >= 1 && p[0] < 0x80) {
        *size = p[0];
        return 1;
    }
    if (avail >= 2 && p[1] < 0x80) {
        *size = (uint64_t)(p[0] & 0x7F) | (uint64_t)p[1] << 7;
        return 2;
    }
    return tbuf_tok_long_header(p, avail, size);
}

/* What a walk over the counted fragments of a payload found. */
struct tbuf_tok {
    uint32_t bytes;  /* valid fragments, headers included, from the start */
    uint32_t valid;  /* how many of them */
    uint32_t filled; /* offset behind the last one that is not empty, 0: all are empty */
    bool dropped;    /* ended by a drop marker */
    bool malformed;  /* ended before the declared count by anything else */
};

/* Walks `declared` fragments of p[0..len). */
void tbuf_tok_walk(const uint8_t *p, uint32_t len, uint32_t declared, struct tbuf_tok *out);

#endif
