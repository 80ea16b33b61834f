/* SPDX-License-Identifier: Apache-2.0 */
/* Every cause of loss that a trace can tell of is named, with a remedy. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/losses.h"
#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"

static struct losses *l;
static struct bytesbuf b;

static void setup(void)
{
    l = losses_new();
    bytesbuf_init(&b, 1 << 20);
}

static void teardown(void)
{
    losses_free(l);
    bytesbuf_fini(&b);
}

TestSuite(losses, .init = setup, .fini = teardown);

static void feed(void)
{
    losses_packet(l, bytesbuf_view(&b));
    bytesbuf_clear(&b);
}

static char *report(void)
{
    char *s;
    size_t n;
    FILE *f = open_memstream(&s, &n);

    losses_report(l, f, "> ");
    fclose(f);
    return s;
}

static void expect(const char *fragment, unsigned causes)
{
    char *s = report();

    cr_expect(strstr(s, fragment), "no '%s' in\n%s", fragment, s);
    cr_expect_eq(losses_count(l), causes, "%u causes:\n%s", losses_count(l), s);
    cr_expect(strncmp(s, "> ", 2) == 0);
    free(s);
}

static void buffer_stat(uint32_t field, uint64_t value)
{
    size_t stats = bytesbuf_pb_begin(&b, PBF_TracePacket_trace_stats);
    size_t buf = bytesbuf_pb_begin(&b, PBF_TraceStats_buffer_stats);

    bytesbuf_pb_varint(&b, PBF_TraceStats_BufferStats_buffer_size, 64 << 10);
    bytesbuf_pb_varint(&b, field, value);
    bytesbuf_pb_end(&b, buf);
    bytesbuf_pb_end(&b, stats);
    feed();
}

static void stat(uint32_t field, uint64_t value)
{
    size_t stats = bytesbuf_pb_begin(&b, PBF_TracePacket_trace_stats);

    bytesbuf_pb_varint(&b, field, value);
    bytesbuf_pb_end(&b, stats);
    feed();
}

Test(losses, nothing)
{
    cr_expect(!losses_has_stats(l));
    stat(PBF_TraceStats_flushes_succeeded, 3);
    cr_expect(losses_has_stats(l));
    cr_expect_eq(losses_count(l), 0);
}

Test(losses, ring_buffer)
{
    buffer_stat(PBF_TraceStats_BufferStats_bytes_overwritten, 192 << 10);
    expect("buffer 0 (64 KB) overwrote 192 KB", 1);
    expect("size_kb: 320", 1);
}

Test(losses, last_statistics_count)
{
    buffer_stat(PBF_TraceStats_BufferStats_chunks_discarded, 5);
    expect("refused 5 chunks; size_kb: ", 1);
    buffer_stat(PBF_TraceStats_BufferStats_bytes_read, 5);
    cr_expect_eq(losses_count(l), 0);
}

Test(losses, patches)
{
    buffer_stat(PBF_TraceStats_BufferStats_patches_failed, 7);
    expect("7 patches came too late for buffer 0", 1);
}

Test(losses, service_counters)
{
    static const struct {
        uint32_t field;
        const char *text;
    } t[] = {
        {PBF_TraceStats_chunks_discarded, "wrong buffer"},
        {PBF_TraceStats_patches_discarded, "malformed patches"},
        {PBF_TraceStats_invalid_packets, "did not parse"},
        {PBF_TraceStats_flushes_failed, "flush_timeout_ms"},
    };

    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        stat(t[i].field, 9);
        expect(t[i].text, 1);
        losses_free(l);
        l = losses_new();
    }
    stat(PBF_TraceStats_final_flush_outcome, 2);
    expect("last flush", 1);
}

static void packet(uint32_t seq, int pid, uint64_t dropped, uint64_t ts, size_t pad)
{
    char *p = calloc(1, pad + 1);

    bytesbuf_pb_varint(&b, PBF_TracePacket_trusted_packet_sequence_id, seq);
    if (pid)
        bytesbuf_pb_varint(&b, PBF_TracePacket_trusted_pid, (uint64_t)pid);
    if (dropped)
        bytesbuf_pb_varint(&b, PBF_TracePacket_previous_packet_dropped, dropped);
    bytesbuf_pb_varint(&b, PBF_TracePacket_timestamp, ts);
    bytesbuf_pb_bytes(&b, PBF_TracePacket_for_testing, p, pad);
    feed();
    free(p);
}

Test(losses, a_bare_mark_on_a_first_packet_is_none)
{
    packet(2, 10, 1, 5, 3);
    cr_expect_eq(losses_count(l), 0);
    packet(2, 10, 1, 6, 3);
    expect("1 holes", 1);
}

Test(losses, overwritten_sequences_are_told_by_the_buffer)
{
    packet(2, 10, 65, 5, 3);
    packet(2, 10, 65, 6, 3);
    expect("2 holes in sequences where a buffer overwrote", 1); /* as long as it has not spoken */
    stat(PBF_TraceStats_flushes_succeeded, 3);
    cr_expect_eq(losses_count(l), 0);
}

