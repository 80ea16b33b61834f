/* SPDX-License-Identifier: Apache-2.0 */
/* u64set: pids, file descriptors and kernel addresses seen in one read pass, and what was reported.
 *
 * Keys sit in one array in order of first sight, an open-addressed table (linear probing, load at
 * most one half) points into it. The number of keys is bounded by what one pass over the kernel's
 * buffers can hold, or by the pids of the system, so growth needs no cap of its own. */
#include "probes/u64set.h"

#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"

#define FIRST_SLOTS 64
#define KEEP_SLOTS  4096

static uint32_t hash(uint64_t key)
{
    key ^= key >> 32;
    key *= 0x9e3779b97f4a7c15ULL;
    return (uint32_t)(key >> 32);
}

/* The slot that holds key, or the free one where it belongs. */
static uint32_t probe(const struct u64set *s, uint64_t key)
{
    uint32_t mask = s->n_slots - 1, i = hash(key) & mask;
    while (s->slots[i] && s->keys[s->slots[i] - 1] != key)
        i = (i + 1) & mask;
    return i;
}

static void rehash(struct u64set *s)
{
    memset(s->slots, 0, s->n_slots * sizeof *s->slots);
    for (uint32_t k = 0; k < s->n; k++)
        s->slots[probe(s, s->keys[k])] = k + 1;
}

static void grow(struct u64set *s)
{
    s->n_slots = s->n_slots ? s->n_slots * 2 : FIRST_SLOTS;
    s->keys = alloc_resize(s->keys, s->n_slots / 2, sizeof *s->keys);
    s->slots = alloc_resize(s->slots, s->n_slots, sizeof *s->slots);
    rehash(s);
}

void u64set_fini(struct u64set *s)
{
    free(s->keys);
    free(s->slots);
    *s = (struct u64set){0};
}

void u64set_clear(struct u64set *s)
{
    s->n = 0;
    if (s->n_slots > KEEP_SLOTS)
        u64set_fini(s);
    else if (s->n_slots)
        memset(s->slots, 0, s->n_slots * sizeof *s->slots);
}

void u64set_add(struct u64set *s, uint64_t key, uint32_t *index, bool *fresh)
{
    if (s->n >= s->n_slots / 2)
        grow(s);
    uint32_t i = probe(s, key);
    bool added = s->slots[i] == 0;
    if (added) {
        s->keys[s->n++] = key;
        s->slots[i] = s->n;
    }
    if (index)
        *index = s->slots[i] - 1;
    if (fresh)
        *fresh = added;
}

bool u64set_has(const struct u64set *s, uint64_t key)
{
    return s->n && s->slots[probe(s, key)];
}

void u64set_remove(struct u64set *s, uint64_t key)
{
    if (!u64set_has(s, key))
        return;
    uint32_t mask = s->n_slots - 1, hole = probe(s, key), k = s->slots[hole] - 1, last = s->n - 1;
    s->slots[hole] = 0;
    /* Close the gap in the probe sequence: later entries that the hole would hide move into it. */
    for (uint32_t i = (hole + 1) & mask; s->slots[i]; i = (i + 1) & mask) {
        uint32_t home = hash(s->keys[s->slots[i] - 1]) & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            s->slots[hole] = s->slots[i];
            s->slots[i] = 0;
            hole = i;
        }
    }
    if (k != last) {
        s->slots[probe(s, s->keys[last])] = k + 1;
        s->keys[k] = s->keys[last];
    }
    s->n--;
}

static int ascending(const void *a, const void *b)
{
    int64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

void u64set_sort(struct u64set *s)
{
    if (s->n < 2)
        return;
    qsort(s->keys, s->n, sizeof *s->keys, ascending);
    rehash(s);
}
