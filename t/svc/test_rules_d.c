/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of service.md that take more than one module to show: the order of the checks, the order of
 * a stop, what can be read when, and what all packets of the service have in common. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "svc/service.h"
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

TestSuite(rules_d, .init = setup, .fini = teardown);

static struct bytesbuf *plain(const char *source)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    if (source)
        cfg_source(&w->cfg, source, 0);
    return &w->cfg;
}

static void num(uint32_t field, uint64_t v)
{
    bytesbuf_pb_varint(&w->cfg, field, v);
}

static void builtin(uint32_t field)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_builtin_data_sources);
    bytesbuf_pb_varint(&w->cfg, field, 1);
    bytesbuf_pb_end(&w->cfg, m);
}

/* ---- the order of the checks (1.3) ---- */

/* In the order of R12; each stands for a config that fails it and all those behind it. */
enum check {
    V1,
    V2,
    V3,
    V4,
    V5,
    V6,
    V7,
    V8,
    V9,
    V10a,
    V10b,
    V10c,
    V11,
    V12,
    V13a,
    V13b,
    V13c,
    V14,
    V16,
    V17,
    V18,
    V19,
    V20,
    V21,
    V22,
    V23,
    V24,
    V25,
    CHECKS
};

static const char *const part_of[CHECKS] = {
    [V1] = "has a tracing session already",
    [V2] = "duration_ms 700000000",
    [V3] = "trigger_timeout_ms above 0",
    [V4] = "trigger_mode 5",
    [V5] = "use_clone_snapshot_if_available",
    [V6] = "exclude each other",
    [V7] = "bugreport_filename",
    [V8] = "write_into_file does not go with",
    [V9] = "two triggers",
    [V10a] = "deferred_start",
    [V10b] = "multiples of 4",
    [V10c] = "KB in total",
    [V11] = "129 buffers",
    [V12] = "Duplicate buffer name",
    [V13a] = "does not match any buffer",
    [V13b] = "don't match",
    [V13c] = "does not exist",
    [V14] = "An exclusive session with priority 7 >= requested priority 0 is already active.",
    [V16] = "a session named \"n\"",
    [V17] = "semaphore",
    [V18] = "a guarded session named \"n\"",
    [V19] = "uid 1 has",
    [V20] = "limit of the service",
    [V21] = "filter",
    [V22] = "priority_boost",
    [V23] = "write_into_file needs",
    [V24] = "/no/such/folder/file",
    [V25] = "Invalid buffer sizes",
};

static void put_triggers(enum check from)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_trigger_config);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_TriggerConfig_trigger_mode,
                       from <= V4   ? 5
                       : from <= V5 ? START
                       : from <= V8 ? STOP
                                    : START);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_TriggerConfig_use_clone_snapshot_if_available,
                       from <= V8);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_TriggerConfig_trigger_timeout_ms,
                       from <= V3 ? 0 : 1000);
    bytesbuf_pb_end(&w->cfg, m);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    cfg_trigger(&w->cfg, from <= V9 ? "t" : "u", NULL, 1, 0, 0);
}

static void put_buffers(enum check from)
{
    for (int i = 0; i < (from <= V11 ? 129 : 2); i++) {
        uint32_t kb = from <= V10b ? 200001 : from <= V10c ? 200000 : from <= V25 && i ? 0 : 4;
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_buffers);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_BufferConfig_size_kb, kb);
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_BufferConfig_name,
                        from <= V12 || i == 0 ? "a" : "b");
        bytesbuf_pb_end(&w->cfg, m);
    }
}

static void put_source(const char *buffer, uint32_t index)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_name, "ds");
    if (buffer)
        bytesbuf_pb_str(&w->cfg, PBF_DataSourceConfig_target_buffer_name, buffer);
    bytesbuf_pb_varint(&w->cfg, PBF_DataSourceConfig_target_buffer, index);
    bytesbuf_pb_end(&w->cfg, k);
    bytesbuf_pb_end(&w->cfg, m);
}

