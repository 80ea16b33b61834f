/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regular expressions: a recursive descent compiler into a small instruction set, and a matcher
 * that steps all alternatives in parallel, in order of preference, so that no pattern can make it
 * take more than (instructions x text length) steps, and those are counted against a limit. Owned
 * by whoever compiled it: a session's filter or a list of name patterns. The scratch memory of the
 * matcher belongs to the compiled pattern, so a match allocates nothing; one pattern must not be
 * used by two matches at once. A match may be left and gone on with between any two bytes.
 *
 * Invariant: a program never exceeds REX_MAX_STEPS, and repetition counts are expanded against that
 * same limit while compiling, so neither memory nor stack depth depends on numbers in the pattern.
 */
#include "svc/rex.h"

#include <errno.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/err.h"

#define REX_MAX_DEPTH 64 /* nesting of groups */

enum rex_op {
    OP_BYTE,
    OP_ANY,
    OP_SET,
    OP_SPLIT,
    OP_JUMP,
    OP_SAVE,
    OP_BOL,
    OP_EOL,
    OP_WORD,
    OP_NWORD,
    OP_DONE
};

struct rex_step {
    uint8_t op;
    uint8_t byte;  /* OP_BYTE */
    uint16_t set;  /* OP_SET: index into sets; OP_SAVE: slot */
    uint16_t x, y; /* OP_SPLIT: preferred and other; OP_JUMP: x */
};

struct rex_set {
    uint32_t bits[8];
};

/* One list of alternatives: program counters in order of preference, each with its captures. */
struct rex_threads {
    uint16_t n;
    uint16_t *pc;    /* own */
    uint32_t *caps;  /* own, n * ncaps */
    uint32_t *stamp; /* own, per instruction: generation in which it was added */
};

struct rex {
    struct rex_step *prog; /* own */
    uint16_t n;
    struct rex_set *sets; /* own */
    uint16_t nsets;
    uint8_t groups;
    uint16_t ncaps;
    uint32_t generation;
    struct rex_threads now, next;
    uint32_t *best; /* own, ncaps */
    uint64_t work;  /* instructions of this match */
    uint64_t *left; /* borrow: what all matches may take; NULL: REX_MAX_WORK each */
    /* The match that is going on. */
    const char *text; /* borrow */
    size_t len, from;
    size_t at; /* of the next byte */
    bool whole, found;
};

struct parser {
    struct rex *r;
    const char *p, *end;
    unsigned depth;
    int err; /* sticky */
};

static void fail(struct parser *ps, int err)
{
    if (!ps->err)
        ps->err = err;
    ps->p = ps->end;
}

/* Makes room for n instructions at position at; returns false on failure. */
static bool open_gap(struct parser *ps, unsigned at, unsigned n)
{
    struct rex *r = ps->r;
    if (ps->err || r->n + n > REX_MAX_STEPS) {
        fail(ps, ERR_BAD_CONFIG);
        return false;
    }
    memmove(r->prog + at + n, r->prog + at, (r->n - at) * sizeof(*r->prog));
    /* What lies in the gap's wake moves; who stood before it and led to it now leads into it. */
    for (unsigned i = 0; i < r->n + n; i++) {
        struct rex_step *s = &r->prog[i];
        if ((i >= at && i < at + n) || (s->op != OP_SPLIT && s->op != OP_JUMP))
            continue;
        unsigned moved = i < at ? at + 1 : at;
        s->x = (uint16_t)(s->x >= moved ? s->x + n : s->x);
        s->y = (uint16_t)(s->y >= moved ? s->y + n : s->y);
    }
    r->n = (uint16_t)(r->n + n);
    return true;
}

static struct rex_step *emit(struct parser *ps, enum rex_op op)
{
    static struct rex_step spare; /* written after a failure, never read */
    struct rex *r = ps->r;
    if (ps->err || r->n >= REX_MAX_STEPS) {
        fail(ps, ERR_BAD_CONFIG);
        return &spare;
    }
    struct rex_step *s = &r->prog[r->n++];
    *s = (struct rex_step){.op = (uint8_t)op};
    return s;
}

