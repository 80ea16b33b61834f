/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pending request of an arbiter: how chunks and patches enter it, when it leaves, in how many
 * parts, and who is told when the service has it.
 *
 * Sending takes the whole request out under the lock and then works without it, on the IPC thread
 * only; the two boxes (pending, shipping) swap their arrays, so a writer never waits for a message
 * to be built.
 *
 * Must never: hold the lock while calling an operation, or send from another thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "smb/arbiter_priv.h"
#include "smb/scan.h"

/* R109, estimated bytes of one request. */
#define PART_LIMIT     130560u
#define MOVE_OVERHEAD  32u
#define ENTRY_OVERHEAD 32u
#define PATCH_OVERHEAD 16u
#define ENTRY_PATCHES  1024u /* more in one entry are refused by services (R90) */

/* ---- small parts ---- */

int arbiter_box_init(struct arbiter_box *box, size_t slots)
{
    *box = (struct arbiter_box){.moves = calloc(slots, sizeof(*box->moves)), .move_cap = slots};
    return box->moves ? 0 : -ENOMEM;
}

void arbiter_box_fini(struct arbiter_box *box)
{
    free(box->moves);
    free(box->entries);
    free(box->patches);
    *box = (struct arbiter_box){.moves = NULL};
}

static bool box_empty(const struct arbiter_box *box)
{
    return box->move_count == 0 && box->entry_count == 0 && box->flush_id == 0;
}

/* Room for one more element of `size`. False when out of memory. */
static bool grow(void **array, size_t count, size_t *cap, size_t size)
{
    if (count < *cap) {
        return true;
    }
    size_t want = *cap ? *cap * 2 : 16;
    void *p = realloc(*array, want * size);
    if (!p) {
        return false;
    }
    *array = p;
    *cap = want;
    return true;
}

void arbiter_acks_init(struct arbiter_acks *acks)
{
    acks->head = NULL;
    acks->tail = &acks->head;
}

void arbiter_acks_add(struct arbiter_acks *acks, struct arbiter_ack *ack)
{
    ack->next = NULL;
    *acks->tail = ack;
    acks->tail = &ack->next;
}

void arbiter_acks_move(struct arbiter_acks *to, struct arbiter_acks *from)
{
    if (from->head) {
        *to->tail = from->head;
        to->tail = from->tail;
        arbiter_acks_init(from);
    }
}

void arbiter_acks_run(struct arbiter_acks *acks, bool acked)
{
    struct arbiter_ack *a = acks->head;
    arbiter_acks_init(acks);
    while (a) {
        struct arbiter_ack *next = a->next;
        a->cb(a->ctx, acked);
        free(a);
        a = next;
    }
}

/* ---- planning ---- */

void arbiter_plan(struct arbiter *arb, bool urgent, struct arbiter_todo *todo)
{
    if (!arbiter_fully_bound(arb)) {
        return; /* binding sends it all (R81) */
    }
    if (arb->emulated && arb->ops->on_ipc_thread(arb->ctx)) {
        todo->commit = true; /* R108 */
        return;
    }
    if (arb->emulated || arbiter_half_pending(arb) || arb->batch_ms == 0) {
        urgent = true;
    }
    if (urgent && !arb->soon) {
        arb->soon = true;
        todo->post = true;
        todo->delay_ms = 0;
    } else if (!urgent && !arb->soon && !arb->later) {
        arb->later = true;
        arb->later_at = arb->ops->now_ms(arb->ctx) + arb->batch_ms;
        todo->post = true;
        todo->delay_ms = arb->batch_ms;
    }
}

void arbiter_do(struct arbiter *arb, const struct arbiter_todo *todo)
{
    if (todo->post) {
        arb->ops->schedule(arb->ctx, todo->delay_ms);
    }
    if (todo->commit) {
        struct arbiter_acks none;
        arbiter_acks_init(&none);
        arbiter_send(arb, &none);
    }
}

/* ---- what writers hand over ---- */

