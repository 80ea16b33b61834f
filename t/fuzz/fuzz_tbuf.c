/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace buffer under a sequence of operations that the input chooses: copies of honest and of
 * broken chunks, re-commits, patches, reads, clones, producers that go. The reference model sees
 * the same; a difference is a crash.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../svc/tbuf_drive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
    size_t at;
};

static uint32_t take(void *arg)
{
    struct input *in = arg;
    uint32_t v = 0;
    for (int i = 0; i < 2 && in->at < in->size; i++)
        v = v << 8 | in->data[in->at++];
    return v * 0x10001u;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size < 65536 ? size : 65536, 0};
    struct drive *d = drive_new((struct drive_source){take, &in});
    if (d == NULL)
        return 0;
    while (in.at < in.size) {
        const char *bad = drive_step(d);
        if (bad != NULL) {
            fprintf(stderr, "fuzz_tbuf: %s\n", bad);
            abort();
        }
    }
    drive_free(d);
    return 0;
}
