/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SESSION_FLUSH_H
#define SVC_SESSION_FLUSH_H

/* A pending flush of a session; what may be asked of flushes is in svc/session_int.h. */

#include <stdbool.h>
#include <stdint.h>

#include "reactor/charge.h"
#include "reactor/deadline.h"
#include "reactor/list.h"

struct session;

/* Called once when a flush is over. s is NULL when the session has gone. */
typedef void session_flush_done(void *arg, struct session *s, uint64_t cookie, bool ok);

/* What to flush: all instances, or those whose buffers are (not) moved to a clone. */
enum session_flush_group { SESSION_FLUSH_ALL, SESSION_FLUSH_TRANSFER, SESSION_FLUSH_REST };

/* A flush that asks producers, or waits for them (section 6.2). */
struct session_flush {
    struct list asking; /* in service.asking until all are asked */
    struct list ended;  /* in session.flushes_ended or session.flushes_settling */
    struct session *session;
    uint64_t id;
    uint64_t flags;
    enum session_flush_group group;
    struct deadline timeout;
    uint32_t next;    /* ProducerID from which on producers are still to be asked */
    uint16_t *asked;  /* own: ProducerIDs, ascending */
    uint8_t *missing; /* own: a bit for each of them, until it has acked */
    uint32_t nasked, nmissing, room;
    struct charge charge; /* for these */
    bool over;            /* its outcome is known, the scrape is to come or going on */
    bool ok;
    session_flush_done *done;
    void *arg; /* borrow */
    uint64_t cookie;
};

#endif
