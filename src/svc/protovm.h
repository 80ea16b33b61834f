/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PROTOVM_H
#define SVC_PROTOVM_H

/*
 * A ProtoVM: a program that merges packets into a state, which is a TracePacket kept aside
 * (service.md R72). A packet that is about to be overwritten in a trace buffer is a patch: the
 * program walks over it (SRC, read only) and over the state (DST) and copies between them.
 *
 * What an instruction does (VmInstruction and below):
 *   select    moves a cursor along a path for the instructions nested in it, once, or once for each
 *             element of a repeated field. A field that SRC has not fails; in DST it fails unless
 *             create_if_not_exist. An element of a repeated field in DST is made when its index is
 *             the next one, or when no element has that key, whatever create_if_not_exist says.
 *             BOTH moves DST.
 *   reg_load  loads the scalar at a cursor into a register, 0 to 31; they keep their values from
 *             one packet to the next.
 *   merge     copies each field of the message at SRC into the message at DST; all elements of a
 *             repeated field are replaced together.
 *   set       replaces what is at DST by what is at SRC.
 *   del       removes what is at DST.
 * Then those nested in it run. Failing is one thing (a field is not there; the abort level decides
 * how much is skipped), aborting another: the program and the data do not fit each other.
 */

#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"

struct protovm;

enum protovm_result {
    PROTOVM_OK,    /* the packet was for this program */
    PROTOVM_ERROR, /* it was not, or not all of it */
    PROTOVM_ABORT  /* the program was ended in the middle; what it did stays */
};

/* Makes a VM with an empty state that takes at most `limit` bytes of memory. 0; -ENOMEM; positive,
 * with a word in *why, when the program cannot be used (see svc/protovm_code). */
int protovm_new(struct bytes_view program, uint64_t limit, struct protovm **out, const char **why);
void protovm_free(struct protovm *vm); /* NULL allowed */

/* Runs the program on one packet. It takes from *steps as many as it works, and is aborted when
 * none are left: a step is about 10 ns. On ABORT *why says in a few words (a literal) what it was.
 */
enum protovm_result protovm_run(struct protovm *vm, struct bytes_view packet, uint32_t *steps,
                                const char **why);

/* Bytes of memory that state and program take. */
uint64_t protovm_memory(const struct protovm *vm);

/* The state, encoded, into `out` of at least protovm_memory() bytes; returns its length. */
size_t protovm_state(const struct protovm *vm, uint8_t *out);

#endif
