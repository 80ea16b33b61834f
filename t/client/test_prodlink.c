/* SPDX-License-Identifier: Apache-2.0 */
/* The producer's connection: handshake, memory of all kinds, losses and retries, waiting requests.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/prodlink.h"
#include "peer.h"
#include "reactor/chrono.h"
#include "reactor/log.h"
#include "source.h"

static struct reactor *loop;
static struct peer peer;
static struct prodlink *dut;
static unsigned states;
static struct source s;

static void on_state(void *ctx, enum prodlink_state state)
{
    (void)ctx;
    states = states * 10 + (unsigned)state;
}

static struct prodlink_cfg cfg_of(void)
{
    return (struct prodlink_cfg){
        .producer_name = "test.producer",
        .socket_name = peer.path,
        .shm_size_hint = 65536,
        .shm_page_hint = 4096,
        .on_state = on_state,
    };
}

static void begin(void)
{
    states = 0;
    memset(&s, 0, sizeof(s));
    chrono_virtual_start(1000 * CHRONO_SEC);
    if (getenv("DBG"))
        log_set_level(LOG_LEVEL_DEBUG);
    loop = reactor_new(NULL);
    cr_assert_not_null(loop);
    peer_init(&peer, loop);
}

static void end(void)
{
    prodlink_free(dut);
    dut = NULL;
    peer_fini(&peer);
    reactor_free(loop);
    chrono_virtual_stop();
}

static void connect_link(struct prodlink_cfg cfg)
{
    dut = prodlink_new(loop, &cfg);
    cr_assert_not_null(dut);
    peer_settle(&peer);
}

static uint64_t arg(const struct peer_call *c, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(bytes_view(c->args, c->len), field, BYTES_VARINT, &f) ? f.num : UINT64_MAX;
}

Test(prodlink, R84_handshake, .init = begin, .fini = end)
{
    struct prodlink_cfg cfg = cfg_of();
    cfg.scraping = PRODLINK_SCRAPING_OFF;
    peer.silent = true;
    dut = prodlink_new(loop, &cfg);
    source_add(&s, dut, "test.source");
    peer_settle(&peer);
    /* Both without waiting for the other; nothing is registered before the reply. */
    cr_assert_eq(peer.call_count, 2);
    const struct peer_call *init = &peer.calls[0];
    cr_assert_eq(init->method, PORT_PRODUCER_INITIALIZE_CONNECTION);
    cr_assert_eq(peer.calls[1].method, PORT_PRODUCER_GET_ASYNC_COMMAND);
    cr_assert_not(peer.calls[1].drop_reply);
    cr_assert_eq(arg(init, 1), 4096);
    cr_assert_eq(arg(init, 2), 65536);
    cr_assert_eq(arg(init, 4), 2);
    cr_assert_eq(arg(init, 6), UINT64_MAX);
    struct bytes_field f;
    cr_assert(bytes_find(bytes_view(init->args, init->len), 3, BYTES_LEN, &f));
    cr_assert(bytes_equal(f.data, bytes_str("test.producer")));
    cr_assert(bytes_find(bytes_view(init->args, init->len), 8, BYTES_LEN, &f));
    cr_assert_eq(prodlink_state(dut), PRODLINK_CONNECTING);

    const uint8_t flags[] = {0x10, 1};
    peer_reply(&peer, init->request_id, false, flags, sizeof(flags), -1);
    peer_settle(&peer);
    cr_assert_eq(prodlink_state(dut), PRODLINK_CONNECTED);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_REGISTER_DATA_SOURCE), 1);
    cr_assert_not(peer_call(&peer, PORT_PRODUCER_REGISTER_DATA_SOURCE, 0)->drop_reply);
    cr_assert_eq(states, 12);
}

Test(prodlink, size_hints_are_written_when_zero, .init = begin, .fini = end)
{
    struct prodlink_cfg cfg = cfg_of();
    cfg.shm_size_hint = cfg.shm_page_hint = 0;
    connect_link(cfg);
    const struct peer_call *init = &peer.calls[0];
    cr_assert_eq(arg(init, 1), 0);
    cr_assert_eq(arg(init, 2), 0);
    cr_assert_eq(arg(init, 4), UINT64_MAX, "no scraping mode: the service's default");
}

static void run_one_packet(void)
{
    peer_setup_tracing(&peer, 65536, 4096);
    peer_setup(&peer, 5, "test.source", 3);
    peer_start(&peer, 5, "test.source", 3);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    source_write(&s, 77);
    peer_stop(&peer, 5);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, 0);
}

