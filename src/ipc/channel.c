/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connected socket. Owns the descriptor, the receive buffer, the output queue with the
 * duplicates of descriptors that wait in it, and the one received descriptor nobody took yet.
 *
 * States: open -> (failing ->) over. A connection whose output is lost (peer gone, or too slow) is
 * "failing": nothing is sent any more, but what the peer had written before is still read and
 * delivered (R110), up to a bound; then `closed` runs. Invariants: no callback runs from inside a
 * channel_send*; no callback at all after `over`; the struct lives until the reactor reaps it, so
 * code that has called back looks at ch->over before it goes on.
 */

#include "ipc/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "ipc/frame.h"
#include "reactor/alloc.h"
#include "reactor/charge.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/reactor.h"
#include "reactor/watch.h"

#define OUT_MIN    4096u
#define TRIM_NS    (10 * CHRONO_SEC) /* buffers are looked at this often while there is traffic */
#define KEEP_BYTES 16384u            /* buffers up to this size are worth no trim and no charge */

/* A descriptor that waits for the byte at stream position `at`. */
struct channel_fd {
    uint64_t at;
    int fd; /* own */
};

struct channel {
    struct reactor *reactor;       /* borrow */
    const struct channel_ops *ops; /* borrow */
    void *arg;                     /* borrow */
    struct channel_conf conf;
    struct watch watch;
    struct reactor_hook write_hook;
    struct reactor_hook reap_hook;
    struct deadline stuck;
    struct deadline trim;
    int fd;    /* own; -1 when over */
    int in_fd; /* own; the slot of R64, -1 when empty */

    struct frame_reader in;

    uint8_t *out;    /* own: out_head .. out_tail wait for the kernel */
    size_t out_size; /* allocated */
    size_t out_head;
    size_t out_tail;
    uint64_t out_sent;          /* stream position of out_head */
    uint64_t out_mark;          /* the stuck deadline is about bytes before this */
    struct channel_fd *out_fds; /* own; in stream order */
    size_t out_fds_count;
    size_t out_fds_size;

    size_t last_bytes; /* failing: what may still be read */
    int reason;        /* failing: why */
    bool failing;
    bool over;
    bool paused;
    bool full;    /* passed the high mark, `drained` is owed */
    bool blocked; /* the kernel refused the bytes that wait */
};

static void failing_pass(void *arg);

/* ---- end of life ---- */

static void reap(void *arg)
{
    struct channel *ch = arg;
    frame_reader_fini(&ch->in);
    free(ch->out);
    free(ch->out_fds);
    free(ch);
}

/* Charges what both queues take, with an output queue of that size. 0 or ERR_BACKLOG. */
static int hold(struct channel *ch, size_t out_size)
{
    size_t in = ch->in.cap > KEEP_BYTES ? ch->in.cap : 0;
    size_t out = out_size > KEEP_BYTES ? out_size : 0;
    if (ch->conf.held == NULL)
        return 0;
    return charge_resize(ch->conf.held, in + out) == 0 ? 0 : ERR_BACKLOG;
}

/* Lets go of everything but the memory. */
static void shut(struct channel *ch)
{
    ch->over = true;
    if (ch->conf.held != NULL)
        charge_resize(ch->conf.held, 0);
    ch->conf.held = NULL;
    watch_fini(&ch->watch);
    deadline_cancel(&ch->stuck);
    deadline_cancel(&ch->trim);
    reactor_hook_cancel(&ch->write_hook);
    reactor_undefer(ch->reactor, ch);
    close(ch->fd);
    ch->fd = -1;
    if (ch->in_fd >= 0)
        close(ch->in_fd);
    ch->in_fd = -1;
    for (size_t i = 0; i < ch->out_fds_count; i++)
        close(ch->out_fds[i].fd);
    ch->out_fds_count = 0;
    reactor_reap_later(ch->reactor, &ch->reap_hook);
}

/* From the loop only. A descriptor that came with the last frames is still in its slot for the
 * handlers that ran before, not for `closed`. */
static void end(struct channel *ch, int reason)
{
    if (ch->over)
        return;
    shut(ch);
    ch->ops->closed(ch->arg, ch, reason);
}

static void update_watch(struct channel *ch)
{
    unsigned events = 0;
    if (!ch->paused)
        events |= WATCH_READ;
    if (!ch->failing && ch->out_tail != ch->out_head)
        events |= WATCH_WRITE;
    int rc = watch_set(&ch->watch, events);
    if (rc != 0 && !ch->failing) {
        ch->failing = true;
        ch->reason = rc;
        reactor_defer(ch->reactor, failing_pass, ch);
    }
}

