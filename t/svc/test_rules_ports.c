/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of service.md section 3 that only a producer on a socket can see: who it is, in which
 * order it must speak, and what its SMB is made of. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/frame.h"
#include "ipc/port_producer.h"
#include "ipc/rpc_host.h"
#include "protos/fieldnum.h"
#include "svc/prodport.h"
#include "t/svc/world.h"

static struct world *w;
static struct rpc_host *host;
static struct prodport *port;

/* Our end of the connection under test. */
static struct {
    int fd;  /* own */
    int smb; /* own: the descriptor that came last; -1 */
    uint64_t request;
    uint8_t in[65536];
    size_t nin;
} me;

static void setup(void)
{
    static const struct rpc_host_conf conf = {.label = "test"};
    w = world_new();
    host = rpc_host_new(w->reactor, &conf);
    cr_assert_eq(prodport_new(w->reactor, w->svc, host, &port), 0);
    me.fd = me.smb = -1;
}

static void leave(void)
{
    if (me.fd >= 0)
        close(me.fd);
    if (me.smb >= 0)
        close(me.smb);
    me.fd = me.smb = -1;
    world_settle(w);
}

static void teardown(void)
{
    leave();
    rpc_host_free(host);
    world_settle(w);
    world_free(w);
    prodport_free(port);
}

TestSuite(rules_ports, .init = setup, .fini = teardown);

static void join(void)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    cr_assert_eq(rpc_host_accept(host, fds[0], 0), 0);
    me.fd = fds[1];
    me.nin = 0;
    me.request = 0;
}

/* The same over TCP, which passes no descriptors and does not say who it is. */
static void join_tcp(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(listener, (struct sockaddr *)&at, len), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    me.fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(me.fd, (struct sockaddr *)&at, len), 0);
    int other = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    cr_assert_geq(other, 0);
    close(listener);
    cr_assert_eq(fcntl(me.fd, F_SETFL, O_NONBLOCK), 0);
    cr_assert_eq(rpc_host_accept(host, other, 0), 0);
    me.nin = 0;
    me.request = 0;
}

/* Takes what has come, and keeps a descriptor that came with it. */
static void hear(void)
{
    for (;;) {
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec iov = {me.in + me.nin, sizeof(me.in) - me.nin};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(me.fd, &m, 0);
        if (n <= 0)
            return;
        me.nin += (size_t)n;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            if (me.smb >= 0)
                close(me.smb);
            memcpy(&me.smb, CMSG_DATA(c), sizeof(me.smb));
        }
    }
}

/* Sends bytes, and a descriptor with them unless it is negative. */
static void say(uint8_t *bytes, size_t n, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {bytes, n};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        m.msg_control = control;
        m.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    cr_assert_eq(sendmsg(me.fd, &m, MSG_NOSIGNAL), (ssize_t)n);
}

/* Sends one call, with a descriptor, and lets the service work. Returns its request id. */
static uint64_t call_with(uint32_t method, const struct bytesbuf *args, bool drop_reply, int fd)
{
    uint8_t out[4096], tail[FRAME_OVERHEAD];
    size_t ntail = 0, nargs = args ? args->n : 0;
    size_t n = frame_invoke_head(out, ++me.request, 1, method, nargs, drop_reply, tail, &ntail);
    if (nargs)
        memcpy(out + n, args->p, nargs);
    memcpy(out + n + nargs, tail, ntail);
    n += nargs + ntail;
    say(out, n, fd);
    world_settle(w);
    hear();
    return me.request;
}

static uint64_t call(uint32_t method, const struct bytesbuf *args, bool drop_reply)
{
    return call_with(method, args, drop_reply, -1);
}

/* The nth reply to a request; false when there is none. */
static bool reply_to(uint64_t request, size_t nth, struct frame *out)
{
    for (size_t at = 0; at + FRAME_HEADER <= me.nin;) {
        uint32_t size;
        memcpy(&size, me.in + at, sizeof(size));
        cr_assert_eq(frame_decode(out, bytes_view(me.in + at + FRAME_HEADER, size)), 0);
        at += FRAME_HEADER + size;
        if (out->kind == FRAME_INVOKE_REPLY && out->request_id == request && nth-- == 0)
            return true;
    }
    return false;
}

static const char *answer(uint64_t request)
{
    struct frame f;
    if (!reply_to(request, 0, &f))
        return "none";
    return f.u.invoke_reply.success ? "success" : "rejected";
}

static uint64_t introduce(const char *name)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 256);
    bytesbuf_pb_str(&b, PBF_InitializeConnectionRequest_producer_name, name);
    bytesbuf_pb_str(&b, PBF_InitializeConnectionRequest_sdk_version, "any text");
    bytesbuf_pb_varint(&b, 99, 0); /* an unknown field: it cannot name a uid */
    uint64_t r = call(PORT_PRODUCER_INITIALIZE_CONNECTION, &b, false);
    bytesbuf_fini(&b);
    return r;
}

