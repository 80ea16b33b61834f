/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets: protobuf messages of type TracePacket, written field by field into the memory that is
 * shared with the service. Writing allocates nothing and makes no system call except where a chunk
 * of that memory is full (4 KiB), or is the thread's first for a session.
 *
 *     PERFETTO_TRACE(&frames, p) {
 *         perfetto_packet_timestamp(p);
 *         perfetto_packet_begin_nested(p, 900);
 *         perfetto_packet_string(p, 1, "frame 12");
 *         perfetto_packet_end_nested(p);
 *     }
 *
 * The body runs once for each active instance, each time with a packet of its own. `continue` is
 * fine. To leave early call perfetto_packet_end(p) first: a packet that is never ended keeps its
 * session from getting anything more of this thread.
 *
 * A packet belongs to the thread that began it. Inside a packet the same thread gets no second one
 * of the same source; other sources are fine. Field numbers are those of the schemas in protos/;
 * 900 (TracePacket.for_testing) is free to play with.
 */
#ifndef PERFETTO_PUBLIC_PACKET_H
#define PERFETTO_PUBLIC_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "perfetto/public/data_source.h"
#include "perfetto/public/export.h"

PERFETTO_BEGIN_DECLS

struct perfetto_packet;

/* Begins a packet in the first active instance; NULL when there is none. Use PERFETTO_TRACE. */
PERFETTO_EXPORT struct perfetto_packet *perfetto_packet_begin(struct perfetto_data_source *ds);

/* Ends the packet and begins one in the next active instance; NULL after the last. */
PERFETTO_EXPORT struct perfetto_packet *perfetto_packet_next(struct perfetto_packet *p);

/* Ends the packet, and what is nested and open in it. */
PERFETTO_EXPORT void perfetto_packet_end(struct perfetto_packet *p);

#define PERFETTO_TRACE(ds, p)                                                                      \
    for (struct perfetto_packet *p = perfetto_data_source_active(ds) ? perfetto_packet_begin(ds)   \
                                                                     : NULL;                       \
         p; p = perfetto_packet_next(p))

/* Ends the packet and has all of this thread's packets sent, without waiting. After it, no next. */
PERFETTO_EXPORT void perfetto_packet_end_and_flush(struct perfetto_packet *p);

/* The instance, 0 to 7, as in the callbacks. */
PERFETTO_EXPORT uint32_t perfetto_packet_instance(const struct perfetto_packet *p);

/*
 * True once for each thread and instance, and again each time when the session has asked for its
 * state anew. Whatever later packets of this thread refer to (interned names, defaults) is to be
 * written when it is true, with TracePacket.sequence_flags = 1 in that packet.
 */
PERFETTO_EXPORT bool perfetto_packet_wants_state(struct perfetto_packet *p);

/* TracePacket.timestamp = now, of the clock that traces use unless told otherwise (boot time). */
PERFETTO_EXPORT void perfetto_packet_timestamp(struct perfetto_packet *p);

/* Fields. field is 1 to 2^29 - 1; what is written is not checked against a schema. */

/* uint32, uint64, bool, enum; also int32 and int64, cast to uint64_t from int64_t. */
PERFETTO_EXPORT void perfetto_packet_varint(struct perfetto_packet *p, uint32_t field, uint64_t v);
/* sint32, sint64. */
PERFETTO_EXPORT void perfetto_packet_sint(struct perfetto_packet *p, uint32_t field, int64_t v);
PERFETTO_EXPORT void perfetto_packet_fixed32(struct perfetto_packet *p, uint32_t field, uint32_t v);
PERFETTO_EXPORT void perfetto_packet_fixed64(struct perfetto_packet *p, uint32_t field, uint64_t v);
PERFETTO_EXPORT void perfetto_packet_float(struct perfetto_packet *p, uint32_t field, float v);
PERFETTO_EXPORT void perfetto_packet_double(struct perfetto_packet *p, uint32_t field, double v);
/* bytes, or a message that is encoded already; of any length. */
PERFETTO_EXPORT void perfetto_packet_bytes(struct perfetto_packet *p, uint32_t field,
                                           const void *data, size_t len);
PERFETTO_EXPORT void perfetto_packet_string(struct perfetto_packet *p, uint32_t field,
                                            const char *s);

/* A nested message, at most 32 of them open at a time: the fields in between are its. */
PERFETTO_EXPORT void perfetto_packet_begin_nested(struct perfetto_packet *p, uint32_t field);
PERFETTO_EXPORT void perfetto_packet_end_nested(struct perfetto_packet *p);

PERFETTO_END_DECLS

#endif
