/* SPDX-License-Identifier: Apache-2.0 */
/* Watches, and what we rely on in the kernel's readiness. */
#include "reactor/watch.h"

#include "reactor/deadline.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct reactor *r;
static char story[64];

struct end {
    struct watch w;
    int fd;
    int reads;
    int writes;
    struct end *other;
    void (*then)(struct end *e, unsigned event);
};

static void on_event(void *arg, unsigned event)
{
    struct end *e = arg;
    e->reads += event == WATCH_READ;
    e->writes += event == WATCH_WRITE;
    size_t n = strlen(story);
    if (n + 1 < sizeof(story))
        story[n] = event == WATCH_READ ? 'r' : 'w';
    if (e->then != NULL)
        e->then(e, event);
}

static void pair(struct end *a, struct end *b)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    struct end *ends[] = {a, b};
    for (int i = 0; i < 2; i++) {
        *ends[i] = (struct end){.fd = fds[i], .other = ends[1 - i]};
        watch_init(&ends[i]->w, r, "end", fds[i], on_event, ends[i]);
    }
}

static void end_pair(struct end *a)
{
    watch_fini(&a->w);
    watch_fini(&a->other->w);
    close(a->fd);
    if (a->other->fd >= 0)
        close(a->other->fd);
}

static void say(const struct end *e)
{
    cr_assert_eq(write(e->fd, "x", 1), 1);
}

static void hear(const struct end *e)
{
    char c = 0;
    cr_assert_eq(read(e->fd, &c, 1), 1);
}

static void setup(void)
{
    r = reactor_new(NULL);
}

static void teardown(void)
{
    reactor_free(r);
}

TestSuite(watch, .init = setup, .fini = teardown, .timeout = 20);

Test(watch, fires_in_every_tick_while_ready)
{
    struct end a;
    struct end b;
    pair(&a, &b);
    cr_assert_eq(watch_set(&a.w, WATCH_READ), 0);
    reactor_tick(r, 0);
    cr_assert_eq(a.reads, 0);
    say(&b);
    reactor_tick(r, REACTOR_FOREVER);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.reads, 2, "level-triggered");
    hear(&a);
    reactor_tick(r, 0);
    cr_assert_eq(a.reads, 2);
    cr_assert_eq(watch_events(&a.w), WATCH_READ);
    end_pair(&a);
}

Test(watch, reading_comes_before_writing)
{
    struct end a;
    struct end b;
    pair(&a, &b);
    watch_set(&a.w, WATCH_WRITE);
    watch_set(&a.w, WATCH_READ | WATCH_WRITE);
    say(&b);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_str_eq(story, "rw");
    watch_set(&a.w, WATCH_WRITE);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_str_eq(story, "rww", "one direction paused, the other goes on");
    watch_set(&a.w, 0);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "rww");
    end_pair(&a);
}

static void watch_other(struct end *e, unsigned event)
{
    (void)event;
    watch_set(&e->w, 0);
    cr_assert_eq(watch_set(&e->other->w, WATCH_READ | WATCH_WRITE), 0);
}

Test(watch, added_in_a_tick_fires_in_the_next)
{
    struct end a;
    struct end b;
    pair(&a, &b);
    say(&a);
    say(&b); /* both ends are readable already */
    a.then = watch_other;
    watch_set(&a.w, WATCH_READ);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.reads, 1);
    cr_assert_eq(b.reads + b.writes, 0);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(b.reads, 1);
    cr_assert_eq(b.writes, 1);
    end_pair(&a);
}

static void watch_from_deadline(void *arg)
{
    struct end *e = arg;
    watch_set(&e->w, WATCH_WRITE);
}

Test(watch, added_in_a_later_step_fires_in_the_next_tick)
{
    struct end a;
    struct end b;
    struct deadline d;
    pair(&a, &b);
    deadline_init(&d, r, "add", watch_from_deadline, &a);
    deadline_arm(&d, 0);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.writes, 0);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.writes, 1);
    end_pair(&a);
}

static void end_both(struct end *e, unsigned event)
{
    (void)event;
    watch_fini(&e->w);
    watch_fini(&e->other->w);
    cr_assert(list_empty(&e->other->w.fired), "it could be initialised anew at once");
}

Test(watch, one_callback_may_end_all)
{
    struct end a;
    struct end b;
    pair(&a, &b);
    say(&a);
    say(&b);
    a.then = b.then = end_both;
    watch_set(&a.w, WATCH_READ | WATCH_WRITE);
    watch_set(&b.w, WATCH_READ | WATCH_WRITE);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_str_eq(story, "r", "neither its own second event nor the other watch");
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "r");
    end_pair(&a);
}

static void off_and_on(struct end *e, unsigned event)
{
    (void)event;
    watch_set(&e->w, 0);
    watch_set(&e->w, WATCH_READ | WATCH_WRITE);
}

Test(watch, switched_off_and_on_waits_for_the_next_tick)
{
    struct end a;
    struct end b;
    pair(&a, &b);
    say(&b);
    a.then = off_and_on;
    watch_set(&a.w, WATCH_READ | WATCH_WRITE);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_str_eq(story, "r", "the readiness to write was that of a watch that is gone");
    end_pair(&a);
}

Test(watch, refuses_what_cannot_be_watched)
{
    char name[] = "/tmp/test_watch.XXXXXX";
    int fd = mkstemp(name);
    struct watch w;
    unlink(name);
    watch_init(&w, r, "file", fd, on_event, NULL);
    cr_assert_eq(watch_set(&w, WATCH_READ), -EPERM);
    cr_assert_eq(watch_events(&w), 0);
    close(fd);
    watch_init(&w, r, "closed", fd, on_event, NULL);
    cr_assert_eq(watch_set(&w, WATCH_READ), -EBADF);
    watch_fini(&w);
    watch_fini(&w);
}

Test(watch, kernel_hang_up_makes_both_directions_ready)
{
    struct end a;
    struct end b;
    pair(&a, &b);
    watch_set(&a.w, WATCH_READ);
    say(&b);
    close(b.fd);
    b.fd = -1;
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.reads, 1);
    hear(&a); /* data sent before the hang-up is still there */
    char c = 0;
    cr_assert_eq(read(a.fd, &c, 1), 0);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.reads, 2, "and stays ready at the end of the stream");
    watch_set(&a.w, WATCH_WRITE);
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.writes, 1);
    cr_assert_eq(send(a.fd, "x", 1, MSG_NOSIGNAL), -1);
    cr_assert_eq(errno, EPIPE);
    end_pair(&a);
}

Test(watch, kernel_full_socket_is_not_writable_until_read)
{
    struct end a;
    struct end b;
    char block[4096] = {0};
    pair(&a, &b);
    while (write(a.fd, block, sizeof(block)) > 0)
        ;
    cr_assert_eq(errno, EAGAIN);
    watch_set(&a.w, WATCH_WRITE);
    reactor_tick(r, 0);
    cr_assert_eq(a.writes, 0);
    while (read(b.fd, block, sizeof(block)) > 0)
        ;
    reactor_tick(r, REACTOR_FOREVER);
    cr_assert_eq(a.writes, 1);
    end_pair(&a);
}
