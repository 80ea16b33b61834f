/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arbiter's bookkeeping: free chunks, exhaustion policies, writers and reservations. What is
 * sent and when is in arbiter_commit.c; both share arbiter_priv.h.
 *
 * One lock covers all state that writers touch. The operations of the client layer are never called
 * with it held, so they may take locks of their own; what has to be done after unlocking is noted
 * in a struct arbiter_todo. Only the IPC thread sends, which is what keeps the moves of one
 * sequence in order (R71).
 *
 * Must never: send from a writer's thread, wait with the lock held, or lose a chunk for want of
 * memory (the pending request has room for every chunk from the start).
 */
#include "smb/arbiter.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "reactor/log.h"
#include "smb/arbiter_priv.h"

#define STALL_ATTEMPTS 300u    /* R64 */
#define STALL_MAX_US   100000u /* R64 */

/* ---- life ---- */

static size_t chunk_slots(const struct arbiter *arb)
{
    return (size_t)arb->shm->pages * abi_layout_chunks(arb->layout);
}

static int arbiter_init(struct arbiter *arb)
{
    size_t slots = chunk_slots(arb);
    if (arbiter_box_init(&arb->pending, slots) < 0 || arbiter_box_init(&arb->shipping, slots) < 0 ||
        wid_init(&arb->ids, SMB_MAX_WRITER_ID) < 0) {
        return -ENOMEM;
    }
    arb->wire = calloc(slots, sizeof(*arb->wire));
    return arb->wire ? 0 : -ENOMEM;
}

struct arbiter *arbiter_new(const struct arbiter_cfg *cfg, const struct arbiter_ops *ops, void *ctx)
{
    struct arbiter *arb = calloc(1, sizeof(*arb));
    if (!arb) {
        return NULL;
    }
    pthread_mutex_init(&arb->lock, NULL);
    arb->shm = cfg->shm;
    arb->layout = cfg->layout == SMB_LAYOUT_NONE ? SMB_LAYOUT_DIV1 : cfg->layout;
    arb->batch_ms = cfg->batch_ms;
    arb->emulated = cfg->emulated;
    arb->direct_patching = cfg->direct_patching && !cfg->unbound;
    arb->self_scrape = cfg->self_scrape;
    arb->ever_unbound = cfg->unbound;
    arb->tasks_tail = &arb->tasks;
    arbiter_acks_init(&arb->waiting);
    arbiter_acks_init(&arb->unacked);
    if (!cfg->unbound) {
        arb->ops = ops;
        arb->ctx = ctx;
    }
    if (arbiter_init(arb) < 0) {
        arbiter_free(arb);
        return NULL;
    }
    return arb;
}

static void free_tasks(struct arbiter_task *t)
{
    while (t) {
        struct arbiter_task *next = t->next;
        if (t->ack) {
            if (t->ack->cb) {
                t->ack->cb(t->ack->ctx, false);
            }
            free(t->ack);
        }
        free(t);
        t = next;
    }
}

void arbiter_free(struct arbiter *arb)
{
    if (!arb) {
        return;
    }
    arbiter_acks_run(&arb->unacked, false);
    arbiter_acks_run(&arb->waiting, false);
    free_tasks(arb->tasks);
    arbiter_box_fini(&arb->pending);
    arbiter_box_fini(&arb->shipping);
    free(arb->wire);
    free(arb->reservations);
    wid_fini(&arb->ids);
    pthread_mutex_destroy(&arb->lock);
    free(arb);
}

bool arbiter_shutdown(struct arbiter *arb)
{
    pthread_mutex_lock(&arb->lock);
    arb->closing = true;
    bool empty = arb->client_count == 0;
    pthread_mutex_unlock(&arb->lock);
    return empty;
}

void arbiter_disconnect(struct arbiter *arb)
{
    struct arbiter_acks acks;
    arbiter_acks_init(&acks);
    pthread_mutex_lock(&arb->lock);
    arb->dead = true;
    arb->pending.move_count = arb->pending.entry_count = arb->pending.patch_count = 0;
    arb->pending.chunk_bytes = 0;
    arb->pending.flush_id = 0;
    arbiter_acks_move(&acks, &arb->unacked);
    arbiter_acks_move(&acks, &arb->waiting);
    struct arbiter_task *tasks = arb->tasks;
    arb->tasks = NULL;
    arb->tasks_tail = &arb->tasks;
    pthread_mutex_unlock(&arb->lock);
    arbiter_acks_run(&acks, false);
    free_tasks(tasks);
}

void arbiter_set_batch_ms(struct arbiter *arb, uint32_t batch_ms)
{
    pthread_mutex_lock(&arb->lock);
    arb->batch_ms = batch_ms;
    pthread_mutex_unlock(&arb->lock);
}

/* ---- free chunks (7.1) ---- */

