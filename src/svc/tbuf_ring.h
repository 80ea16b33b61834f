/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc/tbuf_ring: records and their places; for the files of the trace buffer only.
 *
 * The ring is a run of records, each a 16-byte header and the payload, rounded up to 16 (R18).
 * Positions:
 *
 *     0 ........ wr [gap] oldest ........ end ........ used ........ size
 *     newest lap    pad   the lap before      nothing       never touched, zero
 *
 * `wr` is the write cursor. Behind it lies `gap`, the padding left over from the record overwritten
 * last, then the records of the lap before, up to `end`. Bytes from `end` on hold no record; bytes
 * from `used` on were never touched (R29). In the first lap wr = end.
 *
 * The age of a place is counted without wrap: place p of the newest lap has age `lap` + p, of the
 * lap before `lap` - size + p.
 */
#ifndef SVC_TBUF_RING_H
#define SVC_TBUF_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "svc/tbuf.h"
#include "svc/tbuf_seq.h"

#define TBUF_RESTART_MIN    (256u << 10) /* default of restart_min */
#define TBUF_RESTART_BYTES  (64u << 10)  /* most that a restart takes along */
#define TBUF_RESTART_CHUNKS 512u

#define TBUF_PART_MAX    (256u << 10) /* default of part_max */
#define TBUF_PART_SLICES 256u         /* and its slices */

#define TBUF_REC_HDR     16u
#define TBUF_PAYLOAD_MAX 65535u

/* Bits of tbuf_rec.flags; the low three are TBUF_CHUNK_*. */
#define TBUF_REC_WIRE       0x0007u
#define TBUF_REC_INCOMPLETE 0x0008u /* scraped; a later copy may complete it */
#define TBUF_REC_ABORTED    0x0010u /* a drop marker follows the last fragment */
#define TBUF_REC_CORRUPT    0x0020u /* malformed behind the last valid fragment */
#define TBUF_REC_FILLED     0x0040u /* not only empty packets in the unread part */
#define TBUF_REC_GONE       0x0080u /* read or evicted; id is the distance to hop, or 0 */
#define TBUF_REC_MOVED      0x0100u /* with GONE: relocated, counts as padding when cleared */

struct tbuf_rec {
    uint32_t id;       /* chunk id */
    uint32_t seq;      /* slot of its sequence */
    uint16_t room;     /* payload bytes that fit, fixed for the life of the record */
    uint16_t payload;  /* bytes of valid fragments */
    uint16_t consumed; /* bytes of fragments already read or given up */
    uint16_t flags;    /* TBUF_REC_* */
};

_Static_assert(sizeof(struct tbuf_rec) == TBUF_REC_HDR, "R18");

struct tbuf {
    uint8_t *mem; /* own, mapped, `size` bytes between two guard pages */
    uint64_t size;
    uint64_t wr;
    uint64_t gap; /* cleared bytes at wr */
    uint64_t pad; /* of them, counted as padding written; all of them between two writes */
    uint64_t end;
    uint64_t used;
    uint64_t lap;
    uint64_t moved_bytes; /* relocated records still lying in the ring */
    uint64_t live_bytes;  /* records not GONE */
    uint64_t live_chunks;
    struct tbuf_seqtab seqs;
    struct tbuf_stats stats;
    enum tbuf_policy policy;
    unsigned flags;
    bool sealed;
    bool read_only;
    bool drained;         /* the last walk came to its end and nothing was written since */
    uint64_t populated;   /* first-lap memory taken ahead */
    bool small_pages;     /* of the rest of it */
    uint64_t look;        /* place of the record that the caches are warmed for */
    uint64_t restart_min; /* a restart is not worth it before the cursor came so far */

    /* the reader */
    uint64_t rd;      /* age: everything older is GONE */
    uint64_t walk_at; /* age: where the walk stands */
    uint64_t warm;    /* age: the caches were asked for the bytes up to here */
    uint32_t walk;    /* its number, never 0 */
    bool rewalk;      /* the next begin starts over at rd */
    uint32_t steps;   /* what is left of the step budget of this call */
    struct iovec one;
    struct iovec *slices; /* own: of the last fragmented packet */
    size_t slices_cap;
    uint64_t part_max; /* bytes after which a packet is given in parts */
    struct {
        uint32_t slot; /* sequence of the packet whose next part is due; 0: none */
        uint32_t key;
        uint32_t next_id;
        uint32_t last_id;
        uint32_t loss; /* told with its first part */
    } part;

    uint8_t *scratch; /* own: TBUF_PAYLOAD_MAX bytes, private copy of a chunk; made on first use */

    struct tbuf_clone *clones; /* ref: clones in the making, see svc/tbuf_clone */
    struct tbuf_vms *vms;      /* own: see svc/tbuf_vm; NULL: none */
    bool freed;                /* tbuf_free() was called; the last of them frees it */
    uint64_t released;         /* by tbuf_free_some() */
};

