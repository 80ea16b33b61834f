/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The patch list of one writer: size fields that were still open when their chunk was handed over,
 * in the order in which they were reserved. FIFO; only completed entries at the head ever leave
 * (R50-R52). Used by the writer's thread only.
 */
#ifndef SMB_PATCH_H
#define SMB_PATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct patch {
    struct patch *next; /* own: the list's chain */
    uint32_t chunk_id;
    uint16_t offset; /* of the 4 bytes, from the payload start (R51) */
    uint8_t data[4]; /* the size in its 4-byte form; data[0] == 0 means not known yet (R51) */
};

/* Embedded by value in its writer. */
struct patch_list {
    struct patch *head;  /* own */
    struct patch **tail; /* borrow: the last next pointer */
    struct patch *spare; /* own: entries kept for reuse */
    size_t spares;
};

void patch_init(struct patch_list *list);
void patch_fini(struct patch_list *list);

/* Makes sure that the next n patch_add() calls cannot fail. 0 or -ENOMEM. */
int patch_reserve(struct patch_list *list, size_t n);

/* Appends an entry with zero data and returns it; its address stays the same until it is removed
 * (T35). NULL when out of memory (never after patch_reserve). */
struct patch *patch_add(struct patch_list *list, uint32_t chunk_id, uint16_t offset);

static inline bool patch_done(const struct patch *p)
{
    return p->data[0] != 0;
}

/* Head of the list if it is complete, else NULL. */
static inline struct patch *patch_ready(const struct patch_list *list)
{
    return list->head && patch_done(list->head) ? list->head : NULL;
}

/* Removes the head, which must exist. */
void patch_pop(struct patch_list *list);

#endif
