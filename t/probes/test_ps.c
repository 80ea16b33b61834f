/* SPDX-License-Identifier: Apache-2.0 */
/* linux.process_stats over a made-up /proc, on a virtual clock. probes.md 6, T69 - T78. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"
#include "probes/ftrace/ftmeta.h"
#include "probes/probe.h"
#include "probes/ps.h"
#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "reactor/reactor.h"

struct rig {
    struct fake_dir d;
    struct fake_sink sink;
    struct reactor *r;
    struct probe_host host;
    void *inst;
    struct pbw_flat flat;
    uint8_t cfg[256];
};

static void quiet(void *arg, enum log_level level, const char *line)
{
    (void)arg, (void)level, (void)line;
}

static struct pbw *rig_init(struct rig *r)
{
    memset(r, 0, sizeof *r);
    log_set_sink(quiet, NULL);
    chrono_virtual_start(1000 * CHRONO_MS);
    fake_dir_init(&r->d);
    fake_mkdir(&r->d, "proc");
    fake_sink_init(&r->sink);
    r->r = reactor_new(NULL);
    r->host =
        (struct probe_host){.reactor = r->r, .sysroot = r->d.fd, .sink = fake_sink_of(&r->sink)};
    pbw_flat_init(&r->flat, r->cfg, sizeof r->cfg);
    return &r->flat.pbw;
}

static void rig_start(struct rig *r)
{
    char why[PROBE_WHY_MAX];
    ptrdiff_t n = pbw_flat_end(&r->flat);
    cr_assert_eq(probe_ps.setup(&r->host, bytes_view(r->cfg, (size_t)n), &r->inst, why), 0);
    probe_ps.start(r->inst);
}

static void rig_fini(struct rig *r)
{
    probe_ps.destroy(r->inst);
    reactor_free(r->r);
    fake_sink_fini(&r->sink);
    fake_dir_fini(&r->d);
}

static void put(struct rig *r, int pid, const char *file, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "proc/%d/%s", pid, file);
    fake_put(&r->d, path, text);
}

/* A thread; a leader also gets a command line. */
static void thread(struct rig *r, int pid, int tgid, int ppid, const char *name, const char *extra)
{
    char text[512];
    snprintf(text, sizeof text,
             "Name:\t%s\nUmask:\t0022\nTgid:\t%d\nPid:\t%d\nPPid:\t%d\nTracerPid:\t0\n"
             "Uid:\t43\t44\t45\t56\n%s",
             name, tgid, pid, ppid, extra);
    put(r, pid, "status", text);
    if (pid == tgid)
        put(r, pid, "cmdline", "");
}

static void cmdline(struct rig *r, int pid, const char *text, size_t n)
{
    char path[200];
    snprintf(path, sizeof path, "%s/proc/%d/cmdline", r->d.path, pid);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fwrite(text, 1, n, f);
    fclose(f);
}

static void forward(struct rig *r, const int *pids, size_t n, const int *renames, size_t n_renames)
{
    struct ftmeta m = {0};
    for (size_t i = 0; i < n; i++)
        ftmeta_pid(&m, pids[i]);
    for (size_t i = 0; i < n_renames; i++)
        u64set_add(&m.renames, (uint64_t)renames[i], NULL, NULL);
    probe_ps.on_ftrace(r->inst, &m);
    ftmeta_fini(&m);
}
#define FORWARD(r, ...)                                                                            \
    forward(r, (int[]){__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}) / sizeof(int), NULL, 0)

static struct bytes_view tree(const struct rig *r, unsigned i)
{
    return fake_msg(fake_view(&r->sink, i), PBF_TracePacket_process_tree, 0);
}

static struct bytes_view stats(const struct rig *r, unsigned i)
{
    return fake_msg(fake_view(&r->sink, i), PBF_TracePacket_process_stats, 0);
}

