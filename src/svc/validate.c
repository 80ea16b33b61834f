/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate between what producers wrote and what consumers get. A packet comes as the pieces in
 * which it lies in the trace buffer; they are walked as one run of bytes, so a field may be cut at
 * any place. Only the top level is looked at: what is inside a field is between the producer and
 * the reader of the trace. A packet that passes gets a trailer of trusted fields, which come after
 * the producer's bytes and so win (service.md R125).
 *
 * It must never read past the pieces, and never let a field number through that the service signs
 * with.
 */
#include "svc/validate.h"

#include "protos/fieldnum.h"
#include "reactor/bytes.h"

#define LEN_MAX 268435455u /* R123.4: what four length bytes can say */

/* Where the walk stands. p == end: the next piece is due. */
struct walk {
    const uint8_t *p;
    const uint8_t *end;
    const struct iovec *part; /* the next piece */
    size_t left;              /* pieces not begun */
};

/* Makes at least one byte available. False at the end of the packet. */
static bool walk_more(struct walk *w)
{
    while (w->p == w->end) {
        if (w->left == 0)
            return false;
        if (w->part->iov_len > 0) {
            w->p = w->part->iov_base;
            w->end = w->p + w->part->iov_len;
        }
        w->part++;
        w->left--;
    }
    return true;
}

static bool walk_varint(struct walk *w, uint64_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (!walk_more(w))
            return false;
        uint64_t byte = *w->p++;
        v |= (byte & 0x7F) << shift;
        if (byte < 0x80) {
            *out = v;
            return true;
        }
    }
    return false;
}

static bool walk_skip(struct walk *w, uint64_t n)
{
    while (n > (size_t)(w->end - w->p)) {
        n -= (size_t)(w->end - w->p);
        w->p = w->end;
        if (!walk_more(w))
            return false;
    }
    w->p += n;
    return true;
}

/* Field numbers that only the service writes (R123.1). */
static bool reserved(uint32_t field)
{
    switch (field) {
    case PBF_TracePacket_trusted_uid:
    case PBF_TracePacket_trusted_packet_sequence_id:
    case PBF_TracePacket_trace_config:
    case PBF_TracePacket_trace_stats:
    case PBF_TracePacket_synchronization_marker:
    case PBF_TracePacket_compressed_packets:
    case PBF_TracePacket_service_event:
    case PBF_TracePacket_trusted_pid:
    case PBF_TracePacket_machine_id:
    case PBF_TracePacket_trace_provenance:
    case PBF_TracePacket_protovms:
    case PBF_TracePacket_zstd_compressed_packets:
        return true;
    default:
        return false;
    }
}

static bool walk_value(struct walk *w, uint32_t type)
{
    uint64_t v;
    switch (type) {
    case BYTES_VARINT:
        return walk_varint(w, &v);
    case BYTES_FIXED64:
        return walk_skip(w, 8);
    case BYTES_FIXED32:
        return walk_skip(w, 4);
    case BYTES_LEN:
        return walk_varint(w, &v) && v <= LEN_MAX && walk_skip(w, v);
    default:
        return false;
    }
}

static bool walk_field(struct walk *w)
{
    uint64_t tag;
    return walk_varint(w, &tag) && tag <= UINT32_MAX && tag >= 8 && !reserved((uint32_t)tag >> 3) &&
           walk_value(w, (uint32_t)tag & 7);
}

bool validate_packet(const struct iovec *parts, size_t nparts)
{
    struct walk w = {NULL, NULL, parts, nparts};
    while (walk_more(&w)) {
        if (!walk_field(&w))
            return false;
    }
    return true;
}

enum validate_result validate_some(const uint8_t *p, size_t n, size_t *at, size_t fields)
{
    struct walk w = {p + *at, p + n, NULL, 0};
    while (walk_more(&w)) {
        if (fields-- == 0) {
            *at = (size_t)(w.p - p);
            return VALIDATE_MORE;
        }
        if (!walk_field(&w))
            return VALIDATE_BAD;
    }
    return VALIDATE_GOOD;
}

static uint8_t *put_field(uint8_t *p, uint32_t field, uint64_t v)
{
    return bytes_put_varint(bytes_put_tag(p, field, BYTES_VARINT), v);
}

size_t validate_trailer(uint8_t out[VALIDATE_TRAILER_MAX], const struct validate_origin *origin)
{
    /* int32 fields are sign-extended on the wire: uid 4294967295 takes ten bytes. */
    uint8_t *p = put_field(out, PBF_TracePacket_trusted_uid, (uint64_t)(int64_t)origin->uid);
    p = put_field(p, PBF_TracePacket_trusted_packet_sequence_id, origin->sequence);
    if (origin->pid != -1)
        p = put_field(p, PBF_TracePacket_trusted_pid, (uint64_t)(int64_t)origin->pid);
    if (origin->machine_id != 0)
        p = put_field(p, PBF_TracePacket_machine_id, origin->machine_id);
    if (origin->loss != 0)
        p = put_field(p, PBF_TracePacket_previous_packet_dropped, origin->loss);
    return (size_t)(p - out);
}