static uint64_t register_source(const char *name)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 256);
    size_t m = bytesbuf_pb_begin(&b, PBF_RegisterDataSourceRequest_data_source_descriptor);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, name);
    bytesbuf_pb_end(&b, m);
    uint64_t r = call(PORT_PRODUCER_REGISTER_DATA_SOURCE, &b, false);
    bytesbuf_fini(&b);
    return r;
}

static struct cons *enable(const char *source)
{
    struct cons *c = cons_new(w, 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, source, 0);
    cr_assert(cons_enable(c, &w->cfg));
    hear();
    return c;
}

/* The nth command of a GetAsyncCommand as the number of its field; 0: none. */
static uint32_t command(uint64_t stream, size_t nth)
{
    struct frame f;
    struct bytes_field field;
    if (!reply_to(stream, nth, &f))
        return 0;
    cr_expect(f.u.invoke_reply.success && f.u.invoke_reply.has_more);
    struct bytes_cur cur = bytes_cur(f.u.invoke_reply.reply);
    return bytes_next(&cur, &field) ? field.id : 0;
}

static struct bytes_view first_producer(void)
{
    struct cons *c = cons_new(w, 0);
    cr_assert(cons_query(c, false));
    struct bytes_view s =
        msg_part(c->reply.p, c->reply.n, PBF_QueryServiceStateResponse_service_state, 0);
    return msg_part(s.p, s.n, PBF_TracingServiceState_producers, 0);
}

Test(rules_ports, R41_nothing_before_the_introduction_and_only_one)
{
    join();
    for (uint32_t method = 2; method <= PORT_PRODUCER_METHODS; method++) {
        cr_expect_str_eq(answer(call(method, NULL, false)), "rejected", "method %u", method);
        cr_expect_str_eq(answer(call(method, NULL, true)), "none", "method %u: ignored", method);
    }
    cr_expect_str_eq(answer(register_source("early")), "rejected");
    cr_expect(service_idle(w->svc), "there is no producer yet");
    cr_expect_str_eq(answer(introduce("one")), "success");
    cr_expect_str_eq(answer(introduce("two")), "rejected");
    struct bytes_view p = first_producer();
    cr_expect_str_eq(msg_str(p.p, p.n, PBF_TracingServiceState_Producer_name), "one");
    cr_expect_str_eq(answer(register_source("ds")), "success", "the connection goes on");
    cr_expect_str_eq(answer(call(PORT_PRODUCER_SYNC, NULL, false)), "success");
    cr_expect_str_eq(answer(call(PORT_PRODUCER_SYNC, NULL, true)), "none");
}

Test(rules_ports, R42_identity_is_that_of_the_socket)
{
    join();
    introduce("anything");
    struct bytes_view p = first_producer();
    cr_expect_eq(msg_num(p.p, p.n, PBF_TracingServiceState_Producer_uid, 99), geteuid());
    cr_expect_eq(msg_num(p.p, p.n, PBF_TracingServiceState_Producer_pid, 0), (uint64_t)getpid());
    cr_expect_str_eq(msg_str(p.p, p.n, PBF_TracingServiceState_Producer_name), "anything");
    cr_expect_str_eq(msg_str(p.p, p.n, PBF_TracingServiceState_Producer_sdk_version), "any text",
                     "these two are as it says");
}

Test(rules_ports, R45_the_reply_to_an_introduction)
{
    struct frame f;
    join();
    cr_assert(reply_to(introduce("p"), 0, &f));
    struct bytes_view r = f.u.invoke_reply.reply;
    cr_expect_eq(
        msg_num(r.p, r.n, PBF_InitializeConnectionResponse_using_shmem_provided_by_producer, 9), 0);
    cr_expect_eq(
        msg_num(r.p, r.n, PBF_InitializeConnectionResponse_direct_smb_patching_supported, 9), 1);
    cr_expect_eq(msg_num(r.p, r.n, PBF_InitializeConnectionResponse_use_shmem_emulation, 9), 0,
                 "this socket passes descriptors");
    cr_expect_not(f.u.invoke_reply.has_more);
}