/* Takes a free chunk of this page. Lock held. */
static bool take_from_page(struct arbiter *arb, uint32_t page, uint16_t writer_id,
                           uint32_t chunk_id, uint16_t packets, struct page_chunk *out)
{
    uint32_t word = page_word_hint(arb->shm, page);
    if (word == 0) {
        if (!page_partition(arb->shm, page, arb->layout)) {
            return false;
        }
        word = (uint32_t)arb->layout << SMB_LAYOUT_SHIFT;
    }
    /* Pages that somebody else partitioned otherwise are left alone: the pending request has room
     * for the chunks of our layout. */
    if (abi_word_layout(word) != arb->layout) {
        return false;
    }
    for (uint32_t mask = page_free_mask(word); mask; mask &= mask - 1) {
        uint32_t chunk = (uint32_t)__builtin_ctz(mask);
        if (page_acquire_write(arb->shm, page, chunk, writer_id, chunk_id, packets, out)) {
            return true;
        }
    }
    return false;
}

/* R62. Lock held. */
static bool search(struct arbiter *arb, uint16_t writer_id, uint32_t chunk_id, uint16_t packets,
                   struct page_chunk *out)
{
    uint32_t page = arb->next_page;
    for (uint32_t i = 0; i < arb->shm->pages; i++) {
        if (take_from_page(arb, page, writer_id, chunk_id, packets, out)) {
            arb->next_page = page;
            return true;
        }
        page = page + 1 < arb->shm->pages ? page + 1 : 0;
    }
    return false;
}

enum attempt {
    GOT,
    FULL,
    NEVER, /* dead, or a policy that does not wait */
};

static void stall_wait(const struct arbiter_ops *ops, void *ctx, uint32_t us)
{
    if (ops->wait_us) {
        ops->wait_us(ctx, us);
        return;
    }
    struct timespec ts = {.tv_sec = 0, .tv_nsec = (long)us * 1000};
    nanosleep(&ts, NULL);
}

/* R62, stall then abort: what that means is the client layer's affair. */
static void exhausted(const struct arbiter_ops *ops, void *ctx)
{
    static const char message[] =
        "shared memory stayed full until the stall limit: the service does not free chunks";
    if (ops->exhausted) {
        ops->exhausted(ctx, message);
    } else {
        log_error("%s", message);
    }
}

bool arbiter_get_chunk(struct arbiter *arb, const struct arbiter_client *c,
                       enum arbiter_policy policy, bool dropping, uint32_t chunk_id,
                       uint16_t packets, struct page_chunk *out)
{
    struct arbiter_acks none;
    uint32_t us = 0;
    arbiter_acks_init(&none);
    for (uint32_t attempt = 1;; attempt++) {
        enum attempt result = FULL;
        pthread_mutex_lock(&arb->lock);
        bool waits =
            (policy == ARBITER_STALL_ABORT || (policy == ARBITER_STALL_DROP && !dropping)) &&
            !arb->ever_unbound && !arb->closing;
        const struct arbiter_ops *ops = arb->ops;
        void *ctx = arb->ctx;
        bool half = arbiter_half_pending(arb);
        if (arb->dead) {
            result = NEVER;
        } else if (search(arb, c->id, chunk_id, packets, out)) {
            result = GOT;
        } else if (!waits || !ops) {
            result = NEVER;
        }
        pthread_mutex_unlock(&arb->lock);
        bool ipc = waits && ops && ops->on_ipc_thread(ctx);
        if (result != FULL) {
            if (result == GOT && ipc && half) {
                arbiter_send(arb, &none); /* R70 */
            }
            return result == GOT;
        }
        if (attempt == STALL_ATTEMPTS) {
            if (policy == ARBITER_STALL_ABORT) {
                exhausted(ops, ctx);
            }
            return false;
        }
        if (ipc && (half || attempt % 2 == 0)) {
            arbiter_send(arb, &none); /* R64, R70 */
        }
        if (!ipc || attempt % 2 == 1) {
            stall_wait(ops, ctx, us);
            us = (us + 1) * 8 < STALL_MAX_US ? (us + 1) * 8 : STALL_MAX_US;
        }
    }
}

/* ---- writers and reservations ---- */

void arbiter_post(struct arbiter *arb, struct arbiter_task *task)
{
    task->next = NULL;
    *arb->tasks_tail = task;
    arb->tasks_tail = &task->next;
}

/* Lock held. NULL if there is none yet. */
static struct arbiter_reservation *find_reservation(const struct arbiter *arb, uint16_t id)
{
    for (size_t i = 0; i < arb->reservation_count; i++) {
        if (arb->reservations[i].id == id) {
            return &arb->reservations[i];
        }
    }
    return NULL;
}

/* Lock held. NULL when out of memory. */
static struct arbiter_reservation *need_reservation(struct arbiter *arb, uint16_t id)
{
    struct arbiter_reservation *r = find_reservation(arb, id);
    if (r) {
        return r;
    }
    r = realloc(arb->reservations, (arb->reservation_count + 1) * sizeof(*r));
    if (!r) {
        return NULL;
    }
    arb->reservations = r;
    r += arb->reservation_count++;
    *r = (struct arbiter_reservation){.id = id};
    arb->unresolved++;
    arb->ever_unbound = true;
    return r;
}

