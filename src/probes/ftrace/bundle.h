/* SPDX-License-Identifier: Apache-2.0 */
/* bundle: raw pages of one CPU to FtraceEventBundle packets of one ftrace instance
 * (probes.md 4.21). */
#ifndef PROBES_FTRACE_BUNDLE_H
#define PROBES_FTRACE_BUNDLE_H

#include <stdbool.h>
#include <stdint.h>

#include "probes/ftrace/compact.h"
#include "probes/ftrace/evenc.h"
#include "probes/ftrace/ksyms.h"
#include "probes/ftrace/printflt.h"
#include "probes/ftrace/rbpage.h"
#include "probes/probe.h"

/* FtraceClock (R48). */
enum bundle_clock {
    BUNDLE_CLOCK_BOOT = 0, /* what the trace assumes: not written */
    BUNDLE_CLOCK_UNKNOWN = 1,
    BUNDLE_CLOCK_GLOBAL = 2,
    BUNDLE_CLOCK_LOCAL = 3,
    BUNDLE_CLOCK_MONO_RAW = 4,
};

/* One moment on both clocks (R49). */
struct bundle_snapshot {
    enum bundle_clock clock;
    int64_t ftrace_ts, boot_ts;
};

struct bundle {
    struct probe_sink sink;
    const struct events *ev;          /* borrow */
    const uint64_t *filter;           /* borrow: bit set of event ids that this instance records */
    uint32_t filter_ids;              /* bits in it */
    const struct printflt *prints;    /* borrow: NULL = all texts */
    const struct events_event *print; /* borrow: the event that prints filters, NULL = none */
    const struct ksyms *ksyms;        /* borrow: NULL = addresses stay unnamed */
    bool compact_on;

    struct ftmeta meta;    /* of the read pass that is going on */
    uint32_t parse_errors; /* bit set of enum rbpage_status seen so far */
    uint64_t *last_ts;     /* own; per CPU: last event encoded (R148) */
    unsigned n_cpus;
    uint32_t syms_written; /* symbol indexes up to here were looked at in this pass */
    bool syms_flagged;     /* this pass has said INCREMENTAL_STATE_CLEARED */

    struct pbw *p; /* borrow: the open packet, NULL = none; it stands inside the bundle message */
    unsigned cpu;  /* of the batch */
    struct bundle_snapshot snap;
    struct compact compact;
    struct u64set generic; /* ids of generic events seen in this batch (R95) */
    struct evenc *enc;     /* own */
};

/* An instance without filter: it records nothing until the fields above the gap are set. */
void bundle_init(struct bundle *b, const struct events *ev, struct probe_sink sink,
                 unsigned n_cpus);
void bundle_fini(struct bundle *b);

/* A batch: pages of one CPU in order, read one after the other. Packets are opened as they are
 * needed and closed at the latest by bundle_end (R144). */
void bundle_begin(struct bundle *b, unsigned cpu, const struct bundle_snapshot *snap);
void bundle_page(struct bundle *b, const uint8_t *page, size_t len);
void bundle_end(struct bundle *b);

/* Records an error that belongs to no page. */
static inline void bundle_note_error(struct bundle *b, enum rbpage_status s)
{
    b->parse_errors |= 1U << s;
}

/* The read pass is over and its metadata was passed on: start afresh (R19, R117). */
void bundle_pass_done(struct bundle *b);

#endif
