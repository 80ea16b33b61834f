/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The consumer endpoint: turns requests into calls on its session and answers them. A consumer is
 * trusted more than a producer, but what it sends is still checked: configs and requests that do
 * not parse are rejected, and nothing it keeps grows without a bound. The endpoint owns its pending
 * requests and names its session by id, since a session may end without it (R19).
 *
 * Invariant: every request is answered once; one that is replaced by a newer of its kind is
 * rejected at that moment (ipc.md R60), and a disconnect answers the rest by leaving.
 */
#include "svc/consumer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/statequery.h"

#define READ_BATCH   32768                         /* bytes, R103 */
#define READ_LONG_NS (DEFAULTS_TASK_BUDGET_NS / 4) /* after such a step others have their turn */

/* Largest result message that still fits a frame with its envelope (ipc.md R30). */
#define REPLY_MAX 130944

/* Observable events leave early when they reach this; they may grow to twice as much. */
#define EVENTS_MAX 100000

static const struct mailbox_limits mailbox_limits = {
    .max_count = 1u << 16,
    .max_bytes = 16u << 20,
    .when_full = MAILBOX_REFUSE_NEW,
};

/* Bytes of requests in the mailbox: the transport stops reading above HIGH, and goes on below LOW,
 * so that the mailbox never gets full and MSG_C_BYE always finds room. */
#define QUEUE_HIGH (1u << 20)
#define QUEUE_LOW  (256u << 10)

struct session *consumer_session(const struct consumer *c)
{
    return c->session ? service_session(c->svc, c->session) : NULL;
}

/* ---- answers ---- */

void consumer_result(struct consumer *c, uint64_t cookie, bool ok)
{
    msg_post_result(c->svc->reactor, c->port, c->actor.id, MSG_CP_REPLY, cookie, ok);
}

static void reply_part(struct consumer *c, uint64_t cookie, struct bytesbuf *body, bool more)
{
    struct msg_body m;
    if (body->failed) {
        consumer_result(c, cookie, false);
        return;
    }
    m.p = bytesbuf_take(body, &m.n);
    msg_post_reply(c->svc->reactor, c->port, c->actor.id, cookie, m, more);
}

void consumer_reply(struct consumer *c, uint64_t cookie, struct bytesbuf *body)
{
    reply_part(c, cookie, body, false);
}

/* Puts a new request into its slot; the one that was there is rejected. */
static void replace(struct consumer *c, uint64_t *slot, uint64_t cookie)
{
    consumer_result(c, *slot, false);
    *slot = cookie;
}

void consumer_tell_end(struct consumer *c, uint64_t cookie, const char *error)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    bytesbuf_pb_varint(&b, PBF_EnableTracingResponse_disabled, 1);
    if (error[0])
        bytesbuf_pb_str(&b, PBF_EnableTracingResponse_error, error);
    consumer_reply(c, cookie, &b);
    bytesbuf_fini(&b);
}

void consumer_tell_disabled(struct consumer *c, const char *error)
{
    uint64_t cookie = c->enable_cookie;
    c->enable_cookie = 0;
    consumer_tell_end(c, cookie, error);
}

/* ---- life of the session ---- */

/* EnableTracing is refused. */
static void refuse(struct consumer *c, int err, char *why, size_t whylen)
{
    c->svc->count.sessions_refused++;
    if (!why[0])
        snprintf(why, whylen, "the service cannot start a session: %s", err_text(err));
    log_info("session of uid %u pid %d is refused: %s", (unsigned)c->uid, (int)c->pid, why);
    consumer_tell_disabled(c, why);
}

/* Takes all three. */
static void enable(struct consumer *c, struct tracecfg *cfg, int fd, struct filewr *file)
{
    char why[TRACECFG_WHY_MAX];
    struct session *s;
    int err = session_enable(c, cfg, fd, file, &s, why, sizeof(why));
    if (err)
        refuse(c, err, why, sizeof(why));
}

/* The file is made, or it cannot be. */
static void on_made(void *arg, struct filewr *file)
{
    struct consumer *c = arg;
    struct tracecfg *cfg = c->opening;
    char why[TRACECFG_WHY_MAX];
    c->opening = NULL;
    c->opening_file = NULL;
    if (filewr_state(file) == FILEWR_OPEN) {
        enable(c, cfg, -1, file);
    } else {
        session_file_explain(cfg, filewr_error(file), filewr_why(file), why, sizeof(why));
        refuse(c, ERR_BAD_CONFIG, why, sizeof(why));
        filewr_free(file);
        tracecfg_free(cfg);
    }
    consumer_go_on(c);
}

