/* SPDX-License-Identifier: Apache-2.0 */
/* What command lines mean and which are refused, in the order of rules R220..R240 (R251), and how
 * harness mode is told from events behind "--". */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cmdline.h"

static struct cmdline cl;
static char said[8192];

/* Parses a command line with `config` on stdin; what it says on stderr goes to `said`. */
static int parse(const char *config, const char *const *words)
{
    static char *argv[32] = {"perfetto"}; /* the command line outlives this call */
    int argc = 1, in = dup(0), err = dup(2), rc;
    FILE *tmp_in = tmpfile(), *tmp_err = tmpfile();
    size_t n;

    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    argv[argc] = NULL;
    fputs(config, tmp_in);
    fflush(tmp_in);
    lseek(fileno(tmp_in), 0, SEEK_SET);
    dup2(fileno(tmp_in), 0);
    fflush(stderr);
    dup2(fileno(tmp_err), 2);
    rc = cmdline_parse(&cl, argc, argv);
    fflush(stderr);
    dup2(in, 0);
    dup2(err, 2);
    close(in);
    close(err);
    rewind(tmp_err);
    n = fread(said, 1, sizeof(said) - 1, tmp_err);
    said[n] = '\0';
    fclose(tmp_in);
    fclose(tmp_err);
    return rc;
}

#define PARSE(config, ...) parse(config, (const char *const[]){__VA_ARGS__, NULL})

#define REFUSED(text, config, ...)                                                                 \
    do {                                                                                           \
        int rc_ = PARSE(config, __VA_ARGS__);                                                      \
        cr_expect_eq(rc_, 1, "exit %d, said: %s", rc_, said);                                      \
        cr_expect(strstr(said, text), "lacks '%s': %s", text, said);                               \
        cmdline_fini(&cl);                                                                         \
    } while (0)

#define ACTION(action_, config, ...)                                                               \
    do {                                                                                           \
        int rc_ = PARSE(config, __VA_ARGS__);                                                      \
        cr_expect_eq(rc_, CMDLINE_GO_ON, "exit %d, said: %s", rc_, said);                          \
        cr_expect_eq(cl.action, action_, "action %d", cl.action);                                  \
    } while (0)

#define C "duration_ms: 100\n"
#define W "write_into_file: true\n"

Test(cmdline, actions)
{
    ACTION(CMDLINE_RECORD, C, "-c", "-", "--txt", "-o", "x");
    cr_expect_str_eq(cl.out, "x");
    cr_expect_eq(cl.conf.facts.duration_ms, 100);
    cmdline_fini(&cl);
    ACTION(CMDLINE_DETACH, W, "-c", "-", "--txt", "-o", "x", "--detach=k");
    cr_expect_str_eq(cl.key, "k");
    cmdline_fini(&cl);
    ACTION(CMDLINE_ATTACH, "", "--attach=k", "--stop");
    cr_expect(cl.stop);
    cmdline_fini(&cl);
    ACTION(CMDLINE_IS_DETACHED, "", "--is_detached", "k");
    cmdline_fini(&cl);
    ACTION(CMDLINE_TRIGGERS, "activate_triggers: 'a'", "-c", "-", "--txt");
    cr_expect_null(cl.out);
    cmdline_fini(&cl);
    ACTION(CMDLINE_CLONE, "", "--clone", "-1", "-o", "x");
    cr_expect_eq(cl.clone_id, UINT64_MAX);
    cmdline_fini(&cl);
    ACTION(CMDLINE_QUERY, "", "--query-raw");
    cr_expect(cl.query_raw);
    cmdline_fini(&cl);
    ACTION(CMDLINE_SAVE_ALL, "", "--save-all-for-bugreport");
    cmdline_fini(&cl);
    ACTION(CMDLINE_PRINT_CONFIG, "", "-t", "1s", "--print-config");
    cmdline_fini(&cl);
    ACTION(CMDLINE_INSPECT, "", "--inspect", "f", "--json");
    cr_expect_eq(cl.format, CMDLINE_JSON);
    cmdline_fini(&cl);
    ACTION(CMDLINE_INSPECT, "", "--inspect", "--check", "f");
    cr_expect_eq(cl.format, CMDLINE_CHECK);
    cr_expect_str_eq(cl.inspect, "f");
    cmdline_fini(&cl);
    REFUSED("cannot be combined", "", "--inspect", "--text", "f", "sched/sched_switch");
}

