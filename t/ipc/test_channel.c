/* SPDX-License-Identifier: Apache-2.0 */
/* A channel against a peer that speaks in bytes: order, budget, caps, deadlines, descriptors, ends.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/channel.h"
#include "reactor/charge.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "t/ipc/loop.h"

static struct reactor *r;
static struct channel *ch;
static int peer;

/* What the callbacks saw. */
static int frames;
static int closed;
static int drained;
static int reason;
static size_t frame_bytes;
static uint8_t last_byte;
static int closed_at_frames; /* number of frames seen when `closed` ran */
static void (*on_each)(void);

static uint8_t big[1 << 20];

static void on_frame(void *arg, struct channel *c, struct bytes_view payload)
{
    cr_assert_eq(arg, &frames);
    cr_assert_eq(c, ch);
    frames++;
    frame_bytes += payload.n;
    last_byte = payload.p[payload.n - 1];
    if (on_each != NULL)
        on_each();
}

static void on_closed(void *arg, struct channel *c, int why)
{
    (void)arg;
    (void)c;
    closed++;
    reason = why;
    closed_at_frames = frames;
}

static void on_drained(void *arg, struct channel *c)
{
    (void)arg;
    (void)c;
    drained++;
}

static const struct channel_ops ops = {
    .frame = on_frame,
    .closed = on_closed,
    .drained = on_drained,
};

static void open_with(struct channel_conf conf)
{
    int fds[2];
    loop_pair(fds);
    peer = fds[1];
    cr_assert_eq(channel_new(&ch, r, fds[0], &conf, &ops, &frames), 0);
}

static void setup(void)
{
    chrono_virtual_start(1000 * CHRONO_SEC);
    r = reactor_new(NULL);
    peer = -1;
}

static void teardown(void)
{
    if (closed == 0)
        channel_close(ch);
    reactor_settle(r);
    reactor_free(r);
    loop_no_leaks();
    if (peer >= 0)
        close(peer);
    chrono_virtual_stop();
}

TestSuite(channel, .init = setup, .fini = teardown);

static const struct channel_conf plain = {.want_fds = true};

static size_t make(uint8_t *out, size_t n, uint8_t fill)
{
    bytes_store32(out, (uint32_t)n);
    memset(out + 4, fill, n);
    return 4 + n;
}

static size_t read_all(void)
{
    size_t total = 0;
    long n;
    while ((n = loop_read(peer, big, sizeof(big))) > 0)
        total += (size_t)n;
    return total;
}

/* ---- input ---- */

/* R26. */
Test(channel, frames_in_order)
{
    open_with(plain);
    size_t n = 0;
    for (uint8_t i = 1; i <= 10; i++)
        n += make(big + n, i, i);
    loop_write(peer, big, n);
    loop_ticks(r, 2);
    cr_assert_eq(frames, 10);
    cr_assert_eq(last_byte, 10);
    cr_assert_eq(frame_bytes, 55u);
}

/* R28. */
Test(channel, byte_at_a_time)
{
    open_with(plain);
    size_t n = make(big, 200, 9);
    for (size_t i = 0; i < n; i++) {
        cr_assert_eq(frames, 0);
        loop_write(peer, big + i, 1);
        loop_ticks(r, 1);
    }
    cr_assert_eq(frames, 1);
}

/* R30: the connection ends at the header, without waiting for the rest; what came before counts. */
Test(channel, oversize_header_ends_it)
{
    open_with(plain);
    size_t n = make(big, 8, 1);
    bytes_store32(big + n, FRAME_PAYLOAD_MAX + 1);
    loop_write(peer, big, n + 4);
    loop_ticks(r, 2);
    cr_assert_eq(frames, 1);
    cr_assert_eq(closed, 1);
    cr_assert_eq(reason, ERR_FRAME_SIZE);
    cr_assert_eq(loop_read(peer, big, 1), 0, "the peer sees the end");
}

