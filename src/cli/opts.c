/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of the command line tools.
 *
 * The tables below are the only place where an option is named. The scanner follows GNU
 * getopt_long (R101) and is our own for one reason: our additions must not take away a prefix that
 * scripts written for upstream use ("--i" means --is_detached although --inspect exists). An
 * option marked `ours` is therefore found by a prefix only if no other option has that prefix.
 *
 * The scanner decides nothing about meaning: what an option does, and with what it may be combined,
 * is cli/cmdline's business.
 */
#include "cli/opts.h"

#include <stdlib.h>
#include <string.h>

#define H_RECORD  "Record a trace"
#define H_LIGHT   "Light form, instead of a config (with categories and GROUP/EVENT as arguments)"
#define H_BACK    "Run in the background"
#define H_DETACH  "Detached sessions, which outlive this program"
#define H_PRIVATE "Record with a private service"
#define H_QUERY   "Look at the service"
#define H_CLONE   "Save a running session"
#define H_READ    "Read a trace file"
#define H_MORE    "More"
#define H_ANDROID "Not on Linux"

const struct opts_def opts_perfetto[] = {
    {OPTS_CONFIG, 'c', false, "config", "FILE", "file", H_RECORD,
     "read the trace config from FILE, or from stdin if FILE is -"},
    {OPTS_TXT, 0, false, "txt", NULL, NULL, H_RECORD, "the config is text, see perfetto-config(5)"},
    {OPTS_TXT_LOSSY, 0, false, "txt-lossy", NULL, NULL, H_RECORD,
     "as --txt, but drop fields and enum values that are not known"},
    {OPTS_OUT, 'o', false, "out", "FILE", "file", H_RECORD,
     "write the trace to FILE, or to stdout if FILE is -"},
    {OPTS_NO_CLOBBER, 0, false, "no-clobber", NULL, NULL, H_RECORD, "fail if the output exists"},
    {OPTS_ADD_ATTRIBUTE, 0, false, "add-attribute", "KEY[=VALUE]", "", H_RECORD,
     "save a pair of texts in the trace; may be repeated"},
    {OPTS_PRINT_CONFIG, 0, true, "print-config", NULL, NULL, H_RECORD,
     "print the config as text and do not record"},
    {OPTS_QUIET, 'q', true, "quiet", NULL, NULL, H_RECORD,
     "no progress line and no summary; errors only"},

    {OPTS_TIME, 't', false, "time", "N[ms|s|m|h]", "5s|10s|1m", H_LIGHT, "how long (10s)"},
    {OPTS_BUFFER, 'b', false, "buffer", "N[kb|mb|gb]", "32mb|64mb|128mb", H_LIGHT,
     "size of the ring buffer (32mb)"},
    {OPTS_SIZE, 's', false, "size", "N[kb|mb|gb]", "100mb|1gb", H_LIGHT,
     "stream into the file while recording, up to this size"},
    {OPTS_APP, 'a', false, "app", "NAME", "", H_LIGHT, "Android app to trace; may be repeated"},

    {OPTS_BACKGROUND, 'd', false, "background", NULL, NULL, H_BACK,
     "print the PID of the background process and return"},
    {OPTS_BACKGROUND_WAIT, 'D', false, "background-wait", NULL, NULL, H_BACK,
     "the same, but return when all data sources have started (at most 30 s)"},
    {OPTS_NOTIFY_FD, 0, false, "notify-fd", "FD", "", H_BACK,
     "write a status byte to FD when all data sources have started, or at the end"},

    {OPTS_DETACH, 0, false, "detach", "KEY", "", H_DETACH,
     "start a session that writes into a file, name it KEY, and return"},
    {OPTS_ATTACH, 0, false, "attach", "KEY", "", H_DETACH,
     "take the session over again and wait for its end"},
    {OPTS_STOP, 0, false, "stop", NULL, NULL, H_DETACH, "with --attach: stop it now"},
    {OPTS_IS_DETACHED, 0, false, "is_detached", "KEY", "", H_DETACH,
     "exit with 0 if the session KEY is there, with 2 if not"},

    {OPTS_AUTOSTART, 0, true, "autostart", NULL, NULL, H_PRIVATE,
     "start a traced and a traced_probes for this recording only"},

    {OPTS_QUERY, 0, false, "query", NULL, NULL, H_QUERY,
     "print producers, data sources and sessions"},
    {OPTS_LONG, 0, false, "long", NULL, NULL, H_QUERY, "with --query: do not shorten lists"},
    {OPTS_QUERY_RAW, 0, false, "query-raw", NULL, NULL, H_QUERY,
     "write the state as a binary TracingServiceState message"},

    {OPTS_CLONE, 0, false, "clone", "ID", "", H_CLONE,
     "save a snapshot of session ID; -1 is the one with the best bugreport score"},
    {OPTS_CLONE_BY_NAME, 0, false, "clone-by-name", "NAME", "", H_CLONE,
     "save a snapshot of the session with this unique_session_name"},
    {OPTS_CLONE_FOR_BUGREPORT, 0, false, "clone-for-bugreport", NULL, NULL, H_CLONE,
     "with a clone: do not apply the trace filter of the session"},
    {OPTS_SAVE_FOR_BUGREPORT, 0, false, "save-for-bugreport", NULL, NULL, H_CLONE,
     "save the session with the best bugreport score as $TMPDIR/systrace.pftrace"},
    {OPTS_SAVE_ALL_FOR_BUGREPORT, 0, false, "save-all-for-bugreport", NULL, NULL, H_CLONE,
     "save every session that has a bugreport score, in $TMPDIR"},

    {OPTS_INSPECT, 0, true, "inspect", "FILE", "file", H_READ, "print what is in the trace FILE"},
    {OPTS_TEXT, 0, true, "text", NULL, NULL, H_READ, "with --inspect: all packets as text"},
    {OPTS_JSON, 0, true, "json", NULL, NULL, H_READ,
     "with --inspect: all packets as JSON, one a line"},
    {OPTS_CHECK, 0, true, "check", NULL, NULL, H_READ,
     "with --inspect: exit with 3 if anything is missing or broken"},

    {OPTS_HELP, 'h', false, "help", NULL, NULL, H_MORE, "print this text"},
    {OPTS_VERSION, 0, false, "version", NULL, NULL, H_MORE, "print the version"},
    {OPTS_COMPLETION, 0, true, "completion", "SHELL", "bash|zsh", H_MORE,
     "print the completion script for bash or zsh"},
    {OPTS_ALERT_ID, 0, false, "alert-id", "N", "", H_MORE, "sets statsd_metadata of the config"},
    {OPTS_CONFIG_ID, 0, false, "config-id", "N", "", H_MORE, "the same"},
    {OPTS_CONFIG_UID, 0, false, "config-uid", "N", "", H_MORE, "the same"},
    {OPTS_SUBSCRIPTION_ID, 0, false, "subscription-id", "N", "", H_MORE,
     "the same, and the low half of the trace UUID"},
    {OPTS_NO_GUARDRAILS, 0, false, "no-guardrails", NULL, NULL, H_MORE, "accepted, no effect"},
    {OPTS_RESET_GUARDRAILS, 0, false, "reset-guardrails", NULL, NULL, H_MORE,
     "accepted, no effect"},

    {OPTS_UPLOAD, 0, false, "upload", NULL, NULL, H_ANDROID, "Android only"},
    {OPTS_DROPBOX, 0, false, "dropbox", "TAG", "", H_ANDROID, "Android only"},
    {.name = NULL},
};

