/* SPDX-License-Identifier: Apache-2.0 */
/* The host against a raw peer: binds, calls, replies now and later, rejections, identities, ends
 * (R36-R65, R110, T-H1 .. T-H8). */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/rpc_host.h"
#include "ipc/sockname.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "t/ipc/loop.h"

static struct reactor *r;
static struct rpc_host *h;
static int peer = -1;

/* ---- a service for the tests ---- */

enum { ECHO = 1, KEEP, FAIL_DECODE, STREAM, TAKE_FD, QUIT, NOTHING, HOLE, METHODS = HOLE };

static const struct rpc_method methods[METHODS] = {
    {.name = "Echo"},   {.name = "Keep"}, {.name = "FailDecode"}, {.name = "Stream"},
    {.name = "TakeFd"}, {.name = "Quit"}, {.name = "Nothing"},    {.name = "Hole"},
};
static const struct rpc_service service = {"TestPort", methods, METHODS};
static const struct rpc_service other = {"OtherPort", methods, 2};

static int calls;
static int left;
static int gone;
static char left_order[8];
static struct rpc_reply kept;
static uint64_t last_conn;
static struct cred seen;
static int taken_fd = -1;

static int echo(void *arg, struct rpc_call *call)
{
    cr_assert_eq(arg, &calls);
    calls++;
    last_conn = rpc_conn_id(call->conn);
    seen = *rpc_conn_cred(call->conn);
    return rpc_reply_send(&call->reply, call->args, false, -1) == 0 ? 0 : 0;
}

static int keep(void *arg, struct rpc_call *call)
{
    (void)arg;
    calls++;
    rpc_reply_replace(&kept, &call->reply);
    return 0;
}

static int fail_decode(void *arg, struct rpc_call *call)
{
    (void)arg;
    (void)call;
    return ERR_BAD_REQUEST;
}

static int stream(void *arg, struct rpc_call *call)
{
    (void)arg;
    for (int i = 0; i < 3; i++)
        rpc_reply_send(&call->reply, bytes_str("item"), i < 2, -1);
    return 0;
}

static int take_fd(void *arg, struct rpc_call *call)
{
    (void)arg;
    taken_fd = rpc_conn_take_fd(call->conn);
    rpc_reply_send(&call->reply, bytes_view(NULL, 0), false, taken_fd);
    return 0;
}

static int quit(void *arg, struct rpc_call *call)
{
    (void)arg;
    rpc_conn_close(call->conn, ERR_BAD_STATE);
    return 0;
}

static int nothing(void *arg, struct rpc_call *call)
{
    (void)arg;
    (void)call;
    calls++;
    return 0;
}

static rpc_handler *const handlers[METHODS] = {echo,    keep, fail_decode, stream,
                                               take_fd, quit, nothing,     NULL};
static rpc_handler *const other_handlers[2] = {echo, keep};

static void on_left(void *arg, struct rpc_conn *conn)
{
    (void)arg;
    cr_assert_null(rpc_host_find(h, rpc_conn_id(conn)), "nobody finds it any more");
    left_order[left++] = 'a';
}

static void on_left_other(void *arg, struct rpc_conn *conn)
{
    (void)arg;
    (void)conn;
    left_order[left++] = 'b';
}

static const struct rpc_service_ops ops = {.left = on_left};
static const struct rpc_service_ops other_ops = {.left = on_left_other};

static void on_gone(void *arg, struct rpc_conn *conn)
{
    (void)arg;
    (void)conn;
    gone++;
}

static int refuse;

static int admit(void *arg, struct rpc_conn *conn, char *why, size_t len)
{
    (void)arg;
    if (refuse)
        cr_assert_lt(snprintf(why, len, "not you"), (int)len);
    cr_assert_neq(rpc_conn_cred(conn)->family, SOCKNAME_NONE);
    return refuse;
}

static void expose(void)
{
    cr_assert_eq(rpc_host_expose(h, &service, handlers, &ops, &calls, 0), 1);
}

