/* SPDX-License-Identifier: Apache-2.0 */
/* ProtoVMs of a service from end to end: service.md R72, R107.15, T142. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/charge.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_vm.h"
#include "t/svc/vmasm.h"
#include "t/svc/world.h"

/* for_testing.protovm_patch of packets is merged into for_testing.protovm_incremental_state, into
 * another field of it by the second version. */
#define PROGRAM  "src /900/6 { dst+ /900/7 { merge } }"
#define PROGRAM2 "src /900/6 { dst+ /900/7/3 { merge } }"

static struct world *w;
static struct prod *p;
static struct cons *c;

static void setup(void)
{
    w = world_new();
    p = prod_new(w, "p", 1);
    c = cons_new(w, 1);
}

static void teardown(void)
{
    world_free(w);
}

TestSuite(session_vm, .init = setup, .fini = teardown);

/* ---- setting up ---- */

static void register_vm(struct prod *of, const char *source, const char *program)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 1 << 17);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, source);
    if (program) {
        size_t m = bytesbuf_pb_begin(&b, PBF_DataSourceDescriptor_protovm_program);
        vmasm_program(&b, program);
        bytesbuf_pb_end(&b, m);
    }
    struct msg_request m = {.cookie = ++of->cookie};
    cr_assert_eq(msg_body_copy(&m.body, b.p, b.n), 0);
    ACTOR_POST(w->reactor, of->endpoint, of->actor.id, MSG_P_REGISTER, &m);
    world_settle(w);
    bytesbuf_fini(&b);
}

static void add_buffer(uint32_t kb, bool v2)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, kb);
    if (v2)
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_experimental_mode, 1);
    bytesbuf_pb_end(&w->cfg, m);
}

static void add_source(const char *name, uint32_t limit_kb)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, name);
    if (limit_kb) {
        size_t v = bytesbuf_pb_begin(&w->cfg, PBF_DataSourceConfig_protovm_config);
        bytesbuf_pb_varint(&w->cfg, PBF_ProtoVmConfig_memory_limit_kb, limit_kb);
        bytesbuf_pb_end(&w->cfg, v);
    }
    bytesbuf_pb_end(&w->cfg, k);
    bytesbuf_pb_end(&w->cfg, m);
}

/* One V2 buffer of 4 KiB and one data source. */
static void enable(void)
{
    cfg_begin(&w->cfg);
    add_buffer(4, true);
    add_source("ds", 64);
    cr_assert(cons_enable(c, &w->cfg));
}

/* Packet number `n`, of about 1 KiB, in a chunk of its own. Its patch has the number in field 2 and
 * in field 1 a text that only the first has. */
static void put(struct prod *by, unsigned n)
{
    char text[1100], pad[1000];
    uint8_t payload[1200];
    struct bytesbuf b;
    memset(pad, '.', sizeof(pad) - 1);
    pad[sizeof(pad) - 1] = '\0';
    snprintf(text, sizeof(text), "900{ 1'%s' 6{ %s 2=%u } }", pad, n == 1 ? "1'first'" : "", n);
    bytesbuf_init(&b, 2000);
    vmasm_message(&b, text);
    payload[0] = (uint8_t)(b.n | 0x80);
    payload[1] = (uint8_t)(b.n >> 7);
    memcpy(payload + 2, b.p, b.n);
    prod_fill(by, 0, 1, by->next_chunk[1]++, 1, 0, payload, b.n + 2, 3);
    bytesbuf_clear(&b);
    size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, prod_target(by, 0));
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_page, 0);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_chunk, 0);
    bytesbuf_pb_end(&b, m);
    cr_assert(prod_commit_raw(by, b.p, b.n));
    bytesbuf_fini(&b);
}

/* ---- what was read ---- */

static struct bytes_view instance(const struct cons *of, size_t nth)
{
    const struct pkt *k = cons_pkt(of, PBF_TracePacket_protovms, 0);
    cr_assert_not_null(k);
    struct bytes_view vms = msg_part(k->p, k->n, PBF_TracePacket_protovms, 0);
    return msg_part(vms.p, vms.n, PBF_TracePacket_ProtoVms_instance, nth);
}

