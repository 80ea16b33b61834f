/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a session: made by EnableTracing, started, stopped, destroyed (service.md section 1).
 * The state is changed by session_enter alone, along the edges of table L. A session that is freed
 * while its file is still being written leaves the list of sessions at once, for everybody it is
 * gone, and dies when the file is complete ("leaving").
 *
 * It owns its config, buffers, instances, timers, flushes and file, and names its consumer by actor
 * id, which may have gone at any time. Nothing here reads or writes a packet.
 */
#include "svc/session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/consumer.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define FLAGS_TRACE_STOP 0x12 /* R90 */

/* Acks of many instances may wait at once; producers can post one each. */
static const struct mailbox_limits mailbox_limits = {
    .max_count = 1u << 20,
    .max_bytes = 16u << 20,
    .when_full = MAILBOX_REFUSE_NEW,
};

/* ---- the state machine ---- */

const char *session_state_name(enum session_state state)
{
    static const char *const names[] = {
#define SESSION_X(constant, name, number) name,
        SESSION_STATE_TABLE(SESSION_X)
#undef SESSION_X
    };
    return (unsigned)state < SESSION_STATES ? names[state] : "?";
}

uint32_t session_state_number(enum session_state state)
{
    static const uint8_t numbers[] = {
#define SESSION_X(constant, name, number) number,
        SESSION_STATE_TABLE(SESSION_X)
#undef SESSION_X
    };
    return (unsigned)state < SESSION_STATES ? numbers[state] : 0;
}

bool session_may_enter(enum session_state from, enum session_state to)
{
    /* DISABLED is the state of a new object, too (L1, L9); a clone ends in it (R35). */
    static const uint8_t to_states[SESSION_STATES] = {
        [SESSION_DISABLED] = 1 << SESSION_CONFIGURED | 1 << SESSION_CLONED,
        [SESSION_CONFIGURED] = 1 << SESSION_STARTED | 1 << SESSION_DISABLED,
        [SESSION_STARTED] = 1 << SESSION_STOP_WAIT | 1 << SESSION_DISABLED,
        [SESSION_STOP_WAIT] = 1 << SESSION_DISABLED,
        [SESSION_CLONED] = 1 << SESSION_DISABLED,
    };
    return (unsigned)from < SESSION_STATES && (unsigned)to < SESSION_STATES &&
           (to_states[from] >> to & 1);
}

void session_enter(struct session *s, enum session_state state)
{
    if (!session_may_enter(s->state, state)) {
        log_error("session %" PRIu64 ": no way from %s to %s; this is a bug", s->id,
                  session_state_name(s->state), session_state_name(state));
        return;
    }
    log_debug("session %" PRIu64 ": %s -> %s", s->id, session_state_name(s->state),
              session_state_name(state));
    s->state = state;
    s->state_since = chrono_boot_ns();
    list_for_each (it, &s->svc->sessions) { /* R135 (b) */
        struct session *other = list_entry(it, struct session, node);
        if (other != s && other->cfg->concurrent_session_events &&
            (other->state == SESSION_CONFIGURED || other->state == SESSION_STARTED ||
             other->state == SESSION_STOP_WAIT))
            session_event_concurrent(other, s, s->state_since);
    }
}

/* ---- messages ---- */

static void handle(struct actor *a, struct mailbox_msg *m)
{
    struct session *s = list_entry(a, struct session, actor);
    const struct msg_ack *ack = (const struct msg_ack *)(const void *)m->data;
    struct dsinst *i = idmap_get(&s->svc->instances, ack->id);
    if (m->kind == MSG_S_FLUSHED) {
        session_flush_acked(s, ack->producer, ack->since, ack->id);
        return;
    }
    if (!i || i->session != s)
        return;
    if (m->kind == MSG_S_STARTED && i->state == DSINST_STARTING && session_running(s)) { /* R25 */
        dsinst_enter(i, DSINST_STARTED);
        session_check_started(s);
    } else if (m->kind == MSG_S_STOPPED && i->state == DSINST_STOPPING) { /* R26 */
        dsinst_enter(i, DSINST_STOPPED);
        session_check_stopped(s);
    }
}

/* ---- making and unmaking ---- */

static void reap(struct actor *a)
{
    free(list_entry(a, struct session, actor));
}

static const struct actor_ops ops = {handle, reap};

