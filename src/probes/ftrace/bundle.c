/* SPDX-License-Identifier: Apache-2.0 */
/* bundle: one instance's view of the pages that were read.
 *
 * Every page is parsed once per instance, each with its own filter and writer (R58). A packet holds
 * events of one CPU from contiguous pages of one batch; a page that reports loss starts another one
 * (R146), so a reader can tell on which side of the gap an event lies. Owned by the ftrace
 * instance; pages are borrowed for the call. It writes through a sink and knows neither writers nor
 * files, which is what lets recorded pages of any kernel be its unit test. */
#include "probes/ftrace/bundle.h"

#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"

#define DESCRIPTOR_MAX 16384

void bundle_init(struct bundle *b, const struct events *ev, struct probe_sink sink, unsigned n_cpus)
{
    *b = (struct bundle){.sink = sink, .ev = ev, .n_cpus = n_cpus};
    b->last_ts = alloc_array(n_cpus, sizeof *b->last_ts);
    b->enc = alloc_new(struct evenc);
    b->enc->ev = ev;
    b->enc->meta = &b->meta;
}

void bundle_fini(struct bundle *b)
{
    ftmeta_fini(&b->meta);
    compact_fini(&b->compact);
    u64set_fini(&b->generic);
    free(b->last_ts);
    free(b->enc);
}

static void open_packet(struct bundle *b, bool lost)
{
    struct pbw *p = b->p = b->sink.begin(b->sink.arg);
    pbw_begin(p, PBF_TracePacket_ftrace_events);
    pbw_varint(p, PBF_FtraceEventBundle_cpu, b->cpu);
    if (lost)
        pbw_bool(p, PBF_FtraceEventBundle_lost_events, true);
    if (b->snap.clock != BUNDLE_CLOCK_BOOT) {
        pbw_varint(p, PBF_FtraceEventBundle_ftrace_clock, b->snap.clock);
        pbw_int(p, PBF_FtraceEventBundle_ftrace_timestamp, b->snap.ftrace_ts);
        pbw_int(p, PBF_FtraceEventBundle_boot_timestamp, b->snap.boot_ts);
    }
    pbw_varint(p, PBF_FtraceEventBundle_previous_bundle_end_timestamp, b->last_ts[b->cpu]);
}

static void write_descriptors(struct bundle *b)
{
    uint8_t buf[DESCRIPTOR_MAX];
    for (uint32_t i = 0; i < b->generic.n; i++) {
        const struct events_event *e = events_by_id(b->ev, (uint32_t)b->generic.keys[i]);
        size_t n = e ? events_descriptor(e, buf, sizeof buf) : 0;
        if (n == 0)
            continue;
        pbw_begin(b->p, PBF_FtraceEventBundle_generic_event_descriptors);
        pbw_varint(b->p, PBF_FtraceEventBundle_GenericEventDescriptor_field_id, e->number);
        pbw_bytes(b->p, PBF_FtraceEventBundle_GenericEventDescriptor_event_descriptor, buf, n);
        pbw_str(b->p, PBF_FtraceEventBundle_GenericEventDescriptor_group_name, e->group);
        pbw_end(b->p);
    }
}

/* Names of the kernel addresses that this packet introduced (R118). Stands outside the bundle. */
static void write_symbols(struct bundle *b)
{
    bool any = false;
    for (uint32_t i = b->syms_written; i < b->meta.syms.n; i++) {
        const char *name = ksyms_lookup(b->ksyms, b->meta.syms.keys[i]);
        if (!name)
            continue;
        if (!any)
            pbw_begin(b->p, PBF_TracePacket_interned_data);
        any = true;
        pbw_begin(b->p, PBF_InternedData_kernel_symbols);
        pbw_varint(b->p, PBF_InternedString_iid, i + 1);
        pbw_str(b->p, PBF_InternedString_str, name);
        pbw_end(b->p);
    }
    if (!any)
        return;
    pbw_end(b->p);
    if (!b->syms_flagged)
        pbw_varint(b->p, PBF_TracePacket_sequence_flags, 1); /* SEQ_INCREMENTAL_STATE_CLEARED */
    b->syms_flagged = true;
    b->syms_written = b->meta.syms.n;
}

static void close_packet(struct bundle *b)
{
    if (!b->p)
        return;
    if (b->compact_on) {
        compact_write(&b->compact, b->p);
        compact_reset(&b->compact);
    }
    write_descriptors(b);
    pbw_end(b->p);
    if (b->ksyms)
        write_symbols(b);
    b->sink.end(b->sink.arg);
    b->p = NULL;
}

