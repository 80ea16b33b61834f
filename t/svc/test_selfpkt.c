/* SPDX-License-Identifier: Apache-2.0 */
/* svc/selfpkt: the service's own packets, service.md R112 to R135 and section 13. Each packet is
 * compared with a list of its fields, in order, in a small notation: "8=5" is a number, "69{...}" a
 * message, "33:abc" bytes. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "svc/selfpkt.h"
#include "svc/tbuf.h"

static struct bytesbuf out;
static char shown[65536];

static void setup(void)
{
    bytesbuf_init(&out, 1 << 20);
}

static void teardown(void)
{
    bytesbuf_fini(&out);
}

TestSuite(selfpkt, .init = setup, .fini = teardown);

/* Prints the fields of msg by the pattern of what is expected: where the pattern opens a brace the
 * field is shown as a message, where it has a colon as text. */
static const char *show(struct bytes_view msg, const char *pattern)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    char *at = shown + strlen(shown);
    while (bytes_next(&cur, &f)) {
        const char *kind = pattern + strcspn(pattern, "={:}");
        at += sprintf(at, "%u", f.id);
        if (f.type == BYTES_LEN && *kind == '{') {
            strcpy(at, "{");
            pattern = show(f.data, kind + 1);
            at = shown + strlen(shown);
            at += sprintf(at, "} ");
            pattern += *pattern == '}';
            pattern += *pattern == ' ';
            continue;
        }
        if (f.type == BYTES_LEN)
            at += sprintf(at, ":%.*s ", (int)f.data.n, (const char *)f.data.p);
        else
            at += sprintf(at, "=%llu ", (unsigned long long)f.num);
        /* A text may hold blanks: it is passed by its length. */
        if (f.type == BYTES_LEN && strlen(kind) > f.data.n)
            pattern = kind + 1 + f.data.n;
        else
            pattern += strcspn(pattern, " }");
        pattern += *pattern == ' ';
    }
    if (!bytes_done(&cur))
        strcpy(at, "MALFORMED ");
    else if (at > shown && at[-1] == ' ')
        at[-1] = '\0';
    return pattern + strcspn(pattern, "}");
}

/* UID in the pattern stands for the effective uid. */
static void expect(const char *pattern)
{
    char want[65536], *uid;
    snprintf(want, sizeof(want), "%s", pattern);
    while ((uid = strstr(want, "UID")) != NULL) {
        char rest[65536];
        strcpy(rest, uid + 3);
        sprintf(uid, "%u%s", (unsigned)geteuid(), rest);
    }
    cr_expect_not(out.failed);
    shown[0] = '\0';
    show(bytesbuf_view(&out), want);
    cr_expect_str_eq(shown, want);
    bytesbuf_clear(&out);
}

Test(selfpkt, R132_boolean_events)
{
    static const struct {
        enum selfpkt_event event;
        unsigned field;
    } events[] = {
        {SELFPKT_ALL_DATA_SOURCES_STARTED, 1}, {SELFPKT_TRACING_STARTED, 2},
        {SELFPKT_ALL_DATA_SOURCES_FLUSHED, 3}, {SELFPKT_READ_COMPLETED, 4},
        {SELFPKT_TRACING_DISABLED, 5},         {SELFPKT_FLUSH_STARTED, 9},
        {SELFPKT_CLONE_STARTED, 10},
    };
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        char want[100];
        sprintf(want, "8=77 3=UID 10=1 58=6 69{%u=1}", events[i].field);
        selfpkt_event(&out, 77, events[i].event, 0);
        expect(want);
    }
    selfpkt_event(&out, 77, SELFPKT_BUFFER_CLONED, 3);
    expect("8=77 3=UID 10=1 58=6 69{11=3}");
    selfpkt_event(&out, 77, SELFPKT_BUFFER_CLONED, 0);
    expect("8=77 3=UID 10=1 58=6 69{11=0}");
}

