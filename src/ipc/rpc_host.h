/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_RPC_HOST_H
#define IPC_RPC_HOST_H

/*
 * The answering side: one rpc_host per kind of endpoint (producer, consumer). It owns the
 * connections of all listeners that feed it, knows which services are exposed, answers binds, calls
 * the handler of each invocation in order of arrival (R52), and carries replies back, now or later,
 * exactly once (R59). It knows no session: what a method means is its handler's business.
 *
 *   struct rpc_host *h = rpc_host_new(reactor, &conf);
 *   rpc_host_expose(h, &port_producer, handlers, &ops, svc);      -> service id 1
 *   listener ... accepted: rpc_host_accept(h, fd, 0)
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "ipc/channel.h"
#include "ipc/cred.h"
#include "ipc/rpc.h"
#include "reactor/bytes.h"

struct charge;
struct reactor;
struct rpc_host;
struct rpc_conn;

/* ---- replies ---- */

/* The right and duty to answer one request. A value: it may be kept anywhere and outlive the
 * connection. `host` NULL: nothing to answer (answered already, or zeroed). Hand it on by
 * assignment and zero the source, or use rpc_reply_move; answering zeroes it. */
struct rpc_reply {
    struct rpc_host *host; /* borrow: hosts outlive all replies */
    uint64_t conn;         /* connection id, never reused */
    uint64_t request_id;
    bool dropped; /* the client wants no reply (R51): every answer is swallowed */
};

static inline bool rpc_reply_pending(const struct rpc_reply *r)
{
    return r->host != NULL;
}

/* Moves a pending reply out of *from. */
static inline struct rpc_reply rpc_reply_move(struct rpc_reply *from)
{
    struct rpc_reply r = *from;
    *from = (struct rpc_reply){0};
    return r;
}

/* Answers with success (R55) and zeroes *r, unless has_more, which keeps it for the next item
 * (R57). msg is the encoded reply message: FRAME_BLOB_MAX bytes always fit a frame, what does not
 * fit one (-EMSGSIZE) is turned into a rejection because it would cost the client its connection
 * (R31). fd is -1 or borrowed (R63). A reply to a connection that is gone is swallowed (R59). 0
 * also when swallowed; ERR_STALLED / -errno as channel_send. */
int rpc_reply_send(struct rpc_reply *r, struct bytes_view msg, bool has_more, int fd);

/* Same from pieces, without copying what the kernel takes at once. iov[0] is left free for the
 * frame's head and is written by the call; iov[1] .. iov[iovcnt - 1] are the pieces. */
int rpc_reply_sendv(struct rpc_reply *r, struct iovec *iov, int iovcnt, bool has_more);

/* Rejects (R56) and zeroes *r. Harmless when nothing is pending. */
void rpc_reply_reject(struct rpc_reply *r);

/* Puts a new request into a single slot: the one that was there is rejected (R60). *from is
 * zeroed. */
void rpc_reply_replace(struct rpc_reply *slot, struct rpc_reply *from);

/* The connection that waits for this reply, or NULL when it is gone. */
struct rpc_conn *rpc_reply_conn(const struct rpc_reply *r);

/* ---- calls ---- */

struct rpc_call {
    struct rpc_conn *conn;
    uint32_t method;        /* id: position in the service + 1 */
    struct bytes_view args; /* valid during the call */
    struct rpc_reply reply; /* take it with rpc_reply_move to answer later; what is still pending
                               when the handler returns is rejected (R59), a dropped one is not */
};

/* Runs one method. service_arg is that of rpc_host_expose. 0; positive when args do not decode
 * (ERR_BAD_REQUEST): the caller gets success=false (R50, even with drop_reply) and the connection
 * goes on; negative for our own failure: logged, answered the same way. To disconnect the peer,
 * call rpc_conn_close. */
typedef int rpc_handler(void *service_arg, struct rpc_call *call);

struct rpc_service_ops {
    /* A connection left for good, after its complete frames were executed (R110); called in
     * service-id order for every service exposed to it, whether it was ever used or not. Replies
     * to it may still be sent; they are swallowed. conn is valid during the call. */
    void (*left)(void *service_arg, struct rpc_conn *conn);
    /* The connection's output is below its low mark after rpc_conn_is_full(); may be NULL. */
    void (*drained)(void *service_arg, struct rpc_conn *conn);
};

