/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_PORT_RELAY_H
#define IPC_PORT_RELAY_H

/* The service that relays call (R114, R115): method ids in wire order, names and layouts. */

#include "ipc/rpc.h"

enum port_relay_method {
    PORT_RELAY_INIT_RELAY = 1,
    PORT_RELAY_SYNC_CLOCK = 2,
};
#define PORT_RELAY_METHODS 2

extern const struct rpc_service port_relay;

#endif
