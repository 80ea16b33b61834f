/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of service.md 7 to 11 that no other file names: reading, files and triggers. Those of
 * sections 12 to 14 are in test_rules_c.c, those of the daemon (15) in t/system/daemon.py.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "t/svc/world.h"

enum { START = 1, STOP = 2, CLONE = 4 };

static struct world *w;

static void setup(void)
{
    w = world_new();
}

static void teardown(void)
{
    world_free(w);
}

TestSuite(rules_b, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 256);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

/* Commits one chunk with one packet of these bytes. */
static void put_bytes(struct prod *p, uint16_t writer, const void *packet, size_t n)
{
    uint8_t chunk[4096];
    size_t head = 0;
    for (size_t v = n; v >= 0x80; v >>= 7)
        chunk[head++] = (uint8_t)(v | 0x80);
    chunk[head] = (uint8_t)(n >> 7 * head);
    head++;
    memcpy(chunk + head, packet, n);
    prod_fill(p, 0, writer, p->next_chunk[writer & 7]++, 1, 0, chunk, head + n, 3);
    const uint8_t move[] = {0x0A, 6, 0x08, 0, 0x10, 0, 0x18, (uint8_t)prod_target(p, 0)};
    cr_assert(prod_commit_raw(p, move, sizeof(move)));
}

/* A packet for_testing { payload { str } } of `n` bytes that does not compress. */
static void put_large(struct prod *p, uint16_t writer, size_t n)
{
    uint8_t packet[4000];
    uint32_t noise = 12345 + p->next_chunk[writer & 7];
    cr_assert(n > 1000 && n <= sizeof(packet));
    packet[0] = 0xA2;
    packet[1] = 0x38;
    packet[2] = (uint8_t)((n - 4) | 0x80);
    packet[3] = (uint8_t)((n - 4) >> 7);
    packet[4] = 0x0A;
    packet[5] = (uint8_t)((n - 7) | 0x80);
    packet[6] = (uint8_t)((n - 7) >> 7);
    for (size_t i = 7; i < n; i++) {
        noise = noise * 1664525 + 1013904223;
        packet[i] = (uint8_t)(noise >> 24);
    }
    put_bytes(p, writer, packet, n);
}

/* ---- reading ---- */

Test(rules_b, R108_started_precedes_all_packets_of_producers)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, plain("ds"));
    for (int i = 0; i < 20; i++)
        put_large(p, 1, 4000);
    cons_read(c);
    cr_expect_gt(c->batches, 1);
    size_t started = SIZE_MAX, first = SIZE_MAX;
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view e =
            msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_service_event, 0);
        if (msg_fields(e.p, e.n, PBF_TracingServiceEvent_tracing_started))
            started = i;
        if (first == SIZE_MAX &&
            msg_fields(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_for_testing))
            first = i;
    }
    cr_assert(started != SIZE_MAX && first != SIZE_MAX);
    cr_expect_lt(started, first);
}

/* All packets of this kind carry a timestamp, or none does; there is one at least. */
static void expect_times(const struct cons *c, uint32_t field, bool timed)
{
    const struct pkt *k = cons_pkt(c, field, 0);
    cr_expect_not_null(k, "no packet with field %u", field);
    for (size_t i = 0; (k = cons_pkt(c, field, i)) != NULL; i++)
        cr_expect_eq(msg_fields(k->p, k->n, PBF_TracePacket_timestamp), timed, "field %u", field);
}

