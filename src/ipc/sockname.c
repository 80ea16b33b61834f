/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Address texts and the sockets made from them. Stateless but for the two cached defaults. What the
 * texts mean is fixed by the protocol (R1 to R14) because service and clients find each other by
 * applying the same rules independently (R11); the words of the messages are ours.
 */

#include "ipc/sockname.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/str.h"

#define UNIX_TEXT_MAX 106 /* characters, the '@' included (R5) */
#define VSOCK_PREFIX  "vsock://"

/* ---- families ---- */

/* A whole signed decimal within [min, max]. */
static bool decimal(const char *s, int64_t min, int64_t max, int64_t *out)
{
    int64_t v = 0;
    if (!str_to_i64(s, &v) || v < min || v > max)
        return false;
    *out = v;
    return true;
}

enum sockname_family sockname_family_of(const char *text)
{
    if (text == NULL || text[0] == '\0')
        return SOCKNAME_NONE;
    if (text[0] == '@')
        return SOCKNAME_ABSTRACT;
    if (str_starts(text, VSOCK_PREFIX))
        return SOCKNAME_VSOCK;
    const char *colon = strrchr(text, ':');
    int64_t port = 0;
    if (colon != NULL && decimal(colon + 1, INT32_MIN, INT32_MAX, &port))
        return text[0] == '[' ? SOCKNAME_INET6 : SOCKNAME_INET;
    return SOCKNAME_PATH;
}

const char *sockname_family_name(enum sockname_family family)
{
    switch (family) {
    case SOCKNAME_NONE:
        return "none";
    case SOCKNAME_PATH:
        return "unix";
    case SOCKNAME_ABSTRACT:
        return "abstract unix";
    case SOCKNAME_VSOCK:
        return "vsock";
    case SOCKNAME_INET:
        return "tcp";
    case SOCKNAME_INET6:
        return "tcp6";
    }
    return "?";
}

bool sockname_is_unix(enum sockname_family family)
{
    return family == SOCKNAME_PATH || family == SOCKNAME_ABSTRACT;
}

/* ---- parsing ---- */

static int parse_unix(struct sockname *out, char *err, size_t errlen)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&out->addr;
    size_t len = strlen(out->text);
    if (len > UNIX_TEXT_MAX) {
        snprintf(err, errlen,
                 "socket name \"%.40s...\" has %zu characters, at most %d are possible; use a "
                 "shorter path",
                 out->text, len, UNIX_TEXT_MAX);
        return -ENAMETOOLONG;
    }
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, out->text, len + 1);
    size_t addrlen = offsetof(struct sockaddr_un, sun_path) + len;
    if (out->family == SOCKNAME_ABSTRACT)
        un->sun_path[0] = '\0'; /* and no terminator is part of the name (R3) */
    else
        addrlen++; /* R4 */
    out->addrlen = (socklen_t)addrlen;
    return 0;
}

static int parse_vsock(struct sockname *out, char *err, size_t errlen)
{
    char part[SOCKNAME_TEXT_MAX];
    str_copy(part, sizeof(part), out->text + strlen(VSOCK_PREFIX));
    char *colon = strchr(part, ':');
    int64_t cid = 0;
    int64_t port = 0;
    bool ok = colon != NULL;
    if (ok) {
        *colon = '\0';
        ok = decimal(part, INT32_MIN, UINT32_MAX, &cid) &&
             decimal(colon + 1, INT32_MIN, UINT32_MAX, &port);
    }
    if (!ok) {
        snprintf(err, errlen, "\"%s\" is no vsock address; write vsock://CID:PORT with two numbers",
                 out->text);
        return -EINVAL;
    }
    struct sockaddr_vm *vm = (struct sockaddr_vm *)&out->addr;
    vm->svm_family = AF_VSOCK;
    vm->svm_cid = (unsigned)cid;
    vm->svm_port = (unsigned)port;
    out->addrlen = sizeof(*vm);
    return 0;
}

