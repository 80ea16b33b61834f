/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Relays over sockets. Both methods are answered at once; what they bring is kept by the service
 * under the machine and the connection. The machine is read once, at the first method: a peer that
 * introduces itself only afterwards stays who it was, so that what was stored for it is found again
 * when it leaves. A relay is an opted-in peer and yet only a peer: what it may store is bounded, by
 * size here and by number in the service.
 */
#include "svc/relayport.h"

#include <stdlib.h>

#include "ipc/cred.h"
#include "ipc/port_relay.h"
#include "ipc/rpc_host.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "svc/portlib.h"
#include "svc/service.h"

/* A clock exchange is about a hundred bytes, a machine's description a few thousand. */
#define CLOCKS_MAX 4096u
#define INFO_MAX   (64u << 10)

struct relayport {
    struct service *svc; /* borrow */
    uint32_t id;         /* of RelayPort on the host */
};

struct relayconn {
    uint32_t machine_id;
};

static struct relayconn *conn_of(const struct relayport *port, struct rpc_conn *conn)
{
    struct relayconn *c = rpc_conn_user(conn, port->id);
    if (c)
        return c;
    c = alloc_new(struct relayconn);
    c->machine_id = rpc_conn_cred(conn)->machine_id;
    rpc_conn_set_user(conn, port->id, c);
    return c;
}

static int answer(struct rpc_call *call)
{
    int err = rpc_reply_send(&call->reply, bytes_view(NULL, 0), false, -1);
    return err < 0 ? err : 0;
}

static int call_init(void *arg, struct rpc_call *call) /* R114 */
{
    const struct relayport *port = arg;
    struct msg_body info;
    int err = portlib_submessage(call->args, PBF_InitRelayRequest_system_info, &info);
    if (err)
        return err;
    if (info.n > INFO_MAX) {
        free(info.p);
        return ERR_BAD_REQUEST;
    }
    const struct relayconn *c = conn_of(port, call->conn);
    err = answer(call);
    if (!err)
        err = service_relay_init(port->svc, c->machine_id, rpc_conn_id(call->conn),
                                 bytes_view(info.p, info.n));
    free(info.p);
    return err;
}

static int call_clock(void *arg, struct rpc_call *call) /* R115 */
{
    const struct relayport *port = arg;
    struct bytes_cur cur = bytes_cur(call->args);
    struct bytes_field f;
    while (bytes_next(&cur, &f))
        continue;
    if (!bytes_done(&cur) || call->args.n > CLOCKS_MAX)
        return ERR_BAD_REQUEST;
    const struct relayconn *c = conn_of(port, call->conn);
    int err = service_relay_clock(port->svc, c->machine_id, rpc_conn_id(call->conn), call->args);
    return err ? err : answer(call);
}

static void left(void *arg, struct rpc_conn *conn)
{
    const struct relayport *port = arg;
    struct relayconn *c = rpc_conn_user(conn, port->id);
    if (!c)
        return;
    service_relay_gone(port->svc, c->machine_id, rpc_conn_id(conn));
    rpc_conn_set_user(conn, port->id, NULL);
    free(c);
}

static rpc_handler *const methods[PORT_RELAY_METHODS] = {
    [PORT_RELAY_INIT_RELAY - 1] = call_init,
    [PORT_RELAY_SYNC_CLOCK - 1] = call_clock,
};

int relayport_new(struct service *svc, struct rpc_host *host, uint32_t mask, struct relayport **out)
{
    static const struct rpc_service_ops ops = {.left = left};
    struct relayport *port = alloc_new(struct relayport);
    port->svc = svc;
    int id = rpc_host_expose(host, &port_relay, methods, &ops, port, mask);
    if (id < 0) {
        free(port);
        return id;
    }
    port->id = (uint32_t)id;
    *out = port;
    return 0;
}

void relayport_free(struct relayport *port)
{
    free(port);
}
