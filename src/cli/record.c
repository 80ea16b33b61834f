/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a recording.
 *
 *     CONNECTING -> RUNNING -> [FLUSHING -> ENDING] -> [READING] -> DONE
 *     CONNECTING -> RUNNING/DETACHING -> DONE                  --detach
 *     CONNECTING -> ATTACHING -> RUNNING -> ...                --attach
 *     CONNECTING -> ATTACHING -> DETACHING -> DONE             --is_detached
 *
 * The service decides when tracing is over: it answers EnableTracing then (R313), whether it ran
 * its time, was disabled by us, or could not start. Everything else here waits for that answer,
 * with failsafe timers around (R340, R341).
 *
 * The exit code tells the truth: 0 only if the trace that was asked for lies there whole. Upstream
 * reports success for a rejected config and for a lost connection (R322, R323); we do not.
 *
 * Owned here: the consumer session, the snapshots of a CLONE_SNAPSHOT trace. The output belongs to
 * the caller; it is closed, and removed if it stayed empty after an error, before `done`.
 */
#include "cli/record.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/losses.h"
#include "cli/progress.h"
#include "cli/snapshot.h"
#include "client/conssession.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/deadline.h"
#include "reactor/log.h"
#include "reactor/str.h"

#define FAILSAFE_MS 60000 /* R340: beyond the expected duration and the service's own timeouts */
#define WATCHDOG_MS 3000  /* R341 */
#define PROGRESS_MS 500
#define HITS_MAX    256 /* snapshots that wait for their turn */
#define SCRATCH_MAX (1u << 20)

enum state { CONNECTING, ATTACHING, RUNNING, DETACHING, FLUSHING, ENDING, READING, DONE, STATES };

static const char *const state_names[STATES] = {"connecting", "attaching", "running", "detaching",
                                                "flushing",   "ending",    "reading", "done"};

/* A clone trigger that fired (R740). */
struct hit {
    struct conssession_clone clone;
    char name[128], producer[128];
};

struct record {
    struct reactor *reactor; /* borrow */
    struct record_conf conf;
    enum state state;
    struct traceconf_facts facts;
    struct conssession *session; /* own */
    struct deadline failsafe, watchdog, tick;
    bool silent;       /* no data since the watchdog looked */
    bool stop_pending; /* asked for before there was anything to stop */
    bool refused; /* tracing ended in error: a detach that fails afterwards is its consequence */
    bool started;
    uint64_t running_ns; /* since when, on the monotonic clock */
    int code;
    struct losses *losses; /* own */
    struct progress progress;
    struct bytesbuf scratch; /* a packet of several pieces, for `losses` */
    struct hit *hits;        /* own: ring of HITS_MAX, made when needed */
    size_t first_hit, n_hits;
    unsigned snapshots;         /* numbers used */
    struct snapshot *snapshot;  /* own: the one being saved */
    struct pktout snapshot_out; /* its file */
};

static void enter(struct record *r, enum state s)
{
    log_debug("record: %s -> %s", state_names[r->state], state_names[s]);
    r->state = s;
}

