/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data source instances: matching registrations to the entries of a config, and the small state
 * machine that each instance goes through. Commands to the producer are posted in the order that
 * service.md R5 promises; what the producer answers comes back through the session.
 *
 * Invariant: an instance is in its session's list, in its producer's list and in the id map, or it
 * is freed; whoever of the two goes first takes it along.
 */
#include "svc/dsinst.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/consumer.h"
#include "svc/dsconfig.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

/* A config must still fit a frame after the service has added to it (R69); one that does not would
 * cost the producer its connection. */
#define CONFIG_MAX 130900

/* Pairs of an entry and a registration with its name that are looked at in one go. */
#define MATCHES_MAX (1u << 18)

const char *dsinst_state_name(enum dsinst_state state)
{
    static const char *const names[] = {
#define DSINST_X(constant, name) name,
        DSINST_STATE_TABLE(DSINST_X)
#undef DSINST_X
    };
    return (unsigned)state < DSINST_STATES ? names[state] : "?";
}

bool dsinst_may_enter(enum dsinst_state from, enum dsinst_state to)
{
    static const uint8_t to_states[DSINST_STATES] = {
        [DSINST_CONFIGURED] =
            1 << DSINST_STARTING | 1 << DSINST_STARTED | 1 << DSINST_STOPPING | 1 << DSINST_STOPPED,
        [DSINST_STARTING] = 1 << DSINST_STARTED | 1 << DSINST_STOPPING | 1 << DSINST_STOPPED,
        [DSINST_STARTED] = 1 << DSINST_STOPPING | 1 << DSINST_STOPPED,
        [DSINST_STOPPING] = 1 << DSINST_STOPPED,
        [DSINST_STOPPED] = 0,
    };
    return (unsigned)from < DSINST_STATES && (unsigned)to < DSINST_STATES &&
           (to_states[from] >> to & 1);
}

void dsinst_report(struct dsinst *i)
{
    bool started = i->state == DSINST_STARTED;
    struct consumer *c = service_consumer_of(i->session->svc, i->session->consumer);
    if (!c || !(c->observed & CONSUMER_INSTANCES))
        return;
    if (started || i->state == DSINST_CONFIGURED || i->state == DSINST_STOPPED)
        consumer_tell_instance(c, producer_name(i->producer), bytes_view(i->name, i->name_len),
                               started);
}

void dsinst_enter(struct dsinst *i, enum dsinst_state state)
{
    if (!dsinst_may_enter(i->state, state)) {
        log_error("instance %llu: no way from %s to %s; this is a bug", (unsigned long long)i->id,
                  dsinst_state_name(i->state), dsinst_state_name(state));
        return;
    }
    log_debug("instance %llu of session %llu: %s -> %s", (unsigned long long)i->id,
              (unsigned long long)i->session->id, dsinst_state_name(i->state),
              dsinst_state_name(state));
    i->session->instances_in[i->state]--;
    i->session->instances_in[state]++;
    i->state = state;
    i->acked = false;
    dsinst_report(i);
}

/* ---- matching (R66) ---- */

bool dsinst_matches(const struct session *s, size_t entry, const struct datasource *ds)
{
    const struct tracecfg_source *e = &s->cfg->sources[entry];
    const struct producer *p = ds->producer;
    return bytes_equal(e->name, ds->name) && !p->gone &&
           !(s->svc->lockdown && p->uid != s->svc->uid) &&
           tracecfg_machine_passes(s->cfg, e, p->machine_id, p->machine_name) &&
           tracecfg_producer_passes(e, producer_name(p)) && e->target >= 0 &&
           (size_t)e->target < s->nbuffers;
}

/* ---- setup (R68) ---- */

/* Lists it in its session: ascending ProducerID, then order of setup. */
static void enlist(struct session *s, struct dsinst *i)
{
    struct list *at = &s->instances;
    while (at->prev != &s->instances &&
           list_entry(at->prev, struct dsinst, in_session)->producer->id > i->producer->id)
        at = at->prev;
    list_push_back(at, &i->in_session);
    list_push_back(&i->producer->instances, &i->in_producer);
    s->ninstances++;
    s->instances_in[i->state]++;
}

