/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_SIG_H
#define REACTOR_SIG_H

/*
 * Signals through the loop: nothing runs in signal context, callbacks come in step 2 of a tick, in
 * the order of arrival. Several deliveries before that step make one call. Only one reactor per
 * process may hold signals (libevent keeps one handler per process), so a library never does.
 */

#include "reactor/reactor.h"

struct event;

struct sig {
    struct reactor *reactor;  /* borrow */
    struct event *ev;         /* own */
    struct reactor_hook pend; /* queued while a delivery waits for step 2 */
};

/* Catches signo (TERM, INT, HUP, USR1, USR2, CHLD...) until sig_fini. 0 or -errno. */
int sig_init(struct sig *s, struct reactor *r, int signo, reactor_cb *cb, void *arg);

/* Restores what the signal did before. Harmless when zeroed or done twice. */
void sig_fini(struct sig *s);

/* SIGPIPE off for the process: a write to a closed pipe returns EPIPE. Daemons and tools call it
 * first; the library uses MSG_NOSIGNAL instead. */
void sig_ignore_pipe(void);

#endif
