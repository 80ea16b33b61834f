/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mailbox: a chain of blocks of fixed-size slots. It grows by a block at a time, so that a long one
 * is never copied, and its memory goes when it had grown large and runs empty, so that an idle
 * actor costs little. One block is kept in hand: steady traffic allocates nothing. Only the used
 * bytes of a slot are copied. Invariant: bytes is the sum of the weights of the messages inside,
 * and the mark callback is told "high" and "low" strictly in turn. Every path that does not deliver
 * a payload runs its destructor exactly once.
 */
#include "reactor/mailbox.h"

#include "reactor/alloc.h"
#include "reactor/defaults.h"

#include <errno.h>
#include <string.h>

enum { FIRST_SLOTS = 8, MOST_SLOTS = 128, KEEP_SLOTS = 128 };

struct mailbox_block {
    struct mailbox_block *next; /* own; newer messages */
    uint32_t head, tail, size;  /* slots: oldest message, first free one, all */
    struct mailbox_msg slots[];
};

#define HEADER_SIZE offsetof(struct mailbox_msg, data)

const struct mailbox_limits mailbox_default_limits = {
    .max_count = DEFAULTS_MAILBOX_COUNT,
    .max_bytes = DEFAULTS_MAILBOX_BYTES,
    .when_full = MAILBOX_REFUSE_NEW,
};

void mailbox_init(struct mailbox *mb, const struct mailbox_table *table,
                  const struct mailbox_limits *limits)
{
    memset(mb, 0, sizeof(*mb));
    mb->limits = limits != NULL ? *limits : mailbox_default_limits;
    mb->table = table;
}

void mailbox_on_mark(struct mailbox *mb, mailbox_mark_cb *mark, void *arg)
{
    mb->mark = mark;
    mb->mark_arg = arg;
}

static const struct mailbox_kind *find_kind(const struct mailbox_table *table, uint16_t kind)
{
    if (table == NULL || table->kinds == NULL || kind >= table->n)
        return NULL;
    return table->kinds[kind].name != NULL ? &table->kinds[kind] : NULL;
}

const char *mailbox_kind_name(const struct mailbox_table *table, uint16_t kind)
{
    const struct mailbox_kind *k = find_kind(table, kind);
    return k != NULL ? k->name : "?";
}

void mailbox_destroy_payload(const struct mailbox_table *table, uint16_t kind, void *payload)
{
    const struct mailbox_kind *k = find_kind(table, kind);
    if (k != NULL && k->fini != NULL)
        k->fini(payload);
}

/* Runs a destructor on a payload that was never put into a slot: on a copy, as the sender's is
 * const. */
static void destroy_pushed(const struct mailbox_kind *k, const void *payload, size_t size)
{
    _Alignas(8) uint8_t copy[MAILBOX_PAYLOAD];
    if (k == NULL || k->fini == NULL || size != k->size || size > sizeof(copy))
        return;
    if (size != 0)
        memcpy(copy, payload, size);
    k->fini(copy);
}

static void tell_marks(struct mailbox *mb)
{
    if (mb->limits.high_bytes == 0 || mb->mark == NULL)
        return;
    if (!mb->above && mb->bytes >= mb->limits.high_bytes) {
        mb->above = true;
        mb->mark(mb->mark_arg, true);
    } else if (mb->above && mb->bytes <= mb->limits.low_bytes) {
        mb->above = false;
        mb->mark(mb->mark_arg, false);
    }
}

static int grow(struct mailbox *mb)
{
    struct mailbox_block *b = mb->spare;
    uint32_t size = mb->last != NULL ? mb->last->size * 2 : FIRST_SLOTS;
    if (size > MOST_SLOTS)
        size = MOST_SLOTS;
    if (b == NULL) {
        b = alloc_try(sizeof(*b) + size * sizeof(b->slots[0]));
        if (b == NULL)
            return -ENOMEM;
        b->size = size;
    }
    mb->spare = NULL;
    b->next = NULL;
    b->head = b->tail = 0;
    if (mb->last != NULL)
        mb->last->next = b;
    else
        mb->first = b;
    mb->last = b;
    return 0;
}

