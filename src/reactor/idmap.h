/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_IDMAP_H
#define REACTOR_IDMAP_H

/*
 * Hash map from a 64-bit id to a pointer, and hand-out of small ids from a bounded range.
 * The map borrows the pointers. Its hash is seeded per map, so that peers who choose ids cannot
 * choose collisions. Lookups allocate nothing.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct idmap_slot {
    uint64_t key;
    void *value; /* borrow; NULL marks an empty slot */
};

struct idmap {
    struct idmap_slot *slots; /* own; NULL until the first put */
    size_t mask;              /* slots - 1, a power of two less one */
    size_t count;
    uint64_t seed;
};

/* Empty map; allocates nothing. */
void idmap_init(struct idmap *m);

/* Frees the table (not what it points to); the map is as after init. */
void idmap_fini(struct idmap *m);

/* The value of key, or NULL. */
void *idmap_get(const struct idmap *m, uint64_t key);

/* Adds key -> value (not NULL). 0, -EEXIST when key is there already (nothing changes), -ENOMEM. */
int idmap_put(struct idmap *m, uint64_t key, void *value);

/* Removes key and returns its value; NULL when it was not there. */
void *idmap_del(struct idmap *m, uint64_t key);

static inline size_t idmap_count(const struct idmap *m)
{
    return m->count;
}

/* Walks all entries in no particular order: for (size_t pos = 0; idmap_next(m, &pos, &k, &v);).
 * The map must not change meanwhile. key may be NULL. */
bool idmap_next(const struct idmap *m, size_t *pos, uint64_t *key, void **value);

/* Some entry of the map, for taking it apart: while ((v = idmap_any(m, &k))) idmap_del(m, k).
 * NULL when the map is empty. key may be NULL. */
void *idmap_any(const struct idmap *m, uint64_t *key);

/* All keys in ascending order, in fresh memory that the caller frees; NULL when the map is empty
 * or there is no memory. The number of keys is idmap_count. */
uint64_t *idmap_sorted_keys(const struct idmap *m);

/* Hands out ids lo .. hi by counting on, so that an id comes back as late as possible. */
struct idmap_ids {
    uint32_t lo;
    uint32_t hi;
    uint32_t next; /* next candidate */
};

/* Ids lo .. hi inclusive; the first one handed out is lo. */
void idmap_ids_init(struct idmap_ids *ids, uint32_t lo, uint32_t hi);

/* Next id that is not a key of `used`, whose keys all lie in lo .. hi. 0 and *out, or -ENOSPC when
 * all are in use. The caller puts it into the map. */
int idmap_ids_next(struct idmap_ids *ids, const struct idmap *used, uint32_t *out);

#endif
