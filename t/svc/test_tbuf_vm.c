/* SPDX-License-Identifier: Apache-2.0 */
/* svc/tbuf_vm: which packets the ProtoVMs of a buffer get, in which order, and what clones show of
 * them (spec/trace_buffer.md 13). */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_vm.h"
#include "t/svc/vmasm.h"

#define FIRST TBUF_CHUNK_FIRST_CONTINUES
#define LAST  TBUF_CHUNK_LAST_CONTINUES
#define PATCH TBUF_CHUNK_NEEDS_PATCHING

/* Elements by their field 1; others are not for it. */
#define BY_ID "src /1 { load 0 } dst+ /7:1=0 { merge }"

static struct tbuf *b;
static const char *why;

static void setup(void)
{
    chrono_random_seed(4711);
    cr_assert_eq(tbuf_new(4096, TBUF_RING, 0, &b), 0);
}

static void teardown(void)
{
    tbuf_free(b);
}

TestSuite(tbuf_vm, .init = setup, .fini = teardown);

static int attach_limited(const char *source, const char *program, uint16_t producer, uint32_t kb)
{
    struct bytesbuf p;
    bytesbuf_init(&p, 1 << 20);
    vmasm_program(&p, program);
    const struct tbuf_vm_spec spec = {bytes_str(source), bytesbuf_view(&p), kb};
    why = "";
    int err = tbuf_vm_attach(b, &spec, producer, &why);
    cr_expect_eq(err > 0, why[0] != '\0');
    bytesbuf_fini(&p);
    return err;
}

static void attach(const char *source, const char *program, uint16_t producer)
{
    cr_assert_eq(attach_limited(source, program, producer, 64), 0, "%s", why);
}

/* ---- chunks ---- */

static struct bytesbuf chunk;
static unsigned nfrags;

static void begin_chunk(void)
{
    bytesbuf_fini(&chunk);
    bytesbuf_init(&chunk, 65535);
    nfrags = 0;
}

static void add_bytes(const uint8_t *p, size_t n)
{
    bytesbuf_put_varint(&chunk, n);
    bytesbuf_put(&chunk, p, n);
    nfrags++;
}

static void encode(struct bytesbuf *out, const char *message)
{
    bytesbuf_init(out, 1 << 20);
    vmasm_message(out, message);
}

static void add(const char *message)
{
    struct bytesbuf m;
    encode(&m, message);
    add_bytes(m.p, m.n);
    bytesbuf_fini(&m);
}

/* Bytes [from, to) of it. */
static void add_part(const char *message, size_t from, size_t to)
{
    struct bytesbuf m;
    encode(&m, message);
    cr_assert_leq(to, m.n);
    add_bytes(m.p + from, to - from);
    bytesbuf_fini(&m);
}

/* A packet without meaning, so that the chunk gets at least that large. */
static void pad(size_t n)
{
    static uint8_t bytes[4096];
    bytes[0] = 0xFA; /* field 127, a string */
    bytes[1] = 0x07;
    bytes[2] = (uint8_t)((n & 0x7F) | 0x80);
    bytes[3] = (uint8_t)(n >> 7);
    add_bytes(bytes, n + 4);
}

static enum tbuf_outcome copy(uint16_t producer, uint16_t writer, uint32_t id, unsigned flags)
{
    struct tbuf_chunk_in in = {.producer_id = producer,
                               .writer_id = writer,
                               .chunk_id = id,
                               .num_fragments = (uint16_t)nfrags,
                               .flags = (uint8_t)flags,
                               .complete = true,
                               .payload = chunk.p,
                               .payload_size = (uint32_t)chunk.n,
                               .client = {1000, 99, 0, producer}};
    enum tbuf_outcome r = tbuf_copy_chunk(b, &in);
    begin_chunk();
    return r;
}

/* One packet in a chunk of about 1 KiB. */
static void put(uint16_t producer, uint16_t writer, uint32_t id, const char *message)
{
    begin_chunk();
    add(message);
    pad(1000);
    cr_assert_eq(copy(producer, writer, id, 0), TBUF_STORED);
}

