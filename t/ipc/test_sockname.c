/* SPDX-License-Identifier: Apache-2.0 */
/* Address texts (R1-R14) and the sockets made from them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "ipc/sockname.h"

static char err[SOCKNAME_ERR_MAX];

/* R1, R2. */
Test(sockname, families)
{
    static const struct {
        const char *text;
        enum sockname_family family;
    } table[] = {
        {"", SOCKNAME_NONE},
        {"@traced_relay", SOCKNAME_ABSTRACT},
        {"@", SOCKNAME_ABSTRACT},
        {"@x:123", SOCKNAME_ABSTRACT},
        {"@vsock://1:2", SOCKNAME_ABSTRACT},
        {"vsock://2:20001", SOCKNAME_VSOCK},
        {"vsock://", SOCKNAME_VSOCK},
        {"vsock:/2:20001", SOCKNAME_INET},
        {"127.0.0.1:32278", SOCKNAME_INET},
        {"localhost:0", SOCKNAME_INET},
        {"a:b:7", SOCKNAME_INET},
        {"/tmp/x:123", SOCKNAME_INET},
        {"x:-5", SOCKNAME_INET},
        {"x:2147483647", SOCKNAME_INET},
        {"x:2147483648", SOCKNAME_PATH},
        {"x:-2147483649", SOCKNAME_PATH},
        {"x:12a", SOCKNAME_PATH},
        {"x:", SOCKNAME_PATH},
        {"x:0x10", SOCKNAME_PATH},
        {"[::1]:1234", SOCKNAME_INET6},
        {"[::1]:123456", SOCKNAME_INET6},
        {"[::1]", SOCKNAME_PATH},
        {"/run/perfetto/traced-producer.sock", SOCKNAME_PATH},
        {"relative_name", SOCKNAME_PATH},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        cr_assert_eq(sockname_family_of(table[i].text), table[i].family, "%s", table[i].text);
    cr_assert_eq(sockname_family_of(NULL), SOCKNAME_NONE);
}

/* R3, R4: the very bytes and lengths. */
Test(sockname, unix_addresses)
{
    struct sockname n;
    const struct sockaddr_un *un = (const struct sockaddr_un *)&n.addr;
    size_t off = offsetof(struct sockaddr_un, sun_path);
    cr_assert_eq(sockname_parse(&n, "@abc", err, sizeof(err)), 0);
    cr_assert_eq(n.addrlen, off + 4, "no terminator is part of the name");
    cr_assert_arr_eq(un->sun_path, "\0abc", 4);
    cr_assert_eq(sockname_parse(&n, "/abc", err, sizeof(err)), 0);
    cr_assert_eq(n.addrlen, off + 5, "the terminator counts");
    cr_assert_str_eq(un->sun_path, "/abc");
    cr_assert_eq(un->sun_family, AF_UNIX);
    cr_assert_str_eq(n.text, "/abc");
}

/* R5. */
Test(sockname, unix_length_limit)
{
    struct sockname n = {.family = SOCKNAME_NONE};
    char text[400];
    memset(text, 'a', sizeof(text));
    text[399] = '\0';
    cr_assert_eq(sockname_parse(&n, text, err, sizeof(err)), -ENAMETOOLONG);
    text[107] = '\0';
    cr_assert_eq(sockname_parse(&n, text, err, sizeof(err)), -ENAMETOOLONG);
    cr_assert_not_null(strstr(err, "107"), "%s", err);
    cr_assert_eq(n.family, SOCKNAME_NONE, "untouched");
    text[106] = '\0';
    cr_assert_eq(sockname_parse(&n, text, err, sizeof(err)), 0);
    text[0] = '@';
    cr_assert_eq(sockname_parse(&n, text, err, sizeof(err)), 0, "the @ counts too");
    text[106] = 'a';
    text[107] = '\0';
    cr_assert_eq(sockname_parse(&n, text, err, sizeof(err)), -ENAMETOOLONG);
}

/* R6: a malformed value is an error, never an abort. */
Test(sockname, vsock)
{
    static const char *const bad[] = {"vsock://",
                                      "vsock://1",
                                      "vsock://1:",
                                      "vsock://:1",
                                      "vsock://1:2:3",
                                      "vsock://a:1",
                                      "vsock://1:b",
                                      "vsock://1: 2",
                                      "vsock://4294967296:1",
                                      "vsock://1:99999999999"};
    struct sockname n;
    const struct sockaddr_vm *vm = (const struct sockaddr_vm *)&n.addr;
    cr_assert_eq(sockname_parse(&n, "vsock://2:20001", err, sizeof(err)), 0);
    cr_assert_eq(vm->svm_family, AF_VSOCK);
    cr_assert_eq(vm->svm_cid, 2u);
    cr_assert_eq(vm->svm_port, 20001u);
    cr_assert_eq(sockname_parse(&n, "vsock://-1:10000", err, sizeof(err)), 0);
    cr_assert_eq(vm->svm_cid, 0xFFFFFFFFu);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert_eq(sockname_parse(&n, bad[i], err, sizeof(err)), -EINVAL, "%s", bad[i]);
        cr_assert_not_null(strstr(err, bad[i]));
    }
}

