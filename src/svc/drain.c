/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The drain. Producers with work stand in one list; the task takes the first, works on it for a
 * quantum, and puts it at the end, until the budget of the slice is spent. So a producer that
 * floods delays another by one quantum, not by its backlog.
 *
 * A commit is worked on where it lies, in the body of its message: no chunk reference is ever
 * copied out. The position in it is kept in producer.work between slices. Chunks are hostile:
 * svc/tbuf copies before it looks.
 */
#include "svc/drain.h"

#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/task.h"
#include "svc/dsconfig.h"
#include "svc/producer.h"
#include "svc/scrape.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_vm.h"

/* What one producer may move before it is the next one's turn. */
#define QUANTUM_BYTES (64u << 10)

/* Memory taken ahead in one go; with huge pages the kernel may clear 2 MiB for it. */
#define PREFAULT_BYTES (128u << 10)

#define MAX_PATCHES 1024 /* R82 */
#define MAX_WRITER  32767

/* Work that moves no bytes still costs something. */
#define COST_OF_ENTRY    64
#define COST_OF_TRIGGER  4096
#define COST_OF_INSTANCE 256
#define COST_OF_STEP     10 /* of a ProtoVM */

/* ---- chunks (R78-R81) ---- */

size_t drain_copy(struct producer *p, uint16_t buffer, const struct scan_chunk *c)
{
    struct service *svc = p->svc;
    struct session_buffer *b = idmap_get(&svc->buffers, buffer);
    uint16_t registered = producer_writer_buffer(p, c->writer_id);
    if (!b || !producer_may_write(p, b) || (registered && registered != buffer)) {
        svc->count.chunks_discarded++;
        return COST_OF_ENTRY;
    }
    const struct tbuf_chunk_in in = {
        .producer_id = p->id,
        .writer_id = c->writer_id,
        .chunk_id = c->chunk_id,
        .num_fragments = c->count,
        .flags = c->flags,
        .complete = !c->incomplete,
        .payload = c->payload,
        .payload_size = c->size,
        .client = {.uid = (int32_t)p->uid,
                   .pid = (int32_t)p->pid,
                   .machine_id = p->machine_id,
                   .tag = p->id},
    };
    tbuf_copy_chunk(b->tb, &in);
    svc->count.chunks_moved++;
    svc->count.bytes_moved += c->size;
    p->chunks_moved++;
    p->bytes_moved += c->size;
    return COST_OF_ENTRY + c->size + tbuf_vm_take_work(b->tb) * COST_OF_STEP;
}

/* One chunks_to_move entry; returns what it cost. */
static size_t move(struct producer *p, const struct commit_move *m)
{
    struct scan_chunk c;
    uint16_t buffer = (uint16_t)m->target_buffer;
    if (m->data) {
        if (scan_data(m->data, m->data_len, m->incomplete, &c)) {
            p->svc->count.chunks_skipped++;
            return COST_OF_ENTRY;
        }
        return drain_copy(p, buffer, &c);
    }
    if (scan_acquire(&p->shm, m->page, m->chunk, &c)) {
        p->svc->count.chunks_skipped++;
        return COST_OF_ENTRY;
    }
    size_t cost = drain_copy(p, buffer, &c);
    if (scan_release(&p->shm, &c))
        p->svc->count.pages_given_up++;
    return cost;
}

/* ---- patches (R82-R84) ---- */

/* Applies one chunks_to_patch entry. Patches go to the buffer in small groups: an entry may hold as
 * many as fit a frame, and no list of them is ever built. */
static void patch(struct producer *p, const struct commit_entry_view *e)
{
    struct service *svc = p->svc;
    uint16_t writer = (uint16_t)e->writer_id;
    struct session_buffer *b = idmap_get(&svc->buffers, (uint16_t)e->target_buffer);
    if (!b || writer == 0 || writer > MAX_WRITER || e->patch_count > MAX_PATCHES) {
        svc->count.patches_discarded += e->patch_count;
        return;
    }
    struct tbuf_patch patches[MAX_PATCHES];
    struct commit_patch_view v;
    size_t n = 0;
    for (struct commit_pos pos = {0}; commit_next_patch(e, &pos, &v);) {
        if (v.data_len != sizeof(patches[n].data)) {
            svc->count.patches_discarded++;
            continue;
        }
        patches[n].offset = v.offset;
        memcpy(patches[n].data, v.data, sizeof(patches[n].data));
        n++;
    }
    tbuf_patch(b->tb, p->id, writer, e->chunk_id, patches, n, e->has_more);
}

