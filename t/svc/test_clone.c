/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session_clone: service.md 12.8 and T94 to T97, T116, T126 to T139. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf.h"
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

TestSuite(clone, .init = setup, .fini = teardown);

static struct bytesbuf *plain(void)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    return &w->cfg;
}

static struct bytesbuf *by_id(uint64_t id)
{
    bytesbuf_clear(&req);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, id);
    return &req;
}

static struct bytesbuf *by_name(const char *name)
{
    bytesbuf_clear(&req);
    bytesbuf_pb_str(&req, PBF_CloneSessionRequest_unique_session_name, name);
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

Test(clone, T126_copy_of_a_running_session)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_uuid_msb, 11);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_trace_uuid_lsb, 22);
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "before");
    cons_clone(k, by_id(1), -1);
    cr_assert_str_eq(outcome(k), "");
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->flags, 0x13);
    uint64_t msb = msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_uuid_msb, 0);
    cr_expect_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_uuid_lsb, 0), 22);
    cr_expect_neq(msb, 11);
    prod_put(p, 1, "after");
    cons_bye(c); /* the clone survives its source */
    cons_read(k);
    cr_expect_eq(cons_texts(k), 1);
    cr_expect(cons_has(k, "before"));
    const struct pkt *u = cons_pkt(k, PBF_TracePacket_trace_uuid, 0);
    cr_expect_eq(pkt_sub(u, PBF_TracePacket_trace_uuid, PBF_TraceUuid_msb, 0), msb);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_clone_started), 1);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_buffer_cloned), 1);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_tracing_started), 1);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_tracing_disabled), 1);
    cr_expect_eq(cons_events(k, PBF_TracingServiceEvent_flush_started), 1, "T96");
    const struct pkt *s = cons_pkt(k, PBF_TracePacket_trace_stats, 0);
    cr_expect_eq(pkt_sub(s, PBF_TracePacket_trace_stats, PBF_TraceStats_final_flush_outcome, 0), 1);
}

/* ---- copying in slices ---- */

#define MANY 8000

/* Puts chunks of 1000 bytes straight into the buffer of a session. */
static void fill(struct session *s, uint32_t from, uint32_t n, char letter)
{
    uint8_t payload[1002];
    memset(payload, letter, sizeof(payload));
    payload[0] = 0xE8; /* a fragment of 1000 bytes: one field, unknown to everybody */
    payload[1] = 0x07;
    payload[2] = 0xA2; /* field 500, length 996 */
    payload[3] = 0x1F;
    payload[4] = 0xE4;
    payload[5] = 0x07;
    for (uint32_t i = 0; i < n; i++) {
        struct tbuf_chunk_in in = {.producer_id = 1,
                                   .writer_id = 9,
                                   .chunk_id = from + i,
                                   .num_fragments = 1,
                                   .complete = true,
                                   .payload = payload,
                                   .payload_size = sizeof(payload)};
        cr_assert_eq(tbuf_copy_chunk(s->buffers[0].tb, &in), TBUF_STORED);
    }
}

/* A source with 8 MB of data and a clone of it that has only begun to be copied. */
static struct session *begin_large(struct cons *c, struct cons *k)
{
    struct msg_enable m = {.cookie = ++k->cookie, .fd = -1};
    struct session *made = NULL;
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 16384);
    cons_enable(c, &w->cfg);
    fill(service_session(w->svc, 1), 0, MANY, 'a');
    k->reply_cookie = m.cookie;
    k->replied = false;
    bytesbuf_clear(&k->reply);
    by_id(1);
    cr_assert_eq(msg_body_copy(&m.body, req.p, req.n), 0);
    ACTOR_POST(w->reactor, k->endpoint, k->actor.id, MSG_C_CLONE, &m);
    for (int i = 0; i < 100 && !made; i++) {
        reactor_tick(w->reactor, 0);
        made = service_session(w->svc, 2);
    }
    cr_assert_not_null(made);
    cr_assert(made->making, "8 MB were copied in one slice");
    cr_assert_not(k->replied);
    return made;
}

static size_t large_ones(const struct cons *c, char letter)
{
    size_t n = 0;
    for (size_t i = 0; i < c->npkts; i++)
        n += c->pkts[i].n > 1000 && c->pkts[i].p[500] == (uint8_t)letter;
    return n;
}

