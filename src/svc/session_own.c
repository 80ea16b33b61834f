/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service itself says in a trace, in the order of service.md R107: before the packets of
 * producers (1 to 15), behind them (17), and the statistics (18). Each of the three has a buffer of
 * the session into which its packets are built, each with its size as a uint32 before it;
 * svc/session_read hands them on when they are complete.
 *
 * With tens of thousands of writers the provenance and the statistics take long, so both are built
 * some writers at a time, the states of ProtoVMs one by one, and a read stays in that stage for as
 * many calls as it takes.
 */
#include <stdlib.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_vm.h"

#define WRITERS 1024u /* told of in one call */
#define SCRATCH_KEEP                                                                               \
    (1u << 20) /* bytes of our own packets' memory that stay from batch to batch                   \
                */

/* Opens a packet in scratch, behind room for its size. */
static size_t open_packet(struct bytesbuf *out)
{
    bytesbuf_put_u32(out, 0);
    return out->n;
}

static void close_packet(struct bytesbuf *out, size_t start)
{
    if (!out->failed)
        bytes_store32(out->p + start - sizeof(uint32_t), (uint32_t)(out->n - start));
}

/* Appends one packet made by the expression `call`, which writes to `out`. */
#define OWN_PACKET(out, call)                                                                      \
    do {                                                                                           \
        size_t start_ = open_packet(out);                                                          \
        call;                                                                                      \
        close_packet(out, start_);                                                                 \
    } while (0)

static void add_clocks(struct session *s, struct bytesbuf *out)
{
    uint32_t primary = s->cfg->primary_trace_clock;
    if (s->initial_clocks_pending)
        OWN_PACKET(out, selfpkt_clock_snapshot(out, &s->initial_clocks, primary));
    s->initial_clocks_pending = false;
    for (uint32_t i = 0; i < s->clocks.n; i++)
        OWN_PACKET(out, selfpkt_clock_snapshot(out, clocksnap_ring_at(&s->clocks, i), primary));
    clocksnap_ring_clear(&s->clocks);
    if (s->emit_sync)
        OWN_PACKET(out, selfpkt_sync_marker(out));
    s->emit_sync = false;
}

static void add_trigger(struct bytesbuf *out, const struct session_trigger *t, bool from_clone)
{
    const struct selfpkt_trigger p = {
        .boot_ns = t->boot_ns,
        .name = msg_body_view(&t->name),
        .producer = msg_body_view(&t->producer),
        .uid = t->uid,
        .delay_ms = t->delay_ms,
        .from_clone = from_clone,
    };
    OWN_PACKET(out, selfpkt_trigger(out, &p));
}

static void add_config(struct session *s, struct bytesbuf *out)
{
    if (s->cfg->no_trace_config)
        return; /* Q18: no triggers either */
    if (!s->preamble_done)
        OWN_PACKET(out, selfpkt_trace_config(out, tracecfg_view(s->cfg)));
    if (s->clone_trigger && !s->clone_trigger_done)
        add_trigger(out, s->clone_trigger, true);
    s->clone_trigger_done = true;
    list_for_each (it, &s->triggers) {
        struct session_trigger *t = list_entry(it, struct session_trigger, node);
        if (!t->emitted)
            add_trigger(out, t, false);
        t->emitted = true;
    }
}

static void open_provenance(struct session *s, struct bytesbuf *out)
{
    struct session_own *o = &s->own;
    o->packet = open_packet(out);
    o->buffer = 0;
    o->cursor = 0;
    selfpkt_provenance_begin(&o->provenance, out, chrono_boot_ns());
    if (s->nbuffers > 0)
        selfpkt_provenance_buffer(&o->provenance);
}

/* R119, some writers at a time. False: that was all. */
static bool add_provenance(struct session *s, struct bytesbuf *out)
{
    struct session_own *o = &s->own;
    struct tbuf_writer w;
    for (unsigned n = 0; o->buffer < s->nbuffers; n++) {
        if (n == WRITERS)
            return true;
        if (!tbuf_next_writer(s->buffers[o->buffer].tb, &o->cursor, &w)) {
            o->cursor = 0;
            if (++o->buffer < s->nbuffers)
                selfpkt_provenance_buffer(&o->provenance);
            continue;
        }
        selfpkt_provenance_sequence(
            &o->provenance,
            session_ids_get(&s->ids, w.client.machine_id, w.producer_id, w.writer_id),
            w.producer_id);
    }
    selfpkt_provenance_end(&o->provenance);
    close_packet(out, o->packet);
    return false;
}

