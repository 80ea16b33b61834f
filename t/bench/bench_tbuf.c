/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_tbuf [FILTER]: what the trace buffer costs. Workloads of spec/trace_buffer.md section 21.1
 * to the letter (generator, sizes, counting rule), then those of 21.3. Where a rate can be compared
 * with a plain memcpy of the same payload bytes to the same places of an equal ring, both are
 * measured in turns in this run and the ratio is printed.
 * FILTER: only the groups whose name contains it. Reports figures, asserts nothing.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"

#define REPS      5
#define MIB       (UINT64_C(1) << 20)
#define TEMPLATES 100
#define CHUNK     4080u  /* payload of a chunk that fills a 4 KiB page */
#define COUNTED   4096u  /* bytes reported per copy, 21.1 */
#define SLICE     20000u /* copies of one turn */
#define TURNS     41

/* CPU time of this thread: on an idle machine the same as elapsed time, on a busy one without the
 * time that others took. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), by_value);
    return v[n / 2];
}

/* ---- input of 21.1 ---- */

struct template
{
    uint8_t bytes[CHUNK];
    uint32_t len;
    uint16_t packets;
};

static struct template templates[TEMPLATES];

static uint32_t lcg(uint32_t *x)
{
    *x = (uint32_t)((uint64_t)*x * 48271 % 2147483647);
    return *x;
}

/* One packet of `total` bytes, size header included, as section 19 encodes it. */
static void put_packet(uint8_t *p, uint32_t total, char letter)
{
    uint32_t n = total <= 128 ? total - 1 : total - 2;
    uint32_t hdr = total <= 128 ? 1 : 2;
    p[0] = (uint8_t)(hdr == 1 ? n : (n & 0x7F) | 0x80);
    if (hdr == 2)
        p[1] = (uint8_t)(n >> 7);
    for (uint32_t i = 0; i < n; i++) {
        const char group[4] = {letter, (char)('0' + i / 4 / 10 % 10), (char)('0' + i / 4 % 10),
                               '-'};
        p[hdr + i] = (uint8_t)group[i % 4];
    }
}

static void make_templates(void)
{
    uint32_t x = 42;
    for (int t = 0; t < TEMPLATES; t++) {
        struct template *k = &templates[t];
        uint32_t want = 5 + lcg(&x) % 11;
        for (uint32_t i = 0; i < want && k->len < 4030; i++) {
            uint32_t total = 50 + lcg(&x) % 451;
            if (total > CHUNK - k->len)
                total = CHUNK - k->len;
            if (total < 10)
                break;
            put_packet(k->bytes + k->len, total, (char)('a' + t % 26));
            k->len += total;
            k->packets++;
        }
    }
}

/* Chunks of equal packets: `total` bytes each, `chunk` bytes in all. */
static void make_equal(struct template *k, uint32_t chunk, uint32_t total)
{
    k->len = 0;
    k->packets = 0;
    while (k->len + total <= chunk && k->packets < 1023) {
        put_packet(k->bytes + k->len, total, 'e');
        k->len += total;
        k->packets++;
    }
}

static struct tbuf *make(uint64_t size)
{
    struct tbuf *b = NULL;
    if (tbuf_new(size, TBUF_RING, 0, &b) != 0) {
        printf("no memory for a buffer of %" PRIu64 " bytes\n", size);
        exit(99);
    }
    return b;
}

static void copy(struct tbuf *b, const struct template *k, uint16_t producer, uint16_t writer,
                 uint32_t id)
{
    struct tbuf_chunk_in in = {
        .producer_id = producer,
        .writer_id = writer,
        .chunk_id = id,
        .num_fragments = k->packets,
        .complete = true,
        .payload = k->bytes,
        .payload_size = k->len,
        .client = {999 + writer, 99 + writer, 0, writer},
    };
    tbuf_copy_chunk(b, &in);
}

static void line(const char *group, const char *what, double value, const char *unit)
{
    printf("%-10s %-52s %10.2f %s\n", group, what, value, unit);
    fflush(stdout);
}

/* ---- writing ---- */

struct writers {
    uint32_t n;
    uint32_t *ids; /* next chunk id of each */
    uint32_t at;   /* whose turn it is */
};

