/* SPDX-License-Identifier: Apache-2.0 */
/* ftmux_extra: kprobes, the system call filter, the function graph tracer, and the features that
 * need a tracefs instance for themselves.
 *
 * Everything written here is remembered in the ftmux and put back by ftmux_remove or
 * ftmux_reset_tracer. Function names come from a config and end up in kernel commands, so they are
 * checked against what an identifier may hold before anything is written. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes/ftrace/ftmux.h"
#include "probes/ftrace/ftmux_int.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"

#define KP_GROUP  "perfetto_kprobes"
#define KRP_GROUP "perfetto_kretprobes"

/* ---- kprobes (R98 - R102) ---- */

static bool only(const char *s, const char *also)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
              strchr(also, *s)))
            return false;
    return true;
}

static void kprobe(struct ftmux *m, struct ftmux_cfg *c, const char *group, const char *fn,
                   enum events_kprobe type)
{
    char text[2 * FORMAT_DECL_MAX + 64];
    if (!only(fn, "_") || strlen(fn) > FORMAT_DECL_MAX) {
        ftmux_names_add(&c->failed, group, fn);
        return;
    }
    snprintf(text, sizeof text, "%s:%s/%s %s", strcmp(group, KP_GROUP) == 0 ? "p" : "r1024", group,
             fn, fn);
    int rc = tracefs_append(&m->fs, "kprobe_events", text);
    if (rc && rc != -EEXIST) {
        ftmux_names_add(&c->failed, group, fn);
        return;
    }
    struct events_event *e = events_load(&m->ev, group, fn, true);
    if (!e) {
        snprintf(text, sizeof text, "-:%s/%s", group, fn);
        (void)tracefs_append(&m->fs, "kprobe_events", text);
        ftmux_names_add(&c->unknown, group, fn);
        return;
    }
    if (e->special != EVENTS_KPROBE) {
        e->special = EVENTS_KPROBE;
        e->kprobe = (uint8_t)type; /* the first mention decides */
        ftmux_names_add(&m->kprobes, group, fn);
    }
    if (ftmux_event_on(m, e)) {
        ftmux_names_add(&c->failed, group, fn);
        return;
    }
    u64set_add(&c->ids, e->id, NULL, NULL);
    c->has_kprobes = true;
}

void ftmux_kprobes(struct ftmux *m, struct ftmux_cfg *c)
{
    for (size_t i = 0; i < c->cfg->n_kprobes; i++) {
        const struct ftcfg_kprobe *k = &c->cfg->kprobes[i];
        switch (k->type) {
        case FTCFG_PROBE_KPROBE:
            kprobe(m, c, KP_GROUP, k->function, EVENTS_KP_INSTANT);
            break;
        case FTCFG_PROBE_KRETPROBE:
            kprobe(m, c, KRP_GROUP, k->function, EVENTS_KP_INSTANT);
            break;
        case FTCFG_PROBE_BOTH:
            kprobe(m, c, KP_GROUP, k->function, EVENTS_KP_BEGIN);
            kprobe(m, c, KRP_GROUP, k->function, EVENTS_KP_END);
            break;
        case FTCFG_PROBE_UNKNOWN:
            break;
        }
    }
}

void ftmux_kprobes_remove(struct ftmux *m)
{
    for (size_t i = 0; i < m->kprobes.n; i++) {
        char text[2 * FORMAT_DECL_MAX + 64];
        snprintf(text, sizeof text, "-:%s", m->kprobes.v[i]);
        if (tracefs_append(&m->fs, "kprobe_events", text))
            log_warn("cannot remove the kprobe %s; write \"%s\" to %skprobe_events",
                     m->kprobes.v[i], text, m->fs.root);
        char *slash = strchr(m->kprobes.v[i], '/');
        *slash = '\0';
        struct events_event *e = events_find(&m->ev, m->kprobes.v[i], slash + 1);
        if (e)
            events_forget(&m->ev, e); /* a later one of that name may get another id (T25) */
    }
    ftmux_names_fini(&m->kprobes);
}

/* ---- system calls (R109 - R111) ---- */

