/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages and chunk states: every transition of R16 with the memory order of R18, and nothing else.
 * Both sides use it; which side may call what is said at each function.
 *
 * A page word belongs to a peer as much as to us. So no function trusts a word that it read
 * earlier, none retries without a bound, and none sleeps: contention that does not end, or a word
 * that changed in a way no honest peer causes, makes the call fail and the caller gives that page
 * up.
 */
#ifndef SMB_PAGE_H
#define SMB_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smb/abi.h"
#include "smb/shmem.h"

/* Attempts at one compare-and-swap; R20 uses 64 and sleeps between them, we do not sleep. */
#define PAGE_CAS_TRIES 256

/* Where a chunk lies. Borrowed from the shmem it was taken from. */
struct page_chunk {
    struct smb_chunk_hdr *hdr; /* borrow */
    uint8_t *payload;          /* borrow: hdr + 8 */
    uint32_t payload_size;     /* chunk size - 8 */
    uint32_t page;
    uint16_t chunk;
    uint16_t layout; /* at acquisition */
};

/* The page word, acquire. Page must be < shm->pages, here and below. */
uint32_t page_word(const struct shmem *shm, uint32_t page);

/* The same as a hint only, relaxed (R18 "look for a free page"). */
uint32_t page_word_hint(const struct shmem *shm, uint32_t page);

/* Bit i set: chunk i of the page is free / complete. 0 for a page without chunks. */
uint32_t page_free_mask(uint32_t word);
/* Advisory (R21): at least one chunk and all of them complete. */
bool page_is_complete(uint32_t word);

/* Computes where chunk `chunk` lies under `layout`; the chunk must exist in that layout. */
void page_locate(const struct shmem *shm, uint32_t page, uint32_t chunk, uint32_t layout,
                 struct page_chunk *out);

/* Producer: 0 -> layout. False if the page is not free. */
bool page_partition(const struct shmem *shm, uint32_t page, enum smb_layout layout);

/*
 * Producer: Free -> BeingWritten, then the header with ids and `packets` in the order of R18.
 * False if there is no such chunk, it is not free, or contention did not end.
 */
bool page_acquire_write(const struct shmem *shm, uint32_t page, uint32_t chunk, uint16_t writer_id,
                        uint32_t chunk_id, uint16_t packets, struct page_chunk *out);

/* Producer: BeingWritten -> Complete. False (the chunk stays stuck) on contention or a foreign
 * change. */
bool page_release_complete(const struct shmem *shm, const struct page_chunk *c);

/* Producer, emulation only: Complete -> Free. */
bool page_free_complete(const struct shmem *shm, const struct page_chunk *c);

/* Service: Complete -> BeingRead. 0; ERR_BAD_CHUNK no such page or chunk; ERR_BAD_STATE not
 * complete; ERR_BAD_PAGE the word would not stand still. All three mean "skip this chunk". */
int page_acquire_read(const struct shmem *shm, uint32_t page, uint32_t chunk,
                      struct page_chunk *out);

/*
 * Service: zeroes the chunk header, then BeingRead -> Free; the last chunk of a page frees the page
 * (R17-R19). 0; ERR_BAD_PAGE if the layout or the state is no longer what it was at acquisition:
 * the page is then left to the producer that broke it.
 */
int page_release_free(const struct shmem *shm, const struct page_chunk *c);

/* The single writer's view of its own `packets` word: relaxed load, release store (R18, R24). */
static inline uint16_t page_packets(const struct page_chunk *c)
{
    return atomic_load_explicit(&c->hdr->packets, memory_order_relaxed);
}

static inline void page_set_packets(const struct page_chunk *c, uint16_t packets)
{
    atomic_store_explicit(&c->hdr->packets, packets, memory_order_release);
}

/* Counts one more packet; returns the new count. The caller keeps it <= SMB_MAX_COUNT. */
static inline uint32_t page_count_inc(const struct page_chunk *c)
{
    uint16_t p = (uint16_t)(page_packets(c) + 1u);
    page_set_packets(c, p);
    return abi_packets_count(p);
}

static inline void page_flag_set(const struct page_chunk *c, uint32_t flag)
{
    page_set_packets(c, (uint16_t)(page_packets(c) | (flag << SMB_FLAGS_SHIFT)));
}

static inline void page_flag_clear(const struct page_chunk *c, uint32_t flag)
{
    page_set_packets(c, (uint16_t)(page_packets(c) & ~(flag << SMB_FLAGS_SHIFT)));
}

#endif
