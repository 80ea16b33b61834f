/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSUMER_H
#define SVC_CONSUMER_H

/*
 * The consumer endpoint: one consumer connection, its pending requests and its at most one session
 * (service.md section 12). What the transport sends comes in as MSG_C_*.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "reactor/actor.h"
#include "reactor/bytesbuf.h"
#include "reactor/mailbox.h"
#include "reactor/task.h"
#include "svc/packet.h"
#include "svc/service.h"
#include "svc/statequery.h"

struct filewr;
struct session;
struct session_clone;
struct tracecfg;

/* ObservableEvents.Type. */
enum consumer_events {
    CONSUMER_INSTANCES = 1,
    CONSUMER_ALL_STARTED = 2,
    CONSUMER_CLONE_TRIGGER = 4
};

struct consumer {
    struct actor actor;
    struct service *svc; /* borrow */
    struct list node;    /* in service.consumers */
    uint64_t port;       /* actor id of the transport */
    uid_t uid;
    pid_t pid;                       /* -1: not known */
    const struct service_sink *sink; /* borrow */
    uint64_t session;                /* TracingSessionID it owns; 0: none */

    /* Requests that wait; 0: none. A newer one of the same kind replaces it (ipc.md R60). */
    uint64_t enable_cookie, read_cookie, observe_cookie, clone_cookie;
    struct session_clone *cloning; /* borrow: of the pending request, until all is captured */
    bool read_waits;               /* for MSG_C_READ_ROOM */
    bool reading;                  /* a MSG_C_STEP is under way */
    bool want_room;                /* the transport waits for MSG_CP_ROOM */

    /* An EnableTracing whose file is being made; the requests behind it wait. */
    struct tracecfg *opening;    /* own; NULL: none */
    struct filewr *opening_file; /* own */

    struct mailbox queue;    /* requests behind one that is not done yet, in order */
    struct task work;        /* takes them up again */
    struct statequery query; /* an answer in the making */
    uint64_t query_cookie;
    bool query_waits; /* for MSG_C_READ_ROOM */
    bool gone;        /* MSG_C_BYE has come: what waits before it is done, but nobody is told */

    uint32_t observed;      /* mask */
    struct bytesbuf events; /* ObservableEvents of this tick (R198) */
    bool events_due;        /* send_events is deferred */
    bool events_hit;        /* a clone trigger hit is among them */
};

int consumer_new(struct service *svc, const struct service_consumer *p, uint64_t *endpoint);

/* Takes it apart at once; its session is not touched. */
void consumer_destroy(struct consumer *c);

/* True when too much waits; see service_consumer_full. */
bool consumer_full(struct consumer *c);

/* The request that others wait for may be done: takes the next one up, from the loop. */
void consumer_go_on(struct consumer *c);

/* False while its transport has much to send still; consumer_read_room comes later. */
bool consumer_has_room(const struct consumer *c);

/* The session it owns, or NULL. */
struct session *consumer_session(const struct consumer *c);

/* The session has ended: answers the pending EnableTracing (R13, R33). */
void consumer_tell_disabled(struct consumer *c, const char *error);
/* The same for a request that was taken from it before: the session had left it by then. */
void consumer_tell_end(struct consumer *c, uint64_t cookie, const char *error);

/* A reply to its transport; body is taken. */
void consumer_reply(struct consumer *c, uint64_t cookie, struct bytesbuf *body);
void consumer_result(struct consumer *c, uint64_t cookie, bool ok);

/* Observable events; they leave together at the end of the tick. */
void consumer_tell_instance(struct consumer *c, struct bytes_view producer, struct bytes_view name,
                            bool started);
void consumer_tell_all_started(struct consumer *c);

struct consumer_trigger_hit {
    uint64_t session;
    struct bytes_view trigger, producer;
    uid_t uid;
    uint64_t boot_ns;
    uint32_t delay_ms;
};
void consumer_tell_clone_trigger(struct consumer *c, const struct consumer_trigger_hit *hit);

#endif
