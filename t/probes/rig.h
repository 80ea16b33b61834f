/* SPDX-License-Identifier: Apache-2.0 */
/* rig: an event table over a fake tracefs, a bundle that writes to a fake sink, and a builder of
 * raw pages. */
#ifndef T_PROBES_RIG_H
#define T_PROBES_RIG_H

#include "fake.h"

#define PAGE 4096

struct rig {
    struct fake_tracefs t;
    struct tracefs fs;
    struct events ev;
    struct fake_sink sink;
    struct bundle b;
    uint64_t filter[1024];
};

struct builder {
    uint8_t *b;
    size_t n;
};

void rig_init(struct rig *r);
void rig_ready(struct rig *r);
const struct events_event *rig_want(struct rig *r, const char *group, const char *name);
void rig_fini(struct rig *r);
void rig_batch(struct rig *r, uint8_t (*pages)[PAGE], unsigned n);
struct bytes_view rig_bundle(const struct rig *r, unsigned packet);
struct builder rig_page(uint8_t *b, uint64_t ts, bool lost);
void rig_page_size(struct builder *p, uint32_t size);
void rig_page_done(struct builder *p);
void rig_record(struct builder *p, uint32_t delta, const void *rec, size_t len);
void rig_common(uint8_t *rec, uint16_t id, int32_t pid);
void rig_print(struct builder *p, uint32_t delta, int32_t pid, const char *text);
void rig_expect(struct bytes_view v, const void *p, size_t n);

#endif
