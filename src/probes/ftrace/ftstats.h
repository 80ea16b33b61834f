/* SPDX-License-Identifier: Apache-2.0 */
/* ftstats: the statistics of a trace's beginning and end (probes.md 4.17). */
#ifndef PROBES_FTRACE_FTSTATS_H
#define PROBES_FTRACE_FTSTATS_H

#include <stdbool.h>
#include <stdint.h>

#include "probes/ftrace/ftmux.h"
#include "probes/ftrace/ksyms.h"
#include "smb/pbw.h"

enum ftstats_phase { FTSTATS_START = 1, FTSTATS_END = 2 };

struct ftstats_cpu {
    uint32_t entries, overrun, commit_overrun, bytes_read, dropped_events, read_events;
    double oldest_event_ts, now_ts; /* seconds */
};

struct ftstats {
    struct ftstats_cpu *cpus; /* own; one per configured CPU */
    unsigned n_cpus;
    uint32_t buffer_pages, cached_pages;
    uint32_t ksyms_parsed, ksyms_kb;
    int64_t kprobe_hits, kprobe_misses;
};

/* Reads the counters of now. `c` tells whether kprobes are its business. */
void ftstats_read(struct ftstats *s, const struct ftmux *m, const struct ftmux_cfg *c,
                  const struct ksyms *k);
void ftstats_fini(struct ftstats *s);

/* Writes the fields of FtraceStats. Set-up errors of `c` belong to START only (R125), parse_errors,
 * a bit set of enum rbpage_status, to END. */
void ftstats_write(const struct ftstats *s, struct pbw *p, enum ftstats_phase phase,
                   const struct ftmux_cfg *c, uint32_t parse_errors);

/* Text of per_cpu/cpuN/stats (R129) and of kprobe_profile (R131). */
void ftstats_parse_cpu(struct ptext text, struct ftstats_cpu *out);
bool ftstats_parse_kprobes(struct ptext text, int64_t *hits, int64_t *misses);

/* "now ts" of a CPU in nanoseconds, 0 if unreadable (R49). */
int64_t ftstats_now_ns(const struct tracefs *fs, unsigned cpu);

#endif
