/* SPDX-License-Identifier: Apache-2.0 */
/* Data source types and instances: descriptors, the life of an instance, stop and flush
 * acknowledgements. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "client/prodlink.h"
#include "peer.h"
#include "reactor/chrono.h"
#include "source.h"

static struct reactor *loop;
static struct peer peer;
static struct prodlink *dut;
static struct source a;
static struct source b;

static void begin(void)
{
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    chrono_virtual_start(1000 * CHRONO_SEC);
    loop = reactor_new(NULL);
    peer_init(&peer, loop);
    const struct prodlink_cfg cfg = {.producer_name = "test", .socket_name = peer.path};
    dut = prodlink_new(loop, &cfg);
    peer_settle(&peer);
    peer_setup_tracing(&peer, 65536, 4096);
    peer_settle(&peer);
}

static void end(void)
{
    prodlink_free(dut);
    peer_fini(&peer);
    reactor_free(loop);
    chrono_virtual_stop();
}

static struct bytes_view descriptor(const struct peer_call *c)
{
    struct bytes_field f;
    cr_assert_not_null(c);
    cr_assert(bytes_find(bytes_view(c->args, c->len), 1, BYTES_LEN, &f));
    return f.data;
}

static uint64_t number(struct bytes_view v, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(v, field, BYTES_VARINT, &f) ? f.num : UINT64_MAX;
}

Test(datasource, R49_descriptor_is_amended, .init = begin, .fini = end)
{
    source_add(&a, dut, "test.a");
    peer_settle(&peer);
    struct bytes_view d = descriptor(peer_call(&peer, PORT_PRODUCER_REGISTER_DATA_SOURCE, 0));
    struct bytes_field f;
    cr_assert(bytes_find(d, 1, BYTES_LEN, &f));
    cr_assert(bytes_equal(f.data, bytes_str("test.a")));
    cr_assert_eq(number(d, 2), 1);
    cr_assert_eq(number(d, 3), 1);
    cr_assert_eq(number(d, 4), 1);
    cr_assert_eq(number(d, 9), UINT64_MAX);
    cr_assert_neq(number(d, 7), UINT64_MAX);
    cr_assert_neq(number(d, 7), 0);
}

Test(datasource, R49_what_the_descriptor_says_stays, .init = begin, .fini = end)
{
    /* name "x", will_notify_on_stop false, field 6 {1: 5}, id 9 */
    static const uint8_t given[] = {0x0A, 1, 'x', 0x10, 0, 0x32, 2, 8, 5, 0x38, 9};
    static const struct datasource_ops nothing = {.setup = NULL};
    struct datasource *ds = NULL;
    struct datasource_def def = {.name = "x",
                                 .descriptor = given,
                                 .descriptor_len = sizeof(given),
                                 .ops = &nothing,
                                 .will_notify_on_stop = true};
    cr_assert_eq(datasource_register(dut, &def, &ds), 0);
    peer_settle(&peer);
    struct bytes_view d = descriptor(peer_call(&peer, PORT_PRODUCER_REGISTER_DATA_SOURCE, 0));
    struct bytes_field f;
    cr_assert_eq(number(d, 2), 0);
    cr_assert_eq(number(d, 7), 9);
    cr_assert_eq(number(d, 9), 1, "no flush callback: no_flush");
    cr_assert(bytes_find(d, 6, BYTES_LEN, &f));

    /* R50: an update keeps the name. */
    static const uint8_t next[] = {0x0A, 1, 'x', 0x32, 2, 8, 6};
    static const uint8_t other[] = {0x0A, 1, 'y'};
    cr_assert_eq(datasource_update(ds, other, sizeof(other)), -EINVAL);
    cr_assert_eq(datasource_update(ds, next, sizeof(next)), 0);
    peer_settle(&peer);
    d = descriptor(peer_call(&peer, PORT_PRODUCER_UPDATE_DATA_SOURCE, 0));
    cr_assert(bytes_find(d, 6, BYTES_LEN, &f));
    cr_assert_eq(f.data.p[1], 6);
    def.name = "z";
    cr_assert_eq(datasource_register(dut, &def, &ds), -EINVAL);

    /* No callbacks at all: it starts and stops all the same. */
    peer_setup(&peer, 1, "x", 1);
    peer_start(&peer, 1, "x", 1);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    peer_stop(&peer, 1);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, 0);
}

