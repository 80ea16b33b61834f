/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --inspect.
 *
 * One pass over the file (cli/tracerd), whatever is wanted: printing goes packet by packet, the
 * summary and the verdict keep counters, and the losses come from the same code that speaks at the
 * end of a recording (cli/losses). Memory depends on the number of sequences and packet types, not
 * on the size of the file.
 */
#include "cli/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/losses.h"
#include "cli/pbprint.h"
#include "cli/progress.h"
#include "cli/tracerd.h"
#include "protos/descset.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/idmap.h"
#include "reactor/str.h"

#define FIELDS_MAX    1024 /* packet types are told apart up to this field number */
#define SEQUENCES_MAX 65536
#define DAMAGES_SHOWN 20
#define CLOCK_BOOT    6 /* BUILTIN_CLOCK_BOOTTIME */
#define CLOCK_REAL    1

/* TracePacket.SequenceFlags */
#define SEQ_CLEARED 1u
#define SEQ_NEEDS   2u

/* How many there were of each kind, by the field number of the kind. */
struct tally {
    uint64_t count[FIELDS_MAX], bytes[FIELDS_MAX];
    uint64_t total;
};

struct seq {
    uint64_t packets, bytes, holes;
    uint64_t default_clock; /* of its packets without a clock of their own; 0: the boot clock */
    bool has_state;         /* no packet is lost since the state (default_clock) was cleared */
    uint32_t id;
    int32_t pid, uid;
};

struct inspect {
    enum cmdline_format format;
    upb_DefPool *pool;            /* own; NULL if it is not needed */
    const upb_MessageDef *packet; /* borrow */
    struct losses *losses;        /* own */
    struct idmap seqs;            /* own: struct seq */
    struct tally packets;         /* by field of TracePacket */
    struct tally events;          /* by field of FtraceEvent */
    uint64_t first_ns, last_ns;   /* on the boot clock; first > last: none seen */
    uint64_t boot_ns, real_ns;    /* a clock snapshot; 0: none */
    uint64_t invalid, damages, untyped;
    char clocks[256];
    char system[160];
    uint64_t uuid_msb, uuid_lsb;
    bool has_uuid;
};

/* ---- packets into counters ---- */

static void note_time(struct inspect *in, uint64_t ns)
{
    if (ns == 0)
        return;
    if (ns < in->first_ns)
        in->first_ns = ns;
    if (ns > in->last_ns)
        in->last_ns = ns;
}

static const char *clock_name(uint64_t id, char *buf, size_t size)
{
    static const char *const names[] = {
        [1] = "REALTIME",      [2] = "REALTIME_COARSE", [3] = "MONOTONIC", [4] = "MONOTONIC_COARSE",
        [5] = "MONOTONIC_RAW", [6] = "BOOTTIME",        [9] = "TSC",       [10] = "PERF"};

    if (id < sizeof(names) / sizeof(*names) && names[id] != NULL)
        return names[id];
    (void)snprintf(buf, size, "clock %" PRIu64, id);
    return buf;
}

static void take_clocks(struct inspect *in, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f, id, ts;
    char buf[32];
    size_t n;

    if (in->clocks[0] != '\0')
        return;
    while (bytes_next(&cur, &f)) {
        if (f.id != PBF_ClockSnapshot_clocks || f.type != BYTES_LEN ||
            !bytes_find(f.data, PBF_ClockSnapshot_Clock_clock_id, BYTES_VARINT, &id) ||
            !bytes_find(f.data, PBF_ClockSnapshot_Clock_timestamp, BYTES_VARINT, &ts))
            continue;
        if (id.num == CLOCK_BOOT)
            in->boot_ns = ts.num;
        else if (id.num == CLOCK_REAL)
            in->real_ns = ts.num;
        n = strlen(in->clocks);
        (void)snprintf(in->clocks + n, sizeof(in->clocks) - n, "%s%s", n > 0 ? ", " : "",
                       clock_name(id.num, buf, sizeof(buf)));
    }
}

static void tally_add(struct tally *t, uint32_t kind, uint64_t count, uint64_t bytes)
{
    if (kind >= FIELDS_MAX)
        return;
    t->count[kind] += count;
    t->bytes[kind] += bytes;
    t->total += count;
}

/* All that is length-delimited in an event is its payload: the field says the kind. */
static void take_event(struct inspect *in, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    uint32_t kind = 0;

    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_FtraceEvent_timestamp)
            note_time(in, f.num);
        else if (f.type == BYTES_LEN)
            kind = f.id;
    }
    tally_add(&in->events, kind, 1, msg.n);
}

