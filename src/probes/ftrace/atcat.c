/* SPDX-License-Identifier: Apache-2.0 */
/* atcat: a constant table of categories.
 *
 * An event list is a string of words: "group:" sets the group for the names that follow, "+group"
 * stands for every event of that group in evtab. There is no atrace on this system: a category only
 * adds kernel events. sched_wakeup is left out of "sched" on purpose (R45). */
#include "probes/ftrace/atcat.h"

#include <stddef.h>
#include <string.h>

#include "probes/ftrace/evtab.h"
#include "probes/ptext.h"

static const struct {
    const char *name, *events;
} categories[] = {
    {"sched",
     "sched: sched_switch sched_waking sched_blocked_reason sched_cpu_hotplug sched_pi_setprio "
     "sched_process_exit +cgroup cgroup: cgroup_attach_task cgroup_destroy_root cgroup_mkdir "
     "cgroup_release cgroup_remount cgroup_rename cgroup_rmdir cgroup_setup_root "
     "cgroup_transfer_tasks oom: oom_score_adj_update task: task_rename task_newtask +systrace "
     "+scm"},
    {"irq", "+irq irq: tasklet_hi_entry tasklet_hi_exit tasklet_entry tasklet_exit softirq_raise "
            "softirq_entry softirq_exit irq_handler_entry irq_handler_exit +ipi"},
    {"irqoff", "preemptirq: irq_enable irq_disable"},
    {"preemptoff", "preemptirq: preempt_enable preempt_disable"},
    {"i2c", "+i2c i2c: i2c_read i2c_write i2c_result i2c_reply smbus_read smbus_write smbus_result "
            "smbus_reply"},
    {"freq", "power: cpu_frequency gpu_frequency clock_set_rate clock_disable clock_enable "
             "cpu_frequency_limits suspend_resume clk: clk_set_rate clk_disable clk_enable cpuhp: "
             "cpuhp_enter cpuhp_exit cpuhp_pause +msm_bus"},
    {"idle", "power: cpu_idle"},
    {"disk",
     "f2fs: f2fs_sync_file_enter f2fs_sync_file_exit f2fs_write_begin f2fs_write_end f2fs_iostat "
     "f2fs_iostat_latency ext4: ext4_da_write_begin ext4_da_write_end ext4_sync_file_enter "
     "ext4_sync_file_exit block: block_bio_queue block_bio_complete ufs: ufshcd_command"},
    {"mmc", "+mmc"},
    {"membus", "+memory_bus"},
    {"load", "+cpufreq_interactive"},
    {"sync", "+sync +fence +dma_fence"},
    {"workq", "+workqueue"},
    {"memreclaim",
     "vmscan: mm_vmscan_direct_reclaim_begin mm_vmscan_direct_reclaim_end "
     "mm_vmscan_memcg_reclaim_begin mm_vmscan_memcg_reclaim_end mm_vmscan_kswapd_wake "
     "mm_vmscan_kswapd_sleep +lowmemorykiller"},
    {"regulators", "+regulator"},
    {"binder_driver", "binder: binder_transaction binder_transaction_received "
                      "binder_transaction_alloc_buf binder_set_priority"},
    {"binder_lock", "binder: binder_lock binder_locked binder_unlock"},
    {"pagecache", "+filemap filemap: filemap_set_wb_err file_check_and_advance_wb_err"},
    {"memory",
     "kmem: rss_stat ion_heap_grow ion_heap_shrink ion: ion_stat mm_event: mm_event_record "
     "dmabuf_heap: dma_heap_stat gpu_mem: gpu_mem_total"},
    {"thermal", "thermal: thermal_temperature cdev_update"},
    {"gfx", "+mdss +mali +sde +dpu +g2d +panel"},
    {"ion", "kmem: ion_alloc_buffer_start"},
    {"camera", "+lwis"},
};

static void whole_group(struct ptext group, void (*cb)(void *, const char *, const char *),
                        void *arg)
{
    for (size_t i = 0; i < evtab_count(); i++) {
        struct evtab_event e;
        evtab_at(i, &e);
        if (ptext_eq(group, e.group))
            cb(arg, e.group, e.name);
    }
}

void atcat_each(const char *category, void (*cb)(void *arg, const char *group, const char *name),
                void *arg)
{
    for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++) {
        if (strcmp(categories[i].name, category) != 0)
            continue;
        struct ptext t = ptext_of(categories[i].events, strlen(categories[i].events)), w;
        char group[64] = "", name[64];
        while (ptext_word(&t, &w)) {
            if (*w.p == '+') {
                w.p++;
                whole_group(w, cb, arg);
            } else if (w.end[-1] == ':') {
                w.end--;
                ptext_copy(w, group, sizeof group);
            } else {
                ptext_copy(w, name, sizeof name);
                cb(arg, group, name);
            }
        }
    }
}

bool atcat_known(const char *category)
{
    for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++)
        if (strcmp(categories[i].name, category) == 0)
            return true;
    return false;
}
