/* SPDX-License-Identifier: Apache-2.0 */
/* Socket activation by hand-made descriptors, readiness, and starting a child by both. The child is
 * a shell that reports what it was given. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/activate.h"
#include "ipc/sockname.h"
#include "reactor/chrono.h"
#include "t/ipc/loop.h"

static char err[SOCKNAME_ERR_MAX];

static void announce(const char *pid, const char *fds, const char *names)
{
    char own[32];
    snprintf(own, sizeof(own), "%d", (int)getpid());
    setenv("LISTEN_PID", pid != NULL ? pid : own, 1);
    setenv("LISTEN_FDS", fds, 1);
    if (names != NULL)
        setenv("LISTEN_FDNAMES", names, 1);
}

/* Puts fresh sockets at 3 .. 3 + n - 1. */
static void place_sockets(int n)
{
    for (int i = 0; i < n; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd != 3 + i) {
            cr_assert_eq(dup2(fd, 3 + i), 3 + i);
            close(fd);
        }
    }
}

/* The harness uses descriptors from 3 on; cases that need those places run as forks of their own,
 * whose exit code says whether all went well. */
static void in_fork(int (*fn)(void))
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(fn());
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "line %d of the child",
              WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return __LINE__ % 251 + 1;                                                             \
    } while (0)

/* ---- inherited sockets ---- */

