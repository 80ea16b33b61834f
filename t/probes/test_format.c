/* SPDX-License-Identifier: Apache-2.0 */
/* Format files: grammar, field names, type inference. probes.md R73 - R75, 4.11, T62 - T64. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"
#include "probes/ftrace/format.h"

static int parse(const char *text, struct format *f)
{
    return format_parse(text, strlen(text), f);
}

#define COMMON "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n"

Test(format, r73_reads_a_kernel_file)
{
    struct format f;
    size_t n;
    char *text = fake_data("ftrace/x86_64-6.18/events/sched/sched_switch/format", &n);
    cr_assert_eq(format_parse(text, n, &f), 0);
    cr_assert_str_eq(f.name, "sched_switch");
    cr_assert_eq(f.n_fields, 11);
    const struct format_field *x = format_find(&f, "prev_state");
    cr_assert_not_null(x);
    cr_assert_eq(x->offset, 32);
    cr_assert_eq(x->kind, FORMAT_SINT);
    cr_assert_eq(x->width, 8);
    cr_assert_eq(format_find(&f, "next_pid")->kind, FORMAT_PID);
    cr_assert_eq(format_find(&f, "common_pid")->kind, FORMAT_COMMON_PID);
    cr_assert(format_find(&f, "common_flags")->is_common);
    cr_assert_eq(format_find(&f, "next_comm")->kind, FORMAT_FIXED_STR);
    cr_assert_null(format_find(&f, "nope"));
    format_fini(&f);
    free(text);
}

Test(format, r73_head_lines_come_in_either_order)
{
    struct format f;
    cr_assert_eq(parse("ID: 7\n\nname: foo\nformat:\n" COMMON, &f), 0);
    cr_assert_eq(f.id, 7);
    cr_assert_str_eq(f.name, "foo");
    format_fini(&f);
}

Test(format, t62_what_is_missing_makes_it_invalid)
{
    struct format f;
    cr_assert_neq(parse("ID: 7\nformat:\n" COMMON, &f), 0, "no name");
    cr_assert_neq(parse("name: foo\nformat:\n" COMMON, &f), 0, "no id");
    cr_assert_neq(parse("name: foo\nID: 7\n", &f), 0, "no field list");
    cr_assert_neq(
        parse("name: foo\nID: 7\nformat:\n\tfield:int x;\toffset:8;\tsize:4;\tsigned:1;\n", &f), 0,
        "no common field");
    cr_assert_neq(parse("name: foo\nwhat\nID: 7\nformat:\n" COMMON, &f), 0,
                  "unknown line in the head");
    cr_assert_neq(parse("", &f), 0);
    cr_assert_eq(parse("name: foo\nID: 7\nformat:\n" COMMON, &f), 0,
                 "common fields alone are enough");
    format_fini(&f);
}

Test(format, r73_unknown_line_in_the_body_ends_the_list)
{
    struct format f;
    cr_assert_eq(parse("name: foo\nID: 7\nformat:\n" COMMON
                       "oops\n\tfield:int x;\toffset:8;\tsize:4;\tsigned:1;\n",
                       &f),
                 0);
    cr_assert_eq(f.n_fields, 1);
    format_fini(&f);
}

Test(format, t62_no_truncation_or_mutilation_crashes)
{
    size_t n;
    char *text = fake_data("ftrace/x86_64-6.18/events/block/block_rq_issue/format", &n);
    for (size_t cut = 0; cut <= n; cut++) {
        struct format f;
        char *copy =
            malloc(cut ? cut : 1); /* exactly as long, so that a sanitizer sees an overrun */
        memcpy(copy, text, cut);
        if (format_parse(copy, cut, &f) == 0)
            format_fini(&f);
        free(copy);
    }
    uint32_t seed = 12345;
    for (unsigned round = 0; round < 3000; round++) {
        struct format f;
        char *copy = malloc(n);
        memcpy(copy, text, n);
        for (unsigned k = 0; k < 4; k++) {
            seed = seed * 1664525 + 1013904223;
            copy[(seed >> 8) % n] = (char)(seed >> 3);
        }
        if (format_parse(copy, n, &f) == 0)
            format_fini(&f);
        free(copy);
    }
    free(text);
}

Test(format, huge_files_are_bounded)
{
    size_t cap = 64 * (FORMAT_FIELDS_MAX + 2), n;
    char *text = malloc(cap);
    struct format f;
    n = (size_t)sprintf(text, "name: foo\nID: 7\nformat:\n");
    for (unsigned i = 0; i <= FORMAT_FIELDS_MAX; i++)
        n +=
            (size_t)sprintf(text + n, "\tfield:int common_%u;\toffset:0;\tsize:4;\tsigned:1;\n", i);
    cr_assert_lt(format_parse(text, n, &f), 0);
    free(text);
}

