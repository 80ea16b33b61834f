/* SPDX-License-Identifier: Apache-2.0 */
/* The catalogue of service.md section 18, row by row: sessions, producers, reading and files. What
 * a module's own test shows already bears its T there; these are the rows, and parts of rows, that
 * no other file has. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "t/svc/world.h"

enum { START = 1, STOP = 2, CLONE = 4 };

static struct world *w;

static void setup(void)
{
    w = world_new();
}

static void teardown(void)
{
    world_free(w);
}

TestSuite(rows_sessions, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 256);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

static struct bytesbuf *with(uint32_t field, uint64_t value)
{
    bytesbuf_pb_varint(&w->cfg, field, value);
    return &w->cfg;
}

static void named_buffer(const char *name, uint32_t kb)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, kb);
    if (name)
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_BufferConfig_name, name);
    bytesbuf_pb_end(&w->cfg, m);
}

/* A source for a buffer by name, by index or both; and one more text field of the entry. */
static void source(const char *name, const char *buffer, uint32_t index, uint32_t filter,
                   const char *value)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, name);
    if (buffer)
        bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_target_buffer_name, buffer);
    if (index)
        bytesbuf_pb_varint(&w->cfg, PBF_DataSourceConfig_target_buffer, index);
    bytesbuf_pb_end(&w->cfg, k);
    if (filter)
        bytesbuf_pb_str(&w->cfg, filter, value);
    bytesbuf_pb_end(&w->cfg, m);
}

static struct bytes_view stats_of(struct cons *c)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    return msg_part(c->reply.p, c->reply.n, PBF_GetTraceStatsResponse_trace_stats, 0);
}

/* ---- 18.1 ---- */

Test(rows_sessions, T1_T2_the_first_session_is_not_affected)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 1);
    prod_register(p, "ds", 0);
    bytesbuf_pb_str(plain("ds"), PBF_TraceConfig_unique_session_name, "foo");
    cr_assert(cons_enable(a, with(PBF_TraceConfig_enable_extra_guardrails, 1)));
    cr_expect_not(cons_enable(b, &w->cfg));
    cr_expect(b->disabled && b->error[0]);
    cr_expect_eq(cons_read(b), 0);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 0);
    prod_put(p, 1, "data");
    cons_ask(a, MSG_C_DISABLE);
    cr_expect_str_eq(a->error, "");
    cons_read(a);
    cr_expect(cons_has(a, "data"));
    cons_ask(a, MSG_C_FREE);
    cr_expect_not(cons_enable(b, &w->cfg), "T2: though the first one is destroyed");
    cr_expect_eq(cons_read(b), 0);
}

Test(rows_sessions, T3_a_pattern_of_producer_names)
{
    struct prod *p = prod_new(w, "mock_producer", 1), *q = prod_new(w, "mock_producers", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    plain(NULL);
    source("ds", NULL, 0, PBF_TraceConfig_DataSource_producer_name_regex_filter, "mock_[p]roducer");
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cr_expect_eq(prod_count(q, MSG_PP_SETUP), 0, "a full match");
}

Test(rows_sessions, T15_an_exclusive_session_ends_all_kinds_of_others)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 1), *done = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(a, plain("ds"));
    plain("ds");
    cfg_trigger_mode(&w->cfg, CLONE, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    cons_enable(b, &w->cfg);
    cons_enable(done, plain(NULL));
    cons_ask(done, MSG_C_DISABLE);
    plain(NULL);
    cons_enable(cons_new(w, 0), with(PBF_TraceConfig_exclusive_prio, 1));
    struct cons *aborted[] = {a, b};
    for (int i = 0; i < 2; i++) {
        cr_expect(aborted[i]->disabled);
        cr_expect(strstr(aborted[i]->error, "Aborted due to user requested higher-priority (1)"));
        cr_expect_eq(cons_read(aborted[i]), 0);
    }
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 2);
    cr_expect_str_eq(done->error, "", "R19: what had ended is told of no second end");
    cr_expect_eq(cons_read(done), 0);
}

