/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compression of a batch (service.md section 9). The packets of a batch are fed as they come,
 * framed as a Trace message, into one stream; the compressed bytes collect in blocks of SLICE
 * bytes, so that each block is a slice that fits an IPC frame. The length of all stands in front of
 * them, so they are held until the batch is ended, and then handed out some blocks at a time. A few
 * blocks are kept from batch to batch: a session in its stride allocates nothing. What is held is
 * never more than the packets of the batch take, plus what the codec adds to bytes that do not
 * compress (less than 1 %).
 *
 * Each batch is a stream of its own (R155, R156), because a reader may meet the batches of a ring
 * buffer in any company. Nothing here looks into a packet.
 *
 * Codecs work in lumps: zstd gathers 128 KiB and then compresses them in one go, and at its high
 * levels that takes 100 ms and 800 MB of tables. So a lump is ended after as many bytes as take
 * about a millisecond at the level, and the tables are kept small from the level on where they
 * would outgrow a batch; what that costs in size is under 5 %.
 */
#include "svc/compress.h"

#include <errno.h>
#include <stdlib.h>

#include <zlib.h>
#include <zstd.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytes.h"

#define SLICE        130560     /* R157: 131072 - 512 */
#define HEAD_ROOM    16         /* tag and length of the wrapper, in front of the first block */
#define DEFLATE      6          /* R155, the level upstream uses */
#define DEFLATE_LUMP (8u << 10) /* a millisecond of the worst bytes */
#define PACKET_TAG   0x0A       /* Trace.packet, length-delimited */
#define KEEP         10         /* blocks that are kept from batch to batch */
#define FREE_STEP    8          /* blocks that are freed in one go */

/* Tables of zstd from its level 4 on, as powers of two: what a batch of 1 MiB has use for. */
enum { BIG_TABLES_LEVEL = 4, WINDOW_LOG = 20, HASH_LOG = 17, CHAIN_LOG = 17 };

/* How hard it searches, from the level on where a lump of any size could take long. */
enum { HARD_LEVEL = 16, SEARCH_LOG = 4, TARGET_LENGTH = 128 };

struct compress {
    enum compress_codec codec;
    z_stream zlib;
    ZSTD_CCtx *zstd;     /* own */
    size_t lump;         /* bytes that one step takes */
    size_t gathered;     /* of zstd: bytes since its last lump */
    uint8_t **blocks;    /* own: nblocks of SLICE bytes each */
    struct iovec *parts; /* own: as many + 1, the head and what is used of each block */
    size_t nblocks;
    size_t used;  /* blocks in use; the last of them is partly filled */
    size_t fill;  /* bytes in the last block in use */
    size_t given; /* parts that were handed out */
    size_t begun; /* packets of the batch */
    bool ended;   /* the batch is being handed out, or was: the next packet starts over */
    uint8_t head[HEAD_ROOM];
};

enum compress_codec compress_choose(bool want_zstd, bool want_deflate)
{
    if (want_zstd)
        return COMPRESS_ZSTD;
    return want_deflate ? COMPRESS_DEFLATE : COMPRESS_NONE;
}

/* What takes about a millisecond, at most, by the level. */
static size_t zstd_lump(int level)
{
    static const struct {
        int up_to;
        size_t bytes;
    } lumps[] = {{3, 64u << 10}, {6, 32u << 10}, {9, 16u << 10}, {12, 8u << 10}};
    for (size_t i = 0; i < sizeof(lumps) / sizeof(*lumps); i++) {
        if (level <= lumps[i].up_to)
            return lumps[i].bytes;
    }
    return 2u << 10;
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
    if (level >= BIG_TABLES_LEVEL) {
        ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_windowLog, WINDOW_LOG);
        ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_hashLog, HASH_LOG);
        ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_chainLog, CHAIN_LOG);
    }
    if (level >= HARD_LEVEL) {
        ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_searchLog, SEARCH_LOG);
        ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_targetLength, TARGET_LENGTH);
    }
    c->lump = zstd_lump(level);
    return 0;
}

