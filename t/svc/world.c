/* SPDX-License-Identifier: Apache-2.0 */
/* The fakes of t/svc: see world.h. */
#include "t/svc/world.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/charge.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "svc/dsconfig.h"
#include "svc/packet.h"
#include "svc/consumer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

/* ---- world ---- */

static unsigned errors; /* lines that tell of a bug of ours */

static void drop_log(void *arg, enum log_level level, const char *text)
{
    (void)arg;
    if (level == LOG_LEVEL_ERROR) {
        errors++;
        fprintf(stderr, "# error line: %s\n", text);
    }
    if (getenv("WORLD_LOG"))
        fprintf(stderr, "# %s: %s\n", log_level_name(level), text);
}

static struct world *make(const struct charge_limit *limits, bool sliced)
{
    const struct reactor_opts opts = {.table = msg_table, .task_budget = sliced ? 1 : 0};
    const struct service_options service = {
        .version = "Perfetto v0 (test)", .machine_name = "testhost", .limits = limits};
    struct world *w = alloc_new(struct world);
    log_set_sink(drop_log, NULL);
    errors = 0;
    if (getenv("WORLD_LOG"))
        log_set_level(LOG_LEVEL_DEBUG);
    chrono_virtual_start(1000 * CHRONO_SEC);
    list_init(&w->peers);
    bytesbuf_init(&w->cfg, 1u << 20);
    w->reactor = reactor_new(&opts);
    cr_assert_not_null(w->reactor);
    cr_assert_eq(service_new(w->reactor, &service, &w->svc), 0);
    return w;
}

struct world *world_new_limited(const struct charge_limit *limits)
{
    return make(limits, getenv("WORLD_SLICED") != NULL);
}

struct world *world_new(void)
{
    return world_new_limited(NULL);
}

struct world *world_new_sliced(void)
{
    return make(NULL, true);
}

struct world *world_new_whole(void)
{
    return make(NULL, false);
}

/* Files are written by processes, in real time: true while one has something to do. */
static bool files_busy(const struct list *sessions, bool *any)
{
    list_for_each (it, sessions) {
        const struct session *s = list_entry(it, struct session, node);
        *any |= s->file != NULL;
        if (s->file && filewr_on_disk(s->file) && (s->file_over || filewr_backlog(s->file)))
            return true;
    }
    return false;
}

static bool being_made(const struct service *svc)
{
    list_for_each (it, &svc->consumers) {
        if (list_entry(it, struct consumer, node)->opening)
            return true;
    }
    return false;
}

/* Returns whether there is a file at all. */
static bool settle_files(struct world *w)
{
    bool any = false;
    for (int i = 0; i < 1000; i++) {
        if (!files_busy(&w->svc->sessions, &any) && !files_busy(&w->svc->leaving, &any) &&
            !being_made(w->svc))
            break;
        reactor_tick(w->reactor, 10 * CHRONO_MS);
        reactor_settle(w->reactor);
    }
    return any;
}

void world_settle(struct world *w)
{
    reactor_settle(w->reactor);
    settle_files(w);
}

void world_advance_ms(struct world *w, uint64_t ms)
{
    /* No step is so long that it looks as if a disk stood still. */
    for (uint64_t step; ms > 0; ms -= step) {
        step = settle_files(w) && ms > 1000 ? 1000 : ms;
        reactor_advance(w->reactor, step * CHRONO_MS);
    }
    settle_files(w);
}

const char *world_path(struct world *w, const char *name)
{
    static char path[128];
    if (!w->dir[0]) {
        strcpy(w->dir, "/tmp/svcworldXXXXXX");
        cr_assert_not_null(mkdtemp(w->dir));
    }
    snprintf(path, sizeof(path), "%s/%s", w->dir, name);
    return path;
}

void world_free(struct world *w)
{
    service_end(w->svc);
    while (!list_empty(&w->peers)) {
        struct list *it = w->peers.next;
        struct actor *a = (struct actor *)(void *)((char *)it - offsetof(struct prod, node));
        list_remove(it); /* the two kinds begin alike */
        actor_kill(a);
    }
    world_settle(w);
    service_free(w->svc); /* an error line if something is charged still */
    reactor_free(w->reactor);
    cr_expect_eq(errors, 0, "%u error lines", errors);
    bytesbuf_fini(&w->cfg);
    if (w->dir[0]) {
        char cmd[96];
        snprintf(cmd, sizeof(cmd), "rm -rf %s", w->dir);
        if (system(cmd) != 0)
            fprintf(stderr, "# %s is left behind\n", w->dir);
    }
    chrono_virtual_stop();
    log_set_sink(NULL, NULL);
    free(w);
}

