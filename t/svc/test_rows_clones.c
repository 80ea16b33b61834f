/* SPDX-License-Identifier: Apache-2.0 */
/* The catalogue of service.md section 18, row by row: triggers, consumers and clones, and what of
 * section 17 a peer can see. What a module's own test shows already bears its T or Q there. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "svc/service.h"
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

TestSuite(rows_clones, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

static struct bytesbuf *with(uint32_t field, uint64_t value)
{
    bytesbuf_pb_varint(&w->cfg, field, value);
    return &w->cfg;
}

static struct bytesbuf *triggered(uint32_t mode, const char *name, uint32_t delay)
{
    plain("ds");
    cfg_trigger_mode(&w->cfg, mode, 60000);
    cfg_trigger(&w->cfg, name, NULL, delay, 0, 0);
    return &w->cfg;
}

/* The names and delays of the trigger packets that were read: "a 10, b 20, ". */
static const char *triggers(const struct cons *c)
{
    static char out[512];
    const struct pkt *k;
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; (k = cons_pkt(c, PBF_TracePacket_trigger, i)) != NULL; i++) {
        struct bytes_view t = msg_part(k->p, k->n, PBF_TracePacket_trigger, 0);
        at += (size_t)snprintf(out + at, sizeof(out) - at, "%s %d, ",
                               msg_str(t.p, t.n, PBF_Trigger_trigger_name),
                               (int)msg_num(t.p, t.n, PBF_Trigger_stop_delay_ms, 0));
    }
    return out;
}

/* ---- 18.6 ---- */

Test(rows_clones, T105_T107_one_of_several_names_suffices)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, triggered(START, "go", 1000));
    prod_trigger(p, "x,y");
    cr_expect_eq(prod_count(p, MSG_PP_START), 0);
    prod_trigger(p, "x,go,y");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cons_read(c);
    cr_expect_str_eq(triggers(c), "go 1000, ", "T107: only those of the config");
}

Test(rows_clones, T108_T109_delays_and_later_reads)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    triggered(STOP, "first", 20000);
    cfg_trigger(&w->cfg, "second", NULL, 3, 0, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "first,second");
    cons_read(c);
    cr_expect_str_eq(triggers(c), "first 20000, second 3, ");
    prod_trigger(p, "second");
    cons_read(c);
    cr_expect_str_eq(triggers(c), "second 3, ", "T109: only the new one");
    world_advance_ms(w, 19999);
    cr_expect_not(c->disabled, "T108: the first one decides");
    world_advance_ms(w, 1);
    cr_expect(c->disabled);
}

Test(rows_clones, T110_T111_what_the_ring_holds)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    char text[90];
    prod_register(p, "ds", 0);
    cons_enable(c, triggered(STOP, "t", 1000));
    cons_enable(d, triggered(STOP, "other", 1000));
    prod_put(p, 1, "overwritten");
    prod_put_to(p, 2, prod_target(p, 1), "never seen");
    for (int i = 0; i < 700; i++) { /* the buffer has 64 KB */
        memset(text, 'x', sizeof(text) - 1);
        snprintf(text + 80, sizeof(text) - 80, "%d", i);
        prod_put(p, 1, text);
    }
    cr_expect_eq(cons_read(c), 0);
    prod_trigger(p, "t");
    prod_put(p, 1, "behind the trigger");
    world_advance_ms(w, 1000);
    cr_assert(c->disabled);
    cons_read(c);
    cr_expect(cons_has(c, text), "the last one before the trigger");
    cr_expect(cons_has(c, "behind the trigger"));
    cr_expect_not(cons_has(c, "overwritten"));
    cr_expect_gt(cons_texts(c), 400);
    cr_expect_eq(cons_read(d), 0, "T110: before the timeout");
    world_advance_ms(w, 60000);
    cr_expect(d->disabled);
    cr_expect_eq(cons_read(d), 0, "T110: and after it");
}

/* The number that a draw from this seed is, as R175 makes it. */
static double drawn(uint64_t seed)
{
    chrono_random_seed(seed);
    return (double)(chrono_random_u64() >> 11) * 0x1p-53;
}

