/* SPDX-License-Identifier: Apache-2.0 */
/* ftctl: reads the kernel's buffers in passes and hands the pages to every subscription.
 *
 * A pass goes over the CPUs of all tracefs instances in batches of 32 pages; each batch is parsed
 * for every started subscription, then the task's budget decides whether the next tick goes on. A
 * pass is started by the period's deadline (at most 256 pages per CPU, R54) or by a flush (as many
 * as the kernel's buffer has, R61). At its end metadata is passed on and flushes are answered. The
 * set of instances changes between slices only; when it does, the pass starts over, which costs
 * nothing since what was read is written already. Owns the ftmux of each tracefs instance and the
 * symbol table. */
#include "probes/ftrace/ftctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes/ftrace/cpuread.h"
#include "probes/ftrace/ftmux.h"
#include "probes/ftrace/ftstats.h"
#include "probes/ftrace/wmark.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/task.h"

#define TICK_PAGES        256 /* R54 */
#define PERIOD_DEFAULT_MS 100
#define PERIOD_MAX_MS     60000
#define PERIOD_WMARK_MS   1000 /* while the kernel wakes us for full buffers */

/* One tracefs instance in use. */
struct ftinst {
    struct list node;
    char *name; /* own; "" = primary */
    struct ftmux mux;
    struct cpuread reader;
    struct wmark wmark;
    struct list subs; /* of ftsub */
    unsigned n_started;
    struct bundle_snapshot snap; /* of the pass */
};

struct ftsub {
    struct list node;
    struct ftctl *ctl;   /* borrow */
    struct ftinst *inst; /* borrow */
    struct ftcfg cfg;
    struct ftmux_cfg *mc; /* borrow: the mux owns it */
    struct ftctl_host host;
    struct bundle bundle;
    struct ftstats at_start;
    bool started;
    bool flush_due, flush_in_pass;
    uint64_t flush_id;
};

struct ftctl {
    struct reactor *r;
    const char *root; /* borrow; NULL = find it */
    int sysroot;      /* borrow */
    struct tracefs primary;
    bool tried, found; /* R25: one attempt to find tracefs in the life of a controller */
    struct list insts; /* of ftinst */
    unsigned n_subs;
    struct ksyms ksyms;
    bool ksyms_retain;
    struct deadline tick;
    struct task reading;
    uint8_t *pages; /* own; one batch of the largest pages in use */
    size_t pages_cap;
    /* the pass that is going on */
    bool pass_on, tick_due, full;
    struct list *at; /* position in insts */
    unsigned cpu;
    uint32_t pages_done; /* of this CPU */
    bool flush_pass;
};

uint32_t ftctl_period_ms(uint32_t min)
{
    return min < 1 || min > PERIOD_MAX_MS ? PERIOD_DEFAULT_MS : min;
}

static struct ftinst *inst_of(struct list *pos)
{
    return list_entry(pos, struct ftinst, node);
}

static struct ftsub *sub_of(struct list *pos)
{
    return list_entry(pos, struct ftsub, node);
}

/* ---- the period ---- */

static uint32_t period_now(const struct ftctl *ctl)
{
    uint32_t min = 0;
    bool watched = true;
    list_for_each (i, &ctl->insts) {
        watched &= inst_of(i)->n_started == 0 || wmark_is_on(&inst_of(i)->wmark);
        list_for_each (pos, &inst_of(i)->subs) {
            const struct ftsub *s = sub_of(pos);
            uint32_t v = s->started ? s->cfg.drain_period_ms : 0;
            if (v && (min == 0 || v < min))
                min = v;
        }
    }
    return min == 0 && watched ? PERIOD_WMARK_MS : ftctl_period_ms(min);
}

/* At the next multiple of the period (R52). */
static void arm_tick(struct ftctl *ctl)
{
    uint64_t period = period_now(ctl), now_ms = chrono_mono_ns() / CHRONO_MS;
    deadline_arm_ms(&ctl->tick, period - now_ms % period);
}

static void on_tick(void *arg)
{
    struct ftctl *ctl = arg;
    arm_tick(ctl);
    ctl->tick_due = true;
    task_wake(&ctl->reading);
}

/* The kernel says that a buffer is filled beyond buffer_percent. */
static void on_wmark(void *arg)
{
    struct ftctl *ctl = arg;
    ctl->tick_due = true;
    task_wake(&ctl->reading);
}

/* ---- a pass ---- */

static struct list *next_open(struct ftctl *ctl, struct list *pos)
{
    while (pos != &ctl->insts && !cpuread_is_open(&inst_of(pos)->reader))
        pos = pos->next;
    return pos;
}

