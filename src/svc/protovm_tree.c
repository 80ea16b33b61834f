/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a ProtoVM as a tree of nodes.
 *
 * The children of a node stand in a treap: a search tree by key which is at the same time a heap by
 * a number that is computed from the key and a secret. So it is balanced whatever keys a producer
 * chooses, needs no field to keep that number in, and all its changes are a few rotations. Nodes
 * know their parent, so walks need no stack.
 *
 * Each node and each run of bytes is one allocation, counted in `used` with what the allocator
 * needs for itself. What is taken out goes on a list, `trash`, and is freed a few nodes at a time
 * by later allocations: no call here takes longer because a subtree was large. While it waits, it
 * counts.
 *
 * Invariant: a node is in exactly one of: the children of its owner, the trash, the root. Nothing
 * here knows programs or packets.
 */
#include "svc/protovm_tree.h"

#include <stdlib.h>
#include <string.h>

#define FREED_PER_NODE 4u /* nodes of the trash that go when one is made */
#define FREE_STEPS     4u /* what it costs when more have to go */
#define BYTES_PER_STEP 64u

/* What bytes count: with the allocator's header, in its steps. */
static uint64_t cost_of(size_t n)
{
    return n == 0 ? 0 : ((uint64_t)n + 8 + 15) & ~UINT64_C(15);
}

/* ---- the treap ---- */

