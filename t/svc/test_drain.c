/* SPDX-License-Identifier: Apache-2.0 */
/* The drain: what it does when no producer waits. */
#include <criterion/criterion.h>

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
    cr_expect(task_scheduled(&w->svc->drain) == false, "the drain sleeps again");
    world_free(w);
}
