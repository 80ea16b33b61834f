/* SPDX-License-Identifier: Apache-2.0 */
/* The method tables (R48) and the ReadBuffers reply (R102). */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/port_consumer.h"
#include "ipc/port_producer.h"
#include "ipc/port_relay.h"
#include "reactor/err.h"

static void check_names(const struct rpc_service *s, const char *name, const char *const *names,
                        size_t count)
{
    cr_assert_str_eq(s->name, name);
    cr_assert_eq(s->count, count);
    for (size_t i = 0; i < count; i++) {
        cr_assert_str_eq(s->methods[i].name, names[i]);
        cr_assert_not_null(s->methods[i].request);
        cr_assert_not_null(s->methods[i].reply);
        cr_assert_eq(rpc_method_id(s, names[i], strlen(names[i])), i + 1);
        cr_assert_eq(rpc_method_id(s, names[i], strlen(names[i]) - 1), 0u);
        cr_assert_str_eq(rpc_method_name(s, (uint32_t)i + 1), names[i]);
    }
    cr_assert_str_eq(rpc_method_name(s, 0), "?");
    cr_assert_str_eq(rpc_method_name(s, (uint32_t)count + 1), "?");
}

#define CHECK(service, name, names)                                                                \
    check_names(&(service), (name), (names), sizeof(names) / sizeof((names)[0]))

Test(port, method_lists_as_on_the_wire)
{
    static const char *const producer[] = {
        "InitializeConnection",
        "RegisterDataSource",
        "UnregisterDataSource",
        "CommitData",
        "GetAsyncCommand",
        "RegisterTraceWriter",
        "UnregisterTraceWriter",
        "NotifyDataSourceStarted",
        "NotifyDataSourceStopped",
        "ActivateTriggers",
        "Sync",
        "UpdateDataSource",
    };
    static const char *const consumer[] = {
        "EnableTracing",
        "DisableTracing",
        "ReadBuffers",
        "FreeBuffers",
        "Flush",
        "StartTracing",
        "ChangeTraceConfig",
        "Detach",
        "Attach",
        "GetTraceStats",
        "ObserveEvents",
        "QueryServiceState",
        "QueryCapabilities",
        "SaveTraceForBugreport",
        "CloneSession",
    };
    static const char *const relay[] = {"InitRelay", "SyncClock"};
    CHECK(port_producer, "ProducerPort", producer);
    CHECK(port_consumer, "ConsumerPort", consumer);
    CHECK(port_relay, "RelayPort", relay);
}

/* ---- ReadBuffers ---- */

static struct port_consumer_reply reply;
static uint8_t flat[FRAME_MAX];

static size_t flatten(void)
{
    size_t n = 0;
    port_consumer_reply_finish(&reply);
    for (int i = 1; i < reply.iovcnt; i++) {
        cr_assert_leq(n + reply.iov[i].iov_len, sizeof(flat));
        memcpy(flat + n, reply.iov[i].iov_base, reply.iov[i].iov_len);
        n += reply.iov[i].iov_len;
    }
    return n;
}

static bool add(const char *text, bool last)
{
    return port_consumer_reply_add(&reply, &(struct iovec){(void *)(uintptr_t)text, strlen(text)},
                                   1, last);
}

Test(port, reply_bytes)
{
    static const uint8_t want[] = {0x12, 0x06, 0x0A, 0x02, 'a', 'b',  0x10, 0x00,
                                   0x12, 0x05, 0x0A, 0x01, 'c', 0x10, 0x01};
    port_consumer_reply_reset(&reply);
    cr_assert(add("ab", false));
    cr_assert(add("c", true));
    cr_assert_eq(flatten(), sizeof(want));
    cr_assert_arr_eq(flat, want, sizeof(want));
    port_consumer_reply_reset(&reply);
    cr_assert_eq(flatten(), 0u, "a reply may have no slices");
}

