/* SPDX-License-Identifier: Apache-2.0 */
/* ftmeta: what one ftrace instance saw during a read pass, for other data sources (probes.md 2.5).
 */
#ifndef PROBES_FTRACE_FTMETA_H
#define PROBES_FTRACE_FTMETA_H

#include "probes/u64set.h"

struct ftmeta {
    struct u64set pids;    /* R20; thread ids, never negative */
    struct u64set renames; /* R21 */
    struct u64set fds;     /* R22; tid << 32 | fd */
    struct u64set syms;    /* R116; index + 1 of an address is its symbol index */
    uint32_t last_pid;     /* 1 + the pid noted last, 0 = none: most events repeat it */
};

static inline void ftmeta_clear(struct ftmeta *m)
{
    u64set_clear(&m->pids);
    u64set_clear(&m->renames);
    u64set_clear(&m->fds);
    u64set_clear(&m->syms);
    m->last_pid = 0;
}

static inline void ftmeta_fini(struct ftmeta *m)
{
    u64set_fini(&m->pids);
    u64set_fini(&m->renames);
    u64set_fini(&m->fds);
    u64set_fini(&m->syms);
}

static inline void ftmeta_pid(struct ftmeta *m, int32_t pid)
{
    if (pid < 0 || m->last_pid == (uint32_t)pid + 1)
        return;
    m->last_pid = (uint32_t)pid + 1;
    u64set_add(&m->pids, (uint64_t)pid, NULL, NULL);
}

#endif
