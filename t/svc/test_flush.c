/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session_flush, svc/scrape: service.md section 6, 5.4 and T52 to T65. */
#include <criterion/criterion.h>

#include <string.h>

#include "protos/fieldnum.h"
#include "svc/session_flush.h"
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

TestSuite(flush, .init = setup, .fini = teardown);

static struct bytesbuf *quiet(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    if (source)
        cfg_source(&w->cfg, source, 0);
    cfg_quiet(&w->cfg);
    return &w->cfg;
}

static uint64_t stat_of(struct cons *c, uint32_t field)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
    return msg_num(s.p, s.n, field, 0);
}

static struct prod *scraping(uint32_t mode)
{
    const struct prod_opts o = {.name = "p", .uid = 1, .pid = 2, .scraping = mode};
    return prod_new_opts(w, &o);
}

Test(flush, T52_R90_explicit_flush)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    cons_flush_begin(c, 0, 0xABCDEF0000000034);
    const struct heard *f = prod_heard(p, MSG_PP_FLUSH, 0);
    cr_assert_not_null(f);
    cr_expect_eq(f->flags, 0xABCDEF0000000034, "forwarded unchanged, reserved bits included");
    cr_expect_eq(f->nids, 1);
    cr_expect_eq(f->ids[0], prod_instance(p, 0));
    cr_expect(c->replied && c->reply_ok);
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_requested), 1);
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_succeeded), 1);
}

Test(flush, R93_R98_refused_flushes)
{
    struct cons *c = cons_new(w, 1);
    cons_flush_begin(c, 0, 0);
    cr_expect(c->replied && !c->reply_ok, "no session");
    quiet(NULL);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, &w->cfg);
    cons_flush_begin(c, 0, 0);
    cr_expect(c->replied && !c->reply_ok, "not started");
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_requested), 0);
}

Test(flush, R94_nobody_to_ask)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, quiet(NULL));
    cons_flush_begin(c, 5000, 0);
    cr_expect(c->replied && c->reply_ok, "at the next iteration, without a timeout");
}

Test(flush, T54_one_ack_for_many)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    for (int i = 0; i < 3; i++)
        cons_flush_begin(c, 1000, 0);
    prod_ack_flush(p, prod_heard(p, MSG_PP_FLUSH, 2)->id);
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_succeeded), 3);
    cons_flush_begin(c, 10, 0);
    world_advance_ms(w, 9);
    cr_expect_not(c->replied);
    world_advance_ms(w, 1);
    cr_expect(c->replied && !c->reply_ok);
    prod_ack_flush(p, prod_heard(p, MSG_PP_FLUSH, 3)->id); /* R99 */
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_failed), 1);
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_succeeded), 3);
}

Test(flush, acks_from_the_future_and_repeated)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    p->mute = q->mute = true;
    cons_enable(c, quiet("ds"));
    cons_flush_begin(c, 1000, 0);
    for (int i = 0; i < 50; i++)
        prod_ack_flush(p, UINT64_MAX); /* 5.5: covers what is pending, and only for this producer */
    cr_expect_not(c->replied);
    prod_ack_flush(q, 1);
    cr_expect(c->replied && c->reply_ok);
    cons_flush_begin(c, 1000, 0);
    prod_ack_flush(q, 2);
    cr_expect_not(c->replied, "an id from the future does not ack what comes later");
    prod_ack_flush(p, 2);
    cr_expect(c->replied && c->reply_ok);
}

Test(flush, T55_periodic)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    quiet("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_flush_period_ms, 10);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 0, "none at the start");
    world_advance_ms(w, 35);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 3);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->flags, 0x11);
    cons_ask(c, MSG_C_DISABLE);
    world_advance_ms(w, 30);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 3);
}

Test(flush, T56_R92_no_flush)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(p, "b", DS_NO_FLUSH);
    prod_register(q, "b", DS_NO_FLUSH);
    quiet("a");
    cfg_source(&w->cfg, "b", 0);
    cons_enable(c, &w->cfg);
    cons_flush_begin(c, 0, 0);
    cr_expect(c->reply_ok);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 1);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->nids, 1);
    cr_expect_eq(prod_count(q, MSG_PP_FLUSH), 0);
}

Test(flush, R88_emulated_producers_scrape_themselves)
{
    const struct prod_opts o = {
        .name = "remote", .uid = 1, .machine_id = 5, .scraping = 1, .emulated = true};
    struct prod *p = prod_new_opts(w, &o);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NO_FLUSH);
    quiet("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_all_machines, 1);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_heard(p, MSG_PP_SETUP_TRACING, 0)->flags, 0, "no descriptor");
    cons_flush_begin(c, 0, 0);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 1);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->nids, 0);
    cr_expect(c->reply_ok);
}

Test(flush, R51_Q7_disconnect_does_not_complete_a_flush)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    cons_flush_begin(c, 100, 0);
    prod_bye(p);
    cr_expect_not(c->replied);
    world_advance_ms(w, 100);
    cr_expect(c->replied && !c->reply_ok);
}