static uint64_t rank_of(const struct protovm_tree *t, uint64_t key)
{
    uint64_t x = (key ^ t->seed) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

struct protovm_node *protovm_tree_find(const struct protovm_node *owner, uint64_t key)
{
    struct protovm_node *n = owner->root;
    while (n != NULL && n->key != key)
        n = key < n->key ? n->left : n->right;
    return n;
}

struct protovm_node *protovm_tree_first(const struct protovm_node *owner)
{
    struct protovm_node *n = owner->root;
    while (n != NULL && n->left != NULL)
        n = n->left;
    return n;
}

struct protovm_node *protovm_tree_last(const struct protovm_node *owner)
{
    struct protovm_node *n = owner->root;
    while (n != NULL && n->right != NULL)
        n = n->right;
    return n;
}

struct protovm_node *protovm_tree_next(const struct protovm_node *child)
{
    if (child->right != NULL) {
        struct protovm_node *n = child->right;
        while (n->left != NULL)
            n = n->left;
        return n;
    }
    while (child->up != NULL && child->up->right == child)
        child = child->up;
    return child->up;
}

/* Where the pointer to n stands. */
static struct protovm_node **link_of(struct protovm_node *n)
{
    if (n->up == NULL)
        return &n->owner->root;
    return n->up->left == n ? &n->up->left : &n->up->right;
}

/* n changes places with its parent. */
static void rotate_up(struct protovm_node *n)
{
    struct protovm_node *p = n->up, **link = link_of(p), *inner;
    if (p->left == n) {
        inner = n->right;
        p->left = inner;
        n->right = p;
    } else {
        inner = n->left;
        p->right = inner;
        n->left = p;
    }
    if (inner != NULL)
        inner->up = p;
    n->up = p->up;
    p->up = n;
    *link = n;
}

/* False: the key is there already. */
static bool attach(const struct protovm_tree *t, struct protovm_node *owner, struct protovm_node *n)
{
    struct protovm_node *up = NULL, **at = &owner->root;
    while (*at != NULL) {
        up = *at;
        if (up->key == n->key)
            return false;
        at = n->key < up->key ? &up->left : &up->right;
    }
    n->owner = owner;
    n->up = up;
    n->left = n->right = NULL;
    *at = n;
    owner->n++;
    while (n->up != NULL && rank_of(t, n->key) > rank_of(t, n->up->key))
        rotate_up(n);
    return true;
}

static void detach(const struct protovm_tree *t, struct protovm_node *n)
{
    while (n->left != NULL && n->right != NULL)
        rotate_up(rank_of(t, n->left->key) > rank_of(t, n->right->key) ? n->left : n->right);
    struct protovm_node *child = n->left != NULL ? n->left : n->right;
    *link_of(n) = child;
    if (child != NULL)
        child->up = n->up;
    n->left = n->right = n->up = NULL;
    n->owner->n--;
}

/* ---- memory ---- */

static void throw_away(struct protovm_tree *t, struct protovm_node *n)
{
    if (n == NULL)
        return;
    n->owner = t->trash;
    t->trash = n;
}

/* Frees one node of the trash; those that hang on it take its place. */
static void free_one(struct protovm_tree *t)
{
    struct protovm_node *n = t->trash;
    t->trash = n->owner;
    throw_away(t, n->left);
    throw_away(t, n->right);
    if (n->kind == PROTOVM_BYTES) {
        t->used -= cost_of(n->n);
        free(n->bytes);
    } else if (protovm_has_children(n)) {
        throw_away(t, n->root);
    }
    t->used -= PROTOVM_NODE_COST;
    free(n);
}

/* True when `cost` more bytes fit the limit, now that some trash is freed. */
static bool make_room(struct protovm_tree *t, uint64_t cost)
{
    for (uint32_t i = 0; t->trash != NULL && i < FREED_PER_NODE; i++)
        free_one(t);
    while (t->trash != NULL && t->limit - t->used < cost && protovm_spend(t->steps, FREE_STEPS))
        free_one(t);
    return t->limit - t->used >= cost;
}

static struct protovm_node *new_node(struct protovm_tree *t, uint64_t key)
{
    struct protovm_node *n = make_room(t, PROTOVM_NODE_COST) ? calloc(1, sizeof(*n)) : NULL;
    if (n == NULL)
        return NULL;
    t->used += PROTOVM_NODE_COST;
    n->key = key;
    return n;
}

void protovm_tree_init(struct protovm_tree *t, uint64_t limit, uint64_t seed, uint32_t *steps)
{
    *t = (struct protovm_tree){.limit = limit, .seed = seed, .steps = steps};
}

void protovm_tree_fini(struct protovm_tree *t)
{
    protovm_tree_clear(t, &t->root);
    while (t->trash != NULL)
        free_one(t);
}

/* ---- changes ---- */

struct protovm_node *protovm_tree_add(struct protovm_tree *t, struct protovm_node *owner,
                                      uint64_t key)
{
    struct protovm_node *n = new_node(t, key);
    if (n != NULL)
        attach(t, owner, n);
    return n;
}

void protovm_tree_del(struct protovm_tree *t, struct protovm_node *child)
{
    detach(t, child);
    throw_away(t, child);
}

void protovm_tree_clear(struct protovm_tree *t, struct protovm_node *n)
{
    if (n->kind == PROTOVM_BYTES) {
        t->used -= cost_of(n->n);
        free(n->bytes);
    } else if (protovm_has_children(n)) {
        throw_away(t, n->root);
    }
    n->kind = PROTOVM_EMPTY;
    n->num = 0;
    n->root = NULL;
    n->n = 0;
}

bool protovm_tree_set(struct protovm_tree *t, struct protovm_node *n, const struct bytes_field *f)
{
    uint8_t *bytes = NULL;
    if (f->type != BYTES_LEN) {
        protovm_tree_clear(t, n);
        n->kind = PROTOVM_SCALAR;
        n->wire = f->type;
        n->num = f->num;
        return true;
    }
    if (f->data.n > UINT32_MAX || !protovm_spend(t->steps, f->data.n / BYTES_PER_STEP) ||
        !make_room(t, cost_of(f->data.n)))
        return false;
    if (f->data.n != 0) {
        bytes = malloc(f->data.n);
        if (bytes == NULL)
            return false;
        memcpy(bytes, f->data.p, f->data.n);
    }
    protovm_tree_clear(t, n);
    t->used += cost_of(f->data.n);
    n->kind = PROTOVM_BYTES;
    n->bytes = bytes;
    n->n = (uint32_t)f->data.n;
    return true;
}

bool protovm_tree_wrap(struct protovm_tree *t, struct protovm_node *n, enum protovm_kind kind,
                       uint64_t key)
{
    struct protovm_node *inner = new_node(t, key);
    if (inner == NULL)
        return false;
    inner->kind = n->kind;
    inner->wire = n->wire;
    inner->n = n->n; /* bytes or children */
    inner->stamp = n->stamp;
    if (n->kind == PROTOVM_BYTES)
        inner->bytes = n->bytes;
    else if (protovm_has_children(n))
        inner->root = n->root;
    else
        inner->num = n->num;
    if (protovm_has_children(inner)) {
        for (struct protovm_node *c = protovm_tree_first(inner); c != NULL;
             c = protovm_tree_next(c))
            c->owner = inner;
    }
    n->kind = (uint8_t)kind;
    n->root = NULL;
    n->n = 0;
    attach(t, n, inner);
    return true;
}

bool protovm_tree_append(struct protovm_tree *t, struct protovm_node *n,
                         const struct bytes_field *f)
{
    const struct protovm_node *last = protovm_tree_last(n);
    struct protovm_node *child = protovm_tree_add(t, n, last != NULL ? last->key + 1 : 0);
    if (child == NULL)
        return false;
    if (protovm_tree_set(t, child, f))
        return true;
    protovm_tree_del(t, child);
    return false;
}

/* One field of a message that is being opened. */
static bool open_field(struct protovm_tree *t, struct protovm_node *n, const struct bytes_field *f)
{
    struct protovm_node *child = protovm_tree_find(n, f->id);
    if (child == NULL) {
        child = protovm_tree_add(t, n, f->id);
        return child != NULL && protovm_tree_set(t, child, f);
    }
    if (child->kind != PROTOVM_INDEXED && !protovm_tree_wrap(t, child, PROTOVM_INDEXED, 0))
        return false;
    return protovm_tree_append(t, child, f);
}

bool protovm_tree_open(struct protovm_tree *t, struct protovm_node *n)
{
    uint8_t *bytes = n->bytes;
    uint32_t len = n->n;
    struct bytes_cur cur = bytes_cur(bytes_view(bytes, len));
    struct bytes_field f;
    bool ok = true;
    n->kind = PROTOVM_MESSAGE;
    n->root = NULL;
    n->n = 0;
    while (ok && protovm_next(&cur, &f))
        ok = protovm_spend(t->steps, PROTOVM_ADD_STEPS + protovm_find_steps(n)) &&
             open_field(t, n, &f);
    if (!ok) {
        protovm_tree_clear(t, n);
        n->kind = PROTOVM_BYTES;
        n->bytes = bytes;
        n->n = len;
        return false;
    }
    t->used -= cost_of(len);
    free(bytes);
    return true;
}

void protovm_tree_map(struct protovm_tree *t, struct protovm_node *n,
                      uint64_t (*key_of)(const struct protovm_node *child, uint32_t field),
                      uint32_t field)
{
    struct protovm_node from = {.kind = PROTOVM_INDEXED, .root = n->root, .n = n->n}, *c;
    n->root = NULL;
    n->n = 0;
    n->kind = PROTOVM_MAPPED;
    while ((c = protovm_tree_first(&from)) != NULL) {
        c->owner = &from;
        detach(t, c);
        c->key = key_of(c, field);
        struct protovm_node *old = protovm_tree_find(n, c->key);
        if (old != NULL)
            protovm_tree_del(t, old);
        attach(t, n, c);
    }
}

/* ---- writing ---- */

#define LENGTH_SIZE 4u /* a length is written with this many bytes, so that it can come last */

static uint8_t *put_length(uint8_t *p, size_t n)
{
    for (uint32_t i = 0; i < LENGTH_SIZE; i++)
        p[i] = (uint8_t)((n >> (7 * i) & 0x7F) | (i + 1 < LENGTH_SIZE ? 0x80 : 0));
    return p + LENGTH_SIZE;
}

static uint8_t *put_bytes(uint8_t *p, const uint8_t *bytes, size_t n)
{
    if (n != 0)
        memcpy(p, bytes, n);
    return p + n;
}

static uint8_t *put_scalar(uint8_t *p, uint32_t field, const struct protovm_node *n)
{
    p = bytes_put_tag(p, field, (enum bytes_wire)n->wire);
    if (n->wire == BYTES_FIXED64) {
        bytes_store64(p, n->num);
        return p + 8;
    }
    if (n->wire == BYTES_FIXED32) {
        bytes_store32(p, (uint32_t)n->num);
        return p + 4;
    }
    return bytes_put_varint(p, n->num);
}

static uint8_t *put_children(uint8_t *p, const struct protovm_node *n);

/* The node as a field. Recursion: as deep as the tree, which programs bound. */
static uint8_t *put_field(uint8_t *p, uint32_t field, const struct protovm_node *n)
{
    switch ((enum protovm_kind)n->kind) {
    case PROTOVM_EMPTY:
        break;
    case PROTOVM_SCALAR:
        p = put_scalar(p, field, n);
        break;
    case PROTOVM_BYTES:
        p = bytes_put_tag(p, field, BYTES_LEN);
        p = bytes_put_varint(p, n->n);
        p = put_bytes(p, n->bytes, n->n);
        break;
    case PROTOVM_MESSAGE: {
        p = bytes_put_tag(p, field, BYTES_LEN);
        uint8_t *body = p + LENGTH_SIZE;
        uint8_t *end = put_children(body, n);
        put_length(p, (size_t)(end - body));
        p = end;
        break;
    }
    case PROTOVM_INDEXED:
    case PROTOVM_MAPPED:
        for (const struct protovm_node *c = protovm_tree_first(n); c != NULL;
             c = protovm_tree_next(c))
            p = put_field(p, field, c);
        break;
    }
    return p;
}

static uint8_t *put_children(uint8_t *p, const struct protovm_node *n)
{
    for (const struct protovm_node *c = protovm_tree_first(n); c != NULL; c = protovm_tree_next(c))
        p = put_field(p, (uint32_t)c->key, c);
    return p;
}

size_t protovm_tree_write(const struct protovm_tree *t, uint8_t *out)
{
    const struct protovm_node *root = &t->root;
    if (root->kind == PROTOVM_BYTES)
        return (size_t)(put_bytes(out, root->bytes, root->n) - out);
    if (root->kind == PROTOVM_MESSAGE)
        return (size_t)(put_children(out, root) - out);
    return 0;
}
