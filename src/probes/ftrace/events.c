/* SPDX-License-Identifier: Apache-2.0 */
/* events: joins what the trace can express (evtab) with what the kernel says (format).
 *
 * An event is loaded when a config first names it, so an idle daemon holds no table. Loading turns
 * the format into a plan, a short array of (offset, kind, field number): the decoder (evenc) then
 * copies fields without looking at a name again. Owned by one ftrace multiplexer per tracefs
 * instance. Invariant: every plan field that has a fixed place lies inside min_size bytes, which
 * evenc compares with the record once. A field whose kernel type does not fit its message type is
 * left out, the event stays (R78). */
#include "probes/ftrace/events.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "probes/ftrace/evtab.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "smb/pbw.h"

#define FIELD_CAP 255 /* of one plan */

/* R78: the (kernel type, message type) pairs that make sense. */
static bool fits(const struct format_field *f, enum evtab_type t)
{
    switch (f->kind) {
    case FORMAT_FIXED_STR:
    case FORMAT_STR_END:
    case FORMAT_STR_PTR:
    case FORMAT_DATALOC_STR:
        return t == EVTAB_STR;
    case FORMAT_DATALOC_BYTES:
        return t == EVTAB_BYTES;
    case FORMAT_SYMADDR:
    case FORMAT_INODE:
    case FORMAT_DEV:
        return t == EVTAB_U64;
    case FORMAT_PID:
    case FORMAT_COMMON_PID:
        return t == EVTAB_I32 || t == EVTAB_I64;
    case FORMAT_BOOL:
        return t == EVTAB_U32 || t == EVTAB_U64;
    case FORMAT_UINT:
        return t == EVTAB_U64 || (t == EVTAB_U32 && f->width < 8);
    case FORMAT_SINT:
        return t == EVTAB_I64 || (t == EVTAB_I32 && f->width < 8);
    case FORMAT_NONE:
        break;
    }
    return false;
}

/* Bytes of the record that a field needs, for min_size. */
static uint32_t field_end(const struct format_field *f)
{
    return (uint32_t)f->offset + f->size;
}

static void plan_field(struct events_event *e, const struct format_field *f, uint16_t number)
{
    struct events_field *p = &e->fields[e->n_fields++];
    *p = (struct events_field){.offset = f->offset,
                               .size = f->size,
                               .number = number,
                               .kind = (uint8_t)f->kind,
                               .width = f->width,
                               .count = 1};
    if (f->width && f->size > f->width && f->kind == FORMAT_UINT)
        p->count = (uint8_t)(f->size / f->width);
}

static void plan_static(struct events_event *e, const struct evtab_event *st,
                        const struct format *f)
{
    bool graph = strcmp(e->group, "ftrace") == 0 && strncmp(e->name, "funcgraph_", 10) == 0;
    e->fields = alloc_array(st->n_fields ? st->n_fields : 1, sizeof *e->fields);
    for (unsigned i = 0; i < st->n_fields; i++) {
        const struct evtab_field *want = &st->fields[i];
        const struct format_field *have = format_find(f, evtab_str(want->name));
        struct format_field field;
        if (!have)
            continue;
        field = *have;
        if (graph && strcmp(field.name, "func") == 0 && (field.size == 4 || field.size == 8))
            field.kind = FORMAT_SYMADDR; /* R92 */
        if (field_end(&field) > e->min_size)
            e->min_size = field_end(&field);
        if (fits(&field, want->type))
            plan_field(e, &field, want->number);
    }
}

/* Generic events number their fields 1, 2, ... in file order (R94). */
static void plan_generic(struct events_event *e, const struct format *f)
{
    e->fields = alloc_array(f->n_fields, sizeof *e->fields);
    for (unsigned i = 0; i < f->n_fields; i++) {
        const struct format_field *field = &f->fields[i];
        if (field_end(field) > e->min_size)
            e->min_size = field_end(field);
        if (field->is_common || !field->name[0] || field->kind == FORMAT_NONE ||
            e->n_fields == FIELD_CAP)
            continue;
        plan_field(e, field, (uint16_t)(e->n_fields + 1));
        e->fields[e->n_fields - 1].count = 1;
        e->fields[e->n_fields - 1].name = alloc_strdup(field->name);
    }
}

static enum events_special special_of(const char *group, const char *name)
{
    if (strcmp(group, "task") == 0 && strcmp(name, "task_rename") == 0)
        return EVENTS_RENAME;
    if (strcmp(group, "raw_syscalls") != 0)
        return EVENTS_PLAIN;
    if (strcmp(name, "sys_enter") == 0)
        return EVENTS_SYS_ENTER;
    return strcmp(name, "sys_exit") == 0 ? EVENTS_SYS_EXIT : EVENTS_PLAIN;
}

