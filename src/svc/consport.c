/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consumers over sockets. Each method is one message to the endpoint; each message back answers the
 * request that its cookie names. The packets of a read do not pass through a mailbox: they are put
 * as slices, straight from the trace buffer, into one reply under construction that all connections
 * share, because a batch is always finished before the next one begins.
 *
 * Answers go out as fast as the consumer reads: beyond the channel's high mark they wait in a
 * backlog with a cap, which is charged to its uid; a consumer that exceeds either is dropped.
 */
#include "svc/consport.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/port_consumer.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/charge.h"
#include "reactor/err.h"
#include "reactor/idmap.h"
#include "svc/portlib.h"
#include "svc/service.h"

#define SLICE_MAX  130560 /* R104 */
#define PIECES_MAX 256    /* pieces of one slice: a reply has room for a few of these */

struct consport {
    struct reactor *reactor; /* borrow */
    struct service *svc;     /* borrow */
    struct rpc_host *host;   /* borrow */
    uint32_t id;             /* of ConsumerPort on the host */
    struct idmap conns;      /* actor id -> struct consconn */
    struct service_sink sink;
    struct port_consumer_reply reply; /* of the batch that is being read */
};

struct consconn {
    struct actor actor;
    struct consport *port;  /* borrow */
    uint64_t conn;          /* id of the connection */
    uint64_t endpoint;      /* actor id */
    struct mailbox backlog; /* answers that the channel has no room for */
    struct charge held;     /* for the backlog and what is parked */
    bool left;

    /* The rest of a packet that is larger than what the channel takes: it leaves slice by slice as
     * there is room again, and until then no batch is read. */
    struct {
        uint8_t *bytes; /* own; NULL: nothing is parked */
        size_t n, at;
        uint64_t cookie; /* of the read */
        bool ends;       /* with it ends the packet */
        bool more;       /* the batch that it ended was not the last */
    } parked;
};

static const struct mailbox_limits mailbox_limits = {
    .max_count = 1u << 16,
    .max_bytes = 256u << 20,
    .when_full = MAILBOX_KILL_OWNER,
};

static const struct mailbox_limits backlog_limits = {
    .max_count = 1u << 16,
    .max_bytes = 256u << 20,
    .when_full = MAILBOX_REFUSE_NEW,
};

static struct rpc_conn *socket_of(const struct consconn *c)
{
    return rpc_host_find(c->port->host, c->conn);
}

/* ---- what waits ---- */

/* Charges what waits beside the channel's own queue. False: it is too much, the peer is dropped. */
static bool hold(struct consconn *c)
{
    size_t n = mailbox_bytes(&c->backlog) + (c->parked.bytes ? c->parked.n : 0);
    struct rpc_conn *conn;
    if (charge_resize(&c->held, n) == 0)
        return true;
    conn = socket_of(c);
    if (conn)
        rpc_conn_close(conn, ERR_BACKLOG);
    return false;
}

/* ---- answers ---- */

static void answer(struct consconn *c, const struct msg_reply *m)
{
    struct rpc_reply r = portlib_reply(c->port->host, c->conn, m->cookie);
    if (m->ok)
        rpc_reply_send(&r, msg_body_view(&m->body), m->more, -1);
    else
        rpc_reply_reject(&r);
}

static void on_reply(struct consconn *c, struct mailbox_msg *m)
{
    struct rpc_conn *conn = socket_of(c);
    if (!conn)
        return;
    if (mailbox_count(&c->backlog) == 0 && !rpc_conn_is_full(conn)) {
        answer(c, (const struct msg_reply *)(const void *)m->data);
        return;
    }
    int err = mailbox_push(&c->backlog, m->to, m->from, m->kind, m->data, m->size);
    msg_forget(m); /* taken, whatever the result */
    if (err)
        rpc_conn_close(conn, ERR_STALLED);
    else
        (void)hold(c);
}

static void handle(struct actor *a, struct mailbox_msg *m)
{
    struct consconn *c = list_entry(a, struct consconn, actor);
    struct rpc_conn *conn = socket_of(c);
    if (c->left)
        return;
    if (m->kind == MSG_CP_REPLY)
        on_reply(c, m);
    else if (m->kind == MSG_CP_CLOSE && conn)
        rpc_conn_close(conn, ((const struct msg_close *)(const void *)m->data)->err);
    else if (m->kind == MSG_CP_ROOM && conn)
        rpc_conn_resume(conn);
}

