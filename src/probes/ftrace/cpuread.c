/* SPDX-License-Identifier: Apache-2.0 */
/* cpuread: plain non-blocking reads of one page each.
 *
 * The kernel hands out a page at a time and never splits a record over two. Owns the descriptors
 * and nothing else; who parses the pages is the controller's business. It stops as soon as a page
 * is less than half full: that is the page the kernel is writing to, and the next one would come
 * almost empty (R57). */
#include "probes/ftrace/cpuread.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "probes/ftrace/rbpage.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"

int cpuread_open(struct cpuread *r, const struct tracefs *fs, unsigned page_size)
{
    unsigned n = tracefs_n_cpus(), ok = 0;
    int rc = 0;
    *r = (struct cpuread){.n = n, .page_size = page_size};
    r->fds = alloc_array(n, sizeof *r->fds);
    for (unsigned c = 0; c < n; c++) {
        r->fds[c] = tracefs_open_raw(fs, c);
        if (r->fds[c] >= 0) {
            ok++;
            continue;
        }
        rc = r->fds[c];
        log_warn("cannot open %sper_cpu/cpu%u/trace_pipe_raw: %s; this CPU is not recorded",
                 fs->root, c, err_text(rc));
        r->fds[c] = -1;
    }
    if (ok)
        return 0;
    cpuread_close(r);
    return rc;
}

void cpuread_close(struct cpuread *r)
{
    if (!r->fds)
        return;
    for (unsigned c = 0; c < r->n; c++)
        if (r->fds[c] >= 0)
            close(r->fds[c]);
    free(r->fds);
    r->fds = NULL;
}

static enum cpuread_end explain(ssize_t n)
{
    if (n > 0)
        return CPUREAD_PARTIAL;
    if (n == 0 || errno == EAGAIN || errno == ENOMEM || errno == EBUSY || errno == ENODEV)
        return CPUREAD_CAUGHT_UP;
    return CPUREAD_ERROR;
}

enum cpuread_end cpuread_batch(const struct cpuread *r, unsigned cpu, uint8_t *buf,
                               unsigned max_pages, bool first, unsigned *pages)
{
    *pages = 0;
    if (r->fds[cpu] < 0)
        return CPUREAD_CAUGHT_UP;
    while (*pages < max_pages) {
        uint8_t *page = buf + (size_t)*pages * r->page_size;
        ssize_t n;
        do
            n = read(r->fds[cpu], page, r->page_size);
        while (n < 0 && errno == EINTR);
        if (n != (ssize_t)r->page_size)
            return explain(n);
        ++*pages;
        /* The first page of a cycle may be the rest of one that was read in part before. */
        if ((rbpage_u32(page + 8) & 0x07ffffff) < r->page_size / 2 && !(first && *pages == 1))
            return CPUREAD_CAUGHT_UP;
    }
    return CPUREAD_MORE;
}