static void enter_inst(struct ftctl *ctl, struct list *pos)
{
    ctl->at = next_open(ctl, pos);
    ctl->cpu = 0;
    ctl->pages_done = 0;
    if (ctl->at == &ctl->insts)
        return;
    struct ftinst *in = inst_of(ctl->at);
    in->snap = (struct bundle_snapshot){.clock = in->mux.clock};
    if (in->snap.clock != BUNDLE_CLOCK_BOOT) {
        in->snap.boot_ts = (int64_t)chrono_boot_ns();
        in->snap.ftrace_ts = ftstats_now_ns(&in->mux.fs, 0);
    }
}

static void begin_pass(struct ftctl *ctl)
{
    ctl->pass_on = true;
    ctl->tick_due = ctl->full = ctl->flush_pass = false;
    list_for_each (i, &ctl->insts)
        list_for_each (pos, &inst_of(i)->subs) {
            struct ftsub *s = sub_of(pos);
            s->flush_in_pass = s->flush_due;
            ctl->flush_pass |= s->flush_due;
        }
    enter_inst(ctl, ctl->insts.next);
}

/* Starts over: the instances have changed. */
static void abandon_pass(struct ftctl *ctl)
{
    if (!ctl->pass_on)
        return;
    ctl->pass_on = false;
    ctl->tick_due = true;
    task_wake(&ctl->reading);
}

static void parse(struct ftctl *ctl, struct ftinst *in, unsigned n, enum cpuread_end end)
{
    list_for_each (pos, &in->subs) {
        struct ftsub *s = sub_of(pos);
        if (!s->started)
            continue;
        if (end == CPUREAD_ERROR)
            bundle_note_error(&s->bundle, RBPAGE_UNEXPECTED_READ_ERROR);
        else if (end == CPUREAD_PARTIAL)
            bundle_note_error(&s->bundle, RBPAGE_PARTIAL_PAGE_READ);
        if (n == 0)
            continue;
        bundle_begin(&s->bundle, ctl->cpu, &in->snap);
        for (unsigned i = 0; i < n; i++)
            bundle_page(&s->bundle, ctl->pages + (size_t)i * in->reader.page_size,
                        in->reader.page_size);
        bundle_end(&s->bundle);
    }
}

static uint32_t page_limit(const struct ftctl *ctl, const struct ftinst *in)
{
    if (!ctl->flush_pass)
        return TICK_PAGES;
    uint32_t pages =
        in->mux.cached_pages > 1 ? in->mux.cached_pages : tracefs_buffer_pages(&in->mux.fs);
    return pages < TICK_PAGES ? TICK_PAGES : pages;
}

/* One batch of one CPU; bytes read. */
static size_t step(struct ftctl *ctl)
{
    struct ftinst *in = inst_of(ctl->at);
    uint32_t limit = page_limit(ctl, in), want = limit - ctl->pages_done;
    unsigned n;
    enum cpuread_end end =
        cpuread_batch(&in->reader, ctl->cpu, ctl->pages,
                      want < CPUREAD_BATCH ? want : CPUREAD_BATCH, ctl->pages_done == 0, &n);
    parse(ctl, in, n, end);
    ctl->pages_done += n;
    if (end == CPUREAD_MORE && ctl->pages_done < limit)
        return (size_t)n * in->reader.page_size;
    if (end == CPUREAD_MORE)
        ctl->full = true;
    ctl->pages_done = 0;
    if (++ctl->cpu == in->reader.n)
        enter_inst(ctl, ctl->at->next);
    return (size_t)n * in->reader.page_size;
}

static void write_stats(struct ftsub *s)
{
    struct ftstats now;
    struct pbw *p = s->host.sink.begin(s->host.sink.arg);
    pbw_begin(p, PBF_TracePacket_ftrace_stats);
    ftstats_write(&s->at_start, p, FTSTATS_START, s->mc, 0);
    pbw_end(p);
    s->host.sink.end(s->host.sink.arg);
    ftstats_read(&now, &s->inst->mux, s->mc, &s->ctl->ksyms);
    p = s->host.sink.begin(s->host.sink.arg);
    pbw_begin(p, PBF_TracePacket_ftrace_stats);
    ftstats_write(&now, p, FTSTATS_END, s->mc, s->bundle.parse_errors);
    pbw_end(p);
    s->host.sink.end(s->host.sink.arg);
    ftstats_fini(&now);
}

static void end_pass(struct ftctl *ctl)
{
    ctl->pass_on = false;
    if (ctl->full)
        ctl->tick_due = true; /* go on at once, behind what else is waiting */
    list_for_each (i, &ctl->insts)
        list_for_each (pos, &inst_of(i)->subs) {
            struct ftsub *s = sub_of(pos);
            if (!s->started)
                continue;
            s->host.pass(s->host.arg, &s->bundle.meta);
            bundle_pass_done(&s->bundle);
        }
    list_for_each (i, &ctl->insts)
        list_for_each (pos, &inst_of(i)->subs) {
            struct ftsub *s = sub_of(pos);
            if (!s->flush_in_pass)
                continue;
            s->flush_in_pass = s->flush_due = false;
            write_stats(s);
            s->host.flushed(s->host.arg, s->flush_id);
        }
}

