/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is missing from a trace.
 *
 * Three witnesses are heard. The service counts what its buffers overwrote, refused or could not
 * patch (the last `trace_stats`, cumulative). The packets say where a sequence has a hole and why
 * (`previous_packet_dropped`, whose bits name the cause). The kernel counts what its own buffers
 * dropped (`ftrace_stats` at the end of a data source, and bundles that follow a loss). From each
 * follows a setting that would have helped; numbers are proposed from what was seen, not from a
 * table.
 *
 * losses_packet runs once per packet of every recording, so it walks the top-level fields and looks
 * into nothing but the few small messages above. Owned here: all of the state; nothing of a packet
 * is kept by reference.
 */
#include "cli/losses.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/tracerd.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/idmap.h"
#include "reactor/str.h"

#define BUFFERS_MAX   128 /* of a session (V11) */
#define CPUS_MAX      4096
#define SEQUENCES_MAX 65536
#define PROCESSES_MAX 65536
#define SHOWN_MAX     8 /* lines about equal things before they are summed up */

/* Bits of previous_packet_dropped (client_sdk.md, table of loss bits). */
enum { DROP_PRESENT = 1, DROP_OVERWRITE = 64, DROP_SMB_FULL = 256 };

#define WINDOW_NS 100000000ull /* peak rates are taken over 100 ms */

struct sequence {
    int32_t pid; /* 0: unknown */
    uint64_t packets;
    uint64_t smb_full, other;                        /* holes, by what is known of their cause */
    uint64_t window_start, window_bytes, peak_bytes; /* per WINDOW_NS */
};

struct buffer {
    uint64_t size, written, overwritten, chunks_overwritten, chunks_discarded;
    uint64_t patches_failed, readaheads_failed, writer_loss, violations;
    bool discard; /* its fill policy */
};

struct cpu {
    uint64_t first_overrun, overrun, first_commit, commit, first_dropped, dropped;
    uint64_t holes; /* bundles that follow a loss */
    bool started, seen;
};

struct losses {
    struct buffer buffer[BUFFERS_MAX];
    size_t n_buffers;
    struct cpu *cpu; /* own: CPUS_MAX, made when needed */
    size_t n_cpus;
    uint32_t cpu_pages; /* size of a kernel buffer, in pages; 0: unknown */
    uint64_t ftrace_errors;
    uint64_t chunks_discarded, patches_discarded, invalid_packets, flushes_failed, filter_errors;
    bool final_flush_failed, have_stats;
    char bad_events[256]; /* names of events that could not be enabled */
    char slow_sources[256];
    struct idmap sequences; /* own: struct sequence */
    struct idmap processes; /* own: pid -> name */
};

struct losses *losses_new(void)
{
    struct losses *l = alloc_new(struct losses);

    idmap_init(&l->sequences);
    idmap_init(&l->processes);
    return l;
}

static void free_map(struct idmap *m)
{
    void *v;

    for (size_t pos = 0; idmap_next(m, &pos, NULL, &v);)
        free(v);
    idmap_fini(m);
}

void losses_free(struct losses *l)
{
    if (l == NULL)
        return;
    free_map(&l->sequences);
    free_map(&l->processes);
    free(l->cpu);
    free(l);
}

/* ---- the service's counters ---- */

static void take_buffer(struct buffer *b, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    bool discard = b->discard;

    memset(b, 0, sizeof(*b));
    b->discard = discard;
    while (bytes_next(&cur, &f)) {
        switch (f.id) {
        case PBF_TraceStats_BufferStats_buffer_size:
            b->size = f.num;
            break;
        case PBF_TraceStats_BufferStats_bytes_written:
            b->written = f.num;
            break;
        case PBF_TraceStats_BufferStats_bytes_overwritten:
            b->overwritten = f.num;
            break;
        case PBF_TraceStats_BufferStats_chunks_overwritten:
            b->chunks_overwritten = f.num;
            break;
        case PBF_TraceStats_BufferStats_chunks_discarded:
            b->chunks_discarded = f.num;
            break;
        case PBF_TraceStats_BufferStats_patches_failed:
            b->patches_failed = f.num;
            break;
        case PBF_TraceStats_BufferStats_readaheads_failed:
            b->readaheads_failed = f.num;
            break;
        case PBF_TraceStats_BufferStats_trace_writer_packet_loss:
            b->writer_loss = f.num;
            break;
        case PBF_TraceStats_BufferStats_abi_violations:
            b->violations = f.num;
            break;
        default:
            break;
        }
    }
}

