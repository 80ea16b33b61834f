/* SPDX-License-Identifier: Apache-2.0 */
#ifndef T_IPC_LOOP_H
#define T_IPC_LOOP_H

/* What the tests of this folder share: turning a reactor until something is so, and a raw peer that
 * speaks in bytes. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ipc/frame.h"
#include "reactor/reactor.h"

/* n ticks that do not wait. Local sockets need no more: what was written is readable at once. */
void loop_ticks(struct reactor *r, int n);

/* Ticks until *flag is at least want, with a bound of about 10 s. Returns whether it got there. */
bool loop_until(struct reactor *r, const int *flag, int want);

/* Bytes of a hex text with any white space. */
size_t loop_hex(const char *hex, uint8_t *out, size_t cap);

/* A connected, non-blocking AF_UNIX stream pair. */
void loop_pair(int fds[2]);

/* Writes all, or fails the test. */
void loop_write(int fd, const void *p, size_t n);

/* Sends bytes with descriptors by one sendmsg. */
void loop_send_fds(int fd, const void *p, size_t n, const int *fds, size_t count);

/* Reads what is there (up to cap): bytes, 0 at the end, -1 when nothing is there now. */
long loop_read(int fd, void *p, size_t cap);

/* Same, with at most one descriptor, -1 when none came. */
long loop_recv_fd(int fd, void *p, size_t cap, int *out);

/* A memfd that holds the text, and whether a descriptor's file does. */
int loop_memfd(const char *text);
bool loop_fd_holds(int fd, const char *text);

/* Number of open descriptors of this process. */
int loop_open_fds(void);

/* Fails the test when memory was lost; does nothing without LeakSanitizer. For teardowns, when all
 * is reaped. */
void loop_no_leaks(void);

/* Takes the first frame off a byte buffer: true with *f (views into buf) and *n shortened. */
bool loop_frame(const uint8_t **p, size_t *n, struct frame *f);

#endif
