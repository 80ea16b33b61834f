/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PACKET_H
#define SVC_PACKET_H

/*
 * One TracePacket on its way out of the service, as a list of pieces that nobody copied: they point
 * into the trace buffer, into the scratch memory of whoever made the packet, or into both. The
 * stages of the read path (filter, compression, file, IPC) hand it on through packet_sink.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define PACKET_SERVICE (-1) /* packet.buffer of a packet that the service made itself */

struct packet {
    const struct iovec *parts; /* borrow: valid during the call only */
    size_t nparts;             /* 0: an empty packet */
    size_t size;               /* sum of the parts */
    int buffer;                /* config index of its buffer, or PACKET_SERVICE */
    /* A large packet may come in several puts, in one batch or in many; no other packet comes
     * between them. Only sinks at the end of the path get such. */
    bool continues; /* not its first put */
    size_t follows; /* bytes in the puts that are to come */
};

/* A stage that takes packets; embedded in the stage's own struct. put returns 0; a positive value
 * when the stage is full or its peer has gone, which stops the batch (the packet was not taken);
 * -errno on our own failure. */
struct packet_sink {
    int (*put)(struct packet_sink *sink, const struct packet *pkt);
};

static inline int packet_put(struct packet_sink *sink, const struct packet *pkt)
{
    return sink->put(sink, pkt);
}

#endif
