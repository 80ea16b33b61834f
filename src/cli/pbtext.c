/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parser of text configs (grammar: R1110..R1118, and the rest of standard text-proto).
 *
 * One pass over the tokens writes the binary form straight into the output buffer; names are looked
 * up in the descriptors of the innermost open message. Open messages and lists are frames on a
 * heap-allocated stack, so depth is bounded by the length of the input and not by ours (R1117).
 *
 * A mistake never ends the parse: it is reported, and the parser goes on behind it - after a wrong
 * value with the next field, after a wrong character with the next line that can start a field. A
 * field that is not known is walked over by the same code with no field at hand (f == NULL), which
 * is also how --txt-lossy drops it.
 *
 * Invariant: p->tok is the token to look at next; every function that takes it moves on.
 */
#include "cli/pbtext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/pbscalar.h"
#include "cli/pbtext_lex.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/str.h"

enum list_state { LIST_OPENED, LIST_AFTER_VALUE, LIST_AFTER_COMMA };

struct frame {
    bool is_list;
    const upb_MessageDef *msg; /* borrow: MESSAGE only; NULL while walking over unknown fields */
    const upb_FieldDef *list_field; /* borrow: LIST only; NULL likewise */
    enum list_state state;          /* LIST only */
    char close;                     /* the byte that ends it */
    const char *open;               /* borrow: where it began */
    size_t mark;                    /* MESSAGE with msg only: of bytesbuf_pb_begin */
    size_t seen;                    /* first word of its set of seen fields */
};

struct parser {
    struct pbtext_lex lex;
    struct pbtext_token tok;
    const struct pbtext_options *options; /* borrow */
    const upb_DefPool *pool;              /* borrow */
    struct pbdiag *diag;                  /* borrow */
    struct bytesbuf *out;                 /* borrow */
    struct bytesbuf value;                /* string being decoded */
    struct frame *frames;                 /* own */
    size_t depth, frames_cap;
    uint64_t *seen; /* own: bit sets of the fields seen, one per open message */
    size_t seen_len, seen_cap;
    bool ended;  /* the end of input was reported */
    bool no_mem; /* and everything stops */
};

static void advance(struct parser *p)
{
    p->tok = pbtext_lex_next(&p->lex);
}

static struct frame *top(struct parser *p)
{
    return &p->frames[p->depth - 1];
}

/* ---- frames ---- */

static bool grow(struct parser *p, size_t words)
{
    size_t cap;
    void *mem;

    if (p->depth == p->frames_cap) {
        cap = p->frames_cap ? p->frames_cap * 2 : 16;
        mem = alloc_try_resize(p->frames, cap, sizeof(*p->frames));
        if (mem == NULL)
            return false;
        p->frames = mem;
        p->frames_cap = cap;
    }
    if (p->seen_len + words > p->seen_cap) {
        cap = (p->seen_len + words) * 2;
        mem = alloc_try_resize(p->seen, cap, sizeof(*p->seen));
        if (mem == NULL)
            return false;
        p->seen = mem;
        p->seen_cap = cap;
    }
    return true;
}

static void push(struct parser *p, const struct frame *f)
{
    size_t words = f->msg ? ((size_t)upb_MessageDef_FieldCount(f->msg) + 63) / 64 : 0;

    if (!grow(p, words)) {
        p->no_mem = true;
        return;
    }
    p->frames[p->depth] = *f;
    p->frames[p->depth++].seen = p->seen_len;
    if (words > 0)
        memset(p->seen + p->seen_len, 0, words * sizeof(*p->seen));
    p->seen_len += words;
}

static void pop(struct parser *p)
{
    p->seen_len = top(p)->seen;
    p->depth--;
}

/* ---- reports ---- */

