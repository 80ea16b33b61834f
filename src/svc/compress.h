/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_COMPRESS_H
#define SVC_COMPRESS_H

/*
 * Compression of what leaves the service: all packets of a batch become one packet whose only field
 * holds a deflate or zstd stream of them (service.md section 9). Streaming: packets are fed as they
 * are read, so nothing but the compressed output is held. One per session.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svc/packet.h"

enum compress_codec { COMPRESS_NONE, COMPRESS_DEFLATE, COMPRESS_ZSTD };

struct compress;

/* The codec that a config asks for and this build has (R153): want_zstd and want_deflate say
 * whether the config names them (the legacy compression_type counts as deflate). */
enum compress_codec compress_choose(bool want_zstd, bool want_deflate);

/* level: of zstd (R156), ignored for deflate. *out: own, compress_free. 0 or -ENOMEM. */
int compress_new(enum compress_codec codec, int level, struct compress **out);
void compress_free(struct compress *c); /* NULL allowed */

/* Takes one packet into the current batch. 0 or -errno. */
int compress_put(struct compress *c, const struct packet *pkt);

/* Bytes of compressed output that are held so far. */
size_t compress_held(const struct compress *c);

/* Ends the batch: *out is the one packet for it (pieces of at most 130 560 bytes, in memory of c,
 * valid until the next call), or *none is set when the batch was empty (R154). 0 or -errno. */
int compress_finish(struct compress *c, struct packet *out, bool *none);

#endif
