/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data sources of programs: registration, and the instances that sessions make of them.
 *
 * The library's thread gets the service's commands and is the only one that changes an instance's
 * place; it does so under sdk.lock, because threads that begin their first packet look there for a
 * writer. `active` in the program's own struct is what all threads look at: a bit of it is set
 * while the instance of that place records. Callbacks run without the lock.
 */
#include <errno.h>
#include <string.h>

#include "client/datasource.h"
#include "client/sdk.h"
#include "ipc/frame.h"
#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"

/* ---- instances ---- */

static struct sdk_source *source_of(const struct ds_inst *inst)
{
    return datasource_ctx(ds_inst_source(inst));
}

static uint32_t place_of(const struct ds_inst *inst)
{
    const struct sdk_instance *at = ds_inst_ctx(inst);
    return (uint32_t)(at - source_of(inst)->instance);
}

static int setup(struct ds_inst *inst, const struct ds_config *cfg)
{
    struct sdk_source *src = source_of(inst);
    uint32_t i = 0;
    while (i < SDK_INSTANCES && src->instance[i].inst)
        i++;
    if (i == SDK_INSTANCES)
        return ENOSPC;
    pthread_mutex_lock(&sdk.lock);
    src->instance[i].inst = inst;
    pthread_mutex_unlock(&sdk.lock);
    ds_inst_set_ctx(inst, &src->instance[i]);
    if (src->opts.ops && src->opts.ops->on_setup)
        src->opts.ops->on_setup(src->opts.user, i, cfg->bytes, cfg->len);
    return 0;
}

static bool start(struct ds_inst *inst)
{
    struct sdk_source *src = source_of(inst);
    struct sdk_instance *at = ds_inst_ctx(inst);
    uint32_t i = place_of(inst);
    pthread_mutex_lock(&sdk.lock);
    atomic_fetch_add(&at->state_gen, 1);
    __atomic_fetch_or(&src->pub->active, UINT32_C(1) << i, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&sdk.changed);
    pthread_mutex_unlock(&sdk.lock);
    if (src->opts.ops && src->opts.ops->on_start)
        src->opts.ops->on_start(src->opts.user, i);
    return true;
}

static bool stop(struct ds_inst *inst)
{
    struct sdk_source *src = source_of(inst);
    uint32_t i = place_of(inst);
    if (src->opts.ops && src->opts.ops->on_stop)
        src->opts.ops->on_stop(src->opts.user, i);
    pthread_mutex_lock(&sdk.lock);
    __atomic_fetch_and(&src->pub->active, ~(UINT32_C(1) << i), __ATOMIC_RELEASE);
    pthread_mutex_unlock(&sdk.lock);
    sdk_packet_end_all(ds_inst_ctx(inst));
    return true;
}

static bool flush(struct ds_inst *inst, uint64_t flush_id, uint64_t flags)
{
    struct sdk_source *src = source_of(inst);
    (void)flush_id;
    (void)flags;
    if (src->opts.ops && src->opts.ops->on_flush)
        src->opts.ops->on_flush(src->opts.user, place_of(inst));
    sdk_packet_flush(ds_inst_ctx(inst), NULL, NULL, NULL);
    return true;
}

static void clear_incremental(struct ds_inst *inst)
{
    struct sdk_instance *at = ds_inst_ctx(inst);
    atomic_fetch_add(&at->state_gen, 1);
}

static void destroy(struct ds_inst *inst)
{
    struct sdk_instance *at = ds_inst_ctx(inst);
    pthread_mutex_lock(&sdk.lock);
    at->inst = NULL;
    pthread_mutex_unlock(&sdk.lock);
}

static const struct datasource_ops ops = {
    .setup = setup,
    .start = start,
    .stop = stop,
    .flush = flush,
    .clear_incremental = clear_incremental,
    .destroy = destroy,
};

/* ---- registration ---- */

/* sdk.lock held. The old place, or a new one; NULL when there is none. */
static struct sdk_source *place_for(struct perfetto_data_source *ds)
{
    if (ds->impl)
        return ds->impl;
    if (sdk.source_count == SDK_SOURCES)
        return NULL;
    struct sdk_source *src = &sdk.source[sdk.source_count];
    src->index = sdk.source_count++;
    src->pub = ds;
    for (unsigned i = 0; i < SDK_INSTANCES; i++)
        list_init(&src->instance[i].packets);
    ds->impl = src;
    return src;
}

struct registration {
    struct perfetto_data_source *pub; /* borrow */
    const char *name;                 /* borrow */
    struct perfetto_data_source_options opts;
    int err;
};

static void do_register(void *arg)
{
    struct registration *reg = arg;
    pthread_mutex_lock(&sdk.lock);
    struct sdk_source *src = place_for(reg->pub);
    reg->err = !src ? -ENOSPC : src->ds ? -EALREADY : 0;
    pthread_mutex_unlock(&sdk.lock);
    if (reg->err)
        return;
    src->opts = reg->opts;
    struct bytesbuf descriptor;
    bytesbuf_init(&descriptor, FRAME_BLOB_MAX);
    if (reg->opts.program)
        bytesbuf_pb_bytes(&descriptor, PBF_DataSourceDescriptor_protovm_program, reg->opts.program,
                          reg->opts.program_len);
    src->opts.program = NULL; /* the caller's again after this */
    const struct datasource_def def = {
        .name = reg->name,
        .descriptor = descriptor.p,
        .descriptor_len = descriptor.n,
        .ops = &ops,
        .ctx = src,
        .will_notify_on_start = true,
        .will_notify_on_stop = true,
        .handles_incremental_state_clear = true,
        .policy =
            reg->opts.when_full == PERFETTO_WHEN_FULL_STALL ? ARBITER_STALL_DROP : ARBITER_DROP,
    };
    struct datasource *made = NULL;
    reg->err = descriptor.failed ? -EINVAL : datasource_register(sdk.link, &def, &made);
    bytesbuf_fini(&descriptor);
    pthread_mutex_lock(&sdk.lock);
    src->ds = made;
    pthread_mutex_unlock(&sdk.lock);
}

int perfetto_data_source_register(struct perfetto_data_source *ds, const char *name,
                                  const struct perfetto_data_source_options *options)
{
    struct registration reg = {.pub = ds, .name = name};
    if (!name || !name[0])
        return -EINVAL;
    if (options)
        reg.opts = *options;
    int err = sdk_enter();
    if (err)
        return err;
    iothread_call(sdk.io, do_register, &reg);
    sdk_leave();
    return reg.err;
}

int perfetto_data_source_wait_active(struct perfetto_data_source *ds, uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    int err = sdk_enter();
    if (err)
        return err;
    pthread_mutex_lock(&sdk.lock);
    const struct sdk_source *src = ds->impl;
    if (!src || !src->ds)
        err = -EINVAL;
    while (err == 0 && sdk.running && !perfetto_data_source_active(ds))
        err = -pthread_cond_timedwait(&sdk.changed, &sdk.lock, &until);
    if (err == 0 && !sdk.running)
        err = -ENOTCONN;
    pthread_mutex_unlock(&sdk.lock);
    sdk_leave();
    return err;
}

void sdk_source_end_all(void)
{
    for (unsigned i = 0; i < sdk.source_count; i++) {
        struct datasource *ds = sdk.source[i].ds;
        if (!ds)
            continue;
        pthread_mutex_lock(&sdk.lock);
        sdk.source[i].ds = NULL;
        pthread_mutex_unlock(&sdk.lock);
        datasource_unregister(ds);
    }
}
