/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_CHRONO_H
#define REACTOR_CHRONO_H

/*
 * The only source of time and randomness. Times are nanoseconds in uint64_t. Reads may come from
 * any thread and cost no system call (vDSO).
 *
 * Unit tests put a virtual clock in place of all clocks of the process: it stands still until it
 * is moved by hand. Switch it before threads exist.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define CHRONO_US  UINT64_C(1000)
#define CHRONO_MS  UINT64_C(1000000)
#define CHRONO_SEC UINT64_C(1000000000)

/* CLOCK_MONOTONIC: deadlines, slices. The service's "wall clock" is this one too. */
uint64_t chrono_mono_ns(void);

/* CLOCK_BOOTTIME, or CLOCK_MONOTONIC where the kernel has none: trace timestamps. */
uint64_t chrono_boot_ns(void);

/* CLOCK_REALTIME since 1970. */
uint64_t chrono_real_ns(void);

/* CLOCK_THREAD_CPUTIME_ID: what the calling thread has worked, waits of any kind left out. A system
 * call, unlike the others: some 200 ns. */
uint64_t chrono_cpu_ns(void);

/* Any clock of clock_gettime(2); 0 when the kernel does not have it. For a clock snapshot read, in
 * this order: BOOTTIME, REALTIME_COARSE, MONOTONIC_COARSE, REALTIME, MONOTONIC, MONOTONIC_RAW
 * (service.md R128). */
uint64_t chrono_ns(clockid_t clock);

/* Raw ticks of the time stamp counter (R128, clock 9). False where the CPU has none. */
bool chrono_tsc(uint64_t *ticks);

/* Random numbers from the kernel; they never fail and may be used for UUIDs. */
uint64_t chrono_random_u64(void);
void chrono_random_bytes(void *p, size_t n);

/* For tests: from now on chrono_random_* gives the same numbers for the same seed. Seed 0 goes
 * back to the kernel. */
void chrono_random_seed(uint64_t seed);

/* For tests: all clocks stand still at `start` (CLOCK_REALTIME and its coarse form at start +
 * CHRONO_VIRTUAL_REAL; the TSC counts one tick per nanosecond). */
#define CHRONO_VIRTUAL_REAL (UINT64_C(1700000000) * CHRONO_SEC)
void chrono_virtual_start(uint64_t start);

/* Back to the kernel's clocks. */
void chrono_virtual_stop(void);

/* True while the clock is virtual. */
bool chrono_is_virtual(void);

/* Moves all clocks on by ns. */
void chrono_virtual_advance(uint64_t ns);

/* The thread has no CPU for ns, or waits: all clocks go on but that of chrono_cpu_ns. */
void chrono_virtual_wait(uint64_t ns);

/* The machine sleeps for ns: only BOOTTIME and the real-time clocks go on. */
void chrono_virtual_suspend(uint64_t ns);

/* Somebody sets the date: the real-time clocks jump to ns since 1970. */
void chrono_virtual_set_real(uint64_t ns);

#endif
