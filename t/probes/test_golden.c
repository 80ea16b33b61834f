/* SPDX-License-Identifier: Apache-2.0 */
/* Recorded pages of a real kernel against that kernel's own text: t/data/ftrace/x86_64-6.18, made
 * by t/data/ftrace/record.sh. Every event the kernel printed must come out of the raw pages, in
 * order, with the same time, pid and values. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"
#include "probes/ptext.h"
#include "protos/fieldnum.h"

#define GOLDEN "ftrace/x86_64-6.18"

static const char *const events[] = {
    "sched/sched_switch",
    "sched/sched_waking",
    "sched/sched_wakeup",
    "sched/sched_wakeup_new",
    "sched/sched_process_exit",
    "sched/sched_process_free",
    "sched/sched_process_fork",
    "sched/sched_process_exec",
    "task/task_newtask",
    "task/task_rename",
    "irq/softirq_raise",
    "irq/softirq_entry",
    "raw_syscalls/sys_enter",
    "raw_syscalls/sys_exit",
    "filemap/mm_filemap_add_to_page_cache",
    "workqueue/workqueue_execute_start",
    "kmem/kmalloc",
    "signal/signal_generate",
    "ftrace/print",
};
#define N_EVENTS (sizeof events / sizeof events[0])

static char *str_of(struct bytes_view m, uint32_t field)
{
    static char text[4][128];
    static unsigned turn;
    struct bytes_view v = fake_msg(m, field, 0);
    char *t = text[turn++ % 4];
    snprintf(t, sizeof text[0], "%.*s", (int)v.n, v.n ? (const char *)v.p : "");
    return t;
}

/* The part of the kernel's line that our message can reproduce; "" for events not rendered here. */
static void render(uint32_t number, struct bytes_view m, char *out, size_t n)
{
    *out = '\0';
    switch (number) {
    case PBF_FtraceEvent_sched_switch:
        snprintf(out, n, "prev_comm=%s prev_pid=%d prev_prio=%d prev_state=", str_of(m, 1),
                 (int)fake_num(m, 2), (int)fake_num(m, 3));
        break;
    case PBF_FtraceEvent_sched_waking:
    case PBF_FtraceEvent_sched_wakeup:
    case PBF_FtraceEvent_sched_wakeup_new:
        snprintf(out, n, "comm=%s pid=%d prio=%d target_cpu=%03d", str_of(m, 1),
                 (int)fake_num(m, 2), (int)fake_num(m, 3), (int)fake_num(m, 5));
        break;
    case PBF_FtraceEvent_sched_process_exit:
    case PBF_FtraceEvent_sched_process_free:
        snprintf(out, n, "comm=%s pid=%d prio=%d", str_of(m, 1), (int)fake_num(m, 2),
                 (int)fake_num(m, number == PBF_FtraceEvent_sched_process_exit ? 4 : 3));
        break;
    case PBF_FtraceEvent_sched_process_fork:
        snprintf(out, n, "comm=%s pid=%d child_comm=%s child_pid=%d", str_of(m, 1),
                 (int)fake_num(m, 2), str_of(m, 3), (int)fake_num(m, 4));
        break;
    case PBF_FtraceEvent_sched_process_exec:
        snprintf(out, n, "filename=%s pid=%d old_pid=%d", str_of(m, 1), (int)fake_num(m, 2),
                 (int)fake_num(m, 3));
        break;
    case PBF_FtraceEvent_task_newtask:
        snprintf(out, n, "pid=%d comm=%s clone_flags=%llx oom_score_adj=%d", (int)fake_num(m, 1),
                 str_of(m, 2), (unsigned long long)fake_num(m, 3), (int)fake_num(m, 4));
        break;
    case PBF_FtraceEvent_task_rename:
        snprintf(out, n, "pid=%d oldcomm=%s newcomm=%s oom_score_adj=%d", (int)fake_num(m, 1),
                 str_of(m, 2), str_of(m, 3), (int)fake_num(m, 4));
        break;
    case PBF_FtraceEvent_softirq_raise:
    case PBF_FtraceEvent_softirq_entry:
        snprintf(out, n, "vec=%u [action=", (unsigned)fake_num(m, 1));
        break;
    case PBF_FtraceEvent_sys_exit:
        snprintf(out, n, "NR %lld = %lld", (long long)fake_num(m, 1), (long long)fake_num(m, 2));
        break;
    case PBF_FtraceEvent_sys_enter: {
        struct bytes_cur c = bytes_cur(m);
        struct bytes_field f;
        size_t k = (size_t)snprintf(out, n, "NR %lld (", (long long)fake_num(m, 1));
        for (unsigned i = 0; bytes_next(&c, &f);)
            if (f.id == PBF_SysEnterFtraceEvent_args)
                k += (size_t)snprintf(out + k, n - k, "%s%llx", i++ ? ", " : "",
                                      (unsigned long long)f.num);
        snprintf(out + k, n - k, ")");
        break;
    }
    case PBF_FtraceEvent_print:
        snprintf(out, n, "%s", str_of(m, PBF_PrintFtraceEvent_buf));
        out[strcspn(out, "\n")] = '\0';
        break;
    default:
        break;
    }
}