static void connect_peer(void)
{
    int fds[2];
    loop_pair(fds);
    peer = fds[1];
    cr_assert_eq(rpc_host_accept(h, fds[0], 1), 0);
}

static void setup(void)
{
    chrono_virtual_start(1000 * CHRONO_SEC);
    r = reactor_new(NULL);
    struct rpc_host_conf conf = {.label = "test", .admit = admit, .gone = on_gone};
    h = rpc_host_new(r, &conf);
}

static void teardown(void)
{
    rpc_host_free(h);
    reactor_settle(r);
    reactor_free(r);
    loop_no_leaks();
    if (peer >= 0)
        close(peer);
    chrono_virtual_stop();
}

TestSuite(rpc_host, .init = setup, .fini = teardown);

/* ---- the peer ---- */

static uint8_t out[FRAME_MAX];
static uint8_t in[1 << 20];
static const uint8_t *in_p;
static size_t in_n;

static void send_hex(const char *hex)
{
    size_t n = loop_hex(hex, out, sizeof(out));
    loop_write(peer, out, n);
}

static size_t make_call(uint8_t *p, uint64_t id, uint32_t service_id, uint32_t method,
                        const char *args, bool drop)
{
    uint8_t tail[FRAME_OVERHEAD];
    size_t tn = 0;
    size_t an = strlen(args);
    size_t n = frame_invoke_head(p, id, service_id, method, an, drop, tail, &tn);
    memcpy(p + n, args, an);
    memcpy(p + n + an, tail, tn);
    return n + an + tn;
}

static void call(uint64_t id, uint32_t method, const char *args, bool drop)
{
    loop_write(peer, out, make_call(out, id, 1, method, args, drop));
}

/* Everything the host says within a few ticks. */
static void listen_to(void)
{
    long n = 0;
    size_t total = 0;
    for (int i = 0; i < 6; i++) {
        loop_ticks(r, 1);
        n = loop_read(peer, in + total, sizeof(in) - total);
        total += n > 0 ? (size_t)n : 0;
    }
    in_p = in;
    in_n = total;
}

static bool says_hex(const char *hex)
{
    static uint8_t want[1024];
    size_t n = loop_hex(hex, want, sizeof(want));
    listen_to();
    return in_n == n && memcmp(in_p, want, n) == 0;
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

/* ---- binding ---- */

Test(rpc_host, th1_bind_fails_until_the_service_is_there)
{
    connect_peer();
    loop_write(peer, out, frame_put_bind(out, 1, bytes_str("TestPort")));
    cr_assert(says_hex("04000000 1001 2200"), "R43");
    expose();
    loop_write(peer, out, frame_put_bind(out, 2, bytes_str("TestPort")));
    listen_to();
    struct frame f = next();
    cr_assert_eq(f.request_id, 2u);
    cr_assert(f.u.bind_reply.success);
    cr_assert_eq(f.u.bind_reply.service_id, 1u);
    struct bytes_cur cur = bytes_cur(f.u.bind_reply.methods);
    struct frame_method m;
    uint32_t n = 0;
    while (frame_next_method(&cur, &m)) {
        n++;
        cr_assert_eq(m.id, n);
        cr_assert(is(m.name, methods[n - 1].name));
    }
    cr_assert_eq(n, (uint32_t)METHODS);
}

/* R41: exact and case sensitive. R45: any number of times, and no need to. */
Test(rpc_host, bind_names_and_repeats)
{
    static const char *const wrong[] = {"", "testport", "TestPor", "TestPortX", "test_port"};
    expose();
    connect_peer();
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        loop_write(peer, out, frame_put_bind(out, 1, bytes_str(wrong[i])));
        cr_assert(says_hex("04000000 1001 2200"), "%s", wrong[i]);
    }
    for (int i = 0; i < 3; i++)
        loop_write(peer, out, frame_put_bind(out, 7, bytes_str("TestPort")));
    listen_to();
    for (int i = 0; i < 3; i++)
        cr_assert(next().u.bind_reply.success);
    call(8, ECHO, "without a bind of its own", false);
    listen_to();
    cr_assert(next().u.invoke_reply.success);
}

