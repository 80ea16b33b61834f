/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The producer's link to a tracing service: connection, shared memory, commands. It keeps itself
 * alive: connects when there is a service, registers the data sources, and starts over when the
 * service goes away. Nothing here blocks, and the absence of a service is not an error.
 *
 * Loop's thread only. Writers (smb/writer) are the exception: they run anywhere.
 */
#ifndef CLIENT_PRODLINK_H
#define CLIENT_PRODLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prodlink;
struct reactor;

/* InitializeConnectionRequest.smb_scraping_mode, SMB spec R98. */
enum prodlink_scraping {
    PRODLINK_SCRAPING_DEFAULT = 0,
    PRODLINK_SCRAPING_ON = 1,
    PRODLINK_SCRAPING_OFF = 2,
};

/* When to try again after a failed connect. A lost connection is retried at once in both cases. */
enum prodlink_retry {
    PRODLINK_RETRY_DAEMON, /* 200 ms doubling to 30 s (ipc R82) */
    PRODLINK_RETRY_SDK,    /* 1, 2, ... 10 s, then 30 s (ipc R79) */
    PRODLINK_RETRY_NEVER,  /* the first loss is final */
};

enum prodlink_state {
    PRODLINK_IDLE,       /* waiting for the next attempt, or given up */
    PRODLINK_CONNECTING, /* socket, bind, InitializeConnection */
    PRODLINK_CONNECTED,
};

struct prodlink_cfg {
    const char *producer_name; /* borrow: copied; R85 */
    const char *socket_name;   /* borrow: copied; NULL = ipc/sockname's default for producers */
    uint32_t shm_size_hint;    /* bytes; 0 = the service decides */
    uint32_t shm_page_hint;    /* bytes; 0 = the service decides */
    enum prodlink_scraping scraping;
    enum prodlink_retry retry;
    uint32_t batch_ms;    /* commit batching, SMB spec R69 */
    bool direct_patching; /* SMB spec R74, used if the service supports it */
    bool provide_shmem;   /* offer an SMB of ours, SMB spec 2.2; needs both hints */
    /* Told of each edge of the state; may be NULL. Must not free the link. */
    void (*on_state)(void *ctx, enum prodlink_state state);
    void *ctx;
};

/* Creates the link and makes the first attempt in the next tick. NULL when out of memory. Own the
 * result. */
struct prodlink *prodlink_new(struct reactor *r, const struct prodlink_cfg *cfg);

/* Stops and destroys all instances, closes, frees the data sources and the link. All writers must
 * have been freed (each source's destroy() does). NULL is allowed. */
void prodlink_free(struct prodlink *link);

enum prodlink_state prodlink_state(const struct prodlink *link);

/* Connect now instead of at the next retry; no-op unless idle. */
void prodlink_kick(struct prodlink *link);

/* ActivateTriggers, now or if the link connects within ttl_ms (R32). Names are copied. 0 or -errno.
 */
int prodlink_activate_triggers(struct prodlink *link, const char *const *names, size_t count,
                               uint32_t ttl_ms);

/* cb(ctx, true) once the service has processed everything sent before (ipc R97), cb(ctx, false) if
 * the connection ends first. While not connected the request waits for the connection. 0 or -errno.
 */
int prodlink_sync(struct prodlink *link, void (*cb)(void *ctx, bool ok), void *ctx);

#endif
