/* SPDX-License-Identifier: Apache-2.0 */
/* A service small enough to read: takes the commits of an arbiter, copies chunks out of the SMB,
 * applies patches and puts packets together again. Shared by the tests of t/smb. */
#ifndef T_SMB_FAKE_H
#define T_SMB_FAKE_H

#include <pthread.h>

#include "smb/arbiter.h"
#include "smb/commit.h"
#include "smb/scan.h"
#include "smb/writer.h"

struct fake_chunk {
    struct scan_chunk head; /* payload is a copy of our own */
    uint8_t *payload;       /* own */
    uint32_t target;
};

struct fake_request {
    uint8_t *bytes; /* own: as encoded */
    size_t len;
    size_t moves, entries;
    uint64_t flush_id;
    uint64_t cookie;
};

struct fake {
    struct shmem shm;
    struct arbiter *arb; /* own */
    struct arbiter_ops ops;
    pthread_t ipc;
    bool hold; /* record requests, do not read chunks */
    uint64_t now;
    _Atomic uint64_t due; /* when arbiter_run() is wanted; UINT64_MAX = not */
    _Atomic uint64_t slept_us;
    _Atomic int sleeps;
    int exhausted;
    void (*on_sleep)(struct fake *f);
    struct fake_request *requests; /* own */
    size_t request_count;
    size_t applied;            /* requests read so far */
    struct fake_chunk *chunks; /* own, in order of arrival */
    size_t chunk_count;
    size_t patched, patch_misses;
    uint16_t *registered; /* own: (id, target) pairs */
    size_t registered_count;
    size_t unregistered_count;
};

struct fake_packet {
    uint8_t *data; /* own */
    size_t len;
};

/* cfg->shm is filled in. page 0 = 4096. */
void fake_init(struct fake *f, size_t total, uint32_t page, struct arbiter_cfg cfg);
/* Memory only; cfg->unbound and the like are up to the caller. */
void fake_init_shm(struct fake *f, size_t total, uint32_t page);
void fake_fini(struct fake *f);

/* Runs the arbiter if it asked for it and the time has come. */
void fake_run(struct fake *f);

/* Reads what was recorded with `hold`, and acknowledges. */
void fake_apply(struct fake *f);

/* The packets of one writer, fragments joined, sentinels obeyed, empty ones left out. */
size_t fake_packets(const struct fake *f, uint16_t writer_id, struct fake_packet **out);
void fake_packets_free(struct fake_packet *p, size_t n);

/* The chunk (writer, id), NULL if it never arrived. */
const struct fake_chunk *fake_chunk(const struct fake *f, uint16_t writer_id, uint32_t chunk_id);

#endif
