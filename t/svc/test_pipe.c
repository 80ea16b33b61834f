/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session_pipe and svc/session_large: packets of all sizes through filter and compression in
 * steps (service.md R103, R137, R154). The virtual clock stands still, so what bounds a step here
 * is the work that it may do. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "protos/fieldnum.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf.h"
#include "t/svc/world.h"

#define MB (1u << 20)

static struct world *w;
static uint32_t seed;
static uint32_t next_chunk;

static void setup(void)
{
    w = world_new();
    seed = 1;
}

static void teardown(void)
{
    world_free(w);
}

TestSuite(pipe, .init = setup, .fini = teardown, .timeout = 120);

static uint32_t below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* ---- what goes in ---- */

/* Writes a packet into the buffer of the session, in as many chunks as it takes. */
static void put(struct tbuf *tb, const struct bytesbuf *packet)
{
    enum { FRAGMENT = 30000 };
    static uint8_t payload[FRAGMENT + 3];
    for (size_t at = 0; at == 0 || at < packet->n; at += FRAGMENT) {
        size_t n = packet->n - at < FRAGMENT ? packet->n - at : FRAGMENT;
        uint8_t *p = bytes_put_varint(payload, n);
        memcpy(p, packet->p + at, n);
        struct tbuf_chunk_in in = {
            .producer_id = 1,
            .writer_id = 9,
            .chunk_id = next_chunk++,
            .num_fragments = 1,
            .flags = (uint8_t)((at > 0 ? TBUF_CHUNK_FIRST_CONTINUES : 0) |
                               (at + n < packet->n ? TBUF_CHUNK_LAST_CONTINUES : 0)),
            .complete = true,
            .payload = payload,
            .payload_size = (uint32_t)((size_t)(p - payload) + n)};
        cr_assert_eq(tbuf_copy_chunk(tb, &in), TBUF_STORED);
    }
}

static void put_text(struct bytesbuf *b, uint32_t field, size_t n)
{
    static uint8_t text[8 * MB];
    n = n < sizeof(text) ? n : sizeof(text);
    for (size_t i = 0; i < n; i++)
        text[i] = (uint8_t)(below(6) ? (uint32_t)('a' + i % 13) : below(256));
    bytesbuf_pb_bytes(b, field, text, n);
}

/* About n bytes: some of it is left out by the filter, some nested, some a string for its rule. */
static void make(struct bytesbuf *b, size_t n)
{
    bytesbuf_clear(b);
    bytesbuf_pb_varint(b, 7, 1); /* left out: all behind it moves */
    size_t nested = bytesbuf_pb_begin(b, 4), inner = bytesbuf_pb_begin(b, 5);
    for (size_t i = 0; i < n / 20; i++)
        bytesbuf_pb_varint(b, 1 + below(2), below(1000));
    bytesbuf_pb_end(b, inner);
    put_text(b, 3, n < 300000 ? n / 10 : 30000);
    bytesbuf_pb_end(b, nested);
    while (b->n + 20 < n)
        put_text(b, 500, n - b->n - 10);
}

/* Well formed outside, not inside: the filter cannot parse it. */
static void spoil(struct bytesbuf *b, size_t n)
{
    make(b, n);
    bytesbuf_put(b, "\x22\x03\x0A\x7F\x00", 5);
}

/* The packets of a run, the same each time. */
static void put_all(struct tbuf *tb, size_t large)
{
    static const size_t sizes[] = {1, 300, 5000, 40000, 150000, 240000, 500000};
    struct bytesbuf b;
    bytesbuf_init(&b, 128u << 20);
    seed = 7;
    for (int i = 0; i < 40; i++) {
        size_t n = 1 + below((uint32_t)sizes[below(7)]);
        if (i % 10 == 5)
            spoil(&b, n);
        else
            make(&b, n);
        put(tb, &b);
        if (i == 20) {
            make(&b, large);
            put(tb, &b);
        }
        if (i == 30) {
            spoil(&b, 2 * MB);
            put(tb, &b);
        }
    }
    bytesbuf_fini(&b);
}

/* ---- the session ---- */

struct way {
    bool filter, file;
    int codec; /* 0, 50 or 133: the field of the wrapper */
    int level;
};

