/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_DAEMONOPT_H
#define SVC_DAEMONOPT_H

/* The command line of traced: one table feeds the scanner and the help text. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/charge.h"

#define DAEMONOPT_RELAYS 32 /* sockets that --enable-relay-endpoint-on may name */

struct daemonopt {
    bool background;
    bool relay_everywhere;
    const char *permissions; /* borrow, as all texts here: of argv; NULL: not given */
    const char *log_file;
    const char *relay_on[DAEMONOPT_RELAYS];
    size_t nrelay_on;
    uint64_t idle_ns; /* 0: never ends by itself */
    struct charge_limit limits[CHARGE_KINDS];
};

/* 0 to go on with *out; 1 when the process is to end with *status (help, version, or a complaint
 * was printed). version: what --version prints. */
int daemonopt_parse(struct daemonopt *out, int argc, char **argv, const char *version, int *status);

/* "1", "64K", "2M", "3G", "4T" in bytes; false when it is no such number or too large. */
bool daemonopt_size(const char *text, uint64_t *out);

#endif
