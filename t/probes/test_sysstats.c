/* SPDX-License-Identifier: Apache-2.0 */
/* linux.sys_stats and linux.system_info: parsers on recorded text, ticks on a virtual clock.
 * probes.md 7, 8, T79 - T86. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"
#include "probes/probe.h"
#include "probes/sysinfo.h"
#include "probes/sysstats.h"
#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "reactor/reactor.h"

static struct pbw_flat flat;
static uint8_t buf[1 << 16];

static struct pbw *begin(void)
{
    pbw_flat_init(&flat, buf, sizeof buf);
    return &flat.pbw;
}

static struct bytes_view done(void)
{
    ptrdiff_t n = pbw_flat_end(&flat);
    cr_assert_geq(n, 0);
    return bytes_view(buf, (size_t)n);
}

static struct ptext text(const char *s)
{
    return ptext_of(s, strlen(s));
}

static struct sysstats_mask all(void)
{
    return (struct sysstats_mask){{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}};
}

static struct sysstats_mask only(unsigned v)
{
    struct sysstats_mask m = {{0}};
    m.bits[v / 64] = 1ULL << v % 64;
    return m;
}

static const char meminfo[] =
    "MemTotal:        3744240 kB\nMemFree:           96912 kB\nActive(anon):     5 kB\n"
    "NewKey:  1 kB\nCommitted_AS:   7 kB\nDirectMap4k: 8 kB\nGpu:   \nHugePages_Total:  0\n";

Test(sysstats, t79_meminfo)
{
    struct sysstats_mask m = all();
    sysstats_meminfo(begin(), text(meminfo), &m);
    struct bytes_view s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_meminfo), 4);
    static const uint64_t want[][2] = {{1, 3744240}, {2, 96912}, {9, 5}, {28, 7}};
    for (unsigned i = 0; i < 4; i++) {
        struct bytes_view v = fake_msg(s, PBF_SysStats_meminfo, i);
        cr_expect_eq(fake_num(v, 1), want[i][0]);
        cr_expect_eq(fake_num(v, 2), want[i][1]);
    }
    m = only(2);
    sysstats_meminfo(begin(), text(meminfo), &m);
    s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_meminfo), 1);
    cr_assert_eq(fake_num(fake_msg(s, PBF_SysStats_meminfo, 0), 1), 2);
}

Test(sysstats, t79_vmstat)
{
    static const char file[] =
        "nr_free_pages 16449\nnr_unheard_of 5\npgfault 7\nworkingset_restore_file 9\n";
    struct sysstats_mask m = all();
    sysstats_vmstat(begin(), text(file), &m);
    struct bytes_view s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_vmstat), 3);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_vmstat, 0), 1), 1);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_vmstat, 2), 1), 188);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_vmstat, 2), 2), 9);
}

static const char stat_text[] =
    "cpu  2655987 822682 2352153 8801203 41917 322733 175055 5 6 7\n"
    "cpu0 762178 198196 902270 8801203 41917 322733 175055 4 6 7\n"
    "cpu1 452584 189340 374033 1\n"
    "intr 238128517 0 3 0 55\nctxt 373122860\nbtime 1536912218\nprocesses 243320\n"
    "procs_running 1\nsoftirq 84611084 10220177 0 28\n";

Test(sysstats, t80_stat)
{
    struct sysstats_mask m = all();
    sysstats_stat(begin(), text(stat_text), &m, 10000000);
    struct bytes_view s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_cpu_stat), 2, "the line of all CPUs does not count");
    struct bytes_view c = fake_msg(s, PBF_SysStats_cpu_stat, 0);
    cr_expect_eq(fake_num(c, PBF_SysStats_CpuTimes_cpu_id), 0);
    cr_expect_eq(fake_num(c, PBF_SysStats_CpuTimes_user_ns), 762178ULL * 10000000);
    cr_expect_eq(fake_num(c, PBF_SysStats_CpuTimes_steal_ns), 4ULL * 10000000);
    c = fake_msg(s, PBF_SysStats_cpu_stat, 1);
    cr_expect_eq(fake_num(c, PBF_SysStats_CpuTimes_cpu_id), 1);
    cr_expect_not(fake_has(c, PBF_SysStats_CpuTimes_io_wait_ns), "an old kernel's short line");
    cr_expect_eq(fake_num(s, PBF_SysStats_num_irq_total), 238128517);
    cr_assert_eq(fake_count(s, PBF_SysStats_num_irq), 2, "zeros are skipped");
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_num_irq, 0), 1), 1);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_num_irq, 1), 1), 3);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_num_irq, 1), 2), 55);
    cr_assert_eq(fake_count(s, PBF_SysStats_num_softirq), 3, "zeros are kept");
    cr_expect_eq(fake_num(s, PBF_SysStats_num_softirq_total), 84611084);
    cr_expect_eq(fake_num(s, PBF_SysStats_num_forks), 243320);
    m = only(SYSSTATS_FORK_COUNT);
    sysstats_stat(begin(), text(stat_text), &m, 10000000);
    s = done();
    cr_expect_eq(fake_num(s, PBF_SysStats_num_forks), 243320);
    cr_expect_eq(s.n, fake_count(s, PBF_SysStats_num_forks) * 4, "nothing else");
}

Test(sysstats, t81_diskstats)
{
    static const char file[] = "   8       0 sda 54133 5368 8221736 75929 30333 1157434 9599744 "
                               "143190 0 63672 249858 9595 0 2160072 19411 6649 11327\n"
                               "   7       1 loop1 1 2 3 4 5 6 7 8 9 10 11\n\n x\n";
    sysstats_diskstats(begin(), text(file));
    struct bytes_view s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_disk_stat), 2);
    struct bytes_view d = fake_msg(s, PBF_SysStats_disk_stat, 0);
    static const uint64_t want[] = {8221736, 75929, 9599744, 143190, 2160072, 19411, 6649, 11327};
    cr_expect(fake_str_is(fake_msg(d, 1, 0), "sda"));
    for (unsigned i = 0; i < 8; i++)
        cr_expect_eq(fake_num(d, i + 2), want[i], "field %u", i + 2);
    d = fake_msg(s, PBF_SysStats_disk_stat, 1);
    cr_expect_eq(fake_num(d, PBF_SysStats_DiskStat_write_time_ms), 8);
    cr_expect_not(fake_has(d, PBF_SysStats_DiskStat_discard_sectors));
}

Test(sysstats, t82_pressure)
{
    sysstats_pressure(begin(),
                      text("some avg10=0.00 avg60=0.00 avg300=0.00 total=417963\n"
                           "full avg10=0.00 avg60=0.00 avg300=0.00 total=205933\nother a b c "
                           "total=1\nsome a b total=1\n"),
                      5, 6);
    struct bytes_view s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_psi), 2);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_psi, 0), 1), 5);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_psi, 0), 2), 417963000);
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_psi, 1), 1), 6);
}

Test(sysstats, t83_sysfs)
{
    struct fake_dir d;
    fake_dir_init(&d);
    fake_put(&d, "zones/0/temp", "25000\n");
    fake_put(&d, "zones/0/type", "TSR0\n");
    fake_link(&d, "sys/class/thermal/thermal_zone0", "../../../zones/0");
    fake_put(&d, "sys/class/thermal/thermal_zone1/temp", "1");
    fake_link(&d, "sys/class/thermal/cooling_device0", "../../../zones/0");
    sysstats_thermal(begin(), d.fd);
    struct bytes_view s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_thermal_zone), 1, "symlinks named thermal_zone* alone");
    struct bytes_view z = fake_msg(s, PBF_SysStats_thermal_zone, 0);
    cr_expect(fake_str_is(fake_msg(z, 1, 0), "thermal_zone0"));
    cr_expect_eq(fake_num(z, 2), 25);
    cr_expect(fake_str_is(fake_msg(z, 3, 0), "TSR0"));

    fake_put(&d, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "2650000\n");
    sysstats_cpufreq(begin(), d.fd, 2);
    static const uint8_t freq[] = {0x58, 0x00, 0x58, 0x90, 0xdf, 0xa1, 0x01};
    s = done();
    cr_expect_eq(s.n, sizeof freq);
    cr_expect_arr_eq(s.p, freq, sizeof freq);

    fake_put(&d, "sys/devices/system/cpu/cpu1/cpuidle/state0/name", "C1\n");
    fake_put(&d, "sys/devices/system/cpu/cpu1/cpuidle/state0/time", "123456\n");
    fake_put(&d, "sys/devices/system/cpu/cpu1/cpuidle/state1/name", "C2\n");
    sysstats_cpuidle(begin(), d.fd);
    s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_cpuidle_state), 1);
    struct bytes_view c = fake_msg(s, PBF_SysStats_cpuidle_state, 0);
    cr_expect_eq(fake_num(c, 1), 1);
    cr_assert_eq(fake_count(c, 2), 1, "a state without time is skipped");
    cr_expect(fake_str_is(fake_msg(fake_msg(c, 2, 0), 1, 0), "C1"));
    cr_expect_eq(fake_num(fake_msg(c, 2, 0), 2), 123456);

    fake_put(&d, "devs/a/cur_freq", "1000\n");
    fake_link(&d, "sys/class/devfreq/10000000.gpu", "../../../devs/a");
    sysstats_devfreq(begin(), d.fd);
    s = done();
    cr_expect(fake_str_is(fake_msg(fake_msg(s, PBF_SysStats_devfreq, 0), 1, 0), "10000000.gpu"));
    cr_expect_eq(fake_num(fake_msg(s, PBF_SysStats_devfreq, 0), 2), 1000);

    sysstats_gpufreq(begin(), d.fd);
    cr_expect_eq(done().n, 0, "no GPU, no field");
    fake_put(&d, "sys/class/drm/card0/device/pp_dpm_sclk",
             "0: 200Mhz \n1: 695Mhz *\n2: 1500Mhz \n");
    sysstats_gpufreq(begin(), d.fd);
    cr_expect_eq(fake_num(done(), PBF_SysStats_gpufreq_mhz), 695);
    fake_put(&d, "sys/class/drm/card0/gt_act_freq_mhz", "300\n");
    sysstats_gpufreq(begin(), d.fd);
    cr_expect_eq(fake_num(done(), PBF_SysStats_gpufreq_mhz), 300);
    fake_put(&d, "sys/class/kgsl/kgsl-3d0/devfreq/cur_freq", "400000000\n");
    sysstats_gpufreq(begin(), d.fd);
    cr_expect_eq(fake_num(done(), PBF_SysStats_gpufreq_mhz), 400);
    fake_dir_fini(&d);
}

Test(sysstats, t84_slabinfo_and_buddyinfo)
{
    sysstats_slabinfo(
        begin(), text("slabinfo - version: 2.1\n# name ...\n"
                      "kmalloc-8k 4 4 8192 4 8 : tunables 0 0 0 : slabdata 1 1 0\nshort line\n"));
    struct bytes_view s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_slab_info), 1);
    struct bytes_view x = fake_msg(s, PBF_SysStats_slab_info, 0);
    cr_expect(fake_str_is(fake_msg(x, 1, 0), "kmalloc-8k"));
    cr_expect_eq(fake_num(x, 2), 8);
    cr_expect_eq(fake_num(x, 3), 1);
    sysstats_buddyinfo(
        begin(),
        text("Node 0, zone      DMA      1      0      3\nNode 1, zone   Normal 7\nbad\n"));
    s = done();
    cr_assert_eq(fake_count(s, PBF_SysStats_buddy_info), 2);
    x = fake_msg(s, PBF_SysStats_buddy_info, 0);
    cr_expect(fake_str_is(fake_msg(x, 1, 0), "0"));
    cr_expect(fake_str_is(fake_msg(x, 2, 0), "DMA"));
    cr_expect_eq(fake_count(x, 3), 3);
    cr_expect_eq(fake_num(x, 3), 3);
}

/* ---- the instance ---- */