int compress_new(enum compress_codec codec, int level, struct compress **out)
{
    struct compress *c = alloc_try_array(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    c->codec = codec;
    c->lump = DEFLATE_LUMP;
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

static int feed_deflate(struct compress *c, struct bytes_view in, int flush)
{
    int status = Z_OK;
    c->zlib.next_in = (z_const Bytef *)in.p;
    c->zlib.avail_in = (uInt)in.n; /* a lump at most */
    do {
        int rc = make_room(c);
        if (rc != 0)
            return rc;
        c->zlib.next_out = c->blocks[c->used - 1] + c->fill;
        c->zlib.avail_out = (uInt)(SLICE - c->fill);
        status = deflate(&c->zlib, flush);
        if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
            return -EIO;
        c->fill = SLICE - c->zlib.avail_out;
    } while (c->zlib.avail_in > 0 || (flush == Z_FINISH && status != Z_STREAM_END));
    return 0;
}

static int feed_zstd(struct compress *c, struct bytes_view v, ZSTD_EndDirective end)
{
    ZSTD_inBuffer in = {v.p, v.n, 0};
    size_t more;
    do {
        int rc = make_room(c);
        if (rc != 0)
            return rc;
        ZSTD_outBuffer out = {c->blocks[c->used - 1], SLICE, c->fill};
        more = ZSTD_compressStream2(c->zstd, &out, &in, end);
        if (ZSTD_isError(more))
            return -EIO;
        c->fill = out.pos;
    } while (in.pos < in.size || (end != ZSTD_e_continue && more != 0));
    return 0;
}

/* At most a lump; returns what was taken of it, or -errno. */
static ssize_t feed(struct compress *c, struct bytes_view in)
{
    int rc;
    if (c->codec == COMPRESS_DEFLATE) {
        if (in.n > c->lump)
            in.n = c->lump;
        rc = feed_deflate(c, in, Z_NO_FLUSH);
    } else {
        if (in.n > c->lump - c->gathered)
            in.n = c->lump - c->gathered;
        c->gathered += in.n;
        bool full = c->gathered == c->lump;
        rc = feed_zstd(c, in, full ? ZSTD_e_flush : ZSTD_e_continue);
        if (full)
            c->gathered = 0;
    }
    return rc != 0 ? rc : (ssize_t)in.n;
}

void compress_abandon(struct compress *c)
{
    c->used = 0;
    c->fill = 0;
    c->given = 0;
    c->begun = 0;
    c->gathered = 0;
    c->ended = false;
    if (c->codec == COMPRESS_DEFLATE)
        deflateReset(&c->zlib);
    else
        ZSTD_CCtx_reset(c->zstd, ZSTD_reset_session_only);
}

int compress_begin_packet(struct compress *c, size_t size)
{
    if (c->ended)
        compress_abandon(c);
    uint8_t frame[11] = {PACKET_TAG};
    size_t n = (size_t)(bytes_put_varint(frame + 1, size) - frame);
    c->begun++;
    for (size_t at = 0; at < n;) {
        ssize_t took = feed(c, bytes_view(frame + at, n - at));
        if (took < 0)
            return (int)took;
        at += (size_t)took;
    }
    return 0;
}

ssize_t compress_feed(struct compress *c, struct bytes_view in)
{
    return in.n > 0 ? feed(c, in) : 0;
}

size_t compress_lump(const struct compress *c)
{
    return c->lump;
}

size_t compress_held(const struct compress *c)
{
    return c->used == 0 ? 0 : (c->used - 1) * SLICE + c->fill;
}

bool compress_empty(const struct compress *c)
{
    return c->ended || c->begun == 0;
}

int compress_end(struct compress *c)
{
    int rc = c->codec == COMPRESS_DEFLATE ? feed_deflate(c, bytes_view(NULL, 0), Z_FINISH)
                                          : feed_zstd(c, bytes_view(NULL, 0), ZSTD_e_end);
    if (rc != 0)
        return rc;
    uint32_t field = c->codec == COMPRESS_DEFLATE ? PBF_TracePacket_compressed_packets
                                                  : PBF_TracePacket_zstd_compressed_packets;
    uint8_t *end =
        bytes_put_varint(bytes_put_tag(c->head, field, BYTES_LEN), (uint64_t)compress_held(c));
    c->parts[0] = (struct iovec){c->head, (size_t)(end - c->head)};
    for (size_t i = 0; i < c->used; i++)
        c->parts[i + 1] = (struct iovec){c->blocks[i], i + 1 < c->used ? SLICE : c->fill};
    c->ended = true;
    c->given = 0;
    return 0;
}

bool compress_giving(const struct compress *c)
{
    return c->ended && c->given <= c->used;
}

void compress_give(struct compress *c, size_t max, struct packet *out)
{
    size_t n = 0, i = c->given;
    do
        n += c->parts[i++].iov_len;
    while (i <= c->used && n + c->parts[i].iov_len <= max);
    *out = (struct packet){.parts = c->parts + c->given,
                           .nparts = i - c->given,
                           .size = n,
                           .buffer = PACKET_SERVICE,
                           .continues = c->given > 0};
    for (size_t k = i; k <= c->used; k++)
        out->follows += c->parts[k].iov_len;
    c->given = i;
}

void compress_rewind(struct compress *c)
{
    if (compress_giving(c))
        c->given = 0;
}

bool compress_trim(struct compress *c)
{
    size_t keep = c->used > KEEP && (!c->ended || compress_giving(c)) ? c->used : KEEP;
    for (int i = 0; i < FREE_STEP && c->nblocks > keep; i++)
        free(c->blocks[--c->nblocks]);
    return c->nblocks > keep;
}

bool compress_free_some(void *what)
{
    struct compress *c = what;
    for (int i = 0; i < FREE_STEP; i++) {
        if (c->nblocks == 0) {
            compress_free(c);
            return false;
        }
        free(c->blocks[--c->nblocks]);
    }
    return true;
}
