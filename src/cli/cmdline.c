/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of `perfetto`.
 *
 * Options act from left to right while they are scanned, some at once (R102, R203). Then the
 * combinations are checked in the order that scripts have come to know: of two mistakes the earlier
 * rule is reported (R251), so the tables below are in rule order. What is left is one action with
 * its parameters.
 *
 * Owned here: the made-up output path and the three arrays; everything else is borrowed from argv.
 */
#include "cli/cmdline.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/opts.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/str.h"
#include "reactor/version.h"

#define CODE_HARNESS_FAILED 125

/* Facts of a command line, for the table of exclusions. */
enum {
    B_QUERY = 1 << 0,
    B_DETACH = 1 << 1,
    B_ATTACH = 1 << 2,
    B_IS_DETACHED = 1 << 3,
    B_BG = 1 << 4,
    B_BG_WAIT = 1 << 5,
    B_LONG = 1 << 6,
    B_TXT = 1 << 7,
    B_LOSSY = 1 << 8,
    B_STOP = 1 << 9,
    B_SAVE = 1 << 10,
    B_SAVE_ALL = 1 << 11,
    B_LIGHT = 1 << 12,
    B_CLONE_ID = 1 << 13,
    B_CLONE_NAME = 1 << 14,
    B_CLONE_BUG = 1 << 15,
    B_CLONE = 1 << 16, /* any, the implicit one of --save-for-bugreport included */
    B_CONFIG = 1 << 17,
    B_OUT = 1 << 18,
    B_INSPECT = 1 << 19,
    B_FORMAT = 1 << 20,
    B_PRINT = 1 << 21,
    B_AUTOSTART = 1 << 22,
    B_COMMAND = 1 << 23,
    B_NO_CLOBBER = 1 << 24,
};

#define B_ANY_ATTACH (B_ATTACH | B_IS_DETACHED)
#define B_ANY_BG     (B_BG | B_BG_WAIT)
#define B_ANY_SAVE   (B_SAVE | B_SAVE_ALL)
#define B_NOT_RECORD (B_QUERY | B_ANY_ATTACH | B_ANY_SAVE | B_CLONE)

struct exclusion {
    unsigned a, b; /* some of a together with some of b */
    bool unless;   /* some of a without any of b, instead */
    const char *text;
};

/* R220..R230, then what only we have. */
static const struct exclusion exclusions[] = {
    {B_QUERY, B_DETACH | B_ANY_ATTACH | B_ANY_BG, false,
     "--query cannot be combined with --detach, --attach, --is_detached or --background"},
    {B_LONG, B_QUERY, true, "--long needs --query"},
    {B_DETACH, B_ANY_ATTACH, false,
     "--detach cannot be combined with --attach or --is_detached: it starts a session"},
    {B_TXT, B_LOSSY, false, "--txt and --txt-lossy exclude each other"},
    {B_DETACH, B_ANY_BG, false,
     "--detach cannot be combined with --background: a detached session needs no process"},
    {B_STOP, B_ANY_ATTACH, true, "--stop is supported only in combination with --attach"},
    {B_ANY_SAVE, B_ANY_ATTACH | B_DETACH | B_QUERY | B_LIGHT | B_BG_WAIT, false,
     "--save-for-bugreport and --save-all-for-bugreport save running sessions and cannot be "
     "combined with options that start, attach to or query one"},
    {B_CLONE_ID, B_CLONE_NAME, false, "--clone and --clone-by-name exclude each other"},
    {B_CLONE_BUG, B_CLONE, true, "--clone-for-bugreport needs --clone or --clone-by-name"},
    {B_ANY_ATTACH | B_QUERY | B_SAVE_ALL, B_CONFIG | B_LIGHT, false,
     "Cannot specify a trace config with --attach, --is_detached, --query or "
     "--save-all-for-bugreport"},
    {B_LIGHT, B_CONFIG, false,
     "Cannot specify both -c/--config and light options (-t, -b, -s, -a, events or categories)"},
    {B_FORMAT, B_INSPECT, true, "--text, --json and --check need --inspect FILE"},
    {B_INSPECT,
     B_NOT_RECORD | B_DETACH | B_ANY_BG | B_LIGHT | B_CONFIG | B_OUT | B_PRINT | B_AUTOSTART |
         B_COMMAND,
     false, "--inspect only reads a trace and cannot be combined with options that record"},
    {B_PRINT, B_NOT_RECORD | B_DETACH | B_ANY_BG | B_OUT | B_AUTOSTART | B_COMMAND, false,
     "--print-config only prints the config; leave out --out and options that record"},
    {B_AUTOSTART, B_NOT_RECORD | B_DETACH, false,
     "--autostart starts a service for one recording; it cannot be combined with options that look "
     "at other sessions, or with --detach"},
    {B_COMMAND, B_NOT_RECORD | B_DETACH | B_ANY_BG, false,
     "a command after -- is recorded while it runs; it cannot be combined with --detach, "
     "--background or options that look at other sessions"},
};

