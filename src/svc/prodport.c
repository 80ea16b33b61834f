/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Producers over sockets. A connection becomes a producer with InitializeConnection; from then on
 * each method is one message to the endpoint, and each message back is a reply or an item of the
 * GetAsyncCommand stream. Nothing is decided here but what belongs to the wire: what does not parse
 * is rejected, the SMB announcement waits for the command stream (ipc.md R86), and a peer whose
 * commits pile up is not read from until they are worked off.
 *
 * A connection's struct belongs to its actor: it dies when the connection has left, or when its
 * mailbox overflows, which ends the connection.
 */
#include "svc/prodport.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ipc/port_producer.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "smb/commit.h"
#include "svc/dsconfig.h"
#include "svc/portlib.h"
#include "svc/service.h"

/* Longest command: a config as it fitted a frame once, and what the service adds. */
#define COMMAND_MAX (160u << 10)

struct prodport {
    struct reactor *reactor; /* borrow */
    struct service *svc;     /* borrow */
    struct rpc_host *host;   /* borrow */
    uint32_t id;             /* of ProducerPort on the host */
};

struct prodconn {
    struct actor actor;
    struct prodport *port;     /* borrow */
    uint64_t conn;             /* id of the connection */
    uint64_t endpoint;         /* actor id */
    struct rpc_reply commands; /* of GetAsyncCommand, while it is open */
    struct msg_shmem announce; /* waits for the stream (R86) */
    bool announcing, left;
};

static const struct mailbox_limits mailbox_limits = {
    .max_count = 1u << 18,
    .max_bytes = 256u << 20,
    .when_full = MAILBOX_KILL_OWNER,
};

/* ---- commands ---- */

/* Sends one item of the stream. Without a stream it is lost (R86). */
static void send_command(struct prodconn *c, struct bytesbuf *b, int fd)
{
    if (b->failed)
        log_warn_limited("%s: a command is lost: no memory", c->actor.name);
    else if (rpc_reply_pending(&c->commands))
        rpc_reply_send(&c->commands, bytesbuf_view(b), true, fd);
    bytesbuf_fini(b);
}

static void announce(struct prodconn *c)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    size_t mark = bytesbuf_pb_begin(&b, PBF_GetAsyncCommandResponse_setup_tracing);
    if (c->announce.page_kb)
        bytesbuf_pb_varint(&b, PBF_GetAsyncCommandResponse_SetupTracing_shared_buffer_page_size_kb,
                           c->announce.page_kb);
    bytesbuf_pb_end(&b, mark);
    send_command(c, &b, c->announce.fd);
    if (c->announce.fd >= 0)
        close(c->announce.fd);
    c->announce.fd = -1;
    c->announcing = false;
}

static void on_setup_tracing(struct prodconn *c, void *payload)
{
    struct msg_shmem *m = payload;
    c->announce = *m;
    m->fd = -1;
    c->announcing = true;
    if (rpc_reply_pending(&c->commands))
        announce(c);
}

static void send_config(struct prodconn *c, const struct msg_config *m, uint32_t field)
{
    struct bytesbuf b;
    bytesbuf_init(&b, COMMAND_MAX);
    size_t mark = bytesbuf_pb_begin(&b, field);
    bytesbuf_pb_varint(&b, PBF_GetAsyncCommandResponse_SetupDataSource_new_instance_id,
                       m->instance);
    bytesbuf_pb_bytes(&b, PBF_GetAsyncCommandResponse_SetupDataSource_config, m->config->bytes,
                      m->config->n);
    bytesbuf_pb_end(&b, mark);
    send_command(c, &b, -1);
}

static void on_setup(struct prodconn *c, void *payload)
{
    send_config(c, payload, PBF_GetAsyncCommandResponse_setup_data_source);
}

static void on_start(struct prodconn *c, void *payload)
{
    send_config(c, payload, PBF_GetAsyncCommandResponse_start_data_source);
}

static void on_stop(struct prodconn *c, void *payload)
{
    const struct msg_instance *m = payload;
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    size_t mark = bytesbuf_pb_begin(&b, PBF_GetAsyncCommandResponse_stop_data_source);
    bytesbuf_pb_varint(&b, PBF_GetAsyncCommandResponse_StopDataSource_instance_id, m->instance);
    bytesbuf_pb_end(&b, mark);
    send_command(c, &b, -1);
}

static void put_ids(struct bytesbuf *b, uint32_t field, const struct msg_flush_command *m)
{
    for (size_t i = 0; i < m->nids; i++)
        bytesbuf_pb_varint(b, field, m->ids[i]);
}

