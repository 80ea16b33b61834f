/* SPDX-License-Identifier: Apache-2.0 */
/* The arbiter: T24-T33, the policies of section 7.2, batching, and the split of emulated requests.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

static void note(void *ctx, bool acked)
{
    *(int *)ctx += acked ? 1 : 100;
}

static bool get(struct fake *f, const struct arbiter_client *c, uint32_t id, struct page_chunk *out)
{
    return arbiter_get_chunk(f->arb, c, ARBITER_DROP, false, id, 1, out);
}

static struct commit_view view_of(const struct fake_request *r)
{
    struct commit_view v;
    cr_assert_eq(commit_open(&v, r->bytes, r->len), 0);
    return v;
}

/* R66, R71. */
Test(arbiter, T24_order_of_chunks_and_of_moves)
{
    struct fake f;
    struct arbiter_client c[4];
    struct page_chunk at[28];
    struct patch_list none;
    const struct arbiter_cfg cfg = {.layout = SMB_LAYOUT_DIV14};
    fake_init(&f, 8192, 4096, cfg);
    f.hold = true;
    patch_init(&none);
    for (uint32_t i = 0; i < 4; i++)
        cr_assert(arbiter_attach(f.arb, &c[i], 100 + i));
    for (uint32_t i = 0; i < 28; i++) {
        cr_assert(get(&f, &c[i % 4], i, &at[i]));
        cr_assert_eq(at[i].page, i / 14);
        cr_assert_eq(at[i].chunk, i % 14);
    }
    struct page_chunk more;
    cr_assert_not(get(&f, &c[0], 99, &more));
    static const int back[] = {3, 0, 27, 14};
    for (int i = 0; i < 4; i++)
        arbiter_put_chunk(f.arb, &c[back[i] % 4], &at[back[i]], &none);
    cr_assert_eq(f.request_count, 0);
    fake_run(&f);
    cr_assert_eq(f.request_count, 1);
    struct commit_view v = view_of(&f.requests[0]);
    struct commit_pos pos = {0};
    struct commit_move m;
    for (int i = 0; i < 4; i++) {
        cr_assert(commit_next_move(&v, &pos, &m));
        cr_assert_eq(m.page, back[i] / 14);
        cr_assert_eq(m.chunk, back[i] % 14);
        cr_assert_eq(m.target_buffer, 100 + back[i] % 4);
    }
    arbiter_put_chunk(f.arb, &c[1], &at[5], &none);
    fake_run(&f);
    cr_assert_eq(f.request_count, 2);
    cr_assert_eq(f.requests[1].moves, 1);
    for (int i = 0; i < 4; i++)
        arbiter_detach(f.arb, &c[i]);
    fake_apply(&f);
    fake_fini(&f);
}

Test(arbiter, T25_batching)
{
    struct fake f;
    const struct arbiter_cfg cfg = {
        .layout = SMB_LAYOUT_DIV4, .batch_ms = 5000, .direct_patching = true};
    fake_init(&f, 65536, 4096, cfg);
    f.hold = true;
    struct writer *a = writer_new(f.arb, 1, ARBITER_DROP);
    struct writer *b = writer_new(f.arb, 2, ARBITER_DROP);
    fake_run(&f); /* the registrations */
    char xs[1500];
    memset(xs, 'x', sizeof(xs));
    struct pbw *p = writer_begin(a);
    pbw_begin(p, 1);
    pbw_bytes(p, 1, xs, sizeof(xs)); /* chunk 0 goes back and needs a patch */
    pbw_bytes(writer_begin(b), 1, xs, sizeof(xs));
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_BEING_WRITTEN);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 2), SMB_COMPLETE);
    cr_assert_eq(f.due, 5000);
    fake_run(&f);
    cr_assert_eq(f.request_count, 0);
    arbiter_set_batch_ms(f.arb, 1); /* R72: after the send already scheduled */
    arbiter_flush(f.arb, NULL, NULL);
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(f.requests[0].moves, 2);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_COMPLETE);
    writer_free(a);
    writer_free(b);
    fake_apply(&f);
    cr_assert_eq(f.patched, 1);
    cr_assert_eq(fake_chunk(&f, 1, 0)->head.flags, SMB_LAST_CONTINUES);
    fake_fini(&f);
}

