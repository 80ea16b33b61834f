/* SPDX-License-Identifier: Apache-2.0 */
/* svc/producer, svc/dsinst, svc/drain: service.md sections 3 to 5 and T31 to T51. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/charge.h"
#include "svc/dsinst.h"
#include "svc/producer.h"
#include "svc/service_int.h"
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

TestSuite(producer, .init = setup, .fini = teardown);

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

/* The encoded TracingServiceState. */
static struct bytes_view state(struct cons *c)
{
    cr_assert(cons_query(c, false));
    return msg_part(c->reply.p, c->reply.n, PBF_QueryServiceStateResponse_service_state, 0);
}

Test(producer, T31_ids_and_state)
{
    struct prod *a = prod_new(w, "one", 11);
    struct cons *c = cons_new(w, 0);
    prod_new(w, "two", 12);
    prod_register(a, "ds", 0);
    struct bytes_view s = state(c);
    for (size_t i = 0; i < 2; i++) {
        struct bytes_view p = msg_part(s.p, s.n, PBF_TracingServiceState_producers, i);
        cr_expect_eq(msg_num(p.p, p.n, PBF_TracingServiceState_Producer_id, 0), i + 1);
        cr_expect_eq(msg_num(p.p, p.n, PBF_TracingServiceState_Producer_uid, 0), 11 + i);
        cr_expect_eq(msg_num(p.p, p.n, PBF_TracingServiceState_Producer_pid, 0), 4321);
        cr_expect_eq(msg_fields(p.p, p.n, PBF_TracingServiceState_Producer_machine_id), 0, "T32");
    }
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 1);
    prod_bye(a);
    s = state(c);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_producers), 1);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 0, "T47");
}

Test(producer, T32_remote_machine_in_the_state)
{
    const struct prod_opts o = {.name = "remote",
                                .uid = 1,
                                .pid = 2,
                                .machine_id = 77,
                                .machine_name = "vm",
                                .emulated = true};
    struct cons *c = cons_new(w, 0);
    prod_new_opts(w, &o);
    struct bytes_view s = state(c);
    struct bytes_view p = msg_part(s.p, s.n, PBF_TracingServiceState_producers, 0);
    cr_expect_eq(msg_num(p.p, p.n, PBF_TracingServiceState_Producer_machine_id, 0), 77);
    cr_expect_str_eq(msg_str(p.p, p.n, PBF_TracingServiceState_Producer_machine_name), "vm");
}

Test(producer, R201_sources_sorted_by_name)
{
    static const char *const want[] = {"a", "b", "b", "c"};
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 0);
    prod_register(p, "c", 0);
    prod_register(q, "b", 0);
    prod_register(p, "b", 0);
    prod_register(p, "a", 0);
    struct bytes_view s = state(c);
    for (size_t i = 0; i < 4; i++) {
        struct bytes_view d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, i);
        struct bytes_view desc =
            msg_part(d.p, d.n, PBF_TracingServiceState_DataSource_ds_descriptor, 0);
        cr_expect_str_eq(msg_str(desc.p, desc.n, PBF_DataSourceDescriptor_name), want[i]);
        if (i == 1) /* registered first */
            cr_expect_eq(msg_num(d.p, d.n, PBF_TracingServiceState_DataSource_producer_id, 0), 2);
    }
    cons_query(c, true);
    s = msg_part(c->reply.p, c->reply.n, PBF_QueryServiceStateResponse_service_state, 0);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_producers), 0);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 0);
}

Test(producer, R206_parts_fit_a_frame)
{
    static char name[100001];
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 0);
    memset(name, 'n', 100000);
    for (int i = 0; i < 5; i++)
        prod_register(p, name, 0);
    cr_assert(cons_query(c, false));
    cr_expect_eq(c->reply_parts, 5, "one data source each");
    size_t n = 0;
    for (size_t i = 0; i < c->reply_parts; i++) {
        struct bytes_view part = msg_part(c->reply.p, c->reply.n, 1, i);
        cr_expect_lt(part.n, 131072 - 128);
        n += msg_fields(part.p, part.n, PBF_TracingServiceState_data_sources);
    }
    cr_expect_eq(n, 5);
}

