/* SPDX-License-Identifier: Apache-2.0 */
/* From pages to packets: hand-made pages. probes.md 4.9 - 4.13, 4.21, 13.1, T42 - T60.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes/ftrace/evtab.h"
#include "protos/fieldnum.h"
#include "rig.h"

/* ---- print ---- */

static const uint8_t vector_page[] = {
    0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0x00, 0x00, 0x70, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x85, 0x0c, 0x00, 0x00, 0x05, 0x00, 0x01, 0x00, 0xd2, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x81,
    0xff, 0xff, 0xff, 0xff, 0x68, 0x69, 0x0a, 0x00, 0xfe, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,
    0x3d, 0x00, 0x00, 0x00, 0x0c, 0x00, 0x00, 0x00, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee,
    0x20, 0x01, 0x00, 0x00, 0x1c, 0x00, 0x00, 0x00, 0x05, 0x00, 0x01, 0x00, 0xd3, 0x04, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x81, 0xff, 0xff, 0xff, 0xff, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x0a, 0x00, 0x00,
    0xbf, 0x79, 0x35, 0xf1, 0xac, 0x68, 0x24, 0x00, 0x65, 0x00, 0x00, 0x00, 0x05, 0x00, 0x01, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x81, 0xff, 0xff, 0xff, 0xff, 0x78, 0x00, 0x00, 0x00};

Test(bundle, vectors_13_1)
{
    static const uint8_t e1[] = {0x08, 0xb9, 0x89, 0xcd, 0x91, 0x92, 0x02, 0x10, 0xd2,
                                 0x09, 0x1a, 0x05, 0x12, 0x03, 0x68, 0x69, 0x0a};
    static const uint8_t e2[] = {0x08, 0xca, 0x89, 0xcd, 0x91, 0x93, 0x02, 0x10, 0xd3, 0x09,
                                 0x1a, 0x08, 0x12, 0x06, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x0a};
    static const uint8_t e3[] = {0x08, 0xd0, 0xd7, 0xa6, 0xbc, 0xd6, 0xe8, 0x48,
                                 0x10, 0x00, 0x1a, 0x03, 0x12, 0x01, 0x78};
    static uint8_t pages[1][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "ftrace", "print");
    memcpy(pages[0], vector_page, sizeof vector_page);
    rig_batch(&r, pages, 1);
    cr_assert_eq(r.sink.n, 1);
    struct bytes_view b = rig_bundle(&r, 0);
    cr_assert_eq(fake_num(b, PBF_FtraceEventBundle_cpu), 1);
    cr_assert_eq(fake_count(b, PBF_FtraceEventBundle_event), 3);
    rig_expect(fake_msg(b, PBF_FtraceEventBundle_event, 0), e1, sizeof e1);
    rig_expect(fake_msg(b, PBF_FtraceEventBundle_event, 1), e2, sizeof e2);
    rig_expect(fake_msg(b, PBF_FtraceEventBundle_event, 2), e3, sizeof e3);
    cr_assert_not(fake_has(b, PBF_FtraceEventBundle_lost_events));
    cr_assert_not(fake_has(b, PBF_FtraceEventBundle_ftrace_clock), "boot clock says nothing (R49)");
    cr_assert_not(fake_has(fake_view(&r.sink, 0), PBF_TracePacket_timestamp));
    cr_assert_eq(r.b.parse_errors, 0);

    pages[0][11] = 0x80; /* lost */
    memset(pages[0] + 12, 0xff, 4);
    rig_batch(&r, pages, 1);
    cr_assert_eq(fake_num(rig_bundle(&r, 1), PBF_FtraceEventBundle_lost_events), 1);
    cr_assert_eq(fake_num(rig_bundle(&r, 1), PBF_FtraceEventBundle_previous_bundle_end_timestamp),
                 320255973501904ULL);

    pages[0][8] = 111; /* one byte too small: the last event is cut off */
    rig_batch(&r, pages, 1);
    b = rig_bundle(&r, 2);
    cr_assert_eq(fake_count(b, PBF_FtraceEventBundle_event), 2);
    struct bytes_view err = fake_msg(b, PBF_FtraceEventBundle_error, 0);
    cr_assert_eq(fake_num(err, PBF_FtraceEventBundle_FtraceError_status), RBPAGE_END_OVERFLOW);
    cr_assert_eq(fake_num(err, PBF_FtraceEventBundle_FtraceError_timestamp), 0x1122334455ULL);
    cr_assert_eq(r.b.parse_errors, 1U << RBPAGE_END_OVERFLOW);
    rig_fini(&r);
}

