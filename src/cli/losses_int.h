/* SPDX-License-Identifier: Apache-2.0 */
/* losses_int: what losses.c gathers and losses_report.c puts into words. For these two only. */
#ifndef CLI_LOSSES_INT_H
#define CLI_LOSSES_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/idmap.h"

#define LOSSES_BUFFERS_MAX 128 /* of a session (V11) */

struct sequence {
    int32_t pid; /* 0: unknown */
    uint64_t packets;
    uint64_t smb_full, overwrote, other;             /* holes, by what is known of their cause */
    uint64_t window_start, window_bytes, peak_bytes; /* per WINDOW_NS */
};

struct buffer {
    uint64_t size, written, overwritten, chunks_written, chunks_overwritten, chunks_discarded;
    uint64_t patches_failed, readaheads_failed, writer_loss, violations;
    bool discard; /* its fill policy */
};

struct cpu {
    uint64_t first_overrun, overrun, first_commit, commit, first_dropped, dropped;
    uint64_t holes; /* bundles that follow a loss */
    bool started, seen;
};

struct losses {
    struct buffer buffer[LOSSES_BUFFERS_MAX];
    size_t n_buffers;
    struct cpu *cpu; /* own: CPUS_MAX, made when needed */
    size_t n_cpus;
    uint32_t cpu_pages; /* size of a kernel buffer, in pages; 0: unknown */
    uint64_t ftrace_errors;
    uint64_t chunks_discarded, patches_discarded, invalid_packets, flushes_failed, filter_errors;
    bool final_flush_failed, have_stats;
    bool began, ended, closed; /* lifecycle events, and the statistics that end a trace */
    bool limited;              /* by the config: max_file_size_bytes */
    bool streams, filtered;    /* by the config: write_into_file, trace_filter */
    unsigned asked, seen;      /* SOURCE_... bits: of the config, of the packets */
    char ftrace_trouble[256];  /* what the producer says about its set-up */
    char bad_events[256];      /* names of events that could not be enabled */
    char slow_sources[256];
    struct idmap sequences; /* own: struct sequence */
    struct idmap processes; /* own: pid -> name */
};

/* Data sources that write at least one packet whenever they run; their bits in asked and seen are
 * by their places here. NULL ends the list. */
extern const char *const losses_sources[];

#endif
