/* SPDX-License-Identifier: Apache-2.0 */
/* Packet sequence ids over a long life: R127 holds, and what is remembered stays within what may
 * still come. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_ring.h"

/* A session of one buffer, and who is connected; nothing else of the service is touched. */
struct life {
    struct service svc;
    struct session_buffer buffer;
    struct session s;
};

static struct life *setup(uint64_t size)
{
    struct life *l = calloc(1, sizeof(*l));
    cr_assert_not_null(l);
    idmap_init(&l->svc.producer_of);
    cr_assert_eq(tbuf_new(size, TBUF_RING, 0, &l->buffer.tb), 0);
    l->s.svc = &l->svc;
    l->s.buffers = &l->buffer;
    l->s.nbuffers = 1;
    session_ids_init(&l->s.ids);
    return l;
}

static void teardown(struct life *l)
{
    session_ids_fini(&l->s.ids);
    tbuf_free(l->buffer.tb);
    idmap_fini(&l->svc.producer_of);
    free(l);
}

static void come(struct life *l, uint16_t producer)
{
    cr_assert_eq(idmap_put(&l->svc.producer_of, producer, l), 0);
}

static void leave(struct life *l, uint16_t producer)
{
    cr_assert_eq(idmap_del(&l->svc.producer_of, producer), l);
    tbuf_producer_gone(l->buffer.tb, producer);
}

static void write_chunk(struct life *l, uint16_t producer, uint16_t writer, uint32_t chunk)
{
    const struct tbuf_chunk_in in = {.producer_id = producer,
                                     .writer_id = writer,
                                     .chunk_id = chunk,
                                     .num_fragments = 1,
                                     .complete = true,
                                     .payload = "\3abc",
                                     .payload_size = 4};
    tbuf_copy_chunk(l->buffer.tb, &in);
}

static uint32_t id_of(struct life *l, uint16_t producer, uint16_t writer)
{
    return session_ids_get(&l->s.ids, 0, producer, writer);
}

/* Pruning goes on until it is over. */
static void finish(struct life *l)
{
    for (int i = 0; i < 100000 && l->s.ids.stage != SESSION_IDS_REST; i++)
        session_ids_step(&l->s);
    cr_assert_eq(l->s.ids.stage, SESSION_IDS_REST, "it does not end");
}

/* Producers come, write with 500 writers each, and go, one after another; one stays. */
Test(ids, R127_ids_stay_while_writers_can_be_met_again)
{
    struct life *l = setup(1 << 18);
    uint32_t resident[100];
    static uint32_t last_of[2][500];
    size_t most = 0;
    come(l, 1);
    for (uint16_t w = 0; w < 100; w++)
        resident[w] = id_of(l, 1, (uint16_t)(w + 1));
    cr_assert_eq(resident[0], 2);
    for (uint16_t p = 2; p < 400; p++) {
        come(l, p);
        for (uint16_t w = 0; w < 500; w++) {
            write_chunk(l, p, (uint16_t)(w + 1), 0);
            last_of[p % 2][w] = id_of(l, p, (uint16_t)(w + 1));
        }
        leave(l, p);
        session_ids_step(&l->s);
        if (idmap_count(&l->s.ids.of) > most)
            most = idmap_count(&l->s.ids.of);
        if (p > 2) {
            for (uint16_t w = 0; w < 500; w++)
                cr_assert_eq(id_of(l, p - 1, (uint16_t)(w + 1)), last_of[(p - 1) % 2][w]);
        }
    }
    cr_assert_gt(l->s.ids.last, 400 * 490);
    cr_assert_lt(most, 30000, "%zu ids", most);
    for (uint16_t w = 0; w < 100; w++)
        cr_assert_eq(id_of(l, 1, (uint16_t)(w + 1)), resident[w], "the one that stays");
    teardown(l);
}

/* Fills the map up to where pruning begins with a producer that is gone and left nothing. */
static void fill(struct life *l, uint16_t producer)
{
    for (uint32_t w = 1; idmap_count(&l->s.ids.of) < l->s.ids.prune_at; w++)
        id_of(l, producer, (uint16_t)w);
}

Test(ids, what_the_buffer_holds_keeps_its_id_though_its_producer_is_gone)
{
    struct life *l = setup(1 << 18);
    come(l, 7);
    write_chunk(l, 7, 1, 0);
    uint32_t held = id_of(l, 7, 1);
    uint32_t not_held = id_of(l, 7, 2);
    leave(l, 7);
    fill(l, 8);
    session_ids_step(&l->s);
    finish(l);
    cr_assert_eq(idmap_count(&l->s.ids.of), 1);
    cr_assert_eq(id_of(l, 7, 1), held);
    cr_assert_gt(id_of(l, 7, 2), not_held, "an id was given twice");
    teardown(l);
}

/* Its ProducerID comes back while the map is swept, and what the new one wrote was read already. */
Test(ids, a_producer_that_comes_meanwhile_keeps_its_ids)
{
    struct life *l = setup(1 << 18);
    uint32_t old = id_of(l, 9, 1);
    for (uint32_t w = 2; idmap_count(&l->s.ids.of) < 60000; w++)
        id_of(l, 8, (uint16_t)w);
    l->s.ids.worked = l->s.ids.last;
    session_ids_step(&l->s);
    cr_assert_eq(l->s.ids.stage, SESSION_IDS_SWEEP);
    come(l, 9);
    write_chunk(l, 9, 1, 0);
    cr_assert_eq(id_of(l, 9, 1), old);
    leave(l, 9);
    finish(l);
    cr_assert_eq(id_of(l, 9, 1), old);
    cr_assert_eq(idmap_count(&l->s.ids.of), 1);
    teardown(l);
}

/* The id of a large packet is asked for when its last part is there. */
Test(ids, nothing_is_forgotten_while_a_large_packet_is_on_its_way)
{
    struct life *l = setup(1 << 18);
    fill(l, 8);
    size_t before = idmap_count(&l->s.ids.of);
    l->s.large.state = LARGE_GATHER;
    for (int i = 0; i < 100; i++)
        session_ids_step(&l->s);
    cr_assert_eq(idmap_count(&l->s.ids.of), before);
    l->s.large.state = LARGE_NONE;
    session_ids_step(&l->s);
    finish(l);
    cr_assert_eq(idmap_count(&l->s.ids.of), 0);
    teardown(l);
}
