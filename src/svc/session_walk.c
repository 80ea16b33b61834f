/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a session does to all of its instances at once: setting up, starting, stopping, reporting.
 * With ten thousand producers that takes the loop far longer than one slice may, so it is a walk:
 * the first slice is done on the spot, and is all there is in an ordinary session, the rest comes
 * from a task. At most one walk goes on in a session. What the session is (its state, timers,
 * events) changes at once; the walk brings it to the instances.
 *
 * Order: a producer hears the commands of one session as if the walks were done in one go, because
 * the next one begins when the one before is over, and the requests of the session's consumer wait
 * meanwhile (svc/consumer). Setting up waits for walks of sessions that were freed before. What
 * cannot wait (a timer that stops the session, a disconnect) cuts the walk short: instances that
 * were not set up yet are not, those not started yet are only stopped.
 *
 * The walk owns nothing. It stands at an instance that is next; one that goes hands the place on
 * (session_walk_pass).
 */
#include "svc/session_walk.h"

#include "svc/consumer.h"
#include "svc/dsconfig.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define COST_OF_INSTANCE 256

/* Work in bytes; a report is as long as its names. */
static size_t cost(const struct session *s, const struct dsinst *i)
{
    bool report = s->walk.kind == SESSION_WALK_REPORT;
    return COST_OF_INSTANCE + (report ? i->producer->name_len + i->config->name.n : 0);
}

void session_walk_pass(struct session *s, struct list *node)
{
    if (s->walk.next == node)
        s->walk.next = node->next;
}

/* ---- slices ---- */

static void act(struct session *s, struct dsinst *i)
{
    switch (s->walk.kind) {
    case SESSION_WALK_START:
        dsinst_start(i);
        break;
    case SESSION_WALK_STOP:
        dsinst_stop(i, s->walk.immediate);
        break;
    case SESSION_WALK_LEAVE:
        dsinst_stop(i, true);
        break;
    case SESSION_WALK_REPORT:
        dsinst_report(i);
        break;
    case SESSION_WALK_NONE:
    case SESSION_WALK_SETUP:
    case SESSION_WALK_CHANGE:
        break;
    }
}

/* True when reports have to wait for the observer. */
static bool must_wait(const struct session *s)
{
    const struct consumer *c =
        s->walk.kind == SESSION_WALK_REPORT ? service_consumer_of(s->svc, s->consumer) : NULL;
    return c && !c->gone && !consumer_has_room(c);
}

/* True when the walk is through. */
static bool go_on(struct session *s, struct task_budget *budget)
{
    struct session_walk *w = &s->walk;
    if (w->kind == SESSION_WALK_SETUP && s->svc->nfreeing > 0)
        return false;
    if (w->kind == SESSION_WALK_SETUP || w->kind == SESSION_WALK_CHANGE)
        return dsinst_match_step(&w->match, s, budget);
    while (w->next != &s->instances) {
        struct dsinst *i = list_entry(w->next, struct dsinst, in_session);
        if (must_wait(s))
            return false;
        w->next = w->next->next;
        act(s, i);
        if (!task_spend(budget, cost(s, i)))
            return w->next == &s->instances;
    }
    return true;
}

/* ---- the end of a walk ---- */

static void settle(struct session *s)
{
    struct consumer *c = service_consumer_of(s->svc, s->consumer);
    enum session_walk_kind kind = s->walk.kind;
    s->walk.kind = SESSION_WALK_NONE;
    if (c)
        consumer_go_on(c);
    task_stop(&s->walk.task);
    switch (kind) {
    case SESSION_WALK_SETUP:
        if (s->walk.duration_ms != s->cfg->duration_ms)
            dsinst_forget_configs(s); /* later ones are told the new one (R70) */
        break;
    case SESSION_WALK_LEAVE:
        s->svc->nfreeing--;
        break;
    default:
        break;
    }
}

/* What was put off until the walk is over. */
static void finished(struct session *s, enum session_walk_kind kind)
{
    switch (kind) {
    case SESSION_WALK_SETUP:
    case SESSION_WALK_CHANGE:
        if (session_running(s))
            session_walk_begin(s, SESSION_WALK_START);
        break;
    case SESSION_WALK_START:
        session_check_started(s);
        break;
    case SESSION_WALK_STOP:
        session_walked_stop(s);
        break;
    case SESSION_WALK_LEAVE:
        session_walked_out(s);
        break;
    case SESSION_WALK_REPORT:
    case SESSION_WALK_NONE:
        break;
    }
}

static enum task_result run(void *arg, struct task_budget *budget)
{
    struct session *s = arg;
    enum session_walk_kind kind = s->walk.kind;
    if (kind == SESSION_WALK_NONE)
        return TASK_DONE;
    if (!go_on(s, budget))
        return must_wait(s) ? TASK_DONE : TASK_AGAIN;
    settle(s);
    finished(s, kind);
    return TASK_DONE; /* what it began has woken the task */
}

void session_walk_init(struct session *s)
{
    task_init(&s->walk.task, s->svc->reactor, "walk over instances", run, s);
    s->walk.next = &s->instances;
}

static void begin(struct session *s, enum session_walk_kind kind)
{
    struct session_walk *w = &s->walk;
    w->kind = kind;
    w->next = s->instances.next;
    w->immediate = s->state == SESSION_CONFIGURED; /* L5 */
    w->duration_ms = s->cfg->duration_ms;
    if (kind == SESSION_WALK_SETUP || kind == SESSION_WALK_CHANGE)
        dsinst_match_begin(&w->match, s, kind == SESSION_WALK_CHANGE);
    if (kind == SESSION_WALK_LEAVE)
        s->svc->nfreeing++;
}

bool session_walk_begin(struct session *s, enum session_walk_kind kind)
{
    struct task_budget first = task_at_once(s->svc->reactor);
    session_walk_cancel(s);
    begin(s, kind);
    if (!go_on(s, &first)) {
        task_wake(&s->walk.task);
        return false;
    }
    settle(s);
    if (kind == SESSION_WALK_START || kind == SESSION_WALK_CHANGE)
        session_check_started(s);
    return true;
}

void session_walk_finish(struct session *s)
{
    struct task_budget all = task_unbounded();
    if (s->walk.kind != SESSION_WALK_STOP && s->walk.kind != SESSION_WALK_LEAVE)
        return;
    (void)go_on(s, &all);
    settle(s);
}

void session_walk_cancel(struct session *s)
{
    if (s->walk.kind != SESSION_WALK_NONE)
        settle(s);
}

void session_walk_room(struct session *s)
{
    if (s->walk.kind == SESSION_WALK_REPORT)
        task_wake(&s->walk.task);
}
