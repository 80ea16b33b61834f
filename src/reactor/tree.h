/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_TREE_H
#define REACTOR_TREE_H

/*
 * Intrusive ordered tree: entries stay sorted while they come and go, and a walk can be taken up
 * again at any key, whatever has changed since. Every operation takes logarithmic time, whatever
 * the keys are: the shape is random (a treap). The tree owns nothing and allocates nothing.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tree_node {
    struct tree_node *up, *left, *right; /* borrow */
    uint32_t weight;                     /* random; a heap: none is above its parent's */
};

/* How key and node lie: negative when the key belongs before the node, 0 when it is the node's. */
typedef int tree_order(const void *key, const struct tree_node *node);

struct tree {
    struct tree_node *root; /* borrow */
    tree_order *order;
    uint64_t seed;
};

/* The struct that node is embedded in, as member `member` of `type`. */
#define tree_entry(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

/* Empty. */
void tree_init(struct tree *t, tree_order *order);

/* Adds a node that is in no tree; key is its key. A node whose key is there already goes behind
 * it. */
void tree_insert(struct tree *t, struct tree_node *node, const void *key);

/* Takes a node out that is in the tree. */
void tree_remove(struct tree *t, struct tree_node *node);

/* The node of that key, NULL when there is none; the first one at or behind it; the last one
 * before it. */
struct tree_node *tree_find(const struct tree *t, const void *key);
struct tree_node *tree_at_least(const struct tree *t, const void *key);
struct tree_node *tree_before(const struct tree *t, const void *key);

/* The first node, and the one behind a node; NULL at the end. */
struct tree_node *tree_first(const struct tree *t);
struct tree_node *tree_next(const struct tree_node *node);

#endif
