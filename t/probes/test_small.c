/* SPDX-License-Identifier: Apache-2.0 */
/* The small modules: ptext, u64set, tracefs, ftstats, ksyms, printk_formats, system calls.
 * probes.md R32, R51, R89, R93, R119 - R122, R129, R131, R143, T33 - T37, T61, T68. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"
#include "probes/ftrace/ftstats.h"
#include "probes/ftrace/ksyms.h"
#include "probes/ftrace/sctab.h"
#include "probes/ftrace/wmark.h"
#include "probes/procfs.h"
#include "probes/u64set.h"

static struct ptext text(const char *s)
{
    return ptext_of(s, strlen(s));
}

Test(ptext, numbers)
{
    uint64_t u = 7;
    int64_t i = 7;
    cr_assert(ptext_u64(text("  42x"), &u) && u == 42);
    cr_assert_not(ptext_u64(text(""), &u));
    cr_assert_not(ptext_u64(text("-1"), &u));
    cr_assert_eq(u, 42, "a failure writes nothing");
    cr_assert(ptext_u64(text("99999999999999999999999"), &u) && u == UINT64_MAX);
    cr_assert(ptext_u64(text("18446744073709551615"), &u) && u == UINT64_MAX);
    cr_assert(ptext_i64(text("-17"), &i) && i == -17);
    cr_assert(ptext_i64(text("-9223372036854775808"), &i) && i == INT64_MIN);
    cr_assert(ptext_i64(text("99999999999999999999"), &i) && i == INT64_MAX);
    cr_assert_not(ptext_i64(text("- 1"), &i));
    cr_assert(ptext_hex(text("0xfF "), &u) && u == 255);
    cr_assert(ptext_hex(text("ffffffff8100001c"), &u) && u == 0xffffffff8100001cULL);
    cr_assert_not(ptext_hex(text("0x"), &u));
    cr_assert_not(ptext_hex(text("12345678901234567"), &u));
}

Test(ptext, cutting)
{
    struct ptext t = text("a b\n\n  c"), line, w;
    cr_assert(ptext_line(&t, &line) && ptext_eq(line, "a b"));
    cr_assert(ptext_word(&line, &w) && ptext_eq(w, "a"));
    cr_assert(ptext_word(&line, &w) && ptext_eq(w, "b"));
    cr_assert_not(ptext_word(&line, &w));
    cr_assert(ptext_line(&t, &line) && ptext_len(line) == 0);
    cr_assert(ptext_line(&t, &line) && ptext_eq(ptext_trim(line), "c"));
    cr_assert_not(ptext_line(&t, &line));
}

Test(u64set, behaves_like_a_set)
{
    struct u64set s = {0};
    uint64_t keys[512];
    bool have[512] = {false};
    uint32_t seed = 1, n = 0;
    for (unsigned k = 0; k < 512; k++) /* so that many want the same slots */
        keys[k] = (uint64_t)k * k * k * 0x10001ULL;
    for (unsigned i = 0; i < 200000; i++) {
        seed = seed * 1664525 + 1013904223;
        unsigned k = (seed >> 10) % 512;
        uint64_t key = keys[k];
        cr_assert_eq(u64set_has(&s, key), have[k]);
        if (seed >> 31) {
            u64set_remove(&s, key);
            n -= have[k];
            have[k] = false;
        } else {
            bool fresh;
            uint32_t index;
            u64set_add(&s, key, &index, &fresh);
            cr_assert_eq(fresh, !have[k]);
            cr_assert_eq(s.keys[index], key);
            n += !have[k];
            have[k] = true;
        }
        cr_assert_eq(s.n, n);
    }
    u64set_sort(&s);
    for (uint32_t i = 1; i < s.n; i++)
        cr_assert_lt(s.keys[i - 1], s.keys[i]);
    for (unsigned k = 0; k < 512; k++)
        cr_assert_eq(u64set_has(&s, keys[k]), have[k]);
    u64set_clear(&s);
    cr_assert_eq(s.n, 0);
    cr_assert_not(u64set_has(&s, 0));
    u64set_fini(&s);
}