/* Compact events are columns; the times are differences, one for each event. */
static void take_compact(struct inspect *in, struct bytes_view msg, uint32_t times, uint32_t kind)
{
    struct bytes_field ts;
    struct bytes_cur packed;
    uint64_t t = 0, d;

    if (!bytes_find(msg, times, BYTES_LEN, &ts))
        return;
    packed = bytes_cur(ts.data);
    while (bytes_get_varint(&packed, &d)) {
        t += d;
        note_time(in, t);
        tally_add(&in->events, kind, 1, 0);
    }
}

static void take_bundle(struct inspect *in, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;

    while (bytes_next(&cur, &f)) {
        if (f.type != BYTES_LEN)
            continue;
        if (f.id == PBF_FtraceEventBundle_event) {
            take_event(in, f.data);
        } else if (f.id == PBF_FtraceEventBundle_compact_sched) {
            take_compact(in, f.data, PBF_FtraceEventBundle_CompactSched_switch_timestamp,
                         PBF_FtraceEvent_sched_switch);
            take_compact(in, f.data, PBF_FtraceEventBundle_CompactSched_waking_timestamp,
                         PBF_FtraceEvent_sched_waking);
        }
    }
}

static void take_system(struct inspect *in, struct bytes_view msg)
{
    struct bytes_field uts, sys, release, machine;
    char a[48] = "", b[48] = "", c[32] = "";

    if (!bytes_find(msg, PBF_SystemInfo_utsname, BYTES_LEN, &uts))
        return;
    if (bytes_find(uts.data, PBF_Utsname_sysname, BYTES_LEN, &sys))
        str_escape(a, sizeof(a), (const char *)sys.data.p, sys.data.n);
    if (bytes_find(uts.data, PBF_Utsname_release, BYTES_LEN, &release))
        str_escape(b, sizeof(b), (const char *)release.data.p, release.data.n);
    if (bytes_find(uts.data, PBF_Utsname_machine, BYTES_LEN, &machine))
        str_escape(c, sizeof(c), (const char *)machine.data.p, machine.data.n);
    (void)snprintf(in->system, sizeof(in->system), "%s %s %s", a, b, c);
}

static void take_uuid(struct inspect *in, struct bytes_view msg)
{
    struct bytes_field f;

    in->uuid_msb = bytes_find(msg, PBF_TraceUuid_msb, BYTES_VARINT, &f) ? f.num : 0;
    in->uuid_lsb = bytes_find(msg, PBF_TraceUuid_lsb, BYTES_VARINT, &f) ? f.num : 0;
    in->has_uuid = true;
}

static struct seq *get_seq(struct inspect *in, uint32_t id)
{
    struct seq *s = idmap_get(&in->seqs, id);

    if (s != NULL || idmap_count(&in->seqs) >= SEQUENCES_MAX)
        return s;
    s = alloc_new(struct seq);
    s->id = id;
    s->uid = -1;
    if (idmap_put(&in->seqs, id, s) != 0)
        alloc_free(&s);
    return s;
}

/* Fields of TracePacket that say who and when, and not what. */
static bool is_envelope(uint32_t id)
{
    switch (id) {
    case PBF_TracePacket_timestamp:
    case PBF_TracePacket_timestamp_clock_id:
    case PBF_TracePacket_trusted_uid:
    case PBF_TracePacket_trusted_packet_sequence_id:
    case PBF_TracePacket_trusted_pid:
    case PBF_TracePacket_interned_data:
    case PBF_TracePacket_sequence_flags:
    case PBF_TracePacket_incremental_state_cleared:
    case PBF_TracePacket_trace_packet_defaults:
    case PBF_TracePacket_previous_packet_dropped:
    case PBF_TracePacket_first_packet_on_sequence:
    case PBF_TracePacket_machine_id:
        return true;
    default:
        return false;
    }
}

struct envelope {
    uint32_t seq, type, interned, flags;
    int32_t pid, uid;
    uint64_t timestamp, clock, default_clock, dropped;
};

static void take_data(struct inspect *in, const struct bytes_field *f)
{
    if (f->type != BYTES_LEN)
        return;
    if (f->id == PBF_TracePacket_clock_snapshot)
        take_clocks(in, f->data);
    else if (f->id == PBF_TracePacket_ftrace_events)
        take_bundle(in, f->data);
    else if (f->id == PBF_TracePacket_system_info)
        take_system(in, f->data);
    else if (f->id == PBF_TracePacket_trace_uuid)
        take_uuid(in, f->data);
}