struct line {
    unsigned cpu;
    int pid;
    uint64_t us;
    char name[64], rest[512];
};

/* "   comm-PID   [CPU]   SECONDS.MICROS: name: rest" */
static bool parse_line(struct ptext t, struct line *l)
{
    char text[1024];
    ptext_copy(t, text, sizeof text);
    char *open = strstr(text, " [");
    unsigned long long s, us;
    int at = 0;
    if (*text == '#' || strncmp(text, "CPU:", 4) == 0 || !open)
        return false;
    while (open && (open[2] < '0' || open[2] > '9'))
        open = strstr(open + 1, " [");
    cr_assert_not_null(open);
    char *end = open;
    while (end > text && end[-1] == ' ')
        end--;
    char *dash = end;
    while (*dash != '-')
        dash--;
    l->pid = atoi(dash + 1);
    cr_assert_eq(sscanf(open, " [%u] %llu.%llu: %63[^:]: %n", &l->cpu, &s, &us, l->name, &at), 4,
                 "%s", text);
    l->us = s * 1000000 + us;
    snprintf(l->rest, sizeof l->rest, "%s", open + at);
    return true;
}

static uint32_t event_number(struct bytes_view ev, struct bytes_view *payload)
{
    struct bytes_cur c = bytes_cur(ev);
    struct bytes_field f;
    uint32_t number = 0;
    while (bytes_next(&c, &f))
        if (f.type == BYTES_LEN) {
            number = f.id;
            *payload = f.data;
        }
    return number;
}

struct rig {
    struct fake_tracefs t;
    struct tracefs fs;
    struct events ev;
    uint64_t filter[1024];
};

static void rig_init(struct rig *r, bool with_waking)
{
    memset(r, 0, sizeof *r);
    fake_tracefs_init(&r->t);
    for (size_t i = 0; i < N_EVENTS; i++) {
        char path[256];
        size_t n;
        snprintf(path, sizeof path, GOLDEN "/events/%s/format", events[i]);
        char *text = fake_data(path, &n);
        snprintf(path, sizeof path, "events/%s/format", events[i]);
        fake_put(&r->t.dir, path, text);
        free(text);
    }
    r->fs = fake_tracefs_open(&r->t);
    events_init(&r->ev, &r->fs);
    for (size_t i = 0; i < N_EVENTS; i++) {
        char group[64];
        snprintf(group, sizeof group, "%.*s", (int)strcspn(events[i], "/"), events[i]);
        const struct events_event *e =
            events_load(&r->ev, group, strchr(events[i], '/') + 1, false);
        cr_assert_not_null(e, "%s", events[i]);
        if (with_waking || e->id != r->ev.sched.waking_id)
            r->filter[e->id / 64] |= 1ULL << e->id % 64;
    }
}

static void rig_fini(struct rig *r)
{
    events_fini(&r->ev);
    tracefs_close(&r->fs);
    fake_tracefs_fini(&r->t);
}

static void decode(struct rig *r, struct bundle *b, struct fake_sink *sink, unsigned cpu,
                   bool compact)
{
    char path[128];
    size_t n;
    struct bundle_snapshot snap = {0};
    snprintf(path, sizeof path, GOLDEN "/cpu%u.pages", cpu);
    uint8_t *pages = (uint8_t *)fake_data(path, &n);
    fake_sink_init(sink);
    bundle_init(b, &r->ev, fake_sink_of(sink), 2);
    b->filter = r->filter;
    b->filter_ids = 65536;
    b->compact_on = compact;
    bundle_begin(b, cpu, &snap);
    for (size_t i = 0; i + 4096 <= n; i += 4096)
        bundle_page(b, pages + i, 4096);
    bundle_end(b);
    free(pages);
}

