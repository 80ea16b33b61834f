/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of service.md 12 to 14 that no other file names: consumers, clones, statistics and relays.
 * What has no case at all is listed in test_rules_b.c.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/charge.h"
#include "reactor/chrono.h"
#include "t/svc/world.h"

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

TestSuite(rules_c, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

static struct bytesbuf *deferred(const char *source)
{
    plain(source);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    return &w->cfg;
}

static struct bytesbuf *by_id(uint64_t id)
{
    bytesbuf_clear(&req);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, id);
    return &req;
}

/* The error of the last CloneSession answer; "" when it succeeded; "-" when there is none yet. */
static const char *outcome(const struct cons *c)
{
    if (!c->replied)
        return "-";
    if (msg_num(c->reply.p, c->reply.n, PBF_CloneSessionResponse_success, 0))
        return "";
    return msg_str(c->reply.p, c->reply.n, PBF_CloneSessionResponse_error);
}

/* The whole TracingServiceState, or one session of it. */
static struct bytes_view state(struct cons *c)
{
    cr_assert(cons_query(c, false));
    return msg_part(c->reply.p, c->reply.n, 1, 0);
}

static struct bytes_view session_state(struct cons *c, size_t nth)
{
    struct bytes_view s = state(c);
    return msg_part(s.p, s.n, PBF_TracingServiceState_tracing_sessions, nth);
}

static uint64_t sessions(struct cons *c)
{
    struct bytes_view s = state(c);
    return msg_num(s.p, s.n, PBF_TracingServiceState_num_sessions, 99);
}

/* ---- attachment ---- */

Test(rules_c, R184_one_session_per_connection)
{
    struct cons *made = cons_new(w, 1), *attached = cons_new(w, 1), *cloned = cons_new(w, 1);
    struct cons *all[] = {made, attached, cloned}, *spare = cons_new(w, 1);
    cons_enable(made, plain(NULL));
    cons_enable(attached, plain(NULL));
    cr_assert(cons_ask_body(attached, MSG_C_DETACH, "a", 1));
    cr_assert(cons_ask_body(attached, MSG_C_ATTACH, "a", 1));
    cons_clone(cloned, by_id(1), -1);
    cr_assert_str_eq(outcome(cloned), "");
    cons_enable(spare, plain(NULL));
    cr_assert(cons_ask_body(spare, MSG_C_DETACH, "spare", 5));
    for (int i = 0; i < 3; i++) {
        cr_expect_not(cons_enable(all[i], plain(NULL)), "way %d", i);
        cr_expect(all[i]->error[0], "way %d", i);
        cr_expect_not(cons_ask_body(all[i], MSG_C_ATTACH, "spare", 5), "way %d", i);
        cons_clone(all[i], by_id(1), -1);
        cr_expect(outcome(all[i])[0] && all[i]->replied, "way %d", i);
        cr_expect_eq(sessions(spare), 4 - (unsigned)i);
        cr_expect(cons_ask(all[i], MSG_C_FREE));
        cr_expect_eq(sessions(spare), 3 - (unsigned)i, "it was its own, way %d", i);
    }
    cr_expect(cons_ask_body(made, MSG_C_ATTACH, "spare", 5), "free again");
}

Test(rules_c, R185_disconnect_ends_only_its_own_session)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1), *none = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    cons_enable(d, plain("ds"));
    cr_assert(cons_ask_body(d, MSG_C_DETACH, "k", 1));
    cons_bye(none);
    cons_bye(d);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 0);
    struct cons *e = cons_new(w, 1);
    cr_expect_eq(sessions(e), 2);
    cons_bye(c);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    cr_expect_eq(sessions(e), 1, "as FreeBuffers does");
}

Test(rules_c, R190_attach_notification)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    cons_enable_attach(c);
    cr_expect(!c->disabled && !c->enable_rejected, "without a session nothing happens");
    cr_expect_eq(sessions(c), 0);
    cons_enable(d, plain(NULL));
    cr_assert(cons_ask_body(d, MSG_C_DETACH, "k", 1));
    cr_assert(cons_ask_body(c, MSG_C_ATTACH, "k", 1));
    cons_enable_attach(c);
    cr_expect(!c->disabled && !c->enable_rejected);
    cr_expect_eq(sessions(c), 1, "no second session");
    cons_ask(c, MSG_C_DISABLE);
    cr_expect(c->disabled, "it hears of the end");
    cr_expect_not(d->disabled);
}

