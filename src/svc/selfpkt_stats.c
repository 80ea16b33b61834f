/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TraceStats, the message with which the service accounts for every loss (service.md section 13).
 * It is the body of the trace_stats packet and the answer of GetTraceStats. All scalars are written
 * even when they are 0 (R225). The part per writer is the only one that grows with what producers
 * do; it stops at the size that the caller gives, so that the message fits into one frame (Q14).
 */
#include "svc/selfpkt.h"

#include <limits.h>

#include "protos/fieldnum.h"
#include "svc/tbuf.h"

#define BUFFER_STAT(field)                                                                         \
    {                                                                                              \
        PBF_TraceStats_BufferStats_##field, offsetof(struct tbuf_stats, field)                     \
    }

static void put_buffer(struct bytesbuf *out, const struct tbuf *buffer)
{
    static const struct {
        uint32_t id;
        size_t offset;
    } fields[] = {
        BUFFER_STAT(buffer_size),
        BUFFER_STAT(bytes_written),
        BUFFER_STAT(bytes_overwritten),
        BUFFER_STAT(bytes_read),
        BUFFER_STAT(padding_bytes_written),
        BUFFER_STAT(padding_bytes_cleared),
        BUFFER_STAT(chunks_written),
        BUFFER_STAT(chunks_rewritten),
        BUFFER_STAT(chunks_relocated),
        BUFFER_STAT(chunks_overwritten),
        BUFFER_STAT(chunks_discarded),
        BUFFER_STAT(chunks_read),
        BUFFER_STAT(chunks_committed_out_of_order),
        BUFFER_STAT(write_wrap_count),
        BUFFER_STAT(patches_succeeded),
        BUFFER_STAT(patches_failed),
        BUFFER_STAT(readaheads_succeeded),
        BUFFER_STAT(readaheads_failed),
        BUFFER_STAT(abi_violations),
        BUFFER_STAT(trace_writer_packet_loss),
    };
    const char *stats = (const char *)tbuf_stats(buffer);
    size_t body = bytesbuf_pb_begin(out, PBF_TraceStats_buffer_stats);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        uint64_t v;
        memcpy(&v, stats + fields[i].offset, sizeof(v));
        bytesbuf_pb_varint(out, fields[i].id, v);
    }
    bytesbuf_pb_end(out, body);
}

static void put_packed(struct bytesbuf *out, uint32_t field, const uint64_t *v, size_t n)
{
    size_t body = bytesbuf_pb_begin(out, field);
    for (size_t i = 0; i < n; i++)
        bytesbuf_put_varint(out, v[i]);
    bytesbuf_pb_end(out, body);
}

static void put_writer(struct bytesbuf *out, const struct selfpkt_stats *s, uint32_t buffer,
                       const struct tbuf_writer *w)
{
    size_t body = bytesbuf_pb_begin(out, PBF_TraceStats_writer_stats);
    bytesbuf_pb_varint(out, PBF_TraceStats_WriterStats_sequence_id,
                       s->sequence_id(s->arg, w->client.machine_id, w->producer_id, w->writer_id));
    put_packed(out, PBF_TraceStats_WriterStats_chunk_payload_histogram_counts, w->counts,
               TBUF_HIST_BUCKETS);
    put_packed(out, PBF_TraceStats_WriterStats_chunk_payload_histogram_sum, w->sums,
               TBUF_HIST_BUCKETS);
    bytesbuf_pb_varint(out, PBF_TraceStats_WriterStats_buffer, buffer);
    bytesbuf_pb_end(out, body);
}

bool selfpkt_stats_some(struct selfpkt_writers *w, struct bytesbuf *out,
                        const struct selfpkt_stats *s, unsigned n)
{
    struct tbuf_writer writer;
    while (s->histograms && w->buffer < s->nbuffers) {
        if (n-- == 0)
            return true;
        if (!tbuf_next_writer(s->buffers[w->buffer], &w->cursor, &writer)) {
            w->buffer++;
            w->cursor = 0;
            continue;
        }
        size_t before = out->n;
        put_writer(out, s, (uint32_t)w->buffer, &writer);
        if (out->failed || out->n - w->start > s->max_size) {
            out->n = before; /* the entry that passed the limit is taken back */
            return false;
        }
    }
    return false;
}

