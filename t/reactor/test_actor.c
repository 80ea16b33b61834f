/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/actor.h"

#include "reactor/chrono.h"
#include "reactor/log.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(actor, .timeout = 20);

enum { K_NOTE, K_OWNER, K_END };

struct note {
    uint64_t n;
};

struct owner {
    char *text; /* own */
};

static int destroyed;

static void owner_fini(void *payload)
{
    struct owner *o = payload;
    destroyed += o->text != NULL;
    free(o->text);
    o->text = NULL;
}

static const struct mailbox_kind kinds[K_END] = {
    [K_NOTE] = {"NOTE", sizeof(struct note), NULL, NULL},
    [K_OWNER] = {"OWNER", sizeof(struct owner), owner_fini, NULL},
};
static const struct reactor_opts opts = {.table = {kinds, K_END}, .actor_budget = 10};

/* What happened, in order: one character per event. */
static char story[4096];

static void tell(char c)
{
    size_t n = strlen(story);
    if (n + 1 < sizeof(story))
        story[n] = c;
}

struct who {
    struct actor actor;
    char mark;
    uint64_t handled;
    uint64_t last;
    uint64_t post_to; /* each message is passed on to this actor, unless 0 */
    bool kill_self;
    bool keep_text;
    char *kept;
    bool spend_time, yields;
    bool *reaped;
};

static void handle(struct actor *a, struct mailbox_msg *m)
{
    struct who *w = list_entry(a, struct who, actor);
    cr_assert_not(a->dead);
    w->handled++;
    tell(w->mark);
    if (m->kind == K_NOTE) {
        const struct note *n = (const void *)m->data;
        cr_assert_geq(n->n, w->last);
        w->last = n->n;
    } else if (w->keep_text) {
        struct owner *o = (void *)m->data;
        w->kept = o->text;
        o->text = NULL;
    }
    if (w->spend_time)
        chrono_virtual_advance(CHRONO_MS / 2);
    if (w->post_to != 0) {
        struct note n = {w->last};
        ACTOR_POST(a->reactor, w->post_to, a->id, K_NOTE, &n);
    }
    if (w->yields)
        actor_yield(a);
    if (w->kill_self)
        actor_kill(a);
}

static void reap(struct actor *a)
{
    struct who *w = list_entry(a, struct who, actor);
    *w->reaped = true;
    tell('!');
    free(w);
}

static const struct actor_ops ops = {handle, NULL};
static const struct actor_ops heap_ops = {handle, reap};

static void born(struct who *w, struct reactor *r, char mark)
{
    char name[] = {mark, '\0'};
    cr_assert_eq(actor_init(&w->actor, r, name, &ops, NULL), 0);
    w->mark = mark;
}

static int note(struct reactor *r, uint64_t to, uint64_t n)
{
    struct note v = {n};
    return ACTOR_POST(r, to, 0, K_NOTE, &v);
}

Test(actor, delivers_in_order_and_never_inside_post)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    born(&a, r, 'a');
    for (uint64_t i = 1; i <= 5; i++)
        cr_assert_eq(note(r, a.actor.id, i), 0);
    cr_assert_eq(a.handled, 0);
    cr_assert(reactor_pending(r));
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 5);
    cr_assert_eq(a.last, 5);
    cr_assert_not(reactor_pending(r));
    cr_assert_eq(reactor_metric(r, REACTOR_MESSAGES), 5);
    actor_kill(&a.actor);
    reactor_free(r);
}

Test(actor, ids_are_never_reused)
{
    struct reactor *r = reactor_new(&opts);
    uint64_t before = 0;
    for (int i = 0; i < 1000; i++) {
        struct who a = {0};
        born(&a, r, 'a');
        cr_assert_gt(a.actor.id, before);
        before = a.actor.id;
        actor_kill(&a.actor);
        reactor_tick(r, 0);
    }
    cr_assert_eq(reactor_metric(r, REACTOR_ACTORS), 0);
    reactor_free(r);
}