/* ---- ChangeTraceConfig ---- */

static struct bytesbuf *for_producer(const char *name)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, "ds");
    bytesbuf_pb_end(&w->cfg, k);
    if (name)
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_DataSource_producer_name_filter, name);
    bytesbuf_pb_end(&w->cfg, m);
    return &w->cfg;
}

Test(rules_c, R193_only_while_configured_or_started)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    for_producer("p");
    cr_expect(cons_ask_body(c, MSG_C_CHANGE, w->cfg.p, w->cfg.n), "without a session: ignored");
    cons_enable(c, &w->cfg);
    struct prod *q = prod_new(w, "q", 1);
    prod_register(q, "ds", 0);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(c->disabled, "p has not acked its stop");
    for_producer("q");
    cr_expect(cons_ask_body(c, MSG_C_CHANGE, w->cfg.p, w->cfg.n), "while stopping: ignored");
    prod_stopped(p, prod_instance(p, 0));
    cr_assert(c->disabled);
    cr_expect(cons_ask_body(c, MSG_C_CHANGE, w->cfg.p, w->cfg.n), "stopped: ignored");
    cr_expect_eq(prod_count(q, MSG_PP_SETUP), 0);
    cons_read(c);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_trace_config, 0);
    struct bytes_view echo = msg_part(k->p, k->n, PBF_TracePacket_trace_config, 0);
    cr_expect(bytes_equal(echo, bytesbuf_view(for_producer("p"))), "the config is as it was");
}

Test(rules_c, R195_who_is_set_up_by_a_change)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    for_producer("p");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(q, MSG_PP_SETUP), 0);
    for_producer("q");
    cons_ask_body(c, MSG_C_CHANGE, w->cfg.p, w->cfg.n);
    cr_expect_eq(prod_count(q, MSG_PP_SETUP), 1);
    cr_expect_eq(prod_count(q, MSG_PP_START), 0, "the session is not started");
    cons_ask(c, MSG_C_START);
    cr_expect_eq(prod_count(q, MSG_PP_START), 1);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1, "set up before, and no reason to leave it out");
    struct prod *r = prod_new(w, "r", 1);
    prod_register(r, "ds", 0);
    prod_register(r, "other", 0);
    cr_expect_eq(prod_count(r, MSG_PP_SETUP), 0);
    for_producer(NULL); /* an empty list: everybody */
    cons_ask_body(c, MSG_C_CHANGE, w->cfg.p, w->cfg.n);
    cons_ask_body(c, MSG_C_CHANGE, w->cfg.p, w->cfg.n);
    cr_expect_eq(prod_count(r, MSG_PP_SETUP), 1, "of that name, and once");
    cr_expect_eq(prod_count(r, MSG_PP_START), 1);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1, "those with an instance are left alone");
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 0);
    cr_expect_eq(prod_count(q, MSG_PP_SETUP), 1);
}

/* ---- ObserveEvents ---- */

/* The states that were reported, one digit each. */
static const char *states(const struct cons *c)
{
    static char out[64];
    size_t n = 0,
           all = msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes);
    for (; n < all && n < sizeof(out) - 1; n++) {
        struct bytes_view e =
            msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, n);
        out[n] = (char)('0' + msg_num(e.p, e.n,
                                      PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0));
    }
    out[n] = '\0';
    return out;
}

static uint64_t all_started(const struct cons *c)
{
    return msg_num(c->events.p, c->events.n, PBF_ObservableEvents_all_data_sources_started, 0);
}

