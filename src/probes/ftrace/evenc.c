/* SPDX-License-Identifier: Apache-2.0 */
/* evenc: copies the fields of a record into a message, as the event's plan says.
 *
 * This is the hot path: no allocation beyond the sets of ftmeta, no system call, no name. The
 * payload is built in a scratch buffer behind a gap; timestamp, pid, tag and length are then put in
 * front of it, so every length is minimal and the trace gets the event with one copy. The record is
 * kernel memory and is not trusted: its length was checked against the plan's minimum, each dynamic
 * string is checked against the record and against the scratch that is left. A record that does not
 * fit its format is INVALID_EVENT, and nothing of it is written. */
#include "probes/ftrace/evenc.h"

#include <limits.h>
#include <string.h>

#include "probes/ftrace/rbpage.h"
#include "probes/ftrace/sctab.h"
#include "protos/fieldnum.h"
#include "smb/pbw.h"

/* Longest encoding of anything that is not a string: six arguments of tag and varint each. */
#define SCALAR_ROOM 100

struct out {
    uint8_t *p, *end;
};

static void put_varint(struct out *o, uint32_t number, uint64_t v)
{
    o->p = bytes_put_varint(bytes_put_varint(o->p, number << 3 | PBW_VARINT), v);
}

static bool put_bytes(struct out *o, uint32_t number, const void *data, size_t len)
{
    if ((size_t)(o->end - o->p) < len + 2 * SCALAR_ROOM)
        return false;
    o->p = bytes_put_varint(bytes_put_varint(o->p, number << 3 | PBW_BYTES), len);
    memcpy(o->p, data, len);
    o->p += len;
    return true;
}

static uint64_t load(const uint8_t *p, unsigned width, bool is_signed)
{
    switch (width) {
    case 1:
        return is_signed ? (uint64_t)(int64_t)(int8_t)*p : *p;
    case 2:
        return is_signed ? (uint64_t)(int64_t)(int16_t)rbpage_u16(p) : rbpage_u16(p);
    case 4:
        return is_signed ? (uint64_t)(int64_t)(int32_t)rbpage_u32(p) : rbpage_u32(p);
    default:
        return rbpage_u64(p);
    }
}

uint64_t evenc_dev(uint64_t v)
{
    uint64_t major = v >> 20, minor = v & 0xfffff;
    return (major & 0xfffff000) << 32 | (major & 0xfff) << 8 | (minor & 0xffffff00) << 12 |
           (minor & 0xff);
}

/* A field that is a string or bytes: where it is in memory. False if it leaves the record. */
static bool locate(const struct evenc *enc, const struct events_field *f, const uint8_t *rec,
                   uint32_t len, const char **s, size_t *n)
{
    uint32_t word, off;
    *s = (const char *)rec + f->offset;
    switch ((enum format_kind)f->kind) {
    case FORMAT_FIXED_STR:
        *n = strnlen(*s, f->size);
        return true;
    case FORMAT_STR_END:
        if (f->offset > len)
            return false;
        *n = strnlen(*s, len - f->offset);
        return true;
    case FORMAT_STR_PTR:
        *s = events_printk(enc->ev, load(rec + f->offset, f->width, false));
        *n = strlen(*s);
        return true;
    default:
        word = rbpage_u32(rec + f->offset);
        off = word & 0xffff;
        *n = word >> 16;
        *s = (const char *)rec + off;
        if (*n == 0)
            return true;
        if (off > len || *n > len - off)
            return false;
        if (f->kind == FORMAT_DATALOC_STR)
            *n = strnlen(*s, *n);
        return true;
    }
}

static bool is_text(const struct events_field *f)
{
    return f->kind == FORMAT_FIXED_STR || f->kind == FORMAT_STR_END || f->kind == FORMAT_STR_PTR ||
           f->kind == FORMAT_DATALOC_STR || f->kind == FORMAT_DATALOC_BYTES;
}

/* A scalar's value as it goes on the wire; feeds the metadata on the way. */
static uint64_t scalar(struct evenc *enc, const struct events_field *f, const uint8_t *p)
{
    uint64_t v =
        load(p, f->width,
             f->kind == FORMAT_SINT || f->kind == FORMAT_PID || f->kind == FORMAT_COMMON_PID);
    uint32_t index;
    switch ((enum format_kind)f->kind) {
    case FORMAT_PID:
        ftmeta_pid(enc->meta, (int32_t)v);
        return v;
    case FORMAT_DEV:
        return evenc_dev(v);
    case FORMAT_SYMADDR:
        u64set_add(&enc->meta->syms, v, &index, NULL);
        return index + 1; /* never the address itself (R90) */
    default:
        return v;
    }
}

static bool put_field(struct evenc *enc, struct out *o, const struct events_field *f,
                      const uint8_t *rec, uint32_t len)
{
    if (is_text(f)) {
        const char *s;
        size_t n;
        return locate(enc, f, rec, len, &s, &n) && put_bytes(o, f->number, s, n);
    }
    if (o->end - o->p < SCALAR_ROOM)
        return false;
    for (unsigned i = 0; i < f->count; i++)
        put_varint(o, f->number, scalar(enc, f, rec + f->offset + (size_t)i * f->width));
    return true;
}

