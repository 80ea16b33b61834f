/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc/tbuf_seqcopy: a copy of a sequence table as it is now, made piece by piece while the table
 * goes on.
 */
#ifndef SVC_TBUF_SEQCOPY_H
#define SVC_TBUF_SEQCOPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svc/tbuf_seq.h"

/* What the copy has of a sequence is right once the sequence was kept, and a sequence is kept
 * before it first changes. Order lists are not copied but made again from the records, each of
 * which is given to tbuf_seqcopy_add(), oldest first; only lists with tombs are copied whole. The
 * copy has no hash: nothing is ever looked up or added in it. */
struct tbuf_seqcopy {
    struct tbuf_seqcopy *next; /* ref: in from->copies */
    struct tbuf_seqtab *from;  /* borrow */
    struct tbuf_seqtab *to;    /* borrow */
    uint64_t *kept;            /* own: a bit for each slot */
    uint32_t top;              /* slots of the moment of the begin */
    uint32_t swept;
    bool failed; /* no memory for a list */
};

/* Initialises *to, which tbuf_seqtab_fini() frees, and *c. 0 or -ENOMEM with nothing to free. */
int tbuf_seqcopy_begin(struct tbuf_seqcopy *c, struct tbuf_seqtab *to, struct tbuf_seqtab *from);

/* A record with this entry is in the list of this sequence. Returns the bytes that moved. */
size_t tbuf_seqcopy_add(struct tbuf_seqcopy *c, uint32_t slot, struct tbuf_ent e);

/* Keeps the next sequences that are not kept yet, `max` slots at most; false: it was the last. */
bool tbuf_seqcopy_sweep(struct tbuf_seqcopy *c, uint32_t max);

/* No more is kept. */
void tbuf_seqcopy_end(struct tbuf_seqcopy *c);

void tbuf_seqcopy_keep(struct tbuf_seqcopy *first, uint32_t slot);

/* Call before the sequence in this slot changes. */
static inline void tbuf_seqcopy_before(struct tbuf_seqtab *t, uint32_t slot)
{
    if (__builtin_expect(t->copies != NULL, 0))
        tbuf_seqcopy_keep(t->copies, slot);
}

#endif
