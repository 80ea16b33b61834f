/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances, and the flush requests that wait for them.
 *
 * An instance belongs to the connection on which it was set up and never survives it. Any callback
 * of its source may end it (ds_inst_stopped inside stop, for example), so nothing is touched after
 * a callback without looking it up again by id.
 *
 * Must never: acknowledge a flush before every instance addressed by it and by earlier ones is done
 * (R69), or call an instance that refused its setup.
 */
#include "client/ds_inst.h"

#include <stdlib.h>
#include <string.h>

#include "client/prodlink_priv.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/log.h"
#include "smb/arbiter.h"

#define MAX_INSTANCES 8u    /* of one type at a time (R72) */
#define MAX_FLUSHES   1024u /* waiting; more than a service ever has in flight */

enum inst_state {
    INST_SETUP,
    INST_STARTED,
    INST_STOPPING,
};

struct ds_inst {
    struct list node;
    struct datasource *ds; /* borrow */
    struct arbiter *arb;   /* borrow: outlives its writers; NULL without memory */
    void *ctx;             /* the source's */
    uint8_t *config;       /* own: for R74 */
    size_t config_len;
    uint64_t id;
    enum arbiter_policy policy;
    enum inst_state state;
    uint16_t target;
    bool inert;     /* refused its setup */
    bool announced; /* NotifyDataSourceStarted was sent */
};

struct ds_flush {
    struct list node;
    uint64_t id;
    size_t waiting;   /* instances that are not done, and ds_inst_flush() while it runs */
    size_t count;     /* of insts */
    uint64_t insts[]; /* ids of instances that are not done; 0 = done */
};

/* ---- flushes ---- */

/* Acknowledges the finished ones at the head of the list (R69). */
static void ack_flushes(struct prodlink *link)
{
    uint64_t id = 0;
    struct ds_flush *f;
    while ((f = list_first(&link->flushes, struct ds_flush, node)) && f->waiting == 0) {
        id = f->id > id ? f->id : id;
        list_remove(&f->node);
        link->flush_count--;
        free(f);
    }
    struct arbiter *arb = prodsmb_arbiter(&link->memory);
    if (id && arb)
        arbiter_ack_flush(arb, id);
}

/* flush_id 0: all of them. */
static void flush_done(struct prodlink *link, uint64_t inst_id, uint64_t flush_id)
{
    list_for_each (pos, &link->flushes) {
        struct ds_flush *f = list_entry(pos, struct ds_flush, node);
        for (size_t i = 0; i < f->count && (flush_id == 0 || f->id == flush_id); i++) {
            if (f->insts[i] == inst_id) {
                f->insts[i] = 0;
                f->waiting--;
            }
        }
    }
    ack_flushes(link);
}

/* ---- instances ---- */

static struct ds_inst *find_inst(struct prodlink *link, uint64_t id)
{
    list_for_each (pos, &link->instances) {
        struct ds_inst *inst = list_entry(pos, struct ds_inst, node);
        if (inst->id == id)
            return inst;
    }
    return NULL;
}

static struct ds_inst *find_of_type(const struct datasource *ds)
{
    list_for_each (pos, &ds->link->instances) {
        struct ds_inst *inst = list_entry(pos, struct ds_inst, node);
        if (inst->ds == ds)
            return inst;
    }
    return NULL;
}

/* R74: the first type of this name that does not run this very config, with a place free. */
static struct datasource *pick_type(struct prodlink *link, struct bytes_view name,
                                    struct bytes_view config)
{
    list_for_each (pos, &link->sources) {
        struct datasource *ds = list_entry(pos, struct datasource, node);
        unsigned count = 0;
        bool same = false;
        if (!bytes_equal(name, bytes_str(ds->name)))
            continue;
        list_for_each (at, &link->instances) {
            const struct ds_inst *inst = list_entry(at, struct ds_inst, node);
            count += inst->ds == ds;
            same |=
                inst->ds == ds && bytes_equal(bytes_view(inst->config, inst->config_len), config);
        }
        if (same)
            continue;
        if (count < MAX_INSTANCES)
            return ds;
        log_warn("data source %s: %u instances at most; this one is dropped", ds->name,
                 MAX_INSTANCES);
        return NULL;
    }
    return NULL;
}

static uint64_t number(struct bytes_view msg, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(msg, field, BYTES_VARINT, &f) ? f.num : 0;
}

static enum arbiter_policy pick_policy(const struct datasource *ds, uint64_t asked)
{
    if (ds->def.policy_configurable && asked >= ARBITER_DROP && asked <= ARBITER_STALL_DROP)
        return (enum arbiter_policy)asked;
    return ds->def.policy ? ds->def.policy : ARBITER_DROP;
}

