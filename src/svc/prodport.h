/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PRODPORT_H
#define SVC_PRODPORT_H

/*
 * The socket transport of producers: ProducerPort (ipc.md section 11) on one side, MSG_P_* and
 * MSG_PP_* on the other.
 */

#include <stdint.h>

struct prodport;
struct reactor;
struct rpc_host;
struct service;

/* Serves ProducerPort to all connections of the host. *out: own, prodport_free after the host's
 * connections were closed. 0 or -errno. */
int prodport_new(struct reactor *r, struct service *svc, struct rpc_host *host,
                 struct prodport **out);
void prodport_free(struct prodport *port); /* NULL allowed */

#endif
