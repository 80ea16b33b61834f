/* SPDX-License-Identifier: Apache-2.0 */
/* The public functions where there is no service; t/system/sdk.py has the rest. */
#include <criterion/criterion.h>
#include <errno.h>

#include "perfetto/public/packet.h"
#include "perfetto/public/producer.h"
#include "perfetto/public/session.h"

static const struct perfetto_options nowhere = {.name = "test", .socket = "/nonexistent/socket"};
static struct perfetto_data_source sources[65];

Test(public, before_init_nothing_works_and_nothing_breaks)
{
    struct perfetto_session *s = NULL;
    unsigned packets = 0;
    PERFETTO_TRACE (&sources[0], p)
        packets++;
    cr_assert_eq(packets, 0);
    cr_assert_null(perfetto_packet_begin(&sources[0]));
    cr_assert_eq(perfetto_data_source_register(&sources[0], "a", NULL), -ENOTCONN);
    cr_assert_eq(perfetto_data_source_wait_active(&sources[0], 0), -ENOTCONN);
    cr_assert_eq(perfetto_wait_connected(0), -ENOTCONN);
    cr_assert_eq(perfetto_flush(0), -ENOTCONN);
    cr_assert_eq(perfetto_trigger("t", 1), -ENOTCONN);
    cr_assert_eq(perfetto_session_new(&s), -ENOTCONN);
    cr_assert_eq(perfetto_shutdown(), -ENOTCONN);
}

Test(public, sizes_that_are_none_are_refused)
{
    struct perfetto_options o = nowhere;
    o.shm_page_kb = 5;
    cr_assert_eq(perfetto_init(&o), -EINVAL);
    o.shm_page_kb = 32;
    o.shm_size_kb = 33;
    cr_assert_eq(perfetto_init(&o), -EINVAL);
    o.shm_page_kb = UINT32_C(1) << 22; /* times 1024 is 0 in 32 bits */
    o.shm_size_kb = UINT32_C(1) << 22;
    cr_assert_eq(perfetto_init(&o), -EINVAL);
    o.shm_page_kb = 32;
    o.shm_size_kb = 64;
    cr_assert_eq(perfetto_init(&o), 0);
    cr_assert_eq(perfetto_init(&o), -EALREADY);
    cr_assert_eq(perfetto_shutdown(), 0);
}

Test(public, without_a_service_calls_end_in_time)
{
    struct perfetto_session *s = NULL;
    cr_assert_eq(perfetto_init(&nowhere), 0);
    cr_assert_eq(perfetto_data_source_register(&sources[0], "a", NULL), 0);
    cr_assert_eq(perfetto_wait_connected(1), -ETIMEDOUT);
    cr_assert_eq(perfetto_data_source_wait_active(&sources[0], 1), -ETIMEDOUT);
    cr_assert_eq(perfetto_data_source_wait_active(&sources[1], 1), -EINVAL);
    cr_assert_eq(perfetto_flush(1000), -ENOTCONN);
    cr_assert_eq(perfetto_trigger("t", 1), 0);
    cr_assert_eq(perfetto_session_new(&s), 0);
    cr_assert_eq(perfetto_shutdown(), -EBUSY);
    cr_assert_eq(perfetto_session_start(s, "/nonexistent/socket", "", 0, 1000), -ENOTCONN);
    cr_assert(perfetto_session_error(s)[0]);
    cr_assert_eq(perfetto_session_flush(s, 1000), -ENOTCONN);
    perfetto_session_free(s);
    cr_assert_eq(perfetto_shutdown(), 0);
}

Test(public, a_program_that_fits_no_message_is_refused)
{
    static char program[200000];
    struct perfetto_data_source_options o = {.program = program, .program_len = sizeof(program)};
    cr_assert_eq(perfetto_init(&nowhere), 0);
    cr_assert_eq(perfetto_data_source_register(&sources[0], "a", &o), -EINVAL);
    o.program_len = 65536;
    cr_assert_eq(perfetto_data_source_register(&sources[0], "a", &o), 0);
    cr_assert_eq(perfetto_shutdown(), 0);
}

Test(public, there_is_room_for_64_sources)
{
    cr_assert_eq(perfetto_init(&nowhere), 0);
    cr_assert_eq(perfetto_data_source_register(&sources[0], "", NULL), -EINVAL);
    for (int i = 0; i < 64; i++)
        cr_assert_eq(perfetto_data_source_register(&sources[i], "a", NULL), 0);
    cr_assert_eq(perfetto_data_source_register(&sources[0], "a", NULL), -EALREADY);
    cr_assert_eq(perfetto_data_source_register(&sources[64], "a", NULL), -ENOSPC);
    /* A new life of the library: the same sources have their places still. */
    cr_assert_eq(perfetto_shutdown(), 0);
    cr_assert_eq(perfetto_init(&nowhere), 0);
    cr_assert_eq(perfetto_data_source_register(&sources[63], "a", NULL), 0);
    cr_assert_eq(perfetto_shutdown(), 0);
}