Test(rules_c, R196_the_mask_belongs_to_the_connection)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_observe(c, 1 | 2);
    cons_enable(c, plain("ds"));
    cons_enable(d, plain("ds"));
    cr_expect_str_eq(states(c), "12", "set before the session: %s", states(c));
    cr_expect(all_started(c), "both kinds");
    cr_expect_eq(d->events.n, 0, "nobody else's");
    cons_ask(c, MSG_C_FREE);
    bytesbuf_clear(&c->events);
    cons_enable(c, plain("ds"));
    cr_expect_str_eq(states(c), "12", "and for the next session: %s", states(c));
    cr_expect(all_started(c));
    cons_ask(c, MSG_C_FREE);
    cons_observe(c, 2);
    cons_enable(c, plain("ds"));
    cr_expect_str_eq(states(c), "", "the newer mask replaces the older");
    cr_expect(all_started(c));
}

Test(rules_c, R197_which_states_are_reported)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START | DS_NOTIFY_STOP);
    prod_register(p, "quick", 0);
    cons_observe(c, 1);
    deferred("ds");
    cfg_source(&w->cfg, "quick", 0);
    cons_enable(c, &w->cfg);
    cr_expect_str_eq(states(c), "11", "CONFIGURED is told as STOPPED: %s", states(c));
    cons_ask(c, MSG_C_START);
    cr_expect_str_eq(states(c), "112", "STARTING is not told: %s", states(c));
    cons_observe(c, 1);
    cr_expect_str_eq(states(c), "2", "now: one STARTING, one STARTED: %s", states(c));
    prod_started(p, prod_instance(p, 0));
    cr_expect_str_eq(states(c), "22");
    cons_observe(c, 1);
    cr_expect_str_eq(states(c), "22", "the current state of every instance: %s", states(c));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_str_eq(states(c), "221", "STOPPING is not told: %s", states(c));
    prod_stopped(p, prod_instance(p, 0));
    cr_expect_str_eq(states(c), "2211");
}

Test(rules_c, R198_what_comes_together_is_told_together)
{
    world_free(w);
    w = world_new_whole();
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(p, "b", 0);
    cons_observe(c, 1 | 2);
    deferred("a");
    cfg_source(&w->cfg, "b", 0);
    cons_enable(c, &w->cfg);
    cr_expect_eq(c->nevents, 1, "two set up: %u", c->nevents);
    cons_ask(c, MSG_C_START);
    cr_expect_eq(c->nevents, 2, "two started, and all: %u", c->nevents);
    cr_expect_str_eq(states(c), "1122");
    cr_expect(all_started(c));
}

Test(rules_c, R199_who_observes_too_late)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_observe(c, 2);
    cons_enable(c, plain("ds"));
    cr_expect(all_started(c), "in time");
    cons_observe(c, 2);
    cons_observe(c, 1 | 2);
    cr_expect_eq(all_started(c), 0, "told once");
    cr_expect_str_eq(states(c), "2");
    (void)d;
}

/* ---- QueryServiceState ---- */

Test(rules_c, R202_R204_uids)
{
    const struct prod_opts remote = {
        .name = "far", .uid = 8, .pid = 80, .machine_id = 1234, .machine_name = "vm"};
    const struct prod_opts nameless = {
        .name = "noname", .uid = 8, .pid = 81, .machine_id = 1235, .machine_name = ""};
    struct cons *c = cons_new(w, 7);
    struct prod *p = prod_new(w, "near", 7);
    cr_assert_not_null(p);
    cr_assert_not_null(prod_new_opts(w, &remote));
    cr_assert_not_null(prod_new_opts(w, &nameless));
    cons_enable(c, plain(NULL));
    struct bytes_view s = session_state(c, 0);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_TracingSession_consumer_uid, 0), 7,
                 "R183: the uid of the peer");
    s = state(c);
    struct bytes_view a = msg_part(s.p, s.n, PBF_TracingServiceState_producers, 0);
    struct bytes_view b = msg_part(s.p, s.n, PBF_TracingServiceState_producers, 1);
    struct bytes_view n = msg_part(s.p, s.n, PBF_TracingServiceState_producers, 2);
    cr_expect_eq(msg_num(a.p, a.n, PBF_TracingServiceState_Producer_id, 0), 1);
    cr_expect_str_eq(msg_str(a.p, a.n, PBF_TracingServiceState_Producer_name), "near");
    cr_expect_eq(msg_num(a.p, a.n, PBF_TracingServiceState_Producer_uid, 0), 7);
    cr_expect_str_eq(msg_str(a.p, a.n, PBF_TracingServiceState_Producer_sdk_version), "sdk");
    cr_expect_eq(msg_num(a.p, a.n, PBF_TracingServiceState_Producer_pid, 0), 4321);
    cr_expect_eq(msg_num(a.p, a.n, PBF_TracingServiceState_Producer_frozen, 9), 0);
    cr_expect_eq(msg_fields(a.p, a.n, PBF_TracingServiceState_Producer_machine_id), 0);
    cr_expect_eq(msg_fields(a.p, a.n, PBF_TracingServiceState_Producer_machine_name), 0);
    cr_expect_eq(msg_num(b.p, b.n, PBF_TracingServiceState_Producer_machine_id, 0), 1234);
    cr_expect_str_eq(msg_str(b.p, b.n, PBF_TracingServiceState_Producer_machine_name), "vm");
    cr_expect_eq(msg_num(n.p, n.n, PBF_TracingServiceState_Producer_machine_id, 0), 1235);
    cr_expect_eq(msg_fields(n.p, n.n, PBF_TracingServiceState_Producer_machine_name), 0);
}