/* ---- packets ---- */

/* Sends what was gathered. */
static int send_slices(struct consport *port, uint64_t conn, uint64_t cookie, bool more)
{
    struct rpc_reply r = portlib_reply(port->host, conn, cookie);
    port_consumer_reply_finish(&port->reply);
    int err = rpc_reply_sendv(&r, port->reply.iov, port->reply.iovcnt, more);
    port_consumer_reply_reset(&port->reply);
    return err;
}

/* Where a packet's port is; NULL when it has gone. */
static struct consconn *conn_of(struct consport *port, uint64_t actor)
{
    return actor_alive(port->reactor, actor) ? idmap_get(&port->conns, actor) : NULL;
}

static int add_slice(struct consconn *c, uint64_t cookie, const struct iovec *pieces, int n,
                     bool last)
{
    struct consport *port = c->port;
    if (port_consumer_reply_add(&port->reply, pieces, n, last))
        return 0;
    int err = send_slices(port, c->conn, cookie, true);
    if (!err && !port_consumer_reply_add(&port->reply, pieces, n, last))
        err = -EMSGSIZE;
    return err;
}

/* Copies what follows `offset` of part `first` aside. */
static int park(struct consconn *c, uint64_t cookie, const struct packet *pkt, size_t first,
                size_t offset)
{
    const struct iovec *parts = pkt->parts + first;
    size_t n = 0, nparts = pkt->nparts - first;
    for (size_t i = 0; i < nparts; i++)
        n += parts[i].iov_len;
    uint8_t *p = alloc_try(n - offset);
    if (!p)
        return -ENOMEM;
    c->parked.bytes = p;
    c->parked.n = n - offset;
    c->parked.at = 0;
    c->parked.cookie = cookie;
    c->parked.ends = pkt->follows == 0;
    c->parked.more = true;
    for (size_t i = 0; i < nparts; i++, offset = 0) {
        size_t len = parts[i].iov_len - offset;
        if (len)
            memcpy(p, (const uint8_t *)parts[i].iov_base + offset, len);
        p += len;
    }
    return hold(c) ? 0 : ERR_BACKLOG;
}

/* Sends of what is parked as much as the channel takes. */
static void send_parked(struct consconn *c, const struct rpc_conn *conn)
{
    while (c->parked.bytes && !rpc_conn_is_full(conn)) {
        size_t left = c->parked.n - c->parked.at;
        struct iovec piece = {c->parked.bytes + c->parked.at, left < SLICE_MAX ? left : SLICE_MAX};
        bool last = piece.iov_len == left;
        (void)port_consumer_reply_add(&c->port->reply, &piece, 1, last && c->parked.ends);
        int err = send_slices(c->port, c->conn, c->parked.cookie, !last || c->parked.more);
        c->parked.at += piece.iov_len;
        if (last || err) {
            free(c->parked.bytes);
            c->parked.bytes = NULL;
        }
    }
}

/* Cuts the packet into slices of bounded size and number of pieces. */
static int sink_packet(void *arg, uint64_t actor, uint64_t cookie, const struct packet *pkt)
{
    struct consconn *c = conn_of(arg, actor);
    struct iovec pieces[PIECES_MAX];
    size_t n = 0, size = 0, part = 0, offset = 0;
    if (!c)
        return ERR_HANGUP;
    const struct rpc_conn *conn = socket_of(c);
    if (c->parked.bytes)
        return -EBUSY;
    while (part < pkt->nparts) {
        const struct iovec *from = &pkt->parts[part];
        size_t take = from->iov_len - offset;
        if (take > SLICE_MAX - size)
            take = SLICE_MAX - size;
        pieces[n++] = (struct iovec){(uint8_t *)from->iov_base + offset, take};
        size += take;
        offset += take;
        if (offset == from->iov_len) {
            part++;
            offset = 0;
        }
        if (part < pkt->nparts && (n == PIECES_MAX || size == SLICE_MAX)) {
            int err = add_slice(c, cookie, pieces, (int)n, false);
            if (err)
                return err;
            n = 0;
            size = 0;
            if (conn && rpc_conn_is_full(conn))
                return park(c, cookie, pkt, part, offset);
        }
    }
    return add_slice(c, cookie, pieces, (int)n, pkt->follows == 0);
}

