/* SPDX-License-Identifier: Apache-2.0 */
/* The client against a raw host and against ours (R38, R39, R46-R48, R51-R53, R57-R62, R77-R83,
 * R111, T-C1 .. T-C10). */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/listener.h"
#include "ipc/rpc_client.h"
#include "ipc/rpc_host.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "t/ipc/loop.h"

static struct reactor *r;
static struct rpc_client *c;
static int peer = -1;

static const struct rpc_method methods[] = {{.name = "One"}, {.name = "Two"}, {.name = "Three"}};
static const struct rpc_service service = {"TestPort", methods, 3};
static const struct rpc_service other = {"OtherPort", methods, 3};

/* ---- what happened ---- */

static int connected;
static int disconnected;
static int disconnect_reason;
static int bound;
static int unbound;
static struct rpc_proxy *last_bound;
static int results;
static int rejected;
static bool last_more;
static char last_msg[64];
static int taken = -1;
static bool in_call; /* set while the test is inside an API call that must not call back */

static void on_connected(void *arg, struct rpc_client *client)
{
    cr_assert_eq(arg, &connected);
    cr_assert_eq(client, c);
    cr_assert_not(in_call);
    connected++;
}

static void on_disconnected(void *arg, struct rpc_client *client, int reason)
{
    (void)arg;
    (void)client;
    cr_assert_not(in_call);
    disconnected++;
    disconnect_reason = reason;
}

static const struct rpc_client_ops ops = {.connected = on_connected,
                                          .disconnected = on_disconnected};

static void on_bound(void *arg, struct rpc_proxy *proxy)
{
    (void)arg;
    bound++;
    last_bound = proxy;
}

static void on_unbound(void *arg, struct rpc_proxy *proxy)
{
    (void)arg;
    (void)proxy;
    unbound++;
}

static const struct rpc_proxy_ops proxy_ops = {.connected = on_bound, .disconnected = on_unbound};

static void on_result(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result)
{
    (void)arg;
    (void)proxy;
    cr_assert_not(in_call);
    if (!result->success) {
        rejected++;
        cr_assert_eq(result->msg.n, 0u);
        cr_assert_not(result->has_more);
        return;
    }
    results++;
    last_more = result->has_more;
    snprintf(last_msg, sizeof(last_msg), "%.*s", (int)result->msg.n, result->msg.p);
    if (taken == -1)
        taken = rpc_client_take_fd(c);
}

/* Proxies outlive the client; those that a test does not free, its teardown does. */
static struct rpc_proxy *proxies[16];

static struct rpc_proxy *bind_to(const struct rpc_service *to)
{
    size_t i = 0;
    while (proxies[i] != NULL)
        i++;
    proxies[i] = rpc_client_bind(c, to, &proxy_ops, NULL);
    return proxies[i];
}

static void drop(struct rpc_proxy *p)
{
    for (size_t i = 0; i < sizeof(proxies) / sizeof(proxies[0]); i++) {
        if (proxies[i] == p)
            proxies[i] = NULL;
    }
    rpc_proxy_free(p);
}

static void drop_all(void)
{
    for (size_t i = 0; i < sizeof(proxies) / sizeof(proxies[0]); i++)
        drop(proxies[i]);
}

/* ---- the raw host ---- */

static uint8_t in[1 << 20];
static const uint8_t *in_p;
static size_t in_n;

static void setup(void)
{
    int fds[2];
    chrono_virtual_start(1000 * CHRONO_SEC);
    r = reactor_new(NULL);
    c = rpc_client_new(r, NULL, &ops, &connected);
    loop_pair(fds);
    peer = fds[1];
    cr_assert_eq(rpc_client_adopt(c, fds[0]), 0);
}

static void teardown(void)
{
    rpc_client_free(c);
    drop_all();
    reactor_settle(r);
    reactor_free(r);
    loop_no_leaks();
    if (peer >= 0)
        close(peer);
    chrono_virtual_stop();
}

TestSuite(rpc_client, .init = setup, .fini = teardown);

