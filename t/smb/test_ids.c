/* SPDX-License-Identifier: Apache-2.0 */
/* Writer ids and the patch list: T34, T35, R34, R51, R52. */
#include <criterion/criterion.h>
#include <string.h>

#include "smb/patch.h"
#include "smb/wid.h"

Test(wid, T34_unique_exhausted_and_reused)
{
    struct wid w;
    bool seen[256] = {false};
    cr_assert_eq(wid_init(&w, 255), 0);
    for (int i = 1; i <= 255; i++) {
        uint16_t id = wid_take(&w);
        cr_assert(id >= 1 && id <= 255 && !seen[id]);
        seen[id] = true;
    }
    cr_assert_eq(wid_take(&w), 0);
    static const uint16_t some[] = {1, 255, 128, 64, 63, 65};
    for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
        wid_give(&w, some[i]);
        cr_assert_eq(wid_take(&w), some[i]);
        cr_assert_eq(wid_take(&w), 0);
    }
    wid_give(&w, 0);
    wid_give(&w, 256);
    cr_assert_eq(wid_take(&w), 0);
    wid_fini(&w);
}

Test(wid, R34_next_after_last)
{
    struct wid w;
    cr_assert_eq(wid_init(&w, 5), 0);
    cr_assert_eq(wid_take(&w), 1);
    cr_assert_eq(wid_take(&w), 2);
    wid_give(&w, 1);
    wid_give(&w, 1); /* twice is harmless */
    cr_assert_eq(wid_take(&w), 3);
    cr_assert_eq(wid_take(&w), 4);
    cr_assert_eq(wid_take(&w), 5);
    cr_assert_eq(wid_take(&w), 1);
    wid_fini(&w);
}

Test(patch, T35_addresses_stay_and_order_is_kept)
{
    struct patch_list list;
    struct patch *p[100];
    patch_init(&list);
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 100; i++) {
            p[i] = patch_add(&list, i / 10, (uint16_t)i);
            cr_assert_not_null(p[i]);
            cr_assert_not(patch_done(p[i]));
        }
        cr_assert_null(patch_ready(&list));
        for (uint32_t i = 0; i < 100; i++)
            memset(p[i]->data, 0x81, 4);
        for (uint32_t i = 0; i < 100; i++) {
            struct patch *head = patch_ready(&list);
            cr_assert_eq(head, p[i]);
            cr_assert_eq(head->offset, i);
            cr_assert_eq(head->chunk_id, i / 10);
            patch_pop(&list);
        }
        cr_assert_null(list.head);
    }
    patch_fini(&list);
}

Test(patch, R52_only_the_completed_head_leaves)
{
    struct patch_list list;
    patch_init(&list);
    struct patch *a = patch_add(&list, 1, 0);
    struct patch *b = patch_add(&list, 1, 8);
    b->data[0] = 0x80;
    cr_assert_null(patch_ready(&list));
    a->data[0] = 0x80;
    cr_assert_eq(patch_ready(&list), a);
    patch_pop(&list);
    cr_assert_eq(patch_ready(&list), b);
    patch_fini(&list);
}

Test(patch, reserved_entries_cannot_fail)
{
    struct patch_list list;
    patch_init(&list);
    cr_assert_eq(patch_reserve(&list, 8), 0);
    cr_assert_geq(list.spares, 8);
    for (int i = 0; i < 8; i++)
        cr_assert_not_null(patch_add(&list, 0, 0));
    cr_assert_eq(list.spares, 0);
    patch_fini(&list);
}
