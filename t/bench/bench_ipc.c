/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the socket protocol costs: frames decoded from memory, round trips and one-way calls between
 * our client and our host on two threads, and a stream of replies as ReadBuffers sends them.
 * Reports figures, asserts nothing.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/port_consumer.h"
#include "ipc/rpc_client.h"
#include "ipc/rpc_host.h"
#include "reactor/chrono.h"
#include "reactor/reactor.h"

enum { CALL = 1, SEND = 2, READ = 3 };

static const struct rpc_method methods[] = {{.name = "Call"}, {.name = "Send"}, {.name = "Read"}};
static const struct rpc_service service = {"BenchPort", methods, 3};

/* ---- host, on its own thread ---- */

#define READ_TOTAL (1ull << 30)
#define SLICE      4000u

static struct rpc_host *host;
static struct reactor *host_loop;
static uint64_t sent_calls;
static struct rpc_reply reader;
static uint64_t read_left;
static struct port_consumer_reply reply;
static uint8_t packets[SLICE];

static int on_call(void *arg, struct rpc_call *call)
{
    (void)arg;
    return rpc_reply_send(&call->reply, call->args, false, -1) < 0 ? -1 : 0;
}

static int on_send(void *arg, struct rpc_call *call)
{
    (void)arg;
    (void)call;
    sent_calls++;
    return 0;
}

/* Replies of about 32 KiB (R102) until the peer's queue is full. */
static void pump(void)
{
    while (rpc_reply_pending(&reader)) {
        struct rpc_conn *conn = rpc_reply_conn(&reader);
        if (conn == NULL || rpc_conn_is_full(conn))
            return;
        port_consumer_reply_reset(&reply);
        for (int i = 0; i < 8 && read_left != 0; i++) {
            size_t n = read_left < SLICE ? (size_t)read_left : SLICE;
            port_consumer_reply_add(&reply, &(struct iovec){packets, n}, 1, true);
            read_left -= n;
        }
        port_consumer_reply_finish(&reply);
        rpc_reply_sendv(&reader, reply.iov, reply.iovcnt, read_left != 0);
    }
}

static int on_read(void *arg, struct rpc_call *call)
{
    (void)arg;
    rpc_reply_replace(&reader, &call->reply);
    read_left = READ_TOTAL;
    pump();
    return 0;
}

static void on_drained(void *arg, struct rpc_conn *conn)
{
    (void)arg;
    (void)conn;
    pump();
}

static void on_left(void *arg, struct rpc_conn *conn)
{
    (void)arg;
    (void)conn;
    reactor_stop(host_loop);
}

static rpc_handler *const handlers[] = {on_call, on_send, on_read};
static const struct rpc_service_ops service_ops = {.left = on_left, .drained = on_drained};

static void *host_main(void *arg)
{
    struct rpc_host_conf conf = {.label = "bench"};
    host_loop = reactor_new(NULL);
    host = rpc_host_new(host_loop, &conf);
    rpc_host_expose(host, &service, handlers, &service_ops, NULL, 0);
    if (rpc_host_accept(host, *(int *)arg, 1) == 0)
        reactor_run(host_loop);
    rpc_host_free(host);
    reactor_free(host_loop);
    return NULL;
}

/* ---- client ---- */

static struct reactor *loop;
static struct rpc_proxy *proxy;
static uint64_t left;
static uint64_t bytes;
static uint64_t slices;
static uint8_t args[4096];
static size_t args_len;

static void report(const char *what, uint64_t n, uint64_t ns)
{
    printf("%-44s %8.1f ns each, %8.3f M/s\n", what, (double)ns / (double)n,
           (double)n * 1e3 / (double)ns);
}

static void on_bound(void *arg, struct rpc_proxy *p)
{
    (void)arg;
    (void)p;
    reactor_stop(loop);
}

static const struct rpc_proxy_ops proxy_ops = {.connected = on_bound};

static void on_pong(void *arg, struct rpc_proxy *p, const struct rpc_result *res)
{
    (void)arg;
    if (!res->success || --left == 0)
        reactor_stop(loop);
    else
        rpc_proxy_invoke(p, CALL, bytes_view(args, args_len), -1, on_pong, NULL);
}

static void on_done(void *arg, struct rpc_proxy *p, const struct rpc_result *res)
{
    (void)arg;
    (void)p;
    (void)res;
    if (--left == 0)
        reactor_stop(loop);
}

static void on_slices(void *arg, struct rpc_proxy *p, const struct rpc_result *res)
{
    struct bytes_cur cur = bytes_cur(res->msg);
    struct port_consumer_slice s;
    (void)arg;
    (void)p;
    while (port_consumer_next_slice(&cur, &s) == 1) {
        bytes += s.data.n;
        slices++;
    }
    if (!res->has_more)
        reactor_stop(loop);
}

