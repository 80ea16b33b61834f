/* SPDX-License-Identifier: Apache-2.0 */
/* svc/tracecfg: reading, refusing (V2 to V13) and changing configs; svc/dsconfig: what is
 * forwarded. */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/err.h"
#include "svc/dsconfig.h"
#include "svc/tracecfg.h"
#include "t/svc/world.h"

static struct bytesbuf cfg;

static void setup(void)
{
    bytesbuf_init(&cfg, 1u << 22);
}

static void teardown(void)
{
    bytesbuf_fini(&cfg);
}

TestSuite(tracecfg, .init = setup, .fini = teardown);

static void num(uint32_t field, uint64_t v)
{
    bytesbuf_pb_varint(&cfg, field, v);
}

/* What tracecfg_check says about the config under construction: "" when it is fine. Begins a new
 * one. */
static const char *verdict(void)
{
    static char why[TRACECFG_WHY_MAX];
    struct tracecfg *c = NULL;
    why[0] = '\0';
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &c), 0);
    bool ok = tracecfg_check(c, why, sizeof(why));
    cr_expect_eq(ok, why[0] == '\0', "a refusal has a text, and nothing else has");
    tracecfg_free(c);
    bytesbuf_clear(&cfg);
    return why;
}

#define FINE() cr_expect_str_eq(verdict(), "")
#define REFUSED(part)                                                                              \
    do {                                                                                           \
        const char *v_ = verdict();                                                                \
        cr_expect(v_[0] && strstr(v_, part), "refusal is \"%s\"", v_);                             \
    } while (0)

Test(tracecfg, V2_duration)
{
    num(PBF_TraceConfig_duration_ms, 604800000);
    FINE();
    num(PBF_TraceConfig_duration_ms, 604800001);
    REFUSED("duration_ms");
    num(PBF_TraceConfig_duration_ms, 86400000);
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    FINE();
    num(PBF_TraceConfig_duration_ms, 86400001);
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    REFUSED("guardrails");
}

Test(tracecfg, V3_trigger_timeout)
{
    cfg_trigger_mode(&cfg, 1, 0);
    REFUSED("trigger_timeout_ms");
    cfg_trigger_mode(&cfg, 2, 604800001);
    REFUSED("trigger_timeout_ms");
    cfg_trigger_mode(&cfg, 2, 604800000);
    FINE();
    cfg_trigger(&cfg, "t", NULL, 1, 0, 0); /* Q9: listed without a mode */
    FINE();
}

Test(tracecfg, V4_T101_trigger_mode)
{
    cfg_trigger_mode(&cfg, 5, 1000);
    REFUSED("trigger_mode"); /* T101 */
    cfg_trigger_mode(&cfg, 3, 1000);
    FINE(); /* Q9 */
}

Test(tracecfg, V5_clone_fallback)
{
    for (uint32_t mode = 0; mode <= 4; mode++) {
        cfg_trigger_mode(&cfg, mode, 1000);
        size_t m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_trigger_config);
        num(PBF_TraceConfig_TriggerConfig_use_clone_snapshot_if_available, 1);
        bytesbuf_pb_end(&cfg, m);
        if (mode == 2)
            FINE();
        else
            REFUSED("use_clone_snapshot_if_available");
    }
}

Test(tracecfg, V6_duration_and_triggers)
{
    cfg_trigger_mode(&cfg, 2, 1000);
    num(PBF_TraceConfig_duration_ms, 1);
    REFUSED("duration_ms");
}

Test(tracecfg, V7_bugreport_filename)
{
    bytesbuf_pb_str(&cfg, PBF_TraceConfig_bugreport_filename, "aZ09._-");
    FINE();
    bytesbuf_pb_str(&cfg, PBF_TraceConfig_bugreport_filename, "a/b");
    REFUSED("bugreport_filename");
    bytesbuf_pb_bytes(&cfg, PBF_TraceConfig_bugreport_filename, "a\0b", 3);
    REFUSED("bugreport_filename");
}

Test(tracecfg, V8_mode_and_file)
{
    for (uint32_t mode = 1; mode <= 4; mode++) {
        cfg_trigger_mode(&cfg, mode, 1000);
        num(PBF_TraceConfig_write_into_file, 1);
        if (mode == 2 || mode == 4)
            REFUSED("write_into_file");
        else
            FINE();
    }
}

Test(tracecfg, V9_trigger_names)
{
    cfg_trigger(&cfg, "a", NULL, 0, 0, 0);
    cfg_trigger(&cfg, "b", NULL, 0, 0, 0);
    FINE();
    cfg_trigger(&cfg, "a", NULL, 0, 0, 0);
    cfg_trigger(&cfg, "b", NULL, 0, 0, 0);
    cfg_trigger(&cfg, "a", NULL, 0, 0, 0);
    REFUSED("\"a\"");
}

