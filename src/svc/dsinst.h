/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_DSINST_H
#define SVC_DSINST_H

/*
 * A data source instance: one registration of one producer, set up for one entry of one session's
 * config (service.md 1.5, 3.5). It is listed in its session, in its producer and by id in the
 * service, and belongs to the session.
 */

#include <stdbool.h>
#include <stdint.h>

#include "reactor/bytes.h"
#include "reactor/list.h"
#include "reactor/task.h"
#include "reactor/tree.h"

struct datasource;
struct dsconfig;
struct producer;
struct service;
struct session;

/* X(constant, name) */
#define DSINST_STATE_TABLE(X)                                                                      \
    X(DSINST_CONFIGURED, "CONFIGURED")                                                             \
    X(DSINST_STARTING, "STARTING")                                                                 \
    X(DSINST_STARTED, "STARTED")                                                                   \
    X(DSINST_STOPPING, "STOPPING")                                                                 \
    X(DSINST_STOPPED, "STOPPED")

enum dsinst_state {
#define DSINST_X(constant, name) constant,
    DSINST_STATE_TABLE(DSINST_X)
#undef DSINST_X
        DSINST_STATES
};

/* The instances of one producer in one session: they stand together in session.instances. */
struct dsinst_group {
    struct tree_node node;     /* in session.groups */
    struct producer *producer; /* borrow */
    struct list *first, *last; /* struct dsinst.in_session */
    uint32_t n;
};

struct dsinst {
    struct list in_session;     /* ascending ProducerID, then order of setup */
    struct list in_producer;    /* order of setup */
    struct session *session;    /* borrow */
    struct producer *producer;  /* borrow */
    struct dsinst_group *group; /* ref */
    struct dsconfig *config;    /* ref */
    uint64_t id;
    uint16_t target; /* config index of its buffer */
    enum dsinst_state state;
    bool will_notify_on_start, will_notify_on_stop; /* as at setup (R24) */
    bool handles_incremental_clear, no_flush;
    bool acked; /* the ack of the state it is in is on its way to the session */
};

/* "STARTED"; "?" for a value that is none. */
const char *dsinst_state_name(enum dsinst_state state);

/* True when the edge is one of the state machine. */
bool dsinst_may_enter(enum dsinst_state from, enum dsinst_state to);

/* Enters a state: logs the edge and reports it to the observing consumer (R197). An illegal edge is
 * logged and refused. */
void dsinst_enter(struct dsinst *i, enum dsinst_state state);

/* Reports the state it is in to the consumer that observes, if any (R197). */
void dsinst_report(struct dsinst *i);

/* True when the registration matches the session's entry (R66). */
bool dsinst_matches(const struct session *s, size_t entry, const struct datasource *ds);

/* Sets one up: id, SMB, permission, SetupDataSource (R68). NULL when that failed; the failure was
 * dealt with. */
struct dsinst *dsinst_setup(struct session *s, size_t entry, struct datasource *ds);

/* A walk over all pairs of an entry and a registration with its name, in the order of R65. It may
 * be taken up again whatever came and went since. */
struct dsinst_match {
    size_t entry;
    uint64_t order; /* of the entry's name, registrations before this one were looked at */
    uint64_t limit; /* the last registration when it began: later ones are set up as they come */
    uint64_t first; /* the first instance that it may make */
    size_t tried;
    bool changed;
};

/* changed false: sets up all that matches, at EnableTracing. True: the filters of a session changed
 * (R195): sets up and, in a running session, starts what matches now of producers that had no
 * instance. */
void dsinst_match_begin(struct dsinst_match *m, struct session *s, bool changed);

/* True when all is looked at, false when the budget is spent. */
bool dsinst_match_step(struct dsinst_match *m, struct session *s, struct task_budget *budget);

/* The session's config is about to change or go: forgets what was made of it. */
void dsinst_forget_configs(struct session *s);

/* A registration appeared: it is set up in every session that wants it, and started where the
 * session runs (R62). */
struct dsinst_late {
    uint64_t session; /* those before this one are done */
    uint64_t limit;   /* those behind this one saw the registration when they began */
    size_t entry;
};
void dsinst_late_begin(struct dsinst_late *l, struct datasource *ds);

/* True when it is done, false when the budget is spent. */
bool dsinst_late_step(struct dsinst_late *l, struct datasource *ds, struct task_budget *budget);

/* StartDataSource. */
void dsinst_start(struct dsinst *i);

/* StopDataSource; immediate: nobody waits for its ack. Nothing when it stops or has stopped. */
void dsinst_stop(struct dsinst *i, bool immediate);

/* Unlinks and frees it, without a word to anybody. */
void dsinst_free(struct dsinst *i);

/* Stops one whose registration has gone, and frees it (R64). */
void dsinst_go(struct dsinst *i);

/* The groups of a session: an empty tree; the first one of a ProducerID or a higher one, NULL when
 * there is none. The next is that of the id behind it. */
void dsinst_groups_init(struct session *s);
struct dsinst_group *dsinst_group_from(const struct session *s, uint32_t producer);

/* Finds an instance of that producer; NULL when it is unknown or somebody else's. */
struct dsinst *dsinst_find(const struct producer *p, uint64_t id);

#endif
