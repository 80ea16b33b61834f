/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_protovm: what it costs when programs merge what a trace buffer overwrites, and how long the
 * worst of them can hold up one chunk. CPU time. Reports figures, asserts nothing.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"
#include "svc/tbuf.h"
#include "svc/tbuf_vm.h"

#define RING   (1u << 20)
#define CHUNKS 4000u
#define CHUNK  4080u

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void line(const char *what, double value, const char *unit)
{
    printf("%-10s %-52s %10.2f %s\n", "protovm", what, value, unit);
    fflush(stdout);
}

/* ---- programs ---- */

static void put_field(struct bytesbuf *b, uint32_t field, bool each)
{
    size_t m = bytesbuf_pb_begin(b, PBF_VmOpSelect_relative_path);
    bytesbuf_pb_varint(b, PBF_VmOpSelect_PathComponent_field_id, field);
    if (each)
        bytesbuf_pb_varint(b, PBF_VmOpSelect_PathComponent_is_repeated, 1);
    bytesbuf_pb_end(b, m);
}

static void put_key(struct bytesbuf *b)
{
    size_t m = bytesbuf_pb_begin(b, PBF_VmOpSelect_relative_path);
    bytesbuf_pb_varint(b, PBF_VmOpSelect_PathComponent_map_key_field_id, 1);
    bytesbuf_pb_varint(b, PBF_VmOpSelect_PathComponent_register_to_match, 0);
    bytesbuf_pb_end(b, m);
}

static void put_op(struct bytesbuf *b, uint32_t op)
{
    size_t i = bytesbuf_pb_begin(b, PBF_VmInstruction_nested_instructions);
    size_t m = bytesbuf_pb_begin(b, op);
    bytesbuf_pb_end(b, m);
    bytesbuf_pb_end(b, i);
}

/* Loads field 1 and merges the packet into the element of field 7 with that key. */
static void by_key(struct bytesbuf *b)
{
    size_t i = bytesbuf_pb_begin(b, PBF_VmProgram_instructions);
    size_t s = bytesbuf_pb_begin(b, PBF_VmInstruction_select);
    put_field(b, 1, false);
    bytesbuf_pb_end(b, s);
    put_op(b, PBF_VmInstruction_reg_load);
    bytesbuf_pb_end(b, i);
    i = bytesbuf_pb_begin(b, PBF_VmProgram_instructions);
    s = bytesbuf_pb_begin(b, PBF_VmInstruction_select);
    bytesbuf_pb_varint(b, PBF_VmOpSelect_cursor, 2);
    put_field(b, 7, false);
    put_key(b);
    bytesbuf_pb_varint(b, PBF_VmOpSelect_create_if_not_exist, 1);
    bytesbuf_pb_end(b, s);
    put_op(b, PBF_VmInstruction_merge);
    bytesbuf_pb_end(b, i);
}

/* Merges the packet into the root, again and again. */
static void merge_often(struct bytesbuf *b)
{
    for (unsigned n = 0; n < 4000; n++) {
        size_t i = bytesbuf_pb_begin(b, PBF_VmProgram_instructions);
        size_t m = bytesbuf_pb_begin(b, PBF_VmInstruction_merge);
        bytesbuf_pb_end(b, m);
        bytesbuf_pb_end(b, i);
    }
}

/* Goes over all elements of field 7, which it opens, and then deletes them. */
static void open_all(struct bytesbuf *b)
{
    merge_often(b);
    size_t i = bytesbuf_pb_begin(b, PBF_VmProgram_instructions);
    size_t s = bytesbuf_pb_begin(b, PBF_VmInstruction_select);
    bytesbuf_pb_varint(b, PBF_VmOpSelect_cursor, 2);
    put_field(b, 7, true);
    put_field(b, 1, false);
    bytesbuf_pb_end(b, s);
    put_op(b, PBF_VmInstruction_del);
    bytesbuf_pb_end(b, i);
}

/* ---- packets ---- */