/* A disk may take its time for this. Takes cfg. */
static void make_file(struct consumer *c, struct tracecfg *cfg)
{
    char why[TRACECFG_WHY_MAX];
    int err = session_check(c, cfg, why, sizeof(why));
    if (!err)
        err = session_file_create(c->svc, c->uid, cfg, on_made, c, &c->opening_file, why,
                                  sizeof(why));
    if (err) {
        tracecfg_free(cfg);
        refuse(c, err, why, sizeof(why));
        return;
    }
    c->opening = cfg;
}

static void on_enable(struct consumer *c, void *payload)
{
    struct msg_enable *m = payload;
    struct tracecfg *cfg = NULL;
    if (m->attach_only) { /* R190 */
        replace(c, &c->enable_cookie, m->cookie);
        return;
    }
    int err = tracecfg_new(msg_body_view(&m->body), &cfg);
    if (err) {
        consumer_result(c, m->cookie, false);
        return;
    }
    replace(c, &c->enable_cookie, m->cookie);
    if (cfg->write_into_file && cfg->output_path.n) {
        make_file(c, cfg); /* a descriptor is not used then (R160) */
        return;
    }
    int fd = m->fd;
    m->fd = -1;
    enable(c, cfg, fd, NULL);
}

static void on_start(struct consumer *c, void *payload)
{
    const struct msg_request *m = payload;
    struct session *s = consumer_session(c);
    consumer_result(c, m->cookie, true);
    if (s)
        session_start(s);
}

static void on_change(struct consumer *c, void *payload)
{
    const struct msg_request *m = payload;
    struct session *s = consumer_session(c);
    struct tracecfg *cfg;
    if (tracecfg_new(msg_body_view(&m->body), &cfg)) {
        consumer_result(c, m->cookie, false);
        return;
    }
    consumer_result(c, m->cookie, true);
    if (s)
        session_change(s, cfg);
    tracecfg_free(cfg);
}

static void on_disable(struct consumer *c, void *payload)
{
    const struct msg_request *m = payload;
    struct session *s = consumer_session(c);
    consumer_result(c, m->cookie, true);
    if (s)
        session_disable(s, NULL);
}

static void on_free(struct consumer *c, void *payload)
{
    const struct msg_request *m = payload;
    struct session *s = consumer_session(c);
    consumer_result(c, m->cookie, true); /* before the notification (R36) */
    if (s)
        session_free(s, NULL);
}

static void on_flush(struct consumer *c, void *payload)
{
    const struct msg_flush_request *m = payload;
    struct session *s = consumer_session(c);
    if (s)
        session_flush_request(s, m->cookie, m->timeout_ms, m->flags);
    else /* R98 leaves it open for ever; a rejection means the same to every client */
        consumer_result(c, m->cookie, false);
}

static void on_detach(struct consumer *c, void *payload) /* R186, R187 */
{
    const struct msg_request *m = payload;
    struct bytes_view key = msg_body_view(&m->body);
    struct session *s = consumer_session(c);
    bool ok = s && key.n && !session_detached(c->svc, s->uid, key);
    if (ok) {
        session_detach(s, key);
        c->session = 0;
    }
    consumer_result(c, m->cookie, ok);
}

static void on_attach(struct consumer *c, void *payload) /* R189 */
{
    const struct msg_request *m = payload;
    struct session *s = session_detached(c->svc, c->uid, msg_body_view(&m->body));
    if (consumer_session(c) || !s) {
        consumer_result(c, m->cookie, false);
        return;
    }
    session_attach(s, c->actor.id);
    c->session = s->id;
    struct bytesbuf b;
    bytesbuf_init(&b, s->cfg->raw_len + 16);
    bytesbuf_pb_bytes(&b, PBF_AttachResponse_trace_config, s->cfg->raw, s->cfg->raw_len);
    consumer_reply(c, m->cookie, &b);
    bytesbuf_fini(&b);
}

/* ---- reading (7.1) ---- */

/* Takes packets to the consumer's sink. */
struct reader {
    struct packet_sink base; /* first: put gets it back */
    struct consumer *c;      /* borrow */
};

