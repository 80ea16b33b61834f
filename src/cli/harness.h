/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_HARNESS_H
#define CLI_HARNESS_H

/* The command of `perfetto ... -- COMMAND ARGS`: started, watched, signalled. */

#include <stdbool.h>

struct reactor;
struct harness;

/* Exit codes of our own failures, as env(1), timeout(1) and others have them. */
enum { HARNESS_FAILED = 125, HARNESS_CANNOT_RUN = 126, HARNESS_NOT_FOUND = 127 };

/* Called once, from the loop, when the command has ended: its exit status, or 128 + signal. */
typedef void harness_ended(void *arg, int status);

/* Starts argv. NULL with *code set (126, 127 or 125) when it cannot be run, which was said on
 * stderr. */
struct harness *harness_start(struct reactor *reactor, char **argv, harness_ended *ended, void *arg,
                              int *code);

/* Passes a signal on. */
void harness_signal(struct harness *h, int signo);

/* Forgets the command; if it still runs, it is left alone. NULL is fine. */
void harness_free(struct harness *h);

#endif