Test(selfpkt, R23_R96_slow_events)
{
    const struct selfpkt_slow slow[] = {{bytes_str("p1"), bytes_str("ds1")},
                                        {bytes_str("p2"), bytes_str("ds2")}};
    selfpkt_slow_event(&out, 5, SELFPKT_SLOW_STARTING, slow, 2);
    expect("8=5 3=UID 10=1 58=6 69{7{1{1:p1 2:ds1} 1{1:p2 2:ds2}}}");
    selfpkt_slow_event(&out, 5, SELFPKT_LAST_FLUSH_SLOW, slow, 1);
    expect("8=5 3=UID 10=1 58=6 69{8{1{1:p1 2:ds1}}}");
}

Test(selfpkt, R128_R129_clock_snapshot)
{
    struct clocksnap snap = {3, {{6, 1000}, {2, 2000}, {9, 0}}};
    selfpkt_clock_snapshot(&out, &snap, 0);
    expect("3=UID 10=1 58=6 6{1{1=6 2=1000} 1{1=2 2=2000} 1{1=9 2=0} 2=6}");
    selfpkt_clock_snapshot(&out, &snap, 3);
    expect("3=UID 10=1 58=6 6{1{1=6 2=1000} 1{1=2 2=2000} 1{1=9 2=0} 2=3}");
}

Test(selfpkt, R115_marker_ends_the_packet)
{
    static const uint8_t tail[] = {0xA2, 0x02, 0x10, 0x82, 0x47, 0x7A, 0x76, 0xB2, 0x8D, 0x42,
                                   0xBA, 0x81, 0xDC, 0x33, 0x32, 0x6D, 0x57, 0xA0, 0x79};
    selfpkt_set_machine(7); /* R113: not on the marker */
    selfpkt_sync_marker(&out);
    selfpkt_set_machine(0);
    cr_assert_gt(out.n, sizeof(tail));
    cr_expect_arr_eq(out.p + out.n - sizeof(tail), tail, sizeof(tail));
    out.n -= sizeof(tail);
    expect("3=UID 10=1");
}

Test(selfpkt, R116_R117_config_and_uuid)
{
    selfpkt_trace_config(&out, bytes_str("\x18\x05"));
    expect("3=UID 10=1 58=6 33{3=5}");
    selfpkt_trace_uuid(&out, 0x8000000000000001u, 2);
    expect("3=UID 10=1 58=6 89{1=9223372036854775809 2=2}");
}

Test(selfpkt, R121_triggers)
{
    struct selfpkt_trigger t = {9, bytes_str("name"), bytes_str("prod"), 1000, 50, false};
    selfpkt_trigger(&out, &t);
    expect("8=9 3=UID 10=1 58=6 46{1:name 2:prod 3=1000 4=50}");
    t.from_clone = true;
    selfpkt_trigger(&out, &t);
    expect("8=9 3=UID 10=1 58=6 113{1:name 2:prod 3=1000 4=50}");
}

Test(selfpkt, R120_T74_extension_descriptors)
{
    selfpkt_extension_descriptor(&out, bytes_str("blob"), true, "file.gz");
    expect("3=UID 10=1 58=6 72{2:blob 3:file.gz}");
    selfpkt_extension_descriptor(&out, bytes_str("blob"), false, NULL);
    expect("3=UID 10=1 58=6 72{1:blob}");
}

Test(selfpkt, R118_system_info)
{
    struct utsname un;
    struct sysinfo si;
    char want[4096];
    setenv("TZ", "XYZ-05:30", 1);
    tzset();
    uname(&un);
    sysinfo(&si);
    selfpkt_system_info(&out, "Perfetto v1");
    sprintf(want,
            "3=UID 10=1 58=6 45{4:Perfetto v1 7=330 1{1:%s 2:%s 3:%s 4:%s} 6=%ld 16=%llu 8=%ld}",
            un.sysname, un.version, un.release, un.machine, sysconf(_SC_PAGESIZE),
            (unsigned long long)si.totalram * si.mem_unit, sysconf(_SC_NPROCESSORS_CONF));
    expect(want);
}

