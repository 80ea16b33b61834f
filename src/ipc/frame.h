/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_FRAME_H
#define IPC_FRAME_H

/*
 * Frames: cutting a byte stream into them, and the IPCFrame message inside (spec sections 2 and 3).
 * Written by hand on reactor/bytes because CommitData passes here: nothing allocates per frame, and
 * everything decoded is a view into the bytes that were read.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "reactor/bytes.h"

#define FRAME_HEADER      4u                         /* u32 little-endian payload size (R27) */
#define FRAME_MAX         131072u                    /* header included (R30) */
#define FRAME_PAYLOAD_MAX (FRAME_MAX - FRAME_HEADER) /* 131068 */
#define FRAME_SERVICE_MAX 64u                        /* our own service and method names */

/* Room that any frame's own encoding takes around its blob (args_proto, reply_proto), header
 * included. A blob of FRAME_BLOB_MAX bytes always makes a legal frame. */
#define FRAME_OVERHEAD 64u
#define FRAME_BLOB_MAX (FRAME_MAX - FRAME_OVERHEAD) /* 131008, as in R102 */

/* ---- the message ---- */

/* Values are the field numbers of the oneof. A frame that carries several kinds reads as the first
 * present in the order bind, invoke, identity (R36), then bind reply, invoke reply, error. */
enum frame_kind {
    FRAME_NONE = 0, /* no kind set, or only unknown fields */
    FRAME_BIND = 3,
    FRAME_BIND_REPLY = 4,
    FRAME_INVOKE = 5,
    FRAME_INVOKE_REPLY = 6,
    FRAME_ERROR = 7,
    FRAME_IDENTITY = 8,
};

/* "bind", "invoke", ...; "?" for a value that is none. */
const char *frame_kind_name(enum frame_kind kind);

/* One method of a bind reply. */
struct frame_method {
    uint32_t id;
    struct bytes_view name;
};

/* A decoded or to-be-encoded IPCFrame. All views are borrowed from the payload. */
struct frame {
    uint64_t request_id;
    enum frame_kind kind;
    union {
        struct {
            struct bytes_view service;
        } bind;
        struct {
            bool success; /* missing reads as false (R43) */
            uint32_t service_id;
            struct bytes_view methods; /* the message itself: walk it with frame_next_method */
        } bind_reply;
        struct {
            uint32_t service_id;
            uint32_t method_id;
            bool drop_reply;
            struct bytes_view args;
        } invoke;
        struct {
            bool success; /* missing reads as false (R56) */
            bool has_more;
            struct bytes_view reply;
        } invoke_reply;
        struct {
            struct bytes_view text;
        } error;
        struct {
            int32_t pid;
            int32_t uid;
            struct bytes_view hint;
            struct bytes_view name;
        } identity;
    } u;
};

/* Decodes one payload. 0; ERR_BAD_FRAME when bytes are left over at the top level: skip the frame
 * silently (R33). A nested message that breaks off yields its fields up to there (R34). */
int frame_decode(struct frame *out, struct bytes_view payload);

/* Next method of a bind reply: *cur starts as bytes_cur(frame.u.bind_reply.methods). Entries
 * without a name or with id 0 are skipped (R46). False at the end. */
bool frame_next_method(struct bytes_cur *cur, struct frame_method *out);

/* ---- encoding ----
 * Minimal varints; fields in ascending order; which fields are written, zero or not, is as the byte
 * examples of section 17 show. Each returns the size of the frame, header included; buf must have
 * room for the blob plus FRAME_OVERHEAD (plus the texts of a bind reply or identity). */

/* Bytes that any one of them can need for texts of this total length. */
static inline size_t frame_room(size_t text)
{
    return FRAME_OVERHEAD + text;
}

size_t frame_put_bind(uint8_t *buf, uint64_t request_id, struct bytes_view service);
size_t frame_put_bind_ok(uint8_t *buf, uint64_t request_id, uint32_t service_id,
                         const struct frame_method *methods, size_t count);
size_t frame_put_bind_unknown(uint8_t *buf, uint64_t request_id); /* R43 */
size_t frame_put_error(uint8_t *buf, uint64_t request_id, struct bytes_view text);
size_t frame_put_identity(uint8_t *buf, int32_t pid, int32_t uid, struct bytes_view hint,
                          struct bytes_view name);
size_t frame_put_rejected(uint8_t *buf, uint64_t request_id); /* has_more=false alone (R56) */
size_t frame_put_failed(uint8_t *buf, uint64_t request_id);   /* success=false alone (R50) */

/* Room of the bind reply for these methods. */
size_t frame_bind_ok_room(const struct frame_method *methods, size_t count);

/* Invocations and replies are encoded around their blob, so that it never needs to be copied: the
 * bytes before it, and for an invocation the bytes after it. Both buffers hold FRAME_OVERHEAD.
 * Returns the length of the head; *tail_len that of the tail (2: drop_reply, R51). */
size_t frame_invoke_head(uint8_t *head, uint64_t request_id, uint32_t service_id,
                         uint32_t method_id, size_t args_len, bool drop_reply, uint8_t *tail,
                         size_t *tail_len);

/* Bytes before a successful reply's blob, which ends the frame (R55). */
size_t frame_reply_head(uint8_t *head, uint64_t request_id, bool has_more, size_t reply_len);

/* Re-encodes any decoded frame canonically, for tests and tools: 0 with *len, or -ENOSPC. */
int frame_put(const struct frame *frame, uint8_t *buf, size_t cap, size_t *len);

/* ---- the stream ---- */

/* Receive buffer of one connection; embedded by value. It grows on demand from nothing to at most
 * FRAME_MAX bytes and keeps its size while frames flow, so steady traffic allocates nothing;
 * frame_reader_trim gives it back. */
struct frame_reader {
    uint8_t *buf; /* own */
    size_t cap;
    size_t head; /* first undelivered byte */
    size_t tail; /* one past the last byte read */
    size_t used; /* largest fill since the last trim */
};

void frame_reader_init(struct frame_reader *r);
void frame_reader_fini(struct frame_reader *r);

/* Where to read next: at least 1 and usually thousands of bytes, never more than the buffer's
 * limit. Moves or grows the buffer, so earlier views die. 0 or -ENOMEM. Every complete frame must
 * have been taken before. */
int frame_reader_space(struct frame_reader *r, uint8_t **p, size_t *n);

/* n bytes were read to that place (0 is harmless, T-F3). */
void frame_reader_filled(struct frame_reader *r, size_t n);

/* Takes the next complete frame: 0 with its payload as a view that lives until the next
 * frame_reader_space or trim; -EAGAIN when none is complete; ERR_FRAME_SIZE as soon as a header
 * announces more than FRAME_PAYLOAD_MAX (R30): the connection is to be closed. Empty frames are
 * passed over (R29). */
int frame_reader_next(struct frame_reader *r, struct bytes_view *payload);

/* Bytes of an incomplete frame that wait for the rest. */
size_t frame_reader_pending(const struct frame_reader *r);

/* Shrinks a buffer that was last used far below its size, frees an idle one. True when something
 * was read since the last trim. */
bool frame_reader_trim(struct frame_reader *r);

#endif