/* The chunk of this patch if it still waits here, held back. Lock held. */
static struct arbiter_move *find_held(struct arbiter *arb, uint16_t writer_id, uint32_t chunk_id)
{
    for (size_t i = arb->pending.move_count; i-- > 0;) {
        struct arbiter_move *m = &arb->pending.moves[i];
        if (m->being_written && m->writer_id == writer_id && m->chunk_id == chunk_id) {
            return m;
        }
    }
    return NULL;
}

/* R75. Lock held. True if `p` was applied where it belongs. */
static bool patch_directly(struct arbiter *arb, uint16_t writer_id, const struct patch *p)
{
    struct arbiter_move *m = arb->direct_patching ? find_held(arb, writer_id, p->chunk_id) : NULL;
    if (!m) {
        return false;
    }
    memcpy(m->at.payload + p->offset, p->data, sizeof(p->data));
    if (!p->next || p->next->chunk_id != p->chunk_id) {
        page_flag_clear(&m->at, SMB_NEEDS_PATCHING);
        page_release_complete(arb->shm, &m->at);
        m->being_written = false;
    }
    return true;
}

/* R67. Lock held. `same` = the patch before it of this handover was for the same chunk. False when
 * out of memory. */
static bool patch_by_commit(struct arbiter *arb, const struct arbiter_client *c,
                            const struct patch *p, bool same)
{
    struct arbiter_box *box = &arb->pending;
    if (!grow((void **)&box->patches, box->patch_count, &box->patch_cap, sizeof(*box->patches)) ||
        !grow((void **)&box->entries, box->entry_count, &box->entry_cap, sizeof(*box->entries))) {
        return false;
    }
    struct commit_entry *e = box->entry_count ? &box->entries[box->entry_count - 1] : NULL;
    if (!same || !e || e->count == ENTRY_PATCHES) {
        e = &box->entries[box->entry_count++];
        *e = (struct commit_entry){
            .target_buffer = c->target,
            .chunk_id = p->chunk_id,
            .first = (uint32_t)box->patch_count,
            .writer_id = c->id,
        };
    }
    struct commit_patch *out = &box->patches[box->patch_count++];
    out->offset = p->offset;
    memcpy(out->data, p->data, sizeof(out->data));
    e->count++;
    e->has_more = p->next && p->next->chunk_id == p->chunk_id;
    return true;
}

/* Takes the completed patches at the head. Lock held. True if the service has to be told. */
static bool take_patches(struct arbiter *arb, const struct arbiter_client *c,
                         struct patch_list *patches)
{
    bool told = false;
    bool same = false;
    uint32_t last = 0;
    for (struct patch *p; (p = patch_ready(patches)); patch_pop(patches)) {
        if (arb->dead || patch_directly(arb, c->id, p)) {
            same = false;
            continue;
        }
        if (!patch_by_commit(arb, c, p, same && last == p->chunk_id)) {
            break; /* stays in the writer's list for the next time */
        }
        told = same = true;
        last = p->chunk_id;
    }
    return told;
}

void arbiter_put_chunk(struct arbiter *arb, const struct arbiter_client *c,
                       const struct page_chunk *chunk, struct patch_list *patches)
{
    struct arbiter_todo todo = {.post = false};
    pthread_mutex_lock(&arb->lock);
    bool hold = arb->direct_patching && !arb->dead &&
                (abi_packets_flags(page_packets(chunk)) & SMB_NEEDS_PATCHING);
    uint32_t chunk_id = atomic_load_explicit(&chunk->hdr->chunk_id, memory_order_relaxed);
    if (!hold) {
        page_release_complete(arb->shm, chunk);
    }
    struct arbiter_box *box = &arb->pending;
    /* More moves than chunks: the service freed what it was never given. Its loss. */
    if (!arb->dead && box->move_count < box->move_cap) {
        box->moves[box->move_count++] = (struct arbiter_move){
            .at = *chunk,
            .target = c->target,
            .chunk_id = chunk_id,
            .writer_id = c->id,
            .being_written = hold,
        };
        box->chunk_bytes += chunk->payload_size + SMB_CHUNK_HDR_SIZE;
    }
    bool told = take_patches(arb, c, patches);
    arbiter_plan(arb, told, &todo);
    pthread_mutex_unlock(&arb->lock);
    arbiter_do(arb, &todo);
}

