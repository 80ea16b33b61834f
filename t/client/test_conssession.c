/* SPDX-License-Identifier: Apache-2.0 */
/* The consumer's connection against a host that answers as it is told: calls before and after the
 * connection is there, packets in pieces, ends, losses, and being freed from its own callbacks. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/conssession.h"
#include "ipc/frame.h"
#include "ipc/listener.h"
#include "ipc/port_consumer.h"
#include "ipc/rpc_host.h"
#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"
#include "reactor/reactor.h"

static struct reactor *r;
static struct rpc_host *host;
static struct listener *lst;
static char path[64], err[512];

/* ---- the host ---- */

static char calls[1024]; /* names of the methods called, in order */
static struct rpc_reply pending[PORT_CONSUMER_METHODS + 1];
static struct bytesbuf last_args;
static int last_fd = -1;
static struct rpc_conn *conn;
static bool hold; /* do not answer */

static int on_call(void *arg, struct rpc_call *call)
{
    size_t n = strlen(calls);

    (void)arg;
    snprintf(calls + n, sizeof(calls) - n, "%s ", rpc_method_name(&port_consumer, call->method));
    bytesbuf_clear(&last_args);
    bytesbuf_put(&last_args, call->args.p, call->args.n);
    if (last_fd >= 0)
        close(last_fd);
    last_fd = rpc_conn_take_fd(call->conn);
    conn = call->conn;
    if (hold || call->method == PORT_CONSUMER_ENABLE_TRACING ||
        call->method == PORT_CONSUMER_READ_BUFFERS ||
        call->method == PORT_CONSUMER_OBSERVE_EVENTS ||
        call->method == PORT_CONSUMER_QUERY_SERVICE_STATE)
        pending[call->method] = rpc_reply_move(&call->reply);
    else
        rpc_reply_send(&call->reply, bytes_view(NULL, 0), false, -1);
    return 0;
}

static void on_left(void *arg, struct rpc_conn *c)
{
    (void)arg;
    if (c == conn)
        conn = NULL;
}

static void on_accepted(void *arg, struct listener *listener, int fd)
{
    (void)arg;
    (void)listener;
    rpc_host_accept(host, fd, 0);
}

/* ---- the session's callbacks ---- */

static char log_[4096];
static struct conssession *s;
static struct bytesbuf data; /* packets put together */
static const char *free_at;  /* log entry at which the session is freed */

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void note(const char *fmt, ...)
{
    size_t n = strlen(log_);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(log_ + n, sizeof(log_) - n, fmt, ap);
    va_end(ap);
    if (free_at && s && strcmp(log_ + n, free_at) == 0) {
        conssession_free(s);
        s = NULL;
    }
}

static void on_connected(void *arg)
{
    (void)arg;
    note("connected;");
}

static void on_lost(void *arg, const char *why)
{
    (void)arg;
    cr_expect(strstr(why, path), "%s", why);
    note("lost;");
}

static void on_ended(void *arg, bool told, struct bytes_view error)
{
    (void)arg;
    note("ended(%d,%.*s);", told, (int)error.n, (const char *)error.p);
}

static void on_packet(void *arg, const struct iovec *pieces, int n, size_t len)
{
    size_t total = 0;

    (void)arg;
    for (int i = 0; i < n; i++) {
        bytesbuf_put(&data, pieces[i].iov_base, pieces[i].iov_len);
        total += pieces[i].iov_len;
    }
    cr_expect_eq(total, len);
    note("packet(%zu/%d);", len, n);
}

static void on_batch(void *arg)
{
    (void)arg;
    note("batch;");
}

static void on_event(void *arg, struct bytes_view events)
{
    (void)arg;
    note("event(%zu);", events.n);
}

static void on_done(void *arg, enum conssession_call call, bool ok, struct bytes_view reply)
{
    (void)arg;
    note("done(%d,%d,%zu);", (int)call, ok, reply.n);
}

static const struct conssession_ops ops = {.connected = on_connected,
                                           .lost = on_lost,
                                           .ended = on_ended,
                                           .packet = on_packet,
                                           .batch = on_batch,
                                           .event = on_event,
                                           .done = on_done};