Test(producer, R206_many_producers_are_split_too)
{
    static char name[30001];
    struct cons *c = cons_new(w, 0);
    memset(name, 'p', 30000);
    for (int i = 0; i < 9; i++)
        prod_new(w, name, 1);
    cr_assert(cons_query(c, false));
    cr_expect_gt(c->reply_parts, 1, "one frame cannot hold them (upstream sends it all the same)");
}

Test(producer, R60_R61_R63_T48_registrations)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 0);
    prod_register(p, "", 0);
    prod_register_id(p, "ds", 0, 5);
    prod_register_id(p, "other", 0, 5);
    prod_register(p, "ds", 0);
    struct bytes_view s = state(c);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 2);
    prod_update_id(p, "other", DS_NOTIFY_STOP, 5);
    prod_update_id(p, "ds", DS_NOTIFY_STOP, 6);
    prod_update_id(p, "ds", DS_NOTIFY_STOP, 0);
    s = state(c);
    struct bytes_view d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, 0);
    struct bytes_view desc =
        msg_part(d.p, d.n, PBF_TracingServiceState_DataSource_ds_descriptor, 0);
    cr_expect_eq(msg_num(desc.p, desc.n, PBF_DataSourceDescriptor_will_notify_on_stop, 0), 0);
    prod_update_id(p, "ds", DS_NOTIFY_STOP, 5);
    s = state(c);
    d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, 0);
    desc = msg_part(d.p, d.n, PBF_TracingServiceState_DataSource_ds_descriptor, 0);
    cr_expect_eq(msg_num(desc.p, desc.n, PBF_DataSourceDescriptor_will_notify_on_stop, 0), 1);
    for (size_t i = 0; i < p->nheard; i++)
        cr_expect(p->heard[i].flags, "R60: every reply is a success");
}

Test(producer, R54_to_R58_smb)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 2);
    prod_register(p, "ds", 0);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP_TRACING), 0);
    cr_expect_not(prod_commit_raw(p, "\x0a\x00", 2), "R77: no SMB yet");
    plain("ds");
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_producers);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_ProducerConfig_producer_name, "p");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_ProducerConfig_shm_size_kb, 64);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_ProducerConfig_page_size_kb, 16);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    cons_enable(d, plain("ds"));
    cr_assert_eq(prod_count(p, MSG_PP_SETUP_TRACING), 1, "once for the connection");
    cr_expect_eq(prod_heard(p, MSG_PP_SETUP_TRACING, 0)->id, 16);
    cr_expect_eq(p->smb_size, 65536);
}

Test(producer, T45_provided_smb)
{
    int fd = memfd_create("t", MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(fd, 1 << 20), 0);
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    const struct prod_opts o = {.name = "p", .uid = 1, .page_hint = 4096, .shmem_fd = fd};
    struct prod *p = prod_new_opts(w, &o);
    cr_expect(p->adopted);
    cr_assert_eq(prod_count(p, MSG_PP_SETUP_TRACING), 1, "R57: before any session");
    cr_expect_eq(prod_heard(p, MSG_PP_SETUP_TRACING, 0)->id, 0);
    cr_expect_eq(prod_heard(p, MSG_PP_SETUP_TRACING, 0)->flags, 0, "no descriptor comes back");
    cr_expect_eq(charge_total(service_charges(w->svc), CHARGE_SMB_BYTES), 1 << 20);
}

Test(producer, T46_provided_smb_of_odd_size)
{
    int fd = memfd_create("t", MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(fd, 1 << 20), 0);
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    const struct prod_opts o = {.name = "p", .uid = 1, .page_hint = 20480, .shmem_fd = fd};
    struct prod *p = prod_new_opts(w, &o);
    cr_expect_not(p->adopted);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP_TRACING), 0);
}

Test(producer, R53_R62_T43_late_registration_and_reconnect)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    cons_enable(c, plain("ds"));
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(d, &w->cfg);
    prod_register(p, "ds", 0);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 2);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1, "only the running session starts it");
    prod_bye(p);
    struct prod *q = prod_new(w, "new name", 1); /* T43 */
    prod_register(q, "ds", 0);
    cr_expect_eq(prod_count(q, MSG_PP_START), 1);
    cr_expect_neq(prod_instance(q, 0), 0);
}

