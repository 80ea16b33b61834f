/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The producer endpoint. All that its peer says is untrusted: sizes are bounded before anything is
 * kept, ids are looked up and never used as an index unchecked, and what is wrong is ignored or
 * counted as service.md 5.5 says. It owns its registrations, its SMB and its queue; its instances
 * belong to their sessions and are told to go when it goes.
 *
 * Invariant: requests take effect in the order in which they came. A request that arrives while a
 * commit is being worked off waits in `queue` (svc/drain); all others are handled in their message.
 */
#include "svc/producer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/drain.h"
#include "svc/dsinst.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

/* Registrations of one producer: beyond these, or what its uid may hold, its connection ends. */
#define MAX_SOURCES 16384

/* A name or version: what one longer than this would call itself is kept and told many times. */
#define MAX_TEXT (32u << 10)

/* Bytes waiting for the drain: the transport stops reading above HIGH, and goes on below LOW. The
 * queue itself holds what one more read can bring. */
#define QUEUE_HIGH (1u << 20)
#define QUEUE_LOW  (256u << 10)

static const struct mailbox_limits queue_limits = {
    .max_count = 1u << 20,
    .max_bytes = 64u << 20,
    .when_full = MAILBOX_REFUSE_NEW,
};

void producer_send(struct producer *p, enum msg_kind kind, const void *payload, size_t size)
{
    actor_post(p->svc->reactor, p->port, p->actor.id, (uint16_t)kind, payload, size);
}

void producer_drop(struct producer *p, int err, const char *why)
{
    struct msg_close m = {.err = err, .why = why};
    producer_send(p, MSG_PP_CLOSE, &m, sizeof(m));
}

static void reply(struct producer *p, uint64_t cookie, bool ok)
{
    msg_post_result(p->svc->reactor, p->port, p->actor.id, MSG_PP_REPLY, cookie, ok);
}

/* ---- registrations ---- */

static void source_free(struct datasource *ds)
{
    tree_remove(&ds->producer->svc->sources, &ds->node);
    list_remove(&ds->in_producer);
    ds->producer->nsources--;
    ds->producer->svc->nsources--;
    charge_release(&ds->charge);
    free(ds->descriptor.p);
    free(ds);
}

/* Takes the descriptor over from the message and reads what the service needs of it. */
static bool source_read(struct datasource *ds, struct msg_body *descriptor)
{
    struct datasource d = {.descriptor = *descriptor};
    struct bytes_cur cur = bytes_cur(msg_body_view(descriptor));
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        bool on = f.type == BYTES_VARINT && f.num != 0;
        switch (f.id) {
        case PBF_DataSourceDescriptor_name:
            if (f.type == BYTES_LEN)
                d.name = f.data;
            break;
        case PBF_DataSourceDescriptor_protovm_program:
            if (f.type == BYTES_LEN)
                d.program = f.data;
            break;
        case PBF_DataSourceDescriptor_id:
            d.id = f.type == BYTES_VARINT ? f.num : d.id;
            break;
        case PBF_DataSourceDescriptor_will_notify_on_start:
            d.will_notify_on_start = on;
            break;
        case PBF_DataSourceDescriptor_will_notify_on_stop:
            d.will_notify_on_stop = on;
            break;
        case PBF_DataSourceDescriptor_handles_incremental_state_clear:
            d.handles_incremental_clear = on;
            break;
        case PBF_DataSourceDescriptor_no_flush:
            d.no_flush = on;
            break;
        default:
            break;
        }
    }
    if (!bytes_done(&cur) || !d.name.n) /* R60 */
        return false;
    *descriptor = (struct msg_body){NULL, 0};
    ds->descriptor = d.descriptor;
    ds->name = d.name;
    ds->program = d.program;
    ds->id = d.id;
    ds->will_notify_on_start = d.will_notify_on_start;
    ds->will_notify_on_stop = d.will_notify_on_stop;
    ds->handles_incremental_clear = d.handles_incremental_clear;
    ds->no_flush = d.no_flush;
    return true;
}

static struct datasource *source_by_id(struct producer *p, uint64_t id)
{
    if (id == 0)
        return NULL;
    list_for_each (it, &p->sources) {
        struct datasource *ds = list_entry(it, struct datasource, in_producer);
        if (ds->id == id)
            return ds;
    }
    return NULL;
}

