/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sig: signals by way of libevent's evsignal, which writes a byte from the handler and wakes the
 * loop. libevent calls us inside its wait; we only queue a hook, and step 2 of the tick makes the
 * call. A struct sig owns its event; the disposition that was there before comes back at the end.
 */
#include "reactor/sig.h"

#include "reactor/core.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>

static void on_signal(evutil_socket_t signo, short what, void *arg)
{
    struct sig *s = arg;
    (void)signo;
    (void)what;
    if (list_empty(&s->pend.node))
        list_push_back(&s->reactor->signals, &s->pend.node);
}

int sig_init(struct sig *s, struct reactor *r, int signo, reactor_cb *cb, void *arg)
{
    if (signo <= 0 || signo >= NSIG || signo == SIGKILL || signo == SIGSTOP)
        return -EINVAL;
    struct event *ev = evsignal_new(r->base, signo, on_signal, s);
    if (ev == NULL)
        return -ENOMEM;
    errno = 0;
    if (event_add(ev, NULL) != 0) {
        int err = errno != 0 ? -errno : -EIO;
        event_free(ev);
        return err;
    }
    s->reactor = r;
    s->ev = ev;
    reactor_hook_init(&s->pend, "signal", cb, arg);
    return 0;
}

void sig_fini(struct sig *s)
{
    if (s->ev == NULL)
        return;
    event_free(s->ev);
    s->ev = NULL;
    reactor_hook_cancel(&s->pend);
}

void sig_ignore_pipe(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
}