/* Copies as in 21.1: writers in round-robin, ids increasing. */
static uint64_t write_round(struct tbuf *b, struct writers *w, uint32_t copies)
{
    uint64_t payload = 0;
    uint32_t at = w->at;
    for (uint32_t i = 0; i < copies; i++) {
        const struct template *k = &templates[i % TEMPLATES];
        uint32_t id = w->ids[at]++;
        /* {i, i} as in 21.1 as far as writer ids go */
        copy(b, k, (uint16_t)(at + 1), (uint16_t)(at % 32767 + 1), id);
        payload += k->len;
        if (++at == w->n)
            at = 0;
    }
    w->at = at;
    return payload;
}

/* The same payload bytes to the same places, by memcpy alone. */
static uint64_t memcpy_round(uint8_t *ring, uint64_t size, uint64_t *at, uint32_t copies)
{
    uint64_t payload = 0;
    for (uint32_t i = 0; i < copies; i++) {
        const struct template *k = &templates[i % TEMPLATES];
        uint64_t record = (16 + (uint64_t)k->len + 15) & ~UINT64_C(15);
        if (*at + record > size)
            *at = 0;
        memcpy(ring + *at + 16, k->bytes, k->len);
        *at += record;
        payload += k->len;
    }
    return payload;
}

static uint8_t *map_ring(uint64_t size)
{
    uint8_t *p =
        mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        exit(99);
    (void)madvise(p, (size_t)size, MADV_HUGEPAGE); /* as the buffer has it */
    memset(p, 1, (size_t)size);
    return p;
}

/* A buffer in steady state: full, each copy evicts. */
struct subject {
    const char *name;
    uint64_t size;
    struct writers w;
    struct tbuf *b;
    double t[TURNS];
    double ns; /* per copy */
};

static void fill(struct subject *s)
{
    s->w.ids = calloc(s->w.n, sizeof(uint32_t));
    s->b = make(s->size);
    for (uint64_t filled = 0; filled < s->size + s->size / 8; filled += SLICE * UINT64_C(2600))
        write_round(s->b, &s->w, SLICE);
}

/* Takes turns among the subjects and, if `plain` is given, memcpy to a ring of its size; then the
 * tenth percentile of each, which other work on the machine touches least. */
static void take_turns(struct subject *s, int n, struct subject *plain)
{
    uint64_t at = 0;
    uint8_t *ring = plain != NULL ? map_ring(plain->size) : NULL;
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < n; i++) {
            double t0 = now();
            write_round(s[i].b, &s[i].w, SLICE);
            s[i].t[turn] = now() - t0;
        }
        if (plain != NULL) {
            double t0 = now();
            memcpy_round(ring, plain->size, &at, SLICE);
            plain->t[turn] = now() - t0;
        }
    }
    for (int i = 0; i < n; i++) {
        qsort(s[i].t, TURNS, sizeof(double), by_value);
        s[i].ns = s[i].t[TURNS / 10] / SLICE * 1e9;
        tbuf_free(s[i].b);
        free(s[i].w.ids);
    }
    if (plain != NULL) {
        qsort(plain->t, TURNS, sizeof(double), by_value);
        plain->ns = plain->t[TURNS / 10] / SLICE * 1e9;
        munmap(ring, (size_t)plain->size);
    }
}

static double payload_per_copy(void)
{
    double n = 0;
    for (int i = 0; i < TEMPLATES; i++)
        n += templates[i].len;
    return n / TEMPLATES;
}

static void bench_write(void)
{
    struct subject s[] = {
        {.name = "1 writer, 64 MiB", .size = 64 * MIB, .w = {.n = 1}},
        {.name = "1000 writers, 64 MiB", .size = 64 * MIB, .w = {.n = 1000}},
        {.name = "65000 writers, 64 MiB", .size = 64 * MIB, .w = {.n = 65000}},
        {.name = "65000 writers, 256 MiB", .size = 256 * MIB, .w = {.n = 65000}},
    };
    struct subject plain = {.size = 64 * MIB};
    char text[96];
    for (int i = 0; i < 4; i++)
        fill(&s[i]);
    take_turns(s, 4, &plain);
    line("write", "memcpy of the same payload bytes", payload_per_copy() / plain.ns, "GB/s");
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof(text), "%s: reported, 4096 bytes a copy", s[i].name);
        line("write", text, COUNTED / s[i].ns, "GB/s");
        snprintf(text, sizeof(text), "%s: payload", s[i].name);
        line("write", text, payload_per_copy() / s[i].ns, "GB/s");
        snprintf(text, sizeof(text), "%s: payload, percent of memcpy", s[i].name);
        line("write", text, 100 * plain.ns / s[i].ns, "%");
        if (i == 0)
            continue;
        snprintf(text, sizeof(text), "%s: percent of 1 writer", s[i].name);
        line("write", text, 100 * s[0].ns / s[i].ns, "%");
    }
}

