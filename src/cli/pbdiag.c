/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Diagnostics of text configs.
 *
 * The parser hands over places as pointers into the text; this file turns them into file, line and
 * column, shows the line, and keeps count. It owns nothing and never changes the text. A hostile
 * text can make it print at most `shown_max` errors of bounded size, and on a terminal nothing but
 * printable characters.
 */
#include "cli/pbdiag.h"

#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#define LINE_SHOWN   240 /* longer source lines are shown in part */
#define NAME_MAX_LEN 64  /* names longer than this are not searched for their neighbours */

struct place {
    const char *file;
    unsigned line;
    size_t column;     /* from 0 */
    const char *start; /* of the line */
    size_t len;        /* of the line */
};

static struct place find_place(const struct pbdiag *d, const char *at)
{
    size_t off = (size_t)(at - d->text), i = 0, begin;
    struct place p = {.line = 1};
    const char *nl;

    while (i + 1 < d->n_sources && d->sources[i + 1].start <= off)
        i++;
    begin = d->sources[i].start;
    p.file = d->sources[i].name;
    p.start = d->text + begin;
    while ((nl = memchr(p.start, '\n', (size_t)(at - p.start))) != NULL) {
        p.line++;
        p.start = nl + 1;
    }
    p.column = (size_t)(at - p.start);
    nl = memchr(p.start, '\n', d->len - (size_t)(p.start - d->text));
    p.len = nl ? (size_t)(nl - p.start) : d->len - (size_t)(p.start - d->text);
    if (p.len > 0 && p.start[p.len - 1] == '\r')
        p.len--;
    return p;
}

unsigned pbdiag_line(const struct pbdiag *d, const char *at)
{
    return find_place(d, at).line;
}

static bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The line (or a window of it around the column) and the marker under it. */
static void show_line(const struct pbdiag *d, const struct place *p, size_t mark)
{
    size_t from = 0, to = p->len, i;

    if (p->len > LINE_SHOWN) {
        from = p->column > LINE_SHOWN / 2 ? p->column - LINE_SHOWN / 2 : 0;
        while (from > 0 && is_continuation(p->start[from]))
            from--;
        to = from + LINE_SHOWN < p->len ? from + LINE_SHOWN : p->len;
    }
    if (from > 0)
        fputs("...", d->out);
    for (i = from; i < to; i++) {
        char c = p->start[i];
        fputc(d->terminal && is_control(c) && c != '\t' ? '?' : c, d->out);
    }
    fputs(to < p->len ? "...\n" : "\n", d->out);
    if (from > 0)
        fputs("   ", d->out);
    for (i = from; i < p->column && i < to; i++) {
        if (!is_continuation(p->start[i]))
            fputc(p->start[i] == '\t' ? '\t' : ' ', d->out);
    }
    fputc('^', d->out);
    for (i = p->column + 1; i < p->column + mark && i < to; i++) {
        if (!is_continuation(p->start[i]))
            fputc('~', d->out);
    }
    fputc('\n', d->out);
}

static void report(struct pbdiag *d, const char *at, size_t len, const char *kind, const char *fmt,
                   va_list ap)
{
    struct place p = find_place(d, at);

    fprintf(d->out, "%s:%u:%zu %s: ", p.file, p.line, p.column + 1, kind);
    vfprintf(d->out, fmt, ap);
    fputc('\n', d->out);
    show_line(d, &p, len);
}

void pbdiag_error(struct pbdiag *d, const char *at, size_t len, const char *fmt, ...)
{
    va_list ap;

    if (d->errors++ >= d->shown_max)
        return;
    va_start(ap, fmt);
    report(d, at, len, "error", fmt, ap);
    va_end(ap);
}

void pbdiag_warning(struct pbdiag *d, const char *at, size_t len, const char *fmt, ...)
{
    va_list ap;

    if (d->warnings++ >= d->shown_max)
        return;
    va_start(ap, fmt);
    report(d, at, len, "warning", fmt, ap);
    va_end(ap);
}

void pbdiag_finish(struct pbdiag *d)
{
    if (d->errors > d->shown_max)
        fprintf(d->out, "and %u more errors\n", d->errors - d->shown_max);
}

void pbdiag_near_init(struct pbdiag_near *n, const char *word, size_t len)
{
    n->word = word;
    n->len = len;
    n->limit = len / 3 > 0 ? len / 3 : 1;
    n->best = NULL;
    n->best_distance = SIZE_MAX;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static size_t min2(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Number of single-letter insertions, deletions, replacements and swaps of neighbours that lead
 * from one name to the other; case does not count. */
static size_t distance(const char *a, size_t n, const char *b, size_t m)
{
    size_t row[3][NAME_MAX_LEN + 1];

    for (size_t j = 0; j <= m; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = row[i % 3], *up = row[(i - 1) % 3], *up2 = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            bool same = lower(a[i - 1]) == lower(b[j - 1]);
            now[j] = min2(min2(up[j], now[j - 1]) + 1, up[j - 1] + (same ? 0 : 1));
            if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
                lower(a[i - 2]) == lower(b[j - 1]))
                now[j] = min2(now[j], up2[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}

void pbdiag_near_try(struct pbdiag_near *n, const char *candidate)
{
    size_t len = strlen(candidate), dist;

    if (n->len > NAME_MAX_LEN || len > NAME_MAX_LEN)
        return;
    dist = distance(n->word, n->len, candidate, len);
    if (dist <= n->limit && dist < n->best_distance) {
        n->best = candidate;
        n->best_distance = dist;
    }
}