static void drop_output(struct channel *ch)
{
    ch->out_sent += ch->out_tail - ch->out_head;
    ch->out_head = ch->out_tail = 0;
    for (size_t i = 0; i < ch->out_fds_count; i++)
        close(ch->out_fds[i].fd);
    ch->out_fds_count = 0;
    ch->blocked = false;
    deadline_cancel(&ch->stuck);
}

/* The output is lost. What the peer wrote before is read first, from the loop. */
static void fail(struct channel *ch, int reason)
{
    if (ch->over || ch->failing)
        return;
    ch->failing = true;
    ch->reason = reason;
    ch->last_bytes = DEFAULTS_IPC_LAST_READ;
    drop_output(ch);
    update_watch(ch);
    reactor_defer(ch->reactor, failing_pass, ch);
}

/* Errors by which a peer's end shows on a socket. */
static int socket_reason(int error)
{
    switch (error) {
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
        return ERR_HANGUP;
    default:
        return -error;
    }
}

/* ---- output ---- */

static size_t waiting(const struct channel *ch)
{
    return ch->out_tail - ch->out_head;
}

/* Starts the clock for the bytes that wait now (R22): later ones do not prolong it. */
static void arm_stuck(struct channel *ch)
{
    ch->out_mark = ch->out_sent + waiting(ch);
    if (ch->conf.stuck_ns != UINT64_MAX)
        deadline_arm(&ch->stuck, ch->conf.stuck_ns);
}

static void on_stuck(void *arg)
{
    fail(arg, ERR_STALLED);
}

