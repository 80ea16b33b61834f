/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idmap: open addressing with linear probing and backward-shift deletion, at most three quarters
 * full. Backward shift instead of tombstones, because actors come and go for weeks and a table
 * must not silt up. Invariant: from the home slot of every key to the slot it sits in there is no
 * empty slot. An empty slot is one whose value is NULL, so any key, 0 included, may be stored.
 */
#include "reactor/idmap.h"

#include "reactor/alloc.h"
#include "reactor/chrono.h"

#include <errno.h>

enum { FIRST_SLOTS = 8 };

static size_t home_of(const struct idmap *m, uint64_t key)
{
    uint64_t h = (key ^ m->seed) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return (size_t)h & m->mask;
}

void idmap_init(struct idmap *m)
{
    *m = (struct idmap){NULL, 0, 0, 0};
}

void idmap_fini(struct idmap *m)
{
    free(m->slots);
    idmap_init(m);
}

/* The slot that holds key, or the empty one where it would go. The table is never full. */
static struct idmap_slot *probe(const struct idmap *m, uint64_t key)
{
    size_t i = home_of(m, key);
    while (m->slots[i].value != NULL && m->slots[i].key != key)
        i = (i + 1) & m->mask;
    return &m->slots[i];
}

void *idmap_get(const struct idmap *m, uint64_t key)
{
    return m->slots != NULL ? probe(m, key)->value : NULL;
}

static int grow(struct idmap *m)
{
    size_t n = m->slots != NULL ? (m->mask + 1) * 2 : FIRST_SLOTS;
    struct idmap bigger = {alloc_try_array(n, sizeof(struct idmap_slot)), n - 1, m->count,
                           m->slots != NULL ? m->seed : chrono_random_u64()};
    if (bigger.slots == NULL)
        return -ENOMEM;
    for (size_t i = 0; m->slots != NULL && i <= m->mask; i++)
        if (m->slots[i].value != NULL)
            *probe(&bigger, m->slots[i].key) = m->slots[i];
    free(m->slots);
    *m = bigger;
    return 0;
}

int idmap_put(struct idmap *m, uint64_t key, void *value)
{
    if (idmap_get(m, key) != NULL)
        return -EEXIST;
    if (m->slots == NULL || (m->count + 1) * 4 > (m->mask + 1) * 3) {
        int err = grow(m);
        if (err != 0)
            return err;
    }
    *probe(m, key) = (struct idmap_slot){key, value};
    m->count++;
    return 0;
}

void *idmap_del(struct idmap *m, uint64_t key)
{
    if (m->slots == NULL)
        return NULL;
    struct idmap_slot *hole = probe(m, key);
    void *value = hole->value;
    if (value == NULL)
        return NULL;
    size_t at = (size_t)(hole - m->slots);
    for (size_t i = (at + 1) & m->mask; m->slots[i].value != NULL; i = (i + 1) & m->mask) {
        size_t home = home_of(m, m->slots[i].key);
        /* An entry may fall back into the hole only if that is not before its home slot. */
        if (((i - home) & m->mask) >= ((i - at) & m->mask)) {
            m->slots[at] = m->slots[i];
            at = i;
        }
    }
    m->slots[at].value = NULL;
    m->count--;
    return value;
}

bool idmap_next(const struct idmap *m, size_t *pos, uint64_t *key, void **value)
{
    while (m->slots != NULL && *pos <= m->mask) {
        const struct idmap_slot *s = &m->slots[(*pos)++];
        if (s->value == NULL)
            continue;
        if (key != NULL)
            *key = s->key;
        *value = s->value;
        return true;
    }
    return false;
}

void *idmap_any(const struct idmap *m, uint64_t *key)
{
    size_t pos = 0;
    void *value = NULL;
    return idmap_next(m, &pos, key, &value) ? value : NULL;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

uint64_t *idmap_sorted_keys(const struct idmap *m)
{
    if (m->count == 0)
        return NULL;
    uint64_t *keys = alloc_try_array(m->count, sizeof(*keys));
    if (keys == NULL)
        return NULL;
    size_t n = 0;
    void *value = NULL;
    for (size_t pos = 0; n < m->count && idmap_next(m, &pos, &keys[n], &value);)
        n++;
    qsort(keys, n, sizeof(*keys), compare_keys);
    return keys;
}

void idmap_ids_init(struct idmap_ids *ids, uint32_t lo, uint32_t hi)
{
    *ids = (struct idmap_ids){lo, hi, lo};
}

int idmap_ids_next(struct idmap_ids *ids, const struct idmap *used, uint32_t *out)
{
    if (used->count > (size_t)(ids->hi - ids->lo))
        return -ENOSPC;
    /* Some id is free, so this ends after at most one round. */
    while (idmap_get(used, ids->next) != NULL)
        ids->next = ids->next == ids->hi ? ids->lo : ids->next + 1;
    *out = ids->next;
    ids->next = ids->next == ids->hi ? ids->lo : ids->next + 1;
    return 0;
}
