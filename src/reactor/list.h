/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_LIST_H
#define REACTOR_LIST_H

/*
 * Intrusive doubly linked list. The same struct is head and node; an empty head and a node that is
 * in no list point at themselves, so removing twice is harmless. The list owns nothing.
 */

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next;
    struct list *prev;
};

/* The struct that node is embedded in, as member `member` of `type`. */
#define list_entry(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

/* First or last entry, or NULL when the list is empty. */
#define list_first(head, type, member)                                                             \
    (list_empty(head) ? NULL : list_entry((head)->next, type, member))
#define list_last(head, type, member)                                                              \
    (list_empty(head) ? NULL : list_entry((head)->prev, type, member))

/* Walks the nodes (struct list *pos). The list must not change meanwhile. */
#define list_for_each(pos, head)                                                                   \
    for (struct list *pos = (head)->next; pos != (head); pos = pos->next)

/* Same, and pos itself may be removed or freed (no other node may). */
#define list_for_each_safe(pos, tmp, head)                                                         \
    for (struct list *pos = (head)->next, *tmp = pos->next; pos != (head);                         \
         pos = tmp, tmp = pos->next)

#define LIST_INIT(name)                                                                            \
    {                                                                                              \
        &(name), &(name)                                                                           \
    }

/* Makes an empty head, or a node that is in no list. */
static inline void list_init(struct list *l)
{
    l->next = l;
    l->prev = l;
}

/* True for an empty head, and for a node that is in no list. */
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_insert_between(struct list *node, struct list *prev, struct list *next)
{
    node->prev = prev;
    node->next = next;
    prev->next = node;
    next->prev = node;
}

/* Adds a node that is in no list at the tail. With pos in place of head: just before pos. */
static inline void list_push_back(struct list *head, struct list *node)
{
    list_insert_between(node, head->prev, head);
}

/* Adds a node that is in no list at the front. With pos in place of head: just behind pos. */
static inline void list_push_front(struct list *head, struct list *node)
{
    list_insert_between(node, head, head->next);
}

/* Takes a node out of its list; harmless when it is in none. */
static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* Takes the first node out and returns it; NULL when the list is empty. */
static inline struct list *list_pop_front(struct list *head)
{
    if (list_empty(head))
        return NULL;
    struct list *node = head->next;
    list_remove(node);
    return node;
}

/* Moves all nodes of `from` to the tail of `to`; `from` is empty afterwards. */
static inline void list_splice(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

/* Number of nodes; walks the list, for tests and reports. */
static inline size_t list_count(const struct list *head)
{
    size_t n = 0;
    for (const struct list *p = head->next; p != head; p = p->next)
        n++;
    return n;
}

#endif
