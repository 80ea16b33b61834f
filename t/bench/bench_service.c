/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service costs as a process: idle memory, the latency of a control request while
 * producers commit as fast as they can, time and memory for each connected producer, and a trace on
 * its way into a file. The real traced, over sockets. Reports figures, asserts nothing.
 *
 *   bench_service [WORD]     only the groups (idle, latency, scaling, file) whose name holds WORD
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ipc/port_consumer.h"
#include "ipc/port_producer.h"
#include "protos/fieldnum.h"
#include "t/support/rawpeer.h"

static char dir[] = "/tmp/bench-service.XXXXXX";
static char producer_path[64], consumer_path[64], log_path[64], traced_path[4096];
static pid_t traced;

static void die(const char *what)
{
    fprintf(stderr, "bench_service: %s: %s\n", what, strerror(errno));
    if (traced > 0)
        kill(traced, SIGKILL);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the service ---- */

static void start_service(void)
{
    int ready[2];
    char fd[16], byte = 0;
    if (pipe(ready) != 0)
        die("pipe");
    traced = fork();
    if (traced == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(fd, sizeof(fd), "%d", ready[1]);
        setenv("TRACED_NOTIFY_FD", fd, 1);
        setenv("PERFETTO_PRODUCER_SOCK_NAME", producer_path, 1);
        setenv("PERFETTO_CONSUMER_SOCK_NAME", consumer_path, 1);
        close(ready[0]);
        execl(traced_path, "traced", "--limit-connections", "50000", "--log-file", log_path,
              (char *)NULL);
        _exit(127);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        die(traced_path);
    close(ready[0]);
}

static void stop_service(void)
{
    int status;
    kill(traced, SIGTERM);
    waitpid(traced, &status, 0);
    if (status != 0)
        fprintf(stderr, "bench_service: traced ended with status %d\n", status);
    traced = 0;
}

/* A number of /proc/PID/FILE after KEY, 0 when it is not there. */
static uint64_t number_of(pid_t pid, const char *file, const char *key)
{
    char path[64], line[256];
    uint64_t value = 0;
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtoull(line + strlen(key), NULL, 10);
    }
    if (f)
        fclose(f);
    return value;
}

static uint64_t proc_number(const char *file, const char *key)
{
    return number_of(traced, file, key);
}

/* The oldest child of a process; 0 when it has none. */
static pid_t child_of(pid_t pid)
{
    char file[64];
    snprintf(file, sizeof(file), "task/%d/children", (int)pid);
    return pid > 0 ? (pid_t)number_of(pid, file, "") : 0;
}

static uint64_t private_kb(pid_t pid)
{
    return number_of(pid, "smaps_rollup", "Private_Dirty:") +
           number_of(pid, "smaps_rollup", "Private_Clean:");
}

static uint64_t rss_kb(void)
{
    return proc_number("status", "VmRSS:");
}

/* CPU time of the service so far, ns; so that a loaded machine does not count. */
static uint64_t cpu_ns(void)
{
    return proc_number("schedstat", "");
}

/* ---- a session ---- */

static void open_consumer(struct rawpeer *c)
{
    if (!rawpeer_open(c, consumer_path, "ConsumerPort"))
        die("consumer");
}

/* path NULL: into no file; else it is written when the session ends. */
static void enable_into(struct rawpeer *c, const char *source, uint32_t buffer_kb, const char *path)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 4096);
    size_t config = bytesbuf_pb_begin(&b, PBF_EnableTracingRequest_trace_config);
    size_t mark = bytesbuf_pb_begin(&b, PBF_TraceConfig_buffers);
    bytesbuf_pb_varint(&b, PBF_TraceConfig_BufferConfig_size_kb, buffer_kb);
    bytesbuf_pb_end(&b, mark);
    mark = bytesbuf_pb_begin(&b, PBF_TraceConfig_data_sources);
    size_t inner = bytesbuf_pb_begin(&b, PBF_TraceConfig_DataSource_config);
    bytesbuf_pb_str(&b, PBF_DataSourceConfig_name, source);
    bytesbuf_pb_end(&b, inner);
    bytesbuf_pb_end(&b, mark);
    if (path) {
        bytesbuf_pb_varint(&b, PBF_TraceConfig_write_into_file, 1);
        bytesbuf_pb_varint(&b, PBF_TraceConfig_file_write_period_ms, 3600000);
        bytesbuf_pb_varint(&b, PBF_TraceConfig_write_flush_mode, 2);
        bytesbuf_pb_str(&b, PBF_TraceConfig_output_path, path);
    }
    bytesbuf_pb_end(&b, config);
    if (!rawpeer_call(c, PORT_CONSUMER_ENABLE_TRACING, bytesbuf_view(&b), !path))
        die("EnableTracing");
    bytesbuf_fini(&b);
}

