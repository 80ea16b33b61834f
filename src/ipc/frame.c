/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IPCFrame by hand: decoding into views, encoding around a blob, and the byte stream in between.
 * The payload belongs to whoever read it; nothing here keeps a pointer to it, and nothing allocates
 * but the receive buffer, which grows by doubling as bytes really arrive, never because a header
 * says they will. Its invariant: head <= tail <= cap <= FRAME_MAX, and an incomplete frame always
 * fits behind head once the buffer is compacted. A peer's bytes can at worst cost that peer its
 * connection.
 */

#include "ipc/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "reactor/alloc.h"
#include "reactor/err.h"

/* Field numbers: spec section 3. */
enum { F_REQUEST_ID = 2 };
enum { BIND_SERVICE = 1 };
enum { BOUND_SUCCESS = 1, BOUND_SERVICE_ID = 2, BOUND_METHODS = 3, METHOD_ID = 1, METHOD_NAME = 2 };
enum { CALL_SERVICE_ID = 1, CALL_METHOD_ID = 2, CALL_ARGS = 3, CALL_DROP_REPLY = 4 };
enum { REPLY_SUCCESS = 1, REPLY_HAS_MORE = 2, REPLY_BLOB = 3 };
enum { ERROR_TEXT = 1 };
enum { IDENTITY_PID = 1, IDENTITY_UID = 2, IDENTITY_HINT = 3, IDENTITY_NAME = 4 };

#define READER_MIN   4096u  /* first allocation of a receive buffer */
#define READER_EAGER 65536u /* full reads grow it up to here though every frame would fit */

const char *frame_kind_name(enum frame_kind kind)
{
    switch (kind) {
    case FRAME_NONE:
        return "none";
    case FRAME_BIND:
        return "bind";
    case FRAME_BIND_REPLY:
        return "bind reply";
    case FRAME_INVOKE:
        return "invoke";
    case FRAME_INVOKE_REPLY:
        return "invoke reply";
    case FRAME_ERROR:
        return "error";
    case FRAME_IDENTITY:
        return "identity";
    }
    return "?";
}

/* ---- decoding ---- */

static void decode_bind(struct frame *f, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field at;
    while (bytes_next(&cur, &at)) {
        if (at.id == BIND_SERVICE && at.type == BYTES_LEN)
            f->u.bind.service = at.data;
    }
}

static void decode_bind_reply(struct frame *f, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field at;
    while (bytes_next(&cur, &at)) {
        if (at.id == BOUND_SUCCESS && at.type == BYTES_VARINT)
            f->u.bind_reply.success = at.num != 0;
        else if (at.id == BOUND_SERVICE_ID && at.type == BYTES_VARINT)
            f->u.bind_reply.service_id = (uint32_t)at.num;
    }
    f->u.bind_reply.methods = msg;
}

static void decode_invoke(struct frame *f, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field at;
    while (bytes_next(&cur, &at)) {
        if (at.id == CALL_ARGS && at.type == BYTES_LEN)
            f->u.invoke.args = at.data;
        if (at.type != BYTES_VARINT)
            continue;
        if (at.id == CALL_SERVICE_ID)
            f->u.invoke.service_id = (uint32_t)at.num;
        else if (at.id == CALL_METHOD_ID)
            f->u.invoke.method_id = (uint32_t)at.num;
        else if (at.id == CALL_DROP_REPLY)
            f->u.invoke.drop_reply = at.num != 0;
    }
}

static void decode_invoke_reply(struct frame *f, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field at;
    while (bytes_next(&cur, &at)) {
        if (at.id == REPLY_SUCCESS && at.type == BYTES_VARINT)
            f->u.invoke_reply.success = at.num != 0;
        else if (at.id == REPLY_HAS_MORE && at.type == BYTES_VARINT)
            f->u.invoke_reply.has_more = at.num != 0;
        else if (at.id == REPLY_BLOB && at.type == BYTES_LEN)
            f->u.invoke_reply.reply = at.data;
    }
}

static void decode_error(struct frame *f, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field at;
    while (bytes_next(&cur, &at)) {
        if (at.id == ERROR_TEXT && at.type == BYTES_LEN)
            f->u.error.text = at.data;
    }
}

