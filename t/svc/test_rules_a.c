/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of service.md sections 0 to 6 that no other file names: ids, admission, configs and
 * producers. The state machine is in test_rules_session.c, commits are in test_rules_commit.c,
 * flushes in test_rules_flush.c, what needs a socket is in test_rules_ports.c.
 *
 * Of R1 to R100, no case can show these:
 *   R4    that all runs on one loop is how the service is built; what a peer sees of it, the order
 *         of commands and answers, is R5, R36 and R76.
 *   R15   (second half) permission checks by uid on Android: V15 is not built in.
 *   R17   the order of the steps of an accepted request is internal; R20, R65 and R135 show the
 *         parts that a peer can see.
 *   R35   that the memory guardrail is computed again: there is none of that kind here, buffers are
 *         charged to their uid, and R35 below looks at that.
 *   R49   a socket that takes nothing for 10 ms (producers) or 10 s (consumers) is a matter of
 *         ipc/channel: t/ipc/test_channel.c has it, as service_R49.
 *   R58   (second half) the unlinked file of kernels without memfd: Linux 3.17 has it.
 *   R100  frozen processes, Android only.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/charge.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_types.h"
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

TestSuite(rules_a, .init = setup, .fini = teardown);

static struct bytesbuf *buffers(unsigned n)
{
    cfg_begin(&w->cfg);
    for (unsigned i = 0; i < n; i++)
        cfg_buffer(&w->cfg, 64);
    return &w->cfg;
}

static struct bytesbuf *plain(const char *source)
{
    buffers(1);
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

/* The encoded TracingServiceState. */
static struct bytes_view service_state(struct cons *c)
{
    cr_assert(cons_query(c, false));
    return msg_part(c->reply.p, c->reply.n, PBF_QueryServiceStateResponse_service_state, 0);
}

static void clone_of(struct cons *k, uint64_t id)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_session_id, id);
    cons_clone(k, &b, -1);
    bytesbuf_fini(&b);
}

/* ---- ids (0.1) ---- */

Test(rules_a, R2_an_exhausted_pool_of_buffer_ids)
{
    struct session_buffer taken = {0};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    for (uint32_t id = 1; id <= 65535; id++)
        cr_assert_eq(idmap_put(&w->svc->buffers, id, &taken), 0);
    cr_expect_not(cons_enable(c, plain("ds")), "V25: no id is free");
    cr_expect(strstr(c->error, "buffer ids"), "%s", c->error);
    idmap_del(&w->svc->buffers, 777);
    buffers(2);
    cfg_source(&w->cfg, "ds", 0);
    cr_expect_not(cons_enable(c, &w->cfg), "one is free, two are needed");
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 0);
    cr_expect(cons_enable(c, plain("ds")), "the one that the refused config took came back");
    cr_expect_eq(prod_target(p, 0), 777, "exactly the freed id");
    for (uint32_t id = 1; id <= 65535; id++) {
        if (id != 777)
            idmap_del(&w->svc->buffers, id);
    }
}

Test(rules_a, R3_which_refusals_take_a_session_id)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    cr_expect_eq(prod_config(p, 0, PBF_DataSourceConfig_tracing_session_id), 1);
    cr_expect_not(cons_enable(c, &w->cfg), "V1");
    buffers(129);
    cr_expect_not(cons_enable(d, &w->cfg), "V11");
    cons_enable(d, plain("ds"));
    cr_expect_eq(prod_config(p, 1, PBF_DataSourceConfig_tracing_session_id), 2,
                 "refused before there was a session");
    cons_ask(d, MSG_C_FREE);
    buffers(1);
    cfg_buffer(&w->cfg, 0);
    cr_expect_not(cons_enable(d, &w->cfg), "V25");
    bytesbuf_pb_varint(plain("ds"), PBF_TraceConfig_write_into_file, 1);
    cr_expect_not(cons_enable(d, &w->cfg), "V23");
    cons_enable(d, plain("ds"));
    cr_expect_eq(prod_config(p, 2, PBF_DataSourceConfig_tracing_session_id), 5,
                 "each of these had one");
}

/* ---- admission (1.3) ---- */

/* Semaphores are the exception: each is looked for in every other session, so a config may have 256
 * of them (test_admit.c, semaphores_have_a_limit). */