/* Evicts all that is in the buffer. */
static void flood(void)
{
    static uint32_t id;
    for (unsigned i = 0; i < 8; i++)
        put(99, 1, id++, "99=1");
}

/* ---- what the buffer says ---- */

static void states(const struct tbuf *of, struct bytesbuf *out)
{
    struct tbuf_vm_cursor at = {0};
    bool left_out = false;
    bytesbuf_init(out, 64 << 20);
    while (tbuf_vm_write_some(of, &at, out, SIZE_MAX, &left_out))
        continue;
    cr_assert(!left_out);
}

static struct bytes_view part(struct bytes_view of, uint32_t field, size_t nth)
{
    struct bytes_cur cur = bytes_cur(of);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        if (f.id == field && f.type == BYTES_LEN && nth-- == 0)
            return f.data;
    }
    return bytes_view(NULL, 0);
}

static bool state_is_in(const struct tbuf *of, size_t nth, const char *message)
{
    struct bytesbuf all, m;
    states(of, &all);
    encode(&m, message);
    struct bytes_view state =
        part(part(bytesbuf_view(&all), PBF_TracePacket_ProtoVms_instance, nth),
             PBF_TracePacket_ProtoVms_Instance_state, 0);
    bool same = vmasm_same(state, bytesbuf_view(&m));
    for (size_t i = 0; !same && i < state.n && i < 100; i++)
        fprintf(stderr, "%02x ", state.p[i]);
    bytesbuf_fini(&all);
    bytesbuf_fini(&m);
    return same;
}

static bool state_is(const char *message)
{
    return state_is_in(b, 0, message);
}

/* ---- which packets ---- */

Test(tbuf_vm, nothing_is_merged_before_it_is_overwritten)
{
    attach("ds", BY_ID, 1);
    for (uint32_t i = 0; i < 3; i++)
        put(1, 1, i, "1=1 2=5");
    cr_expect(state_is(""));
    put(1, 1, 3, "1=1 2=6");
    cr_expect(state_is("7{ 1=1 2=5 }"));
}

Test(tbuf_vm, packets_are_merged_in_order_and_the_loss_is_told)
{
    struct tbuf_packet p;
    attach("ds", BY_ID, 1);
    begin_chunk();
    add("1=1 2=5 3=1");
    add("1=2 2=1");
    add("1=1 2=6");
    pad(1000);
    cr_assert_eq(copy(1, 1, 0, 0), TBUF_STORED);
    for (uint32_t i = 1; i < 4; i++)
        put(1, 1, i, "1=1 2=7");
    cr_expect(state_is("7{ 1=1 2=6 3=1 } 7{ 1=2 2=1 }"));
    tbuf_read_begin(b);
    cr_assert_eq(tbuf_read_next(b, &p), TBUF_READ_PACKET);
    cr_expect_eq(p.loss, TBUF_LOSS_PRESENT | TBUF_LOSS_OVERWRITE, "%u", p.loss);
}

Test(tbuf_vm, what_was_read_is_not_merged)
{
    struct tbuf_packet p;
    attach("ds", BY_ID, 1);
    begin_chunk();
    add("1=1 2=5");
    add("1=2 2=5");
    add("1=3 2=5");
    pad(1000);
    cr_assert_eq(copy(1, 1, 0, 0), TBUF_STORED);
    tbuf_read_begin(b);
    cr_assert_eq(tbuf_read_next(b, &p), TBUF_READ_PACKET);
    cr_assert_eq(tbuf_read_next(b, &p), TBUF_READ_PACKET);
    flood();
    cr_expect(state_is("7{ 1=3 2=5 }"));
}

