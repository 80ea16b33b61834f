/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILEJOB_H
#define SVC_FILEJOB_H

/*
 * The processes that write regular files, seen from inside: the host, which only forks, and its
 * children, one for each file. What they and the service say to each other is here: one datagram
 * each, on a SOCK_SEQPACKET pair; the bytes of the file come through a pipe. Only calls that are
 * safe after fork.
 *
 * The life of a child: START, or CREATE and OPENED; then any of PREFIX, SHARE, SYNC; WRITTEN
 * whenever it has caught up; the end of the pipe, DONE or FAILED. After PREFIX the file of another
 * child comes before what comes through the pipe. Offsets count the bytes of the pipe.
 */

#include <stddef.h>
#include <stdint.h>

enum filejob_kind {
    /* To the child. */
    FILEJOB_START = 1, /* fd: the file to write to */
    FILEJOB_CREATE,    /* the path of a file to be made is the next datagram */
    FILEJOB_PREFIX,    /* fd: socket from which a SOURCE comes, to be copied first */
    FILEJOB_SHARE,  /* fd: socket; once `at` bytes are written the file is synced and goes there */
    FILEJOB_SYNC,   /* once `at` bytes are written the file is synced */
    FILEJOB_FINISH, /* the pipe ends soon: a WRITTEN for each step from now on */
    /* From child to child. */
    FILEJOB_SOURCE, /* fd: the file; its first `at` bytes are meant */
    /* From the child. */
    FILEJOB_OPENED,  /* the file is made */
    FILEJOB_WRITTEN, /* it is at work; `at` bytes are in the file */
    FILEJOB_FAILED,  /* err: -errno; `at` bytes are kept, up to the end of a packet */
    FILEJOB_DONE,    /* all is written and synced, the file is closed */
};

struct filejob_msg {
    uint32_t kind;
    int32_t err;
    uint64_t at;
};

#define FILEJOB_FDS 2 /* most descriptors of one message */

/* Sends a message with n descriptors, which stay the caller's. flags: of sendmsg(2). 0 or -errno.
 */
int filejob_send(int sock, int flags, const struct filejob_msg *msg, const int *fds, int n);

/* Takes one message. flags: of recvmsg(2). Descriptors go to fds[0..], the others become -1; the
 * caller owns them. 1; 0 when the other end has gone; -errno (-EAGAIN: there is none). */
int filejob_recv(int sock, int flags, struct filejob_msg *msg, int fds[FILEJOB_FDS]);

/* CREATE with its path, which must be shorter than PATH_MAX. 0 or -errno. */
int filejob_send_create(int sock, const char *path);

/* The host: for each message on sock, which brings a child's end of its control socket and the
 * read end of its pipe, a child. Ends when the other end of sock has gone. For a process that was
 * forked for that; everything else that it inherited is closed. */
_Noreturn void filejob_host(int sock);

#endif
