/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scalars of text configs: numbers, words and strings become wire values.
 *
 * Everything that upstream accepts is accepted with the same value, with one exception that is
 * reported: a leading 0 means octal, as in standard text-proto, where upstream reads decimal
 * (R1122). Beyond upstream: hex, exponents, suffix f, inf and nan, enum numbers, other spellings of
 * bools, \x \u \U and short octal escapes. Where upstream cuts a value silently (out of range,
 * fraction in an integer) an error is reported instead (R1124).
 */
#include "cli/pbscalar.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "reactor/str.h"

#define SHOWN 96 /* buffer for the part of a value that messages repeat */

const char *pbscalar_type_name(const upb_FieldDef *f)
{
    static const char *const names[] = {
        [kUpb_FieldType_Double] = "double",     [kUpb_FieldType_Float] = "float",
        [kUpb_FieldType_Int64] = "int64",       [kUpb_FieldType_UInt64] = "uint64",
        [kUpb_FieldType_Int32] = "int32",       [kUpb_FieldType_Fixed64] = "fixed64",
        [kUpb_FieldType_Fixed32] = "fixed32",   [kUpb_FieldType_Bool] = "bool",
        [kUpb_FieldType_String] = "string",     [kUpb_FieldType_Group] = "group",
        [kUpb_FieldType_Message] = "message",   [kUpb_FieldType_Bytes] = "bytes",
        [kUpb_FieldType_UInt32] = "uint32",     [kUpb_FieldType_Enum] = "enum",
        [kUpb_FieldType_SFixed32] = "sfixed32", [kUpb_FieldType_SFixed64] = "sfixed64",
        [kUpb_FieldType_SInt32] = "sint32",     [kUpb_FieldType_SInt64] = "sint64",
    };
    return names[upb_FieldDef_Type(f)];
}

static const char *message_of(const upb_FieldDef *f)
{
    return upb_MessageDef_Name(upb_FieldDef_ContainingType(f));
}

void pbscalar_mismatch(const upb_FieldDef *f, const char *text, size_t len, struct pbdiag *d)
{
    char shown[SHOWN];
    const char *remark = "";

    str_escape(shown, sizeof(shown), text, len);
    if (upb_FieldDef_IsString(f))
        remark = "; a string stands in quotes";
    else if (upb_FieldDef_IsSubMessage(f))
        remark = "; a message stands in { }";
    pbdiag_error(d, text, len,
                 "Expected value of type %s for field %s in proto %s instead saw '%s'%s",
                 pbscalar_type_name(f), upb_FieldDef_Name(f), message_of(f), shown, remark);
}

/* ---- integers ---- */

struct integer {
    bool negative;
    uint64_t magnitude;
};

enum scan { SCAN_OK, SCAN_MALFORMED, SCAN_TOO_BIG };

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

static enum scan scan_integer(const char *p, size_t len, struct integer *out, bool *octal)
{
    const char *end = p + len;
    unsigned base = 10;
    bool big = false;

