/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A consumer's connection to the tracing service.
 *
 * It turns calls into invocations on ipc/rpc_client and replies into callbacks; what a call means
 * is known to the service, and in which order calls make sense to the caller. Requests are small
 * and encoded by hand; the config goes out from where it lies.
 *
 * The one big stream, ReadBuffers, is handed on without copying: a packet is a list of pieces that
 * point into the reply. Only a packet that spans replies (ipc.md R102) is gathered in `partial`,
 * which never grows past PACKET_MAX: a service that sends more loses us.
 *
 * Owned here: the client, the proxy, buffers. The client outlives a loss until conssession_free.
 * Callbacks may free the session: every path that calls back does so as its last act, and the one
 * that cannot, handing over packets, looks at `dead` afterwards.
 */
#include "client/conssession.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ipc/port_consumer.h"
#include "ipc/rpc_client.h"
#include "ipc/sockname.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/err.h"
#include "reactor/reactor.h"

#define PACKET_MAX (256u << 20) /* largest packet that may be put together from several replies */
#define STATE_MAX  (256u << 20) /* largest service state */
#define PIECES_MAX 512          /* pieces of one packet within one reply before they are gathered */
#define QUEUE_MAX  16           /* calls before the connection is there */

/* A call that waits for the connection. */
struct waiting {
    uint32_t method;
    struct bytesbuf args;
    int fd; /* borrow */
};

struct conssession {
    struct reactor *reactor;           /* borrow */
    const struct conssession_ops *ops; /* borrow */
    void *arg;                         /* borrow */
    struct rpc_client *client;         /* own */
    struct rpc_proxy *proxy;           /* own */
    char address[SOCKNAME_TEXT_MAX];
    bool bound, lost; /* lost stays */
    struct waiting queue[QUEUE_MAX];
    size_t n_queue;
    struct bytesbuf partial; /* packet that spans replies */
    bool overrun;            /* it got too large: the read has failed */
    struct bytesbuf state;   /* service state so far */
    bool reading;            /* packets are being handed over */
    bool dead;               /* freed by one of them: the memory goes when `reading` ends */
};

const char *conssession_default_address(void)
{
    return sockname_consumer();
}

/* ---- replies ---- */

static void done(struct conssession *s, enum conssession_call call, const struct rpc_result *r)
{
    s->ops->done(s->arg, call, r->success, r->success ? r->msg : bytes_view(NULL, 0));
}

#define PLAIN_REPLY(name, call)                                                                    \
    static void name(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)               \
    {                                                                                              \
        (void)proxy;                                                                               \
        done(arg, call, r);                                                                        \
    }
PLAIN_REPLY(on_start, CONSSESSION_START)
PLAIN_REPLY(on_disable, CONSSESSION_DISABLE)
PLAIN_REPLY(on_flush, CONSSESSION_FLUSH)
PLAIN_REPLY(on_free_buffers, CONSSESSION_FREE_BUFFERS)
PLAIN_REPLY(on_change, CONSSESSION_CHANGE)
PLAIN_REPLY(on_detach, CONSSESSION_DETACH)
PLAIN_REPLY(on_attach, CONSSESSION_ATTACH)
PLAIN_REPLY(on_stats, CONSSESSION_STATS)
PLAIN_REPLY(on_capabilities, CONSSESSION_CAPABILITIES)
PLAIN_REPLY(on_clone, CONSSESSION_CLONE)

/* Acts on a rejection and on disabled=true only (R101). */
static void on_enable(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)
{
    static const char rejected[] = "EnableTracing IPC request rejected. This is likely due to a "
                                   "loss of the traced connection";
    struct conssession *s = arg;
    struct bytes_field f;

    (void)proxy;
    if (s->ops->ended == NULL)
        return;
    if (!r->success) {
        s->ops->ended(s->arg, false, bytes_str(rejected));
        return;
    }
    if (!bytes_find(r->msg, PBF_EnableTracingResponse_disabled, BYTES_VARINT, &f) || f.num == 0)
        return;
    if (bytes_find(r->msg, PBF_EnableTracingResponse_error, BYTES_LEN, &f))
        s->ops->ended(s->arg, true, f.data);
    else
        s->ops->ended(s->arg, true, bytes_view(NULL, 0));
}