static void put_semaphore(void)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_session_semaphores);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_SessionSemaphore_name, "s");
    bytesbuf_pb_end(&w->cfg, m);
}

/* A config that fails every check from `from` on. */
static void offend(enum check from)
{
    cfg_begin(&w->cfg);
    num(PBF_TraceConfig_duration_ms, from <= V2 ? 700000000 : from <= V6);
    put_triggers(from);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_bugreport_filename, from <= V7 ? "a/b" : "a.b");
    num(PBF_TraceConfig_write_into_file, from <= V8 || (from > V9 && from <= V24));
    if (from == V24)
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_output_path, "/no/such/folder/file");
    num(PBF_TraceConfig_enable_extra_guardrails, from <= V18);
    num(PBF_TraceConfig_deferred_start, from <= V10a);
    put_buffers(from);
    if (from <= V13c)
        put_source(from <= V13a ? "none" : from <= V13b ? "a" : NULL, from <= V13b ? 1 : 2);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_unique_session_name, "n");
    put_semaphore();
    if (from <= V21) {
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_trace_filter);
        bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_TraceFilter_bytecode, "rubbish");
        bytesbuf_pb_end(&w->cfg, m);
    }
    if (from <= V22) {
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_priority_boost);
        bytesbuf_pb_varint(&w->cfg, PBF_PriorityBoostConfig_policy, 9);
        bytesbuf_pb_end(&w->cfg, m);
    }
}

/* Refused, with the text of that check, and in the way of R13. */
static void expect_refusal(struct cons *c, enum check v)
{
    offend(v);
    cr_expect_not(cons_enable(c, &w->cfg));
    cr_expect(c->disabled, "R13: told by disabled=true");
    cr_expect(strstr(c->error, part_of[v]), "check %d: \"%s\" is not \"%s\"", (int)v, c->error,
              part_of[v]);
    if (v > V1)
        cr_expect_eq(cons_read(c), 0, "R13: nothing to read");
}

/* Fifteen sessions of many uids, five of them of uid 1; the first one has the name "n", the second
 * one the semaphore. */
static void crowd(struct cons *c[15])
{
    for (uint32_t i = 0; i < 15; i++) {
        c[i] = cons_new(w, i < 5 ? 1 : i);
        plain(NULL);
        if (i == 0) {
            bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_unique_session_name, "n");
            num(PBF_TraceConfig_enable_extra_guardrails, 1);
        }
        if (i == 1)
            put_semaphore();
        cr_assert(cons_enable(c[i], &w->cfg), "%u: %s", i, c[i]->error);
    }
}

Test(rules_d, R12_R13_R14_the_first_check_that_fails_is_told)
{
    struct cons *busy = cons_new(w, 1), *c = cons_new(w, 1), *others[15];
    cr_assert(cons_enable(busy, plain(NULL)));
    expect_refusal(busy, V1);
    cons_ask(busy, MSG_C_FREE);
    plain(NULL);
    num(PBF_TraceConfig_exclusive_prio, 7);
    cr_assert(cons_enable(busy, &w->cfg));
    for (enum check v = V2; v <= V14; v++)
        expect_refusal(c, v);
    cons_ask(busy, MSG_C_FREE);
    crowd(others);
    expect_refusal(c, V16);
    cons_ask(others[0], MSG_C_FREE);
    cons_enable(others[0], plain(NULL)); /* no longer "n", but as many as before */
    expect_refusal(c, V17);
    cons_ask(others[1], MSG_C_FREE);
    cons_enable(others[1], plain(NULL));
    expect_refusal(c, V18);
    expect_refusal(c, V19);
    cons_ask(others[2], MSG_C_FREE);
    cr_assert(cons_enable(cons_new(w, 99), plain(NULL)));
    expect_refusal(c, V20);
    cons_ask(others[3], MSG_C_FREE);
    for (enum check v = V21; v <= V25; v++)
        expect_refusal(c, v);
    offend(CHECKS);
    cr_expect(cons_enable(c, &w->cfg), "without a fault: %s", c->error);
}