/* ---- host ---- */

struct rpc_host_conf {
    const char *label;           /* borrow: "producer", for messages */
    struct channel_conf channel; /* of each connection; want_fds is set per family */
    /* Before a connection is served, its credentials already known: 0 to go on, else it is closed
     * at once and forgotten (ERR_QUOTA: too many of this uid). A reason left in why (zeroed, len
     * bytes) goes to the log and to the peer, in a frame of the error kind with request id 0, which
     * those who do not know it ignore (R38). May be NULL. */
    int (*admit)(void *arg, struct rpc_conn *conn, char *why, size_t len);
    /* A connection is over, after all services were told; runs once for each admitted one. May be
     * NULL. */
    void (*gone)(void *arg, struct rpc_conn *conn);
    void *arg; /* borrow: of admit and gone */
};

/* NULL never. The conf is copied. */
struct rpc_host *rpc_host_new(struct reactor *reactor, const struct rpc_host_conf *conf);

/* Closes all connections (services are told) and frees. */
void rpc_host_free(struct rpc_host *host);

/* Exposes a service; ids count from 1 in order of exposure (R44). handlers[i] runs method id i + 1,
 * NULL means "no such method" (R50). Only connections with (tag & mask) != 0 see it, mask 0: all
 * (R19: RelayPort on some listeners alone). All pointers are borrowed. Returns the service id, or
 * -ENOSPC. May come at any time (T-H1). */
int rpc_host_expose(struct rpc_host *host, const struct rpc_service *service,
                    rpc_handler *const *handlers, const struct rpc_service_ops *ops,
                    void *service_arg, uint32_t mask);

/* Takes over an accepted socket (owned, also on failure). tag says by which listener it came. 0;
 * positive or negative when it was refused or failed (closed, logged). */
int rpc_host_accept(struct rpc_host *host, int fd, uint32_t tag);

/* Number of live connections, and a walk over them (fn must not free the host). */
size_t rpc_host_count(const struct rpc_host *host);
void rpc_host_each(struct rpc_host *host, void (*fn)(void *arg, struct rpc_conn *conn), void *arg);

/* The connection of that id, or NULL when it is gone. */
struct rpc_conn *rpc_host_find(struct rpc_host *host, uint64_t conn_id);

/* ---- connection ---- */

uint64_t rpc_conn_id(const struct rpc_conn *conn);
const struct cred *rpc_conn_cred(const struct rpc_conn *conn);
uint32_t rpc_conn_tag(const struct rpc_conn *conn);
struct rpc_host *rpc_conn_host(const struct rpc_conn *conn);

/* One borrowed pointer of the service's own per connection and service id; NULL at first. */
void *rpc_conn_user(const struct rpc_conn *conn, uint32_t service_id);
void rpc_conn_set_user(struct rpc_conn *conn, uint32_t service_id, void *user);

/* In admit: what the connection's queues are charged to from now on (struct channel_conf.held);
 * borrowed until gone. */
void rpc_conn_set_held(struct rpc_conn *conn, struct charge *held);

/* And one of the host's conf, for admit and gone. */
void *rpc_conn_host_user(const struct rpc_conn *conn);
void rpc_conn_set_host_user(struct rpc_conn *conn, void *user);

/* Takes the descriptor out of the slot (R64, R65); caller owns; -1 when empty. */
int rpc_conn_take_fd(struct rpc_conn *conn);

/* Descriptors can travel: false on TCP and vsock (R69). */
bool rpc_conn_has_fds(const struct rpc_conn *conn);

/* Output back-pressure, as channel_is_full, channel_pause and channel_resume. */
bool rpc_conn_is_full(const struct rpc_conn *conn);
size_t rpc_conn_waiting(const struct rpc_conn *conn);
void rpc_conn_pause(struct rpc_conn *conn);
void rpc_conn_resume(struct rpc_conn *conn);

/* Disconnects the peer; services are told `left` from the loop. reason (positive) goes to the log
 * line. Safe in handlers. */
void rpc_conn_close(struct rpc_conn *conn, int reason);

#endif
