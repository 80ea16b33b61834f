/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_ERR_H
#define REACTOR_ERR_H

/*
 * Two kinds of failure, one int.
 *
 *    0        success
 *    negative our own failure, as -errno: no memory, no descriptors, a bug. Passed up to whoever
 *             can tell a person about it.
 *    positive the peer's fault, one of enum err_peer. That peer gets one log line and is closed;
 *             everybody else goes on.
 *
 * A function that returns int and says nothing else follows this. Out-parameters are written on
 * success only.
 */

#include <stdbool.h>

/* X(constant, text for people). Values are ours alone, never sent to anybody. */
#define ERR_PEER_TABLE(X)                                                                          \
    X(ERR_HANGUP, "peer closed the connection")                                                    \
    X(ERR_TRUNCATED, "data ends in the middle of a value")                                         \
    X(ERR_VARINT, "varint longer than 10 bytes")                                                   \
    X(ERR_WIRE_TYPE, "unknown wire type or field number")                                          \
    X(ERR_LENGTH, "length larger than what holds it")                                              \
    X(ERR_FRAME_SIZE, "frame larger than the protocol allows")                                     \
    X(ERR_BAD_FRAME, "frame does not parse")                                                       \
    X(ERR_BAD_REQUEST, "request does not parse")                                                   \
    X(ERR_BAD_STATE, "request not allowed in this state")                                          \
    X(ERR_BAD_CONFIG, "configuration refused")                                                     \
    X(ERR_BAD_PAGE, "impossible page header in shared memory")                                     \
    X(ERR_BAD_CHUNK, "impossible chunk reference or chunk header")                                 \
    X(ERR_BAD_PATCH, "patch outside of its chunk")                                                 \
    X(ERR_BAD_FD, "file descriptor missing, unwanted or of the wrong kind")                        \
    X(ERR_UNKNOWN_ID, "unknown id")                                                                \
    X(ERR_DUPLICATE, "already registered")                                                         \
    X(ERR_FORBIDDEN, "not permitted for this uid")                                                 \
    X(ERR_QUOTA, "limit of this uid reached")                                                      \
    X(ERR_STALLED, "peer does not read its socket")                                                \
    X(ERR_BACKLOG, "more waits for the connections of its uid than its limit; read faster, or "    \
                   "raise traced --limit-queues")                                                  \
    X(ERR_UNSUPPORTED, "not supported")

enum err_peer {
    ERR_NONE = 0,
#define ERR_X(name, text) name,
    ERR_PEER_TABLE(ERR_X)
#undef ERR_X
        ERR_PEER_END
};

/* True when err is our own failure. */
static inline bool err_is_ours(int err)
{
    return err < 0;
}

/* True when err is the peer's fault. */
static inline bool err_is_peer(int err)
{
    return err > 0;
}

/* Text for people, of either kind: "Permission denied" for -EACCES, "frame does not parse" for
 * ERR_BAD_FRAME. Never NULL; static storage. */
const char *err_text(int err);

/* Identifier for logs and tests: "EACCES" for -EACCES, "ERR_BAD_FRAME" for ERR_BAD_FRAME, "OK" for
 * 0, "?" for a value that is neither. Never NULL; static storage. */
const char *err_name(int err);

#endif