Test(ps, t69_one_pid)
{
    struct rig r;
    rig_init(&r);
    thread(&r, 42, 42, 17, "foo", "");
    cmdline(&r, 42, "foo\0bar\0baz\0", 12);
    rig_start(&r);
    FORWARD(&r, 0, 42);
    cr_assert_eq(r.sink.n, 1);
    struct bytes_view pk = fake_view(&r.sink, 0),
                      p = fake_msg(tree(&r, 0), PBF_ProcessTree_processes, 0);
    cr_expect_eq(fake_num(pk, PBF_TracePacket_incremental_state_cleared), 1, "T72");
    cr_expect_eq(fake_num(pk, PBF_TracePacket_timestamp), 1000 * CHRONO_MS);
    cr_expect_not(fake_has(pk, PBF_TracePacket_sequence_flags), "R169");
    cr_expect_eq(fake_num(p, PBF_ProcessTree_Process_pid), 42);
    cr_expect_eq(fake_num(p, PBF_ProcessTree_Process_ppid), 17);
    cr_expect_eq(fake_num(p, PBF_ProcessTree_Process_uid), 43);
    cr_expect_eq(fake_count(p, PBF_ProcessTree_Process_cmdline), 3);
    cr_expect(fake_str_is(fake_msg(p, PBF_ProcessTree_Process_cmdline, 1), "bar"));
    cr_expect_not(fake_has(p, PBF_ProcessTree_Process_is_kthread));
    cr_expect_not(fake_has(p, PBF_ProcessTree_Process_cmdline_is_comm));
    cr_expect_not(fake_has(p, PBF_ProcessTree_Process_nspid));
    struct bytes_view t = fake_msg(tree(&r, 0), PBF_ProcessTree_threads, 0);
    cr_expect_eq(fake_num(t, PBF_ProcessTree_Thread_tid), 42, "R179");
    cr_expect_not(fake_has(t, PBF_ProcessTree_Thread_name), "R180");
    cr_expect(fake_has(tree(&r, 0), PBF_ProcessTree_collection_end_timestamp));
    rig_fini(&r);
}

Test(ps, t70_cmdline_forms)
{
    struct rig r;
    rig_init(&r);
    thread(&r, 1, 1, 0, "a", "");
    cmdline(&r, 1, "surfaceflinger", 14);
    thread(&r, 2, 2, 0, "b", "");
    cmdline(&r, 2, "x\0\0\0y\0\0", 7);
    rig_start(&r);
    FORWARD(&r, 1, 2);
    struct bytes_view p = fake_msg(tree(&r, 0), 1, 0);
    cr_expect_eq(fake_count(p, PBF_ProcessTree_Process_cmdline), 1);
    cr_expect(fake_str_is(fake_msg(p, PBF_ProcessTree_Process_cmdline, 0), "surfaceflinger"));
    p = fake_msg(tree(&r, 0), 1, 1);
    cr_expect_eq(fake_count(p, PBF_ProcessTree_Process_cmdline), 2, "empty arguments are dropped");
    rig_fini(&r);
}

Test(ps, t71_names_and_no_rescans)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_bool(p, PBF_ProcessStatsConfig_record_thread_names, true);
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "thread_%d", 10 + i);
        thread(&r, 10 + i, 10, 1, name, "");
        snprintf(name, sizeof name, "thread_%d", 20 + i);
        thread(&r, 20 + i, 20, 1, name, "");
    }
    thread(&r, 11, 10, 1, "proc1_t1", "");
    rig_start(&r);
    FORWARD(&r, 12, 10, 11, 20, 21, 22);
    cr_assert_eq(r.sink.n, 1);
    cr_expect_eq(fake_count(tree(&r, 0), PBF_ProcessTree_processes), 2);
    cr_expect_eq(fake_count(tree(&r, 0), PBF_ProcessTree_threads), 6);
    struct bytes_view t = fake_msg(tree(&r, 0), PBF_ProcessTree_threads, 1);
    cr_expect_eq(fake_num(t, PBF_ProcessTree_Thread_tid), 11, "ascending (R173)");
    cr_expect_eq(fake_num(t, PBF_ProcessTree_Thread_tgid), 10);
    cr_expect(fake_str_is(fake_msg(t, PBF_ProcessTree_Thread_name, 0), "proc1_t1"));
    FORWARD(&r, 10, 11, 12, 20, 21, 22);
    cr_expect_eq(r.sink.n, 1, "R170");
    thread(&r, 13, 10, 1, "late", "");
    FORWARD(&r, 10, 13);
    cr_assert_eq(r.sink.n, 2);
    cr_expect_eq(fake_count(tree(&r, 1), PBF_ProcessTree_processes), 0);
    cr_expect_eq(fake_count(tree(&r, 1), PBF_ProcessTree_threads), 1);
    cr_expect_not(fake_has(fake_view(&r.sink, 1), PBF_TracePacket_incremental_state_cleared));
    rig_fini(&r);
}

