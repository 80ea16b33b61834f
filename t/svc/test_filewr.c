/* SPDX-License-Identifier: Apache-2.0 */
/* svc/filewr: service.md R160 to R172, on real files, pipes, sockets and full devices. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/charge.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "reactor/reactor.h"
#include "svc/filehost.h"
#include "svc/filewr.h"

static struct reactor *r;
static struct filehost *host;
static struct filewr *w;
static int ready_calls;
static char dir[] = "/tmp/filewr.XXXXXX";
static char path[64];

static void on_ready(void *arg, struct filewr *who)
{
    (void)arg;
    cr_expect_eq(who, w);
    ready_calls++;
}

static void setup(void)
{
    r = reactor_new(NULL);
    host = filehost_new();
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/out", dir);
}

static void teardown(void)
{
    filewr_free(w);
    filehost_free(host); /* it may still watch a child that was left alone */
    reactor_free(r);
    unlink(path);
    rmdir(dir);
}

TestSuite(filewr, .init = setup, .fini = teardown);

static void start(int fd, uint64_t max_size)
{
    struct filewr_options opt = {.fd = fd,
                                 .host = host,
                                 .prefix = -1,
                                 .max_size = max_size,
                                 .sync_each = true,
                                 .ready = on_ready};
    cr_assert_eq(filewr_new(r, &opt, &w), 0);
}

/* Lets the loop go on until `ready` was called, or nothing is on its way any more. */
static void await_ready(void)
{
    for (int i = 0; ready_calls == 0 && i < 3000; i++)
        reactor_tick(r, 10 * CHRONO_MS);
}

static void await_written(void)
{
    for (int i = 0; filewr_backlog(w) > 0 && i < 3000; i++)
        reactor_tick(r, 10 * CHRONO_MS);
}

static int create_path(void)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    cr_assert_geq(fd, 0);
    return fd;
}

/* Puts one packet of n bytes of value c, in two pieces. */
static int put(struct packet_sink *sink, char c, size_t n)
{
    static char large[1 << 20], small[1 << 16]; /* small ones stay what they are */
    static size_t used;
    cr_assert(n <= 4096 ? used + n <= sizeof(small) : n <= sizeof(large));
    char *block = n <= 4096 ? small + used : large;
    used += n <= 4096 ? n : 0;
    memset(block, c, n);
    struct iovec parts[2] = {{block, n / 2}, {block + n / 2, n - n / 2}};
    struct packet pkt = {.parts = parts, .nparts = 2, .size = n};
    return packet_put(sink, &pkt);
}

static size_t read_file(uint8_t *buf, size_t max)
{
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, buf, max);
    close(fd);
    cr_assert_geq(n, 0);
    return (size_t)n;
}

static void finish(void)
{
    ready_calls = 0;
    filewr_finish(w, 30 * CHRONO_SEC);
    cr_expect_eq(ready_calls, 0, "never from inside the call");
    await_ready();
    cr_expect_eq(ready_calls, 1);
    cr_expect(filewr_done(w));
    cr_expect_eq(filewr_backlog(w), 0);
}

Test(filewr, R162_packets_are_framed_as_a_trace)
{
    start(create_path(), 0);
    struct packet_sink *sink = filewr_begin(w);
    cr_expect_eq(put(sink, 'a', 3), 0);
    struct packet empty = {.parts = NULL};
    cr_expect_eq(packet_put(sink, &empty), 0);
    cr_expect_eq(put(sink, 'b', 200), 0);
    cr_expect_eq(filewr_commit(w), 0);
    filewr_drained(w);
    sink = filewr_begin(w);
    cr_expect_eq(put(sink, 'c', 1), 0);
    cr_expect_eq(filewr_commit(w), 0);
    cr_expect_eq(filewr_written(w), 5 + 2 + 203 + 3);
    finish();
    uint8_t got[512];
    cr_assert_eq(read_file(got, sizeof(got)), 213);
    cr_expect_arr_eq(got,
                     "\x0A\x03"
                     "aaa\x0A\x00\x0A\xC8\x01"
                     "bbb",
                     13);
    cr_expect_arr_eq(got + 207,
                     "bbb\x0A\x01"
                     "c",
                     6);
}

