/* SPDX-License-Identifier: Apache-2.0 */
/* The option table and its scanner: rules R101..R103, prefixes, clusters, help and completion. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/opts.h"

/* Scans a command line given as words; writes "id:arg id:arg ..." */
static void scan(const char *const *words, char *out, size_t size, struct opts_scan *s)
{
    static char *argv[16];
    int argc = 1;
    enum opts_id id;
    const char *arg;

    argv[0] = "perfetto";
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)words[argc - 1];
    argv[argc] = NULL;
    opts_scan_init(s, opts_perfetto, argc, argv);
    out[0] = '\0';
    while ((id = opts_next(s, &arg)) != OPTS_END && id != OPTS_BAD) {
        const struct opts_def *d = opts_find(opts_perfetto, id);
        size_t n = strlen(out);
        snprintf(out + n, size - n, "%s%s:%s", n ? " " : "",
                 id == OPTS_POSITIONAL     ? "word"
                 : id == OPTS_AFTER_DASHES ? "after"
                                           : d->name,
                 arg ? arg : "");
    }
    if (id == OPTS_BAD) {
        size_t n = strlen(out);
        snprintf(out + n, size - n, "%sBAD", n ? " " : "");
    }
}

#define EXPECT(want, ...)                                                                          \
    do {                                                                                           \
        const char *const words[] = {__VA_ARGS__, NULL};                                           \
        char got[512];                                                                             \
        struct opts_scan s;                                                                        \
        scan(words, got, sizeof(got), &s);                                                         \
        cr_expect_str_eq(got, want, "got '%s', want '%s' (%s)", got, want, s.error);               \
    } while (0)

#define EXPECT_ERROR(fragment, ...)                                                                \
    do {                                                                                           \
        const char *const words[] = {__VA_ARGS__, NULL};                                           \
        char got[512];                                                                             \
        struct opts_scan s;                                                                        \
        scan(words, got, sizeof(got), &s);                                                         \
        cr_expect(strstr(got, "BAD"), "accepted: %s", got);                                        \
        cr_expect(strstr(s.error, fragment), "'%s' lacks '%s'", s.error, fragment);                \
    } while (0)

Test(opts, forms)
{
    EXPECT("time:5s time:5s time:5s time:5s", "--time", "5s", "--time=5s", "-t5s", "-t", "5s");
    EXPECT("background: background-wait: time:1s", "-dDt", "1s");
    EXPECT("out:-", "-o", "-");
    EXPECT("out:", "--out=");
    EXPECT("config:--txt", "-c", "--txt");
}

Test(opts, words_mix_with_options) /* R101 */
{
    EXPECT("word:sched/sched_switch time:1s word:sw out:o", "sched/sched_switch", "-t", "1s", "sw",
           "-o", "o");
    EXPECT("word:- word:a", "-", "a");
    EXPECT("word:a after:-t after:--", "a", "--", "-t", "--");
}

Test(opts, posixly_correct)
{
    setenv("POSIXLY_CORRECT", "1", 1);
    EXPECT("time:1s word:a word:-o", "-t", "1s", "a", "-o");
    unsetenv("POSIXLY_CORRECT");
}

Test(opts, prefixes)
{
    EXPECT("version:", "--vers");
    EXPECT("time:1", "--tim=1");
    EXPECT("clone:1 clone-by-name:x clone-for-bugreport:", "--clone", "1", "--clone-b", "x",
           "--clone-f");
    EXPECT("query: query-raw: background:", "--query", "--query-r", "--background");
    EXPECT_ERROR("ambiguous", "--sav");
    EXPECT_ERROR("ambiguous", "--n");
    EXPECT_ERROR("unrecognized", "--clone-skip-filter"); /* R201 */
    EXPECT_ERROR("unrecognized", "--add-note");
}

/* What was a unique prefix upstream stays one, although we have more options. */
Test(opts, ours_take_no_prefix_away)
{
    EXPECT("is_detached:k", "--i", "k");
    EXPECT("inspect:f", "--in", "f");
    EXPECT("autostart:", "--au");
    for (const struct opts_def *d = opts_perfetto; d->name; d++) {
        if (d->ours)
            continue;
        for (size_t len = 1; len <= strlen(d->name); len++) {
            int others = 0, exact = len == strlen(d->name);
            char word[64];
            const char *words[] = {word, NULL};
            char got[512];
            struct opts_scan s;
            for (const struct opts_def *o = opts_perfetto; o->name; o++)
                others += o != d && !o->ours && strncmp(o->name, d->name, len) == 0;
            if (others && !exact)
                continue;
            snprintf(word, sizeof(word), "--%.*s%s", (int)len, d->name, d->arg ? "=v" : "");
            scan(words, got, sizeof(got), &s);
            cr_expect(strncmp(got, d->name, strlen(d->name)) == 0, "%s: %s %s", word, got, s.error);
        }
    }
}

Test(opts, mistakes)
{
    EXPECT_ERROR("option '--attach' requires an argument", "--attach"); /* R103 */
    EXPECT_ERROR("option '--detach' requires an argument", "-t", "2s", "--detach");
    EXPECT_ERROR("requires an argument", "-o");
    EXPECT_ERROR("takes no argument", "--txt=1");
    EXPECT_ERROR("invalid option -- 'Z'", "-Z");
    EXPECT_ERROR("unrecognized option '--invalid-arg'", "--invalid-arg");
}

static char *text_of(void (*fn)(FILE *))
{
    char *s;
    size_t n;
    FILE *f = open_memstream(&s, &n);

    fn(f);
    fclose(f);
    return s;
}

static void help(FILE *f)
{
    opts_help(f, opts_perfetto);
}

static void bash(FILE *f)
{
    cr_expect(opts_completion(f, "bash"));
}

static void zsh(FILE *f)
{
    cr_expect(opts_completion(f, "zsh"));
}

Test(opts, every_option_is_in_help_and_completion)
{
    char *h = text_of(help), *b = text_of(bash), *z = text_of(zsh), word[64];

    for (const struct opts_def *d = opts_perfetto; d->name; d++) {
        snprintf(word, sizeof(word), "--%s", d->name);
        cr_expect(strstr(h, word), "help lacks %s", word);
        cr_expect(strstr(b, word), "bash completion lacks %s", word);
        cr_expect(strstr(z, word), "zsh completion lacks %s", word);
    }
    for (char *line = strtok(h, "\n"); line; line = strtok(NULL, "\n"))
        cr_expect_leq(strlen(line), 80, "too long: %s", line);
    cr_expect(!opts_completion(stderr, "fish"));
    free(h);
    free(b);
    free(z);
}

Test(opts, no_id_twice)
{
    for (const struct opts_def *d = opts_perfetto; d->name; d++) {
        cr_expect_eq(opts_find(opts_perfetto, d->id), d, "%s", d->name);
        for (const struct opts_def *o = d + 1; o->name; o++) {
            cr_expect(strcmp(o->name, d->name) != 0);
            cr_expect(!d->letter || o->letter != d->letter, "-%c", d->letter);
        }
    }
}