static uint64_t filter_errors(struct bytes_view msg)
{
    struct bytes_field f;

    return bytes_find(msg, PBF_TraceStats_FilterStats_errors, BYTES_VARINT, &f) ? f.num : 0;
}

static void take_stats(struct losses *l, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;

    l->n_buffers = 0;
    l->have_stats = true;
    while (bytes_next(&cur, &f)) {
        switch (f.id) {
        case PBF_TraceStats_buffer_stats:
            if (f.type == BYTES_LEN && l->n_buffers < BUFFERS_MAX)
                take_buffer(&l->buffer[l->n_buffers++], f.data);
            break;
        case PBF_TraceStats_chunks_discarded:
            l->chunks_discarded = f.num;
            break;
        case PBF_TraceStats_patches_discarded:
            l->patches_discarded = f.num;
            break;
        case PBF_TraceStats_invalid_packets:
            l->invalid_packets = f.num;
            break;
        case PBF_TraceStats_flushes_failed:
            l->flushes_failed = f.num;
            break;
        case PBF_TraceStats_final_flush_outcome:
            l->final_flush_failed = f.num == 2;
            break;
        case PBF_TraceStats_filter_stats:
            l->filter_errors = f.type == BYTES_LEN ? filter_errors(f.data) : 0;
            break;
        default:
            break;
        }
    }
}

/* Fill policies, from the echo of the config. */
static void take_config(struct losses *l, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f, policy;
    size_t n = 0;

    while (bytes_next(&cur, &f)) {
        if (f.id != PBF_TraceConfig_buffers || f.type != BYTES_LEN || n == BUFFERS_MAX)
            continue;
        l->buffer[n++].discard =
            bytes_find(f.data, PBF_TraceConfig_BufferConfig_fill_policy, BYTES_VARINT, &policy) &&
            policy.num == 2;
    }
}

/* ---- the kernel's counters ---- */

static struct cpu *get_cpu(struct losses *l, uint64_t n)
{
    if (n >= CPUS_MAX)
        return NULL;
    if (l->cpu == NULL)
        l->cpu = alloc_array(CPUS_MAX, sizeof(*l->cpu));
    if (n >= l->n_cpus)
        l->n_cpus = (size_t)n + 1;
    l->cpu[n].seen = true;
    return &l->cpu[n];
}

static void take_cpu(struct losses *l, struct bytes_view msg, bool start)
{
    uint64_t id = 0, overrun = 0, commit = 0, dropped = 0;
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    struct cpu *c;

    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_FtraceCpuStats_cpu)
            id = f.num;
        else if (f.id == PBF_FtraceCpuStats_overrun)
            overrun = f.num;
        else if (f.id == PBF_FtraceCpuStats_commit_overrun)
            commit = f.num;
        else if (f.id == PBF_FtraceCpuStats_dropped_events)
            dropped = f.num;
    }
    c = get_cpu(l, id);
    if (c == NULL)
        return;
    if (start) {
        c->started = true;
        c->first_overrun = overrun;
        c->first_commit = commit;
        c->first_dropped = dropped;
    }
    c->overrun = overrun;
    c->commit = commit;
    c->dropped = dropped;
}

static void add_name(char *list, size_t size, struct bytes_view name)
{
    size_t n = strlen(list);
    char shown[64];

    str_escape(shown, sizeof(shown), (const char *)name.p, name.n);
    if (strstr(list, shown) == NULL && n + strlen(shown) + 3 < size)
        (void)snprintf(list + n, size - n, "%s%s", n > 0 ? ", " : "", shown);
}

static void take_ftrace_stats(struct losses *l, struct bytes_view msg)
{
    struct bytes_cur cur;
    struct bytes_field f;
    bool start = bytes_find(msg, PBF_FtraceStats_phase, BYTES_VARINT, &f) && f.num == 1;

    cur = bytes_cur(msg);
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_FtraceStats_cpu_stats && f.type == BYTES_LEN)
            take_cpu(l, f.data, start);
        else if ((f.id == PBF_FtraceStats_unknown_ftrace_events ||
                  f.id == PBF_FtraceStats_failed_ftrace_events) &&
                 f.type == BYTES_LEN)
            add_name(l->bad_events, sizeof(l->bad_events), f.data);
        else if (f.id == PBF_FtraceStats_cpu_buffer_size_pages)
            l->cpu_pages = (uint32_t)f.num;
    }
}