static void decode_identity(struct frame *f, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field at;
    while (bytes_next(&cur, &at)) {
        if (at.id == IDENTITY_PID && at.type == BYTES_VARINT)
            f->u.identity.pid = (int32_t)(uint32_t)at.num;
        else if (at.id == IDENTITY_UID && at.type == BYTES_VARINT)
            f->u.identity.uid = (int32_t)(uint32_t)at.num;
        else if (at.id == IDENTITY_HINT && at.type == BYTES_LEN)
            f->u.identity.hint = at.data;
        else if (at.id == IDENTITY_NAME && at.type == BYTES_LEN)
            f->u.identity.name = at.data;
    }
}

/* R36 for what a host may receive; the other kinds follow in numeric order. */
static const struct {
    enum frame_kind kind;
    void (*decode)(struct frame *f, struct bytes_view msg);
} decoders[] = {
    {FRAME_BIND, decode_bind},
    {FRAME_INVOKE, decode_invoke},
    {FRAME_IDENTITY, decode_identity},
    {FRAME_BIND_REPLY, decode_bind_reply},
    {FRAME_INVOKE_REPLY, decode_invoke_reply},
    {FRAME_ERROR, decode_error},
};

int frame_decode(struct frame *out, struct bytes_view payload)
{
    struct bytes_view msg[FRAME_IDENTITY + 1];
    unsigned present = 0;
    uint64_t request_id = 0;
    struct bytes_cur cur = bytes_cur(payload);
    struct bytes_field at;
    while (bytes_next(&cur, &at)) {
        if (at.id == F_REQUEST_ID && at.type == BYTES_VARINT) {
            request_id = at.num;
        } else if (at.id >= FRAME_BIND && at.id <= FRAME_IDENTITY && at.type == BYTES_LEN) {
            msg[at.id] = at.data;
            present |= 1u << at.id;
        }
    }
    if (!bytes_done(&cur))
        return ERR_BAD_FRAME;

    memset(out, 0, sizeof(*out));
    out->request_id = request_id;
    for (size_t i = 0; i < sizeof(decoders) / sizeof(decoders[0]); i++) {
        if ((present & 1u << decoders[i].kind) == 0)
            continue;
        out->kind = decoders[i].kind;
        decoders[i].decode(out, msg[out->kind]);
        break;
    }
    return 0;
}

bool frame_next_method(struct bytes_cur *cur, struct frame_method *out)
{
    struct bytes_field at;
    while (bytes_next(cur, &at)) {
        if (at.id != BOUND_METHODS || at.type != BYTES_LEN)
            continue;
        struct frame_method m = {0, {NULL, 0}};
        struct bytes_cur in = bytes_cur(at.data);
        struct bytes_field field;
        while (bytes_next(&in, &field)) {
            if (field.id == METHOD_ID && field.type == BYTES_VARINT)
                m.id = (uint32_t)field.num;
            else if (field.id == METHOD_NAME && field.type == BYTES_LEN)
                m.name = field.data;
        }
        if (m.id == 0 || m.name.n == 0)
            continue;
        *out = m;
        return true;
    }
    return false;
}

/* ---- encoding ---- */

static uint8_t *put_num(uint8_t *p, uint32_t field, uint64_t v)
{
    return bytes_put_varint(bytes_put_tag(p, field, BYTES_VARINT), v);
}

static uint8_t *put_blob(uint8_t *p, uint32_t field, struct bytes_view v)
{
    p = bytes_put_varint(bytes_put_tag(p, field, BYTES_LEN), v.n);
    if (v.n != 0)
        memcpy(p, v.p, v.n);
    return p + v.n;
}

/* Sizes of fields with a number below 16, whose tag takes one byte. */
static size_t num_size(uint64_t v)
{
    return 1 + bytes_varint_size(v);
}

static size_t blob_size(size_t n)
{
    return 1 + bytes_varint_size(n) + n;
}

