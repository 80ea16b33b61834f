/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILEWR_H
#define SVC_FILEWR_H

/*
 * The output file of a session: packets framed as a Trace message and written with one writev per
 * batch (service.md section 10). The target may be a regular file, a pipe or a socket that nobody
 * reads: it never blocks the loop, a signal never comes of it, and what the kernel does not take at
 * once is copied aside (one batch at most) and written when there is room again.
 *
 * Life: open -> (begin, put..., commit)* -> finish -> done. After full or failed, puts are refused.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "svc/packet.h"

struct reactor;
struct filewr;

enum filewr_state {
    FILEWR_OPEN, /* takes batches */
    FILEWR_BUSY, /* the last batch is still being written: wait for `ready` */
    FILEWR_FULL, /* max_size reached (R168): what was before it is written, nothing more is taken */
    FILEWR_FAILED, /* a write failed (R169) */
};

struct filewr_options {
    int fd;            /* own: passes to the file writer, also on failure */
    uint64_t max_size; /* bytes, framing included; 0: no limit (R168) */
    bool sync_each;    /* fdatasync after each drain (R167) */
    /* Called from the loop, never from inside a call below: a BUSY writer takes batches again, or
     * has become FULL or FAILED, or is done finishing. */
    void (*ready)(void *arg, struct filewr *w);
    void *arg; /* borrow */
};

/* *out: own, filewr_free. 0 or -errno. */
int filewr_new(struct reactor *r, const struct filewr_options *opt, struct filewr **out);

/* Closes at once; what is still held is lost. NULL allowed. */
void filewr_free(struct filewr *w);

enum filewr_state filewr_state(const struct filewr *w);

/* What made it FAILED: -errno, or -ETIMEDOUT when the target took nothing for too long. */
int filewr_error(const struct filewr *w);

/* The descriptor, for copying what is in the file already (R211). -1 once it is closed. */
int filewr_fd(const struct filewr *w);

/* Bytes written or held so far. */
uint64_t filewr_written(const struct filewr *w);

/* Opens a batch. The sink takes packets whose pieces stay valid until filewr_commit: it keeps
 * pointers, not copies. put answers ERR_QUOTA (positive) when the packet would reach max_size; the
 * writer is FULL after the commit then. */
struct packet_sink *filewr_begin(struct filewr *w);

/* Writes the batch. Afterwards no pointer into the trace buffer is kept, whatever the outcome; look
 * at filewr_state. 0 or -errno when the file failed. */
int filewr_commit(struct filewr *w);

/* The end of one drain: syncs if asked for. */
void filewr_drained(struct filewr *w);

/* No more batches: syncs and closes as soon as nothing is held, then `ready` is called (not from
 * inside this call). A target that takes nothing for timeout_ns is given up. */
void filewr_finish(struct filewr *w, uint64_t timeout_ns);

/* True once finish has closed the descriptor. */
bool filewr_done(const struct filewr *w);

/* ---- what the copy of a clone's file uses, too ---- */

/* Kinds of descriptors that somebody else chose, by how they are written without waiting. */
enum filewr_target { FILEWR_FILE, FILEWR_STREAM, FILEWR_SOCKET };

/* What *fd is. A pipe or a terminal is replaced by a second opening that does not block, where that
 * is allowed. 0, or -errno with *fd as it was: then it cannot be written to without waiting for its
 * reader. */
int filewr_inspect(int *fd, enum filewr_target *target);

/* Writes some of the n pieces (at least 1). Bytes taken; -EAGAIN when it takes nothing now; -errno.
 * Never a signal. */
ssize_t filewr_write(int fd, enum filewr_target target, struct iovec *iov, size_t n);

/* Creates the file for TraceConfig.output_path (R161): new, mode 0644. Returns the descriptor
 * (caller owns) or -errno with one line in why. */
int filewr_create(const char *path, char *why, size_t whylen);

#endif
