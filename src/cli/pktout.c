/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writer of trace files.
 *
 * A packet arrives as pieces that lie in the receive buffer of the socket; it leaves from there,
 * with its two bytes of framing before it, by one writev for all packets of a reply (R530, R531).
 * No byte is copied and nothing is buffered beyond a reply, so that a full disk is noticed at once
 * and not at the end (upstream loses what fits its stdio buffer, R326).
 *
 * When a write fails, a regular file is cut back to the last whole packet: what is left is a valid
 * trace. Writing blocks on purpose: this program has nothing else to do.
 */
#include "cli/pktout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "reactor/str.h"

#define PACKET_TAG 0x0a /* Trace.packet, length-delimited */

/* The background process changes to "/" later: names are resolved now (R358). */
static char *absolute(const char *path)
{
    char *cwd, *full;

    if (path[0] == '/')
        return alloc_strdup(path);
    cwd = getcwd(NULL, 0);
    if (cwd == NULL)
        return alloc_strdup(path);
    full = str_format("%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, path);
    free(cwd);
    return full;
}

static int open_path(const char *path, bool no_clobber, char *err, size_t errlen)
{
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | (no_clobber ? O_EXCL : O_TRUNC);
    int fd = open(path, flags, 0600), e;

    if (fd < 0 && !no_clobber && errno == EACCES)
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_TRUNC, 0600);
    if (fd >= 0)
        return fd;
    e = errno;
    if (e == EEXIST && no_clobber)
        (void)snprintf(err, errlen,
                       "Error: Output file '%s' already exists, refusing to overwrite due to "
                       "'--no-clobber'.",
                       path);
    else
        (void)snprintf(err, errlen, "Could not open the output file %s (errno: %d, %s)", path, e,
                       strerror(e));
    return -e;
}

int pktout_open(struct pktout *out, const char *path, bool no_clobber, char *err, size_t errlen)
{
    bool is_stdout = strcmp(path, "-") == 0;
    struct stat st;
    int fd;

    fd = is_stdout ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                   : open_path(path, no_clobber, err, errlen);
    if (fd < 0 && is_stdout) {
        fd = -errno;
        (void)snprintf(err, errlen, "stdout is not open (errno: %d, %s)", -fd, strerror(-fd));
    }
    if (fd < 0)
        return fd;
    memset(out, 0, sizeof(*out));
    out->fd = fd;
    out->regular = !is_stdout && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    out->path = is_stdout ? NULL : absolute(path);
    out->shown = alloc_strdup(is_stdout ? "stdout" : path);
    return 0;
}

/* ---- writing ---- */

/* Writes all; *written is what the kernel took, also after a failure. The vector is used up. */
static int write_all(int fd, struct iovec *iov, int n, uint64_t *written)
{
    while (n > 0) {
        ssize_t done = writev(fd, iov, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno;
        *written += (uint64_t)done;
        for (; n > 0 && (size_t)done >= iov->iov_len; iov++, n--)
            done -= (ssize_t)iov->iov_len;
        if (n > 0) {
            iov->iov_base = (char *)iov->iov_base + done;
            iov->iov_len -= (size_t)done;
        }
    }
    return 0;
}

/* The end of the last packet of this batch that was written whole. */
static uint64_t last_whole(const struct pktout *out, uint64_t written)
{
    int i = out->n_ends;

    while (i > 0 && out->ends[i - 1] > written)
        i--;
    return i > 0 ? out->whole + out->unfinished + out->ends[i - 1] : out->whole;
}

void pktout_flush(struct pktout *out)
{
    uint64_t written = 0;

    if (out->n_iov > 0 && out->error == 0) {
        out->error = write_all(out->fd, out->iov, out->n_iov, &written);
        out->whole = last_whole(out, written);
        out->unfinished = out->in_packet ? out->unfinished + written : 0;
        if (out->error != 0 && out->regular)
            (void)!ftruncate(out->fd, (off_t)out->whole);
    }
    out->n_iov = out->n_ends = 0;
    out->batch_bytes = 0;
}

static void add(struct pktout *out, const void *p, size_t n)
{
    out->iov[out->n_iov].iov_base = (void *)(uintptr_t)p;
    out->iov[out->n_iov++].iov_len = n;
    out->batch_bytes += n;
}

static size_t put_head(uint8_t *p, size_t len)
{
    size_t n = 0;

    p[n++] = PACKET_TAG;
    for (; len >= 0x80; len >>= 7)
        p[n++] = (uint8_t)(len | 0x80);
    p[n++] = (uint8_t)len;
    return n;
}

void pktout_packet(struct pktout *out, const struct iovec *pieces, int n, size_t len)
{
    int i = 0;

    if (out->n_iov + n + 1 > PKTOUT_BATCH)
        pktout_flush(out);
    add(out, out->heads[out->n_iov], put_head(out->heads[out->n_iov], len));
    /* a packet of more pieces than one batch holds: the rest of it follows in the next */
    out->in_packet = true;
    for (; i < n; i++) {
        if (out->n_iov == PKTOUT_BATCH)
            pktout_flush(out);
        if (pieces[i].iov_len > 0)
            add(out, pieces[i].iov_base, pieces[i].iov_len);
    }
    out->in_packet = false;
    out->ends[out->n_ends++] = out->batch_bytes;
    out->packets++;
    out->bytes += len + 2;
}

/* ---- the end ---- */

uint64_t pktout_close(struct pktout *out)
{
    off_t size;

    if (out->fd < 0)
        return 0;
    pktout_flush(out);
    size = lseek(out->fd, 0, SEEK_END);
    if (close(out->fd) != 0 && out->error == 0 && errno != EINTR)
        out->error = errno;
    out->fd = -1;
    return size > 0 ? (uint64_t)size : 0;
}

bool pktout_discard_empty(struct pktout *out)
{
    if (out->fd < 0)
        return false;
    if (pktout_close(out) > 0)
        return out->regular;
    if (out->regular)
        (void)unlink(out->path);
    return false;
}

void pktout_fini(struct pktout *out)
{
    (void)pktout_close(out);
    alloc_free(&out->path);
    alloc_free(&out->shown);
}
