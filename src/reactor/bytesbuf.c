/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bytesbuf: the writing side of bytes. The buffer owns its memory and nobody else's; it doubles
 * until its cap, so appending is linear over all and a runaway caller cannot eat the machine.
 * Invariant: n <= cap <= max, and once `failed` is set nothing is written any more, so that a
 * half-written field is never followed by a whole one.
 */
#include "reactor/bytesbuf.h"

#include "reactor/alloc.h"

void bytesbuf_init(struct bytesbuf *b, size_t max)
{
    *b = (struct bytesbuf){NULL, 0, 0, max, false};
}

void bytesbuf_fini(struct bytesbuf *b)
{
    free(b->p);
    bytesbuf_init(b, b->max);
}

void bytesbuf_clear(struct bytesbuf *b)
{
    b->n = 0;
    b->failed = false;
}

uint8_t *bytesbuf_take(struct bytesbuf *b, size_t *n)
{
    uint8_t *p = b->p;
    *n = b->n;
    bytesbuf_init(b, b->max);
    return p;
}

static bool grow(struct bytesbuf *b, size_t n)
{
    size_t want = 0;
    if (__builtin_add_overflow(b->n, n, &want) || want > b->max)
        return false;
    size_t cap = b->cap < 32 ? 64 : b->cap * 2;
    if (cap < want)
        cap = want;
    if (cap > b->max)
        cap = b->max;
    uint8_t *p = alloc_try_resize(b->p, cap, 1);
    if (p == NULL)
        return false;
    b->p = p;
    b->cap = cap;
    return true;
}

uint8_t *bytesbuf_reserve(struct bytesbuf *b, size_t n)
{
    if (b->failed)
        return NULL;
    if ((b->p == NULL || n > b->cap - b->n) && !grow(b, n)) {
        b->failed = true;
        return NULL;
    }
    return b->p + b->n;
}

void bytesbuf_commit(struct bytesbuf *b, size_t n)
{
    b->n += n <= b->cap - b->n ? n : b->cap - b->n;
}

void bytesbuf_drop_front(struct bytesbuf *b, size_t n)
{
    if (n >= b->n) {
        b->n = 0;
        return;
    }
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
}

void bytesbuf_put(struct bytesbuf *b, const void *p, size_t n)
{
    uint8_t *at = bytesbuf_reserve(b, n);
    if (at == NULL || n == 0)
        return;
    memcpy(at, p, n);
    b->n += n;
}

void bytesbuf_put_u8(struct bytesbuf *b, uint8_t v)
{
    bytesbuf_put(b, &v, 1);
}

void bytesbuf_put_u32(struct bytesbuf *b, uint32_t v)
{
    uint8_t le[4];
    bytes_store32(le, v);
    bytesbuf_put(b, le, sizeof(le));
}

void bytesbuf_put_u64(struct bytesbuf *b, uint64_t v)
{
    uint8_t le[8];
    bytes_store64(le, v);
    bytesbuf_put(b, le, sizeof(le));
}

void bytesbuf_put_varint(struct bytesbuf *b, uint64_t v)
{
    uint8_t raw[BYTES_VARINT_MAX];
    bytesbuf_put(b, raw, (size_t)(bytes_put_varint(raw, v) - raw));
}

static void put_tag(struct bytesbuf *b, uint32_t field, enum bytes_wire type)
{
    bytesbuf_put_varint(b, (uint64_t)field << 3 | type);
}

void bytesbuf_pb_varint(struct bytesbuf *b, uint32_t field, uint64_t v)
{
    put_tag(b, field, BYTES_VARINT);
    bytesbuf_put_varint(b, v);
}

void bytesbuf_pb_fixed32(struct bytesbuf *b, uint32_t field, uint32_t v)
{
    put_tag(b, field, BYTES_FIXED32);
    bytesbuf_put_u32(b, v);
}

void bytesbuf_pb_fixed64(struct bytesbuf *b, uint32_t field, uint64_t v)
{
    put_tag(b, field, BYTES_FIXED64);
    bytesbuf_put_u64(b, v);
}

void bytesbuf_pb_bytes(struct bytesbuf *b, uint32_t field, const void *p, size_t n)
{
    put_tag(b, field, BYTES_LEN);
    bytesbuf_put_varint(b, n);
    bytesbuf_put(b, p, n);
}

void bytesbuf_pb_str(struct bytesbuf *b, uint32_t field, const char *s)
{
    bytesbuf_pb_bytes(b, field, s, strlen(s));
}

size_t bytesbuf_pb_begin(struct bytesbuf *b, uint32_t field)
{
    put_tag(b, field, BYTES_LEN);
    bytesbuf_put_u8(b, 0); /* most nested messages are short: one byte is the right guess */
    return b->n;
}

void bytesbuf_pb_end(struct bytesbuf *b, size_t mark)
{
    if (b->failed)
        return;
    size_t body = b->n - mark;
    size_t len = bytes_varint_size(body);
    if (len > 1) {
        if (bytesbuf_reserve(b, len - 1) == NULL)
            return;
        memmove(b->p + mark + len - 1, b->p + mark, body);
        b->n += len - 1;
    }
    bytes_put_varint(b->p + mark - 1, body);
}

size_t bytesbuf_pb_begin_large(struct bytesbuf *b, uint32_t field)
{
    put_tag(b, field, BYTES_LEN);
    bytesbuf_put_u32(b, 0);
    return b->n;
}

void bytesbuf_pb_end_large(struct bytesbuf *b, size_t mark)
{
    if (b->failed)
        return;
    size_t body = b->n - mark;
    if (body >= (size_t)1 << 28) {
        b->failed = true;
        return;
    }
    for (unsigned i = 0; i < 4; i++)
        b->p[mark - 4 + i] = (uint8_t)((body >> 7 * i & 0x7F) | (i < 3 ? 0x80 : 0));
}
