/* SPDX-License-Identifier: Apache-2.0 */
/* The ftrace controller on a tracefs of files: passes, flushes, statistics, several subscriptions.
 * A file in place of trace_pipe_raw gives its pages once and then nothing, like an idle CPU.
 * probes.md 4.8, 4.17, T26 - T31, T39. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"
#include "probes/ftrace/ftctl.h"
#include "probes/ftrace/ftmux.h"
#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "reactor/reactor.h"
#include "rig.h"

struct listener {
    struct fake_sink sink;
    unsigned passes, pids;
    uint64_t flushed[8];
    unsigned n_flushed;
};

struct ctl_rig {
    struct fake_tracefs t;
    struct fake_dir sys;
    struct reactor *r;
    struct ftctl *ctl;
    char why[FTMUX_WHY_MAX];
};

static void quiet(void *arg, enum log_level level, const char *line)
{
    (void)arg, (void)level, (void)line;
}

static void ctl_init(struct ctl_rig *r)
{
    log_set_sink(quiet, NULL);
    chrono_virtual_start(1050 * CHRONO_MS);
    fake_tracefs_init(&r->t);
    fake_dir_init(&r->sys);
    r->r = reactor_new(NULL);
    r->ctl = ftctl_new(r->r, r->t.dir.path, r->sys.fd);
}

static void ctl_fini(struct ctl_rig *r)
{
    ftctl_free(r->ctl);
    reactor_free(r->r);
    fake_dir_fini(&r->sys);
    fake_tracefs_fini(&r->t);
}

static void on_pass(void *arg, const struct ftmeta *meta)
{
    struct listener *l = arg;
    l->passes++;
    l->pids += meta->pids.n;
}

static void on_flushed(void *arg, uint64_t id)
{
    struct listener *l = arg;
    l->flushed[l->n_flushed++] = id;
}

static const char *category; /* what `subscribe` asks for besides; each test is a process */

static struct ftsub *subscribe(struct ctl_rig *r, struct listener *l, const char *event,
                               const char *instance)
{
    uint8_t buf[512];
    struct pbw_flat f;
    struct ftsub *s = NULL;
    memset(l, 0, sizeof *l);
    fake_sink_init(&l->sink);
    struct ftctl_host host = {
        .sink = fake_sink_of(&l->sink), .pass = on_pass, .flushed = on_flushed, .arg = l};
    pbw_flat_init(&f, buf, sizeof buf);
    pbw_str(&f.pbw, PBF_FtraceConfig_ftrace_events, event);
    pbw_str(&f.pbw, PBF_FtraceConfig_ftrace_events, "sched/does_not_exist");
    if (instance)
        pbw_str(&f.pbw, PBF_FtraceConfig_instance_name, instance);
    if (category)
        pbw_str(&f.pbw, PBF_FtraceConfig_atrace_categories, category);
    int rc = ftctl_subscribe(r->ctl, buf, (size_t)pbw_flat_end(&f), &host, &s, r->why);
    cr_assert_eq(rc, 0, "%s", r->why);
    return s;
}

/* Appends pages with one print event each to a CPU's pipe. */
static void feed(struct ctl_rig *r, unsigned cpu, unsigned pages, uint64_t ts)
{
    char path[300];
    snprintf(path, sizeof path, "%s/per_cpu/cpu%u/trace_pipe_raw", r->t.dir.path, cpu);
    int fd = open(path, O_WRONLY | O_APPEND);
    cr_assert_geq(fd, 0);
    for (unsigned i = 0; i < pages; i++) {
        uint8_t page[PAGE], rec[2400] = {0};
        struct builder b = rig_page(page, ts + i, false);
        rig_common(rec, 5, 70 + (int32_t)i);
        memset(rec + 16, 'x', sizeof rec - 17);
        rig_record(&b, 0, rec, sizeof rec); /* more than half a page, so that reading goes on */
        rig_page_done(&b);
        cr_assert_eq(write(fd, page, PAGE), PAGE);
    }
    close(fd);
}

static unsigned events_in(const struct listener *l)
{
    unsigned n = 0;
    for (unsigned i = 0; i < l->sink.n; i++)
        n += fake_count(fake_msg(fake_view(&l->sink, i), PBF_TracePacket_ftrace_events, 0), 2);
    return n;
}

Test(ftctl, t27_period)
{
    cr_expect_eq(ftctl_period_ms(0), 100);
    cr_expect_eq(ftctl_period_ms(3600000), 100);
    cr_expect_eq(ftctl_period_ms(200), 200);
    cr_expect_eq(ftctl_period_ms(60000), 60000);
}

