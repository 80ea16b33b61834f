/* SPDX-License-Identifier: Apache-2.0 */
/* Page and chunk states: T1-T7, R14-R19, and words that a peer rewrote. */
#include <criterion/criterion.h>
#include <string.h>

#include "reactor/err.h"
#include "smb/page.h"

static const uint32_t page_sizes[] = {4096, 8192, 16384, 32768, 65536};
#define EACH_SIZE(i) for (size_t i = 0; i < sizeof(page_sizes) / sizeof(page_sizes[0]); i++)

static struct shmem fresh(uint32_t page_size)
{
    struct shmem shm;
    shmem_init(&shm);
    cr_assert_eq(shmem_anonymous(&shm, 10 * (size_t)page_size, page_size), 0);
    return shm;
}

static void set_word(const struct shmem *shm, uint32_t page, uint32_t word)
{
    atomic_store(&shmem_page(shm, page)->word, word);
}

Test(page, T1_fresh_memory)
{
    EACH_SIZE(i)
    {
        struct shmem shm = fresh(page_sizes[i]);
        for (uint32_t p = 0; p < shm.pages; p++) {
            cr_assert_eq(page_word(&shm, p), 0);
            cr_assert_not(page_is_complete(page_word(&shm, p)));
            cr_assert_eq(page_free_mask(page_word(&shm, p)), 0);
        }
        shmem_fini(&shm);
    }
}

Test(page, T2_partitioning)
{
    static const uint32_t masks[] = {0x1, 0x3, 0xF, 0x7F, 0x3FFF};
    EACH_SIZE(i)
    {
        struct shmem shm = fresh(page_sizes[i]);
        for (uint32_t layout = 1; layout <= 5; layout++) {
            cr_assert(page_partition(&shm, layout, (enum smb_layout)layout));
            cr_assert_eq(page_free_mask(page_word(&shm, layout)), masks[layout - 1]);
            cr_assert_not(page_partition(&shm, layout, SMB_LAYOUT_DIV1));
        }
        shmem_fini(&shm);
    }
}

/* R4: with pages of 64 KiB, too. */
Test(page, T3_chunks_in_order_disjoint_inside)
{
    EACH_SIZE(i)
    {
        struct shmem shm = fresh(page_sizes[i]);
        for (uint32_t layout = 1; layout <= 5; layout++) {
            const uint8_t *page = (const uint8_t *)shmem_page(&shm, 3);
            const uint8_t *expect = page + SMB_PAGE_HDR_SIZE;
            for (uint32_t c = 0; c < abi_layout_chunks(layout); c++) {
                struct page_chunk at;
                page_locate(&shm, 3, c, layout, &at);
                cr_assert_eq((const uint8_t *)at.hdr, expect);
                cr_assert_eq(at.payload, expect + SMB_CHUNK_HDR_SIZE);
                cr_assert_eq(at.payload_size, abi_chunk_size(page_sizes[i], layout) - 8);
                expect = at.payload + at.payload_size;
            }
            cr_assert_leq(expect, page + page_sizes[i]);
        }
        shmem_fini(&shm);
    }
}

Test(page, T4_header_round_trip)
{
    struct shmem shm = fresh(4096);
    cr_assert(page_partition(&shm, 0, SMB_LAYOUT_DIV14));
    for (uint16_t c = 0; c < 14; c++) {
        struct page_chunk at;
        uint16_t packets = abi_packets(10u * c, c * 4u);
        cr_assert(page_acquire_write(&shm, 0, c, (uint16_t)(c + 1), UINT32_MAX - c, packets, &at));
        cr_assert_eq(atomic_load(&at.hdr->writer_id), c + 1);
        cr_assert_eq(atomic_load(&at.hdr->chunk_id), UINT32_MAX - c);
        cr_assert_eq(page_packets(&at), packets);
        cr_assert_eq(page_count_inc(&at), 10u * c + 1);
        page_flag_set(&at, SMB_NEEDS_PATCHING);
        cr_assert(abi_packets_flags(page_packets(&at)) & SMB_NEEDS_PATCHING);
        page_flag_clear(&at, SMB_NEEDS_PATCHING); /* R24's only exception */
        cr_assert_eq(page_packets(&at), abi_packets(10u * c + 1, c * 4u & ~SMB_NEEDS_PATCHING));
    }
    shmem_fini(&shm);
}

