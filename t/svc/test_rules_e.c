/* SPDX-License-Identifier: Apache-2.0 */
/* Single clauses of service.md that the cases of their rules pass by: each of these failed no test
 * when it was taken out of the code. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "svc/service_int.h"
#include "t/svc/world.h"

enum { START = 1, STOP = 2, CLONE = 4 };

static struct world *w;
static struct bytesbuf req;

static void setup(void)
{
    w = world_new();
    bytesbuf_init(&req, 4096);
}

static void teardown(void)
{
    world_free(w);
    bytesbuf_fini(&req);
}

TestSuite(rules_e, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

static struct bytesbuf *with(uint32_t field, uint64_t v)
{
    bytesbuf_pb_varint(&w->cfg, field, v);
    return &w->cfg;
}

static struct bytesbuf *named(const char *name)
{
    bytesbuf_pb_str(plain(NULL), PBF_TraceConfig_unique_session_name, name);
    return &w->cfg;
}

static void builtin(uint32_t field, uint64_t v)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, field, v);
    bytesbuf_pb_end(&w->cfg, m);
}

/* CloneSession by id; true when it succeeded. */
static bool clone_of(struct cons *k, uint64_t id)
{
    bytesbuf_clear(&req);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, id);
    cons_clone(k, &req, -1);
    return k->replied && msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_success, 0) == 1;
}

static void set_date_on(uint64_t ms)
{
    chrono_virtual_set_real(chrono_real_ns() + ms * CHRONO_MS);
}

/* ---- admission ---- */

Test(rules_e, R10_half_a_uuid_is_one)
{
    static const uint64_t rows[][2] = {{0, 5}, {7, 0}};
    for (size_t i = 0; i < 2; i++) {
        struct cons *c = cons_new(w, 1);
        plain(NULL);
        with(PBF_TraceConfig_trace_uuid_msb, rows[i][0]);
        cons_enable(c, with(PBF_TraceConfig_trace_uuid_lsb, rows[i][1]));
        cons_read(c);
        const struct pkt *k = cons_pkt(c, PBF_TracePacket_trace_uuid, 0);
        cr_expect_eq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_msb, 9), rows[i][0]);
        cr_expect_eq(pkt_sub(k, PBF_TracePacket_trace_uuid, PBF_TraceUuid_lsb, 9), rows[i][1]);
    }
}

Test(rules_e, V14_ended_sessions_and_clones_are_exclusive_still)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1), *d = cons_new(w, 1);
    plain(NULL);
    cons_enable(c, with(PBF_TraceConfig_exclusive_prio, 2));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(cons_enable(d, plain(NULL)), "an ended one");
    cr_assert(clone_of(k, 1));
    cons_ask(c, MSG_C_FREE);
    cr_expect_not(cons_enable(d, &w->cfg), "a clone");
    cons_bye(k);
    cr_expect(cons_enable(d, &w->cfg));
}

Test(rules_e, V16_a_clone_does_not_hold_the_name)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    cons_enable(c, named("n"));
    cr_assert(clone_of(k, 1));
    cons_ask(c, MSG_C_FREE);
    cr_expect(cons_enable(c, named("n")), "%s", c->error);
}

Test(rules_e, R20_exactly_300_s_are_not_enough)
{
    struct cons *c = cons_new(w, 1);
    named("n");
    cons_enable(c, with(PBF_TraceConfig_enable_extra_guardrails, 1));
    cons_ask(c, MSG_C_FREE);
    world_advance_ms(w, 300000);
    cr_expect_not(cons_enable(c, &w->cfg));
    world_advance_ms(w, 1000);
    cr_expect(cons_enable(c, &w->cfg), "and refused requests begin no new wait");
}

/* ---- start ---- */

Test(rules_e, R21_R23_no_slow_start_check_for_a_session_that_began_detached)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START);
    plain("ds");
    cfg_trigger_mode(&w->cfg, START, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 0, 0, 0);
    cons_enable(c, &w->cfg);
    cons_ask_body(c, MSG_C_DETACH, "k", 1);
    prod_trigger(p, "t");
    cr_assert_eq(prod_count(p, MSG_PP_START), 1);
    cr_assert(cons_ask_body(d, MSG_C_ATTACH, "k", 1));
    world_advance_ms(w, 30000);
    cons_read(d);
    cr_expect_eq(cons_events(d, PBF_TracingServiceEvent_slow_starting_data_sources), 0);
}

