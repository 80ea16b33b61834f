/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traced, the tracing service as a daemon: options, sockets, signals, and the loop. It makes one
 * reactor, one service, one host of connections per kind of peer and the listeners that feed them,
 * and takes them apart in the opposite order. All behaviour is elsewhere; what is decided here is
 * which sockets there are, who may speak what on them, where the log goes, and when the process
 * ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/activate.h"
#include "ipc/listener.h"
#include "ipc/rpc_host.h"
#include "ipc/sockname.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/sig.h"
#include "reactor/str.h"
#include "svc/consport.h"
#include "svc/daemonopt.h"
#include "svc/filehost.h"
#include "svc/portlib.h"
#include "svc/prodport.h"
#include "svc/relayport.h"
#include "svc/service.h"
#include "svc/trim.h"
#include "svc/upkeep.h"

#define VERSION_TEXT "Perfetto v" PACKAGE_VERSION " (perfetto-c)"

#define MAX_LISTENERS 32

/* A batch is not begun while a consumer has much to read still, but one packet may be as large as a
 * trace buffer, and has to be taken out of it in one go. */
#define LARGEST_PACKET ((size_t)1 << 30)
#define OUT_HIGH       ((size_t)1 << 20)

/* Tags of connections: how their listener was opted in (R19). */
#define TAG_PLAIN 1u
#define TAG_RELAY 2u

/* One listening socket and where its connections go. */
struct endpoint {
    struct daemon *daemon; /* borrow */
    struct listener *listener;
    struct rpc_host *host; /* borrow */
    uint32_t tag;
    bool adopted;
};

struct daemon {
    struct daemonopt opt;
    char *log_path; /* own: absolute; NULL: stderr is the log */

    struct reactor *reactor;
    struct service *svc;
    struct rpc_host *producers, *consumers;
    struct prodport *prodport;
    struct consport *consport;
    struct relayport *relayport;
    struct endpoint endpoints[MAX_LISTENERS]; /* the consumers' one first */
    size_t nendpoints;
    bool given; /* who started us made the sockets, and knows their names */
    struct upkeep upkeep;
    struct sig term, intr, usr1, usr2, hup;
};

/* ---- log and background ---- */

/* Makes the file stderr. Nothing is lost when it cannot be opened: the log stays where it was. */
static int open_log(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);
    if (fd < 0) {
        int err = errno;
        log_error("cannot open the log %s: %s", path, strerror(err));
        return -err;
    }
    dup2(fd, STDERR_FILENO);
    close(fd);
    return 0;
}

/* Opens the log of --log-file, under a name that holds after a change of folder. */
static int start_log(struct daemon *d)
{
    char cwd[4096];
    const char *path = d->opt.log_file;
    if (!path)
        return 0;
    if (*path == '/')
        d->log_path = alloc_strdup(path);
    else if (getcwd(cwd, sizeof(cwd)))
        d->log_path = str_format("%s/%s", cwd, path);
    else
        return -errno;
    return open_log(d->log_path);
}

/* Detaches from the terminal. The parent prints the child's pid and ends. */
static void go_background(const struct daemon *d)
{
    pid_t pid = fork();
    if (pid < 0) {
        log_error("cannot fork: %s", strerror(errno));
        exit(1);
    }
    if (pid > 0) {
        printf("%d\n", (int)pid);
        fflush(stdout);
        _exit(0);
    }
    setsid();
    if (chdir("/") != 0)
        log_warn("cannot change to /: %s", strerror(errno));
    if (!freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stdout) ||
        (!d->log_path && !freopen("/dev/null", "w", stderr)))
        _exit(1);
}

/* ---- sockets ---- */

static void on_accept(void *arg, struct listener *listener, int fd)
{
    const struct endpoint *e = arg;
    (void)listener;
    if (rpc_host_accept(e->host, fd, e->tag) == 0)
        upkeep_changed(&e->daemon->upkeep);
}

static int on_admit(void *arg, struct rpc_conn *conn, char *why, size_t len)
{
    const struct daemon *d = arg;
    return portlib_admit(service_charges(d->svc), conn, why, len);
}

static void on_gone(void *arg, struct rpc_conn *conn)
{
    struct daemon *d = arg;
    portlib_gone(service_charges(d->svc), conn);
    for (size_t i = 0; i < d->nendpoints; i++)
        listener_resume(d->endpoints[i].listener);
    upkeep_changed(&d->upkeep);
}

/* True when relays may use the producer socket of that name. */
static bool for_relays(const struct daemon *d, const char *name)
{
    for (size_t i = 0; i < d->opt.nrelay_on; i++) {
        if (strcmp(d->opt.relay_on[i], name) == 0)
            return true;
    }
    return d->opt.relay_everywhere;
}

