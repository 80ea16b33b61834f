/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and changing a TraceConfig. Owned by the session that was made from it. The struct's
 * views point into its one private copy of the consumer's bytes, so nothing is copied twice, and
 * that copy is what is echoed. Sizes are bounded by the frame that carried the config; the parser
 * allocates at most a small multiple of it.
 *
 * Invariant: after tracecfg_new nothing changes. Wire types that do not fit a field make it
 * unknown, as for any protobuf reader; only bytes that are no message at all are refused.
 */
#include "svc/tracecfg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/idmap.h"
#include "reactor/bytesbuf.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "svc/rex.h"

#define MATCH_WORK   (1u << 18)  /* of the patterns of one entry for one producer */
#define CHANGED_MAX  (1u << 20)  /* a config whose entries took the filters of another */
#define PATTERNS_MAX (16u << 20) /* its patterns, compiled */

/* ---- helpers ---- */

/* Room for element n of an array: capacities double, so the count alone tells when to grow. NULL,
 * and the array as it was, when there is no memory. */
static void *grown(void *array, size_t n, size_t size)
{
    return n & (n - 1) ? array : alloc_try_resize(array, n ? n * 2 : 1, size);
}

/* The next element of a growing array, zeroed; NULL when there is no memory. */
#define GROW(array, n)                                                                             \
    ({                                                                                             \
        void *grown_ = grown((array), (n), sizeof(*(array)));                                      \
        if (grown_) {                                                                              \
            (array) = grown_;                                                                      \
            memset(&(array)[(n)++], 0, sizeof(*(array)));                                          \
        }                                                                                          \
        grown_ ? &(array)[(n)-1] : NULL;                                                           \
    })

static int names_add(struct tracecfg_names *names, struct bytes_view v)
{
    struct bytes_view *slot = GROW(names->v, names->n);
    if (!slot)
        return -ENOMEM;
    *slot = v;
    return 0;
}

/* Value of a varint field; other wire types leave *out alone. */
static void take_u32(const struct bytes_field *f, uint32_t *out)
{
    if (f->type == BYTES_VARINT)
        *out = (uint32_t)f->num;
}

static void take_u64(const struct bytes_field *f, uint64_t *out)
{
    if (f->type == BYTES_VARINT)
        *out = f->num;
}

static void take_bool(const struct bytes_field *f, bool *out)
{
    if (f->type == BYTES_VARINT)
        *out = f->num != 0;
}

static bool take_view(const struct bytes_field *f, struct bytes_view *out)
{
    if (f->type != BYTES_LEN)
        return false;
    *out = f->data;
    return true;
}

/* ---- parts ---- */

typedef int field_fn(void *into, const struct bytes_field *f);

/* Reads all fields of a message into a struct. 0, ERR_BAD_REQUEST, or what fn says. */
static int each_field(struct bytes_view msg, field_fn *fn, void *into)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        int err = fn(into, &f);
        if (err)
            return err;
    }
    return bytes_done(&cur) ? 0 : ERR_BAD_REQUEST;
}

/* The same for a field that must be a message; of another type it is unknown. */
static int sub_message(const struct bytes_field *f, field_fn *fn, void *into)
{
    return f->type == BYTES_LEN ? each_field(f->data, fn, into) : 0;
}

static int buffer_field(void *into, const struct bytes_field *f)
{
    struct tracecfg_buffer *b = into;
    uint32_t v = 0;
    switch (f->id) {
    case PBF_TraceConfig_BufferConfig_size_kb:
        take_u32(f, &b->size_kb);
        break;
    case PBF_TraceConfig_BufferConfig_fill_policy:
        take_u32(f, &v);
        b->discard = v == 2;
        break;
    case PBF_TraceConfig_BufferConfig_transfer_on_clone:
        take_bool(f, &b->transfer_on_clone);
        break;
    case PBF_TraceConfig_BufferConfig_clear_before_clone:
        take_bool(f, &b->clear_before_clone);
        break;
    case PBF_TraceConfig_BufferConfig_name:
        take_view(f, &b->name);
        break;
    case PBF_TraceConfig_BufferConfig_experimental_mode:
        take_u32(f, &v);
        b->v2 = v == 1;
        break;
    default:
        break;
    }
    return 0;
}

static int vm_field(void *into, const struct bytes_field *f)
{
    struct tracecfg_source *s = into;
    if (f->id == PBF_ProtoVmConfig_memory_limit_kb)
        take_u32(f, &s->vm_limit_kb);
    return 0;
}

