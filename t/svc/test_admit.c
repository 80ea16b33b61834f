/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session_admit and the refusals V14 to V25 of EnableTracing: sessions beside sessions. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/charge.h"
#include "svc/service_int.h"
#include "t/svc/world.h"

static struct world *w;

static void setup(void)
{
    w = world_new();
}

static void teardown(void)
{
    world_free(w);
}

TestSuite(admit, .init = setup, .fini = teardown);

static struct bytesbuf *plain(void)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 4);
    return &w->cfg;
}

static struct bytesbuf *named(const char *name, bool guarded)
{
    plain();
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_unique_session_name, name);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_enable_extra_guardrails, guarded);
    return &w->cfg;
}

static struct bytesbuf *exclusive(uint32_t prio)
{
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_exclusive_prio, prio);
    return &w->cfg;
}

static void semaphore(const char *name, uint64_t max)
{
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_session_semaphores);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_SessionSemaphore_name, name);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_SessionSemaphore_max_other_session_count, max);
    bytesbuf_pb_end(&w->cfg, m);
}

static struct bytesbuf *one_semaphore(const char *name, uint64_t max)
{
    plain();
    semaphore(name, max);
    return &w->cfg;
}

static bool refused(struct cons *c, const struct bytesbuf *cfg, const char *part)
{
    return !cons_enable(c, cfg) && c->disabled && strstr(c->error, part);
}

Test(admit, R13_V16_T1_unique_name)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2);
    cr_assert(cons_enable(a, named("foo", false)));
    cr_expect(refused(b, &w->cfg, "\"foo\""));
    cr_expect_eq(cons_read(b), 0, "R13: a refused consumer reads nothing");
    cr_expect(b->read_done);
    cons_ask(a, MSG_C_DISABLE);
    cr_expect(refused(b, &w->cfg, "\"foo\""), "ended ones count");
    cons_ask(a, MSG_C_FREE);
    cr_expect(cons_enable(b, &w->cfg));
}

Test(admit, V14_T14_exclusive_session_blocks)
{
    struct cons *a = cons_new(w, 0), *b = cons_new(w, 0);
    cr_assert(cons_enable(a, exclusive(1)));
    cr_expect_not(cons_enable(b, plain()));
    cr_expect_str_eq(b->error, "An exclusive session with priority 1 >= requested priority 0 is "
                               "already active.");
    cr_expect_not(cons_enable(b, exclusive(1)));
    cr_expect_str_eq(b->error, "An exclusive session with priority 1 >= requested priority 1 is "
                               "already active.");
}

Test(admit, R19_T15_T16_exclusive_session_aborts)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2), *c = cons_new(w, 3);
    prod_register(p, "ds", 0);
    plain();
    cfg_source(&w->cfg, "ds", 0);
    cr_assert(cons_enable(a, &w->cfg));
    cr_assert(cons_enable(b, exclusive(1)));
    cr_expect(a->disabled);
    cr_expect(
        strstr(a->error, "Aborted due to user requested higher-priority (1) exclusive session."),
        "%s", a->error);
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1);
    cr_expect_eq(cons_read(a), 0);
    cr_assert(cons_enable(c, exclusive(2)));
    cr_expect(strstr(b->error, "(2)"), "%s", b->error);
    cons_ask(c, MSG_C_FREE);
    cr_expect(cons_enable(a, plain()), "the aborted consumer is free");
}

Test(admit, Q1_exclusive_abort_stays_when_a_later_check_refuses)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 1);
    cr_assert(cons_enable(a, plain()));
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 0); /* V25 */
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_exclusive_prio, 1);
    cr_expect(refused(b, &w->cfg, "Invalid buffer sizes"));
    cr_expect(a->disabled);
    cr_expect(cons_enable(b, plain()), "the refused session is not in force");
}

