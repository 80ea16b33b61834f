/* SPDX-License-Identifier: Apache-2.0 */
/* The controller on this machine's own kernel, in a tracefs instance of its own inside a private
 * mount namespace: whatever the machine traces elsewhere is left alone. Needs root and tracefs;
 * says so and skips otherwise. probes.md T39, T40, R92, R128, R138. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake.h"
#include "probes/ftrace/ftctl.h"
#include "probes/ftrace/ftmux.h"
#include "probes/ftrace/wmark.h"
#include "protos/fieldnum.h"
#include "reactor/reactor.h"

struct live {
    char dir[64], name[32], inst[128];
    struct fake_sink sink;
    struct reactor *r;
    struct ftctl *ctl;
    unsigned flushes;
};

static void on_pass(void *arg, const struct ftmeta *meta)
{
    (void)arg, (void)meta;
}

static void on_flushed(void *arg, uint64_t id)
{
    struct live *l = arg;
    (void)id;
    l->flushes++;
}

/* False when this machine does not let us: the test then has nothing to say. */
static bool live_init(struct live *l)
{
    memset(l, 0, sizeof *l);
    snprintf(l->dir, sizeof l->dir, "/tmp/tracefs.XXXXXX");
    if (geteuid() != 0 || unshare(CLONE_NEWNS) ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        cr_skip("needs root to mount tracefs privately");
        return false;
    }
    cr_assert_not_null(mkdtemp(l->dir));
    if (mount("nodev", l->dir, "tracefs", 0, NULL)) {
        rmdir(l->dir);
        cr_skip("needs a kernel with tracefs");
        return false;
    }
    snprintf(l->name, sizeof l->name, "probes-test-%d", (int)getpid());
    snprintf(l->inst, sizeof l->inst, "%s/instances/%s", l->dir, l->name);
    cr_assert_eq(mkdir(l->inst, 0700), 0, "%s: %s", l->inst, strerror(errno));
    fake_sink_init(&l->sink);
    l->r = reactor_new(NULL);
    l->ctl = ftctl_new(l->r, l->dir, AT_FDCWD);
    return true;
}

static void live_fini(struct live *l)
{
    ftctl_free(l->ctl);
    reactor_free(l->r);
    cr_expect_eq(rmdir(l->inst), 0, "the instance is in use: %s", strerror(errno));
    umount(l->dir);
    rmdir(l->dir);
    fake_sink_fini(&l->sink);
}

static struct ftsub *subscribe(struct live *l, const char *const *events, bool verbose)
{
    uint8_t buf[1024];
    char why[FTMUX_WHY_MAX];
    struct pbw_flat f;
    struct ftsub *s = NULL;
    struct ftctl_host host = {
        .sink = fake_sink_of(&l->sink), .pass = on_pass, .flushed = on_flushed, .arg = l};
    pbw_flat_init(&f, buf, sizeof buf);
    for (; *events; events++)
        pbw_str(&f.pbw, PBF_FtraceConfig_ftrace_events, *events);
    pbw_str(&f.pbw, PBF_FtraceConfig_instance_name, l->name);
    if (verbose) {
        pbw_begin(&f.pbw, PBF_FtraceConfig_compact_sched);
        pbw_bool(&f.pbw, PBF_FtraceConfig_CompactSchedConfig_enabled, false);
        pbw_end(&f.pbw);
    }
    cr_assert_eq(ftctl_subscribe(l->ctl, buf, (size_t)pbw_flat_end(&f), &host, &s, why), 0, "%s",
                 why);
    cr_assert_eq(ftctl_start(s), 0);
    return s;
}

static void flush(struct live *l, struct ftsub *s)
{
    unsigned before = l->flushes;
    ftctl_flush(s, 1);
    for (unsigned i = 0; i < 1000 && l->flushes == before; i++)
        reactor_tick(l->r, 10000000);
    cr_assert_eq(l->flushes, before + 1);
}

