/* SPDX-License-Identifier: Apache-2.0 */
/* ps_tree: ProcessTree packets: who the pids are.
 *
 * A pid is written once; `seen` remembers it. Each function reads /proc/PID/status at most once per
 * thread and takes all it needs from that text. A thread that is gone, or that turns out to belong
 * to somebody else by now, is skipped and not marked, so it is tried again when it shows up. */
#include <stdio.h>

#include "probes/ps.h"
#include "protos/fieldnum.h"
#include "smb/pbw.h"

#define STATUS_MAX  65536
#define CMDLINE_MAX (128U << 10)

/* What the tree needs of a status file. Texts point into the buffer that was parsed. */
struct status {
    int64_t tgid, pid, ppid;
    uint64_t uid;
    struct ptext name, nspid; /* nspid without the root namespace's own */
    int kthread;              /* -1 = not told */
};

static int64_t number(struct ptext text, const char *key)
{
    struct ptext v;
    int64_t n;
    return procfs_value(text, key, &v) && ptext_i64(v, &n) ? n : 0;
}

static bool read_status(struct ps *ps, int64_t pid, struct status *st)
{
    char path[64];
    struct ptext t, v, first;
    snprintf(path, sizeof path, "proc/%lld/status", (long long)pid);
    if (procfs_read(ps->host.sysroot, path, STATUS_MAX, &ps->status))
        return false;
    t = procfs_text(&ps->status);
    *st = (struct status){.tgid = number(t, "Tgid:"),
                          .pid = number(t, "Pid:"),
                          .ppid = number(t, "PPid:"),
                          .kthread = -1};
    if (st->tgid <= 0 || st->pid <= 0)
        return false;
    st->uid = (uint64_t)number(t, "Uid:");
    st->name = st->nspid = ptext_of("", 0);
    procfs_value(t, "Name:", &st->name);
    if (procfs_value(t, "NSpid:", &v) && ptext_word(&v, &first))
        st->nspid = v;
    if (procfs_value(t, "Kthread:", &v) && (ptext_eq(v, "0") || ptext_eq(v, "1")))
        st->kthread = *v.p - '0';
    return true;
}

static void write_ns(struct pbw *p, uint32_t field, struct ptext nspid)
{
    struct ptext w;
    int64_t v;
    while (ptext_word(&nspid, &w) && ptext_i64(w, &v))
        pbw_int(p, field, v);
}

static void mark(struct ps *ps, int64_t pid)
{
    u64set_add(&ps->seen, (uint64_t)pid, NULL, NULL);
}

/* A thread; st is NULL when only its id and process are to be told. */
static void write_thread(struct ps *ps, int64_t tid, int64_t tgid, const struct status *st)
{
    struct pbw *p = ps_open(ps, PBF_TracePacket_process_tree);
    pbw_begin(p, PBF_ProcessTree_threads);
    pbw_int(p, PBF_ProcessTree_Thread_tid, tid);
    if (st && ps->thread_names)
        pbw_bytes(p, PBF_ProcessTree_Thread_name, st->name.p, ptext_len(st->name));
    pbw_int(p, PBF_ProcessTree_Thread_tgid, tgid);
    if (st)
        write_ns(p, PBF_ProcessTree_Thread_nstid, st->nspid);
    pbw_end(p);
    mark(ps, tid);
}

/* R176. False: the name stood in for an empty command line. */
static bool write_cmdline(struct ps *ps, struct pbw *p, const struct status *st)
{
    char path[64];
    struct ptext t, arg;
    bool any = false;
    snprintf(path, sizeof path, "proc/%lld/cmdline", (long long)st->pid);
    procfs_read(ps->host.sysroot, path, CMDLINE_MAX, &ps->file);
    t = procfs_text(&ps->file);
    while (ptext_cut(&t, '\0', &arg)) {
        if (ptext_len(arg) == 0)
            continue;
        pbw_bytes(p, PBF_ProcessTree_Process_cmdline, arg.p, ptext_len(arg));
        any = true;
    }
    if (!any)
        pbw_bytes(p, PBF_ProcessTree_Process_cmdline, st->name.p, ptext_len(st->name));
    return any;
}