Test(tracecfg, V10a_V10b_V10c_guardrails)
{
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    num(PBF_TraceConfig_deferred_start, 1);
    REFUSED("deferred_start");
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    cfg_buffer(&cfg, 6);
    REFUSED("multiples of 4");
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    cfg_buffer(&cfg, 131072);
    FINE();
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    cfg_buffer(&cfg, 131072);
    cfg_buffer(&cfg, 4);
    REFUSED("in total");
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    cfg_buffer(&cfg, 200000);
    size_t m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_guardrail_overrides);
    num(PBF_TraceConfig_GuardrailOverrides_max_tracing_buffer_size_kb, 200000);
    bytesbuf_pb_end(&cfg, m);
    FINE();
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    cfg_buffer(&cfg, 100000);
    m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_guardrail_overrides);
    num(PBF_TraceConfig_GuardrailOverrides_max_tracing_buffer_size_kb, 4); /* can only raise */
    bytesbuf_pb_end(&cfg, m);
    FINE();
}

static void named_buffer(const char *name)
{
    size_t m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&cfg, PBF_TraceConfig_BufferConfig_size_kb, 4);
    bytesbuf_pb_str(&cfg, PBF_TraceConfig_BufferConfig_name, name);
    bytesbuf_pb_end(&cfg, m);
}

static void named_source(const char *buffer, int index)
{
    size_t m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&cfg, PBF_DataSourceConfig_name, "ds");
    if (buffer)
        bytesbuf_pb_str(&cfg, PBF_DataSourceConfig_target_buffer_name, buffer);
    if (index >= 0)
        bytesbuf_pb_varint(&cfg, PBF_DataSourceConfig_target_buffer, (uint64_t)index);
    bytesbuf_pb_end(&cfg, k);
    bytesbuf_pb_end(&cfg, m);
}

Test(tracecfg, V11_V12_T21_buffers)
{
    for (int i = 0; i < 128; i++)
        named_buffer("");
    FINE();
    for (int i = 0; i < 129; i++)
        named_buffer("");
    REFUSED("129 buffers");
    named_buffer("x");
    named_buffer("x");
    REFUSED("Duplicate buffer name"); /* R14, T21 */
}

Test(tracecfg, V13a_V13b_V13c_T19_T20_targets)
{
    named_buffer("one");
    named_buffer("two");
    named_source("two", -1);
    named_source("two", 1); /* T18 */
    named_source("two", 0); /* 0 counts as unset */
    named_source(NULL, 1);  /* T22 */
    FINE();
    named_buffer("one");
    named_source("three", -1);
    REFUSED("does not match any buffer"); /* T19 */
    named_buffer("one");
    named_buffer("two");
    named_source("one", 1);
    REFUSED("don't match"); /* T20 */
    named_buffer("one");
    named_source(NULL, 1);
    REFUSED("does not exist");
    named_source(NULL, -1);
    REFUSED("does not exist");
}

Test(tracecfg, R67_patterns)
{
    cfg_trigger(&cfg, "t", "((", 0, 0, 0);
    REFUSED("\"((\"");
    named_buffer("b");
    size_t m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_data_sources);
    bytesbuf_pb_str(&cfg, PBF_TraceConfig_DataSource_producer_name_regex_filter, "[");
    bytesbuf_pb_end(&cfg, m);
    REFUSED("not a valid pattern");
}

Test(tracecfg, rubbish_is_no_config)
{
    static const uint8_t bad[][4] = {{0x0A, 0x05, 0, 0}, {0x18, 0x80, 0x80, 0x80}, {0x07, 0, 0, 0}};
    struct tracecfg *c = NULL;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(tracecfg_new(bytes_view(bad[i], 4), &c), ERR_BAD_REQUEST, "case %zu", i);
    /* wrong wire types are unknown fields */
    static const uint8_t odd[] = {0x1A, 0x01, 'x', 0x08, 0x05};
    cr_assert_eq(tracecfg_new(bytes_view(odd, sizeof(odd)), &c), 0);
    cr_expect_eq(c->duration_ms, 0);
    cr_expect_eq(c->nbuffers, 0);
    tracecfg_free(c);
}

Test(tracecfg, R40_changes_keep_unknown_fields)
{
    struct tracecfg *c, *d;
    named_buffer("b");
    num(PBF_TraceConfig_duration_ms, 5);
    bytesbuf_pb_str(&cfg, 9999, "unknown");
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &c), 0);
    cr_assert_eq(tracecfg_with_duration(c, 77, &d), 0);
    cr_expect_eq(d->duration_ms, 77);
    cr_expect_eq(msg_fields(d->raw, d->raw_len, PBF_TraceConfig_duration_ms), 1);
    cr_expect_str_eq(msg_str(d->raw, d->raw_len, 9999), "unknown");
    cr_expect_eq(d->nbuffers, 1);
    cr_expect_eq(c->duration_ms, 5, "the old one is as it was");
    tracecfg_free(d);
    tracecfg_free(c);
}