static void enable(struct rawpeer *c, const char *source, uint32_t buffer_kb)
{
    enable_into(c, source, buffer_kb, NULL);
}

/* ---- idle ---- */

static void bench_idle(void)
{
    start_service();
    printf("idle: VmRSS %" PRIu64 " KB, of it private %" PRIu64 " KB; %" PRIu64 " thread; CPU for "
           "the start %" PRIu64 " us\n",
           rss_kb(), private_kb(traced), proc_number("status", "Threads:"), cpu_ns() / 1000);
    pid_t host = child_of(traced);
    if (host)
        printf("idle: beside it, who starts those that write files: VmRSS %" PRIu64
               " KB, of it private %" PRIu64 " KB\n",
               number_of(host, "status", "VmRSS:"), private_kb(host));
    stop_service();
}

/* ---- latency ---- */

#define FLOODERS 8
#define QUERIES  5000

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void measure(struct rawpeer *c, const char *what)
{
    static uint64_t took[QUERIES];
    uint64_t begin = now_ns(), cpu = cpu_ns();
    for (int i = 0; i < QUERIES; i++) {
        uint64_t t = now_ns();
        if (!rawpeer_ask(c, PORT_CONSUMER_QUERY_SERVICE_STATE, bytes_view(NULL, 0)))
            die("QueryServiceState");
        took[i] = now_ns() - t;
    }
    double share = 100.0 * (double)(cpu_ns() - cpu) / (double)(now_ns() - begin);
    qsort(took, QUERIES, sizeof(took[0]), by_value);
    printf("latency: QueryServiceState %s: median %" PRIu64 " us, 99th percentile %" PRIu64
           " us, slowest %" PRIu64 " us; the service had %.0f %% of a CPU\n",
           what, took[QUERIES / 2] / 1000, took[QUERIES / 100 * 99] / 1000,
           took[QUERIES - 1] / 1000, share);
}

/* Commits full pages until the service is gone. */
static void flood(int n)
{
    struct rawprod p;
    char name[32], *source = (char[]){"flood"};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(name, sizeof(name), "flooder%d", n);
    if (!rawprod_open(&p, producer_path, name, &source, 1))
        _exit(1);
    int wait = -1;
    while (rawprod_serve(&p, wait)) {
        if (!p.writers[0].instance)
            continue;
        wait = 0;
        while (p.commit.n < 400 && rawprod_write(&p, &p.writers[0], 20, 80, true))
            continue;
        /* With all chunks on their way the answer is what to wait for. */
        if (!rawprod_commit(&p, p.commit.n < 400))
            break;
    }
    _exit(0);
}

static uint64_t chunks_moved(struct rawpeer *c)
{
    struct rawpeer_reply r;
    struct bytes_field f;
    uint64_t request = rawpeer_call(c, PORT_CONSUMER_GET_TRACE_STATS, bytes_view(NULL, 0), false);
    while (request && rawpeer_next(c, -1, &r) > 0) {
        if (r.request != request)
            continue;
        if (bytes_find(r.body, PBF_GetTraceStatsResponse_trace_stats, BYTES_LEN, &f) &&
            bytes_find(f.data, PBF_TraceStats_buffer_stats, BYTES_LEN, &f) &&
            bytes_find(f.data, PBF_TraceStats_BufferStats_chunks_written, BYTES_VARINT, &f))
            return f.num;
        return 0;
    }
    return 0;
}

