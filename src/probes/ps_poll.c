/* SPDX-License-Identifier: Apache-2.0 */
/* ps_poll: ProcessStats packets: counters and open files of processes.
 *
 * A value goes into the packet if it differs from what `cached` holds for its pid; the entry of a
 * process, and the packet, are opened by the first such value, so a quiet system writes nothing
 * (R170). Values are taken as the kernel prints them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "probes/ps.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "smb/pbw.h"

#define STATUS_MAX  65536
#define FD_PATH_MAX 256 /* R192 */

static const uint8_t fields[PS_COUNTERS] = {
    [PS_VM_SIZE] = PBF_ProcessStats_Process_vm_size_kb,
    [PS_VM_LOCKED] = PBF_ProcessStats_Process_vm_locked_kb,
    [PS_VM_HWM] = PBF_ProcessStats_Process_vm_hwm_kb,
    [PS_VM_RSS] = PBF_ProcessStats_Process_vm_rss_kb,
    [PS_RSS_ANON] = PBF_ProcessStats_Process_rss_anon_kb,
    [PS_RSS_FILE] = PBF_ProcessStats_Process_rss_file_kb,
    [PS_RSS_SHMEM] = PBF_ProcessStats_Process_rss_shmem_kb,
    [PS_VM_SWAP] = PBF_ProcessStats_Process_vm_swap_kb,
    [PS_SMR_RSS] = PBF_ProcessStats_Process_smr_rss_kb,
    [PS_SMR_PSS] = PBF_ProcessStats_Process_smr_pss_kb,
    [PS_SMR_PSS_ANON] = PBF_ProcessStats_Process_smr_pss_anon_kb,
    [PS_SMR_PSS_FILE] = PBF_ProcessStats_Process_smr_pss_file_kb,
    [PS_SMR_PSS_SHMEM] = PBF_ProcessStats_Process_smr_pss_shmem_kb,
    [PS_SMR_SWAP_PSS] = PBF_ProcessStats_Process_smr_swap_pss_kb,
    [PS_RUNTIME_USER] = PBF_ProcessStats_Process_runtime_user_mode,
    [PS_RUNTIME_KERNEL] = PBF_ProcessStats_Process_runtime_kernel_mode,
    [PS_OOM_SCORE_ADJ] = PBF_ProcessStats_Process_oom_score_adj,
    [PS_DMABUF_RSS] = PBF_ProcessStats_Process_dmabuf_rss_kb,
};

struct key {
    const char *name;
    enum ps_counter counter;
};

static const struct key status_keys[] = {
    {"VmSize", PS_VM_SIZE},     {"VmLck", PS_VM_LOCKED},  {"VmHWM", PS_VM_HWM},
    {"VmRSS", PS_VM_RSS},       {"RssAnon", PS_RSS_ANON}, {"RssFile", PS_RSS_FILE},
    {"RssShmem", PS_RSS_SHMEM}, {"VmSwap", PS_VM_SWAP},
};

static const struct key smaps_keys[] = {
    {"Rss", PS_SMR_RSS},
    {"Pss", PS_SMR_PSS},
    {"Pss_Anon", PS_SMR_PSS_ANON},
    {"Pss_File", PS_SMR_PSS_FILE},
    {"Pss_Shmem", PS_SMR_PSS_SHMEM},
    {"SwapPss", PS_SMR_SWAP_PSS},
};

/* The process that is being read; its entry is open once something was written. */
struct entry {
    struct ps *ps;
    int32_t pid;
    bool open;
};

static struct pbw *entry_open(struct entry *e)
{
    struct pbw *p = ps_open(e->ps, PBF_TracePacket_process_stats);
    if (!e->open) {
        pbw_begin(p, PBF_ProcessStats_processes);
        pbw_int(p, PBF_ProcessStats_Process_pid, e->pid);
        e->open = true;
    }
    return p;
}

static void entry_close(struct entry *e)
{
    if (e->open)
        pbw_end(e->ps->p);
}

static struct ps_cached *cache_of(struct ps *ps, int32_t pid)
{
    uint32_t index;
    bool fresh;
    u64set_add(&ps->cached_pids, (uint64_t)pid, &index, &fresh);
    if (index >= ps->cached_cap) {
        ps->cached_cap = ps->cached_cap ? ps->cached_cap * 2 : 64;
        ps->cached = alloc_resize(ps->cached, ps->cached_cap, sizeof *ps->cached);
    }
    if (fresh)
        ps->cached[index].known = 0;
    return &ps->cached[index];
}

void ps_poll_drop_cache(struct ps *ps)
{
    u64set_clear(&ps->cached_pids);
    u64set_clear(&ps->cached_fds);
    ps->cache_age = 0;
}

static void put(struct entry *e, struct ps_cached *c, enum ps_counter i, uint64_t v)
{
    if ((c->known >> i & 1) && c->value[i] == v)
        return;
    c->known |= 1U << i;
    c->value[i] = v;
    pbw_varint(entry_open(e), fields[i], v);
}

static bool slurp(struct ps *ps, int32_t pid, const char *file, struct procfs_buf *b)
{
    char path[64];
    snprintf(path, sizeof path, "proc/%d/%s", pid, file);
    return procfs_read(ps->host.sysroot, path, STATUS_MAX, b) == 0 && b->len;
}

static void put_keys(struct entry *e, struct ps_cached *c, struct ptext text,
                     const struct key *keys, size_t n)
{
    struct ptext line, key;
    while (ptext_line(&text, &line)) {
        uint64_t v;
        if (!ptext_cut(&line, ':', &key))
            continue;
        for (size_t i = 0; i < n; i++)
            if (ptext_eq(key, keys[i].name)) {
                if (ptext_u64(line, &v))
                    put(e, c, keys[i].counter, v);
                break;
            }
    }
}

