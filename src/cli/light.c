/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The light form of the command line.
 *
 * What it makes is pinned field by field (spec 4.3): scripts compare, and the built-in config
 * ":test" is made by it too. It owns nothing; the words are borrowed from the command line. Words
 * are not checked against the events of this machine: the config may be for another one, and
 * traced_probes reports what it does not know.
 */
#include "cli/light.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "protos/fieldnum.h"

#define FLUSH_PERIOD_MS 30000
#define DISKSTAT_MS     1000

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit time_units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {0}};
static const struct unit size_units[] = {{"kb", 1},       {"k", 1},       {"mb", 1024}, {"m", 1024},
                                         {"gb", 1 << 20}, {"g", 1 << 20}, {0}};

/* Digits and a unit with nothing around them; the unit may be missing behind a lone 0 and if there
 * is nothing at all (R402). */
static bool scan(const char *text, const struct unit *units, uint64_t *out)
{
    uint64_t n = 0;
    const char *p = text;

    if (*p == '\0' || strcmp(p, "0") == 0) {
        *out = 0;
        return true;
    }
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
            return false;
    }
    if (p == text)
        return false;
    for (; units->name != NULL; units++) {
        if (strcmp(p, units->name) == 0)
            return !__builtin_mul_overflow(n, units->factor, out);
    }
    return false;
}

bool light_duration_ms(const char *text, uint32_t *ms)
{
    uint64_t v;

    if (!scan(text, time_units, &v) || v > UINT32_MAX)
        return false;
    *ms = (uint32_t)v;
    return true;
}

bool light_size_kb(const char *text, uint64_t *kb)
{
    return scan(text, size_units, kb);
}

static bool is_hypervisor(const char *word)
{
    return strcmp(word, "hyp") == 0 || strcmp(word, "hypervisor") == 0;
}

/* Data sources that a category brings along (4.2). */
static void put_category_source(struct bytesbuf *b, const char *word)
{
    bool gfx = strcmp(word, "gfx") == 0;
    size_t source, config, stats;

    if (!gfx && strcmp(word, "disk") != 0)
        return;
    source = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
    config = bytesbuf_pb_begin(b, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(b, PBF_DataSourceConfig_name,
                    gfx ? "android.surfaceflinger.frametimeline" : "linux.sys_stats");
    if (!gfx) {
        stats = bytesbuf_pb_begin(b, PBF_DataSourceConfig_sys_stats_config);
        bytesbuf_pb_varint(b, PBF_SysStatsConfig_diskstat_period_ms, DISKSTAT_MS);
        bytesbuf_pb_end(b, stats);
    }
    bytesbuf_pb_end(b, config);
    bytesbuf_pb_end(b, source);
}

static void put_ftrace(struct bytesbuf *b, const struct light *l)
{
    size_t source = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
    size_t config = bytesbuf_pb_begin(b, PBF_TraceConfig_DataSource_config), ftrace;

    bytesbuf_pb_str(b, PBF_DataSourceConfig_name, "linux.ftrace");
    ftrace = bytesbuf_pb_begin(b, PBF_DataSourceConfig_ftrace_config);
    for (size_t i = 0; i < l->n_words; i++) {
        if (strchr(l->words[i], '/') != NULL)
            bytesbuf_pb_str(b, PBF_FtraceConfig_ftrace_events, l->words[i]);
    }
    for (size_t i = 0; i < l->n_words; i++) {
        if (strchr(l->words[i], '/') == NULL && !is_hypervisor(l->words[i]))
            bytesbuf_pb_str(b, PBF_FtraceConfig_atrace_categories, l->words[i]);
    }
    for (size_t i = 0; i < l->n_apps; i++)
        bytesbuf_pb_str(b, PBF_FtraceConfig_atrace_apps, l->apps[i]);
    bytesbuf_pb_varint(b, PBF_FtraceConfig_symbolize_ksyms, 1);
    bytesbuf_pb_end(b, ftrace);
    bytesbuf_pb_end(b, config);
    bytesbuf_pb_end(b, source);
}

static void put_hypervisor(struct bytesbuf *b, const char *name)
{
    size_t source = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
    size_t config = bytesbuf_pb_begin(b, PBF_TraceConfig_DataSource_config), ftrace;
    char event[32];

    (void)snprintf(event, sizeof(event), "%s/*", name);
    bytesbuf_pb_str(b, PBF_DataSourceConfig_name, "linux.ftrace");
    ftrace = bytesbuf_pb_begin(b, PBF_DataSourceConfig_ftrace_config);
    bytesbuf_pb_str(b, PBF_FtraceConfig_instance_name, name);
    bytesbuf_pb_str(b, PBF_FtraceConfig_ftrace_events, event);
    bytesbuf_pb_end(b, ftrace);
    bytesbuf_pb_end(b, config);
    bytesbuf_pb_end(b, source);
}

static void put_plain_source(struct bytesbuf *b, const char *name)
{
    size_t source = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
    size_t config = bytesbuf_pb_begin(b, PBF_TraceConfig_DataSource_config);

    bytesbuf_pb_str(b, PBF_DataSourceConfig_name, name);
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_target_buffer, 0);
    bytesbuf_pb_end(b, config);
    bytesbuf_pb_end(b, source);
}