static void on_observe(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)
{
    struct conssession *s = arg;
    struct bytes_field f;

    (void)proxy;
    if (r->success && r->has_more && s->ops->event != NULL &&
        bytes_find(r->msg, PBF_ObserveEventsResponse_events, BYTES_LEN, &f))
        s->ops->event(s->arg, f.data);
}

static void on_query(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)
{
    struct conssession *s = arg;
    struct bytes_field f;
    struct rpc_result whole = *r;

    (void)proxy;
    if (r->success &&
        bytes_find(r->msg, PBF_QueryServiceStateResponse_service_state, BYTES_LEN, &f))
        bytesbuf_put(&s->state, f.data.p, f.data.n);
    if (r->success && r->has_more)
        return;
    whole.success = r->success && !s->state.failed;
    whole.msg = bytesbuf_view(&s->state);
    done(s, CONSSESSION_QUERY, &whole);
}

/* ---- packets ---- */

static void release(struct conssession *s)
{
    for (size_t i = 0; i < s->n_queue; i++)
        bytesbuf_fini(&s->queue[i].args);
    bytesbuf_fini(&s->partial);
    bytesbuf_fini(&s->state);
    free(s);
}

/* Keeps pieces for the next reply, or because there are too many of them. */
static void gather(struct conssession *s, const struct iovec *piece, int n)
{
    for (int i = 0; i < n; i++)
        bytesbuf_put(&s->partial, piece[i].iov_base, piece[i].iov_len);
    s->overrun = s->overrun || s->partial.failed;
}

/* Hands one packet over: what earlier replies brought of it, then the pieces of this one. */
static void deliver(struct conssession *s, struct iovec *piece, int n, size_t len)
{
    if (s->partial.n > 0) {
        piece[0].iov_base = s->partial.p;
        piece[0].iov_len = s->partial.n;
        len += s->partial.n;
    } else {
        piece++;
        n--;
    }
    if (s->ops->packet != NULL)
        s->ops->packet(s->arg, piece, n, len);
}

static int read_slices(struct conssession *s, struct bytes_view msg)
{
    struct iovec piece[PIECES_MAX]; /* [0] is for the part from earlier replies */
    struct bytes_cur cur = bytes_cur(msg);
    struct port_consumer_slice slice;
    bool from_before = s->partial.n > 0;
    size_t len = 0;
    int n = 1, rc;

    while ((rc = port_consumer_next_slice(&cur, &slice)) == 1) {
        piece[n].iov_base = (void *)(uintptr_t)slice.data.p;
        piece[n++].iov_len = slice.data.n;
        len += slice.data.n;
        if (slice.last_for_packet) {
            deliver(s, piece, n, len);
            if (s->dead)
                return 0;
            /* its pieces may point here until the batch ends, so only a packet that is followed by
             * another gathered one is forgotten now */
            if (from_before && s->ops->batch != NULL)
                s->ops->batch(s->arg);
            if (s->dead)
                return 0;
            bytesbuf_clear(&s->partial);
            from_before = false;
            n = 1;
            len = 0;
        } else if (n == PIECES_MAX) {
            gather(s, piece + 1, n - 1);
            from_before = true;
            n = 1;
            len = 0;
        }
    }
    gather(s, piece + 1, n - 1);
    return rc;
}

static void on_read(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)
{
    struct conssession *s = arg;
    struct rpc_result end = *r;
    int rc = 0;

    (void)proxy;
    if (s->dead)
        return;
    s->reading = true;
    if (r->success && !s->overrun)
        rc = read_slices(s, r->msg);
    if (!s->dead && r->success && s->ops->batch != NULL)
        s->ops->batch(s->arg);
    s->reading = false;
    if (s->dead) {
        release(s);
        return;
    }
    s->overrun = s->overrun || rc != 0;
    if (s->overrun)
        end.success = false;
    if (r->success && r->has_more && !s->overrun)
        return;
    if (r->has_more)
        rpc_client_close(s->client);
    end.msg = bytes_view(NULL, 0);
    done(s, CONSSESSION_READ, &end);
}