static int complain(const char *fmt, ...)
{
    va_list ap;

    fputs("perfetto: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return 1;
}

/* ---- scan ---- */

struct scan {
    struct cmdline *cl;
    unsigned set; /* B_... */
    const char *out, *detach, *attach, *is_detached;
    char **after;        /* first word behind "--" in argv */
    size_t n_before;     /* words before it */
    bool inspect_format; /* --inspect --text FILE: the option's value was a format */
};

static int need_number(const char *option, const char *text, int64_t min, int64_t max, int64_t *out)
{
    int64_t v = 0;

    if (!str_to_i64(text, &v) || v < min || v > max)
        return complain("invalid value for %s: '%s' is not a whole number in its range", option,
                        text);
    *out = v;
    return CMDLINE_GO_ON;
}

static int need_key(const char *option, const char *text, const char **out)
{
    if (*text == '\0')
        return complain("%s needs a key that is not empty, such as %s=session1", option, option);
    *out = text;
    return CMDLINE_GO_ON;
}

static int take_config(struct scan *s, const char *arg)
{
    char err[512];

    if (traceconf_read(&s->cl->conf, arg, err, sizeof(err)) != 0)
        return complain("%s", err);
    return CMDLINE_GO_ON;
}

static int take_attribute(struct scan *s, const char *arg)
{
    struct traceconf_extras *x = &s->cl->extras;

    if (*arg == '\0' || *arg == '=')
        return complain("invalid value for --add-attribute: '%s'; the key of KEY=VALUE is empty",
                        arg);
    s->cl->attributes[x->n_attributes++] = arg;
    return CMDLINE_GO_ON;
}

static int take_notify_fd(struct scan *s, const char *arg)
{
    int64_t v = 0;
    int rc = need_number("--notify-fd", arg, INT32_MIN, INT32_MAX, &v);

    if (rc != CMDLINE_GO_ON)
        return rc;
    if (v >= 0 && fcntl((int)v, F_GETFD) < 0)
        return complain("--notify-fd %lld: that descriptor is not open", (long long)v);
    s->cl->notify_fd = v < 0 ? -1 : (int)v;
    return CMDLINE_GO_ON;
}

static int take_clone_id(struct scan *s, const char *arg)
{
    uint64_t id;

    s->set |= B_CLONE_ID;
    if (strcmp(arg, "-1") == 0)
        id = UINT64_MAX;
    else if (!str_to_u64(arg, &id) || id == 0)
        return complain("invalid value for --clone: '%s'; give a session id as perfetto --query "
                        "shows it, or -1 for the best bugreport score",
                        arg);
    s->cl->clone_id = id;
    return CMDLINE_GO_ON;
}

static int take_id(const char *option, const char *arg, int64_t *out)
{
    return need_number(option, arg, INT64_MIN, INT64_MAX, out);
}

/* What people type is `--inspect --check FILE` as often as `--inspect FILE --check`. */
static bool take_format(struct scan *s, const char *arg)
{
    static const struct {
        const char *name;
        enum cmdline_format format;
    } known[] = {{"--text", CMDLINE_TEXT}, {"--json", CMDLINE_JSON}, {"--check", CMDLINE_CHECK}};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(arg, known[i].name) == 0) {
            s->cl->format = known[i].format;
            s->set |= B_FORMAT;
            return true;
        }
    }
    return false;
}