void arbiter_put_patches(struct arbiter *arb, const struct arbiter_client *c,
                         struct patch_list *patches)
{
    struct arbiter_todo todo = {.post = false};
    pthread_mutex_lock(&arb->lock);
    if (take_patches(arb, c, patches)) {
        arbiter_plan(arb, true, &todo);
    }
    pthread_mutex_unlock(&arb->lock);
    arbiter_do(arb, &todo);
}

/* ---- sending ---- */

/* Cost of an entry in R109's estimate. */
static size_t entry_cost(const struct commit_entry *e)
{
    return ENTRY_OVERHEAD + e->count * (sizeof(((struct commit_patch *)0)->data) + PATCH_OVERHEAD);
}

/* Sends req in as many parts as R109 wants; flush id and cookie go with the last one. */
static void send_parts(struct arbiter *arb, const struct commit_request *req)
{
    size_t m = 0;
    size_t e = 0;
    do {
        struct commit_request part = {
            .moves = m < req->move_count ? &req->moves[m] : NULL,
            .entries = e < req->entry_count ? &req->entries[e] : NULL,
            .patches = req->patches,
        };
        size_t cost = 0;
        for (; m < req->move_count; m++, part.move_count++) {
            size_t add = req->moves[m].data_len + MOVE_OVERHEAD;
            if (cost && cost + add >= PART_LIMIT) {
                break;
            }
            cost += add;
        }
        for (; m == req->move_count && e < req->entry_count; e++, part.entry_count++) {
            size_t add = entry_cost(&req->entries[e]);
            if (cost && cost + add >= PART_LIMIT) {
                break;
            }
            cost += add;
        }
        if (m == req->move_count && e == req->entry_count) {
            part.flush_id = req->flush_id;
            part.ack_cookie = req->ack_cookie;
        }
        arb->ops->send_commit(arb->ctx, &part);
    } while (m < req->move_count || e < req->entry_count);
}

/* Swaps the pending request out. Lock held. */
static void take_pending(struct arbiter *arb)
{
    struct arbiter_box box = arb->shipping;
    arb->shipping = arb->pending;
    arb->pending = box;
    arb->pending.move_count = arb->pending.entry_count = arb->pending.patch_count = 0;
    arb->pending.chunk_bytes = 0;
    arb->pending.flush_id = 0;
    for (size_t i = 0; i < arb->shipping.move_count; i++) {
        struct arbiter_move *m = &arb->shipping.moves[i];
        if (m->being_written) {
            page_release_complete(arb->shm, &m->at); /* R76: the flag stays */
            m->being_written = false;
        }
    }
}

static void fill_wire(struct arbiter *arb)
{
    for (size_t i = 0; i < arb->shipping.move_count; i++) {
        const struct arbiter_move *m = &arb->shipping.moves[i];
        arb->wire[i] = (struct commit_move){
            .page = m->at.page,
            .chunk = m->at.chunk,
            .target_buffer = m->target,
        };
        if (arb->emulated) {
            arb->wire[i].data = (const uint8_t *)m->at.hdr;
            arb->wire[i].data_len = m->at.payload_size + SMB_CHUNK_HDR_SIZE;
        }
    }
}

void arbiter_send(struct arbiter *arb, struct arbiter_acks *acks)
{
    bool ready = !arb->ops || !arb->ops->ready || arb->ops->ready(arb->ctx);
    pthread_mutex_lock(&arb->lock);
    bool bound = arbiter_fully_bound(arb);
    if (bound && !ready) {
        arb->soon = true; /* the next run takes it */
        arbiter_acks_move(&arb->waiting, acks);
        pthread_mutex_unlock(&arb->lock);
        return;
    }
    if (bound) {
        arbiter_acks_move(acks, &arb->waiting);
        take_pending(arb);
    } else if (!arb->dead) {
        arbiter_acks_move(&arb->waiting, acks);
    }
    pthread_mutex_unlock(&arb->lock);
    if (!bound) {
        arbiter_acks_run(acks, false); /* dead: nobody will answer */
        return;
    }
    struct arbiter_box *box = &arb->shipping;
    if (box_empty(box) && !acks->head) {
        return;
    }
    fill_wire(arb);
    struct commit_request req = {
        .moves = arb->wire,
        .move_count = box->move_count,
        .entries = box->entries,
        .entry_count = box->entry_count,
        .patches = box->patches,
        .flush_id = box->flush_id,
        .ack_cookie = acks->head ? ++arb->cookie : 0,
    };
    for (struct arbiter_ack *a = acks->head; a; a = a->next) {
        a->cookie = req.ack_cookie;
    }
    arbiter_acks_move(&arb->unacked, acks);
    send_parts(arb, &req);
    for (size_t i = 0; arb->emulated && i < box->move_count; i++) {
        page_free_complete(arb->shm, &box->moves[i].at); /* R107 */
    }
}

