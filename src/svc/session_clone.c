/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clones (service.md 12.8): a read-only copy of a session at one moment. A clone in the making
 * belongs to its source: it waits for two flushes, one for each group of buffers, and captures each
 * group when its flush is over. If the source or the consumer goes before that, so does what was
 * captured. Then it becomes a session of its own that the cloning consumer owns, and no longer
 * needs the source: what the buffers held at the capture is copied by a task of the new session, in
 * slices, while the source goes on. Reads of the new session wait until all is there. A clone into
 * a file then gets what the source's file held at the capture and after that its own buffers, and
 * is announced when that is complete.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/defaults.h"
#include "reactor/err.h"
#include "svc/consumer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_vm.h"

#define BUGREPORT_ID          UINT64_MAX
#define FLAGS_CLONE           0x13 /* R213 */
#define FLAGS_CLONE_BUGREPORT 0x113
#define COPY_STEP             (128u << 10) /* bytes of a buffer between two looks at the clock */
#define COPY_AT_ONCE          (256u << 10) /* bytes copied before the first slice (R214) */

struct request {
    uint64_t session_id;
    struct bytes_view name; /* borrow */
    bool skip_filter, for_bugreport;
    struct bytes_view trigger_name, trigger_producer; /* borrow */
    uint64_t trigger_uid, trigger_boot_ns, trigger_delay_ms;
};

struct session_clone {
    struct list node;       /* in source.clones, until all is captured */
    struct session *source; /* borrow, until all is captured */
    struct service *svc;    /* borrow */
    uint64_t consumer;      /* actor id of the endpoint */
    uint64_t cookie;        /* its request */
    int fd;                 /* own; -1: not into a file */
    bool skip_filter;
    bool flushed_ok;
    int err;                         /* the first failure of a capture */
    unsigned groups_left;            /* flushes that will still call back */
    bool abandoned;                  /* nothing is left of it but the struct, for those calls */
    uint64_t requested_ns;           /* boot clock */
    struct session_trigger *trigger; /* own; NULL: none */
    struct session_buffer *buffers;  /* own: captured so far */
    struct tbuf_clone **copies;      /* own: of `buffers`; NULL: nothing to copy, or all copied */
    uint64_t *captured_ns;           /* own: when, boot clock */
    size_t nbuffers;
    int prefix; /* own: where the source's file comes from (filewr_share, R211); -1: it has none */
};

/* ---- answers ---- */

static void answer(struct consumer *c, uint64_t cookie, const char *error, const struct session *s)
{
    struct bytesbuf b;
    if (!c || !cookie || c->clone_cookie != cookie)
        return; /* gone, or replaced by a newer request */
    c->clone_cookie = 0;
    bytesbuf_init(&b, 1024);
    bytesbuf_pb_varint(&b, PBF_CloneSessionResponse_success, s != NULL);
    if (s) {
        bytesbuf_pb_varint(&b, PBF_CloneSessionResponse_uuid_msb, s->uuid_msb);
        bytesbuf_pb_varint(&b, PBF_CloneSessionResponse_uuid_lsb, s->uuid_lsb);
        bytesbuf_pb_varint(&b, PBF_CloneSessionResponse_was_write_into_file, s->clone_had_file);
    } else {
        bytesbuf_pb_str(&b, PBF_CloneSessionResponse_error, error);
    }
    consumer_reply(c, cookie, &b);
    bytesbuf_fini(&b);
}

static void trigger_free(struct session_trigger *t)
{
    if (!t)
        return;
    free(t->name.p);
    free(t->producer.p);
    free(t);
}

/* Its consumer may ask for another one. */
static void leave_consumer(const struct session_clone *k)
{
    struct consumer *c = service_consumer_of(k->svc, k->consumer);
    if (c && c->cloning == k)
        c->cloning = NULL;
}

/* Frees a clone in the making; error NULL: nobody is told. While flushes of it are pending the
 * empty struct stays for them. */
static void give_up(struct session_clone *k, const char *error)
{
    if (error)
        answer(service_consumer_of(k->svc, k->consumer), k->cookie, error, NULL);
    leave_consumer(k);
    if (k->source)
        list_remove(&k->node);
    for (size_t i = 0; i < k->nbuffers; i++) {
        if (k->copies[i]) {
            tbuf_clone_cancel(k->copies[i]);
            k->buffers[i].tb = NULL;
        }
        if (k->source) { /* else they are the new session's */
            if (k->buffers[i].tb)
                giveback_take(&k->svc->giveback, tbuf_free_some, k->buffers[i].tb);
            charge_release(&k->buffers[i].charge);
        }
    }
    if (k->fd >= 0)
        close(k->fd);
    if (k->prefix >= 0)
        close(k->prefix);
    trigger_free(k->trigger);
    if (k->source)
        free(k->buffers);
    free(k->copies);
    free(k->captured_ns);
    k->abandoned = true;
    if (k->groups_left == 0)
        free(k);
}

