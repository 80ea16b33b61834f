/* SPDX-License-Identifier: Apache-2.0 */
/* ftprobe: the data source linux.ftrace; see probe_ftrace in probes/probe.h. */
#ifndef PROBES_FTRACE_FTPROBE_H
#define PROBES_FTRACE_FTPROBE_H

#include "probes/probe.h"

#endif
