/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving a clone.
 *
 * The descriptor of the output goes along with the request, because only the service knows whether
 * the source session writes into a file, in which case it fills ours itself (R312); otherwise the
 * clone's buffers are read back as after a trace. The source session is not touched by any outcome.
 *
 * Every failure is printed here as "Service error: Failed to clone tracing session X: reason"
 * (R718) and leaves no empty file; unlike upstream it is a failure for the caller, too.
 */
#include "cli/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/deadline.h"
#include "reactor/str.h"

#define TIMEOUT_MS 30000 /* R342: from connecting to the last byte */

struct snapshot {
    struct snapshot_conf conf;
    struct conssession *session; /* own */
    struct deadline timeout;
    struct reactor *reactor; /* borrow */
    char name[160];          /* for people: the id, or the quoted name */
    char early[512];
    bool cloned, in_file, may_read, reading, over;
};

static void finish(struct snapshot *s, bool ok)
{
    if (s->over)
        return;
    s->over = true;
    deadline_cancel(&s->timeout);
    if (ok)
        (void)pktout_close(s->conf.out);
    else
        (void)pktout_discard_empty(s->conf.out);
    s->conf.done(s->conf.arg, ok);
}

static void fail(struct snapshot *s, const char *reason, size_t len)
{
    char shown[512];

    if (s->over)
        return;
    str_escape(shown, sizeof(shown), reason, len);
    fprintf(stderr, "Service error: Failed to clone tracing session %s: %s\n", s->name, shown);
    finish(s, false);
}

static void on_timeout(void *arg)
{
    static const char why[] = "it took more than 30 s; is the service overloaded?";

    fail(arg, why, sizeof(why) - 1);
}

static void on_lost(void *arg, const char *why)
{
    fail(arg, why, strlen(why));
}

static void on_packet(void *arg, const struct iovec *pieces, int n, size_t len)
{
    struct snapshot *s = arg;

    pktout_packet(s->conf.out, pieces, n, len);
}

static void on_batch(void *arg)
{
    struct snapshot *s = arg;
    char why[300];

    pktout_flush(s->conf.out);
    if (s->conf.out->error == 0)
        return;
    (void)snprintf(why, sizeof(why), "could not write %s (errno: %d, %s)", s->conf.out->shown,
                   s->conf.out->error, strerror(s->conf.out->error));
    fail(s, why, strlen(why));
}

static void proceed(struct snapshot *s)
{
    if (!s->cloned || !s->may_read || s->reading)
        return;
    s->reading = true;
    if (s->in_file)
        finish(s, true);
    else
        conssession_read(s->session);
}

static void on_cloned(struct snapshot *s, struct bytes_view reply)
{
    struct bytes_field f;

    if (!bytes_find(reply, PBF_CloneSessionResponse_success, BYTES_VARINT, &f) || f.num == 0) {
        if (!bytes_find(reply, PBF_CloneSessionResponse_error, BYTES_LEN, &f))
            f.data = bytes_str("the service gives no reason");
        fail(s, (const char *)f.data.p, f.data.n);
        return;
    }
    s->in_file =
        bytes_find(reply, PBF_CloneSessionResponse_was_write_into_file, BYTES_VARINT, &f) &&
        f.num != 0;
    s->cloned = true;
    if (s->conf.cloned != NULL)
        s->conf.cloned(s->conf.arg);
    proceed(s);
}

static void on_done(void *arg, enum conssession_call call, bool ok, struct bytes_view reply)
{
    static const char lost[] = "lost the connection to the service, or it cannot clone",
                      cut[] =
                          "lost the connection while reading the clone back; what arrived is kept";
    struct snapshot *s = arg;

    if (s->over)
        return;
    if (call == CONSSESSION_CLONE && ok)
        on_cloned(s, reply);
    else if (call == CONSSESSION_CLONE)
        fail(s, lost, sizeof(lost) - 1);
    else if (!ok)
        fail(s, cut, sizeof(cut) - 1);
    else
        finish(s, true);
}

static const struct conssession_ops ops = {
    .lost = on_lost, .packet = on_packet, .batch = on_batch, .done = on_done};

static void fail_early(void *arg)
{
    struct snapshot *s = arg;

    fail(s, s->early, strlen(s->early));
}

struct snapshot *snapshot_new(struct reactor *reactor, const struct snapshot_conf *conf)
{
    struct snapshot *s = alloc_new(struct snapshot);
    const struct conssession_clone *c = conf->clone;

    s->conf = *conf;
    s->reactor = reactor;
    s->may_read = !conf->wait;
    if (c->session_id == UINT64_MAX)
        (void)snprintf(s->name, sizeof(s->name), "with the best bugreport score");
    else if (c->session_id != 0)
        (void)snprintf(s->name, sizeof(s->name), "%" PRIu64, c->session_id);
    else
        (void)snprintf(s->name, sizeof(s->name), "\"%.150s\"", c->name);
    deadline_init(&s->timeout, reactor, "clone timeout", on_timeout, s);
    deadline_arm_ms(&s->timeout, TIMEOUT_MS);
    s->session = conssession_new(reactor, &ops, s);
    if (conssession_connect(s->session, conf->address, s->early, sizeof(s->early)) != 0)
        reactor_defer(reactor, fail_early, s);
    else
        conssession_clone(s->session, c, conf->out->fd);
    return s;
}

void snapshot_read(struct snapshot *s)
{
    s->may_read = true;
    if (!s->over)
        proceed(s);
}

void snapshot_abort(struct snapshot *s)
{
    static const char why[] = "stopped by a signal";

    fail(s, why, sizeof(why) - 1);
}

void snapshot_free(struct snapshot *s)
{
    if (s == NULL)
        return;
    s->over = true;
    reactor_undefer(s->reactor, s);
    deadline_cancel(&s->timeout);
    conssession_free(s->session);
    free(s);
}
