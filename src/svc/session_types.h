/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SESSION_TYPES_H
#define SVC_SESSION_TYPES_H

/*
 * The inside of a session, for the session_*.c files and those that walk sessions. The session owns
 * its buffers, instances, flushes, clones in the making and file; it names its consumer by actor
 * id.
 */

#include "reactor/actor.h"
#include "reactor/charge.h"
#include "reactor/deadline.h"
#include "reactor/idmap.h"
#include "reactor/task.h"
#include "reactor/tree.h"
#include "svc/prioboost.h"
#include "svc/clocksnap.h"
#include "svc/compress.h"
#include "svc/dsinst.h"
#include "svc/filewr.h"
#include "svc/filter.h"
#include "svc/scrape.h"
#include "svc/selfpkt.h"
#include "svc/session.h"
#include "svc/session_ids.h"
#include "svc/session_out.h"
#include "svc/session_walk.h"
#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tracecfg.h"

/* One entry of TraceConfig.buffers. */
struct session_buffer {
    struct session *session; /* borrow */
    struct tbuf *tb;         /* own */
    struct charge charge;
    struct charge vm_charge; /* for the memory of its ProtoVMs */
    uint64_t serial;         /* never used twice, unlike the id */
    uint16_t id;             /* global buffer id; 0: a clone's, no producer writes to it */
    uint16_t index;          /* in the config */
};

#define SESSION_VMS_MAX (32u << 20) /* bytes of the states that the packet of ProtoVMs may hold */

/* A trigger that was received (R177). */
struct session_trigger {
    struct list node;
    uint64_t boot_ns;
    struct msg_body name, producer; /* own */
    uid_t uid;
    uint32_t delay_ms;
    bool emitted;
};

/* A lifecycle event that waits for the next read (section 7.7). */
struct session_event {
    uint64_t boot_ns;
    enum selfpkt_event kind;
    uint32_t value;
    struct msg_body packet; /* own: the two "slow" kinds are encoded when they happen */
};

/* Head of one concurrent session event in session.concurrent; its packet follows (R135). */
struct session_concurrent {
    uint64_t boot_ns;
    uint64_t size;
};

#define SESSION_FLUSH_EVENTS  64    /* history of flush_started and all_data_sources_flushed */
#define SESSION_CONCURRENT    4096  /* R135 */
#define SESSION_SLOW_NAMES    32    /* R23, R96 */
#define SESSION_INSTANCES_MAX 16384 /* their ids must fit one Flush command */

struct session {
    struct actor actor;
    struct service *svc;        /* borrow */
    struct list node;           /* in service.sessions or service.leaving */
    uint64_t id;                /* TracingSessionID */
    uid_t uid;                  /* of the consumer that created it */
    uint64_t consumer;          /* actor id of the endpoint it is attached to; 0: none */
    struct msg_body detach_key; /* own; empty while attached */
    struct tracecfg *cfg;       /* own; changed by session_set_config */
    struct dsconfig **configs;  /* own, of cfg->nsources: for instances; NULL: none yet */
    enum session_state state;
    uint64_t state_since; /* boot ns */
    uint64_t farewell;    /* cookie of EnableTracing, answered when the file is complete */
    uint64_t farewell_to; /* actor id of the endpoint that it came from */
    bool leaving;         /* freed; only the file is still being written */
    bool settling;        /* all instances have stopped, the final scrape or drain is going on */
    char *error;          /* own: for the consumer at the end of the stop; NULL: none */

    struct session_buffer *buffers; /* own: cfg->nbuffers */
    size_t nbuffers;
    struct list instances; /* struct dsinst.in_session */
    struct tree groups;    /* struct dsinst_group, ascending ProducerID */
    uint32_t ngroups;
    struct session_walk walk; /* svc/session_walk */
    uint32_t ninstances;
    uint32_t instances_in[DSINST_STATES]; /* how many are in each state */

    uint64_t uuid_msb, uuid_lsb;

    /* svc/session_timers */
    struct deadline duration, stop_timeout, slow_start;
    struct deadline snapshot, clear, periodic_flush;
    struct task clearing;
    uint32_t clear_next; /* ProducerID from which on producers are still to be told */

    /* svc/session_flush */
    struct session_flush **flushes; /* own: pending ones, ascending id */
    uint32_t nflushes, flushes_room;
    uint32_t nasking;             /* of them are still asking producers */
    struct list flushes_ended;    /* struct session_flush.ended: wait for a scrape */
    struct list flushes_settling; /* the same: the scrape that goes on, or is over, is theirs */
    struct scrape flush_scrape;
    bool flush_scraping;
    struct task settling_flushes; /* tells the requesters */
    uint64_t flushes_requested, flushes_succeeded, flushes_failed;
    uint32_t final_flush_outcome; /* 0, 1 succeeded, 2 failed */
    struct scrape scrape;         /* at the end of a stop */

    /* svc/session_events */
    struct session_event *events; /* own: in order of time */
    size_t nevents;
    bool all_started; /* the notification was given (R28) */
    bool slow_start_done;
    size_t events_cap;
    struct bytesbuf concurrent; /* struct session_concurrent and its packet, again and again */
    uint32_t nconcurrent;

    /* svc/session_read */
    struct clocksnap initial_clocks;
    bool has_initial_clocks;     /* taken (R205) */
    bool initial_clocks_pending; /* and not emitted yet */
    struct clocksnap_ring clocks;
    bool preamble_done, relay_clocks_done;
    bool emit_sync, emit_stats;
    /* Our own packets of the batch: before and behind those of producers, each with its size as a
     * uint32 before it, and the statistics. */
    struct bytesbuf scratch, ending, stats;
    uint8_t *trailers; /* own: the trusted fields of the packets of a batch */
    size_t trailers_size;
    struct iovec *parts; /* own: the pieces of the packet at hand */
    size_t nparts;       /* room */
    struct session_ids ids;
    uint64_t invalid_packets;
    enum session_read_stage stage;
    struct session_own own;
    size_t own_at;              /* in scratch or ending: the next packet */
    struct session_large large; /* svc/session_large */
    struct session_pipe pipe;   /* svc/session_pipe */
    struct filter *filter;      /* own; NULL: none */
    struct compress *compress;  /* own; NULL: none */

    /* svc/session_file */
    struct filewr *file; /* own; NULL: does not write into a file, or no longer */
    struct task drain;
    struct deadline drain_timer;
    bool draining;    /* a drain is going on */
    bool file_final;  /* the last drain was asked for: session_stopped follows */
    bool file_over;   /* nothing more is written, the file is being closed */
    bool file_failed; /* and `error` says so */

    /* svc/session_trigger */
    struct list triggers; /* struct session_trigger, in order of arrival */
    uint32_t ntriggers;
    size_t trigger_texts; /* bytes of the names in them */
    bool triggered;       /* one was received, ever (R102) */
    struct deadline trigger_timeout, trigger_stop;
    struct list trigger_clones; /* clone_trigger_hit events to come */

    /* svc/session_clone */
    struct list clones;                    /* struct session_clone, of which this is the source */
    struct session_clone *making;          /* own: this is the clone; NULL: all is copied */
    struct task copying;                   /* copies its buffers */
    struct session_trigger *clone_trigger; /* own: for clone_snapshot_trigger (R220) */
    bool clone_trigger_done;
    bool clone_had_file; /* its data went into a file, too (R221) */

    struct prioboost boost; /* priority of our thread (R254) */
};

#endif
