/* SPDX-License-Identifier: Apache-2.0 */
/* mux: one entry per data source instance, between client/datasource and a probe.
 *
 * The link owns the instances; an entry lives from a successful setup to the link's destroy. The
 * mux owns the ftrace controller, made anew when the last instance of a connection is gone, so that
 * a tracefs mounted later is found with the next session (R25). A probe that does not answer a
 * flush in time is answered for (R16). What ftrace saw in a pass goes to the process_stats
 * instances of the same session only (R19). */
#include "probes/mux.h"

#include <errno.h>
#include <stdlib.h>

#include "client/datasource.h"
#include "client/prodlink.h"
#include "probes/prio.h"
#include "probes/ftrace/ftctl.h"
#include "probes/probe.h"
#include "reactor/alloc.h"
#include "reactor/bytes.h"
#include "reactor/deadline.h"
#include "reactor/err.h"
#include "reactor/list.h"
#include "reactor/log.h"

#define FLUSH_LIMIT_MS 1000 /* R16 */

static const struct probe_ops *const kinds[] = {&probe_ftrace, &probe_ps, &probe_sysstats,
                                                &probe_sysinfo};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

/* What datasource_ctx() of a kind points at. */
struct kind {
    struct mux *mux;             /* borrow */
    const struct probe_ops *ops; /* borrow */
};

struct mux {
    struct reactor *r;
    const char *tracefs;
    int sysroot;
    struct ftctl *ftctl; /* own; NULL while no instance lives */
    struct list entries; /* of entry */
    unsigned n_entries;
    struct kind kinds[N_KINDS];
};

struct entry {
    struct list node;
    struct mux *mux;             /* borrow */
    const struct probe_ops *ops; /* borrow */
    void *probe;                 /* own; NULL once it was ended */
    struct ds_inst *ds;          /* borrow */
    struct writer *writer;       /* own */
    uint64_t session;
    bool started;
    struct prio prio;
    struct deadline flush_limit;
    uint64_t *flushes; /* own; ids that are not answered yet, oldest first */
    unsigned n_flushes;
};

/* ---- what a probe gets ---- */

static struct pbw *packet_begin(void *arg)
{
    struct entry *e = arg;
    return writer_begin(e->writer);
}

static void packet_end(void *arg)
{
    struct entry *e = arg;
    writer_end(e->writer);
}

static void commit(void *arg)
{
    struct entry *e = arg;
    writer_flush(e->writer, NULL, NULL);
}

/* A pass covers every flush that was asked for before it. */
static void answer_flushes(struct entry *e, uint64_t upto)
{
    unsigned n = 0;
    while (n < e->n_flushes && e->flushes[n] != upto)
        n++;
    n = n < e->n_flushes ? n + 1 : 0;
    for (unsigned i = 0; i < n; i++)
        ds_inst_flushed(e->ds, e->flushes[i]);
    for (unsigned i = n; i < e->n_flushes; i++)
        e->flushes[i - n] = e->flushes[i];
    e->n_flushes -= n;
    if (e->n_flushes == 0)
        deadline_cancel(&e->flush_limit);
}

static void flushed(void *arg, uint64_t id)
{
    answer_flushes(arg, id);
}

static void on_flush_limit(void *arg)
{
    struct entry *e = arg;
    log_info("%s: a flush takes more than %d ms; answered without waiting for it", e->ops->name,
             FLUSH_LIMIT_MS);
    if (e->n_flushes)
        answer_flushes(e, e->flushes[e->n_flushes - 1]);
}

static void ftrace_pass(void *arg, const struct ftmeta *meta)
{
    struct entry *from = arg;
    list_for_each (pos, &from->mux->entries) {
        struct entry *e = list_entry(pos, struct entry, node);
        if (e->started && e->probe && e->ops->on_ftrace && e->session == from->session)
            e->ops->on_ftrace(e->probe, meta);
    }
}

/* ---- what the link calls ---- */

static void free_entry(struct entry *e)
{
    struct mux *mux = e->mux;
    list_remove(&e->node);
    deadline_cancel(&e->flush_limit);
    writer_free(e->writer);
    prio_remove(&e->prio);
    free(e->flushes);
    free(e);
    if (--mux->n_entries)
        return;
    ftctl_free(mux->ftctl);
    mux->ftctl = NULL;
}

/* Everything of a config's messages of that number, as protobuf merges them. */
static struct bytes_view sub_config(struct bytes_view config, uint32_t field)
{
    struct bytes_field f;
    if (!bytes_find(config, field, BYTES_LEN, &f))
        return bytes_view(NULL, 0);
    return f.data;
}