/* Cuts "host:port" or "[host]:port". */
static bool cut_host(const char *text, bool inet6, char *host, size_t hostlen, const char **port)
{
    const char *colon = strrchr(text, ':');
    const char *start = text;
    const char *end = colon;
    if (inet6) {
        if (colon - text < 3 || colon[-1] != ']')
            return false;
        start++;
        end--;
    } else if (strchr(text, ':') != colon) {
        return false;
    }
    size_t len = (size_t)(end - start);
    if (len == 0 || len >= hostlen)
        return false;
    memcpy(host, start, len);
    host[len] = '\0';
    *port = colon + 1;
    return true;
}

static int parse_inet(struct sockname *out, char *err, size_t errlen)
{
    char host[SOCKNAME_TEXT_MAX];
    const char *port = NULL;
    int64_t number = 0;
    bool inet6 = out->family == SOCKNAME_INET6;
    if (!cut_host(out->text, inet6, host, sizeof(host), &port) ||
        !decimal(port, 0, UINT16_MAX, &number)) {
        snprintf(err, errlen,
                 "\"%s\" is no TCP address; write HOST:PORT or [HOST]:PORT with a port up to "
                 "65535, or a path that does not end in \":\" and digits",
                 out->text);
        return -EINVAL;
    }
    struct addrinfo hints = {.ai_family = inet6 ? AF_INET6 : AF_INET,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc == EAI_NONAME) {
        hints.ai_flags = AI_NUMERICSERV;
        rc = getaddrinfo(host, port, &hints, &found);
    }
    if (rc != 0) {
        snprintf(err, errlen, "cannot find the host of \"%s\": %s; check the name or use a number",
                 out->text, gai_strerror(rc));
        return -EADDRNOTAVAIL;
    }
    memcpy(&out->addr, found->ai_addr, found->ai_addrlen);
    out->addrlen = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int sockname_parse(struct sockname *out, const char *text, char *err, size_t errlen)
{
    struct sockname n;
    int rc = 0;
    memset(&n, 0, sizeof(n));
    n.family = sockname_family_of(text);
    if (n.family == SOCKNAME_NONE) {
        snprintf(err, errlen,
                 "the socket name is empty; give a path, @name, HOST:PORT or "
                 "vsock://CID:PORT");
        return -EINVAL;
    }
    if (!str_copy(n.text, sizeof(n.text), text)) {
        snprintf(err, errlen, "socket name \"%.40s...\" is longer than %d characters; shorten it",
                 text, SOCKNAME_TEXT_MAX - 1);
        return -ENAMETOOLONG;
    }
    if (sockname_is_unix(n.family))
        rc = parse_unix(&n, err, errlen);
    else if (n.family == SOCKNAME_VSOCK)
        rc = parse_vsock(&n, err, errlen);
    else
        rc = parse_inet(&n, err, errlen);
    if (rc == 0)
        *out = n;
    return rc;
}

/* ---- from a socket ---- */

static void unix_text(struct sockname *n)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&n->addr;
    size_t off = offsetof(struct sockaddr_un, sun_path);
    size_t len = n->addrlen > off ? n->addrlen - off : 0;
    if (len > sizeof(un->sun_path))
        len = sizeof(un->sun_path);
    if (len != 0 && un->sun_path[0] != '\0') {
        n->family = SOCKNAME_PATH;
        snprintf(n->text, sizeof(n->text), "%.*s", (int)len, un->sun_path);
        return;
    }
    n->family = SOCKNAME_ABSTRACT;
    snprintf(n->text, sizeof(n->text), "@%.*s", len != 0 ? (int)len - 1 : 0, un->sun_path + 1);
}