int session_new(struct service *svc, uid_t uid, struct tracecfg *cfg, struct session **out)
{
    char name[ACTOR_NAME_MAX];
    struct session *s = alloc_new(struct session);
    snprintf(name, sizeof(name), "session %" PRIu64, svc->last_session + 1);
    if (actor_init(&s->actor, svc->reactor, name, &ops, &mailbox_limits)) {
        free(s);
        tracecfg_free(cfg);
        return -ENOMEM;
    }
    s->svc = svc;
    s->id = ++svc->last_session;
    s->uid = uid;
    s->cfg = cfg;
    s->state = SESSION_DISABLED;
    s->state_since = chrono_boot_ns();
    s->uuid_msb = cfg->uuid_msb;
    s->uuid_lsb = cfg->uuid_lsb;
    if (s->uuid_msb == 0 && s->uuid_lsb == 0) { /* R10 */
        s->uuid_msb = chrono_random_u64();
        s->uuid_lsb = chrono_random_u64();
    }
    list_init(&s->instances);
    dsinst_groups_init(s);
    list_init(&s->triggers);
    list_init(&s->trigger_clones);
    list_init(&s->clones);
    session_ids_init(&s->ids);
    bytesbuf_init(&s->scratch, 64u << 20);
    bytesbuf_init(&s->ending, 64u << 20);
    bytesbuf_init(&s->stats, 64u << 20);
    bytesbuf_init(&s->concurrent, 4u << 20);
    session_timers_init(s);
    session_clone_init(s);
    session_walk_init(s);
    session_flush_init(s);
    list_push_back(&svc->sessions, &s->node);
    *out = s;
    return 0;
}

static void free_instances(struct session *s)
{
    list_for_each_safe (it, tmp, &s->instances)
        dsinst_free(list_entry(it, struct dsinst, in_session));
}

void session_destroy(struct session *s)
{
    if (s->actor.dead)
        return;
    session_timers_cancel(s);
    session_walk_cancel(s);
    scrape_cancel(&s->scrape);
    session_flush_abort_all(s);
    session_clone_abort_all(s);
    session_clone_cancel(s);
    free_instances(s);
    session_file_free(s);
    session_release_buffers(s);
    session_trigger_free_all(s);
    session_event_free_all(s);
    session_read_free(s);
    prioboost_release(s->svc, &s->boost);
    filter_free(s->filter);
    if (s->compress)
        giveback_take(&s->svc->giveback, compress_free_some, s->compress);
    bytesbuf_fini(&s->concurrent);
    session_set_config(s, NULL);
    free(s->detach_key.p);
    free(s->error);
    list_remove(&s->node);
    actor_kill(&s->actor);
}

/* ---- buffers (V25) ---- */

int session_alloc_buffer(struct session *s, size_t index, bool writable, char *why, size_t whylen)
{
    struct service *svc = s->svc;
    const struct tracecfg_buffer *cfg = &s->cfg->buffers[index];
    struct session_buffer *b = &s->buffers[index];
    uint64_t size = (uint64_t)cfg->size_kb * 1024;
    uint32_t id = 0;
    b->session = s;
    b->index = (uint16_t)index;
    b->serial = ++svc->last_buffer;
    if (writable && idmap_ids_next(&svc->buffer_ids, &svc->buffers, &id)) {
        snprintf(why, whylen, "all buffer ids are in use; free another session first");
        return ERR_QUOTA;
    }
    if (cfg->size_kb == 0 || cfg->size_kb > DEFAULTS_MAX_BUFFER_KB) {
        snprintf(why, whylen, "Invalid buffer sizes: buffer %zu has size_kb %u; it must be 1 to %u",
                 index, cfg->size_kb, DEFAULTS_MAX_BUFFER_KB);
        return ERR_BAD_CONFIG;
    }
    int err = charge_take(svc->book, &b->charge, s->uid, CHARGE_BUFFER_BYTES, size);
    if (err == ERR_QUOTA)
        snprintf(why, whylen,
                 "buffer %zu of %u KB does not fit what uid %u may hold in trace buffers; ask for "
                 "less or free a session",
                 index, cfg->size_kb, (unsigned)s->uid);
    if (!err)
        err = tbuf_new(size, cfg->discard ? TBUF_DISCARD : TBUF_RING,
                       s->cfg->no_histograms ? TBUF_NO_HISTOGRAMS : 0, &b->tb);
    if (!err && writable)
        err = idmap_put(&svc->buffers, id, b);
    if (err == -ENOMEM)
        snprintf(why, whylen, "buffer %zu of %u KB cannot be allocated; ask for less", index,
                 cfg->size_kb);
    if (!err)
        b->id = (uint16_t)id;
    return err ? (err > 0 ? err : ERR_QUOTA) : 0;
}

