/* SPDX-License-Identifier: Apache-2.0 */
#include "fake.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static void store(struct fake *f, const struct scan_chunk *c, uint32_t target)
{
    f->chunks = realloc(f->chunks, (f->chunk_count + 1) * sizeof(*f->chunks));
    struct fake_chunk *to = &f->chunks[f->chunk_count++];
    to->head = *c;
    to->target = target;
    to->payload = malloc(c->size ? c->size : 1);
    memcpy(to->payload, c->payload, c->size);
}

const struct fake_chunk *fake_chunk(const struct fake *f, uint16_t writer_id, uint32_t chunk_id)
{
    for (size_t i = f->chunk_count; i-- > 0;)
        if (f->chunks[i].head.writer_id == writer_id && f->chunks[i].head.chunk_id == chunk_id)
            return &f->chunks[i];
    return NULL;
}

static void take_moves(struct fake *f, const struct commit_view *v)
{
    struct commit_pos pos = {0};
    struct commit_move m;
    while (commit_next_move(v, &pos, &m)) {
        struct scan_chunk c;
        if (m.data) {
            cr_assert_eq(scan_data(m.data, m.data_len, m.incomplete, &c), 0);
            store(f, &c, m.target_buffer);
            continue;
        }
        cr_assert_eq(scan_acquire(&f->shm, m.page, m.chunk, &c), 0);
        store(f, &c, m.target_buffer);
        cr_assert_eq(scan_release(&f->shm, &c), 0);
    }
}

static void take_patches(struct fake *f, const struct commit_view *v)
{
    struct commit_pos pos = {0};
    struct commit_entry_view e;
    while (commit_next_entry(v, &pos, &e)) {
        struct commit_pos at = {0};
        struct commit_patch_view p;
        struct fake_chunk *c =
            (struct fake_chunk *)fake_chunk(f, (uint16_t)e.writer_id, e.chunk_id);
        while (commit_next_patch(&e, &at, &p)) {
            if (!c || p.data_len != 4 || (uint64_t)p.offset + 4 > c->head.size) {
                f->patch_misses++;
                continue;
            }
            memcpy(c->payload + p.offset, p.data, 4);
            f->patched++;
        }
        if (c && !e.has_more)
            c->head.flags &= (uint8_t)~SMB_NEEDS_PATCHING;
    }
}

void fake_apply(struct fake *f)
{
    for (; f->applied < f->request_count; f->applied++) {
        struct fake_request r = f->requests[f->applied];
        struct commit_view v;
        cr_assert_eq(commit_open(&v, r.bytes, r.len), 0);
        cr_assert_eq(v.move_count, r.moves);
        cr_assert_eq(v.entry_count, r.entries);
        cr_assert_eq(v.flush_id, r.flush_id);
        take_moves(f, &v);
        take_patches(f, &v);
        if (r.cookie)
            arbiter_acked(f->arb, r.cookie, true);
    }
}

static void on_commit(void *ctx, const struct commit_request *req)
{
    struct fake *f = ctx;
    f->requests = realloc(f->requests, (f->request_count + 1) * sizeof(*f->requests));
    struct fake_request *r = &f->requests[f->request_count++];
    *r = (struct fake_request){
        .len = commit_encoded_size(req),
        .moves = req->move_count,
        .entries = req->entry_count,
        .flush_id = req->flush_id,
        .cookie = req->ack_cookie,
    };
    r->bytes = malloc(r->len + 1);
    cr_assert_eq(commit_encode(req, r->bytes), r->len);
    if (!f->hold)
        fake_apply(f);
}

static void on_register(void *ctx, uint16_t id, uint16_t target)
{
    struct fake *f = ctx;
    f->registered = realloc(f->registered, (f->registered_count + 1) * 2 * sizeof(uint16_t));
    f->registered[2 * f->registered_count] = id;
    f->registered[2 * f->registered_count++ + 1] = target;
}

static void on_unregister(void *ctx, uint16_t id)
{
    (void)id;
    ((struct fake *)ctx)->unregistered_count++;
}

static void on_schedule(void *ctx, uint32_t delay_ms)
{
    struct fake *f = ctx;
    uint64_t at = f->now + delay_ms;
    if (at < f->due)
        f->due = at;
}

static bool on_ipc_thread(void *ctx)
{
    return pthread_equal(pthread_self(), ((struct fake *)ctx)->ipc);
}

