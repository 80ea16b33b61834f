/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TRACECFG_H
#define SVC_TRACECFG_H

/*
 * A TraceConfig as the service sees it: the consumer's bytes, which are echoed and forwarded as
 * they came, and what the service itself needs of them (service.md section 2). Immutable; a change
 * makes a new one (tracecfg_with_duration, tracecfg_change).
 *
 * It is read field by field instead of through generated code: enum values that this build does not
 * know must still be seen (V4), and unknown fields must come out again (R40).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"

struct rex;

/* TraceConfig.TriggerConfig.TriggerMode. */
enum tracecfg_mode {
    TRACECFG_NO_TRIGGERS = 0,
    TRACECFG_START_TRACING = 1,
    TRACECFG_STOP_TRACING = 2,
    TRACECFG_CLONE_SNAPSHOT = 4
};

struct tracecfg_buffer {
    struct bytes_view name; /* borrow, as all views here: the config's own bytes */
    uint32_t size_kb;
    bool discard;
    bool v2; /* experimental_mode TRACE_BUFFER_V2 */
    bool transfer_on_clone;
    bool clear_before_clone;
};

/* A list of views, own. */
struct tracecfg_names {
    struct bytes_view *v; /* own */
    size_t n;
};

struct tracecfg_source {
    struct tracecfg_names config; /* pieces of the DataSourceConfig; their concatenation is it */
    struct bytes_view name;
    struct bytes_view buffer_name;
    uint32_t target_buffer; /* as written */
    int target;             /* resolved config index, -1 when it resolves to none (R66.5) */
    struct tracecfg_names producers;
    struct tracecfg_names producer_regexes;
    struct tracecfg_names machines;
    uint32_t vm_limit_kb; /* protovm_config.memory_limit_kb; 0: no ProtoVM wanted */
    struct rex **regexes; /* own, one per producer_regexes; NULL for an invalid pattern (R67) */
};

struct tracecfg_producer {
    struct bytes_view name;
    uint32_t shm_size_kb;
    uint32_t page_size_kb;
};

struct tracecfg_trigger {
    struct bytes_view name;
    struct bytes_view producer_regex;
    struct rex *regex; /* own; NULL when empty or invalid */
    uint32_t stop_delay_ms;
    uint32_t max_per_24_h;
    double skip_probability;
};

struct tracecfg_semaphore {
    struct bytes_view name;
    uint64_t max_other_session_count;
};

struct tracecfg {
    uint8_t *raw; /* own */
    size_t raw_len;

    struct tracecfg_buffer *buffers; /* own, as the arrays below */
    struct tracecfg_source *sources;
    struct tracecfg_producer *producers;
    struct tracecfg_trigger *triggers;
    uint32_t *trigger_order; /* indexes of triggers, sorted by name */
    struct tracecfg_semaphore *semaphores;
    size_t nbuffers, nsources, nproducers, ntriggers, nsemaphores;

    size_t pattern_bytes;  /* all regexes, compiled; too many are left out */
    uint64_t match_work;   /* what those of data sources may still take for one producer */
    uint64_t match_left;   /* and for all that come */
    uint64_t trigger_work; /* what the pattern of a trigger may take for one producer */

    struct bytes_view unique_session_name, bugreport_filename, output_path;
    struct bytes_view trace_filter; /* encoded TraceFilter */
    bool has_trace_filter;

    uint32_t duration_ms;
    uint32_t flush_period_ms, flush_timeout_ms, stop_timeout_ms;
    uint32_t file_write_period_ms, clear_period_ms, snapshot_interval_ms;
    uint32_t trigger_timeout_ms;
    uint32_t trigger_mode; /* as written, any value */
    uint32_t lockdown_mode, write_flush_mode, fflush_post_write, primary_trace_clock;
    uint32_t guard_buffer_kb; /* guardrail_overrides.max_tracing_buffer_size_kb */
    uint32_t exclusive_prio;
    uint32_t boost_policy, boost_priority;
    int32_t bugreport_score;
    int32_t zstd_level;
    uint64_t max_file_size_bytes;
    uint64_t uuid_msb, uuid_lsb;

    bool has_bugreport_score, has_bugreport_filename, has_priority_boost;
    bool clone_snapshot_if_available;
    bool extra_guardrails, deferred_start, write_into_file, trace_all_machines;
    bool suspend_clock_for_duration, suspend_clock_for_snapshot;
    bool no_clock_snapshots, no_trace_config, no_system_info, no_service_events;
    bool no_histograms, no_extension_descriptors, concurrent_session_events;
    bool want_deflate, want_zstd;
};

/* Parses len bytes (copied). *out: own, tracecfg_free. ERR_BAD_REQUEST when they are no
 * TraceConfig; -ENOMEM. */
int tracecfg_new(struct bytes_view bytes, struct tracecfg **out);
void tracecfg_free(struct tracecfg *c); /* NULL allowed */

/* The trigger mode in force: CLONE_SNAPSHOT when use_clone_snapshot_if_available, else as written.
 */
uint32_t tracecfg_mode(const struct tracecfg *c);

/* The checks V2 to V13c and that all patterns are valid (R12, R14, R67): everything that can be
 * told from the config alone, in order. True when all hold; else why gets one line for the
 * consumer. */
bool tracecfg_check(const struct tracecfg *c, char *why, size_t whylen);

/* Longest line that tracecfg_check and the other refusals write. */
#define TRACECFG_WHY_MAX 256

/* The same config with another duration_ms (R178). 0 or -ENOMEM. */
int tracecfg_with_duration(const struct tracecfg *c, uint32_t duration_ms, struct tracecfg **out);

/* The same config with the producer filters of the entries of `from` that have the same data source
 * name (R194). 0 or -ENOMEM. */
int tracecfg_change(const struct tracecfg *c, const struct tracecfg *from, struct tracecfg **out);

/* The first trigger of that name, or NULL. */
const struct tracecfg_trigger *tracecfg_trigger(const struct tracecfg *c, struct bytes_view name);

/* What the producer name patterns of all entries may take from here on, until this is called again
 * (svc/rex); beyond that nothing matches. One producer takes a millisecond of it at most. */
static inline void tracecfg_begin_matching(struct tracecfg *c)
{
    c->match_left = UINT64_C(1) << 26;
}

/* The same for the pattern of one trigger: a request names many, each for every session. */
static inline void tracecfg_begin_trigger(struct tracecfg *c)
{
    c->trigger_work = UINT64_C(1) << 16;
}

/* True when the producer passes the producer filters of an entry of c (R66.4). */
bool tracecfg_producer_passes(struct tracecfg *c, const struct tracecfg_source *s,
                              struct bytes_view producer);

/* True when the machine passes the entry's machine filter (R66.3). */
bool tracecfg_machine_passes(const struct tracecfg *c, const struct tracecfg_source *s,
                             uint32_t machine_id, const char *machine_name);

static inline struct bytes_view tracecfg_view(const struct tracecfg *c)
{
    return bytes_view(c->raw, c->raw_len);
}

#endif
