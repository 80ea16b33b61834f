/* SPDX-License-Identifier: Apache-2.0 */
/* Commands of a hostile service to a producer: the input is a list of { length (1 byte), command }.
 * Two data sources take part, one of which is slow in everything; the memory is the emulated kind.
 * At the end everything must come down again, which LeakSanitizer watches. */
#include <stdint.h>
#include <stdlib.h>

#include "client/prodcmd.h"
#include "client/prodlink_priv.h"
#include "reactor/log.h"
#include "reactor/reactor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned alive;

static bool slow(const struct ds_inst *inst)
{
    return datasource_name(ds_inst_source(inst))[0] == 'b';
}

static int setup(struct ds_inst *inst, const struct ds_config *cfg)
{
    if (cfg->trace_duration_ms == 13)
        return 1;
    ds_inst_set_ctx(inst, ds_inst_writer(inst));
    alive++;
    return 0;
}

static void write_packet(struct ds_inst *inst)
{
    struct pbw *p = writer_begin(ds_inst_ctx(inst));
    pbw_varint(p, 8, ds_inst_id(inst));
    writer_end(ds_inst_ctx(inst));
}

static bool start(struct ds_inst *inst)
{
    write_packet(inst);
    return !slow(inst);
}

static bool stop(struct ds_inst *inst)
{
    write_packet(inst);
    return !slow(inst);
}

static bool flush(struct ds_inst *inst, uint64_t flush_id, uint64_t flags)
{
    writer_flush(ds_inst_ctx(inst), NULL, NULL);
    if (flags & 1)
        ds_inst_flushed(inst, flush_id);
    return !slow(inst);
}

static void destroy(struct ds_inst *inst)
{
    writer_free(ds_inst_ctx(inst));
    alive--;
}

static const struct datasource_ops ops = {
    .setup = setup,
    .start = start,
    .stop = stop,
    .flush = flush,
    .clear_incremental = write_packet,
    .destroy = destroy,
};

static void add(struct prodlink *link, const char *name)
{
    const struct datasource_def def = {
        .name = name,
        .ops = &ops,
        .will_notify_on_stop = true,
        .policy_configurable = true,
    };
    if (datasource_register(link, &def, NULL) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct prodlink_cfg cfg = {
        .producer_name = "fuzz", .socket_name = "@", .retry = PRODLINK_RETRY_NEVER};
    log_set_level(LOG_LEVEL_ERROR);
    struct reactor *r = reactor_new(NULL);
    struct prodlink *link = r ? prodlink_new(r, &cfg) : NULL;
    if (!link)
        abort();
    add(link, "a");
    add(link, "b");
    link->emulated = true;
    for (size_t at = 0; at < size;) {
        size_t len = data[at++];
        len = len < size - at ? len : size - at;
        prodcmd_handle(link, bytes_view(data + at, len));
        at += len;
    }
    prodlink_free(link);
    reactor_free(r);
    if (alive != 0)
        abort();
    return 0;
}
