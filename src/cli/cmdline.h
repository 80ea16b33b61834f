/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_CMDLINE_H
#define CLI_CMDLINE_H

/* What a command line of `perfetto` asks for, after all its checks (rules R201..R254). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/light.h"
#include "cli/traceconf.h"

/* What is to be done. */
enum cmdline_action {
    CMDLINE_RECORD,
    CMDLINE_DETACH,
    CMDLINE_ATTACH,
    CMDLINE_IS_DETACHED,
    CMDLINE_TRIGGERS, /* the config only sends triggers (R720) */
    CMDLINE_CLONE,
    CMDLINE_SAVE_ALL,
    CMDLINE_QUERY,
    CMDLINE_PRINT_CONFIG,
    CMDLINE_INSPECT
};

enum cmdline_format { CMDLINE_SUMMARY, CMDLINE_TEXT, CMDLINE_JSON, CMDLINE_CHECK };

/* Texts are borrowed from argv or from the environment unless marked. */
struct cmdline {
    enum cmdline_action action;
    struct traceconf conf; /* parsed; not for attach, query, save-all, inspect */
    struct traceconf_extras extras;

    const char *out; /* NULL: none is opened (R501) */
    char *out_own;   /* own: what `out` points to if it was made up here */
    bool no_clobber, quiet;

    bool background, background_wait;
    int notify_fd; /* -1: none */

    const char *key; /* of detach, attach, is_detached */
    bool stop;

    bool query_raw, query_long;

    uint64_t clone_id;      /* 0: by name */
    const char *clone_name; /* NULL: by id */
    bool clone_for_bugreport;

    const char *inspect;
    enum cmdline_format format;

    bool autostart;
    char **command; /* harness mode: a tail of argv; NULL otherwise */

    struct light light;                       /* as given; n_words and so on are filled */
    const char **words, **apps, **attributes; /* own: arrays, one slot per word of argv */
};

#define CMDLINE_GO_ON (-1)

/* Reads the command line, and the configs that it names, and checks everything that can be checked
 * before the output is opened. Prints what is to be printed. CMDLINE_GO_ON, or the exit code. */
int cmdline_parse(struct cmdline *cl, int argc, char **argv);

void cmdline_fini(struct cmdline *cl);

/* The folder for bugreports: $TMPDIR without its last slash, or /tmp (R730). Own the result. */
char *cmdline_tmp_dir(void);

#endif
