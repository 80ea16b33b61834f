/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a session remembers to tell at the next read: its lifecycle events and those of concurrent
 * sessions (service.md 7.7, 7.8), and the clock snapshots that go with them. Histories are bounded
 * by kind; what is pushed out is the oldest of its kind. Events are recorded even when the config
 * turns them off (R134), because a clone may not.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "svc/dsconfig.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

void session_event_snapshot(struct session *s)
{
    if (!s->cfg->no_clock_snapshots)
        clocksnap_ring_attempt(&s->clocks);
}

/* ---- the list ---- */

static void remove_at(struct session *s, size_t i)
{
    free(s->events[i].packet.p);
    memmove(s->events + i, s->events + i + 1, (s->nevents - i - 1) * sizeof(*s->events));
    s->nevents--;
}

/* How many of a kind are kept; 0: any number, bounded by something else. */
static size_t history(enum selfpkt_event kind)
{
    switch (kind) {
    case SELFPKT_FLUSH_STARTED:
    case SELFPKT_ALL_DATA_SOURCES_FLUSHED:
    case SELFPKT_LAST_FLUSH_SLOW:
        return SESSION_FLUSH_EVENTS;
    case SELFPKT_BUFFER_CLONED:
        return 0; /* one per buffer */
    default:
        return 1;
    }
}

static void make_room(struct session *s, enum selfpkt_event kind)
{
    size_t limit = history(kind), n = 0, oldest = 0;
    for (size_t i = s->nevents; i-- > 0;) {
        if (s->events[i].kind == kind) {
            oldest = i;
            n++;
        }
    }
    if (limit && n >= limit)
        remove_at(s, oldest);
}

static struct session_event *add(struct session *s, enum selfpkt_event kind, uint64_t boot_ns)
{
    make_room(s, kind);
    if (s->nevents == s->events_cap) {
        s->events_cap = s->events_cap ? s->events_cap * 2 : 8;
        s->events = alloc_resize(s->events, s->events_cap, sizeof(*s->events));
    }
    struct session_event *e = &s->events[s->nevents++];
    *e = (struct session_event){.boot_ns = boot_ns, .kind = kind};
    return e;
}

void session_event_record_at(struct session *s, enum selfpkt_event kind, uint32_t value,
                             uint64_t boot_ns)
{
    add(s, kind, boot_ns)->value = value;
}

void session_event_record(struct session *s, enum selfpkt_event kind, bool snapshot)
{
    if (snapshot)
        session_event_snapshot(s);
    session_event_record_at(s, kind, 1, chrono_boot_ns());
}

void session_event_drop(struct session *s, enum selfpkt_event kind)
{
    for (size_t i = s->nevents; i-- > 0;) {
        if (s->events[i].kind == kind)
            remove_at(s, i);
    }
}

void session_event_free_all(struct session *s)
{
    while (s->nevents > 0)
        remove_at(s, s->nevents - 1);
    free(s->events);
    s->events = NULL;
    s->events_cap = 0;
}

/* ---- slow data sources (R23, R96) ---- */

#define SLOW_TEXTS (64u << 10) /* bytes of the names in one event: peers may have long ones */