static void filtered_source(const char *name, const char *filter, const char *regex)
{
    size_t m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&cfg, PBF_DataSourceConfig_name, name);
    bytesbuf_pb_end(&cfg, k);
    if (filter)
        bytesbuf_pb_str(&cfg, PBF_TraceConfig_DataSource_producer_name_filter, filter);
    if (regex)
        bytesbuf_pb_str(&cfg, PBF_TraceConfig_DataSource_producer_name_regex_filter, regex);
    bytesbuf_pb_end(&cfg, m);
}

Test(tracecfg, R194_only_filters_change)
{
    struct tracecfg *a, *b, *c;
    named_buffer("b");
    filtered_source("x", "P1", NULL);
    filtered_source("y", "P1", NULL);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &a), 0);
    bytesbuf_clear(&cfg);
    num(PBF_TraceConfig_duration_ms, 5);
    filtered_source("x", "P2", ".*3");
    filtered_source("new", NULL, NULL);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &b), 0);
    cr_assert_eq(tracecfg_change(a, b, &c), 0);
    cr_expect_eq(c->nsources, 2);
    cr_expect_eq(c->duration_ms, 0);
    cr_expect_not(tracecfg_producer_passes(c, &c->sources[0], bytes_str("P1")));
    cr_expect(tracecfg_producer_passes(c, &c->sources[0], bytes_str("P2")));
    cr_expect(tracecfg_producer_passes(c, &c->sources[0], bytes_str("P3")));
    cr_expect(tracecfg_producer_passes(c, &c->sources[1], bytes_str("P1")),
              "no counterpart: as before");
    tracecfg_free(a);
    tracecfg_free(b);
    tracecfg_free(c);
}

/* The filters of one entry may be asked for by thousands: what came out of a change was bounded by
 * 64 times what went in, at this change and again at the next. */
Test(tracecfg, changes_do_not_grow_without_bound)
{
    struct tracecfg *a, *b, *c, *d;
    static char pattern[2001];
    memset(pattern, 'p', 2000);
    for (int i = 0; i < 1000; i++)
        filtered_source("x", NULL, NULL);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &a), 0);
    bytesbuf_clear(&cfg);
    filtered_source("x", pattern + 1500, NULL);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &b), 0);
    cr_assert_eq(tracecfg_change(a, b, &c), 0, "half a megabyte");
    tracecfg_free(b);
    bytesbuf_clear(&cfg);
    filtered_source("x", pattern, NULL);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &b), 0);
    cr_expect_eq(tracecfg_change(c, b, &d), -ENOMEM, "two");
    tracecfg_free(a);
    tracecfg_free(b);
    tracecfg_free(c);
    bytesbuf_clear(&cfg);
}

/* A pattern of seventy bytes may take two megabytes: thousands of them fitted a config. */
Test(tracecfg, patterns_have_a_limit_together)
{
    struct tracecfg *c;
    char why[TRACECFG_WHY_MAX];
    const char *big = "((((((((((((((((((((((((((((((a))))))))))))))))))))))))))))))b{4000}";
    cfg_buffer(&cfg, 4);
    for (int i = 0; i < 4; i++)
        filtered_source("x", NULL, big);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &c), 0);
    cr_expect(tracecfg_check(c, why, sizeof(why)), "%s", why);
    tracecfg_free(c);
    for (int i = 0; i < 20; i++)
        filtered_source("x", NULL, big);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &c), 0);
    cr_expect_not(tracecfg_check(c, why, sizeof(why)));
    cr_expect(strstr(why, "too much together"), "%s", why);
    tracecfg_free(c);
    bytesbuf_clear(&cfg);
}

Test(tracecfg, R66_3_machines)
{
    struct tracecfg *c;
    filtered_source("x", NULL, NULL);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &c), 0);
    cr_expect(tracecfg_machine_passes(c, &c->sources[0], 0, "machine1"), "T39");
    cr_expect_not(tracecfg_machine_passes(c, &c->sources[0], 7, "machine1"));
    tracecfg_free(c);
    num(PBF_TraceConfig_trace_all_machines, 1); /* T40 */
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &c), 0);
    cr_expect(tracecfg_machine_passes(c, &c->sources[0], 7, "machine1"));
    tracecfg_free(c);
    bytesbuf_clear(&cfg);
    size_t m = bytesbuf_pb_begin(&cfg, PBF_TraceConfig_data_sources);
    bytesbuf_pb_str(&cfg, PBF_TraceConfig_DataSource_machine_name_filter, "host");
    bytesbuf_pb_str(&cfg, PBF_TraceConfig_DataSource_machine_name_filter, "machine2");
    bytesbuf_pb_end(&cfg, m);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&cfg), &c), 0);
    cr_expect(tracecfg_machine_passes(c, &c->sources[0], 0, "whatever"), "T36");
    cr_expect(tracecfg_machine_passes(c, &c->sources[0], 5, "machine2"), "T37");
    cr_expect_not(tracecfg_machine_passes(c, &c->sources[0], 5, "machine3"));
    cr_expect_not(tracecfg_machine_passes(c, &c->sources[0], 5, "host2"));
    tracecfg_free(c);
}