Test(ps, t71_a_thread_brings_its_leader)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_bool(p, PBF_ProcessStatsConfig_record_thread_names, true);
    thread(&r, 30, 30, 1, "leader", "");
    thread(&r, 31, 30, 1, "worker", "");
    rig_start(&r);
    FORWARD(&r, 31);
    struct bytes_view t = tree(&r, 0);
    cr_expect_eq(fake_num(fake_msg(t, 1, 0), PBF_ProcessTree_Process_pid), 30);
    cr_assert_eq(fake_count(t, 2), 2);
    cr_expect(fake_str_is(fake_msg(fake_msg(t, 2, 0), PBF_ProcessTree_Thread_name, 0), "leader"));
    cr_expect(fake_str_is(fake_msg(fake_msg(t, 2, 1), PBF_ProcessTree_Thread_name, 0), "worker"));
    rig_fini(&r);
}

Test(ps, t72_clear)
{
    struct rig r;
    rig_init(&r);
    thread(&r, 42, 42, 17, "foo", "");
    rig_start(&r);
    FORWARD(&r, 42);
    FORWARD(&r, 42);
    cr_assert_eq(r.sink.n, 1);
    probe_ps.clear_incremental(r.inst);
    FORWARD(&r, 42);
    cr_assert_eq(r.sink.n, 2);
    cr_assert_eq(fake_num(fake_view(&r.sink, 1), PBF_TracePacket_incremental_state_cleared), 1);
    rig_fini(&r);
}

Test(ps, t73_rename)
{
    struct rig r;
    rig_init(&r);
    thread(&r, 10, 10, 1, "a", "");
    thread(&r, 20, 20, 1, "b", "");
    cmdline(&r, 10, "pid10", 5);
    rig_start(&r);
    FORWARD(&r, 10, 20);
    cmdline(&r, 10, "new", 3);
    forward(&r, (int[]){10, 20}, 2, (int[]){10}, 1);
    cr_assert_eq(r.sink.n, 2);
    cr_assert_eq(fake_count(tree(&r, 1), 1), 1);
    cr_assert(fake_str_is(fake_msg(fake_msg(tree(&r, 1), 1, 0), PBF_ProcessTree_Process_cmdline, 0),
                          "new"));
    rig_fini(&r);
}

static const char memory[] =
    "VmPeak:\t 1000 kB\nVmSize:\t 100 kB\nVmLck:\t 40 kB\nVmHWM:\t 30 kB\nVmRSS:\t 20 kB\n"
    "RssAnon:\t 10 kB\nRssFile:\t 5 kB\nRssShmem:\t 4 kB\nVmSwap:\t 3 kB\n";

