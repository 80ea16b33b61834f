/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fakevsock: a module for LD_PRELOAD that puts AF_VSOCK on top of TCP at 127.0.0.1, for machines
 * without a vsock loopback. The program believes to have vsock sockets: their addresses are of that
 * family wherever it asks, the CID is always 1, and the port is that of TCP. It holds no state: a
 * socket that is AF_INET below is taken for a vsock, so programs under it use no TCP of their own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int socket(int domain, int type, int protocol)
{
    return REAL(socket)(domain == AF_VSOCK ? AF_INET : domain, type, protocol);
}

/* What to hand to the kernel for an address: vsock becomes TCP in *in. */
static const struct sockaddr *below(const struct sockaddr *addr, socklen_t *len,
                                    struct sockaddr_in *in)
{
    struct sockaddr_vm vm;
    if (addr->sa_family != AF_VSOCK || *len < sizeof(vm))
        return addr;
    memcpy(&vm, addr, sizeof(vm));
    memset(in, 0, sizeof(*in));
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in->sin_port = htons((in_port_t)vm.svm_port);
    *len = sizeof(*in);
    return (const struct sockaddr *)in;
}

int bind(int fd, const struct sockaddr *addr, socklen_t len)
{
    struct sockaddr_in in;
    addr = below(addr, &len, &in);
    return REAL(bind)(fd, addr, len);
}

int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    struct sockaddr_in in;
    addr = below(addr, &len, &in);
    return REAL(connect)(fd, addr, len);
}

int getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
    socklen_t room = *len;
    int rc = REAL(getsockname)(fd, addr, len);
    if (rc != 0 || addr->sa_family != AF_INET || room < sizeof(struct sockaddr_vm))
        return rc;
    struct sockaddr_in in;
    memcpy(&in, addr, sizeof(in));
    const struct sockaddr_vm vm = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = ntohs(in.sin_port)};
    memcpy(addr, &vm, sizeof(vm));
    *len = sizeof(vm);
    return 0;
}
