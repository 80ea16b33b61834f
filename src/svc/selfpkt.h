/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SELFPKT_H
#define SVC_SELFPKT_H

/*
 * The packets that the service itself puts into a trace: one function per kind. Each appends one
 * whole TracePacket (without the framing of Trace.packet) to a buffer; which packets a read
 * contains, in which order and how often, is decided by svc/session_read (service.md R107). A
 * failed append shows in bytesbuf.failed.
 *
 * Header fields (R112-R115): trusted_uid, trusted_packet_sequence_id 1, timestamp_clock_id
 * BOOTTIME, and a timestamp for the kinds of R114.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "reactor/bytesbuf.h"
#include "svc/clocksnap.h"
#include "svc/filter.h"

struct tbuf;

/* ---- lifecycle events (R132-R134, section 7.7) ---- */

/* Values are field numbers of TracingServiceEvent. */
enum selfpkt_event {
    SELFPKT_ALL_DATA_SOURCES_STARTED = 1,
    SELFPKT_TRACING_STARTED = 2,
    SELFPKT_ALL_DATA_SOURCES_FLUSHED = 3,
    SELFPKT_READ_COMPLETED = 4,
    SELFPKT_TRACING_DISABLED = 5,
    SELFPKT_SLOW_STARTING = 7,
    SELFPKT_LAST_FLUSH_SLOW = 8,
    SELFPKT_FLUSH_STARTED = 9,
    SELFPKT_CLONE_STARTED = 10,
    SELFPKT_BUFFER_CLONED = 11
};

/* A boolean event, or BUFFER_CLONED with the config index of the buffer as value. */
void selfpkt_event(struct bytesbuf *out, uint64_t boot_ns, enum selfpkt_event event,
                   uint32_t value);

/* Names for SLOW_STARTING and LAST_FLUSH_SLOW. */
struct selfpkt_slow {
    struct bytes_view producer, data_source; /* borrow */
};

void selfpkt_slow_event(struct bytesbuf *out, uint64_t boot_ns, enum selfpkt_event event,
                        const struct selfpkt_slow *slow, size_t n);

/* ---- preamble ---- */

/* primary: BuiltinClock id of primary_trace_clock (R129; 0 stands for BOOTTIME). */
void selfpkt_clock_snapshot(struct bytesbuf *out, const struct clocksnap *snap, uint32_t primary);

/* The 16 marker bytes end the packet (R115). */
void selfpkt_sync_marker(struct bytesbuf *out);

/* config: encoded TraceConfig (R116). */
void selfpkt_trace_config(struct bytesbuf *out, struct bytes_view config);

void selfpkt_trace_uuid(struct bytesbuf *out, uint64_t msb, uint64_t lsb);

struct selfpkt_trigger {
    uint64_t boot_ns;
    struct bytes_view name;     /* borrow */
    struct bytes_view producer; /* borrow */
    uint32_t uid;
    uint32_t delay_ms;
    bool from_clone; /* clone_snapshot_trigger instead of trigger (R121) */
};

void selfpkt_trigger(struct bytesbuf *out, const struct selfpkt_trigger *t);

/* blob: FileDescriptorSet, raw or gzip (R120); name may be NULL. */
void selfpkt_extension_descriptor(struct bytesbuf *out, struct bytes_view blob, bool gzip,
                                  const char *name);

/* system_info of this machine (R118). version: as `traced --version` prints it. */
void selfpkt_system_info(struct bytesbuf *out, const char *version);

/* system_info of a relayed machine: encoded SystemInfo as received (R232). */
void selfpkt_remote_system_info(struct bytesbuf *out, struct bytes_view info, uint32_t machine_id);

/* One clock exchange of a relayed machine (R233): client clocks as received (encoded
 * ClockSnapshot.Clock messages, each with its tag of SyncClockRequest), and ours. */
struct selfpkt_sync {
    struct bytes_view client; /* borrow: SyncClockRequest bytes */
    struct clocksnap host;
};

/* R122. */
void selfpkt_remote_clock_sync(struct bytesbuf *out, uint32_t machine_id,
                               const struct selfpkt_sync *syncs, size_t n);

/* trace_provenance (R119): call begin, then per config buffer `buffer` followed by its sequences,
 * then end. */
struct selfpkt_provenance {
    struct bytesbuf *out; /* borrow */
    size_t packet, buffer;
    bool open;
};
void selfpkt_provenance_begin(struct selfpkt_provenance *p, struct bytesbuf *out, uint64_t boot_ns);
void selfpkt_provenance_buffer(struct selfpkt_provenance *p);
void selfpkt_provenance_sequence(struct selfpkt_provenance *p, uint32_t sequence,
                                 uint32_t producer);
void selfpkt_provenance_end(struct selfpkt_provenance *p);

/* R135. */
struct selfpkt_concurrent {
    uint64_t boot_ns;
    uint32_t state;           /* ConcurrentSessionEvent.State */
    const char *session_name; /* borrow; "" is omitted */
    uint64_t session_id;
    uint32_t consumer_uid;
    uint32_t num_data_sources;
};
void selfpkt_concurrent_session(struct bytesbuf *out, const struct selfpkt_concurrent *e);

/* protovms (R72, R107.15): begins the packet, whose fields are those of tbuf_vm_write_some(); it is
 * ended with bytesbuf_pb_end_large(). */
size_t selfpkt_protovms(struct bytesbuf *out);

/* ---- trace_stats (service.md section 13) ---- */

struct selfpkt_stats {
    uint32_t producers_connected, data_sources_registered, tracing_sessions, total_buffers;
    uint64_t producers_seen, data_sources_seen, chunks_discarded, patches_discarded;
    uint64_t invalid_packets, flushes_requested, flushes_succeeded, flushes_failed;
    uint32_t final_flush_outcome;      /* 0 unspecified, 1 succeeded, 2 failed */
    const struct filter_stats *filter; /* borrow; NULL without a filter */
    const struct tbuf *const *buffers; /* borrow: in config order */
    size_t nbuffers;
    bool histograms; /* false leaves out fields 17 and 18 (R226) */
    size_t max_size; /* bytes: writer_stats beyond this are left out (Q14) */
    /* The packet sequence id of a writer (R127). */
    uint32_t (*sequence_id)(void *arg, uint32_t machine_id, uint16_t producer, uint16_t writer);
    void *arg; /* borrow */
};

/* Appends the TraceStats message alone: the answer of GetTraceStats. */
void selfpkt_stats_message(struct bytesbuf *out, const struct selfpkt_stats *s);

/* The same in steps, for tens of thousands of writers: begin, some until it says false, end. What s
 * says may be collected anew for each. */
struct selfpkt_writers {
    size_t start, before, defined; /* places in out */
    size_t buffer;
    uint32_t cursor; /* of tbuf_next_writer */
};
void selfpkt_stats_begin(struct selfpkt_writers *w, struct bytesbuf *out,
                         const struct selfpkt_stats *s);
bool selfpkt_stats_some(struct selfpkt_writers *w, struct bytesbuf *out,
                        const struct selfpkt_stats *s, unsigned n); /* n writers at most */
void selfpkt_stats_end(const struct selfpkt_writers *w, struct bytesbuf *out);

/* Opens the packet whose message they append; bytesbuf_pb_end ends it. */
size_t selfpkt_trace_stats(struct bytesbuf *out);

/* ---- who signs ---- */

/* machine_id of the service's packets: 0, unless an in-process producer with another id was ever
 * connected (R113). */
void selfpkt_set_machine(uint32_t machine_id);

#endif
