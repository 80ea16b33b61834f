/* SPDX-License-Identifier: Apache-2.0 */
/* svc/filehost and svc/filejob: the processes that write files, one message at a time. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "svc/filehost.h"
#include "svc/filejob.h"

static struct filehost *host;

static void setup(void)
{
    host = filehost_new();
}

static void teardown(void)
{
    filehost_free(host);
}

TestSuite(filehost, .init = setup, .fini = teardown, .timeout = 120);

struct child {
    int data, ctl, file; /* own */
};

static int scratch(void)
{
    int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    if (fd < 0)
        cr_skip_test("no nameless files here");
    return fd;
}

static void say(const struct child *c, enum filejob_kind kind, uint64_t at, int fd)
{
    const struct filejob_msg msg = {.kind = kind, .at = at};
    cr_expect_eq(filejob_send(c->ctl, 0, &msg, &fd, fd >= 0 ? 1 : 0), 0);
}

static struct child begin(int file)
{
    struct child c = {.file = file};
    cr_assert_eq(filehost_child(host, &c.data, &c.ctl), 0);
    say(&c, FILEJOB_START, 0, file);
    return c;
}

static void feed(const struct child *c, const void *p, size_t n)
{
    cr_assert_eq(write(c->data, p, n), (ssize_t)n);
}

/* The next report that is not WRITTEN; kind 0: it is gone. */
static struct filejob_msg last_word(const struct child *c)
{
    struct filejob_msg msg;
    int fds[FILEJOB_FDS];
    while (filejob_recv(c->ctl, 0, &msg, fds) > 0) {
        if (msg.kind != FILEJOB_WRITTEN)
            return msg;
    }
    return (struct filejob_msg){0};
}

static void until_written(const struct child *c, uint64_t at)
{
    struct filejob_msg msg = {0};
    int fds[FILEJOB_FDS];
    while (msg.at < at && filejob_recv(c->ctl, 0, &msg, fds) > 0)
        cr_assert_eq(msg.kind, FILEJOB_WRITTEN);
    cr_expect_eq(msg.at, at);
}

static void end(struct child *c)
{
    close(c->data);
    close(c->ctl);
    close(c->file);
}

static off_t size_of(int fd)
{
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    return st.st_size;
}

/* A stream of packets of 0, 3, 200 and 20000 bytes. */
static uint8_t stream[2 + 5 + 203 + 20004];
static const size_t whole[] = {0, 2, 7, 210, sizeof(stream)};

static void make_stream(void)
{
    static const uint8_t heads[4][4] = {
        {0x0A, 0}, {0x0A, 3}, {0x0A, 0xC8, 0x01}, {0x0A, 0xA0, 0x9C, 0x01}};
    static const size_t lens[4] = {2, 2, 3, 4};
    memset(stream, 0xFF, sizeof(stream));
    for (size_t i = 0; i < 4; i++)
        memcpy(stream + whole[i], heads[i], lens[i]);
}

/* Whatever part of a packet is the last that arrives, it is cut off again. */
Test(filehost, a_file_ends_at_a_packet)
{
    make_stream();
    for (size_t n = 0; n <= sizeof(stream); n += n < 230 ? 1 : 1977) {
        struct child c = begin(scratch());
        size_t want = 0;
        for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++)
            want = whole[i] <= n ? whole[i] : want;
        size_t first = n / 2; /* in two pieces, the second when the first is in the file */
        feed(&c, stream, first);
        if (first > 0)
            until_written(&c, first);
        feed(&c, stream + first, n - first);
        close(c.data);
        cr_expect_eq(last_word(&c).kind, FILEJOB_DONE);
        cr_expect_eq(size_of(c.file), (off_t)want, "%zu bytes of the stream", n);
        end(&c);
    }
}

Test(filehost, the_service_is_gone_and_the_pipe_is_still_written)
{
    char path[] = "/tmp/filehostXXXXXX";
    struct child c = begin(mkstemp(path));
    make_stream();
    feed(&c, stream, sizeof(stream) - 1);
    end(&c);
    filehost_free(host); /* waits for the host, not for the child */
    host = NULL;
    struct stat st;
    for (int i = 0; i < 3000; i++) {
        cr_assert_eq(stat(path, &st), 0);
        if (st.st_size == 210)
            break;
        poll(NULL, 0, 10);
    }
    cr_expect_eq(st.st_size, 210);
    unlink(path);
}

