/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials and identities (R70-R75). That a forged identity is ignored end to end is in
 * test_rpc_host.c (T-H7, T-H8). */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/cred.h"
#include "t/ipc/loop.h"

/* R74: FNV-1a, its published test values cut to 32 bits. */
Test(cred, machine_id)
{
    cr_assert_eq(cred_machine_id("", 0), 0x84222325u);
    cr_assert_eq(cred_machine_id("a", 1), 0x8601ec8cu);
    cr_assert_eq(cred_machine_id("foobar", 6), 0x85944171f73967e8u & 0xFFFFFFFFu);
}

/* T-E12: they stay readable after the peer has gone. */
Test(cred, unix_peer_even_after_it_left)
{
    int fds[2];
    struct cred c;
    char text[128];
    loop_pair(fds);
    close(fds[1]);
    cr_assert_eq(cred_take(&c, fds[0]), 0);
    cr_assert_eq(c.uid, getuid());
    cr_assert_eq(c.gid, getgid());
    cr_assert_eq(c.pid, getpid());
    cr_assert_eq(c.machine_id, 0u);
    cr_assert_str_eq(c.machine_name, sockname_machine());
    cred_describe(&c, text, sizeof(text));
    cr_assert_not_null(strstr(text, "uid "));
    close(fds[0]);
}

Test(cred, no_socket)
{
    struct cred c;
    cr_assert_lt(cred_take(&c, -1), 0);
    cr_assert_lt(cred_take(&c, 0), 0);
}

Test(cred, identity)
{
    struct cred_identity id = {.pid = 7, .uid = 8, .hint = "boot", .hint_len = 4};
    struct cred c = {.family = SOCKNAME_PATH, .uid = 1, .pid = 2};
    char text[128];
    cr_assert_not(cred_identify(&c, &id), "never on AF_UNIX (R72)");
    cr_assert_eq(c.uid, 1u);
    c = (struct cred){.family = SOCKNAME_INET, .pid = -1, .local_addr = "10.0.0.1"};
    cred_describe(&c, text, sizeof(text));
    cr_assert_str_eq(text, "tcp peer, unidentified");
    cr_assert(cred_identify(&c, &id));
    cr_assert_eq(c.uid, 8u);
    cr_assert_eq(c.pid, 7);
    cr_assert_eq(c.machine_id, cred_machine_id("boot", 4));
    cr_assert_str_eq(c.machine_name, "");
    id.pid = 9;
    cr_assert_not(cred_identify(&c, &id), "the first one counts");
    cr_assert_eq(c.pid, 7);
    /* No hint: the local address stands in. */
    c = (struct cred){.family = SOCKNAME_VSOCK, .pid = -1, .local_addr = "vsock://2"};
    id = (struct cred_identity){0};
    cr_assert(cred_identify(&c, &id));
    cr_assert_eq(c.machine_id, cred_machine_id("vsock://2", 9));
    cr_assert_not(cred_identify(&c, &id), "even when it said nothing");
}

Test(cred, long_machine_name_is_cut)
{
    char name[1000];
    struct cred c = {.family = SOCKNAME_INET};
    struct cred_identity id = {.name = name, .name_len = sizeof(name)};
    memset(name, 'n', sizeof(name));
    cr_assert(cred_identify(&c, &id));
    cr_assert_eq(strlen(c.machine_name), CRED_NAME_MAX - 1u);
}
