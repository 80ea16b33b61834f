/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hub: it makes and unmakes the service, finds producers, consumers and sessions by id, and
 * tells an operator how things stand. It owns the registries of svc/service_int.h and no peer:
 * endpoints and sessions enter and leave the lists themselves. Nothing here knows a socket, a frame
 * or a packet.
 */
#include "svc/service.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/consumer.h"
#include "svc/drain.h"
#include "svc/producer.h"
#include "svc/filehost.h"
#include "svc/filewr.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define MAX_PRODUCERS 65535 /* R43 */
#define MAX_BUFFER_ID 65535

#define SLICES_REPORTED 16 /* who ran the longest */

/* How long service_end lets files take what is left: so long without a byte, and in all. */
#define FAREWELL_NS     (3 * CHRONO_SEC)
#define FAREWELL_MAX_NS (20 * CHRONO_SEC)

int service_new(struct reactor *r, const struct service_options *opt, struct service **out)
{
    struct service *svc = alloc_new(struct service);
    svc->reactor = r;
    svc->book = charge_book_new(opt->limits);
    svc->files = opt->files ? opt->files : filehost_new();
    svc->version = alloc_strdup(opt->version);
    svc->machine_name = alloc_strdup(opt->machine_name);
    svc->uid = geteuid();
    svc->descriptors = opt->descriptors;
    svc->ndescriptors = opt->ndescriptors;
    svc->scrape_by_default = opt->scrape_by_default;
    struct list *lists[] = {&svc->producers,   &svc->consumers,   &svc->sessions,
                            &svc->leaving,     &svc->drain_queue, &svc->cooldowns,
                            &svc->activations, &svc->relays,      &svc->boosts};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        list_init(lists[i]);
    struct idmap *maps[] = {&svc->producer_of, &svc->endpoints, &svc->consumer_of,
                            &svc->buffers,     &svc->instances, &svc->activation_counts};
    for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++)
        idmap_init(maps[i]);
    idmap_ids_init(&svc->producer_ids, 1, MAX_PRODUCERS);
    idmap_ids_init(&svc->buffer_ids, 1, MAX_BUFFER_ID);
    producer_sources_init(svc);
    drain_init(svc);
    session_flush_open(svc);
    giveback_init(&svc->giveback, r);
    *out = svc;
    return 0;
}

/* Changes as long as some file takes something. */
static uint64_t files_taken(const struct service *svc)
{
    uint64_t n = 0;
    list_for_each (it, &svc->leaving) {
        const struct session *s = list_entry(it, struct session, node);
        if (s->file)
            n += filewr_written(s->file) - filewr_backlog(s->file) + 1;
    }
    return n;
}

/* Lets actors die and files finish, for a bounded time. */
static void let_go(struct service *svc)
{
    uint64_t now = chrono_mono_ns(), last = now + FAREWELL_MAX_NS, end = now + FAREWELL_NS;
    uint64_t taken = files_taken(svc);
    unsigned ticks = 0; /* a virtual clock may stand still */
    do {
        if (reactor_tick(svc->reactor, list_empty(&svc->leaving) ? 0 : 10 * CHRONO_MS) < 0)
            return;
        now = chrono_mono_ns();
        if (files_taken(svc) != taken)
            end = now + FAREWELL_NS;
        taken = files_taken(svc);
    } while (!list_empty(&svc->leaving) && now < end && now < last && ++ticks < 10000);
}

void service_end(struct service *svc)
{
    if (!svc)
        return;
    svc->ending = true;
    while (!list_empty(&svc->sessions))
        session_free(list_first(&svc->sessions, struct session, node), NULL);
    let_go(svc);
    list_for_each_safe (it, tmp, &svc->leaving) {
        struct session *s = list_entry(it, struct session, node);
        if (s->file && filewr_handed_on(s->file))
            log_info("session %" PRIu64 ": its file is still being written", s->id);
        else
            log_warn("session %" PRIu64
                     ": its file did not take all data in time; the rest is lost",
                     s->id);
        session_destroy(s);
    }
}

void service_free(struct service *svc)
{
    if (!svc)
        return;
    service_end(svc);
    list_for_each_safe (it, tmp, &svc->consumers)
        consumer_destroy(list_entry(it, struct consumer, node));
    list_for_each_safe (it, tmp, &svc->producers)
        producer_destroy(list_entry(it, struct producer, node));
    reactor_tick(svc->reactor, 0);
    drain_fini(svc);
    session_flush_close(svc);
    giveback_fini(&svc->giveback);
    session_trigger_forget(svc);
    session_admit_forget(svc);
    service_relay_forget(svc);
    idmap_fini(&svc->producer_of);
    idmap_fini(&svc->endpoints);
    idmap_fini(&svc->consumer_of);
    idmap_fini(&svc->buffers);
    idmap_fini(&svc->instances);
    filehost_free(svc->files);
    charge_book_free(svc->book);
    free(svc->version);
    free(svc->machine_name);
    free(svc);
}

bool service_idle(const struct service *svc)
{
    return list_empty(&svc->producers) && list_empty(&svc->consumers) &&
           list_empty(&svc->sessions) && list_empty(&svc->leaving);
}

struct charge_book *service_charges(struct service *svc)
{
    return svc->book;
}

/* ---- endpoints ---- */

int service_add_producer(struct service *svc, const struct service_producer *p, uint64_t *endpoint,
                         bool *adopted)
{
    int err = producer_new(svc, p, endpoint, adopted);
    if (err)
        svc->count.producers_refused++;
    return err;
}

bool service_producer_full(struct service *svc, uint64_t endpoint)
{
    struct producer *p = service_endpoint(svc, endpoint);
    return p && producer_full(p);
}

