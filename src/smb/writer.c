/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace writer: packets into chunks.
 *
 * The embedded pbw is the window the user writes through. While a packet is open its range is the
 * rest of the current chunk, or the garbage buffer when the writer is losing data; between packets
 * the range is empty, so that a write out of turn ends in the garbage instead of behind a finished
 * packet. `pos` keeps the place meanwhile.
 *
 * Invariants: what a scraper may believe never changes afterwards. The size of a fragment is
 * written before the count that makes it the last but one is released; ids are constant while a
 * chunk is held; a chunk id is used up only by a chunk that was obtained.
 *
 * Must never: allocate per packet, make a system call except through the arbiter, lose data
 * silently.
 */
#include "smb/writer.h"

#include <stdlib.h>

#include "smb/abi.h"
#include "smb/patch.h"

#define MIN_ROOM     12u   /* bytes a packet needs to start in a chunk (R38.2) */
#define FULL_COUNT   1022u /* packets after which a chunk is full (R38.2) */
#define COMPACT      127u  /* fragments below this get a 1-byte size (R42, R47) */
#define GARBAGE_SIZE 1024u /* R58 */

/* TracePacket.previous_packet_dropped = 257: loss present | SMB full (R38.6). */
static const uint8_t loss_marker[] = {0xD0, 0x02, 0x81, 0x02};
/* TracePacket.first_packet_on_sequence = true (R38.7). */
static const uint8_t first_marker[] = {0xB8, 0x05, 0x01};

struct writer {
    struct pbw pbw;      /* first: writer_more() finds the writer from it */
    struct arbiter *arb; /* borrow */
    struct arbiter_client client;
    struct patch_list patches;
    struct page_chunk chunk; /* the chunk held, if have_chunk */
    uint8_t *pos;            /* borrow: next byte, between packets */
    uint8_t *limit;          /* borrow: end of the chunk or of the garbage */
    uint8_t *size_field;     /* borrow: of the fragment being written; NULL without a chunk */
    uint64_t drops;
    uint64_t written; /* bytes in chunks already returned */
    uint32_t next_chunk_id;
    enum arbiter_policy policy;
    bool have_chunk;
    bool open;         /* between begin and end */
    bool started_here; /* the packet began in this chunk: its size may be compacted */
    bool inflated;     /* count announces an empty packet not written yet (R43) */
    bool dropping;
    bool retry;         /* dropping: try for a chunk at the next packet (R58) */
    bool first_written; /* the first-packet marker is spent (R39) */
    uint8_t garbage[GARBAGE_SIZE];
};

static void writer_more(struct pbw *p);

static struct writer *writer_make(struct arbiter *arb, uint32_t target, enum arbiter_policy policy)
{
    struct writer *w = malloc(sizeof(*w));
    if (!w) {
        return NULL;
    }
    /* The garbage needs no initial contents and the nests none either: only what is read is set. */
    memset(w, 0, offsetof(struct writer, garbage));
    w->arb = arb;
    w->policy = policy;
    w->pbw.more = writer_more;
    patch_init(&w->patches);
    if (arb) {
        arbiter_attach(arb, &w->client, target);
    }
    return w;
}

struct writer *writer_new(struct arbiter *arb, uint16_t target_buffer, enum arbiter_policy policy)
{
    return writer_make(arb, target_buffer, policy);
}

struct writer *writer_new_reserved(struct arbiter *arb, uint16_t reservation)
{
    return writer_make(arb, ARBITER_RESERVED | reservation, ARBITER_DROP);
}

void writer_free(struct writer *w)
{
    if (!w) {
        return;
    }
    writer_end(w);
    if (w->have_chunk) {
        writer_flush(w, NULL, NULL);
    }
    if (w->client.id) {
        arbiter_detach(w->arb, &w->client);
    }
    patch_fini(&w->patches);
    free(w);
}

/* ---- chunks ---- */

static void use_garbage(struct writer *w)
{
    w->pos = w->garbage;
    w->limit = w->garbage + GARBAGE_SIZE;
    w->size_field = NULL;
}

/* Takes the next chunk. False: nothing changed. */
static bool take_chunk(struct writer *w, uint16_t packets)
{
    struct page_chunk c;
    if (!w->client.id || !arbiter_get_chunk(w->arb, &w->client, w->policy, w->dropping,
                                            w->next_chunk_id, packets, &c)) {
        return false;
    }
    w->chunk = c;
    w->have_chunk = true;
    w->next_chunk_id++;
    w->inflated = false;
    w->dropping = false;
    w->pos = c.payload;
    w->limit = c.payload + c.payload_size;
    return true;
}

