/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer to QueryServiceState. Parts are valid messages whose concatenation is the whole, so an
 * entry may go into any part: a new part is begun whenever the next entry would make the current
 * one too large for a frame (R206), for producers and sessions as well as for data sources. Owns
 * nothing between two calls.
 */
#include "svc/statequery.h"

#include <errno.h>
#include <stdlib.h>

#include "protos/fieldnum.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define PART_MAX (131072 - 128) /* R206 */
/* Room for tags, lengths and whatever one entry holds beside its names. */
#define ENTRY_MAX (160u << 10)

struct answer {
    struct bytesbuf state; /* TracingServiceState of the part at hand */
    struct bytesbuf entry; /* the next repeated field, tag included */
    statequery_part *part;
    void *arg; /* borrow */
};

static void send_part(struct answer *a, bool more)
{
    struct bytesbuf response;
    bytesbuf_init(&response, a->state.n + 16);
    bytesbuf_pb_bytes(&response, PBF_QueryServiceStateResponse_service_state, a->state.p,
                      a->state.n);
    bytesbuf_clear(&a->state);
    a->part(a->arg, &response, more);
    bytesbuf_fini(&response);
}

/* Moves the finished entry into the part, or into a new one. */
static void add_entry(struct answer *a)
{
    if (!a->entry.failed) {
        if (a->state.n && a->state.n + a->entry.n >= PART_MAX)
            send_part(a, true);
        bytesbuf_put(&a->state, a->entry.p, a->entry.n);
    }
    bytesbuf_clear(&a->entry);
}

/* ---- entries ---- */

static void add_producer(struct answer *a, const struct producer *p) /* R202 */
{
    struct bytesbuf *b = &a->entry;
    size_t mark = bytesbuf_pb_begin(b, PBF_TracingServiceState_producers);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_Producer_id, p->id);
    bytesbuf_pb_bytes(b, PBF_TracingServiceState_Producer_name, p->name, p->name_len);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_Producer_uid, (uint64_t)(int64_t)(int32_t)p->uid);
    bytesbuf_pb_str(b, PBF_TracingServiceState_Producer_sdk_version, p->sdk_version);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_Producer_pid, (uint64_t)(int64_t)p->pid);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_Producer_frozen, 0);
    if (p->machine_id) {
        bytesbuf_pb_varint(b, PBF_TracingServiceState_Producer_machine_id, p->machine_id);
        if (p->machine_name[0])
            bytesbuf_pb_str(b, PBF_TracingServiceState_Producer_machine_name, p->machine_name);
    }
    bytesbuf_pb_end(b, mark);
    add_entry(a);
}

static void add_session(struct answer *a, const struct session *s) /* R204, R205 */
{
    struct bytesbuf *b = &a->entry;
    const struct tracecfg *c = s->cfg;
    size_t mark = bytesbuf_pb_begin(b, PBF_TracingServiceState_tracing_sessions);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_id, s->id);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_consumer_uid,
                       (uint64_t)(int64_t)(int32_t)s->uid);
    bytesbuf_pb_str(b, PBF_TracingServiceState_TracingSession_state, session_state_name(s->state));
    bytesbuf_pb_bytes(b, PBF_TracingServiceState_TracingSession_unique_session_name,
                      c->unique_session_name.p, c->unique_session_name.n);
    for (size_t i = 0; i < c->nbuffers; i++)
        bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_buffer_size_kb,
                           c->buffers[i].size_kb);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_duration_ms, c->duration_ms);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_num_data_sources, s->ninstances);
    if (s->has_initial_clocks)
        bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_start_realtime_ns,
                           clocksnap_get(&s->initial_clocks, CLOCKSNAP_REALTIME));
    if (c->has_bugreport_score)
        bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_bugreport_score,
                           (uint64_t)(int64_t)c->bugreport_score);
    if (c->has_bugreport_filename)
        bytesbuf_pb_bytes(b, PBF_TracingServiceState_TracingSession_bugreport_filename,
                          c->bugreport_filename.p, c->bugreport_filename.n);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_TracingSession_is_started, session_running(s));
    bytesbuf_pb_end(b, mark);
    add_entry(a);
}

static void add_source(struct answer *a, const struct datasource *ds) /* R203 */
{
    struct bytesbuf *b = &a->entry;
    size_t mark = bytesbuf_pb_begin(b, PBF_TracingServiceState_data_sources);
    bytesbuf_pb_bytes(b, PBF_TracingServiceState_DataSource_ds_descriptor, ds->descriptor.p,
                      ds->descriptor.n);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_DataSource_producer_id, ds->producer->id);
    bytesbuf_pb_end(b, mark);
    add_entry(a);
}

/* ---- the whole ---- */

static int add_sources(struct answer *a, const struct service *svc)
{
    struct datasource **all = producer_sources(svc);
    if (!all && svc->nsources)
        return -ENOMEM;
    for (uint32_t i = 0; i < svc->nsources; i++)
        add_source(a, all[i]);
    free(all);
    return 0;
}

static void add_head(struct answer *a, const struct service *svc) /* R201 */
{
    uint32_t started = 0;
    list_for_each (it, &svc->sessions)
        started += session_running(list_entry(it, struct session, node));
    bytesbuf_pb_varint(&a->state, PBF_TracingServiceState_num_sessions, service_sessions(svc));
    bytesbuf_pb_varint(&a->state, PBF_TracingServiceState_num_sessions_started, started);
    bytesbuf_pb_str(&a->state, PBF_TracingServiceState_tracing_service_version, svc->version);
    bytesbuf_pb_varint(&a->state, PBF_TracingServiceState_supports_tracing_sessions, 1);
}

int statequery_answer(struct service *svc, uid_t uid, bool sessions_only, statequery_part *part,
                      void *arg)
{
    int err = 0;
    struct answer a = {.part = part, .arg = arg};
    bytesbuf_init(&a.state, PART_MAX + ENTRY_MAX);
    bytesbuf_init(&a.entry, ENTRY_MAX);
    add_head(&a, svc);
    list_for_each (it, &svc->sessions) {
        const struct session *s = list_entry(it, struct session, node);
        if (uid == 0 || uid == s->uid)
            add_session(&a, s);
    }
    if (!sessions_only) {
        list_for_each (it, &svc->producers)
            add_producer(&a, list_entry(it, struct producer, node));
        err = add_sources(&a, svc);
    }
    if (!err)
        send_part(&a, false);
    bytesbuf_fini(&a.state);
    bytesbuf_fini(&a.entry);
    return err;
}
