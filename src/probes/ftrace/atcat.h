/* SPDX-License-Identifier: Apache-2.0 */
/* atcat: the kernel events behind the names of FtraceConfig.atrace_categories. */
#ifndef PROBES_FTRACE_ATCAT_H
#define PROBES_FTRACE_ATCAT_H

#include <stdbool.h>

/* Calls cb(arg, group, event) for each event of a category (probes.md 4.5), present on this kernel
 * or not, possibly more than once. An unknown category has none. */
void atcat_each(const char *category, void (*cb)(void *arg, const char *group, const char *name),
                void *arg);

/* Whether the table has such a category. */
bool atcat_known(const char *category);

#endif