Test(rules_b, R114_who_carries_a_timestamp)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *other = cons_new(w, 1), *c = cons_new(w, 1), *k = cons_new(w, 1);
    uint8_t body[] = "\x08\x01\x2A\x01x"; /* session 1 or 2, clone_trigger_name */
    cons_enable(other, plain(NULL));
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_trigger_mode(&w->cfg, STOP, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 10000, 0, 0);
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events,
                       1);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    world_advance_ms(w, 5);
    prod_trigger(p, "t");
    world_advance_ms(w, 5);
    cons_read(c);
    static const uint32_t timed[] = {PBF_TracePacket_trigger, PBF_TracePacket_service_event,
                                     PBF_TracePacket_trace_provenance,
                                     PBF_TracePacket_concurrent_session_event};
    static const uint32_t untimed[] = {
        PBF_TracePacket_clock_snapshot, PBF_TracePacket_trace_config,
        PBF_TracePacket_trace_uuid,     PBF_TracePacket_system_info,
        PBF_TracePacket_trace_stats,    PBF_TracePacket_synchronization_marker};
    for (size_t i = 0; i < sizeof(timed) / sizeof(timed[0]); i++)
        expect_times(c, timed[i], true);
    for (size_t i = 0; i < sizeof(untimed) / sizeof(untimed[0]); i++)
        expect_times(c, untimed[i], false);
    cr_expect_eq(pkt_num(cons_pkt(c, PBF_TracePacket_trigger, 0), PBF_TracePacket_timestamp, 0),
                 1000 * CHRONO_SEC + 5 * CHRONO_MS, "the time of the trigger");
    cr_expect_eq(
        pkt_num(cons_pkt(c, PBF_TracePacket_trace_provenance, 0), PBF_TracePacket_timestamp, 0),
        1000 * CHRONO_SEC + 10 * CHRONO_MS, "the time of the read");
    struct bytesbuf req;
    bytesbuf_init(&req, 64);
    bytesbuf_put(&req, body, sizeof(body) - 1);
    cons_clone(k, &req, -1);
    bytesbuf_fini(&req);
    cons_read(k);
    expect_times(k, PBF_TracePacket_clone_snapshot_trigger, true);
}

Test(rules_b, R124_fields_that_producers_may_write_too)
{
    static const uint32_t shared[] = {PBF_TracePacket_clock_snapshot,
                                      PBF_TracePacket_trace_uuid,
                                      PBF_TracePacket_system_info,
                                      PBF_TracePacket_trigger,
                                      PBF_TracePacket_extension_descriptor,
                                      PBF_TracePacket_remote_clock_sync,
                                      PBF_TracePacket_concurrent_session_event,
                                      PBF_TracePacket_clone_snapshot_trigger,
                                      PBF_TracePacket_chrome_trigger};
    static const uint32_t numbers[] = {PBF_TracePacket_first_packet_on_sequence,
                                       PBF_TracePacket_previous_packet_dropped,
                                       PBF_TracePacket_timestamp_clock_id};
    enum { SHARED = sizeof(shared) / sizeof(shared[0]), NUMBERS = 3 };
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    struct bytesbuf b;
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    bytesbuf_init(&b, 256);
    for (size_t i = 0; i < SHARED + NUMBERS; i++) {
        bytesbuf_clear(&b);
        if (i < SHARED)
            bytesbuf_pb_str(&b, shared[i], "");
        else
            bytesbuf_pb_varint(&b, numbers[i - SHARED], 1);
        bytesbuf_pb_varint(&b, PBF_TracePacket_timestamp, 7000 + i);
        put_bytes(p, 1, b.p, b.n);
    }
    bytesbuf_fini(&b);
    cons_read(c);
    size_t seen = 0;
    for (size_t i = 0; i < c->npkts; i++) {
        uint64_t at = pkt_num(&c->pkts[i], PBF_TracePacket_timestamp, 0);
        if (at < 7000 || at >= 7000 + SHARED + NUMBERS)
            continue;
        at -= 7000;
        cr_expect_eq(
            msg_fields(c->pkts[i].p, c->pkts[i].n, at < SHARED ? shared[at] : numbers[at - SHARED]),
            1);
        seen++;
    }
    cr_expect_eq(seen, SHARED + NUMBERS, "%zu arrived", seen);
    cr_expect_eq(pkt_sub(cons_pkt(c, PBF_TracePacket_trace_stats, 0), PBF_TracePacket_trace_stats,
                         PBF_TraceStats_invalid_packets, 9),
                 0);
    cr_expect_eq(cons_count(c, PBF_TracePacket_chrome_trigger), 1, "never of the service itself");
}

static uint64_t sequence_of(const struct cons *c, const char *text)
{
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view v = msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_for_testing, 0);
        if (v.n && strcmp(msg_str(v.p, v.n, 1), text) == 0)
            return pkt_num(&c->pkts[i], PBF_TracePacket_trusted_packet_sequence_id, 0);
    }
    return 0;
}

