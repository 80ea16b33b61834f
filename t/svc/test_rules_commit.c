/* SPDX-License-Identifier: Apache-2.0 */
/* Writers, commits and scraping rule by rule: service.md sections 4 and 5. */
#include <criterion/criterion.h>

#include <string.h>

#include "protos/fieldnum.h"
#include "smb/abi.h"
#include "svc/service_int.h"
#include "t/svc/world.h"

static struct world *w;
static struct bytesbuf req; /* the commit under construction */

static void setup(void)
{
    w = world_new();
    bytesbuf_init(&req, 4u << 20);
}

static void teardown(void)
{
    bytesbuf_fini(&req);
    world_free(w);
}

TestSuite(rules_commit, .init = setup, .fini = teardown);

static struct bytesbuf *quiet(unsigned nbuffers)
{
    cfg_begin(&w->cfg);
    for (unsigned i = 0; i < nbuffers; i++)
        cfg_buffer(&w->cfg, 256);
    cfg_source(&w->cfg, "ds", 0);
    cfg_quiet(&w->cfg);
    return &w->cfg;
}

static struct prod *scraping(const char *name, uint32_t mode)
{
    const struct prod_opts o = {.name = name, .uid = 1, .pid = 2, .scraping = mode};
    struct prod *p = prod_new_opts(w, &o);
    prod_register(p, "ds", 0);
    return p;
}

static void move(uint32_t page, uint32_t chunk, uint32_t buffer)
{
    size_t m = bytesbuf_pb_begin(&req, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunksToMove_page, page);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunksToMove_chunk, chunk);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunksToMove_target_buffer, buffer);
    bytesbuf_pb_end(&req, m);
}

static void move_data(const void *data, size_t n, uint32_t buffer, bool incomplete)
{
    size_t m = bytesbuf_pb_begin(&req, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunksToMove_page, 99999);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunksToMove_chunk, 77);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunksToMove_target_buffer, buffer);
    bytesbuf_pb_bytes(&req, PBF_CommitDataRequest_ChunksToMove_data, data, n);
    if (incomplete)
        bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunksToMove_chunk_incomplete, 1);
    bytesbuf_pb_end(&req, m);
}

static void patch(uint32_t buffer, uint32_t writer, uint32_t chunk_id, uint32_t offset,
                  const char data[4], bool more)
{
    size_t m = bytesbuf_pb_begin(&req, PBF_CommitDataRequest_chunks_to_patch);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_target_buffer, buffer);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_writer_id, writer);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_chunk_id, chunk_id);
    size_t k = bytesbuf_pb_begin(&req, PBF_CommitDataRequest_ChunkToPatch_patches);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_Patch_offset, offset);
    bytesbuf_pb_bytes(&req, PBF_CommitDataRequest_ChunkToPatch_Patch_data, data, 4);
    bytesbuf_pb_end(&req, k);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_has_more_patches, more);
    bytesbuf_pb_end(&req, m);
}

static void commit(struct prod *p)
{
    cr_expect(prod_commit_raw(p, req.p, req.n), "a commit is never refused for its contents");
    bytesbuf_clear(&req);
}

/* A chunk as `data` carries it: header and packets. Returns its size. */
static size_t chunk(uint8_t *at, uint16_t writer, uint32_t id, unsigned count, unsigned flags,
                    const void *payload, size_t n)
{
    uint16_t packets = (uint16_t)(count | flags << 10);
    memcpy(at, &id, 4);
    memcpy(at + 4, &writer, 2);
    memcpy(at + 6, &packets, 2);
    memcpy(at + 8, payload, n);
    return 8 + n;
}

static uint32_t *page_word(struct prod *p, uint32_t page)
{
    return (uint32_t *)(void *)(p->smb + (size_t)page * p->page);
}