Test(selfpkt, R122_R232_remote_machines)
{
    selfpkt_remote_system_info(&out, bytes_str("\x22\x01v"), 5);
    expect("3=UID 10=1 98=5 45{4:v}");
    static const uint8_t request[] = {0x08, 1,    0x12, 4,    0x08, 6,    0x10,
                                      100,  0x12, 4,    0x08, 3,    0x10, 101};
    struct selfpkt_sync syncs[2] = {{bytes_view(request, sizeof(request)), {1, {{6, 200}}}},
                                    {bytes_view(NULL, 0), {1, {{6, 300}}}}};
    selfpkt_remote_clock_sync(&out, 5, syncs, 2);
    expect("98=5 3=UID 107{1{2{1{1=6 2=100} 1{1=3 2=101}} 3{1{1=6 2=200}}} 1{2{} 3{1{1=6 "
           "2=300}}}}");
}

Test(selfpkt, R119_provenance)
{
    struct selfpkt_provenance p;
    selfpkt_provenance_begin(&p, &out, 11);
    selfpkt_provenance_buffer(&p);
    selfpkt_provenance_sequence(&p, 2, 1);
    selfpkt_provenance_sequence(&p, 3, 1);
    selfpkt_provenance_buffer(&p);
    selfpkt_provenance_buffer(&p);
    selfpkt_provenance_sequence(&p, 4, 2);
    selfpkt_provenance_end(&p);
    expect("8=11 3=UID 10=1 58=6 124{2{1{1=2 2=1} 1{1=3 2=1}} 2{} 2{1{1=4 2=2}}}");
    selfpkt_provenance_begin(&p, &out, 11);
    selfpkt_provenance_end(&p);
    expect("8=11 3=UID 10=1 58=6 124{}");
}

Test(selfpkt, R135_concurrent_sessions)
{
    struct selfpkt_concurrent e = {3, 2, "name", 8, 1000, 4};
    selfpkt_concurrent_session(&out, &e);
    expect("8=3 3=UID 10=1 58=6 134{1=2 2:name 3=8 4=1000 5=4}");
    e.session_name = "";
    selfpkt_concurrent_session(&out, &e);
    expect("8=3 3=UID 10=1 58=6 134{1=2 3=8 4=1000 5=4}");
}

Test(selfpkt, R113_T33_T34_machine_id_of_the_service)
{
    selfpkt_set_machine(9);
    selfpkt_trace_uuid(&out, 1, 2);
    selfpkt_set_machine(0);
    expect("3=UID 10=1 58=6 98=9 89{1=1 2=2}");
}

/* ---- statistics ---- */

static uint32_t sequence_of(void *arg, uint32_t machine_id, uint16_t producer, uint16_t writer)
{
    (void)arg;
    return machine_id * 10000 + producer * 100u + writer;
}

static struct tbuf *buffer_with_writers(unsigned writers)
{
    struct tbuf *b;
    cr_assert_eq(tbuf_new(1 << 20, TBUF_RING, 0, &b), 0);
    for (unsigned i = 1; i <= writers; i++) {
        struct tbuf_chunk_in in = {.producer_id = 1,
                                   .writer_id = (uint16_t)i,
                                   .num_fragments = 1,
                                   .complete = true,
                                   .payload = "\x02\x40\x01",
                                   .payload_size = 3,
                                   .client = {1000, 5, 0, 0}};
        cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_STORED);
    }
    return b;
}

Test(selfpkt, R225_all_scalars_are_there)
{
    struct selfpkt_stats s = {.max_size = 100000, .histograms = true};
    selfpkt_stats_message(&out, &s);
    expect("2=0 3=0 4=0 5=0 6=0 7=0 8=0 9=0 10=0 12=0 13=0 14=0 15=0");
    s.producers_connected = 1;
    s.data_sources_registered = 2;
    s.tracing_sessions = 3;
    s.total_buffers = 4;
    s.data_sources_seen = 6;
    s.chunks_discarded = 7;
    s.patches_discarded = 8;
    s.invalid_packets = 9;
    s.flushes_requested = 10;
    s.flushes_succeeded = 11;
    s.flushes_failed = 12;
    s.final_flush_outcome = 2;
    s.producers_seen = 21;
    size_t packet = selfpkt_trace_stats(&out);
    selfpkt_stats_message(&out, &s);
    bytesbuf_pb_end(&out, packet);
    expect("3=UID 10=1 58=6 35{2=1 3=21 4=2 5=6 6=3 7=4 8=7 9=8 10=9 12=10 13=11 14=12 15=2}");
}

