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

#include "reactor/list.h"

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

struct dsinst {
    struct list in_session;    /* ascending ProducerID, then order of setup */
    struct list in_producer;   /* order of setup */
    struct session *session;   /* borrow */
    struct producer *producer; /* borrow */
    struct dsconfig *config;   /* ref */
    uint64_t id;
    uint16_t target; /* config index of its buffer */
    enum dsinst_state state;
    bool will_notify_on_start, will_notify_on_stop; /* as at setup (R24) */
    bool handles_incremental_clear, no_flush;
    bool acked; /* the ack of the state it is in is on its way to the session */
    char *name; /* own: data source name */
    size_t name_len;
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

/* Sets up all that matches: at EnableTracing, in the order of R65. */
void dsinst_setup_all(struct session *s);

/* The session's config is about to change or go: forgets what was made of it. */
void dsinst_forget_configs(struct session *s);

/* A registration appeared: sets it up in every session that wants it, and starts it where the
 * session runs (R62). */
void dsinst_setup_late(struct service *svc, struct datasource *ds);

/* The filters of a running session changed (R195). */
void dsinst_setup_changed(struct session *s);

/* StartDataSource. */
void dsinst_start(struct dsinst *i);

/* StopDataSource; immediate: nobody waits for its ack. Nothing when it stops or has stopped. */
void dsinst_stop(struct dsinst *i, bool immediate);

/* Unlinks and frees it, without a word to anybody. */
void dsinst_free(struct dsinst *i);

/* All instances of a producer with that name, in every session, stop and go (R64); name_len
 * SIZE_MAX: all of them. */
void dsinst_unregister(struct producer *p, const char *name, size_t name_len);

/* Finds an instance of that producer; NULL when it is unknown or somebody else's. */
struct dsinst *dsinst_find(const struct producer *p, uint64_t id);

#endif
