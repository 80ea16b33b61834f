/* SPDX-License-Identifier: Apache-2.0 */
/* The sender of triggers: what it says on the producer socket (cli.md R721), and how it fails. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/trigsend.h"
#include "ipc/frame.h"
#include "ipc/listener.h"
#include "ipc/port_consumer.h"
#include "ipc/port_producer.h"
#include "ipc/rpc_host.h"
#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"
#include "reactor/reactor.h"

static struct reactor *r;
static struct rpc_host *host;
static struct listener *lst;
static struct trigsend *t;
static char path[64], err[512], calls[256], why_[512];
static int outcome; /* -1: none yet */
static struct bytesbuf init_args, trigger_args;
static uint32_t reject; /* this method */

static int on_call(void *arg, struct rpc_call *call)
{
    size_t n = strlen(calls);

    (void)arg;
    snprintf(calls + n, sizeof(calls) - n, "%s ", rpc_method_name(&port_producer, call->method));
    if (call->method == PORT_PRODUCER_INITIALIZE_CONNECTION)
        bytesbuf_put(&init_args, call->args.p, call->args.n);
    if (call->method == PORT_PRODUCER_ACTIVATE_TRIGGERS)
        bytesbuf_put(&trigger_args, call->args.p, call->args.n);
    if (call->method == reject)
        return 0; /* what is pending on return is rejected */
    if (call->method == PORT_PRODUCER_GET_ASYNC_COMMAND)
        return rpc_reply_send(&call->reply, bytes_view(NULL, 0), true, -1);
    return rpc_reply_send(&call->reply, bytes_view(NULL, 0), false, -1);
}

static void on_accepted(void *arg, struct listener *listener, int fd)
{
    (void)arg;
    (void)listener;
    rpc_host_accept(host, fd, 0);
}

static void on_sent(void *arg, bool ok, const char *why)
{
    (void)arg;
    outcome = ok;
    snprintf(why_, sizeof(why_), "%s", why);
}

static void serve(const struct rpc_service *service)
{
    static rpc_handler *handlers[PORT_CONSUMER_METHODS];
    static const struct rpc_service_ops ops;
    struct rpc_host_conf conf = {.label = "producer"};
    struct listener_conf listen_conf = {.label = "producer", .accepted = on_accepted};

    for (int i = 0; i < PORT_CONSUMER_METHODS; i++)
        handlers[i] = on_call;
    host = rpc_host_new(r, &conf);
    rpc_host_expose(host, service, handlers, &ops, NULL, 0);
    cr_assert_eq(listener_open(&lst, r, path, &listen_conf, err, sizeof(err)), 0, "%s", err);
}

static void send_them(void)
{
    struct bytes_view names[] = {bytes_str("b"), bytes_str("a"), bytes_str("b")};

    t = trigsend_new(r, path, names, 3, on_sent, NULL, err, sizeof(err));
    for (int i = 0; t != NULL && i < 40; i++)
        reactor_tick(r, i < 20 ? 0 : 1000000);
}

static void setup(void)
{
    snprintf(path, sizeof(path), "/tmp/test_trigsend.%d", (int)getpid());
    unlink(path);
    r = reactor_new(NULL);
    bytesbuf_init(&init_args, 1000);
    bytesbuf_init(&trigger_args, 1000);
    outcome = -1;
    reject = 0;
    calls[0] = '\0';
}

static void teardown(void)
{
    trigsend_free(t);
    if (lst != NULL) {
        listener_unlink(lst);
        listener_free(lst);
        rpc_host_free(host);
    }
    reactor_free(r);
    bytesbuf_fini(&init_args);
    bytesbuf_fini(&trigger_args);
}

TestSuite(trigsend, .init = setup, .fini = teardown);

Test(trigsend, what_it_says)
{
    struct bytes_field f;

    serve(&port_producer);
    send_them();
    cr_expect_eq(outcome, 1, "%s", why_);
    cr_expect_str_eq(calls, "InitializeConnection GetAsyncCommand ActivateTriggers ");
    cr_expect(bytes_equal(bytesbuf_view(&trigger_args), bytes_view("\x0a\x01"
                                                                   "b\x0a\x01"
                                                                   "a\x0a\x01"
                                                                   "b",
                                                                   9)));
    cr_assert(bytes_find(bytesbuf_view(&init_args), PBF_InitializeConnectionRequest_producer_name,
                         BYTES_LEN, &f));
    cr_expect(bytes_equal(f.data, bytes_str("perfetto_cmd_producer")));
    cr_expect(!bytes_find(bytesbuf_view(&init_args),
                          PBF_InitializeConnectionRequest_smb_scraping_mode, BYTES_VARINT, &f));
}

Test(trigsend, nobody_there)
{
    send_them();
    cr_expect_null(t);
    cr_expect(strstr(err, path), "%s", err);
}

Test(trigsend, refusals)
{
    serve(&port_producer);
    reject = PORT_PRODUCER_INITIALIZE_CONNECTION;
    send_them();
    cr_expect_eq(outcome, 0);
    cr_expect(strstr(why_, "did not accept"), "%s", why_);
    trigsend_free(t);
    reject = PORT_PRODUCER_ACTIVATE_TRIGGERS;
    outcome = -1;
    send_them();
    cr_expect_eq(outcome, 0);
    cr_expect(strstr(why_, "did not take"), "%s", why_);
}

Test(trigsend, the_wrong_socket_is_named)
{
    serve(&port_consumer);
    send_them();
    cr_expect_eq(outcome, 0);
    cr_expect(strstr(why_, "consumer socket"), "%s", why_);
}
