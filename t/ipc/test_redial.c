/* SPDX-License-Identifier: Apache-2.0 */
/* When to dial again (R79, R80, R82). */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ipc/redial.h"
#include "reactor/chrono.h"
#include "t/ipc/loop.h"

static struct reactor *r;
static struct redial *rd;
static int dials;
static bool fails; /* each attempt fails again at once */

static void dial(void *arg)
{
    cr_assert_eq(arg, &dials);
    dials++;
    if (fails)
        redial_failed(rd);
}

static char dir[] = "/tmp/ipc-redial.XXXXXX";
static char path[64];

static void setup(void)
{
    chrono_virtual_start(1000 * CHRONO_SEC);
    r = reactor_new(NULL);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
}

static void teardown(void)
{
    redial_free(rd);
    reactor_settle(r);
    reactor_free(r);
    loop_no_leaks();
    unlink(path);
    rmdir(dir);
    chrono_virtual_stop();
}

TestSuite(redial, .init = setup, .fini = teardown);

static void touch(const char *name)
{
    char file[128];
    snprintf(file, sizeof(file), "%s/%s", dir, name);
    int fd = open(file, O_CREAT | O_WRONLY, 0600);
    cr_assert_geq(fd, 0);
    close(fd);
    loop_ticks(r, 3);
}

Test(redial, delays)
{
    for (unsigned n = 1; n <= 10; n++)
        cr_assert_eq(redial_delay_ns(&redial_sdk, n), n * CHRONO_SEC);
    cr_assert_eq(redial_delay_ns(&redial_sdk, 11), 30 * CHRONO_SEC);
    cr_assert_eq(redial_delay_ns(&redial_sdk, 1000000), 30 * CHRONO_SEC);
    cr_assert_eq(redial_delay_ns(&redial_daemon, 1), 200 * CHRONO_MS);
    cr_assert_eq(redial_delay_ns(&redial_daemon, 2), 400 * CHRONO_MS);
    cr_assert_eq(redial_delay_ns(&redial_daemon, 8), 25600 * CHRONO_MS);
    cr_assert_eq(redial_delay_ns(&redial_daemon, 9), 30 * CHRONO_SEC);
    cr_assert_eq(redial_delay_ns(&redial_daemon, 1u << 31), 30 * CHRONO_SEC);
}

Test(redial, waits_longer_each_time)
{
    rd = redial_new(r, "@abstract", &redial_sdk, dial, &dials);
    fails = true;
    redial_failed(rd);
    reactor_advance(r, 999 * CHRONO_MS);
    cr_assert_eq(dials, 0);
    reactor_advance(r, CHRONO_MS);
    cr_assert_eq(dials, 1);
    reactor_advance(r, 54 * CHRONO_SEC); /* 2 + 3 + ... + 10 */
    cr_assert_eq(dials, 10);
    reactor_advance(r, 29 * CHRONO_SEC);
    cr_assert_eq(dials, 10);
    reactor_advance(r, 61 * CHRONO_SEC);
    cr_assert_eq(dials, 13);
    cr_assert_eq(redial_failures(rd), 14u);
}

/* The count is kept over a success (R79), unless the owner wants a fresh start (R82). */
Test(redial, done_stops_and_may_forget)
{
    rd = redial_new(r, path, &redial_sdk, dial, &dials);
    redial_failed(rd);
    cr_assert(redial_is_waiting(rd));
    redial_done(rd, false);
    cr_assert_not(redial_is_waiting(rd));
    reactor_advance(r, 100 * CHRONO_SEC);
    touch("s");
    cr_assert_eq(dials, 0);
    cr_assert_eq(redial_failures(rd), 1u);
    redial_failed(rd);
    reactor_advance(r, 1999 * CHRONO_MS);
    cr_assert_eq(dials, 0, "the second delay");
    redial_done(rd, true);
    redial_failed(rd);
    reactor_advance(r, CHRONO_SEC);
    cr_assert_eq(dials, 1, "the first delay again");
}

/* R80. */
Test(redial, the_name_cuts_the_wait_short)
{
    rd = redial_new(r, path, &redial_sdk, dial, &dials);
    redial_failed(rd);
    touch("other");
    cr_assert_eq(dials, 0);
    touch("s");
    cr_assert_eq(dials, 1);
    /* Bound but not listening yet: short delays follow before the long ones go on. */
    redial_failed(rd);
    reactor_advance(r, 20 * CHRONO_MS);
    cr_assert_eq(dials, 2);
    fails = true;
    redial_failed(rd);
    reactor_advance(r, 500 * CHRONO_MS);
    cr_assert_leq(dials, 6);
    cr_assert_eq(redial_failures(rd), 2u);
    char other[128];
    snprintf(other, sizeof(other), "%s/other", dir);
    unlink(other);
}

/* A name that appears between the failed attempt and its report is not missed. */
Test(redial, name_that_appeared_during_the_attempt)
{
    rd = redial_new(r, path, &redial_sdk, dial, &dials);
    touch("s");
    cr_assert_eq(dials, 0, "nobody waits yet");
    redial_failed(rd);
    loop_ticks(r, 3);
    cr_assert_eq(dials, 1);
}

Test(redial, missing_directory_leaves_the_delays)
{
    rd = redial_new(r, "/no/such/dir/s", &redial_sdk, dial, &dials);
    redial_failed(rd);
    reactor_advance(r, CHRONO_SEC);
    cr_assert_eq(dials, 1);
}

Test(redial, relative_and_root_paths)
{
    cr_assert_eq(chdir(dir), 0);
    rd = redial_new(r, "s", &redial_sdk, dial, &dials);
    redial_failed(rd);
    touch("s");
    cr_assert_eq(dials, 1);
    redial_free(rd);
    rd = redial_new(r, "/no_such_socket_here", &redial_sdk, dial, &dials);
    redial_failed(rd);
    loop_ticks(r, 2);
    cr_assert_eq(dials, 1);
    cr_assert_eq(chdir("/"), 0);
}