struct rig {
    struct fake_dir d;
    struct fake_sink sink;
    struct reactor *r;
    struct probe_host host;
    void *inst;
    unsigned flushes;
};

static void quiet(void *arg, enum log_level level, const char *line)
{
    (void)arg, (void)level, (void)line;
}

static void on_flush(void *arg)
{
    ((struct rig *)arg)->flushes++;
}

static void rig_init(struct rig *r)
{
    memset(r, 0, sizeof *r);
    log_set_sink(quiet, NULL);
    chrono_virtual_start(1003 * CHRONO_MS);
    fake_dir_init(&r->d);
    fake_sink_init(&r->sink);
    r->r = reactor_new(NULL);
    r->host = (struct probe_host){.reactor = r->r,
                                  .sysroot = r->d.fd,
                                  .sink = fake_sink_of(&r->sink),
                                  .flush = on_flush,
                                  .arg = r};
}

static int rig_setup(struct rig *r, const struct probe_ops *ops)
{
    char why[PROBE_WHY_MAX];
    int rc = ops->setup(&r->host, done(), &r->inst, why);
    if (rc == 0)
        ops->start(r->inst);
    return rc;
}

static void rig_fini(struct rig *r, const struct probe_ops *ops)
{
    if (r->inst)
        ops->destroy(r->inst);
    reactor_free(r->r);
    fake_sink_fini(&r->sink);
    fake_dir_fini(&r->d);
}

