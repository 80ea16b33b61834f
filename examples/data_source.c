/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program with a data source of its own.
 *
 *     cc data_source.c -o data_source $(pkg-config --cflags --libs perfetto_c)
 *     perfetto -c data_source.pbtxt --txt -o out.pftrace -- ./data_source
 *
 * with data_source.pbtxt:
 *
 *     buffers { size_kb: 1024 }
 *     data_sources { config { name: "com.example.frames" } }
 */
#include <perfetto/public/packet.h>
#include <perfetto/public/producer.h>
#include <stdio.h>
#include <unistd.h>

static struct perfetto_data_source frames;

static void on_start(void *user, uint32_t instance)
{
    (void)user;
    printf("instance %u records\n", instance);
}

static const struct perfetto_data_source_ops ops = {.on_start = on_start};

static void draw_frame(unsigned n)
{
    PERFETTO_TRACE (&frames, p) {
        /* Once for each session that records; else a load and a branch. */
        char name[32];
        snprintf(name, sizeof(name), "frame %u", n);
        perfetto_packet_timestamp(p);
        perfetto_packet_begin_nested(p, 900); /* TracePacket.for_testing */
        perfetto_packet_string(p, 1, name);   /* TestEvent.str */
        perfetto_packet_end_nested(p);
    }
}

int main(void)
{
    const struct perfetto_data_source_options options = {.ops = &ops};
    if (perfetto_init(NULL) < 0 ||
        perfetto_data_source_register(&frames, "com.example.frames", &options) < 0) {
        fprintf(stderr, "cannot start tracing\n");
        return 1;
    }
    for (unsigned n = 0; n < 600; n++) {
        draw_frame(n);
        usleep(16667);
    }
    return 0; /* what is written is sent */
}