Test(rules_c, R203_data_sources)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register_id(p, "a", DS_NOTIFY_STOP, 5);
    prod_register(q, "b", 0);
    struct bytes_view s = state(c);
    cr_assert_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 2);
    struct bytes_view d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, 0);
    struct bytes_view e = msg_part(d.p, d.n, PBF_TracingServiceState_DataSource_ds_descriptor, 0);
    cr_expect_str_eq(msg_str(e.p, e.n, PBF_DataSourceDescriptor_name), "a");
    cr_expect_eq(msg_num(e.p, e.n, PBF_DataSourceDescriptor_will_notify_on_stop, 0), 1);
    cr_expect_eq(msg_num(d.p, d.n, PBF_TracingServiceState_DataSource_producer_id, 0), 1);
    prod_update_id(p, "a", DS_NO_FLUSH, 5);
    s = state(c);
    d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, 0);
    e = msg_part(d.p, d.n, PBF_TracingServiceState_DataSource_ds_descriptor, 0);
    cr_expect_eq(msg_num(e.p, e.n, PBF_DataSourceDescriptor_will_notify_on_stop, 0), 0);
    cr_expect_eq(msg_num(e.p, e.n, PBF_DataSourceDescriptor_no_flush, 0), 1, "as updated");
    prod_bye(p);
    s = state(c);
    cr_assert_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 1);
    d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, 0);
    cr_expect_eq(msg_num(d.p, d.n, PBF_TracingServiceState_DataSource_producer_id, 0), 2);
}

/* ---- GetTraceStats ---- */

/* A number of the session's statistics. */
static uint64_t stat(struct cons *c, uint32_t field)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view v = msg_part(c->reply.p, c->reply.n, 1, 0);
    return msg_num(v.p, v.n, field, UINT64_MAX);
}

static uint64_t buffer_stat(struct cons *c, uint32_t field)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view v = msg_part(c->reply.p, c->reply.n, 1, 0);
    v = msg_part(v.p, v.n, PBF_TraceStats_buffer_stats, 0);
    return msg_num(v.p, v.n, field, 0);
}

Test(rules_c, R208_in_any_state_and_nothing_is_cleared)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, deferred("ds"));
    cr_expect_eq(buffer_stat(c, PBF_TraceStats_BufferStats_chunks_written), 0, "CONFIGURED");
    cons_ask(c, MSG_C_START);
    prod_put(p, 1, "x");
    for (int i = 0; i < 2; i++)
        cr_expect_eq(buffer_stat(c, PBF_TraceStats_BufferStats_chunks_written), 1, "STARTED");
    cons_flush_begin(c, 0, 0);
    cr_expect_eq(stat(c, PBF_TraceStats_flushes_requested), 1);
    cons_clone(k, by_id(1), -1);
    cr_expect_neq(stat(k, PBF_TraceStats_total_buffers), 0, "a clone");
    cons_ask(c, MSG_C_DISABLE);
    for (int i = 0; i < 2; i++)
        cr_expect_eq(buffer_stat(c, PBF_TraceStats_BufferStats_chunks_written), 1, "DISABLED");
    cons_read(c);
    cr_expect(cons_has(c, "x"));
    cr_expect_eq(cons_count(c, PBF_TracePacket_trace_stats), 1, "those of the trace are still due");
}