Test(rules_e, R21_snapshots_by_the_clock_that_goes_on_asleep)
{
    for (int boot = 0; boot < 2; boot++) {
        struct cons *c = cons_new(w, 1);
        plain(NULL);
        builtin(PBF_TraceConfig_BuiltinDataSource_prefer_suspend_clock_for_snapshot,
                (uint64_t)boot);
        cons_enable(c, &w->cfg);
        cons_read(c);
        chrono_virtual_suspend(20 * CHRONO_SEC);
        world_advance_ms(w, 1);
        cons_read(c);
        cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), boot);
        cons_bye(c);
    }
}

Test(rules_e, R28_a_snapshot_goes_with_all_started)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START);
    cons_enable(c, plain("ds"));
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    prod_started(p, prod_instance(p, 0));
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_started), 1);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 1);
}

Test(rules_e, R28_R191_nobody_is_told_while_it_is_detached)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START);
    cons_observe(c, 2);
    cons_enable(c, plain("ds"));
    cons_ask_body(c, MSG_C_DETACH, "k", 1);
    prod_started(p, prod_instance(p, 0));
    cons_ask_body(c, MSG_C_ATTACH, "k", 1);
    cr_expect_eq(c->nevents, 0, "nothing is kept");
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_started), 0);
    cons_observe(c, 2);
    cr_expect_eq(c->nevents, 1, "R28: but now it is asked again");
}

/* ---- stop ---- */

Test(rules_e, R31_no_snapshots_while_acks_are_awaited)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    plain("ds");
    cons_enable(c, with(PBF_TraceConfig_data_source_stop_timeout_ms, 60000));
    cons_read(c);
    cons_ask(c, MSG_C_DISABLE);
    world_advance_ms(w, 30000);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 0);
    cr_expect_not(c->disabled);
}

Test(rules_e, R33_a_snapshot_goes_with_the_end)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    cons_read(c);
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_tracing_disabled), 1);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 1);
}

/* ---- clock snapshots of events ---- */

Test(rules_e, R213_R218_snapshots_of_a_clone)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(p, "moved", 0);
    p->mute = true;
    plain("ds");
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 64);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_transfer_on_clone, 1);
    bytesbuf_pb_end(&w->cfg, m);
    cfg_source(&w->cfg, "moved", 1);
    cons_enable(c, &w->cfg);
    cons_read(c);
    clone_of(k, 1);
    set_date_on(100);
    prod_ack_flush(p, UINT64_MAX);
    cr_assert(k->replied);
    cons_read(k);
    cr_expect_eq(cons_count(k, PBF_TracePacket_clock_snapshot), 2,
                 "of the request, and of its end");
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 2);
    cons_read(k);
    cr_expect_eq(cons_count(k, PBF_TracePacket_clock_snapshot), 0);
}

/* ---- flushes and relays ---- */

Test(rules_e, R88_R92_which_emulated_producers_are_asked)
{
    static const struct {
        uint32_t scraping;
        bool clone;
        size_t asked;
    } rows[] = {{1, false, 1}, {2, false, 0}, {1, true, 0}};
    for (size_t i = 0; i < 3; i++) {
        const struct prod_opts o = {.name = "far",
                                    .uid = 1,
                                    .machine_id = 5,
                                    .scraping = rows[i].scraping,
                                    .emulated = true};
        struct prod *p = prod_new_opts(w, &o);
        struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
        prod_register(p, "ds", DS_NO_FLUSH);
        plain("ds");
        cons_enable(c, with(PBF_TraceConfig_trace_all_machines, 1));
        if (rows[i].clone)
            cr_expect(clone_of(k, prod_config(p, 0, PBF_DataSourceConfig_tracing_session_id)));
        else
            cons_flush_begin(c, 0, 0);
        cr_expect_eq(prod_count(p, MSG_PP_FLUSH), rows[i].asked, "row %zu", i);
        cons_bye(k);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(rules_e, R122_R233_one_packet_of_a_machine)
{
    static const uint8_t clocks[] = {0x12, 4, 0x08, 6, 0x10, 5};
    struct cons *c = cons_new(w, 1);
    service_relay_init(w->svc, 9, 1, bytes_view("\x30\x05", 2));
    for (uint64_t connection = 2; connection <= 3; connection++)
        service_relay_clock(w->svc, 9, connection, bytes_view(clocks, sizeof(clocks)));
    service_relay_clock(w->svc, 10, 4, bytes_view(clocks, sizeof(clocks)));
    cons_enable(c, plain(NULL));
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_remote_clock_sync), 2);
}

