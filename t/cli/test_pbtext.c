/* SPDX-License-Identifier: Apache-2.0 */
/* The text config language: every accepted and rejected case of rules R1101..R1197, the parts of
 * standard text-proto beyond upstream, places and markers of errors, and speed. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/pbtext.h"
#include "google/protobuf/descriptor.upb.h"
#include "protos/config/data_source_config.upb.h"
#include "protos/config/ftrace/ftrace_config.upb.h"
#include "protos/config/test_config.upb.h"
#include "protos/config/trace_config.upb.h"
#include "protos/descset.h"
#include "reactor/err.h"

struct result {
    int rc;
    char *log; /* own */
    struct bytesbuf out;
};

static upb_DefPool *pool;

static void load(void)
{
    upb_Status st;

    upb_Status_Clear(&st);
    pool = upb_DefPool_New();
    cr_assert_eq(descset_load(pool, "protos/config/trace_config.proto", &st), 0, "%s",
                 upb_Status_ErrorMessage(&st));
}

static void unload(void)
{
    upb_DefPool_Free(pool);
}

TestSuite(pbtext, .init = load, .fini = unload);

static struct result run_as(const char *root, const char *text, size_t len, bool lossy)
{
    struct result r = {0};
    size_t log_len;
    struct pbdiag_source src = {.name = "F", .start = 0};
    struct pbtext_options o = {.lossy = lossy};
    FILE *f = open_memstream(&r.log, &log_len);
    struct pbdiag d = {.text = text,
                       .len = len,
                       .sources = &src,
                       .n_sources = 1,
                       .out = f,
                       .shown_max = PBDIAG_SHOWN};

    bytesbuf_init(&r.out, 1 << 26);
    r.rc = pbtext_parse(upb_DefPool_FindMessageByName(pool, root), pool, &o, &d, &r.out);
    pbdiag_finish(&d);
    fclose(f);
    return r;
}

static struct result run(const char *text, bool lossy)
{
    return run_as("perfetto.protos.TraceConfig", text, strlen(text), lossy);
}

static void done(struct result *r)
{
    free(r->log);
    bytesbuf_fini(&r->out);
}

static void expect_hex(const char *text, bool lossy, const char *hex)
{
    struct result r = run(text, lossy);
    char got[512] = "";

    cr_expect_eq(r.rc, 0, "%s\n%s", text, r.log);
    for (size_t i = 0; i < r.out.n && i < 250; i++)
        sprintf(got + 2 * i, "%02x", r.out.p[i]);
    cr_expect_str_eq(got, hex, "%s -> %s, want %s", text, got, hex);
    done(&r);
}

static void expect_error(const char *text, bool lossy, const char *place, const char *fragment)
{
    struct result r = run(text, lossy);
    char line[64];

    cr_expect_eq(r.rc, ERR_BAD_CONFIG, "accepted: %s", text);
    snprintf(line, sizeof(line), "F:%s error: ", place);
    cr_expect(strstr(r.log, line), "no '%s' in\n%s", line, r.log);
    cr_expect(strstr(r.log, fragment), "no '%s' in\n%s", fragment, r.log);
    done(&r);
}

/* ---- accepted ---- */

Test(pbtext, scalars)
{
    expect_hex("duration_ms: 1234", false, "18d209");                          /* R1150 R1166 */
    expect_hex("duration_ms: 1\nfile_write_period_ms: 2", false, "18014802");  /* R1151 */
    expect_hex("compression_type: COMPRESSION_TYPE_DEFLATE", false, "c00101"); /* R1152 */
    expect_hex("duration_ms: 123;", false, "187b");                            /* R1153 */
    expect_hex("duration_ms: 123#", false, "187b");
    expect_hex("duration_ms: 123 ", false, "187b");
    expect_hex("compression_type: COMPRESSION_TYPE_DEFLATE#", false, "c00101");     /* R1154 */
    expect_hex("write_into_file: false; deferred_start: true;", false, "40006001"); /* R1160 */
    expect_hex("enable_extra_guardrails: true", false, "2001");                     /* R1167 */
    expect_hex("duration_ms 5", false, "1805");                                     /* R1110 */
    expect_hex("", false, "");                                                      /* R1118 */
    expect_hex("# only\n", false, "");
    expect_hex("\t\v\f\r\nduration_ms\t:\v12\f\r\n", false, "180c"); /* R1101 */
}