Test(arbiter, R69_batch_leaves_in_time_or_at_half)
{
    struct fake f;
    const struct arbiter_cfg cfg = {.batch_ms = 100};
    fake_init(&f, 16 * 4096, 4096, cfg);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    char xs[4000];
    memset(xs, 'x', sizeof(xs));
    fake_run(&f); /* the registration */
    for (int i = 0; i < 2; i++) {
        pbw_bytes(writer_begin(w), 1, xs, sizeof(xs));
        writer_end(w);
    }
    cr_assert_eq(f.due, 100);
    f.now = 99;
    fake_run(&f);
    cr_assert_eq(f.request_count, 0);
    f.now = 100;
    fake_run(&f);
    cr_assert_eq(f.request_count, 1);
    for (int i = 0; i < 8; i++) {
        pbw_bytes(writer_begin(w), 1, xs, sizeof(xs));
        writer_end(w);
    }
    fake_run(&f);
    cr_assert_eq(f.request_count, 1, "7 of 16 pages wait");
    pbw_bytes(writer_begin(w), 1, xs, sizeof(xs));
    writer_end(w);
    cr_assert_eq(f.due, f.now);
    fake_run(&f);
    cr_assert_eq(f.request_count, 2);
    writer_free(w);
    fake_run(&f);
    fake_fini(&f);
}

/* An early arbiter_run(), for another reason, does not lose the delayed send. */
Test(arbiter, delayed_send_survives_other_runs)
{
    struct fake f;
    const struct arbiter_cfg cfg = {.batch_ms = 100};
    fake_init(&f, 65536, 4096, cfg);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    char xs[4096];
    memset(xs, 'x', sizeof(xs));
    pbw_bytes(writer_begin(w), 1, xs, sizeof(xs));
    writer_end(w);
    fake_run(&f);
    cr_assert_eq(f.request_count, 0);
    cr_assert_eq(f.due, 100);
    f.now = 100;
    fake_run(&f);
    cr_assert_eq(f.request_count, 1);
    writer_free(w);
    fake_run(&f);
    fake_fini(&f);
}

/* R107. */
Test(arbiter, T26_emulation_ships_and_frees)
{
    struct fake f;
    const struct arbiter_cfg cfg = {
        .layout = SMB_LAYOUT_DIV4, .emulated = true, .direct_patching = true, .batch_ms = 5000};
    fake_init(&f, SMB_EMULATED_SIZE, 4096, cfg);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 7, ARBITER_DROP);
    char xs[1500];
    memset(xs, 'x', sizeof(xs));
    struct pbw *p = writer_begin(w);
    pbw_begin(p, 1);
    pbw_bytes(p, 1, xs, sizeof(xs));
    cr_assert_eq(f.request_count, 1, "on the IPC thread it leaves at once (R108)");
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 0), SMB_FREE);
    cr_assert_eq(abi_word_state(page_word(&f.shm, 0), 1), SMB_BEING_WRITTEN);
    struct commit_view v = view_of(&f.requests[0]);
    struct commit_pos pos = {0};
    struct commit_move m;
    cr_assert(commit_next_move(&v, &pos, &m));
    cr_assert_eq(m.data_len, 1020);
    cr_assert_eq(m.target_buffer, 7);
    struct scan_chunk c;
    cr_assert_eq(scan_data(m.data, m.data_len, m.incomplete, &c), 0);
    cr_assert_eq(c.flags, SMB_LAST_CONTINUES | SMB_NEEDS_PATCHING);
    cr_assert_eq(c.writer_id, 1);
    writer_free(w);
    fake_apply(&f);
    cr_assert_eq(f.patched, 1);
    cr_assert_eq(page_word(&f.shm, 0), 0);
    fake_fini(&f);
}

