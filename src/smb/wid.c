/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bitmap and a hand that only moves forward: an id comes back into use after the whole range went
 * by, which gives the service time to forget the writer that had it.
 */
#include "smb/wid.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

int wid_init(struct wid *w, uint32_t max)
{
    uint64_t *used = calloc(max / 64 + 1, sizeof(*used));
    if (!used) {
        return -ENOMEM;
    }
    *w = (struct wid){.used = used, .max = max};
    return 0;
}

void wid_fini(struct wid *w)
{
    free(w->used);
    *w = (struct wid){.used = NULL};
}

static bool is_used(const struct wid *w, uint32_t id)
{
    return w->used[id / 64] >> (id % 64) & 1;
}

uint16_t wid_take(struct wid *w)
{
    if (w->live == w->max) {
        return 0;
    }
    uint32_t id = w->last;
    do {
        id = id % w->max + 1;
    } while (is_used(w, id));
    w->used[id / 64] |= UINT64_C(1) << (id % 64);
    w->last = id;
    w->live++;
    return (uint16_t)id;
}

void wid_give(struct wid *w, uint16_t id)
{
    if (id == 0 || id > w->max || !is_used(w, id)) {
        return;
    }
    w->used[id / 64] &= ~(UINT64_C(1) << (id % 64));
    w->live--;
}
