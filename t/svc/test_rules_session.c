/* SPDX-License-Identifier: Apache-2.0 */
/* The session state machine of service.md 1.2 as a peer can drive it: every thing that may happen,
 * in every state, whether the table has an edge for it or not. test_session.c has the same machine
 * as a function of two states. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "protos/fieldnum.h"
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

TestSuite(rules_session, .init = setup, .fini = teardown);

/* The state of a session as QueryServiceState tells it; "gone" when it is not listed. */
static const char *state_of(struct cons *c, uint64_t id)
{
    cr_assert(cons_query(c, true));
    struct bytes_view all =
        msg_part(c->reply.p, c->reply.n, PBF_QueryServiceStateResponse_service_state, 0);
    size_t n = msg_fields(all.p, all.n, PBF_TracingServiceState_tracing_sessions);
    for (size_t i = 0; i < n; i++) {
        struct bytes_view s = msg_part(all.p, all.n, PBF_TracingServiceState_tracing_sessions, i);
        if (msg_num(s.p, s.n, PBF_TracingServiceState_TracingSession_id, 0) == id)
            return msg_str(s.p, s.n, PBF_TracingServiceState_TracingSession_state);
    }
    return "gone";
}

static void clone_of(struct cons *k, uint64_t id)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_session_id, id);
    cons_clone(k, &b, -1);
    bytesbuf_fini(&b);
}

/* ---- everything that may happen, in every state ---- */

enum state { CONFIGURED, STARTED, STOP_WAIT, DISABLED, CLONED, STATES };
static const char *const names[] = {"CONFIGURED", "STARTED", "STOP_WAIT", "DISABLED",
                                    "CLONED_READ_ONLY"};

/* The session under test, its owner, its producer, and others. */
static struct {
    struct prod *p;
    struct cons *owner, *watcher;
    uint64_t id;
} on;

/* A session of a source that acks both start and stop; it waits for a trigger. */
static void bring_to(enum state st)
{
    on.p = prod_new(w, "p", 1);
    on.owner = cons_new(w, 1);
    on.watcher = cons_new(w, 0);
    on.id = 1;
    prod_register(on.p, "ds", DS_NOTIFY_START | DS_NOTIFY_STOP);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cfg_trigger_mode(&w->cfg, 1, 9000);
    cfg_trigger(&w->cfg, "go", NULL, 60000, 0, 0);
    cr_assert(cons_enable(on.owner, &w->cfg));
    if (st != CONFIGURED)
        cons_ask(on.owner, MSG_C_START);
    if (st == STOP_WAIT || st == DISABLED)
        cons_ask(on.owner, MSG_C_DISABLE);
    if (st == DISABLED)
        prod_stopped(on.p, prod_instance(on.p, 0));
    if (st == CLONED) {
        on.owner = cons_new(w, 1);
        on.id = 2;
        clone_of(on.owner, 1);
    }
    cr_assert_str_eq(state_of(on.watcher, on.id), names[st]);
}

static void do_start(void)
{
    cr_expect(cons_ask(on.owner, MSG_C_START), "StartTracing succeeds in any state (R7)");
}

static void do_disable(void)
{
    cr_expect(cons_ask(on.owner, MSG_C_DISABLE));
}

static void do_trigger(void)
{
    prod_trigger(on.p, "go");
}

static void wrong_trigger(void)
{
    prod_trigger(on.p, "stay");
}

static void start_ack(void)
{
    prod_started(on.p, prod_instance(on.p, 0));
}

static void stop_ack(void)
{
    prod_stopped(on.p, prod_instance(on.p, 0));
}

static void unregister(void)
{
    prod_unregister(on.p, "ds");
}

static void lose_producer(void)
{
    prod_bye(on.p);
}

static void four_seconds(void)
{
    world_advance_ms(w, 4000);
}

static void ten_seconds(void)
{
    world_advance_ms(w, 10000);
}

static void do_read(void)
{
    cons_read(on.owner);
    cr_expect(on.owner->read_done, "R8: legal in every state");
}

static void do_flush(void)
{
    cons_flush_begin(on.owner, 0, 0);
    cr_expect(on.owner->replied);
}

static void do_clone(void)
{
    clone_of(cons_new(w, 1), on.id);
}

static void second_enable(void)
{
    cr_expect_not(cons_enable(on.owner, &w->cfg), "V1");
}

static void free_buffers(void)
{
    cons_ask(on.owner, MSG_C_FREE);
    cons_read(on.owner);
    cr_expect_eq(on.owner->npkts, 0);
}

static void do_disconnect(void)
{
    cons_bye(on.owner);
}