static void take_bundle(struct losses *l, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    struct cpu *c;
    uint64_t id = 0;
    bool lost = false;

    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_FtraceEventBundle_cpu)
            id = f.num;
        else if (f.id == PBF_FtraceEventBundle_lost_events && f.num != 0)
            lost = true;
        else if (f.id == PBF_FtraceEventBundle_error)
            l->ftrace_errors++;
    }
    c = lost ? get_cpu(l, id) : NULL;
    if (c != NULL)
        c->holes++;
}

/* ---- names of processes ---- */

static void name_process(struct losses *l, uint64_t pid, struct bytes_view name)
{
    char text[48];

    if (pid == 0 || name.n == 0 || idmap_get(&l->processes, pid) != NULL ||
        idmap_count(&l->processes) >= PROCESSES_MAX)
        return;
    str_escape(text, sizeof(text), (const char *)name.p, name.n);
    char *copy = alloc_strdup(text);
    if (idmap_put(&l->processes, pid, copy) != 0)
        free(copy);
}

static void take_process(struct losses *l, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_view name = {NULL, 0};
    struct bytes_field f;
    uint64_t pid = 0;

    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_ProcessTree_Process_pid && f.type == BYTES_VARINT)
            pid = f.num;
        else if (f.id == PBF_ProcessTree_Process_cmdline && f.type == BYTES_LEN && name.n == 0)
            name = f.data;
    }
    name_process(l, pid, name);
}

static void take_tree(struct losses *l, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;

    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_ProcessTree_processes && f.type == BYTES_LEN)
            take_process(l, f.data);
    }
}

static void take_track(struct losses *l, struct bytes_view msg)
{
    struct bytes_field process, pid, name;

    if (bytes_find(msg, PBF_TrackDescriptor_process, BYTES_LEN, &process) &&
        bytes_find(process.data, PBF_ProcessDescriptor_pid, BYTES_VARINT, &pid) &&
        (bytes_find(process.data, PBF_ProcessDescriptor_process_name, BYTES_LEN, &name) ||
         bytes_find(process.data, PBF_ProcessDescriptor_cmdline, BYTES_LEN, &name)))
        name_process(l, pid.num, name.data);
}

static void take_slow(struct losses *l, struct bytes_view event)
{
    struct bytes_field list, one, name;
    struct bytes_cur cur;

    if (!bytes_find(event, PBF_TracingServiceEvent_slow_starting_data_sources, BYTES_LEN, &list))
        return;
    cur = bytes_cur(list.data);
    while (bytes_next(&cur, &one)) {
        if (one.type == BYTES_LEN && bytes_find(one.data, 2, BYTES_LEN, &name))
            add_name(l->slow_sources, sizeof(l->slow_sources), name.data);
    }
}

/* ---- packets ---- */

static void account(struct losses *l, uint32_t id, int32_t pid, uint64_t dropped,
                    uint64_t timestamp, size_t size)
{
    struct sequence *s = idmap_get(&l->sequences, id);

    if (s == NULL) {
        if (idmap_count(&l->sequences) >= SEQUENCES_MAX)
            return;
        s = alloc_new(struct sequence);
        if (idmap_put(&l->sequences, id, s) != 0) {
            free(s);
            return;
        }
    }
    if (pid != 0)
        s->pid = pid;
    /* nothing is known to precede the first packet of a sequence: a bare mark there tells nothing
     */
    if (s->packets++ == 0 && dropped == DROP_PRESENT)
        dropped = 0;
    s->smb_full += (dropped & DROP_SMB_FULL) != 0;
    s->other += dropped != 0 && (dropped & (DROP_SMB_FULL | DROP_OVERWRITE)) == 0;
    if (timestamp < s->window_start || timestamp - s->window_start >= WINDOW_NS) {
        s->window_start = timestamp;
        s->window_bytes = 0;
    }
    s->window_bytes += size;
    if (s->window_bytes > s->peak_bytes)
        s->peak_bytes = s->window_bytes;
}

