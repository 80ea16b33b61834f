/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_ALLOC_H
#define REACTOR_ALLOC_H

/*
 * Memory, in two manners.
 *
 *   alloc_*      small objects whose size and number we bound ourselves (an actor, a session, a
 *                name of at most a few hundred bytes). When there is no memory for those, nothing
 *                sensible can go on: one line on stderr, then abort. They never return NULL.
 *   alloc_try_*  anything whose size or number a peer has a say in. They return NULL and the
 *                caller turns that into -ENOMEM.
 *
 * Either result is freed with free(3) or alloc_free.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Zeroed object of a type: struct foo *f = alloc_new(struct foo). Never NULL. */
#define alloc_new(type) ((type *)alloc_zero(sizeof(type)))

/* Zeroed block of size bytes (1 when size is 0). Never NULL. */
void *alloc_zero(size_t size) __attribute__((malloc, returns_nonnull, alloc_size(1)));

/* Zeroed array of n elements of size bytes. Aborts on overflow of n * size. Never NULL. */
void *alloc_array(size_t n, size_t size) __attribute__((malloc, returns_nonnull, alloc_size(1, 2)));

/* Resizes p (NULL allowed) to n elements of size bytes; new bytes are not zeroed. p is consumed.
 * Never NULL. */
void *alloc_resize(void *p, size_t n, size_t size) __attribute__((returns_nonnull));

/* Copy of n bytes with a NUL behind them. Never NULL. */
char *alloc_strndup(const char *s, size_t n) __attribute__((malloc, returns_nonnull));

/* Copy of a string. Never NULL. */
char *alloc_strdup(const char *s) __attribute__((malloc, returns_nonnull));

/* Zeroed array of n elements of size bytes, or NULL (no memory, or n * size overflows). */
void *alloc_try_array(size_t n, size_t size) __attribute__((malloc, alloc_size(1, 2)));

/* Block of size bytes that is not zeroed, or NULL. */
void *alloc_try(size_t size) __attribute__((malloc, alloc_size(1)));

/* Resizes p (NULL allowed) to n elements of size bytes. Returns NULL, and leaves p alone, when
 * there is no memory or n * size overflows. */
void *alloc_try_resize(void *p, size_t n, size_t size);

/* Frees *pp (NULL allowed) and sets it to NULL. */
#define alloc_free(pp)                                                                             \
    do {                                                                                           \
        free(*(pp));                                                                               \
        *(pp) = NULL;                                                                              \
    } while (0)

#endif
