/* SPDX-License-Identifier: Apache-2.0 */
/* Every frame of every recorded conversation decodes, and encodes again to the same meaning and to
 * the canonical bytes (R35). */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/frame.h"
#include "ipc/port_consumer.h"
#include "ipc/port_producer.h"
#include "t/support/vec.h"

static uint8_t once[FRAME_MAX + 1024];
static uint8_t twice[FRAME_MAX + 1024];

static void same_methods(struct bytes_view a, struct bytes_view b)
{
    struct bytes_cur ca = bytes_cur(a);
    struct bytes_cur cb = bytes_cur(b);
    struct frame_method ma;
    struct frame_method mb;
    while (frame_next_method(&ca, &ma)) {
        cr_assert(frame_next_method(&cb, &mb));
        cr_assert_eq(ma.id, mb.id);
        cr_assert(bytes_equal(ma.name, mb.name));
    }
    cr_assert_not(frame_next_method(&cb, &mb));
}

static void same_meaning(const struct frame *a, const struct frame *b)
{
    cr_assert_eq(a->kind, b->kind);
    cr_assert_eq(a->request_id, b->request_id);
    switch (a->kind) {
    case FRAME_BIND:
        cr_assert(bytes_equal(a->u.bind.service, b->u.bind.service));
        break;
    case FRAME_BIND_REPLY:
        cr_assert_eq(a->u.bind_reply.success, b->u.bind_reply.success);
        cr_assert_eq(a->u.bind_reply.service_id, b->u.bind_reply.service_id);
        same_methods(a->u.bind_reply.methods, b->u.bind_reply.methods);
        break;
    case FRAME_INVOKE:
        cr_assert_eq(a->u.invoke.service_id, b->u.invoke.service_id);
        cr_assert_eq(a->u.invoke.method_id, b->u.invoke.method_id);
        cr_assert_eq(a->u.invoke.drop_reply, b->u.invoke.drop_reply);
        cr_assert(bytes_equal(a->u.invoke.args, b->u.invoke.args));
        break;
    case FRAME_INVOKE_REPLY:
        cr_assert_eq(a->u.invoke_reply.success, b->u.invoke_reply.success);
        cr_assert_eq(a->u.invoke_reply.has_more, b->u.invoke_reply.has_more);
        cr_assert(bytes_equal(a->u.invoke_reply.reply, b->u.invoke_reply.reply));
        break;
    default:
        cr_assert_fail("a conversation holds no frame of kind %s", frame_kind_name(a->kind));
    }
}

/* What a record must be, by its direction. */
static void right_direction(const struct vec_record *rec, const struct frame *f)
{
    if (rec->kind == VEC_TO_SERVICE)
        cr_assert(f->kind == FRAME_BIND || f->kind == FRAME_INVOKE);
    else
        cr_assert(f->kind == FRAME_BIND_REPLY || f->kind == FRAME_INVOKE_REPLY);
}

struct tally {
    size_t frames;
    size_t identical; /* canonical as recorded */
    size_t invokes;
    size_t slices;
    size_t binds;
};

static void count(struct tally *t, const struct vec_record *rec, const struct frame *f)
{
    t->frames++;
    t->invokes += f->kind == FRAME_INVOKE;
    if (f->kind != FRAME_BIND_REPLY)
        return;
    /* Recorded method lists are ours (R48). */
    struct bytes_cur cur = bytes_cur(f->u.bind_reply.methods);
    struct frame_method m;
    size_t n = 0;
    const struct rpc_service *s = NULL;
    while (frame_next_method(&cur, &m)) {
        if (s == NULL)
            s = rpc_method_id(&port_producer, (const char *)m.name.p, m.name.n) == 1
                    ? &port_producer
                    : &port_consumer;
        cr_assert_eq(rpc_method_id(s, (const char *)m.name.p, m.name.n), m.id);
        n++;
    }
    cr_assert_not_null(s);
    cr_assert_eq(n, s->count);
    t->binds++;
    (void)rec;
}

