/* SPDX-License-Identifier: Apache-2.0 */
/* ftstats: reads the kernel's counters per CPU, so that a trace can say what it lost.
 *
 * The counters at the start are kept by the instance and repeated with every flush; a reader takes
 * the difference. A CPU whose file cannot be read has zeros but keeps its number: the list always
 * has one entry per configured CPU. */
#include "probes/ftrace/ftstats.h"

#include <stdio.h>
#include <stdlib.h>

#include "probes/ftrace/atcat.h"
#include "probes/ftrace/rbpage.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"

/* Seconds with a fraction; kernel text, so neither sign nor exponent. */
static double seconds(struct ptext t)
{
    uint64_t whole = 0, part = 0;
    double scale = 1;
    t = ptext_trim(t);
    ptext_u64(t, &whole);
    while (t.p < t.end && *t.p != '.')
        t.p++;
    for (t.p++; t.p < t.end && *t.p >= '0' && *t.p <= '9' && scale < 1e9; t.p++, scale *= 10)
        part = part * 10 + (uint64_t)(*t.p - '0');
    return (double)whole + (double)part / scale;
}

void ftstats_parse_cpu(struct ptext text, struct ftstats_cpu *out)
{
    struct ptext line;
    *out = (struct ftstats_cpu){0};
    struct {
        const char *key;
        uint32_t *u;
        double *d;
    } keys[] = {{"entries", &out->entries, NULL},
                {"overrun", &out->overrun, NULL},
                {"commit overrun", &out->commit_overrun, NULL},
                {"bytes", &out->bytes_read, NULL},
                {"oldest event ts", NULL, &out->oldest_event_ts},
                {"now ts", NULL, &out->now_ts},
                {"dropped events", &out->dropped_events, NULL},
                {"read events", &out->read_events, NULL}};
    while (ptext_line(&text, &line)) {
        struct ptext key, value = line;
        uint64_t v = 0;
        if (!ptext_cut(&value, ':', &key))
            continue;
        for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
            if (!ptext_starts(key, keys[i].key))
                continue;
            if (keys[i].d)
                *keys[i].d = seconds(value);
            else if (ptext_u64(value, &v))
                *keys[i].u = (uint32_t)v;
            break;
        }
    }
}

bool ftstats_parse_kprobes(struct ptext text, int64_t *hits, int64_t *misses)
{
    int64_t h = 0, m = 0;
    struct ptext line;
    while (ptext_line(&text, &line)) {
        struct ptext w[3];
        uint64_t v[2];
        unsigned n = 0;
        while (n < 3 && ptext_word(&line, &w[n]))
            n++;
        if (n == 0)
            continue;
        if (n < 3 || !ptext_u64(w[1], &v[0]) || !ptext_u64(w[2], &v[1]))
            return false;
        h += (int64_t)v[0];
        m += (int64_t)v[1];
    }
    *hits = h;
    *misses = m;
    return true;
}

static bool read_cpu(const struct tracefs *fs, unsigned cpu, struct procfs_buf *b,
                     struct ftstats_cpu *out)
{
    char path[64];
    snprintf(path, sizeof path, "per_cpu/cpu%u/stats", cpu);
    if (tracefs_read(fs, path, b))
        return false;
    ftstats_parse_cpu(procfs_text(b), out);
    return true;
}

int64_t ftstats_now_ns(const struct tracefs *fs, unsigned cpu)
{
    struct procfs_buf b = {0};
    struct ftstats_cpu c = {0};
    read_cpu(fs, cpu, &b, &c);
    procfs_buf_fini(&b);
    return (int64_t)(c.now_ts * 1e9);
}

void ftstats_read(struct ftstats *s, const struct ftmux *m, const struct ftmux_cfg *c,
                  const struct ksyms *k)
{
    struct procfs_buf b = {0};
    *s = (struct ftstats){.n_cpus = tracefs_n_cpus()};
    s->cpus = alloc_array(s->n_cpus, sizeof *s->cpus);
    for (unsigned i = 0; i < s->n_cpus; i++)
        read_cpu(&m->fs, i, &b, &s->cpus[i]);
    s->buffer_pages = tracefs_buffer_pages(&m->fs);
    s->cached_pages = m->cached_pages;
    s->ksyms_parsed = (uint32_t)k->n;
    s->ksyms_kb = (uint32_t)(ksyms_memory(k) / 1024);
    if (c->has_kprobes && tracefs_read(&m->fs, "kprobe_profile", &b) == 0)
        ftstats_parse_kprobes(procfs_text(&b), &s->kprobe_hits, &s->kprobe_misses);
    procfs_buf_fini(&b);
}

