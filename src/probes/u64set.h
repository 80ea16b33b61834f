/* SPDX-License-Identifier: Apache-2.0 */
/* u64set: a set of 64-bit keys that remembers the order of first sight. */
#ifndef PROBES_U64SET_H
#define PROBES_U64SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct u64set {
    uint64_t *keys;  /* own; n keys in order of first sight */
    uint32_t *slots; /* own; hash table of index + 1, 0 = free; n_slots is a power of two */
    uint32_t n, n_slots;
};

/* An all-zero struct is an empty set. */
void u64set_fini(struct u64set *s);

/* Forgets all keys and keeps the memory, unless it is more than a quiet set needs. */
void u64set_clear(struct u64set *s);

/* Adds a key unless it is there. *index is its position in order of first sight, *fresh tells that
 * it was added just now (either may be NULL). */
void u64set_add(struct u64set *s, uint64_t key, uint32_t *index, bool *fresh);

bool u64set_has(const struct u64set *s, uint64_t key);

/* Removes a key if it is there; the positions of others may change. */
void u64set_remove(struct u64set *s, uint64_t key);

/* Sorts keys ascending as signed numbers; positions change. */
void u64set_sort(struct u64set *s);

#endif