/* Header, request_id and the tag of a kind whose message takes msg_len bytes. */
static uint8_t *put_start(uint8_t *buf, uint64_t request_id, enum frame_kind kind, size_t msg_len)
{
    size_t payload = num_size(request_id) + blob_size(msg_len);
    bytes_store32(buf, (uint32_t)payload);
    uint8_t *p = put_num(buf + FRAME_HEADER, F_REQUEST_ID, request_id);
    return bytes_put_varint(bytes_put_tag(p, (uint32_t)kind, BYTES_LEN), msg_len);
}

size_t frame_put_bind(uint8_t *buf, uint64_t request_id, struct bytes_view service)
{
    uint8_t *p = put_start(buf, request_id, FRAME_BIND, blob_size(service.n));
    return (size_t)(put_blob(p, BIND_SERVICE, service) - buf);
}

static size_t method_size(const struct frame_method *m)
{
    return num_size(m->id) + blob_size(m->name.n);
}

size_t frame_bind_ok_room(const struct frame_method *methods, size_t count)
{
    size_t n = FRAME_OVERHEAD;
    for (size_t i = 0; i < count; i++)
        n += blob_size(method_size(&methods[i]));
    return n;
}

size_t frame_put_bind_ok(uint8_t *buf, uint64_t request_id, uint32_t service_id,
                         const struct frame_method *methods, size_t count)
{
    size_t len = num_size(1) + num_size(service_id);
    for (size_t i = 0; i < count; i++)
        len += blob_size(method_size(&methods[i]));
    uint8_t *p = put_start(buf, request_id, FRAME_BIND_REPLY, len);
    p = put_num(p, BOUND_SUCCESS, 1);
    p = put_num(p, BOUND_SERVICE_ID, service_id);
    for (size_t i = 0; i < count; i++) {
        p = bytes_put_varint(bytes_put_tag(p, BOUND_METHODS, BYTES_LEN), method_size(&methods[i]));
        p = put_num(p, METHOD_ID, methods[i].id);
        p = put_blob(p, METHOD_NAME, methods[i].name);
    }
    return (size_t)(p - buf);
}

size_t frame_put_bind_unknown(uint8_t *buf, uint64_t request_id)
{
    return (size_t)(put_start(buf, request_id, FRAME_BIND_REPLY, 0) - buf);
}

size_t frame_put_error(uint8_t *buf, uint64_t request_id, struct bytes_view text)
{
    uint8_t *p = put_start(buf, request_id, FRAME_ERROR, blob_size(text.n));
    return (size_t)(put_blob(p, ERROR_TEXT, text) - buf);
}

/* int32 on the wire: sign-extended to 64 bits. */
static uint64_t wire_int32(int32_t v)
{
    return (uint64_t)(int64_t)v;
}

static size_t put_identity(uint8_t *buf, uint64_t request_id, int32_t pid, int32_t uid,
                           struct bytes_view hint, struct bytes_view name)
{
    size_t len = num_size(wire_int32(pid)) + num_size(wire_int32(uid)) + blob_size(hint.n) +
                 blob_size(name.n);
    uint8_t *p = put_start(buf, request_id, FRAME_IDENTITY, len);
    p = put_num(p, IDENTITY_PID, wire_int32(pid));
    p = put_num(p, IDENTITY_UID, wire_int32(uid));
    p = put_blob(p, IDENTITY_HINT, hint);
    return (size_t)(put_blob(p, IDENTITY_NAME, name) - buf);
}

size_t frame_put_identity(uint8_t *buf, int32_t pid, int32_t uid, struct bytes_view hint,
                          struct bytes_view name)
{
    return put_identity(buf, 0, pid, uid, hint, name);
}

size_t frame_put_rejected(uint8_t *buf, uint64_t request_id)
{
    uint8_t *p = put_start(buf, request_id, FRAME_INVOKE_REPLY, num_size(0));
    return (size_t)(put_num(p, REPLY_HAS_MORE, 0) - buf);
}

size_t frame_put_failed(uint8_t *buf, uint64_t request_id)
{
    uint8_t *p = put_start(buf, request_id, FRAME_INVOKE_REPLY, num_size(0));
    return (size_t)(put_num(p, REPLY_SUCCESS, 0) - buf);
}