Test(producer, R65_entries_times_registrations)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 4);
    prod_unregister(p, "ds"); /* R64: every instance of that name stops */
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 4);
    struct bytes_view s = state(cons_new(w, 0));
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 1,
                 "one registration goes");
}

Test(producer, T41_T42_change_of_filters)
{
    struct prod *p1 = prod_new(w, "P1", 1), *p2 = prod_new(w, "x_producer_2", 1),
                *p3 = prod_new(w, "P3", 1);
    struct cons *c = cons_new(w, 1);
    struct prod *all[] = {p1, p2, p3};
    for (int i = 0; i < 3; i++)
        prod_register(all[i], "ds", 0);
    prod_register(p2, "ds", 0);
    static const char *const filters[][3] = {
        {"P1", NULL, NULL}, {"P1", ".*_producer_[2]", NULL}, {"P1", ".*_producer_[2]", "P3"}};
    for (int step = 0; step < 3; step++) {
        cfg_begin(&w->cfg);
        cfg_buffer(&w->cfg, 64);
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
        size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
        bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, "ds");
        bytesbuf_pb_end(&w->cfg, k);
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_DataSource_producer_name_filter, filters[step][0]);
        if (filters[step][1])
            bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_DataSource_producer_name_regex_filter,
                            filters[step][1]);
        if (filters[step][2])
            bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_DataSource_producer_name_filter,
                            filters[step][2]);
        bytesbuf_pb_end(&w->cfg, m);
        if (step)
            cfg_source(&w->cfg, "ignored", 0);
        if (step == 0)
            cr_assert(cons_enable(c, &w->cfg));
        else
            cr_expect(cons_ask_body(c, MSG_C_CHANGE, w->cfg.p, w->cfg.n));
        cr_expect_eq(prod_count(p1, MSG_PP_START), 1, "step %d", step);
        cr_expect_eq(prod_count(p2, MSG_PP_START), step > 0 ? 2 : 0, "step %d (T42: both)", step);
        cr_expect_eq(prod_count(p3, MSG_PP_START), step > 1 ? 1 : 0, "step %d", step);
    }
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_eq(prod_count(p2, MSG_PP_STOP), 2);
}

Test(producer, R70_duration_seen_by_instances)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_trigger_mode(&w->cfg, 2, 8000);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    cons_enable(c, &w->cfg);
    prod_register(p, "ds", 0);
    cr_expect_eq(prod_config(p, 0, PBF_DataSourceConfig_trace_duration_ms), 0);
    cr_expect_eq(prod_config(p, 1, PBF_DataSourceConfig_trace_duration_ms), 8000);
    cr_expect_eq(prod_config(p, 0, PBF_DataSourceConfig_tracing_session_id), 1);
    cons_ask(c, MSG_C_FREE);
    cons_enable(c, plain("ds"));
    cr_expect_eq(prod_config(p, 2, PBF_DataSourceConfig_tracing_session_id), 2, "T23");
}

Test(producer, R69_config_too_long_for_a_frame)
{
    static char text[130950];
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    memset(text, 'x', sizeof(text) - 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, "ds");
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_legacy_config, text);
    bytesbuf_pb_end(&w->cfg, k);
    bytesbuf_pb_end(&w->cfg, m);
    cr_expect(cons_enable(c, &w->cfg));
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 0, "no command that would cost it its connection");
    cr_expect(prod_sync(p));
}

/* ---- commits ---- */

Test(producer, T49_sequence_ids_and_trusted_fields)
{
    struct prod *p = prod_new(w, "p", 1001);
    const struct prod_opts o = {.name = "q", .uid = 1002, .pid = -1};
    struct prod *q = prod_new_opts(w, &o);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    cons_enable(c, quiet("ds"));
    cr_expect(prod_put(p, 1, "a"));
    cr_expect(prod_put(p, 2, "b"));
    cr_expect(prod_put(q, 1, "c"));
    cons_read(c);
    cr_assert_eq(cons_texts(c), 3);
    for (size_t i = 0; i < 3; i++) {
        const struct pkt *k = cons_pkt(c, PBF_TracePacket_for_testing, i);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_trusted_packet_sequence_id, 0), 2 + i);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_trusted_uid, 0), i < 2 ? 1001 : 1002);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_trusted_pid, 0), i < 2 ? 4321 : 0,
                     "none when unknown");
    }
}