Test(actor, a_flood_delays_nobody)
{
    /* a floods itself for ever with far more than its budget; b and c get their turn in every
     * tick, before a's second one. */
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    struct who b = {0};
    struct who c = {0};
    born(&a, r, 'a');
    born(&b, r, 'b');
    born(&c, r, 'c');
    for (uint64_t i = 0; i < 100; i++)
        note(r, a.actor.id, 0);
    a.post_to = a.actor.id;
    for (uint64_t i = 0; i < 50; i++) {
        note(r, b.actor.id, i);
        note(r, c.actor.id, i);
        reactor_tick(r, 0);
        cr_assert_eq(b.handled, i + 1);
        cr_assert_eq(c.handled, i + 1);
        cr_assert_eq(a.handled, 10 * (i + 1), "exactly its budget per tick");
        cr_assert(reactor_pending(r), "the flood goes on in the next tick, without waiting");
    }
    cr_assert_eq(strncmp(story, "aaaaaaaaaabcbcaaaaaaaaaabcaaaaaaaaaa", 26), 0, "%.40s", story);
    actor_kill(&a.actor);
    actor_kill(&b.actor);
    actor_kill(&c.actor);
    reactor_free(r);
}

Test(actor, a_chain_crosses_in_one_tick)
{
    struct reactor *r = reactor_new(&opts);
    struct who w[4];
    memset(w, 0, sizeof(w));
    for (int i = 3; i >= 0; i--) {
        born(&w[i], r, (char)('a' + i));
        w[i].post_to = i < 3 ? w[i + 1].actor.id : 0;
    }
    note(r, w[0].actor.id, 1);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "abcd");
    for (int i = 0; i < 4; i++)
        actor_kill(&w[i].actor);
    reactor_free(r);
}

Test(actor, two_who_talk_for_ever_do_not_hold_the_tick)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    struct who b = {0};
    born(&a, r, 'a');
    born(&b, r, 'b');
    a.post_to = b.actor.id;
    b.post_to = a.actor.id;
    note(r, a.actor.id, 1);
    for (uint64_t i = 1; i <= 5; i++) {
        reactor_tick(r, 0);
        cr_assert_eq(a.handled, 10 * i);
        cr_assert_eq(b.handled, 10 * i);
    }
    actor_kill(&a.actor);
    actor_kill(&b.actor);
    reactor_free(r);
}

Test(actor, slow_messages_end_the_turn)
{
    chrono_virtual_start(CHRONO_SEC);
    struct reactor *r = reactor_new(&opts); /* slices above 2 ms are counted */
    struct who a = {.spend_time = true};
    born(&a, r, 'a');
    for (uint64_t i = 0; i < 10; i++)
        note(r, a.actor.id, i);
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 4, "2 ms after 4 messages of 0.5 ms");
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 8);
    cr_assert_eq(reactor_metric(r, REACTOR_SLICES_OVER), 0);
    struct slices_source top;
    cr_assert_eq(reactor_sources(r, &top, 1), 1);
    cr_assert_str_eq(top.name, "a: NOTE");
    actor_kill(&a.actor);
    reactor_free(r);
}

Test(actor, who_yields_handles_one_message_a_tick)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {.yields = true};
    struct who b = {0};
    born(&a, r, 'a');
    born(&b, r, 'b');
    a.post_to = a.actor.id;
    note(r, a.actor.id, 1);
    note(r, a.actor.id, 1);
    for (uint64_t i = 0; i < 5; i++)
        note(r, b.actor.id, i);
    for (uint64_t i = 1; i <= 3; i++) {
        reactor_tick(r, 0);
        cr_assert_eq(a.handled, i);
        cr_assert_eq(b.handled, 5);
    }
    actor_kill(&a.actor);
    actor_kill(&b.actor);
    reactor_free(r);
}