/* sendmsg with at most one descriptor; bytes taken or -errno. */
static ssize_t send_some(struct channel *ch, const struct iovec *iov, int iovcnt, int fd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovcnt};
    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = sizeof(control.space);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(ch->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static bool would_block(ssize_t rc)
{
    return rc == -EAGAIN || rc == -EWOULDBLOCK || rc == -ENOBUFS;
}

static void pop_out_fd(struct channel *ch)
{
    close(ch->out_fds[0].fd);
    ch->out_fds_count--;
    memmove(ch->out_fds, ch->out_fds + 1, ch->out_fds_count * sizeof(ch->out_fds[0]));
}

/* Sends what waits until the kernel has enough. A send never reaches over the position of a
 * descriptor, so each one leaves with the first byte of its own frame (R63). */
static void write_out(struct channel *ch)
{
    while (!ch->failing && waiting(ch) != 0) {
        int fd = -1;
        size_t n = waiting(ch);
        size_t next = 0;
        if (ch->out_fds_count != 0 && ch->out_fds[0].at == ch->out_sent) {
            fd = ch->out_fds[0].fd;
            next = 1;
        }
        if (next < ch->out_fds_count && ch->out_fds[next].at - ch->out_sent < n)
            n = (size_t)(ch->out_fds[next].at - ch->out_sent);
        struct iovec iov = {ch->out + ch->out_head, n};
        ssize_t rc = send_some(ch, &iov, 1, fd);
        if (would_block(rc))
            break;
        if (rc < 0) {
            fail(ch, socket_reason((int)-rc));
            return;
        }
        if (fd >= 0)
            pop_out_fd(ch);
        ch->out_head += (size_t)rc;
        ch->out_sent += (uint64_t)rc;
    }
    ch->blocked = waiting(ch) != 0;
    if (!ch->blocked) {
        ch->out_head = ch->out_tail = 0;
        deadline_cancel(&ch->stuck);
    } else if (!deadline_armed(&ch->stuck) || ch->out_sent >= ch->out_mark) {
        arm_stuck(ch);
    }
    update_watch(ch);
}

/* From the loop: pays an owed `drained`. */
static void tell_drained(struct channel *ch)
{
    if (ch->over || !ch->full || waiting(ch) > ch->conf.out_low)
        return;
    ch->full = false;
    if (ch->ops->drained != NULL && !ch->failing)
        ch->ops->drained(ch->arg, ch);
}

static void on_write_step(void *arg)
{
    struct channel *ch = arg;
    write_out(ch);
    tell_drained(ch);
}

static void note_traffic(struct channel *ch)
{
    if (!deadline_armed(&ch->trim) && (ch->in.cap > KEEP_BYTES || ch->out_size > KEEP_BYTES))
        deadline_arm(&ch->trim, TRIM_NS);
}

static void on_trim(void *arg)
{
    struct channel *ch = arg;
    bool traffic = frame_reader_trim(&ch->in);
    if (waiting(ch) == 0 && ch->out_size > KEEP_BYTES) {
        alloc_free(&ch->out);
        ch->out_size = 0;
    }
    (void)hold(ch, ch->out_size); /* it has not grown */
    if (traffic || waiting(ch) != 0)
        note_traffic(ch);
}

/* Room for n more bytes behind out_tail. */
static int grow_out(struct channel *ch, size_t n)
{
    if (ch->out_size - ch->out_tail >= n)
        return 0;
    if (ch->out_head != 0 && ch->out_head >= waiting(ch)) {
        memmove(ch->out, ch->out + ch->out_head, waiting(ch));
        ch->out_tail -= ch->out_head;
        ch->out_head = 0;
        if (ch->out_size - ch->out_tail >= n)
            return 0;
    }
    size_t size = ch->out_size < OUT_MIN ? OUT_MIN : ch->out_size;
    while (size - ch->out_tail < n)
        size *= 2;
    int rc = hold(ch, size);
    if (rc != 0)
        return rc;
    uint8_t *out = alloc_try_resize(ch->out, size, 1);
    if (out == NULL) {
        (void)hold(ch, ch->out_size);
        return -ENOMEM;
    }
    ch->out = out;
    ch->out_size = size;
    note_traffic(ch);
    return 0;
}

/* Whether one more frame may be queued: the cap is looked at before it, so one frame may reach over
 * it, and after asking the kernel once. */
static int admit(struct channel *ch)
{
    if (ch->over || ch->failing)
        return ch->failing && ch->reason != 0 ? ch->reason : ERR_HANGUP;
    if (waiting(ch) < ch->conf.out_cap)
        return 0;
    write_out(ch);
    if (!ch->failing && waiting(ch) >= ch->conf.out_cap)
        fail(ch, ERR_STALLED);
    return ch->failing ? ch->reason : 0;
}

static int queue_fd(struct channel *ch, int fd)
{
    if (ch->out_fds_count == ch->out_fds_size) {
        size_t size = ch->out_fds_size == 0 ? 2 : ch->out_fds_size * 2;
        struct channel_fd *fds = alloc_try_resize(ch->out_fds, size, sizeof(*fds));
        if (fds == NULL)
            return -ENOMEM;
        ch->out_fds = fds;
        ch->out_fds_size = size;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -errno;
    ch->out_fds[ch->out_fds_count++] =
        (struct channel_fd){.at = ch->out_sent + waiting(ch), .fd = copy};
    return 0;
}

uint8_t *channel_room(struct channel *ch, size_t n)
{
    if (admit(ch) != 0)
        return NULL;
    int rc = grow_out(ch, n);
    if (rc != 0) {
        fail(ch, rc);
        return NULL;
    }
    return ch->out + ch->out_tail;
}

int channel_used(struct channel *ch, size_t n, int fd)
{
    if (ch->over || ch->failing)
        return ch->failing && ch->reason != 0 ? ch->reason : ERR_HANGUP;
    if (n == 0)
        return 0;
    if (fd >= 0 && ch->conf.want_fds) {
        int rc = queue_fd(ch, fd);
        if (rc != 0) {
            fail(ch, rc);
            return rc;
        }
    }
    ch->out_tail += n;
    if (waiting(ch) >= ch->conf.out_high)
        ch->full = true;
    reactor_write_later(ch->reactor, &ch->write_hook);
    return 0;
}

int channel_send(struct channel *ch, struct bytes_view frames, int fd)
{
    uint8_t *p = channel_room(ch, frames.n);
    if (p == NULL)
        return ch->failing && ch->reason != 0 ? ch->reason : ERR_HANGUP;
    if (frames.n != 0)
        memcpy(p, frames.p, frames.n);
    return channel_used(ch, frames.n, fd);
}

/* Queues what is left of iov after `skip` bytes. */
static int queue_rest(struct channel *ch, const struct iovec *iov, int iovcnt, size_t skip, int fd)
{
    size_t total = 0;
    for (int i = 0; i < iovcnt; i++)
        total += iov[i].iov_len;
    uint8_t *p = channel_room(ch, total - skip);
    if (p == NULL)
        return ch->failing && ch->reason != 0 ? ch->reason : ERR_HANGUP;
    for (int i = 0; i < iovcnt; i++) {
        size_t n = iov[i].iov_len;
        if (skip >= n) {
            skip -= n;
            continue;
        }
        memcpy(p, (const uint8_t *)iov[i].iov_base + skip, n - skip);
        p += n - skip;
        skip = 0;
    }
    return channel_used(ch, (size_t)(p - (ch->out + ch->out_tail)), fd);
}

int channel_sendv(struct channel *ch, const struct iovec *iov, int iovcnt, int fd)
{
    int rc = admit(ch);
    if (rc != 0)
        return rc;
    if (!ch->conf.want_fds)
        fd = -1;
    if (waiting(ch) != 0 && !ch->blocked) /* queued in this tick, not yet tried */
        write_out(ch);
    if (ch->failing)
        return ch->reason;
    size_t sent = 0;
    if (waiting(ch) == 0) {
        ssize_t n = send_some(ch, iov, iovcnt, fd);
        if (n < 0 && !would_block(n)) {
            fail(ch, socket_reason((int)-n));
            return ch->reason;
        }
        sent = n < 0 ? 0 : (size_t)n;
        ch->out_sent += sent;
        if (sent != 0)
            fd = -1;
    }
    size_t total = 0;
    for (int i = 0; i < iovcnt; i++)
        total += iov[i].iov_len;
    if (sent == total) {
        if (ch->full)
            reactor_write_later(ch->reactor, &ch->write_hook);
        return 0;
    }
    return queue_rest(ch, iov, iovcnt, sent, fd);
}

size_t channel_waiting(const struct channel *ch)
{
    return waiting(ch);
}

bool channel_is_full(const struct channel *ch)
{
    return ch->full && !ch->over && !ch->failing;
}

void channel_flush(struct channel *ch)
{
    if (!ch->over && !ch->failing)
        write_out(ch);
}

/* ---- input ---- */

/* Puts received descriptors into the slot: the first is kept and replaces an old one (R64, R66). */
static void keep_fds(struct channel *ch, struct msghdr *msg)
{
    bool first = true;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (!first) {
                close(fd);
                continue;
            }
            if (ch->in_fd >= 0)
                close(ch->in_fd);
            ch->in_fd = fd;
            first = false;
        }
    }
}

