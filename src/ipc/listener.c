/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A listening socket and its accept loop. Owns the socket, and knows the file it made by device and
 * inode, so that it never removes a successor's. Accepting stops for a while when descriptors run
 * low: on EMFILE and the like, and already when a new descriptor's number shows that fewer than the
 * reserve are left (the kernel always hands out the lowest free number). A level-triggered watch
 * would spin otherwise, and the rest of the process needs descriptors more than a new peer does.
 */

#include "ipc/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "reactor/alloc.h"
#include "reactor/deadline.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/reactor.h"
#include "reactor/str.h"
#include "reactor/watch.h"

struct listener {
    struct reactor *reactor; /* borrow */
    struct listener_conf conf;
    struct sockname name;
    struct watch watch;
    struct deadline retry;
    struct reactor_hook reap;
    int fd; /* own; -1 after free */
    bool paused;
    bool has_file; /* file_dev and file_ino are what we bound */
    dev_t file_dev;
    ino_t file_ino;
    char label[32];
};

unsigned long listener_raise_fd_limit(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) != 0)
        return 0;
    if (lim.rlim_cur < lim.rlim_max) {
        rlim_t soft = lim.rlim_cur;
        lim.rlim_cur = lim.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &lim) != 0)
            lim.rlim_cur = soft;
    }
    return (unsigned long)lim.rlim_cur;
}

/* ---- accepting ---- */

static void pause_accepting(struct listener *l, const char *why)
{
    if (!l->paused)
        log_warn_limited("%s socket %s pauses accepting: %s; raise the limit of open files "
                         "(LimitNOFILE=, ulimit -n)",
                         l->label, l->name.text, why);
    l->paused = true;
    watch_set(&l->watch, 0);
    deadline_arm_ms(&l->retry, DEFAULTS_IPC_ACCEPT_RETRY_MS);
}

/* True when fewer than the reserve of descriptors are left above this one. */
static bool runs_low(const struct listener *l, int fd)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) != 0 || lim.rlim_cur == RLIM_INFINITY)
        return false;
    return (rlim_t)fd + l->conf.reserve >= lim.rlim_cur;
}

/* One accept. False when the loop should stop for this tick. */
static bool accept_one(struct listener *l)
{
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        if (runs_low(l, fd)) {
            /* The peer stays welcome in the backlog's sense only: this one is served if it can be,
             * the next ones wait. */
            pause_accepting(l, "few descriptors are left");
        }
        l->conf.accepted(l->conf.arg, l, fd);
        return l->fd >= 0 && !l->paused;
    }
    switch (errno) {
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
        return true;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        pause_accepting(l, strerror(errno));
        return false;
    case EAGAIN:
        return false;
    default:
        /* Network errors of the new connection; of our own socket they would come for ever. */
        log_warn_limited("%s socket %s: accept: %s", l->label, l->name.text, strerror(errno));
        return false;
    }
}

static void on_ready(void *arg, unsigned event)
{
    struct listener *l = arg;
    (void)event;
    for (unsigned i = 0; i < l->conf.burst && l->fd >= 0; i++) {
        if (!accept_one(l))
            return;
    }
}

static void go_on(struct listener *l)
{
    l->paused = false;
    deadline_cancel(&l->retry);
    int rc = watch_set(&l->watch, WATCH_READ);
    if (rc != 0)
        log_error("%s socket %s cannot be watched: %s", l->label, l->name.text, err_text(rc));
}

static void on_retry(void *arg)
{
    struct listener *l = arg;
    if (l->fd >= 0)
        go_on(l);
}

void listener_resume(struct listener *l)
{
    if (l->fd >= 0 && l->paused)
        go_on(l);
}

/* ---- life ---- */

static void reap(void *arg)
{
    free(arg);
}

/* Owns fd on success. */
static int start(struct listener **out, struct reactor *reactor, int fd,
                 const struct sockname *name, const struct listener_conf *conf, char *err,
                 size_t errlen)
{
    struct listener *l = alloc_new(struct listener);
    l->reactor = reactor;
    l->conf = *conf;
    if (l->conf.burst == 0)
        l->conf.burst = DEFAULTS_IPC_ACCEPT_BURST;
    if (l->conf.reserve == 0)
        l->conf.reserve = DEFAULTS_IPC_FD_RESERVE;
    l->name = *name;
    str_copy(l->label, sizeof(l->label), conf->label != NULL ? conf->label : "listening");
    watch_init(&l->watch, reactor, "listener", fd, on_ready, l);
    deadline_init(&l->retry, reactor, "accept retry", on_retry, l);
    reactor_hook_init(&l->reap, "listener reap", reap, l);
    int rc = watch_set(&l->watch, WATCH_READ);
    if (rc != 0) {
        watch_fini(&l->watch);
        free(l);
        snprintf(err, errlen, "cannot watch the %s socket %s: %s", conf->label, name->text,
                 err_text(rc));
        return rc;
    }
    l->fd = fd;
    *out = l;
    return 0;
}