static void bench_scale(void)
{
    static const struct {
        uint64_t mib;
        uint32_t writers;
    } what[] = {{1, 1},    {16, 1},    {64, 1},     {256, 1},     {1024, 1},   {4096, 1},
                {256, 10}, {256, 100}, {256, 1000}, {256, 10000}, {256, 65000}};
    char text[96];
    for (size_t i = 0; i < sizeof(what) / sizeof(what[0]); i++) {
        if (sysconf(_SC_AVPHYS_PAGES) / 256 < (long)(2 * what[i].mib + 512))
            continue; /* would not fit */
        struct subject s = {.size = what[i].mib * MIB, .w = {.n = what[i].writers}};
        struct subject plain = {.size = what[i].mib * MIB};
        fill(&s);
        take_turns(&s, 1, &plain);
        snprintf(text, sizeof(text), "%5" PRIu64 " MiB, %5u writers: payload, then memcpy",
                 what[i].mib, what[i].writers);
        line("scale", text, payload_per_copy() / s.ns, "GB/s");
        line("scale", text, payload_per_copy() / plain.ns, "GB/s");
    }
}

/* The lap in which pages are touched for the first time; with and without prefault beside it. */
static void bench_first_lap(void)
{
    for (int prefault = 0; prefault < 2; prefault++) {
        double t[REPS];
        double worst[REPS];
        uint64_t payload = 0;
        for (int r = 0; r < REPS; r++) {
            struct tbuf *b = make(64 * MIB);
            payload = 0;
            t[r] = 0;
            worst[r] = 0;
            for (uint32_t i = 0; i < 23000; i++) {
                const struct template *k = &templates[i % TEMPLATES];
                double t0 = now();
                copy(b, k, 1, 1, i);
                double d = now() - t0;
                t[r] += d;
                if (i > 100 && d > worst[r])
                    worst[r] = d;
                payload += k->len;
                if (prefault && i % 32 == 0)
                    tbuf_prefault(b, 256 << 10);
            }
            tbuf_free(b);
        }
        const char *how = prefault ? "with prefault between commits" : "faults paid in the copy";
        char text[96];
        snprintf(text, sizeof(text), "first lap, %s: payload", how);
        line("first lap", text, (double)payload / median(t, REPS) / 1e9, "GB/s");
        snprintf(text, sizeof(text), "first lap, %s: slowest copy", how);
        line("first lap", text, median(worst, REPS) * 1e6, "us");
    }
}

/* ---- reading ---- */

struct drained {
    uint64_t bytes;
    uint64_t packets;
    double seconds;
};

/* Reads all; a new begin after each `task` bytes. */
static struct drained drain(struct tbuf *b, uint64_t task)
{
    struct drained d = {0};
    struct tbuf_packet k;
    uint64_t in_task = 0;
    double t0 = now();
    tbuf_read_begin(b);
    for (;;) {
        enum tbuf_read_result rc = tbuf_read_next(b, &k);
        if (rc == TBUF_READ_EMPTY)
            break;
        if (rc == TBUF_READ_AGAIN)
            continue;
        d.packets++;
        for (size_t i = 0; i < k.num_slices; i++) {
            d.bytes += k.slices[i].iov_len;
            in_task += k.slices[i].iov_len;
        }
        if (in_task >= task) {
            in_task = 0;
            tbuf_read_begin(b);
        }
    }
    d.seconds = now() - t0;
    return d;
}

