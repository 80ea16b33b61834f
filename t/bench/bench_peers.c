/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one request costs the loop when there are many of everything: 10,000 producers, 16,384
 * instances, 1,000 pending flushes. The service in this process, driven by messages alone; what is
 * reported for each step is the longest time for which it held the loop, who did so, and the CPU
 * time of all of it. Reports figures, asserts nothing.
 *
 *   bench_peers [WORD]     only the groups whose name holds WORD
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/charge.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/log.h"
#include "reactor/reactor.h"
#include "svc/dsconfig.h"
#include "svc/messages.h"
#include "svc/service.h"

#define PRODUCERS 10000
#define INSTANCES 16384

/* A transport that writes down the little that the steps below need. */
struct port {
    struct actor actor;
    uint64_t endpoint;
    bool acks;
    uint64_t flush; /* requested last */
    size_t replies, parts, bytes;
};

static struct reactor *reactor;
static struct service *svc;
static struct port *producers;
static size_t nproducers;

/* ---- fakes ---- */

static void post(struct port *p, enum msg_kind kind, const void *payload, size_t size)
{
    actor_post(reactor, p->endpoint, p->actor.id, (uint16_t)kind, payload, size);
}

static void post_body(struct port *p, enum msg_kind kind, const struct bytesbuf *b)
{
    struct msg_request m = {.cookie = 1};
    if (msg_body_copy(&m.body, b->p, b->n))
        exit(1);
    post(p, kind, &m, sizeof(m));
}

static void ack_flush(struct port *p, uint64_t id)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, PBF_CommitDataRequest_flush_request_id, id);
    post_body(p, MSG_P_COMMIT, &b);
    bytesbuf_fini(&b);
}

static void handle(struct actor *a, struct mailbox_msg *m)
{
    struct port *p = list_entry(a, struct port, actor);
    if (m->kind == MSG_PP_FLUSH) {
        p->flush = ((const struct msg_flush_command *)(const void *)m->data)->request;
        if (p->acks)
            ack_flush(p, p->flush);
    }
    if (m->kind == MSG_CP_REPLY) {
        const struct msg_reply *r = (const struct msg_reply *)(const void *)m->data;
        p->parts++;
        p->bytes += r->body.n;
        p->replies += !r->more;
    }
}

static const struct actor_ops ops = {handle, NULL};

static const struct mailbox_limits wide = {
    .max_count = 1u << 24, .max_bytes = (size_t)1 << 34, .when_full = MAILBOX_REFUSE_NEW};

static void settle(void)
{
    uint64_t slices;
    do {
        slices = reactor_metric(reactor, REACTOR_SLICES);
        reactor_tick(reactor, 0);
    } while (reactor_metric(reactor, REACTOR_SLICES) != slices || reactor_pending(reactor));
}

static void begin(void)
{
    struct charge_limit limits[CHARGE_KINDS];
    const struct reactor_opts opts = {.table = msg_table};
    for (size_t k = 0; k < CHARGE_KINDS; k++)
        limits[k] = (struct charge_limit){UINT64_MAX, UINT64_MAX};
    limits[CHARGE_SESSIONS] = (struct charge_limit){5, 15};
    const struct service_options so = {
        .version = "bench", .machine_name = "bench", .limits = limits};
    reactor = reactor_new(&opts);
    if (!reactor || service_new(reactor, &so, &svc))
        exit(1);
}

static void end(void)
{
    for (size_t i = 0; i < nproducers; i++)
        actor_kill(&producers[i].actor);
    service_free(svc);
    reactor_free(reactor);
    free(producers);
    producers = NULL;
    nproducers = 0;
}

static void add_producer(struct port *p, const char *name)
{
    bool adopted;
    if (actor_init(&p->actor, reactor, name, &ops, &wide))
        exit(1);
    const struct service_producer sp = {.port = p->actor.id,
                                        .uid = 1000,
                                        .pid = 1,
                                        .machine_name = "bench",
                                        .name = bytes_str(name),
                                        .sdk_version = bytes_str("sdk"),
                                        .size_hint = 4096,
                                        .shmem_fd = -1};
    if (service_add_producer(svc, &sp, &p->endpoint, &adopted))
        exit(1);
}

static void add_source(struct port *p, const char *name)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 256);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, name);
    post_body(p, MSG_P_REGISTER, &b);
    bytesbuf_fini(&b);
}