Test(pbtext, messages)
{
    expect_hex("buffers: { size_kb: 123 }", false, "0a02087b"); /* R1156 */
    expect_hex("buffers { size_kb: 1 } duration_ms: 9; buffers { size_kb: 2 }", false,
               "0a0208011809"
               "0a020802"); /* R1157: order is kept */
    expect_hex("data_sources { config { ftrace_config { drain_period_ms: 42 } } }", false,
               "12070a05a20602582a");                       /* R1159 */
    expect_hex("buffers { };buffers{}", false, "0a000a00"); /* R1111 R1114 */
    expect_hex("buffers# 1\n:# 3\n{# 4\nfill_policy# 5\n:# 6\nRING_BUFFER# 7\n;# 8\n}# 9", false,
               "0a022001"); /* R1161 */
    expect_hex("trace_attributes { attribute { key: 'k' long_value: 5 } }", false,
               "8203070a050a016b1005");
}

/* A message whose length takes two bytes, and one inside of it. */
Test(pbtext, long_messages)
{
    char text[400], name[201];
    struct result r;
    upb_Arena *a = upb_Arena_New();
    perfetto_protos_TraceConfig *c;
    size_t n;
    const perfetto_protos_TraceConfig_DataSource *const *ds;
    upb_StringView v;

    memset(name, 'x', 200);
    name[200] = '\0';
    snprintf(text, sizeof(text), "data_sources { config { name: '%s' } } duration_ms: 7", name);
    r = run(text, false);
    c = perfetto_protos_TraceConfig_parse((char *)r.out.p, r.out.n, a);
    cr_assert(c);
    ds = perfetto_protos_TraceConfig_data_sources(c, &n);
    cr_assert_eq(n, 1);
    v = perfetto_protos_DataSourceConfig_name(perfetto_protos_TraceConfig_DataSource_config(ds[0]));
    cr_expect_eq(v.size, 200);
    cr_expect_eq(perfetto_protos_TraceConfig_duration_ms(c), 7);
    upb_Arena_Free(a);
    done(&r);
}

static perfetto_protos_TestConfig_DummyFields *dummy(const char *text, upb_Arena *a,
                                                     struct result *r)
{
    *r = run_as("perfetto.protos.TestConfig.DummyFields", text, strlen(text), false);
    cr_expect_eq(r->rc, 0, "%s\n%s", text, r->log);
    return perfetto_protos_TestConfig_DummyFields_parse((char *)r->out.p, r->out.n, a);
}

#define D(field) perfetto_protos_TestConfig_DummyFields_field_##field(d)

Test(pbtext, all_types) /* R1163 */
{
    upb_Arena *a = upb_Arena_New();
    struct result r;
    perfetto_protos_TestConfig_DummyFields *d =
        dummy("field_uint32: 1; field_uint64: 2; field_int32: 3; field_int64: 4; field_fixed64: 5; "
              "field_sfixed64: 6; field_fixed32: 7; field_sfixed32: 8; field_double: 9.9; "
              "field_float: 10.10; field_sint64: 11; field_sint32: 12; field_string: \"13\"; "
              "field_bytes: \"14\";",
              a, &r);

    cr_expect_eq(D(uint32), 1);
    cr_expect_eq(D(uint64), 2);
    cr_expect_eq(D(int32), 3);
    cr_expect_eq(D(int64), 4);
    cr_expect_eq(D(fixed64), 5);
    cr_expect_eq(D(sfixed64), 6);
    cr_expect_eq(D(fixed32), 7);
    cr_expect_eq(D(sfixed32), 8);
    cr_expect_eq(D(double), 9.9);
    cr_expect_eq(D(float), 10.10f);
    cr_expect_eq(D(sint64), 11);
    cr_expect_eq(D(sint32), 12);
    cr_expect(upb_StringView_IsEqual(D(string), upb_StringView_FromString("13")));
    cr_expect(upb_StringView_IsEqual(D(bytes), upb_StringView_FromString("14")));
    done(&r);
    upb_Arena_Free(a);
}