Test(rules_b, R127_sequence_ids)
{
    const struct prod_opts remote = {
        .name = "r", .uid = 1, .pid = 5, .machine_id = 77, .machine_name = "vm"};
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    cr_assert_not_null(prod_new_opts(w, &remote));
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    cons_enable(c, plain("ds"));
    prod_put(p, 4, "p4");
    cons_read(c);
    cr_expect_eq(sequence_of(c, "p4"), 2, "the first one used, whatever the writer's number");
    prod_put(p, 1, "p1");
    cons_read(c);
    cr_expect_eq(sequence_of(c, "p1"), 3);
    prod_put(q, 1, "q1");
    prod_put(p, 4, "p4 again");
    cons_read(c);
    cr_expect_eq(sequence_of(c, "q1"), 4, "the same writer id of another producer");
    cr_expect_eq(sequence_of(c, "p4 again"), 2, "stable");
    cons_enable(d, plain("ds"));
    prod_put_to(q, 1, prod_target(q, 1), "q1 in d");
    cons_read(d);
    cr_expect_eq(sequence_of(d, "q1 in d"), 2, "numbers are the session's own");
}

Test(rules_b, R127_a_clone_numbers_anew)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    struct bytesbuf req;
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    cfg_begin(&w->cfg);
    for (uint32_t i = 0; i < 2; i++) {
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, 64);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_clear_before_clone, i == 0);
        bytesbuf_pb_end(&w->cfg, m);
    }
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    uint32_t first = prod_target(p, 0);
    prod_put_to(p, 1, first, "gone");
    prod_put_to(p, 2, first, "gone too");
    cons_read(c);
    prod_put_to(p, 3, first, "cleared");
    bytesbuf_init(&req, 16);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, 1);
    q->mute = true;
    cons_clone(k, &req, -1);
    bytesbuf_fini(&req);
    prod_put_to(q, 3, first, "kept");
    prod_ack_flush(q, UINT64_MAX);
    cons_read(k);
    cr_assert(cons_has(k, "kept") && cons_texts(k) == 1);
    cr_expect_eq(sequence_of(k, "kept"), 2, "got %d", (int)sequence_of(k, "kept"));
    cons_read(c);
    cr_expect_eq(sequence_of(c, "kept"), 4, "got %d", (int)sequence_of(c, "kept"));
}

Test(rules_b, R133_events_of_one_read_are_sorted_by_time)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    struct bytesbuf req;
    prod_register(p, "ds", DS_NOTIFY_START);
    cons_enable(c, plain("ds"));
    for (int i = 0; i < 3; i++) {
        world_advance_ms(w, 5);
        cons_flush_begin(c, 0, 0);
    }
    world_advance_ms(w, 5);
    prod_started(p, prod_instance(p, 0));
    world_advance_ms(w, 5);
    p->mute = true;
    bytesbuf_init(&req, 16);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, 1);
    cons_clone(k, &req, -1); /* clone_started is recorded when its flush is over */
    bytesbuf_fini(&req);
    world_advance_ms(w, 5);
    prod_ack_flush(p, UINT64_MAX);
    world_advance_ms(w, 5);
    p->mute = false;
    cons_ask(c, MSG_C_DISABLE);
    struct cons *all[] = {c, k};
    for (int n = 0; n < 2; n++) {
        uint64_t last = 0;
        cons_read(all[n]);
        cr_expect_geq(cons_count(all[n], PBF_TracePacket_service_event), 9);
        const struct pkt *e;
        for (size_t i = 0; (e = cons_pkt(all[n], PBF_TracePacket_service_event, i)) != NULL; i++) {
            uint64_t at = pkt_num(e, PBF_TracePacket_timestamp, 0);
            cr_expect_geq(at, last, "event %zu of consumer %d", i, n);
            last = at;
        }
    }
}

Test(rules_b, R134_no_service_events)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_START);
    plain("ds");
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BuiltinDataSource_disable_service_events, 1);
    bytesbuf_pb_end(&w->cfg, m);
    cons_enable(c, &w->cfg);
    cons_flush_begin(c, 0, 0);
    world_advance_ms(w, 20001); /* a slow start, too */
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_service_event), 0);
    prod_started(p, prod_instance(p, 0));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect_gt(cons_read(c), 0, "the rest is there");
    cr_expect_eq(cons_count(c, PBF_TracePacket_service_event), 0);
}

