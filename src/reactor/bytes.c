/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bytes: the parts of the cursor that are not worth inlining. Everything here works on borrowed
 * bytes, allocates nothing and must stay inside [p, end) whatever the bytes say; groups are
 * matched with a small stack of field numbers instead of recursion, so depth is bounded too.
 */
#include "reactor/bytes.h"

static bool skip_value(struct bytes_cur *c, uint8_t type)
{
    uint64_t num = 0;
    struct bytes_view data;
    switch (type) {
    case BYTES_VARINT:
        return bytes_get_varint(c, &num);
    case BYTES_FIXED64:
        return bytes_skip(c, 8);
    case BYTES_LEN:
        return bytes_get_len(c, &data);
    case BYTES_FIXED32:
        return bytes_skip(c, 4);
    default:
        return false;
    }
}

bool bytes_get_group(struct bytes_cur *c, uint32_t field, struct bytes_view *body)
{
    struct bytes_cur at = *c;
    uint32_t open[BYTES_MAX_GROUPS] = {field};
    size_t depth = 1;
    for (;;) {
        const uint8_t *tag_at = at.p;
        uint32_t id = 0;
        uint8_t type = 0;
        if (!bytes_get_tag(&at, &id, &type))
            return false;
        if (type == BYTES_GROUP) {
            if (depth == BYTES_MAX_GROUPS)
                return false;
            open[depth++] = id;
        } else if (type == BYTES_END_GROUP) {
            if (open[--depth] != id)
                return false;
            if (depth == 0) {
                *body = bytes_view(c->p, (size_t)(tag_at - c->p));
                *c = at;
                return true;
            }
        } else if (!skip_value(&at, type)) {
            return false;
        }
    }
}

bool bytes_find(struct bytes_view msg, uint32_t field, enum bytes_wire type,
                struct bytes_field *out)
{
    struct bytes_cur c = bytes_cur(msg);
    struct bytes_field f;
    struct bytes_field last = {0, 0, 0, {NULL, 0}, {NULL, 0}};
    while (bytes_next(&c, &f))
        if (f.id == field && f.type == type)
            last = f;
    if (!bytes_done(&c) || last.id == 0)
        return false;
    *out = last;
    return true;
}