static void bench_round_trips(size_t n, uint64_t count)
{
    char what[64];
    args_len = n;
    left = count;
    uint64_t start = chrono_mono_ns();
    rpc_proxy_invoke(proxy, CALL, bytes_view(args, n), -1, on_pong, NULL);
    reactor_run(loop);
    snprintf(what, sizeof(what), "round trip, %zu bytes, two threads", n);
    report(what, count, chrono_mono_ns() - start);
}

static void bench_pipelined(size_t n, uint64_t batch, uint64_t count)
{
    char what[64];
    uint64_t start = chrono_mono_ns();
    for (uint64_t done = 0; done < count; done += batch) {
        left = batch;
        for (uint64_t i = 0; i < batch; i++)
            rpc_proxy_invoke(proxy, CALL, bytes_view(args, n), -1, on_done, NULL);
        reactor_run(loop);
    }
    snprintf(what, sizeof(what), "call and reply, %zu bytes, %" PRIu64 " at a time", n, batch);
    report(what, count, chrono_mono_ns() - start);
}

/* One-way calls, as commits without acknowledgement, ended by one round trip per batch. */
static void bench_one_way(size_t n, uint64_t batch, uint64_t count)
{
    char what[64];
    uint64_t start = chrono_mono_ns();
    for (uint64_t done = 0; done < count; done += batch) {
        for (uint64_t i = 0; i < batch; i++)
            rpc_proxy_invoke(proxy, SEND, bytes_view(args, n), -1, NULL, NULL);
        left = 1;
        rpc_proxy_invoke(proxy, CALL, bytes_view(NULL, 0), -1, on_done, NULL);
        reactor_run(loop);
    }
    snprintf(what, sizeof(what), "one-way call, %zu bytes", n);
    report(what, count, chrono_mono_ns() - start);
}

static void bench_stream(void)
{
    uint64_t start = chrono_mono_ns();
    rpc_proxy_invoke(proxy, READ, bytes_view(NULL, 0), -1, on_slices, NULL);
    reactor_run(loop);
    uint64_t ns = chrono_mono_ns() - start;
    printf("%-44s %8.2f GB/s, %8.3f M slices/s\n", "reply stream, slices of 4000 bytes",
           (double)bytes / (double)ns, (double)slices * 1e3 / (double)ns);
}

static void bench_decode(void)
{
    static uint8_t stream[65536];
    size_t n = 0;
    uint64_t frames = 0;
    uint64_t sum = 0;
    while (n + 200 < sizeof(stream)) {
        uint8_t tail[FRAME_OVERHEAD];
        size_t tn = 0;
        n += frame_invoke_head(stream + n, 77, 1, 4, 60, true, tail, &tn) + 60;
        memcpy(stream + n, tail, tn);
        n += tn;
    }
    struct frame_reader r;
    frame_reader_init(&r);
    uint64_t start = chrono_mono_ns();
    for (int round = 0; round < 2000; round++) {
        for (size_t at = 0; at < n;) {
            uint8_t *to = NULL;
            size_t room = 0;
            struct bytes_view payload;
            frame_reader_space(&r, &to, &room);
            room = room < n - at ? room : n - at;
            memcpy(to, stream + at, room);
            frame_reader_filled(&r, room);
            at += room;
            while (frame_reader_next(&r, &payload) == 0) {
                struct frame f;
                frame_decode(&f, payload);
                sum += f.u.invoke.args.n;
                frames++;
            }
        }
    }
    report("frame cut and decoded (invoke, 60 bytes)", frames, chrono_mono_ns() - start);
    if (sum != frames * 60)
        printf("wrong sum\n");
    frame_reader_fini(&r);
}

int main(void)
{
    int fds[2];
    pthread_t thread;
    bench_decode();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0 ||
        pthread_create(&thread, NULL, host_main, &fds[0]) != 0) {
        perror("bench_ipc");
        return 1;
    }
    loop = reactor_new(NULL);
    struct rpc_client_conf conf = {.channel = {.out_cap = 8u << 20}};
    struct rpc_client *client = rpc_client_new(loop, &conf, NULL, NULL);
    rpc_client_adopt(client, fds[1]);
    proxy = rpc_client_bind(client, &service, &proxy_ops, NULL);
    reactor_run(loop);
    bench_round_trips(0, 50000);
    bench_round_trips(1000, 50000);
    bench_pipelined(100, 100, 300000);
    bench_one_way(60, 1000, 2000000);
    bench_one_way(1000, 1000, 1000000);
    bench_stream();
    rpc_client_free(client);
    rpc_proxy_free(proxy);
    reactor_free(loop);
    pthread_join(thread, NULL);
    return 0;
}