/* R19, R44. */
Test(rpc_host, masked_service_is_visible_to_its_listeners_only)
{
    expose();
    cr_assert_eq(rpc_host_expose(h, &other, other_handlers, &other_ops, &calls, 2), 2);
    connect_peer(); /* tag 1 */
    loop_write(peer, out, frame_put_bind(out, 1, bytes_str("OtherPort")));
    cr_assert(says_hex("04000000 1001 2200"));
    loop_write(peer, out, make_call(out, 2, 2, ECHO, "", false));
    cr_assert(says_hex("06000000 1002 3202 0800"));
    int fds[2];
    loop_pair(fds);
    close(peer);
    peer = fds[1];
    cr_assert_eq(rpc_host_accept(h, fds[0], 2), 0);
    loop_write(peer, out, frame_put_bind(out, 1, bytes_str("OtherPort")));
    listen_to();
    cr_assert_eq(next().u.bind_reply.service_id, 2u);
    cr_assert_eq(left, 1);
    close(peer);
    peer = -1;
    loop_ticks(r, 3);
    cr_assert_eq(left, 3);
    cr_assert_arr_eq(left_order, "aab", 3, "in service-id order (R110)");
}

/* ---- calls ---- */

/* R49, R55. */
Test(rpc_host, call_and_reply)
{
    expose();
    connect_peer();
    call(2, ECHO, "hi", false);
    cr_assert(says_hex("0C000000 1002 3208 0801 1000 1A02 6869"), "R55");
    call(3, ECHO, "", false);
    cr_assert(says_hex("0A000000 1003 3206 0801 1000 1A00"), "always written, possibly empty");
}

/* R40: ids are echoed whatever they are. */
Test(rpc_host, request_ids_are_only_echoed)
{
    static const uint64_t ids[] = {0, 5, 5, 1, UINT64_MAX, 0};
    expose();
    connect_peer();
    for (size_t i = 0; i < 6; i++)
        call(ids[i], ECHO, "", false);
    listen_to();
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(next().request_id, ids[i]);
}

/* R50, T-H2. */
Test(rpc_host, th2_unknown_service_method_or_bad_arguments)
{
    expose();
    connect_peer();
    loop_write(peer, out, make_call(out, 2, 1, 42, "", false));
    cr_assert(says_hex("06000000 1002 3202 0800"));
    loop_write(peer, out, make_call(out, 2, 1, 0, "", false));
    cr_assert(says_hex("06000000 1002 3202 0800"));
    loop_write(peer, out, make_call(out, 2, 9, 1, "", false));
    cr_assert(says_hex("06000000 1002 3202 0800"));
    call(2, HOLE, "", false);
    cr_assert(says_hex("06000000 1002 3202 0800"), "listed, but nobody handles it");
    call(2, FAIL_DECODE, "", false);
    cr_assert(says_hex("06000000 1002 3202 0800"));
    call(2, FAIL_DECODE, "", true);
    cr_assert(says_hex("06000000 1002 3202 0800"), "even when no reply is wanted");
    cr_assert_eq(rpc_host_count(h), 1u, "and the connection goes on");
}

/* R51, T-H3. */
Test(rpc_host, th3_dropped_reply)
{
    expose();
    connect_peer();
    call(2, ECHO, "a", true);
    call(3, ECHO, "b", false);
    listen_to();
    cr_assert_eq(calls, 2);
    cr_assert_eq(next().request_id, 3u);
    cr_assert_eq(in_n, 0u);
    call(4, NOTHING, "", true);
    listen_to();
    cr_assert_eq(in_n, 0u, "an unanswered call without reply is not rejected either");
}

/* R59: a handler that forgets its reply rejects it. */
Test(rpc_host, unanswered_call_is_rejected)
{
    expose();
    connect_peer();
    call(2, NOTHING, "", false);
    cr_assert(says_hex("06000000 1002 3202 1000"), "R56");
}

