/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streaming protobuf writer: fields go straight to their final place, which is a chunk of the SMB
 * (smb/writer) or a flat piece of memory. Nested messages reserve a 4-byte size that is filled in,
 * and compacted where the ABI allows it, when they end (R45-R49). No allocation, no system call.
 *
 * A pbw writes to a range [cur, end). When a range is full the owner's `more` brings the next one;
 * the bytes of a message therefore need not be contiguous, but a size field always is.
 *
 * Usage:  pbw_varint(p, 8, ts); pbw_begin(p, 900); pbw_str(p, 1, "x"); pbw_end(p);
 * begin and end must pair up, innermost first. Everything here is for one thread at a time.
 */
#ifndef SMB_PBW_H
#define SMB_PBW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "reactor/bytes.h"
#include "smb/abi.h"

/* Open nested messages at one time. Deeper ones are not delimited: their fields land in the deepest
 * message and pbw.too_deep counts them. Callers with unbounded input bound it themselves. */
#define PBW_DEPTH 32

/* Longest tag + varint. */
#define PBW_MAX_FIELD 15

struct pbw_nest {
    uint8_t *field; /* borrow: where the 4 bytes go: the range, a patch entry, or NULL if lost */
    uint32_t start; /* pbw_pos() of the message's first byte */
    bool local;     /* the field lies in the current range */
};

struct pbw {
    uint8_t *cur;   /* borrow: next byte */
    uint8_t *end;   /* borrow: end of the range */
    uint8_t *begin; /* borrow: first byte of the range that counts as message content */
    uint32_t base;  /* content bytes in earlier ranges */
    uint32_t depth;
    uint32_t too_deep;
    /* Brings a new range: afterwards cur < end, and no nest is local to an old range. Never fails;
     * an owner that has no room points it at memory whose contents do not matter. */
    void (*more)(struct pbw *p);
    struct pbw_nest nest[PBW_DEPTH];
};

/* Content bytes so far. */
static inline uint32_t pbw_pos(const struct pbw *p)
{
    return p->base + (uint32_t)(p->cur - p->begin);
}

/* ---- flat memory ---- */

struct pbw_flat {
    struct pbw pbw; /* first: `more` finds the flat from it */
    uint8_t *buf;   /* borrow */
    size_t cap;
    bool overflow;
};

/* Writes to buf[0 ... cap - 1], cap >= 1. */
void pbw_flat_init(struct pbw_flat *f, void *buf, size_t cap);

/* Closes what is open. Returns the length, or -1 if it did not fit (the contents are then
 * worthless). */
ptrdiff_t pbw_flat_end(struct pbw_flat *f);

/* ---- slow paths, out of line ---- */

void pbw_raw_slow(struct pbw *p, const void *data, size_t len);
void pbw_begin_slow(struct pbw *p);
void pbw_end_all(struct pbw *p);

/* ---- fields ---- */

enum pbw_wire {
    PBW_VARINT = 0,
    PBW_FIXED64 = 1,
    PBW_BYTES = 2,
    PBW_FIXED32 = 5,
};

/* Raw bytes of an already encoded message, or of the value of a bytes field. */
static inline void pbw_raw(struct pbw *p, const void *data, size_t len)
{
    if ((size_t)(p->end - p->cur) >= len) {
        if (len) {
            memcpy(p->cur, data, len);
            p->cur += len;
        }
        return;
    }
    pbw_raw_slow(p, data, len);
}

static inline void pbw_tag_varint(struct pbw *p, uint32_t tag, uint64_t v)
{
    if (__builtin_expect(p->end - p->cur >= PBW_MAX_FIELD, 1)) {
        p->cur = bytes_put_varint(bytes_put_varint(p->cur, tag), v);
        return;
    }
    uint8_t tmp[PBW_MAX_FIELD];
    pbw_raw(p, tmp, (size_t)(bytes_put_varint(bytes_put_varint(tmp, tag), v) - tmp));
}

/* uint32, uint64, bool, enum (non-negative). */
static inline void pbw_varint(struct pbw *p, uint32_t field, uint64_t v)
{
    pbw_tag_varint(p, field << 3 | PBW_VARINT, v);
}