static void put_filter(struct bytesbuf *cfg)
{
    enum { SIMPLE = 1, RANGE, NESTED, STRING };
    static const uint32_t words[] = {1 << 3 | NESTED,
                                     1,
                                     0, /* message 1: TracePacket, but 7 */
                                     1 << 3 | RANGE,
                                     3,
                                     4 << 3 | NESTED,
                                     2,
                                     8 << 3 | RANGE,
                                     900,
                                     0, /* message 2: not its field 2 */
                                     1 << 3 | SIMPLE,
                                     3 << 3 | STRING,
                                     5 << 3 | NESTED,
                                     2,
                                     0};
    uint64_t hash = 0xcbf29ce484222325u;
    size_t filter = bytesbuf_pb_begin(cfg, PBF_TraceConfig_trace_filter);
    size_t code = bytesbuf_pb_begin(cfg, PBF_TraceConfig_TraceFilter_bytecode_v2);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        bytesbuf_put_varint(cfg, words[i]);
        for (int b = 0; b < 32; b += 8)
            hash = (hash ^ (words[i] >> b & 0xFF)) * 0x100000001b3u;
    }
    bytesbuf_put_varint(cfg, (uint32_t)hash);
    bytesbuf_pb_end(cfg, code);
    size_t chain = bytesbuf_pb_begin(cfg, PBF_TraceConfig_TraceFilter_string_filter_chain);
    size_t rule = bytesbuf_pb_begin(cfg, PBF_TraceConfig_TraceFilter_StringFilterChain_rules);
    bytesbuf_pb_varint(cfg, PBF_TraceConfig_TraceFilter_StringFilterRule_policy, 1);
    bytesbuf_pb_str(cfg, PBF_TraceConfig_TraceFilter_StringFilterRule_regex_pattern,
                    "(abc)[\\x00-\\xff]*");
    bytesbuf_pb_end(cfg, rule);
    bytesbuf_pb_end(cfg, chain);
    bytesbuf_pb_end(cfg, filter);
}

static struct session *begin(struct cons *c, const struct way *way, int fd)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 160 << 10);
    if (way->filter)
        put_filter(&w->cfg);
    if (way->codec == 50)
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_compression_type, 1);
    if (way->codec == 133) {
        size_t m = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_compression);
        size_t zstd = bytesbuf_pb_begin(&w->cfg, PBF_TraceConfig_CompressionConfig_zstd);
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_CompressionConfig_Zstd_level,
                           (uint64_t)way->level);
        bytesbuf_pb_end(&w->cfg, zstd);
        bytesbuf_pb_end(&w->cfg, m);
    }
    if (way->file)
        bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    cr_assert(cons_enable_fd(c, &w->cfg, fd));
    struct session *s = NULL;
    for (uint64_t id = 1; !s && id < 100; id++)
        s = service_session(w->svc, id);
    cr_assert_not_null(s);
    return s;
}

/* ---- what comes out ---- */

struct list_of {
    struct bytes_view *v;
    size_t n;
};

/* Adds the packets of producers (all but sequence 1), and those that are empty. */
static void add(struct list_of *l, struct bytes_view v)
{
    if (v.n > 0 && msg_num(v.p, v.n, PBF_TracePacket_trusted_packet_sequence_id, 0) == 1)
        return;
    l->v = realloc(l->v, (l->n + 1) * sizeof(*l->v));
    l->v[l->n].p = malloc(v.n + 1);
    l->v[l->n].n = v.n;
    memcpy((void *)(uintptr_t)l->v[l->n].p, v.n ? v.p : (const uint8_t *)"", v.n);
    l->n++;
}

static void free_list(struct list_of *l)
{
    for (size_t i = 0; i < l->n; i++)
        free((void *)(uintptr_t)l->v[i].p);
    free(l->v);
    *l = (struct list_of){0};
}

static void add_trace(struct list_of *l, struct bytes_view trace)
{
    struct bytes_cur cur = bytes_cur(trace);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        cr_assert_eq(f.id, PBF_Trace_packet);
        add(l, f.data);
    }
    cr_assert(bytes_done(&cur), "a trace that parses");
}