Test(rules_d, R15_what_a_clone_is_not_held_by)
{
    struct cons *others[15], *c = cons_new(w, 1), *k;
    plain(NULL);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_unique_session_name, "n");
    num(PBF_TraceConfig_enable_extra_guardrails, 1);
    put_semaphore();
    num(PBF_TraceConfig_exclusive_prio, 1);
    cr_assert(cons_enable(c, &w->cfg));
    const uint8_t one[] = {0x08, 1};
    for (int i = 0; i < 2; i++) { /* its name, semaphore, cooldown and rank are taken */
        k = cons_new(w, 1);
        bytesbuf_clear(&w->cfg);
        bytesbuf_put(&w->cfg, one, sizeof(one));
        cons_clone(k, &w->cfg, -1);
        cr_expect_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_success, 9), 1);
        cons_bye(k);
    }
    cons_bye(c);
    world_advance_ms(w, 301000);
    crowd(others);
    k = cons_new(w, 1);
    const uint8_t fifth[] = {0x08, 5}; /* of uid 1 */
    bytesbuf_clear(&w->cfg);
    bytesbuf_put(&w->cfg, fifth, sizeof(fifth));
    cons_clone(k, &w->cfg, -1);
    cr_expect_eq(msg_num(k->reply.p, k->reply.n, PBF_CloneSessionResponse_success, 9), 1,
                 "V19, V20: %s", msg_str(k->reply.p, k->reply.n, PBF_CloneSessionResponse_error));
}

/* ---- the order of a stop (1.6) ---- */

static char log_text[256]; /* what the consumer was told, in order */

static void note(const char *what)
{
    strncat(log_text, what, sizeof(log_text) - strlen(log_text) - 1);
}

Test(rules_d, R33_what_completes_a_stop)
{
    static uint8_t bytes[65536];
    const struct prod_opts o = {.name = "p", .uid = 1, .scraping = 1};
    struct prod *p = prod_new_opts(w, &o);
    struct cons *c = cons_new(w, 1);
    int fd = open(world_path(w, "trace"), O_RDWR | O_CREAT, 0600);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    prod_register(p, "mute", DS_NOTIFY_STOP);
    plain("ds");
    cfg_source(&w->cfg, "mute", 0);
    num(PBF_TraceConfig_write_into_file, 1);
    num(PBF_TraceConfig_file_write_period_ms, 600000);
    cons_observe(c, 1);
    cons_enable_fd(c, &w->cfg, dup(fd));
    prod_writer(p, 5, prod_target(p, 0));
    uint8_t payload[64];
    prod_fill(p, 0, 5, 0, 1, 0, payload, frag_packet(payload, "scraped"), 3);
    cons_ask(c, MSG_C_DISABLE);
    prod_stopped(p, prod_instance(p, 0));
    cr_expect_not(c->disabled);
    cr_expect_eq(pread(fd, bytes, sizeof(bytes), 0), 0);
    log_text[0] = '\0';
    world_advance_ms(w, 5000); /* R32 */
    cr_assert(c->disabled);
    cr_expect_str_eq(c->error, "");
    size_t states =
        msg_fields(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes);
    for (size_t i = states - 2; i < states; i++) {
        struct bytes_view e =
            msg_part(c->events.p, c->events.n, PBF_ObservableEvents_instance_state_changes, i);
        note(msg_num(e.p, e.n, PBF_ObservableEvents_DataSourceInstanceStateChange_state, 0) == 1
                 ? "stopped "
                 : "? ");
    }
    cr_expect_str_eq(log_text, "stopped stopped ", "the one that did not ack, too");
    size_t n = (size_t)pread(fd, bytes, sizeof(bytes), 0), all = msg_fields(bytes, n, 1);
    size_t disabled = 0, text = 0;
    for (size_t i = 0; i < all; i++) {
        struct bytes_view k = msg_part(bytes, n, 1, i);
        struct bytes_view e = msg_part(k.p, k.n, PBF_TracePacket_service_event, 0);
        disabled += msg_fields(e.p, e.n, PBF_TracingServiceEvent_tracing_disabled);
        text += msg_fields(k.p, k.n, PBF_TracePacket_for_testing);
    }
    cr_expect_eq(text, 1, "scraped before the last drain");
    cr_expect_eq(disabled, 1);
    struct bytes_view last = msg_part(bytes, n, 1, all - 1);
    cr_expect_eq(msg_fields(last.p, last.n, PBF_TracePacket_trace_stats), 1);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 0, "all was drained");
    close(fd);
}