static size_t instances(const struct cons *of)
{
    const struct pkt *k = cons_pkt(of, PBF_TracePacket_protovms, 0);
    if (!k)
        return 0;
    struct bytes_view vms = msg_part(k->p, k->n, PBF_TracePacket_protovms, 0);
    return msg_fields(vms.p, vms.n, PBF_TracePacket_ProtoVms_instance);
}

static bool state_is(const struct cons *of, size_t nth, const char *message)
{
    struct bytes_view i = instance(of, nth);
    struct bytes_view state = msg_part(i.p, i.n, PBF_TracePacket_ProtoVms_Instance_state, 0);
    struct bytesbuf b;
    bytesbuf_init(&b, 1000);
    vmasm_message(&b, message);
    bool same = vmasm_same(state, bytesbuf_view(&b));
    bytesbuf_fini(&b);
    return same;
}

static bool program_is(const struct cons *of, size_t nth, const char *program)
{
    struct bytes_view i = instance(of, nth);
    struct bytesbuf b;
    bytesbuf_init(&b, 1000);
    vmasm_program(&b, program);
    bool same = bytes_equal(msg_part(i.p, i.n, PBF_TracePacket_ProtoVms_Instance_program, 0),
                            bytesbuf_view(&b));
    bytesbuf_fini(&b);
    return same;
}

/* The numbers of the packets of producers, as digits. */
static const char *packets(const struct cons *of)
{
    static char text[40];
    size_t n = 0;
    for (size_t i = 0; i < of->npkts && n + 1 < sizeof(text); i++) {
        struct bytes_view e =
            msg_part(of->pkts[i].p, of->pkts[i].n, PBF_TracePacket_for_testing, 0);
        struct bytes_view patch = msg_part(e.p, e.n, PBF_TestEvent_protovm_patch, 0);
        if (patch.n)
            text[n++] = (char)('0' + msg_num(patch.p, patch.n, 2, 0));
    }
    text[n] = '\0';
    return text;
}

static uint16_t id_of(struct prod *of)
{
    uint16_t id = 0;
    list_for_each (it, &w->svc->producers) {
        struct producer *endpoint = list_entry(it, struct producer, node);
        if (endpoint->actor.id == of->endpoint)
            id = endpoint->id;
    }
    return id;
}

/* ---- T142 ---- */

Test(session_vm, T142_no_patch_is_applied_before_packets_are_overwritten)
{
    register_vm(p, "ds", PROGRAM);
    enable();
    for (unsigned i = 1; i <= 3; i++)
        put(p, i);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_protovms), 1);
    cr_expect_eq(instances(c), 1);
    cr_expect(state_is(c, 0, ""));
    cr_expect(program_is(c, 0, PROGRAM));
    struct bytes_view i = instance(c, 0);
    cr_expect_eq(msg_num(i.p, i.n, PBF_TracePacket_ProtoVms_Instance_memory_limit_kb, 0), 64);
    cr_expect_eq(msg_num(i.p, i.n, PBF_TracePacket_ProtoVms_Instance_producer_id, 0), id_of(p));
    cr_expect_str_eq(packets(c), "123");
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_protovms), 0, "once");
}

Test(session_vm, T142_overwritten_packets_are_merged_the_others_stay)
{
    register_vm(p, "ds", PROGRAM);
    enable();
    for (unsigned i = 1; i <= 5; i++)
        put(p, i);
    cons_read(c);
    cr_expect(state_is(c, 0, "900{ 7{ 1'first' 2=2 } }"));
    cr_expect_str_eq(packets(c), "345");
}

Test(session_vm, T142_the_producer_registers_late)
{
    enable();
    register_vm(p, "ds", PROGRAM);
    for (unsigned i = 1; i <= 5; i++)
        put(p, i);
    cons_read(c);
    cr_expect(state_is(c, 0, "900{ 7{ 1'first' 2=2 } }"));
    cr_expect_str_eq(packets(c), "345");
}

static void clone_it(struct cons *k)
{
    struct bytesbuf r;
    bytesbuf_init(&r, 100);
    bytesbuf_pb_varint(&r, PBF_CloneSessionRequest_session_id, 1);
    cons_clone(k, &r, -1);
    cr_assert_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_success, 0), 1);
    bytesbuf_fini(&r);
}

