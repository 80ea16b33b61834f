/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the arbiter, for its own two files: arbiter.c (chunks, writers, reservations) and
 * arbiter_commit.c (the pending request and everything that is sent). */
#ifndef SMB_ARBITER_PRIV_H
#define SMB_ARBITER_PRIV_H

#include <pthread.h>

#include "smb/arbiter.h"
#include "smb/wid.h"

/* A returned chunk that waits in the pending request. */
struct arbiter_move {
    struct page_chunk at;
    uint32_t target; /* as arbiter_client.target */
    uint32_t chunk_id;
    uint16_t writer_id;
    bool being_written; /* held back for direct patching (R74) */
};

/* One request in the making. Its arrays only grow; a request that was sent leaves them for the
 * next. */
struct arbiter_box {
    struct arbiter_move *moves;   /* own: room for every chunk of the SMB */
    struct commit_entry *entries; /* own; target_buffer as arbiter_client.target until sent */
    struct commit_patch *patches; /* own */
    size_t move_count, move_cap;
    size_t entry_count, entry_cap;
    size_t patch_count, patch_cap;
    size_t chunk_bytes; /* sum over moves, for R69's half */
    uint64_t flush_id;
};

/* Somebody waits for a reply. */
struct arbiter_ack {
    struct arbiter_ack *next; /* own */
    arbiter_flush_cb *cb;
    void *ctx; /* borrow */
    uint64_t cookie;
};

struct arbiter_acks {
    struct arbiter_ack *head; /* own */
    struct arbiter_ack **tail;
};

enum arbiter_task_kind {
    ARBITER_TASK_REGISTER,
    ARBITER_TASK_UNREGISTER,
    ARBITER_TASK_FLUSH,
};

/* Work for the IPC thread, done in the order in which it was posted. */
struct arbiter_task {
    struct arbiter_task *next; /* own */
    struct arbiter_ack *ack;   /* own: FLUSH with a callback */
    enum arbiter_task_kind kind;
    uint16_t writer_id;
    uint16_t target;
};

struct arbiter_reservation {
    uint16_t id;
    uint16_t target; /* once resolved; 0 = aborted */
    bool resolved;
};

struct arbiter {
    pthread_mutex_t lock;          /* all below, unless it says otherwise */
    struct shmem *shm;             /* borrow; fixed */
    const struct arbiter_ops *ops; /* borrow: NULL until bound */
    void *ctx;                     /* borrow */
    enum smb_layout layout;
    uint32_t batch_ms;
    bool emulated;
    bool direct_patching;
    bool self_scrape;
    bool ever_unbound; /* only the drop policy then (R65) */
    bool dead;         /* disconnected: nothing is sent any more */
    bool closing;      /* shut down: no new writers */

    uint32_t next_page; /* where the last search ended (R62) */
    struct wid ids;
    struct arbiter_client *clients; /* borrow: live writers */
    size_t client_count;
    struct arbiter_reservation *reservations; /* own */
    size_t reservation_count;
    size_t unresolved;

    struct arbiter_box pending;
    struct arbiter_box shipping; /* [ipc] only */
    struct commit_move *wire;    /* own, [ipc] only: room for every chunk of the SMB */
    bool soon;                   /* an immediate send is posted (R69) */
    bool later;                  /* a delayed send is posted ... */
    uint64_t later_at;           /* ... for this time, ms */

    struct arbiter_task *tasks; /* own */
    struct arbiter_task **tasks_tail;
    struct arbiter_acks waiting; /* flushes asked for while not fully bound (R81) */
    struct arbiter_acks unacked; /* [ipc] only: sent, reply outstanding */
    uint64_t cookie;             /* [ipc] only */
};

/* What to do once the lock is released. */
struct arbiter_todo {
    bool post;   /* schedule(delay_ms) */
    bool commit; /* send on this, the IPC, thread */
    uint32_t delay_ms;
};

/* Connected and every reservation resolved (R81). Lock held. */
static inline bool arbiter_fully_bound(const struct arbiter *arb)
{
    return arb->ops && !arb->dead && arb->unresolved == 0;
}

/* Lock held. */
static inline bool arbiter_half_pending(const struct arbiter *arb)
{
    return arb->pending.chunk_bytes >= arb->shm->size / 2;
}

/* Appends to the tasks of the IPC thread. Lock held. */
void arbiter_post(struct arbiter *arb, struct arbiter_task *task);

/* Decides when what is pending leaves (R69, R108). Lock held. urgent = now. */
void arbiter_plan(struct arbiter *arb, bool urgent, struct arbiter_todo *todo);

/* Carries it out. Lock not held. */
void arbiter_do(struct arbiter *arb, const struct arbiter_todo *todo);

/* [ipc] Sends what is pending now; acks (may be empty, is emptied) get the reply. Lock not held. */
void arbiter_send(struct arbiter *arb, struct arbiter_acks *acks);

/* 0 or -ENOMEM. Frees. */
int arbiter_box_init(struct arbiter_box *box, size_t slots);
void arbiter_box_fini(struct arbiter_box *box);

void arbiter_acks_init(struct arbiter_acks *acks);
void arbiter_acks_add(struct arbiter_acks *acks, struct arbiter_ack *ack);
/* Moves all of `from` to the end of `to`. */
void arbiter_acks_move(struct arbiter_acks *to, struct arbiter_acks *from);
/* Runs and frees all. Lock not held. */
void arbiter_acks_run(struct arbiter_acks *acks, bool acked);

#endif