Test(admit, V17_T8_to_T12_semaphore_table)
{
    struct cons *c[5];
    for (int i = 0; i < 5; i++)
        c[i] = cons_new(w, (uint32_t)i);
    cr_assert(cons_enable(c[0], one_semaphore("mutex", 0)));
    cr_expect(refused(c[1], &w->cfg, "semaphore"), "T9");
    cr_expect(refused(c[1], one_semaphore("mutex", 1), "semaphore"), "T10");
    cr_expect(cons_enable(c[1], one_semaphore("s", 1)));
    cr_expect(refused(c[2], one_semaphore("s", 0), "semaphore"), "T11");
    cons_ask(c[0], MSG_C_DISABLE);
    cr_expect(cons_enable(c[2], one_semaphore("mutex", 0)), "an ended session does not count");
    cr_expect_str_eq(c[0]->error, "", "T8");
    for (int i = 0; i < 3; i++)
        cons_ask(c[i], MSG_C_FREE);
    for (int i = 0; i < 4; i++)
        cr_expect(cons_enable(c[i], one_semaphore("s", 3)), "T12, session %d", i);
    cr_expect(refused(c[4], one_semaphore("s", 3), "semaphore"));
}

Test(admit, V17_several_semaphores)
{
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 2), *c = cons_new(w, 3);
    plain();
    semaphore("foo", 2);
    semaphore("bar", 0);
    cr_assert(cons_enable(a, &w->cfg));
    plain();
    semaphore("foo", 1);
    semaphore("baz", 1);
    cr_assert(cons_enable(b, &w->cfg));
    cr_expect(refused(c, one_semaphore("foo", 3), "semaphore"));
    cr_expect(refused(c, one_semaphore("bar", 0), "semaphore"));
    cr_expect(cons_enable(c, one_semaphore("baz", 1)));
    cons_ask(c, MSG_C_FREE);
    cr_expect(cons_enable(c, plain()));
}

Test(admit, R20_V18_T2_cooldown)
{
    struct cons *a = cons_new(w, 1);
    cr_assert(cons_enable(a, named("foo", true)));
    cons_ask(a, MSG_C_FREE);
    cr_expect(refused(a, &w->cfg, "300"));
    cr_expect(cons_enable(a, named("foo", false)), "R20: unguarded sessions do not look");
    cons_ask(a, MSG_C_FREE);
    cr_expect(cons_enable(a, named("bar", true)));
    cons_ask(a, MSG_C_FREE);
    world_advance_ms(w, 301 * 1000);
    cr_expect(cons_enable(a, named("foo", true)));
}

/* Every guarded request leaves its name behind for 300 s, refused ones too: without a bound a
 * consumer filled the memory with them. */
Test(admit, a_flood_of_guarded_names_is_bounded)
{
    struct cons *a = cons_new(w, 1);
    char name[16];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof(name), "%d", i);
        cr_assert(cons_enable(a, named(name, true)));
        cons_ask(a, MSG_C_FREE);
    }
    cr_expect_eq(list_count(&w->svc->cooldowns), 1024);
    cr_expect(refused(a, named("2999", true), "300"), "the youngest are remembered");
    cr_expect(refused(a, named("1976", true), "300"));
}

/* Semaphores are looked for in every other session: thousands against thousands took seconds. */
Test(admit, semaphores_have_a_limit)
{
    struct cons *a = cons_new(w, 1);
    char name[16];
    plain();
    for (int i = 0; i < 256; i++) {
        snprintf(name, sizeof(name), "%d", i);
        semaphore(name, 3);
    }
    cr_assert(cons_enable(a, &w->cfg));
    cons_ask(a, MSG_C_FREE);
    semaphore("one too many", 3);
    cr_expect(refused(a, &w->cfg, "256"));
}

Test(admit, V19_T6_per_uid)
{
    struct cons *c[12];
    for (int i = 0; i < 12; i++)
        c[i] = cons_new(w, (uint32_t)i % 2);
    for (int i = 0; i < 10; i++)
        cr_assert(cons_enable(c[i], plain()), "session %d", i);
    cr_expect(refused(c[10], plain(), "uid 0"), "root is no exception");
    cr_expect(refused(c[11], plain(), "uid 1"));
    cons_ask(c[0], MSG_C_DISABLE);
    cr_expect(refused(c[10], plain(), "uid 0"), "ended ones count");
    cons_ask(c[0], MSG_C_FREE);
    cr_expect(cons_enable(c[10], plain()));
}

Test(admit, V20_total)
{
    for (uint32_t i = 0; i < 15; i++)
        cr_assert(cons_enable(cons_new(w, 10 + i), plain()), "session %u", i);
    cr_expect(refused(cons_new(w, 99), plain(), "limit of the service"));
}