Test(tbuf_vm, packets_in_fragments_are_put_together)
{
    static const char m[] = "1=1 2'abcdefghijklmnopqrstuvwxyz' 3=9";
    attach("ds", BY_ID, 1);
    begin_chunk();
    add("1=1 2'old' 4=4");
    add_part(m, 0, 10);
    copy(1, 1, 0, LAST);
    begin_chunk();
    add_part(m, 10, 20);
    copy(1, 1, 1, FIRST | LAST);
    begin_chunk();
    copy(1, 1, 2, 0); /* one without fragments in the middle */
    begin_chunk();
    add_part(m, 20, 32);
    add("1=2 2=2");
    copy(1, 1, 3, FIRST);
    flood();
    cr_expect(state_is("7{ 1=1 2'abcdefghijklmnopqrstuvwxyz' 3=9 4=4 } 7{ 1=2 2=2 }"));
}

Test(tbuf_vm, packets_that_are_not_whole_are_not_merged)
{
    static const char m[] = "1=1 2'abcdefghijklmnopqrstuvwxyz' 3=9";
    attach("ds", BY_ID, 1);
    attach("ds", BY_ID, 2);
    attach("ds", BY_ID, 3);
    begin_chunk(); /* the next chunk is missing */
    add_part(m, 0, 10);
    copy(1, 1, 0, LAST);
    begin_chunk();
    add_part(m, 10, 32);
    add("1=5 2=5");
    copy(1, 1, 2, FIRST);
    begin_chunk(); /* its rest never comes */
    add("1=6 2=6");
    add_part(m, 0, 10);
    copy(2, 1, 0, LAST);
    begin_chunk(); /* waits for patches, so does the second */
    add_part(m, 0, 10);
    copy(3, 1, 0, LAST | PATCH);
    begin_chunk();
    add_part(m, 10, 32);
    add("1=7 2=7");
    copy(3, 1, 1, FIRST);
    begin_chunk();
    add_part(m, 0, 10);
    copy(3, 2, 0, LAST);
    begin_chunk();
    add_part(m, 10, 32);
    copy(3, 2, 1, FIRST | PATCH);
    flood();
    cr_expect(state_is("7{ 1=5 2=5 } 7{ 1=6 2=6 } 7{ 1=7 2=7 }"));
}

Test(tbuf_vm, packets_are_merged_as_patched)
{
    struct tbuf_patch patch = {.offset = 1, .data = {0x08, 0x01, 0x10, 0x09}};
    attach("ds", BY_ID, 1);
    begin_chunk();
    add_bytes((const uint8_t *)"\0\0\0\0", 4);
    copy(1, 1, 0, LAST | PATCH);
    begin_chunk();
    add("3=3");
    copy(1, 1, 1, FIRST);
    cr_assert(tbuf_patch(b, 1, 1, 0, &patch, 1, false));
    flood();
    cr_expect(state_is("7{ 1=1 2=9 3=3 }"));
}

Test(tbuf_vm, a_packet_whose_rest_is_being_written_is_not_whole_yet)
{
    /* The chunk that makes room for itself has an entry in the list of its sequence already, with
     * the place that another record still has: that one, whose first piece would fit. */
    static const char m[] = "1=1 2=2 3=3";
    attach("ds", BY_ID, 1);
    begin_chunk();
    add_part(m, 4, 6);
    pad(900);
    add_part(m, 0, 4);
    copy(1, 1, 0, FIRST | LAST);
    for (uint32_t i = 0; i < 2; i++)
        put(2, 1, i, "1=1");
    begin_chunk();
    add_part(m, 4, 6);
    pad(2000);
    cr_expect_eq(copy(1, 1, 1, FIRST), TBUF_STORED);
    cr_expect(state_is(""));
}

Test(tbuf_vm, chunks_that_come_out_of_order_are_merged_in_order)
{
    attach("ds", BY_ID, 1);
    put(1, 1, 2, "1=1 2=2 3=2"); /* first in the ring */
    put(1, 1, 0, "1=1 2=0 4=0");
    put(1, 1, 1, "1=1 2=1 5=1");
    put(2, 1, 0, "9=1"); /* evicts chunk 2, and with it those that are older */
    cr_expect(state_is("7{ 1=1 2=2 3=2 4=0 5=1 }"));
    flood();
    cr_expect(state_is("7{ 1=1 2=2 3=2 4=0 5=1 }"), "once");
}