static bool listed(const uint16_t *producers, uint32_t n, uint16_t id)
{
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (producers[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && producers[lo] == id;
}

void session_event_slow(struct session *s, enum selfpkt_event kind, const uint16_t *producers,
                        uint32_t n)
{
    struct selfpkt_slow slow[SESSION_SLOW_NAMES];
    size_t nslow = 0, texts = 0;
    list_for_each (it, &s->instances) {
        const struct dsinst *i = list_entry(it, struct dsinst, in_session);
        bool is_slow = kind == SELFPKT_SLOW_STARTING ? i->state != DSINST_STARTED
                                                     : listed(producers, n, i->producer->id);
        if (!is_slow)
            continue;
        texts += i->producer->name_len + i->config->name.n;
        if (nslow == SESSION_SLOW_NAMES || texts > SLOW_TEXTS)
            break;
        slow[nslow++] = (struct selfpkt_slow){producer_name(i->producer), i->config->name};
    }
    struct bytesbuf b;
    uint64_t now = chrono_boot_ns();
    bytesbuf_init(&b, 8u << 20);
    selfpkt_slow_event(&b, now, kind, slow, nslow);
    if (!b.failed) {
        struct session_event *e = add(s, kind, now);
        e->packet.p = bytesbuf_take(&b, &e->packet.n);
    }
    bytesbuf_fini(&b);
}

/* ---- concurrent sessions (R135) ---- */

void session_event_concurrent(struct session *s, const struct session *other, uint64_t boot_ns)
{
    if (s->nconcurrent >= SESSION_CONCURRENT)
        return;
    struct bytes_view name = other->cfg->unique_session_name;
    char *text = alloc_strndup(name.n ? (const char *)name.p : "", name.n);
    const struct selfpkt_concurrent e = {
        .boot_ns = boot_ns,
        .state = session_state_number(other->state),
        .session_name = text,
        .session_id = other->id,
        .consumer_uid = other->uid,
        .num_data_sources = other->ninstances,
    };
    size_t at = s->concurrent.n;
    struct session_concurrent head = {.boot_ns = boot_ns};
    bytesbuf_put(&s->concurrent, &head, sizeof(head));
    selfpkt_concurrent_session(&s->concurrent, &e);
    if (s->concurrent.failed) {
        s->concurrent.n = at;
        s->concurrent.failed = false;
    } else {
        head.size = s->concurrent.n - at - sizeof(head);
        memcpy(s->concurrent.p + at, &head, sizeof(head));
        s->nconcurrent++;
    }
    free(text);
}

/* ---- emission ---- */

/* Reserves the size word of a packet in out; close_packet fills it. */
static size_t open_packet(struct bytesbuf *out)
{
    bytesbuf_put_u32(out, 0);
    return out->n;
}

static void close_packet(struct bytesbuf *out, size_t start)
{
    if (!out->failed)
        bytes_store32(out->p + start - sizeof(uint32_t), (uint32_t)(out->n - start));
}

static int by_time(const void *a, const void *b)
{
    const struct session_event *x = a, *y = b;
    return (x->boot_ns > y->boot_ns) - (x->boot_ns < y->boot_ns);
}

void session_event_emit(struct session *s, struct bytesbuf *out)
{
    /* Recorded in order but for clones; an insertion sort is stable and has nothing to do. */
    for (size_t i = 1; i < s->nevents; i++) {
        struct session_event e = s->events[i];
        size_t k = i;
        for (; k > 0 && by_time(&s->events[k - 1], &e) > 0; k--)
            s->events[k] = s->events[k - 1];
        s->events[k] = e;
    }
    for (size_t i = 0; i < s->nevents; i++) {
        const struct session_event *e = &s->events[i];
        size_t start = open_packet(out);
        if (e->packet.p)
            bytesbuf_put(out, e->packet.p, e->packet.n);
        else
            selfpkt_event(out, e->boot_ns, e->kind, e->value);
        close_packet(out, start);
    }
    while (s->nevents > 0)
        remove_at(s, s->nevents - 1);
}

struct placed {
    uint64_t boot_ns;
    size_t at;
    size_t size;
};

static int by_place(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->boot_ns != y->boot_ns)
        return x->boot_ns < y->boot_ns ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

void session_event_emit_concurrent(struct session *s, struct bytesbuf *out)
{
    struct placed *all = alloc_array(s->nconcurrent, sizeof(*all));
    size_t at = 0;
    for (uint32_t i = 0; i < s->nconcurrent; i++) {
        struct session_concurrent head;
        memcpy(&head, s->concurrent.p + at, sizeof(head));
        at += sizeof(head);
        all[i] = (struct placed){head.boot_ns, at, head.size};
        at += head.size;
    }
    qsort(all, s->nconcurrent, sizeof(*all), by_place);
    for (uint32_t i = 0; i < s->nconcurrent; i++) {
        size_t start = open_packet(out);
        bytesbuf_put(out, s->concurrent.p + all[i].at, all[i].size);
        close_packet(out, start);
    }
    free(all);
    bytesbuf_clear(&s->concurrent);
    s->nconcurrent = 0;
}

/* ---- clones (R218) ---- */

int session_event_copy(struct session *to, const struct session *from)
{
    for (size_t i = 0; i < from->nevents; i++) {
        const struct session_event *e = &from->events[i];
        struct session_event *copy = add(to, e->kind, e->boot_ns);
        copy->value = e->value;
        int err = msg_body_copy(&copy->packet, e->packet.p, e->packet.n);
        if (err)
            return err;
    }
    bytesbuf_put(&to->concurrent, from->concurrent.p, from->concurrent.n);
    to->nconcurrent = from->nconcurrent;
    return to->concurrent.failed ? -ENOMEM : 0;
}