int session_alloc_buffers(struct session *s, char *why, size_t whylen)
{
    s->buffers = alloc_array(s->cfg->nbuffers, sizeof(*s->buffers));
    s->nbuffers = s->cfg->nbuffers;
    for (size_t i = 0; i < s->nbuffers; i++) {
        int err = session_alloc_buffer(s, i, true, why, whylen);
        if (err)
            return err;
    }
    return 0;
}

void session_release_buffers(struct session *s)
{
    for (size_t i = 0; i < s->nbuffers; i++) {
        struct session_buffer *b = &s->buffers[i];
        if (b->id)
            idmap_del(&s->svc->buffers, b->id); /* what producers were allowed ends with it */
        if (b->tb)
            giveback_take(&s->svc->giveback, tbuf_free_some, b->tb);
        charge_release(&b->charge);
        charge_release(&b->vm_charge);
    }
    free(s->buffers);
    s->buffers = NULL;
    s->nbuffers = 0;
}

/* ---- EnableTracing (1.3) ---- */

static void apply_lockdown(struct service *svc, const struct tracecfg *cfg) /* R11 */
{
    if (cfg->lockdown_mode == 1)
        svc->lockdown = false;
    else if (cfg->lockdown_mode == 2)
        svc->lockdown = true;
}

/* V1 to V21; the filter is made on the way. */
static int check(struct consumer *c, const struct tracecfg *cfg, bool again, struct filter **filter,
                 char *why, size_t whylen)
{
    if (consumer_session(c)) {
        snprintf(why, whylen,
                 "this connection has a tracing session already; free its buffers first");
        return ERR_BAD_STATE;
    }
    if (!tracecfg_check(cfg, why, whylen))
        return ERR_BAD_CONFIG;
    int err = session_admit(c->svc, c->uid, cfg, again, why, whylen);
    if (!err && cfg->has_trace_filter)
        err = filter_new(cfg->trace_filter, filter, why, whylen);
    return err;
}

/* V22 to V25, with the session object made in between. Takes fd and file. */
static int build(struct session *s, int fd, struct filewr *file, char *why, size_t whylen)
{
    const struct tracecfg *cfg = s->cfg;
    enum compress_codec codec = compress_choose(cfg->want_zstd, cfg->want_deflate);
    int err = session_file_open(s, fd, file, why, whylen);
    if (!err)
        err = session_alloc_buffers(s, why, whylen);
    if (!err && codec != COMPRESS_NONE)
        err = compress_new(codec, cfg->zstd_level, &s->compress);
    return err;
}

static void tell_of_others(struct session *s) /* R135 (a) */
{
    list_for_each (it, &s->svc->sessions) {
        struct session *other = list_entry(it, struct session, node);
        if (other != s)
            session_event_concurrent(s, other, other->state_since);
    }
}

/* R17: everything is there; set up, arm, start. */
static void bring_up(struct session *s, struct consumer *c)
{
    if (s->cfg->concurrent_session_events)
        tell_of_others(s);
    s->consumer = c->actor.id;
    c->session = s->id;
    session_walk_begin(s, SESSION_WALK_SETUP);
    session_trigger_arm(s);
    session_enter(s, SESSION_CONFIGURED);
    if (!s->cfg->deferred_start && tracecfg_mode(s->cfg) != TRACECFG_START_TRACING)
        session_start(s);
}

int session_check(struct consumer *c, const struct tracecfg *cfg, char *why, size_t whylen)
{
    struct filter *filter = NULL;
    why[0] = '\0';
    apply_lockdown(c->svc, cfg);
    int err = check(c, cfg, false, &filter, why, whylen);
    filter_free(filter);
    return err;
}

