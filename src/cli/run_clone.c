/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving running sessions: one by id or name, or all that have a bugreport score.
 *
 * Each clone has a connection of its own, because the service gives the clone to the connection
 * that asked for it. With --save-all-for-bugreport all clones are made before any is read back
 * (R733), so that they show the same moment.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/bg.h"
#include "cli/pktout.h"
#include "cli/run.h"
#include "cli/snapshot.h"
#include "cli/stopsig.h"
#include "client/conssession.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/reactor.h"
#include "reactor/str.h"

#define SESSIONS_MAX 64 /* the service runs 15 at most */

struct saved {
    struct clones *owner; /* borrow */
    struct conssession_clone clone;
    int32_t score;
    char filename[128]; /* of the config, may be empty */
    char *path;         /* own */
    struct pktout out;
    struct snapshot *snapshot; /* own */
    bool answered, over;
};

struct clones {
    struct reactor *reactor;   /* own */
    struct cmdline *cl;        /* borrow */
    struct conssession *query; /* own: save-all only */
    struct saved saved[SESSIONS_MAX];
    size_t n, n_answered, n_over;
    struct stopsig signals;
    int code;
};

static void stop_if_over(struct clones *c)
{
    if (c->n_over == c->n)
        reactor_stop(c->reactor);
}

/* Once all requests are answered, those that succeeded are read. */
static void answered(struct saved *s)
{
    struct clones *c = s->owner;

    if (s->answered)
        return;
    s->answered = true;
    if (++c->n_answered < c->n)
        return;
    for (size_t i = 0; i < c->n; i++) {
        if (!c->saved[i].over)
            snapshot_read(c->saved[i].snapshot);
    }
}

static void on_cloned(void *arg)
{
    answered(arg);
}

static void on_saved(void *arg, bool ok)
{
    struct saved *s = arg;
    struct clones *c = s->owner;

    s->over = true;
    c->n_over++;
    if (!ok)
        c->code = 1;
    else if (!c->cl->quiet)
        fprintf(stderr, "perfetto: Wrote a snapshot into %s\n", s->out.shown);
    answered(s);
    stop_if_over(c);
}

static void on_signal(void *arg, int signo, bool sent)
{
    struct clones *c = arg;

    (void)signo;
    (void)sent;
    for (size_t i = 0; i < c->n; i++) {
        if (c->saved[i].snapshot != NULL && !c->saved[i].over)
            snapshot_abort(c->saved[i].snapshot);
    }
    c->code = 1;
    reactor_stop(c->reactor);
}

static void start_one(struct clones *c, struct saved *s)
{
    struct snapshot_conf conf = {
        .address = conssession_default_address(),
        .clone = &s->clone,
        .out = &s->out,
        .wait = true,
        .cloned = on_cloned,
        .done = on_saved,
        .arg = s,
    };

    s->snapshot = snapshot_new(c->reactor, &conf);
}

static void free_all(struct clones *c)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->saved[i].snapshot == NULL)
            continue;
        snapshot_free(c->saved[i].snapshot);
        pktout_fini(&c->saved[i].out);
    }
    for (size_t i = 0; i < c->n; i++)
        free(c->saved[i].path);
    conssession_free(c->query);
    reactor_free(c->reactor);
}

static bool start_reactor(struct clones *c)
{
    static const int stop[] = {SIGINT, SIGTERM, 0};

    c->reactor = reactor_new(NULL);
    if (c->reactor != NULL && stopsig_init(&c->signals, c->reactor, stop, true, on_signal, c) == 0)
        return true;
    fprintf(stderr, "perfetto: cannot start (errno: %d, %s)\n", errno, strerror(errno));
    return false;
}

/* ---- one ---- */

static int clone_one(struct cmdline *cl, struct bg_notify *notify)
{
    struct clones c = {.cl = cl, .n = 1};
    struct saved *s = &c.saved[0];
    char err[512];
    int rc;

    if (pktout_open(&s->out, cl->out, cl->no_clobber, err, sizeof(err)) != 0) {
        fprintf(stderr, "perfetto: %s\n", err);
        return 1;
    }
    if (cl->background) {
        rc = bg_daemonize(cl->background_wait, notify);
        if (rc >= 0) {
            pktout_fini(&s->out);
            return rc;
        }
    }
    if (!start_reactor(&c))
        return 1;
    s->owner = &c;
    s->clone.session_id = cl->clone_id;
    s->clone.name = cl->clone_name;
    s->clone.skip_filter = s->clone.bugreport = cl->clone_for_bugreport;
    start_one(&c, s);
    (void)reactor_run(c.reactor);
    stopsig_fini(&c.signals);
    free_all(&c);
    return c.code;
}

