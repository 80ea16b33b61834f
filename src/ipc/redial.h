/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_REDIAL_H
#define IPC_REDIAL_H

/*
 * When to try a connect again (R78-R82): growing delays, cut short by inotify when the socket file
 * appears. It only tells when; the owner dials.
 */

#include <stdbool.h>
#include <stdint.h>

struct reactor;
struct redial;

/* The delay after the n-th failure in a row (n from 1). */
struct redial_policy {
    uint64_t first_ns; /* after the first failure */
    uint64_t step_ns;  /* added per further failure; 0: doubled instead */
    uint64_t limit_ns; /* the last growing delay ... */
    uint64_t after_ns; /* ... and the one for ever after it */
};

/* 1 s, 2 s, ... 10 s, then 30 s (R79). */
extern const struct redial_policy redial_sdk;

/* 200 ms doubling up to 30 s (R82). */
extern const struct redial_policy redial_daemon;

/* The delay of a policy after failure n. */
uint64_t redial_delay_ns(const struct redial_policy *policy, unsigned failures);

/* fn runs from the loop when it is time to try; address is copied (an inotify watch is used for
 * filesystem addresses alone, R80, and only when the directory exists). NULL never. */
struct redial *redial_new(struct reactor *reactor, const char *address,
                          const struct redial_policy *policy, void (*fn)(void *arg), void *arg);
void redial_free(struct redial *redial);

/* An attempt failed: fn will run after the delay, or when the file appears. */
void redial_failed(struct redial *redial);

/* Stops waiting: connected. The count of failures is kept (R79) unless forget. */
void redial_done(struct redial *redial, bool forget);

unsigned redial_failures(const struct redial *redial);
bool redial_is_waiting(const struct redial *redial);

#endif