Test(channel, largest_frame_passes)
{
    open_with(plain);
    size_t n = make(big, FRAME_PAYLOAD_MAX, 1);
    for (size_t at = 0; at < n;) {
        long rc = send(peer, big + at, n - at, MSG_NOSIGNAL);
        if (rc > 0)
            at += (size_t)rc;
        loop_ticks(r, 1);
    }
    loop_ticks(r, 4);
    cr_assert_eq(frames, 1);
    cr_assert_eq(frame_bytes, FRAME_PAYLOAD_MAX);
    cr_assert_eq(closed, 0);
}

/* One flooding peer gets its budget in a tick, not more. */
Test(channel, read_budget)
{
    open_with((struct channel_conf){.read_budget = 1000});
    size_t n = 0;
    while (n < 20000)
        n += make(big + n, 16, 1);
    loop_write(peer, big, n);
    loop_ticks(r, 1);
    cr_assert_gt(frames, 0);
    cr_assert_leq(frames, 50);
    loop_ticks(r, 25);
    cr_assert_eq(frames, (int)(n / 20));
}

/* R110. */
Test(channel, complete_frames_come_before_the_end)
{
    open_with(plain);
    size_t n = make(big, 10, 1);
    n += make(big + n, 10, 2);
    loop_write(peer, big, n + 3); /* and a piece of a third */
    close(peer);
    peer = -1;
    loop_ticks(r, 3);
    cr_assert_eq(closed, 1);
    cr_assert_eq(reason, ERR_HANGUP);
    cr_assert_eq(closed_at_frames, 2);
}

/* R24: the peer wrote, then left without reading: our write fails first (and no signal kills us),
 * its frames count all the same.
 */
Test(channel, frames_behind_a_failed_write_are_delivered)
{
    open_with(plain);
    size_t n = make(big, 10, 1);
    loop_write(peer, big, n);
    close(peer);
    peer = -1;
    cr_assert_eq(channel_sendv(ch, &(struct iovec){big, n}, 1, -1), ERR_HANGUP);
    cr_assert_eq(closed, 0, "never from inside a send");
    cr_assert_eq(channel_send(ch, bytes_view(big, n), -1), ERR_HANGUP);
    cr_assert_not(channel_is_open(ch));
    loop_ticks(r, 3);
    cr_assert_eq(closed, 1);
    cr_assert_eq(closed_at_frames, 1);
}

static void close_it(void)
{
    channel_close(ch);
}

Test(channel, closing_in_a_frame_callback_stops_everything)
{
    open_with(plain);
    size_t n = 0;
    for (int i = 0; i < 5; i++)
        n += make(big + n, 10, 1);
    on_each = close_it;
    loop_write(peer, big, n);
    loop_ticks(r, 3);
    cr_assert_eq(frames, 1);
    cr_assert_eq(closed, 0, "our own close calls nobody");
    closed = 1; /* for the teardown */
    cr_assert_leq(loop_read(peer, big, 10), 0);
}

static void pause_it(void)
{
    channel_pause(ch);
}

Test(channel, pause_holds_back_frames_already_read)
{
    open_with(plain);
    size_t n = 0;
    for (int i = 0; i < 3; i++)
        n += make(big + n, 10, 1);
    on_each = pause_it;
    loop_write(peer, big, n);
    loop_ticks(r, 3);
    cr_assert_eq(frames, 1);
    close(peer); /* not noticed while paused */
    peer = -1;
    loop_ticks(r, 3);
    cr_assert_eq(closed, 0);
    channel_resume(ch);
    loop_ticks(r, 3);
    cr_assert_eq(frames, 2);
    on_each = NULL;
    channel_resume(ch);
    loop_ticks(r, 3);
    cr_assert_eq(frames, 3);
    cr_assert_eq(closed, 1);
}