/* ---- what can be read (7.1) ---- */

Test(rules_d, R102_R106_when_a_session_can_be_read)
{
    static const struct {
        uint32_t mode;
        bool listed, before, after; /* a trigger is listed; readable before and after it comes */
    } rows[] = {{0, false, true, true},      {START, true, false, true},
                {STOP, true, false, true},   {STOP, false, true, true},
                {CLONE, true, false, false}, {CLONE, false, false, false},
                {3, true, false, true},      {0, true, false, true}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct prod *p = prod_new(w, "p", 1);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        plain("ds");
        if (rows[i].mode)
            cfg_trigger_mode(&w->cfg, rows[i].mode, 60000);
        if (rows[i].listed)
            cfg_trigger(&w->cfg, "t", NULL, 1000, 0, 0);
        cr_assert(cons_enable(c, &w->cfg), "%s", c->error);
        for (int again = 0; again < 2; again++) { /* R106: as often as one likes */
            cr_expect_eq(cons_read(c) > 0, rows[i].before, "row %zu before", i);
            cr_expect(c->read_done);
        }
        prod_trigger(p, "t");
        for (int again = 0; again < 2; again++)
            cr_expect_eq(cons_read(c) > 0, rows[i].after, "row %zu after", i);
        cons_bye(c);
        prod_bye(p);
    }
}

/* ---- packets of the service (7.3) ---- */

static bool of_service(const struct pkt *k)
{
    return msg_fields(k->p, k->n, PBF_TracePacket_for_testing) == 0;
}

/* Heads as R112 and R113 want them, with this machine id (0: none). */
static void expect_heads(const struct cons *c, uint64_t machine)
{
    for (size_t i = 0; i < c->npkts; i++) {
        const struct pkt *k = &c->pkts[i];
        bool marker = msg_fields(k->p, k->n, PBF_TracePacket_synchronization_marker) > 0;
        bool sync = msg_fields(k->p, k->n, PBF_TracePacket_remote_clock_sync) > 0;
        bool remote = msg_fields(k->p, k->n, PBF_TracePacket_system_info) > 0 &&
                      pkt_num(k, PBF_TracePacket_machine_id, 0) == 9;
        if (!of_service(k))
            continue;
        cr_expect_eq(pkt_num(k, PBF_TracePacket_trusted_uid, 9999999), geteuid());
        cr_expect_eq(pkt_num(k, PBF_TracePacket_trusted_packet_sequence_id, 0), sync ? 0 : 1);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_timestamp_clock_id, 0),
                     marker || sync || remote ? 0 : 6, "packet %zu", i);
        cr_expect_eq(pkt_num(k, PBF_TracePacket_machine_id, 0),
                     sync || remote ? 9
                     : marker       ? 0
                                    : machine,
                     "packet %zu", i);
        cr_expect_eq(msg_fields(k->p, k->n, PBF_TracePacket_first_packet_on_sequence), 0, "R126");
    }
}

