/* format: the kernel's description of one event's record layout (events/GROUP/EVENT/format). */
#ifndef PROBES_FTRACE_FORMAT_H
#define PROBES_FTRACE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a field is in the kernel's record; inferred from its declaration (probes.md 4.11). */
enum format_kind {
    FORMAT_NONE = 0, /* not inferable: the field cannot be recorded */
    FORMAT_FIXED_STR,
    FORMAT_DATALOC_STR,
    FORMAT_DATALOC_BYTES,
    FORMAT_STR_PTR,
    FORMAT_STR_END,
    FORMAT_SYMADDR,
    FORMAT_BOOL,
    FORMAT_INODE,
    FORMAT_DEV,
    FORMAT_PID,
    FORMAT_COMMON_PID,
    FORMAT_UINT,
    FORMAT_SINT,
};

#define FORMAT_DECL_MAX   127 /* R73 */
#define FORMAT_FIELDS_MAX 512 /* ours: no kernel event has a quarter of it */

struct format_field {
    char decl[FORMAT_DECL_MAX + 1]; /* type and name as the kernel prints them */
    char name[FORMAT_DECL_MAX + 1]; /* "" if no name can be told (R75) */
    uint16_t offset, size;
    bool is_signed, is_common;
    enum format_kind kind;
    uint8_t width; /* bytes of one scalar element: 1, 2, 4, 8; 0 for strings */
};

struct format {
    uint32_t id; /* 0 in header_page, which has none */
    char name[FORMAT_DECL_MAX + 1];
    struct format_field *fields; /* own; common fields and others, in file order */
    unsigned n_fields;
};

/* Parses a format file. 0, or -EINVAL if it is not a usable format (R73, R74), -ENOMEM, -E2BIG when
 * it has more than FORMAT_FIELDS_MAX fields. `f` is written on success only and then needs
 * format_fini. */
int format_parse(const char *text, size_t len, struct format *f);

/* Layout of a ring buffer page from events/header_page: bytes of its commit word (4 or 8, R64) and
 * of the whole page. What the text does not tell keeps the value it has. */
void format_page_layout(const char *text, size_t len, unsigned *commit_width, unsigned *page_size);

void format_fini(struct format *f);

/* Field by name, NULL if there is none. Borrowed from `f`. */
const struct format_field *format_find(const struct format *f, const char *name);

/* Name of a declaration (R75): "" if it has none. `name` holds FORMAT_DECL_MAX + 1 bytes. */
void format_field_name(const char *decl, char *name);

/* Kind and scalar width of a declaration (probes.md 4.11, first match wins). */
enum format_kind format_field_kind(const char *decl, unsigned size, bool is_signed, uint8_t *width);

#endif