static int takes_by_name(void)
{
    struct activate_set set;
    place_sockets(4);
    announce(NULL, "4", "traced-consumer.socket:producer:producer");
    CHECK(activate_collect(&set, err, sizeof(err)) == 0);
    CHECK(set.count == 4);
    CHECK(getenv("LISTEN_PID") == NULL && getenv("LISTEN_FDS") == NULL);
    CHECK(getenv("LISTEN_FDNAMES") == NULL);
    CHECK(strcmp(set.fds[3].name, "unknown") == 0);
    CHECK((fcntl(3, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((fcntl(3, F_GETFL) & O_NONBLOCK) != 0);
    CHECK(activate_take(&set, ACTIVATE_PRODUCER) == 4);
    CHECK(activate_take(&set, ACTIVATE_PRODUCER) == 5);
    CHECK(activate_take(&set, ACTIVATE_PRODUCER) == -ENOENT);
    CHECK(activate_take(&set, ACTIVATE_CONSUMER) == 3);
    CHECK(activate_fini(&set) == 1);
    CHECK(fcntl(6, F_GETFD) < 0);
    CHECK(fcntl(5, F_GETFD) >= 0);
    return 0;
}

Test(activate, sockets_are_taken_by_name)
{
    in_fork(takes_by_name);
}

static int refuses(void)
{
    struct activate_set set;
    CHECK(activate_collect(&set, err, sizeof(err)) == 0 && set.count == 0);
    place_sockets(1);
    announce("1", "1", NULL);
    CHECK(activate_collect(&set, err, sizeof(err)) == 0 && set.count == 0);
    announce("x", "1", NULL);
    CHECK(activate_collect(&set, err, sizeof(err)) == -EINVAL);
    CHECK(strstr(err, "LISTEN_PID") != NULL);
    announce(NULL, "-1", NULL);
    CHECK(activate_collect(&set, err, sizeof(err)) == -EINVAL);
    announce(NULL, "33", NULL);
    CHECK(activate_collect(&set, err, sizeof(err)) == -E2BIG);
    announce(NULL, "99999999999999999999", NULL);
    CHECK(activate_collect(&set, err, sizeof(err)) == -EINVAL);
    close(4);
    announce(NULL, "2", NULL);
    CHECK(activate_collect(&set, err, sizeof(err)) == -EBADF);
    CHECK(strstr(err, "4") != NULL);
    CHECK(dup2(0, 4) == 4);
    CHECK(activate_collect(&set, err, sizeof(err)) == -ENOTSOCK);
    CHECK(set.count == 0);
    return 0;
}

Test(activate, wrong_announcements_are_refused)
{
    in_fork(refuses);
}

/* Section 1.3: both or neither. */
Test(activate, android_sockets)
{
    int p = -1;
    int c = -1;
    unsetenv("ANDROID_SOCKET_traced_producer");
    unsetenv("ANDROID_SOCKET_traced_consumer");
    cr_assert_eq(activate_android(&p, &c, err, sizeof(err)), 0);
    setenv("ANDROID_SOCKET_traced_producer", "0", 1);
    cr_assert_eq(activate_android(&p, &c, err, sizeof(err)), -EINVAL);
    cr_assert_not_null(strstr(err, "ANDROID_SOCKET_traced_consumer"), "%s", err);
    setenv("ANDROID_SOCKET_traced_consumer", "x1", 1);
    cr_assert_eq(activate_android(&p, &c, err, sizeof(err)), -EINVAL);
    setenv("ANDROID_SOCKET_traced_consumer", "987654", 1);
    cr_assert_eq(activate_android(&p, &c, err, sizeof(err)), -EBADF);
    cr_assert_eq(p, -1, "untouched");
    setenv("ANDROID_SOCKET_traced_consumer", "1", 1);
    cr_assert_eq(activate_android(&p, &c, err, sizeof(err)), 1);
    cr_assert_eq(p, 0);
    cr_assert_eq(c, 1);
}

/* ---- readiness ---- */

static int notify_socket(const char *name)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(un.sun_path, name, n);
    if (name[0] == '@')
        un.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    cr_assert_eq(bind(fd, (struct sockaddr *)&un, len), 0);
    setenv("NOTIFY_SOCKET", name, 1);
    return fd;
}

static void expect(int fd, const char *text)
{
    char buf[600];
    long n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
    cr_assert_geq(n, 0, "nothing came, \"%s\" was expected", text);
    buf[n] = '\0';
    cr_assert_str_eq(buf, text);
}

Test(activate, notify)
{
    char name[64];
    unsetenv("NOTIFY_SOCKET");
    cr_assert_eq(activate_notify("READY=1"), 0, "nobody asked");
    setenv("NOTIFY_SOCKET", "", 1);
    cr_assert_eq(activate_notify("READY=1"), 0);
    setenv("NOTIFY_SOCKET", "relative", 1);
    cr_assert_eq(activate_notify("READY=1"), -EINVAL);
    setenv("NOTIFY_SOCKET", "/no/such/socket", 1);
    cr_assert_eq(activate_notify("READY=1"), -ENOENT);

    snprintf(name, sizeof(name), "@ipc-notify-%d", (int)getpid());
    int fd = notify_socket(name);
    cr_assert_eq(activate_notify("WATCHDOG=1"), 1);
    expect(fd, "WATCHDOG=1");
    cr_assert_eq(activate_notify_status("%d sessions,\nall %s", 3, "well"), 1);
    expect(fd, "STATUS=3 sessions, all well");
    close(fd);

    snprintf(name, sizeof(name), "/tmp/ipc-notify-%d", (int)getpid());
    fd = notify_socket(name);
    cr_assert_eq(activate_notify("STOPPING=1"), 1);
    expect(fd, "STOPPING=1");
    close(fd);
    unlink(name);
    unsetenv("NOTIFY_SOCKET");
}

Test(activate, ready)
{
    int p[2];
    char text[16];
    char buf[8];
    char name[64];
    snprintf(name, sizeof(name), "@ipc-ready-%d", (int)getpid());
    int note = notify_socket(name);
    cr_assert_eq(activate_ready("TRACED_NOTIFY_FD", err, sizeof(err)), 0);
    expect(note, "READY=1");
    cr_assert_eq(pipe2(p, O_NONBLOCK), 0);
    snprintf(text, sizeof(text), "%d", p[1]);
    setenv("TRACED_NOTIFY_FD", text, 1);
    cr_assert_eq(activate_ready("TRACED_NOTIFY_FD", err, sizeof(err)), 0, "%s", err);
    cr_assert_eq(read(p[0], buf, sizeof(buf)), 1);
    cr_assert_eq(buf[0], '1');
    cr_assert_eq(read(p[0], buf, sizeof(buf)), 0, "and the pipe is closed");
    cr_assert_null(getenv("TRACED_NOTIFY_FD"));
    expect(note, "READY=1");
    setenv("TRACED_NOTIFY_FD", "abc", 1);
    cr_assert_eq(activate_ready("TRACED_NOTIFY_FD", err, sizeof(err)), -EINVAL);
    cr_assert_not_null(strstr(err, "TRACED_NOTIFY_FD=abc"), "%s", err);
    setenv("TRACED_NOTIFY_FD", "987654", 1);
    cr_assert_eq(activate_ready("TRACED_NOTIFY_FD", err, sizeof(err)), -EBADF);
    unsetenv("TRACED_NOTIFY_FD");
    unsetenv("NOTIFY_SOCKET");
    close(note);
    close(p[0]);
}

Test(activate, watchdog)
{
    char own[32];
    snprintf(own, sizeof(own), "%d", (int)getpid());
    unsetenv("WATCHDOG_USEC");
    cr_assert_eq(activate_watchdog_ns(), 0u);
    setenv("WATCHDOG_USEC", "3000000", 1);
    unsetenv("WATCHDOG_PID");
    cr_assert_eq(activate_watchdog_ns(), 1500 * CHRONO_MS);
    setenv("WATCHDOG_PID", "1", 1);
    cr_assert_eq(activate_watchdog_ns(), 0u, "somebody else's");
    setenv("WATCHDOG_PID", own, 1);
    cr_assert_eq(activate_watchdog_ns(), 1500 * CHRONO_MS);
    setenv("WATCHDOG_USEC", "18446744073709551615", 1);
    cr_assert_eq(activate_watchdog_ns(), 0u);
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

/* ---- starting a child ---- */

static char report[4096];

/* Runs a shell script as the child and collects what it prints. Returns its exit status. */
static int run(struct activate_spawn *sp, const char *script, int *ready)
{
    int out[2];
    int status = 0;
    pid_t pid = -1;
    size_t n = 0;
    long got;
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)(uintptr_t)script, NULL};
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    sp->program = "sh";
    sp->argv = argv;
    sp->stdin_fd = -1;
    sp->stdout_fd = out[1];
    sp->stderr_fd = -2;
    cr_assert_eq(activate_start(sp, &pid, ready, err, sizeof(err)), 0, "%s", err);
    close(out[1]);
    while ((got = read(out[0], report + n, sizeof(report) - 1 - n)) > 0)
        n += (size_t)got;
    report[n] = '\0';
    close(out[0]);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(activate, child_gets_sockets_names_and_pid)
{
    int a = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int b = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int fds[2] = {b, a};
    const char *names[2] = {"producer", "consumer"};
    char *extra[] = {(char *)"FOO=bar", (char *)"BAZ=", NULL};
    struct activate_spawn sp = {.fds = fds, .fd_names = names, .fd_count = 2, .extra_env = extra};
    char want[512];
    char link_a[64];
    char link_b[64];
    char from[64];
    long n;
    setenv("FOO", "ours", 1);
    setenv("NOTIFY_SOCKET", "/somebody/elses", 1);
    setenv("LISTEN_FDS", "9", 1);
    int before = loop_open_fds();
    cr_assert_eq(run(&sp,
                     "[ \"$LISTEN_PID\" = $$ ] && echo pid ok; echo $LISTEN_FDS $LISTEN_FDNAMES;"
                     "echo $FOO [$BAZ] [$NOTIFY_SOCKET];"
                     "readlink /proc/$$/fd/3 /proc/$$/fd/4; ls /proc/$$/fd; echo end",
                     NULL),
                 0);
    cr_assert_eq(loop_open_fds(), before, "nothing is left open here");
    snprintf(from, sizeof(from), "/proc/self/fd/%d", a);
    n = readlink(from, link_a, sizeof(link_a) - 1);
    link_a[n] = '\0';
    snprintf(from, sizeof(from), "/proc/self/fd/%d", b);
    n = readlink(from, link_b, sizeof(link_b) - 1);
    link_b[n] = '\0';
    snprintf(want, sizeof(want),
             "pid ok\n2 producer:consumer\nbar [] []\n%s\n%s\n0\n1\n2\n3\n4\nend\n", link_b,
             link_a);
    cr_assert_str_eq(report, want);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("LISTEN_FDS");
    close(a);
    close(b);
}

/* The places 3, 4, ... may be taken by the very descriptors that go elsewhere. */
static int crosses(void)
{
    place_sockets(2);
    int fds[2] = {4, 3};
    const char *names[2] = {"a", "b"};
    struct activate_spawn sp = {.fds = fds, .fd_names = names, .fd_count = 2};
    char three[64] = "";
    char four[64] = "";
    char want[160];
    CHECK(readlink("/proc/self/fd/3", three, sizeof(three) - 1) > 0);
    CHECK(readlink("/proc/self/fd/4", four, sizeof(four) - 1) > 0);
    run(&sp, "readlink /proc/$$/fd/3 /proc/$$/fd/4", NULL);
    snprintf(want, sizeof(want), "%s\n%s\n", four, three);
    CHECK(strcmp(report, want) == 0);
    return 0;
}

Test(activate, places_may_cross)
{
    in_fork(crosses);
}

Test(activate, readiness_pipe)
{
    char buf[8];
    int ready = -1;
    struct activate_spawn sp = {.ready_var = "TRACED_NOTIFY_FD"};
    cr_assert_eq(
        run(&sp, "echo $LISTEN_FDS $TRACED_NOTIFY_FD; printf 1 >&$TRACED_NOTIFY_FD", &ready), 0);
    cr_assert_str_eq(report, "3\n", "no sockets, the pipe comes first");
    cr_assert_eq(read(ready, buf, sizeof(buf)), 1);
    cr_assert_eq(buf[0], '1');
    cr_assert_eq(read(ready, buf, sizeof(buf)), 0);
    close(ready);
    cr_assert_eq(run(&sp, "exit 3", &ready), 3);
    cr_assert_eq(read(ready, buf, sizeof(buf)), 0, "it gave up");
    close(ready);
}

Test(activate, failing_exec_is_reported)
{
    pid_t pid = 4711;
    int before = loop_open_fds();
    char *argv[] = {(char *)"x", NULL};
    struct activate_spawn sp = {.program = "/no/such/program",
                                .argv = argv,
                                .stdin_fd = -2,
                                .stdout_fd = -2,
                                .stderr_fd = -2};
    cr_assert_eq(activate_start(&sp, &pid, NULL, err, sizeof(err)), -ENOENT);
    cr_assert_not_null(strstr(err, "/no/such/program"), "%s", err);
    cr_assert_eq(pid, 4711);
    sp.program = "/etc/passwd";
    cr_assert_eq(activate_start(&sp, &pid, NULL, err, sizeof(err)), -EACCES);
    cr_assert_eq(loop_open_fds(), before);
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "no child is left behind");
}

/* The child starts with default dispositions and an empty mask, whatever ours are. */
Test(activate, signals_are_reset)
{
    sigset_t set;
    struct activate_spawn sp = {.new_group = true};
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    cr_assert_eq(
        run(&sp, "grep -E 'SigBlk|SigIgn' /proc/self/status; kill -TERM $$; echo alive", NULL), -1,
        "SIGTERM works again");
    /* Signals 32 and 33 are libc's own: whoever was started by posix_spawn (as make does) has them
     * ignored, and no sigaction may touch them. */
    unsigned long long blocked, ignored, libc_own = 3ull << 31;
    cr_assert_eq(sscanf(report, "SigBlk:\t%llx\nSigIgn:\t%llx\n", &blocked, &ignored), 2);
    cr_assert_eq(blocked & ~libc_own, 0);
    cr_assert_eq(ignored & ~libc_own, 0, "%llx", ignored);
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    cr_assert(sigismember(&now, SIGUSR1), "ours is as before");
    cr_assert_not(sigismember(&now, SIGTERM));
}

Test(activate, child_dies_with_its_starter)
{
    int alive[2];
    char buf[8];
    cr_assert_eq(pipe(alive), 0);
    pid_t starter = fork();
    if (starter == 0) {
        char *argv[] = {(char *)"sleep", (char *)"1000", NULL};
        struct activate_spawn sp = {.program = "sleep",
                                    .argv = argv,
                                    .stdin_fd = -1,
                                    .stdout_fd = alive[1],
                                    .stderr_fd = -1,
                                    .death_signal = SIGKILL};
        pid_t pid;
        _exit(activate_start(&sp, &pid, NULL, err, sizeof(err)) != 0);
    }
    close(alive[1]);
    int status = 0;
    waitpid(starter, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct pollfd pfd = {.fd = alive[0], .events = POLLIN};
    cr_assert_eq(poll(&pfd, 1, 20000), 1, "the child still holds the pipe");
    cr_assert_eq(read(alive[0], buf, sizeof(buf)), 0);
    close(alive[0]);
}
