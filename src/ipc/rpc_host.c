/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answering side. A host owns its connections; a connection owns its channel and nothing that
 * belongs to a service, which learns by `left` that a client is gone. Requests of one connection
 * run in order of arrival, straight from the receive buffer.
 *
 * Invariant: a reply handle is answered at most once, because answering zeroes it, and at least
 * once, because what a handler leaves pending is rejected here. Handles name connections by an id
 * that is never used again, so an answer to somebody who is gone finds nobody. A connection is
 * unlinked (and unfindable) before its services are told, and its memory lasts until the reap.
 */

#include "ipc/rpc_host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ipc/frame.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/idmap.h"
#include "reactor/list.h"
#include "reactor/log.h"
#include "reactor/reactor.h"

#define RPC_HOST_WHY_MAX 200u /* a reason for a refusal */
#define SERVICES_MAX     4u   /* per endpoint: ProducerPort and RelayPort are two */
#define COPY_MAX         8192u /* replies up to this are queued, longer ones go to the kernel at once */

struct exposed {
    const struct rpc_service *service; /* borrow, as all here */
    rpc_handler *const *handlers;
    const struct rpc_service_ops *ops;
    void *arg;
    uint32_t mask;
};

struct rpc_host {
    struct reactor *reactor; /* borrow */
    struct rpc_host_conf conf;
    struct exposed exposed[SERVICES_MAX];
    uint32_t exposed_count;
    struct idmap conns; /* id -> borrow */
    struct list list;   /* own: of rpc_conn */
    uint64_t next_id;
};

struct rpc_conn {
    struct list node;
    struct rpc_host *host; /* borrow */
    struct channel *ch;    /* own; NULL when over */
    struct reactor_hook reap;
    struct cred cred;
    uint64_t id;
    uint32_t tag;
    bool over;                /* closed by us, `left` is on its way */
    void *user[SERVICES_MAX]; /* borrow, of the services */
    void *host_user;          /* borrow, of the owner of the host */
    struct charge *held;      /* borrow, of the same */
};

/* ---- answering ---- */

struct rpc_conn *rpc_host_find(struct rpc_host *host, uint64_t conn_id)
{
    return idmap_get(&host->conns, conn_id);
}

struct rpc_conn *rpc_reply_conn(const struct rpc_reply *r)
{
    return r->host != NULL ? rpc_host_find(r->host, r->conn) : NULL;
}

/* Whom to answer, or NULL when the answer is to be swallowed. Unless the reply goes on, *r is used
 * up now, before anything can call back. */
static struct rpc_conn *answer_to(struct rpc_reply *r, bool more, uint64_t *request_id)
{
    struct rpc_conn *conn = rpc_reply_conn(r);
    bool wanted = !r->dropped;
    *request_id = r->request_id;
    if (!more)
        *r = (struct rpc_reply){0};
    return wanted ? conn : NULL;
}

static int send_rejected(struct rpc_conn *conn, uint64_t request_id)
{
    uint8_t *p = channel_room(conn->ch, FRAME_OVERHEAD);
    return p == NULL ? ERR_STALLED : channel_used(conn->ch, frame_put_rejected(p, request_id), -1);
}

/* Up to the last byte that a frame holds (R30). */
static bool fits_frame(const struct rpc_reply *r, bool has_more, size_t n)
{
    uint8_t head[FRAME_OVERHEAD];
    return n <= FRAME_MAX && frame_reply_head(head, r->request_id, has_more, n) + n <= FRAME_MAX;
}

static int refuse_size(struct rpc_reply *r, size_t n)
{
    log_warn_limited("a reply of %zu bytes was replaced by a rejection: a frame holds %u", n,
                     FRAME_MAX);
    rpc_reply_reject(r);
    return -EMSGSIZE;
}