static inline uint64_t tbuf_rec_size(uint32_t room)
{
    return ((uint64_t)TBUF_REC_HDR + room + 15) & ~UINT64_C(15);
}

static inline struct tbuf_rec *tbuf_rec_at(const struct tbuf *b, uint64_t place)
{
    return (struct tbuf_rec *)(void *)(b->mem + place);
}

static inline struct tbuf_rec *tbuf_rec_of(const struct tbuf *b, uint32_t ref)
{
    return tbuf_rec_at(b, (uint64_t)ref << 4);
}

static inline uint8_t *tbuf_rec_bytes(struct tbuf_rec *r)
{
    return (uint8_t *)(r + 1);
}

/* Clones in the making take what they have not copied yet of `bytes` bytes from p on. Call it
 * before anything of a record changes that a clone could see: all but what lies in the cleared
 * room at the cursor. */
void tbuf_clone_keep(struct tbuf *b, const void *p, uint64_t bytes);

/* The same before the state of ProtoVM number `vm` changes; returns the bytes of work. */
size_t tbuf_clone_keep_vm(struct tbuf *b, uint32_t vm);

static inline void tbuf_keep_record(struct tbuf *b, const struct tbuf_rec *r)
{
    if (__builtin_expect(b->clones != NULL, 0))
        tbuf_clone_keep(b, r, tbuf_rec_size(r->room));
}

static inline void tbuf_keep_header(struct tbuf *b, const struct tbuf_rec *r)
{
    if (__builtin_expect(b->clones != NULL, 0))
        tbuf_clone_keep(b, r, TBUF_REC_HDR);
}

/* Age of the oldest place that may hold a record. */
static inline uint64_t tbuf_oldest_age(const struct tbuf *b)
{
    return b->wr + b->gap < b->end ? b->lap - b->size + b->wr + b->gap : b->lap;
}

static inline uint64_t tbuf_newest_age(const struct tbuf *b)
{
    return b->lap + b->wr;
}

/* Something happened to a sequence that may make it readable: if the walk passed over it, the walk
 * starts over. */
static inline void tbuf_ring_wake(struct tbuf *b, struct tbuf_seq *s)
{
    if (s->stalled == b->walk)
        b->rewalk = true;
    s->stalled = 0;
}

/* Maps the memory. 0 or -ENOMEM. */
int tbuf_ring_init(struct tbuf *b, uint64_t size);
void tbuf_ring_fini(struct tbuf *b);

/* Gives back some of the ring's memory; false when there is no more. Only before tbuf_ring_fini. */
bool tbuf_ring_release(struct tbuf *b);

/* Bytes at the write cursor that can be written without evicting anything. */
static inline uint64_t tbuf_ring_room(const struct tbuf *b)
{
    return b->wr + b->gap < b->end ? b->gap : b->size - b->wr;
}

/* Evicts one record behind the cleared room. There is one: room < size - wr. */
void tbuf_ring_clear_next(struct tbuf *b);

/* Clears at least `bytes` at the write cursor; they fit before the end of the memory. */
static inline void tbuf_ring_clear(struct tbuf *b, uint64_t bytes)
{
    while (tbuf_ring_room(b) < bytes)
        tbuf_ring_clear_next(b);
}

/* Gives up what lies between the cursor and the end, and goes to place 0. */
void tbuf_ring_wrap(struct tbuf *b);

/* Writes the header of a new record at the cursor, where it was cleared and the payload already
 * stands, counts it and moves the cursor behind it. */
struct tbuf_rec *tbuf_ring_commit(struct tbuf *b, const struct tbuf_rec *header);

/* A chunk ends its life in the ring: read to its end, or given up by the reader, which has told
 * clones that its header changes. */
void tbuf_ring_retire(struct tbuf *b, struct tbuf_seq *s);

/* The stored copy of a chunk is replaced by one elsewhere: its place is padding from now on. */
void tbuf_ring_vacate(struct tbuf *b, struct tbuf_rec *r);

/* Evicts the oldest chunk wherever the cursor is. False when there is none. */
bool tbuf_ring_evict_oldest(struct tbuf *b);

/* Evicts the oldest chunk of a sequence, which has one. */
void tbuf_ring_evict_front(struct tbuf *b, struct tbuf_seq *s);

/* After a drain: goes back to place 0 if little is left, taking that along, so that a streaming
 * session stays in a small part of the memory. */
void tbuf_ring_restart(struct tbuf *b);

/* Reading reaches chunk `id` at the front of the list: what was lost before it is now certain.
 * True when the chunk just before it is known to be lost, which explains an orphan. */
bool tbuf_ring_pass(struct tbuf_seq *s, uint32_t id);

#endif
