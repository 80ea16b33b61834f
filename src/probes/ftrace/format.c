/* format: reads the kernel's format files.
 *
 * A format file is the only source for where a field lies in a record, so everything the event
 * decoder later trusts (offset, size, kind) is settled here and is bounded: offset + size fits 16
 * bits twice over, a declaration has at most 127 bytes, and the number of fields has a cap. The
 * parsed form lives only while the event table is built. A file that does not follow the grammar is
 * refused as a whole rather than half believed. */
#include "probes/ftrace/format.h"
#include "probes/ptext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool ident_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool ident_char(char c)
{
    return ident_start(c) || (c >= '0' && c <= '9');
}

static bool is_ident(const char *s, size_t n)
{
    if (n == 0 || !ident_start(s[0]))
        return false;
    for (size_t i = 1; i < n; i++)
        if (!ident_char(s[i]))
            return false;
    return true;
}

void format_field_name(const char *decl, char *name)
{
    size_t n = strlen(decl);
    name[0] = '\0';
    if (n && decl[n - 1] == ']') {
        const char *open = strrchr(decl, '[');
        if (!open)
            return;
        n = (size_t)(open - decl);
    }
    const char *space = memrchr(decl, ' ', n);
    if (!space)
        return; /* a type alone names nothing */
    const char *start = space + 1;
    n -= (size_t)(start - decl);
    if (n > FORMAT_DECL_MAX || !is_ident(start, n))
        return;
    memcpy(name, start, n);
    name[n] = '\0';
}

/* Some `char NAME[TOKEN]` occurs in the declaration. */
static bool has_char_array(const char *decl)
{
    for (const char *p = decl; (p = strstr(p, "char ")); p++) {
        const char *q = p + 5, *name = q;
        while (ident_char(*q))
            q++;
        if (!is_ident(name, (size_t)(q - name)) || *q != '[')
            continue;
        const char *token = ++q;
        while (ident_char(*q))
            q++;
        if (q > token && *q == ']')
            return true;
    }
    return false;
}

static bool starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static enum format_kind data_loc_kind(const char *decl)
{
    static const char *const bytes[] = {"__data_loc u8[] ", "__data_loc __u8[] ",
                                        "__data_loc unsigned char[] "};
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++)
        if (strstr(decl, bytes[i]))
            return FORMAT_DATALOC_BYTES;
    return FORMAT_DATALOC_STR;
}

/* Declarations that start with a type name of a special meaning, rows 5 and 7 to 11. */
static enum format_kind named_kind(const char *decl, unsigned size)
{
    bool word = size == 4 || size == 8;
    if ((starts(decl, "void*") || starts(decl, "void *")) && word)
        return FORMAT_SYMADDR;
    if (starts(decl, "char ") && size == 0)
        return FORMAT_STR_END;
    if (starts(decl, "bool ") && size == 1)
        return FORMAT_BOOL;
    if ((starts(decl, "ino_t ") || starts(decl, "i_ino ")) && word)
        return FORMAT_INODE;
    if (starts(decl, "dev_t ") && word)
        return FORMAT_DEV;
    if (starts(decl, "pid_t ") && size == 4)
        return FORMAT_PID;
    if (strstr(decl, "common_pid") && size == 4)
        return FORMAT_COMMON_PID;
    return FORMAT_NONE;
}

enum format_kind format_field_kind(const char *decl, unsigned size, bool is_signed, uint8_t *width)
{
    *width = 0;
    if (has_char_array(decl))
        return FORMAT_FIXED_STR;
    if (strstr(decl, "__data_loc "))
        return size == 4 ? data_loc_kind(decl) : FORMAT_NONE;
    if (strcmp(decl, "unsigned long args[6]") == 0 && (size == 24 || size == 48)) {
        *width = (uint8_t)(size / 6);
        return FORMAT_UINT;
    }
    if (strstr(decl, "char[] ") || strstr(decl, "char * ")) {
        *width = size == 8 ? 8 : 4;
        return size == 4 || size == 8 ? FORMAT_STR_PTR : FORMAT_NONE;
    }
    enum format_kind k = named_kind(decl, size);
    if (k == FORMAT_STR_END)
        return k;
    if (size != 1 && size != 2 && size != 4 && size != 8)
        return FORMAT_NONE;
    *width = (uint8_t)size;
    if (k != FORMAT_NONE)
        return k;
    return is_signed ? FORMAT_SINT : FORMAT_UINT;
}

static void skip_white(struct ptext *t)
{
    while (t->p < t->end && (*t->p == ' ' || *t->p == '\t'))
        t->p++;
}

