/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session_read, svc/session_events and the reads of a consumer: service.md section 7. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf.h"
#include "t/svc/world.h"

static struct world *w;

static void setup(void)
{
    w = world_new();
}

static void teardown(void)
{
    world_free(w);
}

TestSuite(readout, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 256);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

/* The kinds of the packets read, in order: one letter each. */
static const char *kinds(const struct cons *c)
{
    static const struct {
        uint32_t field;
        char letter;
    } known[] = {
        {PBF_TracePacket_clock_snapshot, 'c'},
        {PBF_TracePacket_synchronization_marker, 'm'},
        {PBF_TracePacket_trace_config, 'C'},
        {PBF_TracePacket_trigger, 't'},
        {PBF_TracePacket_trace_uuid, 'u'},
        {PBF_TracePacket_trace_provenance, 'p'},
        {PBF_TracePacket_system_info, 'i'},
        {PBF_TracePacket_service_event, 'e'},
        {PBF_TracePacket_for_testing, 'x'},
        {PBF_TracePacket_trace_stats, 's'},
        {PBF_TracePacket_concurrent_session_event, 'n'},
        {PBF_TracePacket_clone_snapshot_trigger, 'T'},
        {PBF_TracePacket_remote_clock_sync, 'r'},
        {PBF_TracePacket_compressed_packets, 'Z'},
    };
    static char out[4096];
    size_t n = 0;
    for (size_t i = 0; i < c->npkts && n < sizeof(out) - 1; i++) {
        char letter = '?';
        for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
            if (msg_fields(c->pkts[i].p, c->pkts[i].n, known[k].field))
                letter = known[k].letter;
        }
        out[n++] = letter;
    }
    out[n] = '\0';
    return out;
}

Test(readout, R101_nothing_to_read)
{
    struct cons *c = cons_new(w, 1);
    cr_expect_eq(cons_read(c), 0);
    cr_expect(c->read_done);
    cr_expect_eq(c->batches, 1, "one empty reply");
}

Test(readout, R109_preamble)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 1, "data");
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    cr_expect_str_eq(kinds(c), "ccmCupieeexes", "got %s", kinds(c));
    cr_expect(c->read_done);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_tracing_started), 1);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_started), 1);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_tracing_disabled), 1);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_read_tracing_buffers_completed), 1);
    cons_read(c);
    cr_expect_str_eq(kinds(c), "e", "R110: the second read has no statistics");
}

Test(readout, T69_lifecycle_smoke)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    cons_read(c);
    cr_expect_str_eq(kinds(c), "ccmCupieees");
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    cr_expect_str_eq(kinds(c), "ceee", "flush started, flushed, read: %s", kinds(c));
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    cr_expect_str_eq(kinds(c), "cee", "R130: the ring was empty");
}

Test(readout, R8_before_the_start)
{
    struct cons *c = cons_new(w, 1);
    plain(NULL);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, &w->cfg);
    cons_read(c);
    cr_expect_str_eq(kinds(c), "Cupie");
}

Test(readout, R107_flags_turn_kinds_off)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "data");
    cons_read(c);
    cr_expect_str_eq(kinds(c), "mupxs", "what no flag turns off: %s", kinds(c));
}

Test(readout, R10_R116_T72_config_and_uuid)
{
    struct cons *c = cons_new(w, 1);
    plain(NULL);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_uuid_msb, 11);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_uuid_lsb, 22);
    bytesbuf_pb_str(&w->cfg, 4444, "unknown");
    cons_enable(c, &w->cfg);
    cons_read(c);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_trace_config, 0);
    struct bytes_view echo = msg_part(k->p, k->n, PBF_TracePacket_trace_config, 0);
    cr_expect(bytes_equal(echo, bytesbuf_view(&w->cfg)), "R40: byte for byte");
    k = cons_pkt(c, PBF_TracePacket_trace_uuid, 0);
    cr_expect_eq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_msb, 0), 11);
    cr_expect_eq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_lsb, 0), 22);
    cons_ask(c, MSG_C_FREE);
    cons_enable(c, plain(NULL)); /* T72 */
    cons_read(c);
    k = cons_pkt(c, PBF_TracePacket_trace_uuid, 0);
    cr_expect_neq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_msb, 0), 0);
    cr_expect_neq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_lsb, 0), 0);
}