static void read_rate(const char *name, uint32_t writers, const struct template *only,
                      uint64_t task)
{
    double t[REPS];
    struct drained d = {0};
    for (int r = 0; r < REPS; r++) {
        struct tbuf *b = make(128 * MIB);
        for (uint32_t i = 0; i < 32767; i++) {
            uint16_t w = (uint16_t)(1 + i % writers);
            copy(b, only != NULL ? only : &templates[i % TEMPLATES], 1, w, i / writers);
        }
        d = drain(b, task);
        double t0 = now();
        tbuf_free(b);
        t[r] = d.seconds + (now() - t0) * (task == UINT64_MAX); /* 21.1 counts the unmapping */
    }
    double m = median(t, REPS);
    char text[128];
    snprintf(text, sizeof(text), "%s: payload", name);
    line("read", text, (double)d.bytes / m / 1e9, "GB/s");
    snprintf(text, sizeof(text), "%s: packets", name);
    line("read", text, (double)d.packets / m / 1e6, "M/s");
}

static void bench_read(void)
{
    struct template small;
    read_rate("128 MiB, 32767 chunks, freeing included (RD)", 1, NULL, UINT64_MAX);
    read_rate("the same in tasks of 32 KiB, without freeing", 1, NULL, 32768);
    read_rate("the same of 1000 writers in tasks of 32 KiB", 1000, NULL, 32768);
    make_equal(&small, CHUNK, 33);
    read_rate("packets of 32 bytes, tasks of 32 KiB", 1, &small, 32768);
    make_equal(&small, 284, 71);
    read_rate("chunks of 284 bytes, tasks of 32 KiB", 1, &small, 32768);
}

/* A begin that waits in each of many sequences, drained chunks between them. */
static void bench_stalled(void)
{
    struct template open;
    make_equal(&open, 200, 100);
    for (int stalled = 0; stalled < 2; stalled++) {
        double t[REPS];
        struct drained d = {0};
        for (int r = 0; r < REPS; r++) {
            struct tbuf *b = make(128 * MIB);
            for (uint32_t i = 0; i < 30000; i++) {
                if (stalled && i % 10 == 0) {
                    struct tbuf_chunk_in in = {.producer_id = 2,
                                               .writer_id = (uint16_t)(1 + i / 10),
                                               .num_fragments = 2,
                                               .flags = TBUF_CHUNK_LAST_CONTINUES,
                                               .complete = true,
                                               .payload = open.bytes,
                                               .payload_size = open.len};
                    tbuf_copy_chunk(b, &in);
                }
                copy(b, &templates[i % TEMPLATES], 1, 1, i);
            }
            d = drain(b, 32768);
            t[r] = d.seconds;
            tbuf_free(b);
        }
        line("stalled",
             stalled ? "32 KiB tasks, 3000 sequences that wait" : "32 KiB tasks, nobody waits",
             (double)d.bytes / median(t, REPS) / 1e9, "GB/s");
    }
}

/* ---- both ---- */

/* Writes `batch` bytes of records, drains them, and so on. */
static void stream(uint64_t batch, uint64_t task)
{
    struct tbuf *b = make(256 * MIB);
    double write = 0;
    double read = 0;
    uint64_t bytes = 0;
    uint32_t id = 0;
    for (uint64_t total = 0; total < 2048 * MIB;) {
        uint64_t in_batch = 0;
        double t0 = now();
        while (in_batch < batch) {
            const struct template *k = &templates[id % TEMPLATES];
            copy(b, k, 1, 1, id++);
            in_batch += k->len;
        }
        write += now() - t0;
        struct drained d = drain(b, task);
        read += d.seconds;
        bytes += d.bytes;
        total += in_batch;
    }
    char text[96];
    snprintf(text, sizeof(text), "write, drain every %" PRIu64 " KiB: written", batch >> 10);
    line("stream", text, (double)bytes / write / 1e9, "GB/s");
    snprintf(text, sizeof(text), "write, drain every %" PRIu64 " KiB: read", batch >> 10);
    line("stream", text, (double)bytes / read / 1e9, "GB/s");
    snprintf(text, sizeof(text), "write, drain every %" PRIu64 " KiB: ring used", batch >> 10);
    line("stream", text, (double)tbuf_used_size(b) / (double)MIB, "MiB");
    tbuf_free(b);
}

