/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session: the life of a session, service.md section 1 and the catalogue T1 to T30. */
#include <criterion/criterion.h>

#include <string.h>

#include "protos/fieldnum.h"
#include "svc/session.h"
#include "svc/dsinst.h"
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

TestSuite(session, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

static struct bytesbuf *with(struct bytesbuf *b, uint32_t field, uint64_t v)
{
    bytesbuf_pb_varint(b, field, v);
    return b;
}

/* The state of the first session as QueryServiceState tells it. */
static const char *state(struct cons *c)
{
    cr_assert(cons_query(c, true));
    struct bytes_view all =
        msg_part(c->reply.p, c->reply.n, PBF_QueryServiceStateResponse_service_state, 0);
    struct bytes_view s = msg_part(all.p, all.n, PBF_TracingServiceState_tracing_sessions, 0);
    return msg_str(s.p, s.n, PBF_TracingServiceState_TracingSession_state);
}

Test(session, every_edge_of_the_state_machine)
{
    static const char *const legal[] = {"DISABLED CONFIGURED", "DISABLED CLONED_READ_ONLY",
                                        "CONFIGURED STARTED",  "CONFIGURED DISABLED",
                                        "STARTED STOP_WAIT",   "STARTED DISABLED",
                                        "STOP_WAIT DISABLED",  "CLONED_READ_ONLY DISABLED"};
    for (int from = 0; from < SESSION_STATES; from++) {
        for (int to = 0; to < SESSION_STATES; to++) {
            char edge[64];
            bool want = false;
            snprintf(edge, sizeof(edge), "%s %s", session_state_name((enum session_state)from),
                     session_state_name((enum session_state)to));
            for (size_t i = 0; i < sizeof(legal) / sizeof(legal[0]); i++)
                want |= strcmp(edge, legal[i]) == 0;
            cr_expect_eq(session_may_enter((enum session_state)from, (enum session_state)to), want,
                         "%s", edge);
        }
    }
    cr_expect_str_eq(session_state_name(SESSION_STATES), "?");
    cr_expect_not(session_may_enter(SESSION_STATES, SESSION_DISABLED));
}

Test(session, every_edge_of_an_instance)
{
    static const char *const legal[] = {
        "CONFIGURED STARTING", "CONFIGURED STARTED", "CONFIGURED STOPPING", "CONFIGURED STOPPED",
        "STARTING STARTED",    "STARTING STOPPING",  "STARTING STOPPED",    "STARTED STOPPING",
        "STARTED STOPPED",     "STOPPING STOPPED"};
    for (int from = 0; from < DSINST_STATES; from++) {
        for (int to = 0; to < DSINST_STATES; to++) {
            char edge[64];
            bool want = false;
            snprintf(edge, sizeof(edge), "%s %s", dsinst_state_name((enum dsinst_state)from),
                     dsinst_state_name((enum dsinst_state)to));
            for (size_t i = 0; i < sizeof(legal) / sizeof(legal[0]); i++)
                want |= strcmp(edge, legal[i]) == 0;
            cr_expect_eq(dsinst_may_enter((enum dsinst_state)from, (enum dsinst_state)to), want,
                         "%s", edge);
        }
    }
}

Test(session, R1_buffers_of_the_first_config_get_ids_from_1)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 8);
    cfg_buffer(&w->cfg, 8);
    cfg_source(&w->cfg, "ds", 1);
    cfg_source(&w->cfg, "ds", 0);
    cr_assert(cons_enable(c, &w->cfg));
    cr_expect_eq(prod_target(p, 0), 2);
    cr_expect_eq(prod_target(p, 1), 1);
}

Test(session, R7_T3_enable_and_disable)
{
    struct prod *p = prod_new(w, "mock_producer", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cr_assert(cons_enable(c, plain("ds")));
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cr_expect(cons_ask(c, MSG_C_START), "StartTracing in any state succeeds (R7)");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cr_expect_str_eq(state(c), "STARTED");
    cr_expect(cons_ask(c, MSG_C_DISABLE));
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    cr_expect(c->disabled);
    cr_expect_str_eq(c->error, "", "a normal stop has no error (R14)");
    cr_expect_str_eq(state(c), "DISABLED");
    cr_expect(cons_ask(c, MSG_C_DISABLE), "a second stop is a no-op");
}

Test(session, R5_R6_order_of_commands)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    cons_ask(c, MSG_C_DISABLE);
    static const enum msg_kind want[] = {MSG_PP_REPLY, MSG_PP_SETUP_TRACING, MSG_PP_SETUP,
                                         MSG_PP_START, MSG_PP_STOP};
    cr_assert_eq(p->nheard, 5);
    for (size_t i = 0; i < 5; i++)
        cr_expect_eq(p->heard[i].kind, want[i], "command %zu", i);
    const struct heard *a = prod_heard(p, MSG_PP_SETUP, 0), *b = prod_heard(p, MSG_PP_START, 0);
    cr_expect_eq(a->id, b->id);
    cr_assert_eq(a->config_len, b->config_len);
    cr_expect_eq(memcmp(a->config, b->config, a->config_len), 0, "R6: same config");
}