static void compare_cpu(struct rig *r, unsigned cpu)
{
    struct bundle b;
    struct fake_sink sink;
    struct ptext text, raw;
    struct line l;
    size_t n;
    unsigned matched = 0, rendered = 0;
    char *trace = fake_data(GOLDEN "/trace.txt", &n);
    decode(r, &b, &sink, cpu, false);
    cr_assert_eq(b.parse_errors, 0);
    text = ptext_of(trace, n);
    for (unsigned p = 0; p < sink.n; p++) {
        struct bytes_view bundle = fake_msg(fake_view(&sink, p), PBF_TracePacket_ftrace_events, 0);
        unsigned count = fake_count(bundle, PBF_FtraceEventBundle_event);
        for (unsigned i = 0; i < count; i++) {
            struct bytes_view ev = fake_msg(bundle, PBF_FtraceEventBundle_event, i),
                              payload = bytes_view(NULL, 0);
            uint32_t number = event_number(ev, &payload);
            bool found = false;
            while (!found && ptext_line(&text, &raw))
                found = parse_line(raw, &l) && l.cpu == cpu;
            cr_assert(found, "cpu %u: more events than the kernel printed", cpu);
            cr_assert_eq((int)fake_num(ev, PBF_FtraceEvent_pid), l.pid);
            cr_assert_eq((fake_num(ev, PBF_FtraceEvent_timestamp) + 500) / 1000, l.us);
            char mine[512];
            render(number, payload, mine, sizeof mine);
            cr_assert_eq(strncmp(l.rest, mine, strlen(mine)), 0, "%s\nkernel: %s\nours:   %s",
                         l.name, l.rest, mine);
            matched++;
            rendered += *mine != '\0';
        }
    }
    while (ptext_line(&text, &raw))
        cr_assert_not(parse_line(raw, &l) && l.cpu == cpu, "cpu %u: %s was not decoded", cpu,
                      l.name);
    cr_assert_gt(matched, cpu == 0 ? 400 : 3, "%u events", matched);
    cr_assert_gt(rendered * 10, matched * 5);
    bundle_fini(&b);
    fake_sink_fini(&sink);
    free(trace);
}

Test(golden, every_event_as_the_kernel_printed_it)
{
    struct rig r;
    rig_init(&r, true);
    compare_cpu(&r, 0);
    compare_cpu(&r, 1);
    rig_fini(&r);
}

Test(golden, the_page_behind_an_overrun_says_so)
{
    struct rig r;
    struct bundle b;
    struct fake_sink sink;
    rig_init(&r, true);
    decode(&r, &b, &sink, 0, false);
    struct bytes_view first = fake_msg(fake_view(&sink, 0), PBF_TracePacket_ftrace_events, 0);
    cr_assert_eq(fake_num(first, PBF_FtraceEventBundle_lost_events), 1);
    bundle_fini(&b);
    fake_sink_fini(&sink);
    rig_fini(&r);
}

Test(golden, compact_holds_the_same_switches)
{
    struct rig r;
    struct bundle b;
    struct fake_sink sink;
    unsigned switches = 0, kernel = 0;
    size_t n;
    rig_init(&r, false);
    decode(&r, &b, &sink, 0, true);
    for (unsigned p = 0; p < sink.n; p++) {
        struct bytes_view c =
            fake_msg(fake_msg(fake_view(&sink, p), PBF_TracePacket_ftrace_events, 0),
                     PBF_FtraceEventBundle_compact_sched, 0);
        struct bytes_view prios =
            fake_msg(c, PBF_FtraceEventBundle_CompactSched_switch_next_prio, 0);
        for (size_t i = 0; i < prios.n; i++)
            switches += prios.p[i] < 0x80;
        cr_assert_not(fake_has(c, PBF_FtraceEventBundle_CompactSched_waking_pid));
    }
    char *trace = fake_data(GOLDEN "/trace.txt", &n);
    for (char *p = trace; (p = strstr(p, "[000]")); p++)
        kernel += strncmp(p + 5 + strcspn(p + 5, ":"), ": sched_switch:", 15) == 0;
    cr_assert_eq(switches, kernel);
    cr_assert_gt(switches, 10);
    free(trace);
    bundle_fini(&b);
    fake_sink_fini(&sink);
    rig_fini(&r);
}