/* The three counters that a peer can see: all together. */
static uint64_t counted(struct cons *c)
{
    cr_assert(cons_ask(c, MSG_C_STATS));
    struct bytes_view s = msg_part(c->reply.p, c->reply.n, 1, 0);
    return msg_num(s.p, s.n, PBF_TraceStats_chunks_discarded, 0) +
           msg_num(s.p, s.n, PBF_TraceStats_patches_discarded, 0) +
           msg_num(s.p, s.n, PBF_TraceStats_invalid_packets, 0);
}

static size_t read_texts(struct cons *c)
{
    cons_read(c);
    return cons_texts(c);
}

/* ---- permissions ---- */

Test(rules_commit, R74_permission_lasts_as_long_as_the_buffer)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "other", 0);
    cons_enable(c, quiet(2));
    cr_expect_eq(prod_target(p, 0), 1);
    prod_put_to(p, 1, 2, "no instance has that target");
    cr_expect_eq(counted(c), 1);
    prod_put(p, 1, "while it runs");
    prod_unregister(p, "ds");
    prod_put(p, 1, "after unregistering");
    cons_ask(c, MSG_C_DISABLE);
    prod_put(p, 1, "after the stop");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 3);
    cr_expect_eq(counted(c), 1);
    cons_ask(c, MSG_C_FREE);
    w->svc->buffer_ids.next = 1; /* the next buffer has the same id */
    prod_unregister(p, "ds");
    cons_enable(c, quiet(1));
    prod_put_to(p, 1, 1, "into the buffer of a session that it has no part in");
    cr_expect_eq(counted(c), 2, "the permission went with the old buffer");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 0);
}

Test(rules_commit, R73_R75_registered_writers)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    quiet(2);
    cfg_source(&w->cfg, "ds", 1);
    cons_enable(c, &w->cfg);
    static const struct {
        int registered; /* with this buffer before the commit; 0: not any more; -1: as it was */
        uint32_t into;
        bool taken;
    } rows[] = {{-1, 1, true},  {-1, 2, true},        {1, 1, true}, {-1, 2, false},
                {2, 1, false},  {-1, 2, true},        {0, 1, true}, {-1, 2, true},
                {77, 1, false}, {65536 + 2, 2, true}, {0, 1, true}};
    uint64_t discarded = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].registered == 0)
            prod_writer_gone(p, 3);
        else if (rows[i].registered > 0)
            prod_writer(p, 3, (uint32_t)rows[i].registered);
        prod_put_to(p, 3, rows[i].into, "x");
        discarded += !rows[i].taken;
        cr_expect_eq(counted(c), discarded, "row %zu", i);
    }
}

Test(rules_commit, R77_a_commit_before_there_is_an_smb)
{
    uint8_t payload[64], data[80];
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    cons_enable(c, quiet(1));
    size_t n = frag_packet(payload, "early");
    move_data(data, chunk(data, 1, 0, 1, 0, payload, n), 1, false);
    cr_expect_not(prod_commit_raw(p, req.p, req.n), "the reply is a failure");
    cr_expect_eq(counted(c), 0, "dropped entirely, without a counter");
    prod_register(p, "ds", 0);
    cr_expect(prod_commit_raw(p, req.p, req.n));
    cr_expect_eq(read_texts(c), 1);
}

/* ---- moving ---- */

