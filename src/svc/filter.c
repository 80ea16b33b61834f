/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace filter at work, on one packet at a time. Its bytes lie in one run, because strings must
 * be contiguous for the rules, and are filtered in place: the output never gets longer than the
 * input that was read for it. Room for the length of a nested message is kept as it was in the
 * input and filled when its end is reached, so one pass suffices at any depth, and the state
 * between two steps is a cursor and a stack.
 *
 * A step does a bounded amount of work; a packet of any size is done in as many as it takes, and
 * comes out the same however it was cut.
 *
 * A filter that lets something through which it should not is worse than one that drops too much:
 * whatever does not parse becomes an empty packet (service.md R137).
 */
#include "svc/filter.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "svc/filter_code.h"
#include "svc/filter_strings.h"

#define MAX_DEPTH   256 /* nested messages; what is deeper does not parse */
#define MAX_BUFFERS 128 /* service.md V11 */

/* What of a step's work a field costs, beside its bytes. */
#define COST_OF_FIELD 8

/* Bytes that are moved in one go; FILTER_UNIT of them are one of a step's work. */
#define MOVE_BYTES (64u << 10)

/* A message that is being filtered. */
struct level {
    const uint8_t *end; /* of the message in the input, where its parent goes on */
    uint8_t *size_at;   /* where its length goes in the output */
    uint32_t size_len;  /* bytes reserved for it */
    uint32_t msg;       /* index in the bytecode */
};

enum phase {
    PHASE_FIELDS, /* the next field is due */
    PHASE_MOVE,   /* the payload of a field is on its way from `from` to `out` */
    PHASE_STRING, /* it is a string that has arrived, and the rules are at work on it */
};

/* The packet at hand. `cur` ends where the innermost open message ends; `out` is never ahead of
 * what was read. */
struct pass {
    struct bytes_cur cur;
    uint8_t *out;
    uint32_t depth; /* index of the innermost level */
    enum phase phase;
    const uint8_t *from;
    size_t left;             /* bytes to move */
    size_t moved;            /* bytes that were */
    struct filter_rule rule; /* of the field that is being moved */

    uint8_t *begin;
    size_t size; /* before */
    int buffer;
    bool in_block; /* its bytes are in the newest block */
};

#define BLOCK_SIZE (64u << 10) /* bytes of one piece of output memory */

/* Output of a batch: it stays where it is until the next batch begins. */
struct block {
    struct block *next;
    size_t cap;
    uint8_t bytes[];
};

struct filter {
    struct filter_code *code;       /* own */
    struct filter_strings *strings; /* own */
    uint32_t root;                  /* message of Trace.packet */
    struct block *blocks;           /* own: the output of this batch, newest first */
    uint8_t *out;                   /* borrow: where the next packet goes, in the newest block */
    size_t room;                    /* bytes left there */
    struct iovec part;
    struct pass pass;
    struct filter_stats stats;
    uint64_t discarded[MAX_BUFFERS];
    struct level levels[MAX_DEPTH];
};

/* ---- building ---- */

struct said {
    struct bytes_view code, code_v2, overlay;
};

static int read_config(struct filter *f, struct bytes_view msg, struct said *said, char *why,
                       size_t whylen)
{
    struct bytes_view chains[2] = {{NULL, 0}, {NULL, 0}};
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field field;
    while (bytes_next(&cur, &field)) {
        if (field.type != BYTES_LEN)
            continue;
        switch (field.id) {
        case PBF_TraceConfig_TraceFilter_bytecode:
            said->code = field.data;
            break;
        case PBF_TraceConfig_TraceFilter_bytecode_v2:
            said->code_v2 = field.data;
            break;
        case PBF_TraceConfig_TraceFilter_bytecode_overlay_v54:
            said->overlay = field.data;
            break;
        case PBF_TraceConfig_TraceFilter_string_filter_chain:
            chains[0] = field.data;
            break;
        case PBF_TraceConfig_TraceFilter_string_filter_chain_v54:
            chains[1] = field.data;
            break;
        default:
            break;
        }
    }
    if (!bytes_done(&cur)) {
        snprintf(why, whylen, "trace_filter does not parse");
        return ERR_BAD_CONFIG;
    }
    int rc = filter_strings_load(f->strings, chains[0], why, whylen);
    return rc != 0 ? rc : filter_strings_load(f->strings, chains[1], why, whylen);
}

static int build(struct filter *f, struct bytes_view msg, char *why, size_t whylen)
{
    struct said said = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    int rc = filter_strings_new(&f->strings);
    if (rc == 0)
        rc = read_config(f, msg, &said, why, whylen);
    if (rc != 0)
        return rc;
    const char *fault = "";
    rc = filter_code_new(said.code_v2.n > 0 ? said.code_v2 : said.code, said.overlay, &f->code,
                         &fault);
    if (rc == ERR_BAD_CONFIG)
        snprintf(why, whylen, "trace_filter is invalid: its bytecode %s", fault);
    if (rc != 0)
        return rc;
    struct filter_rule root = filter_code_find(f->code, 0, PBF_Trace_packet);
    if (root.action != FILTER_NESTED) { /* R144 */
        snprintf(why, whylen,
                 "trace_filter is invalid: its bytecode does not filter Trace.packet as a message");
        return ERR_BAD_CONFIG;
    }
    f->root = root.arg;
    return 0;
}