static bool flush_waits(const struct ftctl *ctl)
{
    list_for_each (i, &ctl->insts)
        list_for_each (pos, &inst_of(i)->subs)
            if (sub_of(pos)->flush_due)
                return true;
    return false;
}

static enum task_result run_reading(void *arg, struct task_budget *budget)
{
    struct ftctl *ctl = arg;
    if (!ctl->pass_on) {
        if (!ctl->tick_due && !flush_waits(ctl))
            return TASK_DONE;
        begin_pass(ctl);
    }
    while (ctl->at != &ctl->insts)
        if (!task_spend_slow(budget, step(ctl)))
            return TASK_AGAIN;
    end_pass(ctl);
    return ctl->tick_due || flush_waits(ctl) ? TASK_AGAIN : TASK_DONE;
}

/* ---- the controller ---- */

struct ftctl *ftctl_new(struct reactor *r, const char *root, int sysroot)
{
    struct ftctl *ctl = alloc_new(struct ftctl);
    ctl->r = r;
    ctl->root = root;
    ctl->sysroot = sysroot;
    ctl->primary.dir = -1;
    list_init(&ctl->insts);
    deadline_init(&ctl->tick, r, "ftrace tick", on_tick, ctl);
    task_init(&ctl->reading, r, "ftrace read", run_reading, ctl);
    return ctl;
}

void ftctl_free(struct ftctl *ctl)
{
    if (!ctl)
        return;
    task_stop(&ctl->reading);
    deadline_cancel(&ctl->tick);
    tracefs_close(&ctl->primary);
    ksyms_fini(&ctl->ksyms);
    free(ctl->pages);
    free(ctl);
}

static int find_primary(struct ftctl *ctl, char *why)
{
    const char *reason = "tracefs could not be opened before; restart the daemon once it is there";
    int rc = -ENOENT;
    if (ctl->found)
        return 0;
    if (!ctl->tried)
        rc = ctl->root ? tracefs_open(&ctl->primary, ctl->root)
                       : tracefs_find(&ctl->primary, &reason);
    ctl->tried = true;
    ctl->found = rc == 0;
    if (rc)
        snprintf(why, FTMUX_WHY_MAX, "%s", reason);
    return rc;
}

/* The tracefs instance of that name, opened if nobody uses it yet (R137, R138). */
static int get_inst(struct ftctl *ctl, const char *name, struct ftinst **out, char *why)
{
    struct tracefs fs;
    int rc = find_primary(ctl, why);
    if (rc)
        return rc;
    list_for_each (pos, &ctl->insts)
        if (strcmp(inst_of(pos)->name, name) == 0) {
            *out = inst_of(pos);
            return 0;
        }
    if (*name) {
        rc = tracefs_open_instance(&fs, &ctl->primary, name);
        if (rc)
            snprintf(why, FTMUX_WHY_MAX,
                     "no tracefs instance \"%.60s\" (%s); make it with mkdir %sinstances/NAME",
                     name, err_text(rc), ctl->primary.root);
    } else {
        rc = tracefs_open(&fs, ctl->primary.root);
        if (rc)
            snprintf(why, FTMUX_WHY_MAX, "cannot open %s any more: %s", ctl->primary.root,
                     err_text(rc));
    }
    if (rc)
        return rc;
    struct ftinst *in = alloc_new(struct ftinst);
    in->name = alloc_strdup(name);
    list_init(&in->subs);
    ftmux_init(&in->mux, fs);
    list_push_back(&ctl->insts, &in->node);
    *out = in;
    return 0;
}

static void put_inst(struct ftctl *ctl, struct ftinst *in)
{
    if (!list_empty(&in->subs))
        return;
    abandon_pass(ctl);
    list_remove(&in->node);
    wmark_close(&in->wmark);
    cpuread_close(&in->reader);
    ftmux_fini(&in->mux);
    free(in->name);
    free(in);
}

static void wire_bundle(struct ftsub *s)
{
    struct bundle *b = &s->bundle;
    bundle_init(b, &s->inst->mux.ev, s->host.sink, tracefs_n_cpus());
    b->filter = s->mc->filter;
    b->filter_ids = s->mc->filter_ids;
    b->compact_on = s->mc->compact;
    b->enc->legacy_generic = s->cfg.legacy_generic;
    if (s->cfg.has_print_filter && s->mc->prints) {
        b->prints = &s->cfg.print_filter;
        b->print = events_find(&s->inst->mux.ev, "ftrace", "print");
    }
}

