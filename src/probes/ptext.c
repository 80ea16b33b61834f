/* ptext: the one tokenizer for every kernel text file that the probes read.
 *
 * It owns nothing. Its invariant is that t.p only moves forward and never beyond t.end, so a caller
 * can loop on any of the takers without a bound of its own. Kernel text is not trusted to be well
 * formed: a vanished or truncated file simply gives fewer lines or words. */
#include "probes/ptext.h"

#include <string.h>

bool ptext_cut(struct ptext *t, char sep, struct ptext *part)
{
    if (t->p >= t->end)
        return false;
    const char *q = memchr(t->p, sep, ptext_len(*t));
    *part = (struct ptext){t->p, q ? q : t->end};
    t->p = q ? q + 1 : t->end;
    return true;
}

bool ptext_line(struct ptext *t, struct ptext *line)
{
    return ptext_cut(t, '\n', line);
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool white(char c)
{
    return blank(c) || c == '\n' || c == '\r' || c == '\v' || c == '\f' || c == '\0';
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

bool ptext_word(struct ptext *t, struct ptext *word)
{
    const char *p = t->p;
    while (p < t->end && blank(*p))
        p++;
    const char *q = p;
    while (q < t->end && !blank(*q))
        q++;
    t->p = q;
    if (p == q)
        return false;
    *word = (struct ptext){p, q};
    return true;
}

bool ptext_skip_words(struct ptext *t, unsigned n)
{
    struct ptext w;
    while (n--)
        if (!ptext_word(t, &w))
            return false;
    return true;
}

struct ptext ptext_trim(struct ptext t)
{
    while (t.p < t.end && white(*t.p))
        t.p++;
    while (t.p < t.end && white(t.end[-1]))
        t.end--;
    return t;
}

bool ptext_eq(struct ptext t, const char *s)
{
    size_t n = strlen(s);
    return ptext_len(t) == n && memcmp(t.p, s, n) == 0;
}

bool ptext_starts(struct ptext t, const char *prefix)
{
    size_t n = strlen(prefix);
    return ptext_len(t) >= n && memcmp(t.p, prefix, n) == 0;
}

bool ptext_ends(struct ptext t, const char *suffix)
{
    size_t n = strlen(suffix);
    return ptext_len(t) >= n && memcmp(t.end - n, suffix, n) == 0;
}

const char *ptext_find(struct ptext t, const char *needle)
{
    return memmem(t.p, ptext_len(t), needle, strlen(needle));
}

bool ptext_u64(struct ptext t, uint64_t *v)
{
    while (t.p < t.end && blank(*t.p))
        t.p++;
    if (t.p >= t.end || !digit(*t.p))
        return false;
    uint64_t n = 0;
    for (; t.p < t.end && digit(*t.p); t.p++)
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (unsigned)(*t.p - '0'), &n))
            n = UINT64_MAX;
    *v = n;
    return true;
}

bool ptext_i64(struct ptext t, int64_t *v)
{
    while (t.p < t.end && blank(*t.p))
        t.p++;
    bool neg = t.p < t.end && *t.p == '-';
    if (neg)
        t.p++;
    uint64_t n;
    if (t.p >= t.end || !digit(*t.p) || !ptext_u64(t, &n))
        return false;
    if (neg)
        *v = n >= (uint64_t)INT64_MAX + 1 ? INT64_MIN : -(int64_t)n;
    else
        *v = n > INT64_MAX ? INT64_MAX : (int64_t)n;
    return true;
}

static int hexval(char c)
{
    if (digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool ptext_hex(struct ptext t, uint64_t *v)
{
    if (ptext_len(t) >= 2 && t.p[0] == '0' && (t.p[1] == 'x' || t.p[1] == 'X'))
        t.p += 2;
    uint64_t n = 0;
    unsigned digits = 0;
    for (int h; t.p < t.end && (h = hexval(*t.p)) >= 0; t.p++, digits++)
        n = n << 4 | (unsigned)h;
    if (digits == 0 || digits > 16)
        return false;
    *v = n;
    return true;
}

bool ptext_all_digits(struct ptext t)
{
    if (t.p >= t.end)
        return false;
    for (; t.p < t.end; t.p++)
        if (!digit(*t.p))
            return false;
    return true;
}

size_t ptext_copy(struct ptext t, char *dst, size_t cap)
{
    size_t n = ptext_len(t);
    if (n >= cap)
        n = cap - 1;
    memcpy(dst, t.p, n);
    dst[n] = '\0';
    return n;
}