Test(pbtext, negative_numbers_wrap) /* R1165 R1123 */
{
    upb_Arena *a = upb_Arena_New();
    struct result r;
    perfetto_protos_TestConfig_DummyFields *d =
        dummy("field_int32: -1; field_int64: -2; field_fixed64: -3; field_sfixed64: -4; "
              "field_fixed32: -5;"
              "field_sfixed32: -6; field_double: -7.7; field_float: -8.8; field_sint64: -9;"
              "field_sint32: -10; field_uint32: -1; field_uint64: - 2",
              a, &r);

    cr_expect_eq(D(int32), -1);
    cr_expect_eq(D(int64), -2);
    cr_expect_eq(D(fixed64), UINT64_MAX - 2);
    cr_expect_eq(D(sfixed64), -4);
    cr_expect_eq(D(fixed32), UINT32_MAX - 4);
    cr_expect_eq(D(sfixed32), -6);
    cr_expect_eq(D(double), -7.7);
    cr_expect_eq(D(float), -8.8f);
    cr_expect_eq(D(sint64), -9);
    cr_expect_eq(D(sint32), -10);
    cr_expect_eq(D(uint32), UINT32_MAX);
    cr_expect_eq(D(uint64), UINT64_MAX - 1);
    cr_expect(strstr(r.log, "warning: uint32 has no negative numbers"));
    done(&r);
    upb_Arena_Free(a);
}

Test(pbtext, floats) /* R1164 R1125 and beyond */
{
    upb_Arena *a = upb_Arena_New();
    struct result r;
    perfetto_protos_TestConfig_DummyFields *d;

    d = dummy("field_double: .1; field_float: .2", a, &r);
    cr_expect_eq(D(double), .1);
    cr_expect_eq(D(float), .2f);
    done(&r);
    d = dummy("field_double: 1e3 field_float: -1.5E-1f", a, &r);
    cr_expect_eq(D(double), 1000.);
    cr_expect_eq(D(float), -.15f);
    done(&r);
    d = dummy("field_double: inf field_float: -inf", a, &r);
    cr_expect_eq(D(double), (double)INFINITY);
    cr_expect_eq(D(float), -INFINITY);
    done(&r);
    d = dummy("field_double: nan field_float: 12", a, &r);
    cr_expect(isnan(D(double)));
    cr_expect_eq(D(float), 12.f);
    done(&r);
    upb_Arena_Free(a);
}

Test(pbtext, integer_limits) /* R1122 R1124 */
{
    upb_Arena *a = upb_Arena_New();
    struct result r;
    perfetto_protos_TestConfig_DummyFields *d = dummy(
        "field_uint32: 4294967295 field_uint64: 18446744073709551615 field_int32: -2147483648 "
        "field_int64: 9223372036854775807 field_sint64: -9223372036854775808",
        a, &r);

    cr_expect_eq(D(uint32), UINT32_MAX);
    cr_expect_eq(D(uint64), UINT64_MAX);
    cr_expect_eq(D(int32), INT32_MIN);
    cr_expect_eq(D(int64), INT64_MAX);
    cr_expect_eq(D(sint64), INT64_MIN);
    done(&r);
    upb_Arena_Free(a);
    expect_error("\nduration_ms: 4294967296", false, "2:14", "out of range");
    expect_error("\nduration_ms: 99999999999999999999", false, "2:14", "out of range");
    expect_error("\nbugreport_score: 2147483648", false, "2:18", "-2147483648 to 2147483647");
    expect_error("\nduration_ms: 1.5", false, "2:14", "Expected value of type uint32");
}

