/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SESSION_INT_H
#define SVC_SESSION_INT_H

/*
 * What the parts of a session (session_*.c) ask of each other. The struct is in
 * svc/session_types.h.
 */

#include "svc/session.h"
#include "svc/session_flush.h"
#include "svc/session_types.h"

/* Enters a state: logs the edge, notes the time, tells observers of concurrent sessions. An illegal
 * edge is logged and refused. */
void session_enter(struct session *s, enum session_state state);

/* New object, listed, CONFIGURED-to-be: for session_enable and for clones. Takes cfg. -ENOMEM or 0.
 */
int session_new(struct service *svc, uid_t uid, struct tracecfg *cfg, struct session **out);

/* Takes it out of everything and lets the actor die. */
void session_destroy(struct session *s);

/* Allocates the buffers (V25). 0, or positive or negative with a line in why. */
int session_alloc_buffers(struct session *s, char *why, size_t whylen);
int session_alloc_buffer(struct session *s, size_t index, bool writable, char *why, size_t whylen);
void session_release_buffers(struct session *s);

/* Checks against other sessions: V14 to V20 (svc/session_admit). again: the same request was let in
 * before, and has waited for its file. 0 or positive with a line. */
int session_admit(struct service *svc, uid_t uid, const struct tracecfg *cfg, bool again, char *why,
                  size_t whylen);
void session_admit_forget(struct service *svc); /* frees the table of cooldowns */

/* The stop is over: scrape, event, file, notification (R33). Called when all instances are stopped.
 */
void session_complete_stop(struct session *s);

/* What comes after the final scrape, and after the final drain. */
void session_stopped(struct session *s);

/* MSG_CP_* to its consumer's endpoint: the end of tracing (R33). */
void session_notify_disabled(struct session *s);

/* What its consumer is told at the end; NULL and "" change nothing. */
void session_set_error(struct session *s, const char *error);

/* Takes cfg in place of the config it has; NULL: at its end. */
void session_set_config(struct session *s, struct tracecfg *cfg);

/* All instances have been told to stop: completes the stop, or waits for the acks. */
void session_walked_stop(struct session *s);
/* The same for a session that is freed: the rest of its end. */
void session_walked_out(struct session *s);

/* True while a matching registration gets an instance (R34). */
static inline bool session_takes_instances(const struct session *s)
{
    return (s->state == SESSION_CONFIGURED || s->state == SESSION_STARTED) &&
           s->walk.kind != SESSION_WALK_STOP;
}

/* True while something is being done to its instances that its consumer's requests must see done.
 */
static inline bool session_is_walking(const struct session *s)
{
    return s->walk.kind != SESSION_WALK_NONE || s->nasking > 0;
}

/* The duration that a new instance is told: during EnableTracing the one of its config, whatever
 * its triggers make of it (R70). */
static inline uint32_t session_setup_duration(const struct session *s)
{
    return s->walk.kind == SESSION_WALK_SETUP ? s->walk.duration_ms : s->cfg->duration_ms;
}

/* The machine in a word: it writes data and its producers are told. */
static inline bool session_running(const struct session *s)
{
    return s->state == SESSION_STARTED;
}

/* ---- session_timers ---- */
void session_timers_init(struct session *s);
void session_timers_cancel(struct session *s);
void session_timers_start(struct session *s);    /* R21.4-8, 11 */
void session_timers_arm_stop(struct session *s); /* R31 */
uint32_t session_stop_timeout_ms(const struct session *s);

/* ---- session_flush ---- */
/* Starts a flush (R91-R94). timeout_ms 0: the session's. done is called from the loop, or at once
 * when the flush is refused. */
void session_flush_start(struct session *s, uint32_t timeout_ms, uint64_t flags,
                         enum session_flush_group group, session_flush_done *done, void *arg,
                         uint64_t cookie);
/* MSG_S_FLUSHED: those behind `since` up to `id`. */
void session_flush_acked(struct session *s, uint16_t producer, uint64_t since, uint64_t id);
void session_flush_init(struct session *s);
void session_flush_abort_all(struct session *s); /* the session goes */
void session_flush_open(struct service *svc);    /* the turns in which producers are asked */
void session_flush_close(struct service *svc);

/* ---- session_events ---- */
void session_event_record(struct session *s, enum selfpkt_event kind, bool snapshot);
void session_event_record_at(struct session *s, enum selfpkt_event kind, uint32_t value,
                             uint64_t boot_ns);
/* producers: those that are missing, ascending; for LAST_FLUSH_SLOW. */
void session_event_slow(struct session *s, enum selfpkt_event kind, const uint16_t *producers,
                        uint32_t n);
void session_event_drop(struct session *s, enum selfpkt_event kind);
void session_event_snapshot(struct session *s);
int session_event_copy(struct session *to, const struct session *from);
void session_event_free_all(struct session *s);
/* Appends the packets of all that wait, in order of time, each preceded by its size as a uint32,
 * and forgets them (R107.12, R107.13, R133). */
void session_event_emit(struct session *s, struct bytesbuf *out);
void session_event_emit_concurrent(struct session *s, struct bytesbuf *out);
/* Another session has entered a state (R135). */
void session_event_concurrent(struct session *s, const struct session *other, uint64_t boot_ns);

/* ---- session_read ---- */
void session_read_free(struct session *s);
/* The trusted fields of a packet (R125); returns their length. */
size_t session_read_trailer(struct session *s, const struct tbuf_packet *p, uint8_t *trailer);

