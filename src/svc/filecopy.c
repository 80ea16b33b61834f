/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying a file in slices of a task. What a pipe or socket does not take at once it is asked about
 * again a little later. The copy owns a duplicate of the source and the target; the struct lives
 * until filecopy_cancel, which may come from inside done.
 */
#include "svc/filecopy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/task.h"
#include "svc/filewr.h"

#define PIECE    (256u << 10) /* one read and write */
#define RETRY_NS (10 * CHRONO_MS)

struct filecopy {
    struct task task;
    int in, out; /* own; -1 when given back */
    enum filewr_target target;
    uint64_t at, size;
    uint64_t patience, last_progress;
    int err; /* the outcome */
    filecopy_done *done;
    void *arg;    /* borrow */
    uint8_t *buf; /* own: PIECE bytes */
};

/* Outside of the task, so that the owner may free the copy. */
static void deliver(void *arg)
{
    struct filecopy *c = arg;
    reactor_slice_is(c->task.deadline.reactor, "file copied");
    int out = c->out;
    c->out = -1;
    c->done(c->arg, c->err, out);
}

static enum task_result finish(struct filecopy *c, int err)
{
    c->err = err;
    reactor_defer(c->task.deadline.reactor, deliver, c);
    return TASK_DONE;
}

/* Copies one piece: bytes moved, 0 when the target is not ready or the source is shorter than it
 * was, -errno. */
static ssize_t copy_piece(struct filecopy *c, bool *ended)
{
    size_t want = c->size - c->at < PIECE ? (size_t)(c->size - c->at) : PIECE;
    ssize_t n = pread(c->in, c->buf, want, (off_t)c->at);
    if (n <= 0) {
        *ended = n == 0;
        return n == 0 ? 0 : -errno;
    }
    struct iovec piece = {c->buf, (size_t)n};
    ssize_t put = filewr_write(c->out, c->target, &piece, 1);
    return put == -EAGAIN ? 0 : put;
}

static enum task_result run(void *arg, struct task_budget *budget)
{
    struct filecopy *c = arg;
    bool ended = false;
    for (;;) {
        if (c->at >= c->size)
            return finish(c, 0);
        ssize_t n = copy_piece(c, &ended);
        if (n < 0 || ended)
            return finish(c, (int)n);
        uint64_t now = chrono_mono_ns();
        if (n == 0) {
            if (now - c->last_progress > c->patience)
                return finish(c, -ETIMEDOUT);
            task_wake_in(&c->task, RETRY_NS);
            return TASK_DONE;
        }
        c->at += (uint64_t)n;
        c->last_progress = now;
        if (!task_spend_slow(budget, (size_t)n))
            return TASK_AGAIN;
    }
}

int filecopy_start(struct reactor *r, int in, int out, uint64_t size, uint64_t patience_ns,
                   filecopy_done *done, void *arg, struct filecopy **copy)
{
    struct filecopy *c = alloc_new(struct filecopy);
    int err = filewr_inspect(&out, &c->target);
    c->buf = alloc_try(PIECE);
    c->in = fcntl(in, F_DUPFD_CLOEXEC, 0);
    c->out = out;
    if (!err)
        err = !c->buf ? -ENOMEM : c->in < 0 ? -errno : 0;
    if (err) {
        if (c->in >= 0)
            close(c->in);
        close(out);
        free(c->buf);
        free(c);
        return err;
    }
    c->size = size;
    c->patience = patience_ns;
    c->last_progress = chrono_mono_ns();
    c->done = done;
    c->arg = arg;
    task_init(&c->task, r, "file copy", run, c);
    task_wake(&c->task);
    *copy = c;
    return 0;
}

void filecopy_cancel(struct filecopy *c)
{
    if (!c)
        return;
    task_stop(&c->task);
    reactor_undefer(c->task.deadline.reactor, c);
    close(c->in);
    if (c->out >= 0)
        close(c->out);
    free(c->buf);
    free(c);
}
