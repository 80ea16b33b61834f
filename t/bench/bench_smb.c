/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the shared memory costs: packets per second of one writer, and the service's way of a chunk
 * (acquire, copy, release) beside memcpy of the same bytes between the same two places in the same
 * run. Reports figures, asserts nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/chrono.h"
#include "smb/arbiter.h"
#include "smb/scan.h"
#include "smb/writer.h"

enum { ROUNDS = 5 };

static uint8_t *buffer; /* where the service copies to; as large as the SMB */
static struct shmem shm;
static size_t copied;

/* ---- the writer: its service is the cheapest there is, it frees chunks on the spot ---- */

static bool wanted;

static void on_commit(void *ctx, const struct commit_request *req)
{
    (void)ctx;
    for (size_t i = 0; i < req->move_count; i++) {
        struct scan_chunk c;
        if (scan_acquire(&shm, req->moves[i].page, req->moves[i].chunk, &c) == 0)
            scan_release(&shm, &c);
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
    (void)ctx;
    (void)delay_ms;
    wanted = true;
}

static bool on_ipc_thread(void *ctx)
{
    (void)ctx;
    return true;
}

static uint64_t now_ms(void *ctx)
{
    (void)ctx;
    return 0;
}

static const struct arbiter_ops ops = {
    .send_commit = on_commit,
    .register_writer = on_register,
    .unregister_writer = on_unregister,
    .schedule = on_schedule,
    .on_ipc_thread = on_ipc_thread,
    .now_ms = now_ms,
};

/* A packet like a scheduling event: time stamp, one nested message of a few numbers. */
static void event(struct pbw *p, uint64_t n)
{
    pbw_varint(p, 8, 1000000000 + n * 1000);
    pbw_begin(p, 1);
    pbw_varint(p, 1, n & 7);
    pbw_varint(p, 2, n);
    pbw_str(p, 3, "kworker/0:1");
    pbw_end(p);
}

static void big(struct pbw *p, uint64_t n)
{
    static uint8_t data[4096];
    pbw_varint(p, 8, n);
    pbw_bytes(p, 3, data, sizeof(data));
}

static void bench_writer(const char *what, void (*fill)(struct pbw *p, uint64_t n), uint64_t n,
                         enum smb_layout layout)
{
    const struct arbiter_cfg cfg = {.shm = &shm, .layout = layout};
    struct arbiter *arb = arbiter_new(&cfg, &ops, NULL);
    struct writer *w = writer_new(arb, 1, ARBITER_DROP);
    uint64_t best = UINT64_MAX;
    uint64_t before = 0;
    uint64_t bytes = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = chrono_mono_ns();
        for (uint64_t i = 0; i < n; i++) {
            fill(writer_begin(w), i);
            writer_end(w);
            if (wanted) {
                wanted = false;
                arbiter_run(arb);
            }
        }
        uint64_t took = chrono_mono_ns() - start;
        best = took < best ? took : best;
        bytes = writer_written(w) - before;
        before = writer_written(w);
    }
    printf("%-44s %8.1f ns each, %8.2f M/s, %6.2f GB/s, %" PRIu64 " drops\n", what,
           (double)best / (double)n, (double)n * 1e3 / (double)best, (double)bytes / (double)best,
           writer_drops(w));
    writer_free(w);
    arbiter_run(arb);
    if (arbiter_shutdown(arb))
        arbiter_free(arb);
}

/* ---- the service ---- */

static uint32_t fill_smb(enum smb_layout layout)
{
    uint32_t chunks = 0;
    for (uint32_t p = 0; p < shm.pages; p++) {
        page_partition(&shm, p, layout);
        for (uint32_t c = 0; c < abi_layout_chunks(layout); c++, chunks++) {
            struct page_chunk at;
            page_acquire_write(&shm, p, c, 1, chunks, 1, &at);
            page_release_complete(&shm, &at);
        }
    }
    return chunks;
}

static uint64_t move_all(enum smb_layout layout)
{
    uint8_t *to = buffer;
    uint64_t start = chrono_mono_ns();
    for (uint32_t p = 0; p < shm.pages; p++)
        for (uint32_t i = 0; i < abi_layout_chunks(layout); i++) {
            struct scan_chunk c;
            if (scan_acquire(&shm, p, i, &c) != 0)
                continue;
            memcpy(to, c.payload, c.size);
            to += c.size;
            scan_release(&shm, &c);
        }
    uint64_t took = chrono_mono_ns() - start;
    copied = (size_t)(to - buffer);
    return took;
}

static uint64_t copy_all(size_t n)
{
    uint64_t start = chrono_mono_ns();
    memcpy(buffer, shm.base, n);
    uint64_t took = chrono_mono_ns() - start;
    __asm__ volatile("" : : "r"(buffer) : "memory");
    return took;
}

static void bench_service(const char *what, enum smb_layout layout)
{
    uint64_t best = UINT64_MAX;
    uint64_t plain = UINT64_MAX;
    uint32_t chunks = 0;
    for (int round = 0; round < ROUNDS * 4; round++) {
        chunks = fill_smb(layout);
        uint64_t t = move_all(layout);
        best = t < best ? t : best;
        t = copy_all(copied);
        plain = t < plain ? t : plain;
    }
    printf("%-44s %8.1f ns each, %8.2f M/s, %6.2f GB/s (memcpy %.2f GB/s)\n", what,
           (double)best / chunks, chunks * 1e3 / (double)best, (double)copied / (double)best,
           (double)copied / (double)plain);
}

int main(void)
{
    shmem_init(&shm);
    if (shmem_create(&shm, 4u << 20, 32768) != 0)
        return 1;
    buffer = malloc(shm.size);
    if (!buffer)
        return 1;
    memset(buffer, 1, shm.size);
    memset(shm.base, 0, shm.size);
    bench_writer("writer: event of 30 bytes, 32 KiB chunks", event, 2000000, SMB_LAYOUT_DIV1);
    bench_writer("writer: event of 30 bytes, 2 KiB chunks", event, 2000000, SMB_LAYOUT_DIV14);
    bench_writer("writer: packet of 4 KiB, 32 KiB chunks", big, 200000, SMB_LAYOUT_DIV1);
    bench_service("service: acquire, copy, release 32 KiB chunk", SMB_LAYOUT_DIV1);
    bench_service("service: acquire, copy, release 2 KiB chunk", SMB_LAYOUT_DIV14);
    shmem_fini(&shm);
    if (shmem_create(&shm, 4u << 20, 4096) != 0)
        return 1;
    bench_service("service: acquire, copy, release 4 KiB chunk", SMB_LAYOUT_DIV1);
    shmem_fini(&shm);
    free(buffer);
    return 0;
}
