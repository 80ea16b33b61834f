/* SPDX-License-Identifier: Apache-2.0 */
/* sctab: system call names and numbers of this machine. */
#ifndef PROBES_FTRACE_SCTAB_H
#define PROBES_FTRACE_SCTAB_H

#include <stdbool.h>
#include <stdint.h>

/* Number of "sys_NAME", or -1 (R108). */
int sctab_find(const char *name);

/* The call returns a new file descriptor: open, openat, socket, dup, dup2, dup3 (R22). */
bool sctab_returns_fd(int64_t id);

#endif
