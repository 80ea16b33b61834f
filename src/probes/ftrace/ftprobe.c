/* SPDX-License-Identifier: Apache-2.0 */
/* ftprobe: the data source linux.ftrace, a subscription of the ftrace controller.
 *
 * It joins probe_ops and ftctl and keeps nothing but the subscription; the controller, which all
 * instances share, belongs to the mux. */
#include "probes/ftrace/ftprobe.h"

#include <stdlib.h>

#include "probes/ftrace/ftctl.h"
#include "probes/probe.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"

struct ftprobe {
    struct probe_host host;
    struct ftsub *sub; /* own */
};

static void on_pass(void *arg, const struct ftmeta *meta)
{
    struct ftprobe *f = arg;
    f->host.ftrace_pass(f->host.arg, meta);
}

static void on_flushed(void *arg, uint64_t id)
{
    struct ftprobe *f = arg;
    f->host.flush(f->host.arg);
    f->host.flushed(f->host.arg, id);
}

static int setup(const struct probe_host *host, struct bytes_view config, void **inst, char *why)
{
    struct ftprobe *f = alloc_new(struct ftprobe);
    struct ftctl_host fh = {.sink = host->sink, .pass = on_pass, .flushed = on_flushed, .arg = f};
    f->host = *host;
    int rc = ftctl_subscribe(host->ftrace, config.p, config.n, &fh, &f->sub, why);
    if (rc) {
        free(f);
        return rc;
    }
    *inst = f;
    return 0;
}

static void start(void *inst)
{
    struct ftprobe *f = inst;
    int rc = ftctl_start(f->sub);
    if (rc)
        log_error(
            "linux.ftrace: cannot switch tracing on: %s; run as root or give the daemon access to "
            "/sys/kernel/tracing",
            err_text(rc));
}

static bool flush(void *inst, uint64_t id)
{
    struct ftprobe *f = inst;
    ftctl_flush(f->sub, id);
    return false;
}

static void destroy(void *inst)
{
    struct ftprobe *f = inst;
    ftctl_unsubscribe(f->sub);
    free(f);
}

/* DataSourceDescriptor.ftrace_descriptor, present and empty (R1). */
static const uint8_t descriptor[] = {PBF_DataSourceDescriptor_ftrace_descriptor << 3 | BYTES_LEN,
                                     0};

const struct probe_ops probe_ftrace = {
    .name = "linux.ftrace",
    .config_field = PBF_DataSourceConfig_ftrace_config,
    .descriptor = descriptor,
    .descriptor_len = sizeof descriptor,
    .setup = setup,
    .start = start,
    .flush = flush,
    .destroy = destroy,
};