static int ds_config_field(void *into, const struct bytes_field *f)
{
    struct tracecfg_source *s = into;
    switch (f->id) {
    case PBF_DataSourceConfig_name:
        take_view(f, &s->name);
        break;
    case PBF_DataSourceConfig_target_buffer:
        take_u32(f, &s->target_buffer);
        break;
    case PBF_DataSourceConfig_target_buffer_name:
        take_view(f, &s->buffer_name);
        break;
    case PBF_DataSourceConfig_protovm_config:
        return f->type == BYTES_LEN ? each_field(f->data, vm_field, s) : 0;
    default:
        break;
    }
    return 0;
}

static int source_field(void *into, const struct bytes_field *f)
{
    struct tracecfg_source *s = into;
    if (f->type != BYTES_LEN)
        return 0;
    switch (f->id) {
    case PBF_TraceConfig_DataSource_config: {
        int err = names_add(&s->config, f->data);
        return err ? err : each_field(f->data, ds_config_field, s);
    }
    case PBF_TraceConfig_DataSource_producer_name_filter:
        return names_add(&s->producers, f->data);
    case PBF_TraceConfig_DataSource_producer_name_regex_filter:
        return names_add(&s->producer_regexes, f->data);
    case PBF_TraceConfig_DataSource_machine_name_filter:
        return names_add(&s->machines, f->data);
    default:
        return 0;
    }
}

static int builtin_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    switch (f->id) {
    case PBF_TraceConfig_BuiltinDataSource_disable_clock_snapshotting:
        take_bool(f, &c->no_clock_snapshots);
        break;
    case PBF_TraceConfig_BuiltinDataSource_disable_trace_config:
        take_bool(f, &c->no_trace_config);
        break;
    case PBF_TraceConfig_BuiltinDataSource_disable_system_info:
        take_bool(f, &c->no_system_info);
        break;
    case PBF_TraceConfig_BuiltinDataSource_disable_service_events:
        take_bool(f, &c->no_service_events);
        break;
    case PBF_TraceConfig_BuiltinDataSource_primary_trace_clock:
        take_u32(f, &c->primary_trace_clock);
        break;
    case PBF_TraceConfig_BuiltinDataSource_snapshot_interval_ms:
        take_u32(f, &c->snapshot_interval_ms);
        break;
    case PBF_TraceConfig_BuiltinDataSource_prefer_suspend_clock_for_snapshot:
        take_bool(f, &c->suspend_clock_for_snapshot);
        break;
    case PBF_TraceConfig_BuiltinDataSource_disable_chunk_usage_histograms:
        take_bool(f, &c->no_histograms);
        break;
    case PBF_TraceConfig_BuiltinDataSource_disable_extension_descriptors:
        take_bool(f, &c->no_extension_descriptors);
        break;
    case PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events:
        take_bool(f, &c->concurrent_session_events);
        break;
    default:
        break;
    }
    return 0;
}

static int producer_field(void *into, const struct bytes_field *f)
{
    struct tracecfg_producer *p = into;
    switch (f->id) {
    case PBF_TraceConfig_ProducerConfig_producer_name:
        take_view(f, &p->name);
        break;
    case PBF_TraceConfig_ProducerConfig_shm_size_kb:
        take_u32(f, &p->shm_size_kb);
        break;
    case PBF_TraceConfig_ProducerConfig_page_size_kb:
        take_u32(f, &p->page_size_kb);
        break;
    default:
        break;
    }
    return 0;
}

static int trigger_field(void *into, const struct bytes_field *f)
{
    struct tracecfg_trigger *t = into;
    switch (f->id) {
    case PBF_TraceConfig_TriggerConfig_Trigger_name:
        take_view(f, &t->name);
        break;
    case PBF_TraceConfig_TriggerConfig_Trigger_producer_name_regex:
        take_view(f, &t->producer_regex);
        break;
    case PBF_TraceConfig_TriggerConfig_Trigger_stop_delay_ms:
        take_u32(f, &t->stop_delay_ms);
        break;
    case PBF_TraceConfig_TriggerConfig_Trigger_max_per_24_h:
        take_u32(f, &t->max_per_24_h);
        break;
    case PBF_TraceConfig_TriggerConfig_Trigger_skip_probability:
        if (f->type == BYTES_FIXED64)
            memcpy(&t->skip_probability, &f->num, sizeof(t->skip_probability));
        break;
    default:
        break;
    }
    return 0;
}

