/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SCRAPE_H
#define SVC_SCRAPE_H

/*
 * Copying chunks that producers have not committed (service.md 5.4): at the end of a flush and of a
 * stop for one session, and of a producer that leaves for all. The work is done in slices; what
 * fits the first slice is done at once, so that the usual case needs no second tick.
 */

#include <stdbool.h>
#include <stdint.h>

#include "reactor/task.h"
#include "smb/scan.h"

struct producer;
struct service;
struct session;

/* One scrape of a session, embedded in what waits for it; zero-initialised, or finished, it is
 * idle. */
struct scrape {
    struct session *session; /* borrow; NULL: idle */
    struct task task;
    uint32_t producer; /* ProducerID whose SMB is walked; 0: before the first */
    struct scan_iter scan;
    bool scanning;
    bool inited;
    void (*done)(void *arg);
    void *arg; /* borrow */
};

/* Scrapes all producers for the session, then calls done(arg): from inside this call when it is
 * done at once, else from the loop. */
void scrape_start(struct scrape *sc, struct session *s, void (*done)(void *arg), void *arg);

/* Forgets the rest; done is not called. */
void scrape_cancel(struct scrape *sc);

/* Scrapes a leaving producer for all sessions, going on at *scan. True when it is finished, false
 * when the budget is spent. */
bool scrape_producer(struct producer *p, struct scan_iter *scan, struct task_budget *budget);

#endif
