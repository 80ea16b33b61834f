/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a child with listening sockets and a readiness pipe of its own, by fork and exec.
 * Between the two only async-signal-safe calls are made, as the parent may have threads: the
 * environment is built before the fork, with blanks where the child writes its own pid, and all
 * descriptors are copied out of the way of the places they are to take. Nothing that was open in
 * the parent but these reaches the child, and a failing exec is told through a pipe that exec
 * itself would close.
 */

#include "ipc/activate.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/str.h"

#define FIRST_FD 3 /* where inherited sockets begin, by the protocol */

extern char **environ;

#define PID_DIGITS 20

/* What the child needs, made before the fork. */
struct plan {
    const struct activate_spawn *spawn; /* borrow */
    char **envp;                        /* own; strings are borrowed or in `made` */
    char *made[4];                      /* own */
    size_t made_count;
    char *pid_digits; /* borrow: into made[], where the child writes its pid */
    int *fds;         /* own: what becomes 3, 4, ..., all above the last of these */
    size_t fd_count;
    int status_pipe[2]; /* exec's errno comes back here */
    int ready_pipe[2];
};

static bool same_name(const char *assignment, const char *name, size_t len)
{
    return strncmp(assignment, name, len) == 0 && assignment[len] == '=';
}

/* True when a variable of our environment must not reach the child as it is. */
static bool overridden(const struct activate_spawn *sp, const char *assignment)
{
    static const char *const dropped[] = {"LISTEN_PID",    "LISTEN_FDS",   "LISTEN_FDNAMES",
                                          "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"};
    for (size_t i = 0; i < sizeof(dropped) / sizeof(dropped[0]); i++) {
        if (same_name(assignment, dropped[i], strlen(dropped[i])))
            return true;
    }
    if (sp->ready_var != NULL && same_name(assignment, sp->ready_var, strlen(sp->ready_var)))
        return true;
    for (char *const *e = sp->extra_env; e != NULL && *e != NULL; e++) {
        const char *eq = strchr(*e, '=');
        if (eq != NULL && same_name(assignment, *e, (size_t)(eq - *e)))
            return true;
    }
    return false;
}

static char *made(struct plan *p, char *text)
{
    p->made[p->made_count++] = text;
    return text;
}

static char *fd_names(const struct activate_spawn *sp)
{
    char *names = str_format("LISTEN_FDNAMES=");
    for (size_t i = 0; i < sp->fd_count; i++) {
        char *more = str_format("%s%s%s", names, i != 0 ? ":" : "", sp->fd_names[i]);
        free(names);
        names = more;
    }
    return names;
}

static void plan_env(struct plan *p)
{
    const struct activate_spawn *sp = p->spawn;
    size_t count = 0;
    for (char **e = environ; e != NULL && *e != NULL; e++)
        count++;
    for (char *const *e = sp->extra_env; e != NULL && *e != NULL; e++)
        count++;
    p->envp = alloc_array(count + 5, sizeof(char *));
    size_t n = 0;
    for (char **e = environ; e != NULL && *e != NULL; e++) {
        if (!overridden(sp, *e))
            p->envp[n++] = *e;
    }
    for (char *const *e = sp->extra_env; e != NULL && *e != NULL; e++)
        p->envp[n++] = *e;
    if (sp->fd_count != 0) {
        char *pid = made(p, str_format("LISTEN_PID=%0*d", PID_DIGITS, 0));
        p->pid_digits = strchr(pid, '=') + 1;
        p->envp[n++] = pid;
        p->envp[n++] = made(p, str_format("LISTEN_FDS=%zu", sp->fd_count));
        p->envp[n++] = made(p, fd_names(sp));
    }
    if (sp->ready_var != NULL)
        p->envp[n++] = made(p, str_format("%s=%d", sp->ready_var, FIRST_FD + (int)sp->fd_count));
}

static void plan_fini(struct plan *p)
{
    for (size_t i = 0; i < p->made_count; i++)
        free(p->made[i]);
    for (size_t i = 0; p->fds != NULL && i < p->fd_count; i++) {
        if (p->fds[i] >= 0)
            close(p->fds[i]);
    }
    for (int i = 0; i < 2; i++) {
        if (p->status_pipe[i] >= 0)
            close(p->status_pipe[i]);
        if (p->ready_pipe[i] >= 0)
            close(p->ready_pipe[i]);
    }
    free(p->fds);
    free(p->envp);
}

/* Copies of all descriptors above the places they are to take, so that no dup2 in the child treads
 * on a source of a later one. */
static int plan_fds(struct plan *p)
{
    const struct activate_spawn *sp = p->spawn;
    bool ready = sp->ready_var != NULL;
    size_t count = sp->fd_count + (ready ? 1 : 0);
    int above = FIRST_FD + (int)count;
    if (pipe2(p->status_pipe, O_CLOEXEC) != 0)
        return -errno;
    if (ready && pipe2(p->ready_pipe, O_CLOEXEC) != 0)
        return -errno;
    p->fds = alloc_array(count + 1, sizeof(int));
    for (size_t i = 0; i < count; i++) {
        int fd = i < sp->fd_count ? sp->fds[i] : p->ready_pipe[1];
        p->fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, above);
        if (p->fds[i] < 0)
            return -errno;
        p->fd_count = i + 1;
    }
    int status = fcntl(p->status_pipe[1], F_DUPFD_CLOEXEC, above);
    if (status < 0)
        return -errno;
    close(p->status_pipe[1]);
    p->status_pipe[1] = status;
    return 0;
}