/* ---- clones ---- */

Test(rules_c, R210_R224_who_may_clone)
{
    static const struct {
        uint32_t uid;
        bool may;
    } who[] = {{0, true}, {1000, true}, {1001, false}, {2000, false}};
    struct cons *c = cons_new(w, 1000);
    plain(NULL);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_bugreport_score, 5);
    cons_enable(c, &w->cfg);
    for (size_t i = 0; i < sizeof(who) / sizeof(who[0]); i++) {
        for (int bugreport = 0; bugreport < 2; bugreport++) {
            struct cons *k = cons_new(w, who[i].uid);
            by_id(bugreport ? UINT64_MAX : 1);
            bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_for_bugreport, (unsigned)bugreport);
            cons_clone(k, &req, -1);
            if (who[i].may)
                cr_expect_str_eq(outcome(k), "", "uid %u", who[i].uid);
            else
                cr_expect(strstr(outcome(k), "session from another UID"), "uid %u: %s", who[i].uid,
                          outcome(k));
            cons_bye(k);
        }
    }
}

/* A buffer with one flag. */
static void flagged_buffer(uint32_t flag)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 64);
    bytesbuf_pb_varint(&w->cfg, flag, 1);
    bytesbuf_pb_end(&w->cfg, m);
}

Test(rules_c, R212_cleared_in_the_source_before_the_flush)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(p, "b", 0);
    p->mute = true;
    cfg_begin(&w->cfg);
    flagged_buffer(PBF_TraceConfig_BufferConfig_clear_before_clone);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "a", 0);
    cfg_source(&w->cfg, "b", 1);
    cons_enable(c, &w->cfg);
    prod_put_to(p, 1, prod_target(p, 0), "old");
    prod_put_to(p, 2, prod_target(p, 1), "other buffer");
    cons_clone(k, by_id(1), -1);
    cr_expect_str_eq(outcome(k), "-", "it flushes");
    cons_read(c);
    cr_expect(!cons_has(c, "old") && cons_has(c, "other buffer"), "gone from the source already");
    prod_put_to(p, 1, prod_target(p, 0), "new");
    prod_ack_flush(p, UINT64_MAX);
    cr_expect_str_eq(outcome(k), "");
    cons_read(c);
    cr_expect(cons_has(c, "new"));
    cons_read(k);
    cr_expect(cons_has(k, "new") && cons_texts(k) == 1);
}

Test(rules_c, R213_two_flushes)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1), *b = cons_new(w, 1);
    prod_register(p, "plain", 0);
    prod_register(p, "moved", 0);
    prod_register(p, "silent", DS_NO_FLUSH);
    p->mute = true;
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    flagged_buffer(PBF_TraceConfig_BufferConfig_transfer_on_clone);
    cfg_source(&w->cfg, "plain", 0);
    cfg_source(&w->cfg, "moved", 1);
    cfg_source(&w->cfg, "silent", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_flush_timeout_ms, 2000);
    cons_enable(c, &w->cfg);
    cons_clone(k, by_id(1), -1);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 2);
    for (size_t i = 0; i < 2; i++) {
        const struct heard *h = prod_heard(p, MSG_PP_FLUSH, i);
        cr_expect_eq(h->nids, 1);
        cr_expect_eq(h->ids[0], prod_instance(p, 1 - i), "the buffers that move come first");
        cr_expect_eq(h->flags, 0x13);
    }
    cr_expect_eq(stat(c, PBF_TraceStats_flushes_requested), 2, "each counts");
    prod_ack_flush(p, prod_heard(p, MSG_PP_FLUSH, 0)->id);
    world_advance_ms(w, 1990);
    cr_expect_str_eq(outcome(k), "-");
    world_advance_ms(w, 20);
    cr_expect_str_eq(outcome(k), "", "the session's timeout ends the other");
    cr_expect_eq(stat(c, PBF_TraceStats_flushes_succeeded), 1);
    cr_expect_eq(stat(c, PBF_TraceStats_flushes_failed), 1);
    cr_expect_eq(stat(k, PBF_TraceStats_final_flush_outcome), 2, "one failed");
    cons_read(k);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_flush_started), 1, "one event for both");
    by_id(1);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_for_bugreport, 1);
    prod_forget(p);
    cons_clone(b, &req, -1);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 2);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->flags, 0x113);
    prod_ack_flush(p, UINT64_MAX);
    cr_expect_str_eq(outcome(b), "");
}

