/* SPDX-License-Identifier: Apache-2.0 */
/* CommitDataRequest: what is written is what is read, and what a hostile producer may send. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/err.h"
#include "smb/commit.h"

static uint8_t *encode(const struct commit_request *req, size_t *len)
{
    *len = commit_encoded_size(req);
    uint8_t *out = malloc(*len + 1);
    out[*len] = 0xA5;
    cr_assert_eq(commit_encode(req, out), *len);
    cr_assert_eq(out[*len], 0xA5);
    return out;
}

Test(commit, round_trip)
{
    uint8_t chunk[300];
    for (size_t i = 0; i < sizeof(chunk); i++)
        chunk[i] = (uint8_t)i;
    const struct commit_move moves[] = {
        {.page = 0, .chunk = 13, .target_buffer = 65535},
        {.page = UINT32_MAX, .chunk = 0, .target_buffer = 1, .data = chunk, .data_len = 300},
        {.data = chunk, .data_len = 8, .scraped = true, .incomplete = true},
        {.data = chunk, .data_len = 8, .scraped = true},
    };
    const struct commit_patch patches[] = {
        {0, {0x80, 0x80, 0x80, 0x00}}, {500, {1, 2, 3, 4}}, {65535, {0xFF, 0xFF, 0xFF, 0x7F}}};
    const struct commit_entry entries[] = {
        {.target_buffer = 3,
         .writer_id = 32767,
         .chunk_id = UINT32_MAX,
         .first = 0,
         .count = 2,
         .has_more = true},
        {.target_buffer = 4, .writer_id = 1, .chunk_id = 0, .first = 2, .count = 1},
    };
    const struct commit_request req = {.moves = moves,
                                       .move_count = 4,
                                       .entries = entries,
                                       .entry_count = 2,
                                       .patches = patches,
                                       .flush_id = UINT64_MAX};
    size_t len;
    uint8_t *bytes = encode(&req, &len);
    struct commit_view v;
    cr_assert_eq(commit_open(&v, bytes, len), 0);
    cr_assert_eq(v.move_count, 4);
    cr_assert_eq(v.entry_count, 2);
    cr_assert_eq(v.flush_id, UINT64_MAX);

    struct commit_pos pos = {0};
    struct commit_move m;
    for (size_t i = 0; i < 4; i++) {
        cr_assert(commit_next_move(&v, &pos, &m));
        cr_assert_eq(m.page, moves[i].page);
        cr_assert_eq(m.chunk, moves[i].chunk);
        cr_assert_eq(m.target_buffer, moves[i].target_buffer);
        cr_assert_eq(m.data_len, moves[i].data_len);
        cr_assert_eq(m.data == NULL, moves[i].data == NULL);
        cr_assert_eq(m.incomplete, moves[i].incomplete);
        cr_assert_eq(m.scraped, moves[i].scraped);
        if (m.data)
            cr_assert_arr_eq(m.data, chunk, m.data_len);
    }
    cr_assert_not(commit_next_move(&v, &pos, &m));
    cr_assert_not(commit_next_move(&v, &pos, &m));

    struct commit_pos at = {0};
    struct commit_entry_view e;
    for (size_t i = 0; i < 2; i++) {
        cr_assert(commit_next_entry(&v, &at, &e));
        cr_assert_eq(e.target_buffer, entries[i].target_buffer);
        cr_assert_eq(e.writer_id, entries[i].writer_id);
        cr_assert_eq(e.chunk_id, entries[i].chunk_id);
        cr_assert_eq(e.has_more, entries[i].has_more);
        cr_assert_eq(e.patch_count, entries[i].count);
        struct commit_pos in = {0};
        struct commit_patch_view p;
        for (size_t k = 0; k < entries[i].count; k++) {
            cr_assert(commit_next_patch(&e, &in, &p));
            cr_assert_eq(p.offset, patches[entries[i].first + k].offset);
            cr_assert_eq(p.data_len, 4);
            cr_assert_arr_eq(p.data, patches[entries[i].first + k].data, 4);
        }
        cr_assert_not(commit_next_patch(&e, &in, &p));
    }
    cr_assert_not(commit_next_entry(&v, &at, &e));

    /* Every cut is either refused or a shorter well-formed request; none is read past its end. */
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *part = malloc(cut ? cut : 1);
        memcpy(part, bytes, cut);
        struct commit_view w;
        if (commit_open(&w, part, cut) == 0) {
            struct commit_pos p = {0};
            uint32_t n = 0;
            while (commit_next_move(&w, &p, &m))
                n++;
            cr_assert_eq(n, w.move_count);
        }
        free(part);
    }
    free(bytes);
}

