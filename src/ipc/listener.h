/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_LISTENER_H
#define IPC_LISTENER_H

/*
 * One listening socket on the reactor: made from an address or inherited, its file's owner and
 * mode, and the accept loop. It knows nothing of what is spoken on the connections.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "ipc/sockname.h"

struct reactor;
struct listener;

/* A connection was accepted: fd is non-blocking and close-on-exec, and the callee owns it. */
typedef void listener_accept_fn(void *arg, struct listener *listener, int fd);

struct listener_conf {
    const char *label; /* borrow, copied: "producer", for messages */
    listener_accept_fn *accepted;
    void *arg;        /* borrow */
    unsigned burst;   /* accepts per tick, 0: default; the rest waits for the next tick */
    unsigned reserve; /* descriptors kept free for the rest of the process, 0: default */
};

/* Binds and listens (R14: an old file of that name goes first), then starts accepting. 0 with *out
 * (caller owns, listener_free), or -errno with one line in err. */
int listener_open(struct listener **out, struct reactor *reactor, const char *address,
                  const struct listener_conf *conf, char *err, size_t errlen);

/* Same for an inherited, bound socket, which the listener owns on success; listen is called on it
 * if it does not listen yet. */
int listener_adopt(struct listener **out, struct reactor *reactor, int fd,
                   const struct listener_conf *conf, char *err, size_t errlen);

/* Owner, group and mode of the socket file (R17): chown(path, euid, gid), then chmod. group is a
 * name or a number. -EINVAL for a listener that has no file. 0 or -errno with a line in err. */
int listener_permit(struct listener *listener, const char *group, mode_t mode, char *err,
                    size_t errlen);

/* Parses "GROUP:MODE:GROUP:MODE" (R17): all parts non-empty, modes of exactly 4 octal digits. The
 * groups are cut out of copy, a buffer that must hold strlen(text) + 1 bytes. 0 or -EINVAL with a
 * line in err. */
struct listener_modes {
    const char *producer_group; /* borrow: into copy */
    const char *consumer_group;
    mode_t producer_mode;
    mode_t consumer_mode;
};
int listener_parse_modes(struct listener_modes *out, const char *text, char *copy, char *err,
                         size_t errlen);

/* Stops accepting and closes the socket; the file stays (a successor may own it already) unless
 * listener_unlink was called before. May be called from the accept callback. NULL is fine. */
void listener_free(struct listener *listener);

/* Removes the socket file if it is still ours (same device and inode). */
void listener_unlink(struct listener *listener);

/* A connection of this process was closed: an accept loop that had paused for lack of descriptors
 * goes on at once instead of at its next try. */
void listener_resume(struct listener *listener);

/* The address; text is as given, or made from the socket for an adopted one. */
const struct sockname *listener_name(const struct listener *listener);
int listener_fd(const struct listener *listener);
bool listener_paused(const struct listener *listener);

/* Raises the soft limit of open files to the hard one; returns the limit in force. */
unsigned long listener_raise_fd_limit(void);

#endif