int rpc_reply_send(struct rpc_reply *r, struct bytes_view msg, bool has_more, int fd)
{
    if (!rpc_reply_pending(r))
        return 0;
    if (!fits_frame(r, has_more, msg.n))
        return refuse_size(r, msg.n);
    uint64_t id = 0;
    struct rpc_conn *conn = answer_to(r, has_more, &id);
    if (conn == NULL)
        return 0;
    if (msg.n > COPY_MAX) {
        uint8_t head[FRAME_OVERHEAD];
        struct iovec iov[2] = {{head, frame_reply_head(head, id, has_more, msg.n)},
                               {(void *)(uintptr_t)msg.p, msg.n}};
        return channel_sendv(conn->ch, iov, 2, fd);
    }
    uint8_t *p = channel_room(conn->ch, FRAME_OVERHEAD + msg.n);
    if (p == NULL)
        return ERR_STALLED;
    size_t n = frame_reply_head(p, id, has_more, msg.n);
    if (msg.n != 0)
        memcpy(p + n, msg.p, msg.n);
    return channel_used(conn->ch, n + msg.n, fd);
}

int rpc_reply_sendv(struct rpc_reply *r, struct iovec *iov, int iovcnt, bool has_more)
{
    if (!rpc_reply_pending(r))
        return 0;
    size_t total = 0;
    for (int i = 1; i < iovcnt; i++)
        total += iov[i].iov_len;
    if (!fits_frame(r, has_more, total))
        return refuse_size(r, total);
    uint64_t id = 0;
    struct rpc_conn *conn = answer_to(r, has_more, &id);
    if (conn == NULL)
        return 0;
    uint8_t head[FRAME_OVERHEAD];
    iov[0] = (struct iovec){head, frame_reply_head(head, id, has_more, total)};
    int rc = channel_sendv(conn->ch, iov, iovcnt, -1);
    iov[0] = (struct iovec){NULL, 0};
    return rc;
}

void rpc_reply_reject(struct rpc_reply *r)
{
    uint64_t id = 0;
    struct rpc_conn *conn = answer_to(r, false, &id);
    if (conn != NULL)
        send_rejected(conn, id);
}

void rpc_reply_replace(struct rpc_reply *slot, struct rpc_reply *from)
{
    struct rpc_reply old = rpc_reply_move(slot);
    *slot = rpc_reply_move(from);
    rpc_reply_reject(&old);
}

/* ---- requests ---- */

/* Service of that id as this connection sees it, or NULL. */
static const struct exposed *visible(const struct rpc_conn *conn, uint32_t service_id)
{
    const struct rpc_host *host = conn->host;
    if (service_id == 0 || service_id > host->exposed_count)
        return NULL;
    const struct exposed *e = &host->exposed[service_id - 1];
    return e->mask == 0 || (e->mask & conn->tag) != 0 ? e : NULL;
}

static void send_bound(struct rpc_conn *conn, uint64_t request_id, uint32_t id,
                       const struct rpc_service *service)
{
    struct frame_method methods[RPC_METHODS_MAX] = {{0}};
    for (size_t i = 0; i < service->count; i++)
        methods[i] = (struct frame_method){(uint32_t)i + 1, bytes_str(service->methods[i].name)};
    uint8_t *p = channel_room(conn->ch, frame_bind_ok_room(methods, service->count));
    if (p != NULL)
        channel_used(conn->ch, frame_put_bind_ok(p, request_id, id, methods, service->count), -1);
}

/* Binding leaves no trace on the host (R45). */
static void on_bind(struct rpc_conn *conn, const struct frame *f)
{
    for (uint32_t id = 1; id <= conn->host->exposed_count; id++) {
        const struct exposed *e = visible(conn, id);
        if (e != NULL && bytes_equal(f->u.bind.service, bytes_str(e->service->name))) {
            send_bound(conn, f->request_id, id, e->service);
            return;
        }
    }
    uint8_t *p = channel_room(conn->ch, FRAME_OVERHEAD);
    if (p != NULL)
        channel_used(conn->ch, frame_put_bind_unknown(p, f->request_id), -1);
}