static void do_exclusive(void)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 4);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_exclusive_prio, 1);
    cr_expect(cons_enable(cons_new(w, 7), &w->cfg));
}

#define IS_CLONE "CLONED_READ_ONLY"
#define GONE                                                                                       \
    {                                                                                              \
        "gone", "gone", "gone", "gone", "gone"                                                     \
    }
#define STAYS                                                                                      \
    {                                                                                              \
        "CONFIGURED", "STARTED", "STOP_WAIT", "DISABLED", "CLONED_READ_ONLY"                       \
    }

static const struct {
    const char *name; /* with the edge that it takes, where it takes one */
    void (*act)(void);
    const char *after[STATES];
} events[] = {
    {"L3 start", do_start, {"STARTED", "STARTED", "STOP_WAIT", "DISABLED", IS_CLONE}},
    {"L4 trigger", do_trigger, {"STARTED", "STARTED", "STOP_WAIT", "DISABLED", IS_CLONE}},
    {"another trigger", wrong_trigger, STAYS},
    {"L5 L7 disable", do_disable, {"DISABLED", "STOP_WAIT", "STOP_WAIT", "DISABLED", IS_CLONE}},
    {"start ack", start_ack, STAYS},
    {"L8 stop ack", stop_ack, {"CONFIGURED", "STARTED", "DISABLED", "DISABLED", IS_CLONE}},
    {"L8 unregister", unregister, {"CONFIGURED", "STARTED", "DISABLED", "DISABLED", IS_CLONE}},
    {"R52 producer gone",
     lose_producer,
     {"CONFIGURED", "STARTED", "DISABLED", "DISABLED", IS_CLONE}},
    {"4 s", four_seconds, STAYS},
    {"L5 L8 10 s", ten_seconds, {"DISABLED", "STARTED", "DISABLED", "DISABLED", IS_CLONE}},
    {"read", do_read, STAYS},
    {"flush", do_flush, STAYS},
    {"clone", do_clone, STAYS},
    {"second enable", second_enable, STAYS},
    {"L10 free", free_buffers, GONE},
    {"L10 disconnect", do_disconnect, GONE},
    {"L10 exclusive", do_exclusive, GONE},
};

Test(rules_session, L1_to_L10_every_event_in_every_state)
{
    for (size_t e = 0; e < sizeof(events) / sizeof(events[0]); e++) {
        for (int st = 0; st < STATES; st++) {
            bring_to((enum state)st);
            events[e].act();
            cr_expect_str_eq(state_of(on.watcher, on.id), events[e].after[st], "%s in %s",
                             events[e].name, names[st]);
            world_free(w);
            w = world_new();
        }
    }
}

Test(rules_session, L1_L2_L6_without_acks)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *watcher = cons_new(w, 0);
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    cr_expect_str_eq(state_of(watcher, 1), "STARTED", "L2: in the same call");
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_str_eq(state_of(watcher, 1), "DISABLED", "L6");
    cons_ask(c, MSG_C_FREE);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, &w->cfg);
    cr_expect_str_eq(state_of(watcher, 2), "CONFIGURED", "L1");
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 2);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
}

Test(rules_session, L8_one_of_two_instances_is_unregistered)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *watcher = cons_new(w, 0);
    prod_register(p, "a", DS_NOTIFY_STOP);
    prod_register(p, "b", DS_NOTIFY_STOP);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "a", 0);
    cfg_source(&w->cfg, "b", 0);
    cons_enable(c, &w->cfg);
    cons_ask(c, MSG_C_DISABLE);
    prod_unregister(p, "a");
    cr_expect_str_eq(state_of(watcher, 1), "STOP_WAIT", "b is still awaited");
    prod_unregister(p, "b");
    cr_expect_str_eq(state_of(watcher, 1), "DISABLED");
    cr_expect(c->disabled);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 2, "R64: they were stopping already");
}

/* ---- instances (1.5) ---- */

static size_t all_started(struct cons *c)
{
    world_settle(w);
    return msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_all_data_sources_started);
}

Test(rules_session, R25_which_start_acks_count)
{
    struct prod *p = prod_new(w, "p", 1), *other = prod_new(w, "other", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START | DS_NOTIFY_STOP);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_observe(c, 3);
    cons_enable(c, &w->cfg);
    prod_started(p, prod_instance(p, 0));
    cr_expect_eq(all_started(c), 0);
    cons_ask(c, MSG_C_START);
    cr_expect_eq(all_started(c), 0, "an ack before the start does not count");
    prod_started(other, prod_instance(p, 0));
    prod_started(p, prod_instance(p, 0) + 1);
    cr_expect_eq(all_started(c), 0, "nor one of another producer or for another instance");
    prod_started(p, prod_instance(p, 0));
    cr_expect_eq(all_started(c), 1);
    cons_ask(c, MSG_C_FREE);

    cons_enable(c, &w->cfg);
    cons_ask(c, MSG_C_START);
    cons_ask(c, MSG_C_DISABLE);
    bytesbuf_clear(&c->events);
    prod_started(p, prod_instance(p, 1));
    cr_expect_eq(all_started(c), 0, "nor one while it is stopped");
    cr_expect_eq(msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes),
                 0);
    prod_stopped(p, prod_instance(p, 1));
    cr_expect(c->disabled);
}

