/* SPDX-License-Identifier: Apache-2.0 */
/* RelayPort, which relays call to introduce a machine and compare clocks: its constant
 * method table. The position of a line is the wire id of its method (R48); there is no state here,
 * and the handlers belong to the service. */

#include "ipc/port_relay.h"

#include "protos/ipc/relay_port.upb.h"

#define METHOD(id, method, streams)                                                                \
    [(id)-1] = {#method, streams, &perfetto_protos_##method##Request_msginit,                      \
                &perfetto_protos_##method##Response_msginit}

static const struct rpc_method methods[PORT_RELAY_METHODS] = {
    METHOD(PORT_RELAY_INIT_RELAY, InitRelay, false),
    METHOD(PORT_RELAY_SYNC_CLOCK, SyncClock, false),
};

const struct rpc_service port_relay = {"RelayPort", methods, PORT_RELAY_METHODS};
