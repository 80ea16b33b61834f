/* SPDX-License-Identifier: Apache-2.0 */
/* The whole service as hostile producers and erratic consumers see it: the input is a list of
 * things that three of each do, in an order that no honest peer would choose, with a clock that
 * jumps. At the end everything must be given back: an error line, which is how the service tells of
 * a bug of its own or of a charge that is left, ends the run. */
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "svc/messages.h"
#include "svc/service.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PEERS = 3, STEPS_MAX = 400 };

/* A transport of either kind. */
struct peer {
    struct actor actor;
    uint64_t endpoint;
    uint64_t cookie;
    uint8_t *smb; /* own: mapped */
    size_t smb_size;
    uint64_t instance, flush; /* heard last */
    uint32_t target;
};

struct run {
    struct bytes_cur in;
    struct reactor *reactor;
    struct service *svc;
    struct peer *prods[PEERS], *cons[PEERS];
    struct service_sink sink;
    size_t read;
};

static void on_log(void *arg, enum log_level level, const char *text)
{
    (void)arg;
    if (level != LOG_LEVEL_ERROR)
        return;
    fprintf(stderr, "error line: %s\n", text);
    abort();
}

/* ---- the input ---- */

static unsigned byte(struct run *r)
{
    uint8_t b = 0;
    bytes_get_u8(&r->in, &b);
    return b;
}

static unsigned pick(struct run *r, unsigned n)
{
    return byte(r) % n;
}

/* Small numbers mostly, now and then a large one. */
static uint64_t number(struct run *r)
{
    unsigned b = byte(r);
    if (b < 200)
        return b % 12;
    if (b < 240)
        return (uint64_t)b << pick(r, 40);
    return UINT64_MAX - pick(r, 3);
}

static const char *name(struct run *r)
{
    static const char *const names[] = {"a", "b", "c", "a.*", ""};
    return names[pick(r, 5)];
}

/* ---- transports ---- */

static void hear(struct actor *a, struct mailbox_msg *m)
{
    struct peer *p = list_entry(a, struct peer, actor);
    void *d = m->data;
    if (m->kind == MSG_PP_SETUP_TRACING && ((struct msg_shmem *)d)->fd >= 0) {
        struct stat st;
        fstat(((struct msg_shmem *)d)->fd, &st);
        p->smb_size = (size_t)st.st_size;
        p->smb = mmap(NULL, p->smb_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                      ((struct msg_shmem *)d)->fd, 0);
    } else if (m->kind == MSG_PP_SETUP) {
        p->instance = ((struct msg_config *)d)->instance;
        p->target++;
    } else if (m->kind == MSG_PP_FLUSH) {
        p->flush = ((struct msg_flush_command *)d)->request;
    }
}

static void peer_reap(struct actor *a)
{
    struct peer *p = list_entry(a, struct peer, actor);
    if (p->smb && p->smb != MAP_FAILED)
        munmap(p->smb, p->smb_size);
    free(p);
}

static const struct actor_ops ops = {hear, peer_reap};

static struct peer *peer_new(struct run *r)
{
    struct peer *p = alloc_new(struct peer);
    if (actor_init(&p->actor, r->reactor, "peer", &ops, NULL))
        abort();
    return p;
}

static struct peer *new_producer(struct run *r, unsigned i)
{
    struct peer *p = peer_new(r);
    bool adopted;
    const struct service_producer params = {
        .port = p->actor.id,
        .uid = i,
        .pid = (pid_t)i,
        .machine_name = "m",
        .name = bytes_str(i == 0 ? "a" : "b"),
        .page_hint = (uint32_t)pick(r, 4) * 4096,
        .size_hint = (uint32_t)pick(r, 8) * 16384,
        .scraping_mode = pick(r, 3),
        .shmem_fd = -1,
        .emulated = pick(r, 5) == 0,
    };
    if (service_add_producer(r->svc, &params, &p->endpoint, &adopted)) {
        actor_kill(&p->actor);
        return NULL;
    }
    return p;
}

static struct peer *new_consumer(struct run *r, unsigned i)
{
    struct peer *p = peer_new(r);
    const struct service_consumer params = {
        .port = p->actor.id, .uid = i / 2, .pid = -1, .sink = &r->sink};
    if (service_add_consumer(r->svc, &params, &p->endpoint))
        abort();
    return p;
}

static int sink_packet(void *arg, uint64_t port, uint64_t cookie, const struct packet *pkt)
{
    struct run *r = arg;
    (void)port;
    (void)cookie;
    for (size_t i = 0; i < pkt->nparts; i++) {
        const uint8_t *at = pkt->parts[i].iov_base;
        for (size_t k = 0; k < pkt->parts[i].iov_len; k++)
            r->read += at[k]; /* a piece that is not there shows under AddressSanitizer */
    }
    return 0;
}

