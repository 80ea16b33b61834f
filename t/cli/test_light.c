/* SPDX-License-Identifier: Apache-2.0 */
/* The light form: units (R401, R402, R405) and the config it makes, field by field (R410..R415). */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "cli/light.h"
#include "protos/config/data_source_config.upb.h"
#include "protos/config/ftrace/ftrace_config.upb.h"
#include "protos/config/sys_stats/sys_stats_config.upb.h"
#include "protos/config/trace_config.upb.h"

#define TC(name) perfetto_protos_TraceConfig_##name
#define DS(name) perfetto_protos_DataSourceConfig_##name
#define FT(name) perfetto_protos_FtraceConfig_##name

Test(light, durations)
{
    static const struct {
        const char *text;
        uint32_t ms;
    } good[] = {{"2ms", 2},
                {"0", 0},
                {"", 0},
                {"100s", 100000},
                {"2m", 120000},
                {"2h", 7200000},
                {"4294967295ms", UINT32_MAX}};
    static const char *const bad[] = {"2",
                                      "ms",
                                      "2ly",
                                      "2mb",
                                      "2s ",
                                      " 2s",
                                      "abc",
                                      "-1s",
                                      "+1s",
                                      "1.5s",
                                      "4294967296ms",
                                      "2S",
                                      "99999999999999999999s",
                                      "00"};

    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        uint32_t ms = 1;
        cr_expect(light_duration_ms(good[i].text, &ms), "%s", good[i].text);
        cr_expect_eq(ms, good[i].ms, "%s -> %u", good[i].text, ms);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        uint32_t ms = 77;
        cr_expect(!light_duration_ms(bad[i], &ms), "%s", bad[i]);
        cr_expect_eq(ms, 77);
    }
}

Test(light, sizes)
{
    static const struct {
        const char *text;
        uint64_t kb;
    } good[] = {{"2kb", 2},       {"2k", 2},       {"2mb", 2048}, {"2m", 2048},
                {"2gb", 2097152}, {"2g", 2097152}, {"0", 0},      {"", 0}};
    static const char *const bad[] = {"2", "kb", "2gb ", "2s", "2MB", "1 mb", "2tb"};
    uint64_t kb = 0;

    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        cr_expect(light_size_kb(good[i].text, &kb), "%s", good[i].text);
        cr_expect_eq(kb, good[i].kb, "%s", good[i].text);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        cr_expect(!light_size_kb(bad[i], &kb), "%s", bad[i]);
}

static upb_Arena *arena;
static struct bytesbuf buf;

static const perfetto_protos_TraceConfig *make(const struct light *l)
{
    char err[200];

    bytesbuf_clear(&buf);
    cr_assert_eq(light_config(l, &buf, err, sizeof(err)), 0, "%s", err);
    const perfetto_protos_TraceConfig *c = TC(parse)((char *)buf.p, buf.n, arena);
    cr_assert(c);
    return c;
}

static const perfetto_protos_DataSourceConfig *source(const perfetto_protos_TraceConfig *c,
                                                      size_t i, const char *name)
{
    size_t n;
    const perfetto_protos_TraceConfig_DataSource *const *ds = TC(data_sources)(c, &n);
    const perfetto_protos_DataSourceConfig *d;

    cr_assert_lt(i, n);
    d = TC(DataSource_config)(ds[i]);
    cr_expect(upb_StringView_IsEqual(DS(name)(d), upb_StringView_FromString(name)), "%zu: not %s",
              i, name);
    return d;
}

static size_t sources(const perfetto_protos_TraceConfig *c)
{
    size_t n;

    TC(data_sources)(c, &n);
    return n;
}

static const perfetto_protos_FtraceConfig *ftrace(const perfetto_protos_DataSourceConfig *d)
{
    const perfetto_protos_FtraceConfig *f = DS(ftrace_config)(d);

    cr_assert(f);
    return f;
}

static void setup(void)
{
    arena = upb_Arena_New();
    bytesbuf_init(&buf, 1 << 20);
}

static void teardown(void)
{
    bytesbuf_fini(&buf);
    upb_Arena_Free(arena);
}

TestSuite(light_config, .init = setup, .fini = teardown);

Test(light_config, defaults) /* R410 */
{
    const perfetto_protos_TraceConfig *c = make(&(struct light){0});
    const perfetto_protos_TraceConfig_BufferConfig *const *b;
    size_t n;

    cr_expect_eq(TC(duration_ms)(c), 10000);
    cr_expect(TC(has_max_file_size_bytes)(c));
    cr_expect_eq(TC(max_file_size_bytes)(c), 0);
    cr_expect_eq(TC(flush_period_ms)(c), 30000);
    cr_expect(!TC(has_write_into_file)(c));
    b = TC(buffers)(c, &n);
    cr_assert_eq(n, 1);
    cr_expect_eq(TC(BufferConfig_size_kb)(b[0]), 32768);
    cr_expect(!TC(BufferConfig_has_fill_policy)(b[0]));
    cr_expect_eq(sources(c), 2);
    cr_expect(DS(has_target_buffer)(source(c, 0, "linux.process_stats")));
    cr_expect(DS(has_target_buffer)(source(c, 1, "linux.system_info")));
}

