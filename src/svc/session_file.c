/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a session into its file (service.md section 10): when it is drained, which flushes go
 * with that, and how it ends. A drain is a task that writes one batch per slice; while the file
 * cannot take more the drain waits, and the trace buffer goes on taking data. The file is owned
 * from session_file_open until it is closed, and while it is there ReadBuffers gives nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define FILE_BATCH     1048576 /* bytes, R165 */
#define FLAGS_PERIODIC 0x11    /* R164 */
#define PATH_SHOWN     120     /* bytes, in messages */

/* How long a target may stand still when all are waiting for its end: a pipe that nobody reads, and
 * a disk, which is slow but comes back. Nobody else waits for either. */
#define PIPE_PATIENCE (5 * CHRONO_SEC)
#define DISK_PATIENCE (60 * CHRONO_SEC)

enum { MODE_DISABLED = 2, MODE_ENABLED = 3 }; /* TraceConfig.WriteFlushMode */

/* ---- policy (R163) ---- */

static uint32_t drain_period(const struct session *s)
{
    uint32_t ms = s->cfg->file_write_period_ms;
    if (ms == 0)
        return DEFAULTS_DRAIN_MS;
    return ms < DEFAULTS_DRAIN_MIN_MS ? DEFAULTS_DRAIN_MIN_MS : ms;
}

bool session_file_flushes_before(const struct session *s)
{
    uint32_t mode = s->cfg->write_flush_mode;
    return mode == MODE_ENABLED ||
           (mode != MODE_DISABLED && drain_period(s) > DEFAULTS_AUTO_FLUSH_MS);
}

uint32_t session_file_flush_period(const struct session *s)
{
    if (!s->cfg->write_into_file || s->cfg->write_flush_mode == MODE_DISABLED)
        return s->cfg->flush_period_ms;
    return session_file_flushes_before(s) ? 0 : DEFAULTS_AUTO_FLUSH_MS;
}

/* ---- the end of a file ---- */

static uint64_t patience(const struct session *s)
{
    return filewr_on_disk(s->file) ? DISK_PATIENCE : PIPE_PATIENCE;
}

/* R169: its consumer is told at the end. */
static void note_failure(struct session *s)
{
    char why[200];
    if (filewr_state(s->file) != FILEWR_FAILED || s->file_failed)
        return;
    s->file_failed = true;
    snprintf(why, sizeof(why),
             "writing into the output file failed after %" PRIu64
             " bytes: %s; what was written stays readable",
             filewr_written(s->file), filewr_why(s->file));
    log_warn("session %" PRIu64 " ends: %s", s->id, why);
    session_set_error(s, why);
}

static void close_file(struct session *s)
{
    bool clone = s->state == SESSION_CLONED;
    const char *why = filewr_state(s->file) == FILEWR_FAILED ? filewr_why(s->file) : NULL;
    if (!clone)
        note_failure(s);
    filewr_free(s->file);
    s->file = NULL;
    s->draining = false;
    if (clone)
        session_clone_file_done(s, why);
    else if (s->file_final)
        session_stopped(s);
}

/* Nothing more is written; close_file follows from the loop. */
static void end_file(struct session *s)
{
    if (s->file_over)
        return;
    s->file_over = true;
    s->draining = false;
    filewr_finish(s->file, patience(s));
}

/* The file is full or broken (R168, R169). */
static void end_early(struct session *s)
{
    if (filewr_state(s->file) == FILEWR_FULL)
        log_info("session %" PRIu64 ": its file has reached max_file_size_bytes; the session ends",
                 s->id);
    else if (s->state != SESSION_CLONED)
        note_failure(s);
    end_file(s);
    if (!session_running(s))
        return;
    if (s->consumer)
        session_disable(s, NULL);
    else
        session_free(s, NULL); /* detached: nobody is there to do it (L3) */
}

static void on_ready(void *arg, struct filewr *w)
{
    struct session *s = arg;
    if (filewr_done(w))
        close_file(s);
    else if (filewr_state(w) == FILEWR_FAILED && !s->file_over)
        end_early(s);
    else if (s->draining)
        task_wake(&s->drain);
}

/* ---- one drain ---- */

static void arm(struct session *s)
{
    uint64_t period = (uint64_t)drain_period(s) * CHRONO_MS;
    deadline_arm(&s->drain_timer, period - chrono_mono_ns() % period);
}

static void drained(struct session *s)
{
    s->draining = false;
    filewr_drained(s->file);
    if (s->file_final)
        end_file(s);
    else
        arm(s);
}

/* Writes one batch. */
static enum task_result run(void *arg, struct task_budget *budget)
{
    struct session *s = arg;
    bool more = false;
    (void)budget;
    if (!s->file || s->file_over || !s->draining || filewr_state(s->file) == FILEWR_BUSY)
        return TASK_DONE; /* on_ready wakes us */
    if (filewr_state(s->file) == FILEWR_OPEN && !session_trigger_waiting(s)) {
        int err = session_read_batch(s, FILE_BATCH, filewr_begin(s->file), &more);
        if (err < 0)
            log_warn("session %" PRIu64 ": reading for its file failed: %s", s->id, err_text(err));
        filewr_commit(s->file);
    }
    enum filewr_state state = filewr_state(s->file);
    if (state == FILEWR_FULL || state == FILEWR_FAILED) {
        end_early(s);
        return TASK_DONE;
    }
    if (more)
        return state == FILEWR_BUSY ? TASK_DONE : TASK_AGAIN;
    drained(s);
    return TASK_DONE;
}