Test(rules_commit, R78_what_is_skipped_silently)
{
    static const struct {
        const char *what;
        uint32_t word, page, chunk;
    } rows[] = {
        {"page index", 0, 64, 0},
        {"far page index", 0, UINT32_MAX, 0},
        {"chunk index", SMB_LAYOUT_DIV1 << 28 | SMB_COMPLETE, 1, 1},
        {"chunk index", SMB_LAYOUT_DIV4 << 28 | 0xFF, 1, 4},
        {"far chunk index", SMB_LAYOUT_DIV14 << 28 | SMB_STATES_MASK, 1, UINT32_MAX},
        {"not partitioned", SMB_COMPLETE, 1, 0},
        {"free", SMB_LAYOUT_DIV1 << 28 | SMB_FREE, 1, 0},
        {"being written", SMB_LAYOUT_DIV1 << 28 | SMB_BEING_WRITTEN, 1, 0},
        {"being read", SMB_LAYOUT_DIV1 << 28 | SMB_BEING_READ, 1, 0},
        {"reserved layout", 6u << 28 | SMB_COMPLETE, 1, 0},
        {"reserved layout", 7u << 28 | SMB_COMPLETE, 1, 0},
    };
    uint8_t payload[64];
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet(1));
    cr_assert_eq(p->smb_size / p->page, 64);
    size_t n = frag_packet(payload, "x");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        prod_fill(p, 1, 1, 0, 1, 0, payload, n, SMB_COMPLETE);
        *page_word(p, 1) = rows[i].word;
        move(rows[i].page, rows[i].chunk, 1);
        commit(p);
        cr_expect_eq(*page_word(p, 1), rows[i].word, "%s: the page stays as it is", rows[i].what);
        cr_expect_eq(read_texts(c), 0, "%s", rows[i].what);
        cr_expect_eq(counted(c), 0, "%s: no counter", rows[i].what);
    }
    prod_fill(p, 1, 1, 0, 1, 0, payload, n, SMB_COMPLETE);
    move(64, 0, 1);
    move(1, 0, 1);
    commit(p);
    cons_read(c);
    cr_expect(cons_has(c, "x"), "the entries behind a skipped one count");
}

/* Four chunks in page 1; only their headers and packets are written. */
static void four_chunks(struct prod *p)
{
    uint8_t payload[64];
    for (unsigned i = 0; i < 4; i++) {
        char text[2] = {(char)('a' + i), 0};
        size_t n = frag_packet(payload, text);
        uint8_t *at = p->smb + p->page + 8 + (size_t)i * abi_chunk_size(p->page, SMB_LAYOUT_DIV4);
        memset(at, 0, abi_chunk_size(p->page, SMB_LAYOUT_DIV4));
        chunk(at, 1, i, 1, 0, payload, n);
    }
    *page_word(p, 1) = SMB_LAYOUT_DIV4 << 28 | 0xFF;
}

Test(rules_commit, R78_release)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet(1));
    static const uint8_t none[8];
    four_chunks(p);
    move(1, 2, 1);
    commit(p);
    cr_expect_eq(*page_word(p, 1), SMB_LAYOUT_DIV4 << 28 | 0xCF, "this one is free, no other");
    cr_expect_eq(
        memcmp(p->smb + p->page + 8 + 2 * abi_chunk_size(p->page, SMB_LAYOUT_DIV4), none, 8), 0,
        "its header is cleared");
    move(1, 0, 9); /* no such buffer */
    commit(p);
    cr_expect_eq(*page_word(p, 1), SMB_LAYOUT_DIV4 << 28 | 0xCC,
                 "it is freed even if its content was discarded");
    move(1, 1, 1);
    move(1, 3, 1);
    commit(p);
    cr_expect_eq(*page_word(p, 1), 0, "a page without chunks is not partitioned any more");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 3);
    cr_expect_not(cons_has(c, "a"));
    cr_expect_eq(counted(c), 1);
}

Test(rules_commit, R79_chunks_inside_the_commit)
{
    uint8_t payload[256], data[300];
    for (int emulated = 0; emulated < 2; emulated++) {
        const struct prod_opts o = {.name = "p", .uid = 1, .emulated = emulated};
        struct prod *p = prod_new_opts(w, &o);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        cons_enable(c, quiet(1));
        uint32_t target = prod_target(p, 0);
        if (!emulated)
            *page_word(p, 0) = SMB_LAYOUT_DIV1 << 28 | SMB_COMPLETE;
        size_t n = frag_packet(payload, "whole");
        move_data(data, chunk(data, 1, 0, 1, 0, payload, n), target, false);
        n = frag_packet(payload, "first");
        n += frag_packet(payload + n, "half");
        move_data(data, chunk(data, 2, 0, 2, 0, payload, n), target, true);
        commit(p);
        cons_read(c);
        cr_expect_eq(cons_texts(c), 2);
        cr_expect(cons_has(c, "whole"), "page 99999 is informational");
        cr_expect(cons_has(c, "first"));
        cr_expect_not(cons_has(c, "half"), "the last packet of an incomplete chunk is not read");
        if (!emulated)
            cr_expect_eq(*page_word(p, 0), SMB_LAYOUT_DIV1 << 28 | SMB_COMPLETE,
                         "nothing is released in the SMB");
        cr_expect_eq(counted(c), 0);
        prod_bye(p);
        cons_bye(c);
    }
}

