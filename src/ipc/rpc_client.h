/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_RPC_CLIENT_H
#define IPC_RPC_CLIENT_H

/*
 * The asking side: one connection, and on it any number of proxies, one per bound service. Binds
 * issued before the socket is connected go out in order once it is (R48). All completions come from
 * the loop, never from inside the call that started them, and each exactly once.
 *
 *   struct rpc_client *c = rpc_client_new(reactor, &conf, &ops, arg);
 *   struct rpc_proxy *p = rpc_client_bind(c, &port_producer, &proxy_ops, arg);
 *   rpc_client_connect(c, sockname_producer());
 *   ... proxy_ops.connected: rpc_proxy_invoke(p, PORT_PRODUCER_SYNC, args, -1, on_sync, arg);
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ipc/channel.h"
#include "ipc/redial.h"
#include "ipc/rpc.h"
#include "reactor/bytes.h"

struct reactor;
struct rpc_client;
struct rpc_proxy;

struct rpc_client_ops {
    /* The socket is connected; binds go out after this call. Place for
     * rpc_client_send_identity. May be NULL. */
    void (*connected)(void *arg, struct rpc_client *client);
    /* No connection could be made (without retry), or it was lost; once. reason as
     * channel_ops.closed, or -errno of connect. Proxies were told before. May be NULL. The client
     * may be freed in it, or connected anew. */
    void (*disconnected)(void *arg, struct rpc_client *client, int reason);
    /* Output is below its low mark after rpc_client_is_full(). May be NULL. */
    void (*drained)(void *arg, struct rpc_client *client);
};

struct rpc_proxy_ops {
    /* The bind succeeded: methods can be invoked. */
    void (*connected)(void *arg, struct rpc_proxy *proxy);
    /* The bind failed, or the connection was not made or was lost (R83, R111): once, after the
     * pending invocations were rejected. The proxy is dead and only waits for rpc_proxy_free. */
    void (*disconnected)(void *arg, struct rpc_proxy *proxy);
};

/* Outcome or stream item of an invocation. */
struct rpc_result {
    bool success;          /* false: rejected (R61); the rest is then empty */
    bool has_more;         /* more items follow under this invocation (R57) */
    struct bytes_view msg; /* encoded reply, valid during the call; if it does not decode, the
                             caller treats the invocation as rejected (R61) */
};

typedef void rpc_result_fn(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result);

struct rpc_client_conf {
    struct channel_conf channel;       /* want_fds is set per family */
    const struct redial_policy *retry; /* borrow, copied: NULL = one attempt (R78) */
};

/* NULL never. conf may be NULL; ops, arg are borrowed. */
struct rpc_client *rpc_client_new(struct reactor *reactor, const struct rpc_client_conf *conf,
                                  const struct rpc_client_ops *ops, void *arg);

/* Closes; proxies that live get `disconnected` and pending invocations are rejected, from here
 * (T-C9). Proxies remain to be freed by their owners. */
void rpc_client_free(struct rpc_client *client);

/* Starts connecting, with retries if the conf says so. 0, or -errno with a line in err (may be
 * NULL) when the address is malformed or, without retry, when it fails at once: `disconnected` is
 * then not called, but proxies that waited for this connection get theirs from the loop. -EISCONN
 * when connected or connecting. After a loss it may be called again, with new proxies. */
int rpc_client_connect(struct rpc_client *client, const char *address, char *err, size_t errlen);

/* Takes over a connected socket instead (socketpair, inherited), owned also on failure. `connected`
 * follows from the loop. 0 or -errno. */
int rpc_client_adopt(struct rpc_client *client, int fd);

/* Ends the connection; as a loss, with reason ERR_HANGUP, from the loop. */
void rpc_client_close(struct rpc_client *client);

bool rpc_client_is_connected(const struct rpc_client *client);

/* What the host said before it hung up on a connection that it did not want, in one line of
 * printable characters: for `disconnected`. NULL when it said nothing. */
const char *rpc_client_farewell(const struct rpc_client *client);

/* One frame without reply, request id 0 (R39, R72): a relay's word about whom it speaks for. */
int rpc_client_send_identity(struct rpc_client *client, int32_t pid, int32_t uid,
                             struct bytes_view hint, struct bytes_view name);

/* Takes the descriptor out of the receive slot: usually inside the result callback that announces
 * it (R68). Caller owns; -1. */
int rpc_client_take_fd(struct rpc_client *client);

/* The socket, borrowed; -1. */
int rpc_client_fd(const struct rpc_client *client);

/* Output back-pressure. */
bool rpc_client_is_full(const struct rpc_client *client);
size_t rpc_client_waiting(const struct rpc_client *client);

/* Writes what waits now instead of at the end of the tick: for a caller that is about to block. */
void rpc_client_flush(struct rpc_client *client);

/* A proxy for a service; the bind goes out now or when connected. A second proxy for a service that
 * has a live one fails (R47). service, ops and arg are borrowed. */
struct rpc_proxy *rpc_client_bind(struct rpc_client *client, const struct rpc_service *service,
                                  const struct rpc_proxy_ops *ops, void *arg);

/* Frees a proxy at any time. Its pending invocations are rejected from here, and whatever the host
 * says to them later is ignored (R62, T-C8). NULL is fine. */
void rpc_proxy_free(struct rpc_proxy *proxy);

/* True between connected and disconnected. */
bool rpc_proxy_is_bound(const struct rpc_proxy *proxy);

/* The host listed this method (R53, R126). method is the id in *our* table; it is mapped by name.
 */
bool rpc_proxy_has(const struct rpc_proxy *proxy, uint32_t method);

/* Invokes a method of our table. fn NULL: no reply wanted (drop_reply, R51). fd: -1 or borrowed.
 * A method the host did not list, an unbound proxy, args that do not fit one frame (R30) or a lost
 * connection reject from the loop (R53). Returns the request id, or 0 when nothing was sent. */
uint64_t rpc_proxy_invoke(struct rpc_proxy *proxy, uint32_t method, struct bytes_view args, int fd,
                          rpc_result_fn *fn, void *arg);

/* Forgets a pending invocation without calling it back. False when it is not pending. */
bool rpc_proxy_forget(struct rpc_proxy *proxy, uint64_t request_id);

struct rpc_client *rpc_proxy_client(const struct rpc_proxy *proxy);

#endif
