/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is missing from a trace, in words.
 *
 * One line for each cause: what was lost, how much, and the setting that would have kept it.
 * Numbers are proposed from what was seen in the trace, not from a table. What is a mere
 * consequence of a cause that has its line gets none of its own, so that the number of lines is the
 * number of causes; lines about equal things (processes, CPUs) are summed up after the first few.
 *
 * Nothing is changed here; losses.c has gathered all of it.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/losses.h"
#include "cli/losses_int.h"

#define SHOWN_MAX   8  /* lines about equal things before they are summed up */
#define EVENT_BYTES 64 /* of a kernel event, with its head: most are smaller */

struct report {
    FILE *f; /* borrow: NULL to count only */
    const char *prefix;
    unsigned n;
};

static void line(struct report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line(struct report *r, const char *fmt, ...)
{
    va_list ap;

    r->n++;
    if (r->f == NULL)
        return;
    fputs(r->prefix, r->f);
    va_start(ap, fmt);
    vfprintf(r->f, fmt, ap);
    va_end(ap);
    fputc('\n', r->f);
}

/* The next power of two, at least lo and at most hi. */
static uint64_t proposal(uint64_t v, uint64_t lo, uint64_t hi)
{
    while (lo < v && lo < hi)
        lo *= 2;
    return lo < hi ? lo : hi;
}

/* A size that would have held all of a buffer's data, in KB, a quarter above what was seen. */
static uint64_t enough_kb(const struct buffer *b)
{
    uint64_t mean = b->chunks_written > 0 ? b->written / b->chunks_written : 4096;

    return (b->size + b->overwritten + b->chunks_discarded * mean) / 1024 * 5 / 4;
}

/* A buffer that is streamed must hold what comes between two writes, and no more. */
static const char *or_else(bool streams)
{
    return streams ? "a smaller file_write_period_ms" : "write_into_file: true";
}

static void report_discard(struct report *r, const struct buffer *b, size_t i, bool streams)
{
    char patches[64] = "";

    if (b->patches_failed > 0) /* they were meant for chunks that are not there */
        (void)snprintf(patches, sizeof(patches), " and %" PRIu64 " patches for them",
                       b->patches_failed);
    line(r,
         "lost: buffer %zu (%" PRIu64 " KB, DISCARD) was full and refused %" PRIu64
         " chunks%s; size_kb: %" PRIu64 " would have held all of it, or %s",
         i, b->size / 1024, b->chunks_discarded, patches, enough_kb(b), or_else(streams));
}

static void report_buffer(struct report *r, const struct buffer *b, size_t i, bool streams)
{
    if (b->overwritten > 0)
        line(r,
             "lost: buffer %zu (%" PRIu64 " KB) overwrote %" PRIu64 " KB of older data in %" PRIu64
             " chunks; size_kb: %" PRIu64 " would have held all of it, or %s",
             i, b->size / 1024, (b->overwritten + 1023) / 1024, b->chunks_overwritten, enough_kb(b),
             or_else(streams));
    else if (b->chunks_overwritten > 0)
        line(r,
             "lost: buffer %zu (%" PRIu64 " KB) overwrote %" PRIu64
             " chunks of older data; raise its size_kb, or set %s",
             i, b->size / 1024, b->chunks_overwritten, or_else(streams));
    if (b->chunks_discarded > 0)
        report_discard(r, b, i, streams);
    else if (b->patches_failed > 0)
        line(r,
             "lost: %" PRIu64 " patches came too late for buffer %zu, so as many packets are "
             "damaged; the buffer wrapped around before they arrived: raise its size_kb",
             b->patches_failed, i);
    if (b->violations > 0)
        line(r,
             "lost: a producer of buffer %zu broke the rules of the shared memory %" PRIu64
             " times; that is a bug in the producer",
             i, b->violations);
}

/* The name under which a process is known as a producer: SDK programs use the first word of their
 * command line (client_sdk.md R29), traced_probes has a name of its own (cli.md R845). */
static const char *producer_of(const char *process)
{
    const char *base = strrchr(process, '/');

    base = base ? base + 1 : process;
    return strcmp(base, "traced_probes") == 0 ? "perfetto.traced_probes" : process;
}

static void report_sequences(struct losses *l, struct report *r)
{
    uint64_t *ids = idmap_sorted_keys(&l->sequences), overwrote = 0, other = 0, more = 0;
    size_t n = idmap_count(&l->sequences), shown = 0;
    char name[48];

    for (size_t i = 0; ids != NULL && i < n; i++) {
        const struct sequence *s = idmap_get(&l->sequences, ids[i]);
        const char *process = idmap_get(&l->processes, (uint64_t)s->pid);
        overwrote += s->overwrote;
        other += s->other;
        if (s->smb_full == 0)
            continue;
        if (shown++ >= SHOWN_MAX) {
            more++;
            continue;
        }
        (void)snprintf(name, sizeof(name), "%s", process ? process : "...");
        line(r,
             "lost: the shared memory of process %d (%s) was full %" PRIu64
             " times (sequence %" PRIu64
             "); producers { producer_name: \"%s\" shm_size_kb: %" PRIu64 " } would have held it",
             (int)s->pid, name, s->smb_full, ids[i], producer_of(name),
             proposal(s->peak_bytes * 4 / 1024, 1024, 32768));
    }
    if (overwrote > 0 && !l->have_stats)
        line(r,
             "lost: %" PRIu64 " holes in sequences where a buffer overwrote its oldest data; raise "
             "size_kb, or set %s",
             overwrote, or_else(l->streams));
    if (more > 0)
        line(r, "lost: %" PRIu64 " more sequences found their shared memory full", more);
    if (other > 0)
        line(r,
             "lost: %" PRIu64
             " holes in sequences; their writer gave up, or data went missing on its way",
             other);
    free(ids);
}

/* Events that a CPU's kernel buffer dropped between the first and the last statistics. */
static uint64_t dropped_events(const struct cpu *c)
{
    return c->overrun + c->commit + c->dropped -
           (c->started ? c->first_overrun + c->first_commit + c->first_dropped : 0);
}

/* The size for a kernel buffer of `kb` that lost events in so many of its periods. */
static uint64_t enough_cpu_kb(uint64_t kb, uint64_t events, uint64_t holes)
{
    uint64_t each = events / (holes > 0 ? holes : 1) * EVENT_BYTES / 1024;

    return proposal((kb > 0 ? kb : 4096) + each + 1, 4096, 131072);
}

static void report_ftrace(struct losses *l, struct report *r)
{
    uint64_t kb = (uint64_t)l->cpu_pages * 4;
    unsigned shown = 0, more = 0;

    for (size_t i = 0; i < l->n_cpus; i++) {
        const struct cpu *c = &l->cpu[i];
        uint64_t events = c->seen ? dropped_events(c) : 0;
        char what[64];
        if (events == 0 && c->holes == 0)
            continue;
        if (shown++ >= SHOWN_MAX) {
            more++;
            continue;
        }
        if (events > 0)
            (void)snprintf(what, sizeof(what), "overran and dropped %" PRIu64 " events", events);
        else
            (void)snprintf(what, sizeof(what), "overran %" PRIu64 " times", c->holes);
        line(r,
             "lost: the kernel's buffer of CPU %zu %s; set ftrace_config { buffer_size_kb: %" PRIu64
             " } or a shorter drain_period_ms",
             i, what, enough_cpu_kb(kb, events, c->holes));
    }
    if (more > 0)
        line(r, "lost: the buffers of %u more CPUs overran", more);
    if (l->ftrace_errors > 0)
        line(r, "lost: %" PRIu64 " pages of the kernel's buffers could not be decoded",
             l->ftrace_errors);
    if (l->bad_events[0] != '\0')
        line(r, "not recorded: this kernel has no such ftrace events, or does not enable them: %s",
             l->bad_events);
    if (l->ftrace_trouble[0] != '\0')
        line(r, "not recorded: %s", l->ftrace_trouble);
}

/* A data source that nobody offers, or whose producer refuses the config, is no error to the
 * service; only what is missing tells. Not said where the packets may have been lost or filtered.
 */
static void report_sources(struct losses *l, struct report *r)
{
    if (!l->have_stats || l->filtered)
        return;
    for (size_t i = 0; i < l->n_buffers; i++) {
        if (l->buffer[i].overwritten + l->buffer[i].chunks_overwritten +
                l->buffer[i].chunks_discarded >
            0)
            return;
    }
    for (unsigned i = 0; losses_sources[i] != NULL; i++) {
        if ((l->asked & ~l->seen) >> i & 1)
            line(r,
                 "not recorded: nothing came from %s; either nobody offers it (perfetto --query), "
                 "or traced_probes refused its config (see its log)",
                 losses_sources[i]);
    }
}

/* The service ends every trace with an event and its statistics; a file that is cut between two
 * packets shows no other sign. One that was limited in size ends anywhere, as it was meant to. */
static bool breaks_off(const struct losses *l)
{
    return l->began && !l->closed && !l->limited && !l->filtered;
}

static void make_report(struct losses *l, struct report *r)
{
    if (breaks_off(l))
        line(
            r,
            "lost: the end of the trace; it was copied while it was written, its disk was full, or "
            "its service was killed: what is before is good");
    for (size_t i = 0; i < l->n_buffers; i++)
        report_buffer(r, &l->buffer[i], i, l->streams);
    report_sequences(l, r);
    report_ftrace(l, r);
    report_sources(l, r);
    if (l->chunks_discarded > 0)
        line(r, "lost: the service refused %" PRIu64 " chunks whose producer named a wrong buffer",
             l->chunks_discarded);
    if (l->patches_discarded > 0)
        line(r, "lost: the service refused %" PRIu64 " malformed patches", l->patches_discarded);
    if (l->invalid_packets > 0)
        line(r, "lost: %" PRIu64 " packets did not parse, or used fields reserved to the service",
             l->invalid_packets);
    if (l->filter_errors > 0)
        line(r, "lost: the trace filter failed on %" PRIu64 " packets", l->filter_errors);
    if (l->final_flush_failed)
        line(r, "perhaps lost: some producer did not answer the last flush in time; raise "
                "flush_timeout_ms");
    else if (l->flushes_failed > 0)
        line(r, "perhaps late: %" PRIu64 " flushes timed out; raise flush_timeout_ms",
             l->flushes_failed);
    if (l->slow_sources[0] != '\0')
        line(r, "slow to start, so the beginning may be missing: %s", l->slow_sources);
}

void losses_buffers(const struct losses *l, FILE *f)
{
    if (l->n_buffers > 0)
        fprintf(f, "\nbuffers:\n  %3s %10s %12s %14s\n", "#", "SIZE KB", "WRITTEN KB",
                "OVERWRITTEN KB");
    for (size_t i = 0; i < l->n_buffers; i++) {
        const struct buffer *b = &l->buffer[i];
        fprintf(f, "  %3zu %10" PRIu64 " %12" PRIu64 " %14" PRIu64 "\n", i, b->size / 1024,
                b->written / 1024, b->overwritten / 1024);
    }
}

const char *losses_process(const struct losses *l, int32_t pid)
{
    const char *name = idmap_get(&l->processes, (uint64_t)pid);

    return name != NULL ? name : "";
}

unsigned losses_count(struct losses *l)
{
    struct report r = {.f = NULL, .prefix = ""};

    make_report(l, &r);
    return r.n;
}

void losses_report(struct losses *l, FILE *f, const char *prefix)
{
    struct report r = {.f = f, .prefix = prefix};

    make_report(l, &r);
}
