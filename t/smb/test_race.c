/* SPDX-License-Identifier: Apache-2.0 */
/* Writers and the service's scan on different threads: nothing is lost, nothing is torn (R18, R19,
 * R105). */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/bytes.h"
#include "smb/arbiter.h"
#include "smb/scan.h"
#include "smb/writer.h"

/* WINDOW packets fit in the SMB, so that the drop policy never has a reason. */
enum { WRITERS = 2, PACKETS = 100000, WINDOW = 2000, PAGES = 256 };

/* The IPC thread of the producer is played by the thread that also plays the service; requests pass
 * through a queue of encoded bytes of one. */
struct race {
    struct shmem shm;
    struct arbiter *arb;
    pthread_t service;
    _Atomic bool wanted;
    _Atomic int writers_left;
    _Atomic uint64_t got[WRITERS + 1]; /* packets whose end was seen, by writer id */
    uint32_t next_id[WRITERS + 1];     /* chunk ids must come in order (R71) */
    uint8_t *part[WRITERS + 1];
    size_t part_len[WRITERS + 1];
    uint64_t scraped;
};

/* Packet n of a writer: n, and a text whose length and bytes follow from n. */
static size_t text_len(uint64_t n)
{
    return n % 1000 == 0 ? 5000 : n * 7 % 90;
}

static void check_packet(struct race *r, uint16_t id, struct bytes_view v)
{
    struct bytes_field f;
    uint64_t n = r->got[id]++;
    cr_assert(bytes_find(v, 8, BYTES_VARINT, &f));
    cr_assert_eq(f.num, n, "writer %u: packet %llu came as number %llu", id,
                 (unsigned long long)f.num, (unsigned long long)n);
    cr_assert(bytes_find(v, 3, BYTES_LEN, &f));
    cr_assert_eq(f.data.n, text_len(n));
    for (size_t i = 0; i < f.data.n; i++)
        cr_assert_eq(f.data.p[i], (uint8_t)n);
}

static void check_chunk(struct race *r, const struct scan_chunk *c)
{
    uint16_t id = c->writer_id;
    cr_assert(id >= 1 && id <= WRITERS);
    cr_assert_eq(c->chunk_id, r->next_id[id]++);
    struct bytes_cur cur = bytes_cur(bytes_view(c->payload, c->size));
    for (uint32_t i = 0; i < c->count; i++) {
        struct bytes_view v;
        cr_assert(bytes_get_len(&cur, &v));
        bool first = i == 0 && (c->flags & SMB_FIRST_CONTINUES);
        bool last = i + 1 == c->count && (c->flags & SMB_LAST_CONTINUES);
        if (first || last) {
            r->part[id] = realloc(r->part[id], r->part_len[id] + v.n);
            memcpy(r->part[id] + r->part_len[id], v.p, v.n);
            r->part_len[id] += v.n;
            v = bytes_view(r->part[id], r->part_len[id]);
        }
        if (last)
            continue;
        if (v.n)
            check_packet(r, id, v);
        r->part_len[id] = 0;
    }
}

static void on_commit(void *ctx, const struct commit_request *req)
{
    struct race *r = ctx;
    for (size_t i = 0; i < req->move_count; i++) {
        struct scan_chunk c;
        cr_assert_eq(scan_acquire(&r->shm, req->moves[i].page, req->moves[i].chunk, &c), 0);
        check_chunk(r, &c);
        cr_assert_eq(scan_release(&r->shm, &c), 0);
    }
}

static void on_register(void *ctx, uint16_t id, uint16_t target)
{
    (void)ctx;
    (void)id;
    (void)target;
}

static void on_unregister(void *ctx, uint16_t id)
{
    (void)ctx;
    (void)id;
}

static void on_schedule(void *ctx, uint32_t delay_ms)
{
    (void)delay_ms;
    ((struct race *)ctx)->wanted = true;
}

static bool on_ipc_thread(void *ctx)
{
    return pthread_equal(pthread_self(), ((struct race *)ctx)->service);
}

static uint64_t now_ms(void *ctx)
{
    (void)ctx;
    return 0;
}

