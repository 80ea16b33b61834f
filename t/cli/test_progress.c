/* SPDX-License-Identifier: Apache-2.0 */
/* The live line warns of losses, and of nothing that is meant to happen. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>

#include "cli/progress.h"
#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"

static void feed(struct progress *p, uint32_t field, uint64_t value)
{
    struct bytesbuf b;
    size_t stats, buf;

    bytesbuf_init(&b, 1 << 16);
    stats = bytesbuf_pb_begin(&b, PBF_GetTraceStatsResponse_trace_stats);
    buf = bytesbuf_pb_begin(&b, PBF_TraceStats_buffer_stats);
    bytesbuf_pb_varint(&b, PBF_TraceStats_BufferStats_bytes_written, 4096);
    bytesbuf_pb_varint(&b, field, value);
    bytesbuf_pb_end(&b, buf);
    bytesbuf_pb_end(&b, stats);
    progress_stats(p, bytesbuf_view(&b));
    bytesbuf_fini(&b);
}

/* What is drawn after one reply with this counter. */
static char *drawn(bool streams, uint32_t field, uint64_t value)
{
    static char text[256];
    struct progress p;
    FILE *f;
    size_t n;

    cr_redirect_stderr();
    progress_init(&p);
    progress_begin(&p, 1500, 8, streams);
    feed(&p, field, value);
    progress_draw(&p);
    fflush(stderr);
    f = cr_get_redirected_stderr();
    n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    return text;
}

Test(progress, bytes_fill_and_the_whole_time)
{
    char *s = drawn(false, PBF_TraceStats_BufferStats_chunks_read, 1);

    cr_expect(strstr(s, " of 2 s  4.0 KB  buffers 50% full  nothing lost"), "%s", s);
}

Test(progress, a_ring_buffer_may_overwrite)
{
    char *s = drawn(false, PBF_TraceStats_BufferStats_chunks_overwritten, 7);

    cr_expect(strstr(s, "the oldest is overwritten") && strstr(s, "nothing lost"), "%s", s);
}

Test(progress, a_streamed_buffer_may_not)
{
    char *s = drawn(true, PBF_TraceStats_BufferStats_chunks_overwritten, 7);

    cr_expect(strstr(s, "7 losses") && !strstr(s, "oldest"), "%s", s);
}

Test(progress, lost_packets)
{
    char *s = drawn(false, PBF_TraceStats_BufferStats_trace_writer_packet_loss, 3);

    cr_expect(strstr(s, "3 losses"), "%s", s);
}