int session_enable(struct consumer *c, struct tracecfg *cfg, int fd, struct filewr *file,
                   struct session **out, char *why, size_t whylen)
{
    struct filter *filter = NULL;
    struct session *s = NULL;
    struct prioboost boost = {0};
    why[0] = '\0';
    apply_lockdown(c->svc, cfg);
    int err = check(c, cfg, file != NULL, &filter, why, whylen);
    if (!err && c->svc->ending) { /* requests may have waited; nobody would end this one */
        snprintf(why, whylen, "the service is ending");
        err = -ESHUTDOWN;
    }
    if (!err && cfg->has_priority_boost)
        err = prioboost_take(c->svc, &boost, cfg->boost_policy, cfg->boost_priority, why, whylen);
    if (err) {
        tracecfg_free(cfg);
    } else {
        err = session_new(c->svc, c->uid, cfg, &s);
    }
    if (err) {
        prioboost_release(c->svc, &boost);
        filter_free(filter);
        filewr_free(file);
        if (fd >= 0)
            close(fd);
        return err;
    }
    prioboost_move(c->svc, &s->boost, &boost);
    s->filter = filter;
    err = build(s, fd, file, why, whylen);
    if (err) {
        session_destroy(s);
        return err;
    }
    bring_up(s, c);
    *out = s;
    return 0;
}

/* ---- StartTracing (1.4) ---- */

void session_start(struct session *s)
{
    if (s->state != SESSION_CONFIGURED || s->walk.kind == SESSION_WALK_STOP)
        return;
    session_enter(s, SESSION_STARTED);
    if (!s->cfg->no_clock_snapshots) {
        clocksnap_take(&s->initial_clocks);
        s->has_initial_clocks = true;
        s->initial_clocks_pending = true;
    }
    session_event_record(s, SELFPKT_TRACING_STARTED, false);
    deadline_cancel(&s->trigger_timeout);
    session_timers_start(s);
    if (s->file)
        session_file_start(s);
    if (s->walk.kind != SESSION_WALK_SETUP && s->walk.kind != SESSION_WALK_CHANGE)
        session_walk_begin(s, SESSION_WALK_START); /* else it follows */
}

void session_check_started(struct session *s)
{
    struct consumer *c = service_consumer_of(s->svc, s->consumer);
    bool walking = s->walk.kind != SESSION_WALK_NONE && s->walk.kind != SESSION_WALK_REPORT;
    if (s->all_started || !c || s->leaving || walking ||
        s->instances_in[DSINST_STARTED] != s->ninstances)
        return;
    s->all_started = true;
    session_event_record(s, SELFPKT_ALL_DATA_SOURCES_STARTED, true);
    if (c->observed & CONSUMER_ALL_STARTED)
        consumer_tell_all_started(c);
}

/* ---- stopping (1.6) ---- */

void session_notify_disabled(struct session *s)
{
    struct consumer *c = service_consumer_of(s->svc, s->consumer);
    const char *error = s->error ? s->error : "";
    if (c)
        consumer_tell_disabled(c, error);
    c = service_consumer_of(s->svc, s->farewell_to);
    if (c)
        consumer_tell_end(c, s->farewell, error);
    s->farewell_to = 0;
}

void session_stopped(struct session *s)
{
    s->settling = false;
    session_notify_disabled(s);
    if (s->leaving)
        session_destroy(s);
}

static void scraped(void *arg)
{
    struct session *s = arg;
    session_event_record(s, SELFPKT_TRACING_DISABLED, true);
    if (s->file)
        session_file_finish(s);
    else
        session_stopped(s);
}

void session_complete_stop(struct session *s)
{
    session_timers_cancel(s);
    session_walk_finish(s);
    list_for_each (it, &s->instances) {
        struct dsinst *i = list_entry(it, struct dsinst, in_session);
        if (i->state != DSINST_STOPPED)
            dsinst_enter(i, DSINST_STOPPED);
    }
    session_enter(s, SESSION_DISABLED);
    s->settling = true;
    scrape_start(&s->scrape, s, scraped, s);
}

void session_check_stopped(struct session *s)
{
    if (s->state == SESSION_STOP_WAIT && s->walk.kind != SESSION_WALK_STOP &&
        s->instances_in[DSINST_STOPPED] == s->ninstances)
        session_complete_stop(s);
}

void session_set_error(struct session *s, const char *error)
{
    if (error && error[0]) {
        free(s->error);
        s->error = alloc_strdup(error);
    }
}

void session_walked_stop(struct session *s)
{
    if (s->state == SESSION_CONFIGURED)
        session_complete_stop(s);
    else
        session_check_stopped(s);
}

void session_disable(struct session *s, const char *error)
{
    if (!session_takes_instances(s))
        return; /* R7 */
    session_set_error(s, error);
    deadline_cancel(&s->snapshot);
    deadline_cancel(&s->duration); /* it stops already: no final flush is due (Q3) */
    deadline_cancel(&s->trigger_stop);
    bool told = session_walk_begin(s, SESSION_WALK_STOP);
    if (told && s->instances_in[DSINST_STOPPED] == s->ninstances) {
        session_complete_stop(s);
    } else if (s->state == SESSION_STARTED) {
        session_enter(s, SESSION_STOP_WAIT);
        session_timers_arm_stop(s);
    }
}