Test(tracecfg, R69_forwarded_config)
{
    static const struct dsconfig_fields f = {.target_buffer = 9,
                                             .trace_duration_ms = 0,
                                             .tracing_session_id = 3,
                                             .stop_timeout_ms = 5000};
    bytesbuf_pb_str(&cfg, PBF_DataSourceConfig_name, "ds");
    num(PBF_DataSourceConfig_target_buffer, 1);
    num(PBF_DataSourceConfig_session_initiator, 1);
    bytesbuf_pb_str(&cfg, PBF_DataSourceConfig_target_buffer_name, "b");
    bytesbuf_pb_str(&cfg, 5555, "unknown");
    num(PBF_DataSourceConfig_prefer_suspend_clock_for_duration, 1);
    struct bytes_view piece = bytesbuf_view(&cfg);
    struct dsconfig *c = dsconfig_new(&piece, 1, &f);
    cr_assert_not_null(c);
    cr_expect_eq(msg_num(c->bytes, c->n, PBF_DataSourceConfig_target_buffer, 0), 9);
    cr_expect_eq(msg_fields(c->bytes, c->n, PBF_DataSourceConfig_target_buffer), 1);
    cr_expect_eq(msg_num(c->bytes, c->n, PBF_DataSourceConfig_trace_duration_ms, 99), 0,
                 "always set");
    cr_expect_eq(msg_num(c->bytes, c->n, PBF_DataSourceConfig_tracing_session_id, 0), 3);
    cr_expect_eq(msg_num(c->bytes, c->n, PBF_DataSourceConfig_stop_timeout_ms, 0), 5000);
    cr_expect_eq(msg_num(c->bytes, c->n, PBF_DataSourceConfig_enable_extra_guardrails, 99), 0);
    cr_expect_eq(msg_num(c->bytes, c->n, PBF_DataSourceConfig_session_initiator, 99), 0,
                 "what the consumer put is overwritten");
    cr_expect_str_eq(msg_str(c->bytes, c->n, PBF_DataSourceConfig_target_buffer_name), "b");
    cr_expect_str_eq(msg_str(c->bytes, c->n, 5555), "unknown");
    cr_expect_eq(msg_num(c->bytes, c->n, PBF_DataSourceConfig_prefer_suspend_clock_for_duration, 0),
                 1, "passed through: never set to false");
    dsconfig_unref(c);
}

/* Each entry was looked for among all entries of the other config: 10,000 of each took seconds. */
Test(tracecfg, R194_the_first_entry_of_a_name_changes_all_of_it)
{
    struct bytesbuf a, b;
    struct tracecfg *c = NULL, *from = NULL, *changed = NULL;
    bytesbuf_init(&a, 1u << 20);
    bytesbuf_init(&b, 1u << 20);
    for (int i = 0; i < 6000; i++) {
        char name[8];
        snprintf(name, sizeof(name), "%d", i % 3000);
        for (int k = 0; k < 2; k++) {
            struct bytesbuf *to = k ? &b : &a;
            size_t m = bytesbuf_pb_begin(to, PBF_TraceConfig_data_sources);
            size_t n = bytesbuf_pb_begin(to, PBF_TraceConfig_DataSource_config);
            bytesbuf_pb_str(to, PBF_DataSourceConfig_name, name);
            bytesbuf_pb_end(to, n);
            if (k)
                bytesbuf_pb_str(to, PBF_TraceConfig_DataSource_producer_name_filter,
                                i < 3000 ? "first" : "second");
            bytesbuf_pb_end(to, m);
        }
    }
    cr_assert_eq(tracecfg_new(bytesbuf_view(&a), &c), 0);
    cr_assert_eq(tracecfg_new(bytesbuf_view(&b), &from), 0);
    cr_assert_eq(tracecfg_change(c, from, &changed), 0);
    cr_assert_eq(changed->nsources, 6000);
    for (size_t i = 0; i < 6000; i++) {
        cr_assert(tracecfg_producer_passes(changed, &changed->sources[i], bytes_str("first")));
        cr_assert_not(tracecfg_producer_passes(changed, &changed->sources[i], bytes_str("second")));
    }
    tracecfg_free(c);
    tracecfg_free(from);
    tracecfg_free(changed);
    bytesbuf_fini(&a);
    bytesbuf_fini(&b);
}
