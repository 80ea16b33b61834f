/* SPDX-License-Identifier: Apache-2.0 */
#ifndef T_SVC_VMASM_H
#define T_SVC_VMASM_H

/*
 * ProtoVM programs and messages in short notations, for tests.
 *
 * A program is a list of instructions, each with an optional abort level (? skip it, ~ break out of
 * the list, ! abort) and an optional list of nested ones in braces:
 *     src PATH   dst PATH   dst+ PATH   both PATH   src+ PATH     select; +: create_if_not_exist
 *     load R   loaddst R   set   del   merge   mergeskip   mergedel   none
 * A path is made of /4 (field), /4* (each of a repeated field), /4*2 (and its index into register
 * 2), /4@1 (its element 1), /4:1=2 (its element whose field 1 is register 2), /- (says nothing) and
 * a single dot for no step at all. Words are separated by spaces; a closing brace is a
 * word wherever it stands.
 *
 * A message is a list of fields: 1=5 (varint), 1f5 (fixed32), 1d5 (fixed64), 1'text' (a string
 * without spaces), 1{ fields } (a message).
 */

#include "reactor/bytesbuf.h"

/* Appends the encoded VmProgram. */
void vmasm_program(struct bytesbuf *out, const char *text);

/* Appends the encoded message. */
void vmasm_message(struct bytesbuf *out, const char *text);

/* True when both are the same message, however their lengths are written. */
bool vmasm_same(struct bytes_view a, struct bytes_view b);

#endif
