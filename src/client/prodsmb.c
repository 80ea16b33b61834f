/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arbiters and the memory they hand out, one of each per connection.
 *
 * An arbiter lives as long as its last writer, and writers belong to threads that know nothing of
 * the connection. So a lost connection retires its arbiter; the last writer to go asks for a run
 * like any other, and the run frees what is empty.
 *
 * Threads: everything runs on the loop's thread but schedule(), on_ipc_thread() and wait(). A run
 * wanted from another thread lowers `want_at` and writes to an eventfd, once until the loop has
 * noticed.
 */
#include "client/prodsmb.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "client/prodlink_priv.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "smb/abi.h"
#include "smb/arbiter.h"

struct prodsmb {
    struct list node;
    struct prodsmb_set *set; /* borrow */
    struct arbiter *arb;     /* own */
    struct shmem shm;        /* own */
    uint8_t *scratch;        /* own: a commit being encoded */
    size_t scratch_cap;
};

/* A commit whose reply is awaited. */
struct ack {
    struct prodsmb *smb; /* borrow: pending calls are rejected before it goes */
    uint64_t cookie;
};

static uint64_t now_ms(void *ctx)
{
    (void)ctx;
    return chrono_mono_ns() / CHRONO_MS;
}

static bool on_loop(void *ctx)
{
    return pthread_equal(pthread_self(), ((struct prodsmb *)ctx)->set->thread);
}

/* ---- what the arbiter wants ---- */

static void on_ack(void *arg, struct rpc_proxy *proxy, const struct rpc_result *result)
{
    struct ack *ack = arg;
    (void)proxy;
    arbiter_acked(ack->smb->arb, ack->cookie, result->success);
    free(ack);
}

static void send_commit(void *ctx, const struct commit_request *req)
{
    struct prodsmb *smb = ctx;
    size_t need = commit_encoded_size(req);
    if (need > smb->scratch_cap) {
        smb->scratch = alloc_resize(smb->scratch, need, 1);
        smb->scratch_cap = need;
    }
    struct bytes_view args = bytes_view(smb->scratch, commit_encode(req, smb->scratch));
    struct ack *ack = NULL;
    if (req->ack_cookie) {
        ack = alloc_new(struct ack);
        *ack = (struct ack){smb, req->ack_cookie};
    }
    prodlink_call(smb->set->link, PORT_PRODUCER_COMMIT_DATA, args, -1, ack ? on_ack : NULL, ack);
}

/* Both messages are {1 trace_writer_id, 2 target_buffer}. */
static void call_writer(struct prodsmb *smb, uint32_t method, uint16_t id, uint16_t target)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 64);
    bytesbuf_pb_varint(&b, 1, id);
    if (method == PORT_PRODUCER_REGISTER_TRACE_WRITER)
        bytesbuf_pb_varint(&b, 2, target);
    prodlink_call(smb->set->link, method, bytesbuf_view(&b), -1, NULL, NULL);
    bytesbuf_fini(&b);
}

static void register_writer(void *ctx, uint16_t id, uint16_t target)
{
    call_writer(ctx, PORT_PRODUCER_REGISTER_TRACE_WRITER, id, target);
}

static void unregister_writer(void *ctx, uint16_t id)
{
    call_writer(ctx, PORT_PRODUCER_UNREGISTER_TRACE_WRITER, id, 0);
}

static bool ready(void *ctx)
{
    struct prodlink *link = ((struct prodsmb *)ctx)->set->link;
    return !link->client || !rpc_client_is_full(link->client);
}

/* Lowers want_at; true if it was later before. */
static bool want(struct prodsmb_set *set, uint64_t at)
{
    uint64_t old = atomic_load(&set->want_at);
    while (at < old)
        if (atomic_compare_exchange_weak(&set->want_at, &old, at))
            return true;
    return false;
}

static void arm(struct prodsmb_set *set)
{
    uint64_t at = atomic_load(&set->want_at);
    if (at != UINT64_MAX)
        deadline_arm_at(&set->timer, DEADLINE_MONO, at * CHRONO_MS);
}

static void schedule(void *ctx, uint32_t delay_ms)
{
    struct prodsmb *smb = ctx;
    struct prodsmb_set *set = smb->set;
    bool mine = on_loop(ctx);
    if (!want(set, now_ms(NULL) + delay_ms))
        return;
    if (mine) {
        arm(set);
        return;
    }
    uint64_t one = 1;
    if (write(set->wake_fd, &one, sizeof(one)) < 0)
        log_debug("producer: cannot wake the loop: %s", err_text(-errno));
}

/* A stall (SMB spec R64). On the loop's own thread nobody else sends what was queued. */
static void wait_us(void *ctx, uint32_t us)
{
    struct prodsmb *smb = ctx;
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    if (on_loop(ctx) && smb->set->link->client)
        rpc_client_flush(smb->set->link->client);
    nanosleep(&ts, NULL);
}

/* The data source chose to die rather than to lose data (buffer_exhausted_policy 2). */
static void exhausted(void *ctx, const char *message)
{
    struct prodsmb *smb = ctx;
    log_error("%s: %s; its data source asked to abort rather than to drop data",
              smb->set->link->producer_name, message);
    abort();
}