Test(rules_commit, R80_impossible_sizes_of_data)
{
    static uint8_t data[70000];
    static const struct {
        size_t size;
        bool taken;
    } rows[] = {{0, 0}, {1, 0}, {2, 0}, {3, 0},     {4, 0},     {5, 0},     {6, 0},
                {7, 0}, {8, 1}, {9, 1}, {65535, 1}, {65536, 0}, {65537, 0}, {70000, 0}};
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet(1));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int incomplete = 0; incomplete < 2; incomplete++) {
            uint64_t moved = w->svc->count.chunks_moved;
            chunk(data, 1, (uint32_t)i, 0, 0, data + 8, 0);
            move_data(data, rows[i].size, 1, incomplete);
            commit(p);
            cr_expect_eq(w->svc->count.chunks_moved - moved, rows[i].taken, "%zu bytes",
                         rows[i].size);
            cr_expect_eq(read_texts(c), 0, "%zu bytes: the read ends", rows[i].size);
            cr_expect(c->read_done);
        }
    }
    prod_put(p, 3, "and goes on");
    cons_read(c);
    cr_expect(cons_has(c, "and goes on"));
}

Test(rules_commit, R81_checks_of_the_target)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(p, "too", 0);
    prod_register(q, "other", 0);
    cfg_begin(&w->cfg);
    for (int i = 0; i < 3; i++)
        cfg_buffer(&w->cfg, 64);
    cfg_source(&w->cfg, "ds", 0);
    cfg_source(&w->cfg, "too", 1);
    cfg_source(&w->cfg, "other", 2);
    cfg_quiet(&w->cfg);
    cons_enable(c, &w->cfg);
    prod_writer(p, 7, 65536 + 2); /* truncated as well (R73) */
    static const struct {
        uint16_t writer;
        uint32_t buffer;
        const char *text;
        bool taken;
    } rows[] = {
        {1, 1, "allowed", true},
        {1, 2, "the other one", true},
        {1, 65536 + 1, "truncated to 16 bits", true},
        {1, 0, "none", false},
        {1, 4, "does not exist", false},
        {1, 65535, "does not exist either", false},
        {1, 65536, "truncated to none", false},
        {1, 3, "of another producer", false},
        {7, 1, "its writer is registered with 2", false},
        {7, 3, "not allowed anyway", false},
        {7, 2, "the registered one", true},
    };
    uint64_t discarded = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cr_expect(prod_put_to(p, rows[i].writer, rows[i].buffer, rows[i].text));
        discarded += !rows[i].taken;
        cr_expect_eq(counted(c), discarded, "%s", rows[i].text);
        cons_read(c);
        cr_expect_eq(cons_has(c, rows[i].text), rows[i].taken, "%s", rows[i].text);
    }
}

/* ---- patches ---- */

/* Commits, as writer 1 of p, a chunk that waits for patches; the text is to be patched. */
static void unpatched(struct prod *p, uint32_t id, const char *text)
{
    uint8_t payload[64], data[80];
    size_t n = frag_packet(payload, text);
    move_data(data, chunk(data, 1, id, 1, 4, payload, n), prod_target(p, 0), false);
    commit(p);
}

/* Where the text of frag_packet begins in the payload: behind the size of the packet, two bytes of
 * tag and one of size of for_testing, tag and size of the text. */
#define TEXT_AT 6

