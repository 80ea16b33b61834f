/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread of the client library. It owns the reactor; other threads own the jobs that they post
 * and leave them alone until they were done.
 *
 * The list of jobs and their `queued` are under the lock, which is never held while a job runs. An
 * eventfd wakes the loop; the count in it means nothing.
 */
#include "client/iothread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/reactor.h"
#include "reactor/watch.h"

struct iothread {
    struct reactor *reactor; /* own */
    pthread_mutex_t lock;
    pthread_cond_t done; /* some call has returned */
    struct list jobs;    /* borrow */
    struct watch wake;
    pthread_t thread;
    int wake_fd; /* own */
};

/* A call and its caller, on the caller's stack. */
struct call {
    struct iothread_job job;
    struct iothread *thread; /* borrow */
    void (*fn)(void *arg);
    void *arg;     /* borrow */
    bool returned; /* under the lock */
};

static void run_jobs(struct iothread *t)
{
    struct list *node;
    pthread_mutex_lock(&t->lock);
    while ((node = list_pop_front(&t->jobs))) {
        struct iothread_job *job = list_entry(node, struct iothread_job, node);
        job->queued = false;
        pthread_mutex_unlock(&t->lock);
        job->fn(job->arg); /* the job may be gone now */
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
}

static void on_wake(void *arg, unsigned event)
{
    struct iothread *t = arg;
    uint64_t count;
    (void)event;
    if (read(t->wake_fd, &count, sizeof(count)) > 0)
        run_jobs(t);
}

static void *thread_main(void *arg)
{
    struct iothread *t = arg;
    int err = reactor_run(t->reactor);
    if (err)
        log_error("tracing stops: its thread cannot wait for events: %s", err_text(err));
    return NULL;
}

static int start(struct iothread *t)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&t->thread, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err == 0)
        pthread_setname_np(t->thread, "perfetto");
    return -err;
}

static void release(struct iothread *t)
{
    if (t->reactor && t->wake_fd >= 0)
        watch_fini(&t->wake);
    reactor_free(t->reactor);
    if (t->wake_fd >= 0)
        close(t->wake_fd);
    pthread_cond_destroy(&t->done);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int iothread_new(struct iothread **out)
{
    struct iothread *t = alloc_new(struct iothread);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->done, NULL);
    list_init(&t->jobs);
    t->wake_fd = -1;
    t->reactor = reactor_new(NULL);
    int err = t->reactor ? 0 : -errno;
    if (err == 0) {
        t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        err = t->wake_fd < 0 ? -errno : 0;
    }
    if (err == 0) {
        watch_init(&t->wake, t->reactor, "other threads", t->wake_fd, on_wake, t);
        err = watch_set(&t->wake, WATCH_READ);
    }
    if (err == 0)
        err = start(t);
    if (err) {
        release(t);
        return err;
    }
    *out = t;
    return 0;
}

static void stop(void *arg)
{
    struct iothread *t = arg;
    reactor_stop(t->reactor);
}

void iothread_free(struct iothread *t)
{
    if (!t)
        return;
    struct iothread_job job = {.fn = stop, .arg = t};
    iothread_post(t, &job);
    pthread_join(t->thread, NULL);
    release(t);
}

struct reactor *iothread_reactor(const struct iothread *t)
{
    return t->reactor;
}

bool iothread_here(const struct iothread *t)
{
    return pthread_equal(pthread_self(), t->thread);
}

void iothread_post(struct iothread *t, struct iothread_job *job)
{
    uint64_t one = 1;
    pthread_mutex_lock(&t->lock);
    if (!job->queued) {
        job->queued = true;
        list_push_back(&t->jobs, &job->node);
    }
    /* Locked: once it is not, the job may be done, and the thread told to end. A full counter is
     * as good as one more. */
    if (write(t->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_error("tracing: cannot wake the thread: %s", err_text(-errno));
    pthread_mutex_unlock(&t->lock);
}

static void run_call(void *arg)
{
    struct call *c = arg;
    struct iothread *t = c->thread;
    c->fn(c->arg);
    pthread_mutex_lock(&t->lock);
    c->returned = true;
    pthread_cond_broadcast(&t->done);
    pthread_mutex_unlock(&t->lock);
}

void iothread_call(struct iothread *t, void (*fn)(void *arg), void *arg)
{
    if (iothread_here(t)) {
        fn(arg);
        return;
    }
    struct call c = {.job = {.fn = run_call}, .thread = t, .fn = fn, .arg = arg};
    c.job.arg = &c;
    iothread_post(t, &c.job);
    pthread_mutex_lock(&t->lock);
    while (!c.returned)
        pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
}
