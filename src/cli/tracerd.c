/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reader of trace files.
 *
 * The file is read in order through one buffer that holds at least one whole packet, so a pipe
 * works as well as a file larger than memory. Compressed packets (R532) are inflated one at a time
 * and their contents delivered in their place; neither an inflated packet nor the length that a
 * damaged file claims can make us take more memory than the two limits in the header.
 *
 * Nothing in a file is trusted: bytes that are no packet are damage, which is reported and, where
 * the framing still holds, stepped over.
 */
#include "cli/tracerd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"

#define READ_SIZE    (1u << 20)
#define INFLATE_STEP (256u << 10)
#define TRACE_PACKET 1 /* Trace.packet */

struct reader {
    const struct tracerd_ops *ops; /* borrow */
    void *arg;                     /* borrow */
    struct tracerd_totals *totals; /* borrow */
    struct bytesbuf inflated;
    bool stopped;
};

static void damage(struct reader *r, uint64_t offset, const char *what)
{
    r->totals->damages++;
    if (r->ops->damage != NULL)
        r->ops->damage(r->arg, offset, what);
}

/* ---- compressed packets ---- */

static const char *inflate_zlib(struct bytesbuf *out, struct bytes_view in)
{
    z_stream z;
    int rc = Z_OK;

    memset(&z, 0, sizeof(z));
    if (in.n > UINT32_MAX || inflateInit(&z) != Z_OK)
        return "a deflate packet cannot be opened";
    z.next_in = (Bytef *)(uintptr_t)in.p;
    z.avail_in = (uInt)in.n;
    while (rc == Z_OK) {
        uint8_t *room = bytesbuf_reserve(out, INFLATE_STEP);
        if (room == NULL) {
            (void)inflateEnd(&z);
            return "a deflate packet grows beyond the limit of 512 MB";
        }
        z.next_out = room;
        z.avail_out = INFLATE_STEP;
        rc = inflate(&z, Z_NO_FLUSH);
        bytesbuf_commit(out, INFLATE_STEP - z.avail_out);
    }
    (void)inflateEnd(&z);
    return rc == Z_STREAM_END ? NULL : "a deflate packet is damaged";
}

static const char *inflate_zstd(struct bytesbuf *out, struct bytes_view in)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    ZSTD_inBuffer src = {in.p, in.n, 0};
    const char *what = NULL;
    size_t rc = 1;

    if (z == NULL)
        return "a zstd packet cannot be opened";
    while (rc != 0 && what == NULL) {
        uint8_t *room = bytesbuf_reserve(out, INFLATE_STEP);
        ZSTD_outBuffer dst = {room, INFLATE_STEP, 0};
        size_t before = src.pos;
        if (room == NULL) {
            what = "a zstd packet grows beyond the limit of 512 MB";
            break;
        }
        rc = ZSTD_decompressStream(z, &dst, &src);
        bytesbuf_commit(out, dst.pos);
        if (ZSTD_isError(rc) || (rc != 0 && dst.pos == 0 && src.pos == before))
            what = "a zstd packet is damaged";
    }
    (void)ZSTD_freeDCtx(z);
    return what;
}

static void deliver(struct reader *r, struct bytes_view packet, uint64_t offset)
{
    r->totals->packets++;
    r->stopped = !r->ops->packet(r->arg, packet, offset);
}

static void open_compressed(struct reader *r, const struct bytes_field *f, uint64_t offset)
{
    struct bytes_field inner;
    struct bytes_cur cur;
    const char *what;

    bytesbuf_clear(&r->inflated);
    what = f->id == PBF_TracePacket_compressed_packets ? inflate_zlib(&r->inflated, f->data)
                                                       : inflate_zstd(&r->inflated, f->data);
    r->totals->compressed++;
    r->totals->compressed_bytes += f->data.n;
    r->totals->inflated_bytes += r->inflated.n;
    if (what != NULL)
        damage(r, offset, what);
    cur = bytes_cur(bytesbuf_view(&r->inflated));
    while (!r->stopped && bytes_next(&cur, &inner)) {
        if (inner.id == TRACE_PACKET && inner.type == BYTES_LEN)
            deliver(r, inner.data, offset);
    }
    if (!r->stopped && what == NULL && !bytes_done(&cur))
        damage(r, offset, "a compressed packet does not hold whole packets");
}