static struct bytes_view stats_of(const struct rig *r, unsigned i)
{
    return fake_msg(fake_view(&r->sink, i), PBF_TracePacket_sys_stats, 0);
}

Test(sysstats, r197_r199_ticks)
{
    struct rig r;
    rig_init(&r);
    fake_put(&r.d, "proc/meminfo", meminfo);
    fake_put(&r.d, "proc/vmstat", "nr_free_pages 1\n");
    struct pbw *p = begin();
    pbw_varint(p, PBF_SysStatsConfig_meminfo_period_ms, 20);
    pbw_varint(p, PBF_SysStatsConfig_vmstat_period_ms, 40);
    cr_assert_eq(rig_setup(&r, &probe_sysstats), 0);
    cr_assert_eq(r.sink.n, 0);
    reactor_settle(r.r);
    cr_assert_eq(r.sink.n, 1, "the first tick comes at once");
    cr_expect_eq(fake_num(fake_view(&r.sink, 0), PBF_TracePacket_timestamp), 1003 * CHRONO_MS);
    cr_expect(fake_has(stats_of(&r, 0), PBF_SysStats_vmstat));
    reactor_advance(r.r, 17 * CHRONO_MS); /* to 1020, a multiple of 20 */
    cr_assert_eq(r.sink.n, 2);
    cr_expect_not(fake_has(stats_of(&r, 1), PBF_SysStats_vmstat));
    cr_expect(fake_has(stats_of(&r, 1), PBF_SysStats_meminfo));
    cr_expect(fake_has(stats_of(&r, 1), PBF_SysStats_collection_end_timestamp));
    reactor_advance(r.r, 80 * CHRONO_MS);
    cr_assert_eq(r.sink.n, 6);
    cr_expect(fake_has(stats_of(&r, 2), PBF_SysStats_vmstat));
    cr_expect_eq(fake_count(stats_of(&r, 5), PBF_SysStats_meminfo), 4,
                 "values are not cached (R202)");
    rig_fini(&r, &probe_sysstats);
}