/* ---- set-up ---- */

static void ticks(void)
{
    for (int i = 0; i < 40; i++)
        cr_assert_eq(reactor_tick(r, i < 20 ? 0 : 1000000), 0);
}

static void setup(void)
{
    static rpc_handler *handlers[PORT_CONSUMER_METHODS];
    static const struct rpc_service_ops service_ops = {.left = on_left};
    struct rpc_host_conf conf = {.label = "consumer"};
    struct listener_conf listen_conf = {.label = "consumer", .accepted = on_accepted};

    for (int i = 0; i < PORT_CONSUMER_METHODS; i++)
        handlers[i] = on_call;
    snprintf(path, sizeof(path), "/tmp/test_conssession.%d", (int)getpid());
    unlink(path);
    r = reactor_new(NULL);
    host = rpc_host_new(r, &conf);
    rpc_host_expose(host, &port_consumer, handlers, &service_ops, NULL, 0);
    cr_assert_eq(listener_open(&lst, r, path, &listen_conf, err, sizeof(err)), 0, "%s", err);
    bytesbuf_init(&last_args, FRAME_MAX);
    bytesbuf_init(&data, 64 << 20);
    calls[0] = log_[0] = '\0';
    free_at = NULL;
    hold = false;
    s = conssession_new(r, &ops, NULL);
}

static void teardown(void)
{
    conssession_free(s);
    listener_unlink(lst);
    listener_free(lst);
    rpc_host_free(host);
    reactor_free(r);
    bytesbuf_fini(&last_args);
    bytesbuf_fini(&data);
    if (last_fd >= 0)
        close(last_fd);
}

TestSuite(conssession, .init = setup, .fini = teardown);

static void connect_it(void)
{
    cr_assert_eq(conssession_connect(s, path, err, sizeof(err)), 0, "%s", err);
    ticks();
}

#define LOGGED(text)                                                                               \
    do {                                                                                           \
        cr_expect_str_eq(log_, text, "got %s", log_);                                              \
        log_[0] = '\0';                                                                            \
    } while (0)

/* ---- calls ---- */

Test(conssession, calls_made_early_go_out_in_order)
{
    conssession_observe(s, CONSSESSION_ALL_STARTED | CONSSESSION_CLONE_TRIGGER);
    conssession_enable(s, bytes_view("\x18\x05", 2), -1);
    conssession_detach(s, "key");
    ticks();
    LOGGED("");
    connect_it();
    cr_expect_str_eq(calls, "ObserveEvents EnableTracing Detach ");
    LOGGED("connected;done(5,1,0);");
}

Test(conssession, arguments)
{
    struct conssession_clone c = {.name = "n", .skip_filter = true, .bugreport = true};
    int fd = open("/dev/null", O_WRONLY);

    connect_it();
    conssession_enable(s, bytes_view("\x18\x05", 2), fd);
    ticks();
    cr_expect(bytes_equal(bytesbuf_view(&last_args), bytes_view("\x0a\x02\x18\x05", 4)));
    cr_expect_geq(last_fd, 0, "the descriptor did not arrive");
    conssession_flush(s, 7, CONSSESSION_FLUSH_TRACE_STOP | CONSSESSION_FLUSH_BY_COMMAND);
    ticks();
    cr_expect(bytes_equal(bytesbuf_view(&last_args), bytes_view("\x08\x07\x10\x22", 4)));
    cr_expect_lt(last_fd, 0);
    conssession_clone(s, &c, fd);
    ticks();
    cr_expect(bytes_equal(bytesbuf_view(&last_args), bytes_view("\x22\x01n\x10\x01\x18\x01", 7)));
    cr_expect_geq(last_fd, 0);
    c = (struct conssession_clone){.session_id = 5,
                                   .name = "ignored",
                                   .trigger_uid = -1,
                                   .trigger_name = bytes_str("t"),
                                   .trigger_delay_ms = 3};
    conssession_clone(s, &c, -1);
    ticks();
    cr_expect(bytes_equal(bytesbuf_view(&last_args),
                          bytes_view("\x08\x05\x10\x00\x18\x00\x2a\x01t"
                                     "\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x48\x03",
                                     22)));
    conssession_query(s, true);
    ticks();
    cr_expect(bytes_equal(bytesbuf_view(&last_args), bytes_view("\x08\x01", 2)));
    close(fd);
}

