/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_PBVALUE_H
#define CLI_PBVALUE_H

/* Scalar values in the wire format, seen through their field of the schema. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"
#include "upb/def.h"

enum pbvalue_kind {
    PBVALUE_BOOL,     /* u */
    PBVALUE_ENUM,     /* i */
    PBVALUE_SIGNED,   /* i */
    PBVALUE_UNSIGNED, /* u */
    PBVALUE_FLOATING, /* d */
    PBVALUE_BYTES     /* bytes: string or bytes */
};

struct pbvalue {
    enum pbvalue_kind kind;
    bool wide; /* a 64-bit type */
    uint64_t u;
    int64_t i;
    double d;
    struct bytes_view bytes;
};

/* The field or extension of this number, NULL if the schema has none. */
const upb_FieldDef *pbvalue_find(const upb_MessageDef *m, uint32_t number);

/* Reads a scalar. False if the field is a message or its wire type does not fit. */
bool pbvalue_get(const upb_FieldDef *d, const struct bytes_field *x, struct pbvalue *out);

/* True if a repeated scalar comes as one packed blob, whose values pbvalue_next_packed takes. */
bool pbvalue_is_packed(const upb_FieldDef *d, const struct bytes_field *x);
bool pbvalue_next_packed(const upb_FieldDef *d, struct bytes_cur *cur, struct pbvalue *out);

/* The shortest decimal that reads back as the same value; "inf", "-inf", "nan". */
const char *pbvalue_double(const struct pbvalue *v, char *buf, size_t size);

/* True if all of it is well-formed UTF-8. */
bool pbvalue_is_utf8(struct bytes_view v);

#endif
