/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_QUERY_H
#define CLI_QUERY_H

/* The state of the tracing service, for scripts and for people (R601..R608). */

#include <stdbool.h>
#include <stdio.h>

#include "reactor/bytes.h"

struct query_options {
    bool raw;     /* the encoded TracingServiceState and nothing else */
    bool all;     /* --long: lists are not cut */
    bool colour;  /* escapes may be used */
    bool is_root; /* sees the sessions of all users */
};

/* Asks the service and prints to stdout. Returns the exit code. */
int query_run(const struct query_options *o);

/* Prints an encoded TracingServiceState as tables. */
void query_print(FILE *f, struct bytes_view state, const struct query_options *o);

#endif