/* Listens at an address, or on an inherited descriptor (fd >= 0). */
static int add_endpoint(struct daemon *d, const char *label, const char *address, int fd,
                        struct rpc_host *host)
{
    char err[SOCKNAME_ERR_MAX];
    if (d->nendpoints == MAX_LISTENERS) {
        log_error("more than %d sockets", MAX_LISTENERS);
        return -1;
    }
    struct endpoint *e = &d->endpoints[d->nendpoints];
    const struct listener_conf conf = {.label = label, .accepted = on_accept, .arg = e};
    *e = (struct endpoint){.daemon = d, .host = host, .tag = TAG_PLAIN, .adopted = fd >= 0};
    int rc = fd >= 0 ? listener_adopt(&e->listener, d->reactor, fd, &conf, err, sizeof(err))
                     : listener_open(&e->listener, d->reactor, address, &conf, err, sizeof(err));
    if (rc) {
        log_error("%s", err);
        return -1;
    }
    const struct sockname *name = listener_name(e->listener);
    if (host == d->producers && for_relays(d, name->text))
        e->tag |= TAG_RELAY;
    if (host == d->consumers && !sockname_is_unix(name->family))
        log_warn("consumers may come over the network at %s: whoever reaches it can read all "
                 "traces; use a Unix socket",
                 name->text);
    d->nendpoints++;
    return 0;
}

static int open_producer(void *arg, const char *address)
{
    struct daemon *d = arg;
    return add_endpoint(d, "producer", address, -1, d->producers);
}

static int open_own_producers(struct daemon *d)
{
    size_t n = 0;
    if (sockname_split(sockname_producer(), open_producer, d, &n))
        return -1;
    if (n == 0)
        log_error("PERFETTO_PRODUCER_SOCK_NAME names no socket");
    return n == 0 ? -1 : 0;
}

/* The sockets that a manager gave us, by name; those it did not give are our own. */
static int open_activated(struct daemon *d, struct activate_set *set)
{
    size_t n = 0;
    int fd = activate_take(set, ACTIVATE_CONSUMER);
    if (add_endpoint(d, "consumer", sockname_consumer(), fd < 0 ? -1 : fd, d->consumers))
        return -1;
    while ((fd = activate_take(set, ACTIVATE_PRODUCER)) >= 0) {
        n++;
        if (add_endpoint(d, "producer", NULL, fd, d->producers))
            return -1;
    }
    d->given = n > 0;
    return n == 0 ? open_own_producers(d) : 0;
}

/* Sockets from the environment, or our own. */
static int open_sockets(struct daemon *d)
{
    char err[SOCKNAME_ERR_MAX];
    struct activate_set set;
    int producer, consumer;
    if (activate_collect(&set, err, sizeof(err))) {
        log_error("%s", err);
        return -1;
    }
    int android = activate_android(&producer, &consumer, err, sizeof(err));
    if (android < 0) {
        log_error("%s", err);
        return -1;
    }
    if (android > 0) {
        d->given = true;
        return add_endpoint(d, "consumer", NULL, consumer, d->consumers) ||
                       add_endpoint(d, "producer", NULL, producer, d->producers)
                   ? -1
                   : 0;
    }
    int rc = open_activated(d, &set);
    size_t strangers = activate_fini(&set);
    if (strangers)
        log_warn("%zu inherited sockets are named neither \"" ACTIVATE_PRODUCER
                 "\" nor \"" ACTIVATE_CONSUMER "\" and were closed (FileDescriptorName=)",
                 strangers);
    return rc;
}

/* R832: each name of --enable-relay-endpoint-on must be one of the producer sockets. */
static int check_relays(const struct daemon *d)
{
    for (size_t i = 0; i < d->opt.nrelay_on; i++) {
        bool found = false;
        for (size_t k = 1; k < d->nendpoints; k++)
            found |= strcmp(listener_name(d->endpoints[k].listener)->text, d->opt.relay_on[i]) == 0;
        if (!found) {
            log_error("--enable-relay-endpoint-on: '%s' is none of the producer sockets, %s",
                      d->opt.relay_on[i], sockname_producer());
            return -1;
        }
    }
    return 0;
}

static int set_permissions(struct daemon *d)
{
    char err[SOCKNAME_ERR_MAX];
    struct listener_modes modes;
    char *copy = alloc_strdup(d->opt.permissions);
    int rc = listener_parse_modes(&modes, d->opt.permissions, copy, err, sizeof(err));
    for (size_t i = 0; !rc && i < d->nendpoints; i++) {
        struct listener *l = d->endpoints[i].listener;
        if (d->endpoints[i].adopted || (i > 0 && listener_name(l)->family != SOCKNAME_PATH))
            continue; /* R239; who made an inherited socket set its permissions too */
        rc = listener_permit(l, i == 0 ? modes.consumer_group : modes.producer_group,
                             i == 0 ? modes.consumer_mode : modes.producer_mode, err, sizeof(err));
    }
    if (rc)
        log_error("%s", err);
    free(copy);
    return rc;
}

/* ---- signals ---- */

static void on_end(void *arg)
{
    struct daemon *d = arg;
    reactor_stop(d->reactor);
}

