/* SPDX-License-Identifier: Apache-2.0 */
/* Listening: accepting in bursts, pausing when descriptors run low, adopted sockets, permissions
 * (R14, R17). */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/listener.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/log.h"
#include "t/ipc/loop.h"

static struct reactor *r;
static struct listener *l;
static char dir[] = "/tmp/ipc-listen.XXXXXX";
static char path[64];
static char err[SOCKNAME_ERR_MAX];

static int accepted;
static int fds[600];
static bool free_in_callback;

static void on_accept(void *arg, struct listener *from, int fd)
{
    cr_assert_eq(arg, &accepted);
    cr_assert_eq(from, l);
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
    fds[accepted++] = fd;
    if (free_in_callback) {
        listener_free(l);
        l = NULL;
    }
}

static const struct listener_conf conf = {
    .label = "test", .accepted = on_accept, .arg = &accepted, .burst = 8, .reserve = 20};

static void setup(void)
{
    chrono_virtual_start(1000 * CHRONO_SEC);
    r = reactor_new(NULL);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
}

static void teardown(void)
{
    listener_free(l);
    reactor_settle(r);
    reactor_free(r);
    loop_no_leaks();
    unlink(path);
    rmdir(dir);
    for (int i = 0; i < accepted; i++)
        close(fds[i]);
    chrono_virtual_stop();
}

TestSuite(listener, .init = setup, .fini = teardown);

static void open_it(void)
{
    cr_assert_eq(listener_open(&l, r, path, &conf, err, sizeof(err)), 0, "%s", err);
}

static int dial(void)
{
    struct sockname n;
    bool pending;
    cr_assert_eq(sockname_parse(&n, path, err, sizeof(err)), 0);
    int fd = sockname_connect(&n, &pending, err, sizeof(err));
    cr_assert_geq(fd, 0, "%s", err);
    return fd;
}

Test(listener, accepts_in_bursts)
{
    int clients[20];
    open_it();
    for (int i = 0; i < 20; i++)
        clients[i] = dial();
    loop_ticks(r, 1);
    cr_assert_eq(accepted, 8, "a flood of peers leaves the tick to others");
    loop_ticks(r, 2);
    cr_assert_eq(accepted, 20);
    for (int i = 0; i < 20; i++)
        close(clients[i]);
}

Test(listener, may_be_freed_in_its_callback)
{
    open_it();
    int a = dial();
    int b = dial();
    free_in_callback = true;
    loop_ticks(r, 3);
    cr_assert_eq(accepted, 1);
    close(a);
    close(b);
}

static char logged[512];
static int lines;

static void sink(void *arg, enum log_level level, const char *text)
{
    (void)arg;
    (void)level;
    lines++;
    snprintf(logged, sizeof(logged), "%s", text);
}

static void limit_fds(rlim_t n)
{
    struct rlimit lim;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &lim), 0);
    lim.rlim_cur = n;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &lim), 0);
}

/* The reserve is left to the rest of the process; peers wait in the backlog, and the loop does not
 * spin on them. */
Test(listener, pauses_when_descriptors_run_low)
{
    int clients[40];
    open_it();
    log_set_sink(sink, NULL);
    for (int i = 0; i < 40; i++)
        clients[i] = dial();
    int lowest = dup(0);
    close(lowest);
    limit_fds((rlim_t)lowest + 10 + 20);
    loop_ticks(r, 10);
    cr_assert(listener_paused(l));
    cr_assert_geq(accepted, 9);
    cr_assert_leq(accepted, 11, "%d were accepted, 20 descriptors are to be left", accepted);
    cr_assert_eq(lines, 1, "one line");
    cr_assert_not_null(strstr(logged, "limit of open files"), "%s", logged);
    int so_far = accepted;
    reactor_advance(r, DEFAULTS_IPC_ACCEPT_RETRY_MS * CHRONO_MS + 1);
    cr_assert_leq(accepted, so_far + 2, "still low: one more by one");
    limit_fds(1000);
    listener_resume(l);
    cr_assert_not(listener_paused(l));
    loop_ticks(r, 6);
    cr_assert_eq(accepted, 40);
    log_set_sink(NULL, NULL);
    for (int i = 0; i < 40; i++)
        close(clients[i]);
}

/* No descriptor at all: accept fails, the listener waits and tries again by itself. */
Test(listener, survives_emfile)
{
    open_it();
    log_set_sink(sink, NULL);
    int client = dial();
    int lowest = dup(0);
    close(lowest);
    limit_fds((rlim_t)lowest);
    loop_ticks(r, 5);
    cr_assert_eq(accepted, 0);
    cr_assert(listener_paused(l));
    limit_fds(1000);
    reactor_advance(r, DEFAULTS_IPC_ACCEPT_RETRY_MS * CHRONO_MS + 1);
    loop_ticks(r, 2);
    cr_assert_eq(accepted, 1);
    cr_assert_not(listener_paused(l));
    log_set_sink(NULL, NULL);
    close(client);
}

