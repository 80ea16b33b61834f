/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slices: how long each callback holds the loop, by two clocks and by name. On a machine that is
 * busy with other things a callback of a microsecond may take ten milliseconds by the clock on the
 * wall, and nothing here can help that; so what counts against the limit is CPU time, and both are
 * kept.
 *
 * The CPU's clock costs a system call. It is read when LOOK_NS have gone by since it was read last,
 * so a loop of short callbacks pays for it once per LOOK_NS of work, and a callback shorter than
 * that costs one reading of the other clock. What is said of a longer one is at most LOOK_NS and
 * the wait for events above the truth, never below.
 *
 * Memory is fixed: a table of sources; when it is full, a longer one takes the place of the
 * shortest.
 */
#include "reactor/slices.h"

#include "reactor/chrono.h"
#include "reactor/log.h"
#include "reactor/str.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS (50 * CHRONO_US)

void slices_init(struct slices *s, uint64_t limit_ns)
{
    *s = (struct slices){.limit_ns = limit_ns};
}

void slices_begin(struct slices *s)
{
    s->start = chrono_mono_ns();
}

/* "session 3" and "copy" make "session: copy". */
static void full_name(char out[SLICES_NAME], const char *name, const char *detail)
{
    size_t n = 0;
    while (name[n] != '\0' && !isdigit((unsigned char)name[n]))
        n++;
    while (n > 0 && name[n - 1] == ' ')
        n--;
    size_t more = detail != NULL ? strcspn(detail, "0123456789") : 0;
    while (more > 0 && detail[more - 1] == ' ')
        more--;
    snprintf(out, SLICES_NAME, "%.*s%s%.*s", (int)n, name, more != 0 ? ": " : "", (int)more,
             more != 0 ? detail : "");
}

/* The entry for a name; NULL when the table is full of longer ones. */
static struct slices_source *source_of(struct slices *s, const char *name, uint64_t cpu)
{
    struct slices_source *shortest = &s->sources[0];
    for (unsigned i = 0; i < s->nsources; i++) {
        struct slices_source *e = &s->sources[i];
        if (strcmp(e->name, name) == 0)
            return e;
        if (e->longest_ns < shortest->longest_ns)
            shortest = e;
    }
    if (s->nsources < SLICES_SOURCES)
        shortest = &s->sources[s->nsources++];
    else if (shortest->longest_ns >= cpu)
        return NULL;
    *shortest = (struct slices_source){0};
    str_copy(shortest->name, sizeof(shortest->name), name);
    return shortest;
}

static void add(struct slices_source *e, uint64_t wall, uint64_t cpu, uint64_t limit)
{
    if (cpu > e->longest_ns)
        e->longest_ns = cpu;
    if (wall > e->longest_wall_ns)
        e->longest_wall_ns = wall;
    e->over += cpu > limit;
    e->over_wall += wall > limit;
}

/* A slice that took wall ns by the clock, cpu of them at work. */
static void note(struct slices *s, const char *name, uint64_t wall, uint64_t cpu)
{
    char full[SLICES_NAME];
    full_name(full, name, s->detail);
    struct slices_source *e = source_of(s, full, cpu);
    if (e != NULL)
        add(e, wall, cpu, s->limit_ns);
    add(&s->total, wall, cpu, s->limit_ns);
    if (wall > s->limit_ns)
        log_debug("%s held the loop for %" PRIu64 " us, %" PRIu64 " of them at work", full,
                  wall / CHRONO_US, cpu / CHRONO_US);
}

void slices_end(struct slices *s, const char *name)
{
    uint64_t now = chrono_mono_ns();
    uint64_t wall = now - s->start;
    if (now - s->looked_at >= LOOK_NS) {
        uint64_t cpu = chrono_cpu_ns();
        uint64_t worked = cpu - s->cpu;
        s->cpu = cpu;
        s->looked_at = now;
        if (wall >= LOOK_NS)
            note(s, name, wall, worked < wall ? worked : wall);
    }
    s->start = now;
    s->detail = NULL;
}

static int longer_first(const void *a, const void *b)
{
    const struct slices_source *x = a, *y = b;
    if (x->longest_ns != y->longest_ns)
        return x->longest_ns < y->longest_ns ? 1 : -1;
    return strcmp(x->name, y->name);
}

unsigned slices_sources(const struct slices *s, struct slices_source *out, unsigned max)
{
    struct slices_source all[SLICES_SOURCES];
    unsigned n = s->nsources;
    memcpy(all, s->sources, n * sizeof(*all));
    qsort(all, n, sizeof(*all), longer_first);
    if (n > max)
        n = max;
    memcpy(out, all, n * sizeof(*all));
    return n;
}