/* Options with an argument. */
static int take_value(struct scan *s, enum opts_id id, const char *arg)
{
    struct cmdline *cl = s->cl;
    int64_t v = 0;
    int rc;

    switch (id) {
    case OPTS_CONFIG:
        return take_config(s, arg);
    case OPTS_OUT:
        s->out = arg;
        break;
    case OPTS_TIME:
        cl->light.time = arg;
        s->set |= B_LIGHT;
        break;
    case OPTS_BUFFER:
        cl->light.buffer = arg;
        s->set |= B_LIGHT;
        break;
    case OPTS_SIZE:
        cl->light.size = arg;
        s->set |= B_LIGHT;
        break;
    case OPTS_APP:
        cl->apps[cl->light.n_apps++] = arg;
        s->set |= B_LIGHT;
        break;
    case OPTS_NOTIFY_FD:
        return take_notify_fd(s, arg);
    case OPTS_DETACH:
        return need_key("--detach", arg, &s->detach);
    case OPTS_ATTACH:
        return need_key("--attach", arg, &s->attach);
    case OPTS_IS_DETACHED:
        return need_key("--is_detached", arg, &s->is_detached);
    case OPTS_CLONE:
        return take_clone_id(s, arg);
    case OPTS_CLONE_BY_NAME:
        cl->clone_name = arg;
        s->set |= B_CLONE_NAME;
        break;
    case OPTS_ADD_ATTRIBUTE:
        return take_attribute(s, arg);
    case OPTS_ALERT_ID:
        return take_id("--alert-id", arg, &cl->extras.alert_id);
    case OPTS_CONFIG_ID:
        return take_id("--config-id", arg, &cl->extras.config_id);
    case OPTS_SUBSCRIPTION_ID:
        return take_id("--subscription-id", arg, &cl->extras.subscription_id);
    case OPTS_CONFIG_UID:
        rc = need_number("--config-uid", arg, INT32_MIN, INT32_MAX, &v);
        if (rc == CMDLINE_GO_ON)
            cl->extras.config_uid = (int32_t)v;
        return rc;
    case OPTS_INSPECT:
        cl->inspect = arg;
        s->set |= B_INSPECT;
        s->inspect_format = take_format(s, arg);
        break;
    case OPTS_COMPLETION:
        if (opts_completion(stdout, arg))
            return 0;
        return complain("no completion script for '%s'; there is one for bash and for zsh", arg);
    default:
        return complain("--dropbox is for Android; on Linux write the trace with --out FILE");
    }
    return CMDLINE_GO_ON;
}

static int take_flag(struct scan *s, enum opts_id id)
{
    static const struct {
        enum opts_id id;
        unsigned bit;
    } bits[] = {
        {OPTS_TXT, B_TXT},
        {OPTS_TXT_LOSSY, B_LOSSY},
        {OPTS_NO_CLOBBER, B_NO_CLOBBER},
        {OPTS_PRINT_CONFIG, B_PRINT},
        {OPTS_BACKGROUND, B_BG},
        {OPTS_BACKGROUND_WAIT, B_BG | B_BG_WAIT},
        {OPTS_STOP, B_STOP},
        {OPTS_AUTOSTART, B_AUTOSTART},
        {OPTS_QUERY, B_QUERY},
        {OPTS_QUERY_RAW, B_QUERY},
        {OPTS_LONG, B_LONG},
        {OPTS_CLONE_FOR_BUGREPORT, B_CLONE_BUG},
        {OPTS_SAVE_FOR_BUGREPORT, B_SAVE},
        {OPTS_SAVE_ALL_FOR_BUGREPORT, B_SAVE_ALL},
        {OPTS_TEXT, B_FORMAT},
        {OPTS_JSON, B_FORMAT},
        {OPTS_CHECK, B_FORMAT},
    };
    struct cmdline *cl = s->cl;

    for (size_t i = 0; i < sizeof(bits) / sizeof(*bits); i++) {
        if (bits[i].id == id)
            s->set |= bits[i].bit;
    }
    switch (id) {
    case OPTS_HELP:
        opts_help(stdout, opts_perfetto);
        return 0;
    case OPTS_VERSION:
        puts(VERSION_TEXT);
        return 0;
    case OPTS_RESET_GUARDRAILS:
        fputs("perfetto: there are no guardrails to reset any more\n", stderr);
        return 0;
    case OPTS_UPLOAD:
        return complain("--upload is for Android; on Linux write the trace with --out FILE");
    case OPTS_QUIET:
        cl->quiet = true;
        break;
    case OPTS_QUERY_RAW:
        cl->query_raw = true;
        break;
    case OPTS_TEXT:
        cl->format = CMDLINE_TEXT;
        break;
    case OPTS_JSON:
        cl->format = CMDLINE_JSON;
        break;
    case OPTS_CHECK:
        cl->format = CMDLINE_CHECK;
        break;
    default:
        break;
    }
    return CMDLINE_GO_ON;
}

