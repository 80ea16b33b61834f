/* SPDX-License-Identifier: Apache-2.0 */
/* wmark: one read watch per CPU of a tracefs instance.
 *
 * Older kernels wake pollers late or never, so support is found out rather than assumed: by the
 * release, by buffer_percent being writable, and by a poll that reports no error. Where it works
 * the controller ticks once a second only, and a busy CPU is read when it has something. Owned by
 * the instance, closed before its pipes are. */
#include "probes/ftrace/wmark.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>

#include "reactor/alloc.h"

#define PERCENT_DEFAULT 50

bool wmark_kernel_ok(const char *release)
{
    unsigned major, minor, patch = 0, android = 0;
    int n = sscanf(release, "%u.%u.%u-android%u", &major, &minor, &patch, &android);
    if (n < 2)
        return false;
    if (major > 6 || (major == 6 && minor >= 9))
        return true;
    if (n < 4 || major != 6)
        return false;
    return (minor == 1 && patch >= 86 && android == 14) ||
           (minor == 6 && patch >= 27 && android == 15);
}

/* Writes the value back that is there. */
static bool percent_writable(const struct tracefs *fs)
{
    struct procfs_buf b = {0};
    uint64_t v = PERCENT_DEFAULT;
    if (tracefs_read(fs, "buffer_percent", &b) == 0)
        ptext_u64(procfs_text(&b), &v);
    procfs_buf_fini(&b);
    return tracefs_write_u64(fs, "buffer_percent", v) == 0;
}

static bool poll_works(const struct cpuread *reader)
{
    struct pollfd p = {.fd = reader->fds[0], .events = POLLIN};
    return p.fd >= 0 && poll(&p, 1, 0) >= 0 && !(p.revents & (POLLERR | POLLNVAL));
}

static void on_ready(void *arg, unsigned event)
{
    struct wmark *w = arg;
    (void)event;
    w->cb(w->arg);
}

bool wmark_open(struct wmark *w, struct reactor *r, const struct tracefs *fs,
                const struct cpuread *reader, reactor_cb *cb, void *arg)
{
    struct utsname u;
    *w = (struct wmark){.cb = cb, .arg = arg};
    if (uname(&u) || !wmark_kernel_ok(u.release) || !percent_writable(fs) || !poll_works(reader))
        return false;
    w->watches = alloc_array(reader->n, sizeof *w->watches);
    for (unsigned c = 0; c < reader->n; c++) {
        if (reader->fds[c] < 0)
            continue;
        watch_init(&w->watches[w->n], r, "ftrace watermark", reader->fds[c], on_ready, w);
        if (watch_set(&w->watches[w->n++], WATCH_READ)) {
            wmark_close(w);
            return false;
        }
    }
    return true;
}

void wmark_close(struct wmark *w)
{
    for (unsigned i = 0; i < w->n; i++)
        watch_fini(&w->watches[i]);
    free(w->watches);
    *w = (struct wmark){0};
}
