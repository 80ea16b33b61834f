/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_PBTEXT_H
#define CLI_PBTEXT_H

/* Text form of any message of the schema -> its binary form. */

#include <stdbool.h>

#include "cli/pbdiag.h"
#include "reactor/bytesbuf.h"
#include "upb/def.h"

struct pbtext_options {
    bool lossy; /* --txt-lossy: unknown fields, extensions and enum values are dropped (R1133) */
};

/* Parses the text of `diag` as a message of type `root` and appends its encoding to `out`, fields
 * in the order of the text, repeated scalars not packed. `pool` (may be NULL) knows the extensions.
 * Every mistake is reported through `diag`; parsing goes on after each.
 * 0; ERR_BAD_CONFIG if there was any error (what was appended is then useless); -ENOMEM. */
int pbtext_parse(const upb_MessageDef *root, const upb_DefPool *pool,
                 const struct pbtext_options *options, struct pbdiag *diag, struct bytesbuf *out);

#endif
