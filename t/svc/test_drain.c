/* SPDX-License-Identifier: Apache-2.0 */
/* The drain, and the memory that is taken ahead of it. */
#include <criterion/criterion.h>

#include <string.h>
#include <sys/resource.h>

#include "protos/fieldnum.h"
#include "reactor/bytesbuf.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf.h"
#include "svc/tbuf_ring.h"
#include "world.h"

/* After a commit the memory for the next ones is taken: their page faults are not paid in the copy.
 * A buffer without data takes none. */
Test(drain, memory_is_taken_ahead_of_the_cursor)
{
    struct world *w = world_new();
    struct prod *p = prod_new(w, "prod", 1000);
    struct cons *c = cons_new(w, 1000);
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 1024);
    cfg_buffer(&w->cfg, 1024);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    const struct session *s = list_entry(w->svc->sessions.next, struct session, node);
    const struct tbuf *used = s->buffers[0].tb;
    const struct tbuf *idle = s->buffers[1].tb;
    cr_assert_eq(used->populated, 0);
    for (int i = 0; i < 500; i++)
        cr_assert(prod_put(p, 1, "some text that fills the buffer a little, again and again"));
    cr_expect_geq(used->populated, tbuf_used_size(used));
    cr_expect_leq(used->populated, 2 * tbuf_used_size(used));
    cr_expect_eq(idle->populated, 0);
    cr_expect_not(task_scheduled(&w->svc->drain), "the drain sleeps again");
    cr_expect_not(task_scheduled(&w->svc->prefault));
    world_free(w);
}

/* ---- a flood ---- */

static struct {
    task_run *run;
    void *arg;
    long faults, slices;
} drain, prefault;

static long minor_faults(void)
{
    struct rusage u;
    getrusage(RUSAGE_THREAD, &u);
    return u.ru_minflt;
}

static enum task_result counted_drain(void *arg, struct task_budget *budget)
{
    long before = minor_faults();
    enum task_result r = drain.run(arg, budget);
    drain.faults += minor_faults() - before;
    drain.slices++;
    return r;
}

static enum task_result counted_prefault(void *arg, struct task_budget *budget)
{
    long before = minor_faults();
    enum task_result r = prefault.run(arg, budget);
    prefault.faults += minor_faults() - before;
    prefault.slices++;
    return r;
}

/* A commit of 48 chunks of a page each; it is not waited for. */
static void post_commit(struct prod *p, uint32_t chunk)
{
    enum { CHUNKS = 48 };
    static uint8_t payload[4000] = {0x9D, 0x1F, 0xA2, 0x1F, 0x98, 0x1F}; /* 3997 bytes, field 500 */
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        prod_fill(p, i, 1, chunk + i, 1, 0, payload, sizeof(payload), 3);
        size_t m = bytesbuf_pb_begin(&b, PBF_CommitDataRequest_chunks_to_move);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_page, i);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_chunk, 0);
        bytesbuf_pb_varint(&b, PBF_CommitDataRequest_ChunksToMove_target_buffer, prod_target(p, 0));
        bytesbuf_pb_end(&b, m);
    }
    struct msg_request m = {.cookie = ++p->cookie};
    cr_assert_eq(msg_body_copy(&m.body, b.p, b.n), 0);
    ACTOR_POST(p->w->reactor, p->endpoint, p->actor.id, MSG_P_COMMIT, &m);
    bytesbuf_fini(&b);
}

/* A producer that commits without a pause: the faults of the buffer's first lap come in the slices
 * of prefault, not in those in which chunks are copied. */
Test(drain, a_flood_does_not_pay_for_its_first_lap)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("memory of the sanitizer faults, too");
#endif
    enum { SIZE_KB = 12 << 10 }; /* below the size that asks for huge pages */
    struct world *w = world_new();
    struct prod *p = prod_new(w, "prod", 1000);
    struct cons *c = cons_new(w, 1000);
    prod_register(p, "ds", 0);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, SIZE_KB);
    cfg_source(&w->cfg, "ds", 0);
    cons_enable(c, &w->cfg);
    const struct tbuf *tb = list_entry(w->svc->sessions.next, struct session, node)->buffers[0].tb;
    drain.run = w->svc->drain.run;
    prefault.run = w->svc->prefault.run;
    w->svc->drain.run = counted_drain;
    w->svc->prefault.run = counted_prefault;
    uint32_t chunk = 0;
    while (tbuf_stats(tb)->write_wrap_count == 0 && chunk < 10000) {
        post_commit(p, chunk);
        chunk += 48;
        reactor_tick(w->reactor, 0);
    }
    w->svc->drain.run = drain.run;
    w->svc->prefault.run = prefault.run;
    cr_assert_gt(tbuf_stats(tb)->write_wrap_count, 0);
    cr_expect_gt(prefault.faults, SIZE_KB / 4 * 9 / 10, "%ld faults in %ld slices", prefault.faults,
                 prefault.slices);
    cr_expect_lt(drain.faults, SIZE_KB / 4 / 20, "%ld faults in %ld slices of the drain",
                 drain.faults, drain.slices);
    world_free(w);
}
