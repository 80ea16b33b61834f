/* SPDX-License-Identifier: Apache-2.0 */
/* ps: an instance of linux.process_stats: config, timer, incremental state, packets.
 *
 * Names and parents are written once per thread until forgotten (a rename, or the service asking
 * for fresh incremental state); counters are written when they differ from what was written last,
 * and everything anew each time the cache expires (R191). A tick's scan runs in slices and its
 * packet stays open meanwhile. Invariant: at most one packet is open, it carries either a tree or
 * counters (R171), and whoever else wants to write ends the scan first. Processes vanish while they
 * are read: what cannot be read is left out, never an error. */
#include "probes/ps.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probes/ftrace/ftmeta.h"
#include "protos/config/process_stats/process_stats_config.upb.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "smb/pbw.h"

#define POLL_MIN_MS             100 /* 6.1 */
#define QUIRK_DISABLE_ON_DEMAND 2

struct pbw *ps_open(struct ps *ps, uint32_t field)
{
    if (ps->p)
        return ps->p;
    ps->p = ps->host.sink.begin(ps->host.sink.arg);
    pbw_varint(ps->p, PBF_TracePacket_timestamp, ps->scan_ts);
    if (ps->cleared)
        pbw_bool(ps->p, PBF_TracePacket_incremental_state_cleared, true);
    ps->cleared = false;
    pbw_begin(ps->p, field);
    return ps->p;
}

void ps_close(struct ps *ps, uint32_t end_field)
{
    if (!ps->p)
        return;
    pbw_varint(ps->p, end_field, chrono_boot_ns());
    pbw_end(ps->p);
    ps->host.sink.end(ps->host.sink.arg);
    ps->p = NULL;
}

bool ps_stat_field(struct ptext t, unsigned n, uint64_t *v)
{
    const char *paren = memrchr(t.p, ')', ptext_len(t));
    struct ptext w;
    if (!paren || n < 3)
        return false;
    t.p = paren + 1;
    t = ptext_trim(t);
    return ptext_skip_words(&t, n - 3) && ptext_word(&t, &w) && ptext_u64(w, v);
}

/* ---- a tick: counters of all processes, then the names of those not seen before (R193) ---- */

static bool scan_is_on(const struct ps *ps)
{
    return ps->dir || ps->polled.n;
}

/* Counters are through; false when there is nobody to be named. */
static bool begin_naming(struct ps *ps)
{
    closedir(ps->dir);
    ps->dir = NULL;
    ps_close(ps, PBF_ProcessStats_collection_end_timestamp);
    if (++ps->cache_age >= ps->cache_ttl)
        ps_poll_drop_cache(ps);
    ps->scan_ts = chrono_boot_ns();
    ps->treed = 0;
    u64set_sort(&ps->polled);
    return ps->polled.n > 0;
}

/* One process further; false at the end of the scan. */
static bool scan_step(struct ps *ps)
{
    if (ps->dir) {
        int32_t pid = procfs_next_pid(ps->dir);
        if (pid == 0)
            return begin_naming(ps);
        ps_poll_pid(ps, pid);
        return true;
    }
    if (ps->treed < ps->polled.n) {
        ps_tree_pid(ps, (int64_t)ps->polled.keys[ps->treed++]);
        return true;
    }
    ps_close(ps, PBF_ProcessTree_collection_end_timestamp);
    u64set_clear(&ps->polled);
    return false;
}

/* Other packets of this instance may only come between scans. */
static void scan_to_end(struct ps *ps)
{
    while (scan_is_on(ps) && scan_step(ps))
        ;
}

static enum task_result run_scan(void *arg, struct task_budget *budget)
{
    struct ps *ps = arg;
    while (scan_is_on(ps) && scan_step(ps))
        if (!task_spend_slow(budget, 1))
            return TASK_AGAIN;
    return TASK_DONE;
}

static void on_tick(void *arg)
{
    struct ps *ps = arg;
    deadline_arm_ms(&ps->tick, ps->poll_ms - chrono_mono_ns() / CHRONO_MS % ps->poll_ms);
    if (scan_is_on(ps))
        return; /* the last one takes longer than a period */
    ps->scan_ts = chrono_boot_ns();
    ps->dir = procfs_opendir(ps->host.sysroot, "proc");
    if (ps->dir)
        task_wake(&ps->scanning);
}

static void start(void *inst)
{
    struct ps *ps = inst;
    if (ps->scan_at_start) {
        ps->scan_ts = chrono_boot_ns();
        ps_tree_all(ps);
        ps_close(ps, PBF_ProcessTree_collection_end_timestamp);
        if (ps->resolve_fds) {
            ps->scan_ts = chrono_boot_ns();
            ps_poll_fds_all(ps);
            ps_close(ps, PBF_ProcessStats_collection_end_timestamp);
        }
    }
    if (ps->poll_ms)
        deadline_arm(&ps->tick, 0);
}

