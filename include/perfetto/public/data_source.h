/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data sources: what a program can record. A session that names one gets an instance of it; up to
 * eight sessions at a time, each with an instance of its own.
 *
 *     static struct perfetto_data_source frames;          // all zero: off, usable at once
 *
 *     perfetto_data_source_register(&frames, "com.example.frames", NULL);
 *     ...
 *     PERFETTO_TRACE(&frames, p) { perfetto_packet_... }   // packet.h
 */
#ifndef PERFETTO_PUBLIC_DATA_SOURCE_H
#define PERFETTO_PUBLIC_DATA_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "perfetto/public/export.h"

PERFETTO_BEGIN_DECLS

/* Zero-initialised, and alive until the program ends. Both members are the library's. */
struct perfetto_data_source {
    uint32_t active; /* bit n: instance n records */
    void *impl;
};

/*
 * Called on the library's thread, one at a time; packets may be written in on_start, on_flush and
 * on_stop. `instance` is 0 to 7, the same from on_setup to on_stop, and given to another session
 * afterwards. They should be quick: nothing is sent meanwhile.
 */
struct perfetto_data_source_ops {
    /* A session wants this source; config is an encoded DataSourceConfig, valid during the call. */
    void (*on_setup)(void *user, uint32_t instance, const void *config, size_t len);
    /* Recording begins; the instance is active already. */
    void (*on_start)(void *user, uint32_t instance);
    /* Recording ends after this call. Also when the service has gone. */
    void (*on_stop)(void *user, uint32_t instance);
    /* The service wants what is buffered: write it. Sending is the library's business. */
    void (*on_flush)(void *user, uint32_t instance);
};

/* When the shared memory is full. */
enum perfetto_when_full {
    PERFETTO_WHEN_FULL_DROP = 0,  /* packets are lost, and the trace says so */
    PERFETTO_WHEN_FULL_STALL = 1, /* the thread waits, at most half a minute; then as above */
};

struct perfetto_data_source_options {
    const struct perfetto_data_source_ops *ops; /* NULL: none; stays the caller's, must live on */
    void *user;
    enum perfetto_when_full when_full;
    /*
     * An encoded VmProgram, or NULL; needed during the call only. Where a session grants it memory
     * (protovm_config), the service merges what a ring buffer overwrites with it.
     */
    const void *program;
    size_t program_len;
};

/*
 * Makes the source known, to this service and to those that come later. 0; -ENOTCONN before
 * perfetto_init(); -EALREADY; -ENOSPC after 64 sources; -EINVAL for an empty name or a program that
 * does not fit a message (64 KiB do). options NULL: all zero.
 */
PERFETTO_EXPORT int
perfetto_data_source_register(struct perfetto_data_source *ds, const char *name,
                              const struct perfetto_data_source_options *options);

/* Waits until some session records it. 0, -ETIMEDOUT, -EINVAL if it is not registered. */
PERFETTO_EXPORT int perfetto_data_source_wait_active(struct perfetto_data_source *ds,
                                                     uint32_t timeout_ms);

/* Does anybody record it? One relaxed load. */
static inline bool perfetto_data_source_active(const struct perfetto_data_source *ds)
{
    return __atomic_load_n(&ds->active, __ATOMIC_RELAXED) != 0;
}

PERFETTO_END_DECLS

#endif