static void add_producers(size_t n)
{
    char name[32];
    producers = calloc(n, sizeof(*producers));
    nproducers = n;
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "producer%zu", i);
        add_producer(&producers[i], name);
        add_source(&producers[i], "many");
    }
    settle();
}

static int no_packet(void *arg, uint64_t port, uint64_t cookie, const struct packet *pkt)
{
    (void)arg, (void)port, (void)cookie, (void)pkt;
    return 0;
}

static int no_flush(void *arg, uint64_t port, uint64_t cookie, bool more)
{
    (void)arg, (void)port, (void)cookie, (void)more;
    return 0;
}

static bool always_room(void *arg, uint64_t port)
{
    (void)arg, (void)port;
    return true;
}

static void add_consumer(struct port *c)
{
    static const struct service_sink sink = {no_packet, no_flush, always_room, NULL};
    *c = (struct port){0};
    if (actor_init(&c->actor, reactor, "consumer", &ops, &wide))
        exit(1);
    const struct service_consumer sc = {.port = c->actor.id, .uid = 0, .pid = 1, .sink = &sink};
    if (service_add_consumer(svc, &sc, &c->endpoint))
        exit(1);
}

static void ask(struct port *c, enum msg_kind kind)
{
    struct msg_request m = {.cookie = 2};
    post(c, kind, &m, sizeof(m));
}

static void enable(struct port *c, const char *source, unsigned entries, bool deferred)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 1u << 20);
    size_t mark = bytesbuf_pb_begin(&b, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&b, PBF_TraceConfig_BufferConfig_size_kb, 64);
    bytesbuf_pb_end(&b, mark);
    for (unsigned i = 0; i < entries; i++) {
        mark = bytesbuf_pb_begin(&b, PBF_TraceConfig_data_sources);
        size_t inner = bytesbuf_pb_begin(&b, PBF_TraceConfig_DataSource_config);
        bytesbuf_pb_str(&b, PBF_DataSourceConfig_name, source);
        bytesbuf_pb_end(&b, inner);
        bytesbuf_pb_end(&b, mark);
    }
    bytesbuf_pb_varint(&b, PBF_TraceConfig_deferred_start, deferred);
    struct msg_enable m = {.cookie = 1, .fd = -1};
    if (msg_body_copy(&m.body, b.p, b.n))
        exit(1);
    post(c, MSG_C_ENABLE, &m, sizeof(m));
    bytesbuf_fini(&b);
}

static void flush(struct port *c)
{
    struct msg_flush_request m = {.cookie = 3, .timeout_ms = 600000};
    post(c, MSG_C_FLUSH, &m, sizeof(m));
}

/* ---- steps ---- */

static uint64_t step_cpu;

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void step_begin(void)
{
    settle();
    reactor_metrics_reset(reactor);
    step_cpu = cpu_ns();
}

static void step_end(const char *what)
{
    struct slices_source who = {.name = "nobody"};
    settle();
    uint64_t all = cpu_ns() - step_cpu;
    (void)reactor_sources(reactor, &who, 1);
    printf("%-52s longest slice %6.2f ms by %-24s all %7.2f ms\n", what,
           (double)reactor_metric(reactor, REACTOR_LONGEST_SLICE_NS) / 1e6, who.name,
           (double)all / 1e6);
    fflush(stdout);
}

/* ---- groups ---- */

static void bye_all(void)
{
    struct msg_empty bye = {0};
    for (size_t i = 0; i < nproducers; i++)
        post(&producers[i], MSG_P_BYE, &bye, sizeof(bye));
}

static void bench_session(void)
{
    struct port c, other;
    begin();
    add_producers(PRODUCERS);
    add_consumer(&c);
    add_consumer(&other);
    step_begin();
    enable(&c, "many", 1, true);
    step_end("session: set up 10,000 instances, memory included");
    struct msg_observe all = {.cookie = 9, .mask = 7};
    step_begin();
    post(&c, MSG_C_OBSERVE, &all, sizeof(all));
    step_end("session: observe 10,000 instances");
    step_begin();
    ask(&c, MSG_C_START);
    step_end("session: start them");
    for (size_t i = 0; i < nproducers; i++)
        producers[i].acks = true;
    step_begin();
    flush(&c);
    step_end("session: flush, all acknowledge");
    struct msg_query q = {.cookie = 4};
    other.parts = other.bytes = 0;
    step_begin();
    post(&other, MSG_C_QUERY, &q, sizeof(q));
    step_end("session: QueryServiceState");
    printf("  (%zu parts, %zu bytes)\n", other.parts, other.bytes);
    step_begin();
    ask(&c, MSG_C_DISABLE);
    step_end("session: stop");
    step_begin();
    ask(&c, MSG_C_FREE);
    step_end("session: free");
    step_begin();
    enable(&c, "many", 1, false);
    step_end("session: set up and start a second one");
    step_begin();
    ask(&c, MSG_C_FREE);
    step_end("session: free it while it runs");
    enable(&c, "many", 1, false);
    step_begin();
    bye_all();
    step_end("session: all producers leave at once");
    actor_kill(&c.actor);
    actor_kill(&other.actor);
    end();
}

