/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done to all instances, producers or registrations at once goes in slices. Here each slice
 * does one piece, and the world changes between two of them. t/svc/sliced.sh runs the other cases
 * the same way.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "svc/consumer.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "t/svc/world.h"

#define MANY 6

static struct world *w;
static struct prod *many[MANY];

static void init(void)
{
    w = world_new_sliced();
}

static void fini(void)
{
    world_free(w);
}

TestSuite(walk, .init = init, .fini = fini);

static void ticks(int n)
{
    while (n-- > 0)
        reactor_tick(w->reactor, 0);
}

static void add_many(unsigned flags)
{
    for (int i = 0; i < MANY; i++) {
        many[i] = prod_new(w, "one of many", 1);
        prod_register(many[i], "a", flags);
        prod_register(many[i], "b", flags);
    }
}

static const struct bytesbuf *both(bool deferred)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 16);
    cfg_quiet(&w->cfg);
    cfg_source(&w->cfg, "a", 0);
    cfg_source(&w->cfg, "b", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, deferred);
    return &w->cfg;
}

/* Requests that do not wait for what they bring about. */
static void post_enable(struct cons *c, const struct bytesbuf *cfg)
{
    struct msg_enable m = {.cookie = ++c->cookie, .fd = -1};
    c->enable_cookie = c->cookie;
    c->disabled = c->enable_rejected = false;
    cr_assert_eq(msg_body_copy(&m.body, cfg->p, cfg->n), 0);
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_ENABLE, &m);
}

static void post_request(struct cons *c, enum msg_kind kind)
{
    struct msg_request m = {.cookie = ++c->cookie};
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, kind, &m);
}

static uint64_t post_flush(struct cons *c, uint32_t timeout_ms)
{
    struct msg_flush_request m = {.cookie = ++c->cookie, .timeout_ms = timeout_ms};
    c->reply_cookie = c->cookie;
    c->replied = false;
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_FLUSH, &m);
    return c->cookie;
}

static void post_query(struct cons *c)
{
    struct msg_query m = {.cookie = ++c->cookie};
    c->reply_cookie = c->cookie;
    c->replied = false;
    c->reply_parts = 0;
    bytesbuf_clear(&c->reply);
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_QUERY, &m);
}

/* What a producer heard of instances, in order: s(etup), r(un), e(nd), f(lush). */
static const char *commands(const struct prod *p)
{
    static char text[4][64];
    static unsigned turn;
    char *out = text[turn++ & 3];
    size_t n = 0;
    for (size_t i = 0; i < p->nheard && n < 60; i++) {
        enum msg_kind k = p->heard[i].kind;
        char c = k == MSG_PP_SETUP   ? 's'
                 : k == MSG_PP_START ? 'r'
                 : k == MSG_PP_STOP  ? 'e'
                 : k == MSG_PP_FLUSH ? 'f'
                                     : 0;
        if (c)
            out[n++] = c;
    }
    out[n] = '\0';
    return out;
}

static const struct session *session_of(const struct cons *c)
{
    return consumer_session(service_consumer_of(w->svc, c->endpoint));
}

static void expect_all(const char *want)
{
    for (int i = 0; i < MANY; i++)
        cr_expect_str_eq(commands(many[i]), want, "producer %d heard %s", i, commands(many[i]));
}

/* ---- set up, start, stop ---- */

Test(walk, R5_R65_a_producer_hears_what_it_would_in_one_go)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    post_enable(c, both(false));
    ticks(3);
    cr_expect_gt(session_of(c)->ninstances, 0);
    cr_expect_lt(session_of(c)->ninstances, 2 * MANY, "it takes more than a few ticks");
    cr_expect_eq(session_of(c)->state, SESSION_STARTED, "the session is what it was asked to be");
    world_settle(w);
    expect_all("ssrr");
    cr_expect_eq(prod_instance(many[0], 0), 1, "entry by entry, registration by registration");
    cr_expect_eq(prod_instance(many[1], 0), 2);
    cr_expect_eq(prod_instance(many[0], 1), 1 + MANY);
}