void ftstats_fini(struct ftstats *s)
{
    free(s->cpus);
    *s = (struct ftstats){0};
}

static void write_cpu(const struct ftstats_cpu *c, unsigned cpu, struct pbw *p)
{
    pbw_begin(p, PBF_FtraceStats_cpu_stats);
    pbw_varint(p, PBF_FtraceCpuStats_cpu, cpu);
    pbw_varint(p, PBF_FtraceCpuStats_entries, c->entries);
    pbw_varint(p, PBF_FtraceCpuStats_overrun, c->overrun);
    pbw_varint(p, PBF_FtraceCpuStats_commit_overrun, c->commit_overrun);
    pbw_varint(p, PBF_FtraceCpuStats_bytes_read, c->bytes_read);
    pbw_double(p, PBF_FtraceCpuStats_oldest_event_ts, c->oldest_event_ts);
    pbw_double(p, PBF_FtraceCpuStats_now_ts, c->now_ts);
    pbw_varint(p, PBF_FtraceCpuStats_dropped_events, c->dropped_events);
    pbw_varint(p, PBF_FtraceCpuStats_read_events, c->read_events);
    pbw_end(p);
}

/* Categories without events of the kernel: on Android they would come from userspace. */
static void write_categories(const struct ftcfg *cfg, struct pbw *p)
{
    char text[256] = "";
    size_t n = 0;
    for (size_t i = 0; i < cfg->categories.n && n < sizeof text; i++)
        if (!atcat_known(cfg->categories.v[i]))
            n += (size_t)snprintf(
                text + n, sizeof text - n, "%s%s",
                n ? ", " : "no kernel events belong to the categories: ", cfg->categories.v[i]);
    if (n)
        pbw_str(p, PBF_FtraceStats_atrace_errors, text);
}

void ftstats_write(const struct ftstats *s, struct pbw *p, enum ftstats_phase phase,
                   const struct ftmux_cfg *c, uint32_t parse_errors)
{
    pbw_varint(p, PBF_FtraceStats_phase, phase);
    for (unsigned i = 0; i < s->n_cpus; i++)
        write_cpu(&s->cpus[i], i, p);
    pbw_varint(p, PBF_FtraceStats_kernel_symbols_parsed, s->ksyms_parsed);
    pbw_varint(p, PBF_FtraceStats_kernel_symbols_mem_kb, s->ksyms_kb);
    if (phase == FTSTATS_START) {
        write_categories(c->cfg, p);
        for (size_t i = 0; i < c->unknown.n; i++)
            pbw_str(p, PBF_FtraceStats_unknown_ftrace_events, c->unknown.v[i]);
        for (size_t i = 0; i < c->failed.n; i++)
            pbw_str(p, PBF_FtraceStats_failed_ftrace_events, c->failed.v[i]);
    }
    if (phase == FTSTATS_END)
        for (uint32_t e = 0; e <= RBPAGE_STATUS_MAX; e++)
            if (parse_errors >> e & 1)
                pbw_varint(p, PBF_FtraceStats_ftrace_parse_errors, e);
    if (s->kprobe_hits || s->kprobe_misses) {
        pbw_begin(p, PBF_FtraceStats_kprobe_stats);
        pbw_int(p, PBF_FtraceKprobeStats_hits, s->kprobe_hits);
        pbw_int(p, PBF_FtraceKprobeStats_misses, s->kprobe_misses);
        pbw_end(p);
    }
    pbw_varint(p, PBF_FtraceStats_cpu_buffer_size_pages, s->buffer_pages);
    pbw_varint(p, PBF_FtraceStats_cached_cpu_buffer_size_pages, s->cached_pages);
}
