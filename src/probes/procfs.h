/* SPDX-License-Identifier: Apache-2.0 */
/* procfs: reading the small text files of /proc, /sys and tracefs. */
#ifndef PROBES_PROCFS_H
#define PROBES_PROCFS_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ptext.h"

/* A buffer that is used for one file after the other. All zero is empty. */
struct procfs_buf {
    char *data; /* own; len bytes and a NUL behind them */
    size_t len, cap;
};

void procfs_buf_fini(struct procfs_buf *b);

static inline struct ptext procfs_text(const struct procfs_buf *b)
{
    return b->len ? ptext_of(b->data, b->len) : ptext_of("", 0);
}

/* Reads a whole file, at most `max` bytes of it. `path` is relative to the directory `dir`.
 * 0 or -errno; after a failure the buffer is empty. */
int procfs_read(int dir, const char *path, size_t max, struct procfs_buf *b);

/* Same for an open file, from its start. */
int procfs_read_fd(int fd, size_t max, struct procfs_buf *b);

/* First number of a file. False if there is no such file or no number. */
bool procfs_read_u64(int dir, const char *path, uint64_t *v);

/* Opens a directory for readdir; NULL if it cannot be. Closed with closedir. */
DIR *procfs_opendir(int dir, const char *path);

/* Next entry whose name is a decimal number that fits int32_t and is not 0; 0 at the end. */
int32_t procfs_next_pid(DIR *d);

/* Number that follows `prefix` in `name` and ends it, or -1: ("cpu12", "cpu") is 12. */
int procfs_suffix(const char *name, const char *prefix);

/* Value of the line that starts with `key` (for instance "VmRSS:"), blanks trimmed. False if there
 * is none. */
bool procfs_value(struct ptext text, const char *key, struct ptext *value);

#endif
