/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ProtoVM programs and what they are run on. The first byte says which of three:
 *   0  the program as it comes over the socket: its length (two bytes, little-endian), its bytes,
 *      then packets, each with its length in one byte
 *   1  programs and packets made of the input's choices, so that most of them mean something
 *   2  such programs in a small trace buffer whose chunks, patches, reads and clones the input
 *      chooses; afterwards the books of the buffer must balance
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"
#include "reactor/chrono.h"
#include "svc/protovm.h"
#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"
#include "svc/tbuf_vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LIMIT (8u << 10)

static const uint8_t *in;
static size_t left;

static uint32_t take(uint32_t n)
{
    if (left == 0)
        return 0;
    left--;
    return *in++ % n;
}

/* ---- what is made of choices ---- */

static void make_fields(struct bytesbuf *out, unsigned depth)
{
    for (uint32_t n = take(5); n > 0; n--) {
        uint32_t field = 1 + take(4);
        switch (take(5)) {
        case 0:
            bytesbuf_pb_varint(out, field, take(6));
            break;
        case 1:
            bytesbuf_pb_fixed32(out, field, take(256));
            break;
        case 2:
            bytesbuf_pb_fixed64(out, field, take(256));
            break;
        case 3:
            /* A state may become what a field holds: so all are messages, too. */
            bytesbuf_pb_bytes(out, field, "\x08\x01\x10\x02\x18\x03", 2 * take(4));
            break;
        default: {
            size_t m = bytesbuf_pb_begin(out, field);
            if (depth < 4)
                make_fields(out, depth + 1);
            bytesbuf_pb_end(out, m);
        }
        }
    }
}

static void make_path(struct bytesbuf *out)
{
    for (uint32_t n = take(4); n > 0; n--) {
        size_t m = bytesbuf_pb_begin(out, PBF_VmOpSelect_relative_path);
        bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_field_id, 1 + take(4));
        uint32_t kind = take(5);
        if (kind == 0)
            bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_is_repeated, 1);
        if (kind == 0 && take(3) == 0)
            bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_store_foreach_index_into_register,
                               take(3));
        bytesbuf_pb_end(out, m);
        m = kind == 1 || kind == 2 ? bytesbuf_pb_begin(out, PBF_VmOpSelect_relative_path) : 0;
        if (kind == 1) {
            bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_array_index, take(4));
        } else if (kind == 2) {
            bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_map_key_field_id, 1 + take(3));
            bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_register_to_match, take(3));
        }
        if (m != 0)
            bytesbuf_pb_end(out, m);
    }
}

static void make_list(struct bytesbuf *out, uint32_t field, unsigned depth)
{
    for (uint32_t n = 1 + take(3); n > 0; n--) {
        size_t ins = bytesbuf_pb_begin(out, field), m;
        uint32_t op = take(8);
        if (op <= 3) {
            m = bytesbuf_pb_begin(out, PBF_VmInstruction_select);
            bytesbuf_pb_varint(out, PBF_VmOpSelect_cursor, op < 2 ? 1 : 2);
            if (op == 3)
                bytesbuf_pb_varint(out, PBF_VmOpSelect_create_if_not_exist, 1);
            make_path(out);
        } else if (op == 4) {
            m = bytesbuf_pb_begin(out, PBF_VmInstruction_reg_load);
            bytesbuf_pb_varint(out, PBF_VmOpRegLoad_cursor, 1 + take(2));
            bytesbuf_pb_varint(out, PBF_VmOpRegLoad_dst_register, take(3));
        } else if (op == 5) {
            m = bytesbuf_pb_begin(out, PBF_VmInstruction_merge);
            bytesbuf_pb_varint(out, PBF_VmOpMerge_skip_submessages, take(2));
            bytesbuf_pb_varint(out, PBF_VmOpMerge_del_if_src_empty, take(2));
        } else {
            m = bytesbuf_pb_begin(out, op == 6 ? PBF_VmInstruction_set : PBF_VmInstruction_del);
        }
        bytesbuf_pb_end(out, m);
        bytesbuf_pb_varint(out, PBF_VmInstruction_abort_level, take(4) ? 1 : 2);
        if (depth < 6 && take(2))
            make_list(out, PBF_VmInstruction_nested_instructions, depth + 1);
        bytesbuf_pb_end(out, ins);
    }
}

/* ---- a VM alone ---- */

/* What must hold after any packet. */
static void check(const struct protovm *vm, uint64_t base, bool well_formed)
{
    size_t max = (size_t)protovm_memory(vm);
    uint8_t *state = malloc(max + 1);
    size_t n = protovm_state(vm, state);
    struct bytes_cur cur = bytes_cur(bytes_view(state, n));
    struct bytes_field f;
    if (max > base + LIMIT || n > max)
        abort();
    while (bytes_next(&cur, &f))
        continue;
    if (well_formed && !bytes_done(&cur))
        abort();
    free(state);
}

static void run(struct protovm *vm, struct bytes_view packet)
{
    uint32_t steps = 5000;
    const char *why = NULL;
    uint8_t *copy = malloc(packet.n + 1); /* so that a read past it is seen */
    if (packet.n != 0)
        memcpy(copy, packet.p, packet.n);
    if (protovm_run(vm, bytes_view(copy, packet.n), &steps, &why) == PROTOVM_ABORT && !why)
        abort();
    if (steps > 5000)
        abort();
    free(copy);
}

static void run_raw(void)
{
    const char *why;
    struct protovm *vm;
    size_t n = take(256);
    n |= (size_t)take(256) << 8;
    if (n > left)
        n = left;
    if (protovm_new(bytes_view(in, n), LIMIT, &vm, &why) != 0)
        return;
    uint64_t base = protovm_memory(vm);
    in += n;
    left -= n;
    while (left > 0) {
        n = take(256);
        if (n > left)
            n = left;
        run(vm, bytes_view(in, n));
        in += n;
        left -= n;
        check(vm, base, false);
    }
    protovm_free(vm);
}