Test(rules_commit, R84_a_chunk_is_readable_after_its_last_patch)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet(1));
    unpatched(p, 0, "....----");
    cr_expect_eq(read_texts(c), 0);
    patch(1, 1, 0, TEXT_AT, "abcd", true);
    commit(p);
    cr_expect_eq(read_texts(c), 0, "more patches are to come");
    patch(1, 1, 0, TEXT_AT + 4, "efgh", false);
    commit(p);
    cons_read(c);
    cr_expect(cons_has(c, "abcdefgh"));
    unpatched(p, 1, "as it is");
    cr_expect_eq(read_texts(c), 0);
    size_t m = bytesbuf_pb_begin(&req, PBF_CommitDataRequest_chunks_to_patch);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_target_buffer, 1);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_writer_id, 1);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_chunk_id, 1);
    bytesbuf_pb_end(&req, m);
    commit(p);
    cons_read(c);
    cr_expect(cons_has(c, "as it is"), "an entry without patches may be the last one, too");
}

Test(rules_commit, R83_only_the_producers_own_chunks_are_found)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1), *r = prod_new(w, "r", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    prod_register(q, "ds", 0);
    prod_register(r, "ds", 0);
    cons_enable(c, quiet(2));
    unpatched(p, 0, "....");
    patch(1, 1, 0, TEXT_AT, "evil", false);
    commit(q);
    cr_expect_eq(read_texts(c), 0, "the same writer and chunk, but of q");
    prod_unregister(p, "ds");
    patch(65536 + 1, 65536 + 1, 0, TEXT_AT, "good", false);
    commit(p);
    cons_read(c);
    cr_expect(cons_has(c, "good"));
    patch(2, 1, 0, TEXT_AT, "none", false);
    commit(r);
    cr_expect_eq(counted(c), 0, "no permission is looked at: it finds nothing, that is all");
}

Test(rules_commit, R82_the_good_patches_of_an_entry_are_applied)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet(1));
    unpatched(p, 0, "....");
    size_t m = bytesbuf_pb_begin(&req, PBF_CommitDataRequest_chunks_to_patch);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_target_buffer, 1);
    bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_writer_id, 1);
    static const char *const data[] = {"xxx", "good", "xxxxx", ""};
    for (int i = 0; i < 4; i++) {
        size_t k = bytesbuf_pb_begin(&req, PBF_CommitDataRequest_ChunkToPatch_patches);
        bytesbuf_pb_varint(&req, PBF_CommitDataRequest_ChunkToPatch_Patch_offset, TEXT_AT);
        bytesbuf_pb_str(&req, PBF_CommitDataRequest_ChunkToPatch_Patch_data, data[i]);
        bytesbuf_pb_end(&req, k);
    }
    bytesbuf_pb_end(&req, m);
    commit(p);
    cons_read(c);
    cr_expect(cons_has(c, "good"));
    cr_expect_eq(counted(c), 3, "one for each patch that has not exactly 4 bytes");
}

/* ---- scraping ---- */

/* Leaves a chunk of writer 5 with two packets, the second one unfinished, in page 0. */
static void half_written(struct prod *p, const char *first)
{
    uint8_t payload[256];
    size_t n = frag_packet(payload, first);
    n += frag_packet(payload + n, "unfinished");
    prod_fill(p, 0, 5, 0, 2, 0, payload, n, SMB_BEING_WRITTEN);
}