static void hear(void)
{
    loop_ticks(r, 3);
    long n = loop_read(peer, in, sizeof(in));
    in_p = in;
    in_n = n > 0 ? (size_t)n : 0;
}

static struct frame next(void)
{
    struct frame f;
    cr_assert(loop_frame(&in_p, &in_n, &f), "one more frame");
    return f;
}

static bool is(struct bytes_view v, const char *text)
{
    return bytes_equal(v, bytes_str(text));
}

/* Answers a bind; the host has its methods under other ids and one that we do not know. */
static void answer_bind(uint64_t id, uint32_t service_id)
{
    uint8_t buf[512];
    struct frame_method m[] = {{7, bytes_str("One")}, {9, bytes_str("New")}, {3, bytes_str("Two")}};
    loop_write(peer, buf, frame_put_bind_ok(buf, id, service_id, m, 3));
    loop_ticks(r, 2);
}

static struct rpc_proxy *bind_it(void)
{
    struct rpc_proxy *p = bind_to(&service);
    hear();
    struct frame f = next();
    cr_assert_eq(f.kind, FRAME_BIND);
    cr_assert(is(f.u.bind.service, "TestPort"));
    answer_bind(f.request_id, 1);
    cr_assert_eq(bound, 1);
    return p;
}

static void reply(uint64_t id, const char *msg, bool more)
{
    uint8_t buf[256];
    size_t n = frame_reply_head(buf, id, more, strlen(msg));
    memcpy(buf + n, msg, strlen(msg));
    loop_write(peer, buf, n + strlen(msg));
    loop_ticks(r, 2);
}

/* ---- binding ---- */

/* T-C1, R39, R46. */
Test(rpc_client, tc1_bind_then_invoke)
{
    struct rpc_proxy *p = bind_it();
    cr_assert(rpc_proxy_is_bound(p));
    cr_assert(rpc_proxy_has(p, 1));
    cr_assert(rpc_proxy_has(p, 2));
    cr_assert_not(rpc_proxy_has(p, 3));
    cr_assert_not(rpc_proxy_has(p, 0));
    cr_assert_not(rpc_proxy_has(p, 4));
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_str("args"), -1, on_result, NULL);
    cr_assert_eq(id, 2u, "after the bind's 1");
    hear();
    struct frame f = next();
    cr_assert_eq(f.kind, FRAME_INVOKE);
    cr_assert_eq(f.request_id, 2u);
    cr_assert_eq(f.u.invoke.service_id, 1u);
    cr_assert_eq(f.u.invoke.method_id, 7u, "the host's id for our name");
    cr_assert(is(f.u.invoke.args, "args"));
    cr_assert_not(f.u.invoke.drop_reply);
    reply(2, "answer", false);
    cr_assert_eq(results, 1);
    cr_assert_str_eq(last_msg, "answer");
    reply(2, "again", false);
    cr_assert_eq(results, 1, "finished (R57)");
}

/* T-C2, R53, R127: rejected locally, from the loop. */
Test(rpc_client, tc2_method_the_host_lacks)
{
    struct rpc_proxy *p = bind_it();
    in_call = true;
    cr_assert_eq(rpc_proxy_invoke(p, 3, bytes_view(NULL, 0), -1, on_result, NULL), 0u);
    in_call = false;
    cr_assert_eq(rejected, 0);
    hear();
    cr_assert_eq(rejected, 1);
    cr_assert_eq(in_n, 0u, "nothing was sent");
}

/* T-C3, R51. */
Test(rpc_client, tc3_no_callback_drops_the_reply)
{
    struct rpc_proxy *p = bind_it();
    cr_assert_neq(rpc_proxy_invoke(p, 2, bytes_view(NULL, 0), -1, NULL, NULL), 0u);
    hear();
    struct frame f = next();
    cr_assert(f.u.invoke.drop_reply);
    cr_assert_eq(f.u.invoke.method_id, 3u);
}

