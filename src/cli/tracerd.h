/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACERD_H
#define CLI_TRACERD_H

/* Reads trace files packet by packet, of any size, compressed packets included (R530..R534). */

#include <stdbool.h>
#include <stdint.h>

#include "reactor/bytes.h"

#define TRACERD_PACKET_MAX   (512u << 20) /* a larger packet is taken for damage */
#define TRACERD_INFLATED_MAX (512u << 20) /* what one compressed packet may turn into */

struct tracerd_ops {
    /* One packet without framing, valid during the call. offset is that of its framing in the file;
     * for a packet out of a compressed one, that of the compressed one. False stops the reading. */
    bool (*packet)(void *arg, struct bytes_view packet, uint64_t offset);
    /* A damaged spot, in one line; reading goes on if it can. May be NULL. */
    void (*damage)(void *arg, uint64_t offset, const char *what);
};

/* Totals of one file. */
struct tracerd_totals {
    uint64_t bytes;            /* read from the file */
    uint64_t packets;          /* delivered */
    uint64_t compressed;       /* packets that held others */
    uint64_t compressed_bytes; /* their size */
    uint64_t inflated_bytes;   /* what they held */
    uint64_t damages;          /* damaged spots */
    bool whole;                /* the file ends with a packet */
};

/* Reads from fd to the end. 0 also if there was damage; -errno when the file cannot be read. Totals
 * are written in any case. */
int tracerd_read(int fd, const struct tracerd_ops *ops, void *arg, struct tracerd_totals *totals);

#endif
