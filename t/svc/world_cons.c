/* SPDX-License-Identifier: Apache-2.0 */
/* The fake consumers of t/svc, and what they read: see world.h. */
#include "t/svc/world.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "svc/packet.h"

static const struct mailbox_limits wide = {
    .max_count = 1u << 20, .max_bytes = 1u << 30, .when_full = MAILBOX_REFUSE_NEW};

/* ---- consumers ---- */

static void free_pkts(struct cons *c)
{
    for (size_t i = 0; i < c->npkts; i++)
        free(c->pkts[i].p);
    free(c->pkts);
    c->pkts = NULL;
    c->npkts = 0;
}

static void hear_enable(struct cons *c, const struct msg_reply *m)
{
    c->disabled = m->ok;
    c->enable_rejected = !m->ok;
    c->error[0] = '\0';
    if (m->ok && !msg_num(m->body.p, m->body.n, PBF_EnableTracingResponse_disabled, 0))
        strcpy(c->error, "a reply without disabled=true");
    strncat(c->error, msg_str(m->body.p, m->body.n, PBF_EnableTracingResponse_error), 500);
}

static void cons_handle(struct actor *a, struct mailbox_msg *m)
{
    struct cons *c = list_entry(a, struct cons, actor);
    const struct msg_reply *r = (const struct msg_reply *)(const void *)m->data;
    if (m->kind != MSG_CP_REPLY)
        return;
    c->nheard++;
    if (r->cookie == c->enable_cookie) {
        c->disabled_at = c->nheard;
        hear_enable(c, r);
    } else if (r->cookie == c->observe_cookie) {
        struct bytes_view e = msg_part(r->body.p, r->body.n, PBF_ObserveEventsResponse_events, 0);
        bytesbuf_put(&c->events, e.p, e.n);
        c->nevents += e.n > 0;
        c->observe_done |= !r->more;
    } else if (r->cookie == c->reply_cookie) {
        c->reply_ok = r->ok;
        c->replied = !r->more;
        c->replied_at = c->nheard;
        c->reply_parts++;
        bytesbuf_put(&c->reply, r->body.p, r->body.n);
    }
}

static void cons_reap(struct actor *a)
{
    struct cons *c = list_entry(a, struct cons, actor);
    free_pkts(c);
    bytesbuf_fini(&c->reply);
    bytesbuf_fini(&c->events);
    free(c);
}

static const struct actor_ops cons_ops = {cons_handle, cons_reap};

/* The sink finds its consumer through the world, by actor id. */
static struct cons *sink_of(void *arg, uint64_t port)
{
    struct world *w = arg;
    list_for_each (it, &w->peers) {
        struct cons *c = list_entry(it, struct cons, node);
        if (c->actor.id == port)
            return c;
    }
    return NULL;
}

static int sink_packet(void *arg, uint64_t port, uint64_t cookie, const struct packet *pkt)
{
    struct cons *c = sink_of(arg, port);
    (void)cookie;
    if (!c)
        return 1;
    if (pkt->continues && c->npkts == 0)
        return 0; /* of a read that was replaced */
    if (!pkt->continues) {
        c->pkts = alloc_resize(c->pkts, c->npkts + 1, sizeof(*c->pkts));
        c->pkts[c->npkts++] = (struct pkt){alloc_zero(pkt->size + pkt->follows), 0};
    }
    struct pkt *p = &c->pkts[c->npkts - 1];
    size_t before = p->n;
    c->pieces += pkt->continues;
    for (size_t i = 0; i < pkt->nparts; i++) {
        memcpy(p->p + p->n, pkt->parts[i].iov_base, pkt->parts[i].iov_len);
        p->n += pkt->parts[i].iov_len;
    }
    cr_assert_eq(p->n, before + pkt->size);
    return 0;
}

static int sink_flush(void *arg, uint64_t port, uint64_t cookie, bool more)
{
    struct cons *c = sink_of(arg, port);
    if (c && cookie == c->cookie) {
        c->batches++;
        c->read_done |= !more;
    }
    return 0;
}

static bool sink_room(void *arg, uint64_t port)
{
    struct cons *c = sink_of(arg, port);
    if (!c || c->room_batches == SIZE_MAX)
        return true;
    c->full = c->room_batches == 0;
    c->room_batches -= c->room_batches > 0;
    return !c->full;
}

struct cons *cons_new(struct world *w, uint32_t uid)
{
    static struct service_sink sink;
    sink = (struct service_sink){sink_packet, sink_flush, sink_room, w};
    struct cons *c = alloc_new(struct cons);
    c->w = w;
    c->room_batches = SIZE_MAX;
    bytesbuf_init(&c->reply, 64u << 20);
    bytesbuf_init(&c->events, 16u << 20);
    cr_assert_eq(actor_init(&c->actor, w->reactor, "consumer", &cons_ops, &wide), 0);
    const struct service_consumer params = {
        .port = c->actor.id, .uid = uid, .pid = 99, .sink = &sink};
    cr_assert_eq(service_add_consumer(w->svc, &params, &c->endpoint), 0);
    list_push_back(&w->peers, &c->node);
    return c;
}

static void cons_post(struct cons *c, enum msg_kind kind, const void *payload, size_t size)
{
    actor_post(c->w->reactor, c->endpoint, c->actor.id, (uint16_t)kind, payload, size);
    world_settle(c->w);
}