/* Charges n bytes of a descriptor to the producer's uid, in place of what was charged for ds.
 * False: it is too much, and the producer is dropped. */
static bool charge_source(struct producer *p, struct datasource *ds, size_t n)
{
    charge_release(&ds->charge);
    if (charge_take(p->svc->book, &ds->charge, p->payer, CHARGE_SOURCE_BYTES, sizeof(*ds) + n) == 0)
        return true;
    producer_drop(p, ERR_QUOTA, "its uid registered too many or too long data sources");
    return false;
}

/* ---- their order ---- */

struct source_key {
    struct bytes_view name;
    uint64_t order;
};

static int by_name(const void *key, const struct tree_node *node)
{
    const struct source_key *k = key;
    const struct datasource *ds = tree_entry(node, struct datasource, node);
    int order = bytes_compare(k->name, ds->name);
    return order ? order : (k->order > ds->order) - (k->order < ds->order);
}

void producer_sources_init(struct service *svc)
{
    tree_init(&svc->sources, by_name);
}

static struct datasource *source_at(struct tree_node *n)
{
    return n ? tree_entry(n, struct datasource, node) : NULL;
}

struct datasource *producer_source_from(const struct service *svc, struct bytes_view name,
                                        uint64_t order)
{
    const struct source_key key = {name, order};
    return source_at(tree_at_least(&svc->sources, &key));
}

struct datasource *producer_source_next(const struct datasource *ds)
{
    return source_at(tree_next(&ds->node));
}

/* ---- coming, changing and going ---- */

struct datasource *producer_register(struct producer *p, struct msg_request *m)
{
    if (p->nsources >= MAX_SOURCES) {
        producer_drop(p, ERR_QUOTA, "it registered too many data sources");
        return NULL;
    }
    struct datasource *ds = alloc_new(struct datasource);
    if (!source_read(ds, &m->body) || source_by_id(p, ds->id) || /* R61 */
        !charge_source(p, ds, ds->descriptor.n)) {
        free(ds->descriptor.p);
        free(ds);
        return NULL;
    }
    ds->producer = p;
    ds->order = ++p->svc->last_source;
    const struct source_key key = {ds->name, ds->order};
    tree_insert(&p->svc->sources, &ds->node, &key);
    list_push_back(&p->sources, &ds->in_producer);
    p->nsources++;
    p->svc->nsources++;
    return ds;
}

static void take_update(struct producer *p, struct msg_request *m)
{
    struct datasource fresh = {0};
    if (!source_read(&fresh, &m->body))
        return;
    struct datasource *ds = source_by_id(p, fresh.id);
    if (!ds || !bytes_equal(ds->name, fresh.name) || /* R63 */
        !charge_source(p, ds, fresh.descriptor.n)) {
        free(fresh.descriptor.p);
        return;
    }
    free(ds->descriptor.p);
    ds->descriptor = fresh.descriptor;
    ds->name = fresh.name;
    ds->program = fresh.program;
    ds->will_notify_on_start = fresh.will_notify_on_start;
    ds->will_notify_on_stop = fresh.will_notify_on_stop;
    ds->handles_incremental_clear = fresh.handles_incremental_clear;
    ds->no_flush = fresh.no_flush;
}

/* The oldest registration of that name; NULL when there is none. */
static struct datasource *source_by_name(struct producer *p, struct bytes_view name)
{
    list_for_each (it, &p->sources) {
        struct datasource *ds = list_entry(it, struct datasource, in_producer);
        if (bytes_equal(ds->name, name))
            return ds;
    }
    return NULL;
}

bool producer_unregister(struct producer *p, struct bytes_view name)
{
    struct datasource *ds = source_by_name(p, name);
    if (ds)
        source_free(ds);
    return ds != NULL;
}

bool producer_forget(struct producer *p, struct task_budget *budget)
{
    while (!list_empty(&p->sources)) {
        source_free(list_first(&p->sources, struct datasource, in_producer));
        if (!task_spend(budget, sizeof(struct datasource)))
            return list_empty(&p->sources);
    }
    return true;
}

/* ---- writers (R73) ---- */