static void got_packet(uint64_t n)
{
    struct bytes_field f;
    cr_assert_eq(peer.chunk_count, 1);
    cr_assert_eq(peer.chunks[0].target, 3);
    cr_assert(peer_packet(&peer, 0, 8, &f));
    cr_assert_eq(f.num, n);
    cr_assert(peer_packet(&peer, 0, 87, &f), "first_packet_on_sequence");
}

/* Where calls of two methods stand: a before b. */
static void in_order(uint32_t a, uint32_t b)
{
    const struct peer_call *x = peer_call(&peer, a, 0);
    const struct peer_call *y = peer_call(&peer, b, 0);
    cr_assert_not_null(x);
    cr_assert_not_null(y);
    cr_assert_lt(x, y);
}

Test(prodlink, R90_memory_of_the_service, .init = begin, .fini = end)
{
    connect_link(cfg_of());
    source_add(&s, dut, "test.source");
    run_one_packet();
    got_packet(77);
    in_order(PORT_PRODUCER_REGISTER_TRACE_WRITER, PORT_PRODUCER_COMMIT_DATA);
    in_order(PORT_PRODUCER_COMMIT_DATA, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED);
    const struct peer_call *reg = peer_call(&peer, PORT_PRODUCER_REGISTER_TRACE_WRITER, 0);
    cr_assert_eq(arg(reg, 1), 1);
    cr_assert_eq(arg(reg, 2), 3);
    cr_assert(reg->drop_reply);
    peer_expect(&peer, PORT_PRODUCER_UNREGISTER_TRACE_WRITER, 0);
    cr_assert_str_eq(s.log, "setup 5 start 5 stop 5 destroy 5");
}

Test(prodlink, R91_emulation, .init = begin, .fini = end)
{
    peer.emulate = true;
    connect_link(cfg_of());
    source_add(&s, dut, "test.source");
    run_one_packet();
    got_packet(77);
    cr_assert_eq(peer.chunks[0].head.size, 4080);
}

Test(prodlink, R111_emulated_scraping, .init = begin, .fini = end)
{
    struct prodlink_cfg cfg = cfg_of();
    struct bytes_field f;
    cfg.scraping = PRODLINK_SCRAPING_ON;
    peer.emulate = true;
    connect_link(cfg);
    source_add(&s, dut, "test.source");
    peer_setup_tracing(&peer, 0, 4096);
    peer_setup(&peer, 5, "test.source", 3);
    peer_start(&peer, 5, "test.source", 3);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    peer_settle(&peer);
    source_write(&s, 9);
    peer_flush(&peer, 1, NULL, 0); /* names nobody, is for us (R95) */
    peer_expect(&peer, PORT_PRODUCER_COMMIT_DATA, 1);
    cr_assert_eq(peer_flush_ack(&peer, 0), 1);
    cr_assert_eq(peer.chunk_count, 1);
    cr_assert(peer.chunks[0].head.incomplete);
    cr_assert(peer_packet(&peer, 0, 8, &f));
    cr_assert_eq(f.num, 9);
}

Test(prodlink, R9_R13_offered_memory_is_taken, .init = begin, .fini = end)
{
    struct prodlink_cfg cfg = cfg_of();
    static const uint8_t empty_setup_tracing[] = {0x1A, 0x00};
    cfg.provide_shmem = true;
    peer.take_offer = true;
    connect_link(cfg);
    cr_assert_eq(arg(&peer.calls[0], 6), 1);
    cr_assert_eq(peer.shm.size, 65536);
    source_add(&s, dut, "test.source");
    peer_command(&peer, empty_setup_tracing, 2, -1);
    peer_setup(&peer, 5, "test.source", 3);
    peer_start(&peer, 5, "test.source", 3);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    source_write(&s, 78);
    peer_stop(&peer, 5);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, 0);
    got_packet(78);
}

Test(prodlink, R88_offered_memory_is_refused, .init = begin, .fini = end)
{
    struct prodlink_cfg cfg = cfg_of();
    cfg.provide_shmem = true;
    connect_link(cfg);
    cr_assert_eq(peer.connections, 2);
    cr_assert_eq(arg(peer_call(&peer, PORT_PRODUCER_INITIALIZE_CONNECTION, 0), 6), 1);
    cr_assert_eq(arg(peer_call(&peer, PORT_PRODUCER_INITIALIZE_CONNECTION, 1), 6), UINT64_MAX);
    source_add(&s, dut, "test.source");
    run_one_packet();
    got_packet(77);
}