Test(rows_clones, T115_draws_around_the_probability)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    double below = 0, above = 1;
    uint64_t low = 0, high = 0;
    for (uint64_t seed = 1; seed < 2000; seed++) {
        double r = drawn(seed);
        if (r < 0.15 && r > below)
            below = r, low = seed;
        if (r >= 0.15 && r < above)
            above = r, high = seed;
    }
    cr_assert(below > 0.14 && above < 0.16);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_trigger_mode(&w->cfg, START, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 1000, 0, 0.15);
    cons_enable(c, &w->cfg);
    chrono_random_seed(low);
    prod_trigger(p, "t");
    cr_expect_eq(prod_count(p, MSG_PP_START), 0, "%f is skipped", below);
    chrono_random_seed(high);
    prod_trigger(p, "t");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1, "%f is not", above);
    chrono_random_seed(0);
}

static void ask_clone(struct cons *k, uint64_t id, const char *trigger, uint64_t boot_ns)
{
    bytesbuf_clear(&req);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, id);
    if (trigger) {
        bytesbuf_pb_str(&req, PBF_CloneSessionRequest_clone_trigger_name, trigger);
        bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_clone_trigger_boot_time_ns, boot_ns);
    }
    cons_clone(k, &req, -1);
    cr_expect(k->replied &&
              msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_success, 0) == 1);
}

/* What the command line client does with clone_trigger_hit, by hand. */
Test(rows_clones, T116_T118_two_triggers_two_clones)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k1 = cons_new(w, 1), *k2 = cons_new(w, 1);
    struct cons *k[] = {k1, k2};
    prod_register(p, "ds", 0);
    triggered(CLONE, "slow", 1500);
    cfg_trigger(&w->cfg, "fast", NULL, 500, 0, 0);
    cons_observe(c, 4);
    cons_enable(c, &w->cfg);
    uint64_t slow_at = chrono_boot_ns();
    prod_trigger(p, "slow");
    world_advance_ms(w, 100);
    uint64_t fast_at = chrono_boot_ns();
    prod_trigger(p, "fast");
    for (unsigned i = 0; i < 2; i++) {
        world_advance_ms(w, i ? 899 : 499);
        cr_expect_eq(c->nevents, i);
        world_advance_ms(w, 1);
        cr_assert_eq(c->nevents, i + 1);
        struct bytes_view h =
            msg_part(c->events.p, c->events.n, PBF_ObservableEvents_clone_trigger_hit, i);
        cr_expect_str_eq(msg_str(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_trigger_name),
                         i ? "slow" : "fast");
        uint64_t at = msg_num(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_boot_time_ns, 0);
        cr_expect_eq(at, i ? slow_at : fast_at);
        ask_clone(k[i], 1, i ? "slow" : "fast", at);
        cons_read(k[i]);
        cr_expect_str_eq(triggers(k[i]), i ? "" : "slow 1500, fast 500, ");
        cr_assert_eq(cons_count(k[i], PBF_TracePacket_clone_snapshot_trigger), 1);
        cr_expect_eq(pkt_num(cons_pkt(k[i], PBF_TracePacket_clone_snapshot_trigger, 0),
                             PBF_TracePacket_timestamp, 0),
                     at);
    }
    cr_expect_eq(cons_read(c), 0, "the main session is never readable");
    cr_expect_not(c->disabled);
}

/* ---- 18.7 ---- */

static bool all_started(const struct cons *c)
{
    return msg_num(c->events.p, c->events.n, PBF_ObservableEvents_all_data_sources_started, 0);
}

Test(rows_clones, T123_T125_sources_that_do_not_ack_count_as_started)
{
    for (int acks = 0; acks < 2; acks++) {
        struct prod *p = prod_new(w, "p", 1);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "a", acks ? DS_NOTIFY_START : 0);
        prod_register(p, "b", 0);
        plain("a");
        cfg_source(&w->cfg, "b", 0);
        cons_observe(c, 2);
        cons_enable(c, &w->cfg);
        cr_expect_eq(all_started(c), !acks);
        cons_read(c);
        cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_started), !acks);
        if (acks) {
            prod_started(p, prod_instance(p, 0));
            cr_expect(all_started(c));
            cons_read(c);
            cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_started), 1,
                         "T123: and in the trace");
        }
        cons_bye(c);
        prod_bye(p);
    }
}

static void special_buffer(uint32_t flag)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 64);
    bytesbuf_pb_varint(&w->cfg, flag, 1);
    bytesbuf_pb_end(&w->cfg, m);
}