size_t frame_invoke_head(uint8_t *head, uint64_t request_id, uint32_t service_id,
                         uint32_t method_id, size_t args_len, bool drop_reply, uint8_t *tail,
                         size_t *tail_len)
{
    size_t len = num_size(service_id) + num_size(method_id) + blob_size(args_len) + num_size(1);
    uint8_t *p = put_start(head, request_id, FRAME_INVOKE, len);
    p = put_num(p, CALL_SERVICE_ID, service_id);
    p = put_num(p, CALL_METHOD_ID, method_id);
    p = bytes_put_varint(bytes_put_tag(p, CALL_ARGS, BYTES_LEN), args_len);
    *tail_len = (size_t)(put_num(tail, CALL_DROP_REPLY, drop_reply ? 1 : 0) - tail);
    return (size_t)(p - head);
}

size_t frame_reply_head(uint8_t *head, uint64_t request_id, bool has_more, size_t reply_len)
{
    size_t len = num_size(1) + num_size(1) + blob_size(reply_len);
    uint8_t *p = put_start(head, request_id, FRAME_INVOKE_REPLY, len);
    p = put_num(p, REPLY_SUCCESS, 1);
    p = put_num(p, REPLY_HAS_MORE, has_more ? 1 : 0);
    p = bytes_put_varint(bytes_put_tag(p, REPLY_BLOB, BYTES_LEN), reply_len);
    return (size_t)(p - head);
}

/* Bind reply of a decoded frame; its methods are read again from the old encoding. */
static size_t put_bind_reply_again(uint8_t *buf, const struct frame *f)
{
    struct bytes_cur cur = bytes_cur(f->u.bind_reply.methods);
    struct frame_method m;
    size_t len = num_size(1) + num_size(f->u.bind_reply.service_id);
    while (frame_next_method(&cur, &m))
        len += blob_size(method_size(&m));
    uint8_t *p = put_start(buf, f->request_id, FRAME_BIND_REPLY, len);
    p = put_num(p, BOUND_SUCCESS, 1);
    p = put_num(p, BOUND_SERVICE_ID, f->u.bind_reply.service_id);
    cur = bytes_cur(f->u.bind_reply.methods);
    while (frame_next_method(&cur, &m)) {
        p = bytes_put_varint(bytes_put_tag(p, BOUND_METHODS, BYTES_LEN), method_size(&m));
        p = put_num(p, METHOD_ID, m.id);
        p = put_blob(p, METHOD_NAME, m.name);
    }
    return (size_t)(p - buf);
}

/* Bytes that bound the encoding of f. */
static size_t put_bound(const struct frame *f)
{
    switch (f->kind) {
    case FRAME_BIND:
        return frame_room(f->u.bind.service.n);
    case FRAME_BIND_REPLY:
        return frame_room(f->u.bind_reply.methods.n);
    case FRAME_INVOKE:
        return frame_room(f->u.invoke.args.n);
    case FRAME_INVOKE_REPLY:
        return frame_room(f->u.invoke_reply.reply.n);
    case FRAME_ERROR:
        return frame_room(f->u.error.text.n);
    case FRAME_IDENTITY:
        return frame_room(f->u.identity.hint.n + f->u.identity.name.n);
    case FRAME_NONE:
        break;
    }
    return FRAME_OVERHEAD;
}

static size_t append(uint8_t *buf, size_t at, const void *p, size_t n)
{
    if (n != 0)
        memcpy(buf + at, p, n);
    return at + n;
}

static size_t put_invoke_again(uint8_t *buf, const struct frame *f)
{
    uint8_t tail[FRAME_OVERHEAD];
    size_t tail_len = 0;
    size_t n = frame_invoke_head(buf, f->request_id, f->u.invoke.service_id, f->u.invoke.method_id,
                                 f->u.invoke.args.n, f->u.invoke.drop_reply, tail, &tail_len);
    n = append(buf, n, f->u.invoke.args.p, f->u.invoke.args.n);
    return append(buf, n, tail, tail_len);
}

