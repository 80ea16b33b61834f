/* SPDX-License-Identifier: Apache-2.0 */
/* sysstats_text: parsers of the /proc files that linux.sys_stats samples.
 *
 * Text in, protobuf fields out, nothing kept: each call writes every value it finds (R202). Lines
 * that are not understood are skipped, missing columns are not written, so an older or newer kernel
 * only changes what there is, never whether it works. */
#include "probes/sysstats.h"

#include <string.h>

#include "protos/fieldnum.h"
#include "smb/pbw.h"

/* Index is the value of MeminfoCounters. */
static const char *const meminfo_keys[] = {
    "",
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapCached",
    "Active",
    "Inactive",
    "Active(anon)",
    "Inactive(anon)",
    "Active(file)",
    "Inactive(file)",
    "Unevictable",
    "Mlocked",
    "SwapTotal",
    "SwapFree",
    "Dirty",
    "Writeback",
    "AnonPages",
    "Mapped",
    "Shmem",
    "Slab",
    "SReclaimable",
    "SUnreclaim",
    "KernelStack",
    "PageTables",
    "CommitLimit",
    "Committed_AS",
    "VmallocTotal",
    "VmallocUsed",
    "VmallocChunk",
    "CmaTotal",
    "CmaFree",
    "Gpu",
    "Zram",
    "Misc",
    "ION_heap",
    "ION_heap_pool",
};

/* Index is the value of VmstatCounters; made from the schema's tables. */
static const char *const vmstat_keys[] = {
#include "probes/vmstat_gen.h"
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* Position of a key, 0 if it is unknown. `hint` is where the last one was found: files keep the
 * order of the table mostly, so the search is short. */
static uint32_t key_of(const char *const *keys, size_t n, struct ptext key, uint32_t hint)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = (hint + 1 + i) % n;
        if (keys[at] && *keys[at] && ptext_eq(key, keys[at]))
            return (uint32_t)at;
    }
    return 0;
}

static void key_value(struct pbw *p, uint32_t field, uint32_t key, uint64_t value)
{
    pbw_begin(p, field);
    pbw_varint(p, 1, key);
    pbw_varint(p, 2, value);
    pbw_end(p);
}

static void key_values(struct pbw *p, struct ptext text, uint32_t field, const char *const *keys,
                       size_t n, const struct sysstats_mask *want)
{
    struct ptext line, key;
    uint32_t last = 0;
    while (ptext_line(&text, &line)) {
        uint64_t v;
        if (!ptext_word(&line, &key))
            continue;
        if (key.end[-1] == ':')
            key.end--;
        uint32_t k = key_of(keys, n, key, last);
        if (k == 0)
            continue;
        last = k;
        if (sysstats_mask_has(want, k) && ptext_u64(line, &v))
            key_value(p, field, k, v);
    }
}

void sysstats_meminfo(struct pbw *p, struct ptext text, const struct sysstats_mask *want)
{
    key_values(p, text, PBF_SysStats_meminfo, meminfo_keys, COUNT(meminfo_keys), want);
}

void sysstats_vmstat(struct pbw *p, struct ptext text, const struct sysstats_mask *want)
{
    key_values(p, text, PBF_SysStats_vmstat, vmstat_keys, COUNT(vmstat_keys), want);
}

/* "cpuN user nice system idle iowait irq softirq steal ..." */
static void cpu_times(struct pbw *p, struct ptext cpu, struct ptext line, uint64_t ns_per_tick)
{
    static const uint8_t fields[] = {
        PBF_SysStats_CpuTimes_user_ns,        PBF_SysStats_CpuTimes_user_nice_ns,
        PBF_SysStats_CpuTimes_system_mode_ns, PBF_SysStats_CpuTimes_idle_ns,
        PBF_SysStats_CpuTimes_io_wait_ns,     PBF_SysStats_CpuTimes_irq_ns,
        PBF_SysStats_CpuTimes_softirq_ns,     PBF_SysStats_CpuTimes_steal_ns,
    };
    uint64_t id, v;
    struct ptext w;
    cpu.p += strlen("cpu");
    if (!ptext_u64(cpu, &id))
        return; /* the line of all CPUs together */
    pbw_begin(p, PBF_SysStats_cpu_stat);
    pbw_varint(p, PBF_SysStats_CpuTimes_cpu_id, id);
    for (size_t i = 0; i < COUNT(fields) && ptext_word(&line, &w) && ptext_u64(w, &v); i++)
        pbw_varint(p, fields[i], v * ns_per_tick);
    pbw_end(p);
}

/* A total, then one count per number from 0. */
static void irq_counts(struct pbw *p, struct ptext line, uint32_t total, uint32_t each,
                       bool keep_zero)
{
    struct ptext w;
    uint64_t v;
    if (!ptext_word(&line, &w) || !ptext_u64(w, &v))
        return;
    pbw_varint(p, total, v);
    for (uint32_t irq = 0; ptext_word(&line, &w) && ptext_u64(w, &v); irq++)
        if (v || keep_zero)
            key_value(p, each, irq, v);
}