Test(ps, t74_counters)
{
    struct rig r;
    char path[256];
    struct pbw *p = rig_init(&r);
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_poll_ms, 1);
    pbw_bool(p, PBF_ProcessStatsConfig_resolve_process_fds, true);
    pbw_bool(p, PBF_ProcessStatsConfig_record_process_runtime, true);
    pbw_bool(p, PBF_ProcessStatsConfig_scan_smaps_rollup, true);
    pbw_bool(p, PBF_ProcessStatsConfig_record_process_dmabuf_rss, true);
    thread(&r, 5, 5, 1, "p5", memory);
    put(&r, 5, "oom_score_adj", "-17\n");
    put(&r, 5, "stat", "5 (a ) b) S 1 5 5 0 -1 1 2 3 4 5 23 69 0 0 20 0 1 0 15842 9 9\n");
    put(&r, 5, "smaps_rollup",
        "00400000-7ffc rollup\nRss: 70 kB\nPss: 60 kB\nPss_Anon: 3 kB\nSwapPss: 2 kB\n");
    put(&r, 5, "dmabuf_rss", "8192\n");
    snprintf(path, sizeof path, "proc/5/fd/3");
    fake_link(&r.d, path, "/dev/binder");
    put(&r, 5, "fd/not_a_link", "");
    rig_start(&r);
    reactor_settle(r.r);
    cr_assert_eq(r.sink.n, 2, "counters, then the tree of who was new (R193)");
    struct bytes_view x = fake_msg(stats(&r, 0), PBF_ProcessStats_processes, 0);
    static const struct {
        uint32_t field;
        uint64_t value;
    } want[] = {{PBF_ProcessStats_Process_pid, 5},
                {PBF_ProcessStats_Process_vm_size_kb, 100},
                {PBF_ProcessStats_Process_vm_locked_kb, 40},
                {PBF_ProcessStats_Process_vm_hwm_kb, 30},
                {PBF_ProcessStats_Process_vm_rss_kb, 20},
                {PBF_ProcessStats_Process_rss_anon_kb, 10},
                {PBF_ProcessStats_Process_rss_file_kb, 5},
                {PBF_ProcessStats_Process_rss_shmem_kb, 4},
                {PBF_ProcessStats_Process_vm_swap_kb, 3},
                {PBF_ProcessStats_Process_oom_score_adj, (uint64_t)-17},
                {PBF_ProcessStats_Process_smr_rss_kb, 70},
                {PBF_ProcessStats_Process_smr_pss_kb, 60},
                {PBF_ProcessStats_Process_smr_pss_anon_kb, 3},
                {PBF_ProcessStats_Process_smr_swap_pss_kb, 2},
                {PBF_ProcessStats_Process_dmabuf_rss_kb, 8},
                {PBF_ProcessStats_Process_runtime_user_mode, 23 * (CHRONO_SEC / 100)},
                {PBF_ProcessStats_Process_runtime_kernel_mode, 69 * (CHRONO_SEC / 100)}};
    cr_assert_eq(sysconf(_SC_CLK_TCK), 100);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        cr_expect_eq(fake_num(x, want[i].field), want[i].value, "field %u", want[i].field);
    cr_assert_eq(fake_count(x, PBF_ProcessStats_Process_fds), 1);
    struct bytes_view fd = fake_msg(x, PBF_ProcessStats_Process_fds, 0);
    cr_expect_eq(fake_num(fd, PBF_ProcessStats_FDInfo_fd), 3);
    cr_expect(fake_str_is(fake_msg(fd, PBF_ProcessStats_FDInfo_path, 0), "/dev/binder"));
    cr_expect_eq(fake_count(tree(&r, 1), 1), 1);
    reactor_advance(r.r, 99 * CHRONO_MS);
    cr_expect_eq(r.sink.n, 2, "a period below 100 ms counts as 100 ms");
    reactor_advance(r.r, 1 * CHRONO_MS);
    cr_expect_eq(r.sink.n, 3, "without a cache everything is written again");
    rig_fini(&r);
}

Test(ps, t74_smaps_only_when_asked_for)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_poll_ms, 100);
    thread(&r, 5, 5, 1, "p5", memory);
    put(&r, 5, "smaps_rollup", "Rss: 70 kB\n");
    put(&r, 5, "stat", "5 (a) S 1 5 5 0 -1 1 2 3 4 5 23 69 0 0 20 0 1 0 15842 9 9\n");
    rig_start(&r);
    reactor_settle(r.r);
    struct bytes_view x = fake_msg(stats(&r, 0), PBF_ProcessStats_processes, 0);
    cr_expect_not(fake_has(x, PBF_ProcessStats_Process_smr_rss_kb));
    cr_expect_not(fake_has(x, PBF_ProcessStats_Process_runtime_user_mode));
    cr_expect_not(fake_has(x, PBF_ProcessStats_Process_oom_score_adj), "the file is missing");
    rig_fini(&r);
}