Test(rows_sessions, T17_T18_T22_named_buffers)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    char text[90];
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    named_buffer("small", 4);
    named_buffer("large", 64);
    source("ds", "large", 0, 0, NULL);
    cr_assert(cons_enable(c, &w->cfg));
    cr_expect_eq(prod_target(p, 0), 2, "T17");
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < 120; i++)
        prod_put(p, 1, text);
    cons_read(c);
    cr_expect_eq(cons_texts(c), 120, "10 KB, and the first buffer has 4");
    cons_ask(c, MSG_C_FREE);
    cfg_begin(&w->cfg);
    named_buffer("a", 4);
    named_buffer("b", 4);
    source("ds", "b", 1, 0, NULL);
    cr_expect(cons_enable(c, &w->cfg), "T18: both say the same");
    uint32_t first = prod_target(p, 1) - 1;
    cfg_begin(&w->cfg);
    named_buffer("zero", 4);
    named_buffer("one", 4);
    named_buffer(NULL, 4);
    source("ds", NULL, 2, 0, NULL);
    source("ds", "one", 0, 0, NULL);
    cr_assert(cons_enable(d, &w->cfg));
    cr_expect_eq(prod_target(p, 2), first + 2 + 2, "T22: by index");
    cr_expect_eq(prod_target(p, 3), first + 2 + 1, "T22: by name");
}

Test(rows_sessions, T24_R135_what_an_event_says)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    plain(NULL);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events,
                       1);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(a, &w->cfg);
    world_advance_ms(w, 7);
    bytesbuf_pb_str(plain("ds"), PBF_TraceConfig_unique_session_name, "b");
    cons_enable(b, &w->cfg);
    cons_ask(b, MSG_C_DISABLE);
    world_advance_ms(w, 3);
    prod_stopped(p, prod_instance(p, 0));
    cons_ask(b, MSG_C_FREE);
    cons_read(a);
    static const struct {
        uint32_t state, ms;
    } want[] = {{2, 7}, {3, 7}, {4, 7}, {1, 10}};
    cr_assert_eq(cons_count(a, PBF_TracePacket_concurrent_session_event), 4);
    for (size_t i = 0; i < 4; i++) {
        const struct pkt *k = cons_pkt(a, PBF_TracePacket_concurrent_session_event, i);
        struct bytes_view e = msg_part(k->p, k->n, PBF_TracePacket_concurrent_session_event, 0);
        cr_expect_eq(msg_num(e.p, e.n, PBF_ConcurrentSessionEvent_state, 0), want[i].state);
        cr_expect_eq(msg_num(e.p, e.n, PBF_ConcurrentSessionEvent_num_data_sources, 9), 1);
        cr_expect_str_eq(msg_str(e.p, e.n, PBF_ConcurrentSessionEvent_session_name), "b");
        cr_expect_eq(pkt_num(k, PBF_TracePacket_timestamp, 0),
                     1000 * CHRONO_SEC + want[i].ms * CHRONO_MS);
    }
}

/* ---- 18.2 ---- */

Test(rows_sessions, R237_T36_to_T40_machines)
{
    static const struct {
        const char *filters[2];
        bool all;
        unsigned setups[3]; /* host, machine2, machine3 */
    } rows[] = {
        {{"host", NULL}, false, {1, 0, 0}},
        {{"host", "machine2"}, false, {1, 1, 0}},
        {{"machine1", NULL}, false, {1, 0, 0}},
        {{NULL, NULL}, false, {1, 0, 0}},
        {{NULL, NULL}, true, {1, 1, 1}},
        {{"machine3", NULL}, false, {0, 0, 1}},
        {{"machine3", "machine2"}, true, {0, 1, 1}},
    };
    static const char *const names[] = {"machine1", "machine2", "machine3"};
    for (size_t row = 0; row < sizeof(rows) / sizeof(rows[0]); row++) {
        struct cons *c = cons_new(w, 1);
        struct prod *p[3];
        for (uint32_t i = 0; i < 3; i++) {
            const struct prod_opts o = {
                .name = "p", .uid = 1, .machine_id = i, .machine_name = names[i]};
            p[i] = prod_new_opts(w, &o);
            prod_register(p[i], "ds", 0);
        }
        plain(NULL);
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
        size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
        bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, "ds");
        bytesbuf_pb_end(&w->cfg, k);
        for (int i = 0; i < 2 && rows[row].filters[i]; i++)
            bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_DataSource_machine_name_filter,
                            rows[row].filters[i]);
        bytesbuf_pb_end(&w->cfg, m);
        cons_enable(c, with(PBF_TraceConfig_trace_all_machines, rows[row].all));
        for (int i = 0; i < 3; i++) {
            cr_expect_eq(prod_count(p[i], MSG_PP_SETUP), rows[row].setups[i], "row %zu, %s", row,
                         names[i]);
            prod_bye(p[i]);
        }
        cons_bye(c);
    }
}

