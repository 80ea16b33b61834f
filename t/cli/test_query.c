/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of --query: R603..R608. */
#include <criterion/criterion.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/query.h"
#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"

#define P(name) PBF_TracingServiceState_Producer_##name
#define S(name) PBF_TracingServiceState_TracingSession_##name

static struct bytesbuf b;

static void setup(void)
{
    bytesbuf_init(&b, 1 << 20);
}

static void teardown(void)
{
    bytesbuf_fini(&b);
}

TestSuite(query, .init = setup, .fini = teardown);

static void producer(int id, const char *name, uint32_t machine, const char *machine_name)
{
    size_t m = bytesbuf_pb_begin(&b, PBF_TracingServiceState_producers);

    bytesbuf_pb_varint(&b, P(id), (uint64_t)id);
    bytesbuf_pb_str(&b, P(name), name);
    bytesbuf_pb_varint(&b, P(pid), 4321);
    bytesbuf_pb_varint(&b, P(uid), 77);
    bytesbuf_pb_str(&b, P(sdk_version), "sdk9");
    if (machine)
        bytesbuf_pb_varint(&b, P(machine_id), machine);
    if (machine_name)
        bytesbuf_pb_str(&b, P(machine_name), machine_name);
    bytesbuf_pb_end(&b, m);
}

static void source(const char *name, int producer_id, int categories)
{
    size_t ds = bytesbuf_pb_begin(&b, PBF_TracingServiceState_data_sources);
    size_t d = bytesbuf_pb_begin(&b, PBF_TracingServiceState_DataSource_ds_descriptor), te, c;
    char text[32];

    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, name);
    te = bytesbuf_pb_begin(&b, PBF_DataSourceDescriptor_track_event_descriptor);
    for (int i = 0; i < categories; i++) {
        snprintf(text, sizeof(text), "category_%02d", i);
        c = bytesbuf_pb_begin(&b, PBF_TrackEventDescriptor_available_categories);
        bytesbuf_pb_str(&b, PBF_TrackEventCategory_name, text);
        bytesbuf_pb_end(&b, c);
    }
    bytesbuf_pb_end(&b, te);
    bytesbuf_pb_end(&b, d);
    bytesbuf_pb_varint(&b, PBF_TracingServiceState_DataSource_producer_id, (uint64_t)producer_id);
    bytesbuf_pb_end(&b, ds);
}

static void session(const char *name)
{
    size_t s = bytesbuf_pb_begin(&b, PBF_TracingServiceState_tracing_sessions);

    bytesbuf_pb_varint(&b, S(id), 12);
    bytesbuf_pb_varint(&b, S(consumer_uid), 78);
    bytesbuf_pb_str(&b, S(state), "CONFIGURED");
    bytesbuf_pb_str(&b, S(unique_session_name), name);
    bytesbuf_pb_varint(&b, S(buffer_size_kb), 100);
    bytesbuf_pb_varint(&b, S(buffer_size_kb), 23);
    bytesbuf_pb_varint(&b, S(duration_ms), 9999);
    bytesbuf_pb_varint(&b, S(num_data_sources), 6);
    bytesbuf_pb_varint(&b, S(start_realtime_ns), 1700000000ull * 1000000000);
    bytesbuf_pb_end(&b, s);
    bytesbuf_pb_varint(&b, PBF_TracingServiceState_supports_tracing_sessions, 1);
}

static char *print(bool all, bool root)
{
    struct query_options o = {.all = all, .is_root = root};
    char *s;
    size_t n;
    FILE *f = open_memstream(&s, &n);

    query_print(f, bytesbuf_view(&b), &o);
    fclose(f);
    return s;
}

static void has_line(const char *text, const char *pattern)
{
    regex_t re;

    cr_assert_eq(regcomp(&re, pattern, REG_EXTENDED | REG_NEWLINE | REG_NOSUB), 0);
    cr_expect_eq(regexec(&re, text, 0, NULL, 0), 0, "no line like %s in\n%s", pattern, text);
    regfree(&re);
}

Test(query, tables)
{
    char *t;

    producer(3, "prod.name", 0, NULL);
    source("track_event", 3, 9);
    session("abc");
    bytesbuf_pb_varint(&b, PBF_TracingServiceState_num_sessions, 1);
    bytesbuf_pb_str(&b, PBF_TracingServiceState_tracing_service_version, "Perfetto vX");
    t = print(false, true);
    cr_expect(strstr(t, "--query-raw") < strchr(t, '\n'), "the first line warns");
    has_line(t, "^Service: Perfetto vX$");
    has_line(t, "^Tracing sessions: 1 \\(started: 0\\)$");
    has_line(t, "^3 +4321 +77 +prod\\.name +sdk9$");
    has_line(t, "^track_event +prod\\.name \\(3\\) +category_00,.*--long");
    has_line(t, "^12 +78 +CONFIGURED +\\(2\\) 123 +9 +6 +22:13:20 +abc$");
    cr_expect(!strstr(t, "MACHINE"));
    cr_expect(!strstr(t, "category_08"));
    free(t);
    t = print(true, true);
    cr_expect(strstr(t, "category_07,category_08"));
    free(t);
}

Test(query, machines) /* R605 */
{
    char *t;

    producer(3, "here", 0, NULL);
    producer(4, "far", 0xabc, NULL);
    producer(5, "vm", 7, "guest");
    t = print(false, true);
    has_line(t, "^3 .*\\(host\\) +here");
    has_line(t, "^4 .*0xabc +far");
    has_line(t, "^5 .*guest +vm");
    free(t);
}

Test(query, hidden_sessions) /* R607 */
{
    char *t;

    session("mine");
    bytesbuf_pb_varint(&b, PBF_TracingServiceState_num_sessions, 3);
    t = print(false, false);
    cr_expect(strstr(t, "2 sessions of other users are hidden"));
    free(t);
    t = print(false, true);
    cr_expect(!strstr(t, "hidden"));
    free(t);
}

Test(query, names_cannot_forge_lines)
{
    char *t;

    producer(3, "a\nTRACING SESSIONS:\033[31m", 0, NULL);
    t = print(false, true);
    cr_expect(strstr(t, "a\\nTRACING"), "%s", t);
    cr_expect(!strchr(t, '\033'));
    free(t);
}
