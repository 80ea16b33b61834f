/* SPDX-License-Identifier: Apache-2.0 */
/*
 * actor: ids, posting, and the mailbox step of the tick. The reactor's map knows the living by id
 * and owns none of them; an actor with messages is in one of two lists, ready or spent.
 *
 * Fairness: in one tick every actor handles at most its budget of messages, and gives up its turn
 * earlier when the turn has taken half a slice limit. Whoever has messages and no budget left waits
 * in the spent list, which becomes the ready list of the next tick. Messages posted during the step
 * to actors with budget left are still handled in this tick, so a chain of requests and answers
 * crosses the service in one tick when nobody floods it.
 *
 * The handler gets a copy on the stack: it may post to itself, which may move the ring.
 */
#include "reactor/actor.h"

#include "reactor/chrono.h"
#include "reactor/core.h"
#include "reactor/log.h"
#include "reactor/str.h"

#include <errno.h>
#include <inttypes.h>

/* The clock is looked at after so many messages of a turn: a look costs as much as a message. */
enum { MESSAGES_PER_LOOK = 4 };

static void reap_actor(void *arg)
{
    struct actor *a = arg;
    uint32_t left = mailbox_count(&a->mailbox);
    a->reactor->metrics[REACTOR_DROPPED_REAPED] += left;
    if (left != 0)
        log_debug("%s is gone with %" PRIu32 " messages unread", a->name, left);
    str_copy(a->reactor->reaped, sizeof(a->reactor->reaped), a->name);
    reactor_slice_is(a->reactor, a->reactor->reaped);
    a->mailbox.mark = NULL; /* nobody cares for the marks of a dead actor */
    mailbox_fini(&a->mailbox);
    if (a->ops->reap != NULL)
        a->ops->reap(a);
}

int actor_init(struct actor *a, struct reactor *r, const char *name, const struct actor_ops *ops,
               const struct mailbox_limits *limits)
{
    *a = (struct actor){.id = r->last_actor_id + 1, .reactor = r, .ops = ops};
    int err = idmap_put(&r->actors, a->id, a);
    if (err != 0)
        return err;
    r->last_actor_id++;
    str_copy(a->name, sizeof(a->name), name);
    mailbox_init(&a->mailbox, &r->table, limits);
    list_init(&a->ready);
    reactor_hook_init(&a->reap, "reap", reap_actor, a);
    return 0;
}

void actor_kill(struct actor *a)
{
    if (a->dead)
        return;
    a->dead = true;
    idmap_del(&a->reactor->actors, a->id);
    list_remove(&a->ready);
    reactor_reap_later(a->reactor, &a->reap);
}

void actor_yield(struct actor *a)
{
    a->left = 0;
}

void actor_on_mark(struct actor *a, mailbox_mark_cb *cb, void *arg)
{
    mailbox_on_mark(&a->mailbox, cb, arg);
}

bool actor_alive(const struct reactor *r, uint64_t id)
{
    return idmap_get(&r->actors, id) != NULL;
}

/* The payload of a message that nobody will get. */
static void destroy_undelivered(struct reactor *r, uint16_t kind, const void *payload, size_t size)
{
    struct mailbox nobody;
    mailbox_init(&nobody, &r->table, &(struct mailbox_limits){0});
    (void)mailbox_push(&nobody, 0, 0, kind, payload, size);
}

/* The actor has got its first message: it takes its turn behind those who wait already. */
static void make_ready(struct reactor *r, struct actor *a)
{
    if (a->turn != r->tick) {
        a->turn = r->tick;
        a->left = r->actor_budget;
    }
    list_push_back(a->left != 0 ? &r->ready : &r->spent, &a->ready);
}

static void __attribute__((cold))
post_failed(struct actor *a, uint64_t from, uint16_t kind, size_t size, int err)
{
    struct reactor *r = a->reactor;
    const char *name = mailbox_kind_name(&r->table, kind);
    if (err == -EINVAL) {
        log_error("message %s (kind %u, %zu bytes) to %s does not fit its type, dropped", name,
                  kind, size, a->name);
        return;
    }
    r->metrics[REACTOR_DROPPED_FULL]++;
    log_debug("mailbox of %s is full (%" PRIu32 " messages, %zu bytes): %s from %" PRIu64
              " dropped",
              a->name, mailbox_count(&a->mailbox), mailbox_bytes(&a->mailbox), name, from);
    if (err == -ENOBUFS && a->mailbox.limits.when_full == MAILBOX_KILL_OWNER) {
        log_warn_limited("%s does not keep up with its messages and is dropped", a->name);
        actor_kill(a);
    }
}

int actor_post(struct reactor *r, uint64_t to, uint64_t from, uint16_t kind, const void *payload,
               size_t size)
{
    struct actor *a = idmap_get(&r->actors, to);
    if (a == NULL) {
        r->metrics[REACTOR_DROPPED_DEAD]++;
        log_debug("message %s from %" PRIu64 " to dead actor %" PRIu64 " dropped",
                  mailbox_kind_name(&r->table, kind), from, to);
        destroy_undelivered(r, kind, payload, size);
        return -ESRCH;
    }
    uint64_t dropped = a->mailbox.dropped;
    int err = mailbox_push(&a->mailbox, to, from, kind, payload, size);
    if (err != 0) {
        post_failed(a, from, kind, size, err);
        return err;
    }
    r->metrics[REACTOR_DROPPED_FULL] += a->mailbox.dropped - dropped;
    /* The mark callback, called by the push, may have killed the actor. */
    if (list_empty(&a->ready) && !a->dead)
        make_ready(r, a);
    return 0;
}

/* One turn: messages of one actor until its budget, its mailbox or its time is at an end. The
 * actor is in no list meanwhile, or has been put into one by a post to itself. */
static void take_turn(struct reactor *r, struct actor *a)
{
    struct mailbox_msg m;
    uint32_t handled = 0;
    uint16_t kind = 0;
    while (a->left != 0 && !a->dead && mailbox_pop(&a->mailbox, &m)) {
        a->left--;
        handled++;
        kind = m.kind;
        a->ops->handle(a, &m);
        mailbox_destroy_payload(&r->table, m.kind, m.data);
        if (handled % MESSAGES_PER_LOOK == 0 &&
            chrono_mono_ns() - r->slices.start > r->slices.limit_ns / 2)
            a->left = 0;
    }
    r->metrics[REACTOR_MESSAGES] += handled;
    if (handled != 0) /* the one that made it long, if it was long */
        reactor_slice_is(r, mailbox_kind_name(&r->table, kind));
    core_slice_end(r, a->name);
}

void core_mailboxes_run(struct reactor *r)
{
    list_splice(&r->ready, &r->spent);
    list_for_each (pos, &r->ready) {
        struct actor *a = list_entry(pos, struct actor, ready);
        a->turn = r->tick;
        a->left = r->actor_budget;
    }
    core_slice_begin(r); /* each turn's end is the next one's beginning */
    struct list *node = NULL;
    while ((node = list_pop_front(&r->ready)) != NULL) {
        struct actor *a = list_entry(node, struct actor, ready);
        take_turn(r, a);
        if (a->dead)
            continue;
        list_remove(&a->ready);
        if (mailbox_count(&a->mailbox) != 0)
            list_push_back(a->left != 0 ? &r->ready : &r->spent, &a->ready);
    }
}
