/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/log.h"

#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/str.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    int n;
    enum log_level level;
    char text[2048];
} last;

static void keep(void *arg, enum log_level level, const char *text)
{
    (void)arg;
    last.n++;
    last.level = level;
    str_copy(last.text, sizeof(last.text), text);
}

Test(log, one_event_is_one_escaped_line)
{
    log_set_sink(keep, NULL);
    log_warn("producer %s", "evil\n<3>fake: error\x1b[2J");
    cr_assert_eq(last.n, 1);
    cr_assert_eq(last.level, LOG_LEVEL_WARN);
    cr_assert_str_eq(last.text, "producer evil\\n<3>fake: error\\x1b[2J");
}

Test(log, quiet_below_its_level)
{
    int evaluated = 0;
    log_set_sink(keep, NULL);
    log_debug("not %d", ++evaluated);
    cr_assert_eq(last.n, 0);
    cr_assert_eq(evaluated, 0);
    log_set_level(LOG_LEVEL_ERROR);
    log_warn("no");
    log_info("no");
    cr_assert_eq(last.n, 0);
    log_error("yes");
    cr_assert_eq(last.n, 1);
}

Test(log, debug_toggles_back_to_the_level_before)
{
    log_set_level(LOG_LEVEL_WARN);
    cr_assert(log_toggle_debug());
    cr_assert(log_enabled(LOG_LEVEL_DEBUG));
    cr_assert_not(log_toggle_debug());
    cr_assert_eq(log_get_level(), LOG_LEVEL_WARN);
    log_set_level(LOG_LEVEL_DEBUG);
    cr_assert_not(log_toggle_debug());
    cr_assert_eq(log_get_level(), LOG_LEVEL_INFO);
}

Test(log, long_lines_are_cut)
{
    char *text = calloc(1, 5001);
    memset(text, 'x', 5000);
    log_set_sink(keep, NULL);
    log_error("%s", text);
    cr_assert_lt(strlen(last.text), 1024);
    cr_assert_gt(strlen(last.text), 900);
    memset(text, '\x01', 5000);
    log_error("%s", text);
    cr_assert(str_ends(last.text, "..."));
    free(text);
}

static void flood(int n)
{
    for (int i = 0; i < n; i++)
        log_warn_limited("flood %d", i);
}

Test(log, rate_limit_counts_what_it_leaves_out)
{
    chrono_virtual_start(0);
    log_set_sink(keep, NULL);
    flood(1000);
    cr_assert_eq(last.n, DEFAULTS_LOG_BURST);
    chrono_virtual_advance(DEFAULTS_LOG_WINDOW_NS - 1);
    flood(1);
    cr_assert_eq(last.n, DEFAULTS_LOG_BURST);
    chrono_virtual_advance(1);
    struct log_rate rate = {0, DEFAULTS_LOG_BURST, 5};
    last.n = 0;
    cr_assert(log_rate_pass(&rate, LOG_LEVEL_WARN));
    cr_assert_eq(last.n, 1);
    cr_assert_str_eq(last.text, "5 lines like the next one were left out");
    flood(1);
    cr_assert_eq(last.n, 3, "the report and the line itself");
    chrono_virtual_advance(DEFAULTS_LOG_WINDOW_NS);
    flood(1);
    cr_assert_eq(last.n, 4, "nothing left out, nothing reported");
}

/* What stderr got when JOURNAL_STREAM named it, or a neighbour of it on the same device. */
static void through_stderr(char *got, size_t size, bool journal)
{
    char name[] = "/tmp/test_log.XXXXXX";
    char ids[64];
    struct stat st;
    int fd = mkstemp(name);
    unlink(name);
    int saved = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    fstat(fd, &st);
    snprintf(ids, sizeof(ids), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino + (journal ? 0 : 1));
    setenv("JOURNAL_STREAM", ids, 1);
    log_init("traced");
    log_error("disk full");
    log_warn("two");
    log_info("three");
    dup2(saved, STDERR_FILENO);
    ssize_t n = pread(fd, got, size - 1, 0);
    cr_assert_geq(n, 0);
    got[n] = '\0';
    close(fd);
    close(saved);
}

Test(log, a_line_that_is_lost_leaves_errno_alone)
{
    int saved = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    errno = EXDEV;
    log_error("nobody reads this");
    int after = errno;
    dup2(saved, STDERR_FILENO);
    cr_assert_eq(after, EXDEV);
}

Test(log, plain_stderr_gets_name_and_level)
{
    char got[512];
    through_stderr(got, sizeof(got), false);
    cr_assert_str_eq(got, "traced: error: disk full\ntraced: warn: two\ntraced: info: three\n");
}

Test(log, journal_gets_priorities)
{
    /* sd-daemon(3): <3> is an error, <4> a warning, <6> information. */
    char got[512];
    through_stderr(got, sizeof(got), true);
    cr_assert_str_eq(got, "<3>disk full\n<4>two\n<6>three\n");
}
