/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TBUF_VM_H
#define SVC_TBUF_VM_H

/*
 * The ProtoVMs of a trace buffer (service.md R72, spec/trace_buffer.md 13): what is about to be
 * overwritten is merged into states kept beside the ring. A buffer that has none pays one test per
 * evicted record; one that discards instead of overwriting never runs any.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"
#include "reactor/bytesbuf.h"

struct tbuf;

#define TBUF_VM_MAX      16u    /* VMs of one buffer */
#define TBUF_VM_LIMIT_KB 16384u /* memory of one: what is asked for beyond it is not given */
#define TBUF_VM_PACKET                                                                             \
    (1u << 20) /* bytes of a packet in several fragments; larger ones are                          \
                  not merged */
#define TBUF_VM_STEPS                                                                              \
    (96u << 10) /* steps of all programs for what one chunk overwrites; about 1 ms */

/* What a VM of a buffer is to be. */
struct tbuf_vm_spec {
    struct bytes_view source;  /* data source name */
    struct bytes_view program; /* encoded VmProgram */
    uint32_t limit_kb;         /* of the state; more than 0 */
};

/* True when the buffer has the VM of this name and program. */
bool tbuf_vm_has(const struct tbuf *b, const struct tbuf_vm_spec *spec);

/* Makes the producer one of the VM's, and the VM if there is none yet. 0; -ENOMEM; positive, with a
 * word in *why (a literal): the program cannot be used, or there are TBUF_VM_MAX of them. */
int tbuf_vm_attach(struct tbuf *b, const struct tbuf_vm_spec *spec, uint16_t producer,
                   const char **why);

/* Makes VMs like those of `from` in `to`, which has none: same programs and producers, empty
 * states. 0 or -ENOMEM with none in `to`. */
int tbuf_vm_renew(struct tbuf *to, const struct tbuf *from);

/* Likewise with the states as they are now, which no packet changes any more: for a clone. */
int tbuf_vm_copy(struct tbuf *to, const struct tbuf *from);

void tbuf_vm_free_all(struct tbuf *b);

size_t tbuf_vm_count(const struct tbuf *b);

/* Bytes that they take, and that they may come to take: what is to be charged for them. */
uint64_t tbuf_vm_memory(const struct tbuf *b);
uint64_t tbuf_vm_reserved(const struct tbuf *b);

/* What one may come to take. */
static inline uint64_t tbuf_vm_reserve(const struct tbuf_vm_spec *spec)
{
    uint64_t kb = spec->limit_kb < TBUF_VM_LIMIT_KB ? spec->limit_kb : TBUF_VM_LIMIT_KB;
    return kb * 1024 + spec->program.n;
}

/* Appends the fields of TracePacket.ProtoVms: one instance for each VM. A state that is no packet
 * that a producer could have written (svc/validate) is left empty. */
void tbuf_vm_write(const struct tbuf *b, struct bytesbuf *out);

/* Steps that programs took since this was asked for the last time. */
uint32_t tbuf_vm_take_work(struct tbuf *b);

/* ---- for svc/tbuf_ring ---- */

struct tbuf_rec;

/* The record is about to be evicted: hands on what is unread in it. May evict older ones of its
 * sequence before that, so that packets come in order. */
void tbuf_vm_evict(struct tbuf *b, struct tbuf_rec *r) __attribute__((cold));

#endif