Test(tbuf_vm, a_chunk_that_comes_late_and_evicts_its_successor)
{
    attach("ds", BY_ID, 1);
    put(1, 1, 5, "1=1 2=5");
    put(2, 1, 0, "9=1");
    put(2, 1, 1, "9=1");
    put(1, 1, 3, "1=1 2=3"); /* takes the place of 5, which is newer */
    cr_expect(state_is("7{ 1=1 2=5 }"));
    flood();
    cr_expect(state_is("7{ 1=1 2=3 }"), "both were merged");
}

/* ---- whose ---- */

Test(tbuf_vm, packets_go_to_the_vms_of_their_producer)
{
    attach("a", BY_ID, 1);
    attach("a", BY_ID, 3);
    attach("b", BY_ID, 2); /* another name: another VM */
    attach("a", "src /1 { load 0 } dst+ /8:1=0 { merge }", 2);
    cr_expect_eq(tbuf_vm_count(b), 3);
    put(1, 1, 0, "1=1 2=1");
    put(2, 1, 0, "1=2 2=2");
    put(3, 1, 0, "1=3 2=3");
    put(4, 1, 0, "1=4 2=4");
    flood();
    cr_expect(state_is_in(b, 0, "7{ 1=1 2=1 } 7{ 1=3 2=3 }"));
    cr_expect(state_is_in(b, 1, "7{ 1=2 2=2 }"), "the first that takes it");
    cr_expect(state_is_in(b, 2, ""));
}

Test(tbuf_vm, what_one_vm_does_not_take_is_offered_to_the_next)
{
    attach("a", "src /5 { dst+ /1 { set } }", 1);
    attach("b", "src /6 { dst+ /2 { set } } none", 1); /* aborts, behind what it did */
    attach("c", "src /6 { dst+ /4 { set } }", 1);
    put(1, 1, 0, "5=5");
    put(1, 1, 1, "6=6");
    flood();
    cr_expect(state_is_in(b, 0, "1=5"));
    cr_expect(state_is_in(b, 1, "2=6"));
    cr_expect(state_is_in(b, 2, "4=6"));
}

Test(tbuf_vm, each_is_shown_with_program_limit_and_producers)
{
    struct bytesbuf all, p;
    attach("a", BY_ID, 300);
    attach("a", BY_ID, 7);
    attach("a", BY_ID, 300);
    states(b, &all);
    bytesbuf_init(&p, 1 << 20);
    vmasm_program(&p, BY_ID);
    struct bytesbuf want;
    bytesbuf_init(&want, 1 << 20);
    size_t m = bytesbuf_pb_begin_large(&want, PBF_TracePacket_ProtoVms_instance);
    bytesbuf_pb_bytes(&want, PBF_TracePacket_ProtoVms_Instance_program, p.p, p.n);
    bytesbuf_pb_end_large(&want,
                          bytesbuf_pb_begin_large(&want, PBF_TracePacket_ProtoVms_Instance_state));
    bytesbuf_pb_varint(&want, PBF_TracePacket_ProtoVms_Instance_memory_limit_kb, 64);
    bytesbuf_pb_varint(&want, PBF_TracePacket_ProtoVms_Instance_producer_id, 7);
    bytesbuf_pb_varint(&want, PBF_TracePacket_ProtoVms_Instance_producer_id, 300);
    bytesbuf_pb_end_large(&want, m);
    cr_expect(bytes_equal(bytesbuf_view(&all), bytesbuf_view(&want)));
    bytesbuf_fini(&all);
    bytesbuf_fini(&want);
    bytesbuf_fini(&p);
}

