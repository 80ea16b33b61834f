/* SPDX-License-Identifier: Apache-2.0 */
/* ProducerPort, which producers call to register, commit and be commanded: its constant
 * method table. The position of a line is the wire id of its method (R48); there is no state here,
 * and the handlers belong to the service. */

#include "ipc/port_producer.h"

#include "protos/common/commit_data_request.upb.h"
#include "protos/ipc/producer_port.upb.h"

#define METHOD(id, method, streams)                                                                \
    [(id)-1] = {#method, streams, &perfetto_protos_##method##Request_msginit,                      \
                &perfetto_protos_##method##Response_msginit}

static const struct rpc_method methods[PORT_PRODUCER_METHODS] = {
    METHOD(PORT_PRODUCER_INITIALIZE_CONNECTION, InitializeConnection, false),
    METHOD(PORT_PRODUCER_REGISTER_DATA_SOURCE, RegisterDataSource, false),
    METHOD(PORT_PRODUCER_UNREGISTER_DATA_SOURCE, UnregisterDataSource, false),
    METHOD(PORT_PRODUCER_COMMIT_DATA, CommitData, false),
    METHOD(PORT_PRODUCER_GET_ASYNC_COMMAND, GetAsyncCommand, true),
    METHOD(PORT_PRODUCER_REGISTER_TRACE_WRITER, RegisterTraceWriter, false),
    METHOD(PORT_PRODUCER_UNREGISTER_TRACE_WRITER, UnregisterTraceWriter, false),
    METHOD(PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, NotifyDataSourceStarted, false),
    METHOD(PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, NotifyDataSourceStopped, false),
    METHOD(PORT_PRODUCER_ACTIVATE_TRIGGERS, ActivateTriggers, false),
    METHOD(PORT_PRODUCER_SYNC, Sync, false),
    METHOD(PORT_PRODUCER_UPDATE_DATA_SOURCE, UpdateDataSource, false),
};

const struct rpc_service port_producer = {"ProducerPort", methods, PORT_PRODUCER_METHODS};