void session_clone_forget(struct consumer *c)
{
    if (c->cloning)
        give_up(c->cloning, NULL);
}

void session_clone_abort_all(struct session *s)
{
    while (!list_empty(&s->clones))
        give_up(list_first(&s->clones, struct session_clone, node), "Original session ended");
}

/* ---- capture (R215) ---- */

/* A new, empty buffer in place of one that was given away or is to be cleared. */
static int renew_buffer(struct session_buffer *b)
{
    struct tbuf *fresh;
    const struct tracecfg *cfg = b->session->cfg;
    int err = tbuf_new(tbuf_size(b->tb), tbuf_policy(b->tb),
                       cfg->no_histograms ? TBUF_NO_HISTOGRAMS : 0, &fresh);
    if (err)
        return err;
    err = tbuf_vm_renew(fresh, b->tb);
    if (err) {
        tbuf_free(fresh);
        return err;
    }
    b->tb = fresh;
    return 0;
}

static int capture_buffer(struct session_clone *k, size_t i, uid_t uid)
{
    struct session_buffer *from = &k->source->buffers[i], *to = &k->buffers[i];
    struct tbuf *tb = from->tb;
    uint64_t vms =
        k->source->cfg->buffers[i].transfer_on_clone ? tbuf_vm_reserved(tb) : tbuf_vm_memory(tb);
    int err = charge_take(k->svc->book, &to->charge, uid, CHARGE_BUFFER_BYTES, tbuf_size(tb) + vms);
    if (err)
        return err;
    if (k->source->cfg->buffers[i].transfer_on_clone) {
        err = renew_buffer(from);
        if (err)
            return err;
        tbuf_set_read_only(tb);
        to->tb = tb;
    } else {
        err = tbuf_clone_begin(tb, &k->copies[i]);
        if (!err)
            to->tb = tbuf_clone_target(k->copies[i]);
    }
    k->captured_ns[i] = chrono_boot_ns();
    return err;
}

static void capture_group(struct session_clone *k, bool transfer)
{
    const struct consumer *c = service_consumer_of(k->svc, k->consumer);
    for (size_t i = 0; c && i < k->nbuffers && !k->err; i++) {
        if (k->source->cfg->buffers[i].transfer_on_clone == transfer)
            k->err = capture_buffer(k, i, c->uid);
    }
}

/* ---- the new session (R217, R218) ---- */

static void move_triggers(struct session *to, struct session *from)
{
    list_splice(&to->triggers, &from->triggers);
    to->ntriggers = from->ntriggers;
    from->ntriggers = 0;
    to->trigger_texts = from->trigger_texts;
    from->trigger_texts = 0;
    list_for_each (it, &to->triggers)
        list_entry(it, struct session_trigger, node)->emitted = false;
}

static int copy_parts(struct session *to, struct session_clone *k)
{
    struct session *from = k->source;
    const struct tracecfg *cfg = to->cfg;
    enum compress_codec codec = compress_choose(cfg->want_zstd, cfg->want_deflate);
    char why[TRACECFG_WHY_MAX];
    int err = session_event_copy(to, from);
    if (!err && cfg->has_trace_filter && !k->skip_filter)
        err = filter_new(cfg->trace_filter, &to->filter, why, sizeof(why));
    if (!err && codec != COMPRESS_NONE)
        err = compress_new(codec, cfg->zstd_level, &to->compress);
    to->initial_clocks = from->initial_clocks;
    to->has_initial_clocks = from->has_initial_clocks;
    to->initial_clocks_pending = from->initial_clocks_pending;
    to->clocks = from->clocks;
    to->invalid_packets = from->invalid_packets;
    to->flushes_requested = from->flushes_requested;
    to->flushes_succeeded = from->flushes_succeeded;
    to->flushes_failed = from->flushes_failed;
    to->final_flush_outcome = k->flushed_ok ? 1 : 2;
    to->uuid_lsb = from->uuid_lsb;
    do
        to->uuid_msb = chrono_random_u64();
    while (to->uuid_msb == from->uuid_msb);
    to->emit_stats = true;
    return err;
}

