/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_GIVEBACK_H
#define SVC_GIVEBACK_H

/*
 * Memory that goes back to the kernel in slices. To free 64 MB takes the kernel some milliseconds,
 * to free 4 GiB of small pages a third of a second, and in that time the loop would stand still.
 */

#include <stdbool.h>
#include <stddef.h>

#include "reactor/list.h"
#include "reactor/task.h"

/* Embedded in the service. */
struct giveback {
    struct task task;
    struct list entries;
};

void giveback_init(struct giveback *g, struct reactor *r);

/* All that is left goes at once. */
void giveback_fini(struct giveback *g);

/* Takes over `what`: calls step(what) from a task, a slice at a time, until it says false. Each
 * call frees about as much as takes 0.1 ms, the last one `what` itself. Nobody else may use it any
 * more.
 */
void giveback_take(struct giveback *g, bool (*step)(void *what), void *what);

/* Takes over n bytes at p that malloc gave. NULL is allowed. */
void giveback_memory(struct giveback *g, void *p, size_t n);

/* Gives the kernel the whole pages of the n bytes at p; what they hold is lost. */
void giveback_pages(void *p, size_t n);

#endif
