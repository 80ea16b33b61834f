/* SPDX-License-Identifier: Apache-2.0 */
/* ftmux: makes the kernel record the union of what all live configs ask for.
 *
 * One ftmux per tracefs instance, owned by the ftrace controller. The first config decides clock
 * and buffer size and remembers what it found; the last one to go puts it back, also when the
 * daemon loses its service or a setup fails half-way (R34, R142). Per-instance filters are applied
 * when events are encoded, so the kernel may well record more than one instance wants. Invariant:
 * an id is in `enabled` exactly while we have switched that event on. */
#include "probes/ftrace/ftmux.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probes/ftrace/ftmux_int.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"

#define DEFAULT_KB_SMALL 2048U /* R50 */
#define DEFAULT_KB_LARGE 8192U
#define LARGE_MACHINE    (7ULL << 30) /* bytes of memory from which the larger default counts */
#define PERCENT_DEFAULT  50           /* the kernel's own buffer_percent */

void ftmux_names_add(struct ftmux_names *l, const char *group, const char *name)
{
    char *text = NULL;
    if (asprintf(&text, "%s%s%s", group, *group ? "/" : "", name) < 0)
        return;
    l->v = alloc_resize(l->v, l->n + 1, sizeof *l->v);
    l->v[l->n++] = text;
}

void ftmux_names_fini(struct ftmux_names *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
    *l = (struct ftmux_names){0};
}

void ftmux_init(struct ftmux *m, struct tracefs fs)
{
    *m = (struct ftmux){.fs = fs};
    list_init(&m->cfgs);
    events_init(&m->ev, &m->fs);
}

void ftmux_fini(struct ftmux *m)
{
    list_for_each_safe (pos, tmp, &m->cfgs)
        ftmux_remove(m, list_entry(pos, struct ftmux_cfg, node));
    ftmux_reset_tracer(m);
    events_fini(&m->ev);
    u64set_fini(&m->enabled);
    u64set_fini(&m->syscalls);
    tracefs_close(&m->fs);
}

uint32_t ftmux_buffer_pages(const struct ftcfg *cfg, long phys_pages, long page_size)
{
    bool large = phys_pages > 0 && (uint64_t)phys_pages * (uint64_t)page_size >= LARGE_MACHINE;
    uint32_t def = large ? DEFAULT_KB_LARGE : DEFAULT_KB_SMALL, kb = cfg->buffer_size_kb;
    uint32_t page_kb = (uint32_t)(page_size / 1024);
    if (kb == 0 || (cfg->buffer_lower_bound && kb < def))
        kb = def;
    return kb / page_kb ? kb / page_kb : 1;
}

static enum bundle_clock clock_of(struct ptext name)
{
    if (ptext_eq(name, "boot"))
        return BUNDLE_CLOCK_BOOT;
    if (ptext_eq(name, "global"))
        return BUNDLE_CLOCK_GLOBAL;
    if (ptext_eq(name, "local"))
        return BUNDLE_CLOCK_LOCAL;
    return ptext_eq(name, "mono_raw") ? BUNDLE_CLOCK_MONO_RAW : BUNDLE_CLOCK_UNKNOWN;
}

enum bundle_clock ftmux_clock(struct ptext text, bool want_raw, const char **choice)
{
    static const char *const order[] = {"mono_raw", "boot", "global", "local"};
    struct ptext word, active = {"", ""};
    bool have[4] = {false};
    text = ptext_trim(text);
    while (ptext_word(&text, &word)) {
        if (ptext_len(word) > 2 && *word.p == '[' && word.end[-1] == ']') {
            word.p++;
            word.end--;
            active = word;
        }
        for (unsigned i = 0; i < 4; i++)
            have[i] |= ptext_eq(word, order[i]);
    }
    *choice = NULL;
    for (unsigned i = want_raw ? 0 : 1; i < 4; i++)
        if (have[i]) {
            if (i == 0 || !ptext_eq(active, order[i]))
                *choice = order[i];
            break;
        }
    return clock_of(active);
}

static enum bundle_clock read_clock(const struct ftmux *m, bool want_raw, const char **choice)
{
    struct procfs_buf b = {0};
    tracefs_read(&m->fs, "trace_clock", &b);
    enum bundle_clock c = ftmux_clock(procfs_text(&b), want_raw, choice);
    procfs_buf_fini(&b);
    return c;
}

/* Somebody else's tracer is running (R29 step 1). */
static bool tracer_free(const struct ftmux *m)
{
    struct procfs_buf b = {0};
    tracefs_read(&m->fs, "current_tracer", &b);
    struct ptext t = ptext_trim(procfs_text(&b));
    bool idle = ptext_len(t) == 0 || ptext_eq(t, "nop");
    procfs_buf_fini(&b);
    return idle;
}

