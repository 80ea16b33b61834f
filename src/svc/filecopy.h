/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILECOPY_H
#define SVC_FILECOPY_H

/*
 * Copies what is in one file into another descriptor, in slices: the first part of a clone that is
 * made into a file (service.md R211).
 */

#include <stdint.h>

struct filecopy;
struct reactor;

/* Called from the loop when all is copied (0) or it failed (-errno). out is the caller's again. */
typedef void filecopy_done(void *arg, int err, int out);

/* Copies the first size bytes of `in` (borrowed, duplicated; seekable and readable, its offset
 * stays) to `out` at its offset. Takes out, until done or cancelled. A descriptor that takes
 * nothing for patience_ns ends it with -ETIMEDOUT. *copy: own. 0 or -errno (then out is closed). */
int filecopy_start(struct reactor *r, int in, int out, uint64_t size, uint64_t patience_ns,
                   filecopy_done *done, void *arg, struct filecopy **copy);

/* Frees it; if it is not done, closes out, and done is not called. Not from inside done. NULL
 * allowed. */
void filecopy_cancel(struct filecopy *c);

#endif