static void take_captured(struct session *to, struct session_clone *k)
{
    to->buffers = k->buffers;
    to->nbuffers = k->nbuffers;
    session_event_record_at(to, SELFPKT_CLONE_STARTED, 1, k->requested_ns);
    for (size_t i = 0; i < to->nbuffers; i++) {
        to->buffers[i].session = to;
        to->buffers[i].index = (uint16_t)i;
        session_event_record_at(to, SELFPKT_BUFFER_CLONED, (uint32_t)i, k->captured_ns[i]);
    }
    to->clone_trigger = k->trigger;
    k->trigger = NULL;
    move_triggers(to, k->source);
    session_event_record(to, SELFPKT_TRACING_DISABLED, true);
}

static int make_session(struct session_clone *k, struct consumer *c, struct session **out)
{
    struct tracecfg *cfg;
    struct session *s;
    int err = tracecfg_new(tracecfg_view(k->source->cfg), &cfg);
    if (err)
        return err;
    err = session_new(k->svc, c->uid, cfg, &s);
    if (err)
        return err;
    err = copy_parts(s, k);
    if (err) {
        session_destroy(s);
        return err;
    }
    take_captured(s, k);
    list_remove(&k->node);
    leave_consumer(k);
    k->source = NULL;
    s->making = k;
    s->consumer = c->actor.id;
    c->session = s->id;
    session_enter(s, SESSION_CLONED);
    *out = s;
    return 0;
}

/* ---- into a file (R211, R221) ---- */

/* What the source's file holds at the capture: what comes later was captured with the buffers. The
 * process that writes it hands it on, when it is that far, to the one that writes the clone's. */
static int capture_file(struct session_clone *k)
{
    int ends[2];
    struct filewr *file = k->source->file;
    if (k->fd < 0 || !session_file_is_open(k->source))
        return 0;
    if (!filewr_on_disk(file))
        return -ESPIPE; /* what was drained into a pipe cannot be had again */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return -errno;
    k->prefix = ends[0];
    return filewr_share(file, ends[1]);
}

static void refuse_file(struct session *s, const char *why)
{
    struct consumer *c = service_consumer_of(s->svc, s->consumer);
    char text[160];
    snprintf(text, sizeof(text), "the file of the session could not be copied: %s", why);
    if (c)
        answer(c, c->clone_cookie, text, NULL);
    session_free(s, NULL);
}

static void start_file(struct session *s, struct session_clone *k)
{
    int out = k->fd, prefix = k->prefix;
    k->fd = -1;
    k->prefix = -1;
    int err = session_file_adopt(s, out, prefix);
    if (err) {
        refuse_file(s, err_text(err));
        return;
    }
    s->clone_had_file = true;
    session_file_finish(s);
}

void session_clone_file_done(struct session *s, const char *why)
{
    struct consumer *c = service_consumer_of(s->svc, s->consumer);
    if (why)
        refuse_file(s, why);
    else if (c)
        answer(c, c->clone_cookie, NULL, s);
}

/* ---- copying the buffers ---- */

/* One piece of a buffer; true: there is more. A huge page that takes too long (see svc/drain) is
 * the last one that the copy takes. */
static bool copy_piece(struct tbuf_clone *k, size_t max, size_t *bytes)
{
    uint64_t begin = chrono_cpu_ns();
    bool more = tbuf_clone_step(k, max, bytes);
    if (max <= DEFAULTS_TASK_BUDGET_SIZE && chrono_cpu_ns() - begin > DEFAULTS_TASK_BUDGET_NS)
        tbuf_small_pages(tbuf_clone_target(k));
    return more;
}

/* Copies about `max` bytes of what is left; returns how many. Less than `max`: all is there. */
static size_t copy_some(struct session_clone *k, size_t max)
{
    size_t done = 0;
    for (size_t i = 0; i < k->nbuffers && done < max; i++) {
        size_t bytes = 0;
        if (!k->copies[i] || copy_piece(k->copies[i], max - done, &bytes)) {
            done += bytes;
            continue;
        }
        done += bytes;
        int err = tbuf_clone_finish(k->copies[i], &k->buffers[i].tb);
        k->copies[i] = NULL;
        if (err) {
            k->buffers[i].tb = NULL;
            k->err = err;
            return 0;
        }
    }
    return done;
}

