/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of libperfetto_c in a program: start, shutdown, exit, fork.
 *
 * One thread (client/iothread) has the producer link and the sessions; the program's threads hand
 * it jobs. sdk.lock guards what both sides look at. Whoever uses sdk.io from outside is counted
 * in sdk.users, and shutdown waits for them.
 *
 * After a fork the child has the memory but not the thread. It must not touch what it shares with
 * the parent, so everything is switched off there and nothing is freed.
 *
 * Must never: take sdk.lock in the child, wait on the library's own thread, or write to the
 * program's stderr unless something is wrong.
 */
#include "client/sdk.h"

#include <errno.h>
#include <stdlib.h>

#include "client/prodlink.h"
#include "perfetto/public/producer.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "smb/abi.h"

#define SHM_KB       1024u
#define BATCH_MS     20u
#define PATIENCE_MS  1000u /* of shutdown, for packets that are open and for the service */
#define EXIT_WAIT_MS 500u

struct sdk sdk = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t once = PTHREAD_ONCE_INIT;

struct timespec sdk_until(uint32_t timeout_ms)
{
    uint64_t ns = chrono_mono_ns() + timeout_ms * CHRONO_MS;
    return (struct timespec){.tv_sec = (time_t)(ns / CHRONO_SEC),
                             .tv_nsec = (long)(ns % CHRONO_SEC)};
}

int sdk_enter(void)
{
    if (sdk.forked)
        return -EOWNERDEAD;
    int err = 0;
    pthread_mutex_lock(&sdk.lock);
    if (!sdk.running)
        err = -ENOTCONN;
    else if (iothread_here(sdk.io))
        err = -EDEADLK;
    else
        sdk.users++;
    pthread_mutex_unlock(&sdk.lock);
    return err;
}

void sdk_leave(void)
{
    pthread_mutex_lock(&sdk.lock);
    sdk.users--;
    pthread_cond_broadcast(&sdk.changed);
    pthread_mutex_unlock(&sdk.lock);
}

/* ---- flush ---- */

/* Kept by the caller and by each acknowledgement that is to come. */
struct flush {
    pthread_mutex_t lock;
    pthread_cond_t done;
    unsigned waiting; /* acknowledgements to come, and do_flush() while it runs */
    unsigned refs;
    bool failed;
};

static void drop(struct flush *f)
{
    unsigned left = --f->refs;
    pthread_mutex_unlock(&f->lock);
    if (left)
        return;
    pthread_cond_destroy(&f->done);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static void flush_before(void *ctx)
{
    struct flush *f = ctx;
    pthread_mutex_lock(&f->lock);
    f->waiting++;
    f->refs++;
    pthread_mutex_unlock(&f->lock);
}

static void flush_acked(void *ctx, bool ok)
{
    struct flush *f = ctx;
    pthread_mutex_lock(&f->lock);
    f->failed |= !ok;
    if (--f->waiting == 0)
        pthread_cond_broadcast(&f->done);
    drop(f);
}

static void do_flush(void *arg)
{
    struct flush *f = arg;
    flush_before(f);
    for (unsigned i = 0; i < sdk.source_count; i++)
        for (unsigned k = 0; k < SDK_INSTANCES; k++)
            sdk_packet_flush(&sdk.source[i].instance[k], flush_before, flush_acked, f);
    flush_before(f);
    int err = sdk.connected ? prodlink_sync(sdk.link, flush_acked, f) : -ENOTCONN;
    if (err)
        flush_acked(f, false);
    flush_acked(f, true);
}

/* sdk_enter() was called. */
static int flush_and_wait(uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    struct flush *f = alloc_new(struct flush);
    pthread_condattr_t attr;
    int err = 0;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->done, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&f->lock, NULL);
    f->refs = 1;
    iothread_call(sdk.io, do_flush, f);
    pthread_mutex_lock(&f->lock);
    while (f->waiting && err == 0)
        err = -pthread_cond_timedwait(&f->done, &f->lock, &until);
    if (err == 0 && f->failed)
        err = -ENOTCONN;
    drop(f);
    return err;
}

int perfetto_flush(uint32_t timeout_ms)
{
    int err = sdk_enter();
    if (err)
        return err;
    err = flush_and_wait(timeout_ms);
    sdk_leave();
    return err;
}

/* ---- the link ---- */

static void on_state(void *ctx, enum prodlink_state state)
{
    (void)ctx;
    pthread_mutex_lock(&sdk.lock);
    sdk.connected = state == PRODLINK_CONNECTED;
    pthread_cond_broadcast(&sdk.changed);
    pthread_mutex_unlock(&sdk.lock);
}

static void make_link(void *arg)
{
    sdk.link = prodlink_new(iothread_reactor(sdk.io), arg);
}

static void free_link(void *unused)
{
    (void)unused;
    sdk_packet_empty_trash(NULL);
    prodlink_free(sdk.link);
    sdk.link = NULL;
}

int perfetto_wait_connected(uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    int err = sdk_enter();
    if (err)
        return err;
    pthread_mutex_lock(&sdk.lock);
    while (sdk.running && !sdk.connected && err == 0)
        err = -pthread_cond_timedwait(&sdk.changed, &sdk.lock, &until);
    if (err == 0 && !sdk.running)
        err = -ENOTCONN;
    pthread_mutex_unlock(&sdk.lock);
    sdk_leave();
    return err;
}