Test(pbtext, strings)
{
    expect_hex("unique_session_name: \"a\" # x \"no\"\n 'b'", false, "b201026162"); /* R1170 */
    expect_hex("unique_session_name: \"\"", false, "b20100");                       /* R1129 */
    expect_hex("unique_session_name: \"a\nb\"", false, "b20103610a62");             /* R1126 */
    expect_hex("unique_session_name: \"# ; { }\"", false, "b2010723203b207b207d");
    expect_hex("unique_session_name: \"\\a\\b\\f\\n\\r\\t\\v\\\\\\'\\\"\\?\"", false,
               "b2010b07080c0a0d090b5c27223f"); /* R1169 R1127 */
    expect_hex("unique_session_name: \"\\0127_\\03422.\\177\"", false, "b201080a375f1c32322e7f");
    expect_hex("unique_session_name: '\\7\\12x\\x41\\u20ac\\U0001F600'", false,
               "b2010b070a7841e282acf09f9880");
    expect_hex("data_sources{config{name:\"x\"}}", false, "12050a030a0178"); /* R1115 */
}

Test(pbtext, beyond_upstream)
{
    expect_hex("buffers { size_kb: 12}", false, "0a02080c");
    expect_hex("buffers { fill_policy: DISCARD}", false, "0a022002");
    expect_hex("buffers < size_kb: 5 > buffers: < >", false, "0a0208050a00");
    expect_hex("duration_ms: 1,flush_period_ms: 2 ,", false, "18016802");
    expect_hex("activate_triggers: ['a', \"b\" 'c']", false, "920101619201026263");
    expect_hex("activate_triggers: []", false, "");
    expect_hex("buffers: [{ size_kb: 1 }, < size_kb: 2 >];", false, "0a0208010a020802");
    expect_hex("buffers [ ]", false, "");
    expect_hex("compression_type: 1", false, "c00101");
    expect_hex("duration_ms: 0x1F", false, "181f");
    expect_hex("duration_ms: 010 # octal", false, "1808");
    expect_hex("duration_ms: 08", false, "1808");
    expect_hex("write_into_file: t deferred_start: 0", false, "40016000");
    expect_hex("write_into_file: True deferred_start: False", false, "40016000");
    expect_hex("flush_period_ms: 5# x\n", false, "6805");
}

Test(pbtext, deep_nesting_needs_no_stack) /* R1117 */
{
    size_t n = 200000;
    char *text = malloc(2 * n + 1);
    struct result r;

    for (size_t i = 0; i < n; i++)
        memcpy(text + 2 * i, "x{", 2);
    r = run_as("perfetto.protos.TraceConfig", text, 2 * n, true);
    cr_expect_eq(r.rc, ERR_BAD_CONFIG);
    cr_expect(strstr(r.log, "not closed"));
    done(&r);
    memset(text, '[', n);
    r = run_as("perfetto.protos.TraceConfig", text, n, false);
    cr_expect_eq(r.rc, ERR_BAD_CONFIG);
    done(&r);
    free(text);
}

/* ---- lossy ---- */

