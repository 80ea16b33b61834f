/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String rules. Each is a compiled pattern with a policy; for a string they are tried in order
 * until one of them ends the search. Patterns come from a consumer and texts from producers, so
 * matching is linear (svc/rex), its work is limited for each packet, and the text is any run of
 * bytes. All work on a string can be left and gone on with; where it stands is in struct work.
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

#define PIECE (64u << 10) /* bytes of a text that are looked at or overwritten in one go */

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

/* Where the work on a string stands. */
enum phase {
    PHASE_RULE,  /* the next rule is due */
    PHASE_BAR,   /* the first '|' of the text is looked for, then the rule */
    PHASE_MATCH, /* the rule's pattern is being matched */
    PHASE_REDACT /* it did, and its groups are being overwritten */
};

struct work {
    enum phase phase;
    char *text; /* borrow */
    size_t n;
    uint32_t type;
    size_t rule;   /* the one that is at work */
    bool bar_done; /* bar is known */
    size_t bar;    /* of the first '|' from index 2 on, n: none; while it is looked for, so far */
    bool any;      /* of POLICY_ATRACE_SEARCH: it has matched */
    unsigned group;
    size_t at; /* in the group, overwritten so far */
    struct rex_span spans[REX_MAX_GROUPS + 1];
};

struct filter_strings {
    struct rule *rules; /* own */
    size_t n, cap;
    size_t bytes;  /* of all patterns that were loaded */
    uint64_t left; /* work that the packet at hand may still take */
    struct work work;
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
static bool is_atrace(const struct rule *r, const struct work *w)
{
    if (w->bar == w->n)
        return false;
    const char *payload = w->text + w->bar + 1;
    size_t rest = w->n - w->bar - 1;
    return rest >= r->prefix.n && memcmp(payload, r->prefix.p, r->prefix.n) == 0;
}

static bool wants_atrace(const struct rule *r)
{
    return r->policy == POLICY_ATRACE_REDACT || r->policy == POLICY_ATRACE_BREAK ||
           r->policy == POLICY_ATRACE_SEARCH;
}

static void spend(uint64_t *work, uint64_t n)
{
    *work -= n < *work ? n : *work;
}

/* Looks for the bar, some bytes of the text. */
static void step_bar(struct work *w, uint64_t *work)
{
    size_t n = w->n - w->bar < PIECE ? w->n - w->bar : PIECE;
    const char *bar = n > 0 ? memchr(w->text + w->bar, '|', n) : NULL;
    w->bar = bar != NULL ? (size_t)(bar - w->text) : w->bar + n;
    spend(work, 1 + n / FILTER_STRINGS_UNIT);
    w->bar_done = bar != NULL || w->bar == w->n;
    if (w->bar_done)
        w->phase = PHASE_RULE;
}

/* Finds the next rule that is meant. False when there is none. */
static bool step_rule(struct filter_strings *s, uint64_t *work)
{
    struct work *w = &s->work;
    if (w->rule >= s->n)
        return false;
    const struct rule *r = &s->rules[w->rule];
    bool meant = w->type >= TYPES || (r->types[w->type / 64] >> w->type % 64 & 1) != 0;
    spend(work, 1);
    if (meant && wants_atrace(r) && !w->bar_done) {
        w->bar = w->n < 3 || w->text[0] == 'E' ? w->n : 2;
        w->phase = PHASE_BAR;
    } else if (!meant || (wants_atrace(r) && !is_atrace(r, w))) {
        w->rule++;
    } else {
        rex_start(r->rex, w->text, w->n, 0, r->policy != POLICY_ATRACE_SEARCH);
        w->any = false;
        w->phase = PHASE_MATCH;
    }
    return true;
}

/* False when the rule ends the search. */
static bool step_match(struct filter_strings *s, uint64_t *work)
{
    struct work *w = &s->work;
    const struct rule *r = &s->rules[w->rule];
    switch (rex_step(r->rex, work, w->spans)) {
    case REX_MORE:
        return true;
    case REX_NO:
        if (w->any)
            return false;
        w->rule++;
        w->phase = PHASE_RULE;
        return true;
    default:
        break;
    }
    if (r->policy == POLICY_BREAK || r->policy == POLICY_ATRACE_BREAK)
        return false;
    w->any = true;
    w->group = 1;
    w->at = 0;
    w->phase = PHASE_REDACT;
    return true;
}

/* Overwrites some of the group at hand (R150). False when the rule ends the search. */
static bool step_redact(struct filter_strings *s, uint64_t *work)
{
    static const char mask[] = "P60REDACTED";
    struct work *w = &s->work;
    const struct rule *r = &s->rules[w->rule];
    if (w->group <= rex_groups(r->rex)) {
        struct rex_span span = w->spans[w->group];
        size_t n = span.begin == REX_NONE ? 0 : span.end - span.begin;
        size_t head = n < sizeof(mask) - 1 ? n : sizeof(mask) - 1;
        if (w->at < head) {
            memcpy(w->text + span.begin, mask, head);
            w->at = head;
        }
        size_t piece = n - w->at < PIECE ? n - w->at : PIECE;
        if (piece > 0)
            memset(w->text + span.begin + w->at, '-', piece);
        w->at += piece;
        spend(work, 1 + piece / FILTER_STRINGS_UNIT);
        if (w->at == n) {
            w->group++;
            w->at = 0;
        }
        return true;
    }
    size_t from = w->spans[0].end + (size_t)(w->spans[0].end == w->spans[0].begin);
    if (r->policy != POLICY_ATRACE_SEARCH || from > w->n)
        return false;
    rex_start(r->rex, w->text, w->n, from, false);
    w->phase = PHASE_MATCH;
    return true;
}

static bool step(struct filter_strings *s, uint64_t *work)
{
    switch (s->work.phase) {
    case PHASE_RULE:
        return step_rule(s, work);
    case PHASE_BAR:
        step_bar(&s->work, work);
        return true;
    case PHASE_MATCH:
        return step_match(s, work);
    default:
        return step_redact(s, work);
    }
}

void filter_strings_begin(struct filter_strings *s)
{
    s->left = PACKET_WORK;
}

void filter_strings_start(struct filter_strings *s, uint32_t semantic_type, char *text, size_t n)
{
    s->work = (struct work){.text = text, .n = n, .type = semantic_type};
}

enum filter_strings_result filter_strings_step(struct filter_strings *s, uint64_t *work)
{
    while (s->left > 0) {
        if (*work == 0)
            return FILTER_STRINGS_MORE;
        if (!step(s, work))
            break;
    }
    return s->left > 0 ? FILTER_STRINGS_DONE : FILTER_STRINGS_REFUSED;
}