static void one_of_each(struct cons *c, struct prod *p)
{
    static const uint8_t clocks[] = {0x12, 4, 0x08, 6, 0x10, 5};
    service_relay_clock(w->svc, 9, 1, bytes_view(clocks, sizeof(clocks)));
    service_relay_init(w->svc, 9, 1, bytes_view("\x30\x05", 2));
    plain("ds");
    cfg_trigger_mode(&w->cfg, START, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 60000, 0, 0);
    builtin(PBF_TraceConfig_BuiltinDataSource_enable_concurrent_session_events);
    cons_enable(c, &w->cfg);
    prod_trigger(p, "t");
    prod_put(p, 1, "data");
    cons_enable(cons_new(w, 1), plain(NULL));
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_remote_clock_sync), 1);
    cr_expect_eq(cons_count(c, PBF_TracePacket_system_info), 2);
    cr_expect_eq(cons_count(c, PBF_TracePacket_trigger), 1);
    cr_expect_gt(cons_count(c, PBF_TracePacket_concurrent_session_event), 0);
}

Test(rules_d, R112_R113_R126_T34_heads_of_the_service)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    one_of_each(c, p);
    expect_heads(c, 0);
}

Test(rules_d, R113_T33_a_producer_of_another_machine_in_the_process)
{
    const struct prod_opts relayed = {
        .name = "far", .uid = 1, .machine_id = 77, .machine_name = "x"};
    const struct prod_opts inside = {
        .name = "in", .uid = 1, .machine_id = 1234, .machine_name = "y", .in_process = true};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_new_opts(w, &relayed);
    one_of_each(c, p);
    expect_heads(c, 0);
    prod_bye(prod_new_opts(w, &inside));
    cons_enable(d, plain(NULL));
    cons_read(d);
    cr_expect_gt(d->npkts, 5);
    expect_heads(d, 1234);
}

/* ---- clock snapshots (7.6) ---- */

Test(rules_d, R130_Q8_which_snapshots_are_kept)
{
    struct cons *c = cons_new(w, 1);
    cons_enable(c, plain(NULL));
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 2, "initial and first");
    cons_flush_begin(c, 0, 0); /* attempts one */
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 1, "the ring was empty");
    static const struct {
        uint64_t ms;
        size_t kept;
    } rows[] = {{0, 1}, {9, 1}, {10, 2}, {11, 2}};
    for (size_t i = 0; i < 4; i++) {
        cons_flush_begin(c, 0, 0);
        world_advance_ms(w, 3);
        chrono_virtual_set_real(chrono_real_ns() + rows[i].ms * CHRONO_MS);
        cons_flush_begin(c, 0, 0);
        cons_read(c);
        cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), rows[i].kept, "%d ms",
                     (int)rows[i].ms);
    }
    cons_flush_begin(c, 0, 0);
    chrono_virtual_suspend(20 * CHRONO_MS); /* only BOOTTIME and the date go on */
    cons_flush_begin(c, 0, 0);
    cons_read(c);
    cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 2, "backwards is drift, too");
    for (int i = 0; i < 20; i++) {
        chrono_virtual_set_real(chrono_real_ns() + CHRONO_SEC);
        cons_flush_begin(c, 0, 0);
    }
    uint64_t newest = chrono_real_ns();
    cons_read(c);
    cr_assert_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 16);
    const struct pkt *k = cons_pkt(c, PBF_TracePacket_clock_snapshot, 15);
    struct bytes_view s = msg_part(k->p, k->n, PBF_TracePacket_clock_snapshot, 0);
    struct bytes_view real = msg_part(s.p, s.n, PBF_ClockSnapshot_clocks, 3);
    cr_expect_eq(msg_num(real.p, real.n, PBF_ClockSnapshot_Clock_timestamp, 0), newest,
                 "oldest first, and the oldest are dropped");
}

