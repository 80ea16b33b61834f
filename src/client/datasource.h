/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data sources of a producer: what can be traced (a type, registered with the service) and what is
 * being traced (an instance, one per session that asked). The producer link turns the service's
 * commands into calls of the type's table; everything here runs on the loop's thread unless it says
 * otherwise.
 *
 * Life of an instance: setup -> start -> (flush, clear_incremental)* -> stop -> [stopped] ->
 * destroy. If the connection is lost, stop and destroy follow at once and nothing is acknowledged
 * (R258).
 */
#ifndef CLIENT_DATASOURCE_H
#define CLIENT_DATASOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/ds_inst.h"
#include "smb/arbiter.h"

struct prodlink;
struct datasource;

/* What an instance is asked to do: the encoded DataSourceConfig, and the fields everybody needs. */
struct ds_config {
    const uint8_t *bytes; /* borrow: valid during setup() only */
    size_t len;
    uint64_t instance_id;
    uint64_t session_id;        /* DataSourceConfig.tracing_session_id */
    uint32_t trace_duration_ms; /* 0 = open end */
    uint32_t stop_timeout_ms;   /* 0 = the service's default (5 s) */
    uint16_t target_buffer;
    uint8_t exhausted_policy; /* buffer_exhausted_policy as sent: 0 = the source's own (R63) */
};

struct datasource_ops {
    /* A session wants this source. Parse the config, allocate, touch nothing yet. Non-zero (an
     * errno) refuses: the instance then exists without doing anything, as the protocol has no
     * refusal. */
    int (*setup)(struct ds_inst *inst, const struct ds_config *cfg);
    /* Begin. NotifyDataSourceStarted follows by itself when this returns true; otherwise when
     * ds_inst_started() is called. */
    bool (*start)(struct ds_inst *inst);
    /* End. True: done, destroy follows at once. False: ds_inst_stopped() will be called; until then
     * the instance works. May be NULL (= true). */
    bool (*stop)(struct ds_inst *inst);
    /* Bring out what is buffered: write it and writer_flush(w, NULL, NULL). True: done. False:
     * ds_inst_flushed(inst, flush_id) will be called. flags as R94. NULL = nothing to do. */
    bool (*flush)(struct ds_inst *inst, uint64_t flush_id, uint64_t flags);
    /* Emit everything that later packets refer to anew. May be NULL. */
    void (*clear_incremental)(struct ds_inst *inst);
    /* The last call: free the writers and what ds_inst_ctx() points at. May be NULL. */
    void (*destroy)(struct ds_inst *inst);
};

struct datasource_def {
    const char *name; /* borrow: copied */
    const uint8_t
        *descriptor; /* borrow: encoded DataSourceDescriptor; NULL = made from the fields here */
    size_t descriptor_len;
    const struct datasource_ops *ops; /* borrow: static */
    void *ctx;                        /* borrow: datasource_ctx() */
    bool will_notify_on_start;
    bool will_notify_on_stop;
    bool handles_incremental_state_clear;
    bool no_flush;
    enum arbiter_policy policy; /* 0 = drop */
    bool policy_configurable;   /* DataSourceConfig.buffer_exhausted_policy overrides it (R63) */
};

/*
 * Makes a type known to the link, which registers it with the service now or when it connects, and
 * again after each reconnection. The flags of def are merged into the descriptor where it does not
 * set them (R49). 0, or -errno with *out untouched. The link owns the result.
 */
int datasource_register(struct prodlink *link, const struct datasource_def *def,
                        struct datasource **out);

/* Sends a new descriptor (UpdateDataSource, or in place of the old one if not yet registered, R50).
 * Its name must be the same: EINVAL otherwise. Copies the bytes. */
int datasource_update(struct datasource *ds, const uint8_t *descriptor, size_t len);

/* UnregisterDataSource; its instances are stopped and destroyed first. Frees ds. */
void datasource_unregister(struct datasource *ds);

void *datasource_ctx(const struct datasource *ds);
const char *datasource_name(const struct datasource *ds);

/* ---- for the link ---- */

/* The connection is up: registers every type. */
void datasource_announce_all(struct prodlink *link);
/* Frees every type; no instance is left. */
void datasource_free_all(struct prodlink *link);

#endif