static int scan_all(struct scan *s, int argc, char **argv)
{
    struct opts_scan o;
    enum opts_id id;
    const char *arg;
    int rc;

    opts_scan_init(&o, opts_perfetto, argc, argv);
    while ((id = opts_next(&o, &arg)) != OPTS_END) {
        if (id == OPTS_BAD) {
            complain("%s", o.error);
            opts_usage(stderr, opts_perfetto);
            return 1;
        }
        if (id == OPTS_POSITIONAL || id == OPTS_AFTER_DASHES) {
            if (id == OPTS_AFTER_DASHES && s->after == NULL) {
                s->after = argv + o.at - 1;
                s->n_before = s->cl->light.n_words;
            }
            s->cl->words[s->cl->light.n_words++] = arg;
            continue;
        }
        rc = arg != NULL ? take_value(s, id, arg) : take_flag(s, id);
        if (rc != CMDLINE_GO_ON)
            return rc;
    }
    return CMDLINE_GO_ON;
}

/* ---- harness mode ---- */

static bool in_path(const char *name)
{
    const char *path = getenv("PATH");
    char file[4096];

    for (; path != NULL && *path != '\0'; path += *path == ':') {
        size_t n = strcspn(path, ":");
        (void)snprintf(file, sizeof(file), "%.*s/%s", (int)n, path, name);
        if (n > 0 && access(file, X_OK) == 0)
            return true;
        path += n;
    }
    return false;
}

/* Behind "--" stands a command, or, as upstream has it (R101), more events and categories. It is a
 * command if the first word is a path that starts like one or exists, or a program in PATH. */
static bool is_command(const char *word)
{
    if (word[0] == '-')
        return false;
    if (word[0] == '/' || strncmp(word, "./", 2) == 0 || strncmp(word, "../", 3) == 0)
        return true;
    if (strchr(word, '/') != NULL)
        return access(word, X_OK) == 0;
    return in_path(word);
}

static void find_command(struct scan *s)
{
    struct cmdline *cl = s->cl;

    if (s->after == NULL)
        return;
    if (is_command(*s->after)) {
        cl->command = s->after;
        cl->light.n_words = s->n_before;
        cl->light.harness = true;
        s->set |= B_COMMAND;
    } else if (s->n_before == 0 && strchr(*s->after, '/') == NULL) {
        fprintf(stderr,
                "perfetto: '%s' is no program in PATH, so it is taken as a category to record\n",
                *s->after);
    }
}

/* ---- checks ---- */

static int check_exclusions(unsigned set)
{
    for (size_t i = 0; i < sizeof(exclusions) / sizeof(*exclusions); i++) {
        const struct exclusion *x = &exclusions[i];
        if ((set & x->a) && ((set & x->b) == 0) == x->unless)
            return complain("%s", x->text);
    }
    return CMDLINE_GO_ON;
}

