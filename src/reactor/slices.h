/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_SLICES_H
#define REACTOR_SLICES_H

/*
 * How long the callbacks of a loop take, by two clocks and by who they are. What counts is CPU
 * time: the time by the clock on the wall, "with waits", is longer when others had the CPU or when
 * a disk was waited for.
 *
 * A slice is one callback, of a mailbox one turn. The loop embeds struct slices; people ask
 * reactor/reactor.h for the figures.
 */

#include <stdint.h>

#define SLICES_SOURCES 48 /* so many are told apart, the longest are kept */
#define SLICES_NAME    64

/* Who runs slices: a watch, deadline, task, hook or actor by its name without its number ("session"
 * for "session 3"), and, where one says it, what it did ("consumer pid: MSG_C_QUERY"). */
struct slices_source {
    char name[SLICES_NAME];
    uint64_t longest_ns;      /* at work */
    uint64_t longest_wall_ns; /* waits included */
    uint64_t over;            /* slices above the limit, at work */
    uint64_t over_wall;       /* waits included */
};

struct slices {
    uint64_t limit_ns;
    uint64_t start;     /* monotonic: when the slice that runs now began */
    uint64_t looked_at; /* monotonic: when the clock of the CPU was read last */
    uint64_t cpu;       /* and what it said */
    const char *detail; /* borrow: what the callback says that it does; NULL: nothing */
    unsigned nsources;
    struct slices_source total; /* of all */
    struct slices_source sources[SLICES_SOURCES];
};

/* All at zero, with a limit above which slices are counted. */
void slices_init(struct slices *s, uint64_t limit_ns);

/* A slice begins now. */
void slices_begin(struct slices *s);

/* The slice of `name` ends; the next one begins. */
void slices_end(struct slices *s, const char *name);

/* Copies sources to out, longest first, at most max; only those that ever had a slice of 50 us or
 * more. Returns how many. */
unsigned slices_sources(const struct slices *s, struct slices_source *out, unsigned max);

#endif