/* P = 105, ttl = 220: of four samples of constant values the 1st and 3rd are written. */
Test(ps, r191_cache)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    unsigned written = 0;
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_poll_ms, 105);
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_cache_ttl_ms, 220);
    thread(&r, 5, 5, 1, "p5", memory);
    rig_start(&r);
    for (unsigned i = 0; i < 4; i++) {
        unsigned before = r.sink.n;
        if (i == 0)
            reactor_settle(r.r);
        else
            reactor_advance(r.r, 105 * CHRONO_MS);
        bool any = false;
        for (unsigned k = before; k < r.sink.n; k++)
            any |= fake_has(fake_view(&r.sink, k), PBF_TracePacket_process_stats);
        cr_expect_eq(any, i == 0 || i == 2, "sample %u", i + 1);
        written += any;
    }
    cr_assert_eq(written, 2);
    rig_fini(&r);
}

Test(ps, r191_only_what_changed)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_poll_ms, 100);
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_cache_ttl_ms, 100000);
    thread(&r, 5, 5, 1, "p5", memory);
    thread(&r, 6, 6, 1, "p6", memory);
    pbw_bool(p, PBF_ProcessStatsConfig_resolve_process_fds, true);
    fake_link(&r.d, "proc/6/fd/1", "/dev/null");
    rig_start(&r);
    reactor_settle(r.r);
    unsigned n = r.sink.n;
    thread(&r, 6, 6, 1, "p6", "VmSize:\t 101 kB\nVmRSS:\t 20 kB\n");
    reactor_advance(r.r, 100 * CHRONO_MS);
    cr_assert_eq(r.sink.n, n + 1);
    cr_assert_eq(fake_count(stats(&r, n), PBF_ProcessStats_processes), 1);
    struct bytes_view x = fake_msg(stats(&r, n), PBF_ProcessStats_processes, 0);
    cr_expect_eq(fake_num(x, PBF_ProcessStats_Process_pid), 6);
    cr_expect_eq(fake_num(x, PBF_ProcessStats_Process_vm_size_kb), 101);
    cr_expect_not(fake_has(x, PBF_ProcessStats_Process_vm_rss_kb));
    cr_expect_not(fake_has(x, PBF_ProcessStats_Process_fds));
    rig_fini(&r);
}

Test(ps, r187_kernel_threads)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_poll_ms, 100);
    pbw_bool(p, PBF_ProcessStatsConfig_record_process_runtime, true);
    thread(&r, 2, 2, 0, "kthreadd", "Kthread:\t1\n");
    put(&r, 2, "oom_score_adj", "0\n");
    put(&r, 2, "stat", "2 (kthreadd) S 0 0 0 0 -1 1 2 3 4 5 23 69 0 0 20 0 1 0 15842 9 9\n");
    rig_start(&r);
    reactor_settle(r.r);
    struct bytes_view x = fake_msg(stats(&r, 0), PBF_ProcessStats_processes, 0);
    cr_expect(fake_has(x, PBF_ProcessStats_Process_runtime_user_mode), "R188");
    cr_expect_not(fake_has(x, PBF_ProcessStats_Process_oom_score_adj));
    struct bytes_view t = fake_msg(tree(&r, 1), 1, 0);
    cr_expect_eq(fake_num(t, PBF_ProcessTree_Process_is_kthread), 1, "T77");
    cr_expect_eq(fake_num(t, PBF_ProcessTree_Process_cmdline_is_comm), 1);
    cr_expect(fake_str_is(fake_msg(t, PBF_ProcessTree_Process_cmdline, 0), "kthreadd"));
    thread(&r, 2, 2, 0, "now_a_process", memory); /* the pid stays excluded */
    unsigned n = r.sink.n;
    reactor_advance(r.r, 100 * CHRONO_MS);
    x = fake_msg(stats(&r, n), PBF_ProcessStats_processes, 0);
    cr_expect_not(fake_has(x, PBF_ProcessStats_Process_vm_size_kb));
    rig_fini(&r);
}

