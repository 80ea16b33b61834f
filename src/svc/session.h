/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SESSION_H
#define SVC_SESSION_H

/*
 * A tracing session: what consumer endpoints, producer endpoints and the service ask of it. One
 * explicit state machine (service.md section 1); svc/session_flush, _read, _file, _clone, _trigger,
 * _events and _timers are its parts.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "reactor/bytesbuf.h"
#include "svc/packet.h"

struct consumer;
struct dsinst;
struct filewr;
struct producer;
struct service;
struct session;
struct tracecfg;

/* X(constant, name in QueryServiceState, ConcurrentSessionEvent.State) */
#define SESSION_STATE_TABLE(X)                                                                     \
    X(SESSION_DISABLED, "DISABLED", 1)                                                             \
    X(SESSION_CONFIGURED, "CONFIGURED", 2)                                                         \
    X(SESSION_STARTED, "STARTED", 3)                                                               \
    X(SESSION_STOP_WAIT, "STOP_WAIT", 4)                                                           \
    X(SESSION_CLONED, "CLONED_READ_ONLY", 5)

enum session_state {
#define SESSION_X(constant, name, number) constant,
    SESSION_STATE_TABLE(SESSION_X)
#undef SESSION_X
        SESSION_STATES
};

const char *session_state_name(enum session_state state);
uint32_t session_state_number(enum session_state state);

/* True when the edge is one of table L of service.md 1.2. */
bool session_may_enter(enum session_state from, enum session_state to);

/* ---- life ---- */

/* What can be said against a config before the file of its output_path is made (V1 to V21). 0, or
 * positive with one line in why. */
int session_check(struct consumer *c, const struct tracecfg *cfg, char *why, size_t whylen);

/* EnableTracing: takes cfg, fd and file in every case. file: the one that was made for its
 * output_path, after session_check; NULL: it has none. 0 and the session, bound to the consumer,
 * set up and started unless it must wait; positive when it was refused: why then holds one line for
 * the consumer (R12, R13); -ENOMEM. */
int session_enable(struct consumer *c, struct tracecfg *cfg, int fd, struct filewr *file,
                   struct session **out, char *why, size_t whylen);

/* StartTracing. Nothing in any state but CONFIGURED (R7). */
void session_start(struct session *s);

/* DisableTracing: graceful. Nothing when it is not running (R7). error: text for the consumer, or
 * NULL. */
void session_disable(struct session *s, const char *error);

/* Final flush, then disable, or destroy when nobody is attached (R29). */
void session_flush_and_disable(struct session *s);

/* FreeBuffers: disable at once, then destroy (R35). A file gets the rest of the data first, from
 * the loop; the session is gone for everybody else. error: as above. */
void session_free(struct session *s, const char *error);

/* ChangeTraceConfig (R193-R195). */
void session_change(struct session *s, const struct tracecfg *cfg);

/* Ties it to a consumer endpoint (actor id), or to none. */
void session_attach(struct session *s, uint64_t consumer);
void session_detach(struct session *s, struct bytes_view key);

/* Detach keys: the detached session of that uid and key, or NULL (R186-R189). */
struct session *session_detached(struct service *svc, uid_t uid, struct bytes_view key);

/* ---- instances tell ---- */

/* An instance has become STARTED, or one was removed (R28). */
void session_check_started(struct session *s);

/* An instance has become STOPPED, or one was removed: the stop may be complete (R26, R33). */
void session_check_stopped(struct session *s);

/* ---- flush (section 6) ---- */

/* Consumer Flush: answered with MSG_CP_REPLY to the consumer's transport. */
void session_flush_request(struct session *s, uint64_t cookie, uint32_t timeout_ms, uint64_t flags);

/* Tells all sessions that wait for it that a producer has flushed up to id (R95). */
void session_flush_ack(struct service *svc, struct producer *p, uint64_t id);

/* ---- reading (section 7) ---- */

/* A call of session_read_batch may take a millisecond, not some microseconds. */
bool session_read_is_long(const struct session *s);

/* True when ReadBuffers has nothing to give (R101). */
bool session_read_empty(const struct session *s);

/* Puts one batch into the sink: packets until threshold bytes are reached (R103). *more: there is
 * more now. 0; positive: the sink refused, the batch ends there; -errno. */
int session_read_batch(struct session *s, size_t threshold, struct packet_sink *sink, bool *more);

/* The TraceStats message of this moment (R208), at most max bytes. */
void session_read_stats(struct session *s, struct bytesbuf *out, size_t max);

/* ---- triggers (section 11) ---- */

/* One name of ActivateTriggers, for all sessions. */
void session_trigger_activate(struct service *svc, struct producer *p, struct bytes_view name);

/* ---- clones (12.8) ---- */

/* CloneSession: request is encoded, fd is taken. The answer goes to c's clone_cookie, at once or
 * when the clone is complete. */
void session_clone_request(struct consumer *c, struct bytes_view request, int fd);

/* ---- observing (12.4) ---- */

/* The consumer has a new mask: tells what is true now (R197, R199). */
void session_observe(struct session *s, uint32_t mask);

#endif
