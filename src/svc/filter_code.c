/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytecode to a table that is looked up once per field. Each message has a direct table for
 * the low field numbers, which are nearly all that occur, and a sorted list of ranges for the rest.
 * The bytecode comes from a consumer: nothing in it is believed before it was checked, and a range
 * of a million fields costs as much as one.
 */
#include "svc/filter_code.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/err.h"

#define LOW_FIELDS                                                                                 \
    128 /* R142: below, a later instruction wins; from here on, ranges may not overlap */

enum opcode { OP_END, OP_SIMPLE, OP_RANGE, OP_NESTED, OP_STRING, OP_STRING_TYPE };

struct range {
    uint64_t from, to; /* fields [from, to) */
    struct filter_rule rule;
};

/* Entry of the overlay: one field of one message. */
struct over {
    uint32_t msg, field;
    struct filter_rule rule;
};

struct message {
    uint64_t have[LOW_FIELDS / 64]; /* which low fields are allowed */
    struct filter_rule *low;        /* own: their rules, without gaps */
    struct range *ranges;           /* own: sorted by `from`, disjoint */
    size_t nranges, ranges_cap;
    bool overlaid;
};

struct filter_code {
    struct message *messages; /* own */
    size_t nmessages, messages_cap;
    struct over *over; /* own: ascending by message and field */
    size_t nover;
};

/* The low fields of the message that is being read. */
struct low_table {
    struct filter_rule rules[LOW_FIELDS];
};

/* ---- words ---- */

struct words {
    uint32_t *w; /* own */
    size_t n;
};

/* Decodes packed varints and takes the checksum off the end (R140). */
static int words_read(struct bytes_view code, struct words *out, const char **why)
{
    struct words words = {alloc_try_array(code.n + 1, sizeof(uint32_t)), 0};
    if (words.w == NULL)
        return -ENOMEM;
    struct bytes_cur cur = bytes_cur(code);
    uint64_t v = 0;
    *why = "has a word that is not a 32-bit varint";
    while (bytes_get_varint(&cur, &v) && v <= UINT32_MAX)
        words.w[words.n++] = (uint32_t)v;
    bool whole = bytes_done(&cur) && v <= UINT32_MAX;
    if (whole && words.n == 0)
        *why = "is empty";
    if (!whole || words.n == 0)
        goto bad;
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i + 1 < words.n; i++) {
        for (unsigned shift = 0; shift < 32; shift += 8)
            hash = (hash ^ (words.w[i] >> shift & 0xFF)) * 0x100000001b3u;
    }
    *why = "does not match its checksum";
    if ((uint32_t)hash != words.w[words.n - 1])
        goto bad;
    words.n--;
    *out = words;
    return 0;
bad:
    free(words.w);
    return ERR_BAD_CONFIG;
}

/* ---- tables ---- */

static int add_message(struct filter_code *code)
{
    if (code->nmessages == code->messages_cap) {
        size_t cap = code->messages_cap == 0 ? 64 : code->messages_cap * 2;
        struct message *m = alloc_try_resize(code->messages, cap, sizeof(*m));
        if (m == NULL)
            return -ENOMEM;
        code->messages = m;
        code->messages_cap = cap;
    }
    code->messages[code->nmessages++] = (struct message){0};
    return 0;
}

static int add_range(struct message *m, struct range r)
{
    if (m->nranges == m->ranges_cap) {
        size_t cap = m->ranges_cap == 0 ? 8 : m->ranges_cap * 2;
        struct range *p = alloc_try_resize(m->ranges, cap, sizeof(*p));
        if (p == NULL)
            return -ENOMEM;
        m->ranges = p;
        m->ranges_cap = cap;
    }
    m->ranges[m->nranges++] = r;
    return 0;
}

/* Allows fields [from, to) of the message being read. */
static int allow(struct message *m, struct low_table *low, uint64_t from, uint64_t to,
                 struct filter_rule rule)
{
    for (; from < to && from < LOW_FIELDS; from++)
        low->rules[from] = rule;
    return from < to ? add_range(m, (struct range){from, to, rule}) : 0;
}