static struct dsconfig *make_config(const struct session *s, size_t entry)
{
    const struct tracecfg_source *e = &s->cfg->sources[entry];
    const struct dsconfig_fields fields = {
        .target_buffer = s->buffers[e->target].id,
        .trace_duration_ms = s->cfg->duration_ms,
        .tracing_session_id = s->id,
        .stop_timeout_ms = session_stop_timeout_ms(s),
        .enable_extra_guardrails = s->cfg->extra_guardrails,
        .prefer_suspend_clock_for_duration = s->cfg->suspend_clock_for_duration,
    };
    return dsconfig_new(e->config.v, e->config.n, &fields);
}

/* The config of an entry's instances, which is the same for all of them: made once and kept by the
 * session. A reference, or NULL when there is no memory. */
static struct dsconfig *config_of(struct session *s, size_t entry)
{
    if (!s->configs)
        s->configs = alloc_try_array(s->cfg->nsources, sizeof(struct dsconfig *));
    if (s->configs && !s->configs[entry])
        s->configs[entry] = make_config(s, entry);
    return s->configs && s->configs[entry] ? dsconfig_ref(s->configs[entry]) : NULL;
}

void dsinst_forget_configs(struct session *s)
{
    for (size_t i = 0; s->configs && i < s->cfg->nsources; i++)
        dsconfig_unref(s->configs[i]);
    free(s->configs);
    s->configs = NULL;
}

static void send_config(struct dsinst *i, enum msg_kind kind)
{
    struct msg_config m = {.instance = i->id, .config = dsconfig_ref(i->config)};
    producer_send(i->producer, kind, &m, sizeof(m));
}

struct dsinst *dsinst_setup(struct session *s, size_t entry, struct datasource *ds)
{
    struct producer *p = ds->producer;
    if (s->ninstances >= SESSION_INSTANCES_MAX) {
        log_warn_limited("session %llu: %u instances are the limit; \"%.*s\" is not set up",
                         (unsigned long long)s->id, SESSION_INSTANCES_MAX, (int)ds->name.n,
                         (const char *)ds->name.p);
        return NULL;
    }
    struct dsconfig *config = config_of(s, entry);
    uint16_t target = (uint16_t)s->cfg->sources[entry].target;
    int err = !config                  ? -ENOMEM
              : config->n > CONFIG_MAX ? ERR_QUOTA
                                       : producer_ensure_shmem(p, s->cfg);
    if (!err)
        err = producer_allow(p, s->buffers[target].id);
    struct dsinst *i = alloc_new(struct dsinst);
    i->id = ++s->svc->last_instance;
    if (!err)
        err = idmap_put(&s->svc->instances, i->id, i);
    if (err) {
        log_warn_limited("producer %u: data source \"%.*s\" cannot be set up: %s", p->id,
                         (int)ds->name.n, (const char *)ds->name.p, err_text(err));
        dsconfig_unref(config);
        free(i);
        return NULL;
    }
    i->session = s;
    i->producer = p;
    i->config = config;
    i->target = target;
    i->will_notify_on_start = ds->will_notify_on_start;
    i->will_notify_on_stop = ds->will_notify_on_stop;
    i->handles_incremental_clear = ds->handles_incremental_clear;
    i->no_flush = ds->no_flush;
    i->name = alloc_strndup((const char *)ds->name.p, ds->name.n);
    i->name_len = ds->name.n;
    i->state = DSINST_CONFIGURED;
    enlist(s, i);
    session_vm_attach(s, entry, ds);
    dsinst_report(i);
    send_config(i, MSG_PP_SETUP);
    return i;
}

/* Sets it up in one session, and starts it if the session runs. */
static void setup_and_start(struct session *s, size_t entry, struct datasource *ds)
{
    struct dsinst *i = dsinst_setup(s, entry, ds);
    if (i && session_running(s))
        dsinst_start(i);
}

void dsinst_setup_late(struct service *svc, struct datasource *ds)
{
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        if (s->state != SESSION_CONFIGURED && s->state != SESSION_STARTED)
            continue; /* R34 */
        tracecfg_begin_matching(s->cfg);
        for (size_t entry = 0; entry < s->cfg->nsources; entry++) {
            if (dsinst_matches(s, entry, ds))
                setup_and_start(s, entry, ds);
        }
    }
}

/* True when the producer has an instance in the session that was there before `first`. */
static bool has_instance(const struct session *s, const struct producer *p, uint64_t first)
{
    list_for_each (it, &p->instances) {
        const struct dsinst *i = list_entry(it, struct dsinst, in_producer);
        if (i->session == s && i->id < first)
            return true;
    }
    return false;
}

