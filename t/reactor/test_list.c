/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/list.h"

#include <criterion/criterion.h>

struct item {
    int value;
    struct list node;
};

static void fill(struct list *head, struct item *items, int n)
{
    list_init(head);
    for (int i = 0; i < n; i++) {
        items[i].value = i;
        list_push_back(head, &items[i].node);
    }
}

Test(list, keeps_order)
{
    struct list head;
    struct item items[3];
    fill(&head, items, 3);
    struct item front = {.value = -1};
    list_push_front(&head, &front.node);
    int want = -1;
    list_for_each (pos, &head) {
        cr_assert_eq(list_entry(pos, struct item, node)->value, want++);
    }
    cr_assert_eq(want, 3);
    cr_assert_eq(list_count(&head), 4);
    cr_assert_eq(list_first(&head, struct item, node)->value, -1);
    cr_assert_eq(list_last(&head, struct item, node)->value, 2);
}

Test(list, removes_twice_and_while_walking)
{
    struct list head;
    struct item items[4];
    fill(&head, items, 4);
    list_for_each_safe (pos, next, &head) {
        if (list_entry(pos, struct item, node)->value % 2 == 0) {
            list_remove(pos);
            cr_assert(list_empty(pos), "in no list any more");
            list_remove(pos);
        }
    }
    cr_assert_eq(list_count(&head), 2);
    cr_assert_eq(list_pop_front(&head), &items[1].node);
    cr_assert_eq(list_pop_front(&head), &items[3].node);
    cr_assert_null(list_pop_front(&head));
    cr_assert_null(list_first(&head, struct item, node));
    cr_assert_null(list_last(&head, struct item, node));
}

Test(list, splices_to_the_tail)
{
    struct list a;
    struct list b;
    struct list none = LIST_INIT(none);
    struct item x[2];
    struct item y[2];
    fill(&a, x, 2);
    fill(&b, y, 2);
    list_splice(&a, &b);
    list_splice(&a, &none);
    cr_assert(list_empty(&b));
    const struct list *want[] = {&x[0].node, &x[1].node, &y[0].node, &y[1].node};
    struct list *back = &a;
    for (int i = 3; i >= 0; i--) {
        back = back->prev;
        cr_assert_eq(back, want[i]);
    }
    for (int i = 0; i < 4; i++)
        cr_assert_eq(list_pop_front(&a), want[i]);
    cr_assert(list_empty(&a));
}
