/* SPDX-License-Identifier: Apache-2.0 */
/* svc/prodport and svc/consport over a real socket pair: what a hostile peer may do to the queues
 * between its socket and its endpoint. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/frame.h"
#include "ipc/port_consumer.h"
#include "ipc/port_producer.h"
#include "ipc/rpc_host.h"
#include "protos/fieldnum.h"
#include "svc/consport.h"
#include "svc/prodport.h"
#include "t/svc/world.h"

static struct world *w;
static struct rpc_host *producers, *consumers;
static struct prodport *prodport;
static struct consport *consport;

static void setup(void)
{
    static const struct rpc_host_conf conf = {.label = "test"};
    w = world_new();
    producers = rpc_host_new(w->reactor, &conf);
    consumers = rpc_host_new(w->reactor, &conf);
    cr_assert_eq(prodport_new(w->reactor, w->svc, producers, &prodport), 0);
    cr_assert_eq(consport_new(w->reactor, w->svc, consumers, &consport), 0);
}

static void teardown(void)
{
    rpc_host_free(producers);
    rpc_host_free(consumers);
    world_settle(w);
    world_free(w);
    prodport_free(prodport);
    consport_free(consport);
}

TestSuite(ports, .init = setup, .fini = teardown);

/* Our end of a new connection, non-blocking. */
static int join(struct rpc_host *host)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    cr_assert_eq(rpc_host_accept(host, fds[0], 0), 0);
    return fds[1];
}

static size_t put_call(uint8_t *at, uint32_t method, struct bytes_view args, bool drop_reply)
{
    uint8_t tail[FRAME_OVERHEAD];
    size_t ntail = 0;
    size_t n = frame_invoke_head(at, 1, 1, method, args.n, drop_reply, tail, &ntail);
    if (args.n)
        memcpy(at + n, args.p, args.n);
    memcpy(at + n + args.n, tail, ntail);
    return n + args.n + ntail;
}

static size_t put_init(uint8_t *at, size_t name_len)
{
    struct bytesbuf b;
    char *name = malloc(name_len);
    memset(name, 'n', name_len);
    bytesbuf_init(&b, name_len + 16);
    bytesbuf_pb_bytes(&b, PBF_InitializeConnectionRequest_producer_name, name, name_len);
    size_t n = put_call(at, PORT_PRODUCER_INITIALIZE_CONNECTION, bytesbuf_view(&b), false);
    bytesbuf_fini(&b);
    free(name);
    return n;
}

/* Writes up to `total` copies of one call, as fast as the service reads, for at most that many
 * ticks. Returns how many were taken. */
static size_t flood(int fd, uint32_t method, size_t total, size_t ticks)
{
    uint8_t one[2 * FRAME_OVERHEAD], block[65536];
    size_t n = put_call(one, method, bytes_view(NULL, 0), true), held = sizeof(block) / n * n;
    size_t sent = 0, at = 0;
    for (size_t i = 0; i < held; i += n)
        memcpy(block + i, one, n);
    for (size_t t = 0; t < ticks && sent < total * n;) {
        ssize_t got = send(fd, block + at, held - at, MSG_NOSIGNAL);
        if (got < 0) {
            cr_assert_eq(errno, EAGAIN);
            cr_assert_eq(reactor_tick(w->reactor, 0), 0);
            t++;
            continue;
        }
        sent += (size_t)got;
        at = (at + (size_t)got) % held;
    }
    return sent / n;
}

/* Requests came in faster than their endpoint works them off, until its mailbox was full; then the
 * word that the consumer had left was lost, and it stayed for ever, its session with it. */
Test(ports, a_flood_of_requests_does_not_keep_a_consumer_alive)
{
    int fd = join(consumers);
    cr_expect_lt(flood(fd, PORT_CONSUMER_DISABLE_TRACING, 200000, 200), 100000,
                 "what nobody works off is not read");
    close(fd);
    world_settle(w);
    cr_expect(service_idle(w->svc), "it has left");
}

/* The same with a consumer that waits until all was taken: it is read on. */
Test(ports, a_flood_of_requests_is_worked_off)
{
    int fd = join(consumers);
    cr_expect_geq(flood(fd, PORT_CONSUMER_DISABLE_TRACING, 100000, SIZE_MAX), 100000);
    close(fd);
    world_settle(w);
    cr_expect(service_idle(w->svc));
}

Test(ports, a_flood_of_requests_of_a_producer_is_read_as_it_is_worked_off)
{
    uint8_t init[256];
    int fd = join(producers);
    size_t n = put_init(init, 8);
    cr_assert_eq(send(fd, init, n, 0), n);
    cr_expect_lt(flood(fd, PORT_PRODUCER_SYNC, 1000000, 200), 200000,
                 "what nobody works off is not read");
    cr_expect_geq(flood(fd, PORT_PRODUCER_SYNC, 100000, SIZE_MAX), 100000, "but then it is");
    close(fd);
    world_settle(w);
    cr_expect(service_idle(w->svc), "it has left");
}

/* An InitializeConnection that was refused took the place of the one behind it with it, and the
 * endpoint of that was never told that its peer had left. */
Test(ports, a_refused_introduction_does_not_harm_the_next)
{
    uint8_t init[65536];
    int fd = join(producers);
    size_t n = put_init(init, 60000);
    n += put_init(init + n, 8);
    cr_assert_eq(send(fd, init, n, 0), n);
    world_settle(w);
    cr_expect_not(service_idle(w->svc), "the second one counts");
    close(fd);
    world_settle(w);
    cr_expect(service_idle(w->svc), "and leaves");
}

/* A request with a descriptor had to wait its turn; it was handed on, and what was left of it was
 * taken for one with descriptor 0, which was closed. */
Test(ports, a_message_that_was_handed_on_owns_nothing)
{
    static const enum msg_kind kinds[] = {MSG_C_ENABLE, MSG_C_CLONE, MSG_PP_SETUP_TRACING};
    cr_assert_geq(fcntl(0, F_GETFD), 0);
    for (size_t i = 0; i < 3; i++) {
        struct mailbox_msg m = {.kind = kinds[i], .size = sizeof(struct msg_enable)};
        memset(m.data, 0x77, sizeof(m.data));
        msg_forget(&m);
        mailbox_destroy_payload(&msg_table, m.kind, m.data);
        cr_expect_geq(fcntl(0, F_GETFD), 0, "still there");
    }
}