void bundle_begin(struct bundle *b, unsigned cpu, const struct bundle_snapshot *snap)
{
    b->cpu = cpu;
    b->snap = *snap;
    u64set_clear(&b->generic);
    compact_reset(&b->compact);
}

void bundle_end(struct bundle *b)
{
    close_packet(b);
}

static bool wanted(const struct bundle *b, uint32_t id)
{
    return id < b->filter_ids && (b->filter[id / 64] >> id % 64 & 1);
}

static bool print_rejected(const struct bundle *b, const struct events_event *e, const uint8_t *rec,
                           uint32_t len)
{
    if (e != b->print || !b->prints || len < e->min_size || e->n_fields == 0)
        return false;
    uint32_t off = e->fields[0].offset;
    return off <= len && !printflt_allows(b->prints, ptext_of((const char *)rec + off, len - off));
}

/* 1 encoded, 0 not wanted, negative status. */
static int one_record(struct bundle *b, const uint8_t *rec, uint32_t len, uint64_t ts)
{
    uint16_t id = rbpage_u16(rec);
    const struct events_sched *s = &b->ev->sched;
    if (!wanted(b, id))
        return 0;
    if (b->compact_on && id == s->switch_id) {
        if (!compact_switch(&b->compact, s, rec, len, ts))
            return -RBPAGE_SHORT_COMPACT_EVENT;
        ftmeta_pid(&b->meta, (int32_t)rbpage_u32(rec + s->next_pid));
        return 1;
    }
    if (b->compact_on && id == s->waking_id) {
        if (!compact_waking(&b->compact, s, rec, len, ts))
            return -RBPAGE_SHORT_COMPACT_EVENT;
        ftmeta_pid(&b->meta, (int32_t)rbpage_u32(rec + s->pid));
        return 1;
    }
    const struct events_event *e = events_by_id(b->ev, id);
    const uint8_t *msg;
    if (!e || print_rejected(b, e, rec, len))
        return 0;
    int n = evenc_event(b->enc, e, rec, len, ts, &msg);
    if (n < 0)
        return n;
    if (!b->p)
        open_packet(b, false);
    pbw_bytes(b->p, PBF_FtraceEventBundle_event, msg, (size_t)n);
    if (e->generic && !b->enc->legacy_generic && e->special != EVENTS_KPROBE)
        u64set_add(&b->generic, id, NULL, NULL);
    return 1;
}

static void page_error(struct bundle *b, enum rbpage_status status, uint64_t page_ts)
{
    bundle_note_error(b, status);
    if (!b->p)
        open_packet(b, false);
    pbw_begin(b->p, PBF_FtraceEventBundle_error);
    if (page_ts)
        pbw_varint(b->p, PBF_FtraceEventBundle_FtraceError_timestamp, page_ts);
    pbw_varint(b->p, PBF_FtraceEventBundle_FtraceError_status, status);
    pbw_end(b->p);
}

void bundle_page(struct bundle *b, const uint8_t *page, size_t len)
{
    struct rbpage pg;
    const uint8_t *rec;
    uint32_t rec_len;
    uint64_t page_ts, last = 0;
    int rc;
    bool any = false;
    enum rbpage_status status = rbpage_open(&pg, page, len, b->ev->commit_width);
    page_ts = pg.ts;
    if (status != RBPAGE_OK) {
        page_error(b, status, page_ts);
        return;
    }
    if (pg.lost) {
        close_packet(b);
        open_packet(b, true);
    } else if (b->compact_on && b->compact.n_names > COMPACT_NAMES_SOFT_MAX) {
        close_packet(b);
    }
    if (b->compact_on && !b->p)
        open_packet(b, false); /* even if nothing follows (R145) */
    while ((rc = rbpage_next(&pg, &rec, &rec_len)) > 0) {
        rc = one_record(b, rec, rec_len, pg.ts);
        if (rc < 0)
            break;
        if (rc > 0) {
            any = true;
            last = pg.ts;
        }
    }
    if (rc < 0)
        page_error(b, (enum rbpage_status) - rc, page_ts);
    else if (any)
        b->last_ts[b->cpu] = last;
}

void bundle_pass_done(struct bundle *b)
{
    ftmeta_clear(&b->meta);
    b->syms_written = 0;
    b->syms_flagged = false;
}