/* ---- configs ---- */

void cfg_begin(struct bytesbuf *b)
{
    bytesbuf_clear(b);
}

void cfg_buffer(struct bytesbuf *b, uint32_t kb)
{
    size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(b, PBF_TraceConfig_BufferConfig_size_kb, kb);
    bytesbuf_pb_end(b, m);
}

void cfg_source(struct bytesbuf *b, const char *name, uint32_t target)
{
    size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
    size_t k = bytesbuf_pb_begin(b, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(b, PBF_DataSourceConfig_name, name);
    bytesbuf_pb_varint(b, PBF_DataSourceConfig_target_buffer, target);
    bytesbuf_pb_end(b, k);
    bytesbuf_pb_end(b, m);
}

void cfg_quiet(struct bytesbuf *b)
{
    size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_builtin_data_sources);
    for (uint32_t f = PBF_TraceConfig_BuiltinDataSource_disable_clock_snapshotting;
         f <= PBF_TraceConfig_BuiltinDataSource_disable_service_events; f++)
        bytesbuf_pb_varint(b, f, 1);
    bytesbuf_pb_end(b, m);
}

void cfg_trigger_mode(struct bytesbuf *b, uint32_t mode, uint32_t timeout_ms)
{
    size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_trigger_config);
    bytesbuf_pb_varint(b, PBF_TraceConfig_TriggerConfig_trigger_mode, mode);
    bytesbuf_pb_varint(b, PBF_TraceConfig_TriggerConfig_trigger_timeout_ms, timeout_ms);
    bytesbuf_pb_end(b, m);
}

void cfg_trigger(struct bytesbuf *b, const char *name, const char *regex, uint32_t delay_ms,
                 uint32_t max_per_24_h, double skip)
{
    uint64_t bits;
    memcpy(&bits, &skip, sizeof(bits));
    size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_trigger_config);
    size_t k = bytesbuf_pb_begin(b, PBF_TraceConfig_TriggerConfig_triggers);
    bytesbuf_pb_str(b, PBF_TraceConfig_TriggerConfig_Trigger_name, name);
    if (regex)
        bytesbuf_pb_str(b, PBF_TraceConfig_TriggerConfig_Trigger_producer_name_regex, regex);
    bytesbuf_pb_varint(b, PBF_TraceConfig_TriggerConfig_Trigger_stop_delay_ms, delay_ms);
    if (max_per_24_h)
        bytesbuf_pb_varint(b, PBF_TraceConfig_TriggerConfig_Trigger_max_per_24_h, max_per_24_h);
    if (skip > 0)
        bytesbuf_pb_fixed64(b, PBF_TraceConfig_TriggerConfig_Trigger_skip_probability, bits);
    bytesbuf_pb_end(b, k);
    bytesbuf_pb_end(b, m);
}

/* ---- encoded messages ---- */

uint64_t msg_num(const void *msg, size_t n, uint32_t field, uint64_t absent)
{
    struct bytes_cur cur = bytes_cur(bytes_view(msg, n));
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        if (f.id == field && f.type != BYTES_LEN)
            absent = f.num;
    }
    return absent;
}

struct bytes_view msg_part(const void *msg, size_t n, uint32_t field, size_t nth)
{
    struct bytes_cur cur = bytes_cur(bytes_view(msg, n));
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        if (f.id == field && f.type == BYTES_LEN && nth-- == 0)
            return f.data;
    }
    return bytes_view(NULL, 0);
}

const char *msg_str(const void *msg, size_t n, uint32_t field)
{
    static char text[4][512];
    static unsigned turn;
    struct bytes_view v = msg_part(msg, n, field, 0);
    char *out = text[turn++ & 3];
    snprintf(out, sizeof(text[0]), "%.*s", (int)v.n, v.n ? (const char *)v.p : "");
    return out;
}