/* The first block is used up: it is kept for later when it is a large one. */
static void drop_first(struct mailbox *mb)
{
    struct mailbox_block *b = mb->first;
    mb->first = b->next;
    if (mb->spare == NULL || mb->spare->size < b->size) {
        free(mb->spare);
        mb->spare = b;
    } else {
        free(b);
    }
}

static void free_blocks(struct mailbox *mb)
{
    for (struct mailbox_block *b = mb->first, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    mb->first = mb->last = NULL;
    alloc_free(&mb->spare);
}

/* Valid until the next push, or until the mailbox is trimmed. */
static struct mailbox_msg *take_oldest(struct mailbox *mb)
{
    if (mb->first->head == mb->first->tail)
        drop_first(mb);
    struct mailbox_msg *m = &mb->first->slots[mb->first->head++];
    mb->count--;
    mb->bytes -= m->weight;
    return m;
}

/* It has run empty: its only block begins anew. */
static void trim(struct mailbox *mb)
{
    while (mb->first != mb->last)
        drop_first(mb);
    mb->first->head = mb->first->tail = 0;
    if (mb->most > KEEP_SLOTS)
        free_blocks(mb);
    mb->most = 0;
}

static bool fits(const struct mailbox *mb, size_t weight)
{
    return mailbox_count(mb) < mb->limits.max_count && weight <= mb->limits.max_bytes &&
           mb->bytes <= mb->limits.max_bytes - weight;
}

/* Makes room by dropping the oldest messages, when that is the outcome and can help. */
static bool make_room(struct mailbox *mb, size_t weight)
{
    if (mb->limits.when_full != MAILBOX_DROP_OLD || mb->limits.max_count == 0 ||
        weight > mb->limits.max_bytes)
        return false;
    while (!fits(mb, weight)) {
        struct mailbox_msg *m = take_oldest(mb);
        mailbox_destroy_payload(mb->table, m->kind, m->data);
        mb->dropped++;
    }
    return true;
}

static int refuse(struct mailbox *mb, const struct mailbox_kind *k, const void *payload,
                  size_t size, int err)
{
    destroy_pushed(k, payload, size);
    mb->dropped++;
    return err;
}

int mailbox_push(struct mailbox *mb, uint64_t to, uint64_t from, uint16_t kind, const void *payload,
                 size_t size)
{
    const struct mailbox_kind *k = find_kind(mb->table, kind);
    bool typed = mb->table != NULL && mb->table->kinds != NULL;
    if (size > MAILBOX_PAYLOAD || (typed && (k == NULL || k->size != size)))
        return refuse(mb, k, payload, size, -EINVAL);
    size_t weight = HEADER_SIZE + size;
    if (k != NULL && k->weight != NULL)
        weight += k->weight(payload);
    if (weight > UINT32_MAX || (!fits(mb, weight) && !make_room(mb, weight)))
        return refuse(mb, k, payload, size, -ENOBUFS);
    if ((mb->last == NULL || mb->last->tail == mb->last->size) && grow(mb) != 0)
        return refuse(mb, k, payload, size, -ENOMEM);
    struct mailbox_msg *m = &mb->last->slots[mb->last->tail++];
    m->from = from;
    m->to = to;
    m->weight = (uint32_t)weight;
    m->kind = kind;
    m->size = (uint16_t)size;
    if (size != 0)
        memcpy(m->data, payload, size);
    if (++mb->count > mb->most)
        mb->most = mb->count;
    mb->bytes += weight;
    tell_marks(mb);
    return 0;
}

bool mailbox_pop(struct mailbox *mb, struct mailbox_msg *out)
{
    if (mailbox_count(mb) == 0)
        return false;
    const struct mailbox_msg *m = take_oldest(mb);
    memcpy(out, m, HEADER_SIZE + m->size);
    if (mb->count == 0)
        trim(mb);
    tell_marks(mb);
    return true;
}

void mailbox_fini(struct mailbox *mb)
{
    while (mailbox_count(mb) != 0) {
        struct mailbox_msg *m = take_oldest(mb);
        mailbox_destroy_payload(mb->table, m->kind, m->data);
        mb->dropped++;
    }
    free_blocks(mb);
}