Test(rules_session, R26_which_stop_acks_count)
{
    struct prod *p = prod_new(w, "p", 1), *other = prod_new(w, "other", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    prod_stopped(p, prod_instance(p, 0));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(c->disabled, "an ack before the stop does not count");
    prod_stopped(other, prod_instance(p, 0));
    prod_stopped(p, prod_instance(p, 0) + 1);
    cr_expect_not(c->disabled, "nor one of another producer or for another instance");
    prod_stopped(p, prod_instance(p, 0));
    cr_expect(c->disabled);
    prod_stopped(p, prod_instance(p, 0));
    cons_ask(c, MSG_C_FREE);
    prod_stopped(p, prod_instance(p, 0));
    cr_expect(prod_sync(p), "late ones are harmless");
}

/* ---- start and stop (1.4, 1.6) ---- */

/* The producers whose instances entered a state, in that order: "p q ". */
static const char *who_entered(struct cons *c, uint64_t state)
{
    static char text[256];
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0;
         i < msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes);
         i++) {
        struct bytes_view e =
            msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, i);
        if (msg_num(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0) == state)
            n += (size_t)snprintf(
                text + n, sizeof(text) - n, "%s:%s ",
                msg_str(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_producer_name),
                msg_str(e.p, e.n,
                        PBF_ObservableEvents_DataSourceInstanceStateChange_data_source_name));
    }
    return text;
}

Test(rules_session, R21_R31_order_of_starts_and_stops)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(q, "b", 0);
    prod_register(p, "b", 0);
    prod_register(p, "a", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "b", 0);
    cfg_source(&w->cfg, "a", 0);
    cons_observe(c, 1);
    cons_enable(c, &w->cfg);
    world_settle(w);
    cr_expect_str_eq(who_entered(c, 2), "p:b p:a q:b ",
                     "by ascending ProducerID, then in setup order");
    cr_expect_lt(prod_instance(q, 0), prod_instance(p, 0), "which is another order");
    bytesbuf_clear(&c->events);
    cons_ask(c, MSG_C_DISABLE);
    world_settle(w);
    cr_expect_str_eq(who_entered(c, 1), "p:b p:a q:b ", "R31: stopped in the same order");
}

static void put_nested(uint32_t outer, uint32_t field, uint64_t v)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, outer);
    bytesbuf_pb_varint(&w->cfg, field, v);
    bytesbuf_pb_end(&w->cfg, m);
}

Test(rules_session, R21_periods_begin_aligned_and_not_at_the_start)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_CLEARS);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_flush_period_ms, 1000);
    put_nested(PBF_TraceConfig_incremental_state_config,
               PBF_TraceConfig_IncrementalStateConfig_clear_period_ms, 500);
    put_nested(PBF_TraceConfig_builtin_data_sources,
               PBF_TraceConfig_BuiltinDataSource_snapshot_interval_ms, 400);
    world_advance_ms(w, 250); /* the clock stood at a whole second */
    cons_enable(c, &w->cfg);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_tracing_started), 1);
    cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 1, "the first at once");
    cr_expect_eq(cons_count(c, PBF_TracePacket_trace_stats), 1);
    cr_expect_geq(cons_count(c, PBF_TracePacket_clock_snapshot), 1);
    world_advance_ms(w, 149);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 0);
    world_advance_ms(w, 1);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 1, "at 400 ms");
    cr_expect_eq(cons_count(c, PBF_TracePacket_trace_stats), 1);
    world_advance_ms(w, 99);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 0);
    world_advance_ms(w, 1);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 1, "at 500 ms");
    world_advance_ms(w, 499);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 0);
    world_advance_ms(w, 1);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 1, "at 1000 ms");
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 2);
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    world_advance_ms(w, 5000);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 0,
                 "R31: the snapshot timer stops with the session");
}

Test(rules_session, R21_no_snapshot_when_it_is_turned_off)
{
    struct cons *c = cons_new(w, 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    put_nested(PBF_TraceConfig_builtin_data_sources,
               PBF_TraceConfig_BuiltinDataSource_disable_clock_snapshotting, 1);
    cons_enable(c, &w->cfg);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 0);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_tracing_started), 1);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_started), 1, "step 10");
}

