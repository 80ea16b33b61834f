/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A service that waits for its first client should cost next to nothing. The dynamic loader and
 * start-up code leave more than a megabyte of library pages mapped that are never touched again.
 * Only segments that were never writable are dropped, because their pages are always equal to the
 * file's; a segment with relocations in it (also one that was made read-only afterwards) is left
 * alone.
 */
#include "svc/trim.h"

#include <link.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static int drop_segments(struct dl_phdr_info *info, size_t size, void *arg)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)size;
    (void)arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || (p->p_flags & PF_W))
            continue;
        uintptr_t begin = info->dlpi_addr + p->p_vaddr;
        uintptr_t end = begin + p->p_memsz;
        begin = (begin + page - 1) & ~(page - 1); /* whole pages only */
        end &= ~(page - 1);
        if (begin < end) /* failing is harmless: the vDSO is no file, for one */
            madvise((void *)begin, end - begin, MADV_DONTNEED);
    }
    return 0;
}

void trim_startup(void)
{
    malloc_trim(0);
    dl_iterate_phdr(drop_segments, NULL);
}
