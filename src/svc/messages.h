/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_MESSAGES_H
#define SVC_MESSAGES_H

/*
 * Every message between the actors of the service, on one page.
 *
 *   transport  --MSG_P_*-->  producer endpoint  --MSG_S_*-->  session
 *   transport  <--MSG_PP_*-- producer endpoint, session
 *   transport  --MSG_C_*-->  consumer endpoint
 *   transport  <--MSG_CP_*-- consumer endpoint, session
 *
 * A transport is whatever carries a peer: the socket transports (svc/prodport, svc/consport), an
 * embedder's own, a test. It makes an endpoint with service_add_producer or service_add_consumer,
 * naming its own actor id, and from then on the two speak these messages only. Messages
 * of one sender to one receiver arrive in order; those to an id that has gone are dropped.
 *
 * A body is a run of bytes that the message owns: an encoded protobuf message of the tracing
 * protocol (named below) or a text. The sender may be hostile, the receiver decodes it. So do
 * descriptors belong to the message. A cookie names a request; it is chosen by the transport, and 0
 * wants no reply. Each request with a cookie gets exactly one final reply, in the order in which
 * the answers become known.
 *
 * Not messages: a consumer endpoint works on its session by the calls of svc/session.h, because
 * what one request changes the next one must see, whoever it is from (a freed session no longer
 * counts for the limits). And the packets of a read: they point straight into the trace buffer,
 * which does not wait for a mailbox, so they go through the service_sink that service_add_consumer
 * was given.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/actor.h"
#include "reactor/bytes.h"

/* X(kind, struct of the payload) */
#define MSG_TABLE(X)                                                                               \
    /* transport -> producer endpoint */                                                           \
    X(MSG_P_REGISTER, msg_request)   /* body: DataSourceDescriptor */                              \
    X(MSG_P_UPDATE, msg_request)     /* body: DataSourceDescriptor */                              \
    X(MSG_P_UNREGISTER, msg_request) /* body: name of the data source */                           \
    X(MSG_P_COMMIT, msg_request)     /* body: CommitDataRequest */                                 \
    X(MSG_P_WRITER, msg_writer)      /* RegisterTraceWriter */                                     \
    X(MSG_P_WRITER_GONE, msg_writer) /* UnregisterTraceWriter */                                   \
    X(MSG_P_STARTED, msg_instance)   /* NotifyDataSourceStarted */                                 \
    X(MSG_P_STOPPED, msg_instance)   /* NotifyDataSourceStopped */                                 \
    X(MSG_P_TRIGGERS, msg_request)   /* body: ActivateTriggersRequest */                           \
    X(MSG_P_SYNC, msg_request)       /* no body; answered when all before it is done */            \
    X(MSG_P_BYE, msg_empty)          /* the peer has gone; the last message */                     \
    /* producer endpoint, session -> transport */                                                  \
    X(MSG_PP_REPLY, msg_reply)         /* result of a request above; no body */                    \
    X(MSG_PP_SETUP_TRACING, msg_shmem) /* once, before the first MSG_PP_SETUP */                   \
    X(MSG_PP_SETUP, msg_config)        /* SetupDataSource */                                       \
    X(MSG_PP_START, msg_config)        /* StartDataSource, config as in the setup */               \
    X(MSG_PP_STOP, msg_instance)       /* StopDataSource */                                        \
    X(MSG_PP_FLUSH, msg_flush_command) /* Flush */                                                 \
    X(MSG_PP_CLEAR, msg_flush_command) /* ClearIncrementalState; no request id, no flags */        \
    X(MSG_PP_ROOM, msg_empty)          /* after service_producer_full: read the peer on */         \
    X(MSG_PP_CLOSE, msg_close)         /* drop this peer */                                        \
    /* transport -> consumer endpoint */                                                           \
    X(MSG_C_ENABLE, msg_enable) /* body: TraceConfig */                                            \
    X(MSG_C_START, msg_request)                                                                    \
    X(MSG_C_CHANGE, msg_request) /* body: TraceConfig */                                           \
    X(MSG_C_DISABLE, msg_request)                                                                  \
    X(MSG_C_READ, msg_request)    /* opens a stream of packets to the sink */                      \
    X(MSG_C_READ_ROOM, msg_empty) /* the sink takes packets again */                               \
    X(MSG_C_FREE, msg_request)                                                                     \
    X(MSG_C_FLUSH, msg_flush_request)                                                              \
    X(MSG_C_DETACH, msg_request) /* body: key */                                                   \
    X(MSG_C_ATTACH, msg_request) /* body: key */                                                   \
    X(MSG_C_STATS, msg_request)                                                                    \
    X(MSG_C_OBSERVE, msg_observe)                                                                  \
    X(MSG_C_QUERY, msg_query)                                                                      \
    X(MSG_C_CAPABILITIES, msg_request)                                                             \
    X(MSG_C_SAVE_TRACE, msg_request) /* SaveTraceForBugreport */                                   \
    X(MSG_C_CLONE, msg_enable)       /* body: CloneSessionRequest */                               \
    X(MSG_C_BYE, msg_empty)          /* the peer has gone; the last message */                     \
    /* consumer endpoint, session -> transport */                                                  \
    X(MSG_CP_REPLY, msg_reply) /* body: result message of the method, if it has one */             \
    X(MSG_CP_CLOSE, msg_close) /* drop this peer */                                                \
    X(MSG_CP_ROOM, msg_empty)  /* after service_consumer_full: read the peer on */                 \
    /* producer endpoint -> session */                                                             \
    X(MSG_S_STARTED, msg_ack) /* an instance has started */                                        \
    X(MSG_S_STOPPED, msg_ack) /* an instance has stopped */                                        \
    X(MSG_S_FLUSHED, msg_ack) /* all flushes up to this id are done */                             \
    /* consumer endpoint -> itself */                                                              \
    X(MSG_C_STEP, msg_empty) /* the next batch of a read */

