/* SPDX-License-Identifier: Apache-2.0 */
/* svc/session_file: service.md section 10 and T57, T89 to T98. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protos/fieldnum.h"
#include "reactor/chrono.h"
#include "t/svc/world.h"

static struct world *w;
static int fd;

static void setup(void)
{
    w = world_new();
    fd = open(world_path(w, "trace"), O_RDWR | O_CREAT, 0600);
}

static void teardown(void)
{
    world_free(w);
    close(fd);
}

TestSuite(sessfile, .init = setup, .fini = teardown);

static struct bytesbuf *config(uint32_t period_ms, uint32_t mode)
{
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 256);
    cfg_source(&w->cfg, "ds", 0);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_into_file, 1);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_file_write_period_ms, period_ms);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_write_flush_mode, mode);
    return &w->cfg;
}

/* What the file holds: test texts, and one letter for each packet of other kinds. */
static const char *contents(int file)
{
    static uint8_t buf[1 << 20];
    static char out[65536];
    ssize_t n = pread(file, buf, sizeof(buf), 0);
    struct bytes_cur cur = bytes_cur(bytes_view(buf, n > 0 ? (size_t)n : 0));
    struct bytes_field f;
    size_t at = 0;
    out[0] = '\0';
    while (bytes_next(&cur, &f)) {
        struct bytes_view t = msg_part(f.data.p, f.data.n, PBF_TracePacket_for_testing, 0);
        if (t.n)
            at += (size_t)sprintf(out + at, "<%s>", msg_str(t.p, t.n, 1));
        else if (msg_fields(f.data.p, f.data.n, PBF_TracePacket_trace_stats))
            at += (size_t)sprintf(out + at, "s");
        else if (msg_fields(f.data.p, f.data.n, PBF_TracePacket_trace_config))
            at += (size_t)sprintf(out + at, "C");
        else
            at += (size_t)sprintf(out + at, ".");
    }
    if (!bytes_done(&cur))
        sprintf(out + at, "MALFORMED");
    return out;
}

static off_t size_of(int file)
{
    struct stat st;
    cr_assert_eq(fstat(file, &st), 0);
    return st.st_size;
}

Test(sessfile, R163_R165_R172_drains)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cr_assert(cons_enable_fd(c, config(200, 2), dup(fd)));
    prod_put(p, 1, "one");
    cr_expect_eq(size_of(fd), 0);
    cr_expect_eq(cons_read(c), 0, "R172: not readable while the file is open");
    world_advance_ms(w, 200);
    cr_expect(strstr(contents(fd), "C"), "%s", contents(fd));
    cr_expect(strstr(contents(fd), "<one>"));
    prod_put(p, 1, "two");
    world_advance_ms(w, 200);
    cr_expect(strstr(contents(fd), "<two>"));
    prod_put(p, 1, "three");
    cons_ask(c, MSG_C_DISABLE);
    cr_expect(c->disabled);
    const char *all = contents(fd);
    cr_expect(strstr(all, "<three>"));
    cr_expect_eq(all[strlen(all) - 1], 's', "T93: ends with the final statistics: %s", all);
    cons_read(c);
    cr_expect_eq(c->npkts, 1, "R172: just a read_completed event");
}

Test(sessfile, R163_shortest_and_default_period)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable_fd(c, config(1, 2), dup(fd));
    prod_put(p, 1, "one");
    world_advance_ms(w, 99);
    cr_expect_eq(size_of(fd), 0, "no shorter than 100 ms");
    world_advance_ms(w, 1);
    cr_expect_gt(size_of(fd), 0);
}

Test(sessfile, T57_flush_strategies)
{
    static const struct {
        uint32_t period, mode;
        unsigned flushes; /* in the first 10 s */
    } cases[] = {{100, 3, 100}, {1000, 1, 2}, {1000, 0, 2}, {10000, 1, 1}, {1000, 2, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct prod *p = prod_new(w, "p", 1);
        struct cons *c = cons_new(w, 1);
        prod_register(p, "ds", 0);
        cons_enable_fd(c, config(cases[i].period, cases[i].mode), dup(fd));
        world_advance_ms(w, 10000);
        cr_expect_eq(prod_count(p, MSG_PP_FLUSH), cases[i].flushes, "case %zu: %zu flushes", i,
                     prod_count(p, MSG_PP_FLUSH));
        if (cases[i].flushes)
            cr_expect_eq(prod_heard(p, MSG_PP_FLUSH, 0)->flags, 0x11);
        cons_bye(c);
        prod_bye(p);
    }
}

Test(sessfile, R163_flush_period_counts_only_when_disabled)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    config(5000, 2);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_flush_period_ms, 1000);
    cons_enable_fd(c, &w->cfg, dup(fd));
    world_advance_ms(w, 5500);
    cr_expect_eq(prod_count(p, MSG_PP_FLUSH), 5);
}