Test(rules_a, R16_no_limit_of_sources_triggers_and_producers)
{
    char name[32];
    struct prod *p = prod_new(w, "p1999", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds1999", 0);
    buffers(1);
    for (int i = 0; i < 2000; i++) {
        snprintf(name, sizeof(name), "ds%d", i);
        cfg_source(&w->cfg, name, 0);
        snprintf(name, sizeof(name), "t%d", i);
        cfg_trigger(&w->cfg, name, NULL, 0, 0, 0);
        snprintf(name, sizeof(name), "p%d", i);
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_producers);
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_ProducerConfig_producer_name, name);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_ProducerConfig_shm_size_kb, 64);
        bytesbuf_pb_end(&w->cfg, m);
    }
    cfg_trigger_mode(&w->cfg, 1, 10000);
    cr_assert(cons_enable(c, &w->cfg), "%s", c->error);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1);
    cr_expect_eq(p->smb_size, 65536, "the last entry counts");
    cr_expect_eq(prod_count(p, MSG_PP_START), 0);
    prod_trigger(p, "t1999");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1, "the last trigger, too");
}

static struct bytesbuf *with_semaphores(const char *a, uint64_t a_max, const char *b,
                                        uint64_t b_max)
{
    const char *const names[] = {a, b};
    const uint64_t max[] = {a_max, b_max};
    plain("ds");
    for (int i = 0; i < 2 && names[i]; i++) {
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_session_semaphores);
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_SessionSemaphore_name, names[i]);
        if (max[i])
            bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_SessionSemaphore_max_other_session_count,
                               max[i]);
        bytesbuf_pb_end(&w->cfg, m);
    }
    return &w->cfg;
}

Test(rules_a, R18_semaphores_row_by_row)
{
    static const struct {
        struct {
            const char *a;
            uint64_t a_max;
            const char *b;
            uint64_t b_max;
        } have[4], fresh;
        bool accepted;
    } rows[] = {
        {{{0}}, {"mutex", 0, NULL, 0}, true},
        {{{"mutex", 0, NULL, 0}}, {"mutex", 0, NULL, 0}, false},
        {{{"s", 0, NULL, 0}}, {"s", 1, NULL, 0}, false},
        {{{"s", 1, NULL, 0}}, {"s", 0, NULL, 0}, false},
        {{{"s", 3, NULL, 0}, {"s", 3, NULL, 0}, {"s", 3, NULL, 0}}, {"s", 3, NULL, 0}, true},
        {{{"s", 3, NULL, 0}, {"s", 3, NULL, 0}, {"s", 3, NULL, 0}, {"s", 3, NULL, 0}},
         {"s", 3, NULL, 0},
         false},
        {{{"foo", 2, "bar", 0}, {"foo", 1, "baz", 1}}, {0}, true},
        {{{"foo", 2, "bar", 0}, {"foo", 1, "baz", 1}}, {"baz", 1, NULL, 0}, true},
        {{{"foo", 2, "bar", 0}, {"foo", 1, "baz", 1}}, {"foo", 3, NULL, 0}, false},
        {{{"foo", 2, "bar", 0}, {"foo", 1, "baz", 1}}, {"bar", 0, NULL, 0}, false},
        {{{"foo", 2, "bar", 0}, {"foo", 1, "baz", 1}}, {"baz", 1, "bar", 5}, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (uint32_t k = 0; k < 4 && rows[i].have[k].a; k++)
            cr_assert(cons_enable(cons_new(w, k),
                                  with_semaphores(rows[i].have[k].a, rows[i].have[k].a_max,
                                                  rows[i].have[k].b, rows[i].have[k].b_max)));
        struct cons *c = cons_new(w, 9);
        cr_expect_eq(cons_enable(c, with_semaphores(rows[i].fresh.a, rows[i].fresh.a_max,
                                                    rows[i].fresh.b, rows[i].fresh.b_max)),
                     rows[i].accepted, "row %zu: %s", i, c->error);
        world_free(w);
        w = world_new();
    }
}

Test(rules_a, R18_states_that_hold_a_semaphore)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 2), *k = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    with_semaphores("s", 0, NULL, 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cons_enable(c, &w->cfg);
    with_semaphores("s", 0, NULL, 0);
    cr_expect_not(cons_enable(d, &w->cfg), "CONFIGURED");
    cons_ask(c, MSG_C_START);
    cr_expect_not(cons_enable(d, &w->cfg), "STARTED");
    clone_of(k, 1);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_not(cons_enable(d, &w->cfg), "STOP_WAIT");
    prod_stopped(p, prod_instance(p, 0));
    cr_expect(c->disabled);
    cr_expect(cons_enable(d, &w->cfg), "DISABLED and CLONED_READ_ONLY do not count: %s", d->error);
}

