/* SPDX-License-Identifier: Apache-2.0 */
/* tracefs: all file access below the tracing directory.
 *
 * Everything is relative to a directory descriptor taken once, so a second mount cannot be slipped
 * under a running session, and a test can use an ordinary directory of files. Changes pass one
 * function, `change`, where a test can watch their order or refuse one. No text gets a trailing
 * newline: several control files take the write literally (R26). */
#include "probes/ftrace/tracefs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reactor/alloc.h"

static const char *const roots[] = {"/sys/kernel/tracing/", "/sys/kernel/debug/tracing/"};
#define N_ROOTS (sizeof roots / sizeof roots[0])

int tracefs_open(struct tracefs *fs, const char *root)
{
    struct tracefs t = {.dir = -1};
    size_t n = strlen(root);
    if (n == 0 || n + 2 > sizeof t.root)
        return -ENAMETOOLONG;
    memcpy(t.root, root, n);
    if (root[n - 1] != '/')
        t.root[n] = '/';
    t.dir = open(t.root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (t.dir < 0)
        return -errno;
    int fd = openat(t.dir, "trace", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int e = -errno;
        close(t.dir);
        return e;
    }
    close(fd);
    *fs = t;
    return 0;
}

int tracefs_find(struct tracefs *fs, const char **why)
{
    int worst = -ENOENT;
    for (size_t i = 0; i < N_ROOTS; i++) {
        int rc = tracefs_open(fs, roots[i]);
        if (rc == 0)
            return 0;
        if (rc == -EACCES || rc == -EPERM)
            worst = -EACCES;
    }
    if (worst == -EACCES)
        *why =
            "no permission for the kernel's tracing files in /sys/kernel/tracing: run as root, or "
            "give the group of the daemon access (mount -o remount,gid=GROUP,mode=750 "
            "/sys/kernel/tracing)";
    else
        *why = "tracefs is not mounted on /sys/kernel/tracing: run `mount -t tracefs nodev "
               "/sys/kernel/tracing` as root (needs a kernel with CONFIG_FTRACE)";
    return worst;
}

int tracefs_open_instance(struct tracefs *fs, const struct tracefs *primary, const char *name)
{
    char path[TRACEFS_PATH_MAX];
    bool hyp = strcmp(name, "hyp") == 0 || strcmp(name, "hypervisor") == 0;
    if (!*name || strchr(name, '/') || strncmp(name, "..", 2) == 0)
        return -EINVAL;
    int n = snprintf(path, sizeof path, "%s%s%s/", primary->root, hyp ? "" : "instances/", name);
    if (n < 0 || (size_t)n >= sizeof path)
        return -EINVAL;
    int rc = tracefs_open(fs, path);
    if (rc == 0) {
        fs->tap = primary->tap;
        fs->tap_arg = primary->tap_arg;
    }
    return rc;
}

void tracefs_close(struct tracefs *fs)
{
    if (fs->dir >= 0)
        close(fs->dir);
    fs->dir = -1;
}

int tracefs_read(const struct tracefs *fs, const char *path, struct procfs_buf *b)
{
    return procfs_read(fs->dir, path, TRACEFS_TEXT_MAX, b);
}

int tracefs_read_byte(const struct tracefs *fs, const char *path)
{
    unsigned char c;
    int fd = openat(fs->dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, &c, 1);
    close(fd);
    return n == 1 ? c : -1;
}

static int change(const struct tracefs *fs, enum tracefs_op op, const char *path, const char *text)
{
    static const int flags[] = {
        [TRACEFS_WRITE] = 0, [TRACEFS_APPEND] = O_APPEND, [TRACEFS_TRUNCATE] = O_TRUNC};
    if (fs->tap) {
        int rc = fs->tap(fs->tap_arg, op, path, text);
        if (rc < 0)
            return rc;
    }
    int fd = openat(fs->dir, path, O_WRONLY | O_CLOEXEC | flags[op]);
    if (fd < 0)
        return -errno;
    int rc = 0;
    size_t len = strlen(text);
    if (op != TRACEFS_TRUNCATE) {
        ssize_t n;
        do
            n = write(fd, text, len);
        while (n < 0 && errno == EINTR);
        if (n != (ssize_t)len)
            rc = n < 0 ? -errno : -EIO;
    }
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

int tracefs_write(const struct tracefs *fs, const char *path, const char *text)
{
    return change(fs, TRACEFS_WRITE, path, text);
}

int tracefs_append(const struct tracefs *fs, const char *path, const char *text)
{
    return change(fs, TRACEFS_APPEND, path, text);
}

int tracefs_truncate(const struct tracefs *fs, const char *path)
{
    return change(fs, TRACEFS_TRUNCATE, path, "");
}

int tracefs_write_u64(const struct tracefs *fs, const char *path, uint64_t v)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    return tracefs_write(fs, path, text);
}

bool tracefs_readable(const struct tracefs *fs, const char *path)
{
    return faccessat(fs->dir, path, R_OK, AT_EACCESS) == 0;
}

bool tracefs_writable(const struct tracefs *fs, const char *path)
{
    return faccessat(fs->dir, path, W_OK, AT_EACCESS) == 0;
}

int tracefs_open_raw(const struct tracefs *fs, unsigned cpu)
{
    char path[64];
    snprintf(path, sizeof path, "per_cpu/cpu%u/trace_pipe_raw", cpu);
    int fd = openat(fs->dir, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

unsigned tracefs_n_cpus(void)
{
    static unsigned n;
    if (!n) {
        long v = sysconf(_SC_NPROCESSORS_CONF);
        n = v > 0 && v < 65536 ? (unsigned)v : 1;
    }
    return n;
}

bool tracefs_cpu_list(struct ptext text, bool *cpus, unsigned n)
{
    struct ptext item;
    text = ptext_trim(text);
    memset(cpus, 0, n * sizeof *cpus);
    while (ptext_cut(&text, ',', &item)) {
        uint64_t a, b;
        struct ptext lo, hi;
        item = ptext_trim(item);
        if (!ptext_cut(&item, '-', &lo) || !ptext_all_digits(lo) || !ptext_u64(lo, &a))
            return false;
        hi = item.p > lo.end ? item : lo;
        if (!ptext_all_digits(hi) || !ptext_u64(hi, &b))
            return false;
        for (uint64_t c = a; c <= b && c < n; c++)
            cpus[c] = true;
    }
    return true;
}

int tracefs_clear_cpus(const struct tracefs *fs, unsigned configured, unsigned online,
                       const bool *offline)
{
    int rc = tracefs_truncate(fs, "trace");
    if (online == configured)
        return rc;
    for (unsigned c = 0; c < configured; c++) {
        char path[64];
        if (offline && !offline[c])
            continue;
        snprintf(path, sizeof path, "per_cpu/cpu%u/trace", c);
        int one = tracefs_truncate(fs, path);
        if (rc == 0)
            rc = one;
    }
    return rc;
}

int tracefs_clear(const struct tracefs *fs)
{
    unsigned n = tracefs_n_cpus();
    long on = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned online = on > 0 ? (unsigned)on : n;
    if (online == n)
        return tracefs_clear_cpus(fs, n, online, NULL);
    struct procfs_buf b = {0};
    bool *offline = alloc_array(n, sizeof *offline);
    bool known = procfs_read(AT_FDCWD, "/sys/devices/system/cpu/offline", 65536, &b) == 0 &&
                 tracefs_cpu_list(procfs_text(&b), offline, n);
    int rc = tracefs_clear_cpus(fs, n, online, known ? offline : NULL);
    free(offline);
    procfs_buf_fini(&b);
    return rc;
}

uint32_t tracefs_parse_buffer_pages(struct ptext text, unsigned page_kb)
{
    uint64_t kb;
    if (!ptext_u64(text, &kb) || kb == 0)
        return 1;
    uint64_t pages = kb / page_kb + (kb % page_kb != 0);
    return pages > UINT32_MAX ? UINT32_MAX : (uint32_t)pages;
}

uint32_t tracefs_buffer_pages(const struct tracefs *fs)
{
    struct procfs_buf b = {0};
    uint32_t pages = 1;
    if (tracefs_read(fs, "buffer_size_kb", &b) == 0)
        pages =
            tracefs_parse_buffer_pages(procfs_text(&b), (unsigned)(sysconf(_SC_PAGESIZE) / 1024));
    procfs_buf_fini(&b);
    return pages;
}

int tracefs_hard_reset_root(const struct tracefs *fs)
{
    int a = tracefs_write(fs, "tracing_on", "0");
    int b = tracefs_write(fs, "buffer_size_kb", "4");
    /* Best effort: a kernel without these has nothing to reset there. */
    (void)tracefs_write(fs, "events/enable", "0");
    (void)tracefs_write(fs, "events/raw_syscalls/filter", "0");
    (void)tracefs_write(fs, "current_tracer", "nop");
    int c = tracefs_truncate(fs, "trace");
    return a ? a : b ? b : c;
}

int tracefs_hard_reset(void)
{
    int rc = -ENOENT;
    for (size_t i = 0; i < N_ROOTS; i++) {
        struct tracefs fs;
        int one = tracefs_open(&fs, roots[i]);
        if (one == 0) {
            one = tracefs_hard_reset_root(&fs);
            tracefs_close(&fs);
        }
        if (one == 0)
            return 0;
        if (rc == -ENOENT)
            rc = one;
    }
    return rc;
}
