/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_PORT_CONSUMER_H
#define IPC_PORT_CONSUMER_H

/* The service that consumers call: method ids in wire order (R48), names and layouts; and the
 * ReadBuffers reply built as pieces around borrowed packet bytes, as it is the one big stream. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "ipc/frame.h"
#include "ipc/rpc.h"

/* Values are method ids on a host of ours; a client maps by name (R46). A handler table is indexed
 * by PORT_CONSUMER_X - 1. */
enum port_consumer_method {
    PORT_CONSUMER_ENABLE_TRACING = 1, /* answered when tracing has ended (R101) */
    PORT_CONSUMER_DISABLE_TRACING = 2,
    PORT_CONSUMER_READ_BUFFERS = 3, /* stream (R102) */
    PORT_CONSUMER_FREE_BUFFERS = 4,
    PORT_CONSUMER_FLUSH = 5,
    PORT_CONSUMER_START_TRACING = 6,
    PORT_CONSUMER_CHANGE_TRACE_CONFIG = 7,
    PORT_CONSUMER_DETACH = 8,
    PORT_CONSUMER_ATTACH = 9,
    PORT_CONSUMER_GET_TRACE_STATS = 10,
    PORT_CONSUMER_OBSERVE_EVENTS = 11,      /* stream (R105) */
    PORT_CONSUMER_QUERY_SERVICE_STATE = 12, /* stream (R106) */
    PORT_CONSUMER_QUERY_CAPABILITIES = 13,
    PORT_CONSUMER_SAVE_TRACE_FOR_BUGREPORT = 14,
    PORT_CONSUMER_CLONE_SESSION = 15,
};
#define PORT_CONSUMER_METHODS 15

extern const struct rpc_service port_consumer;

/* ---- ReadBuffers replies ---- */

/* A slice above this never fits (R102); split it. */
#define PORT_CONSUMER_SLICE_MAX (FRAME_BLOB_MAX - 16u) /* 130992 */

/* Service state parts: a data source is added while the part stays below this (R106). */
#define PORT_CONSUMER_STATE_PART_MAX (FRAME_MAX - 128u)

#define PORT_CONSUMER_SLICES_MAX 480 /* slices of one reply */

/* A reply under construction; embedded by value, reused for each reply, allocates nothing. */
struct port_consumer_reply {
    struct iovec iov[1024]; /* [0] is for the frame's head */
    int iovcnt;             /* [0] counted */
    size_t slices;
    size_t weight; /* sum of size + 16, at most FRAME_BLOB_MAX (R102) */
    uint8_t heads[PORT_CONSUMER_SLICES_MAX + 1][16]; /* bytes between the slices' data */
    size_t head_len;                                 /* of the last head, which is still open */
};

/* Empty again. */
void port_consumer_reply_reset(struct port_consumer_reply *r);

/* Adds a slice of n bytes given in pieces (borrowed until the reply is sent). False when it does
 * not fit any more, and nothing is added: send what is there, reset, and add again; on an empty
 * reply only a slice above PORT_CONSUMER_SLICE_MAX or with too many pieces does not fit. */
bool port_consumer_reply_add(struct port_consumer_reply *r, const struct iovec *piece, int pieces,
                             bool last_for_packet);

/* Closes the last head; then iov and iovcnt are ready for rpc_reply_sendv. */
void port_consumer_reply_finish(struct port_consumer_reply *r);

/* One slice of a received reply. */
struct port_consumer_slice {
    struct bytes_view data;
    bool last_for_packet;
};

/* Next slice of an encoded ReadBuffersResponse, *cur = bytes_cur(msg) at first: 1 with *out, 0 at
 * the clean end, ERR_BAD_FRAME when it does not parse (R61). No upb, no copy. */
int port_consumer_next_slice(struct bytes_cur *cur, struct port_consumer_slice *out);

#endif
