/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A private service for programs: client/privsvc on a thread of its own, because it has to be there
 * before the library knows where to connect.
 *
 * The privsvc belongs to that thread; what it tells is under the lock. The fork and exec of the
 * programs happen there, too: they are tied to the life of the process, not of a caller's thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/privsvc.h"
#include "client/sdk.h"
#include "perfetto/public/private_service.h"
#include "reactor/alloc.h"
#include "reactor/log.h"

struct perfetto_private_service {
    struct iothread *io; /* own */
    struct privsvc *svc; /* own: of the thread */
    struct privsvc_conf conf;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool answered, ok;
    char why[256];
};

static void on_ready(void *arg, bool ok, const char *why)
{
    struct perfetto_private_service *p = arg;
    pthread_mutex_lock(&p->lock);
    p->answered = true;
    p->ok = ok;
    if (!ok)
        snprintf(p->why, sizeof(p->why), "%s", why);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void on_gone(void *arg, const char *why)
{
    (void)arg;
    log_error("private tracing service: %s", why);
}

static void do_start(void *arg)
{
    struct perfetto_private_service *p = arg;
    p->svc = privsvc_start(iothread_reactor(p->io), &p->conf, on_ready, on_gone, p, p->why,
                           sizeof(p->why));
}

static void do_stop(void *arg)
{
    struct perfetto_private_service *p = arg;
    privsvc_free(p->svc);
}

static int wait_ready(struct perfetto_private_service *p, uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    int err = 0;
    pthread_mutex_lock(&p->lock);
    while (!p->answered && err == 0)
        err = -pthread_cond_timedwait(&p->changed, &p->lock, &until);
    if (p->answered)
        err = p->ok ? 0 : -EIO;
    else
        snprintf(p->why, sizeof(p->why), "the private service was not ready within %u ms",
                 timeout_ms);
    pthread_mutex_unlock(&p->lock);
    return err;
}

int perfetto_private_service_start(const char *bin_dir, bool probes, uint32_t timeout_ms,
                                   struct perfetto_private_service **out, char *why, size_t why_len)
{
    pthread_condattr_t attr;
    int err = sdk_prepare();
    if (err)
        return err;
    struct perfetto_private_service *p = alloc_new(struct perfetto_private_service);
    p->conf = (struct privsvc_conf){.bin_dir = bin_dir, .probes = probes};
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    err = iothread_new(&p->io);
    if (err == 0) {
        iothread_call(p->io, do_start, p);
        err = p->svc ? wait_ready(p, timeout_ms) : -EIO;
    }
    if (err && why && why_len)
        snprintf(why, why_len, "%s", p->why);
    if (err)
        perfetto_private_service_stop(p);
    else
        *out = p;
    return err;
}

const char *perfetto_private_service_producer(const struct perfetto_private_service *p)
{
    return privsvc_producer(p->svc);
}

const char *perfetto_private_service_consumer(const struct perfetto_private_service *p)
{
    return privsvc_consumer(p->svc);
}

void perfetto_private_service_stop(struct perfetto_private_service *p)
{
    if (!p || sdk_prepare() != 0)
        return; /* in a child of fork it is the parent's */
    if (p->io)
        iothread_call(p->io, do_stop, p);
    iothread_free(p->io);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
