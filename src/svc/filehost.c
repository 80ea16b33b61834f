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
#include "reactor/charge.h"
#include "reactor/list.h"
#include "reactor/reactor.h"
#include "reactor/watch.h"
#include "svc/filejob.h"

#define PIPE_SIZE (1 << 20) /* one batch */
#define ENDS_US   200000    /* how long its end is waited for */

struct filehost {
    int sock; /* own; -1: does not run */
    pid_t pid;
    struct list ghosts; /* struct ghost */
};

/* A child that nobody waits for. */
struct ghost {
    struct list node; /* in filehost.ghosts */
    int ctl;          /* own */
    struct watch watch;
    struct charge charge;
    struct reactor_hook reap;
};

struct filehost *filehost_new(void)
{
    struct filehost *h = alloc_new(struct filehost);
    h->sock = -1;
    list_init(&h->ghosts);
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

/* ---- children that are left alone ---- */

static void ghost_reap(void *arg)
{
    free(arg);
}

/* It has ended, or we do. */
static void lay(struct ghost *g)
{
    watch_fini(&g->watch);
    close(g->ctl);
    charge_release(&g->charge);
    list_remove(&g->node);
    reactor_reap_later(g->watch.reactor, &g->reap);
}

static void on_ghost(void *arg, unsigned event)
{
    struct ghost *g = arg;
    struct filejob_msg msg;
    int fds[FILEJOB_FDS], got;
    (void)event;
    while ((got = filejob_recv(g->ctl, MSG_DONTWAIT, &msg, fds)) > 0)
        continue;
    if (got != -EAGAIN)
        lay(g);
}

void filehost_abandon(struct filehost *h, struct reactor *r, int ctl, struct charge *charge)
{
    struct ghost *g = alloc_new(struct ghost);
    shutdown(ctl, SHUT_WR);
    g->ctl = ctl;
    g->charge = *charge;
    *charge = (struct charge){0};
    watch_init(&g->watch, r, "file left alone", ctl, on_ghost, g);
    reactor_hook_init(&g->reap, "file left alone", ghost_reap, g);
    list_push_back(&h->ghosts, &g->node);
    if (watch_set(&g->watch, WATCH_READ))
        lay(g);
}

void filehost_free(struct filehost *h)
{
    if (!h)
        return;
    while (!list_empty(&h->ghosts))
        lay(list_first(&h->ghosts, struct ghost, node));
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
