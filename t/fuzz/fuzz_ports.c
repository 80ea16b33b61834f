/* SPDX-License-Identifier: Apache-2.0 */
/* Everything that comes over the sockets of the service: the input is a list of things that four
 * connections do, a local and a remote one for producers and relays, and two for consumers. Calls
 * go through frames, ports, endpoints and sessions; what comes back must be frames that decode. At
 * the end all are gone and everything must be given back: an error line, which is how the service
 * tells of a bug of its own or of a charge that is left, ends the run.
 *
 * A thing is { what, connection, method, flags, length (2 bytes, little endian), bytes }. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/frame.h"
#include "ipc/rpc_host.h"
#include "protos/fieldnum.h"
#include "reactor/charge.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "svc/consport.h"
#include "svc/portlib.h"
#include "svc/prodport.h"
#include "svc/relayport.h"
#include "svc/service.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LOCAL, REMOTE, CONS_A, CONS_B, CONNS };
enum { CALL, CALL_TOO, CALL_WITH_FD, RAW, IDENTITY, BIND, HANG_UP, TIME, WHATS };
enum { DROP = 1, DEAF = 2, OTHER_SERVICE = 4, NO_TICK = 8 };

#define ARGS_MAX  4096u
#define STEPS_MAX 60
#define RELAY_TAG 2u

struct run {
    struct reactor *reactor;
    struct service *svc;
    struct rpc_host *producers, *consumers;
    struct prodport *prodport;
    struct consport *consport;
    struct relayport *relayport;
    int fds[CONNS]; /* own: our ends; -1 when there is none */
    struct frame_reader in[CONNS];
    uint64_t request;
};

struct thing {
    uint8_t what, conn, method, flags;
    struct bytes_view bytes;
};

static void die(const char *what)
{
    fprintf(stderr, "%s (%s)\n", what, strerror(errno));
    abort();
}

static void on_log(void *arg, enum log_level level, const char *text)
{
    (void)arg;
    if (level != LOG_LEVEL_ERROR)
        return;
    fprintf(stderr, "error line: %s\n", text);
    abort();
}

/* ---- connections ---- */

/* A connected pair of TCP sockets that leave nothing behind when they are closed. */
static void tcp_pair(int fds[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    const struct linger no_wait = {.l_onoff = 1};
    socklen_t len = sizeof(at);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&at, &len) ||
        connect(fds[1], (struct sockaddr *)&at, sizeof(at)))
        die("no pair of TCP sockets");
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &no_wait, sizeof(no_wait));
    close(listener);
}

static void join(struct run *r, unsigned i)
{
    int fds[2];
    if (i == REMOTE)
        tcp_pair(fds);
    else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds))
        die("no pair of sockets");
    if (rpc_host_accept(i < CONS_A ? r->producers : r->consumers, fds[0],
                        i == REMOTE ? RELAY_TAG : 1))
        die("a connection is not let in");
    r->fds[i] = fds[1];
    frame_reader_init(&r->in[i]);
}

static void hang_up(struct run *r, unsigned i)
{
    if (r->fds[i] < 0)
        return;
    close(r->fds[i]);
    r->fds[i] = -1;
    frame_reader_fini(&r->in[i]);
}

/* Looks at what came; false at the end of the connection. */
static bool hear(struct run *r, unsigned i)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(4 * sizeof(int))];
    } control;
    uint8_t *p = NULL;
    size_t room = 0;
    if (frame_reader_space(&r->in[i], &p, &room))
        die("a frame beyond the limit");
    struct iovec iov = {p, room};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof(control.space)};
    ssize_t n = recvmsg(r->fds[i], &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        int fd;
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        close(fd);
    }
    frame_reader_filled(&r->in[i], (size_t)n);
    struct bytes_view payload;
    struct frame f;
    int rc;
    while ((rc = frame_reader_next(&r->in[i], &payload)) == 0) {
        if (frame_decode(&f, payload))
            die("a frame that does not decode");
    }
    if (rc > 0)
        die("a frame beyond the limit");
    return true;
}