Test(pbtext, lossy)
{
    expect_hex("duration_ms: 7\nnew_int: 5\n", true, "1807"); /* R1172 */
    expect_hex(
        "new_string: \"abc\" \"d\"\nnew_bool: true new_enum: V; new_neg: -1.5\nduration_ms: 7",
        true, "1807"); /* R1173 */
    expect_hex("new_message { a: 1 b { c: \"}\" d: E # }\n } e: [1, {}] } duration_ms: 7", true,
               "1807");                                                                /* R1174 */
    expect_hex("buffers { size_kb: 3 new: 9 m { x: 1 } }", true, "0a020803");          /* R1175 */
    expect_hex("compression_type: COMPRESSION_TYPE_NEW duration_ms: 7", true, "1807"); /* R1176 */
    expect_hex("compression_type: 77 duration_ms: 7", true, "1807");
    expect_hex("[foo.bar]: 17 [foo.msg] { a: 1 } duration_ms: 7", true, "1807");     /* R1135 */
    expect_error("duration_ms: 'x'", true, "1:15", "Expected value of type uint32"); /* R1197 */
    expect_error("duration_ms: 1\nduration_ms: 2", true, "2:1", "more than once");
    expect_error("\nunique_session_name: '\\p'", true, "2:23", "Unknown string escape");
    expect_error("duration_ms: 1\n?\n", true, "2:1", "Unexpected character '?'");
    expect_error("new { a: 1\n", true, "2:1", "Nested message not closed");
    expect_error("[]: 1", true, "1:1", "extension name is empty");
}

/* ---- rejected ---- */

Test(pbtext, rejected_with_place_and_text)
{
    expect_error("\n not_a_label: false", false, "2:2",
                 "No field named \"not_a_label\" in proto TraceConfig"); /* R1180 */
    expect_error("data_sources {\n config {\n  not_a_field_name { }\n } }", false, "3:3",
                 "No field named \"not_a_field_name\" in proto DataSourceConfig"); /* R1181 */
    expect_error(
        "write_into_file: foo;", false, "1:18",
        "Expected 'true' or 'false' for boolean field write_into_file in proto TraceConfig "
        "instead saw 'foo'");                                                   /* R1182 */
    expect_error("write_into_file:", false, "1:17", "Unexpected end of input"); /* R1183 */
    expect_error("write_into_file:\n", false, "2:1", "Unexpected end of input");
    expect_error("  }", false, "1:3", "Unmatched closing brace"); /* R1184 */
    expect_error("write_into_file: true;\nwrite_into_file: true;", false, "2:1",
                 "Saw non-repeating field 'write_into_file' more than once"); /* R1185 */
    expect_error("duration_ms: true;", false, "1:14",
                 "Expected value of type uint32 for field duration_ms in proto TraceConfig instead "
                 "saw 'true'"); /* R1186 */
    expect_error(
        "buffers: 100;", false, "1:10",
        "Expected value of type message for field buffers in proto TraceConfig instead saw "
        "'100'");                                                           /* R1187 */
    expect_error("buffers: {", false, "1:11", "Nested message not closed"); /* R1188 */
    expect_error("data_sources{config{ftrace_config{ftrace_events: \"\\p\"}}}", false, "1:51",
                 "Unknown string escape in ftrace_events in proto FtraceConfig: '\\p'"); /* R1189 */
    expect_error("compression_type: FOO", false, "1:19",
                 "Unexpected value 'FOO' for enum field compression_type in proto TraceConfig");
    expect_error("{", false, "1:1", "Unexpected character '{'"); /* R1191 */
    expect_error("foo {}; bar: 42", false, "1:1", "No field named \"foo\" in proto TraceConfig");
    expect_error("foo {}; bar: 42", false, "1:9", "No field named \"bar\"");
    expect_error(" [a.b]: 1", false, "1:2", "No extension named \"a.b\""); /* R1193 */
    expect_error("[]: 1", false, "1:1", "extension name is empty");        /* R1195 */
    expect_error("duration_ms{ }", false, "1:12",
                 "Expected value of type uint32 for field duration_ms in proto TraceConfig instead "
                 "saw '{'");
}