Test(cmdline, save_for_bugreport) /* R253 R730 */
{
    setenv("TMPDIR", "/some/where/", 1);
    ACTION(CMDLINE_CLONE, "", "--save-for-bugreport");
    cr_expect_str_eq(cl.out, "/some/where/systrace.pftrace");
    cr_expect(cl.clone_for_bugreport);
    cmdline_fini(&cl);
    REFUSED("TraceConfig is empty", "", "--save-for-bugreport", "-o", "x");
}

Test(cmdline, refused_in_rule_order)
{
    REFUSED("--query", "", "--query", "--detach=k");
    REFUSED("--long", "", "--long", "-t", "1ms", "-o", "o");
    REFUSED("--detach", "", "--detach=k", "--attach=k");
    REFUSED("--txt-lossy", C, "-c", "-", "--txt", "--txt-lossy", "-o", "o");
    REFUSED("--detach", W, "-c", "-", "--txt", "-o", "o", "--detach=k", "-d");
    REFUSED("--stop is supported only in combination", C, "-c", "-", "--txt", "-o", "-", "--stop");
    REFUSED("--save-", "", "--save-for-bugreport", "-D");
    REFUSED("--clone-by-name", "", "--clone", "1", "--clone-by-name", "x", "-o", "o");
    REFUSED("--clone-for-bugreport", "", "--clone-for-bugreport", "-t", "1ms", "-o", "o");
    REFUSED("Cannot specify a trace config", C, "-c", "-", "--txt", "-o", "-", "--attach=foo");
    REFUSED("Cannot specify a trace config", "", "-t", "2s", "--query");
    REFUSED("Cannot specify both -c", C, "-o", "-", "-c", "-", "-t", "2s");
    REFUSED("TraceConfig is empty", "", "-c", "-", "-o", "-");
    REFUSED("invalid", "nope: 1\n", "-c", "-", "--txt", "-o", "o");
    REFUSED("cmd_trace_start_delay", C "cmd_trace_start_delay { min_delay_ms: 5 }", "-c", "-",
            "--txt", "-o", "o");
    REFUSED("Report", C "android_report_config { reporter_service_package: 'a' }", "-c", "-",
            "--txt", "-o", "o");
    REFUSED("output_path", W "output_path: '/nonexistent/x'", "-c", "-", "--txt", "-o", "o");
    REFUSED("--out", "", "--query", "-o", "o");
    REFUSED("Either --out or --upload is required", C, "-c", "-", "--txt");
    REFUSED("Either --out or --upload is required", "", "-t", "2s", "--detach=foo");
    REFUSED("Either --out or --upload is required", C, "-c", "-", "--txt", "-o", "");
    REFUSED("write_into_file", C, "-c", "-", "--txt", "-o", "o", "--detach=k");
}

Test(cmdline, not_refused) /* R250 R252 R501 */
{
    ACTION(CMDLINE_RECORD, "", "-o", "-", "-c", "-", "-t", "100ms");
    cmdline_fini(&cl);
    ACTION(CMDLINE_ATTACH, "", "--attach=k", "-d");
    cmdline_fini(&cl);
    ACTION(CMDLINE_IS_DETACHED, "", "--is_detached=k", "--stop");
    cmdline_fini(&cl);
    ACTION(CMDLINE_QUERY, "", "--query", "--add-attribute", "a=b");
    cmdline_fini(&cl);
    ACTION(CMDLINE_RECORD, W "output_path: '/nonexistent/x'", "-c", "-", "--txt");
    cr_expect_null(cl.out);
    cmdline_fini(&cl);
}

