/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CLOCKSNAP_H
#define SVC_CLOCKSNAP_H

/*
 * Snapshots of all clocks, and the ring of those that a session has not emitted yet (service.md
 * R128-R130).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLOCKSNAP_CLOCKS 7  /* six POSIX clocks and the time stamp counter */
#define CLOCKSNAP_RING   16 /* R130: the oldest is dropped */

/* BuiltinClock ids (builtin_clock.proto). */
enum clocksnap_id {
    CLOCKSNAP_REALTIME = 1,
    CLOCKSNAP_REALTIME_COARSE = 2,
    CLOCKSNAP_MONOTONIC = 3,
    CLOCKSNAP_MONOTONIC_COARSE = 4,
    CLOCKSNAP_MONOTONIC_RAW = 5,
    CLOCKSNAP_BOOTTIME = 6,
    CLOCKSNAP_TSC = 9
};

struct clocksnap_reading {
    uint32_t id; /* enum clocksnap_id */
    uint64_t value;
};

/* One snapshot, in the order of R128: BOOTTIME first. */
struct clocksnap {
    uint32_t n;
    struct clocksnap_reading clocks[CLOCKSNAP_CLOCKS];
};

/* Zero-initialised: empty. */
struct clocksnap_ring {
    struct clocksnap snaps[CLOCKSNAP_RING];
    uint32_t first;
    uint32_t n;
};

/* Reads all clocks back to back. */
void clocksnap_take(struct clocksnap *out);

/* The reading of one clock; 0 when the snapshot lacks it. */
uint64_t clocksnap_get(const struct clocksnap *s, uint32_t id);

/* Takes a snapshot and stores it if the ring is empty or some clock has drifted by 10 ms or more
 * against the boot clock since the newest one (R130). True when it was stored. */
bool clocksnap_ring_attempt(struct clocksnap_ring *ring);

/* Snapshot i, 0 the oldest; i < ring->n. */
const struct clocksnap *clocksnap_ring_at(const struct clocksnap_ring *ring, uint32_t i);

void clocksnap_ring_clear(struct clocksnap_ring *ring);

#endif