static int sink_flush(void *arg, uint64_t port, uint64_t cookie, bool more)
{
    (void)arg;
    (void)port;
    (void)cookie;
    (void)more;
    return 0;
}

static bool sink_room(void *arg, uint64_t port)
{
    struct run *r = arg;
    (void)port;
    return r->read % 7 != 0;
}

/* ---- what producers do ---- */

static void post(struct run *r, struct peer *p, enum msg_kind kind, const void *m, size_t size)
{
    actor_post(r->reactor, p->endpoint, p->actor.id, (uint16_t)kind, m, size);
}

static void post_bytes(struct run *r, struct peer *p, enum msg_kind kind, struct bytesbuf *b)
{
    struct msg_request m = {.cookie = ++p->cookie};
    m.body.p = bytesbuf_take(b, &m.body.n);
    post(r, p, kind, &m, sizeof(m));
    bytesbuf_fini(b);
}

static void act_register(struct run *r, struct peer *p)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, name(r));
    for (unsigned bits = byte(r), f = PBF_DataSourceDescriptor_will_notify_on_stop; bits;
         bits >>= 1)
        bytesbuf_pb_varint(&b, f++, bits & 1);
    post_bytes(r, p, pick(r, 8) ? MSG_P_REGISTER : MSG_P_UPDATE, &b);
}

static void put_move(struct run *r, struct bytesbuf *b)
{
    uint8_t chunk[80];
    size_t m = bytesbuf_pb_begin(b, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(b, PBF_CommitDataRequest_ChunksToMove_page, number(r));
    bytesbuf_pb_varint(b, PBF_CommitDataRequest_ChunksToMove_chunk, number(r));
    bytesbuf_pb_varint(b, PBF_CommitDataRequest_ChunksToMove_target_buffer, number(r));
    if (pick(r, 2)) {
        size_t n = pick(r, sizeof(chunk));
        for (size_t i = 0; i < n; i++)
            chunk[i] = (uint8_t)byte(r);
        bytesbuf_pb_bytes(b, PBF_CommitDataRequest_ChunksToMove_data, chunk, n);
        bytesbuf_pb_varint(b, PBF_CommitDataRequest_ChunksToMove_chunk_incomplete, pick(r, 2));
    }
    bytesbuf_pb_end(b, m);
}

static void act_commit(struct run *r, struct peer *p)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 1u << 16);
    if (p->smb && p->smb != MAP_FAILED) { /* one page of rubbish that looks like a page */
        uint8_t *page = p->smb + (size_t)pick(r, (unsigned)(p->smb_size / 4096)) * 4096;
        for (size_t i = 0; i < 64; i++)
            page[i] = (uint8_t)byte(r);
        uint32_t word = (1u + pick(r, 5)) << 28 | (pick(r, 2) ? 0x0FFFFFFFu : byte(r));
        memcpy(page, &word, sizeof(word));
    }
    for (unsigned n = pick(r, 4); n; n--)
        put_move(r, &b);
    if (pick(r, 3) == 0) {
        size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_patch);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunkToPatch_target_buffer, number(r));
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunkToPatch_writer_id, number(r));
        size_t k = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_ChunkToPatch_patches);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunkToPatch_Patch_offset, number(r));
        bytesbuf_pb_bytes(&b, PBF_CommitDataRequest_ChunkToPatch_Patch_data, "abcde", pick(r, 6));
        bytesbuf_pb_end(&b, k);
        bytesbuf_pb_end(&b, m);
    }
    if (pick(r, 2))
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_flush_request_id,
                           pick(r, 4) ? p->flush : number(r));
    if (pick(r, 16) == 0)
        bytesbuf_put_u8(&b, (uint8_t)byte(r)); /* malformed */
    post_bytes(r, p, MSG_P_COMMIT, &b);
}

