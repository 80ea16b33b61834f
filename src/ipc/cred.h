/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_CRED_H
#define IPC_CRED_H

/* Who is at the other end: taken once at accept, cached, valid after the peer has gone (R70-R75).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "ipc/sockname.h"

#define CRED_NAME_MAX 128 /* machine names from peers are cut to this, terminator included */

/* Embedded by value. */
struct cred {
    enum sockname_family family;
    bool identified;     /* SetPeerIdentity was honoured; a later one is ignored (R72) */
    uid_t uid;           /* 0 for an unidentified TCP or vsock peer (R71) */
    gid_t gid;           /* AF_UNIX only, else (gid_t)-1 */
    pid_t pid;           /* -1: unknown (R71) */
    uint32_t machine_id; /* 0: this machine, or an unidentified peer (R74) */
    char machine_name[CRED_NAME_MAX];
    char local_addr[SOCKNAME_TEXT_MAX]; /* our end without ":port": hashed when no hint comes (R74)
                                         */
};

/* What a SetPeerIdentity frame says; missing fields are 0 and empty (R72). The texts are borrowed
 * and need no terminator. */
struct cred_identity {
    int32_t pid;
    int32_t uid;
    const char *hint;
    size_t hint_len;
    const char *name;
    size_t name_len;
};

/* Reads the credentials of a connected socket. AF_UNIX: SO_PEERCRED and our own machine name (R75).
 * Other families: uid 0, pid -1, machine 0 (R71). 0 or -errno. */
int cred_take(struct cred *out, int fd);

/* Applies SetPeerIdentity by R72: ignored on AF_UNIX and after a first one. Returns true when it
 * was honoured. */
bool cred_identify(struct cred *cred, const struct cred_identity *identity);

/* Low 32 bits of the 64-bit FNV-1a of data; 0 is replaced by 1 (R74). */
uint32_t cred_machine_id(const void *data, size_t len);

/* "pid 12 uid 1000" or "tcp peer, unidentified": for log lines. */
void cred_describe(const struct cred *cred, char *out, size_t outlen);

#endif
