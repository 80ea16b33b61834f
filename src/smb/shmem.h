/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One shared memory buffer as mapped by this process: created by us, offered by a peer, or private
 * memory that only looks like one (emulation). Knows sizes and pages, nothing of chunk states.
 */
#ifndef SMB_SHMEM_H
#define SMB_SHMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smb_page_hdr;

/* Embedded by value in its owner. All zero bytes except fd = -1 means "no SMB". */
struct shmem {
    uint8_t *base;      /* own: the mapping, 4096-aligned */
    size_t size;        /* bytes; a positive multiple of page_size */
    uint32_t page_size; /* bytes */
    uint32_t pages;     /* size / page_size */
    int fd; /* own: -1 for emulation and for offered memory whose FD is no longer needed */
};

/* No memory yet; shmem_fini() of it is harmless. */
void shmem_init(struct shmem *shm);

/* Unmaps and closes. The struct may be initialised again afterwards. */
void shmem_fini(struct shmem *shm);

static inline bool shmem_mapped(const struct shmem *shm)
{
    return shm->base != NULL;
}

/*
 * Service side: new zeroed memory, sealed against shrinking, growing and further seals (R6).
 * shm->fd is what goes to the producer. total and page must satisfy abi_size_valid(). 0, or -errno
 * with shm untouched.
 */
int shmem_create(struct shmem *shm, uint32_t total, uint32_t page_size);

/*
 * Service side: adopts memory that a producer offered (R9-R13, section 12). Takes fd in every case.
 * Requires: the three seals, a size and page that pass R3 unchanged, and a mapping that is really
 * writable. 0, or ERR_BAD_FD (the peer's fault: it gets an SMB of ours instead) with shm
 * untouched and fd closed. `why` (may be NULL) gets a static phrase for the log line.
 */
int shmem_adopt(struct shmem *shm, int fd, uint64_t page_size, const char **why);

/*
 * Producer side: maps the FD that came with setup_tracing, whatever its seals (R7). Takes fd in
 * every case. 0; ERR_BAD_FD if the service sent something unusable; -errno if mapping failed
 * here.
 */
int shmem_map(struct shmem *shm, int fd, uint64_t page_size);

/* Producer side: private zeroed memory in place of an SMB (R106). page_size as announced; 0 or
 * -errno, ERR_BAD_CONFIG if the pair is unusable. */
int shmem_anonymous(struct shmem *shm, size_t total, uint64_t page_size);

/* Header of page `page`, which must be < shm->pages. */
static inline struct smb_page_hdr *shmem_page(const struct shmem *shm, uint32_t page)
{
    return (struct smb_page_hdr *)(void *)(shm->base + (size_t)page * shm->page_size);
}

#endif
