/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that runs a reactor, for programs that have no loop of their own, and the way to it from
 * other threads.
 */
#ifndef CLIENT_IOTHREAD_H
#define CLIENT_IOTHREAD_H

#include <stdbool.h>

#include "reactor/list.h"

struct iothread;
struct reactor;

/* Something to do on the thread, embedded in what it is about. Zeroed but for fn and arg. */
struct iothread_job {
    struct list node;
    void (*fn)(void *arg);
    void *arg;   /* borrow */
    bool queued; /* the thread's own */
};

/* Starts it, with all signals blocked. 0, or -errno with *out untouched. */
int iothread_new(struct iothread **out);

/* Does what is posted, ends the loop, joins and frees. Not on the thread itself; nobody posts any
 * more. The owner has taken its things off the reactor before. NULL is allowed. */
void iothread_free(struct iothread *t);

/* For what runs on the thread. */
struct reactor *iothread_reactor(const struct iothread *t);

bool iothread_here(const struct iothread *t);

/* Any thread: has the job done soon; posted twice before that, it is done once. Never waits. */
void iothread_post(struct iothread *t, struct iothread_job *job);

/* Calls fn(arg) on the thread and waits until it has returned; directly if this is the thread. */
void iothread_call(struct iothread *t, void (*fn)(void *arg), void *arg);

#endif