Test(commit, empty_request_is_a_fence)
{
    const struct commit_request req = {.moves = NULL};
    struct commit_view v;
    cr_assert_eq(commit_encoded_size(&req), 0);
    cr_assert_eq(commit_open(&v, NULL, 0), 0);
    cr_assert_eq(v.move_count, 0);
    cr_assert_eq(v.flush_id, 0);
}

/* Unknown fields, redundant varints, fields in another order, the last one wins, missing means 0.
 */
Test(commit, lenient_where_protobuf_is)
{
    static const uint8_t bytes[] = {
        0x78, 0x05,                                           /* field 15 */
        0x0A, 0x8A, 0x80, 0x00, 0x18, 0x05, 0x18, 0x86, 0x00, /* buffer 5, then 6 */
        0x7A, 0x01, 0xFF, 0x08, 0x01,                         /* field 15 inside, page 1 */
        0x12, 0x02, 0x10, 0x07,                               /* an entry without patches */
        0x18, 0x09, 0x0A, 0x00,                               /* flush 9; an empty move */
    };
    struct commit_view v;
    struct commit_pos pos = {0};
    struct commit_move m;
    cr_assert_eq(commit_open(&v, bytes, sizeof(bytes)), 0);
    cr_assert_eq(v.flush_id, 9);
    cr_assert(commit_next_move(&v, &pos, &m));
    cr_assert_eq(m.page, 1);
    cr_assert_eq(m.target_buffer, 6);
    cr_assert_null(m.data);
    cr_assert(commit_next_move(&v, &pos, &m));
    cr_assert_eq(m.page, 0);
    struct commit_pos at = {0};
    struct commit_entry_view e;
    cr_assert(commit_next_entry(&v, &at, &e));
    cr_assert_eq(e.writer_id, 7);
    cr_assert_eq(e.patch_count, 0);
}

Test(commit, malformed_is_refused_as_a_whole)
{
    static const struct {
        uint8_t bytes[12];
        size_t len;
    } bad[] = {
        {{0x0A, 0x05, 0x08}, 3},                   /* a move longer than the request */
        {{0x0A, 0x01, 0x08}, 3},                   /* a tag without value inside a move */
        {{0x12, 0x03, 0x22, 0x05, 0x08}, 5},       /* a patch longer than its entry */
        {{0x12, 0x04, 0x22, 0x02, 0x12, 0x09}, 6}, /* patch data longer than the patch */
        {{0x18, 0x80}, 2},                         /* a varint without end */
        {{0x0F}, 1},                               /* wire type 7 */
        {{0x00, 0x00}, 2},                         /* field 0 */
        {{0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 11},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct commit_view v = {.move_count = 77};
        cr_assert_eq(commit_open(&v, bad[i].bytes, bad[i].len), ERR_BAD_REQUEST, "case %zu", i);
        cr_assert_eq(v.move_count, 77, "out-parameters are written on success only");
    }
}

/* Present but empty data must not look like an ordinary move (section 12). */
Test(commit, empty_data_is_present)
{
    static const uint8_t bytes[] = {0x0A, 0x02, 0x22, 0x00};
    struct commit_view v;
    struct commit_pos pos = {0};
    struct commit_move m;
    cr_assert_eq(commit_open(&v, bytes, sizeof(bytes)), 0);
    cr_assert(commit_next_move(&v, &pos, &m));
    cr_assert_not_null(m.data);
    cr_assert_eq(m.data_len, 0);
}
