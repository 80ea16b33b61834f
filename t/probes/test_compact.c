/* SPDX-License-Identifier: Apache-2.0 */
/* Compact scheduling events. probes.md 4.22, 13.2, T55, T67. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "rig.h"

static void switch_record(struct rig *r, struct builder *p, uint32_t delta, int64_t state,
                          int32_t pid, const char *comm)
{
    uint8_t rec[64] = {0};
    int32_t prio = 120;
    rig_common(rec, r->ev.sched.switch_id, 1);
    memcpy(rec + 32, &state, 8);
    memcpy(rec + 40, comm, strlen(comm));
    memcpy(rec + 56, &pid, 4);
    memcpy(rec + 60, &prio, 4);
    rig_record(p, delta, rec, sizeof rec);
}

static void waking_record(struct rig *r, struct builder *p, uint32_t delta, int32_t pid,
                          const char *comm, int32_t cpu)
{
    uint8_t rec[36] = {0};
    int32_t prio = 120;
    rig_common(rec, r->ev.sched.waking_id, 1);
    memcpy(rec + 8, comm, strlen(comm));
    memcpy(rec + 24, &pid, 4);
    memcpy(rec + 28, &prio, 4);
    memcpy(rec + 32, &cpu, 4);
    rig_record(p, delta, rec, sizeof rec);
}

Test(compact, vectors_13_2_compact)
{
    static const uint8_t expected[] = {
        0x2a, 0x04, 0x62, 0x61, 0x73, 0x68, 0x2a, 0x09, 0x73, 0x77, 0x61, 0x70, 0x70,
        0x65, 0x72, 0x2f, 0x30, 0x0a, 0x05, 0xc0, 0x84, 0x3d, 0xf4, 0x03, 0x12, 0x02,
        0x01, 0x00, 0x1a, 0x03, 0x92, 0x21, 0x00, 0x22, 0x02, 0x78, 0x78, 0x32, 0x02,
        0x00, 0x01, 0x3a, 0x03, 0x88, 0x86, 0x3d, 0x42, 0x02, 0x93, 0x21, 0x4a, 0x01,
        0x02, 0x52, 0x01, 0x78, 0x5a, 0x01, 0x00, 0x62, 0x01, 0x01};
    static uint8_t pages[1][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    cr_assert(r.ev.sched.valid);
    rig_want(&r, "sched", "sched_switch");
    rig_want(&r, "sched", "sched_waking");
    r.b.compact_on = true;
    struct builder p = rig_page(pages[0], 1000000, false);
    switch_record(&r, &p, 0, 1, 4242, "bash");
    waking_record(&r, &p, 200, 4243, "bash", 2);
    switch_record(&r, &p, 300, 0, 0, "swapper/0");
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    struct bytes_view b = rig_bundle(&r, 0);
    rig_expect(fake_msg(b, PBF_FtraceEventBundle_compact_sched, 0), expected, sizeof expected);
    cr_assert_not(fake_has(b, PBF_FtraceEventBundle_event));
    cr_assert_eq(r.b.last_ts[1], 1000500, "R148 counts compact events");
    cr_assert(u64set_has(&r.b.meta.pids, 4242) && u64set_has(&r.b.meta.pids, 4243), "R20");
    cr_assert_not(u64set_has(&r.b.meta.pids, 1), "the common pid does not count in compact mode");
    rig_fini(&r);
}

Test(compact, r145_compact_opens_a_packet_for_every_batch)
{
    static uint8_t pages[1][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "sched", "sched_switch");
    r.b.compact_on = true;
    struct builder p = rig_page(pages[0], 1000, false);
    rig_print(&p, 0, 7, "not asked for");
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    cr_assert_eq(r.sink.n, 1);
    struct bytes_view b = rig_bundle(&r, 0);
    cr_assert(fake_has(b, PBF_FtraceEventBundle_cpu));
    cr_assert(fake_has(b, PBF_FtraceEventBundle_previous_bundle_end_timestamp));
    cr_assert_not(fake_has(b, PBF_FtraceEventBundle_compact_sched), "R151");
    rig_fini(&r);
}

Test(compact, r147_many_names_start_a_new_packet)
{
    static uint8_t pages[4][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "sched", "sched_switch");
    r.b.compact_on = true;
    for (unsigned i = 0; i < 4; i++) {
        struct builder p = rig_page(pages[i], 1000, false);
        for (unsigned k = 0; k < 40; k++) {
            char comm[16];
            snprintf(comm, sizeof comm, "t%u", i * 40 + k);
            switch_record(&r, &p, 1, 0, 5, comm);
        }
        rig_page_done(&p);
    }
    rig_batch(&r, pages, 4);
    cr_assert_eq(r.sink.n, 2);
    for (unsigned i = 0; i < 2; i++) {
        struct bytes_view c = fake_msg(rig_bundle(&r, i), PBF_FtraceEventBundle_compact_sched, 0);
        cr_assert_eq(fake_count(c, PBF_FtraceEventBundle_CompactSched_intern_table), 80);
    }
    rig_fini(&r);
}

Test(compact, r69_short_compact_event)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[60] = {0};
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "sched", "sched_switch");
    r.b.compact_on = true;
    rig_common(rec, r.ev.sched.switch_id, 1);
    struct builder p = rig_page(pages[0], 1000, false);
    rig_record(&p, 0, rec, sizeof rec);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    cr_assert_eq(r.b.parse_errors, 1U << RBPAGE_SHORT_COMPACT_EVENT);
    rig_fini(&r);
}

Test(compact, t67_r153_format_check)
{
    struct rig r;
    rig_init(&r);
    fake_rm(&r.t.dir, "events/sched/sched_waking/format");
    rig_ready(&r);
    cr_assert_not(r.ev.sched.valid);
    rig_fini(&r);
}

Test(compact, r150_names_end_at_the_first_nul_or_at_16_bytes)
{
    static uint8_t pages[1][PAGE];
    static const char *const raw[] = {"same\0one", "same\0two", "0123456789abcdef"};
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "sched", "sched_switch");
    r.b.compact_on = true;
    struct builder p = rig_page(pages[0], 1000, false);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t rec[64] = {0};
        rig_common(rec, r.ev.sched.switch_id, 1);
        memcpy(rec + 40, raw[i], i < 2 ? 8 : 16);
        rig_record(&p, 1, rec, sizeof rec);
    }
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    struct bytes_view c = fake_msg(rig_bundle(&r, 0), PBF_FtraceEventBundle_compact_sched, 0);
    uint32_t table = PBF_FtraceEventBundle_CompactSched_intern_table;
    cr_assert_eq(fake_count(c, table), 2);
    cr_assert(fake_str_is(fake_msg(c, table, 0), "same"));
    cr_assert(fake_str_is(fake_msg(c, table, 1), "0123456789abcdef"));
    rig_fini(&r);
}
