/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/mailbox.h"

#include "reactor/defaults.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

enum { K_NUMBER = 1, K_OWNER, K_EMPTY, K_HOLE, K_END };

struct number {
    uint64_t n;
};

struct owner {
    int *destroyed; /* counts */
    size_t bytes;
};

static void owner_fini(void *payload)
{
    struct owner *o = payload;
    if (o->destroyed != NULL)
        ++*o->destroyed;
}

static size_t owner_weight(const void *payload)
{
    const struct owner *o = payload;
    return o->bytes;
}

static const struct mailbox_kind kinds[K_END] = {
    [K_NUMBER] = {"NUMBER", sizeof(struct number), NULL, NULL},
    [K_OWNER] = {"OWNER", sizeof(struct owner), owner_fini, owner_weight},
    [K_EMPTY] = {"EMPTY", 0, NULL, NULL},
};
static const struct mailbox_table table = {kinds, K_END};

static int push_number(struct mailbox *mb, uint64_t n)
{
    struct number v = {n};
    return mailbox_push(mb, 1, 2, K_NUMBER, &v, sizeof(v));
}

static uint64_t pop_number(struct mailbox *mb)
{
    struct mailbox_msg m;
    cr_assert(mailbox_pop(mb, &m));
    cr_assert(m.kind == K_NUMBER && m.size == sizeof(struct number) && m.to == 1 && m.from == 2);
    return ((const struct number *)(const void *)m.data)->n;
}

Test(mailbox, is_a_fifo_across_growth)
{
    struct mailbox mb;
    struct mailbox_msg m;
    uint64_t in = 0;
    uint64_t out = 0;
    mailbox_init(&mb, &table, NULL);
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < 13; i++)
            cr_assert_eq(push_number(&mb, in++), 0);
        for (int i = 0; i < 7; i++)
            cr_assert_eq(pop_number(&mb), out++);
    }
    while (out < in)
        cr_assert_eq(pop_number(&mb), out++);
    cr_assert_not(mailbox_pop(&mb, &m));
    cr_assert_eq(mailbox_bytes(&mb), 0);
    cr_assert(mb.first == NULL && mb.spare == NULL,
              "a mailbox that grew large and ran empty holds no memory");
    mailbox_fini(&mb);
}

Test(mailbox, refuses_what_does_not_fit_its_type)
{
    struct mailbox mb;
    struct number v = {1};
    uint8_t big[MAILBOX_PAYLOAD + 1] = {0};
    mailbox_init(&mb, &table, NULL);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_NUMBER, &v, 4), -EINVAL);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_HOLE, &v, 0), -EINVAL);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_END, &v, 0), -EINVAL);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_EMPTY, NULL, 0), 0);
    mailbox_fini(&mb);
    mailbox_init(&mb, NULL, NULL);
    cr_assert_eq(mailbox_push(&mb, 1, 2, 999, big, MAILBOX_PAYLOAD), 0);
    cr_assert_eq(mailbox_push(&mb, 1, 2, 999, big, MAILBOX_PAYLOAD + 1), -EINVAL);
    mailbox_fini(&mb);
    cr_assert_str_eq(mailbox_kind_name(&table, K_OWNER), "OWNER");
    cr_assert_str_eq(mailbox_kind_name(&table, K_HOLE), "?");
    cr_assert_str_eq(mailbox_kind_name(NULL, 1), "?");
}

Test(mailbox, count_cap_refuses_the_new)
{
    struct mailbox mb;
    struct mailbox_limits limits = {.max_count = 3, .max_bytes = 1000};
    mailbox_init(&mb, &table, &limits);
    for (uint64_t i = 0; i < 3; i++)
        cr_assert_eq(push_number(&mb, i), 0);
    cr_assert_eq(push_number(&mb, 3), -ENOBUFS);
    cr_assert_eq(mb.dropped, 1);
    cr_assert_eq(pop_number(&mb), 0);
    cr_assert_eq(push_number(&mb, 4), 0);
    cr_assert_eq(pop_number(&mb), 1);
    cr_assert_eq(pop_number(&mb), 2);
    cr_assert_eq(pop_number(&mb), 4);
    mailbox_fini(&mb);
}

