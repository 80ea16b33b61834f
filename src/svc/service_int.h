/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SERVICE_INT_H
#define SVC_SERVICE_INT_H

/*
 * The inside of the service, for the files of svc that make it up: the struct to read first. It
 * owns the registries; endpoints and sessions own themselves through their actors and are listed
 * here while they are alive. Everything is found by id, and a pointer to a peer of another kind is
 * never kept across a tick, except between an instance, its producer and its session, which unlink
 * each other.
 */

#include "reactor/actor.h"
#include "reactor/bytesbuf.h"
#include "reactor/charge.h"
#include "reactor/idmap.h"
#include "reactor/list.h"
#include "reactor/task.h"
#include "reactor/tree.h"
#include "svc/giveback.h"
#include "svc/selfpkt.h"
#include "svc/service.h"

struct consumer;
struct filehost;
struct producer;
struct session;

/* One source of losses and traffic, for the operator's report. */
struct service_counters {
    uint64_t chunks_discarded;  /* R81, since start */
    uint64_t patches_discarded; /* R82, since start */
    uint64_t chunks_moved;
    uint64_t bytes_moved;
    uint64_t chunks_skipped; /* not complete, or no such chunk: not counted on the wire (R78) */
    uint64_t pages_given_up; /* page header rewritten while a chunk was copied */
    uint64_t commits;
    uint64_t sessions_refused;
    uint64_t producers_refused;
};

/* A name and when it was last used: cooldown of guarded sessions (R20). */
struct service_cooldown {
    struct list node;
    uint64_t boot_s;
    uint64_t name_hash;
};

/* An activation of a trigger name in the last 24 hours (R176). */
struct service_activation {
    struct list node;
    uint64_t boot_ns;
    uint64_t name_hash;
};

#define SERVICE_RELAY_CLOCKS 5 /* R233 */

/* A relay connection that has spoken (R232-R234). */
struct service_relay {
    struct list node; /* in service.relays, by machine, then connection */
    uint32_t machine_id;
    uint64_t connection;
    struct msg_body system_info;
    struct msg_body requests[SERVICE_RELAY_CLOCKS]; /* SyncClockRequest, oldest first */
    struct clocksnap clocks[SERVICE_RELAY_CLOCKS];
    uint32_t nclocks;
};

struct service {
    struct reactor *reactor;                      /* borrow */
    struct charge_book *book;                     /* own */
    struct filehost *files;                       /* own: starts who writes files */
    char *version;                                /* own */
    char *machine_name;                           /* own */
    uid_t uid;                                    /* our effective uid */
    const struct service_descriptor *descriptors; /* borrow */
    size_t ndescriptors;
    bool scrape_by_default;
    bool lockdown; /* R11 */
    bool ending;   /* service_free is running */

    struct list producers;    /* struct producer.node, ascending ProducerID */
    struct idmap producer_of; /* ProducerID -> struct producer */
    struct idmap_ids producer_ids;
    uint32_t last_producer; /* ProducerID handed out last */

    struct tree sources; /* struct datasource.node, by name and then by registration */
    uint32_t nsources;

    struct idmap endpoints; /* actor id -> struct producer */

    struct list consumers;    /* struct consumer.node */
    struct idmap consumer_of; /* actor id -> struct consumer */

    struct list sessions; /* struct session.node, ascending TracingSessionID */
    struct list leaving;  /* struct session.node: freed, their file is still being written */

    struct list asking; /* struct session_flush.asking, ascending id: who asks producers, in turn */
    struct task ask;    /* svc/session_flush */

    struct idmap buffers; /* global buffer id -> struct session_buffer */
    struct idmap_ids buffer_ids;
    struct idmap instances; /* DataSourceInstanceID -> struct dsinst */

    uint64_t last_session, last_instance, last_flush, last_source, last_buffer; /* given last */
    uint32_t nfreeing; /* sessions that are freed and whose instances are still being stopped */

    struct giveback giveback; /* what is being freed in slices */

    struct task drain;       /* svc/drain */
    struct task prefault;    /* memory ahead of it */
    struct list drain_queue; /* struct producer.drain_node: who has work, in turn */

    struct list cooldowns; /* struct service_cooldown, oldest first */
    uint32_t ncooldowns;
    uint32_t nactivations;
    struct idmap activation_counts; /* hash of a name -> how many of them, as a pointer */
    struct list activations;        /* struct service_activation, oldest first */
    struct list relays;             /* struct service_relay */
    struct list boosts;             /* struct prioboost.node: who wants our thread to run faster */

    struct service_counters count;
};

/* The producer of that endpoint; NULL when it has gone. */
struct producer *service_endpoint(struct service *svc, uint64_t actor);

/* The session of that TracingSessionID, in any state; NULL when there is none. */
struct session *service_session(const struct service *svc, uint64_t id);

/* The consumer endpoint of that actor id; NULL when it has gone. */
struct consumer *service_consumer_of(const struct service *svc, uint64_t actor);

/* Number of buffers of all sessions, clones included. */
size_t service_buffers(const struct service *svc);

/* Number of sessions, of all uids or of one. */
size_t service_sessions_of(const struct service *svc, uid_t uid);

/* Frees what relays told. */
void service_relay_forget(struct service *svc);

/* True while a relay connection that has spoken is open. */
static inline bool service_has_relays(const struct service *svc)
{
    return !list_empty(&svc->relays);
}

#endif