/* ---- triggers (R173) ---- */

/* One request may name thousands of triggers, and each is looked for in every session. */
static bool do_triggers(struct producer *p, struct task_budget *turn)
{
    struct bytes_field f;
    while (bytes_next(&p->work.names, &f)) {
        if (f.id == PBF_ActivateTriggersRequest_trigger_names && f.type == BYTES_LEN)
            session_trigger_activate(p->svc, p, f.data);
        if (!task_spend_slow(turn, COST_OF_TRIGGER))
            return false;
    }
    return true;
}

/* ---- one producer's work ---- */

static void reply(struct producer *p, uint64_t cookie, bool ok)
{
    msg_post_result(p->svc->reactor, p->port, p->actor.id, MSG_PP_REPLY, cookie, ok);
}

/* The message that was worked on is done. */
static void work_done(struct producer *p)
{
    mailbox_destroy_payload(&msg_table, p->work.msg.kind, p->work.msg.data);
    p->work.msg.weight = 0;
    p->work.stage = PRODUCER_IDLE;
    producer_tell_room(p);
}

/* Both spend from the producer's turn; false: go on in the next turn. */
static bool do_moves(struct producer *p, struct task_budget *turn)
{
    struct commit_move m;
    while (commit_next_move(&p->work.view, &p->work.pos, &m)) {
        if (!task_spend(turn, move(p, &m)))
            return false;
    }
    return true;
}

static bool do_patches(struct producer *p, struct task_budget *turn)
{
    struct commit_entry_view e;
    while (commit_next_entry(&p->work.view, &p->work.pos, &e)) {
        patch(p, &e);
        if (!task_spend(turn, COST_OF_ENTRY + e.body_len))
            return false;
    }
    return true;
}

static struct msg_request *request_of(struct producer_work *w)
{
    return (struct msg_request *)(void *)w->msg.data;
}

/* ---- data sources that come and go ---- */

/* Instances of the producer up to the newest one stop and go: all of them, or those of a name.
 * False: the budget is spent. */
static bool do_instances(struct producer *p, const struct bytes_view *name,
                         struct task_budget *turn)
{
    struct producer_work *w = &p->work;
    while (w->next != &p->instances) {
        struct dsinst *i = list_entry(w->next, struct dsinst, in_producer);
        if (i->id > w->last)
            break;
        w->next = w->next->next;
        if (!name || bytes_equal(i->config->name, *name))
            dsinst_go(i);
        if (!task_spend(turn, COST_OF_INSTANCE))
            return false;
    }
    return true;
}

static void begin_instances(struct producer *p, enum producer_stage stage)
{
    p->work.next = p->instances.next;
    p->work.last = p->svc->last_instance;
    p->work.stage = stage;
}

void drain_pass(struct producer *p, struct list *node)
{
    if (p->work.next == node)
        p->work.next = node->next;
}

/* MSG_P_REGISTER or MSG_P_UNREGISTER. */
static void begin_sources(struct producer *p)
{
    struct producer_work *w = &p->work;
    struct msg_request *m = request_of(w);
    if (w->msg.kind == MSG_P_REGISTER) {
        w->source = producer_register(p, m);
        if (w->source)
            dsinst_late_begin(&w->late, w->source);
        w->stage = PRODUCER_REGISTER;
    } else {
        begin_instances(p, PRODUCER_UNREGISTER);
        if (!producer_unregister(p, msg_body_view(&m->body)))
            w->next = &p->instances;
    }
}