Test(ps, t75_pid_namespace)
{
    struct rig r;
    rig_init(&r);
    thread(&r, 42, 42, 1, "main", "NSpid:\t42\t2\n");
    thread(&r, 43, 42, 1, "sub", "NSpid:\t43\t3\n");
    rig_start(&r);
    FORWARD(&r, 43);
    struct bytes_view t = tree(&r, 0);
    cr_expect_eq(fake_num(fake_msg(t, 1, 0), PBF_ProcessTree_Process_nspid), 2);
    cr_assert_eq(fake_count(t, 2), 2);
    cr_expect_eq(fake_num(fake_msg(t, 2, 0), PBF_ProcessTree_Thread_tid), 42);
    cr_expect_eq(fake_num(fake_msg(t, 2, 0), PBF_ProcessTree_Thread_nstid), 2);
    cr_expect_eq(fake_num(fake_msg(t, 2, 1), PBF_ProcessTree_Thread_tid), 43);
    cr_expect_eq(fake_num(fake_msg(t, 2, 1), PBF_ProcessTree_Thread_nstid), 3);
    FORWARD(&r, 42);
    cr_expect_eq(r.sink.n, 1);
    rig_fini(&r);
}

Test(ps, t76_age_t78_no_main_thread)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_bool(p, PBF_ProcessStatsConfig_record_process_age, true);
    pbw_bool(p, PBF_ProcessStatsConfig_skip_main_thread_message, true);
    thread(&r, 5, 5, 1, "p", "");
    put(&r, 5, "stat", "5 (a (b) c) S 1 5 5 0 -1 1 2 3 4 5 23 69 0 0 20 0 1 0 15842 9 9\n");
    thread(&r, 6, 6, 1, "q", "");
    rig_start(&r);
    FORWARD(&r, 5, 6);
    struct bytes_view t = tree(&r, 0);
    cr_expect_eq(fake_num(fake_msg(t, 1, 0), PBF_ProcessTree_Process_process_start_from_boot),
                 15842 * (CHRONO_SEC / (uint64_t)sysconf(_SC_CLK_TCK)),
                 "also with a hostile name (R183)");
    cr_expect_not(fake_has(fake_msg(t, 1, 1), PBF_ProcessTree_Process_process_start_from_boot));
    cr_expect_not(fake_has(t, PBF_ProcessTree_threads));
    rig_fini(&r);
}

Test(ps, r172_scan_at_start)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_bool(p, PBF_ProcessStatsConfig_scan_all_processes_on_start, true);
    pbw_bool(p, PBF_ProcessStatsConfig_resolve_process_fds, true);
    thread(&r, 5, 5, 1, "p", "");
    fake_mkdir(&r.d, "proc/5/task/5");
    fake_mkdir(&r.d, "proc/5/task/7");
    fake_mkdir(&r.d, "proc/sys");
    thread(&r, 8, 5, 1, "not a leader", "");
    fake_mkdir(&r.d, "proc/99"); /* gone already */
    fake_link(&r.d, "proc/5/fd/0", "/dev/null");
    rig_start(&r);
    cr_assert_eq(r.sink.n, 2);
    struct bytes_view t = tree(&r, 0);
    cr_expect_eq(fake_count(t, 1), 1);
    cr_assert_eq(fake_count(t, 2), 2);
    cr_expect_eq(fake_num(fake_msg(t, 2, 1), PBF_ProcessTree_Thread_tid), 7);
    cr_expect_eq(fake_num(fake_msg(t, 2, 1), PBF_ProcessTree_Thread_tgid), 5);
    cr_expect_eq(fake_count(stats(&r, 1), PBF_ProcessStats_processes), 1, "R192");
    FORWARD(&r, 5, 7);
    cr_expect_eq(r.sink.n, 2, "all known already");
    rig_fini(&r);
}