Test(cmdline, values_are_checked)
{
    REFUSED("--time", "", "-t", "2", "-o", "o");
    REFUSED("--buffer", "", "-b", "2s", "-o", "o");
    REFUSED("--size", "", "-s", "x", "-o", "o");
    REFUSED("--clone", "", "--clone", "abc", "-o", "o");
    REFUSED("--alert-id", "", "--alert-id", "x", "-t", "1s", "-o", "o");
    REFUSED("not open", "", "--notify-fd", "99", "-t", "1s", "-o", "o");
    REFUSED("--attach", "", "--attach=");
    REFUSED("attribute", "", "--add-attribute", "=v", "-t", "1s", "-o", "o");
    REFUSED("Android", "", "--upload");
    REFUSED("Android", "", "--dropbox=foo");
    REFUSED("fish", "", "--completion", "fish");
}

Test(cmdline, first_mistake_wins)
{
    /* options that end the program do so before later ones are looked at (R203) */
    cr_redirect_stdout();
    cr_expect_eq(PARSE("", "--version", "--invalid"), 0);
    cmdline_fini(&cl);
    cr_expect_eq(PARSE("", "--help"), 0);
    cmdline_fini(&cl);
    cr_expect_eq(PARSE("", "--invalid", "--version"), 1);
    cmdline_fini(&cl);
    cr_expect_eq(PARSE("", "--reset-guardrails", "--invalid"), 0);
    cmdline_fini(&cl);
}

Test(cmdline, ours_exclude_each_other)
{
    REFUSED("--inspect", "", "--inspect", "f", "-o", "o");
    REFUSED("--inspect FILE", "", "--text", "-t", "1s", "-o", "o");
    REFUSED("--print-config", "", "--print-config", "-t", "1s", "-o", "o");
    REFUSED("--autostart", "", "--autostart", "--query");
    REFUSED("--autostart", W, "-c", "-", "--txt", "--autostart", "--detach=k", "-o", "o");
}

Test(cmdline, harness)
{
    ACTION(CMDLINE_RECORD, "", "-o", "x", "--", "sh", "-c", "true");
    cr_assert(cl.command);
    cr_expect_str_eq(cl.command[0], "sh");
    cr_expect_str_eq(cl.command[1], "-c");
    cr_expect_eq(cl.conf.facts.duration_ms, 0, "as long as the command");
    cr_expect_eq(cl.conf.facts.n_data_sources, 3, "with track events");
    cmdline_fini(&cl);
    ACTION(CMDLINE_RECORD, "", "sched/sched_switch", "-t", "3s", "-o", "x", "--", "./prog",
           "--query");
    cr_assert(cl.command);
    cr_expect_eq(cl.light.n_words, 1);
    cr_expect_eq(cl.conf.facts.duration_ms, 3000);
    cmdline_fini(&cl);
    ACTION(CMDLINE_RECORD, C, "-c", "-", "--txt", "-o", "x", "--", "/bin/true");
    cr_assert(cl.command);
    cr_expect_eq(cl.conf.facts.duration_ms, 100);
    cmdline_fini(&cl);
    cr_expect_eq(PARSE("", "-o", "x", "-d", "--", "true"), 125, "%s", said);
    cmdline_fini(&cl);
    cr_expect_eq(PARSE("", "--bogus", "-o", "x", "--", "true"), 125, "%s", said);
    cmdline_fini(&cl);
    cr_expect_eq(PARSE("", "--bogus", "-o", "x", "--", "sched/x"), 1, "%s", said);
    cmdline_fini(&cl);
    cr_expect_eq(PARSE("", "-o", "-", "--", "true"), 125, "%s", said);
    cmdline_fini(&cl);
}

Test(cmdline, words_behind_dashes_can_be_events) /* R101 */
{
    ACTION(CMDLINE_RECORD, "", "sw", "-o", "x", "--", "--query", "sched/*");
    cr_expect_null(cl.command);
    cr_expect_eq(cl.light.n_words, 3);
    cmdline_fini(&cl);
    ACTION(CMDLINE_RECORD, "", "-o", "x", "--", "sched/sched_switch");
    cr_expect_null(cl.command);
    cmdline_fini(&cl);
    ACTION(CMDLINE_RECORD, "", "-o", "x", "--", "no_such_program_zz");
    cr_expect_null(cl.command);
    cr_expect(strstr(said, "no program in PATH"), "%s", said);
    cmdline_fini(&cl);
}
