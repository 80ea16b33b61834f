/* SPDX-License-Identifier: Apache-2.0 */
#include "client/iothread.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>

/* A thread, and what its jobs saw; they are the only ones to touch it until they are waited for. */
struct seen {
    struct iothread *t;
    unsigned jobs, calls;
    bool here, blocked;
};

static void count_job(void *arg)
{
    ((struct seen *)arg)->jobs++;
}

static void look(void *arg)
{
    struct seen *s = arg;
    sigset_t set;
    s->calls++;
    s->here = iothread_here(s->t);
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    s->blocked = sigismember(&set, SIGTERM) && sigismember(&set, SIGCHLD);
}

static void call_inside(void *arg)
{
    struct seen *s = arg;
    iothread_call(s->t, look, s);
}

static void post_twice(void *arg)
{
    struct seen *s = ((struct iothread_job *)arg)->arg;
    iothread_post(s->t, arg);
    iothread_post(s->t, arg);
}

Test(iothread, call_returns_when_it_is_done_there)
{
    struct seen s = {0};
    cr_assert_eq(iothread_new(&s.t), 0);
    cr_assert(!iothread_here(s.t));
    iothread_call(s.t, look, &s);
    cr_assert_eq(s.calls, 1);
    cr_assert(s.here);
    cr_assert(s.blocked, "signals are the program's");
    iothread_call(s.t, call_inside, &s); /* does not wait for itself */
    cr_assert_eq(s.calls, 2);
    iothread_free(s.t);
}

Test(iothread, a_job_posted_twice_before_it_ran_runs_once)
{
    struct seen s = {0};
    struct iothread_job job = {.fn = count_job, .arg = &s};
    cr_assert_eq(iothread_new(&s.t), 0);
    iothread_call(s.t, post_twice, &job); /* on the thread: it cannot run in between */
    iothread_call(s.t, look, &s);
    cr_assert_eq(s.jobs, 1);
    iothread_post(s.t, &job);
    iothread_call(s.t, look, &s);
    cr_assert_eq(s.jobs, 2);
    iothread_free(s.t);
}

Test(iothread, what_is_posted_is_done_before_it_ends)
{
    struct seen s = {0};
    struct iothread_job jobs[50];
    cr_assert_eq(iothread_new(&s.t), 0);
    for (int i = 0; i < 50; i++) {
        jobs[i] = (struct iothread_job){.fn = count_job, .arg = &s};
        iothread_post(s.t, &jobs[i]);
    }
    iothread_free(s.t);
    cr_assert_eq(s.jobs, 50);
    iothread_free(NULL);
}

static void *call_often(void *arg)
{
    struct seen *s = arg;
    for (int i = 0; i < 500; i++)
        iothread_call(s->t, look, s);
    return NULL;
}

Test(iothread, many_callers_at_a_time)
{
    struct seen s = {0};
    pthread_t threads[4];
    cr_assert_eq(iothread_new(&s.t), 0);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, call_often, &s), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(s.calls, 2000);
    iothread_free(s.t);
}