static void write_age(struct ps *ps, struct pbw *p, int64_t pid)
{
    char path[64];
    uint64_t ticks;
    snprintf(path, sizeof path, "proc/%lld/stat", (long long)pid);
    if (procfs_read(ps->host.sysroot, path, STATUS_MAX, &ps->file) == 0 &&
        ps_stat_field(procfs_text(&ps->file), 22, &ticks))
        pbw_varint(p, PBF_ProcessTree_Process_process_start_from_boot, ticks * ps->ns_per_tick);
}

/* A process and its main thread (R174 - R179). False if the status is not that of a leader. */
static bool write_process(struct ps *ps, const struct status *st)
{
    if (st->tgid != st->pid)
        return false;
    struct pbw *p = ps_open(ps, PBF_TracePacket_process_tree);
    pbw_begin(p, PBF_ProcessTree_processes);
    pbw_int(p, PBF_ProcessTree_Process_pid, st->pid);
    pbw_int(p, PBF_ProcessTree_Process_ppid, st->ppid);
    bool real = write_cmdline(ps, p, st);
    pbw_int(p, PBF_ProcessTree_Process_uid, (int32_t)st->uid);
    write_ns(p, PBF_ProcessTree_Process_nspid, st->nspid);
    if (ps->age)
        write_age(ps, p, st->pid);
    if (st->kthread >= 0)
        pbw_bool(p, PBF_ProcessTree_Process_is_kthread, st->kthread);
    if (!real)
        pbw_bool(p, PBF_ProcessTree_Process_cmdline_is_comm, true);
    pbw_end(p);
    mark(ps, st->pid);
    if (!ps->skip_main_thread)
        write_thread(ps, st->pid, st->pid, st);
    return true;
}

void ps_tree_pid(struct ps *ps, int64_t pid)
{
    struct status st, leader;
    char name[64], nspid[256]; /* of st while the buffer holds the leader's text */
    if (pid <= 0 || u64set_has(&ps->seen, (uint64_t)pid) || !read_status(ps, pid, &st))
        return;
    if (st.tgid == pid) {
        write_process(ps, &st);
        return;
    }
    if (!u64set_has(&ps->seen, (uint64_t)st.tgid)) {
        st.name = ptext_of(name, ptext_copy(st.name, name, sizeof name));
        st.nspid = ptext_of(nspid, ptext_copy(st.nspid, nspid, sizeof nspid));
        if (read_status(ps, st.tgid, &leader))
            write_process(ps, &leader);
    }
    write_thread(ps, pid, st.tgid, &st);
}

static void threads_of(struct ps *ps, int32_t pid, bool detailed)
{
    char path[64];
    struct status st;
    snprintf(path, sizeof path, "proc/%d/task", pid);
    DIR *d = procfs_opendir(ps->host.sysroot, path);
    if (!d)
        return;
    for (int32_t tid; (tid = procfs_next_pid(d)) > 0;) {
        if (tid == pid)
            continue;
        if (!detailed)
            write_thread(ps, tid, pid, NULL);
        else if (read_status(ps, tid, &st))
            write_thread(ps, tid, pid, &st);
    }
    closedir(d);
}

void ps_tree_all(struct ps *ps)
{
    struct status st;
    DIR *d = procfs_opendir(ps->host.sysroot, "proc");
    if (!d)
        return; /* R195 */
    for (int32_t pid; (pid = procfs_next_pid(d)) > 0;) {
        if (!read_status(ps, pid, &st))
            continue;
        bool nested = ptext_len(ptext_trim(st.nspid)) > 0;
        if (write_process(ps, &st))
            threads_of(ps, pid, ps->thread_names || nested);
    }
    closedir(d);
}
