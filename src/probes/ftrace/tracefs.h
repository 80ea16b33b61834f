/* SPDX-License-Identifier: Apache-2.0 */
/* tracefs: the kernel's tracing directory, the primary one or one of its instances. */
#ifndef PROBES_FTRACE_TRACEFS_H
#define PROBES_FTRACE_TRACEFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/procfs.h"

#define TRACEFS_PATH_MAX 256
#define TRACEFS_TEXT_MAX (4U << 20) /* ours: the longest control file that is read */

enum tracefs_op { TRACEFS_WRITE, TRACEFS_APPEND, TRACEFS_TRUNCATE };

struct tracefs {
    int dir;                     /* own; O_PATH descriptor of the directory, -1 = closed */
    char root[TRACEFS_PATH_MAX]; /* its path with a trailing '/', for messages */
    /* Sees every change before it is made; a negative result is returned in its place. For tests,
     * NULL otherwise. */
    int (*tap)(void *arg, enum tracefs_op op, const char *path, const char *text);
    void *tap_arg;
};

/* Opens a directory whose `trace` file can be opened for reading (R24, R136). 0 or -errno. */
int tracefs_open(struct tracefs *fs, const char *root);

/* Opens the first usable of the two places where tracefs is mounted (R24). On failure -ENOENT or
 * -EACCES and *why is one line for people: what is missing and how to get it. */
int tracefs_find(struct tracefs *fs, const char **why);

/* Opens a secondary instance below a primary one (R136): -EINVAL for a bad name, -errno if it is
 * not there. */
int tracefs_open_instance(struct tracefs *fs, const struct tracefs *primary, const char *name);

void tracefs_close(struct tracefs *fs);

/* Whole text of a control file. 0 or -errno. */
int tracefs_read(const struct tracefs *fs, const char *path, struct procfs_buf *b);

/* First byte of a file, or -1. */
int tracefs_read_byte(const struct tracefs *fs, const char *path);

/* One write of the whole text; the append form keeps what is there; truncating is how buffers and
 * filters are emptied (R26). 0 or -errno. */
int tracefs_write(const struct tracefs *fs, const char *path, const char *text);
int tracefs_append(const struct tracefs *fs, const char *path, const char *text);
int tracefs_truncate(const struct tracefs *fs, const char *path);
int tracefs_write_u64(const struct tracefs *fs, const char *path, uint64_t v);

bool tracefs_readable(const struct tracefs *fs, const char *path);
bool tracefs_writable(const struct tracefs *fs, const char *path);

/* Non-blocking descriptor of a CPU's raw pages, or -errno. Caller owns it. */
int tracefs_open_raw(const struct tracefs *fs, unsigned cpu);

/* Number of configured CPUs, the same for the lifetime of the process (R27). */
unsigned tracefs_n_cpus(void);

/* Parses a CPU list such as "0-2,5" into cpus[0..n) (R32). False if it is no such list. */
bool tracefs_cpu_list(struct ptext text, bool *cpus, unsigned n);

/* Empties all per-CPU buffers; offline CPUs, which truncating `trace` leaves alone, one by one
 * (R31). online and offline (NULL = unknown) come from the system. 0 or -errno. */
int tracefs_clear(const struct tracefs *fs);
int tracefs_clear_cpus(const struct tracefs *fs, unsigned configured, unsigned online,
                       const bool *offline);

/* Pages per CPU that buffer_size_kb tells (R51): at least 1. */
uint32_t tracefs_parse_buffer_pages(struct ptext text, unsigned page_kb);
uint32_t tracefs_buffer_pages(const struct tracefs *fs);

/* Hard reset of everything a crash may have left behind (R143). 0 when some root allowed it. */
int tracefs_hard_reset(void);
int tracefs_hard_reset_root(const struct tracefs *fs);

#endif
