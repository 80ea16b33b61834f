/* SPDX-License-Identifier: Apache-2.0 */
/* ksyms: names of kernel functions, from /proc/kallsyms. */
#ifndef PROBES_FTRACE_KSYMS_H
#define PROBES_FTRACE_KSYMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ksyms_sym {
    uint64_t addr;
    uint32_t name; /* offset in names */
    uint32_t order;
};

/* All zero is an empty table. */
struct ksyms {
    struct ksyms_sym *syms; /* own; ascending addresses, each once */
    size_t n, cap;
    char *names; /* own; NUL-terminated names one after the other */
    size_t names_len, names_cap;
};

/* Fills the table from proc/kallsyms below the directory `root`, lifting kptr_restrict for the time
 * of reading where the kernel hides addresses and we may (R119, R122). 0 or -errno; an unprivileged
 * reader gets 0 and an empty table. */
int ksyms_load(struct ksyms *k, int root);

/* Name of the function around addr, NULL if there is none (R120). */
const char *ksyms_lookup(const struct ksyms *k, uint64_t addr);

/* Bytes that the table occupies. */
size_t ksyms_memory(const struct ksyms *k);

void ksyms_fini(struct ksyms *k);

/* For tests: adds one line of kallsyms; false at one that ends parsing. ksyms_sort follows. */
bool ksyms_line(struct ksyms *k, const char *line, size_t len);
void ksyms_sort(struct ksyms *k);

#endif
