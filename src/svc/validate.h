/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_VALIDATE_H
#define SVC_VALIDATE_H

/*
 * What a producer's packet may hold, and what the service adds to it (service.md R123-R126).
 * Both run once per packet that is read: no allocation, no copy.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Longest trailer: uid 1+10, sequence 1+5, pid 2+10, machine 2+5, loss 2+5. */
#define VALIDATE_TRAILER_MAX 48

/* Who a packet is from, as the service knows it. */
struct validate_origin {
    int32_t uid;
    int32_t pid;         /* -1: not known, the field is left out */
    uint32_t sequence;   /* >= 2 */
    uint32_t machine_id; /* 0: this machine, the field is left out */
    uint32_t loss;       /* 0: none, the field is left out */
};

/* True when the bytes of the pieces, taken as one run, are a sequence of well-formed top-level
 * fields none of which is reserved for the service (R123). Pieces may be cut anywhere, also inside
 * a tag or a length, and may be empty. Besides R123, field number 0 and tags above 32 bits are
 * refused. */
bool validate_packet(const struct iovec *parts, size_t nparts);

enum validate_result { VALIDATE_GOOD, VALIDATE_BAD, VALIDATE_MORE };

/* The same for a large packet in one piece, a bounded number of fields per call. *at: 0 before the
 * first call; VALIDATE_MORE: call again. */
enum validate_result validate_some(const uint8_t *p, size_t n, size_t *at, size_t fields);

/* Writes the trusted fields in the order of R125. Returns their length. */
size_t validate_trailer(uint8_t out[VALIDATE_TRAILER_MAX], const struct validate_origin *origin);

#endif
