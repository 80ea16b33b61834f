/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_PBPRINT_H
#define CLI_PBPRINT_H

/* Binary messages -> text, JSON, or a verdict, by reflection. */

#include <stdbool.h>
#include <stdio.h>

#include "reactor/bytes.h"
#include "upb/def.h"

#define PBPRINT_DEPTH 100 /* messages nested deeper are not opened */

/* Prints the fields of a message as text, two blanks per level, in the order of the encoding; what
 * the schema does not know becomes a comment, so that the text can be parsed again. */
void pbprint_text(FILE *f, const upb_MessageDef *m, struct bytes_view msg, int level);

/* Prints a message as one JSON object without line breaks: names as in the schema, 64-bit integers
 * as strings, bytes in base64, fields that the schema does not know left out. */
void pbprint_json(FILE *f, const upb_MessageDef *m, struct bytes_view msg);

/* True if the message decodes, with all messages inside of it. */
bool pbprint_valid(const upb_MessageDef *m, struct bytes_view msg, int level);

/* Prints an encoded TraceConfig to stdout. Returns the exit code. */
int pbprint_config(struct bytes_view config);

#endif
