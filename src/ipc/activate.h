/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_ACTIVATE_H
#define IPC_ACTIVATE_H

/*
 * Being started by somebody, and starting somebody: inherited sockets and readiness, by the
 * protocols of systemd (LISTEN_FDS, NOTIFY_SOCKET), of Android's init (ANDROID_SOCKET_*) and of the
 * tracing programs themselves (TRACED_NOTIFY_FD), without any library.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ACTIVATE_FDS_MAX  32 /* inherited sockets beyond this are refused */
#define ACTIVATE_NAME_MAX 64

/* The names by which our units and our children know their sockets (LISTEN_FDNAMES). */
#define ACTIVATE_PRODUCER "producer"
#define ACTIVATE_CONSUMER "consumer"

/* ---- inherited sockets ---- */

struct activate_fd {
    int fd; /* own until taken */
    bool taken;
    char name[ACTIVATE_NAME_MAX]; /* "unknown" when LISTEN_FDNAMES has none */
};

/* Embedded by value. */
struct activate_set {
    size_t count;
    struct activate_fd fds[ACTIVATE_FDS_MAX];
};

/* Collects descriptors 3.. that LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES announce for this
 * process, makes them close-on-exec and non-blocking, and removes the variables from the
 * environment so that children do not believe them. Without them, or when they name another
 * process: an empty set. 0, or -EINVAL / -EBADF / -ENOTSOCK / -E2BIG with one line in err (set
 * stays empty). */
int activate_collect(struct activate_set *set, char *err, size_t errlen);

/* The next untaken descriptor of that name: the exact name, or a systemd default name that holds it
 * ("traced-producer.socket" holds "producer"). The caller owns it. -ENOENT when there is none. */
int activate_take(struct activate_set *set, const char *name);

/* Closes what nobody took; returns how many that were. */
size_t activate_fini(struct activate_set *set);

/* ANDROID_SOCKET_traced_producer and ANDROID_SOCKET_traced_consumer (section 1.3): both or neither.
 * 1 and the two bound sockets (caller owns; listen is still to be called) / 0 when neither is set /
 * -EINVAL or -EBADF with a line in err. */
int activate_android(int *producer, int *consumer, char *err, size_t errlen);

/* ---- readiness ---- */

/* Sends one datagram to NOTIFY_SOCKET (a path, or "@name" in the abstract space): lines such as
 * "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=text". Never blocks.
 * 1 sent, 0 when nobody asked (variable unset), -errno. */
int activate_notify(const char *state);
int activate_notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Says "ready": READY=1 to NOTIFY_SOCKET, and the byte '1' to the descriptor in the variable fdvar
 * ("TRACED_NOTIFY_FD", ...), which is then closed and the variable removed (section 1.3). A
 * malformed or broken descriptor is -errno with a line in err. 0 also when nobody asked. */
int activate_ready(const char *fdvar, char *err, size_t errlen);

/* How often the manager wants WATCHDOG=1, in ns: half of WATCHDOG_USEC, 0 when it does not want it
 * or WATCHDOG_PID is another process. */
uint64_t activate_watchdog_ns(void);

/* ---- starting a child with sockets of its own ---- */

struct activate_spawn {
    const char *program; /* borrow: path, or a name looked up in PATH */
    char *const *argv;   /* borrow: NULL-terminated, argv[0] included */
    char *const
        *extra_env; /* borrow: NULL-terminated "NAME=value" list that overrides ours, or NULL */
    const int *fds; /* borrow: become 3, 4, ... in the child (blocking state is kept) */
    const char *const *fd_names;        /* borrow: one per fd, without ':' */
    size_t fd_count;                    /* at most ACTIVATE_FDS_MAX; 0: no LISTEN_* at all */
    int stdin_fd, stdout_fd, stderr_fd; /* borrow: -1 is /dev/null, -2 is ours */
    const char *ready_var; /* borrow: e.g. "TRACED_NOTIFY_FD", or NULL: no readiness pipe */
    int death_signal;      /* sent to the child when the calling *thread* ends; 0: none */
    bool new_group; /* a process group of its own: Ctrl-C in the terminal does not reach it */
};

/* Starts the program with LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES set for it, all other
 * descriptors closed and signal mask and dispositions reset. A failing exec is reported here, not
 * by an exit code. *pid gets the child; *ready_fd (may be NULL without ready_var) gets the read end
 * of the readiness pipe, non-blocking, caller owns: it yields "1" when ready, end-of-file alone
 * when the child gave up. 0 or -errno with a line in err. */
int activate_start(const struct activate_spawn *spawn, pid_t *pid, int *ready_fd, char *err,
                   size_t errlen);

#endif