static void say(struct record *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct record *r, const char *fmt, ...)
{
    va_list ap;

    progress_clear(&r->progress);
    fputs("perfetto: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

/* ---- the end ---- */

/* A trace that somebody else has written: the service by itself, or into the file of --detach. */
static void name_service_output(struct record *r)
{
    char shown[1024];

    if (!r->conf.talkative || r->code != RECORD_OK || !r->facts.write_into_file)
        return;
    if (r->conf.cl->action == CMDLINE_ATTACH) {
        say(r, "the session %s has ended; its file is complete", r->conf.cl->key);
    } else if (r->conf.cl->action == CMDLINE_RECORD && r->facts.output_path.n > 0) {
        str_escape(shown, sizeof(shown), (const char *)r->facts.output_path.p,
                   r->facts.output_path.n);
        say(r, "The trace was written into %s by the service", shown);
    }
}

static void close_output(struct record *r)
{
    struct pktout *out = r->conf.out;
    bool by_service = r->facts.write_into_file;
    uint64_t size;

    if (out == NULL || out->fd < 0) {
        name_service_output(r);
        return;
    }
    size = pktout_close(out);
    if (out->error != 0) {
        say(r, "could not write %s (errno: %d, %s); %s", out->shown, out->error,
            strerror(out->error),
            out->regular ? "the packets that fit are kept" : "the trace is incomplete");
        r->code = RECORD_FAILED;
    }
    if (!r->conf.talkative || r->code != RECORD_OK)
        return;
    if (r->conf.cl->action == CMDLINE_DETACH)
        return;
    if (by_service)
        say(r, "The trace was written into %s (%" PRIu64 " bytes)", out->shown, size);
    else
        say(r, "Wrote %" PRIu64 " bytes into %s", size > 0 ? size : out->bytes, out->shown);
    if (size == 0 && out->bytes == 0 && r->facts.trigger_mode == TRACECONF_CLONE_SNAPSHOT)
        say(r, "as it should be: with CLONE_SNAPSHOT the data is in the snapshots %s.N",
            out->shown);
    else if (size == 0 && out->bytes == 0 && out->regular && r->facts.trigger_mode != 0)
        say(r, "the trace is empty because none of its triggers arrived");
}

static void report_losses(struct record *r)
{
    if (!r->conf.talkative || r->code != RECORD_OK || r->conf.cl->action == CMDLINE_DETACH)
        return;
    if (r->facts.write_into_file && r->conf.out != NULL && r->conf.out->regular) {
        losses_file(r->losses, r->conf.out->path);
    } else if (r->conf.cl->action == CMDLINE_RECORD && r->facts.output_path.n > 0) {
        /* ours only if the service can name it as we do: by a path from the root */
        char *path = alloc_strndup((const char *)r->facts.output_path.p, r->facts.output_path.n);
        if (path[0] == '/')
            losses_file(r->losses, path);
        free(path);
    }
    losses_report(r->losses, stderr, "perfetto: ");
}

/* Ends the program's part in the recording. Snapshots that are under way are waited for. */
static void finish(struct record *r)
{
    if (r->state != DONE)
        enter(r, DONE);
    deadline_cancel(&r->failsafe);
    deadline_cancel(&r->watchdog);
    deadline_cancel(&r->tick);
    if (r->snapshot != NULL || r->n_hits > 0)
        return;
    close_output(r);
    report_losses(r);
    bg_notify_send(r->conf.notify, (unsigned char)r->code);
    r->conf.done(r->conf.arg, r->code);
}

static void fail(struct record *r, int code)
{
    r->code = code;
    finish(r);
}

/* R322: the line, and no empty file left behind. True if a file with contents stays. */
static bool service_error(struct record *r, struct bytes_view error)
{
    char shown[1024];

    str_escape(shown, sizeof(shown), (const char *)error.p, error.n);
    progress_clear(&r->progress);
    fprintf(stderr, "Service error: %s\n", shown);
    r->refused = true;
    return r->conf.out != NULL && pktout_discard_empty(r->conf.out);
}

/* ---- reading back ---- */

static void on_watchdog(void *arg)
{
    struct record *r = arg;

    if (!r->silent) {
        r->silent = true;
        return;
    }
    say(r, "the service sent no data for %d s while the trace was read back; what arrived is kept",
        WATCHDOG_MS / 1000);
    fail(r, RECORD_FAILED);
}

static void read_back(struct record *r)
{
    if (r->facts.write_into_file || r->conf.out == NULL) {
        finish(r);
        return;
    }
    enter(r, READING);
    deadline_cancel(&r->failsafe);
    r->silent = false;
    deadline_every(&r->watchdog, DEADLINE_MONO, WATCHDOG_MS * CHRONO_MS);
    conssession_read(r->session);
}

static void on_packet(void *arg, const struct iovec *pieces, int n, size_t len)
{
    struct record *r = arg;

    r->silent = false;
    pktout_packet(r->conf.out, pieces, n, len);
    if (!r->conf.talkative)
        return;
    if (n == 1) {
        losses_packet(r->losses, bytes_view(pieces[0].iov_base, pieces[0].iov_len));
    } else if (len <= SCRATCH_MAX) {
        bytesbuf_clear(&r->scratch);
        for (int i = 0; i < n; i++)
            bytesbuf_put(&r->scratch, pieces[i].iov_base, pieces[i].iov_len);
        losses_packet(r->losses, bytesbuf_view(&r->scratch));
    }
}

static void on_batch(void *arg)
{
    struct record *r = arg;

    if (r->state != READING)
        return;
    pktout_flush(r->conf.out);
    progress_saving(&r->progress, r->conf.out->bytes);
    if (r->conf.out->error != 0)
        fail(r, RECORD_FAILED);
}

/* ---- data sources that nobody offers ---- */

static bool is_offered(struct bytes_view state, struct bytes_view name)
{
    struct bytes_cur cur = bytes_cur(state);
    struct bytes_field source, descriptor, offered;

    while (bytes_next(&cur, &source)) {
        if (source.id == PBF_TracingServiceState_data_sources && source.type == BYTES_LEN &&
            bytes_find(source.data, PBF_TracingServiceState_DataSource_ds_descriptor, BYTES_LEN,
                       &descriptor) &&
            bytes_find(descriptor.data, PBF_DataSourceDescriptor_name, BYTES_LEN, &offered) &&
            bytes_equal(offered.data, name))
            return true;
    }
    return false;
}

/* A misspelt name is no error to the service (R1203): without this the trace would lack it
 * silently. */
static void check_sources(struct record *r, struct bytes_view state)
{
    struct bytes_cur cur = bytes_cur(bytesbuf_view(&r->conf.cl->conf.config));
    struct bytes_field source, config, name;
    char shown[128];

    while (bytes_next(&cur, &source)) {
        if (source.id != PBF_TraceConfig_data_sources || source.type != BYTES_LEN ||
            !bytes_find(source.data, PBF_TraceConfig_DataSource_config, BYTES_LEN, &config) ||
            !bytes_find(config.data, PBF_DataSourceConfig_name, BYTES_LEN, &name) ||
            is_offered(state, name.data))
            continue;
        str_escape(shown, sizeof(shown), (const char *)name.data.p, name.data.n);
        say(r,
            "no program offers the data source %s now, so it records nothing unless one comes; "
            "perfetto --query lists what there is",
            shown);
    }
}

/* ---- the service's word ---- */

/* Nobody here has ended it, and its time is not over. */
static void tell_early_end(struct record *r)
{
    uint64_t ms = (chrono_mono_ns() - r->running_ns) / CHRONO_MS;

    if (r->state != RUNNING || r->conf.cl->action != CMDLINE_RECORD || !r->conf.talkative ||
        r->facts.trigger_mode != 0 || (r->facts.duration_ms > 0 && ms + 50 >= r->facts.duration_ms))
        return;
    say(r, "the service has ended the session after %" PRIu64 ".%" PRIu64 " s: %s", ms / 1000,
        ms / 100 % 10,
        r->facts.write_into_file ? "max_file_size_bytes is reached, or the service was stopped"
                                 : "it was stopped, or another client took its place");
}

static void on_ended(void *arg, bool told, struct bytes_view error)
{
    struct record *r = arg;

    if (r->state == DONE || r->state == READING)
        return;
    if (error.n > 0) {
        if (service_error(r, error) && !told)
            say(r, "what was recorded before the service went away is kept in %s",
                r->conf.out->shown);
        fail(r, RECORD_FAILED);
    } else if (r->state != DETACHING) {
        tell_early_end(r);
        read_back(r);
    }
}

static void begin_flush(struct record *r)
{
    enter(r, FLUSHING);
    conssession_flush(r->session, 0, CONSSESSION_FLUSH_TRACE_STOP | CONSSESSION_FLUSH_BY_COMMAND);
}

void record_stop(struct record *r, const char *why)
{
    if (r->state == RUNNING) {
        if (r->conf.talkative && *why != '\0')
            say(r, "%s: stopping and saving the trace", why);
        begin_flush(r);
    } else if (r->state == CONNECTING || r->state == ATTACHING) {
        r->stop_pending = true;
    } else if (r->state == DONE && r->snapshot != NULL) {
        r->n_hits = 0;
        snapshot_abort(r->snapshot);
    }
}

static void on_attached(struct record *r, struct bytes_view reply)
{
    struct bytes_field f;
    struct traceconf tc;
    char err[256];

    traceconf_init(&tc);
    if (bytes_find(reply, PBF_AttachResponse_trace_config, BYTES_LEN, &f) &&
        traceconf_set(&tc, f.data, err, sizeof(err)) == 0) {
        r->facts = tc.facts;
        r->facts.output_path = r->facts.session_name = bytes_view(NULL, 0);
    }
    traceconf_fini(&tc);
    conssession_await_end(r->session);
    if (r->conf.cl->action == CMDLINE_IS_DETACHED) {
        enter(r, DETACHING);
        conssession_detach(r->session, r->conf.cl->key);
        return;
    }
    enter(r, RUNNING);
    if (r->conf.cl->stop || r->stop_pending)
        begin_flush(r);
    else if (r->conf.talkative)
        say(r, "attached to %s; Ctrl-C stops it and keeps the data", r->conf.cl->key);
}

static void on_attach_done(struct record *r, bool ok, struct bytes_view reply)
{
    if (ok) {
        on_attached(r, reply);
        return;
    }
    if (r->conf.cl->action == CMDLINE_ATTACH)
        say(r, "Session re-attach failed: this user has no detached session with the key '%s'",
            r->conf.cl->key);
    fail(r, RECORD_NOT_ATTACHED);
}

static void on_detach_done(struct record *r, bool ok)
{
    const char *key = r->conf.cl->key;

    if (ok && r->conf.cl->action == CMDLINE_DETACH && r->conf.talkative)
        say(r, "recording goes on without this program; perfetto --attach=%s --stop ends it", key);
    if (!ok && !r->refused)
        say(r, "could not detach the session: the key '%s' is in use, or the service is gone", key);
    fail(r, ok ? RECORD_OK : RECORD_FAILED);
}

static void on_done(void *arg, enum conssession_call call, bool ok, struct bytes_view reply)
{
    struct record *r = arg;

    if (call == CONSSESSION_STATS) {
        if (ok && r->state == RUNNING)
            progress_stats(&r->progress, reply);
        return;
    }
    if (call == CONSSESSION_QUERY) {
        if (ok && r->state == RUNNING)
            check_sources(r, reply);
    } else if (call == CONSSESSION_CAPABILITIES && r->state == RUNNING) {
        r->conf.started(r->conf.arg);
    } else if (call == CONSSESSION_ATTACH && r->state == ATTACHING) {
        on_attach_done(r, ok, reply);
    } else if (call == CONSSESSION_DETACH && r->state == DETACHING) {
        on_detach_done(r, ok);
    } else if (call == CONSSESSION_FLUSH && r->state == FLUSHING) {
        if (!ok)
            say(r, "the final flush failed or timed out: the last events of some producer may be "
                   "missing");
        enter(r, ENDING);
        conssession_disable(r->session);
        /* a session that had ended before is not ended again, and no answer comes */
        if (!deadline_armed(&r->failsafe))
            deadline_arm_ms(&r->failsafe, FAILSAFE_MS + r->facts.stop_timeout_ms);
    } else if (call == CONSSESSION_READ && r->state == READING) {
        if (!ok)
            say(r, "lost the connection to the service while the trace was read back; what arrived "
                   "is kept");
        fail(r, ok ? RECORD_OK : RECORD_FAILED);
    }
}

static void on_lost(void *arg, const char *why)
{
    struct record *r = arg;

    if (r->state == DONE)
        return;
    say(r, "%s", why);
    fail(r, RECORD_FAILED);
}

/* ---- snapshots ---- */

static void next_snapshot(struct record *r);

static void on_snapshot_done(void *arg, bool ok)
{
    struct record *r = arg;

    if (ok && r->conf.talkative)
        say(r, "saved the snapshot %s", r->snapshot_out.shown);
    pktout_fini(&r->snapshot_out);
    snapshot_free(r->snapshot);
    r->snapshot = NULL;
    next_snapshot(r);
    if (r->state == DONE)
        finish(r);
}

static void next_snapshot(struct record *r)
{
    struct snapshot_conf conf = {
        .address = r->conf.address, .out = &r->snapshot_out, .done = on_snapshot_done, .arg = r};
    char err[512], *path;
    struct hit *h;
    int rc;

    while (r->snapshot == NULL && r->n_hits > 0) {
        h = &r->hits[r->first_hit];
        r->first_hit = (r->first_hit + 1) % HITS_MAX;
        r->n_hits--;
        path = str_format("%s.%u", r->conf.out->path ? r->conf.out->path : "-", r->snapshots++);
        rc = pktout_open(&r->snapshot_out, path, false, err, sizeof(err));
        free(path);
        if (rc != 0) {
            say(r, "no snapshot: %s", err);
            continue;
        }
        h->clone.trigger_name = bytes_str(h->name);
        h->clone.trigger_producer = bytes_str(h->producer);
        conf.clone = &h->clone;
        r->snapshot = snapshot_new(r->reactor, &conf);
    }
}

static void copy_text(char *dst, size_t size, struct bytes_view v)
{
    size_t n = v.n < size ? v.n : size - 1;

    if (n > 0)
        memcpy(dst, v.p, n);
    dst[n] = '\0';
}

static void read_hit(struct hit *h, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;

    memset(h, 0, sizeof(*h));
    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_ObservableEvents_CloneTriggerHit_tracing_session_id)
            h->clone.session_id = f.num;
        else if (f.id == PBF_ObservableEvents_CloneTriggerHit_trigger_name)
            copy_text(h->name, sizeof(h->name), f.data);
        else if (f.id == PBF_ObservableEvents_CloneTriggerHit_producer_name)
            copy_text(h->producer, sizeof(h->producer), f.data);
        else if (f.id == PBF_ObservableEvents_CloneTriggerHit_producer_uid)
            h->clone.trigger_uid = (int32_t)f.num;
        else if (f.id == PBF_ObservableEvents_CloneTriggerHit_boot_time_ns)
            h->clone.trigger_boot_ns = f.num;
        else if (f.id == PBF_ObservableEvents_CloneTriggerHit_trigger_delay_ms)
            h->clone.trigger_delay_ms = f.num;
    }
}