static void begin(struct session *s)
{
    s->draining = true;
    task_wake(&s->drain);
}

static void flushed(void *arg, struct session *s, uint64_t cookie, bool ok)
{
    (void)arg;
    (void)cookie;
    (void)ok; /* R164: the drain comes whatever the outcome */
    if (s && s->file && !s->file_over && !s->draining && !s->file_final)
        begin(s);
}

static void on_timer(void *arg)
{
    struct session *s = arg;
    if (!s->file || s->file_over || s->draining)
        return;
    if (session_running(s) && session_file_flushes_before(s))
        session_flush_start(s, 0, FLAGS_PERIODIC, SESSION_FLUSH_ALL, flushed, NULL, 0);
    else
        begin(s);
}

/* ---- what the session asks ---- */

void session_file_init(struct session *s)
{
    task_init(&s->drain, s->svc->reactor, "file drain", run, s);
    deadline_init(&s->drain_timer, s->svc->reactor, "file drain timer", on_timer, s);
}

static struct filewr_options options(struct service *svc, uid_t uid, const struct tracecfg *cfg)
{
    return (struct filewr_options){
        .fd = -1,
        .prefix = -1,
        .host = svc->files,
        .book = svc->book,
        .uid = uid,
        .max_size = cfg->max_file_size_bytes,
        .sync_each = cfg->fflush_post_write == 2,
        .ready = on_ready,
    };
}

void session_file_explain(const struct tracecfg *cfg, int err, const char *text, char *why,
                          size_t whylen)
{
    int n = cfg->output_path.n > PATH_SHOWN ? PATH_SHOWN : (int)cfg->output_path.n;
    const char *path = (const char *)cfg->output_path.p;
    if (err == -EEXIST)
        snprintf(why, whylen, "output_path %.*s exists; remove it or choose another name", n, path);
    else
        snprintf(why, whylen,
                 "cannot create output_path %.*s: %s; choose a folder that exists and "
                 "that the service may write to",
                 n, path, text);
}

/* filewr_new said err. */
static void explain_unusable(int err, char *why, size_t whylen)
{
    if (err == ERR_QUOTA)
        snprintf(why, whylen,
                 "as many files are being written for this user as may be; wait until some are "
                 "done, or raise --limit-files");
    else
        snprintf(why, whylen, "the output file cannot be used: %s", err_text(err));
}

int session_file_create(struct service *svc, uid_t uid, const struct tracecfg *cfg,
                        void (*ready)(void *arg, struct filewr *w), void *arg, struct filewr **out,
                        char *why, size_t whylen)
{
    struct bytes_view path = cfg->output_path;
    struct filewr_options opt = options(svc, uid, cfg);
    if (memchr(path.p, '\0', path.n)) { /* V24 */
        snprintf(why, whylen, "output_path holds a NUL byte");
        return ERR_BAD_CONFIG;
    }
    char *text = alloc_strndup((const char *)path.p, path.n);
    opt.path = text;
    opt.ready = ready;
    opt.arg = arg;
    int err = filewr_new(svc->reactor, &opt, out);
    if (err)
        explain_unusable(err, why, whylen);
    free(text);
    return err ? ERR_BAD_CONFIG : 0;
}

/* V23. */
static int open_passed(struct session *s, int fd, char *why, size_t whylen)
{
    struct filewr_options opt = options(s->svc, s->uid, s->cfg);
    if (fd < 0) {
        snprintf(why, whylen,
                 "write_into_file needs an output_path, or a file descriptor with the request");
        return ERR_BAD_CONFIG;
    }
    opt.fd = fd;
    opt.arg = s;
    int err = filewr_new(s->svc->reactor, &opt, &s->file);
    if (err)
        explain_unusable(err, why, whylen);
    return err;
}

int session_file_open(struct session *s, int fd, struct filewr *made, char *why, size_t whylen)
{
    if (made) {
        filewr_hand_over(made, on_ready, s);
        s->file = made;
        return 0;
    }
    if (s->cfg->write_into_file)
        return open_passed(s, fd, why, whylen);
    if (fd >= 0) /* R160 */
        close(fd);
    return 0;
}

int session_file_adopt(struct session *s, int fd, int prefix)
{
    const struct filewr_options opt = {.fd = fd,
                                       .host = s->svc->files,
                                       .book = s->svc->book,
                                       .uid = s->uid,
                                       .prefix = prefix,
                                       .ready = on_ready,
                                       .arg = s};
    return filewr_new(s->svc->reactor, &opt, &s->file);
}

void session_file_start(struct session *s)
{
    arm(s);
}

void session_file_finish(struct session *s)
{
    s->emit_stats = true;
    s->file_final = true;
    deadline_cancel(&s->drain_timer);
    if (s->file_over)
        return;
    filewr_hurry(s->file, patience(s));
    begin(s);
}

void session_file_free(struct session *s)
{
    task_stop(&s->drain);
    deadline_cancel(&s->drain_timer);
    filewr_free(s->file);
    s->file = NULL;
}
