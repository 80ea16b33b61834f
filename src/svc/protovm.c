/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interpreter of ProtoVM programs.
 *
 * It calls itself for each list of nested instructions and for each repeated field on a path, to a
 * depth that svc/protovm_code has bounded. Both cursors are one struct on the caller's stack; a
 * select saves it, moves it and puts it back. The cursor into the packet is a field that was
 * decoded, the one into the state is a node. A node never goes away under a cursor, because all
 * that an instruction can remove lies below its own cursor, with one exception: `del` removes the
 * very node, on which selects around it may stand too, so it takes the node from all that are
 * saved.
 *
 * Program and packets come from a producer, so nothing is taken for granted: each instruction, each
 * step of a path, each field looked at and each 64 bytes copied takes one of the steps that the
 * caller grants, finding something in the state or adding to it takes several, the tree has a limit
 * of memory, and paths go down no deeper than DEPTH. None of this may allocate or copy outside of
 * the tree.
 */
#include "svc/protovm.h"

#include <errno.h>
#include <stdlib.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "svc/protovm_code.h"
#include "svc/protovm_tree.h"

#define DEPTH 64u /* of the state; decoders of protobuf take 100 */

struct cursors {
    struct bytes_field src;
    struct protovm_node *dst; /* borrow; NULL: it was deleted */
    uint32_t depth;           /* of dst */
};

/* What a select puts back. */
struct saved {
    struct saved *outer; /* borrow */
    struct cursors at;
};

struct protovm {
    struct protovm_code code;
    struct protovm_tree tree;
    uint64_t regs[PROTOVM_REGISTERS];
    uint32_t regs_set; /* a bit for each that was loaded */
    uint32_t merges;   /* number of the last one, see protovm_node.stamp */

    /* of the packet at hand */
    struct saved *saved; /* borrow: innermost first */
    uint32_t steps;
    const char *why;
};