Test(rows_clones, T130_a_second_clone_without_new_data)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k1 = cons_new(w, 1), *k2 = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    special_buffer(PBF_TraceConfig_BufferConfig_transfer_on_clone);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "moved");
    ask_clone(k1, 1, NULL, 0);
    ask_clone(k2, 1, NULL, 0);
    cons_read(k1);
    cr_expect(cons_has(k1, "moved"));
    cons_read(k2);
    cr_expect_eq(cons_texts(k2), 0);
    prod_put(p, 1, "after");
    cons_read(c);
    cr_expect(cons_has(c, "after") && cons_texts(c) == 1, "the source goes on");
}

/* The time of the nth event of a kind; its value is checked. */
static uint64_t event_ms(const struct cons *c, uint32_t kind, size_t nth, uint64_t value)
{
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view e =
            msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_service_event, 0);
        if (msg_fields(e.p, e.n, kind) == 0 || nth-- > 0)
            continue;
        cr_expect_eq(msg_num(e.p, e.n, kind, 99), value);
        return (pkt_num(&c->pkts[i], PBF_TracePacket_timestamp, 0) - 1000 * CHRONO_SEC) / CHRONO_MS;
    }
    return UINT64_MAX;
}

Test(rows_clones, T135_T137_T138_times_of_a_clone)
{
    struct prod *p = prod_new(w, "fast", 1), *q = prod_new(w, "slow", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(q, "b", 0);
    p->mute = q->mute = true;
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    special_buffer(PBF_TraceConfig_BufferConfig_transfer_on_clone);
    cfg_source(&w->cfg, "a", 0);
    cfg_source(&w->cfg, "b", 1);
    cons_enable(c, &w->cfg);
    world_advance_ms(w, 5);
    bytesbuf_clear(&req);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, 1);
    cons_clone(k, &req, -1);
    world_advance_ms(w, 20);
    prod_ack_flush(p, prod_heard(p, MSG_PP_FLUSH, 0)->id);
    prod_put(p, 1, "too late");
    prod_put(q, 1, "in time");
    world_advance_ms(w, 300);
    prod_ack_flush(q, prod_heard(q, MSG_PP_FLUSH, 0)->id);
    cr_assert(k->replied);
    cons_read(k);
    cr_expect(cons_has(k, "in time") && !cons_has(k, "too late"), "T135");
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_clone_started), 1);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_tracing_disabled), 1);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_buffer_cloned), 2);
    cr_expect_eq(event_ms(k, PBF_TracingServiceEvent_clone_started, 0, 1), 5);
    cr_expect_eq(event_ms(k, PBF_TracingServiceEvent_tracing_disabled, 0, 1), 325,
                 "T137: the flush took 320 ms");
    cr_expect_eq(event_ms(k, PBF_TracingServiceEvent_buffer_cloned, 0, 0), 25, "T138: its group");
    cr_expect_eq(event_ms(k, PBF_TracingServiceEvent_buffer_cloned, 1, 1), 325);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_clone_started), 0, "not in the source");
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_buffer_cloned), 0);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_tracing_disabled), 0);
}

/* ---- clones into files ---- */

static uint8_t bytes[1 << 20];

static size_t file_read(int fd)
{
    ssize_t n = pread(fd, bytes, sizeof(bytes), 0);
    cr_assert(n >= 0);
    return (size_t)n;
}

static size_t file_count(size_t n, const char *text)
{
    size_t found = 0;
    for (uint8_t *at = bytes, *end = bytes + n; at < end; at++) {
        at = memmem(at, (size_t)(end - at), text, strlen(text));
        if (!at)
            break;
        found++;
    }
    return found;
}

static size_t file_events(size_t n, uint32_t kind)
{
    size_t found = 0, all = msg_fields(bytes, n, 1);
    for (size_t i = 0; i < all; i++) {
        struct bytes_view k = msg_part(bytes, n, 1, i);
        struct bytes_view e = msg_part(k.p, k.n, PBF_TracePacket_service_event, 0);
        found += msg_fields(e.p, e.n, kind);
    }
    return found;
}

