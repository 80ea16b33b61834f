/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the producer link, shared by its files: prodlink.c (connection), prodsmb.c (memory
 * and arbiter), prodcmd.c (commands), datasource.c (types) and
 * ds_inst.c (instances). */
#ifndef CLIENT_PRODLINK_PRIV_H
#define CLIENT_PRODLINK_PRIV_H

#include "client/datasource.h"
#include "client/prodlink.h"
#include "client/prodsmb.h"
#include "ipc/port_producer.h"
#include "ipc/redial.h"
#include "ipc/rpc_client.h"
#include "reactor/bytes.h"
#include "reactor/deadline.h"
#include "reactor/list.h"

/* A type (datasource.c). */
struct datasource {
    struct list node;
    struct prodlink *link;            /* borrow */
    char *name;                       /* own */
    const struct datasource_ops *ops; /* borrow */
    void *ctx;                        /* borrow */
    struct datasource_def def;        /* flags and policy only */
    uint8_t *descriptor;              /* own: as sent */
    size_t descriptor_len;
    uint64_t id;
    bool will_notify_on_stop;
};

struct prodlink {
    struct reactor *reactor; /* borrow */
    char *producer_name;     /* own */
    char *socket_name;       /* own; NULL = the default */
    struct prodlink_cfg cfg; /* its strings are the copies above */
    enum prodlink_state state;

    struct rpc_client *client; /* own */
    struct rpc_proxy *proxy;   /* own; NULL between connections */
    struct redial *redial;     /* own; NULL with PRODLINK_RETRY_NEVER */
    uint64_t connected_at;     /* ns; when InitializeConnection was answered */
    unsigned losses;           /* connections lost young, in a row */
    bool told;                 /* that there is no service */
    bool offer;                /* offer memory of ours (until refused, R88) */
    bool offered;              /* ... on this connection */
    bool adopted;              /* ... and it was taken */
    bool emulated;             /* R91 */
    bool direct_patching;

    struct prodsmb_set memory;
    struct list sources;   /* own: datasource */
    struct list instances; /* own: ds_inst */
    struct list flushes;   /* own: flushes not acknowledged yet, oldest first */
    size_t flush_count;
    struct list syncs;    /* own: asked for before the connection was up */
    struct list triggers; /* own: the same */
};

/* Sends one call. fn NULL: no reply wanted. Dropped silently when there is no connection. */
void prodlink_call(struct prodlink *link, uint32_t method, struct bytes_view args, int fd,
                   rpc_result_fn *fn, void *arg);

/* A call whose arguments are one integer field (1). */
void prodlink_call_id(struct prodlink *link, uint32_t method, uint64_t id);

/* For calls that want a reply only because the protocol's other clients do. */
void prodlink_ignore_result(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result);

/* The service broke the protocol: one log line, then the connection is closed and made anew. */
void prodlink_fault(struct prodlink *link, const char *what);

#endif
