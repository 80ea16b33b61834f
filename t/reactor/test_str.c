/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/str.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(str, copies_and_cuts)
{
    char dst[4];
    cr_assert(str_copy(dst, sizeof(dst), "abc"));
    cr_assert_str_eq(dst, "abc");
    cr_assert_not(str_copy(dst, sizeof(dst), "abcd"));
    cr_assert_str_eq(dst, "abc");
}

Test(str, prefix_suffix_format)
{
    cr_assert(str_starts("linux.ftrace", "linux."));
    cr_assert_not(str_starts("lin", "linux"));
    cr_assert(str_ends("out.pftrace", ".pftrace"));
    cr_assert_not(str_ends("e", "ee"));
    char *s = str_format("%s-%d", "session", 12);
    cr_assert_str_eq(s, "session-12");
    free(s);
}

Test(str, numbers_are_whole_or_nothing)
{
    uint64_t u = 7;
    int64_t i = 7;
    const char *bad[] = {"",
                         " 1",
                         "1 ",
                         "+1",
                         "-1",
                         "1k",
                         "0x10",
                         "18446744073709551616",
                         "99999999999999999999999"};
    for (size_t n = 0; n < sizeof(bad) / sizeof(*bad); n++)
        cr_assert_not(str_to_u64(bad[n], &u), "%s", bad[n]);
    cr_assert_eq(u, 7);
    cr_assert(str_to_u64("18446744073709551615", &u));
    cr_assert_eq(u, UINT64_MAX);
    cr_assert(str_to_i64("-9223372036854775808", &i));
    cr_assert_eq(i, INT64_MIN);
    cr_assert(str_to_i64("9223372036854775807", &i));
    cr_assert_eq(i, INT64_MAX);
    cr_assert_not(str_to_i64("9223372036854775808", &i));
    cr_assert_not(str_to_i64("-9223372036854775809", &i));
    cr_assert_not(str_to_i64("-", &i));
    cr_assert(str_to_u64_base("0660", 8, &u));
    cr_assert_eq(u, 0660);
    cr_assert(str_to_u64_base("Ff", 16, &u));
    cr_assert_eq(u, 255);
    cr_assert_not(str_to_u64_base("0680", 8, &u));
}

Test(str, splits_with_empty_parts)
{
    const char *want[] = {"a", "", "bc", ""};
    const char *part = NULL;
    size_t len = 0;
    size_t n = 0;
    for (const char *it = "a,,bc,"; str_next(&it, ',', &part, &len); n++) {
        cr_assert_eq(len, strlen(want[n]));
        cr_assert_eq(strncmp(part, want[n], len), 0);
    }
    cr_assert_eq(n, 4);
}

Test(str, knows_utf8)
{
    cr_assert_eq(str_utf8_len("\xC3\xA4", 2), 2);
    cr_assert_eq(str_utf8_len("\xE2\x82\xAC", 3), 3);
    cr_assert_eq(str_utf8_len("\xF0\x9F\x98\x80", 4), 4);
    cr_assert_eq(str_utf8_len("\xF4\x8F\xBF\xBF", 4), 4);
    const char *bad[] = {"\x80",
                         "\xC0\x80",
                         "\xC1\xBF",
                         "\xC3",
                         "\xC3(",
                         "\xE0\x9F\xBF",
                         "\xED\xA0\x80",
                         "\xF0\x8F\xBF\xBF",
                         "\xF4\x90\x80\x80",
                         "\xF5\x80\x80\x80",
                         "\xFF"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        cr_assert_eq(str_utf8_len(bad[i], strlen(bad[i])), 0, "case %zu", i);
    cr_assert_eq(str_utf8_len("", 0), 0);
}

static const char *escaped(const char *src, size_t n)
{
    static char out[128];
    size_t len = str_escape(out, sizeof(out), src, n);
    cr_assert_eq(len, strlen(out));
    return out;
}

Test(str, escapes_what_could_forge_a_line)
{
    cr_assert_str_eq(escaped("a\nb\tc\rd\\e", 9), "a\\nb\\tc\\rd\\\\e");
    cr_assert_str_eq(escaped("\x1B[31m\x7F\0", 7), "\\x1b[31m\\x7f\\x00");
    cr_assert_str_eq(escaped("\xC3\xA4\xE2\x82\xAC", 5), "\xC3\xA4\xE2\x82\xAC");
    cr_assert_str_eq(escaped("\xC2\x9B", 2), "\\xc2\\x9b", "C1 controls drive terminals too");
    cr_assert_str_eq(escaped("\xC3", 1), "\\xc3");
}

Test(str, escape_is_cut_at_a_whole_escape)
{
    for (size_t size = 8; size < 40; size++) {
        char out[64];
        memset(out, '#', sizeof(out));
        size_t n = str_escape(out, size,
                              "ab\x01\xC3\xA4\x02"
                              "cd\n\n\n\n",
                              12);
        cr_assert_lt(n, size);
        cr_assert_eq(n, strlen(out));
        for (size_t i = size; i < sizeof(out); i++)
            cr_assert_eq(out[i], '#');
        cr_assert(strcmp(out, "ab\\x01\xC3\xA4\\x02"
                              "cd\\n\\n\\n\\n") == 0 ||
                  str_ends(out, "..."));
        if (str_ends(out, "...")) {
            out[n - 3] = '\0';
            cr_assert_eq(strncmp("ab\\x01\xC3\xA4\\x02"
                                 "cd\\n\\n\\n\\n",
                                 out, n - 3),
                         0);
            cr_assert_eq(strspn(out + (n > 3 ? n - 4 : 0), "\\"), 0, "half an escape at %zu: %s",
                         size, out);
        }
    }
}