Test(filewr, many_small_packets_in_one_batch)
{
    enum { PACKETS = 5000 };
    start(create_path(), 0);
    struct packet_sink *sink = filewr_begin(w);
    for (int i = 0; i < PACKETS; i++)
        cr_assert_eq(put(sink, (char)('a' + i % 26), 2), 0);
    cr_expect_eq(filewr_commit(w), 0);
    finish();
    static uint8_t got[PACKETS * 4 + 1];
    cr_assert_eq(read_file(got, sizeof(got)), PACKETS * 4);
    for (int i = 0; i < PACKETS; i++) {
        uint8_t c = (uint8_t)('a' + i % 26);
        uint8_t want[4] = {0x0A, 2, c, c};
        cr_assert_arr_eq(got + i * 4, want, 4, "packet %d", i);
    }
}

Test(filewr, R160_writes_start_at_the_current_offset)
{
    int fd = create_path();
    cr_assert_eq(write(fd, "head", 4), 4);
    start(fd, 0);
    cr_expect_eq(put(filewr_begin(w), 'a', 1), 0);
    cr_expect_eq(filewr_commit(w), 0);
    finish();
    uint8_t got[16];
    cr_assert_eq(read_file(got, sizeof(got)), 7);
    cr_expect_arr_eq(got,
                     "head\x0A\x01"
                     "a",
                     7);
}

static void make(const char *name)
{
    struct filewr_options opt = {
        .path = name, .fd = -1, .host = host, .prefix = -1, .ready = on_ready};
    filewr_free(w);
    w = NULL;
    ready_calls = 0;
    cr_assert_eq(filewr_new(r, &opt, &w), 0);
    cr_expect_eq(filewr_state(w), FILEWR_OPENING);
    cr_expect_eq(put(filewr_begin(w), 'a', 1), ERR_QUOTA, "not yet");
    await_ready();
    cr_expect_eq(ready_calls, 1);
}

Test(filewr, R161_a_file_is_made_unless_it_exists)
{
    struct stat st;
    umask(077);
    make(path);
    cr_expect_eq(filewr_state(w), FILEWR_OPEN);
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_mode & 07777, 0644);
    cr_expect_eq(put(filewr_begin(w), 'a', 1), 0);
    cr_expect_eq(filewr_commit(w), 0);
    finish();
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_size, 3);
    make(path);
    cr_expect_eq(filewr_state(w), FILEWR_FAILED);
    cr_expect_eq(filewr_error(w), -EEXIST);
    make("/nonexistent/dir/f");
    cr_expect_eq(filewr_error(w), -ENOENT);
    static char far[PATH_MAX + 1];
    memset(far, 'f', sizeof(far) - 1);
    struct filewr_options opt = {
        .path = far, .fd = -1, .host = host, .prefix = -1, .ready = on_ready};
    struct filewr *none;
    cr_expect_eq(filewr_new(r, &opt, &none), -ENAMETOOLONG);
}

Test(filewr, R168_the_limit_is_never_reached)
{
    start(create_path(), 20);
    struct packet_sink *sink = filewr_begin(w);
    cr_expect_eq(put(sink, 'a', 8), 0);         /* 10 bytes */
    cr_expect_eq(put(sink, 'b', 8), ERR_QUOTA); /* would be 20 */
    cr_expect_eq(put(sink, 'c', 1), ERR_QUOTA, "nothing after it either");
    cr_expect_eq(filewr_state(w), FILEWR_OPEN, "what precedes it is still to be written");
    cr_expect_eq(filewr_commit(w), 0);
    cr_expect_eq(filewr_state(w), FILEWR_FULL);
    cr_expect_eq(put(filewr_begin(w), 'd', 1), ERR_QUOTA);
    cr_expect_eq(filewr_commit(w), 0);
    cr_expect_eq(filewr_written(w), 10);
    finish();
    uint8_t got[32];
    cr_expect_eq(read_file(got, sizeof(got)), 10);
}

Test(filewr, R168_one_byte_below_the_limit_fits)
{
    start(create_path(), 21);
    struct packet_sink *sink = filewr_begin(w);
    cr_expect_eq(put(sink, 'a', 8), 0);
    cr_expect_eq(put(sink, 'b', 8), 0);
    cr_expect_eq(filewr_commit(w), 0);
    cr_expect_eq(filewr_state(w), FILEWR_OPEN);
    finish();
}