Test(ftctl, ticks_read_what_there_is)
{
    struct ctl_rig r;
    struct listener l;
    ctl_init(&r);
    struct ftsub *s = subscribe(&r, &l, "ftrace/print", NULL);
    feed(&r, 0, 3, 1000);
    reactor_advance(r.r, CHRONO_SEC);
    cr_assert_eq(events_in(&l), 0, "nothing is read before start");
    cr_assert_eq(ftctl_start(s), 0);
    reactor_advance(r.r, 49 * CHRONO_MS);
    cr_assert_eq(events_in(&l), 0);
    reactor_advance(r.r, 1 * CHRONO_MS); /* 2100, a multiple of 100 (R52) */
    cr_assert_eq(events_in(&l), 3);
    cr_assert_eq(l.passes, 1);
    cr_assert_eq(l.pids, 3, "R19");
    feed(&r, 0, 2, 2000);
    reactor_advance(r.r, 100 * CHRONO_MS);
    cr_assert_eq(events_in(&l), 5);
    cr_assert_eq(l.pids, 5, "forgotten after each pass");
    ftctl_unsubscribe(s);
    fake_sink_fini(&l.sink);
    ctl_fini(&r);
}

Test(ftctl, r54_a_full_buffer_goes_on_at_once)
{
    struct ctl_rig r;
    struct listener l;
    ctl_init(&r);
    struct ftsub *s = subscribe(&r, &l, "ftrace/print", NULL);
    cr_assert_eq(ftctl_start(s), 0);
    feed(&r, 0, 600, 1000);
    reactor_advance(r.r, 50 * CHRONO_MS);
    cr_assert_eq(events_in(&l), 600);
    cr_assert_eq(l.passes, 3, "256 pages at most per pass and CPU");
    ftctl_unsubscribe(s);
    fake_sink_fini(&l.sink);
    ctl_fini(&r);
}

Test(ftctl, r61_r124_flush)
{
    struct ctl_rig r;
    struct listener l;
    ctl_init(&r);
    category = "no_such";
    struct ftsub *s = subscribe(&r, &l, "ftrace/print", NULL);
    ftctl_flush(s, 6);
    reactor_settle(r.r);
    cr_assert_eq(l.n_flushed, 0, "R63");
    cr_assert_eq(ftctl_start(s), 0);
    feed(&r, 0, 300, 1000);
    fake_put(&r.t.dir, "per_cpu/cpu0/stats", "entries: 9\nnow ts: 13.5\n");
    ftctl_flush(s, 7);
    reactor_settle(r.r);
    cr_assert_eq(l.n_flushed, 1);
    cr_assert_eq(l.flushed[0], 7);
    cr_assert_eq(events_in(&l), 300, "a flush is not held to 256 pages");
    cr_assert_geq(l.sink.n, 2);
    struct bytes_view a =
        fake_msg(fake_view(&l.sink, l.sink.n - 2), PBF_TracePacket_ftrace_stats, 0);
    struct bytes_view b =
        fake_msg(fake_view(&l.sink, l.sink.n - 1), PBF_TracePacket_ftrace_stats, 0);
    cr_expect_eq(fake_num(a, PBF_FtraceStats_phase), 1);
    cr_expect_eq(fake_num(b, PBF_FtraceStats_phase), 2);
    cr_expect_eq(fake_count(a, PBF_FtraceStats_cpu_stats), tracefs_n_cpus());
    cr_expect_eq(fake_num(fake_msg(a, PBF_FtraceStats_cpu_stats, 0), PBF_FtraceCpuStats_entries),
                 1);
    cr_expect_eq(fake_num(fake_msg(b, PBF_FtraceStats_cpu_stats, 0), PBF_FtraceCpuStats_entries),
                 9);
    cr_expect_eq(fake_count(a, PBF_FtraceStats_unknown_ftrace_events), 1, "T39");
    cr_expect(
        fake_str_is(fake_msg(a, PBF_FtraceStats_unknown_ftrace_events, 0), "sched/does_not_exist"));
    cr_expect_not(fake_has(b, PBF_FtraceStats_unknown_ftrace_events), "R125");
    cr_expect(fake_str_is(fake_msg(a, PBF_FtraceStats_atrace_errors, 0),
                          "no kernel events belong to the categories: no_such"));
    cr_expect_not(fake_has(b, PBF_FtraceStats_atrace_errors), "R125");
    cr_expect_not(fake_has(b, PBF_FtraceStats_ftrace_parse_errors), "R160");
    cr_expect(fake_has(b, PBF_FtraceStats_cached_cpu_buffer_size_pages));
    ftctl_unsubscribe(s);
    fake_sink_fini(&l.sink);
    ctl_fini(&r);
}

