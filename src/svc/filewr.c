/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a session's packets into a file descriptor that somebody else chose. A batch is gathered
 * as pieces that point into the trace buffer and goes out with as few writev calls as the kernel
 * allows; only what a slow target does not take at once is copied aside, and then the writer takes
 * no new batch until that is gone. So a target holds up its own session and nobody else, and costs
 * one batch of memory at most.
 *
 * A file is written by a process of its own, because a disk may stall: to us it is a pipe, which
 * that process empties into the file, and a socket on which it tells how far it is, how it failed
 * and when it is done. After finish the pipe is closed and that last word is waited for. A writer
 * that is freed earlier leaves the process to itself: what is in the pipe still gets written.
 *
 * The descriptor may be shared with the consumer that passed it: its flags are never changed. A
 * pipe or a terminal is opened a second time through /proc to be non-blocking; where that is not
 * allowed, a pipe is written with a flag for the one call, as a socket is, and a terminal is
 * refused. SIGPIPE and SIGXFSZ are taken back before anybody sees them.
 *
 * Invariant: what is in a regular file ends at a packet boundary; svc/filejob sees to that.
 */
#include "svc/filewr.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/bytes.h"
#include "reactor/charge.h"
#include "reactor/deadline.h"
#include "reactor/err.h"
#include "reactor/list.h"
#include "reactor/reactor.h"
#include "reactor/watch.h"
#include "svc/filehost.h"
#include "svc/filejob.h"

#define PACKET_TAG  0x0A /* Trace.packet, length-delimited (R162) */
#define FRAME_MAX   11   /* the tag and a 64-bit varint */
#define FRAME_BLOCK 1024 /* frames of one block of frame memory */
#define IOV_STEP    1024 /* pieces of one call: IOV_MAX of Linux */

struct frame {
    uint8_t bytes[FRAME_MAX];
};

/* How a descriptor is written to without waiting. A file: through the pipe of its process. */
enum target { TARGET_FILE, TARGET_STREAM, TARGET_SOCKET };

struct filewr {
    struct packet_sink sink;
    struct reactor *reactor; /* borrow */
    struct filewr_options opt;
    int fd; /* own: opt.fd, the second opening of it, or the pipe; -1 once closed */
    enum target target;
    enum filewr_state state;
    int error; /* of FAILED */
    bool finishing, done, full;
    uint64_t written;  /* bytes that went out or are held */
    uint64_t patience; /* ns; 0: for ever */

    /* Of a file. */
    int ctl; /* own: to its process; -1: none, or no longer */
    struct watch report;
    uint64_t confirmed; /* of `written`, what its process says is in the file */
    bool closed;        /* its process has said that it is done */
    struct charge charge;

    /* The batch that is being gathered; the memory stays from batch to batch. */
    struct iovec *iov; /* own */
    size_t niov, iov_cap;
    struct frame **frames; /* own: blocks that never move, since iov points into them */
    size_t nframes, frame_blocks;
    uint64_t batch; /* bytes */

    uint8_t *held; /* own: what the target did not take yet */
    size_t held_n, held_at;
    struct watch watch;
    struct deadline give_up;
    struct reactor_hook reap;
};

/* ---- life ---- */

static void on_writable(void *arg, unsigned event);
static void on_report(void *arg, unsigned event);
static void on_give_up(void *arg);
static int put(struct packet_sink *sink, const struct packet *pkt);

static void filewr_reap(void *arg)
{
    struct filewr *w = arg;
    for (size_t i = 0; i < w->frame_blocks; i++)
        free(w->frames[i]);
    free(w->frames);
    free(w->iov);
    free(w->held);
    free(w);
}

/* What *fd is. A pipe or a terminal is replaced by a second opening that does not block, where that
 * is allowed. 0, or -errno with *fd as it was: then it cannot be written to without waiting for its
 * reader. Asks the file system nothing. */
static int inspect(int *fd, enum target *target)
{
    struct statx st;
    char path[40];
    if (statx(*fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) != 0)
        return -errno;
    *target = S_ISSOCK(st.stx_mode) ? TARGET_SOCKET : TARGET_FILE;
    if (!S_ISFIFO(st.stx_mode) && !S_ISCHR(st.stx_mode))
        return 0;
    *target = TARGET_STREAM;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
    int mine = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (mine < 0) /* no /proc, or not ours to open */
        return S_ISFIFO(st.stx_mode) || (fcntl(*fd, F_GETFL) & O_NONBLOCK) ? 0 : -errno;
    close(*fd);
    *fd = mine;
    return 0;
}