/* Returns `chunk`, filled up to `pos`, with the patches that are ready. */
static void give_back(struct writer *w, const struct page_chunk *chunk, const uint8_t *pos)
{
    w->written += (uint64_t)(pos - chunk->payload);
    arbiter_put_chunk(w->arb, &w->client, chunk, &w->patches);
}

/* Between packets: returns the chunk held. */
static void return_chunk(struct writer *w)
{
    if (w->inflated) {
        *w->pos++ = 0; /* the empty packet that the count announced (R44) */
        w->inflated = false;
    }
    w->have_chunk = false;
    give_back(w, &w->chunk, w->pos);
    w->pos = w->limit = NULL;
}

static void enter_dropping(struct writer *w)
{
    w->drops += !w->dropping;
    w->dropping = true;
    w->retry = false;
}

/* ---- packets ---- */

/* Points the window at [pos, limit). Bytes before pos do not count as content. */
static void open_range(struct writer *w)
{
    w->pbw.begin = w->pbw.cur = w->pos;
    w->pbw.end = w->limit;
}

/* Reserves the 4 bytes of a fragment's size at pos. */
static void reserve_size(struct writer *w)
{
    w->size_field = w->have_chunk ? w->pos : NULL;
    memset(w->pos, 0, SMB_SIZE_FIELD);
    w->pos += SMB_SIZE_FIELD;
}

/* Writes the size of the fragment that ends at pbw.cur (R42). */
static void close_fragment(struct writer *w, bool may_compact)
{
    uint8_t *field = w->size_field;
    if (!field) {
        return;
    }
    uint8_t *body = field + SMB_SIZE_FIELD;
    uint32_t size = (uint32_t)(w->pbw.cur - body);
    if (may_compact && size < COMPACT) {
        memmove(field + 1, body, size);
        field[0] = (uint8_t)size;
        w->pbw.cur -= SMB_SIZE_FIELD - 1;
    } else {
        abi_put_size(field, size);
    }
    w->size_field = NULL;
}

/* R38.2: a chunk for a new packet, or the garbage. True if data was lost before it. */
static bool ready_for_packet(struct writer *w)
{
    bool full = w->limit - w->pos < (ptrdiff_t)MIN_ROOM ||
                (w->have_chunk && abi_packets_count(page_packets(&w->chunk)) >= FULL_COUNT);
    if (!full && !(w->dropping && w->retry)) {
        return false;
    }
    if (w->have_chunk) {
        return_chunk(w);
    }
    bool lost = w->dropping;
    if (take_chunk(w, 0)) {
        return lost;
    }
    enter_dropping(w);
    use_garbage(w);
    return false;
}

struct pbw *writer_begin(struct writer *w)
{
    if (w->open) {
        writer_end(w);
    }
    bool lost = ready_for_packet(w);
    if (patch_ready(&w->patches)) {
        arbiter_put_patches(w->arb, &w->client, &w->patches);
    }
    reserve_size(w);
    w->open = true;
    w->started_here = true;
    if (w->have_chunk) {
        if (w->inflated) {
            w->inflated = false;
        } else {
            page_count_inc(&w->chunk);
        }
    }
    w->pbw.base = 0;
    w->pbw.depth = 0;
    open_range(w);
    if (lost) {
        pbw_raw(&w->pbw, loss_marker, sizeof(loss_marker));
    }
    if (!w->first_written) {
        w->first_written = true;
        pbw_raw(&w->pbw, first_marker, sizeof(first_marker));
    }
    return &w->pbw;
}

void writer_end(struct writer *w)
{
    if (w->open) {
        pbw_end_all(&w->pbw);
        close_fragment(w, w->started_here);
        w->open = false;
        w->pos = w->pbw.cur;
        w->pbw.begin = w->pbw.end = w->pbw.cur;
        if (w->have_chunk) {
            if (w->pos < w->limit) {
                page_count_inc(&w->chunk);
                w->inflated = true;
            } else {
                return_chunk(w);
            }
        }
    }
    if (patch_ready(&w->patches)) {
        arbiter_put_patches(w->arb, &w->client, &w->patches);
    }
}

/* ---- crossing into the next chunk (R50) ---- */

static uint32_t nests(const struct pbw *p)
{
    return p->depth < PBW_DEPTH ? p->depth : PBW_DEPTH;
}

