/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking side. A client owns its socket while it is being connected, then its channel, and the
 * requests it waits for; proxies are owned by whoever bound them and may outlive the client.
 *
 * Every request is one `struct pending`: in the client's list in order of issue, and by request id
 * in a map until its answer came. A completion runs from the loop and once: a request that cannot
 * be sent is put into the `doomed` list and rejected by a deferred call. Callbacks may free
 * anything, so clients and proxies die in two steps (marked, then reaped) and every loop over a
 * list starts anew after each callback.
 *
 * A client may connect again. Each loss ends an epoch; a proxy belongs to the epoch in which it was
 * bound, so what is bound for the next connection, even from a callback about the loss of the last
 * one, is not taken down with it.
 */

#include "ipc/rpc_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ipc/frame.h"
#include "ipc/sockname.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/idmap.h"
#include "reactor/list.h"
#include "reactor/log.h"
#include "reactor/reactor.h"
#include "reactor/str.h"
#include "reactor/watch.h"

#define COPY_MAX   8192u /* arguments up to this are queued, longer ones go to the kernel at once */
#define SPARES_MAX 64u   /* finished requests kept for reuse */

#define FAREWELL_MAX 200u /* of a host that hangs up */

enum client_state {
    CLIENT_IDLE,       /* not connected */
    CLIENT_WAITING,    /* for the next attempt */
    CLIENT_CONNECTING, /* handshake under way */
    CLIENT_CONNECTED,
};

enum proxy_state {
    PROXY_UNSENT,  /* no connection yet */
    PROXY_BINDING, /* bind sent */
    PROXY_BOUND,
    PROXY_DEAD, /* `disconnected` was or is being called */
};

struct rpc_client {
    struct reactor *reactor;          /* borrow */
    const struct rpc_client_ops *ops; /* borrow */
    void *arg;                        /* borrow */
    struct rpc_client_conf conf;
    struct redial_policy policy;
    enum client_state state;
    struct sockname name;
    struct redial *redial;   /* own; NULL without retry */
    struct watch connecting; /* on fd */
    int fd;                  /* own while connecting, else -1 */
    struct channel *ch;      /* own while connected */
    struct list proxies;     /* borrow: of rpc_proxy, in order of binding */
    struct list requests;    /* own: of pending, in order of issue */
    struct list doomed;      /* own: of pending, to be rejected */
    struct list spares;      /* own: of pending */
    struct idmap by_id;      /* request id -> borrow */
    struct reactor_hook reap;
    size_t spare_count;
    uint64_t next_id;
    uint64_t epoch; /* connections lost so far */
    char farewell[FAREWELL_MAX];
    bool dead; /* freed, waits for the reap */
};

struct rpc_proxy {
    struct list node;
    struct rpc_client *client;         /* borrow; NULL when the client was freed */
    const struct rpc_service *service; /* borrow */
    const struct rpc_proxy_ops *ops;   /* borrow */
    void *arg;                         /* borrow */
    struct reactor *reactor;           /* borrow */
    struct reactor_hook reap;
    enum proxy_state state;
    uint64_t epoch; /* of the client when bound */
    uint32_t service_id;
    bool dead;                           /* freed, waits for the reap */
    uint32_t remote_id[RPC_METHODS_MAX]; /* by our method id - 1; 0: the host has none (R46) */
};

struct pending {
    struct list node;
    uint64_t id;
    struct rpc_proxy *proxy; /* borrow */
    rpc_result_fn *fn;       /* NULL: a bind */
    void *arg;               /* borrow */
};

static void reject_doomed(void *arg);

/* ---- requests ---- */

static struct pending *pending_add(struct rpc_client *c, struct list *where, uint64_t id,
                                   struct rpc_proxy *proxy, rpc_result_fn *fn, void *arg)
{
    struct list *spare = list_pop_front(&c->spares);
    struct pending *p;
    if (spare != NULL) {
        c->spare_count--;
        p = list_entry(spare, struct pending, node);
    } else {
        p = alloc_new(struct pending);
    }
    p->id = id;
    p->proxy = proxy;
    p->fn = fn;
    p->arg = arg;
    list_push_back(where, &p->node);
    return p;
}

