/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The producer's connection: dial, bind, InitializeConnection, GetAsyncCommand, and again when it
 * is lost.
 *
 *     IDLE -> socket connected -> CONNECTING -> InitializeConnection answered -> CONNECTED
 *       ^------------------------- lost, refused or faulty ----------------------------+
 *
 * Everything that belongs to one connection (proxy, memory, instances) is undone in one place,
 * on_disconnected(), whatever the reason was. What belongs to the link (data source types, requests
 * that wait for a connection) stays and is sent again.
 *
 * Must never: block, end because there is no service, or spin against a service that hangs up on
 * us.
 */
#include "client/prodlink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/prodcmd.h"
#include "client/prodlink_priv.h"
#include "ipc/frame.h"
#include "ipc/sockname.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "smb/abi.h"

/* A connection that did not last this long was a bad one: the next attempt waits. */
#define YOUNG_NS CHRONO_SEC

/* The service may be stopped for a while (a debugger, a suspended machine): we wait for it (R23).
 * What we queue meanwhile is bounded by our memory: the arbiter sends nothing while the queue is
 * high. */
#define STUCK_NS (3600 * CHRONO_SEC)
#define OUT_CAP  (64u << 20)

/* Bounds for what waits for a connection. */
#define WAITING_MAX 4096u

struct prodlink_sync {
    struct list node;
    void (*cb)(void *ctx, bool ok);
    void *ctx;
};

struct prodlink_trigger {
    struct list node;
    uint64_t expires; /* ns */
    uint8_t *args;    /* own: encoded ActivateTriggersRequest */
    size_t len;
};

static void enter(struct prodlink *link, enum prodlink_state state)
{
    static const char *const names[] = {"idle", "connecting", "connected"};
    if (link->state == state)
        return;
    log_debug("producer %s: %s -> %s", link->producer_name, names[link->state], names[state]);
    link->state = state;
    if (link->cfg.on_state)
        link->cfg.on_state(link->cfg.ctx, state);
}

/* ---- calls ---- */

void prodlink_call(struct prodlink *link, uint32_t method, struct bytes_view args, int fd,
                   rpc_result_fn *fn, void *arg)
{
    if (link->proxy) {
        rpc_proxy_invoke(link->proxy, method, args, fd, fn, arg);
        return;
    }
    const struct rpc_result rejected = {.success = false};
    if (fn)
        fn(arg, NULL, &rejected);
}

void prodlink_call_id(struct prodlink *link, uint32_t method, uint64_t id)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, 1, id);
    prodlink_call(link, method, bytesbuf_view(&b), -1, NULL, NULL);
    bytesbuf_fini(&b);
}

void prodlink_ignore_result(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result)
{
    (void)arg;
    (void)proxy;
    (void)result;
}

void prodlink_fault(struct prodlink *link, const char *what)
{
    log_warn("producer %s: the service broke the protocol (%s); connecting anew",
             link->producer_name, what);
    rpc_client_close(link->client);
}

/* ---- what waited for the connection ---- */

static void on_sync(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result)
{
    struct prodlink_sync *sync = arg;
    /* Services that do not know the method reject it while connected: as good as done (R97). */
    bool ok = result->success || (proxy && rpc_proxy_is_bound(proxy));
    sync->cb(sync->ctx, ok);
    free(sync);
}

static void send_syncs(struct prodlink *link)
{
    struct list *node;
    while ((node = list_pop_front(&link->syncs)))
        prodlink_call(link, PORT_PRODUCER_SYNC, bytes_view(NULL, 0), -1, on_sync,
                      list_entry(node, struct prodlink_sync, node));
}

static void send_triggers(struct prodlink *link)
{
    struct list *node;
    while ((node = list_pop_front(&link->triggers))) {
        struct prodlink_trigger *t = list_entry(node, struct prodlink_trigger, node);
        if (link->proxy && t->expires >= chrono_mono_ns())
            prodlink_call(link, PORT_PRODUCER_ACTIVATE_TRIGGERS, bytes_view(t->args, t->len), -1,
                          NULL, NULL);
        free(t->args);
        free(t);
    }
}

int prodlink_sync(struct prodlink *link, void (*cb)(void *ctx, bool ok), void *ctx)
{
    if (list_count(&link->syncs) >= WAITING_MAX)
        return -ENOBUFS;
    struct prodlink_sync *sync = alloc_new(struct prodlink_sync);
    *sync = (struct prodlink_sync){.cb = cb, .ctx = ctx};
    list_push_back(&link->syncs, &sync->node);
    if (link->proxy && rpc_proxy_is_bound(link->proxy))
        send_syncs(link);
    return 0;
}

