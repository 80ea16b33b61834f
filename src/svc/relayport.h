/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_RELAYPORT_H
#define SVC_RELAYPORT_H

/*
 * The socket transport of relays: RelayPort (ipc.md section 14) on one side, the service_relay_*
 * calls on the other. A relay's control connection says what its machine is and compares clocks;
 * the producers behind it come as connections of their own.
 */

#include <stdint.h>

struct relayport;
struct rpc_host;
struct service;

/* Serves RelayPort to the connections of the host whose tag has a bit of mask (R19). *out: own,
 * relayport_free after the host's connections were closed. 0 or -errno. */
int relayport_new(struct service *svc, struct rpc_host *host, uint32_t mask,
                  struct relayport **out);
void relayport_free(struct relayport *port); /* NULL allowed */

#endif
