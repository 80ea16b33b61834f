/* SPDX-License-Identifier: Apache-2.0 */
/* sysstats: an instance of linux.sys_stats, its periods and its one packet per tick.
 *
 * The base tick is the smallest period; a source whose period is n base ticks is sampled at every
 * n-th one (R197). The /proc files are opened once, at setup, and re-read from the start; a file
 * that failed once is left alone (R201). The instance owns its descriptors and its timer; packets
 * go through the host's sink, so nothing here knows of sockets. */
#include "probes/sysstats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "probes/ftrace/tracefs.h"
#include "probes/probe.h"
#include "probes/procfs.h"
#include "protos/config/sys_stats/sys_stats_config.upb.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/log.h"
#include "smb/pbw.h"

#define PERIOD_MIN_MS 10 /* R196 */
#define FILE_MAX      65535

enum file {
    F_MEMINFO,
    F_VMSTAT,
    F_STAT,
    F_BUDDYINFO,
    F_DISKSTATS,
    F_PSI_CPU,
    F_PSI_IO,
    F_PSI_MEMORY,
    F_SLABINFO,
    FILES
};

static const struct {
    const char *path;
    enum sysstats_source source;
} files[FILES] = {
    [F_MEMINFO] = {"proc/meminfo", SYSSTATS_MEMINFO},
    [F_VMSTAT] = {"proc/vmstat", SYSSTATS_VMSTAT},
    [F_STAT] = {"proc/stat", SYSSTATS_STAT},
    [F_BUDDYINFO] = {"proc/buddyinfo", SYSSTATS_BUDDYINFO},
    [F_DISKSTATS] = {"proc/diskstats", SYSSTATS_DISKSTAT},
    [F_PSI_CPU] = {"proc/pressure/cpu", SYSSTATS_PSI},
    [F_PSI_IO] = {"proc/pressure/io", SYSSTATS_PSI},
    [F_PSI_MEMORY] = {"proc/pressure/memory", SYSSTATS_PSI},
    [F_SLABINFO] = {"proc/slabinfo", SYSSTATS_SLAB},
};

struct sysstats {
    struct probe_host host;
    struct deadline tick;
    uint32_t base_ms;                 /* 0 = nothing is sampled */
    uint32_t every[SYSSTATS_SOURCES]; /* in base ticks; 0 = off */
    uint64_t ticks;
    struct sysstats_mask meminfo, vmstat, stat;
    int fds[FILES]; /* own; -1 = not wanted, or failed */
    uint64_t ns_per_tick;
    struct procfs_buf buf;
};

typedef perfetto_protos_SysStatsConfig msg_config;

static void take_periods(const msg_config *m, uint32_t *ms)
{
    ms[SYSSTATS_MEMINFO] = perfetto_protos_SysStatsConfig_meminfo_period_ms(m);
    ms[SYSSTATS_VMSTAT] = perfetto_protos_SysStatsConfig_vmstat_period_ms(m);
    ms[SYSSTATS_STAT] = perfetto_protos_SysStatsConfig_stat_period_ms(m);
    ms[SYSSTATS_DEVFREQ] = perfetto_protos_SysStatsConfig_devfreq_period_ms(m);
    ms[SYSSTATS_CPUFREQ] = perfetto_protos_SysStatsConfig_cpufreq_period_ms(m);
    ms[SYSSTATS_BUDDYINFO] = perfetto_protos_SysStatsConfig_buddyinfo_period_ms(m);
    ms[SYSSTATS_DISKSTAT] = perfetto_protos_SysStatsConfig_diskstat_period_ms(m);
    ms[SYSSTATS_PSI] = perfetto_protos_SysStatsConfig_psi_period_ms(m);
    ms[SYSSTATS_THERMAL] = perfetto_protos_SysStatsConfig_thermal_period_ms(m);
    ms[SYSSTATS_CPUIDLE] = perfetto_protos_SysStatsConfig_cpuidle_period_ms(m);
    ms[SYSSTATS_GPUFREQ] = perfetto_protos_SysStatsConfig_gpufreq_period_ms(m);
    ms[SYSSTATS_SLAB] = perfetto_protos_SysStatsConfig_slab_period_ms(m);
}

/* An empty list means all (R200). */
static void take_mask(struct sysstats_mask *mask, const int32_t *v, size_t n)
{
    for (size_t i = 0; i < 4; i++)
        mask->bits[i] = n ? 0 : UINT64_MAX;
    for (size_t i = 0; i < n; i++)
        if (v[i] > 0 && v[i] < 256)
            mask->bits[v[i] / 64] |= 1ULL << v[i] % 64;
}

static int take_config(struct sysstats *s, const msg_config *m, char *why)
{
    uint32_t ms[SYSSTATS_SOURCES], base = 0;
    size_t n;
    take_periods(m, ms);
    for (unsigned i = 0; i < SYSSTATS_SOURCES; i++) {
        if (ms[i] && ms[i] < PERIOD_MIN_MS)
            ms[i] = PERIOD_MIN_MS;
        if (ms[i] && (base == 0 || ms[i] < base))
            base = ms[i];
    }
    for (unsigned i = 0; i < SYSSTATS_SOURCES && base; i++) {
        if (ms[i] % base) {
            snprintf(why, PROBE_WHY_MAX,
                     "sys_stats_config: the period of %u ms is no multiple of the smallest one, "
                     "%u ms; make it one",
                     ms[i], base);
            return -EINVAL; /* R198 */
        }
        s->every[i] = ms[i] / base;
    }
    s->base_ms = base;
    const int32_t *v = perfetto_protos_SysStatsConfig_meminfo_counters(m, &n);
    take_mask(&s->meminfo, v, n);
    v = perfetto_protos_SysStatsConfig_vmstat_counters(m, &n);
    take_mask(&s->vmstat, v, n);
    v = perfetto_protos_SysStatsConfig_stat_counters(m, &n);
    take_mask(&s->stat, v, n);
    return 0;
}

