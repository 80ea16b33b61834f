/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flushes of a session (service.md section 6): which producers are asked, who has answered, what
 * happens at the end. Producers are asked in slices, one flush after the other over all sessions,
 * because an ack speaks for all flushes up to its id (R95). A flush is over when all have acked or
 * its time is up; then the SMBs are scraped, once for all that are over by then, and then whoever
 * wanted the flush is told, exactly once. A flush that the session does not outlive is told as
 * failed, without a session.
 *
 * A session may have a thousand of them pending, each with thousands of producers: an ack touches
 * those that it is the first to speak for, and finds itself in each by halving.
 */
#include "svc/session_flush.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/defaults.h"
#include "reactor/log.h"
#include "svc/consumer.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define REASON(flags) ((flags)&0xF)
#define REASON_STOP   2
#define REASON_CLONE  3

#define SETTLE_AT_ONCE 64 /* requesters told in one slice */
#define COST_OF_ASK    512

/* ---- the pending ones ---- */

/* Index of the first pending flush behind that id. */
static uint32_t behind(const struct session *s, uint64_t id)
{
    uint32_t lo = 0, hi = s->nflushes;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (s->flushes[mid]->id <= id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void stop_asking(struct session_flush *f)
{
    struct session *s = f->session;
    if (list_empty(&f->asking))
        return;
    list_remove(&f->asking);
    s->nasking--;
    struct consumer *c = service_consumer_of(s->svc, s->consumer);
    if (c)
        consumer_go_on(c);
}

/* Frees one that is in the array no longer. */
static void flush_free(struct session_flush *f)
{
    stop_asking(f);
    deadline_cancel(&f->timeout);
    list_remove(&f->ended);
    charge_release(&f->charge);
    free(f->asked);
    free(f->missing);
    free(f);
}

static void flush_take_out(struct session *s, const struct session_flush *f)
{
    uint32_t at = behind(s, f->id) - 1;
    s->nflushes--;
    memmove(s->flushes + at, s->flushes + at + 1,
            (s->nflushes - at) * sizeof(struct session_flush *));
}

/* ---- the end (R97) ---- */

static void begin_scrape(struct session *s);

/* Tells the requester. The session may be dead afterwards. */
static void settle(struct session *s, struct session_flush *f)
{
    session_flush_done *done = f->done;
    void *done_arg = f->arg;
    uint64_t cookie = f->cookie;
    bool ok = f->ok;
    session_event_record(s, SELFPKT_ALL_DATA_SOURCES_FLUSHED, true);
    if (ok)
        s->flushes_succeeded++;
    else
        s->flushes_failed++;
    flush_take_out(s, f);
    flush_free(f);
    done(done_arg, s, cookie, ok);
}

/* After the scrape. True when all are told whose scrape it was. */
static bool settle_some(struct session *s)
{
    for (unsigned n = 0; n < SETTLE_AT_ONCE; n++) {
        struct list *it = list_pop_front(&s->flushes_settling);
        if (!it)
            return true;
        settle(s, list_entry(it, struct session_flush, ended));
        if (s->actor.dead)
            return true;
    }
    return list_empty(&s->flushes_settling);
}

static void settle_on(struct session *s)
{
    if (!settle_some(s)) {
        task_wake(&s->settling_flushes);
        return;
    }
    s->flush_scraping = false;
    if (!s->actor.dead)
        begin_scrape(s);
}

static enum task_result settle_slice(void *arg, struct task_budget *budget)
{
    (void)budget;
    settle_on(arg);
    return TASK_DONE; /* or woken again */
}

static void scraped(void *arg)
{
    settle_on(arg);
}

/* Scrapes for all that are over by now. Those that are over later wait for the next scrape. */
static void begin_scrape(struct session *s)
{
    if (s->flush_scraping || list_empty(&s->flushes_ended))
        return;
    list_splice(&s->flushes_settling, &s->flushes_ended);
    s->flush_scraping = true;
    scrape_start(&s->flush_scrape, s, scraped, s);
}

/* The outcome is known; begin_scrape must follow. */
static void finish(struct session_flush *f, bool ok)
{
    if (f->over)
        return;
    f->over = true;
    f->ok = ok;
    stop_asking(f);
    deadline_cancel(&f->timeout);
    list_push_back(&f->session->flushes_ended, &f->ended);
}

static bool is_missing(const struct session_flush *f, uint32_t at)
{
    return f->missing[at / 8] >> at % 8 & 1;
}

/* R96. */
static void tell_slow(struct session_flush *f)
{
    uint16_t *missing = alloc_try_array(f->nmissing, sizeof(*missing));
    uint32_t n = 0;
    for (uint32_t i = 0; missing && i < f->nasked; i++) {
        if (is_missing(f, i))
            missing[n++] = f->asked[i];
    }
    session_event_slow(f->session, SELFPKT_LAST_FLUSH_SLOW, missing, n);
    free(missing);
}

static void on_timeout(void *arg)
{
    struct session_flush *f = arg;
    struct session *s = f->session;
    bool ok = f->nmissing == 0 && list_empty(&f->asking);
    if (f->nmissing && (REASON(f->flags) == REASON_STOP || REASON(f->flags) == REASON_CLONE))
        tell_slow(f);
    finish(f, ok);
    begin_scrape(s);
}

/* ---- acks (R95) ---- */

/* True when it was the last that was missing. */
static bool take_ack(struct session_flush *f, uint16_t producer)
{
    uint32_t lo = 0, hi = f->nasked;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (f->asked[mid] < producer)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (f->over || lo == f->nasked || f->asked[lo] != producer || !is_missing(f, lo))
        return false;
    f->missing[lo / 8] &= (uint8_t) ~(1u << lo % 8);
    return --f->nmissing == 0 && list_empty(&f->asking);
}

void session_flush_acked(struct session *s, uint16_t producer, uint64_t since, uint64_t id)
{
    for (uint32_t i = behind(s, since); i < s->nflushes && s->flushes[i]->id <= id; i++) {
        if (take_ack(s->flushes[i], producer))
            finish(s->flushes[i], true);
    }
    begin_scrape(s);
}

void session_flush_ack(struct service *svc, struct producer *p, uint64_t id)
{
    if (id > svc->last_flush) /* from the future: it covers all that are pending (5.5) */
        id = svc->last_flush;
    if (id <= p->flush_acked)
        return;
    uint64_t since = p->flush_acked;
    p->flush_acked = id;
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        struct msg_ack m = {.id = id, .since = since, .producer = p->id};
        if (s->nflushes > 0)
            ACTOR_POST(svc->reactor, s->actor.id, p->actor.id, MSG_S_FLUSHED, &m);
    }
}

/* ---- the beginning (R91-R94) ---- */

static bool in_group(const struct session *s, const struct dsinst *i,
                     enum session_flush_group group)
{
    bool transfer = s->cfg->buffers[i->target].transfer_on_clone;
    return !i->no_flush &&
           (group == SESSION_FLUSH_ALL || (group == SESSION_FLUSH_TRANSFER) == transfer);
}

/* R88: it must be asked so that it scrapes itself. */
static bool scrapes_itself(const struct producer *p, enum session_flush_group group)
{
    return group == SESSION_FLUSH_ALL && p->emulated && p->scraping;
}

/* Notes that a producer is asked. */
static bool note_asked(struct session_flush *f, struct producer *p)
{
    if (f->nasked == f->room) /* it came while the others were asked */
        return false;
    f->asked[f->nasked] = p->id;
    f->missing[f->nasked / 8] |= (uint8_t)(1u << f->nasked % 8);
    f->nasked++;
    f->nmissing++;
    if (p->flush_acked >= f->id) /* before it was asked: that is no answer */
        p->flush_acked = f->id - 1;
    return true;
}

static void ask_producer(struct session_flush *f, const struct dsinst_group *g)
{
    struct session *s = f->session;
    struct producer *p = g->producer;
    struct list *it = g->first;
    size_t n = 0;
    for (uint32_t k = 0; k < g->n; k++, it = it->next)
        n += in_group(s, list_entry(it, struct dsinst, in_session), f->group);
    if ((n == 0 && !scrapes_itself(p, f->group)) || !note_asked(f, p))
        return;
    struct msg_flush_command m = {.request = f->id, .flags = f->flags};
    m.ids = n ? alloc_try_array(n, sizeof(*m.ids)) : NULL;
    it = g->first;
    for (uint32_t k = 0; m.ids && k < g->n; k++, it = it->next) {
        const struct dsinst *i = list_entry(it, struct dsinst, in_session);
        if (in_group(s, i, f->group))
            m.ids[m.nids++] = i->id;
    }
    producer_send(p, MSG_PP_FLUSH, &m, sizeof(m));
}

/* All are asked: nobody may be missing by now. */
static void asked_all(struct session_flush *f)
{
    stop_asking(f);
    if (f->nasked == 0)
        deadline_arm(&f->timeout, 0); /* R94 */
    else if (f->nmissing == 0)
        finish(f, true);
}

/* Asks on; false: the budget is spent. */
static bool ask_on(struct session_flush *f, struct task_budget *budget)
{
    const struct dsinst_group *g;
    while ((g = dsinst_group_from(f->session, f->next)) != NULL) {
        f->next = g->producer->id + 1u;
        ask_producer(f, g);
        if (!task_spend(budget, COST_OF_ASK + g->n * sizeof(uint64_t)))
            return false;
    }
    asked_all(f);
    return true;
}

static enum task_result ask_slice(void *arg, struct task_budget *budget)
{
    struct service *svc = arg;
    while (!list_empty(&svc->asking)) {
        struct session_flush *f = list_first(&svc->asking, struct session_flush, asking);
        struct session *s = f->session;
        if (!ask_on(f, budget))
            return TASK_AGAIN;
        begin_scrape(s);
    }
    return TASK_DONE;
}

/* Queues it to ask its producers, which is done at once when no other flush is before it and there
 * are not too many. */
static void ask(struct session_flush *f)
{
    struct service *svc = f->session->svc;
    struct task_budget first = task_at_once(svc->reactor);
    bool alone = list_empty(&svc->asking);
    list_push_back(&svc->asking, &f->asking);
    f->session->nasking++;
    if (!alone || !ask_on(f, &first))
        task_wake(&svc->ask);
}

static uint64_t timeout_of(const struct session *s, uint32_t timeout_ms)
{
    if (timeout_ms)
        return timeout_ms;
    return s->cfg->flush_timeout_ms ? s->cfg->flush_timeout_ms : DEFAULTS_FLUSH_TIMEOUT_MS;
}

/* A new pending flush with the next id, or NULL when there is no memory, or too much waits for its
 * uid. */
static struct session_flush *flush_new(struct session *s)
{
    struct session_flush *f = alloc_new(struct session_flush);
    uint32_t n = s->ngroups ? s->ngroups : 1;
    f->session = s;
    f->room = n;
    size_t bytes = sizeof(*f) + n * sizeof(*f->asked) + (n + 7) / 8;
    if (charge_take(s->svc->book, &f->charge, s->uid, CHARGE_QUEUE_BYTES, bytes) == 0) {
        f->asked = alloc_try_array(n, sizeof(*f->asked));
        f->missing = alloc_try_array((n + 7) / 8, 1);
    }
    list_init(&f->asking);
    list_init(&f->ended);
    deadline_init(&f->timeout, s->svc->reactor, "flush timeout", on_timeout, f);
    if (s->nflushes == s->flushes_room) {
        s->flushes_room = s->flushes_room ? s->flushes_room * 2 : 8;
        s->flushes = alloc_resize(s->flushes, s->flushes_room, sizeof(struct session_flush *));
    }
    if (!f->asked || !f->missing) {
        log_warn_limited("a flush of session %llu is refused: too much waits for uid %u already "
                         "(traced --limit-queues)",
                         (unsigned long long)s->id, (unsigned)s->uid);
        flush_free(f);
        return NULL;
    }
    f->id = ++s->svc->last_flush;
    s->flushes[s->nflushes++] = f;
    return f;
}

void session_flush_start(struct session *s, uint32_t timeout_ms, uint64_t flags,
                         enum session_flush_group group, session_flush_done *done, void *arg,
                         uint64_t cookie)
{
    if (group == SESSION_FLUSH_ALL) /* a clone records one for its two groups (R213) */
        session_event_record(s, SELFPKT_FLUSH_STARTED, false);
    if (!session_running(s) || s->nflushes > DEFAULTS_MAX_FLUSHES) {
        done(arg, s, cookie, false);
        return;
    }
    struct session_flush *f = flush_new(s);
    if (!f) {
        done(arg, s, cookie, false);
        return;
    }
    f->flags = flags;
    f->group = group;
    f->done = done;
    f->arg = arg;
    f->cookie = cookie;
    s->flushes_requested++;
    session_event_drop(s, SELFPKT_LAST_FLUSH_SLOW);
    deadline_arm_ms(&f->timeout, timeout_of(s, timeout_ms));
    ask(f);
}

/* ---- requests of the consumer ---- */

/* Whom to answer: both may have gone by then. */
struct request {
    struct service *svc; /* borrow */
    uint64_t consumer;   /* actor id of the endpoint */
};

static void request_done(void *arg, struct session *s, uint64_t cookie, bool ok)
{
    struct request *r = arg;
    struct consumer *c = service_consumer_of(r->svc, r->consumer);
    (void)s;
    if (c)
        consumer_result(c, cookie, ok);
    free(r);
}

void session_flush_request(struct session *s, uint64_t cookie, uint32_t timeout_ms, uint64_t flags)
{
    struct request *r = alloc_new(struct request);
    r->svc = s->svc;
    r->consumer = s->consumer;
    session_flush_start(s, timeout_ms, flags, SESSION_FLUSH_ALL, request_done, r, cookie);
}

/* ---- life ---- */

void session_flush_init(struct session *s)
{
    list_init(&s->flushes_ended);
    list_init(&s->flushes_settling);
    task_init(&s->settling_flushes, s->svc->reactor, "flush results", settle_slice, s);
}

void session_flush_abort_all(struct session *s)
{
    struct session_flush **all = s->flushes;
    uint32_t n = s->nflushes;
    s->flushes = NULL;
    s->nflushes = s->flushes_room = 0;
    scrape_cancel(&s->flush_scrape);
    task_stop(&s->settling_flushes);
    s->flush_scraping = false;
    for (uint32_t i = 0; i < n; i++) {
        session_flush_done *done = all[i]->done;
        void *arg = all[i]->arg;
        uint64_t cookie = all[i]->cookie;
        flush_free(all[i]);
        done(arg, NULL, cookie, false);
    }
    free(all);
}

void session_flush_open(struct service *svc)
{
    list_init(&svc->asking);
    task_init(&svc->ask, svc->reactor, "flush commands", ask_slice, svc);
}

void session_flush_close(struct service *svc)
{
    task_stop(&svc->ask);
}