Test(rules_b, R158_one_compressed_packet_per_batch_whatever_its_size)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    cfg_quiet(&w->cfg);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_compression_type, 1);
    cons_enable(c, &w->cfg);
    for (int i = 0; i < 30; i++)
        put_large(p, 1, 4000);
    cons_read(c);
    cr_expect_eq(c->batches, 4);
    cr_expect_eq(c->npkts, 4, "%zu packets", c->npkts);
    cr_expect_eq(cons_count(c, PBF_TracePacket_compressed_packets), 4);
    cr_expect_gt(c->pkts[0].n, 30000, "all of a batch of noise in one");
}

/* ---- files ---- */

static unsigned *syncs; /* calls of fdatasync in this program and the processes it forks */

int fdatasync(int fd)
{
    if (syncs)
        __atomic_add_fetch(syncs, 1, __ATOMIC_SEQ_CST);
    return (int)syscall(SYS_fdatasync, fd);
}

static struct bytesbuf *into_file(uint32_t period_ms)
{
    plain("ds");
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_file_write_period_ms, period_ms);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_flush_mode, 2);
    return &w->cfg;
}

/* How many packets of a file have a field, and a field in it. */
static size_t in_file(int fd, uint32_t field, uint32_t sub)
{
    static uint8_t buf[1 << 20];
    ssize_t n = pread(fd, buf, sizeof(buf), 0);
    struct bytes_cur cur = bytes_cur(bytes_view(buf, n > 0 ? (size_t)n : 0));
    struct bytes_field f;
    size_t count = 0;
    while (bytes_next(&cur, &f)) {
        struct bytes_view v = msg_part(f.data.p, f.data.n, field, 0);
        count += msg_fields(v.p, v.n, sub) > 0;
    }
    cr_expect(bytes_done(&cur), "the file is not a trace");
    return count;
}

static size_t texts_in(int fd)
{
    return in_file(fd, PBF_TracePacket_for_testing, 1);
}

