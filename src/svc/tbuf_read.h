/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc/tbuf_read: the trace buffer, read side.
 *
 * There is one reader. Reads consume: a packet that was returned is never returned again (R5).
 * The loop of a caller with a budget:
 *
 *     tbuf_read_begin(b);
 *     while (bytes < budget && (rc = tbuf_read_next(b, &pkt)) == TBUF_READ_PACKET)
 *         gather pkt.slices[0 .. pkt.num_slices), append the trusted fields, bytes += pkt.size;
 *     send or write what was gathered, then return to the loop;
 *     come back at once if rc != TBUF_READ_EMPTY.
 *
 * Packets of a sequence come out in writing order, whole or not at all (R61, R63); between
 * sequences roughly the oldest first (R62).
 */
#ifndef SVC_TBUF_READ_H
#define SVC_TBUF_READ_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "svc/tbuf.h"

/* TracePacket.previous_packet_dropped (R70). PRESENT is set together with any other. */
enum tbuf_loss {
    TBUF_LOSS_PRESENT = 1,
    TBUF_LOSS_READ_GAP = 2,
    TBUF_LOSS_CHUNK_CORRUPTED = 4,
    TBUF_LOSS_ORPHAN_CONTINUATION = 8,
    TBUF_LOSS_REASSEMBLY_GAP = 16,
    TBUF_LOSS_REASSEMBLY_BROKEN_CHAIN = 32,
    TBUF_LOSS_OVERWRITE = 64,
    TBUF_LOSS_WRITER_ABORT = 128,
};

/* One packet. `slices` is a borrow: the array is valid until the next tbuf_read_next() on this
 * buffer, the bytes that it points to until the next tbuf_copy_chunk(), tbuf_patch() or
 * tbuf_free(). A caller that gathers several packets copies the iovecs, never the bytes. */
struct tbuf_packet {
    const struct iovec *slices; /* no empty ones */
    size_t num_slices;          /* >= 1, <= TBUF_PACKET_SLICES_MAX */
    uint64_t size;              /* sum of the slices, > 0 */
    uint32_t loss;              /* previous_packet_dropped value, 0: nothing was lost before it */
    uint16_t producer_id;
    uint16_t writer_id;
    struct tbuf_client client; /* of the sequence */
    uint32_t sequence;         /* names the sequence for tbuf_read_refuse() */
    bool more; /* a part of a large packet: copy the bytes, the next call gives the next
                  part; what names the packet is the same in all of them */
    bool first_on_sequence; /* nothing was returned from this sequence before
                               (first_packet_on_sequence) */
};

/* A packet of more than about 256 KiB or 256 fragments comes in parts, so that no call takes long.
 * Buffers go on being written between them. A packet of more fragments than this is given up as a
 * broken chain: 64 MiB in chunks of 284 bytes stays below it. */
#define TBUF_PACKET_SLICES_MAX (1u << 18)

enum tbuf_read_result {
    TBUF_READ_EMPTY = 0,  /* nothing is readable now; stays so until the next write or patch */
    TBUF_READ_PACKET = 1, /* *out is filled */
    TBUF_READ_BROKEN = 3, /* the packet of which parts were given was overwritten before its end */
    TBUF_READ_AGAIN = 2,  /* much was skipped and the step budget is spent; call again, soon */
};

/* Starts or goes on with a walk. Call it before a batch of tbuf_read_next(). A walk that was left
 * in the middle is resumed where it stopped, so small batches cost the same per byte as one large.
 */
void tbuf_read_begin(struct tbuf *b);

/* The next packet. *out is written only on TBUF_READ_PACKET. One call visits a bounded number of
 * records. */
enum tbuf_read_result tbuf_read_next(struct tbuf *b, struct tbuf_packet *out);

/* The packet was refused by the validator and will not reach the reader of the trace: its loss bits
 * (and PRESENT) go to the next packet of the same sequence. Call before the next write. */
void tbuf_read_refuse(struct tbuf *b, const struct tbuf_packet *packet);

#endif
