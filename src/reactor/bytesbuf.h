/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_BYTESBUF_H
#define REACTOR_BYTESBUF_H

/*
 * Owning, growing byte buffer with a cap, and protobuf writers for control messages made by hand.
 * Errors stick: when the cap or the memory is reached, `failed` is set, all further writes do
 * nothing, and the caller looks once at the end. What was written before stays valid.
 * Not for hot paths: those use smb/pbw.
 */

#include "reactor/bytes.h"

struct bytesbuf {
    uint8_t *p; /* own */
    size_t n;   /* bytes in use */
    size_t cap; /* bytes allocated */
    size_t max; /* never grows past this */
    bool failed;
};

/* Empty buffer that may grow to max bytes; allocates nothing yet. */
void bytesbuf_init(struct bytesbuf *b, size_t max);

/* Frees the memory; the buffer is as after init. */
void bytesbuf_fini(struct bytesbuf *b);

/* Forgets the contents and the error, keeps the memory. */
void bytesbuf_clear(struct bytesbuf *b);

/* Hands out the memory (the caller frees it with free(3); NULL when empty) and its length, and
 * leaves an empty buffer. */
uint8_t *bytesbuf_take(struct bytesbuf *b, size_t *n);

/* Room for n more bytes at the returned place, which stays valid until the next call; add what was
 * used with bytesbuf_commit. NULL, and `failed` is set, when the cap or the memory is reached. */
uint8_t *bytesbuf_reserve(struct bytesbuf *b, size_t n);

/* Counts n (at most what was reserved) bytes as written. */
void bytesbuf_commit(struct bytesbuf *b, size_t n);

/* Drops the first n bytes (at most all), moving the rest down. */
void bytesbuf_drop_front(struct bytesbuf *b, size_t n);

static inline struct bytes_view bytesbuf_view(const struct bytesbuf *b)
{
    return bytes_view(b->p, b->n);
}

/* Raw bytes and little-endian words. */
void bytesbuf_put(struct bytesbuf *b, const void *p, size_t n);
void bytesbuf_put_u8(struct bytesbuf *b, uint8_t v);
void bytesbuf_put_u32(struct bytesbuf *b, uint32_t v);
void bytesbuf_put_u64(struct bytesbuf *b, uint64_t v);

/* Minimal base-128 varint. */
void bytesbuf_put_varint(struct bytesbuf *b, uint64_t v);

/* Protobuf fields. Negative int32/int64 values are passed as their 64-bit two's complement. */
void bytesbuf_pb_varint(struct bytesbuf *b, uint32_t field, uint64_t v);
void bytesbuf_pb_fixed32(struct bytesbuf *b, uint32_t field, uint32_t v);
void bytesbuf_pb_fixed64(struct bytesbuf *b, uint32_t field, uint64_t v);
void bytesbuf_pb_bytes(struct bytesbuf *b, uint32_t field, const void *p, size_t n);
void bytesbuf_pb_str(struct bytesbuf *b, uint32_t field, const char *s);

/* Nested message: mark = bytesbuf_pb_begin(b, 3); ...fields...; bytesbuf_pb_end(b, mark). The
 * length comes out minimal, as upb writes it. Nesting needs one mark per level. */
size_t bytesbuf_pb_begin(struct bytesbuf *b, uint32_t field);
void bytesbuf_pb_end(struct bytesbuf *b, size_t mark);

/* The same for a large one, of less than 256 MiB: the length takes four bytes whatever it is, so
 * that nothing moves at the end. */
size_t bytesbuf_pb_begin_large(struct bytesbuf *b, uint32_t field);
void bytesbuf_pb_end_large(struct bytesbuf *b, size_t mark);

#endif
