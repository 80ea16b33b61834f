/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of libperfetto_c, shared by its parts: sdk.c (life of the library), sdk_source.c (data
 * sources), sdk_packet.c (packets and threads), sdk_session.c (sessions) and sdk_private.c (private
 * services). What programs see is
 * in include/perfetto/public.
 */
#ifndef CLIENT_SDK_H
#define CLIENT_SDK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "client/iothread.h"
#include "perfetto/public/data_source.h"
#include "reactor/list.h"

struct datasource;
struct ds_inst;
struct pbw;
struct prodlink;
struct writer;

enum { SDK_SOURCES = 64, SDK_INSTANCES = 8 };

/*
 * Who may touch the writer of a packet. Only the thread of the packet makes DEAD to something else,
 * and IDLE to OPEN; the library's thread makes IDLE to DEAD or FLUSHING. Whoever moved it away from
 * IDLE has the writer for itself until it moves it on.
 */
enum sdk_packet_state {
    SDK_PACKET_DEAD,       /* there is no writer */
    SDK_PACKET_IDLE,       /* between packets */
    SDK_PACKET_OPEN,       /* between begin and end */
    SDK_PACKET_OPEN_FLUSH, /* the same; flush it at the end */
    SDK_PACKET_DOOMED,     /* the same; its instance is gone, give the writer away at the end */
    SDK_PACKET_FLUSHING,   /* for as long as the library's thread holds sdk.lock */
};

/* What one thread has of one instance place; eight in a row, see sdk_packet.c. */
struct perfetto_packet {
    _Atomic uint32_t state;
    uint32_t state_gen;        /* sdk_instance.state_gen that wants_state() answered */
    struct pbw *pbw;           /* borrow: of the open packet */
    struct writer *writer;     /* own, unless DEAD */
    struct sdk_source *source; /* borrow */
    uint32_t instance;
    struct list node; /* sdk_instance.packets; sdk.lock */
};

/* A place for an instance. */
struct sdk_instance {
    struct ds_inst *inst;       /* borrow; NULL: free. sdk.lock */
    struct list packets;        /* borrow: those with a live writer of inst. sdk.lock */
    _Atomic uint32_t state_gen; /* counts starts and ClearIncrementalState */
};

/* Sources are never freed: threads look at them without asking. A new life of the library gives a
 * source of an earlier one its old place. */
struct sdk_source {
    struct perfetto_data_source *pub; /* borrow; NULL: unused */
    struct perfetto_data_source_options opts;
    struct datasource *ds; /* borrow; NULL: not registered. sdk.lock */
    unsigned index;
    struct sdk_instance instance[SDK_INSTANCES];
};

struct sdk {
    pthread_mutex_t lock;   /* taken before the arbiter's; never held while callbacks run */
    pthread_cond_t changed; /* monotonic clock; any of the below, or an `active` */
    bool running;           /* between init and shutdown */
    bool forked;            /* we are the child: hands off. Written in the child only */
    bool closing;           /* somebody is in shutdown */
    bool connected;
    unsigned users;    /* threads that use `io` now */
    unsigned sessions; /* alive */
    unsigned doomed;   /* packets in that state */
    struct iothread *io;
    struct prodlink *link;   /* own: of the library's thread */
    struct list trash;       /* own: writers to free */
    struct iothread_job bin; /* empties the trash */
    unsigned source_count;
    struct sdk_source source[SDK_SOURCES];
};

extern struct sdk sdk;

/* What is done once in a process, before all else. 0; -EOWNERDEAD in a child of fork. */
int sdk_prepare(void);

/* Announces a use of sdk.io from a thread that is not the library's. 0; -ENOTCONN, -EOWNERDEAD,
 * -EDEADLK. Then sdk_leave() is due. */
int sdk_enter(void);
void sdk_leave(void);

struct timespec sdk_until(uint32_t timeout_ms);

/* ---- sdk_source.c; library's thread ---- */

/* Stops all instances and forgets what is registered. */
void sdk_source_end_all(void);

/* ---- sdk_packet.c ---- */

/* Library's thread: flushes what the threads have of an instance. Packets that are open flush when
 * they end. cb, if any, as writer_flush(), with `before` called for each of them first. */
void sdk_packet_flush(struct sdk_instance *at, void (*before)(void *ctx),
                      void (*cb)(void *ctx, bool acked), void *ctx);

/* Library's thread: takes all writers of an instance away. */
void sdk_packet_end_all(struct sdk_instance *at);

/* Library's thread: frees the writers that other threads gave away. */
void sdk_packet_empty_trash(void *unused);

#endif
