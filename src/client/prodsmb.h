/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared memory of a producer's connections, with its arbiter: makes it when the service
 * announces it, keeps it alive while writers of an old connection still hold on to it, and brings
 * what writers on other threads want to the loop's thread.
 */
#ifndef CLIENT_PRODSMB_H
#define CLIENT_PRODSMB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "reactor/deadline.h"
#include "reactor/list.h"
#include "reactor/watch.h"
#include "smb/shmem.h"

struct arbiter;
struct prodlink;
struct prodsmb;

/* All memory of one link. Embedded in it. */
struct prodsmb_set {
    struct prodlink *link;   /* borrow */
    struct prodsmb *current; /* own: of this connection; NULL before setup_tracing */
    struct list retired;     /* own: of earlier connections, with writers still alive */
    struct shmem offered;    /* own: memory we offer, until the service has taken or refused it */
    struct watch wake;
    struct deadline timer;
    _Atomic uint64_t want_at; /* ms; when a run is wanted, UINT64_MAX = not */
    pthread_t thread;         /* the loop's */
    int wake_fd;              /* own: eventfd */
};

/* 0 or -errno. */
int prodsmb_init(struct prodsmb_set *set, struct prodlink *link);
/* Frees what can be freed; memory with live writers is left behind with an error line. */
void prodsmb_fini(struct prodsmb_set *set);

/*
 * setup_tracing (IPC spec R86-R91): fd = the descriptor that came along (taken in every case) or
 * -1. Which kind of memory is settled by what the link knows: emulation, adopted offer, or the
 * descriptor. 0; positive when the service did wrong; -errno when we failed.
 */
int prodsmb_setup(struct prodsmb_set *set, uint32_t page_size, int fd);

/* The connection is gone. */
void prodsmb_disconnect(struct prodsmb_set *set);

/* The arbiter of this connection, borrowed; NULL before setup_tracing. */
struct arbiter *prodsmb_arbiter(const struct prodsmb_set *set);

/* The connection's output has room again. */
void prodsmb_drained(struct prodsmb_set *set);

#endif