/* ---- in the child: async-signal-safe calls alone ---- */

static void write_pid(char *digits)
{
    uint64_t pid = (uint64_t)getpid();
    char text[PID_DIGITS];
    size_t n = 0;
    do {
        text[n++] = (char)('0' + pid % 10);
        pid /= 10;
    } while (pid != 0);
    for (size_t i = 0; i < n; i++)
        digits[i] = text[n - 1 - i];
    digits[n] = '\0';
}

static int place_std(int fd, int place)
{
    if (fd == -2)
        return 0;
    if (fd == -1)
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fd >= 0 && dup2(fd, place) >= 0 ? 0 : -1;
}

static int place_fds(const struct plan *p)
{
    const struct activate_spawn *sp = p->spawn;
    /* Sources of the three may themselves be 0, 1 or 2. */
    int in = sp->stdin_fd >= 0 ? fcntl(sp->stdin_fd, F_DUPFD_CLOEXEC, FIRST_FD) : sp->stdin_fd;
    int out = sp->stdout_fd >= 0 ? fcntl(sp->stdout_fd, F_DUPFD_CLOEXEC, FIRST_FD) : sp->stdout_fd;
    int err = sp->stderr_fd >= 0 ? fcntl(sp->stderr_fd, F_DUPFD_CLOEXEC, FIRST_FD) : sp->stderr_fd;
    if (place_std(in, 0) != 0 || place_std(out, 1) != 0 || place_std(err, 2) != 0)
        return -1;
    for (size_t i = 0; i < p->fd_count; i++) {
        if (dup2(p->fds[i], FIRST_FD + (int)i) < 0)
            return -1;
    }
    return 0;
}

/* Everything from here up is to close itself at exec, whatever opened it. */
static void close_others(unsigned from)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, from, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) == 0)
        return;
#endif
    for (int fd = (int)from; fd < 65536; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void reset_signals(void)
{
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &dfl, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void run_child(const struct plan *p, pid_t parent)
{
    const struct activate_spawn *sp = p->spawn;
    reset_signals();
    if (sp->new_group)
        setpgid(0, 0);
    if (sp->death_signal != 0) {
        prctl(PR_SET_PDEATHSIG, sp->death_signal);
        if (getppid() != parent) /* it ended before we asked */
            _exit(127);
    }
    if (p->pid_digits != NULL)
        write_pid(p->pid_digits);
    if (place_fds(p) == 0) {
        close_others((unsigned)FIRST_FD + (unsigned)p->fd_count);
        execvpe(sp->program, sp->argv, p->envp);
    }
    int error = errno;
    ssize_t n = write(p->status_pipe[1], &error, sizeof(error));
    (void)n;
    _exit(127);
}

/* ---- in the parent ---- */

/* Waits for exec: 0, or what the child said about its failure. */
static int exec_result(int fd)
{
    int error = 0;
    ssize_t n;
    do
        n = read(fd, &error, sizeof(error));
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(error) ? -error : 0;
}

static int launch(struct plan *p, pid_t *pid)
{
    pid_t parent = getpid();
    sigset_t all;
    sigset_t old;
    /* No handler of ours may run in the child before it has reset them. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t child = fork();
    int rc = child < 0 ? -errno : 0;
    if (child == 0)
        run_child(p, parent);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return rc;
    close(p->status_pipe[1]);
    p->status_pipe[1] = -1;
    rc = exec_result(p->status_pipe[0]);
    if (rc != 0) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        return rc;
    }
    *pid = child;
    return 0;
}

int activate_start(const struct activate_spawn *spawn, pid_t *pid, int *ready_fd, char *err,
                   size_t errlen)
{
    struct plan p = {.spawn = spawn, .status_pipe = {-1, -1}, .ready_pipe = {-1, -1}};
    pid_t child = -1;
    int rc = spawn->fd_count > ACTIVATE_FDS_MAX ? -E2BIG : 0;
    if (rc == 0)
        rc = plan_fds(&p);
    if (rc == 0) {
        plan_env(&p);
        rc = launch(&p, &child);
    }
    if (rc != 0) {
        snprintf(err, errlen, "cannot start %s: %s; check that it is installed and executable",
                 spawn->program, err_text(rc));
    } else {
        *pid = child;
        if (spawn->ready_var != NULL) {
            fcntl(p.ready_pipe[0], F_SETFL, O_NONBLOCK);
            *ready_fd = p.ready_pipe[0];
            p.ready_pipe[0] = -1;
        }
    }
    plan_fini(&p);
    return rc;
}