Test(arbiter, T27_self_scrape)
{
    struct fake f;
    const struct arbiter_cfg cfg = {
        .layout = SMB_LAYOUT_DIV4, .emulated = true, .self_scrape = true};
    fake_init(&f, SMB_EMULATED_SIZE, 4096, cfg);
    f.hold = true;
    struct writer *w = writer_new(f.arb, 7, ARBITER_DROP);
    struct writer *idle = writer_new(f.arb, 8, ARBITER_DROP);
    struct writer *unbound = writer_new_reserved(f.arb, 3);
    cr_assert_eq(arbiter_abort_reservation(f.arb, 3), 0);
    fake_run(&f);
    f.request_count = 0;
    pbw_str(writer_begin(w), 1, "seen");
    writer_end(w);
    pbw_str(writer_begin(idle), 1, "one open packet: not seen");
    pbw_str(writer_begin(unbound), 1, "not registered: not seen");
    writer_end(unbound);
    uint32_t word = page_word(&f.shm, 0);
    arbiter_ack_flush(f.arb, 42);
    cr_assert_eq(f.request_count, 1, "scraped chunks go before the acknowledgement");
    cr_assert_eq(f.requests[0].flush_id, 0);
    struct commit_view v = view_of(&f.requests[0]);
    struct commit_pos pos = {0};
    struct commit_move m;
    cr_assert_eq(v.move_count, 1);
    cr_assert(commit_next_move(&v, &pos, &m));
    cr_assert(m.scraped && m.incomplete);
    cr_assert_eq(m.target_buffer, 7);
    cr_assert_eq(m.data_len, 1020);
    cr_assert_eq(page_word(&f.shm, 0), word, "R111: states are unchanged");
    fake_run(&f);
    cr_assert_eq(f.request_count, 2);
    cr_assert_eq(f.requests[1].flush_id, 42);
    cr_assert_eq(f.requests[1].moves, 0);
    writer_free(w);
    writer_free(idle);
    writer_free(unbound);
    f.applied = f.request_count;
    fake_fini(&f);
}

/* Each request within the limit, in order, every item once, the flush id on the last only (R109).
 */
static void check_parts(const struct fake *f, size_t moves, size_t entries, uint64_t flush_id)
{
    size_t m = 0;
    size_t e = 0;
    for (size_t i = 0; i < f->request_count; i++) {
        struct commit_view v = view_of(&f->requests[i]);
        cr_assert_leq(f->requests[i].len, 130560);
        cr_assert(v.move_count == 0 || e == 0, "moves come before patches");
        cr_assert(v.move_count + v.entry_count > 0 || v.flush_id);
        m += v.move_count;
        e += v.entry_count;
        cr_assert_eq(v.flush_id, i + 1 == f->request_count ? flush_id : 0);
    }
    cr_assert_eq(m, moves);
    cr_assert_eq(e, entries);
}

Test(arbiter, T28_split_30_moves_2000_entries)
{
    struct fake f;
    struct arbiter_client c;
    struct patch_list patches;
    const struct arbiter_cfg cfg = {.emulated = true, .unbound = true};
    fake_init_shm(&f, SMB_EMULATED_SIZE, 4096);
    struct arbiter_cfg with = cfg;
    with.shm = &f.shm;
    f.arb = arbiter_new(&with, NULL, NULL);
    f.hold = true;
    patch_init(&patches);
    cr_assert(arbiter_attach(f.arb, &c, 5));
    for (uint32_t i = 0; i < 30; i++) {
        struct page_chunk at;
        cr_assert(get(&f, &c, i, &at));
        memset(at.payload, (int)i, at.payload_size);
        if (i == 29)
            for (uint32_t k = 0; k < 2000; k++)
                memcpy(patch_add(&patches, 1000 + k, 4)->data, "\x81\x80\x80", 4);
        arbiter_put_chunk(f.arb, &c, &at, &patches);
    }
    arbiter_ack_flush(f.arb, 9);
    arbiter_bind(f.arb, &f.ops, &f, false);
    cr_assert_geq(f.request_count, 2);
    check_parts(&f, 30, 2000, 9);
    uint32_t n = 0;
    for (size_t i = 0; i < f.request_count; i++) {
        struct commit_view v = view_of(&f.requests[i]);
        struct commit_pos pos = {0};
        struct commit_move m;
        while (commit_next_move(&v, &pos, &m)) {
            cr_assert_eq(m.data_len, 4088);
            cr_assert_eq(m.data[100], n++);
        }
    }
    for (uint32_t p = 0; p < f.shm.pages; p++)
        cr_assert_eq(page_word(&f.shm, p), 0);
    arbiter_detach(f.arb, &c);
    patch_fini(&patches);
    fake_fini(&f);
}