/* The bucket bounds come before the writers and only when there is one (field 17). */
static void put_bounds(struct selfpkt_writers *w, struct bytesbuf *out)
{
    w->before = out->n;
    for (size_t i = 0; i < TBUF_HIST_BUCKETS - 1; i++)
        bytesbuf_pb_varint(out, PBF_TraceStats_chunk_payload_histogram_def, tbuf_hist_bounds[i]);
    w->defined = out->n;
}

void selfpkt_stats_end(const struct selfpkt_writers *w, struct bytesbuf *out)
{
    if (out->n == w->defined)
        out->n = w->before;
}

static void put_filter(struct bytesbuf *out, const struct filter_stats *f)
{
    size_t body = bytesbuf_pb_begin(out, PBF_TraceStats_filter_stats);
    bytesbuf_pb_varint(out, PBF_TraceStats_FilterStats_input_packets, f->input_packets);
    bytesbuf_pb_varint(out, PBF_TraceStats_FilterStats_input_bytes, f->input_bytes);
    bytesbuf_pb_varint(out, PBF_TraceStats_FilterStats_output_bytes, f->output_bytes);
    bytesbuf_pb_varint(out, PBF_TraceStats_FilterStats_errors, f->errors);
    bytesbuf_pb_varint(out, PBF_TraceStats_FilterStats_time_taken_ns, f->time_taken_ns);
    for (size_t i = 0; i < f->buffers; i++)
        bytesbuf_pb_varint(out, PBF_TraceStats_FilterStats_bytes_discarded_per_buffer,
                           f->discarded_per_buffer[i]);
    bytesbuf_pb_end(out, body);
}

void selfpkt_stats_begin(struct selfpkt_writers *w, struct bytesbuf *out,
                         const struct selfpkt_stats *s)
{
    *w = (struct selfpkt_writers){.start = out->n};
    for (size_t i = 0; i < s->nbuffers; i++)
        put_buffer(out, s->buffers[i]);
    bytesbuf_pb_varint(out, PBF_TraceStats_producers_connected, s->producers_connected);
    bytesbuf_pb_varint(out, PBF_TraceStats_producers_seen, s->producers_seen);
    bytesbuf_pb_varint(out, PBF_TraceStats_data_sources_registered, s->data_sources_registered);
    bytesbuf_pb_varint(out, PBF_TraceStats_data_sources_seen, s->data_sources_seen);
    bytesbuf_pb_varint(out, PBF_TraceStats_tracing_sessions, s->tracing_sessions);
    bytesbuf_pb_varint(out, PBF_TraceStats_total_buffers, s->total_buffers);
    bytesbuf_pb_varint(out, PBF_TraceStats_chunks_discarded, s->chunks_discarded);
    bytesbuf_pb_varint(out, PBF_TraceStats_patches_discarded, s->patches_discarded);
    bytesbuf_pb_varint(out, PBF_TraceStats_invalid_packets, s->invalid_packets);
    if (s->filter != NULL)
        put_filter(out, s->filter);
    bytesbuf_pb_varint(out, PBF_TraceStats_flushes_requested, s->flushes_requested);
    bytesbuf_pb_varint(out, PBF_TraceStats_flushes_succeeded, s->flushes_succeeded);
    bytesbuf_pb_varint(out, PBF_TraceStats_flushes_failed, s->flushes_failed);
    bytesbuf_pb_varint(out, PBF_TraceStats_final_flush_outcome, s->final_flush_outcome);
    put_bounds(w, out);
}

void selfpkt_stats_message(struct bytesbuf *out, const struct selfpkt_stats *s)
{
    struct selfpkt_writers w;
    selfpkt_stats_begin(&w, out, s);
    while (selfpkt_stats_some(&w, out, s, UINT_MAX))
        continue;
    selfpkt_stats_end(&w, out);
}