static void final_flush_done(void *arg, struct session *s, uint64_t cookie, bool ok)
{
    (void)arg;
    (void)cookie;
    if (!s)
        return;
    s->final_flush_outcome = ok ? 1 : 2;
    if (s->consumer)
        session_disable(s, NULL);
    else
        session_free(s, NULL);
}

void session_flush_and_disable(struct session *s)
{
    session_flush_start(s, 0, FLAGS_TRACE_STOP, SESSION_FLUSH_ALL, final_flush_done, NULL, 0);
}

/* ---- FreeBuffers (R35) ---- */

/* Keeps what the answer to EnableTracing needs, and lets the consumer go. */
static void leave_consumer(struct session *s)
{
    struct consumer *c = service_consumer_of(s->svc, s->consumer);
    if (!c)
        return;
    if (c->session == s->id)
        c->session = 0;
    s->farewell = c->enable_cookie;
    s->farewell_to = c->actor.id;
    c->enable_cookie = 0;
    consumer_go_on(c);
}

/* Out of the list of sessions: for everybody it is gone. */
static void leave(struct session *s)
{
    s->leaving = true;
    session_timers_cancel(s);
    list_remove(&s->node);
    list_push_back(&s->svc->leaving, &s->node);
}

void session_walked_out(struct session *s)
{
    s->consumer = 0; /* until here it was told of its instances */
    if (!s->file) {
        session_notify_disabled(s);
        session_destroy(s);
        return;
    }
    if (!s->leaving)
        leave(s);
    if (s->settling)
        return;
    s->settling = true; /* the file gets the rest first (R171) */
    scrape_start(&s->scrape, s, scraped, s);
}

void session_free(struct session *s, const char *error)
{
    bool ended = s->state == SESSION_DISABLED && !s->settling;
    session_set_error(s, error);
    if (ended || s->state == SESSION_CLONED) {
        struct consumer *c = service_consumer_of(s->svc, s->consumer);
        if (c && c->session == s->id)
            c->session = 0;
        if (s->state == SESSION_CLONED)
            session_enter(s, SESSION_DISABLED);
        session_destroy(s);
        return;
    }
    bool told = session_walk_begin(s, SESSION_WALK_LEAVE);
    leave_consumer(s);
    session_flush_abort_all(s);
    session_clone_abort_all(s);
    if (!s->settling)
        session_enter(s, SESSION_DISABLED);
    if (told) {
        session_walked_out(s);
        return;
    }
    leave(s);
    if (!s->file)
        session_release_buffers(s); /* its owner may want another one at once */
}

/* ---- ChangeTraceConfig (12.3) ---- */

void session_set_config(struct session *s, struct tracecfg *cfg)
{
    dsinst_forget_configs(s);
    tracecfg_free(s->cfg);
    s->cfg = cfg;
}

void session_change(struct session *s, const struct tracecfg *cfg)
{
    struct tracecfg *changed;
    if (s->state != SESSION_CONFIGURED && s->state != SESSION_STARTED)
        return; /* R193 */
    if (tracecfg_change(s->cfg, cfg, &changed))
        return;
    session_set_config(s, changed);
    session_walk_begin(s, SESSION_WALK_CHANGE);
}

/* ---- Attach, Detach (12.1) ---- */

struct session *session_detached(struct service *svc, uid_t uid, struct bytes_view key)
{
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        if (!s->consumer && key.n && s->uid == uid &&
            bytes_equal(msg_body_view(&s->detach_key), key))
            return s;
    }
    return NULL;
}

void session_attach(struct session *s, uint64_t consumer)
{
    s->consumer = consumer;
    free(s->detach_key.p);
    s->detach_key = (struct msg_body){NULL, 0};
}

void session_detach(struct session *s, struct bytes_view key)
{
    if (msg_body_copy(&s->detach_key, key.p, key.n) == 0)
        s->consumer = 0;
}

void session_observe(struct session *s, uint32_t mask)
{
    if (mask & CONSUMER_INSTANCES)
        session_walk_begin(s, SESSION_WALK_REPORT);
    if (mask & CONSUMER_ALL_STARTED)
        session_check_started(s);
}