Test(rows_sessions, T47_registrations_in_the_state)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    static const char *const names[] = {"common", "p_ds", "common", "q_ds", "q_ds"};
    for (size_t i = 0; i < 5; i++)
        prod_register(i < 2 ? p : q, names[i], 0);
    for (int round = 0; round < 2; round++) {
        cr_assert(cons_query(c, false));
        struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
        size_t n = msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), of_p = 0;
        cr_expect_eq(n, round ? 3 : 5);
        for (size_t i = 0; i < n; i++) {
            struct bytes_view d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, i);
            of_p += msg_num(d.p, d.n, PBF_TracingServiceState_DataSource_producer_id, 0) == 1;
        }
        cr_expect_eq(of_p, round ? 0 : 2);
        if (!round)
            prod_bye(p);
    }
}

/* ---- 18.3 ---- */

Test(rows_sessions, T65_slow_starters_are_listed_alone)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    static const char *const names[] = {"a", "b", "c"};
    plain(NULL);
    for (size_t i = 0; i < 3; i++) {
        prod_register(p, names[i], DS_NOTIFY_START);
        source(names[i], NULL, 0, 0, NULL);
    }
    cons_enable(c, &w->cfg);
    prod_started(p, prod_instance(p, 0));
    prod_started(p, prod_instance(p, 2));
    world_advance_ms(w, 19999);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_slow_starting_data_sources), 0);
    world_advance_ms(w, 1);
    cons_read(c);
    cr_assert_eq(cons_events(c, PBF_TracingServiceEvent_slow_starting_data_sources), 1);
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view e =
            msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_service_event, 0);
        struct bytes_view l =
            msg_part(e.p, e.n, PBF_TracingServiceEvent_slow_starting_data_sources, 0);
        if (!l.n)
            continue;
        cr_expect_eq(msg_fields(l.p, l.n, PBF_TracingServiceEvent_DataSources_data_source), 1);
        struct bytes_view d =
            msg_part(l.p, l.n, PBF_TracingServiceEvent_DataSources_data_source, 0);
        cr_expect_str_eq(
            msg_str(d.p, d.n, PBF_TracingServiceEvent_DataSources_DataSource_data_source_name),
            "b");
        cr_expect_str_eq(
            msg_str(d.p, d.n, PBF_TracingServiceEvent_DataSources_DataSource_producer_name), "p");
        cr_expect_eq(pkt_num(&c->pkts[i], PBF_TracePacket_timestamp, 0), 1020 * CHRONO_SEC);
    }
    world_advance_ms(w, 60000);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_slow_starting_data_sources), 0,
                 "R23: once per session");
}

/* ---- files ---- */

static int file;
static uint8_t bytes[4u << 20];

/* A file session; the trace is read back by file_read. */
static struct bytesbuf *into_file(uint32_t period_ms, uint32_t mode)
{
    plain("ds");
    with(PBF_TraceConfig_write_into_file, 1);
    with(PBF_TraceConfig_file_write_period_ms, period_ms);
    return with(PBF_TraceConfig_write_flush_mode, mode);
}

