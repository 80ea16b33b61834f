/* SPDX-License-Identifier: Apache-2.0 */
#include "t/ipc/loop.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

void loop_no_leaks(void)
{
    if (__lsan_do_recoverable_leak_check != NULL)
        cr_assert_eq(__lsan_do_recoverable_leak_check(), 0, "memory was lost");
}

void loop_ticks(struct reactor *r, int n)
{
    for (int i = 0; i < n; i++)
        cr_assert_eq(reactor_tick(r, 0), 0);
}

bool loop_until(struct reactor *r, const int *flag, int want)
{
    for (int i = 0; i < 1000 && *flag < want; i++)
        cr_assert_eq(reactor_tick(r, 10000000), 0);
    return *flag >= want;
}

size_t loop_hex(const char *hex, uint8_t *out, size_t cap)
{
    size_t n = 0;
    int half = -1;
    for (; *hex != '\0'; hex++) {
        if (isspace((unsigned char)*hex))
            continue;
        int v = isdigit((unsigned char)*hex) ? *hex - '0' : tolower((unsigned char)*hex) - 'a' + 10;
        if (half < 0) {
            half = v;
            continue;
        }
        cr_assert_lt(n, cap);
        out[n++] = (uint8_t)(half * 16 + v);
        half = -1;
    }
    return n;
}

void loop_pair(int fds[2])
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

void loop_write(int fd, const void *p, size_t n)
{
    cr_assert_eq(send(fd, p, n, MSG_NOSIGNAL), (ssize_t)n, "%s", strerror(errno));
}

void loop_send_fds(int fd, const void *p, size_t n, const int *fds, size_t count)
{
    char space[CMSG_SPACE(16 * sizeof(int))] __attribute__((aligned(16)));
    struct iovec iov = {(void *)(uintptr_t)p, n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    memset(space, 0, sizeof(space));
    msg.msg_control = space;
    msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    cr_assert_eq(sendmsg(fd, &msg, MSG_NOSIGNAL), (ssize_t)n, "%s", strerror(errno));
}

long loop_read(int fd, void *p, size_t cap)
{
    return recv(fd, p, cap, MSG_DONTWAIT);
}

long loop_recv_fd(int fd, void *p, size_t cap, int *out)
{
    char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(16)));
    struct iovec iov = {p, cap};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    msg.msg_control = space;
    msg.msg_controllen = sizeof(space);
    *out = -1;
    ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (c != NULL)
        memcpy(out, CMSG_DATA(c), sizeof(int));
    return n;
}

int loop_memfd(const char *text)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return fd;
}

bool loop_fd_holds(int fd, const char *text)
{
    char buf[256];
    ssize_t n = pread(fd, buf, sizeof(buf), 0);
    return n == (ssize_t)strlen(text) && memcmp(buf, text, (size_t)n) == 0;
}

int loop_open_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    cr_assert_not_null(d);
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    return n - 1; /* the one of the folder itself */
}

bool loop_frame(const uint8_t **p, size_t *n, struct frame *f)
{
    if (*n < FRAME_HEADER)
        return false;
    size_t size = bytes_load32(*p);
    if (*n - FRAME_HEADER < size)
        return false;
    cr_assert_eq(frame_decode(f, bytes_view(*p + FRAME_HEADER, size)), 0);
    *p += FRAME_HEADER + size;
    *n -= FRAME_HEADER + size;
    return true;
}
