/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_WATCH_H
#define REACTOR_WATCH_H

/*
 * Readiness of a file descriptor. Level-triggered: a watch fires in every tick (step 1) while the
 * descriptor is ready and the watch is on, and a watch switched on in a tick fires in the next one
 * at the earliest. A peer's hang-up or a socket error makes it ready for whatever is watched.
 *
 * Sockets, pipes, eventfds and tracefs pipes can be watched; regular files cannot (epoll refuses
 * them with EPERM), they are always ready and belong into a task (reactor/task.h).
 */

#include "reactor/reactor.h"

enum { WATCH_READ = 1, WATCH_WRITE = 2 };

/* Called with WATCH_READ, with WATCH_WRITE, in this order when both are there.
 * May switch this or any other watch on and off and may call watch_fini on them; memory that holds
 * a watch is freed at reap only. */
typedef void watch_cb(void *arg, unsigned event);

struct event;

struct watch {
    struct reactor *reactor; /* borrow */
    struct event *on_read;   /* own; NULL until watched */
    struct event *on_write;  /* own; NULL until watched */
    watch_cb *cb;
    void *arg;         /* borrow */
    const char *name;  /* borrow, for the slice metrics */
    struct list fired; /* in the reactor's list from readiness to callback */
    int fd;            /* borrow: the owner closes it, after watch_fini */
    unsigned events;   /* what is watched */
    unsigned ready;    /* what was found ready in this tick */
};

/* Off. Allocates nothing. */
void watch_init(struct watch *w, struct reactor *r, const char *name, int fd, watch_cb *cb,
                void *arg);

/* Switches to WATCH_READ, WATCH_WRITE, both or 0. 0, or -errno (-EPERM for regular files, -EBADF,
 * -ENOMEM, -ENOSPC past /proc/sys/fs/epoll/max_user_watches); then it is off altogether. */
int watch_set(struct watch *w, unsigned events);

static inline unsigned watch_events(const struct watch *w)
{
    return w->events;
}

/* Off for good; before the descriptor is closed. Harmless when done twice. */
void watch_fini(struct watch *w);

#endif