int protovm_new(struct bytes_view program, uint64_t limit, struct protovm **out, const char **why)
{
    struct protovm *vm = alloc_try_array(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;
    int err = protovm_code_init(&vm->code, program, why);
    if (err) {
        free(vm);
        return err;
    }
    protovm_tree_init(&vm->tree, limit, chrono_random_u64(), &vm->steps);
    *out = vm;
    return 0;
}

void protovm_free(struct protovm *vm)
{
    if (!vm)
        return;
    protovm_tree_fini(&vm->tree);
    protovm_code_fini(&vm->code);
    free(vm);
}

static enum protovm_result abort_run(struct protovm *vm, const char *why)
{
    vm->why = why;
    return PROTOVM_ABORT;
}

static enum protovm_result no_steps(struct protovm *vm)
{
    return abort_run(vm, "it takes too long");
}

/* Something could not be added to the tree. */
static enum protovm_result no_room(struct protovm *vm)
{
    return vm->steps == 0 ? no_steps(vm) : abort_run(vm, "the state would pass its memory limit");
}

static bool spend(struct protovm *vm, uint64_t n)
{
    return protovm_spend(&vm->steps, n);
}

/* The next field; false also when there are no steps left. */
static bool next_field(struct protovm *vm, struct bytes_cur *cur, struct bytes_field *f)
{
    return spend(vm, 1) && protovm_next(cur, f);
}

/* ---- SRC ---- */

static bool is_message(const struct bytes_field *src)
{
    return src->type == BYTES_LEN;
}

/* Into occurrence `index` of a field. */
static enum protovm_result src_enter(struct protovm *vm, struct cursors *c, uint32_t field,
                                     uint32_t index)
{
    if (!is_message(&c->src))
        return abort_run(vm, "a path goes into a number of the packet");
    struct bytes_cur cur = bytes_cur(c->src.data);
    struct bytes_field f;
    while (next_field(vm, &cur, &f)) {
        if (f.id == field && index-- == 0) {
            c->src = f;
            return PROTOVM_OK;
        }
    }
    return vm->steps == 0 ? no_steps(vm) : PROTOVM_ERROR;
}

/* ---- DST ---- */

static enum protovm_result go_down(struct protovm *vm, struct cursors *c, uint32_t levels)
{
    if (!c->dst)
        return abort_run(vm, "what the cursor stood on was deleted");
    if (c->depth + levels > DEPTH)
        return abort_run(vm, "a path goes too deep into the state");
    c->depth += levels;
    return PROTOVM_OK;
}

static enum protovm_result to_message(struct protovm *vm, struct protovm_node *n)
{
    switch ((enum protovm_kind)n->kind) {
    case PROTOVM_MESSAGE:
        return PROTOVM_OK;
    case PROTOVM_EMPTY:
        n->kind = PROTOVM_MESSAGE;
        return PROTOVM_OK;
    case PROTOVM_BYTES:
        return protovm_tree_open(&vm->tree, n) ? PROTOVM_OK : no_room(vm);
    default:
        return abort_run(vm, "a path goes into something of the state that is no message");
    }
}

/* The child with that key. ERROR: there is none, and none is to be made. */
static enum protovm_result child_of(struct protovm *vm, struct protovm_node *n, uint64_t key,
                                    bool create, struct protovm_node **out)
{
    if (!spend(vm, protovm_find_steps(n)))
        return no_steps(vm);
    struct protovm_node *child = protovm_tree_find(n, key);
    if (!child && !create)
        return PROTOVM_ERROR;
    if (!child && !spend(vm, PROTOVM_ADD_STEPS))
        return no_steps(vm);
    if (!child)
        child = protovm_tree_add(&vm->tree, n, key);
    if (!child)
        return no_room(vm);
    *out = child;
    return PROTOVM_OK;
}

/* The field of the message at dst, `levels` above where the cursor goes. */
static enum protovm_result field_of(struct protovm *vm, struct cursors *c, uint32_t field,
                                    bool create, uint32_t levels, struct protovm_node **out)
{
    enum protovm_result r = go_down(vm, c, levels);
    if (r == PROTOVM_OK)
        r = to_message(vm, c->dst);
    return r == PROTOVM_OK ? child_of(vm, c->dst, field, create, out) : r;
}

static enum protovm_result dst_enter(struct protovm *vm, struct cursors *c, uint32_t field,
                                     bool create)
{
    struct protovm_node *child = NULL;
    enum protovm_result r = field_of(vm, c, field, create, 1, &child);
    if (r != PROTOVM_OK)
        return r;
    if (child->kind == PROTOVM_INDEXED || child->kind == PROTOVM_MAPPED)
        return abort_run(vm, "a path takes a repeated field for a single one");
    c->dst = child;
    return PROTOVM_OK;
}

static enum protovm_result to_indexed(struct protovm *vm, struct protovm_node *n)
{
    if (n->kind == PROTOVM_INDEXED)
        return PROTOVM_OK;
    if (n->kind == PROTOVM_MAPPED)
        return abort_run(vm, "a path takes a map of the state for an array");
    if (n->kind == PROTOVM_EMPTY) {
        n->kind = PROTOVM_INDEXED;
        return PROTOVM_OK;
    }
    if (n->kind == PROTOVM_MESSAGE && !spend(vm, n->n))
        return no_steps(vm);
    return protovm_tree_wrap(&vm->tree, n, PROTOVM_INDEXED, 0) ? PROTOVM_OK : no_room(vm);
}

static enum protovm_result dst_enter_at(struct protovm *vm, struct cursors *c, uint32_t field,
                                        uint32_t index)
{
    struct protovm_node *array = NULL, *child;
    enum protovm_result r = field_of(vm, c, field, true, 2, &array);
    if (r == PROTOVM_OK)
        r = to_indexed(vm, array);
    if (r == PROTOVM_OK)
        r = child_of(vm, array, index, index <= array->n, &child);
    if (r == PROTOVM_ERROR)
        return abort_run(vm, "a path goes beyond the end of an array of the state");
    if (r == PROTOVM_OK)
        c->dst = child;
    return r;
}

/* The number that is the key of an element of a map. */
static bool find_key(const struct protovm_node *n, uint32_t field, uint64_t *key, uint32_t *steps)
{
    if (n->kind == PROTOVM_MESSAGE) {
        const struct protovm_node *child = protovm_tree_find(n, field);
        if (!child || child->kind != PROTOVM_SCALAR)
            return false;
        *key = child->num;
        return true;
    }
    if (n->kind != PROTOVM_BYTES)
        return false;
    struct bytes_cur cur = bytes_cur(bytes_view(n->bytes, n->n));
    struct bytes_field f;
    while ((!steps || protovm_spend(steps, 1)) && protovm_next(&cur, &f)) {
        if (f.id != field)
            continue;
        *key = f.num;
        return f.type != BYTES_LEN;
    }
    return false;
}

/* For protovm_tree_map(): it has a key, this was looked at before. */
static uint64_t key_of(const struct protovm_node *n, uint32_t field)
{
    uint64_t key = 0;
    (void)find_key(n, field, &key, NULL);
    return key;
}

static enum protovm_result no_key(struct protovm *vm)
{
    return vm->steps == 0 ? no_steps(vm)
                          : abort_run(vm, "an element of a map of the state has no such key");
}

static enum protovm_result to_mapped(struct protovm *vm, struct protovm_node *n, uint32_t field)
{
    uint64_t key;
    switch ((enum protovm_kind)n->kind) {
    case PROTOVM_MAPPED:
        return PROTOVM_OK;
    case PROTOVM_EMPTY:
        n->kind = PROTOVM_MAPPED;
        return PROTOVM_OK;
    case PROTOVM_BYTES:
    case PROTOVM_MESSAGE:
        if (!find_key(n, field, &key, &vm->steps))
            return no_key(vm);
        if (n->kind == PROTOVM_MESSAGE && !spend(vm, n->n))
            return no_steps(vm);
        return protovm_tree_wrap(&vm->tree, n, PROTOVM_MAPPED, key) ? PROTOVM_OK : no_room(vm);
    case PROTOVM_INDEXED:
        if (!spend(vm, 4 * (uint64_t)n->n * protovm_find_steps(n)))
            return no_steps(vm);
        for (const struct protovm_node *c = protovm_tree_first(n); c; c = protovm_tree_next(c)) {
            if (!find_key(c, field, &key, &vm->steps))
                return no_key(vm);
        }
        protovm_tree_map(&vm->tree, n, key_of, field);
        return PROTOVM_OK;
    default:
        return abort_run(vm, "a path takes a number of the state for a map");
    }
}

static enum protovm_result dst_enter_by_key(struct protovm *vm, struct cursors *c,
                                            const struct protovm_step *s, bool create)
{
    struct protovm_node *map = NULL;
    if (s->reg >= PROTOVM_REGISTERS || !(vm->regs_set >> s->reg & 1))
        return abort_run(vm, "a path names a register that is not loaded");
    enum protovm_result r = field_of(vm, c, s->field, create, 2, &map);
    if (r == PROTOVM_OK)
        r = to_mapped(vm, map, s->arg);
    return r == PROTOVM_OK ? child_of(vm, map, vm->regs[s->reg], true, &c->dst) : r;
}

/* ---- operations ---- */

static enum protovm_result reg_load(struct protovm *vm, const struct cursors *c,
                                    const struct protovm_ins *ins)
{
    uint64_t value;
    if (ins->reg >= PROTOVM_REGISTERS)
        return abort_run(vm, "there is no register of that number");
    if (ins->cursor == PROTOVM_SRC) {
        if (is_message(&c->src))
            return abort_run(vm, "something of the packet that is loaded is no number");
        value = c->src.num;
    } else {
        if (!c->dst || c->dst->kind != PROTOVM_SCALAR)
            return abort_run(vm, "something of the state that is loaded is no number");
        value = c->dst->num;
    }
    vm->regs[ins->reg] = value;
    vm->regs_set |= 1u << ins->reg;
    return PROTOVM_OK;
}

/* Puts one field of a patch in the place of a field that is there. */
static bool merge_over(struct protovm *vm, struct protovm_node *child, const struct bytes_field *f)
{
    struct protovm_tree *t = &vm->tree;
    bool first = child->stamp != vm->merges;
    child->stamp = vm->merges;
    if (child->kind != PROTOVM_INDEXED) {
        if (first)
            return protovm_tree_set(t, child, f);
        /* Once more in the same patch: it is a repeated one. */
        return protovm_tree_wrap(t, child, PROTOVM_INDEXED, 0) && protovm_tree_append(t, child, f);
    }
    if (first) {
        protovm_tree_clear(t, child);
        child->kind = PROTOVM_INDEXED;
    }
    return protovm_tree_append(t, child, f);
}

static enum protovm_result merge_field(struct protovm *vm, struct protovm_node *dst,
                                       const struct protovm_ins *ins, const struct bytes_field *f)
{
    if (!spend(vm, protovm_find_steps(dst) + PROTOVM_SET_STEPS))
        return no_steps(vm);
    struct protovm_node *child = protovm_tree_find(dst, f->id);
    if (child && ins->skip_submessages && child->kind == PROTOVM_MESSAGE)
        return PROTOVM_OK;
    if (child && ins->del_if_src_empty && f->type == BYTES_LEN && f->data.n == 0) {
        protovm_tree_del(&vm->tree, child);
        return PROTOVM_OK;
    }
    if (child && child->kind == PROTOVM_MAPPED)
        return abort_run(vm, "a map of the state cannot be merged as a whole");
    if ((!child || child->kind == PROTOVM_INDEXED || child->stamp == vm->merges) &&
        !spend(vm, PROTOVM_ADD_STEPS))
        return no_steps(vm);
    if (child)
        return merge_over(vm, child, f) ? PROTOVM_OK : no_room(vm);
    child = protovm_tree_add(&vm->tree, dst, f->id);
    if (!child)
        return no_room(vm);
    child->stamp = vm->merges;
    if (protovm_tree_set(&vm->tree, child, f))
        return PROTOVM_OK;
    protovm_tree_del(&vm->tree, child);
    return no_room(vm);
}

static enum protovm_result merge(struct protovm *vm, struct cursors *c,
                                 const struct protovm_ins *ins)
{
    if (!is_message(&c->src))
        return abort_run(vm, "something of the packet that is merged is no message");
    if (!c->dst || c->dst->kind == PROTOVM_SCALAR || c->dst->kind == PROTOVM_INDEXED ||
        c->dst->kind == PROTOVM_MAPPED)
        return abort_run(vm, "something of the state that is merged is no message");
    if (c->src.data.n == 0)
        return PROTOVM_OK;
    enum protovm_result r = to_message(vm, c->dst);
    struct bytes_cur cur = bytes_cur(c->src.data);
    struct bytes_field f;
    if (++vm->merges == 0)
        vm->merges = 1;
    while (r == PROTOVM_OK && next_field(vm, &cur, &f))
        r = merge_field(vm, c->dst, ins, &f);
    return r == PROTOVM_OK && vm->steps == 0 ? no_steps(vm) : r;
}

static enum protovm_result set(struct protovm *vm, struct cursors *c)
{
    bool message = is_message(&c->src);
    enum protovm_kind kind = c->dst ? (enum protovm_kind)c->dst->kind : PROTOVM_INDEXED;
    bool fits = kind == PROTOVM_EMPTY || (message ? kind == PROTOVM_BYTES || kind == PROTOVM_MESSAGE
                                                  : kind == PROTOVM_SCALAR);
    if (!fits || (!message && c->dst == &vm->tree.root))
        return abort_run(vm, "something of the state is set to another kind of value");
    return protovm_tree_set(&vm->tree, c->dst, &c->src) ? PROTOVM_OK : no_room(vm);
}

static enum protovm_result del(struct protovm *vm, struct cursors *c)
{
    struct protovm_node *n = c->dst;
    if (!n)
        return abort_run(vm, "something of the state is deleted twice");
    if (n == &vm->tree.root) {
        protovm_tree_clear(&vm->tree, n);
        return PROTOVM_OK;
    }
    for (struct saved *s = vm->saved; s; s = s->outer) {
        if (s->at.dst == n)
            s->at.dst = NULL;
    }
    c->dst = NULL;
    protovm_tree_del(&vm->tree, n);
    return PROTOVM_OK;
}

/* ---- select ---- */

static enum protovm_result run_list(struct protovm *vm, struct cursors *c, uint32_t from,
                                    uint32_t end);
static enum protovm_result walk(struct protovm *vm, struct cursors *c, uint32_t at, uint32_t step);

static void store_index(struct protovm *vm, const struct protovm_step *s, uint64_t index)
{
    if (s->reg >= PROTOVM_REGISTERS)
        return;
    vm->regs[s->reg] = index;
    vm->regs_set |= 1u << s->reg;
}

static enum protovm_result each_of_src(struct protovm *vm, struct cursors *c, uint32_t at,
                                       uint32_t step)
{
    const struct protovm_step *s = &vm->code.steps[vm->code.ins[at].path + step];
    if (!is_message(&c->src))
        return abort_run(vm, "a path goes into a number of the packet");
    enum protovm_result r = PROTOVM_OK;
    struct bytes_cur cur = bytes_cur(c->src.data);
    struct bytes_field f;
    uint64_t index = 0;
    while (r == PROTOVM_OK && next_field(vm, &cur, &f)) {
        if (f.id != s->field)
            continue;
        store_index(vm, s, index++);
        c->src = f;
        r = walk(vm, c, at, step + 1);
    }
    return r == PROTOVM_OK && vm->steps == 0 ? no_steps(vm) : r;
}

static enum protovm_result each_of_dst(struct protovm *vm, struct cursors *c, uint32_t at,
                                       uint32_t step)
{
    const struct protovm_step *s = &vm->code.steps[vm->code.ins[at].path + step];
    struct protovm_node *array = NULL;
    enum protovm_result r = field_of(vm, c, s->field, false, 2, &array);
    if (r == PROTOVM_ERROR)
        return PROTOVM_OK; /* no element at all is no failure */
    if (r != PROTOVM_OK)
        return r;
    r = to_indexed(vm, array);
    uint32_t depth = c->depth;
    struct protovm_node *next, *child = r == PROTOVM_OK ? protovm_tree_first(array) : NULL;
    for (uint64_t index = 0; r == PROTOVM_OK && child; child = next) {
        next = protovm_tree_next(child); /* the child may be deleted, but nothing else of them */
        store_index(vm, s, index++);
        c->dst = child;
        c->depth = depth;
        r = walk(vm, c, at, step + 1);
    }
    return r;
}

static enum protovm_result enter(struct protovm *vm, struct cursors *c,
                                 const struct protovm_ins *ins, const struct protovm_step *s)
{
    bool src = ins->cursor == PROTOVM_SRC;
    switch ((enum protovm_step_kind)s->kind) {
    case PROTOVM_FIELD:
        return src ? src_enter(vm, c, s->field, 0) : dst_enter(vm, c, s->field, ins->create);
    case PROTOVM_AT:
        return src ? src_enter(vm, c, s->field, s->arg) : dst_enter_at(vm, c, s->field, s->arg);
    case PROTOVM_BY_KEY:
        return src ? abort_run(vm, "a path looks for a key in the packet")
                   : dst_enter_by_key(vm, c, s, ins->create);
    default:
        return abort_run(vm, "a path has a step that says nothing");
    }
}

/* Goes the path of instruction `at` from that step on; at its end runs what is nested. */
static enum protovm_result walk(struct protovm *vm, struct cursors *c, uint32_t at, uint32_t step)
{
    const struct protovm_ins *ins = &vm->code.ins[at];
    for (; step < ins->npath; step++) {
        const struct protovm_step *s = &vm->code.steps[ins->path + step];
        if (!spend(vm, 1))
            return no_steps(vm);
        if (s->kind == PROTOVM_EACH) {
            if (ins->cursor == PROTOVM_BOTH)
                return abort_run(vm, "a path goes over a repeated field with both cursors");
            return ins->cursor == PROTOVM_SRC ? each_of_src(vm, c, at, step)
                                              : each_of_dst(vm, c, at, step);
        }
        enum protovm_result r = enter(vm, c, ins, s);
        if (r != PROTOVM_OK)
            return r;
    }
    return run_list(vm, c, at + 1, ins->end);
}

static enum protovm_result run_select(struct protovm *vm, struct cursors *c, uint32_t at)
{
    const struct protovm_ins *ins = &vm->code.ins[at];
    if (ins->cursor == PROTOVM_SRC && ins->create)
        return abort_run(vm, "a path would create something in the packet");
    struct saved saved = {.outer = vm->saved, .at = *c};
    vm->saved = &saved;
    enum protovm_result r = walk(vm, c, at, 0);
    vm->saved = saved.outer;
    *c = saved.at;
    return r;
}

/* ---- instructions ---- */

static enum protovm_result run_one(struct protovm *vm, struct cursors *c, uint32_t at)
{
    const struct protovm_ins *ins = &vm->code.ins[at];
    enum protovm_result r = PROTOVM_OK;
    if (!spend(vm, 1))
        return no_steps(vm);
    switch ((enum protovm_op)ins->op) {
    case PROTOVM_SELECT:
        return run_select(vm, c, at);
    case PROTOVM_REG_LOAD:
        r = reg_load(vm, c, ins);
        break;
    case PROTOVM_MERGE:
        r = merge(vm, c, ins);
        break;
    case PROTOVM_SET:
        r = set(vm, c);
        break;
    case PROTOVM_DEL:
        r = del(vm, c);
        break;
    default:
        return abort_run(vm, "an instruction has no operation that is known here");
    }
    return r == PROTOVM_OK ? run_list(vm, c, at + 1, ins->end) : r;
}

static enum protovm_result run_list(struct protovm *vm, struct cursors *c, uint32_t from,
                                    uint32_t end)
{
    for (uint32_t at = from; at < end; at = vm->code.ins[at].end) {
        enum protovm_result r = run_one(vm, c, at);
        if (r == PROTOVM_ABORT)
            return r;
        if (r == PROTOVM_ERROR && vm->code.ins[at].level == PROTOVM_STOP)
            return abort_run(vm, "an instruction failed whose abort level is ABORT");
        if (r == PROTOVM_ERROR && vm->code.ins[at].level == PROTOVM_BREAK)
            return r;
    }
    return PROTOVM_OK;
}

enum protovm_result protovm_run(struct protovm *vm, struct bytes_view packet, uint32_t *steps,
                                const char **why)
{
    struct cursors c = {
        .src = {.type = BYTES_LEN, .data = packet},
        .dst = &vm->tree.root,
    };
    vm->saved = NULL;
    vm->steps = *steps;
    enum protovm_result r = run_list(vm, &c, 0, vm->code.nins);
    *steps = vm->steps;
    if (r == PROTOVM_ABORT)
        *why = vm->why;
    return r;
}

/* ---- the state ---- */

uint64_t protovm_memory(const struct protovm *vm)
{
    return vm->tree.used + sizeof(*vm) + vm->code.nins * sizeof(struct protovm_ins) +
           vm->code.nsteps * sizeof(struct protovm_step);
}

size_t protovm_state(const struct protovm *vm, uint8_t *out)
{
    return protovm_tree_write(&vm->tree, out);
}
