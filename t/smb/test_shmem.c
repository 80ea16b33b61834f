/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: creation and its seals, what is adopted and what is refused (R6-R13, section 12), and the
 * kernel behaviour that this leans on. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "reactor/err.h"
#include "smb/abi.h"
#include "smb/shmem.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int memory(off_t size, int seals)
{
    int fd = memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_geq(fd, 0);
    cr_assert_eq(ftruncate(fd, size), 0);
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

Test(shmem, R6_created_memory_is_zeroed_and_sealed)
{
    struct shmem shm;
    shmem_init(&shm);
    cr_assert_not(shmem_mapped(&shm));
    cr_assert_eq(shmem_create(&shm, 65536, 8192), 0);
    cr_assert(shmem_mapped(&shm));
    cr_assert_eq(shm.pages, 8);
    cr_assert_eq((uintptr_t)shm.base % 4096, 0);
    for (size_t i = 0; i < shm.size; i++)
        cr_assert_eq(shm.base[i], 0);
    cr_assert_eq(fcntl(shm.fd, F_GET_SEALS) & SEALS, SEALS);
    cr_assert_eq(ftruncate(shm.fd, 4096), -1);
    cr_assert_eq(errno, EPERM);
    cr_assert_eq(ftruncate(shm.fd, 131072), -1);
    cr_assert(fcntl(shm.fd, F_GETFD) & FD_CLOEXEC);
    int fd = shm.fd;
    shmem_fini(&shm);
    cr_assert_not(is_open(fd));
    cr_assert_eq(shmem_create(&shm, 5000, 4096), -EINVAL);
}

Test(shmem, both_sides_see_the_same_bytes)
{
    struct shmem ours;
    struct shmem theirs;
    shmem_init(&ours);
    shmem_init(&theirs);
    cr_assert_eq(shmem_create(&ours, 16384, 4096), 0);
    cr_assert_eq(shmem_map(&theirs, dup(ours.fd), 4096), 0);
    cr_assert_eq(theirs.pages, 4);
    theirs.base[5000] = 42;
    cr_assert_eq(ours.base[5000], 42);
    shmem_fini(&ours);
    theirs.base[5000] = 43; /* the mapping outlives the other one */
    shmem_fini(&theirs);
}

static void refused(int fd, uint64_t page)
{
    struct shmem shm;
    const char *why = NULL;
    shmem_init(&shm);
    cr_assert_eq(shmem_adopt(&shm, fd, page, &why), ERR_BAD_FD);
    cr_assert_not_null(why);
    cr_assert_not(shmem_mapped(&shm));
    cr_assert_not(is_open(fd), "a refused descriptor must be closed");
}

Test(shmem, R9_to_R13_adopted)
{
    struct shmem shm;
    shmem_init(&shm);
    cr_assert_eq(shmem_adopt(&shm, memory(1048576, SEALS), 4096, NULL), 0);
    cr_assert_eq(shm.pages, 256);
    shm.base[0] = 1;
    shmem_fini(&shm);
}

Test(shmem, R10_R11_refused)
{
    refused(memory(1048576, SEALS), 20480);
    refused(memory(1048576, SEALS), 0);
    refused(memory(1048576, F_SEAL_GROW | F_SEAL_SEAL), 4096);
    refused(memory(1048576, F_SEAL_SHRINK | F_SEAL_SEAL), 4096);
    refused(memory(1048576, F_SEAL_SHRINK | F_SEAL_GROW), 4096);
    refused(memory(2048, SEALS), 4096);
    refused(memory(5 * 4096, SEALS), 8192);
    refused(memory((off_t)SMB_MAX_SIZE + 4096, SEALS), 4096);
}

/* A peer may punch a hole into huge pages where no other page is left to fill it: whoever touches
 * it then gets a SIGBUS. */
Test(shmem, huge_pages_refused)
{
    struct shmem shm;
    const char *why = NULL;
    int fd = memfd_create("huge", MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (fd < 0 || ftruncate(fd, 2 << 20) != 0)
        cr_skip_test("no huge pages in this kernel");
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    shmem_init(&shm);
    cr_expect_eq(shmem_adopt(&shm, fd, 4096, &why), ERR_BAD_FD);
    cr_expect_str_eq(why, "not plain memory");
}

Test(shmem, section_12_not_writable_refused)
{
    refused(memory(0, SEALS), 4096);
    refused(memory(65536, SEALS | F_SEAL_WRITE), 4096);
    refused(memory(65536, SEALS | F_SEAL_FUTURE_WRITE), 4096);
    int fd = memory(65536, SEALS);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int ro = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert_geq(ro, 0);
    refused(ro, 4096);
    close(fd);
    int pipes[2];
    cr_assert_eq(pipe(pipes), 0);
    refused(pipes[0], 4096);
    close(pipes[1]);
    refused(open("/", O_RDONLY | O_DIRECTORY), 4096);
    refused(open("/dev/null", O_RDWR), 4096);
}

Test(shmem, R7_producer_maps_without_seals_but_checks_the_size)
{
    struct shmem shm;
    shmem_init(&shm);
    cr_assert_eq(shmem_map(&shm, memory(65536, 0), 65536), 0);
    cr_assert_eq(shm.pages, 1);
    shmem_fini(&shm);
    int fd = memory(0, 0);
    cr_assert_eq(shmem_map(&shm, fd, 4096), ERR_BAD_FD);
    cr_assert_not(is_open(fd));
    cr_assert_eq(shmem_map(&shm, memory(8192, 0), 0), ERR_BAD_FD);
    cr_assert_eq(shmem_map(&shm, memory(8192, 0), 16384), ERR_BAD_FD);
    cr_assert_eq(shmem_map(&shm, memory(8192, 0), UINT64_MAX), ERR_BAD_FD);
    cr_assert_not(shmem_mapped(&shm));
}

Test(shmem, R106_emulation)
{
    struct shmem shm;
    shmem_init(&shm);
    cr_assert_eq(shmem_anonymous(&shm, SMB_EMULATED_SIZE, 4096), 0);
    cr_assert_eq(shm.pages, 256);
    cr_assert_eq(shm.fd, -1);
    shmem_fini(&shm);
    cr_assert_eq(shmem_anonymous(&shm, SMB_EMULATED_SIZE, 5000), ERR_BAD_CONFIG);
    cr_assert_eq(shmem_anonymous(&shm, 0, 4096), ERR_BAD_CONFIG);
}
