/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PROTOVM_CODE_H
#define SVC_PROTOVM_CODE_H

/*
 * A VmProgram, made ready to run: one array of instructions in the order of the message, each
 * followed by those nested in it, and one of the steps of their paths. Immutable. Numbers that
 * mean nothing (a field 0, a register 99) are kept and fail when they are reached, not before:
 * programs may hold branches that are never taken.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"

#define PROTOVM_PROGRAM_MAX 65536u /* bytes of an encoded program */
#define PROTOVM_CODE_MAX    4096u  /* its instructions */
#define PROTOVM_STEPS_MAX   8192u  /* of all its paths */
#define PROTOVM_CODE_DEPTH  32u    /* instructions nested in each other, repeated fields included */
#define PROTOVM_REGISTERS   32u

enum protovm_op {
    PROTOVM_SELECT,
    PROTOVM_REG_LOAD,
    PROTOVM_MERGE,
    PROTOVM_SET,
    PROTOVM_DEL,
    PROTOVM_NO_OP /* no operation that this build knows: fails */
};

enum protovm_cursor { PROTOVM_SRC, PROTOVM_DST, PROTOVM_BOTH };

/* What an instruction that fails takes along (VmInstruction.AbortLevel). */
enum protovm_level {
    PROTOVM_SKIP = 1,  /* itself */
    PROTOVM_BREAK = 2, /* and those behind it in its list; the default */
    PROTOVM_STOP = 3   /* the whole program */
};

struct protovm_ins {
    uint8_t op;                              /* enum protovm_op */
    uint8_t level;                           /* enum protovm_level */
    uint8_t cursor;                          /* enum protovm_cursor: of SELECT and REG_LOAD */
    bool create;                             /* SELECT: create_if_not_exist */
    bool skip_submessages, del_if_src_empty; /* MERGE */
    uint32_t reg;                            /* REG_LOAD */
    uint32_t path, npath;                    /* SELECT: its steps */
    uint32_t end; /* index behind the last one nested in it: the next of its list */
};

enum protovm_step_kind {
    PROTOVM_FIELD,    /* into a field */
    PROTOVM_EACH,     /* into each element of a repeated field */
    PROTOVM_AT,       /* into element `arg` of a repeated field */
    PROTOVM_BY_KEY,   /* into the element whose field `arg` is what register `reg` holds */
    PROTOVM_BAD_STEP, /* fails */
};

struct protovm_step {
    uint8_t kind; /* enum protovm_step_kind */
    uint32_t field;
    uint32_t arg;
    uint32_t reg; /* BY_KEY; EACH: gets the index of the element, or PROTOVM_NO_REGISTER */
};

#define PROTOVM_NO_REGISTER UINT32_MAX

struct protovm_code {
    struct protovm_ins *ins;    /* own */
    struct protovm_step *steps; /* own */
    uint32_t nins, nsteps;
};

/* Decodes a program. 0; -ENOMEM; positive, with a word in *why (a literal), when the bytes are no
 * program or pass a limit above. */
int protovm_code_init(struct protovm_code *c, struct bytes_view program, const char **why);
void protovm_code_fini(struct protovm_code *c);

#endif
