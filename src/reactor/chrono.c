/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chrono: clocks and randomness, or their stand-ins for tests. It owns the process-wide virtual
 * clock: one flag and three numbers. The flag is read with a relaxed atomic load on every call, so
 * real readings cost one predictable branch more than clock_gettime. Nothing else in the tree may
 * call clock_gettime, time, rand or getrandom; a deadline that looked at another clock could not
 * be turned by hand.
 */
#include "reactor/chrono.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>
#endif

static struct {
    bool on;
    uint64_t mono;
    uint64_t boot;
    uint64_t real;
    uint64_t cpu;
} virt;

static struct {
    uint64_t state; /* 0: use the kernel */
} rnd;

static bool is_virtual(void)
{
    return __builtin_expect(__atomic_load_n(&virt.on, __ATOMIC_RELAXED), 0);
}

static uint64_t virtual_ns(clockid_t clock)
{
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return virt.real;
    case CLOCK_BOOTTIME:
        return virt.boot;
    case CLOCK_THREAD_CPUTIME_ID:
        return virt.cpu;
    default:
        return virt.mono;
    }
}

static bool read_clock(clockid_t clock, uint64_t *out)
{
    struct timespec ts;
    if (clock_gettime(clock, &ts) != 0 || ts.tv_sec < 0)
        return false;
    *out = (uint64_t)ts.tv_sec * CHRONO_SEC + (uint64_t)ts.tv_nsec;
    return true;
}

uint64_t chrono_ns(clockid_t clock)
{
    uint64_t ns = 0;
    if (is_virtual())
        return virtual_ns(clock);
    (void)read_clock(clock, &ns);
    return ns;
}

uint64_t chrono_mono_ns(void)
{
    return chrono_ns(CLOCK_MONOTONIC);
}

uint64_t chrono_boot_ns(void)
{
    uint64_t ns = 0;
    if (is_virtual())
        return virt.boot;
    if (!read_clock(CLOCK_BOOTTIME, &ns))
        (void)read_clock(CLOCK_MONOTONIC, &ns);
    return ns;
}

uint64_t chrono_real_ns(void)
{
    return chrono_ns(CLOCK_REALTIME);
}

uint64_t chrono_cpu_ns(void)
{
    return chrono_ns(CLOCK_THREAD_CPUTIME_ID);
}

bool chrono_tsc(uint64_t *ticks)
{
    if (is_virtual()) {
        *ticks = virt.mono;
        return true;
    }
#if defined(__x86_64__) || defined(__i386__)
    *ticks = __rdtsc();
    return true;
#else
    return false;
#endif
}

static uint64_t seeded_u64(void)
{
    /* splitmix64: one add and three mixes; any seed but 0 will do. */
    rnd.state += 0x9E3779B97F4A7C15u;
    uint64_t z = rnd.state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void chrono_random_bytes(void *p, size_t n)
{
    uint8_t *at = p;
    while (n > 0 && rnd.state != 0) {
        uint64_t v = seeded_u64();
        size_t part = n < sizeof(v) ? n : sizeof(v);
        memcpy(at, &v, part);
        at += part;
        n -= part;
    }
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            /* Only a seccomp filter gets here. Unpredictable enough for hash seeds and ids. */
            uint64_t v = chrono_ns(CLOCK_REALTIME) ^ chrono_ns(CLOCK_MONOTONIC_RAW) << 20;
            v ^= (uint64_t)(uintptr_t)at;
            got = (ssize_t)(n < sizeof(v) ? n : sizeof(v));
            memcpy(at, &v, (size_t)got);
        }
        at += got;
        n -= (size_t)got;
    }
}

uint64_t chrono_random_u64(void)
{
    uint64_t v = 0;
    chrono_random_bytes(&v, sizeof(v));
    return v;
}

void chrono_random_seed(uint64_t seed)
{
    rnd.state = seed;
}

void chrono_virtual_start(uint64_t start)
{
    virt.mono = start;
    virt.boot = start;
    virt.cpu = start;
    virt.real = start + CHRONO_VIRTUAL_REAL;
    __atomic_store_n(&virt.on, true, __ATOMIC_RELEASE);
}

void chrono_virtual_stop(void)
{
    __atomic_store_n(&virt.on, false, __ATOMIC_RELEASE);
}

bool chrono_is_virtual(void)
{
    return is_virtual();
}

void chrono_virtual_advance(uint64_t ns)
{
    virt.cpu += ns;
    chrono_virtual_wait(ns);
}

void chrono_virtual_wait(uint64_t ns)
{
    virt.mono += ns;
    chrono_virtual_suspend(ns);
}

void chrono_virtual_suspend(uint64_t ns)
{
    virt.boot += ns;
    virt.real += ns;
}

void chrono_virtual_set_real(uint64_t ns)
{
    virt.real = ns;
}
