/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service itself says in a trace. Each function appends the fields of one TracePacket to
 * the caller's buffer and owns nothing; the read path frames and sends them like any other packet.
 * The packets are small and made once or a few times per read, so they are written by hand with
 * reactor/bytesbuf, in one pass and without a message tree.
 *
 * The statistics have a file of their own, svc/selfpkt_stats.
 */
#include "svc/selfpkt.h"

#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"

#define SEQUENCE_SERVICE 1 /* service.md 0.1: the service's own packet sequence */

/* What stands in the head of a packet besides who signed it (R112, R114). */
enum { WITH_CLOCK = 1, WITH_MACHINE = 2 };

static uint32_t signing_machine;

void selfpkt_set_machine(uint32_t machine_id)
{
    signing_machine = machine_id;
}

static void put_int32(struct bytesbuf *out, uint32_t field, int32_t v)
{
    bytesbuf_pb_varint(out, field, (uint64_t)(int64_t)v);
}

static void put_head(struct bytesbuf *out, unsigned with)
{
    put_int32(out, PBF_TracePacket_trusted_uid, (int32_t)geteuid());
    bytesbuf_pb_varint(out, PBF_TracePacket_trusted_packet_sequence_id, SEQUENCE_SERVICE);
    if (with & WITH_CLOCK)
        bytesbuf_pb_varint(out, PBF_TracePacket_timestamp_clock_id, CLOCKSNAP_BOOTTIME);
    if ((with & WITH_MACHINE) && signing_machine != 0)
        bytesbuf_pb_varint(out, PBF_TracePacket_machine_id, signing_machine);
}

static void put_head_at(struct bytesbuf *out, uint64_t boot_ns)
{
    bytesbuf_pb_varint(out, PBF_TracePacket_timestamp, boot_ns);
    put_head(out, WITH_CLOCK | WITH_MACHINE);
}

static void put_view(struct bytesbuf *out, uint32_t field, struct bytes_view v)
{
    bytesbuf_pb_bytes(out, field, v.p, v.n);
}

/* ---- lifecycle events ---- */

void selfpkt_event(struct bytesbuf *out, uint64_t boot_ns, enum selfpkt_event event, uint32_t value)
{
    put_head_at(out, boot_ns);
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_service_event);
    bytesbuf_pb_varint(out, (uint32_t)event, event == SELFPKT_BUFFER_CLONED ? value : 1);
    bytesbuf_pb_end(out, body);
}

void selfpkt_slow_event(struct bytesbuf *out, uint64_t boot_ns, enum selfpkt_event event,
                        const struct selfpkt_slow *slow, size_t n)
{
    put_head_at(out, boot_ns);
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_service_event);
    size_t list = bytesbuf_pb_begin(out, (uint32_t)event);
    for (size_t i = 0; i < n; i++) {
        size_t one = bytesbuf_pb_begin(out, PBF_TracingServiceEvent_DataSources_data_source);
        bytesbuf_pb_bytes(out, PBF_TracingServiceEvent_DataSources_DataSource_producer_name,
                          slow[i].producer.p, slow[i].producer.n);
        bytesbuf_pb_bytes(out, PBF_TracingServiceEvent_DataSources_DataSource_data_source_name,
                          slow[i].data_source.p, slow[i].data_source.n);
        bytesbuf_pb_end(out, one);
    }
    bytesbuf_pb_end(out, list);
    bytesbuf_pb_end(out, body);
}

/* ---- preamble ---- */

static void put_clocks(struct bytesbuf *out, const struct clocksnap *snap)
{
    for (uint32_t i = 0; i < snap->n; i++) {
        size_t clock = bytesbuf_pb_begin(out, PBF_ClockSnapshot_clocks);
        bytesbuf_pb_varint(out, PBF_ClockSnapshot_Clock_clock_id, snap->clocks[i].id);
        bytesbuf_pb_varint(out, PBF_ClockSnapshot_Clock_timestamp, snap->clocks[i].value);
        bytesbuf_pb_end(out, clock);
    }
}

void selfpkt_clock_snapshot(struct bytesbuf *out, const struct clocksnap *snap, uint32_t primary)
{
    put_head(out, WITH_CLOCK | WITH_MACHINE);
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_clock_snapshot);
    put_clocks(out, snap);
    bytesbuf_pb_varint(out, PBF_ClockSnapshot_primary_trace_clock,
                       primary != 0 ? primary : CLOCKSNAP_BOOTTIME);
    bytesbuf_pb_end(out, body);
}

