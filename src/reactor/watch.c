/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch: descriptors in libevent. One event for reading and one for writing per watch, made when
 * first used, so that pausing one direction is a single epoll_ctl and never disturbs the other.
 *
 * libevent's callbacks only note readiness in the reactor's fired list; our own callbacks run after
 * libevent has returned. So their order is ours (readiness order, reading before writing), they may
 * end any watch without upsetting libevent's queues, and what they switch on is looked at in the
 * next tick. Invariant: ready is part of events, switching off forgets readiness.
 */
#include "reactor/watch.h"

#include "reactor/core.h"

#include <errno.h>
#include <event2/event.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

void watch_init(struct watch *w, struct reactor *r, const char *name, int fd, watch_cb *cb,
                void *arg)
{
    *w = (struct watch){.reactor = r, .cb = cb, .arg = arg, .name = name, .fd = fd};
    list_init(&w->fired);
}

static void note_ready(struct watch *w, unsigned event)
{
    w->ready |= event;
    if (list_empty(&w->fired))
        list_push_back(&w->reactor->fired, &w->fired);
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    note_ready(arg, WATCH_READ);
}

static void on_write(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    note_ready(arg, WATCH_WRITE);
}

static void call(struct watch *w, unsigned event)
{
    if ((w->ready & event) == 0)
        return;
    w->ready &= ~event;
    w->cb(w->arg, event);
    core_slice_end(w->reactor, w->name);
}

void core_watches_run(struct reactor *r)
{
    struct list *node = NULL;
    core_slice_begin(r);
    while ((node = list_pop_front(&r->fired)) != NULL) {
        struct watch *w = list_entry(node, struct watch, fired);
        call(w, WATCH_READ);
        call(w, WATCH_WRITE);
        w->ready = 0;
    }
}

/* What libevent would complain about on stderr by itself is found out beforehand. A file's type
 * does not settle it: the pipes of tracefs look like regular files and can be watched. */
static int check_fd(int fd)
{
    struct stat st;
    struct epoll_event ev = {.events = EPOLLIN};
    if (fstat(fd, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return 0;
    int probe = epoll_create1(EPOLL_CLOEXEC);
    if (probe < 0)
        return -errno;
    int err = epoll_ctl(probe, EPOLL_CTL_ADD, fd, &ev) != 0 ? -errno : 0;
    close(probe);
    return err;
}

static int switch_on(struct watch *w, struct event **ev, short what, event_callback_fn cb)
{
    if (*ev == NULL) {
        int err = check_fd(w->fd);
        if (err != 0)
            return err;
        *ev = event_new(w->reactor->base, w->fd, (short)(what | EV_PERSIST), cb, w);
        if (*ev == NULL)
            return -ENOMEM;
    }
    errno = 0;
    if (event_add(*ev, NULL) != 0)
        return errno != 0 ? -errno : -EIO;
    return 0;
}

int watch_set(struct watch *w, unsigned events)
{
    unsigned on = events & ~w->events;
    unsigned off = w->events & ~events;
    int err = 0;
    if (off & WATCH_READ)
        event_del(w->on_read);
    if (off & WATCH_WRITE)
        event_del(w->on_write);
    if (on & WATCH_READ)
        err = switch_on(w, &w->on_read, EV_READ, on_read);
    if (err == 0 && (on & WATCH_WRITE))
        err = switch_on(w, &w->on_write, EV_WRITE, on_write);
    w->events = events;
    w->ready &= ~(on | off);
    if (err != 0)
        watch_fini(w);
    return err;
}

void watch_fini(struct watch *w)
{
    if (w->on_read != NULL)
        event_free(w->on_read);
    if (w->on_write != NULL)
        event_free(w->on_write);
    w->on_read = NULL;
    w->on_write = NULL;
    w->events = 0;
    w->ready = 0;
    list_remove(&w->fired);
}