/* R14. */
Test(listener, takes_over_an_old_file)
{
    struct listener *first;
    open_it();
    first = l;
    open_it();
    int client = dial();
    loop_ticks(r, 2);
    cr_assert_eq(accepted, 1);
    listener_unlink(first);
    cr_assert_eq(access(path, F_OK), 0, "the file is the successor's by now");
    listener_free(first);
    listener_unlink(l);
    cr_assert_neq(access(path, F_OK), 0);
    close(client);
}

Test(listener, adopts_a_bound_socket)
{
    struct sockname n;
    cr_assert_eq(sockname_parse(&n, path, err, sizeof(err)), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&n.addr, n.addrlen), 0);
    cr_assert_eq(listener_adopt(&l, r, fd, &conf, err, sizeof(err)), 0, "%s", err);
    cr_assert_eq(listener_fd(l), fd);
    cr_assert_str_eq(listener_name(l)->text, path);
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    int client = dial();
    loop_ticks(r, 2);
    cr_assert_eq(accepted, 1);
    listener_unlink(l);
    cr_assert_eq(access(path, F_OK), 0, "somebody else made that file");
    close(client);
}

Test(listener, refuses_what_is_no_stream_socket)
{
    int file = open("/dev/null", O_RDONLY);
    int dgram = socket(AF_UNIX, SOCK_DGRAM, 0);
    cr_assert_eq(listener_adopt(&l, r, file, &conf, err, sizeof(err)), -ENOTSOCK);
    cr_assert_not_null(strstr(err, "bound stream socket"), "%s", err);
    cr_assert_eq(listener_adopt(&l, r, dgram, &conf, err, sizeof(err)), -EPROTOTYPE);
    cr_assert_eq(fcntl(file, F_GETFD), 0, "still the caller's");
    close(file);
    close(dgram);
}

Test(listener, open_reports_failures)
{
    char deep[100];
    snprintf(deep, sizeof(deep), "%s/no/s", dir);
    cr_assert_eq(listener_open(&l, r, deep, &conf, err, sizeof(err)), -ENOENT);
    cr_assert_eq(listener_open(&l, r, "", &conf, err, sizeof(err)), -EINVAL);
    cr_assert_null(l);
}

/* ---- permissions ---- */

Test(listener, permissions)
{
    struct stat st;
    char group[32];
    open_it();
    snprintf(group, sizeof(group), "%u", (unsigned)getgid());
    cr_assert_eq(listener_permit(l, group, 0620, err, sizeof(err)), 0, "%s", err);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 07777u, 0620u);
    cr_assert_eq(st.st_gid, getgid());
    cr_assert_eq(listener_permit(l, "no_such_group_here", 0620, err, sizeof(err)), -ENOENT);
    cr_assert_not_null(strstr(err, "no_such_group_here"));
    unlink(path);
    cr_assert_eq(listener_permit(l, group, 0620, err, sizeof(err)), -ENOENT);
}

Test(listener, permissions_need_a_file)
{
    struct listener_conf c2 = conf;
    cr_assert_eq(listener_open(&l, r, "127.0.0.1:0", &c2, err, sizeof(err)), 0, "%s", err);
    cr_assert_eq(listener_permit(l, "0", 0660, err, sizeof(err)), -EINVAL);
    cr_assert_not_null(strstr(err, "it is no file"), "%s", err);
}

/* R17. */
Test(listener, permission_texts)
{
    static const char *const bad[] = {"",
                                      "a",
                                      "a:0660",
                                      "a:0660:b",
                                      "a:0660:b:",
                                      ":0660:b:0660",
                                      "a::b:0660",
                                      "a:0660:b:0660:",
                                      "a:0660:b:0660:c",
                                      "a:660:b:0660",
                                      "a:00660:b:0660",
                                      "a:0668:b:0660",
                                      "a:+660:b:0660",
                                      "a:0660:b:06 0"};
    struct listener_modes m = {.producer_mode = 7};
    char copy[64];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert_eq(listener_parse_modes(&m, bad[i], copy, err, sizeof(err)), -EINVAL, "%s",
                     bad[i]);
        cr_assert_eq(m.producer_mode, 7u, "untouched");
    }
    cr_assert_eq(
        listener_parse_modes(&m, "traced:0666:trace consumers:0660", copy, err, sizeof(err)), 0);
    cr_assert_str_eq(m.producer_group, "traced");
    cr_assert_eq(m.producer_mode, 0666u);
    cr_assert_str_eq(m.consumer_group, "trace consumers");
    cr_assert_eq(m.consumer_mode, 0660u);
}

Test(listener, fd_limit_is_raised)
{
    struct rlimit lim;
    limit_fds(200);
    unsigned long now = listener_raise_fd_limit();
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &lim), 0);
    cr_assert_eq(now, (unsigned long)lim.rlim_cur);
    cr_assert_eq(lim.rlim_cur, lim.rlim_max);
}