/* Takes a message up. What cannot be long is done on the spot. */
static void work_begin(struct producer *p)
{
    struct producer_work *w = &p->work;
    if (w->msg.kind == MSG_P_BYE) {
        scan_begin(&w->scan, &p->shm);
        w->stage = PRODUCER_SCRAPE;
        return;
    }
    if (w->msg.kind == MSG_P_REGISTER || w->msg.kind == MSG_P_UNREGISTER) {
        begin_sources(p);
        return;
    }
    if (w->msg.kind != MSG_P_COMMIT && w->msg.kind != MSG_P_TRIGGERS) {
        producer_take(p, &w->msg);
        work_done(p);
        return;
    }
    struct msg_request *m = request_of(w);
    if (w->msg.kind == MSG_P_TRIGGERS) {
        w->names = bytes_cur(msg_body_view(&m->body));
        w->stage = PRODUCER_TRIGGERS;
        return;
    }
    p->svc->count.commits++;
    if (!shmem_mapped(&p->shm) || commit_open(&w->view, m->body.p, m->body.n)) { /* R77 */
        reply(p, m->cookie, false);
        work_done(p);
        return;
    }
    w->pos = (struct commit_pos){0};
    w->stage = PRODUCER_MOVES;
}

/* The request is done. */
static void answer(struct producer *p)
{
    reply(p, request_of(&p->work)->cookie, true);
    work_done(p);
}

/* R50: scrape, instances, registrations, and then itself. */
static bool say_farewell(struct producer *p, struct task_budget *turn)
{
    struct producer_work *w = &p->work;
    if (w->stage == PRODUCER_SCRAPE) {
        if (!scrape_producer(p, &w->scan, turn))
            return false;
        begin_instances(p, PRODUCER_LEAVE);
    }
    if (w->stage == PRODUCER_LEAVE) {
        if (!do_instances(p, NULL, turn))
            return false;
        w->stage = PRODUCER_FORGET;
    }
    if (!producer_forget(p, turn))
        return false;
    work_done(p);
    producer_destroy(p);
    return true;
}

/* Works on the message at hand. False: the turn is over before the message is. */
static bool work_on(struct producer *p, struct task_budget *turn)
{
    struct producer_work *w = &p->work;
    if (w->stage == PRODUCER_MOVES) {
        if (!do_moves(p, turn))
            return false;
        w->pos = (struct commit_pos){0};
        w->stage = PRODUCER_PATCHES;
    }
    if (w->stage == PRODUCER_PATCHES) {
        if (!do_patches(p, turn))
            return false;
        if (w->view.flush_id)
            session_flush_ack(p->svc, p, w->view.flush_id);
        answer(p);
    }
    if (w->stage == PRODUCER_TRIGGERS) {
        if (!do_triggers(p, turn))
            return false;
        answer(p);
    }
    if (w->stage == PRODUCER_REGISTER) {
        if (w->source && !dsinst_late_step(&w->late, w->source, turn))
            return false;
        answer(p);
    }
    if (w->stage == PRODUCER_UNREGISTER) {
        struct bytes_view name = msg_body_view(&request_of(w)->body);
        if (!do_instances(p, &name, turn))
            return false;
        answer(p);
    }
    return w->stage == PRODUCER_IDLE || say_farewell(p, turn);
}

/* One turn. True when nothing is left to do for this producer. */
static bool take_turn(struct producer *p, struct task_budget *turn)
{
    for (;;) {
        if (p->work.stage == PRODUCER_IDLE) {
            if (!mailbox_pop(&p->queue, &p->work.msg))
                return true;
            work_begin(p);
        }
        if (p->work.stage != PRODUCER_IDLE && !work_on(p, turn))
            return false;
        if (p->actor.dead)
            return true;
        if (!task_spend(turn, COST_OF_ENTRY))
            return p->work.stage == PRODUCER_IDLE && mailbox_count(&p->queue) == 0;
    }
}

/* A piece of memory for a buffer; bytes. Some machines need very long for a huge page that nobody
 * has used before (one that is a guest and whose host has to find it, in 512 pieces): then the rest
 * of the buffer's first lap is taken in small pages. */