static void pending_drop(struct rpc_client *c, struct pending *p)
{
    if (idmap_get(&c->by_id, p->id) == p)
        idmap_del(&c->by_id, p->id);
    list_remove(&p->node);
    if (c->spare_count == SPARES_MAX) {
        free(p);
        return;
    }
    list_push_back(&c->spares, &p->node);
    c->spare_count++;
}

/* Completes a request with "rejected" and drops it. */
static void pending_reject(struct rpc_client *c, struct pending *p)
{
    rpc_result_fn *fn = p->fn;
    void *arg = p->arg;
    struct rpc_proxy *proxy = p->proxy;
    pending_drop(c, p);
    if (fn != NULL)
        fn(arg, proxy, &(struct rpc_result){0});
}

/* First request of a proxy in a list, or of anybody (NULL). */
static struct pending *pending_of(struct list *list, const struct rpc_proxy *proxy)
{
    list_for_each (pos, list) {
        struct pending *p = list_entry(pos, struct pending, node);
        if (proxy == NULL || p->proxy == proxy)
            return p;
    }
    return NULL;
}

static void reject_all(struct rpc_client *c, struct list *list, const struct rpc_proxy *proxy)
{
    struct pending *p;
    while ((p = pending_of(list, proxy)) != NULL)
        pending_reject(c, p);
}

static void reject_doomed(void *arg)
{
    struct rpc_client *c = arg;
    /* Only those that wait now: a callback that tries again waits for the next tick. */
    size_t n = list_count(&c->doomed);
    for (; n != 0 && !c->dead && !list_empty(&c->doomed); n--)
        pending_reject(c, list_first(&c->doomed, struct pending, node));
    if (!c->dead && !list_empty(&c->doomed))
        reactor_defer(c->reactor, reject_doomed, c);
}

static void doom(struct rpc_client *c, struct rpc_proxy *proxy, rpc_result_fn *fn, void *arg)
{
    if (fn == NULL)
        return;
    if (list_empty(&c->doomed))
        reactor_defer(c->reactor, reject_doomed, c);
    pending_add(c, &c->doomed, 0, proxy, fn, arg);
}

/* ---- proxies ---- */

static void proxy_reap(void *arg)
{
    free(arg);
}

static void proxy_disconnected(struct rpc_proxy *proxy)
{
    proxy->state = PROXY_DEAD;
    if (!proxy->dead && proxy->ops->disconnected != NULL)
        proxy->ops->disconnected(proxy->arg, proxy);
}

/* A proxy of a past epoch that was not told yet, or NULL. */
static struct rpc_proxy *lost_proxy(struct rpc_client *c)
{
    list_for_each (pos, &c->proxies) {
        struct rpc_proxy *proxy = list_entry(pos, struct rpc_proxy, node);
        if (proxy->state != PROXY_DEAD && proxy->epoch != c->epoch)
            return proxy;
    }
    return NULL;
}

static struct pending *lost_request(struct rpc_client *c)
{
    list_for_each (pos, &c->requests) {
        struct pending *p = list_entry(pos, struct pending, node);
        if (p->proxy->epoch != c->epoch)
            return p;
    }
    return NULL;
}

/* Everything that hung on past connections ends: requests first, then proxies (R83, R111). The
 * epoch was counted up before. */
static void lose_past(struct rpc_client *c)
{
    struct pending *p;
    struct rpc_proxy *proxy;
    while ((p = lost_request(c)) != NULL)
        pending_reject(c, p);
    while ((proxy = lost_proxy(c)) != NULL)
        proxy_disconnected(proxy);
}

/* The connection is lost, or will never be; from the loop. */
static void lost(struct rpc_client *c, int reason)
{
    c->state = CLIENT_IDLE;
    c->epoch++;
    lose_past(c);
    if (!c->dead && c->ops->disconnected != NULL)
        c->ops->disconnected(c->arg, c, reason);
}

static void send_bind(struct rpc_client *c, struct rpc_proxy *proxy)
{
    uint64_t id = c->next_id++;
    struct bytes_view name = bytes_str(proxy->service->name);
    struct pending *p = pending_add(c, &c->requests, id, proxy, NULL, NULL);
    proxy->state = PROXY_BINDING;
    uint8_t *buf = channel_room(c->ch, frame_room(name.n));
    if (buf == NULL || idmap_put(&c->by_id, id, p) != 0)
        return; /* the connection is being lost, and the proxy with it */
    channel_used(c->ch, frame_put_bind(buf, id, name), -1);
}

