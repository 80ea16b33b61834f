/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of fields.
 *
 * The wire says how many bytes, the schema says what they mean; where both disagree there is no
 * value, and the caller shows the field as unknown. Pure functions: nothing is owned or kept.
 */
#include "cli/pbvalue.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/str.h"

const upb_FieldDef *pbvalue_find(const upb_MessageDef *m, uint32_t number)
{
    const upb_FieldDef *d = upb_MessageDef_FindFieldByNumber(m, number);
    const upb_FileDef *file;

    if (d != NULL || upb_MessageDef_ExtensionRangeCount(m) == 0)
        return d;
    file = upb_MessageDef_File(m);
    return upb_DefPool_FindExtensionByNumber(upb_FileDef_Pool(file), m, (int32_t)number);
}

/* The wire type that a scalar field has on its own; -1 for messages and groups. */
static int wire_of(upb_FieldType t)
{
    switch (t) {
    case kUpb_FieldType_Double:
    case kUpb_FieldType_Fixed64:
    case kUpb_FieldType_SFixed64:
        return BYTES_FIXED64;
    case kUpb_FieldType_Float:
    case kUpb_FieldType_Fixed32:
    case kUpb_FieldType_SFixed32:
        return BYTES_FIXED32;
    case kUpb_FieldType_String:
    case kUpb_FieldType_Bytes:
        return BYTES_LEN;
    case kUpb_FieldType_Message:
    case kUpb_FieldType_Group:
        return -1;
    default:
        return BYTES_VARINT;
    }
}

static int64_t unzigzag(uint64_t v)
{
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

static void interpret(upb_FieldType t, uint64_t num, struct pbvalue *out)
{
    uint32_t low = (uint32_t)num;
    float f;

    out->wide = t == kUpb_FieldType_Int64 || t == kUpb_FieldType_UInt64 ||
                t == kUpb_FieldType_SInt64 || t == kUpb_FieldType_Fixed64 ||
                t == kUpb_FieldType_SFixed64;
    out->kind = PBVALUE_SIGNED;
    switch (t) {
    case kUpb_FieldType_Bool:
        out->kind = PBVALUE_BOOL;
        out->u = num != 0;
        break;
    case kUpb_FieldType_Enum:
        out->kind = PBVALUE_ENUM;
        out->i = (int32_t)low;
        break;
    case kUpb_FieldType_Int32:
    case kUpb_FieldType_SFixed32:
        out->i = (int32_t)low;
        break;
    case kUpb_FieldType_SInt32:
    case kUpb_FieldType_SInt64:
        out->i = unzigzag(num);
        break;
    case kUpb_FieldType_Int64:
    case kUpb_FieldType_SFixed64:
        out->i = (int64_t)num;
        break;
    case kUpb_FieldType_Double:
        out->kind = PBVALUE_FLOATING;
        memcpy(&out->d, &num, sizeof(out->d));
        break;
    case kUpb_FieldType_Float:
        out->kind = PBVALUE_FLOATING;
        memcpy(&f, &low, sizeof(f));
        out->d = (double)f;
        out->u = 1; /* single precision: fewer digits tell it apart */
        break;
    default:
        out->kind = PBVALUE_UNSIGNED;
        out->u = out->wide ? num : low;
        break;
    }
}

bool pbvalue_get(const upb_FieldDef *d, const struct bytes_field *x, struct pbvalue *out)
{
    int wire = wire_of(upb_FieldDef_Type(d));

    if (wire < 0 || wire != x->type)
        return false;
    memset(out, 0, sizeof(*out));
    if (wire == BYTES_LEN) {
        out->kind = PBVALUE_BYTES;
        out->bytes = x->data;
    } else {
        interpret(upb_FieldDef_Type(d), x->num, out);
    }
    return true;
}

bool pbvalue_is_packed(const upb_FieldDef *d, const struct bytes_field *x)
{
    int wire = wire_of(upb_FieldDef_Type(d));

    return x->type == BYTES_LEN && upb_FieldDef_IsRepeated(d) && wire >= 0 && wire != BYTES_LEN;
}

bool pbvalue_next_packed(const upb_FieldDef *d, struct bytes_cur *cur, struct pbvalue *out)
{
    uint64_t num = 0;
    uint32_t low = 0;
    bool ok;

    switch (wire_of(upb_FieldDef_Type(d))) {
    case BYTES_FIXED64:
        ok = bytes_get_u64(cur, &num);
        break;
    case BYTES_FIXED32:
        ok = bytes_get_u32(cur, &low);
        num = low;
        break;
    default:
        ok = bytes_get_varint(cur, &num);
        break;
    }
    if (!ok)
        return false;
    memset(out, 0, sizeof(*out));
    interpret(upb_FieldDef_Type(d), num, out);
    return true;
}

const char *pbvalue_double(const struct pbvalue *v, char *buf, size_t size)
{
    int from = v->u ? 6 : 15, to = v->u ? 9 : 17;

    if (isnan(v->d))
        return "nan";
    if (isinf(v->d))
        return v->d < 0 ? "-inf" : "inf";
    for (int digits = from; digits <= to; digits++) {
        double back;
        (void)snprintf(buf, size, "%.*g", digits, v->d);
        back = strtod(buf, NULL);
        if (v->u ? (float)back == (float)v->d : back == v->d)
            break;
    }
    return buf;
}

bool pbvalue_is_utf8(struct bytes_view v)
{
    for (size_t at = 0, n; at < v.n; at += n) {
        n = str_utf8_len((const char *)v.p + at, v.n - at);
        if (n == 0)
            return false;
    }
    return true;
}
