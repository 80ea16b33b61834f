/* SPDX-License-Identifier: Apache-2.0 */
/* CommitDataRequest as a hostile producer sends it: opened, walked, and what is walked is read to
 * the last byte, so that a view past the end shows under AddressSanitizer. What opens must count
 * right, and what was built from the views must say the same again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "smb/commit.h"
#include "smb/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum; /* keeps the reads alive */

static void read_all(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum += p[i];
}

static void walk_moves(const struct commit_view *v)
{
    struct commit_pos pos = {0};
    struct commit_move m;
    uint32_t n = 0;
    while (commit_next_move(v, &pos, &m)) {
        struct scan_chunk c;
        n++;
        if (m.data && scan_data(m.data, m.data_len, m.incomplete, &c) == 0) {
            if (scan_count(&c) > SMB_MAX_COUNT || (scan_flags(&c) & ~SMB_FLAGS_KNOWN))
                abort();
            read_all(c.payload, c.size);
        }
        /* Once more through the encoder. */
        const struct commit_request req = {.moves = &m, .move_count = 1};
        size_t len = commit_encoded_size(&req);
        uint8_t *again = malloc(len);
        struct commit_view w;
        struct commit_pos at = {0};
        struct commit_move back;
        if (!again || commit_encode(&req, again) != len || commit_open(&w, again, len) != 0 ||
            !commit_next_move(&w, &at, &back) || back.page != m.page || back.chunk != m.chunk ||
            back.target_buffer != m.target_buffer || back.data_len != m.data_len ||
            (m.data_len && memcmp(back.data, m.data, m.data_len) != 0))
            abort();
        free(again);
    }
    if (n != v->move_count)
        abort();
}

static void walk_entries(const struct commit_view *v)
{
    struct commit_pos pos = {0};
    struct commit_entry_view e;
    uint32_t n = 0;
    while (commit_next_entry(v, &pos, &e)) {
        struct commit_pos at = {0};
        struct commit_patch_view p;
        uint32_t patches = 0;
        n++;
        while (commit_next_patch(&e, &at, &p)) {
            patches++;
            read_all(p.data, p.data_len);
        }
        if (patches != e.patch_count)
            abort();
    }
    if (n != v->entry_count)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct commit_view v;
    if (commit_open(&v, data, size) != 0)
        return 0;
    walk_moves(&v);
    walk_entries(&v);
    return 0;
}