/* Nothing more comes on the socket; what was read before the pause is delivered all the same. */
Test(channel, resume_delivers_what_was_read)
{
    open_with(plain);
    size_t n = 0;
    for (int i = 0; i < 3; i++)
        n += make(big + n, 10, 1);
    on_each = pause_it;
    loop_write(peer, big, n);
    loop_ticks(r, 3);
    cr_assert_eq(frames, 1);
    on_each = NULL;
    channel_resume(ch);
    cr_assert_eq(frames, 1, "from the loop");
    loop_ticks(r, 2);
    cr_assert_eq(frames, 3);
}

/* More than one tick's budget of frames lies behind the failed write. */
Test(channel, many_frames_behind_a_failed_write_are_delivered)
{
    open_with((struct channel_conf){.read_budget = 1000});
    size_t n = 0;
    while (n < 50000)
        n += make(big + n, 96, 1);
    loop_write(peer, big, n);
    close(peer);
    peer = -1;
    cr_assert_eq(channel_sendv(ch, &(struct iovec){big, 100}, 1, -1), ERR_HANGUP);
    loop_ticks(r, 60);
    cr_assert_eq(closed, 1);
    cr_assert_eq(closed_at_frames, (int)(n / 100));
}

/* A peer that is being dropped and floods is read up to a bound, not for ever. */
Test(channel, dropped_flooder_is_not_read_for_ever)
{
    open_with((struct channel_conf){.out_cap = 100000});
    struct iovec iov = {big, 10000};
    size_t n = 0;
    while (n < 50000)
        n += make(big + n, 96, 1);
    while (channel_sendv(ch, &iov, 1, -1) == 0)
        ;
    int sent = 0;
    for (int i = 0; i < 10000 && closed == 0; i++) {
        sent += send(peer, big, n, MSG_NOSIGNAL) == (ssize_t)n;
        loop_ticks(r, 1);
    }
    cr_assert_eq(closed, 1);
    cr_assert_eq(reason, ERR_STALLED);
    cr_assert_leq(sent, (int)(DEFAULTS_IPC_LAST_READ / 50000u + 10));
}

/* ---- output ---- */

Test(channel, small_frames_leave_together_at_the_write_step)
{
    open_with(plain);
    size_t n = make(big, 10, 1);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(channel_send(ch, bytes_view(big, n), -1), 0);
    cr_assert_eq(channel_waiting(ch), 4 * n);
    cr_assert_eq(loop_read(peer, big, sizeof(big)), -1, "nothing before the step");
    loop_ticks(r, 1);
    cr_assert_eq(loop_read(peer, big, sizeof(big)), (long)(4 * n), "one write for all");
    cr_assert_eq(channel_waiting(ch), 0u);
}

Test(channel, gathered_frame_goes_at_once_and_in_order)
{
    uint8_t head[4];
    uint8_t got[64];
    open_with(plain);
    cr_assert_eq(channel_send(ch, bytes_view("\2\0\0\0ab", 6), -1), 0);
    bytes_store32(head, 5);
    struct iovec iov[3] = {{head, 4}, {(void *)"cde", 3}, {(void *)"fg", 2}};
    cr_assert_eq(channel_sendv(ch, iov, 3, -1), 0);
    cr_assert_eq(channel_waiting(ch), 0u, "the queued frame went before it");
    cr_assert_eq(loop_read(peer, got, sizeof(got)), 15);
    cr_assert_arr_eq(got, "\2\0\0\0ab\5\0\0\0cdefg", 15);
}

Test(channel, room_and_used)
{
    open_with(plain);
    for (int i = 0; i < 1000; i++) {
        uint8_t *p = channel_room(ch, 1000);
        cr_assert_not_null(p);
        make(p, 46, (uint8_t)i);
        cr_assert_eq(channel_used(ch, 50, -1), 0);
    }
    loop_ticks(r, 1);
    cr_assert_eq(read_all(), 50000u);
}

/* Fills the kernel's buffer until something waits. */
static void stuff(size_t waiting)
{
    while (channel_waiting(ch) < waiting) {
        struct iovec iov = {big, 10000};
        cr_assert_eq(channel_sendv(ch, &iov, 1, -1), 0);
    }
}

