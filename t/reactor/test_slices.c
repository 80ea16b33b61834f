/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/slices.h"
#include "reactor/chrono.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct slices s;
static struct slices_source top[SLICES_SOURCES + 1];

static void setup(void)
{
    chrono_virtual_start(CHRONO_SEC);
    slices_init(&s, 2 * CHRONO_MS);
    slices_begin(&s);
}

TestSuite(slices, .init = setup);

/* A slice that works and waits so long. */
static void slice(const char *name, uint64_t work, uint64_t wait)
{
    chrono_virtual_advance(work);
    chrono_virtual_wait(wait);
    slices_end(&s, name);
}

Test(slices, waits_are_told_from_work)
{
    slice("first", 0, 0);
    slice("a", CHRONO_MS, 9 * CHRONO_MS);
    slice("b", 3 * CHRONO_MS, 0);
    slice("a", CHRONO_MS, CHRONO_MS);
    cr_assert_eq(slices_sources(&s, top, 9), 2);
    cr_expect_str_eq(top[0].name, "b");
    cr_expect_eq(top[0].longest_ns, 3 * CHRONO_MS);
    cr_expect_eq(top[0].over, 1);
    cr_expect_str_eq(top[1].name, "a");
    cr_expect_eq(top[1].longest_ns, CHRONO_MS);
    cr_expect_eq(top[1].longest_wall_ns, 10 * CHRONO_MS);
    cr_expect_eq(top[1].over, 0);
    cr_expect_eq(top[1].over_wall, 1);
    cr_expect_eq(s.total.over, 1);
    cr_expect_eq(s.total.over_wall, 2);
    cr_expect_eq(s.total.longest_ns, 3 * CHRONO_MS);
    cr_expect_eq(s.total.longest_wall_ns, 10 * CHRONO_MS);
    cr_expect_eq(slices_sources(&s, top, 1), 1, "no more than there is room for");
}

/* The clock of the CPU is read now and then: a long slice behind short ones is at most charged with
 * 50 us of theirs. */
Test(slices, short_ones_cost_no_look_and_falsify_little)
{
    slice("first", 0, 0);
    uint64_t looked = s.looked_at;
    for (int i = 0; i < 4; i++)
        slice("short", 10 * CHRONO_US, 0);
    cr_expect_eq(s.looked_at, looked);
    slice("long", CHRONO_MS, 5 * CHRONO_MS);
    cr_assert_eq(slices_sources(&s, top, 9), 1);
    cr_expect_eq(top[0].longest_ns, CHRONO_MS + 40 * CHRONO_US);
    cr_expect_eq(top[0].longest_wall_ns, 6 * CHRONO_MS);
    for (int i = 0; i < 100; i++)
        slice("short", 10 * CHRONO_US, 0);
    cr_expect_eq(slices_sources(&s, top, 9), 1, "none of them was long");
}

Test(slices, an_idle_loop_is_not_a_slice)
{
    slice("first", 0, 0);
    chrono_virtual_wait(CHRONO_SEC);
    slices_begin(&s);
    slice("a", CHRONO_MS, 0);
    cr_assert_eq(slices_sources(&s, top, 9), 1);
    cr_expect_eq(top[0].longest_wall_ns, CHRONO_MS);
}

Test(slices, names_lose_their_numbers_and_gain_details)
{
    slice("session 3", CHRONO_MS, 0);
    slice("session 17", 2 * CHRONO_MS, 0);
    s.detail = "MSG_COPY";
    slice("consumer pid 99", CHRONO_MS, 0);
    s.detail = "session 12";
    slice("reap", CHRONO_MS / 2, 0);
    cr_assert_eq(slices_sources(&s, top, 9), 3);
    cr_expect_str_eq(top[0].name, "session");
    cr_expect_str_eq(top[1].name, "consumer pid: MSG_COPY");
    cr_expect_str_eq(top[2].name, "reap: session");
    s.detail = "a detail that is longer than all the room that there is for a name of a source";
    slice("x", 9 * CHRONO_MS, 0);
    slices_sources(&s, top, 9);
    cr_expect_eq(strlen(top[0].name), SLICES_NAME - 1);
}

Test(slices, a_full_table_keeps_the_longest)
{
    char name[3] = "aa";
    for (unsigned i = 0; i < SLICES_SOURCES + 20; i++) {
        name[0] = (char)('a' + i / 26);
        name[1] = (char)('a' + i % 26);
        slice(name, (100 + (i * 37) % 68) * CHRONO_US, 0); /* 37: every length once */
    }
    unsigned n = slices_sources(&s, top, SLICES_SOURCES + 1);
    cr_assert_eq(n, SLICES_SOURCES);
    for (unsigned i = 0; i < n; i++)
        cr_expect_eq(top[i].longest_ns, (167 - i) * CHRONO_US);
}