/* ---- FreeBuffers (1.6) ---- */

Test(rules_a, R35_what_goes_with_a_freed_session)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    p->mute = true;
    cons_enable(c, quiet("ds"));
    clone_of(k, 1);
    cr_expect_not(k->replied, "it waits for the flush");
    cons_ask(c, MSG_C_FREE);
    cr_expect_str_eq(msg_str(k->reply.p, k->reply.n, PBF_CloneSessionResponse_error),
                     "Original session ended");
    cr_expect(c->disabled, "the stop is immediate");
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    cr_expect_eq(charge_total(service_charges(w->svc), CHARGE_BUFFER_BYTES), 0);
    cr_expect_eq(idmap_count(&w->svc->buffers), 0);
    cr_expect_eq(idmap_count(&w->svc->instances), 0);
    cr_expect_eq(service_sessions(w->svc), 0);
    cr_expect(prod_put(p, 1, "too late"));
    prod_stopped(p, prod_instance(p, 0));
    w->svc->buffer_ids.next = 1;
    cons_enable(d, quiet("other"));
    uint64_t before = stat_of(d, PBF_TraceStats_chunks_discarded);
    cr_expect(prod_put(p, 1, "not allowed any more"));
    cr_expect_eq(stat_of(d, PBF_TraceStats_chunks_discarded), before + 1);
    cons_read(d);
    cr_expect_eq(cons_texts(d), 0);
}

Test(rules_a, R35_the_end_of_a_clone_is_told)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    buffers(1);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events,
                       1);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    clone_of(k, 1);
    cons_ask(k, MSG_C_FREE);
    cons_read(c);
    size_t n = cons_count(c, PBF_TracePacket_concurrent_session_event);
    cr_assert_geq(n, 2);
    cr_expect_eq(pkt_sub(cons_pkt(c, PBF_TracePacket_concurrent_session_event, n - 2),
                         PBF_TracePacket_concurrent_session_event, PBF_ConcurrentSessionEvent_state,
                         0),
                 5, "CLONED_READ_ONLY");
    cr_expect_eq(pkt_sub(cons_pkt(c, PBF_TracePacket_concurrent_session_event, n - 1),
                         PBF_TracePacket_concurrent_session_event, PBF_ConcurrentSessionEvent_state,
                         0),
                 1, "DISABLED, just before it went");
}

/* ---- configs (2) ---- */

Test(rules_a, R39_reserved_fields_are_ignored)
{
    static const uint32_t reserved[] = {15, 26, 32, 37, 42, 46};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    for (int as_bytes = 0; as_bytes < 2; as_bytes++) {
        int fd = open(world_path(w, "trace"), O_RDWR | O_CREAT | O_TRUNC, 0600);
        cr_assert_geq(fd, 0);
        plain("ds");
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_file_write_period_ms, 1000);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_flush_mode, 3);
        for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
            if (as_bytes)
                bytesbuf_pb_str(&w->cfg, reserved[i], "\x08\x01");
            else
                bytesbuf_pb_varint(&w->cfg, reserved[i], 1);
        }
        prod_forget(p);
        cr_assert(cons_enable_fd(c, &w->cfg, fd), "%s", c->error);
        world_advance_ms(w, 1000);
        cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 1, "42 does not turn the flush off");
        cons_ask(c, MSG_C_FREE);
    }
    bytesbuf_pb_varint(plain("ds"), 42, 1);
    cr_assert(cons_enable(c, &w->cfg));
    cons_read(c);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_trace_config, 0);
    cr_assert_not_null(k);
    struct bytes_view echo = msg_part(k->p, k->n, PBF_TracePacket_trace_config, 0);
    cr_expect_eq(msg_num(echo.p, echo.n, 42, 0), 1, "but all is echoed (R40)");
}

/* ---- producers (3) ---- */

