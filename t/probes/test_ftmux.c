/* SPDX-License-Identifier: Apache-2.0 */
/* What the multiplexer writes to tracefs, in which order, and what it puts back. probes.md 4.3
 * - 4.20, T1 - T25. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"
#include "probes/ftrace/ftmux.h"
#include "reactor/log.h"

struct rig {
    struct fake_tracefs t;
    struct ftmux m;
    char why[FTMUX_WHY_MAX];
};

static void quiet(void *arg, enum log_level level, const char *text)
{
    (void)arg, (void)level, (void)text;
}

static void rig_init(struct rig *r)
{
    log_set_sink(quiet, NULL);
    fake_tracefs_init(&r->t);
}

static void rig_ready(struct rig *r)
{
    ftmux_init(&r->m, fake_tracefs_open(&r->t));
}

static void rig_fini(struct rig *r)
{
    ftmux_fini(&r->m);
    fake_tracefs_fini(&r->t);
}

static struct ftcfg cfg_of(char **events, size_t n)
{
    return (struct ftcfg){.events = {events, n}};
}

#define CFG(...) cfg_of((char *[]){__VA_ARGS__}, sizeof((char *[]){__VA_ARGS__}) / sizeof(char *))

static struct ftmux_cfg *setup(struct rig *r, const struct ftcfg *c)
{
    struct ftmux_cfg *out = NULL;
    int rc = ftmux_setup(&r->m, c, false, &out, r->why);
    cr_assert_eq(rc, 0, "%s", r->why);
    return out;
}

static const struct events_event *event(struct rig *r, const char *group, const char *name)
{
    const struct events_event *e = events_find(&r->m.ev, group, name);
    cr_assert_not_null(e, "%s/%s", group, name);
    return e;
}

static bool has(const struct rig *r, const char *entry)
{
    return strstr(r->t.log, entry) != NULL;
}

/* The entries occur in this order. */
static void expect_order(const struct rig *r, const char *const *entries, size_t n)
{
    const char *p = r->t.log;
    for (size_t i = 0; i < n; i++) {
        p = strstr(p, entries[i]);
        cr_assert_not_null(p, "\"%s\" is missing or too early in: %s", entries[i], r->t.log);
        p += strlen(entries[i]);
    }
}

Test(ftmux, t1_t2_t3_buffer_size)
{
    const long gib = 1L << 18; /* in pages of 4 KiB */
    struct ftcfg c = {0};
    cr_expect_eq(ftmux_buffer_pages(&c, -1, 4096), 512);
    cr_expect_eq(ftmux_buffer_pages(&c, gib * 7 / 2, 4096), 512);
    cr_expect_eq(ftmux_buffer_pages(&c, gib * 15 / 2, 4096), 2048);
    c.buffer_size_kb = 4096;
    cr_expect_eq(ftmux_buffer_pages(&c, gib * 15 / 2, 4096), 1024);
    c.buffer_lower_bound = true;
    cr_expect_eq(ftmux_buffer_pages(&c, gib * 15 / 2, 4096), 2048);
    cr_expect_eq(ftmux_buffer_pages(&c, gib * 7 / 2, 4096), 1024);
    c.buffer_size_kb = 16384;
    cr_expect_eq(ftmux_buffer_pages(&c, gib * 15 / 2, 4096), 4096);
    c.buffer_lower_bound = false;
    for (uint32_t kb = 1; kb <= 3; kb++) {
        c.buffer_size_kb = kb;
        cr_expect_eq(ftmux_buffer_pages(&c, gib, 4096), 1);
    }
    c.buffer_size_kb = 42;
    cr_expect_eq(ftmux_buffer_pages(&c, gib, 4096), 10);
    c.buffer_size_kb = 65;
    cr_expect_eq(ftmux_buffer_pages(&c, gib, 4096), 16);
}

