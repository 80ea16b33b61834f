/* SPDX-License-Identifier: Apache-2.0 */
/* The schemas of protos/ as descriptors, for whoever needs reflection: text configs and printing.
 *
 * The set is embedded in the program as one serialized FileDescriptorSet (about 400 KB, read only,
 * touched only when used). Files are named by their path in the tree,
 * "protos/config/trace_config.proto"; types are in package perfetto.protos. */
#ifndef PROTOS_DESCSET_H
#define PROTOS_DESCSET_H

#include <stddef.h>

#include "upb/def.h"

/* The serialized FileDescriptorSet. Static storage; *len is its size in bytes. */
const char *descset_bytes(size_t *len);

/* Adds `file` and all that it imports to `pool`, or every file when `file` is NULL; files that the
 * pool already has are kept. Borrowed: `pool`, `status`. 0; -ENOENT no such file; -ENOMEM; -EINVAL
 * the set is damaged, and `status` says where. */
int descset_load(upb_DefPool *pool, const char *file, upb_Status *status);

#endif