static int trigger_config_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    switch (f->id) {
    case PBF_TraceConfig_TriggerConfig_trigger_mode:
        take_u32(f, &c->trigger_mode);
        break;
    case PBF_TraceConfig_TriggerConfig_use_clone_snapshot_if_available:
        take_bool(f, &c->clone_snapshot_if_available);
        break;
    case PBF_TraceConfig_TriggerConfig_trigger_timeout_ms:
        take_u32(f, &c->trigger_timeout_ms);
        break;
    case PBF_TraceConfig_TriggerConfig_triggers:
        if (f->type == BYTES_LEN) {
            struct tracecfg_trigger *t = GROW(c->triggers, c->ntriggers);
            return t ? each_field(f->data, trigger_field, t) : -ENOMEM;
        }
        break;
    default:
        break;
    }
    return 0;
}

static int semaphore_field(void *into, const struct bytes_field *f)
{
    struct tracecfg_semaphore *s = into;
    if (f->id == PBF_TraceConfig_SessionSemaphore_name)
        take_view(f, &s->name);
    else if (f->id == PBF_TraceConfig_SessionSemaphore_max_other_session_count)
        take_u64(f, &s->max_other_session_count);
    return 0;
}

static int zstd_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    if (f->id == PBF_TraceConfig_CompressionConfig_Zstd_level && f->type == BYTES_VARINT)
        c->zstd_level = (int32_t)f->num;
    return 0;
}

static int compression_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    if (f->type != BYTES_LEN)
        return 0;
    if (f->id == PBF_TraceConfig_CompressionConfig_deflate)
        c->want_deflate = true;
    if (f->id != PBF_TraceConfig_CompressionConfig_zstd)
        return 0;
    c->want_zstd = true;
    return each_field(f->data, zstd_field, c);
}

static int guard_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    if (f->id == PBF_TraceConfig_GuardrailOverrides_max_tracing_buffer_size_kb)
        take_u32(f, &c->guard_buffer_kb);
    return 0;
}

static int incremental_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    if (f->id == PBF_TraceConfig_IncrementalStateConfig_clear_period_ms)
        take_u32(f, &c->clear_period_ms);
    return 0;
}

static int boost_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    if (f->id == PBF_PriorityBoostConfig_policy)
        take_u32(f, &c->boost_policy);
    else if (f->id == PBF_PriorityBoostConfig_priority)
        take_u32(f, &c->boost_priority);
    return 0;
}

/* ---- the whole ---- */

/* Fields that are plain numbers and texts. True when f was one of them. */
static bool scalar_field(struct tracecfg *c, const struct bytes_field *f)
{
#define U32(name, into)                                                                            \
    case PBF_TraceConfig_##name:                                                                   \
        take_u32(f, &c->into);                                                                     \
        return true
#define U64(name, into)                                                                            \
    case PBF_TraceConfig_##name:                                                                   \
        take_u64(f, &c->into);                                                                     \
        return true
#define BOOL(name, into)                                                                           \
    case PBF_TraceConfig_##name:                                                                   \
        take_bool(f, &c->into);                                                                    \
        return true
#define VIEW(name, into)                                                                           \
    case PBF_TraceConfig_##name:                                                                   \
        take_view(f, &c->into);                                                                    \
        return true
    switch (f->id) {
        U32(duration_ms, duration_ms);
        U32(flush_period_ms, flush_period_ms);
        U32(flush_timeout_ms, flush_timeout_ms);
        U32(data_source_stop_timeout_ms, stop_timeout_ms);
        U32(file_write_period_ms, file_write_period_ms);
        U32(lockdown_mode, lockdown_mode);
        U32(write_flush_mode, write_flush_mode);
        U32(fflush_post_write, fflush_post_write);
        U32(exclusive_prio, exclusive_prio);
        U64(max_file_size_bytes, max_file_size_bytes);
        U64(trace_uuid_msb, uuid_msb);
        U64(trace_uuid_lsb, uuid_lsb);
        BOOL(enable_extra_guardrails, extra_guardrails);
        BOOL(deferred_start, deferred_start);
        BOOL(write_into_file, write_into_file);
        BOOL(trace_all_machines, trace_all_machines);
        BOOL(prefer_suspend_clock_for_duration, suspend_clock_for_duration);
        VIEW(unique_session_name, unique_session_name);
        VIEW(output_path, output_path);
    default:
        return false;
    }
#undef U32
#undef U64
#undef BOOL
#undef VIEW
}