Test(rules_a, R50_what_goes_with_a_producer)
{
    const struct prod_opts o = {.name = "p", .uid = 1001, .pid = 77, .scraping = 1};
    struct prod *p = prod_new_opts(w, &o);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    uint8_t payload[64];
    prod_register(p, "ds", DS_NOTIFY_STOP);
    prod_register(p, "more", 0);
    cons_enable(c, quiet("ds"));
    cons_enable(d, quiet("ds"));
    cons_observe(c, 1);
    prod_put(p, 1, "committed");
    prod_writer(p, 5, prod_target(p, 0));
    prod_writer(p, 6, prod_target(p, 1));
    prod_fill(p, 1, 5, 0, 1, 0, payload, frag_packet(payload, "left for c"), 3);
    prod_fill(p, 2, 6, 0, 1, 0, payload, frag_packet(payload, "left for d"), 3);
    world_settle(w);
    bytesbuf_clear(&c->events);
    prod_bye(p);
    struct bytes_view s = service_state(cons_new(w, 0));
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_producers), 0);
    cr_expect_eq(msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources), 0);
    struct bytes_view e =
        msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, 0);
    cr_expect_eq(msg_num(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0), 1,
                 "its instance is told as stopped");
    cons_read(c);
    cr_expect(cons_has(c, "committed") && cons_has(c, "left for c"));
    for (size_t i = 0; i < 2; i++) {
        const struct pkt *k = cons_pkt(c, PBF_TracePacket_for_testing, i);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_trusted_uid, 0), 1001);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_trusted_pid, 0), 77);
    }
    cons_read(d);
    cr_expect(cons_has(d, "left for d"), "scraped for every session");
}

Test(rules_a, R52_a_vanished_producer_does_not_block_a_stop)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    prod_register(q, "ds", DS_NOTIFY_STOP);
    cons_enable(c, plain("ds"));
    cons_ask(c, MSG_C_DISABLE);
    prod_stopped(q, prod_instance(q, 0));
    cr_expect_not(c->disabled);
    prod_bye(p);
    cr_expect(c->disabled);
    cr_expect_str_eq(c->error, "");
}

Test(rules_a, R53_a_producer_that_comes_again)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    cons_enable(d, quiet("ds"));
    prod_put(p, 1, "first life");
    uint64_t last = prod_instance(p, 1);
    prod_bye(p);
    p = prod_new(w, "p", 1);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 0, "not before it registers");
    prod_register(p, "ds", 0);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP_TRACING), 1);
    cr_expect_eq(prod_count(p, MSG_PP_START), 2, "in every running session");
    cr_expect_gt(prod_instance(p, 0), last, "as new instances");
    struct bytes_view s = service_state(cons_new(w, 0));
    struct bytes_view e = msg_part(s.p, s.n, PBF_TracingServiceState_producers, 0);
    cr_expect_eq(msg_num(e.p, e.n, PBF_TracingServiceState_Producer_id, 0), 2, "a new ProducerID");
    prod_put(p, 1, "second life");
    cons_read(c);
    cr_assert_eq(cons_texts(c), 2);
    cr_expect_neq(pkt_num(cons_pkt(c, PBF_TracePacket_for_testing, 0),
                          PBF_TracePacket_trusted_packet_sequence_id, 0),
                  pkt_num(cons_pkt(c, PBF_TracePacket_for_testing, 1),
                          PBF_TracePacket_trusted_packet_sequence_id, 0),
                  "and a new sequence");
}