size_t msg_fields(const void *msg, size_t n, uint32_t field)
{
    struct bytes_cur cur = bytes_cur(bytes_view(msg, n));
    struct bytes_field f;
    size_t count = 0;
    while (bytes_next(&cur, &f))
        count += f.id == field;
    return count;
}

/* ---- producers ---- */

static struct heard *hear(struct prod *p, enum msg_kind kind)
{
    p->heard = alloc_resize(p->heard, p->nheard + 1, sizeof(*p->heard));
    struct heard *h = &p->heard[p->nheard++];
    *h = (struct heard){.kind = kind};
    return h;
}

static void map_smb(struct prod *p, const struct msg_shmem *m)
{
    struct stat st;
    if (m->fd < 0)
        return;
    cr_assert_eq(fstat(m->fd, &st), 0);
    p->smb_size = (size_t)st.st_size;
    p->page = m->page_kb * 1024;
    p->smb = mmap(NULL, p->smb_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    cr_assert_neq(p->smb, MAP_FAILED);
}

static void post_commit(struct prod *p, const void *request, size_t len, uint64_t cookie)
{
    struct msg_request m = {.cookie = cookie};
    cr_assert_eq(msg_body_copy(&m.body, request, len), 0);
    ACTOR_POST(p->w->reactor, p->endpoint, p->actor.id, MSG_P_COMMIT, &m);
}

static void post_ack(struct prod *p, uint64_t id)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_flush_request_id, id);
    post_commit(p, b.p, b.n, 0);
    bytesbuf_fini(&b);
}

static void hear_config(struct heard *h, const struct msg_config *m)
{
    h->id = m->instance;
    h->config_len = m->config->n;
    h->config = alloc_zero(m->config->n);
    memcpy(h->config, m->config->bytes, m->config->n);
}

static void hear_command(struct prod *p, struct heard *h, const struct msg_flush_command *m)
{
    h->id = m->request;
    h->flags = m->flags;
    h->nids = m->nids;
    for (size_t i = 0; i < m->nids && i < HEARD_IDS; i++)
        h->ids[i] = m->ids[i];
    if (h->kind == MSG_PP_FLUSH && !p->mute)
        post_ack(p, m->request);
}

static void prod_handle(struct actor *a, struct mailbox_msg *m)
{
    struct prod *p = list_entry(a, struct prod, actor);
    struct heard *h = hear(p, (enum msg_kind)m->kind);
    const void *d = m->data;
    switch (m->kind) {
    case MSG_PP_SETUP_TRACING:
        h->id = ((const struct msg_shmem *)d)->page_kb;
        h->flags = ((const struct msg_shmem *)d)->fd >= 0;
        map_smb(p, d);
        break;
    case MSG_PP_SETUP:
    case MSG_PP_START:
        hear_config(h, d);
        break;
    case MSG_PP_STOP:
        h->id = ((const struct msg_instance *)d)->instance;
        break;
    case MSG_PP_FLUSH:
    case MSG_PP_CLEAR:
        hear_command(p, h, d);
        break;
    case MSG_PP_REPLY:
        h->id = ((const struct msg_reply *)d)->cookie;
        h->flags = ((const struct msg_reply *)d)->ok;
        break;
    default:
        break;
    }
}

void prod_forget(struct prod *p)
{
    for (size_t i = 0; i < p->nheard; i++)
        free(p->heard[i].config);
    p->nheard = 0;
}

static void prod_reap(struct actor *a)
{
    struct prod *p = list_entry(a, struct prod, actor);
    prod_forget(p);
    free(p->heard);
    if (p->smb)
        munmap(p->smb, p->smb_size);
    free(p);
}

static const struct actor_ops prod_ops = {prod_handle, prod_reap};

static const struct mailbox_limits wide = {
    .max_count = 1u << 20, .max_bytes = 1u << 30, .when_full = MAILBOX_REFUSE_NEW};

