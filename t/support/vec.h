/* SPDX-License-Identifier: Apache-2.0 */
#ifndef T_SUPPORT_VEC_H
#define T_SUPPORT_VEC_H

/* Reader of the recorded conversations in t/data/vectors (its README tells the format). */

#include <stddef.h>
#include <stdint.h>

enum vec_kind {
    VEC_TO_SERVICE = '>', /* one IPCFrame without its 4-byte size, from the client */
    VEC_TO_CLIENT = '<',  /* one from the service */
    VEC_SHARED_MEM = 'S', /* blocks of the SMB that changed: {u32 offset, 4096 bytes} */
};

#define VEC_BLOCK 4096u

struct vec_record {
    enum vec_kind kind;
    unsigned fds; /* descriptors that came with it */
    size_t size;
    const uint8_t *data; /* borrow: valid as long as the vec */
};

struct vec;

/* Opens t/data/vectors/NAME, e.g. "small_packets/producer.0.vec.gz", below $srcdir (or the current
 * folder). NULL and a line on stderr when it cannot be read whole. */
struct vec *vec_open(const char *name);
void vec_free(struct vec *v);

/* Next record: 1, 0 at the end, -1 when the file is malformed. */
int vec_next(struct vec *v, struct vec_record *out);

/* Back to the first record. */
void vec_rewind(struct vec *v);

/* Copies the blocks of a VEC_SHARED_MEM record into smb. 0; -1 when one does not fit. */
int vec_apply(const struct vec_record *rec, uint8_t *smb, size_t size);

/* Uncompresses t/data/vectors/NAME ("small_packets/out.pftrace.gz") into fresh memory that the
 * caller frees. NULL and a line on stderr on failure. */
uint8_t *vec_gunzip(const char *name, size_t *size);

/* Calls fn(arg, name) for every conversation "SCENARIO/x.N.vec.gz" there is, in sorted order.
 * Returns their number. */
size_t vec_each(void (*fn)(void *arg, const char *name), void *arg);

#endif