static void unexpected(struct parser *p, const char *wanted)
{
    char shown[64];
    size_t len = p->tok.len;

    if (p->tok.kind == PBTEXT_END) {
        if (!p->ended)
            pbdiag_error(p->diag, p->tok.start, 0, "Unexpected end of input: %s", wanted);
        p->ended = true;
        return;
    }
    if (p->tok.kind != PBTEXT_IDENT)
        len = 1;
    str_escape(shown, sizeof(shown), p->tok.start, len);
    if (p->diag->text == p->tok.start && (unsigned char)*p->tok.start == 0xef)
        wanted = "the file begins with a byte order mark; save it as UTF-8 without one";
    pbdiag_error(p->diag, p->tok.start, p->tok.len, "Unexpected %s '%s': %s",
                 p->tok.kind == PBTEXT_IDENT ? "word" : "character", shown, wanted);
}

/* Moves on to where a field may begin again: a name, an extension or a closing brace that is the
 * first thing on its line, or a closing brace of this line that nothing skipped has opened. */
static void recover(struct parser *p)
{
    size_t opened = pbtext_lex_is(&p->tok, '{') || pbtext_lex_is(&p->tok, '<');

    for (advance(p); p->tok.kind != PBTEXT_END; advance(p)) {
        bool close = pbtext_lex_is(&p->tok, '}') || pbtext_lex_is(&p->tok, '>');
        if (close && opened == 0)
            return;
        if (close)
            opened--;
        else if (pbtext_lex_is(&p->tok, '{') || pbtext_lex_is(&p->tok, '<'))
            opened++;
        else if (p->tok.first && opened == 0 &&
                 (p->tok.kind == PBTEXT_IDENT || pbtext_lex_is(&p->tok, '[')))
            return;
    }
}

/* The message in which a name that is unknown here would be at home: one of those around, or one
 * of those that fields of this one hold. */
static const upb_FieldDef *find_holder(const upb_MessageDef *m, const char *name, size_t len,
                                       int depth)
{
    for (int i = 0; i < upb_MessageDef_FieldCount(m); i++) {
        const upb_FieldDef *f = upb_MessageDef_Field(m, i);
        if (upb_FieldDef_IsSubMessage(f) && upb_MessageDef_FindFieldByNameWithSize(
                                                upb_FieldDef_MessageSubDef(f), name, len) != NULL)
            return f;
    }
    for (int i = 0; depth > 0 && i < upb_MessageDef_FieldCount(m); i++) {
        const upb_FieldDef *f = upb_MessageDef_Field(m, i), *found;
        if (!upb_FieldDef_IsSubMessage(f))
            continue;
        found = find_holder(upb_FieldDef_MessageSubDef(f), name, len, depth - 1);
        if (found != NULL)
            return found;
    }
    return NULL;
}

static void unknown_field(struct parser *p, const upb_MessageDef *m)
{
    const char *name = p->tok.start;
    size_t len = p->tok.len;
    int shown = (int)(len < 80 ? len : 80);
    struct pbdiag_near near;
    const upb_FieldDef *holder;

    pbdiag_near_init(&near, name, len);
    for (int i = 0; i < upb_MessageDef_FieldCount(m); i++)
        pbdiag_near_try(&near, upb_FieldDef_Name(upb_MessageDef_Field(m, i)));
    if (near.best != NULL) {
        pbdiag_error(p->diag, name, len,
                     "No field named \"%.*s\" in proto %s; did you mean \"%s\"?", shown, name,
                     upb_MessageDef_Name(m), near.best);
        return;
    }
    for (size_t i = p->depth - 1; i-- > 0;) {
        const upb_MessageDef *outer = p->frames[i].msg;
        if (outer != NULL && upb_MessageDef_FindFieldByNameWithSize(outer, name, len) != NULL) {
            pbdiag_error(p->diag, name, len,
                         "No field named \"%.*s\" in proto %s; it belongs to %s, outside of the "
                         "message opened on line %u",
                         shown, name, upb_MessageDef_Name(m), upb_MessageDef_Name(outer),
                         pbdiag_line(p->diag, p->frames[i + 1].open));
            return;
        }
    }
    holder = find_holder(m, name, len, 1);
    if (holder != NULL)
        pbdiag_error(p->diag, name, len,
                     "No field named \"%.*s\" in proto %s; it belongs into %s { } of proto %s",
                     shown, name, upb_MessageDef_Name(m), upb_FieldDef_Name(holder),
                     upb_MessageDef_Name(upb_FieldDef_ContainingType(holder)));
    else
        pbdiag_error(p->diag, name, len, "No field named \"%.*s\" in proto %s", shown, name,
                     upb_MessageDef_Name(m));
}