static int trace_file(void)
{
    int fd = open(world_path(w, "trace"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert_geq(fd, 0);
    return fd;
}

Test(rules_b, R165_a_drain_takes_all_and_says_so)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    int fd = trace_file();
    prod_register(p, "ds", 0);
    cr_assert(cons_enable_fd(c, into_file(1000), dup(fd)));
    for (unsigned drain = 1; drain <= 3; drain++) {
        for (int i = 0; i < 30; i++)
            put_large(p, 1, 4000);
        world_advance_ms(w, 1000);
        cr_expect_eq(texts_in(fd), 30 * drain, "more than a batch of 32 KB in one drain");
        cr_expect_eq(in_file(fd, PBF_TracePacket_service_event,
                             PBF_TracingServiceEvent_read_tracing_buffers_completed),
                     drain);
    }
    cr_expect_eq(in_file(fd, PBF_TracePacket_trace_stats, PBF_TraceStats_buffer_stats), 1,
                 "statistics are due by the snapshot timer, not by each drain");
    close(fd);
}

Test(rules_b, R167_sync_after_each_drain_or_at_the_end)
{
    struct prod *p = prod_new(w, "p", 1);
    prod_register(p, "ds", 0);
    syncs = mmap(NULL, sizeof(*syncs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(syncs, MAP_FAILED);
    for (unsigned mode = 0; mode <= 2; mode++) {
        struct cons *c = cons_new(w, 1);
        int fd = trace_file();
        *syncs = 0;
        into_file(1000);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_fflush_post_write, mode);
        cr_assert(cons_enable_fd(c, &w->cfg, dup(fd)));
        for (unsigned drain = 1; drain <= 3; drain++) {
            world_advance_ms(w, 1000);
            for (int i = 0; mode == 2 && *(volatile unsigned *)syncs < drain && i < 1000; i++)
                reactor_tick(w->reactor, 10 * CHRONO_MS); /* another process does it */
            cr_expect_eq(*syncs, mode == 2 ? drain : 0, "mode %u drain %u: %u", mode, drain,
                         *syncs);
        }
        unsigned before = *syncs;
        cons_ask(c, MSG_C_DISABLE);
        cr_expect(c->disabled);
        cr_expect_gt(*syncs, before, "the last drain always syncs, mode %u", mode);
        cons_bye(c);
        close(fd);
    }
}

Test(rules_b, R171_what_is_left_is_scraped_into_the_file)
{
    enum { DISABLED, FREED, GONE, TIMED_OUT, WAYS };
    for (int way = 0; way < WAYS; way++) {
        const struct prod_opts o = {.name = "p", .uid = 1, .pid = 5, .scraping = 1};
        struct prod *p = prod_new_opts(w, &o), *q = prod_new(w, "q", 1);
        struct cons *c = cons_new(w, 1);
        int fd = trace_file();
        uint8_t payload[128];
        prod_register(p, "ds", 0);
        prod_register(q, "ds", 0);
        into_file(3600000);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_duration_ms, way == TIMED_OUT ? 1000 : 0);
        cr_assert(cons_enable_fd(c, &w->cfg, dup(fd)));
        prod_put(p, 1, "committed");
        prod_writer(p, 5, prod_target(p, 0));
        prod_writer(q, 5, prod_target(q, 0));
        size_t n = frag_packet(payload, "open");
        n += frag_packet(payload + n, "unfinished");
        prod_fill(p, 1, 5, 0, 2, 0, payload, n, 1);
        prod_fill(q, 1, 5, 0, 2, 0, payload, n, 1);
        cr_expect_eq(texts_in(fd), 0);
        if (way == DISABLED)
            cons_ask(c, MSG_C_DISABLE);
        else if (way == FREED)
            cons_ask(c, MSG_C_FREE);
        else if (way == GONE)
            cons_bye(c);
        else
            world_advance_ms(w, 1000);
        world_settle(w);
        cr_expect_eq(texts_in(fd), 2, "way %d: one committed, one scraped, none of q: %zu", way,
                     texts_in(fd));
        cr_expect_eq(prod_count(q, MSG_PP_FLUSH), way == TIMED_OUT, "way %d: who asks q", way);
        if (way != GONE)
            cons_bye(c);
        prod_bye(p);
        prod_bye(q);
        close(fd);
    }
}

/* ---- triggers ---- */

static struct bytesbuf *triggers(uint32_t mode, uint32_t timeout_ms)
{
    plain("ds");
    cfg_trigger_mode(&w->cfg, mode, timeout_ms);
    return &w->cfg;
}

static struct bytesbuf *one(uint32_t mode, const char *name, uint32_t delay_ms, uint32_t limit)
{
    triggers(mode, 600000);
    cfg_trigger(&w->cfg, name, NULL, delay_ms, limit, 0);
    return &w->cfg;
}

/* The names of the triggers that were read, each followed by a blank. */
static const char *names(const struct cons *c)
{
    static char out[1024];
    const struct pkt *k;
    out[0] = '\0';
    for (size_t i = 0; (k = cons_pkt(c, PBF_TracePacket_trigger, i)) != NULL; i++) {
        struct bytes_view t = msg_part(k->p, k->n, PBF_TracePacket_trigger, 0);
        strcat(out, msg_str(t.p, t.n, PBF_Trigger_trigger_name));
        strcat(out, " ");
    }
    return out;
}

Test(rules_b, R173_R182_any_producer_and_in_order)
{
    struct prod *p = prod_new(w, "no data source", 9);
    struct cons *c = cons_new(w, 1);
    triggers(STOP, 60000);
    cfg_trigger(&w->cfg, "a", NULL, 50000, 0, 0);
    cfg_trigger(&w->cfg, "b", NULL, 50000, 0, 0);
    cfg_trigger(&w->cfg, "c", NULL, 50000, 0, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "c,a,unknown,b,a");
    cons_read(c);
    cr_expect_str_eq(names(c), "c a b a ", "%s", names(c));
    cons_read(c);
    cr_expect_str_eq(names(c), "", "each once");
    prod_trigger(p, "b");
    cons_read(c);
    cr_expect_str_eq(names(c), "b ", "new ones in later reads");
}

Test(rules_b, R174_the_sender_must_match_as_a_whole)
{
    struct prod *p = prod_new(w, "prod", 9), *q = prod_new(w, "first", 9);
    struct cons *c = cons_new(w, 1);
    triggers(STOP, 60000);
    cfg_trigger(&w->cfg, "t", "firs.", 50000, 0, 0);
    cfg_trigger(&w->cfg, "u", "pro", 50000, 0, 0);
    cfg_trigger(&w->cfg, "w", "", 50000, 0, 0);
    cfg_trigger(&w->cfg, "v", "pro.*", 50000, 0, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "t,u");
    cr_expect_eq(cons_read(c), 0, "%s", names(c));
    prod_trigger(q, "t");
    prod_trigger(p, "v,w");
    cons_read(c);
    cr_expect_str_eq(names(c), "t v w ", "%s", names(c));
}

Test(rules_b, R174_Q4_any_state_but_no_clones)
{
    struct prod *p = prod_new(w, "p", 9);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    struct bytesbuf req;
    cons_enable(c, one(STOP, "t", 50000, 0));
    cons_ask(c, MSG_C_DISABLE);
    cr_expect(c->disabled);
    bytesbuf_init(&req, 16);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, 1);
    cons_clone(k, &req, -1);
    bytesbuf_fini(&req);
    prod_trigger(p, "t");
    cons_read(c);
    cr_expect_str_eq(names(c), "t ", "Q4: a stopped session, which becomes readable by it");
    cr_expect_gt(cons_read(k), 0);
    cr_expect_str_eq(names(k), "", "not the clone");
}