Test(rpc_host, streaming)
{
    expose();
    connect_peer();
    call(9, STREAM, "", false);
    listen_to();
    for (int i = 0; i < 3; i++) {
        struct frame f = next();
        cr_assert_eq(f.request_id, 9u);
        cr_assert(f.u.invoke_reply.success);
        cr_assert_eq(f.u.invoke_reply.has_more, i < 2);
        cr_assert(is(f.u.invoke_reply.reply, "item"));
    }
    cr_assert_eq(in_n, 0u);
}

/* T-H6, R60. */
Test(rpc_host, th6_deferred_reply_and_replacement)
{
    expose();
    connect_peer();
    call(1, KEEP, "", false);
    listen_to();
    cr_assert_eq(in_n, 0u);
    cr_assert(rpc_reply_pending(&kept));
    call(2, KEEP, "", false);
    cr_assert(says_hex("06000000 1001 3202 1000"), "the older one is rejected");
    call(3, ECHO, "", false);
    listen_to();
    cr_assert_eq(next().request_id, 3u, "others overtake it (R52)");
    rpc_reply_send(&kept, bytes_str("x"), true, -1);
    cr_assert(rpc_reply_pending(&kept), "more follows");
    rpc_reply_send(&kept, bytes_str("y"), false, -1);
    cr_assert_not(rpc_reply_pending(&kept));
    rpc_reply_send(&kept, bytes_str("z"), false, -1);
    rpc_reply_reject(&kept);
    listen_to();
    cr_assert(is(next().u.invoke_reply.reply, "x"));
    cr_assert(is(next().u.invoke_reply.reply, "y"));
    cr_assert_eq(in_n, 0u, "exactly once");
}

/* R59, T-H5: answering somebody who is gone. */
Test(rpc_host, th5_reply_after_the_client_left)
{
    expose();
    connect_peer();
    call(1, KEEP, "", false);
    call(2, ECHO, "", false);
    close(peer);
    peer = -1;
    loop_ticks(r, 4);
    cr_assert_eq(calls, 2, "both were executed");
    cr_assert_eq(left, 1);
    cr_assert_eq(gone, 1);
    cr_assert_eq(rpc_host_count(h), 0u);
    cr_assert_null(rpc_reply_conn(&kept));
    cr_assert_eq(rpc_reply_send(&kept, bytes_str("x"), false, -1), 0);
    cr_assert_not(rpc_reply_pending(&kept));
    uint64_t old = last_conn;
    connect_peer();
    call(1, ECHO, "", false);
    loop_ticks(r, 3);
    cr_assert_neq(last_conn, old, "ids do not come back");
}

/* A reply given in pieces; head and pieces make one frame. */
Test(rpc_host, gathered_reply)
{
    expose();
    connect_peer();
    call(6, KEEP, "", false);
    listen_to();
    struct iovec iov[4] = {{NULL, 0}, {(void *)"ab", 2}, {(void *)"", 0}, {(void *)"cde", 3}};
    cr_assert_eq(rpc_reply_sendv(&kept, iov, 4, true), 0);
    cr_assert(rpc_reply_pending(&kept));
    cr_assert_eq(rpc_reply_sendv(&kept, iov, 1, false), 0);
    listen_to();
    struct frame f = next();
    cr_assert(is(f.u.invoke_reply.reply, "abcde"));
    cr_assert(f.u.invoke_reply.has_more);
    f = next();
    cr_assert_eq(f.u.invoke_reply.reply.n, 0u);
    cr_assert_not(f.u.invoke_reply.has_more);
}

/* R30, R31: up to the last byte of a frame; what would cost the client its connection becomes a
 * rejection. */