Test(tbuf_vm, a_state_says_nothing_that_only_the_service_may_say)
{
    struct tbuf *c;
    attach("ds",
           "src /1 ? { dst . { set } } src /2 ? { dst+ /7 { set } } src /3 ? { dst+ /3 { set } }",
           1);
    put(1, 1, 0, "1{ 7=5 }");
    flood();
    cr_expect(state_is("7=5"));
    put(1, 1, 1, "3=1000"); /* trusted_uid */
    flood();
    cr_expect(state_is(""));
    cr_assert_eq(tbuf_clone_read_only(b, &c), 0);
    cr_expect(state_is_in(c, 0, ""));
    tbuf_free(c);
    put(1, 1, 2, "1'xyz'"); /* no message */
    flood();
    cr_expect(state_is(""));
    put(1, 1, 3, "1{ 3{ 3=1 } }");
    flood();
    cr_expect(state_is(""));
    put(1, 1, 4, "1{ 7{ 3=1 } }");
    flood();
    cr_expect(state_is("7{ 3=1 }"));
}

/* ---- limits ---- */

Test(tbuf_vm, a_buffer_takes_so_many_programs_and_no_bad_ones)
{
    uint64_t before = tbuf_side_memory(b);
    cr_expect_gt(attach_limited("ds",
                                "src "
                                "/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*"
                                "/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*/1*",
                                1, 64),
                 0);
    cr_expect_eq(tbuf_vm_count(b), 0);
    cr_expect_eq(tbuf_side_memory(b), before);
    for (unsigned i = 0; i < TBUF_VM_MAX; i++) {
        char name[20];
        snprintf(name, sizeof(name), "ds%u", i);
        attach(name, BY_ID, 1);
    }
    cr_expect_gt(attach_limited("more", BY_ID, 1, 64), 0);
    cr_expect_eq(attach_limited("ds3", BY_ID, 2, 64), 0, "known ones get producers");
    cr_expect_eq(tbuf_vm_count(b), TBUF_VM_MAX);
    cr_expect_eq(attach_limited("ds3", BY_ID, 2, 64), 0);
}

Test(tbuf_vm, memory_is_counted_and_reserved)
{
    char text[1000];
    uint64_t before = tbuf_side_memory(b);
    memset(text, 'x', sizeof(text));
    memcpy(text, "1=1 2'", 6);
    strcpy(text + 900, "'");
    attach("ds", BY_ID, 1);
    cr_expect_geq(tbuf_vm_reserved(b), 64 << 10);
    cr_expect_lt(tbuf_vm_reserved(b), 65 << 10);
    put(1, 1, 0, text);
    uint64_t empty = tbuf_side_memory(b);
    cr_expect_gt(empty, before);
    flood();
    cr_expect_geq(tbuf_side_memory(b), empty + 890);
    cr_assert_eq(attach_limited("large", BY_ID, 1, UINT32_MAX), 0);
    cr_expect_lt(tbuf_vm_reserved(b), (uint64_t)(TBUF_VM_LIMIT_KB + 65) << 10);
}

Test(tbuf_vm, a_program_that_takes_too_long_leaves_nothing_for_the_others_of_a_chunk)
{
    /* Loops over a state of 2000 elements and looks at the whole packet for each. */
    attach("ds", "src /2 ? { dst . { set } } dst /7* { src /1@999 ? }", 1);
    attach("other", BY_ID, 2);
    begin_chunk();
    size_t mark = chunk.n;
    bytesbuf_put_varint(&chunk, 3 + 2 * 750);
    bytesbuf_put(&chunk, "\x12\xdc\x0b", 3);
    for (unsigned i = 0; i < 750; i++)
        bytesbuf_put(&chunk, "\x38\x01", 2);
    cr_assert_eq(chunk.n - mark, 2 + 3 + 2 * 750);
    nfrags = 1;
    cr_assert_eq(copy(1, 1, 0, 0), TBUF_STORED);
    flood();
    begin_chunk();
    bytesbuf_put_varint(&chunk, 2 * 900);
    for (unsigned i = 0; i < 900; i++)
        bytesbuf_put(&chunk, "\x08\x01", 2);
    nfrags = 1;
    cr_assert_eq(copy(1, 1, 1, 0), TBUF_STORED);
    begin_chunk();
    add("1=1 2=2");
    copy(2, 1, 0, 0);
    begin_chunk();
    pad(1000);
    pad(1000);
    pad(1000);
    (void)tbuf_vm_take_work(b);
    copy(3, 1, 0, 0); /* evicts both at once */
    cr_expect(state_is_in(b, 1, ""));
    cr_expect_eq(tbuf_vm_take_work(b), TBUF_VM_STEPS);
    cr_expect_eq(tbuf_vm_take_work(b), 0);
    put(2, 1, 1, "1=1 2=3");
    flood();
    cr_expect(state_is_in(b, 1, "7{ 1=1 2=3 }"), "the next chunk has steps again");
}