static void mark(struct live *l, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/trace_marker", l->inst);
    int fd = open(path, O_WRONLY);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static unsigned prints_of(struct live *l, const char *text)
{
    unsigned n = 0;
    for (unsigned p = 0; p < l->sink.n; p++) {
        struct bytes_view b = fake_msg(fake_view(&l->sink, p), PBF_TracePacket_ftrace_events, 0);
        unsigned count = fake_count(b, 2);
        for (unsigned i = 0; i < count; i++) {
            struct bytes_view m = fake_msg(fake_msg(b, 2, i), PBF_FtraceEvent_print, 0);
            n += fake_str_is(fake_msg(m, PBF_PrintFtraceEvent_buf, 0), text);
        }
    }
    return n;
}

Test(live, t39_t40_markers_and_unknown_events)
{
    static const char *const events[] = {"ftrace/print", "sched/sched_switch",
                                         "sched/does_not_exist", "foobar/i_just_made_this_up",
                                         NULL};
    struct live l;
    if (!live_init(&l))
        return;
    struct ftsub *s = subscribe(&l, events, false);
    flush(&l, s);
    mark(&l, "exactly once\n");
    flush(&l, s);
    flush(&l, s);
    cr_expect_eq(prints_of(&l, "exactly once\n"), 1, "T40");
    struct bytes_view a =
        fake_msg(fake_view(&l.sink, l.sink.n - 2), PBF_TracePacket_ftrace_stats, 0);
    struct bytes_view b =
        fake_msg(fake_view(&l.sink, l.sink.n - 1), PBF_TracePacket_ftrace_stats, 0);
    cr_expect_eq(fake_count(a, PBF_FtraceStats_unknown_ftrace_events), 2, "T39");
    cr_expect_eq(fake_count(b, PBF_FtraceStats_cpu_stats), tracefs_n_cpus());
    cr_expect_not(fake_has(b, PBF_FtraceStats_ftrace_parse_errors),
                  "R160: this kernel's pages are understood");
    ftctl_unsubscribe(s);
    live_fini(&l);
}

/* A child of a telling name runs and ends: its birth, name and end are in the trace. */
Test(live, life_of_a_process)
{
    static const char *const events[] = {"sched/sched_switch",       "sched/sched_waking",
                                         "sched/sched_process_exit", "task/task_newtask",
                                         "task/task_rename",         "sched/sched_process_free",
                                         "sched/sched_process_fork", NULL};
    struct live l;
    unsigned newtask = 0, rename = 0, exited = 0, switched = 0, fork_seen = 0;
    if (!live_init(&l))
        return;
    struct ftsub *s = subscribe(&l, events, true);
    pid_t pid = fork();
    if (pid == 0) {
        char path[64];
        /* task_rename comes with a write to comm or an exec, and with prctl */
        snprintf(path, sizeof path, "/proc/self/comm");
        int fd = open(path, O_WRONLY);
        if (fd < 0 || write(fd, "probes-child", 12) != 12)
            _exit(1);
        _exit(0);
    }
    int status = -1;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    flush(&l, s);
    for (unsigned p = 0; p < l.sink.n; p++) {
        struct bytes_view b = fake_msg(fake_view(&l.sink, p), PBF_TracePacket_ftrace_events, 0);
        unsigned count = fake_count(b, 2);
        for (unsigned i = 0; i < count; i++) {
            struct bytes_view e = fake_msg(b, 2, i), m;
            m = fake_msg(e, PBF_FtraceEvent_task_newtask, 0);
            newtask += m.n && fake_num(m, 1) == (uint64_t)pid;
            m = fake_msg(e, PBF_FtraceEvent_sched_process_fork, 0);
            fork_seen += m.n && fake_num(m, 4) == (uint64_t)pid;
            m = fake_msg(e, PBF_FtraceEvent_task_rename, 0);
            rename +=
                fake_str_is(fake_msg(m, PBF_TaskRenameFtraceEvent_newcomm, 0), "probes-child") &&
                fake_num(m, 1) == (uint64_t)pid;
            m = fake_msg(e, PBF_FtraceEvent_sched_process_exit, 0);
            exited += m.n && fake_num(m, 2) == (uint64_t)pid &&
                      fake_str_is(fake_msg(m, 1, 0), "probes-child");
            m = fake_msg(e, PBF_FtraceEvent_sched_switch, 0);
            switched += m.n && fake_num(m, 2) == (uint64_t)pid &&
                        fake_str_is(fake_msg(m, 1, 0), "probes-child");
        }
    }
    cr_expect_eq(newtask, 1);
    cr_expect_eq(fork_seen, 1);
    cr_expect_eq(rename, 1);
    cr_expect_eq(exited, 1);
    cr_expect_geq(switched, 1, "it was switched out for good under its new name");
    ftctl_unsubscribe(s);
    live_fini(&l);
}

static void count_wake(void *arg)
{
    ++*(unsigned *)arg;
}

/* R60: a pipe of tracefs can be watched although it looks like a regular file, and it wakes us once
 * buffer_percent is reached, not before. */
Test(live, r60_full_buffers_wake_the_reader)
{
    struct live l;
    struct tracefs fs;
    struct cpuread reader;
    struct wmark w;
    struct utsname u;
    unsigned wakes = 0;
    uname(&u);
    if (!wmark_kernel_ok(u.release)) {
        cr_skip("needs Linux 6.9");
        return;
    }
    if (!live_init(&l))
        return;
    cr_assert_eq(tracefs_open(&fs, l.inst), 0);
    cr_assert_eq(tracefs_write(&fs, "buffer_size_kb", "64"), 0);
    cr_assert_eq(tracefs_write(&fs, "tracing_on", "1"), 0);
    cr_assert_eq(cpuread_open(&reader, &fs, 4096), 0);
    cr_assert(wmark_open(&w, l.r, &fs, &reader, count_wake, &wakes));
    mark(&l, "one line\n");
    for (unsigned i = 0; i < 5; i++)
        reactor_tick(l.r, 1000000);
    cr_expect_eq(wakes, 0);
    char line[200];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    for (unsigned i = 0; i < 600 * tracefs_n_cpus(); i++)
        mark(&l, line);
    for (unsigned i = 0; i < 1000 && !wakes; i++)
        reactor_tick(l.r, 10000000);
    cr_expect_gt(wakes, 0);
    wmark_close(&w);
    cpuread_close(&reader);
    tracefs_close(&fs);
    live_fini(&l);
}

/* What this kernel's formats give for the events that the trace has messages for. */
Test(live, every_event_of_this_kernel_has_a_plan)
{
    struct live l;
    struct tracefs fs;
    struct events ev;
    unsigned n = 0;
    if (!live_init(&l))
        return;
    cr_assert_eq(tracefs_open(&fs, l.dir), 0);
    events_init(&ev, &fs);
    cr_expect(ev.sched.valid, "compact scheduling events work on this kernel");
    DIR *groups = procfs_opendir(fs.dir, "events");
    cr_assert_not_null(groups);
    for (struct dirent *g; (g = readdir(groups));) {
        char path[600];
        snprintf(path, sizeof path, "events/%s", g->d_name);
        DIR *d = g->d_name[0] == '.' ? NULL : procfs_opendir(fs.dir, path);
        for (struct dirent *e; d && (e = readdir(d));) {
            snprintf(path, sizeof path, "events/%s/%s/format", g->d_name, e->d_name);
            if (e->d_name[0] == '.' || !tracefs_readable(&fs, path))
                continue;
            cr_expect_not_null(events_load(&ev, g->d_name, e->d_name, true), "%s", path);
            n++;
        }
        if (d)
            closedir(d);
    }
    closedir(groups);
    cr_expect_gt(n, 50, "%u events", n);
    events_fini(&ev);
    tracefs_close(&fs);
    live_fini(&l);
}