/* ---- losses ---- */

Test(prodlink, R258_R259_loss_while_tracing, .init = begin, .fini = end)
{
    connect_link(cfg_of());
    source_add(&s, dut, "test.source");
    peer_setup_tracing(&peer, 65536, 4096);
    peer_setup(&peer, 5, "test.source", 3);
    peer_start(&peer, 5, "test.source", 3);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    const struct peer_call *reg = peer_call(&peer, PORT_PRODUCER_REGISTER_DATA_SOURCE, 0);
    uint8_t first[256];
    size_t len = reg->len;
    memcpy(first, reg->args, len);
    source_write(&s, 1);
    reactor_advance(loop, 2 * CHRONO_SEC);
    peer_forget_calls(&peer);
    s.keep_writer = true;
    s.write_on_stop = 1;
    peer_hang_up(&peer);
    peer_settle(&peer);
    cr_assert_str_eq(s.log, "setup 5 start 5 stop 5 destroy 5");
    cr_assert_eq(peer.connections, 2);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED), 0);
    reg = peer_call(&peer, PORT_PRODUCER_REGISTER_DATA_SOURCE, 0);
    cr_assert_eq(reg->len, len);
    cr_assert_arr_eq(reg->args, first, len, "same descriptor, same id");

    /* A thread that did not notice goes on writing; it never touches the new memory (R260). */
    struct writer *old = s.writer;
    s.keep_writer = false;
    s.write_on_stop = 0;
    peer_setup_tracing(&peer, 65536, 4096);
    peer_setup(&peer, 6, "test.source", 4);
    peer_start(&peer, 6, "test.source", 4);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    for (int i = 0; i < 2000; i++) {
        pbw_varint(writer_begin(old), 8, 666);
        writer_end(old);
    }
    writer_flush(old, NULL, NULL);
    source_write(&s, 2);
    writer_flush(s.writer, NULL, NULL);
    writer_free(old);
    peer_expect(&peer, PORT_PRODUCER_COMMIT_DATA, 0);
    peer_settle(&peer);
    cr_assert_eq(peer.chunk_count, 1);
    struct bytes_field f;
    cr_assert(peer_packet(&peer, 0, 8, &f));
    cr_assert_eq(f.num, 2);
}

Test(prodlink, R82_daemon_delays, .init = begin, .fini = end)
{
    peer_unlisten(&peer);
    connect_link(cfg_of());
    /* 200 ms, then doubled: attempts are over at 200, 600, 1400 ms. */
    reactor_advance(loop, 1399 * CHRONO_MS);
    peer_listen(&peer);
    cr_assert_eq(peer.connections, 0);
    reactor_advance(loop, CHRONO_MS);
    peer_settle(&peer);
    cr_assert_eq(peer.connections, 1);
    cr_assert_eq(prodlink_state(dut), PRODLINK_CONNECTED);
}

/* A service that hangs up at once does not make us spin. */
Test(prodlink, young_losses_wait, .init = begin, .fini = end)
{
    peer.refuse = true;
    connect_link(cfg_of());
    cr_assert_leq(peer.connections, 3);
    unsigned before = peer.connections;
    peer_settle(&peer);
    cr_assert_eq(peer.connections, before);
    peer.refuse = false;
    for (int i = 0; i < 100 && prodlink_state(dut) != PRODLINK_CONNECTED; i++) {
        reactor_advance(loop, 100 * CHRONO_MS);
        peer_settle(&peer);
    }
    cr_assert_eq(prodlink_state(dut), PRODLINK_CONNECTED);
}

Test(prodlink, a_service_without_the_port, .init = begin, .fini = end)
{
    peer.no_producer = true;
    connect_link(cfg_of());
    cr_assert_leq(peer.connections, 3);
    cr_assert_neq(prodlink_state(dut), PRODLINK_CONNECTED);
    peer.no_producer = false;
    for (int i = 0; i < 100 && prodlink_state(dut) != PRODLINK_CONNECTED; i++) {
        reactor_advance(loop, 100 * CHRONO_MS);
        peer_settle(&peer);
    }
    cr_assert_eq(prodlink_state(dut), PRODLINK_CONNECTED);
}

