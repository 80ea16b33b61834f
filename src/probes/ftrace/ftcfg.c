/* SPDX-License-Identifier: Apache-2.0 */
/* ftcfg: turns the encoded FtraceConfig into a plain struct.
 *
 * The bytes come from whoever started the session and live only during setup, so every string is
 * copied. Names that later become part of a path below tracefs are checked here, once (R28):
 * nothing that leaves its directory gets past this file. Unknown fields and enum values are
 * skipped. */
#include "probes/ftrace/ftcfg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/config/ftrace/ftrace_config.upb.h"
#include "reactor/alloc.h"

typedef perfetto_protos_FtraceConfig msg_ftrace;

static char *dup_view(upb_StringView v)
{
    return alloc_strndup(v.data, v.size);
}

static void take_strs(const msg_ftrace *m, struct ftcfg_strs *out,
                      upb_StringView const *(*get)(const msg_ftrace *, size_t *))
{
    upb_StringView const *v = get(m, &out->n);
    out->v = alloc_array(out->n, sizeof *out->v);
    for (size_t i = 0; i < out->n; i++)
        out->v[i] = dup_view(v[i]);
}

static void free_strs(struct ftcfg_strs *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->v[i]);
    free(s->v);
}

static void take_print_filter(const msg_ftrace *m, struct ftcfg *c)
{
    const perfetto_protos_FtraceConfig_PrintFilter *pf =
        perfetto_protos_FtraceConfig_print_filter(m);
    size_t n = 0;
    c->has_print_filter = pf != NULL;
    if (!pf)
        return;
    const perfetto_protos_FtraceConfig_PrintFilter_Rule *const *rules =
        perfetto_protos_FtraceConfig_PrintFilter_rules(pf, &n);
    for (size_t i = 0; i < n; i++) {
        bool allow = perfetto_protos_FtraceConfig_PrintFilter_Rule_allow(rules[i]);
        if (perfetto_protos_FtraceConfig_PrintFilter_Rule_has_atrace_msg(rules[i])) {
            const perfetto_protos_FtraceConfig_PrintFilter_Rule_AtraceMessage *a =
                perfetto_protos_FtraceConfig_PrintFilter_Rule_atrace_msg(rules[i]);
            upb_StringView t = perfetto_protos_FtraceConfig_PrintFilter_Rule_AtraceMessage_type(a);
            upb_StringView p =
                perfetto_protos_FtraceConfig_PrintFilter_Rule_AtraceMessage_prefix(a);
            struct ptext type = ptext_of(t.data, t.size);
            printflt_add(&c->print_filter, ptext_of(p.data, p.size), &type, allow);
        } else {
            upb_StringView p = perfetto_protos_FtraceConfig_PrintFilter_Rule_prefix(rules[i]);
            printflt_add(&c->print_filter, ptext_of(p.data, p.size), NULL, allow);
        }
    }
}

static void take_lists(const msg_ftrace *m, struct ftcfg *c)
{
    const perfetto_protos_FtraceConfig_KprobeEvent *const *kp =
        perfetto_protos_FtraceConfig_kprobe_events(m, &c->n_kprobes);
    c->kprobes = alloc_array(c->n_kprobes, sizeof *c->kprobes);
    for (size_t i = 0; i < c->n_kprobes; i++) {
        int32_t type = perfetto_protos_FtraceConfig_KprobeEvent_type(kp[i]);
        c->kprobes[i].function = dup_view(perfetto_protos_FtraceConfig_KprobeEvent_probe(kp[i]));
        c->kprobes[i].type =
            type >= 0 && type <= FTCFG_PROBE_BOTH ? (enum ftcfg_probe)type : FTCFG_PROBE_UNKNOWN;
    }
    const uint32_t *tids = perfetto_protos_FtraceConfig_tids_to_trace(m, &c->n_tids);
    c->tids = alloc_array(c->n_tids, sizeof *c->tids);
    if (c->n_tids)
        memcpy(c->tids, tids, c->n_tids * sizeof *tids);
    const perfetto_protos_FtraceConfig_TracefsOption *const *opt =
        perfetto_protos_FtraceConfig_tracefs_options(m, &c->n_options);
    c->options = alloc_array(c->n_options, sizeof *c->options);
    for (size_t i = 0; i < c->n_options; i++) {
        c->options[i].name = dup_view(perfetto_protos_FtraceConfig_TracefsOption_name(opt[i]));
        c->options[i].state = perfetto_protos_FtraceConfig_TracefsOption_state(opt[i]);
    }
}

static void take_scalars(const msg_ftrace *m, struct ftcfg *c)
{
    const perfetto_protos_FtraceConfig_CompactSchedConfig *cs =
        perfetto_protos_FtraceConfig_compact_sched(m);
    c->compact_off = cs && perfetto_protos_FtraceConfig_CompactSchedConfig_has_enabled(cs) &&
                     !perfetto_protos_FtraceConfig_CompactSchedConfig_enabled(cs);
    c->buffer_size_kb = perfetto_protos_FtraceConfig_buffer_size_kb(m);
    c->buffer_lower_bound = perfetto_protos_FtraceConfig_buffer_size_lower_bound(m);
    c->drain_period_ms = perfetto_protos_FtraceConfig_drain_period_ms(m);
    c->drain_buffer_percent = perfetto_protos_FtraceConfig_drain_buffer_percent(m);
    c->graph_max_depth = perfetto_protos_FtraceConfig_function_graph_max_depth(m);
    c->symbolize = perfetto_protos_FtraceConfig_symbolize_ksyms(m);
    c->ksyms_retain = perfetto_protos_FtraceConfig_ksyms_mem_policy(m) == 2;
    c->throttle_rss = perfetto_protos_FtraceConfig_throttle_rss_stat(m);
    c->no_generic = perfetto_protos_FtraceConfig_disable_generic_events(m);
    c->legacy_generic = perfetto_protos_FtraceConfig_has_denser_generic_event_encoding(m) &&
                        !perfetto_protos_FtraceConfig_denser_generic_event_encoding(m);
    c->function_graph = perfetto_protos_FtraceConfig_enable_function_graph(m);
    c->preserve_buffer = perfetto_protos_FtraceConfig_preserve_ftrace_buffer(m);
    c->mono_raw = perfetto_protos_FtraceConfig_use_monotonic_raw_clock(m);
    c->userspace_only = perfetto_protos_FtraceConfig_atrace_userspace_only(m);
    upb_StringView name = perfetto_protos_FtraceConfig_instance_name(m);
    if (name.size)
        c->instance = dup_view(name);
    if (perfetto_protos_FtraceConfig_has_tracing_cpumask(m))
        c->cpumask = dup_view(perfetto_protos_FtraceConfig_tracing_cpumask(m));
}

