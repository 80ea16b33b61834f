/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLIENT_TRIGSEND_H
#define CLIENT_TRIGSEND_H

/* Sends triggers to the tracing service, as a producer without data sources (cli.md R721). */

#include <stdbool.h>
#include <stddef.h>

#include "reactor/bytes.h"

struct reactor;
struct trigsend;

/* Called once, from the loop: the service took the triggers, or it could not be asked and `why` is
 * one line. The sender may be freed in it. */
typedef void trigsend_done(void *arg, bool ok, const char *why);

/* Connects to `address` and sends all names in one request. The names are copied. NULL, with one
 * line in err, when the address is malformed or nobody listens there. */
struct trigsend *trigsend_new(struct reactor *reactor, const char *address,
                              const struct bytes_view *names, size_t n, trigsend_done *done,
                              void *arg, char *err, size_t errlen);

/* NULL is fine. */
void trigsend_free(struct trigsend *t);

/* Where producers connect to when nobody says otherwise. Static. */
const char *trigsend_default_address(void);

#endif
