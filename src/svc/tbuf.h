/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc/tbuf: the central trace buffer, write side.
 *
 * One `struct tbuf` per entry of TraceConfig.buffers. It is private to the service and to the loop
 * thread: no locks. Chunks go in through tbuf_copy_chunk() and tbuf_patch(); packets come out
 * through svc/tbuf_read.h. Rule ids (R6, X12, ...) are those of spec/trace_buffer.md.
 *
 * Memory: the ring is reserved at creation and taken page by page as data arrives; nothing is
 * resident before the first chunk. What stands beside the ring (sequence table, order lists) grows
 * with the chunks that are in the ring now and shrinks with them; no producer can make it grow
 * without filling the ring.
 */
#ifndef SVC_TBUF_H
#define SVC_TBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tbuf;

/* ---------------------------------------------------------------- creation */

/* FillPolicy (R30-R37). RING evicts the oldest records. DISCARD stops at the end of memory: the
 * first record that does not fit seals the buffer for good, whatever was read meanwhile (R32). */
enum tbuf_policy {
    TBUF_RING = 0,
    TBUF_DISCARD = 1,
};

/* Flags of tbuf_new(). */
#define TBUF_NO_HISTOGRAMS 1u /* builtin_data_sources.disable_chunk_usage_histograms */

#define TBUF_SIZE_MAX (1ull << 32) /* bytes; size_kb 4194303 rounds up to exactly this */

/* Reserves a buffer of `size` bytes, rounded up to a multiple of 4096, at least 4096 (R21).
 * 0: *out is a new buffer, freed with tbuf_free().
 * -EINVAL: size is 0 or above TBUF_SIZE_MAX. -ENOMEM: address space or memory is exhausted. */
int tbuf_new(uint64_t size, enum tbuf_policy policy, unsigned flags, struct tbuf **out);

/* Frees the buffer and everything it owns, when the last clone in the making is done with it. NULL
 * is allowed. */
void tbuf_free(struct tbuf *b);

/* The same in steps of about 0.1 ms: nothing but this may be called any more; false when all of it
 * is freed. b is a struct tbuf. */
bool tbuf_free_some(void *b);

/* ---------------------------------------------------------------- copy a chunk in */

/* Who the bytes come from, as the kernel said at accept. Trusted. A sequence keeps the identity of
 * the chunk that created it (R16). `tag` is the caller's own (an index, say): stored, returned. */
struct tbuf_client {
    int32_t uid;
    int32_t pid;
    uint32_t machine_id; /* 0: this machine */
    uint32_t tag;
};

/* Chunk flags as they stand in bits 10.. of the SMB `packets` word (R8). */
#define TBUF_CHUNK_FIRST_CONTINUES 1u
#define TBUF_CHUNK_LAST_CONTINUES  2u
#define TBUF_CHUNK_NEEDS_PATCHING  4u

struct tbuf_chunk_in {
    uint16_t producer_id;   /* trusted, never 0 */
    uint16_t writer_id;     /* untrusted, any value (R94) */
    uint32_t chunk_id;      /* untrusted */
    uint16_t num_fragments; /* untrusted, low 10 bits of the packets word */
    uint8_t flags;          /* untrusted, TBUF_CHUNK_*; other bits are ignored */
    bool complete;          /* false: scraped while being written, R13 is applied here */
    const void *payload;    /* borrow: first byte after the chunk header; may lie in an SMB */
    uint32_t payload_size;  /* bytes at payload; more than 65535 is refused (R20) */
    struct tbuf_client client;
};

/* What became of the chunk. For tests, logs and metrics: every outcome is already counted in the
 * statistics and none of them asks for the producer to be closed. */
