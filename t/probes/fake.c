/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>

#define GOLDEN "ftrace/x86_64-6.18"

void fake_dir_init(struct fake_dir *d)
{
    snprintf(d->path, sizeof d->path, "%s/probes.XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert_not_null(mkdtemp(d->path));
    d->fd = open(d->path, O_RDONLY | O_DIRECTORY);
    cr_assert_geq(d->fd, 0);
}

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

void fake_dir_fini(struct fake_dir *d)
{
    close(d->fd);
    nftw(d->path, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void make_parents(struct fake_dir *d, const char *path)
{
    char dir[512];
    for (const char *p = path; (p = strchr(p, '/')); p++) {
        snprintf(dir, sizeof dir, "%.*s", (int)(p - path), path);
        if (mkdirat(d->fd, dir, 0755) && errno != EEXIST)
            cr_assert_fail("mkdir %s: %s", dir, strerror(errno));
    }
}

void fake_put(struct fake_dir *d, const char *path, const char *text)
{
    make_parents(d, path);
    int fd = openat(d->fd, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    cr_assert_geq(fd, 0, "%s: %s", path, strerror(errno));
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

void fake_link(struct fake_dir *d, const char *path, const char *target)
{
    make_parents(d, path);
    cr_assert_eq(symlinkat(target, d->fd, path), 0);
}

void fake_mkdir(struct fake_dir *d, const char *path)
{
    char slash[512];
    snprintf(slash, sizeof slash, "%s/", path);
    make_parents(d, slash);
}

void fake_rm(struct fake_dir *d, const char *path)
{
    unlinkat(d->fd, path, 0);
}

static char *slurp(int dir, const char *path, size_t *len)
{
    int fd = openat(dir, path, O_RDONLY);
    if (fd < 0)
        return NULL;
    struct stat st;
    fstat(fd, &st);
    char *p = malloc((size_t)st.st_size + 1);
    ssize_t n = read(fd, p, (size_t)st.st_size);
    close(fd);
    p[n > 0 ? n : 0] = '\0';
    *len = n > 0 ? (size_t)n : 0;
    return p;
}

const char *fake_get(struct fake_dir *d, const char *path)
{
    static char text[65536];
    size_t n;
    char *p = slurp(d->fd, path, &n);
    snprintf(text, sizeof text, "%s", p ? p : "(none)");
    free(p);
    return text;
}

char *fake_data(const char *path, size_t *len)
{
    char full[1024];
    const char *src = getenv("srcdir");
    snprintf(full, sizeof full, "%s/t/data/%s", src ? src : "..", path);
    char *p = slurp(AT_FDCWD, full, len);
    cr_assert_not_null(p, "%s: %s", full, strerror(errno));
    return p;
}

/* ---- tracefs ---- */

static int tap(void *arg, enum tracefs_op op, const char *path, const char *text)
{
    static const char *const sep[] = {"=", "+=", ">"};
    struct fake_tracefs *t = arg;
    size_t n = strlen(t->log);
    if (t->refuse && strcmp(t->refuse, path) == 0)
        return -EINVAL;
    snprintf(t->log + n, sizeof t->log - n, "%s%s%s%s", n ? " " : "", path, sep[op], text);
    return 0;
}

static void copy_events(struct fake_tracefs *t)
{
    static const char *const all[] = {
        "sched/sched_switch",    "sched/sched_waking",
        "sched/sched_wakeup",    "sched/sched_process_exit",
        "task/task_rename",      "task/task_newtask",
        "ftrace/print",          "ftrace/funcgraph_entry",
        "ftrace/funcgraph_exit", "raw_syscalls/sys_enter",
        "raw_syscalls/sys_exit", "kmem/kmalloc",
        "timer/tick_stop",       "power/suspend_resume",
        "irq/softirq_entry",
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char path[256];
        size_t n;
        snprintf(path, sizeof path, GOLDEN "/events/%s/format", all[i]);
        char *text = fake_data(path, &n);
        snprintf(path, sizeof path, "events/%s/format", all[i]);
        fake_put(&t->dir, path, text);
        free(text);
        if (strncmp(all[i], "ftrace/", 7) != 0) {
            snprintf(path, sizeof path, "events/%s/enable", all[i]);
            fake_put(&t->dir, path, "0");
        }
    }
}

void fake_tracefs_init(struct fake_tracefs *t)
{
    static const char *const files[][2] = {
        {"trace", "old"},
        {"tracing_on", "1\n"},
        {"trace_clock", "[local] global boot mono_raw\n"},
        {"buffer_size_kb", "7"},
        {"current_tracer", "nop\n"},
        {"buffer_percent", "50"},
        {"events/enable", "X"},
        {"set_event", ""},
        {"kprobe_events", ""},
        {"set_event_pid", ""},
        {"tracing_cpumask", "3\n"},
        {"options/record-tgid", "0\n"},
        {"options/trace_printk", "1\n"},
        {"set_ftrace_filter", ""},
        {"set_graph_function", ""},
        {"max_graph_depth", "0"},
        {"printk_formats", ""},
        {"events/raw_syscalls/sys_enter/filter", "none"},
        {"events/raw_syscalls/sys_exit/filter", "none"},
    };
    memset(t, 0, sizeof *t);
    fake_dir_init(&t->dir);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        fake_put(&t->dir, files[i][0], files[i][1]);
    for (unsigned c = 0; c < tracefs_n_cpus(); c++) {
        char path[64];
        snprintf(path, sizeof path, "per_cpu/cpu%u/trace", c);
        fake_put(&t->dir, path, "");
        snprintf(path, sizeof path, "per_cpu/cpu%u/trace_pipe_raw", c);
        fake_put(&t->dir, path, "");
        snprintf(path, sizeof path, "per_cpu/cpu%u/stats", c);
        fake_put(&t->dir, path, "entries: 1\nnow ts:  12.500000\n");
    }
    copy_events(t);
}

void fake_tracefs_fini(struct fake_tracefs *t)
{
    fake_dir_fini(&t->dir);
}

void fake_tracefs_event(struct fake_tracefs *t, const char *group, const char *name, unsigned id,
                        const char *fields)
{
    char path[256], text[4096];
    snprintf(path, sizeof path, "events/%s/%s/format", group, name);
    snprintf(text, sizeof text,
             "name: %s\nID: %u\nformat:\n"
             "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
             "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
             "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n%s\nprint fmt: \"x\"\n",
             name, id, fields);
    fake_put(&t->dir, path, text);
    snprintf(path, sizeof path, "events/%s/%s/enable", group, name);
    fake_put(&t->dir, path, "0");
}

struct tracefs fake_tracefs_open(struct fake_tracefs *t)
{
    struct tracefs fs;
    cr_assert_eq(tracefs_open(&fs, t->dir.path), 0);
    fs.tap = tap;
    fs.tap_arg = t;
    return fs;
}

/* ---- packets ---- */

#define PACKET_MAX (1U << 20)

static struct pbw *sink_begin(void *arg)
{
    struct fake_sink *s = arg;
    pbw_flat_init(&s->flat, s->buf, PACKET_MAX);
    return &s->flat.pbw;
}

static void sink_end(void *arg)
{
    struct fake_sink *s = arg;
    ptrdiff_t n = pbw_flat_end(&s->flat);
    cr_assert_geq(n, 0);
    cr_assert_lt(s->n, 256);
    struct fake_packet *p = &s->packets[s->n++];
    p->n = (size_t)n;
    p->p = malloc(p->n + 1);
    memcpy(p->p, s->buf, p->n);
}

void fake_sink_init(struct fake_sink *s)
{
    memset(s, 0, sizeof *s);
    s->buf = malloc(PACKET_MAX);
}

void fake_sink_fini(struct fake_sink *s)
{
    for (unsigned i = 0; i < s->n; i++)
        free(s->packets[i].p);
    free(s->buf);
}

struct probe_sink fake_sink_of(struct fake_sink *s)
{
    return (struct probe_sink){sink_begin, sink_end, s};
}

struct bytes_view fake_view(const struct fake_sink *s, unsigned packet)
{
    cr_assert_lt(packet, s->n, "only %u packets", s->n);
    return bytes_view(s->packets[packet].p, s->packets[packet].n);
}

/* ---- reading ---- */

struct bytes_view fake_msg(struct bytes_view m, uint32_t field, unsigned nth)
{
    struct bytes_cur c = bytes_cur(m);
    struct bytes_field f;
    while (bytes_next(&c, &f))
        if (f.id == field && nth-- == 0)
            return f.data;
    return bytes_view(NULL, 0);
}

bool fake_has(struct bytes_view m, uint32_t field)
{
    return fake_count(m, field) > 0;
}

uint64_t fake_num(struct bytes_view m, uint32_t field)
{
    struct bytes_cur c = bytes_cur(m);
    struct bytes_field f;
    uint64_t v = UINT64_MAX;
    while (bytes_next(&c, &f))
        if (f.id == field)
            v = f.num;
    return v;
}

unsigned fake_count(struct bytes_view m, uint32_t field)
{
    struct bytes_cur c = bytes_cur(m);
    struct bytes_field f;
    unsigned n = 0;
    while (bytes_next(&c, &f))
        n += f.id == field;
    cr_assert(bytes_done(&c), "malformed message");
    return n;
}

bool fake_str_is(struct bytes_view v, const char *s)
{
    return bytes_equal(v, bytes_str(s));
}