Test(light_config, everything) /* R413 */
{
    static const char *const words[] = {"sw", "sched/sched_switch", "sched/*"};
    static const char *const apps[] = {"com.android.chrome", "b"};
    struct light l = {.time = "1h",
                      .buffer = "100mb",
                      .size = "1gb",
                      .words = words,
                      .n_words = 3,
                      .apps = apps,
                      .n_apps = 2};
    const perfetto_protos_TraceConfig *c = make(&l);
    const perfetto_protos_DataSourceConfig *d = source(c, 0, "linux.ftrace");
    const perfetto_protos_FtraceConfig *f = ftrace(d);
    const upb_StringView *v;
    size_t n;

    cr_expect_eq(TC(duration_ms)(c), 3600000);
    cr_expect_eq(TC(max_file_size_bytes)(c), 1073741824);
    cr_expect(TC(write_into_file)(c));
    cr_expect(!DS(has_target_buffer)(d));
    v = FT(ftrace_events)(f, &n);
    cr_assert_eq(n, 2);
    cr_expect(upb_StringView_IsEqual(v[1], upb_StringView_FromString("sched/*")));
    v = FT(atrace_categories)(f, &n);
    cr_assert_eq(n, 1);
    cr_expect(upb_StringView_IsEqual(v[0], upb_StringView_FromString("sw")));
    v = FT(atrace_apps)(f, &n);
    cr_assert_eq(n, 2);
    cr_expect(FT(symbolize_ksyms)(f));
    cr_expect_eq(sources(c), 3);
}

Test(light_config, hypervisor) /* R414 R415 */
{
    static const char *const both[] = {"hyp", "sw", "hypervisor"};
    const perfetto_protos_TraceConfig *c = make(&(struct light){.words = both, .n_words = 1});
    const perfetto_protos_FtraceConfig *f = ftrace(source(c, 0, "linux.ftrace"));

    cr_expect(upb_StringView_IsEqual(FT(instance_name)(f), upb_StringView_FromString("hyp")));
    cr_expect(!FT(has_symbolize_ksyms)(f));
    c = make(&(struct light){.words = both, .n_words = 3});
    cr_expect(FT(symbolize_ksyms)(ftrace(source(c, 0, "linux.ftrace"))));
    f = ftrace(source(c, 1, "linux.ftrace"));
    cr_expect(upb_StringView_IsEqual(FT(instance_name)(f), upb_StringView_FromString("hypervisor")),
              "the last one wins");
}

Test(light_config, categories_with_a_source)
{
    static const char *const words[] = {"disk", "gfx"};
    const perfetto_protos_TraceConfig *c = make(&(struct light){.words = words, .n_words = 2});
    const perfetto_protos_SysStatsConfig *s = DS(sys_stats_config)(source(c, 0, "linux.sys_stats"));
    size_t n;

    cr_expect_eq(perfetto_protos_SysStatsConfig_diskstat_period_ms(s), 1000);
    source(c, 1, "android.surfaceflinger.frametimeline");
    FT(atrace_categories)(ftrace(source(c, 2, "linux.ftrace")), &n);
    cr_expect_eq(n, 2);
}

Test(light_config, size_makes_a_file)
{
    cr_expect(!TC(has_write_into_file)(make(&(struct light){.size = "0"})));
    cr_expect(TC(write_into_file)(make(&(struct light){.size = "1kb"})));
    cr_expect_eq(TC(max_file_size_bytes)(make(&(struct light){.size = "3g"})), 3ull << 30);
}

Test(light_config, harness_has_no_end_and_takes_track_events)
{
    const perfetto_protos_TraceConfig *c = make(&(struct light){.harness = true});

    cr_expect_eq(TC(duration_ms)(c), 0);
    source(c, 2, "track_event");
    cr_expect_eq(TC(duration_ms)(make(&(struct light){.harness = true, .time = "3s"})), 3000);
}

Test(light_config, bad_values_name_their_option) /* R404 */
{
    char err[200];

    cr_expect_eq(light_config(&(struct light){.time = "2"}, &buf, err, sizeof(err)), -EINVAL);
    cr_expect(strstr(err, "--time") && strstr(err, "'2'"), "%s", err);
    cr_expect_eq(light_config(&(struct light){.buffer = "2s"}, &buf, err, sizeof(err)), -EINVAL);
    cr_expect(strstr(err, "--buffer"), "%s", err);
    cr_expect_eq(light_config(&(struct light){.size = "x"}, &buf, err, sizeof(err)), -EINVAL);
    cr_expect(strstr(err, "--size"), "%s", err);
    cr_expect_eq(buf.n, 0, "nothing is written on failure");
}
