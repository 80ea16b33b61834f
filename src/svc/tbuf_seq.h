/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc/tbuf_seq: the sequences of a trace buffer. A sequence is what one writer of one producer
 * wrote: an ordered list of its chunks that are in the ring, and what must be remembered of those
 * that are not any more.
 *
 * Slots are numbered from 1; 0 means none. A slot number stays valid until the next
 * tbuf_seq_make().
 */
#ifndef SVC_TBUF_SEQ_H
#define SVC_TBUF_SEQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svc/tbuf.h"
#include "svc/tbuf_hash.h"

/* One chunk in the order list. `ref` is the record's offset in units of 16 bytes, or, when the top
 * bits are TBUF_TOMB, what is left of a chunk that was evicted while an older one is still stored:
 * loss bits in 16..23, marks in 24..27, payload size in 0..15. */
struct tbuf_ent {
    uint32_t id;
    uint32_t ref;
};

#define TBUF_TOMB            0xF0000000u
#define TBUF_TOMB_INCOMPLETE 0x01000000u /* a packet of it may still be completed */
#define TBUF_TOMB_EMPTY      0x02000000u /* had no fragments at all: transparent (B10) */
#define TBUF_TOMB_LOSS_SHIFT 16

static inline bool tbuf_ent_is_tomb(struct tbuf_ent e)
{
    return e.ref >= TBUF_TOMB;
}

/* Bits of tbuf_seq.state. The "last" chunk is the newest one that was passed: read to its end or
 * evicted from the front of the list. Nothing of it or before it will be returned any more, except
 * that an evicted one may come back (R43, X16). */
#define TBUF_SEQ_HAS_LAST        0x01u
#define TBUF_SEQ_LAST_EVICTED    0x02u /* passed by eviction, not by reading: may be re-admitted */
#define TBUF_SEQ_LAST_INCOMPLETE 0x04u
#define TBUF_SEQ_CLOSED          0x08u /* its producer is gone, and not in the hash any more */
#define TBUF_SEQ_RETURNED        0x10u /* a packet of it was returned */
#define TBUF_SEQ_TOMBS           0x20u /* there may be tombs in the list */

/* In tbuf_seq.last_loss only, never reported: the last chunk held a piece of a packet whose begin
 * is lost, so that the next piece needs no cause of its own. */
#define TBUF_SEQ_CHAIN_LOST 0x01u

#define TBUF_SEQ_UNKNOWN 0xFFFFu /* of the payload sizes below */

#define TBUF_SEQ_INLINE 2u

/* Exactly one cache line. */
struct tbuf_seq {
    uint32_t key; /* producer id << 16 | writer id; 0: slot is free */
    uint32_t last_id;
    uint16_t last_payload;  /* bytes of valid fragments of the last chunk */
    uint16_t last_consumed; /* how many of them were read */
    uint16_t prev_payload;  /* bytes of valid fragments of the chunk before the last */
    uint8_t last_loss;      /* loss to report when something newer is read */
    uint8_t pending;        /* loss to report on the next packet */
    uint32_t chain;         /* entries behind the front known to continue its last fragment */
    uint32_t stalled;       /* number of the read walk in which it had to wait */
    uint32_t head;          /* index of the front entry; next free slot in a free one */
    uint32_t count;
    uint8_t log2cap;  /* entries that fit; TBUF_SEQ_INLINE when the list is inline */
    uint8_t state;    /* TBUF_SEQ_* */
    uint16_t sampled; /* buckets of the histogram that hold something; the others are garbage */
    union {
        struct { /* with chunks: first and last id of the list, so that it need not be touched */
            uint32_t front;
            uint32_t back;
        } ids;
        struct { /* without: neighbours among the empty ones */
            uint32_t older;
            uint32_t newer;
        } empty;
    };
    union {
        struct tbuf_ent inl[TBUF_SEQ_INLINE];
        struct tbuf_ent *heap; /* own; when log2cap > 1 */
    } list;
};

