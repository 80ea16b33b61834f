/* SPDX-License-Identifier: Apache-2.0 */
/* mux: joins the probes to the producer link: which instances there are, of which session, and who
 * tells whom what ftrace saw. */
#ifndef PROBES_MUX_H
#define PROBES_MUX_H

#include <stdint.h>

struct mux;
struct prodlink;
struct reactor;

/* `tracefs` is a directory to use for tracefs, NULL for the system's; proc/ and sys/ are below the
 * directory `sysroot`. Both are borrowed. */
struct mux *mux_new(struct reactor *r, const char *tracefs, int sysroot);

/* The link, which destroys the instances, must be gone. NULL is allowed. */
void mux_free(struct mux *mux);

/* Registers the data sources with the link (probes.md 1). 0 or -errno. */
int mux_register(struct mux *mux, struct prodlink *link);

#endif