static void add_remote_systems(struct session *s, struct bytesbuf *out) /* R232 */
{
    uint32_t last_machine = 0;
    list_for_each (it, &s->svc->relays) {
        const struct service_relay *r = list_entry(it, struct service_relay, node);
        if (!r->system_info.n || r->machine_id == last_machine)
            continue;
        last_machine = r->machine_id;
        OWN_PACKET(out,
                   selfpkt_remote_system_info(out, msg_body_view(&r->system_info), r->machine_id));
    }
}

/* What comes once, before the provenance and behind it. */
static void add_once(struct session *s, struct bytesbuf *out)
{
    OWN_PACKET(out, selfpkt_trace_uuid(out, s->uuid_msb, s->uuid_lsb));
    for (size_t i = 0; !s->cfg->no_extension_descriptors && i < s->svc->ndescriptors; i++) {
        const struct service_descriptor *d = &s->svc->descriptors[i];
        OWN_PACKET(out,
                   selfpkt_extension_descriptor(out, bytes_view(d->bytes, d->n), d->gzip, d->name));
    }
    open_provenance(s, out);
}

static void add_systems(struct session *s, struct bytesbuf *out)
{
    if (!s->cfg->no_system_info) {
        OWN_PACKET(out, selfpkt_system_info(out, s->svc->version));
        add_remote_systems(s, out);
    }
}

static void add_relay_clocks(struct session *s, struct bytesbuf *out) /* R122 */
{
    if (s->relay_clocks_done || s->cfg->no_clock_snapshots || !service_has_relays(s->svc))
        return;
    s->relay_clocks_done = true;
    struct selfpkt_sync syncs[SERVICE_RELAY_CLOCKS];
    uint32_t last_machine = 0;
    list_for_each (it, &s->svc->relays) {
        const struct service_relay *r = list_entry(it, struct service_relay, node);
        if (!r->nclocks || r->machine_id == last_machine)
            continue;
        last_machine = r->machine_id;
        for (uint32_t i = 0; i < r->nclocks; i++)
            syncs[i] = (struct selfpkt_sync){msg_body_view(&r->requests[i]), r->clocks[i]};
        OWN_PACKET(out, selfpkt_remote_clock_sync(out, r->machine_id, syncs, r->nclocks));
    }
}

/* False: there are no ProtoVMs to tell of. */
static bool open_vms(struct session *s, struct bytesbuf *out) /* R107.15 */
{
    struct session_own *o = &s->own;
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->nbuffers; i++)
        bytes += tbuf_vm_count(s->buffers[i].tb) ? tbuf_vm_memory(s->buffers[i].tb) : 0;
    if (bytes == 0)
        return false;
    /* All at once, so that it need not move while it grows. */
    (void)bytesbuf_reserve(out, bytes < SESSION_VMS_MAX ? (size_t)bytes : SESSION_VMS_MAX);
    o->packet = open_packet(out);
    o->vms = selfpkt_protovms(out);
    o->buffer = 0;
    o->vm = (struct tbuf_vm_cursor){0};
    o->vms_left_out = false;
    return true;
}

/* One state in each call. False: that was all. */
static bool add_vms(struct session *s, struct bytesbuf *out)
{
    struct session_own *o = &s->own;
    for (; o->buffer < s->nbuffers; o->buffer++) {
        if (tbuf_vm_write_some(s->buffers[o->buffer].tb, &o->vm, out, o->packet + SESSION_VMS_MAX,
                               &o->vms_left_out))
            return true;
        o->vm = (struct tbuf_vm_cursor){0};
    }
    bytesbuf_pb_end_large(out, o->vms);
    close_packet(out, o->packet);
    if (o->vms_left_out)
        log_warn("session %llu: some ProtoVMs are left out of the trace, all together have more "
                 "than %u MiB; lower their memory_limit_kb",
                 (unsigned long long)s->id, SESSION_VMS_MAX >> 20);
    return false;
}

static void add_events(struct session *s, struct bytesbuf *out)
{
    if (!s->cfg->no_service_events)
        session_event_emit(s, out);
}

static void add_head(struct session *s, struct bytesbuf *out)
{
    if (!s->cfg->no_clock_snapshots)
        add_clocks(s, out);
    else if (s->emit_sync) {
        OWN_PACKET(out, selfpkt_sync_marker(out));
        s->emit_sync = false;
    }
    add_config(s, out);
    if (!s->preamble_done)
        add_once(s, out);
    s->own.step = s->preamble_done ? OWN_TAIL : OWN_PROVENANCE;
}

