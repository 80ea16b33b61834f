/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a TraceConfig is refused: one function per check, in one table, in the order of service.md
 * R12. Each writes a line that names the thing, the limit and the remedy; the line goes to the
 * consumer as the error of EnableTracing and no further. Nothing here depends on anything but the
 * config; the checks against other sessions are in svc/session_admit.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "reactor/defaults.h"
#include "svc/rex.h"
#include "svc/tracecfg.h"

#define TRIGGER_MODE_MAX 4 /* V4 */

struct refusal {
    char *why;
    size_t len;
};

static bool refuse(struct refusal *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool refuse(struct refusal *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->why, r->len, fmt, ap);
    va_end(ap);
    return false;
}

/* For "%.*s": a name of at most 64 bytes of a view. */
#define NAME(v) (int)((v).n < 64 ? (v).n : 64), (const char *)((v).n ? (v).p : (const uint8_t *)"")

static uint32_t duration_limit(const struct tracecfg *c)
{
    return c->extra_guardrails ? DEFAULTS_GUARD_DURATION_MS : DEFAULTS_MAX_DURATION_MS;
}

static bool check_duration(const struct tracecfg *c, struct refusal *r) /* V2 */
{
    if (c->duration_ms <= duration_limit(c))
        return true;
    return refuse(r, "duration_ms %u is above the limit of %u ms%s; ask for a shorter trace",
                  c->duration_ms, duration_limit(c),
                  c->extra_guardrails ? " that enable_extra_guardrails sets" : "");
}

static bool uses_triggers(const struct tracecfg *c)
{
    return tracecfg_mode(c) != TRACECFG_NO_TRIGGERS;
}

static bool check_trigger_timeout(const struct tracecfg *c, struct refusal *r) /* V3 */
{
    if (!uses_triggers(c))
        return true;
    if (c->trigger_timeout_ms == 0)
        return refuse(r, "trigger_config needs a trigger_timeout_ms above 0");
    if (c->trigger_timeout_ms > duration_limit(c))
        return refuse(r, "trigger_timeout_ms %u is above the limit of %u ms", c->trigger_timeout_ms,
                      duration_limit(c));
    return true;
}

static bool check_trigger_mode(const struct tracecfg *c, struct refusal *r) /* V4 */
{
    if (c->trigger_mode <= TRIGGER_MODE_MAX)
        return true;
    return refuse(r, "trigger_mode %u is not known to this service; the highest is %d",
                  c->trigger_mode, TRIGGER_MODE_MAX);
}

static bool check_clone_fallback(const struct tracecfg *c, struct refusal *r) /* V5 */
{
    if (!c->clone_snapshot_if_available || c->trigger_mode == TRACECFG_STOP_TRACING)
        return true;
    return refuse(r, "use_clone_snapshot_if_available works with trigger_mode STOP_TRACING only");
}

static bool check_duration_and_triggers(const struct tracecfg *c, struct refusal *r) /* V6 */
{
    if (!uses_triggers(c) || c->duration_ms == 0)
        return true;
    return refuse(r, "duration_ms and triggers exclude each other; use trigger_timeout_ms");
}

static bool check_bugreport_filename(const struct tracecfg *c, struct refusal *r) /* V7 */
{
    for (size_t i = 0; i < c->bugreport_filename.n; i++) {
        uint8_t ch = c->bugreport_filename.p[i], low = ch | 0x20;
        bool ok =
            (low >= 'a' && low <= 'z') || (ch >= '0' && ch <= '9') || (ch && strchr("._-", ch));
        if (!ok)
            return refuse(r,
                          "bugreport_filename may hold letters, digits and '.', '_', '-' only; "
                          "byte %zu is something else",
                          i);
    }
    return true;
}

static bool check_mode_and_file(const struct tracecfg *c, struct refusal *r) /* V8 */
{
    uint32_t mode = tracecfg_mode(c);
    if (!c->write_into_file || (mode != TRACECFG_STOP_TRACING && mode != TRACECFG_CLONE_SNAPSHOT))
        return true;
    return refuse(r,
                  "write_into_file does not go with trigger_mode %s: the data stay in the buffer "
                  "until the trigger comes",
                  mode == TRACECFG_STOP_TRACING ? "STOP_TRACING" : "CLONE_SNAPSHOT");
}

static bool check_trigger_names(const struct tracecfg *c, struct refusal *r) /* V9 */
{
    for (size_t i = 1; i < c->ntriggers; i++) {
        struct bytes_view name = c->triggers[c->trigger_order[i]].name;
        if (bytes_equal(name, c->triggers[c->trigger_order[i - 1]].name))
            return refuse(r, "two triggers are named \"%.*s\"", NAME(name));
    }
    return true;
}