Test(port, slices_come_back)
{
    struct port_consumer_slice s;
    struct iovec pieces[3] = {{(void *)"x", 1}, {(void *)"", 0}, {(void *)"yz", 2}};
    port_consumer_reply_reset(&reply);
    cr_assert(port_consumer_reply_add(&reply, pieces, 3, false));
    cr_assert(add("", true));
    struct bytes_cur cur = bytes_cur(bytes_view(flat, flatten()));
    cr_assert_eq(port_consumer_next_slice(&cur, &s), 1);
    cr_assert(bytes_equal(s.data, bytes_str("xyz")));
    cr_assert_not(s.last_for_packet);
    cr_assert_eq(port_consumer_next_slice(&cur, &s), 1);
    cr_assert_eq(s.data.n, 0u);
    cr_assert(s.last_for_packet);
    cr_assert_eq(port_consumer_next_slice(&cur, &s), 0);
}

/* R102: sum(size + 16) <= 131008, and then the reply really fits a frame. */
Test(port, reply_limit)
{
    static uint8_t big[PORT_CONSUMER_SLICE_MAX + 1];
    struct iovec one = {big, sizeof(big)};
    port_consumer_reply_reset(&reply);
    cr_assert_not(port_consumer_reply_add(&reply, &one, 1, true), "never fits");
    one.iov_len--;
    cr_assert(port_consumer_reply_add(&reply, &one, 1, true));
    cr_assert_not(add("", true), "16 more are too many");
    cr_assert_leq(flatten(), FRAME_BLOB_MAX);

    port_consumer_reply_reset(&reply);
    one.iov_len = 300;
    size_t n = 0;
    while (port_consumer_reply_add(&reply, &one, 1, true))
        n++;
    cr_assert_eq(n, FRAME_BLOB_MAX / 316u);
    cr_assert_leq(flatten(), FRAME_BLOB_MAX);

    port_consumer_reply_reset(&reply);
    one.iov_len = 1;
    n = 0;
    while (port_consumer_reply_add(&reply, &one, 1, true))
        n++;
    cr_assert_eq(n, (size_t)PORT_CONSUMER_SLICES_MAX);
    cr_assert_leq(reply.iovcnt, 1024);
    cr_assert_leq(flatten(), FRAME_BLOB_MAX);
    cr_assert_leq(reply.iovcnt, 1024, "what sendmsg takes");

    /* Many pieces. */
    static struct iovec many[1100];
    for (size_t i = 0; i < 1100; i++)
        many[i] = (struct iovec){big, 1};
    port_consumer_reply_reset(&reply);
    cr_assert_not(port_consumer_reply_add(&reply, many, 1100, true));
    cr_assert(port_consumer_reply_add(&reply, many, 1000, true));
    cr_assert_not(port_consumer_reply_add(&reply, many, 100, true));
    flatten();
    cr_assert_leq(reply.iovcnt, 1024);
}

Test(port, malformed_replies)
{
    static const uint8_t cut[] = {0x12, 0x06, 0x0A, 0x02, 'a'};
    static const uint8_t inner[] = {0x12, 0x03, 0x0A, 0x09, 'a'};
    static const uint8_t unknown[] = {0x08, 0x01, 0x1A, 0x00, 0x12, 0x02, 0x18, 0x01};
    struct port_consumer_slice s;
    struct bytes_cur cur = bytes_cur(bytes_view(cut, sizeof(cut)));
    cr_assert_eq(port_consumer_next_slice(&cur, &s), ERR_BAD_FRAME);
    cur = bytes_cur(bytes_view(inner, sizeof(inner)));
    cr_assert_eq(port_consumer_next_slice(&cur, &s), ERR_BAD_FRAME);
    cur = bytes_cur(bytes_view(unknown, sizeof(unknown)));
    cr_assert_eq(port_consumer_next_slice(&cur, &s), 1, "unknown fields are skipped");
    cr_assert_eq(s.data.n, 0u);
    cr_assert_not(s.last_for_packet);
    cr_assert_eq(port_consumer_next_slice(&cur, &s), 0);
}