Test(bundle, t43_nothing_wanted_gives_no_packet)
{
    static uint8_t pages[1][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    struct builder p = rig_page(pages[0], 1000, false);
    rig_print(&p, 1, 7, "x");
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    cr_assert_eq(r.sink.n, 0);
    rig_fini(&r);
}

Test(bundle, t43_t60_rejected_prints_leave_no_trace)
{
    static uint8_t pages[1][PAGE];
    struct rig r;
    struct printflt f = {0};
    struct bundle_snapshot snap = {0};
    rig_init(&r);
    rig_ready(&r);
    printflt_add(&f, ptext_of("no", 2), NULL, false);
    r.b.print = rig_want(&r, "ftrace", "print");
    r.b.prints = &f;
    struct builder p = rig_page(pages[0], 1000, false);
    rig_print(&p, 1, 7, "nothing");
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    cr_assert_eq(r.sink.n, 0);
    cr_assert_eq(r.b.last_ts[1], 0, "R107");
    p = rig_page(pages[0], 1000, false);
    rig_print(&p, 1, 7, "nothing");
    rig_print(&p, 1, 7, "yes");
    rig_page_done(&p);
    bundle_begin(&r.b, 1, &snap);
    bundle_page(&r.b, pages[0], PAGE);
    bundle_end(&r.b);
    cr_assert_eq(fake_count(rig_bundle(&r, 0), PBF_FtraceEventBundle_event), 1);
    printflt_fini(&f);
    rig_fini(&r);
}

Test(bundle, t44_text_without_nul_and_empty_text)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[24];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "ftrace", "print");
    memset(rec, 'a', sizeof rec);
    rig_common(rec, 5, 1);
    struct builder p = rig_page(pages[0], 1000, false);
    rig_record(&p, 1, rec, sizeof rec);
    rec[16] = 0;
    rig_record(&p, 1, rec, sizeof rec);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    struct bytes_view b = rig_bundle(&r, 0);
    struct bytes_view pr = fake_msg(fake_msg(b, 2, 0), PBF_FtraceEvent_print, 0);
    cr_assert(fake_str_is(fake_msg(pr, PBF_PrintFtraceEvent_buf, 0), "aaaaaaaa"));
    pr = fake_msg(fake_msg(b, 2, 1), PBF_FtraceEvent_print, 0);
    cr_assert(fake_has(pr, PBF_PrintFtraceEvent_buf), "an empty text is written (R83)");
    rig_fini(&r);
}

Test(bundle, t45_lost_flags_split_packets)
{
    static uint8_t pages[8][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "ftrace", "print");
    for (unsigned i = 0; i < 8; i++) {
        struct builder p = rig_page(pages[i], 1000 + i, i == 3 || i == 4);
        rig_print(&p, 0, 7, "x");
        rig_page_done(&p);
    }
    rig_batch(&r, pages, 8);
    cr_assert_eq(r.sink.n, 3);
    static const unsigned events[] = {3, 1, 4};
    for (unsigned i = 0; i < 3; i++) {
        cr_expect_eq(fake_count(rig_bundle(&r, i), PBF_FtraceEventBundle_event), events[i]);
        cr_expect_eq(fake_has(rig_bundle(&r, i), PBF_FtraceEventBundle_lost_events), i > 0);
    }
    rig_fini(&r);
}

Test(bundle, t46_previous_bundle_end)
{
    static uint8_t pages[3][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "ftrace", "print");
    for (unsigned i = 0; i < 3; i++) {
        struct builder p = rig_page(pages[i], 1000 + 10 * i, i == 2);
        rig_print(&p, 3, 7, "x");
        rig_page_done(&p);
    }
    rig_batch(&r, pages, 3);
    cr_assert_eq(r.sink.n, 2);
    cr_assert_eq(fake_num(rig_bundle(&r, 0), PBF_FtraceEventBundle_previous_bundle_end_timestamp),
                 0);
    cr_assert_eq(fake_num(rig_bundle(&r, 1), PBF_FtraceEventBundle_previous_bundle_end_timestamp),
                 1013);
    rig_fini(&r);
}