void selfpkt_sync_marker(struct bytesbuf *out)
{
    static const uint8_t marker[16] = {0x82, 0x47, 0x7A, 0x76, 0xB2, 0x8D, 0x42, 0xBA,
                                       0x81, 0xDC, 0x33, 0x32, 0x6D, 0x57, 0xA0, 0x79};
    put_head(out, 0);
    bytesbuf_pb_bytes(out, PBF_TracePacket_synchronization_marker, marker, sizeof(marker));
}

void selfpkt_trace_config(struct bytesbuf *out, struct bytes_view config)
{
    put_head(out, WITH_CLOCK | WITH_MACHINE);
    put_view(out, PBF_TracePacket_trace_config, config);
}

void selfpkt_trace_uuid(struct bytesbuf *out, uint64_t msb, uint64_t lsb)
{
    put_head(out, WITH_CLOCK | WITH_MACHINE);
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_trace_uuid);
    bytesbuf_pb_varint(out, PBF_TraceUuid_msb, msb);
    bytesbuf_pb_varint(out, PBF_TraceUuid_lsb, lsb);
    bytesbuf_pb_end(out, body);
}

void selfpkt_trigger(struct bytesbuf *out, const struct selfpkt_trigger *t)
{
    put_head_at(out, t->boot_ns);
    size_t body = bytesbuf_pb_begin(out, t->from_clone ? PBF_TracePacket_clone_snapshot_trigger
                                                       : PBF_TracePacket_trigger);
    put_view(out, PBF_Trigger_trigger_name, t->name);
    put_view(out, PBF_Trigger_producer_name, t->producer);
    put_int32(out, PBF_Trigger_trusted_producer_uid, (int32_t)t->uid);
    bytesbuf_pb_varint(out, PBF_Trigger_stop_delay_ms, t->delay_ms);
    bytesbuf_pb_end(out, body);
}

void selfpkt_extension_descriptor(struct bytesbuf *out, struct bytes_view blob, bool gzip,
                                  const char *name)
{
    put_head(out, WITH_CLOCK | WITH_MACHINE);
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_extension_descriptor);
    put_view(out,
             gzip ? PBF_ExtensionDescriptor_extension_set_gzip
                  : PBF_ExtensionDescriptor_extension_set,
             blob);
    if (name != NULL)
        bytesbuf_pb_str(out, PBF_ExtensionDescriptor_file_name, name);
    bytesbuf_pb_end(out, body);
}

/* Minutes that local time is ahead of UTC. */
static int32_t timezone_minutes(void)
{
    time_t now = (time_t)(chrono_real_ns() / CHRONO_SEC);
    struct tm local;
    if (localtime_r(&now, &local) == NULL)
        return 0;
    return (int32_t)(local.tm_gmtoff / 60);
}

static void put_utsname(struct bytesbuf *out)
{
    struct utsname name;
    if (uname(&name) != 0)
        return;
    size_t body = bytesbuf_pb_begin(out, PBF_SystemInfo_utsname);
    bytesbuf_pb_str(out, PBF_Utsname_sysname, name.sysname);
    bytesbuf_pb_str(out, PBF_Utsname_version, name.version);
    bytesbuf_pb_str(out, PBF_Utsname_release, name.release);
    bytesbuf_pb_str(out, PBF_Utsname_machine, name.machine);
    bytesbuf_pb_end(out, body);
}

void selfpkt_system_info(struct bytesbuf *out, const char *version)
{
    put_head(out, WITH_CLOCK | WITH_MACHINE);
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_system_info);
    bytesbuf_pb_str(out, PBF_SystemInfo_tracing_service_version, version);
    put_int32(out, PBF_SystemInfo_timezone_off_mins, timezone_minutes());
    put_utsname(out);
    bytesbuf_pb_varint(out, PBF_SystemInfo_page_size, (uint64_t)sysconf(_SC_PAGESIZE));
    struct sysinfo si;
    if (sysinfo(&si) == 0)
        bytesbuf_pb_varint(out, PBF_SystemInfo_system_ram_bytes,
                           (uint64_t)si.totalram * si.mem_unit);
    bytesbuf_pb_varint(out, PBF_SystemInfo_num_cpus, (uint64_t)sysconf(_SC_NPROCESSORS_CONF));
    bytesbuf_pb_end(out, body);
}

void selfpkt_remote_system_info(struct bytesbuf *out, struct bytes_view info, uint32_t machine_id)
{
    put_head(out, 0);
    bytesbuf_pb_varint(out, PBF_TracePacket_machine_id, machine_id);
    put_view(out, PBF_TracePacket_system_info, info);
}