/* What the SDK inside of a command registers. Its C library records nothing unless a category is
 * asked for. */
static void put_track_event(struct bytesbuf *b)
{
    size_t source = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
    size_t config = bytesbuf_pb_begin(b, PBF_TraceConfig_DataSource_config), te;

    bytesbuf_pb_str(b, PBF_DataSourceConfig_name, "track_event");
    te = bytesbuf_pb_begin(b, PBF_DataSourceConfig_track_event_config);
    bytesbuf_pb_str(b, PBF_TrackEventConfig_enabled_categories, "*");
    bytesbuf_pb_end(b, te);
    bytesbuf_pb_end(b, config);
    bytesbuf_pb_end(b, source);
}

static void put_sources(struct bytesbuf *b, const struct light *l)
{
    const char *hypervisor = NULL;
    size_t host = l->n_apps;

    for (size_t i = 0; i < l->n_words; i++) {
        if (is_hypervisor(l->words[i]))
            hypervisor = l->words[i];
        else
            host++;
        put_category_source(b, l->words[i]);
    }
    if (host > 0)
        put_ftrace(b, l);
    if (hypervisor != NULL)
        put_hypervisor(b, hypervisor);
    put_plain_source(b, "linux.process_stats");
    put_plain_source(b, "linux.system_info");
    if (l->harness)
        put_track_event(b);
}

static int bad_value(const char *option, const char *text, const char *good, char *err,
                     size_t errlen)
{
    (void)snprintf(err, errlen, "invalid value for %s: '%s'; write a whole number and a unit, %s",
                   option, text, good);
    return -EINVAL;
}

int light_config(const struct light *l, struct bytesbuf *out, char *err, size_t errlen)
{
    const char *time = l->time ? l->time : l->harness ? "0" : LIGHT_TIME;
    const char *buffer = l->buffer ? l->buffer : LIGHT_BUFFER;
    const char *size = l->size ? l->size : "0";
    uint64_t buffer_kb, size_kb, size_bytes;
    uint32_t ms;
    size_t mark;

    if (!light_duration_ms(time, &ms))
        return bad_value("--time", time, "ms, s, m or h (5s)", err, errlen);
    if (!light_size_kb(buffer, &buffer_kb) || buffer_kb > UINT32_MAX)
        return bad_value("--buffer", buffer, "kb, mb or gb (32mb)", err, errlen);
    if (!light_size_kb(size, &size_kb) || __builtin_mul_overflow(size_kb, 1024, &size_bytes))
        return bad_value("--size", size, "kb, mb or gb (100mb)", err, errlen);
    bytesbuf_pb_varint(out, PBF_TraceConfig_duration_ms, ms);
    bytesbuf_pb_varint(out, PBF_TraceConfig_max_file_size_bytes, size_bytes);
    bytesbuf_pb_varint(out, PBF_TraceConfig_flush_period_ms, FLUSH_PERIOD_MS);
    if (size_kb > 0)
        bytesbuf_pb_varint(out, PBF_TraceConfig_write_into_file, 1);
    mark = bytesbuf_pb_begin(out, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(out, PBF_TraceConfig_BufferConfig_size_kb, buffer_kb);
    bytesbuf_pb_end(out, mark);
    put_sources(out, l);
    return out->failed ? -ENOMEM : 0;
}