/* R7. */
Test(sockname, tcp)
{
    static const char *const bad[] = {":1",   "127.0.0.1:65536", "127.0.0.1:-1", "a:b:7",
                                      "[]:1", "[::1:1",          "[::1]x:1",     "/tmp/a:b:1"};
    struct sockname n;
    const struct sockaddr_in *in = (const struct sockaddr_in *)&n.addr;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&n.addr;
    cr_assert_eq(sockname_parse(&n, "127.0.0.1:32278", err, sizeof(err)), 0, "%s", err);
    cr_assert_eq(in->sin_family, AF_INET);
    cr_assert_eq(ntohs(in->sin_port), 32278);
    cr_assert_eq(ntohl(in->sin_addr.s_addr), 0x7F000001u);
    cr_assert_eq(sockname_parse(&n, "[::1]:1234", err, sizeof(err)), 0, "%s", err);
    cr_assert_eq(in6->sin6_family, AF_INET6);
    cr_assert_eq(ntohs(in6->sin6_port), 1234);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(sockname_parse(&n, bad[i], err, sizeof(err)), -EINVAL, "%s", bad[i]);
    cr_assert_eq(sockname_parse(&n, "no.such.host.invalid:1", err, sizeof(err)), -EADDRNOTAVAIL);
    cr_assert_not_null(strstr(err, "no.such.host.invalid"), "%s", err);
    cr_assert_eq(sockname_parse(&n, "", NULL, 0), -EINVAL, "no text wanted");
}

/* ---- sockets ---- */

static char dir[] = "/tmp/ipc-name.XXXXXX";
static char path[64];

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
}

static void teardown(void)
{
    unlink(path);
    rmdir(dir);
}

TestSuite(sockets, .init = setup, .fini = teardown);

/* R8. */
static void check_flags(int fd)
{
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

static void round_trip(const char *text, enum sockname_family family)
{
    struct sockname n;
    struct sockname real;
    bool pending = true;
    cr_assert_eq(sockname_parse(&n, text, err, sizeof(err)), 0, "%s", err);
    int l = sockname_listen(&n, 5, true, err, sizeof(err));
    cr_assert_geq(l, 0, "%s", err);
    check_flags(l);
    cr_assert_eq(sockname_of_fd(&real, l), 0);
    cr_assert_eq(real.family, family);
    if (sockname_is_unix(family))
        cr_assert_str_eq(real.text, text);
    int fd = sockname_connect(&real, &pending, err, sizeof(err));
    cr_assert_geq(fd, 0, "%s", err);
    check_flags(fd);
    if (sockname_is_unix(family))
        cr_assert_not(pending);
    else {
        int one = 0;
        socklen_t len = sizeof(one);
        cr_assert_eq(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, &len), 0);
        cr_assert_neq(one, 0);
        cr_assert_eq(getsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, &len), 0);
        cr_assert_neq(one, 0);
    }
    int peer = -1;
    for (int i = 0; i < 100000 && peer < 0; i++)
        peer = accept(l, NULL, NULL);
    cr_assert_geq(peer, 0);
    cr_assert_eq(sockname_connect_result(fd), 0);
    close(peer);
    close(fd);
    close(l);
}

Test(sockets, listen_and_connect)
{
    char name[64];
    round_trip(path, SOCKNAME_PATH);
    snprintf(name, sizeof(name), "@ipc-test-%d", (int)getpid());
    round_trip(name, SOCKNAME_ABSTRACT);
    round_trip("127.0.0.1:0", SOCKNAME_INET);
}

/* R14: what a crash left is no obstacle, and a second service takes the name over. */
Test(sockets, old_file_is_replaced)
{
    struct sockname n;
    struct stat st;
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    close(file);
    sockname_parse(&n, path, err, sizeof(err));
    cr_assert_eq(sockname_listen(&n, 5, false, err, sizeof(err)), -EADDRINUSE);
    cr_assert_not_null(strstr(err, path), "%s", err);
    int a = sockname_listen(&n, 5, true, err, sizeof(err));
    cr_assert_geq(a, 0, "%s", err);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert(S_ISSOCK(st.st_mode));
    int b = sockname_listen(&n, 5, true, err, sizeof(err));
    cr_assert_geq(b, 0, "%s", err);
    bool pending;
    int fd = sockname_connect(&n, &pending, err, sizeof(err));
    cr_assert_geq(fd, 0);
    cr_assert_lt(accept(a, NULL, NULL), 0, "the first gets nobody any more");
    cr_assert_geq(accept(b, NULL, NULL), 0);
    close(a);
    close(b);
    close(fd);
}

