/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast recorded raw ring buffer pages become packets: with scheduling events as columns and as
 * messages. Figures are CPU time, so that a busy machine tells the same. Asserts nothing but that
 * every page was understood.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probes/ftrace/bundle.h"
#include "reactor/chrono.h"
#include "smb/pbw.h"

#define PAGE    4096
#define SECONDS 1

static const char *const recorded[][2] = {
    {"sched", "sched_switch"},
    {"sched", "sched_waking"},
    {"sched", "sched_wakeup"},
    {"sched", "sched_wakeup_new"},
    {"sched", "sched_process_exit"},
    {"sched", "sched_process_free"},
    {"sched", "sched_process_fork"},
    {"sched", "sched_process_exec"},
    {"task", "task_newtask"},
    {"task", "task_rename"},
    {"irq", "softirq_raise"},
    {"irq", "softirq_entry"},
    {"raw_syscalls", "sys_enter"},
    {"raw_syscalls", "sys_exit"},
    {"kmem", "kmalloc"},
    {"signal", "signal_generate"},
    {"ftrace", "print"},
};

static struct pbw_flat flat;
static uint8_t packet[1 << 20];
static uint64_t bytes_out;

static struct pbw *begin(void *arg)
{
    (void)arg;
    pbw_flat_init(&flat, packet, sizeof packet);
    return &flat.pbw;
}

static void end(void *arg)
{
    (void)arg;
    bytes_out += (uint64_t)pbw_flat_end(&flat);
}

static uint8_t *load(int dir, const char *name, size_t *n)
{
    static uint8_t buf[64 * PAGE];
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, buf, sizeof buf);
    if (fd >= 0)
        close(fd);
    if (got < PAGE) {
        perror(name);
        exit(1);
    }
    *n = (size_t)got / PAGE;
    return buf;
}

/* Pages whose records are all sched_switch, the worst case of a busy machine. */
static size_t switch_pages(const struct events *ev, uint8_t *out, size_t pages)
{
    size_t events = 0;
    for (size_t i = 0; i < pages; i++) {
        uint8_t *p = out + i * PAGE;
        uint64_t ts = 1000000 * i;
        uint32_t n = 0;
        memset(p, 0, PAGE);
        memcpy(p, &ts, 8);
        while (16 + n + 68 <= PAGE) {
            uint8_t *rec = p + 16 + n;
            uint32_t head = 16 | 1500 << 5;
            int32_t pid = 1000 + (int32_t)(events % 37);
            memcpy(rec, &head, 4);
            memcpy(rec + 4, &ev->sched.switch_id, 2);
            snprintf((char *)rec + 4 + ev->sched.next_comm, 16, "task-%d", (int)(events % 37));
            memcpy(rec + 4 + ev->sched.next_pid, &pid, 4);
            n += 68;
            events++;
        }
        memcpy(p + 8, &n, 4);
    }
    return events;
}

static void run(const char *what, struct bundle *b, const uint8_t *pages, size_t n, size_t events)
{
    struct bundle_snapshot snap = {0};
    uint64_t start = chrono_ns(CLOCK_PROCESS_CPUTIME_ID), now = start, rounds = 0;
    bytes_out = 0;
    while (now - start < SECONDS * CHRONO_SEC) {
        for (size_t i = 0; i < n; i += 32) {
            bundle_begin(b, 0, &snap);
            for (size_t k = i; k < n && k < i + 32; k++)
                bundle_page(b, pages + k * PAGE, PAGE);
            bundle_end(b);
        }
        bundle_pass_done(b);
        rounds++;
        now = chrono_ns(CLOCK_PROCESS_CPUTIME_ID);
    }
    double s = (double)(now - start) / 1e9, total = (double)(rounds * events);
    printf("%-34s %6.1f ns/event, %7.2f M events/s, %6.0f MB/s of pages, %5.1f bytes/event\n", what,
           s * 1e9 / total, total / s / 1e6, (double)(rounds * n) * PAGE / s / 1e6,
           (double)bytes_out / total);
    if (b->parse_errors) {
        fprintf(stderr, "%s: pages were not understood\n", what);
        exit(1);
    }
}

/* Records in the pages that pass the filter: what one decoding gives. */
static size_t count(const struct events *ev, const uint8_t *pages, size_t n)
{
    size_t events = 0;
    for (size_t i = 0; i < n; i++) {
        struct rbpage pg;
        const uint8_t *rec;
        uint32_t len;
        if (rbpage_open(&pg, pages + i * PAGE, PAGE, ev->commit_width) != RBPAGE_OK)
            continue;
        while (rbpage_next(&pg, &rec, &len) > 0)
            events += events_by_id(ev, rbpage_u16(rec)) != NULL;
    }
    return events;
}

int main(void)
{
    static uint8_t switches[64 * PAGE];
    static uint64_t filter[1024];
    char path[1024];
    const char *src = getenv("srcdir");
    struct events ev;
    struct bundle b;
    size_t n;
    snprintf(path, sizeof path, "%s/t/data/ftrace/x86_64-6.18", src ? src : "..");
    struct tracefs fs = {.dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)};
    if (fs.dir < 0) {
        perror(path);
        return 1;
    }
    events_init(&ev, &fs);
    for (size_t i = 0; i < sizeof recorded / sizeof recorded[0]; i++) {
        const struct events_event *e = events_load(&ev, recorded[i][0], recorded[i][1], false);
        if (e)
            filter[e->id / 64] |= 1ULL << e->id % 64;
    }
    bundle_init(&b, &ev, (struct probe_sink){begin, end, NULL}, 1);
    b.filter = filter;
    b.filter_ids = 65536;
    const uint8_t *pages = load(open(path, O_PATH | O_CLOEXEC), "cpu0.pages", &n);
    run("recorded mix, messages", &b, pages, n, count(&ev, pages, n));
    size_t events = switch_pages(&ev, switches, 64);
    run("sched_switch, messages", &b, switches, 64, events);
    b.compact_on = true;
    run("recorded mix, columns for sched", &b, pages, n, count(&ev, pages, n));
    run("sched_switch, columns", &b, switches, 64, events);
    bundle_fini(&b);
    events_fini(&ev);
    tracefs_close(&fs);
    return 0;
}
