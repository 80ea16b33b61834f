/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The read path: one batch of a session's packets, in the order of service.md R107, through filter
 * and compression (svc/session_pipe) into a sink. Our own packets are built into a buffer (one for
 * each of the three places where they come) before the first of them is handed on, since that
 * memory moves while it grows; those of producers are handed on as pieces of the trace buffer with
 * their trusted fields behind them. Whatever a packet points to stays where it is until the next
 * call begins, so a sink may gather a whole batch without copying.
 *
 * A call does a bounded amount of work. When filter or compression need more for a batch, the stage
 * that it was in is kept, and the next call goes on there.
 *
 * Per packet there is no allocation but the first of a new sequence, and no system call.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_vm.h"
#include "svc/validate.h"

/* ---- sequence ids (R127) ---- */

uint32_t session_read_sequence(struct session *s, uint32_t machine_id, uint16_t producer,
                               uint16_t writer)
{
    uint64_t key = (uint64_t)machine_id << 32 | (uint32_t)producer << 16 | writer;
    uintptr_t id = (uintptr_t)idmap_get(&s->sequences, key);
    if (id)
        return (uint32_t)id;
    id = ++s->last_sequence;
    idmap_put(&s->sequences, key, (void *)id);
    return (uint32_t)id;
}

/* Hands on packets of a buffer from own_at on, which must not grow any more in this batch. */
static int put_buffered(struct session_batch *b, const struct bytesbuf *own)
{
    size_t *at = &b->s->own_at;
    if (own->failed)
        return -ENOMEM;
    while (*at < own->n) {
        uint32_t size = bytes_load32(own->p + *at);
        struct iovec part = {own->p + *at + sizeof(size), size};
        const struct packet pkt = {
            .parts = &part, .nparts = size ? 1 : 0, .size = size, .buffer = PACKET_SERVICE};
        *at += sizeof(size) + size;
        int err = session_pipe_put(b, &pkt);
        if (err || b->later)
            return err;
    }
    return 0;
}

/* ---- our own packets (R107.1-15) ---- */

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

