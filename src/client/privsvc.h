/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLIENT_PRIVSVC_H
#define CLIENT_PRIVSVC_H

/*
 * A tracing service for one recording: a traced, and a traced_probes if wanted, as children, with
 * sockets in a folder of their own. They go when this program goes, however it goes.
 */

#include <stdbool.h>
#include <stddef.h>

struct reactor;
struct privsvc;

struct privsvc_conf {
    const char *bin_dir; /* borrow: looked at before PATH; NULL: PATH only */
    bool probes;
};

/* Called once, from the loop: both programs serve, or `why` says in one line what went wrong. May
 * call privsvc_free. */
typedef void privsvc_ready(void *arg, bool ok, const char *why);

/* Called when a program ended although nobody stopped it. `why` is one line. */
typedef void privsvc_gone(void *arg, const char *why);

/* Starts it. NULL with one line in err when that fails at once. conf is copied. */
struct privsvc *privsvc_start(struct reactor *reactor, const struct privsvc_conf *conf,
                              privsvc_ready *ready, privsvc_gone *gone, void *arg, char *err,
                              size_t errlen);

/* The addresses, as PERFETTO_PRODUCER_SOCK_NAME and PERFETTO_CONSUMER_SOCK_NAME want them. Valid
 * until privsvc_free. */
const char *privsvc_producer(const struct privsvc *p);
const char *privsvc_consumer(const struct privsvc *p);

/* Ends both programs (SIGTERM; SIGKILL if they are still there after two seconds), waits for them,
 * and removes the sockets and the folder. NULL is fine. */
void privsvc_free(struct privsvc *p);

#endif
