/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions of programs: calls that wait, around a consumer session that answers from the loop.
 *
 * The conssession belongs to the library's thread. The rest of the struct is what its callbacks
 * tell and the caller waits for, under the session's own lock; `sink` too, so that no packet is
 * handed over once the caller has stopped waiting. Answers of one kind come in the order of the
 * questions, so a late one is told from the one awaited by counting.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/conssession.h"
#include "client/sdk.h"
#include "perfetto/public/session.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"

#define CONFIG_MAX (1u << 20)
#define FILE_MAX   SIZE_MAX

enum { CALLS = CONSSESSION_READ + 1 };

struct perfetto_session {
    struct conssession *cs; /* own: of the library's thread */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool began, started, ended, lost;
    bool failed; /* it ended with an error */
    unsigned asked[CALLS], answered[CALLS];
    bool ok[CALLS]; /* the latest answer */
    perfetto_session_packet_cb *sink;
    void *user;        /* borrow: the sink's */
    uint8_t *joined;   /* own: a packet that came in pieces */
    size_t joined_cap; /* of the library's thread, like joined */
    bool too_large;
    char error[256];
    char shown[256]; /* a copy for the caller to look at */
};

/* ---- what the loop tells ---- */

static void tell(struct perfetto_session *s, bool *what, const char *error, size_t len)
{
    pthread_mutex_lock(&s->lock);
    *what = true;
    if (len)
        snprintf(s->error, sizeof(s->error), "%.*s", (int)(len > 255 ? 255 : len), error);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void on_lost(void *arg, const char *why)
{
    struct perfetto_session *s = arg;
    tell(s, &s->lost, why, strlen(why));
}

static void on_ended(void *arg, bool told, struct bytes_view error)
{
    struct perfetto_session *s = arg;
    (void)told;
    if (error.n)
        tell(s, &s->failed, (const char *)error.p, error.n);
    tell(s, &s->ended, NULL, 0);
}

static void on_event(void *arg, struct bytes_view events)
{
    struct perfetto_session *s = arg;
    struct bytes_field f;
    if (bytes_find(events, PBF_ObservableEvents_all_data_sources_started, BYTES_VARINT, &f) &&
        f.num)
        tell(s, &s->started, NULL, 0);
}

static void on_done(void *arg, enum conssession_call call, bool ok, struct bytes_view reply)
{
    struct perfetto_session *s = arg;
    (void)reply;
    pthread_mutex_lock(&s->lock);
    s->answered[call]++;
    s->ok[call] = ok;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* The packet in one piece; NULL when there is no memory for it. */
static const uint8_t *join(struct perfetto_session *s, const struct iovec *pieces, int n,
                           size_t len)
{
    if (n == 1)
        return pieces[0].iov_base;
    if (len > s->joined_cap) {
        uint8_t *p = alloc_try_resize(s->joined, len, 1);
        if (!p)
            return NULL;
        s->joined = p;
        s->joined_cap = len;
    }
    uint8_t *at = s->joined;
    for (int i = 0; i < n; i++) {
        memcpy(at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    return s->joined;
}

static void on_packet(void *arg, const struct iovec *pieces, int n, size_t len)
{
    struct perfetto_session *s = arg;
    const uint8_t *packet = len ? join(s, pieces, n, len) : (const uint8_t *)"";
    pthread_mutex_lock(&s->lock);
    if (!packet)
        s->too_large = true;
    else if (s->sink)
        s->sink(s->user, packet, len);
    pthread_mutex_unlock(&s->lock);
}

static const struct conssession_ops ops = {
    .lost = on_lost,
    .ended = on_ended,
    .packet = on_packet,
    .event = on_event,
    .done = on_done,
};

/* ---- waiting ---- */

/* Waits for *what, or for the end of the connection. */
static int wait_for(struct perfetto_session *s, const bool *what, const bool *also,
                    const struct timespec *until)
{
    int err = 0;
    pthread_mutex_lock(&s->lock);
    while (!*what && !*also && !s->lost && err == 0)
        err = -pthread_cond_timedwait(&s->changed, &s->lock, until);
    if (*what || *also)
        err = 0;
    else if (s->lost)
        err = -ENOTCONN;
    pthread_mutex_unlock(&s->lock);
    return err;
}

/* Has the loop ask (fn calls conssession), and waits for the answer. */
static int ask(struct perfetto_session *s, enum conssession_call call, void (*fn)(void *arg),
               const struct timespec *until)
{
    int err = 0;
    pthread_mutex_lock(&s->lock);
    bool able = s->began && !s->lost;
    unsigned mine = s->asked[call] += able;
    pthread_mutex_unlock(&s->lock);
    if (!able)
        return -ENOTCONN;
    iothread_call(sdk.io, fn, s);
    pthread_mutex_lock(&s->lock);
    while (s->answered[call] != mine && err == 0)
        err = -pthread_cond_timedwait(&s->changed, &s->lock, until);
    if (s->answered[call] == mine)
        err = s->ok[call] ? 0 : s->lost ? -ENOTCONN : -EIO;
    pthread_mutex_unlock(&s->lock);
    return err;
}

/* ---- life ---- */

static void make(void *arg)
{
    struct perfetto_session *s = arg;
    s->cs = conssession_new(iothread_reactor(sdk.io), &ops, s);
}

int perfetto_session_new(struct perfetto_session **out)
{
    pthread_condattr_t attr;
    int err = sdk_enter();
    if (err)
        return err;
    struct perfetto_session *s = alloc_new(struct perfetto_session);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    iothread_call(sdk.io, make, s);
    pthread_mutex_lock(&sdk.lock);
    sdk.sessions++;
    pthread_mutex_unlock(&sdk.lock);
    sdk_leave();
    *out = s;
    return 0;
}

static void unmake(void *arg)
{
    struct perfetto_session *s = arg;
    conssession_free(s->cs);
}

void perfetto_session_free(struct perfetto_session *s)
{
    if (!s || sdk_enter() != 0)
        return; /* in a child of fork it is the parent's */
    iothread_call(sdk.io, unmake, s);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->joined);
    free(s);
    pthread_mutex_lock(&sdk.lock);
    sdk.sessions--;
    pthread_mutex_unlock(&sdk.lock);
    sdk_leave();
}

const char *perfetto_session_error(struct perfetto_session *s)
{
    pthread_mutex_lock(&s->lock);
    memcpy(s->shown, s->error, sizeof(s->shown));
    pthread_mutex_unlock(&s->lock);
    return s->shown;
}

/* ---- start ---- */

struct start {
    struct perfetto_session *s; /* borrow */
    const char *socket;         /* borrow */
    struct bytes_view config;
    int err;
};

static void do_start(void *arg)
{
    struct start *a = arg;
    struct perfetto_session *s = a->s;
    const char *address = a->socket ? a->socket : conssession_default_address();
    a->err = conssession_connect(s->cs, address, s->error, sizeof(s->error));
    if (a->err)
        return;
    conssession_observe(s->cs, CONSSESSION_ALL_STARTED);
    conssession_enable(s->cs, a->config, -1);
}

static int start(struct perfetto_session *s, const char *socket, struct bytes_view config,
                 uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    struct start a = {.s = s, .socket = socket, .config = config};
    if (s->began)
        return -EALREADY;
    s->error[0] = '\0';
    iothread_call(sdk.io, do_start, &a);
    if (a.err)
        return a.err == -EINVAL || a.err == -ENAMETOOLONG ? a.err : -ENOTCONN;
    s->began = true;
    int err = wait_for(s, &s->started, &s->ended, &until);
    return err ? err : s->failed ? -EINVAL : 0;
}

int perfetto_session_start(struct perfetto_session *s, const char *socket, const void *config,
                           size_t len, uint32_t timeout_ms)
{
    if (len > CONFIG_MAX)
        return -EMSGSIZE;
    int err = sdk_enter();
    if (err)
        return err;
    err = start(s, socket, bytes_view(config, len), timeout_ms);
    sdk_leave();
    return err;
}

int perfetto_session_start_sources(struct perfetto_session *s, const char *socket,
                                   uint32_t buffer_kb, const char *const *names, size_t count,
                                   uint32_t timeout_ms)
{
    struct bytesbuf b;
    bytesbuf_init(&b, CONFIG_MAX);
    size_t mark = bytesbuf_pb_begin(&b, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&b, PBF_TraceConfig_BufferConfig_size_kb, buffer_kb);
    bytesbuf_pb_end(&b, mark);
    for (size_t i = 0; i < count; i++) {
        size_t source = bytesbuf_pb_begin(&b, PBF_TraceConfig_data_sources);
        size_t config = bytesbuf_pb_begin(&b, PBF_TraceConfig_DataSource_config);
        bytesbuf_pb_str(&b, PBF_DataSourceConfig_name, names[i]);
        bytesbuf_pb_end(&b, config);
        bytesbuf_pb_end(&b, source);
    }
    int err = b.failed ? -EMSGSIZE : perfetto_session_start(s, socket, b.p, b.n, timeout_ms);
    bytesbuf_fini(&b);
    return err;
}

/* ---- the rest ---- */

static void do_disable(void *arg)
{
    conssession_disable(((struct perfetto_session *)arg)->cs);
}

static int wait_end(struct perfetto_session *s, bool stop, uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    int err = sdk_enter();
    if (err)
        return err;
    if (!s->began)
        err = -ENOTCONN;
    else if (stop)
        iothread_call(sdk.io, do_disable, s);
    if (err == 0)
        err = wait_for(s, &s->ended, &s->ended, &until);
    sdk_leave();
    return err ? err : s->failed ? -EIO : 0;
}

int perfetto_session_stop(struct perfetto_session *s, uint32_t timeout_ms)
{
    return wait_end(s, true, timeout_ms);
}

int perfetto_session_wait(struct perfetto_session *s, uint32_t timeout_ms)
{
    return wait_end(s, false, timeout_ms);
}

static void do_flush(void *arg)
{
    /* The service's own limit (5 s); ours is the caller's. */
    conssession_flush(((struct perfetto_session *)arg)->cs, 0,
                      CONSSESSION_FLUSH_EXPLICIT | CONSSESSION_FLUSH_BY_SDK);
}

int perfetto_session_flush(struct perfetto_session *s, uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    int err = sdk_enter();
    if (err)
        return err;
    err = ask(s, CONSSESSION_FLUSH, do_flush, &until);
    sdk_leave();
    return err;
}

static void do_read(void *arg)
{
    conssession_read(((struct perfetto_session *)arg)->cs);
}

int perfetto_session_read(struct perfetto_session *s, perfetto_session_packet_cb *cb, void *user,
                          uint32_t timeout_ms)
{
    const struct timespec until = sdk_until(timeout_ms);
    int err = sdk_enter();
    if (err)
        return err;
    pthread_mutex_lock(&s->lock);
    s->sink = cb; /* gets what a read that was given up still brings, too */
    s->user = user;
    s->too_large = false;
    pthread_mutex_unlock(&s->lock);
    err = ask(s, CONSSESSION_READ, do_read, &until);
    pthread_mutex_lock(&s->lock);
    s->sink = NULL;
    if (err == 0 && s->too_large)
        err = -ENOMEM;
    pthread_mutex_unlock(&s->lock);
    sdk_leave();
    return err;
}

static void append(void *user, const void *packet, size_t len)
{
    bytesbuf_pb_bytes(user, PBF_Trace_packet, packet, len);
}

int perfetto_session_read_all(struct perfetto_session *s, void **data, size_t *len,
                              uint32_t timeout_ms)
{
    struct bytesbuf b;
    size_t n;
    bytesbuf_init(&b, FILE_MAX);
    int err = perfetto_session_read(s, append, &b, timeout_ms);
    if (err == 0 && b.failed)
        err = -ENOMEM;
    if (err == 0) {
        *data = bytesbuf_take(&b, &n);
        *len = n;
    }
    bytesbuf_fini(&b);
    return err;
}
