/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_RECORD_H
#define CLI_RECORD_H

/* One recording, from the request to the last byte; also its detached forms (spec 3 and 7.1). */

#include <stdbool.h>

#include "cli/bg.h"
#include "cli/cmdline.h"
#include "cli/pktout.h"

struct reactor;
struct record;

/* Exit codes (3.7). */
enum { RECORD_OK = 0, RECORD_FAILED = 1, RECORD_NOT_ATTACHED = 2 };

struct record_conf {
    const char *address;               /* borrow: of the consumer socket */
    const struct cmdline *cl;          /* borrow: action RECORD, DETACH, ATTACH or IS_DETACHED */
    struct pktout *out;                /* borrow: NULL if none is opened */
    struct bg_notify *notify;          /* borrow */
    bool want_started;                 /* `started` is wanted, or somebody waits in notify */
    bool talkative;                    /* progress, remarks and summary are wanted */
    bool terminal;                     /* stderr is one */
    bool check_sources;                /* say which data sources nobody offers; costs a query */
    void (*started)(void *arg);        /* all data sources have started; may be NULL */
    void (*done)(void *arg, int code); /* once; everything was printed. Must not free */
    void *arg;                         /* borrow */
};

/* Starts it. NULL when there is no service to talk to, which was said on stderr. */
struct record *record_new(struct reactor *reactor, const struct record_conf *conf);

/* Asks for a graceful end: flush, disable, read back (R331). `why` goes to the user. Harmless when
 * it is ending already. */
void record_stop(struct record *r, const char *why);

/* NULL is fine. */
void record_free(struct record *r);

#endif
