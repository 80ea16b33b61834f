/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_CHANNEL_H
#define IPC_CHANNEL_H

/*
 * A connected stream socket on the reactor that carries frames and file descriptors. It reads until
 * EAGAIN within a budget per tick, hands complete frames over in order, and queues output under a
 * byte cap. It never blocks.
 *
 * Back-pressure (R21, R22): what the kernel does not take waits in a queue. The bytes that wait at
 * some moment have `stuck_ns` to leave, however slowly they trickle; a peer that misses that, or
 * whose queue passes `out_cap`, is disconnected (ERR_STALLED).
 *
 * Life: channel_new .. channel_close. After a close, by either side, no callback but `closed` runs,
 * every function is a harmless no-op, and the memory goes at the reactor's reap.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "reactor/bytes.h"

struct channel;
struct charge;
struct reactor;

struct channel_ops {
    /* One non-empty frame payload, valid during the call. The callee may close the channel. */
    void (*frame)(void *arg, struct channel *ch, struct bytes_view payload);
    /* The connection is over: ERR_HANGUP for an orderly end, another positive value for what the
     * peer did wrong, -errno for a socket error. Runs exactly once, never inside a channel_send*
     * (always from the loop) and not after channel_close. Complete frames were delivered before
     * (R110). ch is not to be used afterwards. */
    void (*closed)(void *arg, struct channel *ch, int reason);
    /* The queue had passed its high mark and is below the low mark again; may be NULL. */
    void (*drained)(void *arg, struct channel *ch);
};

/* Zero in any field: the default in reactor/defaults.h. */
struct channel_conf {
    size_t out_cap;      /* bytes that may wait; one frame may reach over it */
    size_t out_high;     /* channel_is_full() from here on */
    size_t out_low;      /* drained() when down here */
    uint64_t stuck_ns;   /* time for waiting bytes to leave */
    size_t read_budget;  /* bytes read per tick */
    struct charge *held; /* borrow, until closed() or channel_close: pays for the memory of both
                            queues beyond 16 KiB each; when it cannot, the connection ends with
                            ERR_BACKLOG. NULL: nobody pays */
    bool want_fds;       /* accept descriptors (AF_UNIX); otherwise one that comes ends the
                            connection, as control data would be truncated */
};

/* Takes over a connected, non-blocking socket (owned from here on, also on failure). arg is
 * borrowed. 0 with *out, or -errno. */
int channel_new(struct channel **out, struct reactor *reactor, int fd,
                const struct channel_conf *conf, const struct channel_ops *ops, void *arg);

/* Ends it from our side: what waits gets one last non-blocking try, then the socket closes.
 * Harmless when closed already. The caller drops its pointer. */
void channel_close(struct channel *ch);

/* ---- output ----
 * fd: -1, or a descriptor that travels with the first byte (R63); borrowed, duplicated if it has to
 * wait, ignored on sockets that cannot carry one (R69). All return 0, or ERR_STALLED / -errno when
 * the connection is lost by it (closed() follows from the loop). */

/* Appends whole frames to the queue; they leave at this tick's channel-write step, together with
 * all that was queued. */
int channel_send(struct channel *ch, struct bytes_view frames, int fd);

/* Room of n bytes at the queue's end to encode a frame into, then the number used: no copy. NULL
 * when the connection is lost or there is no memory. */
uint8_t *channel_room(struct channel *ch, size_t n);
int channel_used(struct channel *ch, size_t n, int fd);

/* Gathers borrowed pieces that form one frame: they go to the kernel at once by sendmsg if nothing
 * waits before them, and only what it did not take is copied. On return the pieces are free again.
 * iovcnt is at most IOV_MAX (1024). */
int channel_sendv(struct channel *ch, const struct iovec *iov, int iovcnt, int fd);

/* Bytes that wait, and whether they reach the high mark: a producer of output then pauses until
 * drained(). */
size_t channel_waiting(const struct channel *ch);
bool channel_is_full(const struct channel *ch);

/* Writes what waits now, as the channel-write step would. */
void channel_flush(struct channel *ch);

/* ---- input ---- */

/* Takes the descriptor out of the slot (R64); the caller owns it. -1 when it is empty. */
int channel_take_fd(struct channel *ch);

/* Stops and restarts reading (nesting is not counted); a paused channel does not notice a hang-up
 * until it reads again. Frames already read are held back too. */
void channel_pause(struct channel *ch);
void channel_resume(struct channel *ch);

/* True from new until close or loss. */
bool channel_is_open(const struct channel *ch);

/* The socket, borrowed; -1 when closed. */
int channel_fd(const struct channel *ch);

#endif
