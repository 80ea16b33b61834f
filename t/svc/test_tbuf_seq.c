/* SPDX-License-Identifier: Apache-2.0 */
/* The sequence table of the trace buffer: places in order lists, producers that are gone. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "svc/tbuf.h"
#include "svc/tbuf_ring.h"
#include "svc/tbuf_seq.h"

static uint64_t state = 1;

static uint32_t rnd(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

/* The same by looking at every entry. */
static enum tbuf_place plain_locate(struct tbuf_seq *s, uint32_t id, uint32_t *pos)
{
    for (*pos = 0; *pos < s->count; ++*pos) {
        int32_t ahead = tbuf_id_diff(tbuf_seq_ent(s, *pos)->id, id);
        if (ahead == 0)
            return TBUF_PLACE_FOUND;
        if (ahead > 0)
            break;
    }
    return TBUF_PLACE_NEW;
}

/* Asks for ids all over a list and just beside its ends. */
static void ask(struct tbuf_seq *s, const char *what)
{
    uint32_t span = s->ids.back - s->ids.front;
    for (uint32_t i = 0; i < 400; i++) {
        uint32_t entry = tbuf_seq_ent(s, rnd(s->count))->id;
        uint32_t id = i % 2 == 0 ? entry + rnd(3) - 1 : s->ids.front - 2 + rnd(span + 5);
        uint32_t want = 0;
        uint32_t got = 0;
        enum tbuf_place place = plain_locate(s, id, &want);
        cr_assert_eq(tbuf_seq_locate(s, id, &got), place, "%s: id %u", what, id);
        cr_assert_eq(got, want, "%s: id %u of %u entries: %u, not %u", what, id, s->count, got,
                     want);
    }
}

/* Lists whose ids are `most` apart at most, and that only behind runs of `run`; ids wrap in them,
 * and the list goes round its memory. */
static void try_lists(uint32_t run, uint32_t most, const char *what)
{
    const struct tbuf_client nobody = {0};
    struct tbuf_seqtab t;
    cr_assert_eq(tbuf_seqtab_init(&t, 1 << 20), 0);
    struct tbuf_seq *s = tbuf_seq_at(&t, tbuf_seq_make(&t, 0x10001, &nobody));
    uint32_t id = UINT32_MAX - 3000;
    for (uint32_t i = 0; i < 4000; i++) {
        id += i % run == 0 ? 1 + rnd(most) : 1;
        cr_assert_eq(tbuf_seq_insert(&t, s, s->count, (struct tbuf_ent){id, i}), 0);
        if (s->count > 700 || (s->count > 1 && rnd(3) == 0))
            tbuf_seq_pop(&t, s);
        if (i % 23 == 0)
            ask(s, what);
    }
    tbuf_seqtab_fini(&t);
}

Test(tbuf_seq, a_place_is_found_in_any_list)
{
    try_lists(1, 1, "no gaps");
    try_lists(1, 3, "small gaps");
    try_lists(1, 1000, "large gaps");
    try_lists(64, 5000, "runs");
    try_lists(500, 3, "hardly a gap");
    try_lists(3000, 1u << 30, "one wide gap");
}

/* Ids that grow faster and faster: the average gap leads astray everywhere. */
Test(tbuf_seq, a_place_is_found_where_guesses_fail)
{
    const struct tbuf_client nobody = {0};
    struct tbuf_seqtab t;
    cr_assert_eq(tbuf_seqtab_init(&t, 1 << 20), 0);
    struct tbuf_seq *s = tbuf_seq_at(&t, tbuf_seq_make(&t, 0x10001, &nobody));
    for (uint32_t i = 0; i < 1200; i++)
        cr_assert_eq(tbuf_seq_insert(&t, s, i, (struct tbuf_ent){i * i * i, i}), 0);
    for (int i = 0; i < 20; i++)
        ask(s, "growing gaps");
    tbuf_seqtab_fini(&t);
}

/* All ids but the last stand close together: the average gap says nothing, and most of the list is
 * left to be halved, of every length. */
Test(tbuf_seq, a_place_is_found_when_one_id_is_far_away)
{
    const struct tbuf_client nobody = {0};
    for (uint32_t n = 3; n < 200; n++) {
        struct tbuf_seqtab t;
        cr_assert_eq(tbuf_seqtab_init(&t, 1 << 20), 0);
        struct tbuf_seq *s = tbuf_seq_at(&t, tbuf_seq_make(&t, 0x10001, &nobody));
        for (uint32_t i = 0; i < n; i++) {
            uint32_t id = i + 1 == n ? 1u << 30 : i + i / 20;
            cr_assert_eq(tbuf_seq_insert(&t, s, i, (struct tbuf_ent){id, i}), 0);
        }
        ask(s, "one far away");
        tbuf_seqtab_fini(&t);
    }
}

/* R100: that a producer went costs no walk over the sequences. The one walk is made when the first
 * of the ids comes back, for all that went until then; what the successor sends belongs to nothing
 * of its predecessor. */
Test(tbuf_seq, one_walk_closes_the_sequences_of_all_that_went)
{
    struct tbuf *b = NULL;
    const struct tbuf_patch patch = {0, {1, 'n', 'n', 'n'}};
    struct tbuf_chunk_in in = {
        .chunk_id = 7, .num_fragments = 1, .complete = true, .payload = "\3abc", .payload_size = 4};
    cr_assert_eq(tbuf_new(1 << 20, TBUF_RING, 0, &b), 0);
    for (in.producer_id = 1; in.producer_id <= 300; in.producer_id++) {
        for (in.writer_id = 1; in.writer_id <= 3; in.writer_id++)
            cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_STORED);
    }
    for (uint16_t p = 2; p <= 200; p++) {
        tbuf_producer_gone(b, p);
        tbuf_producer_gone(b, p); /* twice is once */
    }
    cr_assert_eq(b->seqs.hash.keys, 900, "it walked");
    cr_assert(tbuf_patch(b, 1, 1, 7, &patch, 1, false), "of one that is there");
    cr_assert_eq(b->seqs.hash.keys, 900, "it walked");
    cr_assert_not(tbuf_patch(b, 100, 1, 7, &patch, 1, false), "of a predecessor");
    cr_assert_eq(b->seqs.hash.keys, 303, "one walk for all");
    tbuf_producer_gone(b, 250);
    in.producer_id = 250;
    in.writer_id = 2;
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_STORED, "taken for a copy of its predecessor's");
    cr_assert_eq(b->seqs.hash.keys, 301);
    in.producer_id = 300;
    cr_assert_eq(tbuf_copy_chunk(b, &in), TBUF_DUPLICATE);
    tbuf_free(b);
}