/* The union over all configs; empty when anyone wants all, or nobody wants any. */
static void union_syscalls(const struct ftmux *m, struct u64set *out)
{
    list_for_each (pos, &m->cfgs) {
        const struct ftmux_cfg *c = list_entry(pos, struct ftmux_cfg, node);
        if (!c->wants_syscalls)
            continue;
        if (c->syscalls.n == 0) {
            u64set_clear(out);
            return;
        }
        for (uint32_t i = 0; i < c->syscalls.n; i++)
            u64set_add(out, c->syscalls.keys[i], NULL, NULL);
    }
    u64set_sort(out);
}

static bool same_set(const struct u64set *a, const struct u64set *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->keys, b->keys, a->n * sizeof *a->keys) == 0);
}

int ftmux_syscalls(struct ftmux *m, char *why)
{
    struct u64set set = {0};
    union_syscalls(m, &set);
    if (same_set(&set, &m->syscalls)) {
        u64set_fini(&set);
        return 0;
    }
    size_t cap = set.n * 32 + 2, len = 0;
    char *text = alloc_zero(cap);
    text[0] = '0'; /* clears the filter */
    for (uint32_t i = 0; i < set.n; i++)
        len += (size_t)snprintf(text + len, cap - len, "%sid == %llu", i ? " || " : "",
                                (unsigned long long)set.keys[i]);
    int rc = tracefs_write(&m->fs, "events/raw_syscalls/sys_enter/filter", text);
    if (rc == 0)
        rc = tracefs_write(&m->fs, "events/raw_syscalls/sys_exit/filter", text);
    free(text);
    if (rc) {
        snprintf(why, FTMUX_WHY_MAX, "cannot filter system calls through %sevents/raw_syscalls: %s",
                 m->fs.root, err_text(rc));
        u64set_fini(&set);
        return rc;
    }
    u64set_fini(&m->syscalls);
    m->syscalls = set;
    return 0;
}

/* ---- function graph (R113 - R115) ---- */

static int append_lines(const struct ftmux *m, const char *path, const struct ftcfg_strs *s)
{
    size_t len = 0;
    if (s->n == 0)
        return 0;
    for (size_t i = 0; i < s->n; i++)
        len += strlen(s->v[i]) + 1;
    char *text = alloc_zero(len + 1);
    for (size_t i = 0; i < s->n; i++) {
        if (i)
            strcat(text, "\n");
        strcat(text, s->v[i]);
    }
    int rc = tracefs_append(&m->fs, path, text);
    free(text);
    return rc;
}

int ftmux_graph(struct ftmux *m, const struct ftcfg *cfg, char *why)
{
    int rc = 0;
    bool first = !m->graph_on;
    for (size_t i = 0; i < cfg->function_filters.n; i++)
        if (strchr(cfg->function_filters.v[i], ':')) {
            snprintf(why, FTMUX_WHY_MAX,
                     "function_filters: \"%.80s\" has a colon; kernel filter commands are not "
                     "allowed",
                     cfg->function_filters.v[i]);
            return -EINVAL;
        }
    if (first) {
        m->graph_on = true; /* from here on there is something to reset */
        rc = tracefs_truncate(&m->fs, "set_ftrace_filter");
        if (rc == 0)
            rc = tracefs_truncate(&m->fs, "set_graph_function");
        if (rc == 0)
            rc = tracefs_write(&m->fs, "max_graph_depth", "0");
    }
    if (rc == 0)
        rc = append_lines(m, "set_ftrace_filter", &cfg->function_filters);
    if (rc == 0)
        rc = append_lines(m, "set_graph_function", &cfg->graph_roots);
    if (rc == 0)
        rc = tracefs_write_u64(&m->fs, "max_graph_depth", cfg->graph_max_depth);
    if (rc == 0 && first)
        rc = tracefs_write(&m->fs, "current_tracer", "function_graph");
    if (rc)
        snprintf(why, FTMUX_WHY_MAX,
                 "cannot set up the function_graph tracer below %s: %s (kernels need "
                 "CONFIG_FUNCTION_GRAPH_TRACER)",
                 m->fs.root, err_text(rc));
    return rc;
}

