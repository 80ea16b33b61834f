/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sender of triggers.
 *
 * A trigger is a call on the producer socket, so this is the smallest possible producer: it says
 * its name, asks for the command stream as every producer does, and after the service has accepted
 * it, activates the triggers (R721). Unlike upstream it asks for the answer: "sent" then means that
 * the service has them.
 */
#include "client/trigsend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "ipc/frame.h"
#include "ipc/port_producer.h"
#include "ipc/rpc_client.h"
#include "ipc/sockname.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/err.h"

#define PRODUCER_NAME "perfetto_cmd_producer"

struct trigsend {
    struct rpc_client *client; /* own */
    struct rpc_proxy *proxy;   /* own */
    struct bytesbuf request;   /* ActivateTriggersRequest */
    trigsend_done *done;
    void *arg; /* borrow */
    bool finished;
    char address[SOCKNAME_TEXT_MAX];
};

const char *trigsend_default_address(void)
{
    return sockname_producer();
}

static void finish(struct trigsend *t, bool ok, const char *reason)
{
    char why[SOCKNAME_TEXT_MAX + 160];

    if (t->finished)
        return;
    t->finished = true;
    (void)snprintf(why, sizeof(why), "%s: %s", t->address, reason);
    t->done(t->arg, ok, why);
}

static void on_activated(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)
{
    (void)proxy;
    finish(arg, r->success, r->success ? "sent" : "the service did not take the triggers");
}

static void on_initialized(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)
{
    struct trigsend *t = arg;

    if (t->finished)
        return;
    if (!r->success)
        finish(t, false, "the service did not accept this program as a producer");
    else
        rpc_proxy_invoke(proxy, PORT_PRODUCER_ACTIVATE_TRIGGERS, bytesbuf_view(&t->request), -1,
                         on_activated, t);
}

static void on_command(void *arg, struct rpc_proxy *proxy, const struct rpc_result *r)
{
    (void)arg;
    (void)proxy;
    (void)r; /* we have no data source: no command concerns us */
}

static void on_bound(void *arg, struct rpc_proxy *proxy)
{
    struct trigsend *t = arg;
    struct bytesbuf b;

    bytesbuf_init(&b, 256);
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionRequest_shared_memory_page_size_hint_bytes, 0);
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionRequest_shared_memory_size_hint_bytes, 0);
    bytesbuf_pb_str(&b, PBF_InitializeConnectionRequest_producer_name, PRODUCER_NAME);
    rpc_proxy_invoke(proxy, PORT_PRODUCER_INITIALIZE_CONNECTION, bytesbuf_view(&b), -1,
                     on_initialized, t);
    rpc_proxy_invoke(proxy, PORT_PRODUCER_GET_ASYNC_COMMAND, bytes_view(NULL, 0), -1, on_command,
                     t);
    bytesbuf_fini(&b);
}

static void on_unbound(void *arg, struct rpc_proxy *proxy)
{
    if (rpc_client_is_connected(rpc_proxy_client(proxy)))
        finish(arg, false, "it does not serve producers; is that the consumer socket?");
}

static void on_disconnected(void *arg, struct rpc_client *client, int reason)
{
    (void)client;
    finish(arg, false, err_text(reason));
}

static const struct rpc_proxy_ops proxy_ops = {.connected = on_bound, .disconnected = on_unbound};
static const struct rpc_client_ops client_ops = {.disconnected = on_disconnected};

struct trigsend *trigsend_new(struct reactor *reactor, const char *address,
                              const struct bytes_view *names, size_t n, trigsend_done *fn,
                              void *arg, char *err, size_t errlen)
{
    struct trigsend *t = alloc_new(struct trigsend);

    t->done = fn;
    t->arg = arg;
    (void)snprintf(t->address, sizeof(t->address), "%s", address);
    bytesbuf_init(&t->request, FRAME_MAX);
    for (size_t i = 0; i < n; i++)
        bytesbuf_pb_bytes(&t->request, PBF_ActivateTriggersRequest_trigger_names, names[i].p,
                          names[i].n);
    t->client = rpc_client_new(reactor, NULL, &client_ops, t);
    t->proxy = rpc_client_bind(t->client, &port_producer, &proxy_ops, t);
    if (t->request.failed)
        (void)snprintf(err, errlen, "the names of the triggers do not fit into one request");
    else if (rpc_client_connect(t->client, address, err, errlen) == 0)
        return t;
    trigsend_free(t);
    return NULL;
}

void trigsend_free(struct trigsend *t)
{
    if (t == NULL)
        return;
    t->finished = true; /* the frees below answer what is pending */
    rpc_proxy_free(t->proxy);
    rpc_client_free(t->client);
    bytesbuf_fini(&t->request);
    free(t);
}