Test(ftctl, r55_a_short_page_is_reported)
{
    struct ctl_rig r;
    struct listener l;
    ctl_init(&r);
    struct ftsub *s = subscribe(&r, &l, "ftrace/print", NULL);
    cr_assert_eq(ftctl_start(s), 0);
    fake_put(&r.t.dir, "per_cpu/cpu0/trace_pipe_raw", "short");
    ftctl_flush(s, 1);
    reactor_settle(r.r);
    struct bytes_view b =
        fake_msg(fake_view(&l.sink, l.sink.n - 1), PBF_TracePacket_ftrace_stats, 0);
    cr_assert_eq(fake_num(b, PBF_FtraceStats_ftrace_parse_errors), RBPAGE_PARTIAL_PAGE_READ);
    ftctl_unsubscribe(s);
    fake_sink_fini(&l.sink);
    ctl_fini(&r);
}

Test(ftctl, r58_t28_two_subscriptions)
{
    struct ctl_rig r;
    struct listener a, b;
    ctl_init(&r);
    struct ftsub *x = subscribe(&r, &a, "ftrace/print", NULL),
                 *y = subscribe(&r, &b, "sched/sched_switch", NULL);
    ftctl_start(x);
    ftctl_start(y);
    feed(&r, 0, 2, 1000);
    ftctl_flush(y, 3); /* drains for all */
    reactor_settle(r.r);
    cr_assert_eq(events_in(&a), 2);
    cr_assert_eq(events_in(&b), 0, "each has its own filter");
    cr_assert_eq(b.n_flushed, 1);
    cr_assert_eq(a.n_flushed, 0);
    ftctl_unsubscribe(x);
    cr_assert_eq(fake_get(&r.t.dir, "tracing_on")[0], '1');
    feed(&r, 0, 2, 3000);
    reactor_advance(r.r, 100 * CHRONO_MS);
    ftctl_unsubscribe(y);
    cr_assert_eq(fake_get(&r.t.dir, "events/sched/sched_switch/enable")[0], '0');
    fake_sink_fini(&a.sink);
    fake_sink_fini(&b.sink);
    ctl_fini(&r);
}

Test(ftctl, t31_secondary_instances)
{
    struct ctl_rig r;
    struct listener l;
    char from[200], to[200], cmd[500];
    ctl_init(&r);
    fake_mkdir(&r.t.dir, "instances/sub");
    snprintf(from, sizeof from, "%s", r.t.dir.path);
    snprintf(to, sizeof to, "%s/instances/sub", r.t.dir.path);
    snprintf(cmd, sizeof cmd,
             "cd %s && cp -r trace tracing_on trace_clock buffer_size_kb events per_cpu %s", from,
             to);
    cr_assert_eq(system(cmd), 0);
    struct ftsub *s = subscribe(&r, &l, "sched/sched_switch", "sub");
    ftctl_start(s);
    cr_assert_eq(fake_get(&r.t.dir, "instances/sub/events/sched/sched_switch/enable")[0], '1');
    cr_assert_eq(fake_get(&r.t.dir, "events/sched/sched_switch/enable")[0], '0',
                 "the primary is left alone");
    cr_assert_str_eq(fake_get(&r.t.dir, "buffer_size_kb"), "7");
    ftctl_unsubscribe(s);
    cr_assert_eq(fake_get(&r.t.dir, "instances/sub/events/sched/sched_switch/enable")[0], '0');
    fake_sink_fini(&l.sink);
    ctl_fini(&r);
}

Test(ftctl, r25_no_tracefs)
{
    struct ctl_rig r;
    struct ftsub *s;
    struct ftctl_host host = {0};
    ctl_init(&r);
    fake_rm(&r.t.dir, "trace");
    cr_assert_lt(ftctl_subscribe(r.ctl, NULL, 0, &host, &s, r.why), 0);
    cr_assert_gt(strlen(r.why), 10);
    fake_put(&r.t.dir, "trace", "");
    cr_assert_lt(ftctl_subscribe(r.ctl, NULL, 0, &host, &s, r.why), 0, "not tried again");
    ctl_fini(&r);
}

Test(ftctl, unsubscribing_in_the_middle_of_a_pass)
{
    struct ctl_rig r;
    struct listener a, b;
    ctl_init(&r);
    struct ftsub *x = subscribe(&r, &a, "ftrace/print", NULL),
                 *y = subscribe(&r, &b, "ftrace/print", NULL);
    ftctl_start(x);
    ftctl_start(y);
    feed(&r, 0, 200, 1000);
    ftctl_flush(x, 1);
    ftctl_flush(y, 2);
    reactor_tick(r.r, 0); /* a slice or more, but perhaps not the whole pass */
    ftctl_unsubscribe(x);
    reactor_settle(r.r);
    cr_assert_eq(events_in(&b), 200, "nothing is lost and nothing comes twice");
    cr_assert_eq(b.n_flushed, 1);
    ftctl_unsubscribe(y);
    fake_sink_fini(&a.sink);
    fake_sink_fini(&b.sink);
    ctl_fini(&r);
}