static void take_field(struct inspect *in, const struct bytes_field *f, struct envelope *e)
{
    struct bytes_field clock;

    switch (f->id) {
    case PBF_TracePacket_timestamp:
        e->timestamp = f->num;
        break;
    case PBF_TracePacket_timestamp_clock_id:
        e->clock = f->num;
        break;
    case PBF_TracePacket_trusted_packet_sequence_id:
        e->seq = (uint32_t)f->num;
        break;
    case PBF_TracePacket_trusted_pid:
        e->pid = (int32_t)f->num;
        break;
    case PBF_TracePacket_trusted_uid:
        e->uid = (int32_t)f->num;
        break;
    case PBF_TracePacket_previous_packet_dropped:
        e->dropped = f->num;
        break;
    case PBF_TracePacket_sequence_flags:
        e->flags |= (uint32_t)f->num;
        break;
    case PBF_TracePacket_incremental_state_cleared:
        e->flags |= f->num != 0 ? SEQ_CLEARED : 0;
        break;
    case PBF_TracePacket_interned_data:
        e->interned = f->id;
        break;
    case PBF_TracePacket_trace_packet_defaults:
        if (bytes_find(f->data, PBF_TracePacketDefaults_timestamp_clock_id, BYTES_VARINT, &clock))
            e->default_clock = clock.num;
        break;
    default:
        if (!is_envelope(f->id) && e->type == 0)
            e->type = f->id;
        take_data(in, f);
        break;
    }
}

/* Which clock the packet's timestamp is of; 0: of one that nobody knows, since the packet that
 * named it is lost. */
static uint64_t clock_of(struct seq *s, const struct envelope *e)
{
    if (e->dropped != 0)
        s->has_state = false;
    if (e->flags & SEQ_CLEARED) {
        s->has_state = true;
        s->default_clock = 0;
    }
    if (e->default_clock != 0)
        s->default_clock = e->default_clock;
    if (e->clock != 0)
        return e->clock;
    if ((e->flags & SEQ_NEEDS) && !s->has_state)
        return 0;
    return s->default_clock != 0 ? s->default_clock : CLOCK_BOOT;
}

static void count_packet(struct inspect *in, struct bytes_view packet)
{
    struct envelope e = {.uid = -1};
    struct bytes_cur cur = bytes_cur(packet);
    struct bytes_field f;
    struct seq *s;

    while (bytes_next(&cur, &f))
        take_field(in, &f, &e);
    if (e.type == 0)
        e.type = e.interned;
    if (e.type > 0 && e.type < FIELDS_MAX)
        tally_add(&in->packets, e.type, 1, packet.n);
    else
        in->untyped++;
    s = get_seq(in, e.seq);
    if (s == NULL)
        return;
    if (clock_of(s, &e) == CLOCK_BOOT)
        note_time(in, e.timestamp);
    s->holes += e.dropped > (s->packets == 0 ? 1 : 0); /* as in losses: a bare mark at first */
    s->packets++;
    s->bytes += packet.n;
    if (e.pid != 0)
        s->pid = e.pid;
    if (e.uid >= 0)
        s->uid = e.uid;
}

static bool on_packet(void *arg, struct bytes_view packet, uint64_t offset)
{
    struct inspect *in = arg;

    (void)offset;
    switch (in->format) {
    case CMDLINE_TEXT:
        fputs("packet {\n", stdout);
        pbprint_text(stdout, in->packet, packet, 1);
        fputs("}\n", stdout);
        return !ferror(stdout);
    case CMDLINE_JSON:
        pbprint_json(stdout, in->packet, packet);
        fputc('\n', stdout);
        return !ferror(stdout);
    case CMDLINE_CHECK:
        if (!pbprint_valid(in->packet, packet, 0) && in->invalid++ < DAMAGES_SHOWN)
            printf("damaged: the packet at byte %" PRIu64 " does not parse; its producer wrote "
                   "garbage, or the file was changed\n",
                   offset);
        break;
    default:
        break;
    }
    losses_packet(in->losses, packet);
    count_packet(in, packet);
    return true;
}

static void on_damage(void *arg, uint64_t offset, const char *what)
{
    struct inspect *in = arg;

    if (in->damages++ < DAMAGES_SHOWN)
        fprintf(in->format == CMDLINE_TEXT || in->format == CMDLINE_JSON ? stderr : stdout,
                "damaged: at byte %" PRIu64 ": %s\n", offset, what);
}

