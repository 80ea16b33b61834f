/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log: formats a line on the stack, escapes it and hands it to stderr with one write. Owns the
 * process-wide level and sink. It allocates nothing and takes no lock, so it may be called from
 * any thread and when memory is gone. It never fails: a line that cannot be written is lost, and
 * errno is what it was before.
 */
#include "reactor/log.h"

#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/str.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 1024, PREFIX_MAX = 64 };

static struct {
    int level;
    int level_before_debug;
    bool journal;
    const char *program; /* borrow */
    log_sink *sink;      /* borrow */
    void *sink_arg;      /* borrow */
} lg = {LOG_LEVEL_INFO, LOG_LEVEL_INFO, false, NULL, NULL, NULL};

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int journal_priority[] = {3, 4, 6, 7}; /* sd-daemon(3) */

const char *log_level_name(enum log_level level)
{
    return level_names[level & 3];
}

/* True when JOURNAL_STREAM is "device:inode" of our stderr (systemd.exec(5)). */
static bool stderr_is_journal(void)
{
    const char *s = getenv("JOURNAL_STREAM");
    const char *part = NULL;
    uint64_t ids[2] = {0, 0};
    size_t len = 0;
    size_t n = 0;
    struct stat st;
    for (char num[24]; s != NULL && str_next(&s, ':', &part, &len); n++) {
        if (n == 2 || len >= sizeof(num))
            return false;
        memcpy(num, part, len);
        num[len] = '\0';
        if (!str_to_u64(num, &ids[n]))
            return false;
    }
    return n == 2 && fstat(STDERR_FILENO, &st) == 0 && st.st_dev == ids[0] && st.st_ino == ids[1];
}

void log_init(const char *program)
{
    lg.program = program;
    lg.journal = stderr_is_journal();
}

void log_set_level(enum log_level level)
{
    lg.level_before_debug = (int)level;
    __atomic_store_n(&lg.level, (int)level, __ATOMIC_RELAXED);
}

enum log_level log_get_level(void)
{
    return (enum log_level)__atomic_load_n(&lg.level, __ATOMIC_RELAXED);
}

bool log_enabled(enum log_level level)
{
    return level <= log_get_level();
}

bool log_toggle_debug(void)
{
    bool on = log_get_level() != LOG_LEVEL_DEBUG;
    int back = lg.level_before_debug == LOG_LEVEL_DEBUG ? LOG_LEVEL_INFO : lg.level_before_debug;
    __atomic_store_n(&lg.level, on ? (int)LOG_LEVEL_DEBUG : back, __ATOMIC_RELAXED);
    return on;
}

static size_t put_prefix(char *line, enum log_level level)
{
    int n = 0;
    if (lg.journal)
        n = snprintf(line, PREFIX_MAX, "<%d>", journal_priority[level & 3]);
    else if (lg.program != NULL)
        n = snprintf(line, PREFIX_MAX, "%s: %s: ", lg.program, log_level_name(level));
    else
        n = snprintf(line, PREFIX_MAX, "%s: ", log_level_name(level));
    return n < 0 ? 0 : n >= PREFIX_MAX ? PREFIX_MAX - 1 : (size_t)n;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (!log_enabled(level))
        return;
    int saved = errno;
    char raw[LINE_MAX_BYTES];
    char line[LINE_MAX_BYTES + 1];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(raw, sizeof(raw), fmt, ap);
    va_end(ap);
    size_t n = len < 0 ? 0 : (size_t)len < sizeof(raw) ? (size_t)len : sizeof(raw) - 1;
    size_t at = lg.sink != NULL ? 0 : put_prefix(line, level);
    at += str_escape(line + at, LINE_MAX_BYTES - at, raw, n);
    if (lg.sink != NULL) {
        lg.sink(lg.sink_arg, level, line);
    } else {
        line[at] = '\n';
        ssize_t ignored = write(STDERR_FILENO, line, at + 1);
        (void)ignored;
    }
    errno = saved;
}

bool log_rate_pass(struct log_rate *rate, enum log_level level)
{
    if (!log_enabled(level))
        return false;
    uint64_t now = chrono_mono_ns();
    if (rate->passed == 0 || now - rate->window_start >= DEFAULTS_LOG_WINDOW_NS) {
        uint32_t held = rate->held;
        *rate = (struct log_rate){now, 0, 0};
        if (held != 0)
            log_line(level, "%" PRIu32 " lines like the next one were left out", held);
    }
    if (rate->passed >= DEFAULTS_LOG_BURST) {
        rate->held++;
        return false;
    }
    rate->passed++;
    return true;
}

void log_set_sink(log_sink *sink, void *arg)
{
    lg.sink = sink;
    lg.sink_arg = arg;
}