/* ---- values ---- */

/* Behind a value inside of a message one ";" or "," may follow (R1111). */
static void after_value(struct parser *p)
{
    if (!top(p)->is_list && (pbtext_lex_is(&p->tok, ';') || pbtext_lex_is(&p->tok, ',')))
        advance(p);
}

static void open_message(struct parser *p, const upb_FieldDef *f)
{
    struct frame fr = {.close = *p->tok.start == '{' ? '}' : '>', .open = p->tok.start};

    if (f != NULL && upb_FieldDef_Type(f) == kUpb_FieldType_Message) {
        fr.msg = upb_FieldDef_MessageSubDef(f);
        fr.mark = bytesbuf_pb_begin(p->out, upb_FieldDef_Number(f));
    } else if (f != NULL) {
        pbscalar_mismatch(f, p->tok.start, 1, p->diag);
    }
    push(p, &fr);
    advance(p);
}

static void open_list(struct parser *p, const upb_FieldDef *f)
{
    struct frame fr = {.is_list = true, .list_field = f, .close = ']', .open = p->tok.start};

    if (f != NULL && !upb_FieldDef_IsRepeated(f)) {
        pbdiag_error(p->diag, p->tok.start, 1,
                     "Unexpected character '[': field %s in proto %s is not repeated and takes one "
                     "value, not a list",
                     upb_FieldDef_Name(f), upb_MessageDef_Name(upb_FieldDef_ContainingType(f)));
        fr.list_field = NULL;
    }
    push(p, &fr);
    advance(p);
}

/* Adjacent strings are one value (R1128). */
static void string_value(struct parser *p, const upb_FieldDef *f)
{
    bool wanted = f != NULL && upb_FieldDef_IsString(f), ok = true;

    if (f != NULL && !wanted)
        pbscalar_mismatch(f, p->tok.start + 1, p->tok.len - (p->tok.open ? 1 : 2), p->diag);
    bytesbuf_clear(&p->value);
    for (; p->tok.kind == PBTEXT_STRING; advance(p)) {
        if (p->tok.open) {
            p->ended = true;
            pbdiag_error(p->diag, p->tok.start + p->tok.len, 0,
                         "Unexpected end of input: the string that begins on line %u is not closed",
                         pbdiag_line(p->diag, p->tok.start));
        }
        if (wanted)
            ok = pbscalar_unquote(f, &p->tok, p->diag, &p->value) && ok;
    }
    if (wanted && ok)
        bytesbuf_pb_bytes(p->out, upb_FieldDef_Number(f), p->value.p, p->value.n);
    p->no_mem = p->no_mem || p->value.failed;
    after_value(p);
}

/* A number or a word, perhaps behind a minus sign that may stand apart. */
static void word_value(struct parser *p, const upb_FieldDef *f)
{
    const char *start = p->tok.start;
    enum pbtext_kind kind;
    size_t len;

    if (pbtext_lex_is(&p->tok, '-')) {
        advance(p);
        if (p->tok.kind != PBTEXT_NUMBER && p->tok.kind != PBTEXT_IDENT) {
            unexpected(p, "a number should follow the minus sign");
            if (p->tok.kind != PBTEXT_END)
                recover(p);
            return;
        }
    }
    kind = p->tok.kind;
    len = (size_t)(p->tok.start - start) + p->tok.len;
    if (f != NULL)
        pbscalar_word(f, kind, start, len, p->options->lossy, p->diag, p->out);
    advance(p);
    after_value(p);
}

/* True if the word at hand is the name of the next field, so that this one has no value. */
static bool is_next_field(const struct parser *p)
{
    struct pbtext_lex ahead = p->lex;
    struct pbtext_token t;

    if (p->tok.kind != PBTEXT_IDENT || !p->tok.first)
        return false;
    t = pbtext_lex_next(&ahead);
    return pbtext_lex_is(&t, ':') || pbtext_lex_is(&t, '{');
}

