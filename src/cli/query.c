/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --query and --query-raw.
 *
 * The raw form is what scripts use; the tables are for people and may change. Columns are those
 * that upstream shows (R603), each at least as wide as there. Nothing is printed before the whole
 * state is there, so a failure leaves stdout empty.
 */
#include "cli/query.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/conssession.h"
#include "protos/common/data_source_descriptor.upb.h"
#include "protos/common/ftrace_descriptor.upb.h"
#include "protos/common/track_event_descriptor.upb.h"
#include "protos/common/tracing_service_state.upb.h"
#include "reactor/bytesbuf.h"
#include "reactor/deadline.h"
#include "reactor/reactor.h"
#include "reactor/str.h"

#define TIMEOUT_MS       30000
#define CATEGORIES_SHOWN 40 /* R606 */

#define ST(name)  perfetto_protos_TracingServiceState_##name
#define PRO(name) perfetto_protos_TracingServiceState_Producer_##name
#define SRC(name) perfetto_protos_TracingServiceState_DataSource_##name
#define SES(name) perfetto_protos_TracingServiceState_TracingSession_##name
#define DSD(name) perfetto_protos_DataSourceDescriptor_##name

typedef perfetto_protos_TracingServiceState_Producer producer_msg;
typedef perfetto_protos_TracingServiceState_DataSource source_msg;
typedef perfetto_protos_TracingServiceState_TracingSession session_msg;

/* ---- printing ---- */

struct view {
    FILE *f;
    const struct query_options *o;
    const producer_msg *const *producers;
    size_t n_producers;
    bool machines; /* some producer is remote (R605) */
};

/* Text from peers: made harmless, cut at size. */
static const char *safe(upb_StringView s, char *buf, size_t size)
{
    str_escape(buf, size, s.data, s.size);
    return buf;
}

static void rule(FILE *f, const int *widths, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (int j = 0; j < widths[i]; j++)
            fputc('=', f);
        fputc(i + 1 < n ? ' ' : '\n', f);
    }
}

static void machine_column(const struct view *v, const producer_msg *p)
{
    char text[96] = "(host)";
    upb_StringView name;

    if (!v->machines)
        return;
    if (p != NULL && PRO(machine_id)(p) != 0) {
        name = PRO(machine_name)(p);
        if (name.size > 0)
            safe(name, text, sizeof(text));
        else
            (void)snprintf(text, sizeof(text), "0x%" PRIx32, PRO(machine_id)(p));
    }
    fprintf(v->f, "%-20s ", text);
}

static void print_producers(const struct view *v)
{
    static const int widths[] = {6, 8, 8, 6, 42, 20}, with_machine[] = {6, 8, 8, 6, 20, 42, 20};
    char name[256], sdk[128];

    fputs("\nPRODUCER PROCESSES CONNECTED:\n\n", v->f);
    fprintf(v->f, "%-6s %-8s %-8s %-6s ", "ID", "PID", "UID", "FLAGS");
    if (v->machines)
        fprintf(v->f, "%-20s ", "MACHINE");
    fprintf(v->f, "%-42s %s\n", "NAME", "SDK");
    rule(v->f, v->machines ? with_machine : widths, v->machines ? 7 : 6);
    for (size_t i = 0; i < v->n_producers; i++) {
        const producer_msg *p = v->producers[i];
        fprintf(v->f, "%-6" PRId32 " ", PRO(id)(p));
        if (PRO(has_pid)(p))
            fprintf(v->f, "%-8" PRId32 " ", PRO(pid)(p));
        else
            fprintf(v->f, "%-8s ", "?");
        fprintf(v->f, "%-8" PRId32 " %-6s ", PRO(uid)(p), PRO(frozen)(p) ? "F" : "");
        machine_column(v, p);
        fprintf(v->f, "%-42s %s\n", safe(PRO(name)(p), name, sizeof(name)),
                safe(PRO(sdk_version)(p), sdk, sizeof(sdk)));
    }
}