Test(sysstats, r196_small_periods_r201_missing_files)
{
    struct rig r;
    rig_init(&r);
    pbw_varint(begin(), PBF_SysStatsConfig_stat_period_ms, 1);
    cr_assert_eq(rig_setup(&r, &probe_sysstats), 0);
    reactor_settle(r.r);
    reactor_advance(r.r, 10 * CHRONO_MS); /* 1003 -> 1013: one tick at 1010 */
    cr_assert_eq(r.sink.n, 2);
    cr_assert_not(fake_has(stats_of(&r, 1), PBF_SysStats_cpu_stat));
    rig_fini(&r, &probe_sysstats);
}

Test(sysstats, r197_all_off_r198_odd_multiples)
{
    struct rig r;
    rig_init(&r);
    begin();
    cr_assert_eq(rig_setup(&r, &probe_sysstats), 0);
    reactor_advance(r.r, CHRONO_SEC);
    cr_assert_eq(r.sink.n, 0);
    probe_sysstats.destroy(r.inst);
    r.inst = NULL;
    struct pbw *p = begin();
    pbw_varint(p, PBF_SysStatsConfig_meminfo_period_ms, 20);
    pbw_varint(p, PBF_SysStatsConfig_psi_period_ms, 30);
    cr_assert_lt(rig_setup(&r, &probe_sysstats), 0);
    rig_fini(&r, &probe_sysstats);
}

