/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SESSION_WALK_H
#define SVC_SESSION_WALK_H

/*
 * Walks over all instances of a session, in slices: see session_walk.c for what may happen in
 * between.
 */

#include <stdbool.h>
#include <stdint.h>

#include "reactor/list.h"
#include "reactor/task.h"
#include "svc/dsinst.h"

struct session;

enum session_walk_kind {
    SESSION_WALK_NONE,
    SESSION_WALK_SETUP,  /* all registrations that match the config; then the start, if it runs */
    SESSION_WALK_CHANGE, /* those that match since the filters changed (R195) */
    SESSION_WALK_START,  /* StartDataSource */
    SESSION_WALK_STOP,   /* StopDataSource; session_walked_stop at the end */
    SESSION_WALK_LEAVE,  /* the same for a session that is freed; session_walked_out at the end */
    SESSION_WALK_REPORT  /* the states of all to the observer (R197), as fast as it reads */
};

struct session_walk {
    struct task task;
    enum session_walk_kind kind;
    struct list *next; /* the instance whose turn it is, or the list's head */
    struct dsinst_match match;
    uint32_t duration_ms; /* of the session when the walk began: what its instances are told */
    bool immediate;       /* nobody waits for the acks of the stop */
};

void session_walk_init(struct session *s);

/* Begins a walk, in place of one that may be going on. True: it is through already, and nothing is
 * called at its end; false: it goes on in the loop. */
bool session_walk_begin(struct session *s, enum session_walk_kind kind);

/* Sends the stops that are left, now; harmless when no stop goes on. Nothing is called at the end.
 */
void session_walk_finish(struct session *s);

/* Ends a walk where it stands. */
void session_walk_cancel(struct session *s);

/* The observer has room again. */
void session_walk_room(struct session *s);

/* The instance at that node of session.instances is about to go. */
void session_walk_pass(struct session *s, struct list *node);

#endif