static void on_hit(struct record *r, struct bytes_view msg)
{
    if (r->state == DONE || r->conf.out == NULL)
        return;
    if (r->n_hits == HITS_MAX) {
        say(r,
            "no snapshot: %d others are waiting already; triggers arrive faster than they can be "
            "saved",
            HITS_MAX);
        return;
    }
    if (r->hits == NULL)
        r->hits = alloc_array(HITS_MAX, sizeof(*r->hits));
    read_hit(&r->hits[(r->first_hit + r->n_hits++) % HITS_MAX], msg);
    next_snapshot(r);
}

static void on_event(void *arg, struct bytes_view events)
{
    struct record *r = arg;
    struct bytes_cur cur = bytes_cur(events);
    struct bytes_field f;

    while (bytes_next(&cur, &f)) {
        if (f.id == PBF_ObservableEvents_all_data_sources_started && f.num != 0 && !r->started) {
            r->started = true;
            bg_notify_send(r->conf.notify, 0);
            if (r->conf.started != NULL)
                r->conf.started(r->conf.arg);
        } else if (f.id == PBF_ObservableEvents_clone_trigger_hit && f.type == BYTES_LEN) {
            on_hit(r, f.data);
        }
    }
}

/* ---- the beginning ---- */

static void on_failsafe(void *arg)
{
    struct record *r = arg;

    say(r, "the trace did not end in its time; giving up. The service may hang: see its log");
    fail(r, RECORD_FAILED);
}