/* An introduction that offers memory of 1 MiB, in pages of so many bytes. */
static struct bytes_view offer(uint32_t page, bool with_fd)
{
    static struct frame f;
    struct bytesbuf b;
    int fd = memfd_create("t", MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(fd, 1 << 20), 0);
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    bytesbuf_init(&b, 256);
    bytesbuf_pb_str(&b, PBF_InitializeConnectionRequest_producer_name, "p");
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionRequest_producer_provided_shmem, 1);
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionRequest_shared_memory_page_size_hint_bytes,
                       page);
    uint64_t r = call_with(PORT_PRODUCER_INITIALIZE_CONNECTION, &b, false, with_fd ? fd : -1);
    cr_assert(reply_to(r, 0, &f));
    cr_expect(f.u.invoke_reply.success);
    bytesbuf_fini(&b);
    close(fd);
    return f.u.invoke_reply.reply;
}

Test(rules_ports, R45_R57_offered_memory)
{
    static const struct {
        uint32_t page;
        bool with_fd, tcp, adopted;
    } rows[] = {{4096, true, false, true},
                {20480, true, false, false},
                {4096, false, false, false},
                {4096, false, true, false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].tcp)
            join_tcp();
        else
            join();
        struct bytes_view r = offer(rows[i].page, rows[i].with_fd);
        cr_expect_eq(
            msg_num(r.p, r.n, PBF_InitializeConnectionResponse_using_shmem_provided_by_producer, 9),
            rows[i].adopted, "row %zu", i);
        cr_expect_eq(msg_num(r.p, r.n, PBF_InitializeConnectionResponse_use_shmem_emulation, 9),
                     rows[i].tcp, "row %zu", i);
        uint64_t stream = call(PORT_PRODUCER_GET_ASYNC_COMMAND, NULL, false);
        cr_expect_eq(command(stream, 0),
                     rows[i].adopted ? PBF_GetAsyncCommandResponse_setup_tracing : 0,
                     "row %zu: adopted memory is told of at once", i);
        register_source("ds");
        cons_bye(enable("ds"));
        hear();
        cr_expect_eq(me.smb >= 0, !rows[i].adopted && !rows[i].tcp,
                     "row %zu: a descriptor of ours only in place of theirs", i);
        leave();
    }
}

Test(rules_ports, R42_R45_over_a_socket_without_descriptors)
{
    struct frame f;
    join_tcp();
    cr_assert(reply_to(introduce("far"), 0, &f));
    struct bytes_view r = f.u.invoke_reply.reply;
    cr_expect_eq(
        msg_num(r.p, r.n, PBF_InitializeConnectionResponse_using_shmem_provided_by_producer, 9), 0);
    cr_expect_eq(
        msg_num(r.p, r.n, PBF_InitializeConnectionResponse_direct_smb_patching_supported, 9), 1);
    cr_expect_eq(msg_num(r.p, r.n, PBF_InitializeConnectionResponse_use_shmem_emulation, 9), 1);
    struct bytes_view p = first_producer();
    cr_expect_eq(msg_num(p.p, p.n, PBF_TracingServiceState_Producer_uid, 0), 0, "nobody told");
    cr_expect_leq((int32_t)msg_num(p.p, p.n, PBF_TracingServiceState_Producer_pid, 0), 0);
}

Test(rules_ports, R47_commands_before_the_stream)
{
    join();
    introduce("p");
    register_source("ds");
    struct cons *c = enable("ds");
    uint64_t stream = call(PORT_PRODUCER_GET_ASYNC_COMMAND, NULL, false);
    cr_expect_eq(command(stream, 0), PBF_GetAsyncCommandResponse_setup_tracing, "remembered");
    cr_expect_geq(me.smb, 0, "with its descriptor");
    cr_expect_eq(command(stream, 1), 0, "setup and start are lost");
    cons_ask(c, MSG_C_DISABLE);
    hear();
    cr_expect_eq(command(stream, 1), PBF_GetAsyncCommandResponse_stop_data_source);
    enable("ds");
    cr_expect_eq(command(stream, 2), PBF_GetAsyncCommandResponse_setup_data_source);
    cr_expect_eq(command(stream, 3), PBF_GetAsyncCommandResponse_start_data_source);
    cr_expect_eq(command(stream, 4), 0);
}

Test(rules_ports, R58_the_memory_of_an_smb)
{
    struct stat st;
    join();
    introduce("p");
    uint64_t stream = call(PORT_PRODUCER_GET_ASYNC_COMMAND, NULL, false);
    register_source("ds");
    enable("ds");
    cr_expect_eq(command(stream, 0), PBF_GetAsyncCommandResponse_setup_tracing);
    cr_assert_geq(me.smb, 0);
    cr_expect_eq(fcntl(me.smb, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    cr_assert_eq(fstat(me.smb, &st), 0);
    cr_expect_eq(st.st_size, 262144);
    cr_expect_eq(st.st_nlink, 0, "it has no name");
    cr_expect_neq(ftruncate(me.smb, 4096), 0);
    cr_expect_neq(ftruncate(me.smb, 1 << 20), 0);
}