static void wait_us(void *ctx, uint32_t us)
{
    (void)ctx;
    (void)us;
    sched_yield();
}

static void stuck(void *ctx, const char *message)
{
    (void)ctx;
    cr_assert_fail("%s", message);
}

static const struct arbiter_ops ops = {
    .send_commit = on_commit,
    .register_writer = on_register,
    .unregister_writer = on_unregister,
    .schedule = on_schedule,
    .on_ipc_thread = on_ipc_thread,
    .now_ms = now_ms,
    .wait_us = wait_us,
    .exhausted = stuck,
};

static void *write_all(void *arg)
{
    struct race *r = arg;
    struct writer *w = writer_new(r->arb, 1, ARBITER_DROP);
    uint8_t text[5000];
    for (uint64_t n = 0; n < PACKETS; n++) {
        struct pbw *p = writer_begin(w);
        memset(text, (int)(uint8_t)n, text_len(n));
        pbw_varint(p, 8, n);
        pbw_bytes(p, 3, text, text_len(n));
        writer_end(w);
        while (n - r->got[writer_id(w)] > WINDOW)
            sched_yield();
    }
    cr_assert_eq(writer_drops(w), 0);
    writer_free(w);
    r->writers_left--;
    return NULL;
}

/* What a scraper believes of a chunk in the making must be whole packets of its writer. */
static void scrape(struct race *r)
{
    struct scan_iter it;
    struct scan_chunk c;
    uint32_t budget = 100000;
    scan_begin(&it, &r->shm);
    while (scan_next(&it, &budget, &c) == SCAN_FOUND) {
        cr_assert(c.writer_id >= 1 && c.writer_id <= WRITERS);
        struct bytes_cur cur = bytes_cur(bytes_view(c.payload, c.size));
        for (uint32_t i = 0; i < scan_count(&c); i++) {
            struct bytes_view v;
            cr_assert(bytes_get_len(&cur, &v));
            struct bytes_field f;
            bool first = i == 0 && (scan_flags(&c) & SMB_FIRST_CONTINUES);
            bool last = i + 1 == scan_count(&c) && (scan_flags(&c) & SMB_LAST_CONTINUES);
            if (first || last || v.n == 0)
                continue;
            cr_assert(bytes_find(v, 8, BYTES_VARINT, &f));
            cr_assert_lt(f.num, PACKETS);
            r->scraped++;
        }
    }
}

static void race_run(enum smb_layout layout)
{
    static struct race r;
    pthread_t t[WRITERS];
    memset(&r, 0, sizeof(r));
    shmem_init(&r.shm);
    cr_assert_eq(shmem_anonymous(&r.shm, (size_t)PAGES * 4096, 4096), 0);
    r.service = pthread_self();
    r.writers_left = WRITERS;
    const struct arbiter_cfg cfg = {.shm = &r.shm, .layout = layout};
    r.arb = arbiter_new(&cfg, &ops, &r);
    for (int i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, write_all, &r), 0);
    uint64_t turns = 0;
    while (r.writers_left || r.wanted) {
        if (atomic_exchange(&r.wanted, false))
            arbiter_run(r.arb);
        else
            sched_yield();
        if (turns++ % 64 == 0)
            scrape(&r);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(t[i], NULL);
    arbiter_run(r.arb);
    for (int i = 1; i <= WRITERS; i++) {
        cr_assert_eq(r.got[i], PACKETS);
        free(r.part[i]);
    }
    cr_assert_gt(r.scraped, 0);
    for (uint32_t p = 0; p < r.shm.pages; p++)
        cr_assert_eq(page_word(&r.shm, p), 0, "page %u is still taken", p);
    cr_assert(arbiter_shutdown(r.arb));
    arbiter_free(r.arb);
    shmem_fini(&r.shm);
}

Test(race, T59_lossless_with_many_chunks_per_page, .timeout = 120)
{
    race_run(SMB_LAYOUT_DIV14);
}

Test(race, lossless_with_one_chunk_per_page, .timeout = 120)
{
    race_run(SMB_LAYOUT_DIV1);
}