static void on_tick(void *arg)
{
    struct record *r = arg;

    if (r->state == RUNNING)
        conssession_stats(r->session);
    progress_draw(&r->progress);
}

static void arm_failsafe(struct record *r)
{
    uint64_t expected = traceconf_expected_ms(&r->facts);

    if (expected == 0 || r->conf.cl->action != CMDLINE_RECORD)
        return;
    deadline_arm_ms(&r->failsafe,
                    expected + FAILSAFE_MS + r->facts.flush_timeout_ms + r->facts.stop_timeout_ms);
}

static void on_connected(void *arg)
{
    struct record *r = arg;
    uint64_t seconds = (traceconf_expected_ms(&r->facts) + 999) / 1000;

    switch (r->conf.cl->action) {
    case CMDLINE_DETACH:
        enter(r, DETACHING);
        return;
    case CMDLINE_RECORD:
        enter(r, RUNNING);
        r->running_ns = chrono_mono_ns();
        break;
    default:
        enter(r, ATTACHING);
        return;
    }
    arm_failsafe(r);
    if (r->conf.talkative && r->conf.cl->command == NULL && seconds > 0)
        say(r, "recording for %" PRIu64 " s; Ctrl-C stops earlier and keeps the data", seconds);
    else if (r->conf.talkative && r->conf.cl->command == NULL)
        say(r, "recording until Ctrl-C or a signal stops it; the data is kept");
    if (r->facts.deferred_start && r->conf.talkative)
        say(r, "deferred_start is set: nothing is recorded, as this program never starts such a "
               "session");
    if (r->conf.talkative && r->conf.terminal) {
        progress_begin(&r->progress, r->facts.duration_ms, r->facts.buffer_kb,
                       r->facts.write_into_file);
        deadline_every(&r->tick, DEADLINE_MONO, PROGRESS_MS * CHRONO_MS);
    }
    if (r->conf.check_sources)
        conssession_query(r->session, false);
    /* a session that waits for its start trigger never starts by itself; that the service has got
     * it is known when it answers a later call */
    if (r->conf.started != NULL && r->facts.trigger_mode == TRACECONF_START_TRACING)
        conssession_capabilities(r->session);
    if (r->stop_pending)
        record_stop(r, "");
}

