/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is missing from a trace.
 *
 * Three witnesses are heard. The service counts what its buffers overwrote, refused or could not
 * patch (the last `trace_stats`, cumulative). The packets say where a sequence has a hole and why
 * (`previous_packet_dropped`, whose bits name the cause). The kernel counts what its own buffers
 * dropped (`ftrace_stats` at the end of a data source, and bundles that follow a loss). What
 * follows from it for people is said by losses_report.c.
 *
 * losses_packet runs once per packet of every recording, so it walks the top-level fields and looks
 * into nothing but the few small messages above. Owned here: all of the state; nothing of a packet
 * is kept by reference.
 */
#include "cli/losses.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/losses_int.h"
#include "cli/tracerd.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/idmap.h"
#include "reactor/str.h"

#define CPUS_MAX      4096
#define SEQUENCES_MAX 65536
#define PROCESSES_MAX 65536

/* Bits of previous_packet_dropped (client_sdk.md, table of loss bits). */
enum { DROP_PRESENT = 1, DROP_OVERWRITE = 64, DROP_SMB_FULL = 256 };

#define WINDOW_NS 100000000ull /* peak rates are taken over 100 ms */

const char *const losses_sources[] = {"linux.ftrace", "linux.system_info", NULL};

/* The fields that their packets have, in the same order. */
static const uint32_t source_fields[][2] = {
    {PBF_TracePacket_ftrace_events, PBF_TracePacket_ftrace_stats},
    {PBF_TracePacket_cpu_info, PBF_TracePacket_interrupt_info},
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
        case PBF_TraceStats_BufferStats_chunks_written:
            b->chunks_written = f.num;
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
    l->closed = l->ended;
    while (bytes_next(&cur, &f)) {
        switch (f.id) {
        case PBF_TraceStats_buffer_stats:
            if (f.type == BYTES_LEN && l->n_buffers < LOSSES_BUFFERS_MAX)
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

static unsigned source_bit(struct bytes_view source)
{
    struct bytes_field config, name;

    if (!bytes_find(source, PBF_TraceConfig_DataSource_config, BYTES_LEN, &config) ||
        !bytes_find(config.data, PBF_DataSourceConfig_name, BYTES_LEN, &name))
        return 0;
    for (unsigned i = 0; losses_sources[i] != NULL; i++) {
        if (bytes_equal(name.data, bytes_str(losses_sources[i])))
            return 1u << i;
    }
    return 0;
}

/* The echo of the config: what was asked for, and what the buffers do when they are full. */
static void take_config(struct losses *l, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f, policy;
    size_t n = 0;

    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_TraceConfig_write_into_file && f.type == BYTES_VARINT)
            l->streams = f.num != 0;
        else if (f.id == PBF_TraceConfig_max_file_size_bytes && f.type == BYTES_VARINT)
            l->limited = f.num != 0;
        else if (f.id == PBF_TraceConfig_trace_filter)
            l->filtered = true;
        else if (f.id == PBF_TraceConfig_data_sources && f.type == BYTES_LEN)
            l->asked |= source_bit(f.data);
        if (f.id != PBF_TraceConfig_buffers || f.type != BYTES_LEN || n == LOSSES_BUFFERS_MAX)
            continue;
        l->buffer[n++].discard =
            bytes_find(f.data, PBF_TraceConfig_BufferConfig_fill_policy, BYTES_VARINT, &policy) &&
            policy.num == 2;
    }
}

static void see(struct losses *l, uint32_t field)
{
    for (unsigned i = 0; losses_sources[i] != NULL; i++) {
        if (source_fields[i][0] == field || source_fields[i][1] == field)
            l->seen |= 1u << i;
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
        else if ((f.id == PBF_FtraceStats_atrace_errors ||
                  f.id == PBF_FtraceStats_exclusive_feature_error) &&
                 f.type == BYTES_LEN)
            str_escape(l->ftrace_trouble, sizeof(l->ftrace_trouble), (const char *)f.data.p,
                       f.data.n);
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

static void take_service_event(struct losses *l, struct bytes_view event)
{
    struct bytes_field list, one, name;
    struct bytes_cur cur;

    if (bytes_find(event, PBF_TracingServiceEvent_tracing_started, BYTES_VARINT, &one)) {
        l->began = true;
        l->ended = l->closed = false; /* files can be joined */
    }
    if (bytes_find(event, PBF_TracingServiceEvent_tracing_disabled, BYTES_VARINT, &one))
        l->ended = true;
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
    s->overwrote += (dropped & DROP_OVERWRITE) != 0;
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
        see(l, f.id);
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
            take_service_event(l, f.data);
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
