/* SPDX-License-Identifier: Apache-2.0 */
/* traced_probes: the producer of everything the kernel knows: ftrace, /proc and /sys.
 *
 * main parses the options, resets ftrace where asked to, daemonises, and then runs one loop: the
 * producer link keeps itself connected, the mux turns its commands into probes. SIGTERM and SIGINT
 * end the loop in order, so that tracefs is left as it was found; only a kill -9 leaves it dirty,
 * which --cleanup-after-crash mends. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/prodlink.h"
#include "probes/ftrace/tracefs.h"
#include "probes/mux.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/reactor.h"
#include "reactor/sig.h"
#include "reactor/str.h"
#include "reactor/version.h"

/* R4, R845 */
#define PRODUCER_NAME  "perfetto.traced_probes"
#define SHM_SIZE_HINT  (2U << 20)
#define SHM_PAGE_HINT  (32U << 10)
#define NOTIFY_FD_NAME "TRACED_PROBES_NOTIFY_FD"

enum { OPT_BACKGROUND = 1, OPT_RESET, OPT_CLEANUP, OPT_VERSION };

static const struct option options[] = {
    {"background", no_argument, NULL, OPT_BACKGROUND},
    {"reset-ftrace", no_argument, NULL, OPT_RESET},
    {"cleanup-after-crash", no_argument, NULL, OPT_CLEANUP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

struct daemon {
    struct reactor *r;
    struct prodlink *link;
    struct sig term, intr, usr2;
    int notify_fd; /* own; -1 = nobody waits, or was told */
};

static void reset_ftrace(void)
{
    int rc = tracefs_hard_reset();
    if (rc)
        log_warn("cannot reset ftrace: %s; mount tracefs on /sys/kernel/tracing and run as root",
                 err_text(rc));
}

/* R107: one fork; the parent prints the child's pid once the child has settled. Returns in the
 * child with 0, in a parent that could not fork with -errno. */
static int go_background(void)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        return -errno;
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid > 0) {
        char c;
        close(fds[1]);
        while (read(fds[0], &c, 1) < 0 && errno == EINTR)
            ;
        printf("%d\n", (int)pid);
        exit(fflush(stdout) ? 1 : 0);
    }
    int null = open("/dev/null", O_RDONLY);
    setsid();
    if (chdir("/") || null < 0)
        _exit(1);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    close(fds[0]);
    close(fds[1]); /* end of file is the sign */
    return 0;
}

static void on_signal(void *arg)
{
    struct daemon *d = arg;
    reactor_stop(d->r);
}

static void on_usr2(void *arg)
{
    (void)arg;
    log_info("debug lines are %s", log_toggle_debug() ? "on" : "off");
}

/* The service has processed the registration of all data sources (R844). */
static void on_registered(void *arg, bool ok)
{
    struct daemon *d = arg;
    if (!ok || d->notify_fd < 0)
        return; /* if the connection was lost, the next one asks again */
    if (write(d->notify_fd, "1", 1) != 1)
        log_warn("cannot write to the descriptor in " NOTIFY_FD_NAME ": %s", strerror(errno));
    close(d->notify_fd);
    d->notify_fd = -1;
}

/* The data sources were announced just now. */
static void on_state(void *arg, enum prodlink_state state)
{
    struct daemon *d = arg;
    if (state == PRODLINK_CONNECTED && d->notify_fd >= 0)
        prodlink_sync(d->link, on_registered, d);
}

static int notify_fd(void)
{
    const char *text = getenv(NOTIFY_FD_NAME);
    uint64_t fd;
    if (!text)
        return -1;
    if (!str_to_u64(text, &fd) || fd > INT32_MAX || fcntl((int)fd, F_GETFD) < 0) {
        log_warn(NOTIFY_FD_NAME "=%s is no open file descriptor; nobody is notified", text);
        return -1;
    }
    fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    return (int)fd;
}

static int serve(struct daemon *d)
{
    int sysroot = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct prodlink_cfg cfg = {.producer_name = PRODUCER_NAME,
                               .shm_size_hint = SHM_SIZE_HINT,
                               .shm_page_hint = SHM_PAGE_HINT,
                               .scraping = PRODLINK_SCRAPING_OFF,
                               .retry = PRODLINK_RETRY_DAEMON,
                               .on_state = on_state,
                               .ctx = d};
    d->r = reactor_new(NULL);
    if (!d->r)
        return -errno;
    int rc = sig_init(&d->term, d->r, SIGTERM, on_signal, d);
    if (rc == 0)
        rc = sig_init(&d->intr, d->r, SIGINT, on_signal, d);
    if (rc == 0)
        rc = sig_init(&d->usr2, d->r, SIGUSR2, on_usr2, d);
    struct mux *mux = mux_new(d->r, NULL, sysroot);
    d->link = rc == 0 ? prodlink_new(d->r, &cfg) : NULL;
    if (rc == 0 && !d->link)
        rc = -ENOMEM;
    if (rc == 0)
        rc = mux_register(mux, d->link);
    if (rc == 0)
        rc = reactor_run(d->r);
    if (d->notify_fd >= 0)
        close(d->notify_fd);
    d->notify_fd = -1;
    prodlink_free(d->link); /* destroys the instances, which restore tracefs */
    mux_free(mux);
    sig_fini(&d->term);
    sig_fini(&d->intr);
    sig_fini(&d->usr2);
    reactor_free(d->r);
    close(sysroot);
    return rc;
}

int main(int argc, char **argv)
{
    struct daemon d = {.notify_fd = -1};
    bool background = false, reset = false, cleanup = false;
    log_init("traced_probes");
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case OPT_BACKGROUND:
            background = true;
            break;
        case OPT_RESET:
            reset = true;
            break;
        case OPT_CLEANUP:
            cleanup = true;
            break;
        case OPT_VERSION:
            puts(VERSION_TEXT);
            return 0;
        default:
            fprintf(
                stderr,
                "usage: %s [--background] [--reset-ftrace] [--cleanup-after-crash] [--version]\n",
                argv[0]);
            return 1;
        }
    }
    if (reset || cleanup)
        reset_ftrace(); /* before daemonising, so that a person sees what it says (R842) */
    if (cleanup)
        return 0;
    int rc = background ? go_background() : 0;
    if (rc == 0) {
        sig_ignore_pipe();
        d.notify_fd = notify_fd();
        rc = serve(&d);
    }
    if (rc)
        log_error("cannot run: %s", err_text(rc));
    return rc ? 1 : 0;
}