static void on_debug(void *arg)
{
    (void)arg;
    log_info("debug lines are %s", log_toggle_debug() ? "on" : "off");
}

static void on_report(void *arg)
{
    struct daemon *d = arg;
    char *text = NULL, *line, *rest;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return;
    service_report(d->svc, out);
    fclose(out);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        log_info("%s", line);
    free(text);
}

static void on_hangup(void *arg)
{
    const struct daemon *d = arg;
    if (d->log_path && open_log(d->log_path) == 0)
        log_info("the log is reopened");
}

static int catch_signals(struct daemon *d)
{
    sig_ignore_pipe();
    return sig_init(&d->term, d->reactor, SIGTERM, on_end, d) ||
           sig_init(&d->intr, d->reactor, SIGINT, on_end, d) ||
           sig_init(&d->usr1, d->reactor, SIGUSR1, on_report, d) ||
           sig_init(&d->usr2, d->reactor, SIGUSR2, on_debug, d) ||
           sig_init(&d->hup, d->reactor, SIGHUP, on_hangup, d);
}

/* ---- life ---- */

static struct rpc_host *make_host(struct daemon *d, const char *label, uint64_t stuck_ms,
                                  size_t out_cap)
{
    const struct rpc_host_conf conf = {
        .label = label,
        .channel = {.stuck_ns = stuck_ms * CHRONO_MS,
                    .out_cap = out_cap,
                    .out_high = OUT_HIGH,
                    .out_low = OUT_HIGH / 4},
        .admit = on_admit,
        .gone = on_gone,
        .arg = d,
    };
    return rpc_host_new(d->reactor, &conf);
}

static int start(struct daemon *d)
{
    struct filehost *files = filehost_new();
    const struct reactor_opts reactor_opts = {.table = msg_table};
    const struct service_options service_opts = {
        .version = VERSION_TEXT,
        .machine_name = sockname_machine(),
        .limits = d->opt.limits,
        .files = files,
    };
    char err[SOCKNAME_ERR_MAX];
    int rc;
    d->reactor = reactor_new(&reactor_opts);
    if (!d->reactor) {
        log_error("cannot make the event loop: %s", strerror(errno));
        filehost_free(files);
        return -1;
    }
    if (service_new(d->reactor, &service_opts, &d->svc))
        return -1;
    d->producers = make_host(d, "producer", DEFAULTS_PRODUCER_SEND_MS, 4 * OUT_HIGH);
    d->consumers = make_host(d, "consumer", DEFAULTS_CONSUMER_SEND_MS, LARGEST_PACKET);
    if (prodport_new(d->reactor, d->svc, d->producers, &d->prodport) ||
        relayport_new(d->svc, d->producers, TAG_RELAY, &d->relayport) ||
        consport_new(d->reactor, d->svc, d->consumers, &d->consport) || catch_signals(d) ||
        open_sockets(d) || check_relays(d) || (d->opt.permissions && set_permissions(d)))
        return -1;
    rc = filehost_start(files); /* while we are small */
    if (rc)
        log_warn("the process that writes files cannot be started yet: %s", err_text(rc));
    upkeep_init(&d->upkeep, d->reactor, d->svc, d->producers, d->consumers, d->opt.idle_ns);
    if (activate_ready("TRACED_NOTIFY_FD", err, sizeof(err)) < 0) {
        log_error("%s", err);
        return -1;
    }
    return 0;
}

/* Sessions end first, while their consumers can still be told. */
static void stop(struct daemon *d)
{
    upkeep_fini(&d->upkeep);
    for (size_t i = 0; i < d->nendpoints; i++) {
        listener_unlink(d->endpoints[i].listener);
        listener_free(d->endpoints[i].listener);
    }
    d->nendpoints = 0;
    struct sig *sigs[] = {&d->term, &d->intr, &d->usr1, &d->usr2, &d->hup};
    for (size_t i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        sig_fini(sigs[i]);
    service_end(d->svc);
    rpc_host_free(d->producers);
    rpc_host_free(d->consumers);
    service_free(d->svc);
    prodport_free(d->prodport);
    relayport_free(d->relayport);
    consport_free(d->consport);
    reactor_free(d->reactor);
    free(d->log_path);
}

int main(int argc, char **argv)
{
    struct daemon d = {0};
    int status;
    log_init("traced");
    if (daemonopt_parse(&d.opt, argc, argv, VERSION_TEXT, &status))
        return status;
    if (start_log(&d))
        return 1;
    if (d.opt.background)
        go_background(&d);
    listener_raise_fd_limit();
    status = start(&d) ? 1 : 0;
    if (!status) {
        if (!d.given)
            log_info("listening for producers at %s and consumers at %s", sockname_producer(),
                     sockname_consumer());
        trim_startup();
        status = reactor_run(d.reactor) ? 1 : 0;
        activate_notify("STOPPING=1");
    }
    stop(&d);
    return status;
}