Test(actor, message_to_a_dead_id_is_dropped_destroyed_and_counted)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    struct owner o = {strdup("x")};
    born(&a, r, 'a');
    uint64_t id = a.actor.id;
    cr_assert(actor_alive(r, id));
    actor_kill(&a.actor);
    cr_assert_not(actor_alive(r, id));
    cr_assert_eq(ACTOR_POST(r, id, 0, K_OWNER, &o), -ESRCH);
    cr_assert_eq(destroyed, 1);
    o.text = strdup("y");
    cr_assert_eq(ACTOR_POST(r, 123456, 0, K_OWNER, &o), -ESRCH);
    cr_assert_eq(destroyed, 2);
    cr_assert_eq(note(r, 0, 1), -ESRCH);
    cr_assert_eq(reactor_metric(r, REACTOR_DROPPED_DEAD), 3);
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 0);
    reactor_free(r);
}

Test(actor, dead_ones_are_reaped_after_their_callback)
{
    struct reactor *r = reactor_new(&opts);
    struct who *a = calloc(1, sizeof(*a));
    bool reaped = false;
    actor_init(&a->actor, r, "a", &heap_ops, NULL);
    a->mark = 'a';
    a->kill_self = true;
    a->reaped = &reaped;
    uint64_t id = a->actor.id;
    struct owner o = {strdup("unread")};
    note(r, id, 1);
    note(r, id, 2);
    ACTOR_POST(r, id, 0, K_OWNER, &o);
    reactor_tick(r, 0);
    cr_assert(reaped);
    cr_assert_str_eq(story, "a!", "one message, then dead; reaped once");
    cr_assert_eq(destroyed, 1, "what it did not read is destroyed");
    cr_assert_eq(reactor_metric(r, REACTOR_DROPPED_REAPED), 2);
    cr_assert_not(actor_alive(r, id));
    reactor_free(r);
}

Test(actor, killing_twice_or_while_waiting_is_one_reap)
{
    struct reactor *r = reactor_new(&opts);
    struct who *a = calloc(1, sizeof(*a));
    bool reaped = false;
    actor_init(&a->actor, r, "a", &heap_ops, NULL);
    a->reaped = &reaped;
    note(r, a->actor.id, 1);
    actor_kill(&a->actor);
    cr_assert(list_empty(&a->actor.ready), "the dead wait for no turn");
    actor_kill(&a->actor);
    cr_assert_not(reaped, "nothing is freed inside a call");
    reactor_tick(r, 0);
    cr_assert(reaped);
    cr_assert_str_eq(story, "!");
    reactor_free(r);
}

Test(actor, a_handler_may_keep_what_a_payload_owns)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {.keep_text = true};
    struct who b = {0};
    struct owner o = {strdup("kept")};
    struct owner p = {strdup("not kept")};
    born(&a, r, 'a');
    born(&b, r, 'b');
    ACTOR_POST(r, a.actor.id, 0, K_OWNER, &o);
    ACTOR_POST(r, b.actor.id, 0, K_OWNER, &p);
    reactor_tick(r, 0);
    cr_assert_eq(destroyed, 1);
    cr_assert_str_eq(a.kept, "kept");
    free(a.kept);
    actor_kill(&a.actor);
    actor_kill(&b.actor);
    reactor_free(r);
}

Test(actor, full_mailbox_refuses_and_counts)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    struct mailbox_limits limits = {.max_count = 2, .max_bytes = 10000};
    actor_init(&a.actor, r, "a", &ops, &limits);
    cr_assert_eq(note(r, a.actor.id, 1), 0);
    cr_assert_eq(note(r, a.actor.id, 2), 0);
    cr_assert_eq(note(r, a.actor.id, 3), -ENOBUFS);
    cr_assert_eq(reactor_metric(r, REACTOR_DROPPED_FULL), 1);
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 2);
    cr_assert(actor_alive(r, a.actor.id));
    actor_kill(&a.actor);
    reactor_free(r);
}

static void swallow(void *arg, enum log_level level, const char *text)
{
    (void)text;
    *(int *)arg += level <= LOG_LEVEL_WARN;
}

