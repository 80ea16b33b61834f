/* SPDX-License-Identifier: Apache-2.0 */
/* Flushes rule by rule: service.md section 6. */
#include <criterion/criterion.h>

#include <fcntl.h>

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

TestSuite(rules_flush, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

static struct bytesbuf *quiet(const char *source)
{
    plain(source);
    cfg_quiet(&w->cfg);
    return &w->cfg;
}

static uint64_t stat_of(struct cons *c, uint32_t field)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
    return msg_num(s.p, s.n, field, 0);
}

static void clone_of(struct cons *k, uint64_t id)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_session_id, id);
    cons_clone(k, &b, -1);
    bytesbuf_fini(&b);
}

/* ipc.md R94. */
Test(rules_flush, R90_flags_row_by_row)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1), *b = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_flush_period_ms, 100);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_duration_ms, 150);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_bugreport_score, 1);
    cons_enable(c, &w->cfg);
    static const uint64_t asked[] = {0, 0x34, 0x22, 0xFFF, UINT64_MAX};
    for (size_t i = 0; i < 5; i++) {
        cons_flush_begin(c, 0, asked[i]);
        cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, i)->flags, asked[i], "as the consumer said");
    }
    clone_of(k, 1);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 5)->flags, 0x13, "clone");
    clone_of(b, UINT64_MAX);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 6)->flags, 0x113, "clone for a bugreport");
    world_advance_ms(w, 100);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 7)->flags, 0x11, "periodic");
    world_advance_ms(w, 50);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 9);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 8)->flags, 0x12, "final");
    cons_ask(c, MSG_C_FREE);
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_file_write_period_ms, 1000);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_flush_mode, 3);
    int fd = open(world_path(w, "trace"), O_RDWR | O_CREAT, 0600);
    cr_assert_geq(fd, 0);
    cons_enable_fd(c, &w->cfg, fd);
    world_advance_ms(w, 1000);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 10);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 9)->flags, 0x11, "before a file write");
}

static size_t slow_events(struct cons *c)
{
    cons_read(c);
    return cons_events(c, PBF_TracingServiceEvent_last_flush_slow_data_sources);
}

Test(rules_flush, R90_R96_reasons_that_name_the_slow)
{
    static const struct {
        uint64_t flags;
        bool named;
    } rows[] = {{0x0, false},   {0x1, false},           {0x2, true},  {0x3, true},
                {0x4, false},   {0x5, false},           {0xA, false}, {0xF, false},
                {0x22, true},   {0x20, false},          {0x32, true}, {0xFF2, true},
                {0xFF6, false}, {UINT64_MAX - 13, true}};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, plain("ds"));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cons_flush_begin(c, 10, rows[i].flags);
        world_advance_ms(w, 10);
        cr_expect_eq(slow_events(c), rows[i].named, "flags %#llx: unknown values read as 0",
                     (unsigned long long)rows[i].flags);
    }
}

Test(rules_flush, R91_every_flush_is_told_as_begun)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, &w->cfg);
    cons_flush_begin(c, 0, 0);
    cr_expect(c->replied && !c->reply_ok);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_flush_started), 1, "CONFIGURED: refused");
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_flushed), 0);
    cons_ask(c, MSG_C_START);
    p->mute = true;
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_flush_started), 1, "before it ends");
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_flushed), 0);
    prod_ack_flush(p, 1);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_all_data_sources_flushed), 1);
    cons_ask(c, MSG_C_DISABLE);
    cons_flush_begin(c, 0, 0);
    cr_expect(c->replied && !c->reply_ok);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_flush_started), 1, "DISABLED: refused");
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_requested), 1);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 1);
}

Test(rules_flush, R95_one_ack_for_all_pending_flushes_of_a_producer)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1), *e = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "other", 0);
    p->mute = q->mute = true;
    cons_enable(c, quiet("ds"));
    cons_enable(d, quiet("ds"));
    quiet("ds");
    cfg_source(&w->cfg, "other", 0);
    cons_enable(e, &w->cfg);
    cons_flush_begin(c, 1000, 0); /* 1 */
    cons_flush_begin(e, 1000, 0); /* 2, both producers */
    cons_flush_begin(d, 1000, 0); /* 3 */
    prod_ack_flush(p, 1);
    cr_expect(c->replied && c->reply_ok);
    cr_expect_not(d->replied);
    cons_flush_begin(c, 1000, 0); /* 4 */
    prod_ack_flush(p, 3);
    cr_expect(d->replied && d->reply_ok, "in all sessions");
    cr_expect_not(e->replied, "q has not acked");
    cr_expect_not(c->replied, "4 is above");
    prod_ack_flush(q, 2);
    cr_expect(e->replied && e->reply_ok);
    prod_ack_flush(q, 4);
    cr_expect_not(c->replied, "q was not asked");
    prod_ack_flush(p, 4);
    cr_expect(c->replied && c->reply_ok);
}

Test(rules_flush, R96_who_is_named)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1), *r = prod_new(w, "r", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(p, "b", DS_NO_FLUSH);
    prod_register(q, "a", 0);
    for (int i = 0; i < 40; i++)
        prod_register(r, "c", 0);
    p->mute = r->mute = true;
    plain("a");
    cfg_source(&w->cfg, "b", 0);
    cons_enable(c, &w->cfg);
    for (int step = 0; step < 2; step++) {
        cons_flush_begin(c, 10, 0x12);
        world_advance_ms(w, 10);
        cr_expect(c->replied && !c->reply_ok);
        cons_read(c);
        struct bytes_view l = bytes_view(NULL, 0);
        for (size_t i = 0; !l.n && i < c->npkts; i++) {
            struct bytes_view e =
                msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_service_event, 0);
            l = msg_part(e.p, e.n, PBF_TracingServiceEvent_last_flush_slow_data_sources, 0);
        }
        size_t n = msg_fields(l.p, l.n, 1);
        if (step) {
            cr_expect_eq(n, 32, "at most");
            continue;
        }
        cr_assert_eq(n, 2, "all instances of p, and none of q, which has acked");
        for (size_t i = 0; i < n; i++) {
            struct bytes_view ds = msg_part(l.p, l.n, 1, i);
            cr_expect_str_eq(msg_str(ds.p, ds.n, 1), "p");
            cr_expect_str_eq(msg_str(ds.p, ds.n, 2), i ? "b" : "a");
        }
        cons_ask(c, MSG_C_FREE);
        cfg_source(&w->cfg, "c", 0);
        cons_enable(c, &w->cfg);
    }
}

/* Upstream leaves such a request open for ever; a consumer that asks cannot tell this from a
 * service that hangs. A rejection is what its client library makes of any other failure. */
Test(rules_flush, R98_a_flush_without_a_session_fails)
{
    struct cons *c = cons_new(w, 1);
    cons_flush_begin(c, 0, 0);
    cr_expect(c->replied);
    cr_expect_not(c->reply_ok, "it is never answered with success");
    cons_enable(c, plain("ds"));
    cons_ask(c, MSG_C_FREE);
    cons_flush_begin(c, 0, 0);
    cr_expect_not(c->reply_ok);
}

Test(rules_flush, R99_an_ack_that_comes_too_late)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    cons_flush_begin(c, 10, 0);
    world_advance_ms(w, 10);
    cr_expect(c->replied && !c->reply_ok);
    cons_flush_begin(c, 10, 0);
    prod_ack_flush(p, 1);
    cr_expect_not(c->replied, "it does not help the next flush");
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_succeeded), 0);
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_failed), 1);
    world_advance_ms(w, 10);
    cr_expect_eq(stat_of(c, PBF_TraceStats_flushes_failed), 2);
}