static int put_packet(struct packet_sink *sink, const struct packet *pkt)
{
    struct reader *r = (struct reader *)(void *)sink;
    const struct service_sink *to = r->c->sink;
    return to->packet(to->arg, r->c->port, r->c->read_cookie, pkt);
}

static void end_batch(struct consumer *c, bool more)
{
    uint64_t cookie = c->read_cookie;
    if (!more)
        c->read_cookie = 0;
    c->sink->flush(c->sink->arg, c->port, cookie, more);
}

static void read_step(struct consumer *c)
{
    struct session *s = consumer_session(c);
    struct reader r = {{put_packet}, c};
    struct msg_empty step = {0};
    bool more = false;
    if (!s || session_read_empty(s)) {
        end_batch(c, false);
        return;
    }
    if (s->making || !consumer_has_room(c)) {
        c->read_waits = true;
        return;
    }
    uint64_t begun = chrono_mono_ns();
    int err = session_read_batch(s, READ_BATCH, &r.base, &more);
    if (session_read_is_long(s) || chrono_mono_ns() - begun > READ_LONG_NS)
        actor_yield(&c->actor);
    if (err)
        log_debug("consumer pid %d: a read ends early: %s", (int)c->pid, err_text(err));
    end_batch(c, more && !err);
    if (c->read_cookie && !c->reading) {
        c->reading = true;
        ACTOR_POST(c->svc->reactor, c->actor.id, c->actor.id, MSG_C_STEP, &step);
    }
}

static void on_read(struct consumer *c, void *payload)
{
    const struct msg_request *m = payload;
    struct session *s = consumer_session(c);
    replace(c, &c->read_cookie, m->cookie);
    if (s)
        session_read_rewind(s);
    if (c->read_cookie && !c->reading && !c->read_waits)
        read_step(c);
}

static void on_step(struct consumer *c, void *payload)
{
    (void)payload;
    c->reading = false;
    if (c->read_cookie && !c->read_waits)
        read_step(c);
}

static void on_read_room(struct consumer *c, void *payload)
{
    struct session *s = consumer_session(c);
    (void)payload;
    if (s)
        session_walk_room(s);
    if (c->query_waits)
        task_wake(&c->work);
    c->query_waits = false;
    if (!c->read_waits)
        return;
    c->read_waits = false;
    if (c->read_cookie && !c->reading)
        read_step(c);
}

/* ---- queries ---- */

static void on_stats(struct consumer *c, void *payload)
{
    const struct msg_request *m = payload;
    struct session *s = consumer_session(c);
    struct bytesbuf stats, b;
    if (!s) {
        consumer_result(c, m->cookie, false);
        return;
    }
    bytesbuf_init(&stats, 16u << 20);
    bytesbuf_init(&b, 16u << 20);
    session_read_stats(s, &stats, REPLY_MAX - 16);
    bytesbuf_pb_bytes(&b, PBF_GetTraceStatsResponse_trace_stats, stats.p, stats.n);
    b.failed |= stats.failed;
    consumer_reply(c, m->cookie, &b);
    bytesbuf_fini(&stats);
    bytesbuf_fini(&b);
}

/* Makes a part of the answer, if its transport has room for it. True when the answer is over, or
 * waits for room. */
static bool query_step(struct consumer *c, struct task_budget *budget)
{
    struct bytesbuf part = {0};
    if (!consumer_has_room(c)) {
        c->query_waits = true;
        return true;
    }
    enum statequery_result r = statequery_step(&c->query, budget, &part);
    if (r == STATEQUERY_AGAIN)
        return false;
    if (r == STATEQUERY_FAILED)
        consumer_result(c, c->query_cookie, false);
    else
        reply_part(c, c->query_cookie, &part, r == STATEQUERY_PART);
    bytesbuf_fini(&part);
    if (r != STATEQUERY_PART)
        statequery_end(&c->query);
    return r != STATEQUERY_PART;
}

static void on_query(struct consumer *c, void *payload)
{
    const struct msg_query *m = payload;
    struct task_budget first = task_at_once(c->svc->reactor);
    if (c->gone)
        return;
    c->query_cookie = m->cookie;
    statequery_begin(&c->query, c->svc, c->uid, m->sessions_only);
    if (!query_step(c, &first))
        task_wake(&c->work);
}