static void file_open(const char *name)
{
    file = open(world_path(w, name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert_geq(file, 0);
}

static size_t file_read(void)
{
    ssize_t n = pread(file, bytes, sizeof(bytes), 0);
    cr_assert(n >= 0 && (size_t)n < sizeof(bytes));
    return (size_t)n;
}

/* Number of packets of a file with this field. */
static size_t file_count(size_t n, uint32_t field)
{
    size_t found = 0, all = msg_fields(bytes, n, 1);
    for (size_t i = 0; i < all; i++) {
        struct bytes_view k = msg_part(bytes, n, 1, i);
        found += msg_fields(k.p, k.n, field) > 0;
    }
    return found;
}

static bool file_has(size_t n, const char *text)
{
    return memmem(bytes, n, text, strlen(text)) != NULL;
}

/* ---- 18.4 ---- */

Test(rows_sessions, T66_a_file_can_be_cut_behind_each_marker)
{
    static const uint8_t marker[16] = {0x82, 0x47, 0x7A, 0x76, 0xB2, 0x8D, 0x42, 0xBA,
                                       0x81, 0xDC, 0x33, 0x32, 0x6D, 0x57, 0xA0, 0x79};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    file_open("trace");
    into_file(100, 2);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_snapshot_interval_ms, 100);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable_fd(c, &w->cfg, dup(file));
    for (int i = 0; i < 6; i++) {
        prod_put(p, 1, "data");
        world_advance_ms(w, 100);
    }
    cons_ask(c, MSG_C_DISABLE);
    size_t n = file_read(), parts = 0, packets = 0;
    for (uint8_t *at = bytes, *end = bytes + n; at < end; parts++) {
        uint8_t *next = memmem(at, (size_t)(end - at), marker, sizeof(marker));
        next = next ? next + sizeof(marker) : end;
        struct bytes_cur cur = bytes_cur(bytes_view(at, (size_t)(next - at)));
        struct bytes_field f;
        while (bytes_next(&cur, &f))
            packets += f.id == 1;
        cr_expect(bytes_done(&cur), "part %zu is no trace", parts);
        at = next;
    }
    cr_expect_geq(parts, 6, "%zu parts", parts);
    cr_expect_eq(packets, msg_fields(bytes, n, 1));
    close(file);
}

Test(rows_sessions, T68_histograms_of_writers)
{
    static const struct {
        uint32_t writer, buffer, payload;
    } chunks[] = {{1, 1, 100}, {1, 1, 1000}, {2, 2, 500}, {2, 2, 2000}, {2, 2, 2048}};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    uint8_t payload[4096];
    for (uint32_t i = 0; i < 3; i++)
        prod_register(p, (const char *const[]){"a", "b", "c"}[i], 0);
    cfg_begin(&w->cfg);
    for (uint32_t i = 0; i < 3; i++) {
        cfg_buffer(&w->cfg, 64);
        source((const char *const[]){"a", "b", "c"}[i], NULL, i, 0, NULL);
    }
    cons_enable(c, &w->cfg);
    for (size_t i = 0; i < 5; i++) {
        uint32_t n = chunks[i].payload;
        memset(payload, 0, sizeof(payload)); /* one fragment of n - 2 bytes, any field */
        payload[0] = (uint8_t)((n - 2) | 0x80);
        payload[1] = (uint8_t)((n - 2) >> 7);
        payload[2] = 0xA2;
        payload[3] = 0x38;
        payload[4] = (uint8_t)((n - 6) | 0x80);
        payload[5] = (uint8_t)((n - 6) >> 7);
        prod_fill(p, 0, (uint16_t)chunks[i].writer, p->next_chunk[chunks[i].writer]++, 1, 0,
                  payload, n, 3);
        const uint8_t move[] = {0x0A, 6, 0x08, 0,
                                0x10, 0, 0x18, (uint8_t)prod_target(p, chunks[i].buffer)};
        cr_assert(prod_commit_raw(p, move, sizeof(move)));
    }
    cons_read(c);
    cr_expect_eq(cons_texts(c), 5);
    struct bytes_view s = stats_of(c);
    cr_assert_eq(msg_fields(s.p, s.n, PBF_TraceStats_writer_stats), 2);
    static const uint8_t counts[2][11] = {{0, 0, 1, 0, 1}, {0, 0, 0, 1, 0, 2}};
    for (size_t i = 0; i < 2; i++) {
        struct bytes_view e = msg_part(s.p, s.n, PBF_TraceStats_writer_stats, i);
        cr_expect_eq(msg_num(e.p, e.n, PBF_TraceStats_WriterStats_sequence_id, 0), i + 2);
        cr_expect_eq(msg_num(e.p, e.n, PBF_TraceStats_WriterStats_buffer, 0), i + 1);
        struct bytes_view h =
            msg_part(e.p, e.n, PBF_TraceStats_WriterStats_chunk_payload_histogram_counts, 0);
        cr_assert_eq(h.n, 11);
        cr_expect_arr_eq(h.p, counts[i], 11, "writer %zu", i);
    }
}

Test(rows_sessions, T71_T73_provenance_of_a_v2_buffer)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 64);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_experimental_mode, 1);
    bytesbuf_pb_end(&w->cfg, m);
    cfg_source(&w->cfg, "ds", 0);
    with(PBF_TraceConfig_trace_uuid_lsb, 21);
    cons_enable(c, with(PBF_TraceConfig_trace_uuid_msb, 43));
    prod_put(p, 1, "one");
    prod_put(p, 2, "two");
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_trace_provenance, 0);
    cr_assert_not_null(k);
    struct bytes_view v = msg_part(k->p, k->n, PBF_TracePacket_trace_provenance, 0);
    cr_expect_eq(msg_fields(v.p, v.n, PBF_TraceProvenance_buffers), 1);
    struct bytes_view b = msg_part(v.p, v.n, PBF_TraceProvenance_buffers, 0);
    cr_assert_eq(msg_fields(b.p, b.n, PBF_TraceProvenance_Buffer_sequences), 2);
    for (size_t i = 0; i < 2; i++) {
        struct bytes_view s = msg_part(b.p, b.n, PBF_TraceProvenance_Buffer_sequences, i);
        uint64_t id = msg_num(s.p, s.n, PBF_TraceProvenance_Sequence_id, 0);
        cr_expect_eq(id, i + 2);
        cr_expect_eq(msg_num(s.p, s.n, PBF_TraceProvenance_Sequence_producer_id, 0), 1);
        cr_expect_eq(pkt_num(cons_pkt(c, PBF_TracePacket_for_testing, i),
                             PBF_TracePacket_trusted_packet_sequence_id, 0),
                     id, "the ids of the packets");
    }
    k = cons_pkt(c, PBF_TracePacket_trace_uuid, 0);
    cr_expect_eq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_msb, 0), 43, "T71");
    cr_expect_eq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_lsb, 0), 21);
}