/* The echo of a config with one buffer and these data sources. */
static void config(bool discard, bool streams, bool filter, const char *const *names)
{
    size_t conf = bytesbuf_pb_begin(&b, PBF_TracePacket_trace_config), a, c;

    a = bytesbuf_pb_begin(&b, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&b, PBF_TraceConfig_BufferConfig_fill_policy, discard ? 2 : 1);
    bytesbuf_pb_end(&b, a);
    for (; names != NULL && *names != NULL; names++) {
        a = bytesbuf_pb_begin(&b, PBF_TraceConfig_data_sources);
        c = bytesbuf_pb_begin(&b, PBF_TraceConfig_DataSource_config);
        bytesbuf_pb_str(&b, PBF_DataSourceConfig_name, *names);
        bytesbuf_pb_end(&b, c);
        bytesbuf_pb_end(&b, a);
    }
    if (streams)
        bytesbuf_pb_varint(&b, PBF_TraceConfig_write_into_file, 1);
    if (filter) {
        a = bytesbuf_pb_begin(&b, PBF_TraceConfig_trace_filter);
        bytesbuf_pb_end(&b, a);
    }
    bytesbuf_pb_end(&b, conf);
    feed();
}

Test(losses, the_remedy_is_not_what_is_done_already)
{
    config(false, true, false, NULL);
    buffer_stat(PBF_TraceStats_BufferStats_bytes_overwritten, 192 << 10);
    expect("size_kb: 320 would have held all of it, or a smaller file_write_period_ms", 1);
    config(false, false, false, NULL);
    expect("or a smaller file_write_period_ms", 1); /* another config later does not take it back */
}

Test(losses, a_full_buffer_that_refuses)
{
    size_t stats, buf;

    config(true, false, false, NULL);
    stats = bytesbuf_pb_begin(&b, PBF_TracePacket_trace_stats);
    buf = bytesbuf_pb_begin(&b, PBF_TraceStats_buffer_stats);
    bytesbuf_pb_varint(&b, PBF_TraceStats_BufferStats_buffer_size, 64 << 10);
    bytesbuf_pb_varint(&b, PBF_TraceStats_BufferStats_bytes_written, 64 << 10);
    bytesbuf_pb_varint(&b, PBF_TraceStats_BufferStats_chunks_written, 2);
    bytesbuf_pb_varint(&b, PBF_TraceStats_BufferStats_chunks_discarded, 6);
    bytesbuf_pb_varint(&b, PBF_TraceStats_BufferStats_patches_failed, 3);
    bytesbuf_pb_end(&b, buf);
    bytesbuf_pb_end(&b, stats);
    feed();
    expect("refused 6 chunks and 3 patches for them; size_kb: 320 would have held all of it", 1);
}

Test(losses, a_data_source_of_which_nothing_came)
{
    static const char *const both[] = {"linux.ftrace", "linux.system_info", "track_event", NULL};

    config(false, false, false, both);
    cr_expect_eq(losses_count(l), 0, "before the end nothing is missing yet");
    bytesbuf_pb_bytes(&b, PBF_TracePacket_cpu_info, "", 0);
    feed();
    stat(PBF_TraceStats_flushes_succeeded, 3);
    expect("nothing came from linux.ftrace", 1);
    bytesbuf_pb_bytes(&b, PBF_TracePacket_ftrace_stats, "", 0);
    feed();
    cr_expect_eq(losses_count(l), 0);
}

Test(losses, what_was_filtered_or_overwritten_did_come)
{
    static const char *const ftrace[] = {"linux.ftrace", NULL};

    config(false, false, true, ftrace);
    stat(PBF_TraceStats_flushes_succeeded, 3);
    cr_expect_eq(losses_count(l), 0);
    losses_free(l);
    l = losses_new();
    config(false, false, false, ftrace);
    buffer_stat(PBF_TraceStats_BufferStats_chunks_overwritten, 1);
    expect("overwrote 1 chunks", 1);
}

Test(losses, shared_memory_full_names_process_and_size)
{
    size_t tree = bytesbuf_pb_begin(&b, PBF_TracePacket_process_tree);
    size_t process = bytesbuf_pb_begin(&b, PBF_ProcessTree_processes);

    bytesbuf_pb_varint(&b, PBF_ProcessTree_Process_pid, 77);
    bytesbuf_pb_str(&b, PBF_ProcessTree_Process_cmdline, "/bin/app");
    bytesbuf_pb_end(&b, process);
    bytesbuf_pb_end(&b, tree);
    feed();
    for (int i = 0; i < 20; i++) /* 1.2 MB within 100 ms */
        packet(3, 77, i == 5 ? 257 : 0, 1000000000ull + (uint64_t)i * 1000, 60000);
    expect("process 77 (/bin/app) was full 1 times (sequence 3)", 1);
    expect("producer_name: \"/bin/app\" shm_size_kb: 8192", 1);
}