static int order(const struct filewr *w, enum filejob_kind kind, int fd)
{
    const struct filejob_msg msg = {.kind = kind, .at = w->written};
    return filejob_send(w->ctl, MSG_DONTWAIT, &msg, &fd, fd >= 0 ? 1 : 0);
}

/* A process that writes to w->fd: w->fd is its pipe then. */
static int start_job(struct filewr *w)
{
    int data, ctl, err = 0;
    if (w->opt.book)
        err = charge_take(w->opt.book, &w->charge, w->opt.uid, CHARGE_FILES, 1);
    if (!err)
        err = filehost_child(w->opt.host, &data, &ctl);
    if (err)
        return err;
    w->ctl = ctl;
    if (w->opt.path)
        err = filejob_send_create(ctl, w->opt.path);
    else
        err = order(w, FILEJOB_START, w->fd);
    if (!err && w->opt.prefix >= 0)
        err = order(w, FILEJOB_PREFIX, w->opt.prefix);
    if (w->fd >= 0)
        close(w->fd);
    w->fd = data;
    w->state = w->opt.path ? FILEWR_OPENING : FILEWR_OPEN;
    w->target = TARGET_FILE;
    watch_init(&w->report, w->reactor, "file report", ctl, on_report, w);
    return err ? err : watch_set(&w->report, WATCH_READ);
}

static void close_target(struct filewr *w)
{
    watch_fini(&w->watch);
    watch_fini(&w->report);
    deadline_cancel(&w->give_up);
    if (w->fd >= 0)
        close(w->fd);
    if (w->ctl >= 0)
        filehost_abandon(w->opt.host, w->reactor, w->ctl, &w->charge);
    charge_release(&w->charge);
    w->fd = -1;
    w->ctl = -1;
}

int filewr_new(struct reactor *r, const struct filewr_options *opt, struct filewr **out)
{
    struct filewr *w = alloc_new(struct filewr);
    w->sink.put = put;
    w->reactor = r;
    w->opt = *opt;
    w->fd = opt->fd;
    w->ctl = -1;
    watch_init(&w->report, r, "file report", -1, on_report, w);
    deadline_init(&w->give_up, r, "file writer gives up", on_give_up, w);
    reactor_hook_init(&w->reap, "file writer", filewr_reap, w);
    w->state = FILEWR_OPEN;
    w->target = TARGET_FILE;
    int err = opt->path ? 0 : inspect(&w->fd, &w->target);
    if (!err && (w->target == TARGET_FILE || opt->prefix >= 0))
        err = start_job(w);
    if (opt->prefix >= 0)
        close(opt->prefix);
    w->opt.path = NULL;
    watch_init(&w->watch, r, "file writer", w->fd, on_writable, w);
    if (err) {
        filewr_free(w);
        return err;
    }
    *out = w;
    return 0;
}

void filewr_free(struct filewr *w)
{
    if (w == NULL)
        return;
    close_target(w);
    reactor_undefer(w->reactor, w);
    reactor_reap_later(w->reactor, &w->reap);
}

void filewr_hand_over(struct filewr *w, void (*ready)(void *arg, struct filewr *w), void *arg)
{
    w->opt.ready = ready;
    w->opt.arg = arg;
}

enum filewr_state filewr_state(const struct filewr *w)
{
    return w->state;
}

int filewr_error(const struct filewr *w)
{
    return w->error;
}

const char *filewr_why(const struct filewr *w)
{
    if (w->error == -ETIMEDOUT)
        return "nothing was taken for too long";
    if (w->error == -EPIPE && w->target == TARGET_FILE)
        return "the process that writes it was ended";
    return err_text(w->error);
}

bool filewr_on_disk(const struct filewr *w)
{
    return w->target == TARGET_FILE;
}

bool filewr_handed_on(const struct filewr *w)
{
    return w->finishing && w->ctl >= 0 && w->fd < 0;
}

