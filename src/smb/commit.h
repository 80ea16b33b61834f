/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CommitDataRequest, encoded and decoded by hand: it is the message of the hot path, and neither
 * side may allocate per chunk. The request structs are what the arbiter builds; the views are what
 * the service reads straight from the frame.
 *
 * Fields: chunks_to_move 1 {page 1, chunk 2, target_buffer 3, data 4, chunk_incomplete 5};
 * chunks_to_patch 2 {target_buffer 1, writer_id 2, chunk_id 3, patches 4 {offset 1, data 2},
 * has_more_patches 5}; flush_request_id 3. R66, R67, R78, R107, R111.
 */
#ifndef SMB_COMMIT_H
#define SMB_COMMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- building ---- */

struct commit_move {
    const uint8_t *data; /* borrow: whole chunk when shipped as bytes, else NULL */
    uint32_t data_len;
    uint32_t page;
    uint32_t chunk;
    uint32_t target_buffer;
    bool scraped;    /* write chunk_incomplete explicitly (R111) */
    bool incomplete; /* its value */
};

struct commit_patch {
    uint32_t offset; /* from the payload start (R51) */
    uint8_t data[4];
};

/* One chunks_to_patch entry: patches[first ... first + count - 1] of the request. */
struct commit_entry {
    uint32_t target_buffer;
    uint32_t chunk_id;
    uint32_t first;
    uint32_t count;
    uint16_t writer_id;
    bool has_more;
};

struct commit_request {
    const struct commit_move
        *moves; /* borrow, as all here: valid during the call that carries it */
    size_t move_count;
    const struct commit_entry *entries;
    size_t entry_count;
    const struct commit_patch *patches;
    uint64_t flush_id;   /* 0 = none */
    uint64_t ack_cookie; /* 0 = no reply wanted (drop_reply); else pass to arbiter_acked() on the
                            reply */
};

/* Exact number of bytes that commit_encode() writes. */
size_t commit_encoded_size(const struct commit_request *req);

/* Writes the request to out, which has at least commit_encoded_size() bytes; returns the bytes
 * written. Page, chunk and the other integers are always present, also when 0 (section 11). */
size_t commit_encode(const struct commit_request *req, uint8_t *out);

/* ---- reading ---- */

/* A request that passed commit_open(): all nesting and lengths are known to be sound. */
struct commit_view {
    const uint8_t *data; /* borrow */
    size_t len;
    uint64_t flush_id; /* 0 = none */
    uint32_t move_count;
    uint32_t entry_count;
};

struct commit_entry_view {
    uint32_t target_buffer;
    uint32_t writer_id; /* unchecked 32-bit values: R90's limits are the caller's */
    uint32_t chunk_id;
    uint32_t patch_count;
    bool has_more;
    const uint8_t *body; /* borrow: for commit_next_patch() */
    size_t body_len;
};

struct commit_patch_view {
    uint32_t offset;
    const uint8_t *data; /* borrow */
    size_t data_len;     /* anything; only 4 is valid (R90) */
};

/* Moves as read: like commit_move, data NULL when absent. A present but empty data has data_len 0
 * and data non-NULL, so that scan_data() refuses it. */

/* Checks every byte of the request once. 0, or ERR_BAD_REQUEST if it is not a well-formed message.
 */
int commit_open(struct commit_view *view, const void *data, size_t len);

/* A position; zero it to begin. */
struct commit_pos {
    size_t at;
};

/* Next chunks_to_move / chunks_to_patch / patch in order; false at the end. Moves and entries are
 * walked separately since all moves of a request come before all patches (R90). Unknown fields are
 * skipped. */
bool commit_next_move(const struct commit_view *view, struct commit_pos *pos,
                      struct commit_move *out);
bool commit_next_entry(const struct commit_view *view, struct commit_pos *pos,
                       struct commit_entry_view *out);
bool commit_next_patch(const struct commit_entry_view *entry, struct commit_pos *pos,
                       struct commit_patch_view *out);

#endif
