/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

/* The live line on a terminal while a trace is recorded and saved. */

#include <stdbool.h>
#include <stdint.h>

#include "reactor/bytes.h"

/* Embedded by value; owns nothing. */
struct progress {
    bool on;    /* somebody looks */
    bool drawn; /* the line stands there */
    bool colour;
    bool saving;
    uint64_t start_ns, saved;
    uint64_t duration_ms, buffer_bytes; /* 0: unknown */
    bool streams;                       /* the file is to have everything */
    uint64_t written, fill, lost;       /* bytes into buffers, bytes in them, losses counted */
    uint64_t overwritten;               /* chunks: what a ring buffer is for, unless it streams */
};

void progress_init(struct progress *p);

/* Starts to show; the first line is drawn by the next progress_draw. With `streams` the buffers are
 * written into a file all the time, so that overwritten data counts as lost. */
void progress_begin(struct progress *p, uint64_t duration_ms, uint64_t buffer_kb, bool streams);

/* News: an encoded GetTraceStatsResponse. */
void progress_stats(struct progress *p, struct bytes_view reply);

/* The trace is being read back; so many bytes are there. */
void progress_saving(struct progress *p, uint64_t bytes);

/* Draws the line anew. */
void progress_draw(struct progress *p);

/* Wipes the line, so that something else can be printed; harmless when it is not drawn. */
void progress_clear(struct progress *p);

/* "1.2 MB" into buf. */
const char *progress_size(uint64_t bytes, char *buf, unsigned size);

#endif
