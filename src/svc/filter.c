/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace filter at work: one pass over a packet, one pass of output that never gets longer than
 * the input. The packet is gathered into one run first, because strings must be contiguous for the
 * rules; the two scratch areas grow to the largest packet seen and stay.
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

/* A message that is being filtered. */
struct level {
    const uint8_t *end; /* of the message in the input, where its parent goes on */
    uint8_t *size_at;   /* where its length goes in the output */
    uint32_t size_len;  /* bytes reserved for it */
    uint32_t msg;       /* index in the bytecode */
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
    uint8_t *in;                    /* own: the packet at hand in one piece, cap bytes */
    size_t cap;
    struct block *blocks; /* own: the output of this batch, newest first */
    uint8_t *out;         /* borrow: where the next output goes, in the newest block */
    size_t room;          /* bytes left there */
    struct iovec part;
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
    free(f->in);
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

static uint8_t *put_bytes(uint8_t *p, const void *from, size_t n)
{
    if (n > 0)
        memcpy(p, from, n);
    return p + n;
}

/* The state of one pass. `cur` ends where the innermost open message ends. */
struct pass {
    struct filter *f;
    struct bytes_cur cur;
    uint8_t *out;
    uint32_t depth; /* index of the innermost level */
};

/* A length-delimited field whose tag was read. False when it does not parse. */
static bool pass_len(struct pass *s, uint64_t tag, struct filter_rule rule)
{
    struct bytes_view data;
    if (!bytes_get_len(&s->cur, &data))
        return false;
    if (rule.action == FILTER_DROP)
        return true;
    s->out = bytes_put_varint(s->out, tag);
    if (rule.action != FILTER_NESTED || data.n == 0) {
        s->out = bytes_put_varint(s->out, data.n);
        if (rule.action == FILTER_STRING && data.n > 0) {
            memcpy(s->out, data.p, data.n);
            if (!filter_strings_apply(s->f->strings, rule.arg, (char *)s->out, data.n))
                return false;
            s->out += data.n;
        } else {
            s->out = put_bytes(s->out, data.p, data.n);
        }
        return true;
    }
    if (s->depth + 1 == MAX_DEPTH)
        return false;
    uint32_t size_len = (uint32_t)bytes_varint_size(data.n);
    s->f->levels[++s->depth] = (struct level){s->cur.p, s->out, size_len, rule.arg};
    s->out += size_len;
    s->cur = bytes_cur(data);
    return true;
}

static bool pass_field(struct pass *s)
{
    uint64_t tag, v;
    const uint8_t *value;
    if (!bytes_get_varint(&s->cur, &tag))
        return false;
    uint64_t field = tag >> 3;
    struct filter_rule rule = {FILTER_DROP, 0};
    if (field > 0 && field <= BYTES_MAX_FIELD)
        rule = filter_code_find(s->f->code, s->f->levels[s->depth].msg, (uint32_t)field);
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
        if (rule.action == FILTER_SIMPLE)
            s->out = put_bytes(bytes_put_varint(s->out, tag), value, (size_t)(s->cur.p - value));
        return true;
    case BYTES_LEN:
        return pass_len(s, tag, rule);
    default:
        return false;
    }
}

/* The innermost message has ended: its length is known now, and its parent goes on. */
static void pass_end(struct pass *s)
{
    const struct level *l = &s->f->levels[s->depth--];
    store_varint(l->size_at, (uint64_t)(s->out - (l->size_at + l->size_len)), l->size_len);
    s->cur = (struct bytes_cur){l->end, s->f->levels[s->depth].end};
}

static bool filter_run(struct filter *f, size_t n, size_t *out_n)
{
    struct pass s = {f, bytes_cur(bytes_view(f->in, n)), f->out, 0};
    f->levels[0] = (struct level){f->in + n, NULL, 0, f->root};
    for (;;) {
        if (!bytes_done(&s.cur)) {
            if (!pass_field(&s))
                return false;
        } else if (s.depth > 0) {
            pass_end(&s);
        } else {
            break;
        }
    }
    *out_n = (size_t)(s.out - f->out);
    return true;
}

/* Room for n bytes of output behind what the batch has so far. */
static int reserve_out(struct filter *f, size_t n)
{
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

/* Room for a packet of n bytes in one piece, and for its output, which is never longer. An empty
 * packet gets a byte of room too, so that pointers into it are pointers. */
static int reserve(struct filter *f, size_t n)
{
    n += n == 0;
    if (n > f->cap) {
        size_t cap = f->cap == 0 ? 4096 : f->cap;
        while (cap < n)
            cap *= 2;
        uint8_t *in = alloc_try(cap);
        if (in == NULL)
            return -ENOMEM;
        free(f->in);
        f->in = in;
        f->cap = cap;
    }
    return reserve_out(f, n);
}

static void count(struct filter *f, const struct packet *in, size_t out_n, bool ok)
{
    f->stats.input_packets++;
    f->stats.input_bytes += in->size;
    f->stats.output_bytes += out_n;
    f->stats.errors += !ok;
    if (!ok || in->buffer < 0 || in->buffer >= MAX_BUFFERS)
        return;
    f->discarded[in->buffer] += in->size - out_n;
    if ((size_t)in->buffer >= f->stats.buffers)
        f->stats.buffers = (size_t)in->buffer + 1;
}

int filter_packet(struct filter *f, const struct packet *in, struct packet *out, bool *failed)
{
    uint64_t start = chrono_mono_ns();
    int rc = reserve(f, in->size);
    if (rc != 0)
        return rc;
    uint8_t *p = f->in;
    for (size_t i = 0; i < in->nparts; i++)
        p = put_bytes(p, in->parts[i].iov_base, in->parts[i].iov_len);
    size_t n = 0;
    filter_strings_begin(f->strings);
    bool ok = filter_run(f, in->size, &n);
    if (!ok)
        n = 0;
    f->part = (struct iovec){f->out, n};
    f->out += n;
    f->room -= n;
    *out = (struct packet){.parts = &f->part, .nparts = n > 0, .size = n, .buffer = in->buffer};
    count(f, in, n, ok);
    f->stats.time_taken_ns += chrono_mono_ns() - start;
    if (failed != NULL)
        *failed = !ok;
    return 0;
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