Test(rules_commit, R46_R85_who_asks_for_scraping)
{
    static const struct {
        bool by_default;
        uint32_t mode;
        bool scraped;
    } rows[] = {{false, 0, false}, {false, 1, true}, {false, 2, false}, {true, 0, true},
                {true, 1, true},   {true, 2, false}, {false, 3, false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        w->svc->scrape_by_default = rows[i].by_default;
        struct prod *p = scraping("p", rows[i].mode);
        struct cons *c = cons_new(w, 1);
        cons_enable(c, quiet(1));
        prod_writer(p, 5, prod_target(p, 0));
        half_written(p, "open");
        cons_flush_begin(c, 0, 0);
        cons_read(c);
        cr_expect_eq(cons_has(c, "open"), rows[i].scraped, "mode %u", rows[i].mode);
        prod_bye(p);
        cons_bye(c);
    }
}

Test(rules_commit, R85_when_it_is_scraped)
{
    struct prod *p = scraping("p", 1), *q = scraping("q", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    p->mute = true;
    cons_enable(c, quiet(1));
    cons_enable(d, quiet(1));
    prod_writer(p, 5, prod_target(p, 0));
    prod_writer(q, 5, prod_target(q, 1));
    half_written(p, "p");
    half_written(q, "q");
    cons_read(c);
    cr_expect_eq(cons_texts(c), 0, "not by itself, nor by a read");
    cons_flush_begin(c, 10, 0);
    cons_read(c);
    cr_expect_eq(cons_texts(c), 0, "not before the flush is complete");
    world_advance_ms(w, 10);
    cr_expect(c->replied && !c->reply_ok);
    cons_read(c);
    cr_expect(cons_has(c, "p"), "a failed flush scrapes, too");
    cons_read(d);
    cr_expect_eq(cons_texts(d), 0, "but only for its own session");
    cons_ask(d, MSG_C_DISABLE);
    cons_read(d);
    cr_expect(cons_has(d, "q"), "a stop");
    uint8_t payload[64];
    prod_fill(p, 1, 5, 1, 1, 0, payload, frag_packet(payload, "last"), SMB_COMPLETE);
    prod_bye(p);
    cons_read(c);
    cr_expect(cons_has(c, "last"), "a disconnect");
}

Test(rules_commit, R87_T62_T63_which_chunks_are_scraped)
{
    static const struct {
        unsigned state, count;
        size_t packets;
    } rows[] = {{SMB_FREE, 3, 0},          {SMB_BEING_WRITTEN, 0, 0}, {SMB_BEING_WRITTEN, 1, 0},
                {SMB_BEING_WRITTEN, 2, 1}, {SMB_BEING_WRITTEN, 3, 2}, {SMB_BEING_READ, 3, 2},
                {SMB_COMPLETE, 1, 1},      {SMB_COMPLETE, 3, 3}};
    struct prod *p = scraping("p", 1);
    struct cons *c = cons_new(w, 1);
    uint8_t payload[128];
    size_t n = 0;
    for (int i = 0; i < 3; i++)
        n += frag_packet(payload + n, "x");
    cons_enable(c, quiet(1));
    for (uint16_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint16_t writer = (uint16_t)(10 + i);
        prod_writer(p, writer, 1);
        prod_fill(p, i, writer, 0, rows[i].count, 0, payload, n, rows[i].state);
        uint32_t before = *page_word(p, i);
        for (int twice = 0; twice < 2; twice++) {
            cons_flush_begin(c, 0, 0);
            cr_expect_eq(read_texts(c), twice ? 0 : rows[i].packets, "row %u, time %d", i, twice);
            cr_expect_eq(*page_word(p, i), before, "row %u: its state is not changed", i);
        }
    }
    *page_word(p, 4) = SMB_LAYOUT_DIV1 << 28 | SMB_COMPLETE;
    move(4, 0, 1);
    commit(p);
    cr_expect_eq(read_texts(c), 1, "committed after all: the packet that was not read yet");
    prod_writer_gone(p, 11);
    prod_fill(p, 1, 11, 1, 3, 0, payload, n, SMB_COMPLETE);
    cons_flush_begin(c, 0, 0);
    cr_expect_eq(read_texts(c), 0, "a writer that is not registered is not scraped");
}

/* ---- hostile producers ---- */

/* A fixed stream of numbers. */
static uint32_t dice(uint32_t below)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 32) % below;
}

/* Numbers at the edges of what ids are, or small ones. */
static uint32_t odd_number(void)
{
    static const uint32_t odd[] = {0, 32767, 32768, 65535, 65536, 65537, INT32_MAX, UINT32_MAX};
    return dice(4) ? dice(6) : odd[dice(sizeof(odd) / sizeof(odd[0]))];
}

