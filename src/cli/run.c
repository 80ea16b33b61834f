/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame around a recording: output, background, service, command, signals.
 *
 * The order is that of R301: the output is opened and the process goes into the background before
 * anything is said to the service, so that a script sees the file and the PID whatever comes. Then,
 * if wanted, the private service is started, then the recording, and with a command the command as
 * soon as the service says that all data sources have started.
 *
 * Owned here: the reactor and everything that runs on it. Nothing is freed inside a callback; the
 * loop ends first.
 */
#include "cli/run.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/bg.h"
#include "cli/harness.h"
#include "cli/pktout.h"
#include "cli/record.h"
#include "cli/stopsig.h"
#include "client/conssession.h"
#include "client/privsvc.h"
#include "client/trigsend.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/reactor.h"

#define START_PATIENCE_MS 30000 /* for all data sources to start, before a command is run */

struct run {
    struct reactor *reactor; /* own */
    struct cmdline *cl;      /* borrow */
    struct pktout out;
    bool has_out;
    struct bg_notify notify;
    const char *address;     /* borrow */
    struct privsvc *service; /* own */
    struct record *record;   /* own */
    struct harness *command; /* own */
    struct stopsig signals;
    bool has_signals;
    struct deadline patience;
    bool recording, command_runs; /* not over yet */
    bool discard;                 /* the output is removed at the end */
    int code, command_code;       /* command_code: -1 while there is none */
};

static void stop_loop_if_over(struct run *run)
{
    if (!run->recording && !run->command_runs)
        reactor_stop(run->reactor);
}

/* ---- before the loop ---- */

/* R303: a random pause, as the config asks for. */
static void pause_before_start(const struct traceconf_facts *f)
{
    uint64_t span = (uint64_t)f->max_delay_ms - f->min_delay_ms + 1;
    uint64_t ms = f->min_delay_ms + chrono_random_u64() % span;
    struct timespec ts = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&ts, &ts) != 0 && errno == EINTR)
        ;
}

/* R304. */
static void rename_thread(struct bytes_view name)
{
    char text[16];
    int n = (int)(name.n < 13 ? name.n : 13);

    (void)snprintf(text, sizeof(text), "p-%.*s", n, (const char *)name.p);
    (void)prctl(PR_SET_NAME, text);
}

/* Opens the output and goes into the background. CMDLINE_GO_ON or the exit code. */
static int prepare(struct run *run)
{
    struct cmdline *cl = run->cl;
    char err[512];
    int rc;

    bg_notify_init(&run->notify);
    if (cl->notify_fd >= 0)
        bg_notify_add(&run->notify, cl->notify_fd);
    if (cl->out != NULL) {
        if (pktout_open(&run->out, cl->out, cl->no_clobber, err, sizeof(err)) != 0) {
            fprintf(stderr, "perfetto: %s\n", err);
            return cl->command != NULL ? HARNESS_FAILED : 1;
        }
        run->has_out = true;
    }
    if (cl->background) {
        rc = bg_daemonize(cl->background_wait, &run->notify);
        if (rc >= 0)
            return rc;
    }
    if (cl->conf.facts.has_min_delay)
        pause_before_start(&cl->conf.facts);
    if (cl->conf.facts.session_name.n > 0)
        rename_thread(cl->conf.facts.session_name);
    run->reactor = reactor_new(NULL);
    if (run->reactor != NULL)
        return CMDLINE_GO_ON;
    fprintf(stderr, "perfetto: cannot start (errno: %d, %s)\n", errno, strerror(errno));
    return cl->command != NULL ? HARNESS_FAILED : 1;
}

/* ---- the command ---- */

static int catch_signals(struct run *run, bool pass_on);

static void on_command_ended(void *arg, int status)
{
    struct run *run = arg;

    run->command_runs = false;
    run->command_code = status;
    /* from now on a signal is for us: the first is a warning, the second ends us */
    stopsig_fini(&run->signals);
    run->has_signals = false;
    (void)catch_signals(run, false);
    if (run->recording)
        record_stop(run->record, "");
    stop_loop_if_over(run);
}

static void on_impatient(void *arg)
{
    struct run *run = arg;

    fprintf(stderr,
            "perfetto: not all data sources have started within %d s, so the command was not run; "
            "perfetto --query shows which there are\n",
            START_PATIENCE_MS / 1000);
    run->code = RECORD_FAILED;
    record_stop(run->record, "");
}

static void on_started(void *arg)
{
    struct run *run = arg;

    deadline_cancel(&run->patience);
    if (run->command != NULL || run->code != 0)
        return;
    run->command =
        harness_start(run->reactor, run->cl->command, on_command_ended, run, &run->command_code);
    run->command_runs = run->command != NULL;
    if (run->command != NULL)
        return;
    run->discard = true; /* a trace of nothing is not left behind */
    reactor_stop(run->reactor);
}

static void on_signal(void *arg, int signo, bool sent)
{
    struct run *run = arg;
    char why[64];

    if (run->command_runs) {
        if (sent || (signo != SIGINT && signo != SIGQUIT))
            harness_signal(run->command, signo);
        return;
    }
    if (run->cl->command != NULL && run->command_code >= 0) {
        fputs("perfetto: the trace is being saved; a second signal gives it up\n", stderr);
        return;
    }
    if (run->cl->command != NULL)
        run->command_code = 128 + signo; /* before the command was run */
    (void)snprintf(why, sizeof(why), "%s received", signo == SIGINT ? "SIGINT" : "SIGTERM");
    if (run->recording)
        record_stop(run->record, why);
}