Test(datasource, config_arrives_as_it_was_sent, .init = begin, .fini = end)
{
    /* name, target_buffer 7, duration 100, session 42, stop timeout 9, policy 3, an unknown field
     */
    static const uint8_t config[] = {0x0A, 6,    't', 'e',  's', 't',  '.', 'a',  0x10, 7, 0x18,
                                     100,  0x20, 42,  0x38, 9,   0x48, 3,   0xFA, 0x3F, 1, 0xAA};
    uint8_t msg[64] = {0x32, sizeof(config) + 4, 0x08, 8, 0x12, sizeof(config)};
    memcpy(msg + 6, config, sizeof(config));
    source_add(&a, dut, "test.a");
    peer_command(&peer, msg, 6 + sizeof(config), -1);
    peer_settle(&peer);
    cr_assert_str_eq(a.log, "setup 8");
    cr_assert_eq(a.config.len, sizeof(config));
    cr_assert_arr_eq(a.config_bytes, config, sizeof(config));
    cr_assert_eq(a.config.instance_id, 8);
    cr_assert_eq(a.config.target_buffer, 7);
    cr_assert_eq(a.config.trace_duration_ms, 100);
    cr_assert_eq(a.config.session_id, 42);
    cr_assert_eq(a.config.stop_timeout_ms, 9);
    cr_assert_eq(a.config.exhausted_policy, 3);
    cr_assert_eq(ds_inst_buffer(a.inst), 7);
    cr_assert_eq(ds_inst_id(a.inst), 8);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED), 0);
}

Test(datasource, R92_start_without_setup, .init = begin, .fini = end)
{
    source_add(&a, dut, "test.a");
    peer_start(&peer, 3, "test.a", 1);
    cr_assert_eq(peer_id(peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0)), 3);
    cr_assert_str_eq(a.log, "setup 3 start 3");
    peer_start(&peer, 3, "test.a", 1); /* once is enough */
    peer_settle(&peer);
    cr_assert_str_eq(a.log, "setup 3 start 3");
}

Test(datasource, R59_unknown_instances_count_as_started, .init = begin, .fini = end)
{
    peer_setup(&peer, 4, "nobody", 1);
    peer_start(&peer, 4, "nobody", 1);
    cr_assert_eq(peer_id(peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0)), 4);
    peer_stop(&peer, 4);
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED), 0);
}

Test(datasource, refused_setup_is_inert, .init = begin, .fini = end)
{
    const uint64_t ids[] = {1};
    a.refuse = true;
    source_add(&a, dut, "test.a");
    peer_setup(&peer, 1, "test.a", 1);
    peer_start(&peer, 1, "test.a", 1);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 0);
    peer_clear(&peer, 1);
    peer_flush(&peer, 1, ids, 1);
    peer_expect(&peer, PORT_PRODUCER_COMMIT_DATA, 0);
    cr_assert_eq(peer_flush_ack(&peer, 0), 1);
    peer_stop(&peer, 1);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, 0);
    cr_assert_str_eq(a.log, "setup 1");
}

Test(datasource, R61_late_start_and_stop, .init = begin, .fini = end)
{
    a.start_late = a.stop_late = true;
    source_add(&a, dut, "test.a");
    peer_setup(&peer, 1, "test.a", 1);
    peer_start(&peer, 1, "test.a", 1);
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED), 0);
    ds_inst_stopped(a.inst); /* not due */
    ds_inst_started(a.inst);
    ds_inst_started(a.inst);
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED), 1);
    peer_stop(&peer, 1);
    peer_stop(&peer, 1); /* R66 */
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED), 0);
    cr_assert_str_eq(a.log, "setup 1 start 1 stop 1");
    source_write(&a, 5); /* R63: it still works */
    ds_inst_stopped(a.inst);
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED), 1);
    cr_assert_eq(peer.chunk_count, 1);
    const struct peer_call *stopped = peer_call(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, 0);
    cr_assert_lt(peer.chunks[0].call, (size_t)(stopped - peer.calls), "R65: data first");
}

Test(datasource, R69_flush_acks_are_in_order, .init = begin, .fini = end)
{
    const uint64_t both[] = {1, 2};
    const uint64_t only_b[] = {2};
    source_add(&a, dut, "test.a");
    source_add(&b, dut, "test.b");
    a.flush_late = true;
    peer_setup(&peer, 1, "test.a", 1);
    peer_setup(&peer, 2, "test.b", 1);
    peer_start(&peer, 1, "test.a", 1);
    peer_start(&peer, 2, "test.b", 1);
    peer_settle(&peer);
    source_write(&b, 9);
    peer_flush(&peer, 10, both, 2);
    peer_flush(&peer, 11, only_b, 1);
    peer_settle(&peer);
    cr_assert_eq(a.flush_id, 10);
    cr_assert_eq(a.flags, 0x14);
    cr_assert_eq(b.flush_id, 11);
    cr_assert_eq(peer_flush_ack(&peer, 0), 0, "10 is not done, so neither is 11");
    cr_assert_eq(peer.chunk_count, 1);
    ds_inst_flushed(a.inst, 99); /* not one of ours */
    peer_settle(&peer);
    cr_assert_eq(peer_flush_ack(&peer, 0), 0);
    source_write(&a, 8);
    writer_flush(a.writer, NULL, NULL);
    ds_inst_flushed(a.inst, 10);
    peer_settle(&peer);
    cr_assert_eq(peer_flush_ack(&peer, 0), 11);
    cr_assert_eq(peer_flush_ack(&peer, 1), 0, "one acknowledgement for both");
    cr_assert_eq(peer.chunk_count, 2);
}

