/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DataSourceConfig of one instance, made by editing the bytes of the consumer's entry: fields
 * that the service sets are left out of the copy and appended with its own values, everything else,
 * unknown fields included, passes as it is. Working on bytes keeps what this build does not know.
 * Invariant: after dsconfig_new the bytes never change, so any number of messages may share them.
 */
#include "svc/dsconfig.h"

#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"

/* Longest tail that the service appends. */
#define TAIL_MAX 96

static bool is_ours(uint32_t field, const struct dsconfig_fields *fields)
{
    switch (field) {
    case PBF_DataSourceConfig_target_buffer:
    case PBF_DataSourceConfig_trace_duration_ms:
    case PBF_DataSourceConfig_tracing_session_id:
    case PBF_DataSourceConfig_enable_extra_guardrails:
    case PBF_DataSourceConfig_stop_timeout_ms:
    case PBF_DataSourceConfig_session_initiator:
        return true;
    case PBF_DataSourceConfig_prefer_suspend_clock_for_duration:
        return fields->prefer_suspend_clock_for_duration;
    default:
        return false;
    }
}

static void append_tail(struct bytesbuf *b, const struct dsconfig_fields *f)
{
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_target_buffer, f->target_buffer);
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_trace_duration_ms, f->trace_duration_ms);
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_tracing_session_id, f->tracing_session_id);
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_enable_extra_guardrails, f->enable_extra_guardrails);
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_stop_timeout_ms, f->stop_timeout_ms);
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_session_initiator, 0);
    if (f->prefer_suspend_clock_for_duration)
        bytesbuf_pb_varint(b, PBF_DataSourceConfig_prefer_suspend_clock_for_duration, 1);
}

/* The name as the producer will read it: the last one counts. */
static struct bytes_view find_name(const struct dsconfig *c)
{
    struct bytes_view name = {NULL, 0};
    struct bytes_field f;
    for (struct bytes_cur cur = bytes_cur(dsconfig_view(c)); bytes_next(&cur, &f);) {
        if (f.id == PBF_DataSourceConfig_name && f.type == BYTES_LEN)
            name = f.data;
    }
    return name;
}

struct dsconfig *dsconfig_new(const struct bytes_view *pieces, size_t n,
                              const struct dsconfig_fields *fields)
{
    size_t total = TAIL_MAX;
    for (size_t i = 0; i < n; i++)
        total += pieces[i].n;
    struct bytesbuf b;
    bytesbuf_init(&b, total);
    for (size_t i = 0; i < n; i++) {
        struct bytes_cur cur = bytes_cur(pieces[i]);
        struct bytes_field f;
        while (bytes_next(&cur, &f)) {
            if (!is_ours(f.id, fields))
                bytesbuf_put(&b, f.raw.p, f.raw.n);
        }
    }
    append_tail(&b, fields);
    struct dsconfig *c = b.failed ? NULL : alloc_try(sizeof(*c) + b.n);
    if (c) {
        c->refs = 1;
        c->n = b.n;
        memcpy(c->bytes, b.p, b.n);
        c->name = find_name(c);
    }
    bytesbuf_fini(&b);
    return c;
}

struct dsconfig *dsconfig_ref(struct dsconfig *c)
{
    c->refs++;
    return c;
}

void dsconfig_unref(struct dsconfig *c)
{
    if (c && --c->refs == 0)
        free(c);
}
