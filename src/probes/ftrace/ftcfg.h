/* SPDX-License-Identifier: Apache-2.0 */
/* ftcfg: an FtraceConfig, decoded and checked (probes.md 4.2). */
#ifndef PROBES_FTRACE_FTCFG_H
#define PROBES_FTRACE_FTCFG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/printflt.h"

struct ftcfg_strs {
    char **v; /* own */
    size_t n;
};

enum ftcfg_probe {
    FTCFG_PROBE_UNKNOWN,
    FTCFG_PROBE_KPROBE,
    FTCFG_PROBE_KRETPROBE,
    FTCFG_PROBE_BOTH
};

struct ftcfg_kprobe {
    char *function; /* own */
    enum ftcfg_probe type;
};

struct ftcfg_option {
    char *name; /* own */
    int state;  /* 0 unknown, 1 enabled, 2 disabled */
};

struct ftcfg {
    struct ftcfg_strs events, categories, apps, syscalls, function_filters, graph_roots;
    uint32_t buffer_size_kb;
    uint32_t drain_period_ms;      /* 0 = not set */
    uint32_t drain_buffer_percent; /* 0 = not set */
    uint32_t graph_max_depth;
    bool buffer_lower_bound;
    bool compact_off; /* explicitly (R152) */
    bool symbolize;
    bool ksyms_retain;
    bool throttle_rss;
    bool no_generic;
    bool legacy_generic; /* denser_generic_event_encoding explicitly false (R94) */
    bool function_graph;
    bool preserve_buffer;
    bool mono_raw;
    bool userspace_only;
    char *instance; /* own; NULL = the primary tracefs instance */
    char *cpumask;  /* own; NULL = not set */
    bool has_print_filter;
    struct printflt print_filter;
    struct ftcfg_kprobe *kprobes; /* own */
    size_t n_kprobes;
    uint32_t *tids; /* own */
    size_t n_tids;
    struct ftcfg_option *options; /* own */
    size_t n_options;
};

/* Decodes the bytes of an FtraceConfig. 0, -EINVAL when they are no such message or an entry is
 * refused (R28), with *why a line for people; `c` then needs no ftcfg_fini. */
int ftcfg_parse(const uint8_t *bytes, size_t len, struct ftcfg *c, char *why, size_t why_len);
void ftcfg_fini(struct ftcfg *c);

/* The features that no other config may share a tracefs instance with (R132). */
bool ftcfg_exclusive(const struct ftcfg *c);

/* R28 for one entry of ftrace_events. */
bool ftcfg_event_ok(const char *s);

#endif