Test(clone, R215_copied_in_slices_and_as_it_was)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    begin_large(c, k);
    fill(service_session(w->svc, 1), MANY, 12000, 'b'); /* overwrites some, wraps */
    cons_bye(c);
    cr_assert_str_eq(outcome(k), "");
    cons_read(k);
    cr_expect_eq(large_ones(k, 'a'), MANY);
    cr_expect_eq(large_ones(k, 'b'), 0);
}

Test(clone, R216_a_read_before_all_is_copied_waits)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    struct msg_request m = {0};
    begin_large(c, k);
    m.cookie = ++k->cookie;
    k->read_done = false;
    ACTOR_POST(w->reactor, k->endpoint, k->actor.id, MSG_C_READ, &m);
    reactor_tick(w->reactor, 0);
    cr_expect_eq(k->npkts, 0);
    world_settle(w);
    cr_expect(k->read_done);
    cr_expect_eq(large_ones(k, 'a'), MANY);
}

Test(clone, R223_freed_before_it_is_copied)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    struct session *s = begin_large(c, k);
    session_free(s, NULL);
    world_settle(w);
    cr_expect(strstr(outcome(k), "freed"), "%s", outcome(k));
    cons_bye(k);
    cons_read(c);
    cr_expect_eq(large_ones(c, 'a'), MANY);
}

Test(clone, R209_a_clone_of_a_clone_that_is_being_copied)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1), *k2 = cons_new(w, 1);
    begin_large(c, k);
    cons_clone(k2, by_id(2), -1);
    cr_assert_str_eq(outcome(k), "");
    cr_assert_str_eq(outcome(k2), "");
    cons_read(k2);
    cr_expect_eq(large_ones(k2, 'a'), MANY);
    cons_read(k);
    cr_expect_eq(large_ones(k, 'a'), MANY);
}

Test(clone, R218_events_stay_in_the_source)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain());
    cons_clone(k, by_id(1), -1);
    cons_read(c);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_clone_started), 0);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_buffer_cloned), 0, "T138");
    cr_expect_eq(cons_count(c, PBF_TracePacket_synchronization_marker), 1);
    cons_read(k);
    cr_expect_eq(cons_count(k, PBF_TracePacket_synchronization_marker), 0,
                 "a clone emits no marker");
}

Test(clone, R209_T127_T129_who_and_what)
{
    struct cons *c = cons_new(w, 1000), *k = cons_new(w, 1001), *root = cons_new(w, 0);
    plain();
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_unique_session_name, "mine");
    cons_enable(c, &w->cfg);
    cons_clone(k, by_id(1), -1);
    cr_expect(strstr(outcome(k), "session from another UID"), "%s", outcome(k));
    cons_clone(k, by_id(99), -1);
    cr_expect_str_eq(outcome(k), "Tracing session not found");
    cons_clone(k, by_id(UINT64_MAX), -1);
    cr_expect_str_eq(outcome(k), "No tracing sessions eligible for bugreport found");
    cons_clone(k, by_name("other"), -1);
    cr_expect_str_eq(outcome(k), "Tracing session not found");
    cons_clone(root, by_name("mine"), -1); /* T129 */
    cr_expect_str_eq(outcome(root), "");
    cons_bye(c);
    struct cons *r2 = cons_new(w, 0);
    cons_clone(r2, by_name("mine"), -1);
    cr_expect_str_eq(outcome(r2), "Tracing session not found", "clones are not found by name");
    cons_clone(r2, by_id(2), -1);
    cr_expect_str_eq(outcome(r2), "", "but by id");
    struct cons *r3 = cons_new(w, 0);
    cr_assert(cons_query(r3, true));
    struct bytes_view st = msg_part(r3->reply.p, r3->reply.n, 1, 0);
    struct bytes_view s = msg_part(st.p, st.n, PBF_TracingServiceState_tracing_sessions, 0);
    cr_expect_str_eq(msg_str(s.p, s.n, PBF_TracingServiceState_TracingSession_state),
                     "CLONED_READ_ONLY");
}

Test(clone, R209_best_bugreport)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *a = cons_new(w, 0), *b = cons_new(w, 0), *k = cons_new(w, 0);
    prod_register(p, "ds", 0);
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_bugreport_score, 3);
    cons_enable(a, &w->cfg);
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_bugreport_score, 7);
    cons_enable(b, &w->cfg);
    prod_put_to(p, 1, prod_target(p, 1), "best");
    cons_clone(k, by_id(UINT64_MAX), -1);
    cr_assert_str_eq(outcome(k), "");
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->flags, 0x113);
    cons_read(k);
    cr_expect(cons_has(k, "best"));
}