Test(arbiter, T28_split_2000_small_moves)
{
    struct fake f;
    struct arbiter_client c;
    struct patch_list none;
    const struct arbiter_cfg cfg = {.layout = SMB_LAYOUT_DIV14, .unbound = true, .emulated = true};
    fake_init_shm(&f, SMB_EMULATED_SIZE, 4096);
    struct arbiter_cfg with = cfg;
    with.shm = &f.shm;
    f.arb = arbiter_new(&with, NULL, NULL);
    f.hold = true;
    patch_init(&none);
    cr_assert(arbiter_attach(f.arb, &c, 5));
    for (uint32_t i = 0; i < 2000; i++) {
        struct page_chunk at;
        cr_assert(get(&f, &c, i, &at));
        arbiter_put_chunk(f.arb, &c, &at, &none);
    }
    arbiter_bind(f.arb, &f.ops, &f, false);
    check_parts(&f, 2000, 0, 0);
    arbiter_detach(f.arb, &c);
    fake_fini(&f);
}

Test(arbiter, T28_split_scrape_of_64_KiB_chunks)
{
    struct fake f;
    struct writer *w[14];
    const struct arbiter_cfg cfg = {.emulated = true, .self_scrape = true};
    fake_init(&f, SMB_EMULATED_SIZE, 65536, cfg);
    f.hold = true;
    for (int i = 0; i < 14; i++) {
        w[i] = writer_new(f.arb, 1, ARBITER_DROP);
        pbw_str(writer_begin(w[i]), 1, "x");
        writer_end(w[i]);
    }
    fake_run(&f);
    cr_assert_eq(f.request_count, 0);
    arbiter_ack_flush(f.arb, 3);
    fake_run(&f);
    cr_assert_eq(f.request_count, 15);
    check_parts(&f, 14, 0, 3);
    for (int i = 0; i < 14; i++)
        writer_free(w[i]);
    fake_fini(&f);
}

/* R36. */
Test(arbiter, T29_4096_writers)
{
    struct fake f;
    static struct writer *w[4096];
    fake_init(&f, 65536, 4096, (struct arbiter_cfg){.batch_ms = 0});
    for (uint32_t i = 0; i < 4096; i++) {
        w[i] = writer_new(f.arb, (uint16_t)(i + 1), ARBITER_DROP);
        cr_assert_eq(writer_id(w[i]), i + 1);
    }
    fake_run(&f);
    cr_assert_eq(f.registered_count, 4096);
    for (uint32_t i = 0; i < 4096; i++) {
        cr_assert_eq(f.registered[2 * i], i + 1);
        cr_assert_eq(f.registered[2 * i + 1], i + 1);
        writer_free(w[i]);
    }
    fake_run(&f);
    cr_assert_eq(f.unregistered_count, 4096);
    fake_fini(&f);
}