Test(rules_a, R56_which_offered_memory_is_adopted)
{
    enum { ALL = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };
    static const struct {
        const char *what;
        int memfd;
        off_t size;
        uint32_t page;
        int seals;
        bool adopted;
    } rows[] = {
        {"1 MiB of 4 KiB", 1, 1 << 20, 4096, ALL, true},
        {"1 MiB of 32 KiB", 1, 1 << 20, 32768, ALL, true},
        {"1 MiB of 20 KiB", 1, 1 << 20, 20480, ALL, false},
        {"1 MiB of 64 KiB", 1, 1 << 20, 65536, ALL, false},
        {"no page size", 1, 1 << 20, 0, ALL, false},
        {"one page", 1, 4096, 4096, ALL, true},
        {"half a page", 1, 4096, 8192, ALL, false},
        {"an odd size", 1, 4096 * 3 + 1, 4096, ALL, false},
        {"too large", 1, 33 << 20, 4096, ALL, false},
        {"nothing", 1, 0, 4096, ALL, false},
        {"no seals", 1, 1 << 20, 4096, 0, false},
        {"may shrink", 1, 1 << 20, 4096, F_SEAL_GROW | F_SEAL_SEAL, false},
        {"may grow", 1, 1 << 20, 4096, F_SEAL_SHRINK | F_SEAL_SEAL, false},
        {"may be sealed further", 1, 1 << 20, 4096, F_SEAL_SHRINK | F_SEAL_GROW, false},
        {"not writable", 1, 1 << 20, 4096, ALL | F_SEAL_WRITE, false},
        {"a file", 0, 1 << 20, 4096, 0, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = rows[i].memfd ? memfd_create("t", MFD_ALLOW_SEALING)
                               : open(world_path(w, "smb"), O_RDWR | O_CREAT, 0600);
        cr_assert_geq(fd, 0);
        cr_assert_eq(ftruncate(fd, rows[i].size), 0);
        if (rows[i].seals)
            cr_assert_eq(fcntl(fd, F_ADD_SEALS, rows[i].seals), 0);
        const struct prod_opts o = {
            .name = "p", .uid = 1, .page_hint = rows[i].page, .shmem_fd = fd};
        struct prod *p = prod_new_opts(w, &o);
        cr_assert_not_null(p, "%s: it is a producer anyway", rows[i].what);
        cr_expect_eq(p->adopted, rows[i].adopted, "%s", rows[i].what);
        cr_expect_eq(prod_count(p, MSG_PP_SETUP_TRACING), rows[i].adopted, "%s", rows[i].what);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        cons_enable(c, plain("ds"));
        cr_expect_eq(prod_count(p, MSG_PP_SETUP_TRACING), 1, "%s", rows[i].what);
        cr_expect_eq(prod_heard(p, MSG_PP_SETUP_TRACING, 0)->flags, !rows[i].adopted,
                     "%s: else it gets ours", rows[i].what);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(rules_a, R59_emulated_producers_learn_the_page_size)
{
    const struct prod_opts o = {
        .name = "far", .uid = 1, .page_hint = 8192, .size_hint = 65536, .emulated = true};
    struct prod *p = prod_new_opts(w, &o);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet("ds"));
    cr_assert_eq(prod_count(p, MSG_PP_SETUP_TRACING), 1);
    cr_expect_eq(prod_heard(p, MSG_PP_SETUP_TRACING, 0)->id, 8, "KB a page");
    cr_expect_eq(prod_heard(p, MSG_PP_SETUP_TRACING, 0)->flags, 0, "but no descriptor");
    cr_expect_null(p->smb);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1);
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
}

/* Registrations that QueryServiceState tells. */
static size_t nsources(struct cons *c)
{
    struct bytes_view s = service_state(c);
    return msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources);
}

Test(rules_a, R61_ids_of_registrations)
{
    static const struct {
        const char *name;
        uint64_t id;
        bool taken;
    } rows[] = {{"ds", 0, true},  {"ds", 0, true},     {"ds", 1, true},         {"ds", 2, true},
                {"ds", 1, false}, {"other", 2, false}, {"ds", UINT64_MAX, true}};
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1), *watcher = cons_new(w, 0);
    size_t n = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        prod_register_id(p, rows[i].name, 0, rows[i].id);
        n += rows[i].taken;
        cr_expect_eq(nsources(watcher), n, "row %zu", i);
    }
    prod_register_id(q, "ds", 0, 1);
    cr_expect_eq(nsources(watcher), n + 1, "ids of another producer do not matter");
    cons_enable(c, plain("ds"));
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 5, "an instance for each");
    cr_expect_eq(prod_count(q, MSG_PP_SETUP), 1);
}

/* The flag no_flush of the first registration of a producer, as QueryServiceState tells it. */
static bool told_no_flush(struct cons *c, uint64_t producer)
{
    struct bytes_view s = service_state(c);
    for (size_t i = 0; i < msg_fields(s.p, s.n, PBF_TracingServiceState_data_sources); i++) {
        struct bytes_view d = msg_part(s.p, s.n, PBF_TracingServiceState_data_sources, i);
        struct bytes_view desc =
            msg_part(d.p, d.n, PBF_TracingServiceState_DataSource_ds_descriptor, 0);
        if (msg_num(d.p, d.n, PBF_TracingServiceState_DataSource_producer_id, 0) == producer)
            return msg_num(desc.p, desc.n, PBF_DataSourceDescriptor_no_flush, 0);
    }
    return false;
}

