/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session_trigger: service.md section 11 and T99 to T118. */
#include <criterion/criterion.h>

#include <string.h>

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

TestSuite(trigger, .init = setup, .fini = teardown);

static struct bytesbuf *config(uint32_t mode, uint32_t timeout_ms)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cfg_trigger_mode(&w->cfg, mode, timeout_ms);
    return &w->cfg;
}

static struct bytesbuf *one(uint32_t mode, uint32_t timeout_ms, const char *name, uint32_t delay)
{
    config(mode, timeout_ms);
    cfg_trigger(&w->cfg, name, NULL, delay, 0, 0);
    return &w->cfg;
}

Test(trigger, T99_start_tracing)
{
    struct prod *p = prod_new(w, "mock_producer", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(START, 60000, "go", 500));
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1);
    cr_expect_eq(prod_count(p, MSG_PP_START), 0);
    cr_expect_eq(cons_read(c), 0, "R102");
    prod_trigger(p, "go");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    prod_put(p, 1, "data");
    world_advance_ms(w, 501);
    cr_expect(c->disabled, "stop_delay_ms after the trigger");
    cons_read(c);
    cr_expect(cons_has(c, "data"));
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_trigger, 0);
    cr_assert_not_null(k);
    struct bytes_view t = msg_part(k->p, k->n, PBF_TracePacket_trigger, 0);
    cr_expect_str_eq(msg_str(t.p, t.n, PBF_Trigger_trigger_name), "go");
    cr_expect_str_eq(msg_str(t.p, t.n, PBF_Trigger_producer_name), "mock_producer");
    cr_expect_eq(msg_num(t.p, t.n, PBF_Trigger_trusted_producer_uid, 0), 7);
    cr_expect_eq(msg_num(t.p, t.n, PBF_Trigger_stop_delay_ms, 0), 500);
    const struct pkt *e = cons_pkt(c, PBF_TracePacket_trace_config, 0);
    cr_expect_eq(pkt_sub(e, PBF_TracePacket_trace_config, PBF_TraceConfig_duration_ms, 0), 500,
                 "R116: the trigger's change is echoed");
}

Test(trigger, T100_start_timeout)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(START, 1000, "go", 500));
    world_advance_ms(w, 1000);
    cr_expect(c->disabled);
    cr_expect_eq(prod_count(p, MSG_PP_START), 0);
    cr_expect_eq(cons_read(c), 0);
    prod_trigger(p, "go");
    cr_expect_eq(prod_count(p, MSG_PP_START), 0, "too late");
}

Test(trigger, R22_start_request_wins)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(START, 1000, "go", 500));
    cons_ask(c, MSG_C_START);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    world_advance_ms(w, 5000);
    cr_expect_not(c->disabled, "the wait for the trigger is over");
}

Test(trigger, T102_T103_T104_who_and_what)
{
    struct prod *p = prod_new(w, "mock_producer", 7), *q = prod_new(w, "mock_x", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    config(START, 60000);
    cfg_trigger(&w->cfg, "go", "mock_produc[e-r]+", 1, 0, 0);
    cfg_trigger(&w->cfg, "other", NULL, 1, 0, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(q, "go");
    prod_trigger(q, "unknown");
    cr_expect_eq(prod_count(p, MSG_PP_START), 0);
    prod_trigger(p, "go");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
}

Test(trigger, T106_R181_one_request_for_two_sessions)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    config(START, 60000);
    cfg_trigger(&w->cfg, "a", NULL, 1000, 0, 0);
    cfg_trigger(&w->cfg, "b", NULL, 1000, 0, 0);
    cons_enable(c, &w->cfg);
    cons_enable(d, one(START, 60000, "b", 1000));
    prod_trigger(p, "a,b");
    cr_expect_eq(prod_count(p, MSG_PP_START), 2);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), 2,
                 "also the one that came after the start");
    cons_read(d);
    cr_expect_eq(cons_count(d, PBF_TracePacket_trigger), 1);
}

Test(trigger, T108_T112_stop_tracing)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    config(STOP, 60000);
    cfg_trigger(&w->cfg, "first", NULL, 1000, 0, 0);
    cfg_trigger(&w->cfg, "second", NULL, 10, 0, 0);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1, "it starts normally");
    prod_put(p, 1, "before");
    cr_expect_eq(cons_read(c), 0, "T111");
    prod_trigger(p, "first,second");
    prod_put(p, 1, "between");
    world_advance_ms(w, 900);
    cr_expect_not(c->disabled, "the first one decides");
    world_advance_ms(w, 101);
    cr_expect(c->disabled);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    cons_read(c);
    cr_expect(cons_has(c, "before") && cons_has(c, "between"));
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), 2);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), 0, "T109: each once");
}

Test(trigger, T110_stop_timeout)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(STOP, 1000, "t", 10));
    prod_put(p, 1, "data");
    world_advance_ms(w, 1001);
    cr_expect(c->disabled);
    cr_expect_eq(cons_read(c), 0);
}

Test(trigger, R30_duration_after_a_stop_trigger)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(STOP, 1000, "t", 5000));
    world_advance_ms(w, 900);
    prod_trigger(p, "t");
    world_advance_ms(w, 4000);
    cr_expect_not(c->disabled, "the trigger's own timer stops it");
    world_advance_ms(w, 1001);
    cr_expect(c->disabled);
}

/* A deferred session whose trigger came before its start was never stopped: neither by the trigger
 * nor by its duration, which leaves that to the trigger (R30). */
Test(trigger, R174_R179_a_stop_trigger_before_the_start)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    one(STOP, 60000, "t", 1000);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, &w->cfg);
    cons_enable(d, &w->cfg);
    prod_trigger(p, "t");
    cons_ask(c, MSG_C_START);
    world_advance_ms(w, 999);
    cr_expect_not(c->disabled);
    world_advance_ms(w, 1);
    cr_expect(c->disabled, "its delay counts from the trigger");
    cr_expect(d->disabled, "started or not");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cr_expect_gt(cons_read(c), 0);
}

