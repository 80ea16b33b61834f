/* SPDX-License-Identifier: Apache-2.0 */
#include "t/svc/vmasm.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"

struct text {
    const char *at;
    char word[2000];
};

/* The next word, "" at the end. */
static const char *peek(struct text *t)
{
    t->at += strspn(t->at, " \n");
    size_t n = *t->at == '}' ? 1 : strcspn(t->at, " \n}");
    cr_assert_lt(n, sizeof(t->word));
    memcpy(t->word, t->at, n);
    t->word[n] = '\0';
    return t->word;
}

static const char *take(struct text *t)
{
    const char *word = peek(t);
    t->at += strlen(word);
    return word;
}

static bool accept(struct text *t, const char *word)
{
    if (strcmp(peek(t), word) != 0)
        return false;
    take(t);
    return true;
}

/* ---- programs ---- */

static uint32_t number(const char **p)
{
    char *end;
    unsigned long v = strtoul(*p, &end, 0);
    cr_assert_neq(end, *p, "a number is missing at \"%s\"", *p);
    *p = end;
    return (uint32_t)v;
}

/* One component; the parts of it that are 0xFFFFFFFF are left out. */
static void component(struct bytesbuf *out, uint32_t field, uint32_t value)
{
    size_t m = bytesbuf_pb_begin(out, PBF_VmOpSelect_relative_path);
    if (field != 0)
        bytesbuf_pb_varint(out, field, value);
    bytesbuf_pb_end(out, m);
}

static void put_path(struct bytesbuf *out, const char *p)
{
    while (*p == '/') {
        p++;
        if (*p == '-') {
            component(out, 0, 0);
            p++;
            continue;
        }
        size_t m = bytesbuf_pb_begin(out, PBF_VmOpSelect_relative_path);
        bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_field_id, number(&p));
        if (*p == '*') {
            p++;
            bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_is_repeated, 1);
            if (*p >= '0' && *p <= '9')
                bytesbuf_pb_varint(out,
                                   PBF_VmOpSelect_PathComponent_store_foreach_index_into_register,
                                   number(&p));
        }
        bytesbuf_pb_end(out, m);
        if (*p == '@') {
            p++;
            component(out, PBF_VmOpSelect_PathComponent_array_index, number(&p));
        } else if (*p == ':') {
            p++;
            m = bytesbuf_pb_begin(out, PBF_VmOpSelect_relative_path);
            bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_map_key_field_id, number(&p));
            if (*p++ == '=')
                bytesbuf_pb_varint(out, PBF_VmOpSelect_PathComponent_register_to_match, number(&p));
            bytesbuf_pb_end(out, m);
        }
    }
}

static void put_select(struct bytesbuf *out, struct text *t, uint32_t cursor, bool create)
{
    size_t m = bytesbuf_pb_begin(out, PBF_VmInstruction_select);
    if (cursor != 0)
        bytesbuf_pb_varint(out, PBF_VmOpSelect_cursor, cursor);
    put_path(out, take(t));
    if (create)
        bytesbuf_pb_varint(out, PBF_VmOpSelect_create_if_not_exist, 1);
    bytesbuf_pb_end(out, m);
}

static void put_load(struct bytesbuf *out, struct text *t, uint32_t cursor)
{
    const char *p = take(t);
    size_t m = bytesbuf_pb_begin(out, PBF_VmInstruction_reg_load);
    if (cursor != 0)
        bytesbuf_pb_varint(out, PBF_VmOpRegLoad_cursor, cursor);
    bytesbuf_pb_varint(out, PBF_VmOpRegLoad_dst_register, number(&p));
    bytesbuf_pb_end(out, m);
}

static void put_flag(struct bytesbuf *out, uint32_t op, uint32_t flag)
{
    size_t m = bytesbuf_pb_begin(out, op);
    if (flag != 0)
        bytesbuf_pb_varint(out, flag, 1);
    bytesbuf_pb_end(out, m);
}