Test(rules_c, R213_nobody_to_ask)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    cons_enable(c, plain("ds"));
    cons_clone(k, by_id(1), -1);
    cr_expect_str_eq(outcome(k), "");
    cr_expect_eq(stat(k, PBF_TraceStats_final_flush_outcome), 1, "a flush of nobody succeeds");
    cr_expect_eq(stat(c, PBF_TraceStats_flushes_succeeded), 2);
}

Test(rules_c, R117_R217_what_a_clone_is)
{
    struct cons *c = cons_new(w, 1000), *root = cons_new(w, 0);
    plain(NULL);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_unique_session_name, "mine");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_uuid_msb, 11);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_uuid_lsb, 22);
    bytesbuf_pb_str(&w->cfg, 4444, "unknown");
    cons_enable(c, &w->cfg);
    cons_clone(root, by_id(1), -1);
    cr_assert_str_eq(outcome(root), "");
    uint64_t msb = msg_num(root->reply.p, root->reply.n, PBF_CloneSessionResponse_uuid_msb, 0);
    cr_expect_eq(msg_num(root->reply.p, root->reply.n, PBF_CloneSessionResponse_uuid_lsb, 0), 22);
    cr_expect(msb != 11 && msb != 0);
    struct bytes_view s = session_state(root, 1);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_TracingSession_id, 0), 2);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_TracingSession_consumer_uid, 9), 0);
    cr_expect_str_eq(msg_str(s.p, s.n, PBF_TracingServiceState_TracingSession_state),
                     "CLONED_READ_ONLY");
    struct cons *same[] = {root, c};
    for (int i = 0; i < 2; i++) {
        cons_read(same[i]);
        const struct pkt *u = cons_pkt(same[i], PBF_TracePacket_trace_uuid, 0);
        cr_expect_eq(pkt_sub(u, PBF_TracePacket_trace_uuid, PBF_TraceUuid_msb, 0), i ? 11 : msb);
        cr_expect_eq(pkt_sub(u, PBF_TracePacket_trace_uuid, PBF_TraceUuid_lsb, 0), 22);
        u = cons_pkt(same[i], PBF_TracePacket_trace_config, 0);
        struct bytes_view echo = msg_part(u->p, u->n, PBF_TracePacket_trace_config, 0);
        cr_expect(bytes_equal(echo, bytesbuf_view(&w->cfg)), "the config is copied");
    }
}

/* trace_filter that lets for_testing pass as it is, and nothing else. */
static void put_filter(struct bytesbuf *cfg)
{
    static const uint32_t words[] = {1 << 3 | 3, 1, 0, PBF_TracePacket_for_testing << 3 | 1, 0};
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

Test(rules_c, R219_T86_a_clone_is_filtered_unless_asked)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_bugreport_score, 1);
    put_filter(&w->cfg);
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "data");
    for (int way = 0; way < 3; way++) {
        struct cons *k = cons_new(w, 1);
        by_id(way == 2 ? UINT64_MAX : 1);
        bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_skip_trace_filter, way == 1);
        cons_clone(k, &req, -1);
        cr_assert_str_eq(outcome(k), "");
        cons_read(k);
        cr_expect(cons_has(k, "data"));
        cr_expect_eq(cons_count(k, PBF_TracePacket_trace_uuid), way > 0, "way %d", way);
        const struct pkt *t = cons_pkt(k, PBF_TracePacket_for_testing, 0);
        cr_expect_eq(msg_fields(t->p, t->n, PBF_TracePacket_trusted_uid), way > 0, "way %d", way);
        const struct pkt *st = cons_pkt(k, PBF_TracePacket_trace_stats, 0);
        struct bytes_view v = msg_part(st->p, st->n, PBF_TracePacket_trace_stats, 0);
        cr_expect_eq(msg_fields(v.p, v.n, PBF_TraceStats_filter_stats), way == 0, "way %d", way);
        cons_bye(k);
    }
}