Test(filewr, R169_a_full_device_ends_the_file)
{
    int fd = open("/dev/full", O_WRONLY);
    cr_assert_geq(fd, 0);
    start(fd, 0);
    cr_expect_eq(put(filewr_begin(w), 'a', 100), 0);
    cr_expect_eq(filewr_commit(w), -ENOSPC);
    cr_expect_eq(filewr_state(w), FILEWR_FAILED);
    cr_expect_eq(filewr_written(w), 0);
    cr_expect_eq(put(filewr_begin(w), 'a', 1), ERR_QUOTA);
    finish();
}

static int put_piece(char c, size_t n, bool continues, size_t follows)
{
    static char block[3][400];
    static unsigned at;
    char *p = block[at++ % 3];
    memset(p, c, n);
    struct iovec part = {p, n};
    struct packet pkt = {
        .parts = &part, .nparts = 1, .size = n, .continues = continues, .follows = follows};
    int err = packet_put(filewr_begin(w), &pkt);
    return err ? err : filewr_commit(w);
}

Test(filewr, R162_a_packet_that_comes_in_several_batches)
{
    start(create_path(), 0);
    cr_expect_eq(put_piece('a', 100, false, 200), 0);
    cr_expect_eq(put_piece('b', 150, true, 50), 0);
    cr_expect_eq(put_piece('c', 50, true, 0), 0);
    cr_expect_eq(put_piece('d', 5, false, 0), 0);
    cr_expect_eq(filewr_written(w), 303 + 7);
    finish();
    uint8_t got[512];
    cr_assert_eq(read_file(got, sizeof(got)), 310);
    cr_expect_arr_eq(got,
                     "\x0A\xAC\x02"
                     "aa",
                     5);
    cr_expect(got[102] == 'a' && got[103] == 'b' && got[253] == 'c' && got[302] == 'c');
    cr_expect_arr_eq(got + 303,
                     "\x0A\x05"
                     "ddddd",
                     7);
}

Test(filewr, R168_a_packet_in_several_batches_is_refused_as_a_whole)
{
    start(create_path(), 250);
    cr_expect_eq(put_piece('a', 100, false, 200), ERR_QUOTA);
    cr_expect_eq(filewr_commit(w), 0);
    cr_expect_eq(filewr_state(w), FILEWR_FULL);
    cr_expect_eq(filewr_written(w), 0);
    finish();
}

Test(filewr, a_disk_that_fills_up_within_a_packet_of_several_batches)
{
    struct rlimit limit = {500, 500};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    start(create_path(), 0);
    cr_expect_eq(put_piece('a', 50, false, 0), 0);
    cr_expect_eq(put_piece('b', 300, false, 700), 0);
    await_written();
    cr_expect_eq(filewr_state(w), FILEWR_OPEN);
    cr_expect_eq(put_piece('c', 350, true, 350), 0);
    await_ready();
    cr_expect_eq(filewr_state(w), FILEWR_FAILED);
    cr_expect_eq(filewr_error(w), -EFBIG);
    cr_expect_eq(put_piece('c', 350, true, 0), ERR_QUOTA);
    cr_expect_eq(filewr_written(w), 52);
    finish();
    uint8_t got[600];
    cr_assert_eq(read_file(got, sizeof(got)), 52, "the file ends at a packet");
}

Test(filewr, a_disk_that_fills_up_leaves_whole_packets)
{
    struct rlimit limit = {1000, 1000};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    start(create_path(), 0);
    struct packet_sink *sink = filewr_begin(w);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(put(sink, (char)('a' + i), 300), 0); /* 303 bytes each */
    cr_expect_eq(filewr_commit(w), 0);
    await_ready();
    cr_expect_eq(filewr_state(w), FILEWR_FAILED);
    cr_expect_eq(filewr_error(w), -EFBIG);
    cr_expect_str_eq(filewr_why(w), "File too large");
    cr_expect_eq(filewr_written(w), 909);
    finish();
    uint8_t got[2000];
    cr_assert_eq(read_file(got, sizeof(got)), 909, "the fourth packet was cut off again");
    cr_expect_eq(got[908], 'c');
}