const struct opts_def opts_trigger_perfetto[] = {
    {OPTS_HELP, 'h', false, "help", NULL, NULL, H_MORE, "print this text"},
    {OPTS_VERSION, 0, true, "version", NULL, NULL, H_MORE, "print the version"},
    {.name = NULL},
};

void opts_scan_init(struct opts_scan *s, const struct opts_def *table, int argc, char **argv)
{
    memset(s, 0, sizeof(*s));
    s->table = table;
    s->argv = argv;
    s->argc = argc;
    s->at = 1;
    s->posix = getenv("POSIXLY_CORRECT") != NULL;
}

const struct opts_def *opts_find(const struct opts_def *table, enum opts_id id)
{
    for (; table->name != NULL; table++) {
        if (table->id == id)
            return table;
    }
    return NULL;
}

static enum opts_id bad(struct opts_scan *s, const char *fmt, const char *a, const char *b)
{
    (void)snprintf(s->error, sizeof(s->error), fmt, a, b);
    return OPTS_BAD;
}

/* Looks a long name up among the options that are ours or among the others. Returns the number of
 * options found: an exact name counts as the only one. */
static int match_long(const struct opts_def *d, const char *name, size_t len, bool ours,
                      const struct opts_def *found[2])
{
    int n = 0;

    for (; d->name != NULL; d++) {
        if (strncmp(d->name, name, len) != 0)
            continue;
        if (d->name[len] == '\0') {
            found[0] = d;
            return 1;
        }
        if (d->ours == ours && n < 2)
            found[n++] = d;
    }
    return n;
}

