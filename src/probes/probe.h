/* SPDX-License-Identifier: Apache-2.0 */
/* probe: what a kind of data source implements (probe_ops) and what it gets (probe_host). The mux
 * stands between both and the producer link; a unit test stands there just as well. */
#ifndef PROBES_PROBE_H
#define PROBES_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "reactor/bytes.h"

struct reactor;
struct pbw;
struct ftctl;
struct ftmeta;

#define PROBE_WHY_MAX 1024

/* Where packets go: begin gives the place for the fields of one TracePacket, end completes it. */
struct probe_sink {
    struct pbw *(*begin)(void *arg);
    void (*end)(void *arg);
    void *arg; /* borrow */
};

/* The surroundings of an instance; valid as long as it lives. */
struct probe_host {
    struct reactor *reactor; /* borrow */
    struct ftctl *ftrace;    /* borrow; NULL in tests of the other probes */
    int sysroot;             /* directory that holds proc/ and sys/: "/" but for tests */
    struct probe_sink sink;
    void (*flush)(void *arg);                /* commit what the sink has */
    void (*flushed)(void *arg, uint64_t id); /* a flush that answered false is done */
    void (*ftrace_pass)(void *arg, const struct ftmeta *meta); /* for the session's other probes */
    void *arg;                                                 /* borrow; of the three above */
};

struct probe_ops {
    const char *name;      /* of the data source */
    uint32_t config_field; /* of its own config in DataSourceConfig */
    bool incremental;      /* handles_incremental_state_clear */
    /* DataSourceDescriptor fields beyond name and flags, encoded; NULL = none */
    const uint8_t *descriptor;
    uint8_t descriptor_len;

    /* Parses the config (empty when absent) and prepares. Touches nothing that a start should. 0,
     * or -errno with a line for people in why[PROBE_WHY_MAX]. *inst is written on success. */
    int (*setup)(const struct probe_host *host, struct bytes_view config, void **inst, char *why);
    /* Begins. A failure is logged by the probe; the start is acknowledged all the same (R10). */
    void (*start)(void *inst);
    /* Writes what it holds back. True: done. False: host->flushed follows. NULL: it holds nothing.
     */
    bool (*flush)(void *inst, uint64_t id);
    void (*clear_incremental)(void *inst);                    /* may be NULL */
    void (*on_ftrace)(void *inst, const struct ftmeta *meta); /* may be NULL (R19) */
    void (*destroy)(void *inst); /* also ends it; restores what it changed (R11) */
};

extern const struct probe_ops probe_ftrace, probe_ps, probe_sysstats, probe_sysinfo;

#endif