struct tbuf_seq_bucket {
    uint64_t count;
    uint64_t sum;
};

/* Touched once per copy or per packet, kept away from the line above. Three lines, of which the
 * first holds the buckets for chunks of 513 to 4,096 bytes too. */
struct tbuf_seq_info {
    struct tbuf_client client;
    struct tbuf_seq_bucket hist[TBUF_HIST_BUCKETS]; /* turned by TBUF_SEQ_FIRST_BUCKET */
};

#define TBUF_SEQ_FIRST_BUCKET 4u

static inline struct tbuf_seq_bucket *tbuf_seq_bucket(struct tbuf_seq_info *info, uint32_t i)
{
    i += i < TBUF_SEQ_FIRST_BUCKET ? TBUF_HIST_BUCKETS : 0;
    return &info->hist[i - TBUF_SEQ_FIRST_BUCKET];
}

struct tbuf_seqcopy;

/* The order of the fields is by measurement: counters that are changed together do not stand side
 * by side, or the compiler reads two of them at once and waits for the two stores before it. */
struct tbuf_seqtab {
    struct tbuf_seq *slots;     /* own, mapped: `max` + 1 of them, pages come as they are used */
    struct tbuf_seq_info *info; /* own, mapped, parallel to slots */
    struct tbuf_hash hash;      /* own */
    uint32_t live;              /* sequences with chunks */
    uint32_t max;               /* slots that may exist */
    uint32_t empty;             /* sequences without chunks that are remembered */
    uint32_t max_live;
    uint32_t oldest_empty;
    uint32_t max_empty;
    uint32_t newest_empty;
    uint32_t top; /* slots 1..top were used at least once */
    uint32_t free_head;
    uint64_t heap_bytes;
    uint64_t forgotten;
    struct tbuf_seqcopy *copies; /* ref: copies in the making, see svc/tbuf_seqcopy */
    uint64_t *gone; /* own: a bit for each producer id whose sequences are to be closed */
    uint32_t ngone; /* bits set; without any, `gone` may be NULL */
};

/* Sizes the table for a ring of `ring_size` bytes (spec/trace_buffer.md 22.2). 0 or -ENOMEM. */
int tbuf_seqtab_init(struct tbuf_seqtab *t, uint64_t ring_size);
void tbuf_seqtab_fini(struct tbuf_seqtab *t);
bool tbuf_seqtab_release(struct tbuf_seqtab *t); /* before fini: some of it; false: no more */

/* Initialises one of the same shape, whose sequences are still to be filled. 0 or -ENOMEM. */
int tbuf_seqtab_like(struct tbuf_seqtab *to, const struct tbuf_seqtab *from);

/* Bytes in use beside the ring. */
uint64_t tbuf_seqtab_memory(const struct tbuf_seqtab *t);

/* Slot of a key, 0: not known. */
static inline uint32_t tbuf_seq_find(struct tbuf_seqtab *t, uint32_t key)
{
    return tbuf_hash_find(&t->hash, key);
}

/* Warms the caches for a copy to a slot. */
static inline void tbuf_seq_warm_slot(const struct tbuf_seqtab *t, uint32_t slot)
{
    __builtin_prefetch(&t->slots[slot], 1);
    __builtin_prefetch(&t->info[slot], 1);
}

/* Makes a sequence for a key that is not known; the oldest empty one is forgotten when too many are
 * remembered. Its slot, or 0: no memory, or max_live sequences have chunks: see tbuf_seqtab_full().
 */
uint32_t tbuf_seq_make(struct tbuf_seqtab *t, uint32_t key, const struct tbuf_client *client);

static inline bool tbuf_seqtab_full(const struct tbuf_seqtab *t)
{
    return t->live >= t->max_live;
}

/* The producer is gone: all its sequences count as closed. Constant time: they are only closed, and
 * their keys free for a successor, when one shows itself. */