void losses_packet(struct losses *l, struct bytes_view packet)
{
    struct bytes_cur cur = bytes_cur(packet);
    struct bytes_field f;
    uint64_t dropped = 0, timestamp = 0;
    uint32_t id = 0;
    int32_t pid = 0;

    while (bytes_next(&cur, &f)) {
        switch (f.id) {
        case PBF_TracePacket_trusted_packet_sequence_id:
            id = (uint32_t)f.num;
            break;
        case PBF_TracePacket_trusted_pid:
            pid = (int32_t)f.num;
            break;
        case PBF_TracePacket_previous_packet_dropped:
            dropped = f.num;
            break;
        case PBF_TracePacket_timestamp:
            timestamp = f.num;
            break;
        case PBF_TracePacket_trace_stats:
            take_stats(l, f.data);
            break;
        case PBF_TracePacket_trace_config:
            take_config(l, f.data);
            break;
        case PBF_TracePacket_ftrace_stats:
            take_ftrace_stats(l, f.data);
            break;
        case PBF_TracePacket_ftrace_events:
            take_bundle(l, f.data);
            break;
        case PBF_TracePacket_process_tree:
            take_tree(l, f.data);
            break;
        case PBF_TracePacket_track_descriptor:
            take_track(l, f.data);
            break;
        case PBF_TracePacket_service_event:
            take_slow(l, f.data);
            break;
        default:
            break;
        }
    }
    if (id != 0)
        account(l, id, pid, dropped, timestamp, packet.n);
}

static bool file_packet(void *arg, struct bytes_view packet, uint64_t offset)
{
    (void)offset;
    losses_packet(arg, packet);
    return true;
}

void losses_file(struct losses *l, const char *path)
{
    static const struct tracerd_ops ops = {.packet = file_packet};
    struct tracerd_totals totals;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)tracerd_read(fd, &ops, l, &totals);
    close(fd);
}

bool losses_has_stats(const struct losses *l)
{
    return l->have_stats;
}

/* ---- report ---- */

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

static void report_buffer(struct report *r, const struct buffer *b, size_t i)
{
    if (b->overwritten > 0)
        line(r,
             "lost: buffer %zu (%" PRIu64 " KB) overwrote %" PRIu64 " KB of older data in %" PRIu64
             " chunks; size_kb: %" PRIu64 " would have held all of it, or write_into_file: true",
             i, b->size / 1024, (b->overwritten + 1023) / 1024, b->chunks_overwritten,
             (b->size + b->overwritten) / 1024 * 5 / 4);
    else if (b->chunks_overwritten > 0)
        line(r,
             "lost: buffer %zu (%" PRIu64 " KB) overwrote %" PRIu64
             " chunks of older data; raise its size_kb, or set write_into_file: true",
             i, b->size / 1024, b->chunks_overwritten);
    if (b->chunks_discarded > 0)
        line(r,
             "lost: buffer %zu (%" PRIu64 " KB, DISCARD) was full and refused %" PRIu64
             " chunks; raise its size_kb",
             i, b->size / 1024, b->chunks_discarded);
    if (b->patches_failed > 0)
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
    uint64_t *ids = idmap_sorted_keys(&l->sequences), other = 0, more = 0;
    size_t n = idmap_count(&l->sequences), shown = 0;
    char name[48];

    for (size_t i = 0; ids != NULL && i < n; i++) {
        const struct sequence *s = idmap_get(&l->sequences, ids[i]);
        const char *process = idmap_get(&l->processes, (uint64_t)s->pid);
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

static void report_ftrace(struct losses *l, struct report *r)
{
    uint64_t kb = (uint64_t)l->cpu_pages * 4;
    uint64_t better = kb > 0 ? proposal(kb * 2, 4096, 131072) : 8192;
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
             i, what, better);
    }
    if (more > 0)
        line(r, "lost: the buffers of %u more CPUs overran", more);
    if (l->ftrace_errors > 0)
        line(r, "lost: %" PRIu64 " pages of the kernel's buffers could not be decoded",
             l->ftrace_errors);
    if (l->bad_events[0] != '\0')
        line(r, "not recorded: this kernel has no such ftrace events, or does not enable them: %s",
             l->bad_events);
}

static void make_report(struct losses *l, struct report *r)
{
    for (size_t i = 0; i < l->n_buffers; i++)
        report_buffer(r, &l->buffer[i], i);
    report_sequences(l, r);
    report_ftrace(l, r);
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