/* success=false alone, sent even when the client wanted no reply (R50). */
static void send_failed(struct rpc_conn *conn, uint64_t request_id)
{
    uint8_t *p = channel_room(conn->ch, FRAME_OVERHEAD);
    if (p != NULL)
        channel_used(conn->ch, frame_put_failed(p, request_id), -1);
}

static void on_invoke(struct rpc_conn *conn, const struct frame *f)
{
    const struct exposed *e = visible(conn, f->u.invoke.service_id);
    uint32_t method = f->u.invoke.method_id;
    if (e == NULL || method == 0 || method > e->service->count || e->handlers[method - 1] == NULL) {
        send_failed(conn, f->request_id);
        return;
    }
    struct rpc_call call = {
        .conn = conn,
        .method = method,
        .args = f->u.invoke.args,
        .reply = {.host = conn->host,
                  .conn = conn->id,
                  .request_id = f->request_id,
                  .dropped = f->u.invoke.drop_reply},
    };
    reactor_slice_is(conn->host->reactor, rpc_method_name(e->service, method));
    int rc = e->handlers[method - 1](e->arg, &call);
    if (rc > 0)
        log_debug("%s of connection %llu: %s", rpc_method_name(e->service, method),
                  (unsigned long long)conn->id, err_text(rc));
    else if (rc < 0)
        log_warn_limited("%s failed: %s", rpc_method_name(e->service, method), err_text(rc));
    if (!rpc_reply_pending(&call.reply))
        return;
    if (rc != 0 && !conn->over)
        send_failed(conn, f->request_id);
    else
        rpc_reply_reject(&call.reply);
}

static void on_identity(struct rpc_conn *conn, const struct frame *f)
{
    struct cred_identity id = {
        .pid = f->u.identity.pid,
        .uid = f->u.identity.uid,
        .hint = (const char *)f->u.identity.hint.p,
        .hint_len = f->u.identity.hint.n,
        .name = (const char *)f->u.identity.name.p,
        .name_len = f->u.identity.name.n,
    };
    cred_identify(&conn->cred, &id);
}

/* R37. */
static void on_unknown(struct rpc_conn *conn, const struct frame *f)
{
    static const char text[] = "unknown request";
    uint8_t *p = channel_room(conn->ch, FRAME_OVERHEAD + sizeof(text));
    if (p != NULL)
        channel_used(conn->ch, frame_put_error(p, f->request_id, bytes_str(text)), -1);
}

static void on_frame(void *arg, struct channel *ch, struct bytes_view payload)
{
    struct rpc_conn *conn = arg;
    struct frame f;
    (void)ch;
    if (frame_decode(&f, payload) != 0)
        return; /* R33 */
    switch (f.kind) {
    case FRAME_BIND:
        on_bind(conn, &f);
        break;
    case FRAME_INVOKE:
        on_invoke(conn, &f);
        break;
    case FRAME_IDENTITY:
        on_identity(conn, &f);
        break;
    case FRAME_NONE:
    case FRAME_BIND_REPLY:
    case FRAME_INVOKE_REPLY:
    case FRAME_ERROR:
        on_unknown(conn, &f);
        break;
    }
}

/* ---- the end of a connection ---- */

static void reap(void *arg)
{
    free(arg);
}

static void tell_left(void *arg)
{
    struct rpc_conn *conn = arg;
    struct rpc_host *host = conn->host;
    reactor_slice_is(host->reactor, "a connection left");
    for (uint32_t id = 1; id <= host->exposed_count; id++) {
        const struct exposed *e = visible(conn, id);
        if (e != NULL && e->ops != NULL && e->ops->left != NULL)
            e->ops->left(e->arg, conn);
    }
    if (host->conf.gone != NULL)
        host->conf.gone(host->conf.arg, conn);
    list_remove(&conn->node);
    reactor_reap_later(host->reactor, &conn->reap);
}

