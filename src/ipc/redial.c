/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for a service. After a failed attempt a deadline runs, and for a filesystem address an
 * inotify watch on the directory cuts it short when the socket's name appears (R80). The name
 * appears at bind, a moment before listen: an attempt made then may still be refused, so the next
 * few delays after such an event are short ones. It never dials itself and never gives up; its
 * owner does.
 */

#include "ipc/redial.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>
#include "ipc/sockname.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/reactor.h"
#include "reactor/str.h"
#include "reactor/watch.h"

#define QUICK_TRIES 5u
#define QUICK_NS    (20 * CHRONO_MS)

struct redial {
    struct reactor *reactor; /* borrow */
    void (*fn)(void *arg);
    void *arg; /* borrow */
    struct redial_policy policy;
    struct deadline deadline;
    struct watch watch;
    struct reactor_hook reap;
    int inotify; /* own; -1 when not used */
    unsigned failures;
    unsigned quick; /* short delays left since the name appeared */
    bool waiting;
    char dir[SOCKNAME_TEXT_MAX];
    char base[SOCKNAME_TEXT_MAX]; /* "" when there is no file to wait for */
};

const struct redial_policy redial_sdk = {
    .first_ns = CHRONO_SEC,
    .step_ns = CHRONO_SEC,
    .limit_ns = 10 * CHRONO_SEC,
    .after_ns = 30 * CHRONO_SEC,
};

const struct redial_policy redial_daemon = {
    .first_ns = 200 * CHRONO_MS,
    .step_ns = 0,
    .limit_ns = 30 * CHRONO_SEC,
    .after_ns = 30 * CHRONO_SEC,
};

uint64_t redial_delay_ns(const struct redial_policy *policy, unsigned failures)
{
    uint64_t delay = policy->first_ns;
    for (unsigned i = 1; i < failures && delay <= policy->limit_ns; i++)
        delay = policy->step_ns != 0 ? delay + policy->step_ns : delay * 2;
    return delay <= policy->limit_ns ? delay : policy->after_ns;
}

static void go(struct redial *rd)
{
    rd->waiting = false;
    deadline_cancel(&rd->deadline);
    if (rd->inotify >= 0)
        watch_set(&rd->watch, 0);
    rd->fn(rd->arg);
}

static void on_deadline(void *arg)
{
    go(arg);
}

/* Reads all events; true when one is about our name. */
static bool read_events(struct redial *rd)
{
    union {
        struct inotify_event align;
        char space[4096];
    } buf;
    bool seen = false;
    for (;;) {
        ssize_t n = read(rd->inotify, buf.space, sizeof(buf.space));
        if (n <= 0)
            return seen;
        for (ssize_t at = 0; at < n;) {
            struct inotify_event ev;
            memcpy(&ev, buf.space + at, sizeof(ev));
            const char *name = buf.space + at + sizeof(ev);
            if (ev.len != 0 && strcmp(name, rd->base) == 0)
                seen = true;
            at += (ssize_t)(sizeof(ev) + ev.len);
        }
    }
}

static void on_inotify(void *arg, unsigned event)
{
    struct redial *rd = arg;
    (void)event;
    if (!read_events(rd) || !rd->waiting)
        return;
    rd->quick = QUICK_TRIES;
    go(rd);
}

/* Best effort: without inotify, or without the directory, the delays alone do. */
static void start_inotify(struct redial *rd)
{
    if (rd->base[0] == '\0' || rd->inotify >= 0)
        return;
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0)
        return;
    if (inotify_add_watch(fd, rd->dir, IN_CREATE | IN_MOVED_TO) < 0) {
        close(fd);
        return;
    }
    rd->inotify = fd;
    watch_init(&rd->watch, rd->reactor, "redial", fd, on_inotify, rd);
}

static void stop_inotify(struct redial *rd)
{
    if (rd->inotify < 0)
        return;
    watch_fini(&rd->watch);
    close(rd->inotify);
    rd->inotify = -1;
}

/* "/a/b" is b in /a, "/b" is b in /, "b" is b in the current directory. */
static void split_path(struct redial *rd, const char *path)
{
    const char *slash = strrchr(path, '/');
    str_copy(rd->base, sizeof(rd->base), slash != NULL ? slash + 1 : path);
    if (slash == NULL)
        str_copy(rd->dir, sizeof(rd->dir), ".");
    else if (slash == path)
        str_copy(rd->dir, sizeof(rd->dir), "/");
    else
        snprintf(rd->dir, sizeof(rd->dir), "%.*s", (int)(slash - path), path);
}

static void reap(void *arg)
{
    free(arg);
}

struct redial *redial_new(struct reactor *reactor, const char *address,
                          const struct redial_policy *policy, void (*fn)(void *arg), void *arg)
{
    struct redial *rd = alloc_new(struct redial);
    rd->reactor = reactor;
    rd->fn = fn;
    rd->arg = arg;
    rd->policy = *policy;
    rd->inotify = -1;
    deadline_init(&rd->deadline, reactor, "redial", on_deadline, rd);
    reactor_hook_init(&rd->reap, "redial reap", reap, rd);
    if (sockname_family_of(address) == SOCKNAME_PATH)
        split_path(rd, address);
    /* Before the first attempt, so that a name which appears during it is not missed. */
    start_inotify(rd);
    return rd;
}

void redial_free(struct redial *rd)
{
    if (rd == NULL)
        return;
    deadline_cancel(&rd->deadline);
    stop_inotify(rd);
    reactor_reap_later(rd->reactor, &rd->reap);
}

void redial_failed(struct redial *rd)
{
    uint64_t delay;
    rd->waiting = true;
    if (rd->quick != 0) {
        rd->quick--;
        delay = QUICK_NS;
    } else {
        rd->failures++;
        delay = redial_delay_ns(&rd->policy, rd->failures);
    }
    start_inotify(rd);
    if (rd->inotify >= 0)
        watch_set(&rd->watch, WATCH_READ);
    deadline_arm(&rd->deadline, delay);
}

void redial_done(struct redial *rd, bool forget)
{
    rd->waiting = false;
    rd->quick = 0;
    deadline_cancel(&rd->deadline);
    stop_inotify(rd);
    if (forget)
        rd->failures = 0;
}

unsigned redial_failures(const struct redial *rd)
{
    return rd->failures;
}

bool redial_is_waiting(const struct redial *rd)
{
    return rd->waiting;
}
