/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of the reference model share. */
#ifndef T_SVC_TBUF_MODEL_INT_H
#define T_SVC_TBUF_MODEL_INT_H

#include "tbuf_model.h"

enum { FIRST = 1, LAST = 2, HOLES = 4 };

struct chunk {
    uint32_t id;
    bool evicted;
    bool incomplete, aborted, corrupt;
    bool filled; /* something in the unread part would be missed */
    unsigned flags;
    uint8_t *bytes; /* own: `len` valid bytes, room for 65536 */
    uint32_t len, room, consumed;
    unsigned loss; /* if evicted */
};

struct seq {
    uint16_t producer, writer;
    struct tbuf_client client;
    bool closed, stalled, returned;
    struct chunk **list; /* own */
    size_t n;
    /* newest chunk that is over */
    bool has_last, last_evicted, last_incomplete;
    uint32_t last_id, last_len, last_consumed;
    struct passed {
        bool known;
        uint32_t id, len;
    } passed[2]; /* the newest complete chunks that are over, newest first */
    unsigned last_loss;
    bool lost_chain;
    unsigned pending;
    bool dead; /* slot of a clone's source that is not used */
};

struct rec {
    uint64_t place, size;
    bool old_lap, gone, moved;
    struct seq *seq;
    struct chunk *chunk;
};

struct model {
    uint64_t size, wr, cleared, used, restart_min;
    bool sealed, drained, rewalk, read_only;
    bool held; /* a clone is being made: no restart */
    enum tbuf_policy policy;
    struct rec *recs; /* own, oldest first */
    size_t n;
    struct seq **seqs; /* own */
    size_t num_seqs;
    struct tbuf_stats st;
    uint8_t *packet;  /* own */
    uint64_t padding; /* counted padding lying in the ring */
};

static inline int32_t ahead(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b);
}

struct piece {
    bool ok, from_prev, to_next, last;
    uint32_t start, size, end;
};

struct piece model_piece(const struct chunk *c, uint32_t at);
struct rec *model_rec_of(struct model *m, const struct chunk *c);
struct chunk *model_shift(struct seq *s);
void model_shift_evicted(struct seq *s);
void model_settle(struct seq *s, uint32_t id);
void model_passed(struct seq *s, const struct chunk *c);
void model_drop(struct chunk *c);

#endif