static void on_capabilities(struct consumer *c, void *payload) /* R207 */
{
    static const uint8_t events[] = {CONSUMER_INSTANCES, CONSUMER_ALL_STARTED,
                                     CONSUMER_CLONE_TRIGGER};
    const struct msg_request *m = payload;
    struct bytesbuf b;
    bytesbuf_init(&b, 256);
    size_t mark = bytesbuf_pb_begin(&b, PBF_QueryCapabilitiesResponse_capabilities);
    bytesbuf_pb_varint(&b, PBF_TracingServiceCapabilities_has_query_capabilities, 1);
    for (size_t i = 0; i < sizeof(events); i++)
        bytesbuf_pb_varint(&b, PBF_TracingServiceCapabilities_observable_events, events[i]);
    bytesbuf_pb_varint(&b, PBF_TracingServiceCapabilities_has_trace_config_output_path, 1);
    bytesbuf_pb_varint(&b, PBF_TracingServiceCapabilities_has_clone_session, 1);
    bytesbuf_pb_end(&b, mark);
    consumer_reply(c, m->cookie, &b);
    bytesbuf_fini(&b);
}

static void on_save_trace(struct consumer *c, void *payload)
{
    const struct msg_request *m = payload;
    struct bytesbuf b;
    bytesbuf_init(&b, 256);
    bytesbuf_pb_varint(&b, PBF_SaveTraceForBugreportResponse_success, 0);
    bytesbuf_pb_str(&b, PBF_SaveTraceForBugreportResponse_msg,
                    "SaveTraceForBugreport is deprecated. Use CloneSession(kBugreportSessionId) "
                    "instead."); /* the text is part of the protocol, ipc.md section 12 */
    consumer_reply(c, m->cookie, &b);
    bytesbuf_fini(&b);
}

static void on_clone(struct consumer *c, void *payload)
{
    struct msg_enable *m = payload;
    int fd = m->fd;
    m->fd = -1;
    replace(c, &c->clone_cookie, m->cookie);
    session_clone_forget(c);
    session_clone_request(c, msg_body_view(&m->body), fd);
}

/* ---- observing (12.4) ---- */

static void send_events(void *arg)
{
    struct consumer *c = arg;
    reactor_slice_is(c->svc->reactor, "events to a consumer");
    c->events_due = false;
    if (c->events.n && c->observe_cookie) {
        struct bytesbuf b;
        bytesbuf_init(&b, c->events.n + 16);
        bytesbuf_pb_bytes(&b, PBF_ObserveEventsResponse_events, c->events.p, c->events.n);
        reply_part(c, c->observe_cookie, &b, true);
        bytesbuf_fini(&b);
    }
    bytesbuf_clear(&c->events);
    c->events_hit = false;
}

/* Something was added: it leaves in the next tick, with all that comes until then (R198). */
static void events_added(struct consumer *c)
{
    if (c->events.n >= EVENTS_MAX) {
        send_events(c);
        return;
    }
    if (!c->events_due)
        reactor_defer(c->svc->reactor, send_events, c);
    c->events_due = true;
}

static void on_observe(struct consumer *c, void *payload) /* ipc.md R105 */
{
    const struct msg_observe *m = payload;
    struct session *s = consumer_session(c);
    consumer_result(c, c->observe_cookie, true);
    c->observe_cookie = m->cookie;
    c->observed = m->mask;
    if (m->mask == 0) {
        consumer_result(c, c->observe_cookie, true);
        c->observe_cookie = 0;
    } else if (s) {
        session_observe(s, m->mask);
    }
}

void consumer_tell_instance(struct consumer *c, struct bytes_view producer, struct bytes_view name,
                            bool started)
{
    struct bytesbuf *b = &c->events;
    if (b->n + producer.n + name.n > EVENTS_MAX)
        send_events(c);
    size_t mark = bytesbuf_pb_begin(b, PBF_ObservableEvents_instance_state_changes);
    bytesbuf_pb_bytes(b, PBF_ObservableEvents_DataSourceInstanceStateChange_producer_name,
                      producer.p, producer.n);
    bytesbuf_pb_bytes(b, PBF_ObservableEvents_DataSourceInstanceStateChange_data_source_name,
                      name.p, name.n);
    bytesbuf_pb_varint(b, PBF_ObservableEvents_DataSourceInstanceStateChange_state,
                       started ? 2 : 1); /* R197 */
    bytesbuf_pb_end(b, mark);
    events_added(c);
}

