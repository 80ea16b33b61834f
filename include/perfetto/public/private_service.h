/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracing service of one's own, for test harnesses: traced, and traced_probes if wanted, run as
 * children with sockets in a private folder. They end with this program, however it ends.
 *
 *     perfetto_private_service_start(NULL, false, 10000, &service, NULL, 0);
 *     options.socket = perfetto_private_service_producer(service);
 *     perfetto_init(&options);
 *     ... perfetto_session_start(s, perfetto_private_service_consumer(service), ...
 */
#ifndef PERFETTO_PUBLIC_PRIVATE_SERVICE_H
#define PERFETTO_PUBLIC_PRIVATE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "perfetto/public/export.h"

PERFETTO_BEGIN_DECLS

struct perfetto_private_service;

/*
 * Starts it and waits until it serves. The programs are looked for in bin_dir, if not NULL, and in
 * $PATH. 0 and *out, to be stopped; else -errno, and why it failed in a line of at most why_len
 * bytes if why is not NULL. Independent of perfetto_init(); one thread more.
 */
PERFETTO_EXPORT int perfetto_private_service_start(const char *bin_dir, bool probes,
                                                   uint32_t timeout_ms,
                                                   struct perfetto_private_service **out, char *why,
                                                   size_t why_len);

/* Addresses for producers and for consumers, valid until it is stopped. */
PERFETTO_EXPORT const char *
perfetto_private_service_producer(const struct perfetto_private_service *p);
PERFETTO_EXPORT const char *
perfetto_private_service_consumer(const struct perfetto_private_service *p);

/* Ends the programs, waits for them, and removes the folder. NULL is fine. */
PERFETTO_EXPORT void perfetto_private_service_stop(struct perfetto_private_service *p);

PERFETTO_END_DECLS

#endif
