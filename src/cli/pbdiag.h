/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_PBDIAG_H
#define CLI_PBDIAG_H

/* Messages about a text, as compilers give them: place, line, marker. And the nearest known name.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Where one source begins in the text that was joined from all of them. */
struct pbdiag_source {
    const char *name; /* borrow: as given to -c */
    size_t start;     /* offset of its first byte */
};

/* Embedded by value; owns nothing. */
struct pbdiag {
    const char *text; /* borrow */
    size_t len;
    const struct pbdiag_source *sources; /* borrow: at least one, ascending */
    size_t n_sources;
    FILE *out;          /* borrow */
    bool terminal;      /* `out` is one: control characters of the text are not passed on */
    unsigned errors;    /* reported so far, shown or not */
    unsigned warnings;  /* the same */
    unsigned shown_max; /* more errors than this are only counted */
};

#define PBDIAG_SHOWN 100

/* Reports an error at the `len` bytes at `at`, which points into the text or behind its last byte:
 *     FILE:LINE:COLUMN error: MESSAGE
 *     the source line
 *     blanks up to the column, then ^~~~
 * Lines and columns count from 1, columns in bytes (R1140..R1142). A length of 0 marks nothing but
 * the place. */
void pbdiag_error(struct pbdiag *d, const char *at, size_t len, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void pbdiag_warning(struct pbdiag *d, const char *at, size_t len, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Says how many errors were not shown, if any. */
void pbdiag_finish(struct pbdiag *d);

/* The line number of a place in the text, within its source. */
unsigned pbdiag_line(const struct pbdiag *d, const char *at);

/* Search of the known name that is nearest to a word: init, try every candidate, look at best. */
struct pbdiag_near {
    const char *word; /* borrow */
    size_t len;
    size_t limit;     /* distances above it are no likeness */
    const char *best; /* borrow: NULL if none is near */
    size_t best_distance;
};

void pbdiag_near_init(struct pbdiag_near *n, const char *word, size_t len);
void pbdiag_near_try(struct pbdiag_near *n, const char *candidate);

#endif