void consumer_tell_all_started(struct consumer *c)
{
    bytesbuf_pb_varint(&c->events, PBF_ObservableEvents_all_data_sources_started, 1);
    events_added(c);
}

void consumer_tell_clone_trigger(struct consumer *c, const struct consumer_trigger_hit *hit)
{
    struct bytesbuf *b = &c->events;
    if (c->events_hit) /* the field is not repeated: one hit per message */
        send_events(c);
    size_t mark = bytesbuf_pb_begin(b, PBF_ObservableEvents_clone_trigger_hit);
    bytesbuf_pb_varint(b, PBF_ObservableEvents_CloneTriggerHit_tracing_session_id, hit->session);
    bytesbuf_pb_bytes(b, PBF_ObservableEvents_CloneTriggerHit_trigger_name, hit->trigger.p,
                      hit->trigger.n);
    bytesbuf_pb_bytes(b, PBF_ObservableEvents_CloneTriggerHit_producer_name, hit->producer.p,
                      hit->producer.n);
    bytesbuf_pb_varint(b, PBF_ObservableEvents_CloneTriggerHit_producer_uid, hit->uid);
    bytesbuf_pb_varint(b, PBF_ObservableEvents_CloneTriggerHit_boot_time_ns, hit->boot_ns);
    bytesbuf_pb_varint(b, PBF_ObservableEvents_CloneTriggerHit_trigger_delay_ms, hit->delay_ms);
    bytesbuf_pb_end(b, mark);
    c->events_hit = true;
    events_added(c);
}

/* ---- messages ---- */

/* Its transport sent more than may wait, BYE perhaps among it. */
static void drop(struct consumer *c, int err)
{
    struct msg_close m = {.err = ERR_QUOTA, .why = "its transport sent more than may wait"};
    log_warn_limited("consumer pid %d is dropped: %s", (int)c->pid, err_text(err));
    ACTOR_POST(c->svc->reactor, c->port, c->actor.id, MSG_CP_CLOSE, &m);
}

static void on_bye(struct consumer *c, void *payload) /* R185 */
{
    struct session *s = consumer_session(c);
    (void)payload;
    if (s)
        session_free(s, NULL);
    consumer_destroy(c);
}

typedef void handler(struct consumer *c, void *payload);

static handler *const handlers[MSG_KINDS] = {
    [MSG_C_ENABLE] = on_enable,
    [MSG_C_START] = on_start,
    [MSG_C_CHANGE] = on_change,
    [MSG_C_DISABLE] = on_disable,
    [MSG_C_READ] = on_read,
    [MSG_C_READ_ROOM] = on_read_room,
    [MSG_C_STEP] = on_step,
    [MSG_C_FREE] = on_free,
    [MSG_C_FLUSH] = on_flush,
    [MSG_C_DETACH] = on_detach,
    [MSG_C_ATTACH] = on_attach,
    [MSG_C_STATS] = on_stats,
    [MSG_C_OBSERVE] = on_observe,
    [MSG_C_QUERY] = on_query,
    [MSG_C_CAPABILITIES] = on_capabilities,
    [MSG_C_SAVE_TRACE] = on_save_trace,
    [MSG_C_CLONE] = on_clone,
    [MSG_C_BYE] = on_bye,
};

bool consumer_has_room(const struct consumer *c)
{
    return c->sink->room(c->sink->arg, c->port);
}

/* Bytes of requests that wait. */
static size_t backlog(const struct consumer *c)
{
    return mailbox_bytes(&c->actor.mailbox) + mailbox_bytes(&c->queue);
}

bool consumer_full(struct consumer *c)
{
    if (backlog(c) < QUEUE_HIGH)
        return false;
    c->want_room = true;
    return true;
}

static void tell_room(struct consumer *c)
{
    struct msg_empty m = {0};
    if (!c->want_room || backlog(c) > QUEUE_LOW)
        return;
    c->want_room = false;
    ACTOR_POST(c->svc->reactor, c->port, c->actor.id, MSG_CP_ROOM, &m);
}

static void take(struct consumer *c, struct mailbox_msg *m)
{
    handler *h = m->kind < MSG_KINDS ? handlers[m->kind] : NULL;
    if (h)
        h(c, m->data);
    else
        log_warn_limited("consumer pid %d: %s is not for it", (int)c->pid,
                         mailbox_kind_name(&msg_table, m->kind));
}