/* T-C4, R57, R58: nothing marks a method as one that streams. */
Test(rpc_client, tc4_stream)
{
    struct rpc_proxy *p = bind_it();
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    reply(id, "a", true);
    cr_assert(last_more);
    reply(id, "b", true);
    reply(id, "c", false);
    cr_assert_not(last_more);
    cr_assert_eq(results, 3);
    reply(id, "d", true);
    cr_assert_eq(results, 3);
}

/* T-C5. */
Test(rpc_client, tc5_descriptors_both_ways)
{
    struct rpc_proxy *p = bind_it();
    int out = loop_memfd("to the host");
    int got = -1;
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), out, on_result, NULL);
    close(out);
    loop_ticks(r, 2);
    cr_assert_gt(loop_recv_fd(peer, in, sizeof(in), &got), 0);
    cr_assert(loop_fd_holds(got, "to the host"));
    close(got);
    int back = loop_memfd("to the client");
    uint8_t buf[64];
    size_t n = frame_reply_head(buf, id, false, 0);
    loop_send_fds(peer, buf, n, &back, 1);
    close(back);
    loop_ticks(r, 2);
    cr_assert_eq(results, 1);
    cr_assert(loop_fd_holds(taken, "to the client"));
    close(taken);
}

/* T-C6, R47. */
Test(rpc_client, tc6_three_proxies_for_one_service)
{
    struct rpc_proxy *p[3];
    for (int i = 0; i < 3; i++)
        p[i] = bind_to(&service);
    hear();
    for (uint64_t id = 1; id <= 3; id++) {
        cr_assert_eq(next().request_id, id);
        answer_bind(id, 1);
    }
    cr_assert_eq(bound, 1);
    cr_assert_eq(unbound, 2);
    cr_assert(rpc_proxy_is_bound(p[0]));
    for (int i = 0; i < 3; i++)
        drop(p[i]);
    /* With the first one gone the service can be bound again. */
    p[0] = bind_to(&service);
    loop_ticks(r, 1);
    answer_bind(4, 1);
    cr_assert_eq(bound, 2);
}

/* T-C8, R62. */
Test(rpc_client, tc8_proxy_freed_before_its_replies)
{
    struct rpc_proxy *p = bind_to(&service);
    hear();
    drop(p);
    answer_bind(1, 1);
    cr_assert_eq(bound + unbound, 0);
    p = bind_to(&service);
    loop_ticks(r, 1);
    answer_bind(2, 1);
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    drop(p);
    cr_assert_eq(rejected, 1);
    reply(id, "late", false);
    cr_assert_eq(results, 0);
    cr_assert_eq(unbound, 0);
}

/* T-C9. */
Test(rpc_client, tc9_client_freed_first)
{
    struct rpc_proxy *p = bind_it();
    rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    rpc_proxy_invoke(p, 3, bytes_view(NULL, 0), -1, on_result, NULL);
    rpc_client_free(c);
    cr_assert_eq(rejected, 2);
    cr_assert_eq(unbound, 1);
    cr_assert_eq(disconnected, 0, "the owner freed it and knows");
    cr_assert_not(rpc_proxy_is_bound(p));
    cr_assert_null(rpc_proxy_client(p));
    cr_assert_eq(rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL), 0u);
    loop_ticks(r, 2);
    drop(p);
    c = NULL;
}

/* R43. */
Test(rpc_client, bind_refused)
{
    uint8_t buf[64];
    bind_to(&service);
    hear();
    loop_write(peer, buf, frame_put_bind_unknown(buf, 1));
    loop_ticks(r, 2);
    cr_assert_eq(bound, 0);
    cr_assert_eq(unbound, 1);
    cr_assert(rpc_client_is_connected(c), "the connection stays");
}

/* ---- odd answers ---- */

/* R61, R56. */
Test(rpc_client, rejections)
{
    uint8_t buf[64];
    struct rpc_proxy *p = bind_it();
    uint64_t a = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    uint64_t b = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    loop_write(peer, buf, frame_put_failed(buf, b));
    loop_write(peer, buf, frame_put_rejected(buf, a));
    loop_ticks(r, 2);
    cr_assert_eq(rejected, 2);
}