/* ---- connection ---- */

static void invoke(struct conssession *s, uint32_t method, struct bytes_view args, int fd)
{
    static rpc_result_fn *const handlers[PORT_CONSUMER_METHODS + 1] = {
        [PORT_CONSUMER_ENABLE_TRACING] = on_enable,
        [PORT_CONSUMER_DISABLE_TRACING] = on_disable,
        [PORT_CONSUMER_READ_BUFFERS] = on_read,
        [PORT_CONSUMER_FREE_BUFFERS] = on_free_buffers,
        [PORT_CONSUMER_FLUSH] = on_flush,
        [PORT_CONSUMER_START_TRACING] = on_start,
        [PORT_CONSUMER_CHANGE_TRACE_CONFIG] = on_change,
        [PORT_CONSUMER_DETACH] = on_detach,
        [PORT_CONSUMER_ATTACH] = on_attach,
        [PORT_CONSUMER_GET_TRACE_STATS] = on_stats,
        [PORT_CONSUMER_OBSERVE_EVENTS] = on_observe,
        [PORT_CONSUMER_QUERY_SERVICE_STATE] = on_query,
        [PORT_CONSUMER_QUERY_CAPABILITIES] = on_capabilities,
        [PORT_CONSUMER_CLONE_SESSION] = on_clone,
    };

    if (method == PORT_CONSUMER_READ_BUFFERS) {
        bytesbuf_clear(&s->partial);
        s->overrun = false;
    } else if (method == PORT_CONSUMER_QUERY_SERVICE_STATE) {
        bytesbuf_clear(&s->state);
    }
    rpc_proxy_invoke(s->proxy, method, args, fd, handlers[method], s);
}

/* Sends a call, or keeps it until the bind is answered. */
static void call(struct conssession *s, uint32_t method, struct bytes_view args, int fd)
{
    struct waiting *w;

    if (s->bound || s->lost || s->n_queue == QUEUE_MAX) {
        invoke(s, method, args, fd);
        return;
    }
    w = &s->queue[s->n_queue++];
    w->method = method;
    w->fd = fd;
    bytesbuf_init(&w->args, args.n + 1);
    bytesbuf_put(&w->args, args.p, args.n);
}

static void drop_queue(struct conssession *s)
{
    for (size_t i = 0; i < s->n_queue; i++)
        bytesbuf_fini(&s->queue[i].args);
    s->n_queue = 0;
}

static void on_bound(void *arg, struct rpc_proxy *proxy)
{
    struct conssession *s = arg;

    (void)proxy;
    s->bound = true;
    for (size_t i = 0; i < s->n_queue; i++)
        invoke(s, s->queue[i].method, bytesbuf_view(&s->queue[i].args), s->queue[i].fd);
    drop_queue(s);
    if (s->ops->connected != NULL)
        s->ops->connected(s->arg);
}

/* Calls that waited get their one answer, from here: there is nobody to send them to. */
static void lose(struct conssession *s, const char *what, const char *detail)
{
    char why[SOCKNAME_TEXT_MAX + 320];

    if (s->lost)
        return;
    s->lost = true;
    s->bound = false;
    drop_queue(s);
    (void)snprintf(why, sizeof(why), "%s %s: %s", what, s->address, detail);
    s->ops->lost(s->arg, why);
}

/* A loss of the connection is told by on_disconnected, which knows the reason; what remains is a
 * bind that was refused. */
static void on_unbound(void *arg, struct rpc_proxy *proxy)
{
    if (rpc_client_is_connected(rpc_proxy_client(proxy)))
        lose(arg, "cannot use the tracing service at",
             "it does not serve consumers; is that the producer socket?");
}