/* ---- summary ---- */

static void print_time(const struct inspect *in)
{
    char text[64];
    time_t start;
    struct tm tm;

    if (in->first_ns > in->last_ns) {
        puts("time:      no packet has a time");
        return;
    }
    printf("time:      %.3f s", (double)(in->last_ns - in->first_ns) / 1e9);
    if (in->boot_ns != 0 && in->real_ns != 0) {
        start = (time_t)((in->real_ns - in->boot_ns + in->first_ns) / CHRONO_SEC);
        if (localtime_r(&start, &tm) != NULL &&
            strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &tm) > 0)
            printf(", from %s", text);
    }
    putchar('\n');
    if (in->clocks[0] != '\0')
        printf("clocks:    %s\n", in->clocks);
}

static const char *kind_name(const upb_MessageDef *of, uint32_t id, char *buf, size_t size)
{
    const upb_FieldDef *d = upb_MessageDef_FindFieldByNumber(of, id);

    if (d != NULL)
        return upb_FieldDef_Name(d);
    (void)snprintf(buf, size, "field %" PRIu32, id);
    return buf;
}

/* The kinds of a tally, most frequent first; they are fields of `of`. Compact events have no size.
 */
static void print_tally(const struct tally *t, const upb_MessageDef *of)
{
    bool done[FIELDS_MAX] = {false};
    char name[32], size[24];

    for (;;) {
        uint32_t best = 0;
        for (uint32_t i = 0; i < FIELDS_MAX; i++) {
            if (!done[i] && t->count[i] > (done[best] ? 0 : t->count[best]))
                best = i;
        }
        if (done[best] || t->count[best] == 0)
            break;
        done[best] = true;
        printf("  %-32s %10" PRIu64,
               best == 0 ? "without data" : kind_name(of, best, name, sizeof(name)),
               t->count[best]);
        if (t->bytes[best] > 0)
            printf("  %10s", progress_size(t->bytes[best], size, sizeof(size)));
        putchar('\n');
    }
}

static void print_types(const struct inspect *in)
{
    puts("\npackets by type:");
    print_tally(&in->packets, in->packet);
    if (in->untyped > 0)
        printf("  %-32s %10" PRIu64 "\n", "without data", in->untyped);
    if (in->events.total > 0) {
        puts("\nftrace events by kind:");
        print_tally(&in->events,
                    upb_DefPool_FindMessageByName(in->pool, "perfetto.protos.FtraceEvent"));
    }
}

static void print_seqs(const struct inspect *in)
{
    uint64_t *ids = idmap_sorted_keys(&in->seqs);
    size_t n = idmap_count(&in->seqs);
    char size[24];

    printf("\nsequences:\n  %10s %8s %8s %10s %10s %7s  %s\n", "ID", "PID", "UID", "PACKETS",
           "SIZE", "HOLES", "PROCESS");
    for (size_t i = 0; ids != NULL && i < n; i++) {
        const struct seq *s = idmap_get(&in->seqs, ids[i]);
        printf("  %10" PRIu32 " %8" PRId32 " %8" PRId32 " %10" PRIu64 " %10s %7" PRIu64 "  %s\n",
               s->id, s->pid, s->uid, s->packets, progress_size(s->bytes, size, sizeof(size)),
               s->holes, s->id == 1 ? "(the service itself)" : losses_process(in->losses, s->pid));
    }
    free(ids);
}

static void print_summary(struct inspect *in, const char *path, const struct tracerd_totals *t)
{
    char size[24], inner[24];

    printf("file:      %s, %s\n", path, progress_size(t->bytes, size, sizeof(size)));
    if (t->compressed > 0)
        printf("           %" PRIu64 " compressed packets, %s that hold %s\n", t->compressed,
               progress_size(t->compressed_bytes, size, sizeof(size)),
               progress_size(t->inflated_bytes, inner, sizeof(inner)));
    if (in->system[0] != '\0')
        printf("system:    %s\n", in->system);
    if (in->has_uuid)
        printf("uuid:      %08" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%012" PRIx64
               "\n",
               in->uuid_msb >> 32, in->uuid_msb >> 16 & 0xffff, in->uuid_msb & 0xffff,
               in->uuid_lsb >> 48, in->uuid_lsb & 0xffffffffffff);
    print_time(in);
    printf("packets:   %" PRIu64 " in %zu sequences", t->packets, idmap_count(&in->seqs));
    if (in->events.total > 0)
        printf(", with %" PRIu64 " ftrace events", in->events.total);
    putchar('\n');
    print_types(in);
    print_seqs(in);
    losses_buffers(in->losses, stdout);
    puts("\nlosses:");
    if (in->damages > 0)
        printf("  the file is damaged in %" PRIu64 " place%s, see above\n", in->damages,
               in->damages == 1 ? "" : "s");
    if (t->packets == 0)
        puts("  the trace is empty");
    else if (losses_count(in->losses) == 0 && in->damages == 0)
        puts(losses_has_stats(in->losses) ? "  none" : "  none known; the trace has no statistics");
    losses_report(in->losses, stdout, "  ");
}