/* R85. */
Test(arbiter, T30_shutdown)
{
    struct fake f;
    int acks = 0;
    fake_init(&f, 65536, 4096, (struct arbiter_cfg){.batch_ms = 0});
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    cr_assert_not(arbiter_shutdown(f.arb));
    struct writer *null = writer_new(f.arb, 1, ARBITER_DROP);
    cr_assert_eq(writer_id(null), 0);
    pbw_str(writer_begin(null), 1, "nobody sees this"); /* R35 */
    char xs[3000];
    pbw_bytes(writer_begin(null), 1, memset(xs, 'x', sizeof(xs)), sizeof(xs));
    writer_flush(null, note, &acks);
    cr_assert_eq(acks, 1);
    writer_free(null);
    pbw_str(writer_begin(w), 1, "the old one still works");
    f.due = UINT64_MAX;
    writer_free(w);
    cr_assert_eq(f.chunk_count, 1);
    cr_assert_neq(f.due, UINT64_MAX, "the last writer wakes the IPC thread");
    cr_assert(arbiter_shutdown(f.arb));
    fake_fini(&f);
}

Test(arbiter, T31_drop_policy)
{
    struct fake f;
    struct arbiter_client c;
    struct page_chunk at[4];
    struct page_chunk more;
    struct patch_list none;
    fake_init(&f, 4 * 4096, 4096, (struct arbiter_cfg){.batch_ms = 0});
    f.hold = true;
    patch_init(&none);
    cr_assert(arbiter_attach(f.arb, &c, 1));
    for (uint32_t i = 0; i < 4; i++)
        cr_assert(get(&f, &c, i, &at[i]));
    cr_assert_not(get(&f, &c, 4, &more));
    arbiter_put_chunk(f.arb, &c, &at[2], &none);
    cr_assert_not(get(&f, &c, 4, &more));
    fake_run(&f);
    cr_assert_not(get(&f, &c, 4, &more));
    cr_assert_eq(f.sleeps, 0);
    fake_apply(&f);
    cr_assert(get(&f, &c, 4, &more));
    cr_assert_eq(more.page, 2);
    arbiter_detach(f.arb, &c);
    fake_fini(&f);
}

/* ---- stalling (7.2): time stands still, sleeps are counted ---- */

static void *stall_elsewhere(void *arg)
{
    struct fake *f = arg;
    struct arbiter_client c = {.id = 77};
    struct page_chunk at;
    return arbiter_get_chunk(f->arb, &c, ARBITER_STALL_DROP, false, 0, 1, &at) ? f : NULL;
}

static void take_all(struct fake *f, struct arbiter_client *c, struct page_chunk *last)
{
    uint32_t id = 0;
    while (get(f, c, id++, last))
        ;
}

Test(arbiter, R64_limit_off_the_ipc_thread)
{
    struct fake f;
    struct arbiter_client c;
    struct page_chunk at;
    pthread_t t;
    void *got;
    fake_init(&f, 8192, 4096, (struct arbiter_cfg){.batch_ms = 0});
    cr_assert(arbiter_attach(f.arb, &c, 1));
    take_all(&f, &c, &at);
    cr_assert_eq(pthread_create(&t, NULL, stall_elsewhere, &f), 0);
    pthread_join(t, &got);
    cr_assert_null(got);
    cr_assert_eq(f.sleeps, 299);
    cr_assert_eq(f.slept_us, 8 + 72 + 584 + 4680 + 37448 + 293u * 100000);
    cr_assert_eq(f.exhausted, 0);
    arbiter_detach(f.arb, &c);
    fake_fini(&f);
}

Test(arbiter, R62_stall_policies)
{
    struct fake f;
    struct arbiter_client c;
    struct page_chunk at;
    struct page_chunk more;
    fake_init(&f, 8192, 4096, (struct arbiter_cfg){.batch_ms = 0});
    cr_assert(arbiter_attach(f.arb, &c, 1));
    take_all(&f, &c, &at);
    cr_assert_not(arbiter_get_chunk(f.arb, &c, ARBITER_STALL_DROP, true, 9, 1, &more));
    cr_assert_eq(f.sleeps, 0, "already dropping: no waiting");
    cr_assert_not(arbiter_get_chunk(f.arb, &c, ARBITER_STALL_ABORT, true, 9, 1, &more));
    cr_assert_eq(f.exhausted, 1);
    cr_assert_eq(f.sleeps, 150, "on the IPC thread every second round commits instead");
    arbiter_detach(f.arb, &c);
    fake_fini(&f);
}