Test(pbtext, rejected_syntax)
{
    expect_error("deferred_start: true;;", false, "1:22", "Unexpected character ';'");
    expect_error("; deferred_start: true", false, "1:1", "Unexpected character ';'");
    expect_error("// no", false, "1:1", "Unexpected character '/'");
    expect_error("duration_ms: +10", false, "1:14", "Unexpected character '+'");
    expect_error("duration_ms: 12abc", false, "1:14", "'12abc'");
    expect_error("duration_ms: ;", false, "1:14", "Unexpected character ';'");
    expect_error("duration_ms : : 5", false, "1:15", "Unexpected character ':'");
    expect_error("3: 5", false, "1:1", "by name, not by number");
    expect_error("duration_ms: - ;", false, "1:16", "minus");
    expect_error("duration_ms: . ;", false, "1:14", "'.'");
    expect_error("duration_ms: .5", false, "1:14", "'.5'");
    expect_error("duration_ms: [1]", false, "1:14", "not repeated");
    expect_error("activate_triggers: ['a',]", false, "1:25", "comma");
    expect_error("activate_triggers: ['a' 'b'", false, "1:28", "List not closed");
    expect_error("activate_triggers: ['a' 5]", false, "1:25", "Unexpected character '5'");
    expect_error("buffers { >", false, "1:11", "Unexpected character '>'");
    expect_error("unique_session_name: 'abc", false, "1:26", "not closed");
    expect_error("unique_session_name: '\\9'", false, "1:23", "Malformed string escape");
    expect_error("unique_session_name: '\\400'", false, "1:23", "Malformed string escape");
    expect_error("unique_session_name: '\\x'", false, "1:23", "Malformed string escape");
    expect_error("unique_session_name: '\\ud800'", false, "1:23", "Malformed string escape");
    expect_error("\xef\xbb\xbf"
                 "duration_ms: 5",
                 false, "1:1", "byte order mark");
    expect_error("duration_ms:\nflush_period_ms: 5", false, "2:1", "duration_ms is missing");
}

Test(pbtext, suggests_names)
{
    expect_error("duration_m: 5", false, "1:1", "did you mean \"duration_ms\"?");
    expect_error("durationMs: 5", false, "1:1", "did you mean \"duration_ms\"?");
    expect_error("buffres { }", false, "1:1", "did you mean \"buffers\"?");
    expect_error("compression_type: COMPRESSION_TYPE_DEFLAT", false, "1:19",
                 "did you mean COMPRESSION_TYPE_DEFLATE");
    expect_error("buffers { duration_ms: 5 }", false, "1:11", "it belongs to TraceConfig");
    expect_error("size_kb: 5", false, "1:1", "it belongs into buffers { }");
    expect_error("data_sources { config { ftrace_events: 'x' } }", false, "1:25",
                 "it belongs into ftrace_config { }");
    expect_error("unique_session_name: abc", false, "1:22", "in quotes");
}

Test(pbtext, reports_all_errors) /* R1144 and beyond: nothing stops the parse */
{
    struct result r =
        run("\nfoo: 1\nwrite_into_file: maybe\nbuffers { bar: 2 }\n? {\nduration_ms: x\n"
            "}\ncompression_type: NO\nfoo2: \"a\"\n",
            false);
    static const char *const places[] = {"2:1", "3:18", "4:11", "5:1", "8:19", "9:1"};
    const char *at = r.log;
    char line[32];
    int n = 0;

    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        snprintf(line, sizeof(line), "F:%s error:", places[i]);
        at = strstr(at, line);
        cr_assert(at, "no %s in order in\n%s", line, r.log);
    }
    for (at = r.log; (at = strstr(at, " error: ")) != NULL; at++)
        n++;
    cr_expect_eq(n, 6, "%s", r.log);
    done(&r);
}

/* After a wrong character the parse goes on behind it, at the brace that closes the message or with
 * the next line; what was skipped is not reported again. */