int run_clone(struct cmdline *cl)
{
    struct bg_notify notify;
    int rc;

    bg_notify_init(&notify);
    if (cl->notify_fd >= 0)
        bg_notify_add(&notify, cl->notify_fd);
    rc = clone_one(cl, &notify);
    bg_notify_send(&notify, (unsigned char)rc);
    return rc;
}

/* ---- all ---- */

static void take_session(struct clones *c, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct saved *s = &c->saved[c->n];
    struct bytes_field f;
    bool is_started = false;

    if (c->n == SESSIONS_MAX)
        return;
    memset(s, 0, sizeof(*s));
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_TracingServiceState_TracingSession_id)
            s->clone.session_id = f.num;
        else if (f.id == PBF_TracingServiceState_TracingSession_bugreport_score)
            s->score = (int32_t)f.num;
        else if (f.id == PBF_TracingServiceState_TracingSession_is_started)
            is_started = f.num != 0;
        else if (f.id == PBF_TracingServiceState_TracingSession_bugreport_filename &&
                 f.type == BYTES_LEN && f.data.n < sizeof(s->filename)) {
            memcpy(s->filename, f.data.p, f.data.n);
            s->filename[f.data.n] = '\0';
        }
    }
    if (s->score <= 0 || !is_started)
        return;
    if (s->filename[0] == '\0' || s->filename[0] == '.' || strchr(s->filename, '/') != NULL)
        strcpy(s->filename, "systrace.pftrace");
    s->owner = c;
    s->clone.skip_filter = s->clone.bugreport = true;
    c->n++;
}

static int by_score(const void *a, const void *b)
{
    const struct saved *x = a, *y = b;

    return x->score < y->score ? 1 : x->score > y->score ? -1 : 0;
}

/* The nth file of a name gets _n before its last dot (R732). */
static char *path_of(const struct clones *c, size_t i, const char *folder)
{
    const char *name = c->saved[i].filename, *dot = strrchr(name, '.');
    size_t stem = dot != NULL ? (size_t)(dot - name) : strlen(name);
    unsigned same = 0;

    for (size_t j = 0; j < i; j++)
        same += strcmp(c->saved[j].filename, name) == 0;
    if (same == 0)
        return str_format("%s/%s", folder, name);
    return str_format("%s/%.*s_%u%s", folder, (int)stem, name, same, name + stem);
}

static void start_all(struct clones *c)
{
    char *folder = cmdline_tmp_dir(), err[512];

    qsort(c->saved, c->n, sizeof(c->saved[0]), by_score);
    for (size_t i = 0; i < c->n; i++) {
        struct saved *s = &c->saved[i];
        s->path = path_of(c, i, folder);
        (void)unlink(s->path);
        if (pktout_open(&s->out, s->path, false, err, sizeof(err)) == 0) {
            start_one(c, s);
            continue;
        }
        fprintf(stderr, "perfetto: %s\n", err);
        c->code = 1;
        s->over = s->answered = true;
        c->n_over++;
        c->n_answered++;
    }
    free(folder);
    stop_if_over(c);
}

static void on_state(void *arg, enum conssession_call call, bool ok, struct bytes_view state)
{
    struct clones *c = arg;
    struct bytes_cur cur = bytes_cur(state);
    struct bytes_field f;

    (void)call;
    if (!ok)
        return; /* on_lost says why */
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_TracingServiceState_tracing_sessions && f.type == BYTES_LEN)
            take_session(c, f.data);
    }
    if (c->n == 0)
        fputs("No tracing sessions eligible: none that runs has a bugreport_score above 0\n",
              stderr);
    start_all(c);
}

static void on_lost(void *arg, const char *why)
{
    struct clones *c = arg;

    if (c->n > 0)
        return; /* the list is there; the clones have their own connections */
    fprintf(stderr, "perfetto: %s\n", why);
    c->code = 1;
    reactor_stop(c->reactor);
}

static const struct conssession_ops query_ops = {.lost = on_lost, .done = on_state};

int run_save_all(struct cmdline *cl)
{
    struct clones c = {.cl = cl};
    char err[512];

    if (!start_reactor(&c))
        return 1;
    c.query = conssession_new(c.reactor, &query_ops, &c);
    conssession_query(c.query, true);
    if (conssession_connect(c.query, conssession_default_address(), err, sizeof(err)) == 0) {
        (void)reactor_run(c.reactor);
    } else {
        fprintf(stderr, "perfetto: %s\n", err);
        c.code = 1;
    }
    stopsig_fini(&c.signals);
    free_all(&c);
    return c.code;
}