/* One line for what somebody should know about; a plain goodbye is not. */
static void log_end(const struct rpc_conn *conn, int reason)
{
    char who[128];
    cred_describe(&conn->cred, who, sizeof(who));
    if (reason == ERR_HANGUP)
        log_debug("%s connection of %s: %s", conn->host->conf.label, who, err_text(reason));
    else
        log_warn_limited("%s connection of %s closed: %s", conn->host->conf.label, who,
                         err_text(reason));
}

static void over(struct rpc_conn *conn, int reason)
{
    log_end(conn, reason);
    conn->over = true;
    idmap_del(&conn->host->conns, conn->id);
}

static void on_closed(void *arg, struct channel *ch, int reason)
{
    struct rpc_conn *conn = arg;
    (void)ch;
    over(conn, reason);
    tell_left(conn);
}

void rpc_conn_close(struct rpc_conn *conn, int reason)
{
    if (conn->over)
        return;
    over(conn, reason);
    channel_close(conn->ch);
    reactor_defer(conn->host->reactor, tell_left, conn);
}

static void on_drained(void *arg, struct channel *ch)
{
    struct rpc_conn *conn = arg;
    struct rpc_host *host = conn->host;
    (void)ch;
    for (uint32_t id = 1; id <= host->exposed_count && !conn->over; id++) {
        const struct exposed *e = visible(conn, id);
        if (e != NULL && e->ops != NULL && e->ops->drained != NULL)
            e->ops->drained(e->arg, conn);
    }
}

static const struct channel_ops conn_ops = {
    .frame = on_frame,
    .closed = on_closed,
    .drained = on_drained,
};

/* ---- host ---- */

struct rpc_host *rpc_host_new(struct reactor *reactor, const struct rpc_host_conf *conf)
{
    struct rpc_host *host = alloc_new(struct rpc_host);
    host->reactor = reactor;
    host->conf = *conf;
    if (host->conf.label == NULL)
        host->conf.label = "ipc";
    list_init(&host->list);
    idmap_init(&host->conns);
    host->next_id = 1;
    return host;
}

void rpc_host_free(struct rpc_host *host)
{
    if (host == NULL)
        return;
    while (!list_empty(&host->list)) {
        struct rpc_conn *conn = list_first(&host->list, struct rpc_conn, node);
        if (!conn->over) {
            over(conn, ERR_HANGUP);
            channel_close(conn->ch);
        }
        reactor_undefer(host->reactor, conn);
        tell_left(conn);
    }
    idmap_fini(&host->conns);
    free(host);
}

int rpc_host_expose(struct rpc_host *host, const struct rpc_service *service,
                    rpc_handler *const *handlers, const struct rpc_service_ops *ops,
                    void *service_arg, uint32_t mask)
{
    if (host->exposed_count == SERVICES_MAX || service->count > RPC_METHODS_MAX)
        return -ENOSPC;
    host->exposed[host->exposed_count++] = (struct exposed){
        .service = service, .handlers = handlers, .ops = ops, .arg = service_arg, .mask = mask};
    return (int)host->exposed_count;
}

/* Takes the connection's place in the host; the socket is not watched yet. */
static int enter(struct rpc_host *host, struct rpc_conn *conn, int fd, uint32_t tag, char *why,
                 size_t len)
{
    int rc = cred_take(&conn->cred, fd);
    if (rc != 0)
        return rc;
    conn->host = host;
    conn->tag = tag;
    conn->id = host->next_id++;
    reactor_hook_init(&conn->reap, "connection reap", reap, conn);
    if (host->conf.admit != NULL)
        rc = host->conf.admit(host->conf.arg, conn, why, len);
    return rc;
}

