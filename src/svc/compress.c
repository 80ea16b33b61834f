/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compression of a batch (service.md section 9). The packets of a batch are fed one by one, framed
 * as a Trace message, into one stream; the compressed bytes collect in blocks of SLICE bytes, so
 * that each block is a slice that fits an IPC frame. The blocks are kept from batch to batch: a
 * session in its stride allocates nothing.
 *
 * Each batch is a stream of its own (R155, R156), because a reader may meet the batches of a ring
 * buffer in any company. Nothing here looks into a packet.
 */
#include "svc/compress.h"

#include <errno.h>
#include <stdlib.h>

#include <zlib.h>
#include <zstd.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytes.h"

#define SLICE      130560 /* R157: 131072 - 512 */
#define HEAD_ROOM  16     /* tag and length of the wrapper, in front of the first block */
#define DEFLATE    6      /* R155, the level upstream uses */
#define PACKET_TAG 0x0A   /* Trace.packet, length-delimited */

struct compress {
    enum compress_codec codec;
    z_stream zlib;
    ZSTD_CCtx *zstd;     /* own */
    uint8_t **blocks;    /* own: nblocks of SLICE bytes each */
    struct iovec *parts; /* own: nblocks + 1, the head and what is used of each block */
    size_t nblocks;
    size_t used; /* blocks in use; the last of them is partly filled */
    size_t fill; /* bytes in the last block in use */
    bool begun;  /* the batch has a packet */
    bool stale;  /* the last batch was handed out: the next put starts over */
    uint8_t head[HEAD_ROOM];
};

enum compress_codec compress_choose(bool want_zstd, bool want_deflate)
{
    if (want_zstd)
        return COMPRESS_ZSTD;
    return want_deflate ? COMPRESS_DEFLATE : COMPRESS_NONE;
}

static int zstd_open(struct compress *c, int level)
{
    c->zstd = ZSTD_createCCtx();
    if (c->zstd == NULL)
        return -ENOMEM;
    /* Level 0 is the library's default (R156). */
    ZSTD_bounds range = ZSTD_cParam_getBounds(ZSTD_c_compressionLevel);
    if (level > range.upperBound)
        level = range.upperBound;
    if (level < range.lowerBound)
        level = range.lowerBound;
    ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, level);
    return 0;
}

