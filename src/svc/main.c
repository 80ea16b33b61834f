/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traced, the tracing service as a daemon: options, sockets, signals, and the loop. It makes one
 * reactor, one service, one host of connections per kind of peer and the listeners that feed them,
 * and takes them apart in the opposite order. All behaviour is elsewhere; what is decided here is
 * which sockets there are and when the process ends.
 */
#include <errno.h>
#include <getopt.h>
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
#include "reactor/log.h"
#include "reactor/sig.h"
#include "svc/consport.h"
#include "svc/portlib.h"
#include "svc/prodport.h"
#include "svc/service.h"
#include "svc/trim.h"

#define VERSION_TEXT "Perfetto v" PACKAGE_VERSION " (perfetto-c)"

#define MAX_LISTENERS 32

/* A batch is not begun while a consumer has much to read still, but one packet may be as large as a
 * trace buffer, and has to be taken out of it in one go. */
#define LARGEST_PACKET ((size_t)1 << 30)
#define OUT_HIGH       ((size_t)1 << 20)

enum { OPT_VERSION = 256, OPT_HELP, OPT_BACKGROUND, OPT_PERMISSIONS };

static const struct option options[] = {
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {"background", no_argument, NULL, OPT_BACKGROUND},
    {"set-socket-permissions", required_argument, NULL, OPT_PERMISSIONS},
    {NULL, 0, NULL, 0},
};

static const char usage_text[] =
    "usage: traced [OPTIONS]\n"
    "  --background                            run as a daemon; prints its pid\n"
    "  --set-socket-permissions PG:PM:CG:CM    group and octal mode of the producer socket, then "
    "of\n"
    "                                          the consumer socket\n"
    "  --version                               print the version\n"
    "  --help                                  print this text\n";

struct daemon {
    bool background;
    const char *permissions; /* borrow: argument of --set-socket-permissions */

    struct reactor *reactor;
    struct service *svc;
    struct rpc_host *producers, *consumers;
    struct prodport *prodport;
    struct consport *consport;
    struct listener *listeners[MAX_LISTENERS]; /* the consumers' one first */
    size_t nlisteners;
    struct sig term, intr, usr1, usr2, hup;
};

/* ---- options ---- */

/* 0 to go on; else the process ends with *status. */
static int parse_options(struct daemon *d, int argc, char **argv, int *status)
{
    int opt;
    *status = 0;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (opt) {
        case OPT_VERSION:
            puts(VERSION_TEXT);
            return 1;
        case OPT_HELP:
            fputs(usage_text, stdout);
            return 1;
        case OPT_BACKGROUND:
            d->background = true;
            break;
        case OPT_PERMISSIONS:
            d->permissions = optarg;
            break;
        default:
            fputs(usage_text, stderr);
            *status = 1;
            return 1;
        }
    }
    return 0;
}

/* Detaches from the terminal. The parent prints the child's pid and ends. */
static void go_background(void)
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
        !freopen("/dev/null", "w", stderr))
        _exit(1);
}

/* ---- sockets ---- */

static void on_accept(void *arg, struct listener *listener, int fd)
{
    (void)listener;
    rpc_host_accept(arg, fd, 0);
}

static int add_listener(struct daemon *d, const char *label, const char *address, int fd,
                        struct rpc_host *host)
{
    char err[SOCKNAME_ERR_MAX];
    const struct listener_conf conf = {.label = label, .accepted = on_accept, .arg = host};
    struct listener *l;
    if (d->nlisteners == MAX_LISTENERS) {
        log_error("more than %d sockets", MAX_LISTENERS);
        return -1;
    }
    int rc = fd >= 0 ? listener_adopt(&l, d->reactor, fd, &conf, err, sizeof(err))
                     : listener_open(&l, d->reactor, address, &conf, err, sizeof(err));
    if (rc) {
        log_error("%s", err);
        return -1;
    }
    d->listeners[d->nlisteners++] = l;
    return 0;
}

static int open_producer(void *arg, const char *address)
{
    struct daemon *d = arg;
    return add_listener(d, "producer", address, -1, d->producers);
}