void ftmux_reset_tracer(struct ftmux *m)
{
    if (!m->graph_on)
        return;
    m->graph_on = false;
    (void)tracefs_write(&m->fs, "current_tracer", "nop");
    (void)tracefs_truncate(&m->fs, "set_ftrace_filter");
    (void)tracefs_truncate(&m->fs, "set_graph_function");
}

/* ---- exclusive features (R132 - R135) ---- */

static int set_tids(struct ftmux *m, const struct ftcfg *cfg)
{
    char *text = alloc_zero(cfg->n_tids * 12 + 1);
    size_t len = 0;
    for (size_t i = 0; i < cfg->n_tids; i++)
        len += (size_t)sprintf(text + len, "%s%u", i ? " " : "", cfg->tids[i]);
    m->saved_tids = true;
    int rc = tracefs_write(&m->fs, "set_event_pid", text);
    free(text);
    return rc;
}

static int set_option(struct ftmux *m, const struct ftcfg_option *o)
{
    char path[FORMAT_DECL_MAX + 16];
    if (o->state != 1 && o->state != 2)
        return 0;
    if (!only(o->name, "_-") || strlen(o->name) > FORMAT_DECL_MAX)
        return -EINVAL;
    snprintf(path, sizeof path, "options/%s", o->name);
    int old = tracefs_read_byte(&m->fs, path);
    if (old != '0' && old != '1')
        return -ENOENT;
    m->options = alloc_resize(m->options, m->n_options + 1, sizeof *m->options);
    m->options[m->n_options++] = (struct ftmux_saved_option){alloc_strdup(o->name), (char)old};
    return tracefs_write(&m->fs, path, o->state == 1 ? "1" : "0");
}

static int set_cpumask(struct ftmux *m, const char *mask)
{
    struct procfs_buf b = {0};
    tracefs_read(&m->fs, "tracing_cpumask", &b);
    struct ptext old = ptext_trim(procfs_text(&b));
    int rc = ptext_len(old) ? 0 : -ENOENT;
    if (rc == 0) {
        m->saved_cpumask = alloc_strndup(old.p, ptext_len(old));
        rc = tracefs_write(&m->fs, "tracing_cpumask", mask);
    }
    procfs_buf_fini(&b);
    return rc;
}

int ftmux_exclusive(struct ftmux *m, const struct ftcfg *cfg, char *why)
{
    int rc = cfg->n_tids ? set_tids(m, cfg) : 0;
    if (rc) {
        snprintf(why, FTMUX_WHY_MAX, "tids_to_trace: cannot write %sset_event_pid: %s", m->fs.root,
                 err_text(rc));
        return rc;
    }
    for (size_t i = 0; i < cfg->n_options; i++)
        if ((rc = set_option(m, &cfg->options[i]))) {
            snprintf(why, FTMUX_WHY_MAX, "tracefs_options: cannot set \"%.80s\" in %soptions: %s",
                     cfg->options[i].name, m->fs.root, err_text(rc));
            return rc;
        }
    if (cfg->cpumask && (rc = set_cpumask(m, cfg->cpumask)))
        snprintf(why, FTMUX_WHY_MAX,
                 "tracing_cpumask: cannot write \"%.80s\" to %stracing_cpumask: %s", cfg->cpumask,
                 m->fs.root, err_text(rc));
    return rc;
}

void ftmux_exclusive_restore(struct ftmux *m)
{
    if (m->saved_tids)
        (void)tracefs_truncate(&m->fs, "set_event_pid");
    m->saved_tids = false;
    while (m->n_options) {
        struct ftmux_saved_option *o = &m->options[--m->n_options];
        char path[FORMAT_DECL_MAX + 16], value[2] = {o->value, '\0'};
        snprintf(path, sizeof path, "options/%s", o->name);
        if (tracefs_write(&m->fs, path, value))
            log_warn("cannot restore %s%s to %s", m->fs.root, path, value);
        free(o->name);
    }
    alloc_free(&m->options);
    if (m->saved_cpumask && tracefs_write(&m->fs, "tracing_cpumask", m->saved_cpumask))
        log_warn("cannot restore %stracing_cpumask to %s", m->fs.root, m->saved_cpumask);
    alloc_free(&m->saved_cpumask);
}