Test(walk, requests_behind_it_see_it_done)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    post_enable(c, both(false));
    post_flush(c, 0);
    post_request(c, MSG_C_DISABLE);
    post_query(c);
    post_request(c, MSG_C_FREE);
    world_settle(w);
    expect_all("ssrrfee");
    cr_expect(c->replied && c->reply_ok);
    struct bytes_view state = msg_part(c->reply.p, c->reply.n, 1, 0);
    struct bytes_view s = msg_part(state.p, state.n, PBF_TracingServiceState_tracing_sessions, 0);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TracingServiceState_TracingSession_num_data_sources, 0),
                 2 * MANY);
    cr_expect_str_eq(msg_str(s.p, s.n, PBF_TracingServiceState_TracingSession_state), "DISABLED");
    cr_expect(c->disabled);
    cr_expect_str_eq(c->error, "");
}

Test(walk, others_are_served_meanwhile)
{
    struct cons *c = cons_new(w, 1), *other = cons_new(w, 1);
    add_many(0);
    post_enable(c, both(false));
    post_request(other, MSG_C_CAPABILITIES);
    other->reply_cookie = other->cookie;
    ticks(3);
    cr_expect(other->replied && other->reply_ok);
    cr_expect_lt(session_of(c)->ninstances, 2 * MANY);
}

Test(walk, R28_all_started_comes_after_the_last)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    cons_observe(c, 2);
    post_enable(c, both(false));
    for (int i = 0; i < 200 && c->nevents == 0; i++)
        ticks(1);
    cr_expect_eq(c->nevents, 1);
    expect_all("ssrr");
    world_settle(w);
    cr_expect_eq(c->nevents, 1);
}

Test(walk, what_comes_while_it_goes_on_is_set_up_once)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    post_enable(c, both(false));
    ticks(4);
    struct prod *late = prod_new(w, "late", 1); /* settles */
    prod_register(late, "a", 0);
    cr_expect_str_eq(commands(late), "sr");
    cons_ask(c, MSG_C_FREE);
    prod_forget(late);
    post_enable(c, both(false));
    ticks(4);
    struct msg_request m = {0};
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, "b");
    cr_assert_eq(msg_body_copy(&m.body, b.p, b.n), 0);
    bytesbuf_fini(&b);
    ACTOR_POST(w->reactor, late->endpoint, late->actor.id, MSG_P_REGISTER, &m);
    world_settle(w);
    cr_expect_eq(prod_count(late, MSG_PP_SETUP), 2, "a and b once each");
    cr_expect_eq(prod_count(late, MSG_PP_START), 2);
}

Test(walk, who_goes_while_it_goes_on_is_left_out)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    for (int cut = 1; cut < 40; cut += 3) {
        struct prod *p = prod_new(w, "short-lived", 1);
        struct msg_empty bye = {0};
        prod_register(p, "a", 0);
        prod_register(p, "b", 0);
        post_enable(c, both(false));
        ticks(cut);
        ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_BYE, &bye);
        world_settle(w);
        cr_expect_eq(session_of(c)->ninstances, 2 * MANY);
        cr_expect_eq(session_of(c)->instances_in[DSINST_STARTED], 2 * MANY, "cut after %d", cut);
        cons_ask(c, MSG_C_FREE);
    }
}

Test(walk, R35_a_disconnect_stops_what_was_set_up)
{
    add_many(0);
    for (int cut = 1; cut < 60; cut += 2) {
        struct cons *c = cons_new(w, 1);
        struct msg_empty bye = {0};
        post_enable(c, both(false));
        ticks(cut);
        ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_BYE, &bye);
        world_settle(w);
        for (int i = 0; i < MANY; i++) {
            cr_expect_eq(prod_count(many[i], MSG_PP_STOP), prod_count(many[i], MSG_PP_SETUP));
            cr_expect_eq(prod_count(many[i], MSG_PP_SETUP), 2, "its requests come first");
            prod_forget(many[i]);
        }
        cr_expect_eq(service_sessions(w->svc), 0);
    }
}