struct trigger {
    const char *name; /* borrow */
    uint32_t ttl_ms;
    int err;
};

static void do_trigger(void *arg)
{
    struct trigger *t = arg;
    t->err = prodlink_activate_triggers(sdk.link, &t->name, 1, t->ttl_ms);
}

int perfetto_trigger(const char *name, uint32_t ttl_ms)
{
    struct trigger t = {.name = name, .ttl_ms = ttl_ms};
    int err = sdk_enter();
    if (err)
        return err;
    iothread_call(sdk.io, do_trigger, &t);
    sdk_leave();
    return t.err;
}

/* ---- life ---- */

/* In the child of a fork: only this thread is here, and the lock may be held for ever. */
static void in_child(void)
{
    sdk.forked = true;
    for (unsigned i = 0; i < SDK_SOURCES; i++)
        if (sdk.source[i].pub)
            __atomic_store_n(&sdk.source[i].pub->active, 0, __ATOMIC_RELAXED);
}

static void at_exit(void)
{
    if (sdk_enter() != 0)
        return;
    flush_and_wait(EXIT_WAIT_MS);
    sdk_leave();
}

static void first_time(void)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&sdk.changed, &attr);
    pthread_condattr_destroy(&attr);
    list_init(&sdk.trash);
    sdk.bin.fn = sdk_packet_empty_trash;
    log_set_level(LOG_LEVEL_WARN);
    pthread_atfork(NULL, NULL, in_child);
    atexit(at_exit);
}

int sdk_prepare(void)
{
    if (sdk.forked)
        return -EOWNERDEAD;
    pthread_once(&once, first_time);
    return 0;
}

/* sdk.lock held: nobody else starts or ends meanwhile. */
static int start(const struct prodlink_cfg *cfg)
{
    if (sdk.io)
        return sdk.running ? -EALREADY : -EBUSY;
    int err = iothread_new(&sdk.io);
    if (err)
        return err;
    sdk.connected = false;
    /* The thread has nothing yet that takes the lock. */
    iothread_call(sdk.io, make_link, (void *)(uintptr_t)cfg);
    if (!sdk.link) {
        iothread_free(sdk.io);
        sdk.io = NULL;
        return -ENOMEM;
    }
    sdk.running = true;
    return 0;
}

int perfetto_init(const struct perfetto_options *options)
{
    static const struct perfetto_options none;
    const struct perfetto_options *o = options ? options : &none;
    uint32_t size_kb = o->shm_size_kb ? o->shm_size_kb : SHM_KB;
    uint32_t page_kb = o->shm_page_kb ? o->shm_page_kb : 4;
    const struct prodlink_cfg cfg = {
        .producer_name = o->name ? o->name : program_invocation_short_name,
        .socket_name = o->socket,
        .shm_size_hint = size_kb * 1024,
        .shm_page_hint = page_kb * 1024,
        .scraping = PRODLINK_SCRAPING_ON,
        .retry = PRODLINK_RETRY_SDK,
        .batch_ms = BATCH_MS,
        .direct_patching = true,
        .on_state = on_state,
    };
    if (size_kb > UINT32_MAX / 1024 || page_kb > UINT32_MAX / 1024 ||
        !abi_size_valid(cfg.shm_size_hint, cfg.shm_page_hint))
        return -EINVAL;
    int err = sdk_prepare();
    if (err)
        return err;
    pthread_mutex_lock(&sdk.lock);
    err = start(&cfg);
    pthread_mutex_unlock(&sdk.lock);
    return err;
}

static void end_sources(void *unused)
{
    (void)unused;
    sdk_source_end_all();
}

/* Nobody is in sdk_enter() any more. */
static int end_packets(void)
{
    const struct timespec until = sdk_until(PATIENCE_MS);
    int err = 0;
    iothread_call(sdk.io, end_sources, NULL);
    pthread_mutex_lock(&sdk.lock);
    while (sdk.doomed && err == 0)
        err = -pthread_cond_timedwait(&sdk.changed, &sdk.lock, &until);
    pthread_mutex_unlock(&sdk.lock);
    return err ? -EBUSY : 0;
}

int perfetto_shutdown(void)
{
    int err = 0;
    if (sdk.forked)
        return -EOWNERDEAD;
    pthread_mutex_lock(&sdk.lock);
    if (!sdk.io)
        err = -ENOTCONN;
    else if (iothread_here(sdk.io))
        err = -EDEADLK;
    else if (sdk.sessions || sdk.closing)
        err = -EBUSY;
    if (err == 0) {
        sdk.running = false;
        sdk.closing = true;
        pthread_cond_broadcast(&sdk.changed);
        while (sdk.users)
            pthread_cond_wait(&sdk.changed, &sdk.lock);
    }
    pthread_mutex_unlock(&sdk.lock);
    if (err)
        return err;
    err = end_packets();
    if (err == 0) {
        flush_and_wait(PATIENCE_MS);
        iothread_call(sdk.io, free_link, NULL);
        iothread_free(sdk.io);
    }
    pthread_mutex_lock(&sdk.lock);
    sdk.closing = false;
    if (err == 0) {
        sdk.io = NULL;
        sdk.connected = false;
    }
    pthread_mutex_unlock(&sdk.lock);
    return err;
}