Test(rules_a, R63_updates)
{
    static const struct {
        const char *name;
        uint64_t id;
        bool taken;
    } rows[] = {{"ds", 0, false},    {"ds", 6, false}, {"other", 5, false},
                {"fresh", 9, false}, {"", 5, false},   {"ds", 5, true}};
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1), *watcher = cons_new(w, 0);
    prod_register_id(p, "ds", 0, 5);
    prod_register_id(q, "ds", 0, 6);
    cons_enable(c, plain("ds"));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        prod_update_id(p, rows[i].name, DS_NO_FLUSH, rows[i].id);
        cr_expect_eq(nsources(watcher), 2, "row %zu: it never creates one", i);
        cr_expect_eq(told_no_flush(watcher, 1), rows[i].taken, "row %zu", i);
        cr_expect_not(told_no_flush(watcher, 2), "row %zu: not that of another producer", i);
    }
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 1);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 0);
    cons_flush_begin(c, 0, 0);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 1, "the instance is as it was");
}

Test(rules_a, R68_setup_of_an_instance)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    cons_observe(c, 1);
    buffers(2);
    cfg_source(&w->cfg, "ds", 1);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_deferred_start, 1);
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    cr_expect_eq(p->nheard, 0);
    prod_register(p, "ds", 0);
    world_settle(w);
    cr_assert_eq(p->nheard, 3);
    cr_expect_eq(p->heard[0].kind, MSG_PP_SETUP_TRACING, "the SMB first");
    cr_expect_eq(p->heard[1].kind, MSG_PP_SETUP);
    cr_expect_eq(p->heard[1].id, 1, "the first instance");
    cr_expect_eq(prod_target(p, 0), 2);
    struct bytes_view e =
        msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, 0);
    cr_expect_gt(e.n, 0, "and the consumer sees it");
    cr_expect_eq(msg_num(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0), 1,
                 "as not started");
    prod_put(p, 1, "allowed from now on");
    cr_expect_eq(stat_of(c, PBF_TraceStats_chunks_discarded), 0);
    prod_register(p, "ds", 0);
    cr_expect_eq(prod_instance(p, 1), 2);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP_TRACING), 1, "one SMB is enough");
}

/* Registers "ds" with a ProtoVM program, or without. */
static void register_vm(struct prod *p, bool program)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 256);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, "ds");
    if (program)
        bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_protovm_program, "\x0a\x02\x08\x01");
    struct msg_request m = {.cookie = ++p->cookie};
    cr_assert_eq(msg_body_copy(&m.body, b.p, b.n), 0);
    ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_REGISTER, &m);
    world_settle(w);
    bytesbuf_fini(&b);
}

Test(rules_a, R72_without_a_vm_the_source_works_as_ever)
{
    for (unsigned bits = 0; bits < 8; bits++) {
        struct prod *p = prod_new(w, "p", 1);
        struct cons *c = cons_new(w, 1);
        register_vm(p, bits & 1);
        cfg_begin(&w->cfg);
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 64);
        if (bits & 4)
            bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_experimental_mode, 1);
        bytesbuf_pb_end(&w->cfg, m);
        m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
        size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
        bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, "ds");
        if (bits & 2) {
            size_t v = bytesbuf_pb_begin(&w->cfg, PBF_DataSourceConfig_protovm_config);
            bytesbuf_pb_varint(&w->cfg, PBF_ProtoVmConfig_memory_limit_kb, 64);
            bytesbuf_pb_end(&w->cfg, v);
        }
        bytesbuf_pb_end(&w->cfg, k);
        bytesbuf_pb_end(&w->cfg, m);
        cr_assert(cons_enable(c, &w->cfg), "%u", bits);
        cr_expect_eq(prod_count(p, MSG_PP_START), 1);
        struct bytes_view vm = msg_part(prod_heard(p, MSG_PP_SETUP, 0)->config,
                                        prod_heard(p, MSG_PP_SETUP, 0)->config_len,
                                        PBF_DataSourceConfig_protovm_config, 0);
        cr_expect_eq(msg_num(vm.p, vm.n, PBF_ProtoVmConfig_memory_limit_kb, 0), bits & 2 ? 64 : 0,
                     "R69: passed on untouched");
        prod_put(p, 1, "data");
        cons_read(c);
        cr_expect(cons_has(c, "data"), "%u", bits);
        cr_expect_eq(cons_count(c, PBF_TracePacket_protovms), bits == 7);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(rules_a, R43_no_more_than_65535_producers)
{
    struct producer *other = service_endpoint(w->svc, prod_new(w, "p", 1)->endpoint);
    for (uint32_t id = 2; id <= 65535; id++)
        cr_assert_eq(idmap_put(&w->svc->producer_of, id, other), 0);
    cr_expect_null(prod_new(w, "one too many", 1));
    idmap_del(&w->svc->producer_of, 500);
    struct prod *p = prod_new(w, "again", 1);
    cr_assert_not_null(p);
    cr_expect_eq(service_endpoint(w->svc, p->endpoint)->id, 500);
    for (uint32_t id = 2; id <= 65535; id++) {
        if (id != 500)
            idmap_del(&w->svc->producer_of, id);
    }
    struct cons *c = cons_new(w, 1);
    cr_assert(cons_enable(c, buffers(1)));
    cr_expect_eq(stat_of(c, PBF_TraceStats_producers_seen), 500, "the last id handed out");
}