/* A timer does not wait as the consumer's requests do. */
Test(walk, R31_a_timer_in_the_midst_of_the_start)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    for (int cut = 1; cut < 60; cut += 2) {
        both(false);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_duration_ms, 1);
        post_enable(c, &w->cfg);
        ticks(cut);
        chrono_virtual_advance(CHRONO_MS);
        world_settle(w);
        world_advance_ms(w, 10000);
        cr_expect(c->disabled, "cut after %d", cut);
        for (int i = 0; i < MANY; i++) {
            cr_expect_eq(prod_count(many[i], MSG_PP_STOP), prod_count(many[i], MSG_PP_SETUP));
            cr_expect_leq(prod_count(many[i], MSG_PP_START), prod_count(many[i], MSG_PP_SETUP));
            prod_forget(many[i]);
        }
        cons_ask(c, MSG_C_FREE);
    }
}

Test(walk, R32_a_stop_timeout_in_the_midst_of_the_stop)
{
    struct cons *c = cons_new(w, 1);
    add_many(DS_NOTIFY_STOP);
    both(false);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_data_source_stop_timeout_ms, 1);
    cons_enable(c, &w->cfg);
    post_request(c, MSG_C_DISABLE);
    ticks(3);
    cr_expect_eq(session_of(c)->state, SESSION_STOP_WAIT);
    cr_expect_eq(prod_count(many[MANY - 1], MSG_PP_STOP), 0);
    chrono_virtual_advance(CHRONO_MS);
    world_settle(w);
    expect_all("ssrree");
    cr_expect(c->disabled);
}

Test(walk, L5_a_session_that_was_not_started_stops_without_acks)
{
    struct cons *c = cons_new(w, 1);
    add_many(DS_NOTIFY_STOP);
    cons_enable(c, both(true));
    post_request(c, MSG_C_DISABLE);
    post_request(c, MSG_C_START);
    ticks(3);
    cr_expect_not(c->disabled);
    world_settle(w);
    cr_expect(c->disabled);
    expect_all("ssee");
}

Test(walk, R70_instances_of_the_first_walk_see_the_first_duration)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    both(false);
    cfg_trigger_mode(&w->cfg, 2, 7777);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    post_enable(c, &w->cfg);
    world_settle(w);
    struct prod *late = prod_new(w, "late", 1);
    prod_register(late, "a", 0);
    for (int i = 0; i < MANY; i++) {
        cr_expect_eq(prod_config(many[i], 0, PBF_DataSourceConfig_trace_duration_ms), 0);
        cr_expect_eq(prod_config(many[i], 1, PBF_DataSourceConfig_trace_duration_ms), 0);
    }
    cr_expect_eq(prod_config(late, 0, PBF_DataSourceConfig_trace_duration_ms), 7777);
}

/* ---- freeing ---- */

Test(walk, a_session_that_is_freed_is_gone_at_once)
{
    struct charge_book *book = service_charges(w->svc);
    struct cons *c = cons_new(w, 1);
    add_many(DS_NOTIFY_STOP);
    cons_enable(c, both(false));
    uint64_t last = prod_instance(many[MANY - 1], 1);
    post_request(c, MSG_C_FREE);
    post_enable(c, both(false));
    ticks(2);
    cr_expect_eq(service_sessions(w->svc), 1);
    cr_expect_eq(charge_balance(book, 1, CHARGE_BUFFER_BYTES), 16 << 10, "one of both");
    cr_expect_eq(prod_count(many[MANY - 1], MSG_PP_STOP), 0, "while it is still being stopped");
    world_settle(w);
    expect_all("ssrreessrr"); /* no new one before the old one stops */
    cr_expect_gt(prod_instance(many[0], 2), last);
}

Test(walk, R19_an_exclusive_session_begins_after_the_end_of_the_others)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    add_many(0);
    cons_enable(a, both(false));
    both(false);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_exclusive_prio, 5);
    post_enable(b, &w->cfg);
    world_settle(w);
    expect_all("ssrreessrr");
    cr_expect(a->disabled);
}

Test(walk, R197_stops_are_told_to_the_last)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    cons_enable(c, both(false));
    cons_observe(c, 1);
    cr_expect_eq(msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes),
                 2 * MANY);
    bytesbuf_clear(&c->events);
    cons_ask(c, MSG_C_FREE);
    cr_expect_eq(msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes),
                 2 * MANY);
}

/* ---- registrations ---- */

