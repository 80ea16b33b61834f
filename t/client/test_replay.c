/* SPDX-License-Identifier: Apache-2.0 */
/* Our producer driven by recorded services: each gets the service's side of a conversation between
 * upstream programs, frame by frame, and must report the same starts, stops and flushes in the same
 * order. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/prodlink.h"
#include "peer.h"
#include "reactor/chrono.h"
#include "smb/commit.h"
#include "source.h"
#include "t/support/vec.h"

enum { SOURCES = 64, NOTES = 256 };

/* "started 1", "flushed 1", "stopped 1" in order. */
struct notes {
    uint32_t method[NOTES]; /* COMMIT_DATA stands for a flush acknowledged */
    uint64_t id[NOTES];
    size_t count;
};

static void note(struct notes *n, uint32_t method, struct bytes_view args)
{
    struct commit_view v;
    struct bytes_field f;
    uint64_t id = 0;
    if (method == PORT_PRODUCER_COMMIT_DATA) {
        cr_assert_eq(commit_open(&v, args.p, args.n), 0);
        id = v.flush_id;
    } else if ((method == PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED ||
                method == PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED) &&
               bytes_find(args, 1, BYTES_VARINT, &f)) {
        id = f.num;
    }
    if (id == 0)
        return;
    cr_assert_lt(n->count, NOTES);
    n->method[n->count] = method;
    n->id[n->count++] = id;
}

struct replay {
    struct reactor *loop;
    struct peer peer;
    struct prodlink *link;
    struct source sources[SOURCES];
    char names[SOURCES][64];
    size_t source_count;
    struct notes theirs;
    uint64_t command_id; /* of the recorded GetAsyncCommand */
    uint64_t init_id;
    size_t commands;
};

/* The producer's side of the recording: which types there were, and what was reported. */
static void learn(struct replay *r, const struct frame *f)
{
    struct bytes_field d;
    struct bytes_field name;
    if (f->kind != FRAME_INVOKE)
        return;
    uint32_t method = f->u.invoke.method_id;
    note(&r->theirs, method, f->u.invoke.args);
    if (method == PORT_PRODUCER_GET_ASYNC_COMMAND)
        r->command_id = f->request_id;
    if (method == PORT_PRODUCER_INITIALIZE_CONNECTION)
        r->init_id = f->request_id;
    if (method == PORT_PRODUCER_REGISTER_DATA_SOURCE) {
        cr_assert(bytes_find(f->u.invoke.args, 1, BYTES_LEN, &d));
        cr_assert(bytes_find(d.data, 1, BYTES_LEN, &name));
        cr_assert_lt(r->source_count, SOURCES);
        cr_assert_lt(name.data.n, sizeof(r->names[0]));
        memcpy(r->names[r->source_count++], name.data.p, name.data.n);
    }
}

static void write_where_started(struct replay *r)
{
    for (size_t i = 0; i < r->source_count; i++) {
        struct source *s = &r->sources[i];
        size_t n = strlen(s->log);
        if (s->writer && n > 8 && strncmp(s->log + n - 7, "start", 5) == 0)
            source_write(s, 1);
    }
}

static void command(struct replay *r, const struct vec_record *rec, const struct frame *f)
{
    int fd = -1;
    if (rec->fds) {
        cr_assert_eq(shmem_create(&r->peer.shm, 262144, 4096), 0);
        fd = r->peer.shm.fd;
    }
    peer_command(&r->peer, f->u.invoke_reply.reply.p, f->u.invoke_reply.reply.n, fd);
    peer_settle(&r->peer);
    write_where_started(r);
    r->commands++;
}

static void begin(struct replay *r)
{
    const struct prodlink_cfg cfg = {.producer_name = "replayed", .socket_name = r->peer.path};
    r->link = prodlink_new(r->loop, &cfg);
    for (size_t i = 0; i < r->source_count; i++)
        source_add(&r->sources[i], r->link, r->names[i]);
    peer_settle(&r->peer);
    cr_assert_eq(prodlink_state(r->link), PRODLINK_CONNECTED);
    cr_assert_eq(peer_count(&r->peer, PORT_PRODUCER_REGISTER_DATA_SOURCE), r->source_count);
}

static void play(struct replay *r, struct vec *v)
{
    struct vec_record rec;
    struct frame f;
    struct frame bind;
    while (vec_next(v, &rec) == 1)
        if (rec.kind == VEC_TO_SERVICE && frame_decode(&f, bytes_view(rec.data, rec.size)) == 0)
            learn(r, &f);
    vec_rewind(v);
    while (vec_next(v, &rec) == 1) {
        if (rec.kind != VEC_TO_CLIENT)
            continue;
        cr_assert_eq(frame_decode(&f, bytes_view(rec.data, rec.size)), 0);
        if (f.kind == FRAME_BIND_REPLY) {
            bind = f;
            r->peer.bind = &bind;
        } else if (f.kind == FRAME_INVOKE_REPLY && f.request_id == r->init_id) {
            r->peer.init = f.u.invoke_reply.reply;
            begin(r);
        } else if (f.kind == FRAME_INVOKE_REPLY && f.request_id == r->command_id &&
                   f.u.invoke_reply.has_more) {
            command(r, &rec, &f);
        }
    }
    peer_settle(&r->peer);
    r->peer.bind = NULL;
}

/* Each instance that was started wrote one packet, and it came before its stop was reported. */
static void check(struct replay *r, const char *name)
{
    struct notes ours = {.count = 0};
    size_t started = 0;
    for (size_t i = 0; i < r->peer.call_count; i++)
        note(&ours, r->peer.calls[i].method,
             bytes_view(r->peer.calls[i].args, r->peer.calls[i].len));
    cr_assert_eq(ours.count, r->theirs.count, "%s: %zu reports, not %zu", name, ours.count,
                 r->theirs.count);
    for (size_t i = 0; i < ours.count; i++) {
        cr_assert_eq(ours.method[i], r->theirs.method[i], "%s: report %zu", name, i);
        cr_assert_eq(ours.id[i], r->theirs.id[i], "%s: report %zu", name, i);
        started += ours.method[i] == PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED;
    }
    cr_assert_geq(r->peer.chunk_count, started, "%s", name);
    struct bytes_field f;
    for (size_t i = 0; i < started; i++)
        cr_assert(peer_packet(&r->peer, i, 8, &f), "%s: packet %zu", name, i);
}

static size_t commands;

static void replay(void *arg, const char *name)
{
    (void)arg;
    if (!strstr(name, "/producer."))
        return;
    struct vec *v = vec_open(name);
    struct replay *r = calloc(1, sizeof(*r));
    cr_assert_not_null(v);
    chrono_virtual_start(CHRONO_SEC);
    r->loop = reactor_new(NULL);
    peer_init(&r->peer, r->loop);
    play(r, v);
    check(r, name);
    commands += r->commands;
    prodlink_free(r->link);
    peer_fini(&r->peer);
    reactor_free(r->loop);
    chrono_virtual_stop();
    vec_free(v);
    free(r);
}

Test(replay, every_recorded_service)
{
    cr_assert_geq(vec_each(replay, NULL), 8);
    cr_assert_gt(commands, 30);
}
