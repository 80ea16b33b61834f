/* SPDX-License-Identifier: Apache-2.0 */
/* FtraceConfig decoding and what it refuses; print filter rules; atrace categories. probes.md R28,
 * T9, T60. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "probes/ftrace/ftcfg.h"
#include "protos/fieldnum.h"
#include "smb/pbw.h"

static struct pbw_flat flat;
static uint8_t buf[65536];
static char why[512];

static struct pbw *begin(void)
{
    pbw_flat_init(&flat, buf, sizeof buf);
    return &flat.pbw;
}

static int parse(struct ftcfg *c)
{
    ptrdiff_t n = pbw_flat_end(&flat);
    cr_assert_geq(n, 0);
    return ftcfg_parse(buf, (size_t)n, c, why, sizeof why);
}

Test(ftcfg, every_field)
{
    struct ftcfg c;
    struct pbw *p = begin();
    pbw_str(p, PBF_FtraceConfig_ftrace_events, "sched/sched_switch");
    pbw_str(p, PBF_FtraceConfig_ftrace_events, "");
    pbw_str(p, PBF_FtraceConfig_atrace_categories, "sched");
    pbw_str(p, PBF_FtraceConfig_syscall_events, "sys_read");
    pbw_varint(p, PBF_FtraceConfig_buffer_size_kb, 77);
    pbw_varint(p, PBF_FtraceConfig_drain_period_ms, 12);
    pbw_begin(p, PBF_FtraceConfig_compact_sched);
    pbw_bool(p, PBF_FtraceConfig_CompactSchedConfig_enabled, false);
    pbw_end(p);
    pbw_bool(p, PBF_FtraceConfig_denser_generic_event_encoding, false);
    pbw_varint(p, PBF_FtraceConfig_ksyms_mem_policy, 2);
    pbw_str(p, PBF_FtraceConfig_instance_name, "inst");
    pbw_begin(p, PBF_FtraceConfig_kprobe_events);
    pbw_str(p, PBF_FtraceConfig_KprobeEvent_probe, "fn");
    pbw_varint(p, PBF_FtraceConfig_KprobeEvent_type, 3);
    pbw_end(p);
    pbw_varint(p, PBF_FtraceConfig_tids_to_trace, 5);
    pbw_begin(p, PBF_FtraceConfig_tracefs_options);
    pbw_str(p, PBF_FtraceConfig_TracefsOption_name, "record-tgid");
    pbw_varint(p, PBF_FtraceConfig_TracefsOption_state, 1);
    pbw_end(p);
    pbw_varint(p, 4000, 1); /* a field of the future */
    cr_assert_eq(parse(&c), 0);
    cr_expect_eq(c.events.n, 2);
    cr_expect_str_eq(c.events.v[0], "sched/sched_switch");
    cr_expect_str_eq(c.categories.v[0], "sched");
    cr_expect_str_eq(c.syscalls.v[0], "sys_read");
    cr_expect_eq(c.buffer_size_kb, 77);
    cr_expect_eq(c.drain_period_ms, 12);
    cr_expect(c.compact_off);
    cr_expect(c.legacy_generic);
    cr_expect(c.ksyms_retain);
    cr_expect_str_eq(c.instance, "inst");
    cr_expect_eq(c.n_kprobes, 1);
    cr_expect_eq(c.kprobes[0].type, FTCFG_PROBE_BOTH);
    cr_expect_eq(c.n_tids, 1);
    cr_expect_eq(c.options[0].state, 1);
    cr_expect(ftcfg_exclusive(&c));
    cr_expect_not(c.has_print_filter);
    ftcfg_fini(&c);
}

Test(ftcfg, an_empty_config_is_fine)
{
    struct ftcfg c;
    begin();
    cr_assert_eq(parse(&c), 0);
    cr_assert_not(c.compact_off);
    cr_assert_not(c.legacy_generic, "unset means the denser form");
    cr_assert_null(c.instance);
    ftcfg_fini(&c);
}