/* ---- system_info ---- */

static const char cpuinfo[] =
    "Processor\t: AArch64 Processor rev 13 (aarch64)\n"
    "processor\t: 0\nBogoMIPS\t: 38.00\nFeatures\t: fp asimd mte mte3\nCPU implementer\t: 0x51\n"
    "CPU architecture: 8\nCPU variant\t: 0x7\nCPU part\t: 0x803\nCPU revision\t: 12\n\n"
    "processor\t: 1\nFeatures\t: fp\nCPU implementer\t: 0x51\n\nHardware\t: whatever\n";

Test(sysinfo, t85_cpus)
{
    struct rig r;
    rig_init(&r);
    fake_put(&r.d, "proc/cpuinfo", cpuinfo);
    fake_put(&r.d, "sys/devices/system/cpu/cpu0/cpu_capacity", "433\n");
    fake_put(&r.d, "sys/devices/system/cpu/cpu0/cpufreq/scaling_available_frequencies",
             "300000 576000 300000 \n");
    fake_put(&r.d, "sys/devices/system/cpu/cpu0/cpufreq/scaling_boost_frequencies", "100 600000\n");
    begin();
    cr_assert_eq(rig_setup(&r, &probe_sysinfo), 0);
    cr_assert_eq(r.sink.n, 1);
    cr_assert_eq(r.flushes, 1, "it flushes itself");
    struct bytes_view s = fake_msg(fake_view(&r.sink, 0), PBF_TracePacket_cpu_info, 0);
    cr_assert_eq(fake_count(s, PBF_CpuInfo_cpus), 2);
    struct bytes_view c = fake_msg(s, PBF_CpuInfo_cpus, 0),
                      id = fake_msg(c, PBF_CpuInfo_Cpu_arm_identifier, 0);
    cr_expect(fake_str_is(fake_msg(c, 1, 0), "AArch64 Processor rev 13 (aarch64)"));
    cr_expect_eq(fake_count(c, PBF_CpuInfo_Cpu_frequencies), 4, "ascending, each once");
    cr_expect_eq(fake_num(c, PBF_CpuInfo_Cpu_frequencies), 600000);
    cr_expect_eq(fake_num(c, PBF_CpuInfo_Cpu_capacity), 433);
    static const uint64_t want[] = {0x51, 8, 0x7, 0x803, 12};
    for (unsigned i = 0; i < 5; i++)
        cr_expect_eq(fake_num(id, i + 1), want[i]);
    cr_expect_eq(fake_num(c, PBF_CpuInfo_Cpu_features), 3);
    c = fake_msg(s, PBF_CpuInfo_cpus, 1);
    cr_expect(fake_str_is(fake_msg(c, 1, 0), "AArch64 Processor rev 13 (aarch64)"), "inherited");
    cr_expect_not(fake_has(c, PBF_CpuInfo_Cpu_arm_identifier), "R210: all five or none");
    cr_expect_not(fake_has(c, PBF_CpuInfo_Cpu_features));
    cr_expect_not(fake_has(c, PBF_CpuInfo_Cpu_capacity));
    rig_fini(&r, &probe_sysinfo);
}

