/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page words and chunk headers, the only memory on which both sides act at the same time.
 *
 * Every change of a page word goes through change_state(), one bounded compare-and-swap loop. It
 * looks at the word afresh in each attempt and insists that the layout is the expected one and the
 * chunk in the expected state: an honest peer never changes either while we own the chunk, so
 * anything else is a peer that scribbles, and the answer is to leave the page to it.
 *
 * Must never: loop without a bound, sleep, or compute an address from a word other than the one
 * checked.
 */
#include "smb/page.h"

#include "reactor/err.h"

uint32_t page_word(const struct shmem *shm, uint32_t page)
{
    return atomic_load_explicit(&shmem_page(shm, page)->word, memory_order_acquire);
}

uint32_t page_word_hint(const struct shmem *shm, uint32_t page)
{
    return atomic_load_explicit(&shmem_page(shm, page)->word, memory_order_relaxed);
}

uint32_t page_free_mask(uint32_t word)
{
    uint32_t n = abi_layout_chunks(abi_word_layout(word));
    uint32_t mask = 0;
    for (uint32_t i = 0; i < n; i++) {
        mask |= (uint32_t)(abi_word_state(word, i) == SMB_FREE) << i;
    }
    return mask;
}

bool page_is_complete(uint32_t word)
{
    uint32_t n = abi_layout_chunks(abi_word_layout(word));
    for (uint32_t i = 0; i < n; i++) {
        if (abi_word_state(word, i) != SMB_COMPLETE) {
            return false;
        }
    }
    return n > 0;
}

void page_locate(const struct shmem *shm, uint32_t page, uint32_t chunk, uint32_t layout,
                 struct page_chunk *out)
{
    uint32_t size = abi_chunk_size(shm->page_size, layout);
    uint8_t *at = (uint8_t *)shmem_page(shm, page) + SMB_PAGE_HDR_SIZE + (size_t)chunk * size;
    *out = (struct page_chunk){
        .hdr = (struct smb_chunk_hdr *)(void *)at,
        .payload = at + SMB_CHUNK_HDR_SIZE,
        .payload_size = size - SMB_CHUNK_HDR_SIZE,
        .page = page,
        .chunk = (uint16_t)chunk,
        .layout = (uint16_t)layout,
    };
}

/*
 * chunk: from -> to. *layout is the layout required, or 0 to accept any that has the chunk; then it
 * is set. 0, ERR_BAD_CHUNK no such chunk (or another layout), ERR_BAD_STATE another state,
 * ERR_BAD_PAGE no end of contention.
 */
static int change_state(const struct shmem *shm, uint32_t page, uint32_t chunk, uint32_t *layout,
                        enum smb_state from, enum smb_state to)
{
    _Atomic uint32_t *at = &shmem_page(shm, page)->word;
    uint32_t word = atomic_load_explicit(at, memory_order_acquire);
    for (int i = 0; i < PAGE_CAS_TRIES; i++) {
        uint32_t now = abi_word_layout(word);
        if (chunk >= abi_layout_chunks(now) || (*layout && now != *layout)) {
            return ERR_BAD_CHUNK;
        }
        if (abi_word_state(word, chunk) != from) {
            return ERR_BAD_STATE;
        }
        uint32_t next = (word & ~(3u << (2 * chunk))) | ((uint32_t)to << (2 * chunk));
        if ((next & SMB_STATES_MASK) == 0) {
            next = 0; /* the last chunk frees the page (R17) */
        }
        if (atomic_compare_exchange_weak_explicit(at, &word, next, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *layout = now;
            return 0;
        }
    }
    return ERR_BAD_PAGE;
}

bool page_partition(const struct shmem *shm, uint32_t page, enum smb_layout layout)
{
    uint32_t expected = 0;
    return atomic_compare_exchange_strong_explicit(&shmem_page(shm, page)->word, &expected,
                                                   (uint32_t)layout << SMB_LAYOUT_SHIFT,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

bool page_acquire_write(const struct shmem *shm, uint32_t page, uint32_t chunk, uint16_t writer_id,
                        uint32_t chunk_id, uint16_t packets, struct page_chunk *out)
{
    uint32_t layout = 0;
    if (change_state(shm, page, chunk, &layout, SMB_FREE, SMB_BEING_WRITTEN) != 0) {
        return false;
    }
    page_locate(shm, page, chunk, layout, out);
    /* A scraper that sees these packets must see these ids: the release store comes last (R19). */
    atomic_store_explicit(&out->hdr->writer_id, writer_id, memory_order_relaxed);
    atomic_store_explicit(&out->hdr->chunk_id, chunk_id, memory_order_relaxed);
    atomic_store_explicit(&out->hdr->packets, packets, memory_order_release);
    return true;
}

bool page_release_complete(const struct shmem *shm, const struct page_chunk *c)
{
    uint32_t layout = c->layout;
    return change_state(shm, c->page, c->chunk, &layout, SMB_BEING_WRITTEN, SMB_COMPLETE) == 0;
}

static void clear_header(const struct page_chunk *c)
{
    atomic_store_explicit(&c->hdr->writer_id, 0, memory_order_relaxed);
    atomic_store_explicit(&c->hdr->chunk_id, 0, memory_order_relaxed);
    atomic_store_explicit(&c->hdr->packets, 0, memory_order_release);
}

bool page_free_complete(const struct shmem *shm, const struct page_chunk *c)
{
    uint32_t layout = c->layout;
    clear_header(c);
    return change_state(shm, c->page, c->chunk, &layout, SMB_COMPLETE, SMB_FREE) == 0;
}

int page_acquire_read(const struct shmem *shm, uint32_t page, uint32_t chunk,
                      struct page_chunk *out)
{
    uint32_t layout = 0;
    if (page >= shm->pages || chunk >= SMB_MAX_CHUNKS) {
        return ERR_BAD_CHUNK;
    }
    int err = change_state(shm, page, chunk, &layout, SMB_COMPLETE, SMB_BEING_READ);
    if (err == 0) {
        page_locate(shm, page, chunk, layout, out);
    }
    return err;
}

int page_release_free(const struct shmem *shm, const struct page_chunk *c)
{
    uint32_t layout = c->layout;
    uint32_t word = page_word(shm, c->page);
    if (abi_word_layout(word) != layout || abi_word_state(word, c->chunk) != SMB_BEING_READ) {
        return ERR_BAD_PAGE;
    }
    clear_header(c);
    return change_state(shm, c->page, c->chunk, &layout, SMB_BEING_READ, SMB_FREE) ? ERR_BAD_PAGE
                                                                                   : 0;
}