static void on_flush(struct prodconn *c, void *payload)
{
    const struct msg_flush_command *m = payload;
    struct bytesbuf b;
    bytesbuf_init(&b, COMMAND_MAX);
    size_t mark = bytesbuf_pb_begin(&b, PBF_GetAsyncCommandResponse_flush);
    put_ids(&b, PBF_GetAsyncCommandResponse_Flush_data_source_ids, m);
    bytesbuf_pb_varint(&b, PBF_GetAsyncCommandResponse_Flush_request_id, m->request);
    bytesbuf_pb_varint(&b, PBF_GetAsyncCommandResponse_Flush_flags, m->flags);
    bytesbuf_pb_end(&b, mark);
    send_command(c, &b, -1);
}

static void on_clear(struct prodconn *c, void *payload)
{
    struct bytesbuf b;
    bytesbuf_init(&b, COMMAND_MAX);
    size_t mark = bytesbuf_pb_begin(&b, PBF_GetAsyncCommandResponse_clear_incremental_state);
    put_ids(&b, PBF_GetAsyncCommandResponse_ClearIncrementalState_data_source_ids, payload);
    bytesbuf_pb_end(&b, mark);
    send_command(c, &b, -1);
}

static void on_reply(struct prodconn *c, void *payload)
{
    const struct msg_reply *m = payload;
    struct rpc_reply r = portlib_reply(c->port->host, c->conn, m->cookie);
    if (m->ok)
        rpc_reply_send(&r, bytes_view(NULL, 0), false, -1);
    else
        rpc_reply_reject(&r);
}

static void on_room(struct prodconn *c, void *payload)
{
    struct rpc_conn *conn = rpc_host_find(c->port->host, c->conn);
    (void)payload;
    if (conn)
        rpc_conn_resume(conn);
}

static void on_close(struct prodconn *c, void *payload)
{
    const struct msg_close *m = payload;
    struct rpc_conn *conn = rpc_host_find(c->port->host, c->conn);
    log_warn_limited("%s is closed: %s", c->actor.name, m->why ? m->why : err_text(m->err));
    if (conn)
        rpc_conn_close(conn, m->err > 0 ? m->err : ERR_QUOTA);
}

typedef void command(struct prodconn *c, void *payload);

static command *const commands[MSG_KINDS] = {
    [MSG_PP_REPLY] = on_reply, [MSG_PP_SETUP_TRACING] = on_setup_tracing,
    [MSG_PP_SETUP] = on_setup, [MSG_PP_START] = on_start,
    [MSG_PP_STOP] = on_stop,   [MSG_PP_FLUSH] = on_flush,
    [MSG_PP_CLEAR] = on_clear, [MSG_PP_ROOM] = on_room,
    [MSG_PP_CLOSE] = on_close,
};

static void handle(struct actor *a, struct mailbox_msg *m)
{
    struct prodconn *c = list_entry(a, struct prodconn, actor);
    command *f = m->kind < MSG_KINDS ? commands[m->kind] : NULL;
    if (f && !c->left)
        f(c, m->data);
}

/* ---- life of a connection ---- */

static void say_bye(struct prodconn *c)
{
    struct msg_empty bye = {0};
    if (c->endpoint && !c->left)
        ACTOR_POST(c->port->reactor, c->endpoint, c->actor.id, MSG_P_BYE, &bye);
    c->left = true;
}

static void reap(struct actor *a)
{
    struct prodconn *c = list_entry(a, struct prodconn, actor);
    /* When the connection left first, its host may be gone by now too. */
    struct rpc_conn *conn = c->left ? NULL : rpc_host_find(c->port->host, c->conn);
    say_bye(c);
    if (conn) { /* its mailbox was full, or it was refused, and another may have its place by now */
        if (rpc_conn_user(conn, c->port->id) == c)
            rpc_conn_set_user(conn, c->port->id, NULL);
        if (c->endpoint)
            rpc_conn_close(conn, ERR_STALLED);
    }
    if (c->announce.fd >= 0)
        close(c->announce.fd);
    free(c);
}

static const struct actor_ops ops = {handle, reap};

static void left(void *arg, struct rpc_conn *conn)
{
    struct prodport *port = arg;
    struct prodconn *c = rpc_conn_user(conn, port->id);
    if (!c)
        return;
    rpc_conn_set_user(conn, port->id, NULL);
    say_bye(c);
    actor_kill(&c->actor);
}

static struct prodconn *conn_new(struct prodport *port, struct rpc_conn *conn)
{
    char name[ACTOR_NAME_MAX];
    struct prodconn *c = alloc_new(struct prodconn);
    snprintf(name, sizeof(name), "producer pid %d", (int)rpc_conn_cred(conn)->pid);
    if (actor_init(&c->actor, port->reactor, name, &ops, &mailbox_limits)) {
        free(c);
        return NULL;
    }
    c->port = port;
    c->conn = rpc_conn_id(conn);
    c->announce.fd = -1;
    return c;
}