Test(channel, what_the_kernel_does_not_take_waits_and_leaves_in_order)
{
    open_with((struct channel_conf){.out_cap = 4 << 20});
    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = (uint8_t)(i * 7 + i / 251);
    uint8_t *sent = malloc(sizeof(big));
    memcpy(sent, big, sizeof(big));
    for (size_t at = 0; at < sizeof(big); at += 1 << 16) {
        struct iovec iov[2] = {{sent + at, 1000}, {sent + at + 1000, (1 << 16) - 1000}};
        cr_assert_eq(channel_sendv(ch, iov, 2, -1), 0);
    }
    cr_assert_gt(channel_waiting(ch), 0u);
    size_t at = 0;
    for (int i = 0; i < 1000 && at < sizeof(big); i++) {
        uint8_t buf[9000];
        long n = loop_read(peer, buf, sizeof(buf));
        if (n > 0) {
            cr_assert_arr_eq(buf, sent + at, (size_t)n);
            at += (size_t)n;
        }
        loop_ticks(r, 1);
    }
    cr_assert_eq(at, sizeof(big));
    free(sent);
}

/* A slow reader: memory stays under the cap plus one frame, then the peer goes (R21). */
Test(channel, cap_drops_the_peer)
{
    open_with((struct channel_conf){.out_cap = 100000});
    struct iovec iov = {big, 10000};
    int rc = 0;
    size_t most = 0;
    for (int i = 0; i < 1000 && rc == 0; i++) {
        rc = channel_sendv(ch, &iov, 1, -1);
        most = channel_waiting(ch) > most ? channel_waiting(ch) : most;
    }
    cr_assert_eq(rc, ERR_STALLED);
    cr_assert_leq(most, 110000u);
    cr_assert_eq(channel_waiting(ch), 0u, "the memory is free at once");
    loop_ticks(r, 2);
    cr_assert_eq(closed, 1);
    cr_assert_eq(reason, ERR_STALLED);
}

/* service.md R49, with the time that producers get. */
Test(channel, service_R49_deadline_drops_the_peer)
{
    open_with((struct channel_conf){.stuck_ns = 10 * CHRONO_MS});
    stuff(1);
    loop_ticks(r, 2);
    reactor_advance(r, 9 * CHRONO_MS);
    cr_assert_eq(closed, 0);
    reactor_advance(r, 2 * CHRONO_MS);
    cr_assert_eq(closed, 1);
    cr_assert_eq(reason, ERR_STALLED);
}

/* R22: drinking in sips does not buy time for what waited at the start. */
Test(channel, trickle_does_not_extend_the_deadline)
{
    open_with((struct channel_conf){.stuck_ns = 10 * CHRONO_MS, .out_cap = 4 << 20});
    stuff(900000);
    loop_ticks(r, 2);
    for (int i = 0; i < 22 && closed == 0; i++) { /* at most two deadlines */
        uint8_t sip[20000];                       /* far from enough for all of it */
        loop_read(peer, sip, sizeof(sip));
        reactor_advance(r, CHRONO_MS);
    }
    cr_assert_eq(closed, 1);
}

/* A reader that keeps up with each deadline's bytes lives on, though the queue is never empty. */
Test(channel, steady_reader_survives)
{
    open_with((struct channel_conf){.stuck_ns = 10 * CHRONO_MS, .out_cap = 4 << 20});
    for (int i = 0; i < 100; i++) {
        stuff(50000);
        for (int k = 0; k < 30; k++) {
            loop_read(peer, big + 20000, 20000);
            loop_ticks(r, 1);
        }
        reactor_advance(r, 5 * CHRONO_MS);
        cr_assert_eq(closed, 0);
    }
}