/* ---- other buffers ---- */

Test(tbuf_vm, a_buffer_that_discards_merges_nothing)
{
    tbuf_free(b);
    cr_assert_eq(tbuf_new(4096, TBUF_DISCARD, 0, &b), 0);
    attach("ds", BY_ID, 1);
    for (uint32_t i = 0; i < 3; i++)
        put(1, 1, i, "1=1 2=5");
    begin_chunk();
    pad(3000);
    cr_expect_eq(copy(1, 1, 3, 0), TBUF_DISCARDED);
    cr_expect(state_is(""));
}

Test(tbuf_vm, a_clone_shows_the_state_of_its_moment)
{
    struct tbuf_clone *k;
    struct tbuf *c, *cc;
    attach("ds", BY_ID, 1);
    put(1, 1, 0, "1=1 2=1");
    flood();
    put(1, 1, 1, "1=1 2=2");
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    flood();
    cr_expect(state_is("7{ 1=1 2=2 }"));
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    cr_expect(state_is_in(c, 0, "7{ 1=1 2=1 }"));
    cr_expect_gt(tbuf_vm_memory(c), 0);
    cr_assert_eq(tbuf_clone_read_only(c, &cc), 0);
    tbuf_free(c);
    cr_expect(state_is_in(cc, 0, "7{ 1=1 2=1 }"), "a clone of a clone");
    tbuf_free(cc);
}

/* Three VMs, for producers 1 to 3, whose states are 7=10, 7=11 and 7=12. */
static void three(void)
{
    char text[20];
    for (uint16_t i = 0; i < 3; i++) {
        attach(i == 0 ? "a" : i == 1 ? "b" : "c", "src /1 { dst+ /7 { set } }", (uint16_t)(i + 1));
        snprintf(text, sizeof(text), "1=%u", 10u + i);
        put((uint16_t)(i + 1), 1, 0, text);
    }
    flood();
}

/* A state takes up to 2 ms to encode, so a call does one. */
Test(tbuf_vm, one_state_is_written_or_copied_at_a_time)
{
    struct tbuf_vm_cursor at = {0};
    struct bytesbuf out;
    struct tbuf_clone *k;
    size_t bytes;
    bool left_out = false;
    three();
    bytesbuf_init(&out, 1 << 20);
    for (uint32_t i = 1; i <= 3; i++) {
        cr_expect(tbuf_vm_write_some(b, &at, &out, SIZE_MAX, &left_out));
        cr_expect_eq(at.vm, i);
        cr_expect(tbuf_vm_write_some(b, &at, &out, SIZE_MAX, &left_out));
        cr_expect_eq(at.vm, i, "it is checked");
    }
    cr_expect_not(tbuf_vm_write_some(b, &at, &out, SIZE_MAX, &left_out));
    cr_expect_not(left_out);
    bytesbuf_fini(&out);
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    uint64_t none = tbuf_vm_memory(tbuf_clone_target(k)), had = none;
    unsigned calls = 0, grown = 0;
    for (bool more = true; more; calls++) {
        more = tbuf_clone_step(k, 1, &bytes);
        uint64_t has = tbuf_vm_memory(tbuf_clone_target(k));
        cr_expect_leq(has, had + 2, "the two bytes of one state");
        grown += has > had;
        had = has;
    }
    cr_expect_eq(grown, 3);
    cr_expect_eq(had, none + 6);
    tbuf_clone_cancel(k);
}

