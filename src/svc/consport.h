/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSPORT_H
#define SVC_CONSPORT_H

/*
 * The socket transport of consumers: ConsumerPort (ipc.md section 12) on one side, MSG_C_*,
 * MSG_CP_* and the packets of reads on the other.
 */

struct consport;
struct reactor;
struct rpc_host;
struct service;

/* Serves ConsumerPort to all connections of the host. *out: own, consport_free after the host's
 * connections were closed and the service was freed. 0 or -errno. */
int consport_new(struct reactor *r, struct service *svc, struct rpc_host *host,
                 struct consport **out);
void consport_free(struct consport *port); /* NULL allowed */

#endif