Test(sysinfo, r208_x86_and_no_file)
{
    struct rig r;
    rig_init(&r);
    fake_put(&r.d, "proc/cpuinfo",
             "processor\t: 0\nflags\t\t: fpu mte\n\nprocessor\t: 1\nflags : x\n");
    begin();
    cr_assert_eq(rig_setup(&r, &probe_sysinfo), 0);
    struct bytes_view s = fake_msg(fake_view(&r.sink, 0), PBF_TracePacket_cpu_info, 0);
    cr_assert_eq(fake_count(s, PBF_CpuInfo_cpus), 2, "the last block ends with the file");
    cr_expect(fake_str_is(fake_msg(fake_msg(s, 1, 0), 1, 0), "unknown"));
    cr_expect_not(fake_has(fake_msg(s, 1, 0), PBF_CpuInfo_Cpu_features), "R210: not from flags");
    rig_fini(&r, &probe_sysinfo);
}

Test(sysinfo, t86_interrupts)
{
    static const char file[] =
        "           CPU0       CPU1       \n"
        "  1:          0         10   IO-APIC    1-edge      i8042\n"
        "  9:          0          0   IO-APIC    9-fasteoi   acpi\n"
        " 27:          0          0   PCI-MSIX-0000:00:01.0    0-edge   PCIe PME,  PCIe bwctrl\n"
        " 30:          1          2   GICv3 30 Level     arch_timer\n"
        " 31:          1          2   chip with spaces  5 Level     cs40l26 IRQ1 Controller\n"
        " 32:          1          2   dwapb  x  lastword\n"
        " 33:          1          2\n"
        " 34:          1          2   alone\n"
        " 35:          1          2   GICv3 35 Edge\n"
        "NMI:          0          0   Non-maskable interrupts\n"
        "IPI0:         1          2   Rescheduling interrupts\n";
    static const struct {
        unsigned irq;
        const char *name;
    } want[] = {{1, "i8042"},
                {9, "acpi"},
                {27, "PCIe PME, PCIe bwctrl"},
                {30, "arch_timer"},
                {31, "cs40l26 IRQ1 Controller"},
                {32, "lastword"}};
    struct rig r;
    rig_init(&r);
    fake_put(&r.d, "proc/interrupts", file);
    pbw_bool(begin(), PBF_SystemInfoConfig_irq_names, true);
    cr_assert_eq(rig_setup(&r, &probe_sysinfo), 0);
    cr_assert_eq(r.sink.n, 2);
    struct bytes_view s = fake_msg(fake_view(&r.sink, 1), PBF_TracePacket_interrupt_info, 0);
    cr_assert_eq(fake_count(s, 1), 6);
    for (unsigned i = 0; i < 6; i++) {
        struct bytes_view m = fake_msg(s, 1, i);
        cr_expect_eq(fake_num(m, 1), want[i].irq);
        cr_expect(fake_str_is(fake_msg(m, 2, 0), want[i].name), "irq %u", want[i].irq);
    }
    rig_fini(&r, &probe_sysinfo);
}

Test(sysinfo, r214_nothing_parsed_no_packet)
{
    struct rig r;
    rig_init(&r);
    fake_put(&r.d, "proc/interrupts", "no header\n 1: 2 a b\n");
    pbw_bool(begin(), PBF_SystemInfoConfig_irq_names, true);
    cr_assert_eq(rig_setup(&r, &probe_sysinfo), 0);
    cr_assert_eq(r.sink.n, 1);
    rig_fini(&r, &probe_sysinfo);
}