Test(tbuf_vm, what_would_be_too_long_is_left_out)
{
    struct tbuf_vm_cursor at = {0};
    struct bytesbuf out;
    bool left_out = false;
    three();
    bytesbuf_init(&out, 1 << 20);
    cr_expect(tbuf_vm_write_some(b, &at, &out, 8000, &left_out));
    cr_expect_not(left_out);
    while (tbuf_vm_write_some(b, &at, &out, out.n + 10, &left_out))
        continue;
    cr_expect(left_out);
    cr_expect(bytes_equal(part(part(bytesbuf_view(&out), PBF_TracePacket_ProtoVms_instance, 0),
                               PBF_TracePacket_ProtoVms_Instance_state, 0),
                          bytes_str("\x38\x0a")));
    cr_expect_eq(part(bytesbuf_view(&out), PBF_TracePacket_ProtoVms_instance, 1).n, 0);
    bytesbuf_fini(&out);
}

/* A state of a million bytes can have half a million fields. */
Test(tbuf_vm, a_state_is_checked_some_fields_at_a_time)
{
    static uint8_t payload[61000];
    static const uint8_t bad[] = {3 << 3, 1}; /* trusted_uid */
    for (unsigned with_bad = 0; with_bad < 2; with_bad++) {
        struct bytesbuf out;
        struct tbuf_vm_cursor at = {0};
        bool left_out = false;
        unsigned pieces = 0;
        tbuf_free(b);
        cr_assert_eq(tbuf_new(1 << 20, TBUF_RING, 0, &b), 0);
        cr_assert_eq(attach_limited("ds", "src /1 { dst . { set } }", 1, 1024), 0);
        /* Field 1, of 240000 bytes, in a packet of four chunks. */
        uint32_t len = 240000;
        for (uint32_t i = 0, left = len; i < 4; i++, left -= 60000) {
            uint32_t head = i == 0 ? 4 : 0;
            begin_chunk();
            payload[0] = 1 << 3 | 2;
            bytes_put_varint(payload + 1, len);
            for (uint32_t k = head; k < head + 60000; k += 2) {
                payload[k] = 7 << 3;
                payload[k + 1] = 1;
            }
            if (i == 3 && with_bad)
                memcpy(payload + head + 59998, bad, 2);
            add_bytes(payload, head + 60000);
            cr_assert_eq(copy(1, 1, i, (i > 0 ? FIRST : 0) | (i < 3 ? LAST : 0)), TBUF_STORED);
        }
        for (uint32_t i = 0; i < 20; i++) {
            begin_chunk();
            add_bytes(payload, 60000);
            cr_assert_eq(copy(9, 1, i, 0), TBUF_STORED);
        }
        bytesbuf_init(&out, 4 << 20);
        while (tbuf_vm_write_some(b, &at, &out, SIZE_MAX, &left_out))
            pieces++;
        cr_expect_eq(pieces, 1 + (120000 + TBUF_VM_FIELDS - 1) / TBUF_VM_FIELDS);
        struct bytes_view vm = part(bytesbuf_view(&out), PBF_TracePacket_ProtoVms_instance, 0);
        cr_expect_eq(part(vm, PBF_TracePacket_ProtoVms_Instance_state, 0).n, with_bad ? 0 : len);
        struct bytes_cur cur = bytes_cur(vm);
        struct bytes_field f;
        uint64_t producer = 0;
        while (bytes_next(&cur, &f))
            producer = f.id == PBF_TracePacket_ProtoVms_Instance_producer_id ? f.num : producer;
        cr_expect_eq(producer, 1, "what comes behind the state is there");
        bytesbuf_fini(&out);
    }
}

