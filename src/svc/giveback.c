/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue of things to be freed and a task that frees them piece by piece. It owns what it was
 * given; whoever gave it keeps no pointer. When there is no memory for an entry of the queue, the
 * thing is freed at once.
 */
#include "svc/giveback.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "reactor/alloc.h"

#define PIECE (2u << 20) /* of plain memory in one go */
#define SMALL (1u << 20) /* what is freed at once */

struct entry {
    struct list node;
    bool (*step)(void *what);
    void *what; /* own */
};

/* A piece of plain memory. */
struct memory {
    uint8_t *p; /* own */
    size_t n;
};

static enum task_result run(void *arg, struct task_budget *budget)
{
    struct giveback *g = arg;
    while (!list_empty(&g->entries)) {
        struct entry *e = list_first(&g->entries, struct entry, node);
        if (!e->step(e->what)) {
            list_remove(&e->node);
            free(e);
        }
        if (!task_spend_slow(budget, 1))
            return TASK_AGAIN;
    }
    return TASK_DONE;
}

void giveback_init(struct giveback *g, struct reactor *r)
{
    list_init(&g->entries);
    task_init(&g->task, r, "giving memory back", run, g);
}

void giveback_fini(struct giveback *g)
{
    task_stop(&g->task);
    list_for_each_safe (it, tmp, &g->entries) {
        struct entry *e = list_entry(it, struct entry, node);
        while (e->step(e->what))
            continue;
        list_remove(&e->node);
        free(e);
    }
}

void giveback_take(struct giveback *g, bool (*step)(void *what), void *what)
{
    struct entry *e = alloc_try(sizeof(*e));
    if (!e) {
        while (step(what))
            continue;
        return;
    }
    e->step = step;
    e->what = what;
    list_init(&e->node);
    list_push_back(&g->entries, &e->node);
    task_wake(&g->task);
}

void giveback_pages(void *p, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)p + page - 1) & ~(page - 1),
              end = ((uintptr_t)p + n) & ~(page - 1);
    if (begin < end) /* failing is harmless: they go with the rest */
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* From the end, so that what is left stays one range. */
static bool free_memory(void *what)
{
    struct memory *m = what;
    size_t n = m->n < PIECE ? m->n : PIECE;
    m->n -= n;
    giveback_pages(m->p + m->n, n);
    if (m->n > 0)
        return true;
    free(m->p);
    free(m);
    return false;
}

void giveback_memory(struct giveback *g, void *p, size_t n)
{
    struct memory *m = p && n > SMALL ? alloc_try(sizeof(*m)) : NULL;
    if (!m) {
        free(p);
        return;
    }
    *m = (struct memory){p, n};
    giveback_take(g, free_memory, m);
}
