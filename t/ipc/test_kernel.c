/* SPDX-License-Identifier: Apache-2.0 */
/* Behaviours of the kernel that this folder leans on. If one of these fails, channel.c is wrong
 * too. */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "t/ipc/loop.h"

/* A descriptor comes no later than the first byte of the sendmsg that carried it, and a recvmsg
 * never reads past the message that brought one (R63). */
Test(kernel, descriptor_and_bytes_keep_their_order)
{
    int fds[2];
    int fd;
    char buf[64];
    loop_pair(fds);
    int a = loop_memfd("a");
    int b = loop_memfd("b");
    loop_write(fds[0], "11", 2);
    loop_send_fds(fds[0], "22", 2, &a, 1);
    loop_send_fds(fds[0], "33", 2, &b, 1);
    loop_write(fds[0], "44", 2);
    long n = loop_recv_fd(fds[1], buf, sizeof(buf), &fd);
    cr_assert_leq(n, 4, "not into the second one that carries a descriptor");
    if (fd < 0) {
        cr_assert_eq(n, 2);
        n = loop_recv_fd(fds[1], buf, sizeof(buf), &fd);
    }
    cr_assert(loop_fd_holds(fd, "a"));
    close(fd);
    n = loop_recv_fd(fds[1], buf, sizeof(buf), &fd);
    cr_assert_eq(n, 2);
    cr_assert_arr_eq(buf, "33", 2);
    cr_assert(loop_fd_holds(fd, "b"));
    close(fd);
    close(a);
    close(b);
    close(fds[0]);
    close(fds[1]);
}

/* With room for one int on 64-bit machines two fit, because of alignment; a third is cut off with
 * MSG_CTRUNC and not leaked (R66). */
Test(kernel, control_data_is_truncated_beyond_its_room)
{
    int fds[2];
    char buf[8];
    char space[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(16)));
    struct iovec iov = {buf, sizeof(buf)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    int three[3] = {loop_memfd("1"), loop_memfd("2"), loop_memfd("3")};
    loop_pair(fds);
    loop_send_fds(fds[0], "x", 1, three, 3);
    int before = loop_open_fds();
    msg.msg_control = space;
    msg.msg_controllen = sizeof(space);
    cr_assert_eq(recvmsg(fds[1], &msg, MSG_DONTWAIT), 1);
    cr_assert(msg.msg_flags & MSG_CTRUNC);
    cr_assert_leq(loop_open_fds(), before + 2);
}

/* What was written before a close can still be read; then comes the end (R110), or ECONNRESET when
 * the closer left bytes unread. */
Test(kernel, hang_up_comes_after_the_data)
{
    char buf[8];
    int fds[2];
    loop_pair(fds);
    loop_write(fds[0], "abc", 3);
    close(fds[0]);
    cr_assert_eq(loop_read(fds[1], buf, sizeof(buf)), 3);
    cr_assert_eq(loop_read(fds[1], buf, sizeof(buf)), 0);
    close(fds[1]);

    loop_pair(fds);
    loop_write(fds[0], "abc", 3);
    loop_write(fds[1], "never read", 10);
    close(fds[0]);
    cr_assert_eq(loop_read(fds[1], buf, sizeof(buf)), 3);
    cr_assert_eq(loop_read(fds[1], buf, sizeof(buf)), -1);
    cr_assert_eq(errno, ECONNRESET);
    close(fds[1]);
}

/* A write to a peer that is gone is EPIPE and takes nothing of what it had sent. */
Test(kernel, failed_write_leaves_the_input)
{
    char buf[8];
    int fds[2];
    loop_pair(fds);
    loop_write(fds[0], "abc", 3);
    close(fds[0]);
    cr_assert_eq(send(fds[1], "x", 1, MSG_NOSIGNAL), -1);
    cr_assert_eq(errno, EPIPE);
    cr_assert_eq(loop_read(fds[1], buf, sizeof(buf)), 3);
    close(fds[1]);
}

/* R69: SCM_RIGHTS on TCP is ignored, the bytes go. */
Test(kernel, descriptors_on_tcp_are_ignored)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t len = sizeof(in);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int l = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(l, (struct sockaddr *)&in, sizeof(in)), 0);
    cr_assert_eq(listen(l, 1), 0);
    cr_assert_eq(getsockname(l, (struct sockaddr *)&in, &len), 0);
    int a = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(a, (struct sockaddr *)&in, sizeof(in)), 0);
    int b = accept(l, NULL, NULL);
    int fd = loop_memfd("x");
    char buf[8];
    loop_send_fds(a, "abc", 3, &fd, 1);
    cr_assert_eq(recv(b, buf, sizeof(buf), 0), 3);
    close(a);
    close(b);
    close(l);
    close(fd);
}

/* The lowest free descriptor is handed out: listener.c reads the room that is left off it. */
Test(kernel, lowest_descriptor_first)
{
    int a = dup(0);
    int b = dup(0);
    cr_assert_lt(a, b);
    close(a);
    cr_assert_eq(dup(0), a);
}

/* A full backlog makes a non-blocking connect fail with EAGAIN at once. */
Test(kernel, full_backlog_is_eagain)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    sa_family_t family = AF_UNIX; /* autobind: the kernel makes an abstract name */
    cr_assert_eq(bind(l, (struct sockaddr *)&family, sizeof(family)), 0);
    cr_assert_eq(listen(l, 1), 0);
    cr_assert_eq(getsockname(l, (struct sockaddr *)&addr, &len), 0);
    int rc = 0;
    for (int i = 0; i < 20 && rc == 0; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        rc = connect(fd, (struct sockaddr *)&addr, len) != 0 ? errno : 0;
    }
    cr_assert_eq(rc, EAGAIN);
}
