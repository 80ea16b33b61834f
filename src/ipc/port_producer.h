/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_PORT_PRODUCER_H
#define IPC_PORT_PRODUCER_H

/* The service that producers call: method ids in wire order (R48), names and layouts. */

#include "ipc/rpc.h"

/* Values are method ids on a host of ours; a client maps by name (R46). A handler table is indexed
 * by PORT_PRODUCER_X - 1. */
enum port_producer_method {
    PORT_PRODUCER_INITIALIZE_CONNECTION = 1,
    PORT_PRODUCER_REGISTER_DATA_SOURCE = 2,
    PORT_PRODUCER_UNREGISTER_DATA_SOURCE = 3,
    PORT_PRODUCER_COMMIT_DATA = 4,
    PORT_PRODUCER_GET_ASYNC_COMMAND = 5, /* stream that never ends (R86) */
    PORT_PRODUCER_REGISTER_TRACE_WRITER = 6,
    PORT_PRODUCER_UNREGISTER_TRACE_WRITER = 7,
    PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED = 8,
    PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED = 9,
    PORT_PRODUCER_ACTIVATE_TRIGGERS = 10,
    PORT_PRODUCER_SYNC = 11,
    PORT_PRODUCER_UPDATE_DATA_SOURCE = 12,
};
#define PORT_PRODUCER_METHODS 12

extern const struct rpc_service port_producer;

#endif