static bool due(const struct sysstats *s, enum sysstats_source src)
{
    return s->every[src] && s->ticks % s->every[src] == 0;
}

/* Text of a /proc file that is due now; empty otherwise. */
static struct ptext file_text(struct sysstats *s, enum file f)
{
    if (!due(s, files[f].source) || s->fds[f] < 0)
        return ptext_of("", 0);
    if (procfs_read_fd(s->fds[f], FILE_MAX, &s->buf) == 0)
        return procfs_text(&s->buf);
    close(s->fds[f]);
    s->fds[f] = -1;
    return ptext_of("", 0);
}

static void sample(struct sysstats *s, struct pbw *p)
{
    sysstats_meminfo(p, file_text(s, F_MEMINFO), &s->meminfo);
    sysstats_vmstat(p, file_text(s, F_VMSTAT), &s->vmstat);
    sysstats_stat(p, file_text(s, F_STAT), &s->stat, s->ns_per_tick);
    if (due(s, SYSSTATS_DEVFREQ))
        sysstats_devfreq(p, s->host.sysroot);
    if (due(s, SYSSTATS_CPUFREQ))
        sysstats_cpufreq(p, s->host.sysroot, tracefs_n_cpus());
    sysstats_buddyinfo(p, file_text(s, F_BUDDYINFO));
    sysstats_diskstats(p, file_text(s, F_DISKSTATS));
    sysstats_pressure(p, file_text(s, F_PSI_CPU), 1, 2);
    sysstats_pressure(p, file_text(s, F_PSI_IO), 3, 4);
    sysstats_pressure(p, file_text(s, F_PSI_MEMORY), 5, 6);
    if (due(s, SYSSTATS_THERMAL))
        sysstats_thermal(p, s->host.sysroot);
    if (due(s, SYSSTATS_CPUIDLE))
        sysstats_cpuidle(p, s->host.sysroot);
    if (due(s, SYSSTATS_GPUFREQ))
        sysstats_gpufreq(p, s->host.sysroot);
    sysstats_slabinfo(p, file_text(s, F_SLABINFO));
}

static void on_tick(void *arg)
{
    struct sysstats *s = arg;
    deadline_arm_ms(&s->tick, s->base_ms - chrono_mono_ns() / CHRONO_MS % s->base_ms);
    struct pbw *p = s->host.sink.begin(s->host.sink.arg);
    pbw_varint(p, PBF_TracePacket_timestamp, chrono_boot_ns());
    pbw_begin(p, PBF_TracePacket_sys_stats);
    sample(s, p);
    pbw_varint(p, PBF_SysStats_collection_end_timestamp, chrono_boot_ns());
    pbw_end(p);
    s->host.sink.end(s->host.sink.arg);
    s->ticks++;
}

static void destroy(void *inst)
{
    struct sysstats *s = inst;
    deadline_cancel(&s->tick);
    for (unsigned i = 0; i < FILES; i++)
        if (s->fds[i] >= 0)
            close(s->fds[i]);
    procfs_buf_fini(&s->buf);
    free(s);
}

static void open_files(struct sysstats *s)
{
    for (unsigned i = 0; i < FILES; i++) {
        if (!s->every[files[i].source])
            continue;
        s->fds[i] = openat(s->host.sysroot, files[i].path, O_RDONLY | O_CLOEXEC);
        if (s->fds[i] < 0)
            log_info("linux.sys_stats: cannot open /%s; its counters stay out of the trace",
                     files[i].path);
    }
}

static int setup(const struct probe_host *host, struct bytes_view config, void **inst, char *why)
{
    struct sysstats *s = alloc_new(struct sysstats);
    upb_Arena *arena = upb_Arena_New();
    const msg_config *m =
        arena ? perfetto_protos_SysStatsConfig_parse((const char *)config.p, config.n, arena)
              : NULL;
    long hz = sysconf(_SC_CLK_TCK);
    int rc = -EINVAL;
    s->host = *host;
    s->ns_per_tick = CHRONO_SEC / (uint64_t)(hz > 0 ? hz : 100);
    deadline_init(&s->tick, host->reactor, "sys_stats", on_tick, s);
    for (unsigned i = 0; i < FILES; i++)
        s->fds[i] = -1;
    if (m)
        rc = take_config(s, m, why);
    else
        snprintf(why, PROBE_WHY_MAX, "sys_stats_config is not a valid SysStatsConfig message");
    if (arena)
        upb_Arena_Free(arena);
    if (rc) {
        destroy(s);
        return rc;
    }
    open_files(s);
    *inst = s;
    return 0;
}

static void start(void *inst)
{
    struct sysstats *s = inst;
    if (s->base_ms)
        deadline_arm(&s->tick, 0);
}

const struct probe_ops probe_sysstats = {
    .name = "linux.sys_stats",
    .config_field = PBF_DataSourceConfig_sys_stats_config,
    .setup = setup,
    .start = start,
    .destroy = destroy,
};