/* R38: a reply of the wrong kind completes nothing; the callback comes with the loss. */
Test(rpc_client, wrong_kind_is_completed_by_the_loss_only)
{
    uint8_t buf[256];
    struct rpc_proxy *p = bind_it();
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    loop_write(peer, buf, frame_put_error(buf, id, bytes_str("unknown request")));
    loop_write(peer, buf, frame_put_bind_unknown(buf, 4711)); /* not outstanding */
    loop_ticks(r, 2);
    cr_assert_eq(results + rejected, 0);
    reply(id, "too late", false);
    cr_assert_eq(results, 0, "forgotten");
    close(peer);
    peer = -1;
    loop_ticks(r, 3);
    cr_assert_eq(rejected, 1);
    cr_assert_eq(unbound, 1);
    cr_assert_eq(disconnected, 1);
}

Test(rpc_client, garbage_is_skipped)
{
    struct rpc_proxy *p = bind_it();
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    loop_write(peer, "\3\0\0\0\377\377\377\0\0\0\0", 11);
    reply(id, "fine", false);
    cr_assert_eq(results, 1);
}

Test(rpc_client, forgotten_request)
{
    struct rpc_proxy *p = bind_it();
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    cr_assert(rpc_proxy_forget(p, id));
    cr_assert_not(rpc_proxy_forget(p, id));
    cr_assert_not(rpc_proxy_forget(p, 0));
    reply(id, "x", false);
    cr_assert_eq(results + rejected, 0);
}

/* ---- losing the connection ---- */

/* R111. */
Test(rpc_client, loss_rejects_all_in_order_and_tells_each_once)
{
    struct rpc_proxy *p = bind_it();
    for (int i = 0; i < 3; i++)
        rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    bind_to(&other);
    hear();
    close(peer);
    peer = -1;
    loop_ticks(r, 3);
    cr_assert_eq(rejected, 3);
    cr_assert_eq(unbound, 2);
    cr_assert_eq(disconnected, 1);
    cr_assert_eq(disconnect_reason, ERR_HANGUP);
    in_call = true;
    rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    in_call = false;
    loop_ticks(r, 2);
    cr_assert_eq(rejected, 4, "an invocation after the loss is rejected too");
    cr_assert_eq(unbound, 2);
    cr_assert_eq(disconnected, 1);
}

Test(rpc_client, closing_is_a_loss_from_the_loop)
{
    struct rpc_proxy *p = bind_it();
    rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, on_result, NULL);
    in_call = true;
    rpc_client_close(c);
    in_call = false;
    cr_assert_eq(rejected + unbound + disconnected, 0);
    loop_ticks(r, 2);
    cr_assert_eq(rejected, 1);
    cr_assert_eq(unbound, 1);
    cr_assert_eq(disconnected, 1);
}

/* A host that does not want us said why, and all that was seen was that the peer had closed. */
Test(rpc_client, a_refusal_is_told)
{
    uint8_t frame[512];
    char text[300] = "go\nway";
    int fds[2];
    drop(bind_it());
    size_t n = frame_put_error(frame, 0, bytes_view(text, sizeof(text)));
    cr_assert_eq(write(peer, frame, n), n);
    close(peer);
    loop_ticks(r, 3);
    cr_assert_eq(strncmp(rpc_client_farewell(c), "go?way???", 9), 0, "in one line");
    cr_expect_eq(strlen(rpc_client_farewell(c)), 199u, "and not a long one");
    loop_pair(fds);
    peer = fds[1];
    cr_assert_eq(rpc_client_adopt(c, fds[0]), 0);
    loop_ticks(r, 2);
    cr_expect_null(rpc_client_farewell(c), "it was about the connection before");
}