static void scribble(struct prod *p)
{
    if (!p->smb)
        return;
    for (int i = 0; i < 40; i++)
        p->smb[dice((uint32_t)p->smb_size)] = (uint8_t)dice(256);
    *page_word(p, dice(4)) = dice(8) << 28 | dice(1 << 28);
}

static void odd_commit(struct prod *p)
{
    static uint8_t junk[300];
    for (size_t i = 0; i < sizeof(junk); i++)
        junk[i] = (uint8_t)(dice(3) ? dice(256) : 0);
    for (uint32_t i = dice(4); i-- > 0;)
        move(odd_number(), odd_number(), odd_number());
    if (dice(3) == 0)
        move_data(junk, dice(sizeof(junk)), odd_number(), dice(2));
    for (uint32_t i = dice(3); i-- > 0;)
        patch(odd_number(), odd_number(), odd_number(), odd_number(), "\xFF\xFF\xFF\xFF", dice(2));
    if (dice(3) == 0)
        bytesbuf_pb_varint(&req, PBF_CommitDataRequest_flush_request_id, odd_number());
    if (dice(20) == 0)
        bytesbuf_put(&req, "\x0a\xFF", 2); /* breaks off */
    prod_commit_raw(p, req.p, req.n);
    bytesbuf_clear(&req);
}

static void odd_call(struct prod *p)
{
    static const char *const sources[] = {"ds", "other", "", "ds2"};
    const char *name = sources[dice(4)];
    switch (dice(10)) {
    case 0:
        prod_register_id(p, name, dice(16), dice(4));
        break;
    case 1:
        prod_update_id(p, name, dice(16), dice(4));
        break;
    case 2:
        prod_unregister(p, name);
        break;
    case 3:
        prod_writer(p, odd_number(), odd_number());
        break;
    case 4:
        prod_writer_gone(p, odd_number());
        break;
    case 5:
        prod_started(p, dice(4) ? dice(60) : UINT64_MAX);
        break;
    case 6:
        prod_stopped(p, dice(4) ? dice(60) : UINT64_MAX);
        break;
    case 7:
        prod_trigger(p, dice(2) ? "go" : ",,go,");
        break;
    case 8:
        scribble(p);
        break;
    default:
        odd_commit(p);
        break;
    }
}

Test(rules_commit, R89_no_sequence_of_requests_stops_the_service)
{
    for (int round = 0; round < 20; round++) {
        struct prod *evil[3];
        struct cons *c = cons_new(w, 1);
        for (int i = 0; i < 3; i++) {
            evil[i] = scraping("evil", 1 + dice(2));
            evil[i]->mute = dice(2);
        }
        quiet(2);
        cfg_source(&w->cfg, "other", 1);
        cfg_trigger_mode(&w->cfg, 1 + dice(2), 5000);
        cfg_trigger(&w->cfg, "go", NULL, 100, 0, 0);
        cr_assert(cons_enable(c, &w->cfg));
        for (int i = 0; i < 150; i++) {
            odd_call(evil[dice(3)]);
            if (dice(10) == 0)
                cons_flush_begin(c, dice(50), 0x22);
            if (dice(10) == 0)
                world_advance_ms(w, dice(100));
            if (dice(20) == 0)
                cons_read(c);
        }
        struct prod *good = prod_new(w, "good", 1);
        prod_register(good, "ds", 0);
        cr_expect(prod_sync(good), "round %d", round);
        prod_bye(evil[0]);
        cons_ask(c, MSG_C_DISABLE);
        prod_bye(evil[1]);
        world_advance_ms(w, 10000);
        cons_read(c);
        cr_expect(c->read_done && c->disabled, "round %d", round);
        cons_bye(c);
        prod_bye(evil[2]);
        prod_bye(good);
    }
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable(c, quiet(1));
    prod_put(p, 1, "business as usual");
    cons_read(c);
    cr_expect(cons_has(c, "business as usual"));
}