static void take_writer(struct producer *p, const struct msg_writer *m, bool gone)
{
    uint16_t writer = (uint16_t)m->writer, buffer = gone ? 0 : (uint16_t)m->buffer;
    if (!p->writers && !buffer)
        return;
    if (!p->writers)
        p->writers = alloc_array(PRODUCER_WRITER_PAGES, sizeof(*p->writers));
    uint16_t **page = &p->writers[writer >> 8];
    if (!*page)
        *page = alloc_array(256, sizeof(**page));
    uint16_t *slot = &(*page)[writer & 0xFF];
    p->nwriters += (uint32_t)(*slot == 0 && buffer != 0) - (uint32_t)(*slot != 0 && buffer == 0);
    *slot = buffer;
}

/* ---- acks ---- */

/* An ack goes to the session once per state: what is repeated, late or foreign is dropped here. */
static void take_ack(struct producer *p, uint64_t instance, enum msg_kind kind)
{
    struct dsinst *i = dsinst_find(p, instance);
    enum dsinst_state wants = kind == MSG_S_STARTED ? DSINST_STARTING : DSINST_STOPPING;
    if (!i || i->state != wants || i->acked)
        return;
    i->acked = true;
    struct msg_ack m = {.id = instance, .producer = p->id};
    ACTOR_POST(p->svc->reactor, i->session->actor.id, p->actor.id, kind, &m);
}

/* ---- messages ---- */

void producer_take(struct producer *p, struct mailbox_msg *m)
{
    void *data = m->data;
    uint64_t cookie = 0;
    switch (m->kind) {
    case MSG_P_UPDATE:
        take_update(p, data);
        cookie = ((struct msg_request *)data)->cookie;
        break;
    case MSG_P_SYNC:
        cookie = ((struct msg_request *)data)->cookie;
        break;
    case MSG_P_WRITER:
    case MSG_P_WRITER_GONE:
        take_writer(p, data, m->kind == MSG_P_WRITER_GONE);
        cookie = ((struct msg_writer *)data)->cookie;
        break;
    case MSG_P_STARTED:
    case MSG_P_STOPPED:
        take_ack(p, ((struct msg_instance *)data)->instance,
                 m->kind == MSG_P_STARTED ? MSG_S_STARTED : MSG_S_STOPPED);
        cookie = ((struct msg_instance *)data)->cookie;
        break;
    default:
        log_warn_limited("producer %u: %s is not for it", p->id,
                         mailbox_kind_name(&msg_table, m->kind));
        return;
    }
    reply(p, cookie, true);
}

static void handle(struct actor *a, struct mailbox_msg *m)
{
    struct producer *p = list_entry(a, struct producer, actor);
    if (p->gone)
        return;
    drain_push(p, m);
    if (!p->actor.dead)
        producer_tell_room(p);
}

/* ---- room ---- */

static size_t backlog(const struct producer *p)
{
    return mailbox_bytes(&p->queue) + mailbox_bytes(&p->actor.mailbox) + p->work.msg.weight;
}

bool producer_full(struct producer *p)
{
    if (backlog(p) < QUEUE_HIGH)
        return false;
    p->want_room = true;
    return true;
}

void producer_tell_room(struct producer *p)
{
    struct msg_empty m = {0};
    if (!p->want_room || backlog(p) > QUEUE_LOW)
        return;
    p->want_room = false;
    producer_send(p, MSG_PP_ROOM, &m, sizeof(m));
}

/* ---- shared memory (3.3) ---- */

/* Charges size bytes to whoever pays for the producer. */
static int charge_shmem(struct producer *p, uint64_t size)
{
    int err = charge_take(p->svc->book, &p->shm_charge, p->payer, CHARGE_SMB_BYTES, size);
    if (err == ERR_QUOTA)
        log_warn_limited("producer %u: uid %u holds its limit of SMB bytes already; it gets no SMB "
                         "(traced --limit-smb)",
                         p->id, (unsigned)p->uid);
    return err;
}

static void adopt_shmem(struct producer *p, const struct service_producer *params)
{
    const char *why = NULL;
    struct shmem shm;
    shmem_init(&shm);
    int err = shmem_adopt(&shm, params->shmem_fd, params->page_hint, &why);
    if (err) {
        log_debug("producer %u: the SMB it offers is not used: %s", p->id,
                  why ? why : err_text(err));
        return;
    }
    if (charge_shmem(p, shm.size)) {
        shmem_fini(&shm);
        return;
    }
    p->shm = shm;
    p->provided = true;
    struct msg_shmem m = {.page_kb = 0, .fd = -1};
    producer_send(p, MSG_PP_SETUP_TRACING, &m, sizeof(m)); /* R57 */
}