Test(ftcfg, garbage_is_refused)
{
    struct ftcfg c;
    static const uint8_t bad[] = {0x0a, 0x7f, 'x'};
    cr_assert_lt(ftcfg_parse(bad, sizeof bad, &c, why, sizeof why), 0);
}

Test(ftcfg, t9_r28_event_names)
{
    static const char *const bad[] = {
        "../try/to/escape", "/event",   "event/", "a/b/c", "a*b",      "*x",     "ev\x01",
        "ev\x7f",           "\xc3\xa9", "../x",   "..",    "sched/..", "sched/."};
    static const char *const good[] = {"",        "sched_switch",  "sched/sched_switch",
                                       "sched/*", "sched/sched_*", "*"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct ftcfg c;
        pbw_str(begin(), PBF_FtraceConfig_ftrace_events, bad[i]);
        cr_expect_lt(parse(&c), 0, "\"%s\"", bad[i]);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct ftcfg c;
        pbw_str(begin(), PBF_FtraceConfig_ftrace_events, good[i]);
        cr_expect_eq(parse(&c), 0, "\"%s\"", good[i]);
        ftcfg_fini(&c);
    }
    struct ftcfg c;
    pbw_bytes(begin(), PBF_FtraceConfig_ftrace_events, "a\0b", 3);
    cr_expect_lt(parse(&c), 0, "a NUL inside");
    pbw_str(begin(), PBF_FtraceConfig_atrace_apps, "app\n");
    cr_expect_lt(parse(&c), 0);
    pbw_str(begin(), PBF_FtraceConfig_atrace_categories, "cat\t");
    cr_expect_lt(parse(&c), 0);
}

static bool allows(const struct ftcfg *c, const char *text)
{
    return printflt_allows(&c->print_filter, ptext_of(text, strlen(text)));
}

static void rule(struct pbw *p, const char *type, const char *prefix, bool allow)
{
    pbw_begin(p, PBF_FtraceConfig_PrintFilter_rules);
    if (type) {
        pbw_begin(p, PBF_FtraceConfig_PrintFilter_Rule_atrace_msg);
        pbw_str(p, PBF_FtraceConfig_PrintFilter_Rule_AtraceMessage_type, type);
        pbw_str(p, PBF_FtraceConfig_PrintFilter_Rule_AtraceMessage_prefix, prefix);
        pbw_end(p);
    } else {
        pbw_str(p, PBF_FtraceConfig_PrintFilter_Rule_prefix, prefix);
    }
    pbw_bool(p, PBF_FtraceConfig_PrintFilter_Rule_allow, allow);
    pbw_end(p);
}

Test(ftcfg, t60_print_filter)
{
    static const char *const no[] = {"B",
                                     "Cnopipemycounter",
                                     "C",
                                     "C|badpid|mycounter",
                                     "C|111111",
                                     "C|111111Xmycounter",
                                     "C|111111|nomatch",
                                     "C|"};
    struct ftcfg c;
    struct pbw *p = begin();
    pbw_begin(p, PBF_FtraceConfig_print_filter);
    rule(p, "C", "mycounter", true);
    rule(p, NULL, "word", true);
    rule(p, NULL, "w", false);
    rule(p, NULL, "", false);
    pbw_end(p);
    cr_assert_eq(parse(&c), 0);
    cr_assert_eq(c.print_filter.n, 4);
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        cr_expect_not(allows(&c, no[i]), "%s", no[i]);
    cr_expect(allows(&c, "C|111111|mycounter_and_more"));
    cr_expect(allows(&c, "C||mycounter"), "zero digits are enough (R105)");
    cr_expect(allows(&c, "words"), "the first matching rule decides");
    cr_expect_not(allows(&c, "wor"));
    cr_expect_not(allows(&c, ""), "the empty prefix matches everything");
    ftcfg_fini(&c);
    p = begin();
    pbw_begin(p, PBF_FtraceConfig_print_filter);
    pbw_end(p);
    cr_assert_eq(parse(&c), 0);
    cr_expect(c.has_print_filter && allows(&c, "anything"));
    ftcfg_fini(&c);
}
