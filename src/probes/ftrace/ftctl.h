/* SPDX-License-Identifier: Apache-2.0 */
/* ftctl: the ftrace controller: all tracefs instances, their readers and who listens to them. */
#ifndef PROBES_FTRACE_FTCTL_H
#define PROBES_FTRACE_FTCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probes/ftrace/bundle.h"

struct reactor;
struct ftctl;
struct ftsub;

/* What an ftrace instance (a subscription) needs from its data source. */
struct ftctl_host {
    struct probe_sink sink; /* packets */
    /* A read pass ended: bundle metadata to be passed on, before it is forgotten (R19). */
    void (*pass)(void *arg, const struct ftmeta *meta);
    /* The flush asked for is complete: everything was read and written to the sink. */
    void (*flushed)(void *arg, uint64_t flush_id);
    void *arg; /* borrow; of pass and flushed */
};

/* An idle controller: touches nothing before the first subscription (R25). `root` is a directory to
 * use for tracefs, NULL for the system's; kernel symbols are read below the directory `sysroot`. */
struct ftctl *ftctl_new(struct reactor *r, const char *root, int sysroot);

/* All subscriptions must be gone. NULL is allowed. */
void ftctl_free(struct ftctl *ctl);

/* Sets up a config (bytes of a FtraceConfig). 0, or -errno with *why (FTMUX_WHY_MAX bytes), one
 * line for people. */
int ftctl_subscribe(struct ftctl *ctl, const uint8_t *cfg, size_t len,
                    const struct ftctl_host *host, struct ftsub **out, char *why);

/* Starts recording (R33). -errno when tracing cannot be switched on. */
int ftctl_start(struct ftsub *s);

/* Reads what the kernel has by now, writes statistics; host.flushed follows. An instance that did
 * not start never answers (R63). */
void ftctl_flush(struct ftsub *s, uint64_t flush_id);

/* Ends a subscription and restores what it changed (R140). Nothing is read or flushed. */
void ftctl_unsubscribe(struct ftsub *s);

/* Period of the read task for what is started (R52), in milliseconds. `min` is the smallest
 * drain_period_ms that somebody set, 0 for none. */
uint32_t ftctl_period_ms(uint32_t min);

#endif