/* ---- the IPC thread's turn ---- */

static void run_task(struct arbiter *arb, struct arbiter_task *t)
{
    struct arbiter_acks acks;
    switch (t->kind) {
    case ARBITER_TASK_REGISTER:
        arb->ops->register_writer(arb->ctx, t->writer_id, t->target);
        break;
    case ARBITER_TASK_UNREGISTER:
        arb->ops->unregister_writer(arb->ctx, t->writer_id);
        break;
    case ARBITER_TASK_FLUSH:
        arbiter_acks_init(&acks);
        if (t->ack) {
            arbiter_acks_add(&acks, t->ack);
        }
        arbiter_send(arb, &acks);
        break;
    }
    free(t);
}

void arbiter_run(struct arbiter *arb)
{
    struct arbiter_todo todo = {.post = false};
    pthread_mutex_lock(&arb->lock);
    struct arbiter_task *t = arb->ops ? arb->tasks : NULL;
    if (t) {
        arb->tasks = NULL;
        arb->tasks_tail = &arb->tasks;
    }
    bool dead = arb->dead;
    pthread_mutex_unlock(&arb->lock);
    while (t) {
        struct arbiter_task *next = t->next;
        if (dead && t->kind != ARBITER_TASK_FLUSH) {
            free(t);
        } else {
            run_task(arb, t);
        }
        t = next;
    }
    pthread_mutex_lock(&arb->lock);
    bool due = arb->soon;
    arb->soon = false;
    if (arb->later && arb->ops) {
        uint64_t now = arb->ops->now_ms(arb->ctx);
        if (now >= arb->later_at) {
            arb->later = false;
            due = true;
        } else {
            todo.post = true; /* this call may have come in place of the one asked for */
            todo.delay_ms = (uint32_t)(arb->later_at - now);
        }
    }
    todo.commit = due;
    pthread_mutex_unlock(&arb->lock);
    arbiter_do(arb, &todo);
}

void arbiter_flush(struct arbiter *arb, arbiter_flush_cb *cb, void *ctx)
{
    struct arbiter_ack *ack = cb ? calloc(1, sizeof(*ack)) : NULL;
    struct arbiter_task *task = calloc(1, sizeof(*task));
    if (!task || (cb && !ack)) {
        free(task);
        free(ack);
        if (cb) {
            cb(ctx, false);
        }
        return;
    }
    if (ack) {
        *ack = (struct arbiter_ack){.cb = cb, .ctx = ctx};
    }
    *task = (struct arbiter_task){.kind = ARBITER_TASK_FLUSH, .ack = ack};
    pthread_mutex_lock(&arb->lock);
    const struct arbiter_ops *ops = arb->ops;
    void *ops_ctx = arb->ctx;
    arbiter_post(arb, task);
    pthread_mutex_unlock(&arb->lock);
    if (!ops) {
        return; /* binding will run it */
    }
    if (ops->on_ipc_thread(ops_ctx)) {
        arbiter_run(arb);
    } else {
        ops->schedule(ops_ctx, 0);
    }
}

