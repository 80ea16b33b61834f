/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program of sdk.py: does with libperfetto_c what it reads on stdin, a command a line, and
 * answers each with what the library returned. It is built against the installed tree.
 */
#include <perfetto/public/packet.h>
#include <perfetto/public/producer.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct perfetto_data_source sources[2];
static struct perfetto_packet *held;
static _Atomic int calls[4]; /* of on_setup, on_start, on_stop, on_flush */

static void on_setup(void *user, uint32_t instance, const void *config, size_t len)
{
    (void)user;
    (void)instance;
    calls[0] += config && len;
}

static void on_start(void *user, uint32_t instance)
{
    (void)user;
    (void)instance;
    calls[1]++;
}

static void put(struct perfetto_packet *p, const char *text, unsigned n, size_t payload)
{
    char *data = calloc(1, payload + 1);
    memset(data, 'x', payload);
    if (perfetto_packet_wants_state(p))
        perfetto_packet_varint(p, 13, 1); /* TracePacket.sequence_flags */
    perfetto_packet_timestamp(p);
    perfetto_packet_begin_nested(p, 900); /* TracePacket.for_testing */
    perfetto_packet_string(p, 1, text);
    perfetto_packet_varint(p, 2, n);
    perfetto_packet_begin_nested(p, 5);
    perfetto_packet_bytes(p, 1, data, payload);
    perfetto_packet_end_nested(p);
    perfetto_packet_sint(p, 100, -5);
    perfetto_packet_fixed32(p, 101, 6);
    perfetto_packet_fixed64(p, 102, 7);
    perfetto_packet_float(p, 103, 0.5F);
    perfetto_packet_double(p, 104, 0.25);
    perfetto_packet_end_nested(p);
    free(data);
}

static void on_stop(void *user, uint32_t instance)
{
    (void)user;
    calls[2]++;
    PERFETTO_TRACE (&sources[0], p) {
        if (perfetto_packet_instance(p) == instance)
            put(p, "stopping", 0, 0);
    }
}

static void on_flush(void *user, uint32_t instance)
{
    (void)user;
    (void)instance;
    calls[3]++;
}

static const struct perfetto_data_source_ops ops = {on_setup, on_start, on_stop, on_flush};

struct job {
    pthread_t thread;
    char text[32];
    unsigned count;
    size_t payload;
};

static void *write_packets(void *arg)
{
    const struct job *j = arg;
    for (unsigned n = 0; n < j->count; n++)
        PERFETTO_TRACE (&sources[0], p)
            put(p, j->text, n, n % 16 == 15 ? j->payload : 0);
    return NULL;
}

static int in_threads(unsigned threads, unsigned count, size_t payload)
{
    struct job *jobs = calloc(threads, sizeof(*jobs));
    for (unsigned i = 0; i < threads; i++) {
        snprintf(jobs[i].text, sizeof(jobs[i].text), "thread %u", i);
        jobs[i].count = count;
        jobs[i].payload = payload;
        pthread_create(&jobs[i].thread, NULL, write_packets, &jobs[i]);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(jobs[i].thread, NULL);
    free(jobs);
    return 0;
}

/* What a child of ours sees: tracing off, and calls that say so. */
static int in_child(void)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20); /* a child that waits for the parent's lock waits for ever */
        int bad = perfetto_data_source_active(&sources[0]) ? 1 : 0;
        PERFETTO_TRACE (&sources[0], p)
            bad |= 2;
        bad |= perfetto_flush(1000) == 0 ? 4 : 0;
        bad |= perfetto_shutdown() == 0 ? 8 : 0;
        exit(bad);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
}

static int init(const char *name)
{
    const struct perfetto_options o = {.name = name, .shm_size_kb = 2048};
    return perfetto_init(&o);
}

static int reg(unsigned i, const char *name)
{
    const struct perfetto_data_source_options o = {.ops = &ops,
                                                   .when_full = PERFETTO_WHEN_FULL_STALL};
    return perfetto_data_source_register(&sources[i % 2], name, &o);
}

/* With a ProtoVM program: select for_testing of the packet, select it in the state too, merge. */
static int reg_program(unsigned i, const char *name)
{
    static const char program[] =
        "\x12\x18\x0a\x05\x12\x03\x08\x84\x07\x3a\x0f\x0a\x09\x08\x02\x12\x03"
        "\x08\x84\x07\x18\x01\x3a\x02\x1a";
    char *mine = malloc(sizeof(program));
    memcpy(mine, program, sizeof(program));
    const struct perfetto_data_source_options o = {
        .when_full = PERFETTO_WHEN_FULL_STALL, .program = mine, .program_len = sizeof(program)};
    int err = perfetto_data_source_register(&sources[i % 2], name, &o);
    memset(mine, 0xFF, sizeof(program));
    free(mine);
    return err;
}

static int write_one(const char *text, unsigned n)
{
    int packets = 0;
    PERFETTO_TRACE (&sources[0], p) {
        put(p, text, n, 0);
        packets++;
    }
    return packets;
}

static int hold(void)
{
    held = perfetto_packet_begin(&sources[0]);
    if (held)
        perfetto_packet_string(held, 900, "");
    return held != NULL;
}

static int let_go(void)
{
    perfetto_packet_end(held);
    return 0;
}

static int run(const char *command, const char *text, unsigned a, unsigned b, unsigned c)
{
    if (!strcmp(command, "init"))
        return init(text);
    if (!strcmp(command, "register"))
        return reg(a, text);
    if (!strcmp(command, "register_program"))
        return reg_program(a, text);
    if (!strcmp(command, "connected"))
        return perfetto_wait_connected(a);
    if (!strcmp(command, "active"))
        return perfetto_data_source_wait_active(&sources[0], a);
    if (!strcmp(command, "is_active"))
        return perfetto_data_source_active(&sources[0]);
    if (!strcmp(command, "write"))
        return write_one(text, a);
    if (!strcmp(command, "threads"))
        return in_threads(a, b, c);
    if (!strcmp(command, "hold"))
        return hold();
    if (!strcmp(command, "release"))
        return let_go();
    if (!strcmp(command, "flush"))
        return perfetto_flush(a);
    if (!strcmp(command, "trigger"))
        return perfetto_trigger(text, 1000);
    if (!strcmp(command, "calls"))
        return calls[a % 4];
    if (!strcmp(command, "fork"))
        return in_child();
    if (!strcmp(command, "shutdown"))
        return perfetto_shutdown();
    return -1000;
}

int main(void)
{
    char line[256], command[32], text[128];
    while (fgets(line, sizeof(line), stdin)) {
        unsigned a = 0, b = 0, c = 0;
        if (sscanf(line, "%31s %127s %u %u %u", command, text, &a, &b, &c) < 1)
            continue;
        if (!strcmp(command, "exit"))
            return 0;
        if (!strcmp(command, "last")) { /* packets that span chunks, and the end at once */
            const struct job j = {.text = "last", .count = 32, .payload = 9000};
            write_packets((void *)(uintptr_t)&j);
            return 0;
        }
        printf("%d\n", run(command, text, a, b, c));
        fflush(stdout);
    }
    return 0;
}
