/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_PBSCALAR_H
#define CLI_PBSCALAR_H

/* One scalar of a text config -> one encoded field. */

#include <stdbool.h>

#include "cli/pbdiag.h"
#include "cli/pbtext_lex.h"
#include "reactor/bytesbuf.h"
#include "upb/def.h"

/* Name of a field's type as the language calls it: "uint32", "message", "enum"... Static. */
const char *pbscalar_type_name(const upb_FieldDef *f);

/* Encodes number or word `text` (with its sign, if any) as a value of field f. kind is
 * PBTEXT_NUMBER or PBTEXT_IDENT. A mistake is reported through d and nothing is written; with
 * `lossy`, an unknown enum value is dropped without a report. */
void pbscalar_word(const upb_FieldDef *f, enum pbtext_kind kind, const char *text, size_t len,
                   bool lossy, struct pbdiag *d, struct bytesbuf *out);

/* Appends the value of one string token (with its quotes) to value; false after a bad escape, which
 * was reported. f names the field in the report. */
bool pbscalar_unquote(const upb_FieldDef *f, const struct pbtext_token *t, struct pbdiag *d,
                      struct bytesbuf *value);

/* "Expected value of type T for field F in proto M instead saw 'V'", with a remark behind it. */
void pbscalar_mismatch(const upb_FieldDef *f, const char *text, size_t len, struct pbdiag *d);

#endif