uint64_t filewr_written(const struct filewr *w)
{
    return w->written;
}

uint64_t filewr_backlog(const struct filewr *w)
{
    return w->target == TARGET_FILE && w->ctl >= 0 ? w->written - w->confirmed : 0;
}

bool filewr_done(const struct filewr *w)
{
    return w->done;
}

/* ---- gathering ---- */

static bool grow(void *array, size_t *cap, size_t want, size_t size)
{
    if (want <= *cap)
        return true;
    size_t n = *cap == 0 ? 256 : *cap;
    while (n < want)
        n *= 2;
    void *p;
    memcpy(&p, array, sizeof(p));
    p = alloc_try_resize(p, n, size);
    if (p == NULL)
        return false;
    memcpy(array, &p, sizeof(p));
    *cap = n;
    return true;
}

static struct frame *next_frame(struct filewr *w)
{
    size_t block = w->nframes / FRAME_BLOCK;
    if (block == w->frame_blocks) {
        struct frame **blocks = alloc_try_resize(w->frames, block + 1, sizeof(struct frame *));
        if (blocks == NULL)
            return NULL;
        w->frames = blocks;
        blocks[block] = alloc_try(FRAME_BLOCK * sizeof(struct frame));
        if (blocks[block] == NULL)
            return NULL;
        w->frame_blocks++;
    }
    return &w->frames[block][w->nframes % FRAME_BLOCK];
}

static size_t fill_frame(struct frame *f, uint64_t size)
{
    f->bytes[0] = PACKET_TAG;
    return (size_t)(bytes_put_varint(f->bytes + 1, size) - f->bytes);
}

struct packet_sink *filewr_begin(struct filewr *w)
{
    w->niov = 0;
    w->nframes = 0;
    w->batch = 0;
    return &w->sink;
}

static int put(struct packet_sink *sink, const struct packet *pkt)
{
    struct filewr *w = list_entry(sink, struct filewr, sink);
    if (w->state != FILEWR_OPEN || w->full)
        return ERR_QUOTA;
    struct frame *frame = next_frame(w);
    if (frame == NULL || !grow(&w->iov, &w->iov_cap, w->niov + 1 + pkt->nparts, sizeof(*w->iov)))
        return -ENOMEM;
    size_t head = pkt->continues ? 0 : fill_frame(frame, pkt->size + pkt->follows);
    uint64_t end = w->batch + head + pkt->size;
    if (w->opt.max_size > 0 && !pkt->continues &&
        w->written + end + pkt->follows >= w->opt.max_size) {
        w->full = true;
        return ERR_QUOTA;
    }
    if (head != 0)
        w->iov[w->niov++] = (struct iovec){frame->bytes, head};
    for (size_t i = 0; i < pkt->nparts; i++)
        w->iov[w->niov++] = pkt->parts[i];
    w->nframes++;
    w->batch = end;
    return 0;
}

/* ---- writing ---- */

/* writev that cannot kill the process: a SIGPIPE, or a SIGXFSZ of a limit on file sizes, that this
 * call raises is consumed here. flags: of pwritev2(2). */