static void free_event(struct events_event *e)
{
    for (unsigned i = 0; i < e->n_fields; i++)
        free((char *)(uintptr_t)e->fields[i].name);
    free(e->fields);
    free(e->group);
    free(e->name);
    free(e);
}

static void insert(struct events *ev, struct events_event *e)
{
    if (e->id >= ev->n_ids) {
        uint32_t n = ((uint32_t)e->id + 64) & ~63U;
        ev->by_id = alloc_resize(ev->by_id, n, sizeof *ev->by_id);
        memset(ev->by_id + ev->n_ids, 0, (n - ev->n_ids) * sizeof *ev->by_id);
        ev->n_ids = n;
    }
    if (ev->by_id[e->id])
        free_event(ev->by_id[e->id]);
    ev->by_id[e->id] = e;
}

static void learn_common(struct events *ev, const struct format *f)
{
    const struct format_field *pid = format_find(f, "common_pid");
    ev->has_pid = pid && pid->size == 4;
    ev->pid_offset = pid ? pid->offset : 0;
}

static struct events_event *add(struct events *ev, const char *group, const char *name,
                                const struct format *f, bool generic_ok)
{
    struct evtab_event st;
    bool is_static = evtab_find(group, name, &st) == 0;
    if (f->id > EVENTS_MAX_ID || (!is_static && !generic_ok) ||
        (!is_static && ev->next_generic == EVENTS_GENERIC_END))
        return NULL;
    struct events_event *e = alloc_new(struct events_event);
    e->group = alloc_strdup(group);
    e->name = alloc_strdup(name);
    e->id = (uint16_t)f->id;
    e->generic = !is_static;
    e->special = (uint8_t)special_of(group, name);
    if (ev->has_pid)
        e->min_size = ev->pid_offset + 4U;
    if (is_static) {
        e->number = st.number;
        plan_static(e, &st, f);
    } else {
        e->number = ev->next_generic++;
        plan_generic(e, f);
    }
    insert(ev, e);
    return e;
}

struct events_event *events_add_format(struct events *ev, const char *group, const char *name,
                                       const char *text, size_t len, bool generic_ok)
{
    struct format f;
    if (format_parse(text, len, &f))
        return NULL;
    if (!ev->has_pid)
        learn_common(ev, &f);
    struct events_event *e = add(ev, group, name, &f, generic_ok);
    format_fini(&f);
    return e;
}