/* Announces a writer whose buffer is known. Lock held. */
static void post_hello(struct arbiter *arb, struct arbiter_client *c)
{
    c->hello->target = (uint16_t)c->target;
    arbiter_post(arb, c->hello);
    c->hello = NULL;
}

static struct arbiter_task *task_new(enum arbiter_task_kind kind)
{
    struct arbiter_task *t = calloc(1, sizeof(*t));
    if (t) {
        t->kind = kind;
    }
    return t;
}

/* Lock held. Fills c but for the tasks; false if it has to be a null writer. */
static bool attach_locked(struct arbiter *arb, struct arbiter_client *c, uint32_t target)
{
    if (arb->closing || arb->dead) {
        return false;
    }
    bool known = true;
    if (target & ARBITER_RESERVED) {
        struct arbiter_reservation *r = need_reservation(arb, (uint16_t)target);
        if (!r) {
            return false;
        }
        known = r->resolved && r->target != 0;
        target = r->resolved ? r->target : target;
    }
    c->id = wid_take(&arb->ids);
    if (!c->id) {
        return false;
    }
    c->target = target;
    c->hello->writer_id = c->bye->writer_id = c->id;
    c->next = arb->clients;
    arb->clients = c;
    arb->client_count++;
    if (known) {
        post_hello(arb, c);
    }
    return true;
}

bool arbiter_attach(struct arbiter *arb, struct arbiter_client *c, uint32_t target)
{
    *c = (struct arbiter_client){
        .hello = task_new(ARBITER_TASK_REGISTER),
        .bye = task_new(ARBITER_TASK_UNREGISTER),
    };
    pthread_mutex_lock(&arb->lock);
    bool real = c->hello && c->bye && attach_locked(arb, c, target);
    struct arbiter_todo todo = {.post = real && arb->ops && !c->hello};
    pthread_mutex_unlock(&arb->lock);
    if (!real) {
        free(c->hello);
        free(c->bye);
        *c = (struct arbiter_client){.id = 0};
    }
    arbiter_do(arb, &todo);
    return real;
}

void arbiter_detach(struct arbiter *arb, struct arbiter_client *c)
{
    pthread_mutex_lock(&arb->lock);
    for (struct arbiter_client **at = &arb->clients; *at; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
    }
    arb->client_count--;
    wid_give(&arb->ids, c->id);
    if (!c->hello && !arb->dead) {
        arbiter_post(arb, c->bye);
        c->bye = NULL;
    }
    /* Once unlocked, the arbiter of a writer that was the last one may be gone. */
    const struct arbiter_ops *ops = arb->ops;
    void *ctx = arb->ctx;
    pthread_mutex_unlock(&arb->lock);
    free(c->hello);
    free(c->bye);
    *c = (struct arbiter_client){.id = 0};
    if (ops) {
        ops->schedule(ctx, 0);
    }
}

/* [ipc] After a binding: registrations first, then all that had to wait, if nothing holds it any
 * more. */
static void catch_up(struct arbiter *arb)
{
    struct arbiter_acks none;
    arbiter_acks_init(&none);
    arbiter_run(arb);
    arbiter_send(arb, &none);
}

void arbiter_bind(struct arbiter *arb, const struct arbiter_ops *ops, void *ctx,
                  bool direct_patching)
{
    pthread_mutex_lock(&arb->lock);
    arb->ops = ops;
    arb->ctx = ctx;
    arb->direct_patching = direct_patching;
    pthread_mutex_unlock(&arb->lock);
    catch_up(arb);
}

static void retarget(uint32_t *target, uint32_t from, uint16_t to)
{
    if (*target == from) {
        *target = to;
    }
}

/* R82, R83: to = 0 aborts. */
static int resolve(struct arbiter *arb, uint16_t reservation, uint16_t to)
{
    uint32_t placeholder = ARBITER_RESERVED | reservation;
    pthread_mutex_lock(&arb->lock);
    struct arbiter_reservation *r = need_reservation(arb, reservation);
    int err = !r ? -ENOMEM : r->resolved ? -EEXIST : 0;
    if (err == 0) {
        r->resolved = true;
        r->target = to;
        arb->unresolved--;
        for (struct arbiter_client *c = arb->clients; c; c = c->next) {
            if (c->target == placeholder) {
                c->target = to;
                if (to) {
                    post_hello(arb, c);
                }
            }
        }
        for (size_t i = 0; i < arb->pending.move_count; i++) {
            retarget(&arb->pending.moves[i].target, placeholder, to);
        }
        for (size_t i = 0; i < arb->pending.entry_count; i++) {
            retarget(&arb->pending.entries[i].target_buffer, placeholder, to);
        }
    }
    pthread_mutex_unlock(&arb->lock);
    if (err == 0) {
        catch_up(arb);
    }
    return err;
}

int arbiter_bind_reservation(struct arbiter *arb, uint16_t reservation, uint16_t target_buffer)
{
    return resolve(arb, reservation, target_buffer);
}

int arbiter_abort_reservation(struct arbiter *arb, uint16_t reservation)
{
    return resolve(arb, reservation, 0);
}
