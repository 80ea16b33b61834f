/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clock snapshots. A session keeps at most CLOCKSNAP_RING of them between two reads; an attempt
 * that tells nothing new (no clock moved against the boot clock) is not stored, so a quiet machine
 * costs nothing. All readings come from reactor/chrono, so tests turn the clocks by hand.
 */
#include "svc/clocksnap.h"

#include <time.h>

#include "reactor/chrono.h"

#define DRIFT_LIMIT_NS 10000000 /* R130; the counter takes part with its raw ticks (Q8) */

void clocksnap_take(struct clocksnap *out)
{
    static const struct {
        uint32_t id;
        clockid_t clock;
    } order[] = {
        {CLOCKSNAP_BOOTTIME, CLOCK_BOOTTIME},
        {CLOCKSNAP_REALTIME_COARSE, CLOCK_REALTIME_COARSE},
        {CLOCKSNAP_MONOTONIC_COARSE, CLOCK_MONOTONIC_COARSE},
        {CLOCKSNAP_REALTIME, CLOCK_REALTIME},
        {CLOCKSNAP_MONOTONIC, CLOCK_MONOTONIC},
        {CLOCKSNAP_MONOTONIC_RAW, CLOCK_MONOTONIC_RAW},
    };
    uint32_t n = 0;
    for (; n < sizeof(order) / sizeof(order[0]); n++)
        out->clocks[n] = (struct clocksnap_reading){order[n].id, chrono_ns(order[n].clock)};
    uint64_t ticks;
    if (chrono_tsc(&ticks))
        out->clocks[n++] = (struct clocksnap_reading){CLOCKSNAP_TSC, ticks};
    out->n = n;
}

uint64_t clocksnap_get(const struct clocksnap *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->clocks[i].id == id)
            return s->clocks[i].value;
    }
    return 0;
}

static bool drifted(const struct clocksnap *now, const struct clocksnap *then)
{
    int64_t boot = (int64_t)(now->clocks[0].value - then->clocks[0].value);
    for (uint32_t i = 1; i < now->n && i < then->n; i++) {
        int64_t delta = (int64_t)(now->clocks[i].value - then->clocks[i].value);
        int64_t apart = (int64_t)((uint64_t)delta - (uint64_t)boot);
        if (apart >= DRIFT_LIMIT_NS || apart <= -DRIFT_LIMIT_NS)
            return true;
    }
    return false;
}

bool clocksnap_ring_attempt(struct clocksnap_ring *ring)
{
    struct clocksnap now;
    clocksnap_take(&now);
    if (ring->n > 0 && !drifted(&now, clocksnap_ring_at(ring, ring->n - 1)))
        return false;
    if (ring->n == CLOCKSNAP_RING) {
        ring->first = (ring->first + 1) % CLOCKSNAP_RING;
        ring->n--;
    }
    ring->snaps[(ring->first + ring->n) % CLOCKSNAP_RING] = now;
    ring->n++;
    return true;
}

const struct clocksnap *clocksnap_ring_at(const struct clocksnap_ring *ring, uint32_t i)
{
    return &ring->snaps[(ring->first + i) % CLOCKSNAP_RING];
}

void clocksnap_ring_clear(struct clocksnap_ring *ring)
{
    ring->first = 0;
    ring->n = 0;
}
