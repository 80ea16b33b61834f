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

struct service;

/* Called for each part with an encoded QueryServiceStateResponse, which it may take the bytes of;
 * more is false for the last. */
typedef void statequery_part(void *arg, struct bytesbuf *response, bool more);

/* Answers for a caller of that uid (R204: who sees which session). 0; -ENOMEM: the answer is not
 * complete and no last part came. */
int statequery_answer(struct service *svc, uid_t uid, bool sessions_only, statequery_part *part,
                      void *arg);

#endif