enum msg_kind {
    MSG_NONE = 0,
#define MSG_X(kind, type) kind,
    MSG_TABLE(MSG_X)
#undef MSG_X
        MSG_KINDS
};

/* Bytes that the message owns. */
struct msg_body {
    uint8_t *p; /* own, malloc; NULL when empty */
    size_t n;
};

struct msg_empty {
    uint8_t unused;
};

struct msg_request {
    uint64_t cookie;
    struct msg_body body;
};

struct msg_writer {
    uint64_t cookie;
    uint32_t writer; /* unchecked */
    uint32_t buffer; /* unchecked; MSG_P_WRITER only */
};

struct msg_instance {
    uint64_t cookie; /* MSG_P_* only */
    uint64_t instance;
};

/* Many commands carry the same config: it is counted, not copied. */
struct msg_config {
    uint64_t instance;
    struct dsconfig *config; /* ref: encoded DataSourceConfig, see svc/dsconfig.h */
};

struct msg_reply {
    uint64_t cookie;
    struct msg_body body;
    bool ok;   /* false: rejected (ipc.md R56), without body */
    bool more; /* a part of a stream; the request goes on */
};

struct msg_shmem {
    uint32_t page_kb; /* 0 when the producer provided the memory (R57) */
    int fd;           /* own; -1 when there is none to pass */
};

struct msg_flush_command {
    uint64_t request;
    uint64_t flags; /* service.md R90 */
    uint64_t *ids;  /* own: instances, in setup order; NULL when none */
    size_t nids;
};

struct msg_close {
    int err;         /* enum err_peer or -errno */
    const char *why; /* static text for the log */
};

struct msg_enable {
    uint64_t cookie;
    struct msg_body body;
    int fd;           /* own; -1 when none came */
    bool attach_only; /* MSG_C_ENABLE: attach_notification_only (R190); there is no body then */
};

struct msg_flush_request {
    uint64_t cookie;
    uint64_t flags;
    uint32_t timeout_ms; /* 0: as the session says */
};

struct msg_observe {
    uint64_t cookie;
    uint32_t mask; /* OR of ObservableEvents.Type values */
};

struct msg_query {
    uint64_t cookie;
    bool sessions_only;
};

struct msg_ack {
    uint64_t id;       /* instance or flush request */
    uint64_t since;    /* MSG_S_FLUSHED: flushes up to this id were done before */
    uint16_t producer; /* ProducerID */
};

/* For reactor_opts.table: names, sizes, what to free, what it weighs. */
extern const struct mailbox_table msg_table;

/* For who has handed a message's payload on: what is left of it owns nothing, and a descriptor in
 * it is -1, not 0. */
void msg_forget(struct mailbox_msg *m);

/* A body holding a copy of n bytes. 0 or -ENOMEM. */
int msg_body_copy(struct msg_body *body, const void *p, size_t n);

static inline struct bytes_view msg_body_view(const struct msg_body *body)
{
    return bytes_view(body->p, body->n);
}

/* Posts a reply without body; nothing when cookie is 0. kind: MSG_PP_REPLY or MSG_CP_REPLY. */
void msg_post_result(struct reactor *r, uint64_t to, uint64_t from, enum msg_kind kind,
                     uint64_t cookie, bool ok);

/* Posts a MSG_CP_REPLY with a body, which it takes; nothing (but the free) when cookie is 0. */
void msg_post_reply(struct reactor *r, uint64_t to, uint64_t from, uint64_t cookie,
                    struct msg_body body, bool more);

#endif