Test(bundle, t47_broken_pages_among_good_ones)
{
    static uint8_t pages[8][PAGE];
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "ftrace", "print");
    for (unsigned i = 0; i < 8; i++) {
        struct builder p = rig_page(pages[i], 1000 + i, false);
        rig_print(&p, 0, 7, "x");
        rig_print(&p, 0, 7, "y");
        rig_page_done(&p);
        if (i == 2 || i == 6)
            rig_page_size(&p, (uint32_t)p.n - 17);
    }
    rig_batch(&r, pages, 8);
    cr_assert_eq(r.sink.n, 1);
    struct bytes_view b = rig_bundle(&r, 0);
    cr_assert_eq(fake_count(b, PBF_FtraceEventBundle_error), 2);
    cr_assert_eq(fake_num(fake_msg(b, PBF_FtraceEventBundle_error, 1),
                          PBF_FtraceEventBundle_FtraceError_status),
                 15);
    cr_assert_eq(fake_count(b, PBF_FtraceEventBundle_event), 14);
    cr_assert_eq(r.b.parse_errors, 1U << 15);
    rig_fini(&r);
}

/* ---- fields ---- */

static const char all_types[] =
    "\tfield:u32 field_a;\toffset:8;\tsize:4;\tsigned:0;\n"
    "\tfield:pid_t field_b;\toffset:12;\tsize:4;\tsigned:1;\n"
    "\tfield:dev_t field_c;\toffset:16;\tsize:4;\tsigned:0;\n"
    "\tfield:dev_t field_d;\toffset:24;\tsize:8;\tsigned:0;\n"
    "\tfield:char field_e[16];\toffset:32;\tsize:16;\tsigned:0;\n"
    "\tfield:const char * field_f;\toffset:48;\tsize:8;\tsigned:0;\n"
    "\tfield:__data_loc char[] field_g;\toffset:57;\tsize:4;\tsigned:0;\n"
    "\tfield:s16 field_h;\toffset:62;\tsize:2;\tsigned:1;\n"
    "\tfield:void * field_i;\toffset:64;\tsize:8;\tsigned:0;\n"
    "\tfield:bool field_j;\toffset:72;\tsize:1;\tsigned:0;\n"
    "\tfield:__data_loc u8[] field_k;\toffset:76;\tsize:4;\tsigned:0;\n"
    "\tfield:char field_l[];\toffset:88;\tsize:0;\tsigned:0;\n";

static size_t all_types_record(uint8_t *rec, uint16_t id)
{
    static const uint32_t dev32 = 271581216;
    static const uint64_t dev64 = 4442450946ULL, ptr = 0xffffffff8fff1000ULL,
                          sym = 0xffffffff81000010ULL;
    uint32_t v = 1003, loc = 80 | 6 << 16, raw = 80 | 3 << 16;
    int32_t pid = 97;
    int16_t h = -2;
    memset(rec, 0, 120);
    rig_common(rec, id, 72);
    memcpy(rec + 8, &v, 4);
    memcpy(rec + 12, &pid, 4);
    memcpy(rec + 16, &dev32, 4);
    memcpy(rec + 24, &dev64, 8);
    memset(rec + 32, 0xff, 16);
    memcpy(rec + 32, "Hello", 6);
    memcpy(rec + 48, &ptr, 8);
    memcpy(rec + 57, &loc, 4);
    memcpy(rec + 62, &h, 2);
    memcpy(rec + 64, &sym, 8);
    rec[72] = 1;
    memcpy(rec + 76, &raw, 4);
    memcpy(rec + 80, "World", 6);
    memcpy(rec + 88, "Goodbye", 8);
    return 96;
}

