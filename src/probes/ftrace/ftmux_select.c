/* SPDX-License-Identifier: Apache-2.0 */
/* ftmux_select: from the names in a config to kernel events that are on.
 *
 * A config says "group/event", "event", all events of a group, categories and features that imply
 * events; this part turns all of it into one sorted list of (group, name) and enables what is
 * there. A name that the kernel does not know, or will not enable, is reported in the statistics
 * and never fails the session. Names were checked by ftcfg, so each is one path component. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes/ftrace/atcat.h"
#include "probes/ftrace/evtab.h"
#include "probes/ftrace/ftmux.h"
#include "probes/ftrace/ftmux_int.h"
#include "probes/ftrace/sctab.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"

struct wish {
    char *group, *name; /* own */
};

struct wishes {
    struct wish *v; /* own */
    size_t n, cap;
};

static void wish(struct wishes *w, const char *group, const char *name)
{
    if (w->n == w->cap)
        w->v = alloc_resize(w->v, w->cap = w->cap ? w->cap * 2 : 32, sizeof *w->v);
    w->v[w->n++] = (struct wish){alloc_strdup(group), alloc_strdup(name)};
}

static int by_name(const void *a, const void *b)
{
    const struct wish *x = a, *y = b;
    int c = strcmp(x->group, y->group);
    return c ? c : strcmp(x->name, y->name);
}

static bool is_static(const char *group, const char *name)
{
    struct evtab_event e;
    return evtab_find(group, name, &e) == 0;
}

/* Every directory below events/GROUP (R35). */
static void wish_group(const struct ftmux *m, struct wishes *w, const char *group)
{
    char path[512];
    snprintf(path, sizeof path, "events/%s", group);
    DIR *d = procfs_opendir(m->fs.dir, path);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && (e->d_type == DT_DIR || e->d_type == DT_UNKNOWN))
            wish(w, group, e->d_name);
    closedir(d);
}

static void wish_entry(const struct ftmux *m, struct wishes *w, const char *entry)
{
    const char *slash = strchr(entry, '/');
    if (!*entry)
        return;
    if (!slash) {
        const char *group = events_group_of(&m->ev, entry);
        if (group)
            wish(w, group, entry); /* otherwise ignored without a word (R36) */
        return;
    }
    char *group = alloc_strndup(entry, (size_t)(slash - entry));
    if (strcmp(group, "perfetto_kprobes") == 0 || strcmp(group, "perfetto_kretprobes") == 0) {
        free(group);
        return; /* R40 */
    }
    if (strcmp(slash + 1, "*") == 0)
        wish_group(m, w, group);
    else
        wish(w, group, slash + 1);
    free(group);
}

struct category_arg {
    const struct ftmux *m;
    struct wishes *w;
    bool by_set_event;
};

/* R45: a category keeps the events that can be switched on here. */
static void wish_category_event(void *arg, const char *group, const char *name)
{
    struct category_arg *a = arg;
    char path[512];
    snprintf(path, sizeof path, "events/%s/%s/%s", group, name,
             a->by_set_event ? "format" : "enable");
    if (a->by_set_event ? tracefs_readable(&a->m->fs, path) : tracefs_writable(&a->m->fs, path))
        wish(a->w, group, name);
}

static void wish_all(const struct ftmux *m, struct wishes *w, const struct ftcfg *cfg)
{
    struct category_arg arg = {m, w, tracefs_writable(&m->fs, "set_event")};
    for (size_t i = 0; i < cfg->events.n; i++)
        wish_entry(m, w, cfg->events.v[i]);
    if (cfg->categories.n || cfg->apps.n)
        wish(w, "ftrace", "print"); /* R37 */
    if (!cfg->userspace_only)
        for (size_t i = 0; i < cfg->categories.n; i++)
            atcat_each(cfg->categories.v[i], wish_category_event, &arg);
    if (cfg->syscalls.n) {
        wish(w, "raw_syscalls", "sys_enter");
        wish(w, "raw_syscalls", "sys_exit");
    }
    if (cfg->function_graph) {
        wish(w, "ftrace", "funcgraph_entry");
        wish(w, "ftrace", "funcgraph_exit");
    }
    if (w->n)
        qsort(w->v, w->n, sizeof *w->v, by_name);
}