/* Last words on a socket that nobody serves: they may get lost, and must not wait. */
static void say_why(int fd, const char *why)
{
    uint8_t frame[FRAME_OVERHEAD + RPC_HOST_WHY_MAX];
    size_t n = frame_put_error(frame, 0, bytes_str(why));
    (void)send(fd, frame, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void refuse(const struct rpc_host *host, struct rpc_conn *conn, int fd, int rc,
                   const char *why)
{
    char who[128] = "a peer";
    if (conn != NULL && conn->host != NULL)
        cred_describe(&conn->cred, who, sizeof(who));
    log_warn_limited("%s connection of %s refused: %s", host->conf.label, who,
                     *why != '\0' ? why : err_text(rc));
    if (*why != '\0')
        say_why(fd, why);
    close(fd);
    free(conn);
}

int rpc_host_accept(struct rpc_host *host, int fd, uint32_t tag)
{
    char why[RPC_HOST_WHY_MAX] = "";
    struct rpc_conn *conn = alloc_try_array(1, sizeof(*conn));
    int rc = conn != NULL ? enter(host, conn, fd, tag, why, sizeof(why)) : -ENOMEM;
    if (rc != 0) {
        refuse(host, conn, fd, rc, why);
        return rc;
    }
    rc = idmap_put(&host->conns, conn->id, conn);
    if (rc == 0) {
        struct channel_conf cc = host->conf.channel;
        cc.want_fds = sockname_is_unix(conn->cred.family);
        cc.held = conn->held;
        rc = channel_new(&conn->ch, host->reactor, fd, &cc, &conn_ops, conn);
        if (rc != 0)
            idmap_del(&host->conns, conn->id);
    } else {
        close(fd);
    }
    if (rc != 0) {
        log_error("cannot serve a %s connection: %s", host->conf.label, err_text(rc));
        conn->over = true;
        if (host->conf.gone != NULL)
            host->conf.gone(host->conf.arg, conn);
        free(conn);
        return rc;
    }
    list_push_back(&host->list, &conn->node);
    return 0;
}

size_t rpc_host_count(const struct rpc_host *host)
{
    return idmap_count(&host->conns);
}

void rpc_host_each(struct rpc_host *host, void (*fn)(void *arg, struct rpc_conn *conn), void *arg)
{
    list_for_each_safe (pos, next, &host->list) {
        struct rpc_conn *conn = list_entry(pos, struct rpc_conn, node);
        if (!conn->over)
            fn(arg, conn);
    }
}

/* ---- connection ---- */

uint64_t rpc_conn_id(const struct rpc_conn *conn)
{
    return conn->id;
}

const struct cred *rpc_conn_cred(const struct rpc_conn *conn)
{
    return &conn->cred;
}

uint32_t rpc_conn_tag(const struct rpc_conn *conn)
{
    return conn->tag;
}

struct rpc_host *rpc_conn_host(const struct rpc_conn *conn)
{
    return conn->host;
}

void *rpc_conn_user(const struct rpc_conn *conn, uint32_t service_id)
{
    return service_id >= 1 && service_id <= SERVICES_MAX ? conn->user[service_id - 1] : NULL;
}

void rpc_conn_set_user(struct rpc_conn *conn, uint32_t service_id, void *user)
{
    if (service_id >= 1 && service_id <= SERVICES_MAX)
        conn->user[service_id - 1] = user;
}

void rpc_conn_set_held(struct rpc_conn *conn, struct charge *held)
{
    conn->held = held;
}

void *rpc_conn_host_user(const struct rpc_conn *conn)
{
    return conn->host_user;
}

void rpc_conn_set_host_user(struct rpc_conn *conn, void *user)
{
    conn->host_user = user;
}

int rpc_conn_take_fd(struct rpc_conn *conn)
{
    return conn->over ? -1 : channel_take_fd(conn->ch);
}

bool rpc_conn_has_fds(const struct rpc_conn *conn)
{
    return sockname_is_unix(conn->cred.family);
}

bool rpc_conn_is_full(const struct rpc_conn *conn)
{
    return !conn->over && channel_is_full(conn->ch);
}

size_t rpc_conn_waiting(const struct rpc_conn *conn)
{
    return conn->over ? 0 : channel_waiting(conn->ch);
}

void rpc_conn_pause(struct rpc_conn *conn)
{
    if (!conn->over)
        channel_pause(conn->ch);
}

void rpc_conn_resume(struct rpc_conn *conn)
{
    if (!conn->over)
        channel_resume(conn->ch);
}
