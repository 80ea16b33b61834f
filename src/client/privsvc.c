/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A private tracing service.
 *
 * The sockets are made here, in a fresh folder, and handed to traced by socket activation, so there
 * is no moment at which somebody could connect to a socket that nobody serves. traced_probes is
 * started when traced has said that it is ready, and finds it through its environment.
 *
 * Nothing may stay behind, whatever kills us. Both programs get SIGTERM from the kernel when we die
 * (activate_spawn.death_signal); they are asked rather than killed because traced_probes has a
 * kernel to tidy up. What the kernel does not do is done by the janitor: a forked copy of us that
 * holds the read end of a pipe and nothing else. When the pipe ends - because privsvc_free closed
 * it, or because we are no more - it makes sure that the programs are gone and removes the folder.
 *
 * Owned here: the folder, both sockets until traced has them, the children, the janitor.
 */
#include "client/privsvc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/activate.h"
#include "ipc/sockname.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/str.h"
#include "reactor/watch.h"

#define GRACE_MS        2000 /* between SIGTERM and SIGKILL */
#define TRACED_READY_MS 10000
#define PROBES_READY_MS 30000 /* it scans the kernel's event formats first */
#define LISTEN_BACKLOG  128

enum { TRACED, PROBES, CHILDREN };

static const char *const program_names[CHILDREN] = {"traced", "traced_probes"};
static const char *const ready_vars[CHILDREN] = {"TRACED_NOTIFY_FD", "TRACED_PROBES_NOTIFY_FD"};

struct child {
    struct privsvc *owner; /* borrow */
    pid_t pid;             /* 0: not started */
    int pidfd;             /* own, -1 */
    int ready_fd;          /* own, -1 */
    bool said_ready;
    struct watch exit_watch, ready_watch;
};

struct privsvc {
    struct reactor *reactor; /* borrow */
    struct privsvc_conf conf;
    privsvc_ready *ready; /* NULL once called */
    privsvc_gone *gone;
    void *arg; /* borrow */
    char *bin_dir;
    char dir[SOCKNAME_TEXT_MAX], producer[SOCKNAME_TEXT_MAX + 16], consumer[SOCKNAME_TEXT_MAX + 16];
    struct child child[CHILDREN];
    struct deadline patience;
    struct reactor_hook reap; /* our watches may be firing when we are freed */
    pid_t janitor;
    int janitor_pipe; /* own: closing it sets the janitor to work */
};

static int open_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static void send_signal(int pidfd, int signo)
{
    (void)syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0);
}

/* Waits until a process has ended, at most `ms`. */
static bool wait_gone(int pidfd, int ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    uint64_t end = chrono_mono_ns() + (uint64_t)ms * CHRONO_MS, now;

    while ((now = chrono_mono_ns()) < end) {
        int r = poll(&p, 1, (int)((end - now) / CHRONO_MS) + 1);
        if (r > 0)
            return true;
        if (r < 0 && errno != EINTR)
            return false;
    }
    return false;
}

/* ---- the janitor ---- */

static void remove_folder(const struct privsvc *p)
{
    (void)unlink(p->producer);
    (void)unlink(p->consumer);
    (void)rmdir(p->dir);
}

/* The janitor's whole life. PIDs arrive as they are known; the pidfd is taken at once, so that a
 * number that is used again later cannot be meant. */
static void janitor_main(const struct privsvc *p, int fd)
{
    int pidfd[CHILDREN] = {-1, -1};
    pid_t pid;
    size_t n = 0;
    ssize_t got;

    (void)prctl(PR_SET_NAME, "perfetto-janitor");
    (void)setpgid(0, 0);
    (void)!chdir("/"); /* no file system is kept busy */
    for (int s = 1; s < NSIG; s++)
        (void)signal(s, SIG_IGN);
    for (;;) {
        got = read(fd, &pid, sizeof(pid));
        if (got < 0 && errno == EINTR)
            continue;
        if (got != (ssize_t)sizeof(pid))
            break;
        if (n < CHILDREN)
            pidfd[n++] = open_pidfd(pid);
    }
    for (size_t i = 0; i < n; i++)
        send_signal(pidfd[i], SIGTERM);
    for (size_t i = 0; i < n; i++) {
        if (pidfd[i] >= 0 && !wait_gone(pidfd[i], GRACE_MS))
            send_signal(pidfd[i], SIGKILL);
    }
    remove_folder(p);
    _exit(0);
}