    out->negative = false;
    out->magnitude = 0;
    *octal = false;
    if (p < end && *p == '-') {
        out->negative = true;
        for (p++; p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r')); p++)
            ;
    }
    if (end - p > 2 && p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
    } else if (end - p > 1 && p[0] == '0') {
        *octal = true;
        for (const char *q = p; q < end; q++)
            *octal = *octal && *q >= '0' && *q <= '7';
        base = *octal ? 8 : 10;
    }
    if (p == end)
        return SCAN_MALFORMED;
    for (; p < end; p++) {
        unsigned v = (unsigned)digit_value(*p);
        if (v >= base)
            return SCAN_MALFORMED;
        if (out->magnitude > (UINT64_MAX - v) / base)
            big = true;
        out->magnitude = out->magnitude * base + v;
    }
    return big ? SCAN_TOO_BIG : SCAN_OK;
}

/* The largest and the lowest value of an integer type; all types take negative numbers and wrap
 * them (R1123), so the lowest value of an unsigned type is that of its signed sister. */
static void limits_of(upb_FieldType type, uint64_t *max, uint64_t *min_magnitude)
{
    switch (type) {
    case kUpb_FieldType_UInt32:
    case kUpb_FieldType_Fixed32:
        *max = UINT32_MAX;
        *min_magnitude = (uint64_t)1 << 31;
        break;
    case kUpb_FieldType_Int32:
    case kUpb_FieldType_SInt32:
    case kUpb_FieldType_SFixed32:
    case kUpb_FieldType_Enum:
        *max = INT32_MAX;
        *min_magnitude = (uint64_t)1 << 31;
        break;
    case kUpb_FieldType_UInt64:
    case kUpb_FieldType_Fixed64:
        *max = UINT64_MAX;
        *min_magnitude = (uint64_t)1 << 63;
        break;
    default:
        *max = INT64_MAX;
        *min_magnitude = (uint64_t)1 << 63;
        break;
    }
}

static void put_integer(const upb_FieldDef *f, uint64_t v, struct bytesbuf *out)
{
    uint32_t id = upb_FieldDef_Number(f);

    switch (upb_FieldDef_Type(f)) {
    case kUpb_FieldType_Fixed32:
    case kUpb_FieldType_SFixed32:
        bytesbuf_pb_fixed32(out, id, (uint32_t)v);
        break;
    case kUpb_FieldType_Fixed64:
    case kUpb_FieldType_SFixed64:
        bytesbuf_pb_fixed64(out, id, v);
        break;
    case kUpb_FieldType_UInt32:
        bytesbuf_pb_varint(out, id, (uint32_t)v);
        break;
    case kUpb_FieldType_SInt32:
    case kUpb_FieldType_SInt64:
        bytesbuf_pb_varint(out, id, v << 1 ^ (v >> 63 ? UINT64_MAX : 0)); /* zigzag */
        break;
    default:
        bytesbuf_pb_varint(out, id, v);
        break;
    }
}

static bool get_integer(const upb_FieldDef *f, const char *text, size_t len, struct pbdiag *d,
                        uint64_t *out)
{
    struct integer n;
    uint64_t max, min;
    bool octal;
    enum scan r = scan_integer(text, len, &n, &octal);
    upb_FieldType type = upb_FieldDef_Type(f);

    if (r == SCAN_MALFORMED) {
        pbscalar_mismatch(f, text, len, d);
        return false;
    }
    limits_of(type, &max, &min);
    if (r == SCAN_TOO_BIG || n.magnitude > (n.negative ? min : max)) {
        pbdiag_error(d, text, len,
                     "Value is out of range for field %s in proto %s: %s holds %s%llu to %llu",
                     upb_FieldDef_Name(f), message_of(f), pbscalar_type_name(f),
                     max == UINT32_MAX || max == UINT64_MAX ? "" : "-",
                     (unsigned long long)(max == UINT32_MAX || max == UINT64_MAX ? 0 : min),
                     (unsigned long long)max);
        return false;
    }
    if (octal && n.magnitude != 0)
        pbdiag_warning(d, text, len, "a leading 0 makes this octal: %llu",
                       (unsigned long long)n.magnitude);
    if (n.negative && n.magnitude != 0 &&
        (type == kUpb_FieldType_UInt32 || type == kUpb_FieldType_UInt64))
        pbdiag_warning(d, text, len, "%s has no negative numbers: this wraps around",
                       pbscalar_type_name(f));
    *out = n.negative ? 0 - n.magnitude : n.magnitude;
    return true;
}

/* ---- the other kinds ---- */

static void put_enum(const upb_FieldDef *f, enum pbtext_kind kind, const char *text, size_t len,
                     bool lossy, struct pbdiag *d, struct bytesbuf *out)
{
    const upb_EnumDef *e = upb_FieldDef_EnumSubDef(f);
    const upb_EnumValueDef *v;
    struct pbdiag_near near;
    char shown[SHOWN];
    uint64_t n;

    if (kind == PBTEXT_NUMBER || *text == '-') {
        if (!get_integer(f, text, len, d, &n))
            return;
        v = upb_EnumDef_FindValueByNumber(e, (int32_t)n);
    } else {
        v = upb_EnumDef_FindValueByNameWithSize(e, text, len);
    }
    if (v != NULL) {
        bytesbuf_pb_varint(out, upb_FieldDef_Number(f),
                           (uint64_t)(int64_t)upb_EnumValueDef_Number(v));
        return;
    }
    if (lossy)
        return;
    pbdiag_near_init(&near, text, len);
    for (int i = 0; i < upb_EnumDef_ValueCount(e); i++)
        pbdiag_near_try(&near, upb_EnumValueDef_Name(upb_EnumDef_Value(e, i)));
    str_escape(shown, sizeof(shown), text, len);
    pbdiag_error(d, text, len, "Unexpected value '%s' for enum field %s in proto %s; %s %s", shown,
                 upb_FieldDef_Name(f), message_of(f),
                 near.best ? "did you mean" : "it has values such as",
                 near.best ? near.best : upb_EnumValueDef_Name(upb_EnumDef_Value(e, 0)));
}

static bool is_word(const char *text, size_t len, const char *word)
{
    return strlen(word) == len && memcmp(text, word, len) == 0;
}

static void put_bool(const upb_FieldDef *f, enum pbtext_kind kind, const char *text, size_t len,
                     struct pbdiag *d, struct bytesbuf *out)
{
    char shown[SHOWN];
    bool yes, no;