int filter_new(struct bytes_view trace_filter, struct filter **out, char *why, size_t whylen)
{
    struct filter *f = alloc_try_array(1, sizeof(*f));
    if (f == NULL)
        return -ENOMEM;
    int rc = build(f, trace_filter, why, whylen);
    if (rc != 0)
        filter_free(f);
    else
        *out = f;
    return rc;
}

/* Frees all blocks but `keep`. */
static void free_blocks(struct filter *f, struct block *keep)
{
    while (f->blocks) {
        struct block *b = f->blocks;
        f->blocks = b->next;
        if (b != keep)
            free(b);
    }
    if (keep)
        keep->next = NULL;
    f->blocks = keep;
    f->out = keep ? keep->bytes : NULL;
    f->room = keep ? keep->cap : 0;
}

void filter_begin(struct filter *f)
{
    struct block *keep = f->blocks;
    while (keep && keep->cap > BLOCK_SIZE) /* one that a large packet needed */
        keep = keep->next;
    free_blocks(f, keep);
}

void filter_free(struct filter *f)
{
    if (f == NULL)
        return;
    filter_code_free(f->code);
    filter_strings_free(f->strings);
    free_blocks(f, NULL);
    free(f);
}

/* ---- one packet ---- */

/* v in exactly n bytes, padded with redundant continuation bytes. */
static void store_varint(uint8_t *p, uint64_t v, uint32_t n)
{
    for (; n > 1; n--, v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p = (uint8_t)v;
}

/* Spends of a step's work. */
static void spend(uint64_t *work, uint64_t n)
{
    *work -= n < *work ? n : *work;
}

/* The n bytes at `from` in the input are the payload of a field: they are moved by and by. */
static void begin_move(struct pass *s, const uint8_t *from, size_t n, struct filter_rule rule)
{
    s->from = from;
    s->left = n;
    s->moved = 0;
    s->rule = rule;
    s->phase = PHASE_MOVE;
}

/* A length-delimited field whose tag was read. False when it does not parse. */
static bool pass_len(struct filter *f, uint64_t tag, struct filter_rule rule)
{
    struct pass *s = &f->pass;
    struct bytes_view data;
    if (!bytes_get_len(&s->cur, &data))
        return false;
    if (rule.action == FILTER_DROP)
        return true;
    s->out = bytes_put_varint(s->out, tag);
    if (rule.action != FILTER_NESTED || data.n == 0) {
        s->out = bytes_put_varint(s->out, data.n);
        if (data.n > 0)
            begin_move(s, data.p, data.n, rule);
        return true;
    }
    if (s->depth + 1 == MAX_DEPTH)
        return false;
    uint32_t size_len = (uint32_t)bytes_varint_size(data.n);
    f->levels[++s->depth] = (struct level){s->cur.p, s->out, size_len, rule.arg};
    s->out += size_len;
    s->cur = bytes_cur(data);
    return true;
}

static bool pass_field(struct filter *f)
{
    struct pass *s = &f->pass;
    uint64_t tag, v;
    const uint8_t *value;
    if (!bytes_get_varint(&s->cur, &tag))
        return false;
    uint64_t field = tag >> 3;
    struct filter_rule rule = {FILTER_DROP, 0};
    if (field > 0 && field <= BYTES_MAX_FIELD)
        rule = filter_code_find(f->code, f->levels[s->depth].msg, (uint32_t)field);
    value = s->cur.p;
    switch (tag & 7) {
    case BYTES_VARINT:
        if (!bytes_get_varint(&s->cur, &v))
            return false;
        if (rule.action == FILTER_SIMPLE)
            s->out = bytes_put_varint(bytes_put_varint(s->out, tag), v);
        return true;
    case BYTES_FIXED64:
    case BYTES_FIXED32:
        if (!bytes_skip(&s->cur, (tag & 7) == BYTES_FIXED64 ? 8 : 4))
            return false;
        if (rule.action == FILTER_SIMPLE) {
            s->out = bytes_put_varint(s->out, tag);
            memmove(s->out, value, (size_t)(s->cur.p - value));
            s->out += s->cur.p - value;
        }
        return true;
    case BYTES_LEN:
        return pass_len(f, tag, rule);
    default:
        return false;
    }
}

/* The innermost message has ended: its length is known now, and its parent goes on. */
static void pass_end(struct filter *f)
{
    struct pass *s = &f->pass;
    const struct level *l = &f->levels[s->depth--];
    store_varint(l->size_at, (uint64_t)(s->out - (l->size_at + l->size_len)), l->size_len);
    s->cur = (struct bytes_cur){l->end, f->levels[s->depth].end};
}

static void pass_move(struct filter *f, uint64_t *work)
{
    struct pass *s = &f->pass;
    size_t n = s->left < MOVE_BYTES ? s->left : MOVE_BYTES;
    if (s->out == s->from) /* nothing was left out before it */
        n = s->left;
    else {
        memmove(s->out, s->from, n);
        spend(work, n / FILTER_UNIT);
    }
    s->out += n;
    s->from += n;
    s->left -= n;
    s->moved += n;
    if (s->left > 0)
        return;
    s->phase = PHASE_FIELDS;
    if (s->rule.action == FILTER_STRING) {
        s->phase = PHASE_STRING;
        filter_strings_start(f->strings, s->rule.arg, (char *)s->out - s->moved, s->moved);
    }
}

enum outcome { AGAIN, GOOD, BAD };

/* A little of the packet. */
static enum outcome pass_some(struct filter *f, uint64_t *work)
{
    struct pass *s = &f->pass;
    if (s->phase == PHASE_MOVE) {
        pass_move(f, work);
    } else if (s->phase == PHASE_STRING) {
        switch (filter_strings_step(f->strings, work)) {
        case FILTER_STRINGS_REFUSED:
            return BAD;
        case FILTER_STRINGS_DONE:
            s->phase = PHASE_FIELDS;
            break;
        case FILTER_STRINGS_MORE:
            break;
        }
    } else if (!bytes_done(&s->cur)) {
        spend(work, COST_OF_FIELD);
        if (!pass_field(f))
            return BAD;
    } else if (s->depth > 0) {
        spend(work, COST_OF_FIELD);
        pass_end(f);
    } else {
        return GOOD;
    }
    return AGAIN;
}

/* Room for a packet of n bytes behind what the batch has so far. An empty packet gets a byte of
 * room too, so that pointers into it are pointers. */
static int reserve(struct filter *f, size_t n)
{
    n += n == 0;
    if (n <= f->room)
        return 0;
    size_t cap = n > BLOCK_SIZE ? n : BLOCK_SIZE;
    struct block *b = alloc_try(sizeof(*b) + cap);
    if (b == NULL)
        return -ENOMEM;
    b->cap = cap;
    b->next = f->blocks;
    f->blocks = b;
    f->out = b->bytes;
    f->room = cap;
    return 0;
}

static void begin(struct filter *f, uint8_t *p, size_t n, int buffer, bool in_block)
{
    f->pass = (struct pass){.cur = bytes_cur(bytes_view(p, n)),
                            .out = p,
                            .begin = p,
                            .size = n,
                            .buffer = buffer,
                            .in_block = in_block};
    f->levels[0] = (struct level){p + n, NULL, 0, f->root};
    filter_strings_begin(f->strings);
}

int filter_take(struct filter *f, const struct packet *in)
{
    int rc = reserve(f, in->size);
    if (rc != 0)
        return rc;
    uint8_t *p = f->out;
    for (size_t i = 0; i < in->nparts; i++) {
        if (in->parts[i].iov_len > 0)
            memcpy(p, in->parts[i].iov_base, in->parts[i].iov_len);
        p += in->parts[i].iov_len;
    }
    begin(f, f->out, in->size, in->buffer, true);
    return 0;
}

void filter_take_place(struct filter *f, uint8_t *p, size_t n, int buffer)
{
    begin(f, p, n, buffer, false);
}

static void count(struct filter *f, size_t out_n, bool ok)
{
    const struct pass *s = &f->pass;
    f->stats.input_packets++;
    f->stats.input_bytes += s->size;
    f->stats.output_bytes += out_n;
    f->stats.errors += !ok;
    if (!ok || s->buffer < 0 || s->buffer >= MAX_BUFFERS)
        return;
    f->discarded[s->buffer] += s->size - out_n;
    if ((size_t)s->buffer >= f->stats.buffers)
        f->stats.buffers = (size_t)s->buffer + 1;
}

bool filter_step(struct filter *f, uint64_t *work, struct packet *out, bool *failed)
{
    struct pass *s = &f->pass;
    uint64_t start = chrono_mono_ns();
    enum outcome outcome = AGAIN;
    while (outcome == AGAIN && *work > 0)
        outcome = pass_some(f, work);
    f->stats.time_taken_ns += chrono_mono_ns() - start;
    if (outcome == AGAIN)
        return false;
    size_t n = outcome == GOOD ? (size_t)(s->out - s->begin) : 0;
    f->part = (struct iovec){s->begin, n};
    if (s->in_block) {
        f->out += n;
        f->room -= n;
    }
    *out = (struct packet){.parts = &f->part, .nparts = n > 0, .size = n, .buffer = s->buffer};
    *failed = outcome == BAD;
    count(f, n, outcome == GOOD);
    return true;
}

void filter_count_stats_packet(struct filter *f, size_t size)
{
    f->stats.input_packets++;
    f->stats.input_bytes += size;
    f->stats.output_bytes += size;
}

void filter_get_stats(const struct filter *f, struct filter_stats *out)
{
    *out = f->stats;
    out->discarded_per_buffer = f->discarded;
}