int listener_open(struct listener **out, struct reactor *reactor, const char *address,
                  const struct listener_conf *conf, char *err, size_t errlen)
{
    struct sockname name;
    struct listener *l = NULL;
    int rc = sockname_parse(&name, address, err, errlen);
    if (rc != 0)
        return rc;
    int fd = sockname_listen(&name, SOMAXCONN, true, err, errlen);
    if (fd < 0)
        return fd;
    rc = start(&l, reactor, fd, &name, conf, err, errlen);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    struct stat st;
    if (name.family == SOCKNAME_PATH && stat(name.text, &st) == 0) {
        l->has_file = true;
        l->file_dev = st.st_dev;
        l->file_ino = st.st_ino;
    }
    *out = l;
    return 0;
}

/* Refuses what is no stream socket; listens if nobody did. */
static int prepare(int fd, struct sockname *name)
{
    int type = 0;
    int listening = 0;
    socklen_t len = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0)
        return -errno;
    if (type != SOCK_STREAM)
        return -EPROTOTYPE;
    int rc = sockname_of_fd(name, fd);
    if (rc != 0)
        return rc;
    len = sizeof(listening);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) != 0)
        return -errno;
    if (!listening && listen(fd, SOMAXCONN) != 0)
        return -errno;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}

int listener_adopt(struct listener **out, struct reactor *reactor, int fd,
                   const struct listener_conf *conf, char *err, size_t errlen)
{
    struct sockname name;
    int rc = prepare(fd, &name);
    if (rc != 0) {
        snprintf(err, errlen,
                 "inherited descriptor %d cannot be the %s socket: %s; pass a bound stream socket",
                 fd, conf->label, err_text(rc));
        return rc;
    }
    return start(out, reactor, fd, &name, conf, err, errlen);
}

void listener_unlink(struct listener *l)
{
    struct stat st;
    if (!l->has_file)
        return;
    l->has_file = false;
    if (stat(l->name.text, &st) == 0 && st.st_dev == l->file_dev && st.st_ino == l->file_ino)
        unlink(l->name.text);
}

void listener_free(struct listener *l)
{
    if (l == NULL || l->fd < 0)
        return;
    watch_fini(&l->watch);
    deadline_cancel(&l->retry);
    close(l->fd);
    l->fd = -1;
    reactor_reap_later(l->reactor, &l->reap);
}

const struct sockname *listener_name(const struct listener *l)
{
    return &l->name;
}

int listener_fd(const struct listener *l)
{
    return l->fd;
}

bool listener_paused(const struct listener *l)
{
    return l->paused;
}

/* ---- owner and mode ---- */

/* A group by name or number. */
static int find_group(const char *group, gid_t *out)
{
    uint64_t number = 0;
    char space[4096];
    struct group gr;
    struct group *found = NULL;
    if (getgrnam_r(group, &gr, space, sizeof(space), &found) == 0 && found != NULL) {
        *out = found->gr_gid;
        return 0;
    }
    if (!str_to_u64(group, &number) || number > INT32_MAX)
        return -ENOENT;
    *out = (gid_t)number;
    return 0;
}

int listener_permit(struct listener *l, const char *group, mode_t mode, char *err, size_t errlen)
{
    gid_t gid = 0;
    const char *path = l->name.text;
    if (l->name.family != SOCKNAME_PATH) {
        snprintf(err, errlen,
                 "cannot set the permissions of the %s socket %s: it is no file; leave out "
                 "--set-socket-permissions or listen on a path",
                 l->label, path);
        return -EINVAL;
    }
    int rc = find_group(group, &gid);
    if (rc != 0) {
        snprintf(err, errlen,
                 "there is no group \"%s\" for the %s socket; create it or give a "
                 "number",
                 group, l->label);
        return rc;
    }
    if (chown(path, geteuid(), gid) != 0 || chmod(path, mode) != 0) {
        rc = -errno;
        snprintf(err, errlen,
                 "cannot give %s to group %s with mode %04o: %s; run as root or as a member", path,
                 group, (unsigned)mode, err_text(rc));
        return rc;
    }
    return 0;
}

static bool parse_mode(const char *text, mode_t *out)
{
    uint64_t mode = 0;
    if (strlen(text) != 4 || !str_to_u64_base(text, 8, &mode))
        return false;
    *out = (mode_t)mode;
    return true;
}

int listener_parse_modes(struct listener_modes *out, const char *text, char *copy, char *err,
                         size_t errlen)
{
    char *part[4];
    size_t count = 0;
    bool ok = true;
    memcpy(copy, text, strlen(text) + 1);
    for (char *at = copy; at != NULL; count++) {
        char *colon = strchr(at, ':');
        if (colon != NULL)
            *colon++ = '\0';
        ok = ok && count < 4 && *at != '\0';
        if (count < 4)
            part[count] = at;
        at = colon;
    }
    struct listener_modes modes;
    ok = ok && count == 4 && parse_mode(part[1], &modes.producer_mode) &&
         parse_mode(part[3], &modes.consumer_mode);
    if (!ok) {
        snprintf(err, errlen,
                 "\"%s\" are no socket permissions; write "
                 "PRODUCER_GROUP:MODE:CONSUMER_GROUP:MODE with modes like 0660",
                 text);
        return -EINVAL;
    }
    modes.producer_group = part[0];
    modes.consumer_group = part[2];
    *out = modes;
    return 0;
}