struct rpc_proxy *rpc_client_bind(struct rpc_client *c, const struct rpc_service *service,
                                  const struct rpc_proxy_ops *ops, void *arg)
{
    struct rpc_proxy *proxy = alloc_new(struct rpc_proxy);
    proxy->client = c;
    proxy->reactor = c->reactor;
    proxy->service = service;
    proxy->ops = ops;
    proxy->arg = arg;
    proxy->epoch = c->epoch;
    reactor_hook_init(&proxy->reap, "proxy reap", proxy_reap, proxy);
    list_push_back(&c->proxies, &proxy->node);
    if (c->state == CLIENT_CONNECTED)
        send_bind(c, proxy);
    return proxy;
}

void rpc_proxy_free(struct rpc_proxy *proxy)
{
    if (proxy == NULL || proxy->dead)
        return;
    proxy->dead = true;
    proxy->state = PROXY_DEAD;
    if (proxy->client != NULL) {
        reject_all(proxy->client, &proxy->client->requests, proxy);
        if (proxy->client != NULL)
            reject_all(proxy->client, &proxy->client->doomed, proxy);
    }
    list_remove(&proxy->node);
    reactor_reap_later(proxy->reactor, &proxy->reap);
}

bool rpc_proxy_is_bound(const struct rpc_proxy *proxy)
{
    return proxy->state == PROXY_BOUND && proxy->client != NULL &&
           proxy->epoch == proxy->client->epoch;
}

bool rpc_proxy_has(const struct rpc_proxy *proxy, uint32_t method)
{
    return rpc_proxy_is_bound(proxy) && method >= 1 && method <= proxy->service->count &&
           proxy->remote_id[method - 1] != 0;
}

struct rpc_client *rpc_proxy_client(const struct rpc_proxy *proxy)
{
    return proxy->client;
}

bool rpc_proxy_forget(struct rpc_proxy *proxy, uint64_t request_id)
{
    if (proxy->client == NULL || request_id == 0)
        return false;
    list_for_each (pos, &proxy->client->requests) {
        struct pending *p = list_entry(pos, struct pending, node);
        if (p->id == request_id && p->proxy == proxy && p->fn != NULL) {
            pending_drop(proxy->client, p);
            return true;
        }
    }
    return false;
}

/* ---- invoking ---- */

static int send_invoke(struct rpc_client *c, const struct rpc_proxy *proxy, uint64_t id,
                       uint32_t method, struct bytes_view args, int fd, bool drop)
{
    uint8_t tail[FRAME_OVERHEAD];
    size_t tail_len = 0;
    uint32_t remote = proxy->remote_id[method - 1];
    if (args.n > COPY_MAX) {
        uint8_t head[FRAME_OVERHEAD];
        size_t n =
            frame_invoke_head(head, id, proxy->service_id, remote, args.n, drop, tail, &tail_len);
        struct iovec iov[3] = {{head, n}, {(void *)(uintptr_t)args.p, args.n}, {tail, tail_len}};
        return channel_sendv(c->ch, iov, 3, fd);
    }
    uint8_t *buf = channel_room(c->ch, FRAME_OVERHEAD + args.n);
    if (buf == NULL)
        return ERR_HANGUP;
    size_t n = frame_invoke_head(buf, id, proxy->service_id, remote, args.n, drop, tail, &tail_len);
    if (args.n != 0)
        memcpy(buf + n, args.p, args.n);
    n += args.n;
    memcpy(buf + n, tail, tail_len);
    return channel_used(c->ch, n + tail_len, fd);
}

/* Up to the last byte that a frame holds: a config may be as large as the wire allows (R30). */
static bool fits_frame(const struct rpc_client *c, const struct rpc_proxy *proxy, uint32_t method,
                       size_t len, bool drop)
{
    uint8_t head[FRAME_OVERHEAD], tail[FRAME_OVERHEAD];
    size_t tail_len = 0;

    if (len > FRAME_MAX)
        return false;
    size_t head_len = frame_invoke_head(head, c->next_id, proxy->service_id,
                                        proxy->remote_id[method - 1], len, drop, tail, &tail_len);
    return head_len + len + tail_len <= FRAME_MAX;
}

