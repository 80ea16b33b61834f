/* SPDX-License-Identifier: Apache-2.0 */
/* sysstats_sysfs: readers of the one-value files below /sys that linux.sys_stats samples.
 *
 * Devices come and go, so directories are walked at each sample; what is missing is left out or
 * written as 0, as the field's readers expect (R201, 7.2). Reads are small and bounded. */
#include "probes/sysstats.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "probes/procfs.h"
#include "protos/fieldnum.h"
#include "smb/pbw.h"

#define CPU_DIR "sys/devices/system/cpu"

static bool is_link(int dir, const struct dirent *e)
{
    struct stat st;
    if (e->d_type != DT_UNKNOWN)
        return e->d_type == DT_LNK;
    return fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);
}

void sysstats_devfreq(struct pbw *p, int root)
{
    DIR *d = procfs_opendir(root, "sys/class/devfreq");
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        char path[300];
        uint64_t v = 0;
        if (!is_link(dirfd(d), e))
            continue;
        snprintf(path, sizeof path, "%s/cur_freq", e->d_name);
        procfs_read_u64(dirfd(d), path, &v);
        pbw_begin(p, PBF_SysStats_devfreq);
        pbw_str(p, PBF_SysStats_DevfreqValue_key, e->d_name);
        pbw_varint(p, PBF_SysStats_DevfreqValue_value, v);
        pbw_end(p);
    }
    closedir(d);
}

void sysstats_cpufreq(struct pbw *p, int root, unsigned n_cpus)
{
    for (unsigned c = 0; c < n_cpus; c++) {
        char path[128];
        uint64_t khz = 0;
        snprintf(path, sizeof path, CPU_DIR "/cpu%u/cpufreq/scaling_cur_freq", c);
        procfs_read_u64(root, path, &khz);
        pbw_varint(p, PBF_SysStats_cpufreq_khz, (uint32_t)khz);
    }
}

void sysstats_thermal(struct pbw *p, int root)
{
    struct procfs_buf b = {0};
    DIR *d = procfs_opendir(root, "sys/class/thermal");
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        char path[300];
        int64_t milli;
        if (strncmp(e->d_name, "thermal_zone", 12) != 0 || !is_link(dirfd(d), e))
            continue;
        pbw_begin(p, PBF_SysStats_thermal_zone);
        pbw_str(p, PBF_SysStats_ThermalZone_name, e->d_name);
        snprintf(path, sizeof path, "%s/temp", e->d_name);
        if (procfs_read(dirfd(d), path, 64, &b) == 0 && ptext_i64(procfs_text(&b), &milli))
            pbw_int(p, PBF_SysStats_ThermalZone_temp, milli / 1000);
        snprintf(path, sizeof path, "%s/type", e->d_name);
        if (procfs_read(dirfd(d), path, 256, &b) == 0) {
            struct ptext t = ptext_trim(procfs_text(&b));
            pbw_bytes(p, PBF_SysStats_ThermalZone_type, t.p, ptext_len(t));
        }
        pbw_end(p);
    }
    closedir(d);
    procfs_buf_fini(&b);
}

static void idle_state(struct pbw *p, int dir, const char *state, struct procfs_buf *b)
{
    char path[300];
    uint64_t us;
    snprintf(path, sizeof path, "%s/time", state);
    if (!procfs_read_u64(dir, path, &us))
        return;
    snprintf(path, sizeof path, "%s/name", state);
    if (procfs_read(dir, path, 256, b) || b->len == 0)
        return;
    struct ptext t = ptext_trim(procfs_text(b));
    pbw_begin(p, PBF_SysStats_CpuIdleState_cpuidle_state_entry);
    pbw_bytes(p, PBF_SysStats_CpuIdleStateEntry_state, t.p, ptext_len(t));
    pbw_varint(p, PBF_SysStats_CpuIdleStateEntry_duration_us, us);
    pbw_end(p);
}

static void idle_cpu(struct pbw *p, int root, int cpu, struct procfs_buf *b)
{
    char path[128];
    snprintf(path, sizeof path, CPU_DIR "/cpu%d/cpuidle", cpu);
    DIR *d = procfs_opendir(root, path);
    if (!d)
        return; /* this CPU only (R205) */
    pbw_begin(p, PBF_SysStats_cpuidle_state);
    pbw_varint(p, PBF_SysStats_CpuIdleState_cpu_id, (uint32_t)cpu);
    for (struct dirent *e; (e = readdir(d));)
        if (procfs_suffix(e->d_name, "state") >= 0)
            idle_state(p, dirfd(d), e->d_name, b);
    pbw_end(p);
    closedir(d);
}

void sysstats_cpuidle(struct pbw *p, int root)
{
    struct procfs_buf b = {0};
    DIR *d = procfs_opendir(root, CPU_DIR);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        int cpu = procfs_suffix(e->d_name, "cpu");
        if (cpu >= 0)
            idle_cpu(p, root, cpu, &b);
    }
    closedir(d);
    procfs_buf_fini(&b);
}

/* "1: 300Mhz *": the starred line is the level in use. */
static bool amd_mhz(struct ptext text, uint64_t *mhz)
{
    struct ptext line, w;
    while (ptext_line(&text, &line)) {
        line = ptext_trim(line);
        if (!ptext_ends(line, "*"))
            continue;
        while (ptext_word(&line, &w))
            if (ptext_ends(w, "Mhz"))
                return ptext_u64(w, mhz);
    }
    return false;
}

void sysstats_gpufreq(struct pbw *p, int root)
{
    struct procfs_buf b = {0};
    uint64_t v;
    bool ok = procfs_read_u64(root, "sys/class/kgsl/kgsl-3d0/devfreq/cur_freq", &v);
    if (ok)
        v /= 1000000;
    else
        ok = procfs_read_u64(root, "sys/class/drm/card0/gt_act_freq_mhz", &v) ||
             (procfs_read(root, "sys/class/drm/card0/device/pp_dpm_sclk", 4096, &b) == 0 &&
              amd_mhz(procfs_text(&b), &v));
    if (ok)
        pbw_varint(p, PBF_SysStats_gpufreq_mhz, v);
    procfs_buf_fini(&b);
}