/* All is there, or k->err says why not. */
static void complete(struct session *s)
{
    struct session_clone *k = s->making;
    struct consumer *c = service_consumer_of(k->svc, k->consumer);
    struct msg_empty room = {0};
    char text[128];
    s->making = NULL;
    if (k->err) {
        snprintf(text, sizeof(text), "the buffers cannot be copied: %s", err_text(k->err));
        give_up(k, text);
        session_free(s, NULL);
        return;
    }
    if (k->prefix >= 0)
        start_file(s, k);
    else
        answer(c, k->cookie, NULL, s);
    give_up(k, NULL);
    ACTOR_POST(s->svc->reactor, s->consumer, s->actor.id, MSG_C_READ_ROOM, &room);
}

static enum task_result copy_slice(void *arg, struct task_budget *budget)
{
    struct session *s = arg;
    size_t n;
    if (!s->making)
        return TASK_DONE;
    do {
        n = copy_some(s->making, COPY_STEP);
        if (n < COPY_STEP) {
            complete(s);
            return TASK_DONE;
        }
    } while (task_spend_slow(budget, n));
    return TASK_AGAIN;
}

void session_clone_init(struct session *s)
{
    task_init(&s->copying, s->svc->reactor, "clone", copy_slice, s);
}

void session_clone_cancel(struct session *s)
{
    struct session_clone *k = s->making;
    task_stop(&s->copying);
    s->making = NULL;
    if (k)
        give_up(k, "the new session was freed before it was complete");
}

/* ---- the end of the capture ---- */

static void finish(struct session_clone *k)
{
    struct consumer *c = service_consumer_of(k->svc, k->consumer);
    struct session *s;
    char text[128];
    if (!c) { /* R222 */
        give_up(k, NULL);
        return;
    }
    if (consumer_session(c)) { /* R216 */
        give_up(k, "this connection has a tracing session already; use another one to clone");
        return;
    }
    int err = k->err ? k->err : capture_file(k);
    if (!err)
        err = make_session(k, c, &s);
    if (err) {
        snprintf(text, sizeof(text), "the buffers cannot be copied: %s", err_text(err));
        give_up(k, text);
        return;
    }
    if (copy_some(k, COPY_AT_ONCE) < COPY_AT_ONCE)
        complete(s);
    else
        task_wake(&s->copying);
}

/* One group's flush is over: cookie 1 for the buffers that are moved, 0 for the rest. */
static void group_flushed(void *arg, struct session *s, uint64_t cookie, bool ok)
{
    struct session_clone *k = arg;
    k->groups_left--;
    if (k->abandoned) {
        if (k->groups_left == 0)
            free(k);
        return;
    }
    if (!s)
        return; /* session_clone_abort_all follows */
    k->flushed_ok = k->flushed_ok && ok;
    capture_group(k, cookie == 1);
    if (k->groups_left == 0)
        finish(k);
}

/* ---- the request ---- */

static int parse(struct bytes_view bytes, struct request *r)
{
    struct bytes_cur cur = bytes_cur(bytes);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        switch (f.id) {
        case PBF_CloneSessionRequest_session_id:
            r->session_id = f.num;
            break;
        case PBF_CloneSessionRequest_unique_session_name:
            r->name = f.data;
            break;
        case PBF_CloneSessionRequest_skip_trace_filter:
            r->skip_filter = f.num != 0;
            break;
        case PBF_CloneSessionRequest_for_bugreport:
            r->for_bugreport = f.num != 0;
            break;
        case PBF_CloneSessionRequest_clone_trigger_name:
            r->trigger_name = f.data;
            break;
        case PBF_CloneSessionRequest_clone_trigger_producer_name:
            r->trigger_producer = f.data;
            break;
        case PBF_CloneSessionRequest_clone_trigger_trusted_producer_uid:
            r->trigger_uid = f.num;
            break;
        case PBF_CloneSessionRequest_clone_trigger_boot_time_ns:
            r->trigger_boot_ns = f.num;
            break;
        case PBF_CloneSessionRequest_clone_trigger_delay_ms:
            r->trigger_delay_ms = f.num;
            break;
        default:
            break;
        }
    }
    return bytes_done(&cur) ? 0 : ERR_BAD_REQUEST;
}

static struct session *best_bugreport(struct service *svc)
{
    struct session *best = NULL;
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        int32_t score = s->cfg->bugreport_score;
        if (session_running(s) && score > 0 && (!best || score > best->cfg->bugreport_score))
            best = s;
    }
    return best;
}