/* Renames before pids, so that a renamed thread is written anew in the same pass (R181). */
static void on_ftrace(void *inst, const struct ftmeta *meta)
{
    struct ps *ps = inst;
    struct u64set pids = {0};
    if (!ps->on_demand)
        return;
    scan_to_end(ps);
    for (uint32_t i = 0; i < meta->renames.n; i++)
        u64set_remove(&ps->seen, meta->renames.keys[i]);
    for (uint32_t i = 0; i < meta->pids.n; i++)
        if (!u64set_has(&ps->seen, meta->pids.keys[i]))
            u64set_add(&pids, meta->pids.keys[i], NULL, NULL);
    u64set_sort(&pids);
    ps->scan_ts = chrono_boot_ns();
    for (uint32_t i = 0; i < pids.n; i++)
        ps_tree_pid(ps, (int64_t)pids.keys[i]);
    ps_close(ps, PBF_ProcessTree_collection_end_timestamp);
    u64set_fini(&pids);
    if (ps->resolve_fds && meta->fds.n) {
        ps->scan_ts = chrono_boot_ns();
        ps_poll_fds(ps, &meta->fds);
        ps_close(ps, PBF_ProcessStats_collection_end_timestamp);
    }
}

/* The writer's commit follows; it must not find a packet half written. */
static bool flush(void *inst, uint64_t id)
{
    struct ps *ps = inst;
    (void)id;
    scan_to_end(ps);
    return true;
}

static void clear_incremental(void *inst)
{
    struct ps *ps = inst;
    scan_to_end(ps);
    u64set_clear(&ps->seen);
    u64set_clear(&ps->memoryless);
    ps_poll_drop_cache(ps);
    ps->cleared = true;
}

static void destroy(void *inst)
{
    struct ps *ps = inst;
    deadline_cancel(&ps->tick);
    task_stop(&ps->scanning);
    ps_close(ps, ps->dir ? PBF_ProcessStats_collection_end_timestamp
                         : PBF_ProcessTree_collection_end_timestamp);
    if (ps->dir)
        closedir(ps->dir);
    u64set_fini(&ps->seen);
    u64set_fini(&ps->memoryless);
    u64set_fini(&ps->cached_pids);
    u64set_fini(&ps->cached_fds);
    u64set_fini(&ps->polled);
    procfs_buf_fini(&ps->status);
    procfs_buf_fini(&ps->file);
    free(ps->cached);
    free(ps);
}

static void take_config(struct ps *ps, const perfetto_protos_ProcessStatsConfig *m)
{
    size_t n;
    const int32_t *quirks = perfetto_protos_ProcessStatsConfig_quirks(m, &n);
    uint32_t ttl = perfetto_protos_ProcessStatsConfig_proc_stats_cache_ttl_ms(m);
    ps->on_demand = true;
    for (size_t i = 0; i < n; i++)
        if (quirks[i] == QUIRK_DISABLE_ON_DEMAND)
            ps->on_demand = false;
    ps->scan_at_start = perfetto_protos_ProcessStatsConfig_scan_all_processes_on_start(m);
    ps->thread_names = perfetto_protos_ProcessStatsConfig_record_thread_names(m);
    ps->resolve_fds = perfetto_protos_ProcessStatsConfig_resolve_process_fds(m);
    ps->smaps = perfetto_protos_ProcessStatsConfig_scan_smaps_rollup(m);
    ps->age = perfetto_protos_ProcessStatsConfig_record_process_age(m);
    ps->runtime = perfetto_protos_ProcessStatsConfig_record_process_runtime(m);
    ps->dmabuf = perfetto_protos_ProcessStatsConfig_record_process_dmabuf_rss(m);
    ps->skip_main_thread = perfetto_protos_ProcessStatsConfig_skip_main_thread_message(m);
    ps->poll_ms = perfetto_protos_ProcessStatsConfig_proc_stats_poll_ms(m);
    if (ps->poll_ms && ps->poll_ms < POLL_MIN_MS)
        ps->poll_ms = POLL_MIN_MS;
    ps->cache_ttl = ps->poll_ms && ttl / ps->poll_ms > 1 ? ttl / ps->poll_ms : 1;
}

static int setup(const struct probe_host *host, struct bytes_view config, void **inst, char *why)
{
    struct ps *ps = alloc_new(struct ps);
    upb_Arena *arena = upb_Arena_New();
    const perfetto_protos_ProcessStatsConfig *m =
        arena ? perfetto_protos_ProcessStatsConfig_parse((const char *)config.p, config.n, arena)
              : NULL;
    long hz = sysconf(_SC_CLK_TCK);
    ps->host = *host;
    ps->cleared = true;
    ps->ns_per_tick = CHRONO_SEC / (uint64_t)(hz > 0 ? hz : 100);
    deadline_init(&ps->tick, host->reactor, "process_stats", on_tick, ps);
    task_init(&ps->scanning, host->reactor, "process_stats scan", run_scan, ps);
    if (m)
        take_config(ps, m);
    else
        snprintf(why, PROBE_WHY_MAX,
                 "process_stats_config is not a valid ProcessStatsConfig message");
    if (arena)
        upb_Arena_Free(arena);
    if (!m) {
        destroy(ps);
        return -EINVAL;
    }
    *inst = ps;
    return 0;
}

const struct probe_ops probe_ps = {
    .name = "linux.process_stats",
    .config_field = PBF_DataSourceConfig_process_stats_config,
    .incremental = true,
    .setup = setup,
    .start = start,
    .flush = flush,
    .clear_incremental = clear_incremental,
    .on_ftrace = on_ftrace,
    .destroy = destroy,
};