/* Index of the first of the n sorted registrations with that name or a later one. */
static size_t first_named(struct datasource *const *all, size_t n, struct bytes_view name)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (bytes_compare(all[mid]->name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Calls `setup` for all that match, entry by entry. Many entries and many registrations of one name
 * are bounded: a config and a producer may have thousands of each. */
static void each_match(struct session *s, void (*setup)(struct session *s, size_t entry,
                                                        struct datasource *ds, uint64_t first))
{
    size_t n = s->svc->nsources, tried = 0;
    struct datasource **all = producer_sources(s->svc);
    uint64_t first = s->svc->last_instance + 1;
    tracecfg_begin_matching(s->cfg);
    for (size_t entry = 0; all && entry < s->cfg->nsources; entry++) {
        struct bytes_view name = s->cfg->sources[entry].name;
        for (size_t i = first_named(all, n, name); i < n && bytes_equal(all[i]->name, name); i++) {
            if (++tried > MATCHES_MAX || s->ninstances >= SESSION_INSTANCES_MAX) {
                log_warn_limited("session %llu: more data sources match its config than are looked "
                                 "at; the rest is not set up",
                                 (unsigned long long)s->id);
                free(all);
                return;
            }
            if (dsinst_matches(s, entry, all[i]))
                setup(s, entry, all[i], first);
        }
    }
    free(all);
}

static void setup_new(struct session *s, size_t entry, struct datasource *ds, uint64_t first)
{
    (void)first;
    dsinst_setup(s, entry, ds);
}

void dsinst_setup_all(struct session *s)
{
    each_match(s, setup_new);
}

static void setup_added(struct session *s, size_t entry, struct datasource *ds, uint64_t first)
{
    if (!has_instance(s, ds->producer, first))
        setup_and_start(s, entry, ds);
}

void dsinst_setup_changed(struct session *s)
{
    each_match(s, setup_added);
}

/* ---- start and stop ---- */

void dsinst_start(struct dsinst *i)
{
    struct session *s = i->session;
    if (i->state != DSINST_CONFIGURED)
        return;
    send_config(i, MSG_PP_START);
    dsinst_enter(i, i->will_notify_on_start ? DSINST_STARTING : DSINST_STARTED);
    if (i->state == DSINST_STARTED)
        session_check_started(s);
}

void dsinst_stop(struct dsinst *i, bool immediate)
{
    if (i->state == DSINST_STOPPED || (i->state == DSINST_STOPPING && !immediate))
        return;
    if (i->state != DSINST_STOPPING) {
        struct msg_instance m = {.instance = i->id};
        producer_send(i->producer, MSG_PP_STOP, &m, sizeof(m));
    }
    dsinst_enter(i, i->will_notify_on_stop && !immediate ? DSINST_STOPPING : DSINST_STOPPED);
}

/* ---- end ---- */

void dsinst_free(struct dsinst *i)
{
    idmap_del(&i->session->svc->instances, i->id);
    list_remove(&i->in_session);
    list_remove(&i->in_producer);
    i->session->ninstances--;
    i->session->instances_in[i->state]--;
    dsconfig_unref(i->config);
    free(i->name);
    free(i);
}

void dsinst_unregister(struct producer *p, const char *name, size_t name_len)
{
    struct list gone = LIST_INIT(gone), *it;
    list_splice(&gone, &p->instances);
    while ((it = list_pop_front(&gone)) != NULL) {
        struct dsinst *i = list_entry(it, struct dsinst, in_producer);
        struct session *s = i->session;
        if (name_len != SIZE_MAX &&
            (i->name_len != name_len || memcmp(i->name, name, name_len) != 0)) {
            list_push_back(&p->instances, it);
            continue;
        }
        if (i->state == DSINST_STOPPING)
            dsinst_enter(i, DSINST_STOPPED);
        else
            dsinst_stop(i, true);
        dsinst_free(i);
        session_check_stopped(s);
        session_check_started(s);
    }
}

struct dsinst *dsinst_find(const struct producer *p, uint64_t id)
{
    struct dsinst *i = idmap_get(&p->svc->instances, id);
    return i && i->producer == p ? i : NULL;
}
