/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inherited sockets, readiness, and starting a child with both. The variables of these protocols
 * are untrusted text: a wrong one is a line for the user, never a wrong descriptor used. Whatever
 * is consumed is removed from the environment, so that grandchildren do not act on it.
 *
 * A child is started by fork and exec. Between the two only async-signal-safe calls are made, as
 * the parent may have threads: its environment is built before the fork, with blanks where the
 * child writes its own pid.
 */

#include "ipc/activate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "reactor/str.h"

#define FIRST_FD 3 /* where inherited sockets begin, by the protocol */

/* ---- inherited sockets ---- */

static int set_flags(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}

static bool is_socket(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Number of descriptors announced for this process; 0 also when there are none. */
static int announced(uint64_t *count, char *err, size_t errlen)
{
    const char *pid = getenv("LISTEN_PID");
    const char *fds = getenv("LISTEN_FDS");
    uint64_t number = 0;
    *count = 0;
    if (pid == NULL || fds == NULL)
        return 0;
    if (!str_to_u64(pid, &number)) {
        snprintf(err, errlen, "LISTEN_PID=%.32s is no process id; unset it", pid);
        return -EINVAL;
    }
    if (number != (uint64_t)getpid())
        return 0;
    if (!str_to_u64(fds, &number)) {
        snprintf(err, errlen, "LISTEN_FDS=%.32s is no number; unset it", fds);
        return -EINVAL;
    }
    if (number > ACTIVATE_FDS_MAX) {
        snprintf(err, errlen, "LISTEN_FDS=%.32s: at most %d sockets can be passed", fds,
                 ACTIVATE_FDS_MAX);
        return -E2BIG;
    }
    *count = number;
    return 0;
}

static void name_fds(struct activate_set *set, const char *names)
{
    const char *part = NULL;
    size_t len = 0;
    size_t i = 0;
    for (; i < set->count; i++)
        str_copy(set->fds[i].name, sizeof(set->fds[i].name), "unknown");
    i = 0;
    for (const char *it = names; names != NULL && str_next(&it, ':', &part, &len); i++) {
        if (i < set->count && len < sizeof(set->fds[i].name)) {
            memcpy(set->fds[i].name, part, len);
            set->fds[i].name[len] = '\0';
        }
    }
}

int activate_collect(struct activate_set *set, char *err, size_t errlen)
{
    struct activate_set s;
    uint64_t count = 0;
    memset(&s, 0, sizeof(s));
    memset(set, 0, sizeof(*set));
    int rc = announced(&count, err, errlen);
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        int fd = FIRST_FD + (int)i;
        rc = set_flags(fd);
        if (rc == 0 && !is_socket(fd))
            rc = -ENOTSOCK;
        if (rc != 0)
            snprintf(err, errlen, "inherited descriptor %d (LISTEN_FDS=%llu): %s", fd,
                     (unsigned long long)count, err_text(rc));
        s.fds[i].fd = fd;
        s.count = (size_t)i + 1;
    }
    if (rc != 0)
        return rc;
    name_fds(&s, getenv("LISTEN_FDNAMES"));
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    *set = s;
    return 0;
}

static bool name_matches(const char *have, const char *want)
{
    return strcmp(have, want) == 0 || (str_ends(have, ".socket") && strstr(have, want) != NULL);
}

int activate_take(struct activate_set *set, const char *name)
{
    for (size_t i = 0; i < set->count; i++) {
        struct activate_fd *a = &set->fds[i];
        if (!a->taken && name_matches(a->name, name)) {
            a->taken = true;
            return a->fd;
        }
    }
    return -ENOENT;
}

size_t activate_fini(struct activate_set *set)
{
    size_t closed = 0;
    for (size_t i = 0; i < set->count; i++) {
        if (set->fds[i].taken)
            continue;
        close(set->fds[i].fd);
        closed++;
    }
    set->count = 0;
    return closed;
}

/* A descriptor number from a variable. */
static int fd_of(const char *var, const char *text, int *out, char *err, size_t errlen)
{
    uint64_t fd = 0;
    if (!str_to_u64(text, &fd) || fd > INT32_MAX) {
        snprintf(err, errlen, "%s=%.32s is no file descriptor; give a number or unset it", var,
                 text);
        return -EINVAL;
    }
    if (fcntl((int)fd, F_GETFD) < 0) {
        snprintf(err, errlen, "%s=%.32s: no such descriptor is open; unset it", var, text);
        return -EBADF;
    }
    *out = (int)fd;
    return 0;
}

int activate_android(int *producer, int *consumer, char *err, size_t errlen)
{
    static const char prod_var[] = "ANDROID_SOCKET_traced_producer";
    static const char cons_var[] = "ANDROID_SOCKET_traced_consumer";
    const char *prod = getenv(prod_var);
    const char *cons = getenv(cons_var);
    int p = -1;
    int c = -1;
    if (prod == NULL && cons == NULL)
        return 0;
    if (prod == NULL || cons == NULL) {
        snprintf(err, errlen, "%s is set without %s; set both or neither",
                 prod != NULL ? prod_var : cons_var, prod != NULL ? cons_var : prod_var);
        return -EINVAL;
    }
    int rc = fd_of(prod_var, prod, &p, err, errlen);
    if (rc == 0)
        rc = fd_of(cons_var, cons, &c, err, errlen);
    if (rc != 0)
        return rc;
    *producer = p;
    *consumer = c;
    return 1;
}

/* ---- readiness ---- */

int activate_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    if (path == NULL || path[0] == '\0')
        return 0;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || len >= sizeof(un.sun_path))
        return -EINVAL;
    memcpy(un.sun_path, path, len);
    if (path[0] == '@')
        un.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    socklen_t addrlen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    ssize_t n = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&un, addrlen);
    int rc = n < 0 ? -errno : 1;
    close(fd);
    return rc;
}

int activate_notify_status(const char *fmt, ...)
{
    char text[512] = "STATUS=";
    size_t at = strlen(text);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + at, sizeof(text) - at, fmt, ap);
    va_end(ap);
    for (char *p = text + at; *p != '\0'; p++) {
        if (*p == '\n') /* would begin another assignment */
            *p = ' ';
    }
    return activate_notify(text);
}

int activate_ready(const char *fdvar, char *err, size_t errlen)
{
    const char *text = fdvar != NULL ? getenv(fdvar) : NULL;
    activate_notify("READY=1"); /* a manager that went away is no reason not to serve */
    if (text == NULL)
        return 0;
    int fd = -1;
    int rc = fd_of(fdvar, text, &fd, err, errlen);
    if (rc != 0)
        return rc;
    ssize_t n;
    do
        n = write(fd, "1", 1);
    while (n < 0 && errno == EINTR);
    if (n != 1) {
        rc = n < 0 ? -errno : -EIO;
        snprintf(err, errlen, "cannot report readiness to %s=%s: %s", fdvar, text, err_text(rc));
    }
    close(fd);
    unsetenv(fdvar);
    return rc;
}

uint64_t activate_watchdog_ns(void)
{
    const char *usec = getenv("WATCHDOG_USEC");
    const char *pid = getenv("WATCHDOG_PID");
    uint64_t period = 0;
    uint64_t owner = 0;
    if (usec == NULL || !str_to_u64(usec, &period) || period > UINT64_MAX / CHRONO_US)
        return 0;
    if (pid != NULL && (!str_to_u64(pid, &owner) || owner != (uint64_t)getpid()))
        return 0;
    return period * CHRONO_US / 2;
}