/* GenericFtraceEvent (R96). */
static bool put_legacy(struct evenc *enc, struct out *o, const struct events_event *e,
                       const uint8_t *rec, uint32_t len)
{
    if (!put_bytes(o, PBF_GenericFtraceEvent_event_name, e->name, strlen(e->name)))
        return false;
    for (unsigned i = 0; i < e->n_fields; i++) {
        struct events_field f = e->fields[i];
        uint8_t tmp[EVENC_HEAD + 4096 + SCALAR_ROOM * 3];
        struct out sub = {tmp, tmp + sizeof tmp};
        bool is_signed =
            f.kind == FORMAT_SINT || f.kind == FORMAT_PID || f.kind == FORMAT_COMMON_PID;
        if (f.kind == FORMAT_DATALOC_BYTES)
            return false;
        f.number = is_text(&f) ? PBF_GenericFtraceEvent_Field_str_value
                   : is_signed ? PBF_GenericFtraceEvent_Field_int_value
                               : PBF_GenericFtraceEvent_Field_uint_value;
        if (!put_bytes(&sub, PBF_GenericFtraceEvent_Field_name, f.name, strlen(f.name)) ||
            !put_field(enc, &sub, &f, rec, len) ||
            !put_bytes(o, PBF_GenericFtraceEvent_field, tmp, (size_t)(sub.p - tmp)))
            return false;
    }
    return true;
}

/* R22: a system call that returned a new file descriptor. */
static void note_fd(struct evenc *enc, const struct events_event *e, const uint8_t *rec,
                    int32_t pid)
{
    int64_t id = (int64_t)load(rec + e->fields[0].offset, e->fields[0].width, true);
    int64_t ret = (int64_t)load(rec + e->fields[1].offset, e->fields[1].width, true);
    if (pid >= 0 && ret >= 0 && ret <= INT_MAX && sctab_returns_fd(id))
        u64set_add(&enc->meta->fds, (uint64_t)pid << 32 | (uint64_t)ret, NULL, NULL);
}

static bool put_payload(struct evenc *enc, struct out *o, const struct events_event *e,
                        const uint8_t *rec, uint32_t len, int32_t pid)
{
    if (e->special == EVENTS_KPROBE) {
        if (!put_bytes(o, PBF_KprobeEvent_name, e->name, strlen(e->name)))
            return false;
        put_varint(o, PBF_KprobeEvent_type, e->kprobe);
        return true;
    }
    if (e->generic && enc->legacy_generic)
        return put_legacy(enc, o, e, rec, len);
    if ((e->special == EVENTS_SYS_ENTER || e->special == EVENTS_SYS_EXIT) && e->n_fields != 2)
        return false;
    for (unsigned i = 0; i < e->n_fields; i++)
        if (!put_field(enc, o, &e->fields[i], rec, len))
            return false;
    if (e->special == EVENTS_SYS_EXIT)
        note_fd(enc, e, rec, pid);
    return true;
}

static uint32_t message_number(const struct evenc *enc, const struct events_event *e)
{
    if (e->special == EVENTS_KPROBE)
        return PBF_FtraceEvent_kprobe_event;
    return e->generic && enc->legacy_generic ? PBF_FtraceEvent_generic : e->number;
}

int evenc_event(struct evenc *enc, const struct events_event *e, const uint8_t *rec, uint32_t len,
                uint64_t ts, const uint8_t **result)
{
    uint8_t *payload = enc->buf + EVENC_HEAD, head[EVENC_HEAD];
    struct out o = {payload, payload + EVENC_CAP}, h = {head, head + sizeof head};
    int32_t pid = 0;
    if (len < e->min_size)
        return -RBPAGE_INVALID_EVENT;
    put_varint(&h, PBF_FtraceEvent_timestamp, ts);
    if (enc->ev->has_pid) {
        pid = (int32_t)rbpage_u32(rec + enc->ev->pid_offset);
        put_varint(&h, PBF_FtraceEvent_pid, (uint64_t)(int64_t)pid); /* also when 0 (R81) */
    }
    if (!put_payload(enc, &o, e, rec, len, pid))
        return -RBPAGE_INVALID_EVENT;
    if (enc->ev->has_pid)
        ftmeta_pid(enc->meta, pid);
    if (e->special == EVENTS_RENAME && pid >= 0)
        u64set_add(&enc->meta->renames, (uint64_t)pid, NULL, NULL);
    size_t n = (size_t)(o.p - payload);
    h.p = bytes_put_varint(bytes_put_varint(h.p, message_number(enc, e) << 3 | PBW_BYTES), n);
    size_t hn = (size_t)(h.p - head);
    memcpy(payload - hn, head, hn);
    *result = payload - hn;
    return (int)(n + hn);
}