static uint64_t seed = 88172645463325252u;

static uint32_t rnd(uint32_t n)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (uint32_t)(seed >> 11) % n;
}

/* Fills a chunk with packets of six fields, one of `keys` in the first. */
static unsigned small_ones(struct bytesbuf *chunk, uint32_t keys)
{
    uint8_t packet[64];
    unsigned n = 0;
    for (bytesbuf_clear(chunk); chunk->n + sizeof(packet) < CHUNK; n++) {
        uint8_t *p = packet;
        for (uint32_t field = 1; field <= 5; field++) {
            p = bytes_put_tag(p, field, BYTES_VARINT);
            p = bytes_put_varint(p, field == 1 ? rnd(keys) : rnd(1u << 20));
        }
        p = bytes_put_tag(p, 6, BYTES_LEN);
        p = bytes_put_varint(p, 24);
        memset(p, 'x', 24);
        bytesbuf_put_varint(chunk, (uint64_t)(p + 24 - packet));
        bytesbuf_put(chunk, packet, (size_t)(p + 24 - packet));
    }
    return n;
}

/* One packet: many fields of all numbers. */
static unsigned one_wide(struct bytesbuf *chunk, uint32_t fields)
{
    uint8_t packet[CHUNK], *p = packet;
    while (p + 20 < packet + CHUNK - 8) {
        p = bytes_put_tag(p, 1 + rnd(fields), BYTES_VARINT);
        p = bytes_put_varint(p, rnd(100));
    }
    bytesbuf_clear(chunk);
    bytesbuf_put_varint(chunk, (uint64_t)(p - packet));
    bytesbuf_put(chunk, packet, (size_t)(p - packet));
    return 1;
}

/* ---- runs ---- */

static void run(const char *what, void (*program)(struct bytesbuf *b),
                unsigned (*fill)(struct bytesbuf *chunk, uint32_t n), uint32_t n, bool per_packet)
{
    struct tbuf *b;
    struct bytesbuf code, chunk;
    const char *why;
    double total = 0, longest = 0;
    uint64_t packets = 0;
    char text[80];
    bytesbuf_init(&code, 1 << 20);
    bytesbuf_init(&chunk, 1 << 20);
    if (program)
        program(&code);
    const struct tbuf_vm_spec spec = {bytes_str("s"), bytesbuf_view(&code), TBUF_VM_LIMIT_KB};
    if (tbuf_new(RING, TBUF_RING, 0, &b) != 0 || (program && tbuf_vm_attach(b, &spec, 1, &why)))
        exit(99);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        unsigned count = fill(&chunk, n);
        struct tbuf_chunk_in in = {.producer_id = 1,
                                   .writer_id = 1,
                                   .chunk_id = i,
                                   .num_fragments = (uint16_t)count,
                                   .complete = true,
                                   .payload = chunk.p,
                                   .payload_size = (uint32_t)chunk.n};
        double t = now();
        tbuf_copy_chunk(b, &in);
        t = now() - t;
        total += t;
        longest = t > longest ? t : longest;
        packets += count;
    }
    if (per_packet) {
        line(what, total / (double)packets * 1e9, "ns a packet");
    } else {
        snprintf(text, sizeof(text), "%s, mean of a chunk", what);
        line(text, total / CHUNKS * 1e3, "ms");
    }
    snprintf(text, sizeof(text), "%s, longest chunk", what);
    line(text, longest * 1e3, "ms");
    bytesbuf_fini(&code);
    bytesbuf_fini(&chunk);
    tbuf_free(b);
}

int main(void)
{
    run("no program", NULL, small_ones, 1000, true);
    run("merged by key, 1,000 elements", by_key, small_ones, 1000, true);
    run("hostile: merges over 100 fields", merge_often, one_wide, 100, false);
    run("hostile: merges over 5,000 fields", merge_often, one_wide, 5000, false);
    run("hostile: merges, opens, deletes", open_all, one_wide, 30, false);
    return 0;
}
