/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/idmap.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

static char things[4096];

Test(idmap, puts_gets_deletes)
{
    struct idmap m;
    idmap_init(&m);
    cr_assert_null(idmap_get(&m, 0));
    cr_assert_null(idmap_del(&m, 0));
    cr_assert_eq(idmap_put(&m, 0, &things[0]), 0, "0 is a key like any other");
    cr_assert_eq(idmap_put(&m, UINT64_MAX, &things[1]), 0);
    cr_assert_eq(idmap_put(&m, 0, &things[2]), -EEXIST);
    cr_assert_eq(idmap_get(&m, 0), &things[0]);
    cr_assert_eq(idmap_del(&m, 0), &things[0]);
    cr_assert_null(idmap_get(&m, 0));
    cr_assert_eq(idmap_get(&m, UINT64_MAX), &things[1]);
    cr_assert_eq(idmap_count(&m), 1);
    idmap_fini(&m);
    cr_assert_null(idmap_get(&m, UINT64_MAX));
}

Test(idmap, agrees_with_a_plain_array_under_churn)
{
    struct idmap m;
    void *model[512] = {NULL};
    uint64_t state = 1;
    size_t count = 0;
    idmap_init(&m);
    for (int i = 0; i < 200000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t key = (size_t)(state >> 40) % 512;
        void *thing = &things[state >> 52];
        if ((state >> 33) % 3 != 0) {
            cr_assert_eq(idmap_put(&m, key, thing), model[key] != NULL ? -EEXIST : 0);
            count += model[key] == NULL;
            model[key] = model[key] != NULL ? model[key] : thing;
        } else {
            cr_assert_eq(idmap_del(&m, key), model[key]);
            count -= model[key] != NULL;
            model[key] = NULL;
        }
        cr_assert_eq(idmap_count(&m), count);
        if (i % 1000 == 0)
            for (size_t k = 0; k < 512; k++)
                cr_assert_eq(idmap_get(&m, k), model[k]);
    }
    idmap_fini(&m);
}

Test(idmap, does_not_silt_up)
{
    struct idmap m;
    idmap_init(&m);
    for (uint64_t id = 1; id < 100000; id++) {
        idmap_put(&m, id, things);
        if (id > 4)
            cr_assert_not_null(idmap_del(&m, id - 4));
    }
    cr_assert_leq(m.mask + 1, 16, "a table for 4 entries, not for all that ever were");
    idmap_fini(&m);
}

Test(idmap, walks_sorts_and_empties)
{
    struct idmap m;
    uint64_t key = 0;
    void *value = NULL;
    uint64_t sum = 0;
    idmap_init(&m);
    cr_assert_null(idmap_sorted_keys(&m));
    for (uint64_t k = 100; k > 0; k--)
        idmap_put(&m, k * k, &things[k]);
    for (size_t pos = 0; idmap_next(&m, &pos, &key, &value);) {
        sum += key;
        cr_assert_eq(key, (uint64_t)((char *)value - things) * (uint64_t)((char *)value - things));
    }
    cr_assert_eq(sum, 338350);
    uint64_t *keys = idmap_sorted_keys(&m);
    for (uint64_t k = 1; k <= 100; k++)
        cr_assert_eq(keys[k - 1], k * k);
    free(keys);
    int n = 0;
    while ((value = idmap_any(&m, &key)) != NULL) {
        cr_assert_eq(idmap_del(&m, key), value);
        n++;
    }
    cr_assert_eq(n, 100);
    idmap_fini(&m);
}

Test(idmap, ids_come_back_as_late_as_possible)
{
    /* service.md 0.1, ProducerID: counts from 1, skips 0 and ids in use, wraps. */
    struct idmap m;
    struct idmap_ids ids;
    uint32_t id = 0;
    idmap_init(&m);
    idmap_ids_init(&ids, 1, 65535);
    for (uint32_t want = 1; want <= 65535; want++) {
        cr_assert_eq(idmap_ids_next(&ids, &m, &id), 0);
        cr_assert_eq(id, want);
        if (id == 7 || id == 8)
            idmap_put(&m, id, things);
    }
    uint32_t second[] = {1, 2, 3, 4, 5, 6, 9};
    for (size_t i = 0; i < 7; i++) {
        cr_assert_eq(idmap_ids_next(&ids, &m, &id), 0);
        cr_assert_eq(id, second[i]);
    }
    idmap_fini(&m);
}

Test(idmap, ids_run_out_and_come_back)
{
    struct idmap m;
    struct idmap_ids ids;
    uint32_t id = 99;
    idmap_init(&m);
    idmap_ids_init(&ids, 1, 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(idmap_ids_next(&ids, &m, &id), 0);
        idmap_put(&m, id, things);
    }
    id = 99;
    cr_assert_eq(idmap_ids_next(&ids, &m, &id), -ENOSPC);
    cr_assert_eq(id, 99);
    idmap_del(&m, 2);
    cr_assert_eq(idmap_ids_next(&ids, &m, &id), 0);
    cr_assert_eq(id, 2);
    idmap_fini(&m);
}