Test(rules_c, R220_the_trigger_of_a_clone)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1), *bare = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    by_id(1);
    bytesbuf_pb_str(&req, PBF_CloneSessionRequest_clone_trigger_name, "name");
    bytesbuf_pb_str(&req, PBF_CloneSessionRequest_clone_trigger_producer_name, "who");
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_clone_trigger_trusted_producer_uid, 42);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_clone_trigger_boot_time_ns, 1234);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_clone_trigger_delay_ms, 5);
    cons_clone(k, &req, -1);
    cons_read(k);
    cr_assert_eq(cons_count(k, PBF_TracePacket_clone_snapshot_trigger), 1);
    const struct pkt *t = cons_pkt(k, PBF_TracePacket_clone_snapshot_trigger, 0);
    struct bytes_view v = msg_part(t->p, t->n, PBF_TracePacket_clone_snapshot_trigger, 0);
    cr_expect_eq(pkt_num(t, PBF_TracePacket_timestamp, 0), 1234);
    cr_expect_str_eq(msg_str(v.p, v.n, PBF_Trigger_trigger_name), "name");
    cr_expect_str_eq(msg_str(v.p, v.n, PBF_Trigger_producer_name), "who");
    cr_expect_eq(msg_num(v.p, v.n, PBF_Trigger_trusted_producer_uid, 0), 42);
    cr_expect_eq(msg_num(v.p, v.n, PBF_Trigger_stop_delay_ms, 0), 5);
    cons_read(k);
    cr_expect_eq(cons_count(k, PBF_TracePacket_clone_snapshot_trigger), 0, "once");
    by_id(1);
    bytesbuf_pb_str(&req, PBF_CloneSessionRequest_clone_trigger_producer_name, "who");
    cons_clone(bare, &req, -1);
    cons_read(bare);
    cr_expect_eq(cons_count(bare, PBF_TracePacket_clone_snapshot_trigger), 0, "without a name");
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clone_snapshot_trigger), 0, "never in the source");
}

Test(rules_c, R222_no_memory_for_a_clone)
{
    struct charge_limit limits[CHARGE_KINDS];
    charge_default_limits(limits);
    limits[CHARGE_BUFFER_BYTES] = (struct charge_limit){100u << 10, UINT64_MAX};
    world_free(w);
    w = world_new_limited(limits);
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 1, "data");
    cons_clone(k, by_id(1), -1);
    cr_expect(k->replied && outcome(k)[0], "refused with a reason");
    cr_expect_eq(sessions(c), 1);
    cons_read(c);
    cr_expect(cons_has(c, "data"), "the source goes on");
    cons_ask(c, MSG_C_FREE);
    cr_expect(cons_enable(k, plain("ds")), "nothing stays charged");
}

Test(rules_c, R229_what_was_read_is_not_counted_in_a_clone)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 1, "read");
    cons_read(c);
    prod_put(p, 1, "unread");
    cr_expect_gt(buffer_stat(c, PBF_TraceStats_BufferStats_bytes_read), 0);
    cr_expect_eq(buffer_stat(c, PBF_TraceStats_BufferStats_chunks_read), 1);
    cons_clone(k, by_id(1), -1);
    cr_expect_eq(buffer_stat(k, PBF_TraceStats_BufferStats_bytes_read), 0);
    cr_expect_eq(buffer_stat(k, PBF_TraceStats_BufferStats_chunks_read), 0);
    cr_expect_eq(buffer_stat(k, PBF_TraceStats_BufferStats_chunks_written), 2, "what came counts");
}

/* ---- statistics ---- */