static struct page_chunk stalled_chunk;
static struct arbiter_client stalled_client;

/* The service frees a chunk while the writer waits: it is returned and committed by the stalling
 * thread. */
static void return_one(struct fake *f)
{
    struct patch_list none;
    patch_init(&none);
    if (f->sleeps == 3)
        arbiter_put_chunk(f->arb, &stalled_client, &stalled_chunk, &none);
}

Test(arbiter, R70_stalling_on_the_ipc_thread_commits)
{
    struct fake f;
    struct page_chunk more;
    fake_init(&f, 8192, 4096, (struct arbiter_cfg){.batch_ms = 0});
    f.on_sleep = return_one;
    cr_assert(arbiter_attach(f.arb, &stalled_client, 1));
    take_all(&f, &stalled_client, &stalled_chunk);
    page_locate(&f.shm, 1, 0, SMB_LAYOUT_DIV1, &stalled_chunk);
    cr_assert(arbiter_get_chunk(f.arb, &stalled_client, ARBITER_STALL_DROP, false, 9, 1, &more));
    cr_assert_eq(f.request_count, 1);
    cr_assert_lt(f.sleeps, 6);
    arbiter_detach(f.arb, &stalled_client);
    fake_fini(&f);
}

/* ---- startup (7.6) ---- */

static void init_unbound(struct fake *f)
{
    fake_init_shm(f, 65536, 4096);
    struct arbiter_cfg cfg = {.shm = &f->shm, .unbound = true};
    f->arb = arbiter_new(&cfg, NULL, NULL);
    cr_assert_not_null(f->arb);
}

static void packet(struct writer *w, const char *text)
{
    pbw_str(writer_begin(w), 1, text);
    writer_end(w);
}

/* R80 to R82. */
Test(arbiter, T32_startup)
{
    struct fake f;
    int acks = 0;
    init_unbound(&f);
    struct writer *w = writer_new_reserved(f.arb, 1);
    for (int i = 0; i < 3; i++) {
        packet(w, "early");
        writer_flush(w, i == 2 ? note : NULL, &acks);
    }
    arbiter_bind(f.arb, &f.ops, &f, false);
    fake_run(&f);
    cr_assert_eq(f.request_count, 0);
    cr_assert_eq(arbiter_bind_reservation(f.arb, 1, 42), 0);
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(f.requests[0].moves, 3);
    cr_assert_eq(acks, 1);
    cr_assert_eq(f.registered_count, 1);
    cr_assert_eq(f.registered[1], 42);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(f.chunks[i].target, 42);
    cr_assert_eq(arbiter_bind_reservation(f.arb, 1, 43), -EEXIST);

    struct writer *late = writer_new_reserved(f.arb, 1); /* registered at once */
    fake_run(&f);
    cr_assert_eq(f.registered_count, 2);
    struct writer *second = writer_new_reserved(f.arb, 2); /* R84 */
    packet(w, "held back");
    writer_flush(w, note, &acks);
    packet(second, "two");
    writer_flush(second, NULL, NULL);
    fake_run(&f);
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(arbiter_bind_reservation(f.arb, 2, 7), 0);
    cr_assert_eq(f.request_count, 2);
    cr_assert_eq(acks, 2);
    cr_assert_eq(f.chunks[3].target, 42);
    cr_assert_eq(f.chunks[4].target, 7);
    writer_free(w);
    writer_free(late);
    writer_free(second);
    fake_run(&f);
    fake_fini(&f);
}

Test(arbiter, T33_abort)
{
    struct fake f;
    init_unbound(&f);
    struct writer *w = writer_new_reserved(f.arb, 1);
    packet(w, "one");
    writer_flush(w, NULL, NULL);
    cr_assert_eq(arbiter_abort_reservation(f.arb, 1), 0); /* allowed before connecting (R83) */
    arbiter_bind(f.arb, &f.ops, &f, false);
    struct writer *late = writer_new_reserved(f.arb, 1);
    packet(late, "two");
    writer_free(late);
    writer_free(w);
    fake_run(&f);
    cr_assert_eq(f.chunk_count, 2);
    cr_assert_eq(f.chunks[0].target, 0);
    cr_assert_eq(f.chunks[1].target, 0);
    cr_assert_eq(f.registered_count, 0);
    cr_assert_eq(f.unregistered_count, 0);
    for (uint32_t p = 0; p < f.shm.pages; p++)
        cr_assert_eq(page_word(&f.shm, p), 0);
    fake_fini(&f);
}

