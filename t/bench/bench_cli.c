/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up cost of the command line client, the speed of the config parser and of reading traces
 * back. Programs are those beside this one's folder. Reports figures, asserts nothing.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/losses.h"
#include "cli/pbtext.h"
#include "cli/tracerd.h"
#include "protos/descset.h"
#include "protos/fieldnum.h"
#include "reactor/chrono.h"

extern char **environ;

static char bin[4096]; /* folder of the programs */

static pid_t start(const char *program, char *const *args)
{
    posix_spawn_file_actions_t fa;
    char path[4200];
    pid_t pid;

    snprintf(path, sizeof(path), "%s/%s", bin, program);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
    if (posix_spawn(&pid, path, &fa, NULL, args, environ) != 0) {
        fprintf(stderr, "cannot run %s\n", path);
        exit(1);
    }
    posix_spawn_file_actions_destroy(&fa);
    return pid;
}

static bool run(const char *program, char *const *args)
{
    int status;
    pid_t pid = start(program, args);

    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void bench_program(const char *what, const char *program, char *const *args)
{
    enum { RUNS = 50 };
    uint64_t begin;

    if (!run(program, args)) {
        printf("%-44s failed\n", what);
        return;
    }
    begin = chrono_mono_ns();
    for (int i = 0; i < RUNS; i++)
        run(program, args);
    printf("%-44s %8.2f ms each\n", what, (double)(chrono_mono_ns() - begin) / RUNS / 1e6);
}

static void bench_parser(void)
{
    static const char part[] =
        "data_sources { config { name: \"linux.ftrace\" ftrace_config {\n"
        "  ftrace_events: \"sched/sched_switch\" buffer_size_kb: 4096 } } }\n";
    size_t len = sizeof(part) - 1, n = (1 << 20) / len;
    char *text = malloc(n * len);
    struct pbdiag_source src = {.name = "bench"};
    struct pbtext_options o = {0};
    struct pbdiag d = {.text = text,
                       .len = n * len,
                       .sources = &src,
                       .n_sources = 1,
                       .out = stderr,
                       .shown_max = 1};
    upb_DefPool *pool = upb_DefPool_New();
    struct bytesbuf out;
    upb_Status status;
    uint64_t begin = chrono_mono_ns();

    upb_Status_Clear(&status);
    if (descset_load(pool, "protos/config/trace_config.proto", &status) != 0)
        exit(1);
    printf("%-44s %8.2f ms\n", "load the schema of configs",
           (double)(chrono_mono_ns() - begin) / 1e6);
    for (size_t i = 0; i < n; i++)
        memcpy(text + i * len, part, len);
    bytesbuf_init(&out, 1 << 24);
    begin = chrono_mono_ns();
    for (int i = 0; i < 20; i++) {
        bytesbuf_clear(&out);
        (void)pbtext_parse(upb_DefPool_FindMessageByName(pool, "perfetto.protos.TraceConfig"), pool,
                           &o, &d, &out);
    }
    printf("%-44s %8.2f ms\n", "parse a text config of 1 MB",
           (double)(chrono_mono_ns() - begin) / 20 / 1e6);
    bytesbuf_fini(&out);
    upb_DefPool_Free(pool);
    free(text);
}

static bool on_packet(void *arg, struct bytes_view packet, uint64_t offset)
{
    (void)offset;
    losses_packet(arg, packet);
    return true;
}

static void bench_reading(void)
{
    static const struct tracerd_ops ops = {.packet = on_packet};
    enum { PACKETS = 400000, SIZE = 240 };
    struct losses *l = losses_new();
    struct tracerd_totals totals;
    struct bytesbuf b;
    uint64_t begin, ns;
    uint8_t pad[SIZE] = {0};
    int fd = memfd_create("trace", MFD_CLOEXEC);

    bytesbuf_init(&b, 256 << 20);
    for (uint64_t i = 0; i < PACKETS; i++) {
        size_t mark = bytesbuf_pb_begin(&b, 1);
        bytesbuf_pb_varint(&b, PBF_TracePacket_timestamp, i * 1000);
        bytesbuf_pb_bytes(&b, PBF_TracePacket_for_testing, pad, sizeof(pad));
        bytesbuf_pb_varint(&b, PBF_TracePacket_trusted_packet_sequence_id, 2 + i % 7);
        bytesbuf_pb_end(&b, mark);
    }
    if (write(fd, b.p, b.n) != (ssize_t)b.n || lseek(fd, 0, SEEK_SET) != 0)
        exit(1);
    begin = chrono_mono_ns();
    (void)tracerd_read(fd, &ops, l, &totals);
    ns = chrono_mono_ns() - begin;
    printf("%-44s %8.1f ns a packet, %.2f GB/s\n", "read a trace and look for losses",
           (double)ns / PACKETS, (double)totals.bytes / (double)ns);
    bytesbuf_fini(&b);
    losses_free(l);
    close(fd);
}

/* A service of our own, so that a whole trace can be measured. */
static void bench_trace(void)
{
    char *const traced[] = {"traced", NULL};
    char *const trace[] = {"perfetto", "-t", "1ms", "-o", "/dev/null", NULL};
    char *const query[] = {"perfetto", "--query-raw", NULL};
    char dir[] = "/tmp/bench_cli.XXXXXX", sock[2][64], number[16], byte;
    int ready[2];
    pid_t pid;

    if (mkdtemp(dir) == NULL)
        return;
    snprintf(sock[0], sizeof(sock[0]), "%s/p", dir);
    snprintf(sock[1], sizeof(sock[1]), "%s/c", dir);
    setenv("PERFETTO_PRODUCER_SOCK_NAME", sock[0], 1);
    setenv("PERFETTO_CONSUMER_SOCK_NAME", sock[1], 1);
    if (pipe(ready) != 0)
        return;
    snprintf(number, sizeof(number), "%d", ready[1]);
    setenv("TRACED_NOTIFY_FD", number, 1);
    pid = start("traced", traced);
    close(ready[1]);
    while (read(ready[0], &byte, 1) > 0) /* "1", then the end: it listens */
        ;
    close(ready[0]);
    unsetenv("TRACED_NOTIFY_FD");
    bench_program("perfetto --query-raw", "perfetto", query);
    bench_program("a trace of 1 ms, without data sources", "perfetto", trace);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    unlink(sock[0]);
    unlink(sock[1]);
    rmdir(dir);
}

int main(void)
{
    char *const version[] = {"perfetto", "--version", NULL};
    ssize_t n = readlink("/proc/self/exe", bin, sizeof(bin) - 1);

    if (n <= 0)
        return 1;
    bin[n] = '\0';
    for (int i = 0; i < 2; i++) /* BUILD/t/bench_cli -> BUILD */
        *strrchr(bin, '/') = '\0';
    bench_program("perfetto --version", "perfetto", version);
    bench_trace();
    bench_parser();
    bench_reading();
    return 0;
}