static void act_producer(struct run *r, unsigned i)
{
    struct peer *p = r->prods[i];
    struct msg_writer writer = {.writer = (uint32_t)number(r), .buffer = (uint32_t)number(r)};
    struct msg_instance inst = {.instance = pick(r, 4) ? p->instance : number(r)};
    struct msg_empty empty = {0};
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    switch (pick(r, 10)) {
    case 0:
    case 1:
        act_register(r, p);
        break;
    case 2:
        bytesbuf_put(&b, name(r), 1);
        post_bytes(r, p, MSG_P_UNREGISTER, &b);
        break;
    case 3:
        post(r, p, pick(r, 3) ? MSG_P_WRITER : MSG_P_WRITER_GONE, &writer, sizeof(writer));
        break;
    case 4:
        post(r, p, pick(r, 2) ? MSG_P_STARTED : MSG_P_STOPPED, &inst, sizeof(inst));
        break;
    case 5:
        for (unsigned n = pick(r, 4); n; n--)
            bytesbuf_pb_str(&b, PBF_ActivateTriggersRequest_trigger_names, name(r));
        post_bytes(r, p, MSG_P_TRIGGERS, &b);
        break;
    case 6:
        post(r, p, MSG_P_BYE, &empty, sizeof(empty));
        actor_kill(&p->actor);
        r->prods[i] = new_producer(r, i);
        if (!r->prods[i]) /* lockdown */
            r->prods[i] = peer_new(r);
        break;
    default:
        act_commit(r, p);
        break;
    }
    bytesbuf_fini(&b);
}

/* ---- what consumers do ---- */

static void put_trigger_config(struct run *r, struct bytesbuf *b)
{
    size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_trigger_config);
    bytesbuf_pb_varint(b, PBF_TraceConfig_TriggerConfig_trigger_mode, pick(r, 6));
    bytesbuf_pb_varint(b, PBF_TraceConfig_TriggerConfig_trigger_timeout_ms, 1 + number(r));
    size_t k = bytesbuf_pb_begin(b, PBF_TraceConfig_TriggerConfig_triggers);
    bytesbuf_pb_str(b, PBF_TraceConfig_TriggerConfig_Trigger_name, name(r));
    bytesbuf_pb_str(b, PBF_TraceConfig_TriggerConfig_Trigger_producer_name_regex, name(r));
    bytesbuf_pb_varint(b, PBF_TraceConfig_TriggerConfig_Trigger_stop_delay_ms, number(r));
    bytesbuf_pb_end(b, k);
    bytesbuf_pb_end(b, m);
}

/* Field numbers of numbers that change what a session does. */
static const uint32_t config_numbers[] = {
    PBF_TraceConfig_duration_ms,
    PBF_TraceConfig_deferred_start,
    PBF_TraceConfig_flush_period_ms,
    PBF_TraceConfig_flush_timeout_ms,
    PBF_TraceConfig_data_source_stop_timeout_ms,
    PBF_TraceConfig_write_into_file,
    PBF_TraceConfig_file_write_period_ms,
    PBF_TraceConfig_max_file_size_bytes,
    PBF_TraceConfig_write_flush_mode,
    PBF_TraceConfig_compression_type,
    PBF_TraceConfig_exclusive_prio,
    PBF_TraceConfig_lockdown_mode,
    PBF_TraceConfig_bugreport_score,
    PBF_TraceConfig_trace_all_machines,
};

static void put_config(struct run *r, struct bytesbuf *b)
{
    for (unsigned n = 1 + pick(r, 3); n; n--) {
        size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_buffers);
        bytesbuf_pb_varint(b, PBF_TraceConfig_BufferConfig_size_kb,
                           pick(r, 16) ? 4 + number(r) % 60 : number(r));
        bytesbuf_pb_varint(b, PBF_TraceConfig_BufferConfig_fill_policy, pick(r, 4));
        bytesbuf_pb_varint(b, PBF_TraceConfig_BufferConfig_transfer_on_clone, pick(r, 2));
        bytesbuf_pb_varint(b, PBF_TraceConfig_BufferConfig_clear_before_clone, pick(r, 2));
        bytesbuf_pb_end(b, m);
    }
    for (unsigned n = pick(r, 3); n; n--) {
        size_t m = bytesbuf_pb_begin(b, PBF_TraceConfig_data_sources);
        size_t k = bytesbuf_pb_begin(b, PBF_TraceConfig_DataSource_config);
        bytesbuf_pb_str(b, PBF_DataSourceConfig_name, name(r));
        bytesbuf_pb_end(b, k);
        if (pick(r, 3) == 0)
            bytesbuf_pb_str(b, PBF_TraceConfig_DataSource_producer_name_regex_filter, name(r));
        bytesbuf_pb_end(b, m);
    }
    for (unsigned n = pick(r, 5); n; n--)
        bytesbuf_pb_varint(
            b, config_numbers[pick(r, sizeof(config_numbers) / sizeof(config_numbers[0]))],
            number(r));
    if (pick(r, 3) == 0)
        put_trigger_config(r, b);
    if (pick(r, 4) == 0)
        bytesbuf_pb_str(b, PBF_TraceConfig_unique_session_name, name(r));
}

static int some_fd(struct run *r)
{
    /* Not a file: that would be written by another process, in its own time. */
    return pick(r, 2) ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1;
}

