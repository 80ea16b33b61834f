/* SPDX-License-Identifier: Apache-2.0 */
/* events: which events this kernel has and how their records turn into messages. */
#ifndef PROBES_FTRACE_EVENTS_H
#define PROBES_FTRACE_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/format.h"
#include "probes/ftrace/tracefs.h"

#define EVENTS_GENERIC_FIRST 65536  /* R94: field numbers of FtraceEvent for generic events */
#define EVENTS_GENERIC_END   131072 /* exclusive */
#define EVENTS_MAX_ID        65535  /* a record carries 16 bits of it (R71) */

/* One field to copy. */
struct events_field {
    uint16_t offset, size; /* in the record */
    uint16_t number;       /* in the message */
    uint8_t kind;          /* enum format_kind */
    uint8_t width;         /* of a scalar: 1, 2, 4 or 8 */
    uint8_t count;         /* scalars in a row; 1 but for the arguments of sys_enter (R91) */
    const char *name;      /* generic events only; own */
};

enum events_special {
    EVENTS_PLAIN,
    EVENTS_RENAME,    /* task_rename: its thread has a new name (R21) */
    EVENTS_SYS_ENTER, /* valid with exactly two fields (R91) */
    EVENTS_SYS_EXIT,  /* same, and may reveal a file descriptor (R22) */
    EVENTS_KPROBE,    /* only name and type are recorded (R101) */
};

/* KprobeEvent.KprobeType (R98). */
enum events_kprobe { EVENTS_KP_UNKNOWN, EVENTS_KP_BEGIN, EVENTS_KP_END, EVENTS_KP_INSTANT };

struct events_event {
    char *group, *name; /* own */
    uint16_t id;        /* common_type */
    uint32_t min_size;  /* shorter records are invalid (R79) */
    uint32_t number;    /* field of FtraceEvent; generic ones >= EVENTS_GENERIC_FIRST */
    uint8_t n_fields;
    uint8_t special; /* enum events_special */
    uint8_t kprobe;  /* enum events_kprobe */
    bool generic;
    struct events_field *fields; /* own; ascending number */
};

/* Where compact scheduling events lie (R153). */
struct events_sched {
    bool valid;
    uint16_t switch_id, waking_id;
    uint32_t switch_size, waking_size;                   /* shorter records are broken */
    uint16_t next_pid, next_prio, next_comm, prev_state; /* offsets in sched_switch */
    uint8_t prev_state_width;                            /* 4 or 8 */
    uint16_t pid, target_cpu, prio, comm;                /* offsets in sched_waking */
    uint16_t flags;                                      /* common_flags, in both */
};

struct events {
    const struct tracefs *fs; /* borrow */
    unsigned commit_width;    /* of page headers */
    unsigned page_size;       /* bytes of one read of trace_pipe_raw */
    bool has_pid;             /* this kernel's records carry common_pid */
    uint16_t pid_offset;
    struct events_sched sched;
    struct events_event **by_id; /* own; n_ids pointers, NULL where not loaded */
    uint32_t n_ids;
    uint32_t next_generic;
    uint64_t *printk_addr; /* own; ascending addresses of printk_formats */
    char **printk_text;    /* own; their texts */
    size_t n_printk;
};

/* Reads the common layout, the compact scheduling formats and printk_formats from fs, which must
 * outlive `ev`. Always succeeds; what is missing is simply unknown. */
void events_init(struct events *ev, const struct tracefs *fs);
void events_fini(struct events *ev);

/* The event, loading its format if that has not happened yet. NULL if the kernel has no usable
 * format for it. Events without a message of their own become generic unless !generic_ok. */
struct events_event *events_load(struct events *ev, const char *group, const char *name,
                                 bool generic_ok);

/* An event that is loaded, or NULL. */
struct events_event *events_by_id(const struct events *ev, uint32_t id);
struct events_event *events_find(const struct events *ev, const char *group, const char *name);

/* The group of a bare event name (R35, R36), NULL if there is none. */
const char *events_group_of(const struct events *ev, const char *name);

/* Forgets an event, so that a later one of that name may have another id. */
void events_forget(struct events *ev, struct events_event *e);

/* Text behind a kernel string pointer, "" if unknown (R87). */
const char *events_printk(const struct events *ev, uint64_t addr);

/* DescriptorProto of a generic event (R95) into buf; its length, 0 if it does not fit. */
size_t events_descriptor(const struct events_event *e, uint8_t *buf, size_t cap);

/* For tests: takes a format text as if it had been read from events/GROUP/NAME/format. */
struct events_event *events_add_format(struct events *ev, const char *group, const char *name,
                                       const char *text, size_t len, bool generic_ok);
/* For tests: takes the text of printk_formats. */
void events_set_printk(struct events *ev, struct ptext text);

#endif