Test(session, R5_never_started_instances_are_stopped_too)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, with(plain("ds"), PBF_TraceConfig_deferred_start, 1));
    cr_expect_str_eq(state(c), "CONFIGURED");
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_eq(prod_count(p, MSG_PP_START), 0);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    cr_expect(c->disabled, "L5: no ack is awaited from CONFIGURED");
}

Test(session, T4_T53_deferred_start_and_duration)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    with(plain("ds"), PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, with(&w->cfg, PBF_TraceConfig_duration_ms, 1000));
    world_advance_ms(w, 5000);
    cr_expect_eq(prod_count(p, MSG_PP_START), 0);
    cr_expect_not(c->disabled);
    cons_ask(c, MSG_C_START);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    world_advance_ms(w, 999);
    cr_expect_not(c->disabled);
    world_advance_ms(w, 2);
    const struct heard *f = prod_heard(p, MSG_PP_FLUSH, 0);
    cr_assert_not_null(f, "T53: a timed stop flushes");
    cr_expect_eq(f->flags, 0x12);
    cr_expect(c->disabled);
}

Test(session, R26_R32_T28_stop_acks_and_timeout)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "both", DS_NOTIFY_START | DS_NOTIFY_STOP);
    prod_register(p, "none", 0);
    prod_register(p, "stop", DS_NOTIFY_STOP);
    plain("both");
    cfg_source(&w->cfg, "none", 0);
    cfg_source(&w->cfg, "stop", 0);
    cons_enable(c, &w->cfg);
    cons_ask(c, MSG_C_DISABLE); /* R27: "both" was never acked as started */
    cr_expect_str_eq(state(c), "STOP_WAIT");
    prod_started(p, prod_instance(p, 0));
    prod_stopped(p, prod_instance(p, 1));
    prod_stopped(p, prod_instance(p, 0));
    cr_expect_not(c->disabled, "T28: one ack is missing");
    prod_stopped(p, prod_instance(p, 0));
    cr_expect_not(c->disabled, "a repeated ack counts once");
    prod_stopped(p, prod_instance(p, 2));
    cr_expect(c->disabled);
    cons_ask(c, MSG_C_FREE);
    cons_enable(c, &w->cfg);
    cons_ask(c, MSG_C_DISABLE);
    world_advance_ms(w, 4999);
    cr_expect_not(c->disabled);
    world_advance_ms(w, 1);
    cr_expect(c->disabled, "R32: after 5 s nobody is waited for");
    cr_expect_str_eq(c->error, "");
}

Test(session, T30_configured_stop_timeout)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, with(plain("ds"), PBF_TraceConfig_data_source_stop_timeout_ms, 1));
    cr_expect_eq(prod_config(p, 0, PBF_DataSourceConfig_stop_timeout_ms), 1);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(c->disabled);
    world_advance_ms(w, 1);
    cr_expect(c->disabled);
}

Test(session, R34_T29_no_setup_while_stopping)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    plain("ds");
    cfg_source(&w->cfg, "late", 0);
    cons_enable(c, &w->cfg);
    cons_ask(c, MSG_C_DISABLE);
    prod_register(p, "late", 0);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1);
    cons_bye(c); /* T29: clean */
    cons_query(cons_new(w, 0), false);
}

Test(session, V1_R9_a_stopped_session_blocks_the_next)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect(c->disabled);
    cr_expect_not(cons_enable(c, &w->cfg));
    cr_expect(c->disabled && c->error[0], "V1 has a text");
    cons_ask(c, MSG_C_FREE);
    cr_expect(cons_enable(c, &w->cfg));
}

Test(session, R192_second_enable_on_a_busy_connection)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    uint64_t first = c->enable_cookie;
    cr_expect_not(cons_enable(c, &w->cfg));
    cr_expect(c->disabled && c->error[0]);
    cr_expect_neq(c->enable_cookie, first);
    cr_expect_str_eq(state(c), "STARTED", "the first session goes on");
}