Test(channel, marks)
{
    open_with((struct channel_conf){.out_cap = 400000, .out_high = 100000, .out_low = 10000});
    stuff(1);
    cr_assert_not(channel_is_full(ch));
    stuff(100000);
    cr_assert(channel_is_full(ch));
    loop_ticks(r, 2);
    cr_assert_eq(drained, 0);
    for (int i = 0; i < 100 && drained == 0; i++) {
        loop_read(peer, big, 50000);
        loop_ticks(r, 1);
    }
    cr_assert_eq(drained, 1);
    cr_assert_not(channel_is_full(ch));
    cr_assert_leq(channel_waiting(ch), 10000u);
    read_all();
    loop_ticks(r, 5);
    cr_assert_eq(drained, 1, "once");
}

/* Buffers of a burst are given back. */
Test(channel, idle_memory_is_returned)
{
    open_with((struct channel_conf){.out_cap = 4 << 20});
    stuff(500000);
    size_t n = make(big, 60000, 1);
    loop_write(peer, big, n);
    while (channel_waiting(ch) != 0) {
        read_all();
        loop_ticks(r, 1);
    }
    cr_assert_eq(frames, 1);
    /* Two looks: the first sees traffic, the second none. */
    reactor_advance(r, 25 * CHRONO_SEC);
    cr_assert_eq(closed, 0);
    n = make(big, 60000, 1);
    loop_write(peer, big, n);
    loop_ticks(r, 4);
    cr_assert_eq(frames, 2, "and the channel still works");
    read_all();
    channel_send(ch, bytes_view(big, 100), -1);
    loop_ticks(r, 1);
    cr_assert_eq(read_all(), 100u);
}

/* ---- descriptors ---- */

/* R63, R64. */
Test(channel, descriptor_arrives_in_the_slot)
{
    open_with(plain);
    int fd = loop_memfd("hello");
    size_t n = make(big, 10, 1);
    loop_send_fds(peer, big, n, &fd, 1);
    loop_ticks(r, 2);
    int got = channel_take_fd(ch);
    cr_assert_geq(got, 0);
    cr_assert(loop_fd_holds(got, "hello"));
    cr_assert(fcntl(got, F_GETFD) & FD_CLOEXEC, "R67");
    cr_assert_eq(channel_take_fd(ch), -1, "taken");
    close(got);
    close(fd);
}

/* R64: a second one replaces the first, which is closed; one that nobody takes does not leak. */
Test(channel, slot_holds_one)
{
    int before = loop_open_fds();
    open_with(plain);
    int a = loop_memfd("a");
    int b = loop_memfd("b");
    size_t n = make(big, 10, 1);
    loop_send_fds(peer, big, n, &a, 1);
    loop_send_fds(peer, big, n, &b, 1);
    loop_ticks(r, 4);
    cr_assert_eq(frames, 2);
    cr_assert_eq(loop_open_fds(), before + 5, "two of the pair, two of ours, one in the slot");
    int got = channel_take_fd(ch);
    cr_assert(loop_fd_holds(got, "b"));
    close(got);
    loop_send_fds(peer, big, n, &a, 1);
    loop_ticks(r, 4);
    channel_close(ch);
    closed = 1;
    close(a);
    close(b);
    cr_assert_eq(loop_open_fds(), before + 1, "only the peer's end is left");
}

/* R66: two in one message keep the first; three end the connection and none leaks. */
Test(channel, two_descriptors_keep_the_first)
{
    open_with(plain);
    int fds[2] = {loop_memfd("first"), loop_memfd("second")};
    int before = loop_open_fds();
    size_t n = make(big, 10, 1);
    loop_send_fds(peer, big, n, fds, 2);
    loop_ticks(r, 2);
    cr_assert_eq(frames, 1);
    cr_assert_eq(loop_open_fds(), before + 1);
    int got = channel_take_fd(ch);
    cr_assert(loop_fd_holds(got, "first"));
    close(got);
}

Test(channel, three_descriptors_end_it_and_none_leaks)
{
    open_with(plain);
    int fds[3] = {loop_memfd("1"), loop_memfd("2"), loop_memfd("3")};
    int before = loop_open_fds();
    size_t n = make(big, 10, 1);
    loop_send_fds(peer, big, n, fds, 3);
    loop_ticks(r, 3);
    cr_assert_eq(closed, 1);
    cr_assert_eq(reason, ERR_BAD_FD);
    cr_assert_eq(frames, 0);
    cr_assert_eq(loop_open_fds(), before - 1, "minus the channel's own");
}

