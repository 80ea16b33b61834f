/* SPDX-License-Identifier: Apache-2.0 */
/* ps: the data source linux.process_stats, processes, threads and their counters (probes.md 6). */
#ifndef PROBES_PS_H
#define PROBES_PS_H

#include <stdbool.h>
#include <stdint.h>

#include "probes/probe.h"
#include "probes/procfs.h"
#include "probes/u64set.h"
#include "reactor/deadline.h"
#include "reactor/task.h"

/* Counters of a process, each with its field in ProcessStats.Process. */
enum ps_counter {
    PS_VM_SIZE,
    PS_VM_LOCKED,
    PS_VM_HWM,
    PS_VM_RSS,
    PS_RSS_ANON,
    PS_RSS_FILE,
    PS_RSS_SHMEM,
    PS_VM_SWAP,
    PS_SMR_RSS,
    PS_SMR_PSS,
    PS_SMR_PSS_ANON,
    PS_SMR_PSS_FILE,
    PS_SMR_PSS_SHMEM,
    PS_SMR_SWAP_PSS,
    PS_RUNTIME_USER,
    PS_RUNTIME_KERNEL,
    PS_OOM_SCORE_ADJ,
    PS_DMABUF_RSS,
    PS_COUNTERS
};

/* The values that were written last for one pid. */
struct ps_cached {
    uint64_t value[PS_COUNTERS];
    uint32_t known; /* bit set */
};

/* One instance; the parts of the module share it. */
struct ps {
    struct probe_host host;
    /* config (6.1) */
    bool on_demand, scan_at_start, thread_names, resolve_fds, smaps, age, runtime, dmabuf,
        skip_main_thread;
    uint32_t poll_ms;   /* 0 = off */
    uint32_t cache_ttl; /* in ticks, >= 1 */

    struct u64set seen;       /* pids and tids that were written since the state was cleared */
    struct u64set memoryless; /* kernel threads: no memory counters (R187) */
    bool cleared;             /* the next packet starts incremental state afresh (R169) */

    struct deadline tick;
    struct task scanning;      /* a tick's scan, in slices */
    DIR *dir;                  /* own; /proc while its processes are being polled, NULL otherwise */
    uint32_t treed;            /* while new ones are named: how many of `polled` are done */
    uint32_t cache_age;        /* ticks since the caches were dropped */
    struct u64set cached_pids; /* position is the index into cached */
    struct ps_cached *cached;  /* own */
    uint32_t cached_cap;
    struct u64set cached_fds; /* pid << 32 | fd */

    uint64_t ns_per_tick;
    struct procfs_buf status, file; /* scratch */
    struct u64set polled;           /* pids read in this tick (R193) */

    /* the packet that is open */
    struct pbw *p;    /* borrow; NULL = none */
    uint64_t scan_ts; /* boot ns before the first access of this scan (R168) */
};

/* ps.c: opens the packet of this scan with `field` (process_tree or process_stats) as its open
 * message unless that has happened; ps_close ends both. */
struct pbw *ps_open(struct ps *ps, uint32_t field);
void ps_close(struct ps *ps, uint32_t end_field);

/* ps_tree.c: everything about a thread that a trace should name (6.3). */
void ps_tree_all(struct ps *ps);              /* the whole system, R172 */
void ps_tree_pid(struct ps *ps, int64_t pid); /* a thread unless it is known already, R173 */

/* ps_poll.c: counters and file descriptors (6.4). */
void ps_poll_pid(struct ps *ps, int32_t pid);              /* adds it to ps->polled */
void ps_poll_fds_all(struct ps *ps);                       /* R192, at start */
void ps_poll_fds(struct ps *ps, const struct u64set *fds); /* R192, on demand; tid << 32 | fd */
void ps_poll_drop_cache(struct ps *ps);

/* Field number of a process' stat text, counted from 1 as proc(5) does, 3 and up: parsed from the
 * last ')' (R183). False if there is no such number. */
bool ps_stat_field(struct ptext stat, unsigned n, uint64_t *v);

#endif