Test(rules_e, R107_R120_T74_extension_descriptors)
{
    static const struct service_descriptor blobs[] = {{(const uint8_t *)"raw", 3, false, "one"},
                                                      {(const uint8_t *)"zipped", 6, true, NULL}};
    w->svc->descriptors = blobs;
    w->svc->ndescriptors = 2;
    for (int off = 0; off < 2; off++) {
        struct cons *c = cons_new(w, 1);
        plain(NULL);
        builtin(PBF_TraceConfig_BuiltinDataSource_disable_extension_descriptors, (uint64_t)off);
        cons_enable(c, &w->cfg);
        cons_read(c);
        cr_expect_eq(cons_count(c, PBF_TracePacket_extension_descriptor), off ? 0 : 2);
        for (size_t i = 0; i < 2 && !off; i++) {
            const struct pkt *k = cons_pkt(c, PBF_TracePacket_extension_descriptor, i);
            struct bytes_view d = msg_part(k->p, k->n, PBF_TracePacket_extension_descriptor, 0);
            cr_expect_str_eq(msg_str(d.p, d.n, PBF_ExtensionDescriptor_extension_set),
                             i ? "" : "raw");
            cr_expect_str_eq(msg_str(d.p, d.n, PBF_ExtensionDescriptor_extension_set_gzip),
                             i ? "zipped" : "");
            cr_expect_str_eq(msg_str(d.p, d.n, PBF_ExtensionDescriptor_file_name), i ? "" : "one");
        }
        cons_read(c);
        cr_expect_eq(cons_count(c, PBF_TracePacket_extension_descriptor), 0, "once");
    }
}

/* ---- packets of producers ---- */

Test(rules_e, R123_R125_a_loss_before_a_refused_packet_is_told_by_the_next)
{
    static const uint8_t forged[] = {0x02, 0x18, 0x07}; /* trusted_uid */
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "one");
    cons_read(c);
    p->next_chunk[1]++; /* one is lost */
    prod_fill(p, 0, 1, p->next_chunk[1]++, 1, 0, forged, sizeof(forged), 3);
    const uint8_t move[] = {0x0A, 6, 0x08, 0, 0x10, 0, 0x18, (uint8_t)prod_target(p, 0)};
    cr_assert(prod_commit_raw(p, move, sizeof(move)));
    prod_put(p, 1, "two");
    prod_put(p, 1, "three");
    cons_read(c);
    cr_assert_eq(cons_texts(c), 2);
    for (size_t i = 0; i < 2; i++) {
        const struct pkt *k = cons_pkt(c, PBF_TracePacket_for_testing, i);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_previous_packet_dropped, 0) != 0, i == 0, "%zu", i);
    }
}

/* ---- what is kept until the next read ---- */

Test(rules_e, R96_each_flush_that_fails_has_its_list)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, plain("ds"));
    cons_flush_begin(c, 10, 0x12);
    cons_flush_begin(c, 10, 0x12);
    world_advance_ms(w, 10);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_last_flush_slow_data_sources), 2);
}