Test(mailbox, byte_cap_counts_what_payloads_own)
{
    struct mailbox mb;
    int destroyed = 0;
    struct owner o = {&destroyed, 400};
    struct mailbox_limits limits = {.max_count = 100, .max_bytes = 1000};
    mailbox_init(&mb, &table, &limits);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_OWNER, &o, sizeof(o)), 0);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_OWNER, &o, sizeof(o)), 0);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_OWNER, &o, sizeof(o)), -ENOBUFS);
    cr_assert_eq(destroyed, 1, "a refused payload is destroyed, once");
    cr_assert_eq(push_number(&mb, 1), 0, "a small one still fits");
    o.bytes = SIZE_MAX / 2;
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_OWNER, &o, sizeof(o)), -ENOBUFS);
    cr_assert_eq(destroyed, 2);
    mailbox_fini(&mb);
    cr_assert_eq(destroyed, 4, "what is left at the end is destroyed");
    cr_assert_eq(mb.dropped, 5);
}

Test(mailbox, drop_old_makes_room)
{
    struct mailbox mb;
    int destroyed = 0;
    struct owner o = {&destroyed, 400};
    struct mailbox_limits limits = {
        .max_count = 3, .max_bytes = 1000, .when_full = MAILBOX_DROP_OLD};
    mailbox_init(&mb, &table, &limits);
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_OWNER, &o, sizeof(o)), 0);
    for (uint64_t i = 0; i < 3; i++)
        cr_assert_eq(push_number(&mb, i), 0);
    cr_assert_eq(destroyed, 1);
    cr_assert_eq(mb.dropped, 1);
    o.bytes = 2000;
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_OWNER, &o, sizeof(o)), -ENOBUFS, "can never fit");
    cr_assert_eq(destroyed, 2);
    cr_assert_eq(mailbox_count(&mb), 3, "nothing is sacrificed for it");
    o.bytes = 900;
    cr_assert_eq(mailbox_push(&mb, 1, 2, K_OWNER, &o, sizeof(o)), 0);
    cr_assert_leq(mailbox_bytes(&mb), 1000);
    mailbox_fini(&mb);
}

static struct {
    int high;
    int low;
} marks;

static void on_mark(void *arg, bool high)
{
    (void)arg;
    if (high)
        marks.high++;
    else
        marks.low++;
    cr_assert(marks.high - marks.low == (high ? 1 : 0), "high and low take turns");
}

Test(mailbox, marks_are_told_once_per_crossing)
{
    struct mailbox mb;
    const size_t each = sizeof(struct mailbox_msg) - MAILBOX_PAYLOAD + sizeof(struct number);
    struct mailbox_limits limits = {
        .max_count = 100, .max_bytes = 100 * each, .high_bytes = 10 * each, .low_bytes = 2 * each};
    mailbox_init(&mb, &table, &limits);
    mailbox_on_mark(&mb, on_mark, NULL);
    for (uint64_t i = 0; i < 9; i++)
        push_number(&mb, i);
    cr_assert_eq(marks.high, 0);
    push_number(&mb, 9);
    push_number(&mb, 10);
    cr_assert_eq(marks.high, 1);
    for (int i = 0; i < 8; i++)
        pop_number(&mb);
    cr_assert_eq(marks.low, 0);
    pop_number(&mb);
    cr_assert_eq(marks.low, 1);
    for (uint64_t i = 0; i < 20; i++)
        push_number(&mb, i);
    cr_assert_eq(marks.high, 2);
    mailbox_fini(&mb);
}

Test(mailbox, defaults_are_those_of_the_header)
{
    struct mailbox mb;
    mailbox_init(&mb, &table, NULL);
    int err = 0;
    uint64_t n = 0;
    while ((err = push_number(&mb, n)) == 0)
        n++;
    cr_assert_eq(err, -ENOBUFS);
    cr_assert_eq(n, DEFAULTS_MAILBOX_COUNT);
    mailbox_fini(&mb);
}