Test(arbiter, R65_unbound_never_stalls)
{
    struct fake f;
    struct arbiter_client c;
    struct page_chunk at;
    init_unbound(&f);
    arbiter_bind(f.arb, &f.ops, &f, false);
    cr_assert(arbiter_attach(f.arb, &c, 1));
    take_all(&f, &c, &at);
    cr_assert_not(arbiter_get_chunk(f.arb, &c, ARBITER_STALL_ABORT, false, 0, 1, &at));
    cr_assert_eq(f.sleeps, 0);
    arbiter_detach(f.arb, &c);
    fake_fini(&f);
}

/* ---- flush acknowledgement and the end of the connection ---- */

Test(arbiter, R78_flush_ids)
{
    struct fake f;
    fake_init(&f, 65536, 4096, (struct arbiter_cfg){.batch_ms = 50});
    arbiter_ack_flush(f.arb, 3);
    cr_assert_eq(f.request_count, 0);
    cr_assert_eq(f.due, 0);
    arbiter_ack_flush(f.arb, 5);
    arbiter_ack_flush(f.arb, 4);
    fake_run(&f);
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(f.requests[0].flush_id, 5);
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    fake_run(&f);
    char xs[4000];
    pbw_bytes(writer_begin(w), 1, memset(xs, 'x', sizeof(xs)), sizeof(xs));
    writer_end(w);
    pbw_bytes(writer_begin(w), 1, xs, sizeof(xs));
    arbiter_ack_flush(f.arb, 6);
    fake_run(&f);
    cr_assert_eq(f.request_count, 1, "it travels with the batch");
    f.now = 50;
    fake_run(&f);
    cr_assert_eq(f.request_count, 2);
    cr_assert_eq(f.requests[1].flush_id, 6);
    cr_assert_eq(f.requests[1].moves, 1);
    writer_free(w);
    fake_run(&f);
    fake_fini(&f);
}

Test(arbiter, disconnected_writers_write_into_the_void)
{
    struct fake f;
    int acks = 0;
    fake_init(&f, 65536, 4096, (struct arbiter_cfg){.batch_ms = 0});
    f.hold = true;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    packet(w, "in time");
    writer_flush(w, note, &acks);
    packet(w, "in the making");
    arbiter_disconnect(f.arb);
    cr_assert_eq(acks, 100, "nobody will answer");
    char xs[9000];
    pbw_bytes(writer_begin(w), 1, memset(xs, 'x', sizeof(xs)), sizeof(xs));
    writer_end(w);
    writer_flush(w, note, &acks);
    fake_run(&f);
    cr_assert_eq(acks, 200);
    cr_assert_eq(f.request_count, 1);
    struct writer *null = writer_new(f.arb, 1, ARBITER_DROP);
    cr_assert_eq(writer_id(null), 0);
    writer_free(null);
    cr_assert_not(arbiter_shutdown(f.arb));
    writer_free(w);
    cr_assert(arbiter_shutdown(f.arb));
    fake_fini(&f);
}

/* A service that frees chunks it was never given makes us hand out a chunk twice: bounded, no
 * overrun. */