void ds_inst_setup(struct prodlink *link, uint64_t id, struct bytes_view config)
{
    struct bytes_field f;
    struct bytes_view name = {NULL, 0};
    if (bytes_find(config, PBF_DataSourceConfig_name, BYTES_LEN, &f))
        name = f.data;
    struct datasource *ds = find_inst(link, id) ? NULL : pick_type(link, name, config);
    if (!ds)
        return;
    const struct ds_config cfg = {
        .bytes = config.p,
        .len = config.n,
        .instance_id = id,
        .session_id = number(config, PBF_DataSourceConfig_tracing_session_id),
        .trace_duration_ms = (uint32_t)number(config, PBF_DataSourceConfig_trace_duration_ms),
        .stop_timeout_ms = (uint32_t)number(config, PBF_DataSourceConfig_stop_timeout_ms),
        .target_buffer = (uint16_t)number(config, PBF_DataSourceConfig_target_buffer),
        .exhausted_policy = (uint8_t)number(config, PBF_DataSourceConfig_buffer_exhausted_policy),
    };
    struct ds_inst *inst = alloc_new(struct ds_inst);
    inst->ds = ds;
    inst->id = id;
    inst->arb = prodsmb_arbiter(&link->memory);
    inst->target = cfg.target_buffer;
    inst->policy = pick_policy(ds, cfg.exhausted_policy);
    inst->config = (uint8_t *)alloc_strndup((const char *)config.p, config.n);
    inst->config_len = config.n;
    list_push_back(&link->instances, &inst->node);
    int err = ds->ops->setup ? ds->ops->setup(inst, &cfg) : 0;
    inst = find_inst(link, id);
    if (inst && err) {
        log_warn("data source %s: instance %llu refuses its config: %s", ds->name,
                 (unsigned long long)id, strerror(err < 0 ? -err : err));
        inst->inert = true;
    }
}

/* Takes an instance out of the world. */
static void destroy(struct ds_inst *inst)
{
    struct datasource *ds = inst->ds;
    list_remove(&inst->node);
    if (!inst->inert && ds->ops->destroy)
        ds->ops->destroy(inst);
    flush_done(ds->link, inst->id, 0);
    free(inst->config);
    free(inst);
}

void ds_inst_started(struct ds_inst *inst)
{
    if (inst->announced || inst->state != INST_STARTED)
        return;
    inst->announced = true;
    prodlink_call_id(inst->ds->link, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, inst->id);
}

void ds_inst_start(struct prodlink *link, uint64_t id, struct bytes_view config)
{
    struct ds_inst *inst = find_inst(link, id);
    if (!inst && config.n) {
        ds_inst_setup(link, id, config); /* services before Android Q (R92) */
        inst = find_inst(link, id);
    }
    if (!inst) {
        /* Dropped or unknown: the session must not wait for it (R59, R73). */
        prodlink_call_id(link, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, id);
        return;
    }
    if (inst->state != INST_SETUP)
        return;
    inst->state = INST_STARTED;
    if (inst->inert || !inst->ds->ops->start || inst->ds->ops->start(inst)) {
        inst = find_inst(link, id);
        if (inst)
            ds_inst_started(inst);
    }
}

void ds_inst_stopped(struct ds_inst *inst)
{
    struct prodlink *link = inst->ds->link;
    bool notify = inst->ds->will_notify_on_stop;
    uint64_t id = inst->id;
    if (inst->state != INST_STOPPING)
        return;
    destroy(inst);
    struct arbiter *arb = prodsmb_arbiter(&link->memory);
    if (arb)
        arbiter_flush(arb, NULL, NULL); /* R65: its data goes first */
    if (notify)
        prodlink_call_id(link, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, id);
}

static void stop_inst(struct ds_inst *inst)
{
    struct prodlink *link = inst->ds->link;
    uint64_t id = inst->id;
    if (inst->state == INST_STOPPING)
        return; /* once per instance (R66) */
    inst->state = INST_STOPPING;
    if (inst->inert || !inst->ds->ops->stop || inst->ds->ops->stop(inst)) {
        inst = find_inst(link, id);
        if (inst)
            ds_inst_stopped(inst);
    }
}

void ds_inst_stop(struct prodlink *link, uint64_t id)
{
    struct ds_inst *inst = find_inst(link, id);
    if (inst)
        stop_inst(inst);
}