/* The source goes on while a clone is made: its programs run on states that were not copied yet. */
Test(tbuf_vm, a_clone_in_the_making_shows_the_state_of_its_moment)
{
    struct tbuf_clone *k;
    struct tbuf *c;
    size_t bytes;
    three();
    cr_assert_eq(tbuf_clone_begin(b, &k), 0);
    put(2, 1, 1, "1=100");
    flood();
    while (tbuf_clone_step(k, 1, &bytes))
        continue;
    put(3, 1, 1, "1=101");
    flood();
    cr_assert_eq(tbuf_clone_finish(k, &c), 0);
    cr_expect(state_is_in(c, 0, "7=10"));
    cr_expect(state_is_in(c, 1, "7=11"));
    cr_expect(state_is_in(c, 2, "7=12"));
    cr_expect(state_is_in(b, 1, "7=100"));
    cr_expect(state_is_in(b, 2, "7=101"));
    tbuf_free(c);
}

Test(tbuf_vm, a_renewed_buffer_starts_with_empty_states)
{
    struct tbuf *fresh;
    attach("ds", BY_ID, 1);
    attach("ds", BY_ID, 2);
    put(1, 1, 0, "1=1 2=1");
    flood();
    cr_assert_eq(tbuf_new(4096, TBUF_RING, 0, &fresh), 0);
    cr_assert_eq(tbuf_vm_renew(fresh, b), 0);
    cr_expect(state_is_in(b, 0, "7{ 1=1 2=1 }"));
    tbuf_free(b);
    b = fresh;
    cr_expect(state_is(""));
    put(2, 1, 0, "1=1 2=3");
    flood();
    cr_expect(state_is("7{ 1=1 2=3 }"));
}

/* ---- many ---- */

/* Writers of three producers, packets of one to five fragments, chunks of any size, some of which
 * come one place too late: when all is evicted, each writer's element is what its last packet says
 * and holds the count of all. */
Test(tbuf_vm, many_writers_and_fragments)
{
    enum { WRITERS = 6, ROUNDS = 4000 };
    uint32_t next_id[WRITERS] = {0}, packets[WRITERS] = {0};
    uint64_t x = 88172645463325252u;
    for (uint16_t p = 1; p <= 3; p++)
        attach("ds", BY_ID, p);
    for (unsigned round = 0; round < ROUNDS; round++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        unsigned w = (unsigned)(x >> 8) % WRITERS, pieces = 1 + (unsigned)(x >> 16) % 4;
        uint16_t producer = (uint16_t)(1 + w % 3), writer = (uint16_t)(1 + w / 3);
        char text[300], filler[200];
        unsigned len = (unsigned)(x >> 24) % 150;
        memset(filler, 'f', len);
        filler[len] = '\0';
        packets[w]++;
        snprintf(text, sizeof(text), "1=%u 2=%u 3'%s'", w, packets[w], filler);
        struct bytesbuf m;
        encode(&m, text);
        for (unsigned i = 0; i < pieces; i++) {
            size_t from = m.n * i / pieces, to = m.n * (i + 1) / pieces;
            begin_chunk();
            add_bytes(m.p + from, to - from);
            cr_assert_eq(
                copy(producer, writer, next_id[w]++, (i ? FIRST : 0) | (i + 1 < pieces ? LAST : 0)),
                TBUF_STORED);
        }
        bytesbuf_fini(&m);
    }
    flood();
    struct bytesbuf all;
    states(b, &all);
    struct bytes_view state = part(part(bytesbuf_view(&all), PBF_TracePacket_ProtoVms_instance, 0),
                                   PBF_TracePacket_ProtoVms_Instance_state, 0);
    for (unsigned w = 0; w < WRITERS; w++) {
        struct bytes_field f;
        cr_assert(bytes_find(part(state, 7, w), 2, BYTES_VARINT, &f));
        cr_expect_eq(f.num, packets[w], "writer %u", w);
    }
    bytesbuf_fini(&all);
}