/* ---- verdict ---- */

static int verdict(struct inspect *in, const char *path, const struct tracerd_totals *t)
{
    unsigned lost = losses_count(in->losses);

    losses_report(in->losses, stdout, "");
    if (in->damages > DAMAGES_SHOWN)
        printf("damaged: %" PRIu64 " more places\n", in->damages - DAMAGES_SHOWN);
    if (in->invalid > DAMAGES_SHOWN)
        printf("damaged: %" PRIu64 " more packets do not parse\n", in->invalid - DAMAGES_SHOWN);
    if (!t->whole && t->damages == 0)
        puts("damaged: the file could not be read to its end");
    if (t->packets == 0)
        puts(
            "empty: there is no packet; the session ended without data, or its trigger never came");
    if (in->damages + in->invalid + lost == 0 && t->whole && t->packets > 0) {
        printf("%s: %" PRIu64 " packets, nothing is missing%s\n", path, t->packets,
               losses_has_stats(in->losses) ? "" : " as far as can be seen without statistics");
        return 0;
    }
    return INSPECT_BAD;
}

/* ---- all together ---- */

static int load_schema(struct inspect *in)
{
    upb_Status status;
    int rc = -ENOMEM;

    upb_Status_Clear(&status);
    in->pool = upb_DefPool_New();
    if (in->pool != NULL)
        rc = descset_load(in->pool, "protos/trace/trace_packet.proto", &status);
    if (rc != 0) {
        fprintf(stderr, "perfetto: cannot load the schema: %s\n", strerror(-rc));
        return rc;
    }
    in->packet = upb_DefPool_FindMessageByName(in->pool, "perfetto.protos.TracePacket");
    return 0;
}

static int finish(struct inspect *in, const char *path, const struct tracerd_totals *t, int rc)
{
    int code = 0;

    if (rc != 0)
        fprintf(stderr, "perfetto: could not read %s (errno: %d, %s)\n", path, -rc, strerror(-rc));
    if (t->packets + t->compressed == 0 && in->damages > 0 && in->format != CMDLINE_CHECK) {
        fprintf(stderr, "perfetto: %s is no trace: it does not begin with a trace packet\n", path);
        return 1;
    }
    if (in->format == CMDLINE_CHECK)
        code = verdict(in, path, t);
    else if (in->format == CMDLINE_SUMMARY)
        print_summary(in, path, t);
    else if (in->damages > 0)
        code = 1;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "perfetto: could not write to stdout (errno: %d, %s)\n", errno,
                strerror(errno));
        return 1;
    }
    return rc != 0 ? 1 : code;
}

int inspect_run(const char *path, enum cmdline_format format)
{
    static const struct tracerd_ops ops = {.packet = on_packet, .damage = on_damage};
    struct inspect *in;
    struct tracerd_totals totals;
    void *v;
    int fd, code = 1;

    fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "perfetto: could not open %s (errno: %d, %s)\n", path, errno,
                strerror(errno));
        return 1;
    }
    in = alloc_new(struct inspect);
    in->format = format;
    in->first_ns = UINT64_MAX;
    in->losses = losses_new();
    idmap_init(&in->seqs);
    if (load_schema(in) == 0) {
        int rc = tracerd_read(fd, &ops, in, &totals);
        code = finish(in, path, &totals, rc);
    }
    for (size_t pos = 0; idmap_next(&in->seqs, &pos, NULL, &v);)
        free(v);
    idmap_fini(&in->seqs);
    losses_free(in->losses);
    if (in->pool != NULL)
        upb_DefPool_Free(in->pool);
    free(in);
    if (fd != STDIN_FILENO)
        close(fd);
    return code;
}