static const struct rpc_proxy_ops proxy_ops = {.connected = on_bound, .disconnected = on_unbound};

static void on_disconnected(void *arg, struct rpc_client *client, int reason)
{
    struct conssession *s = arg;
    const char *said = rpc_client_farewell(client);

    if (s->bound)
        lose(s, "lost the connection to the tracing service at", err_text(reason));
    else if (said)
        lose(s, "not let in by the tracing service at", said);
    else
        lose(s, "cannot connect to the tracing service at", err_text(reason));
}

static const struct rpc_client_ops client_ops = {.disconnected = on_disconnected};

struct conssession *conssession_new(struct reactor *reactor, const struct conssession_ops *ops,
                                    void *arg)
{
    struct conssession *s = alloc_new(struct conssession);

    s->reactor = reactor;
    s->ops = ops;
    s->arg = arg;
    bytesbuf_init(&s->partial, PACKET_MAX);
    bytesbuf_init(&s->state, STATE_MAX);
    s->client = rpc_client_new(reactor, NULL, &client_ops, s);
    s->proxy = rpc_client_bind(s->client, &port_consumer, &proxy_ops, s);
    return s;
}

static void ignore_lost(void *arg, const char *why)
{
    (void)arg;
    (void)why;
}

static void ignore_done(void *arg, enum conssession_call which, bool ok, struct bytes_view reply)
{
    (void)arg;
    (void)which;
    (void)ok;
    (void)reply;
}

void conssession_free(struct conssession *s)
{
    static const struct conssession_ops silent = {.lost = ignore_lost, .done = ignore_done};

    if (s == NULL)
        return;
    s->dead = true;
    s->ops = &silent; /* what is pending is answered from the frees below */
    rpc_proxy_free(s->proxy);
    rpc_client_free(s->client);
    if (!s->reading)
        release(s);
}

int conssession_connect(struct conssession *s, const char *address, char *err, size_t errlen)
{
    (void)snprintf(s->address, sizeof(s->address), "%s", address);
    return rpc_client_connect(s->client, address, err, errlen);
}

bool conssession_reachable(const char *address)
{
    struct sockname name;
    char err[SOCKNAME_ERR_MAX];
    bool pending;
    int fd;

    if (sockname_parse(&name, address, err, sizeof(err)) != 0)
        return false;
    fd = sockname_connect(&name, &pending, err, sizeof(err));
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* ---- calls ---- */

static void call_empty(struct conssession *s, uint32_t method)
{
    call(s, method, bytes_view(NULL, 0), -1);
}

static void call_buf(struct conssession *s, uint32_t method, struct bytesbuf *b, int fd)
{
    call(s, method, bytesbuf_view(b), fd);
    bytesbuf_fini(b);
}

static void call_str(struct conssession *s, uint32_t method, uint32_t field, const char *text)
{
    struct bytesbuf b;

    bytesbuf_init(&b, FRAME_MAX);
    bytesbuf_pb_str(&b, field, text);
    call_buf(s, method, &b, -1);
}

static void call_config(struct conssession *s, uint32_t method, uint32_t field,
                        struct bytes_view config, int fd)
{
    struct bytesbuf b;

    bytesbuf_init(&b, config.n + 16);
    bytesbuf_pb_bytes(&b, field, config.p, config.n);
    call_buf(s, method, &b, fd);
}

void conssession_enable(struct conssession *s, struct bytes_view config, int fd)
{
    call_config(s, PORT_CONSUMER_ENABLE_TRACING, PBF_EnableTracingRequest_trace_config, config, fd);
}

void conssession_await_end(struct conssession *s)
{
    struct bytesbuf b;

    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_EnableTracingRequest_attach_notification_only, 1);
    call_buf(s, PORT_CONSUMER_ENABLE_TRACING, &b, -1);
}

void conssession_start(struct conssession *s)
{
    call_empty(s, PORT_CONSUMER_START_TRACING);
}