Test(rules_b, R175_each_session_draws_for_itself)
{
    struct prod *p = prod_new(w, "p", 9);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    unsigned both = 0, either = 0;
    chrono_random_seed(7);
    triggers(CLONE, 600000);
    cfg_trigger(&w->cfg, "half", NULL, 1, 0, 0.5);
    cons_enable(c, &w->cfg);
    cons_enable(d, &w->cfg);
    cons_observe(c, 4);
    cons_observe(d, 4);
    for (int i = 0; i < 100; i++) {
        unsigned c0 = c->nevents, d0 = d->nevents;
        prod_trigger(p, "half");
        world_advance_ms(w, 2);
        both += c->nevents > c0 && d->nevents > d0;
        either += (c->nevents > c0) != (d->nevents > d0);
    }
    cr_expect(both > 5 && either > 20, "both %u, one of them %u", both, either);
    chrono_random_seed(0);
}

Test(rules_b, R176_what_counts_for_the_limit)
{
    struct prod *p = prod_new(w, "p", 9), *q = prod_new(w, "q", 9);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    triggers(CLONE, 600000000);
    cfg_trigger(&w->cfg, "t", NULL, 1, 2, 0);
    cfg_trigger(&w->cfg, "free", NULL, 1, 0, 0);
    cons_enable(c, &w->cfg);
    cons_enable(d, &w->cfg);
    cons_observe(c, 4);
    cons_observe(d, 4);
    static const struct {
        bool other;
        const char *names;
        unsigned hits; /* of each session, together */
    } steps[] = {{false, "unlisted", 0}, {false, "t", 1},  {true, "free", 2}, {true, "t", 3},
                 {false, "t", 3},        {true, "t,t", 3}, {false, "free", 4}};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        prod_trigger(steps[i].other ? q : p, steps[i].names);
        world_advance_ms(w, 10);
        cr_expect_eq(c->nevents, steps[i].hits, "step %zu: %u", i, c->nevents);
        cr_expect_eq(d->nevents, steps[i].hits, "step %zu: %u", i, d->nevents);
    }
    /* The first t was 10 ms in, the second 30; 70 ms have passed. */
    uint64_t day = 86400000;
    world_advance_ms(w, day - 60);
    prod_trigger(p, "t");
    world_advance_ms(w, 2);
    cr_expect_eq(c->nevents, 4, "24 hours later it counts still");
    world_advance_ms(w, 18);
    prod_trigger(p, "t");
    world_advance_ms(w, 2);
    cr_expect_eq(c->nevents, 5, "and then no more: %u", c->nevents);
    prod_trigger(p, "t");
    world_advance_ms(w, 30);
    cr_expect_eq(c->nevents, 6, "the second one went, too");
}

