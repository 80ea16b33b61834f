/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The live line.
 *
 * Drawn on stderr with a carriage return, only if that is a terminal; whoever prints something else
 * wipes it first. It shows what can go wrong while there is still time to do something: how full
 * the buffers are and whether anything was lost already.
 */
#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"

void progress_init(struct progress *p)
{
    memset(p, 0, sizeof(*p));
}

void progress_begin(struct progress *p, uint64_t duration_ms, uint64_t buffer_kb, bool streams)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

    p->on = true;
    p->colour =
        (no_color == NULL || *no_color == '\0') && term != NULL && strcmp(term, "dumb") != 0;
    p->start_ns = chrono_mono_ns();
    p->duration_ms = duration_ms;
    p->buffer_bytes = buffer_kb * 1024;
    p->streams = streams;
}

static void buffer_stats(struct progress *p, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    uint64_t written = 0, padding = 0, overwritten = 0, read = 0;

    while (bytes_next(&cur, &f)) {
        switch (f.id) {
        case PBF_TraceStats_BufferStats_bytes_written:
            written = f.num;
            break;
        case PBF_TraceStats_BufferStats_padding_bytes_written:
            padding = f.num;
            break;
        case PBF_TraceStats_BufferStats_bytes_overwritten:
            overwritten = f.num;
            break;
        case PBF_TraceStats_BufferStats_bytes_read:
            read = f.num;
            break;
        case PBF_TraceStats_BufferStats_chunks_overwritten:
            p->overwritten += f.num;
            break;
        case PBF_TraceStats_BufferStats_chunks_discarded:
        case PBF_TraceStats_BufferStats_trace_writer_packet_loss:
        case PBF_TraceStats_BufferStats_patches_failed:
            p->lost += f.num;
            break;
        default:
            break;
        }
    }
    p->written += written;
    if (written + padding > overwritten + read)
        p->fill += written + padding - overwritten - read;
}

void progress_stats(struct progress *p, struct bytes_view reply)
{
    struct bytes_field stats, f;
    struct bytes_cur cur;

    if (!bytes_find(reply, PBF_GetTraceStatsResponse_trace_stats, BYTES_LEN, &stats))
        return;
    p->written = p->fill = p->lost = p->overwritten = 0;
    cur = bytes_cur(stats.data);
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_TraceStats_buffer_stats && f.type == BYTES_LEN)
            buffer_stats(p, f.data);
        else if (f.id == PBF_TraceStats_chunks_discarded || f.id == PBF_TraceStats_invalid_packets)
            p->lost += f.num;
    }
    if (p->streams)
        p->lost += p->overwritten;
}

void progress_saving(struct progress *p, uint64_t bytes)
{
    p->saving = true;
    p->saved = bytes;
}

const char *progress_size(uint64_t bytes, char *buf, unsigned size)
{
    static const char *const units[] = {"bytes", "KB", "MB", "GB", "TB"};
    double v = (double)bytes;
    unsigned u = 0;

    for (; v >= 1024 && u < 4; u++)
        v /= 1024;
    (void)snprintf(buf, size, u == 0 ? "%.0f %s" : "%.1f %s", v, units[u]);
    return buf;
}

void progress_draw(struct progress *p)
{
    uint64_t ms;
    char size[24], end[32] = "", fill[64] = "", lost[48] = "nothing lost";
    bool wraps = p->overwritten > 0 && !p->streams;

    if (!p->on)
        return;
    if (p->saving) {
        fprintf(stderr, "\r\033[Ksaving  %s", progress_size(p->saved, size, sizeof(size)));
        p->drawn = true;
        return;
    }
    ms = (chrono_mono_ns() - p->start_ns) / CHRONO_MS;
    if (p->duration_ms > 0)
        (void)snprintf(end, sizeof(end), " of %" PRIu64 " s", (p->duration_ms + 999) / 1000);
    if (p->buffer_bytes > 0)
        (void)snprintf(fill, sizeof(fill), "  buffers %.0f%% full%s",
                       100.0 * (double)p->fill / (double)p->buffer_bytes,
                       wraps ? ", the oldest is overwritten" : "");
    if (p->lost > 0)
        (void)snprintf(lost, sizeof(lost), "%s%" PRIu64 " losses%s", p->colour ? "\033[31m" : "",
                       p->lost, p->colour ? "\033[0m" : "");
    fprintf(stderr, "\r\033[Krecording  %" PRIu64 ".%" PRIu64 " s%s  %s%s  %s", ms / 1000,
            ms / 100 % 10, end, progress_size(p->written, size, sizeof(size)), fill, lost);
    p->drawn = true;
}

void progress_clear(struct progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    p->drawn = false;
}