/* The categories of a data source, separated by commas (R606). */
static void details(const struct view *v, const perfetto_protos_DataSourceDescriptor *d)
{
    const perfetto_protos_TrackEventDescriptor *te = d ? DSD(track_event_descriptor)(d) : NULL;
    const perfetto_protos_FtraceDescriptor *ft = d ? DSD(ftrace_descriptor)(d) : NULL;
    char name[128];
    struct bytesbuf b;
    size_t n = 0;

    bytesbuf_init(&b, 1 << 20);
    if (te != NULL) {
        const perfetto_protos_TrackEventCategory *const *c =
            perfetto_protos_TrackEventDescriptor_available_categories(te, &n);
        for (size_t i = 0; i < n; i++) {
            safe(perfetto_protos_TrackEventCategory_name(c[i]), name, sizeof(name));
            bytesbuf_put(&b, ",", b.n > 0);
            bytesbuf_put(&b, name, strlen(name));
        }
    }
    if (ft != NULL) {
        const perfetto_protos_FtraceDescriptor_AtraceCategory *const *c =
            perfetto_protos_FtraceDescriptor_atrace_categories(ft, &n);
        for (size_t i = 0; i < n; i++) {
            safe(perfetto_protos_FtraceDescriptor_AtraceCategory_name(c[i]), name, sizeof(name));
            bytesbuf_put(&b, ",", b.n > 0);
            bytesbuf_put(&b, name, strlen(name));
        }
    }
    if (b.n > CATEGORIES_SHOWN && !v->o->all)
        fprintf(v->f, "%.*s... (--long shows all)", CATEGORIES_SHOWN, (const char *)b.p);
    else if (b.n > 0)
        fwrite(b.p, 1, b.n, v->f);
    bytesbuf_fini(&b);
}

static void print_sources(const struct view *v, const perfetto_protos_TracingServiceState *st)
{
    static const int widths[] = {40, 28, 20}, with_machine[] = {40, 28, 20, 20};
    size_t n;
    const source_msg *const *s = ST(data_sources)(st, &n);

    fputs("\nDATA SOURCES REGISTERED:\n\n", v->f);
    fprintf(v->f, "%-40s %-28s ", "NAME", "PRODUCER");
    if (v->machines)
        fprintf(v->f, "%-20s ", "MACHINE");
    fputs("DETAILS\n", v->f);
    rule(v->f, v->machines ? with_machine : widths, v->machines ? 4 : 3);
    for (size_t i = 0; i < n; i++) {
        const perfetto_protos_DataSourceDescriptor *d = SRC(ds_descriptor)(s[i]);
        const producer_msg *p = NULL;
        char name[256] = "", producer[128], label[160];
        for (size_t j = 0; j < v->n_producers && p == NULL; j++) {
            if (PRO(id)(v->producers[j]) == SRC(producer_id)(s[i]))
                p = v->producers[j];
        }
        if (d != NULL)
            safe(DSD(name)(d), name, sizeof(name));
        safe(p ? PRO(name)(p) : upb_StringView_FromString("?"), producer, 100);
        (void)snprintf(label, sizeof(label), "%s (%" PRId32 ")", producer, SRC(producer_id)(s[i]));
        fprintf(v->f, "%-40s %-28s ", name, label);
        machine_column(v, p);
        details(v, d);
        fputc('\n', v->f);
    }
}

static void print_session(const struct view *v, const session_msg *s)
{
    char state[64], name[256], buffers[48];
    const uint32_t *kb;
    uint64_t total = 0, seconds;
    size_t n;

    kb = SES(buffer_size_kb)(s, &n);
    for (size_t i = 0; i < n; i++)
        total += kb[i];
    (void)snprintf(buffers, sizeof(buffers), "(%zu) %" PRIu64, n, total);
    seconds = (uint64_t)SES(start_realtime_ns)(s) / 1000000000 % 86400;
    fprintf(v->f,
            "%-7" PRIu64 " %-7" PRId32 " %-10s %-8s %-9" PRIu32 " %-4" PRIu32 " %02" PRIu64
            ":%02" PRIu64 ":%02" PRIu64 "   %s\n",
            SES(id)(s), SES(consumer_uid)(s), safe(SES(state)(s), state, sizeof(state)), buffers,
            SES(duration_ms)(s) / 1000, SES(num_data_sources)(s), seconds / 3600, seconds / 60 % 60,
            seconds % 60, safe(SES(unique_session_name)(s), name, sizeof(name)));
}

