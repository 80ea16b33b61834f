/* SPDX-License-Identifier: Apache-2.0 */
/* An SMB whose every byte the producer chose, and a list of chunk references that it commits:
 * acquired, read and released, then scraped in slices. The input is the references (4 bytes each:
 * page, chunk, two bytes that are written into the page word in between, as a producer does that
 * scribbles), a zero reference, and the memory. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "smb/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGES = 4, PAGE = 4096 };

static uint64_t sum;

static void check(const struct shmem *shm, const struct scan_chunk *c)
{
    if (c->payload < shm->base || c->payload + c->size > shm->base + shm->size ||
        c->count > SMB_MAX_COUNT || (c->flags & ~SMB_FLAGS_KNOWN) || scan_count(c) > c->count)
        abort();
    for (uint32_t i = 0; i < c->size; i++)
        sum += c->payload[i];
}

static void scribble(const struct shmem *shm, uint32_t page, const uint8_t *with)
{
    uint32_t word = page_word(shm, page);
    memcpy(&word, with, 2);
    word = word << 16 | word >> 16;
    atomic_store(&shmem_page(shm, page)->word, word);
}

static void commit(struct shmem *shm, const uint8_t *ref)
{
    struct scan_chunk c;
    uint32_t page = ref[0];
    if (scan_acquire(shm, page, ref[1], &c) != 0)
        return;
    if (page >= PAGES || ref[1] >= SMB_MAX_CHUNKS)
        abort();
    check(shm, &c);
    if (ref[2] & 1)
        scribble(shm, page, ref + 2);
    uint32_t word = page_word(shm, page);
    bool sane =
        abi_word_layout(word) == c.at.layout && abi_word_state(word, ref[1]) == SMB_BEING_READ;
    int err = scan_release(shm, &c);
    if ((err == 0) != sane || (err && page_word(shm, page) != word))
        abort();
}

static void scrape(const struct shmem *shm)
{
    struct scan_iter it;
    struct scan_chunk c;
    enum scan_step step;
    int slices = 0;
    uint32_t budget = 3;
    scan_begin(&it, shm);
    while ((step = scan_next(&it, &budget, &c)) != SCAN_END) {
        if (step == SCAN_FOUND)
            check(shm, &c);
        else
            budget = 3;
        if (++slices > PAGES * (int)(SMB_MAX_CHUNKS + 1) * 2)
            abort(); /* it must end */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct shmem shm;
    size_t refs = 0;
    shmem_init(&shm);
    if (shmem_anonymous(&shm, PAGES * PAGE, PAGE) != 0)
        return 0;
    while (size - refs >= 4 && memcmp(data + refs, "\0\0\0", 4) != 0)
        refs += 4;
    size_t memory = size - refs < shm.size ? size - refs : shm.size;
    memcpy(shm.base, data + refs, memory);
    for (size_t i = 0; i < refs; i += 4)
        commit(&shm, data + i);
    scrape(&shm);
    shmem_fini(&shm);
    return 0;
}
