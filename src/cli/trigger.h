/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRIGGER_H
#define CLI_TRIGGER_H

/* Sending triggers, for trigger_perfetto and for configs with activate_triggers. */

#include <stddef.h>

#include "reactor/bytes.h"

/* Sends all names and waits until the service has them. Returns the exit code; a failure was said
 * on stderr, beginning with `program`. */
int trigger_send(const char *program, const struct bytes_view *names, size_t n);

#endif