static int read_format(const struct events *ev, const char *group, const char *name,
                       struct procfs_buf *b)
{
    char path[2 * FORMAT_DECL_MAX + 32];
    int n = snprintf(path, sizeof path, "events/%s/%s/format", group, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return -ENAMETOOLONG;
    int rc = tracefs_read(ev->fs, path, b);
    return rc == 0 && b->len == 0 ? -ENOENT : rc;
}

struct events_event *events_load(struct events *ev, const char *group, const char *name,
                                 bool generic_ok)
{
    /* R76: writing to trace_marker works even where this format cannot be read. */
    static const char print[] = "name: print\nID: 5\nformat:\n"
                                "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n"
                                "\tfield:char buf;\toffset:16;\tsize:0;\tsigned:0;\n";
    struct events_event *e = events_find(ev, group, name);
    if (e)
        return e->generic && !generic_ok ? NULL : e;
    struct procfs_buf b = {0};
    if (read_format(ev, group, name, &b) == 0)
        e = events_add_format(ev, group, name, b.data, b.len, generic_ok);
    else if (strcmp(group, "ftrace") == 0 && strcmp(name, "print") == 0)
        e = events_add_format(ev, group, name, print, sizeof print - 1, false);
    procfs_buf_fini(&b);
    return e;
}

struct events_event *events_by_id(const struct events *ev, uint32_t id)
{
    return id < ev->n_ids ? ev->by_id[id] : NULL;
}

struct events_event *events_find(const struct events *ev, const char *group, const char *name)
{
    for (uint32_t i = 0; i < ev->n_ids; i++) {
        struct events_event *e = ev->by_id[i];
        if (e && strcmp(e->name, name) == 0 && strcmp(e->group, group) == 0)
            return e;
    }
    return NULL;
}

void events_forget(struct events *ev, struct events_event *e)
{
    if (events_by_id(ev, e->id) == e)
        ev->by_id[e->id] = NULL;
    free_event(e);
}

static bool present(const struct events *ev, const char *group, const char *name)
{
    char path[2 * FORMAT_DECL_MAX + 32];
    snprintf(path, sizeof path, "events/%s/%s/format", group, name);
    return tracefs_readable(ev->fs, path);
}

const char *events_group_of(const struct events *ev, const char *name)
{
    for (size_t i = 0; i < evtab_count(); i++) {
        struct evtab_event st;
        evtab_at(i, &st);
        if (strcmp(st.name, name) == 0 &&
            (present(ev, st.group, name) || strcmp(name, "print") == 0))
            return st.group;
    }
    for (uint32_t i = 0; i < ev->n_ids; i++)
        if (ev->by_id[i] && ev->by_id[i]->generic && strcmp(ev->by_id[i]->name, name) == 0)
            return ev->by_id[i]->group;
    return NULL;
}

/* ---- printk_formats (R93) ---- */

struct printk {
    uint64_t addr;
    struct ptext text;
    size_t order;
};

static bool printk_line(struct ptext line, struct printk *out)
{
    struct ptext addr;
    const char *colon = memchr(line.p, ':', ptext_len(line));
    if (!colon)
        return false;
    ptext_cut(&line, ':', &addr);
    if (line.p < line.end && *line.p == ':')
        line.p++;
    if (line.p < line.end && *line.p == ' ')
        line.p++;
    if (line.p < line.end && *line.p == '"')
        line.p++;
    if (line.p < line.end && line.end[-1] == '"')
        line.end--;
    if (addr.p < addr.end && addr.end[-1] == ' ')
        addr.end--;
    if (line.p == line.end || !ptext_hex(addr, &out->addr) || out->addr == 0)
        return false;
    out->text = line;
    return true;
}

static int by_addr(const void *a, const void *b)
{
    const struct printk *x = a, *y = b;
    if (x->addr != y->addr)
        return x->addr < y->addr ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

void events_set_printk(struct events *ev, struct ptext text)
{
    struct printk *all = NULL;
    size_t n = 0, cap = 0;
    struct ptext line;
    while (ptext_line(&text, &line)) {
        struct printk one = {.order = n};
        if (!printk_line(line, &one))
            continue;
        if (n == cap)
            all = alloc_resize(all, cap = cap ? cap * 2 : 64, sizeof *all);
        all[n++] = one;
    }
    if (n)
        qsort(all, n, sizeof *all, by_addr);
    ev->printk_addr = alloc_array(n, sizeof *ev->printk_addr);
    ev->printk_text = alloc_array(n, sizeof *ev->printk_text);
    for (size_t i = 0; i < n; i++) {
        if (ev->n_printk && ev->printk_addr[ev->n_printk - 1] == all[i].addr)
            continue; /* the first entry of an address wins */
        ev->printk_addr[ev->n_printk] = all[i].addr;
        ev->printk_text[ev->n_printk++] = alloc_strndup(all[i].text.p, ptext_len(all[i].text));
    }
    free(all);
}

const char *events_printk(const struct events *ev, uint64_t addr)
{
    size_t lo = 0, hi = ev->n_printk;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ev->printk_addr[mid] == addr)
            return ev->printk_text[mid];
        if (ev->printk_addr[mid] < addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return "";
}

/* ---- compact scheduling formats (R153) ---- */

static bool want(const struct format *f, const char *name, enum format_kind kind, unsigned size,
                 uint16_t *offset)
{
    const struct format_field *x = format_find(f, name);
    if (!x || x->kind != kind || x->size != size)
        return false;
    *offset = x->offset;
    return true;
}

static bool switch_ok(const struct format *f, struct events_sched *s)
{
    s->switch_id = (uint16_t)f->id;
    s->prev_state_width = 8;
    if (!want(f, "prev_state", FORMAT_SINT, 8, &s->prev_state)) {
        s->prev_state_width = 4;
        if (!want(f, "prev_state", FORMAT_SINT, 4, &s->prev_state))
            return false;
    }
    return want(f, "next_pid", FORMAT_PID, 4, &s->next_pid) &&
           want(f, "next_prio", FORMAT_SINT, 4, &s->next_prio) &&
           want(f, "next_comm", FORMAT_FIXED_STR, 16, &s->next_comm) &&
           want(f, "common_flags", FORMAT_UINT, 1, &s->flags);
}

static bool waking_ok(const struct format *f, struct events_sched *s)
{
    s->waking_id = (uint16_t)f->id;
    return want(f, "pid", FORMAT_PID, 4, &s->pid) &&
           want(f, "target_cpu", FORMAT_SINT, 4, &s->target_cpu) &&
           want(f, "prio", FORMAT_SINT, 4, &s->prio) &&
           want(f, "comm", FORMAT_FIXED_STR, 16, &s->comm) &&
           want(f, "common_flags", FORMAT_UINT, 1, &s->flags);
}

/* Length that covers every field of the record. */
static uint32_t whole_size(const struct format *f)
{
    uint32_t end = 0;
    for (unsigned i = 0; i < f->n_fields; i++)
        if (field_end(&f->fields[i]) > end)
            end = field_end(&f->fields[i]);
    return end;
}

static bool check_sched(const struct events *ev, const char *name, struct events_sched *s,
                        bool (*ok)(const struct format *, struct events_sched *), uint32_t *size)
{
    struct procfs_buf b = {0};
    struct format f;
    bool good = read_format(ev, "sched", name, &b) == 0 && format_parse(b.data, b.len, &f) == 0;
    procfs_buf_fini(&b);
    if (!good)
        return false;
    good = f.id <= EVENTS_MAX_ID && ok(&f, s);
    *size = whole_size(&f);
    format_fini(&f);
    return good;
}

/* Size of the kernel's long, which a 32-bit process does not share (R64). */
static unsigned kernel_long(void)
{
    struct utsname u;
    if (sizeof(long) == 8 || uname(&u))
        return sizeof(long);
    return strstr(u.machine, "64") || strstr(u.machine, "armv8") ? 8 : 4;
}

void events_init(struct events *ev, const struct tracefs *fs)
{
    struct procfs_buf b = {0};
    *ev = (struct events){.fs = fs, .next_generic = EVENTS_GENERIC_FIRST};
    ev->commit_width = kernel_long();
    ev->page_size = (unsigned)sysconf(_SC_PAGESIZE);
    if (tracefs_read(fs, "events/header_page", &b) == 0)
        format_page_layout(b.data, b.len, &ev->commit_width, &ev->page_size);
    if (tracefs_read(fs, "printk_formats", &b) == 0)
        events_set_printk(ev, procfs_text(&b));
    procfs_buf_fini(&b);
    struct events_sched *s = &ev->sched;
    s->valid = check_sched(ev, "sched_switch", s, switch_ok, &s->switch_size) &&
               check_sched(ev, "sched_waking", s, waking_ok, &s->waking_size);
    events_load(ev, "ftrace", "print", false);
}

void events_fini(struct events *ev)
{
    for (uint32_t i = 0; i < ev->n_ids; i++)
        if (ev->by_id[i])
            free_event(ev->by_id[i]);
    free(ev->by_id);
    for (size_t i = 0; i < ev->n_printk; i++)
        free(ev->printk_text[i]);
    free(ev->printk_text);
    free(ev->printk_addr);
    *ev = (struct events){0};
}

/* ---- description of generic events ---- */

/* FieldDescriptorProto.Type. */
enum { TYPE_INT64 = 3, TYPE_UINT64 = 4, TYPE_STRING = 9, TYPE_BYTES = 12 };

static unsigned descriptor_type(const struct events_field *f)
{
    switch ((enum format_kind)f->kind) {
    case FORMAT_FIXED_STR:
    case FORMAT_STR_END:
    case FORMAT_STR_PTR:
    case FORMAT_DATALOC_STR:
        return TYPE_STRING;
    case FORMAT_DATALOC_BYTES:
        return TYPE_BYTES;
    case FORMAT_SINT:
    case FORMAT_PID:
    case FORMAT_COMMON_PID:
        return TYPE_INT64;
    default:
        return TYPE_UINT64;
    }
}

size_t events_descriptor(const struct events_event *e, uint8_t *buf, size_t cap)
{
    struct pbw_flat f;
    pbw_flat_init(&f, buf, cap);
    pbw_str(&f.pbw, PBF_DescriptorProto_name, e->name);
    for (unsigned i = 0; i < e->n_fields; i++) {
        pbw_begin(&f.pbw, PBF_DescriptorProto_field);
        pbw_str(&f.pbw, PBF_FieldDescriptorProto_name, e->fields[i].name);
        pbw_varint(&f.pbw, PBF_FieldDescriptorProto_number, e->fields[i].number);
        pbw_varint(&f.pbw, PBF_FieldDescriptorProto_type, descriptor_type(&e->fields[i]));
        pbw_end(&f.pbw);
    }
    ptrdiff_t n = pbw_flat_end(&f);
    return n > 0 ? (size_t)n : 0;
}
