/* SPDX-License-Identifier: Apache-2.0 */
/* reactor/tree against a sorted array, and its depth for keys that come in order. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "reactor/tree.h"

struct item {
    struct tree_node node;
    int key;
    bool in;
};

static int by_key(const void *key, const struct tree_node *node)
{
    int k = *(const int *)key, n = tree_entry(node, struct item, node)->key;
    return (k > n) - (k < n);
}

static size_t depth(const struct tree_node *n)
{
    size_t l = n ? depth(n->left) : 0, r = n ? depth(n->right) : 0;
    return n ? 1 + (l > r ? l : r) : 0;
}

/* All keys in order, each node above its children, and links both ways. */
static size_t check(const struct tree *t)
{
    size_t n = 0;
    const struct tree_node *last = NULL;
    for (const struct tree_node *it = tree_first(t); it; it = tree_next(it)) {
        if (last)
            cr_assert_leq(tree_entry(last, struct item, node)->key,
                          tree_entry(it, struct item, node)->key);
        if (it->left)
            cr_assert(it->left->up == it && it->left->weight <= it->weight);
        if (it->right)
            cr_assert(it->right->up == it && it->right->weight <= it->weight);
        last = it;
        n++;
    }
    return n;
}

Test(tree, is_empty_at_first)
{
    struct tree t;
    int key = 1;
    tree_init(&t, by_key);
    cr_expect_null(tree_first(&t));
    cr_expect_null(tree_find(&t, &key));
    cr_expect_null(tree_at_least(&t, &key));
    cr_expect_null(tree_before(&t, &key));
}

Test(tree, finds_what_a_sorted_array_finds)
{
    enum { N = 300 };
    static struct item items[N];
    struct tree t;
    size_t count = 0;
    tree_init(&t, by_key);
    srand(1);
    for (int step = 0; step < 20000; step++) {
        int k = rand() % N;
        struct item *i = &items[k];
        i->key = 2 * k;
        if (i->in)
            tree_remove(&t, &i->node);
        else
            tree_insert(&t, &i->node, &i->key);
        count += i->in ? (size_t)-1 : 1;
        i->in = !i->in;
        int at = rand() % (2 * N + 2) - 1;
        struct item *next = NULL, *prev = NULL;
        for (int n = 0; n < N; n++) {
            if (items[n].in && items[n].key < at)
                prev = &items[n];
            if (items[n].in && items[n].key >= at && !next)
                next = &items[n];
        }
        cr_assert_eq(tree_at_least(&t, &at), next ? &next->node : NULL);
        cr_assert_eq(tree_before(&t, &at), prev ? &prev->node : NULL);
        cr_assert_eq(tree_find(&t, &at), next && next->key == at ? &next->node : NULL);
        if (step % 100 == 0)
            cr_assert_eq(check(&t), count);
    }
}

Test(tree, equal_keys_stay_in_order_of_arrival)
{
    struct item items[50];
    struct tree t;
    int key = 7, n = 0;
    tree_init(&t, by_key);
    for (int i = 0; i < 50; i++) {
        items[i].key = key;
        tree_insert(&t, &items[i].node, &key);
    }
    for (struct tree_node *it = tree_first(&t); it; it = tree_next(it))
        cr_expect_eq(it, &items[n++].node);
    cr_expect_eq(n, 50);
}

/* Peers choose names and ids: one that sends them in order must not get a list instead of a tree.
 */
Test(tree, keys_in_order_make_no_list)
{
    enum { N = 100000 };
    struct item *items = calloc(N, sizeof(*items));
    struct tree t;
    tree_init(&t, by_key);
    for (int i = 0; i < N; i++) {
        items[i].key = i;
        tree_insert(&t, &items[i].node, &items[i].key);
    }
    cr_expect_lt(depth(t.root), 80);
    cr_expect_eq(check(&t), (size_t)N);
    for (int i = 0; i < N; i += 2)
        tree_remove(&t, &items[i].node);
    cr_expect_eq(check(&t), (size_t)N / 2);
    free(items);
}
