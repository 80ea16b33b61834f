/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_OPTS_H
#define CLI_OPTS_H

/* One table per program says everything about its options: the scanner, --help, the completion
 * scripts and the test of the man page all read it. */

#include <stdbool.h>
#include <stdio.h>

enum opts_id {
    OPTS_HELP,
    OPTS_VERSION,
    OPTS_CONFIG,
    OPTS_TXT,
    OPTS_TXT_LOSSY,
    OPTS_OUT,
    OPTS_NO_CLOBBER,
    OPTS_PRINT_CONFIG,
    OPTS_TIME,
    OPTS_BUFFER,
    OPTS_SIZE,
    OPTS_APP,
    OPTS_BACKGROUND,
    OPTS_BACKGROUND_WAIT,
    OPTS_NOTIFY_FD,
    OPTS_DETACH,
    OPTS_ATTACH,
    OPTS_STOP,
    OPTS_IS_DETACHED,
    OPTS_AUTOSTART,
    OPTS_QUIET,
    OPTS_QUERY,
    OPTS_QUERY_RAW,
    OPTS_LONG,
    OPTS_CLONE,
    OPTS_CLONE_BY_NAME,
    OPTS_CLONE_FOR_BUGREPORT,
    OPTS_SAVE_FOR_BUGREPORT,
    OPTS_SAVE_ALL_FOR_BUGREPORT,
    OPTS_INSPECT,
    OPTS_TEXT,
    OPTS_JSON,
    OPTS_CHECK,
    OPTS_ADD_ATTRIBUTE,
    OPTS_ALERT_ID,
    OPTS_CONFIG_ID,
    OPTS_CONFIG_UID,
    OPTS_SUBSCRIPTION_ID,
    OPTS_NO_GUARDRAILS,
    OPTS_RESET_GUARDRAILS,
    OPTS_UPLOAD,
    OPTS_DROPBOX,
    OPTS_COMPLETION,
    OPTS_COUNT, /* number of options above */

    OPTS_POSITIONAL,   /* a word that is no option; the argument is the word */
    OPTS_AFTER_DASHES, /* the same, behind "--" */
    OPTS_END,          /* nothing left */
    OPTS_BAD           /* unknown, ambiguous, or without its argument: see opts_scan.error */
};

struct opts_def {
    enum opts_id id;
    char letter;      /* short name, 0 for none */
    bool ours;        /* upstream does not have it: never shadows a prefix that upstream accepts */
    const char *name; /* long name without dashes */
    const char *arg;  /* name of the argument for people, NULL for a flag */
    const char *values;  /* for completion: "file", "dir", "key", or words separated by "|" */
    const char *heading; /* of the help text; the same for neighbours */
    const char *help;
};

/* Both tables end with an entry whose name is NULL. */
extern const struct opts_def opts_perfetto[];
extern const struct opts_def opts_trigger_perfetto[];

/* Embedded by value; borrows argv. */
struct opts_scan {
    const struct opts_def *table;
    char **argv;
    int argc, at;
    const char *cluster; /* rest of "-dD", or NULL */
    bool words_only;     /* behind "--" */
    bool dashes;         /* "--" was seen */
    bool posix;          /* POSIXLY_CORRECT: options end at the first word */
    char error[256];     /* text of the last OPTS_BAD, one line without newline */
    const char *bad;     /* the word of the last OPTS_BAD */
};

void opts_scan_init(struct opts_scan *s, const struct opts_def *table, int argc, char **argv);

/* The next option or word, as GNU getopt_long delivers them (R101): "--name value", "--name=value",
 * unambiguous prefixes, an exact name before longer ones, clusters of letters. *arg is the argument
 * or the word, NULL for a flag; it points into argv. */
enum opts_id opts_next(struct opts_scan *s, const char **arg);

/* The entry of an option, NULL if the table lacks it. */
const struct opts_def *opts_find(const struct opts_def *table, enum opts_id id);

/* The whole usage text: usage lines, then all options under their headings. */
void opts_help(FILE *f, const struct opts_def *table);

/* The few lines that follow a mistake. */
void opts_usage(FILE *f, const struct opts_def *table);

/* A completion script for `shell` ("bash" or "zsh"); false if there is none for it. */
bool opts_completion(FILE *f, const char *shell);

#endif