static void value(struct parser *p, const upb_FieldDef *f)
{
    char wanted[128];

    if (pbtext_lex_is(&p->tok, '{') || pbtext_lex_is(&p->tok, '<')) {
        open_message(p, f);
    } else if (pbtext_lex_is(&p->tok, '[') && !top(p)->is_list) {
        open_list(p, f);
    } else if (p->tok.kind == PBTEXT_STRING) {
        string_value(p, f);
    } else if ((p->tok.kind == PBTEXT_IDENT && !is_next_field(p)) || p->tok.kind == PBTEXT_NUMBER ||
               pbtext_lex_is(&p->tok, '-')) {
        word_value(p, f);
    } else {
        (void)snprintf(wanted, sizeof(wanted), "a value of type %s for field %.60s is missing",
                       f ? pbscalar_type_name(f) : "any", f ? upb_FieldDef_Name(f) : "");
        unexpected(p, f ? wanted : "a value is missing");
        if (p->tok.kind != PBTEXT_END && p->tok.kind != PBTEXT_IDENT)
            recover(p);
    }
}

/* ---- fields ---- */

/* True the first time a field is met in the message at hand, and always for repeated ones. */
static bool mark_seen(struct parser *p, const upb_FieldDef *f)
{
    uint32_t i = upb_FieldDef_Index(f);
    uint64_t *word, bit;

    if (upb_FieldDef_IsRepeated(f) || upb_FieldDef_IsExtension(f))
        return true;
    word = &p->seen[top(p)->seen + i / 64];
    bit = (uint64_t)1 << (i % 64);
    if (*word & bit)
        return false;
    *word |= bit;
    return true;
}

static void field(struct parser *p)
{
    const upb_MessageDef *m = top(p)->msg;
    const upb_FieldDef *f = NULL;

    if (m != NULL) {
        f = upb_MessageDef_FindFieldByNameWithSize(m, p->tok.start, p->tok.len);
        if (f == NULL && !p->options->lossy)
            unknown_field(p, m);
        else if (f != NULL && !mark_seen(p, f))
            pbdiag_error(p->diag, p->tok.start, p->tok.len,
                         "Saw non-repeating field '%s' more than once", upb_FieldDef_Name(f));
    }
    advance(p);
    if (pbtext_lex_is(&p->tok, ':'))
        advance(p);
    value(p, f);
}

static const upb_FieldDef *find_extension(struct parser *p, const char *name, size_t len,
                                          const char *bracket)
{
    const upb_MessageDef *m = top(p)->msg, *of;
    const upb_FieldDef *f = NULL;
    int shown = (int)(len < 120 ? len : 120);

    if (m == NULL)
        return NULL;
    if (p->pool != NULL)
        f = upb_DefPool_FindExtensionByNameWithSize(p->pool, name, len);
    of = f ? upb_FieldDef_ContainingType(f) : NULL;
    if (of == m)
        return f;
    if (p->options->lossy)
        return NULL;
    if (f == NULL)
        pbdiag_error(p->diag, bracket, len + 2, "No extension named \"%.*s\"", shown, name);
    else
        pbdiag_error(p->diag, bracket, len + 2, "Extension \"%.*s\" extends proto %s, not %s",
                     shown, name, upb_MessageDef_Name(of), upb_MessageDef_Name(m));
    return NULL;
}

/* "[" name "]" as a key; the name holds no blanks (R1135). */
static void extension(struct parser *p)
{
    const char *bracket = p->tok.start, *name = bracket + 1, *at = name;
    const upb_FieldDef *f;

    while (at < p->lex.end &&
           ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
            (*at >= '0' && *at <= '9') || *at == '_' || *at == '.' || *at == '/' || *at == '-'))
        at++;
    p->lex.at = at;
    advance(p);
    if (p->tok.start != at || !pbtext_lex_is(&p->tok, ']')) {
        unexpected(p, "an extension is written [package.name]");
        if (p->tok.kind != PBTEXT_END)
            recover(p);
        return;
    }
    if (at == name)
        pbdiag_error(p->diag, bracket, 2, "The extension name is empty");
    f = at == name ? NULL : find_extension(p, name, (size_t)(at - name), bracket);
    if (f != NULL && !mark_seen(p, f))
        pbdiag_error(p->diag, bracket, p->tok.len, "Saw non-repeating field '%s' more than once",
                     upb_FieldDef_Name(f));
    advance(p);
    if (pbtext_lex_is(&p->tok, ':'))
        advance(p);
    value(p, f);
}