/* The clocks of a SyncClockRequest as a ClockSnapshot. Both messages number clock id and timestamp
 * alike, so each clock's bytes are taken over under the other tag. */
static void put_client_clocks(struct bytesbuf *out, struct bytes_view request)
{
    struct bytes_cur cur = bytes_cur(request);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_SyncClockRequest_clocks && f.type == BYTES_LEN)
            put_view(out, PBF_ClockSnapshot_clocks, f.data);
    }
}

void selfpkt_remote_clock_sync(struct bytesbuf *out, uint32_t machine_id,
                               const struct selfpkt_sync *syncs, size_t n)
{
    bytesbuf_pb_varint(out, PBF_TracePacket_machine_id, machine_id);
    put_int32(out, PBF_TracePacket_trusted_uid, (int32_t)geteuid());
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_remote_clock_sync);
    for (size_t i = 0; i < n; i++) {
        size_t pair = bytesbuf_pb_begin(out, PBF_RemoteClockSync_synced_clocks);
        size_t clocks = bytesbuf_pb_begin(out, PBF_RemoteClockSync_SyncedClocks_client_clocks);
        put_client_clocks(out, syncs[i].client);
        bytesbuf_pb_end(out, clocks);
        clocks = bytesbuf_pb_begin(out, PBF_RemoteClockSync_SyncedClocks_host_clocks);
        put_clocks(out, &syncs[i].host);
        bytesbuf_pb_end(out, clocks);
        bytesbuf_pb_end(out, pair);
    }
    bytesbuf_pb_end(out, body);
}

/* ---- trace_provenance ---- */

void selfpkt_provenance_begin(struct selfpkt_provenance *p, struct bytesbuf *out, uint64_t boot_ns)
{
    put_head_at(out, boot_ns);
    p->out = out;
    p->packet = bytesbuf_pb_begin(out, PBF_TracePacket_trace_provenance);
    p->buffer = 0;
    p->open = false;
}

static void provenance_close(struct selfpkt_provenance *p)
{
    if (p->open)
        bytesbuf_pb_end(p->out, p->buffer);
    p->open = false;
}

void selfpkt_provenance_buffer(struct selfpkt_provenance *p)
{
    provenance_close(p);
    p->buffer = bytesbuf_pb_begin(p->out, PBF_TraceProvenance_buffers);
    p->open = true;
}

void selfpkt_provenance_sequence(struct selfpkt_provenance *p, uint32_t sequence, uint32_t producer)
{
    size_t one = bytesbuf_pb_begin(p->out, PBF_TraceProvenance_Buffer_sequences);
    bytesbuf_pb_varint(p->out, PBF_TraceProvenance_Sequence_id, sequence);
    put_int32(p->out, PBF_TraceProvenance_Sequence_producer_id, (int32_t)producer);
    bytesbuf_pb_end(p->out, one);
}

void selfpkt_provenance_end(struct selfpkt_provenance *p)
{
    provenance_close(p);
    bytesbuf_pb_end(p->out, p->packet);
}

/* ---- other sessions ---- */

void selfpkt_concurrent_session(struct bytesbuf *out, const struct selfpkt_concurrent *e)
{
    put_head_at(out, e->boot_ns);
    size_t body = bytesbuf_pb_begin(out, PBF_TracePacket_concurrent_session_event);
    bytesbuf_pb_varint(out, PBF_ConcurrentSessionEvent_state, e->state);
    if (e->session_name[0] != '\0')
        bytesbuf_pb_str(out, PBF_ConcurrentSessionEvent_session_name, e->session_name);
    bytesbuf_pb_varint(out, PBF_ConcurrentSessionEvent_session_id, e->session_id);
    put_int32(out, PBF_ConcurrentSessionEvent_consumer_uid, (int32_t)e->consumer_uid);
    bytesbuf_pb_varint(out, PBF_ConcurrentSessionEvent_num_data_sources, e->num_data_sources);
    bytesbuf_pb_end(out, body);
}

/* ---- trace_stats ---- */

size_t selfpkt_trace_stats(struct bytesbuf *out)
{
    put_head(out, WITH_CLOCK | WITH_MACHINE);
    return bytesbuf_pb_begin(out, PBF_TracePacket_trace_stats);
}

/* ---- protovms ---- */

size_t selfpkt_protovms(struct bytesbuf *out)
{
    put_head(out, WITH_CLOCK | WITH_MACHINE);
    return bytesbuf_pb_begin_large(out, PBF_TracePacket_protovms);
}
