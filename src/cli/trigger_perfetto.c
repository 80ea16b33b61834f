/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trigger_perfetto: tells the tracing service that something happened (R801..R804).
 *
 * Options that it does not know are ignored with a warning: scripts may be newer than the program,
 * and a trigger that is not sent is a trace that is lost.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/opts.h"
#include "cli/trigger.h"
#include "reactor/alloc.h"
#include "reactor/bytes.h"
#include "reactor/version.h"

static int run(int argc, char **argv, struct bytes_view *names)
{
    struct opts_scan s;
    const char *arg;
    enum opts_id id;
    size_t n = 0;
    bool empty = false;

    opts_scan_init(&s, opts_trigger_perfetto, argc, argv);
    while ((id = opts_next(&s, &arg)) != OPTS_END) {
        if (id == OPTS_HELP) {
            opts_help(stdout, opts_trigger_perfetto);
            return 0;
        }
        if (id == OPTS_VERSION) {
            puts(VERSION_TEXT);
            return 0;
        }
        if (id == OPTS_BAD)
            fprintf(stderr, "trigger_perfetto: ignoring the unknown option %s\n", s.bad);
        else if (*arg != '\0')
            names[n++] = bytes_str(arg);
        else
            empty = true;
    }
    if (empty) {
        fputs("trigger_perfetto: the name of a trigger is empty; is some variable not set?\n",
              stderr);
        return 1;
    }
    if (n == 0) {
        fputs("trigger_perfetto: no trigger named\n", stderr);
        opts_usage(stderr, opts_trigger_perfetto);
        return 1;
    }
    return trigger_send("trigger_perfetto", names, n);
}

int main(int argc, char **argv)
{
    struct bytes_view *names = alloc_array((size_t)argc + 1, sizeof(*names));
    int code = run(argc, argv, names);

    free(names);
    return code;
}