struct prod *prod_new_opts(struct world *w, const struct prod_opts *o)
{
    struct prod *p = alloc_new(struct prod);
    p->w = w;
    p->emulated = o->emulated;
    cr_assert_eq(actor_init(&p->actor, w->reactor, o->name, &prod_ops, &wide), 0);
    const struct service_producer params = {
        .port = p->actor.id,
        .uid = o->uid,
        .pid = o->pid,
        .machine_id = o->machine_id,
        .machine_name = o->machine_name ? o->machine_name : "testhost",
        .name = bytes_str(o->name),
        .sdk_version = bytes_str("sdk"),
        .page_hint = o->page_hint,
        .size_hint = o->size_hint,
        .scraping_mode = o->scraping,
        .shmem_fd = o->shmem_fd ? o->shmem_fd : -1,
        .emulated = o->emulated,
        .in_process = o->in_process,
    };
    if (service_add_producer(w->svc, &params, &p->endpoint, &p->adopted)) {
        actor_kill(&p->actor);
        world_settle(w);
        return NULL;
    }
    list_push_back(&w->peers, &p->node);
    world_settle(w);
    return p;
}

struct prod *prod_new(struct world *w, const char *name, uint32_t uid)
{
    const struct prod_opts o = {.name = name, .uid = uid, .pid = 4321};
    return prod_new_opts(w, &o);
}

void prod_bye(struct prod *p)
{
    struct world *w = p->w;
    struct msg_empty m = {0};
    ACTOR_POST(w->reactor, p->endpoint, p->actor.id, MSG_P_BYE, &m);
    list_remove(&p->node);
    actor_kill(&p->actor);
    world_settle(w);
}

static void post_body(struct prod *p, enum msg_kind kind, const void *body, size_t n)
{
    struct msg_request m = {.cookie = ++p->cookie};
    cr_assert_eq(msg_body_copy(&m.body, body, n), 0);
    ACTOR_POST(p->w->reactor, p->endpoint, p->actor.id, kind, &m);
    world_settle(p->w);
}

static void post_descriptor(struct prod *p, enum msg_kind kind, const char *name, unsigned flags,
                            uint64_t id)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 1u << 20);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, name);
    if (id)
        bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_id, id);
    if (flags & DS_NOTIFY_START)
        bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_will_notify_on_start, 1);
    if (flags & DS_NOTIFY_STOP)
        bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_will_notify_on_stop, 1);
    if (flags & DS_CLEARS)
        bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_handles_incremental_state_clear, 1);
    if (flags & DS_NO_FLUSH)
        bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_no_flush, 1);
    post_body(p, kind, b.p, b.n);
    bytesbuf_fini(&b);
}

void prod_register(struct prod *p, const char *name, unsigned flags)
{
    post_descriptor(p, MSG_P_REGISTER, name, flags, 0);
}

void prod_register_id(struct prod *p, const char *name, unsigned flags, uint64_t id)
{
    post_descriptor(p, MSG_P_REGISTER, name, flags, id);
}

void prod_update_id(struct prod *p, const char *name, unsigned flags, uint64_t id)
{
    post_descriptor(p, MSG_P_UPDATE, name, flags, id);
}

void prod_unregister(struct prod *p, const char *name)
{
    post_body(p, MSG_P_UNREGISTER, name, strlen(name));
}

static void post_writer(struct prod *p, enum msg_kind kind, uint32_t writer, uint32_t buffer)
{
    struct msg_writer m = {.writer = writer, .buffer = buffer};
    ACTOR_POST(p->w->reactor, p->endpoint, p->actor.id, kind, &m);
    world_settle(p->w);
}

void prod_writer(struct prod *p, uint32_t writer, uint32_t buffer)
{
    post_writer(p, MSG_P_WRITER, writer, buffer);
}

void prod_writer_gone(struct prod *p, uint32_t writer)
{
    post_writer(p, MSG_P_WRITER_GONE, writer, 0);
}

static void post_instance(struct prod *p, enum msg_kind kind, uint64_t instance)
{
    struct msg_instance m = {.instance = instance};
    ACTOR_POST(p->w->reactor, p->endpoint, p->actor.id, kind, &m);
    world_settle(p->w);
}

void prod_started(struct prod *p, uint64_t instance)
{
    post_instance(p, MSG_P_STARTED, instance);
}

void prod_stopped(struct prod *p, uint64_t instance)
{
    post_instance(p, MSG_P_STOPPED, instance);
}

void prod_ack_flush(struct prod *p, uint64_t id)
{
    post_ack(p, id);
    world_settle(p->w);
}