Test(prodlink, kick_and_never, .init = begin, .fini = end)
{
    struct prodlink_cfg cfg = cfg_of();
    cfg.retry = PRODLINK_RETRY_NEVER;
    peer_unlisten(&peer);
    connect_link(cfg);
    peer_listen(&peer);
    reactor_advance(loop, 100 * CHRONO_SEC);
    peer_settle(&peer);
    cr_assert_eq(peer.connections, 0);
    prodlink_kick(dut);
    peer_settle(&peer);
    cr_assert_eq(prodlink_state(dut), PRODLINK_CONNECTED);
    peer_hang_up(&peer);
    peer_settle(&peer);
    cr_assert_eq(prodlink_state(dut), PRODLINK_IDLE);
    cr_assert_eq(peer.connections, 1);
}

Test(prodlink, malformed_address_is_not_retried, .init = begin, .fini = end)
{
    struct prodlink_cfg cfg = cfg_of();
    cfg.socket_name = "";
    connect_link(cfg);
    cr_assert_eq(prodlink_state(dut), PRODLINK_IDLE);
    cr_assert_not(reactor_pending(loop));
}

/* ---- a service that breaks the protocol ---- */

static void faulty(const void *msg, size_t len, int fd)
{
    unsigned before = peer.connections;
    peer_command(&peer, msg, len, fd);
    peer_settle(&peer);
    cr_assert_eq(peer.connections, before + 1, "the connection is made anew");
    reactor_advance(loop, 2 * CHRONO_SEC); /* not a young one */
    peer_settle(&peer);
    cr_assert_eq(prodlink_state(dut), PRODLINK_CONNECTED);
}

Test(prodlink, faults_cost_the_connection_only, .init = begin, .fini = end)
{
    static const uint8_t setup_tracing[] = {0x1A, 0x02, 0x08, 0x04};
    static const uint8_t no_page[] = {0x1A, 0x00};
    static const uint8_t cut_off[] = {0x32, 0x05, 0x08};
    static const uint8_t cut_inside[] = {0x32, 0x02, 0x12, 0x09};
    static const uint8_t wire_type[] = {0x0F};
    connect_link(cfg_of());
    source_add(&s, dut, "test.source");
    reactor_advance(loop, 2 * CHRONO_SEC);
    faulty(setup_tracing, 4, -1); /* mandatory descriptor missing (R68) */
    int fd = memfd_create("x", MFD_CLOEXEC);
    faulty(setup_tracing, 4, fd); /* empty */
    cr_assert_eq(ftruncate(fd, 65536), 0);
    faulty(no_page, 2, fd);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    faulty(setup_tracing, 4, null);
    faulty(cut_off, 3, -1);
    faulty(cut_inside, 4, -1);
    faulty(wire_type, 1, -1);
    peer_setup_tracing(&peer, 65536, 4096);
    peer_settle(&peer);
    faulty(setup_tracing, 4, fd); /* twice (R87) */
    close(fd);
    close(null);
    run_one_packet();
    got_packet(77);
}

Test(prodlink, R93_unknown_commands_are_skipped, .init = begin, .fini = end)
{
    static const uint8_t unknown[] = {0xA2, 0x06, 0x01,
                                      0x08, 0x08, 0x01}; /* fields 100 and 1, odd */
    connect_link(cfg_of());
    source_add(&s, dut, "test.source");
    peer_command(&peer, unknown + 3, 2, -1);
    static const uint8_t fine[] = {0xA2, 0x06, 0x02, 0x08, 0x01};
    peer_command(&peer, fine, sizeof(fine), -1);
    static const uint8_t text[] = {0xA2, 0x06, 0x03, '?', '?', '?'}; /* no message at all */
    peer_command(&peer, text, sizeof(text), -1);
    peer_settle(&peer);
    cr_assert_eq(peer.connections, 1);
    run_one_packet();
}

/* ---- what waits for a connection ---- */

static void synced(void *ctx, bool ok)
{
    *(int *)ctx += ok ? 1 : 100;
}

Test(prodlink, R97_sync, .init = begin, .fini = end)
{
    int done = 0;
    peer_unlisten(&peer);
    connect_link(cfg_of());
    cr_assert_eq(prodlink_sync(dut, synced, &done), 0);
    peer_listen(&peer);
    reactor_advance(loop, CHRONO_SEC);
    peer_settle(&peer);
    cr_assert_eq(done, 1);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_SYNC), 1);
    peer.silent = true;
    cr_assert_eq(prodlink_sync(dut, synced, &done), 0);
    peer_settle(&peer);
    peer_hang_up(&peer);
    peer_unlisten(&peer);
    peer_settle(&peer);
    cr_assert_eq(done, 101);
    cr_assert_eq(prodlink_sync(dut, synced, &done), 0);
    prodlink_free(dut);
    dut = NULL;
    cr_assert_eq(done, 201);
}

