/* SPDX-License-Identifier: Apache-2.0 */
/* Writer ids: 1 ... max, handed out next-after-last so that an id rests as long as possible (R34).
 */
#ifndef SMB_WID_H
#define SMB_WID_H

#include <stdint.h>

/* Embedded by value. */
struct wid {
    uint64_t *used; /* own: one bit per id, 0 ... max */
    uint32_t max;
    uint32_t last;
    uint32_t live;
};

/* 0 or -ENOMEM. max <= 65535. */
int wid_init(struct wid *w, uint32_t max);
void wid_fini(struct wid *w);

/* The next free id, 0 if all are taken. */
uint16_t wid_take(struct wid *w);
/* Ids that are not taken are ignored. */
void wid_give(struct wid *w, uint16_t id);

#endif
