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
