/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The slow paths of the protobuf writer: what happens at the end of a range. Everything that runs
 * per field is inline in the header.
 *
 * The invariant: a nest whose field is "local" points into [begin - anything, end) of the current
 * range; whoever changes the range (the owner's `more`) makes each such nest remote or gives it up.
 */
#include "smb/pbw.h"

void pbw_raw_slow(struct pbw *p, const void *data, size_t len)
{
    const uint8_t *from = data;
    for (;;) {
        size_t room = (size_t)(p->end - p->cur);
        size_t n = len < room ? len : room;
        if (n) {
            memcpy(p->cur, from, n);
            p->cur += n;
            from += n;
            len -= n;
        }
        if (len == 0) {
            return;
        }
        p->more(p);
    }
}

void pbw_begin_slow(struct pbw *p)
{
    p->more(p);
    struct pbw_nest *nest = &p->nest[p->depth++];
    nest->field = NULL;
    nest->local = false;
    if (p->end - p->cur >= (ptrdiff_t)SMB_SIZE_FIELD) {
        nest->field = p->cur;
        nest->local = true;
        memset(p->cur, 0, SMB_SIZE_FIELD);
        p->cur += SMB_SIZE_FIELD;
    }
    nest->start = pbw_pos(p);
}

void pbw_end_all(struct pbw *p)
{
    while (p->depth) {
        pbw_end(p);
    }
}

void pbw_packed(struct pbw *p, uint32_t field, const uint64_t *v, size_t n)
{
    uint8_t tmp[PBW_MAX_FIELD];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        len += (size_t)(bytes_put_varint(tmp, v[i]) - tmp);
    }
    if (n == 0) {
        return;
    }
    pbw_tag_varint(p, field << 3 | PBW_BYTES, len);
    for (size_t i = 0; i < n; i++) {
        pbw_raw(p, tmp, (size_t)(bytes_put_varint(tmp, v[i]) - tmp));
    }
}

/* A flat buffer has no second range: from here on the first one is overwritten and the result void.
 */
static void flat_more(struct pbw *p)
{
    struct pbw_flat *f = (struct pbw_flat *)(void *)p;
    f->overflow = true;
    for (uint32_t i = 0; i < p->depth && i < PBW_DEPTH; i++) {
        p->nest[i].field = NULL;
        p->nest[i].local = false;
    }
    p->base += (uint32_t)(p->cur - p->begin);
    p->begin = p->cur = f->buf;
}

void pbw_flat_init(struct pbw_flat *f, void *buf, size_t cap)
{
    f->buf = buf;
    f->cap = cap;
    f->overflow = false;
    f->pbw.begin = f->pbw.cur = f->buf;
    f->pbw.end = f->buf + cap;
    f->pbw.base = 0;
    f->pbw.depth = 0;
    f->pbw.too_deep = 0;
    f->pbw.more = flat_more;
}

ptrdiff_t pbw_flat_end(struct pbw_flat *f)
{
    pbw_end_all(&f->pbw);
    return f->overflow ? -1 : f->pbw.cur - f->buf;
}