int compress_new(enum compress_codec codec, int level, struct compress **out)
{
    struct compress *c = alloc_try_array(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    c->codec = codec;
    int rc = 0;
    if (codec == COMPRESS_DEFLATE)
        rc = deflateInit(&c->zlib, DEFLATE) == Z_OK ? 0 : -ENOMEM;
    else if (codec == COMPRESS_ZSTD)
        rc = zstd_open(c, level);
    else
        rc = -EINVAL;
    if (rc != 0) {
        free(c);
        return rc;
    }
    *out = c;
    return 0;
}

void compress_free(struct compress *c)
{
    if (c == NULL)
        return;
    if (c->codec == COMPRESS_DEFLATE)
        deflateEnd(&c->zlib);
    ZSTD_freeCCtx(c->zstd);
    for (size_t i = 0; i < c->nblocks; i++)
        free(c->blocks[i]);
    free(c->blocks);
    free(c->parts);
    free(c);
}

static int add_block(struct compress *c)
{
    uint8_t **blocks = alloc_try_resize(c->blocks, c->nblocks + 1, sizeof(*blocks));
    if (blocks == NULL)
        return -ENOMEM;
    c->blocks = blocks;
    struct iovec *parts = alloc_try_resize(c->parts, c->nblocks + 2, sizeof(*parts));
    if (parts == NULL)
        return -ENOMEM;
    c->parts = parts;
    blocks[c->nblocks] = alloc_try(SLICE);
    if (blocks[c->nblocks] == NULL)
        return -ENOMEM;
    c->nblocks++;
    return 0;
}

/* Makes room for at least one byte of output. */
static int make_room(struct compress *c)
{
    if (c->used > 0 && c->fill < SLICE)
        return 0;
    if (c->used == c->nblocks) {
        int rc = add_block(c);
        if (rc != 0)
            return rc;
    }
    c->used++;
    c->fill = 0;
    return 0;
}

static int feed_deflate(struct compress *c, struct bytes_view in, bool end)
{
    c->zlib.next_in = (z_const Bytef *)in.p;
    size_t left = in.n;
    int status = Z_OK;
    do {
        /* avail_in is 32 bits wide, a piece of a packet may be longer. */
        size_t step = left < UINT32_MAX ? left : UINT32_MAX;
        left -= step;
        c->zlib.avail_in = (uInt)step;
        do {
            int rc = make_room(c);
            if (rc != 0)
                return rc;
            c->zlib.next_out = c->blocks[c->used - 1] + c->fill;
            c->zlib.avail_out = (uInt)(SLICE - c->fill);
            status = deflate(&c->zlib, end && left == 0 ? Z_FINISH : Z_NO_FLUSH);
            if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
                return -EIO;
            c->fill = SLICE - c->zlib.avail_out;
        } while (c->zlib.avail_in > 0 || (end && status != Z_STREAM_END));
    } while (left > 0);
    return 0;
}

static int feed_zstd(struct compress *c, struct bytes_view v, bool end)
{
    ZSTD_inBuffer in = {v.p, v.n, 0};
    size_t more;
    do {
        int rc = make_room(c);
        if (rc != 0)
            return rc;
        ZSTD_outBuffer out = {c->blocks[c->used - 1], SLICE, c->fill};
        more = ZSTD_compressStream2(c->zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(more))
            return -EIO;
        c->fill = out.pos;
    } while (in.pos < in.size || (end && more != 0));
    return 0;
}

static int feed(struct compress *c, struct bytes_view in, bool end)
{
    return c->codec == COMPRESS_DEFLATE ? feed_deflate(c, in, end) : feed_zstd(c, in, end);
}

static void start_over(struct compress *c)
{
    c->used = 0;
    c->fill = 0;
    c->begun = false;
    c->stale = false;
    if (c->codec == COMPRESS_DEFLATE)
        deflateReset(&c->zlib);
    else
        ZSTD_CCtx_reset(c->zstd, ZSTD_reset_session_only);
}

int compress_put(struct compress *c, const struct packet *pkt)
{
    if (c->stale)
        start_over(c);
    uint8_t frame[11] = {PACKET_TAG};
    size_t n = (size_t)(bytes_put_varint(frame + 1, pkt->size) - frame);
    c->begun = true;
    int rc = feed(c, bytes_view(frame, n), false);
    for (size_t i = 0; rc == 0 && i < pkt->nparts; i++) {
        if (pkt->parts[i].iov_len > 0)
            rc = feed(c, bytes_view(pkt->parts[i].iov_base, pkt->parts[i].iov_len), false);
    }
    return rc;
}

size_t compress_held(const struct compress *c)
{
    return c->stale || c->used == 0 ? 0 : (c->used - 1) * SLICE + c->fill;
}

int compress_finish(struct compress *c, struct packet *out, bool *none)
{
    *none = c->stale || !c->begun;
    if (*none)
        return 0;
    int rc = feed(c, bytes_view(NULL, 0), true);
    if (rc != 0)
        return rc;
    size_t total = compress_held(c);
    uint32_t field = c->codec == COMPRESS_DEFLATE ? PBF_TracePacket_compressed_packets
                                                  : PBF_TracePacket_zstd_compressed_packets;
    uint8_t *end = bytes_put_varint(bytes_put_tag(c->head, field, BYTES_LEN), total);
    size_t head = (size_t)(end - c->head);
    c->parts[0] = (struct iovec){c->head, head};
    for (size_t i = 0; i < c->used; i++)
        c->parts[i + 1] = (struct iovec){c->blocks[i], i + 1 < c->used ? SLICE : c->fill};
    c->stale = true;
    *out = (struct packet){
        .parts = c->parts, .nparts = c->used + 1, .size = head + total, .buffer = PACKET_SERVICE};
    return 0;
}