static int sink_flush(void *arg, uint64_t actor, uint64_t cookie, bool more)
{
    struct consport *port = arg;
    struct consconn *c = conn_of(port, actor);
    if (!c || cookie == 0) {
        port_consumer_reply_reset(&port->reply);
        return c ? 0 : ERR_HANGUP;
    }
    if (c->parked.bytes) {
        c->parked.more = more;
        more = true;
    }
    if (more && port->reply.slices == 0)
        return 0;
    return send_slices(port, c->conn, cookie, more);
}

static bool sink_room(void *arg, uint64_t actor)
{
    struct consconn *c = conn_of(arg, actor);
    struct rpc_conn *conn = c ? socket_of(c) : NULL;
    return !conn || (!c->parked.bytes && !rpc_conn_is_full(conn));
}

/* The channel takes output again. */
static void drained(void *arg, struct rpc_conn *conn)
{
    struct consport *port = arg;
    struct consconn *c = rpc_conn_user(conn, port->id);
    struct msg_empty room = {0};
    struct mailbox_msg m;
    if (!c)
        return;
    send_parked(c, conn);
    while (!rpc_conn_is_full(conn) && mailbox_pop(&c->backlog, &m)) {
        answer(c, (const struct msg_reply *)(const void *)m.data);
        mailbox_destroy_payload(&msg_table, m.kind, m.data);
    }
    (void)hold(c); /* it has not grown */
    if (!rpc_conn_is_full(conn))
        ACTOR_POST(port->reactor, c->endpoint, c->actor.id, MSG_C_READ_ROOM, &room);
}

/* ---- life of a connection ---- */

static void say_bye(struct consconn *c)
{
    struct msg_empty bye = {0};
    if (c->endpoint && !c->left)
        ACTOR_POST(c->port->reactor, c->endpoint, c->actor.id, MSG_C_BYE, &bye);
    idmap_del(&c->port->conns, c->actor.id);
    c->left = true;
}

static void reap(struct actor *a)
{
    struct consconn *c = list_entry(a, struct consconn, actor);
    /* When the connection left first, its host may be gone by now too. */
    struct rpc_conn *conn = c->left ? NULL : socket_of(c);
    say_bye(c);
    if (conn) { /* its mailbox was full */
        rpc_conn_set_user(conn, c->port->id, NULL);
        rpc_conn_close(conn, ERR_STALLED);
    }
    mailbox_fini(&c->backlog);
    charge_release(&c->held);
    free(c->parked.bytes);
    free(c);
}

static const struct actor_ops ops = {handle, reap};

static void left(void *arg, struct rpc_conn *conn)
{
    struct consport *port = arg;
    struct consconn *c = rpc_conn_user(conn, port->id);
    if (!c)
        return;
    rpc_conn_set_user(conn, port->id, NULL);
    say_bye(c);
    actor_kill(&c->actor);
}

static struct consconn *conn_new(struct consport *port, struct rpc_conn *conn)
{
    char name[ACTOR_NAME_MAX];
    const struct cred *cred = rpc_conn_cred(conn);
    struct consconn *c = alloc_new(struct consconn);
    snprintf(name, sizeof(name), "consumer pid %d", (int)cred->pid);
    if (actor_init(&c->actor, port->reactor, name, &ops, &mailbox_limits)) {
        free(c);
        return NULL;
    }
    c->port = port;
    c->conn = rpc_conn_id(conn);
    mailbox_init(&c->backlog, &msg_table, &backlog_limits);
    (void)charge_take(service_charges(port->svc), &c->held, portlib_payer(conn), CHARGE_QUEUE_BYTES,
                      0); /* no memory: it is not charged */
    const struct service_consumer params = {
        .port = c->actor.id, .uid = cred->uid, .pid = cred->pid, .sink = &port->sink};
    if (idmap_put(&port->conns, c->actor.id, c) ||
        service_add_consumer(port->svc, &params, &c->endpoint)) {
        actor_kill(&c->actor);
        return NULL;
    }
    rpc_conn_set_user(conn, port->id, c);
    return c;
}

/* The connection's consumer, made at its first request (R100). NULL: no memory. */
static struct consconn *consumer_of(void *arg, struct rpc_call *call)
{
    struct consport *port = arg;
    struct consconn *c = rpc_conn_user(call->conn, port->id);
    return c ? c : conn_new(port, call->conn);
}

/* ---- methods ---- */

