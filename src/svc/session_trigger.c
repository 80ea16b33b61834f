/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Triggers (service.md section 11): which sessions one activation hits, and what it does to them.
 * The history that limits activations per day belongs to the service; what a session received
 * belongs to the session and is bounded, because any producer may send triggers as fast as it can.
 */
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "svc/consumer.h"
#include "svc/producer.h"
#include "svc/rex.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define WINDOW_NS      (86400 * CHRONO_SEC) /* R176 */
#define MAX_HISTORY    65536                /* activations remembered by the service */
#define MAX_RECEIVED   4096                 /* triggers remembered by a session */
#define MAX_TEXTS      (4u << 20)           /* bytes of their names */
#define MAX_CLONE_HITS 256                  /* clone_trigger_hit events that wait for their delay */

/* ---- history (R176) ---- */

/* Activations of one name that are remembered; the map holds the number itself. */
static uint32_t count_of(const struct service *svc, uint64_t name_hash)
{
    return (uint32_t)(uintptr_t)idmap_get(&svc->activation_counts, name_hash);
}

static void set_count(struct service *svc, uint64_t name_hash, uint32_t n)
{
    idmap_del(&svc->activation_counts, name_hash);
    if (n)
        idmap_put(&svc->activation_counts, name_hash, (void *)(uintptr_t)n);
}

static void forget_oldest(struct service *svc)
{
    struct list *it = list_pop_front(&svc->activations);
    struct service_activation *a = list_entry(it, struct service_activation, node);
    set_count(svc, a->name_hash, count_of(svc, a->name_hash) - 1);
    svc->nactivations--;
    free(a);
}

static uint32_t count_activations(struct service *svc, uint64_t name_hash, uint64_t now)
{
    while (!list_empty(&svc->activations) &&
           now - list_first(&svc->activations, struct service_activation, node)->boot_ns >
               WINDOW_NS)
        forget_oldest(svc);
    return count_of(svc, name_hash);
}

static void remember(struct service *svc, uint64_t name_hash, uint64_t now)
{
    if (svc->nactivations == MAX_HISTORY)
        forget_oldest(svc);
    struct service_activation *a = alloc_new(struct service_activation);
    a->boot_ns = now;
    a->name_hash = name_hash;
    list_push_back(&svc->activations, &a->node);
    svc->nactivations++;
    set_count(svc, name_hash, count_of(svc, name_hash) + 1);
}

void session_trigger_forget(struct service *svc)
{
    while (!list_empty(&svc->activations))
        forget_oldest(svc);
    idmap_fini(&svc->activation_counts);
}

/* ---- what a session received (R177) ---- */

static void trigger_free(struct session_trigger *t)
{
    free(t->name.p);
    free(t->producer.p);
    free(t);
}

/* The names of a trigger belong to a consumer and a producer, and may be long. */
static size_t texts_of(const struct session_trigger *t)
{
    return t->name.n + t->producer.n;
}

/* Forgets the oldest until another one with so many bytes of names may be remembered. */
static void make_room(struct session *s, size_t texts)
{
    while (s->ntriggers > 0 &&
           (s->ntriggers == MAX_RECEIVED || s->trigger_texts + texts > MAX_TEXTS)) {
        struct session_trigger *t =
            list_entry(list_pop_front(&s->triggers), struct session_trigger, node);
        s->trigger_texts -= texts_of(t);
        s->ntriggers--;
        trigger_free(t);
    }
}

static void record(struct session *s, const struct producer *p, const struct tracecfg_trigger *cfg,
                   uint64_t now)
{
    struct session_trigger *t = alloc_new(struct session_trigger);
    make_room(s, cfg->name.n + p->name_len);
    if (msg_body_copy(&t->name, cfg->name.p, cfg->name.n) ||
        msg_body_copy(&t->producer, p->name, p->name_len)) {
        trigger_free(t);
        return;
    }
    t->boot_ns = now;
    t->uid = p->uid;
    t->delay_ms = cfg->stop_delay_ms;
    list_push_back(&s->triggers, &t->node);
    s->ntriggers++;
    s->trigger_texts += texts_of(t);
    session_event_snapshot(s);
}

/* ---- what it does ---- */

static void set_duration(struct session *s, uint32_t ms)
{
    struct tracecfg *changed;
    if (tracecfg_with_duration(s->cfg, ms, &changed) == 0)
        session_set_config(s, changed);
}

/* A clone_trigger_hit that waits for its delay. */
struct hit {
    struct list node; /* in session.trigger_clones */
    struct session *s;
    struct deadline deadline;
    struct msg_body name, producer; /* own */
    uint64_t boot_ns;
    uid_t uid;
    uint32_t delay_ms;
};

static void hit_free(struct hit *h)
{
    deadline_cancel(&h->deadline);
    list_remove(&h->node);
    free(h->name.p);
    free(h->producer.p);
    free(h);
}

