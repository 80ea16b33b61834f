/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_ACTOR_H
#define REACTOR_ACTOR_H

/*
 * An actor: an id that is never used again, a name, a handler and a mailbox. It is embedded by
 * value in what it is (a session, a producer, a consumer) and found back with list_entry:
 *
 *     static void session_handle(struct actor *a, struct mailbox_msg *m)
 *     {
 *         struct session *s = list_entry(a, struct session, actor);
 *         ...
 *     }
 *
 * Actors name each other by id only. Delivery is never from within actor_post: messages arrive in
 * the mailbox step of a tick, in order per receiver, and each actor handles at most its budget per
 * tick.
 *
 * Life: actor_init .. actor_kill .. ops->reap. From actor_kill on, messages to it are dropped and
 * counted and its handler is not called again; what waited in its mailbox is destroyed. ops->reap
 * comes once, at the reap step, and frees the container.
 */

#include "reactor/list.h"
#include "reactor/mailbox.h"
#include "reactor/reactor.h"

struct actor;

struct actor_ops {
    /* One message. Afterwards the kind's fini is run on m->data as the handler left it: a handler
     * that keeps something the payload owns sets the pointer in the payload to NULL. */
    void (*handle)(struct actor *a, struct mailbox_msg *m);
    /* The actor is dead and out of all lists; free its container. NULL: nothing to free. */
    void (*reap)(struct actor *a);
};

enum { ACTOR_NAME_MAX = 32 };

struct actor {
    uint64_t id;                 /* never 0, never reused */
    struct reactor *reactor;     /* borrow */
    const struct actor_ops *ops; /* borrow, static */
    struct mailbox mailbox;
    struct list ready;        /* in the reactor's list while messages wait */
    struct reactor_hook reap; /* queued by actor_kill */
    uint64_t turn;            /* tick that `left` is about */
    uint32_t left;            /* messages it may still handle in that tick */
    bool dead;
    char name[ACTOR_NAME_MAX]; /* "session 3", cut to fit */
};

/* Brings an actor to life with a new id. limits NULL: mailbox_default_limits. 0 or -ENOMEM (then
 * the actor is not alive, and reap will not be called). */
int actor_init(struct actor *a, struct reactor *r, const char *name, const struct actor_ops *ops,
               const struct mailbox_limits *limits);

/* From its own handler: what waits for it waits for the next tick. For handlers that have just
 * taken as long as a slice may. */
void actor_yield(struct actor *a);

/* Marks it dead; harmless when it is already. May be called from its own handler. The container
 * stays valid until ops->reap. */
void actor_kill(struct actor *a);

/* Calls cb(arg, true) when its mailbox passes the high mark, cb(arg, false) at the low one. */
void actor_on_mark(struct actor *a, mailbox_mark_cb *cb, void *arg);

/* Posts a message; payload (size bytes, of the kind's exact size) is copied, what it owns goes
 * along, in every case. 0; -ESRCH: no such actor any more, dropped and counted; -ENOBUFS: its
 * mailbox is full, dropped and counted, and the actor killed if its limits say so; -EINVAL: kind
 * and size do not fit the table (our bug, logged); -ENOMEM. */
int actor_post(struct reactor *r, uint64_t to, uint64_t from, uint16_t kind, const void *payload,
               size_t size);

/* The same with the size taken from the payload's type; payload is a pointer to the struct. */
#define ACTOR_POST(r, to, from, kind, payload)                                                     \
    actor_post((r), (to), (from), (kind), (payload), sizeof(*(payload)))

/* True while there is an actor of this id that is not dead. */
bool actor_alive(const struct reactor *r, uint64_t id);

#endif