/* A second connection, made before the loss of the first was told, with a proxy of its own. */
Test(rpc_client, epochs_do_not_mix)
{
    int fds[2];
    struct rpc_proxy *old = bind_it();
    rpc_client_close(c);
    loop_pair(fds);
    close(peer);
    peer = fds[1];
    cr_assert_eq(rpc_client_adopt(c, fds[0]), 0);
    struct rpc_proxy *fresh = bind_to(&service);
    cr_assert_not(rpc_proxy_is_bound(old));
    hear();
    cr_assert_eq(unbound, 1);
    struct frame f = next();
    cr_assert_eq(f.kind, FRAME_BIND);
    cr_assert_eq(in_n, 0u, "one bind, of the new proxy");
    answer_bind(f.request_id, 1);
    cr_assert(rpc_proxy_is_bound(fresh));
    cr_assert_eq(last_bound, fresh);
    cr_assert_eq(unbound, 1);
}

static int free_in_callback;

static void free_on_result(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result)
{
    on_result(arg, proxy, result);
    if (free_in_callback == 1)
        drop(proxy);
    if (free_in_callback == 2 && c != NULL) {
        struct rpc_client *client = c;
        c = NULL;
        rpc_client_free(client);
    }
}

Test(rpc_client, callbacks_may_free_the_proxy)
{
    struct rpc_proxy *p = bind_it();
    free_in_callback = 1;
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, free_on_result, NULL);
    for (int i = 0; i < 3; i++)
        rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, free_on_result, NULL);
    reply(id, "x", false);
    cr_assert_eq(results, 1);
    cr_assert_eq(rejected, 3);
}

Test(rpc_client, callbacks_may_free_the_client)
{
    struct rpc_proxy *p = bind_it();
    taken = -2;
    free_in_callback = 2;
    uint64_t id = rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, free_on_result, NULL);
    for (int i = 0; i < 3; i++)
        rpc_proxy_invoke(p, 1, bytes_view(NULL, 0), -1, free_on_result, NULL);
    reply(id, "x", true);
    cr_assert_eq(results, 1);
    cr_assert_eq(rejected, 4, "the stream too");
    cr_assert_eq(unbound, 1);
    loop_ticks(r, 2);
    drop(p);
}

/* Large arguments take the gathered way; the bytes are the same. */
Test(rpc_client, large_arguments)
{
    static uint8_t args[FRAME_MAX];
    const size_t most = FRAME_MAX - (4 + 2 + 4 + 2 + 2 + 4 + 2); /* the frame's own bytes */
    struct rpc_proxy *p = bind_it();
    memset(args, 'x', sizeof(args));
    cr_assert_eq(rpc_proxy_invoke(p, 1, bytes_view(args, most + 1), -1, on_result, NULL), 0u);
    loop_ticks(r, 2);
    cr_assert_eq(rejected, 1, "above the limit (R31)");
    cr_assert_neq(rpc_proxy_invoke(p, 1, bytes_view(args, most), -1, NULL, NULL), 0u);
    hear();
    cr_assert_eq(in_n, FRAME_MAX, "up to the last byte of a frame (R30)");
    for (size_t n = 8190; n <= 8194; n++) {
        rpc_proxy_invoke(p, 1, bytes_view(args, n), -1, NULL, NULL);
        hear();
        struct frame f = next();
        cr_assert_eq(f.u.invoke.args.n, n);
        cr_assert(f.u.invoke.drop_reply);
        cr_assert_eq(in_n, 0u);
    }
}

Test(rpc_client, identity_goes_before_the_binds)
{
    bind_to(&service);
    loop_ticks(r, 1);
    cr_assert_eq(connected, 1);
    cr_assert_eq(rpc_client_send_identity(c, 1234, 1000, bytes_str("boot-id"), bytes_str("vm1")),
                 0);
    hear();
    cr_assert_eq(next().kind, FRAME_BIND);
    struct frame f = next();
    cr_assert_eq(f.kind, FRAME_IDENTITY);
    cr_assert_eq(f.request_id, 0u);
}

/* ---- real connects ---- */

static char dir[] = "/tmp/ipc-client.XXXXXX";
static char path[64];
static struct listener *l;
static struct rpc_host *h;

static void on_accept(void *arg, struct listener *from, int fd)
{
    (void)arg;
    (void)from;
    cr_assert_eq(rpc_host_accept(h, fd, 1), 0);
}

