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
#include "svc/drain.h"
#include "svc/dsconfig.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

/* A config must still fit a frame after the service has added to it (R69); one that does not would
 * cost the producer its connection. */
#define CONFIG_MAX 130900

/* Pairs of an entry and a registration with its name that are looked at for one request. */
#define MATCHES_MAX (1u << 18)

#define COST_OF_PAIR 64

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
        consumer_tell_instance(c, producer_name(i->producer), i->config->name, started);
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
           tracecfg_producer_passes(s->cfg, e, producer_name(p)) && e->target >= 0 &&
           (size_t)e->target < s->nbuffers;
}

/* ---- groups ---- */

static int by_producer(const void *key, const struct tree_node *node)
{
    uint16_t id = *(const uint16_t *)key,
             other = tree_entry(node, struct dsinst_group, node)->producer->id;
    return (id > other) - (id < other);
}

void dsinst_groups_init(struct session *s)
{
    tree_init(&s->groups, by_producer);
}

struct dsinst_group *dsinst_group_from(const struct session *s, uint32_t producer)
{
    uint16_t id = (uint16_t)producer;
    struct tree_node *n = producer > UINT16_MAX ? NULL : tree_at_least(&s->groups, &id);
    return n ? tree_entry(n, struct dsinst_group, node) : NULL;
}

static struct dsinst_group *group_of(const struct session *s, const struct producer *p)
{
    struct tree_node *n = tree_find(&s->groups, &p->id);
    return n ? tree_entry(n, struct dsinst_group, node) : NULL;
}

static struct dsinst_group *group_new(struct session *s, struct producer *p)
{
    struct dsinst_group *g = alloc_new(struct dsinst_group);
    struct tree_node *before = tree_before(&s->groups, &p->id);
    g->producer = p;
    /* An empty group holds the place where its first instance goes. */
    g->last = before ? tree_entry(before, struct dsinst_group, node)->last : &s->instances;
    tree_insert(&s->groups, &g->node, &p->id);
    s->ngroups++;
    return g;
}

/* Lists it in its session: ascending ProducerID, then order of setup. */
static void enlist(struct session *s, struct dsinst *i)
{
    struct dsinst_group *g = group_of(s, i->producer);
    if (!g)
        g = group_new(s, i->producer);
    list_push_front(g->last, &i->in_session);
    if (g->n++ == 0)
        g->first = &i->in_session;
    g->last = &i->in_session;
    i->group = g;
    list_push_back(&i->producer->instances, &i->in_producer);
    s->ninstances++;
    s->instances_in[i->state]++;
}

static void delist(struct dsinst *i)
{
    struct session *s = i->session;
    struct dsinst_group *g = i->group;
    session_walk_pass(s, &i->in_session);
    drain_pass(i->producer, &i->in_producer);
    if (g->first == &i->in_session)
        g->first = i->in_session.next;
    if (g->last == &i->in_session)
        g->last = i->in_session.prev;
    list_remove(&i->in_session);
    list_remove(&i->in_producer);
    s->ninstances--;
    s->instances_in[i->state]--;
    if (--g->n == 0) {
        tree_remove(&s->groups, &g->node);
        s->ngroups--;
        free(g);
    }
}

/* ---- setup (R68) ---- */

static struct dsconfig *make_config(const struct session *s, size_t entry)
{
    const struct tracecfg_source *e = &s->cfg->sources[entry];
    const struct dsconfig_fields fields = {
        .target_buffer = s->buffers[e->target].id,
        .trace_duration_ms = session_setup_duration(s),
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
        err = producer_allow(p, &s->buffers[target]);
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

void dsinst_late_begin(struct dsinst_late *l, struct datasource *ds)
{
    *l = (struct dsinst_late){.limit = ds->producer->svc->last_session};
    ds->arriving = true;
}

/* One session, from entry l->entry on. False: the budget is spent. */
static bool late_in_session(struct dsinst_late *l, struct session *s, struct datasource *ds,
                            struct task_budget *budget)
{
    if (!session_takes_instances(s)) /* R34 */
        return true;
    if (l->entry == 0)
        tracecfg_begin_matching(s->cfg);
    while (l->entry < s->cfg->nsources) {
        size_t entry = l->entry++;
        if (dsinst_matches(s, entry, ds))
            setup_and_start(s, entry, ds);
        if (!task_spend(budget, COST_OF_PAIR))
            return false;
    }
    return true;
}

bool dsinst_late_step(struct dsinst_late *l, struct datasource *ds, struct task_budget *budget)
{
    list_for_each (it, &ds->producer->svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        if (s->id < l->session || s->id > l->limit)
            continue;
        l->entry = s->id == l->session ? l->entry : 0;
        l->session = s->id;
        if (!late_in_session(l, s, ds, budget))
            return false;
        l->session++;
        l->entry = 0;
    }
    ds->arriving = false;
    return true;
}

/* ---- all that matches ---- */

void dsinst_match_begin(struct dsinst_match *m, struct session *s, bool changed)
{
    *m = (struct dsinst_match){
        .limit = s->svc->last_source, .first = s->svc->last_instance + 1, .changed = changed};
    tracecfg_begin_matching(s->cfg);
}

/* True when the producer has an instance in the session that was there before the walk (R195). */
static bool had_instance(const struct session *s, const struct producer *p, uint64_t first)
{
    const struct dsinst_group *g = group_of(s, p);
    return g && list_entry(g->first, struct dsinst, in_session)->id < first;
}

static void match_pair(struct dsinst_match *m, struct session *s, struct datasource *ds)
{
    if (!dsinst_matches(s, m->entry, ds))
        return;
    if (!m->changed)
        dsinst_setup(s, m->entry, ds);
    else if (!ds->arriving && !had_instance(s, ds->producer, m->first))
        setup_and_start(s, m->entry, ds);
}

/* Many entries and many registrations of one name are bounded: a config and a producer may have
 * thousands of each. */
static bool match_enough(struct dsinst_match *m, const struct session *s)
{
    if (++m->tried <= MATCHES_MAX && s->ninstances < SESSION_INSTANCES_MAX)
        return false;
    log_warn_limited("session %llu: more data sources match its config than are looked at; the "
                     "rest is not set up",
                     (unsigned long long)s->id);
    return true;
}

bool dsinst_match_step(struct dsinst_match *m, struct session *s, struct task_budget *budget)
{
    while (m->entry < s->cfg->nsources) {
        struct bytes_view name = s->cfg->sources[m->entry].name;
        struct datasource *ds = producer_source_from(s->svc, name, m->order);
        for (; ds && ds->order <= m->limit && bytes_equal(ds->name, name);
             ds = producer_source_next(ds)) {
            if (match_enough(m, s))
                return true;
            m->order = ds->order + 1;
            match_pair(m, s, ds);
            if (!task_spend_slow(budget, COST_OF_PAIR))
                return false;
        }
        m->entry++;
        m->order = 0;
        if (!task_spend(budget, COST_OF_PAIR))
            return false;
    }
    return true;
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
    delist(i);
    dsconfig_unref(i->config);
    free(i);
}

void dsinst_go(struct dsinst *i)
{
    struct session *s = i->session;
    if (i->state == DSINST_STOPPING)
        dsinst_enter(i, DSINST_STOPPED);
    else
        dsinst_stop(i, true);
    dsinst_free(i);
    session_check_stopped(s);
    session_check_started(s);
}

struct dsinst *dsinst_find(const struct producer *p, uint64_t id)
{
    struct dsinst *i = idmap_get(&p->svc->instances, id);
    return i && i->producer == p ? i : NULL;
}