/* What a wrapper of packets holds, inflated. */
static size_t inflated(struct bytes_view packet, uint8_t *out, size_t room)
{
    struct bytes_view z = msg_part(packet.p, packet.n, PBF_TracePacket_compressed_packets, 0);
    uLongf n = room;
    cr_assert_gt(z.n, 0, "a packet that is no wrapper");
    cr_assert_eq(uncompress(out, &n, z.p, z.n), Z_OK);
    return n;
}

Test(rows_sessions, R159_T75_T139_compression_of_files_and_clones)
{
    static uint8_t plain_bytes[1 << 20];
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    file_open("trace");
    for (int i = 0; i < 2; i++) { /* the legacy field, then the message */
        i ? (void)plain("ds") : (void)into_file(1000, 2);
        if (i == 0) {
            with(PBF_TraceConfig_compression_type, 1);
        } else {
            size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_compression);
            bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_CompressionConfig_deflate, "");
            bytesbuf_pb_end(&w->cfg, m);
        }
        cr_assert(i ? cons_enable(d, &w->cfg) : cons_enable_fd(c, &w->cfg, dup(file)));
        cr_assert_eq(prod_count(p, MSG_PP_SETUP), (size_t)i + 1);
        prod_put_to(p, 1, prod_target(p, (size_t)i), i ? "cloned" : "filed");
    }
    cons_ask(c, MSG_C_DISABLE);
    size_t n = file_read(), all = msg_fields(bytes, n, 1), found = 0;
    cr_expect_gt(all, 0);
    for (size_t i = 0; i < all; i++) {
        size_t len = inflated(msg_part(bytes, n, 1, i), plain_bytes, sizeof(plain_bytes));
        found += memmem(plain_bytes, len, "filed", 5) != NULL;
    }
    cr_expect_eq(found, 1, "in a file");
    const uint8_t two[] = {0x08, 2};
    bytesbuf_clear(&w->cfg);
    bytesbuf_put(&w->cfg, two, sizeof(two));
    cons_clone(k, &w->cfg, -1);
    cons_read(k);
    cr_assert_gt(k->npkts, 0);
    found = 0;
    for (size_t i = 0; i < k->npkts; i++) {
        size_t len =
            inflated(bytes_view(k->pkts[i].p, k->pkts[i].n), plain_bytes, sizeof(plain_bytes));
        found += memmem(plain_bytes, len, "cloned", 6) != NULL;
    }
    cr_expect_eq(found, 1, "in a clone");
    close(file);
}

/* ---- 18.5 ---- */

/* A packet of a writer that scraping may find: written, and never committed. */
static void leave_uncommitted(struct prod *p, const char *text)
{
    uint8_t payload[256];
    size_t n = frag_packet(payload, text);
    prod_fill(p, 0, 5, 0, 1, 0, payload, n, 3);
}

