/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets, and what a thread keeps for writing them: for each data source a row of eight packets,
 * one for each place of an instance, each with a trace writer while an instance is there.
 *
 * Two threads are interested in a writer: the one that writes packets with it, and the library's
 * thread, which flushes it or takes it away when the session ends. The word `state` says whose it
 * is (client/sdk.h); it lies in memory that no other thread writes to in the normal course, so to
 * take and release it costs two uncontended atomic operations per packet and no lock. A thread
 * waits for it only while the library's thread flushes this very writer.
 *
 * A row belongs to its thread and goes when the thread ends. Writers are freed on the library's
 * thread only: the arbiter of the last one may go with it.
 *
 * Must never: allocate, lock or call the system in a packet of a row that has its writer.
 */
#include <sched.h>
#include <stdlib.h>

#include "client/ds_inst.h"
#include "client/sdk.h"
#include "perfetto/public/packet.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "smb/pbw.h"
#include "smb/writer.h"

struct thread {
    struct perfetto_packet *row[SDK_SOURCES]; /* own; SDK_INSTANCES in each */
};

/* A writer that nobody uses any more. */
struct rubbish {
    struct list node;
    struct writer *writer; /* own */
};

static __thread struct thread *self __attribute__((tls_model("initial-exec"))); /* own */
static pthread_key_t key; /* only for its destructor */
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

/* ---- the end of writers ---- */

/* sdk.lock held. */
static void throw_away(struct perfetto_packet *p)
{
    struct rubbish *r = alloc_new(struct rubbish);
    r->writer = p->writer;
    p->writer = NULL;
    list_push_back(&sdk.trash, &r->node);
    iothread_post(sdk.io, &sdk.bin);
}

void sdk_packet_empty_trash(void *unused)
{
    struct list *node;
    (void)unused;
    do {
        pthread_mutex_lock(&sdk.lock);
        node = list_pop_front(&sdk.trash);
        pthread_mutex_unlock(&sdk.lock);
        if (node) {
            struct rubbish *r = list_entry(node, struct rubbish, node);
            writer_free(r->writer);
            free(r);
        }
    } while (node);
}

static bool move_state(struct perfetto_packet *p, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong(&p->state, &from, to);
}

void sdk_packet_end_all(struct sdk_instance *at)
{
    pthread_mutex_lock(&sdk.lock);
    list_for_each_safe (pos, tmp, &at->packets) {
        struct perfetto_packet *p = list_entry(pos, struct perfetto_packet, node);
        list_remove(&p->node);
        for (;;) { /* until one holds: its thread moves on meanwhile */
            if (move_state(p, SDK_PACKET_IDLE, SDK_PACKET_DEAD)) {
                throw_away(p);
                break;
            }
            if (move_state(p, SDK_PACKET_OPEN, SDK_PACKET_DOOMED) ||
                move_state(p, SDK_PACKET_OPEN_FLUSH, SDK_PACKET_DOOMED)) {
                sdk.doomed++;
                break;
            }
        }
    }
    pthread_mutex_unlock(&sdk.lock);
    sdk_packet_empty_trash(NULL);
}

void sdk_packet_flush(struct sdk_instance *at, void (*before)(void *ctx),
                      void (*cb)(void *ctx, bool acked), void *ctx)
{
    pthread_mutex_lock(&sdk.lock);
    list_for_each (pos, &at->packets) {
        struct perfetto_packet *p = list_entry(pos, struct perfetto_packet, node);
        if (move_state(p, SDK_PACKET_IDLE, SDK_PACKET_FLUSHING)) {
            if (before)
                before(ctx);
            writer_flush(p->writer, cb, ctx);
            atomic_store(&p->state, SDK_PACKET_IDLE);
        } else {
            move_state(p, SDK_PACKET_OPEN, SDK_PACKET_OPEN_FLUSH);
        }
    }
    pthread_mutex_unlock(&sdk.lock);
}