Test(session, R36_free_on_a_running_session_notifies)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, plain("ds"));
    cr_expect(cons_ask(c, MSG_C_FREE));
    cr_expect(c->disabled);
    cr_expect_lt(c->replied_at, c->disabled_at, "the reply comes first");
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    prod_put(p, 1, "x"); /* into a buffer that is gone */
    cr_expect_eq(cons_read(c), 0);
    cr_expect(cons_enable(c, &w->cfg), "the consumer is free at once");
}

Test(session, T26_disconnect_stops)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    cons_bye(c);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    struct cons *d = cons_new(w, 1);
    cr_expect_str_eq(state(d), "");
}

Test(session, T27_disconnect_during_the_final_flush)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, with(plain("ds"), PBF_TraceConfig_duration_ms, 100));
    world_advance_ms(w, 101);
    const struct heard *f = prod_heard(p, MSG_PP_FLUSH, 0);
    cr_assert_not_null(f);
    uint64_t id = f->id;
    cons_bye(c);
    prod_ack_flush(p, id);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
}

Test(session, R28_T123_all_started)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", DS_NOTIFY_START);
    prod_register(p, "b", DS_NOTIFY_START);
    plain("a");
    cfg_source(&w->cfg, "b", 0);
    cons_observe(c, 2);
    cons_enable(c, &w->cfg);
    prod_started(p, prod_instance(p, 0));
    world_settle(w);
    cr_expect_eq(c->nevents, 0);
    prod_started(p, prod_instance(p, 1));
    world_settle(w);
    cr_expect_eq(c->nevents, 1);
    cr_expect_eq(
        msg_num(c->events.p, c->events.n, PBF_ObservableEvents_all_data_sources_started, 0), 1);
    prod_started(p, prod_instance(p, 1));
    world_settle(w);
    prod_unregister(p, "a");
    world_settle(w);
    cr_expect_eq(c->nevents, 1, "once per session");
    prod_register(p, "a", DS_NOTIFY_START);
    prod_started(p, prod_instance(p, 2));
    world_settle(w);
    cr_expect_eq(c->nevents, 1);
    cons_ask(c, MSG_C_FREE); /* T123: again with the next session */
    cons_enable(c, &w->cfg);
    prod_started(p, prod_instance(p, 3));
    prod_started(p, prod_instance(p, 4));
    world_settle(w);
    cr_expect_eq(c->nevents, 2);
}

Test(session, T124_all_started_without_instances)
{
    struct cons *c = cons_new(w, 1);
    cons_observe(c, 2);
    cons_enable(c, plain("nobody"));
    world_settle(w);
    cr_expect_eq(c->nevents, 1);
}

Test(session, R200_T121_T122_instances_are_observed)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    cons_observe(c, 1);
    world_settle(w);
    struct bytes_view e =
        msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, 0);
    cr_expect_eq(msg_num(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0), 2);
    cr_expect_str_eq(
        msg_str(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_producer_name), "p");
    cr_expect_str_eq(
        msg_str(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_data_source_name),
        "ds");
    bytesbuf_clear(&c->events);
    prod_unregister(p, "ds");
    world_settle(w);
    e = msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, 0);
    cr_expect_eq(msg_num(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0), 1,
                 "T122");
    cons_ask(c, MSG_C_FREE);
    bytesbuf_clear(&c->events);
    prod_register(p, "ds", 0);
    cons_enable(c, with(plain("ds"), PBF_TraceConfig_deferred_start, 1));
    world_settle(w);
    cons_ask(c, MSG_C_START);
    world_settle(w);
    cr_expect_eq(msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes),
                 2);
    e = msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, 1);
    cr_expect_eq(msg_num(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0), 2);
    cons_observe(c, 0); /* R200 */
    cr_expect(c->observe_done);
    cons_ask(c, MSG_C_DISABLE);
    world_settle(w);
    cr_expect_eq(c->nevents, 0);
}

