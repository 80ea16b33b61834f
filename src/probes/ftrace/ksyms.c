/* SPDX-License-Identifier: Apache-2.0 */
/* ksyms: the kernel symbol table, loaded when a config asks for symbols.
 *
 * Owned by the ftrace controller, shared by all instances, dropped with the last config. The file
 * has 10 MiB and more and is read through a fixed window, keeping text symbols only. Addresses
 * never leave this table: the trace gets names. */
#include "probes/ftrace/ksyms.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probes/procfs.h"
#include "reactor/alloc.h"

#define NAME_MAX_LEN  128          /* R119 */
#define REACH         (1ULL << 20) /* R120: farther than this is another, unknown function */
#define WINDOW        (64U << 10)
#define VISIBLE_BYTES 4095 /* R122: of the file, looked at to see whether addresses are hidden */

static const char kptr_path[] = "proc/sys/kernel/kptr_restrict";

static void add(struct ksyms *k, uint64_t addr, struct ptext name)
{
    size_t n = ptext_len(name);
    if (k->n == k->cap)
        k->syms = alloc_resize(k->syms, k->cap = k->cap ? k->cap * 2 : 1024, sizeof *k->syms);
    while (k->names_cap - k->names_len < n + 1)
        k->names =
            alloc_resize(k->names, k->names_cap = k->names_cap ? k->names_cap * 2 : 32768, 1);
    k->syms[k->n] = (struct ksyms_sym){addr, (uint32_t)k->names_len, (uint32_t)k->n};
    k->n++;
    memcpy(k->names + k->names_len, name.p, n);
    k->names_len += n;
    k->names[k->names_len++] = '\0';
}

bool ksyms_line(struct ksyms *k, const char *line, size_t len)
{
    struct ptext t = ptext_of(line, len), addr, type, name;
    uint64_t v;
    if (!ptext_word(&t, &addr))
        return true; /* an empty line */
    for (const char *p = addr.p; p < addr.end; p++)
        if (!strchr("0123456789abcdefABCDEF", *p))
            return false;
    if (!ptext_hex(addr, &v))
        return false;
    if (!ptext_word(&t, &type) || !ptext_word(&t, &name))
        return true;
    if (v == 0 || ptext_len(type) != 1 || (*type.p != 't' && *type.p != 'T') || *name.p == '$')
        return true;
    if (ptext_ends(name, ".cfi_jt"))
        name.end -= strlen(".cfi_jt");
    else if (ptext_ends(name, ".cfi"))
        name.end -= strlen(".cfi");
    if (ptext_len(name) > NAME_MAX_LEN)
        name.end = name.p + NAME_MAX_LEN;
    if (name.p < name.end)
        add(k, v, name);
    return true;
}

static int by_addr(const void *a, const void *b)
{
    const struct ksyms_sym *x = a, *y = b;
    if (x->addr != y->addr)
        return x->addr < y->addr ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

void ksyms_sort(struct ksyms *k)
{
    size_t n = 0;
    if (k->n)
        qsort(k->syms, k->n, sizeof *k->syms, by_addr);
    for (size_t i = 0; i < k->n; i++)
        if (n == 0 || k->syms[n - 1].addr != k->syms[i].addr)
            k->syms[n++] = k->syms[i]; /* the first name of an address stands (R121) */
    k->n = n;
}

/* Whether the file shows addresses at all: 1 yes, 0 hidden, -errno unreadable. */
static int visible(int root)
{
    char head[VISIBLE_BYTES];
    struct ptext t, line;
    int fd = openat(root, "proc/kallsyms", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, head, sizeof head);
    int e = errno;
    close(fd);
    if (n < 0)
        return -e;
    t = ptext_of(head, (size_t)n);
    while (ptext_line(&t, &line)) {
        uint64_t v;
        if (ptext_hex(line, &v) && v != 0)
            return 1;
    }
    return 0;
}

static bool write_text(int root, const char *path, const char *text, size_t len)
{
    int fd = openat(root, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = write(fd, text, len) == (ssize_t)len;
    close(fd);
    return ok;
}

static int read_all(struct ksyms *k, int root)
{
    int fd = openat(root, "proc/kallsyms", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    char *buf = alloc_zero(WINDOW);
    size_t have = 0;
    ssize_t n;
    bool more = true;
    while (more && (n = read(fd, buf + have, WINDOW - have)) > 0) {
        struct ptext t = ptext_of(buf, have + (size_t)n), line;
        while (more && memchr(t.p, '\n', ptext_len(t)) && ptext_line(&t, &line))
            more = ksyms_line(k, line.p, ptext_len(line));
        have = ptext_len(t);
        if (have == WINDOW)
            break; /* a line longer than the window is no symbol table */
        memmove(buf, t.p, have);
    }
    if (more && have && have < WINDOW)
        ksyms_line(k, buf, have);
    free(buf);
    close(fd);
    return 0;
}

/* Lowers kptr_restrict step by step, never to 0, until addresses show. */
static void unhide(int root, uint64_t level)
{
    for (uint64_t v = level; v >= 1; v--) {
        char c = (char)('0' + v);
        if (!write_text(root, kptr_path, &c, 1) || visible(root) == 1)
            return;
    }
}

int ksyms_load(struct ksyms *k, int root)
{
    struct procfs_buf saved = {0};
    uint64_t level;
    bool lowered = false;
    int rc = visible(root);
    ksyms_fini(k);
    if (rc < 0)
        return rc;
    if (rc == 0 && procfs_read(root, kptr_path, 64, &saved) == 0 &&
        ptext_u64(procfs_text(&saved), &level) && level <= 9) {
        unhide(root, level);
        lowered = true;
    }
    rc = read_all(k, root);
    if (lowered)
        write_text(root, kptr_path, saved.data, saved.len);
    procfs_buf_fini(&saved);
    ksyms_sort(k);
    return rc;
}

const char *ksyms_lookup(const struct ksyms *k, uint64_t addr)
{
    size_t lo = 0, hi = k->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (k->syms[mid].addr <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == 0 || addr - k->syms[lo - 1].addr > REACH)
        return NULL;
    return k->names + k->syms[lo - 1].name;
}

size_t ksyms_memory(const struct ksyms *k)
{
    return k->cap * sizeof *k->syms + k->names_cap;
}

void ksyms_fini(struct ksyms *k)
{
    free(k->syms);
    free(k->names);
    *k = (struct ksyms){0};
}
