/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a VmProgram. This is the control path, once for each program that a session meets: upb
 * takes the message apart, and what is needed of it goes into two flat arrays, so that running it
 * is a matter of indexes.
 *
 * A program comes from a producer. Its size, the number of its instructions and the depth to which
 * they nest are bounded here; how long it runs is bounded where it runs. Depth counts the
 * instructions around one and every repeated field that their paths go over, because the
 * interpreter calls itself for each.
 */
#include "svc/protovm_code.h"

#include <errno.h>
#include <stdlib.h>

#include "protos/protovm/vm_program.upb.h"

#include "reactor/alloc.h"
#include "reactor/err.h"

typedef perfetto_protos_VmInstruction pb_ins;
typedef perfetto_protos_VmOpSelect pb_select;
typedef perfetto_protos_VmOpSelect_PathComponent pb_component;

/* A program in the making. */
struct build {
    struct protovm_code code;
    size_t max_ins, max_steps; /* what the arrays have room for */
    const char *why;
};

static bool fail(struct build *b, const char *why)
{
    b->why = why;
    return false;
}

/* ---- paths ---- */

static bool is_field(uint32_t id)
{
    return id >= 1 && id <= BYTES_MAX_FIELD;
}

/* The step that component c makes with the one behind it (NULL: none); *used: how many of the two
 * it takes. A number of a repeated field says nothing without the field before it. */
static struct protovm_step step_of(const pb_component *c, const pb_component *next, size_t *used)
{
    struct protovm_step s = {.kind = PROTOVM_BAD_STEP, .reg = PROTOVM_NO_REGISTER};
    *used = 1;
    if (!perfetto_protos_VmOpSelect_PathComponent_has_field_id(c))
        return s;
    s.field = perfetto_protos_VmOpSelect_PathComponent_field_id(c);
    if (!is_field(s.field))
        return s;
    if (perfetto_protos_VmOpSelect_PathComponent_is_repeated(c)) {
        s.kind = PROTOVM_EACH;
        if (perfetto_protos_VmOpSelect_PathComponent_has_store_foreach_index_into_register(c))
            s.reg = perfetto_protos_VmOpSelect_PathComponent_store_foreach_index_into_register(c);
    } else if (next && perfetto_protos_VmOpSelect_PathComponent_has_array_index(next)) {
        *used = 2;
        s.kind = PROTOVM_AT;
        s.arg = perfetto_protos_VmOpSelect_PathComponent_array_index(next);
    } else if (next && perfetto_protos_VmOpSelect_PathComponent_has_map_key_field_id(next)) {
        *used = 2;
        s.arg = perfetto_protos_VmOpSelect_PathComponent_map_key_field_id(next);
        s.reg = perfetto_protos_VmOpSelect_PathComponent_register_to_match(next);
        if (perfetto_protos_VmOpSelect_PathComponent_has_register_to_match(next) && is_field(s.arg))
            s.kind = PROTOVM_BY_KEY;
    } else {
        s.kind = PROTOVM_FIELD;
    }
    return s;
}

/* Adds the steps of a path; *loops: how many go over a repeated field. */
static bool add_path(struct build *b, const pb_select *select, struct protovm_ins *ins,
                     uint32_t *loops)
{
    size_t n, used;
    const pb_component *const *all = perfetto_protos_VmOpSelect_relative_path(select, &n);
    struct protovm_code *c = &b->code;
    *loops = 0;
    ins->path = c->nsteps;
    for (size_t i = 0; i < n; i += used) {
        if (c->nsteps >= b->max_steps)
            return fail(b, "its paths have too many steps");
        struct protovm_step *s = &c->steps[c->nsteps++];
        *s = step_of(all[i], i + 1 < n ? all[i + 1] : NULL, &used);
        *loops += s->kind == PROTOVM_EACH;
    }
    ins->npath = c->nsteps - ins->path;
    return true;
}

/* ---- instructions ---- */

/* An unset cursor is SRC; only a set SRC or DST is taken at its word (anything else moves DST). */
static uint8_t cursor_of(bool has, int32_t value)
{
    if (!has || value == perfetto_protos_VM_CURSOR_SRC)
        return PROTOVM_SRC;
    return value == perfetto_protos_VM_CURSOR_DST ? PROTOVM_DST : PROTOVM_BOTH;
}

static bool add_select(struct build *b, const pb_ins *in, struct protovm_ins *ins, uint32_t *loops)
{
    const pb_select *op = perfetto_protos_VmInstruction_select(in);
    ins->op = PROTOVM_SELECT;
    ins->cursor =
        cursor_of(perfetto_protos_VmOpSelect_has_cursor(op), perfetto_protos_VmOpSelect_cursor(op));
    ins->create = perfetto_protos_VmOpSelect_create_if_not_exist(op);
    return add_path(b, op, ins, loops);
}

