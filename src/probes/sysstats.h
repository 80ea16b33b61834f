/* SPDX-License-Identifier: Apache-2.0 */
/* sysstats: the data source linux.sys_stats, counters of the whole system (probes.md 7). */
#ifndef PROBES_SYSSTATS_H
#define PROBES_SYSSTATS_H

#include <stdbool.h>
#include <stdint.h>

#include "probes/ptext.h"

struct pbw;

/* What is sampled, each with its own period. */
enum sysstats_source {
    SYSSTATS_MEMINFO,
    SYSSTATS_VMSTAT,
    SYSSTATS_STAT,
    SYSSTATS_DEVFREQ,
    SYSSTATS_CPUFREQ,
    SYSSTATS_BUDDYINFO,
    SYSSTATS_DISKSTAT,
    SYSSTATS_PSI,
    SYSSTATS_THERMAL,
    SYSSTATS_CPUIDLE,
    SYSSTATS_GPUFREQ,
    SYSSTATS_SLAB,
    SYSSTATS_SOURCES
};

/* Which counters of a group are wanted, by enum value. */
struct sysstats_mask {
    uint64_t bits[4];
};

static inline bool sysstats_mask_has(const struct sysstats_mask *m, uint32_t v)
{
    return v < 256 && (m->bits[v / 64] >> v % 64 & 1);
}

/* StatCounters. */
enum {
    SYSSTATS_CPU_TIMES = 1,
    SYSSTATS_IRQ_COUNTS = 2,
    SYSSTATS_SOFTIRQ_COUNTS = 3,
    SYSSTATS_FORK_COUNT = 4
};

/* sysstats_text.c: each turns the text of one /proc file into fields of SysStats (R202, R203). */
void sysstats_meminfo(struct pbw *p, struct ptext text, const struct sysstats_mask *want);
void sysstats_vmstat(struct pbw *p, struct ptext text, const struct sysstats_mask *want);
void sysstats_stat(struct pbw *p, struct ptext text, const struct sysstats_mask *want,
                   uint64_t ns_per_tick);
void sysstats_buddyinfo(struct pbw *p, struct ptext text);
void sysstats_diskstats(struct pbw *p, struct ptext text);
void sysstats_slabinfo(struct pbw *p, struct ptext text);
/* some and full are the PsiResource values of that file. */
void sysstats_pressure(struct pbw *p, struct ptext text, uint32_t some, uint32_t full);

/* sysstats_sysfs.c: each reads below sys/ of the directory `root`. */
void sysstats_devfreq(struct pbw *p, int root);
void sysstats_cpufreq(struct pbw *p, int root, unsigned n_cpus);
void sysstats_thermal(struct pbw *p, int root);
void sysstats_cpuidle(struct pbw *p, int root);
void sysstats_gpufreq(struct pbw *p, int root);

#endif
