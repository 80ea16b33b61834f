/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared memory buffers as files and mappings.
 *
 * A buffer is a memfd that can neither shrink nor grow: without that promise a peer could truncate
 * the file under a reader and kill it with SIGBUS. So the service maps only what is sealed, and
 * only when the mapping is really writable, since it writes chunk states. The producer maps
 * whatever it is given, as the ABI says (R7), but checks that the size makes sense.
 *
 * Must never: trust a size that came in a message instead of fstat, or keep an FD it was told to
 * take.
 */
#include "smb/shmem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "reactor/err.h"
#include "smb/abi.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

void shmem_init(struct shmem *shm)
{
    *shm = (struct shmem){.fd = -1};
}

void shmem_fini(struct shmem *shm)
{
    if (shm->base) {
        munmap(shm->base, shm->size);
    }
    if (shm->fd >= 0) {
        close(shm->fd);
    }
    shmem_init(shm);
}

static int map_into(struct shmem *shm, int fd, size_t size, uint32_t page_size)
{
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (base == MAP_FAILED) {
        return -errno;
    }
    *shm = (struct shmem){
        .base = base,
        .size = size,
        .page_size = page_size,
        .pages = (uint32_t)(size / page_size),
        .fd = fd,
    };
    return 0;
}

int shmem_create(struct shmem *shm, uint32_t total, uint32_t page_size)
{
    if (!abi_size_valid(total, page_size)) {
        return -EINVAL;
    }
    int fd = memfd_create("perfetto_shmem", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -errno;
    }
    int err = 0;
    if (ftruncate(fd, (off_t)total) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        err = -errno;
    } else {
        err = map_into(shm, fd, total, page_size);
    }
    if (err) {
        close(fd);
    }
    return err;
}

/* What is wrong with an offered FD, or NULL. */
static const char *adopt_refusal(int fd, uint64_t page_size, uint64_t *size)
{
    struct stat st;
    struct statfs fs;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) {
        return "not a sealable memory file";
    }
    if ((seals & SEALS) != SEALS) {
        return "seals against shrinking, growing and sealing are missing";
    }
    if (fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC) {
        return "not plain memory"; /* a hole in huge pages may be impossible to fill: SIGBUS */
    }
    if (fstat(fd, &st) < 0 || st.st_size <= 0) {
        return "empty";
    }
    *size = (uint64_t)st.st_size;
    if (!abi_size_valid(*size, page_size)) {
        return "size or page size not allowed";
    }
    return NULL;
}

int shmem_adopt(struct shmem *shm, int fd, uint64_t page_size, const char **why)
{
    uint64_t size = 0;
    const char *refusal = adopt_refusal(fd, page_size, &size);
    if (!refusal && map_into(shm, fd, (size_t)size, (uint32_t)page_size) < 0) {
        refusal = "cannot be mapped writable";
    }
    if (refusal) {
        close(fd);
        if (why) {
            *why = refusal;
        }
        return ERR_BAD_FD;
    }
    return 0;
}

/* Pages as the ABI allows them, not only as a service hands them out (R4). */
static bool page_size_usable(uint64_t page_size)
{
    return page_size >= SMB_MIN_PAGE && page_size <= SMB_ABI_MAX_PAGE &&
           page_size % SMB_MIN_PAGE == 0;
}

int shmem_map(struct shmem *shm, int fd, uint64_t page_size)
{
    struct stat st;
    int err = ERR_BAD_FD;
    if (fstat(fd, &st) == 0 && st.st_size > 0 && page_size_usable(page_size) &&
        (uint64_t)st.st_size % page_size == 0 && (uint64_t)st.st_size / page_size <= UINT32_MAX) {
        err = map_into(shm, fd, (size_t)st.st_size, (uint32_t)page_size);
    }
    /* The mapping keeps the memory; the descriptor has no further use on this side. */
    close(fd);
    if (err == 0) {
        shm->fd = -1;
    }
    return err;
}

int shmem_anonymous(struct shmem *shm, size_t total, uint64_t page_size)
{
    if (!page_size_usable(page_size) || total == 0 || total % page_size) {
        return ERR_BAD_CONFIG;
    }
    return map_into(shm, -1, total, (uint32_t)page_size);
}