enum tbuf_outcome {
    TBUF_STORED = 0, /* new record */
    TBUF_REWRITTEN,  /* stored copy grew in place, or became complete (R45) */
    TBUF_RELOCATED,  /* stored, drained copy moved to the write cursor (R46) */
    TBUF_READMITTED, /* evicted before it was read to its end, stored again (R43, X16) */
    TBUF_DUPLICATE,  /* nothing new in it (R40) */
    TBUF_STALE,      /* older than what was already read or given up; dropped (R43) */
    TBUF_DISCARDED,  /* sealed by the discard policy (R33) */
    TBUF_REFUSED,    /* ABI violation: too large, shrunk, lost a flag (R20, R44) */
    TBUF_NO_MEMORY,  /* the order list could not grow; dropped, counted as stats.chunks_no_memory */
    TBUF_IS_READ_ONLY, /* a clone or a buffer set read-only; nothing done */
};

/* Copies one chunk. Bytes of the payload are copied into private memory before they are looked at,
 * and none that was looked at is read again: the producer may change them meanwhile. Bytes after
 * the last counted fragment are not stored. Makes slices of earlier packets invalid. No system
 * call, no allocation except when an order list doubles. */
enum tbuf_outcome tbuf_copy_chunk(struct tbuf *b, const struct tbuf_chunk_in *in);

/* ---------------------------------------------------------------- patches */

/* Four bytes at `offset` from the first payload byte of the chunk (R52). */
struct tbuf_patch {
    uint32_t offset;
    uint8_t data[4];
};

/* Applies `n` patches (n may be 0) to a stored chunk, in order (R53-R57). `more`: more patches will
 * come, the chunk keeps its needs-patching mark.
 * true: the chunk is stored and all were in bounds. false: not found, or one out of bounds (those
 * before it stay applied); patches_failed grew by one. Constant time, found or not. */
bool tbuf_patch(struct tbuf *b, uint16_t producer_id, uint16_t writer_id, uint32_t chunk_id,
                const struct tbuf_patch *patches, size_t n, bool more);

/* ---------------------------------------------------------------- life of producers */

/* The producer is gone and its last chunk was copied (R100). Nothing can complete its open chunks
 * any more: their visible packets stay readable, then they are given up instead of being kept, and
 * a later producer with the same id starts new sequences. Data in the buffer stays. Constant time;
 * the first chunk of a later producer with the same id pays for a walk over all sequences. */
void tbuf_producer_gone(struct tbuf *b, uint16_t producer_id);

/* ---------------------------------------------------------------- clone, read-only */

/* A read-only copy of what is not read yet (R80-R84), of the same size and with the same used size;
 * statistics and histograms are copied, the four read counters start at 0. It shows the buffer as
 * it was at tbuf_clone_begin(), however long the copying takes: the buffer may be written, patched,
 * read, cloned again and freed meanwhile, and pays for it by copying first what it is about to
 * change. Work of the caller's task:
 *
 *     while (tbuf_clone_step(k, 256 << 10, &bytes)) spend `bytes`, return to the loop when spent;
 *     err = tbuf_clone_finish(k, &clone);
 */
struct tbuf_clone;

/* Takes the moment; copies nothing yet. 0: *out is freed by finish or cancel. -ENOMEM. */
int tbuf_clone_begin(struct tbuf *b, struct tbuf_clone **out);

/* Copies `max_bytes` or little more; *bytes is what it came to. False: all is there. */
bool tbuf_clone_step(struct tbuf_clone *k, size_t max_bytes, size_t *bytes);

/* What finish will give. Until then only for the queries below. */
struct tbuf *tbuf_clone_target(const struct tbuf_clone *k);

/* Copies what is left and frees k. 0: *out is new, freed with tbuf_free(). -ENOMEM: there is none.
 */
int tbuf_clone_finish(struct tbuf_clone *k, struct tbuf **out);

/* Gives up. NULL is allowed. */
void tbuf_clone_cancel(struct tbuf_clone *k);

/* All of it at once. 0 or -ENOMEM. */
int tbuf_clone_read_only(struct tbuf *b, struct tbuf **out);

/* From now on copies and patches change nothing (`transfer_on_clone`, R85). */
void tbuf_set_read_only(struct tbuf *b);

/* ---------------------------------------------------------------- page faults */

