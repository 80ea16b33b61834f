/* SPDX-License-Identifier: Apache-2.0 */
/* The output file: opening (R510..R513), framing (R530), and what is left when it cannot be
 * written. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/pktout.h"
#include "reactor/bytes.h"

static struct pktout out;
static char dir[64], path[80], err[512];

static void setup(void)
{
    strcpy(dir, "/tmp/test_pktout.XXXXXX");
    cr_assert(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/o", dir);
    umask(0);
}

static void teardown(void)
{
    unlink(path);
    rmdir(dir);
}

TestSuite(pktout, .init = setup, .fini = teardown);

static size_t slurp(char *buf, size_t size)
{
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(buf, 1, size, f) : 0;

    if (f)
        fclose(f);
    return n;
}

static void packet(const char *p, size_t n)
{
    struct iovec v = {(void *)(uintptr_t)p, n};

    pktout_packet(&out, &v, 1, n);
}

Test(pktout, framing) /* R530 R533 */
{
    char got[1000], big[300];
    struct iovec v[3] = {{"ab", 2}, {"", 0}, {"c", 1}};

    memset(big, 'x', sizeof(big));
    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    pktout_packet(&out, v, 3, 3);
    packet("", 0);
    packet(big, 300);
    cr_expect_eq(pktout_close(&out), 5 + 2 + 303);
    cr_expect_eq(out.packets, 3);
    cr_expect_eq(slurp(got, sizeof(got)), 310);
    cr_expect_arr_eq(got,
                     "\x0a\x03"
                     "abc"
                     "\x0a\x00"
                     "\x0a\xac\x02"
                     "xxx",
                     13);
    pktout_fini(&out);
}

/* Lengths around the end of one byte of a varint. */
Test(pktout, lengths)
{
    static char big[16385], got[40000];
    static const struct {
        size_t len;
        const char *head;
    } t[] = {{127, "\x0a\x7f"}, {128, "\x0a\x80\x01"}, {16383, "\x0a\xff\x7f"}};
    size_t at = 0;

    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    for (size_t i = 0; i < 3; i++)
        packet(big, t[i].len);
    pktout_close(&out);
    cr_expect_eq(slurp(got, sizeof(got)), 129 + 131 + 16386);
    for (size_t i = 0; i < 3; i++) {
        cr_expect_arr_eq(got + at, t[i].head, strlen(t[i].head), "%zu", t[i].len);
        at += strlen(t[i].head) + t[i].len;
    }
    pktout_fini(&out);
}

Test(pktout, mode_and_clobber) /* R511 R512 */
{
    struct stat st;

    cr_assert_eq(pktout_open(&out, path, true, err, sizeof(err)), 0);
    packet("a", 1);
    pktout_fini(&out);
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_mode & 07777, 0600);
    cr_expect_eq(pktout_open(&out, path, true, err, sizeof(err)), -EEXIST);
    cr_expect(strstr(err, "refusing to overwrite due to '--no-clobber'"), "%s", err);
    chmod(path, 0640);
    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    cr_expect_eq(pktout_close(&out), 0, "truncated");
    pktout_fini(&out);
    stat(path, &st);
    cr_expect_eq(st.st_mode & 07777, 0640);
}

Test(pktout, failures_name_the_path) /* R513 */
{
    cr_expect_lt(pktout_open(&out, "/nonexistent/x", false, err, sizeof(err)), 0);
    cr_expect(strstr(err, "/nonexistent/x") && strstr(err, "errno: 2"), "%s", err);
    cr_expect_lt(pktout_open(&out, dir, false, err, sizeof(err)), 0);
    cr_expect(strstr(err, dir), "%s", err);
}

Test(pktout, empty_files_go_others_stay) /* R322 */
{
    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    cr_expect(!pktout_discard_empty(&out));
    cr_expect_neq(access(path, F_OK), 0);
    pktout_fini(&out);
    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    packet("a", 1);
    cr_expect(pktout_discard_empty(&out));
    cr_expect_eq(access(path, F_OK), 0);
    pktout_fini(&out);
    cr_assert_eq(pktout_open(&out, "/dev/null", false, err, sizeof(err)), 0);
    cr_expect(!pktout_discard_empty(&out));
    cr_expect_eq(access("/dev/null", F_OK), 0, "special files are never removed");
    pktout_fini(&out);
}

Test(pktout, more_pieces_than_one_write)
{
    static char bytes[3000];
    static struct iovec v[3000];
    static char got[8000];

    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    for (int i = 0; i < 3000; i++) {
        bytes[i] = (char)('a' + i % 26);
        v[i] = (struct iovec){bytes + i, 1};
    }
    packet("first", 5);
    pktout_packet(&out, v, 3000, 3000);
    packet("last", 4);
    pktout_close(&out);
    cr_expect_eq(slurp(got, sizeof(got)), 7 + 3003 + 6);
    cr_expect_arr_eq(got + 7 + 3, bytes, 3000);
    cr_expect_eq(out.whole, 7 + 3003 + 6);
    pktout_fini(&out);
}

Test(pktout, a_full_disk_leaves_whole_packets) /* R326 */
{
    struct rlimit limit = {1000, 1000};
    char big[700], got[2000];

    signal(SIGXFSZ, SIG_IGN);
    memset(big, 'x', sizeof(big));
    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    packet(big, 600);
    pktout_flush(&out);
    cr_expect_eq(out.error, 0);
    setrlimit(RLIMIT_FSIZE, &limit);
    packet(big, 700);
    pktout_flush(&out);
    cr_expect_eq(out.error, EFBIG);
    packet("more", 4);
    cr_expect_eq(pktout_close(&out), 603, "the broken packet is cut off, later ones are dropped");
    cr_expect_eq(slurp(got, sizeof(got)), 603);
    pktout_fini(&out);
}

/* Several packets in one write, of which the first fit. */
Test(pktout, a_full_disk_within_a_batch)
{
    struct rlimit limit = {1000, 1000};
    static char big[400];

    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(pktout_open(&out, path, false, err, sizeof(err)), 0);
    setrlimit(RLIMIT_FSIZE, &limit);
    for (int i = 0; i < 4; i++)
        packet(big, 300);
    pktout_flush(&out);
    cr_expect_eq(out.error, EFBIG);
    cr_expect_eq(pktout_close(&out), 3 * 303);
    pktout_fini(&out);
}

Test(pktout, dev_full)
{
    cr_assert_eq(pktout_open(&out, "/dev/full", false, err, sizeof(err)), 0);
    packet("a", 1);
    pktout_flush(&out);
    cr_expect_eq(out.error, ENOSPC);
    pktout_fini(&out);
}

Test(pktout, relative_paths_survive_chdir) /* R358 */
{
    char cwd[256];

    cr_assert(getcwd(cwd, sizeof(cwd)));
    cr_assert_eq(chdir(dir), 0);
    cr_assert_eq(pktout_open(&out, "o", false, err, sizeof(err)), 0);
    cr_assert_eq(chdir("/"), 0);
    cr_expect_str_eq(out.path, path);
    cr_expect_str_eq(out.shown, "o");
    pktout_discard_empty(&out);
    cr_expect_neq(access(path, F_OK), 0);
    pktout_fini(&out);
    cr_assert_eq(chdir(cwd), 0);
}
