/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_BYTES_H
#define REACTOR_BYTES_H

/*
 * Bytes that somebody else wrote, read with bounds checks: a view, a cursor with little-endian and
 * protobuf wire readers. All readers are inline and allocate nothing. A reader that returns false
 * has moved nothing and written nothing, so after a loop over fields bytes_done() tells a clean
 * end from a malformed one.
 * The writing side, an owning buffer, is in reactor/bytesbuf.h; only the varints that everything is
 * made of are written here.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* n bytes at p, borrowed. p may be NULL when n is 0. */
struct bytes_view {
    const uint8_t *p; /* borrow */
    size_t n;
};

/* Reading position in a view. */
struct bytes_cur {
    const uint8_t *p;   /* borrow: next byte to read */
    const uint8_t *end; /* borrow: one past the last */
};

/* Protobuf wire types. */
enum bytes_wire {
    BYTES_VARINT = 0,
    BYTES_FIXED64 = 1,
    BYTES_LEN = 2,
    BYTES_GROUP = 3,
    BYTES_END_GROUP = 4,
    BYTES_FIXED32 = 5
};

/* One decoded field. */
struct bytes_field {
    uint32_t id;            /* field number, 1 .. 2^29 - 1 */
    uint8_t type;           /* enum bytes_wire, never BYTES_END_GROUP */
    uint64_t num;           /* value of VARINT, FIXED64 and FIXED32; 0 otherwise */
    struct bytes_view data; /* payload of LEN; of GROUP, all up to its end tag; else empty */
    struct bytes_view raw;  /* the whole field, tag included */
};

#define BYTES_MAX_FIELD  ((1u << 29) - 1)
#define BYTES_MAX_GROUPS 32 /* groups nested deeper than this are refused */

static inline struct bytes_view bytes_view(const void *p, size_t n)
{
    return (struct bytes_view){(const uint8_t *)p, n};
}

/* View of a C string without its NUL. */
static inline struct bytes_view bytes_str(const char *s)
{
    return bytes_view(s, strlen(s));
}

