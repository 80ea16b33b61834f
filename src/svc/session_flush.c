/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flushes of a session (service.md section 6): which producers are asked, who has answered, what
 * happens at the end. A flush is over when all have acked or its time is up; then the SMBs are
 * scraped, which may take a few slices, and then whoever wanted the flush is told, exactly once. A
 * flush that the session does not outlive is told as failed, without a session.
 */
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

static void flush_free(struct session_flush *f)
{
    deadline_cancel(&f->timeout);
    scrape_cancel(&f->scrape);
    list_remove(&f->node);
    free(f->missing);
    free(f);
}

/* ---- the end ---- */

/* After the scrape (R97). */
static void settled(void *arg)
{
    struct session_flush *f = arg;
    struct session *s = f->session;
    session_flush_done *done = f->done;
    void *done_arg = f->arg;
    uint64_t cookie = f->cookie;
    bool ok = f->ok;
    session_event_record(s, SELFPKT_ALL_DATA_SOURCES_FLUSHED, true);
    if (ok)
        s->flushes_succeeded++;
    else
        s->flushes_failed++;
    s->nflushes--;
    flush_free(f);
    done(done_arg, s, cookie, ok);
}

static void finish(struct session_flush *f, bool ok)
{
    if (f->over)
        return;
    f->over = true;
    f->ok = ok;
    deadline_cancel(&f->timeout);
    scrape_start(&f->scrape, f->session, settled, f);
}

static void on_timeout(void *arg)
{
    struct session_flush *f = arg;
    struct session *s = f->session;
    bool ok = f->nmissing == 0;
    if (!ok && (REASON(f->flags) == REASON_STOP || REASON(f->flags) == REASON_CLONE))
        session_event_slow(s, SELFPKT_LAST_FLUSH_SLOW, f->missing, f->nmissing); /* R96 */
    finish(f, ok);
}

/* ---- acks (R95) ---- */

static bool remove_missing(struct session_flush *f, uint16_t producer)
{
    for (uint32_t i = 0; i < f->nmissing; i++) {
        if (f->missing[i] == producer) {
            memmove(f->missing + i, f->missing + i + 1,
                    (f->nmissing - i - 1) * sizeof(*f->missing));
            f->nmissing--;
            return true;
        }
    }
    return false;
}

void session_flush_acked(struct session *s, uint16_t producer, uint64_t id)
{
    /* A finished flush may end the session, or start a new flush, from inside the loop: begin again
     * from the front each time. */
    for (bool again = true; again && !s->actor.dead;) {
        again = false;
        list_for_each (it, &s->flushes) {
            struct session_flush *f = list_entry(it, struct session_flush, node);
            if (f->id > id)
                break;
            if (!f->over && remove_missing(f, producer) && f->nmissing == 0) {
                finish(f, true);
                again = true;
                break;
            }
        }
    }
}

void session_flush_ack(struct service *svc, struct producer *p, uint64_t id)
{
    if (id > svc->last_flush) /* from the future: it covers all that are pending (5.5) */
        id = svc->last_flush;
    if (id <= p->flush_acked)
        return;
    p->flush_acked = id;
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        struct msg_ack m = {.id = id, .producer = p->id};
        if (!list_empty(&s->flushes))
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

/* Asks the producer of the instances from `it` on; returns the first node of the next producer. */
static struct list *ask_producer(struct session_flush *f, struct list *it,
                                 enum session_flush_group group)
{
    struct session *s = f->session;
    struct producer *p = list_entry(it, struct dsinst, in_session)->producer;
    struct list *first = it;
    size_t n = 0;
    for (; it != &s->instances && list_entry(it, struct dsinst, in_session)->producer == p;
         it = it->next)
        n += in_group(s, list_entry(it, struct dsinst, in_session), group);
    if (n == 0 && !scrapes_itself(p, group))
        return it;
    struct msg_flush_command m = {.request = f->id, .flags = f->flags};
    m.ids = n ? alloc_try_array(n, sizeof(*m.ids)) : NULL;
    for (struct list *k = first; m.ids && k != it; k = k->next) {
        const struct dsinst *i = list_entry(k, struct dsinst, in_session);
        if (in_group(s, i, group))
            m.ids[m.nids++] = i->id;
    }
    f->missing[f->nmissing++] = p->id;
    producer_send(p, MSG_PP_FLUSH, &m, sizeof(m));
    return it;
}

/* Number of different producers of the session's instances. */
static size_t count_producers(const struct session *s)
{
    const struct producer *last = NULL;
    size_t n = 0;
    list_for_each (it, &s->instances) {
        const struct producer *p = list_entry(it, struct dsinst, in_session)->producer;
        n += p != last;
        last = p;
    }
    return n;
}

static uint64_t timeout_of(const struct session *s, uint32_t timeout_ms)
{
    if (timeout_ms)
        return timeout_ms;
    return s->cfg->flush_timeout_ms ? s->cfg->flush_timeout_ms : DEFAULTS_FLUSH_TIMEOUT_MS;
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
    struct session_flush *f = alloc_new(struct session_flush);
    size_t n = count_producers(s);
    f->missing = n ? alloc_try_array(n, sizeof(*f->missing)) : NULL;
    if (n && !f->missing) {
        free(f);
        done(arg, s, cookie, false);
        return;
    }
    f->session = s;
    f->id = ++s->svc->last_flush;
    f->flags = flags;
    f->done = done;
    f->arg = arg;
    f->cookie = cookie;
    list_push_back(&s->flushes, &f->node);
    s->nflushes++;
    s->flushes_requested++;
    session_event_drop(s, SELFPKT_LAST_FLUSH_SLOW);
    for (struct list *it = s->instances.next; it != &s->instances;)
        it = ask_producer(f, it, group);
    deadline_init(&f->timeout, s->svc->reactor, "flush timeout", on_timeout, f);
    deadline_arm_ms(&f->timeout, f->nmissing ? timeout_of(s, timeout_ms) : 0);
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

void session_flush_abort_all(struct session *s)
{
    while (!list_empty(&s->flushes)) {
        struct session_flush *f = list_first(&s->flushes, struct session_flush, node);
        session_flush_done *done = f->done;
        void *arg = f->arg;
        uint64_t cookie = f->cookie;
        s->nflushes--;
        flush_free(f);
        done(arg, NULL, cookie, false);
    }
}