static void act_enable(struct run *r, struct peer *c, enum msg_kind kind)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 1u << 16);
    struct msg_enable m = {.cookie = ++c->cookie, .fd = some_fd(r)};
    if (kind == MSG_C_CLONE) {
        bytesbuf_pb_varint(&b, PBF_CloneSessionRequest_session_id, number(r));
        bytesbuf_pb_str(&b, PBF_CloneSessionRequest_unique_session_name, name(r));
        bytesbuf_pb_str(&b, PBF_CloneSessionRequest_clone_trigger_name, name(r));
    } else {
        put_config(r, &b);
        m.attach_only = pick(r, 16) == 0;
    }
    m.body.p = bytesbuf_take(&b, &m.body.n);
    post(r, c, kind, &m, sizeof(m));
    bytesbuf_fini(&b);
}

static void act_consumer(struct run *r, unsigned i)
{
    static const enum msg_kind plain[] = {MSG_C_START, MSG_C_DISABLE, MSG_C_READ,        MSG_C_READ,
                                          MSG_C_FREE,  MSG_C_STATS,   MSG_C_CAPABILITIES};
    struct peer *c = r->cons[i];
    struct msg_flush_request flush = {
        .cookie = ++c->cookie, .flags = number(r), .timeout_ms = (uint32_t)number(r)};
    struct msg_observe observe = {.cookie = ++c->cookie, .mask = pick(r, 8)};
    struct msg_query query = {.cookie = ++c->cookie, .sessions_only = pick(r, 2)};
    struct msg_empty empty = {0};
    struct bytesbuf b;
    bytesbuf_init(&b, 1u << 16);
    switch (pick(r, 12)) {
    case 0:
    case 1:
        act_enable(r, c, MSG_C_ENABLE);
        break;
    case 2:
        act_enable(r, c, MSG_C_CLONE);
        break;
    case 3:
        post(r, c, MSG_C_FLUSH, &flush, sizeof(flush));
        break;
    case 4:
        post(r, c, MSG_C_OBSERVE, &observe, sizeof(observe));
        break;
    case 5:
        post(r, c, MSG_C_QUERY, &query, sizeof(query));
        break;
    case 6:
        bytesbuf_put(&b, name(r), 1);
        post_bytes(r, c, pick(r, 2) ? MSG_C_DETACH : MSG_C_ATTACH, &b);
        break;
    case 7:
        put_config(r, &b);
        post_bytes(r, c, MSG_C_CHANGE, &b);
        break;
    case 8:
        post(r, c, MSG_C_READ_ROOM, &empty, sizeof(empty));
        break;
    case 9:
        if (pick(r, 3) == 0) {
            post(r, c, MSG_C_BYE, &empty, sizeof(empty));
            actor_kill(&c->actor);
            r->cons[i] = new_consumer(r, i);
        }
        break;
    default:
        post_bytes(r, c, plain[pick(r, 7)], &b);
        break;
    }
    bytesbuf_fini(&b);
}

/* ---- a run ---- */

static void step(struct run *r)
{
    unsigned what = pick(r, 10);
    if (what < 5)
        act_producer(r, pick(r, PEERS));
    else if (what < 9)
        act_consumer(r, pick(r, PEERS));
    else
        reactor_advance(r->reactor, (1ull << pick(r, 14)) * CHRONO_MS);
    if (pick(r, 3))
        reactor_settle(r->reactor);
    else
        reactor_tick(r->reactor, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct reactor_opts reactor_opts = {.table = msg_table};
    const struct service_options opt = {.version = "v", .machine_name = "m"};
    struct run r = {.in = bytes_cur(bytes_view(data, size))};
    log_set_sink(on_log, NULL);
    chrono_virtual_start(1000 * CHRONO_SEC);
    chrono_random_seed(1);
    r.reactor = reactor_new(&reactor_opts);
    if (!r.reactor || service_new(r.reactor, &opt, &r.svc))
        abort();
    r.sink = (struct service_sink){sink_packet, sink_flush, sink_room, &r};
    for (unsigned i = 0; i < PEERS; i++) {
        r.prods[i] = new_producer(&r, i);
        r.cons[i] = new_consumer(&r, i);
    }
    for (unsigned n = 0; n < STEPS_MAX && !bytes_done(&r.in); n++)
        step(&r);
    service_end(r.svc);
    for (unsigned i = 0; i < PEERS; i++) {
        actor_kill(&r.prods[i]->actor);
        actor_kill(&r.cons[i]->actor);
    }
    reactor_settle(r.reactor);
    service_free(r.svc);
    reactor_free(r.reactor);
    chrono_virtual_stop();
    chrono_random_seed(0);
    log_set_sink(NULL, NULL);
    return 0;
}
