/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scraping: chunks that lie complete or half written in an SMB are copied into the buffer that
 * their writer is registered with. Nothing in the SMB is changed; the trace buffer knows what it
 * has already. A walk may take many slices, during which producers and buffers may go, so it
 * remembers ids and looks both up again each time.
 */
#include "svc/scrape.h"

#include "svc/drain.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

/* Chunk slots looked at between two looks at the clock. */
#define SLOTS_PER_STEP 256
#define BYTES_PER_STEP (64u << 10)
#define COST_OF_SLOT   16

/* True when the producer may write to at least one buffer of the session (s NULL: of any). */
static bool writes_to(const struct producer *p, const struct session *s)
{
    if (!s)
        return p->nallowed > 0;
    for (size_t i = 0; i < s->nbuffers; i++) {
        if (s->buffers[i].id && producer_may_write(p, &s->buffers[i]))
            return true;
    }
    return false;
}

/* R86. */
static bool wanted(const struct producer *p, const struct session *s)
{
    return p->scraping && !p->emulated && p->machine_id == 0 && p->nwriters > 0 &&
           shmem_mapped(&p->shm) && writes_to(p, s);
}

/* Returns what it cost. */
static size_t take_chunk(struct producer *p, const struct session *s, const struct scan_chunk *c)
{
    uint16_t buffer = producer_writer_buffer(p, c->writer_id);
    struct session_buffer *b = buffer ? idmap_get(&p->svc->buffers, buffer) : NULL;
    return b && (!s || b->session == s) ? drain_copy(p, buffer, c) : c->size;
}

/* Walks one SMB. True when it is finished, false when the budget is spent. */
static bool walk(struct producer *p, const struct session *s, struct scan_iter *scan,
                 struct task_budget *budget)
{
    for (;;) {
        uint32_t slots = SLOTS_PER_STEP;
        struct scan_chunk c;
        size_t bytes = 0;
        enum scan_step step;
        while ((step = scan_next(scan, &slots, &c)) == SCAN_FOUND) {
            bytes += take_chunk(p, s, &c);
            if (bytes >= BYTES_PER_STEP)
                break;
        }
        if (step == SCAN_END)
            return true;
        if (!task_spend(budget, bytes + SLOTS_PER_STEP * COST_OF_SLOT))
            return false;
    }
}

bool scrape_producer(struct producer *p, struct scan_iter *scan, struct task_budget *budget)
{
    return !wanted(p, NULL) || walk(p, NULL, scan, budget);
}

/* The producer behind p in the list; p NULL: the one with the lowest id above `after`. */
static struct producer *next_producer(struct service *svc, struct producer *p, uint32_t after)
{
    struct list *it = p ? p->node.next : svc->producers.next;
    while (!p && it != &svc->producers && list_entry(it, struct producer, node)->id <= after)
        it = it->next;
    return it != &svc->producers ? list_entry(it, struct producer, node) : NULL;
}

/* Walks on from where the last slice stopped. */
static bool walk_all(struct scrape *sc, struct task_budget *budget)
{
    struct service *svc = sc->session->svc;
    struct producer *p = sc->producer ? idmap_get(&svc->producer_of, sc->producer) : NULL;
    bool scanning = sc->scanning && p;
    if (scanning)
        sc->scan.shm = &p->shm;
    for (;;) {
        if (scanning && !walk(p, sc->session, &sc->scan, budget))
            return false;
        p = next_producer(svc, p, sc->producer);
        if (!p)
            return true;
        sc->producer = p->id;
        scanning = sc->scanning = wanted(p, sc->session);
        if (scanning)
            scan_begin(&sc->scan, &p->shm);
        if (!task_spend(budget, COST_OF_SLOT))
            return false;
    }
}

static void finish(void *arg)
{
    struct scrape *sc = arg;
    void (*done)(void *) = sc->done;
    reactor_slice_is(sc->task.deadline.reactor, "scraped");
    sc->session = NULL;
    done(sc->arg);
}

static enum task_result run(void *arg, struct task_budget *budget)
{
    struct scrape *sc = arg;
    if (!sc->session)
        return TASK_DONE;
    if (!walk_all(sc, budget))
        return TASK_AGAIN;
    /* Whoever is told may free what holds the task: not from inside its run. */
    reactor_defer(sc->task.deadline.reactor, finish, sc);
    return TASK_DONE;
}

void scrape_start(struct scrape *sc, struct session *s, void (*done)(void *arg), void *arg)
{
    sc->session = s;
    sc->producer = 0;
    sc->scanning = false;
    sc->done = done;
    sc->arg = arg;
    task_init(&sc->task, s->svc->reactor, "scrape", run, sc);
    sc->inited = true;
    struct task_budget budget = task_at_once(s->svc->reactor);
    if (walk_all(sc, &budget))
        finish(sc);
    else
        task_wake(&sc->task);
}

void scrape_cancel(struct scrape *sc)
{
    if (sc->inited) {
        task_stop(&sc->task);
        reactor_undefer(sc->task.deadline.reactor, sc);
    }
    sc->session = NULL;
}
