/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text form of binary messages.
 *
 * The printer walks the wire format with the schema beside it and prints as it goes: nothing is
 * decoded into objects, so a trace of any size can be printed packet by packet. It shows what is
 * there: fields in their order, unknown enum values as numbers, packed lists one by one. Unknown
 * fields, and those whose wire type does not fit the schema, are comments.
 *
 * Input is whatever a file holds: recursion is bounded by PBPRINT_DEPTH, strings are escaped.
 */
#include "cli/pbprint.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/pbvalue.h"
#include "protos/descset.h"

static void indent(FILE *f, int level)
{
    for (int i = 0; i < level; i++)
        fputs("  ", f);
}

/* "name: ", or "[full.name]: " for an extension. */
static void put_name(FILE *f, const upb_FieldDef *d)
{
    if (upb_FieldDef_IsExtension(d))
        fprintf(f, "[%s]", upb_FieldDef_FullName(d));
    else
        fputs(upb_FieldDef_Name(d), f);
}

static void put_string(FILE *f, struct bytes_view v, bool utf8)
{
    fputc('"', f);
    for (size_t i = 0; i < v.n; i++) {
        uint8_t c = v.p[i];
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", f);
        else if (c == '\t')
            fputs("\\t", f);
        else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
            fprintf(f, "\\%03o", c);
        else
            fputc(c, f);
    }
    fputc('"', f);
}

static void put_enum(FILE *f, const upb_FieldDef *d, int64_t n)
{
    const upb_EnumValueDef *v =
        upb_EnumDef_FindValueByNumber(upb_FieldDef_EnumSubDef(d), (int32_t)n);

    if (v != NULL)
        fputs(upb_EnumValueDef_Name(v), f);
    else
        fprintf(f, "%" PRId64, n);
}

static void put_scalar(FILE *f, const upb_FieldDef *d, const struct pbvalue *v)
{
    char text[40];

    switch (v->kind) {
    case PBVALUE_BOOL:
        fputs(v->u ? "true" : "false", f);
        break;
    case PBVALUE_ENUM:
        put_enum(f, d, v->i);
        break;
    case PBVALUE_SIGNED:
        fprintf(f, "%" PRId64, v->i);
        break;
    case PBVALUE_UNSIGNED:
        fprintf(f, "%" PRIu64, v->u);
        break;
    case PBVALUE_FLOATING:
        fputs(pbvalue_double(v, text, sizeof(text)), f);
        break;
    default:
        put_string(f, v->bytes,
                   upb_FieldDef_Type(d) == kUpb_FieldType_String && pbvalue_is_utf8(v->bytes));
        break;
    }
}

static void put_unknown(FILE *f, const struct bytes_field *x, int level)
{
    struct bytes_view shown = bytes_view(x->data.p, x->data.n < 80 ? x->data.n : 80);

    indent(f, level);
    fprintf(f, "# field %" PRIu32 ", not in the schema: ", x->id);
    if (x->type == BYTES_LEN) {
        put_string(f, shown, false);
        fprintf(f, "%s (%zu bytes)\n", x->data.n > shown.n ? "..." : "", x->data.n);
    } else if (x->type == BYTES_GROUP) {
        fprintf(f, "a group of %zu bytes\n", x->data.n);
    } else {
        fprintf(f, "%" PRIu64 "\n", x->num);
    }
}

static void put_scalar_line(FILE *f, const upb_FieldDef *d, const struct pbvalue *v, int level)
{
    indent(f, level);
    put_name(f, d);
    fputs(": ", f);
    put_scalar(f, d, v);
    fputc('\n', f);
}

static void put_field(FILE *f, const upb_FieldDef *d, const struct bytes_field *x, int level)
{
    struct bytes_cur packed;
    struct pbvalue v;

    if (upb_FieldDef_Type(d) == kUpb_FieldType_Message && x->type == BYTES_LEN) {
        indent(f, level);
        put_name(f, d);
        fputs(" {\n", f);
        pbprint_text(f, upb_FieldDef_MessageSubDef(d), x->data, level + 1);
        indent(f, level);
        fputs("}\n", f);
    } else if (pbvalue_get(d, x, &v)) {
        put_scalar_line(f, d, &v, level);
    } else if (pbvalue_is_packed(d, x)) {
        packed = bytes_cur(x->data);
        while (pbvalue_next_packed(d, &packed, &v))
            put_scalar_line(f, d, &v, level);
    } else {
        put_unknown(f, x, level);
    }
}

void pbprint_text(FILE *f, const upb_MessageDef *m, struct bytes_view msg, int level)
{
    struct bytes_cur cur = bytes_cur(msg);
    const upb_FieldDef *d;
    struct bytes_field x;

    if (level > PBPRINT_DEPTH) {
        indent(f, level);
        fputs("# nested too deeply to be shown\n", f);
        return;
    }
    while (bytes_next(&cur, &x)) {
        d = pbvalue_find(m, x.id);
        if (d != NULL)
            put_field(f, d, &x, level);
        else
            put_unknown(f, &x, level);
    }
    if (!bytes_done(&cur)) {
        indent(f, level);
        fprintf(f, "# %zu bytes that do not decode\n", bytes_left(&cur));
    }
}

bool pbprint_valid(const upb_MessageDef *m, struct bytes_view msg, int level)
{
    struct bytes_cur cur = bytes_cur(msg);
    const upb_FieldDef *d;
    struct bytes_field x;

    if (level > PBPRINT_DEPTH)
        return true;
    while (bytes_next(&cur, &x)) {
        d = pbvalue_find(m, x.id);
        if (d != NULL && x.type == BYTES_LEN && upb_FieldDef_Type(d) == kUpb_FieldType_Message &&
            !pbprint_valid(upb_FieldDef_MessageSubDef(d), x.data, level + 1))
            return false;
    }
    return bytes_done(&cur);
}

int pbprint_config(struct bytes_view config)
{
    upb_DefPool *pool = upb_DefPool_New();
    upb_Status status;
    int rc;

    upb_Status_Clear(&status);
    rc = pool ? descset_load(pool, "protos/config/trace_config.proto", &status) : -ENOMEM;
    if (rc == 0)
        pbprint_text(stdout, upb_DefPool_FindMessageByName(pool, "perfetto.protos.TraceConfig"),
                     config, 0);
    else
        fprintf(stderr, "perfetto: cannot load the schema: %s\n", strerror(-rc));
    if (pool != NULL)
        upb_DefPool_Free(pool);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
        fprintf(stderr, "perfetto: could not write to stdout (errno: %d, %s)\n", errno,
                strerror(errno));
        rc = -EIO;
    }
    return rc == 0 ? 0 : 1;
}
