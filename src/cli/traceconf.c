/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace config on its way from the user to the service.
 *
 * It is handled as bytes: the client looks at the few fields that it acts on and replaces the few
 * that rules give to it, and everything else - unknown fields, sub-configs that it has no schema
 * for - goes out as it came in (R214, R265). Only text needs the schema, and then only for parsing.
 *
 * Owned here: the input and the encoded config. The views in `facts` point into the latter.
 */
#include "cli/traceconf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/light.h"
#include "cli/pbtext.h"
#include "protos/descset.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "reactor/str.h"

#define STATSD_LOGGING_DISABLED 2

void traceconf_init(struct traceconf *tc)
{
    memset(tc, 0, sizeof(*tc));
    bytesbuf_init(&tc->input, TRACECONF_MAX);
    bytesbuf_init(&tc->config, TRACECONF_MAX);
}

static void drop_sources(struct traceconf *tc)
{
    for (size_t i = 0; i < tc->n_sources; i++)
        free(tc->sources[i].name);
    tc->n_sources = 0;
    bytesbuf_clear(&tc->input);
}

void traceconf_fini(struct traceconf *tc)
{
    drop_sources(tc);
    bytesbuf_fini(&tc->input);
    bytesbuf_fini(&tc->config);
}

/* ---- sources ---- */

static int read_fd(struct traceconf *tc, int fd, const char *name, char *err, size_t errlen)
{
    for (;;) {
        uint8_t *room = bytesbuf_reserve(&tc->input, 65536);
        ssize_t n;
        if (room == NULL) {
            (void)snprintf(err, errlen, "%s: a config of more than %u MB is not accepted", name,
                           TRACECONF_MAX >> 20);
            return -EFBIG;
        }
        n = read(fd, room, 65536);
        if (n == 0)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int e = errno;
            (void)snprintf(err, errlen, "Could not read the config %s (errno: %d, %s)", name, e,
                           strerror(e));
            return -e;
        }
        bytesbuf_commit(&tc->input, (size_t)n);
    }
}

/* The config behind ":test" (R211). */
static int builtin(struct bytesbuf *out)
{
    static const char *const events[] = {"sched/sched_switch", "power/cpu_idle",
                                         "power/cpu_frequency", "power/gpu_frequency"};
    struct light l = {.time = "2s", .words = events, .n_words = 4};
    char err[8];

    return light_config(&l, out, err, sizeof(err));
}

int traceconf_read(struct traceconf *tc, const char *arg, char *err, size_t errlen)
{
    int fd, rc;

    if (strcmp(arg, ":mem") == 0) {
        (void)snprintf(err, errlen, "-c :mem is internal to upstream's client; give a file, or -");
        return -EINVAL;
    }
    if (strcmp(arg, "-") == 0 || strcmp(arg, ":test") == 0)
        drop_sources(tc);
    if (tc->n_sources == TRACECONF_SOURCES) {
        (void)snprintf(err, errlen, "%s: more than %d -c options", arg, TRACECONF_SOURCES);
        return -E2BIG;
    }
    tc->sources[tc->n_sources].name = alloc_strdup(arg);
    tc->sources[tc->n_sources++].start = tc->input.n;
    if (strcmp(arg, ":test") == 0)
        return builtin(&tc->input);
    if (strcmp(arg, "-") == 0)
        return read_fd(tc, STDIN_FILENO, "on stdin", err, errlen);
    fd = open(arg, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int e = errno;
        (void)snprintf(err, errlen, "Could not open the config %s (errno: %d, %s)", arg, e,
                       strerror(e));
        return -e;
    }
    rc = read_fd(tc, fd, arg, err, errlen);
    close(fd);
    return rc;
}

bool traceconf_has_input(const struct traceconf *tc)
{
    return tc->input.n > 0;
}

/* ---- facts ---- */

static void trigger_facts(struct traceconf_facts *f, struct bytes_view msg, uint32_t *mode,
                          bool *clone)
{
    struct bytes_cur cur = bytes_cur(msg), in;
    struct bytes_field x, y;

    while (bytes_next(&cur, &x)) {
        if (x.type == BYTES_VARINT && x.id == PBF_TraceConfig_TriggerConfig_trigger_mode)
            *mode = (uint32_t)x.num;
        else if (x.type == BYTES_VARINT &&
                 x.id == PBF_TraceConfig_TriggerConfig_use_clone_snapshot_if_available)
            *clone = x.num != 0;
        else if (x.type == BYTES_VARINT && x.id == PBF_TraceConfig_TriggerConfig_trigger_timeout_ms)
            f->trigger_timeout_ms = (uint32_t)x.num;
        if (x.type != BYTES_LEN || x.id != PBF_TraceConfig_TriggerConfig_triggers)
            continue;
        in = bytes_cur(x.data);
        while (bytes_next(&in, &y)) {
            if (y.type == BYTES_VARINT &&
                y.id == PBF_TraceConfig_TriggerConfig_Trigger_stop_delay_ms &&
                (uint32_t)y.num > f->max_stop_delay_ms)
                f->max_stop_delay_ms = (uint32_t)y.num;
        }
    }
}

