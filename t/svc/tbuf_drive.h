/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a trace buffer and its reference model with the same operations and compares them after
 * each. The operations come from a source of 32-bit numbers: a generator in the tests and the soak
 * program, the input in the fuzz target.
 */
#ifndef T_SVC_TBUF_DRIVE_H
#define T_SVC_TBUF_DRIVE_H

#include <stdbool.h>
#include <stdint.h>

struct drive;

struct drive_source {
    uint32_t (*next)(void *arg);
    void *arg;
};

/* A pair of a fresh buffer and a fresh model; size, policy and habits come from the source. */
struct drive *drive_new(struct drive_source src);
void drive_free(struct drive *d);

/* One operation. NULL, or what differs between the two: static text that names the step. */
const char *drive_step(struct drive *d);

/* Steps done on this pair, and how many packets came out. */
uint64_t drive_packets(const struct drive *d);

#endif