Test(rules_d, R131_no_snapshots_and_no_sync)
{
    struct cons *c = cons_new(w, 1);
    static const uint8_t clocks[] = {0x12, 4, 0x08, 6, 0x10, 5};
    service_relay_clock(w->svc, 9, 1, bytes_view(clocks, sizeof(clocks)));
    plain(NULL);
    builtin(PBF_TraceConfig_BuiltinDataSource_disable_clock_snapshotting);
    cons_enable(c, &w->cfg);
    for (int i = 0; i < 3; i++) {
        chrono_virtual_set_real(chrono_real_ns() + CHRONO_SEC);
        cons_flush_begin(c, 0, 0);
        cons_read(c);
        cr_expect_gt(c->npkts, 0);
        cr_expect_eq(cons_count(c, PBF_TracePacket_clock_snapshot), 0);
        cr_expect_eq(cons_count(c, PBF_TracePacket_remote_clock_sync), 0);
    }
}

/* ---- filter and compression (8, 9) ---- */

Test(rules_d, R136_all_but_the_statistics_is_filtered)
{
    static const uint8_t code[] = {0x0B, 0x01, 0x00, 0x00}; /* packets, and nothing in them */
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_trace_filter);
    size_t k = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_TraceFilter_bytecode);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof(code); i++) {
        bytesbuf_put_varint(&w->cfg, code[i]);
        for (int b = 0; b < 32; b += 8)
            hash = (hash ^ (b ? 0 : code[i])) * 0x100000001b3u;
    }
    bytesbuf_put_varint(&w->cfg, (uint32_t)hash);
    bytesbuf_pb_end(&w->cfg, k);
    bytesbuf_pb_end(&w->cfg, m);
    cr_assert(cons_enable(c, &w->cfg), "%s", c->error);
    prod_put(p, 1, "data");
    cons_read(c);
    cr_assert_gt(c->npkts, 10, "R137: their number is as it was");
    for (size_t i = 0; i + 1 < c->npkts; i++)
        cr_expect_eq(c->pkts[i].n, 0, "packet %zu", i);
    struct pkt *last = &c->pkts[c->npkts - 1];
    cr_expect_eq(msg_fields(last->p, last->n, PBF_TracePacket_trace_stats), 1);
    cr_expect_eq(msg_fields(last->p, last->n, PBF_TracePacket_trusted_uid), 1);
}

Test(rules_d, R153_T78_a_compression_without_a_codec_is_none)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain("ds");
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_compression, "");
    cons_enable(c, &w->cfg);
    prod_put(p, 1, "data");
    cons_read(c);
    cr_expect(cons_has(c, "data"));
    cr_expect_eq(cons_count(c, PBF_TracePacket_compressed_packets), 0);
}

/* ---- statistics (13) ---- */

Test(rules_d, R226_no_histograms)
{
    for (int off = 0; off < 2; off++) {
        struct prod *p = prod_new(w, "p", 1);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        plain("ds");
        if (off)
            builtin(PBF_TraceConfig_BuiltinDataSource_disable_chunk_usage_histograms);
        cons_enable(c, &w->cfg);
        cr_assert(cons_ask(c, MSG_C_STATS));
        struct bytes_view s =
            msg_part(c->reply.p, c->reply.n, PBF_GetTraceStatsResponse_trace_stats, 0);
        cr_expect_eq(msg_fields(s.p, s.n, PBF_TraceStats_chunk_payload_histogram_def), 0,
                     "no writer yet");
        prod_put(p, 1, "data");
        cons_read(c);
        cr_assert(cons_ask(c, MSG_C_STATS));
        s = msg_part(c->reply.p, c->reply.n, PBF_GetTraceStatsResponse_trace_stats, 0);
        cr_expect_eq(msg_fields(s.p, s.n, PBF_TraceStats_writer_stats), !off);
        cr_expect_eq(msg_fields(s.p, s.n, PBF_TraceStats_chunk_payload_histogram_def),
                     off ? 0 : 10);
        cons_bye(c);
        prod_bye(p);
    }
}