static void delay_facts(struct traceconf_facts *f, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field x;

    while (bytes_next(&cur, &x)) {
        if (x.type != BYTES_VARINT)
            continue;
        if (x.id == PBF_TraceConfig_CmdTraceStartDelay_min_delay_ms) {
            f->has_min_delay = true;
            f->min_delay_ms = (uint32_t)x.num;
        } else if (x.id == PBF_TraceConfig_CmdTraceStartDelay_max_delay_ms) {
            f->has_max_delay = true;
            f->max_delay_ms = (uint32_t)x.num;
        }
    }
}

static bool names_package(struct bytes_view msg, uint32_t field)
{
    struct bytes_field x;

    return bytes_find(msg, field, BYTES_LEN, &x) && x.data.n > 0;
}

static bool is_probes_source(struct bytes_view source)
{
    struct bytes_field config, name;

    return bytes_find(source, PBF_TraceConfig_DataSource_config, BYTES_LEN, &config) &&
           bytes_find(config.data, PBF_DataSourceConfig_name, BYTES_LEN, &name) &&
           name.data.n > 6 && memcmp(name.data.p, "linux.", 6) == 0;
}

static void scalar_fact(struct traceconf_facts *f, const struct bytes_field *x)
{
    switch (x->id) {
    case PBF_TraceConfig_duration_ms:
        f->duration_ms = (uint32_t)x->num;
        break;
    case PBF_TraceConfig_write_into_file:
        f->write_into_file = x->num != 0;
        break;
    case PBF_TraceConfig_deferred_start:
        f->deferred_start = x->num != 0;
        break;
    case PBF_TraceConfig_flush_timeout_ms:
        f->flush_timeout_ms = (uint32_t)x->num;
        break;
    case PBF_TraceConfig_data_source_stop_timeout_ms:
        f->stop_timeout_ms = (uint32_t)x->num;
        break;
    default:
        break;
    }
}

static void message_fact(struct traceconf_facts *f, const struct bytes_field *x, uint32_t *mode,
                         bool *clone)
{
    struct bytes_field y;

    switch (x->id) {
    case PBF_TraceConfig_buffers:
        f->n_buffers++;
        if (bytes_find(x->data, PBF_TraceConfig_BufferConfig_size_kb, BYTES_VARINT, &y))
            f->buffer_kb += (uint32_t)y.num;
        break;
    case PBF_TraceConfig_data_sources:
        f->n_data_sources++;
        f->needs_probes = f->needs_probes || is_probes_source(x->data);
        break;
    case PBF_TraceConfig_trigger_config:
        trigger_facts(f, x->data, mode, clone);
        break;
    case PBF_TraceConfig_activate_triggers:
        f->n_activate_triggers++;
        break;
    case PBF_TraceConfig_output_path:
        f->output_path = x->data;
        break;
    case PBF_TraceConfig_unique_session_name:
        f->session_name = x->data;
        break;
    case PBF_TraceConfig_cmd_trace_start_delay:
        delay_facts(f, x->data);
        break;
    case PBF_TraceConfig_incident_report_config:
        f->incident_report |=
            names_package(x->data, PBF_TraceConfig_IncidentReportConfig_destination_package);
        break;
    case PBF_TraceConfig_android_report_config:
        f->android_report |=
            names_package(x->data, PBF_TraceConfig_AndroidReportConfig_reporter_service_package);
        break;
    default:
        break;
    }
}

/* False if the top level does not decode; what is below may be as broken as it likes (R214). */
static bool read_facts(struct traceconf *tc)
{
    struct bytes_cur cur = bytes_cur(bytesbuf_view(&tc->config));
    struct traceconf_facts *f = &tc->facts;
    struct bytes_field x;
    uint32_t mode = 0;
    bool clone = false;

    memset(f, 0, sizeof(*f));
    while (bytes_next(&cur, &x)) {
        if (x.type == BYTES_VARINT)
            scalar_fact(f, &x);
        else if (x.type == BYTES_LEN)
            message_fact(f, &x, &mode, &clone);
    }
    if (clone || mode == TRACECONF_CLONE_SNAPSHOT)
        f->trigger_mode = TRACECONF_CLONE_SNAPSHOT;
    else if (mode == TRACECONF_START_TRACING || mode == TRACECONF_STOP_TRACING)
        f->trigger_mode = (enum traceconf_trigger_mode)mode;
    return bytes_done(&cur);
}