Test(readout, R110_T66_snapshots_and_markers)
{
    struct cons *c = cons_new(w, 1);
    plain(NULL);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_snapshot_interval_ms, 100);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    for (int i = 0; i < 5; i++) {
        cons_read(c);
        cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 1, "read %d", i);
        cr_expect_eq(cons_count(c, PBF_TracePacket_trace_stats), 1);
        cons_read(c);
        cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 0);
        world_advance_ms(w, 100);
    }
}

Test(readout, R111_stats_are_last)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 1, "a");
    cons_read(c);
    cr_assert_gt(c->npkts, 0);
    cr_expect_eq(
        msg_fields(c->pkts[c->npkts - 1].p, c->pkts[c->npkts - 1].n, PBF_TracePacket_trace_stats),
        1);
}

Test(readout, R103_batches)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    uint8_t payload[4000];
    for (unsigned i = 0; i < 20; i++) { /* 4000 bytes of one packet each */
        struct bytesbuf b;
        memset(payload, 0, sizeof(payload));
        static const uint8_t head[] = {0x9C, 0x9F, 0x80, 0x00, 0xA2, 0x38,
                                       0x98, 0x1F, 0x0A, 0x95, 0x1F};
        memcpy(payload, head, sizeof(head));
        prod_fill(p, 0, 1, i, 1, 0, payload, sizeof(payload), 3);
        bytesbuf_init(&b, 64);
        size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, prod_target(p, 0));
        bytesbuf_pb_end(&b, m);
        cr_assert(prod_commit_raw(p, b.p, b.n));
        bytesbuf_fini(&b);
    }
    cons_read(c);
    cr_expect_eq(cons_texts(c), 20);
    cr_expect_eq(c->batches, 3, "about 9 packets of 4 KB reach 32 KB: %u batches", c->batches);
    cr_expect(c->read_done);
}

Test(readout, a_sink_without_room_stops_the_read)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 1, "a");
    c->room_batches = 0;
    cr_expect_eq(cons_read(c), 0);
    cr_expect(c->full);
    cr_expect_not(c->read_done);
    c->room_batches = SIZE_MAX;
    struct msg_empty room = {0};
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_READ_ROOM, &room);
    world_settle(w);
    cr_expect(c->read_done);
    cr_expect(cons_has(c, "a"), "nothing was lost meanwhile");
}

Test(readout, a_newer_read_replaces_the_older)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    c->room_batches = 0;
    cons_read(c);
    uint64_t first = c->cookie;
    c->reply_cookie = first;
    c->replied = false;
    cons_read(c);
    cr_expect(c->replied && !c->reply_ok, "the older request is rejected");
}

Test(readout, R105_destructive)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 1, "a");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 1);
    prod_put(p, 1, "b");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 1);
    cr_expect(cons_has(c, "b"));
}

Test(readout, R123_invalid_packets_are_counted)
{
    static const uint8_t forged[] = {0x02, 0x18, 0x07}; /* trusted_uid */
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    prod_fill(p, 0, 1, 0, 1, 0, forged, sizeof(forged), 3);
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, prod_target(p, 0));
    bytesbuf_pb_end(&b, m);
    prod_commit_raw(p, b.p, b.n);
    bytesbuf_fini(&b);
    p->next_chunk[1] = 1;
    prod_put(p, 1, "good");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 1);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_trace_stats, 0);
    cr_expect_eq(pkt_sub(k, PBF_TracePacket_trace_stats, PBF_TraceStats_invalid_packets, 0), 1);
}

Test(readout, R205_Q11_start_time_in_the_state)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    for (int i = 0; i < 2; i++) {
        cr_assert(cons_query(c, true));
        struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
        struct bytes_view t = msg_part(s.p, s.n, PBF_TracingServiceState_tracing_sessions, 0);
        cr_expect_gt(msg_num(t.p, t.n, PBF_TracingServiceState_TracingSession_start_realtime_ns, 0),
                     0, "also after a read (Q11 is not reproduced)");
        cr_expect_eq(msg_num(t.p, t.n, PBF_TracingServiceState_TracingSession_buffer_size_kb, 0),
                     256);
        cr_expect_eq(msg_num(t.p, t.n, PBF_TracingServiceState_TracingSession_is_started, 0), 1);
        cons_read(c);
    }
}