/* ---- session_vm ---- */
/* A data source of entry `entry` was set up for a producer: makes its ProtoVM if it is to have one
 * (R72). What goes wrong is logged; the data source works without. */
void session_vm_attach(struct session *s, size_t entry, const struct datasource *ds);

/* A new reader: gets a packet of which some was handed on from its begin. */
void session_read_rewind(struct session *s);

/* One call of session_read_batch. */
struct session_batch {
    struct session *s;
    struct packet_sink *sink;
    size_t size; /* sum of the packets so far, before filter and compression (R103); when they
                    are compressed, of those of earlier calls, too */
    size_t threshold;
    bool limited;    /* filter or compression: work and end_ns hold */
    uint64_t work;   /* left for the call, in units of svc/session_pipe */
    uint64_t end_ns; /* monotonic */
    bool later;      /* a packet is at work and the call's time is up */
    size_t trailers; /* bytes of session.trailers in use */
};

/* ---- session_own ---- */
void session_own_begin(struct session *s); /* a new batch */
bool session_own_build(struct session *s); /* R107.1-15 into scratch; true: call again */
void session_own_end(struct session *s);   /* R107.17 into ending */
bool session_own_stats(struct session *s); /* R107.18 into stats; true: call again */

/* ---- session_pipe ---- */
void session_pipe_begin(struct session_batch *b);       /* first in the call */
bool session_pipe_spent(const struct session_batch *b); /* the call's work or time */
bool session_pipe_busy(const struct session *s);        /* a packet is at work */
int session_pipe_resume(struct session_batch *b);       /* goes on with it */
/* Through the filter and so on. Look at b->later before the next. */
int session_pipe_put(struct session_batch *b, const struct packet *pkt);
int session_pipe_put_raw(struct session_batch *b, const struct packet *pkt); /* past the filter */
/* Some of the packet that the filter has taken. True: it is done, *out and *failed are set. */
bool session_pipe_filter(struct session_batch *b, struct packet *out, bool *failed);
bool session_pipe_vanishes(const struct session_batch *b, bool failed); /* R137 */
/* Compresses what there is time for of *v and moves it forward. */
int session_pipe_feed(struct session_batch *b, struct bytes_view *v);
/* Last in the call: a compressed batch that is full, or the last (all), is ended. */
int session_pipe_end(struct session_batch *b, bool all);
bool session_pipe_giving(const struct session *s); /* one is being handed out */
int session_pipe_give(struct session_batch *b);    /* some of it */
void session_pipe_rewind(struct session *s);
void session_pipe_abandon(struct session *s); /* after a failure: what is at work is lost */
void session_pipe_free(struct session *s);

/* ---- session_large ---- */
/* The first part of a large packet; copied. 0 or -ENOMEM. */
int session_large_begin(struct session *s, size_t buffer, const struct tbuf_packet *p);
/* A little of what is next for it: gathers, checks, filters, compresses or hands on. */
int session_large_step(struct session_batch *b);
/* It is being filtered, or some of it was handed on or compressed: nothing may come in between. */
bool session_large_begun(const struct session *s);
void session_large_rewind(struct session *s);
void session_large_drop(struct session *s);

/* ---- session_file ---- */
void session_file_init(struct session *s);
/* Begins to make the file of cfg's output_path (V24), for a session to come; `ready` as in
 * filewr.h. *out: own. 0, or positive with a line in why. */
int session_file_create(struct service *svc, uid_t uid, const struct tracecfg *cfg,
                        void (*ready)(void *arg, struct filewr *w), void *arg, struct filewr **out,
                        char *why, size_t whylen);
/* The line for a file that could not be made; text: err in words. */
void session_file_explain(const struct tracecfg *cfg, int err, const char *text, char *why,
                          size_t whylen);
/* The file that was made, or the descriptor that came with the request; takes both (V23). */
int session_file_open(struct session *s, int fd, struct filewr *made, char *why, size_t whylen);
/* A clone writes into fd, after what comes from prefix (see filewr_share; -1: nothing). Both are
 * taken (R221). */
int session_file_adopt(struct session *s, int fd, int prefix);
/* It has one, and it is not being closed. */
static inline bool session_file_is_open(const struct session *s)
{
    return s->file && !s->file_over;
}
void session_file_start(struct session *s); /* R21.6 */
bool session_file_flushes_before(const struct session *s);
uint32_t session_file_flush_period(const struct session *s);
/* The last drain; session_stopped follows, from the loop or at once. */
void session_file_finish(struct session *s);
void session_file_free(struct session *s);

/* ---- session_trigger ---- */
void session_trigger_init(struct session *s);
void session_trigger_arm(struct session *s);
bool session_trigger_waiting(const struct session *s); /* R102 */
void session_trigger_free_all(struct session *s);
void session_trigger_forget(struct service *svc); /* frees the history of activations */

/* ---- session_clone ---- */
void session_clone_abort_all(struct session *s);
/* The consumer goes, or asks for another clone (ipc.md R60): what was captured for the one that it
 * waits for is freed. */
void session_clone_forget(struct consumer *c);
void session_clone_init(struct session *s);
void session_clone_cancel(struct session *s); /* the clone goes before it was complete */
/* The file of a clone is complete, or why says why not; that may free the clone. */
void session_clone_file_done(struct session *s, const char *why);

#endif