static void fill_batch(size_t bytes)
{
    struct packet_sink *sink = filewr_begin(w);
    cr_expect_eq(put(sink, 'x', bytes - 4), 0);
    cr_expect_eq(filewr_commit(w), 0);
}

/* Reads until n bytes came, letting the loop go on in between. */
static size_t read_all(int fd, size_t n)
{
    static uint8_t buf[65536];
    size_t got = 0;
    for (int i = 0; got < n && i < 100000; i++) {
        ssize_t k = read(fd, buf, sizeof(buf));
        if (k > 0)
            got += (size_t)k;
        else
            reactor_tick(r, 10 * CHRONO_MS);
    }
    return got;
}

static void slow_target(int ours, int theirs)
{
    fcntl(theirs, F_SETFL, O_NONBLOCK);
    start(ours, 0);
    enum { BATCH = 900000 };
    fill_batch(BATCH);
    cr_expect_eq(filewr_state(w), FILEWR_BUSY, "nobody reads: the rest waits");
    cr_expect_eq(filewr_written(w), BATCH);
    cr_expect_eq(put(filewr_begin(w), 'y', 1), ERR_QUOTA, "no second batch is held");
    cr_expect_eq(read_all(theirs, BATCH), BATCH);
    await_ready();
    cr_expect_eq(ready_calls, 1);
    cr_expect_eq(filewr_state(w), FILEWR_OPEN);
    close(theirs);
}

Test(filewr, R170_a_pipe_that_nobody_reads_does_not_block)
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    int consumers = dup(fds[1]);
    slow_target(fds[1], fds[0]);
    cr_expect_eq(fcntl(consumers, F_GETFL) & O_NONBLOCK, 0,
                 "flags shared with whoever passed the descriptor stay as they were");
    close(consumers);
}

Test(filewr, R170_a_socket_that_nobody_reads_does_not_block)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    slow_target(fds[1], fds[0]);
}

/* Somebody else's pipes and terminals cannot be opened a second time: needs root to become somebody
 * else. */
static void become_somebody_else(void)
{
    if (geteuid() != 0)
        cr_skip_test("needs root");
    cr_assert_eq(seteuid(65534), 0);
}

Test(filewr, R170_a_pipe_of_somebody_else_does_not_block_either)
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    become_somebody_else();
    slow_target(fds[1], fds[0]);
}

/* A terminal whose other end nobody reads takes a little and then holds whoever writes: the service
 * waited in write(2) for good. */
Test(filewr, a_terminal_of_somebody_else_is_refused)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
        cr_skip_test("no terminals here");
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    cr_assert_geq(slave, 0);
    int again = fcntl(slave, F_DUPFD_CLOEXEC, 0);
    start(again, 0);
    fill_batch(900000);
    cr_expect_eq(filewr_state(w), FILEWR_BUSY, "ours is opened again, and does not hold us");
    filewr_free(w);
    w = NULL;
    become_somebody_else();
    struct filewr_options opt = {.fd = slave, .prefix = -1, .ready = on_ready};
    cr_expect_eq(filewr_new(r, &opt, &w), -EACCES);
    close(master);
}

/* The copy of a clone's file goes where the consumer says, like the file itself. */
static struct filewr *start_copy(struct filewr *source, int out)
{
    int ends[2];
    struct filewr *copy;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    cr_expect_eq(filewr_share(source, ends[1]), 0);
    struct filewr_options opt = {.fd = out, .host = host, .prefix = ends[0], .ready = on_ready};
    cr_assert_eq(filewr_new(r, &opt, &copy), 0);
    cr_expect(filewr_on_disk(copy));
    return copy;
}

static void put_block(char c, size_t n)
{
    cr_expect_eq(put(filewr_begin(w), c, n), 0);
    cr_expect_eq(filewr_commit(w), 0);
}