/* A full ring; after each task of the reader as much is written as it took. */
static void slow_reader(void)
{
    struct tbuf *b = make(64 * MIB);
    struct writers w = {1, calloc(1, sizeof(uint32_t)), 0};
    struct tbuf_packet k;
    double read = 0;
    uint64_t bytes = 0;
    write_round(b, &w, 40000);
    for (int task = 0; task < 4000; task++) {
        uint64_t in_task = 0;
        double t0 = now();
        tbuf_read_begin(b);
        while (in_task < 32768 && tbuf_read_next(b, &k) != TBUF_READ_EMPTY)
            in_task += k.size;
        read += now() - t0;
        bytes += in_task;
        write_round(b, &w, 12);
    }
    line("stream", "full ring, slow reader in tasks of 32 KiB: read", (double)bytes / read / 1e9,
         "GB/s");
    tbuf_free(b);
    free(w.ids);
}

static void bench_stream(void)
{
    stream(1 * MIB, 32768);
    stream(4 * MIB, 32768);
    stream(16 * MIB, 1 * MIB);
    slow_reader();
}

/* Packets of five chunks. */
static void bench_fragments(void)
{
    double tw[REPS];
    double tr[REPS];
    struct drained d = {0};
    uint64_t payload = 0;
    struct template whole;
    whole.packets = 1;
    whole.len = CHUNK;
    put_packet(whole.bytes, CHUNK, 'f');
    for (int r = 0; r < REPS; r++) {
        struct tbuf *b = make(64 * MIB);
        payload = 0;
        for (int lap = 0; lap < 2; lap++) {
            double t0 = now();
            for (uint32_t i = 0; i < 16000; i++) {
                struct tbuf_chunk_in in = {
                    .producer_id = 1,
                    .writer_id = 1,
                    .chunk_id = i + 16000 * (uint32_t)lap,
                    .num_fragments = 1,
                    .flags = (uint8_t)((i % 5 != 0 ? 1 : 0) | (i % 5 != 4 ? 2 : 0)),
                    .complete = true,
                    .payload = whole.bytes,
                    .payload_size = whole.len};
                tbuf_copy_chunk(b, &in);
                payload += lap == 1 ? whole.len : 0;
            }
            tw[r] = now() - t0;
        }
        d = drain(b, 32768);
        tr[r] = d.seconds;
        tbuf_free(b);
    }
    line("fragments", "packets of 5 chunks of 4 KiB: written",
         (double)payload / median(tw, REPS) / 1e9, "GB/s");
    line("fragments", "packets of 5 chunks of 4 KiB: read",
         (double)d.bytes / median(tr, REPS) / 1e9, "GB/s");
}

/* Chunks of 284 bytes, 14 to a page. */
static void bench_small(void)
{
    struct template small;
    double t[REPS];
    make_equal(&small, 284, 71);
    struct tbuf *b = make(64 * MIB);
    uint32_t id = 0;
    for (; id < 300000; id++)
        copy(b, &small, 1, 1, id);
    for (int r = 0; r < REPS; r++) {
        double t0 = now();
        for (int i = 0; i < 300000; i++)
            copy(b, &small, 1, 1, id++);
        t[r] = now() - t0;
    }
    line("small", "chunks of 284 bytes: per chunk", median(t, REPS) / 300000 * 1e9, "ns");
    line("small", "chunks of 284 bytes: payload", 300000.0 * small.len / median(t, REPS) / 1e9,
         "GB/s");
    line("small", "memory beside the ring",
         100 * (double)tbuf_side_memory(b) / (double)tbuf_size(b), "%");
    tbuf_free(b);
    make_equal(&small, 496, 62);
    b = make(64 * MIB);
    for (id = 0; id < 400000; id++)
        copy(b, &small, 1, 1, id);
    line("small", "memory beside the ring, records of 512 bytes",
         100 * (double)tbuf_side_memory(b) / (double)tbuf_size(b), "%");
    tbuf_free(b);
}