Test(sessfile, R164_a_failed_flush_does_not_stop_the_drain)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    p->mute = true;
    config(1000, 3);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_flush_timeout_ms, 50);
    cons_enable_fd(c, &w->cfg, dup(fd));
    prod_put(p, 1, "one");
    world_advance_ms(w, 1000);
    cr_expect_eq(size_of(fd), 0);
    world_advance_ms(w, 50);
    cr_expect(strstr(contents(fd), "<one>"));
}

Test(sessfile, T89_R168_max_size)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", DS_NOTIFY_STOP);
    config(1000, 2);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_max_file_size_bytes, 2048);
    cons_enable_fd(c, &w->cfg, dup(fd));
    char text[64];
    for (int i = 0; i < 60; i++) {
        snprintf(text, sizeof(text), "packet %d, with some text to fill the file", i);
        prod_put(p, 1, text);
    }
    world_advance_ms(w, 1000);
    cr_expect_lt(size_of(fd), 2048);
    cr_expect_gt(size_of(fd), 1900);
    cr_expect_null(strstr(contents(fd), "MALFORMED"));
    cr_expect_eq(prod_count(p, MSG_PP_STOP), 1, "the session is stopped, gracefully");
    off_t was = size_of(fd);
    prod_stopped(p, prod_instance(p, 0));
    cr_expect(c->disabled);
    cr_expect_str_eq(c->error, "");
    cr_expect_eq(size_of(fd), was, "nothing more is written");
}

Test(sessfile, T90_R161_output_path)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    char path[128];
    strcpy(path, world_path(w, "by-path"));
    config(1000, 2);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_output_path, path);
    cr_assert(cons_enable(c, &w->cfg));
    cr_expect_not(cons_enable(d, &w->cfg));
    cr_expect(strstr(d->error, path), "R161: it exists: %s", d->error);
    cons_ask(c, MSG_C_DISABLE);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_mode & 0777, 0644);
    cr_expect_gt(st.st_size, 0);
}

Test(sessfile, T98_free_completes_the_file)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable_fd(c, config(5000, 2), dup(fd));
    prod_put(p, 1, "data");
    cr_expect(cons_ask(c, MSG_C_FREE));
    cr_expect(c->disabled, "told when the file is complete");
    cr_expect(strstr(contents(fd), "<data>") && strstr(contents(fd), "s"));
    cr_expect(cons_enable(c, (cfg_begin(&w->cfg), cfg_buffer(&w->cfg, 4), &w->cfg)));
}

Test(sessfile, T120_detached_session_ends_with_its_file)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    int pipes[2];
    prod_register(p, "ds", 0);
    cr_assert_eq(pipe2(pipes, O_NONBLOCK), 0);
    config(5000, 2);
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_duration_ms, 1000);
    cons_enable_fd(c, &w->cfg, pipes[1]);
    cons_ask_body(c, MSG_C_DETACH, "k", 1);
    prod_put(p, 1, "data");
    world_advance_ms(w, 1100);
    static uint8_t buf[65536];
    ssize_t n = read(pipes[0], buf, sizeof(buf));
    cr_expect_gt(n, 0);
    cr_expect_not_null(memmem(buf, (size_t)n, "data", 4));
    cr_expect_eq(read(pipes[0], buf, sizeof(buf)), 0, "and it is closed");
    cr_expect_not(cons_ask_body(c, MSG_C_ATTACH, "k", 1));
    close(pipes[0]);
}

Test(sessfile, R170_a_pipe_that_nobody_reads)
{
    struct prod *p = prod_new(w, "p", 1), *q = prod_new(w, "q", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    int pipes[2];
    prod_register(p, "ds", 0);
    prod_register(q, "other", 0);
    cr_assert_eq(pipe2(pipes, 0), 0);
    cons_enable_fd(c, config(100, 2), pipes[1]);
    char text[90];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < 1200; i++)
        prod_put(p, 1, text); /* more than a pipe holds */
    world_advance_ms(w, 1000);
    cfg_begin(&w->cfg);
    cfg_buffer(&w->cfg, 4);
    cfg_source(&w->cfg, "other", 0);
    cr_expect(cons_enable(d, &w->cfg), "everybody else is served");
    prod_put(q, 1, "alive");
    cons_read(d);
    cr_expect(cons_has(d, "alive"));
    close(pipes[0]); /* and nobody dies of it */
    world_advance_ms(w, 1000);
    cr_expect(c->disabled, "R169: a broken target ends the session");
}

Test(sessfile, R166_start_trigger_that_never_comes)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    config(100, 2);
    cfg_trigger_mode(&w->cfg, 1, 1000);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    cons_enable_fd(c, &w->cfg, dup(fd));
    world_advance_ms(w, 1500);
    cr_expect(c->disabled);
    cr_expect_eq(size_of(fd), 0);
}