Test(procfs, bounded_reads_and_suffixes)
{
    struct fake_dir d;
    struct procfs_buf b = {0};
    uint64_t v;
    fake_dir_init(&d);
    char *big = malloc(100001);
    memset(big, 'x', 100000);
    big[100000] = '\0';
    fake_put(&d, "big", big);
    cr_assert_eq(procfs_read(d.fd, "big", 65535, &b), 0);
    cr_assert_eq(b.len, 65535);
    cr_assert_eq(procfs_read(d.fd, "big", 1 << 20, &b), 0);
    cr_assert_eq(b.len, 100000);
    cr_assert_lt(procfs_read(d.fd, "none", 10, &b), 0);
    cr_assert_eq(b.len, 0);
    cr_assert_lt(procfs_read(d.fd, ".", 10, &b), 0, "a directory is no text");
    fake_put(&d, "n", "12\n");
    cr_assert(procfs_read_u64(d.fd, "n", &v) && v == 12);
    cr_assert_not(procfs_read_u64(d.fd, "none", &v));
    cr_assert_eq(procfs_suffix("cpu12", "cpu"), 12);
    cr_assert_eq(procfs_suffix("cpufreq", "cpu"), -1);
    cr_assert_eq(procfs_suffix("cpu", "cpu"), -1);
    free(big);
    procfs_buf_fini(&b);
    fake_dir_fini(&d);
}