/* A flush: 64 open chunks are copied as they are, in memory order, then committed. */
static void bench_scrape(void)
{
    double t[REPS];
    struct template k;
    make_equal(&k, CHUNK, 100);
    for (int r = 0; r < REPS; r++) {
        struct tbuf *b = make(64 * MIB);
        double t0 = now();
        for (uint32_t round = 0; round < 200; round++) {
            for (uint32_t pass = 0; pass < 3; pass++) {
                for (uint32_t i = 0; i < 64; i++) {
                    uint32_t j = (i * 37) % 64;
                    struct tbuf_chunk_in in = {.producer_id = 1,
                                               .writer_id = (uint16_t)(1 + j % 8),
                                               .chunk_id = round * 8 + j / 8,
                                               .num_fragments = (uint16_t)(10 + 15 * pass),
                                               .complete = pass == 2,
                                               .payload = k.bytes,
                                               .payload_size = k.len};
                    tbuf_copy_chunk(b, &in);
                }
            }
        }
        t[r] = now() - t0;
        tbuf_free(b);
    }
    line("scrape", "scraped twice out of order, then committed: per copy",
         median(t, REPS) / (200 * 3 * 64) * 1e9, "ns");
}

static void patch_cost(struct tbuf *b, const char *name, uint32_t chunk)
{
    double t[REPS];
    const struct tbuf_patch p = {10, {'a', 'b', 'c', 'd'}};
    for (int r = 0; r < REPS; r++) {
        double t0 = now();
        for (int i = 0; i < 1000000; i++)
            tbuf_patch(b, 1, 1, chunk, &p, 1, false);
        t[r] = now() - t0;
    }
    line("patch", name, median(t, REPS) / 1e6 * 1e9, "ns");
}

/* A chunk for each of 4096 ids, `least` to `most` apart behind each run without gaps; then patches
 * all over it, of chunks that are there and of such that are not. */
static void patch_gaps(const char *name, uint32_t least, uint32_t most, uint32_t run)
{
    static uint32_t ids[4096];
    struct tbuf *b = make(16 * MIB);
    const struct tbuf_patch p = {10, {'a', 'b', 'c', 'd'}};
    uint32_t x = 42;
    for (uint32_t i = 1; i < 4096; i++)
        ids[i] = ids[i - 1] + (i % run != 0 ? 1 : least + lcg(&x) % (most - least + 1));
    for (uint32_t i = 0; i < 4096; i++)
        copy(b, &templates[i % 10], 1, 1, ids[i]);
    for (int there = 1; there >= (run > 1); there--) {
        double t[REPS];
        for (int r = 0; r < REPS; r++) {
            double t0 = now();
            for (uint32_t i = 0; i < 1000000; i++) {
                uint32_t at = i * 977 % 4095;
                uint32_t want = there != 0 ? ids[at] : ids[at] + (ids[at + 1] - ids[at]) / 2;
                if (there != 0 || want != ids[at])
                    tbuf_patch(b, 1, 1, want, &p, 1, false);
            }
            t[r] = now() - t0;
        }
        char text[96];
        snprintf(text, sizeof(text), "%s: any in turn%s", name, there ? "" : ", not there");
        line("patch", text, median(t, REPS) / 1e6 * 1e9, "ns");
    }
    tbuf_free(b);
}

static void bench_patch(void)
{
    struct tbuf *b = make(16 * MIB);
    for (uint32_t i = 0; i < 4096; i++)
        copy(b, &templates[i % 10], 1, 1, i);
    patch_cost(b, "the newest chunk (Patch/0)", 4095);
    patch_cost(b, "the 10th before it (Patch/10)", 4085);
    patch_cost(b, "a chunk that was never there (Patch/-1)", UINT32_MAX - 1);
    double t[REPS];
    const struct tbuf_patch p = {10, {'a', 'b', 'c', 'd'}};
    for (int r = 0; r < REPS; r++) {
        double t0 = now();
        for (uint32_t i = 0; i < 1000000; i++)
            tbuf_patch(b, 1, 1, 1 + i * 977 % 4095, &p, 1, false);
        t[r] = now() - t0;
    }
    line("patch", "any of the 4095 chunks in turn", median(t, REPS) / 1e6 * 1e9, "ns");
    tbuf_free(b);
    patch_gaps("every third id", 3, 3, 1);
    patch_gaps("1 to 5 ids apart", 1, 5, 1);
    patch_gaps("a third of the ids lost in one run", 2048, 2048, 2048);
    patch_gaps("in runs of 64, up to 1000 apart", 1, 1000, 64);
}

