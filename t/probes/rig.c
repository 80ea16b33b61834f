/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <string.h>

#include <criterion/criterion.h>

#include "protos/fieldnum.h"

void rig_init(struct rig *r)
{
    memset(r, 0, sizeof *r);
    fake_tracefs_init(&r->t);
    r->fs = fake_tracefs_open(&r->t);
}

/* Second half: after the test has put its event formats into place. */
void rig_ready(struct rig *r)
{
    events_init(&r->ev, &r->fs);
    fake_sink_init(&r->sink);
    bundle_init(&r->b, &r->ev, fake_sink_of(&r->sink), 8);
    r->b.filter = r->filter;
    r->b.filter_ids = 65536;
}

const struct events_event *rig_want(struct rig *r, const char *group, const char *name)
{
    const struct events_event *e = events_load(&r->ev, group, name, true);
    cr_assert_not_null(e, "%s/%s", group, name);
    r->filter[e->id / 64] |= 1ULL << e->id % 64;
    return e;
}

void rig_fini(struct rig *r)
{
    bundle_fini(&r->b);
    events_fini(&r->ev);
    fake_sink_fini(&r->sink);
    tracefs_close(&r->fs);
    fake_tracefs_fini(&r->t);
}

void rig_batch(struct rig *r, uint8_t (*pages)[PAGE], unsigned n)
{
    struct bundle_snapshot snap = {0};
    bundle_begin(&r->b, 1, &snap);
    for (unsigned i = 0; i < n; i++)
        bundle_page(&r->b, pages[i], PAGE);
    bundle_end(&r->b);
}

struct bytes_view rig_bundle(const struct rig *r, unsigned packet)
{
    return fake_msg(fake_view(&r->sink, packet), PBF_TracePacket_ftrace_events, 0);
}

/* ---- page builder ---- */

struct builder rig_page(uint8_t *b, uint64_t ts, bool lost)
{
    memset(b, 0, PAGE);
    memcpy(b, &ts, 8);
    if (lost)
        memset(b + 8, 0xff, 8);
    return (struct builder){b, 16};
}

void rig_page_size(struct builder *p, uint32_t size)
{
    uint32_t w;
    memcpy(&w, p->b + 8, 4);
    w = (w & 0x80000000U) | size;
    memcpy(p->b + 8, &w, 4);
}

void rig_page_done(struct builder *p)
{
    rig_page_size(p, (uint32_t)p->n - 16);
}

void rig_record(struct builder *p, uint32_t delta, const void *rec, size_t len)
{
    size_t padded = (len + 3) & ~(size_t)3;
    uint32_t head = delta << 5 | (padded / 4 <= 28 ? (uint32_t)padded / 4 : 0);
    memcpy(p->b + p->n, &head, 4);
    p->n += 4;
    if (padded / 4 > 28) {
        uint32_t l = (uint32_t)padded + 4;
        memcpy(p->b + p->n, &l, 4);
        p->n += 4;
    }
    memcpy(p->b + p->n, rec, len);
    p->n += padded;
}

void rig_common(uint8_t *rec, uint16_t id, int32_t pid)
{
    memcpy(rec, &id, 2);
    rec[2] = 1;
    memcpy(rec + 4, &pid, 4);
}

void rig_print(struct builder *p, uint32_t delta, int32_t pid, const char *text)
{
    uint8_t rec[256] = {0};
    rig_common(rec, 5, pid);
    memcpy(rec + 16, text, strlen(text));
    rig_record(p, delta, rec, 16 + strlen(text) + 1);
}

void rig_expect(struct bytes_view v, const void *p, size_t n)
{
    cr_assert_eq(v.n, n, "length %zu, want %zu", v.n, n);
    cr_assert_arr_eq(v.p, p, n);
}