Test(tracefs, t33_cpu_lists)
{
    static const struct {
        const char *list;
        bool ok;
        const char *cpus;
    } cases[] = {
        {"1,a,3", false, ""},      {"", true, "000000"},        {"\n", true, "000000"},
        {"1,3\n", true, "010100"}, {"0-2,4-5", true, "111011"}, {"0,2-3,5", true, "101101"},
        {"-3", false, ""},         {"1-", false, ""},           {"4-99999999999", true, "000011"},
        {"1-2-3", false, ""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool cpus[6];
        cr_expect_eq(tracefs_cpu_list(text(cases[i].list), cpus, 6), cases[i].ok, "%s",
                     cases[i].list);
        for (unsigned c = 0; cases[i].ok && c < 6; c++)
            cr_expect_eq(cpus[c], cases[i].cpus[c] == '1', "%s, CPU %u", cases[i].list, c);
    }
}

Test(tracefs, t34_clearing)
{
    struct fake_tracefs t;
    bool offline[4] = {false, true, false, true};
    fake_tracefs_init(&t);
    for (unsigned c = 0; c < 4; c++) {
        char path[64];
        snprintf(path, sizeof path, "per_cpu/cpu%u/trace", c);
        fake_put(&t.dir, path, "");
    }
    struct tracefs fs = fake_tracefs_open(&t);
    tracefs_clear_cpus(&fs, 4, 4, NULL);
    cr_assert_str_eq(t.log, "trace>");
    t.log[0] = '\0';
    tracefs_clear_cpus(&fs, 4, 2, offline);
    cr_assert_str_eq(t.log, "trace> per_cpu/cpu1/trace> per_cpu/cpu3/trace>");
    t.log[0] = '\0';
    tracefs_clear_cpus(&fs, 4, 2, NULL);
    cr_assert_str_eq(
        t.log,
        "trace> per_cpu/cpu0/trace> per_cpu/cpu1/trace> per_cpu/cpu2/trace> per_cpu/cpu3/trace>");
    tracefs_close(&fs);
    fake_tracefs_fini(&t);
}

Test(tracefs, t35_buffer_pages)
{
    static const struct {
        const char *text;
        uint32_t pages;
    } cases[] = {{"4", 1}, {"3", 1},    {"5", 2}, {"8\n", 2}, {"9", 3}, {"7 (expanded: 1408)", 2},
                 {"", 1},  {"\n\n", 1}, {"x", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect_eq(tracefs_parse_buffer_pages(text(cases[i].text), 4), cases[i].pages, "%s",
                     cases[i].text);
}

Test(tracefs, t30_instances)
{
    struct fake_tracefs t;
    struct tracefs sub;
    fake_tracefs_init(&t);
    fake_put(&t.dir, "instances/test/trace", "");
    fake_put(&t.dir, "hyp/trace", "");
    struct tracefs fs = fake_tracefs_open(&t);
    cr_assert_eq(tracefs_open_instance(&fs, &fs, "x"), -2, "ENOENT: it must exist already");
    cr_assert_eq(tracefs_open_instance(&sub, &fs, "test"), 0);
    cr_assert(strstr(sub.root, "/instances/test/"));
    tracefs_close(&sub);
    cr_assert_eq(tracefs_open_instance(&sub, &fs, "hyp"), 0);
    tracefs_close(&sub);
    cr_assert_lt(tracefs_open_instance(&sub, &fs, "test/test"), 0);
    cr_assert_lt(tracefs_open_instance(&sub, &fs, ".."), 0);
    tracefs_close(&fs);
    fake_tracefs_fini(&t);
}

Test(tracefs, r143_hard_reset)
{
    struct fake_tracefs t;
    fake_tracefs_init(&t);
    struct tracefs fs = fake_tracefs_open(&t);
    cr_assert_eq(tracefs_hard_reset_root(&fs), 0, "events/raw_syscalls/filter may be missing");
    cr_assert_str_eq(t.log,
                     "tracing_on=0 buffer_size_kb=4 events/enable=0 events/raw_syscalls/filter=0 "
                     "current_tracer=nop trace>");
    t.refuse = "buffer_size_kb";
    cr_assert_lt(tracefs_hard_reset_root(&fs), 0);
    tracefs_close(&fs);
    fake_tracefs_fini(&t);
}

Test(ftstats, t36_cpu_text)
{
    struct ftstats_cpu c;
    ftstats_parse_cpu(text("entries: 5\noverrun: 6\ncommit overrun: 7\nbytes: 4294967300\n"
                           "oldest event ts:     5123.000\nnow ts:  6123.123\ndropped events "
                           "\t:7\nread events: 9\n"),
                      &c);
    cr_expect_eq(c.entries, 5);
    cr_expect_eq(c.overrun, 6);
    cr_expect_eq(c.commit_overrun, 7);
    cr_expect_eq(c.bytes_read, 4, "cut to 32 bits (R129)");
    cr_expect_float_eq(c.oldest_event_ts, 5123.0, 1e-9);
    cr_expect_float_eq(c.now_ts, 6123.123, 1e-9);
    cr_expect_eq(c.dropped_events, 7);
    cr_expect_eq(c.read_events, 9);
}

Test(ftstats, t37_kprobe_profile)
{
    int64_t h = 0, m = 0;
    cr_assert(ftstats_parse_kprobes(text(""), &h, &m));
    cr_assert(ftstats_parse_kprobes(text("\n\n"), &h, &m));
    cr_assert_eq(h + m, 0);
    cr_assert(ftstats_parse_kprobes(text("  a   1  8\nb 2 9\nc 3 10\n\nd 4    11\n"), &h, &m));
    cr_assert_eq(h, 10);
    cr_assert_eq(m, 38);
    h = m = 0;
    cr_assert_not(ftstats_parse_kprobes(text("a 1 8\nb 2\n"), &h, &m));
    cr_assert_eq(h + m, 0);
}

Test(printk, t61)
{
    struct events ev = {0};
    events_set_printk(&ev, text("0x0 : \"zero\"\n0xffffffff92349439 : \"say \\\"hi\\\" : twice\"\n"
                                "0xffffffff92349439 : \"second\"\n0x1 : \"\"\ngarbage\n0x : \"x\"\n"
                                "0x2 : No quotes\n0x3:\"No gap\"\n"));
    cr_expect_str_eq(events_printk(&ev, 0xffffffff92349439ULL), "say \\\"hi\\\" : twice");
    cr_expect_str_eq(events_printk(&ev, 0), "");
    cr_expect_str_eq(events_printk(&ev, 1), "");
    cr_expect_str_eq(events_printk(&ev, 2), "No quotes");
    cr_expect_str_eq(events_printk(&ev, 3), "No gap");
    cr_expect_eq(ev.n_printk, 3);
    events_fini(&ev);
}

static const char kallsyms[] =
    "ffffffff8fa73000 t one\nffffffff8fa73100 T two.cfi\nffffffff8fa73200 t three.cfi_jt\n"
    "ffffffff8fa73300 D data\nffffffff8fa73400 T $x.1\nffffffff8fa73500 t mod_fn\t[module]\n"
    "0000000000000000 T zero\nffffffff8fa73500 T same_address\nffffffff8fa73600 x other\n";

Test(ksyms, t68_lookup)
{
    struct fake_dir d;
    struct ksyms k = {0};
    char longname[300];
    fake_dir_init(&d);
    fake_put(&d, "proc/kallsyms", kallsyms);
    cr_assert_eq(ksyms_load(&k, d.fd), 0);
    cr_expect_eq(k.n, 4);
    cr_expect_str_eq(ksyms_lookup(&k, 0xffffffff8fa73000ULL), "one");
    cr_expect_str_eq(ksyms_lookup(&k, 0xffffffff8fa730ffULL), "one");
    cr_expect_str_eq(ksyms_lookup(&k, 0xffffffff8fa73100ULL), "two");
    cr_expect_str_eq(ksyms_lookup(&k, 0xffffffff8fa73210ULL), "three");
    cr_expect_str_eq(ksyms_lookup(&k, 0xffffffff8fa73501ULL), "mod_fn");
    cr_expect_str_eq(ksyms_lookup(&k, 0xffffffff8fa73500ULL + (1 << 20)), "mod_fn");
    cr_expect_null(ksyms_lookup(&k, 0xffffffff8fa73501ULL + (1 << 20)), "R120");
    cr_expect_null(ksyms_lookup(&k, 0xffffffff8fa72fffULL));
    cr_expect_null(ksyms_lookup(&k, 5));
    memset(longname, 'n', sizeof longname);
    memcpy(longname, "ffffffff90000000 t ", 19);
    cr_assert(ksyms_line(&k, longname, sizeof longname));
    ksyms_sort(&k);
    cr_expect_eq(strlen(ksyms_lookup(&k, 0xffffffff90000000ULL)), 128);
    cr_expect_not(ksyms_line(&k, "zz t bad", 8), "R119: ends parsing");
    ksyms_fini(&k);
    fake_dir_fini(&d);
}

Test(ksyms, r122_hidden_addresses)
{
    struct fake_dir d;
    struct ksyms k = {0};
    fake_dir_init(&d);
    fake_put(&d, "proc/kallsyms", "0000000000000000 t one\n0000000000000000 T two\n");
    fake_put(&d, "proc/sys/kernel/kptr_restrict", "2\n");
    cr_assert_eq(ksyms_load(&k, d.fd), 0);
    cr_assert_eq(k.n, 0);
    cr_assert_str_eq(fake_get(&d, "proc/sys/kernel/kptr_restrict"), "2\n", "put back");
    ksyms_fini(&k);
    fake_rm(&d, "proc/kallsyms");
    cr_assert_lt(ksyms_load(&k, d.fd), 0);
    fake_dir_fini(&d);
}

Test(ksyms, a_table_larger_than_the_window)
{
    struct fake_dir d;
    struct ksyms k = {0};
    const unsigned n = 20000;
    char *all = malloc(n * 40 + 1), name[32];
    size_t at = 0;
    for (unsigned i = 0; i < n; i++)
        at += (size_t)sprintf(all + at, "ffffffff%08x t symbol_%u\n", 0x80000000U + i * 64, i);
    fake_dir_init(&d);
    fake_put(&d, "proc/kallsyms", all);
    cr_assert_eq(ksyms_load(&k, d.fd), 0);
    cr_assert_eq(k.n, n);
    for (unsigned i = 0; i < n; i += 997) {
        sprintf(name, "symbol_%u", i);
        cr_assert_str_eq(ksyms_lookup(&k, 0xffffffff80000000ULL + i * 64 + 3), name);
    }
    ksyms_fini(&k);
    free(all);
    fake_dir_fini(&d);
}

Test(sctab, r108)
{
    cr_assert_geq(sctab_find("sys_read"), 0);
    cr_assert_eq(sctab_find("read"), -1);
    cr_assert_eq(sctab_find("sys_no_such_call"), -1);
#ifdef __x86_64__
    cr_assert_eq(sctab_find("sys_read"), 0);
    cr_assert_eq(sctab_find("sys_pwritev2"), 328);
    cr_assert(sctab_returns_fd(257));
    cr_assert_not(sctab_returns_fd(0));
#endif
}

Test(evenc, r89_device_ids)
{
    cr_assert_eq(evenc_dev(8ULL << 20 | 1), 2049);
    cr_assert_eq(evenc_dev(259ULL << 20 | 0x123), 1114915);
    cr_assert_eq(evenc_dev(271581216), 66336);
    cr_assert_eq(evenc_dev(4442450946ULL), 17594983681026ULL);
}

Test(wmark, t32_kernels)
{
    static const char *const good[] = {
        "6.9.13",  "6.9.0", "6.9.25-android14-11", "6.1.87-android14-4", "6.6.27-android15-8",
        "6.18.44", "7.0"};
    static const char *const bad[] = {"5.15.200",
                                      "6.1.80-android14-4",
                                      "6.6.26-android15-8",
                                      "6.1.87-android13-4",
                                      "6.1.87",
                                      "6.8.1",
                                      "",
                                      "linux"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        cr_expect(wmark_kernel_ok(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_expect_not(wmark_kernel_ok(bad[i]), "%s", bad[i]);
}