static int on_setup(struct ds_inst *ds, const struct ds_config *cfg)
{
    struct kind *k = datasource_ctx(ds_inst_source(ds));
    struct mux *mux = k->mux;
    struct bytes_view config = bytes_view(cfg->bytes, cfg->len);
    char why[PROBE_WHY_MAX] = "out of memory";
    if (!mux->ftctl)
        mux->ftctl = ftctl_new(mux->r, mux->tracefs, mux->sysroot);
    struct entry *e = alloc_new(struct entry);
    e->mux = mux;
    e->ops = k->ops;
    e->ds = ds;
    e->session = cfg->session_id;
    deadline_init(&e->flush_limit, mux->r, "probe flush limit", on_flush_limit, e);
    list_push_back(&mux->entries, &e->node);
    mux->n_entries++;
    struct probe_host host = {.reactor = mux->r,
                              .ftrace = mux->ftctl,
                              .sysroot = mux->sysroot,
                              .sink = {packet_begin, packet_end, e},
                              .flush = commit,
                              .flushed = flushed,
                              .ftrace_pass = ftrace_pass,
                              .arg = e};
    e->writer = ds_inst_writer(ds); /* at setup, so that a sequence id is known before start (R5) */
    int rc = e->writer
                 ? k->ops->setup(&host, sub_config(config, k->ops->config_field), &e->probe, why)
                 : -ENOMEM;
    if (rc) {
        log_warn("%s: not recorded: %s", k->ops->name, why);
        free_entry(e);
        return rc;
    }
    prio_parse(&e->prio, config);
    prio_add(&e->prio);
    ds_inst_set_ctx(ds, e);
    return 0;
}

static bool on_start(struct ds_inst *ds)
{
    struct entry *e = ds_inst_ctx(ds);
    if (e && !e->started) {
        e->started = true;
        e->ops->start(e->probe);
    }
    return true;
}

static bool on_flush(struct ds_inst *ds, uint64_t id, uint64_t flags)
{
    struct entry *e = ds_inst_ctx(ds);
    (void)flags; /* R17 */
    if (!e || !e->started)
        return true;
    e->flushes = alloc_resize(e->flushes, e->n_flushes + 1, sizeof *e->flushes);
    e->flushes[e->n_flushes++] = id;
    if (!e->ops->flush || e->ops->flush(e->probe, id)) {
        commit(e);
        e->n_flushes--;
        return true;
    }
    deadline_arm_ms(&e->flush_limit, FLUSH_LIMIT_MS);
    return false;
}

static void on_clear(struct ds_inst *ds)
{
    struct entry *e = ds_inst_ctx(ds);
    if (e && e->started && e->ops->clear_incremental)
        e->ops->clear_incremental(e->probe);
}

/* The probe ends, and restores the kernel's state, before the stop is acknowledged (R11). */
static bool on_stop(struct ds_inst *ds)
{
    struct entry *e = ds_inst_ctx(ds);
    if (!e || !e->probe)
        return true;
    e->ops->destroy(e->probe);
    e->probe = NULL;
    e->started = false;
    commit(e);
    return true;
}

static void on_destroy(struct ds_inst *ds)
{
    struct entry *e = ds_inst_ctx(ds);
    if (!e)
        return;
    if (e->probe)
        e->ops->destroy(e->probe);
    e->probe = NULL;
    ds_inst_set_ctx(ds, NULL);
    free_entry(e);
}

static const struct datasource_ops ds_ops = {
    .setup = on_setup,
    .start = on_start,
    .stop = on_stop,
    .flush = on_flush,
    .clear_incremental = on_clear,
    .destroy = on_destroy,
};

struct mux *mux_new(struct reactor *r, const char *tracefs, int sysroot)
{
    struct mux *mux = alloc_new(struct mux);
    mux->r = r;
    mux->tracefs = tracefs;
    mux->sysroot = sysroot;
    list_init(&mux->entries);
    for (size_t i = 0; i < N_KINDS; i++)
        mux->kinds[i] = (struct kind){mux, kinds[i]};
    return mux;
}

void mux_free(struct mux *mux)
{
    if (!mux)
        return;
    ftctl_free(mux->ftctl);
    free(mux);
}

int mux_register(struct mux *mux, struct prodlink *link)
{
    for (size_t i = 0; i < N_KINDS; i++) {
        const struct probe_ops *ops = kinds[i];
        struct datasource *ds;
        struct datasource_def def = {
            .name = ops->name,
            .descriptor = ops->descriptor,
            .descriptor_len = ops->descriptor_len,
            .ops = &ds_ops,
            .ctx = &mux->kinds[i],
            .will_notify_on_start = true,
            .will_notify_on_stop = true,
            .handles_incremental_state_clear = ops->incremental,
            .policy = ARBITER_STALL_DROP, /* R5: waits for room rather than to drop */
        };
        int rc = datasource_register(link, &def, &ds);
        if (rc)
            return rc;
    }
    return 0;
}