Test(conssession, every_call_is_answered)
{
    connect_it();
    conssession_start(s);
    conssession_disable(s);
    conssession_free_buffers(s);
    conssession_change(s, bytes_view("", 0));
    conssession_attach(s, "k");
    conssession_stats(s);
    conssession_capabilities(s);
    ticks();
    LOGGED("connected;done(0,1,0);done(1,1,0);done(3,1,0);done(4,1,0);done(6,1,0);done(7,1,0);"
           "done(8,1,0);");
}

/* ipc.md R112. */
Test(conssession, rejections)
{
    connect_it();
    hold = true;
    conssession_attach(s, "k");
    conssession_enable(s, bytes_view("", 0), -1);
    ticks();
    rpc_reply_reject(&pending[PORT_CONSUMER_ATTACH]);
    rpc_reply_reject(&pending[PORT_CONSUMER_ENABLE_TRACING]);
    ticks();
    LOGGED(
        "connected;done(6,0,0);ended(0,EnableTracing IPC request rejected. This is likely due to a "
        "loss of the traced connection);");
}

/* A config that just fits one frame is sent; one byte more is not (ipc.md R30). */
Test(conssession, largest_config)
{
    static char config[131100];

    connect_it();
    conssession_enable(s, bytes_view(config, 131042), -1);
    ticks();
    cr_expect_str_eq(calls, "EnableTracing ");
    cr_expect_eq(last_args.n, 131042 + 4);
    LOGGED("connected;");
    conssession_enable(s, bytes_view(config, 131070), -1);
    ticks();
    cr_expect(strstr(log_, "ended(0,"), "%s", log_);
    cr_expect_str_eq(calls, "EnableTracing ", "it was sent");
}

/* ---- the end of tracing ---- */

Test(conssession, ended)
{
    struct rpc_reply *e = &pending[PORT_CONSUMER_ENABLE_TRACING];

    connect_it();
    conssession_enable(s, bytes_view("", 0), -1);
    ticks();
    rpc_reply_send(e, bytes_view("", 0), true, -1); /* not disabled: nothing to tell (R101) */
    ticks();
    LOGGED("connected;");
    rpc_reply_send(e,
                   bytes_view("\x08\x01\x1a\x03"
                              "why",
                              7),
                   false, -1);
    ticks();
    LOGGED("ended(1,why);");
}

Test(conssession, events_until_the_stream_ends)
{
    struct rpc_reply *e = &pending[PORT_CONSUMER_OBSERVE_EVENTS];

    connect_it();
    conssession_observe(s, CONSSESSION_ALL_STARTED);
    ticks();
    rpc_reply_send(e, bytes_view("\x0a\x02\x10\x01", 4), true, -1);
    rpc_reply_send(e, bytes_view("", 0), false, -1);
    ticks();
    LOGGED("connected;event(2);");
}

Test(conssession, state_in_parts_is_joined) /* R106 */
{
    struct rpc_reply *e = &pending[PORT_CONSUMER_QUERY_SERVICE_STATE];

    connect_it();
    conssession_query(s, false);
    ticks();
    rpc_reply_send(e, bytes_view("\x0a\x02\x18\x01", 4), true, -1);
    ticks();
    LOGGED("connected;");
    rpc_reply_send(e, bytes_view("\x0a\x03\x20\x02\x20", 5), false, -1);
    ticks();
    LOGGED("done(10,1,5);");
}

/* ---- packets ---- */

