/* SPDX-License-Identifier: Apache-2.0 */
/* The hash of the sequence table: what was put is found, what was removed is not and leaves nothing
 * behind, however the keys fall. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "svc/tbuf_hash.h"

static uint64_t state = 1;

static uint32_t rnd(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static void put(struct tbuf_hash *h, uint32_t key, uint32_t slot)
{
    cr_assert_eq(tbuf_hash_reserve(h), 0);
    tbuf_hash_put(h, key, slot);
}

/* Nothing is counted as passed on any more. */
static void assert_settled(const struct tbuf_hash *h)
{
    cr_assert_eq(h->keys, 0);
    for (uint32_t i = 0; i <= h->last; i++) {
        cr_assert_eq(h->buckets[i].keys[TBUF_HASH_LAST], 0, "bucket %u", i);
        cr_assert_eq(h->buckets[i].slots[TBUF_HASH_LAST], 0, "bucket %u", i);
    }
}

Test(tbuf_hash, an_empty_hash_knows_nothing_and_takes_no_memory)
{
    struct tbuf_hash h = {0};
    tbuf_hash_warm(&h, 1);
    cr_assert_eq(tbuf_hash_find(&h, 0x10001), 0);
    cr_assert_eq(tbuf_hash_memory(&h), 0);
}

/* Random puts and removals against an array indexed by key. */
Test(tbuf_hash, finds_what_a_plain_array_finds)
{
    static uint32_t slot_of[4096];
    struct tbuf_hash h = {0};
    uint32_t in = 0;
    for (uint32_t step = 0; step < 400000; step++) {
        uint32_t most = step / 100000 % 2 == 0 ? 4096 : 64; /* grows and shrinks */
        uint32_t i = rnd(4096);
        uint32_t key = 0x10000 + i * 65537u;
        cr_assert_eq(tbuf_hash_find(&h, key), slot_of[i], "step %u", step);
        if (slot_of[i] != 0) {
            if (in > most || rnd(2) == 0) {
                tbuf_hash_remove(&h, key);
                slot_of[i] = 0;
                in--;
            }
        } else if (in < most) {
            slot_of[i] = step + 1;
            put(&h, key, step + 1);
            in++;
        }
        cr_assert_eq(h.keys, in);
    }
    for (uint32_t i = 0; i < 4096; i++) {
        if (slot_of[i] != 0)
            tbuf_hash_remove(&h, 0x10000 + i * 65537u);
    }
    assert_settled(&h);
    tbuf_hash_fini(&h);
}

/* A producer may choose its writer ids so that all fall into one bucket: they stand behind it, and
 * a removal in the middle hides none of the others. */
Test(tbuf_hash, keys_that_fall_into_one_bucket_stand_behind_it)
{
    struct tbuf_hash h = {0};
    uint32_t keys[60];
    uint32_t n = 0;
    put(&h, 0x10000, 1);
    struct tbuf_bucket *last = &h.buckets[h.last]; /* so that they go round the end, too */
    for (uint32_t key = 0x10001; n < 60; key++) {
        if (tbuf_hash_home(&h, key) == last)
            keys[n++] = key;
    }
    tbuf_hash_remove(&h, 0x10000);
    for (uint32_t i = 0; i < n; i++)
        put(&h, keys[i], 100 + i);
    cr_assert_eq(h.last, 15, "it grew");
    for (uint32_t i = 0; i < n; i += 2)
        tbuf_hash_remove(&h, keys[i]);
    for (uint32_t i = 0; i < n; i++)
        cr_assert_eq(tbuf_hash_find(&h, keys[i]), i % 2 == 0 ? 0 : 100 + i, "key %u", i);
    for (uint32_t i = 1; i < n; i += 2)
        tbuf_hash_remove(&h, keys[i]);
    assert_settled(&h);
    tbuf_hash_fini(&h);
}

/* The number of keys in a bucket is no key, nor is the number of those behind it. */
Test(tbuf_hash, small_keys_are_not_mistaken_for_its_own_counters)
{
    struct tbuf_hash h = {0};
    for (uint32_t i = 0; i < 40; i++)
        put(&h, 0x10000 + i, 1000 + i);
    for (uint32_t key = 1; key < 64; key++)
        cr_assert_eq(tbuf_hash_find(&h, key), 0, "key %u", key);
    tbuf_hash_fini(&h);
}