/* ---- what may stand where ---- */

static void close_message(struct parser *p)
{
    struct frame fr = *top(p);

    if (p->depth == 1) {
        pbdiag_error(p->diag, p->tok.start, 1, "Unmatched closing brace");
        advance(p);
        return;
    }
    if (*p->tok.start != fr.close)
        pbdiag_error(p->diag, p->tok.start, 1,
                     "Unexpected character '%c': the message opened on line %u ends with '%c'",
                     *p->tok.start, pbdiag_line(p->diag, fr.open), fr.close);
    if (fr.msg != NULL)
        bytesbuf_pb_end(p->out, fr.mark);
    pop(p);
    advance(p);
    after_value(p);
}

static void message_item(struct parser *p)
{
    if (p->tok.kind == PBTEXT_IDENT) {
        field(p);
    } else if (pbtext_lex_is(&p->tok, '}') || (pbtext_lex_is(&p->tok, '>') && p->depth > 1)) {
        close_message(p);
    } else if (pbtext_lex_is(&p->tok, '[')) {
        extension(p);
    } else {
        unexpected(p, p->tok.kind == PBTEXT_NUMBER ? "fields are given by name, not by number"
                                                   : "the name of a field is expected here");
        recover(p);
    }
}

static void list_item(struct parser *p)
{
    struct frame *fr = top(p);

    if (pbtext_lex_is(&p->tok, ']')) {
        if (fr->state == LIST_AFTER_COMMA)
            unexpected(p, "a value should follow the comma");
        pop(p);
        advance(p);
        after_value(p);
    } else if (fr->state != LIST_AFTER_VALUE) {
        size_t depth = p->depth;
        unsigned errors = p->diag->errors;
        fr->state = LIST_AFTER_VALUE;
        value(p, fr->list_field);
        /* recovery has left the list: what follows is the next field */
        if (p->depth == depth && p->diag->errors > errors && is_next_field(p))
            pop(p);
    } else if (pbtext_lex_is(&p->tok, ',')) {
        fr->state = LIST_AFTER_COMMA;
        advance(p);
    } else {
        unexpected(p, "a list goes on with ',' or ends with ']'");
        if (p->tok.kind != PBTEXT_IDENT || !p->tok.first)
            recover(p);
        pop(p);
    }
}

static void check_closed(struct parser *p)
{
    const struct frame *fr = top(p);

    if (p->depth > 1 && !p->ended)
        pbdiag_error(p->diag, p->tok.start, 0, "%s not closed: '%c' of line %u needs its '%c'",
                     fr->is_list ? "List" : "Nested message", *fr->open,
                     pbdiag_line(p->diag, fr->open), fr->close);
}

int pbtext_parse(const upb_MessageDef *root, const upb_DefPool *pool,
                 const struct pbtext_options *options, struct pbdiag *diag, struct bytesbuf *out)
{
    struct parser p = {.options = options, .pool = pool, .diag = diag, .out = out};
    struct frame fr = {.msg = root, .open = diag->text};
    unsigned errors = diag->errors;

    bytesbuf_init(&p.value, diag->len + 1);
    pbtext_lex_init(&p.lex, diag->text, diag->len);
    push(&p, &fr);
    advance(&p);
    while (!p.no_mem && p.tok.kind != PBTEXT_END) {
        if (top(&p)->is_list)
            list_item(&p);
        else
            message_item(&p);
    }
    if (!p.no_mem)
        check_closed(&p);
    bytesbuf_fini(&p.value);
    free(p.frames);
    free(p.seen);
    if (p.no_mem || out->failed)
        return -ENOMEM;
    return diag->errors == errors ? 0 : ERR_BAD_CONFIG;
}
