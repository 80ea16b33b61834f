/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_DSCONFIG_H
#define SVC_DSCONFIG_H

/*
 * The DataSourceConfig that one instance gets: a counted, immutable run of bytes shared by the
 * instance, its SetupDataSource and its StartDataSource (service.md R6, R69).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"

struct dsconfig {
    uint32_t refs;
    struct bytes_view name; /* of the data source: into bytes */
    size_t n;
    uint8_t bytes[];
};

/* What the service overwrites (R69). */
struct dsconfig_fields {
    uint32_t target_buffer; /* global id */
    uint32_t trace_duration_ms;
    uint64_t tracing_session_id;
    uint32_t stop_timeout_ms;
    bool enable_extra_guardrails;
    bool prefer_suspend_clock_for_duration; /* written only when true */
};

/* Copies the entry's config, unknown fields included, with those fields in place of its own. The
 * config comes in pieces because an entry may hold its config field several times (they merge).
 * NULL when there is no memory. The caller owns the one reference. */
struct dsconfig *dsconfig_new(const struct bytes_view *pieces, size_t n,
                              const struct dsconfig_fields *fields);

struct dsconfig *dsconfig_ref(struct dsconfig *c);
void dsconfig_unref(struct dsconfig *c); /* NULL allowed */

static inline struct bytes_view dsconfig_view(const struct dsconfig *c)
{
    return bytes_view(c->bytes, c->n);
}

#endif
