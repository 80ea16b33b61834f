/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACECONF_H
#define CLI_TRACECONF_H

/* The trace config of one run: where it comes from, what this program needs to know of it, and what
 * it changes in it before sending (rules R210..R216, R260..R265). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytesbuf.h"

#define TRACECONF_MAX     (64u << 20) /* bytes read from all sources together */
#define TRACECONF_SOURCES 64

/* Largest encoded config that fits an EnableTracing request in one frame (ipc.md R30). */
#define TRACECONF_WIRE_MAX 131042u

struct traceconf_source {
    char *name; /* own: the argument of -c */
    size_t start;
};

enum traceconf_trigger_mode {
    TRACECONF_NO_TRIGGERS = 0,
    TRACECONF_START_TRACING = 1,
    TRACECONF_STOP_TRACING = 2,
    TRACECONF_CLONE_SNAPSHOT = 4
};

/* What the client acts on; texts are views into the encoded config. */
struct traceconf_facts {
    bool write_into_file;
    bool deferred_start;
    bool has_min_delay, has_max_delay;
    bool incident_report, android_report; /* names a package */
    bool needs_probes;                    /* some data source is one of traced_probes' */
    uint32_t duration_ms;
    uint32_t flush_timeout_ms;
    uint32_t stop_timeout_ms;
    uint32_t min_delay_ms, max_delay_ms;
    uint32_t trigger_timeout_ms, max_stop_delay_ms;
    enum traceconf_trigger_mode trigger_mode; /* effective (R310) */
    uint64_t buffer_kb;                       /* sum of all buffers */
    size_t n_buffers;
    size_t n_data_sources;
    size_t n_activate_triggers;
    struct bytes_view output_path;
    struct bytes_view session_name;
};

/* Embedded by value. */
struct traceconf {
    struct bytesbuf input; /* the sources, joined as they were read */
    struct traceconf_source sources[TRACECONF_SOURCES];
    size_t n_sources;
    struct bytesbuf config; /* encoded */
    struct traceconf_facts facts;
};

void traceconf_init(struct traceconf *tc);
void traceconf_fini(struct traceconf *tc);

/* Reads one argument of -c at once (R210): "-" and ":test" replace what was read before, a path is
 * appended to it. 0, or -errno with one line in err. */
int traceconf_read(struct traceconf *tc, const char *arg, char *err, size_t errlen);

/* True if the sources gave at least one byte (R213, R250). */
bool traceconf_has_input(const struct traceconf *tc);

/* Input -> config and facts. Mistakes of a text are printed on stderr; err gets one line in any
 * case of failure. 0, or ERR_BAD_CONFIG, or -ENOMEM. */
int traceconf_parse_text(struct traceconf *tc, bool lossy, char *err, size_t errlen);
int traceconf_parse_binary(struct traceconf *tc, char *err, size_t errlen);

/* Takes an encoded config as it is (light form, Attach reply) and reads its facts. */
int traceconf_set(struct traceconf *tc, struct bytes_view config, char *err, size_t errlen);

/* The nth name in activate_triggers. */
struct bytes_view traceconf_trigger(const struct traceconf *tc, size_t n);

/* How long the trace will take by its config (R345), 0 for unknown. */
uint64_t traceconf_expected_ms(const struct traceconf_facts *f);

/* What the options say about the config. */
struct traceconf_extras {
    const char *const *attributes; /* borrow: KEY[=VALUE], keys not empty */
    size_t n_attributes;
    int64_t alert_id, config_id, subscription_id;
    int32_t config_uid;
};

/* Appends to out the config as it is sent: with the changes of R260..R264, all else byte for byte.
 */
int traceconf_finish(const struct traceconf *tc, const struct traceconf_extras *x,
                     struct bytesbuf *out);

#endif