struct bytes_view traceconf_trigger(const struct traceconf *tc, size_t n)
{
    struct bytes_cur cur = bytes_cur(bytesbuf_view(&tc->config));
    struct bytes_field x;

    while (bytes_next(&cur, &x)) {
        if (x.type == BYTES_LEN && x.id == PBF_TraceConfig_activate_triggers && n-- == 0)
            return x.data;
    }
    return bytes_view(NULL, 0);
}

uint64_t traceconf_expected_ms(const struct traceconf_facts *f)
{
    if (f->duration_ms != 0)
        return f->duration_ms;
    return (uint64_t)f->trigger_timeout_ms + f->max_stop_delay_ms;
}

/* ---- parsing ---- */

int traceconf_set(struct traceconf *tc, struct bytes_view config, char *err, size_t errlen)
{
    bytesbuf_clear(&tc->config);
    bytesbuf_put(&tc->config, config.p, config.n);
    if (tc->config.failed)
        return -ENOMEM;
    if (read_facts(tc))
        return 0;
    (void)snprintf(err, errlen, "the trace config is invalid: it does not decode as a TraceConfig");
    return ERR_BAD_CONFIG;
}

static bool looks_like_text(struct bytes_view v)
{
    for (size_t i = 0; i < v.n; i++) {
        if (!((v.p[i] >= 32 && v.p[i] <= 126) || (v.p[i] >= 9 && v.p[i] <= 13)))
            return false;
    }
    return true;
}

int traceconf_parse_binary(struct traceconf *tc, char *err, size_t errlen)
{
    struct bytes_view in = bytesbuf_view(&tc->input);
    int rc = traceconf_set(tc, in, err, errlen);

    if (rc == ERR_BAD_CONFIG && looks_like_text(in))
        (void)snprintf(err, errlen,
                       "the trace config is invalid: it looks like text; add --txt to have it read "
                       "as that");
    return rc;
}

/* Texts are joined with a line break between them, so that the last word of one and the first word
 * of the next stay apart. */
static void join_texts(struct traceconf *tc, struct bytesbuf *text, struct pbdiag_source *src)
{
    for (size_t i = 0; i < tc->n_sources; i++) {
        size_t from = tc->sources[i].start;
        size_t to = i + 1 < tc->n_sources ? tc->sources[i + 1].start : tc->input.n;
        if (text->n > 0 && text->p[text->n - 1] != '\n')
            bytesbuf_put_u8(text, '\n');
        src[i].name = tc->sources[i].name;
        src[i].start = text->n;
        if (to > from)
            bytesbuf_put(text, tc->input.p + from, to - from);
    }
}

int traceconf_parse_text(struct traceconf *tc, bool lossy, char *err, size_t errlen)
{
    struct pbtext_options options = {.lossy = lossy};
    struct pbdiag_source src[TRACECONF_SOURCES];
    upb_DefPool *pool = upb_DefPool_New();
    struct bytesbuf text;
    struct pbdiag d = {.out = stderr, .shown_max = PBDIAG_SHOWN};
    upb_Status status;
    int rc;

    upb_Status_Clear(&status);
    bytesbuf_init(&text, TRACECONF_MAX + TRACECONF_SOURCES);
    join_texts(tc, &text, src);
    bytesbuf_clear(&tc->config);
    rc = pool ? descset_load(pool, "protos/config/trace_config.proto", &status) : -ENOMEM;
    if (rc == 0) {
        d.text = (const char *)text.p;
        d.len = text.n;
        d.sources = src;
        d.n_sources = tc->n_sources;
        d.terminal = isatty(STDERR_FILENO);
        rc = pbtext_parse(upb_DefPool_FindMessageByName(pool, "perfetto.protos.TraceConfig"), pool,
                          &options, &d, &tc->config);
        pbdiag_finish(&d);
    }
    if (rc == 0)
        (void)read_facts(tc);
    else if (rc == ERR_BAD_CONFIG)
        (void)snprintf(err, errlen, "the trace config is invalid: %u error%s, see above", d.errors,
                       d.errors == 1 ? "" : "s");
    else
        (void)snprintf(err, errlen, "could not parse the trace config: %s", strerror(-rc));
    bytesbuf_fini(&text);
    if (pool != NULL)
        upb_DefPool_Free(pool);
    return rc;
}