Test(walk, R64_unregistering_in_slices)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 1);
    struct prod *p = prod_new(w, "p", 1);
    for (int i = 0; i < 8; i++)
        prod_register(p, "a", 0);
    prod_register(p, "b", 0);
    cons_enable(a, both(false));
    prod_forget(p);
    struct msg_request m = {.cookie = 77};
    cr_assert_eq(msg_body_copy(&m.body, "a", 1), 0);
    ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_UNREGISTER, &m);
    ticks(3);
    cr_expect_gt(prod_count(p, MSG_PP_STOP), 0);
    cr_expect_lt(prod_count(p, MSG_PP_STOP), 8);
    cr_expect_eq(prod_count(p, MSG_PP_REPLY), 0);
    post_enable(b, both(false)); /* after the request: one registration has gone */
    world_settle(w);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 8);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 7 + 1);
    cr_expect_eq(session_of(a)->ninstances, 1);
    cr_expect_eq(session_of(b)->ninstances, 8, "what was set up since stays");
    cr_expect_eq(prod_count(p, MSG_PP_REPLY), 1);
}

Test(walk, R62_registering_while_a_session_comes)
{
    for (int cut = 0; cut < 12; cut++) {
        struct cons *a = cons_new(w, 1), *b = cons_new(w, 1);
        struct prod *p = prod_new(w, "p", 1);
        cons_enable(a, both(false));
        struct msg_request m = {0};
        struct bytesbuf d;
        bytesbuf_init(&d, 64);
        bytesbuf_pb_str(&d, PBF_DataSourceDescriptor_name, "b");
        cr_assert_eq(msg_body_copy(&m.body, d.p, d.n), 0);
        bytesbuf_fini(&d);
        ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_REGISTER, &m);
        ticks(cut);
        post_enable(b, both(false));
        world_settle(w);
        cr_expect_eq(session_of(a)->ninstances, 1, "cut after %d", cut);
        cr_expect_eq(session_of(b)->ninstances, 1, "cut after %d", cut);
        cr_expect_str_eq(commands(p), "srsr");
        cons_bye(a);
        cons_bye(b);
        prod_bye(p);
    }
}

Test(walk, R195_a_change_while_a_registration_is_on_its_way)
{
    for (int cut = 0; cut < 12; cut++) {
        struct cons *c = cons_new(w, 1);
        struct prod *p = prod_new(w, "p", 1);
        cons_enable(c, both(false));
        struct msg_request m = {0}, change = {.cookie = ++c->cookie};
        struct bytesbuf d;
        bytesbuf_init(&d, 64);
        bytesbuf_pb_str(&d, PBF_DataSourceDescriptor_name, "b");
        cr_assert_eq(msg_body_copy(&m.body, d.p, d.n), 0);
        bytesbuf_fini(&d);
        cr_assert_eq(msg_body_copy(&change.body, w->cfg.p, w->cfg.n), 0);
        ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_REGISTER, &m);
        ticks(cut);
        ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_CHANGE, &change);
        world_settle(w);
        cr_expect_str_eq(commands(p), "sr", "cut after %d: %s", cut, commands(p));
        cons_bye(c);
        prod_bye(p);
    }
}

Test(walk, R50_a_farewell_in_slices)
{
    struct cons *c = cons_new(w, 1);
    struct msg_empty bye = {0};
    add_many(DS_NOTIFY_STOP);
    cons_enable(c, both(false));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(c->disabled);
    for (int i = 0; i < MANY; i++)
        ACTOR_POST(w->reactor, many[i]->endpoint, many[i]->actor.id, MSG_P_BYE, &bye);
    ticks(4);
    cr_expect_not(c->disabled);
    cr_expect_gt(session_of(c)->ninstances, 0);
    world_settle(w);
    cr_expect(c->disabled, "R52: who has gone does not hold up the stop");
    cr_expect_eq(w->svc->nsources, 0);
    cr_expect_eq(idmap_count(&w->svc->instances), 0);
    cr_expect_eq(charge_total(service_charges(w->svc), CHARGE_SOURCE_BYTES), 0);
}

/* ---- flushes ---- */

