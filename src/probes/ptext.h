/* ptext: a cursor over kernel text (procfs, sysfs, tracefs files). All functions are pure: they
 * read [p, end), never past it, and need no terminating NUL. */
#ifndef PROBES_PTEXT_H
#define PROBES_PTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ptext {
    const char *p;   /* borrow */
    const char *end; /* borrow */
};

static inline struct ptext ptext_of(const char *p, size_t len)
{
    return (struct ptext){p, p + len};
}

static inline size_t ptext_len(struct ptext t)
{
    return (size_t)(t.end - t.p);
}

/* Takes the next line (without its newline) off `t`. False at the end of the text. */
bool ptext_line(struct ptext *t, struct ptext *line);

/* Takes everything up to the byte `sep` off `t`; sep itself is dropped. False at the end. */
bool ptext_cut(struct ptext *t, char sep, struct ptext *part);

/* Takes the next word off `t`: words are separated by runs of spaces and tabs. False if none. */
bool ptext_word(struct ptext *t, struct ptext *word);

/* Drops `n` words. False if there were fewer. */
bool ptext_skip_words(struct ptext *t, unsigned n);

/* `t` without leading and trailing white space. */
struct ptext ptext_trim(struct ptext t);

bool ptext_eq(struct ptext t, const char *s);
bool ptext_starts(struct ptext t, const char *prefix);
bool ptext_ends(struct ptext t, const char *suffix);

/* First occurrence of `needle`, or NULL. */
const char *ptext_find(struct ptext t, const char *needle);

/* Leading decimal digits (after an optional run of blanks) as a number, saturating at UINT64_MAX.
 * False, and nothing written, if there is no digit. */
bool ptext_u64(struct ptext t, uint64_t *v);
/* Same with an optional leading minus sign, saturating at the limits of int64_t. */
bool ptext_i64(struct ptext t, int64_t *v);
/* Leading hexadecimal digits, with or without 0x; more than 16 digits is no number. */
bool ptext_hex(struct ptext t, uint64_t *v);
/* The whole text is decimal digits and nothing else. */
bool ptext_all_digits(struct ptext t);

/* Copies at most cap - 1 bytes and terminates; returns the copied length. */
size_t ptext_copy(struct ptext t, char *dst, size_t cap);

#endif
