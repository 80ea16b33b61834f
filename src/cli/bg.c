/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Background mode.
 *
 * One fork (R107): the child is its own session before the parent prints its PID, so that from the
 * moment somebody can read the number neither a hang-up nor Ctrl-C reaches it. There is no second
 * fork and no PID file; the number printed is the number to signal.
 */
#include "cli/bg.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "reactor/chrono.h"

void bg_notify_init(struct bg_notify *n)
{
    n->fd[0] = n->fd[1] = -1;
    n->n = 0;
}

void bg_notify_add(struct bg_notify *n, int fd)
{
    n->fd[n->n++] = fd;
}

void bg_notify_send(struct bg_notify *n, unsigned char status)
{
    for (size_t i = 0; i < n->n; i++) {
        while (write(n->fd[i], &status, 1) < 0 && errno == EINTR)
            ;
        close(n->fd[i]);
    }
    bg_notify_init(n);
}

/* The child: cut off from terminal, folder and standard streams. */
static void detach_process(void)
{
    int null;

    (void)setsid();
    if (chdir("/") != 0)
        return;
    null = open("/dev/null", O_RDWR);
    if (null < 0)
        return;
    for (int fd = 0; fd < 3; fd++)
        (void)dup2(null, fd);
    if (null > 2)
        close(null);
}

/* Waits for one byte or the end of the pipe. Returns the byte, -1 at the end, -2 for neither. */
static int wait_byte(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t end = chrono_mono_ns() + (uint64_t)ms * CHRONO_MS, now;
    unsigned char byte;

    while ((now = chrono_mono_ns()) < end) {
        int r = poll(&p, 1, (int)((end - now) / CHRONO_MS) + 1);
        if (r == 0 || (r < 0 && errno == EINTR))
            continue;
        if (r < 0)
            return -1;
        return read(fd, &byte, 1) == 1 ? byte : -1;
    }
    return -2;
}

static int parent(long pid, int ready, int status)
{
    char byte;
    int r;

    while (read(ready, &byte, 1) < 0 && errno == EINTR)
        ;
    close(ready);
    printf("%ld\n", pid);
    fflush(stdout);
    if (status < 0)
        return 0;
    r = wait_byte(status, BG_WAIT_MS);
    close(status);
    if (r == -2) {
        fprintf(stderr,
                "perfetto: not all data sources have started within %d s; process %ld goes on "
                "recording\n",
                BG_WAIT_MS / 1000, pid);
        return BG_TIMED_OUT;
    }
    if (r == -1)
        fprintf(stderr, "perfetto: background process %ld ended without a word\n", pid);
    else if (r != 0)
        fprintf(stderr,
                "perfetto: background process %ld failed with status %d; run without "
                "--background-wait to see why\n",
                pid, r);
    return r < 0 ? 1 : r;
}

int bg_daemonize(bool wait, struct bg_notify *n)
{
    int ready[2], status[2] = {-1, -1};
    pid_t pid;

    fflush(NULL);
    if (pipe2(ready, O_CLOEXEC) != 0 || (wait && pipe2(status, O_CLOEXEC) != 0) ||
        (pid = fork()) < 0) {
        int e = errno;
        fprintf(stderr, "perfetto: cannot go into the background (errno: %d, %s)\n", e,
                strerror(e));
        return 1;
    }
    if (pid > 0) {
        close(ready[1]);
        if (wait)
            close(status[1]);
        return parent((long)pid, ready[0], status[0]);
    }
    close(ready[0]);
    if (wait) {
        close(status[0]);
        bg_notify_add(n, status[1]);
    }
    detach_process();
    close(ready[1]); /* the parent reads the end of the pipe */
    return -1;
}