int ftmux_event_on(struct ftmux *m, const struct events_event *e)
{
    char path[2 * FORMAT_DECL_MAX + 32];
    if (strcmp(e->group, "ftrace") == 0 || u64set_has(&m->enabled, e->id))
        return 0; /* R42 */
    snprintf(path, sizeof path, "events/%s/%s/enable", e->group, e->name);
    int rc = tracefs_write(&m->fs, path, "1");
    if (rc) {
        snprintf(path, sizeof path, "%s:%s", e->group, e->name);
        rc = tracefs_append(&m->fs, "set_event", path);
    }
    if (rc == 0)
        u64set_add(&m->enabled, e->id, NULL, NULL);
    return rc;
}

void ftmux_event_off(struct ftmux *m, const struct events_event *e)
{
    char path[2 * FORMAT_DECL_MAX + 32];
    snprintf(path, sizeof path, "events/%s/%s/enable", e->group, e->name);
    if (tracefs_write(&m->fs, path, "0") == 0)
        return;
    snprintf(path, sizeof path, "!%s:%s", e->group, e->name);
    (void)tracefs_append(&m->fs, "set_event", path); /* events/enable=0 follows at the end anyway */
}

/* R111: system call names to numbers; names that this machine lacks are skipped. */
static void note_syscalls(struct ftmux_cfg *c)
{
    for (size_t i = 0; i < c->cfg->syscalls.n; i++) {
        int id = sctab_find(c->cfg->syscalls.v[i]);
        if (id >= 0)
            u64set_add(&c->syscalls, (uint64_t)id, NULL, NULL);
        else
            log_warn(
                "syscall_events: no system call \"%s\" on this machine; names look like sys_read",
                c->cfg->syscalls.v[i]);
    }
}

static void grant(struct ftmux *m, struct ftmux_cfg *c, const struct wish *w)
{
    bool generic_ok = !c->cfg->no_generic;
    if (!generic_ok && !is_static(w->group, w->name)) {
        ftmux_names_add(&c->failed, w->group, w->name); /* R44 */
        return;
    }
    struct events_event *e = events_load(&m->ev, w->group, w->name, generic_ok);
    if (!e) {
        ftmux_names_add(&c->unknown, w->group, w->name);
        return;
    }
    if (ftmux_event_on(m, e)) {
        ftmux_names_add(&c->failed, w->group, w->name);
        return;
    }
    u64set_add(&c->ids, e->id, NULL, NULL);
    if (e->special == EVENTS_SYS_ENTER || e->special == EVENTS_SYS_EXIT)
        c->wants_syscalls = true;
}

void ftmux_select(struct ftmux *m, struct ftmux_cfg *c)
{
    struct wishes w = {0};
    bool throttled = false;
    wish_all(m, &w, c->cfg);
    note_syscalls(c);
    if (c->cfg->throttle_rss)
        throttled = tracefs_readable(&m->fs, "events/synthetic/rss_stat_throttled/format");
    for (size_t i = 0; i < w.n; i++) {
        bool again = i && by_name(&w.v[i - 1], &w.v[i]) == 0;
        bool rss =
            throttled && strcmp(w.v[i].group, "kmem") == 0 && strcmp(w.v[i].name, "rss_stat") == 0;
        struct wish instead = {(char[]){"synthetic"}, (char[]){"rss_stat_throttled"}};
        if (!again)
            grant(m, c, rss ? &instead : &w.v[i]); /* R38 */
    }
    for (size_t i = 0; i < w.n; i++) {
        free(w.v[i].group);
        free(w.v[i].name);
    }
    free(w.v);
}
