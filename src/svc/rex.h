/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REX_H
#define SVC_REX_H

/*
 * Regular expressions for names (producer filters, triggers) and for the string rules of the trace
 * filter (service.md R67, R148, R152). Patterns come from consumers, texts from producers, so the
 * time is linear in pattern times text and the size of a compiled pattern is bounded.
 *
 * Syntax: ECMAScript-like over bytes: . [] [^] ( ) (?: ) | * + ? {m} {m,} {m,n}, each with a lazy
 * form, ^ $ \b \B, \d \D \w \W \s \S, \n \r \t \f \v \0 \xHH, and \ before punctuation. No
 * back-references, no look-around.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REX_MAX_STEPS  4096 /* instructions of one compiled pattern */
#define REX_MAX_GROUPS 31   /* capturing groups of one pattern */

/* Linear is not short when both are long: instructions that one match may take in all. */
#define REX_MAX_WORK (1u << 20)

#define REX_NONE UINT32_MAX /* offset of a group that took no part in the match */

struct rex;

/* One captured range of the text: [begin, end), or REX_NONE twice. */
struct rex_span {
    uint32_t begin;
    uint32_t end;
};

/* Compiles len bytes of pattern. *out: own, rex_free. ERR_BAD_CONFIG when the pattern is invalid or
 * exceeds the limits above; -ENOMEM. */
int rex_new(const char *pattern, size_t len, struct rex **out);
void rex_free(struct rex *r); /* NULL allowed */

/* Bytes that a compiled pattern takes. */
size_t rex_memory(const struct rex *r);

/* From now on all matches of r draw on *left instead of REX_MAX_WORK each. Borrowed for as long as
 * r lives. One that wants more than is left fails and leaves 0. */
void rex_draw_on(struct rex *r, uint64_t *left);

/* Number of capturing groups; spans of the two calls below have one more entry, entry 0 being the
 * whole match. */
unsigned rex_groups(const struct rex *r);

/* True when the whole text matches, false also when that took too much work. spans may be NULL; it
 * is written on success only. */
bool rex_match(struct rex *r, const char *text, size_t len, struct rex_span *spans);

/* The same two in steps, for texts that are long: start, then step until it says REX_YES or REX_NO.
 * Of *work, what the step took is subtracted; when nothing is left it says REX_MORE. The text must
 * stay where it is, and r serve no other match meanwhile. */
enum rex_result { REX_NO, REX_YES, REX_MORE };
void rex_start(struct rex *r, const char *text, size_t len, size_t from, bool whole);
enum rex_result rex_step(struct rex *r, uint64_t *work, struct rex_span *spans);

/* Leftmost match that begins at offset `from` or later. */
bool rex_search(struct rex *r, const char *text, size_t len, size_t from, struct rex_span *spans);

#endif
