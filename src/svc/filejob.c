/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes that write regular files, because a disk may stall for as long as it likes and the
 * loop of the service must not. The host is forked while the service is small, touches no file ever
 * and forks a child for each; so a file system that stands still holds one child, which nobody
 * waits for. A child copies from its pipe into the file and walks the framing of a Trace message
 * while it does, so that it knows where the last whole packet ends.
 *
 * Nobody has to end these processes: the host ends with its socket, and a child with its pipe,
 * after what was in it is in the file. That is also what happens when the service is killed.
 *
 * Invariant: what a child leaves behind ends at a packet boundary, whatever ended it but SIGKILL.
 * There is no heap, no lock and no stdio here: the service may have been forked with threads.
 */
#include "svc/filejob.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NAME        "traced-files"
#define PIECE       (256u << 10) /* one read and write */
#define STREAM_STEP 4096u        /* what a pipe that polls as writable takes without waiting */
#define SYNC_STEP   (8u << 20)   /* of one step of the last sync */

/* Where in the framing of a Trace message the bytes are that were written. */
struct walk {
    enum { WALK_TAG, WALK_SIZE, WALK_BODY } state;
    uint64_t left; /* of the packet's bytes */
    unsigned shift;
    uint64_t whole; /* offset behind the last whole packet */
};

struct job {
    int ctl, data, out; /* own */
    bool regular;       /* can be cut and synced */
    bool heard_last;    /* nobody is at the other end of ctl */
    bool every_step;    /* FINISH has come */
    bool ordered;       /* order waits for its offset */
    uint64_t written;   /* bytes of the pipe that are in the file */
    uint64_t told;      /* of the last WRITTEN */
    struct filejob_msg order;
    int order_fd; /* own; -1: none */
    struct walk walk;
};

static uint8_t buffer[PIECE]; /* of the child; the service never touches it */

/* ---- messages ---- */

int filejob_send(int sock, int flags, const struct filejob_msg *msg, const int *fds, int n)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int) * FILEJOB_FDS)];
    } control;
    struct iovec iov = {(void *)(uintptr_t)msg, sizeof(*msg)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n > 0) {
        size_t bytes = sizeof(int) * (size_t)n;
        memset(&control, 0, sizeof(control));
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(bytes);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(&control.head), fds, bytes);
    }
    for (;;) {
        if (sendmsg(sock, &m, flags | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

int filejob_recv(int sock, int flags, struct filejob_msg *msg, int fds[FILEJOB_FDS])
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int) * FILEJOB_FDS)];
    } control;
    struct iovec iov = {msg, sizeof(*msg)};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    ssize_t got;
    do
        got = recvmsg(sock, &m, flags | MSG_CMSG_CLOEXEC);
    while (got < 0 && (errno == EINTR || errno == ECONNRESET)); /* said once, before the rest */
    for (int i = 0; i < FILEJOB_FDS; i++)
        fds[i] = -1;
    if (got <= 0)
        return got == 0 ? 0 : -errno;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    return got == (ssize_t)sizeof(*msg) ? 1 : -EPROTO;
}