Test(sessfile, Q20_started_without_its_trigger)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    config(100, 2);
    cfg_trigger_mode(&w->cfg, 1, 60000);
    cfg_trigger(&w->cfg, "t", NULL, 1, 0, 0);
    cons_enable_fd(c, &w->cfg, dup(fd));
    cons_ask(c, MSG_C_START);
    prod_put(p, 1, "data");
    world_advance_ms(w, 200);
    cons_ask(c, MSG_C_DISABLE);
    cr_expect(c->disabled, "it ends, and its file is closed");
}

Test(sessfile, service_end_completes_files)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1);
    prod_register(p, "ds", 0);
    cons_enable_fd(c, config(5000, 2), dup(fd));
    prod_put(p, 1, "data");
    service_end(w->svc); /* as on SIGTERM */
    cr_expect(strstr(contents(fd), "<data>"));
}

/* ---- a file by name, on a disk that takes its time ---- */

static struct bytesbuf *by_name(const char *path)
{
    config(1000, 2);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_output_path, path);
    return &w->cfg;
}

/* The host of the processes that write files, our only child; it runs after the first file. */
static pid_t host_pid(void)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%d", &pid) != 1)
        cr_skip_test("no list of children here");
    fclose(f);
    return pid;
}

/* A post without the wait for its outcome. */
static void post(struct cons *c, enum msg_kind kind, const struct bytesbuf *b, size_t size)
{
    union {
        struct msg_enable enable;
        struct msg_request request;
    } m = {.enable = {.cookie = ++c->cookie, .fd = -1}};
    if (kind == MSG_C_ENABLE) {
        cr_assert_eq(msg_body_copy(&m.enable.body, b->p, b->n), 0);
        c->enable_cookie = c->cookie;
        c->disabled = false;
    } else {
        m.request = (struct msg_request){.cookie = c->cookie};
        c->reply_cookie = c->cookie;
        c->replied = false;
    }
    cr_assert_eq(actor_post(w->reactor, c->endpoint, c->actor.id, kind, &m, size), 0);
    reactor_settle(w->reactor);
}

Test(sessfile, R161_requests_behind_a_file_that_is_being_made_wait)
{
    struct prod *p = prod_new(w, "p", 1);
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    char path[128];
    prod_register(p, "ds", 0);
    cons_enable_fd(d, config(1000, 2), dup(fd));
    kill(host_pid(), SIGSTOP);
    strcpy(path, world_path(w, "by-name"));
    post(c, MSG_C_ENABLE, by_name(path), sizeof(struct msg_enable));
    cr_expect_eq(prod_count(p, MSG_PP_START), 1, "that of the other session");
    post(c, MSG_C_DISABLE, NULL, sizeof(struct msg_request));
    cr_expect_not(c->replied, "it waits behind");
    struct stat st;
    cr_expect_neq(stat(path, &st), 0);
    reactor_advance(w->reactor, 500 * CHRONO_MS);
    cr_expect_not(c->replied || c->disabled);
    kill(host_pid(), SIGCONT);
    world_settle(w);
    cr_expect(c->replied && c->reply_ok);
    cr_expect(c->disabled, "and then it stops the session that was begun");
    cr_expect_str_eq(c->error, "");
    cr_expect_eq(prod_count(p, MSG_PP_START), 2);
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_gt(st.st_size, 0);
    cr_expect(cons_ask(d, MSG_C_DISABLE));
}

Test(sessfile, R161_a_consumer_that_leaves_while_its_file_is_being_made)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    cons_enable_fd(d, config(1000, 2), dup(fd));
    kill(host_pid(), SIGSTOP);
    post(c, MSG_C_ENABLE, by_name(world_path(w, "by-name")), sizeof(struct msg_enable));
    post(c, MSG_C_DISABLE, NULL, sizeof(struct msg_request));
    cons_bye(c);
    cr_expect_eq(service_sessions(w->svc), 1);
    kill(host_pid(), SIGCONT);
    world_advance_ms(w, 100);
    cr_expect_eq(service_sessions(w->svc), 1);
}

Test(sessfile, V18_a_guarded_session_with_a_file_by_name)
{
    struct cons *c = cons_new(w, 1), *d = cons_new(w, 1);
    by_name(world_path(w, "by-name"));
    bytesbuf_pb_varint(&w->cfg, PBF_TraceConfig_enable_extra_guardrails, 1);
    bytesbuf_pb_str(&w->cfg, PBF_TraceConfig_unique_session_name, "guarded");
    cr_expect(cons_enable(c, &w->cfg), "its own entry does not keep it out: %s", c->error);
    cons_ask(c, MSG_C_FREE);
    cr_expect_not(cons_enable(d, &w->cfg));
    cr_expect(strstr(d->error, "guarded"), "%s", d->error);
}