Test(session_vm, T142_a_clone_carries_the_state_of_its_moment)
{
    struct cons *k = cons_new(w, 1), *k2 = cons_new(w, 1);
    register_vm(p, "ds", PROGRAM);
    enable();
    for (unsigned i = 1; i <= 4; i++)
        put(p, i);
    clone_it(k);
    put(p, 5);
    cons_read(k);
    cr_expect(state_is(k, 0, "900{ 7{ 1'first' 2=1 } }"));
    cr_expect(program_is(k, 0, PROGRAM));
    cr_expect_str_eq(packets(k), "234");
    cons_read(c);
    cr_expect(state_is(c, 0, "900{ 7{ 1'first' 2=2 } }"));
    cr_expect_str_eq(packets(c), "345");
    clone_it(k2);
    cons_bye(c);
    cons_read(k2);
    cr_expect(state_is(k2, 0, "900{ 7{ 1'first' 2=2 } }"), "a clone has a first read of its own");
}

Test(session_vm, T142_one_vm_for_each_program_with_its_own_producers)
{
    struct prod *q = prod_new(w, "q", 1), *r = prod_new(w, "r", 1), *s = prod_new(w, "s", 1);
    register_vm(p, "ds", PROGRAM);
    register_vm(q, "ds", PROGRAM);
    register_vm(r, "ds", PROGRAM2);
    register_vm(s, "other", NULL);
    cfg_begin(&w->cfg);
    add_buffer(4, true);
    add_source("ds", 64);
    add_source("other", 0);
    cr_assert(cons_enable(c, &w->cfg));
    put(p, 1);
    put(q, 2);
    put(r, 3);
    put(s, 4);
    put(r, 5);
    put(r, 6);
    put(s, 7); /* evicted: 1 2 3 4 */
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_protovms), 1);
    cr_expect_eq(instances(c), 2);
    cr_expect(program_is(c, 0, PROGRAM));
    cr_expect(state_is(c, 0, "900{ 7{ 1'first' 2=2 } }"));
    struct bytes_view i = instance(c, 0);
    cr_expect_eq(msg_fields(i.p, i.n, PBF_TracePacket_ProtoVms_Instance_producer_id), 2);
    cr_expect(program_is(c, 1, PROGRAM2));
    cr_expect(state_is(c, 1, "900{ 7{ 3{ 2=3 } } }"));
    i = instance(c, 1);
    cr_expect_eq(msg_num(i.p, i.n, PBF_TracePacket_ProtoVms_Instance_producer_id, 0), id_of(r));
    cr_expect_str_eq(packets(c), "567");
}

/* ---- R72 ---- */

Test(session_vm, R72_both_sides_and_a_V2_buffer_are_needed)
{
    for (unsigned bits = 0; bits < 8; bits++) {
        struct prod *q = prod_new(w, "q", 1);
        struct cons *k = cons_new(w, 1);
        register_vm(q, "ds", bits & 1 ? PROGRAM : NULL);
        cfg_begin(&w->cfg);
        add_buffer(4, bits & 4);
        add_source("ds", bits & 2 ? 64 : 0);
        cr_assert(cons_enable(k, &w->cfg), "%u", bits);
        for (unsigned i = 1; i <= 5; i++)
            put(q, i);
        cons_read(k);
        cr_expect_eq(cons_count(k, PBF_TracePacket_protovms), bits == 7, "%u", bits);
        cr_expect_str_eq(packets(k), "345", "%u", bits);
        cons_bye(k);
        prod_bye(q);
    }
}

Test(session_vm, R72_a_program_that_cannot_be_used_stops_nothing)
{
    struct prod *q = prod_new(w, "q", 1);
    char deep[2000] = "src ";
    for (unsigned i = 0; i < 100; i++)
        strcat(deep, "/1*");
    register_vm(p, "ds", deep);
    register_vm(q, "ds", PROGRAM);
    enable();
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cr_expect_lt(charge_balance(service_charges(w->svc), 1, CHARGE_BUFFER_BYTES), (4 + 65) << 10);
    for (unsigned i = 1; i <= 5; i++)
        put(p, i);
    cons_read(c);
    cr_expect_eq(instances(c), 1);
    cr_expect(state_is(c, 0, ""));
    cr_expect_str_eq(packets(c), "345");
}