static enum opts_id take_long(struct opts_scan *s, const char *word, const char **arg)
{
    const char *name = word + 2;
    size_t len = strcspn(name, "=");
    const struct opts_def *found[2] = {NULL, NULL};
    int n = match_long(s->table, name, len, false, found);

    s->bad = word;
    if (n == 0)
        n = match_long(s->table, name, len, true, found);
    if (n == 0)
        return bad(s, "unrecognized option '%s'%s", word, "");
    if (n > 1) {
        (void)snprintf(s->error, sizeof(s->error), "option '%s' is ambiguous: '--%s', '--%s'", word,
                       found[0]->name, found[1]->name);
        return OPTS_BAD;
    }
    if (found[0]->arg == NULL) {
        if (name[len] == '=')
            return bad(s, "option '--%s' takes no argument%s", found[0]->name, "");
        return found[0]->id;
    }
    if (name[len] == '=') {
        *arg = name + len + 1;
    } else if (s->at < s->argc) {
        *arg = s->argv[s->at++];
    } else {
        return bad(s, "option '--%s' requires an argument: %s", found[0]->name, found[0]->arg);
    }
    return found[0]->id;
}

static enum opts_id take_letter(struct opts_scan *s, const char **arg)
{
    char letter[2] = {*s->cluster++, '\0'};
    const struct opts_def *d = s->table;

    while (d->name != NULL && d->letter != letter[0])
        d++;
    if (d->name == NULL) {
        s->cluster = NULL;
        return bad(s, "invalid option -- '%s'%s", letter, "");
    }
    if (d->arg == NULL) {
        if (*s->cluster == '\0')
            s->cluster = NULL;
        return d->id;
    }
    if (*s->cluster != '\0')
        *arg = s->cluster;
    else if (s->at < s->argc)
        *arg = s->argv[s->at++];
    else
        return s->cluster = NULL,
               bad(s, "option requires an argument -- '%s' (%s)", letter, d->arg);
    s->cluster = NULL;
    return d->id;
}

enum opts_id opts_next(struct opts_scan *s, const char **arg)
{
    const char *word;

    *arg = NULL;
    if (s->cluster != NULL)
        return take_letter(s, arg);
    if (s->at >= s->argc)
        return OPTS_END;
    word = s->argv[s->at++];
    if (!s->words_only && strcmp(word, "--") == 0) {
        s->words_only = s->dashes = true;
        return opts_next(s, arg);
    }
    if (s->words_only || word[0] != '-' || word[1] == '\0') {
        *arg = word;
        if (s->posix)
            s->words_only = true;
        return s->dashes ? OPTS_AFTER_DASHES : OPTS_POSITIONAL;
    }
    if (word[1] == '-')
        return take_long(s, word, arg);
    s->bad = word;
    s->cluster = word + 1;
    return take_letter(s, arg);
}

static const char usage_perfetto[] =
    "usage: perfetto -c, --config FILE|- [--txt] -o, --out FILE|-\n"
    "       perfetto -o FILE [-t TIME] [-b SIZE] [-s SIZE] [CATEGORY|GROUP/EVENT]...\n"
    "       perfetto [OPTIONS] -o FILE -- COMMAND [ARGS]...\n"
    "       perfetto --query | --attach KEY --stop | --clone ID -o FILE\n"
    "       perfetto --inspect FILE [--text|--json|--check]\n";
static const char usage_trigger[] = "usage: trigger_perfetto TRIGGER...\n";

static const char *usage_of(const struct opts_def *table)
{
    return table == opts_perfetto ? usage_perfetto : usage_trigger;
}

void opts_usage(FILE *f, const struct opts_def *table)
{
    const char *prog = table == opts_perfetto ? "perfetto" : "trigger_perfetto";

    fprintf(f, "%s       %s --help lists all options; man %s explains them\n", usage_of(table),
            prog, prog);
}

/* Prints text behind what already fills `at` columns, broken at blanks before column 79 and going
 * on in column HELP_COLUMN. */