static void run_made(void)
{
    const char *why;
    struct protovm *vm;
    struct bytesbuf b;
    bytesbuf_init(&b, 1 << 20);
    make_list(&b, PBF_VmProgram_instructions, 0);
    if (protovm_new(bytesbuf_view(&b), LIMIT, &vm, &why) == 0) {
        uint64_t base = protovm_memory(vm);
        while (left > 0) {
            bytesbuf_clear(&b);
            make_fields(&b, 0);
            run(vm, bytesbuf_view(&b));
            check(vm, base, true);
        }
        protovm_free(vm);
    }
    bytesbuf_fini(&b);
}

/* ---- in a buffer ---- */

static uint32_t newest[3][2]; /* chunk ids: of two writers of producers 1 and 2 */

static void copy(struct tbuf *b, struct bytesbuf *chunk)
{
    uint16_t producer = (uint16_t)(1 + take(2)), writer = (uint16_t)take(2);
    uint32_t n = take(4), back = take(8);
    uint32_t id = back < 5 ? newest[producer][writer]++ : newest[producer][writer] - (back - 4);
    struct bytesbuf packet;
    bytesbuf_init(&packet, 65536);
    bytesbuf_clear(chunk);
    for (uint32_t i = 0; i < n; i++) {
        bytesbuf_clear(&packet);
        make_fields(&packet, 0);
        if (take(3) == 0)
            bytesbuf_pb_bytes(&packet, 15, in, left < 700 ? left : 700);
        bytesbuf_put_varint(chunk, packet.n);
        bytesbuf_put(chunk, packet.p, packet.n);
    }
    bytesbuf_fini(&packet);
    struct tbuf_chunk_in c = {.producer_id = producer,
                              .writer_id = writer,
                              .chunk_id = id,
                              .num_fragments = (uint16_t)(n + (take(10) == 0)),
                              .flags = (uint8_t)(take(8) & take(8)),
                              .complete = take(6) != 0,
                              .payload = chunk->p,
                              .payload_size = (uint32_t)chunk->n};
    tbuf_copy_chunk(b, &c);
}

/* Each record that is not gone stands in the list of its sequence, and they add up. */
static void check_buffer(struct tbuf *b)
{
    uint64_t bytes = 0, chunks = 0;
    for (int lap = 0; lap < 2; lap++) {
        uint64_t at = lap ? b->wr + b->gap : 0, end = lap ? b->end : b->wr;
        while (at < end) {
            struct tbuf_rec *r = tbuf_rec_at(b, at);
            uint32_t pos;
            if ((r->flags & TBUF_REC_GONE) == 0) {
                struct tbuf_seq *s = tbuf_seq_at(&b->seqs, r->seq);
                if (tbuf_seq_locate(s, r->id, &pos) != TBUF_PLACE_FOUND ||
                    tbuf_seq_ent(s, pos)->ref != at >> 4)
                    abort();
                bytes += tbuf_rec_size(r->room);
                chunks++;
            }
            at += tbuf_rec_size(r->room);
        }
    }
    if (bytes != b->live_bytes || chunks != b->live_chunks)
        abort();
}

static void step(struct tbuf *b, struct bytesbuf *scratch)
{
    struct tbuf_patch patch = {.offset = take(20), .data = {(uint8_t)take(256), 0, 1, 2}};
    struct tbuf_packet p;
    struct tbuf *c;
    uint16_t producer = (uint16_t)(1 + take(2)), writer = (uint16_t)take(2);
    switch (take(12)) {
    case 0:
        tbuf_patch(b, producer, writer, newest[producer][writer] - take(4), &patch, 1, false);
        break;
    case 1:
        tbuf_read_begin(b);
        for (uint32_t n = take(4); n > 0 && tbuf_read_next(b, &p) != TBUF_READ_EMPTY; n--)
            continue;
        break;
    case 2:
        if (tbuf_clone_read_only(b, &c) == 0) {
            bytesbuf_clear(scratch);
            struct tbuf_vm_cursor at = {0};
            bool left_out = false;
            while (tbuf_vm_write_some(c, &at, scratch, SIZE_MAX, &left_out))
                continue;
            tbuf_free(c);
        }
        break;
    case 3:
        if (take(8) == 0)
            tbuf_producer_gone(b, producer);
        break;
    default:
        copy(b, scratch);
        break;
    }
}

static void run_buffer(void)
{
    struct tbuf *b;
    struct bytesbuf scratch;
    const char *why;
    memset(newest, 0, sizeof(newest));
    if (tbuf_new(4096, TBUF_RING, 0, &b) != 0)
        return;
    bytesbuf_init(&scratch, 1 << 20);
    for (uint16_t producer = 1; producer <= 2; producer++) {
        bytesbuf_clear(&scratch);
        make_list(&scratch, PBF_VmProgram_instructions, 0);
        const struct tbuf_vm_spec spec = {bytes_str("s"), bytesbuf_view(&scratch), LIMIT >> 10};
        (void)tbuf_vm_attach(b, &spec, producer, &why);
    }
    while (left > 0) {
        step(b, &scratch);
        check_buffer(b);
    }
    bytesbuf_fini(&scratch);
    tbuf_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    in = data;
    left = size < 16384 ? size : 16384;
    chrono_random_seed(1);
    switch (take(3)) {
    case 0:
        run_raw();
        break;
    case 1:
        run_made();
        break;
    default:
        run_buffer();
        break;
    }
    return 0;
}
