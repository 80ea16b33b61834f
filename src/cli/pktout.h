/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_PKTOUT_H
#define CLI_PKTOUT_H

/* The output of a recording: a file, or stdout, that gets packets with their framing (R510..R534).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define PKTOUT_BATCH 512 /* pieces that are written by one system call */

/* Embedded by value. */
struct pktout {
    int fd;       /* own, -1 when closed */
    char *path;   /* own: absolute, NULL for stdout */
    char *shown;  /* own: as typed, or "stdout" */
    bool regular; /* it can be cut and removed */
    int error;    /* errno of the first failed write, 0: none */
    uint64_t packets;
    uint64_t bytes; /* accepted for writing */
    uint64_t whole; /* bytes in the file up to the end of the last whole packet that was written */
    struct iovec iov[PKTOUT_BATCH];
    int n_iov;
    uint64_t batch_bytes;
    uint64_t ends[PKTOUT_BATCH]; /* of the packets that end in this batch, in bytes of it */
    int n_ends;
    uint64_t unfinished; /* bytes written of a packet whose rest is still to come */
    bool in_packet;
    uint8_t heads[PKTOUT_BATCH][12];
};

/* "-" is stdout, duplicated. A path is opened for reading and writing, created with mode 0600 and
 * truncated; exclusively if no_clobber. 0, or -errno with one line in err. */
int pktout_open(struct pktout *out, const char *path, bool no_clobber, char *err, size_t errlen);

/* Adds one packet of len bytes in pieces. They are borrowed until pktout_flush; the batch may be
 * written before. */
void pktout_packet(struct pktout *out, const struct iovec *pieces, int n, size_t len);

/* Writes what was added. After a failure everything is dropped and `error` says why; a regular file
 * then ends with the last whole packet. */
void pktout_flush(struct pktout *out);

/* Flushes and closes. Returns the size of a seekable output, 0 for others (R321). Harmless when
 * closed. */
uint64_t pktout_close(struct pktout *out);

/* Closes, and removes a regular file of size 0 (R322). True if a file with contents stays. */
bool pktout_discard_empty(struct pktout *out);

/* Closes if needed and frees. */
void pktout_fini(struct pktout *out);

#endif