Test(bundle, t51_t57_every_kind_of_field)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[128];
    struct rig r;
    rig_init(&r);
    fake_put(&r.t.dir, "printk_formats", "0xffffffff8fff1000 : \"Known\"\n");
    fake_tracefs_event(&r.t, "group", "all", 1234, all_types);
    rig_ready(&r);
    const struct events_event *e = rig_want(&r, "group", "all");
    struct builder p = rig_page(pages[0], 1000, false);
    size_t n = all_types_record(rec, 1234);
    rig_record(&p, 0, rec, n);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    struct bytes_view b = rig_bundle(&r, 0), m = fake_msg(fake_msg(b, 2, 0), e->number, 0);
    cr_assert_eq(e->number, 65536, "the first generic event (R94)");
    cr_expect_eq(fake_num(m, 1), 1003);
    cr_expect_eq(fake_num(m, 2), 97);
    cr_expect_eq(fake_num(m, 3), 66336, "device, 32 bits (R89)");
    cr_expect_eq(fake_num(m, 4), 17594983681026ULL, "device, 64 bits");
    cr_expect(fake_str_is(fake_msg(m, 5, 0), "Hello"));
    cr_expect(fake_str_is(fake_msg(m, 6, 0), "Known"), "R87");
    cr_expect(fake_str_is(fake_msg(m, 7, 0), "World"), "misaligned data_loc (R88)");
    cr_expect_eq(fake_num(m, 8), (uint64_t)-2);
    cr_expect_eq(fake_num(m, 9), 1, "an index, never the address (R90)");
    cr_expect_eq(fake_num(m, 10), 1);
    cr_expect(fake_str_is(fake_msg(m, 11, 0), "Wor"), "data_loc bytes are copied whole");
    cr_expect(fake_str_is(fake_msg(m, 12, 0), "Goodbye"));
    cr_expect(u64set_has(&r.b.meta.pids, 97), "R20");
    cr_expect(u64set_has(&r.b.meta.pids, 72));
    cr_expect_eq(r.b.meta.pids.n, 2);

    struct bytes_view d = fake_msg(b, PBF_FtraceEventBundle_generic_event_descriptors, 0);
    cr_expect_eq(fake_num(d, PBF_FtraceEventBundle_GenericEventDescriptor_field_id), 65536);
    cr_expect(fake_str_is(fake_msg(d, PBF_FtraceEventBundle_GenericEventDescriptor_group_name, 0),
                          "group"));
    struct bytes_view dp =
        fake_msg(d, PBF_FtraceEventBundle_GenericEventDescriptor_event_descriptor, 0);
    static const unsigned types[] = {4, 3, 4, 4, 9, 9, 9, 3, 4, 4, 12, 9};
    cr_expect(fake_str_is(fake_msg(dp, PBF_DescriptorProto_name, 0), "all"));
    cr_expect_eq(fake_count(dp, PBF_DescriptorProto_field), 12);
    for (unsigned i = 0; i < 12; i++) {
        struct bytes_view f = fake_msg(dp, PBF_DescriptorProto_field, i);
        cr_expect_eq(fake_num(f, PBF_FieldDescriptorProto_number), i + 1);
        cr_expect_eq(fake_num(f, PBF_FieldDescriptorProto_type), types[i], "field %u", i + 1);
    }

    /* R79: one byte less than the fixed part is invalid. */
    p = rig_page(pages[0], 1000, false);
    rig_record(&p, 0, rec, 84);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    cr_expect_eq(r.b.parse_errors, 1U << RBPAGE_INVALID_EVENT);
    rig_fini(&r);
}

Test(bundle, r88_a_data_loc_outside_of_the_record_is_invalid)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[16];
    static const uint32_t words[] = {16 | 1U << 16, 12 | 5U << 16, 0xffff0000U, 0x0001ffffU};
    struct rig r;
    rig_init(&r);
    fake_tracefs_event(&r.t, "g", "e", 900,
                       "\tfield:__data_loc char[] x;\toffset:8;\tsize:4;\tsigned:0;\n");
    rig_ready(&r);
    const struct events_event *e = rig_want(&r, "g", "e");
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        memset(rec, 0, sizeof rec);
        rig_common(rec, 900, 1);
        memcpy(rec + 8, &words[i], 4);
        struct builder p = rig_page(pages[0], 1000, false);
        rig_record(&p, 0, rec, sizeof rec);
        rig_page_done(&p);
        r.b.parse_errors = 0;
        rig_batch(&r, pages, 1);
        cr_expect_eq(r.b.parse_errors, 1U << RBPAGE_INVALID_EVENT, "word %08x", words[i]);
    }
    /* T50: length 0 is an empty string wherever it points. */
    memset(rec + 8, 0, 4);
    struct builder p = rig_page(pages[0], 1000, false);
    rig_record(&p, 0, rec, sizeof rec);
    rig_page_done(&p);
    r.b.parse_errors = 0;
    rig_batch(&r, pages, 1);
    cr_expect_eq(r.b.parse_errors, 0);
    cr_expect(fake_has(fake_msg(fake_msg(rig_bundle(&r, r.sink.n - 1), 2, 0), e->number, 0), 1));
    rig_fini(&r);
}