/* A packet as it came: unwraps what is compressed. */
static void unwrap(struct list_of *l, struct bytes_view p, int codec)
{
    enum { ROOM = 140 * MB };
    static uint8_t *plain;
    struct bytes_cur cur = bytes_cur(p);
    struct bytes_field f;
    if (!codec) {
        add(l, p);
        return;
    }
    cr_assert(bytes_next(&cur, &f));
    cr_assert_eq(f.id, (uint32_t)codec, "R154: nothing beside the wrappers");
    cr_assert(bytes_done(&cur));
    plain = plain ? plain : malloc(ROOM);
    size_t n = ROOM;
    if (codec == 50) {
        uLongf len = n;
        cr_assert_eq(uncompress(plain, &len, f.data.p, f.data.n), Z_OK);
        n = len;
    } else {
        n = ZSTD_decompress(plain, n, f.data.p, f.data.n);
        cr_assert_not(ZSTD_isError(n));
    }
    add_trace(l, bytes_view(plain, n));
}

static struct session *reading;
static size_t most; /* memory that both forms of a packet took */

/* After each tick. Something happens that the service has to tell in between. */
static void look(void)
{
    const struct session_large *l = &reading->large;
    size_t n = l->bytes ? l->n - l->released : 0;
    if (reading->compress)
        n += compress_held(reading->compress);
    most = n > most ? n : most;
    session_event_record(reading, SELFPKT_FLUSH_STARTED, false);
}

static void read_all(struct cons *c, struct session *s, struct list_of *out, const struct way *way)
{
    struct msg_request m = {.cookie = ++c->cookie};
    c->read_done = false;
    c->batches = 0;
    for (size_t i = 0; i < c->npkts; i++)
        free(c->pkts[i].p);
    c->npkts = 0;
    reading = s;
    most = 0;
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_READ, &m);
    for (int i = 0; i < 200000 && !c->read_done; i++) {
        reactor_tick(w->reactor, 0);
        look();
    }
    cr_assert(c->read_done);
    for (size_t i = 0; i < c->npkts; i++)
        unwrap(out, bytes_view(c->pkts[i].p, c->pkts[i].n), way->codec);
}

/* What a filter of the same config makes of the packets in one call each. */
static void filter_all(struct session *s, struct list_of *l, bool vanish)
{
    struct list_of out = {0};
    struct filter *f;
    char why[200];
    cr_assert_eq(filter_new(s->cfg->trace_filter, &f, why, sizeof(why)), 0, "%s", why);
    for (size_t i = 0; i < l->n; i++) {
        struct packet got;
        bool failed;
        uint64_t work = UINT64_MAX;
        filter_begin(f);
        filter_take_place(f, (uint8_t *)(uintptr_t)l->v[i].p, l->v[i].n, 0);
        cr_assert(filter_step(f, &work, &got, &failed));
        if (!failed || !vanish)
            add(&out, got.nparts ? bytes_view(got.parts[0].iov_base, got.size) : bytes_view("", 0));
    }
    filter_free(f);
    free_list(l);
    *l = out;
}

static void expect_same(const struct list_of *got, const struct list_of *want)
{
    cr_assert_eq(got->n, want->n, "%zu packets, not %zu", got->n, want->n);
    for (size_t i = 0; i < got->n; i++) {
        cr_assert_eq(got->v[i].n, want->v[i].n, "packet %zu: %zu bytes, not %zu", i, got->v[i].n,
                     want->v[i].n);
        cr_assert_eq(memcmp(got->v[i].p, want->v[i].p, got->v[i].n), 0, "packet %zu", i);
    }
}

static struct cons *reader;

/* The same packets, one way and without filter and compression; calls: how many it has to take. */
static void compare(const struct way *way, size_t large_size, unsigned calls)
{
    static const struct way plainly = {0};
    struct list_of want = {0}, got = {0};
    struct cons *c = reader = cons_new(w, 1);
    struct session *s = begin(c, &plainly, -1);
    put_all(s->buffers[0].tb, large_size);
    read_all(c, s, &want, &plainly);
    cr_assert_eq(want.n, 42, "%zu packets", want.n);
    cons_ask(c, MSG_C_FREE);
    s = begin(c, way, -1);
    put_all(s->buffers[0].tb, large_size);
    read_all(c, s, &got, way);
    if (way->filter)
        filter_all(s, &want, way->codec == 0);
    expect_same(&got, &want);
    cr_expect_geq(c->batches, calls, "%u calls", c->batches);
    cr_expect_eq(s->large.bytes, NULL);
    cr_expect_leq(most, large_size + large_size / 100 + 4 * MB, "%zu bytes held at once", most);
    free_list(&want);
    free_list(&got);
    cons_ask(c, MSG_C_FREE);
}