Test(rules_session, R21_slow_start_is_checked_for_an_attached_consumer_only)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    cr_expect(cons_ask_body(c, MSG_C_DETACH, "k", 1));
    world_advance_ms(w, 20000);
    cr_expect(cons_ask_body(c, MSG_C_ATTACH, "k", 1));
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_slow_starting_data_sources), 0);
}

static uint64_t final_flush(struct cons *c)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
    return msg_num(s.p, s.n, PBF_TraceStats_final_flush_outcome, 0);
}

static struct bytesbuf *timed(uint32_t ms, uint32_t flush_timeout_ms)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_duration_ms, ms);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_flush_timeout_ms, flush_timeout_ms);
    return &w->cfg;
}

Test(rules_session, R29_flush_and_disable_of_an_attached_session)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *watcher = cons_new(w, 0);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, timed(100, 300));
    cr_expect_eq(final_flush(c), 0, "none yet");
    world_advance_ms(w, 100);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 1);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->flags, 0x12);
    cr_expect_str_eq(state_of(watcher, 1), "STOP_WAIT", "the stop is graceful");
    prod_stopped(p, prod_instance(p, 0));
    cr_expect(c->disabled);
    cr_expect_eq(final_flush(c), 1, "SUCCEEDED");
    cons_ask(c, MSG_C_FREE);

    p->mute = true;
    cons_enable(c, timed(100, 300));
    world_advance_ms(w, 399);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1, "the flush goes first");
    world_advance_ms(w, 1);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 2, "after the session's flush timeout");
    prod_stopped(p, prod_instance(p, 1));
    cr_expect(c->disabled);
    cr_expect_str_eq(c->error, "");
    cr_expect_eq(final_flush(c), 2, "FAILED");
}

Test(rules_session, R29_L10_flush_and_disable_of_a_detached_session)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *watcher = cons_new(w, 0);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, timed(100, 300));
    cons_ask_body(c, MSG_C_DETACH, "k", 1);
    p->mute = true;
    world_advance_ms(w, 100);
    cr_expect_str_eq(state_of(watcher, 1), "STARTED", "while the flush is pending");
    prod_ack_flush(p, prod_heard(p, MSG_PP_FLUSH, 0)->id);
    cr_expect_str_eq(state_of(watcher, 1), "gone", "nobody is left to ask for acks or buffers");
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
}

Test(rules_session, R31_stop_timeout_is_the_configured_one)
{
    static const struct {
        uint32_t configured, waits;
    } rows[] = {{0, 5000}, {1, 1}, {7000, 7000}};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    for (size_t i = 0; i < 3; i++) {
        cfg_begin(&w->cfg);
        cfg_buffer(&w->cfg, 64);
        cfg_source(&w->cfg, "ds", 0);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_data_source_stop_timeout_ms,
                           rows[i].configured);
        cons_enable(c, &w->cfg);
        cons_ask(c, MSG_C_DISABLE);
        world_advance_ms(w, rows[i].waits - 1);
        cr_expect_not(c->disabled, "%u", rows[i].configured);
        world_advance_ms(w, 1);
        cr_expect(c->disabled, "%u", rows[i].configured);
        cons_ask(c, MSG_C_FREE);
    }
}

Test(rules_session, R27_a_source_that_is_stopped_before_it_has_started)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START | DS_NOTIFY_STOP);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    prod_started(p, prod_instance(p, 0));
    cr_expect_not(c->disabled, "it owes the ack of the stop");
    prod_stopped(p, prod_instance(p, 0));
    cr_expect(c->disabled, "and no other");
}

Test(rules_session, R37_equal_periods_of_sessions_coincide)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c[3];
    prod_register(p, "ds", DS_CLEARS);
    for (int i = 0; i < 3; i++) {
        c[i] = cons_new(w, 1);
        cfg_begin(&w->cfg);
        cfg_buffer(&w->cfg, 4);
        cfg_source(&w->cfg, "ds", 0);
        put_nested(PBF_TraceConfig_incremental_state_config,
                   PBF_TraceConfig_IncrementalStateConfig_clear_period_ms, 100);
        cons_enable(c[i], &w->cfg);
        world_advance_ms(w, 33); /* 99 in all: none is due */
    }
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 0);
    world_advance_ms(w, 1);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 3, "all at once");
    cons_ask(c[1], MSG_C_DISABLE);
    cons_ask(c[2], MSG_C_FREE);
    world_advance_ms(w, 99);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 3);
    world_advance_ms(w, 1);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 4, "the others do not run any more");
}