/* One recvmsg of at most max bytes. Bytes read, 0 at the end, -EAGAIN, or what ends the connection
 * in *reason with -EIO. */
static ssize_t receive(struct channel *ch, size_t max, bool *got_fds, int *reason)
{
    uint8_t *p = NULL;
    size_t room = 0;
    size_t cap = ch->in.cap;
    *reason = frame_reader_space(&ch->in, &p, &room);
    if (*reason == 0 && ch->in.cap != cap)
        *reason = hold(ch, ch->out_size);
    if (*reason != 0)
        return -EIO;
    /* Room for two on 64-bit machines, as upstream has it: with three the kernel says that it cut
     * the list (R66). */
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec iov = {p, room < max ? room : max};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    msg.msg_control = control.space;
    msg.msg_controllen = sizeof(control.space);
    ssize_t n;
    do
        n = recvmsg(ch->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return -EAGAIN;
        *reason = socket_reason(errno);
        return -EIO;
    }
    *got_fds = msg.msg_controllen != 0;
    if (msg.msg_controllen != 0)
        keep_fds(ch, &msg);
    if ((msg.msg_flags & MSG_CTRUNC) != 0) {
        *reason = ERR_BAD_FD;
        return -EIO;
    }
    frame_reader_filled(&ch->in, (size_t)n);
    return n;
}

/* Hands over complete frames. False when that must stop: paused, over, or a bad header. */
static bool deliver(struct channel *ch)
{
    struct bytes_view payload;
    int rc = 0;
    while (!ch->over && !ch->paused && (rc = frame_reader_next(&ch->in, &payload)) == 0)
        ch->ops->frame(ch->arg, ch, payload);
    if (ch->over || ch->paused)
        return false;
    if (rc > 0) {
        end(ch, rc);
        return false;
    }
    return true;
}

/* Reads within the budget; level-triggered readiness brings the rest in the next tick. Returns true
 * when the socket was emptied. */
