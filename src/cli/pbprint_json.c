/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON form of binary messages: the second half of cli/pbprint.
 *
 * JSON wants the elements of a repeated field together, and the last of a singular one. So each
 * message is cut into its fields first, which are kept on one stack that all levels of a packet
 * share, and then printed field by field.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/pbprint.h"
#include "cli/pbvalue.h"
#include "reactor/alloc.h"
#include "reactor/str.h"

struct entry {
    const upb_FieldDef *def; /* borrow; NULL once printed */
    struct bytes_field field;
};

/* Embedded in the outermost call. */
struct stack {
    struct entry *entries; /* own */
    size_t n, cap;
};

static void push(struct stack *s, const upb_FieldDef *d, const struct bytes_field *x)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 256;
        s->entries = alloc_resize(s->entries, s->cap, sizeof(*s->entries));
    }
    s->entries[s->n].def = d;
    s->entries[s->n++].field = *x;
}

static void put_quoted(FILE *f, const char *s, size_t n)
{
    fputc('"', f);
    for (size_t i = 0, len; i < n; i += len) {
        unsigned char c = (unsigned char)s[i];
        len = 1;
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", f);
        else if (c == '\t')
            fputs("\\t", f);
        else if (c < 0x20 || c == 0x7f)
            fprintf(f, "\\u%04x", c);
        else if (c < 0x80)
            fputc(c, f);
        else if ((len = str_utf8_len(s + i, n - i)) > 0)
            fwrite(s + i, 1, len, f);
        else {
            fputs("\xef\xbf\xbd", f); /* U+FFFD for a byte that is no text */
            len = 1;
        }
    }
    fputc('"', f);
}

static void put_base64(FILE *f, struct bytes_view v)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    fputc('"', f);
    for (size_t i = 0; i < v.n; i += 3) {
        size_t left = v.n - i;
        uint32_t b = (uint32_t)v.p[i] << 16;
        b |= left > 1 ? (uint32_t)v.p[i + 1] << 8 : 0;
        b |= left > 2 ? v.p[i + 2] : 0;
        fputc(digits[b >> 18], f);
        fputc(digits[b >> 12 & 63], f);
        fputc(left > 1 ? digits[b >> 6 & 63] : '=', f);
        fputc(left > 2 ? digits[b & 63] : '=', f);
    }
    fputc('"', f);
}

static void put_value(FILE *f, const upb_FieldDef *d, const struct pbvalue *v)
{
    const upb_EnumValueDef *e;
    const char *quote = v->wide ? "\"" : "";
    char text[40];

    switch (v->kind) {
    case PBVALUE_BOOL:
        fputs(v->u ? "true" : "false", f);
        break;
    case PBVALUE_ENUM:
        e = upb_EnumDef_FindValueByNumber(upb_FieldDef_EnumSubDef(d), (int32_t)v->i);
        if (e != NULL)
            fprintf(f, "\"%s\"", upb_EnumValueDef_Name(e));
        else
            fprintf(f, "%" PRId64, v->i);
        break;
    case PBVALUE_SIGNED:
        fprintf(f, "%s%" PRId64 "%s", quote, v->i, quote);
        break;
    case PBVALUE_UNSIGNED:
        fprintf(f, "%s%" PRIu64 "%s", quote, v->u, quote);
        break;
    case PBVALUE_FLOATING:
        if (isnan(v->d) || isinf(v->d))
            fputs(isnan(v->d) ? "\"NaN\"" : v->d < 0 ? "\"-Infinity\"" : "\"Infinity\"", f);
        else
            fputs(pbvalue_double(v, text, sizeof(text)), f);
        break;
    default:
        if (upb_FieldDef_Type(d) == kUpb_FieldType_Bytes)
            put_base64(f, v->bytes);
        else
            put_quoted(f, (const char *)v->bytes.p, v->bytes.n);
        break;
    }
}

static void put_message(FILE *f, const upb_MessageDef *m, struct bytes_view msg, struct stack *s,
                        int level);

/* One occurrence of a field: a value, a message, or a packed list. */
static void put_entry(FILE *f, const struct entry *e, struct stack *s, int level)
{
    const upb_FieldDef *d = e->def;
    struct bytes_field x = e->field; /* the stack may move */
    struct bytes_cur cur;
    struct pbvalue v;
    bool first = true;

    if (upb_FieldDef_Type(d) == kUpb_FieldType_Message) {
        put_message(f, upb_FieldDef_MessageSubDef(d), x.data, s, level + 1);
    } else if (pbvalue_get(d, &x, &v)) {
        put_value(f, d, &v);
    } else {
        cur = bytes_cur(x.data);
        for (; pbvalue_next_packed(d, &cur, &v); first = false) {
            if (!first)
                fputc(',', f);
            put_value(f, d, &v);
        }
        if (first)
            fputs("null", f);
    }
}

static void put_key(FILE *f, const upb_FieldDef *d, bool first)
{
    fprintf(f, "%s\"%s\":", first ? "" : ",",
            upb_FieldDef_IsExtension(d) ? upb_FieldDef_FullName(d) : upb_FieldDef_Name(d));
}

static bool fits(const upb_FieldDef *d, const struct bytes_field *x)
{
    struct pbvalue v;

    if (upb_FieldDef_Type(d) == kUpb_FieldType_Message)
        return x->type == BYTES_LEN;
    return pbvalue_get(d, x, &v) || (pbvalue_is_packed(d, x) && x->data.n > 0);
}

static void put_message(FILE *f, const upb_MessageDef *m, struct bytes_view msg, struct stack *s,
                        int level)
{
    struct bytes_cur cur = bytes_cur(msg);
    size_t base = s->n, end;
    struct bytes_field x;
    bool first = true;

    while (level <= PBPRINT_DEPTH && bytes_next(&cur, &x)) {
        const upb_FieldDef *d = pbvalue_find(m, x.id);
        if (d != NULL && fits(d, &x))
            push(s, d, &x);
    }
    end = s->n;
    fputc('{', f);
    for (size_t i = base; i < end; i++) {
        const upb_FieldDef *d = s->entries[i].def;
        size_t last = i;
        bool list;
        if (d == NULL)
            continue;
        list = upb_FieldDef_IsRepeated(d);
        put_key(f, d, first);
        first = false;
        if (list)
            fputc('[', f);
        for (size_t j = i; j < end; j++) {
            if (s->entries[j].def != d)
                continue;
            last = j;
            if (list) {
                if (j > i)
                    fputc(',', f);
                put_entry(f, &s->entries[j], s, level);
                s->entries[j].def = NULL;
            }
        }
        if (list) {
            fputc(']', f);
            continue;
        }
        put_entry(f, &s->entries[last], s, level); /* the last of a singular field counts */
        for (size_t j = i; j < end; j++) {
            if (s->entries[j].def == d)
                s->entries[j].def = NULL;
        }
    }
    fputc('}', f);
    s->n = base;
}

void pbprint_json(FILE *f, const upb_MessageDef *m, struct bytes_view msg)
{
    struct stack s = {0};

    put_message(f, m, msg, &s, 0);
    free(s.entries);
}