Test(rules_e, R135_at_most_4096_events_of_other_sessions)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    plain(NULL);
    builtin(PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events, 1);
    cons_enable(a, &w->cfg);
    for (int i = 0; i < 1366; i++) { /* three events each */
        cons_enable(b, plain(NULL));
        cons_ask(b, MSG_C_FREE);
    }
    cons_read(a);
    cr_assert_eq(cons_count(a, PBF_TracePacket_concurrent_session_event), 4096);
    const struct pkt *last = cons_pkt(a, PBF_TracePacket_concurrent_session_event, 4095);
    cr_expect_eq(pkt_sub(last, PBF_TracePacket_concurrent_session_event,
                         PBF_ConcurrentSessionEvent_session_id, 0),
                 1367, "later ones are dropped");
    cons_enable(b, plain(NULL));
    cons_read(a);
    cr_expect_eq(cons_count(a, PBF_TracePacket_concurrent_session_event), 2, "a read makes room");
}

Test(rules_e, R135_in_which_states_a_session_records)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    static const size_t events[] = {3, 3, 3, 0};
    prod_register(p, "ds", DS_NOTIFY_STOP);
    plain("ds");
    builtin(PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events, 1);
    cons_enable(a, with(PBF_TraceConfig_deferred_start, 1));
    for (int state = 0; state < 4; state++) {
        if (state == 1)
            cons_ask(a, MSG_C_START);
        if (state == 2)
            cons_ask(a, MSG_C_DISABLE);
        if (state == 3)
            prod_stopped(p, prod_instance(p, 0));
        cons_enable(b, plain(NULL));
        cons_ask(b, MSG_C_FREE);
        cons_read(a);
        cr_expect_eq(cons_count(a, PBF_TracePacket_concurrent_session_event), events[state],
                     "state %d", state);
    }
}

/* ---- files, triggers, consumers ---- */

Test(rules_e, R21_R37_the_first_drain_is_aligned)
{
    struct cons *c = cons_new(w, 1);
    int fd = open(world_path(w, "trace"), O_RDWR | O_CREAT, 0600);
    world_advance_ms(w, 300);
    plain(NULL);
    with(PBF_TraceConfig_write_into_file, 1);
    cons_enable_fd(c, with(PBF_TraceConfig_file_write_period_ms, 1000), dup(fd));
    world_advance_ms(w, 699);
    cr_expect_eq(lseek(fd, 0, SEEK_END), 0);
    world_advance_ms(w, 1);
    cr_expect_gt(lseek(fd, 0, SEEK_END), 0);
    close(fd);
}

Test(rules_e, R180_a_session_for_clones_ends_at_its_timeout)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_trigger_mode(&w->cfg, CLONE, 5000);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    cons_observe(c, 1);
    cons_enable(c, &w->cfg);
    bytesbuf_clear(&c->events);
    prod_trigger(p, "t");
    world_advance_ms(w, 4999);
    cr_expect_eq(c->events.n, 0, "who does not observe it is not told of a trigger");
    cr_expect_not(c->disabled);
    world_advance_ms(w, 1);
    cr_expect(c->disabled);
}

Test(rules_e, R196_a_newer_observer_closes_the_older_stream)
{
    struct cons *c = cons_new(w, 1);
    cons_observe(c, 1);
    c->reply_cookie = c->observe_cookie;
    c->replied = c->reply_ok = false;
    cons_observe(c, 2);
    cr_expect(c->replied && c->reply_ok);
    cr_expect_not(c->observe_done);
}

Test(rules_e, R209_which_session_a_bugreport_takes)
{
    struct cons *c[4], *k = cons_new(w, 0);
    static const uint32_t scores[] = {5, 9, 9, 20};
    for (uint32_t i = 0; i < 4; i++) {
        c[i] = cons_new(w, 0);
        plain(NULL);
        with(PBF_TraceConfig_trace_uuid_lsb, i + 1);
        with(PBF_TraceConfig_trace_uuid_msb, 1);
        cons_enable(c[i], with(PBF_TraceConfig_bugreport_score, scores[i]));
    }
    cons_ask(c[3], MSG_C_DISABLE);
    cr_assert(clone_of(k, UINT64_MAX));
    cr_expect_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_uuid_lsb, 0), 2,
                 "the highest that runs, of two equal ones the older");
}