Test(datasource, R70_flush_of_what_is_gone, .init = begin, .fini = end)
{
    const uint64_t ids[] = {1, 77};
    source_add(&a, dut, "test.a");
    a.flush_late = true;
    peer_setup(&peer, 1, "test.a", 1);
    peer_start(&peer, 1, "test.a", 1);
    peer_flush(&peer, 5, ids, 2);
    peer_settle(&peer);
    cr_assert_eq(peer_flush_ack(&peer, 0), 0);
    peer_stop(&peer, 1); /* the instance that owes it ends */
    peer_settle(&peer);
    cr_assert_eq(peer_flush_ack(&peer, 0), 5);
}

Test(datasource, R91_clear_reaches_the_named_only, .init = begin, .fini = end)
{
    source_add(&a, dut, "test.a");
    source_add(&b, dut, "test.b");
    peer_setup(&peer, 1, "test.a", 1);
    peer_setup(&peer, 2, "test.b", 1);
    static const uint8_t packed[] = {0x3A, 0x04, 0x0A, 0x02, 2, 9};
    peer_clear(&peer, 1);
    peer_command(&peer, packed, sizeof(packed), -1);
    peer_settle(&peer);
    cr_assert_str_eq(a.log, "setup 1 clear 1");
    cr_assert_str_eq(b.log, "setup 2 clear 2");
}

Test(datasource, R74_two_types_of_one_name, .init = begin, .fini = end)
{
    source_add(&a, dut, "twin");
    source_add(&b, dut, "twin");
    peer_setup(&peer, 1, "twin", 1);
    peer_setup(&peer, 2, "twin", 1); /* the same config: for the other one */
    peer_setup(&peer, 3, "twin", 2);
    peer_settle(&peer);
    cr_assert_str_eq(a.log, "setup 1 setup 3");
    cr_assert_str_eq(b.log, "setup 2");
}

Test(datasource, R72_R73_eight_at_a_time, .init = begin, .fini = end)
{
    source_add(&a, dut, "test.a");
    for (uint16_t i = 1; i <= 9; i++) {
        peer_setup(&peer, i, "test.a", i);
        peer_start(&peer, i, "test.a", i);
    }
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, 8);
    cr_assert_null(strstr(a.log, "setup 9"));
    peer_stop(&peer, 9);
    peer_settle(&peer);
    cr_assert_eq(peer_count(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED), 0);
    peer_stop(&peer, 4);
    peer_setup(&peer, 10, "test.a", 10);
    peer_settle(&peer);
    cr_assert_not_null(strstr(a.log, "setup 10"));
}

Test(datasource, unregister_stops_and_tells, .init = begin, .fini = end)
{
    a.stop_late = true; /* there is no time for that */
    source_add(&a, dut, "test.a");
    source_add(&b, dut, "test.b");
    peer_setup(&peer, 1, "test.a", 1);
    peer_setup(&peer, 2, "test.b", 1);
    peer_start(&peer, 1, "test.a", 1);
    peer_settle(&peer);
    source_write(&a, 1);
    datasource_unregister(a.ds);
    peer_settle(&peer);
    cr_assert_str_eq(a.log, "setup 1 start 1 stop 1 destroy 1");
    cr_assert_eq(peer.chunk_count, 1);
    const struct peer_call *c = peer_call(&peer, PORT_PRODUCER_UNREGISTER_DATA_SOURCE, 0);
    cr_assert_not_null(c);
    cr_assert_eq(c->len, 8);
    cr_assert_arr_eq(c->args, "\x0A\x06test.a", 8);
    peer_setup(&peer, 3, "test.a", 1);
    peer_settle(&peer);
    cr_assert_str_eq(b.log, "setup 2");
}

Test(datasource, instances_without_memory_record_nothing, .init = begin, .fini = end)
{
    source_add(&a, dut, "test.a");
    peer_hang_up(&peer);
    peer_settle(&peer);
    peer_setup(&peer, 1, "test.a", 1); /* no setup_tracing came */
    peer_start(&peer, 1, "test.a", 1);
    peer_settle(&peer);
    cr_assert_str_eq(a.log, "setup 1 start 1");
    cr_assert_eq(writer_id(a.writer), 0);
    source_write(&a, 1);
    peer_stop(&peer, 1);
    peer_expect(&peer, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, 0);
    cr_assert_eq(peer.chunk_count, 0);
}
