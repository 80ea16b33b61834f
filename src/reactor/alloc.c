/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc: the only place that decides what happens when memory runs out. Owns nothing. The dying
 * variants must never be given a size that a peer chose; the header says which is which. The
 * message goes out by write(2), because stdio and our log may allocate.
 */
#include "reactor/alloc.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void __attribute__((noreturn, cold)) out_of_memory(void)
{
    static const char text[] = "out of memory for a small object, giving up; free some memory or "
                               "raise the memory limit of this process\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)ignored;
    abort();
}

void *alloc_zero(size_t size)
{
    void *p = calloc(1, size != 0 ? size : 1);
    if (p == NULL)
        out_of_memory();
    return p;
}

void *alloc_array(size_t n, size_t size)
{
    void *p = alloc_try_array(n, size);
    if (p == NULL)
        out_of_memory();
    return p;
}

void *alloc_resize(void *p, size_t n, size_t size)
{
    void *q = alloc_try_resize(p, n, size);
    if (q == NULL)
        out_of_memory();
    return q;
}

char *alloc_strndup(const char *s, size_t n)
{
    char *p = alloc_try(n + 1);
    if (p == NULL)
        out_of_memory();
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *alloc_strdup(const char *s)
{
    return alloc_strndup(s, strlen(s));
}

void *alloc_try_array(size_t n, size_t size)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return calloc(bytes != 0 ? bytes : 1, 1);
}

void *alloc_try(size_t size)
{
    return malloc(size != 0 ? size : 1);
}

void *alloc_try_resize(void *p, size_t n, size_t size)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, bytes != 0 ? bytes : 1);
}
