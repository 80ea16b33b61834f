/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The producer's arbiter: one per SMB. Hands free chunks to writers, collects returned chunks and
 * patches in one pending commit, and talks to the service through a table of operations (spec
 * section 7).
 *
 * Threads: writers run on any thread; one lock per arbiter. Everything is sent from the IPC thread,
 * by arbiter_run() and the functions marked [ipc]. Operations are called without the lock held,
 * except on_ipc_thread and now_ms, which may be called with it and must not call back. Knows no
 * socket, loop or message library.
 */
#ifndef SMB_ARBITER_H
#define SMB_ARBITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smb/commit.h"
#include "smb/page.h"
#include "smb/patch.h"

/* DataSourceConfig.buffer_exhausted_policy, section 7.2. */
enum arbiter_policy {
    ARBITER_DROP = 1,
    ARBITER_STALL_ABORT = 2,
    ARBITER_STALL_DROP = 3,
};

/* acked: the service confirmed; otherwise the connection or the arbiter ended first. On the IPC
 * thread (null writers: at once, on the caller's). */
typedef void arbiter_flush_cb(void *ctx, bool acked);

struct arbiter_ops {
    /* [ipc] Encodes and queues the request; *req and all it points to are gone afterwards. A
     * non-zero req->ack_cookie asks for a reply, to be handed to arbiter_acked(). */
    void (*send_commit)(void *ctx, const struct commit_request *req);
    /* [ipc] RegisterTraceWriter / UnregisterTraceWriter (R36). */
    void (*register_writer)(void *ctx, uint16_t writer_id, uint16_t target_buffer);
    void (*unregister_writer)(void *ctx, uint16_t writer_id);
    /* Any thread, never with the lock held: see to it that arbiter_run() is called on the IPC
     * thread in delay_ms, or at the next opportunity when 0. Must not call it from inside. */
    void (*schedule)(void *ctx, uint32_t delay_ms);
    /* [ipc] May more be sent now? When not, everything stays pending until arbiter_run(), which the
     * client layer calls when its queue has drained. NULL = always. */
    bool (*ready)(void *ctx);
    bool (*on_ipc_thread)(void *ctx);                  /* any thread */
    uint64_t (*now_ms)(void *ctx);                     /* any thread; monotonic */
    void (*wait_us)(void *ctx, uint32_t us);           /* any thread; NULL = nanosleep */
    void (*exhausted)(void *ctx, const char *message); /* STALL_ABORT ran out: end the process, or
                                                          return to drop; NULL = log and drop */
};

struct arbiter_cfg {
    struct shmem *shm;      /* borrow: outlives the arbiter */
    enum smb_layout layout; /* for pages we partition; NONE = Div1 (R15) */
    uint32_t batch_ms;      /* R69 */
    bool emulated;          /* R106: chunks travel as bytes */
    bool direct_patching;   /* R74: wanted by us and supported by the service */
    bool self_scrape;       /* R111: scraping asked for explicitly, and emulated */
    bool unbound;           /* start without an endpoint (R80): arbiter_bind() comes later */
};

struct arbiter;

/* The table and ctx must stay until arbiter_free(). ops may be NULL iff cfg->unbound. NULL when out
 * of memory. */
struct arbiter *arbiter_new(const struct arbiter_cfg *cfg, const struct arbiter_ops *ops,
                            void *ctx);

/* [ipc] Ends it; all writers must be gone (arbiter_shutdown() returned true). Unacknowledged flush
 * callbacks run with acked = false. Nothing is sent. NULL is allowed. */
void arbiter_free(struct arbiter *arb);

/* R85: from now on writers are null writers. True if none of the real ones is left. Any thread. */
bool arbiter_shutdown(struct arbiter *arb);

/*
 * [ipc] The connection is gone: nothing is sent any more and unacknowledged flush callbacks run
 * with acked = false. Live writers keep writing into the void until they are freed; the arbiter and
 * its shm stay until arbiter_shutdown() says true.
 */
void arbiter_disconnect(struct arbiter *arb);

/* [ipc] R81: an unbound arbiter meets its endpoint. direct_patching and emulated are the service's.
 */
void arbiter_bind(struct arbiter *arb, const struct arbiter_ops *ops, void *ctx,
                  bool direct_patching);

/* [ipc] R82, R83: resolves a reservation to a buffer, or to none. Abort is allowed before
 * arbiter_bind(). 0, -EEXIST if already resolved, -ENOMEM. */
int arbiter_bind_reservation(struct arbiter *arb, uint16_t reservation, uint16_t target_buffer);
int arbiter_abort_reservation(struct arbiter *arb, uint16_t reservation);

/* [ipc] Does what is due: registrations, commits, flushes. Called as asked through ops->schedule;
 * calling it early is harmless. */
void arbiter_run(struct arbiter *arb);

/* Sends what is pending: at once on the IPC thread, else as soon as arbiter_run() runs there (R60).
 * With cb, and nothing pending, an empty request is sent as a fence (R79). Any thread. */
void arbiter_flush(struct arbiter *arb, arbiter_flush_cb *cb, void *ctx);

/* [ipc] The reply to a request with this cookie arrived; ok = the service took it. */
void arbiter_acked(struct arbiter *arb, uint64_t cookie, bool ok);

/* [ipc] R78: acknowledges flush `id`; an emulated self-scraping producer scrapes first (R111). */
void arbiter_ack_flush(struct arbiter *arb, uint64_t id);

/* R72: takes effect after the send already scheduled. Any thread. */
void arbiter_set_batch_ms(struct arbiter *arb, uint32_t batch_ms);

/* ---- for smb/writer ---- */

struct writer;

struct arbiter_task;

/* What the arbiter knows of a live writer; embedded in it. All but id is the arbiter's own. */
struct arbiter_client {
    struct arbiter_client *next; /* borrow: the arbiter's list of live writers */
    struct arbiter_task *hello;  /* own: the registration, until it is posted */
    struct arbiter_task *bye;    /* own: its counterpart, so that the end cannot fail */
    uint32_t target;             /* buffer, or ARBITER_RESERVED | reservation */
    uint16_t id;                 /* 0 = null writer */
};
#define ARBITER_RESERVED 0x10000u

/* Takes an id and registers. False: be a null writer. target as in arbiter_client. */
bool arbiter_attach(struct arbiter *arb, struct arbiter_client *c, uint32_t target);
/* Gives the id back; after the writer's last chunk was returned. */
void arbiter_detach(struct arbiter *arb, struct arbiter_client *c);

/*
 * A free chunk with its header written (section 7.1, 7.2), or false. `dropping` = this writer is
 * already losing data (R62, stall-then-drop does not wait again). May block as the policy says.
 */
bool arbiter_get_chunk(struct arbiter *arb, const struct arbiter_client *c,
                       enum arbiter_policy policy, bool dropping, uint32_t chunk_id,
                       uint16_t packets, struct page_chunk *out);

/* Returns a chunk and hands over the completed patches at the list's head. */
void arbiter_put_chunk(struct arbiter *arb, const struct arbiter_client *c,
                       const struct page_chunk *chunk, struct patch_list *patches);

/* Hands over completed patches only. Cheap when there are none. */
void arbiter_put_patches(struct arbiter *arb, const struct arbiter_client *c,
                         struct patch_list *patches);

#endif