/* The sizes that the config wants for a producer of that name: its first entry counts. */
static void config_sizes(const struct producer *p, const struct tracecfg *cfg, uint64_t *size,
                         uint64_t *page)
{
    for (size_t i = 0; i < cfg->nproducers; i++) {
        const struct tracecfg_producer *e = &cfg->producers[i];
        if (bytes_equal(e->name, producer_name(p))) {
            *size = (uint64_t)e->shm_size_kb * 1024;
            *page = (uint64_t)e->page_size_kb * 1024;
            return;
        }
    }
}

int producer_ensure_shmem(struct producer *p, const struct tracecfg *cfg)
{
    if (shmem_mapped(&p->shm))
        return 0;
    uint64_t size = 0, page = 0;
    config_sizes(p, cfg, &size, &page);
    struct smb_size want = abi_size_resolve(size, page, p->size_hint, p->page_hint);
    int err = charge_shmem(p, want.total);
    if (!err)
        err = shmem_create(&p->shm, want.total, want.page);
    if (err) {
        charge_release(&p->shm_charge);
        return err;
    }
    struct msg_shmem m = {.page_kb = want.page / 1024, .fd = -1};
    if (p->emulated)
        close(p->shm.fd);
    else
        m.fd = p->shm.fd; /* the mapping is all that we need: no descriptor stays for it */
    p->shm.fd = -1;
    producer_send(p, MSG_PP_SETUP_TRACING, &m, sizeof(m));
    return 0;
}

/* ---- permissions (R74) ---- */

static uint32_t allowed_at(const struct producer *p, uint16_t buffer)
{
    uint32_t lo = 0, hi = p->nallowed;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (p->allowed[mid].buffer < buffer)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool producer_may_write(const struct producer *p, const struct session_buffer *b)
{
    uint32_t at = allowed_at(p, b->id);
    return at < p->nallowed && p->allowed[at].serial == b->serial;
}

/* Drops the permits of buffers that have gone. */
static void forget_permits(struct producer *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->nallowed; i++) {
        const struct session_buffer *b = idmap_get(&p->svc->buffers, p->allowed[i].buffer);
        if (b && b->serial == p->allowed[i].serial)
            p->allowed[n++] = p->allowed[i];
    }
    p->nallowed = n;
}

/* Room for one more. Half of a full array has to be alive for it to grow, so that dropping costs
 * little for each permit. */
