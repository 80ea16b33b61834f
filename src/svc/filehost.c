/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts the host of the processes that write files, and passes it what a child needs. The host is
 * a direct child of ours and lives as long as its socket; when it was killed, the next file finds
 * out, because the socket is broken, and starts another. Nothing here waits for a disk, nor for the
 * host: a request that it has not taken yet is queued in the socket.
 */
#include "svc/filehost.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "svc/filejob.h"

#define PIPE_SIZE (1 << 20) /* one batch */
#define ENDS_US   200000    /* how long its end is waited for */

struct filehost {
    int sock; /* own; -1: does not run */
    pid_t pid;
};

struct filehost *filehost_new(void)
{
    struct filehost *h = alloc_new(struct filehost);
    h->sock = -1;
    return h;
}

int filehost_start(struct filehost *h)
{
    int ends[2];
    if (h->sock >= 0)
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return -errno;
    pid_t pid = fork();
    if (pid == 0)
        filejob_host(ends[1]);
    int err = pid < 0 ? -errno : 0;
    close(ends[1]);
    if (err) {
        close(ends[0]);
        return err;
    }
    h->sock = ends[0];
    h->pid = pid;
    return 0;
}

/* It has ended or is about to, since it cannot hear anything any more. */
static void forget(struct filehost *h)
{
    const struct timeval patience = {0, ENDS_US};
    struct filejob_msg msg;
    int fds[FILEJOB_FDS];
    if (h->sock < 0)
        return;
    shutdown(h->sock, SHUT_WR);
    setsockopt(h->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    int got = filejob_recv(h->sock, 0, &msg, fds);
    close(h->sock);
    h->sock = -1;
    /* One that was stopped by somebody stays a zombie until we end. */
    while (waitpid(h->pid, NULL, got == 0 ? 0 : WNOHANG) < 0 && errno == EINTR)
        ;
}

void filehost_free(struct filehost *h)
{
    if (!h)
        return;
    forget(h);
    free(h);
}

static int ask(struct filehost *h, const int fds[FILEJOB_FDS])
{
    const struct filejob_msg msg = {.kind = FILEJOB_START};
    for (int tries = 0;; tries++) {
        int err = filehost_start(h);
        if (!err)
            err = filejob_send(h->sock, MSG_DONTWAIT, &msg, fds, FILEJOB_FDS);
        if ((err != -EPIPE && err != -ECONNRESET) || tries > 0)
            return err;
        forget(h); /* somebody has killed it */
    }
}

int filehost_child(struct filehost *h, int *data, int *ctl)
{
    int pipes[2], ends[2];
    if (pipe2(pipes, O_CLOEXEC) != 0)
        return -errno;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        int err = -errno;
        close(pipes[0]);
        close(pipes[1]);
        return err;
    }
    const int fds[FILEJOB_FDS] = {ends[1], pipes[0]};
    (void)fcntl(pipes[1], F_SETPIPE_SZ, PIPE_SIZE); /* a smaller one is only slower */
    fcntl(pipes[1], F_SETFL, O_NONBLOCK);
    int err = ask(h, fds);
    close(ends[1]);
    close(pipes[0]);
    if (err) {
        close(ends[0]);
        close(pipes[1]);
        return err;
    }
    *data = pipes[1];
    *ctl = ends[0];
    return 0;
}