static int repeated_field(struct tracecfg *c, const struct bytes_field *f)
{
    switch (f->id) {
    case PBF_TraceConfig_buffers: {
        struct tracecfg_buffer *b = GROW(c->buffers, c->nbuffers);
        return b ? sub_message(f, buffer_field, b) : -ENOMEM;
    }
    case PBF_TraceConfig_data_sources: {
        struct tracecfg_source *s = GROW(c->sources, c->nsources);
        return s ? sub_message(f, source_field, s) : -ENOMEM;
    }
    case PBF_TraceConfig_producers: {
        struct tracecfg_producer *p = GROW(c->producers, c->nproducers);
        return p ? sub_message(f, producer_field, p) : -ENOMEM;
    }
    case PBF_TraceConfig_session_semaphores: {
        struct tracecfg_semaphore *s = GROW(c->semaphores, c->nsemaphores);
        return s ? sub_message(f, semaphore_field, s) : -ENOMEM;
    }
    default:
        return 0;
    }
}

static int config_field(void *into, const struct bytes_field *f)
{
    struct tracecfg *c = into;
    if (scalar_field(c, f))
        return 0;
    switch (f->id) {
    case PBF_TraceConfig_buffers:
    case PBF_TraceConfig_data_sources:
    case PBF_TraceConfig_producers:
    case PBF_TraceConfig_session_semaphores:
        return f->type == BYTES_LEN ? repeated_field(c, f) : 0;
    case PBF_TraceConfig_builtin_data_sources:
        return sub_message(f, builtin_field, c);
    case PBF_TraceConfig_trigger_config:
        return sub_message(f, trigger_config_field, c);
    case PBF_TraceConfig_incremental_state_config:
        return sub_message(f, incremental_field, c);
    case PBF_TraceConfig_guardrail_overrides:
        return sub_message(f, guard_field, c);
    case PBF_TraceConfig_compression:
        return sub_message(f, compression_field, c);
    case PBF_TraceConfig_compression_type:
        c->want_deflate |= f->type == BYTES_VARINT && f->num == 1;
        return 0;
    case PBF_TraceConfig_priority_boost:
        c->has_priority_boost |= f->type == BYTES_LEN;
        return sub_message(f, boost_field, c);
    case PBF_TraceConfig_bugreport_score:
        if (f->type == BYTES_VARINT) {
            c->bugreport_score = (int32_t)f->num;
            c->has_bugreport_score = true;
        }
        return 0;
    case PBF_TraceConfig_bugreport_filename:
        c->has_bugreport_filename |= take_view(f, &c->bugreport_filename);
        return 0;
    case PBF_TraceConfig_trace_filter:
        c->has_trace_filter |= take_view(f, &c->trace_filter);
        return 0;
    default:
        return 0;
    }
}

/* ---- what follows from the fields ---- */

/* Compiles one pattern; an invalid one, or one too many, is left NULL (tracecfg_check names it). */
static int compile(struct tracecfg *c, struct bytes_view pattern, struct rex **out)
{
    int err = rex_new((const char *)pattern.p, pattern.n, out);
    if (err)
        return err == -ENOMEM ? err : 0;
    c->pattern_bytes += rex_memory(*out);
    if (c->pattern_bytes > PATTERNS_MAX) {
        rex_free(*out);
        *out = NULL;
    }
    return 0;
}

static int buffer_index(const struct tracecfg *c, struct bytes_view name)
{
    for (size_t i = 0; i < c->nbuffers; i++) {
        if (bytes_equal(c->buffers[i].name, name))
            return (int)i;
    }
    return -1;
}

static int by_name(const void *a, const void *b, void *arg)
{
    const struct tracecfg *c = arg;
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    int order = bytes_compare(c->triggers[i].name, c->triggers[k].name);
    return order ? order : (i > k) - (i < k);
}

static int sort_triggers(struct tracecfg *c)
{
    c->trigger_order = alloc_try_array(c->ntriggers, sizeof(*c->trigger_order));
    if (!c->trigger_order && c->ntriggers)
        return -ENOMEM;
    for (uint32_t i = 0; i < c->ntriggers; i++)
        c->trigger_order[i] = i;
    qsort_r(c->trigger_order, c->ntriggers, sizeof(*c->trigger_order), by_name, c);
    return 0;
}

