/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String rules. Each is a compiled pattern with a policy; for a string they are tried in order
 * until one of them ends the search. Patterns come from a consumer and texts from producers, so
 * matching is linear (svc/rex), its work is limited for each packet, and the text is any run of
 * bytes.
 */
#include "svc/filter_strings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "svc/rex.h"

#define TYPES     128 /* R147: a listed semantic type must be below, a field's may not be */
#define MAX_RULES 1024
#define MAX_BYTES (16u << 20) /* of the patterns, compiled */

/* Instructions of svc/rex for all strings of one packet: about 20 ms. */
#define PACKET_WORK (UINT64_C(1) << 22)

/* TraceConfig.TraceFilter.StringFilterPolicy (R148). */
enum policy {
    POLICY_REDACT = 1,
    POLICY_ATRACE_REDACT,
    POLICY_BREAK,
    POLICY_ATRACE_BREAK,
    POLICY_ATRACE_SEARCH,
    POLICY_END
};

struct rule {
    uint32_t policy;
    struct rex *rex;          /* own */
    uint8_t *memory;          /* own: prefix and name point into it */
    struct bytes_view prefix; /* what an atrace payload must start with */
    struct bytes_view name;
    uint64_t types[TYPES / 64]; /* semantic types that the rule is for */
};

struct filter_strings {
    struct rule *rules; /* own */
    size_t n, cap;
    size_t bytes;  /* of all patterns that were loaded */
    uint64_t left; /* work that the packet at hand may still take */
};

int filter_strings_new(struct filter_strings **out)
{
    struct filter_strings *s = alloc_try_array(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    *out = s;
    return 0;
}

static void rule_fini(struct rule *r)
{
    rex_free(r->rex);
    free(r->memory);
}

void filter_strings_free(struct filter_strings *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n; i++)
        rule_fini(&s->rules[i]);
    free(s->rules);
    free(s);
}

/* ---- loading ---- */

/* What a StringFilterRule says, as views into the config. */
struct said {
    uint64_t policy;
    struct bytes_view pattern, prefix, name;
    uint64_t types[TYPES / 64];
    bool any_type, bad_type;
};

static void say_type(struct said *said, uint64_t type)
{
    said->any_type = true;
    if (type >= TYPES)
        said->bad_type = true;
    else
        said->types[type / 64] |= 1ull << type % 64;
}

static bool read_said(struct bytes_view msg, struct said *said)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    *said = (struct said){0};
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_TraceConfig_TraceFilter_StringFilterRule_policy && f.type == BYTES_VARINT)
            said->policy = f.num;
        if (f.id == PBF_TraceConfig_TraceFilter_StringFilterRule_semantic_type &&
            f.type == BYTES_VARINT)
            say_type(said, f.num);
        if (f.type != BYTES_LEN)
            continue;
        struct bytes_cur packed = bytes_cur(f.data);
        uint64_t type;
        switch (f.id) {
        case PBF_TraceConfig_TraceFilter_StringFilterRule_regex_pattern:
            said->pattern = f.data;
            break;
        case PBF_TraceConfig_TraceFilter_StringFilterRule_atrace_payload_starts_with:
            said->prefix = f.data;
            break;
        case PBF_TraceConfig_TraceFilter_StringFilterRule_name:
            said->name = f.data;
            break;
        case PBF_TraceConfig_TraceFilter_StringFilterRule_semantic_type:
            while (bytes_get_varint(&packed, &type))
                say_type(said, type);
            said->bad_type |= !bytes_done(&packed);
            break;
        default:
            break;
        }
    }
    if (!said->any_type)
        said->types[0] = 1; /* R147: an empty list means UNSPECIFIED */
    return bytes_done(&cur);
}

static int rule_new(const struct said *said, struct rule *out, char *why, size_t whylen)
{
    if (said->policy == 0 || said->policy >= POLICY_END) {
        snprintf(why, whylen, "a string rule of trace_filter has no known policy; set policy");
        return ERR_BAD_CONFIG;
    }
    if (said->bad_type) {
        snprintf(why, whylen,
                 "a string rule of trace_filter has a semantic_type above the limit of %d",
                 TYPES - 1);
        return ERR_BAD_CONFIG;
    }
    struct rule r = {.policy = (uint32_t)said->policy};
    memcpy(r.types, said->types, sizeof(r.types));
    int rc = rex_new((const char *)said->pattern.p, said->pattern.n, &r.rex);
    if (rc != 0) {
        snprintf(why, whylen, "a string rule of trace_filter has an invalid regex_pattern: %.*s",
                 (int)(said->pattern.n < 100 ? said->pattern.n : 100),
                 said->pattern.n > 0 ? (const char *)said->pattern.p : "");
        return rc;
    }
    r.memory = alloc_try(said->prefix.n + said->name.n + 1);
    if (r.memory == NULL) {
        rex_free(r.rex);
        return -ENOMEM;
    }
    if (said->prefix.n > 0)
        memcpy(r.memory, said->prefix.p, said->prefix.n);
    if (said->name.n > 0)
        memcpy(r.memory + said->prefix.n, said->name.p, said->name.n);
    r.prefix = bytes_view(r.memory, said->prefix.n);
    r.name = bytes_view(r.memory + said->prefix.n, said->name.n);
    *out = r;
    return 0;
}

