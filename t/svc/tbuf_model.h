/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference model of the trace buffer: the same contract in the plainest way, by arrays that
 * are searched from one end to the other and chunks that live on the heap. It shares no code with
 * src/svc/tbuf*.c, only the types of its interface.
 */
#ifndef T_SVC_TBUF_MODEL_H
#define T_SVC_TBUF_MODEL_H

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"

struct model;

struct model_packet {
    uint8_t *bytes; /* own by the model until its next call */
    size_t size;
    size_t lens[4096]; /* of the slices */
    size_t num_slices;
    uint32_t loss;
    uint16_t producer_id;
    uint16_t writer_id;
    struct tbuf_client client;
    bool first;
};

struct model *model_new(uint64_t size, enum tbuf_policy policy, uint64_t restart_min);
void model_free(struct model *m);
struct model *model_clone(const struct model *m);
/* While a clone is being made the buffer does not go back to its begin. */
void model_hold(struct model *m, bool held);

enum tbuf_outcome model_copy(struct model *m, const struct tbuf_chunk_in *in);
bool model_patch(struct model *m, uint16_t producer, uint16_t writer, uint32_t chunk,
                 const struct tbuf_patch *patches, size_t n, bool more);
void model_producer_gone(struct model *m, uint16_t producer);
void model_begin(struct model *m);
bool model_next(struct model *m, struct model_packet *out);
void model_refuse(struct model *m, uint16_t producer, uint16_t writer, uint32_t loss);

const struct tbuf_stats *model_stats(const struct model *m);
uint64_t model_used(const struct model *m);
uint64_t model_room_to_end(const struct model *m);
/* Bytes in records that hold a chunk not yet read or evicted, plus padding: what R86 must give. */
uint64_t model_in_use(const struct model *m);

#endif