void sysstats_stat(struct pbw *p, struct ptext text, const struct sysstats_mask *want,
                   uint64_t ns_per_tick)
{
    struct ptext line, key;
    while (ptext_line(&text, &line)) {
        uint64_t v;
        if (!ptext_word(&line, &key))
            continue;
        if (ptext_starts(key, "cpu") && sysstats_mask_has(want, SYSSTATS_CPU_TIMES))
            cpu_times(p, key, line, ns_per_tick);
        else if (ptext_eq(key, "intr") && sysstats_mask_has(want, SYSSTATS_IRQ_COUNTS))
            irq_counts(p, line, PBF_SysStats_num_irq_total, PBF_SysStats_num_irq, false);
        else if (ptext_eq(key, "softirq") && sysstats_mask_has(want, SYSSTATS_SOFTIRQ_COUNTS))
            irq_counts(p, line, PBF_SysStats_num_softirq_total, PBF_SysStats_num_softirq, true);
        else if (ptext_eq(key, "processes") && sysstats_mask_has(want, SYSSTATS_FORK_COUNT) &&
                 ptext_u64(line, &v))
            pbw_varint(p, PBF_SysStats_num_forks, v);
    }
}

/* "Node 0, zone      DMA      1      0 ..." */
void sysstats_buddyinfo(struct pbw *p, struct ptext text)
{
    struct ptext line, w[4], n;
    while (ptext_line(&text, &line)) {
        unsigned i = 0;
        uint64_t v;
        while (i < 4 && ptext_word(&line, &w[i]))
            i++;
        if (i < 4 || !ptext_eq(w[0], "Node"))
            continue;
        if (w[1].end[-1] == ',')
            w[1].end--;
        pbw_begin(p, PBF_SysStats_buddy_info);
        pbw_bytes(p, PBF_SysStats_BuddyInfo_node, w[1].p, ptext_len(w[1]));
        pbw_bytes(p, PBF_SysStats_BuddyInfo_zone, w[3].p, ptext_len(w[3]));
        while (ptext_word(&line, &n) && ptext_u64(n, &v))
            pbw_varint(p, PBF_SysStats_BuddyInfo_order_pages, (uint32_t)v);
        pbw_end(p);
    }
}

void sysstats_diskstats(struct pbw *p, struct ptext text)
{
    /* column (from 0) and field, ascending; old kernels end after 13 or 17 columns */
    static const uint8_t columns[][2] = {
        {5, PBF_SysStats_DiskStat_read_sectors},     {6, PBF_SysStats_DiskStat_read_time_ms},
        {9, PBF_SysStats_DiskStat_write_sectors},    {10, PBF_SysStats_DiskStat_write_time_ms},
        {16, PBF_SysStats_DiskStat_discard_sectors}, {17, PBF_SysStats_DiskStat_discard_time_ms},
        {18, PBF_SysStats_DiskStat_flush_count},     {19, PBF_SysStats_DiskStat_flush_time_ms},
    };
    struct ptext line, w;
    while (ptext_line(&text, &line)) {
        uint64_t v;
        size_t next = 0;
        if (!ptext_skip_words(&line, 2) || !ptext_word(&line, &w))
            continue;
        pbw_begin(p, PBF_SysStats_disk_stat);
        pbw_bytes(p, PBF_SysStats_DiskStat_device_name, w.p, ptext_len(w));
        for (unsigned col = 3; next < COUNT(columns) && ptext_word(&line, &w); col++)
            if (col == columns[next][0]) {
                if (ptext_u64(w, &v))
                    pbw_varint(p, columns[next][1], v);
                next++;
            }
        pbw_end(p);
    }
}

void sysstats_slabinfo(struct pbw *p, struct ptext text)
{
    struct ptext line, name, pages, slabs;
    for (unsigned n = 0; ptext_line(&text, &line); n++) {
        uint64_t per, num;
        if (n < 2 || !ptext_word(&line, &name) || !ptext_skip_words(&line, 4) ||
            !ptext_word(&line, &pages) || !ptext_skip_words(&line, 8) ||
            !ptext_word(&line, &slabs) || !ptext_u64(pages, &per) || !ptext_u64(slabs, &num))
            continue;
        pbw_begin(p, PBF_SysStats_slab_info);
        pbw_bytes(p, PBF_SysStats_SlabInfo_name, name.p, ptext_len(name));
        pbw_varint(p, PBF_SysStats_SlabInfo_pages_per_slab, (uint32_t)per);
        pbw_varint(p, PBF_SysStats_SlabInfo_num_slabs, (uint32_t)num);
        pbw_end(p);
    }
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=417963" */
void sysstats_pressure(struct pbw *p, struct ptext text, uint32_t some, uint32_t full)
{
    struct ptext line, kind, total;
    while (ptext_line(&text, &line)) {
        uint64_t us;
        if (!ptext_word(&line, &kind) || !ptext_skip_words(&line, 3) ||
            !ptext_word(&line, &total) || !ptext_starts(total, "total="))
            continue;
        total.p += strlen("total=");
        if (!ptext_u64(total, &us) || !(ptext_eq(kind, "some") || ptext_eq(kind, "full")))
            continue;
        key_value(p, PBF_SysStats_psi, ptext_eq(kind, "some") ? some : full, us * 1000);
    }
}