Test(rules_b, R177_received_even_if_nothing_comes_of_it)
{
    struct prod *p = prod_new(w, "sender", 4242);
    struct cons *c = cons_new(w, 1);
    cons_enable(c, one(START, "t", 123456, 0));
    prod_trigger(p, "t");
    cons_read(c);
    world_advance_ms(w, 50);
    prod_trigger(p, "t"); /* it runs already */
    cons_read(c);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_trigger, 0);
    cr_assert_not_null(k);
    struct bytes_view t = msg_part(k->p, k->n, PBF_TracePacket_trigger, 0);
    cr_expect_eq(pkt_num(k, PBF_TracePacket_timestamp, 0), 1000 * CHRONO_SEC + 50 * CHRONO_MS);
    cr_expect_str_eq(msg_str(t.p, t.n, PBF_Trigger_producer_name), "sender");
    cr_expect_eq(msg_num(t.p, t.n, PBF_Trigger_trusted_producer_uid, 0), 4242);
    cr_expect_eq(msg_num(t.p, t.n, PBF_Trigger_stop_delay_ms, 0), 123456);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 1, "a snapshot goes with it");
}

Test(rules_b, R178_Q5_start_without_a_delay_has_no_end)
{
    struct prod *p = prod_new(w, "p", 9);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(START, "t", 0, 0));
    prod_trigger(p, "t");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    world_advance_ms(w, 3600000);
    cr_expect_not(c->disabled, "Q5: nor does the timeout end it");
    prod_trigger(p, "t");
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    cons_ask(c, MSG_C_DISABLE);
    cons_read(c);
    cr_expect_eq(pkt_sub(cons_pkt(c, PBF_TracePacket_trace_config, 0), PBF_TracePacket_trace_config,
                         PBF_TraceConfig_duration_ms, 9),
                 0);
}

Test(rules_b, R179_the_first_trigger_decides_when_it_stops)
{
    struct prod *p = prod_new(w, "p", 9);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, one(STOP, "t", 1000, 0));
    cr_expect_eq(prod_count(p, MSG_PP_START), 1);
    world_advance_ms(w, 100);
    prod_trigger(p, "t");
    world_advance_ms(w, 900);
    prod_trigger(p, "t");
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 0);
    world_advance_ms(w, 101);
    cr_expect(c->disabled, "1000 ms after the first one");
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 1, "with a flush");
    cons_read(c);
    cr_expect_str_eq(names(c), "t t ", "the other is recorded only");
    cr_expect_eq(pkt_sub(cons_pkt(c, PBF_TracePacket_trace_config, 0), PBF_TracePacket_trace_config,
                         PBF_TraceConfig_duration_ms, 9),
                 600000, "the timeout is its duration");
}

Test(rules_b, R182_a_clone_takes_the_triggers)
{
    struct prod *p = prod_new(w, "p", 9);
    struct cons *c = cons_new(w, 1), *k = cons_new(w, 1);
    struct bytesbuf req;
    triggers(STOP, 60000);
    cfg_trigger(&w->cfg, "a", NULL, 50000, 0, 0);
    cfg_trigger(&w->cfg, "b", NULL, 50000, 0, 0);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "b,a");
    bytesbuf_init(&req, 16);
    bytesbuf_pb_varint(&req, PBF_CloneSessionRequest_session_id, 1);
    cons_clone(k, &req, -1);
    bytesbuf_fini(&req);
    prod_trigger(p, "b");
    cons_read(k);
    cr_expect_str_eq(names(k), "b a ", "%s", names(k));
    cons_read(c);
    cr_expect_str_eq(names(c), "b ", "only what came after the clone: %s", names(c));
}

Test(rules_b, R255_a_producer_that_leaves_is_no_trigger)
{
    struct prod *p = prod_new(w, "perfetto.traced_probes", 9);
    struct cons *c = cons_new(w, 1);
    cons_enable(c, one(STOP, "perfetto.traced_probes.disconnect", 1000, 0));
    prod_bye(p);
    world_advance_ms(w, 5000);
    cr_expect_not(c->disabled);
    cr_expect_eq(cons_read(c), 0);
}
