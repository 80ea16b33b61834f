/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service's way into an SMB, or into a chunk shipped as bytes: find the chunk, read its header
 * once into a local struct, hand out the payload's bounds. Payload bytes stay the producer's: they
 * may change while they are read, so the caller copies first and looks only at the copy (R97).
 */
#ifndef SMB_SCAN_H
#define SMB_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smb/page.h"

/* One chunk as the trace buffer wants it. Every field but *payload is a private copy. */
struct scan_chunk {
    const uint8_t *payload; /* borrow: SMB or commit bytes; hostile */
    uint32_t size;          /* payload bytes, 0 ... 65527 */
    uint32_t chunk_id;
    uint16_t writer_id; /* any 16-bit value (R89) */
    uint16_t count;     /* fragments, 0 ... 1023, as written; see scan_count() */
    uint8_t flags;      /* SMB_* flags, unknown bits removed */
    bool
        incomplete; /* scraped in the making: the last fragment and two flags do not count (R103) */
    struct page_chunk at; /* where it came from; zero for shipped bytes */
};

/* Fragments to take: the last one of an incomplete chunk is ignored (R103). */
static inline uint32_t scan_count(const struct scan_chunk *c)
{
    return c->count - (uint32_t)(c->incomplete && c->count > 0);
}

/* Flags to honour: only FirstContinues for an incomplete chunk (R103). */
static inline uint32_t scan_flags(const struct scan_chunk *c)
{
    return c->incomplete ? c->flags & SMB_FIRST_CONTINUES : c->flags;
}

/*
 * R87.1-2: takes chunk (page, chunk) for reading. page and chunk are unchecked values of a commit.
 * 0; or a positive error as page_acquire_read(): skip this entry. On 0 scan_release() must
 * follow.
 */
int scan_acquire(const struct shmem *shm, uint32_t page, uint32_t chunk, struct scan_chunk *out);

/* R87.4: frees the chunk. 0, or ERR_BAD_PAGE: the page is given up, count it and go on. */
int scan_release(const struct shmem *shm, const struct scan_chunk *c);

/*
 * R110: a whole chunk, header first, shipped inside a commit. len outside 8 ... 65535 is
 * ERR_BAD_CHUNK (section 12). out->payload points into data. No release is needed.
 */
int scan_data(const uint8_t *data, size_t len, bool incomplete, struct scan_chunk *out);

/* Scraping (section 9): walks pages and chunks in index order, changes nothing. */
struct scan_iter {
    const struct shmem *shm; /* borrow */
    uint32_t page;
    uint32_t chunk;
};

enum scan_step {
    SCAN_FOUND, /* *out is a chunk of R101's state and count condition */
    SCAN_AGAIN, /* the budget is used up; call again with a new one */
    SCAN_END,
};

void scan_begin(struct scan_iter *it, const struct shmem *shm);

/*
 * Next chunk that is Complete, or BeingWritten / BeingRead with count >= 2 (R101). *budget is the
 * number of chunk slots (or empty pages) that may still be looked at; it is decreased. Which
 * writers and buffers are wanted is the caller's check. Chunks are not acquired: no release.
 */
enum scan_step scan_next(struct scan_iter *it, uint32_t *budget, struct scan_chunk *out);

#endif