/* Takes `KEY: NUMBER;` off the line. */
static bool take_number(struct ptext *t, const char *key, uint64_t *v)
{
    skip_white(t);
    if (!ptext_starts(*t, key))
        return false;
    t->p += strlen(key);
    struct ptext val;
    const char *semi = memchr(t->p, ';', ptext_len(*t));
    if (!semi)
        return false;
    val = (struct ptext){t->p, semi};
    t->p = semi + 1;
    return ptext_u64(val, v);
}

static bool parse_field(struct ptext line, struct format_field *f)
{
    uint64_t offset, size, sign;
    skip_white(&line);
    if (!ptext_starts(line, "field:"))
        return false;
    line.p += strlen("field:");
    skip_white(&line);
    struct ptext decl;
    if (!memchr(line.p, ';', ptext_len(line)) || !ptext_cut(&line, ';', &decl) ||
        ptext_len(decl) > FORMAT_DECL_MAX)
        return false;
    if (!take_number(&line, "offset:", &offset) || !take_number(&line, "size:", &size) ||
        !take_number(&line, "signed:", &sign) || offset > UINT16_MAX || size > UINT16_MAX)
        return false;
    ptext_copy(decl, f->decl, sizeof f->decl);
    format_field_name(f->decl, f->name);
    f->offset = (uint16_t)offset;
    f->size = (uint16_t)size;
    f->is_signed = sign == 1;
    f->is_common = starts(f->name, "common_");
    f->kind = format_field_kind(f->decl, f->size, f->is_signed, &f->width);
    return true;
}

/* Field lines up to "print fmt:", an unknown line or the end (R73). */
static int parse_fields(struct ptext *t, struct format *f)
{
    struct ptext line;
    unsigned cap = 0;
    while (ptext_line(t, &line)) {
        if (ptext_len(ptext_trim(line)) == 0)
            continue;
        struct format_field field;
        if (!parse_field(line, &field))
            break;
        if (f->n_fields == FORMAT_FIELDS_MAX)
            return -E2BIG;
        if (f->n_fields == cap) {
            cap = cap ? cap * 2 : 16;
            struct format_field *grown = realloc(f->fields, cap * sizeof *grown);
            if (!grown)
                return -ENOMEM;
            f->fields = grown;
        }
        f->fields[f->n_fields++] = field;
    }
    return 0;
}

static int parse_head(struct ptext *t, struct format *f, bool *have_id)
{
    struct ptext line;
    while (ptext_line(t, &line)) {
        uint64_t id;
        if (ptext_len(ptext_trim(line)) == 0)
            continue;
        if (ptext_eq(line, "format:"))
            return 0;
        if (ptext_starts(line, "name: ")) {
            line.p += strlen("name: ");
            line = ptext_trim(line);
            if (ptext_len(line) > FORMAT_DECL_MAX)
                return -EINVAL;
            ptext_copy(line, f->name, sizeof f->name);
        } else if (ptext_starts(line, "ID: ")) {
            line.p += strlen("ID: ");
            if (!ptext_u64(line, &id) || id > UINT32_MAX)
                return -EINVAL;
            f->id = (uint32_t)id;
            *have_id = true;
        } else {
            return -EINVAL;
        }
    }
    return -EINVAL; /* no "format:" line */
}

int format_parse(const char *text, size_t len, struct format *out)
{
    struct format f = {0};
    struct ptext t = ptext_of(text, len);
    bool have_id = false, have_common = false;
    int rc = parse_head(&t, &f, &have_id);
    if (rc == 0)
        rc = parse_fields(&t, &f);
    for (unsigned i = 0; i < f.n_fields; i++)
        have_common |= f.fields[i].is_common;
    if (rc == 0 && (!have_id || !f.name[0] || !have_common))
        rc = -EINVAL;
    if (rc) {
        format_fini(&f);
        return rc;
    }
    *out = f;
    return 0;
}

void format_page_layout(const char *text, size_t len, unsigned *commit_width, unsigned *page_size)
{
    struct format f = {0};
    struct ptext t = ptext_of(text, len);
    if (parse_fields(&t, &f) == 0) {
        const struct format_field *c = format_find(&f, "commit"), *d = format_find(&f, "data");
        if (c && (c->size == 4 || c->size == 8))
            *commit_width = c->size;
        if (d && d->size >= 1024 && d->offset >= 12 && d->offset <= 16)
            *page_size = (unsigned)d->offset + d->size;
    }
    format_fini(&f);
}

const struct format_field *format_find(const struct format *f, const char *name)
{
    for (unsigned i = 0; i < f->n_fields; i++)
        if (strcmp(f->fields[i].name, name) == 0)
            return &f->fields[i];
    return NULL;
}

void format_fini(struct format *f)
{
    free(f->fields);
    *f = (struct format){0};
}