Test(selfpkt, R138_filter_stats)
{
    uint64_t discarded[2] = {7, 8};
    struct filter_stats f = {1, 2, 3, 4, 5, discarded, 2};
    struct selfpkt_stats s = {.max_size = 100000, .filter = &f};
    selfpkt_stats_message(&out, &s);
    expect("2=0 3=0 4=0 5=0 6=0 7=0 8=0 9=0 10=0 11{1=1 2=2 3=3 4=4 5=5 20=7 20=8} 12=0 13=0 "
           "14=0 15=0");
}

Test(selfpkt, section_13_buffers_and_writers)
{
    struct tbuf *b[2] = {buffer_with_writers(0), buffer_with_writers(1)};
    struct selfpkt_stats s = {.max_size = 100000,
                              .buffers = (const struct tbuf *const *)b,
                              .nbuffers = 2,
                              .histograms = true,
                              .sequence_id = sequence_of};
    selfpkt_stats_message(&out, &s);
    struct bytesbuf steps; /* a writer at a time: the same */
    struct selfpkt_writers w;
    unsigned calls = 1;
    bytesbuf_init(&steps, 1u << 20);
    selfpkt_stats_begin(&w, &steps, &s);
    while (selfpkt_stats_some(&w, &steps, &s, 1))
        calls++;
    selfpkt_stats_end(&w, &steps);
    cr_expect_gt(calls, 2);
    cr_assert_eq(steps.n, out.n);
    cr_expect_arr_eq(steps.p, out.p, out.n);
    bytesbuf_fini(&steps);
    struct bytes_cur cur = bytes_cur(bytesbuf_view(&out));
    struct bytes_field f, writer = {0}, size;
    unsigned buffers = 0, bounds = 0, writers = 0;
    while (bytes_next(&cur, &f)) {
        buffers += f.id == 1;
        bounds += f.id == 17;
        writers += f.id == 18;
        if (f.id == 18)
            writer = f;
        if (f.id == 1)
            cr_expect(bytes_find(f.data, 12, BYTES_VARINT, &size) && size.num == 1 << 20);
    }
    cr_expect(bytes_done(&cur));
    cr_expect_eq(buffers, 2);
    cr_expect_eq(bounds, 10);
    cr_assert_eq(writers, 1);
    cr_expect(bytes_find(writer.data, 1, BYTES_VARINT, &f) && f.num == 101);
    cr_expect(bytes_find(writer.data, 4, BYTES_VARINT, &f) && f.num == 1);
    cr_expect(bytes_find(writer.data, 2, BYTES_LEN, &f) && f.data.n == 11 && f.data.p[0] == 1);
    cr_expect(bytes_find(writer.data, 3, BYTES_LEN, &f) && f.data.n == 11 && f.data.p[0] == 3);
    tbuf_free(b[0]);
    tbuf_free(b[1]);
}

static unsigned count_writers(const struct selfpkt_stats *s)
{
    bytesbuf_clear(&out);
    selfpkt_stats_message(&out, s);
    cr_expect_leq(out.n, s->max_size);
    struct bytes_cur cur = bytes_cur(bytesbuf_view(&out));
    struct bytes_field f;
    unsigned writers = 0, bounds = 0;
    while (bytes_next(&cur, &f)) {
        writers += f.id == 18;
        bounds += f.id == 17;
    }
    cr_expect(bytes_done(&cur), "cut between two entries");
    cr_expect_eq(bounds, writers > 0 ? 10 : 0, "bounds come with the first writer only");
    return writers;
}

Test(selfpkt, Q14_writers_stop_at_the_frame_limit)
{
    struct tbuf *b = buffer_with_writers(5000);
    struct selfpkt_stats s = {.max_size = 130000,
                              .buffers = (const struct tbuf *const *)&b,
                              .nbuffers = 1,
                              .histograms = true,
                              .sequence_id = sequence_of};
    unsigned fit = count_writers(&s);
    cr_expect_gt(fit, 3000);
    cr_expect_lt(fit, 5000);
    s.max_size = 1 << 19;
    cr_expect_eq(count_writers(&s), 5000);
    s.histograms = false; /* R226 */
    cr_expect_eq(count_writers(&s), 0);
    tbuf_free(b);
}