static void add_tail(struct session *s, struct bytesbuf *out)
{
    add_events(s, out);
    if (s->cfg->concurrent_session_events)
        session_event_emit_concurrent(s, out);
    add_relay_clocks(s, out);
    s->own.step = !s->preamble_done && open_vms(s, out) ? OWN_VMS : OWN_DONE;
    s->preamble_done = true;
}

void session_own_begin(struct session *s)
{
    if (s->scratch.cap > SCRATCH_KEEP)
        bytesbuf_fini(&s->scratch); /* it held the states of ProtoVMs, once */
    bytesbuf_clear(&s->scratch);
    bytesbuf_clear(&s->ending);
    bytesbuf_clear(&s->stats);
    s->own_at = 0;
    s->own.step = OWN_HEAD;
    s->own.counting = false;
}

bool session_own_build(struct session *s)
{
    struct bytesbuf *out = &s->scratch;
    if (s->own.step == OWN_HEAD)
        add_head(s, out);
    if (s->own.step == OWN_PROVENANCE) {
        if (add_provenance(s, out))
            return true;
        add_systems(s, out);
        s->own.step = OWN_TAIL;
    }
    if (s->own.step == OWN_TAIL) {
        add_tail(s, out);
        return s->own.step == OWN_VMS;
    }
    return add_vms(s, out);
}

void session_own_end(struct session *s)
{
    session_event_record(s, SELFPKT_READ_COMPLETED, false);
    add_events(s, &s->ending);
    s->own_at = 0;
}

/* ---- stats (section 13) ---- */

static uint32_t sequence_of(void *arg, uint32_t machine_id, uint16_t producer, uint16_t writer)
{
    return session_ids_get(arg, machine_id, producer, writer);
}

/* Fills what trace_stats needs; the two pointers are the caller's, for as long as *out is used. */
static void collect_stats(struct session *s, struct selfpkt_stats *out, struct filter_stats *filter,
                          const struct tbuf **buffers, size_t max)
{
    struct service *svc = s->svc;
    if (s->filter)
        filter_get_stats(s->filter, filter);
    for (size_t i = 0; i < s->nbuffers; i++)
        buffers[i] = s->buffers[i].tb;
    *out = (struct selfpkt_stats){
        .producers_connected = (uint32_t)idmap_count(&svc->producer_of),
        .data_sources_registered = svc->nsources,
        .tracing_sessions = (uint32_t)service_sessions(svc),
        .total_buffers = (uint32_t)service_buffers(svc),
        .producers_seen = svc->last_producer,
        .data_sources_seen = svc->last_instance,
        .chunks_discarded = svc->count.chunks_discarded,
        .patches_discarded = svc->count.patches_discarded,
        .invalid_packets = s->invalid_packets,
        .flushes_requested = s->flushes_requested,
        .flushes_succeeded = s->flushes_succeeded,
        .flushes_failed = s->flushes_failed,
        .final_flush_outcome = s->final_flush_outcome,
        .filter = s->filter ? filter : NULL,
        .buffers = buffers,
        .nbuffers = s->nbuffers,
        .histograms = !s->cfg->no_histograms,
        .max_size = max,
        .sequence_id = sequence_of,
        .arg = &s->ids,
    };
}

void session_read_stats(struct session *s, struct bytesbuf *out, size_t max)
{
    struct selfpkt_stats stats;
    struct filter_stats filter;
    session_ids_step(s);
    const struct tbuf **buffers = alloc_array(s->nbuffers, sizeof(*buffers));
    collect_stats(s, &stats, &filter, buffers, max);
    selfpkt_stats_message(out, &stats);
    free(buffers);
}

bool session_own_stats(struct session *s)
{
    struct session_own *o = &s->own;
    struct bytesbuf *out = &s->stats;
    struct selfpkt_stats stats;
    struct filter_stats filter;
    const struct tbuf **buffers = alloc_array(s->nbuffers, sizeof(*buffers));
    collect_stats(s, &stats, &filter, buffers, SIZE_MAX);
    if (!o->counting) {
        o->packet = selfpkt_trace_stats(out);
        selfpkt_stats_begin(&o->writers, out, &stats);
    }
    o->counting = selfpkt_stats_some(&o->writers, out, &stats, WRITERS);
    free(buffers);
    if (o->counting)
        return true;
    selfpkt_stats_end(&o->writers, out);
    bytesbuf_pb_end(out, o->packet);
    s->emit_stats = false;
    return false;
}