uint64_t rpc_proxy_invoke(struct rpc_proxy *proxy, uint32_t method, struct bytes_view args, int fd,
                          rpc_result_fn *fn, void *arg)
{
    struct rpc_client *c = proxy->client;
    if (c == NULL || proxy->dead)
        return 0;
    if (!rpc_proxy_has(proxy, method) || !fits_frame(c, proxy, method, args.n, fn == NULL)) {
        doom(c, proxy, fn, arg);
        return 0;
    }
    uint64_t id = c->next_id++;
    int rc = 0;
    if (fn != NULL) {
        struct pending *p = pending_add(c, &c->requests, id, proxy, fn, arg);
        rc = idmap_put(&c->by_id, id, p);
        if (rc != 0) {
            pending_drop(c, p);
            doom(c, proxy, fn, arg);
            return 0;
        }
    }
    rc = send_invoke(c, proxy, id, method, args, fd, fn == NULL);
    /* On failure the connection is being lost; the loss rejects what is pending. */
    return rc == 0 ? id : 0;
}

/* ---- answers ---- */

static bool service_taken(const struct rpc_client *c, const struct rpc_proxy *but, uint32_t id)
{
    list_for_each (pos, &c->proxies) {
        const struct rpc_proxy *proxy = list_entry(pos, struct rpc_proxy, node);
        if (proxy != but && proxy->state == PROXY_BOUND && proxy->service_id == id)
            return true;
    }
    return false;
}

static void on_bind_reply(struct rpc_client *c, struct pending *p, const struct frame *f)
{
    struct rpc_proxy *proxy = p->proxy;
    pending_drop(c, p);
    if (!f->u.bind_reply.success || service_taken(c, proxy, f->u.bind_reply.service_id)) {
        proxy_disconnected(proxy); /* R43, R47 */
        return;
    }
    struct bytes_cur cur = bytes_cur(f->u.bind_reply.methods);
    struct frame_method m;
    while (frame_next_method(&cur, &m)) {
        uint32_t id = rpc_method_id(proxy->service, (const char *)m.name.p, m.name.n);
        if (id != 0)
            proxy->remote_id[id - 1] = m.id;
    }
    proxy->service_id = f->u.bind_reply.service_id;
    proxy->state = PROXY_BOUND;
    if (proxy->ops->connected != NULL)
        proxy->ops->connected(proxy->arg, proxy);
}

static void on_invoke_reply(struct rpc_client *c, struct pending *p, const struct frame *f)
{
    if (!f->u.invoke_reply.success) {
        pending_reject(c, p);
        return;
    }
    struct rpc_result result = {
        .success = true,
        .has_more = f->u.invoke_reply.has_more,
        .msg = f->u.invoke_reply.reply,
    };
    rpc_result_fn *fn = p->fn;
    void *arg = p->arg;
    struct rpc_proxy *proxy = p->proxy;
    if (!result.has_more)
        pending_drop(c, p); /* R57 */
    fn(arg, proxy, &result);
}

/* No request has id 0: an error with it is about the connection. */
static void on_refusal(struct rpc_client *c, struct bytes_view text)
{
    size_t n = text.n < sizeof(c->farewell) - 1 ? text.n : sizeof(c->farewell) - 1;
    for (size_t i = 0; i < n; i++)
        c->farewell[i] = text.p[i] >= ' ' && text.p[i] < 0x7F ? (char)text.p[i] : '?';
    c->farewell[n] = '\0';
}

const char *rpc_client_farewell(const struct rpc_client *c)
{
    return c->farewell[0] != '\0' ? c->farewell : NULL;
}

static void on_frame(void *arg, struct channel *ch, struct bytes_view payload)
{
    struct rpc_client *c = arg;
    struct frame f;
    (void)ch;
    if (frame_decode(&f, payload) != 0)
        return; /* R33 */
    if (f.kind == FRAME_ERROR && f.request_id == 0) {
        on_refusal(c, f.u.error.text);
        return;
    }
    struct pending *p = idmap_get(&c->by_id, f.request_id);
    if (p == NULL)
        return; /* R38 */
    if (f.kind == FRAME_BIND_REPLY && p->fn == NULL)
        on_bind_reply(c, p, &f);
    else if (f.kind == FRAME_INVOKE_REPLY && p->fn != NULL)
        on_invoke_reply(c, p, &f);
    else
        idmap_del(&c->by_id, p->id); /* forgotten until the connection closes (R38) */
}

