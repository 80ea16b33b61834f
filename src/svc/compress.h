/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_COMPRESS_H
#define SVC_COMPRESS_H

/*
 * Compression of what leaves the service: all packets of a batch become one packet whose only field
 * holds a deflate or zstd stream of them (service.md section 9). Streaming: packets are fed as they
 * are read, in steps of bounded work, so nothing but the compressed output is held. One per
 * session.
 *
 * Life of a batch: (begin_packet, feed...)... -> end -> give while giving -> the next begin_packet.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "reactor/bytes.h"
#include "svc/packet.h"

enum compress_codec { COMPRESS_NONE, COMPRESS_DEFLATE, COMPRESS_ZSTD };

struct compress;

/* The codec that a config asks for and this build has (R153): want_zstd and want_deflate say
 * whether the config names them (the legacy compression_type counts as deflate). */
enum compress_codec compress_choose(bool want_zstd, bool want_deflate);

/* level: of zstd (R156), ignored for deflate. *out: own, compress_free. 0 or -ENOMEM. */
int compress_new(enum compress_codec codec, int level, struct compress **out);
void compress_free(struct compress *c); /* NULL allowed */

/* The same in steps of about 0.1 ms: nothing but this may be called any more; false when all of it
 * is freed. c is a struct compress. */
bool compress_free_some(void *c);

/* A packet of `size` bytes joins the batch; its bytes are fed next. 0 or -errno. */
int compress_begin_packet(struct compress *c, size_t size);

/* Takes some bytes of the packet: as many as compress in about a millisecond, at most. Returns how
 * many it took (at least 1 of those that there are), or -errno. */
ssize_t compress_feed(struct compress *c, struct bytes_view in);

/* What it takes at most. */
size_t compress_lump(const struct compress *c);

/* Bytes of compressed output that are held. */
size_t compress_held(const struct compress *c);

/* No packet has joined since the last batch was ended. */
bool compress_empty(const struct compress *c);

/* Ends the batch, which is not empty: it is one packet now (R154). 0 or -errno. */
int compress_end(struct compress *c);

/* There is more of that packet to be handed out. */
bool compress_giving(const struct compress *c);

/* *out is the next of it, about `max` bytes in pieces of at most 130 560, in memory of c that stays
 * as it is until the next packet begins. */
void compress_give(struct compress *c, size_t max, struct packet *out);

/* A new reader: gets it from its begin, if it was not complete. */
void compress_rewind(struct compress *c);

/* The batch cannot be completed: all of it is forgotten. */
void compress_abandon(struct compress *c);

/* Gives back memory that a large batch has taken, a little at a time. True: call again. */
bool compress_trim(struct compress *c);

#endif
