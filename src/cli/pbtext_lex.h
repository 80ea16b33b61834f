/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of the text form of protocol buffers; grammar: doc rules R1101..R1129. */
#ifndef CLI_PBTEXT_LEX_H
#define CLI_PBTEXT_LEX_H

#include <stdbool.h>
#include <stddef.h>

enum pbtext_kind {
    PBTEXT_END,    /* end of input; start points behind the last byte */
    PBTEXT_IDENT,  /* [A-Za-z_][A-Za-z0-9_]* */
    PBTEXT_NUMBER, /* starts with a digit or a dot and a digit; may be malformed ("12abc", "1.2.3")
                    */
    PBTEXT_STRING, /* with its quotes; `open` tells that the closing one is missing */
    PBTEXT_PUNCT   /* any other byte, one at a time */
};

struct pbtext_token {
    enum pbtext_kind kind;
    const char *start; /* borrow: into the input */
    size_t len;
    bool first; /* first token of its line: where a parser may pick up again after an error */
    bool open;  /* STRING only: input ended before the closing quote */
};

/* Embedded by value; borrows the input, owns nothing. */
struct pbtext_lex {
    const char *at, *end;
    bool fresh_line;
};

/* The input need not end with NUL and may hold any byte. */
void pbtext_lex_init(struct pbtext_lex *lx, const char *text, size_t len);

/* The next token. After the end it returns PBTEXT_END for ever. */
struct pbtext_token pbtext_lex_next(struct pbtext_lex *lx);

/* True if the token is this one byte of punctuation. */
bool pbtext_lex_is(const struct pbtext_token *t, char c);

#endif
