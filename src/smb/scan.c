/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading chunks on the service's side, by commit, by scraping, or out of a message.
 *
 * The invariant: a chunk header is loaded once, field by field, into struct scan_chunk, and every
 * decision is taken on that copy. Addresses come from the layout that was checked at acquisition
 * and from the SMB's own geometry, never from anything the producer can still change, so a
 * scan_chunk's payload lies inside the mapping whatever happens to the page meanwhile.
 *
 * Must never: fail in a way that takes more than this one chunk with it.
 */
#include "smb/scan.h"

#include <string.h>

#include "reactor/err.h"

/* Fills everything from the header of c->at but `incomplete`. packets first: it carries the
 * acquire. */
static void read_header(struct scan_chunk *c)
{
    const struct smb_chunk_hdr *hdr = c->at.hdr;
    uint16_t packets = atomic_load_explicit(&hdr->packets, memory_order_acquire);
    c->writer_id = atomic_load_explicit(&hdr->writer_id, memory_order_relaxed);
    c->chunk_id = atomic_load_explicit(&hdr->chunk_id, memory_order_relaxed);
    c->count = (uint16_t)abi_packets_count(packets);
    c->flags = (uint8_t)(abi_packets_flags(packets) & SMB_FLAGS_KNOWN);
    c->payload = c->at.payload;
    c->size = c->at.payload_size;
}

int scan_acquire(const struct shmem *shm, uint32_t page, uint32_t chunk, struct scan_chunk *out)
{
    struct page_chunk at;
    int err = page_acquire_read(shm, page, chunk, &at);
    if (err) {
        return err;
    }
    out->at = at;
    out->incomplete = false;
    read_header(out);
    return 0;
}

int scan_release(const struct shmem *shm, const struct scan_chunk *c)
{
    return page_release_free(shm, &c->at);
}

int scan_data(const uint8_t *data, size_t len, bool incomplete, struct scan_chunk *out)
{
    uint32_t chunk_id;
    uint16_t writer_id;
    uint16_t packets;
    if (!data || len < SMB_MIN_DATA || len > SMB_MAX_DATA) {
        return ERR_BAD_CHUNK;
    }
    /* The bytes of a message have no alignment. */
    memcpy(&chunk_id, data + offsetof(struct smb_chunk_hdr, chunk_id), sizeof(chunk_id));
    memcpy(&writer_id, data + offsetof(struct smb_chunk_hdr, writer_id), sizeof(writer_id));
    memcpy(&packets, data + offsetof(struct smb_chunk_hdr, packets), sizeof(packets));
    *out = (struct scan_chunk){
        .payload = data + SMB_CHUNK_HDR_SIZE,
        .size = (uint32_t)(len - SMB_CHUNK_HDR_SIZE),
        .chunk_id = chunk_id,
        .writer_id = writer_id,
        .count = (uint16_t)abi_packets_count(packets),
        .flags = (uint8_t)(abi_packets_flags(packets) & SMB_FLAGS_KNOWN),
        .incomplete = incomplete,
    };
    return 0;
}

void scan_begin(struct scan_iter *it, const struct shmem *shm)
{
    *it = (struct scan_iter){.shm = shm};
}

enum scan_step scan_next(struct scan_iter *it, uint32_t *budget, struct scan_chunk *out)
{
    while (it->page < it->shm->pages) {
        if (*budget == 0) {
            return SCAN_AGAIN;
        }
        --*budget;
        /* Looked at afresh for every chunk: between two slices the page may have been emptied. */
        uint32_t word = page_word(it->shm, it->page);
        uint32_t layout = abi_word_layout(word);
        uint32_t chunk = it->chunk++;
        if (chunk >= abi_layout_chunks(layout)) {
            it->page++;
            it->chunk = 0;
            continue;
        }
        uint32_t state = abi_word_state(word, chunk);
        if (state == SMB_FREE) {
            continue;
        }
        struct scan_chunk c = {.incomplete = state != SMB_COMPLETE};
        page_locate(it->shm, it->page, chunk, layout, &c.at);
        read_header(&c);
        if (c.incomplete && c.count < 2) {
            continue; /* its only packet may be half written (R101) */
        }
        *out = c;
        return SCAN_FOUND;
    }
    return SCAN_END;
}