int prodlink_activate_triggers(struct prodlink *link, const char *const *names, size_t count,
                               uint32_t ttl_ms)
{
    struct bytesbuf b;
    if (list_count(&link->triggers) >= WAITING_MAX)
        return -ENOBUFS;
    bytesbuf_init(&b, FRAME_BLOB_MAX);
    for (size_t i = 0; i < count; i++)
        bytesbuf_pb_str(&b, 1, names[i]);
    if (b.failed) {
        bytesbuf_fini(&b);
        return -EMSGSIZE;
    }
    struct prodlink_trigger *t = alloc_new(struct prodlink_trigger);
    list_init(&t->node);
    t->expires = chrono_mono_ns() + ttl_ms * CHRONO_MS;
    t->args = bytesbuf_take(&b, &t->len);
    list_push_back(&link->triggers, &t->node);
    if (link->state == PRODLINK_CONNECTED)
        send_triggers(link);
    return 0;
}

/* ---- connecting ---- */

static void on_command(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result)
{
    struct prodlink *link = arg;
    if (link->proxy != proxy)
        return;
    if (result->success)
        prodcmd_handle(link, result->msg);
    if (!result->has_more && rpc_proxy_is_bound(proxy))
        prodlink_fault(link, "GetAsyncCommand ended");
}

static bool flag(struct bytes_view msg, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(msg, field, BYTES_VARINT, &f) && f.num != 0;
}

/* InitializeConnectionResponse {1 using ours, 2 direct patching, 3 emulation}. */
static void on_initialized(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result)
{
    struct prodlink *link = arg;
    if (link->proxy != proxy || !rpc_proxy_is_bound(proxy))
        return;
    if (!result->success) {
        log_warn("producer %s: the service refused the connection", link->producer_name);
        rpc_client_close(link->client);
        return;
    }
    link->adopted = link->offered && flag(result->msg, 1);
    link->direct_patching = link->cfg.direct_patching && flag(result->msg, 2);
    link->emulated = flag(result->msg, 3);
    if (link->offered && !link->adopted) {
        log_info("producer %s: the service does not take our memory; using its own",
                 link->producer_name);
        link->offer = false;
        rpc_client_close(link->client); /* R88 */
        return;
    }
    link->connected_at = chrono_mono_ns();
    link->told = false;
    if (link->redial)
        redial_done(link->redial, true);
    datasource_announce_all(link);
    send_triggers(link);
    enter(link, PRODLINK_CONNECTED);
}

/* Memory to offer, made once and kept for the next attempt. False: go without. */
static bool make_offer(struct prodlink *link)
{
    struct shmem *shm = &link->memory.offered;
    if (!link->offer)
        return false;
    shmem_fini(shm); /* never the one that another service has seen */
    int err = shmem_create(shm, link->cfg.shm_size_hint, link->cfg.shm_page_hint);
    if (err)
        log_warn("producer %s: no memory of our own (%s); asking the service for it",
                 link->producer_name, err_text(err));
    return err == 0;
}

/* R84: all of this without waiting. */
static void on_bound(void *arg, struct rpc_proxy *proxy)
{
    struct prodlink *link = arg;
    struct bytesbuf b;
    (void)proxy;
    link->offered = make_offer(link);
    bytesbuf_init(&b, FRAME_BLOB_MAX);
    bytesbuf_pb_varint(&b, 1, link->cfg.shm_page_hint);
    bytesbuf_pb_varint(&b, 2, link->cfg.shm_size_hint);
    bytesbuf_pb_str(&b, 3, link->producer_name);
    if (link->cfg.scraping != PRODLINK_SCRAPING_DEFAULT)
        bytesbuf_pb_varint(&b, 4, link->cfg.scraping);
    if (link->offered)
        bytesbuf_pb_varint(&b, 6, 1);
    bytesbuf_pb_str(&b, 8, "perfetto-c " PACKAGE_VERSION);
    prodlink_call(link, PORT_PRODUCER_INITIALIZE_CONNECTION, bytesbuf_view(&b),
                  link->offered ? link->memory.offered.fd : -1, on_initialized, link);
    bytesbuf_fini(&b);
    prodlink_call(link, PORT_PRODUCER_GET_ASYNC_COMMAND, bytes_view(NULL, 0), -1, on_command, link);
    send_syncs(link);
}

/* The bind failed, or the end of the connection is about to be told by on_disconnected(). */
static void on_unbound(void *arg, struct rpc_proxy *proxy)
{
    struct prodlink *link = arg;
    (void)proxy;
    if (rpc_client_is_connected(link->client))
        rpc_client_close(link->client);
}

static const struct rpc_proxy_ops proxy_ops = {
    .connected = on_bound,
    .disconnected = on_unbound,
};

static void on_connected(void *arg, struct rpc_client *client)
{
    struct prodlink *link = arg;
    enter(link, PRODLINK_CONNECTING);
    link->proxy = rpc_client_bind(client, &port_producer, &proxy_ops, link);
}

static const char *address(const struct prodlink *link)
{
    return link->socket_name ? link->socket_name : sockname_producer();
}

