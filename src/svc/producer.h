/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PRODUCER_H
#define SVC_PRODUCER_H

/*
 * The producer endpoint: identity, registrations, shared memory, the buffers it may write to and
 * the commands it gets (service.md section 3). What the transport sends comes in as MSG_P_*;
 * whatever waits behind a commit waits in `queue` for svc/drain.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "reactor/actor.h"
#include "reactor/charge.h"
#include "reactor/list.h"
#include "smb/commit.h"
#include "smb/scan.h"
#include "smb/shmem.h"
#include "svc/dsinst.h"
#include "svc/service.h"

struct session;
struct session_buffer;
struct tracecfg;

/* One RegisterDataSource. */
struct datasource {
    struct tree_node node;      /* in service.sources */
    struct list in_producer;    /* in producer.sources */
    struct producer *producer;  /* borrow */
    uint64_t order;             /* of registration, ascending over all producers */
    uint64_t id;                /* descriptor id, 0: none */
    struct msg_body descriptor; /* own: encoded DataSourceDescriptor */
    struct charge charge;       /* for the descriptor */
    struct bytes_view name;     /* borrow: into the descriptor */
    struct bytes_view program;  /* borrow: likewise: of a ProtoVM; p NULL: none */
    bool will_notify_on_start, will_notify_on_stop;
    bool handles_incremental_clear, no_flush;
    bool arriving; /* not all sessions that were there have seen it yet */
};

#define PRODUCER_WRITER_PAGES 256 /* 256 writers each */

/* Where the work on the first message of the queue stands. */
enum producer_stage {
    PRODUCER_IDLE,
    PRODUCER_MOVES,
    PRODUCER_PATCHES,
    PRODUCER_TRIGGERS,
    PRODUCER_REGISTER,   /* the new data source looks for sessions that want it */
    PRODUCER_UNREGISTER, /* instances go */
    PRODUCER_SCRAPE,     /* these three are the end of it */
    PRODUCER_LEAVE,      /* all instances go */
    PRODUCER_FORGET      /* all registrations go */
};

struct producer_work {
    enum producer_stage stage;
    struct mailbox_msg msg; /* the message, owned while stage is not IDLE */
    struct commit_view view;
    struct commit_pos pos;
    struct bytes_cur names; /* trigger names not yet looked at */
    struct scan_iter scan;
    struct dsinst_late late;
    struct datasource *source; /* borrow: that arrives */
    struct list *next;         /* the instance whose turn it is, or the list's head */
    uint64_t last;             /* instances made later stay */
};

/* Leave to write to a buffer. Ids come back, serials do not: a permit whose buffer has gone is
 * worth nothing and is dropped when there is need for room. */
struct producer_permit {
    uint64_t serial;
    uint16_t buffer;
};

struct producer {
    struct actor actor;
    struct service *svc; /* borrow */
    struct list node;    /* in service.producers */
    uint16_t id;         /* ProducerID */
    uint64_t port;       /* actor id of the transport */
    uid_t uid;
    uid_t payer; /* whose account pays */
    pid_t pid;   /* -1: not known */
    uint32_t machine_id;
    char *machine_name; /* own */
    char *name;         /* own; NUL-terminated, may hold NULs inside */
    size_t name_len;
    char *sdk_version;             /* own */
    uint32_t page_hint, size_hint; /* bytes */
    bool scraping, emulated, provided;
    bool gone;      /* MSG_P_BYE was taken: only the last work is left */
    bool want_room; /* the transport waits for MSG_PP_ROOM */

    struct shmem shm;
    struct charge shm_charge;

    struct list sources; /* struct datasource.in_producer, in order of registration */
    uint32_t nsources;
    struct list instances; /* struct dsinst.in_producer, in order of setup */

    struct producer_permit *allowed; /* own: what it may write to, ascending ids (R74) */
    uint32_t nallowed, allowed_room;
    uint16_t **writers; /* own: pages of buffers by writer id, 0: not registered; NULL: none ever */
    uint32_t nwriters;
    uint64_t flush_acked; /* highest flush id that sessions were told of */

    struct mailbox queue; /* messages behind a commit, in order */
    struct producer_work work;
    struct list drain_node; /* in service.drain_queue while there is work */

    uint64_t bytes_moved, chunks_moved; /* for the report */
};

/* Makes the endpoint: see service_add_producer. */
int producer_new(struct service *svc, const struct service_producer *p, uint64_t *endpoint,
                 bool *adopted);

/* All registrations are in order of name, and then of registration: makes the empty order; the
 * first one of that name from `order` on, or of a later name, NULL at the end; the one behind. */
void producer_sources_init(struct service *svc);
struct datasource *producer_source_from(const struct service *svc, struct bytes_view name,
                                        uint64_t order);
struct datasource *producer_source_next(const struct datasource *ds);

/* Takes it apart at once, without scraping; for service_free and for the end of a farewell. */
void producer_destroy(struct producer *p);

/* True when too much waits; see service_producer_full. */
bool producer_full(struct producer *p);

/* Handles one message in its turn, for svc/drain. Not for here are MSG_P_COMMIT, MSG_P_TRIGGERS,
 * MSG_P_BYE, and these three, which may be long. */
void producer_take(struct producer *p, struct mailbox_msg *m);

/* MSG_P_REGISTER: the registration, which is to look for its sessions, or NULL. */
struct datasource *producer_register(struct producer *p, struct msg_request *m);

/* MSG_P_UNREGISTER: takes the oldest registration of that name away, not its instances. False:
 * there is none. */
bool producer_unregister(struct producer *p, struct bytes_view name);

/* The end of a producer: takes registrations away until the budget is spent; true: all of them. */
bool producer_forget(struct producer *p, struct task_budget *budget);

/* Bytes and messages waiting for the drain are below the mark again: tells the transport, once. */
void producer_tell_room(struct producer *p);

/* Makes sure that it has an SMB, announced to it, sized by this config and its own hints (R54,
 * R55). 0; ERR_QUOTA; -errno. */
int producer_ensure_shmem(struct producer *p, const struct tracecfg *cfg);

/* The buffers it may write to, until they go. allow: 0 or -ENOMEM. */
int producer_allow(struct producer *p, const struct session_buffer *b);
bool producer_may_write(const struct producer *p, const struct session_buffer *b);

/* The buffer that a writer is registered with; 0 when it is not (R73). */
static inline uint16_t producer_writer_buffer(const struct producer *p, uint16_t writer)
{
    const uint16_t *page = p->writers ? p->writers[writer >> 8] : NULL;
    return page ? page[writer & 0xFF] : 0;
}

/* Tells it something. */
void producer_send(struct producer *p, enum msg_kind kind, const void *payload, size_t size);

/* Drops the peer: MSG_PP_CLOSE. */
void producer_drop(struct producer *p, int err, const char *why);

static inline struct bytes_view producer_name(const struct producer *p)
{
    return bytes_view(p->name, p->name_len);
}

#endif
