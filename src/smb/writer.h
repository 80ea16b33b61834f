/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A trace writer: one sequence of packets, written by one thread at a time, straight into chunks of
 * the SMB (spec section 6). It never blocks unless its policy says so, and losing packets is not an
 * error: the next packet that gets through carries the loss marker.
 *
 *     struct pbw *p = writer_begin(w);
 *     pbw_varint(p, 8, now);
 *     writer_end(w);
 */
#ifndef SMB_WRITER_H
#define SMB_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "smb/arbiter.h"
#include "smb/pbw.h"

struct writer;

/*
 * A writer for trace buffer `target_buffer` (DataSourceConfig.target_buffer). Registers itself with
 * the service (R36). Without an arbiter (NULL), with no id left or after arbiter shutdown it is a
 * null writer, which swallows everything (R35). NULL only when out of memory. Any thread.
 */
struct writer *writer_new(struct arbiter *arb, uint16_t target_buffer, enum arbiter_policy policy);

/* The same for a reservation that will be bound to a buffer later (section 7.6); the policy is
 * drop. */
struct writer *writer_new_reserved(struct arbiter *arb, uint16_t reservation);

/* R61: closes an open packet, flushes, gives the id back. NULL is allowed. */
void writer_free(struct writer *w);

/*
 * Starts a packet (R38) and returns where its fields go; valid until writer_end(). A packet still
 * open is ended first. The loss and first-packet markers are written before anything of the
 * caller's (R39).
 */
struct pbw *writer_begin(struct writer *w);

/* Ends the packet and makes it visible to scraping (R41-R43). Without an open packet it only hands
 * over completed patches, once more being harmless (T13). */
void writer_end(struct writer *w);

/*
 * Returns the chunk and forces a commit (R60); an open packet is ended first. With cb the service
 * is asked for an acknowledgement: cb(ctx, true) on the IPC thread when it arrives, cb(ctx, false)
 * if the connection or the arbiter ends before. cb may be NULL.
 */
void writer_flush(struct writer *w, arbiter_flush_cb *cb, void *ctx);

/*
 * R53: asks for the 4 bytes at `at`, in the current chunk, to be patched later. Returns where to
 * put them instead (their first byte must become non-zero), or NULL if the packet is being dropped:
 * then nothing must be written. Only for a packet that is about to leave its chunk (R68).
 */
uint8_t *writer_annotate(struct writer *w, uint8_t *at);

uint16_t writer_id(const struct writer *w);    /* 0 = null writer */
uint64_t writer_drops(const struct writer *w); /* transitions into dropping (R59) */
uint64_t
writer_written(const struct writer *w); /* payload bytes in all chunks so far, returned or not */

#endif
