/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_STOPSIG_H
#define CLI_STOPSIG_H

/* Signals that ask the program for something, through the loop. */

#include <stdbool.h>

#include "reactor/watch.h"

#define STOPSIG_MAX 8

/* sent: it came from a process; false: from the terminal, which gives it to our children as well.
 */
typedef void stopsig_fn(void *arg, int signo, bool sent);

/* Embedded by value. At most one exists at a time. */
struct stopsig {
    struct watch watch;
    int fd; /* own: read end of a pipe */
    int signals[STOPSIG_MAX];
    int n;
    stopsig_fn *fn;
    void *arg; /* borrow */
};

/* Catches the signals, a list that ends with 0. once: each has its default action again after it
 * came, so that the second of a kind kills (R330). 0 or -errno. */
int stopsig_init(struct stopsig *s, struct reactor *reactor, const int *signals, bool once,
                 stopsig_fn *fn, void *arg);

/* Restores the default actions. */
void stopsig_fini(struct stopsig *s);

#endif