Test(readout, R204_who_sees_which_session)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2), *root = cons_new(w, 0);
    cons_enable(a, plain(NULL));
    cons_enable(b, plain(NULL));
    struct cons *all[] = {a, b, root};
    for (int i = 0; i < 3; i++) {
        cr_assert(cons_query(all[i], true));
        struct bytes_view s = msg_part(all[i]->reply.p, all[i]->reply.n, 1, 0);
        cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_tracing_sessions), i < 2 ? 1 : 2);
        cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_num_sessions, 0), 2,
                     "R201: over all");
        cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_num_sessions_started, 0), 2);
    }
    cons_ask(b, MSG_C_DISABLE);
    cr_assert(cons_query(a, true));
    struct bytes_view s = msg_part(a->reply.p, a->reply.n, 1, 0);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_num_sessions, 0), 2);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_num_sessions_started, 0), 1, "R201");
}

Test(readout, R207_R208_T67_capabilities_and_stats)
{
    struct cons *c = cons_new(w, 1);
    cr_assert(cons_ask(c, MSG_C_CAPABILITIES));
    struct bytes_view v = msg_part(c->reply.p, c->reply.n, 1, 0);
    cr_expect_eq(msg_fields(v.p, v.n, PBF_TracingServiceCapabilities_observable_events), 3);
    cr_expect_eq(msg_num(v.p, v.n, PBF_TracingServiceCapabilities_has_clone_session, 0), 1);
    cr_expect_not(cons_ask(c, MSG_C_STATS), "T67: no session");
    cons_enable(c, plain(NULL));
    cr_assert(cons_ask(c, MSG_C_STATS));
    v = msg_part(c->reply.p, c->reply.n, 1, 0);
    cr_expect_eq(msg_fields(v.p, v.n, PBF_TraceStats_buffer_stats), 1);
    cr_expect_eq(msg_fields(v.p, v.n, PBF_TraceStats_final_flush_outcome), 1,
                 "R225: zeroes are present");
    cr_expect(cons_ask(c, MSG_C_SAVE_TRACE));
    cr_expect_eq(msg_num(c->reply.p, c->reply.n, PBF_SaveTraceForBugreportResponse_success, 9), 0);
}

/* num_data_sources, state, id, uid of the nth concurrent_session_event, as text. */
static const char *concurrent(const struct cons *c, size_t nth)
{
    static char text[64];
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_concurrent_session_event, nth);
    uint32_t f = PBF_TracePacket_concurrent_session_event;
    snprintf(text, sizeof(text), "%d state %d uid %d",
             (int)pkt_sub(k, f, PBF_ConcurrentSessionEvent_session_id, 0),
             (int)pkt_sub(k, f, PBF_ConcurrentSessionEvent_state, 0),
             (int)pkt_sub(k, f, PBF_ConcurrentSessionEvent_consumer_uid, 0));
    return k ? text : "";
}

static struct bytesbuf *watching(void)
{
    plain(NULL);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events,
                       1);
    bytesbuf_pb_end(&w->cfg, m);
    return &w->cfg;
}

Test(readout, T24_concurrent_sessions)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2), *c = cons_new(w, 3);
    cons_enable(a, watching());
    world_advance_ms(w, 1);
    cons_enable(b, watching());
    world_advance_ms(w, 1);
    cons_ask(b, MSG_C_DISABLE);
    cons_read(b);
    cr_expect_str_eq(concurrent(b, 0), "1 state 3 uid 1");
    cr_expect_eq(cons_count(b, PBF_TracePacket_concurrent_session_event), 1);
    world_advance_ms(w, 1);
    cons_enable(c, watching());
    cons_read(c);
    cr_expect_str_eq(concurrent(c, 0), "1 state 3 uid 1");
    cr_expect_str_eq(concurrent(c, 1), "2 state 1 uid 2");
    cons_ask(c, MSG_C_DISABLE);
    cons_read(a);
    static const char *const want[] = {"2 state 2 uid 2", "2 state 3 uid 2", "2 state 1 uid 2",
                                       "3 state 2 uid 3", "3 state 3 uid 3", "3 state 1 uid 3"};
    for (size_t i = 0; i < 6; i++)
        cr_expect_str_eq(concurrent(a, i), want[i]);
    cr_expect_eq(cons_count(a, PBF_TracePacket_concurrent_session_event), 6);
}