/* The sum of all samples of the nth writer_stats entry. */
static uint64_t samples(struct cons *c, size_t nth, uint32_t field)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view v = msg_part(c->reply.p, c->reply.n, 1, 0);
    v = msg_part(v.p, v.n, PBF_TraceStats_writer_stats, nth);
    v = msg_part(v.p, v.n, field, 0);
    uint64_t sum = 0, one;
    for (const uint8_t *at = v.p, *end = v.p + v.n; v.n && at < end; sum += one) {
        int shift = 0;
        one = 0;
        do {
            one |= (uint64_t)(*at & 0x7F) << shift;
            shift += 7;
        } while (*at++ & 0x80);
    }
    return sum;
}

Test(rules_c, R227_one_sample_per_chunk)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 1, "four");
    prod_put(p, 1, "nine.chrs");
    cr_expect_eq(samples(c, 0, PBF_TraceStats_WriterStats_chunk_payload_histogram_counts), 2,
                 "when it is committed, as with V2 buffers");
    cons_read(c);
    cr_expect_eq(samples(c, 0, PBF_TraceStats_WriterStats_chunk_payload_histogram_counts), 2);
    uint64_t sum = samples(c, 0, PBF_TraceStats_WriterStats_chunk_payload_histogram_sum);
    prod_put(p, 1, "nine.more");
    cons_read(c);
    cr_expect_eq(samples(c, 0, PBF_TraceStats_WriterStats_chunk_payload_histogram_counts), 3);
    uint64_t more = samples(c, 0, PBF_TraceStats_WriterStats_chunk_payload_histogram_sum) - sum;
    cr_expect_eq(2 * more - sum, 5, "bytes: %d and %d", (int)sum, (int)more);
}

Test(rules_c, R228_sequence_ids_of_writers)
{
    const struct prod_opts far = {.name = "far",
                                  .uid = 1,
                                  .pid = 5,
                                  .machine_id = 7,
                                  .machine_name = "vm",
                                  .emulated = false};
    struct prod *p = prod_new(w, "p", 1), *q = prod_new_opts(w, &far);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_all_machines, 1);
    cons_enable(c, &w->cfg);
    prod_put(p, 3, "a");
    prod_put(q, 3, "b");
    prod_put(p, 1, "c");
    cons_read(c);
    cr_assert_eq(cons_texts(c), 3);
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view v = msg_part(c->reply.p, c->reply.n, 1, 0);
    cr_assert_eq(msg_fields(v.p, v.n, PBF_TraceStats_writer_stats), 3);
    uint64_t of_stats = 0, of_packets = 0;
    for (size_t i = 0; i < 3; i++) {
        struct bytes_view e = msg_part(v.p, v.n, PBF_TraceStats_writer_stats, i);
        of_stats |= 1ull << msg_num(e.p, e.n, PBF_TraceStats_WriterStats_sequence_id, 63);
        of_packets |= 1ull << pkt_num(cons_pkt(c, PBF_TracePacket_for_testing, i),
                                      PBF_TracePacket_trusted_packet_sequence_id, 62);
    }
    cr_expect_eq(of_stats, of_packets, "also for a remote producer");
}

/* ---- relays ---- */

Test(rules_c, R235_each_session_tells_of_relays_once)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    struct bytesbuf b;
    bytesbuf_init(&b, 256);
    size_t m = bytesbuf_pb_begin(&b, PBF_SyncClockRequest_clocks);
    bytesbuf_pb_varint(&b, PBF_SyncClockRequest_Clock_clock_id, 6);
    bytesbuf_pb_varint(&b, PBF_SyncClockRequest_Clock_timestamp, 1000);
    bytesbuf_pb_end(&b, m);
    cons_enable(c, plain(NULL));
    cons_enable(d, plain(NULL));
    cr_assert_eq(service_relay_init(w->svc, 9, 1, bytes_view("\x30\x05", 2)), 0);
    cr_assert_eq(service_relay_clock(w->svc, 9, 1, bytesbuf_view(&b)), 0);
    struct cons *all[] = {c, d, c, d};
    for (int i = 0; i < 4; i++) {
        cons_read(all[i]);
        cr_expect_eq(cons_count(all[i], PBF_TracePacket_system_info), i < 2 ? 2 : 0, "read %d", i);
        cr_expect_eq(cons_count(all[i], PBF_TracePacket_remote_clock_sync), i < 2, "read %d", i);
    }
    bytesbuf_fini(&b);
}