static ssize_t writev_quiet(int fd, const struct iovec *iov, int n, int flags)
{
    sigset_t deadly, before, pending;
    sigemptyset(&deadly);
    sigaddset(&deadly, SIGPIPE);
    sigaddset(&deadly, SIGXFSZ);
    sigpending(&pending);
    bool was_pending = sigismember(&pending, SIGPIPE) == 1 || sigismember(&pending, SIGXFSZ) == 1;
    pthread_sigmask(SIG_BLOCK, &deadly, &before);
    ssize_t got = pwritev2(fd, iov, n, -1, flags);
    int err = errno;
    if (got < 0 && (err == EPIPE || err == EFBIG) && !was_pending) {
        static const struct timespec now = {0, 0};
        while (sigtimedwait(&deadly, NULL, &now) < 0 && errno == EINTR)
            ;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = err;
    return got;
}

static ssize_t write_stream(int fd, const struct iovec *iov, int n)
{
    if (fcntl(fd, F_GETFL) & O_NONBLOCK)
        return writev_quiet(fd, iov, n, 0);
    ssize_t got = writev_quiet(fd, iov, n, RWF_NOWAIT);
    if (got >= 0 || errno != EOPNOTSUPP)
        return got;
    /* Kernels that do not know the flag for pipes (before 6.4): ask first, and write no more than a
     * pipe with room is bound to take. Whoever fills the pipe in between can still hold us. */
    struct pollfd p = {fd, POLLOUT, 0};
    if (poll(&p, 1, 0) == 0) {
        errno = EAGAIN;
        return -1;
    }
    struct iovec part = iov[0];
    if (part.iov_len > PIPE_BUF)
        part.iov_len = PIPE_BUF;
    return writev_quiet(fd, &part, 1, 0);
}

/* Writes some of the n pieces (at least 1). Bytes taken; -EAGAIN when it takes nothing now; -errno.
 * Never a signal. */
static ssize_t write_some(int fd, enum target target, struct iovec *iov, size_t n)
{
    int count = (int)(n < IOV_STEP ? n : IOV_STEP);
    for (;;) {
        ssize_t got;
        if (target == TARGET_SOCKET) {
            struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)count};
            got = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        } else if (target == TARGET_STREAM) {
            got = write_stream(fd, iov, count);
        } else {
            got = writev_quiet(fd, iov, count, 0);
        }
        if (got > 0)
            return got;
        if (got == 0)
            return -EIO; /* R169: a write that makes no progress ends the file */
        if (errno != EINTR)
            return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    }
}

/* Moves *iov and *n past `bytes` bytes. */
static void advance(struct iovec **iov, size_t *n, size_t bytes)
{
    while (*n > 0 && bytes >= (*iov)->iov_len) {
        bytes -= (*iov)->iov_len;
        (*iov)++;
        (*n)--;
    }
    if (*n > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + bytes;
        (*iov)->iov_len -= bytes;
    }
}

/* Copies what is left of the batch aside and waits for room. */
static int hold(struct filewr *w, const struct iovec *iov, size_t n, uint64_t left)
{
    w->held = alloc_try((size_t)left);
    if (w->held == NULL)
        return -ENOMEM;
    w->held_n = 0;
    w->held_at = 0;
    for (size_t i = 0; i < n; i++) {
        if (iov[i].iov_len > 0)
            memcpy(w->held + w->held_n, iov[i].iov_base, iov[i].iov_len);
        w->held_n += iov[i].iov_len;
    }
    w->state = FILEWR_BUSY;
    if (w->patience)
        deadline_arm(&w->give_up, w->patience);
    return watch_set(&w->watch, WATCH_WRITE);
}

/* Nothing more goes out; the bytes that were kept are what was written. */
static void broken(struct filewr *w, int err, uint64_t kept)
{
    w->state = FILEWR_FAILED;
    w->error = err;
    w->written = kept;
    free(w->held);
    w->held = NULL;
    close_target(w);
}

/* The process of the file has something to say, or is gone. */
static void take_reports(struct filewr *w)
{
    struct filejob_msg msg;
    int fds[FILEJOB_FDS];
    while (w->ctl >= 0 && !w->closed) {
        int got = filejob_recv(w->ctl, MSG_DONTWAIT, &msg, fds);
        for (int i = 0; i < FILEJOB_FDS; i++) {
            if (fds[i] >= 0)
                close(fds[i]);
        }
        if (got == -EAGAIN)
            return;
        if (got <= 0 || msg.at > w->written) {
            broken(w, -EPIPE, w->confirmed);
        } else if (msg.kind == FILEJOB_FAILED) {
            broken(w, msg.err, msg.at);
        } else if (msg.kind == FILEJOB_OPENED && w->state == FILEWR_OPENING) {
            w->state = FILEWR_OPEN;
        } else {
            w->confirmed = msg.at;
            w->closed = msg.kind == FILEJOB_DONE;
            if (deadline_armed(&w->give_up))
                deadline_arm(&w->give_up, w->patience);
        }
    }
}

/* A write was refused. Why, its process has said before it closed the pipe, if it could. */
static void refused(struct filewr *w, int err, uint64_t written)
{
    if (w->target == TARGET_FILE)
        take_reports(w);
    if (w->state != FILEWR_FAILED && !w->closed)
        broken(w, err, w->target == TARGET_FILE ? w->confirmed : written);
}