Test(rules_a, R55_T44_sizes_of_an_smb_row_by_row)
{
    static const struct {
        uint32_t page, page_hint, size, size_hint, page_kb, size_kb;
    } rows[] = {
        {0, 0, 0, 0, 4, 256},
        {16, 0, 16, 0, 16, 16},
        {0, 4, 0, 16, 4, 16},
        {4, 8, 16, 32, 4, 16},
        {8, 4, 32, 16, 8, 32},
        {3, 0, 0, 0, 4, 256},
        {2, 0, 0, 0, 4, 256},
        {4096, 0, 4096000, 0, 32, 32768},
        {0, 4096, 0, 4096000, 32, 32768},
        {0, 0, 18, 0, 4, 256},
        {2, 0, 32, 0, 4, 256},
        {16, 0, 18, 0, 4, 256},
        {8, 0, 20, 0, 4, 256},
        {28, 0, 0, 0, 4, 256},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct prod_opts o = {.name = "p",
                                    .uid = 1,
                                    .page_hint = rows[i].page_hint * 1024,
                                    .size_hint = rows[i].size_hint * 1024};
        struct prod *p = prod_new_opts(w, &o);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        plain("ds");
        for (int k = 0; k < 3; k++) { /* the first entry with the name wins */
            size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_producers);
            bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_ProducerConfig_producer_name, k ? "p" : "pp");
            bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_ProducerConfig_shm_size_kb,
                               k != 1 ? 64 : rows[i].size);
            bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_ProducerConfig_page_size_kb,
                               k != 1 ? 8 : rows[i].page);
            bytesbuf_pb_end(&w->cfg, m);
        }
        cons_enable(c, &w->cfg);
        cr_expect_eq(p->page, rows[i].page_kb * 1024, "row %zu: %u", i, p->page);
        cr_expect_eq(p->smb_size, rows[i].size_kb * 1024, "row %zu: %zu", i, p->smb_size);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(rules_a, R64_what_goes_with_a_registration)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *watcher = cons_new(w, 0);
    prod_register_id(p, "ds", DS_NO_FLUSH, 1);
    prod_register_id(p, "ds", DS_NOTIFY_START, 2);
    prod_register(p, "other", 0);
    plain("ds");
    cfg_source(&w->cfg, "other", 0);
    cons_observe(c, 2);
    cons_enable(c, &w->cfg);
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 3);
    prod_unregister(p, "nothing");
    world_settle(w);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 0);
    cr_expect_eq(c->nevents, 0, "one start is not acked yet");
    cr_expect(told_no_flush(watcher, 1));
    prod_unregister(p, "ds");
    world_settle(w);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 2, "every instance of that name");
    cr_expect_eq(c->nevents, 1, "now all are started");
    cr_expect_eq(nsources(watcher), 2, "one registration");
    cr_expect_not(told_no_flush(watcher, 1), "the oldest");
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 3, "the removed ones are not stopped twice");
}

Test(rules_a, R71_T23_one_session_id_for_all_instances)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    cons_enable(c, plain("ds"));
    cons_enable(d, plain("ds"));
    prod_register(q, "ds", 0); /* late */
    for (size_t i = 0; i < 2; i++) {
        uint64_t id = prod_config(p, i, PBF_DataSourceConfig_tracing_session_id);
        cr_expect_eq(id, i + 1);
        cr_expect_eq(prod_config(q, i, PBF_DataSourceConfig_tracing_session_id), id);
        cr_expect_eq(prod_config(q, i + 2, PBF_DataSourceConfig_tracing_session_id), id);
    }
}