Test(rules_e, R218_counters_of_a_clone)
{
    static const uint8_t forged[] = {0x02, 0x18, 0x07}; /* trusted_uid */
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_fill(p, 0, 1, p->next_chunk[1]++, 1, 0, forged, sizeof(forged), 3);
    const uint8_t move[] = {0x0A, 6, 0x08, 0, 0x10, 0, 0x18, (uint8_t)prod_target(p, 0)};
    cr_assert(prod_commit_raw(p, move, sizeof(move)));
    cons_read(c);
    cons_flush_begin(c, 0, 0);
    p->mute = true;
    for (int i = 0; i < 2; i++) {
        cons_flush_begin(c, 10, 0);
        world_advance_ms(w, 10);
    }
    p->mute = false;
    cr_assert(clone_of(k, 1)); /* two more, which succeed */
    cr_assert(cons_ask(k, MSG_C_STATS));
    struct bytes_view s =
        msg_part(k->reply.p, k->reply.n, PBF_GetTraceStatsResponse_trace_stats, 0);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_invalid_packets, 9), 1);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_flushes_requested, 9), 5);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_flushes_succeeded, 9), 3);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_flushes_failed, 9), 2);
}

/* ---- statistics (13) and the state (12.5) ---- */

static uint64_t stat_of(struct cons *c, uint32_t field)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view s =
        msg_part(c->reply.p, c->reply.n, PBF_GetTraceStatsResponse_trace_stats, 0);
    return msg_num(s.p, s.n, field, 99);
}

Test(rules_e, R225_what_the_statistics_count)
{
    struct prod *p = prod_new(w, "p", 1), *gone = prod_new(w, "gone", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1), *e = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(p, "ds", 0);
    prod_register(p, "other", 0);
    prod_register(gone, "ds", 0);
    cons_enable(c, plain("ds"));
    plain("ds");
    cfg_buffer(&w->cfg, 4);
    cons_enable(d, &w->cfg);
    cons_enable(e, plain(NULL));
    cons_ask(e, MSG_C_DISABLE);
    prod_unregister(p, "other");
    prod_bye(gone);
    static const struct {
        uint32_t field;
        uint64_t value;
    } want[] = {
        {PBF_TraceStats_producers_connected, 1},     {PBF_TraceStats_producers_seen, 2},
        {PBF_TraceStats_data_sources_registered, 2}, {PBF_TraceStats_data_sources_seen, 6},
        {PBF_TraceStats_tracing_sessions, 3},        {PBF_TraceStats_total_buffers, 4},
    };
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
        cr_expect_eq(stat_of(c, want[i].field), want[i].value, "field %u: %d", want[i].field,
                     (int)stat_of(c, want[i].field));
    cons_bye(e);
    cr_expect_eq(stat_of(c, PBF_TraceStats_tracing_sessions), 2);
    cr_expect_eq(stat_of(c, PBF_TraceStats_total_buffers), 3);
    cr_expect_eq(stat_of(c, PBF_TraceStats_data_sources_seen), 6, "seen is seen");
}

/* The only session in the state. */
static struct bytes_view only_session(struct cons *c)
{
    cr_assert(cons_query(c, true));
    struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_tracing_sessions), 1);
    return msg_part(s.p, s.n, PBF_TracingServiceState_tracing_sessions, 0);
}

Test(rules_e, R204_R205_fields_that_may_be_absent)
{
    static const uint32_t fields[] = {
        PBF_TracingServiceState_TracingSession_start_realtime_ns,
        PBF_TracingServiceState_TracingSession_bugreport_score,
        PBF_TracingServiceState_TracingSession_bugreport_filename,
    };
    struct cons *c = cons_new(w, 1);
    plain(NULL);
    cons_enable(c, with(PBF_TraceConfig_deferred_start, 1));
    struct bytes_view s = only_session(c);
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(msg_fields(s.p, s.n, fields[i]), 0, "field %u", fields[i]);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_TracingSession_unique_session_name),
                 1, "this one is there even if it is empty");
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_TracingSession_is_started, 9), 0);
    cons_ask(c, MSG_C_START);
    s = only_session(c);
    cr_expect_eq(msg_num(s.p, s.n, fields[0], 0), chrono_real_ns());
    cons_ask(c, MSG_C_FREE);
    plain(NULL);
    builtin(PBF_TraceConfig_BuiltinDataSource_disable_clock_snapshotting, 1);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_bugreport_filename, "a.b");
    cons_enable(c, with(PBF_TraceConfig_bugreport_score, 7));
    s = only_session(c);
    cr_expect_eq(msg_fields(s.p, s.n, fields[0]), 0, "without snapshots");
    cr_expect_eq(msg_num(s.p, s.n, fields[1], 0), 7);
    cr_expect_str_eq(msg_str(s.p, s.n, fields[2]), "a.b");
}

