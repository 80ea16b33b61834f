/* SPDX-License-Identifier: Apache-2.0 */
/* The trace config between user and service: sources (R210..R216), facts, and what the client
 * changes (R260..R265). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/traceconf.h"
#include "protos/common/trace_attributes.upb.h"
#include "protos/config/trace_config.upb.h"
#include "reactor/chrono.h"
#include "reactor/err.h"

#define TC(name) perfetto_protos_TraceConfig_##name

static struct traceconf tc;
static char err[512], path[2][64];
static upb_Arena *arena;

static void setup(void)
{
    traceconf_init(&tc);
    arena = upb_Arena_New();
    err[0] = '\0';
    for (int i = 0; i < 2; i++) {
        strcpy(path[i], "/tmp/test_traceconf.XXXXXX");
        close(mkstemp(path[i]));
    }
}

static void teardown(void)
{
    traceconf_fini(&tc);
    upb_Arena_Free(arena);
    unlink(path[0]);
    unlink(path[1]);
}

TestSuite(traceconf, .init = setup, .fini = teardown);

static void put(int i, const char *text, size_t n)
{
    FILE *f = fopen(path[i], "w");

    fwrite(text, 1, n, f);
    fclose(f);
    cr_assert_eq(traceconf_read(&tc, path[i], err, sizeof(err)), 0, "%s", err);
}

static void text(const char *t)
{
    put(0, t, strlen(t));
    cr_assert_eq(traceconf_parse_text(&tc, false, err, sizeof(err)), 0, "%s", err);
}

static perfetto_protos_TraceConfig *finish(const struct traceconf_extras *x)
{
    struct bytesbuf out;
    perfetto_protos_TraceConfig *c;

    bytesbuf_init(&out, 1 << 20);
    cr_assert_eq(traceconf_finish(&tc, x, &out), 0);
    c = TC(parse)((char *)out.p, out.n, arena);
    cr_assert(c);
    bytesbuf_fini(&out);
    return c;
}

Test(traceconf, files_are_joined_and_stdin_replaces) /* R210 */
{
    put(0, "duration_ms: 11", 15);
    put(1, "flush_period_ms: 5", 18);
    cr_assert_eq(traceconf_parse_text(&tc, false, err, sizeof(err)), 0);
    cr_expect_eq(TC(duration_ms)(finish(&(struct traceconf_extras){0})), 11);
    cr_expect_eq(TC(flush_period_ms)(finish(&(struct traceconf_extras){0})), 5);
    cr_assert_eq(traceconf_read(&tc, ":test", err, sizeof(err)), 0);
    cr_assert_eq(traceconf_parse_binary(&tc, err, sizeof(err)), 0);
    cr_expect_eq(tc.facts.duration_ms, 2000);
    cr_expect_eq(tc.facts.n_data_sources, 3);
    cr_expect(tc.facts.needs_probes);
}

Test(traceconf, says_what_cannot_be_read)
{
    cr_expect_lt(traceconf_read(&tc, "/nonexistent/x", err, sizeof(err)), 0);
    cr_expect(strstr(err, "/nonexistent/x"), "%s", err);
    cr_expect_lt(traceconf_read(&tc, ":mem", err, sizeof(err)), 0); /* R212 */
    cr_expect(!traceconf_has_input(&tc));
}

Test(traceconf, binary_needs_a_whole_top_level) /* R214 R215 */
{
    put(0,
        "\x18\x64\x0a\x05"
        "ab",
        6);
    cr_expect_eq(traceconf_parse_binary(&tc, err, sizeof(err)), ERR_BAD_CONFIG);
    cr_expect(!strstr(err, "--txt"), "%s", err);
    traceconf_fini(&tc);
    traceconf_init(&tc);
    put(0, "duration_ms: 100\n", 17);
    cr_expect_eq(traceconf_parse_binary(&tc, err, sizeof(err)), ERR_BAD_CONFIG);
    cr_expect(strstr(err, "--txt"), "%s", err);
    traceconf_fini(&tc);
    traceconf_init(&tc);
    put(0, "\x18\x64\x12\x02\xff\xff", 6); /* a data source that does not decode */
    cr_expect_eq(traceconf_parse_binary(&tc, err, sizeof(err)), 0, "%s", err);
}

Test(traceconf, facts)
{
    text(
        "write_into_file: true output_path: '/x' unique_session_name: 'n' flush_timeout_ms: 3\n"
        "data_source_stop_timeout_ms: 4 cmd_trace_start_delay { min_delay_ms: 5 max_delay_ms: 6 }\n"
        "buffers { size_kb: 10 } buffers { size_kb: 20 } activate_triggers: ['a', 'b']\n"
        "data_sources { config { name: 'linux.ftrace' } } data_sources { config { name: 'x' } }\n"
        "trigger_config { trigger_mode: STOP_TRACING trigger_timeout_ms: 7\n"
        "  triggers { name: 't' stop_delay_ms: 8 } triggers { name: 'u' stop_delay_ms: 2 } }\n");
    cr_expect(tc.facts.write_into_file);
    cr_expect_eq(tc.facts.output_path.n, 2);
    cr_expect_eq(tc.facts.session_name.n, 1);
    cr_expect_eq(tc.facts.flush_timeout_ms, 3);
    cr_expect_eq(tc.facts.stop_timeout_ms, 4);
    cr_expect(tc.facts.has_min_delay && tc.facts.has_max_delay);
    cr_expect_eq(tc.facts.buffer_kb, 30);
    cr_expect_eq(tc.facts.n_activate_triggers, 2);
    cr_expect_eq(*traceconf_trigger(&tc, 1).p, 'b');
    cr_expect_eq(traceconf_trigger(&tc, 2).n, 0);
    cr_expect_eq(tc.facts.trigger_mode, TRACECONF_STOP_TRACING);
    cr_expect(tc.facts.needs_probes);
    cr_expect_eq(traceconf_expected_ms(&tc.facts), 15); /* R345 */
}