/* Hands a request to the endpoint, and stops reading when too many wait there. */
static int post(struct consconn *c, struct rpc_call *call, enum msg_kind kind, const void *payload,
                size_t size)
{
    int err = actor_post(c->port->reactor, c->endpoint, c->actor.id, (uint16_t)kind, payload, size);
    if (service_consumer_full(c->port->svc, c->endpoint))
        rpc_conn_pause(call->conn);
    return err == -ENOMEM ? err : 0;
}

#define POST(c, call, kind, payload) post((c), (call), (kind), (payload), sizeof(*(payload)))

/* A request without arguments, or with a body that is already there. */
static int post_request(void *arg, struct rpc_call *call, enum msg_kind kind, struct msg_body body)
{
    struct consconn *c = consumer_of(arg, call);
    if (!c) {
        free(body.p);
        return -ENOMEM;
    }
    struct msg_request m = {.cookie = portlib_take_reply(call), .body = body};
    return POST(c, call, kind, &m);
}

/* A request whose body is the sub-message (or string) in field 1 of the arguments. */
static int post_field(void *arg, struct rpc_call *call, enum msg_kind kind)
{
    struct msg_body body;
    int err = portlib_submessage(call->args, 1, &body);
    return err ? err : post_request(arg, call, kind, body);
}

/* A request whose arguments say nothing that we need; they must still parse. */
static int post_plain(void *arg, struct rpc_call *call, enum msg_kind kind)
{
    uint64_t none;
    int err = portlib_numbers(call->args, &none, 0);
    return err ? err : post_request(arg, call, kind, (struct msg_body){NULL, 0});
}

/* R101: only a session that writes into a file without a path takes the descriptor. */
static bool wants_fd(struct bytes_view config)
{
    struct bytes_field into, path;
    return bytes_find(config, PBF_TraceConfig_write_into_file, BYTES_VARINT, &into) && into.num &&
           !(bytes_find(config, PBF_TraceConfig_output_path, BYTES_LEN, &path) && path.data.n);
}

static int call_enable(void *arg, struct rpc_call *call)
{
    struct consconn *c = consumer_of(arg, call);
    struct msg_enable m = {.fd = -1};
    uint64_t v[2];
    if (!c)
        return -ENOMEM;
    int err = portlib_numbers(call->args, v, 2);
    if (!err)
        err = portlib_submessage(call->args, PBF_EnableTracingRequest_trace_config, &m.body);
    if (err)
        return err;
    m.attach_only = v[PBF_EnableTracingRequest_attach_notification_only - 1] != 0;
    if (!m.attach_only && wants_fd(msg_body_view(&m.body)))
        m.fd = rpc_conn_take_fd(call->conn);
    m.cookie = portlib_take_reply(call);
    return POST(c, call, MSG_C_ENABLE, &m);
}

static int call_disable(void *arg, struct rpc_call *call)
{
    return post_plain(arg, call, MSG_C_DISABLE);
}

static int call_read(void *arg, struct rpc_call *call)
{
    return post_plain(arg, call, MSG_C_READ);
}

static int call_free(void *arg, struct rpc_call *call)
{
    return post_plain(arg, call, MSG_C_FREE);
}

static int call_start(void *arg, struct rpc_call *call)
{
    return post_plain(arg, call, MSG_C_START);
}

static int call_change(void *arg, struct rpc_call *call)
{
    return post_field(arg, call, MSG_C_CHANGE);
}

static int call_detach(void *arg, struct rpc_call *call)
{
    return post_field(arg, call, MSG_C_DETACH);
}

static int call_attach(void *arg, struct rpc_call *call)
{
    return post_field(arg, call, MSG_C_ATTACH);
}

static int call_stats(void *arg, struct rpc_call *call)
{
    return post_plain(arg, call, MSG_C_STATS);
}

static int call_capabilities(void *arg, struct rpc_call *call)
{
    return post_plain(arg, call, MSG_C_CAPABILITIES);
}

static int call_save_trace(void *arg, struct rpc_call *call)
{
    return post_plain(arg, call, MSG_C_SAVE_TRACE);
}

static int call_flush(void *arg, struct rpc_call *call)
{
    struct consconn *c = consumer_of(arg, call);
    uint64_t v[2];
    if (!c)
        return -ENOMEM;
    int err = portlib_numbers(call->args, v, 2);
    if (err)
        return err;
    struct msg_flush_request m = {
        .cookie = portlib_take_reply(call),
        .timeout_ms = (uint32_t)v[PBF_FlushRequest_timeout_ms - 1],
        .flags = v[PBF_FlushRequest_flags - 1],
    };
    return POST(c, call, MSG_C_FLUSH, &m);
}