static int compare_ranges(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

/* Packs the low table and puts the ranges in order. */
static int seal_message(struct message *m, const struct low_table *low, const char **why)
{
    size_t n = 0;
    for (unsigned i = 0; i < LOW_FIELDS; i++)
        n += low->rules[i].action != FILTER_DROP;
    m->low = alloc_try_array(n + 1, sizeof(*m->low));
    if (m->low == NULL)
        return -ENOMEM;
    n = 0;
    for (unsigned i = 0; i < LOW_FIELDS; i++) {
        if (low->rules[i].action == FILTER_DROP)
            continue;
        m->have[i / 64] |= 1ull << i % 64;
        m->low[n++] = low->rules[i];
    }
    if (m->nranges > 0)
        qsort(m->ranges, m->nranges, sizeof(*m->ranges), compare_ranges);
    *why = "allows a field twice";
    for (size_t i = 1; i < m->nranges; i++) {
        if (m->ranges[i].from < m->ranges[i - 1].to)
            return ERR_BAD_CONFIG;
    }
    return 0;
}

/* ---- programs ---- */

/* One instruction at *i, which moves past it. */
static int instruction(struct message *m, struct low_table *low, const struct words *words,
                       size_t *i, const char **why)
{
    uint32_t op = words->w[*i] & 7, field = words->w[*i] >> 3, arg = 0;
    (*i)++;
    *why = "allows a field number 0";
    if (field == 0)
        return ERR_BAD_CONFIG;
    *why = "has an unknown instruction";
    if (op > OP_STRING_TYPE)
        return ERR_BAD_CONFIG;
    if (op == OP_RANGE || op == OP_NESTED || op == OP_STRING_TYPE) {
        *why = "ends in the middle of an instruction";
        if (*i == words->n)
            return ERR_BAD_CONFIG;
        arg = words->w[(*i)++];
    }
    uint64_t to = (uint64_t)field + (op == OP_RANGE ? arg : 1);
    struct filter_rule rule = {FILTER_SIMPLE, 0};
    if (op == OP_NESTED)
        rule = (struct filter_rule){FILTER_NESTED, arg};
    else if (op == OP_STRING || op == OP_STRING_TYPE)
        rule = (struct filter_rule){FILTER_STRING, arg & 0xFFFF};
    return allow(m, low, field, to, rule);
}

static bool nested_in_bounds(const struct filter_code *code, const struct words *words)
{
    for (size_t i = 0; i < words->n; i++) {
        uint32_t op = words->w[i] & 7;
        if (op == OP_NESTED && words->w[i + 1] >= code->nmessages)
            return false;
        if (op == OP_RANGE || op == OP_NESTED || op == OP_STRING_TYPE)
            i++;
    }
    return true;
}

/* Reads one message at *i up to and including its end. */
static int read_message(struct filter_code *code, const struct words *words, size_t *i,
                        const char **why)
{
    struct low_table low = {0};
    int rc = add_message(code);
    struct message *m = rc == 0 ? &code->messages[code->nmessages - 1] : NULL;
    while (rc == 0 && *i < words->n && (words->w[*i] & 7) != OP_END)
        rc = instruction(m, &low, words, i, why);
    if (rc != 0)
        return rc;
    *why = "ends in the middle of a message";
    if (*i == words->n)
        return ERR_BAD_CONFIG;
    (*i)++;
    return seal_message(m, &low, why);
}

static int read_program(struct filter_code *code, const struct words *words, const char **why)
{
    for (size_t i = 0; i < words->n;) {
        int rc = read_message(code, words, &i, why);
        if (rc != 0)
            return rc;
    }
    *why = "names a message that it does not have";
    return nested_in_bounds(code, words) ? 0 : ERR_BAD_CONFIG;
}

/* One entry of three words (R143). */
static int read_over(struct filter_code *code, const uint32_t *e, struct over *out,
                     const char **why)
{
    uint32_t op = e[1] & 7, field = e[1] >> 3;
    *why = "has an overlay with an instruction that may not stand there";
    if (field == 0 || (op != OP_SIMPLE && op != OP_STRING && op != OP_STRING_TYPE))
        return ERR_BAD_CONFIG;
    *why = "has an overlay for a message that it does not have";
    if (e[0] >= code->nmessages)
        return ERR_BAD_CONFIG;
    struct filter_rule rule = {FILTER_SIMPLE, 0};
    if (op != OP_SIMPLE)
        rule = (struct filter_rule){FILTER_STRING, op == OP_STRING_TYPE ? e[2] & 0xFFFF : 0};
    *out = (struct over){e[0], field, rule};
    code->messages[e[0]].overlaid = true;
    return 0;
}

static int read_overlay(struct filter_code *code, const struct words *words, const char **why)
{
    *why = "has an overlay that is not made of three words an entry";
    if (words->n % 3 != 0)
        return ERR_BAD_CONFIG;
    code->over = alloc_try_array(words->n / 3 + 1, sizeof(*code->over));
    if (code->over == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < words->n; i += 3) {
        struct over *o = &code->over[code->nover];
        int rc = read_over(code, words->w + i, o, why);
        if (rc != 0)
            return rc;
        *why = "has an overlay that is not in ascending order";
        if (i > 0 && (o->msg < o[-1].msg || (o->msg == o[-1].msg && o->field <= o[-1].field)))
            return ERR_BAD_CONFIG;
        code->nover++;
    }
    return 0;
}

int filter_code_new(struct bytes_view bytecode, struct bytes_view overlay, struct filter_code **out,
                    const char **why)
{
    struct words words, over = {NULL, 0};
    int rc = words_read(bytecode, &words, why);
    if (rc != 0)
        return rc;
    struct filter_code *code = alloc_try_array(1, sizeof(*code));
    rc = code == NULL ? -ENOMEM : read_program(code, &words, why);
    if (rc == 0 && overlay.n > 0)
        rc = words_read(overlay, &over, why);
    if (rc == 0 && overlay.n > 0)
        rc = read_overlay(code, &over, why);
    free(words.w);
    free(over.w);
    if (rc != 0)
        filter_code_free(code);
    else
        *out = code;
    return rc;
}

void filter_code_free(struct filter_code *code)
{
    if (code == NULL)
        return;
    for (size_t i = 0; i < code->nmessages; i++) {
        free(code->messages[i].low);
        free(code->messages[i].ranges);
    }
    free(code->messages);
    free(code->over);
    free(code);
}

static const struct over *find_over(const struct filter_code *code, uint32_t msg, uint32_t field)
{
    uint64_t key = (uint64_t)msg << 32 | field;
    size_t lo = 0, hi = code->nover;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct over *o = &code->over[mid];
        uint64_t at = (uint64_t)o->msg << 32 | o->field;
        if (at == key)
            return o;
        if (at < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static const struct range *find_range(const struct message *m, uint32_t field)
{
    size_t lo = 0, hi = m->nranges;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (m->ranges[mid].to <= field)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < m->nranges && m->ranges[lo].from <= field ? &m->ranges[lo] : NULL;
}

/* Rule of a low field: its place is the number of allowed ones before it. */
static const struct filter_rule *find_low(const struct message *m, uint32_t field)
{
    uint64_t word = m->have[field / 64], bit = 1ull << field % 64;
    if ((word & bit) == 0)
        return NULL;
    int place = __builtin_popcountll(word & (bit - 1));
    if (field >= 64)
        place += __builtin_popcountll(m->have[0]);
    return &m->low[place];
}

struct filter_rule filter_code_find(const struct filter_code *code, uint32_t msg, uint32_t field)
{
    static const struct filter_rule drop = {FILTER_DROP, 0};
    if (msg >= code->nmessages)
        return drop;
    const struct message *m = &code->messages[msg];
    const struct over *over = m->overlaid ? find_over(code, msg, field) : NULL;
    if (over != NULL)
        return over->rule;
    if (field < LOW_FIELDS) {
        const struct filter_rule *rule = find_low(m, field);
        return rule != NULL ? *rule : drop;
    }
    const struct range *r = find_range(m, field);
    return r != NULL ? r->rule : drop;
}