int sockname_of_fd(struct sockname *out, int fd)
{
    struct sockname n;
    memset(&n, 0, sizeof(n));
    n.addrlen = sizeof(n.addr);
    if (getsockname(fd, (struct sockaddr *)&n.addr, &n.addrlen) != 0)
        return -errno;
    char host[INET6_ADDRSTRLEN] = "";
    switch (n.addr.ss_family) {
    case AF_UNIX:
        unix_text(&n);
        break;
    case AF_INET: {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&n.addr;
        n.family = SOCKNAME_INET;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(n.text, sizeof(n.text), "%s:%u", host, (unsigned)ntohs(in->sin_port));
        break;
    }
    case AF_INET6: {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&n.addr;
        n.family = SOCKNAME_INET6;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(n.text, sizeof(n.text), "[%s]:%u", host, (unsigned)ntohs(in6->sin6_port));
        break;
    }
    case AF_VSOCK: {
        const struct sockaddr_vm *vm = (const struct sockaddr_vm *)&n.addr;
        n.family = SOCKNAME_VSOCK;
        snprintf(n.text, sizeof(n.text), VSOCK_PREFIX "%u:%u", vm->svm_cid, vm->svm_port);
        break;
    }
    default:
        return -EAFNOSUPPORT;
    }
    *out = n;
    return 0;
}

/* ---- sockets ---- */

static int domain_of(enum sockname_family family)
{
    switch (family) {
    case SOCKNAME_PATH:
    case SOCKNAME_ABSTRACT:
        return AF_UNIX;
    case SOCKNAME_VSOCK:
        return AF_VSOCK;
    case SOCKNAME_INET:
        return AF_INET;
    case SOCKNAME_INET6:
        return AF_INET6;
    case SOCKNAME_NONE:
        break;
    }
    return AF_UNSPEC;
}