static void replay(void *arg, const char *name)
{
    struct tally *t = arg;
    struct vec *v = vec_open(name);
    struct vec_record rec;
    int rc;
    cr_assert_not_null(v, "%s", name);
    while ((rc = vec_next(v, &rec)) == 1) {
        struct frame f;
        struct frame g;
        size_t n = 0;
        size_t m = 0;
        if (rec.kind == VEC_SHARED_MEM)
            continue;
        cr_assert_eq(frame_decode(&f, bytes_view(rec.data, rec.size)), 0, "%s", name);
        right_direction(&rec, &f);
        cr_assert_eq(frame_put(&f, once, sizeof(once), &n), 0);
        cr_assert_eq(frame_decode(&g, bytes_view(once + 4, n - 4)), 0);
        same_meaning(&f, &g);
        cr_assert_eq(frame_put(&g, twice, sizeof(twice), &m), 0);
        cr_assert_eq(n, m);
        cr_assert_arr_eq(once, twice, n, "canonical bytes stay");
        cr_assert_leq(n - 4, rec.size, "and are never longer than upstream's");
        t->identical += n - 4 == rec.size && memcmp(once + 4, rec.data, rec.size) == 0;
        count(t, &rec, &f);
    }
    cr_assert_eq(rc, 0, "%s is malformed", name);
    vec_free(v);
}

Test(vectors, every_frame_decodes_and_encodes_again)
{
    struct tally t = {0};
    cr_assert_eq(vec_each(replay, &t), 22u);
    cr_log_info("%zu frames, %zu recorded canonically", t.frames, t.identical);
    cr_assert_gt(t.frames, 500u);
    cr_assert_gt(t.invokes, 100u);
    cr_assert_gt(t.identical, t.frames / 2);
    cr_assert_eq(t.binds, 22u, "one bind for each connection");
}

/* ReadBuffers replies: our slice walker sees the same packets as were written to the file. */
Test(vectors, slices_concatenate_to_the_trace)
{
    struct vec *v = vec_open("small_packets/consumer.0.vec.gz");
    size_t size = 0;
    uint8_t *trace = vec_gunzip("small_packets/out.pftrace.gz", &size);
    struct vec_record rec;
    cr_assert_not_null(v);
    cr_assert_not_null(trace);
    struct bytes_cur file = bytes_cur(bytes_view(trace, size));
    struct bytes_field packet = {0};
    size_t at = 0;
    size_t packets = 0;
    uint64_t read_id = 0;
    bool open = false;
    while (vec_next(v, &rec) == 1) {
        struct frame f;
        struct port_consumer_slice s;
        cr_assert_eq(frame_decode(&f, bytes_view(rec.data, rec.size)), 0);
        if (f.kind == FRAME_INVOKE && f.u.invoke.method_id == PORT_CONSUMER_READ_BUFFERS)
            read_id = f.request_id;
        if (f.kind != FRAME_INVOKE_REPLY || f.request_id != read_id || read_id == 0)
            continue;
        struct bytes_cur cur = bytes_cur(f.u.invoke_reply.reply);
        int rc;
        while ((rc = port_consumer_next_slice(&cur, &s)) == 1) {
            if (!open)
                cr_assert(bytes_next(&file, &packet));
            cr_assert_leq(at + s.data.n, packet.data.n);
            cr_assert_arr_eq(packet.data.p + at, s.data.p, s.data.n);
            at += s.data.n;
            open = !s.last_for_packet;
            if (s.last_for_packet) {
                cr_assert_eq(at, packet.data.n);
                at = 0;
                packets++;
            }
        }
        cr_assert_eq(rc, 0);
    }
    cr_assert(bytes_done(&file));
    cr_assert_geq(packets, 400u);
    free(trace);
    vec_free(v);
}