static inline bool bytes_equal(struct bytes_view a, struct bytes_view b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Order of the bytes, then of the lengths: negative, 0, positive. */
static inline int bytes_compare(struct bytes_view a, struct bytes_view b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n ? memcmp(a.p, b.p, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

/* FNV-1a, 64 bits. For tables of names: whoever chooses the names can make two collide. */
static inline uint64_t bytes_hash(struct bytes_view v)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < v.n; i++)
        hash = (hash ^ v.p[i]) * 0x100000001b3u;
    return hash;
}

static inline struct bytes_cur bytes_cur(struct bytes_view v)
{
    return (struct bytes_cur){v.p, v.n != 0 ? v.p + v.n : v.p};
}

/* Number of bytes not read yet. */
static inline size_t bytes_left(const struct bytes_cur *c)
{
    return (size_t)(c->end - c->p);
}

/* True when everything was read. */
static inline bool bytes_done(const struct bytes_cur *c)
{
    return c->p == c->end;
}

/* Moves on by n bytes. */
static inline bool bytes_skip(struct bytes_cur *c, uint64_t n)
{
    if (n > bytes_left(c))
        return false;
    if (n != 0) /* an empty view may have no address */
        c->p += n;
    return true;
}

/* Takes n bytes as a view (no copy). */
static inline bool bytes_get(struct bytes_cur *c, uint64_t n, struct bytes_view *out)
{
    if (n > bytes_left(c))
        return false;
    *out = bytes_view(c->p, (size_t)n);
    if (n != 0)
        c->p += n;
    return true;
}

/* Little-endian loads and stores at any alignment, bytes_load16(p) and bytes_store16(p, v), where
 * the caller has checked the bounds; and bytes_get_u16(c, &v), which does it itself. Likewise 32
 * and 64. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BYTES_SWAP(bits, v) (v)
#else
#define BYTES_SWAP(bits, v) __builtin_bswap##bits(v)
#endif
#define BYTES_WORD(bits)                                                                           \
    static inline uint##bits##_t bytes_load##bits(const void *p)                                   \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        memcpy(&v, p, sizeof(v));                                                                  \
        return BYTES_SWAP(bits, v);                                                                \
    }                                                                                              \
    static inline void bytes_store##bits(void *p, uint##bits##_t v)                                \
    {                                                                                              \
        v = BYTES_SWAP(bits, v);                                                                   \
        memcpy(p, &v, sizeof(v));                                                                  \
    }                                                                                              \
    static inline bool bytes_get_u##bits(struct bytes_cur *c, uint##bits##_t *out)                 \
    {                                                                                              \
        if (bytes_left(c) < bits / 8)                                                              \
            return false;                                                                          \
        *out = bytes_load##bits(c->p);                                                             \
        c->p += bits / 8;                                                                          \
        return true;                                                                               \
    }
BYTES_WORD(16)
BYTES_WORD(32)
BYTES_WORD(64)
#undef BYTES_WORD
#undef BYTES_SWAP

static inline bool bytes_get_u8(struct bytes_cur *c, uint8_t *out)
{
    if (bytes_left(c) < 1)
        return false;
    *out = *c->p++;
    return true;
}

/* Base-128 varint of at most max bytes (max <= 10); non-minimal forms are accepted. False when it
 * is cut off or has a continuation bit on its last allowed byte. Bits above 64 are dropped. */
static inline bool bytes_get_varint_max(struct bytes_cur *c, size_t max, uint64_t *out)
{
    size_t left = bytes_left(c);
    if (left == 0 || max == 0)
        return false;
    if (c->p[0] < 0x80) {
        *out = *c->p++;
        return true;
    }
    if (left > max)
        left = max;
    uint64_t v = 0;
    for (size_t i = 0; i < left; i++) {
        uint64_t byte = c->p[i];
        v |= (byte & 0x7F) << (7 * i);
        if (byte < 0x80) {
            *out = v;
            c->p += i + 1;
            return true;
        }
    }
    return false;
}

static inline bool bytes_get_varint(struct bytes_cur *c, uint64_t *out)
{
    return bytes_get_varint_max(c, 10, out);
}

/* Longest varint. */
#define BYTES_VARINT_MAX 10

/* Bytes of the shortest varint of v. */
static inline size_t bytes_varint_size(uint64_t v)
{
    return 1 + (63u - (size_t)__builtin_clzll(v | 1)) / 7;
}

/* Writes the shortest varint of v to p, which has room for it; returns the place behind it. */
static inline uint8_t *bytes_put_varint(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

/* Writes the tag of a field. */
static inline uint8_t *bytes_put_tag(uint8_t *p, uint32_t field, enum bytes_wire type)
{
    return bytes_put_varint(p, (uint64_t)field << 3 | type);
}

/* Field number and wire type. False for field 0, tags above 32 bits and wire types 6 and 7. */
static inline bool bytes_get_tag(struct bytes_cur *c, uint32_t *field, uint8_t *type)
{
    struct bytes_cur at = *c;
    uint64_t tag = 0;
    if (!bytes_get_varint(&at, &tag) || tag > UINT32_MAX || tag < 8 || (tag & 7) > BYTES_FIXED32)
        return false;
    *field = (uint32_t)(tag >> 3);
    *type = (uint8_t)(tag & 7);
    *c = at;
    return true;
}

/* Varint length and as many bytes, as a view. */
static inline bool bytes_get_len(struct bytes_cur *c, struct bytes_view *out)
{
    struct bytes_cur at = *c;
    uint64_t n = 0;
    if (!bytes_get_varint(&at, &n) || !bytes_get(&at, n, out))
        return false;
    *c = at;
    return true;
}

/* Skips what follows a start-group tag of `field`, up to and including its end-group tag; *body
 * gets what is between. Bounded in depth by BYTES_MAX_GROUPS, no recursion. */
bool bytes_get_group(struct bytes_cur *c, uint32_t field, struct bytes_view *body);

/* Next field of a protobuf message. False at the end and when malformed: tell them apart with
 * bytes_done(). Unknown fields need no care, a caller just does not look at them. */
static inline bool bytes_next(struct bytes_cur *c, struct bytes_field *f)
{
    struct bytes_cur at = *c;
    struct bytes_field g = {0, 0, 0, {NULL, 0}, {NULL, 0}};
    uint32_t num32 = 0;
    bool ok = false;
    if (!bytes_get_tag(&at, &g.id, &g.type))
        return false;
    switch (g.type) {
    case BYTES_VARINT:
        ok = bytes_get_varint(&at, &g.num);
        break;
    case BYTES_FIXED64:
        ok = bytes_get_u64(&at, &g.num);
        break;
    case BYTES_LEN:
        ok = bytes_get_len(&at, &g.data);
        break;
    case BYTES_FIXED32:
        ok = bytes_get_u32(&at, &num32);
        g.num = num32;
        break;
    case BYTES_GROUP:
        ok = bytes_get_group(&at, g.id, &g.data);
        break;
    default:
        break;
    }
    if (!ok)
        return false;
    g.raw = bytes_view(c->p, (size_t)(at.p - c->p));
    *f = g;
    *c = at;
    return true;
}

/* Finds the last field with this number and wire type, as protobuf's "last one wins" wants it.
 * False when there is none or the message is malformed before its end. */
bool bytes_find(struct bytes_view msg, uint32_t field, enum bytes_wire type,
                struct bytes_field *out);

#endif