void arbiter_acked(struct arbiter *arb, uint64_t cookie, bool ok)
{
    struct arbiter_acks done;
    struct arbiter_acks rest;
    arbiter_acks_init(&done);
    arbiter_acks_init(&rest);
    struct arbiter_ack *a = arb->unacked.head;
    arbiter_acks_init(&arb->unacked);
    while (a) {
        struct arbiter_ack *next = a->next;
        arbiter_acks_add(a->cookie == cookie ? &done : &rest, a);
        a = next;
    }
    arbiter_acks_move(&arb->unacked, &rest);
    arbiter_acks_run(&done, ok);
}

/* ---- flush acknowledgements and self-scraping ---- */

/* The buffer of a writer that the service knows. Lock held. */
static bool registered_buffer(const struct arbiter *arb, uint16_t writer_id, uint32_t *target)
{
    for (const struct arbiter_client *c = arb->clients; c; c = c->next) {
        if (c->id == writer_id && !c->hello && c->target < ARBITER_RESERVED) {
            *target = c->target;
            return true;
        }
    }
    return false;
}

/* Copies a chunk with the header as it was looked at, so that a count never covers bytes that were
 * copied before it rose. */
static void copy_chunk(uint8_t *to, const struct scan_chunk *c)
{
    uint16_t packets = abi_packets(c->count, c->flags);
    memcpy(to, &c->chunk_id, sizeof(c->chunk_id));
    memcpy(to + offsetof(struct smb_chunk_hdr, writer_id), &c->writer_id, sizeof(c->writer_id));
    memcpy(to + offsetof(struct smb_chunk_hdr, packets), &packets, sizeof(packets));
    memcpy(to + SMB_CHUNK_HDR_SIZE, c->payload, c->size);
}

/* R111. Sends in portions of one request each. The memory is private: all pages have our layout. */
static void self_scrape(struct arbiter *arb)
{
    uint8_t *bytes = malloc(PART_LIMIT + SMB_ABI_MAX_PAGE);
    if (!bytes) {
        return; /* a flush without the unfinished chunks is still a flush */
    }
    struct scan_iter it;
    struct scan_chunk c;
    uint32_t budget = arb->shm->pages * (SMB_MAX_CHUNKS + 1);
    uint32_t target;
    size_t used = 0;
    struct commit_request req = {.moves = arb->wire};
    scan_begin(&it, arb->shm);
    while (scan_next(&it, &budget, &c) == SCAN_FOUND && c.at.layout == arb->layout) {
        size_t len = c.size + SMB_CHUNK_HDR_SIZE;
        pthread_mutex_lock(&arb->lock);
        bool known = registered_buffer(arb, c.writer_id, &target);
        pthread_mutex_unlock(&arb->lock);
        if (!known) {
            continue;
        }
        if (req.move_count && used + len + (req.move_count + 1) * MOVE_OVERHEAD >= PART_LIMIT) {
            arb->ops->send_commit(arb->ctx, &req);
            req.move_count = 0;
            used = 0;
        }
        copy_chunk(bytes + used, &c);
        arb->wire[req.move_count++] = (struct commit_move){
            .data = bytes + used,
            .data_len = (uint32_t)len,
            .page = c.at.page,
            .chunk = c.at.chunk,
            .target_buffer = target,
            .scraped = true,
            .incomplete = c.incomplete,
        };
        used += len;
    }
    if (req.move_count) {
        arb->ops->send_commit(arb->ctx, &req);
    }
    free(bytes);
}

void arbiter_ack_flush(struct arbiter *arb, uint64_t id)
{
    struct arbiter_todo todo = {.post = false};
    pthread_mutex_lock(&arb->lock);
    bool scrape = arb->self_scrape && arb->emulated && arbiter_fully_bound(arb);
    pthread_mutex_unlock(&arb->lock);
    if (scrape) {
        self_scrape(arb);
    }
    pthread_mutex_lock(&arb->lock);
    bool empty = box_empty(&arb->pending);
    if (!arb->dead && id > arb->pending.flush_id) {
        arb->pending.flush_id = id;
    }
    if (arbiter_fully_bound(arb) && (empty || !(arb->soon || arb->later)) && !arb->soon) {
        arb->soon = true;
        todo.post = true;
    }
    pthread_mutex_unlock(&arb->lock);
    arbiter_do(arb, &todo);
}
