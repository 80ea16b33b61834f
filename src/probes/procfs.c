/* SPDX-License-Identifier: Apache-2.0 */
/* procfs: bounded whole-file reads.
 *
 * Files of these file systems have no size and can vanish between open and read: every failure is
 * an ordinary outcome with an errno, never a message. All paths are relative to a directory
 * descriptor, so that a test can lay out a system of its own in a temporary directory. */
#include "probes/procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reactor/alloc.h"

#define FIRST_CAP 4096

void procfs_buf_fini(struct procfs_buf *b)
{
    free(b->data);
    *b = (struct procfs_buf){0};
}

/* Room for at least one more byte beside the NUL. */
static void make_room(struct procfs_buf *b)
{
    if (b->cap - b->len > 1)
        return;
    size_t cap = b->cap ? b->cap * 2 : FIRST_CAP;
    b->data = alloc_resize(b->data, cap, 1);
    b->cap = cap;
}

int procfs_read_fd(int fd, size_t max, struct procfs_buf *b)
{
    b->len = 0;
    for (;;) {
        make_room(b);
        size_t want = b->cap - 1 - b->len;
        if (want > max - b->len)
            want = max - b->len;
        ssize_t n = want ? pread(fd, b->data + b->len, want, (off_t)b->len) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int e = -errno;
            b->len = 0;
            b->data[0] = '\0';
            return e;
        }
        b->len += (size_t)n;
        b->data[b->len] = '\0';
        if (n == 0)
            return 0;
    }
}

int procfs_read(int dir, const char *path, size_t max, struct procfs_buf *b)
{
    b->len = 0;
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    int rc = procfs_read_fd(fd, max, b);
    close(fd);
    return rc;
}

bool procfs_read_u64(int dir, const char *path, uint64_t *v)
{
    char text[64];
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    return n > 0 && ptext_u64(ptext_of(text, (size_t)n), v);
}

DIR *procfs_opendir(int dir, const char *path)
{
    int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    DIR *d = fdopendir(fd);
    if (!d)
        close(fd);
    return d;
}

int32_t procfs_next_pid(DIR *d)
{
    for (struct dirent *e; (e = readdir(d));) {
        struct ptext t = ptext_of(e->d_name, strlen(e->d_name));
        uint64_t v;
        if (ptext_all_digits(t) && ptext_u64(t, &v) && v > 0 && v <= INT32_MAX)
            return (int32_t)v;
    }
    return 0;
}

int procfs_suffix(const char *name, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0)
        return -1;
    struct ptext t = ptext_of(name + n, strlen(name + n));
    uint64_t v;
    if (!ptext_all_digits(t) || !ptext_u64(t, &v) || v > 1 << 20)
        return -1;
    return (int)v;
}

bool procfs_value(struct ptext text, const char *key, struct ptext *value)
{
    struct ptext line;
    while (ptext_line(&text, &line))
        if (ptext_starts(line, key)) {
            line.p += strlen(key);
            *value = ptext_trim(line);
            return true;
        }
    return false;
}
