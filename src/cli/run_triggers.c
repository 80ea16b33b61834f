/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configs with activate_triggers.
 *
 * Such a config sends its triggers and records nothing (R720): no session is started, and no output
 * is opened even if one is named. Background and notification work as for a recording, with the
 * answer of the service as the outcome.
 */
#include <stdlib.h>

#include "cli/bg.h"
#include "cli/run.h"
#include "cli/trigger.h"
#include "reactor/alloc.h"

int run_triggers(struct cmdline *cl)
{
    size_t n = cl->conf.facts.n_activate_triggers;
    struct bytes_view *names = alloc_array(n, sizeof(*names));
    struct bg_notify notify;
    int code = CMDLINE_GO_ON;

    bg_notify_init(&notify);
    if (cl->notify_fd >= 0)
        bg_notify_add(&notify, cl->notify_fd);
    if (cl->background)
        code = bg_daemonize(cl->background_wait, &notify);
    if (code == CMDLINE_GO_ON) {
        for (size_t i = 0; i < n; i++)
            names[i] = traceconf_trigger(&cl->conf, i);
        code = trigger_send("perfetto", names, n);
        bg_notify_send(&notify, (unsigned char)code);
    }
    free(names);
    return code;
}