Test(arbiter, hostile_service_cannot_overflow_the_request)
{
    struct fake f;
    struct arbiter_client c;
    struct patch_list none;
    fake_init(&f, 8192, 4096, (struct arbiter_cfg){.batch_ms = 1000});
    f.hold = true;
    patch_init(&none);
    cr_assert(arbiter_attach(f.arb, &c, 1));
    for (uint32_t i = 0; i < 1000; i++) {
        struct page_chunk at;
        cr_assert(get(&f, &c, i, &at));
        arbiter_put_chunk(f.arb, &c, &at, &none);
        atomic_store(&shmem_page(&f.shm, at.page)->word, 0);
    }
    arbiter_flush(f.arb, NULL, NULL);
    cr_assert_leq(f.requests[0].moves, 2);
    arbiter_detach(f.arb, &c);
    f.applied = f.request_count;
    fake_fini(&f);
}

static bool open_gate;

static bool gate(void *ctx)
{
    (void)ctx;
    return open_gate;
}

/* A connection that takes no more holds everything back, acknowledgements included, and loses
 * nothing. */
Test(arbiter, not_ready_keeps_everything_pending)
{
    struct fake f;
    int acks = 0;
    fake_init(&f, 65536, 4096, (struct arbiter_cfg){.emulated = true});
    f.ops.ready = gate;
    open_gate = false;
    struct writer *w = writer_new(f.arb, 1, ARBITER_DROP);
    packet(w, "one");
    writer_flush(w, note, &acks);
    packet(w, "two");
    writer_flush(w, NULL, NULL);
    fake_run(&f);
    cr_assert_eq(f.request_count, 0);
    open_gate = true;
    arbiter_run(f.arb);
    cr_assert_eq(f.request_count, 1);
    cr_assert_eq(f.requests[0].moves, 2);
    cr_assert_eq(acks, 1);
    writer_free(w);
    fake_run(&f);
    fake_fini(&f);
}

/* Without memory there is still a writer, and it swallows everything (R35). */
Test(arbiter, writer_without_an_arbiter)
{
    int acks = 0;
    struct writer *w = writer_new(NULL, 1, ARBITER_STALL_ABORT);
    char xs[3000];
    cr_assert_eq(writer_id(w), 0);
    pbw_bytes(writer_begin(w), 1, memset(xs, 'x', sizeof(xs)), sizeof(xs));
    writer_end(w);
    writer_flush(w, note, &acks);
    cr_assert_eq(acks, 1);
    cr_assert_eq(writer_written(w), 0);
    writer_free(w);
}

/* Each reply ends the flushes of its own request only. */
Test(arbiter, R79_acknowledgements_are_told_apart)
{
    struct fake f;
    int first = 0;
    int second = 0;
    fake_init(&f, 65536, 4096, (struct arbiter_cfg){.batch_ms = 1000});
    f.hold = true;
    arbiter_flush(f.arb, note, &first);
    arbiter_flush(f.arb, note, &second);
    cr_assert_eq(f.request_count, 2);
    cr_assert_neq(f.requests[0].cookie, f.requests[1].cookie);
    arbiter_acked(f.arb, f.requests[1].cookie, true);
    cr_assert_eq(first, 0);
    cr_assert_eq(second, 1);
    arbiter_acked(f.arb, 9999, true); /* nobody's */
    arbiter_acked(f.arb, f.requests[0].cookie, false);
    cr_assert_eq(first, 100);
    f.applied = f.request_count;
    fake_fini(&f);
}

Test(arbiter, R62_search_goes_round)
{
    struct fake f;
    struct arbiter_client c;
    struct page_chunk at;
    struct patch_list none;
    fake_init(&f, 4 * 4096, 4096, (struct arbiter_cfg){.batch_ms = 0});
    patch_init(&none);
    cr_assert(arbiter_attach(f.arb, &c, 1));
    for (uint32_t i = 0; i < 10; i++) {
        struct page_chunk held;
        cr_assert(get(&f, &c, 2 * i, &held));
        cr_assert(get(&f, &c, 2 * i + 1, &at));
        cr_assert_eq(held.page, i % 4, "the search starts where the last one ended");
        cr_assert_eq(at.page, (i + 1) % 4);
        arbiter_put_chunk(f.arb, &c, &held, &none);
        arbiter_put_chunk(f.arb, &c, &at, &none);
        fake_run(&f);
    }
    arbiter_detach(f.arb, &c);
    fake_fini(&f);
}