/* The rule takes the place of one of the same name, or comes last. */
static int place(struct filter_strings *s, struct rule *r)
{
    for (size_t i = 0; r->name.n > 0 && i < s->n; i++) {
        if (bytes_equal(s->rules[i].name, r->name)) {
            rule_fini(&s->rules[i]);
            s->rules[i] = *r;
            return 0;
        }
    }
    if (s->n == s->cap) {
        size_t cap = s->cap == 0 ? 8 : s->cap * 2;
        struct rule *rules = alloc_try_resize(s->rules, cap, sizeof(*rules));
        if (rules == NULL)
            return -ENOMEM;
        s->rules = rules;
        s->cap = cap;
    }
    s->rules[s->n++] = *r;
    return 0;
}

/* The pattern counts for what all of them may be. */
static int take_pattern(struct filter_strings *s, struct rex *rex, char *why, size_t whylen)
{
    s->bytes += rex_memory(rex);
    if (s->bytes > MAX_BYTES) {
        snprintf(why, whylen,
                 "the patterns of trace_filter take more than %u MB together; use fewer groups and "
                 "counts",
                 MAX_BYTES >> 20);
        return ERR_BAD_CONFIG;
    }
    rex_draw_on(rex, &s->left);
    return 0;
}

static int load_rule(struct filter_strings *s, struct bytes_view msg, char *why, size_t whylen)
{
    struct said said;
    struct rule r;
    if (!read_said(msg, &said)) {
        snprintf(why, whylen, "a string rule of trace_filter does not parse");
        return ERR_BAD_CONFIG;
    }
    if (s->n >= MAX_RULES) {
        snprintf(why, whylen, "trace_filter has more than %d string rules", MAX_RULES);
        return ERR_BAD_CONFIG;
    }
    int rc = rule_new(&said, &r, why, whylen);
    if (rc != 0)
        return rc;
    rc = take_pattern(s, r.rex, why, whylen);
    if (rc == 0)
        rc = place(s, &r);
    if (rc != 0)
        rule_fini(&r);
    return rc;
}

int filter_strings_load(struct filter_strings *s, struct bytes_view chain, char *why, size_t whylen)
{
    struct bytes_cur cur = bytes_cur(chain);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        if (f.id != PBF_TraceConfig_TraceFilter_StringFilterChain_rules || f.type != BYTES_LEN)
            continue;
        int rc = load_rule(s, f.data, why, whylen);
        if (rc != 0)
            return rc;
    }
    if (bytes_done(&cur))
        return 0;
    snprintf(why, whylen, "a string filter chain of trace_filter does not parse");
    return ERR_BAD_CONFIG;
}

/* ---- applying ---- */

/* R149: "B|pid|payload" and the like, with the wanted start of the payload. */
static bool is_atrace(const struct rule *r, const char *text, size_t n)
{
    if (n < 3 || text[0] == 'E')
        return false;
    const char *bar = memchr(text + 2, '|', n - 2);
    if (bar == NULL)
        return false;
    size_t rest = (size_t)(text + n - (bar + 1));
    return rest >= r->prefix.n && memcmp(bar + 1, r->prefix.p, r->prefix.n) == 0;
}

/* R150. */
static void redact(char *text, struct rex_span span)
{
    static const char mask[] = "P60REDACTED";
    if (span.begin == REX_NONE)
        return;
    size_t n = span.end - span.begin, head = n < sizeof(mask) - 1 ? n : sizeof(mask) - 1;
    memcpy(text + span.begin, mask, head);
    memset(text + span.begin + head, '-', n - head);
}

static void redact_groups(const struct rule *r, char *text, const struct rex_span *spans)
{
    for (unsigned i = 1; i <= rex_groups(r->rex); i++)
        redact(text, spans[i]);
}

static bool search_all(const struct rule *r, char *text, size_t n)
{
    struct rex_span spans[REX_MAX_GROUPS + 1];
    bool any = false;
    for (size_t from = 0; from <= n && rex_search(r->rex, text, n, from, spans);) {
        any = true;
        redact_groups(r, text, spans);
        from = spans[0].end > spans[0].begin ? spans[0].end : (size_t)spans[0].end + 1;
    }
    return any;
}

/* True when the rule ends the search. */
static bool apply_rule(const struct rule *r, char *text, size_t n)
{
    struct rex_span spans[REX_MAX_GROUPS + 1];
    bool atrace = r->policy == POLICY_ATRACE_REDACT || r->policy == POLICY_ATRACE_BREAK ||
                  r->policy == POLICY_ATRACE_SEARCH;
    if (atrace && !is_atrace(r, text, n))
        return false;
    if (r->policy == POLICY_ATRACE_SEARCH)
        return search_all(r, text, n);
    if (!rex_match(r->rex, text, n, spans))
        return false;
    if (r->policy == POLICY_REDACT || r->policy == POLICY_ATRACE_REDACT)
        redact_groups(r, text, spans);
    return true;
}

void filter_strings_begin(struct filter_strings *s)
{
    s->left = PACKET_WORK;
}

bool filter_strings_apply(struct filter_strings *s, uint32_t semantic_type, char *text, size_t n)
{
    for (size_t i = 0; i < s->n && s->left > 0; i++) {
        const struct rule *r = &s->rules[i];
        bool meant =
            semantic_type >= TYPES || (r->types[semantic_type / 64] >> semantic_type % 64 & 1) != 0;
        if (meant && apply_rule(r, text, n))
            break;
    }
    return s->left > 0;
}