    yes = is_word(text, len, "true") || is_word(text, len, "True") || is_word(text, len, "t") ||
          is_word(text, len, "1");
    no = is_word(text, len, "false") || is_word(text, len, "False") || is_word(text, len, "f") ||
         is_word(text, len, "0");
    if (yes || no) {
        bytesbuf_pb_varint(out, upb_FieldDef_Number(f), yes);
    } else if (kind == PBTEXT_NUMBER) {
        pbscalar_mismatch(f, text, len, d);
    } else {
        str_escape(shown, sizeof(shown), text, len);
        pbdiag_error(d, text, len,
                     "Expected 'true' or 'false' for boolean field %s in proto %s instead saw '%s'",
                     upb_FieldDef_Name(f), message_of(f), shown);
    }
}

/* strtod would also take hex floats and "nan(...)" and depends on the locale's decimal point; the
 * program never calls setlocale, so that is the dot. */
static bool scan_double(const char *text, size_t len, double *out)
{
    char copy[64], *p = copy, *end;
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (text[i] == ' ' || (text[i] >= '\t' && text[i] <= '\r'))
            continue;
        if (n + 1 == sizeof(copy))
            return false;
        copy[n++] = text[i];
    }
    copy[n] = '\0';
    if (*p == '-')
        p++;
    if (strcasecmp(p, "inf") == 0 || strcasecmp(p, "infinity") == 0) {
        *out = p == copy ? (double)INFINITY : -(double)INFINITY;
        return true;
    }
    if (strcasecmp(p, "nan") == 0) {
        *out = (double)NAN;
        return true;
    }
    if (strspn(p, "0123456789.eE+-fF") != strlen(p) || strpbrk(p, "0123456789") == NULL)
        return false;
    if (n > 1 && (copy[n - 1] == 'f' || copy[n - 1] == 'F'))
        copy[n - 1] = '\0';
    *out = strtod(copy, &end);
    return *end == '\0';
}

static void put_float(const upb_FieldDef *f, const char *text, size_t len, struct pbdiag *d,
                      struct bytesbuf *out)
{
    double v;
    float v32;
    uint64_t bits;
    uint32_t bits32;

    if (!scan_double(text, len, &v)) {
        pbscalar_mismatch(f, text, len, d);
        return;
    }
    if (upb_FieldDef_Type(f) == kUpb_FieldType_Double) {
        memcpy(&bits, &v, sizeof(bits));
        bytesbuf_pb_fixed64(out, upb_FieldDef_Number(f), bits);
    } else {
        v32 = (float)v;
        memcpy(&bits32, &v32, sizeof(bits32));
        bytesbuf_pb_fixed32(out, upb_FieldDef_Number(f), bits32);
    }
}

void pbscalar_word(const upb_FieldDef *f, enum pbtext_kind kind, const char *text, size_t len,
                   bool lossy, struct pbdiag *d, struct bytesbuf *out)
{
    uint64_t v;

    switch (upb_FieldDef_Type(f)) {
    case kUpb_FieldType_Bool:
        put_bool(f, kind, text, len, d, out);
        break;
    case kUpb_FieldType_Enum:
        put_enum(f, kind, text, len, lossy, d, out);
        break;
    case kUpb_FieldType_Double:
    case kUpb_FieldType_Float:
        put_float(f, text, len, d, out);
        break;
    case kUpb_FieldType_String:
    case kUpb_FieldType_Bytes:
    case kUpb_FieldType_Message:
    case kUpb_FieldType_Group:
        pbscalar_mismatch(f, text, len, d);
        break;
    default:
        if (kind == PBTEXT_IDENT)
            pbscalar_mismatch(f, text, len, d);
        else if (get_integer(f, text, len, d, &v))
            put_integer(f, v, out);
        break;
    }
}

