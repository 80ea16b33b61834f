/* SPDX-License-Identifier: Apache-2.0 */
/*
 * perfetto: records traces, controls sessions, looks at the service, reads traces back.
 *
 * The command line says which of these it is (cli/cmdline); each has its file. Modes of files are
 * exact, so the umask is cleared before anything is created (R204).
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cmdline.h"
#include "cli/inspect.h"
#include "cli/pbprint.h"
#include "cli/query.h"
#include "cli/run.h"
#include "reactor/log.h"

static int query(const struct cmdline *cl)
{
    struct query_options o = {
        .raw = cl->query_raw,
        .all = cl->query_long,
        .colour = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL,
        .is_root = geteuid() == 0,
    };

    return query_run(&o);
}

static int run(struct cmdline *cl)
{
    switch (cl->action) {
    case CMDLINE_INSPECT:
        return inspect_run(cl->inspect, cl->format);
    case CMDLINE_PRINT_CONFIG:
        return pbprint_config(bytesbuf_view(&cl->conf.config));
    case CMDLINE_QUERY:
        return query(cl);
    case CMDLINE_CLONE:
        return run_clone(cl);
    case CMDLINE_SAVE_ALL:
        return run_save_all(cl);
    case CMDLINE_TRIGGERS:
        return run_triggers(cl);
    default:
        return run_record(cl);
    }
}

int main(int argc, char **argv)
{
    struct cmdline cl;
    int rc;

    (void)umask(0);
    log_init("perfetto");
    rc = cmdline_parse(&cl, argc, argv);
    if (rc == CMDLINE_GO_ON)
        rc = run(&cl);
    cmdline_fini(&cl);
    return rc;
}