static uint64_t now_ms(void *ctx)
{
    return ((struct fake *)ctx)->now;
}

static void wait_us(void *ctx, uint32_t us)
{
    struct fake *f = ctx;
    f->slept_us += us;
    f->sleeps++;
    if (f->on_sleep)
        f->on_sleep(f);
}

static void on_exhausted(void *ctx, const char *message)
{
    (void)message;
    ((struct fake *)ctx)->exhausted++;
}

void fake_init_shm(struct fake *f, size_t total, uint32_t page)
{
    memset(f, 0, sizeof(*f));
    shmem_init(&f->shm);
    cr_assert_eq(shmem_anonymous(&f->shm, total, page ? page : 4096), 0);
    f->due = UINT64_MAX;
    f->ipc = pthread_self();
    f->ops = (struct arbiter_ops){
        .send_commit = on_commit,
        .register_writer = on_register,
        .unregister_writer = on_unregister,
        .schedule = on_schedule,
        .on_ipc_thread = on_ipc_thread,
        .now_ms = now_ms,
        .wait_us = wait_us,
        .exhausted = on_exhausted,
    };
}

void fake_init(struct fake *f, size_t total, uint32_t page, struct arbiter_cfg cfg)
{
    fake_init_shm(f, total, page);
    cfg.shm = &f->shm;
    f->arb = arbiter_new(&cfg, &f->ops, f);
    cr_assert_not_null(f->arb);
}

void fake_fini(struct fake *f)
{
    if (f->arb) {
        cr_assert(arbiter_shutdown(f->arb), "a writer is still alive");
        arbiter_free(f->arb);
    }
    for (size_t i = 0; i < f->request_count; i++)
        free(f->requests[i].bytes);
    for (size_t i = 0; i < f->chunk_count; i++)
        free(f->chunks[i].payload);
    free(f->requests);
    free(f->chunks);
    free(f->registered);
    shmem_fini(&f->shm);
}

void fake_run(struct fake *f)
{
    while (f->due <= f->now) {
        f->due = UINT64_MAX;
        arbiter_run(f->arb);
    }
}

/* ---- reading ---- */

static bool get_size(const struct fake_chunk *c, size_t *at, uint32_t *size)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < 4 && *at < c->head.size; i++) {
        uint8_t b = c->payload[(*at)++];
        v |= (uint32_t)(b & 0x7F) << (7 * i);
        if (b < 0x80) {
            *size = v;
            return true;
        }
    }
    return false;
}

struct reading {
    struct fake_packet *out;
    size_t n;
    uint8_t *part; /* the packet being joined */
    size_t part_len;
    bool joining;
};

static void emit(struct reading *r, const uint8_t *data, size_t len, bool first_continues,
                 bool continues)
{
    if (first_continues && !r->joining)
        return; /* its beginning was lost */
    if (!first_continues)
        r->part_len = 0;
    r->part = realloc(r->part, r->part_len + len + 1);
    memcpy(r->part + r->part_len, data, len);
    r->part_len += len;
    r->joining = continues;
    if (continues || r->part_len == 0)
        return;
    r->out = realloc(r->out, (r->n + 1) * sizeof(*r->out));
    r->out[r->n].data = malloc(r->part_len);
    r->out[r->n].len = r->part_len;
    memcpy(r->out[r->n++].data, r->part, r->part_len);
}

static void read_chunk(struct reading *r, const struct fake_chunk *c)
{
    size_t at = 0;
    uint32_t count = scan_count(&c->head);
    uint32_t flags = scan_flags(&c->head);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size;
        cr_assert(get_size(c, &at, &size));
        if (size == SMB_DROP_SENTINEL) {
            r->joining = false;
            return;
        }
        cr_assert_leq(at + size, c->head.size);
        emit(r, c->payload + at, size, i == 0 && (flags & SMB_FIRST_CONTINUES),
             i + 1 == count && (flags & SMB_LAST_CONTINUES));
        at += size;
    }
}

size_t fake_packets(const struct fake *f, uint16_t writer_id, struct fake_packet **out)
{
    struct reading r = {.out = NULL};
    const struct fake_chunk *c;
    for (uint32_t id = 0; (c = fake_chunk(f, writer_id, id)); id++)
        read_chunk(&r, c);
    free(r.part);
    *out = r.out;
    return r.n;
}

void fake_packets_free(struct fake_packet *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(p[i].data);
    free(p);
}