/* What does not fit is lost: a peer may cut its frames wherever it likes. */
static void say(struct run *r, unsigned i, const uint8_t *p, size_t n, int fd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)p, n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0 && i != REMOTE) {
        msg.msg_control = control.space;
        msg.msg_controllen = sizeof(control.space);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    (void)sendmsg(r->fds[i], &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- what they do ---- */

/* True for a config that would reach beyond this process: into the file system, or at the
 * scheduler. */
static bool reaches_out(struct bytes_view args)
{
    struct msg_body config;
    struct bytes_field f;
    if (portlib_submessage(args, 1, &config))
        return false;
    struct bytes_view v = bytes_view(config.p, config.n);
    bool out = bytes_find(v, PBF_TraceConfig_output_path, BYTES_LEN, &f) ||
               bytes_find(v, PBF_TraceConfig_priority_boost, BYTES_LEN, &f);
    free(config.p);
    return out;
}

static int some_fd(const struct thing *t)
{
    int fd = memfd_create("fuzz", MFD_ALLOW_SEALING);
    if (fd >= 0 && t->conn == LOCAL && ftruncate(fd, (off_t)(t->bytes.n % 9) * 4096) == 0)
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    return fd;
}

static void call(struct run *r, const struct thing *t, int fd)
{
    uint8_t buf[ARGS_MAX + 2 * FRAME_OVERHEAD], tail[FRAME_OVERHEAD];
    size_t ntail = 0, n = t->bytes.n;
    if (t->conn >= CONS_A && reaches_out(t->bytes))
        return;
    size_t head = frame_invoke_head(buf, ++r->request, (t->flags & OTHER_SERVICE) ? 2 : 1,
                                    t->method % 18, n, (t->flags & DROP) != 0, tail, &ntail);
    if (n)
        memcpy(buf + head, t->bytes.p, n);
    memcpy(buf + head + n, tail, ntail);
    say(r, t->conn, buf, head + n + ntail, fd);
}

/* A frame whose only field, of that number, holds the bytes. */
static void wrapped(struct run *r, const struct thing *t, uint8_t field)
{
    uint8_t buf[ARGS_MAX + 16] = {0};
    size_t n = t->bytes.n < 120 ? t->bytes.n : 120;
    buf[0] = (uint8_t)(n + 2);
    buf[4] = (uint8_t)(field << 3 | 2);
    buf[5] = (uint8_t)n;
    if (n)
        memcpy(buf + 6, t->bytes.p, n);
    say(r, t->conn, buf, n + 6, -1);
}

static void act(struct run *r, const struct thing *t)
{
    if (r->fds[t->conn] < 0)
        join(r, t->conn);
    int fd = -1;
    switch (t->what) {
    case CALL_WITH_FD:
        fd = some_fd(t);
        call(r, t, fd);
        if (fd >= 0)
            close(fd);
        break;
    case RAW:
        say(r, t->conn, t->bytes.p, t->bytes.n, -1);
        break;
    case IDENTITY:
        wrapped(r, t, 8);
        break;
    case BIND:
        wrapped(r, t, 3);
        break;
    case HANG_UP:
        hang_up(r, t->conn);
        break;
    case TIME:
        reactor_advance(r->reactor, (1ull << t->method % 14) * CHRONO_MS);
        break;
    default:
        call(r, t, -1);
        break;
    }
}

static bool next_thing(struct bytes_cur *in, struct thing *t)
{
    uint8_t b[6];
    for (unsigned i = 0; i < sizeof(b); i++) {
        if (!bytes_get_u8(in, &b[i]))
            return false;
    }
    size_t n = (size_t)(b[4] | b[5] << 8) % ARGS_MAX;
    if (n > bytes_left(in))
        n = bytes_left(in);
    *t = (struct thing){b[0] % WHATS, b[1] % CONNS, b[2], b[3], bytes_view(in->p, n)};
    return bytes_skip(in, n);
}

static void step(struct run *r, const struct thing *t)
{
    act(r, t);
    if ((t->flags & NO_TICK) == 0)
        reactor_settle(r->reactor);
    for (unsigned i = 0; i < CONNS && (t->flags & DEAF) == 0; i++) {
        if (r->fds[i] >= 0 && !hear(r, i))
            hang_up(r, i);
    }
}

/* ---- a run ---- */

/* The lowest free descriptor: the same at the end as at the beginning, or one is left. */
static int lowest_free(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(fd);
    return fd;
}

static int admit(void *arg, struct rpc_conn *conn, char *why, size_t len)
{
    struct run *r = arg;
    return portlib_admit(service_charges(r->svc), conn, why, len);
}

static void gone(void *arg, struct rpc_conn *conn)
{
    struct run *r = arg;
    portlib_gone(service_charges(r->svc), conn);
}

static void begin(struct run *r)
{
    const struct reactor_opts reactor_opts = {.table = msg_table};
    struct charge_limit limits[CHARGE_KINDS];
    const struct service_options opt = {.version = "v", .machine_name = "m", .limits = limits};
    const struct rpc_host_conf conf = {.label = "fuzz", .admit = admit, .gone = gone, .arg = r};
    charge_default_limits(limits);
    limits[CHARGE_BUFFER_BYTES].per_uid = 4u << 20;
    limits[CHARGE_SMB_BYTES].per_uid = 4u << 20;
    log_set_sink(on_log, NULL);
    chrono_virtual_start(1000 * CHRONO_SEC);
    chrono_random_seed(1);
    r->reactor = reactor_new(&reactor_opts);
    if (!r->reactor || service_new(r->reactor, &opt, &r->svc))
        die("no service");
    r->producers = rpc_host_new(r->reactor, &conf);
    r->consumers = rpc_host_new(r->reactor, &conf);
    if (prodport_new(r->reactor, r->svc, r->producers, &r->prodport) ||
        relayport_new(r->svc, r->producers, RELAY_TAG, &r->relayport) ||
        consport_new(r->reactor, r->svc, r->consumers, &r->consport))
        die("no ports");
    for (unsigned i = 0; i < CONNS; i++)
        r->fds[i] = -1;
}

static void end(struct run *r)
{
    for (unsigned i = 0; i < CONNS; i++)
        hang_up(r, i);
    /* A process that writes files has our ends, too, until it comes to close them. */
    for (unsigned ms = 0; rpc_host_count(r->producers) + rpc_host_count(r->consumers) != 0; ms++) {
        reactor_settle(r->reactor);
        if (ms > 10000)
            die("a connection is left");
        poll(NULL, 0, ms ? 1 : 0);
    }
    reactor_settle(r->reactor);
    service_end(r->svc);
    rpc_host_free(r->producers);
    rpc_host_free(r->consumers);
    service_free(r->svc);
    prodport_free(r->prodport);
    relayport_free(r->relayport);
    consport_free(r->consport);
    reactor_free(r->reactor);
    chrono_virtual_stop();
    chrono_random_seed(0);
    log_set_sink(NULL, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run r = {0};
    struct bytes_cur in = bytes_cur(bytes_view(data, size));
    struct thing t;
    int free_before = lowest_free();
    begin(&r);
    for (unsigned n = 0; n < STEPS_MAX && next_thing(&in, &t); n++)
        step(&r, &t);
    end(&r);
    if (lowest_free() != free_before)
        die("a descriptor is left");
    return 0;
}