Test(rows_clones, T94_T96_a_clone_before_the_first_drain)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    int src = open(world_path(w, "src"), O_RDWR | O_CREAT, 0600);
    int dst = open(world_path(w, "dst"), O_RDWR | O_CREAT, 0600);
    cr_assert(cons_enable_fd(c, with(PBF_TraceConfig_write_into_file, 1), dup(src)));
    prod_put(p, 1, "early");
    bytesbuf_clear(&req);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, 1);
    cons_clone(k, &req, dup(dst));
    world_advance_ms(w, 100);
    cr_assert(k->replied);
    cr_expect_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_success, 0), 1);
    cr_expect_eq(file_read(src), 0, "T94: the source's file stays empty");
    size_t n = file_read(dst);
    cr_expect_eq(file_count(n, "early"), 1);
    static const uint32_t once[] = {
        PBF_TracingServiceEvent_tracing_started, PBF_TracingServiceEvent_all_data_sources_started,
        PBF_TracingServiceEvent_clone_started, PBF_TracingServiceEvent_flush_started,
        PBF_TracingServiceEvent_buffer_cloned};
    for (size_t i = 0; i < sizeof(once) / sizeof(once[0]); i++)
        cr_expect_eq(file_events(n, once[i]), 1, "T96: event %u", once[i]);
    size_t configs = 0, all = msg_fields(bytes, n, 1);
    for (size_t i = 0; i < all; i++) {
        struct bytes_view one = msg_part(bytes, n, 1, i);
        configs += msg_fields(one.p, one.n, PBF_TracePacket_trace_config);
    }
    cr_expect_eq(configs, 1);
    struct bytes_view last = msg_part(bytes, n, 1, all - 1);
    struct bytes_view s = msg_part(last.p, last.n, PBF_TracePacket_trace_stats, 0);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_final_flush_outcome, 0), 1, "T96: SUCCEEDED");
    cons_read(k);
    cr_expect_eq(k->npkts, 1, "T94: one event");
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_read_tracing_buffers_completed), 1);
    prod_put(p, 1, "later");
    cons_ask(c, MSG_C_DISABLE);
    n = file_read(src);
    cr_expect_eq(file_count(n, "early"), 1, "T95: the source is complete, nothing is there twice");
    cr_expect_eq(file_count(n, "later"), 1);
    close(src);
    close(dst);
}

/* ---- relays ---- */

Test(rows_clones, T140_clock_pairs_in_order)
{
    struct cons *c = cons_new(w, 1);
    uint64_t host[2];
    for (uint32_t i = 0; i < 2; i++) {
        bytesbuf_clear(&req);
        bytesbuf_pb_varint(&req, PBF_SyncClockRequest_phase, i + 1);
        for (uint32_t clock = 6; clock <= 7; clock++) {
            size_t m = bytesbuf_pb_begin(&req, PBF_SyncClockRequest_clocks);
            bytesbuf_pb_varint(&req, PBF_SyncClockRequest_Clock_clock_id, clock);
            bytesbuf_pb_varint(&req, PBF_SyncClockRequest_Clock_timestamp, 1000 * i + clock);
            bytesbuf_pb_end(&req, m);
        }
        host[i] = chrono_boot_ns();
        cr_assert_eq(service_relay_clock(w->svc, 9, 1, bytesbuf_view(&req)), 0);
        world_advance_ms(w, 10);
    }
    cons_enable(c, plain(NULL));
    cons_read(c);
    cr_assert_eq(cons_count(c, PBF_TracePacket_remote_clock_sync), 1);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_remote_clock_sync, 0);
    cr_expect_eq(pkt_num(k, PBF_TracePacket_machine_id, 0), 9);
    struct bytes_view s = msg_part(k->p, k->n, PBF_TracePacket_remote_clock_sync, 0);
    cr_assert_eq(msg_fields(s.p, s.n, PBF_RemoteClockSync_synced_clocks), 2);
    for (size_t i = 0; i < 2; i++) {
        struct bytes_view pair = msg_part(s.p, s.n, PBF_RemoteClockSync_synced_clocks, i);
        struct bytes_view v =
            msg_part(pair.p, pair.n, PBF_RemoteClockSync_SyncedClocks_client_clocks, 0);
        cr_assert_eq(msg_fields(v.p, v.n, PBF_ClockSnapshot_clocks), 2);
        for (size_t clock = 0; clock < 2; clock++) {
            struct bytes_view one = msg_part(v.p, v.n, PBF_ClockSnapshot_clocks, clock);
            cr_expect_eq(msg_num(one.p, one.n, PBF_ClockSnapshot_Clock_timestamp, 0),
                         1000 * i + 6 + clock);
        }
        v = msg_part(pair.p, pair.n, PBF_RemoteClockSync_SyncedClocks_host_clocks, 0);
        cr_expect_geq(msg_fields(v.p, v.n, PBF_ClockSnapshot_clocks), 6);
        v = msg_part(v.p, v.n, PBF_ClockSnapshot_clocks, 0);
        cr_expect_eq(msg_num(v.p, v.n, PBF_ClockSnapshot_Clock_timestamp, 0), host[i]);
    }
}