/* Options of R8. A failure to set one costs nothing but speed or a quick restart. */
static int make_socket(enum sockname_family family)
{
    int one = 1;
    int fd = socket(domain_of(family), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (!sockname_is_unix(family))
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (family == SOCKNAME_INET || family == SOCKNAME_INET6)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static const char *listen_remedy(const struct sockname *name, int error)
{
    switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
        return "run as a user that may write there, or choose another name with "
               "PERFETTO_PRODUCER_SOCK_NAME or PERFETTO_CONSUMER_SOCK_NAME";
    case ENOENT:
    case ENOTDIR:
        return "create the directory first, or choose another name";
    case EADDRINUSE:
        return name->family == SOCKNAME_PATH ? "remove what is there"
                                             : "stop the program that listens there";
    case EADDRNOTAVAIL:
        return "use an address of this machine";
    default:
        return "choose another name";
    }
}

int sockname_listen(const struct sockname *name, int backlog, bool replace, char *err,
                    size_t errlen)
{
    const struct sockaddr *addr = (const struct sockaddr *)&name->addr;
    int fd = make_socket(name->family);
    int rc = fd < 0 ? fd : 0;
    if (rc == 0 && replace && name->family == SOCKNAME_PATH)
        unlink(name->text); /* ENOENT is the normal case; bind tells about the rest */
    if (rc == 0 && (bind(fd, addr, name->addrlen) != 0 || listen(fd, backlog) != 0))
        rc = -errno;
    if (rc != 0) {
        if (fd >= 0)
            close(fd);
        snprintf(err, errlen, "cannot listen on %s: %s; %s", name->text, err_text(rc),
                 listen_remedy(name, -rc));
        return rc;
    }
    return fd;
}

void sockname_explain_connect(const struct sockname *name, int error, char *err, size_t errlen)
{
    const char *remedy = "check the name and that traced runs";
    switch (error < 0 ? -error : error) {
    case ENOENT:
    case ECONNREFUSED:
        remedy = "start traced, or set PERFETTO_PRODUCER_SOCK_NAME and "
                 "PERFETTO_CONSUMER_SOCK_NAME to where it listens";
        break;
    case EACCES:
    case EPERM:
        remedy = "run as root, or join the group that owns the socket";
        break;
    case EAGAIN:
        remedy = "the service has too many connections waiting; try again";
        break;
    case EMFILE:
    case ENFILE:
        remedy = "raise the limit of open files (ulimit -n)";
        break;
    default:
        break;
    }
    snprintf(err, errlen, "cannot connect to %s: %s; %s", name->text,
             err_text(error > 0 ? -error : error), remedy);
}

int sockname_connect(const struct sockname *name, bool *pending, char *err, size_t errlen)
{
    int fd = make_socket(name->family);
    int rc = fd < 0 ? fd : 0;
    bool wait = false;
    if (rc == 0) {
        do
            rc = connect(fd, (const struct sockaddr *)&name->addr, name->addrlen) != 0 ? -errno : 0;
        while (rc == -EINTR);
        if (rc == -EINPROGRESS) {
            wait = true;
            rc = 0;
        }
    }
    if (rc != 0) {
        if (fd >= 0)
            close(fd);
        sockname_explain_connect(name, rc, err, errlen);
        return rc;
    }
    *pending = wait;
    return fd;
}

int sockname_connect_result(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        return -errno;
    return -error;
}

/* ---- defaults and environment ---- */

enum { PRODUCER, CONSUMER };

static const char *run_dir = "/run/perfetto/"; /* the slash makes it a directory (R10) */
static char run_path[2][SOCKNAME_TEXT_MAX];
static const char *cached[2]; /* decided once; threads that race decide alike */

static const char *default_of(int which)
{
    static const char *const in_run[2] = {"traced-producer.sock", "traced-consumer.sock"};
    static const char *const in_tmp[2] = {"/tmp/perfetto-producer", "/tmp/perfetto-consumer"};
    const char *known = __atomic_load_n(&cached[which], __ATOMIC_ACQUIRE);
    if (known != NULL)
        return known;
    const char *name = in_tmp[which];
    if (access(run_dir, X_OK) == 0) {
        snprintf(run_path[which], sizeof(run_path[which]), "%s%s", run_dir, in_run[which]);
        name = run_path[which];
    } else if (errno != ENOENT) {
        log_warn("cannot use %s: %s; falling back to %s", run_dir, err_text(-errno), name);
    }
    __atomic_store_n(&cached[which], name, __ATOMIC_RELEASE);
    return name;
}

void sockname_forget_defaults(const char *dir)
{
    run_dir = dir != NULL ? dir : "/run/perfetto/";
    cached[PRODUCER] = NULL;
    cached[CONSUMER] = NULL;
}

const char *sockname_producer(void)
{
    const char *env = getenv("PERFETTO_PRODUCER_SOCK_NAME");
    return env != NULL ? env : default_of(PRODUCER);
}

const char *sockname_consumer(void)
{
    const char *env = getenv("PERFETTO_CONSUMER_SOCK_NAME");
    return env != NULL ? env : default_of(CONSUMER);
}

const char *sockname_relay(void)
{
    const char *env = getenv("PERFETTO_RELAY_SOCK_NAME");
    return env != NULL ? env : "";
}

const char *sockname_machine(void)
{
    static struct utsname uts;
    const char *env = getenv("PERFETTO_MACHINE_NAME");
    if (env != NULL)
        return env;
    return uname(&uts) == 0 ? uts.sysname : "";
}

int sockname_split(const char *list, int (*each)(void *arg, const char *item), void *arg,
                   size_t *count)
{
    size_t n = 0;
    const char *part = NULL;
    size_t len = 0;
    for (const char *it = list; str_next(&it, ',', &part, &len);) {
        char item[SOCKNAME_TEXT_MAX];
        if (len == 0)
            continue;
        if (len >= sizeof(item))
            return -ENAMETOOLONG;
        memcpy(item, part, len);
        item[len] = '\0';
        n++;
        int rc = each(arg, item);
        if (rc != 0)
            return rc;
    }
    if (count != NULL)
        *count = n;
    return 0;
}

void sockname_private(pid_t pid, char *producer, char *consumer)
{
    snprintf(producer, SOCKNAME_TEXT_MAX, "/tmp/traced-p-%d", (int)pid);
    snprintf(consumer, SOCKNAME_TEXT_MAX, "/tmp/traced-c-%d", (int)pid);
}