/* In one call go 8 lumps of 8 KiB (deflate) or of 64 KiB (zstd), or 2^18 * 32 bytes of the filter.
 */
Test(pipe, R154_64_MB_through_deflate)
{
    compare(&(struct way){.codec = 50}, 64 * MB, 64 * MB / (64u << 10));
}

Test(pipe, R154_64_MB_through_zstd)
{
    compare(&(struct way){.codec = 133}, 64 * MB, 64 * MB / (512u << 10));
}

Test(pipe, R137_64_MB_through_the_filter)
{
    compare(&(struct way){.filter = true}, 64 * MB, 64 * MB / 32 / (1u << 18));
}

Test(pipe, R136_64_MB_through_filter_and_zstd)
{
    compare(&(struct way){.filter = true, .codec = 133}, 64 * MB, 64 * MB / (512u << 10));
}

Test(pipe, R136_through_filter_and_deflate)
{
    compare(&(struct way){.filter = true, .codec = 50}, 6 * MB, 6 * MB / (64u << 10));
}

Test(pipe, R156_high_levels_take_small_steps)
{
    compare(&(struct way){.codec = 133, .level = 19}, MB, MB / (8 * (2u << 10)));
}

/* Our own packets may need more than one call, too: the config is 300 KB, and comes once. */
Test(pipe, R107_own_packets_in_steps)
{
    struct cons *c = cons_new(w, 1);
    const struct way way = {.filter = true, .codec = 50};
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 256);
    put_filter(&w->cfg);
    put_text(&w->cfg, 3000, 300000); /* a field that nobody knows (R116) */
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_compression_type, 1);
    cr_assert(cons_enable(c, &w->cfg));
    struct session *s = service_session(w->svc, 1);
    struct list_of none = {0};
    read_all(c, s, &none, &way);
    size_t configs = 0, stats = 0, uuids = 0;
    static uint8_t plain[MB];
    for (size_t i = 0; i < c->npkts; i++) {
        struct bytes_view z = msg_part(c->pkts[i].p, c->pkts[i].n, 50, 0);
        uLongf n = sizeof(plain);
        cr_assert_eq(uncompress(plain, &n, z.p, z.n), Z_OK);
        struct bytes_cur cur = bytes_cur(bytes_view(plain, n));
        struct bytes_field f;
        while (bytes_next(&cur, &f)) {
            struct bytes_view cfg = msg_part(f.data.p, f.data.n, PBF_TracePacket_trace_config, 0);
            configs += cfg.n == w->cfg.n && memcmp(cfg.p, w->cfg.p, cfg.n) == 0;
            uuids += msg_fields(f.data.p, f.data.n, PBF_TracePacket_trace_uuid);
            stats += msg_fields(f.data.p, f.data.n, PBF_TracePacket_trace_stats);
        }
    }
    cr_expect_eq(configs, 1);
    cr_expect_eq(stats, 1);
    cr_expect_eq(uuids, 1, "what comes behind the config");
    cr_expect_gt(c->batches, 4);
    free_list(&none);
}

/* Tens of thousands of writers: provenance and statistics are built some at a time, and leave in
 * pieces. */
Test(pipe, R119_R225_many_writers)
{
    enum { WRITERS = 30000 };
    struct cons *c = cons_new(w, 1);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 32 << 10);
    cr_assert(cons_enable(c, &w->cfg));
    struct session *s = service_session(w->svc, 1);
    for (uint32_t i = 1; i <= WRITERS; i++) {
        const uint8_t payload[] = {3, 0xA0, 0x1F, 1};
        struct tbuf_chunk_in in = {.producer_id = 1,
                                   .writer_id = (uint16_t)i,
                                   .num_fragments = 1,
                                   .complete = true,
                                   .payload = payload,
                                   .payload_size = sizeof(payload)};
        cr_assert_eq(tbuf_copy_chunk(s->buffers[0].tb, &in), TBUF_STORED);
    }
    struct list_of none = {0};
    read_all(c, s, &none, &(struct way){0});
    cr_expect_eq(none.n, WRITERS, "%zu packets", none.n);
    size_t sequences = 0, writers = 0;
    for (size_t i = 0; i < c->npkts; i++) {
        const struct pkt *p = &c->pkts[i];
        struct bytes_view v = msg_part(p->p, p->n, PBF_TracePacket_trace_provenance, 0);
        struct bytes_view b = msg_part(v.p, v.n, PBF_TraceProvenance_buffers, 0);
        sequences += msg_fields(b.p, b.n, PBF_TraceProvenance_Buffer_sequences);
        v = msg_part(p->p, p->n, PBF_TracePacket_trace_stats, 0);
        writers += msg_fields(v.p, v.n, PBF_TraceStats_writer_stats);
    }
    cr_expect_eq(sequences, WRITERS);
    cr_expect_eq(writers, WRITERS);
    cr_expect_geq(c->pieces, 3, "%u pieces of the two packets", c->pieces);
    cr_expect_gt(c->batches, 2 * (WRITERS / 1024));
    free_list(&none);
}

