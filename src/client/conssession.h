/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLIENT_CONSSESSION_H
#define CLIENT_CONSSESSION_H

/*
 * The consumer's side of one tracing session: a connection to the consumer socket and the calls of
 * ConsumerPort on it (ipc.md section 12). One connection controls at most one session; whoever
 * needs two opens two. Everything is answered from the loop.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "reactor/bytes.h"

struct reactor;
struct conssession;

/* Calls that are answered once, through conssession_ops.done. */
enum conssession_call {
    CONSSESSION_START,        /* reply empty */
    CONSSESSION_DISABLE,      /* reply empty; the end itself is told by `ended` */
    CONSSESSION_FLUSH,        /* reply empty; not ok: timed out, or there is nothing to flush */
    CONSSESSION_FREE_BUFFERS, /* reply empty */
    CONSSESSION_CHANGE,       /* reply empty */
    CONSSESSION_DETACH,       /* reply empty; not ok: no session, or key taken */
    CONSSESSION_ATTACH,       /* reply: AttachResponse; not ok: no such key for this uid */
    CONSSESSION_STATS,        /* reply: GetTraceStatsResponse */
    CONSSESSION_CAPABILITIES, /* reply: QueryCapabilitiesResponse */
    CONSSESSION_CLONE,        /* reply: CloneSessionResponse, which has its own `success` */
    CONSSESSION_QUERY,        /* reply: all TracingServiceState parts, joined (R106) */
    CONSSESSION_READ,         /* reply empty; ok after the last packet */
};

/* Values of observe()'s mask: ObservableEvents.Type. */
enum conssession_event {
    CONSSESSION_INSTANCES = 1,
    CONSSESSION_ALL_STARTED = 2,
    CONSSESSION_CLONE_TRIGGER = 4
};

/* Flush flags (R94): reason in bits 0..3, initiator in bits 4..7. */
enum conssession_flush_flags {
    CONSSESSION_FLUSH_TRACE_STOP = 0x2,
    CONSSESSION_FLUSH_EXPLICIT = 0x4,
    CONSSESSION_FLUSH_BY_COMMAND = 0x20,
    CONSSESSION_FLUSH_BY_SDK = 0x30
};

/* All members but `lost` and `done` may be NULL. The session may be freed in any of them. */
struct conssession_ops {
    /* The service accepted the bind; calls made before were kept and go out now. */
    void (*connected)(void *arg);
    /* No connection could be made, or it was lost: once, after everything pending was answered as
     * failed. `why` is one line. */
    void (*lost)(void *arg, const char *why);
    /* Tracing is over (R101): error is empty, or says why it ended or did not begin. `told` is
     * false if the service did not say so but the request was rejected, as by a lost connection. */
    void (*ended)(void *arg, bool told, struct bytes_view error);
    /* One packet without framing, in pieces that are valid until the next `batch`; len is their
     * total. */
    void (*packet)(void *arg, const struct iovec *pieces, int n, size_t len);
    /* Everything of one ReadBuffers reply was delivered. */
    void (*batch)(void *arg);
    /* Encoded ObservableEvents. */
    void (*event)(void *arg, struct bytes_view events);
    /* A call is finished. */
    void (*done)(void *arg, enum conssession_call call, bool ok, struct bytes_view reply);
};

/* Never NULL. reactor, ops and arg are borrowed. */
struct conssession *conssession_new(struct reactor *reactor, const struct conssession_ops *ops,
                                    void *arg);

/* Closes the connection; the service then destroys the session unless it is detached (R109). Calls
 * nothing back. NULL is fine. */
void conssession_free(struct conssession *s);

/* Where consumers connect to when nobody says otherwise. Static. */
const char *conssession_default_address(void);

/* True if somebody listens at the address. Connects and hangs up; nothing is said on failure. */
bool conssession_reachable(const char *address);

/* Starts connecting, once; a failure later comes as `lost`. 0, or -errno with a line in err. */
int conssession_connect(struct conssession *s, const char *address, char *err, size_t errlen);

/* EnableTracing. fd is the file for write_into_file, -1 for none; borrowed until `connected`. */
void conssession_enable(struct conssession *s, struct bytes_view config, int fd);

/* EnableTracing that only asks to be told of the end, after an attach (R101). */
void conssession_await_end(struct conssession *s);

void conssession_start(struct conssession *s);
void conssession_disable(struct conssession *s);
void conssession_flush(struct conssession *s, uint32_t timeout_ms, uint64_t flags);
void conssession_free_buffers(struct conssession *s);
void conssession_change(struct conssession *s, struct bytes_view config);
void conssession_detach(struct conssession *s, const char *key);
void conssession_attach(struct conssession *s, const char *key);
void conssession_stats(struct conssession *s);
void conssession_capabilities(struct conssession *s);
void conssession_observe(struct conssession *s, unsigned mask);
void conssession_query(struct conssession *s, bool sessions_only);

/* Reads everything that is in the buffers (destructive, R103): `packet` and `batch`, then done. */
void conssession_read(struct conssession *s);

struct conssession_clone {
    uint64_t session_id;         /* 0: by name; UINT64_MAX: best bugreport score */
    const char *name;            /* borrow, NULL: none */
    bool skip_filter, bugreport; /* always sent */
    struct bytes_view trigger_name, trigger_producer; /* sent unless empty, like the rest */
    int32_t trigger_uid;
    uint64_t trigger_boot_ns, trigger_delay_ms;
};

/* fd, -1 for none and borrowed as above, is used by the service if the source session writes into a
 * file. */
void conssession_clone(struct conssession *s, const struct conssession_clone *c, int fd);

#endif
