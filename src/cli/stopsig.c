/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals of the command line tools.
 *
 * One-shot handlers are one-shot in the kernel (SA_RESETHAND): even while the program is stuck in a
 * write to a pipe that nobody reads, the second Ctrl-C ends it. That, and the wish to know who sent
 * a signal, is why this is not reactor/sig. The handler writes two bytes to a pipe and does nothing
 * else.
 */
#include "cli/stopsig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static int write_end = -1;

static void on_signal(int signo, siginfo_t *info, void *context)
{
    /* kill, sigqueue and tgkill have codes up to 0; the terminal's driver is SI_KERNEL */
    unsigned char note[2] = {(unsigned char)signo, info->si_code <= 0};
    int e = errno;

    (void)context;
    (void)!write(write_end, note, sizeof(note));
    errno = e;
}

static void on_note(void *arg, unsigned event)
{
    struct stopsig *s = arg;
    unsigned char note[2];

    (void)event;
    if (read(s->fd, note, sizeof(note)) == (ssize_t)sizeof(note))
        s->fn(s->arg, note[0], note[1]);
}

int stopsig_init(struct stopsig *s, struct reactor *reactor, const int *signals, bool once,
                 stopsig_fn *fn, void *arg)
{
    struct sigaction sa;
    int fds[2], rc;

    memset(s, 0, sizeof(*s));
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0)
        return -errno;
    s->fd = fds[0];
    write_end = fds[1];
    s->fn = fn;
    s->arg = arg;
    watch_init(&s->watch, reactor, "signal", s->fd, on_note, s);
    rc = watch_set(&s->watch, WATCH_READ);
    if (rc != 0)
        return rc;
    memset(&sa, 0, sizeof(sa));
    sa.sa_sigaction = on_signal;
    sa.sa_flags = SA_SIGINFO | (once ? (int)SA_RESETHAND : SA_RESTART);
    for (; signals[s->n] != 0 && s->n < STOPSIG_MAX; s->n++) {
        s->signals[s->n] = signals[s->n];
        (void)sigaction(signals[s->n], &sa, NULL);
    }
    return 0;
}

void stopsig_fini(struct stopsig *s)
{
    for (int i = 0; i < s->n; i++)
        (void)signal(s->signals[i], SIG_DFL);
    watch_fini(&s->watch);
    close(s->fd);
    close(write_end);
    write_end = -1;
    s->n = 0;
}
