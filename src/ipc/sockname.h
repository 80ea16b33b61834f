/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_SOCKNAME_H
#define IPC_SOCKNAME_H

/*
 * Socket addresses as people write them: parsing, defaults, environment, bind and connect.
 *
 * An address is a string; its family follows from its shape (R1). All sockets made here are
 * SOCK_STREAM, close-on-exec and non-blocking (R8).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Longest address text, terminator included. AF_UNIX names stop at 106 characters anyway (R5); this
 * bounds host names of TCP addresses. */
#define SOCKNAME_TEXT_MAX 280

/* Every error text of this folder fits here; longer ones are cut. */
#define SOCKNAME_ERR_MAX 512

enum sockname_family {
    SOCKNAME_NONE,     /* empty text: listen and connect always fail */
    SOCKNAME_PATH,     /* AF_UNIX, filesystem */
    SOCKNAME_ABSTRACT, /* AF_UNIX, "@name" */
    SOCKNAME_VSOCK,    /* "vsock://CID:PORT" */
    SOCKNAME_INET,     /* "host:port" */
    SOCKNAME_INET6,    /* "[host]:port" */
};

struct sockname {
    enum sockname_family family;
    socklen_t addrlen;
    struct sockaddr_storage addr; /* what bind and connect get; valid for addrlen bytes */
    char text[SOCKNAME_TEXT_MAX]; /* as written */
};

/* The family a text selects, by the ordered tests of R1 and R2. Never fails. */
enum sockname_family sockname_family_of(const char *text);

/* A word for messages: "unix", "abstract unix", "vsock", "tcp", "tcp6", "none". */
const char *sockname_family_name(enum sockname_family family);

/* True for the two AF_UNIX families: credentials (R70) and descriptor passing (R63) work there. */
bool sockname_is_unix(enum sockname_family family);

/* Parses text into *out. TCP host names are resolved here and may block in the resolver, numeric
 * ones never do (R7); nothing else blocks.
 * 0, or -EINVAL (empty, malformed), -ENAMETOOLONG (R5), -EADDRNOTAVAIL (host unknown); then err,
 * if not NULL, holds one line that names the text and the remedy, and *out is untouched. */
int sockname_parse(struct sockname *out, const char *text, char *err, size_t errlen);

/* The address of a socket's own end, of the family that getsockname reports: for inherited
 * descriptors. An unnamed AF_UNIX socket reads as SOCKNAME_ABSTRACT "@". 0 or -errno. */
int sockname_of_fd(struct sockname *out, int fd);

/* Makes a bound, listening socket. With replace, an existing file of that name is
 * removed first, whatever it is but a directory (R14). The directory must exist.
 * Returns the descriptor (caller owns) or -errno with a line in err. */
int sockname_listen(const struct sockname *name, int backlog, bool replace, char *err,
                    size_t errlen);

/* Starts a connection. Returns the descriptor (caller owns) and sets *pending when the handshake is
 * still going on: writability then tells its end and sockname_connect_result its outcome. AF_UNIX
 * never stays pending: a full backlog is -EAGAIN. -errno with a line in err otherwise. */
int sockname_connect(const struct sockname *name, bool *pending, char *err, size_t errlen);

/* Outcome of a pending connect: 0 or -errno. */
int sockname_connect_result(int fd);

/* One line about a failed connect: what, where, and what to do about it. */
void sockname_explain_connect(const struct sockname *name, int error, char *err, size_t errlen);

/* Addresses used when nobody says otherwise: the environment variable if present, even when empty,
 * else the default (R9, R10), which is decided once per process and kept. Never NULL. The producer
 * one is the whole variable: clients take it as one address, the service splits it. */
const char *sockname_producer(void);
const char *sockname_consumer(void);

/* The relay's address, PERFETTO_RELAY_SOCK_NAME, or "" when unset. */
const char *sockname_relay(void);

/* This machine's name: PERFETTO_MACHINE_NAME, else the system name of uname (section 1.3, R75). */
const char *sockname_machine(void);

/* Splits a comma list, dropping empty elements (R12): calls each(arg, item) in order until one
 * returns non-zero, which is returned. Items longer than an address can be give -ENAMETOOLONG.
 * Returns 0 otherwise, also for an empty list; *count (may be NULL) gets the number of items. */
int sockname_split(const char *list, int (*each)(void *arg, const char *item), void *arg,
                   size_t *count);

/* Names of a private service, /tmp/traced-p-PID and /tmp/traced-c-PID (R13). Both buffers hold at
 * least SOCKNAME_TEXT_MAX bytes. */
void sockname_private(pid_t pid, char *producer, char *consumer);

/* For tests: forgets the cached defaults, and uses run_dir in place of "/run/perfetto/" when it is
 * not NULL (borrowed). */
void sockname_forget_defaults(const char *run_dir);

#endif
