/* SPDX-License-Identifier: Apache-2.0 */
/* ConsumerPort: the method table and the ReadBuffers reply, built around packet bytes that stay
 * where they are. */

#include "ipc/port_consumer.h"

#include <string.h>
#include "reactor/err.h"
#include "protos/ipc/consumer_port.upb.h"

#define METHOD(id, method, streams)                                                                \
    [(id)-1] = {#method, streams, &perfetto_protos_##method##Request_msginit,                      \
                &perfetto_protos_##method##Response_msginit}

static const struct rpc_method methods[PORT_CONSUMER_METHODS] = {
    METHOD(PORT_CONSUMER_ENABLE_TRACING, EnableTracing, false),
    METHOD(PORT_CONSUMER_DISABLE_TRACING, DisableTracing, false),
    METHOD(PORT_CONSUMER_READ_BUFFERS, ReadBuffers, true),
    METHOD(PORT_CONSUMER_FREE_BUFFERS, FreeBuffers, false),
    METHOD(PORT_CONSUMER_FLUSH, Flush, false),
    METHOD(PORT_CONSUMER_START_TRACING, StartTracing, false),
    METHOD(PORT_CONSUMER_CHANGE_TRACE_CONFIG, ChangeTraceConfig, false),
    METHOD(PORT_CONSUMER_DETACH, Detach, false),
    METHOD(PORT_CONSUMER_ATTACH, Attach, false),
    METHOD(PORT_CONSUMER_GET_TRACE_STATS, GetTraceStats, false),
    METHOD(PORT_CONSUMER_OBSERVE_EVENTS, ObserveEvents, true),
    METHOD(PORT_CONSUMER_QUERY_SERVICE_STATE, QueryServiceState, true),
    METHOD(PORT_CONSUMER_QUERY_CAPABILITIES, QueryCapabilities, false),
    METHOD(PORT_CONSUMER_SAVE_TRACE_FOR_BUGREPORT, SaveTraceForBugreport, false),
    METHOD(PORT_CONSUMER_CLONE_SESSION, CloneSession, false),
};

const struct rpc_service port_consumer = {"ConsumerPort", methods, PORT_CONSUMER_METHODS};

/* ---- ReadBuffers replies ---- */

enum { SLICES = 2, SLICE_DATA = 1, SLICE_LAST = 2 };

#define TAG_SLICES (SLICES << 3 | BYTES_LEN)
#define TAG_DATA   (SLICE_DATA << 3 | BYTES_LEN)
#define TAG_LAST   (SLICE_LAST << 3 | BYTES_VARINT)

/* What one slice weighs beyond its data when replies are split (R102); it covers our own bytes:
 * 1 + 3 (slice) + 1 + 3 (data) + 2 (last). */
#define SLICE_WEIGHT 16u

void port_consumer_reply_reset(struct port_consumer_reply *r)
{
    r->iovcnt = 1;
    r->slices = 0;
    r->weight = 0;
    r->head_len = 0;
}

/* A head holds what follows one slice's data and precedes the next one's: the end of the slice
 * before (last_slice_for_packet) and the start of this. It becomes a piece when it is complete. */
bool port_consumer_reply_add(struct port_consumer_reply *r, const struct iovec *piece, int pieces,
                             bool last_for_packet)
{
    const int room = (int)(sizeof(r->iov) / sizeof(r->iov[0])) - 1; /* one for the final head */
    size_t n = 0;
    for (int i = 0; i < pieces; i++)
        n += piece[i].iov_len;
    if (r->slices == PORT_CONSUMER_SLICES_MAX || n > PORT_CONSUMER_SLICE_MAX ||
        r->weight + n + SLICE_WEIGHT > FRAME_BLOB_MAX || r->iovcnt + 1 + pieces > room)
        return false;

    uint8_t *head = r->heads[r->slices];
    uint8_t *p = head + r->head_len;
    *p++ = TAG_SLICES;
    p = bytes_put_varint(p, 1 + bytes_varint_size(n) + n + 2);
    *p++ = TAG_DATA;
    p = bytes_put_varint(p, n);
    r->iov[r->iovcnt++] = (struct iovec){head, (size_t)(p - head)};
    for (int i = 0; i < pieces; i++) {
        if (piece[i].iov_len != 0)
            r->iov[r->iovcnt++] = piece[i];
    }
    r->slices++;
    r->weight += n + SLICE_WEIGHT;
    uint8_t *next = r->heads[r->slices];
    next[0] = TAG_LAST;
    next[1] = last_for_packet ? 1 : 0;
    r->head_len = 2;
    return true;
}

void port_consumer_reply_finish(struct port_consumer_reply *r)
{
    if (r->head_len != 0)
        r->iov[r->iovcnt++] = (struct iovec){r->heads[r->slices], r->head_len};
    r->head_len = 0;
}

int port_consumer_next_slice(struct bytes_cur *cur, struct port_consumer_slice *out)
{
    struct bytes_field at;
    while (bytes_next(cur, &at)) {
        if (at.id != SLICES || at.type != BYTES_LEN)
            continue;
        struct port_consumer_slice slice = {{NULL, 0}, false};
        struct bytes_cur in = bytes_cur(at.data);
        while (bytes_next(&in, &at)) {
            if (at.id == SLICE_DATA && at.type == BYTES_LEN)
                slice.data = at.data;
            else if (at.id == SLICE_LAST && at.type == BYTES_VARINT)
                slice.last_for_packet = at.num != 0;
        }
        if (!bytes_done(&in))
            return ERR_BAD_FRAME;
        *out = slice;
        return 1;
    }
    return bytes_done(cur) ? 0 : ERR_BAD_FRAME;
}
