/* SPDX-License-Identifier: Apache-2.0 */
#include "peer.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "reactor/chrono.h"
#include "smb/commit.h"

#define TURNS 20000

void peer_listen(struct peer *p)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->path);
    p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_geq(p->listener, 0);
    cr_assert_eq(bind(p->listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(p->listener, 5), 0);
}

void peer_unlisten(struct peer *p)
{
    if (p->listener >= 0)
        close(p->listener);
    p->listener = -1;
    unlink(p->path);
}

void peer_init(struct peer *p, struct reactor *r)
{
    memset(p, 0, sizeof(*p));
    p->reactor = r;
    p->fd = p->listener = p->taken_fd = -1;
    p->direct = true;
    shmem_init(&p->shm);
    bytesbuf_init(&p->in, 1 << 20);
    strcpy(p->dir, "/tmp/t-client-XXXXXX");
    cr_assert_not_null(mkdtemp(p->dir));
    snprintf(p->path, sizeof(p->path), "%s/sock", p->dir);
    peer_listen(p);
}

void peer_forget_calls(struct peer *p)
{
    for (size_t i = 0; i < p->call_count; i++)
        free(p->calls[i].args);
    p->call_count = 0;
}

void peer_hang_up(struct peer *p)
{
    if (p->fd >= 0)
        close(p->fd);
    if (p->taken_fd >= 0)
        close(p->taken_fd);
    p->fd = p->taken_fd = -1;
    p->command_id = 0;
    bytesbuf_clear(&p->in);
    shmem_fini(&p->shm);
}

void peer_fini(struct peer *p)
{
    peer_hang_up(p);
    peer_unlisten(p);
    peer_forget_calls(p);
    for (size_t i = 0; i < p->chunk_count; i++)
        free(p->chunks[i].payload);
    free(p->calls);
    free(p->chunks);
    bytesbuf_fini(&p->in);
    rmdir(p->dir);
}

/* ---- out ---- */

