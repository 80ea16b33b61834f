/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_CHARGE_H
#define REACTOR_CHARGE_H

/*
 * Who pays for what: one account per uid, with limits. A struct charge is embedded in the thing it
 * pays for (a connection, a session, an SMB mapping, a buffer) and is given back by that thing's
 * destructor. After a clean exit every account is at zero.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum charge_kind {
    CHARGE_CONNECTIONS,  /* sockets accepted */
    CHARGE_SESSIONS,     /* tracing sessions */
    CHARGE_SMB_BYTES,    /* shared memory mapped */
    CHARGE_BUFFER_BYTES, /* trace buffers, clones included */
    CHARGE_SOURCE_BYTES, /* descriptors of registered data sources */
    CHARGE_QUEUE_BYTES,  /* what waits: to be read by peers, or for the rest of their requests */
    CHARGE_FILES,        /* processes that write files */
    CHARGE_KINDS
};

/* The account of all whose uid nobody vouches for, peers over a network: what they take, whatever
 * they say who they are, is at no local user's expense. */
#define CHARGE_STRANGERS ((uid_t)-1)

/* Limit of one kind. UINT64_MAX: none. */
struct charge_limit {
    uint64_t per_uid;
    uint64_t total; /* over all uids */
};

struct charge_account;
struct charge_book;

/* Zero-initialised, or released, it pays for nothing. */
struct charge {
    struct charge_account *account; /* ref; NULL when nothing is charged */
    uint64_t amount;
    enum charge_kind kind;
};

/* The limits of reactor/defaults.h, to change some of them. */
void charge_default_limits(struct charge_limit limits[CHARGE_KINDS]);

/* A book with these limits for every uid; NULL: those of reactor/defaults.h. Never NULL. */
struct charge_book *charge_book_new(const struct charge_limit limits[CHARGE_KINDS]);

/* Frees the book; one error line when something was still charged. All charges must have been
 * released. NULL is allowed. */
void charge_book_free(struct charge_book *book);

/* Charges amount of kind to uid. c must be zeroed or released. 0; ERR_QUOTA when the limit of the
 * uid or the total would be passed; -ENOMEM. Nothing is charged unless 0. */
int charge_take(struct charge_book *book, struct charge *c, uid_t uid, enum charge_kind kind,
                uint64_t amount);

/* Changes the amount of a charge that charge_take made. 0, or ERR_QUOTA when it grows past a limit:
 * it stays as it was then. A charge that pays for nothing stays so, with 0. */
int charge_resize(struct charge *c, uint64_t amount);

/* Gives everything back. Harmless on a charge that pays for nothing. */
void charge_release(struct charge *c);

/* What is charged to uid, or to everybody. */
uint64_t charge_balance(const struct charge_book *book, uid_t uid, enum charge_kind kind);
uint64_t charge_total(const struct charge_book *book, enum charge_kind kind);

/* Number of uids that have an account, for tests: an account lives while something is charged. */
size_t charge_accounts(const struct charge_book *book);

/* The limit of a kind. */
struct charge_limit charge_limit_of(const struct charge_book *book, enum charge_kind kind);

/* "connections", "sessions", "SMB bytes", "buffer bytes", "data source bytes", "queued bytes",
 * "files". */
const char *charge_kind_name(enum charge_kind kind);

#endif