Test(rows_sessions, T91_T92_flush_before_a_drain)
{
    static const struct {
        uint32_t mode;
        bool flushed;
    } rows[] = {{1, true}, {2, false}, {0, true}, {3, true}};
    for (size_t i = 0; i < 4; i++) {
        const struct prod_opts o = {.name = "p", .uid = 1, .scraping = 1};
        struct prod *p = prod_new_opts(w, &o);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        file_open("trace");
        cons_enable_fd(c, into_file(10000, rows[i].mode), dup(file));
        prod_writer(p, 5, prod_target(p, 0));
        leave_uncommitted(p, "uncommitted");
        world_advance_ms(w, 9999);
        cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 0, "mode %u", rows[i].mode);
        world_advance_ms(w, 1);
        cr_expect_eq(prod_count(p, MSG_PP_FLUSH), rows[i].flushed, "mode %u", rows[i].mode);
        size_t n = file_read();
        cr_expect_gt(n, 0);
        cr_expect_eq(file_has(n, "uncommitted"), rows[i].flushed, "mode %u", rows[i].mode);
        close(file);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(rows_sessions, T93_the_last_statistics_are_those_of_the_end)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    file_open("trace");
    cons_enable_fd(c, into_file(1000, 2), dup(file));
    prod_put(p, 1, "one");
    world_advance_ms(w, 1000);
    prod_put(p, 1, "two");
    prod_put(p, 1, "three");
    cons_ask(c, MSG_C_DISABLE);
    size_t n = file_read(), all = msg_fields(bytes, n, 1);
    cr_expect_eq(file_count(n, PBF_TracePacket_trace_stats), 2);
    struct bytes_view k = msg_part(bytes, n, 1, all - 1);
    struct bytes_view s = msg_part(k.p, k.n, PBF_TracePacket_trace_stats, 0);
    struct bytes_view b = msg_part(s.p, s.n, PBF_TraceStats_buffer_stats, 0);
    cr_expect_eq(msg_num(b.p, b.n, PBF_TraceStats_BufferStats_chunks_written, 0), 3);
    close(file);
}

Test(rows_sessions, T98_freed_while_it_runs)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    file_open("trace");
    cons_enable_fd(c, into_file(60000, 2), dup(file));
    prod_put(p, 1, "data");
    cons_ask(c, MSG_C_FREE);
    size_t n = file_read();
    cr_expect(file_has(n, "data"));
    static const uint32_t kinds[] = {PBF_TracePacket_clock_snapshot, PBF_TracePacket_trace_config,
                                     PBF_TracePacket_system_info, PBF_TracePacket_trace_uuid,
                                     PBF_TracePacket_trace_stats};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        cr_expect_gt(file_count(n, kinds[i]), 0, "field %u", kinds[i]);
    close(file);
}

/* trace_filter that lets all of a packet pass but its field 900 (for_testing). */
static void put_filter(void)
{
    static const uint32_t words[] = {1 << 3 | 3, 1, 0, 1 << 3 | 2, 899, 0};
    uint64_t hash = 0xcbf29ce484222325u;
    size_t filter = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_trace_filter);
    size_t code = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_TraceFilter_bytecode);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        bytesbuf_put_varint(&w->cfg, words[i]);
        for (int b = 0; b < 32; b += 8)
            hash = (hash ^ (words[i] >> b & 0xFF)) * 0x100000001b3u;
    }
    bytesbuf_put_varint(&w->cfg, (uint32_t)hash);
    bytesbuf_pb_end(&w->cfg, code);
    bytesbuf_pb_end(&w->cfg, filter);
}

Test(rows_sessions, T87_sizes_in_a_file_are_those_of_the_filter)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    char text[90];
    prod_register(p, "ds", 0);
    file_open("trace");
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 16384);
    cfg_source(&w->cfg, "ds", 0);
    with(PBF_TraceConfig_write_into_file, 1);
    put_filter();
    cons_enable_fd(c, &w->cfg, dup(file));
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < 30000; i++)
        prod_put(p, 1, text);
    cons_ask(c, MSG_C_DISABLE);
    size_t n = file_read(), all = msg_fields(bytes, n, 1);
    struct bytes_view k = msg_part(bytes, n, 1, all - 1), last = k;
    struct bytes_view s = msg_part(k.p, k.n, PBF_TracePacket_trace_stats, 0);
    struct bytes_view f = msg_part(s.p, s.n, PBF_TraceStats_filter_stats, 0);
    cr_assert_gt(f.n, 0);
    uint64_t sum = 0;
    struct bytes_cur cur = bytes_cur(bytes_view(bytes, n));
    for (struct bytes_field one; bytes_next(&cur, &one);)
        sum += one.data.n;
    cr_expect_eq(msg_num(f.p, f.n, PBF_TraceStats_FilterStats_output_bytes, 0), sum - last.n);
    cr_expect_gt(msg_num(f.p, f.n, PBF_TraceStats_FilterStats_input_bytes, 0), 2u << 20,
                 "several batches of 1 MiB");
    cr_expect_eq(msg_num(f.p, f.n, PBF_TraceStats_FilterStats_errors, 9), 0);
    cr_expect_not(file_has(n, "xxxx"));
    close(file);
}
