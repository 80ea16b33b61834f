/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tracing costs the program that traces itself: a call while nobody records, and a small
 * packet from one and from two threads while a session of a private service does. The service runs
 * on the same cores; times are CPU time of the writing threads, commits included. Reports figures,
 * asserts nothing.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "perfetto/public/packet.h"
#include "perfetto/public/private_service.h"
#include "perfetto/public/producer.h"
#include "perfetto/public/session.h"
#include "reactor/chrono.h"

enum { WAIT_MS = 20000, THREADS = 2, ROUNDS = 7 };

static struct perfetto_data_source source;

struct work {
    uint64_t count;
    bool stamp;
    uint64_t took; /* out: CPU time of the thread, ns */
};

static void call(uint64_t n, bool stamp)
{
    PERFETTO_TRACE (&source, p) {
        if (stamp)
            perfetto_packet_timestamp(p);
        perfetto_packet_begin_nested(p, 900);
        perfetto_packet_varint(p, 3, n);
        perfetto_packet_end_nested(p);
    }
}

static void *calls(void *arg)
{
    struct work *w = arg;
    uint64_t from = chrono_ns(CLOCK_THREAD_CPUTIME_ID);
    for (uint64_t n = 0; n < w->count; n++) {
        call(n, w->stamp);
        __asm__ volatile("" ::: "memory"); /* look at `active` each time */
    }
    w->took = chrono_ns(CLOCK_THREAD_CPUTIME_ID) - from;
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of some rounds. */
static void measure(const char *what, int threads, bool stamp, uint64_t count)
{
    double each[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        struct work w[THREADS] = {{count, stamp, 0}, {count, stamp, 0}};
        pthread_t other;
        if (threads > 1 && pthread_create(&other, NULL, calls, &w[1]) != 0)
            return;
        calls(&w[0]);
        if (threads > 1)
            pthread_join(other, NULL);
        each[round] = (double)(w[0].took + w[1].took) / (double)count / threads;
    }
    qsort(each, ROUNDS, sizeof(each[0]), by_size);
    printf("%-44s %8.1f ns\n", what, each[ROUNDS / 2]);
}

static void need(int err, const char *what)
{
    if (err) {
        printf("%s: %d\n", what, err);
        exit(1);
    }
}

int main(void)
{
    static const char name[] = "bench.client";
    static const char *const names[] = {name};
    const struct perfetto_data_source_options stall = {.when_full = PERFETTO_WHEN_FULL_STALL};
    struct perfetto_private_service *service = NULL;
    struct perfetto_session *s = NULL;
    char why[200] = "";
    int err = perfetto_private_service_start(".", false, WAIT_MS, &service, why, sizeof(why));
    need(err, why);
    const struct perfetto_options options = {.socket = perfetto_private_service_producer(service),
                                             .shm_size_kb = 4096,
                                             .shm_page_kb = 32};
    need(perfetto_init(&options), "init");
    need(perfetto_data_source_register(&source, name, &stall), "register");
    need(perfetto_wait_connected(WAIT_MS), "connect");
    need(perfetto_flush(WAIT_MS), "flush");
    measure("call while nobody records", 1, true, 50000000);
    need(perfetto_session_new(&s), "session");
    need(perfetto_session_start_sources(s, perfetto_private_service_consumer(service), 4096, names,
                                        1, WAIT_MS),
         "start");
    measure("small packet, one thread", 1, false, 300000);
    measure("small packet, each of two threads", THREADS, false, 300000);
    measure("the same with a timestamp, one thread", 1, true, 300000);
    need(perfetto_session_stop(s, WAIT_MS), "stop");
    perfetto_session_free(s);
    need(perfetto_shutdown(), "shutdown");
    perfetto_private_service_stop(service);
    return 0;
}