static size_t prefault_piece(struct tbuf *tb)
{
    uint64_t begin = chrono_cpu_ns();
    size_t taken = tbuf_prefault(tb, PREFAULT_BYTES);
    if (taken > 0 && chrono_cpu_ns() - begin > DEFAULTS_TASK_BUDGET_NS)
        tbuf_small_pages(tb);
    return taken;
}

/* Takes the memory that the next commits will write to, so that the page faults of a buffer's first
 * lap are not paid while a chunk is copied. Woken by the drain, it has one slice for each of those
 * and keeps ahead of them. */
static enum task_result prefault(void *arg, struct task_budget *budget)
{
    struct service *svc = arg;
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        for (size_t i = 0; i < s->nbuffers; i++) {
            while (tbuf_prefault_due(s->buffers[i].tb)) {
                size_t taken = prefault_piece(s->buffers[i].tb);
                if (taken == 0)
                    break;
                if (!task_spend_slow(budget, taken))
                    return TASK_AGAIN;
            }
        }
    }
    return TASK_DONE;
}

static enum task_result run(void *arg, struct task_budget *budget)
{
    struct service *svc = arg;
    struct list *node;
    while ((node = list_pop_front(&svc->drain_queue)) != NULL) {
        struct producer *p = list_entry(node, struct producer, drain_node);
        struct task_budget turn = *budget;
        if (turn.bytes_left > QUANTUM_BYTES)
            turn.bytes_left = QUANTUM_BYTES;
        size_t had = turn.bytes_left;
        if (!take_turn(p, &turn))
            list_push_back(&svc->drain_queue, &p->drain_node);
        if (!task_spend_slow(budget, had - turn.bytes_left))
            break;
    }
    task_wake(&svc->prefault);
    return !list_empty(&svc->drain_queue) ? TASK_AGAIN : TASK_DONE;
}

/* ---- the queue ---- */

static void enqueue(struct producer *p)
{
    if (list_empty(&p->drain_node))
        list_push_back(&p->svc->drain_queue, &p->drain_node);
    task_wake(&p->svc->drain);
}

/* What is short most of the time: begun in its message, and queued only when it is not. */
static void take_at_once(struct producer *p, struct mailbox_msg *m)
{
    struct task_budget first = task_at_once(p->svc->reactor);
    p->work.msg = *m;
    msg_forget(m); /* taken */
    work_begin(p);
    if (!work_on(p, &first))
        enqueue(p);
}

void drain_push(struct producer *p, struct mailbox_msg *m)
{
    bool waits = p->work.stage != PRODUCER_IDLE || mailbox_count(&p->queue) > 0;
    bool sources = m->kind == MSG_P_REGISTER || m->kind == MSG_P_UNREGISTER;
    bool long_work = m->kind == MSG_P_COMMIT || m->kind == MSG_P_TRIGGERS || m->kind == MSG_P_BYE;
    if (!waits && sources) {
        take_at_once(p, m);
        return;
    }
    if (!waits && !long_work) {
        producer_take(p, m);
        return;
    }
    if (m->kind == MSG_P_BYE)
        p->gone = true;
    int err = mailbox_push(&p->queue, m->to, m->from, m->kind, m->data, m->size);
    msg_forget(m); /* the queue owns it now, whatever the result */
    if (err && m->kind == MSG_P_BYE) {
        producer_destroy(p);
        return;
    }
    if (err)
        producer_drop(p, ERR_QUOTA, "its transport sent more than may wait");
    enqueue(p);
}

void drain_forget(struct producer *p)
{
    list_remove(&p->drain_node);
    if (p->work.stage != PRODUCER_IDLE) {
        mailbox_destroy_payload(&msg_table, p->work.msg.kind, p->work.msg.data);
        p->work.stage = PRODUCER_IDLE;
    }
}

void drain_init(struct service *svc)
{
    task_init(&svc->drain, svc->reactor, "drain", run, svc);
    task_init(&svc->prefault, svc->reactor, "prefault", prefault, svc);
}

void drain_fini(struct service *svc)
{
    task_stop(&svc->drain);
    task_stop(&svc->prefault);
}