/* The end of a packet whose instance has gone. */
static void bury(struct perfetto_packet *p)
{
    pthread_mutex_lock(&sdk.lock);
    throw_away(p);
    sdk.doomed--;
    atomic_store(&p->state, SDK_PACKET_DEAD);
    pthread_cond_broadcast(&sdk.changed);
    pthread_mutex_unlock(&sdk.lock);
}

/* ---- threads ---- */

/* sdk.lock held. */
static void end_row(struct perfetto_packet *row)
{
    for (unsigned i = 0; i < SDK_INSTANCES; i++) {
        struct perfetto_packet *p = &row[i];
        switch (atomic_load(&p->state)) {
        case SDK_PACKET_DEAD:
            continue;
        case SDK_PACKET_DOOMED:
            sdk.doomed--;
            pthread_cond_broadcast(&sdk.changed);
            break;
        default:
            list_remove(&p->node);
            break;
        }
        throw_away(p); /* an open packet ends there */
    }
}

static void thread_end(void *arg)
{
    struct thread *t = arg;
    self = NULL;
    if (sdk.forked)
        return; /* the parent's writers: nothing here is ours to end */
    pthread_mutex_lock(&sdk.lock);
    for (unsigned i = 0; i < SDK_SOURCES; i++)
        if (t->row[i])
            end_row(t->row[i]);
    pthread_mutex_unlock(&sdk.lock);
    for (unsigned i = 0; i < SDK_SOURCES; i++)
        free(t->row[i]);
    free(t);
}

static void make_key(void)
{
    if (pthread_key_create(&key, thread_end) != 0)
        abort(); /* all of the process's keys are used up: as out of memory */
}

/* The first packet of this thread in this source. */
static struct perfetto_packet *make_row(struct sdk_source *src)
{
    pthread_once(&key_once, make_key);
    if (!self) {
        self = alloc_new(struct thread);
        pthread_setspecific(key, self);
    }
    struct perfetto_packet *row = alloc_array(SDK_INSTANCES, sizeof(*row));
    for (uint32_t i = 0; i < SDK_INSTANCES; i++) {
        row[i].source = src;
        row[i].instance = i;
        list_init(&row[i].node);
    }
    self->row[src->index] = row;
    return row;
}

/* Gets a writer for the instance that has this place now. */
static bool adopt(struct perfetto_packet *p)
{
    struct sdk_instance *at = &p->source->instance[p->instance];
    pthread_mutex_lock(&sdk.lock);
    bool live = at->inst && (__atomic_load_n(&p->source->pub->active, __ATOMIC_RELAXED) &
                             (UINT32_C(1) << p->instance));
    p->writer = live ? ds_inst_writer(at->inst) : NULL;
    if (p->writer) {
        p->state_gen = atomic_load(&at->state_gen) - 1;
        list_push_back(&at->packets, &p->node);
        atomic_store(&p->state, SDK_PACKET_OPEN);
    }
    pthread_mutex_unlock(&sdk.lock);
    return p->writer != NULL;
}

/* The state is not IDLE. */
static bool take_slow(struct perfetto_packet *p)
{
    for (;;) {
        uint32_t state = SDK_PACKET_IDLE;
        if (atomic_compare_exchange_strong(&p->state, &state, SDK_PACKET_OPEN))
            return true;
        if (state == SDK_PACKET_DEAD)
            return adopt(p);
        if (state != SDK_PACKET_FLUSHING)
            return false; /* a packet inside a packet */
        sched_yield();
    }
}

static bool take(struct perfetto_packet *p)
{
    uint32_t state = SDK_PACKET_IDLE;
    return atomic_compare_exchange_strong_explicit(&p->state, &state, SDK_PACKET_OPEN,
                                                   memory_order_acquire, memory_order_relaxed) ||
           take_slow(p);
}

/* ---- begin, next, end ---- */