Test(ps, r192_fds_on_demand)
{
    struct rig r;
    struct ftmeta m = {0};
    struct pbw *p = rig_init(&r);
    pbw_bool(p, PBF_ProcessStatsConfig_resolve_process_fds, true);
    thread(&r, 5, 5, 1, "p", "");
    fake_link(&r.d, "proc/5/fd/9", "/a/file");
    rig_start(&r);
    ftmeta_pid(&m, 5);
    u64set_add(&m.fds, (uint64_t)5 << 32 | 9, NULL, NULL);
    u64set_add(&m.fds, (uint64_t)5 << 32 | 10, NULL, NULL);
    u64set_add(&m.fds, (uint64_t)77 << 32 | 1, NULL, NULL);
    probe_ps.on_ftrace(r.inst, &m);
    cr_assert_eq(r.sink.n, 2);
    struct bytes_view x = fake_msg(stats(&r, 1), PBF_ProcessStats_processes, 0);
    cr_expect_eq(fake_num(x, PBF_ProcessStats_Process_pid), 5);
    cr_expect_eq(fake_count(x, PBF_ProcessStats_Process_fds), 1);
    ftmeta_fini(&m);
    rig_fini(&r);
}

Test(ps, quirk_disable_on_demand)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_varint(p, PBF_ProcessStatsConfig_quirks, 2);
    thread(&r, 5, 5, 1, "p", "");
    rig_start(&r);
    FORWARD(&r, 5);
    cr_assert_eq(r.sink.n, 0);
    rig_fini(&r);
}

Test(ps, vanished_and_malformed_entries)
{
    struct rig r;
    rig_init(&r);
    put(&r, 5, "status", "");
    put(&r, 6, "status", "Name:\tx\nPid:\t6\n");
    put(&r, 7, "status", "\0\xff garbage without lines");
    put(&r, 8, "status", "Tgid:\t-3\nPid:\t8\n");
    rig_start(&r);
    FORWARD(&r, 4, 5, 6, 7, 8);
    cr_assert_eq(r.sink.n, 0);
    thread(&r, 5, 5, 1, "back", "");
    FORWARD(&r, 5);
    cr_assert_eq(r.sink.n, 1, "tried again when seen again (R173)");
    rig_fini(&r);
}

Test(ps, stat_fields)
{
    uint64_t v = 0;
    static const char s[] = "5 (x) S 1 2 3";
    cr_assert(ps_stat_field(ptext_of(s, sizeof s - 1), 4, &v) && v == 1);
    cr_assert(ps_stat_field(ptext_of(s, sizeof s - 1), 6, &v) && v == 3);
    cr_assert_not(ps_stat_field(ptext_of(s, sizeof s - 1), 7, &v));
    cr_assert_not(ps_stat_field(ptext_of("no paren", 8), 4, &v));
    cr_assert_not(ps_stat_field(ptext_of("", 0), 14, &v));
}

/* A scan that takes many slices: whoever wants to write in between ends it first. */
Test(ps, slices)
{
    struct rig r;
    struct pbw *p = rig_init(&r);
    pbw_varint(p, PBF_ProcessStatsConfig_proc_stats_poll_ms, 100);
    for (int pid = 1; pid <= 20; pid++)
        thread(&r, pid, pid, 0, "p", memory);
    thread(&r, 50, 20, 0, "thread", memory);
    rig_start(&r);
    struct ps *ps = r.inst;
    task_set_budget(&ps->scanning, 1, UINT64_MAX / 2);
    for (unsigned i = 0; i < 4; i++)
        reactor_tick(r.r, 0);
    cr_assert_eq(r.sink.n, 0, "it is still going on");
    cr_assert_gt(ps->polled.n, 0);
    FORWARD(&r, 50);
    cr_assert_eq(r.sink.n, 2);
    cr_expect_eq(fake_count(stats(&r, 0), PBF_ProcessStats_processes), 20 + 1,
                 "/proc/50 counts as well");
    cr_expect_eq(fake_count(tree(&r, 1), PBF_ProcessTree_processes), 20);
    reactor_settle(r.r);
    chrono_virtual_advance(100 * CHRONO_MS);
    for (unsigned i = 0; i < 3; i++)
        reactor_tick(r.r, 0);
    unsigned n = r.sink.n;
    cr_assert(probe_ps.flush(r.inst, 1));
    cr_expect_gt(r.sink.n, n, "a flush brings the rest");
    rig_fini(&r);
}
