/* evtab: the constant event table, generated from ftrace_events.tsv.
 *
 * The data is one string pool and two flat arrays of 16-bit offsets, all read-only and free of
 * relocations, so that 594 events and 2662 fields cost about 50 KiB of shared text and no start-up
 * work. Which of these events the running kernel has, and where their fields lie, is evset's
 * business. */
#include "probes/ftrace/evtab.h"

#include <errno.h>
#include <string.h>

struct row {
    uint16_t group, name, number, first;
    uint8_t n;
};

#include "probes/ftrace/evtab_gen.h"

#define N_ROWS (sizeof rows / sizeof rows[0])

size_t evtab_count(void)
{
    return N_ROWS;
}

void evtab_at(size_t i, struct evtab_event *e)
{
    const struct row *r = &rows[i];
    *e = (struct evtab_event){pool + r->group, pool + r->name, r->number, r->n, fields + r->first};
}

int evtab_find(const char *group, const char *name, struct evtab_event *e)
{
    size_t lo = 0, hi = N_ROWS;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(group, pool + rows[mid].group);
        if (c == 0)
            c = strcmp(name, pool + rows[mid].name);
        if (c == 0) {
            evtab_at(mid, e);
            return 0;
        }
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return -ENOENT;
}

const char *evtab_str(uint16_t name)
{
    return pool + name;
}