Test(format, t63_field_names)
{
    static const char *const cases[][2] = {
        {"int foo", "foo"},
        {"const char * foo", "foo"},
        {"const char foo[64]", "foo"},
        {"char[] foo[16]", "foo"},
        {"u8 foo[(int)sizeof(struct blah)]", "foo"},
        {"", ""},
        {"]", ""},
        {"[", ""},
        {" ", ""},
        {" []", ""},
        {" ][", ""},
        {"char", ""},
        {"char *", ""},
        {"char 42", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[FORMAT_DECL_MAX + 1] = "unset";
        format_field_name(cases[i][0], name);
        cr_expect_str_eq(name, cases[i][1], "\"%s\" gave \"%s\"", cases[i][0], name);
    }
}

Test(format, t64_types)
{
    static const struct {
        const char *decl;
        unsigned size;
        bool is_signed;
        enum format_kind kind;
        uint8_t width;
    } cases[] = {
        {"char comm[TASK_COMM_LEN]", 16, false, FORMAT_FIXED_STR, 0},
        {"unsigned char x[6]", 6, false, FORMAT_FIXED_STR, 0},
        {"char 2invalid[16]", 16, false, FORMAT_NONE, 0},
        {"foo", 64, false, FORMAT_NONE, 0},
        {"u8 x[6]", 6, false, FORMAT_NONE, 0},
        {"char foo", 1, true, FORMAT_SINT, 1},
        {"char buf", 0, false, FORMAT_STR_END, 0},
        {"char buf[]", 0, false, FORMAT_STR_END, 0},
        {"__data_loc char[] name", 4, false, FORMAT_DATALOC_STR, 0},
        {"__data_loc char[] name", 8, false, FORMAT_NONE, 0},
        {"__data_loc u8[] d", 4, false, FORMAT_DATALOC_BYTES, 0},
        {"__data_loc unsigned char[] d", 4, false, FORMAT_DATALOC_BYTES, 0},
        {"__rel_loc char[] x", 4, false, FORMAT_STR_PTR, 4},
        {"unsigned long args[6]", 24, false, FORMAT_UINT, 4},
        {"unsigned long args[6]", 48, false, FORMAT_UINT, 8},
        {"unsigned long args[6]", 96, false, FORMAT_NONE, 0},
        {"const char * action", 8, false, FORMAT_STR_PTR, 8},
        {"void * function", 8, false, FORMAT_SYMADDR, 8},
        {"void* function", 4, false, FORMAT_SYMADDR, 4},
        {"bool x", 1, false, FORMAT_BOOL, 1},
        {"ino_t ino", 8, false, FORMAT_INODE, 8},
        {"dev_t dev", 4, false, FORMAT_DEV, 4},
        {"pid_t pid", 4, true, FORMAT_PID, 4},
        {"int common_pid", 4, true, FORMAT_COMMON_PID, 4},
        {"int pid", 4, true, FORMAT_SINT, 4},
        {"u32 x", 4, false, FORMAT_UINT, 4},
        {"unsigned short x", 2, false, FORMAT_UINT, 2},
        {"sector_t s", 8, false, FORMAT_UINT, 8},
        {"struct x y", 12, false, FORMAT_NONE, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t width;
        enum format_kind k =
            format_field_kind(cases[i].decl, cases[i].size, cases[i].is_signed, &width);
        cr_expect_eq(k, cases[i].kind, "\"%s\" %u: kind %d", cases[i].decl, cases[i].size, (int)k);
        cr_expect_eq(width, cases[i].width, "\"%s\" %u: width %u", cases[i].decl, cases[i].size,
                     width);
    }
}

Test(format, r64_page_layout)
{
    size_t n;
    unsigned width = 4, page = 1;
    char *text = fake_data("ftrace/x86_64-6.18/events/header_page", &n);
    format_page_layout(text, n, &width, &page);
    cr_assert_eq(width, 8);
    cr_assert_eq(page, 4096);
    const char *narrow = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
                         "\tfield: local_t commit;\toffset:8;\tsize:4;\tsigned:1;\n"
                         "\tfield: char data;\toffset:12;\tsize:8180;\tsigned:0;\n";
    format_page_layout(narrow, strlen(narrow), &width, &page);
    cr_assert_eq(width, 4);
    cr_assert_eq(page, 8192);
    format_page_layout("", 0, &width, &page);
    cr_assert_eq(width, 4, "an empty file keeps what was assumed");
    free(text);
}
