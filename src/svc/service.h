/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SERVICE_H
#define SVC_SERVICE_H

/*
 * The tracing service: id spaces, the registries of producers, data sources, buffers, consumers and
 * sessions, the drain, and the limits. It opens no socket: transports bring peers to it with
 * service_add_producer and service_add_consumer and then speak the messages of svc/messages.h with
 * the endpoint that this made. One per reactor; everything runs on that reactor's thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <sys/types.h>

#include "reactor/bytes.h"
#include "reactor/charge.h"
#include "svc/messages.h"
#include "svc/packet.h"

struct filehost;
struct service;

/* An extension descriptor given at the start (R120). */
struct service_descriptor {
    const uint8_t *bytes; /* borrow: outlives the service */
    size_t n;
    bool gzip;
    const char *name; /* borrow; may be NULL */
};

struct service_options {
    const char *version;               /* borrow: text of `traced --version` (R238) */
    const char *machine_name;          /* borrow: of this machine, for machine_name_filter (R42) */
    const struct charge_limit *limits; /* borrow during the call; NULL: reactor/defaults.h */
    const struct service_descriptor *descriptors; /* borrow */
    size_t ndescriptors;
    bool scrape_by_default; /* for producers that do not say (R46); the daemon says false */
    struct filehost *files; /* own, also on failure: starts the processes that write files. NULL:
                             * one of its own, which forks when the first file comes */
};

/* *out: own, service_free. The reactor must have been made with msg_table. 0 or -errno. */
int service_new(struct reactor *r, const struct service_options *opt, struct service **out);

/* Ends all sessions: their consumers are told and their files get the last data, for which ticks of
 * the reactor are run for a bounded time. To be called before the transports go. NULL allowed. */
void service_end(struct service *svc);

/* Ends all sessions and frees everything; a few ticks of the reactor are run to let actors die.
 * NULL allowed. */
void service_free(struct service *svc);

/* ---- endpoints ---- */

/* Who connects, as the transport knows it, and what InitializeConnection asks for. */
struct service_producer {
    uint64_t port;                 /* actor id of the transport: gets MSG_PP_* */
    uid_t uid;                     /* from the transport, never from the message (R42) */
    pid_t pid;                     /* -1: not known */
    uint32_t machine_id;           /* 0: this machine */
    const char *machine_name;      /* borrow */
    struct bytes_view name;        /* borrow */
    struct bytes_view sdk_version; /* borrow */
    uint32_t page_hint;            /* bytes; 0: no preference */
    uint32_t size_hint;            /* bytes; 0: no preference */
    uint32_t scraping_mode;        /* ProducerSMBScrapingMode (R46) */
    int shmem_fd;                  /* own: an SMB that the producer offers, or -1 (R56) */
    bool emulated;                 /* the transport cannot pass memory (R45) */
    bool stranger;                 /* the uid is hearsay: CHARGE_STRANGERS pays */
    bool in_process;               /* R113 */
};

/* Makes a producer endpoint: *endpoint takes MSG_P_*. *adopted says whether the offered SMB is
 * used. Takes p->shmem_fd in every case. 0; ERR_FORBIDDEN in lockdown (R44); ERR_QUOTA when 65535
 * producers are connected (R43) or a text is too long; -ENOMEM. */
int service_add_producer(struct service *svc, const struct service_producer *p, uint64_t *endpoint,
                         bool *adopted);

/* True when so much of this producer waits for the drain that its transport must not read on.
 * MSG_PP_ROOM follows then, once. */
bool service_producer_full(struct service *svc, uint64_t endpoint);

/* True when so many requests of this consumer wait that its transport must not read on. MSG_CP_ROOM
 * follows then, once. */
bool service_consumer_full(struct service *svc, uint64_t endpoint);

/* Where the packets of a read go; called from the loop, from inside the endpoint. All calls name
 * the transport's actor id, by which it finds itself: when it has gone, they do nothing and return
 * ERR_HANGUP. The pieces of a packet are valid until flush returns and no longer, so packets of a
 * batch may be gathered without a copy. */
struct service_sink {
    /* One packet of the answer to the request `cookie`. 0; ERR_HANGUP; -errno. */
    int (*packet)(void *arg, uint64_t port, uint64_t cookie, const struct packet *pkt);
    /* The end of a batch: what was given so far must leave, or be copied. more false: the end of
     * the answer; the request is finished then. */
    int (*flush)(void *arg, uint64_t port, uint64_t cookie, bool more);
    /* True while it takes another batch. When it says false, MSG_C_READ_ROOM must follow. */
    bool (*room)(void *arg, uint64_t port);
    void *arg; /* borrow */
};

struct service_consumer {
    uint64_t port; /* actor id of the transport: gets MSG_CP_* */
    uid_t uid;
    pid_t pid;                       /* -1: not known; for logs only */
    const struct service_sink *sink; /* borrow: outlives the endpoint */
};

/* Makes a consumer endpoint: *endpoint takes MSG_C_*. 0 or -ENOMEM. */
int service_add_consumer(struct service *svc, const struct service_consumer *c, uint64_t *endpoint);

/* True while nobody is connected and no session exists: for --exit-on-idle. */
bool service_idle(const struct service *svc);

/* Sessions of all users, clones and ended ones included. */
size_t service_sessions(const struct service *svc);

/* What an operator wants to know: peers, sessions, bytes and losses, as lines of text. */
void service_report(const struct service *svc, FILE *out);

/* The account book: listeners charge connections to it. */
struct charge_book *service_charges(struct service *svc);

/* ---- relay endpoint (R230-R237) ---- */

/* A relay connection told its machine's system info (encoded SystemInfo). connection: unique among
 * the connections of that machine, ascending. 0 or -ENOMEM. */
int service_relay_init(struct service *svc, uint32_t machine_id, uint64_t connection,
                       struct bytes_view system_info);

/* SyncClock (encoded SyncClockRequest): to be called on arrival, before the answer is sent (R233).
 */
int service_relay_clock(struct service *svc, uint32_t machine_id, uint64_t connection,
                        struct bytes_view request);

/* The connection has closed. Harmless for one that never said anything. */
void service_relay_gone(struct service *svc, uint32_t machine_id, uint64_t connection);

#endif