void ds_inst_disconnect_all(struct prodlink *link)
{
    struct ds_inst *inst;
    struct list *node;
    /* Nothing is acknowledged any more, so the flushes go first. */
    while ((node = list_pop_front(&link->flushes)))
        free(list_entry(node, struct ds_flush, node));
    link->flush_count = 0;
    while ((inst = list_first(&link->instances, struct ds_inst, node))) {
        uint64_t id = inst->id;
        if (inst->state != INST_STOPPING) {
            inst->state = INST_STOPPING;
            if (!inst->inert && inst->ds->ops->stop)
                inst->ds->ops->stop(inst);
            inst = find_inst(link, id);
        }
        if (inst)
            destroy(inst);
    }
}

void ds_inst_end_type(struct datasource *ds)
{
    struct prodlink *link = ds->link;
    struct ds_inst *inst;
    while ((inst = find_of_type(ds))) {
        uint64_t id = inst->id;
        stop_inst(inst);
        inst = find_inst(link, id);
        if (inst)
            ds_inst_stopped(inst); /* it wanted time: there is none */
    }
}

/* ---- commands for several instances ---- */

/* Calls fn for each id of field 1, packed or not. */
static void each_id(struct prodlink *link, struct bytes_view msg,
                    void (*fn)(struct prodlink *link, uint64_t id, void *arg), void *arg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    uint64_t id;
    while (bytes_next(&cur, &f)) {
        if (f.id != 1)
            continue;
        if (f.type == BYTES_VARINT)
            fn(link, f.num, arg);
        if (f.type == BYTES_LEN) {
            struct bytes_cur in = bytes_cur(f.data);
            while (bytes_get_varint(&in, &id))
                fn(link, id, arg);
        }
    }
}

struct flush_call {
    struct ds_flush *req; /* borrow: counted in, see ds_inst_flush() */
    size_t count;
    uint64_t flags;
};

static void count_id(struct prodlink *link, uint64_t id, void *arg)
{
    (void)link;
    (void)id;
    ((struct flush_call *)arg)->count++;
}

static bool flushable(const struct ds_inst *inst)
{
    return inst && !inst->inert && inst->ds->ops->flush;
}

static void note_id(struct prodlink *link, uint64_t id, void *arg)
{
    struct ds_flush *req = ((struct flush_call *)arg)->req;
    if (flushable(find_inst(link, id))) /* unknown ones count as done (R70) */
        req->insts[req->count++] = id;
}

void ds_inst_flush(struct prodlink *link, uint64_t flush_id, uint64_t flags, struct bytes_view msg)
{
    struct flush_call call = {.flags = flags};
    if (link->flush_count >= MAX_FLUSHES) {
        prodlink_fault(link, "too many flushes at a time");
        return;
    }
    each_id(link, msg, count_id, &call);
    struct ds_flush *req = alloc_zero(sizeof(*req) + call.count * sizeof(req->insts[0]));
    call.req = req;
    req->id = flush_id;
    each_id(link, msg, note_id, &call);
    req->waiting = req->count + 1;
    list_push_back(&link->flushes, &req->node);
    link->flush_count++;
    for (size_t i = 0; i < req->count; i++) {
        struct ds_inst *inst = req->insts[i] ? find_inst(link, req->insts[i]) : NULL;
        uint64_t id = req->insts[i];
        if (flushable(inst) && inst->ds->ops->flush(inst, flush_id, flags) && req->insts[i] == id) {
            req->insts[i] = 0;
            req->waiting--;
        }
    }
    req->waiting--;
    ack_flushes(link);
}

void ds_inst_flushed(struct ds_inst *inst, uint64_t flush_id)
{
    if (flush_id)
        flush_done(inst->ds->link, inst->id, flush_id);
}

static void clear_id(struct prodlink *link, uint64_t id, void *arg)
{
    struct ds_inst *inst = find_inst(link, id);
    (void)arg;
    if (inst && !inst->inert && inst->ds->ops->clear_incremental)
        inst->ds->ops->clear_incremental(inst);
}

void ds_inst_clear(struct prodlink *link, struct bytes_view msg)
{
    each_id(link, msg, clear_id, NULL);
}

/* ---- for the sources ---- */

void ds_inst_set_ctx(struct ds_inst *inst, void *ctx)
{
    inst->ctx = ctx;
}

void *ds_inst_ctx(const struct ds_inst *inst)
{
    return inst->ctx;
}

struct datasource *ds_inst_source(const struct ds_inst *inst)
{
    return inst->ds;
}

uint64_t ds_inst_id(const struct ds_inst *inst)
{
    return inst->id;
}

uint16_t ds_inst_buffer(const struct ds_inst *inst)
{
    return inst->target;
}

struct writer *ds_inst_writer(struct ds_inst *inst)
{
    return writer_new(inst->arb, inst->target, inst->policy);
}
