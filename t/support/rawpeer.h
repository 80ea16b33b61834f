/* SPDX-License-Identifier: Apache-2.0 */
#ifndef T_SUPPORT_RAWPEER_H
#define T_SUPPORT_RAWPEER_H

/*
 * A blocking peer of the service for test programs and benchmarks: frames and calls, and a producer
 * that writes chunks by hand. One thread, no loop, no upb. Everything that goes wrong on our side
 * ends the program with a line; only the service's end of the connection is reported.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"
#include "reactor/bytesbuf.h"

struct rawpeer {
    int fd;        /* own */
    int passed_fd; /* own: descriptor that came last, -1: none */
    uint64_t service_id;
    uint64_t request; /* id of the last request */
    struct bytesbuf in;
    size_t consumed; /* bytes of in that belong to the frame handed out last */
};

/* One reply. */
struct rawpeer_reply {
    uint64_t request;
    bool ok, has_more;
    struct bytes_view body; /* valid until the next rawpeer_next */
};

/* Connects to a Unix socket and binds. False when the service hangs up. */
bool rawpeer_open(struct rawpeer *p, const char *path, const char *service);
void rawpeer_close(struct rawpeer *p);

/* Sends a call. Returns its request id, 0 when the service hung up. */
uint64_t rawpeer_call(struct rawpeer *p, uint32_t method, struct bytes_view args, bool drop_reply);

/* Waits up to timeout_ms (-1: for ever) for a reply: 1 with *out, 0 timeout, -1 hung up. */
int rawpeer_next(struct rawpeer *p, int timeout_ms, struct rawpeer_reply *out);

/* Calls and waits for the last reply to it; others are dropped. False when hung up or rejected. */
bool rawpeer_ask(struct rawpeer *p, uint32_t method, struct bytes_view args);

/* ---- producer ---- */

#define RAWPROD_WRITERS 8

/* One data source instance and its writer. */
struct rawprod_writer {
    uint64_t instance; /* 0: unused */
    uint32_t target;
    uint16_t id;
    uint32_t chunk_id;
    uint64_t next; /* number of the next packet */
    bool open;     /* a chunk is being written */
    uint32_t page, chunk;
    uint8_t *at;  /* where the next record goes */
    uint8_t *end; /* end of the chunk */
    uint32_t count;
};

struct rawprod {
    struct rawpeer peer;
    uint64_t commands; /* request id of GetAsyncCommand */
    uint8_t *smb;      /* own mapping; NULL before setup_tracing */
    size_t size, page;
    uint32_t search; /* page where the search for a free chunk goes on */
    uint16_t writer_ids;
    struct rawprod_writer writers[RAWPROD_WRITERS];
    struct bytesbuf commit; /* moves that wait for rawprod_commit */
};

/* Connects as producer `name`, asks for scraping, and registers the data sources. */
bool rawprod_open(struct rawprod *p, const char *path, const char *name, char *const *sources,
                  int nsources);
void rawprod_close(struct rawprod *p);

/* Takes commands for up to timeout_ms: maps the SMB, starts and stops writers, answers flushes.
 * False when the service hung up. */
bool rawprod_serve(struct rawprod *p, int timeout_ms);

/* Writes up to n numbered packets with `pad` bytes of text into the open chunk, opening one if need
 * be; it stays open when finish is false and it has room. False when no chunk is free. */
bool rawprod_write(struct rawprod *p, struct rawprod_writer *w, unsigned n, size_t pad,
                   bool finish);

/* Sends what was finished. ack: waits for the service to have worked it off. */
bool rawprod_commit(struct rawprod *p, bool ack);

#endif
