/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Patch entries live one by one on the heap and never move, since an open nested message keeps a
 * pointer to the four bytes. Removed entries are kept for reuse, so a writer in its stride
 * allocates nothing.
 */
#include "smb/patch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void patch_init(struct patch_list *list)
{
    *list = (struct patch_list){.head = NULL};
    list->tail = &list->head;
}

static void free_chain(struct patch *p)
{
    while (p) {
        struct patch *next = p->next;
        free(p);
        p = next;
    }
}

void patch_fini(struct patch_list *list)
{
    free_chain(list->head);
    free_chain(list->spare);
    patch_init(list);
}

int patch_reserve(struct patch_list *list, size_t n)
{
    while (list->spares < n) {
        struct patch *p = malloc(sizeof(*p));
        if (!p) {
            return -ENOMEM;
        }
        p->next = list->spare;
        list->spare = p;
        list->spares++;
    }
    return 0;
}

struct patch *patch_add(struct patch_list *list, uint32_t chunk_id, uint16_t offset)
{
    if (patch_reserve(list, 1) < 0) {
        return NULL;
    }
    struct patch *p = list->spare;
    list->spare = p->next;
    list->spares--;
    *p = (struct patch){.chunk_id = chunk_id, .offset = offset};
    *list->tail = p;
    list->tail = &p->next;
    return p;
}

void patch_pop(struct patch_list *list)
{
    struct patch *p = list->head;
    list->head = p->next;
    if (!list->head) {
        list->tail = &list->head;
    }
    p->next = list->spare;
    list->spare = p;
    list->spares++;
}