Test(sockets, messages_name_thing_and_remedy)
{
    struct sockname n;
    bool pending;
    char deep[100];
    snprintf(deep, sizeof(deep), "%s/none/s", dir);
    sockname_parse(&n, deep, err, sizeof(err));
    cr_assert_eq(sockname_listen(&n, 5, true, err, sizeof(err)), -ENOENT);
    cr_assert_not_null(strstr(err, deep), "%s", err);
    cr_assert_not_null(strstr(err, "create the directory"), "%s", err);
    cr_assert_null(strchr(err, '\n'));
    cr_assert_eq(sockname_connect(&n, &pending, err, sizeof(err)), -ENOENT);
    cr_assert_not_null(strstr(err, "start traced"), "%s", err);
    sockname_explain_connect(&n, -EACCES, err, sizeof(err));
    cr_assert_not_null(strstr(err, "root"), "%s", err);
    sockname_parse(&n, path, err, sizeof(err));
    int l = sockname_listen(&n, 0, true, err, sizeof(err));
    close(l);
    cr_assert_eq(sockname_connect(&n, &pending, err, sizeof(err)), -ECONNREFUSED);
}

/* ---- defaults and environment ---- */

/* R9, R10; service.md R240. */
Test(sockets, defaults)
{
    char usable[80];
    char want[120];
    unsetenv("PERFETTO_PRODUCER_SOCK_NAME");
    unsetenv("PERFETTO_CONSUMER_SOCK_NAME");
    snprintf(usable, sizeof(usable), "%s/run/", dir);
    sockname_forget_defaults(usable);
    cr_assert_str_eq(sockname_producer(), "/tmp/perfetto-producer");
    cr_assert_eq(mkdir(usable, 0700), 0);
    cr_assert_str_eq(sockname_producer(), "/tmp/perfetto-producer", "decided once");
    snprintf(want, sizeof(want), "%straced-consumer.sock", usable);
    cr_assert_str_eq(sockname_consumer(), want, "each socket on its own");
    sockname_forget_defaults(usable);
    snprintf(want, sizeof(want), "%straced-producer.sock", usable);
    cr_assert_str_eq(sockname_producer(), want);
    setenv("PERFETTO_PRODUCER_SOCK_NAME", "a,,b", 1);
    cr_assert_str_eq(sockname_producer(), "a,,b");
    setenv("PERFETTO_PRODUCER_SOCK_NAME", "", 1);
    cr_assert_str_eq(sockname_producer(), "", "empty counts as present");
    rmdir(usable);
    sockname_forget_defaults(NULL);
    setenv("PERFETTO_MACHINE_NAME", "box", 1);
    cr_assert_str_eq(sockname_machine(), "box");
    unsetenv("PERFETTO_MACHINE_NAME");
    cr_assert_str_eq(sockname_machine(), "Linux");
    unsetenv("PERFETTO_RELAY_SOCK_NAME");
    cr_assert_str_eq(sockname_relay(), "");
}

static char seen[256];

static int note(void *arg, const char *item)
{
    size_t n = strlen(seen);
    snprintf(seen + n, sizeof(seen) - n, "<%s>", item);
    return *(int *)arg;
}

/* R12. */
Test(sockname, split)
{
    int rc = 0;
    size_t n = 99;
    cr_assert_eq(sockname_split("a,,b", note, &rc, &n), 0);
    cr_assert_eq(n, 2u);
    cr_assert_str_eq(seen, "<a><b>");
    cr_assert_eq(sockname_split("", note, &rc, &n), 0);
    cr_assert_eq(n, 0u);
    cr_assert_eq(sockname_split(",,", note, &rc, &n), 0);
    cr_assert_eq(n, 0u);
    rc = -5;
    seen[0] = '\0';
    cr_assert_eq(sockname_split("x,y", note, &rc, &n), -5);
    cr_assert_str_eq(seen, "<x>");
    char huge[400];
    memset(huge, 'h', sizeof(huge));
    huge[399] = '\0';
    cr_assert_eq(sockname_split(huge, note, &rc, &n), -ENAMETOOLONG);
}

/* R13. */
Test(sockname, private_names)
{
    char p[SOCKNAME_TEXT_MAX];
    char c[SOCKNAME_TEXT_MAX];
    sockname_private(42, p, c);
    cr_assert_str_eq(p, "/tmp/traced-p-42");
    cr_assert_str_eq(c, "/tmp/traced-c-42");
}