/* An old service that does not list the method: the round trip is all there is. */
Test(prodlink, R97_sync_unknown_to_the_service, .init = begin, .fini = end)
{
    int done = 0;
    peer.skip = PORT_PRODUCER_SYNC;
    connect_link(cfg_of());
    cr_assert_eq(prodlink_sync(dut, synced, &done), 0);
    peer_settle(&peer);
    cr_assert_eq(done, 1);
}

Test(prodlink, R32_triggers_wait_for_their_time_to_live, .init = begin, .fini = end)
{
    static const char *const two[] = {"one", "two"};
    static const char *const late[] = {"late"};
    peer_unlisten(&peer);
    connect_link(cfg_of());
    cr_assert_eq(prodlink_activate_triggers(dut, late, 1, 100), 0);
    cr_assert_eq(prodlink_activate_triggers(dut, two, 2, 5000), 0);
    reactor_advance(loop, 150 * CHRONO_MS);
    peer_listen(&peer);
    reactor_advance(loop, 2 * CHRONO_SEC);
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_ACTIVATE_TRIGGERS), 1);
    const struct peer_call *c = peer_call(&peer, PORT_PRODUCER_ACTIVATE_TRIGGERS, 0);
    static const uint8_t expect[] = {0x0A, 3, 'o', 'n', 'e', 0x0A, 3, 't', 'w', 'o'};
    cr_assert_eq(c->len, sizeof(expect));
    cr_assert_arr_eq(c->args, expect, sizeof(expect));
    cr_assert(c->drop_reply);
    cr_assert_eq(prodlink_activate_triggers(dut, late, 1, 0), 0);
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_ACTIVATE_TRIGGERS), 2);
}

/* ---- threads ---- */

static void *write_elsewhere(void *unused)
{
    for (uint64_t i = 0; i < 5000; i++)
        source_write(&s, i);
    writer_flush(s.writer, NULL, NULL);
    return unused;
}

Test(prodlink, writers_on_another_thread_wake_the_loop, .init = begin, .fini = end)
{
    pthread_t t;
    chrono_virtual_stop();
    connect_link(cfg_of());
    source_add(&s, dut, "test.source");
    peer_setup_tracing(&peer, 1 << 20, 4096);
    peer_setup(&peer, 5, "test.source", 3);
    peer_start(&peer, 5, "test.source", 3);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    cr_assert_eq(pthread_create(&t, NULL, write_elsewhere, NULL), 0);
    struct bytes_field f;
    for (int i = 0; i < 20000 && !peer_packet(&peer, 4999, 8, &f); i++) {
        cr_assert_eq(reactor_tick(loop, CHRONO_MS), 0);
        peer_turn(&peer);
    }
    pthread_join(t, NULL);
    peer_settle(&peer);
    for (uint64_t i = 0; i < 5000; i += 7) {
        cr_assert(peer_packet(&peer, i, 8, &f), "packet %llu", (unsigned long long)i);
        cr_assert_eq(f.num, i);
    }
    cr_assert_eq(writer_drops(s.writer), 0);
}

/* The last writer of an old connection goes on another thread: its memory is freed by the loop. */
static void *free_elsewhere(void *arg)
{
    writer_free(arg);
    return NULL;
}

Test(prodlink, old_memory_goes_with_its_last_writer, .init = begin, .fini = end)
{
    pthread_t t;
    s.keep_writer = true;
    connect_link(cfg_of());
    source_add(&s, dut, "test.source");
    peer_setup_tracing(&peer, 65536, 4096);
    peer_setup(&peer, 5, "test.source", 3);
    peer_expect(&peer, PORT_PRODUCER_REGISTER_TRACE_WRITER, 0);
    struct writer *w = s.writer;
    peer_hang_up(&peer);
    peer_settle(&peer);
    cr_assert_eq(pthread_create(&t, NULL, free_elsewhere, w), 0);
    pthread_join(t, NULL);
    peer_settle(&peer);
    /* LeakSanitizer and prodlink_free's own complaint are the judges. */
}
