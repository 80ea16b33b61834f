/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CommitDataRequest by hand. Encoding is two passes, sizes then bytes, so that the caller can
 * provide memory of the exact size. Decoding is one checking pass over everything, then cursors
 * that walk what is known to be well formed; the views point into the frame and nothing is
 * allocated on either side.
 *
 * Invariant of the reading side: once commit_open() said 0, no later walk can leave [data, data +
 * len).
 */
#include "smb/commit.h"

#include "reactor/bytes.h"
#include "reactor/err.h"

enum {
    F_MOVE = 1,
    F_ENTRY = 2,
    F_FLUSH_ID = 3,
    M_PAGE = 1,
    M_CHUNK = 2,
    M_BUFFER = 3,
    M_DATA = 4,
    M_INCOMPLETE = 5,
    E_BUFFER = 1,
    E_WRITER = 2,
    E_CHUNK_ID = 3,
    E_PATCH = 4,
    E_HAS_MORE = 5,
    P_OFFSET = 1,
    P_DATA = 2,
};

/* ---- building ---- */

/* A field of this file: its tag is one byte. */
static size_t int_size(uint64_t v)
{
    return 1 + bytes_varint_size(v);
}

static size_t len_size(size_t body)
{
    return 1 + bytes_varint_size(body) + body;
}

static uint8_t *put_int(uint8_t *at, uint32_t field, uint64_t v)
{
    *at++ = (uint8_t)(field << 3 | BYTES_VARINT);
    return bytes_put_varint(at, v);
}

static uint8_t *put_len(uint8_t *at, uint32_t field, size_t len)
{
    *at++ = (uint8_t)(field << 3 | BYTES_LEN);
    return bytes_put_varint(at, len);
}

static uint8_t *put_bytes(uint8_t *at, uint32_t field, const uint8_t *data, size_t len)
{
    at = put_len(at, field, len);
    memcpy(at, data, len);
    return at + len;
}

static size_t move_body(const struct commit_move *m)
{
    size_t n = int_size(m->page) + int_size(m->chunk) + int_size(m->target_buffer);
    if (m->data) {
        n += len_size(m->data_len);
    }
    if (m->scraped) {
        n += int_size(m->incomplete);
    }
    return n;
}

static size_t patch_body(const struct commit_patch *p)
{
    return int_size(p->offset) + len_size(sizeof(p->data));
}

static size_t entry_body(const struct commit_entry *e, const struct commit_patch *patches)
{
    size_t n = int_size(e->target_buffer) + int_size(e->writer_id) + int_size(e->chunk_id);
    for (uint32_t i = 0; i < e->count; i++) {
        n += len_size(patch_body(&patches[e->first + i]));
    }
    return n + (e->has_more ? int_size(1) : 0);
}

size_t commit_encoded_size(const struct commit_request *req)
{
    size_t n = req->flush_id ? int_size(req->flush_id) : 0;
    for (size_t i = 0; i < req->move_count; i++) {
        n += len_size(move_body(&req->moves[i]));
    }
    for (size_t i = 0; i < req->entry_count; i++) {
        n += len_size(entry_body(&req->entries[i], req->patches));
    }
    return n;
}

static uint8_t *put_move(uint8_t *at, const struct commit_move *m)
{
    at = put_len(at, F_MOVE, move_body(m));
    at = put_int(at, M_PAGE, m->page);
    at = put_int(at, M_CHUNK, m->chunk);
    at = put_int(at, M_BUFFER, m->target_buffer);
    if (m->data) {
        at = put_bytes(at, M_DATA, m->data, m->data_len);
    }
    if (m->scraped) {
        at = put_int(at, M_INCOMPLETE, m->incomplete);
    }
    return at;
}

static uint8_t *put_entry(uint8_t *at, const struct commit_entry *e,
                          const struct commit_patch *patches)
{
    at = put_len(at, F_ENTRY, entry_body(e, patches));
    at = put_int(at, E_BUFFER, e->target_buffer);
    at = put_int(at, E_WRITER, e->writer_id);
    at = put_int(at, E_CHUNK_ID, e->chunk_id);
    for (uint32_t i = 0; i < e->count; i++) {
        const struct commit_patch *p = &patches[e->first + i];
        at = put_len(at, E_PATCH, patch_body(p));
        at = put_int(at, P_OFFSET, p->offset);
        at = put_bytes(at, P_DATA, p->data, sizeof(p->data));
    }
    if (e->has_more) {
        at = put_int(at, E_HAS_MORE, 1);
    }
    return at;
}

size_t commit_encode(const struct commit_request *req, uint8_t *out)
{
    uint8_t *at = out;
    for (size_t i = 0; i < req->move_count; i++) {
        at = put_move(at, &req->moves[i]);
    }
    for (size_t i = 0; i < req->entry_count; i++) {
        at = put_entry(at, &req->entries[i], req->patches);
    }
    if (req->flush_id) {
        at = put_int(at, F_FLUSH_ID, req->flush_id);
    }
    return (size_t)(at - out);
}

/* ---- reading ---- */