Test(filewr, R211_a_copy_holds_what_was_put_before)
{
    char other[80];
    snprintf(other, sizeof(other), "%s/copy", dir);
    int out = open(other, O_RDWR | O_CREAT, 0600);
    cr_assert_eq(write(out, "head", 4), 4);
    start(create_path(), 0);
    put_block('a', 900000);
    struct filewr *source = w, *copy = start_copy(w, dup(out));
    put_block('b', 100);
    finish();
    w = copy;
    put_block('c', 3);
    finish();
    struct stat st;
    fstat(out, &st);
    cr_expect_eq(st.st_size, 4 + 900004 + 5);
    char got[8] = "";
    cr_expect_eq(pread(out, got, 8, 4 + 900004 - 3), 8);
    cr_expect_arr_eq(got,
                     "aaa\x0A\x03"
                     "ccc",
                     8);
    filewr_free(source);
    unlink(other);
    close(out);
}

Test(filewr, R211_a_copy_waits_for_its_reader_and_gets_no_signal)
{
    int fds[2];
    signal(SIGPIPE, SIG_DFL);
    start(create_path(), 0);
    put_block('a', 300000);
    struct filewr *source = w;
    cr_assert_eq(pipe(fds), 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    w = start_copy(source, fds[1]);
    put_block('b', 10);
    cr_expect_eq(read_all(fds[0], 300004 + 12), 300004 + 12);
    finish();
    filewr_free(w);
    close(fds[0]);
    ready_calls = 0;
    cr_assert_eq(pipe(fds), 0);
    w = start_copy(source, fds[1]);
    close(fds[0]);
    await_ready();
    cr_expect_eq(filewr_error(w), -EPIPE);
    filewr_free(w);
    w = source;
}

Test(filewr, R211_a_copy_of_a_file_that_cannot_be_read)
{
    start(create_path(), 0);
    put_block('a', 10);
    filewr_free(w);
    start(open(path, O_WRONLY), 0);
    put_block('a', 10);
    struct filewr *source = w;
    int out = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    w = start_copy(source, out);
    await_ready();
    cr_expect_eq(filewr_error(w), -EBADF);
    filewr_free(w);
    w = source;
}

Test(filewr, R170_a_reader_that_goes_away_sends_no_signal)
{
    signal(SIGPIPE, SIG_DFL);
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    start(fds[1], 0);
    close(fds[0]);
    cr_expect_eq(put(filewr_begin(w), 'a', 100), 0);
    cr_expect_eq(filewr_commit(w), -EPIPE);
    cr_expect_eq(filewr_state(w), FILEWR_FAILED);
    sigset_t pending;
    sigpending(&pending);
    cr_expect_eq(sigismember(&pending, SIGPIPE), 0);
    finish();
}

Test(filewr, a_reader_that_goes_away_while_data_is_held)
{
    signal(SIGPIPE, SIG_DFL);
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    start(fds[1], 0);
    fill_batch(500000);
    cr_expect_eq(filewr_state(w), FILEWR_BUSY);
    close(fds[0]);
    await_ready();
    cr_expect_eq(ready_calls, 1);
    cr_expect_eq(filewr_state(w), FILEWR_FAILED);
}

Test(filewr, finish_waits_for_what_is_held)
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    start(fds[1], 0);
    fill_batch(300000);
    filewr_finish(w, 3600 * CHRONO_SEC);
    reactor_settle(r);
    cr_expect_not(filewr_done(w));
    cr_expect_eq(read_all(fds[0], 300000), 300000);
    await_ready();
    cr_expect(filewr_done(w));
    uint8_t byte;
    cr_expect_eq(read(fds[0], &byte, 1), 0, "closed: the reader sees the end");
    close(fds[0]);
}

Test(filewr, finish_gives_a_stuck_target_up)
{
    chrono_virtual_start(CHRONO_SEC);
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    start(fds[1], 0);
    fill_batch(300000);
    filewr_finish(w, 5 * CHRONO_SEC);
    reactor_advance(r, 4 * CHRONO_SEC);
    cr_expect_not(filewr_done(w));
    reactor_advance(r, 2 * CHRONO_SEC);
    cr_expect(filewr_done(w));
    cr_expect_eq(filewr_state(w), FILEWR_FAILED);
    cr_expect_eq(ready_calls, 1);
    close(fds[0]);
    chrono_virtual_stop();
}

static void free_in_ready(void *arg, struct filewr *who)
{
    (void)arg;
    filewr_free(who);
    w = NULL;
    ready_calls++;
}