Test(clone, R214_T132_stopped_source)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain());
    prod_put(p, 1, "data");
    cons_ask(c, MSG_C_DISABLE);
    cons_clone(k, by_id(1), -1);
    cr_assert_str_eq(outcome(k), "");
    cons_read(k);
    cr_expect(cons_has(k, "data"));
    const struct pkt *s = cons_pkt(k, PBF_TracePacket_trace_stats, 0);
    cr_expect_eq(pkt_sub(s, PBF_TracePacket_trace_stats, PBF_TraceStats_final_flush_outcome, 0), 2,
                 "R214");
}

Test(clone, T133_consumer_gone_during_the_flush)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, plain());
    cons_clone(k, by_id(1), -1);
    cr_expect_str_eq(outcome(k), "-");
    cons_bye(k);
    prod_ack_flush(p, UINT64_MAX);
    cr_assert(cons_query(c, true));
    struct bytes_view st = msg_part(c->reply.p, c->reply.n, 1, 0);
    cr_expect_eq(msg_num(st.p, st.n, PBF_TracingServiceState_num_sessions, 0), 1);
}

Test(clone, T134_source_gone_during_the_flush)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, plain());
    cons_clone(k, by_id(1), -1);
    uint64_t id = prod_heard(p, MSG_PP_FLUSH, 0)->id;
    cons_ask(c, MSG_C_FREE);
    cr_expect_str_eq(outcome(k), "Original session ended");
    prod_ack_flush(p, id);
    cr_expect_eq(k->reply_parts, 1, "told once");
}

Test(clone, R216_owner_of_a_session_cannot_clone)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    cons_enable(c, plain());
    cons_enable(k, plain());
    cons_clone(k, by_id(1), -1);
    cr_expect(outcome(k)[0] && k->replied, "an error");
}

static void special_buffer(uint32_t flag)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 64);
    bytesbuf_pb_varint(&w->cfg, flag, 1);
    bytesbuf_pb_end(&w->cfg, m);
}

Test(clone, T130_transfer_on_clone)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k1 = cons_new(w, 1), *k2 = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(p, "b", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    special_buffer(PBF_TraceConfig_BufferConfig_transfer_on_clone);
    cfg_source(&w->cfg, "a", 0);
    cfg_source(&w->cfg, "b", 1);
    cons_enable(c, &w->cfg);
    prod_put_to(p, 1, prod_target(p, 0), "normal");
    prod_put_to(p, 2, prod_target(p, 1), "moved");
    cons_clone(k1, by_id(1), -1);
    cr_assert_eq(prod_count(p, MSG_PP_FLUSH), 2, "one flush per group");
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->nids, 1);
    cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 1)->nids, 1);
    cr_assert_str_eq(outcome(k1), "");
    prod_put_to(p, 2, prod_target(p, 1), "second");
    cons_clone(k2, by_id(1), -1);
    cons_read(k1);
    cr_expect(cons_has(k1, "normal") && cons_has(k1, "moved") && !cons_has(k1, "second"));
    cons_read(k2);
    cr_expect(cons_has(k2, "normal") && !cons_has(k2, "moved") && cons_has(k2, "second"));
    cons_read(c);
    cr_expect(cons_has(c, "normal") && cons_texts(c) == 1, "moved data are not in the source");
}

Test(clone, T135_a_slow_group_does_not_delay_the_other)
{
    struct prod *p = prod_new(w, "fast", 1), *q = prod_new(w, "slow", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "a", 0);
    prod_register(q, "b", 0);
    q->mute = true;
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    special_buffer(PBF_TraceConfig_BufferConfig_transfer_on_clone);
    cfg_source(&w->cfg, "a", 0);
    cfg_source(&w->cfg, "b", 1);
    cons_enable(c, &w->cfg);
    cons_clone(k, by_id(1), -1);
    prod_put(p, 1, "too late");
    prod_put(q, 1, "in time");
    prod_ack_flush(q, prod_heard(q, MSG_PP_FLUSH, 0)->id);
    cr_assert_str_eq(outcome(k), "");
    cons_read(k);
    cr_expect(cons_has(k, "in time") && !cons_has(k, "too late"));
}