/* A request is not done yet that the next ones must see done: its file is being made, its answer,
 * or what it does to all instances of the session, goes on in slices. */
static bool busy(const struct consumer *c)
{
    const struct session *s = consumer_session(c);
    return c->opening || statequery_active(&c->query) || (s && session_is_walking(s));
}

/* These two drive answers that are on their way, and are no requests. */
static bool waits_for_nothing(uint16_t kind)
{
    return kind == MSG_C_STEP || kind == MSG_C_READ_ROOM;
}

/* Nobody reads on: what waits for that ends, so that the requests behind it get their turn. */
static void lose_reader(struct consumer *c)
{
    struct session *s = consumer_session(c);
    c->gone = true;
    statequery_end(&c->query);
    if (s && s->walk.kind == SESSION_WALK_REPORT)
        session_walk_cancel(s);
    task_wake(&c->work);
}

static void handle(struct actor *a, struct mailbox_msg *m)
{
    struct consumer *c = list_entry(a, struct consumer, actor);
    if (m->kind == MSG_C_BYE)
        lose_reader(c);
    if (m->kind == MSG_C_BYE && c->opening) { /* a file may take for ever */
        on_bye(c, m->data);
        return;
    }
    if (!waits_for_nothing(m->kind) && (mailbox_count(&c->queue) > 0 || busy(c))) {
        int err = mailbox_push(&c->queue, m->to, m->from, m->kind, m->data, m->size);
        msg_forget(m); /* the queue owns it now, whatever the result */
        if (err && m->kind == MSG_C_BYE)
            on_bye(c, m->data);
        else if (err)
            drop(c, err);
        return;
    }
    take(c, m);
    if (!a->dead)
        tell_room(c);
}

static enum task_result run_queue(void *arg, struct task_budget *budget)
{
    struct consumer *c = arg;
    struct mailbox_msg m;
    if (statequery_active(&c->query) && !query_step(c, budget))
        return TASK_AGAIN;
    while (!c->actor.dead && !busy(c) && mailbox_pop(&c->queue, &m)) {
        take(c, &m);
        mailbox_destroy_payload(&msg_table, m.kind, m.data);
        if (!task_spend_slow(budget, m.weight))
            break;
    }
    if (c->actor.dead)
        return TASK_DONE;
    tell_room(c);
    return mailbox_count(&c->queue) > 0 && !busy(c) ? TASK_AGAIN : TASK_DONE;
}

void consumer_go_on(struct consumer *c)
{
    if (mailbox_count(&c->queue) > 0)
        task_wake(&c->work);
}

static void reap(struct actor *a)
{
    struct consumer *c = list_entry(a, struct consumer, actor);
    bytesbuf_fini(&c->events);
    mailbox_fini(&c->queue);
    free(c);
}

static const struct actor_ops ops = {handle, reap};

int consumer_new(struct service *svc, const struct service_consumer *p, uint64_t *endpoint)
{
    struct consumer *c = alloc_new(struct consumer);
    char name[ACTOR_NAME_MAX];
    snprintf(name, sizeof(name), "consumer of pid %d", (int)p->pid);
    int err = actor_init(&c->actor, svc->reactor, name, &ops, &mailbox_limits);
    if (err) {
        free(c);
        return err;
    }
    c->svc = svc;
    c->port = p->port;
    c->uid = p->uid;
    c->pid = p->pid;
    c->sink = p->sink;
    bytesbuf_init(&c->events, 4 * EVENTS_MAX);
    mailbox_init(&c->queue, &msg_table, &mailbox_limits);
    task_init(&c->work, svc->reactor, "consumer queue", run_queue, c);
    list_push_back(&svc->consumers, &c->node);
    err = idmap_put(&svc->consumer_of, c->actor.id, c);
    if (err) {
        consumer_destroy(c);
        return err;
    }
    *endpoint = c->actor.id;
    return 0;
}

void consumer_destroy(struct consumer *c)
{
    if (c->actor.dead)
        return;
    reactor_undefer(c->svc->reactor, c);
    filewr_free(c->opening_file);
    c->opening_file = NULL;
    tracecfg_free(c->opening);
    c->opening = NULL;
    task_stop(&c->work);
    statequery_end(&c->query);
    session_clone_forget(c);
    idmap_del(&c->svc->consumer_of, c->actor.id);
    list_remove(&c->node);
    actor_kill(&c->actor);
}
