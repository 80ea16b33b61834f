/* SPDX-License-Identifier: Apache-2.0 */
/* Binary -> text (doc 11.7: what is printed parses to the same bytes), -> JSON, and the verdict. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/pbprint.h"
#include "cli/pbtext.h"
#include "protos/descset.h"

static upb_DefPool *pool;
static const upb_MessageDef *config_def, *dummy_def;

static void load(void)
{
    upb_Status st;

    upb_Status_Clear(&st);
    pool = upb_DefPool_New();
    cr_assert_eq(descset_load(pool, "protos/config/trace_config.proto", &st), 0);
    config_def = upb_DefPool_FindMessageByName(pool, "perfetto.protos.TraceConfig");
    dummy_def = upb_DefPool_FindMessageByName(pool, "perfetto.protos.TestConfig.DummyFields");
}

static void unload(void)
{
    upb_DefPool_Free(pool);
}

TestSuite(pbprint, .init = load, .fini = unload);

static char *text_of(const upb_MessageDef *m, const void *p, size_t n)
{
    char *s;
    size_t len;
    FILE *f = open_memstream(&s, &len);

    pbprint_text(f, m, bytes_view(p, n), 0);
    fclose(f);
    return s;
}

static char *json_of(const upb_MessageDef *m, const void *p, size_t n)
{
    char *s;
    size_t len;
    FILE *f = open_memstream(&s, &len);

    pbprint_json(f, m, bytes_view(p, n));
    fclose(f);
    return s;
}

static void parse(const upb_MessageDef *m, const char *text, struct bytesbuf *out)
{
    struct pbdiag_source src = {.name = "t"};
    struct pbtext_options o = {0};
    struct pbdiag d = {.text = text,
                       .len = strlen(text),
                       .sources = &src,
                       .n_sources = 1,
                       .out = stderr,
                       .shown_max = 10};

    bytesbuf_init(out, 1 << 20);
    cr_assert_eq(pbtext_parse(m, pool, &o, &d, out), 0);
}

static void round_trip(const upb_MessageDef *m, const char *text)
{
    struct bytesbuf a, b;
    char *printed;

    parse(m, text, &a);
    printed = text_of(m, a.p, a.n);
    parse(m, printed, &b);
    cr_expect(bytes_equal(bytesbuf_view(&a), bytesbuf_view(&b)), "%s became\n%s", text, printed);
    free(printed);
    bytesbuf_fini(&a);
    bytesbuf_fini(&b);
}

Test(pbprint, what_is_printed_parses_to_the_same)
{
    round_trip(config_def,
               "duration_ms: 5 buffers { size_kb: 1 fill_policy: DISCARD } buffers { }");
    round_trip(config_def, "unique_session_name: 'a\\n\\t\\\"\\\\\\001\\177 \\303\\244 \\377'");
    round_trip(config_def,
               "data_sources { config { name: 'x' ftrace_config { ftrace_events: ['a', 'b'] "
               "compact_sched { enabled: false } } } }");
    round_trip(config_def, "trace_filter { bytecode_v2: '\\000\\001\\377z' }");
    round_trip(config_def, "trace_uuid_lsb: 9223372036854775807 trace_uuid_msb: -1");
    round_trip(dummy_def, "field_double: 0.1 field_float: 0.1 field_sint32: -5 field_fixed64: -1 "
                          "field_int32: -2147483648 field_sfixed32: -7 field_uint64: "
                          "18446744073709551615");
    round_trip(dummy_def, "field_double: inf field_float: -inf");
    round_trip(dummy_def, "field_double: 1e300 field_float: 3.4e38");
}

Test(pbprint, layout)
{
    struct bytesbuf b;
    char *s;

    parse(config_def, "buffers { size_kb: 123 } compression_type: 1 write_into_file: true", &b);
    s = text_of(config_def, b.p, b.n);
    cr_expect_str_eq(s, "buffers {\n  size_kb: 123\n}\n"
                        "compression_type: COMPRESSION_TYPE_DEFLATE\nwrite_into_file: true\n");
    free(s);
    s = text_of(config_def, "", 0);
    cr_expect_str_eq(s, "");
    free(s);
    bytesbuf_fini(&b);
}

Test(pbprint, what_the_schema_lacks_is_a_comment)
{
    static const char bytes[] = "\x18\x05\x82\xb5\x18\x03"
                                "a\"b\x98\xb5\x18\x07";
    struct bytesbuf b;
    char *s = text_of(config_def, bytes, sizeof(bytes) - 1);

    cr_expect(strstr(s, "duration_ms: 5\n"), "%s", s);
    cr_expect(strstr(s, "# field 50000, not in the schema: \"a\\\"b\" (3 bytes)"), "%s", s);
    parse(config_def, s, &b);
    cr_expect_eq(b.n, 2);
    bytesbuf_fini(&b);
    free(s);
    s = text_of(config_def, "\x1a\x01x\x18", 4); /* duration_ms as a string, then a cut field */
    cr_expect(strstr(s, "# field 3"), "%s", s);
    cr_expect(strstr(s, "# 1 bytes that do not decode"), "%s", s);
    free(s);
}