Test(bundle, r96_legacy_generic)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[64] = {0};
    struct rig r;
    rig_init(&r);
    fake_tracefs_event(&r.t, "g", "old", 900,
                       "\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n"
                       "\tfield:int a;\toffset:24;\tsize:4;\tsigned:1;\n"
                       "\tfield:u32 b;\toffset:28;\tsize:4;\tsigned:0;\n");
    rig_ready(&r);
    rig_want(&r, "g", "old");
    r.b.enc->legacy_generic = true;
    rig_common(rec, 900, 1);
    strcpy((char *)rec + 8, "me");
    rec[24] = 5;
    rec[28] = 6;
    struct builder p = rig_page(pages[0], 1000, false);
    rig_record(&p, 0, rec, 32);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    struct bytes_view b = rig_bundle(&r, 0),
                      g = fake_msg(fake_msg(b, 2, 0), PBF_FtraceEvent_generic, 0);
    cr_expect(fake_str_is(fake_msg(g, PBF_GenericFtraceEvent_event_name, 0), "old"));
    cr_expect_eq(fake_count(g, PBF_GenericFtraceEvent_field), 3);
    struct bytes_view f = fake_msg(g, PBF_GenericFtraceEvent_field, 0);
    cr_expect(fake_str_is(fake_msg(f, PBF_GenericFtraceEvent_Field_name, 0), "comm"));
    cr_expect(fake_str_is(fake_msg(f, PBF_GenericFtraceEvent_Field_str_value, 0), "me"));
    cr_expect_eq(fake_num(fake_msg(g, 2, 1), PBF_GenericFtraceEvent_Field_int_value), 5);
    cr_expect_eq(fake_num(fake_msg(g, 2, 2), PBF_GenericFtraceEvent_Field_uint_value), 6);
    cr_expect_not(fake_has(b, PBF_FtraceEventBundle_generic_event_descriptors));
    rig_fini(&r);
}

Test(bundle, r79_short_records_are_invalid)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[64] = {0};
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    const struct events_event *e = rig_want(&r, "sched", "sched_switch");
    cr_assert_eq(e->min_size, 64);
    rig_common(rec, e->id, 1);
    struct builder p = rig_page(pages[0], 1000, false);
    rig_record(&p, 0, rec, 60);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    cr_assert_eq(r.b.parse_errors, 1U << RBPAGE_INVALID_EVENT);
    cr_assert_not(fake_has(rig_bundle(&r, 0), PBF_FtraceEventBundle_event));
    rig_fini(&r);
}

Test(bundle, t53_rename)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[52] = {0};
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    const struct events_event *e = rig_want(&r, "task", "task_rename");
    rig_common(rec, e->id, 31);
    size_t n = e->min_size;
    memset(rec + 8, 'n', n - 8);
    struct builder p = rig_page(pages[0], 1000, false);
    rig_record(&p, 0, rec, n);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    struct bytes_view m =
        fake_msg(fake_msg(rig_bundle(&r, 0), 2, 0), PBF_FtraceEvent_task_rename, 0);
    cr_expect(fake_str_is(fake_msg(m, PBF_TaskRenameFtraceEvent_newcomm, 0), "nnnnnnnnnnnnnnnn"),
              "R85");
    cr_expect(u64set_has(&r.b.meta.renames, 31), "R21");
    cr_expect(u64set_has(&r.b.meta.pids, 31));
    rig_fini(&r);
}