/* Takes up to `max_bytes` of memory just ahead of the write cursor, so that the page faults of the
 * first lap are paid in the caller's timed task and not in commit handling. Returns the bytes
 * taken; 0: nothing to do now (no data yet, or far enough ahead, or first lap over). Takes at most
 * 4 MiB more than was ever written. */
size_t tbuf_prefault(struct tbuf *b, size_t max_bytes);

/* False when it would take none. */
bool tbuf_prefault_due(const struct tbuf *b);

/* The rest of the first lap is taken in small pages; when it is over the kernel may join them. */
void tbuf_small_pages(struct tbuf *b);

/* ---------------------------------------------------------------- queries */

/* TraceStats.BufferStats, same names and meaning (section 12.1); the last group is ours. */
struct tbuf_stats {
    uint64_t buffer_size;
    uint64_t bytes_written;
    uint64_t bytes_overwritten;
    uint64_t bytes_read;
    uint64_t padding_bytes_written;
    uint64_t padding_bytes_cleared;
    uint64_t chunks_written;
    uint64_t chunks_rewritten;
    uint64_t chunks_relocated;
    uint64_t chunks_overwritten;
    uint64_t chunks_discarded;
    uint64_t chunks_read;
    uint64_t chunks_committed_out_of_order;
    uint64_t write_wrap_count;
    uint64_t patches_succeeded;
    uint64_t patches_failed;
    uint64_t readaheads_succeeded;
    uint64_t readaheads_failed;
    uint64_t abi_violations;
    uint64_t trace_writer_packet_loss;
    /* not in the proto */
    uint64_t chunks_stale;        /* dropped: older than what was read (X02, X13) */
    uint64_t chunks_no_memory;    /* dropped: no memory for an order list */
    uint64_t sequences_forgotten; /* empty sequences whose last id is no longer remembered */
};

/* The counters now. The pointer is a borrow, valid as long as the buffer. */
const struct tbuf_stats *tbuf_stats(const struct tbuf *b);

#define TBUF_HIST_BUCKETS 11

/* chunk_payload_histogram_def: the 10 upper bounds; the 11th bucket is the overflow. */
extern const uint32_t tbuf_hist_bounds[TBUF_HIST_BUCKETS - 1];

/* One writer of TraceStats.writer_stats, and of TraceProvenance. */
struct tbuf_writer {
    uint16_t producer_id;
    uint16_t writer_id;
    struct tbuf_client client;
    uint64_t counts[TBUF_HIST_BUCKETS]; /* chunks per bucket; all 0 with TBUF_NO_HISTOGRAMS */
    uint64_t sums[TBUF_HIST_BUCKETS];   /* bytes of valid fragments per bucket */
};

/* Walks the writers that the buffer remembers, in no promised order. Start with *cursor = 0.
 * true: *out is filled and *cursor moved on. false: no more. Nothing may be written in between. */
bool tbuf_next_writer(const struct tbuf *b, uint32_t *cursor, struct tbuf_writer *out);

/* The same walk with less to fill. */
struct tbuf_sequence {
    uint16_t producer_id;
    uint16_t writer_id;
    uint32_t machine_id;
};

bool tbuf_next_sequence(const struct tbuf *b, uint32_t *cursor, struct tbuf_sequence *out);

uint64_t tbuf_size(const struct tbuf *b);        /* bytes, rounded */
uint64_t tbuf_used_size(const struct tbuf *b);   /* high-water mark; all bytes above are 0 (R29) */
uint64_t tbuf_room_to_end(const struct tbuf *b); /* bytes from the write cursor to the end */
uint64_t tbuf_side_memory(const struct tbuf *b); /* bytes in use beside the ring */
enum tbuf_policy tbuf_policy(const struct tbuf *b);
bool tbuf_has_data(const struct tbuf *b); /* anything was ever written (R101) */
bool tbuf_is_sealed(const struct tbuf *b);
bool tbuf_is_read_only(const struct tbuf *b);

#endif
