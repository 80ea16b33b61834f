/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of traced. The table below is all there is: getopt's list and the help text are made
 * from it. Those that upstream has too behave as there (service.md section 15.1); the rest is ours.
 * Values are checked here, so that a typo ends the program before it has touched a socket.
 */
#include "svc/daemonopt.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "reactor/chrono.h"
#include "reactor/str.h"

enum {
    OPT_VERSION = 256,
    OPT_HELP,
    OPT_BACKGROUND,
    OPT_PERMISSIONS,
    OPT_RELAY,
    OPT_RELAY_ON,
    OPT_IDLE,
    OPT_LOG_FILE,
    OPT_LIMIT_CONNECTIONS,
    OPT_LIMIT_SESSIONS,
    OPT_LIMIT_ALL_SESSIONS,
    OPT_LIMIT_SMB,
    OPT_LIMIT_BUFFERS,
    OPT_LIMIT_QUEUES,
    OPT_LIMIT_FILES,
};

static const struct {
    int id;
    const char *name, *arg, *help;
} table[] = {
    {OPT_BACKGROUND, "background", NULL, "run as a daemon; prints its pid"},
    {OPT_PERMISSIONS, "set-socket-permissions", "PG:PM:CG:CM",
     "group and octal mode of the producer sockets, then of the consumer socket"},
    {OPT_RELAY, "enable-relay-endpoint", NULL, "let relays connect to every producer socket"},
    {OPT_RELAY_ON, "enable-relay-endpoint-on", "SOCKET",
     "let relays connect to this producer socket; repeatable"},
    {OPT_IDLE, "exit-on-idle", "SECONDS", "end after this long without connections and sessions"},
    {OPT_LOG_FILE, "log-file", "FILE", "append the log to a file; SIGHUP opens it anew"},
    {OPT_LIMIT_CONNECTIONS, "limit-connections", "N", "connections of one user"},
    {OPT_LIMIT_SESSIONS, "limit-sessions", "N", "sessions of one user"},
    {OPT_LIMIT_ALL_SESSIONS, "limit-all-sessions", "N", "sessions of all users together"},
    {OPT_LIMIT_SMB, "limit-smb", "BYTES[K|M|G]", "shared memory of one user's producers"},
    {OPT_LIMIT_BUFFERS, "limit-buffers", "BYTES[K|M|G]", "trace buffers of one user's sessions"},
    {OPT_LIMIT_QUEUES, "limit-queues", "BYTES[K|M|G]", "what waits for one user's connections"},
    {OPT_LIMIT_FILES, "limit-files", "N", "files that are being written for one user"},
    {OPT_VERSION, "version", NULL, "print the version"},
    {OPT_HELP, "help", NULL, "print this text"},
};

#define OPTIONS (sizeof(table) / sizeof(table[0]))

static void print_usage(FILE *out)
{
    fputs("usage: traced [OPTIONS]\n", out);
    for (size_t i = 0; i < OPTIONS; i++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", table[i].name, table[i].arg ? " " : "",
                 table[i].arg ? table[i].arg : "");
        fprintf(out, "  %-36s  %s\n", left, table[i].help);
    }
}

bool daemonopt_size(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    char digits[24];
    size_t n = strlen(text);
    const char *unit = n > 0 ? strchr(units, text[n - 1]) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    uint64_t value;
    if (unit)
        n--;
    if (n >= sizeof(digits))
        return false;
    memcpy(digits, text, n);
    digits[n] = '\0';
    if (!str_to_u64(digits, &value) || value > UINT64_MAX >> shift)
        return false;
    *out = value << shift;
    return true;
}

static bool number(const char *text, uint64_t *out)
{
    return str_to_u64(text, out) && *out > 0;
}

static bool set_idle(struct daemonopt *o, const char *text)
{
    uint64_t seconds;
    if (!number(text, &seconds) || seconds > UINT32_MAX)
        return false;
    o->idle_ns = seconds * CHRONO_SEC;
    return true;
}

static bool add_relay(struct daemonopt *o, const char *name)
{
    if (o->nrelay_on == DAEMONOPT_RELAYS)
        return false;
    o->relay_on[o->nrelay_on++] = name;
    return true;
}

/* Takes one option with a value; false when the value is bad. */
static bool take_value(struct daemonopt *o, int id, const char *text)
{
    switch (id) {
    case OPT_PERMISSIONS:
        o->permissions = text;
        return true;
    case OPT_LOG_FILE:
        o->log_file = text;
        return *text != '\0';
    case OPT_RELAY_ON:
        return add_relay(o, text);
    case OPT_IDLE:
        return set_idle(o, text);
    case OPT_LIMIT_CONNECTIONS:
        return number(text, &o->limits[CHARGE_CONNECTIONS].per_uid);
    case OPT_LIMIT_SESSIONS:
        return number(text, &o->limits[CHARGE_SESSIONS].per_uid);
    case OPT_LIMIT_ALL_SESSIONS:
        return number(text, &o->limits[CHARGE_SESSIONS].total);
    case OPT_LIMIT_SMB:
        return daemonopt_size(text, &o->limits[CHARGE_SMB_BYTES].per_uid);
    case OPT_LIMIT_BUFFERS:
        return daemonopt_size(text, &o->limits[CHARGE_BUFFER_BYTES].per_uid);
    case OPT_LIMIT_QUEUES:
        return daemonopt_size(text, &o->limits[CHARGE_QUEUE_BYTES].per_uid);
    case OPT_LIMIT_FILES:
        return number(text, &o->limits[CHARGE_FILES].per_uid);
    default:
        return false;
    }
}

int daemonopt_parse(struct daemonopt *out, int argc, char **argv, const char *version, int *status)
{
    struct daemonopt o = {0};
    struct option longopts[OPTIONS + 1] = {{0}};
    int id, at = 0;
    charge_default_limits(o.limits);
    for (size_t i = 0; i < OPTIONS; i++)
        longopts[i] = (struct option){.name = table[i].name,
                                      .has_arg = table[i].arg ? required_argument : no_argument,
                                      .val = table[i].id};
    *status = 0;
    while ((id = getopt_long(argc, argv, "", longopts, &at)) != -1) {
        if (id == OPT_VERSION) {
            puts(version);
            return 1;
        }
        if (id == OPT_HELP) {
            print_usage(stdout);
            return 1;
        }
        if (id == OPT_BACKGROUND)
            o.background = true;
        else if (id == OPT_RELAY)
            o.relay_everywhere = true;
        else if (id == '?' || !take_value(&o, id, optarg)) {
            if (id != '?')
                fprintf(stderr, "traced: --%s: '%s' is not %s\n", longopts[at].name, optarg,
                        table[at].arg);
            print_usage(stderr);
            *status = 1;
            return 1;
        }
    }
    for (; optind < argc;
         optind++) /* cli.md R830: who starts us with such words expects us to run */
        fprintf(stderr, "traced: '%s' is not an option and is ignored\n", argv[optind]);
    *out = o;
    return 0;
}