static void print_sessions(const struct view *v, const perfetto_protos_TracingServiceState *st)
{
    static const int widths[] = {7, 7, 10, 8, 9, 4, 10, 20};
    size_t n;
    const session_msg *const *s = ST(tracing_sessions)(st, &n);

    fputs("\nTRACING SESSIONS:\n\n", v->f);
    fprintf(v->f, "%-7s %-7s %-10s %-8s %-9s %-4s %-10s %s\n", "ID", "UID", "STATE", "BUF (#) KB",
            "DUR (s)", "#DS", "STARTED", "NAME");
    rule(v->f, widths, 8);
    for (size_t i = 0; i < n; i++)
        print_session(v, s[i]);
    if (!v->o->is_root && ST(num_sessions)(st) > (int32_t)n)
        fprintf(v->f,
                "\nNOTE: %" PRId32 " sessions of other users are hidden; root sees them all.\n",
                ST(num_sessions)(st) - (int32_t)n);
}

void query_print(FILE *f, struct bytes_view state, const struct query_options *o)
{
    upb_Arena *arena = upb_Arena_New();
    const perfetto_protos_TracingServiceState *st =
        arena ? ST(parse)((const char *)state.p, state.n, arena) : NULL;
    struct view v = {.f = f, .o = o};
    char version[256];

    if (st == NULL) {
        fputs("perfetto: the service's answer does not parse\n", stderr);
        upb_Arena_Free(arena);
        return;
    }
    v.producers = ST(producers)(st, &v.n_producers);
    for (size_t i = 0; i < v.n_producers; i++)
        v.machines = v.machines || PRO(machine_id)(v.producers[i]) != 0;
    fprintf(f, "%sThis is for people and may change; scripts use --query-raw.%s\n\n",
            o->colour ? "\033[31m" : "", o->colour ? "\033[0m" : "");
    fprintf(f, "Service: %s\nTracing sessions: %" PRId32 " (started: %" PRId32 ")\n",
            safe(ST(tracing_service_version)(st), version, sizeof(version)), ST(num_sessions)(st),
            ST(num_sessions_started)(st));
    print_producers(&v);
    print_sources(&v, st);
    if (ST(supports_tracing_sessions)(st))
        print_sessions(&v, st);
    upb_Arena_Free(arena);
}

/* ---- asking ---- */

struct asking {
    struct reactor *reactor;       /* own */
    const struct query_options *o; /* borrow */
    int code;
};

static void on_state(void *arg, enum conssession_call call, bool ok, struct bytes_view state)
{
    struct asking *a = arg;

    (void)call;
    if (ok && a->o->raw)
        fwrite(state.p, 1, state.n, stdout);
    else if (ok)
        query_print(stdout, state, a->o);
    else
        fputs("perfetto: the service did not answer the query\n", stderr);
    if (ok && fflush(stdout) == 0 && !ferror(stdout))
        a->code = 0;
    else if (ok)
        fprintf(stderr, "perfetto: could not write to stdout (errno: %d, %s)\n", errno,
                strerror(errno));
    reactor_stop(a->reactor);
}

static void on_lost(void *arg, const char *why)
{
    struct asking *a = arg;

    if (a->code != 0)
        fprintf(stderr, "perfetto: %s\n", why);
    reactor_stop(a->reactor);
}

static void on_timeout(void *arg)
{
    on_lost(arg, "the service did not answer within 30 s");
}

static const struct conssession_ops ops = {.lost = on_lost, .done = on_state};

int query_run(const struct query_options *o)
{
    struct asking a = {.o = o, .code = 1};
    struct conssession *s;
    struct deadline timeout;
    char err[512];

    a.reactor = reactor_new(NULL);
    if (a.reactor == NULL) {
        fprintf(stderr, "perfetto: cannot start (errno: %d, %s)\n", errno, strerror(errno));
        return 1;
    }
    s = conssession_new(a.reactor, &ops, &a);
    conssession_query(s, false);
    deadline_init(&timeout, a.reactor, "query", on_timeout, &a);
    deadline_arm_ms(&timeout, TIMEOUT_MS);
    if (conssession_connect(s, conssession_default_address(), err, sizeof(err)) == 0)
        (void)reactor_run(a.reactor);
    else
        fprintf(stderr, "perfetto: %s\n", err);
    deadline_cancel(&timeout);
    conssession_free(s);
    reactor_free(a.reactor);
    return a.code;
}
