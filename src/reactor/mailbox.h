/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_MAILBOX_H
#define REACTOR_MAILBOX_H

/*
 * Bounded FIFO of typed messages: a cap on their number and on their bytes, a high and a low mark,
 * and one named outcome when full. Every actor has one; a queue that belongs to something else
 * (chunks waiting for the drain) may be one too.
 *
 * A message is a kind and a small struct. What a kind means is a table that the owner of the
 * conversation writes (svc/messages.h); the mailbox only knows size, destructor and weight.
 *
 * Ownership: whoever pushes gives the payload, and everything it points to, away, whatever the
 * result. Whoever pops owns it. A message that is dropped is destroyed by its kind's fini.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Largest payload; larger things travel as a pointer that the payload owns. */
#define MAILBOX_PAYLOAD 104

struct mailbox_msg {
    uint64_t from;   /* actor id of the sender, 0 for none */
    uint64_t to;     /* actor id of the receiver, 0 for none */
    uint32_t weight; /* what this message counts against the byte cap */
    uint16_t kind;
    uint16_t size; /* bytes of data in use */
    _Alignas(8) uint8_t data[MAILBOX_PAYLOAD];
};

/* One row of the table of kinds. */
struct mailbox_kind {
    const char *name;                      /* for logs */
    size_t size;                           /* exact payload size, <= MAILBOX_PAYLOAD */
    void (*fini)(void *payload);           /* frees what the payload owns; NULL: owns nothing */
    size_t (*weight)(const void *payload); /* bytes it owns; NULL: none */
};

/* The table. Kinds without a name are holes and refused. With kinds NULL any kind of any size up
 * to MAILBOX_PAYLOAD passes and owns nothing. */
struct mailbox_table {
    const struct mailbox_kind *kinds; /* borrow, lives as long as the mailbox */
    size_t n;
};

enum mailbox_outcome {
    MAILBOX_REFUSE_NEW, /* the message is dropped and counted, the sender is told */
    MAILBOX_DROP_OLD,   /* the oldest messages are dropped and counted until it fits */
    MAILBOX_KILL_OWNER  /* refused, and the actor that owns the mailbox is marked dead */
};

/* Marks are in bytes, crossing them calls the mark callback: at high_bytes or above once with true
 * (stop reading that peer), then at low_bytes or below once with false (go on). 0: no marks. */
struct mailbox_limits {
    uint32_t max_count;
    size_t max_bytes;
    size_t high_bytes;
    size_t low_bytes;
    enum mailbox_outcome when_full;
};

/* DEFAULTS_MAILBOX_COUNT and DEFAULTS_MAILBOX_BYTES, no marks, MAILBOX_REFUSE_NEW. */
extern const struct mailbox_limits mailbox_default_limits;

typedef void mailbox_mark_cb(void *arg, bool high);

struct mailbox_block;

struct mailbox {
    struct mailbox_block *first, *last; /* own: oldest messages first; NULL until the first push */
    struct mailbox_block *spare;        /* own: an empty one, for the next push; NULL: none */
    uint32_t count;
    uint32_t most;    /* since it was empty */
    bool above;       /* high was reported and low was not since */
    size_t bytes;     /* weight of all that is in the ring */
    uint64_t dropped; /* messages refused, dropped as oldest, or left at fini */
    struct mailbox_limits limits;
    const struct mailbox_table *table; /* borrow, may be NULL */
    mailbox_mark_cb *mark;             /* may be NULL */
    void *mark_arg;                    /* borrow */
};

/* Empty mailbox; allocates nothing. limits NULL: mailbox_default_limits (they are copied). */
void mailbox_init(struct mailbox *mb, const struct mailbox_table *table,
                  const struct mailbox_limits *limits);

/* Destroys what is still inside, counts it as dropped, and frees all memory. */
void mailbox_fini(struct mailbox *mb);

/* Who is called when a mark is crossed; called from within push and pop. */
void mailbox_on_mark(struct mailbox *mb, mailbox_mark_cb *mark, void *arg);

/* Adds a message. 0; -ENOBUFS when full (see the outcome); -ENOMEM; -EINVAL when kind or size do
 * not fit the table. The payload is gone in every case. */
int mailbox_push(struct mailbox *mb, uint64_t to, uint64_t from, uint16_t kind, const void *payload,
                 size_t size);

/* Takes the oldest message out; false when there is none. */
bool mailbox_pop(struct mailbox *mb, struct mailbox_msg *out);

static inline uint32_t mailbox_count(const struct mailbox *mb)
{
    return mb->count;
}

static inline size_t mailbox_bytes(const struct mailbox *mb)
{
    return mb->bytes;
}

/* Runs the fini of a message's kind on a payload; harmless for kinds that own nothing. */
void mailbox_destroy_payload(const struct mailbox_table *table, uint16_t kind, void *payload);

/* Name of a kind, "?" for one that the table does not know. */
const char *mailbox_kind_name(const struct mailbox_table *table, uint16_t kind);

#endif
