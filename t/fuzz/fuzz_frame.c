/* SPDX-License-Identifier: Apache-2.0 */
/* A byte stream as a hostile peer sends it. The first byte chooses how the rest is cut into reads,
 * which must not matter: the same stream read in one piece gives the same frames and the same end.
 * What decodes is read to the last byte (a view past the end shows under AddressSanitizer), encodes
 * again, and the encoding is stable: it decodes to itself. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/frame.h"
#include "ipc/port_consumer.h"
#include "reactor/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum; /* keeps the reads alive, and compares two runs */

static void read_all(struct bytes_view v)
{
    for (size_t i = 0; i < v.n; i++)
        sum = sum * 31 + v.p[i];
}

static void read_methods(struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct frame_method m;
    while (frame_next_method(&cur, &m)) {
        if (m.id == 0 || m.name.n == 0)
            abort();
        read_all(m.name);
    }
}

static void read_slices(struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct port_consumer_slice s;
    while (port_consumer_next_slice(&cur, &s) == 1)
        read_all(s.data);
}

static void read_frame(const struct frame *f)
{
    sum += (uint64_t)f->kind + f->request_id;
    switch (f->kind) {
    case FRAME_NONE:
        break;
    case FRAME_BIND:
        read_all(f->u.bind.service);
        break;
    case FRAME_BIND_REPLY:
        read_methods(f->u.bind_reply.methods);
        break;
    case FRAME_INVOKE:
        read_all(f->u.invoke.args);
        break;
    case FRAME_INVOKE_REPLY:
        read_all(f->u.invoke_reply.reply);
        read_slices(f->u.invoke_reply.reply);
        break;
    case FRAME_ERROR:
        read_all(f->u.error.text);
        break;
    case FRAME_IDENTITY:
        read_all(f->u.identity.hint);
        read_all(f->u.identity.name);
        break;
    }
}

static void check_encoding(const struct frame *f)
{
    static uint8_t once[2 * FRAME_MAX];
    static uint8_t twice[2 * FRAME_MAX];
    struct frame g;
    size_t n = 0;
    size_t m = 0;
    if (frame_put(f, once, sizeof(once), &n) != 0 || bytes_load32(once) + FRAME_HEADER != n)
        abort();
    if (frame_decode(&g, bytes_view(once + FRAME_HEADER, n - FRAME_HEADER)) != 0)
        abort();
    if (g.kind != f->kind || g.request_id != f->request_id)
        abort();
    if (frame_put(&g, twice, sizeof(twice), &m) != 0 || m != n || memcmp(once, twice, n) != 0)
        abort();
}

/* All complete frames; returns the reader's last word. */
static int drain(struct frame_reader *r)
{
    struct bytes_view payload;
    int rc;
    while ((rc = frame_reader_next(r, &payload)) == 0) {
        struct frame f;
        if (payload.n == 0 || payload.n > FRAME_PAYLOAD_MAX)
            abort();
        if (frame_decode(&f, payload) != 0) {
            sum += 1;
            continue;
        }
        read_frame(&f);
        check_encoding(&f);
    }
    return rc;
}

/* Feeds the stream in reads of at most `step` bytes; returns how it ended. */
static int run(const uint8_t *data, size_t size, size_t step)
{
    struct frame_reader r;
    int rc = -EAGAIN;
    frame_reader_init(&r);
    sum = 0;
    while (size != 0 && rc == -EAGAIN) {
        uint8_t *to = NULL;
        size_t room = 0;
        if (frame_reader_space(&r, &to, &room) != 0 || room == 0)
            abort();
        size_t n = size < step ? size : step;
        n = n < room ? n : room;
        memcpy(to, data, n);
        frame_reader_filled(&r, n);
        data += n;
        size -= n;
        rc = drain(&r);
        if (step == 7)
            frame_reader_trim(&r);
    }
    if (rc != -EAGAIN && rc != ERR_FRAME_SIZE)
        abort();
    if (r.cap > FRAME_MAX)
        abort();
    frame_reader_fini(&r);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t steps[] = {1, 3, 7, 64, 1000, 4096, 65536};
    if (size == 0)
        return 0;
    size_t step = steps[data[0] % (sizeof(steps) / sizeof(steps[0]))];
    int a = run(data + 1, size - 1, step);
    uint64_t seen = sum;
    int b = run(data + 1, size - 1, SIZE_MAX);
    if (a != b || seen != sum)
        abort();
    return 0;
}