static const struct arbiter_ops smb_ops = {
    .send_commit = send_commit,
    .register_writer = register_writer,
    .unregister_writer = unregister_writer,
    .schedule = schedule,
    .ready = ready,
    .on_ipc_thread = on_loop,
    .now_ms = now_ms,
    .wait_us = wait_us,
    .exhausted = exhausted,
};

/* ---- runs ---- */

static bool try_free(struct prodsmb *smb)
{
    if (smb->arb && !arbiter_shutdown(smb->arb))
        return false;
    arbiter_free(smb->arb);
    shmem_fini(&smb->shm);
    free(smb->scratch);
    list_remove(&smb->node);
    free(smb);
    return true;
}

static void run(struct prodsmb_set *set)
{
    if (set->current)
        arbiter_run(set->current->arb);
    list_for_each_safe (pos, tmp, &set->retired)
        try_free(list_entry(pos, struct prodsmb, node));
}

static void on_timer(void *arg)
{
    struct prodsmb_set *set = arg;
    uint64_t now = now_ms(NULL);
    uint64_t at = atomic_load(&set->want_at);
    /* A wish that came in between is kept. */
    while (at <= now && !atomic_compare_exchange_weak(&set->want_at, &at, UINT64_MAX))
        ;
    run(set);
    arm(set);
}

static void on_wake(void *arg, unsigned event)
{
    struct prodsmb_set *set = arg;
    uint64_t count;
    (void)event;
    if (read(set->wake_fd, &count, sizeof(count)) > 0)
        arm(set);
}

void prodsmb_drained(struct prodsmb_set *set)
{
    if (set->current)
        arbiter_run(set->current->arb);
}

/* ---- life ---- */

int prodsmb_init(struct prodsmb_set *set, struct prodlink *link)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    set->link = link;
    set->current = NULL;
    list_init(&set->retired);
    shmem_init(&set->offered);
    set->thread = pthread_self();
    set->wake_fd = fd;
    set->want_at = UINT64_MAX;
    watch_init(&set->wake, link->reactor, "producer wake-up", fd, on_wake, set);
    deadline_init(&set->timer, link->reactor, "producer commits", on_timer, set);
    int err = watch_set(&set->wake, WATCH_READ);
    if (err) {
        watch_fini(&set->wake);
        close(fd);
    }
    return err;
}

void prodsmb_fini(struct prodsmb_set *set)
{
    prodsmb_disconnect(set);
    list_for_each_safe (pos, tmp, &set->retired)
        try_free(list_entry(pos, struct prodsmb, node));
    if (!list_empty(&set->retired))
        log_error("producer: its link ends while trace writers are alive; free them first");
    shmem_fini(&set->offered);
    deadline_cancel(&set->timer);
    watch_fini(&set->wake);
    close(set->wake_fd);
}

/* Gets the memory itself. fd is taken. */
static int get_memory(struct prodsmb_set *set, struct shmem *shm, uint32_t page_size, int fd)
{
    const struct prodlink *link = set->link;
    if (!link->emulated && !link->adopted)
        return fd < 0 ? ERR_BAD_FD : shmem_map(shm, fd, page_size);
    if (fd >= 0)
        close(fd); /* of no use here: R68, R69 */
    if (link->emulated)
        return shmem_anonymous(shm, SMB_EMULATED_SIZE, page_size);
    *shm = set->offered;
    shmem_init(&set->offered);
    return 0;
}

int prodsmb_setup(struct prodsmb_set *set, uint32_t page_size, int fd)
{
    const struct prodlink *link = set->link;
    struct prodsmb *smb = alloc_new(struct prodsmb);
    shmem_init(&smb->shm);
    list_init(&smb->node);
    smb->set = set;
    int err = set->current ? ERR_BAD_STATE : get_memory(set, &smb->shm, page_size, fd);
    if (err == ERR_BAD_STATE && fd >= 0)
        close(fd);
    if (err == 0) {
        const struct arbiter_cfg cfg = {
            .shm = &smb->shm,
            .batch_ms = link->cfg.batch_ms,
            .emulated = link->emulated,
            .direct_patching = link->direct_patching,
            .self_scrape = link->emulated && link->cfg.scraping == PRODLINK_SCRAPING_ON,
        };
        smb->arb = arbiter_new(&cfg, &smb_ops, smb);
        err = smb->arb ? 0 : -ENOMEM;
    }
    if (err) {
        try_free(smb);
        return err;
    }
    set->current = smb;
    return 0;
}

void prodsmb_disconnect(struct prodsmb_set *set)
{
    struct prodsmb *smb = set->current;
    if (!smb)
        return;
    set->current = NULL;
    arbiter_disconnect(smb->arb);
    /* Not freed here: instances of this connection still point at it. */
    list_push_back(&set->retired, &smb->node);
    if (want(set, now_ms(NULL)))
        arm(set);
}

struct arbiter *prodsmb_arbiter(const struct prodsmb_set *set)
{
    return set->current ? set->current->arb : NULL;
}
