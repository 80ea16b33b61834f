/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc/tbuf_hash: which slot of the sequence table a key has. For svc/tbuf_seq only.
 *
 * Seven keys and their slots stand together in one cache line, a bucket. A lookup compares all of
 * them without a branch, so that it costs one line and nothing that the processor has to guess; a
 * key that finds its bucket full goes to the next one, and the bucket counts how many did.
 */
#ifndef SVC_TBUF_HASH_H
#define SVC_TBUF_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TBUF_HASH_LAST 7u /* index of what is no key */

/* Exactly one cache line. */
struct tbuf_bucket {
    uint32_t keys[8];  /* those in use come first, 0 behind them; the last is their number */
    uint32_t slots[8]; /* the last: keys that wanted to stand here or before, and stand behind */
};

struct tbuf_hash {
    struct tbuf_bucket *buckets; /* own */
    uint32_t last;               /* buckets - 1, a power of two less one */
    uint32_t shift;
    uint32_t keys;
};

/* Frees the memory. */
void tbuf_hash_fini(struct tbuf_hash *h);

/* Bytes in use. */
uint64_t tbuf_hash_memory(const struct tbuf_hash *h);

/* Makes room for one more key. 0 or -ENOMEM. */
int tbuf_hash_reserve(struct tbuf_hash *h);

/* Adds a key that is not there, for which there is room. Neither is 0. */
void tbuf_hash_put(struct tbuf_hash *h, uint32_t key, uint32_t slot);

/* Removes a key that is there. */
void tbuf_hash_remove(struct tbuf_hash *h, uint32_t key);

/* The top bits of the product: keys that grow evenly, as ids do, spread evenly. */
static inline struct tbuf_bucket *tbuf_hash_home(const struct tbuf_hash *h, uint32_t key)
{
    return &h->buckets[(key * UINT64_C(0x9E3779B97F4A7C15)) >> h->shift];
}

/* Asks for the line that a key should be in. */
static inline void tbuf_hash_warm(const struct tbuf_hash *h, uint32_t key)
{
    if (h->buckets != NULL)
        __builtin_prefetch(tbuf_hash_home(h, key), 1);
}

typedef uint32_t tbuf_lanes __attribute__((vector_size(16)));

/* What stands in `values` where the bucket has this key, 0: the key is not there. */
static inline uint32_t tbuf_bucket_pick(const struct tbuf_bucket *k, uint32_t key,
                                        const uint32_t values[8])
{
    const tbuf_lanes seven = {~0u, ~0u, ~0u, 0};
    tbuf_lanes want = {key, key, key, key}, k0, k1, v0, v1;
    memcpy(&k0, k->keys, sizeof(k0));
    memcpy(&k1, k->keys + 4, sizeof(k1));
    memcpy(&v0, values, sizeof(v0));
    memcpy(&v1, values + 4, sizeof(v1));
    tbuf_lanes v = ((tbuf_lanes)(k0 == want) & v0) | ((tbuf_lanes)(k1 == want) & v1 & seven);
    v |= __builtin_shufflevector(v, v, 2, 3, 0, 1); /* gcc 12 has it as clang has */
    v |= __builtin_shufflevector(v, v, 1, 0, 3, 2);
    return v[0];
}

/* Slot of a key that is not 0. 0: not known. */
static inline uint32_t tbuf_hash_find(const struct tbuf_hash *h, uint32_t key)
{
    if (h->buckets == NULL)
        return 0;
    const struct tbuf_bucket *k = tbuf_hash_home(h, key);
    uint32_t slot = tbuf_bucket_pick(k, key, k->slots);
    while (__builtin_expect(slot == 0 && k->slots[TBUF_HASH_LAST] != 0, 0)) {
        k = k == &h->buckets[h->last] ? h->buckets : k + 1;
        slot = tbuf_bucket_pick(k, key, k->slots);
    }
    return slot;
}

#endif