void tbuf_seq_producer_gone(struct tbuf_seqtab *t, uint16_t producer_id);

/* Closes what is to be closed, in one walk over all sequences. */
void tbuf_seq_close_gone(struct tbuf_seqtab *t);

static inline bool tbuf_seq_is_gone(const struct tbuf_seqtab *t, uint32_t producer_id)
{
    return t->ngone != 0 && (t->gone[producer_id / 64] >> producer_id % 64 & 1) != 0;
}

/* Nothing more can come for this sequence. */
static inline bool tbuf_seq_closed(const struct tbuf_seqtab *t, const struct tbuf_seq *s)
{
    return (s->state & TBUF_SEQ_CLOSED) != 0 || tbuf_seq_is_gone(t, s->key >> 16);
}

/* Call before a key of this producer is looked up. Ids come back after 65,000 others, so the walk
 * is made for tens of thousands of producers at once. */
static inline void tbuf_seq_welcome(struct tbuf_seqtab *t, uint16_t producer_id)
{
    if (__builtin_expect(tbuf_seq_is_gone(t, producer_id), 0))
        tbuf_seq_close_gone(t);
}

static inline struct tbuf_seq *tbuf_seq_at(const struct tbuf_seqtab *t, uint32_t slot)
{
    return &t->slots[slot];
}

static inline uint32_t tbuf_seq_slot(const struct tbuf_seqtab *t, const struct tbuf_seq *s)
{
    return (uint32_t)(s - t->slots);
}

/* The i-th entry in order, i < count. A pointer is valid until an entry is inserted or popped. */
static inline struct tbuf_ent *tbuf_seq_ent(struct tbuf_seq *s, uint32_t i)
{
    if (s->log2cap <= 1)
        return &s->list.inl[(s->head + i) & (TBUF_SEQ_INLINE - 1)];
    return &s->list.heap[(s->head + i) & ((1u << s->log2cap) - 1)];
}

/* How far id a is ahead of id b; ids wrap through 2^32 (R47). */
static inline int32_t tbuf_id_diff(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b);
}

/* All ids of a list lie within half of the id space, so that their order is never in doubt. */
#define TBUF_SEQ_SPAN 0x80000000u

enum tbuf_place {
    TBUF_PLACE_FOUND,   /* *pos is where it stands */
    TBUF_PLACE_NEW,     /* *pos is where it belongs */
    TBUF_PLACE_TOO_FAR, /* more than TBUF_SEQ_SPAN from the other end */
};

/* Position of an id. Constant time when ids have no gaps, and for ids outside of the list. */
enum tbuf_place tbuf_seq_locate(struct tbuf_seq *s, uint32_t id, uint32_t *pos);

/* Makes room for an entry at `pos` and fills it. 0 or -ENOMEM with nothing changed. */
int tbuf_seq_insert(struct tbuf_seqtab *t, struct tbuf_seq *s, uint32_t pos, struct tbuf_ent e);

/* Fills an entry in at `pos`; there is room. */
void tbuf_seq_put(struct tbuf_seq *s, uint32_t pos, struct tbuf_ent e);

/* Makes room for one more entry, which stays until it is appended, whatever is popped meanwhile. 0
 * or -ENOMEM. */
int tbuf_seq_reserve(struct tbuf_seqtab *t, struct tbuf_seq *s);

/* Adds an entry behind all others, for which there is room. */
void tbuf_seq_append(struct tbuf_seqtab *t, struct tbuf_seq *s, struct tbuf_ent e);

/* Removes the front entry; the list gives memory back as it shrinks. */
void tbuf_seq_pop(struct tbuf_seqtab *t, struct tbuf_seq *s);

/* Counts `bytes` in the sequence's histogram (section 12.2). */
void tbuf_seq_sample(struct tbuf_seqtab *t, uint32_t slot, uint32_t bytes);

#endif