/* ---- connecting ---- */

static void on_closed(void *arg, struct channel *ch, int reason)
{
    struct rpc_client *c = arg;
    (void)ch;
    c->ch = NULL;
    lost(c, reason);
}

static void on_drained(void *arg, struct channel *ch)
{
    struct rpc_client *c = arg;
    (void)ch;
    if (c->ops->drained != NULL)
        c->ops->drained(c->arg, c);
}

static const struct channel_ops client_ops = {
    .frame = on_frame,
    .closed = on_closed,
    .drained = on_drained,
};

/* Takes a connected socket, tells the owner, and sends the binds that waited. 0 or -errno. */
static int established(struct rpc_client *c, int fd)
{
    struct sockname local;
    struct channel_conf cc = c->conf.channel;
    if (cc.stuck_ns == 0)
        cc.stuck_ns = UINT64_MAX; /* R23 */
    cc.want_fds = sockname_of_fd(&local, fd) == 0 && sockname_is_unix(local.family);
    int rc = channel_new(&c->ch, c->reactor, fd, &cc, &client_ops, c);
    if (rc != 0)
        return rc;
    c->state = CLIENT_CONNECTED;
    c->farewell[0] = '\0';
    if (c->redial != NULL)
        redial_done(c->redial, false);
    if (c->ops->connected != NULL)
        c->ops->connected(c->arg, c);
    list_for_each (pos, &c->proxies) {
        struct rpc_proxy *proxy = list_entry(pos, struct rpc_proxy, node);
        if (c->ch == NULL)
            break;
        if (proxy->state == PROXY_UNSENT && proxy->epoch == c->epoch)
            send_bind(c, proxy);
    }
    return 0;
}

/* An attempt failed, as seen from the loop. */
static void attempt_failed(struct rpc_client *c, int rc)
{
    log_debug("connect to %s: %s", c->name.text, err_text(rc));
    if (c->redial != NULL) {
        c->state = CLIENT_WAITING;
        redial_failed(c->redial);
        return;
    }
    lost(c, rc);
}

static void on_connecting(void *arg, unsigned event)
{
    struct rpc_client *c = arg;
    (void)event;
    if (c->state != CLIENT_CONNECTING)
        return;
    int fd = c->fd;
    int rc = sockname_connect_result(fd);
    watch_fini(&c->connecting);
    c->fd = -1;
    if (rc != 0)
        close(fd);
    else
        rc = established(c, fd);
    if (rc != 0)
        attempt_failed(c, rc);
}

/* Waits for the socket to be writable, also when it is connected already: completions come from the
 * loop. Owns fd, also on failure. */
static int await(struct rpc_client *c, int fd)
{
    watch_init(&c->connecting, c->reactor, "connect", fd, on_connecting, c);
    int rc = watch_set(&c->connecting, WATCH_WRITE);
    if (rc != 0) {
        watch_fini(&c->connecting);
        close(fd);
        return rc;
    }
    c->fd = fd;
    c->state = CLIENT_CONNECTING;
    return 0;
}

/* One attempt. 0: under way. */
static int try_connect(struct rpc_client *c, char *err, size_t errlen)
{
    bool pending = false;
    int fd = sockname_connect(&c->name, &pending, err, errlen);
    return fd < 0 ? fd : await(c, fd);
}

static void dial(struct rpc_client *c)
{
    int rc = try_connect(c, NULL, 0);
    if (rc != 0)
        attempt_failed(c, rc);
}

static void on_redial(void *arg)
{
    struct rpc_client *c = arg;
    if (!c->dead)
        dial(c);
}

static void lose_past_later(void *arg)
{
    lose_past(arg);
}

int rpc_client_connect(struct rpc_client *c, const char *address, char *err, size_t errlen)
{
    if (c->state != CLIENT_IDLE)
        return -EISCONN;
    int rc = sockname_parse(&c->name, address, err, errlen);
    bool parsed = rc == 0;
    if (parsed && c->conf.retry != NULL) {
        redial_free(c->redial);
        c->redial = redial_new(c->reactor, address, &c->policy, on_redial, c);
    }
    if (parsed)
        rc = try_connect(c, err, errlen);
    if (rc == 0)
        return 0;
    if (parsed && c->redial != NULL) {
        attempt_failed(c, rc);
        return 0;
    }
    /* Proxies that waited for this connection learn it from the loop. */
    c->epoch++;
    reactor_defer(c->reactor, lose_past_later, c);
    return rc;
}