/* ---- strings ---- */

static void put_utf8(struct bytesbuf *b, uint32_t c)
{
    if (c < 0x80) {
        bytesbuf_put_u8(b, (uint8_t)c);
        return;
    }
    if (c < 0x800) {
        bytesbuf_put_u8(b, (uint8_t)(0xc0 | c >> 6));
    } else {
        if (c < 0x10000) {
            bytesbuf_put_u8(b, (uint8_t)(0xe0 | c >> 12));
        } else {
            bytesbuf_put_u8(b, (uint8_t)(0xf0 | c >> 18));
            bytesbuf_put_u8(b, (uint8_t)(0x80 | (c >> 12 & 0x3f)));
        }
        bytesbuf_put_u8(b, (uint8_t)(0x80 | (c >> 6 & 0x3f)));
    }
    bytesbuf_put_u8(b, (uint8_t)(0x80 | (c & 0x3f)));
}

/* Reads at most `max` digits of a base; returns how many there were. */
static size_t scan_digits(const char *p, const char *end, size_t max, unsigned base, uint32_t *v)
{
    size_t n = 0;

    for (*v = 0; n < max && p + n < end && (unsigned)digit_value(p[n]) < base; n++)
        *v = *v * base + (uint32_t)digit_value(p[n]);
    return n;
}

/* One escape; p points behind the backslash. Returns the number of bytes it takes there, 0 if it is
 * none, with *malformed telling a broken number from an unknown letter. */
static size_t unescape(const char *p, const char *end, struct bytesbuf *b, bool *malformed)
{
    static const char letters[] = "abfnrtv\\'\"?", values[] = "\a\b\f\n\r\t\v\\'\"?";
    const char *at;
    uint32_t v;
    size_t n, want;

    *malformed = false;
    if (p == end || *p == '\0')
        return 0;
    if ((at = strchr(letters, *p)) != NULL) {
        bytesbuf_put_u8(b, (uint8_t)values[at - letters]);
        return 1;
    }
    *malformed = (*p >= '0' && *p <= '9') || *p == 'x' || *p == 'u' || *p == 'U';
    if (*p >= '0' && *p <= '7') {
        n = scan_digits(p, end, 3, 8, &v);
        if (v > 0xff)
            return 0;
        bytesbuf_put_u8(b, (uint8_t)v);
        return n;
    }
    if (*p == 'x' || *p == 'X') {
        n = scan_digits(p + 1, end, 2, 16, &v);
        if (n == 0)
            return 0;
        bytesbuf_put_u8(b, (uint8_t)v);
        return n + 1;
    }
    if (*p == 'u' || *p == 'U') {
        want = *p == 'u' ? 4 : 8;
        n = scan_digits(p + 1, end, want, 16, &v);
        if (n != want || v > 0x10ffff || (v >= 0xd800 && v < 0xe000))
            return 0;
        put_utf8(b, v);
        return n + 1;
    }
    return 0;
}

bool pbscalar_unquote(const upb_FieldDef *f, const struct pbtext_token *t, struct pbdiag *d,
                      struct bytesbuf *value)
{
    const char *p = t->start + 1, *end = t->start + t->len - (t->open ? 0 : 1), *back;
    bool malformed, ok = true;
    char shown[SHOWN];
    size_t n;

    while (p < end) {
        back = memchr(p, '\\', (size_t)(end - p));
        if (back == NULL)
            back = end;
        bytesbuf_put(value, p, (size_t)(back - p));
        if (back == end)
            break;
        n = unescape(back + 1, end, value, &malformed);
        p = back + 1 + n;
        if (n > 0)
            continue;
        ok = false;
        if (p < end)
            p++;
        str_escape(shown, sizeof(shown), back + 1, (size_t)(p - back - 1));
        if (malformed)
            pbdiag_error(d, back, (size_t)(p - back),
                         "Malformed string escape in %s in proto %s: '\\%s'; octal has up to three "
                         "digits up to \\377, \\x two hex digits, \\u four, \\U eight",
                         upb_FieldDef_Name(f), message_of(f), shown);
        else
            pbdiag_error(d, back, (size_t)(p - back),
                         "Unknown string escape in %s in proto %s: '\\%s'; a backslash itself is "
                         "written \\\\",
                         upb_FieldDef_Name(f), message_of(f), shown);
    }
    return ok;
}
