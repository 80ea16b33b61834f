/* SPDX-License-Identifier: Apache-2.0 */
/* ftmux: several ftrace configs on one tracefs instance at the same time (probes.md 4.3 - 4.20). */
#ifndef PROBES_FTRACE_FTMUX_H
#define PROBES_FTRACE_FTMUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/bundle.h"
#include "probes/ftrace/events.h"
#include "probes/ftrace/ftcfg.h"
#include "probes/ftrace/tracefs.h"
#include "probes/u64set.h"
#include "reactor/list.h"

#define FTMUX_WHY_MAX PROBE_WHY_MAX

/* A growing list of names for FtraceStats. All zero is empty. */
struct ftmux_names {
    char **v; /* own */
    size_t n;
};

/* One config that is set up. */
struct ftmux_cfg {
    struct list node;
    const struct ftcfg *cfg; /* borrow: lives as long as this */
    struct u64set ids;       /* events that it records: its part of the union and its filter */
    uint64_t *filter;        /* own; ids as a bit set for bundle */
    uint32_t filter_ids;
    struct u64set syscalls; /* numbers to record; empty with wants_syscalls = all (R110) */
    bool wants_syscalls;    /* raw_syscalls events are on */
    bool has_kprobes;
    bool compact;                       /* R152 */
    bool prints;                        /* the print filter applies (R106) */
    bool active;                        /* started */
    struct ftmux_names unknown, failed; /* R43 */
};

struct ftmux_saved_option {
    char *name; /* own */
    char value;
};

struct ftmux {
    struct tracefs fs; /* own */
    struct events ev;
    struct list cfgs; /* of ftmux_cfg */
    unsigned n_cfgs, n_active;
    struct u64set enabled; /* ids that were switched on through files */
    bool was_on;           /* tracing_on before the first config */
    enum bundle_clock clock;
    uint32_t cached_pages; /* what was last written to buffer_size_kb */
    bool graph_on;
    bool exclusive;
    struct u64set syscalls;             /* the filter that was last written */
    struct ftmux_names kprobes;         /* "group/name" of those that we created */
    struct ftmux_saved_option *options; /* own; to be restored */
    size_t n_options;
    char *saved_cpumask; /* own; NULL = nothing to restore */
    bool saved_tids;     /* set_event_pid was written */
};

/* Takes over `fs` (an open primary or secondary tracefs instance). */
void ftmux_init(struct ftmux *m, struct tracefs fs);

/* Removes what is left, restoring the kernel's state (R142), and closes tracefs. */
void ftmux_fini(struct ftmux *m);

/* Sets a config up (R29). *out is owned by the mux until ftmux_remove. -EINVAL or -errno when it is
 * refused, with *why a line for people; nothing is left changed then. `secondary` tells that this
 * is no primary tracefs instance (R46). */
int ftmux_setup(struct ftmux *m, const struct ftcfg *cfg, bool secondary, struct ftmux_cfg **out,
                char *why);

/* Makes it record (R33). -errno if tracing cannot be switched on. */
int ftmux_start(struct ftmux *m, struct ftmux_cfg *c);

/* Ends it and frees it (R140). */
void ftmux_remove(struct ftmux *m, struct ftmux_cfg *c);

/* The function graph tracer off, when nobody reads any more (R115). */
void ftmux_reset_tracer(struct ftmux *m);

/* Size for a request on a machine with that many physical pages (R50); a negative number of pages
 * is an unknown one. Pages per CPU. */
uint32_t ftmux_buffer_pages(const struct ftcfg *cfg, long phys_pages, long page_size);

/* Active clock of a trace_clock text; `want_raw` and *choice tell which one to write, NULL for none
 * (R47, R48). */
enum bundle_clock ftmux_clock(struct ptext text, bool want_raw, const char **choice);

void ftmux_names_add(struct ftmux_names *l, const char *group, const char *name);
void ftmux_names_fini(struct ftmux_names *l);

#endif