static void service_event(uint32_t field)
{
    size_t event = bytesbuf_pb_begin(&b, PBF_TracePacket_service_event);

    bytesbuf_pb_varint(&b, field, 1);
    bytesbuf_pb_end(&b, event);
    feed();
}

Test(losses, a_trace_that_breaks_off)
{
    service_event(PBF_TracingServiceEvent_tracing_started);
    expect("lost: the end of the trace", 1);
    stat(PBF_TraceStats_flushes_succeeded, 1); /* of a write in between */
    expect("lost: the end of the trace", 1);
    service_event(PBF_TracingServiceEvent_tracing_disabled);
    expect("lost: the end of the trace", 1);
    stat(PBF_TraceStats_flushes_succeeded, 2);
    cr_expect_eq(losses_count(l), 0);
    service_event(PBF_TracingServiceEvent_tracing_started); /* a second trace in the file */
    expect("lost: the end of the trace", 1);
}

Test(losses, a_trace_that_may_break_off)
{
    size_t conf = bytesbuf_pb_begin(&b, PBF_TracePacket_trace_config);

    bytesbuf_pb_varint(&b, PBF_TraceConfig_max_file_size_bytes, 1000);
    bytesbuf_pb_end(&b, conf);
    feed();
    service_event(PBF_TracingServiceEvent_tracing_started);
    cr_expect_eq(losses_count(l), 0);
}

static void cpu_stats(int phase, uint64_t overrun)
{
    size_t stats = bytesbuf_pb_begin(&b, PBF_TracePacket_ftrace_stats), cpu;

    bytesbuf_pb_varint(&b, PBF_FtraceStats_phase, (uint64_t)phase);
    cpu = bytesbuf_pb_begin(&b, PBF_FtraceStats_cpu_stats);
    bytesbuf_pb_varint(&b, PBF_FtraceCpuStats_cpu, 3);
    bytesbuf_pb_varint(&b, PBF_FtraceCpuStats_overrun, overrun);
    bytesbuf_pb_end(&b, cpu);
    bytesbuf_pb_varint(&b, PBF_FtraceStats_cpu_buffer_size_pages, 2048);
    bytesbuf_pb_end(&b, stats);
    feed();
}

Test(losses, kernel_buffer)
{
    cpu_stats(1, 100);
    cpu_stats(2, 100);
    cr_expect_eq(losses_count(l), 0, "the overruns were there before");
    cpu_stats(2, 142);
    expect("buffer of CPU 3 overran and dropped 42 events", 1);
    expect("buffer_size_kb: 16384", 1);
}

Test(losses, kernel_bundles)
{
    size_t bundle = bytesbuf_pb_begin(&b, PBF_TracePacket_ftrace_events);

    bytesbuf_pb_varint(&b, PBF_FtraceEventBundle_lost_events, 1);
    bytesbuf_pb_varint(&b, PBF_FtraceEventBundle_cpu, 5);
    bytesbuf_pb_end(&b, bundle);
    feed();
    expect(
        "the kernel's buffer of CPU 5 overran 1 times; set ftrace_config { buffer_size_kb: 8192 }",
        1);
}

Test(losses, unknown_events)
{
    size_t stats = bytesbuf_pb_begin(&b, PBF_TracePacket_ftrace_stats);

    bytesbuf_pb_str(&b, PBF_FtraceStats_unknown_ftrace_events, "no/such");
    bytesbuf_pb_str(&b, PBF_FtraceStats_failed_ftrace_events, "bad\nname");
    bytesbuf_pb_end(&b, stats);
    feed();
    expect("no/such, bad\\nname", 1);
}

Test(losses, categories_without_events)
{
    size_t stats = bytesbuf_pb_begin(&b, PBF_TracePacket_ftrace_stats);

    bytesbuf_pb_str(&b, PBF_FtraceStats_atrace_errors, "no kernel events belong to: xyz");
    bytesbuf_pb_end(&b, stats);
    feed();
    expect("> not recorded: no kernel events belong to: xyz\n", 1);
}

Test(losses, a_kernel_buffer_that_would_have_held_it)
{
    cpu_stats(1, 0);
    cpu_stats(2, 1 << 20); /* at once: there is no bundle that follows a loss */
    expect("buffer_size_kb: 131072", 1);
}

Test(losses, any_bytes)
{
    uint8_t junk[64];

    srand(1);
    for (int i = 0; i < 20000; i++) {
        for (size_t j = 0; j < sizeof(junk); j++)
            junk[j] = (uint8_t)rand();
        losses_packet(l, bytes_view(junk, (size_t)(i % 64)));
    }
    free(report());
}