Test(page, T5_no_chunk_twice)
{
    struct shmem shm = fresh(4096);
    struct page_chunk at;
    cr_assert_not(page_acquire_write(&shm, 0, 0, 1, 0, 0, &at)); /* not partitioned */
    cr_assert(page_partition(&shm, 0, SMB_LAYOUT_DIV2));
    cr_assert(page_acquire_write(&shm, 0, 1, 1, 0, 0, &at));
    cr_assert_not(page_acquire_write(&shm, 0, 1, 2, 0, 0, &at));
    cr_assert_not(page_acquire_write(&shm, 0, 2, 2, 0, 0, &at));
    shmem_fini(&shm);
}

/* R21. */
Test(page, T6_life_cycle)
{
    EACH_SIZE(i)
    {
        struct shmem shm = fresh(page_sizes[i]);
        for (uint32_t layout = 1; layout <= 5; layout++) {
            uint32_t n = abi_layout_chunks(layout);
            struct page_chunk at[SMB_MAX_CHUNKS];
            cr_assert(page_partition(&shm, 1, (enum smb_layout)layout));
            for (uint32_t c = 0; c < n; c++) {
                struct page_chunk other;
                cr_assert(page_acquire_write(&shm, 1, c, 5, c, 1, &at[c]));
                cr_assert_eq(page_acquire_read(&shm, 1, c, &other), ERR_BAD_STATE);
            }
            for (uint32_t c = 0; c < n; c++) {
                cr_assert_not(page_is_complete(page_word(&shm, 1)));
                cr_assert(page_release_complete(&shm, &at[c]));
                cr_assert_not(page_release_complete(&shm, &at[c]));
            }
            cr_assert(page_is_complete(page_word(&shm, 1)));
            for (uint32_t c = 0; c < n; c++) {
                cr_assert_eq(page_acquire_read(&shm, 1, c, &at[c]), 0);
                cr_assert_eq(atomic_load(&at[c].hdr->writer_id), 5);
                cr_assert_eq(page_acquire_read(&shm, 1, c, &at[c]), ERR_BAD_STATE);
            }
            for (uint32_t c = 0; c < n; c++) {
                cr_assert_neq(page_word(&shm, 1), 0);
                cr_assert_eq(page_release_free(&shm, &at[c]), 0);
                /* R18: the header is zero before the chunk is free (R19 depends on it). */
                cr_assert_eq(atomic_load(&at[c].hdr->writer_id), 0);
                cr_assert_eq(page_packets(&at[c]), 0);
            }
            cr_assert_eq(page_word(&shm, 1), 0, "the last chunk frees the page");
        }
        shmem_fini(&shm);
    }
}

Test(page, T7_emulation_life_cycle)
{
    struct shmem shm = fresh(4096);
    struct page_chunk a;
    struct page_chunk b;
    cr_assert(page_partition(&shm, 0, SMB_LAYOUT_DIV2));
    cr_assert(page_acquire_write(&shm, 0, 0, 1, 0, 0, &a));
    cr_assert(page_acquire_write(&shm, 0, 1, 1, 1, 0, &b));
    cr_assert_not(page_free_complete(&shm, &a));
    cr_assert(page_release_complete(&shm, &a));
    cr_assert(page_release_complete(&shm, &b));
    cr_assert(page_free_complete(&shm, &a));
    cr_assert_eq(page_word(&shm, 0), 0x2000000C);
    cr_assert(page_free_complete(&shm, &b));
    cr_assert_eq(page_word(&shm, 0), 0);
    shmem_fini(&shm);
}