void conssession_disable(struct conssession *s)
{
    call_empty(s, PORT_CONSUMER_DISABLE_TRACING);
}

void conssession_flush(struct conssession *s, uint32_t timeout_ms, uint64_t flags)
{
    struct bytesbuf b;

    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_FlushRequest_timeout_ms, timeout_ms);
    bytesbuf_pb_varint(&b, PBF_FlushRequest_flags, flags);
    call_buf(s, PORT_CONSUMER_FLUSH, &b, -1);
}

void conssession_free_buffers(struct conssession *s)
{
    call_empty(s, PORT_CONSUMER_FREE_BUFFERS);
}

void conssession_change(struct conssession *s, struct bytes_view config)
{
    call_config(s, PORT_CONSUMER_CHANGE_TRACE_CONFIG, PBF_ChangeTraceConfigRequest_trace_config,
                config, -1);
}

void conssession_detach(struct conssession *s, const char *key)
{
    call_str(s, PORT_CONSUMER_DETACH, PBF_DetachRequest_key, key);
}

void conssession_attach(struct conssession *s, const char *key)
{
    call_str(s, PORT_CONSUMER_ATTACH, PBF_AttachRequest_key, key);
}

void conssession_stats(struct conssession *s)
{
    call_empty(s, PORT_CONSUMER_GET_TRACE_STATS);
}

void conssession_capabilities(struct conssession *s)
{
    call_empty(s, PORT_CONSUMER_QUERY_CAPABILITIES);
}

void conssession_observe(struct conssession *s, unsigned mask)
{
    struct bytesbuf b;

    bytesbuf_init(&b, 64);
    for (unsigned bit = 1; bit <= CONSSESSION_CLONE_TRIGGER; bit <<= 1) {
        if (mask & bit)
            bytesbuf_pb_varint(&b, PBF_ObserveEventsRequest_events_to_observe, bit);
    }
    call_buf(s, PORT_CONSUMER_OBSERVE_EVENTS, &b, -1);
}

void conssession_query(struct conssession *s, bool sessions_only)
{
    struct bytesbuf b;

    bytesbuf_init(&b, 16);
    if (sessions_only)
        bytesbuf_pb_varint(&b, PBF_QueryServiceStateRequest_sessions_only, 1);
    call_buf(s, PORT_CONSUMER_QUERY_SERVICE_STATE, &b, -1);
}

void conssession_read(struct conssession *s)
{
    call_empty(s, PORT_CONSUMER_READ_BUFFERS);
}

void conssession_clone(struct conssession *s, const struct conssession_clone *c, int fd)
{
    struct bytesbuf b;

    bytesbuf_init(&b, FRAME_MAX);
    if (c->session_id != 0)
        bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_session_id, c->session_id);
    else if (c->name != NULL)
        bytesbuf_pb_str(&b, PBF_CloneSessionRequest_unique_session_name, c->name);
    bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_skip_trace_filter, c->skip_filter);
    bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_for_bugreport, c->bugreport);
    if (c->trigger_name.n > 0)
        bytesbuf_pb_bytes(&b, PBF_CloneSessionRequest_clone_trigger_name, c->trigger_name.p,
                          c->trigger_name.n);
    if (c->trigger_producer.n > 0)
        bytesbuf_pb_bytes(&b, PBF_CloneSessionRequest_clone_trigger_producer_name,
                          c->trigger_producer.p, c->trigger_producer.n);
    if (c->trigger_uid != 0)
        bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_clone_trigger_trusted_producer_uid,
                           (uint64_t)(int64_t)c->trigger_uid);
    if (c->trigger_boot_ns != 0)
        bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_clone_trigger_boot_time_ns,
                           c->trigger_boot_ns);
    if (c->trigger_delay_ms != 0)
        bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_clone_trigger_delay_ms, c->trigger_delay_ms);
    call_buf(s, PORT_CONSUMER_CLONE_SESSION, &b, fd);
}