Test(rpc_host, oversize_reply_becomes_a_rejection)
{
    static uint8_t huge[FRAME_MAX];
    const size_t most = FRAME_MAX - (4 + 2 + 4 + 2 + 2 + 4); /* header, request_id, reply and its
                                                                fields' tags, sizes and flags */
    expose();
    connect_peer();
    for (uint64_t id = 1; id <= 2; id++) {
        call(id, KEEP, "", false);
        loop_ticks(r, 2);
        struct iovec iov[2] = {{NULL, 0}, {huge, most + 1}};
        if (id == 1)
            cr_assert_eq(rpc_reply_send(&kept, bytes_view(huge, most + 1), true, -1), -EMSGSIZE);
        else
            cr_assert_eq(rpc_reply_sendv(&kept, iov, 2, true), -EMSGSIZE);
        cr_assert_not(rpc_reply_pending(&kept));
        listen_to();
        struct frame f = next();
        cr_assert_eq(f.request_id, id);
        cr_assert_not(f.u.invoke_reply.success);
    }
    call(3, KEEP, "", false);
    loop_ticks(r, 2);
    cr_assert_eq(rpc_reply_send(&kept, bytes_view(huge, most), false, -1), 0);
    listen_to();
    cr_assert_eq(in_n, FRAME_MAX);
    cr_assert_eq(next().u.invoke_reply.reply.n, most);
}

/* R25: nothing limits how many requests are under way. */
Test(rpc_host, ten_thousand_pipelined_calls)
{
    expose();
    connect_peer();
    size_t total = 0;
    size_t got_frames = 0;
    for (uint64_t id = 0; id < 10000;) {
        uint8_t one[128];
        size_t n = make_call(one, id, 1, ECHO, "0123456789", false);
        if (send(peer, one, n, MSG_NOSIGNAL) == (ssize_t)n)
            id++;
        else
            loop_ticks(r, 1);
        long rc = loop_read(peer, in + total, sizeof(in) - total);
        total += rc > 0 ? (size_t)rc : 0;
    }
    for (int i = 0; i < 100; i++) {
        loop_ticks(r, 1);
        long rc = loop_read(peer, in + total, sizeof(in) - total);
        total += rc > 0 ? (size_t)rc : 0;
    }
    const uint8_t *p = in;
    struct frame f;
    while (loop_frame(&p, &total, &f))
        cr_assert_eq(f.request_id, got_frames++);
    cr_assert_eq(got_frames, 10000u);
    cr_assert_eq(calls, 10000);
}

/* ---- odd and hostile frames ---- */

/* R37. */
Test(rpc_host, unknown_requests_are_answered)
{
    static const char *const odd[] = {
        "02000000 1009",        /* no kind */
        "05000000 1009 0A0141", /* data_for_testing */
        "04000000 1009 2200",   /* bind reply */
        "04000000 1009 3200",   /* invoke reply */
        "04000000 1009 3A00",   /* error */
        "04000000 1009 4A00",   /* a kind of the future */
    };
    expose();
    connect_peer();
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        send_hex(odd[i]);
        cr_assert(says_hex("15000000 1009 3A110A0F756E6B6E6F776E2072657175657374"), "%s", odd[i]);
    }
}

/* R29, R33. */
Test(rpc_host, garbage_is_skipped_silently)
{
    expose();
    connect_peer();
    send_hex("00000000 03000000 FFFFFF 01000000 10 00000000");
    call(3, ECHO, "", false);
    listen_to();
    cr_assert_eq(next().request_id, 3u);
    cr_assert_eq(in_n, 0u);
}

/* R36: bind wins over invoke and identity. */
Test(rpc_host, kinds_combined)
{
    expose();
    connect_peer();
    send_hex("13000000 1005 4200 2A080801 1001 1A002000 1A030A0141");
    listen_to();
    struct frame f = next();
    cr_assert_eq(f.kind, FRAME_BIND_REPLY);
    cr_assert_eq(in_n, 0u);
    cr_assert_eq(calls, 0);
}

Test(rpc_host, oversize_frame_closes_that_peer_alone)
{
    expose();
    connect_peer();
    int first = peer;
    connect_peer();
    uint8_t head[4];
    bytes_store32(head, FRAME_MAX);
    loop_write(first, head, 4);
    loop_ticks(r, 3);
    cr_assert_eq(rpc_host_count(h), 1u);
    cr_assert_eq(loop_read(first, in, 1), 0);
    call(2, ECHO, "", false);
    listen_to();
    cr_assert_eq(next().request_id, 2u);
    close(first);
}

