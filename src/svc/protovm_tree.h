/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PROTOVM_TREE_H
#define SVC_PROTOVM_TREE_H

/*
 * The state of a ProtoVM: a protobuf message that can be changed in place. Nobody here knows its
 * schema: a field of length-delimited type stays a run of bytes until a program looks inside.
 *
 * Memory is counted against a limit and nothing is allocated above it. Depth is the business of the
 * caller (svc/protovm), who makes trees deeper only by going down them step by step.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"

enum protovm_kind {
    PROTOVM_EMPTY,   /* made by a path, nothing set yet; not written out */
    PROTOVM_SCALAR,  /* num, of wire type `wire` */
    PROTOVM_BYTES,   /* a string, bytes, or a message that nobody entered yet */
    PROTOVM_MESSAGE, /* children by field number */
    PROTOVM_INDEXED, /* a repeated field: children by index, not always without holes */
    PROTOVM_MAPPED   /* a repeated field: children by the value of their key field */
};

struct protovm_node {
    uint64_t key;               /* in its owner */
    struct protovm_node *owner; /* borrow: the node that has it as a child; NULL: the root */
    struct protovm_node *up;    /* borrow: in the owner's tree of children */
    struct protovm_node *left;  /* own */
    struct protovm_node *right; /* own */
    union {
        uint64_t num;
        uint8_t *bytes;            /* own; NULL when n is 0 */
        struct protovm_node *root; /* own: of the children */
    };
    uint32_t n;     /* bytes, or children */
    uint32_t stamp; /* number of the last merge that wrote it */
    uint8_t kind;   /* enum protovm_kind */
    uint8_t wire;   /* enum bytes_wire */
};

#define PROTOVM_NODE_COST 80u /* bytes that a node counts */

/* Steps, for svc/protovm: what adding a node costs, with the freeing of others that goes along,
 * what changing one costs, and what finding one among the children of a node costs: a little for
 * each level, and more where no cache holds them all. By measurement, t/bench/bench_protovm. */
#define PROTOVM_ADD_STEPS 24u
#define PROTOVM_SET_STEPS 4u
static inline uint32_t protovm_find_steps(const struct protovm_node *owner)
{
    uint32_t levels = 32 - (uint32_t)__builtin_clz(owner->n | 1);
    return levels <= 10 ? 2 * levels : 6 * levels - 40;
}

struct protovm_tree {
    struct protovm_node root;
    struct protovm_node *trash; /* own: taken out, freed piece by piece; linked by `owner` */
    uint64_t used;              /* bytes, trash included */
    uint64_t limit;
    uint64_t seed;
    uint32_t *steps; /* borrow: what is left for the work that goes on; see protovm_spend() */
};

/* seed: secret, so that nobody can choose keys that make searching slow. steps: all functions below
 * that return a node or false take from them what they do beyond adding one node, and fail when
 * none are left. */
void protovm_tree_init(struct protovm_tree *t, uint64_t limit, uint64_t seed, uint32_t *steps);
void protovm_tree_fini(struct protovm_tree *t);

static inline bool protovm_has_children(const struct protovm_node *n)
{
    return n->kind >= PROTOVM_MESSAGE;
}

/* The child with that key, or NULL. The node must be of a kind that has children. */
struct protovm_node *protovm_tree_find(const struct protovm_node *owner, uint64_t key);

/* First, last and next child in the order of keys; NULL: there is none. */
struct protovm_node *protovm_tree_first(const struct protovm_node *owner);
struct protovm_node *protovm_tree_last(const struct protovm_node *owner);
struct protovm_node *protovm_tree_next(const struct protovm_node *child);

/* A new EMPTY child; there is none with that key. NULL: no steps left, the limit is reached, or no
 * memory. */
struct protovm_node *protovm_tree_add(struct protovm_tree *t, struct protovm_node *owner,
                                      uint64_t key);

/* Takes a child out and forgets it and all below. Frees little at once: the rest goes with later
 * calls. */
void protovm_tree_del(struct protovm_tree *t, struct protovm_node *child);

/* Makes the node EMPTY; likewise. */
void protovm_tree_clear(struct protovm_tree *t, struct protovm_node *n);

/* Makes the node the value of that field, whatever it was. false: likewise; the node is as before.
 * f is not of type GROUP. */
bool protovm_tree_set(struct protovm_tree *t, struct protovm_node *n, const struct bytes_field *f);

/* Puts a new INDEXED or MAPPED node in the place of n, with what n was as its only child of that
 * key. false: likewise. */
bool protovm_tree_wrap(struct protovm_tree *t, struct protovm_node *n, enum protovm_kind kind,
                       uint64_t key);

/* Opens a BYTES node: makes it the MESSAGE that its bytes encode, up to where they stop making
 * sense. A field that is there several times becomes INDEXED. false: likewise. */
bool protovm_tree_open(struct protovm_tree *t, struct protovm_node *n);

/* Adds the value of a field behind the last child of an INDEXED node. false: likewise. */
bool protovm_tree_append(struct protovm_tree *t, struct protovm_node *n,
                         const struct bytes_field *f);

/* Makes an INDEXED node MAPPED: `key_of` says for each child what its key is from now on. Of two
 * with the same key the later stays. */
void protovm_tree_map(struct protovm_tree *t, struct protovm_node *n,
                      uint64_t (*key_of)(const struct protovm_node *child, uint32_t field),
                      uint32_t field);

/* Takes n of *steps; false, and none are left, when there are fewer. */
static inline bool protovm_spend(uint32_t *steps, uint64_t n)
{
    if (n > *steps) {
        *steps = 0;
        return false;
    }
    *steps -= (uint32_t)n;
    return true;
}

/* The next field of a message that a producer wrote, in constant time: a group ends it. */
static inline bool protovm_next(struct bytes_cur *cur, struct bytes_field *f)
{
    return !bytes_done(cur) && (*cur->p & 7) != BYTES_GROUP && bytes_next(cur, f);
}

/* Writes the message that the root is; at most as many bytes as are used. `out` has room for them.
 * Returns how many it wrote. Depth is that of the tree. */
size_t protovm_tree_write(const struct protovm_tree *t, uint8_t *out);

#endif