Test(producer, T50_R74_R81_forbidden_buffers)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(q, "b", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "a", 0);
    cfg_source(&w->cfg, "b", 1);
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    cr_expect(prod_put_to(p, 1, prod_target(q, 0), "forbidden"),
              "the request succeeds all the same");
    cr_expect(prod_put_to(p, 1, 999, "unknown"));
    cr_expect(prod_put(p, 1, "right"));
    cons_read(c);
    cr_expect_eq(cons_texts(c), 1);
    cr_expect(cons_has(c, "right"));
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
    cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_chunks_discarded, 0), 2);
    prod_writer(p, 2, prod_target(q, 0)); /* R75 */
    prod_put(p, 2, "wrong buffer for the writer");
    prod_writer_gone(p, 2);
    prod_put(p, 2, "free again");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 1);
}

Test(producer, R48_R76_order_behind_a_commit)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    cons_enable(c, quiet("ds"));
    uint8_t payload[64];
    size_t n = frag_packet(payload, "last words");
    prod_fill(p, 0, 1, 0, 1, 0, payload, n, 3);
    /* Commit, stop ack and farewell in one go: the data must be in before the session ends. */
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, prod_target(p, 0));
    bytesbuf_pb_end(&b, m);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(c->disabled);
    struct msg_request commit = {.cookie = 7};
    msg_body_copy(&commit.body, b.p, b.n);
    ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_COMMIT, &commit);
    struct msg_instance stopped = {.instance = prod_instance(p, 0)};
    ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_STOPPED, &stopped);
    struct msg_request sync = {.cookie = 8};
    ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_SYNC, &sync);
    world_settle(w);
    size_t first = SIZE_MAX, second = SIZE_MAX;
    for (size_t i = 0; i < p->nheard; i++) {
        if (p->heard[i].kind == MSG_PP_REPLY && p->heard[i].id == 7)
            first = i;
        if (p->heard[i].kind == MSG_PP_REPLY && p->heard[i].id == 8)
            second = i;
    }
    cr_expect_lt(first, second, "R48: Sync is answered behind the commit");
    cr_expect(c->disabled);
    cons_read(c);
    cr_expect(cons_has(c, "last words"));
    bytesbuf_fini(&b);
}

Test(producer, a_flood_does_not_delay_a_neighbour)
{
    world_free(w);
    w = world_new_whole();
    struct prod *p = prod_new(w, "flood", 1), *q = prod_new(w, "calm", 2);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    cons_enable(c, quiet("ds"));
    static uint8_t big[120000];
    struct bytesbuf b;
    bytesbuf_init(&b, 200000);
    for (int i = 0; i < 4; i++) { /* four chunks of 28 KB in `data` */
        size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, prod_target(p, 0));
        bytesbuf_pb_bytes(&b, PBF_CommitDataRequest_ChunksToMove_data, big, 28000);
        bytesbuf_pb_end(&b, m);
    }
    for (int i = 0; i < 100; i++) {
        struct msg_request commit = {0};
        msg_body_copy(&commit.body, b.p, b.n);
        ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_COMMIT, &commit);
    }
    cr_expect(service_producer_full(w->svc, p->endpoint), "its transport is told to stop reading");
    cr_expect_not(service_producer_full(w->svc, q->endpoint));
    uint8_t payload[64];
    size_t n = frag_packet(payload, "calm");
    prod_fill(q, 0, 1, 0, 1, 0, payload, n, 3);
    bytesbuf_clear(&b);
    size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, prod_target(q, 0));
    bytesbuf_pb_end(&b, m);
    struct msg_request commit = {.cookie = 42};
    msg_body_copy(&commit.body, b.p, b.n);
    ACTOR_POST(w->reactor, q->endpoint, q->actor.id, MSG_P_COMMIT, &commit);
    unsigned ticks = 0;
    while (prod_count(q, MSG_PP_REPLY) < 2 && ticks < 20) {
        reactor_tick(w->reactor, 0);
        ticks++;
    }
    cr_expect_leq(ticks, 2, "answered after %u ticks: in the first slice, behind one quantum",
                  ticks);
    cr_expect_eq(prod_count(p, MSG_PP_ROOM), 0, "the flood is still being worked off");
    world_settle(w);
    cr_expect_eq(prod_count(p, MSG_PP_ROOM), 1, "and then it may send again");
    bytesbuf_fini(&b);
}

