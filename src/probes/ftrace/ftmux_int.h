/* SPDX-License-Identifier: Apache-2.0 */
/* ftmux_int: what the parts of ftmux share. */
#ifndef PROBES_FTRACE_FTMUX_INT_H
#define PROBES_FTRACE_FTMUX_INT_H

#include "probes/ftrace/ftmux.h"

/* ftmux_select.c: enables the events that a config names and fills c->ids, unknown, failed. */
void ftmux_select(struct ftmux *m, struct ftmux_cfg *c);
/* Switches one event on or off through its file or set_event (R41). 0 or -errno. */
int ftmux_event_on(struct ftmux *m, const struct events_event *e);
void ftmux_event_off(struct ftmux *m, const struct events_event *e);

/* ftmux_extra.c: the optional features. 0, or -errno with *why. */
void ftmux_kprobes(struct ftmux *m, struct ftmux_cfg *c);
void ftmux_kprobes_remove(struct ftmux *m);
int ftmux_syscalls(struct ftmux *m, char *why);
int ftmux_graph(struct ftmux *m, const struct ftcfg *cfg, char *why);
int ftmux_exclusive(struct ftmux *m, const struct ftcfg *cfg, char *why);
void ftmux_exclusive_restore(struct ftmux *m);

#endif