static void put_op(struct bytesbuf *out, struct text *t)
{
    if (accept(t, "src"))
        put_select(out, t, 0, false);
    else if (accept(t, "src+"))
        put_select(out, t, 1, true);
    else if (accept(t, "dst"))
        put_select(out, t, 2, false);
    else if (accept(t, "dst+"))
        put_select(out, t, 2, true);
    else if (accept(t, "both"))
        put_select(out, t, 3, false);
    else if (accept(t, "load"))
        put_load(out, t, 0);
    else if (accept(t, "loaddst"))
        put_load(out, t, 2);
    else if (accept(t, "set"))
        put_flag(out, PBF_VmInstruction_set, 0);
    else if (accept(t, "del"))
        put_flag(out, PBF_VmInstruction_del, 0);
    else if (accept(t, "merge"))
        put_flag(out, PBF_VmInstruction_merge, 0);
    else if (accept(t, "mergeskip"))
        put_flag(out, PBF_VmInstruction_merge, PBF_VmOpMerge_skip_submessages);
    else if (accept(t, "mergedel"))
        put_flag(out, PBF_VmInstruction_merge, PBF_VmOpMerge_del_if_src_empty);
    else
        cr_assert(accept(t, "none"), "\"%s\" is no instruction", peek(t));
}

static void put_list(struct bytesbuf *out, struct text *t, uint32_t field)
{
    while (*peek(t) != '\0' && strcmp(t->word, "}") != 0) {
        size_t m = bytesbuf_pb_begin(out, field);
        put_op(out, t);
        uint32_t level = accept(t, "?") ? 1 : accept(t, "~") ? 2 : accept(t, "!") ? 3 : 0;
        if (level != 0)
            bytesbuf_pb_varint(out, PBF_VmInstruction_abort_level, level);
        if (accept(t, "{")) {
            put_list(out, t, PBF_VmInstruction_nested_instructions);
            cr_assert(accept(t, "}"), "a brace is missing");
        }
        bytesbuf_pb_end(out, m);
    }
}

void vmasm_program(struct bytesbuf *out, const char *text)
{
    struct text t = {.at = text};
    put_list(out, &t, PBF_VmProgram_instructions);
    cr_assert_eq(*peek(&t), '\0', "a brace too many");
}

/* ---- messages ---- */

static void put_fields(struct bytesbuf *out, struct text *t)
{
    while (*peek(t) != '\0' && strcmp(t->word, "}") != 0) {
        char *p;
        const char *word = take(t);
        uint32_t field = (uint32_t)strtoul(word, &p, 10);
        uint64_t value = strtoull(p + 1, NULL, 0);
        if (*p == '=') {
            bytesbuf_pb_varint(out, field, value);
        } else if (*p == 'f') {
            bytesbuf_pb_fixed32(out, field, (uint32_t)value);
        } else if (*p == 'd') {
            bytesbuf_pb_fixed64(out, field, value);
        } else if (*p == '\'') {
            bytesbuf_pb_bytes(out, field, p + 1, strcspn(p + 1, "'"));
        } else {
            cr_assert_eq(*p, '{', "\"%s\" is no field", word);
            size_t m = bytesbuf_pb_begin(out, field);
            put_fields(out, t);
            cr_assert(accept(t, "}"), "a brace is missing");
            bytesbuf_pb_end(out, m);
        }
    }
}

void vmasm_message(struct bytesbuf *out, const char *text)
{
    struct text t = {.at = text};
    put_fields(out, &t);
}

bool vmasm_same(struct bytes_view a, struct bytes_view b)
{
    struct bytes_cur x = bytes_cur(a), y = bytes_cur(b);
    struct bytes_field f, g;
    if (bytes_equal(a, b))
        return true;
    for (;;) {
        bool more = bytes_next(&x, &f);
        if (more != bytes_next(&y, &g))
            return false;
        if (!more)
            return bytes_done(&x) && bytes_done(&y);
        if (f.id != g.id || f.type != g.type || f.num != g.num || !vmasm_same(f.data, g.data))
            return false;
    }
}