/* R63: it leaves with the first byte of its own frame, however the frames queue up before it. */
Test(channel, descriptor_leaves_with_its_own_frame)
{
    uint8_t got[256];
    int fd;
    open_with(plain);
    int a = loop_memfd("a");
    int b = loop_memfd("b");
    channel_send(ch, bytes_view("11111", 5), -1);
    channel_send(ch, bytes_view("22222", 5), a);
    channel_send(ch, bytes_view("33333", 5), b);
    channel_send(ch, bytes_view("44444", 5), -1);
    close(a); /* borrowed: ours may go at once */
    close(b);
    loop_ticks(r, 1);
    cr_assert_eq(loop_recv_fd(peer, got, 5, &fd), 5);
    cr_assert_eq(fd, -1);
    cr_assert_eq(loop_recv_fd(peer, got, 5, &fd), 5);
    cr_assert(loop_fd_holds(fd, "a"));
    cr_assert_eq(got[0], '2');
    close(fd);
    cr_assert_eq(loop_recv_fd(peer, got, 10, &fd), 10);
    cr_assert(loop_fd_holds(fd, "b"));
    cr_assert_eq(got[0], '3');
    close(fd);
}

Test(channel, descriptor_waits_in_a_full_queue)
{
    int fd;
    open_with((struct channel_conf){.want_fds = true, .out_cap = 4 << 20});
    stuff(1);
    int before = loop_open_fds();
    int a = loop_memfd("late");
    size_t ahead = channel_waiting(ch);
    (void)ahead;
    struct iovec iov = {(void *)"XYZ", 3};
    cr_assert_eq(channel_sendv(ch, &iov, 1, a), 0);
    close(a);
    cr_assert_eq(loop_open_fds(), before + 1, "a duplicate waits");
    fd = -1;
    uint8_t got[1000];
    for (int i = 0; i < 100000 && fd < 0; i++) {
        long n = loop_recv_fd(peer, got, sizeof(got), &fd);
        if (n < 0)
            loop_ticks(r, 1);
    }
    cr_assert(loop_fd_holds(fd, "late"));
    cr_assert_eq(got[0], 'X');
    close(fd);
    cr_assert_eq(loop_open_fds(), before, "and it is closed after");
}

/* A duplicate that never left is closed with the channel. */
Test(channel, waiting_descriptor_does_not_leak)
{
    open_with((struct channel_conf){.want_fds = true, .out_cap = 4 << 20});
    stuff(1);
    int a = loop_memfd("x");
    int before = loop_open_fds();
    channel_send(ch, bytes_view("XYZ", 3), a);
    cr_assert_eq(loop_open_fds(), before + 1);
    channel_close(ch);
    closed = 1;
    cr_assert_eq(loop_open_fds(), before - 1);
    close(a);
}

/* R69: where descriptors cannot travel they are left out, and the frame goes. */
Test(channel, descriptor_is_left_out_without_want_fds)
{
    uint8_t got[8];
    int fd;
    open_with((struct channel_conf){.want_fds = false});
    int a = loop_memfd("x");
    cr_assert_eq(channel_send(ch, bytes_view("abc", 3), a), 0);
    loop_ticks(r, 1);
    cr_assert_eq(loop_recv_fd(peer, got, 8, &fd), 3);
    cr_assert_eq(fd, -1);
    close(a);
}

/* ---- ends ---- */

