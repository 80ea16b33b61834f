/* SPDX-License-Identifier: Apache-2.0 */
/*
 * str: string helpers that libc lacks. Owns nothing; pure functions, usable from any thread. The
 * number parsers are strict on purpose: what a person or a peer wrote is either a number as a
 * whole or an error, never "as far as it goes".
 */
#include "reactor/str.h"

#include "reactor/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool str_copy(char *dst, size_t size, const char *src)
{
    size_t n = strnlen(src, size);
    bool fits = n < size;
    if (!fits)
        n = size - 1;
    memcpy(dst, src, n);
    dst[n] = '\0';
    return fits;
}

bool str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s);
    size_t m = strlen(suffix);
    return m <= n && memcmp(s + n - m, suffix, m) == 0;
}

char *str_format(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return alloc_strdup("");
    size_t size = (size_t)n + 1;
    char *p = alloc_array(size, 1);
    va_start(ap, fmt);
    vsnprintf(p, size, fmt, ap);
    va_end(ap);
    return p;
}

static unsigned digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return (unsigned)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (unsigned)(c - 'a') + 10;
    if (c >= 'A' && c <= 'F')
        return (unsigned)(c - 'A') + 10;
    return 255;
}

bool str_to_u64_base(const char *s, unsigned base, uint64_t *out)
{
    uint64_t v = 0;
    if (*s == '\0')
        return false;
    for (; *s != '\0'; s++) {
        unsigned d = digit_value(*s);
        if (d >= base)
            return false;
        if (__builtin_mul_overflow(v, (uint64_t)base, &v))
            return false;
        if (__builtin_add_overflow(v, (uint64_t)d, &v))
            return false;
    }
    *out = v;
    return true;
}

bool str_to_u64(const char *s, uint64_t *out)
{
    return str_to_u64_base(s, 10, out);
}

bool str_to_i64(const char *s, int64_t *out)
{
    bool negative = *s == '-';
    uint64_t v = 0;
    if (!str_to_u64(negative ? s + 1 : s, &v))
        return false;
    uint64_t limit = (uint64_t)INT64_MAX + (negative ? 1 : 0);
    if (v > limit)
        return false;
    *out = negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

bool str_next(const char **it, char sep, const char **part, size_t *len)
{
    const char *s = *it;
    if (s == NULL)
        return false;
    const char *end = strchrnul(s, sep);
    *part = s;
    *len = (size_t)(end - s);
    *it = *end == '\0' ? NULL : end + 1;
    return true;
}

size_t str_utf8_len(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n == 0)
        return 0;
    if (u[0] < 0x80)
        return 1;
    size_t len = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
    if (u[0] < 0xC2 || u[0] > 0xF4 || n < len)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((u[i] & 0xC0) != 0x80)
            return 0;
    if ((u[0] == 0xE0 && u[1] < 0xA0) || (u[0] == 0xED && u[1] > 0x9F) ||
        (u[0] == 0xF0 && u[1] < 0x90) || (u[0] == 0xF4 && u[1] > 0x8F))
        return 0;
    return len;
}

/* One character of src (*used bytes) as it may appear in a line; returns its length in out. */
static size_t escape_one(char out[8], const char *src, size_t n, size_t *used)
{
    unsigned char c = (unsigned char)src[0];
    size_t len = str_utf8_len(src, n);
    bool c1 = len == 2 && c == 0xC2 && (unsigned char)src[1] < 0xA0;
    *used = 1;
    if (c == '\\' || c == '\n' || c == '\t' || c == '\r') {
        out[0] = '\\';
        out[1] = (char)(c == '\n' ? 'n' : c == '\t' ? 't' : c == '\r' ? 'r' : '\\');
        return 2;
    }
    if (len == 0 || c < 0x20 || c == 0x7F || c1) {
        static const char hex[] = "0123456789abcdef";
        out[0] = '\\';
        out[1] = 'x';
        out[2] = hex[c >> 4];
        out[3] = hex[c & 15];
        return 4;
    }
    memcpy(out, src, len);
    *used = len;
    return len;
}

size_t str_escape(char *dst, size_t size, const char *src, size_t n)
{
    static const char cut[] = "...";
    size_t w = 0;
    size_t safe = 0; /* longest prefix behind which "..." still fits */
    for (size_t i = 0, used = 0; i < n; i += used) {
        char one[8];
        size_t len = escape_one(one, src + i, n - i, &used);
        if (w + len >= size) {
            memcpy(dst + safe, cut, sizeof(cut));
            return safe + sizeof(cut) - 1;
        }
        memcpy(dst + w, one, len);
        w += len;
        if (w + sizeof(cut) <= size)
            safe = w;
    }
    dst[w] = '\0';
    return w;
}
