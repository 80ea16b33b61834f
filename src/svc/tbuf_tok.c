/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fragments of a chunk. Everything here looks at private memory: the caller has copied the bytes
 * out of the shared memory first, so that what was checked is what is stored.
 *
 * Never reads behind `len`, whatever the bytes say: a header is looked at only as far as the
 * payload goes, and a size is compared with what is left before anything is added to it.
 */
#include "svc/tbuf_tok.h"

uint32_t tbuf_tok_long_header(const uint8_t *p, size_t avail, uint64_t *size)
{
    uint64_t v = 0;
    size_t max = avail < TBUF_TOK_HDR_MAX ? avail : TBUF_TOK_HDR_MAX;
    for (uint32_t i = 0; i < max; i++) {
        v |= (uint64_t)(p[i] & 0x7F) << (7 * i);
        if (p[i] < 0x80) {
            *size = v;
            return i + 1;
        }
    }
    return 0;
}

void tbuf_tok_walk(const uint8_t *p, uint32_t len, uint32_t declared, struct tbuf_tok *out)
{
    struct tbuf_tok t = {0};
    while (t.valid < declared) {
        uint64_t size = 0;
        uint32_t hdr = tbuf_tok_header(p + t.bytes, len - t.bytes, &size);
        if (hdr != 0 && size == TBUF_TOK_DROP) {
            t.dropped = true;
            break;
        }
        if (hdr == 0 || size > len - t.bytes - hdr) {
            t.malformed = true;
            break;
        }
        t.bytes += hdr + (uint32_t)size;
        t.valid++;
        if (size != 0)
            t.filled = t.bytes;
    }
    *out = t;
}