Test(rpc_host, peer_that_does_not_read_is_dropped_and_the_rest_goes_on)
{
    expose();
    connect_peer();
    int deaf = peer;
    connect_peer();
    uint8_t one[9000];
    char args[8000];
    memset(args, 'x', sizeof(args) - 1);
    args[sizeof(args) - 1] = '\0';
    size_t n = make_call(one, 1, 1, ECHO, args, false);
    int sent = 0;
    for (int i = 0; i < 10000 && rpc_host_count(h) == 2; i++) {
        sent += send(deaf, one, n, MSG_NOSIGNAL) == (ssize_t)n;
        loop_ticks(r, 1);
    }
    cr_assert_eq(rpc_host_count(h), 1u);
    cr_assert_lt(sent, 1000);
    call(2, ECHO, "", false);
    listen_to();
    cr_assert_eq(next().request_id, 2u);
    close(deaf);
}

/* ---- descriptors ---- */

/* T-H4, R64. */
Test(rpc_host, th4_descriptors_both_ways)
{
    expose();
    connect_peer();
    int fd = loop_memfd("smb");
    size_t n = make_call(out, 1, 1, TAKE_FD, "", false);
    loop_send_fds(peer, out, n, &fd, 1);
    loop_ticks(r, 3);
    int back = -1;
    cr_assert_gt(loop_recv_fd(peer, in, sizeof(in), &back), 0);
    cr_assert(loop_fd_holds(taken_fd, "smb"));
    cr_assert(loop_fd_holds(back, "smb"));
    close(back);
    close(taken_fd);
    close(fd);
}

/* R65: one that nobody took waits for the next request that wants one. */
Test(rpc_host, untaken_descriptor_goes_to_the_next_taker)
{
    expose();
    connect_peer();
    int fd = loop_memfd("early");
    loop_send_fds(peer, out, make_call(out, 1, 1, ECHO, "", true), &fd, 1);
    loop_ticks(r, 2);
    call(2, TAKE_FD, "", true);
    loop_ticks(r, 2);
    cr_assert(loop_fd_holds(taken_fd, "early"));
    close(taken_fd);
    call(3, TAKE_FD, "", true);
    loop_ticks(r, 2);
    cr_assert_eq(taken_fd, -1);
    close(fd);
}

/* ---- identity ---- */

/* T-H7, R70, R72. */
Test(rpc_host, th7_local_credentials_cannot_be_forged)
{
    expose();
    connect_peer();
    uint8_t id[256];
    loop_write(peer, id, frame_put_identity(id, 1, 4711, bytes_str("hint"), bytes_str("evil")));
    call(1, ECHO, "", false);
    listen_to();
    cr_assert_eq(next().request_id, 1u);
    cr_assert_eq(in_n, 0u, "an identity has no reply");
    cr_assert_eq(seen.uid, getuid());
    cr_assert_eq(seen.pid, getpid());
    cr_assert_eq(seen.machine_id, 0u);
    cr_assert_str_eq(seen.machine_name, sockname_machine());
}