static void abandon_local_nests(struct pbw *p)
{
    for (uint32_t i = 0; i < nests(p); i++) {
        if (p->nest[i].local) {
            p->nest[i].field = NULL;
            p->nest[i].local = false;
        }
    }
}

static size_t count_local_nests(const struct pbw *p)
{
    size_t n = 0;
    for (uint32_t i = 0; i < nests(p); i++) {
        n += p->nest[i].local;
    }
    return n;
}

/* R50.3: sizes of open messages in `old` will come as patches, outermost first. Cannot fail:
 * reserved. */
static void patch_local_nests(struct writer *w, const struct page_chunk *old, uint32_t chunk_id)
{
    struct pbw *p = &w->pbw;
    for (uint32_t i = 0; i < nests(p); i++) {
        if (!p->nest[i].local) {
            continue;
        }
        uint16_t offset = (uint16_t)(p->nest[i].field - old->payload);
        struct patch *patch = patch_add(&w->patches, chunk_id, offset);
        p->nest[i].field = patch ? patch->data : NULL;
        p->nest[i].local = false;
        page_flag_set(old, SMB_NEEDS_PATCHING);
    }
}

/* R54: no chunk in the middle of a packet. The fragment written so far tells the reader to forget
 * it. */
static void drop_rest(struct writer *w)
{
    abi_put_size(w->size_field, SMB_DROP_SENTINEL);
    abandon_local_nests(&w->pbw);
    w->pos = w->pbw.cur;
    w->have_chunk = false;
    give_back(w, &w->chunk, w->pos);
    enter_dropping(w);
    use_garbage(w);
}

static void cross(struct writer *w)
{
    struct page_chunk old = w->chunk;
    uint32_t old_id = w->next_chunk_id - 1;
    const uint8_t *old_pos = w->pbw.cur;
    uint8_t *old_field = w->size_field;
    /* Entries first: once the new chunk is ours there is no way back. */
    if (patch_reserve(&w->patches, count_local_nests(&w->pbw)) < 0 ||
        !take_chunk(w, abi_packets(1, SMB_FIRST_CONTINUES))) {
        drop_rest(w);
        return;
    }
    page_flag_set(&old, SMB_LAST_CONTINUES);
    abi_put_size(old_field, (uint32_t)(old_pos - old_field) - SMB_SIZE_FIELD);
    patch_local_nests(w, &old, old_id);
    give_back(w, &old, old_pos);
    reserve_size(w);
    w->started_here = false;
}

/* The window is full. */
static void writer_more(struct pbw *p)
{
    struct writer *w = (struct writer *)(void *)p;
    if (w->open) {
        p->base += (uint32_t)(p->cur - p->begin);
    }
    if (w->open && w->have_chunk) {
        cross(w);
        open_range(w);
        return;
    }
    /* Losing data, or a write out of turn: round and round in the garbage. */
    abandon_local_nests(p);
    w->retry = true;
    p->begin = p->cur = w->garbage;
    p->end = w->garbage + GARBAGE_SIZE;
}

/* ---- the rest ---- */

void writer_flush(struct writer *w, arbiter_flush_cb *cb, void *ctx)
{
    writer_end(w);
    if (!w->client.id) {
        if (cb) {
            cb(ctx, true);
        }
        return;
    }
    if (w->have_chunk) {
        return_chunk(w);
    }
    w->pos = w->limit = NULL;
    arbiter_flush(w->arb, cb, ctx);
}

uint8_t *writer_annotate(struct writer *w, uint8_t *at)
{
    if (!w->open || !w->have_chunk || at < w->chunk.payload || at + SMB_SIZE_FIELD > w->limit) {
        return NULL;
    }
    struct patch *patch =
        patch_add(&w->patches, w->next_chunk_id - 1, (uint16_t)(at - w->chunk.payload));
    if (!patch) {
        return NULL;
    }
    memset(at, 0, SMB_SIZE_FIELD);
    page_flag_set(&w->chunk, SMB_NEEDS_PATCHING);
    return patch->data;
}

uint16_t writer_id(const struct writer *w)
{
    return w->client.id;
}

uint64_t writer_drops(const struct writer *w)
{
    return w->drops;
}

uint64_t writer_written(const struct writer *w)
{
    const uint8_t *pos = w->open ? w->pbw.cur : w->pos;
    return w->written + (w->have_chunk ? (uint64_t)(pos - w->chunk.payload) : 0);
}
