/* SPDX-License-Identifier: Apache-2.0 */
/* svc/rex: syntax, preference, captures, limits (service.md R67, R148, R152). */
#include <criterion/criterion.h>

#include <string.h>

#include "reactor/err.h"
#include "svc/rex.h"

static struct rex *compile(const char *pattern)
{
    struct rex *r = NULL;
    cr_assert_eq(rex_new(pattern, strlen(pattern), &r), 0, "%s does not compile", pattern);
    return r;
}

Test(rex, whole_matches)
{
    static const struct {
        const char *pattern, *text;
        bool match;
    } cases[] = {
        {"mock_produc[e-r]+", "mock_producer", true}, /* T103 */
        {".*_producer_[2]", "x_producer_2", true},    /* T41 */
        {".*_producer_[2]", "x_producer_1", false},
        {"abc", "abcd", false},
        {"abc", "xabc", false},
        {"a|b|cd", "cd", true},
        {"a|b|cd", "ab", false},
        {"x{3}", "xxx", true},
        {"x{3}", "xx", false},
        {"x{0,2}y", "xxy", true},
        {"x{0,2}y", "xxxy", false},
        {"x{2,}y", "xxxxy", true},
        {"x{2,}y", "xy", false},
        {"(?:ab){2}c?", "ababc", true},
        {"^a$", "a", true},
        {"a^b", "ab", false},
        {"[^a-c]+", "xyz", true},
        {"[^a-c]+", "xaz", false},
        {"[\\d_]+", "1_2", true},
        {"[]a]", "]", true},
        {"[a\\-z]+", "a-z", true},
        {"\\w+\\s\\d+", "ab_1 22", true},
        {"\\D\\W\\S", "a b", true},
        {"\\x41\\.\\|", "A.|", true},
        {"a\\b.", "a ", true},
        {"a\\b.", "ab", false},
        {"a\\Bb", "ab", true},
        {"", "", true},
        {"", "a", false},
        {"(?:a*)*", "aaa", true},
        {"((a*)*)*b", "aaab", true},
        {"(?:a|b?)*c", "abac", true},
        {"a{,2}", "a{,2}", true}, /* no bounds: literal */
        {"a.c", "a\nc", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rex *r = compile(cases[i].pattern);
        cr_expect_eq(rex_match(r, cases[i].text, strlen(cases[i].text), NULL), cases[i].match,
                     "%s on %s", cases[i].pattern, cases[i].text);
        rex_free(r);
    }
}

static void captures(const char *pattern, const char *text, const char *want)
{
    struct rex *r = compile(pattern);
    struct rex_span spans[REX_MAX_GROUPS + 1];
    char got[256] = "";
    cr_assert(rex_match(r, text, strlen(text), spans), "%s on %s", pattern, text);
    for (unsigned g = 1; g <= rex_groups(r); g++) {
        if (spans[g].begin == REX_NONE)
            strcat(got, "-");
        else
            strncat(got, text + spans[g].begin, spans[g].end - spans[g].begin);
        strcat(got, ",");
    }
    cr_expect_str_eq(got, want, "%s on %s: %s", pattern, text, got);
    rex_free(r);
}

Test(rex, captures_follow_preference)
{
    captures("(a+)(b{2,3})", "aabb", "aa,bb,");
    captures("(a|ab)(c|bcd)", "abcd", "a,bcd,");
    captures("(a?"
             "?)(a*)",
             "aa", ",aa,"); /* cut: no trigraph */
    captures("(a*?)(a*)", "aa", ",aa,");
    captures("(x|y|z){2}w", "yzw", "z,");
    captures("(a)|(b)", "b", "-,b,");
    captures("((a)(b))c", "abc", "ab,a,b,");
    captures("B\\|\\d+\\|foo (.*)", "B|1234|foo 1234 bar", "1234 bar,"); /* R150 */
    captures("(a|b)*c", "abac", "a,");
}

Test(rex, search_finds_the_leftmost)
{
    struct rex *r = compile("x:(\\d+)|y:(\\d+)");
    const char *text = "x:a x:12 y:3";
    struct rex_span s[3];
    cr_assert(rex_search(r, text, strlen(text), 0, s));
    cr_expect_eq(s[0].begin, 4);
    cr_expect_eq(s[0].end, 8);
    cr_expect_eq(s[2].begin, REX_NONE);
    cr_assert(rex_search(r, text, strlen(text), s[0].end, s));
    cr_expect_eq(s[2].begin, 11);
    cr_expect_not(rex_search(r, text, strlen(text), s[0].end, s));
    cr_expect_not(rex_search(r, text, strlen(text), 100, s));
    rex_free(r);
}

Test(rex, bytes_above_ascii_and_nul)
{
    struct rex *r = compile("a.b");
    cr_expect(rex_match(r,
                        "a\xff"
                        "b",
                        3, NULL));
    cr_expect(rex_match(r, "a\0b", 3, NULL));
    rex_free(r);
}

Test(rex, invalid_patterns_are_refused)
{
    static const char *const bad[] = {
        "(",     "a)",    "[a",   "*a",  "a{9999}", "(((a{50}){50}){50})", "\\1", "(?=a)",
        "(?!a)", "[z-a]", "\\x4", "\\q", "a{3,2}",  "[[:alpha:]]",         "\\"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct rex *r = NULL;
        cr_expect_eq(rex_new(bad[i], strlen(bad[i]), &r), ERR_BAD_CONFIG, "%s", bad[i]);
        rex_free(r);
    }
}

Test(rex, nesting_and_groups_are_bounded)
{
    char deep[2001];
    struct rex *r = NULL;
    memset(deep, '(', 1000);
    memset(deep + 1000, ')', 1000);
    cr_expect_eq(rex_new(deep, 2000, &r), ERR_BAD_CONFIG);
    char many[3 * 40 + 1] = "";
    for (int i = 0; i < 40; i++)
        strcat(many, "(a)");
    cr_expect_eq(rex_new(many, strlen(many), &r), ERR_BAD_CONFIG);
}

/* A match may be left and gone on with anywhere. */
Test(rex, steps)
{
    static const char *const patterns[] = {"a(b*)c", "(a|ab)(c|bcd)(d*)", "x", ".*(c)", "\\bd?"};
    static const char *const texts[] = {"abbbbbc", "abcd", "", "aaac", "no match here"};
    for (size_t i = 0; i < 25; i++) {
        const char *text = texts[i % 5];
        struct rex *r = compile(patterns[i / 5]);
        struct rex_span want[REX_MAX_GROUPS + 1], got[REX_MAX_GROUPS + 1];
        for (int whole = 0; whole < 2; whole++) {
            bool yes = whole ? rex_match(r, text, strlen(text), want)
                             : rex_search(r, text, strlen(text), 0, want);
            enum rex_result result;
            uint64_t steps = 0, work;
            rex_start(r, text, strlen(text), 0, whole);
            do
                work = 1, steps++;
            while ((result = rex_step(r, &work, got)) == REX_MORE);
            cr_expect_eq(result == REX_YES, yes, "%s in %s", patterns[i / 5], text);
            cr_expect(!yes || steps >= want[0].end, "a byte a step at most");
            for (unsigned g = 0; yes && g <= rex_groups(r); g++) {
                cr_expect_eq(got[g].begin, want[g].begin);
                cr_expect_eq(got[g].end, want[g].end);
            }
        }
        rex_free(r);
    }
}

/* A pattern that makes backtracking matchers take exponential time. */
Test(rex, time_is_linear, .timeout = 5)
{
    char text[30001];
    memset(text, 'a', 30000);
    struct rex *r = compile("(a*)*(a|aa)+(a?){20}b");
    cr_expect_not(rex_match(r, text, 30000, NULL));
    rex_free(r);
}

/* A name of the length that a producer may have, against the largest pattern: the answer is no
 * before it takes long. */
Test(rex, work_is_limited)
{
    static char text[30000];
    uint64_t left = 9000;
    memset(text, 'a', sizeof(text));
    struct rex *r = compile("(a|aa|aaa|aaaa)*a{0,1000}");
    cr_expect(rex_match(r, text, 50, NULL));
    cr_expect_not(rex_match(r, text, sizeof(text), NULL), "it matches, but not in time");
    rex_draw_on(r, &left);
    cr_expect(rex_match(r, text, 1, NULL));
    cr_expect(left > 0 && left < 9000, "%llu", (unsigned long long)left);
    cr_expect_not(rex_match(r, text, 50, NULL));
    cr_expect_eq(left, 0);
    cr_expect_not(rex_match(r, text, 1, NULL));
    cr_expect_gt(rex_memory(r), 1000 * 8);
    rex_free(r);
}