Test(channel, everything_is_harmless_after_the_end)
{
    open_with(plain);
    close(peer);
    peer = -1;
    loop_ticks(r, 1);
    cr_assert_eq(closed, 1);
    /* The memory is still there within the tick only; a second channel shows the same for close. */
    closed = 0;
    open_with(plain);
    channel_close(ch);
    channel_close(ch);
    channel_pause(ch);
    channel_resume(ch);
    channel_flush(ch);
    cr_assert_eq(channel_send(ch, bytes_view("a", 1), -1), ERR_HANGUP);
    cr_assert_eq(channel_sendv(ch, &(struct iovec){big, 1}, 1, -1), ERR_HANGUP);
    cr_assert_null(channel_room(ch, 10));
    cr_assert_eq(channel_fd(ch), -1);
    cr_assert_eq(channel_take_fd(ch), -1);
    loop_ticks(r, 2);
    cr_assert_eq(closed, 0);
    closed = 1;
}

Test(channel, close_sends_what_fits)
{
    open_with(plain);
    channel_send(ch, bytes_view("bye", 3), -1);
    channel_close(ch);
    closed = 1;
    cr_assert_eq(loop_read(peer, big, 10), 3);
    cr_assert_eq(loop_read(peer, big, 10), 0);
}

/* ---- who pays for the queues ---- */

static struct charge_book *book;
static struct charge held;

static void open_charged(uint64_t limit)
{
    struct charge_limit limits[CHARGE_KINDS];
    charge_default_limits(limits);
    limits[CHARGE_QUEUE_BYTES].per_uid = limit;
    book = charge_book_new(limits);
    cr_assert_eq(charge_take(book, &held, 7, CHARGE_QUEUE_BYTES, 0), 0);
    open_with((struct channel_conf){.held = &held, .out_cap = 64u << 20, .stuck_ns = UINT64_MAX});
}

static void close_book(void)
{
    cr_expect_eq(charge_total(book, CHARGE_QUEUE_BYTES), 0);
    charge_release(&held);
    charge_book_free(book);
}

/* Queues had a cap for each connection and no account: the product of many was for nobody. */
Test(channel, output_that_waits_is_charged)
{
    open_charged(1u << 20);
    int rc = 0;
    unsigned sent = 0;
    for (; rc == 0 && sent < 1000; sent++) {
        rc = channel_send(ch, bytes_view(big, 65536), -1);
        cr_assert_leq(charge_balance(book, 7, CHARGE_QUEUE_BYTES), 1u << 20);
    }
    cr_expect_eq(rc, ERR_BACKLOG, "nobody reads: %s", err_name(rc));
    cr_expect_lt(sent, 32);
    reactor_settle(r);
    cr_expect_eq(closed, 1);
    cr_expect_eq(reason, ERR_BACKLOG);
    close_book();
}

Test(channel, input_that_waits_is_charged)
{
    open_charged(1000);
    bytes_store32(big, 100000); /* the head of a frame that is too large for the account */
    cr_assert_eq(write(peer, big, 60000), 60000);
    reactor_settle(r);
    cr_expect_eq(frames, 0);
    cr_expect_eq(closed, 1);
    cr_expect_eq(reason, ERR_BACKLOG);
    close_book();
}

Test(channel, small_queues_are_free)
{
    open_charged(0);
    size_t n = make(big, 4000, 1);
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(write(peer, big, n), (ssize_t)n);
        cr_assert_eq(channel_send(ch, bytes_view(big, n), -1), 0);
        reactor_settle(r);
        read_all();
    }
    cr_expect_eq(frames, 20);
    cr_expect_eq(closed, 0);
    channel_close(ch);
    closed = 1; /* teardown need not */
    close_book();
}

Test(channel, charges_go_with_the_memory)
{
    open_charged(1u << 20);
    cr_assert_eq(channel_send(ch, bytes_view(big, 400000), -1), 0);
    reactor_settle(r);
    cr_expect_gt(charge_balance(book, 7, CHARGE_QUEUE_BYTES), 0);
    for (int i = 0; i < 100; i++) {
        read_all();
        reactor_settle(r);
    }
    reactor_advance(r, 30 * CHRONO_SEC);
    cr_expect_eq(charge_balance(book, 7, CHARGE_QUEUE_BYTES), 0, "idle memory is given back");
    channel_close(ch);
    closed = 1;
    close_book();
}
