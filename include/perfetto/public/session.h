/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: recording, as the perfetto program does it, from inside a program. Made for test
 * harnesses, which start a recording, run something, and look at the packets.
 *
 * A session belongs to one thread at a time, not to a callback of a data source (-EDEADLK). It
 * works between perfetto_init() and perfetto_shutdown() and must be freed before the latter. Its
 * calls wait for the service, at most timeout_ms: then they return -ETIMEDOUT, and what was asked
 * for may still happen. -ENOTCONN: there is no service, or it has gone.
 */
#ifndef PERFETTO_PUBLIC_SESSION_H
#define PERFETTO_PUBLIC_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "perfetto/public/export.h"

PERFETTO_BEGIN_DECLS

struct perfetto_session;

/* A session that does nothing yet. 0 and *out, to be freed; -ENOTCONN before perfetto_init(). */
PERFETTO_EXPORT int perfetto_session_new(struct perfetto_session **out);

/* Ends the recording if it still goes on; what was not read is gone. NULL is fine. */
PERFETTO_EXPORT void perfetto_session_free(struct perfetto_session *s);

/*
 * Starts the recording, once, and waits until every data source has begun. config is an encoded
 * TraceConfig without deferred_start. socket: where consumers connect to; NULL:
 * $PERFETTO_CONSUMER_SOCK_NAME, or where the service of this machine listens.
 *
 * -EINVAL: the service does not accept the config, perfetto_session_error() says why. -ETIMEDOUT:
 * it was accepted and some data source has not begun, as with a config that waits for a trigger;
 * the session is good for all other calls. -EALREADY: started before.
 */
PERFETTO_EXPORT int perfetto_session_start(struct perfetto_session *s, const char *socket,
                                           const void *config, size_t len, uint32_t timeout_ms);

/* The same with a config of one buffer and these data sources, which need no config of their own.
 * With count 0 nothing is recorded but what the service itself says. */
PERFETTO_EXPORT int perfetto_session_start_sources(struct perfetto_session *s, const char *socket,
                                                   uint32_t buffer_kb, const char *const *names,
                                                   size_t count, uint32_t timeout_ms);

/* Has all data sources bring out what they have, and waits until it is in the trace buffers. -EIO:
 * some did not in time. */
PERFETTO_EXPORT int perfetto_session_flush(struct perfetto_session *s, uint32_t timeout_ms);

/* Ends the recording and waits until it has ended. Its data stays to be read. -EIO: it ended with
 * an error, now or before; see perfetto_session_error(). */
PERFETTO_EXPORT int perfetto_session_stop(struct perfetto_session *s, uint32_t timeout_ms);

/* Waits until the recording ends by itself (duration_ms, a trigger). As above. */
PERFETTO_EXPORT int perfetto_session_wait(struct perfetto_session *s, uint32_t timeout_ms);

/* One TracePacket without framing, valid during the call. Runs on the library's thread and must not
 * call anything of the session. */
typedef void perfetto_session_packet_cb(void *user, const void *packet, size_t len);

/* Reads what is in the trace buffers, which are empty afterwards; while recording or after it. All
 * calls of cb happen before this returns. -EIO: it broke off. */
PERFETTO_EXPORT int perfetto_session_read(struct perfetto_session *s,
                                          perfetto_session_packet_cb *cb, void *user,
                                          uint32_t timeout_ms);

/* The same into one piece of memory, a whole trace file: *data is the caller's, for free(3). NULL
 * and 0 when there is nothing. */
PERFETTO_EXPORT int perfetto_session_read_all(struct perfetto_session *s, void **data, size_t *len,
                                              uint32_t timeout_ms);

/* Why it did not work, in one line; "" if nothing is known. Valid until the next call. */
PERFETTO_EXPORT const char *perfetto_session_error(struct perfetto_session *s);

PERFETTO_END_DECLS

#endif