static int start_janitor(struct privsvc *p)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) != 0)
        return -errno;
    pid = fork();
    if (pid < 0) {
        int e = errno;
        close(fds[0]);
        close(fds[1]);
        return -e;
    }
    if (pid == 0) {
        /* a copy of the trace's output held open here would keep its reader waiting */
        if (fds[0] != 0)
            (void)dup2(fds[0], 0);
        (void)syscall(SYS_close_range, 1, ~0u, 0);
        janitor_main(p, 0);
    }
    close(fds[0]);
    p->janitor = pid;
    p->janitor_pipe = fds[1];
    return 0;
}

/* ---- the programs ---- */

static void report(struct privsvc *p, bool ok, const char *why)
{
    privsvc_ready *ready = p->ready;

    deadline_cancel(&p->patience);
    p->ready = NULL;
    if (ready != NULL)
        ready(p->arg, ok, why);
}

static void fail(struct privsvc *p, const struct child *c, const char *what)
{
    char why[200];

    (void)snprintf(why, sizeof(why), "the private %s %s", program_names[c - p->child], what);
    if (p->ready != NULL)
        report(p, false, why);
    else if (p->gone != NULL)
        p->gone(p->arg, why);
}

static void on_exit_of(void *arg, unsigned event)
{
    struct child *c = arg;

    (void)event;
    watch_fini(&c->exit_watch);
    fail(c->owner, c, "ended unexpectedly; what it wrote above may say why");
}

static int start_child(struct privsvc *p, int which, const int *fds, char *err, size_t errlen);

static void on_ready(void *arg, unsigned event)
{
    struct child *c = arg;
    struct privsvc *p = c->owner;
    char byte[8], err[300];
    ssize_t n = read(c->ready_fd, byte, sizeof(byte));

    (void)event;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        c->said_ready = byte[0] == '1';
        return; /* the end of the pipe makes it sure */
    }
    watch_fini(&c->ready_watch);
    close(c->ready_fd);
    c->ready_fd = -1;
    if (!c->said_ready) {
        fail(p, c, "did not start");
    } else if (c == &p->child[TRACED] && p->conf.probes) {
        if (start_child(p, PROBES, NULL, err, sizeof(err)) != 0)
            report(p, false, err);
    } else {
        report(p, true, "");
    }
}

static void on_impatience(void *arg)
{
    struct privsvc *p = arg;
    struct child *c = &p->child[p->child[PROBES].pid != 0 ? PROBES : TRACED];

    fail(p, c, "does not get ready");
}

/* Beside this program first, so that a build or an installation uses its own. */
static void find_program(const struct privsvc *p, int which, char *path, size_t size)
{
    if (p->bin_dir != NULL) {
        (void)snprintf(path, size, "%s/%s", p->bin_dir, program_names[which]);
        if (access(path, X_OK) == 0)
            return;
    }
    (void)snprintf(path, size, "%s", program_names[which]);
}

static int start_child(struct privsvc *p, int which, const int *fds, char *err, size_t errlen)
{
    static const char *const fd_names[] = {ACTIVATE_PRODUCER, ACTIVATE_CONSUMER};
    char path[4096], producer[SOCKNAME_TEXT_MAX + 64], consumer[SOCKNAME_TEXT_MAX + 64];
    char *argv[2] = {path, NULL}, *env[3] = {producer, consumer, NULL};
    struct child *c = &p->child[which];
    struct activate_spawn spawn = {
        .program = path,
        .argv = argv,
        .extra_env = env,
        .fds = fds,
        .fd_names = fd_names,
        .fd_count = fds != NULL ? 2 : 0,
        .stdin_fd = -1,
        .stdout_fd = -1,
        .stderr_fd = -2,
        .ready_var = ready_vars[which],
        .death_signal = SIGTERM,
        .new_group = true,
    };
    int rc;

    find_program(p, which, path, sizeof(path));
    (void)snprintf(producer, sizeof(producer), "PERFETTO_PRODUCER_SOCK_NAME=%s", p->producer);
    (void)snprintf(consumer, sizeof(consumer), "PERFETTO_CONSUMER_SOCK_NAME=%s", p->consumer);
    rc = activate_start(&spawn, &c->pid, &c->ready_fd, err, errlen);
    if (rc != 0)
        return rc;
    (void)!write(p->janitor_pipe, &c->pid, sizeof(c->pid));
    c->pidfd = open_pidfd(c->pid);
    watch_init(&c->ready_watch, p->reactor, "private ready", c->ready_fd, on_ready, c);
    watch_init(&c->exit_watch, p->reactor, "private exit", c->pidfd, on_exit_of, c);
    rc = watch_set(&c->ready_watch, WATCH_READ);
    if (rc == 0)
        rc = watch_set(&c->exit_watch, WATCH_READ);
    if (rc != 0)
        (void)snprintf(err, errlen, "cannot watch the private %s: %s", program_names[which],
                       strerror(-rc));
    deadline_arm_ms(&p->patience, which == TRACED ? TRACED_READY_MS : PROBES_READY_MS);
    return rc;
}