Test(rules_e, R138_the_statistics_packet_counts_from_the_next_on)
{
    static const uint8_t code[] = {0x0B, 1, 0, 0x0A, 100, 0}; /* all fields up to 100 */
    struct cons *c = cons_new(w, 1);
    uint64_t hash = 0xcbf29ce484222325u;
    plain(NULL);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_trace_filter);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_TraceFilter_bytecode);
    for (size_t i = 0; i < sizeof(code); i++) {
        bytesbuf_put_varint(&w->cfg, code[i]);
        for (int b = 0; b < 32; b += 8)
            hash = (hash ^ (b ? 0 : code[i])) * 0x100000001b3u;
    }
    bytesbuf_put_varint(&w->cfg, (uint32_t)hash);
    bytesbuf_pb_end(&w->cfg, k);
    bytesbuf_pb_end(&w->cfg, m);
    cr_assert(cons_enable(c, &w->cfg), "%s", c->error);
    cons_read(c);
    const struct pkt *stats = cons_pkt(c, PBF_TracePacket_trace_stats, 0);
    uint64_t sum = 0;
    for (size_t i = 0; i + 1 < c->npkts; i++)
        sum += c->pkts[i].n;
    for (int later = 0; later < 2; later++) {
        cr_assert(cons_ask(c, MSG_C_STATS));
        struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
        if (!later) /* those of the packet itself */
            s = msg_part(stats->p, stats->n, PBF_TracePacket_trace_stats, 0);
        struct bytes_view f = msg_part(s.p, s.n, PBF_TraceStats_filter_stats, 0);
        cr_expect_eq(msg_num(f.p, f.n, PBF_TraceStats_FilterStats_output_bytes, 0),
                     later ? sum + stats->n : sum);
        cr_expect_eq(msg_num(f.p, f.n, PBF_TraceStats_FilterStats_input_packets, 0),
                     later ? c->npkts : c->npkts - 1);
    }
}

Test(rules_e, R232_R234_connections_of_one_machine_are_told_apart)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    service_relay_init(w->svc, 9, 1, bytes_view("\x30\x05", 2));
    service_relay_init(w->svc, 9, 2, bytes_view("\x30\x06", 2));
    service_relay_init(w->svc, 9, 1, bytes_view("\x30\x07", 2)); /* the last one of each wins */
    struct cons *reader[] = {c, d};
    for (int i = 0; i < 2; i++) {
        cons_enable(reader[i], plain(NULL));
        cons_read(reader[i]);
        cr_assert_eq(cons_count(reader[i], PBF_TracePacket_system_info), 2);
        const struct pkt *k = cons_pkt(reader[i], PBF_TracePacket_system_info, 1);
        cr_expect_eq(pkt_sub(k, PBF_TracePacket_system_info, 6, 0), i ? 6 : 7);
        service_relay_gone(w->svc, 9, 1);
    }
}

/* ---- fields of a config ---- */

Test(rules_e, R39_which_policy_stops_when_full)
{
    static const uint32_t policies[] = {0, 1, 2, 3};
    char text[90];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (size_t i = 0; i < 4; i++) {
        struct prod *p = prod_new(w, "p", 1);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        cfg_begin(&w->cfg);
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 4);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_fill_policy, policies[i]);
        bytesbuf_pb_end(&w->cfg, m);
        cfg_source(&w->cfg, "ds", 0);
        cons_enable(c, &w->cfg);
        prod_put(p, 1, "first");
        for (int k = 0; k < 60; k++)
            prod_put(p, 1, text);
        prod_put(p, 1, "last");
        cons_read(c);
        cr_expect_eq(cons_has(c, "first"), policies[i] == 2, "policy %u", policies[i]);
        cr_expect_eq(cons_has(c, "last"), policies[i] != 2, "policy %u", policies[i]);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(rules_e, R153_a_legacy_codec_that_is_not_known_is_none)
{
    struct cons *c = cons_new(w, 1);
    plain(NULL);
    cons_enable(c, with(PBF_TraceConfig_compression_type, 2));
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_compressed_packets), 0);
    cr_expect_gt(cons_count(c, PBF_TracePacket_trace_uuid), 0);
}