void peer_send(struct peer *p, const void *frame, size_t len, int fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {(void *)(uintptr_t)frame, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control.room;
        msg.msg_controllen = sizeof(control.room);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    /* A producer that has hung up meanwhile is found out by the next read. */
    ssize_t sent = sendmsg(p->fd, &msg, MSG_NOSIGNAL);
    cr_assert(sent == (ssize_t)len || errno == EPIPE, "%s", strerror(errno));
}

void peer_reply(struct peer *p, uint64_t request_id, bool more, const void *msg, size_t len, int fd)
{
    uint8_t *buf = malloc(len + FRAME_OVERHEAD);
    size_t head = frame_reply_head(buf, request_id, more, len);
    if (len)
        memcpy(buf + head, msg, len);
    peer_send(p, buf, head + len, fd);
    free(buf);
}

static void send_bind_reply(struct peer *p, uint64_t request_id)
{
    struct frame_method methods[PORT_PRODUCER_METHODS];
    uint8_t buf[1024];
    size_t n = 0;
    if (p->bind) {
        struct frame f = *p->bind;
        size_t len = f.u.bind_reply.methods.n + FRAME_OVERHEAD;
        uint8_t *out = malloc(len);
        f.request_id = request_id;
        cr_assert_eq(frame_put(&f, out, len, &len), 0);
        peer_send(p, out, len, -1);
        free(out);
        return;
    }
    if (p->no_producer) {
        peer_send(p, buf, frame_put_bind_unknown(buf, request_id), -1);
        return;
    }
    for (uint32_t i = 1; i <= PORT_PRODUCER_METHODS; i++)
        if (i != p->skip)
            methods[n++] =
                (struct frame_method){i + 100, bytes_str(rpc_method_name(&port_producer, i))};
    cr_assert_leq(frame_bind_ok_room(methods, n), sizeof(buf));
    peer_send(p, buf, frame_put_bind_ok(buf, request_id, 9, methods, n), -1);
}

/* ---- in ---- */

static void take_chunk(struct peer *p, const struct commit_move *m)
{
    struct scan_chunk c;
    if (m->data)
        cr_assert_eq(scan_data(m->data, m->data_len, m->incomplete, &c), 0);
    else
        cr_assert_eq(scan_acquire(&p->shm, m->page, m->chunk, &c), 0);
    p->chunks = realloc(p->chunks, (p->chunk_count + 1) * sizeof(*p->chunks));
    struct peer_chunk *to = &p->chunks[p->chunk_count++];
    to->head = c;
    to->target = m->target_buffer;
    to->call = p->call_count - 1;
    to->payload = malloc(c.size + 1);
    memcpy(to->payload, c.payload, c.size);
    if (!m->data)
        cr_assert_eq(scan_release(&p->shm, &c), 0);
}

static void take_commit(struct peer *p, const struct peer_call *c)
{
    struct commit_view v;
    struct commit_pos pos = {0};
    struct commit_move m;
    cr_assert_eq(commit_open(&v, c->args, c->len), 0);
    while (commit_next_move(&v, &pos, &m))
        take_chunk(p, &m);
}

static void take_offer(struct peer *p, const struct peer_call *c)
{
    struct bytes_field page;
    struct bytes_view args = bytes_view(c->args, c->len);
    cr_assert(bytes_find(args, 1, BYTES_VARINT, &page));
    if (p->take_offer) {
        cr_assert_geq(p->taken_fd, 0);
        cr_assert_eq(shmem_adopt(&p->shm, p->taken_fd, page.num, NULL), 0);
    } else if (p->taken_fd >= 0) {
        close(p->taken_fd);
    }
    p->taken_fd = -1;
}

static void answer(struct peer *p, const struct peer_call *c)
{
    uint8_t buf[64];
    const uint8_t flags[] = {0x08, p->take_offer, 0x10, p->direct, 0x18, p->emulate};
    switch (c->method) {
    case PORT_PRODUCER_GET_ASYNC_COMMAND:
        p->command_id = c->request_id;
        return;
    case PORT_PRODUCER_INITIALIZE_CONNECTION:
        take_offer(p, c);
        if (p->silent)
            return;
        if (p->refuse)
            peer_send(p, buf, frame_put_rejected(buf, c->request_id), -1);
        else if (p->init.p)
            peer_reply(p, c->request_id, false, p->init.p, p->init.n, -1);
        else
            peer_reply(p, c->request_id, false, flags, sizeof(flags), -1);
        return;
    case PORT_PRODUCER_COMMIT_DATA:
        take_commit(p, c);
        break;
    default:
        break;
    }
    if (!c->drop_reply && !p->silent)
        peer_reply(p, c->request_id, false, NULL, 0, -1);
}

static void take_frame(struct peer *p, struct bytes_view payload)
{
    struct frame f;
    cr_assert_eq(frame_decode(&f, payload), 0);
    if (f.kind == FRAME_BIND) {
        cr_assert(bytes_equal(f.u.bind.service, bytes_str("ProducerPort")));
        send_bind_reply(p, f.request_id);
        return;
    }
    cr_assert_eq(f.kind, FRAME_INVOKE);
    cr_assert_eq(f.u.invoke.service_id, p->bind ? p->bind->u.bind_reply.service_id : 9);
    p->calls = realloc(p->calls, (p->call_count + 1) * sizeof(*p->calls));
    struct peer_call *c = &p->calls[p->call_count++];
    *c = (struct peer_call){
        .method = f.u.invoke.method_id - (p->bind ? 0 : 100), /* recorded ids are ours */
        .request_id = f.request_id,
        .args = malloc(f.u.invoke.args.n + 1),
        .len = f.u.invoke.args.n,
        .drop_reply = f.u.invoke.drop_reply,
    };
    if (c->len)
        memcpy(c->args, f.u.invoke.args.p, c->len);
    answer(p, c);
}

/* True if something came. */
static bool read_some(struct peer *p)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    static uint8_t buf[65536];
    struct iovec iov = {buf, sizeof(buf)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof(control.room)};
    ssize_t n = recvmsg(p->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n == 0) {
        peer_hang_up(p);
        return true;
    }
    if (n < 0) {
        if (errno != EAGAIN)
            peer_hang_up(p);
        return false;
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(&p->taken_fd, CMSG_DATA(c), sizeof(int));
    bytesbuf_put(&p->in, buf, (size_t)n);
    while (p->in.n >= 4) {
        uint32_t len = bytes_load32(p->in.p);
        if (p->in.n < 4 + (size_t)len)
            break;
        take_frame(p, bytes_view(p->in.p + 4, len));
        bytesbuf_drop_front(&p->in, 4 + (size_t)len);
    }
    return true;
}

static bool look(struct peer *p)
{
    bool moved = false;
    if (p->fd < 0 && p->listener >= 0) {
        p->fd = accept(p->listener, NULL, NULL);
        moved = p->fd >= 0;
        p->connections += moved;
    }
    while (p->fd >= 0 && read_some(p))
        moved = true;
    return moved;
}

void peer_turn(struct peer *p)
{
    cr_assert_eq(reactor_tick(p->reactor, 0), 0);
    look(p);
}

void peer_settle(struct peer *p)
{
    int quiet = 0;
    for (int i = 0; i < TURNS && quiet < 3; i++) {
        cr_assert_eq(reactor_tick(p->reactor, 0), 0);
        quiet = look(p) || reactor_pending(p->reactor) ? 0 : quiet + 1;
    }
}

const struct peer_call *peer_call(const struct peer *p, uint32_t method, size_t n)
{
    for (size_t i = 0; i < p->call_count; i++)
        if (p->calls[i].method == method && n-- == 0)
            return &p->calls[i];
    return NULL;
}

size_t peer_count(const struct peer *p, uint32_t method)
{
    size_t n = 0;
    while (peer_call(p, method, n))
        n++;
    return n;
}

const struct peer_call *peer_expect(struct peer *p, uint32_t method, size_t n)
{
    for (int i = 0; i < TURNS; i++) {
        const struct peer_call *c = peer_call(p, method, n);
        if (c)
            return c;
        /* A wait bounds the number of turns where the clock is real. */
        cr_assert_eq(reactor_tick(p->reactor, chrono_is_virtual() ? 0 : CHRONO_MS), 0);
        look(p);
    }
    cr_assert_fail("call %zu of %s did not come", n, rpc_method_name(&port_producer, method));
    return NULL;
}

/* ---- commands ---- */

void peer_command(struct peer *p, const void *msg, size_t len, int fd)
{
    cr_assert_neq(p->command_id, 0);
    peer_reply(p, p->command_id, true, msg, len, fd);
}

static void send_built(struct peer *p, struct bytesbuf *b, int fd)
{
    peer_command(p, b->p, b->n, fd);
    bytesbuf_fini(b);
}

void peer_setup_tracing(struct peer *p, uint32_t total, uint32_t page)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    if (!p->emulate)
        cr_assert_eq(shmem_create(&p->shm, total, page), 0);
    size_t mark = bytesbuf_pb_begin(&b, 3);
    bytesbuf_pb_varint(&b, 1, page / 1024);
    bytesbuf_pb_end(&b, mark);
    send_built(p, &b, p->shm.fd);
}