static int permit_room(struct producer *p)
{
    if (p->nallowed < p->allowed_room)
        return 0;
    forget_permits(p);
    if (p->nallowed < p->allowed_room / 2)
        return 0;
    uint32_t room = p->allowed_room ? p->allowed_room * 2 : 4;
    struct producer_permit *grown = alloc_try_resize(p->allowed, room, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    p->allowed = grown;
    p->allowed_room = room;
    return 0;
}

int producer_allow(struct producer *p, const struct session_buffer *b)
{
    uint32_t at = allowed_at(p, b->id);
    if (at == p->nallowed || p->allowed[at].buffer != b->id) {
        int err = permit_room(p);
        if (err)
            return err;
        at = allowed_at(p, b->id);
        memmove(p->allowed + at + 1, p->allowed + at, (p->nallowed - at) * sizeof(*p->allowed));
        p->nallowed++;
    }
    p->allowed[at] = (struct producer_permit){.serial = b->serial, .buffer = b->id};
    return 0;
}

/* ---- life ---- */

static void producer_free(struct actor *a)
{
    struct producer *p = list_entry(a, struct producer, actor);
    shmem_fini(&p->shm);
    charge_release(&p->shm_charge);
    mailbox_fini(&p->queue);
    for (size_t i = 0; p->writers && i < PRODUCER_WRITER_PAGES; i++)
        free(p->writers[i]);
    free(p->writers);
    free(p->allowed);
    free(p->machine_name);
    free(p->name);
    free(p->sdk_version);
    free(p);
}

static const struct actor_ops ops = {handle, producer_free};

/* Lists it by ascending ProducerID. */
static void enlist(struct service *svc, struct producer *p)
{
    struct list *at = &svc->producers;
    while (at->prev != &svc->producers && list_entry(at->prev, struct producer, node)->id > p->id)
        at = at->prev;
    list_push_back(at, &p->node);
}

/* R46. */
static bool wants_scraping(const struct service *svc, uint32_t mode)
{
    return mode == 1 || (mode != 2 && svc->scrape_by_default);
}

static char *copy_text(struct bytes_view v)
{
    return alloc_strndup(v.n ? (const char *)v.p : "", v.n);
}

static struct producer *make(struct service *svc, const struct service_producer *params,
                             uint32_t id)
{
    char name[ACTOR_NAME_MAX];
    snprintf(name, sizeof(name), "producer %u", id);
    struct producer *p = alloc_new(struct producer);
    if (actor_init(&p->actor, svc->reactor, name, &ops, &queue_limits)) {
        free(p);
        return NULL;
    }
    p->svc = svc;
    p->id = (uint16_t)id;
    p->port = params->port;
    p->uid = params->uid;
    p->payer = params->stranger ? CHARGE_STRANGERS : params->uid;
    p->pid = params->pid;
    p->machine_id = params->machine_id;
    p->machine_name = alloc_strdup(params->machine_name ? params->machine_name : "");
    p->name = copy_text(params->name);
    p->name_len = params->name.n;
    p->sdk_version = copy_text(params->sdk_version);
    p->page_hint = params->page_hint;
    p->size_hint = params->size_hint;
    p->emulated = params->emulated;
    p->scraping = wants_scraping(svc, params->scraping_mode);
    shmem_init(&p->shm);
    list_init(&p->sources);
    list_init(&p->instances);
    list_init(&p->drain_node);
    list_init(&p->node);
    mailbox_init(&p->queue, &msg_table, &queue_limits);
    return p;
}

static int refuse(const struct service_producer *params, int err, const char *why)
{
    log_warn_limited("producer \"%.*s\" of pid %d uid %u is refused: %s",
                     (int)(params->name.n < 64 ? params->name.n : 64),
                     params->name.n ? (const char *)params->name.p : "", (int)params->pid,
                     (unsigned)params->uid, why);
    if (params->shmem_fd >= 0)
        close(params->shmem_fd);
    return err;
}

int producer_new(struct service *svc, const struct service_producer *params, uint64_t *endpoint,
                 bool *adopted)
{
    uint32_t id;
    if (svc->lockdown && params->uid != svc->uid)
        return refuse(params, ERR_FORBIDDEN, "lockdown is on for other uids");
    if (params->name.n > MAX_TEXT || params->sdk_version.n > MAX_TEXT)
        return refuse(params, ERR_QUOTA, "its name or version is longer than 32768 bytes");
    if (idmap_ids_next(&svc->producer_ids, &svc->producer_of, &id))
        return refuse(params, ERR_QUOTA, "65535 producers are connected already");
    struct producer *p = make(svc, params, id);
    if (!p)
        return refuse(params, -ENOMEM, "no memory");
    if (idmap_put(&svc->producer_of, id, p) || idmap_put(&svc->endpoints, p->actor.id, p)) {
        idmap_del(&svc->producer_of, id);
        actor_kill(&p->actor);
        return refuse(params, -ENOMEM, "no memory");
    }
    svc->last_producer = id;
    enlist(svc, p);
    if (params->in_process && params->machine_id != 0)
        selfpkt_set_machine(params->machine_id); /* R113 */
    if (params->shmem_fd >= 0 && params->emulated)
        close(params->shmem_fd);
    else if (params->shmem_fd >= 0)
        adopt_shmem(p, params);
    *adopted = p->provided;
    *endpoint = p->actor.id;
    return 0;
}

void producer_destroy(struct producer *p)
{
    struct service *svc = p->svc;
    if (p->actor.dead)
        return;
    struct task_budget all = task_unbounded();
    p->gone = true;
    drain_forget(p);
    while (!list_empty(&p->instances))
        dsinst_go(list_first(&p->instances, struct dsinst, in_producer));
    (void)producer_forget(p, &all);
    idmap_del(&svc->producer_of, p->id);
    idmap_del(&svc->endpoints, p->actor.id);
    list_remove(&p->node);
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        for (size_t i = 0; i < s->nbuffers; i++)
            tbuf_producer_gone(s->buffers[i].tb, p->id);
    }
    actor_kill(&p->actor);
}