/* As the service does it, in steps of 128 KiB; the longest of them includes the begin. */
static void clone_in_slices(struct tbuf *b, double *all, double *longest)
{
    struct tbuf_clone *k;
    struct tbuf *c = NULL;
    size_t bytes;
    bool more = true;
    double t0 = now();
    double at = t0;
    *longest = 0;
    if (tbuf_clone_begin(b, &k) != 0)
        exit(99);
    while (more) {
        more = tbuf_clone_step(k, 128 << 10, &bytes);
        double t = now();
        if (t - at > *longest)
            *longest = t - at;
        at = t;
    }
    if (tbuf_clone_finish(k, &c) != 0)
        exit(99);
    *all = now() - t0;
    tbuf_free(c);
}

/* A packet of as many fragments as there may be: the longest call on the way to it. */
static void bench_large(void)
{
    struct tbuf *b = make(128 * MIB);
    struct tbuf_packet k = {.more = true};
    uint8_t payload[256] = {0xFC, 0x01}; /* one fragment of 252 bytes */
    double scan = 0;
    double part = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < TBUF_PACKET_SLICES_MAX; i++) {
        struct tbuf_chunk_in in = {
            .producer_id = 1,
            .writer_id = 1,
            .chunk_id = i,
            .num_fragments = 1,
            .flags = (uint8_t)((i > 0 ? TBUF_CHUNK_FIRST_CONTINUES : 0) |
                               (i < TBUF_PACKET_SLICES_MAX - 1 ? TBUF_CHUNK_LAST_CONTINUES : 0)),
            .complete = true,
            .payload = payload,
            .payload_size = 254};
        tbuf_copy_chunk(b, &in);
    }
    tbuf_read_begin(b);
    double t0 = now();
    double at = t0;
    while (k.more) {
        enum tbuf_read_result rc = tbuf_read_next(b, &k);
        double t = now();
        double *longest = rc == TBUF_READ_AGAIN ? &scan : &part;
        if (t - at > *longest)
            *longest = t - at;
        at = t;
        if (rc == TBUF_READ_PACKET)
            bytes += k.size;
        else if (rc != TBUF_READ_AGAIN)
            exit(99);
    }
    line("large", "a packet of 262,144 fragments, all", (now() - t0) * 1e3, "ms");
    line("large", "its size", (double)bytes / MIB, "MiB");
    line("large", "longest call that looks for its end", scan * 1e6, "us");
    line("large", "longest call that gives a part", part * 1e6, "us");
    tbuf_free(b);
}

static void bench_clone(void)
{
    struct tbuf *b = make(64 * MIB);
    double full[REPS];
    double empty[REPS];
    double slices[REPS];
    double longest[REPS];
    for (uint32_t i = 0; i < 40000; i++)
        copy(b, &templates[i % TEMPLATES], 1, 1, i);
    for (int r = 0; r < REPS; r++)
        clone_in_slices(b, &slices[r], &longest[r]);
    for (int pass = 0; pass < 2; pass++) {
        double *t = pass == 0 ? full : empty;
        for (int r = 0; r < REPS; r++) {
            struct tbuf *c = NULL;
            double t0 = now();
            if (tbuf_clone_read_only(b, &c) != 0)
                exit(99);
            t[r] = now() - t0;
            tbuf_free(c);
        }
        drain(b, UINT64_MAX);
    }
    line("clone", "64 MiB, nothing read", median(full, REPS) * 1e3, "ms");
    line("clone", "64 MiB, in steps of 128 KiB, all", median(slices, REPS) * 1e3, "ms");
    line("clone", "64 MiB, in steps of 128 KiB, longest", median(longest, REPS) * 1e3, "ms");
    line("clone", "64 MiB, everything read", median(empty, REPS) * 1e3, "ms");
    tbuf_free(b);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } groups[] = {
        {"write", bench_write},     {"first lap", bench_first_lap}, {"read", bench_read},
        {"stalled", bench_stalled}, {"stream", bench_stream},       {"fragments", bench_fragments},
        {"small", bench_small},     {"scrape", bench_scrape},       {"patch", bench_patch},
        {"clone", bench_clone},     {"large", bench_large},         {"scale", bench_scale},
    };
    make_templates();
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        if (argc < 2 || strstr(groups[i].name, argv[1]) != NULL)
            groups[i].run();
    }
    return 0;
}
