/* SPDX-License-Identifier: Apache-2.0 */
#ifndef T_CLIENT_SOURCE_H
#define T_CLIENT_SOURCE_H

/* A data source that writes down what happens to it, and does what the test tells it to. */

#include "client/datasource.h"

struct source {
    struct datasource *ds; /* borrow: the link's */
    char log[1024];        /* "setup 1 start 1 ..." */
    struct ds_inst *inst;  /* the one set up last */
    struct writer *writer; /* of that one */
    bool refuse, start_late, stop_late, flush_late;
    bool keep_writer;       /* destroy() leaves the writer to the test */
    unsigned write_on_stop; /* packets written in stop() */
    uint64_t flush_id, flags;
    struct ds_config config; /* bytes are a copy in config_bytes */
    uint8_t config_bytes[256];
};

extern const struct datasource_ops source_ops;

/* Registers it under this name with all flags on. */
void source_add(struct source *s, struct prodlink *link, const char *name);

/* Writes one packet {8: n}. */
void source_write(struct source *s, uint64_t n);

#endif
