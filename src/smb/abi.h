/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared memory ABI: numbers and layouts that producers and services of every version agree on.
 * Little-endian only. Nothing here has state; everything is a constant or a small pure function.
 *
 * Vocabulary: an SMB is cut in pages of one size; a page is cut in 1, 2, 4, 7 or 14 equal chunks; a
 * chunk is an 8-byte header and a payload of records [varint size][bytes].
 */
#ifndef SMB_ABI_H
#define SMB_ABI_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the SMB ABI is little-endian");
static_assert(ATOMIC_SHORT_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
              "header words are shared between processes and must be lock-free");

/* Sizes in bytes. R2-R4, R14, R106. */
#define SMB_PAGE_HDR_SIZE  8u
#define SMB_CHUNK_HDR_SIZE 8u
#define SMB_MIN_PAGE       4096u
#define SMB_MAX_PAGE       32768u    /* what a service accepts */
#define SMB_ABI_MAX_PAGE   65536u    /* what the layout could carry */
#define SMB_MAX_SIZE       33554432u /* 32 MiB */
#define SMB_DEFAULT_SIZE   262144u   /* 256 KiB */
#define SMB_DEFAULT_PAGE   4096u
#define SMB_EMULATED_SIZE  1048576u /* producer-private buffer without shared memory */
#define SMB_MIN_DATA       8u       /* shortest chunk shipped inside a commit, section 12 */
#define SMB_MAX_DATA       65535u   /* longest one */
#define SMB_MAX_CHUNKS     14u      /* per page */

/* Page header word: layout in bits 30:28, state of chunk i in bits 2i+1:2i. Section 3.1. */
enum smb_layout {
    SMB_LAYOUT_NONE = 0, /* free, not partitioned */
    SMB_LAYOUT_DIV1 = 1,
    SMB_LAYOUT_DIV2 = 2,
    SMB_LAYOUT_DIV4 = 3,
    SMB_LAYOUT_DIV7 = 4,
    SMB_LAYOUT_DIV14 = 5,
};
#define SMB_LAYOUT_SHIFT 28u
#define SMB_LAYOUT_MASK  0x70000000u
#define SMB_STATES_MASK  0x0FFFFFFFu

/* Section 3.2. */
enum smb_state {
    SMB_FREE = 0,
    SMB_BEING_WRITTEN = 1,
    SMB_BEING_READ = 2,
    SMB_COMPLETE = 3,
};

/* Chunk header, `packets` word: count in bits 9:0, flags in bits 15:10. Section 4. */
#define SMB_COUNT_MASK  0x03FFu
#define SMB_FLAGS_SHIFT 10u
#define SMB_MAX_COUNT   1023u
#define SMB_FIRST_CONTINUES                                                                        \
    1u /* the first fragment continues the packet that ended the chunk before */
#define SMB_LAST_CONTINUES 2u /* the last fragment continues in the chunk after */
#define SMB_NEEDS_PATCHING 4u /* nested sizes of the last fragment are still to come */
#define SMB_FLAGS_KNOWN    7u

#define SMB_MAX_WRITER_ID 32767u /* R34 */

/* Record sizes: a fixed 4-byte varint, R28; its largest value is the drop sentinel, R29. */
#define SMB_SIZE_FIELD    4u
#define SMB_MAX_RECORD    0x0FFFFFFEu
#define SMB_DROP_SENTINEL 0x0FFFFFFFu

struct smb_page_hdr {
    _Atomic uint32_t word;
    uint32_t reserved; /* 0; never touched */
};

struct smb_chunk_hdr {
    _Atomic uint32_t chunk_id;
    _Atomic uint16_t writer_id;
    _Atomic uint16_t packets;
};

static_assert(sizeof(struct smb_page_hdr) == SMB_PAGE_HDR_SIZE, "page header");
static_assert(offsetof(struct smb_page_hdr, word) == 0, "page word");
static_assert(sizeof(struct smb_chunk_hdr) == SMB_CHUNK_HDR_SIZE, "chunk header");
static_assert(offsetof(struct smb_chunk_hdr, chunk_id) == 0, "chunk id");
static_assert(offsetof(struct smb_chunk_hdr, writer_id) == 4, "writer id");
static_assert(offsetof(struct smb_chunk_hdr, packets) == 6, "packets word");

/* Chunks of a layout code; 0 for NONE and for the reserved codes 6 and 7. */
static inline uint32_t abi_layout_chunks(uint32_t layout)
{
    static const uint8_t chunks[8] = {0, 1, 2, 4, 7, 14, 0, 0};
    return chunks[layout & 7u];
}

static inline uint32_t abi_word_layout(uint32_t word)
{
    return (word & SMB_LAYOUT_MASK) >> SMB_LAYOUT_SHIFT;
}

static inline uint32_t abi_word_state(uint32_t word, uint32_t chunk)
{
    return (word >> (2u * chunk)) & 3u;
}

/* Size of each chunk, header included (R14): floor((page - 8) / n) rounded down to 4. 0 for no
 * chunks. */
static inline uint32_t abi_chunk_size(uint32_t page_size, uint32_t layout)
{
    uint32_t n = abi_layout_chunks(layout);
    return n ? ((page_size - SMB_PAGE_HDR_SIZE) / n) & ~3u : 0;
}

static inline uint32_t abi_packets_count(uint16_t packets)
{
    return packets & SMB_COUNT_MASK;
}

static inline uint32_t abi_packets_flags(uint16_t packets)
{
    return (uint32_t)packets >> SMB_FLAGS_SHIFT;
}

static inline uint16_t abi_packets(uint32_t count, uint32_t flags)
{
    return (uint16_t)((count & SMB_COUNT_MASK) | (flags << SMB_FLAGS_SHIFT));
}

/* Writes v (< 2^28) as the redundant 4-byte varint of R28. */
static inline void abi_put_size(uint8_t *at, uint32_t v)
{
    uint32_t x = 0x00808080u | (v & 0x7Fu) | ((v & 0x3F80u) << 1) | ((v & 0x1FC000u) << 2) |
                 ((v & 0xFE00000u) << 3);
    memcpy(at, &x, sizeof(x));
}

/* True iff (total, page) is a pair that a service serves: R3.3. */
static inline bool abi_size_valid(uint64_t total, uint64_t page)
{
    return (page == 4096 || page == 8192 || page == 16384 || page == 32768) && total >= page &&
           total <= SMB_MAX_SIZE && total % page == 0;
}

struct smb_size {
    uint32_t total;
    uint32_t page;
};

/*
 * The SMB a service allocates, in bytes, from the candidates (0 = no wish): R2, R3, R5. Each of the
 * two is the session config's value or, when that is 0, the producer's hint; anything unfit gives
 * the defaults.
 */
static inline struct smb_size abi_size_resolve(uint64_t cfg_total, uint64_t cfg_page,
                                               uint64_t hint_total, uint64_t hint_page)
{
    uint64_t total = cfg_total ? cfg_total : hint_total;
    uint64_t page = cfg_page ? cfg_page : hint_page;
    if (page == 0) {
        page = SMB_DEFAULT_PAGE;
    }
    if (total == 0) {
        total = SMB_DEFAULT_SIZE;
    }
    if (page > SMB_MAX_PAGE) {
        page = SMB_MAX_PAGE;
    }
    if (total > SMB_MAX_SIZE) {
        total = SMB_MAX_SIZE;
    }
    if (!abi_size_valid(total, page)) {
        return (struct smb_size){SMB_DEFAULT_SIZE, SMB_DEFAULT_PAGE};
    }
    return (struct smb_size){(uint32_t)total, (uint32_t)page};
}

#endif
