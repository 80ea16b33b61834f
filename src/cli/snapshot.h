/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SNAPSHOT_H
#define CLI_SNAPSHOT_H

/* One clone of a running session, saved over a connection of its own (R715..R719). */

#include <stdbool.h>

#include "cli/pktout.h"
#include "client/conssession.h"

struct reactor;
struct snapshot;

struct snapshot_conf {
    const char *address;                   /* borrow until snapshot_new returns */
    const struct conssession_clone *clone; /* the same */
    struct pktout *out; /* borrow: open; closed when done, removed if empty after a failure */
    bool wait;          /* do not read back before snapshot_read (R733) */
    /* The clone request was answered well; may be NULL. */
    void (*cloned)(void *arg);
    /* It is saved, or it failed and the reason was printed. Once. Must not free the snapshot. */
    void (*done)(void *arg, bool ok);
    void *arg; /* borrow */
};

/* Starts it; never NULL, failures come through done. */
struct snapshot *snapshot_new(struct reactor *reactor, const struct snapshot_conf *conf);

/* With `wait`: go on. */
void snapshot_read(struct snapshot *s);

/* NULL is fine. */
void snapshot_free(struct snapshot *s);

/* Gives it up, because a signal asks for it: done(false). */
void snapshot_abort(struct snapshot *s);

#endif