static int run_one(void *arg, struct rpc_call *call)
{
    (void)arg;
    return rpc_reply_send(&call->reply, call->args, false, -1);
}

static rpc_handler *const handlers[3] = {run_one, run_one, NULL};

static void dir_setup(void)
{
    r = reactor_new(NULL);
    c = rpc_client_new(r, NULL, &ops, &connected);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/sock", dir);
    struct rpc_host_conf conf = {.label = "test"};
    h = rpc_host_new(r, &conf);
    rpc_host_expose(h, &service, handlers, NULL, NULL, 0);
}

static void dir_teardown(void)
{
    rpc_client_free(c);
    drop_all();
    listener_free(l);
    rpc_host_free(h);
    reactor_settle(r);
    reactor_free(r);
    loop_no_leaks();
    if (peer >= 0)
        close(peer);
    unlink(path);
    rmdir(dir);
}

static void serve(void)
{
    char err[SOCKNAME_ERR_MAX];
    struct listener_conf conf = {.label = "test", .accepted = on_accept};
    cr_assert_eq(listener_open(&l, r, path, &conf, err, sizeof(err)), 0, "%s", err);
}

TestSuite(rpc_connect, .init = dir_setup, .fini = dir_teardown);

/* T-C7, R48. */
Test(rpc_connect, tc7_binds_before_connecting)
{
    serve();
    rpc_host_expose(h, &other, handlers, NULL, NULL, 0);
    struct rpc_proxy *a = bind_to(&service);
    struct rpc_proxy *b = bind_to(&other);
    in_call = true;
    cr_assert_eq(rpc_client_connect(c, path, NULL, 0), 0);
    in_call = false;
    cr_assert_eq(rpc_client_connect(c, path, NULL, 0), -EISCONN);
    cr_assert(loop_until(r, &bound, 2));
    cr_assert_eq(connected, 1);
    cr_assert(rpc_proxy_is_bound(a));
    cr_assert_eq(last_bound, b, "in order of issue");
    rpc_proxy_invoke(a, 1, bytes_str("echo"), -1, on_result, NULL);
    cr_assert(loop_until(r, &results, 1));
    cr_assert_str_eq(last_msg, "echo");
}

/* T-C10, R83. */
Test(rpc_connect, tc10_nobody_there)
{
    char err[SOCKNAME_ERR_MAX];
    bind_to(&service);
    cr_assert_eq(rpc_client_connect(c, path, err, sizeof(err)), -ENOENT);
    cr_assert_not_null(strstr(err, path), "%s", err);
    cr_assert_not_null(strstr(err, "start traced"), "%s", err);
    cr_assert_eq(unbound, 0);
    loop_ticks(r, 3);
    cr_assert_eq(unbound, 1);
    cr_assert_eq(disconnected, 0, "connect said it");
    bind_to(&service);
    cr_assert_eq(rpc_client_connect(c, "", err, sizeof(err)), -EINVAL);
    loop_ticks(r, 3);
    cr_assert_eq(unbound, 2);
}

/* A proxy that waited for the failed attempt is not bound by the next one, which may succeed before
 * the proxy was told. */
Test(rpc_connect, failed_attempt_takes_its_proxies_along)
{
    int fds[2];
    struct rpc_proxy *a = bind_to(&service);
    cr_assert_eq(rpc_client_connect(c, path, NULL, 0), -ENOENT);
    loop_pair(fds);
    peer = fds[1];
    cr_assert_eq(rpc_client_adopt(c, fds[0]), 0);
    struct rpc_proxy *b = bind_to(&service);
    hear();
    cr_assert_eq(unbound, 1);
    struct frame f = next();
    cr_assert_eq(f.kind, FRAME_BIND);
    cr_assert_eq(in_n, 0u, "one bind");
    answer_bind(f.request_id, 1);
    cr_assert_not(rpc_proxy_is_bound(a));
    cr_assert(rpc_proxy_is_bound(b));
}

