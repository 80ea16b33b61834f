/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer to QueryServiceState. Parts are valid messages whose concatenation is the whole, so an
 * entry may go into any part: a new part is begun whenever the next entry would make the current
 * one too large for a frame (R206), for producers and sessions as well as for data sources.
 *
 * With ten thousand producers that is megabytes and milliseconds, so it is made part by part, in
 * slices, and no further than the consumer reads. In between peers come and go. The picture is that
 * of the begin as far as it can be: the counts are of then, who came later is left out, who has
 * left before its turn too, and no data source is told whose producer came later. It owns the part
 * at hand and the name at which it stands.
 */
#include "svc/statequery.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define PART_MAX (131072 - 128) /* R206 */
/* Room for tags, lengths and whatever one entry holds beside its names. */
#define ENTRY_MAX (160u << 10)

/* Takes the finished part off; false when there was no memory for it. */
static bool close_part(struct statequery *q, struct bytesbuf *response)
{
    bool ok = !q->state.failed;
    bytesbuf_init(response, PART_MAX + ENTRY_MAX + 16);
    bytesbuf_pb_bytes(response, PBF_QueryServiceStateResponse_service_state, q->state.p,
                      q->state.n);
    bytesbuf_clear(&q->state);
    return ok && !response->failed;
}

/* Moves the finished entry into the part, or says that a new one has to be begun for it. */
static bool add_entry(struct statequery *q)
{
    if (q->entry.failed) {
        bytesbuf_clear(&q->entry);
        return true;
    }
    if (q->state.n && q->state.n + q->entry.n >= PART_MAX)
        return false;
    bytesbuf_put(&q->state, q->entry.p, q->entry.n);
    bytesbuf_clear(&q->entry);
    return true;
}

/* ---- entries ---- */

static void put_producer(struct bytesbuf *b, const struct producer *p) /* R202 */
{
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
}

static void put_session(struct bytesbuf *b, const struct session *s) /* R204, R205 */
{
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
}

static void put_source(struct bytesbuf *b, const struct datasource *ds) /* R203 */
{
    size_t mark = bytesbuf_pb_begin(b, PBF_TracingServiceState_data_sources);
    bytesbuf_pb_bytes(b, PBF_TracingServiceState_DataSource_ds_descriptor, ds->descriptor.p,
                      ds->descriptor.n);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_DataSource_producer_id, ds->producer->id);
    bytesbuf_pb_end(b, mark);
}

static void put_head(struct bytesbuf *b, const struct service *svc) /* R201 */
{
    uint32_t started = 0;
    list_for_each (it, &svc->sessions)
        started += session_running(list_entry(it, struct session, node));
    bytesbuf_pb_varint(b, PBF_TracingServiceState_num_sessions, service_sessions(svc));
    bytesbuf_pb_varint(b, PBF_TracingServiceState_num_sessions_started, started);
    bytesbuf_pb_str(b, PBF_TracingServiceState_tracing_service_version, svc->version);
    bytesbuf_pb_varint(b, PBF_TracingServiceState_supports_tracing_sessions, 1);
}

/* ---- the order of them ---- */

/* Encodes the next session, false when there are no more. All sessions are told in one slice. */
static bool next_session(struct statequery *q)
{
    list_for_each (it, &q->svc->sessions) {
        const struct session *s = list_entry(it, struct session, node);
        if (s->id < q->session || s->id > q->last_session)
            continue;
        q->session = s->id + 1;
        if (q->uid == 0 || q->uid == s->uid) {
            put_session(&q->entry, s);
            return true;
        }
    }
    return false;
}

/* True when it was there at the begin: ids of actors only grow. */
static bool was_there(const struct statequery *q, const struct producer *p)
{
    return p->actor.id <= q->last_endpoint;
}

static bool next_producer(struct statequery *q)
{
    const struct service *svc = q->svc;
    const struct producer *last = idmap_get(&svc->producer_of, q->producer);
    struct list *it = last ? last->node.next : svc->producers.next;
    while (it != &svc->producers) {
        const struct producer *p = list_entry(it, struct producer, node);
        it = it->next;
        if (p->id <= q->producer || !was_there(q, p))
            continue;
        q->producer = p->id;
        put_producer(&q->entry, p);
        return true;
    }
    return false;
}

/* The place behind a data source, which may be gone by the next slice. */
static int remember(struct statequery *q, const struct datasource *ds)
{
    if (!bytes_equal(bytes_view(q->name, q->name_len), ds->name)) {
        uint8_t *copy = alloc_try_resize(q->name, ds->name.n, 1);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, ds->name.p, ds->name.n);
        q->name = copy;
        q->name_len = ds->name.n;
    }
    q->order = ds->order + 1;
    return 0;
}

static bool next_source(struct statequery *q)
{
    const struct datasource *ds =
        producer_source_from(q->svc, bytes_view(q->name, q->name_len), q->order);
    while (ds && (ds->order > q->last_source || !was_there(q, ds->producer)))
        ds = producer_source_next(ds);
    if (!ds)
        return false;
    if (remember(q, ds))
        q->state.failed = true;
    put_source(&q->entry, ds);
    return true;
}

/* Encodes the next entry; false at the end. */
static bool next_entry(struct statequery *q)
{
    for (;;) {
        bool more = q->stage == STATEQUERY_SESSIONS    ? next_session(q)
                    : q->stage == STATEQUERY_PRODUCERS ? next_producer(q)
                                                       : next_source(q);
        if (more || q->stage == STATEQUERY_SOURCES)
            return more;
        if (q->sessions_only)
            return false;
        q->stage++;
    }
}

/* ---- the whole ---- */

void statequery_begin(struct statequery *q, struct service *svc, uid_t uid, bool sessions_only)
{
    *q = (struct statequery){.svc = svc,
                             .uid = uid,
                             .sessions_only = sessions_only,
                             .stage = STATEQUERY_SESSIONS,
                             .last_session = svc->last_session,
                             .last_source = svc->last_source};
    list_for_each (it, &svc->producers) {
        const struct producer *p = list_entry(it, struct producer, node);
        if (p->actor.id > q->last_endpoint)
            q->last_endpoint = p->actor.id;
    }
    bytesbuf_init(&q->state, PART_MAX + ENTRY_MAX);
    bytesbuf_init(&q->entry, ENTRY_MAX);
    put_head(&q->state, svc);
}

enum statequery_result statequery_step(struct statequery *q, struct task_budget *budget,
                                       struct bytesbuf *response)
{
    while (q->entry.n || next_entry(q)) {
        size_t n = q->entry.n;
        if (!add_entry(q))
            return close_part(q, response) ? STATEQUERY_PART : STATEQUERY_FAILED;
        if (!task_spend(budget, n))
            return STATEQUERY_AGAIN;
    }
    return close_part(q, response) ? STATEQUERY_LAST : STATEQUERY_FAILED;
}

void statequery_end(struct statequery *q)
{
    bytesbuf_fini(&q->state);
    bytesbuf_fini(&q->entry);
    free(q->name);
    *q = (struct statequery){.stage = STATEQUERY_NONE};
}