/* pass_on: what the command may want to know of as well. */
static int catch_signals(struct run *run, bool pass_on)
{
    static const int stop[] = {SIGINT, SIGTERM, 0};
    static const int pass[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, 0};
    int rc =
        stopsig_init(&run->signals, run->reactor, pass_on ? pass : stop, !pass_on, on_signal, run);

    run->has_signals = rc == 0;
    return rc;
}

/* ---- the recording ---- */

static void on_recorded(void *arg, int code)
{
    struct run *run = arg;

    run->recording = false;
    deadline_cancel(&run->patience);
    if (run->code == 0)
        run->code = code;
    if (run->command_runs && run->cl->conf.facts.duration_ms > 0 && code == 0)
        fputs("perfetto: the trace is complete; the command goes on\n", stderr);
    stop_loop_if_over(run);
}

static bool begin(struct run *run)
{
    struct cmdline *cl = run->cl;
    struct record_conf conf = {
        .address = run->address,
        .cl = cl,
        .out = run->has_out ? &run->out : NULL,
        .notify = &run->notify,
        .want_started = cl->background_wait || cl->notify_fd >= 0 || cl->command != NULL,
        .talkative = !cl->quiet && cl->action != CMDLINE_IS_DETACHED,
        /* the terminal is the command's while it runs: a line drawn into an editor is no help */
        .terminal = cl->command == NULL && isatty(STDERR_FILENO),
        .check_sources = !cl->quiet && cl->action == CMDLINE_RECORD && cl->command == NULL &&
                         (run->service != NULL || isatty(STDERR_FILENO)),
        .started = cl->command != NULL ? on_started : NULL,
        .done = on_recorded,
        .arg = run,
    };

    run->record = record_new(run->reactor, &conf);
    if (run->record == NULL || catch_signals(run, cl->command != NULL) != 0) {
        run->code = RECORD_FAILED;
        return false;
    }
    run->recording = true;
    if (cl->command != NULL)
        deadline_arm_ms(&run->patience, START_PATIENCE_MS);
    return true;
}

/* ---- the private service ---- */

static void on_service_ready(void *arg, bool ok, const char *why)
{
    struct run *run = arg;

    if (!ok) {
        fprintf(stderr, "perfetto: %s\n", why);
        run->code = RECORD_FAILED;
    } else {
        run->address = privsvc_consumer(run->service);
        (void)setenv("PERFETTO_PRODUCER_SOCK_NAME", privsvc_producer(run->service), 1);
        (void)setenv("PERFETTO_CONSUMER_SOCK_NAME", run->address, 1);
        if (begin(run))
            return;
    }
    if (run->has_out)
        (void)pktout_discard_empty(&run->out);
    reactor_stop(run->reactor);
}

static void on_service_gone(void *arg, const char *why)
{
    struct run *run = arg;

    /* the recording itself notices by its lost connection */
    if (run->recording)
        fprintf(stderr, "perfetto: %s\n", why);
}

/* The folder of this program: where its own traced lies. Own the result, NULL if unknown. */
static char *own_folder(void)
{
    char path[4096], *slash;
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

    if (n <= 0)
        return NULL;
    path[n] = '\0';
    slash = strrchr(path, '/');
    return slash == NULL ? NULL : alloc_strndup(path, (size_t)(slash - path));
}

static bool start_service(struct run *run)
{
    char *folder = own_folder(), err[512];
    struct privsvc_conf conf = {.bin_dir = folder, .probes = run->cl->conf.facts.needs_probes};

    run->service = privsvc_start(run->reactor, &conf, on_service_ready, on_service_gone, run, err,
                                 sizeof(err));
    free(folder);
    if (run->service != NULL)
        return true;
    fprintf(stderr, "perfetto: %s\n", err);
    run->code = RECORD_FAILED;
    if (run->has_out)
        (void)pktout_discard_empty(&run->out);
    return false;
}

/* ---- all together ---- */

static bool start(struct run *run)
{
    struct cmdline *cl = run->cl;

    if (cl->autostart || (cl->command != NULL && !conssession_reachable(run->address))) {
        if (!cl->quiet)
            fputs("perfetto: starting a private tracing service\n", stderr);
        return start_service(run);
    }
    if (cl->command != NULL) {
        (void)setenv("PERFETTO_PRODUCER_SOCK_NAME", trigsend_default_address(), 0);
        (void)setenv("PERFETTO_CONSUMER_SOCK_NAME", run->address, 0);
    }
    return begin(run);
}

static int exit_code(const struct run *run)
{
    if (run->cl->command == NULL)
        return run->code;
    if (run->command_code > 0)
        return run->command_code;
    return run->code != 0 || run->command_code < 0 ? HARNESS_FAILED : 0;
}

int run_record(struct cmdline *cl)
{
    struct run run = {.cl = cl, .command_code = -1, .address = conssession_default_address()};
    int rc = prepare(&run);

    if (rc == CMDLINE_GO_ON) {
        deadline_init(&run.patience, run.reactor, "start of data sources", on_impatient, &run);
        if (start(&run))
            (void)reactor_run(run.reactor);
        rc = exit_code(&run);
        bg_notify_send(&run.notify, (unsigned char)rc);
        deadline_cancel(&run.patience);
        if (run.has_signals)
            stopsig_fini(&run.signals);
        harness_free(run.command);
        record_free(run.record);
        privsvc_free(run.service);
        reactor_free(run.reactor);
    }
    if (run.has_out && run.discard && run.out.regular)
        (void)unlink(run.out.path);
    if (run.has_out)
        pktout_fini(&run.out);
    return rc;
}