Test(trigger, T113_T114_limit_per_day)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    config(START, 600000000);
    cfg_trigger(&w->cfg, "go", NULL, 1, 1, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "go");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cons_ask(c, MSG_C_FREE);
    world_advance_ms(w, 23ull * 3600 * 1000);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "go");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1, "T113: 23 hours later it is over the limit");
    cr_expect_eq(cons_read(c), 0);
    world_advance_ms(w, 3600ull * 1000 + 1);
    prod_trigger(p, "go");
    cr_expect_eq(prod_count(p, MSG_PP_START), 2, "T114");
}

Test(trigger, T115_skip_probability)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    unsigned hits = 0;
    prod_register(p, "ds", 0);
    chrono_random_seed(42);
    config(CLONE, 600000);
    cfg_trigger(&w->cfg, "always", NULL, 1, 0, 1.0);
    cfg_trigger(&w->cfg, "half", NULL, 1, 0, 0.5);
    cfg_trigger(&w->cfg, "never", NULL, 1, 0, 0.0);
    cons_enable(c, &w->cfg);
    cons_observe(c, 4);
    for (int i = 0; i < 100; i++) {
        prod_trigger(p, "always");
        world_advance_ms(w, 1);
    }
    cr_expect_eq(c->nevents, 0, "1 skips always");
    for (int i = 0; i < 100; i++) {
        prod_trigger(p, "half");
        world_advance_ms(w, 1);
    }
    hits = c->nevents;
    cr_expect(hits > 25 && hits < 75, "%u of 100", hits);
    for (int i = 0; i < 10; i++) {
        prod_trigger(p, "never");
        world_advance_ms(w, 1);
    }
    cr_expect_eq(c->nevents, hits + 10);
    chrono_random_seed(0);
}

Test(trigger, R180_T117_clone_trigger_event)
{
    struct prod *p = prod_new(w, "mock", 77);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_observe(c, 4);
    cons_enable(c, one(CLONE, 60000, "snap", 500));
    prod_trigger(p, "snap");
    cr_expect_eq(c->nevents, 0, "not before its delay");
    world_advance_ms(w, 501);
    cr_assert_eq(c->nevents, 1);
    struct bytes_view h =
        msg_part(c->events.p, c->events.n, PBF_ObservableEvents_clone_trigger_hit, 0);
    cr_expect_str_eq(msg_str(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_trigger_name), "snap");
    cr_expect_str_eq(msg_str(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_producer_name), "mock");
    cr_expect_eq(msg_num(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_producer_uid, 0), 77);
    cr_expect_eq(msg_num(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_trigger_delay_ms, 0), 500);
    cr_expect_eq(msg_num(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_tracing_session_id, 0), 1);
    cr_expect_eq(msg_num(h.p, h.n, PBF_ObservableEvents_CloneTriggerHit_boot_time_ns, 0),
                 1000 * CHRONO_SEC);
    cr_expect_not(c->disabled, "the session goes on");
    cr_expect_eq(cons_read(c), 0, "R180: never readable");
    prod_trigger(p, "snap,snap"); /* two hits in one tick are two messages */
    world_advance_ms(w, 501);
    cr_expect_eq(c->nevents, 3);
}

Test(trigger, a_flood_of_triggers_is_bounded)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(STOP, 600000, "t", 100000));
    for (int i = 0; i < 5000; i++)
        prod_trigger(p, "t");
    world_advance_ms(w, 100001);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), 4096);
}

/* 4096 triggers may be remembered, whose names could be as long as a config or an introduction
 * allows: half a gigabyte in one session that nobody reads. */
Test(trigger, long_names_count_for_what_is_remembered)
{
    static char name[30001];
    memset(name, 'p', 30000);
    struct prod *p = prod_new(w, name, 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(STOP, 600000, "t", 100000));
    for (int i = 0; i < 300; i++)
        prod_trigger(p, "t");
    world_advance_ms(w, 100001);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), (4u << 20) / 30001);
}

Test(trigger, a_request_with_many_names_is_worked_off_in_slices)
{
    world_free(w);
    w = world_new_whole();
    struct prod *p = prod_new(w, "p", 7), *q = prod_new(w, "q", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    cons_enable(c, one(STOP, 600000, "t", 100000));
    struct bytesbuf b;
    bytesbuf_init(&b, 1u << 20);
    for (size_t i = 0; i < 20000; i++)
        bytesbuf_pb_str(&b, PBF_ActivateTriggersRequest_trigger_names, "t");
    struct msg_request m = {.cookie = 1000};
    msg_body_copy(&m.body, b.p, b.n);
    ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_TRIGGERS, &m);
    struct msg_request sync = {.cookie = 1000};
    ACTOR_POST(w->reactor, q->endpoint, q->actor.id, MSG_P_SYNC, &sync);
    for (int i = 0; i < 3; i++)
        reactor_tick(w->reactor, 0);
    cr_expect_eq(prod_count(q, MSG_PP_REPLY), 2, "the neighbour is answered");
    cr_expect_eq(prod_count(p, MSG_PP_REPLY), 1, "while most of the names are still to come");
    world_settle(w);
    cr_expect_eq(prod_count(p, MSG_PP_REPLY), 2);
    bytesbuf_fini(&b);
}

Test(trigger, Q9_triggers_without_a_mode)
{
    struct prod *p = prod_new(w, "p", 7);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cr_expect_eq(cons_read(c), 0);
    prod_trigger(p, "t");
    cr_expect_gt(cons_read(c), 0, "readable after any listed trigger");
}