Test(rows_clones, R233_the_most_recent_pairs)
{
    struct cons *c = cons_new(w, 1);
    uint64_t host[7];
    for (uint32_t i = 0; i < 7; i++) {
        host[i] = chrono_boot_ns();
        cr_assert_eq(service_relay_clock(w->svc, 9, 1, bytes_view(NULL, 0)), 0);
        world_advance_ms(w, 10);
    }
    cons_enable(c, plain(NULL));
    cons_read(c);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_remote_clock_sync, 0);
    struct bytes_view s = msg_part(k->p, k->n, PBF_TracePacket_remote_clock_sync, 0);
    cr_assert_eq(msg_fields(s.p, s.n, PBF_RemoteClockSync_synced_clocks), 5);
    for (size_t i = 0; i < 5; i++) {
        struct bytes_view v = msg_part(s.p, s.n, PBF_RemoteClockSync_synced_clocks, i);
        v = msg_part(v.p, v.n, PBF_RemoteClockSync_SyncedClocks_host_clocks, 0);
        v = msg_part(v.p, v.n, PBF_ClockSnapshot_clocks, 0);
        cr_expect_eq(msg_num(v.p, v.n, PBF_ClockSnapshot_Clock_timestamp, 0), host[i + 2]);
    }
}

/* ---- 17 ---- */

Test(rows_clones, Q6_which_clock_a_delay_is_measured_by)
{
    static const struct {
        uint32_t mode;
        bool suspend_counts;
    } rows[] = {{START, true}, {STOP, false}};
    for (size_t i = 0; i < 2; i++) {
        struct prod *p = prod_new(w, "p", 1);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        triggered(rows[i].mode, "t", 1000);
        cons_enable(c, with(PBF_TraceConfig_prefer_suspend_clock_for_duration, 1));
        prod_trigger(p, "t");
        chrono_virtual_suspend(5 * CHRONO_SEC);
        world_advance_ms(w, 1);
        cr_expect_eq(c->disabled, rows[i].suspend_counts, "mode %u", rows[i].mode);
        world_advance_ms(w, 1000);
        cr_expect(c->disabled);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(rows_clones, Q10_observing_a_session_without_instances)
{
    struct cons *c = cons_new(w, 1);
    plain("nobody");
    cons_enable(c, with(PBF_TraceConfig_deferred_start, 1));
    cons_observe(c, 2);
    cr_expect(all_started(c), "before the start");
    bytesbuf_clear(&c->events);
    cons_ask(c, MSG_C_START);
    cr_expect_not(all_started(c), "R28: once");
}

Test(rows_clones, Q15_clearing_before_a_clone_of_a_clone)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k1 = cons_new(w, 1), *k2 = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cfg_begin(&w->cfg);
    special_buffer(PBF_TraceConfig_BufferConfig_clear_before_clone);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    bytesbuf_clear(&req);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, 1);
    cons_clone(k1, &req, -1);
    prod_put(p, 1, "during the flush");
    prod_ack_flush(p, UINT64_MAX);
    cr_assert(k1->replied);
    ask_clone(k2, 2, NULL, 0);
    cons_read(k2);
    cr_expect_eq(cons_texts(k2), 0);
    cons_read(k1);
    cr_expect_eq(cons_texts(k1), 0, "the first clone, too");
}

Test(rows_clones, Q18_no_triggers_without_the_config)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    triggered(START, "t", 1000);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_disable_trace_config, 1);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "t");
    cr_expect_gt(cons_read(c), 0);
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), 0);
    ask_clone(k, 1, "t", 1);
    cons_read(k);
    cr_expect_eq(cons_count(k, PBF_TracePacket_clone_snapshot_trigger), 0);
    cr_expect_eq(cons_count(k, PBF_TracePacket_trace_config), 0);
}