Test(bundle, t54_syscalls)
{
    static uint8_t pages[1][PAGE];
    uint8_t rec[64] = {0};
    uint64_t args[6] = {1, 2, 3, 4, 5, 0xffffffffffffffffULL};
    int64_t id = 257, ret = 2; /* openat */
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    const struct events_event *in = rig_want(&r, "raw_syscalls", "sys_enter"),
                              *out = rig_want(&r, "raw_syscalls", "sys_exit");
    struct builder p = rig_page(pages[0], 1000, false);
    rig_common(rec, in->id, 9);
    memcpy(rec + 8, &id, 8);
    memcpy(rec + 16, args, 48);
    rig_record(&p, 0, rec, 64);
    rig_common(rec, out->id, 9);
    memcpy(rec + 16, &ret, 8);
    rig_record(&p, 0, rec, 24);
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    struct bytes_view m = fake_msg(fake_msg(rig_bundle(&r, 0), 2, 0), PBF_FtraceEvent_sys_enter, 0);
    struct bytes_cur c = bytes_cur(m);
    struct bytes_field f;
    cr_assert(bytes_next(&c, &f) && f.id == PBF_SysEnterFtraceEvent_id && f.num == 257);
    for (unsigned i = 0; i < 6; i++)
        cr_assert(bytes_next(&c, &f) && f.id == PBF_SysEnterFtraceEvent_args && f.num == args[i],
                  "argument %u", i);
    cr_assert(bytes_done(&c));
#ifdef __x86_64__
    cr_assert_eq(r.b.meta.fds.n, 1);
    cr_assert_eq(r.b.meta.fds.keys[0], (uint64_t)9 << 32 | 2, "R22");
#endif
    rig_fini(&r);
}

Test(bundle, t65_types_that_do_not_fit_are_left_out)
{
    static const char fields[] = "\tfield:int comm;\toffset:8;\tsize:4;\tsigned:1;\n"
                                 "\tfield:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;\n"
                                 "\tfield:int prio;\toffset:16;\tsize:4;\tsigned:1;\n";
    struct rig r;
    rig_init(&r);
    fake_tracefs_event(&r.t, "sched", "sched_process_free", 777, fields);
    rig_ready(&r);
    const struct events_event *e = rig_want(&r, "sched", "sched_process_free");
    cr_assert_not(e->generic);
    cr_assert_eq(e->n_fields, 2, "comm is no string here (R78)");
    cr_assert_eq(e->fields[0].number, PBF_SchedProcessFreeFtraceEvent_pid);
    cr_assert_eq(e->min_size, 20);
    rig_fini(&r);
}

Test(bundle, r92_funcgraph_is_an_address)
{
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    const struct events_event *e = rig_want(&r, "ftrace", "funcgraph_entry");
    bool seen = false;
    for (unsigned i = 0; i < e->n_fields; i++)
        if (e->fields[i].number == PBF_FuncgraphEntryFtraceEvent_func)
            seen = e->fields[i].kind == FORMAT_SYMADDR;
    cr_assert(seen);
    rig_fini(&r);
}

/* ---- clocks and symbols ---- */

Test(bundle, t59_clock_snapshot)
{
    static uint8_t pages[1][PAGE];
    struct bundle_snapshot snap = {BUNDLE_CLOCK_LOCAL, 1000000000, 2000000000};
    struct rig r;
    rig_init(&r);
    rig_ready(&r);
    rig_want(&r, "ftrace", "print");
    struct builder p = rig_page(pages[0], 1000, false);
    rig_print(&p, 0, 7, "x");
    rig_page_done(&p);
    bundle_begin(&r.b, 0, &snap);
    bundle_page(&r.b, pages[0], PAGE);
    bundle_end(&r.b);
    struct bytes_view b = rig_bundle(&r, 0);
    cr_assert_eq(fake_num(b, PBF_FtraceEventBundle_ftrace_clock), 3);
    cr_assert_eq(fake_num(b, PBF_FtraceEventBundle_ftrace_timestamp), 1000000000);
    cr_assert_eq(fake_num(b, PBF_FtraceEventBundle_boot_timestamp), 2000000000);
    rig_fini(&r);
}

