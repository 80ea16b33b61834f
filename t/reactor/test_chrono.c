/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/chrono.h"

#include <criterion/criterion.h>
#include <string.h>

/* The clocks of a snapshot, service.md R128. */
static const clockid_t snapshot[] = {CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
                                     CLOCK_REALTIME, CLOCK_MONOTONIC,       CLOCK_MONOTONIC_RAW};

Test(chrono, real_clocks_are_the_kernels)
{
    for (size_t i = 0; i < 6; i++) {
        struct timespec ts;
        cr_assert_eq(clock_gettime(snapshot[i], &ts), 0);
        uint64_t before = (uint64_t)ts.tv_sec * CHRONO_SEC + (uint64_t)ts.tv_nsec;
        uint64_t ours = chrono_ns(snapshot[i]);
        clock_gettime(snapshot[i], &ts);
        uint64_t after = (uint64_t)ts.tv_sec * CHRONO_SEC + (uint64_t)ts.tv_nsec;
        cr_assert(before <= ours && ours <= after);
    }
    cr_assert_eq(chrono_ns(9999), 0);
    cr_assert_not(chrono_is_virtual());
}

Test(chrono, virtual_clocks_stand_still)
{
    uint64_t tsc = 0;
    chrono_virtual_start(5 * CHRONO_SEC);
    cr_assert(chrono_is_virtual());
    cr_assert_eq(chrono_mono_ns(), 5 * CHRONO_SEC);
    cr_assert_eq(chrono_boot_ns(), 5 * CHRONO_SEC);
    cr_assert_eq(chrono_real_ns(), 5 * CHRONO_SEC + CHRONO_VIRTUAL_REAL);
    chrono_virtual_advance(3);
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(chrono_ns(snapshot[i]) % CHRONO_SEC, 3);
    cr_assert(chrono_tsc(&tsc));
    cr_assert_eq(tsc, 5 * CHRONO_SEC + 3);
    chrono_virtual_stop();
    cr_assert_gt(chrono_real_ns(), CHRONO_VIRTUAL_REAL);
}

Test(chrono, the_cpu_clock_counts_work_and_no_waits)
{
    uint64_t before = chrono_cpu_ns();
    for (volatile int i = 0; i < 100000; i++)
        ;
    uint64_t worked = chrono_cpu_ns() - before;
    cr_assert_gt(worked, 0);
    chrono_virtual_start(1000);
    before = chrono_cpu_ns();
    chrono_virtual_wait(70);
    cr_assert_eq(chrono_cpu_ns(), before);
    cr_assert_eq(chrono_mono_ns(), 1070);
    cr_assert_eq(chrono_boot_ns(), 1070);
    chrono_virtual_advance(5);
    cr_assert_eq(chrono_cpu_ns(), before + 5);
}

Test(chrono, suspend_and_set_move_the_right_clocks)
{
    chrono_virtual_start(1000);
    chrono_virtual_suspend(50);
    cr_assert_eq(chrono_mono_ns(), 1000);
    cr_assert_eq(chrono_ns(CLOCK_MONOTONIC_RAW), 1000);
    cr_assert_eq(chrono_boot_ns(), 1050);
    cr_assert_eq(chrono_real_ns(), 1050 + CHRONO_VIRTUAL_REAL);
    chrono_virtual_set_real(77);
    cr_assert_eq(chrono_ns(CLOCK_REALTIME_COARSE), 77);
    cr_assert_eq(chrono_boot_ns(), 1050);
}

Test(chrono, seeded_random_repeats_and_kernel_random_does_not)
{
    uint8_t a[21];
    uint8_t b[21];
    chrono_random_seed(42);
    chrono_random_bytes(a, sizeof(a));
    uint64_t first = chrono_random_u64();
    chrono_random_seed(42);
    chrono_random_bytes(b, sizeof(b));
    cr_assert_eq(memcmp(a, b, sizeof(a)), 0);
    cr_assert_eq(chrono_random_u64(), first);
    chrono_random_seed(43);
    chrono_random_bytes(b, sizeof(b));
    cr_assert_neq(memcmp(a, b, sizeof(a)), 0);
    chrono_random_seed(0);
    cr_assert_neq(chrono_random_u64(), chrono_random_u64());
}
