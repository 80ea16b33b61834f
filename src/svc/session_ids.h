/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SESSION_IDS_H
#define SVC_SESSION_IDS_H

/*
 * Packet sequence ids of a session (R127): of each machine, producer and writer whose packets it
 * reads.
 */

#include <stddef.h>
#include <stdint.h>

#include "reactor/idmap.h"

struct session;

enum session_ids_stage { SESSION_IDS_REST, SESSION_IDS_COLLECT, SESSION_IDS_SWEEP };

struct session_ids {
    struct idmap of; /* machine, producer, writer -> id, as a pointer */
    uint32_t last;
    uint32_t worked; /* `last` at the last step */
    size_t prune_at; /* ids with which the next pruning begins */
    enum session_ids_stage stage;
    uint64_t *here;      /* own, while pruning: a bit for each producer that keeps what it has */
    struct idmap stored; /* keys of others that buffers know */
    size_t buffer;       /* next to be looked through, and the place in it */
    uint32_t cursor;
    size_t pos; /* place in `of` */
};

void session_ids_init(struct session_ids *ids);
void session_ids_fini(struct session_ids *ids);

/* The id of a writer, given now if it has none: 2, 3, ... The same for as long as the session lives
 * and something may come from that writer. */
uint32_t session_ids_get(struct session_ids *ids, uint32_t machine_id, uint16_t producer,
                         uint16_t writer);

/* A little of forgetting writers that nothing can come from any more. Call with each batch. */
void session_ids_step(struct session *s);

#endif