static const struct conssession_ops ops = {.connected = on_connected,
                                           .lost = on_lost,
                                           .ended = on_ended,
                                           .packet = on_packet,
                                           .batch = on_batch,
                                           .event = on_event,
                                           .done = on_done};

/* R310, R311. The session keeps these calls until it is connected, in this order. */
static int enable(struct record *r)
{
    const struct traceconf *tc = &r->conf.cl->conf;
    unsigned mask = r->conf.want_started ? CONSSESSION_ALL_STARTED : 0;
    bool pass_fd = r->facts.write_into_file && r->facts.output_path.n == 0;
    struct bytesbuf config;
    int rc;

    bytesbuf_init(&config, TRACECONF_MAX);
    rc = traceconf_finish(tc, &r->conf.cl->extras, &config);
    if (rc == 0 && config.n > TRACECONF_WIRE_MAX) {
        say(r, "the trace config is too large: %zu bytes encoded, and the service takes at most %u",
            config.n, TRACECONF_WIRE_MAX);
        rc = -EMSGSIZE;
    }
    if (rc == 0) {
        if (r->facts.trigger_mode == TRACECONF_CLONE_SNAPSHOT)
            mask |= CONSSESSION_CLONE_TRIGGER;
        if (mask != 0)
            conssession_observe(r->session, mask);
        conssession_enable(r->session, bytesbuf_view(&config), pass_fd ? r->conf.out->fd : -1);
        if (r->conf.cl->action == CMDLINE_DETACH)
            conssession_detach(r->session, r->conf.cl->key);
    }
    bytesbuf_fini(&config);
    return rc;
}

