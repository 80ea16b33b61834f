/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and slots in buckets of one cache line.
 *
 * A key stands in its home bucket or, if that was full, in the next one with room. The last slot of
 * each bucket between home and place counts it, so that a lookup knows where to stop and nothing is
 * ever left behind by a removal. On average at most four of seven places are taken: one key in
 * fifty stands elsewhere.
 *
 * This file knows keys and slots as numbers only.
 */
#include "svc/tbuf_hash.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN 16u
#define SHIFT_MAX   60u /* 64 - 4 bits of a bucket number */
#define AVERAGE     4u  /* keys a bucket, above which there are twice as many */

_Static_assert(sizeof(struct tbuf_bucket) == 64, "one cache line");

void tbuf_hash_fini(struct tbuf_hash *h)
{
    free(h->buckets);
    memset(h, 0, sizeof(*h));
}

uint64_t tbuf_hash_memory(const struct tbuf_hash *h)
{
    return h->buckets == NULL ? 0 : ((uint64_t)h->last + 1) * sizeof(*h->buckets);
}

static struct tbuf_bucket *next(const struct tbuf_hash *h, struct tbuf_bucket *k)
{
    return k == &h->buckets[h->last] ? h->buckets : k + 1;
}

static void put(struct tbuf_hash *h, uint32_t key, uint32_t slot)
{
    struct tbuf_bucket *k = tbuf_hash_home(h, key);
    while (k->keys[TBUF_HASH_LAST] == TBUF_HASH_LAST) {
        k->slots[TBUF_HASH_LAST]++;
        k = next(h, k);
    }
    uint32_t i = k->keys[TBUF_HASH_LAST]++;
    k->keys[i] = key;
    k->slots[i] = slot;
}

static int grow(struct tbuf_hash *h)
{
    uint32_t buckets = h->buckets == NULL ? BUCKETS_MIN : (h->last + 1) * 2;
    size_t bytes = buckets * sizeof(*h->buckets);
    struct tbuf_hash fresh = {.buckets = aligned_alloc(sizeof(*h->buckets), bytes),
                              .last = buckets - 1,
                              .shift = h->buckets == NULL ? SHIFT_MAX : h->shift - 1,
                              .keys = h->keys};
    if (fresh.buckets == NULL)
        return -ENOMEM;
    memset(fresh.buckets, 0, bytes);
    for (uint32_t i = 0; h->buckets != NULL && i <= h->last; i++) {
        for (uint32_t j = 0; j < h->buckets[i].keys[TBUF_HASH_LAST]; j++)
            put(&fresh, h->buckets[i].keys[j], h->buckets[i].slots[j]);
    }
    free(h->buckets);
    *h = fresh;
    return 0;
}

int tbuf_hash_reserve(struct tbuf_hash *h)
{
    bool room = h->buckets != NULL && h->keys < (h->last + 1) * AVERAGE;
    return room ? 0 : grow(h);
}

void tbuf_hash_put(struct tbuf_hash *h, uint32_t key, uint32_t slot)
{
    put(h, key, slot);
    h->keys++;
}

void tbuf_hash_remove(struct tbuf_hash *h, uint32_t key)
{
    static const uint32_t places[8] = {1, 2, 3, 4, 5, 6, 7, 0};
    struct tbuf_bucket *k = tbuf_hash_home(h, key);
    uint32_t i;
    while ((i = tbuf_bucket_pick(k, key, places)) == 0) {
        k->slots[TBUF_HASH_LAST]--;
        k = next(h, k);
    }
    uint32_t last = --k->keys[TBUF_HASH_LAST];
    k->keys[i - 1] = k->keys[last];
    k->slots[i - 1] = k->slots[last];
    k->keys[last] = 0;
    h->keys--;
}