Test(session_vm, R72_memory_is_charged_to_the_consumer_and_given_back)
{
    struct charge_book *book = service_charges(w->svc);
    struct prod *q = prod_new(w, "q", 1);
    struct cons *k = cons_new(w, 1);
    register_vm(p, "ds", PROGRAM);
    enable();
    uint64_t one = charge_balance(book, 1, CHARGE_BUFFER_BYTES);
    cr_expect_geq(one, (4 + 64) << 10);
    cr_expect_lt(one, (4 + 65) << 10);
    register_vm(q, "ds", PROGRAM);
    cr_expect_eq(charge_balance(book, 1, CHARGE_BUFFER_BYTES), one, "they share it");
    register_vm(q, "ds", PROGRAM2);
    uint64_t two = charge_balance(book, 1, CHARGE_BUFFER_BYTES);
    cr_expect_geq(two, (4 + 64 + 64) << 10);
    uint64_t used = tbuf_vm_memory(service_session(w->svc, 1)->buffers[0].tb);
    cr_expect_gt(used, 0);
    clone_it(k);
    cr_expect_eq(charge_balance(book, 1, CHARGE_BUFFER_BYTES), two + (4 << 10) + used);
    cons_bye(k);
    cons_bye(c);
    cr_expect_eq(charge_balance(book, 1, CHARGE_BUFFER_BYTES), 0);
}

Test(session_vm, R72_without_room_for_its_memory_the_source_works_without)
{
    struct charge_limit limits[CHARGE_KINDS];
    world_free(w);
    charge_default_limits(limits);
    limits[CHARGE_BUFFER_BYTES].per_uid = 100 << 10;
    w = world_new_limited(limits);
    p = prod_new(w, "p", 1);
    c = cons_new(w, 1);
    struct prod *q = prod_new(w, "q", 1);
    register_vm(p, "ds", PROGRAM);
    register_vm(q, "ds", PROGRAM2); /* 64 KiB more do not fit */
    enable();
    cr_expect_lt(charge_balance(service_charges(w->svc), 1, CHARGE_BUFFER_BYTES), 69 << 10);
    put(q, 1);
    put(p, 2);
    cons_read(c);
    cr_expect_eq(instances(c), 1);
    cr_expect(program_is(c, 0, PROGRAM));
    cr_expect_str_eq(packets(c), "12");
}

Test(session_vm, R85_a_buffer_given_to_a_clone_takes_its_states_along)
{
    struct cons *k = cons_new(w, 1);
    register_vm(p, "ds", PROGRAM);
    cfg_begin(&w->cfg);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 4);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_experimental_mode, 1);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_transfer_on_clone, 1);
    bytesbuf_pb_end(&w->cfg, m);
    add_source("ds", 64);
    cr_assert(cons_enable(c, &w->cfg));
    for (unsigned i = 1; i <= 5; i++)
        put(p, i);
    clone_it(k);
    for (unsigned i = 6; i <= 9; i++)
        put(p, i);
    cons_read(k);
    cr_expect(state_is(k, 0, "900{ 7{ 1'first' 2=2 } }"));
    cr_expect_str_eq(packets(k), "345");
    cons_read(c);
    cr_expect(state_is(c, 0, "900{ 7{ 2=6 } }"), "the new buffer begins anew");
    cr_expect_str_eq(packets(c), "789");
}

#define PROGRAMS 16u

/* Overwrites packets of 60000 bytes, 16 for each of the buffer's programs, each with a key of its
 * own: the buffer's states have some 15 MB. */