struct record *record_new(struct reactor *reactor, const struct record_conf *conf)
{
    struct record *r = alloc_new(struct record);
    char err[512];
    int rc = 0;

    r->reactor = reactor;
    r->conf = *conf;
    r->facts = conf->cl->conf.facts;
    r->losses = losses_new();
    progress_init(&r->progress);
    bytesbuf_init(&r->scratch, SCRATCH_MAX + 1);
    deadline_init(&r->failsafe, reactor, "failsafe", on_failsafe, r);
    deadline_init(&r->watchdog, reactor, "read-back watchdog", on_watchdog, r);
    deadline_init(&r->tick, reactor, "progress", on_tick, r);
    r->session = conssession_new(reactor, &ops, r);
    if (conf->cl->action == CMDLINE_RECORD || conf->cl->action == CMDLINE_DETACH)
        rc = enable(r);
    else
        conssession_attach(r->session, conf->cl->key);
    if (rc == 0) {
        rc = conssession_connect(r->session, conf->address, err, sizeof(err));
        if (rc != 0)
            say(r, "%s", err);
    } else if (conf->out != NULL) {
        (void)pktout_discard_empty(conf->out);
    }
    if (rc == 0)
        return r;
    record_free(r);
    return NULL;
}

void record_free(struct record *r)
{
    if (r == NULL)
        return;
    deadline_cancel(&r->failsafe);
    deadline_cancel(&r->watchdog);
    deadline_cancel(&r->tick);
    progress_clear(&r->progress);
    if (r->snapshot != NULL) {
        snapshot_free(r->snapshot);
        pktout_fini(&r->snapshot_out);
    }
    conssession_free(r->session);
    losses_free(r->losses);
    bytesbuf_fini(&r->scratch);
    free(r->hits);
    free(r);
}