static void add_provenance(struct session *s, struct bytesbuf *out) /* R119 */
{
    struct selfpkt_provenance p;
    struct tbuf_writer w;
    selfpkt_provenance_begin(&p, out, chrono_boot_ns());
    for (size_t i = 0; i < s->nbuffers; i++) {
        selfpkt_provenance_buffer(&p);
        for (uint32_t cursor = 0; tbuf_next_writer(s->buffers[i].tb, &cursor, &w);)
            selfpkt_provenance_sequence(
                &p, session_read_sequence(s, w.client.machine_id, w.producer_id, w.writer_id),
                w.producer_id);
    }
    selfpkt_provenance_end(&p);
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

static void add_once(struct session *s, struct bytesbuf *out)
{
    if (s->preamble_done)
        return;
    OWN_PACKET(out, selfpkt_trace_uuid(out, s->uuid_msb, s->uuid_lsb));
    for (size_t i = 0; !s->cfg->no_extension_descriptors && i < s->svc->ndescriptors; i++) {
        const struct service_descriptor *d = &s->svc->descriptors[i];
        OWN_PACKET(out,
                   selfpkt_extension_descriptor(out, bytes_view(d->bytes, d->n), d->gzip, d->name));
    }
    OWN_PACKET(out, add_provenance(s, out));
    if (!s->cfg->no_system_info) {
        OWN_PACKET(out, selfpkt_system_info(out, s->svc->version));
        add_remote_systems(s, out);
    }
    s->preamble_done = true;
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

static void add_vms(struct session *s, struct bytesbuf *out) /* R107.15 */
{
    const struct tbuf *with[DEFAULTS_MAX_BUFFERS];
    uint64_t bytes = 0;
    size_t n = 0;
    for (size_t i = 0; i < s->nbuffers && n < DEFAULTS_MAX_BUFFERS; i++) {
        const struct tbuf *tb = s->buffers[i].tb;
        uint64_t more = tbuf_vm_memory(tb);
        if (tbuf_vm_count(tb) == 0)
            continue;
        if (bytes + more > SESSION_VMS_MAX) {
            log_warn("session %llu: the ProtoVMs of buffer %zu are left out of the trace, all "
                     "together have more than %u MiB; lower their memory_limit_kb",
                     (unsigned long long)s->id, i, SESSION_VMS_MAX >> 20);
            continue;
        }
        bytes += more;
        with[n++] = tb;
    }
    if (n != 0)
        OWN_PACKET(out, selfpkt_protovms(out, with, n));
}

static void add_events(struct session *s, struct bytesbuf *out)
{
    if (!s->cfg->no_service_events)
        session_event_emit(s, out);
}

static void build_own(struct session *s)
{
    struct bytesbuf *out = &s->scratch;
    bool first = !s->preamble_done;
    if (!s->cfg->no_clock_snapshots)
        add_clocks(s, out);
    else if (s->emit_sync) {
        OWN_PACKET(out, selfpkt_sync_marker(out));
        s->emit_sync = false;
    }
    add_config(s, out);
    add_once(s, out);
    add_events(s, out);
    if (s->cfg->concurrent_session_events)
        session_event_emit_concurrent(s, out);
    add_relay_clocks(s, out);
    if (first)
        add_vms(s, out);
}

/* ---- packets of producers (R107.16) ---- */

static int ensure_parts(struct session *s, size_t n)
{
    if (n <= s->nparts)
        return 0;
    struct iovec *parts = alloc_try_resize(s->parts, n + 64, sizeof(*parts));
    if (!parts)
        return -ENOMEM;
    s->parts = parts;
    s->nparts = n + 64;
    return 0;
}

size_t session_read_trailer(struct session *s, const struct tbuf_packet *p, uint8_t *trailer)
{
    const struct validate_origin origin = {
        .uid = p->client.uid,
        .pid = p->client.pid,
        .sequence = session_read_sequence(s, p->client.machine_id, p->producer_id, p->writer_id),
        .machine_id = p->client.machine_id,
        .loss = p->loss,
    };
    return validate_trailer(trailer, &origin);
}

/* Hands on one packet with its trusted fields (R125). */
static int put_packet(struct session_batch *b, int buffer, const struct tbuf_packet *p)
{
    struct session *s = b->s;
    if (ensure_parts(s, p->num_slices + 1))
        return -ENOMEM;
    uint8_t *trailer = s->trailers + b->trailers;
    size_t len = session_read_trailer(s, p, trailer);
    b->trailers += len;
    memcpy(s->parts, p->slices, p->num_slices * sizeof(*s->parts));
    s->parts[p->num_slices] = (struct iovec){trailer, len};
    const struct packet pkt = {
        .parts = s->parts, .nparts = p->num_slices + 1, .size = p->size + len, .buffer = buffer};
    return session_pipe_put(b, &pkt);
}

/* Reads one buffer until it is empty or the batch is full. *more: there is more in it. */
static int put_buffer(struct session_batch *b, size_t index, bool *more)
{
    struct session *s = b->s;
    struct tbuf *tb = s->buffers[index].tb;
    struct tbuf_packet p;
    tbuf_read_begin(tb);
    while (b->size < b->threshold) {
        enum tbuf_read_result r = tbuf_read_next(tb, &p);
        if (r != TBUF_READ_PACKET) {
            *more = r == TBUF_READ_AGAIN;
            return 0;
        }
        if (p.more) {
            *more = true;
            return session_large_begin(s, index, &p);
        }
        if (!validate_packet(p.slices, p.num_slices)) {
            s->invalid_packets++;
            tbuf_read_refuse(tb, &p);
            continue;
        }
        int err = put_packet(b, (int)index, &p);
        if (err)
            return err;
        if (b->later || session_pipe_spent(b))
            break;
    }
    *more = true;
    return 0;
}

/* *more: there is more to come, but not now. */
static int put_buffers(struct session_batch *b, bool *more)
{
    struct session *s = b->s;
    if (s->large.state != LARGE_NONE) {
        *more = true;
        return session_large_step(b);
    }
    *more = false;
    for (size_t i = 0; i < s->nbuffers; i++) {
        int err = put_buffer(b, i, more);
        if (err || *more)
            return err;
    }
    return 0;
}

/* ---- stats (section 13) ---- */

static uint32_t sequence_of(void *arg, uint32_t machine_id, uint16_t producer, uint16_t writer)
{
    return session_read_sequence(arg, machine_id, producer, writer);
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
        .arg = s,
    };
}

void session_read_stats(struct session *s, struct bytesbuf *out, size_t max)
{
    struct selfpkt_stats stats;
    struct filter_stats filter;
    const struct tbuf **buffers = alloc_array(s->nbuffers, sizeof(*buffers));
    collect_stats(s, &stats, &filter, buffers, max);
    selfpkt_stats_message(out, &stats);
    free(buffers);
}

static int put_stats(struct session_batch *b)
{
    struct session *s = b->s;
    struct bytesbuf *out = &s->stats;
    struct selfpkt_stats stats;
    struct filter_stats filter;
    if (!s->emit_stats)
        return 0;
    const struct tbuf **buffers = alloc_array(s->nbuffers, sizeof(*buffers));
    collect_stats(s, &stats, &filter, buffers, SIZE_MAX);
    selfpkt_trace_stats(out, &stats);
    free(buffers);
    s->emit_stats = false;
    if (out->failed)
        return -ENOMEM;
    struct iovec part = {out->p, out->n};
    const struct packet pkt = {
        .parts = &part, .nparts = 1, .size = part.iov_len, .buffer = PACKET_SERVICE};
    b->size += pkt.size;
    if (s->filter)
        filter_count_stats_packet(s->filter, pkt.size);
    return session_pipe_put_raw(b, &pkt);
}

/* ---- the batch ---- */

/* Room for the trusted fields of all packets of a call. */
static int reserve_trailers(struct session *s, size_t threshold)
{
    size_t room = threshold + VALIDATE_TRAILER_MAX;
    if (s->trailers_size >= room)
        return 0;
    uint8_t *p = alloc_try_resize(s->trailers, room, 1);
    if (!p)
        return -ENOMEM;
    s->trailers = p;
    s->trailers_size = room;
    return 0;
}

/* Does what is due in the stage that the read is in, and enters the next. */
static int do_stage(struct session_batch *b)
{
    struct session *s = b->s;
    bool more;
    int err;
    switch (s->stage) {
    case READ_BEGIN:
        bytesbuf_clear(&s->scratch);
        bytesbuf_clear(&s->ending);
        bytesbuf_clear(&s->stats);
        s->own_at = 0;
        if (!session_large_begun(s)) /* nothing comes between the pieces of a packet */
            build_own(s);
        s->stage = READ_OWN;
        return 0;
    case READ_OWN:
        err = put_buffered(b, &s->scratch);
        s->stage = b->later ? READ_OWN : READ_BUFFERS;
        return err;
    case READ_BUFFERS:
        err = put_buffers(b, &more);
        s->stage = more ? READ_BEGIN : READ_ENDING;
        if (err || more)
            return err;
        session_event_record(s, SELFPKT_READ_COMPLETED, false);
        add_events(s, &s->ending);
        s->own_at = 0;
        return 0;
    case READ_ENDING:
        err = put_buffered(b, &s->ending);
        s->stage = b->later ? READ_ENDING : READ_STATS;
        return err;
    default:
        s->stage = READ_END;
        return put_stats(b);
    }
}

/* Goes on with the batch, until there is enough of it or the call's time is up. */
static int go_on(struct session_batch *b)
{
    struct session *s = b->s;
    int err = session_pipe_resume(b);
    while (!err && !b->later && s->stage != READ_END) {
        err = do_stage(b);
        if (s->stage == READ_BEGIN || session_pipe_spent(b))
            break;
    }
    if (err < 0)
        return err;
    int last = session_pipe_end(b, s->stage == READ_END);
    return err ? err : last;
}

int session_read_batch(struct session *s, size_t threshold, struct packet_sink *sink, bool *more)
{
    struct session_batch b = {.s = s, .sink = sink, .threshold = threshold};
    session_pipe_begin(&b);
    int err = reserve_trailers(s, threshold);
    if (!err)
        err = session_pipe_giving(s) ? session_pipe_give(&b) : go_on(&b);
    if (err)
        session_pipe_abandon(s);
    *more = s->stage != READ_END || session_pipe_busy(s) || session_pipe_giving(s);
    if (err || !*more)
        s->stage = READ_BEGIN;
    return err;
}

void session_read_rewind(struct session *s)
{
    session_large_rewind(s);
    session_pipe_rewind(s);
}

bool session_read_is_long(const struct session *s)
{
    return s->filter || s->compress || s->large.state != LARGE_NONE;
}

bool session_read_empty(const struct session *s)
{
    return s->file || session_trigger_waiting(s);
}

void session_read_free(struct session *s)
{
    session_large_drop(s);
    session_pipe_free(s);
    free(s->trailers);
    free(s->parts);
    s->trailers = NULL;
    s->parts = NULL;
    idmap_fini(&s->sequences);
    bytesbuf_fini(&s->scratch);
    bytesbuf_fini(&s->ending);
    bytesbuf_fini(&s->stats);
}
