/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STATEQUERY_H
#define SVC_STATEQUERY_H

/*
 * QueryServiceState: what the service tells about itself, cut into parts that each fit a frame
 * (service.md 12.5).
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "reactor/bytesbuf.h"
#include "reactor/task.h"

struct service;

enum statequery_stage {
    STATEQUERY_NONE, /* no answer is being made */
    STATEQUERY_SESSIONS,
    STATEQUERY_PRODUCERS,
    STATEQUERY_SOURCES
};

/* One answer in the making; zero-initialised, or ended, there is none. */
struct statequery {
    struct service *svc; /* borrow */
    uid_t uid;
    bool sessions_only;
    enum statequery_stage stage;
    struct bytesbuf state; /* TracingServiceState of the part at hand */
    struct bytesbuf entry; /* the repeated field that comes next, tag included; empty: none yet */
    uint64_t session;      /* those before it are done */
    uint32_t producer;     /* those up to it are */
    uint8_t *name;         /* own: data sources before this name, and of this name before `order` */
    size_t name_len;
    uint64_t order;
    uint64_t last_session, last_endpoint, last_source; /* who was there at the begin */
};

enum statequery_result {
    STATEQUERY_AGAIN, /* the budget is spent */
    STATEQUERY_PART,  /* a part is ready, more will come */
    STATEQUERY_LAST,  /* the last part is ready */
    STATEQUERY_FAILED /* no memory; there will be no last part */
};

/* Begins an answer for a caller of that uid (R204: who sees which session). */
void statequery_begin(struct statequery *q, struct service *svc, uid_t uid, bool sessions_only);

/* Goes on until a part is ready: *response, an encoded QueryServiceStateResponse, is then the
 * caller's to finish, also after a failure. */
enum statequery_result statequery_step(struct statequery *q, struct task_budget *budget,
                                       struct bytesbuf *response);

/* Lets go of it, finished or not. */
void statequery_end(struct statequery *q);

static inline bool statequery_active(const struct statequery *q)
{
    return q->stage != STATEQUERY_NONE;
}

#endif
