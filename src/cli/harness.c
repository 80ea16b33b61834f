/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The traced command.
 *
 * It runs in our process group and on our terminal, as if we were not there: Ctrl-C reaches it from
 * the terminal, a signal sent to us is passed on. It is told to end (SIGTERM, by the kernel) if we
 * are killed. A failing exec comes back through a pipe, so that "no such program" is not mistaken
 * for a status of the program.
 */
#include "cli/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/watch.h"

struct harness {
    pid_t pid;
    int pidfd; /* own */
    struct watch watch;
    struct reactor *reactor; /* borrow */
    struct reactor_hook reap;
    harness_ended *ended;
    void *arg; /* borrow */
    bool gone;
};

static void on_exit_of(void *arg, unsigned event)
{
    struct harness *h = arg;
    int status;
    pid_t got;

    (void)event;
    do
        got = waitpid(h->pid, &status, 0);
    while (got < 0 && errno == EINTR);
    watch_fini(&h->watch);
    h->gone = true;
    if (got < 0)
        h->ended(h->arg, HARNESS_FAILED);
    else
        h->ended(h->arg, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void exec_command(char **argv, int report, pid_t parent)
{
    int e;

    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent)
        (void)execvp(argv[0], argv);
    e = errno;
    (void)!write(report, &e, sizeof(e));
    _exit(HARNESS_NOT_FOUND);
}

/* Returns the errno of a failed exec, 0 when the command runs. */
static int spawn(char **argv, pid_t *pid)
{
    pid_t parent = getpid();
    int fds[2], e = 0;
    ssize_t n;

    if (pipe2(fds, O_CLOEXEC) != 0)
        return errno;
    *pid = fork();
    if (*pid == 0)
        exec_command(argv, fds[1], parent);
    close(fds[1]);
    if (*pid < 0) {
        e = errno;
        close(fds[0]);
        return e;
    }
    do
        n = read(fds[0], &e, sizeof(e));
    while (n < 0 && errno == EINTR);
    close(fds[0]);
    if (n != (ssize_t)sizeof(e))
        return 0;
    (void)waitpid(*pid, NULL, 0);
    return e;
}

struct harness *harness_start(struct reactor *reactor, char **argv, harness_ended *ended, void *arg,
                              int *code)
{
    struct harness *h;
    pid_t pid = 0;
    int e = spawn(argv, &pid);

    if (e != 0) {
        fprintf(stderr, "perfetto: could not run %s (errno: %d, %s)\n", argv[0], e, strerror(e));
        *code = e == ENOENT ? HARNESS_NOT_FOUND : HARNESS_CANNOT_RUN;
        return NULL;
    }
    h = alloc_new(struct harness);
    h->pid = pid;
    h->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    h->reactor = reactor;
    h->ended = ended;
    h->arg = arg;
    reactor_hook_init(&h->reap, "command", free, h);
    watch_init(&h->watch, reactor, "command", h->pidfd, on_exit_of, h);
    if (h->pidfd >= 0 && watch_set(&h->watch, WATCH_READ) == 0)
        return h;
    fprintf(stderr, "perfetto: cannot watch the command: this needs Linux 5.3 or newer\n");
    (void)kill(pid, SIGTERM);
    *code = HARNESS_FAILED;
    harness_free(h);
    return NULL;
}

void harness_signal(struct harness *h, int signo)
{
    if (!h->gone)
        (void)kill(h->pid, signo);
}

void harness_free(struct harness *h)
{
    if (h == NULL)
        return;
    watch_fini(&h->watch);
    if (h->pidfd >= 0)
        close(h->pidfd);
    reactor_reap_later(h->reactor, &h->reap);
}
