/* SPDX-License-Identifier: Apache-2.0 */
/* The embedded descriptors and their loader.
 *
 * The bytes come from protoc's --descriptor_set_out through .incbin, so no compiler has to parse
 * half a million numbers. They are in .rodata: nobody pays for them but the pages that are read.
 * Loading one file loads its imports first, depth first, because upb_DefPool_AddFile wants
 * dependencies there before their user. This file must never be linked into the service: only tools
 * need reflection. */
#include "protos/descset.h"

#include <errno.h>
#include <string.h>

#include "google/protobuf/descriptor.upb.h"

__asm__(".section .rodata\n"
        ".balign 16\n"
        ".local descset_start\n"
        "descset_start:\n"
        ".incbin \"protos/descset.bin\"\n"
        ".local descset_end\n"
        "descset_end:\n"
        ".previous\n");

extern const char descset_start[] __attribute__((visibility("hidden")));
extern const char descset_end[] __attribute__((visibility("hidden")));

const char *descset_bytes(size_t *len)
{
    *len = (size_t)(descset_end - descset_start);
    return descset_start;
}

typedef google_protobuf_FileDescriptorProto file_proto;

struct load {
    upb_DefPool *pool;              /* borrow */
    upb_Status *status;             /* borrow */
    const file_proto *const *files; /* borrow: the parsed set's */
    size_t n_files;
};

static const file_proto *find_file(const struct load *ld, upb_StringView name)
{
    for (size_t i = 0; i < ld->n_files; i++) {
        upb_StringView have = google_protobuf_FileDescriptorProto_name(ld->files[i]);
        if (have.size == name.size && memcmp(have.data, name.data, name.size) == 0)
            return ld->files[i];
    }
    return NULL;
}

/* Our imports form a DAG of small depth (protoc has checked that), so recursion is bounded. */
static int add_file(const struct load *ld, upb_StringView name)
{
    if (upb_DefPool_FindFileByNameWithSize(ld->pool, name.data, name.size))
        return 0;
    const file_proto *file = find_file(ld, name);
    if (!file)
        return -ENOENT;
    size_t n_deps;
    const upb_StringView *deps = google_protobuf_FileDescriptorProto_dependency(file, &n_deps);
    for (size_t i = 0; i < n_deps; i++) {
        int rc = add_file(ld, deps[i]);
        if (rc)
            return rc;
    }
    return upb_DefPool_AddFile(ld->pool, file, ld->status) ? 0 : -EINVAL;
}

int descset_load(upb_DefPool *pool, const char *file, upb_Status *status)
{
    upb_Arena *arena = upb_Arena_New();
    if (!arena)
        return -ENOMEM;
    size_t len;
    const char *bytes = descset_bytes(&len);
    const google_protobuf_FileDescriptorSet *set =
        google_protobuf_FileDescriptorSet_parse(bytes, len, arena);
    int rc = set ? 0 : -EINVAL;
    struct load ld = {.pool = pool, .status = status};
    if (set)
        ld.files = google_protobuf_FileDescriptorSet_file(set, &ld.n_files);
    if (set && file)
        rc = add_file(&ld, upb_StringView_FromString(file));
    for (size_t i = 0; set && !file && rc == 0 && i < ld.n_files; i++)
        rc = add_file(&ld, google_protobuf_FileDescriptorProto_name(ld.files[i]));
    upb_Arena_Free(arena);
    return rc;
}