int service_add_consumer(struct service *svc, const struct service_consumer *c, uint64_t *endpoint)
{
    return consumer_new(svc, c, endpoint);
}

bool service_consumer_full(struct service *svc, uint64_t endpoint)
{
    struct consumer *c = service_consumer_of(svc, endpoint);
    return c && consumer_full(c);
}

struct producer *service_endpoint(struct service *svc, uint64_t actor)
{
    return idmap_get(&svc->endpoints, actor);
}

struct consumer *service_consumer_of(const struct service *svc, uint64_t actor)
{
    return actor ? idmap_get(&svc->consumer_of, actor) : NULL;
}

/* ---- sessions ---- */

struct session *service_session(const struct service *svc, uint64_t id)
{
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        if (s->id == id)
            return s;
    }
    return NULL;
}

size_t service_buffers(const struct service *svc)
{
    size_t n = 0;
    list_for_each (it, &svc->sessions)
        n += list_entry(it, struct session, node)->nbuffers;
    return n;
}

size_t service_sessions(const struct service *svc)
{
    return list_count(&svc->sessions);
}

size_t service_sessions_of(const struct service *svc, uid_t uid)
{
    size_t n = 0;
    list_for_each (it, &svc->sessions)
        n += list_entry(it, struct session, node)->uid == uid;
    return n;
}

/* ---- report ---- */

static void report_charges(FILE *out, const struct charge_book *book)
{
    fprintf(out, "charged:");
    for (int k = 0; k < CHARGE_KINDS; k++) {
        if (k != CHARGE_SESSIONS) /* counted, not charged */
            fprintf(out, " %" PRIu64 " %s,", charge_total(book, k),
                    charge_kind_name((enum charge_kind)k));
    }
    fprintf(out, " to %zu uids\n", charge_accounts(book));
}

static void report_session(FILE *out, const struct session *s)
{
    fprintf(out, "session %" PRIu64 ": %s, uid %u, %zu buffers, %u instances, %u flushes pending\n",
            s->id, session_state_name(s->state), (unsigned)s->uid, s->nbuffers, s->ninstances,
            s->nflushes);
    if (s->file)
        fprintf(out, "  file: %" PRIu64 " bytes, %" PRIu64 " on their way%s\n",
                filewr_written(s->file), filewr_backlog(s->file),
                filewr_state(s->file) != FILEWR_BUSY ? ""
                : filewr_on_disk(s->file)            ? ", waits for its disk"
                                                     : ", waits for its reader");
    if (s->error)
        fprintf(out, "  error: %s\n", s->error);
    for (size_t i = 0; i < s->nbuffers; i++) {
        const struct tbuf_stats *b = tbuf_stats(s->buffers[i].tb);
        fprintf(out,
                "  buffer %zu: %" PRIu64 " of %" PRIu64 " bytes used, %" PRIu64
                " chunks written, %" PRIu64 " overwritten, %" PRIu64 " discarded, %" PRIu64
                " violations, %" PRIu64 " packets lost by writers\n",
                i, tbuf_used_size(s->buffers[i].tb), b->buffer_size, b->chunks_written,
                b->chunks_overwritten, b->chunks_discarded, b->abi_violations,
                b->trace_writer_packet_loss);
    }
}

static void report_producer(FILE *out, const struct producer *p)
{
    fprintf(out,
            "producer %u: pid %d uid %u, %u data sources, SMB %zu bytes, %" PRIu64
            " chunks, %" PRIu64 " bytes, %u messages waiting\n",
            p->id, (int)p->pid, (unsigned)p->uid, p->nsources, p->shm.size, p->chunks_moved,
            p->bytes_moved, mailbox_count(&p->queue));
}

static void report_slices(FILE *out, const struct reactor *r)
{
    struct slices_source top[SLICES_REPORTED];
    unsigned n = reactor_sources(r, top, SLICES_REPORTED);
    for (unsigned i = 0; i < n; i++)
        fprintf(out,
                "slices: %s: longest %" PRIu64 " us, %" PRIu64 " over; with waits %" PRIu64
                " us, %" PRIu64 " over\n",
                top[i].name, top[i].longest_ns / CHRONO_US, top[i].over,
                top[i].longest_wall_ns / CHRONO_US, top[i].over_wall);
}

void service_report(const struct service *svc, FILE *out)
{
    const struct service_counters *c = &svc->count;
    fprintf(out, "service: %zu producers, %zu consumers, %zu sessions, %u data sources\n",
            idmap_count(&svc->producer_of), idmap_count(&svc->consumer_of), service_sessions(svc),
            svc->nsources);
    fprintf(out,
            "commits: %" PRIu64 " requests, %" PRIu64 " chunks, %" PRIu64 " bytes; lost: %" PRIu64
            " chunks discarded, %" PRIu64 " patches discarded, %" PRIu64 " chunks skipped, %" PRIu64
            " pages given up\n",
            c->commits, c->chunks_moved, c->bytes_moved, c->chunks_discarded, c->patches_discarded,
            c->chunks_skipped, c->pages_given_up);
    fprintf(out, "refused: %" PRIu64 " sessions, %" PRIu64 " producers\n", c->sessions_refused,
            c->producers_refused);
    report_charges(out, svc->book);
    for (int m = 0; m < REACTOR_METRICS; m++)
        fprintf(out, "loop: %s %" PRIu64 "\n", reactor_metric_name((enum reactor_metric)m),
                reactor_metric(svc->reactor, (enum reactor_metric)m));
    report_slices(out, svc->reactor);
    list_for_each (it, &svc->sessions)
        report_session(out, list_entry(it, struct session, node));
    list_for_each (it, &svc->producers)
        report_producer(out, list_entry(it, struct producer, node));
    fprintf(out, "end of report\n");
}