static void bench_latency(void)
{
    struct rawpeer c, owner;
    pid_t pids[FLOODERS];
    start_service();
    open_consumer(&c);
    open_consumer(&owner);
    measure(&c, "with nothing to do");
    for (int i = 0; i < FLOODERS; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            flood(i);
    }
    enable(&owner, "flood", 8192);
    while (chunks_moved(&owner) < 10000)
        poll(NULL, 0, 10);
    uint64_t before = chunks_moved(&owner), begin = now_ns();
    measure(&c, "while 8 producers commit as fast as they can");
    double seconds = (double)(now_ns() - begin) / 1e9;
    printf("latency: they committed %.0f chunks/s meanwhile\n",
           (double)(chunks_moved(&owner) - before) / seconds);
    for (int i = 0; i < FLOODERS; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    rawpeer_close(&c);
    rawpeer_close(&owner);
    stop_service();
}

/* ---- scaling ---- */

/* n producers connect; the first `started` of them are then started. */
static void scale(int n, int started)
{
    struct rawprod *p = calloc((size_t)n, sizeof(*p));
    struct rawpeer c;
    char *source = (char[]){"many"}, *other = (char[]){"not recorded"};
    if (!p)
        die("memory");
    start_service();
    open_consumer(&c);
    uint64_t memory = rss_kb(), cpu = cpu_ns();
    for (int i = 0; i < n; i++) {
        if (!rawprod_open(&p[i], producer_path, "one of many", i < started ? &source : &other, 1))
            die("a producer was refused");
    }
    rawpeer_ask(&p[n - 1].peer, PORT_PRODUCER_SYNC, bytes_view(NULL, 0));
    double connected_us = (double)(cpu_ns() - cpu) / 1e3 / n;
    double connected_kb = (double)(rss_kb() - memory) / n;
    cpu = cpu_ns();
    enable(&c, "many", 65536);
    for (int i = 0; i < started; i++) {
        while (!p[i].writers[0].instance) {
            if (!rawprod_serve(&p[i], -1))
                die("a producer was dropped");
        }
    }
    rawpeer_ask(&c, PORT_CONSUMER_QUERY_CAPABILITIES, bytes_view(NULL, 0));
    double started_us = (double)(cpu_ns() - cpu) / 1e3 / started;
    double started_kb = (double)(rss_kb() - memory) / started;
    cpu = cpu_ns();
    for (int i = 0; i < n; i++)
        rawprod_close(&p[i]);
    /* The last farewell is worked off when the state lists nobody. */
    for (size_t left = 1; left > 0; poll(NULL, 0, left ? 20 : 0)) {
        struct rawpeer_reply r;
        uint64_t request =
            rawpeer_call(&c, PORT_CONSUMER_QUERY_SERVICE_STATE, bytes_view(NULL, 0), false);
        struct bytes_field f;
        left = 0;
        do {
            if (rawpeer_next(&c, -1, &r) < 0)
                die("the service hung up");
            if (bytes_find(r.body, PBF_QueryServiceStateResponse_service_state, BYTES_LEN, &f))
                left += bytes_find(f.data, PBF_TracingServiceState_producers, BYTES_LEN, &f);
        } while (r.request != request || r.has_more);
    }
    printf("scaling: %5d producers: to connect and register %.1f us and %.2f KB each; to start %d, "
           "with 256 KB of shared memory, %.1f us and %.2f KB; to leave %.1f us\n",
           n, connected_us, connected_kb, started, started_us, started_kb,
           (double)(cpu_ns() - cpu) / 1e3 / n);
    rawpeer_close(&c);
    stop_service();
    free(p);
}

static void bench_scaling(void)
{
    struct rlimit lim;
    getrlimit(RLIMIT_NOFILE, &lim);
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);
    static const int sizes[] = {10, 1000, 10000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        /* While a session starts, each producer has its socket and its memory's descriptor. */
        int free_fds = lim.rlim_cur > 1000000 ? 1000000 : (int)lim.rlim_cur - sizes[i] - 100;
        if (free_fds <= 0)
            printf("scaling: %5d producers: left out, the limit of open files is %lu\n", sizes[i],
                   (unsigned long)lim.rlim_cur);
        else
            scale(sizes[i], free_fds < sizes[i] ? free_fds : sizes[i]);
        fflush(stdout);
    }
}

/* ---- file ---- */

#define FILE_MB 192

/* What the service's report (SIGUSR1) says about the drain into files. */
static void print_slices(void)
{
    char line[512];
    bool over = false;
    kill(traced, SIGUSR1);
    while (!over) {
        FILE *f = fopen(log_path, "r");
        while (f && fgets(line, sizeof(line), f)) {
            const char *at = strstr(line, "slices: ");
            over |= strstr(line, "end of report") != NULL;
            if (at && strstr(at, "file"))
                printf("file:   %s", at);
        }
        if (f)
            fclose(f);
        poll(NULL, 0, 10);
    }
}