int ftctl_subscribe(struct ftctl *ctl, const uint8_t *cfg, size_t len,
                    const struct ftctl_host *host, struct ftsub **out, char *why)
{
    struct ftcfg c;
    struct ftinst *in;
    int rc = ftcfg_parse(cfg, len, &c, why, FTMUX_WHY_MAX);
    if (rc)
        return rc;
    const char *name = c.instance ? c.instance : "";
    rc = get_inst(ctl, name, &in, why);
    if (rc) {
        ftcfg_fini(&c);
        return rc;
    }
    struct ftsub *s = alloc_new(struct ftsub);
    s->ctl = ctl;
    s->inst = in;
    s->cfg = c;
    s->host = *host;
    rc = ftmux_setup(&in->mux, &s->cfg, *name != '\0', &s->mc, why);
    if (rc) {
        put_inst(ctl, in);
        ftcfg_fini(&s->cfg);
        free(s);
        return rc;
    }
    list_push_back(&in->subs, &s->node);
    ctl->n_subs++;
    ctl->ksyms_retain |= s->cfg.ksyms_retain;
    wire_bundle(s);
    *out = s;
    return 0;
}

static void load_symbols(struct ftctl *ctl)
{
    if (ctl->ksyms.n)
        return;
    int rc = ksyms_load(&ctl->ksyms, ctl->sysroot);
    if (rc || ctl->ksyms.n == 0)
        log_warn("symbolize_ksyms: no kernel symbols in /proc/kallsyms%s%s; run as root",
                 rc ? ": " : "", rc ? err_text(rc) : "");
}

/* R30: readers then keep events that are older than the trace. */
static void write_preserve(struct ftsub *s)
{
    struct pbw *p = s->host.sink.begin(s->host.sink.arg);
    pbw_begin(p, PBF_TracePacket_ftrace_stats);
    pbw_varint(p, PBF_FtraceStats_phase, FTSTATS_START);
    pbw_bool(p, PBF_FtraceStats_preserve_ftrace_buffer, true);
    pbw_end(p);
    s->host.sink.end(s->host.sink.arg);
}

int ftctl_start(struct ftsub *s)
{
    struct ftctl *ctl = s->ctl;
    struct ftinst *in = s->inst;
    if (s->started)
        return 0;
    int rc = ftmux_start(&in->mux, s->mc);
    if (rc)
        return rc;
    if (in->n_started == 0) {
        rc = cpuread_open(&in->reader, &in->mux.fs, in->mux.ev.page_size);
        if (rc)
            return rc;
        size_t need = (size_t)CPUREAD_BATCH * in->reader.page_size;
        if (need > ctl->pages_cap)
            ctl->pages = alloc_resize(ctl->pages, ctl->pages_cap = need, 1);
        wmark_open(&in->wmark, ctl->r, &in->mux.fs, &in->reader, on_wmark, ctl);
        abandon_pass(ctl);
    }
    s->started = true;
    in->n_started++;
    arm_tick(ctl);
    if (s->cfg.symbolize) {
        load_symbols(ctl);
        s->bundle.ksyms = &ctl->ksyms;
    }
    ftstats_read(&s->at_start, &in->mux, s->mc, &ctl->ksyms);
    if (s->cfg.preserve_buffer)
        write_preserve(s);
    return 0;
}

void ftctl_flush(struct ftsub *s, uint64_t flush_id)
{
    if (!s->started)
        return;
    s->flush_due = true;
    s->flush_id = flush_id;
    task_wake(&s->ctl->reading);
}

void ftctl_unsubscribe(struct ftsub *s)
{
    struct ftctl *ctl = s->ctl;
    struct ftinst *in = s->inst;
    abandon_pass(ctl);
    list_remove(&s->node);
    ctl->n_subs--;
    ftmux_remove(&in->mux, s->mc);
    if (s->started && --in->n_started == 0) {
        wmark_close(&in->wmark);
        cpuread_close(&in->reader);
        ftmux_reset_tracer(&in->mux);
    }
    bundle_fini(&s->bundle);
    ftstats_fini(&s->at_start);
    ftcfg_fini(&s->cfg);
    free(s);
    put_inst(ctl, in);
    if (ctl->n_subs)
        return;
    deadline_cancel(&ctl->tick);
    task_stop(&ctl->reading);
    ctl->pass_on = ctl->tick_due = false;
    alloc_free(&ctl->pages);
    ctl->pages_cap = 0;
    if (!ctl->ksyms_retain || ctl->ksyms.n == 0)
        ksyms_fini(&ctl->ksyms);
    ctl->ksyms_retain = false;
}