Test(walk, R95_an_ack_before_the_question_is_none)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    for (int i = 0; i < MANY; i++)
        many[i]->mute = true;
    cons_enable(c, both(false));
    post_flush(c, 60000);
    ticks(2);
    struct prod *last = many[MANY - 1];
    cr_assert_eq(prod_count(last, MSG_PP_FLUSH), 0);
    prod_ack_flush(last, UINT64_MAX); /* settles: it is asked afterwards */
    cr_assert_eq(prod_count(last, MSG_PP_FLUSH), 1);
    for (int i = 0; i < MANY - 1; i++)
        prod_ack_flush(many[i], prod_heard(many[i], MSG_PP_FLUSH, 0)->id);
    cr_expect_not(c->replied, "it has not answered");
    prod_ack_flush(last, prod_heard(last, MSG_PP_FLUSH, 0)->id);
    cr_expect(c->replied && c->reply_ok);
}

Test(walk, R92_flushes_ask_in_order_of_their_ids)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    add_many(0);
    cons_enable(a, both(false));
    cons_enable(b, both(false));
    post_flush(a, 1000);
    post_flush(b, 1000);
    world_settle(w);
    for (int i = 0; i < MANY; i++) {
        cr_assert_eq(prod_count(many[i], MSG_PP_FLUSH), 2);
        cr_expect_lt(prod_heard(many[i], MSG_PP_FLUSH, 0)->id,
                     prod_heard(many[i], MSG_PP_FLUSH, 1)->id);
        cr_expect_eq(prod_heard(many[i], MSG_PP_FLUSH, 0)->nids, 2);
    }
    cr_expect(a->replied && a->reply_ok && b->replied && b->reply_ok);
}

Test(walk, R96_a_flush_that_is_too_late_before_all_were_asked)
{
    struct cons *c = cons_new(w, 1);
    add_many(0);
    cons_enable(c, both(false));
    post_flush(c, 1);
    ticks(2);
    chrono_virtual_advance(CHRONO_MS);
    world_settle(w);
    cr_expect(c->replied && !c->reply_ok);
    cr_expect_eq(session_of(c)->nflushes, 0);
    cr_expect_eq(session_of(c)->nasking, 0);
    cons_flush_begin(c, 1000, 0);
    cr_expect(c->replied && c->reply_ok, "the next one does not suffer");
}

Test(walk, R35_the_session_goes_while_its_flush_asks)
{
    struct cons *c = cons_new(w, 1);
    struct msg_empty bye = {0};
    add_many(0);
    cons_enable(c, both(false));
    post_flush(c, 1000);
    ticks(2);
    session_free((struct session *)(uintptr_t)session_of(c), NULL);
    world_settle(w);
    cr_expect(c->replied && !c->reply_ok);
    cr_expect(list_empty(&w->svc->asking));
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_BYE, &bye);
    world_settle(w);
}

Test(walk, R38_clears_go_to_all_in_slices)
{
    struct cons *c = cons_new(w, 1);
    add_many(DS_CLEARS);
    both(false);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_incremental_state_config);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_IncrementalStateConfig_clear_period_ms, 100);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    world_advance_ms(w, 100);
    for (int i = 0; i < MANY; i++) {
        cr_assert_eq(prod_count(many[i], MSG_PP_CLEAR), 1);
        cr_expect_eq(prod_heard(many[i], MSG_PP_CLEAR, 0)->nids, 2);
    }
}

/* ---- QueryServiceState ---- */

static size_t entries(const struct cons *c, uint32_t field)
{
    size_t n = 0;
    struct bytes_view part;
    for (size_t i = 0; (part = msg_part(c->reply.p, c->reply.n, 1, i)).n > 0; i++)
        n += msg_fields(part.p, part.n, field);
    return n;
}

Test(walk, R201_the_picture_is_that_of_the_begin)
{
    struct cons *c = cons_new(w, 0);
    add_many(0);
    for (int cut = 1; cut < 30; cut++) {
        post_query(c);
        ticks(cut);
        struct prod *p = prod_new(w, "came later", 1);
        prod_register(p, "a", 0);
        prod_register(many[0], "later", 0);
        world_settle(w);
        cr_expect(c->replied && c->reply_ok);
        cr_expect_eq(entries(c, PBF_TracingServiceState_producers), MANY, "cut after %d", cut);
        cr_expect_eq(entries(c, PBF_TracingServiceState_data_sources), 2 * MANY);
        prod_bye(p);
        prod_unregister(many[0], "later");
    }
}