Test(pbprint, packed_lists)
{
    /* gpu_counter_config.counter_ids (field 2), packed */
    static const char bytes[] = "\x12\x03\x01\x02\x03";
    const upb_MessageDef *m =
        upb_DefPool_FindMessageByName(pool, "perfetto.protos.GpuCounterConfig");
    char *s = text_of(m, bytes, 5), *j = json_of(m, bytes, 5);

    cr_expect_str_eq(s, "counter_ids: 1\ncounter_ids: 2\ncounter_ids: 3\n");
    cr_expect_str_eq(j, "{\"counter_ids\":[1,2,3]}");
    free(s);
    free(j);
}

Test(pbprint, json)
{
    struct bytesbuf b;
    char *s;

    parse(config_def,
          "buffers { size_kb: 2 } write_into_file: true buffers { } compression_type: 1 "
          "trace_uuid_lsb: -5 unique_session_name: 'q\\\"\\n\\001\\377' "
          "trace_filter { bytecode_v2: '\\000\\377' }",
          &b);
    s = json_of(config_def, b.p, b.n);
    cr_expect_str_eq(s,
                     "{\"buffers\":[{\"size_kb\":2},{}],\"write_into_file\":true,"
                     "\"compression_type\":\"COMPRESSION_TYPE_DEFLATE\",\"trace_uuid_lsb\":\"-5\","
                     "\"unique_session_name\":\"q\\\"\\n\\u0001\xef\xbf\xbd\","
                     "\"trace_filter\":{\"bytecode_v2\":\"AP8=\"}}");
    free(s);
    bytesbuf_fini(&b);
    s = json_of(config_def, "\x18\x01\x18\x02", 4);
    cr_expect_str_eq(s, "{\"duration_ms\":2}", "the last of a singular field counts: %s", s);
    free(s);
    parse(dummy_def, "field_double: nan field_float: inf field_bytes: 'abcd'", &b);
    s = json_of(dummy_def, b.p, b.n);
    cr_expect_str_eq(s, "{\"field_double\":\"NaN\",\"field_float\":\"Infinity\","
                        "\"field_bytes\":\"YWJjZA==\"}");
    free(s);
    bytesbuf_fini(&b);
}

Test(pbprint, verdict)
{
    cr_expect(pbprint_valid(config_def, bytes_view("\x18\x05", 2), 0));
    cr_expect(!pbprint_valid(config_def, bytes_view("\x18", 1), 0));
    cr_expect(!pbprint_valid(config_def, bytes_view("\x0a\x01\x08", 3), 0), "a broken buffer");
    cr_expect(pbprint_valid(config_def, bytes_view("\x82\xb5\x18\x01\x08", 5), 0), "unknown bytes");
}

/* A hostile trace nests as deep as it likes in a type that holds itself. */
Test(pbprint, depth_is_bounded)
{
    upb_Status st;
    const upb_MessageDef *m;
    struct bytesbuf b;
    size_t marks[1000];
    char *s;

    upb_Status_Clear(&st);
    cr_assert_eq(descset_load(pool, "protos/trace/track_event/debug_annotation.proto", &st), 0);
    m = upb_DefPool_FindMessageByName(pool, "perfetto.protos.DebugAnnotation");
    cr_assert(m);
    bytesbuf_init(&b, 1 << 20);
    for (int i = 0; i < 1000; i++)
        marks[i] = bytesbuf_pb_begin(&b, 11); /* dict_entries */
    for (int i = 999; i >= 0; i--)
        bytesbuf_pb_end(&b, marks[i]);
    s = text_of(m, b.p, b.n);
    cr_expect(strstr(s, "nested too deeply"));
    free(s);
    free(json_of(m, b.p, b.n));
    cr_expect(pbprint_valid(m, bytesbuf_view(&b), 0));
    bytesbuf_fini(&b);
}