Test(flush, R97_session_gone_meanwhile)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    cons_flush_begin(c, 1000, 0);
    uint64_t id = prod_heard(p, MSG_PP_FLUSH, 0)->id, flush = c->reply_cookie;
    struct msg_request m = {.cookie = 0};
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_FREE, &m);
    world_settle(w);
    cr_expect_eq(c->reply_cookie, flush);
    cr_expect(c->replied && !c->reply_ok, "the requester sees failure");
    prod_ack_flush(p, id);
}

/* Leaves a chunk of writer 5 with two packets, the second one unfinished, in page 0. */
static void half_written(struct prod *p, const char *first)
{
    uint8_t payload[256];
    size_t n = frag_packet(payload, first);
    n += frag_packet(payload + n, "unfinished");
    prod_fill(p, 0, 5, 0, 2, 0, payload, n, 1);
}

Test(flush, T58_scrape_on_flush)
{
    struct prod *p = scraping(1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    prod_writer(p, 5, prod_target(p, 0));
    half_written(p, "open");
    cons_flush_begin(c, 0, 0);
    cr_expect(c->reply_ok);
    cons_read(c);
    cr_expect_eq(cons_texts(c), 1);
    cr_expect(cons_has(c, "open"));
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    cr_expect_eq(cons_texts(c), 0, "not twice");
}

Test(flush, T58_scrape_after_a_timeout)
{
    struct prod *p = scraping(1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    prod_writer(p, 5, prod_target(p, 0));
    half_written(p, "open");
    cons_flush_begin(c, 10, 0);
    world_advance_ms(w, 10);
    cr_expect(c->replied && !c->reply_ok);
    cons_read(c);
    cr_expect(cons_has(c, "open"));
}

Test(flush, R86_who_is_scraped)
{
    struct prod *p = scraping(2); /* disabled */
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    prod_writer(p, 5, prod_target(p, 0));
    half_written(p, "off");
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    cr_expect_eq(cons_texts(c), 0);
    prod_bye(p);
    cons_read(c);
    cr_expect_eq(cons_texts(c), 0);
}

Test(flush, T60_scrape_on_disconnect)
{
    struct prod *p = scraping(1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    prod_writer(p, 5, prod_target(p, 0));
    half_written(p, "open");
    prod_bye(p);
    cons_read(c);
    cr_expect(cons_has(c, "open"));
}

Test(flush, T61_scrape_on_stop)
{
    struct prod *p = scraping(1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    prod_writer(p, 5, prod_target(p, 0));
    half_written(p, "open");
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    cr_expect(cons_has(c, "open"));
}

Test(flush, T64_slow_flush_event)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    cons_flush_begin(c, 10, 0x22);
    world_advance_ms(w, 10);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_last_flush_slow_data_sources), 1);
    cons_flush_begin(c, 10, 0x22);
    world_advance_ms(w, 10);
    p->mute = false;
    cons_flush_begin(c, 10, 0x22);
    cr_expect(c->reply_ok);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_last_flush_slow_data_sources), 0,
                 "the next flush discards what was not emitted");
    cons_flush_begin(c, 10, 0x34);
    p->mute = true;
    cons_flush_begin(c, 10, 0x34);
    world_advance_ms(w, 10);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_last_flush_slow_data_sources), 0,
                 "only for stops and clones");
}

Test(flush, T70_several_events_are_queued)
{
    struct cons *c = cons_new(w, 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cons_enable(c, &w->cfg);
    cons_flush_begin(c, 0, 0);
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_flush_started), 2);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_flushed), 2);
    for (int i = 0; i < 70; i++)
        cons_flush_begin(c, 0, 0);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_flush_started), 64,
                 "the oldest are dropped");
}

Test(flush, R93_too_many)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    for (int i = 0; i < 1001; i++)
        cons_flush_begin(c, 1000, 0);
    cr_expect_not(c->replied);
    cons_flush_begin(c, 1000, 0);
    cr_expect(c->replied && !c->reply_ok, "more than 1000 are pending");
}

/* A session may have a thousand flushes pending, each with thousands of producers to wait for. */
Test(flush, what_waits_for_producers_is_charged)
{
    struct charge_limit limits[CHARGE_KINDS];
    charge_default_limits(limits);
    limits[CHARGE_QUEUE_BYTES].per_uid = 10 * sizeof(struct session_flush);
    world_free(w);
    w = world_new_limited(limits);
    struct charge_book *book = service_charges(w->svc);
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    int n = 0;
    do
        cons_flush_begin(c, 1000, 0);
    while (!c->replied && ++n < 20);
    cr_expect_eq(n, 9, "ten, and what they wait for, are too many: %d", n);
    cr_expect(c->replied && !c->reply_ok, "a refusal");
    cr_expect_gt(charge_balance(book, 1, CHARGE_QUEUE_BYTES), 0);
    prod_ack_flush(p, UINT64_MAX);
    cr_expect_eq(charge_balance(book, 1, CHARGE_QUEUE_BYTES), 0);
    cons_flush_begin(c, 1000, 0);
    cr_expect_not(c->replied, "there is room again");
}