/* T-C10 over TCP, where the refusal comes later. */
Test(rpc_connect, tc10_tcp_refused)
{
    char text[SOCKNAME_TEXT_MAX];
    struct sockname name;
    char err[SOCKNAME_ERR_MAX];
    cr_assert_eq(sockname_parse(&name, "127.0.0.1:0", err, sizeof(err)), 0);
    int fd = sockname_listen(&name, 1, true, err, sizeof(err));
    cr_assert_eq(sockname_of_fd(&name, fd), 0);
    close(fd); /* a port that nobody listens on */
    snprintf(text, sizeof(text), "%s", name.text);
    bind_to(&service);
    int rc = rpc_client_connect(c, text, err, sizeof(err));
    if (rc == 0) {
        cr_assert(loop_until(r, &disconnected, 1));
        cr_assert_eq(disconnect_reason, -ECONNREFUSED);
    }
    loop_ticks(r, 3);
    cr_assert_eq(unbound, 1);
    cr_assert_leq(disconnected, 1);
}

/* T-C10: the host closes before the bind reply, and after it. */
Test(rpc_connect, tc10_host_closes)
{
    serve();
    rpc_client_connect(c, path, NULL, 0);
    bind_to(&service);
    for (int i = 0; i < 100 && rpc_host_count(h) == 0; i++)
        loop_ticks(r, 1);
    rpc_host_free(h);
    h = NULL;
    cr_assert(loop_until(r, &disconnected, 1));
    cr_assert_eq(unbound, 1);
    loop_ticks(r, 3);
    cr_assert_eq(disconnected, 1);
    cr_assert_eq(unbound, 1);
}

/* R78 to R81: with retry the attempt is repeated until somebody listens, at once when the name
 * appears. */
Test(rpc_connect, retry_until_the_name_appears)
{
    struct rpc_client_conf conf = {.retry = &redial_sdk};
    rpc_client_free(c);
    c = rpc_client_new(r, &conf, &ops, &connected);
    bind_to(&service);
    cr_assert_eq(rpc_client_connect(c, path, NULL, 0), 0);
    loop_ticks(r, 20);
    cr_assert_eq(connected + unbound + disconnected, 0, "it waits");
    uint64_t before = chrono_mono_ns();
    int open_before = loop_open_fds();
    serve();
    cr_assert(loop_until(r, &bound, 1));
    cr_assert_lt(chrono_mono_ns() - before, 900 * CHRONO_MS, "long before the delay of 1 s");
    cr_assert_eq(loop_open_fds(), open_before + 1 + 2 - 1,
                 "listener and pair; no inotify any more");
    rpc_host_free(h);
    h = NULL;
    cr_assert(loop_until(r, &disconnected, 1));
    loop_ticks(r, 20);
    cr_assert_eq(connected, 1, "an established connection is not retried (R81)");
    cr_assert_eq(unbound, 1);
}

Test(rpc_connect, connects_anew_after_a_loss)
{
    serve();
    for (int i = 1; i <= 3; i++) {
        struct rpc_proxy *p = bind_to(&service);
        cr_assert_eq(rpc_client_connect(c, path, NULL, 0), 0);
        cr_assert(loop_until(r, &bound, i));
        rpc_client_close(c);
        cr_assert(loop_until(r, &disconnected, i));
        cr_assert_eq(unbound, i);
        drop(p);
    }
}

Test(rpc_connect, freed_while_connecting_and_while_waiting)
{
    struct rpc_client_conf conf = {.retry = &redial_sdk};
    int before = loop_open_fds();
    for (int i = 0; i < 2; i++) {
        struct rpc_client *one = rpc_client_new(r, &conf, &ops, &connected);
        cr_assert_eq(rpc_client_connect(one, path, NULL, 0), 0);
        if (i == 0)
            loop_ticks(r, 2);
        rpc_client_free(one);
    }
    serve();
    struct rpc_client *one = rpc_client_new(r, NULL, &ops, &connected);
    cr_assert_eq(rpc_client_connect(one, path, NULL, 0), 0);
    rpc_client_free(one);
    loop_ticks(r, 5);
    cr_assert_eq(connected + disconnected, 0);
    cr_assert_eq(loop_open_fds(), before + 1, "the listener");
}