static bool add_operation(struct build *b, const pb_ins *in, struct protovm_ins *ins,
                          uint32_t *loops)
{
    ins->op = PROTOVM_NO_OP;
    ins->level = perfetto_protos_VmInstruction_has_abort_level(in)
                     ? (uint8_t)perfetto_protos_VmInstruction_abort_level(in)
                     : PROTOVM_BREAK;
    if (perfetto_protos_VmInstruction_has_select(in))
        return add_select(b, in, ins, loops);
    if (perfetto_protos_VmInstruction_has_reg_load(in)) {
        const perfetto_protos_VmOpRegLoad *op = perfetto_protos_VmInstruction_reg_load(in);
        ins->op = PROTOVM_REG_LOAD;
        ins->cursor = cursor_of(perfetto_protos_VmOpRegLoad_has_cursor(op),
                                perfetto_protos_VmOpRegLoad_cursor(op));
        ins->reg = perfetto_protos_VmOpRegLoad_dst_register(op);
    } else if (perfetto_protos_VmInstruction_has_merge(in)) {
        const perfetto_protos_VmOpMerge *op = perfetto_protos_VmInstruction_merge(in);
        ins->op = PROTOVM_MERGE;
        ins->skip_submessages = perfetto_protos_VmOpMerge_skip_submessages(op);
        ins->del_if_src_empty = perfetto_protos_VmOpMerge_del_if_src_empty(op);
    } else if (perfetto_protos_VmInstruction_has_set(in)) {
        ins->op = PROTOVM_SET;
    } else if (perfetto_protos_VmInstruction_has_del(in)) {
        ins->op = PROTOVM_DEL;
    }
    return true;
}

/* Adds a list and all below. Recursion: PROTOVM_CODE_DEPTH. */
static bool add_list(struct build *b, const pb_ins *const *list, size_t n, uint32_t depth)
{
    struct protovm_code *c = &b->code;
    for (size_t i = 0; i < n; i++) {
        uint32_t loops = 0;
        size_t nested;
        if (depth >= PROTOVM_CODE_DEPTH)
            return fail(b, "its instructions are nested too deep");
        if (c->nins >= b->max_ins)
            return fail(b, "it has too many instructions");
        struct protovm_ins *ins = &c->ins[c->nins++];
        if (!add_operation(b, list[i], ins, &loops))
            return false;
        const pb_ins *const *inner =
            perfetto_protos_VmInstruction_nested_instructions(list[i], &nested);
        if (loops >= PROTOVM_CODE_DEPTH || !add_list(b, inner, nested, depth + 1 + loops))
            return b->why ? false : fail(b, "its paths go over too many repeated fields");
        ins->end = c->nins;
    }
    return true;
}

static int build(struct build *b, struct bytes_view program, upb_Arena *arena)
{
    size_t n;
    const perfetto_protos_VmProgram *m =
        perfetto_protos_VmProgram_parse((const char *)program.p, program.n, arena);
    if (!m) {
        fail(b, "it is no VmProgram, or nested too deep");
        return ERR_BAD_REQUEST;
    }
    size_t most = program.n / 2; /* each takes a tag and a length */
    b->max_ins = most < PROTOVM_CODE_MAX ? most : PROTOVM_CODE_MAX;
    b->max_steps = most < PROTOVM_STEPS_MAX ? most : PROTOVM_STEPS_MAX;
    b->code.ins = alloc_try_array(b->max_ins + 1, sizeof(*b->code.ins));
    b->code.steps = alloc_try_array(b->max_steps + 1, sizeof(*b->code.steps));
    if (!b->code.ins || !b->code.steps)
        return -ENOMEM;
    const pb_ins *const *list = perfetto_protos_VmProgram_instructions(m, &n);
    return add_list(b, list, n, 0) ? 0 : ERR_BAD_REQUEST;
}

/* Gives back what the arrays have too much. */
static void *shrink(void *p, size_t n, size_t size)
{
    void *fit = alloc_try_resize(p, n ? n : 1, size);
    return fit ? fit : p;
}

int protovm_code_init(struct protovm_code *c, struct bytes_view program, const char **why)
{
    struct build b = {0};
    if (program.n > PROTOVM_PROGRAM_MAX) {
        *why = "it is longer than 64 KiB";
        return ERR_QUOTA;
    }
    upb_Arena *arena = upb_Arena_New();
    int err = arena ? build(&b, program, arena) : -ENOMEM;
    if (arena)
        upb_Arena_Free(arena);
    if (err) {
        if (err > 0)
            *why = b.why;
        protovm_code_fini(&b.code);
        return err;
    }
    b.code.ins = shrink(b.code.ins, b.code.nins, sizeof(*b.code.ins));
    b.code.steps = shrink(b.code.steps, b.code.nsteps, sizeof(*b.code.steps));
    *c = b.code;
    return 0;
}

void protovm_code_fini(struct protovm_code *c)
{
    free(c->ins);
    free(c->steps);
    *c = (struct protovm_code){0};
}