#define HELP_COLUMN 29
static void put_wrapped(FILE *f, size_t at, const char *text)
{
    while (*text != '\0') {
        size_t word = strcspn(text, " ");
        if (at < HELP_COLUMN || (at > HELP_COLUMN && at + 1 + word > 79)) {
            fprintf(f, at < HELP_COLUMN ? "%*s" : "\n%*s",
                    at < HELP_COLUMN ? (int)(HELP_COLUMN - at) : HELP_COLUMN, "");
            at = HELP_COLUMN;
        } else if (at > HELP_COLUMN) {
            fputc(' ', f);
            at++;
        }
        fwrite(text, 1, word, f);
        at += word;
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', f);
}

void opts_help(FILE *f, const struct opts_def *table)
{
    const char *heading = "";
    const struct opts_def *d;

    fputs(usage_of(table), f);
    for (d = table; d->name != NULL; d++) {
        char left[64];

        if (strcmp(heading, d->heading) != 0) {
            heading = d->heading;
            fprintf(f, "\n%s:\n", heading);
        }
        (void)snprintf(left, sizeof(left), "%c%c%s --%s%s%s", d->letter ? '-' : ' ',
                       d->letter ? d->letter : ' ', d->letter ? "," : " ", d->name,
                       d->arg ? " " : "", d->arg ? d->arg : "");
        fprintf(f, "  %s", left);
        if (strlen(left) + 3 >= HELP_COLUMN)
            fputc('\n', f);
        put_wrapped(f, strlen(left) + 3 >= HELP_COLUMN ? 0 : strlen(left) + 2, d->help);
    }
    if (table == opts_perfetto) {
        fputs("\nThe config language is described in perfetto-config(5).\n", f);
    } else {
        fputs("\nSends the named triggers to the tracing service; sessions whose trigger_config\n"
              "names one of them start, stop or take a snapshot.\n",
              f);
    }
}

static void completion_bash(FILE *f)
{
    const struct opts_def *d;

    fputs("# bash completion for perfetto; generated by perfetto --completion bash\n"
          "_perfetto()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
          "    COMPREPLY=()\n"
          "    if [[ $cur == --*=* ]]; then\n"
          "        prev=${cur%%=*}\n"
          "        cur=${cur#*=}\n"
          "    elif [[ $cur == = ]]; then\n"
          "        cur=\n"
          "    elif [[ $prev == = && COMP_CWORD -ge 2 ]]; then\n"
          "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
          "    fi\n"
          "    case $prev in\n",
          f);
    for (d = opts_perfetto; d->name != NULL; d++) {
        if (d->arg == NULL)
            continue;
        fprintf(f, "    --%s", d->name);
        if (d->letter)
            fprintf(f, "|-%c", d->letter);
        if (strcmp(d->values, "file") == 0) {
            fputs(")\n        COMPREPLY=($(compgen -f -- \"$cur\"))\n        return ;;\n", f);
        } else {
            fputs(")\n        COMPREPLY=($(compgen -W \"", f);
            for (const char *p = d->values; *p; p++)
                fputc(*p == '|' ? ' ' : *p, f);
            fputs("\" -- \"$cur\"))\n        return ;;\n", f);
        }
    }
    fputs("    esac\n"
          "    if [[ $cur == -* ]]; then\n"
          "        COMPREPLY=($(compgen -W \"",
          f);
    for (d = opts_perfetto; d->name != NULL; d++) {
        fprintf(f, "%s--%s", d == opts_perfetto ? "" : " ", d->name);
        if (d->letter)
            fprintf(f, " -%c", d->letter);
    }
    fputs("\" -- \"$cur\"))\n"
          "    fi\n"
          "}\n"
          "complete -o default -F _perfetto perfetto\n",
          f);
}

/* zsh gives : and [ ] a meaning inside of a specification. */
static void put_zsh(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (strchr(":[]\\", *s))
            fputc('\\', f);
        if (*s == '\'')
            fputs("'\\'", f);
        fputc(*s, f);
    }
}

static void completion_zsh(FILE *f)
{
    const struct opts_def *d;

    fputs("#compdef perfetto\n"
          "# zsh completion for perfetto; generated by perfetto --completion zsh\n"
          "_arguments -s -S \\\n",
          f);
    for (d = opts_perfetto; d->name != NULL; d++) {
        for (int pass = d->letter ? 0 : 1; pass < 2; pass++) {
            if (pass == 0)
                fprintf(f, "  '*-%c[", d->letter);
            else
                fprintf(f, "  '*--%s%s[", d->name, d->arg ? "=" : "");
            put_zsh(f, d->help);
            fputc(']', f);
            if (d->arg != NULL) {
                fputc(':', f);
                put_zsh(f, d->arg);
                fputc(':', f);
                if (strcmp(d->values, "file") == 0)
                    fputs("_files", f);
                else if (d->values[0] != '\0') {
                    fputc('(', f);
                    for (const char *p = d->values; *p; p++)
                        fputc(*p == '|' ? ' ' : *p, f);
                    fputc(')', f);
                }
            }
            fputs("' \\\n", f);
        }
    }
    fputs("  '*:category, event or command:_default'\n", f);
}

bool opts_completion(FILE *f, const char *shell)
{
    if (strcmp(shell, "bash") == 0)
        completion_bash(f);
    else if (strcmp(shell, "zsh") == 0)
        completion_zsh(f);
    else
        return false;
    return true;
}