Test(admit, V21_filter)
{
    struct cons *c = cons_new(w, 1);
    plain();
    size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_trace_filter);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_TraceFilter_bytecode, "rubbish");
    bytesbuf_pb_end(&w->cfg, m);
    cr_expect_not(cons_enable(c, &w->cfg));
    cr_expect(c->disabled && c->error[0]);
    cr_expect(cons_enable(c, plain()), "nothing is left of it");
}

Test(admit, V22_boost_out_of_range)
{
    static const uint32_t bad[][2] = {{0, 1}, {3, 1}, {1, 21}, {2, 0}, {2, 100}};
    struct cons *c = cons_new(w, 1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        plain();
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_priority_boost);
        bytesbuf_pb_varint(&w->cfg, PBF_PriorityBoostConfig_policy, bad[i][0]);
        bytesbuf_pb_varint(&w->cfg, PBF_PriorityBoostConfig_priority, bad[i][1]);
        bytesbuf_pb_end(&w->cfg, m);
        cr_expect(refused(c, &w->cfg, "priority_boost"), "case %zu: %s", i, c->error);
    }
}

Test(admit, V23_file_target)
{
    struct cons *c = cons_new(w, 1);
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    cr_expect(refused(c, &w->cfg, "output_path"));
}

Test(admit, V24_output_path)
{
    struct cons *c = cons_new(w, 1);
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_output_path, "/no/such/folder/file");
    cr_expect(refused(c, &w->cfg, "/no/such/folder/file"), "%s", c->error);
}

Test(admit, V25_T7_buffer_sizes)
{
    struct cons *c = cons_new(w, 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 128);
    cfg_buffer(&w->cfg, 256);
    cfg_buffer(&w->cfg, 4194304);
    cr_expect(refused(c, &w->cfg, "Invalid buffer sizes"));
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 0);
    cr_expect(refused(c, &w->cfg, "Invalid buffer sizes"));
    cr_expect(cons_enable(c, plain()), "the buffers of the refused session are free again");
}

Test(admit, T5_no_setup_for_a_refused_session)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain();
    cfg_source(&w->cfg, "ds", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_duration_ms, 0x7fffffff);
    cr_expect(refused(c, &w->cfg, "duration_ms"));
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 0);
}

Test(admit, buffer_bytes_per_uid)
{
    const struct charge_limit limits[CHARGE_KINDS] = {
        [CHARGE_CONNECTIONS] = {10, 10},
        [CHARGE_SESSIONS] = {5, 15},
        [CHARGE_SMB_BYTES] = {1u << 30, UINT64_MAX},
        [CHARGE_BUFFER_BYTES] = {1u << 20, UINT64_MAX},
        [CHARGE_SOURCE_BYTES] = {1u << 20, UINT64_MAX},
        [CHARGE_QUEUE_BYTES] = {UINT64_MAX, UINT64_MAX},
    };
    world_free(w);
    w = world_new_limited(limits);
    struct cons *a = cons_new(w, 1), *b = cons_new(w, 1), *c = cons_new(w, 2);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 600);
    cr_assert(cons_enable(a, &w->cfg));
    cr_expect(refused(b, &w->cfg, "uid 1"), "%s", b->error);
    cr_expect(cons_enable(c, &w->cfg), "another uid has its own account");
    cons_ask(a, MSG_C_FREE);
    cr_expect(cons_enable(b, &w->cfg), "a freed session gives its bytes back");
}

Test(admit, R11_Q2_T35_lockdown)
{
    struct cons *c = cons_new(w, 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 0); /* refused, and still the lock is on */
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_lockdown_mode, 2);
    cr_expect_not(cons_enable(c, &w->cfg));
    cr_expect_null(prod_new(w, "stranger", (uint32_t)geteuid() + 1));
    cr_expect_not_null(prod_new(w, "self", (uint32_t)geteuid()));
    plain();
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_lockdown_mode, 1);
    cr_expect(cons_enable(c, &w->cfg));
    cr_expect_not_null(prod_new(w, "stranger", (uint32_t)geteuid() + 1));
}

Test(admit, R44_connected_strangers_are_skipped_in_lockdown)
{
    struct prod *p = prod_new(w, "stranger", (uint32_t)geteuid() + 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    plain();
    cfg_source(&w->cfg, "ds", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_lockdown_mode, 2);
    cr_expect(cons_enable(c, &w->cfg));
    cr_expect_eq(prod_count(p, MSG_PP_SETUP), 0);
}
