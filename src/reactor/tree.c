/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree: a treap. Nodes are in order from left to right, and each node weighs at least as much as
 * its children; as weights are random, the tree is as deep as one whose keys came in random order,
 * about twice the logarithm, whoever chose the keys. The seed is the tree's own and never told.
 */
#include "reactor/tree.h"

#include "reactor/chrono.h"

void tree_init(struct tree *t, tree_order *order)
{
    *t = (struct tree){.order = order, .seed = chrono_random_u64() | 1};
}

static uint32_t draw(struct tree *t)
{
    t->seed ^= t->seed << 13;
    t->seed ^= t->seed >> 7;
    t->seed ^= t->seed << 17;
    return (uint32_t)(t->seed >> 32);
}

/* The pointer that points at the node. */
static struct tree_node **link_to(struct tree *t, struct tree_node *node)
{
    if (!node->up)
        return &t->root;
    return node->up->left == node ? &node->up->left : &node->up->right;
}

/* Puts the child in the node's place, and the node below it. */
static void lift(struct tree *t, struct tree_node *node, struct tree_node *child)
{
    struct tree_node **link = link_to(t, node);
    struct tree_node *between;
    if (node->left == child) {
        between = child->right;
        node->left = between;
        child->right = node;
    } else {
        between = child->left;
        node->right = between;
        child->left = node;
    }
    if (between)
        between->up = node;
    child->up = node->up;
    node->up = child;
    *link = child;
}

void tree_insert(struct tree *t, struct tree_node *node, const void *key)
{
    struct tree_node *up = NULL, **link = &t->root;
    while (*link) {
        up = *link;
        link = t->order(key, up) < 0 ? &up->left : &up->right;
    }
    *node = (struct tree_node){.up = up, .weight = draw(t)};
    *link = node;
    while (node->up && node->up->weight < node->weight)
        lift(t, node->up, node);
}

void tree_remove(struct tree *t, struct tree_node *node)
{
    while (node->left && node->right)
        lift(t, node, node->left->weight > node->right->weight ? node->left : node->right);
    struct tree_node *child = node->left ? node->left : node->right;
    *link_to(t, node) = child;
    if (child)
        child->up = node->up;
    *node = (struct tree_node){0};
}

struct tree_node *tree_find(const struct tree *t, const void *key)
{
    struct tree_node *n = t->root;
    int order;
    while (n && (order = t->order(key, n)) != 0)
        n = order < 0 ? n->left : n->right;
    return n;
}

struct tree_node *tree_at_least(const struct tree *t, const void *key)
{
    struct tree_node *n = t->root, *best = NULL;
    while (n) {
        bool here = t->order(key, n) <= 0;
        best = here ? n : best;
        n = here ? n->left : n->right;
    }
    return best;
}

struct tree_node *tree_before(const struct tree *t, const void *key)
{
    struct tree_node *n = t->root, *best = NULL;
    while (n) {
        bool here = t->order(key, n) > 0;
        best = here ? n : best;
        n = here ? n->right : n->left;
    }
    return best;
}

struct tree_node *tree_first(const struct tree *t)
{
    struct tree_node *n = t->root;
    while (n && n->left)
        n = n->left;
    return n;
}

struct tree_node *tree_next(const struct tree_node *node)
{
    struct tree_node *n = node->right;
    if (n) {
        while (n->left)
            n = n->left;
        return n;
    }
    for (n = node->up; n && n->right == node; n = n->up)
        node = n;
    return n;
}