int rpc_client_adopt(struct rpc_client *c, int fd)
{
    if (c->state != CLIENT_IDLE) {
        close(fd);
        return -EISCONN;
    }
    return await(c, fd);
}

/* ---- life ---- */

struct rpc_client *rpc_client_new(struct reactor *reactor, const struct rpc_client_conf *conf,
                                  const struct rpc_client_ops *ops, void *arg)
{
    static const struct rpc_client_ops no_ops;
    struct rpc_client *c = alloc_new(struct rpc_client);
    c->reactor = reactor;
    c->ops = ops != NULL ? ops : &no_ops;
    c->arg = arg;
    if (conf != NULL)
        c->conf = *conf;
    if (c->conf.retry != NULL)
        c->policy = *c->conf.retry;
    c->fd = -1;
    c->next_id = 1; /* R39 */
    list_init(&c->proxies);
    list_init(&c->requests);
    list_init(&c->doomed);
    list_init(&c->spares);
    idmap_init(&c->by_id);
    return c;
}

static void client_reap(void *arg)
{
    struct rpc_client *c = arg;
    struct list *node;
    while ((node = list_pop_front(&c->spares)) != NULL)
        free(list_entry(node, struct pending, node));
    idmap_fini(&c->by_id);
    free(c);
}

/* Ends attempts and connection without telling anybody. */
static void hang_up(struct rpc_client *c)
{
    if (c->state == CLIENT_CONNECTING) {
        watch_fini(&c->connecting);
        close(c->fd);
        c->fd = -1;
    }
    if (c->redial != NULL)
        redial_done(c->redial, false);
    if (c->ch != NULL)
        channel_close(c->ch);
    c->ch = NULL;
    c->state = CLIENT_IDLE;
}

void rpc_client_free(struct rpc_client *c)
{
    if (c == NULL || c->dead)
        return;
    c->dead = true;
    hang_up(c);
    redial_free(c->redial);
    c->redial = NULL;
    reactor_undefer(c->reactor, c);
    c->epoch++;
    lose_past(c);
    reject_all(c, &c->doomed, NULL);
    struct list *node;
    while ((node = list_pop_front(&c->proxies)) != NULL)
        list_entry(node, struct rpc_proxy, node)->client = NULL;
    reactor_hook_init(&c->reap, "client reap", client_reap, c);
    reactor_reap_later(c->reactor, &c->reap);
}

static void closed_later(void *arg)
{
    struct rpc_client *c = arg;
    lose_past(c);
    if (!c->dead && c->ops->disconnected != NULL)
        c->ops->disconnected(c->arg, c, ERR_HANGUP);
}

void rpc_client_close(struct rpc_client *c)
{
    if (c->dead || c->state == CLIENT_IDLE)
        return;
    hang_up(c);
    c->epoch++;
    reactor_defer(c->reactor, closed_later, c);
}

bool rpc_client_is_connected(const struct rpc_client *c)
{
    return c->state == CLIENT_CONNECTED;
}

int rpc_client_send_identity(struct rpc_client *c, int32_t pid, int32_t uid, struct bytes_view hint,
                             struct bytes_view name)
{
    if (c->ch == NULL)
        return -ENOTCONN;
    uint8_t *p = channel_room(c->ch, frame_room(hint.n + name.n));
    if (p == NULL)
        return ERR_HANGUP;
    return channel_used(c->ch, frame_put_identity(p, pid, uid, hint, name), -1);
}

int rpc_client_take_fd(struct rpc_client *c)
{
    return c->ch != NULL ? channel_take_fd(c->ch) : -1;
}

int rpc_client_fd(const struct rpc_client *c)
{
    return c->ch != NULL ? channel_fd(c->ch) : -1;
}

bool rpc_client_is_full(const struct rpc_client *c)
{
    return c->ch != NULL && channel_is_full(c->ch);
}

size_t rpc_client_waiting(const struct rpc_client *c)
{
    return c->ch != NULL ? channel_waiting(c->ch) : 0;
}

void rpc_client_flush(struct rpc_client *c)
{
    if (c->ch != NULL)
        channel_flush(c->ch);
}