Test(rules_e, V3_guardrails_shorten_the_wait_for_a_trigger)
{
    struct cons *c = cons_new(w, 1);
    for (int guarded = 0; guarded < 2; guarded++) {
        plain(NULL);
        cfg_trigger_mode(&w->cfg, START, 86400001);
        cr_expect_eq(
            cons_enable(c, with(PBF_TraceConfig_enable_extra_guardrails, (uint64_t)guarded)),
            !guarded);
        cons_ask(c, MSG_C_FREE);
    }
}

Test(rules_e, R11_a_lockdown_that_is_not_spoken_of_stays)
{
    struct cons *c = cons_new(w, 1);
    static const struct {
        uint32_t mode;
        bool let_in;
    } rows[] = {{2, false}, {0, false}, {9, false}, {1, true}, {0, true}};
    for (size_t i = 0; i < 5; i++) {
        plain(NULL);
        cons_enable(c, with(PBF_TraceConfig_lockdown_mode, rows[i].mode));
        cons_ask(c, MSG_C_FREE);
        struct prod *p = prod_new(w, "stranger", (uint32_t)geteuid() + 1);
        cr_expect_eq(p != NULL, rows[i].let_in, "row %zu", i);
    }
}

/* ---- more of clones and timers ---- */

Test(rules_e, R37_timers_of_a_session_that_stops)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP | DS_CLEARS);
    plain("ds");
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_incremental_state_config);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_IncrementalStateConfig_clear_period_ms, 100);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, with(PBF_TraceConfig_flush_period_ms, 100));
    world_advance_ms(w, 100);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 1);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 1);
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    world_advance_ms(w, 1000);
    cr_expect_not(c->disabled, "the ack is missing");
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 1);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_flush_started), 0);
}

Test(rules_e, R135_what_was_before_is_sorted_by_time)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 1), *c = cons_new(w, 1);
    cons_enable(a, plain(NULL));
    world_advance_ms(w, 1);
    cons_enable(b, plain(NULL));
    world_advance_ms(w, 1);
    cons_ask(a, MSG_C_DISABLE);
    world_advance_ms(w, 1);
    plain(NULL);
    builtin(PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events, 1);
    cons_enable(c, &w->cfg);
    cons_read(c);
    for (size_t i = 0; i < 2; i++)
        cr_expect_eq(pkt_sub(cons_pkt(c, PBF_TracePacket_concurrent_session_event, i),
                             PBF_TracePacket_concurrent_session_event,
                             PBF_ConcurrentSessionEvent_session_id, 0),
                     2 - i, "b started before a ended");
}

Test(rules_e, R182_R205_R218_what_a_clone_takes_along)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_trigger_mode(&w->cfg, START, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 0, 0, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "t");
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), 1);
    cr_assert(clone_of(k, 1));
    cons_read(k);
    cr_expect_eq(cons_count(k, PBF_TracePacket_trigger), 1, "though the source told of it already");
    cons_bye(k);
    cons_ask(c, MSG_C_FREE);
    uint64_t began = chrono_real_ns();
    cons_enable(d, plain(NULL));
    world_advance_ms(w, 500);
    k = cons_new(w, 1);
    cr_assert(clone_of(k, 3));
    cons_bye(d);
    struct bytes_view s = only_session(k);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_TracingSession_start_realtime_ns, 0),
                 began);
    cons_read(k);
    const struct pkt *first = cons_pkt(k, PBF_TracePacket_clock_snapshot, 0);
    struct bytes_view v = msg_part(first->p, first->n, PBF_TracePacket_clock_snapshot, 0);
    v = msg_part(v.p, v.n, PBF_ClockSnapshot_clocks, 3);
    cr_expect_eq(msg_num(v.p, v.n, PBF_ClockSnapshot_Clock_timestamp, 0), began);
}