static void take_packet(struct reader *r, struct bytes_view packet, uint64_t offset)
{
    struct bytes_cur cur = bytes_cur(packet);
    struct bytes_field f;

    /* a compressed packet has that field first and nothing else of weight */
    if (bytes_next(&cur, &f) && f.type == BYTES_LEN &&
        (f.id == PBF_TracePacket_compressed_packets ||
         f.id == PBF_TracePacket_zstd_compressed_packets))
        open_compressed(r, &f, offset);
    else
        deliver(r, packet, offset);
}

/* ---- framing ---- */

/* How many bytes the next field needs in all, as far as the n bytes there tell: 0 for "more than
 * these, ask again", SIZE_MAX for "this is no field". */
static size_t field_size(const uint8_t *p, size_t n)
{
    struct bytes_cur cur = bytes_cur(bytes_view(p, n));
    uint32_t id;
    uint8_t type;
    uint64_t len;

    if (!bytes_get_tag(&cur, &id, &type))
        return n < 5 ? 0 : SIZE_MAX;
    if (type != BYTES_LEN)
        return id == TRACE_PACKET || n >= 16 ? SIZE_MAX : 0;
    if (!bytes_get_varint(&cur, &len))
        return n < 15 ? 0 : SIZE_MAX;
    if (len > TRACERD_PACKET_MAX)
        return SIZE_MAX;
    return (size_t)(cur.p - p) + (size_t)len;
}

/* Takes whole fields off the front of the buffer; returns the number of bytes taken, or SIZE_MAX
 * when what follows cannot be framing. *need is what the next field needs. */
static size_t take_fields(struct reader *r, const uint8_t *p, size_t n, uint64_t offset,
                          size_t *need)
{
    size_t at = 0;

    for (*need = 0; at < n && !r->stopped;) {
        size_t size = field_size(p + at, n - at);
        struct bytes_cur cur;
        struct bytes_field f;
        if (size == SIZE_MAX)
            return SIZE_MAX;
        if (size == 0 || size > n - at) {
            *need = size;
            break;
        }
        cur = bytes_cur(bytes_view(p + at, size));
        if (!bytes_next(&cur, &f))
            return SIZE_MAX;
        if (f.id == TRACE_PACKET)
            take_packet(r, f.data, offset + at);
        at += size;
    }
    return at;
}

static int read_more(int fd, struct bytesbuf *b, size_t want)
{
    uint8_t *room = bytesbuf_reserve(b, want);
    ssize_t n;

    if (room == NULL)
        return -ENOMEM;
    do
        n = read(fd, room, want);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    bytesbuf_commit(b, (size_t)n);
    return n > 0;
}

int tracerd_read(int fd, const struct tracerd_ops *ops, void *arg, struct tracerd_totals *totals)
{
    struct reader r = {.ops = ops, .arg = arg, .totals = totals};
    size_t need = 0, taken = 0;
    struct bytesbuf b;
    uint64_t offset = 0;
    int rc;

    memset(totals, 0, sizeof(*totals));
    bytesbuf_init(&b, (size_t)TRACERD_PACKET_MAX + 2 * READ_SIZE);
    bytesbuf_init(&r.inflated, TRACERD_INFLATED_MAX);
    while (!r.stopped) {
        rc = read_more(fd, &b, need > b.n && need - b.n > READ_SIZE ? need - b.n : READ_SIZE);
        if (rc <= 0)
            break;
        totals->bytes = offset + b.n;
        if (need > b.n)
            continue;
        taken = take_fields(&r, b.p, b.n, offset, &need);
        if (taken == SIZE_MAX)
            break;
        bytesbuf_drop_front(&b, taken);
        offset += taken;
        rc = 0;
    }
    if (taken == SIZE_MAX)
        damage(
            &r, offset,
            "what follows is no trace packet, so it is not read; copy the file again, unchanged");
    else if (!r.stopped && rc == 0 && b.n > 0)
        damage(&r, offset,
               "the file ends in the middle of a packet: its writer was killed, or the copy is not "
               "whole; the packets before are good");
    totals->whole = rc == 0 && (r.stopped || b.n == 0) && taken != SIZE_MAX;
    bytesbuf_fini(&b);
    bytesbuf_fini(&r.inflated);
    return rc < 0 ? rc : 0;
}