static int load_config(struct scan *s)
{
    struct cmdline *cl = s->cl;
    char err[512];
    struct bytesbuf b;
    int rc;

    if (s->set & (B_LIGHT | B_COMMAND) && !(s->set & B_CONFIG)) {
        bytesbuf_init(&b, TRACECONF_MAX);
        rc = light_config(&cl->light, &b, err, sizeof(err));
        if (rc == 0)
            rc = traceconf_set(&cl->conf, bytesbuf_view(&b), err, sizeof(err));
        bytesbuf_fini(&b);
        if (rc != 0)
            complain("%s", err);
        return rc == 0 ? CMDLINE_GO_ON : complain("the trace config is invalid");
    }
    if (!(s->set & B_CONFIG)) {
        if (s->set & B_CLONE)
            return CMDLINE_GO_ON;
        if (s->set & B_SAVE)
            return complain("TraceConfig is empty: --save-for-bugreport chooses its own file; to "
                            "choose one, use --clone -1 --out FILE");
        return complain("TraceConfig is empty: give -c FILE, or light options such as -t 5s "
                        "sched/sched_switch");
    }
    if (s->set & (B_TXT | B_LOSSY))
        rc = traceconf_parse_text(&cl->conf, s->set & B_LOSSY, err, sizeof(err));
    else
        rc = traceconf_parse_binary(&cl->conf, err, sizeof(err));
    if (rc != 0 && s->set & B_CLONE)
        return CMDLINE_GO_ON;
    return rc == 0 ? CMDLINE_GO_ON : complain("%s", err);
}

/* R233..R240; only for actions that use a config. */
static int check_config(struct scan *s)
{
    struct cmdline *cl = s->cl;
    const struct traceconf_facts *f = &cl->conf.facts;
    char path[4096];

    if (f->has_min_delay != f->has_max_delay)
        return complain("cmd_trace_start_delay of the config needs both min_delay_ms and "
                        "max_delay_ms");
    if (f->has_min_delay && f->min_delay_ms > f->max_delay_ms)
        return complain("cmd_trace_start_delay of the config: min_delay_ms is above max_delay_ms");
    if (f->incident_report || f->android_report)
        return complain("Reports (incident_report_config, android_report_config) need --upload, "
                        "which is for Android; remove them from the config");
    if (f->output_path.n > 0 && s->set & B_OUT)
        return complain("the config sets output_path, so that the service opens the file: leave "
                        "out --out, or remove output_path");
    if (f->output_path.n > 0 && f->output_path.n < sizeof(path)) {
        memcpy(path, f->output_path.p, f->output_path.n);
        path[f->output_path.n] = '\0';
        if (access(path, F_OK) == 0)
            return complain("output_path %s of the config exists already; remove the file, or "
                            "change output_path",
                            path);
    }
    return CMDLINE_GO_ON;
}

static int check_output(struct scan *s)
{
    struct cmdline *cl = s->cl;
    const struct traceconf_facts *f = &cl->conf.facts;
    bool by_service = f->write_into_file && f->output_path.n > 0;

    if (s->set & (B_ANY_ATTACH | B_QUERY | B_SAVE_ALL)) {
        if (s->set & B_OUT)
            return complain("--attach, --is_detached, --query and --save-all-for-bugreport take no "
                            "--out");
        return CMDLINE_GO_ON;
    }
    if (s->set & (B_PRINT | B_INSPECT) || f->n_activate_triggers > 0 ||
        (by_service && !(s->set & B_CLONE)))
        return CMDLINE_GO_ON;
    if (s->set & B_COMMAND && s->set & B_OUT && strcmp(s->out, "-") == 0)
        return complain("--out - would mix the trace with the output of the command; give a file");
    if (cl->out_own == NULL && !(s->set & B_OUT))
        return complain("Either --out or --upload is required: give -o FILE, or -o - for stdout");
    cl->out = cl->out_own ? cl->out_own : s->out;
    return CMDLINE_GO_ON;
}

static int check_detach(const struct scan *s)
{
    if (s->set & B_DETACH && !s->cl->conf.facts.write_into_file)
        return complain(
            "--detach needs write_into_file: true in the config (or --size in the light "
            "form), as nobody is there to read the trace later");
    return CMDLINE_GO_ON;
}

char *cmdline_tmp_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    size_t n;

    if (tmp == NULL || *tmp == '\0')
        return alloc_strdup("/tmp");
    n = strlen(tmp);
    return alloc_strndup(tmp, n > 1 && tmp[n - 1] == '/' ? n - 1 : n);
}

