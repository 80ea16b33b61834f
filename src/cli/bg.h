/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_BG_H
#define CLI_BG_H

/* Going into the background, and telling whoever waits how it went (R107, R350..R357). */

#include <stdbool.h>
#include <stddef.h>

#define BG_WAIT_MS   30000 /* patience of --background-wait */
#define BG_TIMED_OUT 2     /* its exit code then */

/* Those who wait for one status byte: the parent of --background-wait, and --notify-fd. */
struct bg_notify {
    int fd[2]; /* own, -1 */
    size_t n;
};

void bg_notify_init(struct bg_notify *n);

/* fd is owned from here on. */
void bg_notify_add(struct bg_notify *n, int fd);

/* Writes the byte to all and closes them; later calls do nothing (R352). */
void bg_notify_send(struct bg_notify *n, unsigned char status);

/* Forks. The child gets -1 back: it is a session leader in "/", with /dev/null as fds 0..2; with
 * `wait`, n has a new member, through which the parent waits. The parent prints the child's PID and
 * returns its exit code: 0 at once, or what the child said (R351). */
int bg_daemonize(bool wait, struct bg_notify *n);

#endif