/* What the first config does to the tracefs instance. */
static int first_setup(struct ftmux *m, const struct ftcfg *cfg, char *why)
{
    const char *choice;
    if (!cfg->preserve_buffer && !tracer_free(m)) {
        snprintf(why, FTMUX_WHY_MAX,
                 "%scurrent_tracer is in use by somebody else; write nop to it first", m->fs.root);
        return -EBUSY;
    }
    m->was_on = tracefs_read_byte(&m->fs, "tracing_on") == '1';
    if (!cfg->preserve_buffer) {
        uint32_t pages = ftmux_buffer_pages(cfg, sysconf(_SC_PHYS_PAGES), sysconf(_SC_PAGESIZE));
        int rc = tracefs_write(&m->fs, "tracing_on", "0");
        if (rc) {
            snprintf(why, FTMUX_WHY_MAX, "cannot write %stracing_on: %s; run as root", m->fs.root,
                     err_text(rc));
            return rc;
        }
        (void)tracefs_write(&m->fs, "events/enable", "0"); /* no failure that anybody could mend */
        if (tracefs_clear(&m->fs))
            log_warn("cannot empty the buffers below %s; the trace may begin with old events",
                     m->fs.root);
        read_clock(m, cfg->mono_raw, &choice);
        if (choice && tracefs_write(&m->fs, "trace_clock", choice))
            log_warn("cannot select the clock %s in %strace_clock", choice, m->fs.root);
        rc = tracefs_write_u64(&m->fs, "buffer_size_kb",
                               (uint64_t)pages * (unsigned)(sysconf(_SC_PAGESIZE) / 1024));
        m->cached_pages = pages;
        if (rc)
            log_warn(
                "cannot set %sbuffer_size_kb to %u pages: %s; tracing goes on with the size it has",
                m->fs.root, pages, err_text(rc));
    }
    m->clock = read_clock(m, false, &choice);
    return 0;
}

static void make_filter(struct ftmux_cfg *c)
{
    uint32_t top = 0;
    for (uint32_t i = 0; i < c->ids.n; i++)
        if (c->ids.keys[i] >= top)
            top = (uint32_t)c->ids.keys[i] + 1;
    c->filter_ids = (top + 63) & ~63U;
    c->filter = alloc_array(c->filter_ids / 64, sizeof *c->filter);
    for (uint32_t i = 0; i < c->ids.n; i++)
        c->filter[c->ids.keys[i] / 64] |= 1ULL << c->ids.keys[i] % 64;
}

static void derive(const struct ftmux *m, struct ftmux_cfg *c)
{
    const struct events_event *print = events_find(&m->ev, "ftrace", "print");
    c->compact =
        m->ev.sched.valid && !c->cfg->compact_off && u64set_has(&c->ids, m->ev.sched.switch_id);
    if (!m->ev.sched.valid)
        ftmux_names_add(&c->failed, "",
                        "perfetto/compact_sched (unexpected sched event format)"); /* R126 */
    c->prints = print && print->n_fields == 1 && print->fields[0].kind == FORMAT_STR_END;
    if (c->cfg->has_print_filter && !c->prints)
        ftmux_names_add(&c->failed, "",
                        "ftrace/print (unexpected format for filtering)"); /* R106 */
}

static int check_shared(const struct ftmux *m, const struct ftcfg *cfg, bool secondary, char *why)
{
    if (secondary && (cfg->categories.n || cfg->apps.n)) {
        snprintf(why, FTMUX_WHY_MAX,
                 "atrace_categories and atrace_apps work on the primary tracefs instance only; "
                 "leave instance_name out");
        return -EINVAL; /* R46 */
    }
    if (m->n_cfgs && m->exclusive) {
        snprintf(why, FTMUX_WHY_MAX,
                 "a running session uses tids_to_trace, tracefs_options or tracing_cpumask and "
                 "shares %s with nobody; stop it first",
                 m->fs.root);
        return -EBUSY; /* R132 */
    }
    if (m->n_cfgs && ftcfg_exclusive(cfg)) {
        snprintf(why, FTMUX_WHY_MAX,
                 "tids_to_trace, tracefs_options and tracing_cpumask need %s for themselves, but "
                 "another session is using it",
                 m->fs.root);
        return -EBUSY;
    }
    return 0;
}

