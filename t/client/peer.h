/* SPDX-License-Identifier: Apache-2.0 */
#ifndef T_CLIENT_PEER_H
#define T_CLIENT_PEER_H

/*
 * A tracing service as a producer sees it, in frames: listens on a socket of its own in a private
 * folder, answers what must be answered, notes every call and takes chunks out of the shared
 * memory. Everything runs on the test's thread: peer_turn() ticks the reactor and then looks at the
 * socket.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/frame.h"
#include "ipc/port_producer.h"
#include "reactor/bytesbuf.h"
#include "reactor/reactor.h"
#include "smb/scan.h"

/* One method invoked by the producer. */
struct peer_call {
    uint32_t method; /* PORT_PRODUCER_X */
    uint64_t request_id;
    uint8_t *args; /* own */
    size_t len;
    bool drop_reply;
};

/* One chunk committed. */
struct peer_chunk {
    uint8_t *payload; /* own */
    struct scan_chunk head;
    uint32_t target;
    size_t call; /* index of the CommitData that brought it */
};

struct peer {
    struct reactor *reactor; /* borrow */
    char dir[64];
    char path[96];
    int listener; /* -1: not listening */
    int fd;       /* -1: no producer */
    struct bytesbuf in;
    int taken_fd; /* descriptor that came with the last bytes, -1 */
    unsigned connections;

    /* How it answers. */
    bool refuse;              /* InitializeConnection */
    bool emulate;             /* use_shmem_emulation */
    bool take_offer;          /* using_shmem_provided_by_producer */
    bool direct;              /* direct_smb_patching_supported */
    bool silent;              /* answers nothing but binds */
    bool no_producer;         /* does not know ProducerPort */
    const struct frame *bind; /* borrow: a recorded bind reply to give instead of our own */
    struct bytes_view init;   /* the same for InitializeConnection */
    uint32_t skip;            /* this method is not listed */

    struct shmem shm;        /* what was announced or offered */
    uint64_t command_id;     /* request id of GetAsyncCommand, 0 = not yet */
    struct peer_call *calls; /* own */
    size_t call_count;
    struct peer_chunk *chunks; /* own */
    size_t chunk_count;
};

/* Listens. */
void peer_init(struct peer *p, struct reactor *r);
void peer_fini(struct peer *p);
void peer_listen(struct peer *p);
void peer_unlisten(struct peer *p);

/* Hangs up on the producer, forgets the memory and, if asked to, the calls. */
void peer_hang_up(struct peer *p);
void peer_forget_calls(struct peer *p);

/* One tick of the loop and one look at the socket. */
void peer_turn(struct peer *p);

/* Turns until nothing moves any more. */
void peer_settle(struct peer *p);

/* Turns until the n-th call (from 0) of this method is there, and returns it; fails the test if it
 * does not come. */
const struct peer_call *peer_expect(struct peer *p, uint32_t method, size_t n);

/* The same without waiting; NULL. */
const struct peer_call *peer_call(const struct peer *p, uint32_t method, size_t n);
size_t peer_count(const struct peer *p, uint32_t method);

/* Sends a GetAsyncCommandResponse; fd -1 or borrowed. */
void peer_command(struct peer *p, const void *msg, size_t len, int fd);

void peer_setup_tracing(struct peer *p, uint32_t total, uint32_t page); /* makes the memory */
void peer_setup(struct peer *p, uint64_t id, const char *name, uint16_t buffer);
void peer_start(struct peer *p, uint64_t id, const char *name, uint16_t buffer);
void peer_stop(struct peer *p, uint64_t id);
void peer_flush(struct peer *p, uint64_t flush_id, const uint64_t *ids, size_t n);
void peer_clear(struct peer *p, uint64_t id);

/* Any frame. */
void peer_send(struct peer *p, const void *frame, size_t len, int fd);
void peer_reply(struct peer *p, uint64_t request_id, bool more, const void *msg, size_t len,
                int fd);

/* Field 1 of a call's arguments. */
uint64_t peer_id(const struct peer_call *c);

/* flush_request_id of the n-th CommitData that has one; 0 = there is none. */
uint64_t peer_flush_ack(const struct peer *p, size_t n);

/* Value of a field of the packet'th packet that arrived (counting over all chunks, empty ones left
 * out); false if there is no such packet or field. Fragmented packets are not joined. */
bool peer_packet(const struct peer *p, size_t packet, uint32_t field, struct bytes_field *out);

#endif