/* Sends one ReadBuffers reply: lengths of slices, negative for "not the last of its packet". */
static void slices(bool more, const int *len, int n)
{
    struct bytesbuf b;
    static uint8_t counter;

    bytesbuf_init(&b, FRAME_MAX);
    for (int i = 0; i < n; i++) {
        size_t size = (size_t)abs(len[i]), mark = bytesbuf_pb_begin(&b, 2);
        uint8_t *p = malloc(size + 1);
        memset(p, ++counter, size + 1);
        bytesbuf_pb_bytes(&b, 1, p, size);
        bytesbuf_pb_varint(&b, 2, len[i] >= 0);
        bytesbuf_pb_end(&b, mark);
        free(p);
    }
    rpc_reply_send(&pending[PORT_CONSUMER_READ_BUFFERS], bytesbuf_view(&b), more, -1);
    bytesbuf_fini(&b);
    ticks();
}

#define SLICES(more, ...)                                                                          \
    slices(more, (const int[]){__VA_ARGS__},                                                       \
           (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int)))

Test(conssession, packets_in_pieces_and_across_replies) /* R102 */
{
    connect_it();
    conssession_read(s);
    ticks();
    LOGGED("connected;");
    SLICES(true, 3, 0, -2, -4, 5);
    LOGGED("packet(3/1);packet(0/1);packet(11/3);batch;");
    SLICES(true, 1, -6);
    LOGGED("packet(1/1);batch;");
    SLICES(true, -7);
    LOGGED("batch;");
    SLICES(true, 8, 2);
    LOGGED("packet(21/2);batch;packet(2/1);batch;");
    SLICES(false, 1);
    LOGGED("packet(1/1);batch;done(11,1,0);");
    cr_expect_eq(data.n, 3 + 11 + 1 + 21 + 2 + 1);
}

Test(conssession, a_packet_of_very_many_slices)
{
    int len[1400];

    for (int i = 0; i < 1400; i++)
        len[i] = i == 1399 ? 1 : -1;
    connect_it();
    conssession_read(s);
    ticks();
    slices(true, len, 700);
    slices(false, len + 700, 700);
    cr_expect(strstr(log_, "packet(1400/"), "%s", log_);
    cr_expect(strstr(log_, "done(11,1,0);"), "%s", log_);
    for (size_t i = 1; i < data.n; i++)
        cr_assert_eq((uint8_t)(data.p[i] - data.p[i - 1]), 1, "slice %zu out of order", i);
}

Test(conssession, a_reply_that_does_not_parse_fails_the_read)
{
    connect_it();
    conssession_read(s);
    ticks();
    rpc_reply_send(&pending[PORT_CONSUMER_READ_BUFFERS], bytes_view("\x12\x7f", 2), true, -1);
    ticks();
    cr_expect(strstr(log_, "done(11,0,0);"), "%s", log_);
}

/* ---- losses ---- */

Test(conssession, a_lost_connection_answers_everything_first)
{
    connect_it();
    hold = true;
    conssession_enable(s, bytes_view("", 0), -1);
    conssession_flush(s, 0, 0);
    ticks();
    rpc_conn_close(conn, 1);
    ticks();
    cr_expect(strncmp(log_, "connected;ended(0,", 18) == 0, "%s", log_);
    cr_expect(strstr(log_, "done(2,0,0);lost;"), "%s", log_);
}

Test(conssession, nobody_there)
{
    cr_expect_lt(conssession_connect(s, "/nonexistent/socket", err, sizeof(err)), 0);
    cr_expect(strstr(err, "/nonexistent/socket"), "%s", err);
    cr_expect(!conssession_reachable("/nonexistent/socket"));
    cr_expect(conssession_reachable(path));
    ticks();
    LOGGED("");
}

/* ---- freed from its own callbacks ---- */

Test(conssession, may_be_freed_anywhere)
{
    static const char *const where[] = {"connected;", "packet(3/1);", "batch;", "packet(4/1);"};

    for (size_t i = 0; i < sizeof(where) / sizeof(*where); i++) {
        if (s == NULL)
            s = conssession_new(r, &ops, NULL);
        free_at = where[i];
        connect_it();
        if (s != NULL) {
            conssession_read(s);
            ticks();
            SLICES(true, 3, 4, -1);
            SLICES(false, 1);
        }
        cr_expect_null(s, "%s never came: %s", where[i], log_);
        ticks();
        log_[0] = '\0';
    }
}