Test(pbtext, recovers_where_a_field_can_begin)
{
    static const struct {
        const char *text;
        int errors;
    } t[] = {
        {"buffers { ? size_kb: 1 } duration_ms: 5", 1},
        {"buffers { ? { x } size_kb: 1 } duration_ms: 5", 1},
        {"buffers {\n = 1\n size_kb: 1\n}\nduration_ms: 5", 1},
        {"{ a { b: 1\n } }\nduration_ms: 5", 1},
        {"activate_triggers: ['a' ?\nduration_ms: 5", 1},
        {"? ? ?\n? \nduration_ms: x", 2},
    };

    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        struct result r = run(t[i].text, false);
        int n = 0;
        for (const char *at = r.log; (at = strstr(at, " error: ")) != NULL; at++)
            n++;
        cr_expect_eq(n, t[i].errors, "%d errors for %s:\n%s", n, t[i].text, r.log);
        done(&r);
    }
}

Test(pbtext, marks_the_token) /* R1140 R1142 */
{
    struct result r = run("\n  not_a_label: false\n", false);

    cr_expect_str_eq(r.log, "F:2:3 error: No field named \"not_a_label\" in proto TraceConfig\n"
                            "  not_a_label: false\n"
                            "  ^~~~~~~~~~~\n");
    done(&r);
    r = run("unique_session_name: \"\xc3\xa4\\p\"\tfoo: 1", false);
    cr_expect(strstr(r.log, "F:1:25 error: Unknown"), "%s", r.log);
    cr_expect(strstr(r.log, "\n                       ^~\n"), "%s", r.log);
    cr_expect(strstr(r.log, "\n                          \t^~~\n"), "%s", r.log);
    done(&r);
}

Test(pbtext, counts_what_it_does_not_show)
{
    char *text = malloc(7 * 300 + 1);
    struct result r;

    for (int i = 0; i < 300; i++)
        memcpy(text + 7 * i, "zzz: 1\n", 8);
    r = run(text, false);
    cr_expect(strstr(r.log, "and 200 more errors\n"));
    free(text);
    done(&r);
}

Test(pbtext, names_the_source_of_joined_texts) /* R210 */
{
    const char *text = "duration_ms: 1\nfoo: 2\nbar: 3\n";
    struct pbdiag_source src[] = {{"a.cfg", 0}, {"b.cfg", 15}};
    struct pbtext_options o = {0};
    struct bytesbuf out;
    char *log;
    size_t log_len;
    FILE *f = open_memstream(&log, &log_len);
    struct pbdiag d = {.text = text,
                       .len = strlen(text),
                       .sources = src,
                       .n_sources = 2,
                       .out = f,
                       .shown_max = 10};

    bytesbuf_init(&out, 1000);
    pbtext_parse(upb_DefPool_FindMessageByName(pool, "perfetto.protos.TraceConfig"), pool, &o, &d,
                 &out);
    fclose(f);
    cr_expect(strstr(log, "b.cfg:1:1 error"), "%s", log);
    cr_expect(strstr(log, "b.cfg:2:1 error"), "%s", log);
    free(log);
    bytesbuf_fini(&out);
}

Test(pbtext, any_bytes_end) /* every prefix and many broken variants of a config */
{
    const char *text =
        "buffers { size_kb: [0x1] fill_policy: RING_BUFFER; } [a.b] < \"\\x\" 'b' > # x\n"
        "data_sources: [ { config { name: -5.3e+2 } }, ]\n";
    size_t len = strlen(text);
    static const char bad[] = "\"{}<>[]:;,#\\\n\0 -.e";
    char *copy = malloc(len);

    for (size_t n = 0; n <= len; n++) {
        struct result r = run_as("perfetto.protos.TraceConfig", text, n, n & 1);
        done(&r);
    }
    for (size_t i = 0; i < len; i++) {
        for (const char *c = bad; c < bad + sizeof(bad) - 1; c++) {
            struct result r;
            memcpy(copy, text, len);
            copy[i] = *c;
            r = run_as("perfetto.protos.TraceConfig", copy, len, false);
            done(&r);
        }
    }
    free(copy);
}

/* ---- extensions (R1171, R1194), with a schema of our own ---- */

