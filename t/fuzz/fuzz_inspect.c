/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trace files: any bytes are read to their end, and every packet found in them can be printed,
 * turned into JSON, judged and searched for losses.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/losses.h"
#include "cli/pbprint.h"
#include "cli/tracerd.h"
#include "protos/descset.h"

static upb_DefPool *pool;
static const upb_MessageDef *packet_def;
static FILE *null;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void load(void)
{
    upb_Status status;

    upb_Status_Clear(&status);
    pool = upb_DefPool_New();
    if (descset_load(pool, "protos/trace/trace_packet.proto", &status) != 0)
        abort();
    packet_def = upb_DefPool_FindMessageByName(pool, "perfetto.protos.TracePacket");
    null = fopen("/dev/null", "w");
}

static bool on_packet(void *arg, struct bytes_view packet, uint64_t offset)
{
    (void)offset;
    losses_packet(arg, packet);
    pbprint_text(null, packet_def, packet, 1);
    pbprint_json(null, packet_def, packet);
    (void)pbprint_valid(packet_def, packet, 0);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct tracerd_ops ops = {.packet = on_packet};
    struct tracerd_totals totals;
    struct losses *l = losses_new();
    int fd = memfd_create("trace", MFD_CLOEXEC);

    if (pool == NULL)
        load();
    if (write(fd, data, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) != 0)
        abort();
    if (tracerd_read(fd, &ops, l, &totals) != 0 || totals.bytes > size)
        abort();
    losses_report(l, null, "");
    losses_free(l);
    close(fd);
    return 0;
}