static void bench_flush(void)
{
    struct port c;
    begin();
    add_producers(1000);
    add_consumer(&c);
    enable(&c, "many", 1, false);
    step_begin();
    for (int i = 0; i < 1000; i++)
        flush(&c);
    step_end("flush: 1,000 flushes of 1,000 producers are begun");
    uint64_t last = producers[0].flush;
    step_begin();
    for (size_t i = 1; i < nproducers; i++)
        ack_flush(&producers[i], last);
    step_end("flush: 999 producers acknowledge all of them");
    step_begin();
    ack_flush(&producers[0], last);
    step_end("flush: the last one does");
    for (int i = 0; i < 1000; i++)
        flush(&c);
    settle();
    last = producers[0].flush;
    step_begin();
    for (uint64_t id = last - 999; id <= last; id++)
        for (size_t i = 1; i < 100; i++)
            ack_flush(&producers[i], id);
    step_end("flush: 100 producers acknowledge them one by one");
    step_begin();
    ask(&c, MSG_C_FREE);
    step_end("flush: free with 1,000 pending");
    actor_kill(&c.actor);
    end();
}

static void bench_one(void)
{
    struct port c[5];
    begin();
    producers = calloc(2, sizeof(*producers));
    nproducers = 2;
    add_producer(&producers[0], "one");
    add_producer(&producers[1], "two");
    step_begin();
    for (int i = 0; i < INSTANCES; i++)
        add_source(&producers[0], "many");
    step_end("one producer: register 16,384 data sources");
    for (int i = 0; i < 5; i++) {
        add_consumer(&c[i]);
        step_begin();
        enable(&c[i], "many", 1, false);
        step_end("one producer: session of 16,384 instances");
    }
    step_begin();
    add_source(&producers[1], "many");
    step_end("one producer: another registers the same name");
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_put(&b, "many", 4);
    step_begin();
    post_body(&producers[0], MSG_P_UNREGISTER, &b);
    step_end("one producer: unregister that name in 5 sessions");
    bytesbuf_fini(&b);
    struct msg_empty bye = {0};
    for (int i = 0; i < 5; i++) {
        ask(&c[i], MSG_C_FREE);
        enable(&c[i], "many", 1, false);
    }
    step_begin();
    post(&producers[0], MSG_P_BYE, &bye, sizeof(bye));
    step_end("one producer: it leaves, 81,915 instances");
    for (int i = 0; i < 5; i++)
        actor_kill(&c[i].actor);
    end();
}

static void bench_entries(void)
{
    struct port c[5];
    begin();
    add_producers(160);
    for (int i = 0; i < 5; i++) {
        add_consumer(&c[i]);
        step_begin();
        enable(&c[i], "many", 100, false);
        step_end("entries: 100 of one name, 160 producers");
    }
    for (int i = 0; i < 5; i++)
        ask(&c[i], MSG_C_FREE);
    settle();
    for (int i = 0; i < 5; i++)
        enable(&c[i], "other", 10000, false);
    step_begin();
    add_source(&producers[0], "another");
    step_end("entries: register beside 5 configs of 10,000 entries");
    for (int i = 0; i < 5; i++)
        actor_kill(&c[i].actor);
    end();
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } groups[] = {
        {"session", bench_session},
        {"flush", bench_flush},
        {"one", bench_one},
        {"entries", bench_entries},
    };
    const char *word = argc > 1 ? argv[1] : "";
    log_set_level(LOG_LEVEL_ERROR);
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        if (strstr(groups[i].name, word))
            groups[i].run();
    }
    return 0;
}
