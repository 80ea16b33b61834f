/* SPDX-License-Identifier: Apache-2.0 */
/* The service's reading side: commits, scraping (R98-R103), shipped chunks (R110), memory full of
 * noise and pages that are rewritten while they are read. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/err.h"
#include "smb/scan.h"

static struct shmem fresh(uint32_t pages, uint32_t page_size)
{
    struct shmem shm;
    shmem_init(&shm);
    cr_assert_eq(shmem_anonymous(&shm, (size_t)pages * page_size, page_size), 0);
    return shm;
}

static struct page_chunk write_chunk(const struct shmem *shm, uint32_t page, uint32_t chunk,
                                     uint16_t writer, uint32_t id, uint16_t packets)
{
    struct page_chunk at;
    if (page_word(shm, page) == 0)
        cr_assert(page_partition(shm, page, SMB_LAYOUT_DIV4));
    cr_assert(page_acquire_write(shm, page, chunk, writer, id, packets, &at));
    return at;
}

Test(scan, R87_header_is_copied)
{
    struct shmem shm = fresh(2, 4096);
    struct scan_chunk c;
    struct page_chunk at = write_chunk(&shm, 1, 2, 9, 77, abi_packets(5, 63));
    cr_assert_eq(scan_acquire(&shm, 1, 2, &c), ERR_BAD_STATE);
    cr_assert(page_release_complete(&shm, &at));
    cr_assert_eq(scan_acquire(&shm, 1, 2, &c), 0);
    cr_assert_eq(c.writer_id, 9);
    cr_assert_eq(c.chunk_id, 77);
    cr_assert_eq(c.count, 5);
    cr_assert_eq(c.flags, SMB_FLAGS_KNOWN, "flags 8, 16, 32 are ignored");
    cr_assert_eq(c.size, 1012);
    cr_assert_eq(c.payload, at.payload);
    atomic_store(&at.hdr->packets, 0xFFFF); /* too late for the producer */
    cr_assert_eq(scan_count(&c), 5);
    cr_assert_eq(scan_release(&shm, &c), 0);
    cr_assert_eq(page_word(&shm, 1), 0);
    shmem_fini(&shm);
}

Test(scan, R103_incomplete_chunks)
{
    struct scan_chunk c = {.count = 3, .flags = SMB_FLAGS_KNOWN, .incomplete = true};
    cr_assert_eq(scan_count(&c), 2);
    cr_assert_eq(scan_flags(&c), SMB_FIRST_CONTINUES);
    c.count = 0;
    cr_assert_eq(scan_count(&c), 0);
    c.count = 3;
    c.incomplete = false;
    cr_assert_eq(scan_count(&c), 3);
    cr_assert_eq(scan_flags(&c), SMB_FLAGS_KNOWN);
}

Test(scan, R101_what_is_scraped_in_which_order)
{
    struct shmem shm = fresh(5, 4096);
    struct page_chunk done = write_chunk(&shm, 3, 1, 1, 10, abi_packets(1, 0));
    cr_assert(page_release_complete(&shm, &done));        /* complete, one packet: yes */
    write_chunk(&shm, 3, 0, 1, 11, abi_packets(1, 0));    /* one unfinished packet: no */
    write_chunk(&shm, 3, 3, 2, 12, abi_packets(2, 0));    /* one finished packet: yes */
    write_chunk(&shm, 1, 2, 3, 13, abi_packets(1023, 1)); /* yes, and first */
    struct page_chunk being_read = write_chunk(&shm, 4, 0, 4, 14, abi_packets(2, 0));
    cr_assert(page_release_complete(&shm, &being_read));
    cr_assert_eq(page_acquire_read(&shm, 4, 0, &being_read), 0);

    struct scan_iter it;
    struct scan_chunk c;
    uint32_t budget = 1000;
    uint8_t *before = malloc(shm.size);
    memcpy(before, shm.base, shm.size);
    scan_begin(&it, &shm);
    static const struct {
        uint32_t id, page, chunk;
        bool incomplete;
    } expect[] = {{13, 1, 2, true}, {10, 3, 1, false}, {12, 3, 3, true}, {14, 4, 0, true}};
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(scan_next(&it, &budget, &c), SCAN_FOUND);
        cr_assert_eq(c.chunk_id, expect[i].id);
        cr_assert_eq(c.at.page, expect[i].page);
        cr_assert_eq(c.at.chunk, expect[i].chunk);
        cr_assert_eq(c.incomplete, expect[i].incomplete);
    }
    cr_assert_eq(scan_next(&it, &budget, &c), SCAN_END);
    cr_assert_eq(scan_next(&it, &budget, &c), SCAN_END);
    cr_assert_arr_eq(before, shm.base, shm.size, "R102: scraping changes nothing");
    free(before);
    shmem_fini(&shm);
}

Test(scan, budget_slices_and_goes_on_where_it_stopped)
{
    struct shmem shm = fresh(64, 4096);
    for (uint32_t p = 0; p < 64; p += 2)
        for (uint32_t i = 0; i < 4; i++)
            write_chunk(&shm, p, i, 1, p * 4 + i, abi_packets(2, 0));
    struct scan_iter it;
    struct scan_chunk c;
    uint32_t found = 0;
    uint32_t slices = 1;
    uint32_t last = 0;
    uint32_t budget = 7;
    enum scan_step step;
    scan_begin(&it, &shm);
    while ((step = scan_next(&it, &budget, &c)) != SCAN_END) {
        if (step == SCAN_AGAIN) {
            cr_assert_eq(budget, 0);
            budget = 7;
            slices++;
            continue;
        }
        cr_assert(found == 0 || c.chunk_id > last);
        last = c.chunk_id;
        found++;
    }
    cr_assert_eq(found, 128);
    cr_assert_gt(slices, 20);
    shmem_fini(&shm);
}