/* ---- start and end ---- */

static int make_folder(struct privsvc *p, char *err, size_t errlen)
{
    const char *tmp = getenv("TMPDIR");

    if (tmp == NULL || tmp[0] != '/' || strlen(tmp) > 70)
        tmp = "/tmp";
    (void)snprintf(p->dir, sizeof(p->dir), "%s/perfetto.XXXXXX", tmp);
    if (mkdtemp(p->dir) == NULL) {
        int e = errno;
        (void)snprintf(err, errlen, "cannot make a folder in %s: %s; set TMPDIR to one", tmp,
                       strerror(e));
        return -e;
    }
    /* the command may run as another user: the producer socket can be reached by its name */
    (void)chmod(p->dir, 0711);
    (void)snprintf(p->producer, sizeof(p->producer), "%s/producer", p->dir);
    (void)snprintf(p->consumer, sizeof(p->consumer), "%s/consumer", p->dir);
    return 0;
}

static int listen_on(const char *path, mode_t mode, char *err, size_t errlen)
{
    struct sockname name;
    int fd = sockname_parse(&name, path, err, errlen);

    if (fd == 0)
        fd = sockname_listen(&name, LISTEN_BACKLOG, false, err, errlen);
    if (fd >= 0)
        (void)chmod(path, mode);
    return fd;
}

static int start(struct privsvc *p, char *err, size_t errlen)
{
    int fds[2] = {-1, -1}, rc;

    rc = make_folder(p, err, errlen);
    if (rc != 0) {
        p->dir[0] = '\0';
        return rc;
    }
    rc = start_janitor(p);
    if (rc != 0) {
        (void)snprintf(err, errlen, "cannot start a process: %s", strerror(-rc));
        return rc;
    }
    fds[0] = listen_on(p->producer, 0666, err, errlen);
    fds[1] = fds[0] < 0 ? -1 : listen_on(p->consumer, 0600, err, errlen);
    rc = fds[1] < 0 ? (fds[0] < 0 ? fds[0] : fds[1]) : start_child(p, TRACED, fds, err, errlen);
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    return rc;
}

static void reap_service(void *arg)
{
    struct privsvc *p = arg;

    free(p->bin_dir);
    free(p);
}

struct privsvc *privsvc_start(struct reactor *reactor, const struct privsvc_conf *conf,
                              privsvc_ready *ready, privsvc_gone *gone, void *arg, char *err,
                              size_t errlen)
{
    struct privsvc *p = alloc_new(struct privsvc);

    p->reactor = reactor;
    p->conf = *conf;
    p->bin_dir = conf->bin_dir ? alloc_strdup(conf->bin_dir) : NULL;
    p->ready = ready;
    p->gone = gone;
    p->arg = arg;
    p->janitor_pipe = -1;
    reactor_hook_init(&p->reap, "private service", reap_service, p);
    deadline_init(&p->patience, reactor, "private service", on_impatience, p);
    for (int i = 0; i < CHILDREN; i++) {
        p->child[i].owner = p;
        p->child[i].pidfd = p->child[i].ready_fd = -1;
    }
    if (start(p, err, errlen) == 0)
        return p;
    privsvc_free(p);
    return NULL;
}

const char *privsvc_producer(const struct privsvc *p)
{
    return p->producer;
}

const char *privsvc_consumer(const struct privsvc *p)
{
    return p->consumer;
}

static void reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static void end_child(struct child *c)
{
    if (c->pid == 0)
        return;
    if (c->pidfd >= 0)
        send_signal(c->pidfd, SIGTERM);
    if (c->pidfd >= 0 && !wait_gone(c->pidfd, GRACE_MS))
        send_signal(c->pidfd, SIGKILL);
    reap(c->pid);
    watch_fini(&c->exit_watch);
    watch_fini(&c->ready_watch);
    if (c->pidfd >= 0)
        close(c->pidfd);
    if (c->ready_fd >= 0)
        close(c->ready_fd);
}

void privsvc_free(struct privsvc *p)
{
    if (p == NULL)
        return;
    deadline_cancel(&p->patience);
    /* the probes first: without their service they would only complain about its absence */
    for (int i = CHILDREN - 1; i >= 0; i--)
        end_child(&p->child[i]);
    if (p->janitor_pipe >= 0) {
        close(p->janitor_pipe);
        reap(p->janitor);
    } else if (p->dir[0] != '\0') {
        remove_folder(p);
    }
    reactor_reap_later(p->reactor, &p->reap);
}
