/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packet sequence ids (R127): each writer whose packets a session reads has one, the same for the
 * session's life. So that a session of weeks does not remember every writer there ever was, those
 * that nothing can come from any more are forgotten: their producer is gone, and no buffer of the
 * session knows them. What a reader sees is the same; an id is never given to a second writer.
 *
 * That is done now and then, a little with each batch that is read: first the keys that the buffers
 * know of producers that are gone are collected, then the map is walked. A producer that is
 * connected at the begin, or asked for meanwhile, keeps all it has; so it does not matter what
 * happens to producers and buffers between the steps, and that ProducerIDs come back.
 */
#include "svc/session_ids.h"

#include <errno.h>
#include <stdlib.h>

#include "reactor/alloc.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define PRUNE_MIN 4096u /* ids below which nobody looks */
#define STEP      4096u /* sequences or ids looked at with a batch, and four for each new id */

#define PRODUCERS 65536u

static uint64_t key_of(uint32_t machine_id, uint16_t producer, uint16_t writer)
{
    return (uint64_t)machine_id << 32 | (uint32_t)producer << 16 | writer;
}

static void keep_producer(struct session_ids *ids, uint16_t producer)
{
    ids->here[producer / 64] |= UINT64_C(1) << producer % 64;
}

static bool is_kept(const struct session_ids *ids, uint64_t key)
{
    uint16_t producer = (uint16_t)(key >> 16);
    return (ids->here[producer / 64] >> producer % 64 & 1) != 0;
}

static void stop(struct session_ids *ids)
{
    free(ids->here);
    ids->here = NULL;
    idmap_fini(&ids->stored);
    ids->stage = SESSION_IDS_REST;
}

void session_ids_init(struct session_ids *ids)
{
    *ids = (struct session_ids){.last = 1, .prune_at = PRUNE_MIN};
    idmap_init(&ids->of);
    idmap_init(&ids->stored);
}

void session_ids_fini(struct session_ids *ids)
{
    stop(ids);
    idmap_fini(&ids->of);
}

uint32_t session_ids_get(struct session_ids *ids, uint32_t machine_id, uint16_t producer,
                         uint16_t writer)
{
    uint64_t key = key_of(machine_id, producer, writer);
    uintptr_t id = (uintptr_t)idmap_get(&ids->of, key);
    if (ids->stage != SESSION_IDS_REST)
        keep_producer(ids, producer);
    if (id)
        return (uint32_t)id;
    id = ++ids->last;
    idmap_put(&ids->of, key, (void *)id);
    return (uint32_t)id;
}

/* Who is connected now. No memory: another time. */
static bool begin(struct session *s)
{
    struct session_ids *ids = &s->ids;
    uint64_t producer;
    void *p;
    ids->here = alloc_try_array(PRODUCERS / 64, sizeof(*ids->here));
    if (!ids->here)
        return false;
    for (size_t pos = 0; idmap_next(&s->svc->producer_of, &pos, &producer, &p);)
        keep_producer(ids, (uint16_t)producer);
    ids->buffer = 0;
    ids->cursor = 0;
    ids->pos = 0;
    ids->stage = SESSION_IDS_COLLECT;
    return true;
}

/* Collects what buffers know of others; returns what is left of `work`. */
static size_t collect(struct session *s, size_t work)
{
    struct session_ids *ids = &s->ids;
    struct tbuf_sequence q;
    while (work > 0 && ids->buffer < s->nbuffers) {
        uint32_t from = ids->cursor;
        if (!tbuf_next_sequence(s->buffers[ids->buffer].tb, &ids->cursor, &q)) {
            ids->buffer++;
            ids->cursor = 0;
            continue;
        }
        size_t passed = ids->cursor - from;
        work -= passed < work ? passed : work;
        uint64_t key = key_of(q.machine_id, q.producer_id, q.writer_id);
        if (!is_kept(ids, key) && idmap_put(&ids->stored, key, ids) == -ENOMEM) {
            stop(ids);
            return 0;
        }
    }
    if (ids->buffer == s->nbuffers)
        ids->stage = SESSION_IDS_SWEEP;
    return work;
}

static void sweep(struct session_ids *ids, size_t work)
{
    uint64_t key;
    void *id;
    while (work > 0) {
        size_t from = ids->pos;
        if (!idmap_next(&ids->of, &ids->pos, &key, &id)) {
            stop(ids);
            size_t twice = 2 * idmap_count(&ids->of);
            ids->prune_at = twice > PRUNE_MIN ? twice : PRUNE_MIN;
            return;
        }
        size_t passed = ids->pos - from;
        work -= passed < work ? passed : work;
        if (!is_kept(ids, key) && !idmap_get(&ids->stored, key)) {
            idmap_del(&ids->of, key);
            ids->pos--; /* another one may have moved there */
        }
    }
}

void session_ids_step(struct session *s)
{
    struct session_ids *ids = &s->ids;
    size_t work = STEP + 4 * (size_t)(ids->last - ids->worked);
    ids->worked = ids->last;
    if (s->large.state != LARGE_NONE) /* its id is asked for at its end */
        return;
    if (ids->stage == SESSION_IDS_REST && (idmap_count(&ids->of) < ids->prune_at || !begin(s)))
        return;
    if (ids->stage == SESSION_IDS_COLLECT)
        work = collect(s, work);
    if (ids->stage == SESSION_IDS_SWEEP)
        sweep(ids, work);
}