/* events_to_observe comes as single varints or packed. */
static int read_mask(struct bytes_view args, uint32_t *mask)
{
    struct bytes_cur cur = bytes_cur(args);
    struct bytes_field f;
    uint64_t v;
    *mask = 0;
    while (bytes_next(&cur, &f)) {
        if (f.id != PBF_ObserveEventsRequest_events_to_observe)
            continue;
        if (f.type == BYTES_VARINT)
            *mask |= (uint32_t)f.num;
        for (struct bytes_cur in = bytes_cur(f.data);
             f.type == BYTES_LEN && bytes_get_varint(&in, &v);)
            *mask |= (uint32_t)v;
    }
    return bytes_done(&cur) ? 0 : ERR_BAD_REQUEST;
}

static int call_observe(void *arg, struct rpc_call *call)
{
    struct consconn *c = consumer_of(arg, call);
    struct msg_observe m = {0};
    if (!c)
        return -ENOMEM;
    int err = read_mask(call->args, &m.mask);
    if (err)
        return err;
    m.cookie = portlib_take_reply(call);
    return POST(c, call, MSG_C_OBSERVE, &m);
}

static int call_query(void *arg, struct rpc_call *call)
{
    struct consconn *c = consumer_of(arg, call);
    uint64_t sessions_only;
    if (!c)
        return -ENOMEM;
    int err = portlib_numbers(call->args, &sessions_only, 1);
    if (err)
        return err;
    struct msg_query m = {.cookie = portlib_take_reply(call), .sessions_only = sessions_only != 0};
    return POST(c, call, MSG_C_QUERY, &m);
}

static int call_clone(void *arg, struct rpc_call *call) /* R108 */
{
    struct consconn *c = consumer_of(arg, call);
    struct msg_enable m = {.fd = -1};
    uint64_t none;
    if (!c)
        return -ENOMEM;
    int err = portlib_numbers(call->args, &none, 0);
    if (!err)
        err = msg_body_copy(&m.body, call->args.p, call->args.n);
    if (err)
        return err;
    m.fd = rpc_conn_take_fd(call->conn);
    m.cookie = portlib_take_reply(call);
    return POST(c, call, MSG_C_CLONE, &m);
}

static rpc_handler *const methods[PORT_CONSUMER_METHODS] = {
    [PORT_CONSUMER_ENABLE_TRACING - 1] = call_enable,
    [PORT_CONSUMER_DISABLE_TRACING - 1] = call_disable,
    [PORT_CONSUMER_READ_BUFFERS - 1] = call_read,
    [PORT_CONSUMER_FREE_BUFFERS - 1] = call_free,
    [PORT_CONSUMER_FLUSH - 1] = call_flush,
    [PORT_CONSUMER_START_TRACING - 1] = call_start,
    [PORT_CONSUMER_CHANGE_TRACE_CONFIG - 1] = call_change,
    [PORT_CONSUMER_DETACH - 1] = call_detach,
    [PORT_CONSUMER_ATTACH - 1] = call_attach,
    [PORT_CONSUMER_GET_TRACE_STATS - 1] = call_stats,
    [PORT_CONSUMER_OBSERVE_EVENTS - 1] = call_observe,
    [PORT_CONSUMER_QUERY_SERVICE_STATE - 1] = call_query,
    [PORT_CONSUMER_QUERY_CAPABILITIES - 1] = call_capabilities,
    [PORT_CONSUMER_SAVE_TRACE_FOR_BUGREPORT - 1] = call_save_trace,
    [PORT_CONSUMER_CLONE_SESSION - 1] = call_clone,
};

int consport_new(struct reactor *r, struct service *svc, struct rpc_host *host,
                 struct consport **out)
{
    static const struct rpc_service_ops service_ops = {.left = left, .drained = drained};
    struct consport *port = alloc_new(struct consport);
    port->reactor = r;
    port->svc = svc;
    port->host = host;
    port->sink = (struct service_sink){sink_packet, sink_flush, sink_room, port};
    port_consumer_reply_reset(&port->reply);
    idmap_init(&port->conns);
    int id = rpc_host_expose(host, &port_consumer, methods, &service_ops, port, 0);
    if (id < 0) {
        consport_free(port);
        return id;
    }
    port->id = (uint32_t)id;
    *out = port;
    return 0;
}

void consport_free(struct consport *port)
{
    if (!port)
        return;
    idmap_fini(&port->conns);
    free(port);
}
