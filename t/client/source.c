/* SPDX-License-Identifier: Apache-2.0 */
#include "source.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void note(struct source *s, const char *what, const struct ds_inst *inst)
{
    size_t n = strlen(s->log);
    snprintf(s->log + n, sizeof(s->log) - n, "%s%s %llu", n ? " " : "", what,
             (unsigned long long)ds_inst_id(inst));
}

static struct source *of(const struct ds_inst *inst)
{
    return datasource_ctx(ds_inst_source(inst));
}

static int setup(struct ds_inst *inst, const struct ds_config *cfg)
{
    struct source *s = of(inst);
    note(s, "setup", inst);
    if (s->refuse)
        return EINVAL;
    s->config = *cfg;
    cr_assert_leq(cfg->len, sizeof(s->config_bytes));
    memcpy(s->config_bytes, cfg->bytes, cfg->len);
    s->inst = inst;
    s->writer = ds_inst_writer(inst);
    ds_inst_set_ctx(inst, s->writer);
    return 0;
}

static bool start(struct ds_inst *inst)
{
    note(of(inst), "start", inst);
    return !of(inst)->start_late;
}

static bool stop(struct ds_inst *inst)
{
    struct source *s = of(inst);
    note(s, "stop", inst);
    for (unsigned i = 0; i < s->write_on_stop; i++)
        source_write(s, 1000 + i);
    return !s->stop_late;
}

static bool flush(struct ds_inst *inst, uint64_t flush_id, uint64_t flags)
{
    struct source *s = of(inst);
    note(s, "flush", inst);
    s->flush_id = flush_id;
    s->flags = flags;
    if (s->flush_late)
        return false;
    writer_flush(ds_inst_ctx(inst), NULL, NULL);
    return true;
}

static void clear_incremental(struct ds_inst *inst)
{
    note(of(inst), "clear", inst);
}

static void destroy(struct ds_inst *inst)
{
    struct source *s = of(inst);
    note(s, "destroy", inst);
    if (!s->keep_writer)
        writer_free(ds_inst_ctx(inst));
}

const struct datasource_ops source_ops = {
    .setup = setup,
    .start = start,
    .stop = stop,
    .flush = flush,
    .clear_incremental = clear_incremental,
    .destroy = destroy,
};

void source_add(struct source *s, struct prodlink *link, const char *name)
{
    const struct datasource_def def = {
        .name = name,
        .ops = &source_ops,
        .ctx = s,
        .will_notify_on_start = true,
        .will_notify_on_stop = true,
        .handles_incremental_state_clear = true,
    };
    cr_assert_eq(datasource_register(link, &def, &s->ds), 0);
}

void source_write(struct source *s, uint64_t n)
{
    pbw_varint(writer_begin(s->writer), 8, n);
    writer_end(s->writer);
}
