/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILEWR_H
#define SVC_FILEWR_H

/*
 * The output file of a session: packets framed as a Trace message and written with one writev per
 * batch (service.md section 10). The target may be a file on a disk that stalls, or a pipe or a
 * socket that nobody reads: it never blocks the loop, a signal never comes of it, and what is not
 * taken at once is copied aside (one batch at most) and written when there is room again. Files are
 * written by a process of their own (svc/filejob.h), which gets the bytes through a pipe.
 *
 * Life: open -> (begin, put..., commit)* -> finish -> done. After full or failed, puts are refused.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "svc/packet.h"

struct charge_book;
struct filehost;
struct filewr;
struct reactor;

enum filewr_state {
    FILEWR_OPENING, /* the file is being made: wait for `ready` */
    FILEWR_OPEN,    /* takes batches */
    FILEWR_BUSY,    /* the last batch is still being written: wait for `ready` */
    FILEWR_FULL, /* max_size reached (R168): what was before it is written, nothing more is taken */
    FILEWR_FAILED, /* a write failed (R169) */
};

struct filewr_options {
    const char *path;         /* borrow during the call: a file to be made (R161); NULL: fd */
    int fd;                   /* own: passes to the file writer, also on failure; -1 with path */
    struct filehost *host;    /* borrow: starts the process that writes a file */
    struct charge_book *book; /* borrow: which is charged to uid; NULL: not charged */
    uid_t uid;
    int prefix; /* own: socket from which the file of another writer comes (filewr_share), to be
                 * copied before anything else; -1: none. Then all targets get a process. */
    uint64_t max_size; /* bytes, framing included; 0: no limit (R168) */
    bool sync_each;    /* fdatasync after each drain (R167) */
    /* Called from the loop, never from inside a call below: an OPENING or BUSY writer takes batches
     * now, or has become FULL or FAILED, or is done finishing. */
    void (*ready)(void *arg, struct filewr *w);
    void *arg; /* borrow */
};

/* *out: own, filewr_free. 0; ERR_QUOTA: too many files are being written for that uid; -errno. */
int filewr_new(struct reactor *r, const struct filewr_options *opt, struct filewr **out);

/* Closes at once; what is still held is lost. NULL allowed. */
void filewr_free(struct filewr *w);

/* Another owner, who is told from now on. */
void filewr_hand_over(struct filewr *w, void (*ready)(void *arg, struct filewr *w), void *arg);

enum filewr_state filewr_state(const struct filewr *w);

/* What made it FAILED: -errno, or -ETIMEDOUT when the target took nothing for too long, or -EPIPE
 * when whoever reads or writes it is gone. */
int filewr_error(const struct filewr *w);

/* The same in words. Static storage. */
const char *filewr_why(const struct filewr *w);

/* Bytes written, held or under way so far; when it has FAILED, bytes that were written. */
uint64_t filewr_written(const struct filewr *w);

/* Those of them that are not in the file yet, as far as is known. */
uint64_t filewr_backlog(const struct filewr *w);

/* A process writes it: it is a file, or has a prefix. */
bool filewr_on_disk(const struct filewr *w);

/* After finish: all is with the process that writes it, which goes on if we are gone. */
bool filewr_handed_on(const struct filewr *w);

/* What was put so far is synced and goes, as a descriptor, to whoever reads from that socket
 * (R211). Takes sock. 0 or -errno: the target is no file, or is being closed. */
int filewr_share(struct filewr *w, int sock);

/* Opens a batch. The sink takes packets whose pieces stay valid until filewr_commit: it keeps
 * pointers, not copies. put answers ERR_QUOTA (positive) when the packet would reach max_size; the
 * writer is FULL after the commit then. */
struct packet_sink *filewr_begin(struct filewr *w);

/* Writes the batch. Afterwards no pointer into the trace buffer is kept, whatever the outcome; look
 * at filewr_state. 0 or -errno when the file failed. */
int filewr_commit(struct filewr *w);

/* The end of one drain: syncs if asked for. */
void filewr_drained(struct filewr *w);

/* From now on a target that takes nothing for patience_ns is given up: FAILED. */
void filewr_hurry(struct filewr *w, uint64_t patience_ns);

/* No more batches: syncs and closes as soon as all is written, then `ready` is called (not from
 * inside this call). patience_ns as for filewr_hurry. */
void filewr_finish(struct filewr *w, uint64_t patience_ns);

/* True once finish has closed the descriptor. */
bool filewr_done(const struct filewr *w);

#endif
