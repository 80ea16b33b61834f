/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that records itself with a service of its own: the sessions of libperfetto_c. sdk.py
 * builds it against the installed tree and runs it: sdk_self BIN_DIR FILE. It says what went wrong
 * and ends with 1, or ends with 0 and its last trace in FILE.
 */
#include <errno.h>
#include <perfetto/public/packet.h>
#include <perfetto/public/private_service.h>
#include <perfetto/public/producer.h>
#include <perfetto/public/session.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 20000
#define WRITERS 3

#define CHECK(got, want)                                                                           \
    do {                                                                                           \
        long long got_ = (got), want_ = (want);                                                    \
        if (got_ != want_) {                                                                       \
            printf("%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, want_);        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const char name[] = "test.self";
static const char *const names[] = {name};
static struct perfetto_data_source source;
static struct perfetto_private_service *service;
static const char *consumer;
static int stop_writers;
static unsigned progress[WRITERS + 1]; /* packets of each writer so far */

/* ---- packets: {900 {2 writer, 3 number}} ---- */

static void put(uint64_t writer, uint64_t number)
{
    PERFETTO_TRACE (&source, p) {
        perfetto_packet_begin_nested(p, 900);
        perfetto_packet_varint(p, 2, writer);
        perfetto_packet_varint(p, 3, number);
        perfetto_packet_end_nested(p);
    }
}

static uint64_t varint(const uint8_t **at)
{
    uint64_t v = 0;
    int shift = 0;
    do
        v |= (uint64_t)(**at & 0x7F) << shift;
    while (shift += 7, *(*at)++ & 0x80);
    return v;
}

/* What was read: packets of ours by writer, and whether their numbers had gaps. */
struct seen {
    unsigned all, ours[WRITERS + 1], gaps;
    uint64_t last[WRITERS + 1];
};

static void see(void *user, const void *packet, size_t len)
{
    struct seen *s = user;
    const uint8_t *at = packet, *end = at + len;
    s->all++;
    while (at < end) {
        uint64_t tag = varint(&at), v = 0;
        if (tag == (900 << 3 | 2)) {
            varint(&at); /* its size */
            varint(&at); /* tag 2 */
            uint64_t writer = varint(&at);
            varint(&at); /* tag 3 */
            uint64_t number = varint(&at);
            CHECK(writer <= WRITERS, 1);
            s->gaps += s->ours[writer] && number != s->last[writer] + 1;
            s->last[writer] = number;
            s->ours[writer]++;
            continue;
        }
        switch (tag & 7) {
        case 0:
            varint(&at);
            break;
        case 1:
            at += 8;
            break;
        case 5:
            at += 4;
            break;
        default:
            v = varint(&at);
            at += v;
            break;
        }
    }
}

/* ---- cases ---- */

static void one_recording(const char *path)
{
    struct perfetto_session *s = NULL;
    struct seen seen = {0};
    void *data = NULL;
    size_t len = 0;
    CHECK(perfetto_session_new(&s), 0);
    CHECK(perfetto_session_stop(s, WAIT_MS), -ENOTCONN);
    CHECK(perfetto_session_start_sources(s, consumer, 1024, names, 1, WAIT_MS), 0);
    CHECK(perfetto_session_start_sources(s, consumer, 1024, names, 1, WAIT_MS), -EALREADY);
    CHECK(perfetto_data_source_active(&source), 1); /* started means: it records */
    put(0, 1);
    CHECK(perfetto_session_flush(s, WAIT_MS), 0);
    CHECK(perfetto_session_read(s, see, &seen, WAIT_MS), 0);
    CHECK(seen.ours[0], 1);
    put(0, 2);
    CHECK(perfetto_flush(WAIT_MS), 0);
    put(0, 3);
    CHECK(perfetto_shutdown(), -EBUSY);
    CHECK(perfetto_session_wait(s, 10), -ETIMEDOUT);
    CHECK(perfetto_session_stop(s, WAIT_MS), 0);
    CHECK(perfetto_session_stop(s, WAIT_MS), 0);
    CHECK(perfetto_session_read_all(s, &data, &len, WAIT_MS), 0);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(data, 1, len, f) == len && fclose(f) == 0, 1);
    free(data);
    CHECK(strlen(perfetto_session_error(s)), 0);
    perfetto_session_free(s);
}

static void what_fails(void)
{
    /* trigger_config { trigger_mode: START_TRACING }, without a timeout */
    static const uint8_t refused[] = {0x8A, 1, 2, 0x08, 1};
    /* buffers { size_kb: 1024 } duration_ms: 1 */
    static const uint8_t short_one[] = {0x0A, 3, 0x08, 0x80, 0x08, 0x18, 1};
    struct perfetto_session *s = NULL;
    CHECK(perfetto_session_new(&s), 0);
    CHECK(perfetto_session_start(s, consumer, refused, sizeof(refused), WAIT_MS), -EINVAL);
    CHECK(strlen(perfetto_session_error(s)) > 0, 1);
    perfetto_session_free(s);
    CHECK(perfetto_session_new(&s), 0);
    CHECK(perfetto_session_start(s, "/nonexistent/socket", short_one, sizeof(short_one), WAIT_MS),
          -ENOTCONN);
    CHECK(strlen(perfetto_session_error(s)) > 0, 1);
    CHECK(perfetto_session_flush(s, WAIT_MS), -ENOTCONN);
    perfetto_session_free(s);
    CHECK(perfetto_session_new(&s), 0);
    CHECK(perfetto_session_start(s, consumer, short_one, sizeof(short_one), WAIT_MS), 0);
    CHECK(perfetto_session_wait(s, WAIT_MS), 0); /* it ends by itself */
    perfetto_session_free(s);
}

/* A session may be freed at any point. */
static void half_recordings(void)
{
    struct perfetto_session *s = NULL;
    CHECK(perfetto_session_new(&s), 0);
    perfetto_session_free(s);
    CHECK(perfetto_session_new(&s), 0);
    CHECK(perfetto_session_start_sources(s, consumer, 64, names, 1, WAIT_MS), 0);
    perfetto_session_free(s);
    perfetto_session_free(NULL);
}

static void *write_on(void *arg)
{
    uint64_t writer = (uint64_t)(uintptr_t)arg;
    for (uint64_t n = 0; !__atomic_load_n(&stop_writers, __ATOMIC_RELAXED); n++) {
        put(writer, n);
        __atomic_fetch_add(&progress[writer], 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* Until each writer has written a hundred packets more. */
static void wait_progress(void)
{
    for (int w = 1; w <= WRITERS; w++) {
        unsigned from = __atomic_load_n(&progress[w], __ATOMIC_RELAXED);
        while (__atomic_load_n(&progress[w], __ATOMIC_RELAXED) - from < 100)
            sched_yield();
    }
}

/* Sessions come and go under threads that write all the time. */
static void many_recordings(void)
{
    pthread_t threads[WRITERS];
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK(pthread_create(&threads[i], NULL, write_on, (void *)(i + 1)), 0);
    for (int round = 0; round < 5; round++) {
        struct perfetto_session *s[2] = {NULL, NULL};
        for (int i = 0; i < 2; i++) {
            CHECK(perfetto_session_new(&s[i]), 0);
            CHECK(perfetto_session_start_sources(s[i], consumer, 4096, names, 1, WAIT_MS), 0);
            CHECK(perfetto_session_flush(s[i], WAIT_MS), 0);
        }
        wait_progress();
        for (int i = 0; i < 2; i++) {
            struct seen seen = {0};
            CHECK(perfetto_flush(WAIT_MS), 0);
            CHECK(perfetto_session_stop(s[i], WAIT_MS), 0);
            CHECK(perfetto_session_read(s[i], see, &seen, WAIT_MS), 0);
            /* One that wrote little may be gone: the buffer is a ring. */
            CHECK(seen.ours[1] + seen.ours[2] + seen.ours[3] > 0, 1);
            CHECK(seen.gaps, 0);
            perfetto_session_free(s[i]);
        }
    }
    __atomic_store_n(&stop_writers, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    const struct perfetto_data_source_options stall = {.when_full = PERFETTO_WHEN_FULL_STALL};
    struct perfetto_options options = {.name = "sdk-self"};
    char why[200] = "";
    CHECK(argc, 3);
    CHECK(perfetto_private_service_start("/nonexistent", false, 0, &service, why, sizeof(why)) < 0,
          1);
    CHECK(strlen(why) > 0, 1);
    int err = perfetto_private_service_start(argv[1], false, WAIT_MS, &service, why, sizeof(why));
    if (err)
        printf("%s\n", why);
    CHECK(err, 0);
    consumer = perfetto_private_service_consumer(service);
    options.socket = perfetto_private_service_producer(service);
    struct perfetto_session *none = NULL;
    CHECK(perfetto_session_new(&none), -ENOTCONN);
    CHECK(perfetto_init(&options), 0);
    CHECK(perfetto_data_source_register(&source, name, &stall), 0);
    CHECK(perfetto_wait_connected(WAIT_MS), 0);
    CHECK(perfetto_flush(WAIT_MS), 0); /* the service knows the source now */
    what_fails();
    half_recordings();
    many_recordings();
    one_recording(argv[2]);
    CHECK(perfetto_shutdown(), 0);
    perfetto_private_service_stop(service);
    return 0;
}