Test(pbtext, extensions)
{
    upb_Arena *a = upb_Arena_New();
    google_protobuf_FileDescriptorProto *file = google_protobuf_FileDescriptorProto_new(a);
    google_protobuf_DescriptorProto *m;
    google_protobuf_DescriptorProto_ExtensionRange *range;
    google_protobuf_FieldDescriptorProto *x;
    static const char *const extended[] = {"Open", "Other", "Open"};
    upb_Status st;
    struct result r;

    google_protobuf_FileDescriptorProto_set_name(file, upb_StringView_FromString("x.proto"));
    google_protobuf_FileDescriptorProto_set_package(file, upb_StringView_FromString("x"));
    for (int i = 0; i < 2; i++) {
        m = google_protobuf_FileDescriptorProto_add_message_type(file, a);
        google_protobuf_DescriptorProto_set_name(m, upb_StringView_FromString(extended[i]));
        range = google_protobuf_DescriptorProto_add_extension_range(m, a);
        google_protobuf_DescriptorProto_ExtensionRange_set_start(range, 100);
        google_protobuf_DescriptorProto_ExtensionRange_set_end(range, 200);
    }
    for (int i = 0; i < 3; i++) {
        char *name = upb_Arena_Malloc(a, 32);
        sprintf(name, "ext%d", i);
        x = google_protobuf_FileDescriptorProto_add_extension(file, a);
        google_protobuf_FieldDescriptorProto_set_name(x, upb_StringView_FromString(name));
        google_protobuf_FieldDescriptorProto_set_number(x, 100 + i);
        google_protobuf_FieldDescriptorProto_set_label(x, 1);
        google_protobuf_FieldDescriptorProto_set_type(x, i == 2 ? 11 : 13);
        if (i == 2)
            google_protobuf_FieldDescriptorProto_set_type_name(
                x, upb_StringView_FromString(".x.Open"));
        google_protobuf_FieldDescriptorProto_set_extendee(
            x, upb_StringView_FromString(i == 1 ? ".x.Other" : ".x.Open"));
    }
    upb_Status_Clear(&st);
    cr_assert(upb_DefPool_AddFile(pool, file, &st), "%s", upb_Status_ErrorMessage(&st));
    r = run_as("x.Open", "[x.ext0]: 17 [x.ext2] { [x.ext0] 5 }", 36, false);
    cr_assert_eq(r.rc, 0, "%s", r.log);
    cr_expect_eq(r.out.n, 3 + 3 + 3);
    cr_expect_arr_eq(r.out.p, "\xa0\x06\x11\xb2\x06\x03\xa0\x06\x05", 9);
    done(&r);
    r = run_as("x.Open", "[x.ext1]: 17", 12, false);
    cr_expect_eq(r.rc, ERR_BAD_CONFIG);
    cr_expect(strstr(r.log, "extends proto Other, not Open"), "%s", r.log);
    done(&r);
    upb_Arena_Free(a);
}

/* Parse time grows with the length only: ten times the text, at most thirty times the time. */
Test(pbtext, time_is_linear)
{
    static const char part[] =
        "data_sources { config { name: \"linux.ftrace\" ftrace_config {\n"
        "  ftrace_events: \"sched/sched_switch\" buffer_size_kb: 4096 } } }\n";
    size_t len = sizeof(part) - 1, n = 1000000 / len;
    char *text = malloc(n * len);
    double t[2];

    for (size_t i = 0; i < n; i++)
        memcpy(text + i * len, part, len);
    for (int i = 0; i < 2; i++) {
        struct timespec a, b;
        struct result r;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
        r = run_as("perfetto.protos.TraceConfig", text, i ? n * len : n / 10 * len, false);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
        cr_expect_eq(r.rc, 0, "%s", r.log);
        done(&r);
        t[i] = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    }
    fprintf(stderr, "1 MB in %.1f ms\n", t[1] * 1e3);
    cr_expect_lt(t[1], 30 * t[0] + .01, "%.1f ms for a tenth, %.1f ms for all", t[0] * 1e3,
                 t[1] * 1e3);
    free(text);
}