/* int32, int64, enum: sign-extended to 64 bits. */
static inline void pbw_int(struct pbw *p, uint32_t field, int64_t v)
{
    pbw_varint(p, field, (uint64_t)v);
}

/* sint32, sint64. */
static inline void pbw_sint(struct pbw *p, uint32_t field, int64_t v)
{
    pbw_varint(p, field, ((uint64_t)v << 1) ^ (uint64_t)(v >> 63));
}

static inline void pbw_bool(struct pbw *p, uint32_t field, bool v)
{
    pbw_varint(p, field, v);
}

static inline void pbw_fixed32(struct pbw *p, uint32_t field, uint32_t v)
{
    uint8_t tmp[PBW_MAX_FIELD];
    uint8_t *at = bytes_put_varint(tmp, field << 3 | PBW_FIXED32);
    memcpy(at, &v, sizeof(v));
    pbw_raw(p, tmp, (size_t)(at - tmp) + sizeof(v));
}

static inline void pbw_fixed64(struct pbw *p, uint32_t field, uint64_t v)
{
    uint8_t tmp[PBW_MAX_FIELD];
    uint8_t *at = bytes_put_varint(tmp, field << 3 | PBW_FIXED64);
    memcpy(at, &v, sizeof(v));
    pbw_raw(p, tmp, (size_t)(at - tmp) + sizeof(v));
}

static inline void pbw_float(struct pbw *p, uint32_t field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    pbw_fixed32(p, field, bits);
}

static inline void pbw_double(struct pbw *p, uint32_t field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    pbw_fixed64(p, field, bits);
}

/* bytes, string, or a sub-message that is already encoded. */
static inline void pbw_bytes(struct pbw *p, uint32_t field, const void *data, size_t len)
{
    pbw_tag_varint(p, field << 3 | PBW_BYTES, len);
    pbw_raw(p, data, len);
}

static inline void pbw_str(struct pbw *p, uint32_t field, const char *s)
{
    pbw_bytes(p, field, s, strlen(s));
}

/* Packed repeated varints. n may be 0: nothing is written then. */
void pbw_packed(struct pbw *p, uint32_t field, const uint64_t *v, size_t n);

/* Opens a nested message: tag, then 4 contiguous bytes for its size (R45). */
static inline void pbw_begin(struct pbw *p, uint32_t field)
{
    uint8_t tmp[5];
    size_t n = (size_t)(bytes_put_varint(tmp, field << 3 | PBW_BYTES) - tmp);
    if (__builtin_expect(p->depth >= PBW_DEPTH, 0)) {
        p->too_deep++;
        p->depth++;
        return;
    }
    pbw_raw(p, tmp, n);
    if (__builtin_expect(p->end - p->cur < (ptrdiff_t)SMB_SIZE_FIELD, 0)) {
        pbw_begin_slow(p);
        return;
    }
    struct pbw_nest *nest = &p->nest[p->depth++];
    nest->field = p->cur;
    nest->local = true;
    memset(p->cur, 0, SMB_SIZE_FIELD);
    p->cur += SMB_SIZE_FIELD;
    nest->start = pbw_pos(p);
}

/* Closes the innermost open message. Up to 127 bytes that lie behind their size field in one piece
 * get a 1-byte size (R46), all else the 4-byte form. Without an open message nothing happens. */
static inline void pbw_end(struct pbw *p)
{
    if (p->depth == 0 || --p->depth >= PBW_DEPTH) {
        return;
    }
    struct pbw_nest *nest = &p->nest[p->depth];
    uint32_t size = pbw_pos(p) - nest->start;
    if (!nest->field) {
        return;
    }
    if (nest->local && size <= 127) {
        memmove(nest->field + 1, nest->field + SMB_SIZE_FIELD, size);
        nest->field[0] = (uint8_t)size;
        p->cur -= SMB_SIZE_FIELD - 1;
    } else {
        abi_put_size(nest->field, size <= SMB_DROP_SENTINEL ? size : SMB_DROP_SENTINEL);
    }
}

#endif