Test(session, R187_R188_R189_T119_detach_and_attach)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1000), *d = cons_new(w, 1000), *other = cons_new(w, 0);
    prod_register(p, "ds", 0);
    cr_expect_not(cons_ask_body(c, MSG_C_DETACH, "key", 3), "no session");
    cons_enable(c, plain("ds"));
    cr_expect_not(cons_ask(c, MSG_C_DETACH), "R187: an empty key");
    cr_expect(cons_ask_body(c, MSG_C_DETACH, "key", 3));
    cr_expect_not(c->disabled, "ipc.md R109: the old request stays unanswered");
    cons_bye(c);
    prod_put(p, 1, "meanwhile");
    cr_expect_not(cons_ask_body(other, MSG_C_ATTACH, "key", 3), "R188: another uid, root included");
    cr_expect_not(cons_ask_body(d, MSG_C_ATTACH, "kex", 3));
    cr_expect_not(cons_ask(d, MSG_C_ATTACH), "R187");
    cr_assert(cons_ask_body(d, MSG_C_ATTACH, "key", 3));
    struct bytes_view cfg = msg_part(d->reply.p, d->reply.n, PBF_AttachResponse_trace_config, 0);
    cr_expect(bytes_equal(cfg, bytesbuf_view(plain("ds"))), "R189: the original config");
    cr_expect_not(cons_ask_body(d, MSG_C_ATTACH, "key", 3), "it has a session");
    cons_enable_attach(d);
    cons_ask(d, MSG_C_DISABLE);
    cr_expect(d->disabled);
    cons_read(d);
    cr_expect(cons_has(d, "meanwhile"));
}

Test(session, R186_detach_key_in_use)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1), *e = cons_new(w, 2);
    cons_enable(c, plain(NULL));
    cons_enable(d, &w->cfg);
    cons_enable(e, &w->cfg);
    cr_expect(cons_ask_body(c, MSG_C_DETACH, "k", 1));
    cr_expect_not(cons_ask_body(d, MSG_C_DETACH, "k", 1));
    cr_expect(cons_ask_body(e, MSG_C_DETACH, "k", 1), "keys are per uid");
}

Test(session, R191_detached_session_ends_at_its_duration)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    cons_enable(c, with(plain(NULL), PBF_TraceConfig_duration_ms, 1000));
    cons_ask_body(c, MSG_C_DETACH, "k", 1);
    world_advance_ms(w, 1100);
    cr_expect_not(cons_ask_body(d, MSG_C_ATTACH, "k", 1), "it is gone");
    cr_expect_str_eq(state(d), "");
}

/* The outcome is that of a flush that was made. A timer that came after the stop had begun made a
 * failure of it, and took a detached session away. */
Test(session, Q3_no_final_flush_after_a_stop)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, with(plain("ds"), PBF_TraceConfig_duration_ms, 1000));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_str_eq(state(c), "STOP_WAIT");
    for (int i = 0; i < 2; i++) { /* while the ack is awaited, and after it */
        world_advance_ms(w, 1100);
        cr_assert(cons_ask(c, MSG_C_STATS));
        struct bytes_view s =
            msg_part(c->reply.p, c->reply.n, PBF_GetTraceStatsResponse_trace_stats, 0);
        cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_final_flush_outcome, 9), 0);
        cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 0);
        cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_flush_started), 0);
        prod_stopped(p, prod_instance(p, 0));
    }
    cr_expect(c->disabled);
}

Test(session, R23_slow_start)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", DS_NOTIFY_START);
    prod_register(p, "b", DS_NOTIFY_START);
    plain("a");
    cfg_source(&w->cfg, "b", 0);
    cons_enable(c, &w->cfg);
    prod_started(p, prod_instance(p, 0));
    world_advance_ms(w, 20000);
    cons_read(c);
    cr_assert_eq(cons_events(c, PBF_TracingServiceEvent_slow_starting_data_sources), 1);
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view e =
            msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_service_event, 0);
        struct bytes_view l =
            msg_part(e.p, e.n, PBF_TracingServiceEvent_slow_starting_data_sources, 0);
        if (!l.n)
            continue;
        cr_expect_eq(msg_fields(l.p, l.n, 1), 1, "T65: the one that was not acked, alone");
        struct bytes_view ds = msg_part(l.p, l.n, 1, 0);
        cr_expect_str_eq(msg_str(ds.p, ds.n, 2), "b");
    }
}

Test(session, R24_flags_are_those_at_setup)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register_id(p, "ds", DS_NOTIFY_STOP, 7);
    cons_enable(c, plain("ds"));
    prod_update_id(p, "ds", 0, 7);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(c->disabled, "the running instance still owes an ack");
    prod_stopped(p, prod_instance(p, 0));
    cr_expect(c->disabled);
}

Test(session, acks_of_other_peoples_instances_are_ignored)
{
    struct prod *p = prod_new(w, "p", 1), *evil = prod_new(w, "evil", 2);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, plain("ds"));
    cons_ask(c, MSG_C_DISABLE);
    prod_stopped(evil, prod_instance(p, 0));
    prod_stopped(evil, 0);
    prod_stopped(evil, UINT64_MAX);
    cr_expect_not(c->disabled);
}
