/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel that lies: the input is a format file and a raw page made by somebody who wants the
 * decoder to leave its buffers. Bytes 0-1: length of the format text; the text; then the page,
 * which gets a malloc block of its exact size. Everything that comes out must be well-formed
 * protobuf. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "probes/ftrace/bundle.h"
#include "probes/ftrace/ftstats.h"
#include "probes/ftrace/ksyms.h"
#include "reactor/bytes.h"
#include "smb/pbw.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char sched_switch[] =
    "name: sched_switch\nID: 2\nformat:\n"
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n"
    "\tfield:char next_comm[16];\toffset:8;\tsize:16;\tsigned:0;\n"
    "\tfield:pid_t next_pid;\toffset:24;\tsize:4;\tsigned:1;\n";

static struct pbw_flat flat;
static uint8_t packet[4 << 20];

static struct pbw *begin(void *arg)
{
    (void)arg;
    pbw_flat_init(&flat, packet, sizeof packet);
    return &flat.pbw;
}

static void end(void *arg)
{
    struct bytes_cur c;
    struct bytes_field f;
    ptrdiff_t n = pbw_flat_end(&flat);
    (void)arg;
    if (n < 0)
        return; /* more than a test's buffer holds */
    c = bytes_cur(bytes_view(packet, (size_t)n));
    while (bytes_next(&c, &f))
        ;
    if (!bytes_done(&c))
        abort();
}

/* Texts of other files, with the same bytes. */
static void other_texts(const uint8_t *data, size_t size)
{
    struct ptext t = ptext_of((const char *)data, size);
    struct ftstats_cpu cpu;
    struct ksyms k = {0};
    struct events ev = {0};
    unsigned width = 8, page = 4096;
    int64_t a, b;
    bool cpus[8];
    ftstats_parse_cpu(t, &cpu);
    ftstats_parse_kprobes(t, &a, &b);
    tracefs_cpu_list(t, cpus, 8);
    tracefs_parse_buffer_pages(t, 4);
    format_page_layout((const char *)data, size, &width, &page);
    events_set_printk(&ev, t);
    events_fini(&ev);
    for (struct ptext line; ptext_line(&t, &line) && ksyms_line(&k, line.p, ptext_len(line));)
        ;
    ksyms_sort(&k);
    ksyms_lookup(&k, 0xffffffff81000000ULL);
    ksyms_fini(&k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t filter[1024];
    struct bundle_snapshot snap = {0};
    struct bundle b;
    struct events ev = {.commit_width = 8, .page_size = 4096, .next_generic = EVENTS_GENERIC_FIRST};
    if (size < 2)
        return 0;
    size_t text = (size_t)data[0] | (size_t)data[1] << 8;
    data += 2;
    size -= 2;
    if (text > size)
        text = size;
    other_texts(data, text);
    memset(filter, 0xff, sizeof filter);
    events_add_format(&ev, "sched", "sched_switch", sched_switch, sizeof sched_switch - 1, true);
    char *copy = malloc(text + 1);
    memcpy(copy, data, text);
    events_add_format(&ev, "fuzz", "event", copy, text, true);
    free(copy);
    ev.sched = (struct events_sched){.valid = true,
                                     .switch_id = 2,
                                     .switch_size = 28,
                                     .waking_id = 3,
                                     .waking_size = 28,
                                     .next_pid = 24,
                                     .next_comm = 8,
                                     .prev_state = 8,
                                     .prev_state_width = 8,
                                     .next_prio = 20,
                                     .pid = 24,
                                     .target_cpu = 20,
                                     .prio = 16,
                                     .comm = 8,
                                     .flags = 2};
    for (unsigned round = 0; round < 3; round++) {
        size_t n = size - text;
        uint8_t *page = malloc(n ? n : 1);
        memcpy(page, data + text, n);
        bundle_init(&b, &ev, (struct probe_sink){begin, end, NULL}, 1);
        b.filter = filter;
        b.filter_ids = 65536;
        b.compact_on = round == 1;
        b.enc->legacy_generic = round == 2;
        bundle_begin(&b, 0, &snap);
        bundle_page(&b, page, n);
        bundle_page(&b, page, n);
        bundle_end(&b);
        bundle_fini(&b);
        free(page);
    }
    events_fini(&ev);
    return 0;
}