Test(clone, T131_clear_before_clone)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cfg_begin(&w->cfg);
    special_buffer(PBF_TraceConfig_BufferConfig_clear_before_clone);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "old");
    cons_clone(k, by_id(1), -1);
    prod_put(p, 2, "during the flush");
    prod_ack_flush(p, UINT64_MAX);
    cr_assert_str_eq(outcome(k), "");
    cons_read(k);
    cr_expect(!cons_has(k, "old") && cons_has(k, "during the flush"));
}

Test(clone, T116_T136_triggers)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k1 = cons_new(w, 1), *k2 = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain();
    cfg_trigger_mode(&w->cfg, 4, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 5, 0, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "t");
    by_id(1);
    bytesbuf_pb_str(&req, PBF_CloneSessionRequest_clone_trigger_name, "t");
    bytesbuf_pb_str(&req, PBF_CloneSessionRequest_clone_trigger_producer_name, "p");
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_clone_trigger_trusted_producer_uid, 42);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_clone_trigger_boot_time_ns, 1234);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_clone_trigger_delay_ms, 5);
    cons_clone(k1, &req, -1);
    cr_assert_str_eq(outcome(k1), "");
    cons_read(k1);
    cr_expect_eq(cons_count(k1, PBF_TracePacket_trigger), 1);
    cr_assert_eq(cons_count(k1, PBF_TracePacket_clone_snapshot_trigger), 1);
    const struct pkt *t = cons_pkt(k1, PBF_TracePacket_clone_snapshot_trigger, 0);
    cr_expect_eq(pkt_num(t, PBF_TracePacket_timestamp, 0), 1234);
    cr_expect_eq(
        pkt_sub(t, PBF_TracePacket_clone_snapshot_trigger, PBF_Trigger_trusted_producer_uid, 0),
        42);
    cons_read(k1);
    cr_expect_eq(cons_count(k1, PBF_TracePacket_clone_snapshot_trigger), 0);
    cons_clone(k2, by_id(1), -1);
    cons_read(k2);
    cr_expect_eq(cons_count(k2, PBF_TracePacket_trigger), 0, "only those since the last clone");
}

Test(clone, R223_a_clone_is_inert)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    cons_enable(c, plain());
    cons_clone(k, by_id(1), -1);
    cr_expect(cons_ask(k, MSG_C_DISABLE));
    cr_expect(cons_ask(k, MSG_C_STATS));
    cons_flush_begin(k, 0, 0);
    cr_expect(k->replied && !k->reply_ok);
    cr_expect(cons_ask(k, MSG_C_FREE));
    cr_expect(cons_enable(k, plain()), "its owner is free again");
}

/* ipc.md R108. */
Test(clone, R211_T97_descriptors_are_dropped_without_a_file)
{
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    cons_enable(c, plain());
    int fd = open(world_path(w, "out"), O_RDWR | O_CREAT, 0600); /* T97 */
    cons_clone(k, by_id(1), dup(fd));
    cr_expect_str_eq(outcome(k), "");
    cr_expect_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_was_write_into_file, 9),
                 0);
    struct stat st;
    fstat(fd, &st);
    cr_expect_eq(st.st_size, 0);
    close(fd);
    cr_expect_gt(cons_read(k), 0);
}

/* All test packets of a trace file, as one text. */
static const char *file_texts(int fd)
{
    static uint8_t buf[1 << 20];
    static char out[4096];
    ssize_t n = pread(fd, buf, sizeof(buf), 0);
    struct bytes_cur cur = bytes_cur(bytes_view(buf, n > 0 ? (size_t)n : 0));
    struct bytes_field f;
    out[0] = '\0';
    while (bytes_next(&cur, &f)) {
        struct bytes_view t = msg_part(f.data.p, f.data.n, PBF_TracePacket_for_testing, 0);
        if (t.n) {
            strcat(out, msg_str(t.p, t.n, 1));
            strcat(out, " ");
        }
    }
    if (!bytes_done(&cur))
        strcat(out, "MALFORMED");
    return out;
}