static bool put_runtime(struct entry *e, struct ps_cached *c)
{
    struct ps *ps = e->ps;
    uint64_t user, kernel;
    if (!slurp(ps, e->pid, "stat", &ps->file))
        return false;
    if (ps_stat_field(procfs_text(&ps->file), 14, &user) &&
        ps_stat_field(procfs_text(&ps->file), 15, &kernel)) {
        put(e, c, PS_RUNTIME_USER, user * ps->ns_per_tick);
        put(e, c, PS_RUNTIME_KERNEL, kernel * ps->ns_per_tick);
    }
    return true;
}

/* False if the process is gone or has no memory of its own (R187). */
static bool put_memory(struct entry *e, struct ps_cached *c, bool *readable)
{
    struct ps *ps = e->ps;
    struct ptext v;
    uint64_t bytes;
    if (!slurp(ps, e->pid, "status", &ps->status))
        return false;
    *readable = true;
    if (!procfs_value(procfs_text(&ps->status), "VmSize:", &v)) {
        u64set_add(&ps->memoryless, (uint64_t)e->pid, NULL, NULL);
        return false;
    }
    put_keys(e, c, procfs_text(&ps->status), status_keys,
             sizeof status_keys / sizeof status_keys[0]);
    if (ps->dmabuf && slurp(ps, e->pid, "dmabuf_rss", &ps->file) &&
        ptext_u64(procfs_text(&ps->file), &bytes))
        put(e, c, PS_DMABUF_RSS, bytes / 1024);
    if (ps->smaps && slurp(ps, e->pid, "smaps_rollup", &ps->file))
        put_keys(e, c, procfs_text(&ps->file), smaps_keys,
                 sizeof smaps_keys / sizeof smaps_keys[0]);
    return true;
}

static void put_fd(struct entry *e, int dir, const char *name)
{
    char target[FD_PATH_MAX];
    struct ps *ps = e->ps;
    uint64_t fd;
    bool fresh;
    struct ptext t = ptext_of(name, strlen(name));
    if (!ptext_all_digits(t) || !ptext_u64(t, &fd) || fd > INT32_MAX)
        return;
    ssize_t n = readlinkat(dir, name, target, sizeof target);
    if (n < 0)
        return;
    u64set_add(&ps->cached_fds, (uint64_t)e->pid << 32 | fd, NULL, &fresh);
    if (!fresh)
        return;
    struct pbw *p = entry_open(e);
    pbw_begin(p, PBF_ProcessStats_Process_fds);
    pbw_varint(p, PBF_ProcessStats_FDInfo_fd, fd);
    pbw_bytes(p, PBF_ProcessStats_FDInfo_path, target, (size_t)n);
    pbw_end(p);
}

static void put_fds(struct entry *e)
{
    char path[64];
    snprintf(path, sizeof path, "proc/%d/fd", e->pid);
    DIR *d = procfs_opendir(e->ps->host.sysroot, path);
    if (!d)
        return;
    for (struct dirent *x; (x = readdir(d));)
        if (x->d_type == DT_LNK || x->d_type == DT_UNKNOWN)
            put_fd(e, dirfd(d), x->d_name);
    closedir(d);
}

void ps_poll_pid(struct ps *ps, int32_t pid)
{
    struct entry e = {ps, pid, false};
    struct ps_cached *c = cache_of(ps, pid);
    bool readable = false;
    int64_t adj;
    if (ps->runtime)
        readable |= put_runtime(&e, c);
    if (!u64set_has(&ps->memoryless, (uint64_t)pid) && put_memory(&e, c, &readable)) {
        if (slurp(ps, pid, "oom_score_adj", &ps->file) && ptext_i64(procfs_text(&ps->file), &adj))
            put(&e, c, PS_OOM_SCORE_ADJ, (uint64_t)adj);
        if (ps->resolve_fds)
            put_fds(&e);
    }
    entry_close(&e);
    if (readable)
        u64set_add(&ps->polled, (uint64_t)pid, NULL, NULL);
}

void ps_poll_fds_all(struct ps *ps)
{
    DIR *d = procfs_opendir(ps->host.sysroot, "proc");
    if (!d)
        return;
    for (int32_t pid; (pid = procfs_next_pid(d)) > 0;) {
        struct entry e = {ps, pid, false};
        put_fds(&e);
        entry_close(&e);
    }
    closedir(d);
}

void ps_poll_fds(struct ps *ps, const struct u64set *fds)
{
    for (uint32_t i = 0; i < fds->n; i++) {
        uint64_t tid = fds->keys[i] >> 32, tgid;
        char path[64], name[16];
        struct ptext v;
        if (!u64set_has(&ps->seen, tid) || !slurp(ps, (int32_t)tid, "status", &ps->status) ||
            !procfs_value(procfs_text(&ps->status), "Tgid:", &v) || !ptext_u64(v, &tgid))
            continue;
        snprintf(path, sizeof path, "proc/%llu/fd", (unsigned long long)tgid);
        DIR *d = procfs_opendir(ps->host.sysroot, path);
        if (!d)
            continue;
        struct entry e = {ps, (int32_t)tgid, false};
        snprintf(name, sizeof name, "%u", (uint32_t)fds->keys[i]);
        put_fd(&e, dirfd(d), name);
        entry_close(&e);
        closedir(d);
    }
}