Test(filehost, a_disk_that_fills_up)
{
    struct rlimit limit = {300, 300};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct child c = begin(scratch());
    make_stream();
    cr_assert_eq(write(c.file, "head", 4), 4);
    feed(&c, stream, sizeof(stream));
    struct filejob_msg m = last_word(&c);
    cr_expect_eq(m.kind, FILEJOB_FAILED);
    cr_expect_eq(m.err, -EFBIG);
    cr_expect_eq(m.at, 210);
    cr_expect_eq(size_of(c.file), 4 + 210);
    end(&c);
}

Test(filehost, sharing_waits_for_its_offset_and_no_longer)
{
    struct child c = begin(scratch()), copy = begin(scratch());
    int ends[2];
    make_stream();
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    say(&c, FILEJOB_SHARE, 210, ends[1]);
    close(ends[1]);
    say(&copy, FILEJOB_PREFIX, 0, ends[0]);
    feed(&copy, stream, 2);
    feed(&c, stream, 100);
    until_written(&c, 100);
    cr_expect_eq(size_of(copy.file), 0, "not there yet");
    feed(&c, stream + 100, sizeof(stream) - 100);
    close(copy.data);
    cr_expect_eq(last_word(&copy).kind, FILEJOB_DONE);
    cr_expect_eq(size_of(copy.file), 210 + 2);
    close(ends[0]);
    end(&c);
    end(&copy);
}

Test(filehost, a_prefix_that_never_comes)
{
    struct child c = begin(scratch()), copy = begin(scratch());
    int ends[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    say(&c, FILEJOB_SHARE, 1000, ends[1]);
    close(ends[1]);
    say(&copy, FILEJOB_PREFIX, 0, ends[0]);
    close(ends[0]);
    end(&c); /* ends before it is that far */
    struct filejob_msg m = last_word(&copy);
    cr_expect_eq(m.kind, FILEJOB_FAILED);
    cr_expect_eq(m.err, -EPIPE);
    cr_expect_eq(last_word(&copy).kind, 0, "and has ended");
    end(&copy);
}

Test(filehost, it_inherits_nothing)
{
    int fds[2];
    char c;
    cr_assert_eq(pipe(fds), 0);
    cr_assert_eq(filehost_start(host), 0);
    close(fds[1]);
    cr_expect_eq(read(fds[0], &c, 1), 0, "the host holds the other end");
    struct child a = begin(scratch());
    close(a.data);
    cr_expect_eq(last_word(&a).kind, FILEJOB_DONE, "a child ends with its pipe");
    end(&a);
}

/* Its pid is nobody's business but a test's: it is the only child we have. */
static pid_t host_pid(void)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%d", &pid) != 1)
        cr_skip_test("no list of children here");
    fclose(f);
    return pid;
}

Test(filehost, a_host_that_was_killed_is_replaced)
{
    cr_assert_eq(filehost_start(host), 0);
    for (int i = 0; i < 3; i++) {
        struct child c = begin(scratch());
        feed(&c, "\x0A\x00", 2);
        until_written(&c, 2);
        pid_t pid = host_pid();
        siginfo_t dead;
        kill(pid, SIGKILL);
        cr_assert_eq(waitid(P_PID, (id_t)pid, &dead, WEXITED | WNOWAIT), 0);
        feed(&c, "\x0A\x00", 2);
        close(c.data);
        cr_expect_eq(last_word(&c).kind, FILEJOB_DONE, "its children live on");
        cr_expect_eq(size_of(c.file), 4);
        end(&c);
    }
}

Test(filehost, signals_for_the_service_are_not_for_it)
{
    static const int deaf[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE};
    struct child c = begin(scratch());
    feed(&c, "\x0A\x00", 2);
    until_written(&c, 2);
    for (size_t i = 0; i < sizeof(deaf) / sizeof(deaf[0]); i++)
        kill(host_pid(), deaf[i]);
    struct child d = begin(scratch());
    close(d.data);
    cr_expect_eq(last_word(&d).kind, FILEJOB_DONE);
    end(&c);
    end(&d);
}