Test(page, R16_example_words)
{
    struct shmem shm = fresh(4096);
    struct page_chunk at;
    struct page_chunk c0;
    cr_assert(page_partition(&shm, 0, SMB_LAYOUT_DIV1));
    cr_assert(page_acquire_write(&shm, 0, 0, 1, 0, 0, &at));
    cr_assert_eq(page_word(&shm, 0), 0x10000001);
    cr_assert(page_release_complete(&shm, &at));
    cr_assert_eq(page_word(&shm, 0), 0x10000003);
    cr_assert(page_partition(&shm, 1, SMB_LAYOUT_DIV4));
    cr_assert(page_acquire_write(&shm, 1, 0, 1, 0, 0, &c0));
    cr_assert(page_acquire_write(&shm, 1, 2, 1, 0, 0, &at));
    cr_assert(page_release_complete(&shm, &c0));
    cr_assert_eq(page_word(&shm, 1), 0x30000013);
    cr_assert(page_partition(&shm, 2, SMB_LAYOUT_DIV14));
    for (uint32_t i = 0; i < 14; i++) {
        cr_assert(page_acquire_write(&shm, 2, i, 1, 0, 0, &at));
        cr_assert(page_release_complete(&shm, &at));
    }
    cr_assert_eq(page_word(&shm, 2), 0x5FFFFFFF);
    shmem_fini(&shm);
}

Test(page, R17_reserved_bit_goes_with_the_last_chunk)
{
    struct shmem shm = fresh(4096);
    struct page_chunk a;
    struct page_chunk b;
    set_word(&shm, 0, 0xA000000F); /* bit 31, Div2, both complete */
    cr_assert_eq(page_acquire_read(&shm, 0, 0, &a), 0);
    cr_assert_eq(page_acquire_read(&shm, 0, 1, &b), 0);
    cr_assert_eq(page_release_free(&shm, &a), 0);
    cr_assert_eq(page_word(&shm, 0), 0xA0000008);
    cr_assert_eq(page_release_free(&shm, &b), 0);
    cr_assert_eq(page_word(&shm, 0), 0);
    shmem_fini(&shm);
}

Test(page, lying_references_are_refused)
{
    struct shmem shm = fresh(4096);
    struct page_chunk at;
    cr_assert_eq(page_acquire_read(&shm, shm.pages, 0, &at), ERR_BAD_CHUNK);
    cr_assert_eq(page_acquire_read(&shm, UINT32_MAX, 0, &at), ERR_BAD_CHUNK);
    cr_assert_eq(page_acquire_read(&shm, 0, 14, &at), ERR_BAD_CHUNK);
    cr_assert_eq(page_acquire_read(&shm, 0, UINT32_MAX, &at), ERR_BAD_CHUNK);
    cr_assert_eq(page_acquire_read(&shm, 0, 0, &at), ERR_BAD_CHUNK);
    set_word(&shm, 0, 0x6FFFFFFF); /* reserved layouts have no chunks */
    cr_assert_eq(page_acquire_read(&shm, 0, 0, &at), ERR_BAD_CHUNK);
    set_word(&shm, 0, 0x7FFFFFFF);
    cr_assert_eq(page_acquire_read(&shm, 0, 0, &at), ERR_BAD_CHUNK);
    set_word(&shm, 0, 0x1FFFFFFF); /* states of chunks that Div1 does not have */
    cr_assert_eq(page_acquire_read(&shm, 0, 1, &at), ERR_BAD_CHUNK);
    cr_assert_eq(page_acquire_read(&shm, 0, 0, &at), 0);
    shmem_fini(&shm);
}

/* Section 12: a producer that rewrites the word of a chunk being read loses the page, and that is
 * all. */
Test(page, section_12_rewritten_while_reading)
{
    static const uint32_t words[] = {0, 0x10000000, 0x10000001, 0x10000003, 0x2000000A, 0x60000002};
    struct shmem shm = fresh(4096);
    for (uint32_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct page_chunk at;
        set_word(&shm, i, 0x10000003);
        cr_assert_eq(page_acquire_read(&shm, i, 0, &at), 0);
        set_word(&shm, i, words[i]);
        cr_assert_eq(page_release_free(&shm, &at), ERR_BAD_PAGE);
        cr_assert_eq(page_word(&shm, i), words[i], "a lost page is not touched");
    }
    shmem_fini(&shm);
}
