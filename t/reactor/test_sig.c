/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/sig.h"

#include "reactor/deadline.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct reactor *r;
static char story[64];

static void tell(void *arg)
{
    strncat(story, arg, sizeof(story) - strlen(story) - 1);
}

static void setup(void)
{
    r = reactor_new(NULL);
}

static void teardown(void)
{
    reactor_free(r);
}

TestSuite(sig, .init = setup, .fini = teardown, .timeout = 20);

Test(sig, all_of_ours_come_through_the_loop)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
    static char marks[][2] = {"T", "I", "H", "1", "2"};
    struct sig s[5];
    memset(s, 0, sizeof(s));
    for (int i = 0; i < 5; i++)
        cr_assert_eq(sig_init(&s[i], r, signals[i], tell, marks[i]), 0);
    for (int i = 0; i < 5; i++) {
        kill(getpid(), signals[i]);
        cr_assert_eq(strlen(story), (size_t)i, "nothing runs in signal context");
        reactor_tick(r, REACTOR_FOREVER);
    }
    cr_assert_str_eq(story, "TIH12");
    for (int i = 0; i < 5; i++)
        sig_fini(&s[i]);
}

Test(sig, several_deliveries_make_one_call)
{
    struct sig s = {0};
    sig_init(&s, r, SIGUSR1, tell, "u");
    for (int i = 0; i < 5; i++)
        kill(getpid(), SIGUSR1);
    reactor_settle(r);
    cr_assert_str_eq(story, "u");
    sig_fini(&s);
    sig_fini(&s);
}

Test(sig, signals_come_before_deadlines)
{
    struct sig s = {0};
    struct deadline d;
    sig_init(&s, r, SIGTERM, tell, "s");
    deadline_init(&d, r, "d", tell, "d");
    deadline_arm(&d, 0);
    kill(getpid(), SIGTERM);
    reactor_tick(r, 0);
    cr_assert_str_eq(story, "sd");
    sig_fini(&s);
}

Test(sig, a_dead_child_wakes_the_loop)
{
    struct sig s = {0};
    sig_init(&s, r, SIGCHLD, tell, "c");
    pid_t pid = fork();
    if (pid == 0)
        _exit(3);
    while (story[0] == '\0')
        reactor_tick(r, REACTOR_FOREVER);
    int status = 0;
    cr_assert_eq(waitpid(pid, &status, WNOHANG), pid);
    cr_assert_eq(WEXITSTATUS(status), 3);
    sig_fini(&s);
}

Test(sig, the_disposition_before_comes_back)
{
    struct sig s = {0};
    struct sigaction act;
    signal(SIGUSR2, SIG_IGN);
    sig_init(&s, r, SIGUSR2, tell, "u");
    sig_fini(&s);
    sigaction(SIGUSR2, NULL, &act);
    cr_assert_eq(act.sa_handler, SIG_IGN);
}

Test(sig, refuses_impossible_signals)
{
    struct sig s = {0};
    cr_assert_eq(sig_init(&s, r, 0, tell, ""), -EINVAL);
    cr_assert_eq(sig_init(&s, r, 10000, tell, ""), -EINVAL);
    cr_assert_lt(sig_init(&s, r, SIGKILL, tell, ""), 0);
    sig_fini(&s);
}

Test(sig, ignored_pipe_is_an_error_code)
{
    int fds[2];
    sig_ignore_pipe();
    cr_assert_eq(pipe(fds), 0);
    close(fds[0]);
    cr_assert_eq(write(fds[1], "x", 1), -1);
    cr_assert_eq(errno, EPIPE);
    close(fds[1]);
}