/* What the scan has found, as bits; and the implicit clone of --save-for-bugreport (R253, R730). */
static void derive(struct scan *s)
{
    struct cmdline *cl = s->cl;
    char *dir;

    s->set |= s->detach ? B_DETACH : 0;
    s->set |= s->attach ? B_ATTACH : 0;
    s->set |= s->is_detached ? B_IS_DETACHED : 0;
    if (s->inspect_format && cl->light.n_words > 0)
        cl->inspect = cl->words[--cl->light.n_words];
    s->set |= cl->light.n_words > 0 ? B_LIGHT : 0;
    s->set |= traceconf_has_input(&cl->conf) ? B_CONFIG : 0;
    s->set |= s->out != NULL && *s->out != '\0' ? B_OUT : 0;
    if (s->set & (B_CLONE_ID | B_CLONE_NAME))
        s->set |= B_CLONE;
    if (s->set & B_SAVE && !(s->set & B_OUT)) {
        s->set |= B_CLONE;
        cl->clone_id = UINT64_MAX;
        cl->clone_for_bugreport = true;
        dir = cmdline_tmp_dir();
        cl->out_own = str_format("%s/systrace.pftrace", dir);
        free(dir);
    }
    cl->light.words = cl->words;
    cl->light.apps = cl->apps;
    cl->extras.attributes = cl->attributes;
    cl->no_clobber = s->set & B_NO_CLOBBER;
    cl->background = s->set & B_BG;
    cl->background_wait = s->set & B_BG_WAIT;
    cl->stop = s->set & B_STOP;
    cl->query_long = s->set & B_LONG;
    cl->clone_for_bugreport |= (s->set & B_CLONE_BUG) != 0;
    cl->autostart = s->set & B_AUTOSTART;
    cl->key = s->detach ? s->detach : s->attach ? s->attach : s->is_detached;
}

static enum cmdline_action action_of(const struct scan *s)
{
    if (s->set & B_INSPECT)
        return CMDLINE_INSPECT;
    if (s->set & B_PRINT)
        return CMDLINE_PRINT_CONFIG;
    if (s->set & B_QUERY)
        return CMDLINE_QUERY;
    if (s->set & B_SAVE_ALL)
        return CMDLINE_SAVE_ALL;
    if (s->is_detached)
        return CMDLINE_IS_DETACHED;
    if (s->attach)
        return CMDLINE_ATTACH;
    if (s->set & B_CLONE)
        return CMDLINE_CLONE;
    if (s->cl->conf.facts.n_activate_triggers > 0)
        return CMDLINE_TRIGGERS;
    return s->detach ? CMDLINE_DETACH : CMDLINE_RECORD;
}

static int check(struct scan *s)
{
    int rc;

    find_command(s);
    derive(s);
    rc = check_exclusions(s->set);
    if (rc == CMDLINE_GO_ON && !(s->set & (B_ANY_ATTACH | B_QUERY | B_SAVE_ALL | B_INSPECT))) {
        rc = load_config(s);
        if (rc == CMDLINE_GO_ON && !(s->set & B_CLONE))
            rc = check_config(s);
    }
    if (rc == CMDLINE_GO_ON)
        rc = check_output(s);
    if (rc == CMDLINE_GO_ON)
        rc = check_detach(s);
    s->cl->action = action_of(s);
    return rc;
}

/* For command lines that fail before the command is known. */
static bool wants_command(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--") == 0)
            return is_command(argv[i + 1]);
    }
    return false;
}

int cmdline_parse(struct cmdline *cl, int argc, char **argv)
{
    struct scan s = {.cl = cl};
    size_t n = (size_t)argc + 1;
    int rc;

    memset(cl, 0, sizeof(*cl));
    traceconf_init(&cl->conf);
    cl->notify_fd = -1;
    cl->words = alloc_array(n, sizeof(*cl->words));
    cl->apps = alloc_array(n, sizeof(*cl->apps));
    cl->attributes = alloc_array(n, sizeof(*cl->attributes));
    if (argc <= 1) {
        opts_usage(stderr, opts_perfetto);
        return 1;
    }
    rc = scan_all(&s, argc, argv);
    if (rc == CMDLINE_GO_ON)
        rc = check(&s);
    /* where a command was to run, 1 would be taken for its status */
    return rc == 1 && (cl->command != NULL || wants_command(argc, argv)) ? CODE_HARNESS_FAILED : rc;
}

void cmdline_fini(struct cmdline *cl)
{
    traceconf_fini(&cl->conf);
    free(cl->out_own);
    free(cl->words);
    free(cl->apps);
    free(cl->attributes);
}