/* ---- methods ---- */

static int read_init(struct bytes_view args, struct service_producer *p, bool *provided)
{
    struct bytes_cur cur = bytes_cur(args);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        switch (f.id) {
        case PBF_InitializeConnectionRequest_producer_name:
            p->name = f.data;
            break;
        case PBF_InitializeConnectionRequest_sdk_version:
            p->sdk_version = f.data;
            break;
        case PBF_InitializeConnectionRequest_shared_memory_page_size_hint_bytes:
            p->page_hint = (uint32_t)f.num;
            break;
        case PBF_InitializeConnectionRequest_shared_memory_size_hint_bytes:
            p->size_hint = (uint32_t)f.num;
            break;
        case PBF_InitializeConnectionRequest_smb_scraping_mode:
            p->scraping_mode = (uint32_t)f.num;
            break;
        case PBF_InitializeConnectionRequest_producer_provided_shmem:
            *provided = f.num != 0;
            break;
        default:
            break;
        }
    }
    return bytes_done(&cur) ? 0 : ERR_BAD_REQUEST;
}

static void answer_init(struct rpc_call *call, bool adopted, bool emulated)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionResponse_using_shmem_provided_by_producer,
                       adopted);
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionResponse_direct_smb_patching_supported, 1);
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionResponse_use_shmem_emulation, emulated);
    rpc_reply_send(&call->reply, bytesbuf_view(&b), false, -1);
    bytesbuf_fini(&b);
}

static int call_init(void *arg, struct rpc_call *call) /* R85 */
{
    struct prodport *port = arg;
    const struct cred *cred = rpc_conn_cred(call->conn);
    bool provided = false, adopted = false;
    if (rpc_conn_user(call->conn, port->id))
        return 0; /* the reply is rejected */
    struct service_producer p = {
        .uid = cred->uid,
        .pid = cred->pid,
        .machine_id = cred->machine_id,
        .machine_name = cred->machine_name,
        .shmem_fd = -1,
        .emulated = !rpc_conn_has_fds(call->conn),
        .stranger = !rpc_conn_has_fds(call->conn),
    };
    int err = read_init(call->args, &p, &provided);
    if (err)
        return err;
    struct prodconn *c = conn_new(port, call->conn);
    if (!c)
        return -ENOMEM;
    p.port = c->actor.id;
    if (provided)
        p.shmem_fd = rpc_conn_take_fd(call->conn);
    err = service_add_producer(port->svc, &p, &c->endpoint, &adopted);
    if (err) {
        actor_kill(&c->actor);
        return err < 0 ? err : 0;
    }
    rpc_conn_set_user(call->conn, port->id, c);
    answer_init(call, adopted, p.emulated);
    return 0;
}

/* The connection's producer, or NULL: then the request is rejected (section 11). */
static struct prodconn *producer_of(void *arg, struct rpc_call *call)
{
    const struct prodport *port = arg;
    return rpc_conn_user(call->conn, port->id);
}

/* Hands a message to the endpoint and stops reading when too much waits there, whatever it is: a
 * peer that asks faster than it is served must not fill the endpoint's mailbox, where the MSG_P_BYE
 * of its own end would find no room. */
static int hand_on(struct prodconn *c, struct rpc_call *call, enum msg_kind kind,
                   const void *payload, size_t size)
{
    int err = actor_post(c->port->reactor, c->endpoint, c->actor.id, (uint16_t)kind, payload, size);
    if (service_producer_full(c->port->svc, c->endpoint))
        rpc_conn_pause(call->conn);
    return err == -ENOMEM ? err : 0;
}

/* Posts a request whose body is already there. */
static int post(struct prodconn *c, struct rpc_call *call, enum msg_kind kind, struct msg_body body)
{
    struct msg_request m = {.cookie = portlib_take_reply(call), .body = body};
    return hand_on(c, call, kind, &m, sizeof(m));
}

/* Posts a request whose body is the sub-message (or string) in field 1 of the arguments. */
static int post_field(void *arg, struct rpc_call *call, enum msg_kind kind)
{
    struct prodconn *c = producer_of(arg, call);
    struct msg_body body = {NULL, 0};
    if (!c)
        return 0;
    int err = portlib_submessage(call->args, 1, &body);
    return err ? err : post(c, call, kind, body);
}

static int call_register(void *arg, struct rpc_call *call)
{
    return post_field(arg, call, MSG_P_REGISTER);
}

static int call_update(void *arg, struct rpc_call *call)
{
    return post_field(arg, call, MSG_P_UPDATE);
}