int filewr_commit(struct filewr *w)
{
    struct iovec *iov = w->iov;
    size_t n = w->niov;
    uint64_t done = 0;
    while (w->state == FILEWR_OPEN && done < w->batch) {
        ssize_t got = write_some(w->fd, w->target, iov, n);
        int rc = got < 0 ? (int)got : 0;
        if (got > 0) {
            done += (uint64_t)got;
            w->written += (uint64_t)got;
            advance(&iov, &n, (size_t)got);
        } else if (rc == -EAGAIN) {
            rc = hold(w, iov, n, w->batch - done);
            if (rc == 0) {
                w->written += w->batch - done;
                break;
            }
        }
        if (rc != 0) {
            refused(w, rc, w->written);
            filewr_begin(w);
            return w->error;
        }
    }
    filewr_begin(w);
    if (w->full && w->state == FILEWR_OPEN)
        w->state = FILEWR_FULL;
    return 0;
}

/* ---- later ---- */

void filewr_drained(struct filewr *w)
{
    if (w->opt.sync_each && w->ctl >= 0)
        order(w, FILEJOB_SYNC, -1); /* while very many wait, this one changes nothing */
}

int filewr_share(struct filewr *w, int sock)
{
    int err = w->ctl >= 0 && w->fd >= 0 ? order(w, FILEJOB_SHARE, sock) : -EBADF;
    close(sock);
    return err;
}

/* Closes; a file when its process has said that it is done. The last call in whoever makes it: the
 * owner may free the writer from `ready`. */
static void end(struct filewr *w)
{
    if (w->done)
        return;
    if (w->ctl >= 0 && !w->closed) {
        order(w, FILEJOB_FINISH, -1);
        watch_fini(&w->watch);
        if (w->fd >= 0)
            close(w->fd);
        w->fd = -1;
        deadline_arm(&w->give_up, w->patience);
        return; /* on_report */
    }
    close_target(w);
    w->done = true;
    w->opt.ready(w->opt.arg, w);
}

/* Nothing is held any more, or never will be written. */
static void settle(struct filewr *w)
{
    deadline_cancel(&w->give_up);
    watch_set(&w->watch, 0);
    if (w->finishing)
        end(w);
    else
        w->opt.ready(w->opt.arg, w);
}

static void on_writable(void *arg, unsigned event)
{
    struct filewr *w = arg;
    (void)event;
    struct iovec rest = {w->held + w->held_at, w->held_n - w->held_at};
    ssize_t got = write_some(w->fd, w->target, &rest, 1);
    if (got == -EAGAIN)
        return;
    if (got < 0) {
        refused(w, (int)got, w->written - rest.iov_len);
        settle(w);
        return;
    }
    w->held_at += (size_t)got;
    if (w->patience)
        deadline_arm(&w->give_up, w->patience);
    if (w->held_at < w->held_n)
        return;
    free(w->held);
    w->held = NULL;
    w->state = w->full ? FILEWR_FULL : FILEWR_OPEN;
    settle(w);
}

static void on_report(void *arg, unsigned event)
{
    struct filewr *w = arg;
    (void)event;
    bool opening = w->state == FILEWR_OPENING;
    take_reports(w);
    if (w->closed || w->state == FILEWR_FAILED || (opening && w->state == FILEWR_OPEN))
        settle(w);
}

static void on_give_up(void *arg)
{
    struct filewr *w = arg;
    refused(w, -ETIMEDOUT, w->written - (w->held ? w->held_n - w->held_at : 0));
    settle(w);
}

static void finish_now(void *arg)
{
    struct filewr *w = arg;
    reactor_slice_is(w->reactor, "end of a file");
    end(w);
}

void filewr_hurry(struct filewr *w, uint64_t patience_ns)
{
    w->patience = patience_ns;
    if (w->state == FILEWR_BUSY && !deadline_armed(&w->give_up))
        deadline_arm(&w->give_up, patience_ns);
}

void filewr_finish(struct filewr *w, uint64_t patience_ns)
{
    if (w->finishing)
        return;
    filewr_hurry(w, patience_ns);
    w->finishing = true;
    if (w->state != FILEWR_BUSY)
        reactor_defer(w->reactor, finish_now, w);
}