static void fill_states(struct tbuf *tb)
{
    static uint8_t payload[60100];
    for (uint32_t i = 0; i < 16 * PROGRAMS + 3; i++) {
        uint8_t *at = payload + 3, *end;
        at = bytes_put_tag(at, 100 + i / 16, BYTES_VARINT);
        at = bytes_put_varint(at, 1000 + i);
        at = bytes_put_tag(at, 20, BYTES_LEN);
        at = bytes_put_varint(at, 60000);
        end = at + 60000;
        size_t n = (size_t)(end - payload) - 3;
        payload[0] = (uint8_t)(n | 0x80);
        payload[1] = (uint8_t)(n >> 7 | 0x80);
        payload[2] = (uint8_t)(n >> 14);
        struct tbuf_chunk_in in = {.producer_id = id_of(p),
                                   .writer_id = 1,
                                   .chunk_id = i,
                                   .num_fragments = 1,
                                   .complete = true,
                                   .payload = payload,
                                   .payload_size = (uint32_t)(end - payload)};
        cr_assert_eq(tbuf_copy_chunk(tb, &in), TBUF_STORED);
    }
}

static void add_vm_source(const char *name, uint32_t buffer, uint32_t limit_kb)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, name);
    bytesbuf_pb_varint(&w->cfg, PBF_DataSourceConfig_target_buffer, buffer);
    size_t v = bytesbuf_pb_begin(&w->cfg, PBF_DataSourceConfig_protovm_config);
    bytesbuf_pb_varint(&w->cfg, PBF_ProtoVmConfig_memory_limit_kb, limit_kb);
    bytesbuf_pb_end(&w->cfg, v);
    bytesbuf_pb_end(&w->cfg, k);
    bytesbuf_pb_end(&w->cfg, m);
}

/* Three buffers with PROGRAMS data sources each. */
static void enable_many(uint32_t limit_kb)
{
    char name[20], program[100];
    cfg_begin(&w->cfg);
    for (uint32_t i = 0; i < 3; i++)
        add_buffer(128, true);
    for (uint32_t i = 0; i < 3 * PROGRAMS; i++) {
        uint32_t field = 100 + i % PROGRAMS;
        snprintf(name, sizeof(name), "ds%u", i);
        snprintf(program, sizeof(program), "src /%u { load 0 } dst+ /7:%u=0 { merge }", field,
                 field);
        register_vm(p, name, program);
        add_vm_source(name, i / PROGRAMS, limit_kb);
    }
    cr_assert(cons_enable(c, &w->cfg));
}

Test(session_vm, R107_states_that_are_too_large_together_are_left_out)
{
    enable_many(16384);
    struct session *s = service_session(w->svc, 1);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(tbuf_vm_count(s->buffers[i].tb), PROGRAMS);
        fill_states(s->buffers[i].tb);
        cr_assert_gt(tbuf_vm_memory(s->buffers[i].tb), SESSION_VMS_MAX * 2 / 5);
        cr_assert_lt(tbuf_vm_memory(s->buffers[i].tb), (TBUF_VM_LIMIT_KB + 10) * 1024 * PROGRAMS);
    }
    cons_read(c);
    cr_expect_geq(instances(c), 2 * PROGRAMS);
    cr_expect_lt(instances(c), 3 * PROGRAMS);
    cr_expect_gt(cons_pkt(c, PBF_TracePacket_protovms, 0)->n, 28 << 20);
    cr_expect_leq(cons_pkt(c, PBF_TracePacket_protovms, 0)->n, SESSION_VMS_MAX);
    cr_expect_eq(cons_events(c, PBF_TracingServiceEvent_tracing_started), 1, "the rest is there");
    cons_read(c);
    cr_expect_lt(s->scratch.cap, 2 << 20, "the memory for it is given back");
}

/* Encoding one state takes as long as a turn of the loop may. */
Test(session_vm, R107_one_state_is_encoded_in_each_call)
{
    enable_many(16);
    struct session *s = service_session(w->svc, 1);
    unsigned calls = 0;
    size_t had = 0;
    session_own_begin(s);
    for (bool more = true; more; calls++) {
        more = session_own_build(s);
        if (s->own.step != OWN_VMS)
            continue;
        size_t n = s->own.buffer * PROGRAMS + s->own.vm.vm;
        cr_expect_leq(n, had + 1);
        had = n;
    }
    cr_expect_eq(had, 3 * PROGRAMS);
    cr_expect_geq(calls, 3 * PROGRAMS + 1);
}
