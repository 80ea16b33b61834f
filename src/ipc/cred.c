/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peer credentials. The kernel is asked once, when the connection is accepted; afterwards the
 * answer is a plain value that survives the peer. A TCP or vsock peer is nobody in particular (uid
 * 0, as upstream has it) until one SetPeerIdentity frame speaks for it; an AF_UNIX peer can never
 * talk about itself.
 */

#include "ipc/cred.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include "reactor/bytes.h"
#include "reactor/str.h"

uint32_t cred_machine_id(const void *data, size_t len)
{
    uint32_t id = (uint32_t)bytes_hash(bytes_view(data, len));
    return id != 0 ? id : 1;
}

/* Address text without its last ":port"; one without a port stays whole. */
static void cut_port(char *out, size_t outlen, const char *text)
{
    str_copy(out, outlen, text);
    char *colon = strrchr(out, ':');
    if (colon != NULL)
        *colon = '\0';
}

int cred_take(struct cred *out, int fd)
{
    struct sockname local;
    int rc = sockname_of_fd(&local, fd);
    if (rc != 0)
        return rc;
    struct cred c;
    memset(&c, 0, sizeof(c));
    c.family = local.family;
    c.uid = 0;
    c.gid = (gid_t)-1;
    c.pid = -1;
    if (sockname_is_unix(local.family)) {
        struct ucred peer;
        socklen_t len = sizeof(peer);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
            return -errno;
        c.uid = peer.uid;
        c.gid = peer.gid;
        c.pid = peer.pid != 0 ? peer.pid : -1; /* 0: outside of our pid namespace */
        str_copy(c.machine_name, sizeof(c.machine_name), sockname_machine());
    } else {
        cut_port(c.local_addr, sizeof(c.local_addr), local.text);
    }
    *out = c;
    return 0;
}

bool cred_identify(struct cred *cred, const struct cred_identity *identity)
{
    if (sockname_is_unix(cred->family) || cred->identified)
        return false;
    cred->pid = identity->pid;
    cred->uid = (uid_t)identity->uid;
    cred->identified = true;
    if (identity->hint_len != 0)
        cred->machine_id = cred_machine_id(identity->hint, identity->hint_len);
    else
        cred->machine_id = cred_machine_id(cred->local_addr, strlen(cred->local_addr));
    size_t n = identity->name_len;
    if (n >= sizeof(cred->machine_name))
        n = sizeof(cred->machine_name) - 1;
    if (n != 0)
        memcpy(cred->machine_name, identity->name, n);
    cred->machine_name[n] = '\0';
    return true;
}

void cred_describe(const struct cred *cred, char *out, size_t outlen)
{
    const char *kind = sockname_family_name(cred->family);
    if (sockname_is_unix(cred->family))
        snprintf(out, outlen, "pid %d uid %u", (int)cred->pid, (unsigned)cred->uid);
    else if (cred->identified)
        snprintf(out, outlen, "%s peer, pid %d uid %u of machine %08x", kind, (int)cred->pid,
                 (unsigned)cred->uid, (unsigned)cred->machine_id);
    else
        snprintf(out, outlen, "%s peer, unidentified", kind);
}