/* Sockets from the environment, or our own. */
static int open_sockets(struct daemon *d)
{
    char err[SOCKNAME_ERR_MAX];
    struct activate_set set;
    int producer, consumer;
    size_t n = 0;
    if (activate_collect(&set, err, sizeof(err))) {
        log_error("%s", err);
        return -1;
    }
    int android = activate_android(&producer, &consumer, err, sizeof(err));
    if (android < 0) {
        log_error("%s", err);
        return -1;
    }
    if (android == 0)
        consumer = set.count ? activate_take(&set, ACTIVATE_CONSUMER) : -1;
    if (add_listener(d, "consumer", sockname_consumer(), consumer, d->consumers))
        return -1;
    if (android > 0)
        return add_listener(d, "producer", NULL, producer, d->producers);
    while (set.count && (producer = activate_take(&set, ACTIVATE_PRODUCER)) >= 0) {
        n++;
        if (add_listener(d, "producer", NULL, producer, d->producers))
            return -1;
    }
    activate_fini(&set);
    if (n == 0 && (sockname_split(sockname_producer(), open_producer, d, &n) || n == 0)) {
        if (n == 0)
            log_error("PERFETTO_PRODUCER_SOCK_NAME names no socket");
        return -1;
    }
    return 0;
}

static int set_permissions(struct daemon *d)
{
    char err[SOCKNAME_ERR_MAX];
    struct listener_modes modes;
    char *copy = alloc_strdup(d->permissions);
    int rc = listener_parse_modes(&modes, d->permissions, copy, err, sizeof(err));
    for (size_t i = 0; !rc && i < d->nlisteners; i++) {
        struct listener *l = d->listeners[i];
        if (i > 0 && listener_name(l)->family != SOCKNAME_PATH)
            continue; /* R239 */
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
    (void)arg; /* stderr is the log: there is nothing to reopen */
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
        .admit = portlib_admit,
        .gone = portlib_gone,
        .arg = service_charges(d->svc),
    };
    return rpc_host_new(d->reactor, &conf);
}

static int start(struct daemon *d)
{
    const struct reactor_opts reactor_opts = {.table = msg_table};
    const struct service_options service_opts = {.version = VERSION_TEXT,
                                                 .machine_name = sockname_machine()};
    char err[SOCKNAME_ERR_MAX];
    d->reactor = reactor_new(&reactor_opts);
    if (!d->reactor) {
        log_error("cannot make the event loop: %s", strerror(errno));
        return -1;
    }
    if (service_new(d->reactor, &service_opts, &d->svc))
        return -1;
    d->producers = make_host(d, "producer", DEFAULTS_PRODUCER_SEND_MS, 4 * OUT_HIGH);
    d->consumers = make_host(d, "consumer", DEFAULTS_CONSUMER_SEND_MS, LARGEST_PACKET);
    if (prodport_new(d->reactor, d->svc, d->producers, &d->prodport) ||
        consport_new(d->reactor, d->svc, d->consumers, &d->consport) || catch_signals(d) ||
        open_sockets(d) || (d->permissions && set_permissions(d)))
        return -1;
    if (activate_ready("TRACED_NOTIFY_FD", err, sizeof(err)) < 0) {
        log_error("%s", err);
        return -1;
    }
    return 0;
}

/* Sessions end first, while their consumers can still be told. */
static void stop(struct daemon *d)
{
    for (size_t i = 0; i < d->nlisteners; i++) {
        listener_unlink(d->listeners[i]);
        listener_free(d->listeners[i]);
    }
    struct sig *sigs[] = {&d->term, &d->intr, &d->usr1, &d->usr2, &d->hup};
    for (size_t i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        sig_fini(sigs[i]);
    service_end(d->svc);
    rpc_host_free(d->producers);
    rpc_host_free(d->consumers);
    service_free(d->svc);
    prodport_free(d->prodport);
    consport_free(d->consport);
    reactor_free(d->reactor);
}

int main(int argc, char **argv)
{
    struct daemon d = {0};
    int status;
    log_init("traced");
    if (parse_options(&d, argc, argv, &status))
        return status;
    if (d.background)
        go_background();
    listener_raise_fd_limit();
    status = start(&d) ? 1 : 0;
    if (!status) {
        log_info("listening for producers at %s and consumers at %s", sockname_producer(),
                 sockname_consumer());
        trim_startup();
        status = reactor_run(d.reactor) ? 1 : 0;
        activate_notify("STOPPING=1");
    }
    stop(&d);
    return status;
}