static bool check_guardrails(const struct tracecfg *c, struct refusal *r) /* V10a, V10b, V10c */
{
    if (!c->extra_guardrails)
        return true;
    if (c->deferred_start)
        return refuse(r, "deferred_start is not allowed with enable_extra_guardrails");
    uint64_t sum = 0;
    for (size_t i = 0; i < c->nbuffers; i++) {
        if (c->buffers[i].size_kb % 4)
            return refuse(r,
                          "buffer %zu has %u KB; with enable_extra_guardrails sizes must be "
                          "multiples of 4",
                          i, c->buffers[i].size_kb);
        sum += c->buffers[i].size_kb;
    }
    uint64_t limit = DEFAULTS_GUARD_BUFFERS_KB;
    if (c->guard_buffer_kb > limit)
        limit = c->guard_buffer_kb;
    if (sum > limit)
        return refuse(r, "the buffers have %llu KB in total; enable_extra_guardrails allows %llu",
                      (unsigned long long)sum, (unsigned long long)limit);
    return true;
}

static bool check_buffers(const struct tracecfg *c, struct refusal *r) /* V11, V12 */
{
    if (c->nbuffers > DEFAULTS_MAX_BUFFERS)
        return refuse(r, "%zu buffers; a session may have %u", c->nbuffers, DEFAULTS_MAX_BUFFERS);
    for (size_t i = 0; i < c->nbuffers; i++) {
        for (size_t k = 0; k < i && c->buffers[i].name.n; k++) {
            if (bytes_equal(c->buffers[i].name, c->buffers[k].name))
                return refuse(r, "Duplicate buffer name \"%.*s\"", NAME(c->buffers[i].name));
        }
    }
    return true;
}

static bool check_targets(const struct tracecfg *c, struct refusal *r) /* V13a, V13b, V13c */
{
    for (size_t i = 0; i < c->nsources; i++) {
        const struct tracecfg_source *s = &c->sources[i];
        if (s->buffer_name.n && s->target < 0)
            return refuse(r,
                          "target_buffer_name \"%.*s\" of data source \"%.*s\" does not match any "
                          "buffer",
                          NAME(s->buffer_name), NAME(s->name));
        if (s->buffer_name.n && s->target_buffer > 0 && (int64_t)s->target_buffer != s->target)
            return refuse(r,
                          "target_buffer %u and target_buffer_name \"%.*s\" of data source "
                          "\"%.*s\" don't match",
                          s->target_buffer, NAME(s->buffer_name), NAME(s->name));
        if (s->target < 0)
            return refuse(r,
                          "target_buffer %u of data source \"%.*s\" does not exist; the config has "
                          "%zu buffers",
                          s->target_buffer, NAME(s->name), c->nbuffers);
    }
    return true;
}

static bool check_patterns(const struct tracecfg *c, struct refusal *r) /* R67 */
{
    for (size_t i = 0; i < c->nsources; i++) {
        const struct tracecfg_source *s = &c->sources[i];
        for (size_t k = 0; k < s->producer_regexes.n; k++) {
            if (!s->regexes[k])
                return refuse(
                    r,
                    "producer_name_regex_filter \"%.*s\" of data source \"%.*s\" is not a "
                    "valid pattern, or all patterns are too much together",
                    NAME(s->producer_regexes.v[k]), NAME(s->name));
        }
    }
    for (size_t i = 0; i < c->ntriggers; i++) {
        const struct tracecfg_trigger *t = &c->triggers[i];
        if (t->producer_regex.n && !t->regex)
            return refuse(r,
                          "producer_name_regex \"%.*s\" of trigger \"%.*s\" is not a valid "
                          "pattern, or all patterns are too much together",
                          NAME(t->producer_regex), NAME(t->name));
    }
    return true;
}

bool tracecfg_check(const struct tracecfg *c, char *why, size_t whylen)
{
    static bool (*const checks[])(const struct tracecfg *, struct refusal *) = {
        check_duration,
        check_trigger_timeout,
        check_trigger_mode,
        check_clone_fallback,
        check_duration_and_triggers,
        check_bugreport_filename,
        check_mode_and_file,
        check_trigger_names,
        check_guardrails,
        check_buffers,
        check_targets,
        check_patterns,
    };
    struct refusal r = {why, whylen};
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        if (!checks[i](c, &r))
            return false;
    }
    return true;
}
