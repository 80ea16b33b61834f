/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances of data sources: what a source's callbacks (client/datasource.h) get and call. Loop's
 * thread only, unless it says otherwise.
 */
#ifndef CLIENT_DS_INST_H
#define CLIENT_DS_INST_H

#include <stdbool.h>
#include <stdint.h>

#include "reactor/bytes.h"
#include "smb/writer.h"

struct datasource;
struct ds_inst;
struct prodlink;

/* The instance's own data: set in setup(), freed in destroy(). */
void ds_inst_set_ctx(struct ds_inst *inst, void *ctx);
void *ds_inst_ctx(const struct ds_inst *inst);
struct datasource *ds_inst_source(const struct ds_inst *inst);
uint64_t ds_inst_id(const struct ds_inst *inst);
uint16_t ds_inst_buffer(const struct ds_inst *inst);

/*
 * A trace writer into the instance's buffer, with the exhaustion policy that def and config settle.
 * The caller frees it (writer_free) in destroy() at the latest. NULL only when out of memory;
 * without shared memory it is a writer that swallows everything. Any thread, as long as the
 * instance exists.
 */
struct writer *ds_inst_writer(struct ds_inst *inst);

/* Late acknowledgements; see the table. Loop's thread. Calling one that is not due is harmless. */
void ds_inst_started(struct ds_inst *inst);
void ds_inst_stopped(struct ds_inst *inst); /* inst is gone when this returns */
void ds_inst_flushed(struct ds_inst *inst, uint64_t flush_id);

/* ---- for the link: the service's commands (IPC spec 11.2) ---- */

void ds_inst_setup(struct prodlink *link, uint64_t id, struct bytes_view config);
void ds_inst_start(struct prodlink *link, uint64_t id, struct bytes_view config);
void ds_inst_stop(struct prodlink *link, uint64_t id);

/* msg names the instances in its field 1, packed or repeated. */
void ds_inst_flush(struct prodlink *link, uint64_t flush_id, uint64_t flags, struct bytes_view msg);
void ds_inst_clear(struct prodlink *link, struct bytes_view msg);

/* Stops and destroys the instances of one type with acknowledgement, or all of a lost connection
 * without (R258). */
void ds_inst_end_type(struct datasource *ds);
void ds_inst_disconnect_all(struct prodlink *link);

#endif