void cons_bye(struct cons *c)
{
    struct world *w = c->w;
    struct msg_empty m = {0};
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_BYE, &m);
    list_remove(&c->node);
    actor_kill(&c->actor);
    world_settle(w);
}

bool cons_enable_fd(struct cons *c, const struct bytesbuf *cfg, int fd)
{
    struct msg_enable m = {.cookie = ++c->cookie, .fd = fd};
    cr_assert_not(cfg->failed);
    cr_assert_eq(msg_body_copy(&m.body, cfg->p, cfg->n), 0);
    c->enable_cookie = c->cookie;
    c->disabled = c->enable_rejected = false;
    cons_post(c, MSG_C_ENABLE, &m, sizeof(m));
    return !c->disabled && !c->enable_rejected;
}

bool cons_enable(struct cons *c, const struct bytesbuf *cfg)
{
    return cons_enable_fd(c, cfg, -1);
}

void cons_enable_attach(struct cons *c)
{
    struct msg_enable m = {.cookie = ++c->cookie, .fd = -1, .attach_only = true};
    c->enable_cookie = c->cookie;
    c->disabled = c->enable_rejected = false;
    cons_post(c, MSG_C_ENABLE, &m, sizeof(m));
}

static uint64_t new_request(struct cons *c)
{
    c->reply_cookie = ++c->cookie;
    c->reply_ok = c->replied = false;
    c->reply_parts = 0;
    bytesbuf_clear(&c->reply);
    return c->cookie;
}

bool cons_ask_body(struct cons *c, enum msg_kind kind, const void *body, size_t len)
{
    struct msg_request m = {.cookie = new_request(c)};
    cr_assert_eq(msg_body_copy(&m.body, body, len), 0);
    cons_post(c, kind, &m, sizeof(m));
    return c->replied && c->reply_ok;
}

bool cons_ask(struct cons *c, enum msg_kind kind)
{
    return cons_ask_body(c, kind, NULL, 0);
}

void cons_flush_begin(struct cons *c, uint32_t timeout_ms, uint64_t flags)
{
    struct msg_flush_request m = {
        .cookie = new_request(c), .flags = flags, .timeout_ms = timeout_ms};
    cons_post(c, MSG_C_FLUSH, &m, sizeof(m));
}

void cons_observe(struct cons *c, uint32_t mask)
{
    struct msg_observe m = {.cookie = ++c->cookie, .mask = mask};
    c->observe_cookie = c->cookie;
    c->observe_done = false;
    c->nevents = 0;
    bytesbuf_clear(&c->events);
    cons_post(c, MSG_C_OBSERVE, &m, sizeof(m));
}

bool cons_query(struct cons *c, bool sessions_only)
{
    struct msg_query m = {.cookie = new_request(c), .sessions_only = sessions_only};
    cons_post(c, MSG_C_QUERY, &m, sizeof(m));
    return c->replied && c->reply_ok;
}

void cons_clone(struct cons *c, const struct bytesbuf *request, int fd)
{
    struct msg_enable m = {.cookie = new_request(c), .fd = fd};
    cr_assert_eq(msg_body_copy(&m.body, request->p, request->n), 0);
    cons_post(c, MSG_C_CLONE, &m, sizeof(m));
}

size_t cons_read(struct cons *c)
{
    struct msg_request m = {.cookie = ++c->cookie};
    free_pkts(c);
    c->read_done = false;
    c->batches = 0;
    cons_post(c, MSG_C_READ, &m, sizeof(m));
    return c->npkts;
}

/* ---- packets ---- */

uint64_t pkt_num(const struct pkt *p, uint32_t field, uint64_t absent)
{
    return p ? msg_num(p->p, p->n, field, absent) : absent;
}

uint64_t pkt_sub(const struct pkt *p, uint32_t field, uint32_t sub, uint64_t absent)
{
    struct bytes_view v = p ? msg_part(p->p, p->n, field, 0) : bytes_view(NULL, 0);
    return msg_num(v.p, v.n, sub, absent);
}

const char *cons_text(const struct cons *c, size_t nth)
{
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view v = msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_for_testing, 0);
        if (v.n && nth-- == 0)
            return msg_str(v.p, v.n, 1);
    }
    return NULL;
}

size_t cons_texts(const struct cons *c)
{
    return cons_count(c, PBF_TracePacket_for_testing);
}

bool cons_has(const struct cons *c, const char *text)
{
    const char *t;
    for (size_t i = 0; (t = cons_text(c, i)) != NULL; i++) {
        if (strcmp(t, text) == 0)
            return true;
    }
    return false;
}

size_t cons_count(const struct cons *c, uint32_t field)
{
    size_t n = 0;
    for (size_t i = 0; i < c->npkts; i++)
        n += msg_fields(c->pkts[i].p, c->pkts[i].n, field) > 0;
    return n;
}

const struct pkt *cons_pkt(const struct cons *c, uint32_t field, size_t nth)
{
    for (size_t i = 0; i < c->npkts; i++) {
        if (msg_fields(c->pkts[i].p, c->pkts[i].n, field) && nth-- == 0)
            return &c->pkts[i];
    }
    return NULL;
}

size_t cons_events(const struct cons *c, uint32_t kind)
{
    size_t n = 0;
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view v =
            msg_part(c->pkts[i].p, c->pkts[i].n, PBF_TracePacket_service_event, 0);
        n += msg_fields(v.p, v.n, kind) > 0;
    }
    return n;
}