/* Waits for the end of the session and asks for the state again and again; the longest answer. */
static uint64_t until_ended(struct rawpeer *owner, struct rawpeer *c, uint64_t *child_ns)
{
    struct rawpeer_reply r;
    uint64_t slowest = 0;
    pid_t child = child_of(child_of(traced));
    while (rawpeer_next(owner, 0, &r) == 0) {
        uint64_t t = now_ns(), used = child ? number_of(child, "schedstat", "") : 0;
        *child_ns = used ? used : *child_ns;
        if (!rawpeer_ask(c, PORT_CONSUMER_QUERY_SERVICE_STATE, bytes_view(NULL, 0)))
            die("QueryServiceState");
        t = now_ns() - t;
        slowest = t > slowest ? t : slowest;
        poll(NULL, 0, 1);
    }
    return slowest;
}

static void into_file(const char *folder)
{
    struct rawpeer owner, c;
    struct rawprod p;
    char path[256], *source = (char[]){"file"};
    uint64_t child = 0, request;
    snprintf(path, sizeof(path), "%s/bench-service-%d.pftrace", folder, (int)getpid());
    start_service();
    open_consumer(&owner);
    open_consumer(&c);
    if (!rawprod_open(&p, producer_path, "writer", &source, 1))
        die("producer");
    enable_into(&owner, "file", FILE_MB << 10, path);
    while (!p.writers[0].instance && rawprod_serve(&p, -1))
        continue;
    for (size_t n = 0; n < (size_t)(FILE_MB - 8) << 10; n += 4) { /* chunks of nearly 4 KB */
        if (!rawprod_write(&p, &p.writers[0], 10, 350, true))
            die("no chunk is free");
        if (p.commit.n > 200 && !rawprod_commit(&p, true))
            die("a commit");
    }
    rawprod_commit(&p, true);
    uint64_t cpu = cpu_ns(), begin = now_ns();
    request = rawpeer_call(&owner, PORT_CONSUMER_DISABLE_TRACING, bytes_view(NULL, 0), true);
    if (!request || !rawprod_serve(&p, 1000))
        die("the stop");
    uint64_t slowest = until_ended(&owner, &c, &child);
    double s = (double)(now_ns() - begin) / 1e9;
    cpu = cpu_ns() - cpu;
    FILE *f = fopen(path, "r");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        die(path);
    double mb = (double)ftell(f) / 1048576;
    fclose(f);
    printf(
        "file: %.0f MB into %s: %.0f MB/s with the last sync; CPU of the service %.0f ms, of who "
        "writes %.0f ms; slowest QueryServiceState meanwhile %.1f ms\n",
        mb, folder, mb / s, (double)cpu / 1e6, (double)child / 1e6, (double)slowest / 1e6);
    print_slices();
    unlink(path);
    rawprod_close(&p);
    rawpeer_close(&owner);
    rawpeer_close(&c);
    stop_service();
    unlink(log_path);
}

static void bench_file(void)
{
    const char *tmp = getenv("TMPDIR");
    into_file("/dev/shm");
    into_file(tmp ? tmp : "/var/tmp");
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    char self[2048];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0 || !mkdtemp(dir))
        die("start");
    self[n] = '\0';
    for (int i = 0; i < 2; i++) /* build/t/bench_service stands beside build/traced */
        *strrchr(self, '/') = '\0';
    snprintf(traced_path, sizeof(traced_path), "%s/traced", self);
    snprintf(producer_path, sizeof(producer_path), "%s/p", dir);
    snprintf(consumer_path, sizeof(consumer_path), "%s/c", dir);
    snprintf(log_path, sizeof(log_path), "%s/log", dir);
    signal(SIGPIPE, SIG_IGN);
    if (strstr("idle", word))
        bench_idle();
    fflush(stdout);
    if (strstr("latency", word))
        bench_latency();
    fflush(stdout);
    if (strstr("scaling", word))
        bench_scaling();
    fflush(stdout);
    if (strstr("file", word))
        bench_file();
    unlink(log_path);
    rmdir(dir);
    return 0;
}