static bool read_some(struct channel *ch, size_t budget)
{
    if (!deliver(ch))
        return false;
    while (budget != 0) {
        bool got_fds = false;
        int reason = 0;
        ssize_t n = receive(ch, budget, &got_fds, &reason);
        if (n == -EAGAIN)
            return true;
        if (n == 0) {
            end(ch, ch->failing ? ch->reason : ERR_HANGUP);
            return false;
        }
        if (n < 0) {
            end(ch, reason);
            return false;
        }
        bool emptied = (size_t)n < budget && ch->in.tail < ch->in.cap && !got_fds;
        budget -= (size_t)n;
        if (ch->failing)
            ch->last_bytes -= (size_t)n < ch->last_bytes ? (size_t)n : ch->last_bytes;
        if (!deliver(ch))
            return false;
        if (emptied && !ch->failing)
            return false; /* most likely; asking again would cost a system call per wake-up */
    }
    return false;
}

static void on_ready(void *arg, unsigned event)
{
    struct channel *ch = arg;
    if (ch->over)
        return;
    if (event == WATCH_WRITE) {
        on_write_step(ch);
        return;
    }
    if (ch->failing) {
        failing_pass(ch);
        return;
    }
    read_some(ch, ch->conf.read_budget);
    if (!ch->over)
        note_traffic(ch);
}

/* Delivers what the peer had written, then ends. While the owner holds reading back this waits. */
static void failing_pass(void *arg)
{
    struct channel *ch = arg;
    if (ch->over || ch->paused)
        return;
    size_t budget = ch->conf.read_budget;
    bool emptied = read_some(ch, budget < ch->last_bytes ? budget : ch->last_bytes);
    if (!ch->over && !ch->paused && (emptied || ch->last_bytes == 0))
        end(ch, ch->reason);
}

int channel_take_fd(struct channel *ch)
{
    int fd = ch->in_fd;
    ch->in_fd = -1;
    return fd;
}

void channel_pause(struct channel *ch)
{
    if (ch->over || ch->paused)
        return;
    ch->paused = true;
    update_watch(ch);
}

static void resumed(void *arg)
{
    struct channel *ch = arg;
    if (!ch->over && !ch->paused && !ch->failing)
        deliver(ch);
}

void channel_resume(struct channel *ch)
{
    if (ch->over || !ch->paused)
        return;
    ch->paused = false;
    update_watch(ch);
    /* Frames that were read before the pause make no socket readable. */
    reactor_defer(ch->reactor, ch->failing ? failing_pass : resumed, ch);
}

/* ---- life ---- */

static void set_conf(struct channel_conf *c)
{
    if (c->out_cap == 0)
        c->out_cap = DEFAULTS_IPC_OUT_CAP;
    if (c->out_high == 0)
        c->out_high = c->out_cap / 4;
    if (c->out_low == 0)
        c->out_low = c->out_high / 4;
    if (c->stuck_ns == 0)
        c->stuck_ns = DEFAULTS_CONSUMER_SEND_MS * CHRONO_MS;
    if (c->read_budget == 0)
        c->read_budget = DEFAULTS_IPC_READ_BUDGET;
}

int channel_new(struct channel **out, struct reactor *reactor, int fd,
                const struct channel_conf *conf, const struct channel_ops *ops, void *arg)
{
    struct channel *ch = alloc_new(struct channel);
    ch->reactor = reactor;
    ch->ops = ops;
    ch->arg = arg;
    if (conf != NULL)
        ch->conf = *conf;
    set_conf(&ch->conf);
    ch->fd = fd;
    ch->in_fd = -1;
    frame_reader_init(&ch->in);
    watch_init(&ch->watch, reactor, "channel", fd, on_ready, ch);
    reactor_hook_init(&ch->write_hook, "channel output", on_write_step, ch);
    reactor_hook_init(&ch->reap_hook, "channel reap", reap, ch);
    deadline_init(&ch->stuck, reactor, "channel stuck", on_stuck, ch);
    deadline_init(&ch->trim, reactor, "channel trim", on_trim, ch);
    int rc = watch_set(&ch->watch, WATCH_READ);
    if (rc != 0) {
        watch_fini(&ch->watch);
        close(fd);
        free(ch);
        return rc;
    }
    *out = ch;
    return 0;
}

void channel_close(struct channel *ch)
{
    if (ch == NULL || ch->over)
        return;
    if (!ch->failing)
        write_out(ch);
    shut(ch);
}

bool channel_is_open(const struct channel *ch)
{
    return !ch->over && !ch->failing;
}

int channel_fd(const struct channel *ch)
{
    return ch->fd;
}