/* ---- what is sent ---- */

static void put_statsd(struct bytesbuf *out, const struct traceconf_extras *x)
{
    size_t mark = bytesbuf_pb_begin(out, PBF_TraceConfig_statsd_metadata);

    if (x->alert_id != 0)
        bytesbuf_pb_varint(out, PBF_TraceConfig_StatsdMetadata_triggering_alert_id,
                           (uint64_t)x->alert_id);
    if (x->config_uid != 0)
        bytesbuf_pb_varint(out, PBF_TraceConfig_StatsdMetadata_triggering_config_uid,
                           (uint64_t)x->config_uid);
    if (x->config_id != 0)
        bytesbuf_pb_varint(out, PBF_TraceConfig_StatsdMetadata_triggering_config_id,
                           (uint64_t)x->config_id);
    if (x->subscription_id != 0)
        bytesbuf_pb_varint(out, PBF_TraceConfig_StatsdMetadata_triggering_subscription_id,
                           (uint64_t)x->subscription_id);
    bytesbuf_pb_end(out, mark);
}

static void put_attributes(struct bytesbuf *out, const struct bytesbuf *old,
                           const struct traceconf_extras *x)
{
    size_t mark = bytesbuf_pb_begin(out, PBF_TraceConfig_trace_attributes);

    bytesbuf_put(out, old->p, old->n);
    for (size_t i = 0; i < x->n_attributes; i++) {
        size_t one = bytesbuf_pb_begin(out, PBF_TraceAttributes_attribute);
        size_t key = strcspn(x->attributes[i], "=");
        const char *value = x->attributes[i] + key;
        bytesbuf_pb_bytes(out, PBF_TraceAttributes_Attribute_key, x->attributes[i], key);
        bytesbuf_pb_str(out, PBF_TraceAttributes_Attribute_string_value, value + (*value == '='));
        bytesbuf_pb_end(out, one);
    }
    bytesbuf_pb_end(out, mark);
}

static uint64_t random_nonzero(void)
{
    uint64_t v;

    do
        v = chrono_random_u64();
    while (v == 0);
    return v;
}

int traceconf_finish(const struct traceconf *tc, const struct traceconf_extras *x,
                     struct bytesbuf *out)
{
    struct bytes_cur cur = bytes_cur(bytesbuf_view(&tc->config));
    struct bytesbuf attributes;
    struct bytes_field f;
    uint64_t msb = 0, lsb = 0, logging = 0;
    bool has_attributes = x->n_attributes > 0;

    bytesbuf_init(&attributes, TRACECONF_MAX);
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_TraceConfig_trace_uuid_msb && f.type == BYTES_VARINT) {
            msb = f.num;
        } else if (f.id == PBF_TraceConfig_trace_uuid_lsb && f.type == BYTES_VARINT) {
            lsb = f.num;
        } else if (f.id == PBF_TraceConfig_statsd_logging && f.type == BYTES_VARINT) {
            logging = f.num;
        } else if (f.id == PBF_TraceConfig_trace_attributes && f.type == BYTES_LEN) {
            bytesbuf_put(&attributes, f.data.p, f.data.n);
            has_attributes = true;
        } else if (f.id != PBF_TraceConfig_statsd_metadata &&
                   f.id != PBF_TraceConfig_enable_extra_guardrails) {
            bytesbuf_put(out, f.raw.p, f.raw.n);
        }
    }
    if (msb == 0 && lsb == 0) {
        msb = random_nonzero();
        lsb = x->subscription_id != 0 ? (uint64_t)x->subscription_id : random_nonzero();
    }
    put_statsd(out, x);
    bytesbuf_pb_varint(out, PBF_TraceConfig_trace_uuid_msb, msb);
    bytesbuf_pb_varint(out, PBF_TraceConfig_trace_uuid_lsb, lsb);
    bytesbuf_pb_varint(out, PBF_TraceConfig_statsd_logging,
                       logging != 0 ? logging : STATSD_LOGGING_DISABLED);
    if (has_attributes)
        put_attributes(out, &attributes, x);
    bytesbuf_pb_varint(out, PBF_TraceConfig_enable_extra_guardrails, 0);
    if (attributes.failed)
        out->failed = true;
    bytesbuf_fini(&attributes);
    return out->failed ? -ENOMEM : 0;
}