int frame_put(const struct frame *f, uint8_t *buf, size_t cap, size_t *len)
{
    if (put_bound(f) > cap)
        return -ENOSPC;
    switch (f->kind) {
    case FRAME_BIND:
        *len = frame_put_bind(buf, f->request_id, f->u.bind.service);
        break;
    case FRAME_BIND_REPLY:
        *len = f->u.bind_reply.success ? put_bind_reply_again(buf, f)
                                       : frame_put_bind_unknown(buf, f->request_id);
        break;
    case FRAME_INVOKE:
        *len = put_invoke_again(buf, f);
        break;
    case FRAME_INVOKE_REPLY:
        if (!f->u.invoke_reply.success) {
            *len = frame_put_rejected(buf, f->request_id);
            break;
        }
        *len = frame_reply_head(buf, f->request_id, f->u.invoke_reply.has_more,
                                f->u.invoke_reply.reply.n);
        *len = append(buf, *len, f->u.invoke_reply.reply.p, f->u.invoke_reply.reply.n);
        break;
    case FRAME_ERROR:
        *len = frame_put_error(buf, f->request_id, f->u.error.text);
        break;
    case FRAME_IDENTITY:
        *len = put_identity(buf, f->request_id, f->u.identity.pid, f->u.identity.uid,
                            f->u.identity.hint, f->u.identity.name);
        break;
    case FRAME_NONE:
        bytes_store32(buf, (uint32_t)num_size(f->request_id));
        *len = (size_t)(put_num(buf + FRAME_HEADER, F_REQUEST_ID, f->request_id) - buf);
        break;
    }
    return 0;
}

/* ---- the stream ---- */

void frame_reader_init(struct frame_reader *r)
{
    memset(r, 0, sizeof(*r));
}

void frame_reader_fini(struct frame_reader *r)
{
    free(r->buf);
    frame_reader_init(r);
}

size_t frame_reader_pending(const struct frame_reader *r)
{
    return r->tail - r->head;
}

static void compact(struct frame_reader *r)
{
    if (r->head == 0)
        return;
    if (r->tail != r->head)
        memmove(r->buf, r->buf + r->head, r->tail - r->head);
    r->tail -= r->head;
    r->head = 0;
}

int frame_reader_space(struct frame_reader *r, uint8_t **p, size_t *n)
{
    compact(r);
    bool busy = r->used == r->cap && r->cap < READER_EAGER;
    if (r->tail == r->cap || busy) {
        size_t cap = r->cap == 0 ? READER_MIN : r->cap * 2;
        if (cap > FRAME_MAX)
            cap = FRAME_MAX;
        uint8_t *buf = alloc_try_resize(r->buf, cap, 1);
        if (buf == NULL)
            return -ENOMEM;
        r->buf = buf;
        r->cap = cap;
    }
    *p = r->buf + r->tail;
    *n = r->cap - r->tail;
    return 0;
}

void frame_reader_filled(struct frame_reader *r, size_t n)
{
    r->tail += n;
    if (r->tail > r->used)
        r->used = r->tail;
}

int frame_reader_next(struct frame_reader *r, struct bytes_view *payload)
{
    for (;;) {
        size_t avail = r->tail - r->head;
        if (avail < FRAME_HEADER)
            return -EAGAIN;
        uint32_t size = bytes_load32(r->buf + r->head);
        if (size > FRAME_PAYLOAD_MAX)
            return ERR_FRAME_SIZE;
        if (avail - FRAME_HEADER < size)
            return -EAGAIN;
        r->head += FRAME_HEADER + size;
        if (size == 0)
            continue;
        *payload = bytes_view(r->buf + r->head - size, size);
        return 0;
    }
}

bool frame_reader_trim(struct frame_reader *r)
{
    size_t used = r->used;
    compact(r);
    r->used = 0;
    if (used == 0 && r->tail == 0)
        frame_reader_fini(r);
    size_t want = READER_MIN;
    while (want < used || want < r->tail)
        want *= 2;
    if (want * 2 > r->cap)
        return used != 0;
    uint8_t *buf = alloc_try_resize(r->buf, want, 1);
    if (buf != NULL) { /* otherwise the larger one still serves */
        r->buf = buf;
        r->cap = want;
    }
    return used != 0;
}
