/* evtab: the events that have a message of their own in FtraceEvent: names, field numbers, types.
 */
#ifndef PROBES_FTRACE_EVTAB_H
#define PROBES_FTRACE_EVTAB_H

#include <stddef.h>
#include <stdint.h>

enum evtab_type { EVTAB_I32, EVTAB_I64, EVTAB_U32, EVTAB_U64, EVTAB_STR, EVTAB_BYTES };

struct evtab_field {
    uint16_t name; /* evtab_str */
    uint8_t number;
    uint8_t type; /* enum evtab_type */
};

struct evtab_event {
    const char *group, *name;
    uint16_t number; /* field of FtraceEvent */
    uint8_t n_fields;
    const struct evtab_field *fields; /* ascending field number */
};

/* Number of events; evtab_at gives the i-th in ascending (group, name). */
size_t evtab_count(void);
void evtab_at(size_t i, struct evtab_event *e);

/* 0, or -ENOENT when the table has no such event. */
int evtab_find(const char *group, const char *name, struct evtab_event *e);

/* Text of a name offset. */
const char *evtab_str(uint16_t name);

#endif