/* True if msg is well formed; *count of its fields `field` of the LEN kind. */
static bool well_formed(struct bytes_view msg, uint32_t field, uint32_t *count)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    uint32_t n = 0;
    while (bytes_next(&cur, &f)) {
        n += f.id == field && f.type == BYTES_LEN;
    }
    *count = n;
    return bytes_done(&cur);
}

static bool entry_well_formed(struct bytes_view entry)
{
    struct bytes_cur cur = bytes_cur(entry);
    struct bytes_field f;
    uint32_t n;
    while (bytes_next(&cur, &f)) {
        if (f.id == E_PATCH && f.type == BYTES_LEN && !well_formed(f.data, P_DATA, &n)) {
            return false;
        }
    }
    return bytes_done(&cur);
}

int commit_open(struct commit_view *view, const void *data, size_t len)
{
    struct commit_view v = {.data = data, .len = len};
    struct bytes_cur cur = bytes_cur(bytes_view(data, len));
    struct bytes_field f;
    uint32_t n;
    while (bytes_next(&cur, &f)) {
        bool sound = true;
        if (f.id == F_MOVE && f.type == BYTES_LEN) {
            sound = well_formed(f.data, M_DATA, &n);
            v.move_count++;
        } else if (f.id == F_ENTRY && f.type == BYTES_LEN) {
            sound = entry_well_formed(f.data);
            v.entry_count++;
        } else if (f.id == F_FLUSH_ID && f.type == BYTES_VARINT) {
            v.flush_id = f.num;
        }
        if (!sound) {
            return ERR_BAD_REQUEST;
        }
    }
    if (!bytes_done(&cur)) {
        return ERR_BAD_REQUEST;
    }
    *view = v;
    return 0;
}

/* Moves pos to behind the next LEN field `field` and returns its body. */
static bool next_len(const uint8_t *data, size_t len, size_t *at, uint32_t field,
                     struct bytes_view *body)
{
    struct bytes_cur cur = bytes_cur(bytes_view(data, len));
    struct bytes_field f;
    if (!bytes_skip(&cur, *at)) {
        return false;
    }
    while (bytes_next(&cur, &f)) {
        if (f.id == field && f.type == BYTES_LEN) {
            *at = len - bytes_left(&cur);
            *body = f.data;
            return true;
        }
    }
    *at = len;
    return false;
}

bool commit_next_move(const struct commit_view *view, struct commit_pos *pos,
                      struct commit_move *out)
{
    struct bytes_view body;
    struct bytes_field f;
    if (!next_len(view->data, view->len, &pos->at, F_MOVE, &body)) {
        return false;
    }
    struct commit_move m = {.data = NULL};
    struct bytes_cur cur = bytes_cur(body);
    while (bytes_next(&cur, &f)) {
        if (f.type == BYTES_VARINT) {
            switch (f.id) {
            case M_PAGE:
                m.page = (uint32_t)f.num;
                break;
            case M_CHUNK:
                m.chunk = (uint32_t)f.num;
                break;
            case M_BUFFER:
                m.target_buffer = (uint32_t)f.num;
                break;
            case M_INCOMPLETE:
                m.scraped = true;
                m.incomplete = f.num != 0;
                break;
            default:
                break;
            }
        } else if (f.id == M_DATA && f.type == BYTES_LEN) {
            m.data = f.data.p;
            m.data_len = (uint32_t)f.data.n; /* a frame is far below 4 GiB */
        }
    }
    *out = m;
    return true;
}

bool commit_next_entry(const struct commit_view *view, struct commit_pos *pos,
                       struct commit_entry_view *out)
{
    struct bytes_view body;
    struct bytes_field f;
    if (!next_len(view->data, view->len, &pos->at, F_ENTRY, &body)) {
        return false;
    }
    struct commit_entry_view e = {.body = body.p, .body_len = body.n};
    struct bytes_cur cur = bytes_cur(body);
    while (bytes_next(&cur, &f)) {
        if (f.id == E_PATCH && f.type == BYTES_LEN) {
            e.patch_count++;
        } else if (f.type == BYTES_VARINT) {
            switch (f.id) {
            case E_BUFFER:
                e.target_buffer = (uint32_t)f.num;
                break;
            case E_WRITER:
                e.writer_id = (uint32_t)f.num;
                break;
            case E_CHUNK_ID:
                e.chunk_id = (uint32_t)f.num;
                break;
            case E_HAS_MORE:
                e.has_more = f.num != 0;
                break;
            default:
                break;
            }
        }
    }
    *out = e;
    return true;
}

bool commit_next_patch(const struct commit_entry_view *entry, struct commit_pos *pos,
                       struct commit_patch_view *out)
{
    struct bytes_view body;
    struct bytes_field f;
    if (!next_len(entry->body, entry->body_len, &pos->at, E_PATCH, &body)) {
        return false;
    }
    struct commit_patch_view p = {.offset = 0};
    struct bytes_cur cur = bytes_cur(body);
    while (bytes_next(&cur, &f)) {
        if (f.id == P_OFFSET && f.type == BYTES_VARINT) {
            p.offset = (uint32_t)f.num;
        } else if (f.id == P_DATA && f.type == BYTES_LEN) {
            p.data = f.data.p;
            p.data_len = f.data.n;
        }
    }
    *out = p;
    return true;
}
