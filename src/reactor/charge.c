/* SPDX-License-Identifier: Apache-2.0 */
/*
 * charge: the accounts. The book owns the accounts; an account is made by the first charge of a
 * uid and freed with its last, so that uids that come and go leave nothing behind. Each charge
 * refers to its account, and the account to its book, so that releasing needs no lookup and
 * cannot fail. Invariant: the total of a kind is the sum of it over all accounts. The book must
 * never be freed before the things that pay.
 */
#include "reactor/charge.h"

#include "reactor/alloc.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/idmap.h"
#include "reactor/log.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct charge_account {
    struct charge_book *book; /* borrow */
    uid_t uid;
    uint64_t charges; /* number of struct charge that refer to this */
    uint64_t used[CHARGE_KINDS];
};

struct charge_book {
    struct charge_limit limits[CHARGE_KINDS];
    uint64_t total[CHARGE_KINDS];
    struct idmap accounts; /* uid -> struct charge_account, own */
};

static const char *const kind_names[CHARGE_KINDS] = {
    [CHARGE_CONNECTIONS] = "connections",
    [CHARGE_SESSIONS] = "sessions",
    [CHARGE_SMB_BYTES] = "SMB bytes",
    [CHARGE_BUFFER_BYTES] = "buffer bytes",
    [CHARGE_SOURCE_BYTES] = "data source bytes",
    [CHARGE_QUEUE_BYTES] = "queued bytes",
    [CHARGE_FILES] = "files",
};

static const struct charge_limit default_limits[CHARGE_KINDS] = {
    [CHARGE_CONNECTIONS] = {DEFAULTS_UID_CONNECTIONS, UINT64_MAX},
    [CHARGE_SESSIONS] = {DEFAULTS_UID_SESSIONS, DEFAULTS_MAX_SESSIONS},
    [CHARGE_SMB_BYTES] = {DEFAULTS_UID_SMB_BYTES, UINT64_MAX},
    [CHARGE_BUFFER_BYTES] = {DEFAULTS_UID_BUFFER_BYTES, UINT64_MAX},
    [CHARGE_SOURCE_BYTES] = {DEFAULTS_UID_SOURCE_BYTES, UINT64_MAX},
    [CHARGE_QUEUE_BYTES] = {DEFAULTS_UID_QUEUE_BYTES, UINT64_MAX},
    [CHARGE_FILES] = {DEFAULTS_UID_FILES, UINT64_MAX},
};

void charge_default_limits(struct charge_limit limits[CHARGE_KINDS])
{
    memcpy(limits, default_limits, sizeof(default_limits));
}

struct charge_book *charge_book_new(const struct charge_limit limits[CHARGE_KINDS])
{
    struct charge_book *book = alloc_new(struct charge_book);
    for (size_t i = 0; i < CHARGE_KINDS; i++)
        book->limits[i] = limits != NULL ? limits[i] : default_limits[i];
    idmap_init(&book->accounts);
    return book;
}

void charge_book_free(struct charge_book *book)
{
    if (book == NULL)
        return;
    for (size_t i = 0; i < CHARGE_KINDS; i++)
        if (book->total[i] != 0)
            log_error("accounts do not balance: %" PRIu64 " %s still charged at exit",
                      book->total[i], kind_names[i]);
    uint64_t uid = 0;
    for (void *a; (a = idmap_any(&book->accounts, &uid)) != NULL; free(a))
        idmap_del(&book->accounts, uid);
    idmap_fini(&book->accounts);
    free(book);
}

static bool within(uint64_t used, uint64_t amount, uint64_t limit)
{
    return used <= limit && amount <= limit - used;
}

int charge_take(struct charge_book *book, struct charge *c, uid_t uid, enum charge_kind kind,
                uint64_t amount)
{
    struct charge_account *a = idmap_get(&book->accounts, uid);
    const struct charge_limit *limit = &book->limits[kind];
    if (!within(a != NULL ? a->used[kind] : 0, amount, limit->per_uid) ||
        !within(book->total[kind], amount, limit->total))
        return ERR_QUOTA;
    if (a == NULL) {
        a = alloc_try_array(1, sizeof(*a));
        if (a == NULL)
            return -ENOMEM;
        a->book = book;
        a->uid = uid;
        int err = idmap_put(&book->accounts, uid, a);
        if (err != 0) {
            free(a);
            return err;
        }
    }
    a->charges++;
    a->used[kind] += amount;
    book->total[kind] += amount;
    *c = (struct charge){a, amount, kind};
    return 0;
}

int charge_resize(struct charge *c, uint64_t amount)
{
    struct charge_account *a = c->account;
    if (a == NULL)
        return 0;
    const struct charge_limit *limit = &a->book->limits[c->kind];
    uint64_t *used = &a->used[c->kind], *total = &a->book->total[c->kind];
    if (amount > c->amount && (!within(*used, amount - c->amount, limit->per_uid) ||
                               !within(*total, amount - c->amount, limit->total)))
        return ERR_QUOTA;
    *used += amount - c->amount;
    *total += amount - c->amount;
    c->amount = amount;
    return 0;
}

void charge_release(struct charge *c)
{
    struct charge_account *a = c->account;
    if (a == NULL)
        return;
    a->used[c->kind] -= c->amount;
    a->book->total[c->kind] -= c->amount;
    *c = (struct charge){NULL, 0, c->kind};
    if (--a->charges == 0) {
        idmap_del(&a->book->accounts, a->uid);
        free(a);
    }
}

uint64_t charge_balance(const struct charge_book *book, uid_t uid, enum charge_kind kind)
{
    const struct charge_account *a = idmap_get(&book->accounts, uid);
    return a != NULL ? a->used[kind] : 0;
}

uint64_t charge_total(const struct charge_book *book, enum charge_kind kind)
{
    return book->total[kind];
}

size_t charge_accounts(const struct charge_book *book)
{
    return idmap_count(&book->accounts);
}

struct charge_limit charge_limit_of(const struct charge_book *book, enum charge_kind kind)
{
    return book->limits[kind];
}

const char *charge_kind_name(enum charge_kind kind)
{
    return (unsigned)kind < CHARGE_KINDS ? kind_names[kind] : "?";
}
