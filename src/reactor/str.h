/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_STR_H
#define REACTOR_STR_H

/* Small string helpers that libc lacks. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copies src, cut to fit, into dst of size bytes (> 0), always NUL-terminated. Returns false when
 * it was cut. */
bool str_copy(char *dst, size_t size, const char *src);

/* True when s begins with prefix. */
bool str_starts(const char *s, const char *prefix);

/* True when s ends with suffix. */
bool str_ends(const char *s, const char *suffix);

/* printf into fresh memory that the caller frees; never NULL (small, bounded texts only). */
char *str_format(const char *fmt, ...) __attribute__((format(printf, 1, 2), returns_nonnull));

/* Parses an unsigned decimal number that fills the whole string: no sign, no space, no overflow.
 * Returns false, and leaves *out alone, otherwise. */
bool str_to_u64(const char *s, uint64_t *out);

/* Same, optionally with a leading '-'. */
bool str_to_i64(const char *s, int64_t *out);

/* Same as str_to_u64 with digits of a base from 2 to 16 and no prefix ("0660" is octal with 8). */
bool str_to_u64_base(const char *s, unsigned base, uint64_t *out);

/* Walks the parts of a string between separators: for (const char *it = s; str_next(&it, ',',
 * &part, &len);). Empty parts are delivered too; part points into s and is not NUL-terminated. */
bool str_next(const char **it, char sep, const char **part, size_t *len);

/* Length in bytes of the well-formed UTF-8 sequence at s (n bytes are there), or 0 when there is
 * none: overlong forms, surrogates and values above U+10FFFF are malformed. */
size_t str_utf8_len(const char *s, size_t n);

/* Makes n bytes safe for one line of a terminal or journal: control characters, DEL, the C1 range
 * and malformed UTF-8 become \n, \t, \r or \xHH, a backslash becomes two. Writes at most size - 1
 * bytes and a NUL; what does not fit is cut at a whole escape and ends in "...". Returns the
 * length written. size must be at least 8. */
size_t str_escape(char *dst, size_t size, const char *src, size_t n);

#endif