Test(scan, R110_section_12_shipped_chunks)
{
    uint8_t *data = calloc(1, 65536);
    static const uint8_t head[] = {4, 3, 2, 1, 0xFF, 0xFF, 0x02, 0xFC};
    struct scan_chunk c;
    memcpy(data, head, sizeof(head));
    for (size_t len = 0; len < 8; len++)
        cr_assert_eq(scan_data(data, len, false, &c), ERR_BAD_CHUNK);
    cr_assert_eq(scan_data(NULL, 100, false, &c), ERR_BAD_CHUNK);
    cr_assert_eq(scan_data(data, 65536, false, &c), ERR_BAD_CHUNK);
    cr_assert_eq(scan_data(data, SIZE_MAX, false, &c), ERR_BAD_CHUNK);
    cr_assert_eq(scan_data(data, 8, true, &c), 0);
    cr_assert_eq(c.size, 0);
    cr_assert_eq(c.chunk_id, 0x01020304);
    cr_assert_eq(c.writer_id, 65535);
    cr_assert_eq(c.count, 2);
    cr_assert_eq(c.flags, SMB_FLAGS_KNOWN);
    cr_assert(c.incomplete);
    cr_assert_eq(scan_data(data, 65535, false, &c), 0);
    cr_assert_eq(c.size, 65527);
    cr_assert_eq(c.payload, data + 8);
    /* A message gives no alignment. */
    memmove(data + 1, data, 100);
    cr_assert_eq(scan_data(data + 1, 99, false, &c), 0);
    cr_assert_eq(c.chunk_id, 0x01020304);
    free(data);
}

static void in_bounds(const struct shmem *shm, const struct scan_chunk *c)
{
    cr_assert_geq(c->payload, shm->base);
    cr_assert_leq(c->payload + c->size, shm->base + shm->size);
}

static uint64_t rng(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* An SMB full of random bytes: nothing fails, nothing leaves the mapping. */
Test(scan, noise)
{
    static const uint32_t sizes[] = {4096, 8192, 16384, 32768};
    uint64_t seed = 42;
    for (size_t s = 0; s < 4; s++) {
        struct shmem shm = fresh(8, sizes[s]);
        for (int round = 0; round < 50; round++) {
            for (size_t i = 0; i < shm.size; i += 8) {
                uint64_t v = rng(&seed);
                memcpy(shm.base + i, &v, 8);
            }
            struct scan_iter it;
            struct scan_chunk c;
            uint32_t budget = 10000;
            scan_begin(&it, &shm);
            while (scan_next(&it, &budget, &c) == SCAN_FOUND)
                in_bounds(&shm, &c);
            for (uint32_t p = 0; p < 9; p++)
                for (uint32_t k = 0; k < 15; k++)
                    if (scan_acquire(&shm, p, k, &c) == 0) {
                        in_bounds(&shm, &c);
                        scan_release(&shm, &c);
                    }
        }
        shmem_fini(&shm);
    }
}

struct hostile {
    struct shmem *shm;
    _Atomic bool stop;
};

/* Rewrites page words and chunk headers as fast as it can. */
static void *scribble(void *arg)
{
    struct hostile *h = arg;
    static const uint32_t words[] = {0x10000003, 0x5FFFFFFF, 0,          0x20000006, 0x10000002,
                                     0x7FFFFFFF, 0x3AAAAAAA, 0x6FFFFFFF, 0x95555555, 0x4FFFFFFF};
    uint64_t seed = 7;
    while (!atomic_load_explicit(&h->stop, memory_order_relaxed)) {
        uint64_t r = rng(&seed);
        struct smb_page_hdr *page = shmem_page(h->shm, (uint32_t)(r % h->shm->pages));
        atomic_store_explicit(&page->word, words[(r >> 8) % 10], memory_order_relaxed);
        struct page_chunk at;
        page_locate(h->shm, (uint32_t)(r % h->shm->pages), (uint32_t)(r >> 20) % 14,
                    SMB_LAYOUT_DIV14, &at);
        atomic_store_explicit(&at.hdr->packets, (uint16_t)(r >> 32), memory_order_relaxed);
    }
    return NULL;
}

/* Section 12: this aborts upstream's service within milliseconds. */
Test(scan, section_12_hostile_pages_survive, .timeout = 60)
{
    struct shmem shm = fresh(4, 4096);
    struct hostile h = {.shm = &shm};
    pthread_t t;
    cr_assert_eq(pthread_create(&t, NULL, scribble, &h), 0);
    uint32_t taken = 0;
    uint32_t lost = 0;
    uint32_t scraped = 0;
    for (uint32_t i = 0; i < 2000000 && !(i > 200000 && taken && lost && scraped); i++) {
        struct scan_chunk c;
        if (scan_acquire(&shm, i % 4, i / 4 % 14, &c) == 0) {
            in_bounds(&shm, &c);
            taken++;
            int err = scan_release(&shm, &c);
            cr_assert(err == 0 || err == ERR_BAD_PAGE);
            lost += err != 0;
        }
        if (i % 16 == 0) {
            struct scan_iter it;
            uint32_t budget = 100;
            scan_begin(&it, &shm);
            while (scan_next(&it, &budget, &c) == SCAN_FOUND) {
                in_bounds(&shm, &c);
                cr_assert(!c.incomplete || c.count >= 2);
                scraped++;
            }
        }
    }
    atomic_store(&h.stop, true);
    pthread_join(t, NULL);
    cr_assert_gt(taken, 0);
    cr_assert_gt(scraped, 0);
    shmem_fini(&shm);
}