Test(producer, R82_patches)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    static const struct {
        uint32_t buffer, writer;
        unsigned npatches;
        size_t size;
        uint64_t discarded;
    } cases[] = {{1, 0, 2, 4, 2},       {1, 32768, 3, 4, 3}, {9, 1, 4, 4, 4},
                 {1, 1, 1025, 4, 1025}, {1, 1, 2, 3, 2},     {1, 1, 1, 4, 0}};
    uint64_t total = 0;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct bytesbuf b;
        bytesbuf_init(&b, 1u << 20);
        size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_patch);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunkToPatch_target_buffer, cases[i].buffer);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunkToPatch_writer_id, cases[i].writer);
        for (unsigned k = 0; k < cases[i].npatches; k++) {
            size_t e = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_ChunkToPatch_patches);
            bytesbuf_pb_bytes(&b, PBF_CommitDataRequest_ChunkToPatch_Patch_data, "abcd",
                              cases[i].size);
            bytesbuf_pb_end(&b, e);
        }
        bytesbuf_pb_end(&b, m);
        cr_expect(prod_commit_raw(p, b.p, b.n), "case %zu", i);
        bytesbuf_fini(&b);
        total += cases[i].discarded;
        cons_ask(c, MSG_C_STATS);
        struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
        cr_expect_eq(msg_num(s.p, s.n, PBF_TraceStats_patches_discarded, 0), total, "case %zu", i);
    }
}

Test(producer, R38_T51_clears)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "a", DS_CLEARS);
    prod_register(p, "b", 0);
    prod_register(p, "c", DS_CLEARS);
    prod_register(q, "b", 0);
    plain("a");
    cfg_source(&w->cfg, "b", 0);
    cfg_source(&w->cfg, "c", 0);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_incremental_state_config);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_IncrementalStateConfig_clear_period_ms, 100);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 0, "none at the start");
    world_advance_ms(w, 350);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 3);
    cr_expect_eq(prod_count(q, MSG_PP_CLEAR), 0);
    const struct heard *h = prod_heard(p, MSG_PP_CLEAR, 0);
    cr_assert_eq(h->nids, 2);
    cr_expect_eq(h->ids[0], prod_instance(p, 0));
    cr_expect_eq(h->ids[1], prod_instance(p, 2));
    cons_ask(c, MSG_C_DISABLE);
    world_advance_ms(w, 300);
    cr_expect_eq(prod_count(p, MSG_PP_CLEAR), 3);
}

Test(producer, smb_bytes_per_uid)
{
    const struct charge_limit limits[CHARGE_KINDS] = {
        [CHARGE_CONNECTIONS] = {10, 10},
        [CHARGE_SESSIONS] = {5, 15},
        [CHARGE_SMB_BYTES] = {300u << 10, UINT64_MAX},
        [CHARGE_BUFFER_BYTES] = {1u << 30, UINT64_MAX},
        [CHARGE_SOURCE_BYTES] = {1u << 20, UINT64_MAX},
        [CHARGE_QUEUE_BYTES] = {UINT64_MAX, UINT64_MAX},
    };
    world_free(w);
    w = world_new_limited(limits);
    struct prod *a = prod_new(w, "a", 1), *b = prod_new(w, "b", 1), *x = prod_new(w, "x", 2);
    struct cons *c = cons_new(w, 1);
    prod_register(a, "ds", 0);
    prod_register(b, "ds", 0);
    prod_register(x, "ds", 0);
    cons_enable(c, plain("ds"));
    cr_expect_eq(prod_count(a, MSG_PP_SETUP), 1);
    cr_expect_eq(prod_count(b, MSG_PP_SETUP), 0, "the second SMB of uid 1 is one too many");
    cr_expect_eq(prod_count(x, MSG_PP_SETUP), 1);
    prod_bye(a);
    prod_register(b, "ds", 0);
    cr_expect_eq(prod_count(b, MSG_PP_SETUP), 1, "a leaving producer gives its bytes back");
}