Test(actor, full_mailbox_may_cost_the_owner_its_life)
{
    int lines = 0;
    log_set_sink(swallow, &lines);
    struct reactor *r = reactor_new(&opts);
    struct who *a = calloc(1, sizeof(*a));
    bool reaped = false;
    struct mailbox_limits limits = {
        .max_count = 2, .max_bytes = 10000, .when_full = MAILBOX_KILL_OWNER};
    actor_init(&a->actor, r, "slow peer", &heap_ops, &limits);
    a->reaped = &reaped;
    uint64_t id = a->actor.id;
    note(r, id, 1);
    note(r, id, 2);
    cr_assert_eq(note(r, id, 3), -ENOBUFS);
    cr_assert_not(actor_alive(r, id));
    cr_assert_eq(note(r, id, 4), -ESRCH);
    cr_assert_eq(lines, 1);
    reactor_tick(r, 0);
    cr_assert(reaped);
    cr_assert_str_eq(story, "!");
    reactor_free(r);
}

Test(actor, full_mailbox_may_drop_the_oldest)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    struct mailbox_limits limits = {
        .max_count = 2, .max_bytes = 10000, .when_full = MAILBOX_DROP_OLD};
    actor_init(&a.actor, r, "a", &ops, &limits);
    for (uint64_t i = 1; i <= 5; i++)
        cr_assert_eq(note(r, a.actor.id, i), 0);
    cr_assert_eq(reactor_metric(r, REACTOR_DROPPED_FULL), 3);
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 2);
    cr_assert_eq(a.last, 5);
    actor_kill(&a.actor);
    reactor_free(r);
}

static void kill_on_high(void *arg, bool high)
{
    if (high)
        actor_kill(arg);
}

Test(actor, a_mark_callback_may_kill)
{
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    struct mailbox_limits limits = {
        .max_count = 100, .max_bytes = 10000, .high_bytes = 50, .low_bytes = 10};
    actor_init(&a.actor, r, "a", &ops, &limits);
    actor_on_mark(&a.actor, kill_on_high, &a.actor);
    note(r, a.actor.id, 1);
    note(r, a.actor.id, 2);
    cr_assert(a.actor.dead && list_empty(&a.actor.ready), "the dead wait for no turn");
    note(r, a.actor.id, 3);
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 0);
    cr_assert_eq(reactor_metric(r, REACTOR_DROPPED_DEAD), 1);
    cr_assert_eq(reactor_metric(r, REACTOR_DROPPED_REAPED), 2);
    reactor_free(r);
}

Test(actor, wrong_size_is_our_bug_and_said_so)
{
    int lines = 0;
    log_set_sink(swallow, &lines);
    struct reactor *r = reactor_new(&opts);
    struct who a = {0};
    born(&a, r, 'a');
    uint32_t small = 0;
    cr_assert_eq(ACTOR_POST(r, a.actor.id, 0, K_NOTE, &small), -EINVAL);
    cr_assert_eq(ACTOR_POST(r, a.actor.id, 0, K_END, &small), -EINVAL);
    cr_assert_eq(lines, 2);
    reactor_tick(r, 0);
    cr_assert_eq(a.handled, 0);
    actor_kill(&a.actor);
    reactor_free(r);
}

Test(actor, growing_its_own_mailbox_while_handling_is_safe)
{
    struct reactor *r = reactor_new(NULL);
    struct who a = {0};
    struct who b = {0};
    born(&a, r, 'a');
    born(&b, r, 'b');
    for (uint64_t i = 0; i < 7; i++)
        note(r, a.actor.id, 1);
    a.post_to = a.actor.id;
    for (int i = 0; i < 20; i++) {
        for (int j = 0; j < 30; j++)
            note(r, a.actor.id, 1);
        reactor_tick(r, 0);
    }
    cr_assert_eq(a.handled, 20 * 64);
    actor_kill(&a.actor);
    actor_kill(&b.actor);
    reactor_free(r);
}