Test(clone, R211_R221_T95_into_a_file)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1), *no = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    int src = open(world_path(w, "src"), O_RDWR | O_CREAT, 0600);
    int dst = open(world_path(w, "dst"), O_RDWR | O_CREAT, 0600);
    cr_assert(cons_enable_fd(c, &w->cfg, dup(src)));
    prod_put(p, 1, "drained");
    world_advance_ms(w, 5000);
    cr_expect(strstr(file_texts(src), "drained"), "%s", file_texts(src));
    prod_put(p, 1, "buffered");
    cons_clone(no, by_id(1), -1);
    cr_expect(outcome(no)[0] && no->replied, "R211: a descriptor is mandatory");
    cons_clone(k, by_id(1), dup(dst));
    world_advance_ms(w, 100);
    cr_assert_str_eq(outcome(k), "");
    cr_expect_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_was_write_into_file, 0),
                 1);
    cr_expect_str_eq(file_texts(dst), "drained buffered ");
    cr_expect_str_eq(file_texts(src), "drained ", "the source is not drained by cloning");
    cons_read(k);
    cr_expect_eq(k->npkts, 1, "R221: just a read_completed event");
    prod_put(p, 1, "later");
    cons_ask(c, MSG_C_DISABLE);
    cr_expect(c->disabled);
    cr_expect_str_eq(file_texts(src), "drained buffered later ");
    close(src);
    close(dst);
}

/* The source's file must be one that can be read: of a pipe the clone would have lacked all that
 * was drained, without a word. */
Test(clone, R211_a_source_that_cannot_be_read)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    int pipes[2], dst = open(world_path(w, "dst"), O_RDWR | O_CREAT, 0600);
    prod_register(p, "ds", 0);
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    cr_assert_eq(pipe2(pipes, O_NONBLOCK), 0);
    cr_assert(cons_enable_fd(c, &w->cfg, pipes[1]));
    prod_put(p, 1, "drained");
    world_advance_ms(w, 5000);
    cons_clone(k, by_id(1), dup(dst));
    world_advance_ms(w, 100);
    cr_expect(k->replied && outcome(k)[0], "%s", outcome(k));
    cr_expect(cons_enable(k, plain()), "no session is left of it");
    close(pipes[0]);
    close(dst);
}

/* A consumer could have hundreds of clones pending, each with a copy of what was captured: one
 * request replaces the other (ipc.md R60), and so does what it holds. */
Test(clone, a_replaced_request_holds_nothing)
{
    struct charge_book *book = service_charges(w->svc);
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    plain(); /* one buffer that goes with the clone, which no flush has to wait for */
    special_buffer(PBF_TraceConfig_BufferConfig_transfer_on_clone);
    cons_enable(c, &w->cfg);
    uint64_t one = charge_balance(book, 1, CHARGE_BUFFER_BYTES);
    cons_clone(k, by_id(1), -1);
    uint64_t two = charge_balance(book, 1, CHARGE_BUFFER_BYTES);
    cr_assert_gt(two, one, "something is captured");
    struct session *s = service_session(w->svc, 1);
    for (int i = 0; i < 50; i++) {
        uint64_t before = k->cookie;
        cons_clone(k, by_id(1), -1);
        cr_expect_eq(list_count(&s->clones), 1);
        cr_expect_eq(charge_balance(book, 1, CHARGE_BUFFER_BYTES), two);
        cr_expect_eq(k->cookie, before + 1);
    }
    prod_ack_flush(p, UINT64_MAX);
    cr_assert_str_eq(outcome(k), "", "the last one is made: %s", outcome(k));
    cr_expect(list_empty(&s->clones));
    cr_expect_eq(service_sessions(w->svc), 2);
}

Test(clone, R222_who_leaves_holds_nothing)
{
    struct charge_book *book = service_charges(w->svc);
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    plain();
    special_buffer(PBF_TraceConfig_BufferConfig_transfer_on_clone);
    cons_enable(c, &w->cfg);
    uint64_t one = charge_balance(book, 1, CHARGE_BUFFER_BYTES);
    cons_clone(k, by_id(1), -1);
    cr_assert_gt(charge_balance(book, 1, CHARGE_BUFFER_BYTES), one);
    cons_bye(k);
    cr_expect_eq(charge_balance(book, 1, CHARGE_BUFFER_BYTES), one, "before the flush is over");
    prod_ack_flush(p, UINT64_MAX);
    cr_expect_eq(service_sessions(w->svc), 1);
}

/* The source goes when some of its clones were replaced: their flushes call back once more. */
Test(clone, T134_the_source_goes_with_replaced_clones)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    cons_enable(c, plain());
    for (int i = 0; i < 3; i++)
        cons_clone(k, by_id(1), -1);
    cons_ask(c, MSG_C_FREE);
    cr_expect_str_eq(outcome(k), "Original session ended");
    cons_clone(k, by_id(1), -1);
    cr_expect_str_eq(outcome(k), "Tracing session not found");
}