Test(readout, T25_concurrent_events_are_opt_in)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    cons_enable(a, plain(NULL));
    cons_enable(b, watching());
    cons_ask(a, MSG_C_DISABLE);
    cons_read(a);
    cons_read(b);
    cr_expect_eq(cons_count(a, PBF_TracePacket_concurrent_session_event), 0);
    cr_expect_eq(cons_count(b, PBF_TracePacket_concurrent_session_event), 2);
}

Test(readout, T75_compression)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_compression_type, 1);
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "a");
    cons_read(c);
    cr_expect_str_eq(kinds(c), "Z", "one wrapper and nothing beside it");
}

Test(readout, R232_R233_R234_T141_relays)
{
    struct bytesbuf b;
    struct cons *c = cons_new(w, 1);
    bytesbuf_init(&b, 256);
    size_t m = bytesbuf_pb_begin(&b, PBF_SyncClockRequest_clocks);
    bytesbuf_pb_varint(&b, PBF_SyncClockRequest_Clock_clock_id, 6);
    bytesbuf_pb_varint(&b, PBF_SyncClockRequest_Clock_timestamp, 1000);
    bytesbuf_pb_end(&b, m);
    for (int i = 0; i < 7; i++)
        cr_assert_eq(service_relay_clock(w->svc, 9, 1, bytesbuf_view(&b)), 0);
    cr_assert_eq(service_relay_init(w->svc, 9, 1, bytes_view("\x30\x05", 2)), 0);
    cr_assert_eq(service_relay_init(w->svc, 9, 2, bytes_view("\x30\x06", 2)), 0);
    cons_enable(c, plain(NULL));
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_system_info), 2, "the host and one per machine");
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_system_info, 1);
    cr_expect_eq(pkt_num(k, PBF_TracePacket_machine_id, 0), 9);
    k = cons_pkt(c, PBF_TracePacket_remote_clock_sync, 0);
    cr_assert_not_null(k);
    struct bytes_view s = msg_part(k->p, k->n, PBF_TracePacket_remote_clock_sync, 0);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_RemoteClockSync_synced_clocks), 5,
                 "R233: the 5 most recent");
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_remote_clock_sync), 0, "once per session");
    service_relay_gone(w->svc, 9, 1);
    service_relay_gone(w->svc, 9, 2);
    cons_ask(c, MSG_C_FREE);
    cons_enable(c, plain(NULL)); /* T141 */
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_remote_clock_sync), 0);
    cr_expect_eq(cons_count(c, PBF_TracePacket_system_info), 1);
    bytesbuf_fini(&b);
}

/* trace_filter: all top-level fields; for_testing only with its field 1. */
static void put_filter(struct bytesbuf *cfg)
{
    static const uint32_t words[] = {1 << 3 | 3,
                                     1,
                                     0, /* Trace.packet is message 1 */
                                     1 << 3 | 2,
                                     PBF_TracePacket_for_testing - 1,
                                     PBF_TracePacket_for_testing << 3 | 3,
                                     2,
                                     0, /* itself: 2 */
                                     1 << 3 | 1,
                                     0};
    uint64_t hash = 0xcbf29ce484222325u;
    size_t filter = bytesbuf_pb_begin(cfg, PBF_TraceConfig_trace_filter);
    size_t code = bytesbuf_pb_begin(cfg, PBF_TraceConfig_TraceFilter_bytecode_v2);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        bytesbuf_put_varint(cfg, words[i]);
        for (int b = 0; b < 32; b += 8)
            hash = (hash ^ (words[i] >> b & 0xFF)) * 0x100000001b3u;
    }
    bytesbuf_put_varint(cfg, (uint32_t)hash);
    bytesbuf_pb_end(cfg, code);
    bytesbuf_pb_end(cfg, filter);
}