static bool printable(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e)
            return false;
    return true;
}

bool ftcfg_event_ok(const char *s)
{
    size_t n = strlen(s);
    const char *slash = strchr(s, '/'), *star = strchr(s, '*');
    if (n == 0)
        return true;
    if (!printable(s) || (slash && (slash == s || slash[1] == '\0' || strchr(slash + 1, '/'))))
        return false;
    /* A name of dots alone would be a step in a path. */
    if (strncmp(s, "..", 2) == 0 || strncmp(s, "./", 2) == 0 || (slash && slash[1] == '.'))
        return false;
    return !star || star[1] == '\0';
}

/* A copy that lost bytes behind an embedded NUL is no string that we can check. */
static bool whole(const msg_ftrace *m, const struct ftcfg_strs *s,
                  upb_StringView const *(*get)(const msg_ftrace *, size_t *))
{
    size_t n;
    upb_StringView const *v = get(m, &n);
    for (size_t i = 0; i < n; i++)
        if (strlen(s->v[i]) != v[i].size)
            return false;
    return true;
}

static int check(const msg_ftrace *m, const struct ftcfg *c, char *why, size_t n)
{
    if (!whole(m, &c->events, perfetto_protos_FtraceConfig_ftrace_events) ||
        !whole(m, &c->categories, perfetto_protos_FtraceConfig_atrace_categories) ||
        !whole(m, &c->apps, perfetto_protos_FtraceConfig_atrace_apps)) {
        snprintf(why, n, "a name in ftrace_config contains a NUL byte");
        return -EINVAL;
    }
    for (size_t i = 0; i < c->events.n; i++)
        if (!ftcfg_event_ok(c->events.v[i])) {
            snprintf(why, n, "ftrace_events: \"%.80s\" is not group/event, event or group/*",
                     c->events.v[i]);
            return -EINVAL;
        }
    for (size_t i = 0; i < c->categories.n; i++)
        if (!printable(c->categories.v[i])) {
            snprintf(why, n, "atrace_categories: \"%.80s\" is not printable ASCII",
                     c->categories.v[i]);
            return -EINVAL;
        }
    for (size_t i = 0; i < c->apps.n; i++)
        if (!printable(c->apps.v[i])) {
            snprintf(why, n, "atrace_apps: \"%.80s\" is not printable ASCII", c->apps.v[i]);
            return -EINVAL;
        }
    return 0;
}

int ftcfg_parse(const uint8_t *bytes, size_t len, struct ftcfg *out, char *why, size_t why_len)
{
    struct ftcfg c = {0};
    upb_Arena *arena = upb_Arena_New();
    const msg_ftrace *m =
        arena ? perfetto_protos_FtraceConfig_parse((const char *)bytes, len, arena) : NULL;
    int rc = -EINVAL;
    if (m) {
        take_strs(m, &c.events, perfetto_protos_FtraceConfig_ftrace_events);
        take_strs(m, &c.categories, perfetto_protos_FtraceConfig_atrace_categories);
        take_strs(m, &c.apps, perfetto_protos_FtraceConfig_atrace_apps);
        take_strs(m, &c.syscalls, perfetto_protos_FtraceConfig_syscall_events);
        take_strs(m, &c.function_filters, perfetto_protos_FtraceConfig_function_filters);
        take_strs(m, &c.graph_roots, perfetto_protos_FtraceConfig_function_graph_roots);
        take_scalars(m, &c);
        take_lists(m, &c);
        take_print_filter(m, &c);
        rc = check(m, &c, why, why_len);
    } else {
        snprintf(why, why_len, "ftrace_config is not a valid FtraceConfig message");
    }
    if (arena)
        upb_Arena_Free(arena);
    if (rc)
        ftcfg_fini(&c);
    else
        *out = c;
    return rc;
}

void ftcfg_fini(struct ftcfg *c)
{
    free_strs(&c->events);
    free_strs(&c->categories);
    free_strs(&c->apps);
    free_strs(&c->syscalls);
    free_strs(&c->function_filters);
    free_strs(&c->graph_roots);
    printflt_fini(&c->print_filter);
    for (size_t i = 0; i < c->n_kprobes; i++)
        free(c->kprobes[i].function);
    for (size_t i = 0; i < c->n_options; i++)
        free(c->options[i].name);
    free(c->kprobes);
    free(c->options);
    free(c->tids);
    free(c->instance);
    free(c->cpumask);
    *c = (struct ftcfg){0};
}

bool ftcfg_exclusive(const struct ftcfg *c)
{
    return c->n_tids || c->n_options || c->cpumask;
}