static void on_hit(void *arg)
{
    struct hit *h = arg;
    struct consumer *c = service_consumer_of(h->s->svc, h->s->consumer);
    const struct consumer_trigger_hit e = {
        .session = h->s->id,
        .trigger = msg_body_view(&h->name),
        .producer = msg_body_view(&h->producer),
        .uid = h->uid,
        .boot_ns = h->boot_ns,
        .delay_ms = h->delay_ms,
    };
    if (c && (c->observed & CONSUMER_CLONE_TRIGGER))
        consumer_tell_clone_trigger(c, &e);
    hit_free(h);
}

static void clone_trigger(struct session *s, const struct producer *p,
                          const struct tracecfg_trigger *t, uint64_t now) /* R180 */
{
    if (list_count(&s->trigger_clones) >= MAX_CLONE_HITS)
        return;
    struct hit *h = alloc_new(struct hit);
    list_push_back(&s->trigger_clones, &h->node);
    h->s = s;
    h->boot_ns = now;
    h->uid = p->uid;
    h->delay_ms = t->stop_delay_ms;
    deadline_init(&h->deadline, s->svc->reactor, "clone trigger", on_hit, h);
    if (msg_body_copy(&h->name, t->name.p, t->name.n) ||
        msg_body_copy(&h->producer, p->name, p->name_len)) {
        hit_free(h);
        return;
    }
    deadline_arm_ms(&h->deadline, t->stop_delay_ms);
}

static void act(struct session *s, const struct producer *p, const struct tracecfg_trigger *t,
                bool first, uint64_t now)
{
    switch (tracecfg_mode(s->cfg)) {
    case TRACECFG_START_TRACING: /* R178 */
        if (s->state == SESSION_CONFIGURED) {
            set_duration(s, t->stop_delay_ms);
            session_start(s);
        }
        break;
    case TRACECFG_STOP_TRACING: /* R179; before the start, too (R174), or nothing would end it (R30)
                                 */
        if (first && (s->state == SESSION_CONFIGURED || s->state == SESSION_STARTED))
            deadline_arm_ms(&s->trigger_stop, t->stop_delay_ms);
        break;
    case TRACECFG_CLONE_SNAPSHOT:
        clone_trigger(s, p, t, now);
        break;
    default:
        break;
    }
}

/* ---- activation (R174, R175) ---- */

static double draw(void)
{
    return (double)(chrono_random_u64() >> 11) * 0x1p-53;
}

static bool sender_matches(const struct tracecfg_trigger *t, const struct producer *p)
{
    return !t->producer_regex.n || (t->regex && rex_match(t->regex, p->name, p->name_len, NULL));
}

void session_trigger_activate(struct service *svc, struct producer *p, struct bytes_view name)
{
    uint64_t now = chrono_boot_ns(), name_hash = bytes_hash(name);
    uint32_t earlier = count_activations(svc, name_hash, now);
    bool hit = false;
    list_for_each_safe (it, tmp, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        tracecfg_begin_trigger(s->cfg);
        const struct tracecfg_trigger *t =
            s->state == SESSION_CLONED ? NULL : tracecfg_trigger(s->cfg, name);
        if (!t || !sender_matches(t, p) || draw() < t->skip_probability ||
            (t->max_per_24_h && earlier >= t->max_per_24_h))
            continue;
        bool first = !s->triggered;
        hit = true;
        s->triggered = true;
        record(s, p, t, now);
        act(s, p, t, first, now);
    }
    if (hit)
        remember(svc, name_hash, now);
}

/* ---- timers ---- */

static void on_timeout(void *arg)
{
    session_disable(arg, NULL); /* L5: it is still CONFIGURED */
}

static void on_stop(void *arg)
{
    session_flush_and_disable(arg);
}

void session_trigger_init(struct session *s)
{
    deadline_init(&s->trigger_timeout, s->svc->reactor, "trigger timeout", on_timeout, s);
    deadline_init(&s->trigger_stop, s->svc->reactor, "trigger stop delay", on_stop, s);
}

void session_trigger_arm(struct session *s)
{
    switch (tracecfg_mode(s->cfg)) {
    case TRACECFG_START_TRACING:
        deadline_arm_ms(&s->trigger_timeout, s->cfg->trigger_timeout_ms);
        break;
    case TRACECFG_STOP_TRACING:
    case TRACECFG_CLONE_SNAPSHOT:
        set_duration(s, s->cfg->trigger_timeout_ms);
        break;
    default:
        break;
    }
}

bool session_trigger_waiting(const struct session *s)
{
    if (s->state == SESSION_CLONED)
        return false;
    return (s->cfg->ntriggers > 0 && !s->triggered) ||
           tracecfg_mode(s->cfg) == TRACECFG_CLONE_SNAPSHOT;
}

void session_trigger_free_all(struct session *s)
{
    while (!list_empty(&s->triggers))
        trigger_free(list_entry(list_pop_front(&s->triggers), struct session_trigger, node));
    while (!list_empty(&s->trigger_clones))
        hit_free(list_first(&s->trigger_clones, struct hit, node));
    if (s->clone_trigger)
        trigger_free(s->clone_trigger);
    s->clone_trigger = NULL;
    s->ntriggers = 0;
    s->trigger_texts = 0;
}
