/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_LOG_H
#define REACTOR_LOG_H

/*
 * One event, one line, on stderr. Quiet when healthy: error and warn are for things a person
 * should act on, info for rare changes of state, debug for everything else (off until switched on,
 * SIGUSR2 in the daemons). A line names the thing, the limit and the remedy. Text is escaped
 * (str_escape), so a peer's name cannot forge a line. When stderr is the journal, lines begin with
 * its priority prefix "<N>" instead of the program's name.
 *
 * Lines leave with one write(2) each and may come from any thread. Lines above 1023 bytes are cut.
 */

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)

/* Arguments are not evaluated while debug is off. */
#define log_debug(...)                                                                             \
    do {                                                                                           \
        if (log_enabled(LOG_LEVEL_DEBUG))                                                          \
            log_line(LOG_LEVEL_DEBUG, __VA_ARGS__);                                                \
    } while (0)

/* For lines that a peer can cause at will: at most DEFAULTS_LOG_BURST per DEFAULTS_LOG_WINDOW_NS
 * and call site; the first line of a later window says how many were left out. */
#define log_warn_limited(...)                                                                      \
    do {                                                                                           \
        static struct log_rate log_rate_;                                                          \
        if (log_rate_pass(&log_rate_, LOG_LEVEL_WARN))                                             \
            log_line(LOG_LEVEL_WARN, __VA_ARGS__);                                                 \
    } while (0)

/* Rate limit state; zero-initialised. Used from one thread, or losing count harmlessly. */
struct log_rate {
    uint64_t window_start; /* monotonic */
    uint32_t passed;       /* lines in this window; 0: never used */
    uint32_t held;         /* lines left out since the last report */
};

/* Sets the program's name (borrowed, usually a literal) and finds out whether stderr is the
 * journal (JOURNAL_STREAM names its device and inode). Optional: without it the name is left
 * out. */
void log_init(const char *program);

/* Lines above this level are dropped. LOG_LEVEL_INFO at start. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
bool log_enabled(enum log_level level);

/* Switches between the level set last and debug; returns true when debug is on now. */
bool log_toggle_debug(void);

/* Writes one line. The level is checked inside. */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* True when a line may pass now. Reports what was held back before it returns true for the first
 * time in a new window. */
bool log_rate_pass(struct log_rate *rate, enum log_level level);

/* For tests: lines go to sink (escaped, without prefix and newline; text is valid during the call)
 * instead of stderr. NULL: back to stderr. */
typedef void log_sink(void *arg, enum log_level level, const char *text);
void log_set_sink(log_sink *sink, void *arg);

/* "error", "warn", "info", "debug". */
const char *log_level_name(enum log_level level);

#endif