/* A producer may describe its data sources at some length, but what it registered shortly it could
 * make long by UpdateDataSource, without a bound; and what one connection may do, a thousand of one
 * uid could. */
Test(producer, descriptors_of_a_uid_are_bounded)
{
    static char name[40001];
    struct charge_limit limits[CHARGE_KINDS];
    charge_default_limits(limits);
    limits[CHARGE_SOURCE_BYTES].per_uid = 100000;
    world_free(w);
    w = world_new_limited(limits);
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1), *x = prod_new(w, "x", 2);
    memset(name, 'n', 40000);
    prod_register_id(p, name, 0, 1);
    for (int i = 0; i < 10; i++)
        prod_update_id(p, name, DS_CLEARS, 1);
    prod_register(q, name, 0);
    cr_expect_eq(prod_count(p, MSG_PP_CLOSE), 0, "an update takes the place of what was there");
    cr_expect_eq(prod_count(q, MSG_PP_CLOSE), 0);
    prod_register(q, name, 0);
    cr_expect_eq(prod_count(q, MSG_PP_CLOSE), 1, "a third one is too much for uid 1");
    prod_register(x, name, 0);
    cr_expect_eq(prod_count(x, MSG_PP_CLOSE), 0, "not for another");
    prod_bye(q);
    prod_register(p, name, 0);
    cr_expect_eq(prod_count(p, MSG_PP_CLOSE), 0, "who leaves gives its bytes back");
}

/* A registration as short as can be, and the same made long. */
Test(producer, updates_count_as_registrations_do)
{
    struct charge_limit limits[CHARGE_KINDS];
    charge_default_limits(limits);
    limits[CHARGE_SOURCE_BYTES].per_uid = sizeof(struct datasource) + 8;
    world_free(w);
    w = world_new_limited(limits);
    struct prod *p = prod_new(w, "p", 1);
    prod_register_id(p, "d", 0, 1);
    cr_expect_eq(prod_count(p, MSG_PP_CLOSE), 0);
    prod_update_id(p, "d", DS_CLEARS | DS_NOTIFY_START | DS_NOTIFY_STOP, 1);
    cr_expect_eq(prod_count(p, MSG_PP_CLOSE), 1);
}

Test(producer, names_have_a_limit)
{
    static char name[33001];
    memset(name, 'n', 33000);
    cr_expect_null(prod_new(w, name, 1));
    name[32768] = '\0';
    cr_expect_not_null(prod_new(w, name, 1));
}

/* Each instance had a copy of its config: a long one times thousands of registrations was
 * gigabytes. */
Test(producer, instances_of_an_entry_share_their_config)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_register(p, "ds", 0);
    const struct producer *inside = service_endpoint(w->svc, p->endpoint);
    const struct dsconfig *shared = NULL;
    size_t n = 0;
    list_for_each (it, &inside->instances) {
        const struct dsinst *i = list_entry(it, struct dsinst, in_producer);
        shared = shared ? shared : i->config;
        cr_expect_eq(i->config, shared);
        n++;
    }
    cr_expect_eq(n, 3);
}

static void entry_for(const char *source, const char *producer)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, source);
    bytesbuf_pb_end(&w->cfg, k);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_DataSource_producer_name_filter, producer);
    bytesbuf_pb_end(&w->cfg, m);
}

/* Thousands of entries and thousands of registrations of one name made the service look at every
 * pair, for seconds. */
Test(producer, pairs_of_entries_and_registrations_are_bounded)
{
    world_free(w);
    w = world_new_whole();
    struct prod *p = prod_new(w, "p", 1);
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    for (int i = 0; i < 512; i++)
        prod_register(p, "ds", 0);
    prod_register(p, "other", 0);
    plain("other");
    for (int i = 0; i < 511; i++)
        entry_for("ds", "nobody");
    entry_for("ds", "p");
    cons_enable(a, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1 + 511, "2^18 pairs");
    plain("other");
    for (int i = 0; i < 512; i++)
        entry_for("ds", "nobody");
    entry_for("ds", "p");
    prod_forget(p);
    cons_enable(b, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1, "what is beyond is not looked at");
}