Test(filewr, may_be_freed_from_ready)
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    struct filewr_options opt = {.fd = fds[1], .prefix = -1, .ready = free_in_ready};
    cr_assert_eq(filewr_new(r, &opt, &w), 0);
    fill_batch(300000);
    read_all(fds[0], 300000);
    await_ready();
    cr_expect_eq(ready_calls, 1);
    close(fds[0]);
}

/* ---- a disk that stands still: its process is stopped, which is the same to us ---- */

/* The first child of a process. */
static pid_t child_of(pid_t pid)
{
    char name[64];
    int child = 0;
    snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)pid, (int)pid);
    for (int i = 0; child == 0 && i < 3000; i++) {
        FILE *f = fopen(name, "r");
        if (!f)
            cr_skip_test("no lists of children here");
        if (fscanf(f, "%d", &child) != 1)
            reactor_tick(r, CHRONO_MS);
        fclose(f);
    }
    cr_assert_gt(child, 0);
    return child;
}

Test(filewr, R170_a_disk_that_stands_still_does_not_block)
{
    enum { BATCH = 1000000 };
    start(create_path(), 0);
    pid_t pid = child_of(child_of(getpid()));
    kill(pid, SIGSTOP);
    int batches = 0;
    while (filewr_state(w) == FILEWR_OPEN && batches < 10) {
        fill_batch(BATCH);
        batches++;
    }
    cr_expect_eq(filewr_state(w), FILEWR_BUSY);
    cr_expect_leq(batches, 3, "no more than a pipe and a batch");
    cr_expect_eq(put(filewr_begin(w), 'y', 1), ERR_QUOTA);
    kill(pid, SIGCONT);
    await_ready();
    cr_expect_eq(filewr_state(w), FILEWR_OPEN);
    finish();
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_size, (off_t)batches * BATCH);
}

Test(filewr, finish_waits_for_a_slow_disk_and_gives_a_stuck_one_up)
{
    static const struct charge_limit limits[CHARGE_KINDS] = {[CHARGE_FILES] = {1, 1}};
    struct charge_book *book = charge_book_new(limits);
    struct filewr_options opt = {
        .fd = create_path(), .host = host, .book = book, .uid = 7, .prefix = -1, .ready = on_ready};
    struct filewr *second;
    chrono_virtual_start(CHRONO_SEC);
    cr_assert_eq(filewr_new(r, &opt, &w), 0);
    pid_t pid = child_of(child_of(getpid()));
    fill_batch(300000);
    filewr_finish(w, 5 * CHRONO_SEC);
    kill(pid, SIGSTOP);
    reactor_advance(r, 4 * CHRONO_SEC);
    cr_expect_not(filewr_done(w));
    kill(pid, SIGCONT);
    await_ready();
    cr_expect(filewr_done(w));
    cr_expect_eq(filewr_state(w), FILEWR_OPEN);
    filewr_free(w);
    for (int i = 0; charge_total(book, CHARGE_FILES) > 0 && i < 3000; i++)
        reactor_tick(r, 10 * CHRONO_MS);
    ready_calls = 0;
    unlink(path);
    opt.fd = create_path();
    cr_assert_eq(filewr_new(r, &opt, &w), 0);
    pid = child_of(child_of(getpid()));
    kill(pid, SIGSTOP);
    fill_batch(300000);
    filewr_finish(w, 5 * CHRONO_SEC);
    reactor_advance(r, 4 * CHRONO_SEC);
    cr_expect_not(filewr_done(w));
    reactor_advance(r, 2 * CHRONO_SEC);
    cr_expect(filewr_done(w));
    cr_expect_eq(filewr_error(w), -ETIMEDOUT);
    cr_expect_eq(ready_calls, 1);
    opt.fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    cr_expect_eq(filewr_new(r, &opt, &second), ERR_QUOTA, "its process is still there");
    kill(pid, SIGCONT);
    for (int i = 0; charge_total(book, CHARGE_FILES) > 0 && i < 3000; i++)
        reactor_tick(r, 10 * CHRONO_MS);
    cr_expect_eq(charge_total(book, CHARGE_FILES), 0);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_size, 300000, "and has written all");
    charge_book_free(book);
    chrono_virtual_stop();
}