Test(readout, R137_a_packet_that_the_filter_cannot_parse)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_quiet(&w->cfg);
    put_filter(&w->cfg);
    cons_enable(c, &w->cfg);
    /* for_testing with a string longer than itself: well formed at the top level only. */
    static const uint8_t chunk[] = {5, 0xA2, 0x38, 2, 0x0A, 0x05};
    prod_put(p, 1, "one");
    prod_fill(p, 1, 2, 0, 1, 0, chunk, sizeof(chunk), 3);
    const uint8_t move[] = {0x0A, 6, 0x08, 1, 0x10, 0, 0x18, (uint8_t)prod_target(p, 0)};
    cr_assert(prod_commit_raw(p, move, sizeof(move)));
    prod_put(p, 1, "two");
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    size_t whole = 0, empty = 0;
    for (size_t i = 0; i < c->npkts; i++) {
        whole += msg_fields(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_for_testing);
        empty += c->pkts[i].n == 0;
    }
    cr_expect_eq(whole, 2, "its neighbours pass, got %zu", whole);
    cr_expect_eq(empty, 0, "over IPC it produces nothing at all");
}

/* ---- large packets ---- */

/* A packet of 1000 * n bytes, in the buffer of session 1: field 500 of n chunks. */
static void put_large(uint32_t chunk, uint32_t n, bool valid)
{
    struct tbuf *tb = service_session(w->svc, 1)->buffers[0].tb;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t payload[1002] = {0xE8, 0x07};
        if (i == 0) {
            uint32_t len = n * 1000 - 6;
            const uint8_t head[] = {valid ? 0xA2 : 0xA7,         0x1F,
                                    (uint8_t)(len | 0x80),       (uint8_t)(len >> 7 | 0x80),
                                    (uint8_t)(len >> 14 | 0x80), (uint8_t)(len >> 21)};
            memcpy(payload + 2, head, sizeof(head));
        }
        struct tbuf_chunk_in in = {.producer_id = 1,
                                   .writer_id = 9,
                                   .chunk_id = chunk + i,
                                   .num_fragments = 1,
                                   .flags = (uint8_t)((i > 0 ? TBUF_CHUNK_FIRST_CONTINUES : 0) |
                                                      (i < n - 1 ? TBUF_CHUNK_LAST_CONTINUES : 0)),
                                   .complete = true,
                                   .payload = payload,
                                   .payload_size = sizeof(payload)};
        cr_assert_eq(tbuf_copy_chunk(tb, &in), TBUF_STORED);
    }
}

static struct cons *large_session(void)
{
    struct cons *c = cons_new(w, 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 16384);
    cons_enable(c, &w->cfg);
    cons_read(c); /* what comes once */
    return c;
}

static size_t largest(const struct cons *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->npkts; i++)
        n = c->pkts[i].n > n ? c->pkts[i].n : n;
    return n;
}

Test(readout, R104_a_large_packet_in_pieces)
{
    struct cons *c = large_session();
    put_large(0, 5000, true);
    put_large(5000, 1, true);
    cons_read(c);
    cr_expect(c->read_done);
    cr_expect_gt(largest(c), 5000 * 1000);
    cr_expect_lt(largest(c), 5000 * 1000 + 50);
    cr_expect_geq(c->pieces, 15);
    cr_expect_gt(c->batches, 30, "gathered, checked and sent in slices");
    const struct pkt *last = &c->pkts[c->npkts - 1];
    cr_expect_gt(last->n, 0);
    cr_expect_eq(service_session(w->svc, 1)->large.bytes, NULL, "its memory is given back");
}

Test(readout, R123_a_large_packet_that_is_not_valid)
{
    struct cons *c = large_session();
    put_large(0, 1000, false);
    put_large(1000, 1, true);
    cons_read(c);
    cr_expect_eq(service_session(w->svc, 1)->invalid_packets, 1);
    cr_expect_lt(largest(c), 2000);
}

/* A read that is replaced in the middle of a packet: the new one gets it from its begin. */
Test(readout, a_read_replaced_within_a_large_packet)
{
    struct cons *c = large_session();
    struct session *s = service_session(w->svc, 1);
    struct msg_request m = {.cookie = ++c->cookie};
    put_large(0, 10000, true); /* more batches than an actor has in one tick */
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_READ, &m);
    for (int i = 0; i < 1000 && !session_large_begun(s); i++)
        reactor_tick(w->reactor, 0);
    cr_assert(session_large_begun(s));
    cons_read(c);
    cr_expect(c->read_done);
    cr_expect_gt(largest(c), 10000 * 1000);
}
