/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation is uncompressed whole when it is opened (none exceeds a few MB); records are then
 * views into it. */

#include "t/support/vec.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define RECORD_HEAD 6u          /* kind, fds, u32 size */
#define FILE_MAX    (64u << 20) /* none comes near this */

struct vec {
    uint8_t *data; /* own */
    size_t size;
    size_t at;
};

static void vector_path(char *out, size_t size, const char *name)
{
    const char *src = getenv("srcdir");
    snprintf(out, size, "%s/t/data/vectors/%s", src != NULL ? src : ".", name);
}

uint8_t *vec_gunzip(const char *name, size_t *size)
{
    char path[1024];
    vector_path(path, sizeof(path), name);
    gzFile in = gzopen(path, "rb");
    uint8_t *data = NULL;
    size_t n = 0;
    size_t cap = 0;
    int got = in != NULL ? 1 : -1;
    while (got > 0 && n < FILE_MAX) {
        if (n == cap) {
            cap = cap == 0 ? 65536 : cap * 2;
            uint8_t *more = realloc(data, cap);
            if (more == NULL)
                break;
            data = more;
        }
        got = gzread(in, data + n, (unsigned)(cap - n));
        n += got > 0 ? (size_t)got : 0;
    }
    if (in != NULL)
        gzclose(in);
    if (got != 0) {
        fprintf(stderr, "cannot read %s; is srcdir the top of the source tree?\n", path);
        free(data);
        return NULL;
    }
    *size = n;
    return data;
}

struct vec *vec_open(const char *name)
{
    size_t size = 0;
    uint8_t *data = vec_gunzip(name, &size);
    if (data == NULL)
        return NULL;
    struct vec *v = calloc(1, sizeof(*v));
    if (v == NULL) {
        free(data);
        return NULL;
    }
    v->data = data;
    v->size = size;
    return v;
}

void vec_free(struct vec *v)
{
    if (v == NULL)
        return;
    free(v->data);
    free(v);
}

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int vec_next(struct vec *v, struct vec_record *out)
{
    if (v->at == v->size)
        return 0;
    if (v->size - v->at < RECORD_HEAD)
        return -1;
    const uint8_t *p = v->data + v->at;
    size_t size = load32(p + 2);
    if (size > v->size - v->at - RECORD_HEAD || strchr("><S", p[0]) == NULL || p[0] == '\0')
        return -1;
    *out = (struct vec_record){(enum vec_kind)p[0], p[1], size, p + RECORD_HEAD};
    v->at += RECORD_HEAD + size;
    return 1;
}

void vec_rewind(struct vec *v)
{
    v->at = 0;
}

int vec_apply(const struct vec_record *rec, uint8_t *smb, size_t size)
{
    size_t at = 0;
    for (; rec->size - at >= 4 + VEC_BLOCK; at += 4 + VEC_BLOCK) {
        size_t offset = load32(rec->data + at);
        if (offset > size || size - offset < VEC_BLOCK)
            return -1;
        memcpy(smb + offset, rec->data + at + 4, VEC_BLOCK);
    }
    return at == rec->size ? 0 : -1;
}

size_t vec_each(void (*fn)(void *arg, const char *name), void *arg)
{
    char pattern[1024];
    char top[1024];
    glob_t found;
    vector_path(pattern, sizeof(pattern), "*/*.vec.gz");
    vector_path(top, sizeof(top), "");
    if (glob(pattern, 0, NULL, &found) != 0)
        return 0;
    size_t n = found.gl_pathc;
    for (size_t i = 0; i < n; i++)
        fn(arg, found.gl_pathv[i] + strlen(top));
    globfree(&found);
    return n;
}
