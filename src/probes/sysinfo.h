/* SPDX-License-Identifier: Apache-2.0 */
/* sysinfo: the data source linux.system_info, a snapshot of CPUs and interrupts (probes.md 8). */
#ifndef PROBES_SYSINFO_H
#define PROBES_SYSINFO_H

#include <stdbool.h>

#include "probes/ptext.h"

struct pbw;

/* Fields of CpuInfo from the text of /proc/cpuinfo, with capacities and frequencies from sys/ below
 * the directory `root` (R208 - R212). */
void sysinfo_cpus(struct pbw *p, struct ptext cpuinfo, int root);

/* Name of an interrupt from its line in /proc/interrupts (R215). False if the line has none. */
bool sysinfo_irq(struct ptext line, unsigned n_cpus, unsigned *irq, struct ptext *name);

/* Number of CPU columns that a header line of /proc/interrupts has. */
unsigned sysinfo_irq_columns(struct ptext header);

#endif