static void no_connection(struct prodlink *link, const char *why)
{
    if (!link->told) {
        log_info("producer %s: %s", link->producer_name, why);
        link->told = true;
    }
    if (link->redial)
        redial_failed(link->redial);
}

static void attempt(void *arg)
{
    struct prodlink *link = arg;
    char why[SOCKNAME_ERR_MAX] = "";
    int err = rpc_client_connect(link->client, address(link), why, sizeof(why));
    if (err == 0 || err == -EISCONN)
        return;
    if (err == -EINVAL || err == -ENAMETOOLONG) {
        log_error("producer %s: %s", link->producer_name, why); /* no retry will help */
        return;
    }
    no_connection(link, why);
}

/* The one place where a connection ends. */
static void on_disconnected(void *arg, struct rpc_client *client, int reason)
{
    struct prodlink *link = arg;
    enum prodlink_state was = link->state;
    prodsmb_disconnect(&link->memory);
    ds_inst_disconnect_all(link);
    rpc_proxy_free(link->proxy);
    link->proxy = NULL;
    link->adopted = link->emulated = link->direct_patching = false;
    bool lived = was == PRODLINK_CONNECTED && chrono_mono_ns() - link->connected_at >= YOUNG_NS;
    link->losses = lived ? 0 : link->losses + 1;
    enter(link, PRODLINK_IDLE);
    if (link->offered && !link->offer)
        link->losses = 0; /* our own wish to start over */
    link->offered = false;
    if (!link->redial)
        return;
    if (link->losses <= 1 && was != PRODLINK_IDLE) {
        reactor_defer(link->reactor, attempt, link);
        return;
    }
    char why[SOCKNAME_ERR_MAX + 200];
    const char *said = rpc_client_farewell(client);
    if (said)
        snprintf(why, sizeof(why), "not let in by the tracing service at %s: %s", address(link),
                 said);
    else
        snprintf(why, sizeof(why), "no tracing service at %s (%s); waiting for it", address(link),
                 err_text(reason));
    no_connection(link, why);
}

/* Output has room again. */
static void on_drained(void *arg, struct rpc_client *client)
{
    struct prodlink *link = arg;
    (void)client;
    prodsmb_drained(&link->memory);
}

static const struct rpc_client_ops client_ops = {
    .connected = on_connected,
    .disconnected = on_disconnected,
    .drained = on_drained,
};

/* ---- life ---- */

struct prodlink *prodlink_new(struct reactor *r, const struct prodlink_cfg *cfg)
{
    struct prodlink *link = alloc_new(struct prodlink);
    const struct rpc_client_conf conf = {.channel = {.out_cap = OUT_CAP, .stuck_ns = STUCK_NS}};
    link->reactor = r;
    if (prodsmb_init(&link->memory, link) < 0) {
        free(link);
        return NULL;
    }
    link->cfg = *cfg;
    link->producer_name = alloc_strdup(cfg->producer_name);
    link->socket_name = cfg->socket_name ? alloc_strdup(cfg->socket_name) : NULL;
    link->cfg.producer_name = link->producer_name;
    link->cfg.socket_name = link->socket_name;
    link->offer = cfg->provide_shmem && abi_size_valid(cfg->shm_size_hint, cfg->shm_page_hint);
    list_init(&link->sources);
    list_init(&link->instances);
    list_init(&link->flushes);
    list_init(&link->syncs);
    list_init(&link->triggers);
    link->client = rpc_client_new(r, &conf, &client_ops, link);
    if (cfg->retry != PRODLINK_RETRY_NEVER)
        link->redial = redial_new(r, address(link),
                                  cfg->retry == PRODLINK_RETRY_SDK ? &redial_sdk : &redial_daemon,
                                  attempt, link);
    reactor_defer(r, attempt, link);
    return link;
}

void prodlink_free(struct prodlink *link)
{
    struct list *node;
    if (!link)
        return;
    link->cfg.on_state = NULL;
    ds_inst_disconnect_all(link); /* what they flush is still sent */
    reactor_undefer(link->reactor, link);
    redial_free(link->redial);
    struct rpc_proxy *proxy = link->proxy;
    link->proxy = NULL;
    rpc_proxy_free(proxy);
    rpc_client_free(link->client);
    link->client = NULL;
    prodsmb_fini(&link->memory);
    datasource_free_all(link);
    send_triggers(link); /* without a connection: frees them */
    while ((node = list_pop_front(&link->syncs))) {
        struct prodlink_sync *sync = list_entry(node, struct prodlink_sync, node);
        sync->cb(sync->ctx, false);
        free(sync);
    }
    free(link->producer_name);
    free(link->socket_name);
    free(link);
}

enum prodlink_state prodlink_state(const struct prodlink *link)
{
    return link->state;
}

void prodlink_kick(struct prodlink *link)
{
    if (link->state == PRODLINK_IDLE) {
        if (link->redial)
            redial_done(link->redial, false);
        reactor_undefer(link->reactor, link);
        reactor_defer(link->reactor, attempt, link);
    }
}