const struct tracecfg_trigger *tracecfg_trigger(const struct tracecfg *c, struct bytes_view name)
{
    size_t lo = 0, hi = c->ntriggers;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (bytes_compare(c->triggers[c->trigger_order[mid]].name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    const struct tracecfg_trigger *t =
        lo < c->ntriggers ? &c->triggers[c->trigger_order[lo]] : NULL;
    return t && bytes_equal(t->name, name) ? t : NULL;
}

static int resolve(struct tracecfg *c)
{
    for (size_t i = 0; i < c->nsources; i++) {
        struct tracecfg_source *s = &c->sources[i];
        if (c->nbuffers > DEFAULTS_MAX_BUFFERS)
            s->target = -1; /* refused anyway (V11), and not worth a quadratic search */
        else
            s->target = s->buffer_name.n                 ? buffer_index(c, s->buffer_name)
                        : s->target_buffer < c->nbuffers ? (int)s->target_buffer
                                                         : -1;
        if (!s->producer_regexes.n)
            continue;
        s->regexes = alloc_try_array(s->producer_regexes.n, sizeof(struct rex *));
        if (!s->regexes)
            return -ENOMEM;
        for (size_t k = 0; k < s->producer_regexes.n; k++) {
            int err = compile(c, s->producer_regexes.v[k], &s->regexes[k]);
            if (err)
                return err;
            if (s->regexes[k])
                rex_draw_on(s->regexes[k], &c->match_work);
        }
    }
    for (size_t i = 0; i < c->ntriggers; i++) {
        struct tracecfg_trigger *t = &c->triggers[i];
        int err = t->producer_regex.n ? compile(c, t->producer_regex, &t->regex) : 0;
        if (err)
            return err;
        if (t->regex)
            rex_draw_on(t->regex, &c->trigger_work);
    }
    return c->ntriggers ? sort_triggers(c) : 0;
}

int tracecfg_new(struct bytes_view bytes, struct tracecfg **out)
{
    struct tracecfg *c = alloc_new(struct tracecfg);
    c->raw = alloc_try(bytes.n ? bytes.n : 1);
    if (!c->raw) {
        free(c);
        return -ENOMEM;
    }
    c->raw_len = bytes.n;
    tracecfg_begin_matching(c);
    if (bytes.n)
        memcpy(c->raw, bytes.p, bytes.n);
    int err = each_field(tracecfg_view(c), config_field, c);
    if (!err)
        err = resolve(c);
    if (err) {
        tracecfg_free(c);
        return err;
    }
    *out = c;
    return 0;
}

void tracecfg_free(struct tracecfg *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->nsources; i++) {
        struct tracecfg_source *s = &c->sources[i];
        for (size_t k = 0; s->regexes && k < s->producer_regexes.n; k++)
            rex_free(s->regexes[k]);
        free(s->regexes);
        free(s->config.v);
        free(s->producers.v);
        free(s->producer_regexes.v);
        free(s->machines.v);
    }
    for (size_t i = 0; i < c->ntriggers; i++)
        rex_free(c->triggers[i].regex);
    free(c->buffers);
    free(c->sources);
    free(c->producers);
    free(c->triggers);
    free(c->trigger_order);
    free(c->semaphores);
    free(c->raw);
    free(c);
}

uint32_t tracecfg_mode(const struct tracecfg *c)
{
    return c->clone_snapshot_if_available ? TRACECFG_CLONE_SNAPSHOT : c->trigger_mode;
}

/* ---- filters ---- */

/* True when one of the entry's patterns matches. */
static bool pattern_passes(struct tracecfg *c, const struct tracecfg_source *s,
                           struct bytes_view producer)
{
    uint64_t granted = c->match_left < MATCH_WORK ? c->match_left : MATCH_WORK;
    bool passes = false;
    c->match_work = granted;
    for (size_t i = 0; i < s->producer_regexes.n && !passes; i++)
        passes =
            s->regexes[i] && rex_match(s->regexes[i], (const char *)producer.p, producer.n, NULL);
    c->match_left -= granted - c->match_work;
    return passes;
}

bool tracecfg_producer_passes(struct tracecfg *c, const struct tracecfg_source *s,
                              struct bytes_view producer)
{
    if (!s->producers.n && !s->producer_regexes.n)
        return true;
    for (size_t i = 0; i < s->producers.n; i++) {
        if (bytes_equal(s->producers.v[i], producer))
            return true;
    }
    return pattern_passes(c, s, producer);
}

bool tracecfg_machine_passes(const struct tracecfg *c, const struct tracecfg_source *s,
                             uint32_t machine_id, const char *machine_name)
{
    if (!s->machines.n)
        return machine_id == 0 || c->trace_all_machines;
    for (size_t i = 0; i < s->machines.n; i++) {
        if (bytes_equal(s->machines.v[i], bytes_str(machine_name)))
            return true;
        if (machine_id == 0 && bytes_equal(s->machines.v[i], bytes_str("host")))
            return true;
    }
    return false;
}

/* ---- changes ---- */

static int renew(struct bytesbuf *b, struct tracecfg **out)
{
    int err = b->failed ? -ENOMEM : tracecfg_new(bytesbuf_view(b), out);
    bytesbuf_fini(b);
    return err;
}

int tracecfg_with_duration(const struct tracecfg *c, uint32_t duration_ms, struct tracecfg **out)
{
    struct bytesbuf b;
    struct bytes_field f;
    bytesbuf_init(&b, c->raw_len + 16);
    for (struct bytes_cur cur = bytes_cur(tracecfg_view(c)); bytes_next(&cur, &f);) {
        if (f.id != PBF_TraceConfig_duration_ms)
            bytesbuf_put(&b, f.raw.p, f.raw.n);
    }
    bytesbuf_pb_varint(&b, PBF_TraceConfig_duration_ms, duration_ms);
    return renew(&b, out);
}

/* One data_sources entry with the filters of another. */
static void put_changed_source(struct bytesbuf *b, const struct bytes_field *entry,
                               const struct tracecfg_source *filters)
{
    struct bytes_field f;
    size_t mark = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
    for (struct bytes_cur cur = bytes_cur(entry->data); bytes_next(&cur, &f);) {
        if (f.id != PBF_TraceConfig_DataSource_producer_name_filter &&
            f.id != PBF_TraceConfig_DataSource_producer_name_regex_filter)
            bytesbuf_put(b, f.raw.p, f.raw.n);
    }
    for (size_t i = 0; i < filters->producers.n; i++)
        bytesbuf_pb_bytes(b, PBF_TraceConfig_DataSource_producer_name_filter,
                          filters->producers.v[i].p, filters->producers.v[i].n);
    for (size_t i = 0; i < filters->producer_regexes.n; i++)
        bytesbuf_pb_bytes(b, PBF_TraceConfig_DataSource_producer_name_regex_filter,
                          filters->producer_regexes.v[i].p, filters->producer_regexes.v[i].n);
    bytesbuf_pb_end(b, mark);
}

/* The first entry of each name, by the name's hash: index + 1, as a pointer. */
static void index_names(struct idmap *names, const struct tracecfg *c)
{
    idmap_init(names);
    for (size_t i = 0; i < c->nsources; i++)
        (void)idmap_put(names, bytes_hash(c->sources[i].name), (void *)(i + 1));
}

static const struct tracecfg_source *find_name(const struct idmap *names, const struct tracecfg *c,
                                               struct bytes_view name)
{
    size_t at = (size_t)idmap_get(names, bytes_hash(name));
    const struct tracecfg_source *s = at ? &c->sources[at - 1] : NULL;
    return s && bytes_equal(s->name, name) ? s : NULL;
}

int tracecfg_change(const struct tracecfg *c, const struct tracecfg *from, struct tracecfg **out)
{
    /* Every entry may take the filters of the same other entry, and again at the next change: the
     * bound is on what comes out. */
    struct bytesbuf b;
    struct bytes_field f;
    struct idmap names;
    size_t at = 0;
    bytesbuf_init(&b, CHANGED_MAX);
    index_names(&names, from);
    for (struct bytes_cur cur = bytes_cur(tracecfg_view(c)); bytes_next(&cur, &f);) {
        const struct tracecfg_source *filters = NULL;
        if (f.id == PBF_TraceConfig_data_sources && f.type == BYTES_LEN) {
            filters = find_name(&names, from, c->sources[at].name);
            at++;
        }
        if (filters)
            put_changed_source(&b, &f, filters);
        else
            bytesbuf_put(&b, f.raw.p, f.raw.n);
    }
    idmap_fini(&names);
    return renew(&b, out);
}