/* R60: a reader that is replaced while a large compressed packet is handed out. */
Test(pipe, R60_a_read_replaced_within_a_compressed_packet)
{
    struct cons *c = cons_new(w, 1);
    const struct way way = {.codec = 50};
    struct session *s = begin(c, &way, -1);
    struct list_of got = {0};
    struct bytesbuf b;
    bytesbuf_init(&b, 64u << 20);
    for (int i = 0; i < 4; i++) { /* does not compress: many pieces */
        static uint8_t noise[2 * MB];
        for (size_t k = 0; k < sizeof(noise); k++)
            noise[k] = (uint8_t)below(256);
        bytesbuf_pb_bytes(&b, 500, noise, sizeof(noise));
    }
    put(s->buffers[0].tb, &b);
    c->room_batches = 1000000; /* so that it stops in the middle */
    struct msg_request m = {.cookie = ++c->cookie};
    ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_READ, &m);
    for (int i = 0; i < 100000 && (!compress_giving(s->compress) || c->pieces < 3); i++) {
        c->room_batches = 1; /* one call a tick */
        reactor_tick(w->reactor, 0);
        struct msg_empty room = {0};
        ACTOR_POST(w->reactor, c->endpoint, c->actor.id, MSG_C_READ_ROOM, &room);
    }
    cr_assert(compress_giving(s->compress));
    c->room_batches = SIZE_MAX;
    read_all(c, s, &got, &way);
    cr_assert_eq(got.n, 1);
    cr_expect_gt(got.v[0].n, b.n);
    cr_expect_eq(memcmp(got.v[0].p, b.p, b.n), 0);
    free_list(&got);
    bytesbuf_fini(&b);
}

/* R162: the same packets in a file, where one that the filter cannot parse is empty (R137). */
Test(pipe, R162_into_a_file)
{
    static const struct way plainly = {0}, ways[] = {{.filter = true, .file = true},
                                                     {.file = true, .codec = 50},
                                                     {.filter = true, .file = true, .codec = 133}};
    for (size_t i = 0; i < 3; i++) {
        struct list_of want = {0}, got = {0};
        struct cons *c = cons_new(w, 1);
        struct session *s = begin(c, &plainly, -1);
        put_all(s->buffers[0].tb, 9 * MB);
        read_all(c, s, &want, &plainly);
        cons_ask(c, MSG_C_FREE);
        int fd = open(world_path(w, "trace"), O_RDWR | O_CREAT | O_TRUNC, 0600);
        s = begin(c, &ways[i], dup(fd));
        put_all(s->buffers[0].tb, 9 * MB);
        if (ways[i].filter)
            filter_all(s, &want, false);
        cons_ask(c, MSG_C_DISABLE);
        for (int k = 0; k < 10000 && !c->disabled; k++)
            reactor_tick(w->reactor, 0);
        cr_assert(c->disabled);
        size_t n = (size_t)lseek(fd, 0, SEEK_END);
        void *p = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
        cr_assert_neq(p, MAP_FAILED);
        struct bytes_cur cur = bytes_cur(bytes_view(p, n));
        struct bytes_field f;
        while (bytes_next(&cur, &f))
            unwrap(&got, f.data, ways[i].codec);
        cr_expect(bytes_done(&cur));
        expect_same(&got, &want);
        munmap(p, n);
        close(fd);
        free_list(&want);
        free_list(&got);
        cons_ask(c, MSG_C_FREE);
        cons_bye(c);
    }
}
