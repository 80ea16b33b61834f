/* SPDX-License-Identifier: Apache-2.0 */
/* A trace filter from hostile bytes, applied to a hostile packet. Input: length of the TraceFilter
 * (two bytes, little-endian), the TraceFilter, the packet. Bytecode that would fail its checksum
 * only is not reached by chance, so bit 15 of the length asks for the checksum to be made right. */
#include <stdlib.h>
#include <string.h>

#include "reactor/bytesbuf.h"
#include "svc/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes as bytecode_v2, with its checksum behind. */
static void wrap(struct bytesbuf *out, struct bytes_view code)
{
    uint64_t hash = 0xcbf29ce484222325u, word;
    size_t mark = bytesbuf_pb_begin(out, 2);
    struct bytes_cur cur = bytes_cur(code);
    while (bytes_get_varint(&cur, &word)) {
        bytesbuf_put_varint(out, (uint32_t)word);
        for (int b = 0; b < 32; b += 8)
            hash = (hash ^ (word >> b & 0xFF)) * 0x100000001b3u;
    }
    bytesbuf_put_varint(out, (uint32_t)hash);
    bytesbuf_pb_end(out, mark);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t n = bytes_load16(data) & 0x7FFF;
    if (n > size - 2)
        n = size - 2;
    struct bytesbuf config;
    bytesbuf_init(&config, 1 << 20);
    if (data[1] & 0x80)
        wrap(&config, bytes_view(data + 2, n));
    else
        bytesbuf_put(&config, data + 2, n);
    struct filter *f;
    char why[200];
    if (filter_new(bytesbuf_view(&config), &f, why, sizeof(why)) == 0) {
        uint8_t *copy = malloc(size); /* so that a read past the packet is seen */
        size_t len = size - 2 - n;
        memcpy(copy, data + 2 + n, len);
        struct iovec part = {copy, len};
        struct packet in = {.parts = &part, .nparts = 1, .size = len}, out;
        bool failed;
        uint64_t work = UINT64_MAX;
        if (filter_take(f, &in) == 0 && filter_step(f, &work, &out, &failed) && out.size > len)
            abort();
        uint32_t step = data[0] + 1u; /* in place, and in pieces: the same */
        struct packet again;
        bool failed_again;
        filter_take_place(f, copy, len, 0);
        do
            work = step;
        while (!filter_step(f, &work, &again, &failed_again));
        if (failed_again != failed || again.size != out.size ||
            (out.size > 0 && memcmp(again.parts[0].iov_base, out.parts[0].iov_base, out.size) != 0))
            abort();
        free(copy);
        filter_free(f);
    }
    bytesbuf_fini(&config);
    return 0;
}