void prod_trigger(struct prod *p, const char *name)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    for (const char *it = name; *it;) { /* several names: "a,b" */
        size_t n = strcspn(it, ",");
        bytesbuf_pb_bytes(&b, PBF_ActivateTriggersRequest_trigger_names, it, n);
        it += n + (it[n] == ',');
    }
    post_body(p, MSG_P_TRIGGERS, b.p, b.n);
    bytesbuf_fini(&b);
}

static bool answered(const struct prod *p, uint64_t cookie)
{
    for (size_t i = 0; i < p->nheard; i++) {
        if (p->heard[i].kind == MSG_PP_REPLY && p->heard[i].id == cookie)
            return p->heard[i].flags;
    }
    return false;
}

bool prod_sync(struct prod *p)
{
    post_body(p, MSG_P_SYNC, NULL, 0);
    return answered(p, p->cookie);
}

size_t prod_count(const struct prod *p, enum msg_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < p->nheard; i++)
        n += p->heard[i].kind == kind;
    return n;
}

const struct heard *prod_heard(const struct prod *p, enum msg_kind kind, size_t nth)
{
    for (size_t i = 0; i < p->nheard; i++) {
        if (p->heard[i].kind == kind && nth-- == 0)
            return &p->heard[i];
    }
    return NULL;
}

uint64_t prod_instance(const struct prod *p, size_t nth)
{
    const struct heard *h = prod_heard(p, MSG_PP_SETUP, nth);
    return h ? h->id : 0;
}

uint64_t prod_config(const struct prod *p, size_t nth, uint32_t field)
{
    const struct heard *h = prod_heard(p, MSG_PP_SETUP, nth);
    return h ? msg_num(h->config, h->config_len, field, UINT64_MAX) : UINT64_MAX;
}

uint32_t prod_target(const struct prod *p, size_t nth)
{
    return (uint32_t)prod_config(p, nth, PBF_DataSourceConfig_target_buffer);
}

size_t frag_packet(uint8_t *at, const char *text)
{
    size_t n = strlen(text);
    uint8_t *p = at;
    cr_assert_lt(n, 100);
    *p++ = (uint8_t)(n + 5); /* size of the packet */
    *p++ = 0xA2;             /* for_testing { str } */
    *p++ = 0x38;
    *p++ = (uint8_t)(n + 2);
    *p++ = 0x0A;
    *p++ = (uint8_t)n;
    memcpy(p, text, n);
    return (size_t)(p - at) + n;
}

void prod_fill(struct prod *p, uint32_t page, uint16_t writer, uint32_t chunk_id, unsigned count,
               unsigned flags, const void *payload, size_t len, unsigned state)
{
    cr_assert_not_null(p->smb, "no SMB was announced");
    uint8_t *at = p->smb + (size_t)page * p->page;
    uint16_t packets = (uint16_t)(count | flags << 10);
    memcpy(at + 8, &chunk_id, 4);
    memcpy(at + 12, &writer, 2);
    memcpy(at + 14, &packets, 2);
    memcpy(at + 16, payload, len);
    memset(at + 16 + len, 0xAA, p->page - 16 - len);
    uint32_t word = 1u << 28 | state; /* one chunk per page */
    __atomic_store(((uint32_t *)(void *)at), &word, __ATOMIC_RELEASE);
}

bool prod_commit_raw(struct prod *p, const void *request, size_t len)
{
    post_commit(p, request, len, ++p->cookie);
    world_settle(p->w);
    return answered(p, p->cookie);
}

bool prod_put_to(struct prod *p, uint16_t writer, uint32_t buffer, const char *text)
{
    uint8_t payload[128];
    struct bytesbuf b;
    size_t n = frag_packet(payload, text);
    prod_fill(p, 0, writer, p->next_chunk[writer & 7]++, 1, 0, payload, n, 3);
    bytesbuf_init(&b, 256);
    size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_page, 0);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_chunk, 0);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, buffer);
    bytesbuf_pb_end(&b, m);
    bool ok = prod_commit_raw(p, b.p, b.n);
    bytesbuf_fini(&b);
    return ok;
}

bool prod_put(struct prod *p, uint16_t writer, const char *text)
{
    return prod_put_to(p, writer, prod_target(p, 0), text);
}
