/* SPDX-License-Identifier: Apache-2.0 */
/* sctab: the system call table of the architecture that this program was built for, taken from the
 * kernel headers at build time. The kernel numbers a foreign (32-bit) process's calls in another
 * table; those are recorded by number all the same, they only have no name here. */
#include "probes/ftrace/sctab.h"

#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

static const struct {
    const char *name;
    int id;
} table[] = {
#include "probes/ftrace/sctab_gen.h"
};

int sctab_find(const char *name)
{
    int best = -1;
    if (strncmp(name, "sys_", 4) != 0)
        return -1;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(name + 4, table[i].name) == 0 && (best < 0 || table[i].id < best))
            best = table[i].id;
    return best;
}

bool sctab_returns_fd(int64_t id)
{
    switch (id) {
#ifdef SYS_open
    case SYS_open:
#endif
#ifdef SYS_dup2
    case SYS_dup2:
#endif
    case SYS_openat:
    case SYS_socket:
    case SYS_dup:
    case SYS_dup3:
        return true;
    default:
        return false;
    }
}