int ftmux_setup(struct ftmux *m, const struct ftcfg *cfg, bool secondary, struct ftmux_cfg **out,
                char *why)
{
    int rc = check_shared(m, cfg, secondary, why);
    if (rc == 0 && m->n_cfgs == 0)
        rc = first_setup(m, cfg, why);
    if (rc)
        return rc;
    struct ftmux_cfg *c = alloc_new(struct ftmux_cfg);
    c->cfg = cfg;
    list_push_back(&m->cfgs, &c->node);
    m->n_cfgs++;
    if (ftcfg_exclusive(cfg)) {
        m->exclusive = true;
        rc = ftmux_exclusive(m, cfg, why);
    }
    if (rc == 0) {
        ftmux_kprobes(m, c);
        ftmux_select(m, c);
        rc = ftmux_syscalls(m, why);
    }
    if (rc == 0 && cfg->function_graph)
        rc = ftmux_graph(m, cfg, why);
    if (rc) {
        ftmux_remove(m, c);
        if (m->n_cfgs == 0)
            ftmux_reset_tracer(m);
        return rc;
    }
    make_filter(c);
    derive(m, c);
    *out = c;
    return 0;
}

/* The smallest wish of the active configs (R59). False if there is none. */
static bool percent(const struct ftmux *m, uint32_t *min)
{
    *min = 0;
    list_for_each (pos, &m->cfgs) {
        const struct ftmux_cfg *c = list_entry(pos, struct ftmux_cfg, node);
        uint32_t v = c->active ? c->cfg->drain_buffer_percent : 0;
        if (v && (*min == 0 || v < *min))
            *min = v;
    }
    return *min != 0;
}

static void write_percent(const struct ftmux *m)
{
    uint32_t v;
    if (percent(m, &v) && tracefs_write_u64(&m->fs, "buffer_percent", v))
        log_warn("the kernel refuses %u for %sbuffer_percent (0 to 100)", v, m->fs.root);
}

int ftmux_start(struct ftmux *m, struct ftmux_cfg *c)
{
    if (c->active)
        return 0;
    c->active = true;
    write_percent(m);
    if (m->n_active == 0) {
        int rc = tracefs_write(&m->fs, "tracing_on", "1");
        if (rc) {
            c->active = false;
            return rc;
        }
    }
    m->n_active++;
    return 0;
}

/* The last config is gone: everything back to how the first one found it (R140). */
static void restore(struct ftmux *m)
{
    (void)tracefs_write_u64(&m->fs, "buffer_size_kb", (uint64_t)(sysconf(_SC_PAGESIZE) / 1024));
    m->cached_pages = 1;
    if (tracefs_writable(&m->fs, "buffer_percent"))
        (void)tracefs_write_u64(&m->fs, "buffer_percent", PERCENT_DEFAULT);
    (void)tracefs_write(&m->fs, "events/enable", "0");
    (void)tracefs_clear(&m->fs);
    if (tracefs_write(&m->fs, "tracing_on", m->was_on ? "1" : "0"))
        log_warn("cannot restore %stracing_on to %d", m->fs.root, m->was_on);
    ftmux_kprobes_remove(m);
    ftmux_exclusive_restore(m);
    m->exclusive = false;
}

static bool still_wanted(const struct ftmux *m, uint64_t id)
{
    list_for_each (pos, &m->cfgs)
        if (u64set_has(&list_entry(pos, struct ftmux_cfg, node)->ids, id))
            return true;
    return false;
}

static void disable_unwanted(struct ftmux *m)
{
    for (uint32_t i = m->enabled.n; i-- > 0;) {
        uint64_t id = m->enabled.keys[i];
        struct events_event *e = events_by_id(&m->ev, (uint32_t)id);
        if (still_wanted(m, id))
            continue;
        if (e)
            ftmux_event_off(m, e);
        u64set_remove(&m->enabled, id);
    }
}

static void free_cfg(struct ftmux_cfg *c)
{
    u64set_fini(&c->ids);
    u64set_fini(&c->syscalls);
    ftmux_names_fini(&c->unknown);
    ftmux_names_fini(&c->failed);
    free(c->filter);
    free(c);
}

void ftmux_remove(struct ftmux *m, struct ftmux_cfg *c)
{
    char why[FTMUX_WHY_MAX];
    list_remove(&c->node);
    m->n_cfgs--;
    if (c->active)
        m->n_active--;
    if (ftmux_syscalls(m, why))
        log_warn("%s", why);
    disable_unwanted(m);
    if (m->n_active == 0)
        (void)tracefs_write(&m->fs, "tracing_on", "0");
    write_percent(m);
    if (m->n_cfgs == 0)
        restore(m);
    free_cfg(c);
}