static void instance(struct peer *p, uint32_t command, uint64_t id, const char *name,
                     uint16_t buffer)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    size_t mark = bytesbuf_pb_begin(&b, command);
    bytesbuf_pb_varint(&b, 1, id);
    if (name) {
        size_t config = bytesbuf_pb_begin(&b, 2);
        bytesbuf_pb_str(&b, 1, name);
        bytesbuf_pb_varint(&b, 2, buffer);
        bytesbuf_pb_end(&b, config);
    }
    bytesbuf_pb_end(&b, mark);
    send_built(p, &b, -1);
}

void peer_setup(struct peer *p, uint64_t id, const char *name, uint16_t buffer)
{
    instance(p, 6, id, name, buffer);
}

void peer_start(struct peer *p, uint64_t id, const char *name, uint16_t buffer)
{
    instance(p, 1, id, name, buffer);
}

void peer_stop(struct peer *p, uint64_t id)
{
    instance(p, 2, id, NULL, 0);
}

void peer_clear(struct peer *p, uint64_t id)
{
    instance(p, 7, id, NULL, 0);
}

void peer_flush(struct peer *p, uint64_t flush_id, const uint64_t *ids, size_t n)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    size_t mark = bytesbuf_pb_begin(&b, 5);
    for (size_t i = 0; i < n; i++)
        bytesbuf_pb_varint(&b, 1, ids[i]);
    bytesbuf_pb_varint(&b, 2, flush_id);
    bytesbuf_pb_varint(&b, 3, 0x14);
    bytesbuf_pb_end(&b, mark);
    send_built(p, &b, -1);
}

/* ---- looking ---- */

uint64_t peer_id(const struct peer_call *c)
{
    struct bytes_field f;
    return bytes_find(bytes_view(c->args, c->len), 1, BYTES_VARINT, &f) ? f.num : 0;
}

uint64_t peer_flush_ack(const struct peer *p, size_t n)
{
    const struct peer_call *c;
    for (size_t i = 0; (c = peer_call(p, PORT_PRODUCER_COMMIT_DATA, i)); i++) {
        struct commit_view v;
        if (commit_open(&v, c->args, c->len) == 0 && v.flush_id && n-- == 0)
            return v.flush_id;
    }
    return 0;
}

bool peer_packet(const struct peer *p, size_t packet, uint32_t field, struct bytes_field *out)
{
    for (size_t i = 0; i < p->chunk_count; i++) {
        const struct peer_chunk *c = &p->chunks[i];
        struct bytes_cur cur = bytes_cur(bytes_view(c->payload, c->head.size));
        for (uint32_t k = 0; k < scan_count(&c->head); k++) {
            struct bytes_view v;
            cr_assert(bytes_get_len(&cur, &v));
            if (v.n && packet-- == 0)
                return bytes_find(v, field, BYTES_VARINT, out) ||
                       bytes_find(v, field, BYTES_LEN, out);
        }
    }
    return false;
}
