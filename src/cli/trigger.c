/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Triggers from the command line.
 *
 * Without a service this ends at once and says so, where upstream waits ten seconds and ends
 * without a word (R722). The ten seconds remain the limit for a service that does not answer.
 */
#include "cli/trigger.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/trigsend.h"
#include "reactor/deadline.h"
#include "reactor/reactor.h"

#define TIMEOUT_MS 10000

struct sending {
    const char *program;     /* borrow */
    struct reactor *reactor; /* own */
    int code;
};

static void on_sent(void *arg, bool ok, const char *why)
{
    struct sending *s = arg;

    s->code = ok ? 0 : 1;
    if (!ok)
        fprintf(stderr, "%s: could not send the triggers to %s\n", s->program, why);
    reactor_stop(s->reactor);
}

static void on_timeout(void *arg)
{
    on_sent(arg, false, "the service: it does not answer");
}

int trigger_send(const char *program, const struct bytes_view *names, size_t n)
{
    struct sending s = {.program = program, .code = 1};
    struct trigsend *t;
    struct deadline timeout;
    char err[512];

    s.reactor = reactor_new(NULL);
    if (s.reactor == NULL) {
        fprintf(stderr, "%s: cannot start (errno: %d, %s)\n", program, errno, strerror(errno));
        return 1;
    }
    t = trigsend_new(s.reactor, trigsend_default_address(), names, n, on_sent, &s, err,
                     sizeof(err));
    if (t != NULL) {
        deadline_init(&timeout, s.reactor, "trigger", on_timeout, &s);
        deadline_arm_ms(&timeout, TIMEOUT_MS);
        (void)reactor_run(s.reactor);
        deadline_cancel(&timeout);
        trigsend_free(t);
    } else {
        fprintf(stderr, "%s: could not send the triggers: %s\n", program, err);
    }
    reactor_free(s.reactor);
    return s.code;
}
