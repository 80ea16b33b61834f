/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a session does at a time: its duration, the wait for stop acks, clock snapshots, periodic
 * flushes and clears, the check for slow starters (service.md 1.7). Periodic timers are aligned, so
 * equal periods of different sessions fall together (R37). All are cancelled together when the stop
 * completes, so no timer ever finds its session in a state that it does not expect.
 */
#include <stdlib.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define FLAGS_PERIODIC 0x11 /* R90 */
#define COST_OF_CLEAR  512

uint32_t session_stop_timeout_ms(const struct session *s)
{
    return s->cfg->stop_timeout_ms ? s->cfg->stop_timeout_ms : DEFAULTS_STOP_TIMEOUT_MS;
}

/* ---- one-shot timers ---- */

static void on_duration(void *arg)
{
    struct session *s = arg;
    if (tracecfg_mode(s->cfg) == TRACECFG_STOP_TRACING && s->triggered)
        return; /* R30: the trigger's own timer stops it */
    session_flush_and_disable(s);
}

static void on_stop_timeout(void *arg)
{
    struct session *s = arg;
    if (s->state == SESSION_STOP_WAIT)
        session_complete_stop(s); /* R32 */
}

static void on_slow_start(void *arg)
{
    struct session *s = arg;
    if (s->all_started || !s->consumer || s->slow_start_done)
        return;
    s->slow_start_done = true;
    session_event_slow(s, SELFPKT_SLOW_STARTING, NULL, 0);
}

/* ---- periodic timers ---- */

static void on_snapshot(void *arg)
{
    struct session *s = arg;
    s->emit_sync = true;
    s->emit_stats = true;
    session_event_snapshot(s);
}

/* True when a periodic timer should act; else it is switched off (R37). */
static bool still_running(struct session *s, struct deadline *d)
{
    if (!session_running(s))
        deadline_cancel(d);
    return session_running(s);
}

static void flushed(void *arg, struct session *s, uint64_t cookie, bool ok)
{
    (void)arg;
    (void)s;
    (void)cookie;
    (void)ok;
}

static void on_periodic_flush(void *arg)
{
    struct session *s = arg;
    if (still_running(s, &s->periodic_flush))
        session_flush_start(s, 0, FLAGS_PERIODIC, SESSION_FLUSH_ALL, flushed, NULL, 0);
}

/* Tells one producer which of its instances are to clear their state. */
static void clear_producer(const struct dsinst_group *g)
{
    struct msg_flush_command m = {0};
    struct list *it = g->first;
    size_t n = 0;
    for (uint32_t k = 0; k < g->n; k++, it = it->next)
        n += list_entry(it, struct dsinst, in_session)->handles_incremental_clear;
    m.ids = n ? alloc_try_array(n, sizeof(*m.ids)) : NULL;
    if (!m.ids)
        return;
    it = g->first;
    for (uint32_t k = 0; k < g->n; k++, it = it->next) {
        const struct dsinst *i = list_entry(it, struct dsinst, in_session);
        if (i->handles_incremental_clear)
            m.ids[m.nids++] = i->id;
    }
    producer_send(g->producer, MSG_PP_CLEAR, &m, sizeof(m));
}

/* Tells them one by one, until the budget is spent. */
static enum task_result clear_slice(void *arg, struct task_budget *budget)
{
    struct session *s = arg;
    const struct dsinst_group *g;
    while (session_running(s) && (g = dsinst_group_from(s, s->clear_next)) != NULL) {
        s->clear_next = g->producer->id + 1u;
        clear_producer(g);
        if (!task_spend(budget, COST_OF_CLEAR + g->n * sizeof(uint64_t)))
            return TASK_AGAIN;
    }
    return TASK_DONE;
}

static void on_clear(void *arg) /* R38 */
{
    struct session *s = arg;
    if (!still_running(s, &s->clear) || task_scheduled(&s->clearing))
        return;
    struct task_budget first = task_at_once(s->svc->reactor);
    s->clear_next = 0;
    if (clear_slice(s, &first) == TASK_AGAIN)
        task_wake(&s->clearing);
}

/* ---- all of them ---- */

void session_timers_init(struct session *s)
{
    struct reactor *r = s->svc->reactor;
    deadline_init(&s->duration, r, "session duration", on_duration, s);
    deadline_init(&s->stop_timeout, r, "stop timeout", on_stop_timeout, s);
    deadline_init(&s->slow_start, r, "slow start check", on_slow_start, s);
    deadline_init(&s->snapshot, r, "clock snapshot", on_snapshot, s);
    deadline_init(&s->clear, r, "incremental state clear", on_clear, s);
    deadline_init(&s->periodic_flush, r, "periodic flush", on_periodic_flush, s);
    task_init(&s->clearing, r, "incremental state clear", clear_slice, s);
    session_trigger_init(s);
    session_file_init(s);
}

void session_timers_cancel(struct session *s)
{
    struct deadline *all[] = {&s->duration,        &s->stop_timeout, &s->slow_start,
                              &s->snapshot,        &s->clear,        &s->periodic_flush,
                              &s->trigger_timeout, &s->trigger_stop};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        deadline_cancel(all[i]);
    task_stop(&s->clearing);
}

static void every(struct deadline *d, enum deadline_clock clock, uint32_t ms)
{
    deadline_every_aligned(d, clock, (uint64_t)ms * CHRONO_MS);
}

void session_timers_start(struct session *s)
{
    const struct tracecfg *c = s->cfg;
    on_snapshot(s);
    every(&s->snapshot, c->suspend_clock_for_snapshot ? DEADLINE_BOOT : DEADLINE_MONO,
          c->snapshot_interval_ms ? c->snapshot_interval_ms : DEFAULTS_SNAPSHOT_MS);
    if (c->duration_ms)
        deadline_arm_on(&s->duration, c->suspend_clock_for_duration ? DEADLINE_BOOT : DEADLINE_MONO,
                        (uint64_t)c->duration_ms * CHRONO_MS);
    uint32_t flush_ms = session_file_flush_period(s);
    if (flush_ms)
        every(&s->periodic_flush, DEADLINE_MONO, flush_ms);
    if (c->clear_period_ms)
        every(&s->clear, DEADLINE_MONO, c->clear_period_ms);
    if (s->consumer)
        deadline_arm_ms(&s->slow_start, DEFAULTS_SLOW_START_MS);
}

void session_timers_arm_stop(struct session *s)
{
    deadline_arm_ms(&s->stop_timeout, session_stop_timeout_ms(s));
}
