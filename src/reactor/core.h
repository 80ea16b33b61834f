/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_CORE_H
#define REACTOR_CORE_H

/*
 * What the parts of the loop share. Only src/reactor/{reactor,actor,deadline,watch,sig}.c
 * include this; everybody else uses their headers.
 */

#include "reactor/deadline.h"
#include "reactor/idmap.h"
#include "reactor/list.h"
#include "reactor/reactor.h"

struct event;
struct event_base;

/* One entry of a deadline queue; due and order are copies, so that sifting touches one array. */
struct core_due {
    uint64_t due;
    uint64_t order;
    struct deadline *deadline; /* borrow */
};

/* A binary heap by (due, order). */
struct core_queue {
    struct core_due *heap; /* own */
    uint32_t n;
    uint32_t cap;
};

struct core_deferred {
    reactor_cb *cb;
    void *arg; /* borrow */
};

/* FIFO ring of deferred calls; cap is a power of two. */
struct core_fifo {
    struct core_deferred *ring; /* own */
    uint32_t head;
    uint32_t tail;
    uint32_t cap;
};

enum { CORE_CLOCKS = DEADLINE_BOOT + 1 };

struct reactor {
    struct event_base *base; /* own */
    struct event *timer;     /* own: ends the wait at the next deadline */
    struct event *boot_ev;   /* own: a timerfd on the boot clock, made when first needed */
    int boot_fd;             /* own, -1 until needed */
    uint64_t boot_set;       /* what the timerfd is set to, 0: nothing */
    bool stop;

    struct core_queue due[CORE_CLOCKS];
    uint64_t order; /* last arming of a deadline */

    struct core_fifo deferred;
    struct list fired;   /* struct watch whose descriptor was found ready in this tick */
    struct list signals; /* reactor_hook of struct sig with a delivery */
    struct list writes;  /* reactor_hook */
    struct list reaps;   /* reactor_hook */

    struct mailbox_table table;
    struct idmap actors; /* id -> struct actor, borrow */
    uint64_t last_actor_id;
    uint32_t actor_budget;
    struct list ready; /* actors with messages and budget left in this tick */
    struct list spent; /* actors with messages that have used up their budget in this tick */

    uint64_t tick; /* number of the tick that is going on */
    size_t task_budget;
    struct slices slices;
    uint64_t busy_start; /* when the first callback of this tick began, 0: none yet */
    uint64_t metrics[REACTOR_METRICS];
    char reaped[SLICES_NAME]; /* the detail of a reaped actor's slice */
};

/* A slice begins now. */
void core_slice_begin(struct reactor *r);

/* The slice of `name` ends; the next one begins. */
void core_slice_end(struct reactor *r, const char *name);

/* Step 3: deadlines that were due when it began. */
void core_deadlines_run(struct reactor *r);

/* Nanoseconds to the next deadline on either clock, UINT64_MAX when there is none. */
uint64_t core_deadlines_left(const struct reactor *r);

/* Due time of the next deadline on a clock, UINT64_MAX when there is none. */
uint64_t core_next_due(const struct reactor *r, enum deadline_clock clock);

/* Frees the queues; deadlines that are still armed become disarmed. */
void core_deadlines_fini(struct reactor *r);

/* Step 1, after the wait: callbacks of the watches in r->fired. */
void core_watches_run(struct reactor *r);

/* Step 5. */
void core_mailboxes_run(struct reactor *r);

#endif