static int call_unregister(void *arg, struct rpc_call *call)
{
    return post_field(arg, call, MSG_P_UNREGISTER);
}

/* Posts the arguments as they are. */
static int post_args(struct prodconn *c, struct rpc_call *call, enum msg_kind kind)
{
    struct msg_body body;
    int err = msg_body_copy(&body, call->args.p, call->args.n);
    return err ? err : post(c, call, kind, body);
}

static int call_commit(void *arg, struct rpc_call *call)
{
    struct prodconn *c = producer_of(arg, call);
    struct commit_view view;
    if (!c)
        return 0;
    if (commit_open(&view, call->args.p, call->args.n))
        return ERR_BAD_REQUEST;
    return post_args(c, call, MSG_P_COMMIT);
}

static int call_commands(void *arg, struct rpc_call *call)
{
    struct prodconn *c = producer_of(arg, call);
    if (!c || call->reply.dropped)
        return 0;
    rpc_reply_replace(&c->commands, &call->reply);
    if (c->announcing)
        announce(c);
    return 0;
}

static int post_writer(void *arg, struct rpc_call *call, enum msg_kind kind)
{
    struct prodconn *c = producer_of(arg, call);
    uint64_t v[2];
    if (!c)
        return 0;
    int err = portlib_numbers(call->args, v, 2);
    if (err)
        return err;
    struct msg_writer m = {
        .cookie = portlib_take_reply(call), .writer = (uint32_t)v[0], .buffer = (uint32_t)v[1]};
    return hand_on(c, call, kind, &m, sizeof(m));
}

static int call_writer(void *arg, struct rpc_call *call)
{
    return post_writer(arg, call, MSG_P_WRITER);
}

static int call_writer_gone(void *arg, struct rpc_call *call)
{
    return post_writer(arg, call, MSG_P_WRITER_GONE);
}

static int post_instance(void *arg, struct rpc_call *call, enum msg_kind kind)
{
    struct prodconn *c = producer_of(arg, call);
    uint64_t id;
    if (!c)
        return 0;
    int err = portlib_numbers(call->args, &id, 1);
    if (err)
        return err;
    struct msg_instance m = {.cookie = portlib_take_reply(call), .instance = id};
    return hand_on(c, call, kind, &m, sizeof(m));
}

static int call_started(void *arg, struct rpc_call *call)
{
    return post_instance(arg, call, MSG_P_STARTED);
}

static int call_stopped(void *arg, struct rpc_call *call)
{
    return post_instance(arg, call, MSG_P_STOPPED);
}

static int call_triggers(void *arg, struct rpc_call *call)
{
    struct prodconn *c = producer_of(arg, call);
    return c ? post_args(c, call, MSG_P_TRIGGERS) : 0;
}

static int call_sync(void *arg, struct rpc_call *call)
{
    struct prodconn *c = producer_of(arg, call);
    return c ? post(c, call, MSG_P_SYNC, (struct msg_body){NULL, 0}) : 0;
}

static rpc_handler *const methods[PORT_PRODUCER_METHODS] = {
    [PORT_PRODUCER_INITIALIZE_CONNECTION - 1] = call_init,
    [PORT_PRODUCER_REGISTER_DATA_SOURCE - 1] = call_register,
    [PORT_PRODUCER_UNREGISTER_DATA_SOURCE - 1] = call_unregister,
    [PORT_PRODUCER_COMMIT_DATA - 1] = call_commit,
    [PORT_PRODUCER_GET_ASYNC_COMMAND - 1] = call_commands,
    [PORT_PRODUCER_REGISTER_TRACE_WRITER - 1] = call_writer,
    [PORT_PRODUCER_UNREGISTER_TRACE_WRITER - 1] = call_writer_gone,
    [PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED - 1] = call_started,
    [PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED - 1] = call_stopped,
    [PORT_PRODUCER_ACTIVATE_TRIGGERS - 1] = call_triggers,
    [PORT_PRODUCER_SYNC - 1] = call_sync,
    [PORT_PRODUCER_UPDATE_DATA_SOURCE - 1] = call_update,
};

int prodport_new(struct reactor *r, struct service *svc, struct rpc_host *host,
                 struct prodport **out)
{
    static const struct rpc_service_ops service_ops = {.left = left};
    struct prodport *port = alloc_new(struct prodport);
    *port = (struct prodport){.reactor = r, .svc = svc, .host = host};
    int id = rpc_host_expose(host, &port_producer, methods, &service_ops, port, 0);
    if (id < 0) {
        free(port);
        return id;
    }
    port->id = (uint32_t)id;
    *out = port;
    return 0;
}

void prodport_free(struct prodport *port)
{
    free(port);
}