static struct session *by_name(struct service *svc, struct bytes_view name)
{
    list_for_each (it, &svc->sessions) {
        struct session *s = list_entry(it, struct session, node);
        if (name.n && s->state != SESSION_CLONED && bytes_equal(s->cfg->unique_session_name, name))
            return s;
    }
    return NULL;
}

/* R209, R210, R211: the source, or NULL and why not. */
static struct session *select_source(struct consumer *c, const struct request *r, int fd,
                                     const char **why)
{
    struct session *s = r->session_id == BUGREPORT_ID ? best_bugreport(c->svc)
                        : r->session_id               ? service_session(c->svc, r->session_id)
                                                      : by_name(c->svc, r->name);
    if (!s)
        *why = r->session_id == BUGREPORT_ID ? "No tracing sessions eligible for bugreport found"
                                             : "Tracing session not found";
    else if (c->uid != 0 && c->uid != s->uid)
        *why = "Not allowed to clone a session from another UID";
    else if (session_file_is_open(s) && fd < 0)
        *why = "the session writes into a file; a file descriptor must come with the request";
    else
        return s;
    return NULL;
}

static int clear_buffers(struct session *s) /* R212 */
{
    for (size_t i = 0; i < s->nbuffers; i++) {
        struct session_buffer *b = &s->buffers[i];
        struct tbuf *old = b->tb;
        if (!s->cfg->buffers[i].clear_before_clone || !tbuf_has_data(old))
            continue;
        int err = renew_buffer(b);
        if (err)
            return err;
        if (tbuf_is_read_only(old))
            tbuf_set_read_only(b->tb);
        giveback_take(&s->svc->giveback, tbuf_free_some, old);
    }
    return 0;
}

/* A clone of a clone that is not complete: rare enough to be completed at once. */
static int settle(struct session *s)
{
    if (!s->making)
        return 0;
    (void)copy_some(s->making, SIZE_MAX);
    return s->making->err;
}

static struct session_trigger *make_trigger(const struct request *r) /* R220 */
{
    if (!r->trigger_name.n)
        return NULL;
    struct session_trigger *t = alloc_new(struct session_trigger);
    if (msg_body_copy(&t->name, r->trigger_name.p, r->trigger_name.n) ||
        msg_body_copy(&t->producer, r->trigger_producer.p, r->trigger_producer.n)) {
        trigger_free(t);
        return NULL;
    }
    t->boot_ns = r->trigger_boot_ns;
    t->uid = (uid_t)r->trigger_uid;
    t->delay_ms = (uint32_t)r->trigger_delay_ms;
    return t;
}

void session_clone_request(struct consumer *c, struct bytes_view request, int fd)
{
    struct request r = {0};
    const char *why = "the request does not parse";
    struct session *s = parse(request, &r) ? NULL : select_source(c, &r, fd, &why);
    if (fd >= 0 && (!s || !session_file_is_open(s))) { /* R211: not used then */
        close(fd);
        fd = -1;
    }
    if (s && (settle(s) || clear_buffers(s)))
        s = NULL, why = "no memory";
    if (!s) {
        if (fd >= 0)
            close(fd);
        answer(c, c->clone_cookie, why, NULL);
        return;
    }
    bool bugreport = r.for_bugreport || r.session_id == BUGREPORT_ID;
    uint64_t flags = bugreport ? FLAGS_CLONE_BUGREPORT : FLAGS_CLONE;
    struct session_clone *k = alloc_new(struct session_clone);
    *k = (struct session_clone){
        .source = s,
        .svc = c->svc,
        .consumer = c->actor.id,
        .cookie = c->clone_cookie,
        .fd = fd,
        .skip_filter = r.skip_filter || r.session_id == BUGREPORT_ID,
        .flushed_ok = true,
        .groups_left = 2,
        .prefix = -1,
        .trigger = make_trigger(&r),
        .nbuffers = s->nbuffers,
    };
    k->buffers = alloc_array(s->nbuffers, sizeof(*k->buffers));
    k->copies = alloc_array(s->nbuffers, sizeof(struct tbuf_clone *));
    k->captured_ns = alloc_array(s->nbuffers, sizeof(*k->captured_ns));
    list_push_back(&s->clones, &k->node);
    c->cloning = k;
    session_event_record(s, SELFPKT_FLUSH_STARTED, true);
    k->requested_ns = chrono_boot_ns(); /* sorts behind the flush, as readers know it */
    session_flush_start(s, 0, flags, SESSION_FLUSH_TRANSFER, group_flushed, k, 1);
    session_flush_start(s, 0, flags, SESSION_FLUSH_REST, group_flushed, k, 0);
}