Test(traceconf, clone_snapshot_if_available) /* R310 */
{
    text("trigger_config { trigger_mode: STOP_TRACING use_clone_snapshot_if_available: true }");
    cr_expect_eq(tc.facts.trigger_mode, TRACECONF_CLONE_SNAPSHOT);
}

Test(traceconf, statsd_is_replaced) /* R260 */
{
    const perfetto_protos_TraceConfig_StatsdMetadata *m;
    struct traceconf_extras x = {
        .alert_id = -5, .config_id = 6, .config_uid = 7, .subscription_id = 8};

    text("statsd_metadata { triggering_alert_id: 99 triggering_config_uid: 98 }");
    m = TC(statsd_metadata)(finish(&(struct traceconf_extras){0}));
    cr_assert(m);
    cr_expect(!TC(StatsdMetadata_has_triggering_alert_id)(m));
    m = TC(statsd_metadata)(finish(&x));
    cr_expect_eq(TC(StatsdMetadata_triggering_alert_id)(m), -5);
    cr_expect_eq(TC(StatsdMetadata_triggering_config_id)(m), 6);
    cr_expect_eq(TC(StatsdMetadata_triggering_config_uid)(m), 7);
    cr_expect_eq(TC(trace_uuid_lsb)(finish(&x)), 8); /* R261 */
}

Test(traceconf, uuid) /* R261 */
{
    perfetto_protos_TraceConfig *c;

    text("duration_ms: 1");
    chrono_random_seed(7);
    c = finish(&(struct traceconf_extras){0});
    cr_expect_neq(TC(trace_uuid_msb)(c), 0);
    cr_expect_neq(TC(trace_uuid_lsb)(c), 0);
    cr_expect_neq(TC(trace_uuid_msb)(c), TC(trace_uuid_msb)(finish(&(struct traceconf_extras){0})));
    chrono_random_seed(0);
    traceconf_fini(&tc);
    traceconf_init(&tc);
    text("trace_uuid_lsb: -34");
    c = finish(&(struct traceconf_extras){0});
    cr_expect_eq(TC(trace_uuid_msb)(c), 0);
    cr_expect_eq(TC(trace_uuid_lsb)(c), -34);
}

Test(traceconf, overwrites) /* R262 R264 */
{
    perfetto_protos_TraceConfig *c;

    text("enable_extra_guardrails: true");
    c = finish(&(struct traceconf_extras){0});
    cr_expect(TC(has_enable_extra_guardrails)(c));
    cr_expect(!TC(enable_extra_guardrails)(c));
    cr_expect_eq(TC(statsd_logging)(c), 2);
    traceconf_fini(&tc);
    traceconf_init(&tc);
    text("statsd_logging: STATSD_LOGGING_ENABLED");
    cr_expect_eq(TC(statsd_logging)(finish(&(struct traceconf_extras){0})), 1);
}

Test(traceconf, attributes_follow_those_of_the_config) /* R263 A25 */
{
    static const char *const args[] = {"a=b", "k=foo=bar", "empty=", "novalue"};
    static const char *const want[][2] = {
        {"first", ""}, {"a", "b"}, {"k", "foo=bar"}, {"empty", ""}, {"novalue", ""}};
    struct traceconf_extras x = {.attributes = args, .n_attributes = 4};
    const perfetto_protos_TraceAttributes_Attribute *const *a;
    size_t n;

    text("trace_attributes { attribute { key: 'first' long_value: 9 } }");
    a = perfetto_protos_TraceAttributes_attribute(TC(trace_attributes)(finish(&x)), &n);
    cr_assert_eq(n, 5);
    for (size_t i = 0; i < n; i++) {
        cr_expect(upb_StringView_IsEqual(perfetto_protos_TraceAttributes_Attribute_key(a[i]),
                                         upb_StringView_FromString(want[i][0])));
        cr_expect(
            upb_StringView_IsEqual(perfetto_protos_TraceAttributes_Attribute_string_value(a[i]),
                                   upb_StringView_FromString(want[i][1])));
    }
    cr_expect_eq(perfetto_protos_TraceAttributes_Attribute_long_value(a[0]), 9);
}

Test(traceconf, the_rest_goes_out_as_it_came) /* R265 */
{
    static const char raw[] = "\x82\xb5\x18\x05outer"
                              "\x12\x04\xff\xff\xff\xff";
    struct bytesbuf out;

    put(0, raw, sizeof(raw) - 1);
    cr_assert_eq(traceconf_parse_binary(&tc, err, sizeof(err)), 0, "%s", err);
    bytesbuf_init(&out, 1000);
    cr_assert_eq(traceconf_finish(&tc, &(struct traceconf_extras){0}, &out), 0);
    cr_expect_arr_eq(out.p, raw, sizeof(raw) - 1);
    bytesbuf_fini(&out);
}
