/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lexer of text configs.
 *
 * It cuts the input into tokens and judges nothing: a malformed number or an
 * open string is still a token, so that the parser can point at it as a whole.
 * It never looks at the schema, never allocates and never reads past `end`;
 * the input is whatever a user typed, so any byte may occur.
 *
 * Blanks and comments ("#" to the end of the line) may stand between any two
 * tokens (R1101, R1102). A comment glued to a number is accepted too, which
 * upstream rejects (R1103).
 */
#include "cli/pbtext_lex.h"

static bool is_ident_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

void pbtext_lex_init(struct pbtext_lex *lx, const char *text, size_t len)
{
    lx->at = text;
    lx->end = text + len;
    lx->fresh_line = true;
}

static void skip_blanks(struct pbtext_lex *lx)
{
    while (lx->at < lx->end) {
        char c = *lx->at;
        if (c == '\n')
            lx->fresh_line = true;
        if (is_blank(c)) {
            lx->at++;
        } else if (c == '#') {
            while (lx->at < lx->end && *lx->at != '\n')
                lx->at++;
        } else {
            break;
        }
    }
}

/* Everything that looks like part of a number stays together, so that "12abc"
 * is reported as one bad number and not as a number and a stray word. */
static const char *scan_number(const char *p, const char *end)
{
    bool hex = end - p > 1 && p[0] == '0' && (p[1] == 'x' || p[1] == 'X');

    for (p++; p < end; p++) {
        if (is_digit(*p) || is_ident_start(*p) || *p == '.')
            continue;
        if ((*p == '+' || *p == '-') && !hex && (p[-1] == 'e' || p[-1] == 'E'))
            continue;
        break;
    }
    return p;
}

static const char *scan_string(const char *p, const char *end, bool *open)
{
    char quote = *p++;

    while (p < end && *p != quote) {
        if (*p == '\\' && end - p > 1)
            p++;
        p++;
    }
    *open = p >= end;
    return *open ? end : p + 1;
}

struct pbtext_token pbtext_lex_next(struct pbtext_lex *lx)
{
    struct pbtext_token t = {.kind = PBTEXT_END};
    const char *p;
    char c;

    skip_blanks(lx);
    t.first = lx->fresh_line;
    t.start = p = lx->at;
    lx->fresh_line = false;
    if (p == lx->end)
        return t;
    c = *p;
    if (is_ident_start(c)) {
        t.kind = PBTEXT_IDENT;
        while (p < lx->end && (is_ident_start(*p) || is_digit(*p)))
            p++;
    } else if (is_digit(c) || (c == '.' && lx->end - p > 1 && is_digit(p[1]))) {
        t.kind = PBTEXT_NUMBER;
        p = scan_number(p, lx->end);
    } else if (c == '"' || c == '\'') {
        t.kind = PBTEXT_STRING;
        p = scan_string(p, lx->end, &t.open);
    } else {
        t.kind = PBTEXT_PUNCT;
        p++;
    }
    t.len = (size_t)(p - t.start);
    lx->at = p;
    return t;
}

bool pbtext_lex_is(const struct pbtext_token *t, char c)
{
    return t->kind == PBTEXT_PUNCT && *t->start == c;
}