static void set_add(struct rex_set *s, unsigned lo, unsigned hi)
{
    for (unsigned c = lo; c <= hi; c++)
        s->bits[c >> 5] |= 1u << (c & 31);
}

static bool set_has(const struct rex_set *s, unsigned char c)
{
    return s->bits[c >> 5] >> (c & 31) & 1;
}

static void set_emit(struct parser *ps, const struct rex_set *s)
{
    struct rex *r = ps->r;
    struct rex_set *sets = alloc_try_resize(r->sets, r->nsets + 1u, sizeof(*sets));
    if (!sets) {
        fail(ps, -ENOMEM);
        return;
    }
    r->sets = sets;
    sets[r->nsets] = *s;
    emit(ps, OP_SET)->set = r->nsets;
    if (!ps->err)
        r->nsets++;
}

/* Adds the class named by an escape letter; false when the letter names none. */
static bool set_class(struct rex_set *s, char letter)
{
    struct rex_set c = {{0}};
    switch (letter | 0x20) {
    case 'd':
        set_add(&c, '0', '9');
        break;
    case 'w':
        set_add(&c, '0', '9');
        set_add(&c, 'A', 'Z');
        set_add(&c, 'a', 'z');
        set_add(&c, '_', '_');
        break;
    case 's':
        set_add(&c, '\t', '\r');
        set_add(&c, ' ', ' ');
        break;
    default:
        return false;
    }
    bool negated = !(letter & 0x20);
    for (int i = 0; i < 8; i++)
        s->bits[i] |= negated ? ~c.bits[i] : c.bits[i];
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that an escape stands for; the backslash is consumed already. */
static unsigned char escaped_byte(struct parser *ps)
{
    if (ps->p == ps->end) {
        fail(ps, ERR_BAD_CONFIG);
        return 0;
    }
    char c = *ps->p++;
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
    const char *at = memchr(from, c, sizeof(from) - 1);
    if (at)
        return (unsigned char)to[at - from];
    if (c == 'x') {
        if (ps->end - ps->p < 2 || hex_digit(ps->p[0]) < 0 || hex_digit(ps->p[1]) < 0) {
            fail(ps, ERR_BAD_CONFIG);
            return 0;
        }
        int v = hex_digit(ps->p[0]) * 16 + hex_digit(ps->p[1]);
        ps->p += 2;
        return (unsigned char)v;
    }
    bool letter = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (letter) /* a back-reference or an escape that we do not know */
        fail(ps, ERR_BAD_CONFIG);
    return (unsigned char)c;
}

/* One member of a bracket set. Returns -1 when it was a class such as \d. */
static int bracket_member(struct parser *ps, struct rex_set *s)
{
    char c = *ps->p++;
    if (c == '[' && ps->p < ps->end &&
        *ps->p == ':') { /* [:alpha:] is not ECMAScript as we know it */
        fail(ps, ERR_BAD_CONFIG);
        return -1;
    }
    if (c != '\\')
        return (unsigned char)c;
    if (ps->p < ps->end && set_class(s, *ps->p)) {
        ps->p++;
        return -1;
    }
    if (ps->p < ps->end && *ps->p == 'b') {
        ps->p++;
        return '\b';
    }
    return escaped_byte(ps);
}

static void parse_bracket(struct parser *ps)
{
    struct rex_set s = {{0}};
    bool negated = ps->p < ps->end && *ps->p == '^';
    ps->p += negated;
    for (bool first = true;; first = false) {
        if (ps->p >= ps->end) {
            fail(ps, ERR_BAD_CONFIG);
            return;
        }
        if (*ps->p == ']' && !first) {
            ps->p++;
            break;
        }
        int lo = bracket_member(ps, &s), hi = lo;
        if (lo >= 0 && ps->end - ps->p >= 2 && ps->p[0] == '-' && ps->p[1] != ']') {
            ps->p++;
            hi = bracket_member(ps, &s);
        }
        if (hi < lo) {
            fail(ps, ERR_BAD_CONFIG);
            return;
        }
        if (lo >= 0)
            set_add(&s, (unsigned)lo, (unsigned)hi);
    }
    for (int i = 0; negated && i < 8; i++)
        s.bits[i] = ~s.bits[i];
    set_emit(ps, &s);
}

static void parse_alternatives(struct parser *ps);

static void parse_group(struct parser *ps)
{
    int slot = -1;
    if (++ps->depth > REX_MAX_DEPTH) {
        fail(ps, ERR_BAD_CONFIG);
        return;
    }
    if (ps->p < ps->end && *ps->p == '?') {
        if (ps->end - ps->p < 2 || ps->p[1] != ':') {
            fail(ps, ERR_BAD_CONFIG);
            return;
        }
        ps->p += 2;
    } else {
        if (ps->r->groups == REX_MAX_GROUPS) {
            fail(ps, ERR_BAD_CONFIG);
            return;
        }
        slot = 2 * ++ps->r->groups;
        emit(ps, OP_SAVE)->set = (uint16_t)slot;
    }
    parse_alternatives(ps);
    if (ps->p == ps->end || *ps->p != ')') {
        fail(ps, ERR_BAD_CONFIG);
        return;
    }
    ps->p++;
    ps->depth--;
    if (slot >= 0)
        emit(ps, OP_SAVE)->set = (uint16_t)(slot + 1);
}

static void parse_atom(struct parser *ps)
{
    char c = *ps->p++;
    struct rex_set s = {{0}};
    switch (c) {
    case '.':
        emit(ps, OP_ANY);
        return;
    case '^':
        emit(ps, OP_BOL);
        return;
    case '$':
        emit(ps, OP_EOL);
        return;
    case '[':
        parse_bracket(ps);
        return;
    case '(':
        parse_group(ps);
        return;
    case '*':
    case '+':
    case '?':
        fail(ps, ERR_BAD_CONFIG);
        return;
    case '\\':
        if (ps->p < ps->end && (*ps->p == 'b' || *ps->p == 'B')) {
            emit(ps, *ps->p++ == 'b' ? OP_WORD : OP_NWORD);
            return;
        }
        if (ps->p < ps->end && set_class(&s, *ps->p)) {
            ps->p++;
            set_emit(ps, &s);
            return;
        }
        emit(ps, OP_BYTE)->byte = escaped_byte(ps);
        return;
    default:
        emit(ps, OP_BYTE)->byte = (uint8_t)c;
    }
}

/* Parses "m}", "m,}" or "m,n}" behind '{'. Anything else is a literal brace: returns false. */
static bool parse_bounds(const char *p, const char *end, unsigned *lo, unsigned *hi,
                         const char **after)
{
    unsigned v[2] = {0, 0};
    int digits[2] = {0, 0}, i = 0;
    for (; p < end && *p != '}'; p++) {
        if (*p == ',' && i == 0) {
            i = 1;
        } else if (*p >= '0' && *p <= '9') {
            v[i] = v[i] > REX_MAX_STEPS ? v[i] : v[i] * 10 + (unsigned)(*p - '0');
            digits[i]++;
        } else {
            return false;
        }
    }
    if (p == end || !digits[0])
        return false;
    *lo = v[0];
    *hi = i == 0 ? v[0] : digits[1] ? v[1] : UINT32_MAX;
    *after = p + 1;
    return true;
}

/* Appends a copy of the instructions [at, at + n). */
static void copy_piece(struct parser *ps, unsigned at, unsigned n)
{
    unsigned base = ps->r->n;
    for (unsigned i = 0; i < n && !ps->err; i++) {
        struct rex_step s = ps->r->prog[at + i];
        if (s.op == OP_SPLIT || s.op == OP_JUMP) {
            s.x = (uint16_t)(s.x - at + base);
            s.y = (uint16_t)(s.y - at + base);
        }
        *emit(ps, OP_BYTE) = s;
    }
}

static void put_split(struct parser *ps, unsigned at, unsigned taken, unsigned skipped, bool lazy)
{
    if (ps->err)
        return;
    struct rex_step *s = &ps->r->prog[at];
    *s = (struct rex_step){.op = OP_SPLIT,
                           .x = (uint16_t)(lazy ? skipped : taken),
                           .y = (uint16_t)(lazy ? taken : skipped)};
}

/* Makes the last piece, [at, end), optional or repeated without bound. */
static void make_optional(struct parser *ps, unsigned at, bool lazy)
{
    if (open_gap(ps, at, 1))
        put_split(ps, at, at + 1, ps->r->n, lazy);
}

static void make_star(struct parser *ps, unsigned at, bool lazy)
{
    if (!open_gap(ps, at, 1))
        return;
    emit(ps, OP_JUMP)->x = (uint16_t)at;
    put_split(ps, at, at + 1, ps->r->n, lazy);
}

/* Appends n_copies copies of the piece [at, at + n), each of them optional. */
static void copy_optional(struct parser *ps, unsigned at, unsigned n, unsigned n_copies, bool lazy)
{
    for (unsigned i = 0; i < n_copies && !ps->err; i++) {
        unsigned from = ps->r->n;
        copy_piece(ps, at, n);
        make_optional(ps, from, lazy);
    }
}

/* Repeats the last piece, [at, end), lo to hi times (hi UINT32_MAX: without bound). */
static void repeat(struct parser *ps, unsigned at, unsigned lo, unsigned hi, bool lazy)
{
    unsigned n = ps->r->n - at;
    if (lo > REX_MAX_STEPS || hi < lo) {
        fail(ps, ERR_BAD_CONFIG);
    } else if (hi == 0) { /* x{0}: the piece vanishes, its groups never match */
        ps->r->n = (uint16_t)at;
    } else if (lo == 0 && hi == UINT32_MAX) {
        make_star(ps, at, lazy);
    } else if (lo == 0) {
        make_optional(ps, at, lazy);
        copy_optional(ps, at + 1, n, n ? hi - 1 : 0, lazy);
    } else if (n) {
        for (unsigned i = 1; i < lo && !ps->err; i++)
            copy_piece(ps, at, n);
        if (hi == UINT32_MAX) {
            unsigned from = ps->r->n;
            copy_piece(ps, at, n);
            make_star(ps, from, lazy);
        } else {
            copy_optional(ps, at, n, hi - lo, lazy);
        }
    }
}

static void parse_piece(struct parser *ps)
{
    unsigned at = ps->r->n;
    parse_atom(ps);
    if (ps->err || ps->p == ps->end)
        return;
    unsigned lo = *ps->p == '+' ? 1 : 0, hi = *ps->p == '?' ? 1 : UINT32_MAX;
    const char *after = ps->p + 1;
    if (*ps->p == '{' ? !parse_bounds(ps->p + 1, ps->end, &lo, &hi, &after)
                      : !strchr("*+?", *ps->p))
        return;
    ps->p = after;
    bool lazy = ps->p < ps->end && *ps->p == '?';
    ps->p += lazy;
    repeat(ps, at, lo, hi, lazy);
}

static void parse_alternatives(struct parser *ps)
{
    unsigned at = ps->r->n;
    unsigned jumps = 0; /* chain of OP_JUMP to be led to the end, through x */
    for (;;) {
        while (!ps->err && ps->p < ps->end && *ps->p != '|' && *ps->p != ')')
            parse_piece(ps);
        if (ps->err || ps->p == ps->end || *ps->p != '|')
            break;
        ps->p++;
        if (!open_gap(ps, at, 1))
            return;
        struct rex_step *j = emit(ps, OP_JUMP);
        j->y = (uint16_t)jumps;
        jumps = ps->r->n - 1u;
        put_split(ps, at, at + 1, ps->r->n, false);
        at = ps->r->n;
    }
    while (!ps->err && jumps) {
        struct rex_step *j = &ps->r->prog[jumps];
        jumps = j->y;
        j->x = ps->r->n;
        j->y = 0;
    }
}

static int threads_init(struct rex_threads *t, const struct rex *r)
{
    t->pc = alloc_try_array(r->n, sizeof(*t->pc));
    t->caps = alloc_try_array((size_t)r->n * r->ncaps, sizeof(*t->caps));
    t->stamp = alloc_try_array(r->n, sizeof(*t->stamp));
    return t->pc && t->caps && t->stamp ? 0 : -ENOMEM;
}

static void threads_fini(struct rex_threads *t)
{
    free(t->pc);
    free(t->caps);
    free(t->stamp);
}

int rex_new(const char *pattern, size_t len, struct rex **out)
{
    if (len == 0)
        pattern = ""; /* NULL + 0 is not allowed */
    struct rex *r = alloc_new(struct rex);
    struct parser ps = {.r = r, .p = pattern, .end = pattern + len};
    r->prog = alloc_array(REX_MAX_STEPS, sizeof(*r->prog));
    parse_alternatives(&ps);
    if (!ps.err && ps.p != ps.end) /* a ')' without '(' */
        fail(&ps, ERR_BAD_CONFIG);
    emit(&ps, OP_DONE);
    int err = ps.err;
    if (!err) {
        r->prog = alloc_resize(r->prog, r->n, sizeof(*r->prog));
        r->ncaps = (uint16_t)(2 * (r->groups + 1));
        r->best = alloc_array(r->ncaps, sizeof(*r->best));
        err = threads_init(&r->now, r);
        if (!err)
            err = threads_init(&r->next, r);
    }
    if (err) {
        rex_free(r);
        return err;
    }
    *out = r;
    return 0;
}

void rex_free(struct rex *r)
{
    if (!r)
        return;
    threads_fini(&r->now);
    threads_fini(&r->next);
    free(r->prog);
    free(r->sets);
    free(r->best);
    free(r);
}

size_t rex_memory(const struct rex *r)
{
    size_t thread = sizeof(*r->now.pc) + sizeof(*r->now.stamp) + r->ncaps * sizeof(*r->now.caps);
    return sizeof(*r) + r->n * (sizeof(*r->prog) + 2 * thread) + r->nsets * sizeof(*r->sets);
}

void rex_draw_on(struct rex *r, uint64_t *left)
{
    r->left = left;
}

unsigned rex_groups(const struct rex *r)
{
    return r->groups;
}

static bool is_word(const char *s, size_t len, size_t i)
{
    if (i >= len)
        return false;
    char c = s[i], l = (char)(c | 0x20);
    return (c >= '0' && c <= '9') || (l >= 'a' && l <= 'z') || c == '_';
}

struct cursor {
    const char *s;
    size_t len, at;
};

static bool assertion_holds(enum rex_op op, const struct cursor *c)
{
    switch (op) {
    case OP_BOL:
        return c->at == 0;
    case OP_EOL:
        return c->at == c->len;
    default: {
        bool edge = is_word(c->s, c->len, c->at) != (c->at > 0 && is_word(c->s, c->len, c->at - 1));
        return edge == (op == OP_WORD);
    }
    }
}

/* Follows the instructions that take no byte, depth first in order of preference, and adds what
 * waits for a byte. Recursion is bounded by the program: each instruction is entered once. */
static void add_thread(struct rex *r, struct rex_threads *t, unsigned pc, uint32_t *caps,
                       const struct cursor *c)
{
    while (t->stamp[pc] != r->generation) {
        t->stamp[pc] = r->generation;
        r->work++;
        const struct rex_step *s = &r->prog[pc];
        switch (s->op) {
        case OP_JUMP:
            pc = s->x;
            continue;
        case OP_SPLIT:
            add_thread(r, t, s->x, caps, c);
            pc = s->y;
            continue;
        case OP_SAVE: {
            uint32_t old = caps[s->set];
            caps[s->set] = (uint32_t)c->at;
            add_thread(r, t, pc + 1, caps, c);
            caps[s->set] = old;
            return;
        }
        case OP_BOL:
        case OP_EOL:
        case OP_WORD:
        case OP_NWORD:
            if (!assertion_holds(s->op, c))
                return;
            pc++;
            continue;
        default:
            t->pc[t->n] = (uint16_t)pc;
            memcpy(t->caps + (size_t)t->n * r->ncaps, caps, r->ncaps * sizeof(*caps));
            t->n++;
            return;
        }
    }
}

static bool step_takes(const struct rex *r, const struct rex_step *s, unsigned char c)
{
    switch (s->op) {
    case OP_BYTE:
        return s->byte == c;
    case OP_ANY:
        return c != '\n' && c != '\r';
    default:
        return s->op == OP_SET && set_has(&r->sets[s->set], c);
    }
}

static void next_generation(struct rex *r)
{
    if (++r->generation == 0) { /* wrapped: old stamps could look fresh */
        memset(r->now.stamp, 0, r->n * sizeof(*r->now.stamp));
        memset(r->next.stamp, 0, r->n * sizeof(*r->next.stamp));
        r->generation = 1;
    }
}

/* False, and nothing left, when the match has taken more than it may. */
static bool may_go_on(struct rex *r)
{
    if (r->work <= (r->left ? *r->left : REX_MAX_WORK))
        return true;
    if (r->left)
        *r->left = 0;
    return false;
}

void rex_start(struct rex *r, const char *text, size_t len, size_t from, bool whole)
{
    r->text = text;
    r->len = len;
    r->from = from;
    r->at = from;
    r->whole = whole;
    r->found = false;
    r->work = 0;
    r->now.n = 0;
    next_generation(r);
}

/* Takes the byte at r->at (or the end of the text) with all alternatives. */
static void take_byte(struct rex *r)
{
    struct cursor c = {r->text, r->len, r->at + 1};
    r->next.n = 0;
    next_generation(r);
    for (unsigned k = 0; k < r->now.n; k++) {
        unsigned pc = r->now.pc[k];
        uint32_t *caps = r->now.caps + (size_t)k * r->ncaps;
        const struct rex_step *s = &r->prog[pc];
        if (s->op == OP_DONE) {
            if (r->whole && r->at != r->len)
                continue;
            r->found = true;
            caps[1] = (uint32_t)r->at;
            memcpy(r->best, caps, r->ncaps * sizeof(*caps));
            break; /* what follows is of lower preference */
        }
        if (r->at < r->len && step_takes(r, s, (unsigned char)r->text[r->at]))
            add_thread(r, &r->next, pc + 1, caps, &c);
    }
    struct rex_threads t = r->now;
    r->now = r->next;
    r->next = t;
}

/* Begins a match at r->at where one may begin. */
static void begin_here(struct rex *r)
{
    uint32_t fresh[2 * (REX_MAX_GROUPS + 1)];
    struct cursor c = {r->text, r->len, r->at};
    if (r->found || (r->whole && r->at != r->from))
        return;
    memset(fresh, 0xff, sizeof(fresh));
    fresh[0] = (uint32_t)r->at;
    add_thread(r, &r->now, 0, fresh, &c);
}

static enum rex_result finish(struct rex *r, struct rex_span *spans)
{
    if (r->left)
        *r->left -= r->work < *r->left ? r->work : *r->left;
    for (unsigned g = 0; r->found && spans && g <= r->groups; g++) {
        bool in = r->best[2 * g] != REX_NONE && r->best[2 * g + 1] != REX_NONE;
        spans[g].begin = in ? r->best[2 * g] : REX_NONE;
        spans[g].end = in ? r->best[2 * g + 1] : REX_NONE;
    }
    return r->found ? REX_YES : REX_NO;
}

enum rex_result rex_step(struct rex *r, uint64_t *work, struct rex_span *spans)
{
    if (r->len >= REX_NONE || r->from > r->len)
        return REX_NO;
    for (;; r->at++) {
        uint64_t before = r->work;
        if (*work == 0)
            return REX_MORE;
        begin_here(r);
        if (!r->now.n)
            return finish(r, spans);
        if (!may_go_on(r))
            return REX_NO;
        take_byte(r);
        if (r->at == r->len)
            return finish(r, spans);
        uint64_t took = r->work - before + 1;
        *work -= took < *work ? took : *work;
    }
}

static bool run(struct rex *r, const char *text, size_t len, size_t from, bool whole,
                struct rex_span *spans)
{
    uint64_t work = UINT64_MAX;
    rex_start(r, text, len, from, whole);
    return rex_step(r, &work, spans) == REX_YES;
}

bool rex_match(struct rex *r, const char *text, size_t len, struct rex_span *spans)
{
    return run(r, text, len, 0, true, spans);
}

bool rex_search(struct rex *r, const char *text, size_t len, size_t from, struct rex_span *spans)
{
    return run(r, text, len, from, false, spans);
}