Test(walk, R203_who_leaves_before_its_turn_is_not_told)
{
    struct cons *c = cons_new(w, 0);
    struct msg_empty bye = {0};
    add_many(0);
    post_query(c);
    ticks(3);
    ACTOR_POST(w->reactor, many[2]->endpoint, many[2]->actor.id, MSG_P_BYE, &bye);
    ACTOR_POST(w->reactor, many[3]->endpoint, many[3]->actor.id, MSG_P_BYE, &bye);
    world_settle(w);
    cr_expect(c->replied && c->reply_ok);
    cr_expect_leq(entries(c, PBF_TracingServiceState_producers), MANY);
    cr_expect_eq(entries(c, PBF_TracingServiceState_data_sources), 2 * (MANY - 2));
}

/* Many producers with long names: several parts. */
static void add_long(int n)
{
    char name[20001];
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    for (int i = 0; i < n; i++)
        prod_new(w, name, 1);
}

/* Each request had all of its answer made at once, wherever its reader was: a consumer that asks
 * and does not read held 256 MB of answers. */
Test(walk, a_state_is_made_no_faster_than_it_is_read)
{
    struct cons *c = cons_new(w, 0);
    struct msg_empty room = {0};
    add_long(40); /* seven parts */
    c->room_batches = 2;
    post_query(c);
    post_query(c);
    post_query(c);
    world_settle(w);
    cr_expect_eq(c->reply_parts, 0, "the last one has not begun");
    c->room_batches = SIZE_MAX;
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_READ_ROOM, &room);
    world_settle(w);
    cr_expect(c->replied && c->reply_ok);
    cr_expect_eq(c->reply_parts, 7);
    cr_expect_eq(entries(c, PBF_TracingServiceState_producers), 40);
}

Test(walk, who_leaves_while_its_answer_waits_leaves)
{
    struct cons *c = cons_new(w, 0);
    struct msg_empty bye = {0};
    add_long(40);
    c->room_batches = 0;
    post_query(c);
    post_query(c);
    world_settle(w);
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_BYE, &bye);
    world_settle(w);
    cr_expect_null(service_consumer_of(w->svc, c->endpoint));
}

Test(walk, R197_reports_wait_for_their_reader)
{
    struct cons *c = cons_new(w, 1);
    struct msg_empty room = {0};
    struct msg_observe m = {.cookie = 1000, .mask = 1};
    add_many(0);
    cons_enable(c, both(false));
    c->room_batches = 0;
    c->observe_cookie = 1000;
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_OBSERVE, &m);
    world_settle(w);
    cr_expect_eq(msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes),
                 0);
    c->room_batches = SIZE_MAX;
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_READ_ROOM, &room);
    world_settle(w);
    cr_expect_eq(msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes),
                 2 * MANY);
}

/* ---- permits (R74) ---- */

/* A buffer id comes back after 65,535 others; what a producer was allowed with it does not. */
Test(walk, R74_a_permit_ends_with_its_buffer)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", 0);
    cons_enable(c, both(false));
    cr_assert_eq(prod_target(p, 0), 1);
    cr_expect(prod_put_to(p, 1, 1, "mine"));
    cons_read(c);
    cr_expect(cons_has(c, "mine"));
    cons_ask(c, MSG_C_FREE);
    prod_unregister(p, "a");
    uint32_t next = 2;
    while (next != 1) { /* sessions that this producer has no part in */
        cfg_begin(&w->cfg);
        cfg_quiet(&w->cfg);
        for (int i = 0; i < 128 && next != 1; i++) {
            cfg_buffer(&w->cfg, 1);
            next = next == 65535 ? 1 : next + 1;
        }
        cr_assert(cons_enable(c, &w->cfg));
        cons_ask(c, MSG_C_FREE);
    }
    both(false);
    cr_assert(cons_enable(c, &w->cfg));
    cr_assert_eq(session_of(c)->buffers[0].id, 1);
    prod_put_to(p, 1, 1, "not mine");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 0);
}