/* The first packet to be had from place `from` on. */
static struct perfetto_packet *begin(struct sdk_source *src, uint32_t from)
{
    uint32_t active = __atomic_load_n(&src->pub->active, __ATOMIC_ACQUIRE) >> from << from;
    if (!active)
        return NULL;
    struct perfetto_packet *row = self ? self->row[src->index] : NULL;
    if (__builtin_expect(!row, 0))
        row = make_row(src);
    for (; active; active &= active - 1) {
        struct perfetto_packet *p = &row[__builtin_ctz(active)];
        if (take(p)) {
            p->pbw = writer_begin(p->writer);
            return p;
        }
    }
    return NULL;
}

static void release(struct perfetto_packet *p)
{
    uint32_t state = SDK_PACKET_OPEN;
    if (atomic_compare_exchange_strong_explicit(&p->state, &state, SDK_PACKET_IDLE,
                                                memory_order_release, memory_order_acquire))
        return;
    if (state == SDK_PACKET_OPEN_FLUSH) {
        writer_flush(p->writer, NULL, NULL);
        if (move_state(p, SDK_PACKET_OPEN_FLUSH, SDK_PACKET_IDLE))
            return;
    }
    bury(p);
}

struct perfetto_packet *perfetto_packet_begin(struct perfetto_data_source *ds)
{
    /* What was read as active was registered before. */
    if (__atomic_load_n(&ds->active, __ATOMIC_ACQUIRE) == 0)
        return NULL;
    return begin(ds->impl, 0);
}

struct perfetto_packet *perfetto_packet_next(struct perfetto_packet *p)
{
    struct sdk_source *src = p->source;
    uint32_t from = p->instance + 1;
    perfetto_packet_end(p);
    return begin(src, from);
}

void perfetto_packet_end(struct perfetto_packet *p)
{
    writer_end(p->writer);
    release(p);
}

void perfetto_packet_end_and_flush(struct perfetto_packet *p)
{
    writer_flush(p->writer, NULL, NULL);
    release(p);
}

uint32_t perfetto_packet_instance(const struct perfetto_packet *p)
{
    return p->instance;
}

bool perfetto_packet_wants_state(struct perfetto_packet *p)
{
    uint32_t gen =
        atomic_load_explicit(&p->source->instance[p->instance].state_gen, memory_order_relaxed);
    bool wants = gen != p->state_gen;
    p->state_gen = gen;
    return wants;
}

/* ---- fields ---- */

void perfetto_packet_timestamp(struct perfetto_packet *p)
{
    pbw_varint(p->pbw, PBF_TracePacket_timestamp, chrono_boot_ns());
}

void perfetto_packet_varint(struct perfetto_packet *p, uint32_t field, uint64_t v)
{
    pbw_varint(p->pbw, field, v);
}

void perfetto_packet_sint(struct perfetto_packet *p, uint32_t field, int64_t v)
{
    pbw_sint(p->pbw, field, v);
}

void perfetto_packet_fixed32(struct perfetto_packet *p, uint32_t field, uint32_t v)
{
    pbw_fixed32(p->pbw, field, v);
}

void perfetto_packet_fixed64(struct perfetto_packet *p, uint32_t field, uint64_t v)
{
    pbw_fixed64(p->pbw, field, v);
}

void perfetto_packet_float(struct perfetto_packet *p, uint32_t field, float v)
{
    pbw_float(p->pbw, field, v);
}

void perfetto_packet_double(struct perfetto_packet *p, uint32_t field, double v)
{
    pbw_double(p->pbw, field, v);
}

void perfetto_packet_bytes(struct perfetto_packet *p, uint32_t field, const void *data, size_t len)
{
    pbw_bytes(p->pbw, field, data, len);
}

void perfetto_packet_string(struct perfetto_packet *p, uint32_t field, const char *s)
{
    pbw_str(p->pbw, field, s);
}

void perfetto_packet_begin_nested(struct perfetto_packet *p, uint32_t field)
{
    pbw_begin(p->pbw, field);
}

void perfetto_packet_end_nested(struct perfetto_packet *p)
{
    pbw_end(p->pbw);
}