int filejob_send_create(int sock, const char *path)
{
    const struct filejob_msg msg = {.kind = FILEJOB_CREATE};
    size_t n = strlen(path) + 1;
    int err = n > PATH_MAX ? -ENAMETOOLONG : filejob_send(sock, MSG_DONTWAIT, &msg, NULL, 0);
    if (err)
        return err;
    return send(sock, path, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static void tell(const struct job *j, enum filejob_kind kind, int err)
{
    const struct filejob_msg msg = {kind, err, kind == FILEJOB_FAILED ? j->walk.whole : j->written};
    /* News may be dropped while the service is busy, the last word may not. */
    filejob_send(j->ctl, kind == FILEJOB_WRITTEN ? MSG_DONTWAIT : 0, &msg, NULL, 0);
}

static void tell_written(struct job *j)
{
    j->told = j->written;
    tell(j, FILEJOB_WRITTEN, 0);
}

/* ---- the framing ---- */

static void walk(struct walk *w, uint64_t at, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        if (w->state == WALK_BODY) {
            size_t take = n - i < w->left ? n - i : (size_t)w->left;
            i += take;
            w->left -= take;
        } else if (w->state == WALK_SIZE) {
            uint8_t byte = p[i++];
            w->left |= w->shift < 64 ? (uint64_t)(byte & 0x7F) << w->shift : 0;
            w->shift += 7;
            if (byte & 0x80)
                continue;
            w->state = WALK_BODY;
        } else { /* the tag; the service writes no other */
            i++;
            w->left = 0;
            w->shift = 0;
            w->state = WALK_SIZE;
        }
        if (w->state == WALK_BODY && w->left == 0) {
            w->state = WALK_TAG;
            w->whole = at + i;
        }
    }
}

/* ---- the end ---- */

/* Cuts off the packet that was begun. */
static void cut(const struct job *j)
{
    off_t excess = (off_t)(j->written - j->walk.whole);
    off_t at = j->regular && excess ? lseek(j->out, 0, SEEK_CUR) : -1;
    if (at < excess || excess == 0)
        return;
    if (ftruncate(j->out, at - excess) == 0)
        lseek(j->out, at - excess, SEEK_SET);
}

static int sync_out(const struct job *j)
{
    while (j->regular && fdatasync(j->out) != 0) {
        if (errno == EINVAL || errno == EROFS || errno == ENOSYS)
            return 0; /* cannot be synced, by its nature */
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

_Noreturn static void fail(const struct job *j, int err)
{
    cut(j);
    tell(j, FILEJOB_FAILED, err);
    sync_out(j);
    _exit(0);
}

/* The last sync goes in steps, so that whoever waits sees that the disk still moves. */
_Noreturn static void finish(struct job *j)
{
    struct stat st;
    cut(j);
    if (j->regular && fstat(j->out, &st) == 0) {
        for (off_t at = 0; at < st.st_size; at += SYNC_STEP) {
            sync_file_range(j->out, at, SYNC_STEP,
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                SYNC_FILE_RANGE_WAIT_AFTER);
            tell_written(j);
        }
    }
    int err = sync_out(j);
    if (err)
        fail(j, err);
    if (close(j->out) != 0 && errno != EINTR)
        fail(j, -errno);
    tell(j, FILEJOB_DONE, 0);
    _exit(0);
}

/* ---- writing ---- */

/* Waits until a pipe, socket or terminal takes something. It is somebody else's: when the service
 * has gone nobody ends this wait. */
static void await_stream(const struct job *j)
{
    struct pollfd p[2] = {{j->out, POLLOUT, 0}, {j->ctl, POLLRDHUP, 0}};
    while (poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    if (p[1].revents)
        _exit(0);
}

/* All n bytes; counted: they came through the pipe. */
static void write_out(struct job *j, const uint8_t *p, size_t n, bool counted)
{
    while (n > 0) {
        size_t want = n;
        if (!j->regular) {
            await_stream(j);
            want = n < STREAM_STEP ? n : STREAM_STEP;
        }
        ssize_t got = write(j->out, p, want);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            fail(j, got < 0 ? -errno : -EIO);
        if (counted) {
            walk(&j->walk, j->written, p, (size_t)got);
            j->written += (uint64_t)got;
        }
        p += got;
        n -= (size_t)got;
    }
}

/* ---- the file of another child comes first ---- */

/* What was copied of the prefix goes again: a file holds it whole or not at all. */
_Noreturn static void fail_prefix(const struct job *j, off_t start, int err)
{
    if (j->regular && start >= 0 && ftruncate(j->out, start) == 0)
        lseek(j->out, start, SEEK_SET);
    fail(j, err);
}

static void copy_prefix(struct job *j, int sock)
{
    struct pollfd p[2] = {{sock, POLLIN, 0}, {j->ctl, POLLRDHUP, 0}};
    struct filejob_msg source;
    int fds[FILEJOB_FDS];
    while (poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    if (!p[0].revents)
        _exit(0); /* the service has gone, or nobody waits any more */
    if (filejob_recv(sock, 0, &source, fds) <= 0 || fds[0] < 0)
        fail(j, -EPIPE); /* the child that writes it has ended */
    close(sock);
    off_t start = j->regular ? lseek(j->out, 0, SEEK_CUR) : -1;
    for (uint64_t at = 0; at < source.at;) {
        uint64_t left = source.at - at;
        ssize_t n = pread(fds[0], buffer, left < PIECE ? (size_t)left : PIECE, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            fail_prefix(j, start, -errno);
        if (n == 0)
            break; /* somebody has cut it */
        write_out(j, buffer, (size_t)n, false);
        at += (uint64_t)n;
        tell_written(j);
    }
    close(fds[0]);
}

static void share(struct job *j, int sock)
{
    struct stat st;
    struct filejob_msg msg = {.kind = FILEJOB_SOURCE};
    int err = sync_out(j);
    if (!err && fstat(j->out, &st) != 0)
        err = -errno;
    if (!err) {
        msg.at = (uint64_t)st.st_size;
        filejob_send(sock, 0, &msg, &j->out, 1);
    }
    close(sock);
}

/* ---- the loop of a child ---- */

static void take_order(struct job *j)
{
    int fds[FILEJOB_FDS];
    int got = filejob_recv(j->ctl, MSG_DONTWAIT, &j->order, fds);
    if (got == -EAGAIN)
        return;
    if (got <= 0) {
        if (!j->regular)
            _exit(0);
        j->heard_last = true;
        return;
    }
    if (j->order.kind == FILEJOB_PREFIX)
        copy_prefix(j, fds[0]);
    else if (j->order.kind == FILEJOB_FINISH)
        j->every_step = true;
    else
        j->ordered = true;
    j->order_fd = fds[0];
}

static void follow_order(struct job *j)
{
    j->ordered = false;
    if (j->order.kind == FILEJOB_SHARE)
        share(j, j->order_fd);
    else if (j->order.kind == FILEJOB_SYNC)
        sync_out(j);
}

/* Waits for bytes (bit 0) or an order (bit 1). */
static int await(struct job *j)
{
    struct pollfd p[2] = {{j->data, POLLIN, 0},
                          {j->heard_last || j->ordered ? -1 : j->ctl, POLLIN, 0}};
    int n = poll(p, 2, j->told == j->written ? -1 : 0);
    if (n == 0)
        tell_written(j);
    return n <= 0 ? 0 : (p[0].revents ? 1 : 0) | (p[1].revents ? 2 : 0);
}

_Noreturn static void run(struct job *j)
{
    for (;;) {
        if (j->ordered && j->written >= j->order.at) {
            follow_order(j);
            continue;
        }
        int ready = await(j);
        if (ready & 2) {
            take_order(j);
            continue;
        }
        if (!(ready & 1))
            continue;
        size_t want = PIECE;
        if (j->ordered && j->order.at - j->written < want)
            want = (size_t)(j->order.at - j->written);
        ssize_t n = read(j->data, buffer, want);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            finish(j);
        write_out(j, buffer, (size_t)n, true);
        if (j->every_step)
            tell_written(j);
    }
}

/* R161. */
static void create(struct job *j)
{
    char path[PATH_MAX];
    ssize_t n;
    while ((n = recv(j->ctl, path, sizeof(path), 0)) < 0 && errno == EINTR)
        ;
    if (n <= 0 || path[n - 1] != '\0')
        _exit(0);
    j->out = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (j->out < 0 || fchmod(j->out, 0644) != 0) {
        tell(j, FILEJOB_FAILED, -errno);
        _exit(0);
    }
    tell(j, FILEJOB_OPENED, 0);
}

_Noreturn static void child(int ctl, int data)
{
    struct job j = {.ctl = ctl, .data = data, .out = -1, .order_fd = -1};
    struct filejob_msg start;
    struct statx st;
    int fds[FILEJOB_FDS];
    if (filejob_recv(ctl, 0, &start, fds) <= 0)
        _exit(0);
    j.out = fds[0];
    if (start.kind == FILEJOB_CREATE)
        create(&j);
    if (j.out < 0)
        _exit(0);
    j.regular = statx(j.out, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) == 0 &&
                (S_ISREG(st.stx_mode) || S_ISBLK(st.stx_mode));
    run(&j);
}

/* ---- the host ---- */

/* A Ctrl-C or a stop of the unit is for the service: it ends the files, and then these end. */
static void ignore_signals(void)
{
    static const int deaf[] = {SIGTERM, SIGINT,  SIGHUP,  SIGQUIT, SIGPIPE,
                               SIGXFSZ, SIGUSR1, SIGUSR2, SIGCHLD}; /* the last: no zombies */
    struct sigaction sa = {.sa_handler = SIG_IGN};
    sigset_t none;
    for (size_t i = 0; i < sizeof(deaf) / sizeof(deaf[0]); i++)
        sigaction(deaf[i], &sa, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Keeps the socket alone, as descriptor 3. */
static void close_rest(int sock)
{
    int null = open("/dev/null", O_RDWR);
    if (sock != 3)
        dup2(sock, 3);
    for (int fd = 0; fd < 3; fd++) {
        if (null >= 0)
            dup2(null, fd);
        else
            close(fd);
    }
    if (close_range(4, ~0U, 0) != 0) {
        long max = sysconf(_SC_OPEN_MAX);
        for (int fd = 4; fd < max && fd < 65536; fd++)
            close(fd);
    }
}

/* Nothing of what the service was started with is needed, and whoever looks for a process by its
 * environment (/proc/PID/environ) means the service. */
static void forget_environment(void)
{
    for (char **e = environ; e && *e; e++)
        memset(*e, 0, strlen(*e));
}

_Noreturn void filejob_host(int sock)
{
    struct filejob_msg msg;
    int fds[FILEJOB_FDS];
    ignore_signals();
    close_rest(sock);
    forget_environment();
    prctl(PR_SET_NAME, NAME);
    while (filejob_recv(3, 0, &msg, fds) > 0) {
        pid_t pid = fork();
        if (pid == 0) {
            close(3);
            child(fds[0], fds[1]);
        }
        if (pid < 0) {
            msg = (struct filejob_msg){.kind = FILEJOB_FAILED, .err = -errno};
            filejob_send(fds[0], MSG_DONTWAIT, &msg, NULL, 0);
        }
        for (int i = 0; i < FILEJOB_FDS; i++)
            close(fds[i]);
    }
    _exit(0);
}