Test(bundle, r116_r118_symbols)
{
    static uint8_t pages[1][PAGE];
    static const char line[] = "ffffffff81000000 T known_fn";
    uint8_t rec[24] = {0};
    uint64_t addr[] = {0xffffffff81000010ULL, 0xdead, 0xffffffff81000010ULL};
    struct ksyms k = {0};
    struct rig r;
    rig_init(&r);
    fake_tracefs_event(&r.t, "workqueue", "workqueue_execute_end", 888,
                       "\tfield:void* work;\toffset:8;\tsize:8;\tsigned:0;\n"
                       "\tfield:void* function;\toffset:16;\tsize:8;\tsigned:0;\n");
    rig_ready(&r);
    rig_want(&r, "workqueue", "workqueue_execute_end");
    cr_assert(ksyms_line(&k, line, sizeof line - 1));
    ksyms_sort(&k);
    r.b.ksyms = &k;
    struct builder p = rig_page(pages[0], 1000, false);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t work = 7;
        rig_common(rec, 888, 1);
        memcpy(rec + 8, &work, 8);
        memcpy(rec + 16, &addr[i], 8);
        rig_record(&p, 0, rec, 24);
    }
    rig_page_done(&p);
    rig_batch(&r, pages, 1);
    static const unsigned index[] = {2, 3, 2};
    for (unsigned i = 0; i < 3; i++) {
        struct bytes_view m =
            fake_msg(fake_msg(rig_bundle(&r, 0), 2, i), PBF_FtraceEvent_workqueue_execute_end, 0);
        cr_expect_eq(fake_num(m, 1), 1);
        cr_expect_eq(fake_num(m, 2), index[i]);
    }
    struct bytes_view pk = fake_view(&r.sink, 0),
                      in = fake_msg(pk, PBF_TracePacket_interned_data, 0);
    cr_expect_eq(fake_num(pk, PBF_TracePacket_sequence_flags), 1);
    cr_expect_eq(fake_count(in, PBF_InternedData_kernel_symbols), 1,
                 "what has no name is left out");
    struct bytes_view sym = fake_msg(in, PBF_InternedData_kernel_symbols, 0);
    cr_expect_eq(fake_num(sym, PBF_InternedString_iid), 2);
    cr_expect(fake_str_is(fake_msg(sym, PBF_InternedString_str, 0), "known_fn"));

    rig_batch(&r, pages, 1); /* same pass, nothing new */
    cr_expect_not(fake_has(fake_view(&r.sink, 1), PBF_TracePacket_interned_data));
    bundle_pass_done(&r.b); /* R117: indexes start over */
    rig_batch(&r, pages, 1);
    cr_expect(fake_has(fake_view(&r.sink, 2), PBF_TracePacket_interned_data));
    cr_expect_eq(fake_num(fake_view(&r.sink, 2), PBF_TracePacket_sequence_flags), 1);
    ksyms_fini(&k);
    rig_fini(&r);
}

/* ---- hostile pages ---- */

Test(bundle, random_records_never_leave_their_bounds)
{
    uint32_t seed = 4711;
    uint8_t *page = malloc(PAGE);
    struct rig r;
    struct bundle_snapshot snap = {0};
    rig_init(&r);
    fake_tracefs_event(&r.t, "group", "all", 1234, all_types);
    rig_ready(&r);
    rig_want(&r, "group", "all");
    rig_want(&r, "sched", "sched_switch");
    rig_want(&r, "ftrace", "print");
    for (unsigned round = 0; round < 3000; round++) {
        struct builder p = rig_page(page, 1000, false);
        for (size_t i = 16; i < PAGE; i += 4) {
            seed = seed * 1664525 + 1013904223;
            uint32_t v = (seed >> 5) & 1 ? (seed >> 8) & 0xffff : seed;
            memcpy(page + i, &v, 4);
        }
        for (size_t i = 20; i + 8 < PAGE; i += 100)
            memcpy(page + i, (uint16_t[]){(seed >> 9) & 1 ? 1234 : 5}, 2);
        rig_page_size(&p, (seed >> 4) % 4081);
        r.b.compact_on = round & 1;
        bundle_begin(&r.b, 0, &snap);
        bundle_page(&r.b, page, PAGE);
        bundle_end(&r.b);
        for (unsigned i = 0; i < r.sink.n; i++)
            free(r.sink.packets[i].p);
        r.sink.n = 0;
        bundle_pass_done(&r.b);
    }
    free(page);
    rig_fini(&r);
}

Test(bundle, evtab_is_sorted_and_complete)
{
    struct evtab_event a = {0}, b, e;
    size_t fields = 0;
    cr_assert_eq(evtab_count(), 594);
    for (size_t i = 0; i < evtab_count(); i++) {
        evtab_at(i, &b);
        fields += b.n_fields;
        if (i) {
            int c = strcmp(a.group, b.group);
            cr_assert(c < 0 || (c == 0 && strcmp(a.name, b.name) < 0), "%s/%s", b.group, b.name);
        }
        cr_assert_eq(evtab_find(b.group, b.name, &e), 0);
        cr_assert_eq(e.number, b.number);
        a = b;
    }
    cr_assert_eq(fields, 2662);
    cr_assert_neq(evtab_find("sched", "sched_sched", &e), 0);
}
