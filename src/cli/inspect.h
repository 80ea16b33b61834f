/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_INSPECT_H
#define CLI_INSPECT_H

/* Reading traces back: a summary, all packets, or a verdict. */

#include "cli/cmdline.h"

/* Exit code of --check for a trace that is damaged or incomplete. */
#define INSPECT_BAD 3

/* Reads the trace at path ("-" is stdin) and prints to stdout. Returns the exit code: 0; 1 if it
 * cannot be read or is no trace; INSPECT_BAD. */
int inspect_run(const char *path, enum cmdline_format format);

#endif
