/* SPDX-License-Identifier: Apache-2.0 */
/* Regular expressions: patterns come from consumers, texts from producers. An input whose first
 * byte is odd is a pattern and a text, with a zero byte between them: whatever they are, spans stay
 * inside the text, a match of the whole is found by a search, and work and memory are bounded. An
 * even one is read as choices that grow a pattern with no doubtful syntax, and then libc's matcher
 * must agree on what it matches. */
#include <regex.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/bytes.h"
#include "svc/rex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a compiled pattern of REX_MAX_STEPS instructions and REX_MAX_GROUPS groups may take. */
#define MEMORY_MAX (8u << 20)

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_spans(const struct rex *r, const struct rex_span *s, size_t len)
{
    for (unsigned i = 0; i <= rex_groups(r); i++) {
        check((s[i].begin == REX_NONE) == (s[i].end == REX_NONE));
        check(s[i].begin == REX_NONE || (s[i].begin <= s[i].end && s[i].end <= len));
    }
    check(s[0].begin != REX_NONE);
}

static void any_pattern(const char *p, size_t size)
{
    const char *zero = memchr(p, 0, size);
    size_t npattern = zero ? (size_t)(zero - p) : size;
    const char *text = zero ? zero + 1 : p + size;
    size_t len = size - npattern - (zero != NULL);
    struct rex_span s[REX_MAX_GROUPS + 1];
    struct rex *r;
    if (rex_new(p, npattern, &r))
        return;
    check(rex_groups(r) <= REX_MAX_GROUPS && rex_memory(r) <= MEMORY_MAX);
    bool whole = rex_match(r, text, len, s);
    if (whole) {
        check_spans(r, s, len);
        check(s[0].begin == 0 && s[0].end == len);
    }
    for (size_t from = 0; from <= len && rex_search(r, text, len, from, s);) {
        check_spans(r, s, len);
        check(s[0].begin >= from && (!whole || from != 0 || s[0].begin == 0));
        from = s[0].end > from ? s[0].end : from + 1;
    }
    uint64_t left = 500;
    rex_draw_on(r, &left);
    for (unsigned i = 0; i < 4; i++)
        rex_match(r, text, len, NULL);
    check(left <= 500);
    rex_free(r);
}

/* ---- patterns that two matchers understand alike ---- */

struct grown {
    struct bytes_cur in;
    char text[256];
    size_t n;
    unsigned depth;
};

static unsigned pick(struct grown *g, unsigned n)
{
    uint8_t b = 0;
    bytes_get_u8(&g->in, &b);
    return b % n;
}

static void put(struct grown *g, const char *s)
{
    for (; *s && g->n < sizeof(g->text) - 1; s++)
        g->text[g->n++] = *s;
    g->text[g->n] = '\0';
}

static void grow(struct grown *g)
{
    static const char *const atoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "[a-b]", "ca"};
    static const char *const counts[] = {"", "", "*", "+", "?", "{2}", "{1,2}", "{0,3}", "{1,}"};
    g->depth++;
    for (unsigned alternatives = 1 + pick(g, 3), i = 0; i < alternatives; i++) {
        if (i > 0)
            put(g, "|");
        for (unsigned factors = 1 + pick(g, 3); factors; factors--) {
            if (g->depth < 4 && pick(g, 4) == 0) {
                put(g, "(");
                grow(g);
                put(g, ")");
            } else {
                put(g, atoms[pick(g, 8)]);
            }
            const char *count = counts[pick(g, 9)];
            /* Counted groups in counted groups take libc very long. */
            put(g, g->depth > 1 && count[0] == '{' ? "*" : count);
        }
    }
    g->depth--;
}

static void both(const struct grown *g, const char *text)
{
    char anchored[300] = "^(";
    struct rex *r;
    regex_t posix;
    if (g->n == sizeof(g->text) - 1)
        return; /* it is cut off */
    strcat(strcat(anchored, g->text), ")$");
    if (rex_new(g->text, g->n, &r))
        return; /* too large */
    if (regcomp(&posix, anchored, REG_EXTENDED | REG_NOSUB) == 0) {
        check(rex_match(r, text, strlen(text), NULL) == (regexec(&posix, text, 0, NULL, 0) == 0));
        regfree(&posix);
    }
    rex_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 1) {
        any_pattern((const char *)data + 1, size - 1);
        return 0;
    }
    struct grown g = {.in = bytes_cur(bytes_view(data + 1, size - 1))};
    grow(&g);
    for (unsigned n = 0; n < 4; n++) {
        char text[12] = "";
        unsigned len = pick(&g, sizeof(text));
        for (unsigned i = 0; i < len; i++)
            text[i] = "abc"[pick(&g, 3)];
        both(&g, text);
    }
    return 0;
}
