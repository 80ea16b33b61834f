/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program as a producer: its connection to the tracing service.
 *
 * perfetto_init() starts one thread, which does everything that is slow; the program's own threads
 * only write packets into memory that they share with the service. No service, a service that comes
 * later, one that ends and comes back: all of that is normal and needs no care.
 *
 * Functions return 0 or a negative errno value. They may be called from any thread, but not from a
 * signal handler. Those with a timeout, and perfetto_shutdown(), return -EDEADLK in the callbacks
 * of a data source, which run on the library's thread.
 *
 * A child of fork() is not a producer: tracing is off in it for good, and calls that would need the
 * library's thread return -EOWNERDEAD. It must not fork inside a packet. exec() is fine.
 */
#ifndef PERFETTO_PUBLIC_PRODUCER_H
#define PERFETTO_PUBLIC_PRODUCER_H

#include <stdint.h>

#include "perfetto/public/export.h"

PERFETTO_BEGIN_DECLS

/* All zero is fine: then argument NULL of perfetto_init() says the same. */
struct perfetto_options {
    const char *name;     /* of the producer; NULL: the program's name */
    const char *socket;   /* producer socket; NULL: $PERFETTO_PRODUCER_SOCK_NAME, or where the
                             service of this machine listens */
    uint32_t shm_size_kb; /* shared memory wished for, a multiple of the page; 0: 1024 */
    uint32_t shm_page_kb; /* its unit, 4, 8, 16 or 32; 0: 4 */
};

/* Starts the library. -EALREADY when it runs, with everything as it was; -EINVAL for sizes that are
 * none. Does not wait for the service. */
PERFETTO_EXPORT int perfetto_init(const struct perfetto_options *options);

/*
 * Stops all data sources, sends what is written, and ends the library's thread. perfetto_init() may
 * follow; data sources are registered anew then. Sessions (session.h) must have been freed: -EBUSY.
 * -EBUSY too if some thread does not end its packet within a second; tracing is off then, and the
 * call may be repeated.
 *
 * A program that simply exits need not call it: exit() sends what is written.
 */
PERFETTO_EXPORT int perfetto_shutdown(void);

/* Waits until a service has accepted this producer. 0, -ETIMEDOUT. */
PERFETTO_EXPORT int perfetto_wait_connected(uint32_t timeout_ms);

/* Sends every finished packet of every thread, and waits until the service has it. 0, -ENOTCONN,
 * -ETIMEDOUT. */
PERFETTO_EXPORT int perfetto_flush(uint32_t timeout_ms);

/* Activates a trigger of sessions that wait for it. Without a service it is kept for ttl_ms. Does
 * not wait. */
PERFETTO_EXPORT int perfetto_trigger(const char *name, uint32_t ttl_ms);

PERFETTO_END_DECLS

#endif