static void connect_tcp(void)
{
    struct sockname name;
    struct sockname real;
    char err[SOCKNAME_ERR_MAX];
    bool pending = false;
    cr_assert_eq(sockname_parse(&name, "127.0.0.1:0", err, sizeof(err)), 0);
    int l = sockname_listen(&name, 5, true, err, sizeof(err));
    cr_assert_geq(l, 0, "%s", err);
    cr_assert_eq(sockname_of_fd(&real, l), 0);
    peer = sockname_connect(&real, &pending, err, sizeof(err));
    cr_assert_geq(peer, 0, "%s", err);
    int fd = -1;
    for (int i = 0; i < 1000 && fd < 0; i++) {
        loop_ticks(r, 1);
        fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    cr_assert_geq(fd, 0);
    close(l);
    cr_assert_eq(rpc_host_accept(h, fd, 1), 0);
}

/* T-H8, R71-R74. */
Test(rpc_host, th8_tcp_peer_has_the_identity_it_is_given)
{
    chrono_virtual_stop();
    expose();
    connect_tcp();
    call(1, ECHO, "", true);
    cr_assert(loop_until(r, &calls, 1));
    cr_assert_eq(seen.uid, 0u);
    cr_assert_eq(seen.pid, -1);
    cr_assert_eq(seen.machine_id, 0u);
    cr_assert_str_eq(seen.machine_name, "");
    uint8_t id[256];
    loop_write(peer, id, frame_put_identity(id, 456, 123, bytes_str("hint"), bytes_str("vm1")));
    loop_write(peer, id, frame_put_identity(id, 7, 8, bytes_str("later"), bytes_str("vm2")));
    call(2, ECHO, "", true);
    cr_assert(loop_until(r, &calls, 2));
    cr_assert_eq(seen.uid, 123u);
    cr_assert_eq(seen.pid, 456);
    cr_assert_eq(seen.machine_id, cred_machine_id("hint", 4));
    cr_assert_str_eq(seen.machine_name, "vm1");
}

/* ---- ends ---- */

Test(rpc_host, handler_may_close_its_connection)
{
    expose();
    connect_peer();
    call(1, QUIT, "", false);
    call(2, ECHO, "", false);
    loop_ticks(r, 3);
    cr_assert_eq(calls, 0, "nothing runs after it");
    cr_assert_eq(left, 1);
    cr_assert_eq(gone, 1);
    cr_assert_eq(loop_read(peer, in, 10) > 0, false);
}

Test(rpc_host, refused_connection_is_closed_and_forgotten)
{
    int fds[2];
    int before = loop_open_fds();
    expose();
    refuse = ERR_QUOTA;
    loop_pair(fds);
    cr_assert_eq(rpc_host_accept(h, fds[0], 0), ERR_QUOTA);
    struct frame f;
    ssize_t n = read(fds[1], in, sizeof(in));
    cr_assert_gt(n, 4, "it is told why, in a frame");
    cr_assert_eq(frame_decode(&f, bytes_view(in + 4, (size_t)n - 4)), 0);
    cr_expect_eq(f.kind, FRAME_ERROR);
    cr_expect_eq(f.request_id, 0u, "of no request");
    cr_expect(bytes_equal(f.u.error.text, bytes_str("not you")));
    cr_assert_eq(loop_read(fds[1], in, 1), 0);
    cr_assert_eq(rpc_host_count(h), 0u);
    cr_assert_eq(gone, 0);
    close(fds[1]);
    cr_assert_eq(loop_open_fds(), before);
}

static void count_one(void *arg, struct rpc_conn *conn)
{
    (void)conn;
    ++*(int *)arg;
}

Test(rpc_host, free_tells_the_services)
{
    int n = 0;
    expose();
    connect_peer();
    int first = peer;
    connect_peer();
    loop_ticks(r, 1);
    rpc_host_each(h, count_one, &n);
    cr_assert_eq(n, 2);
    rpc_host_free(h);
    cr_assert_eq(left, 2);
    cr_assert_eq(gone, 2);
    h = NULL;
    close(first);
}

/* Users' pointers by service. */
Test(rpc_host, user_pointers)
{
    expose();
    connect_peer();
    call(1, ECHO, "", true);
    loop_ticks(r, 2);
    struct rpc_conn *c = rpc_host_find(h, last_conn);
    cr_assert_not_null(c);
    cr_assert_null(rpc_conn_user(c, 1));
    rpc_conn_set_user(c, 1, &calls);
    rpc_conn_set_host_user(c, &left);
    cr_assert_eq(rpc_conn_user(c, 1), &calls);
    cr_assert_null(rpc_conn_user(c, 2));
    cr_assert_null(rpc_conn_user(c, 0));
    cr_assert_null(rpc_conn_user(c, 99));
    cr_assert_eq(rpc_conn_host_user(c), &left);
    cr_assert_eq(rpc_conn_host(c), h);
    cr_assert_eq(rpc_conn_tag(c), 1u);
    cr_assert(rpc_conn_has_fds(c));
}
