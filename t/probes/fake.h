/* SPDX-License-Identifier: Apache-2.0 */
/* fake: temporary directories that play tracefs or procfs, a sink for packets, and a reader for
 * what was written. */
#ifndef T_PROBES_FAKE_H
#define T_PROBES_FAKE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/bundle.h"
#include "probes/ftrace/tracefs.h"
#include "reactor/bytes.h"

/* ---- a directory of files ---- */

struct fake_dir {
    char path[128];
    int fd;
};

void fake_dir_init(struct fake_dir *d);
void fake_dir_fini(struct fake_dir *d); /* removes everything */
/* Writes a file, making the folders on the way. */
void fake_put(struct fake_dir *d, const char *path, const char *text);
void fake_link(struct fake_dir *d, const char *path, const char *target);
void fake_mkdir(struct fake_dir *d, const char *path);
void fake_rm(struct fake_dir *d, const char *path);
/* Text of a file; "(none)" if there is none. Valid until the next call. */
const char *fake_get(struct fake_dir *d, const char *path);
/* Whole file below t/data, NUL-terminated; the caller frees it. */
char *fake_data(const char *path, size_t *len);

/* A tracefs of files: all control files, the events of t/data/ftrace/x86_64-6.18 and whatever the
 * test adds. `tap` logs each change as "path=text" separated by blanks, "path>" for a truncation
 * and "path+=text" for an appended text. */
struct fake_tracefs {
    struct fake_dir dir;
    char log[16384];
    const char *refuse; /* path whose change fails with EINVAL */
};

void fake_tracefs_init(struct fake_tracefs *t);
void fake_tracefs_fini(struct fake_tracefs *t);
void fake_tracefs_event(struct fake_tracefs *t, const char *group, const char *name, unsigned id,
                        const char *fields);
struct tracefs fake_tracefs_open(struct fake_tracefs *t);

/* ---- packets ---- */

struct fake_packet {
    uint8_t *p; /* own */
    size_t n;
};

struct fake_sink {
    struct fake_packet packets[256];
    unsigned n;
    struct pbw_flat flat;
    uint8_t *buf; /* own */
};

void fake_sink_init(struct fake_sink *s);
void fake_sink_fini(struct fake_sink *s);
struct probe_sink fake_sink_of(struct fake_sink *s);

/* ---- reading protobuf ---- */

/* The n-th (from 0) occurrence of a field, an empty view if it is not there. */
struct bytes_view fake_msg(struct bytes_view m, uint32_t field, unsigned nth);
bool fake_has(struct bytes_view m, uint32_t field);
uint64_t fake_num(struct bytes_view m, uint32_t field); /* last one, UINT64_MAX if there is none */
unsigned fake_count(struct bytes_view m, uint32_t field);
bool fake_str_is(struct bytes_view v, const char *s);
struct bytes_view fake_view(const struct fake_sink *s, unsigned packet);

#endif
