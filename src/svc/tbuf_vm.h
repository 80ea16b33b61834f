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

#define TBUF_VM_MAX 16u /* VMs of one buffer */
#define TBUF_VM_LIMIT_KB                                                                           \
    1024u /* memory of one: what is asked for beyond it is not given. A state is encoded in one    \
             piece, which takes 1 to 2 ms for this much (t/bench/README.md) */
#define TBUF_VM_FIELDS (64u << 10) /* of a state that are checked in one piece */
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

/* Likewise with the states as they are now, which no packet changes any more: for a clone. A state
 * is copied when tbuf_vm_copy_state() is called for its number: before it changes, at the latest.
 */
int tbuf_vm_copy(struct tbuf *to, const struct tbuf *from);

/* Returns the bytes of work; 0: there is no such VM, or its state is there already. */
size_t tbuf_vm_copy_state(struct tbuf *to, const struct tbuf *from, uint32_t vm);

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

/* Where the writing of a buffer's VMs stands; all zero at first. */
struct tbuf_vm_cursor {
    uint32_t vm;            /* number of the next */
    bool checking;          /* the one before it is written, but its state is still looked at */
    size_t instance, state; /* of that one: where in `out` they begin */
    size_t state_len, at;   /* bytes of the state, and of those that were looked at */
};

/* Appends the fields of TracePacket.ProtoVms: one instance for each VM. A state that is no packet
 * that a producer could have written (svc/validate) is left empty. A call encodes one state, which
 * is that of this moment, or checks TBUF_VM_FIELDS fields of one; true: call again. A VM that
 * would make `out` longer than `max` is left out. */
bool tbuf_vm_write_some(const struct tbuf *b, struct tbuf_vm_cursor *c, struct bytesbuf *out,
                        size_t max, bool *left_out);

/* Steps that programs took since this was asked for the last time. */
uint32_t tbuf_vm_take_work(struct tbuf *b);

/* ---- for svc/tbuf_ring ---- */

struct tbuf_rec;

/* The record is about to be evicted: hands on what is unread in it. May evict older ones of its
 * sequence before that, so that packets come in order. */
void tbuf_vm_evict(struct tbuf *b, struct tbuf_rec *r) __attribute__((cold));

#endif