Test(ftmux, t10_t11_clock)
{
    static const struct {
        const char *text;
        bool raw;
        const char *choice;
        enum bundle_clock active;
    } cases[] = {
        {"[local] global boot", false, "boot", BUNDLE_CLOCK_LOCAL},
        {"local global [boot]", false, NULL, BUNDLE_CLOCK_BOOT},
        {"[local] global\n", false, "global", BUNDLE_CLOCK_LOCAL},
        {"[local] global boot mono_raw\n\n", true, "mono_raw", BUNDLE_CLOCK_LOCAL},
        {"[local] global boot", true, "boot", BUNDLE_CLOCK_LOCAL},
        {"[global]", false, NULL, BUNDLE_CLOCK_GLOBAL},
        {"local [mono_raw]", false, "local", BUNDLE_CLOCK_MONO_RAW},
        {"[uptime]", false, NULL, BUNDLE_CLOCK_UNKNOWN},
        {"", false, NULL, BUNDLE_CLOCK_UNKNOWN},
        {"\n", false, NULL, BUNDLE_CLOCK_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *choice;
        enum bundle_clock c =
            ftmux_clock(ptext_of(cases[i].text, strlen(cases[i].text)), cases[i].raw, &choice);
        cr_expect_eq(c, cases[i].active, "%s", cases[i].text);
        cr_expect((!choice && !cases[i].choice) ||
                      (choice && cases[i].choice && !strcmp(choice, cases[i].choice)),
                  "%s: %s", cases[i].text, choice ? choice : "-");
    }
}

Test(ftmux, t4_unknown_bare_names_are_ignored)
{
    struct rig r;
    struct ftcfg c = CFG("sched_switch", "foo");
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert_eq(mc->ids.n, 1);
    cr_assert(u64set_has(&mc->ids, event(&r, "sched", "sched_switch")->id));
    cr_assert_eq(r.m.enabled.n, 1);
    cr_assert_eq(mc->unknown.n + mc->failed.n, 0, "R36");
    rig_fini(&r);
}

Test(ftmux, t5_full_cycle)
{
    static const char *const up[] = {"tracing_on=0",    "events/enable=0",
                                     "trace>",          "trace_clock=boot",
                                     "buffer_size_kb=", "events/sched/sched_switch/enable=1"};
    static const char *const down[] = {"events/sched/sched_switch/enable=0",
                                       "tracing_on=0",
                                       "buffer_size_kb=4",
                                       "events/enable=0",
                                       "trace>",
                                       "tracing_on=1"};
    struct rig r;
    struct ftcfg c = CFG("sched/sched_switch");
    c.buffer_size_kb = 1024;
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    expect_order(&r, up, sizeof up / sizeof up[0]);
    cr_assert_str_eq(fake_get(&r.t.dir, "buffer_size_kb"), "1024");
    cr_assert_not(has(&r, "tracing_on=1"), "it does not record before start");
    r.t.log[0] = '\0';
    cr_assert_eq(ftmux_start(&r.m, mc), 0);
    cr_assert_str_eq(r.t.log, "tracing_on=1");
    r.t.log[0] = '\0';
    ftmux_remove(&r.m, mc);
    expect_order(&r, down, sizeof down / sizeof down[0]);
    rig_fini(&r);
}

Test(ftmux, r140_tracing_goes_back_to_off)
{
    struct rig r;
    struct ftcfg c = CFG("sched/sched_switch");
    rig_init(&r);
    fake_put(&r.t.dir, "tracing_on", "0\n");
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    ftmux_start(&r.m, mc);
    ftmux_remove(&r.m, mc);
    cr_assert_str_eq(fake_get(&r.t.dir, "tracing_on"), "0\n", "the digit was overwritten");
    rig_fini(&r);
}

Test(ftmux, t6_somebody_elses_tracer)
{
    struct rig r;
    struct ftcfg c = CFG("sched/sched_switch");
    struct ftmux_cfg *mc = NULL;
    rig_init(&r);
    fake_put(&r.t.dir, "current_tracer", "function\n");
    rig_ready(&r);
    cr_assert_lt(ftmux_setup(&r.m, &c, false, &mc, r.why), 0);
    cr_assert_str_eq(r.t.log, "", "nothing was touched");
    cr_assert(strstr(r.why, "current_tracer"));
    c.preserve_buffer = true;
    setup(&r, &c);
    rig_fini(&r);
}

Test(ftmux, t7_set_event_is_the_second_way)
{
    struct rig r;
    struct ftcfg c = CFG("task/task_rename");
    rig_init(&r);
    r.t.refuse = "events/task/task_rename/enable";
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert(has(&r, "set_event+=task:task_rename"));
    ftmux_remove(&r.m, mc);
    cr_assert(has(&r, "set_event+=!task:task_rename"));
    rig_fini(&r);
}

Test(ftmux, r43_failed_and_unknown_events)
{
    struct rig r;
    struct ftcfg c = CFG("sched/does_not_exist", "foobar/i_just_made_this_up", "task/task_rename");
    rig_init(&r);
    fake_rm(&r.t.dir, "set_event");
    r.t.refuse = "events/task/task_rename/enable";
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert_eq(mc->unknown.n, 2);
    cr_assert_str_eq(mc->unknown.v[0], "foobar/i_just_made_this_up", "ascending (group, name)");
    cr_assert_str_eq(mc->unknown.v[1], "sched/does_not_exist");
    cr_assert_eq(mc->failed.n, 1);
    cr_assert_str_eq(mc->failed.v[0], "task/task_rename");
    rig_fini(&r);
}

Test(ftmux, t8_whole_group)
{
    struct rig r;
    struct ftcfg c = CFG("my/*");
    rig_init(&r);
    fake_tracefs_event(&r.t, "my", "one", 901, "\tfield:int x;\toffset:8;\tsize:4;\tsigned:1;\n");
    fake_tracefs_event(&r.t, "my", "two", 902, "\tfield:int x;\toffset:8;\tsize:4;\tsigned:1;\n");
    fake_put(&r.t.dir, "events/my/enable", "0");
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert_eq(mc->ids.n, 2);
    cr_assert(u64set_has(&mc->ids, 901) && u64set_has(&mc->ids, 902));
    cr_assert_eq(mc->unknown.n, 0, "the group's own files are no events");
    rig_fini(&r);
}

Test(ftmux, t12_preserve)
{
    struct rig r;
    struct ftcfg c = CFG("sched/sched_switch");
    c.preserve_buffer = true;
    rig_init(&r);
    rig_ready(&r);
    setup(&r, &c);
    cr_assert_not(has(&r, "buffer_size_kb"));
    cr_assert_not(has(&r, "trace>"));
    cr_assert_not(has(&r, "tracing_on"));
    cr_assert_not(has(&r, "trace_clock"));
    cr_assert(has(&r, "events/sched/sched_switch/enable=1"));
    cr_assert_eq(r.m.clock, BUNDLE_CLOCK_LOCAL, "the clock that is active");
    rig_fini(&r);
}

Test(ftmux, t13_compact)
{
    static const struct {
        const char *event;
        bool off, broken, expected;
    } cases[] = {{"sched/sched_switch", false, false, true},
                 {"sched/sched_switch", true, false, false},
                 {"sched/sched_waking", false, false, false},
                 {"sched/sched_switch", false, true, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig r;
        struct ftcfg c = CFG((char *)(uintptr_t)cases[i].event);
        c.compact_off = cases[i].off;
        rig_init(&r);
        if (cases[i].broken)
            fake_rm(&r.t.dir, "events/sched/sched_waking/format");
        rig_ready(&r);
        struct ftmux_cfg *mc = setup(&r, &c);
        cr_expect_eq(mc->compact, cases[i].expected, "case %zu", i);
        cr_expect_eq(mc->failed.n, cases[i].broken, "R126");
        rig_fini(&r);
    }
}

Test(ftmux, t14_t15_categories)
{
    struct rig r;
    char *cats[] = {"sched"};
    struct ftcfg c = {.categories = {cats, 1}};
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    uint32_t print = event(&r, "ftrace", "print")->id;
    cr_assert(u64set_has(&mc->ids, print));
    cr_assert_not(u64set_has(&r.m.enabled, print), "R42");
    cr_assert(u64set_has(&mc->ids, event(&r, "sched", "sched_switch")->id));
    cr_assert(u64set_has(&mc->ids, event(&r, "task", "task_rename")->id));
    cr_assert_null(events_find(&r.m.ev, "sched", "sched_wakeup"), "R45");
    cr_assert_eq(mc->unknown.n, 0, "events that this kernel lacks are not asked for");
    ftmux_remove(&r.m, mc);
    c.userspace_only = true;
    mc = setup(&r, &c);
    cr_assert_eq(mc->ids.n, 1);
    rig_fini(&r);
}

Test(ftmux, t16_categories_on_a_secondary_instance)
{
    struct rig r;
    char *cats[] = {"sched"};
    struct ftcfg c = {.categories = {cats, 1}};
    struct ftmux_cfg *mc;
    rig_init(&r);
    rig_ready(&r);
    cr_assert_lt(ftmux_setup(&r.m, &c, true, &mc, r.why), 0);
    cr_assert_str_eq(r.t.log, "");
    rig_fini(&r);
}

#ifdef __x86_64__
Test(ftmux, t18_t19_syscalls)
{
    static const char *const in = "events/raw_syscalls/sys_enter/filter",
                             *const out = "events/raw_syscalls/sys_exit/filter";
    struct rig r;
    char *two[] = {"sys_open", "sys_read", "sys_not_there"}, *one[] = {"sys_read"};
    struct ftcfg some = {.syscalls = {two, 3}}, read_only = {.syscalls = {one, 1}},
                 all = CFG("raw_syscalls/sys_enter");
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *a = setup(&r, &some);
    cr_assert_str_eq(fake_get(&r.t.dir, in), "id == 0 || id == 2", "R109");
    cr_assert_str_eq(fake_get(&r.t.dir, out), "id == 0 || id == 2");
    struct ftmux_cfg *b = setup(&r, &all);
    cr_assert(has(&r, "sys_enter/filter=0"), "R110: everything, for everybody");
    r.t.log[0] = '\0';
    struct ftmux_cfg *c = setup(&r, &read_only);
    cr_assert_not(has(&r, "filter"), "still everything");
    ftmux_remove(&r.m, b);
    cr_assert(has(&r, "sys_enter/filter=id == 0 || id == 2"));
    ftmux_remove(&r.m, a);
    cr_assert(has(&r, "sys_enter/filter=id == 0 events"), "%s", r.t.log);
    ftmux_remove(&r.m, c);
    cr_assert(has(&r, "sys_exit/filter=0"));
    rig_fini(&r);
}
#endif

Test(ftmux, t20_disable_generic_events)
{
    struct rig r;
    struct ftcfg c = CFG("sched/sched_switch", "timer/tick_stop");
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert_eq(mc->ids.n, 2);
    ftmux_remove(&r.m, mc);
    c.no_generic = true;
    mc = setup(&r, &c);
    cr_assert_eq(mc->ids.n, 1);
    cr_assert_eq(mc->failed.n, 1);
    cr_assert_str_eq(mc->failed.v[0], "timer/tick_stop");
    rig_fini(&r);
}

Test(ftmux, t21_function_graph)
{
    static const char *const order[] = {"set_ftrace_filter>",
                                        "set_graph_function>",
                                        "max_graph_depth=0",
                                        "set_ftrace_filter+=sched*\nhandle_mm_fault",
                                        "set_graph_function+=vfs_read\nvfs_write",
                                        "max_graph_depth=5",
                                        "current_tracer=function_graph"};
    struct rig r;
    char *filters[] = {"sched*", "handle_mm_fault"}, *roots[] = {"vfs_read", "vfs_write"},
         *evil[] = {"f:traceoff"};
    struct ftcfg c = {.function_graph = true,
                      .function_filters = {filters, 2},
                      .graph_roots = {roots, 2},
                      .graph_max_depth = 5};
    struct ftmux_cfg *mc, *bad;
    rig_init(&r);
    rig_ready(&r);
    mc = setup(&r, &c);
    expect_order(&r, order, sizeof order / sizeof order[0]);
    cr_assert(u64set_has(&mc->ids, event(&r, "ftrace", "funcgraph_entry")->id), "R37");
    c.function_filters = (struct ftcfg_strs){evil, 1};
    cr_assert_lt(ftmux_setup(&r.m, &c, false, &bad, r.why), 0, "R114");
    r.t.log[0] = '\0';
    ftmux_remove(&r.m, mc);
    cr_assert_not(has(&r, "current_tracer"));
    ftmux_reset_tracer(&r.m);
    cr_assert(has(&r, "current_tracer=nop") && has(&r, "set_ftrace_filter>") &&
              has(&r, "set_graph_function>"));
    rig_fini(&r);
}

Test(ftmux, t22_exclusive_features)
{
    struct rig r;
    uint32_t tids[] = {123, 456};
    struct ftcfg_option opts[] = {{"record-tgid", 1}, {"trace_printk", 2}, {"nothing", 0}};
    struct ftcfg c = {
        .tids = tids, .n_tids = 2, .cpumask = "ffffff", .options = opts, .n_options = 3};
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert(has(&r, "set_event_pid=123 456"));
    cr_assert(has(&r, "options/record-tgid=1") && has(&r, "options/trace_printk=0"));
    cr_assert(has(&r, "tracing_cpumask=ffffff"));
    r.t.log[0] = '\0';
    ftmux_remove(&r.m, mc);
    cr_assert(has(&r, "set_event_pid>") && has(&r, "options/record-tgid=0") &&
              has(&r, "options/trace_printk=1"));
    cr_assert(has(&r, "tracing_cpumask=3"));
    rig_fini(&r);
}

Test(ftmux, t22_bad_options_reject_and_restore)
{
    static const char *const names[] = {"invalid;option", "not_there", "../trace", ""};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct rig r;
        struct ftcfg_option opts[] = {{"record-tgid", 1}, {(char *)(uintptr_t)names[i], 1}};
        struct ftcfg c = {.options = opts, .n_options = 2};
        struct ftmux_cfg *mc;
        rig_init(&r);
        fake_put(&r.t.dir, "options/invalid;option", "1");
        rig_ready(&r);
        cr_assert_lt(ftmux_setup(&r.m, &c, false, &mc, r.why), 0, "%s", names[i]);
        cr_assert(has(&r, "options/record-tgid=0"), "R34: put back");
        cr_assert_eq(r.m.n_cfgs, 0);
        cr_assert_eq(fake_get(&r.t.dir, "tracing_on")[0], '1', "R34: put back");
        rig_fini(&r);
    }
}

Test(ftmux, t23_exclusive_means_alone)
{
    struct rig r;
    uint32_t tids[] = {1};
    struct ftcfg ex = {.tids = tids, .n_tids = 1}, plain = CFG("sched/sched_switch");
    struct ftmux_cfg *a, *b;
    rig_init(&r);
    rig_ready(&r);
    a = setup(&r, &plain);
    cr_assert_lt(ftmux_setup(&r.m, &ex, false, &b, r.why), 0);
    ftmux_remove(&r.m, a);
    a = setup(&r, &ex);
    cr_assert_lt(ftmux_setup(&r.m, &plain, false, &b, r.why), 0);
    ftmux_remove(&r.m, a);
    setup(&r, &plain);
    rig_fini(&r);
}

Test(ftmux, t24_t25_kprobes)
{
    static const char field[] =
        "\tfield:unsigned long __probe_ip;\toffset:8;\tsize:8;\tsigned:0;\n";
    struct rig r;
    struct ftcfg_kprobe k[] = {
        {"fn", FTCFG_PROBE_BOTH}, {"gone", FTCFG_PROBE_KPROBE}, {"b a;d", FTCFG_PROBE_KPROBE}};
    struct ftcfg c = {.kprobes = k, .n_kprobes = 3};
    rig_init(&r);
    fake_tracefs_event(&r.t, "perfetto_kprobes", "fn", 1501, field);
    fake_tracefs_event(&r.t, "perfetto_kretprobes", "fn", 1502, field);
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert(has(&r, "kprobe_events+=p:perfetto_kprobes/fn fn"));
    cr_assert(has(&r, "kprobe_events+=r1024:perfetto_kretprobes/fn fn"));
    cr_assert(has(&r, "events/perfetto_kprobes/fn/enable=1") &&
              has(&r, "events/perfetto_kretprobes/fn/enable=1"));
    cr_assert_eq(events_by_id(&r.m.ev, 1501)->kprobe, EVENTS_KP_BEGIN);
    cr_assert_eq(events_by_id(&r.m.ev, 1502)->kprobe, EVENTS_KP_END);
    cr_assert(has(&r, "kprobe_events+=-:perfetto_kprobes/gone"), "R100: removed again");
    cr_assert_eq(mc->unknown.n, 1);
    cr_assert_eq(mc->failed.n, 1);
    cr_assert_str_eq(mc->failed.v[0], "perfetto_kprobes/b a;d", "R99");
    ftmux_remove(&r.m, mc);
    static const char *const order[] = {"tracing_on=1", "kprobe_events+=-:perfetto_kprobes/fn"};
    expect_order(&r, order, 2);
    fake_tracefs_event(&r.t, "perfetto_kprobes", "fn", 1601, field);
    mc = setup(&r, &c);
    cr_assert_null(events_by_id(&r.m.ev, 1501), "the old id is forgotten");
    cr_assert(u64set_has(&mc->ids, 1601));
    rig_fini(&r);
}

Test(ftmux, r40_kprobe_groups_are_not_for_ftrace_events)
{
    struct rig r;
    struct ftcfg c = CFG("perfetto_kprobes/fn", "perfetto_kretprobes/fn");
    rig_init(&r);
    fake_tracefs_event(&r.t, "perfetto_kprobes", "fn", 1501, "");
    rig_ready(&r);
    struct ftmux_cfg *mc = setup(&r, &c);
    cr_assert_eq(mc->ids.n + mc->unknown.n + mc->failed.n, 0);
    rig_fini(&r);
}

Test(ftmux, t141_two_configs)
{
    struct rig r;
    struct ftcfg a = CFG("sched/sched_switch"), b = CFG("sched/sched_switch", "task/task_rename");
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *x = setup(&r, &a), *y = setup(&r, &b);
    ftmux_start(&r.m, x);
    ftmux_start(&r.m, y);
    r.t.log[0] = '\0';
    ftmux_remove(&r.m, x);
    cr_assert_str_eq(r.t.log, "", "R141: the other one goes on undisturbed");
    ftmux_remove(&r.m, y);
    cr_assert(has(&r, "events/sched/sched_switch/enable=0") &&
              has(&r, "events/task/task_rename/enable=0"));
    rig_fini(&r);
}

Test(ftmux, r59_buffer_percent_is_the_minimum_of_the_active)
{
    struct rig r;
    struct ftcfg a = {.drain_buffer_percent = 30}, b = {.drain_buffer_percent = 20}, none = {0};
    struct ftcfg large = {.drain_buffer_percent = 90};
    rig_init(&r);
    rig_ready(&r);
    struct ftmux_cfg *x = setup(&r, &a), *y = setup(&r, &b), *z = setup(&r, &none);
    ftmux_start(&r.m, z);
    cr_assert_not(has(&r, "buffer_percent"));
    ftmux_start(&r.m, x);
    cr_assert_str_eq(fake_get(&r.t.dir, "buffer_percent"), "30");
    ftmux_start(&r.m, y);
    cr_assert_str_eq(fake_get(&r.t.dir, "buffer_percent"), "20");
    ftmux_start(&r.m, setup(&r, &large));
    cr_assert_str_eq(fake_get(&r.t.dir, "buffer_percent"), "20");
    ftmux_remove(&r.m, y);
    cr_assert_str_eq(fake_get(&r.t.dir, "buffer_percent"), "30");
    rig_fini(&r);
}

Test(ftmux, r142_leftovers_are_cleaned_up)
{
    struct rig r;
    struct ftcfg c = CFG("sched/sched_switch");
    rig_init(&r);
    rig_ready(&r);
    ftmux_start(&r.m, setup(&r, &c));
    r.t.log[0] = '\0';
    ftmux_fini(&r.m);
    cr_assert(has(&r, "events/sched/sched_switch/enable=0"));
    cr_assert(has(&r, "tracing_on=1"));
    fake_tracefs_fini(&r.t);
}
